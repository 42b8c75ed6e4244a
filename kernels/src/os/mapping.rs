use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::{Mmap, UncheckedAdvice};

/// A file's bytes where the system has them; read-only.
///
/// A file that shrinks while it is mapped ends the process, as with every program that maps files, and bytes
/// that another program writes to it change here. So only such files are mapped as nobody writes to:
/// checkpoints, which are replaced by renaming, here and by the tools around, and files without a name.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// All of a file.
    pub fn new(file: &File) -> io::Result<Mapping> {
        // SAFETY: the mapping is private to this type, which hands out shared slices only; see its text for
        // files that others change.
        Ok(Mapping(unsafe { Mmap::map(file)? }))
    }

    /// Brings these bytes into memory. Where the system can't, they come when they are looked at.
    pub fn expect(&self, range: Range<usize>) {
        let range = self.within(range);
        #[cfg(target_os = "linux")]
        if !range.is_empty() {
            drop(self.0.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()));
        }
    }

    /// Lets go of the memory of these bytes; whoever looks at them again waits for the disk, or for the
    /// system's cache. Pages that are in the range in part are let go of whole, which is no harm.
    pub fn release(&self, range: Range<usize>) {
        let range = self.within(range);
        if !range.is_empty() {
            // SAFETY: the mapping is of a file and never written to, so that what is let go of is read again
            // as it was.
            let outcome =
                unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // Memory that is not let go of is no reason to stop.
            drop(outcome);
        }
    }

    /// A part that goes beyond is cut off.
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
