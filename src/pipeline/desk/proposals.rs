//! Drafts for people: what a handed-over message may be answered with is composed after its customer was
//! told, one at a time, and added to the case.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::work::Inner;
use crate::domain::trace::Trace;
use crate::model::Control;

/// Messages whose drafts wait; of one more the person sees the evidence only.
const WAITING: usize = 16;

pub(super) struct Proposals {
    /// `None` once it is closed.
    wanted: Mutex<Option<SyncSender<Trace>>>,
    composing: Control,
}

impl Proposals {
    pub(super) fn open() -> (Self, Receiver<Trace>) {
        let (wanted, inbox) = sync_channel(WAITING);
        (Self { wanted: Mutex::new(Some(wanted)), composing: Control::default() }, inbox)
    }

    pub(super) fn want(&self, trace: &Trace) {
        if let Some(wanted) = self.lock().as_ref() {
            // Left out where many wait.
            let _ = wanted.try_send(trace.clone());
        }
    }

    /// Ends what is being composed as well.
    pub(super) fn close(&self) {
        self.composing.cancel();
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<SyncSender<Trace>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Until it is closed.
    pub(super) fn propose(&self, wanted: &Receiver<Trace>) {
        while let Ok(trace) = wanted.recv() {
            let compose = || self.parts.responder.proposal(&trace, &self.proposals.composing);
            let Ok(proposed) = catch_unwind(AssertUnwindSafe(compose)) else {
                tracing::error!(trace = %trace.id, "composing for a person panicked");
                continue;
            };
            let Some((draft, objections)) = proposed else { continue };
            if let Err(error) = self.parts.store.propose(&trace.id, &draft, &objections) {
                tracing::warn!(%error, "a draft for a person could not be written down");
            }
        }
    }
}
