//! The ledger against the store: what was lost, doubled, or came in the wrong order.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::ledger::{Book, Line, Sight};
use crate::domain::decision::Verdict;
use crate::domain::draft::DraftMode;
use crate::eval::percentile;
use crate::store::Fate;

/// Characters of a reply by which it is known again where a channel cut or joined it.
const HEAD_CHARS: usize = 24;
/// Lost, doubled and misplaced messages that are named.
const NAMED: usize = 10;

/// What the run showed; keys are what scripts read.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    pub sent: usize,
    /// Answered with 200: from then on the service's duty.
    pub accepted: usize,
    /// Refused or unanswered three times: the platform gives up and the service owes nothing.
    pub not_accepted: usize,
    /// Accepted ones whose reply the customer saw.
    pub answered: usize,
    /// Accepted ones that a later message of their customer was answered for as well.
    pub joined: usize,
    /// Accepted ones that wait for, or were taken by, a person.
    pub queued: usize,
    pub lost: usize,
    pub duplicated: usize,
    pub out_of_order: usize,
    /// Breaches of the protocol; the first are in `named`.
    pub faults: usize,
    pub ack_ms_p50: f64,
    pub ack_ms_p99: f64,
    /// Answered with an approved text as it stands.
    pub known: usize,
    pub known_ms_p99: f64,
    /// Those that the generator worked on.
    pub drafted: usize,
    pub drafted_ms_p95: f64,
    pub api_sends: usize,
    pub api_sends_failed: usize,
    /// What went wrong, in words, the first of each kind.
    pub named: Vec<String>,
}

impl Findings {
    pub fn clean(&self) -> bool {
        self.lost + self.duplicated + self.out_of_order + self.faults == 0
    }
}

/// Compares the book with what the store holds of the same account.
pub fn compare(book: &Book, fates: &[Fate]) -> Findings {
    let fates: HashMap<(&str, &str), &Fate> = fates
        .iter()
        .map(|fate| ((fate.sender.as_str(), platform_id(&fate.dedupe_key)), fate))
        .collect();
    let mut customers: BTreeMap<&str, Vec<Told<'_>>> = BTreeMap::new();
    for line in &book.lines {
        let fate = fates.get(&(line.customer.as_str(), line.id.to_string().as_str())).copied();
        customers.entry(&line.customer).or_default().push(Told { line, fate });
    }
    let mut count =
        Count { findings: Findings::default(), ack: vec![], known: vec![], drafted: vec![] };
    for (customer, told) in &customers {
        let sights = book.sights.get(*customer).map(Vec::as_slice).unwrap_or_default();
        count.customer(told, sights);
    }
    let mut findings = count.end();
    findings.faults = book.fault_count;
    findings.named.extend(book.faults.iter().take(NAMED).cloned());
    findings.api_sends = book.sends;
    findings.api_sends_failed = book.sends_failed;
    findings
}

/// What the platform calls the message: the last part of the key that tells retries apart.
fn platform_id(dedupe_key: &str) -> &str {
    dedupe_key.rsplit(':').next().unwrap_or(dedupe_key)
}

/// One message as the platform and as the store know it.
#[derive(Clone, Copy)]
struct Told<'a> {
    line: &'a Line,
    fate: Option<&'a Fate>,
}

impl Told<'_> {
    /// The words by which its reply is known again; `None` where nothing is said.
    fn reply(&self) -> Option<String> {
        let decided = self.fate?.decided.as_ref()?;
        Some(head(&decided.reply)).filter(|head| !head.is_empty())
    }

    /// The service must have said its reply: no person will.
    fn owes_a_reply(&self) -> bool {
        let decided = self.fate.and_then(|fate| fate.decided.as_ref());
        decided.is_some_and(|decided| !decided.for_person && !decided.reply.is_empty())
    }
}

fn head(text: &str) -> String {
    text.split_whitespace().collect::<String>().chars().take(HEAD_CHARS).collect()
}

