//! The zip archive that an Office file is: its parts, read within bounds whatever it claims.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

/// Most parts; a document with a thousand pictures has some 1,100.
const PARTS: usize = 20_000;
/// Largest part that is read, bytes unpacked: the text of a book of ten thousand pages.
const PART_BYTES: u64 = 256 << 20;
/// Most bytes that all parts claim to unpack to.
const ALL_BYTES: u64 = 1 << 30;
/// A part that unpacks to more than this times its size is no document; XML reaches some 50.
const RATIO: u64 = 400;
/// Smaller parts may be as repetitive as they like.
const SMALL: u64 = 4 << 20;

pub(super) struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
}

impl<'a> Package<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|e| format!("is a damaged Office file ({e}); open it and save it again"))?;
        if archive.len() > PARTS {
            return Err(format!("has {} parts inside, at most {PARTS} are read", archive.len()));
        }
        let mut all = 0_u64;
        for at in 0..archive.len() {
            let part = archive.by_index_raw(at).map_err(|e| damaged(&e))?;
            check_ratio(part.name(), part.size(), part.compressed_size())?;
            all = all.saturating_add(part.size());
        }
        if all > ALL_BYTES {
            let (has, most) = (all >> 20, ALL_BYTES >> 20);
            return Err(format!("unpacks to {has} MB, at most {most} MB are read"));
        }
        Ok(Self { archive })
    }

    /// A part as it unpacks; `None` if there is none of this name.
    pub(super) fn part(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let part = match self.archive.by_name(name) {
            Ok(part) => part,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(e) => return Err(damaged(&e)),
        };
        let packed = part.compressed_size();
        let mut bytes = Vec::new();
        // What it claims was checked; what it does is checked here.
        part.take(PART_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("is damaged ({name}: {e}); open it and save it again"))?;
        let unpacked = bytes.len() as u64;
        if unpacked > PART_BYTES {
            return Err(format!("{name} in it unpacks to more than {} MB", PART_BYTES >> 20));
        }
        check_ratio(name, unpacked, packed)?;
        Ok(Some(bytes))
    }
}

fn check_ratio(name: &str, unpacked: u64, packed: u64) -> Result<(), String> {
    if unpacked > SMALL && unpacked / packed.max(1) > RATIO {
        return Err(format!(
            "{name} in it unpacks to {} times its size; this is no ordinary document",
            unpacked / packed.max(1)
        ));
    }
    Ok(())
}

fn damaged(error: &ZipError) -> String {
    if matches!(error, ZipError::UnsupportedArchive(_)) {
        return format!("cannot be unpacked ({error}); save it again without a password");
    }
    format!("is damaged ({error}); open it and save it again")
}
