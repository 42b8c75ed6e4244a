//! Keys of stored results: hashes of everything that a result depends on, serialised as JSON. They contain
//! serialised fields in the order of their declaration, never the output of `Debug`. So types can be renamed
//! without invalidating results, and `#[serde(rename)]` fixes a field's name in keys.

use serde::Serialize;

/// Raised whenever the content of keys, its meaning or its text changes. Results of other versions stay in
/// the store, but are not used.
pub const VERSION: u32 = 6;

/// The text of a key. `kind` names its purpose: keys of different kinds never collide.
pub fn text(kind: &str, version: u32, meaning: &impl Serialize) -> String {
    serde_json::to_string(&(kind, version, meaning)).expect("a meaning is plain data")
}

pub fn hash(kind: &str, version: u32, meaning: &impl Serialize) -> blake3::Hash {
    blake3::hash(text(kind, version, meaning).as_bytes())
}
