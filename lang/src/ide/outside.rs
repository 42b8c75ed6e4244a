//! Completion of names from outside the file: modules that are not imported, file names, models, fields of
//! the data.

use rustc_hash::FxHashSet;

use super::complete::{Candidate, CandidateKind, List, fits, item_kind};
use super::context::CompletionContext;
use super::host::IdeHost;
use super::place::TextPlace;
use super::{ENTRY, Import};
use crate::check::index::SymbolKind;
use crate::check::vocabulary::ArgumentKind;
use crate::check::{import_edit, is_standard_divergence};
use crate::syntax::tokens::TokenKind;

/// The rank of these candidates: after all names in scope.
const RANK: u8 = 9;

/// Adds the public names of modules that a place accepts and that are not in scope, each with the `use` that
/// it needs.
pub fn importable(list: &mut List, context: &CompletionContext, takes: ArgumentKind, around: &dyn IdeHost) {
    let formula = matches!(takes, ArgumentKind::Formula | ArgumentKind::Condition);
    let wanted = |kind: SymbolKind, name: &str| match kind {
        // A divergence of the standard library needs no import.
        SymbolKind::Divergence => formula && !is_standard_divergence(name),
        // The numbers of a module are mostly for its own use.
        SymbolKind::Let | SymbolKind::Param => false,
        _ => fits(kind, takes),
    };
    let mut known: FxHashSet<String> = list.in_scope(context).into_iter().map(|(name, _, _)| name).collect();
    known.extend(list.candidates.iter().map(|candidate| candidate.label.clone()));
    let Some(tree) = list.analysis.index.tree(ENTRY) else { return };
    for module in around.modules() {
        for item in &module.items {
            let kind = item_kind(&item.signature);
            if !wanted(kind, &item.name) || known.contains(&item.name) {
                continue;
            }
            let module = module.path.join(".");
            let (at, text) = import_edit(tree, context.source, &format!("use {module}.{}", item.name));
            list.candidates.push(Candidate {
                label: item.name.clone(),
                kind: CandidateKind::Symbol(kind),
                detail: format!("use {module}: {}", item.signature),
                doc: item.doc.clone(),
                insert: item.name.clone(),
                rank: RANK,
                import: Some(Import { at, text }),
            });
        }
    }
}

/// Adds completions of a text that names something: models, or the entries of the folder typed so far.
/// `typed` is the text so far. Returns how many of its last bytes are replaced.
pub fn text(list: &mut List, place: TextPlace, typed: &str, around: &dyn IdeHost) -> usize {
    // Each word of a command may be a path.
    let path = match place {
        TextPlace::Command => typed.rsplit(' ').next().unwrap_or(typed),
        _ => typed,
    };
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let folder = if folder.is_empty() && path.starts_with('/') { "/" } else { folder };
    let whole = place == TextPlace::Model;
    let mut entries = around.entries(folder);
    entries.retain(|entry| match place {
        _ if entry.is_folder => true,
        TextPlace::Data => ends_with(&entry.name, &[".jsonl", ".json", ".parquet", ".csv"]),
        TextPlace::Gguf => ends_with(&entry.name, &[".gguf"]),
        TextPlace::Python => ends_with(&entry.name, &[".py"]),
        TextPlace::Command => true,
        TextPlace::Model | TextPlace::Folder => false,
    });
    if whole {
        for model in around.cached_models() {
            list.add(&model, CandidateKind::Model, "on this machine", "", &model, 0);
        }
    }
    for entry in entries {
        let kind = if entry.is_folder { CandidateKind::Folder } else { CandidateKind::File };
        let ending = if entry.is_folder { "/" } else { "" };
        let before = &path[..path.len() - name.len()];
        let written = match whole {
            true => format!("{before}{}", entry.name),
            false => format!("{}{ending}", entry.name),
        };
        list.add(&written, kind, "", "", &written, if entry.is_folder { 2 } else { 1 });
    }
    if whole { typed.len() } else { name.len() }
}

fn ends_with(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.ends_with(ending))
}

/// Adds the fields of the data of the domain around the cursor, or else of every domain of the file.
pub fn fields(list: &mut List, context: &CompletionContext, around: &dyn IdeHost) {
    let own = data_paths(context, Some(context.item));
    let paths = if own.is_empty() { data_paths(context, None) } else { own };
    let mut seen = FxHashSet::default();
    for path in paths.iter().filter(|path| seen.insert(path.as_str())) {
        for field in around.fields(path) {
            list.add(&field, CandidateKind::Field, &format!("a field of {path}"), "", &field, 0);
        }
    }
}

/// The files that `prompts = "..."` names in the text, or in the item that begins at a token.
fn data_paths(context: &CompletionContext, item: Option<usize>) -> Vec<String> {
    let mut found = Vec::new();
    let tokens = &context.tokens;
    let word = |at: usize, text: &str| tokens.get(at).is_some_and(|_| context.text(at) == text);
    for at in item.unwrap_or(0)..tokens.len() {
        let margin = tokens[at].start == 0 || context.source.as_bytes()[tokens[at].start - 1] == b'\n';
        if item.is_some_and(|item| at > item && margin && tokens[at].kind == TokenKind::Word) {
            break;
        }
        if !(word(at, "prompts") && word(at + 1, "=")) {
            continue;
        }
        // `prompts = dataset("...", split: "train")`
        let value = if word(at + 2, "dataset") { at + 4 } else { at + 2 };
        let text = tokens.get(value).filter(|token| token.kind == TokenKind::Text);
        if let Some(path) = text.and_then(|_| context.text(value).strip_prefix('"')?.strip_suffix('"')) {
            found.push(path.to_owned());
        }
    }
    found
}
