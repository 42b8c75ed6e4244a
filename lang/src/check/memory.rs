//! What is kept of one analysis for the next, while a file is being written: the trees of its items, and what checking them
//! said.
//!
//! Most items are checked for their own sake: nothing else depends on it. Where such a check had nothing to report, it is not
//! done again while neither the item nor anything that it looked up has changed. A change of an item concerns every check that
//! looked up its name; where no check is kept, every item that mentions it in any sense; and so on, with the names of those. That
//! is more than needed, and needs no knowledge of how names are resolved.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::diag::Diagnostic;
use crate::source::{FileId, Span};
use crate::syntax::KnownFile;
use crate::syntax::ast::{Item, ItemKind, Module};

use super::Checker;
use super::index::Worth;
use super::items::callable;
use super::modules::{ItemId, declared_name};
use super::value::Value;

/// Belongs to whoever analyses the same file again and again. It knows the files of the last analysis and no others, so it grows
/// with them alone.
#[derive(Default)]
pub struct Memory {
    files: HashMap<String, RememberedFile>,
    changed: Changed,
}

#[derive(Default)]
struct RememberedFile {
    known: KnownFile,
    items: Vec<RememberedItem>,
    /// Read by the analysis that is under way.
    used: bool,
}

struct RememberedItem {
    text: String,
    /// Hashes of all words in it.
    words: Vec<u32>,
    effect: Effect,
    /// What its check came to, if it may be repeated.
    check: Option<Rc<Check>>,
}

/// What a change of an item concerns.
#[derive(Default)]
struct Effect {
    /// Items that mention one of these words.
    words: Vec<u32>,
    /// Checks that looked at the list of all domains.
    domains: bool,
    everything: bool,
}

#[derive(Default)]
struct Changed {
    words: HashSet<u32>,
    /// By the lower half of the hash, for a quick no.
    some: Vec<u64>,
    domains: bool,
    everything: bool,
}

/// A check without findings.
struct Check {
    /// The items whose values it asked for, in order: evaluating them has effects of its own.
    asked: Vec<Asked>,
    /// What it found out about names, by their place behind the beginning of the item.
    facts: Vec<(u32, u32, Worth)>,
    /// Hashes of the names that it looked up, found or not.
    consulted: Vec<u32>,
    /// It looked at the list of all domains.
    domains: bool,
}

struct Asked {
    path: String,
    name: String,
}

/// A check under way.
#[derive(Default)]
pub struct Recording {
    asked: Vec<ItemId>,
    facts: Vec<(Span, Worth)>,
    consulted: Vec<u32>,
    domains: bool,
    /// It did something that must be done again each time.
    spoilt: bool,
}

/// A part of the checker's state that notes whether someone had to do with it.
#[derive(Default)]
pub struct Watched<T> {
    value: T,
    touched: Cell<bool>,
}

impl<T> Watched<T> {
    fn touched(&self) -> bool {
        self.touched.replace(false)
    }

    pub fn take(&mut self) -> T
    where
        T: Default,
    {
        std::mem::take(self)
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.touched.set(true);
        &self.value
    }
}

impl<T> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.touched.set(true);
        &mut self.value
    }
}

impl Memory {
    /// The tree of a file, as [`crate::syntax::parse`] gives it.
    pub(super) fn parse(&mut self, path: &str, file: FileId, text: &str) -> (Module, Vec<Diagnostic>) {
        let remembered = match self.files.get_mut(path) {
            Some(remembered) => remembered,
            None => self.files.entry(path.to_owned()).or_default(),
        };
        remembered.used = true;
        let (module, findings) = remembered.known.parse(file, text);
        let mut old: Vec<Option<RememberedItem>> = std::mem::take(&mut remembered.items).into_iter().map(Some).collect();
        let mut items = Vec::with_capacity(module.items.len());
        for before in remembered.known.before() {
            items.push(before.and_then(|before| old[before].take()));
        }
        let mut gone: Vec<Option<RememberedItem>> = old.into_iter().filter(Option::is_some).collect();
        let mut next = 0;
        for (item, kept) in module.items.iter().zip(&mut items).filter(|(_, kept)| kept.is_none()) {
            let text = &text[item.span.start as usize..item.span.end as usize];
            // Only the comments around it have changed, or it was read again because of its neighbour. What has changed places
            // with another is another: of two with one name, the first counts.
            let same = gone[next..].iter().position(|gone| gone.as_ref().is_some_and(|gone| gone.text == text));
            *kept = match same {
                Some(same) => {
                    next += same + 1;
                    gone[next - 1].take()
                }
                None => {
                    let new = RememberedItem::new(item, text);
                    self.changed.add(&new.effect);
                    Some(new)
                }
            };
        }
        remembered.items = items.into_iter().flatten().collect();
        gone.iter().flatten().for_each(|gone| self.changed.add(&gone.effect));
        (module, findings)
    }

