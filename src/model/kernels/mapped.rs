//! A read-only file in the address space: its pages are shared with the system's cache, so weights
//! are held once and a second start finds them in memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

pub(crate) struct Mapped(Mmap);

impl Mapped {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the bytes must not change while mapped. Packed files are written under another
        // name, moved into place and never written again; a new one replaces the name, not the
        // bytes. Who may write to the model folder in another way may as well replace the program.
        Ok(Self(unsafe { Mmap::map(&file)? }))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
