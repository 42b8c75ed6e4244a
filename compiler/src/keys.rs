//! Keys of stored results: hashes of what a result depends on, written down as JSON. Only serialised fields
//! enter, in the order of their declaration, never the text of `Debug`: a type may be renamed without a loss,
//! and what a field is called in a key can be held by `#[serde(rename)]`.

use serde::Serialize;

/// Raised whenever what enters the keys of results, or its meaning or its text, changes: results of other
/// versions are kept and not used.
pub const VERSION: u32 = 5;

/// `kind` is what the key is of: keys of different kinds never meet.
pub fn text(kind: &str, version: u32, meaning: &impl Serialize) -> String {
    serde_json::to_string(&(kind, version, meaning)).expect("a meaning is plain data")
}

pub fn hash(kind: &str, version: u32, meaning: &impl Serialize) -> blake3::Hash {
    blake3::hash(text(kind, version, meaning).as_bytes())
}