    /// All files have been read: forgets the checks that a change concerns.
    pub(super) fn forget_what_changed(&mut self) {
        let unused = self.files.values().filter(|file| !file.used);
        unused.flat_map(|file| &file.items).for_each(|item| self.changed.add(&item.effect));
        self.files.retain(|_, file| std::mem::take(&mut file.used));
        let mut items: Vec<&mut RememberedItem> = self.files.values_mut().flat_map(|file| &mut file.items).collect();
        loop {
            let before = items.len();
            items.retain_mut(|item| {
                let concerned = self.changed.concerns(item);
                if concerned {
                    item.check = None;
                    self.changed.add(&item.effect);
                }
                !concerned
            });
            if items.len() == before {
                break;
            }
        }
        self.changed = Changed::default();
    }

    fn item(&mut self, path: &str, index: usize) -> Option<&mut RememberedItem> {
        self.files.get_mut(path)?.items.get_mut(index)
    }
}

impl RememberedItem {
    fn new(item: &Item, text: &str) -> RememberedItem {
        let mut words = words(text);
        let concerned = match &item.kind {
            // Whatever it takes from elsewhere, and whatever it calls that here.
            ItemKind::Use(_) => Some(words.clone()),
            // Nobody can refer to it.
            ItemKind::Compare { .. } => Some(Vec::new()),
            kind => declared_name(kind).map(|name| vec![hash(&name.text)]),
        };
        let everything = concerned.is_none();
        // An import may bring a domain.
        let domains = matches!(item.kind, ItemKind::Domain { .. } | ItemKind::Use(_));
        let effect = Effect { words: concerned.unwrap_or_default(), domains, everything };
        words.sort_unstable();
        words.dedup();
        RememberedItem { text: text.to_owned(), words, effect, check: None }
    }
}

impl Changed {
    fn add(&mut self, effect: &Effect) {
        self.everything |= effect.everything;
        self.domains |= effect.domains;
        self.some.resize(1 << 10, 0);
        for word in &effect.words {
            self.some[usize::from(*word as u16) / 64] |= 1 << (word % 64);
            self.words.insert(*word);
        }
    }

