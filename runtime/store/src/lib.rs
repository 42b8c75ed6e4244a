//! The content-addressed store of results, as files: entries that are complete or do not count, locks
//! between runs, a registry of the entries that runs need, and pruning. Writers define an entry's content.
//!
//! ```text
//! <key>/                  a result, valid once `checksums.json` is there, which is written last
//! <key>.unfinished/<step> checkpoints of a stage, each such an entry
//! <key>.scores/<hash>     scores of frozen models, each such an entry; no run needs them
//! <key>.last-good/        weights before a number that was not finite
//! <name>.new/             an entry that will replace an intact one, until it is complete and renamed
//! <name>.old/             the entry that it replaces, until it is deleted
//! locks/<key>             held by the run that computes that key
//! runs/<run>.json         the keys that a run needs
//! notes/                  hashes of files elsewhere
//! opened/                 files that functions of Python opened, for the keys of later runs
//! arithmetic/             the arithmetics by which results were made
//! private/secret          the secret from which private stages draw their noise
//! ```

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("mopd runs on Linux: it is written for systems of the Unix family alone");

mod cache;
pub mod content;
mod entries;
pub mod files;
pub mod host;
pub mod host_memory;
pub mod links;
mod lock;
pub mod named;
pub mod places;
pub mod programs;
pub mod regular;
pub mod results_folder;
mod runs;
mod secret;
pub mod signals;

pub use cache::{PrunePolicy, PruneVerdict, Pruned, StoreItem, StoreItemKind, age};
pub use entries::{Checksums, Damage, Folder, Lookup, read_json, write_whole};
pub use files::{WriteError, write_atomically};
pub use lock::Lock;
pub use runs::{StoredRun, StoredRuns};
pub use secret::{random_bytes, write_private};

#[cfg(test)]
mod tests;
