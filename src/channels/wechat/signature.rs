//! The platform's request signature: SHA-1 over sorted, concatenated parts.

use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use crate::base::digest::hex;

/// Lower-case hex SHA-1 of the parts, sorted byte-wise and concatenated without separators.
///
/// The parts are token, timestamp and nonce for `signature`, and the `Encrypt` text besides for
/// `msg_signature`.
pub fn sign(parts: &[&str]) -> String {
    let mut sorted = parts.to_vec();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for part in sorted {
        hasher.update(part.as_bytes());
    }
    hex(&hasher.finalize())
}

/// Compares in a time that does not tell how many leading characters were right.
pub fn verify(parts: &[&str], given: &str) -> bool {
    sign(parts).as_bytes().ct_eq(given.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_bytewise() {
        // Published in an SDK's own test: sha1("abc").
        assert_eq!(sign(&["a", "b", "c"]), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(sign(&["c", "a", "b"]), sign(&["a", "b", "c"]));
        // Upper case sorts before lower case, digits before both.
        assert_eq!(sign(&["a", "B", "1"]), sign(&["1Ba"]));
    }

    #[test]
    fn verifies_only_the_whole_signature() {
        let right = sign(&["a", "b", "c"]);
        assert!(verify(&["b", "c", "a"], &right));
        assert!(!verify(&["a", "b", "d"], &right));
        assert!(!verify(&["a", "b", "c"], &right[..39]));
        assert!(!verify(&["a", "b", "c"], &right.to_uppercase()));
        assert!(!verify(&["a", "b", "c"], ""));
    }
}
