//! The names that an unknown one may have meant.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::folded;

use crate::check::names::modules::ModuleId;

/// The names that an unknown one may have meant, besides those of its expression. A file with many unknown
/// names asks for the same lists again and again.
#[derive(Default)]
pub struct NameCandidates {
    /// By module, kind of name, and whether signals are visible.
    pub lists: FxHashMap<(ModuleId, ExpectedName, bool), Rc<CandidateList>>,
}

#[derive(Default)]
pub struct CandidateList {
    /// Sorted, without duplicates.
    pub names: Vec<String>,
    /// The first of the names with these letters, in lower case and without underscores.
    pub by_letters: FxHashMap<String, usize>,
}

impl CandidateList {
    pub fn new(mut names: Vec<String>) -> CandidateList {
        names.sort_unstable();
        names.dedup();
        let mut by_letters = FxHashMap::default();
        for (index, name) in names.iter().enumerate() {
            by_letters.entry(folded(name)).or_insert(index);
        }
        CandidateList { names, by_letters }
    }
}

/// The kind of name that fits a place, judged by the text around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedName {
    /// `name(`
    Callable,
    /// `domain == name`, `family[name]`
    Key,
    Value,
}
