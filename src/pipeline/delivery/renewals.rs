//! Long-lived tokens that were renewed: kept in a file beside the store, since the configured one is no
//! good any more. It is readable for its owner only, and no part of a backup.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::base::digest::sha256_hex;
use crate::base::file::write_atomic;
use crate::domain::message::AccountName;

pub struct Renewals {
    file: PathBuf,
    /// One writer at a time.
    writing: Mutex<()>,
}

/// By account.
type Kept = BTreeMap<String, Renewed>;

#[derive(Serialize, Deserialize)]
struct Renewed {
    /// Digest of the configured token that it took the place of: a newly configured one counts.
    from: String,
    token: String,
}

impl Renewals {
    pub fn at(file: PathBuf) -> Self {
        Self { file, writing: Mutex::default() }
    }

    /// The token that is good now: the configured one, or what it was renewed to.
    pub fn current(&self, account: &AccountName, configured: &SecretString) -> SecretString {
        let renewed = self.read().remove(account.as_str());
        match renewed.filter(|renewed| renewed.from == digest(configured)) {
            Some(renewed) => renewed.token.into(),
            None => configured.clone(),
        }
    }

    /// # Errors
    /// When the file cannot be written: the token is lost at the next start.
    pub fn keep(
        &self,
        account: &AccountName,
        configured: &SecretString,
        token: &SecretString,
    ) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = self.read();
        let token = token.expose_secret().to_owned();
        kept.insert(account.as_str().to_owned(), Renewed { from: digest(configured), token });
        // A temporary file is its owner's only, and keeps that when it is renamed.
        write_atomic(&self.file, &serde_json::to_vec(&kept)?)
    }

    /// Nothing where there is no file, or none that can be read.
    fn read(&self) -> Kept {
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::new(),
            Err(error) => {
                tracing::error!(file = %self.file.display(), %error, "renewed tokens are lost");
                return Kept::new();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            tracing::error!(file = %self.file.display(), "renewed tokens are lost: no such JSON");
            Kept::new()
        })
    }
}

fn digest(token: &SecretString) -> String {
    sha256_hex(token.expose_secret().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_renewed_token_counts_until_another_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("huida.db.renewed");
        let (one, other) = (AccountName("a".into()), AccountName("b".into()));
        let current = |account, configured: &str| {
            let current = Renewals::at(file.clone()).current(account, &configured.into());
            current.expose_secret().to_owned()
        };
        assert_eq!(current(&one, "first"), "first");
        let renewals = Renewals::at(file.clone());
        renewals.keep(&one, &"first".into(), &"second".into()).unwrap();
        renewals.keep(&other, &"x".into(), &"y".into()).unwrap();
        assert_eq!([current(&one, "first"), current(&other, "x")], ["second", "y"]);
        assert_eq!(current(&one, "authorised anew"), "authorised anew");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(current(&one, "first"), "first");
    }
}
