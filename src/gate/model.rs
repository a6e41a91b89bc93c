//! The fitted gate: features to confidence, confidence to "may go out by itself".

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::Domain;
use crate::gate::calibrate::{Calibrator, Scored};
use crate::gate::drift::Usual;
use crate::gate::features::{Features, NAMES};
use crate::gate::input::Input;
use crate::gate::judge::Judge;
use crate::gate::logistic::{Logistic, Row};
use crate::gate::observation::{Counts, Kind, Leaves, Observation};
use crate::gate::reranker::Reranker;
use crate::gate::strata::{Strata, Thresholds};
use crate::gate::threshold::{self, Outcome, Promise, Unproven};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From the knowledge alone; nothing is promised.
    SelfCalibrated,
    /// From messages that people labelled.
    Labelled,
}

/// What the model was fitted for; with other knowledge or other weights it must be refitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub knowledge: String,
    pub embedder: String,
}

#[derive(Clone, Debug, Default)]
pub struct FitOptions {
    pub promise: Promise,
    pub fingerprint: Fingerprint,
}

/// Grouped by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Add similar questions to the knowledge, or labels.
    #[error(
        "the gate needs at least {MIN_OBSERVATIONS} observations of both kinds: {right} answered, {wrong} not"
    )]
    TooFewObservations { right: usize, wrong: usize },
    /// Set α and the confidence strictly between 0 and 1.
    #[error("alpha {alpha} and confidence {confidence} must lie strictly between 0 and 1")]
    BadPromise { alpha: f64, confidence: f64 },
    /// Fit the gate again.
    #[error("stored gate: {0}")]
    Unreadable(String),
}

/// A calibrated selective classifier for one knowledge base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateModel {
    version: u32,
    pub origin: Origin,
    pub fingerprint: Fingerprint,
    pub counts: Counts,
    pub promise: Promise,
    inputs: Vec<Input>,
    judge: Judge,
    /// Lists that every observation had; without one of them nothing is known of the message.
    required: Vec<String>,
    calibrator: Calibrator,
    /// Where the observations said that the promise would be easiest to show.
    #[serde(default)]
    pub start: Option<f32>,
    /// For approved answers, which the promise is about.
    #[serde(flatten)]
    pub thresholds: Thresholds,
    /// What a composed reply must reach as well; `None`: none goes out by itself.
    #[serde(default)]
    composed: Option<f32>,
    /// Share of the calibration messages that the thresholds admit; without any, of what the gate was
    /// fitted on.
    #[serde(default)]
    pub coverage: f64,
    /// What messages in service are compared with; `None` without labels enough.
    #[serde(default)]
    pub usual: Option<Usual>,
    /// What orders the candidates before they are judged, if that ranked labels better: the gate was
    /// fitted on its order, so the two are one.
    #[serde(default)]
    pub reranker: Option<Reranker>,
}

const VERSION: u32 = 2;
const MIN_OBSERVATIONS: usize = 20;
/// Fewer labels than this cannot carry weights for every feature.
pub const MIN_LABELS_FOR_ALL: usize = 150;
/// Features whose meaning carries over from phrasings left out to real messages. Tried on two
/// knowledge bases (63 and 100 entries): more features fit the phrasings better and messages worse.
const COLD_INPUTS: [&str; 4] = ["fused_top", "fused_margin", "dense_margin", "lists_agree"];
const LIST_MISSING: [&str; 3] = ["dense_missing", "lexical_missing", "head_missing"];
/// Phrasings left out are harder than messages, since the knowledge lost just what they match:
/// where they predicted this share of wrong replies, real messages showed about half of it. A
/// cold gate opens up to here, or to twice α if that is stricter.
const COLD_RISK: f64 = 0.07;
/// Share of α up to which labels open the gate while they are too few for a bound: heads that saw
/// fewer labels than the one that serves predict a little too much, and half of the time too little.
const UNPROVEN_SHARE: f64 = 0.9;

impl Promise {
    /// [`Promise::rows_needed`] of a promise that can be kept at all.
    pub fn check(self) -> Result<usize, GateError> {
        let Self { alpha, confidence } = self;
        self.rows_needed().ok_or(GateError::BadPromise { alpha, confidence })
    }
}

