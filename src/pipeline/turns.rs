//! Lines of waiting work, one per customer: one after another within a line, many lines at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::domain::message::{AccountName, Inbound, Platform};

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

/// Work of one kind, waiting and under way.
pub struct Turns<J> {
    state: Mutex<State<J>>,
    moved: Condvar,
}

struct State<J> {
    lines: HashMap<Customer, Line<J>>,
    /// Customers whose first job can be taken, longest waiting first.
    ready: VecDeque<Customer>,
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
        let state =
            State { lines: HashMap::new(), ready: VecDeque::new(), waiting: 0, closed: false };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }
}

impl<J> Turns<J> {
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
        let mut state = self.lock();
        state.waiting += 1;
        state.lines.entry(customer.clone()).or_default().jobs.push_back(job);
        state.make_ready(customer);
        self.moved.notify_all();
    }

    /// Jobs that nobody has begun.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// The next job, and its line for as long as the place is held; `None` once it is closed.
    pub fn next(&self) -> Option<(J, Place<'_, J>)> {
        let idle = |state: &mut State<J>| !state.closed && state.ready.is_empty();
        let state = self.moved.wait_while(self.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let customer = state.ready.pop_front()?;
        let line = state.lines.get_mut(&customer)?;
        let job = line.jobs.pop_front()?;
        (line.working, line.ready) = (true, false);
        state.waiting -= 1;
        Some((job, Place { turns: self, customer }))
    }

    /// Nobody gets another job.
    pub fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> State<J> {
    /// Ready exactly once, and forgotten when there is nothing left to remember.
    fn make_ready(&mut self, customer: &Customer) {
        let Some(line) = self.lines.get_mut(customer) else { return };
        if line.working || line.ready {
            return;
        }
        if !line.jobs.is_empty() {
            line.ready = true;
            self.ready.push_back(customer.clone());
        } else if !line.accepting {
            self.lines.remove(customer);
        }
    }
}

/// A line whose job is under way; dropping it lets the next one in.
pub struct Place<'a, J> {
    turns: &'a Turns<J>,
    customer: Customer,
}

impl<J> Drop for Place<'_, J> {
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
struct Accepting<'a, J> {
    turns: &'a Turns<J>,
    customer: Customer,
}

impl<'a, J> Accepting<'a, J> {
    fn begin(turns: &'a Turns<J>, customer: &Customer) -> Self {
        let taken =
            |state: &mut State<J>| state.lines.get(customer).is_some_and(|line| line.accepting);
        let state = turns.moved.wait_while(turns.lock(), taken);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.lines.entry(customer.clone()).or_default().accepting = true;
        Self { turns, customer: customer.clone() }
    }
}

impl<J> Drop for Accepting<'_, J> {
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

    use super::*;

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
        assert_eq!((first, second, turns.waiting()), (1, 3, 1), "anna's second has to wait");
        drop(other);
        drop(place);
        let (third, place) = turns.next().unwrap();
        assert_eq!(third, 2);
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
        let worked: Vec<u64> = (0..8).map(|_| turns.next().unwrap().0).collect();
        assert_eq!(worked, (0..8).collect::<Vec<_>>());
    }
}
