//! Names: files and their imports, items, the targets of all uses, and undeclared or unused names.

pub mod allow;
pub mod callable;
pub mod candidates;
pub mod labels;
pub mod load;
pub mod modules;
pub mod parse_cache;
