//! RSA2 (SHA-256 with RSA, PKCS#1 v1.5): our private key and the platform's public one.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};
use secrecy::{ExposeSecret, SecretString};

pub(super) struct PrivateKey(KeyPair);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([REDACTED])")
    }
}

impl PrivateKey {
    /// PKCS#8 or PKCS#1, PEM or bare base64.
    pub(super) fn parse(text: &SecretString) -> Option<Self> {
        let der = der(text.expose_secret())?;
        KeyPair::from_pkcs8(&der).or_else(|_| KeyPair::from_der(&der)).ok().map(Self)
    }

    /// Base64 of the signature; `None` when the system has no random numbers for the blinding.
    pub(super) fn sign(&self, message: &[u8]) -> Option<String> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
        Some(STANDARD.encode(signature))
    }

    /// As the platform's console takes it: SubjectPublicKeyInfo in base64.
    pub(super) fn public_key_base64(&self) -> String {
        STANDARD.encode(spki(self.0.public().as_ref()))
    }
}

#[derive(Debug)]
pub(super) struct PublicKey(UnparsedPublicKey<Vec<u8>>);

impl PublicKey {
    /// SubjectPublicKeyInfo or PKCS#1, PEM or bare base64.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let der = der(text)?;
        let key = unwrap_spki(&der).unwrap_or(&der);
        // Read now, so that a wrong key is found at the start and not with the first push.
        let (_, modulus) = read(0x30, key).and_then(|(_, numbers)| read(0x02, numbers))?;
        (modulus.len() > 128)
            .then(|| Self(UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.to_vec())))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        self.0.verify(message, &signature).is_ok()
    }
}

/// What stands between the PEM lines, or the whole text.
fn der(text: &str) -> Option<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let bare: String = lines.flat_map(str::split_whitespace).collect();
    STANDARD.decode(bare).ok()
}

/// `rsaEncryption` with null parameters (RFC 8017, appendix A.1).
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00];

/// A PKCS#1 public key as a SubjectPublicKeyInfo.
fn spki(pkcs1: &[u8]) -> Vec<u8> {
    let bits = tagged(0x03, &[&[0], pkcs1].concat());
    tagged(0x30, &[&RSA_ALGORITHM[..], &bits].concat())
}

fn unwrap_spki(der: &[u8]) -> Option<&[u8]> {
    let (_, inside) = read(0x30, der)?;
    let (rest, bits) = read(0x03, inside.strip_prefix(&RSA_ALGORITHM)?)?;
    bits.strip_prefix(&[0]).filter(|_| rest.is_empty())
}

/// Tag, length in the definite form, value.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length = &length[length.iter().take_while(|&&b| b == 0).count()..];
    let mut der = vec![tag];
    match *length {
        [] => der.push(0),
        [short] if short < 0x80 => der.push(short),
        _ => {
            der.push(0x80 | length.len() as u8);
            der.extend_from_slice(length);
        }
    }
    der.extend_from_slice(value);
    der
}

/// What follows an element of this tag, and the element's value.
fn read(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7F))?;
        let length = bytes.iter().try_fold(0_usize, |length, &byte| {
            length.checked_mul(256)?.checked_add(usize::from(byte))
        })?;
        (length, rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    (first == tag).then_some((rest, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::alipay::tests::{APP_KEY, APP_PUBLIC_KEY};

    #[test]
    fn what_we_sign_verifies_with_the_key_we_publish() {
        let private = PrivateKey::parse(&APP_KEY.into()).unwrap();
        assert_eq!(private.public_key_base64(), der_base64(APP_PUBLIC_KEY));
        let signature = private.sign("退款".as_bytes()).unwrap();
        for text in [APP_PUBLIC_KEY.to_owned(), private.public_key_base64()] {
            let public = PublicKey::parse(&text).unwrap();
            assert!(public.verifies("退款".as_bytes(), &signature));
            assert!(!public.verifies("退货".as_bytes(), &signature));
            assert!(!public.verifies("退款".as_bytes(), &signature[4..]));
            assert!(!public.verifies("退款".as_bytes(), "!"));
        }
    }

    fn der_base64(pem: &str) -> String {
        STANDARD.encode(der(pem).unwrap())
    }

    #[test]
    fn keys_come_in_either_form_and_are_not_printed() {
        let bare: String = APP_KEY.lines().filter(|line| !line.starts_with("-----")).collect();
        let key = PrivateKey::parse(&bare.as_str().into()).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey([REDACTED])");
        let pkcs1 = unwrap_spki(&der(APP_PUBLIC_KEY).unwrap()).map(<[u8]>::to_vec).unwrap();
        assert!(PublicKey::parse(&STANDARD.encode(&pkcs1)).is_some());
        for wrong in ["", "!", "AAAA", &STANDARD.encode([0x30; 40]), &bare[..40]] {
            assert!(PrivateKey::parse(&wrong.into()).is_none(), "{wrong}");
            assert!(PublicKey::parse(wrong).is_none(), "{wrong}");
        }
    }
}
