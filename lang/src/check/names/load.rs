//! Loads files, collects their declarations and resolves their imports.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{MOST_BYTES, SourceFile, Sources};
use crate::syntax::ast::{Expr, ItemKind, Module, ModuleName, Name, Parameter};
use crate::syntax::words;

use crate::check::builtins::reserved::{self, SLOTS};
use crate::check::builtins::{self, vocabulary};
use crate::check::names::callable::{callable, signature};
use crate::check::names::modules::{
    DIVERGENCES, DIVERGENCES_TEXT, Declared, GRPO_OBJECTIVE, ItemId, LoadedModules, ModuleId, Modules,
    SFT_OBJECTIVE, declared_name, folder_of, is_standard_divergence, joined, path_of_text, standard_path,
};
use crate::check::names::parse_cache::ParseCache;
use crate::check::reporter::reported::ReportedDiagnostics;

/// Whether files may not declare this name. A `called` name would be taken for a built-in; modules of the
/// standard library may declare the standard divergences.
pub(crate) fn is_taken(name: &str, called: bool, standard: bool) -> bool {
    called && (builtins::find(name).is_some() || !standard && is_standard_divergence(name))
        || reserved::is_reserved(name)
        || words::FOREIGN_VALUES.contains(&name)
}

/// Whether a parameter may not have this name. A parameter for a role may have the role's name.
pub(crate) fn is_taken_for_parameters(name: &str, role: bool) -> bool {
    // These name a part (of a model or a completion) as well as a number.
    let part = matches!(name, "head" | "block" | "turn");
    let read = reserved::is_reserved(name) || vocabulary::signal(name).is_some() && !role;
    read && !part || words::FOREIGN_VALUES.contains(&name)
}

/// Whether a template's parameter of this name would hide a slot.
pub(crate) fn is_slot(name: &str) -> bool {
    SLOTS.contains(&name) || name == "group"
}

/// The parsed files, each a tree, with the items that names declare.
pub struct Parsed {
    pub sources: Sources,
    pub modules: Modules,
    pub entry: ModuleId,
    pub diagnostics: ReportedDiagnostics,
}

/// Reads the entry file and, transitively, its imports. The cache then has these files.
pub fn parse_all(entry: SourceFile, load: Loader, cache: &mut ParseCache) -> Parsed {
    let mut files = Files {
        load,
        cache,
        sources: Sources::default(),
        modules: Modules::default(),
        diagnostics: ReportedDiagnostics::default(),
    };
    // The public names of the standard library, for suggestions; empty where the host has none.
    files.modules.library = load("std:").map(|source| source.text).unwrap_or_default();
    let entry = files.read(entry, String::new(), String::new());
    // The modules that built-in stages take their objectives from.
    for module in [GRPO_OBJECTIVE.module, SFT_OBJECTIVE.module, DIVERGENCES] {
        files.find_file(standard_path(module), "");
    }
    let Files { sources, modules, diagnostics, .. } = files;
    cache.forget_unread();
    Parsed { sources, modules, entry, diagnostics }
}

/// The files read so far.
struct Files<'a> {
    load: Loader<'a>,
    cache: &'a mut ParseCache,
    sources: Sources,
    modules: Modules,
    diagnostics: ReportedDiagnostics,
}

