//! The platform's message encryption: AES-256-CBC with PKCS#7 to 32 bytes and a framed plaintext.
//!
//! `AESKey = base64(EncodingAESKey + "=")`, IV = its first 16 bytes, plaintext =
//! `random(16) ‖ length(4, big-endian, bytes) ‖ message ‖ receiveid`. The cipher itself proves
//! nothing about the sender: callers check `msg_signature` before they decrypt.

use std::fmt;

use aes::Aes256;
use aes::cipher::{Array, Block, BlockModeDecrypt, BlockModeEncrypt, Key, KeyIvInit};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use secrecy::{ExposeSecret, SecretBox, SecretString};

/// Bytes of random text before the length; they stand in for a fresh IV.
pub const RANDOM_BYTES: usize = 16;

const KEY_CHARS: usize = 43;
const KEY_BYTES: usize = 32;
const LENGTH_BYTES: usize = 4;
const CIPHER_BLOCK: usize = 16;
/// The platform pads to twice the cipher's block.
const PAD_BLOCK: usize = 32;

/// The 43rd character carries two bits more than the key needs and consoles do not clear them.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Why an encrypted text was not taken. `Unreadable` has no detail on purpose: which check failed
/// is what a padding oracle would ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("the encrypted part cannot be read with the configured keys")]
    Unreadable,
    /// It was encrypted with our key, but for another app id.
    #[error("the encrypted part is meant for another account")]
    NotForUs,
}

/// Which of an account's two keys; a reply is encrypted with the one that opened the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySlot {
    Current,
    Previous,
}

/// A decoded EncodingAESKey. Wiped from memory when dropped, never printed.
pub struct AesKey(SecretBox<[u8; KEY_BYTES]>);

impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesKey([REDACTED])")
    }
}

impl AesKey {
    /// Decodes the 43 characters shown in the console; `None` if they are not that.
    pub fn parse(encoding_aes_key: &SecretString) -> Option<Self> {
        let encoded = encoding_aes_key.expose_secret();
        if encoded.len() != KEY_CHARS {
            return None;
        }
        let decoded: SecretBox<Vec<u8>> =
            SecretBox::new(Box::new(KEY_BASE64.decode(encoded).ok()?));
        if decoded.expose_secret().len() != KEY_BYTES {
            return None;
        }
        Some(Self(SecretBox::init_with_mut(|key: &mut [u8; KEY_BYTES]| {
            key.copy_from_slice(decoded.expose_secret());
        })))
    }

    /// Encrypts `message` for `receiveid`; `random` must be fresh for every message
    /// (see [`random_block`]). A message is far below the 4 GiB that the length field can name.
    pub fn encrypt(&self, message: &[u8], receiveid: &str, random: [u8; RANDOM_BYTES]) -> String {
        let framed = RANDOM_BYTES + LENGTH_BYTES + message.len() + receiveid.len();
        let pad = PAD_BLOCK - framed % PAD_BLOCK;
        let mut buffer = Vec::with_capacity(framed + pad);
        buffer.extend_from_slice(&random);
        buffer.extend_from_slice(&(message.len() as u32).to_be_bytes());
        buffer.extend_from_slice(message);
        buffer.extend_from_slice(receiveid.as_bytes());
        buffer.resize(framed + pad, pad as u8);

        let mut cipher = cbc::Encryptor::<Aes256>::new(self.key(), &self.iv());
        let (blocks, _) = Array::slice_as_chunks_mut(&mut buffer);
        cipher.encrypt_blocks(blocks);
        STANDARD.encode(buffer)
    }

    /// Decrypts the text of an `Encrypt` field and checks every pad byte, the length bound and
    /// the receiveid.
    pub fn decrypt(&self, encrypted: &str, receiveid: &str) -> Result<Vec<u8>, CryptoError> {
        let mut buffer = STANDARD.decode(encrypted).map_err(|_| CryptoError::Unreadable)?;
        if buffer.is_empty() || !buffer.len().is_multiple_of(PAD_BLOCK) {
            return Err(CryptoError::Unreadable);
        }
        let mut cipher = cbc::Decryptor::<Aes256>::new(self.key(), &self.iv());
        let (blocks, _) = Array::slice_as_chunks_mut(&mut buffer);
        cipher.decrypt_blocks(blocks);

        let framed = unpad(&buffer).ok_or(CryptoError::Unreadable)?;
        let (message, owner) = unframe(framed).ok_or(CryptoError::Unreadable)?;
        if owner != receiveid.as_bytes() {
            return Err(CryptoError::NotForUs);
        }
        Ok(message.to_vec())
    }

