//! Reads the settings of a block: unknown, duplicate and missing keys, and values of the wrong type or range.

use crate::source::Span;
use crate::syntax::ast::{Entry, Route};
use mopd_experiment::SettingMark;

use crate::check::builtins::declare::Arg;

/// The settings of one block, checked against the keys it may have.
pub struct BlockSettings<'a> {
    /// The owner of the settings, quoted for messages: `` `grpo` ``.
    pub owner: String,
    /// The span to report where a setting is missing.
    pub span: Span,
    /// The entries by key; a misspelt key counts as the one it was taken for.
    pub(in crate::check) entries: Vec<(String, &'a Entry)>,
    /// Settings of the enclosing block, which hold for all of its steps.
    pub(in crate::check) inherited: Vec<(String, &'a Entry)>,
    /// The keys that misspelt ones were taken for. They are not reported as missing.
    pub(in crate::check) mistyped: Vec<String>,
    pub(in crate::check) marks: Vec<(String, SettingMark)>,
    pub route: Option<&'a Route>,
    /// Part of the block could not be parsed, and may have held any key that seems missing.
    pub broken: bool,
}

/// A setting that a block lacks.
pub struct MissingSetting {
    pub(in crate::check) owner: String,
    pub(in crate::check) key: &'static str,
    pub(in crate::check) span: Span,
}

impl<'a> BlockSettings<'a> {
    /// A declared setting, if it is set.
    pub(in crate::check) fn argument<T>(&self, key: &'static str) -> Option<Arg<'a, T>> {
        self.entry(key).map(|entry| Arg::new("", key, &entry.value))
    }

    /// What to report where this setting is needed; `None` where it is set, or may have been meant.
    pub fn missing(&self, key: &'static str) -> Option<MissingSetting> {
        let meant =
            self.entry(key).is_some() || self.broken || self.mistyped.iter().any(|meant| meant == key);
        (!meant).then(|| MissingSetting { owner: self.owner.clone(), key, span: self.span })
    }

    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.key.span)
    }

    pub fn value_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.value.span)
    }

    /// The span of the first of `keys` that is set, or of the block's owner.
    pub fn place(&self, keys: &[&str]) -> Span {
        keys.iter().find_map(|key| self.key_span(key)).unwrap_or(self.span)
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().chain(&self.inherited).find(|(known, _)| known == key).map(|(_, entry)| *entry)
    }

    /// ArgumentKind over the settings of the enclosing block `around`; the block's own come first.
    pub fn inherit(&mut self, around: &BlockSettings<'a>) {
        // A block with `prompts` or `batch` of its own inherits neither.
        let replaced = |key: &str| {
            matches!(key, "prompts" | "batch")
                && ["prompts", "batch"].iter().any(|size| self.key_span(size).is_some())
        };
        self.inherited = around.entries.iter().filter(|(key, _)| !replaced(key)).cloned().collect();
        self.broken |= around.broken;
        self.route = self.route.or(around.route);
    }
}