impl GateModel {
    /// Fits weights and calibrator on `observations`, thresholds on `calibration`: labelled rows
    /// that nothing else was fitted on.
    ///
    /// Thresholds are those of [`Strata`], from rows whose approved answer goes out. Composed replies
    /// need what approved ones need, and what no row of theirs speaks against.
    ///
    /// A calibration set that does not show the promise does not close the gate either, unless it
    /// speaks against it: the threshold is then taken from out-of-fold confidences of the
    /// observations, and not promised. Few rows must refute the promise there to close the gate;
    /// twice [`Promise::rows_needed`] are enough to be asked for its error share at least.
    pub fn fit(
        observations: &[Observation],
        calibration: &[Observation],
        options: &FitOptions,
    ) -> Result<Self, GateError> {
        let promise = options.promise;
        let rows_needed = promise.check()?;
        let counts = Counts::of(observations, calibration);
        let from_labels = counts.labelled >= MIN_LABELS_FOR_ALL;
        let used = observations;
        let right = used.iter().filter(|o| o.correct).count();
        let wrong = used.len() - right;
        if used.len() < MIN_OBSERVATIONS || right == 0 || wrong == 0 {
            return Err(GateError::TooFewObservations { right, wrong });
        }
        let names: &[&str] = if from_labels { &NAMES } else { &COLD_INPUTS };
        let fitted = Fitted::new(used, &counts, names);
        let mut model = Self {
            version: VERSION,
            origin: Origin::SelfCalibrated,
            fingerprint: options.fingerprint.clone(),
            counts,
            promise,
            inputs: fitted.inputs,
            judge: fitted.judge,
            required: required_lists(used),
            calibrator: fitted.calibrator,
            start: None,
            thresholds: Thresholds::default(),
            composed: None,
            coverage: 0.0,
            usual: None,
            reranker: None,
        };
        let unseen = model.outcomes(calibration);
        model.start =
            threshold::likeliest(&fitted.out_of_fold, &fitted.weights, unseen.len(), promise);
        model.usual = usual(calibration, &unseen);
        let rows = || calibration.iter().zip(unseen.iter().copied());
        let that = |leaves| rows().filter(move |(row, _)| row.leaves == leaves);
        let approved = that(Leaves::Approved).map(|(row, outcome)| (row.domain, outcome));
        let composed: Vec<Outcome> = that(Leaves::Composed).map(|(_, outcome)| outcome).collect();
        let decisive = unseen.len() >= 2 * rows_needed;
        let risk = if from_labels { UNPROVEN_SHARE * promise.alpha } else { cold_risk(promise) };
        let from = Unproven { seen: &fitted.out_of_fold, weights: &fitted.weights, risk };
        model.thresholds = Strata::of(approved, promise).thresholds(|rows, each| {
            threshold::select(rows, each, model.start)
                .or_else(|| threshold::unproven(&from, rows, promise))
        });
        model.composed = threshold::unproven(&from, &composed, promise).map(|t| t.value);
        model.coverage = if calibration.is_empty() {
            model.admitted(used.iter().zip(fitted.out_of_fold.iter().copied()))
        } else {
            model.admitted(rows())
        };
        if from_labels || decisive || model.promised() {
            model.origin = Origin::Labelled;
        }
        Ok(model)
    }

    /// A gate that lets nothing out, for knowledge too small to learn from: everything it finds is
    /// left to a person.
    pub fn closed(options: &FitOptions) -> Self {
        Self {
            version: VERSION,
            origin: Origin::SelfCalibrated,
            fingerprint: options.fingerprint.clone(),
            counts: Counts::default(),
            promise: options.promise,
            inputs: Vec::new(),
            judge: Judge::Sum(Logistic { bias: 0.0, weights: Vec::new() }),
            required: Vec::new(),
            calibrator: Calibrator::Platt { slope: 0.0, bias: 0.0 },
            start: None,
            thresholds: Thresholds::default(),
            composed: None,
            coverage: 0.0,
            usual: None,
            reranker: None,
        }
    }

