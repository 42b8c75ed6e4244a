//! Changes that an editor offers at a place without a mistake: a copy of what is imported, a variant of a
//! model.

use std::collections::BTreeSet;

use super::ENTRY;
use crate::check::Analysis;
use crate::check::index::{NameTarget, SymbolId, SymbolKind};
use crate::check::{declared_name, is_standard_divergence, taken_name};
use crate::source::{FileId, Span};
use crate::syntax::ast::{ExprKind, Item, ItemKind};

/// A change of the entry file: edits that don't overlap, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refactoring {
    pub title: String,
    pub edits: Vec<(Span, String)>,
}

/// What can be done with the name at an offset.
pub fn refactorings(analysis: &Analysis, offset: u32) -> Vec<Refactoring> {
    let Some(NameTarget::Symbol(id)) = analysis.index.at(ENTRY, offset).map(|found| found.target) else {
        return Vec::new();
    };
    [copied(analysis, id), varied(analysis, id)].into_iter().flatten().collect()
}

/// An import as declarations of the file, to be changed there: of an objective, a function, a stage, with
/// what they need of their module.
fn copied(analysis: &Analysis, id: SymbolId) -> Option<Refactoring> {
    let symbol = analysis.index.symbol(id);
    let file = symbol.span.file;
    let may = matches!(
        symbol.kind,
        SymbolKind::Objective
            | SymbolKind::Fn
            | SymbolKind::Stage
            | SymbolKind::Divergence
            | SymbolKind::Template
            | SymbolKind::Rollout
    );
    if file == ENTRY || !may {
        return None;
    }
    let entry = analysis.index.tree(ENTRY)?;
    let (item, import, index) = entry.items.iter().find_map(|item| {
        let ItemKind::Use(import) = &item.kind else { return None };
        let index = import.names.iter().position(|name| name.text == symbol.name)?;
        Some((item, import, index))
    })?;
    let needed = needed(analysis, file, &symbol.name)?;
    let module = analysis.index.tree(file)?;
    let declared: Vec<&str> = needed.iter().filter_map(|index| name_of(&module.items[*index])).collect();
    // A name that the file uses for something else would change its meaning.
    let taken = entry.items.iter().filter_map(|item| name_of(item)).any(|name| declared.contains(&name));
    let other_imports = entry.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Use(other) => Some(other.names.iter().map(|name| name.text.as_str())),
        _ => None,
    });
    let mut imported = other_imports.flatten().filter(|name| *name != symbol.name);
    if taken || imported.any(|name| declared.contains(&name)) {
        return None;
    }
    let source = &analysis.sources.file(file).text;
    let texts: Vec<String> = needed.iter().map(|index| private(source, &module.items[*index])).collect();
    let text = &analysis.sources.file(ENTRY).text;
    let end = text.len();
    let gap = if text.ends_with('\n') || text.is_empty() { "\n" } else { "\n\n" };
    Some(Refactoring {
        title: format!("copy `{}` into this file", symbol.name),
        edits: vec![
            (taken_name(text, item, import, index), String::new()),
            (Span::new(ENTRY, end, end), format!("{gap}{}\n", texts.join("\n\n"))),
        ],
    })
}

fn name_of(item: &Item) -> Option<&str> {
    declared_name(&item.kind).map(|name| name.text.as_str())
}

/// The items of a module that one of its items needs, itself included, in order. `None` where it needs
/// another module, or a text in a file, whose path is relative to the module.
fn needed(analysis: &Analysis, file: FileId, name: &str) -> Option<BTreeSet<usize>> {
    let items = &analysis.index.tree(file)?.items;
    let index_of = |name: &str| items.iter().position(|item| name_of(item) == Some(name));
    let mut needed = BTreeSet::new();
    let mut waiting = vec![index_of(name)?];
    while let Some(index) = waiting.pop() {
        if !needed.insert(index) {
            continue;
        }
        if matches!(&items[index].kind, ItemKind::Template { text, .. } if !matches!(text.kind, ExprKind::Text(_)))
        {
            return None;
        }
        let span = items[index].span;
        for a_use in analysis.index.uses_in(file).iter().filter(|a_use| a_use.span.is_within(span)) {
            let NameTarget::Symbol(id) = a_use.target else { continue };
            let symbol = analysis.index.symbol(id);
            // The standard divergences need no import.
            let is_known = symbol.span.is_within(span) || is_standard_divergence(&symbol.name);
            if symbol.owner.is_some() || is_known {
                continue;
            }
            if symbol.span.file != file {
                return None;
            }
            waiting.extend(index_of(&symbol.name));
        }
    }
    Some(needed)
}

