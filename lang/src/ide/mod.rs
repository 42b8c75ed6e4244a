//! Features of editors, as plain data with byte offsets. Every feature is a function of a text and its
//! [`Analysis`]; the host handles the protocol.
//!
//! Definitions, renames and hovers need the meaning of names and use the analysis. Completion and signatures
//! must work in half-typed lines: they use the tokens before the cursor, and the analysis for descriptions.

mod audited;
mod complete;
mod context;
mod describe;
mod host;
mod hover;
mod inlay;
mod keywords;
mod links;
mod outside;
mod place;
mod refactor;
mod references;
mod regions;
mod rename;
mod scope;
mod semantic;
mod signature;
mod symbols;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod values;
mod variants;

pub use audited::AuditDiagnostics;
pub use complete::{Candidate, CandidateKind, CompletionEntry, Import, complete};
pub use describe::signature as signature_of;
pub use host::{FolderEntry, IdeHost};
pub use hover::{Hover, hover};
pub use inlay::{Inlay, inlays};
pub use links::{Destination, Link, links};
pub use refactor::{Refactoring, refactorings};
pub use references::{Definition, declared_target, definition, highlights, references};
pub use regions::{Fold, FoldKind, folds, selections};
pub use rename::{RenameProblem, check_new_name, renameable};
pub use semantic::{SemanticToken, SemanticTokenKind, semantic_tokens};
pub use signature::{Signature, signature_help};
pub use symbols::{Outline, declarations, outline};
pub use variants::kept_as_variant;

use crate::source::FileId;
use crate::syntax::parse;

/// The file that was analysed; the others are its imports.
pub const ENTRY: FileId = FileId(0);

/// A module that a `use` may name, with its public items.
#[derive(Clone, Debug)]
pub struct LibraryModule {
    /// `["std", "opd"]`
    pub path: Vec<String>,
    pub doc: String,
    pub items: Vec<LibraryItem>,
}

#[derive(Clone, Debug)]
pub struct LibraryItem {
    pub name: String,
    pub doc: String,
    /// `objective mopd(clip_at: nats = 5)`
    pub signature: String,
}

impl LibraryModule {
    /// The public items of a module. Parsing is enough, since nothing here depends on values.
    pub fn from_text(path: &[&str], text: &str) -> LibraryModule {
        let (tree, _) = parse(ENTRY, text);
        let items = tree.items.iter().filter(|item| item.public).filter_map(|item| {
            let name = crate::check::declared_name(&item.kind)?;
            Some(LibraryItem {
                name: name.text.clone(),
                doc: item.doc.clone(),
                signature: describe::head(item, text),
            })
        });
        LibraryModule {
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            doc: tree.doc.clone(),
            items: items.collect(),
        }
    }
}
