//! Names: files and their imports, items, what every use refers to, and names that are undeclared or unused.

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
