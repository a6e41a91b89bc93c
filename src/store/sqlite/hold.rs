//! Who has the database file: any number of users at once, or one that puts another in its place; of
//! the users, one service. SQLite's own locks guard its pages, not its name.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Kept as long as the file is used; the kernel lets go of it when the process dies.
pub struct Hold {
    _lock: File,
}

impl Hold {
    /// To read and write what lies at `store`.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] while another process holds it alone.
    pub fn shared(store: &Path) -> Result<Self, StoreError> {
        let lock = open(store, ".lock")?;
        match lock.try_lock_shared() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Replaced(store.to_owned())),
            Err(TryLockError::Error(e)) => Err(unavailable(store, &e)),
        }
    }

    /// To put another file in the place of what lies at `store`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while anybody uses it.
    pub fn sole(store: &Path) -> Result<Self, StoreError> {
        let lock = open(store, ".lock")?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(store.to_owned())),
            Err(TryLockError::Error(e)) => Err(unavailable(store, &e)),
        }
    }

    /// To serve what lies at `store`: two services would send the same replies. Commands beside it go
    /// on working.
    ///
    /// # Errors
    /// [`StoreError::Served`] while another process does.
    pub fn serving(store: &Path) -> Result<Self, StoreError> {
        let lock = open(store, ".serving")?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Served(store.to_owned())),
            Err(TryLockError::Error(e)) => Err(unavailable(store, &e)),
        }
    }
}

/// A file beside the database, and the folder where there is none yet.
fn open(store: &Path, suffix: &str) -> Result<File, StoreError> {
    if let Some(parent) = store.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| unavailable(store, &e))?;
    }
    File::create(beside(store, suffix)).map_err(|e| unavailable(store, &e))
}

/// The path with something at its end: SQLite and we keep files beside a database so.
pub fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(store);
    name.push(suffix);
    name.into()
}

fn unavailable(store: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", store.display()))
}