struct Count {
    findings: Findings,
    ack: Vec<f64>,
    known: Vec<f64>,
    drafted: Vec<f64>,
}

impl Count {
    fn customer(&mut self, told: &[Told<'_>], sights: &[Sight]) {
        let sights: Vec<(String, f64)> = sights
            .iter()
            .map(|sight| (sight.text.split_whitespace().collect(), sight.at_ms))
            .collect();
        let saw = |reply: &str| -> Vec<f64> {
            sights.iter().filter(|(text, _)| text.contains(reply)).map(|(_, at)| *at).collect()
        };
        let mut by_reply: BTreeMap<String, Vec<&Told<'_>>> = BTreeMap::new();
        for one in told {
            self.one(one);
            if let Some(reply) = one.reply() {
                by_reply.entry(reply).or_default().push(one);
            }
        }
        let mut moments = Vec::new();
        for (reply, asked) in &by_reply {
            let seen = saw(reply);
            self.seen(reply, asked, &seen);
            if let ([one], [at]) = (asked.as_slice(), seen.as_slice()) {
                moments.push((one.line, *at));
            }
        }
        self.order(&moments);
    }

    fn name(&mut self, text: String) {
        if self.findings.named.len() < NAMED {
            self.findings.named.push(text);
        }
    }

    fn one(&mut self, told: &Told<'_>) {
        let line = told.line;
        self.findings.sent += 1;
        let Some(taken) = line.accepted else {
            self.findings.not_accepted += 1;
            return;
        };
        self.findings.accepted += 1;
        self.ack.push(taken.answered_ms - taken.begun_ms);
        let lost = match told.fate.map(|fate| fate.decided.as_ref()) {
            None => Some("is not in the store"),
            Some(None) => Some("was never decided"),
            Some(Some(decided)) if decided.for_person => {
                self.findings.queued += 1;
                None
            }
            Some(Some(decided)) if decided.joined => {
                self.findings.joined += 1;
                None
            }
            Some(Some(decided)) if decided.reply.is_empty() => Some("was decided without a word"),
            Some(Some(_)) => None,
        };
        if let Some(reason) = lost {
            self.findings.lost += 1;
            self.name(format!("lost: {} of {} {reason}", line.id, line.customer));
        }
    }

    /// Messages of one customer that got the same reply, and when it was seen.
    fn seen(&mut self, reply: &str, asked: &[&Told<'_>], seen: &[f64]) {
        let owed: Vec<_> = asked
            .iter()
            .filter(|told| told.line.accepted.is_some() && told.owes_a_reply())
            .collect();
        let missing = owed.len().saturating_sub(seen.len());
        self.findings.answered += owed.len() - missing;
        if missing > 0 {
            self.findings.lost += missing;
            let customer = &owed[0].line.customer;
            self.name(format!(
                "lost: {customer} never saw {reply:?} ({} of {} did)",
                seen.len(),
                owed.len()
            ));
        }
        let doubled = seen.len().saturating_sub(asked.len());
        if doubled > 0 {
            self.findings.duplicated += doubled;
            let customer = &asked[0].line.customer;
            self.name(format!("duplicated: {customer} saw {reply:?} {} times", seen.len()));
        }
        for (told, at) in asked.iter().zip(seen) {
            let Some(decided) = told.fate.and_then(|fate| fate.decided.as_ref()) else { continue };
            let ms = at - told.line.sent_ms;
            match decided.draft {
                Some(DraftMode::Composed) => self.drafted.push(ms),
                Some(DraftMode::Verbatim) if decided.verdict == Verdict::AutoReply => {
                    self.known.push(ms);
                }
                Some(DraftMode::Verbatim | DraftMode::Notice) | None => {}
            }
        }
    }

    /// A reply to a later message before that to an earlier one, where the earlier one was taken on
    /// before the later one was sent: otherwise nobody can tell which came first.
    fn order(&mut self, moments: &[(&Line, f64)]) {
        for (early, early_at) in moments {
            let Some(taken) = early.accepted else { continue };
            for (late, late_at) in moments {
                if taken.answered_ms < late.sent_ms && late_at < early_at {
                    self.findings.out_of_order += 1;
                    self.name(format!(
                        "out of order: {} before {} for {}",
                        late.id, early.id, early.customer
                    ));
                }
            }
        }
    }

    fn end(self) -> Findings {
        Findings {
            ack_ms_p50: percentile(&self.ack, 0.5),
            ack_ms_p99: percentile(&self.ack, 0.99),
            known: self.known.len(),
            known_ms_p99: percentile(&self.known, 0.99),
            drafted: self.drafted.len(),
            drafted_ms_p95: percentile(&self.drafted, 0.95),
            ..self.findings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::ledger::Taken;
    use crate::store::Decided;

    fn line(id: u64, at: f64) -> Line {
        let accepted = Some(Taken { begun_ms: at, answered_ms: at + 1.0 });
        Line { customer: "anna".into(), id, sent_ms: at, tries: 1, accepted }
    }

    fn fate(id: u64, reply: &str, for_person: bool) -> Fate {
        let verdict = if for_person { Verdict::Handoff } else { Verdict::AutoReply };
        let draft = Some(DraftMode::Verbatim);
        let decided =
            Some(Decided { verdict, reply: reply.into(), draft, for_person, joined: false });
        Fate { sender: "anna".into(), dedupe_key: format!("msg:{id}"), decided }
    }

    fn found(lines: Vec<Line>, fates: &[Fate], seen: &[(&str, f64)]) -> Findings {
        let seen = seen.iter().map(|(text, at_ms)| Sight { at_ms: *at_ms, text: (*text).into() });
        let sights = HashMap::from([("anna".to_owned(), seen.collect())]);
        compare(&Book { lines, sights, ..Book::default() }, fates)
    }

    #[test]
    fn each_ends_once() {
        let lines = vec![line(1, 0.0), line(2, 10.0)];
        let fates = [fate(1, "一", false), fate(2, "稍后由同事回复", true)];
        let good = found(lines.clone(), &fates, &[("一", 5.0), ("稍后由同事回复", 15.0)]);
        assert!(good.clean(), "{good:?}");
        assert_eq!((good.accepted, good.answered, good.queued, good.known), (2, 1, 1, 1));
        let mut joined = fate(1, "", false);
        joined.decided.as_mut().unwrap().joined = true;
        let fragment = found(lines.clone(), &[joined, fate(2, "二", false)], &[("二", 15.0)]);
        assert!(fragment.clean(), "{fragment:?}");
        assert_eq!((fragment.joined, fragment.answered), (1, 1));
        let merged = found(lines, &fates, &[("一\n\n稍后由同事回复", 15.0)]);
        assert!(merged.clean(), "{merged:?}");
    }

    #[test]
    fn what_goes_wrong_is_counted() {
        let two = || vec![line(1, 0.0), line(2, 10.0)];
        let fates = [fate(1, "一", false), fate(2, "二", false)];
        assert_eq!(found(two(), &fates[..1], &[("一", 5.0)]).lost, 1, "not in the store");
        assert_eq!(found(two(), &fates, &[("一", 5.0)]).lost, 1, "never seen");
        let twice = found(two(), &fates, &[("一", 5.0), ("二", 12.0), ("一", 13.0)]);
        assert_eq!((twice.lost, twice.duplicated), (0, 1));
        assert_eq!(found(two(), &fates, &[("二", 12.0), ("一", 13.0)]).out_of_order, 1);
        let refused = Line { accepted: None, ..line(3, 0.0) };
        let findings = found(vec![refused], &[], &[]);
        assert_eq!((findings.not_accepted, findings.lost), (1, 0));
    }
}
