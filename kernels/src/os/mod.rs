//! What the operating system and the C library are asked for, where the standard library has no function:
//! each behind a safe one.

mod allocator;
pub mod bounded;
mod huge_pages;
mod library;
mod mapping;
mod process;

pub use allocator::{BlocksOfTheSystem, disable_trim, trim_heap};
pub use huge_pages::advise_huge_pages;
pub use library::{Library, load_library};
pub use mapping::Mapping;
pub use process::{exit_at_once, kill};
