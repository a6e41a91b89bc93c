//! A vault: bytes that only the holder of a key file can read, and only as whose they are.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use secrecy::{ExposeSecret, SecretBox};

/// Bytes of a key file.
pub const KEY_BYTES: usize = 32;
/// Bytes that sealing adds: the nonce before, the tag behind.
pub const SEAL_BYTES: usize = NONCE_LEN + 16;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Name another file, or mend what the system says.
    #[error("vault key {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// `chmod 600` it; if others have read it, make another.
    #[error("vault key {}: others may read it (mode {mode:03o}): chmod 600 it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// It is no key, or not all of it.
    #[error(
        "vault key {}: a key has {KEY_BYTES} bytes, this file has {found}: \
         `huida vault key FILE` makes one", path.display()
    )]
    Length { path: PathBuf, found: u64 },
}

/// No random bytes can be had, or the text is longer than a cipher takes.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be sealed")]
pub struct SealError;

struct Key(SecretBox<[u8; KEY_BYTES]>);

/// The key that seals, and one from before it whose seals can still be opened.
pub struct Vault {
    key: Key,
    previous: Option<Key>,
}

/// Makes a key in a file of its own that only its owner may read.
///
/// # Errors
/// Also where the file is there already: what a lost key sealed nobody can read again.
pub fn create_key(path: &Path) -> Result<(), KeyError> {
    let tell = |error| KeyError::File { path: path.to_owned(), error };
    let mut drawn = Ok(());
    let key = SecretBox::init_with_mut(|bytes: &mut [u8; KEY_BYTES]| {
        drawn = getrandom::fill(bytes);
    });
    drawn.map_err(|e| tell(io::Error::other(e.to_string())))?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(tell)?;
    file.write_all(key.expose_secret()).and_then(|()| file.sync_all()).map_err(tell)
}

impl Key {
    fn load(path: &Path) -> Result<Self, KeyError> {
        let tell = |error| KeyError::File { path: path.to_owned(), error };
        let mut file = File::open(path).map_err(tell)?;
        let found = file.metadata().map_err(tell)?;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        if found.len() != KEY_BYTES as u64 {
            return Err(KeyError::Length { path: path.to_owned(), found: found.len() });
        }
        let mut read = Ok(());
        let key = SecretBox::init_with_mut(|bytes: &mut [u8; KEY_BYTES]| {
            read = file.read_exact(bytes);
        });
        read.map_err(tell)?;
        Ok(Self(key))
    }

    fn cipher(&self) -> Result<LessSafeKey, Unspecified> {
        UnboundKey::new(&CHACHA20_POLY1305, self.0.expose_secret()).map(LessSafeKey::new)
    }

    fn open(&self, sealed: &[u8], owner: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let plain = self.cipher().ok()?.open_in_place(nonce, Aad::from(owner), &mut body).ok()?;
        Some(plain.to_vec())
    }
}

impl Vault {
    pub fn load(key: &Path, previous: Option<&Path>) -> Result<Self, KeyError> {
        Ok(Self { key: Key::load(key)?, previous: previous.map(Key::load).transpose()? })
    }

    /// ChaCha20-Poly1305 (RFC 8439): a nonce, then ciphertext and tag. `owner` is whose it is; it is
    /// not in the result. The nonce is random: 96 bits do for 2³² seals of one key, the bound that NIST
    /// SP 800-38D, §8.3, sets for random nonces of this length in GCM.
    pub fn seal(&self, plain: &[u8], owner: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError)?;
        let mut body = plain.to_vec();
        let cipher = self.key.cipher().map_err(|_| SealError)?;
        let unique = Nonce::assume_unique_for_key(nonce);
        cipher
            .seal_in_place_append_tag(unique, Aad::from(owner), &mut body)
            .map_err(|_| SealError)?;
        Ok([&nonce[..], &body].concat())
    }

    /// `None` where another key sealed it, where it is another's, or where it was changed.
    pub fn open(&self, sealed: &[u8], owner: &[u8]) -> Option<Vec<u8>> {
        let keys = [Some(&self.key), self.previous.as_ref()];
        keys.into_iter().flatten().find_map(|key| key.open(sealed, owner))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use proptest::prelude::*;

    use super::*;

    fn key_in(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        create_key(&path).unwrap();
        path
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = key_in(dir.path(), "key");
        let made = fs::read(&path).unwrap();
        assert_eq!(made.len(), KEY_BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create_key(&path).unwrap_err().to_string().contains("exists"));
        assert_eq!(fs::read(&path).unwrap(), made, "the first one stands");
        assert_ne!(fs::read(key_in(dir.path(), "other")).unwrap(), made);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = key_in(dir.path(), "key");
        let refused = |path: &Path| Vault::load(path, None).err().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o644] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = refused(&path);
            assert!(matches!(error, KeyError::Exposed { mode: found, .. } if found == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(Vault::load(&path, None).is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for length in [0, KEY_BYTES - 1, KEY_BYTES + 1] {
            fs::write(&path, vec![7; length]).unwrap();
            let error = refused(&path);
            assert!(matches!(error, KeyError::Length { found, .. } if found == length as u64));
        }
        let missing = refused(&dir.path().join("none"));
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[test]
    fn no_other_key_opens_and_the_previous_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| key_in(dir.path(), name));
        let sealed = Vault::load(&old, None).unwrap().seal(b"13800138000", b"anna").unwrap();
        assert_eq!(sealed.len(), 11 + SEAL_BYTES);
        assert_eq!(Vault::load(&new, None).unwrap().open(&sealed, b"anna"), None);
        let rotated = Vault::load(&new, Some(&old)).unwrap();
        assert_eq!(rotated.open(&sealed, b"anna").unwrap(), b"13800138000");
        let sealed = rotated.seal(b"1", b"anna").unwrap();
        assert!(Vault::load(&old, None).unwrap().open(&sealed, b"anna").is_none(), "the new seals");
    }

    #[test]
    fn the_same_is_never_sealed_to_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::load(&key_in(dir.path(), "key"), None).unwrap();
        let seal = || vault.seal(b"13800138000", b"anna").unwrap();
        assert_ne!(seal(), seal());
    }

    proptest! {
        #[test]
        fn only_what_was_sealed_is_opened_and_only_as_whose_it_is(
            plain in prop::collection::vec(any::<u8>(), 0..80),
            owner in prop::collection::vec(any::<u8>(), 0..20),
            other in prop::collection::vec(any::<u8>(), 0..20),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let vault = Vault::load(&key_in(dir.path(), "key"), None).unwrap();
            let sealed = vault.seal(&plain, &owner).unwrap();
            prop_assert_eq!(vault.open(&sealed, &owner), Some(plain));
            prop_assert_eq!(vault.open(&sealed, &other).is_some(), owner == other);
            let mut damaged = sealed.clone();
            damaged[at.index(sealed.len())] ^= 1 << bit;
            prop_assert_eq!(vault.open(&damaged, &owner), None);
            prop_assert_eq!(vault.open(&sealed[..at.index(sealed.len())], &owner), None);
        }
    }
}
