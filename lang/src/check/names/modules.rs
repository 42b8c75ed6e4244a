//! Modules: the files of an analysis, their imports, and the names visible in each.

use std::rc::Rc;
use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::source::{FileId, Span};
use crate::syntax::ast::{DivergenceItem, Expr, ExprKind, Item, ItemKind, Module, ModuleName, Name, Use};

use crate::check::names::allow::with_blanks;

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

/// The path at which a host has a module of the standard library.
pub fn standard_path(module: &str) -> String {
    format!("std:{module}.mopd")
}

/// A path in a folder, without `.` and, where that is possible, `..`.
pub fn joined(folder: &str, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match (part, parts.last()) {
            ("" | ".", _) => {}
            ("..", Some(&last)) if last != ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let absolute = path.starts_with('/') || folder.starts_with('/');
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
}

/// The path of a template's text in a file, `file("shown.txt")`, and its place.
pub fn path_of_text(value: &Expr) -> Option<(&str, Span)> {
    let ExprKind::Call { callee, arguments, block: None } = &value.kind else { return None };
    let ([path], ExprKind::Name(name)) = (arguments.as_slice(), &callee.kind) else { return None };
    match &path.value.kind {
        ExprKind::Text(text) if name == "file" => Some((text, path.value.span)),
        _ => None,
    }
}

/// The folder of a path.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| if folder.is_empty() { "/" } else { folder })
}

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
    /// By the path that the host is asked for: `std:opd.mopd`, or a path from the folder of the entry file.
    pub by_path: FxHashMap<String, ModuleId>,
    /// The texts of templates in files, by their paths from the folder of the entry file.
    pub texts: FxHashMap<String, FileId>,
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
    /// The folder of the file, from that of the entry file; empty for the same one.
    pub folder: String,
    /// The folder in which modules are found by their names: that of the entry file, or of the file that a
    /// `use` names by its path.
    pub root: String,
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
        LoadedModules {
            file,
            standard,
            tree,
            names: FxHashMap::default(),
            folder: String::new(),
            root: String::new(),
            set: FxHashMap::default(),
        }
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

    /// The module that a `use` in the module `from` names.
    pub fn imported(&self, from: ModuleId, name: &ModuleName) -> Option<(ModuleId, FileId)> {
        let &id = self.by_path.get(&self.path_of(from, name)?)?;
        Some((id, self.file(id)))
    }

    /// The file of a template's text: `file("shown.txt")` in the module `from`.
    pub fn text_of(&self, from: ModuleId, text: &Expr) -> Option<FileId> {
        let path = joined(&self.loaded[from.0 as usize].folder, path_of_text(text)?.0);
        self.texts.get(&path).copied()
    }

    /// The path of the module that a `use` in the module `from` names. `None` for one that could not be read.
    pub fn path_of(&self, from: ModuleId, name: &ModuleName) -> Option<String> {
        let from = &self.loaded[from.0 as usize];
        match name {
            ModuleName::Words(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
                match words.as_slice() {
                    [] => None,
                    // The table of contents.
                    ["std"] => Some("std:".to_owned()),
                    ["std", rest @ ..] => Some(standard_path(&rest.join("/"))),
                    _ => Some(joined(&from.root, &format!("{}.mopd", words.join("/")))),
                }
            }
            ModuleName::File(path) => Some(joined(&from.folder, &path.text)),
        }
    }

    /// An item of `std.<module>`, whether the file imports it or not.
    pub fn standard_item(&self, module: &str, name: &str) -> Option<ItemId> {
        let &module = self.by_path.get(&standard_path(module))?;
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

/// The part of the text that takes one of an import's names: the whole import where it is the only one.
pub(crate) fn taken_name(text: &str, item: &Item, import: &Use, index: usize) -> Span {
    let span = import.names[index].span;
    match (import.names.get(index + 1), index.checked_sub(1)) {
        (Some(next), _) => Span { end: next.span.start, ..span },
        (None, Some(before)) => Span { start: import.names[before].span.end, ..span },
        (None, None) => with_blanks(text, item.span),
    }
}
