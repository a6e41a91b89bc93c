//! Lines of waiting work, one per customer: one after another within a line, many lines at once;
//! fragments are taken together with what follows them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::clock::Deadline;
use crate::domain::message::{AccountName, Inbound, Platform};

/// More messages than these are not taken together.
pub const MOST_JOINED: usize = 8;

/// Whose conversation it is, known before the store has named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Customer {
    platform: Platform,
    account: AccountName,
    sender: String,
}

impl Customer {
    pub fn of(inbound: &Inbound) -> Self {
        let Inbound { platform, account, sender, .. } = inbound;
        Self { platform: *platform, account: account.clone(), sender: sender.clone() }
    }
}

/// How a job stands with its neighbours in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Is worked on by itself.
    Apart,
    /// Says all that it has to; is taken together with the fragments right before it.
    Whole,
    /// Waits for what follows until `until`, and a later fragment keeps it no longer than `at_most`.
    Fragment { until: Deadline, at_most: Deadline },
}

/// What a line must know of its jobs.
pub trait Stands {
    fn stand(&self) -> Stand;
}

/// Jobs that are taken together: fragments, oldest first, and what ended them.
#[derive(Debug, PartialEq)]
pub struct Group<J> {
    pub earlier: Vec<J>,
    pub last: J,
}

/// Work of one kind, waiting and under way.
pub struct Turns<J> {
    state: Mutex<State<J>>,
    moved: Condvar,
}

struct State<J> {
    lines: HashMap<Customer, Line<J>>,
    /// Customers whose first job can be taken, longest waiting first.
    ready: VecDeque<Customer>,
    /// Customers whose fragments wait for what follows.
    held: HashSet<Customer>,
    waiting: usize,
    closed: bool,
}

struct Line<J> {
    /// A message is being accepted; until it has its place no other one may be.
    accepting: bool,
    /// One of its jobs is under way.
    working: bool,
    /// Its customer stands among the ready ones.
    ready: bool,
    jobs: VecDeque<J>,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Self { accepting: false, working: false, ready: false, jobs: VecDeque::new() }
    }
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        let state = State {
            lines: HashMap::new(),
            ready: VecDeque::new(),
            held: HashSet::new(),
            waiting: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }
}

impl<J: Stands> Line<J> {
    /// How many of the first jobs are taken together, and until when they wait for more.
    fn group(&self) -> (usize, Option<Deadline>) {
        let mut wait: Option<(Deadline, Deadline)> = None;
        for (before, job) in self.jobs.iter().enumerate().take(MOST_JOINED) {
            match job.stand() {
                Stand::Apart => return (before.max(1), None),
                Stand::Whole => return (before + 1, None),
                Stand::Fragment { until, at_most } => {
                    let at_most = wait.map_or(at_most, |(_, earlier)| earlier.min(at_most));
                    wait = Some((until.min(at_most), at_most));
                }
            }
        }
        let full = self.jobs.len() >= MOST_JOINED;
        let until = wait.map(|(until, _)| until).filter(|_| !full);
        (self.jobs.len().min(MOST_JOINED), until)
    }
}

impl<J: Stands> Turns<J> {
    /// Accepts a message and puts its job in line, with no other message of the customer in
    /// between; `job` makes none where there is nothing to do.
    pub fn enter<T, E>(
        &self,
        customer: &Customer,
        accept: impl FnOnce() -> Result<T, E>,
        job: impl FnOnce(&T) -> Option<J>,
    ) -> Result<T, E> {
        let alone = Accepting::begin(self, customer);
        let accepted = accept()?;
        if let Some(job) = job(&accepted) {
            self.push(customer, job);
        }
        drop(alone);
        Ok(accepted)
    }

    /// Puts a job in line whose message is accepted already.
    pub fn push(&self, customer: &Customer, job: J) {
        self.push_all([(customer.clone(), job)]);
    }

    /// The same for several, of which nobody takes the first before the last is in line.
    pub fn push_all(&self, jobs: impl IntoIterator<Item = (Customer, J)>) {
        let mut state = self.lock();
        let mut moved = Vec::new();
        for (customer, job) in jobs {
            state.waiting += 1;
            state.lines.entry(customer.clone()).or_default().jobs.push_back(job);
            moved.push(customer);
        }
        for customer in &moved {
            state.make_ready(customer);
        }
        self.moved.notify_all();
    }

