//! Modules: the files of an analysis, their imports, and the names visible in each.

use std::rc::Rc;
use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::source::{FileId, Span};
use crate::syntax::ast::{DivergenceItem, Expr, Item, ItemKind, Module, Name};

/// A name of a module of the standard library.
#[derive(Clone, Copy)]
pub struct StandardItem {
    pub module: &'static str,
    pub name: &'static str,
}

/// The default objective of `sft`.
pub const SFT_OBJECTIVE: StandardItem = StandardItem { module: "sft", name: "nll" };
/// The default objective of `grpo`.
pub const GRPO_OBJECTIVE: StandardItem = StandardItem { module: "rl", name: "grpo_loss" };
/// The module whose divergences need no import.
pub const DIVERGENCES: &str = "divergences";
/// The text of that module, which is part of the language and does not depend on the host.
pub(super) const DIVERGENCES_TEXT: &str = include_str!("../../../../stdlib/divergences.mopd");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u32);

/// One item of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemId {
    pub module: ModuleId,
    pub index: usize,
}

#[derive(Default)]
pub struct Modules {
    pub loaded: Vec<LoadedModules>,
    pub by_path: FxHashMap<Vec<String>, ModuleId>,
    /// Names whose imports have been reported, and whose uses are not.
    pub lost: FxHashSet<(ModuleId, String)>,
    /// Modules with an import whose names are unknown.
    pub lacking: FxHashSet<ModuleId>,
    /// The public items of the standard library, one line `module name` each.
    pub library: String,
}

pub struct LoadedModules {
    pub file: FileId,
    /// Whether it is a module of the standard library, whatever the host calls its file.
    pub standard: bool,
    pub tree: Rc<Module>,
    pub names: FxHashMap<String, Declared>,
    /// Values from `--set`, by the name of the `param`, or of an objective and its parameter: `mopd.clip_at`.
    pub set: FxHashMap<String, Expr>,
}

/// The item that a name refers to in a file, and the place of its declaration or import.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    pub item: ItemId,
    pub span: Span,
}

impl LoadedModules {
    pub fn new(file: FileId, standard: bool, tree: Rc<Module>) -> LoadedModules {
        LoadedModules { file, standard, tree, names: FxHashMap::default(), set: FxHashMap::default() }
    }
}

impl Modules {
    /// A single module without items.
    pub fn of_empty_file(file: FileId) -> Modules {
        let module = LoadedModules::new(file, false, Rc::default());
        Modules { loaded: vec![module], ..Modules::default() }
    }

    pub fn tree(&self, id: ModuleId) -> Rc<Module> {
        self.loaded[id.0 as usize].tree.clone()
    }

    pub fn lookup(&self, id: ModuleId, name: &str) -> Option<Declared> {
        self.loaded[id.0 as usize].names.get(name).copied()
    }

    /// Whether the import that should have declared a name has been reported.
    pub fn is_lost(&self, module: ModuleId, name: &str) -> bool {
        self.lacking.contains(&module) || self.lost.contains(&(module, name.to_owned()))
    }

    /// The only module of the standard library that has a public `name`. `None` where several have it.
    pub fn of_library(&self, name: &str) -> Option<&str> {
        let mut modules = self.all_of_library(name);
        modules.next().filter(|_| modules.next().is_none())
    }

    /// Every module of the standard library that has a public `name`.
    pub fn all_of_library(&self, name: &str) -> impl Iterator<Item = &str> {
        let offered = self.library.lines().filter_map(|line| line.split_once(' '));
        offered.filter(move |(_, offered)| *offered == name).map(|(module, _)| module)
    }

    /// The public names of a module of the standard library.
    pub fn offered(&self, module: &str) -> impl Iterator<Item = &str> {
        let lines = self.library.lines().filter_map(|line| line.split_once(' '));
        lines.filter(move |(known, _)| *known == module).map(|(_, name)| name)
    }

    /// The modules of the standard library.
    pub fn library_modules(&self) -> impl Iterator<Item = &str> {
        self.library.lines().filter_map(|line| line.split_once(' ')).map(|(module, _)| module)
    }

