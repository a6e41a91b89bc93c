//! Word of whether what was written has reached the disk, for who goes on before it has.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::StoreError;

/// Clones hear of the same write.
#[derive(Clone, Debug, Default)]
pub struct Durable(Option<Arc<Write>>);

#[derive(Debug, Default)]
struct Write {
    /// `None` while it is under way; the reason of one that failed.
    ended: Mutex<Option<Result<(), String>>>,
    told: Condvar,
}

impl Durable {
    /// Of what was written before.
    pub fn already() -> Self {
        Self::default()
    }

    /// Of a write that begins, with the end that tells how it went.
    pub fn promised() -> (Self, Promise) {
        let write = Arc::new(Write::default());
        (Self(Some(Arc::clone(&write))), Promise(write))
    }

    /// Returns when it is on the disk.
    pub fn wait(&self) -> Result<(), StoreError> {
        let Some(write) = &self.0 else { return Ok(()) };
        let ended = write.told.wait_while(write.lock(), |ended| ended.is_none());
        read(&ended.unwrap_or_else(PoisonError::into_inner))
    }

    /// An error when it is known not to have reached the disk; does not wait.
    pub fn check(&self) -> Result<(), StoreError> {
        self.0.as_ref().map_or(Ok(()), |write| read(&write.lock()))
    }
}

/// The same word or silence about the same write.
impl PartialEq for Durable {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Write {
    fn lock(&self) -> MutexGuard<'_, Option<Result<(), String>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: Result<(), String>) {
        self.lock().get_or_insert(how);
        self.told.notify_all();
    }
}

fn read(ended: &Option<Result<(), String>>) -> Result<(), StoreError> {
    match ended {
        None | Some(Ok(())) => Ok(()),
        Some(Err(reason)) => Err(StoreError::Unavailable(reason.clone())),
    }
}

/// The writing side; dropped without a word, the write has failed.
#[derive(Debug)]
pub struct Promise(Arc<Write>);

impl Promise {
    pub fn keep(self, how: &Result<(), String>) {
        self.0.end(how.clone());
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.end(Err("the write was given up".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_hears_how_it_went() {
        assert!(Durable::already().wait().is_ok());
        let (durable, promise) = Durable::promised();
        assert!(durable.check().is_ok(), "nothing is known yet");
        let waiting = std::thread::spawn({
            let durable = durable.clone();
            move || durable.wait()
        });
        promise.keep(&Ok(()));
        assert!(waiting.join().unwrap().is_ok() && durable.wait().is_ok());
        let (lost, promise) = Durable::promised();
        drop(promise);
        assert!(lost.check().is_err() && lost.wait().is_err());
        assert!(durable != lost && durable == durable.clone());
    }
}
