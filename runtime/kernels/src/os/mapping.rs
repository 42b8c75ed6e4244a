use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::{Mmap, UncheckedAdvice};

/// A read-only memory mapping of a file.
///
/// A file that shrinks while it is mapped ends the process, as with every program that maps files, and bytes
/// that another program writes to it change here. So only files that no program writes to are mapped:
/// checkpoints, which this program and other tools replace by renaming, and unnamed files.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps a whole file.
    pub fn new(file: &File) -> io::Result<Mapping> {
        // SAFETY: the mapping is private to this type, which hands out shared slices only; see its text for
        // files that others change.
        Ok(Mapping(unsafe { Mmap::map(file)? }))
    }

    /// Starts to load these bytes into memory. Where the system can't, they are loaded on access.
    pub fn expect(&self, range: Range<usize>) {
        let range = self.within(range);
        #[cfg(target_os = "linux")]
        if !range.is_empty() {
            drop(self.0.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()));
        }
    }

    /// Releases the memory of these bytes; the next access reads them from the disk or the system's cache.
    /// Pages partly in the range are released as a whole, which is harmless.
    pub fn release(&self, range: Range<usize>) {
        let range = self.within(range);
        if !range.is_empty() {
            // SAFETY: the mapping is of a file and never written to, so that released pages are read again
            // unchanged.
            let outcome =
                unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // A failure to release memory is not an error.
            drop(outcome);
        }
    }

    /// Clamps a range to the mapping's length.
    fn within(&self, range: Range<usize>) -> Range<usize> {
        let end = range.end.min(self.0.len());
        range.start.min(end)..end
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