/// The text of an item with its documentation, without `pub`.
fn private(source: &str, item: &Item) -> String {
    let text = &source[item.span.start as usize..item.span.end as usize];
    let text = text.strip_prefix("pub ").map_or(text, str::trim_start);
    let doc: String =
        item.doc.lines().map(|line| format!("/// {line}").trim_end().to_owned() + "\n").collect();
    doc + text
}

/// A model or teacher of the file with a setting to change, behind it.
fn varied(analysis: &Analysis, id: SymbolId) -> Option<Refactoring> {
    let symbol = analysis.index.symbol(id);
    if symbol.span.file != ENTRY {
        return None;
    }
    let entry = analysis.index.tree(ENTRY)?;
    let item = entry.items.iter().find(|item| name_of(item) == Some(&symbol.name))?;
    let (keyword, binding) = match &item.kind {
        ItemKind::Model(binding) => ("model", binding),
        ItemKind::Teacher { binding, parameters } if parameters.is_empty() => ("teacher", binding),
        _ => return None,
    };
    let has_settings = match &binding.value.kind {
        ExprKind::Call { block, .. } => block.is_some(),
        ExprKind::With { .. } => true,
        _ => false,
    };
    if !binding.indices.is_empty() || !has_settings {
        return None;
    }
    let is_taken = |name: &str| entry.items.iter().any(|item| name_of(item) == Some(name));
    let name = (2..).map(|number| format!("{}_{number}", symbol.name)).find(|name| !is_taken(name))?;
    let end = item.span.end as usize;
    Some(Refactoring {
        title: format!("make a variant of `{}`", symbol.name),
        edits: vec![(
            Span::new(ENTRY, end, end),
            format!("\n\n{keyword} {name} = {} with {{  }}", symbol.name),
        )],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, cursor};
    use super::*;

    /// The text after the change of this title at the cursor. It has no error that it did not have.
    fn changed(marked: &str, title: &str) -> Option<String> {
        let (text, offset) = cursor(marked);
        let analysis = check(&text);
        let wanted = refactorings(&analysis, offset).into_iter().find(|offered| offered.title == title)?;
        let mut changed = text.clone();
        for (span, new) in wanted.edits.iter().rev() {
            changed.replace_range(span.start as usize..span.end as usize, new);
        }
        assert!(check(&changed).has_errors() <= analysis.has_errors(), "{changed}");
        Some(changed)
    }

    #[test]
    fn an_imported_objective_is_copied_with_what_it_needs() {
        let text = "use std.opd.{mopd, mopd_top_k}\nlet a = mopd<CURSOR>(clip_at: 5)\n";
        let copied = changed(text, "copy `mopd` into this file").expect("an import");
        assert!(copied.starts_with("use std.opd.{mopd_top_k}\nlet a = mopd(clip_at: 5)\n\n///"), "{copied}");
        assert!(copied.contains("\nobjective mopd(") && !copied.contains("pub "), "{copied}");
        let alone =
            changed("use std.opd.mopd<CURSOR>\nlet a = mopd(clip_at: 5)\n", "copy `mopd` into this file");
        assert!(alone.is_some_and(|text| text.starts_with("let a = mopd(clip_at: 5)\n\n")));
        // What the file declares is there already.
        let declared = "objective mine {\n  term t = live kl(student || teacher)\n  reduce = mean(token)\n}\nlet a = mi<CURSOR>ne()\n";
        assert_eq!(changed(declared, "copy `mine` into this file"), None);
    }

    #[test]
    fn a_variant_is_declared_behind_its_base() {
        let good = super::super::testing::GOOD;
        let marked = good.replacen("model start ", "model start<CURSOR> ", 1);
        let varied = changed(&marked, "make a variant of `start`").expect("a model with settings");
        assert!(varied.contains("}\n\nmodel start_2 = start with {  }\n"), "{varied}");
        let again = varied.replacen("model start ", "model start<CURSOR> ", 1);
        let again = changed(&again, "make a variant of `start`").expect("a model with settings");
        assert!(again.contains("model start_3 = start with"), "{again}");
        assert_eq!(
            changed(&good.replacen("domain sort", "domain sort<CURSOR>", 1), "make a variant of `sort`"),
            None
        );
    }
}
