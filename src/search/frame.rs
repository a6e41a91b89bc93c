//! The envelope of our binary files: magic, version, checksum, body.
//!
//! Layout, little-endian: magic (8 bytes), version u32, SHA-256 (32 bytes) of everything else in the
//! file, body. The digest covers magic and version too, and whatever header the body starts with:
//! over a payload alone, a file with two header fields exchanged could still load.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::search::SearchError;

/// What a file says it is.
pub(super) struct Frame {
    pub(super) magic: [u8; 8],
    pub(super) version: u32,
    /// For messages: `vector file`.
    pub(super) what: &'static str,
}

/// Bytes before the body.
pub(super) const HEADER: usize = FIELDS + 32;
const FIELDS: usize = 8 + 4;

impl Frame {
    pub(super) fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&digest(&bytes, body));
        bytes.extend_from_slice(body);
        bytes
    }

    /// The body, if `bytes` are exactly what [`Frame::seal`] made; `path` is for the message.
    pub(super) fn open<'a>(&self, bytes: &'a [u8], path: &Path) -> Result<&'a [u8], SearchError> {
        let what = self.what;
        let Some((header, body)) = bytes.split_at_checked(HEADER) else {
            return Err(SearchError::corrupt(path, format!("too short for a {what}")));
        };
        let (fields, checksum) = header.split_at(FIELDS);
        let (magic, version) = fields.split_at(8);
        if magic != self.magic {
            return Err(SearchError::corrupt(path, format!("not a {what}")));
        }
        if version != self.version.to_le_bytes() {
            let reason = format!("{what} of another version than {}", self.version);
            return Err(SearchError::incompatible(path, reason));
        }
        if checksum != digest(fields, body) {
            return Err(SearchError::corrupt(path, "its checksum does not match"));
        }
        Ok(body)
    }
}

fn digest(fields: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(fields);
    hasher.update(body);
    hasher.finalize().into()
}

pub(super) fn put_floats(bytes: &mut Vec<u8>, floats: &[f32]) {
    bytes.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
}

/// `None` when the bytes are not whole floats, or not all of them finite.
pub(super) fn floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    let floats: Vec<f32> = words.iter().map(|&w| f32::from_le_bytes(w)).collect();
    (rest.is_empty() && floats.iter().all(|x| x.is_finite())).then_some(floats)
}
