//! All state of the server: the open documents and their analyses. Requests read it; only this module
//! changes it.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsp_server::{Message, Notification};
use lsp_types::{Location, TextDocumentContentChangeEvent, Uri};
use mopd_lang::check::{Analysis, Auditor, CancellationCheck, ParseCache, analyse_edited};
use mopd_lang::ide::{AuditDiagnostics, LibraryModule};
use mopd_lang::source::{FileId, SourceFile, Span};
use mopd_plan::Plan;
use serde_json::json;

use super::capabilities::EditorClient;
use super::check::{CheckFailure, CheckOutcome, MOST_TIME, checked, guarded};
use super::convert::LineIndex;
use super::message_queue::MessageQueue;
use super::publish::{Converter, Published};
use super::{library, uri};
use crate::compile::plan_of_own_values;
use crate::{data, host, paths};

/// A file that is open in the editor, with the analysis of exactly this text.
pub struct Document {
    pub uri: Uri,
    pub version: i32,
    pub text: String,
    pub analysis: Analysis,
    /// Why it could not be checked.
    pub failure: Option<CheckFailure>,
    /// What the last audit reported.
    audited: AuditDiagnostics,
    /// Its trees, for the next analysis.
    trees: ParseCache,
    /// The paths that the analysis asked for, whether they exist or not.
    imports: BTreeSet<String>,
    /// Its plan, once a request has needed it; `None` if the text can't run.
    plan: OnceCell<Option<Plan>>,
}

impl Document {
    /// The plan of the text with its own values, whatever it sweeps over; `None` if it can't run. It is too
    /// slow to make at each keystroke.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.get_or_init(|| plan_of_own_values(&self.analysis)).as_ref()
    }
}

/// Whether all documents are up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    Whole,
    /// A text has changed meanwhile, or the current request was cancelled.
    Interrupted,
}

/// Why some files were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshInterruption {
    /// A text has changed meanwhile, or the current request was cancelled.
    Changed,
    OutOfTime,
}

/// After this time, a check ends as soon as its text has changed.
const PATIENCE: Duration = Duration::from_millis(200);

/// The most files that are read in each of the editor's folders: enough for any project, and a limit for a
/// home folder opened by mistake.
const FILES_AT_MOST: usize = 2_000;

/// A module in the folder of a document, and the text that it was read from.
struct ModuleBeside {
    text: String,
    module: Rc<LibraryModule>,
}

pub struct Session {
    pub client: EditorClient,
    /// By path; by URI if there is no path.
    documents: BTreeMap<String, Document>,
    /// Documents to check before anything is answered.
    stale: BTreeSet<String>,
    /// Those of them whose gradients are also audited: when a file is opened or saved, since an audit takes
    /// longer than a keystroke may. Between two audits, its diagnostics stay with the text that they depend
    /// on.
    to_audit: BTreeSet<String>,
    published: Published,
    /// Whether diagnostics may differ from the published ones.
    unpublished: bool,
    messages: Vec<Message>,
    /// The modules of the standard library, read once.
    standard: Vec<Rc<LibraryModule>>,
    /// The modules in the folders of documents: completion needs them at each keystroke, and they rarely
    /// change.
    beside: RefCell<BTreeMap<String, ModuleBeside>>,
    intake: Arc<MessageQueue>,
    /// [`PATIENCE`] and [`MOST_TIME`].
    patience: Duration,
    most_time: Duration,
}

impl Session {
    pub fn new(client: EditorClient, intake: Arc<MessageQueue>) -> Session {
        let modules = mopd_std::MODULES.iter();
        let standard =
            modules.map(|(name, text)| Rc::new(LibraryModule::from_text(&["std", name], text))).collect();
        Session {
            client,
            documents: BTreeMap::new(),
            stale: BTreeSet::new(),
            to_audit: BTreeSet::new(),
            published: Published::default(),
            unpublished: false,
            messages: Vec::new(),
            standard,
            beside: RefCell::default(),
            intake,
            patience: PATIENCE,
            most_time: MOST_TIME,
        }
    }

    // ---- Changes ----

    pub fn open(&mut self, uri: Uri, version: i32, text: String) {
        let path = path_of(&uri);
        let document = Document {
            uri,
            version,
            text,
            analysis: Analysis::unread(&path),
            failure: None,
            audited: AuditDiagnostics::default(),
            trees: ParseCache::default(),
            imports: BTreeSet::new(),
            plan: OnceCell::new(),
        };
        self.documents.insert(path.clone(), document);
        self.mark_importers(&path);
        self.stale.insert(path.clone());
        self.to_audit.insert(path);
    }

