//! Names: files and their imports, items, the targets of all uses, and undeclared or unused names.

pub mod allow;
mod expected_kind;
pub mod foreign;
pub mod index;
pub mod items;
mod labels;
pub mod load;
mod misplaced;
pub mod modules;
pub mod overrides;
pub mod parse_cache;
pub mod renamed;
pub mod unknown;
pub mod unknown_name;
pub mod unused;