    fn key(&self) -> &Key<Aes256> {
        self.0.expose_secret().into()
    }

    /// The platform takes the key's first block as the IV.
    fn iv(&self) -> Block<Aes256> {
        let mut iv = Block::<Aes256>::default();
        iv.copy_from_slice(&self.0.expose_secret()[..CIPHER_BLOCK]);
        iv
    }
}

/// PKCS#7 with a 32-byte block: the last byte says how many bytes, itself included, are padding.
fn unpad(buffer: &[u8]) -> Option<&[u8]> {
    let pad = usize::from(*buffer.last()?);
    if !(1..=PAD_BLOCK).contains(&pad) {
        return None;
    }
    let (framed, padding) = buffer.split_at_checked(buffer.len().checked_sub(pad)?)?;
    padding.iter().all(|&byte| usize::from(byte) == pad).then_some(framed)
}

/// Message and receiveid.
fn unframe(framed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_random, rest) = framed.split_at_checked(RANDOM_BYTES)?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// The account's key and, while a change of keys is under way, the one before it.
#[derive(Debug)]
pub struct Keys {
    pub current: AesKey,
    pub previous: Option<AesKey>,
}

impl Keys {
    pub fn get(&self, slot: KeySlot) -> Option<&AesKey> {
        match slot {
            KeySlot::Current => Some(&self.current),
            KeySlot::Previous => self.previous.as_ref(),
        }
    }

    /// Tries the current key, then the previous one, and says which of them worked.
    pub fn decrypt(
        &self,
        encrypted: &str,
        receiveid: &str,
    ) -> Result<(KeySlot, Vec<u8>), CryptoError> {
        let first = match self.current.decrypt(encrypted, receiveid) {
            Ok(message) => return Ok((KeySlot::Current, message)),
            Err(error) => error,
        };
        let Some(previous) = &self.previous else { return Err(first) };
        match previous.decrypt(encrypted, receiveid) {
            Ok(message) => Ok((KeySlot::Previous, message)),
            // The clearer reason wins, whichever key gave it.
            Err(CryptoError::NotForUs) => Err(CryptoError::NotForUs),
            Err(CryptoError::Unreadable) => Err(first),
        }
    }
}

