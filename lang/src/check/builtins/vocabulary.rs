//! The fixed words of the language with their meanings: the settings of every block, the words that settings
//! and arguments accept, the signals. The checker uses the names, editors the descriptions.

mod blocks;
pub(in crate::check) mod words;

pub use super::kinds::{ArgumentKind, SettingKey, SignalName, Word};
pub use blocks::*;
pub use words::*;

pub fn names(keys: &[SettingKey]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}

pub fn signal(name: &str) -> Option<&'static SignalName> {
    SIGNALS.iter().find(|signal| signal.name == name)
}
