//! Publishes diagnostics: sends them when they change, and removes them when they are gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use lsp_server::{Message, Notification};
use lsp_types::{
    CodeDescription, Diagnostic, DiagnosticRelatedInformation, DiagnosticSeverity, Location, NumberOrString,
    PublishDiagnosticsParams, Range, Uri,
};
use mopd_lang::check::Analysis;
use mopd_lang::check::index::NameTarget;
use mopd_lang::diag::{self, Severity};
use mopd_lang::ide::ENTRY;
use mopd_lang::source::{FileId, Span};

use super::capabilities::EditorClient;
use super::convert::LineIndex;
use super::session::{Document, address};
use super::{library, uri};

/// The last published diagnostics, by URI.
#[derive(Default)]
pub struct Published {
    known: HashMap<String, PublishedDiagnostics>,
}

#[derive(PartialEq)]
struct PublishedDiagnostics {
    /// Of the document.
    version: i32,
    diagnostics: Vec<Diagnostic>,
}

impl Published {
    /// The messages with changed diagnostics. Every changed document gets one, even without diagnostics.
    pub fn update(&mut self, documents: &BTreeMap<String, Document>, client: &EditorClient) -> Vec<Message> {
        let mut messages = Vec::new();
        for (path, document) in documents {
            let diagnostics = diagnostics(path, document, documents, client);
            let news = PublishedDiagnostics { version: document.version, diagnostics };
            if self.known.get(document.uri.as_str()) != Some(&news) {
                messages.push(message(&document.uri, Some(document.version), news.diagnostics.clone()));
                self.known.insert(document.uri.as_str().to_owned(), news);
            }
        }
        messages
    }

    /// Removes the diagnostics of a closed document.
    pub fn clear(&mut self, uri: &Uri) -> Option<Message> {
        self.known.remove(uri.as_str()).map(|_| message(uri, None, Vec::new()))
    }
}

fn message(uri: &Uri, version: Option<i32>, diagnostics: Vec<Diagnostic>) -> Message {
    let params = PublishDiagnosticsParams { uri: uri.clone(), diagnostics, version };
    Notification::new("textDocument/publishDiagnostics".to_owned(), params).into()
}

/// The diagnostics of a document: from its own analysis, and from those of open documents that import it,
/// whose calls of its declarations may not fit.
fn diagnostics(
    path: &str,
    document: &Document,
    documents: &BTreeMap<String, Document>,
    client: &EditorClient,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let own = &document.analysis;
    if let Some(failure) = &document.failure {
        let severity = Some(DiagnosticSeverity::WARNING);
        let (source, message) = (Some("mopd".to_owned()), failure.message());
        found.push(Diagnostic {
            range: Range::default(),
            severity,
            source,
            message,
            ..Diagnostic::default()
        });
    }
    let shown = |analysis: &Analysis, file: FileId| documents.contains_key(&analysis.sources.file(file).path);
    let converter = Converter::new(own, documents, client);
    for diagnostic in &own.diagnostics {
        let file = diagnostic.primary.span.file;
        if file == ENTRY {
            found.push(converter.convert(diagnostic, diagnostic.primary.span));
        } else if !shown(own, file) {
            // Its place is in a file that is not open: shown at the import of that file.
            let mut elsewhere = converter.convert(diagnostic, import_of(own, file));
            elsewhere.message = format!("in {}: {}", own.sources.file(file).path, elsewhere.message);
            found.push(elsewhere);
        }
    }
    for other in documents.values().filter(|other| other.uri != document.uri) {
        let converter = Converter::new(&other.analysis, documents, client);
        for diagnostic in &other.analysis.diagnostics {
            let file = diagnostic.primary.span.file;
            // Its text is the document's: all analyses are refreshed together.
            if file != ENTRY && other.analysis.sources.file(file).path == path {
                let theirs = converter.convert(diagnostic, diagnostic.primary.span);
                if !found.iter().any(|known| (known.range, &known.message) == (theirs.range, &theirs.message))
                {
                    found.push(theirs);
                }
            }
        }
    }
    found
}

/// The place in the entry file that names a module; the beginning of the file for an indirect import.
fn import_of(analysis: &Analysis, file: FileId) -> Span {
    let mut uses = analysis.index.uses_in(ENTRY).iter();
    let import = uses.find(|a_use| matches!(a_use.target, NameTarget::Module(module) if module == file));
    import.map_or(Span::new(ENTRY, 0, 0), |import| import.span)
}

/// Converts the diagnostics of one analysis to the protocol.
pub struct Converter<'a> {
    analysis: &'a Analysis,
    documents: &'a BTreeMap<String, Document>,
    client: &'a EditorClient,
    /// The line index of each file, built once for all diagnostics.
    lines: RefCell<HashMap<FileId, LineIndex<'a>>>,
}

impl<'a> Converter<'a> {
    pub fn new(
        analysis: &'a Analysis,
        documents: &'a BTreeMap<String, Document>,
        client: &'a EditorClient,
    ) -> Converter<'a> {
        Converter { analysis, documents, client, lines: RefCell::new(HashMap::new()) }
    }

    /// A diagnostic, shown at `place` in the entry file or in its own file.
    pub fn convert(&self, diagnostic: &diag::Diagnostic, place: Span) -> Diagnostic {
        let mut message = diagnostic.message.clone();
        if !diagnostic.primary.text.is_empty() {
            message += &format!("\n{}", diagnostic.primary.text);
        }
        if let Some(help) = &diagnostic.help {
            message += &format!("\nhelp: {help}");
        }
        let related = diagnostic.related.iter().filter_map(|label| {
            let uri = address(self.documents, &self.analysis.sources.file(label.span.file).path)?;
            let location = Location { uri, range: self.range(label.span) };
            Some(DiagnosticRelatedInformation { location, message: label.text.clone() })
        });
        let related: Vec<_> = related.filter(|_| self.client.related_information).collect();
        Diagnostic {
            range: self.range(place),
            severity: Some(match diagnostic.severity {
                Severity::Error => DiagnosticSeverity::ERROR,
                Severity::Warning => DiagnosticSeverity::WARNING,
            }),
            code: Some(NumberOrString::String(diagnostic.code.name().to_owned())),
            code_description: self.page(diagnostic.code),
            source: Some("mopd".to_owned()),
            message,
            related_information: (!related.is_empty()).then_some(related),
            ..Diagnostic::default()
        }
    }

    /// A link to the page that `mopd explain` shows.
    fn page(&self, code: diag::Code) -> Option<CodeDescription> {
        let file = self.client.code_descriptions.then(|| library::page(code)).flatten()?;
        Some(CodeDescription { href: uri::of_path(&file)? })
    }

    fn range(&self, span: Span) -> Range {
        let mut lines = self.lines.borrow_mut();
        let lines = lines
            .entry(span.file)
            .or_insert_with(|| LineIndex::from_file(&self.analysis.sources, span.file, self.client.encoding));
        lines.range_of(span)
    }
}