    /// Calibrated probability that the best evidence answers the message, 0 to 1. Zero when a
    /// list is missing that was always there while the gate was fitted.
    pub fn confidence(&self, features: &Features) -> f32 {
        if self.required.iter().any(|name| features.get(name) != Some(0.0)) {
            return 0.0;
        }
        self.calibrator.probability(self.judge.score(&self.standardised(features))) as f32
    }

    fn standardised(&self, features: &Features) -> Vec<f64> {
        self.inputs.iter().map(|i| i.standardised(features)).collect()
    }

    /// True when a reply of this confidence, from evidence of this domain, may go out by itself.
    pub fn admits(&self, confidence: f32, domain: Domain, leaves: Leaves) -> bool {
        let reached = |least: Option<f32>| least.is_some_and(|least| confidence >= least);
        let approved = reached(self.thresholds.of(domain).map(|t| t.value));
        match leaves {
            Leaves::Approved => approved,
            Leaves::Composed => approved && reached(self.composed),
            Leaves::Never => false,
        }
    }

    /// Share of these rows that may go out by themselves.
    fn admitted<'a>(&self, rows: impl Iterator<Item = (&'a Observation, Outcome)>) -> f64 {
        let (mut admitted, mut all) = (0_usize, 0_usize);
        for (row, outcome) in rows {
            all += 1;
            admitted += usize::from(self.admits(outcome.confidence, row.domain, row.leaves));
        }
        admitted as f64 / all.max(1) as f64
    }

    /// The highest threshold of those that let anything out; `None` when nothing goes out by itself.
    pub fn strictest(&self) -> Option<f32> {
        self.thresholds.open().map(|threshold| threshold.value).max_by(f32::total_cmp)
    }

    /// True when the error bound was shown, on unseen labels, of all approved answers that may go out.
    pub fn promised(&self) -> bool {
        self.strictest().is_some() && self.thresholds.open().all(|t| t.promised)
    }

    /// True for the knowledge and the embedder that this model was fitted with.
    pub fn fits(&self, current: &Fingerprint) -> bool {
        self.fingerprint == *current
    }

    /// Signed contribution of each feature to the log-odds, largest first, for the trace.
    pub fn contributions(&self, features: &Features) -> Vec<(String, f64)> {
        let parts = self.judge.contributions(&self.standardised(features));
        let names = self.inputs.iter().map(|i| i.name.clone());
        let mut all: Vec<(String, f64)> = names.zip(parts).collect();
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        all
    }

    pub fn to_json(&self) -> Result<String, GateError> {
        serde_json::to_string_pretty(self).map_err(|e| GateError::Unreadable(e.to_string()))
    }

    /// Refuses another version and features this build does not have.
    pub fn from_json(text: &str) -> Result<Self, GateError> {
        let model: Self =
            serde_json::from_str(text).map_err(|e| GateError::Unreadable(e.to_string()))?;
        if model.version != VERSION {
            let reason = format!("version {} where {VERSION} is read", model.version);
            return Err(GateError::Unreadable(reason));
        }
        let sound = model.reranker.as_ref().is_none_or(Reranker::is_sound);
        if !sound || !model.judge.is_sound(model.inputs.len()) {
            return Err(GateError::Unreadable("its judge and its inputs do not fit".into()));
        }
        let names = model.inputs.iter().map(|i| &i.name).chain(&model.required);
        for name in names {
            if !NAMES.contains(&name.as_str()) {
                return Err(GateError::Unreadable(format!("unknown feature {name}")));
            }
        }
        Ok(model)
    }

    fn outcomes(&self, rows: &[Observation]) -> Vec<Outcome> {
        let of = |o: &Observation| Outcome {
            confidence: self.confidence(&o.features),
            correct: o.correct,
        };
        rows.iter().map(of).collect()
    }
}

/// Judge and calibrator, with what the observations look like to a model that has not seen them.
struct Fitted {
    inputs: Vec<Input>,
    judge: Judge,
    calibrator: Calibrator,
    out_of_fold: Vec<Outcome>,
    weights: Vec<f64>,
}

