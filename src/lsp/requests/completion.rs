//! Completion at the cursor.

use std::collections::BTreeMap;

use lsp_types::{
    CompletionItem, CompletionItemKind, CompletionList, CompletionParams, CompletionTextEdit, Documentation,
    InsertTextFormat, Range, TextEdit,
};
use mopd_lang::check::index::SymbolKind;
use mopd_lang::ide::{self, CandidateKind};
use serde::Deserialize;

use super::super::dispatch::RequestError;
use super::super::document_host::DocumentHost;
use super::super::session::Session;

pub fn handle(session: &Session, params: CompletionParams) -> Result<CompletionList, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position)?;
    let around = DocumentHost::new(session, document);
    let completion = ide::complete(&document.text, offset, &document.analysis, &around);
    let range = lines.range_of(completion.replace);
    let items = completion.candidates.into_iter().enumerate().map(|(place, candidate)| CompletionItem {
        kind: Some(kind(candidate.kind)),
        detail: (!candidate.detail.is_empty()).then_some(candidate.detail),
        documentation: (!candidate.doc.is_empty())
            .then(|| Documentation::MarkupContent(super::markdown(candidate.doc))),
        // Editors sort by this text; our order is by likelihood.
        sort_text: Some(format!("{place:04}")),
        filter_text: Some(candidate.label.trim_end_matches(':').to_owned()),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit { range, new_text: candidate.insert })),
        additional_text_edits: candidate.import.map(|import| {
            let at = lines.position(import.at as usize);
            vec![TextEdit { range: Range::new(at, at), new_text: import.text }]
        }),
        label: candidate.label,
        ..CompletionItem::default()
    });
    let items: Vec<CompletionItem> = items.collect();
    let at_item = items
        .iter()
        .any(|item| item.label == "experiment" && item.kind == Some(kind(CandidateKind::Keyword)));
    let written = if at_item && session.client.snippets { snippets(range) } else { Vec::new() };
    Ok(CompletionList { is_incomplete: false, items: items.into_iter().chain(written).collect() })
}

/// Snippets of whole declarations: those of our extension, for all other editors.
fn snippets(range: Range) -> Vec<CompletionItem> {
    #[derive(Deserialize)]
    struct Snippet {
        prefix: String,
        description: String,
        body: SnippetBody,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum SnippetBody {
        Line(String),
        Lines(Vec<String>),
    }
    const WRITTEN: &str = include_str!("../../../tools/editors/vscode/snippets/mopd.json");
    let all: BTreeMap<String, Snippet> = serde_json::from_str(WRITTEN).expect("a test reads it");
    let item = |(name, Snippet { prefix, description, body }): (String, Snippet)| CompletionItem {
        kind: Some(CompletionItemKind::SNIPPET),
        detail: Some(name),
        documentation: Some(Documentation::MarkupContent(super::markdown(description))),
        // After the plain words.
        sort_text: Some(format!("9{prefix}")),
        insert_text_format: Some(InsertTextFormat::SNIPPET),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit {
            range,
            new_text: match body {
                SnippetBody::Line(line) => line,
                SnippetBody::Lines(lines) => lines.join("\n"),
            },
        })),
        filter_text: Some(prefix.clone()),
        label: format!("{prefix} …"),
        ..CompletionItem::default()
    };
    all.into_iter().map(item).collect()
}

fn kind(kind: CandidateKind) -> CompletionItemKind {
    match kind {
        CandidateKind::Keyword => CompletionItemKind::KEYWORD,
        CandidateKind::Key => CompletionItemKind::PROPERTY,
        CandidateKind::Word => CompletionItemKind::ENUM_MEMBER,
        CandidateKind::Signal => CompletionItemKind::VALUE,
        CandidateKind::Function => CompletionItemKind::FUNCTION,
        CandidateKind::Module => CompletionItemKind::MODULE,
        CandidateKind::Field => CompletionItemKind::FIELD,
        CandidateKind::File => CompletionItemKind::FILE,
        CandidateKind::Folder => CompletionItemKind::FOLDER,
        CandidateKind::Model => CompletionItemKind::VALUE,
        CandidateKind::Type => CompletionItemKind::TYPE_PARAMETER,
        CandidateKind::Symbol(SymbolKind::Fn | SymbolKind::Stage | SymbolKind::Divergence) => {
            CompletionItemKind::FUNCTION
        }
        CandidateKind::Symbol(SymbolKind::Objective) => CompletionItemKind::CLASS,
        CandidateKind::Symbol(SymbolKind::Let | SymbolKind::Param) => CompletionItemKind::CONSTANT,
        CandidateKind::Symbol(_) => CompletionItemKind::VARIABLE,
    }
}