    fn concerns(&self, item: &RememberedItem) -> bool {
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

/// Hashes of the words of a text. Two words with one hash cost a check too many, no more.
fn words(text: &str) -> Vec<u32> {
    text.split(|character: char| !crate::syntax::words::is_word(character)).filter(|word| !word.is_empty()).map(hash).collect()
}

/// FNV-1a
pub fn hash(word: &str) -> u32 {
    word.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Checker {
    /// Checks an item for its own sake, unless it is known that there is nothing to report.
    pub(super) fn check_item_once(&mut self, id: ItemId, item: &Item) {
        if callable(&item.kind).is_none() {
            return self.check_item(id, item);
        }
        let path = self.path(id).to_owned();
        if let Some(check) = self.memory.item(&path, id.index).and_then(|item| item.check.clone())
            && self.repeat(&check, item)
        {
            return;
        }
        self.resume_recording(Some(Recording::default()));
        self.check_item(id, item);
        let Some(recording) = self.pause_recording() else { return };
        let check = self.check_of(recording, item);
        if let Some(remembered) = self.memory.item(&path, id.index) {
            remembered.check = check.map(Rc::new);
        }
    }

    fn check_of(&self, recording: Recording, item: &Item) -> Option<Check> {
        let Recording { asked, facts, mut consulted, domains, spoilt } = recording;
        consulted.sort_unstable();
        consulted.dedup();
        if spoilt {
            return None;
        }
        let asked = asked.into_iter().map(|id| {
            let tree = self.modules.tree(id.module);
            let name = declared_name(&tree.items[id.index].kind)?.text.clone();
            Some(Asked { path: self.path(id).to_owned(), name })
        });
        let facts = facts.into_iter().map(|(span, worth)| {
            let inside = span.file == item.span.file && item.span.start <= span.start && span.end <= item.span.end;
            inside.then(|| (span.start - item.span.start, span.end - item.span.start, worth))
        });
        Some(Check { asked: asked.collect::<Option<_>>()?, facts: facts.collect::<Option<_>>()?, consulted, domains })
    }

    /// Does again what the check of an item did besides finding nothing. False where that can't be done.
    fn repeat(&mut self, check: &Check, item: &Item) -> bool {
        let ids = check.asked.iter().map(|asked| {
            let files = self.modules.files().find(|(_, file)| self.sources.file(*file).path == asked.path);
            let module = files?.0;
            let declared = self.modules.lookup(module, &asked.name)?;
            (declared.item.module == module).then_some(declared.item)
        });
        let Some(ids) = ids.collect::<Option<Vec<ItemId>>>() else { return false };
        for id in ids {
            self.item_value(id, item.span);
        }
        for (start, end, worth) in &check.facts {
            let span = Span { file: item.span.file, start: item.span.start + start, end: item.span.start + end };
            self.facts.record(span, worth.clone());
        }
        true
    }

    fn path(&self, id: ItemId) -> &str {
        &self.sources.file(self.modules.file(id.module)).path
    }

    /// What has been touched since the last time: the list of domains, and what spoils a recording. A part of the checker's state
    /// that is not named here does not compile: it must be said whether a check that reads or changes it may be left out.
    fn touched(&self) -> (bool, bool) {
        let Checker {
            memory: _,
            recording: _,
            sources: _,
            // Values of items are asked for again.
            modules: _,
            // A check with findings is not kept.
            diagnostics: _,
            // Their numbers matter to nobody, only that they lead to the same places.
            origins: _,
            known_origins: _,
            domains,
            models,
            teachers,
            used_teachers,
            said_origins,
            panels,
            benchmarks,
            sweep,
            // For those who ask for the experiment.
            objectives: _,
            route,
            // Of the experiment, which is not put together.
            marks: _,
            // Told again.
            facts: _,
            // Set before the first check, by items that concern everything.
            seed: _,
            has_experiment: _,
            calling: _,
            // Begins anew with every item.
            work: _,
            // Whoever sets it spoils the recording.
            overworked: _,
            // As it was before, once a check is over.
            any_numbers: _,
        } = self;
        let spoilt = [
            models.touched(),
            teachers.touched(),
            used_teachers.touched(),
            said_origins.touched(),
            panels.touched(),
            benchmarks.touched(),
            sweep.touched(),
            route.touched(),
        ];
        (domains.touched(), spoilt.contains(&true))
    }

    // ---- What a check does while it is recorded ----

    /// It can't be left out next time.
    pub(super) fn spoil_recording(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.spoilt = true;
        }
    }

    /// It asks for the value of an item.
    pub(super) fn record_request(&mut self, id: ItemId) {
        if let Some(recording) = &mut self.recording
            && !recording.asked.contains(&id)
        {
            recording.asked.push(id);
        }
    }

    /// It has found out what a name is worth.
    pub(super) fn record(&mut self, declared: Span, value: &Value) {
        let Some(worth) = Worth::of(value) else { return };
        if let Some(recording) = &mut self.recording {
            recording.facts.push((declared, worth.clone()));
        }
        self.facts.record(declared, worth);
    }

    /// The value of another item is evaluated: what happens now is that item's affair.
    pub(super) fn pause_recording(&mut self) -> Option<Recording> {
        let mut recording = self.recording.take()?;
        let (domains, spoilt) = self.touched();
        recording.domains |= domains;
        recording.spoilt |= spoilt;
        recording.consulted.extend(self.modules.consulted.take().unwrap_or_default());
        Some(recording)
    }

    pub(super) fn resume_recording(&mut self, recording: Option<Recording>) {
        if recording.is_some() {
            self.touched();
            self.modules.consulted.replace(Some(Vec::new()));
        }
        self.recording = recording;
    }
}