    /// Jobs that could be begun and nobody has: not fragments that wait for what follows.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        let held = state.held.iter().filter_map(|customer| state.lines.get(customer));
        state.waiting - held.map(|line| line.jobs.len()).sum::<usize>()
    }

    /// The next jobs, and their line for as long as the place is held; `None` once it is closed.
    pub fn next(&self) -> Option<(Group<J>, Place<'_, J>)> {
        let mut state = self.lock();
        while !state.closed {
            let soonest = state.release();
            if let Some(customer) = state.ready.pop_front() {
                let group = state.take(&customer)?;
                return Some((group, Place { turns: self, customer }));
            }
            state = match soonest {
                None => self.moved.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let woken = self.moved.wait_timeout(state, until.remaining());
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        None
    }

    /// Nobody gets another job.
    pub fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }
}

impl<J> Turns<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Stands> State<J> {
    /// Ready exactly once, and forgotten when there is nothing left to remember.
    fn make_ready(&mut self, customer: &Customer) {
        let Some(line) = self.lines.get_mut(customer) else { return };
        if line.working || line.ready {
            return;
        }
        if line.jobs.is_empty() {
            if !line.accepting {
                self.lines.remove(customer);
            }
        } else if line.group().1.is_some_and(|until| !until.passed()) {
            self.held.insert(customer.clone());
        } else {
            line.ready = true;
            self.held.remove(customer);
            self.ready.push_back(customer.clone());
        }
    }

    /// Makes those ready that have waited long enough; until when the others wait at least.
    fn release(&mut self) -> Option<Deadline> {
        let held: Vec<Customer> = self.held.iter().cloned().collect();
        for customer in &held {
            self.make_ready(customer);
        }
        self.held.iter().filter_map(|customer| self.lines.get(customer)?.group().1).min()
    }

    fn take(&mut self, customer: &Customer) -> Option<Group<J>> {
        let line = self.lines.get_mut(customer)?;
        let (count, _) = line.group();
        let mut earlier: Vec<J> = line.jobs.drain(..count).collect();
        let last = earlier.pop()?;
        (line.working, line.ready) = (true, false);
        self.waiting -= count;
        Some(Group { earlier, last })
    }
}

/// A line whose job is under way; dropping it lets the next one in.
pub struct Place<'a, J: Stands> {
    turns: &'a Turns<J>,
    customer: Customer,
}

impl<J: Stands> Drop for Place<'_, J> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(line) = state.lines.get_mut(&self.customer) {
            line.working = false;
        }
        state.make_ready(&self.customer);
        self.turns.moved.notify_all();
    }
}

/// As long as it lives, nobody else accepts a message of this customer.
struct Accepting<'a, J: Stands> {
    turns: &'a Turns<J>,
    customer: Customer,
}

impl<'a, J: Stands> Accepting<'a, J> {
    fn begin(turns: &'a Turns<J>, customer: &Customer) -> Self {
        let taken =
            |state: &mut State<J>| state.lines.get(customer).is_some_and(|line| line.accepting);
        let state = turns.moved.wait_while(turns.lock(), taken);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.lines.entry(customer.clone()).or_default().accepting = true;
        Self { turns, customer: customer.clone() }
    }
}

