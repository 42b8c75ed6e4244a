//! Files, imports and the names each file sees.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::LazyLock;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{FileId, SourceFile, Span};
use crate::syntax::ast::{Expr, Item, ItemKind, Module, Name, Parameter};
use crate::syntax::parse;

use crate::check::Checker;
use crate::check::Loader;
use crate::check::builtins;
use crate::check::builtins::vocabulary;
use crate::check::formulas::signals;
use crate::check::incremental::cache;
use crate::check::names::index::ValueInfo;
use crate::check::names::items::{callable, signature};
use crate::check::values::value::Value;

/// The objectives that `sft` and `grpo` have where nothing is said: a module of the standard library, and a
/// name in it.
pub const SFT_OBJECTIVE: (&str, &str) = ("sft", "nll");
/// The module whose divergences are known everywhere.
pub const DIVERGENCES: &str = "divergences";
/// They are the language's own: known whatever the host offers. Names are looked up in it often.
const DIVERGENCES_TEXT: &str = include_str!("../../../../stdlib/divergences.mopd");
pub const GRPO_OBJECTIVE: (&str, &str) = ("rl", "grpo_loss");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u32);

/// One item of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemId {
    pub module: ModuleId,
    pub index: usize,
}

/// How far the value of an item has come.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Being evaluated: meeting it again is a cycle.
    Started,
    Done(Value),
    /// A model whose value nobody has needed yet: its check was repeated in outline. With the names that its
    /// models were given, and what it is worth to editors.
    Repeated {
        names: VecDeque<String>,
        info: Option<ValueInfo>,
    },
}

#[derive(Default)]
pub struct Modules {
    loaded: Vec<Loaded>,
    by_path: HashMap<Vec<String>, ModuleId>,
    /// The first module of each file: one that imports itself is loaded twice.
    by_file: HashMap<Rc<str>, ModuleId>,
    pub progress: HashMap<ItemId, Progress>,
    /// Names whose imports have been reported: nothing more is said of them.
    lost: HashSet<(ModuleId, String)>,
    /// Modules with an import of nobody knows what.
    lacking: HashSet<ModuleId>,
    /// What the standard library offers: a line `module name` for each public item.
    library: String,
    /// The names that are looked up, while the check of an item is recorded.
    pub consulted: RefCell<Option<Vec<u32>>>,
}

struct Loaded {
    file: FileId,
    path: Rc<str>,
    /// It is a module of the standard library, whatever the host calls its file.
    standard: bool,
    tree: Rc<Module>,
    names: HashMap<String, Declared>,
    /// Values from `--set`, by the name of the `param`.
    set: HashMap<String, Expr>,
}

/// What a name of a file stands for.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    pub item: ItemId,
    pub span: Span,
}

impl Modules {
    pub fn tree(&self, id: ModuleId) -> Rc<Module> {
        self.loaded[id.0 as usize].tree.clone()
    }

    pub fn lookup(&self, id: ModuleId, name: &str) -> Option<Declared> {
        self.consult(name);
        self.loaded[id.0 as usize].names.get(name).copied()
    }

    /// The item that a name of a file stands for; no dependency is noted.
    pub fn lookup_silently(&self, id: ModuleId, name: &str) -> Option<ItemId> {
        self.loaded[id.0 as usize].names.get(name).map(|declared| declared.item)
    }

    /// Whether the import that should have declared a name has been reported.
    pub fn is_lost(&self, module: ModuleId, name: &str) -> bool {
        self.lacking.contains(&module) || self.lost.contains(&(module, name.to_owned()))
    }

    /// The module of the standard library that has a public `name`; none where several have.
    pub fn of_library(&self, name: &str) -> Option<&str> {
        let offered = self.library.lines().filter_map(|line| line.split_once(' '));
        let mut modules = offered.filter(|(_, offered)| *offered == name).map(|(module, _)| module);
        modules.next().filter(|_| modules.next().is_none())
    }

