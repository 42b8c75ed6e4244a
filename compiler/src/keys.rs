//! Keys of stored results: hashes of everything that a result depends on, serialised as JSON. Only serialised
//! fields are part of it, in the order of their declaration, never the output of `Debug`: so a type may be
//! renamed without invalidating results, and a field's name in a key can be fixed by `#[serde(rename)]`.

use serde::Serialize;

/// Raised whenever the content of keys, its meaning or its text changes: results of other versions are kept,
/// but not used.
pub const VERSION: u32 = 5;

/// `kind` says what the key is for: keys of different kinds never collide.
pub fn text(kind: &str, version: u32, meaning: &impl Serialize) -> String {
    serde_json::to_string(&(kind, version, meaning)).expect("a meaning is plain data")
}

pub fn hash(kind: &str, version: u32, meaning: &impl Serialize) -> blake3::Hash {
    blake3::hash(text(kind, version, meaning).as_bytes())
}
