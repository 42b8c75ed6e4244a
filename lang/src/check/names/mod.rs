//! Names: files and what they import, items, what every use refers to, and names that nothing declares or
//! nothing reads.

pub mod allow;
pub mod foreign;
pub mod index;
pub mod items;
pub mod load;
mod misplaced;
pub mod modules;
mod overrides;
pub mod unknown;
pub mod unused;
