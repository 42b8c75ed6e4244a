//! Checks whether a name can be renamed, and to which names.

use super::ENTRY;
use super::references::declared_target;
use crate::check::index::{SymbolId, SymbolKind};
use crate::check::{Analysis, builtins, is_role, is_slot, is_taken, named_number, vocabulary};
use crate::source::{FileId, Span};
use crate::syntax::words;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenameProblem(pub String);

/// The symbol at an offset and the name's place there.
pub fn renameable(analysis: &Analysis, offset: u32) -> Result<(SymbolId, Span), RenameProblem> {
    let problem = |text: &str| Err(RenameProblem(text.to_owned()));
    let Some(found) = analysis.index.at(ENTRY, offset) else {
        return problem("there is no name here that could be changed");
    };
    let Some(id) = declared_target(analysis, ENTRY, offset) else {
        return problem("this word is part of the language: its name can't be changed");
    };
    let declared = analysis.index.symbol(id).span.file;
    if analysis.sources.file(declared).path.starts_with("std:") {
        return problem("this is declared in the standard library: its name can't be changed");
    }
    Ok((id, found.span))
}

/// Checks that a symbol can be renamed to `new`, as far as this analysis shows: in every file that uses it,
/// nothing else may have that name.
pub fn check_new_name(analysis: &Analysis, id: SymbolId, new: &str) -> Result<(), RenameProblem> {
    let bytes = new.as_bytes();
    if bytes.is_empty() || words::word_length(bytes) != bytes.len() || bytes[0].is_ascii_digit() {
        return Err(RenameProblem(format!(
            "`{new}` is no name: a name has letters, digits and `_`, and begins with no digit"
        )));
    }
    if words::RESERVED.contains(&new) {
        return Err(RenameProblem(format!("`{new}` is a word of the language")));
    }
    let symbol = analysis.index.symbol(id);
    if symbol.name == new {
        return Ok(());
    }
    let role = is_role(new);
    let may_be_role = role && matches!(symbol.kind, SymbolKind::Model | SymbolKind::Teacher);
    let called = match symbol.kind {
        SymbolKind::Template | SymbolKind::Rollout | SymbolKind::Teacher => {
            analysis.index.parameters(id).next().is_some()
        }
        kind => kind.is_callable() || kind == SymbolKind::Divergence,
    };
    // A file may redeclare some built-in names, but its other uses of the name would change their meaning.
    let read = builtins::find(new).is_some() || named_number(new).is_some();
    let read = read || vocabulary::signal(new).is_some() && !may_be_role;
    if read || is_taken(new, called, false) {
        return Err(RenameProblem(format!("`{new}` has a meaning of its own in mopd")));
    }
    if let Some(place) = analysis.index.places(id).find(|place| place.would_be_of_run(new)) {
        let (line, _) = analysis.sources.position(place.span.file, place.span.start);
        let path = &analysis.sources.file(place.span.file).path;
        return Err(RenameProblem(format!(
            "`{new}` is what is read under this name in line {} of {path}",
            line + 1
        )));
    }
    if is_read_in_template(analysis, id, new) {
        return Err(RenameProblem(format!(
            "`{{{new}}}` is a slot of the template, which the parameter would hide"
        )));
    }
    let files: Vec<FileId> = analysis.index.places(id).map(|place| place.span.file).collect();
    for other in analysis.index.ids().map(|other| analysis.index.symbol(other)) {
        let same_owner = symbol.owner.is_some() && other.owner == symbol.owner;
        let item_of_same_file = other.owner.is_none() && files.contains(&other.span.file);
        // A local would hide the renamed item.
        let local_of_user =
            symbol.owner.is_none() && other.owner.is_some() && files.contains(&other.span.file);
        if other.name == new && (same_owner || item_of_same_file || local_of_user) {
            let (line, _) = analysis.sources.position(other.span.file, other.span.start);
            let path = &analysis.sources.file(other.span.file).path;
            return Err(RenameProblem(format!(
                "`{new}` is declared already, in line {} of {path}",
                line + 1
            )));
        }
    }
    let imported = analysis.index.ids().filter(|other| analysis.index.symbol(*other).name == new);
    for other in imported {
        if analysis.index.places(other).any(|place| files.contains(&place.span.file)) {
            return Err(RenameProblem(format!("`{new}` is imported already where this name is used")));
        }
    }
    Ok(())
}

/// Whether a template, if its parameter `id` had this name, would no longer show the slot of this name.
fn is_read_in_template(analysis: &Analysis, id: SymbolId, name: &str) -> bool {
    let Some(owner) = analysis.index.symbol(id).owner.map(|owner| analysis.index.symbol(owner)) else {
        return false;
    };
    let word = |character: char| !(character.is_alphanumeric() || character == '_');
    owner.kind == SymbolKind::Template
        && (is_slot(name) || analysis.sources.text(owner.extent).split(word).any(|found| found == name))
}
