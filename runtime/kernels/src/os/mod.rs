//! Safe wrappers of functions of the operating system and the C library that the standard library lacks.

mod allocator;
pub mod bounded;
mod huge_pages;
mod library;
mod mapping;
mod process;

pub use allocator::{MmapLargeBlocksGuard, disable_trim, trim_heap};
pub use huge_pages::advise_huge_pages;
pub use library::{Library, load_library};
pub use mapping::Mapping;
pub use process::{ProcessId, adopt_orphans, exit_at_once};