    /// Applies the changes in order; each is relative to the text after the one before it.
    pub fn change(&mut self, uri: &Uri, version: i32, changes: Vec<TextDocumentContentChangeEvent>) {
        let path = path_of(uri);
        let encoding = self.client.encoding;
        let Some(document) = self.documents.get_mut(&path) else { return };
        document.version = version;
        for change in changes {
            match change.range {
                None => document.text = change.text,
                Some(range) => {
                    let lines = LineIndex::new(&document.text, encoding);
                    let (start, end) = (lines.offset(range.start), lines.offset(range.end));
                    document.text.replace_range(start.min(end)..end.max(start), &change.text);
                }
            }
        }
        self.mark_importers(&path);
        self.stale.insert(path);
    }

    pub fn close(&mut self, uri: &Uri) {
        let path = path_of(uri);
        // Importing files now see the text on disk.
        self.mark_importers(&path);
        self.stale.remove(&path);
        self.to_audit.remove(&path);
        if self.documents.remove(&path).is_some() {
            self.messages.extend(self.published.clear(uri));
            // Diagnostics of one document may be shown in another.
            self.unpublished = true;
        }
    }

    /// Handles folders that were opened or closed in the editor.
    pub fn change_roots(&mut self, added: Vec<Uri>, removed: &[Uri]) {
        self.client.roots.retain(|root| !removed.contains(root));
        self.client.roots.extend(added);
    }

    /// Handles a save: the text is on disk now, and perhaps the files that it names.
    pub fn saved(&mut self, uri: &Uri) {
        let path = path_of(uri);
        self.changed_on_disk(uri);
        if self.documents.contains_key(&path) {
            self.stale.insert(path.clone());
            self.to_audit.insert(path);
        }
    }

    /// Handles a change on disk. An open file has the text of the editor, which has not changed.
    pub fn changed_on_disk(&mut self, uri: &Uri) {
        self.mark_importers(&path_of(uri));
    }

    /// Marks all files that import this one, directly or indirectly. Nobody is typing in them, so they are
    /// audited again: the results of their last audit may depend on the import.
    fn mark_importers(&mut self, path: &str) {
        let importers =
            self.documents.iter().filter(|(own, document)| *own != path && document.imports.contains(path));
        for (importer, _) in importers {
            self.stale.insert(importer.clone());
            self.to_audit.insert(importer.clone());
        }
    }

    /// Checks changed documents and queues their diagnostics for the editor.
    pub fn refresh(&mut self) -> RefreshOutcome {
        while let Some(path) = self.stale.pop_first() {
            let Some(document) = self.documents.get_mut(&path) else { continue };
            // The old analysis is dropped first: shared data can't be changed in place.
            document.analysis = Analysis::unread(&path);
            document.plan = OnceCell::new();
            self.unpublished = true;
            let (text, mut trees) = (document.text.clone(), std::mem::take(&mut document.trees));
            let keep_going = self.patience();
            let (mut checked, imports) = self.check(&path, text.clone(), &mut trees, &keep_going);
            let is_due = checked.failure.is_none() && self.to_audit.contains(&path);
            let audited = if is_due { self.audit(&path, text, &mut checked, &keep_going) } else { None };
            // A cancelled audit is incomplete.
            let cut = checked.failure == Some(CheckFailure::Slow)
                || (self.to_audit.contains(&path) && !keep_going());
            let interrupted = cut && self.intake.interrupts();
            if let Some(document) = self.documents.get_mut(&path) {
                match audited {
                    Some(audited) => document.audited = audited,
                    None => document.audited.add_to(&mut checked.analysis),
                }
                (document.analysis, document.trees, document.imports) = (checked.analysis, trees, imports);
                document.failure = checked.failure;
            }
            if interrupted {
                self.stale.insert(path);
                return RefreshOutcome::Interrupted;
            }
            if let Some(failure @ CheckFailure::Panic(_)) =
                self.documents.get(&path).and_then(|document| document.failure.as_ref())
            {
                let text = format!("{path}: {}", failure.message());
                let params = json!({ "type": 1, "message": text });
                self.messages.push(Notification::new("window/showMessage".to_owned(), params).into());
            }
            self.to_audit.remove(&path);
        }
        if std::mem::take(&mut self.unpublished) {
            let news = self.published.update(&self.documents, &self.client);
            self.messages.extend(news);
        }
        RefreshOutcome::Whole
    }