impl Fitted {
    fn new(observations: &[Observation], counts: &Counts, names: &[&str]) -> Self {
        let weights: Vec<f64> = observations.iter().map(|o| counts.weight(o.kind)).collect();
        let seen = || observations.iter().map(|o| &o.features).zip(weights.iter().copied());
        let inputs: Vec<Input> =
            names.iter().filter_map(|name| Input::standardise(name, seen())).collect();
        let row = |(o, w): (&Observation, &f64)| Row {
            x: inputs.iter().map(|i| i.standardised(&o.features)).collect(),
            target: f64::from(u8::from(o.correct)),
            weight: *w,
        };
        let rows: Vec<Row> = observations.iter().zip(&weights).map(row).collect();
        let (judge, scores) = Judge::choose(&rows);
        let scored: Vec<Scored> = scores
            .iter()
            .zip(observations.iter().zip(&weights))
            .map(|(s, (o, w))| Scored { score: *s, correct: o.correct, weight: *w })
            .collect();
        let calibrator = Calibrator::fit(&scored);
        let outcome = |s: &Scored| Outcome {
            confidence: calibrator.probability(s.score) as f32,
            correct: s.correct,
        };
        let out_of_fold = scored.iter().map(outcome).collect();
        Self { inputs, judge, calibrator, out_of_fold, weights }
    }
}

/// Of messages as they came: those whose entry was taken out were made up.
fn usual(calibration: &[Observation], outcomes: &[Outcome]) -> Option<Usual> {
    let came = calibration.iter().zip(outcomes).filter(|(row, _)| row.kind == Kind::Labelled);
    Usual::of(&came.map(|(_, outcome)| outcome.confidence).collect::<Vec<_>>())
}

fn required_lists(observations: &[Observation]) -> Vec<String> {
    let always = |name: &&str| observations.iter().all(|o| o.features.get(name) == Some(0.0));
    LIST_MISSING.iter().copied().filter(always).map(str::to_owned).collect()
}

