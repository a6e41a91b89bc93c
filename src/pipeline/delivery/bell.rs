//! Wakes delivery: something is due, or a customer should see that an answer is being written.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::message::AccountName;
use crate::domain::outgoing::Target;

/// Typing signs that wait to be sent; more are not worth the load.
const ERRANDS: usize = 64;

#[derive(Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    rang: Condvar,
}

#[derive(Default)]
struct Rung {
    rung: bool,
    typing: Vec<(AccountName, Target)>,
}

impl Bell {
    pub fn ring(&self) {
        self.lock().rung = true;
        self.rang.notify_all();
    }

    /// Asks for the sign that someone is writing; it may be left out.
    pub fn show_typing(&self, account: &AccountName, target: &Target) {
        let mut rung = self.lock();
        if rung.typing.len() < ERRANDS {
            rung.typing.push((account.clone(), target.clone()));
        }
        rung.rung = true;
        self.rang.notify_all();
    }

    /// Waits until it is rung, and no longer than that; returns the errands.
    pub(super) fn wait(&self, longest: Duration) -> Vec<(AccountName, Target)> {
        let silent = |rung: &mut Rung| !rung.rung;
        let waited = self.rang.wait_timeout_while(self.lock(), longest, silent);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        rung.rung = false;
        std::mem::take(&mut rung.typing)
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