    /// Whether the current work is still wanted, and within its time.
    pub fn patience(&self) -> CancellationCheck {
        let (began, intake) = (Instant::now(), Arc::clone(&self.intake));
        let (patience, most_time) = (self.patience, self.most_time);
        Rc::new(move || {
            let taken = began.elapsed();
            taken < patience || (taken < most_time && !intake.interrupts())
        })
    }

    /// Adds what the gradient audit finds, paths that do not exist, what a plan can't express, and data that
    /// a run would refuse. `None` if the text has errors, which leave nothing to audit.
    fn audit(
        &self,
        path: &str,
        text: String,
        checked: &mut CheckOutcome,
        keep_going: &CancellationCheck,
    ) -> Option<AuditDiagnostics> {
        if checked.analysis.has_errors() {
            return None;
        }
        let load = |name: &str| self.load(path, name, &RefCell::default(), &RefCell::default());
        let entry = SourceFile { path: path.to_owned(), text: text.clone() };
        let file = Path::new(path);
        let auditor: Auditor = &|experiment, origins| {
            let mut found = mopd_compiler::audit::diagnostics_while(experiment, origins, &|| keep_going());
            // A text that was never saved has no folder.
            if file.is_file() {
                found.extend(paths::missing(experiment, origins, &host::folder_of(file)));
            }
            found
        };
        let audited = guarded(|| {
            // Adds what a plan can't express, and data that a run would refuse.
            let (mut analysis, plan) = host::check_runs(entry, &load, &[], auditor);
            if let Some(plan) = plan.filter(|_| keep_going() && file.is_file()) {
                data::check(&mut analysis, &plan, &host::folder_of(file));
            }
            analysis.diagnostics
        });
        match audited {
            // Files are read in the same order, so their ids agree.
            Ok(diagnostics) => {
                let audited = AuditDiagnostics::new(&text, &checked.analysis.diagnostics, &diagnostics);
                checked.analysis.diagnostics = diagnostics;
                Some(audited)
            }
            Err(said) => {
                checked.failure = Some(CheckFailure::Panic(said));
                None
            }
        }
    }

