//! The cache between analyses of a file that is being edited: the trees of its items, and the results of
//! their checks.
//!
//! The check of an item that reported nothing is repeated ([`crate::check::incremental::recording`]) while
//! neither the item nor anything that it looked up has changed. A changed item invalidates every check that
//! looked up its name. Where an item has no stored check, it counts as changed if it mentions the name in any
//! sense, and invalidates further checks. This is more than necessary, but independent of name resolution.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::diag::Diagnostic;
use crate::experiment::{DataSource, Domain, Origin, PromptFormat, Reward, RewardPart, WithOrigin};
use crate::source::FileId;
use crate::syntax::KnownFile;
use crate::syntax::ast::{Item, ItemKind, Module};

use crate::check::incremental::recording::Check;
use crate::check::names::modules::{GRPO_OBJECTIVE, SFT_OBJECTIVE, declared_name};

/// The cache of a caller that analyses the same file again and again. It keeps only the files of the last
/// analysis, so it does not grow.
#[derive(Default)]
pub struct AnalysisCache {
    files: FxHashMap<String, CachedFile>,
    /// All domains, reduced to the properties that other checks depend on.
    domains: Vec<Domain>,
    changed: ChangeSet,
    /// False until all domains are declared: a model that a domain needs is evaluated while their list is
    /// incomplete, and repeating that check would leave out its effects on the others.
    keeps: bool,
}

#[derive(Default)]
struct CachedFile {
    known: KnownFile,
    items: Vec<CachedItem>,
    /// Whether the current analysis has read the file.
    used: bool,
}

struct CachedItem {
    text: String,
    /// Hashes of all words in the item, and of other names that its check may look up.
    words: Vec<u32>,
    affected: Dependents,
    /// The result of its check, if it may be repeated.
    check: Option<Rc<Check>>,
}

/// The items and checks that a changed item invalidates.
#[derive(Default)]
struct Dependents {
    /// Items that mention one of these words.
    words: Vec<u32>,
    everything: bool,
}

#[derive(Default)]
struct ChangeSet {
    words: FxHashSet<u32>,
    /// A bit set by the lower half of the hash, to rule out most words quickly.
    some: Vec<u64>,
    /// Whether checks that read the list of all domains are invalid, too.
    domains: bool,
    everything: bool,
}

impl AnalysisCache {
    /// The tree of a file, as [`crate::syntax::parse`] gives it.
    pub(in crate::check) fn parse(
        &mut self,
        path: &str,
        file: FileId,
        text: &str,
    ) -> (Rc<Module>, Vec<Diagnostic>) {
        let cached = match self.files.get_mut(path) {
            Some(cached) => cached,
            None => self.files.entry(path.to_owned()).or_default(),
        };
        cached.used = true;
        if let Some(unchanged) = cached.known.unchanged(file, text) {
            return unchanged;
        }
        let (module, diagnostics) = cached.known.parse(file, text);
        let mut old: Vec<Option<CachedItem>> =
            std::mem::take(&mut cached.items).into_iter().map(Some).collect();
        let mut items = Vec::with_capacity(module.items.len());
        for before in cached.known.before() {
            items.push(before.and_then(|before| old[before].take()));
        }
        let mut gone: Vec<Option<CachedItem>> = old.into_iter().filter(Option::is_some).collect();
        let mut next = 0;
        for (item, kept) in module.items.iter().zip(&mut items).filter(|(_, kept)| kept.is_none()) {
            let text = &text[item.span.start as usize..item.span.end as usize];
            // Only comments around the item changed, or it was read again because its neighbour changed. An
            // item that moved counts as changed: of two with one name, the first is meant.
            let same =
                gone[next..].iter().position(|gone| gone.as_ref().is_some_and(|gone| gone.text == text));
            *kept = match same {
                Some(same) => {
                    next += same + 1;
                    gone[next - 1].take()
                }
                None => {
                    let new = CachedItem::new(item, text);
                    self.changed.add(&new.affected);
                    Some(new)
                }
            };
        }
        cached.items = items.into_iter().flatten().collect();
        gone.iter().flatten().for_each(|gone| self.changed.add(&gone.affected));
        (module, diagnostics)
    }

    /// Drops the checks that a change invalidates. All files are read and all domains declared by then.
    pub(in crate::check) fn invalidate(&mut self, domains: &[Domain]) {
        let domains: Vec<Domain> = domains.iter().map(checked_view).collect();
        self.changed.domains = domains != self.domains;
        self.domains = domains;
        let unused = self.files.values().filter(|file| !file.used);
        unused.flat_map(|file| &file.items).for_each(|item| self.changed.add(&item.affected));
        self.files.retain(|_, file| std::mem::take(&mut file.used));
        let mut items: Vec<&mut CachedItem> =
            self.files.values_mut().flat_map(|file| &mut file.items).collect();
        loop {
            let before = items.len();
            items.retain_mut(|item| {
                let concerned = self.changed.concerns(item);
                if concerned {
                    item.check = None;
                    self.changed.add(&item.affected);
                }
                !concerned
            });
            if items.len() == before {
                break;
            }
        }
        self.changed = ChangeSet::default();
        self.keeps = true;
    }