impl Files<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.add(diagnostic);
    }

    /// Parses a file and, transitively, its imports.
    fn read(&mut self, source: SourceFile, folder: String, root: String) -> ModuleId {
        let file = self.sources.add(source);
        let source = self.sources.file(file);
        let standard = source.path.starts_with("std:") || source.text == DIVERGENCES_TEXT;
        let (tree, diagnostics) = self.cache.parse(&source.path, file, &source.text);
        for diagnostic in diagnostics {
            self.report(diagnostic);
        }
        let id = ModuleId(self.modules.loaded.len() as u32);
        self.modules.loaded.push(LoadedModules {
            folder,
            root,
            ..LoadedModules::new(file, standard, tree.clone())
        });
        for (index, item) in tree.items.iter().enumerate() {
            if let Some(name) = declared_name(&item.kind) {
                self.declare(id, name, ItemId { module: id, index });
            }
            if let Some((_, parameters)) = signature(&item.kind) {
                let template = matches!(item.kind, ItemKind::Template { .. });
                self.check_parameters(parameters, template);
            }
            if let ItemKind::Template { text, .. } = &item.kind {
                self.text_in_file(id, text);
            }
        }
        for item in &tree.items {
            if let ItemKind::Use(import) = &item.kind {
                self.import(id, &import.module, &import.names);
            }
        }
        id
    }

    fn declare(&mut self, module: ModuleId, name: &Name, item: ItemId) {
        let tree = self.modules.tree(item.module);
        let standard = item.module != module || self.modules.is_standard(module);
        let called = callable(&tree.items[item.index].kind).is_some();
        if is_taken(&name.text, called, standard) {
            let foreign = words::FOREIGN_VALUES.contains(&name.text.as_str());
            let (text, label) = match foreign {
                true => (format!("`{}` can't be a name", name.text), "a value in other languages"),
                false => {
                    (format!("`{}` has a meaning of its own in mopd", name.text), "can't be declared again")
                }
            };
            let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
            self.report(diagnostic.label(label).help("choose another name"));
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

    /// Reports parameters that share a name, or that have the name of something that every objective reads:
    /// it must be clear in the body which is meant.
    fn check_parameters(&mut self, parameters: &[Parameter], of_template: bool) {
        for (at, Parameter { name, annotation, .. }) in parameters.iter().enumerate() {
            // A role may be a parameter: `teacher: teacher`.
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
            } else if is_taken_for_parameters(&name.text, role) {
                let text = match words::FOREIGN_VALUES.contains(&name.text.as_str()) {
                    true => format!("`{}` can't be a name: other languages have a value of it", name.text),
                    false => {
                        format!("`{}` is a built-in name already: every objective can read it", name.text)
                    }
                };
                let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
                self.report(diagnostic.label("can't be a parameter").help("choose another name"));
            } else if of_template && is_slot(&name.text) {
                let text = format!("`{{{}}}` is a slot of every template", name.text);
                let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
                self.report(diagnostic.label("the parameter would hide it").help("choose another name"));
            }
        }
    }

    fn import(&mut self, into: ModuleId, path: &ModuleName, names: &[Name]) {
        let Some(module) = self.find_module(into, path, names) else {
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
                    format!("`{path}` has no `{}`", name.text),
                )
                .label("not declared there");
                let meant = near.clone();
                let again = near.as_deref().is_some_and(|near| imports(&self.modules.tree(into), near));
                let elsewhere = self.modules.of_library(&name.text).map(str::to_owned);
                self.report(match (near, elsewhere, names) {
                    (Some(near), None, _) if again => {
                        diagnostic.help(format!("`{near}` is imported already: remove this name"))
                    }
                    (Some(near), None, _) => diagnostic.did_you_mean(&name.text, &near),
                    (_, Some(module), [_]) => {
                        let ours = format!("std.{module}.{}", name.text);
                        let whole = path.span().map_or(name.span, |path| path.to(name.span));
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
                        format!("`{}` is private to `{path}`", name.text),
                    )
                    .label("not for import")
                    .note(declared.span, "declared without `pub`")
                    .help(format!("write `pub` before it in `{path}`")),
                );
            }
            self.declare(into, name, ItemId { module, index });
        }
    }

    /// Notes names that could not be imported, so that their uses are not reported.
    fn lose(&mut self, into: ModuleId, names: &[Name]) {
        if names.is_empty() {
            self.modules.lacking.insert(into);
        }
        self.modules.lost.extend(names.iter().map(|name| (into, name.text.clone())));
    }

    /// Reads the text of a template that is in a file.
    fn text_in_file(&mut self, from: ModuleId, text: &Expr) {
        let Some((path, span)) = path_of_text(text) else { return };
        let path = joined(&self.modules.loaded[from.0 as usize].folder, path);
        if self.modules.texts.contains_key(&path) {
            return;
        }
        match (self.load)(&path) {
            Some(file) if file.text.len() > MOST_BYTES => {
                let text = "this file is too long for the text of a template";
                let diagnostic = Diagnostic::error(Code::OutOfRange, span, text);
                self.report(diagnostic.help("a template has at most 256 KiB of text"));
            }
            Some(file) => {
                let file = self.sources.add_text(file);
                self.modules.texts.insert(path, file);
            }
            None => {
                let diagnostic = Diagnostic::error(Code::MissingFile, span, "there is no such file");
                let label = format!("looked for at `{path}`, from the folder of the experiment");
                self.report(diagnostic.label(label));
            }
        }
    }

    /// The module at a path of the host. Modules that it imports by their names are found in `root`.
    fn find_file(&mut self, path: String, root: &str) -> Option<ModuleId> {
        if let Some(&known) = self.modules.by_path.get(&path) {
            return Some(known);
        }
        let source = (self.load)(&path).or_else(|| {
            let divergences = path == standard_path(DIVERGENCES);
            divergences.then(|| SourceFile { path: path.clone(), text: DIVERGENCES_TEXT.to_owned() })
        })?;
        // Registered before its own imports are read, so that two modules may import each other.
        let id = ModuleId(self.modules.loaded.len() as u32);
        let folder = folder_of(&path).to_owned();
        self.modules.by_path.insert(path, id);
        Some(self.read(source, folder, root.to_owned()))
    }

    /// The module that a `use` names. An import that could not be read has no path; that has been reported.
    fn find_module(&mut self, from: ModuleId, module: &ModuleName, names: &[Name]) -> Option<ModuleId> {
        let path = self.modules.path_of(from, module)?;
        let span = module.span()?;
        let ModuleName::Words(words) = module else {
            let root = folder_of(&path).to_owned();
            let found = self.find_file(path.clone(), &root);
            if found.is_none() {
                let text = format!("there is no file {module}");
                let diagnostic = Diagnostic::error(Code::UnknownModule, span, text);
                self.report(diagnostic.label("looked for from the folder of this file"));
            }
            return found;
        };
        let segments: Vec<&str> = words.iter().map(|name| name.text.as_str()).collect();
        // For `std` itself the host returns the library's table of contents, which is not a module.
        let root = self.modules.loaded[from.0 as usize].root.clone();
        let found = if segments == ["std"] { None } else { self.find_file(path, &root) };
        if found.is_some() {
            return found;
        }
        let standard = segments[0] == "std";
        let where_from = match (standard, names) {
            (true, [name])
                if segments.len() == 1
                    && self.modules.library_modules().any(|module| module == name.text) =>
            {
                "this names a module, but no item of it".to_owned()
            }
            (true, _) => "the standard library has no such module".to_owned(),
            _ => format!("there is no `{}.mopd` next to this file", segments.join("/")),
        };
        let text = match (segments.as_slice(), names) {
            (["std"], [name]) => format!("`std.{}` must name a module and an item of it", name.text),
            _ => format!("there is no module `{module}`"),
        };
        let diagnostic = Diagnostic::error(Code::UnknownModule, span, text);
        let diagnostic = diagnostic.label(where_from);
        let whole = names.last().filter(|_| names.len() == 1).map(|name| span.to(name.span));
        let all_in = |module: &str| names.iter().all(|name| self.library_has(module, &name.text));
        let diagnostic = match (segments.as_slice(), names) {
            // `use opd.mopd` without `std`.
            ([module], _) if !standard && !names.is_empty() && all_in(module) => {
                let ours = format!("std.{module}");
                diagnostic
                    .help(format!("the standard library has `{ours}`"))
                    .replace_with(format!("write `{ours}`"), ours)
            }
            // `use std.mopd`: the module between the two is missing.
            (["std"], [name])
                if let (Some(module), Some(whole)) = (self.modules.of_library(&name.text), whole)
                    && !self.modules.library_modules().any(|known| known == name.text) =>
            {
                let ours = format!("std.{module}.{}", name.text);
                diagnostic.help(format!("it is `{ours}`")).fix(format!("write `{ours}`"), whole, ours)
            }
            // `use std.opd`: the names to import are missing.
            (["std"], [module]) if self.modules.library_modules().any(|known| known == module.text) => {
                let offered: Vec<&str> = self.modules.offered(&module.text).take(4).collect();
                diagnostic.help(format!(
                    "name the items to import: `use std.{}.{{{}}}`",
                    module.text,
                    offered.join(", ")
                ))
            }
            (["std", module], _) => {
                let near = nearest(module, self.modules.library_modules()).map(str::to_owned);
                match near {
                    Some(near) => {
                        let diagnostic = diagnostic.help(format!("did you mean `std.{near}`?"));
                        let span = words[1].span;
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
}
/// Whether a file imports a name.
fn imports(tree: &Module, name: &str) -> bool {
    let uses = tree.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Use(import) => Some(import),
        _ => None,
    });
    uses.flat_map(|import| &import.names).any(|imported| imported.text == name)
}

/// Loads a file: a module of the standard library, `std:opd.mopd`, its table of contents, `std:`, or a path
/// from the folder of the entry file. `None` where there is none.
pub type Loader<'a> = &'a dyn Fn(&str) -> Option<SourceFile>;