fn cold_risk(promise: Promise) -> f64 {
    promise.alpha.max(COLD_RISK.min(2.0 * promise.alpha))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::Scores;
    use crate::gate::features::Facts;
    use crate::gate::tests_support::evidence;

    const GENERAL: Domain = Domain::General;
    const FACTS: Facts<'_> = Facts {
        question: "怎么申请退款呢请问",
        rewritten: false,
        head_outside: None,
        kin_outside: None,
    };

    /// Two candidates `margin` apart; `head` is the first one's probability.
    fn features(top: f32, margin: f32, head: Option<f32>) -> Features {
        let score = |fused: f32, head| Scores {
            fused,
            dense: Some(fused / 2.0),
            lexical: Some(fused / 2.0),
            head,
            ..Scores::default()
        };
        let rest = head.map(|h| (1.0 - h) / 2.0);
        let list = [evidence("a", score(top, head)), evidence("b", score(top - margin, rest))];
        Features::extract(&list, FACTS).expect("two candidates")
    }

    /// Deterministic, evenly spread in 0..1.
    fn spread(i: usize, step: f64) -> f32 {
        (i as f64 * step).fract() as f32
    }

    /// `n` rows that are right with a probability rising steeply with the margin.
    fn rows(n: usize, kind: Kind, head: bool) -> Vec<Observation> {
        (0..n)
            .map(|i| {
                let margin = spread(i, 0.618_034);
                let correct = spread(i, 0.324_718) < (margin * 4.0 - 0.5).clamp(0.0, 1.0);
                let top = 0.6 + margin / 3.0;
                let head = head.then_some(0.3 + margin * 0.69);
                Observation {
                    features: features(top, margin, head),
                    correct,
                    kind,
                    domain: GENERAL,
                    leaves: Leaves::Approved,
                }
            })
            .collect()
    }

    fn options(alpha: f64) -> FitOptions {
        let fingerprint = Fingerprint { knowledge: "k1".into(), embedder: "e1".into() };
        FitOptions { promise: Promise { alpha, confidence: 0.95 }, fingerprint }
    }

    fn cold() -> Vec<Observation> {
        let mut all = rows(240, Kind::LeftOut, false);
        let removed = |i: usize| Observation {
            features: features(0.5, spread(i, 0.618_034) / 8.0, None),
            correct: false,
            kind: Kind::EntryRemoved,
            domain: GENERAL,
            leaves: Leaves::Approved,
        };
        all.extend((0..240).map(removed));
        all
    }

    #[test]
    fn a_cold_gate_opens_without_a_promise() {
        let model = GateModel::fit(&cold(), &[], &options(0.03)).expect("enough rows");
        assert_eq!(model.origin, Origin::SelfCalibrated);
        let threshold = model.thresholds.common.expect("large margins are always right here");
        assert!(!threshold.promised && !model.promised());
        let sure = model.confidence(&features(0.93, 0.95, None));
        let unsure = model.confidence(&features(0.62, 0.05, None));
        assert!(
            model.admits(sure, GENERAL, Leaves::Approved)
                && !model.admits(unsure, GENERAL, Leaves::Approved),
            "{sure} {unsure}"
        );
    }

    #[test]
    fn labels_bring_the_promise() {
        let fit = rows(600, Kind::Labelled, true);
        let model = GateModel::fit(&fit, &rows(500, Kind::Labelled, true), &options(0.05))
            .expect("enough rows");
        assert_eq!(model.origin, Origin::Labelled);
        assert!(model.promised());
        assert_eq!(model.counts.calibration, 500);
        let used = model.contributions(&features(0.9, 0.9, Some(0.9)));
        assert!(used.iter().any(|(name, _)| name == "head_log_odds"));
    }

    #[test]
    fn a_few_labels_neither_promise_nor_close_unless_they_refute() {
        let calibration = rows(60, Kind::Labelled, false);
        let agreeing = GateModel::fit(&cold(), &calibration, &options(0.03)).expect("enough");
        assert!(agreeing.thresholds.common.is_some_and(|t| !t.promised));
        let mut contrary = calibration;
        contrary.iter_mut().for_each(|o| o.correct = false);
        let closed = GateModel::fit(&cold(), &contrary, &options(0.03)).expect("enough");
        assert_eq!(closed.thresholds.common, None);
        assert!(!closed.admits(1.0, GENERAL, Leaves::Approved));
    }

    #[test]
    fn many_labels_that_miss_the_bound_close_the_gate() {
        let mut bad = rows(500, Kind::Labelled, false);
        for (i, row) in bad.iter_mut().enumerate() {
            row.correct = i % 2 == 0;
        }
        let model = GateModel::fit(&cold(), &bad, &options(0.03)).expect("enough");
        assert_eq!((model.origin, model.thresholds.common), (Origin::Labelled, None));
    }

    #[test]
    fn a_domain_with_labels_enough_has_a_threshold_of_its_own() {
        let fit = rows(600, Kind::Labelled, true);
        let mut calibration = rows(500, Kind::Labelled, true);
        // Finance is always right, general is as the rows are, medicine has a handful.
        for (i, row) in calibration.iter_mut().enumerate() {
            row.domain = if i % 2 == 0 { Domain::Finance } else { Domain::General };
            row.correct |= row.domain == Domain::Finance;
        }
        calibration[0].domain = Domain::Medical;
        let model = GateModel::fit(&fit, &calibration, &options(0.05)).expect("enough rows");
        let value = |domain| model.thresholds.of(domain).map(|t| t.value);
        assert!(
            value(Domain::Finance) < value(Domain::General),
            "{:?}",
            model.thresholds.by_domain
        );
        assert!(!model.thresholds.by_domain.contains_key(&Domain::Medical));
        let confidence = model.thresholds.of(Domain::Finance).map(|t| t.confidence);
        assert!(confidence > Some(0.98), "three bounds share what one may fail: {confidence:?}");
        assert!(!model.promised(), "one row of medicine shows nothing");
        let text = model.to_json().expect("serialisable");
        let back = GateModel::from_json(&text).expect("own output");
        let kept = back.thresholds.of(Domain::Finance).map(|t| t.value);
        assert_eq!(kept, value(Domain::Finance));
    }

    #[test]
    fn a_domain_whose_own_labels_refute_the_promise_is_closed() {
        let fit = rows(600, Kind::Labelled, true);
        let mut calibration = rows(600, Kind::Labelled, true);
        // Finance is always right; of medicine the surest are wrong as often as the others.
        for (i, row) in calibration.iter_mut().enumerate() {
            row.domain = if i % 3 == 0 { Domain::Medical } else { Domain::Finance };
            row.correct = row.domain == Domain::Finance || i % 2 == 0;
        }
        let model = GateModel::fit(&fit, &calibration, &options(0.05)).expect("enough rows");
        assert!(
            model.admits(1.0, Domain::Finance, Leaves::Approved)
                && !model.admits(1.0, Domain::Medical, Leaves::Approved)
        );
        assert!(!model.admits(1.0, GENERAL, Leaves::Approved), "no label speaks of it");
        assert!(model.promised());
        assert!((0.5..0.67).contains(&model.coverage), "a third is closed: {}", model.coverage);
        let text = model.to_json().expect("serialisable");
        let back = GateModel::from_json(&text).expect("own output");
        assert!(!back.admits(1.0, Domain::Medical, Leaves::Approved), "closed stays closed");
    }

    #[test]
    fn composed_replies_need_what_approved_ones_need_and_nothing_against_them() {
        let fit = rows(600, Kind::Labelled, true);
        let mut calibration = rows(500, Kind::Labelled, true);
        let sure = |model: &GateModel, leaves| model.admits(1.0, GENERAL, leaves);
        let model = GateModel::fit(&fit, &calibration, &options(0.05)).expect("enough rows");
        assert!(sure(&model, Leaves::Approved) && sure(&model, Leaves::Composed));
        assert!(!sure(&model, Leaves::Never));
        let refuting = calibration.iter().take(60).map(|row| Observation {
            leaves: Leaves::Composed,
            correct: false,
            ..*row
        });
        let refuting: Vec<Observation> = refuting.collect();
        calibration.extend(refuting);
        let model = GateModel::fit(&fit, &calibration, &options(0.05)).expect("enough rows");
        assert!(
            sure(&model, Leaves::Approved) && model.promised(),
            "the promise is not about them"
        );
        assert!(!sure(&model, Leaves::Composed));
    }

    #[test]
    fn a_list_that_was_always_there_is_missed() {
        let model = GateModel::fit(&cold(), &[], &options(0.03)).expect("enough rows");
        let list = [evidence("a", Scores { fused: 0.95, lexical: Some(0.9), ..Scores::default() })];
        let blind = Features::extract(&list, FACTS).expect("one candidate");
        assert_eq!(model.confidence(&blind), 0.0);
    }

    #[test]
    fn one_sided_or_few_observations_are_refused() {
        let right: Vec<Observation> =
            rows(100, Kind::LeftOut, false).into_iter().filter(|o| o.correct).collect();
        for few in [&right[..], &rows(10, Kind::LeftOut, false), &[]] {
            let made = GateModel::fit(few, &[], &options(0.03));
            assert!(matches!(made, Err(GateError::TooFewObservations { .. })));
        }
        let made = GateModel::fit(&cold(), &[], &options(0.0));
        assert!(matches!(made, Err(GateError::BadPromise { .. })));
    }

    #[test]
    fn json_round_trip_and_refusals() {
        let model = GateModel::fit(&cold(), &[], &options(0.03)).expect("enough rows");
        let text = model.to_json().expect("finite numbers");
        let back = GateModel::from_json(&text).expect("own output");
        let probe = features(0.8, 0.4, None);
        assert_eq!(back.confidence(&probe), model.confidence(&probe));
        assert!(back.fits(&model.fingerprint) && !back.fits(&Fingerprint::default()));
        for broken in [
            text.replacen("\"version\": 2", "\"version\": 1", 1),
            text.replacen("fused_margin", "fused_nothing", 1),
            "{}".to_owned(),
        ] {
            assert!(matches!(GateModel::from_json(&broken), Err(GateError::Unreadable(_))));
        }
    }
}