    /// What a module of the standard library offers.
    fn offered(&self, module: &str) -> impl Iterator<Item = &str> {
        let lines = self.library.lines().filter_map(|line| line.split_once(' '));
        lines.filter(move |(known, _)| *known == module).map(|(_, name)| name)
    }

    /// The modules of the standard library.
    fn library_modules(&self) -> impl Iterator<Item = &str> {
        self.library.lines().filter_map(|line| line.split_once(' ')).map(|(module, _)| module)
    }

    fn consult(&self, name: &str) {
        if let Some(consulted) = self.consulted.borrow_mut().as_mut() {
            consulted.push(cache::hash(name));
        }
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

    /// The path of a module's file, and the first module of that file.
    pub fn path(&self, id: ModuleId) -> (Rc<str>, ModuleId) {
        let path = self.loaded[id.0 as usize].path.clone();
        let first = self.by_file.get(&path).copied().unwrap_or(id);
        (path, first)
    }

    /// The first module of a file.
    pub fn at_file(&self, path: &str) -> Option<ModuleId> {
        self.by_file.get(path).copied()
    }

    pub fn item(&self, id: ItemId) -> &Item {
        &self.loaded[id.module.0 as usize].tree.items[id.index]
    }

    pub fn item_span(&self, id: ItemId) -> Span {
        self.item(id).span
    }

    /// The module that a `use` names.
    pub fn at_path(&self, path: &[&str]) -> Option<(ModuleId, FileId)> {
        let key: Vec<String> = path.iter().map(|&segment| segment.to_owned()).collect();
        let &id = self.by_path.get(&key)?;
        Some((id, self.file(id)))
    }

    /// An item of `std.<module>`, whether the file imports it or not.
    pub fn standard_item(&self, module: &str, name: &str) -> Option<ItemId> {
        self.consult(name); // Should there be no such module: one may come.
        let &module = self.by_path.get(&vec!["std".to_owned(), module.to_owned()])?;
        Some(self.lookup(module, name)?.item)
    }

    /// Whether a module is of the standard library.
    pub fn is_standard(&self, id: ModuleId) -> bool {
        self.loaded[id.0 as usize].standard
    }

    /// The divergences that are known without an import.
    pub fn standard_divergences(&self) -> impl Iterator<Item = &'static str> {
        STANDARD_DIVERGENCES.iter().copied()
    }

    pub fn set_value(&self, id: ModuleId, name: &str) -> Option<Expr> {
        self.loaded[id.0 as usize].set.get(name).cloned()
    }
}

/// The divergences that are known without an import.
static STANDARD_DIVERGENCES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let lines = DIVERGENCES_TEXT.lines().filter_map(|line| line.strip_prefix("pub divergence "));
    lines.filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect()
});

pub fn is_standard_divergence(name: &str) -> bool {
    STANDARD_DIVERGENCES.contains(&name)
}

/// The name that an item declares for others to use.
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
        | ItemKind::Divergence { name, .. }
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

impl Checker {
    /// What the standard library offers, for suggestions; nothing where the host has none.
    pub(in crate::check) fn list_library(&mut self, load: Loader) {
        self.modules.library = load(&["std"]).map(|source| source.text).unwrap_or_default();
    }

    /// Parses a file and, through its imports, everything it needs.
    pub(in crate::check) fn load(&mut self, source: SourceFile, load: Loader) -> ModuleId {
        let file = self.sources.add(source);
        let source = self.sources.file(file);
        let path: Rc<str> = Rc::from(source.path.as_str());
        let standard = path.starts_with("std:") || source.text == DIVERGENCES_TEXT;
        let (tree, diagnostics) = self.cache.parse(&path, file, &source.text);
        for diagnostic in diagnostics {
            self.report(diagnostic);
        }
        let id = ModuleId(self.modules.loaded.len() as u32);
        let tree = Rc::new(tree);
        self.modules.by_file.entry(Rc::clone(&path)).or_insert(id);
        self.modules.loaded.push(Loaded {
            file,
            path,
            standard,
            tree: tree.clone(),
            names: HashMap::new(),
            set: HashMap::new(),
        });
        for (index, item) in tree.items.iter().enumerate() {
            if let Some(name) = declared_name(&item.kind) {
                self.declare(id, name, ItemId { module: id, index });
            }
            if let Some((_, parameters)) = signature(&item.kind) {
                self.check_parameters(parameters);
            }
        }
        for item in &tree.items {
            if let ItemKind::Use(import) = &item.kind {
                self.import(id, &import.module, &import.names, load);
            }
        }
        id
    }