/// 16 bytes from the operating system for [`AesKey::encrypt`].
pub fn random_block() -> Result<[u8; RANDOM_BYTES], getrandom::Error> {
    let mut block = [0; RANDOM_BYTES];
    getrandom::fill(&mut block)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channels::wechat::fixture::{Vectors, vectors};
    use crate::channels::wechat::signature;

    fn key(encoded: &str) -> AesKey {
        AesKey::parse(&SecretString::from(encoded)).unwrap()
    }

    /// Encrypts a plaintext that the framing would never make.
    fn encrypt_raw(key: &AesKey, mut plain: Vec<u8>) -> String {
        assert!(plain.len().is_multiple_of(CIPHER_BLOCK));
        let mut cipher = cbc::Encryptor::<Aes256>::new(key.key(), &key.iv());
        cipher.encrypt_blocks(Array::slice_as_chunks_mut(&mut plain).0);
        STANDARD.encode(plain)
    }

    #[test]
    fn published_ciphertexts_open() {
        let Vectors { open, .. } = vectors();
        assert_eq!(open.len(), 3);
        for v in open {
            let parts = [&*v.token, &*v.timestamp, &*v.nonce, &*v.encrypt];
            assert!(signature::verify(&parts, &v.msg_signature), "{}", v.name);
            let message = key(&v.encoding_aes_key).decrypt(&v.encrypt, &v.receiveid);
            assert_eq!(message, Ok(v.message.into_bytes()), "{}", v.name);
        }
    }

    #[test]
    fn published_reply_is_reproduced_byte_for_byte() {
        let v = vectors().seal;
        let random: [u8; RANDOM_BYTES] = v.random.as_bytes().try_into().unwrap();
        let encrypted =
            key(&v.encoding_aes_key).encrypt(v.message.as_bytes(), &v.receiveid, random);
        assert_eq!(encrypted, v.encrypt);
        let parts = [&*v.token, &*v.timestamp, &*v.nonce, &*encrypted];
        assert_eq!(signature::sign(&parts), v.msg_signature);
    }

    #[test]
    fn malformed_ciphertexts_are_refused_and_the_control_is_not() {
        let v = vectors().refuse;
        let key = key(&v.encoding_aes_key);
        assert_eq!(key.decrypt(&v.control_valid, &v.receiveid), Ok(b"<xml>x</xml>".to_vec()));
        assert_eq!(key.decrypt(&v.pad_zero, &v.receiveid), Err(CryptoError::Unreadable));
        assert_eq!(key.decrypt(&v.pad_bytes_differ, &v.receiveid), Err(CryptoError::Unreadable));
        assert_eq!(key.decrypt(&v.other_app_id, &v.receiveid), Err(CryptoError::NotForUs));
    }

    #[test]
    fn every_bound_of_the_frame_is_checked() {
        let key = key(&"A".repeat(43));
        let frame = |length: u32, body: &[u8], pad: &[u8]| {
            [&[7_u8; 16][..], &length.to_be_bytes(), body, pad].concat()
        };
        let cases = [
            ("length past the end", frame(9, b"12345678", &[4; 4])),
            ("length of four gigabytes", frame(u32::MAX, b"12345678", &[4; 4])),
            ("pad of 33", frame(0, &[], &[33; 44])),
            ("pad of 255", frame(0, b"wx", &[255; 10])),
            ("pad longer than the text", vec![32; 16]),
            ("nothing but padding", vec![32; 32]),
            ("no room for the length", [&[7_u8; 16][..], &[16; 16]].concat()),
            ("padded to 16 only", frame(10, b"1234567890wx", &[16; 16])),
        ];
        let whole = encrypt_raw(&key, frame(2, b"hiwx", &[8; 8]));
        assert_eq!(key.decrypt(&whole, "wx"), Ok(b"hi".to_vec()));
        for (what, plain) in cases {
            let encrypted = encrypt_raw(&key, plain);
            assert_eq!(key.decrypt(&encrypted, "wx"), Err(CryptoError::Unreadable), "{what}");
        }
        for text in ["", "!", "QUJD", "QUJDREVGR0hJSktMTU5PUA", "\u{2003}"] {
            assert_eq!(key.decrypt(text, "wx"), Err(CryptoError::Unreadable), "{text:?}");
        }
    }

    #[test]
    fn keys_are_43_characters_of_base64_with_any_trailing_bits() {
        let parse = |text: &str| AesKey::parse(&SecretString::from(text));
        let canonical = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2A";
        let trailing = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
        assert_eq!(key(canonical).key(), key(trailing).key());
        assert!(parse(&canonical[..42]).is_none());
        assert!(parse(&format!("{canonical}=")).is_none());
        assert!(parse(&format!("{}!", &canonical[..42])).is_none());
        assert!(parse(&"键".repeat(43)).is_none());
    }

    #[test]
    fn the_previous_key_still_opens_and_is_named() {
        let (old, new) = ("A".repeat(43), "B".repeat(43));
        let keys = Keys { current: key(&new), previous: Some(key(&old)) };
        let by_old = key(&old).encrypt(b"hi", "wx1", [1; 16]);
        let by_new = key(&new).encrypt(b"hi", "wx1", [1; 16]);
        let by_other = key(&"C".repeat(43)).encrypt(b"hi", "wx1", [1; 16]);
        assert_eq!(keys.decrypt(&by_old, "wx1"), Ok((KeySlot::Previous, b"hi".to_vec())));
        assert_eq!(keys.decrypt(&by_new, "wx1"), Ok((KeySlot::Current, b"hi".to_vec())));
        assert_eq!(keys.decrypt(&by_other, "wx1"), Err(CryptoError::Unreadable));
        assert_eq!(keys.decrypt(&by_old, "wx2"), Err(CryptoError::NotForUs));
        assert_eq!(keys.decrypt(&by_new, "wx2"), Err(CryptoError::NotForUs));
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let keys = Keys { current: key(&"B".repeat(43)), previous: Some(key(&"A".repeat(43))) };
        let shown = format!("{keys:?} {keys:#?}");
        assert!(shown.contains("REDACTED"));
        assert!(!shown.contains("BBB") && !shown.contains("AAA"), "{shown}");
        assert!(!shown.contains(|c: char| c.is_ascii_digit()), "{shown}");
    }

    #[test]
    fn random_blocks_differ() {
        assert_ne!(random_block().unwrap(), random_block().unwrap());
    }

    proptest! {
        #[test]
        fn round_trip(
            message in proptest::collection::vec(any::<u8>(), 0..200),
            receiveid in "[a-z0-9]{0,40}",
            random in any::<[u8; RANDOM_BYTES]>(),
        ) {
            let key = key(&"Z".repeat(43));
            let encrypted = key.encrypt(&message, &receiveid, random);
            prop_assert_eq!(STANDARD.decode(&encrypted).unwrap().len() % PAD_BLOCK, 0);
            prop_assert_eq!(key.decrypt(&encrypted, &receiveid), Ok(message));
        }
    }
}
