//! Many customers at once: messages at random moments, now and then two in a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::driver::Driver;
use super::questions::Questions;
use super::{Said, What};
use crate::base::clock::Stopwatch;
use crate::base::random::SplitMix64;

/// Every so many messages one comes from somebody who has just written.
const AGAIN_EVERY: u64 = 6;
/// "Just": so many seconds ago.
const JUST: f64 = 0.5;
/// A customer comes back after about so many seconds.
const PAUSE: f64 = 20.0;

/// How much is sent, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Messages per second.
    pub rate: f64,
    pub lasting: Duration,
    /// Share of messages that ask for two things at once.
    pub drafted: f32,
    pub seed: u64,
}

/// Sends until the time is over and `busy` is false (chaos may take longer), and waits until the
/// last try has ended.
pub async fn run(driver: &Arc<Driver>, load: &Load, questions: &Questions, busy: &AtomicBool) {
    let (watch, mut random) = (Stopwatch::start(), SplitMix64::new(load.seed));
    let mut people = People::new(load.rate, driver.clock.now());
    let (mut due, mut tasks) = (0.0, JoinSet::new());
    while due < load.lasting.as_secs_f64() || busy.load(Ordering::SeqCst) {
        let ahead = due - watch.elapsed().as_secs_f64();
        tokio::time::sleep(Duration::try_from_secs_f64(ahead).unwrap_or_default()).await;
        let asks_two = random.unit() < load.drafted;
        let of = if asks_two { &questions.drafted } else { &questions.known };
        let said = people.next(of, driver.clock.now() / 1_000, &mut random);
        let driver = Arc::clone(driver);
        tasks.spawn(async move { driver.tell(&said).await });
        // Times between independent arrivals are exponentially distributed.
        due += -f64::from(1.0 - random.unit()).ln() / load.rate;
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

/// Who writes next, and what: nobody asks the same again, so that every reply tells what it is to.
struct People {
    number: u64,
    just: u64,
    next_id: u64,
    run: u64,
    asked: Vec<usize>,
}

impl People {
    fn new(rate: f64, now: i64) -> Self {
        let number = ((rate * PAUSE) as u64).max(4);
        let just = ((rate * JUST) as u64).clamp(1, number - 1);
        let run = now.unsigned_abs();
        // Time first, as platforms number messages.
        Self { number, just, next_id: run << 20, run, asked: vec![0; number as usize] }
    }

    fn next(&mut self, questions: &[String], created: i64, random: &mut SplitMix64) -> Said {
        self.next_id += 1;
        let nth = self.next_id - (self.run << 20);
        let back = if random.bits().is_multiple_of(AGAIN_EVERY) { self.just } else { 0 };
        let person = (nth + self.number - back) % self.number;
        let asked = &mut self.asked[person as usize];
        let text = questions[(person as usize * 31 + *asked) % questions.len()].clone();
        *asked += 1;
        let customer = format!("sim-{}-{person}", self.run);
        Said { customer, id: self.next_id, created, what: What::Text(text) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_asks_the_same_twice_and_no_id_comes_again() {
        let questions: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let (mut people, mut random) = (People::new(2.0, 1_700_000_000_000), SplitMix64::new(3));
        let said: Vec<Said> = (0..400).map(|_| people.next(&questions, 1, &mut random)).collect();
        let ids: BTreeSet<u64> = said.iter().map(|one| one.id).collect();
        assert_eq!(ids.len(), said.len());
        let asked: BTreeSet<_> =
            said.iter().map(|one| (&one.customer, format!("{:?}", one.what))).collect();
        assert_eq!(asked.len(), said.len());
    }
}