    fn declare(&mut self, module: ModuleId, name: &Name, item: ItemId) {
        let tree = self.modules.tree(item.module);
        let standard = item.module != module || self.modules.is_standard(module);
        let taken = builtins::find(&name.text).is_some() || !standard && is_standard_divergence(&name.text);
        let called = callable(&tree.items[item.index].kind).is_some() && taken;
        if called || signals::is_reserved(&name.text) {
            self.report(
                Diagnostic::error(
                    Code::DuplicateName,
                    name.span,
                    format!("`{}` has a meaning of its own in mopd", name.text),
                )
                .label("can't be declared again")
                .help("choose another name"),
            );
            return;
        }
        let names = &mut self.modules.loaded[module.0 as usize].names;
        match names.get(&name.text).copied() {
            // A duplicate keeps its first meaning.
            Some(first) => self.report(
                Diagnostic::error(
                    Code::DuplicateName,
                    name.span,
                    format!("`{}` is declared twice", name.text),
                )
                .label("declared again here")
                .note(first.span, "first declared here")
                .help("give one of them another name"),
            ),
            None => {
                names.insert(name.text.clone(), Declared { item, span: name.span });
            }
        }
    }

    /// Every parameter has a name of its own, and none of what every objective reads: whoever reads the body
    /// must know which is meant.
    fn check_parameters(&mut self, parameters: &[Parameter]) {
        for (at, Parameter { name, annotation, .. }) in parameters.iter().enumerate() {
            // A role may be a parameter: `teacher: teacher`.
            let part = matches!(name.text.as_str(), "head" | "block" | "turn");
            let role =
                annotation.as_ref().is_none_or(|kind| matches!(kind.text.as_str(), "teacher" | "model"));
            if let Some(first) = parameters[..at].iter().find(|first| first.name.text == name.text) {
                let text = format!("the parameter `{}` is declared twice", name.text);
                let diagnostic =
                    Diagnostic::error(Code::DuplicateName, name.span, text).label("declared again here");
                self.report(
                    diagnostic
                        .note(first.name.span, "first declared here")
                        .help("give one of them another name"),
                );
            } else if part {
                // What a number is of, as well as the number itself.
                continue;
            } else if signals::is_reserved(&name.text) || (vocabulary::signal(&name.text).is_some() && !role)
            {
                let text = format!("`{}` is what every objective reads under this name", name.text);
                let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
                self.report(diagnostic.label("can't be a parameter").help("choose another name"));
            }
        }
    }

