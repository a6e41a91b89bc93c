//! Is what comes in still like what the gate was fitted on, and as often right as it promised?

use serde::{Deserialize, Serialize};

use crate::gate::binomial;
use crate::gate::threshold::Promise;

/// How the confidences of the calibration messages were spread: shares between rising edges. The
/// confidence sums up all features, so a shift of those that matter shows in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    edges: Vec<f32>,
    /// One more than edges; they add up to 1.
    shares: Vec<f64>,
}

/// Why a gate should be trusted less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// Messages are unlike those it was fitted on.
    Shifted { index: f64, messages: usize },
    /// So many automatic replies that people looked at were wrong that the promise is refuted.
    Broken { wrong: usize, judged: usize },
}

/// Ranges of confidence with a tenth of the calibration messages each.
const RANGES: usize = 10;
/// Fewer messages, on either side, differ by chance alone.
const FEWEST: usize = 200;
/// Population stability index from which scorecards are commonly held to have shifted (Siddiqi,
/// Credit Risk Scorecards, 2006). By chance alone it is about (ranges − 1)(1/n + 1/m): .09 for 200
/// messages on both sides.
const SHIFT: f64 = 0.25;
/// What a range without any message counts as, so that its logarithm stays finite.
const LEAST_SHARE: f64 = 0.005;

impl Usual {
    /// `None` for too few messages to compare with.
    pub fn of(confidences: &[f32]) -> Option<Self> {
        if confidences.len() < FEWEST {
            return None;
        }
        let mut sorted = confidences.to_vec();
        sorted.sort_by(f32::total_cmp);
        let mut edges: Vec<f32> =
            (1..RANGES).map(|range| sorted[range * sorted.len() / RANGES]).collect();
        // Confidences crowd: two edges may fall together.
        edges.dedup();
        let shares = shares(&edges, confidences);
        Some(Self { edges, shares })
    }

    /// Σ (recent − usual) · ln(recent / usual) over the ranges; `None` for too few messages.
    pub fn shift(&self, recent: &[f32]) -> Option<Alarm> {
        if recent.len() < FEWEST {
            return None;
        }
        let pairs = shares(&self.edges, recent).into_iter().zip(&self.shares);
        let index: f64 = pairs
            .map(|(now, then)| (now.max(LEAST_SHARE), then.max(LEAST_SHARE)))
            .map(|(now, then)| (now - then) * (now / then).ln())
            .sum();
        (index >= SHIFT).then_some(Alarm::Shifted { index, messages: recent.len() })
    }
}

fn shares(edges: &[f32], confidences: &[f32]) -> Vec<f64> {
    let mut counts = vec![0_usize; edges.len() + 1];
    for confidence in confidences {
        counts[edges.partition_point(|edge| edge <= confidence)] += 1;
    }
    counts.iter().map(|count| *count as f64 / confidences.len() as f64).collect()
}

/// Whether replies that went out and were judged afterwards refute the promise.
pub fn broken(wrong: usize, judged: usize, promise: Promise) -> Option<Alarm> {
    let refuted = binomial::upper_tail(wrong, judged, promise.alpha) <= 1.0 - promise.confidence;
    (wrong > 0 && refuted).then_some(Alarm::Broken { wrong, judged })
}

/// The threshold at which a reply is half as likely to be wrong, as the confidence has it.
pub fn tightened(threshold: f32) -> f32 {
    1.0 - (1.0 - threshold) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(n: usize, power: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + 0.5) / n as f32).powf(power)).collect()
    }

    #[test]
    fn the_same_messages_are_no_alarm_and_others_are() {
        let usual = Usual::of(&spread(1_000, 0.3)).unwrap();
        assert_eq!(usual.shift(&spread(300, 0.3)), None);
        assert!(matches!(usual.shift(&spread(300, 1.0)), Some(Alarm::Shifted { .. })));
        assert_eq!(usual.shift(&spread(199, 1.0)), None, "too few to tell");
        assert!(Usual::of(&spread(199, 0.3)).is_none());
        // All alike: one edge, and whatever is below it is new.
        let one = Usual::of(&[0.9; 400]).unwrap();
        assert_eq!(one.shift(&[0.95; 400]), None);
        assert!(one.shift(&[0.2; 400]).is_some());
    }

    #[test]
    fn only_more_errors_than_chance_allows_break_a_promise() {
        let promise = Promise { alpha: 0.05, confidence: 0.95 };
        assert_eq!(broken(0, 0, promise), None);
        assert_eq!(broken(2, 20, promise), None, "that many happen in a quarter of all cases");
        assert_eq!(broken(4, 20, promise), Some(Alarm::Broken { wrong: 4, judged: 20 }));
    }

    #[test]
    fn tightening_halves_the_doubt() {
        assert!((tightened(0.8) - 0.9).abs() < 1e-6);
        assert!(tightened(tightened(0.8)) < 1.0);
    }
}