impl<J: Stands> Drop for Accepting<'_, J> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(line) = state.lines.get_mut(&self.customer) {
            line.accepting = false;
        }
        state.make_ready(&self.customer);
        self.turns.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    impl Stands for u64 {
        fn stand(&self) -> Stand {
            Stand::Apart
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Said(u64, Stand);

    impl Stands for Said {
        fn stand(&self) -> Stand {
            self.1
        }
    }

    fn alone<J>(last: J) -> Group<J> {
        Group { earlier: Vec::new(), last }
    }

    fn fragment(wait_ms: u64, at_most_ms: u64) -> Stand {
        let after = |ms| Deadline::after(Duration::from_millis(ms));
        Stand::Fragment { until: after(wait_ms), at_most: after(at_most_ms) }
    }

    fn customer(sender: &str) -> Customer {
        let account = AccountName("mp".into());
        Customer { platform: Platform::WechatMp, account, sender: sender.into() }
    }

    #[test]
    fn one_conversation_keeps_its_order_and_another_does_not_wait() {
        let turns = Turns::default();
        for (sender, job) in [("anna", 1), ("anna", 2), ("ben", 3)] {
            turns.push(&customer(sender), job);
        }
        let (first, place) = turns.next().unwrap();
        let (second, other) = turns.next().unwrap();
        assert_eq!((first, second, turns.waiting()), (alone(1), alone(3), 1), "anna's has to wait");
        drop(other);
        drop(place);
        let (third, place) = turns.next().unwrap();
        assert_eq!(third, alone(2));
        drop(place);
        let refused = turns.enter(&customer("anna"), || Err::<(), _>("away"), |()| Some(4));
        assert!(refused.is_err());
        assert!(turns.lock().lines.is_empty() && turns.lock().ready.is_empty());
        turns.close();
        assert!(turns.next().is_none());
    }

    #[test]
    fn messages_of_one_customer_are_worked_on_as_they_were_accepted() {
        let turns = Turns::default();
        let rows = AtomicU64::new(0);
        let accept = |nth: u64| {
            let accept = || {
                let row = rows.fetch_add(1, Ordering::SeqCst);
                // Those accepted first come back last, as a busy scheduler may have it.
                std::thread::sleep(Duration::from_millis(24 - 3 * nth.min(8)));
                Ok::<_, ()>(row)
            };
            turns.enter(&customer("anna"), accept, |row| Some(*row)).unwrap();
        };
        std::thread::scope(|scope| {
            for nth in 0..8 {
                let accept = &accept;
                scope.spawn(move || accept(nth));
            }
        });
        let worked: Vec<u64> = (0..8).map(|_| turns.next().unwrap().0.last).collect();
        assert_eq!(worked, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_fragment_waits_for_what_follows_and_nobody_else_does() {
        let turns = Turns::default();
        let held = Said(1, fragment(60_000, 60_000));
        turns.push(&customer("anna"), held);
        assert_eq!(turns.waiting(), 0, "it takes no room");
        let whole = Said(2, Stand::Whole);
        turns.push(&customer("ben"), whole);
        assert_eq!(turns.next().unwrap().0, alone(whole));
        turns.push(&customer("anna"), whole);
        let (group, place) = turns.next().unwrap();
        assert_eq!(group, Group { earlier: vec![held], last: whole });
        drop(place);
        assert!(turns.lock().lines.is_empty() && turns.lock().held.is_empty());
    }

    #[test]
    fn a_fragment_that_nothing_follows_is_taken_when_its_time_is_over() {
        let turns = Turns::default();
        let patient = Said(1, fragment(60_000, 40));
        let other = Said(2, fragment(60_000, 60_000));
        turns.push_all([(customer("anna"), patient), (customer("anna"), other)]);
        turns.push(&customer("ben"), Said(3, fragment(20, 60_000)));
        assert_eq!(turns.next().unwrap().0.last.0, 3);
        // The second keeps the first no longer than the first can wait.
        assert_eq!(turns.next().unwrap().0, Group { earlier: vec![patient], last: other });
    }

    proptest! {
        #[test]
        fn every_job_is_taken_once_in_order_and_only_fragments_with_others(
            kinds in proptest::collection::vec(0..3_u8, 0..40),
        ) {
            let turns = Turns::default();
            let stand = |kind| match kind {
                0 => Stand::Apart,
                1 => Stand::Whole,
                _ => fragment(0, 0),
            };
            let jobs: Vec<Said> =
                (0..).zip(&kinds).map(|(n, kind)| Said(n, stand(*kind))).collect();
            turns.push_all(jobs.iter().map(|job| (customer("anna"), *job)));
            let is_fragment = |job: &Said| matches!(job.1, Stand::Fragment { .. });
            let mut taken = Vec::new();
            while taken.len() < jobs.len() {
                let (Group { earlier, last }, _place) = turns.next().unwrap();
                prop_assert!(earlier.len() < MOST_JOINED);
                prop_assert!(earlier.iter().all(is_fragment));
                prop_assert!(earlier.is_empty() || last.1 != Stand::Apart);
                let full = earlier.len() + 1 == MOST_JOINED;
                taken.extend(earlier);
                // No group ends in a fragment that the next job would have ended.
                let next = jobs.get(taken.len() + 1).map(|job| job.1);
                let ended = !is_fragment(&last) || full;
                prop_assert!(ended || matches!(next, None | Some(Stand::Apart)));
                taken.push(last);
            }
            prop_assert_eq!(taken, jobs);
            prop_assert_eq!(turns.waiting(), 0);
        }
    }
}