    fn import(&mut self, into: ModuleId, path: &[Name], names: &[Name], load: Loader) {
        let Some(module) = self.find_module(path, names, load) else {
            self.lose(into, names);
            return;
        };
        let tree = self.modules.tree(module);
        for name in names {
            let found = tree
                .items
                .iter()
                .position(|item| declared_name(&item.kind).is_some_and(|n| n.text == name.text));
            let Some(index) = found else {
                let public =
                    tree.items.iter().filter(|item| item.public).filter_map(|item| declared_name(&item.kind));
                let near = nearest(&name.text, public.map(|name| name.text.as_str())).map(str::to_owned);
                let diagnostic = Diagnostic::error(
                    Code::UnknownName,
                    name.span,
                    format!("`{}` has no `{}`", dotted(path), name.text),
                )
                .label("not declared there");
                let meant = near.clone();
                let elsewhere = self.modules.of_library(&name.text).map(str::to_owned);
                self.report(match (near, elsewhere, names) {
                    (Some(near), None, _) => diagnostic.did_you_mean(&name.text, &near),
                    (_, Some(module), [_]) => {
                        let ours = format!("std.{module}.{}", name.text);
                        let whole = path.first().map_or(name.span, |first| first.span.to(name.span));
                        diagnostic.help(format!("it is `{ours}`")).fix(
                            format!("import `{ours}`"),
                            whole,
                            ours,
                        )
                    }
                    (_, Some(module), _) => diagnostic.help(format!("it is `std.{module}.{}`", name.text)),
                    _ => diagnostic,
                });
                self.lose(into, std::slice::from_ref(name));
                self.modules.lost.extend(meant.map(|meant| (into, meant)));
                continue;
            };
            if !tree.items[index].public {
                let declared = declared_name(&tree.items[index].kind).expect("found by its name");
                self.report(
                    Diagnostic::error(
                        Code::NotPublic,
                        name.span,
                        format!("`{}` is private to `{}`", name.text, dotted(path)),
                    )
                    .label("not for import")
                    .note(declared.span, "declared without `pub`")
                    .help(format!("write `pub` before it in `{}`", dotted(path))),
                );
            }
            self.declare(into, name, ItemId { module, index });
        }
    }

    /// Nothing more is said of names that could not be imported.
    fn lose(&mut self, into: ModuleId, names: &[Name]) {
        if names.is_empty() {
            self.modules.lacking.insert(into);
        }
        self.modules.lost.extend(names.iter().map(|name| (into, name.text.clone())));
    }

    /// The modules that built-in stages take their objectives from.
    pub(in crate::check) fn load_defaults(&mut self, load: Loader) {
        for (module, _) in [GRPO_OBJECTIVE, SFT_OBJECTIVE, (DIVERGENCES, "")] {
            self.find_file(&["std", module], load);
        }
    }

    fn find_file(&mut self, path: &[&str], load: Loader) -> Option<ModuleId> {
        let key: Vec<String> = path.iter().map(|&segment| segment.to_owned()).collect();
        if let Some(&known) = self.modules.by_path.get(&key) {
            return Some(known);
        }
        let source = load(path).or_else(|| {
            let own = path == ["std", DIVERGENCES];
            let file = || (format!("std:{DIVERGENCES}.mopd"), DIVERGENCES_TEXT.to_owned());
            own.then(file).map(|(path, text)| SourceFile { path, text })
        })?;
        // Known before its own imports are read, so that two modules may import each other.
        let id = ModuleId(self.modules.loaded.len() as u32);
        self.modules.by_path.insert(key, id);
        Some(self.load(source, load))
    }

