//! A feature as what weighs it takes it: standardised by what was met while fitting.

use serde::{Deserialize, Serialize};

use crate::gate::features::{Features, NAMES};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Input {
    pub(super) name: String,
    mean: f64,
    scale: f64,
}

impl Input {
    /// A missing value stands at the mean: it neither raises nor lowers the score.
    pub(super) fn standardised(&self, features: &Features) -> f64 {
        features.get(&self.name).map_or(0.0, |v| (f64::from(v) - self.mean) / self.scale)
    }

    /// From features and how much each counts; `None` for one that never varies.
    pub(super) fn standardise<'a>(
        name: &str,
        seen: impl Iterator<Item = (&'a Features, f64)> + Clone,
    ) -> Option<Self> {
        let present = || {
            seen.clone()
                .filter_map(|(features, weight)| Some((f64::from(features.get(name)?), weight)))
        };
        let total: f64 = present().map(|(_, w)| w).sum();
        let mean = present().map(|(v, w)| v * w).sum::<f64>() / total;
        let variance = present().map(|(v, w)| w * (v - mean) * (v - mean)).sum::<f64>() / total;
        let scale = variance.sqrt();
        (variance > 1e-12).then(|| Self { name: name.to_owned(), mean, scale })
    }

    /// Whether this build has such a feature.
    pub(super) fn is_known(&self) -> bool {
        NAMES.contains(&self.name.as_str())
    }
}