    pub fn names(&self, id: ModuleId) -> impl Iterator<Item = &str> {
        self.loaded[id.0 as usize].names.keys().map(String::as_str)
    }

    pub fn file(&self, id: ModuleId) -> FileId {
        self.loaded[id.0 as usize].file
    }

    pub fn files(&self) -> impl Iterator<Item = (ModuleId, FileId)> {
        self.loaded.iter().enumerate().map(|(index, loaded)| (ModuleId(index as u32), loaded.file))
    }

    pub fn item(&self, id: ItemId) -> &Item {
        &self.loaded[id.module.0 as usize].tree.items[id.index]
    }

    /// The module that a `use` names.
    pub fn at_path(&self, path: &[&str]) -> Option<(ModuleId, FileId)> {
        let key: Vec<String> = path.iter().map(|&segment| segment.to_owned()).collect();
        let &id = self.by_path.get(&key)?;
        Some((id, self.file(id)))
    }

    /// An item of `std.<module>`, whether the file imports it or not.
    pub fn standard_item(&self, module: &str, name: &str) -> Option<ItemId> {
        let &module = self.by_path.get(&vec!["std".to_owned(), module.to_owned()])?;
        Some(self.lookup(module, name)?.item)
    }

    /// Whether a module belongs to the standard library.
    pub fn is_standard(&self, id: ModuleId) -> bool {
        self.loaded[id.0 as usize].standard
    }

    /// The divergences that need no import.
    pub fn standard_divergences(&self) -> impl Iterator<Item = &'static str> {
        STANDARD_DIVERGENCES.iter().copied()
    }

    pub fn set_value(&self, id: ModuleId, name: &str) -> Option<Expr> {
        self.loaded[id.0 as usize].set.get(name).cloned()
    }

    /// The value from `--set OWNER.PARAMETER=...`.
    pub fn set_argument(&self, id: ModuleId, owner: &str, parameter: &str) -> Option<Expr> {
        let set = &self.loaded[id.0 as usize].set;
        if set.is_empty() { None } else { set.get(&format!("{owner}.{parameter}")).cloned() }
    }
}

/// The divergences that need no import.
static STANDARD_DIVERGENCES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let lines = DIVERGENCES_TEXT.lines().filter_map(|line| line.strip_prefix("pub divergence "));
    lines.filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect()
});

pub fn is_standard_divergence(name: &str) -> bool {
    STANDARD_DIVERGENCES.contains(&name)
}

/// The name that an item declares.
pub fn declared_name(kind: &ItemKind) -> Option<&Name> {
    match kind {
        ItemKind::Param(parameter) => Some(&parameter.name),
        ItemKind::Let { name, .. }
        | ItemKind::Fn { name, .. }
        | ItemKind::Domain { name, .. }
        | ItemKind::Reward { name, .. }
        | ItemKind::Schedule { name, .. }
        | ItemKind::Stage { name, .. }
        | ItemKind::Objective { name, .. }
        | ItemKind::Template { name, .. }
        | ItemKind::Divergence(DivergenceItem { name, .. })
        | ItemKind::Rollout { name, .. }
        | ItemKind::Panel { name, .. }
        | ItemKind::Eval { name, .. } => Some(name),
        ItemKind::Model(binding) | ItemKind::Teacher { binding, .. } => Some(&binding.name),
        ItemKind::Use(_)
        | ItemKind::Experiment { .. }
        | ItemKind::Route(_)
        | ItemKind::Compare { .. }
        | ItemKind::Sweep { .. } => None,
    }
}

/// The edit that adds `import`, a `use`, to a file: its offset and its text.
pub(crate) fn import_edit(tree: &Module, text: &str, import: &str) -> (u32, String) {
    let uses = tree.items.iter().filter(|item| matches!(item.kind, ItemKind::Use(_)));
    match uses.map(|item| item.span.end).max() {
        Some(end) => (end, format!("\n{import}")),
        None => {
            let head: usize =
                text.split_inclusive('\n').take_while(|line| line.starts_with("//!")).map(str::len).sum();
            let blank = usize::from(head > 0 && text[head..].starts_with('\n'));
            ((head + blank) as u32, format!("{import}\n\n"))
        }
    }
}