    /// The module that a `use` names. An import that could not be read has no path; that has been reported.
    fn find_module(&mut self, path: &[Name], names: &[Name], load: Loader) -> Option<ModuleId> {
        let segments: Vec<&str> = path.iter().map(|name| name.text.as_str()).collect();
        let span = path.first()?.span.to(path.last()?.span);
        // Under `std` itself the host lists what the library has: that is no module.
        let found = if segments == ["std"] { None } else { self.find_file(&segments, load) };
        if found.is_some() {
            return found;
        }
        let standard = segments[0] == "std";
        let where_from = match (standard, names) {
            (true, [name])
                if segments.len() == 1
                    && self.modules.library_modules().any(|module| module == name.text) =>
            {
                "a module, and not what is taken from it".to_owned()
            }
            (true, _) => "the standard library has no such module".to_owned(),
            _ => format!("there is no `{}.mopd` next to this file", segments.join("/")),
        };
        let text = match (segments.as_slice(), names) {
            (["std"], [name]) => format!("`std.{}` names no module and what is taken from it", name.text),
            _ => format!("there is no module `{}`", dotted(path)),
        };
        let diagnostic = Diagnostic::error(Code::UnknownModule, span, text);
        let diagnostic = diagnostic.label(where_from);
        let whole = names.last().filter(|_| names.len() == 1).map(|name| span.to(name.span));
        let all_in = |module: &str| names.iter().all(|name| self.library_has(module, &name.text));
        let diagnostic = match (segments.as_slice(), names) {
            // `use opd.mopd`
            ([module], _) if !standard && !names.is_empty() && all_in(module) => {
                let ours = format!("std.{module}");
                diagnostic
                    .help(format!("the standard library has `{ours}`"))
                    .replace_with(format!("write `{ours}`"), ours)
            }
            // `use std.mopd`: the module between them is left out.
            (["std"], [name])
                if let (Some(module), Some(whole)) = (self.modules.of_library(&name.text), whole)
                    && !self.modules.library_modules().any(|known| known == name.text) =>
            {
                let ours = format!("std.{module}.{}", name.text);
                diagnostic.help(format!("it is `{ours}`")).fix(format!("write `{ours}`"), whole, ours)
            }
            // `use std.opd`: what is taken from it is left out.
            (["std"], [module]) if self.modules.library_modules().any(|known| known == module.text) => {
                let offered: Vec<&str> = self.modules.offered(&module.text).take(4).collect();
                diagnostic.help(format!(
                    "say what is taken from it: `use std.{}.{{{}}}`",
                    module.text,
                    offered.join(", ")
                ))
            }
            (["std", module], _) => {
                let near = nearest(module, self.modules.library_modules()).map(str::to_owned);
                match near {
                    Some(near) => {
                        let diagnostic = diagnostic.help(format!("did you mean `std.{near}`?"));
                        let span = path[1].span;
                        diagnostic.fix(format!("write `std.{near}`"), span, near).possibly()
                    }
                    None => diagnostic.help("the book's page on the standard library lists its modules"),
                }
            }
            _ => diagnostic,
        };
        self.report(diagnostic);
        None
    }

    fn library_has(&self, module: &str, name: &str) -> bool {
        self.modules.offered(module).any(|offered| offered == name)
    }

    /// `--set name=value`: each value is parsed as an expression in a file of its own, so that mistakes in it
    /// have a place.
    pub(in crate::check) fn apply_overrides(&mut self, entry: ModuleId, overrides: &[(String, String)]) {
        for (name, value) in overrides {
            let text = format!("let {name} = {value}\n");
            let file = self.sources.add(SourceFile { path: format!("--set {name}"), text: text.clone() });
            let (tree, diagnostics) = parse(file, &text);
            let bad = !diagnostics.is_empty();
            for diagnostic in diagnostics {
                self.report(diagnostic);
            }
            let [item] = tree.items.as_slice() else { continue };
            let ItemKind::Let { name: place, value } = &item.kind else { continue };
            if bad {
                continue;
            }
            if name == "seed" {
                let value = self.evaluate_constant(entry, value);
                self.seed = self.whole(&value, item.span, "the seed", 0);
                continue;
            }
            let tree = self.modules.tree(entry);
            let parameters = tree.items.iter().filter_map(|item| match &item.kind {
                ItemKind::Param(parameter) => Some(parameter.name.text.as_str()),
                _ => None,
            });
            let parameters: Vec<&str> = parameters.chain(["seed"]).collect();
            if parameters.contains(&name.as_str()) {
                self.modules.loaded[entry.0 as usize].set.insert(name.clone(), value.clone());
            } else {
                let mut diagnostic = Diagnostic::error(
                    Code::UnknownName,
                    place.span,
                    format!("the experiment has no `param {name}` that could be set"),
                )
                .label(format!("can be set: {}", parameters.join(", ")));
                if let Some(near) = nearest(name, parameters) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                self.report(diagnostic);
            }
        }
    }
}

fn dotted(path: &[Name]) -> String {
    path.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join(".")
}
