//! Signatures and message encryption as the WeChat family does them, read from the documents alone.
//!
//! developers.weixin.qq.com, "message encryption": AES-256-CBC under the first 16 bytes of the key,
//! `random(16) ‖ length(4, big-endian) ‖ message ‖ receiver`, padded to a multiple of 32.

use aes::Aes256;
use aes::cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use super::{Fault, SimulateError};
use crate::base::digest::hex;

/// What the console shows may carry bits that the key does not use.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);
const BLOCK: usize = 16;
const PADDED_TO: usize = 32;
/// Random bytes and length before the message.
const HEAD: usize = 20;

/// SHA-1 over the parts, sorted and joined, in lower-case hex.
pub fn signature(parts: &[&str]) -> String {
    let mut parts = parts.to_vec();
    parts.sort_unstable();
    hex(&Sha1::digest(parts.concat()))
}

/// `count` random bytes in hex.
///
/// # Errors
/// When the operating system gives none.
pub fn nonce(count: usize) -> Result<String, Fault> {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).map_err(|e| Fault::new(format!("no random bytes: {e}")))?;
    Ok(hex(&bytes))
}

/// One account's key, and whom its messages are meant for.
pub struct Seal {
    key: [u8; 32],
    receiver: String,
}

impl Seal {
    /// # Errors
    /// When the key is not the 43 characters that consoles show.
    pub fn new(encoding_aes_key: &str, receiver: &str) -> Result<Self, SimulateError> {
        let decoded = LENIENT.decode(format!("{encoding_aes_key}=")).ok();
        let key = decoded.and_then(|bytes| bytes.try_into().ok());
        let bad = || SimulateError::Input("encoding_aes_key must be 43 base64 characters".into());
        Ok(Self { key: key.ok_or_else(bad)?, receiver: receiver.to_owned() })
    }

    fn iv(&self) -> Block<Aes256> {
        let mut iv = Block::<Aes256>::default();
        iv.copy_from_slice(&self.key[..BLOCK]);
        iv
    }

    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn encrypt(&self, message: &[u8]) -> Result<String, Fault> {
        let mut plain = vec![0; BLOCK];
        getrandom::fill(&mut plain).map_err(|e| Fault::new(format!("no random bytes: {e}")))?;
        let length = u32::try_from(message.len()).map_err(|_| Fault::new("message too long"))?;
        plain.extend(length.to_be_bytes());
        plain.extend(message);
        plain.extend(self.receiver.as_bytes());
        let pad = PADDED_TO - plain.len() % PADDED_TO;
        plain.extend(std::iter::repeat_n(pad as u8, pad));
        let mut cipher = cbc::Encryptor::<Aes256>::new(&self.key.into(), &self.iv());
        for chunk in plain.chunks_exact_mut(BLOCK) {
            let mut block = Block::<Aes256>::default();
            block.copy_from_slice(chunk);
            cipher.encrypt_block(&mut block);
            chunk.copy_from_slice(&block);
        }
        Ok(STANDARD.encode(plain))
    }

    /// # Errors
    /// What is wrong with the text, as a platform would find it.
    pub fn decrypt(&self, encrypted: &str) -> Result<Vec<u8>, Fault> {
        let mut plain =
            STANDARD.decode(encrypted).map_err(|_| Fault::new("Encrypt is no base64"))?;
        if plain.is_empty() || plain.len() % PADDED_TO != 0 {
            return Err(Fault::new("Encrypt is not padded to a multiple of 32"));
        }
        let mut cipher = cbc::Decryptor::<Aes256>::new(&self.key.into(), &self.iv());
        for chunk in plain.chunks_exact_mut(BLOCK) {
            let mut block = Block::<Aes256>::default();
            block.copy_from_slice(chunk);
            cipher.decrypt_block(&mut block);
            chunk.copy_from_slice(&block);
        }
        let pad = plain.last().copied().map_or(0, usize::from);
        let body = plain.len().checked_sub(pad).filter(|_| (1..=PADDED_TO).contains(&pad));
        let body = body.ok_or_else(|| Fault::new("the pad's length is out of range"))?;
        if plain[body..].iter().any(|&b| usize::from(b) != pad) {
            return Err(Fault::new("the pad's bytes differ"));
        }
        plain.truncate(body);
        let (head, rest) =
            plain.split_at_checked(HEAD).ok_or_else(|| Fault::new("no length before the text"))?;
        let length = head[BLOCK..].iter().fold(0_usize, |n, &b| (n << 8) | usize::from(b));
        let (message, receiver) =
            rest.split_at_checked(length).ok_or_else(|| Fault::new("the length is too large"))?;
        if receiver != self.receiver.as_bytes() {
            return Err(Fault::new("encrypted for another receiver"));
        }
        Ok(message.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

    #[test]
    fn what_is_sealed_is_opened_by_its_receiver_alone() {
        let seal = Seal::new(KEY, "wx1").unwrap();
        for length in 0..70 {
            let message = "长".repeat(length);
            let sealed = seal.encrypt(message.as_bytes()).unwrap();
            assert_eq!(seal.decrypt(&sealed).unwrap(), message.as_bytes());
            assert!(Seal::new(KEY, "wx2").unwrap().decrypt(&sealed).is_err());
        }
        assert!(seal.decrypt("AAAA").is_err() && seal.decrypt("?").is_err());
        assert!(Seal::new("short", "wx1").is_err());
    }

    /// sha1("abc"), as an SDK's own test publishes it.
    #[test]
    fn parts_are_sorted() {
        let known = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(signature(&["c", "a", "b"]), known);
    }
}
