//! Which calibration rows are judged together: a bound that easy domains earn must not let out the
//! replies of hard ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::Domain;
use crate::gate::threshold::{Outcome, Promise, Threshold};

/// Where replies begin to go out by themselves, by domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Of the domains without one of their own. `None`: nothing of them goes out by itself.
    #[serde(rename = "threshold")]
    pub common: Option<Threshold>,
    /// Where a domain's labels suffice to judge it alone; `None`: they speak against it, and nothing
    /// of it goes out by itself.
    #[serde(default)]
    pub by_domain: BTreeMap<Domain, Option<Threshold>>,
}

impl Thresholds {
    /// A domain's own threshold, or the one of all that have none.
    pub fn of(&self, domain: Domain) -> Option<Threshold> {
        self.by_domain.get(&domain).copied().unwrap_or(self.common)
    }

    /// Those that let something out.
    pub fn open(&self) -> impl Iterator<Item = &Threshold> {
        self.by_domain.values().flatten().chain(&self.common)
    }
}

/// Calibration rows by what is judged together.
pub struct Strata {
    promise: Promise,
    /// Domains with rows enough to be judged alone.
    alone: BTreeMap<Domain, Vec<Outcome>>,
    /// Of all other domains.
    rest: Vec<Outcome>,
}

impl Strata {
    /// Domains with twice the [`Promise::rows_needed`] stand alone.
    pub fn of(rows: impl Iterator<Item = (Domain, Outcome)>, promise: Promise) -> Self {
        let fewest = promise.rows_needed().map_or(usize::MAX, |needed| 2 * needed);
        let mut alone: BTreeMap<Domain, Vec<Outcome>> = BTreeMap::new();
        for (domain, outcome) in rows {
            alone.entry(domain).or_default().push(outcome);
        }
        let few = alone.extract_if(.., |_, rows| rows.len() < fewest);
        let rest = few.flat_map(|(_, rows)| rows).collect();
        Self { promise, alone, rest }
    }

    /// Judges each stratum by its own rows. All bounds hold at once with the promised confidence,
    /// since each is given an equal share of δ (Bonferroni). Domains that no row speaks of are closed
    /// where others are judged alone.
    pub fn thresholds(
        &self,
        judge: impl Fn(&[Outcome], Promise) -> Option<Threshold>,
    ) -> Thresholds {
        let strata = self.alone.len() + usize::from(!self.rest.is_empty());
        let confidence = 1.0 - (1.0 - self.promise.confidence) / strata.max(1) as f64;
        let each = Promise { confidence, ..self.promise };
        let unknown = self.rest.is_empty() && !self.alone.is_empty();
        Thresholds {
            common: if unknown { None } else { judge(&self.rest, each) },
            by_domain: self.alone.iter().map(|(d, rows)| (*d, judge(rows, each))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::threshold;

    fn rows(domain: Domain, n: usize, wrong: usize) -> impl Iterator<Item = (Domain, Outcome)> {
        (0..n).map(move |at| (domain, Outcome { confidence: 0.9, correct: at >= wrong }))
    }

    #[test]
    fn an_easy_domain_lends_its_rows_to_no_other() {
        let promise = Promise { alpha: 0.05, confidence: 0.95 };
        let judge = |rows: &[Outcome], each| threshold::select(rows, each, None);
        let all = rows(Domain::Finance, 400, 0).chain(rows(Domain::Medical, 200, 20)).chain(rows(
            Domain::General,
            30,
            0,
        ));
        let found = Strata::of(all, promise).thresholds(judge);
        let finance = found.of(Domain::Finance).unwrap();
        assert!(finance.promised && finance.rows == 400 && finance.confidence > 0.98);
        assert_eq!(found.of(Domain::Medical), None, "a tenth is wrong");
        assert_eq!(found.of(Domain::General), None, "thirty rows show nothing");
        assert_eq!(found.open().count(), 1);
    }

    #[test]
    fn one_domain_keeps_all_of_delta_and_opens_no_other() {
        let promise = Promise { alpha: 0.05, confidence: 0.95 };
        let judge = |rows: &[Outcome], each| threshold::select(rows, each, None);
        let found = Strata::of(rows(Domain::General, 300, 3), promise).thresholds(judge);
        assert_eq!(found.of(Domain::General).unwrap().confidence, 0.95);
        assert_eq!(found.of(Domain::Finance), None, "no row speaks of it");
        let cold = Strata::of(std::iter::empty(), promise);
        let opens = |_: &[Outcome], _| found.of(Domain::General);
        assert!(cold.thresholds(opens).of(Domain::Finance).is_some(), "nor of anything");
    }
}