    /// The messages since the last call.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    fn check(
        &mut self,
        path: &str,
        text: String,
        trees: &mut ParseCache,
        keep_going: &CancellationCheck,
    ) -> (CheckOutcome, BTreeSet<String>) {
        let (checked, imports, unreadable) = self.analyse(path, text, trees, keep_going);
        let log = |text| {
            Notification::new("window/logMessage".to_owned(), json!({ "type": 2, "message": text })).into()
        };
        self.messages.extend(unreadable.into_iter().map(log));
        (checked, imports)
    }

    /// The analysis of a text at a path, the paths that it imports, and which of these can't be read.
    fn analyse(
        &self,
        path: &str,
        text: String,
        trees: &mut ParseCache,
        keep_going: &CancellationCheck,
    ) -> (CheckOutcome, BTreeSet<String>, Vec<String>) {
        let imports = RefCell::new(BTreeSet::new());
        let unreadable = RefCell::new(Vec::new());
        let load = |name: &str| self.load(path, name, &imports, &unreadable);
        let entry = SourceFile { path: path.to_owned(), text };
        let whole = entry.clone();
        let checked =
            checked(whole, &load, || analyse_edited(entry, &load, trees, Some(Rc::clone(keep_going))));
        (checked, imports.into_inner(), unreadable.into_inner())
    }

    /// A module that the text at a path imports. Records the requested paths, and those that can't be read.
    fn load(
        &self,
        path: &str,
        name: &str,
        imports: &RefCell<BTreeSet<String>>,
        unreadable: &RefCell<Vec<String>>,
    ) -> Option<SourceFile> {
        let Some(file) = host::sibling(Path::new(path), name) else { return host::standard(name) };
        let key = file.to_string_lossy().into_owned();
        imports.borrow_mut().insert(key.clone());
        if let Some(open) = self.documents.get(&key) {
            return Some(SourceFile { path: key, text: open.text.clone() });
        }
        if !file.exists() {
            return None;
        }
        host::read(&file).map_err(|problem| unreadable.borrow_mut().push(problem.message().to_owned())).ok()
    }

    // ---- Questions ----

    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// The files in the editor's folders that are not open, with their texts. Skips hidden folders.
    pub fn closed_files(&self) -> impl Iterator<Item = SourceFile> {
        let roots = self.client.roots.iter().filter_map(uri::to_path);
        let files: BTreeSet<PathBuf> =
            roots.flat_map(|root| host::sources_below(&root, FILES_AT_MOST)).collect();
        let closed =
            files.into_iter().filter(|file| !self.documents.contains_key(file.to_string_lossy().as_ref()));
        closed.filter_map(|file| host::read(&file).ok())
    }

    /// The analyses of all closed files that may name this declaration of another file; an error if some
    /// can't be analysed in time.
    pub fn closed_naming(&self, name: &str) -> Result<Vec<Analysis>, RefreshInterruption> {
        let naming = self.closed_files().filter(|file| file.text.contains(name) && file.text.contains("use"));
        let keep_going = self.patience();
        let mut analyses = Vec::new();
        for file in naming {
            let path = file.path.clone();
            analyses.push(self.analyse(&path, file.text, &mut ParseCache::default(), &keep_going).0.analysis);
            if !keep_going() {
                return Err(self.interruption());
            }
        }
        Ok(analyses)
    }

    /// Why [`Session::patience`] has ended.
    pub fn interruption(&self) -> RefreshInterruption {
        match self.intake.interrupts() {
            true => RefreshInterruption::Changed,
            false => RefreshInterruption::OutOfTime,
        }
    }

    pub fn document(&self, uri: &Uri) -> Option<&Document> {
        self.documents.get(&path_of(uri))
    }

    pub fn lines<'a>(&self, document: &'a Document) -> LineIndex<'a> {
        LineIndex::new(&document.text, self.client.encoding)
    }

    /// The URI of a file in an analysis, possibly one of the standard library.
    pub fn uri(&self, path: &str) -> Option<Uri> {
        address(&self.documents, path)
    }

    /// A place of an analysis, as a location of the protocol.
    pub fn location(&self, analysis: &Analysis, span: Span) -> Option<Location> {
        let lines = LineIndex::from_file(&analysis.sources, span.file, self.client.encoding);
        Some(Location { uri: self.uri(&analysis.sources.file(span.file).path)?, range: lines.range_of(span) })
    }

    /// A diagnostic of a document, converted to the protocol.
    pub fn diagnostic(
        &self,
        document: &Document,
        diagnostic: &mopd_lang::diag::Diagnostic,
    ) -> lsp_types::Diagnostic {
        Converter::new(&document.analysis, &self.documents, &self.client)
            .convert(diagnostic, diagnostic.primary.span)
    }

    /// The modules that a `use` of a document may name: the standard library, and the files in its folder.
    pub fn libraries(&self, document: &Document) -> Vec<Rc<LibraryModule>> {
        let mut found = self.standard.clone();
        let own = PathBuf::from(path_of(&document.uri));
        for file in host::modules_beside(&own) {
            let key = file.to_string_lossy().into_owned();
            let text = match self.documents.get(&key) {
                Some(open) => Some(open.text.clone()),
                None => host::read(&file).ok().map(|source| source.text),
            };
            if let (Some(text), Some(name)) = (text, file.file_stem().and_then(|name| name.to_str())) {
                found.push(self.module_beside(&key, name, text));
            }
        }
        found
    }

    fn module_beside(&self, path: &str, name: &str, text: String) -> Rc<LibraryModule> {
        let mut known = self.beside.borrow_mut();
        match known.get(path) {
            Some(ModuleBeside { text: read, module }) if *read == text => Rc::clone(module),
            _ => {
                let module = Rc::new(LibraryModule::from_text(&[name], &text));
                known.insert(path.to_owned(), ModuleBeside { text, module: Rc::clone(&module) });
                module
            }
        }
    }
}

/// The URI of a path: as the editor wrote it, if it is open.
pub fn address(documents: &BTreeMap<String, Document>, path: &str) -> Option<Uri> {
    if let Some(open) = documents.get(path) {
        return Some(open.uri.clone());
    }
    match library::file(path) {
        Some(file) => uri::of_path(&file),
        None => uri::of_path(Path::new(path)).filter(|_| Path::new(path).is_absolute()),
    }
}

/// The name of a document in analyses.
fn path_of(uri: &Uri) -> String {
    let Some(path) = uri::to_path(uri) else { return uri.as_str().to_owned() };
    library::name_of(&path).unwrap_or_else(|| path.to_string_lossy().into_owned())
}

/// The id of the analysed file in its analysis.
pub const ENTRY: FileId = mopd_lang::ide::ENTRY;

#[cfg(test)]
mod tests;