    /// Marks a `param` as changed: it has another value in the next analysis.
    pub(in crate::check) fn value_changes(&mut self, parameter: &str) {
        self.changed.add(&Dependents { words: vec![hash(parameter)], everything: false });
    }

    /// Begins an analysis.
    pub(in crate::check) fn begin(&mut self) {
        self.keeps = false;
    }

    /// The result of an item's check, where it may be repeated.
    pub(in crate::check) fn check(&self, path: &str, index: usize) -> Option<Rc<Check>> {
        self.files.get(path)?.items.get(index)?.check.clone()
    }

    pub(in crate::check) fn keep(&mut self, path: &str, index: usize, check: Option<Check>) {
        if !self.keeps {
            return;
        }
        if let Some(item) = self.files.get_mut(path).and_then(|file| file.items.get_mut(index)) {
            item.check = check.map(Rc::new);
        }
    }
}

impl CachedItem {
    fn new(item: &Item, text: &str) -> CachedItem {
        let mut words = words(text);
        let concerned = match &item.kind {
            // The imported names, and their local names.
            ItemKind::Use(_) => Some(words.clone()),
            // No other item can refer to a table.
            ItemKind::Compare { .. } => Some(Vec::new()),
            kind => declared_name(kind).map(|name| vec![hash(&name.text)]),
        };
        let everything = concerned.is_none();
        let affected = Dependents { words: concerned.unwrap_or_default(), everything };
        // Names that are looked up although the item does not mention them.
        words.extend([SFT_OBJECTIVE, GRPO_OBJECTIVE].map(|item| hash(item.name)));
        words.sort_unstable();
        words.dedup();
        CachedItem { text: text.to_owned(), words, affected, check: None }
    }
}

impl ChangeSet {
    fn add(&mut self, affected: &Dependents) {
        self.everything |= affected.everything;
        self.some.resize(1 << 10, 0);
        for word in &affected.words {
            self.some[usize::from(*word as u16) / 64] |= 1 << (word % 64);
            self.words.insert(*word);
        }
    }

    fn concerns(&self, item: &CachedItem) -> bool {
        let some = |word: &u32| self.some[usize::from(*word as u16) / 64] & (1 << (word % 64)) != 0;
        self.everything
            || self.domains && item.check.as_ref().is_some_and(|check| check.domains)
            || !self.some.is_empty()
                && item
                    .check
                    .as_ref()
                    .map_or(&item.words, |check| &check.consulted)
                    .iter()
                    .any(|word| some(word) && self.words.contains(word))
    }
}

/// A domain reduced to the properties that checks of other items depend on. Places are left out: they appear
/// only in diagnostics, and a check with diagnostics is not stored.
fn checked_view(domain: &Domain) -> Domain {
    let Domain { name, prompts: _, tests, validation, columns: _, format, reward, share, limit, origin: _ } =
        domain;
    let nowhere =
        || DataSource { path: String::new(), split: None, filter: None, limit: None, origin: Origin(0) };
    let nothing = || Reward::ExactMatch { field: String::new() };
    Domain {
        name: name.clone(),
        // Files are read only when it runs.
        prompts: nowhere(),
        tests: tests.as_ref().map(|_| nowhere()),
        validation: validation.as_ref().map(|_| nowhere()),
        columns: Vec::new(),
        // Checks depend only on whether there is one.
        format: format.as_ref().map(|_| PromptFormat::Text),
        // Objectives name the parts of a reward.
        reward: match reward {
            Reward::Parts { parts } => {
                let named = |part: &RewardPart| RewardPart {
                    name: part.name.clone(),
                    weight: 0.0,
                    reward: nothing(),
                };
                Reward::Parts { parts: parts.iter().map(named).collect() }
            }
            _ => nothing(),
        },
        // Only whether there is anything to train on; the amount matters in the run.
        share: f64::from(u8::from(*share > 0.0)),
        limit: limit.map(|limit| WithOrigin { origin: Origin(0), ..limit }),
        origin: Origin(0),
    }
}

/// Hashes of the words of a text. Two words with equal hashes cause at most one unnecessary check.
fn words(text: &str) -> Vec<u32> {
    text.split(|character: char| !crate::syntax::words::is_word(character))
        .filter(|word| !word.is_empty())
        .map(hash)
        .collect()
}

/// FNV-1a
pub fn hash(word: &str) -> u32 {
    word.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
