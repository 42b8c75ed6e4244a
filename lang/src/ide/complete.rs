//! Completion: proposals for the cursor, the likeliest first.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::context::CompletionContext;
use super::host::IdeHost;
use super::place::CompletionPlace;
use super::scope::{self, LocalName};
use super::{ENTRY, LibraryModule, describe, hover, outside, values};
use crate::check::builtins::{self, Builtin, BuiltinKind, BuiltinParameter};
use crate::check::index::{NameTarget, SymbolId, SymbolKind};
use crate::check::vocabulary::{self, ArgumentKind, SignalName, Word};
use crate::check::{Analysis, DIVERGENCE_SETTINGS, is_standard_divergence};
use crate::source::Span;
use crate::syntax::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateKind {
    Keyword,
    /// A setting or the name of an argument.
    Key,
    /// A word of a fixed list.
    Word,
    Signal,
    Function,
    Module,
    Type,
    /// A field of the data.
    Field,
    File,
    Folder,
    /// A model on this machine.
    Model,
    Symbol(SymbolKind),
}

/// The `use` that a name needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Import {
    /// Where the text is inserted.
    pub at: u32,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub label: String,
    pub kind: CandidateKind,
    /// One line of text beside the label.
    pub detail: String,
    /// Markdown.
    pub doc: String,
    /// The text that replaces [`CompletionEntry::replace`].
    pub insert: String,
    /// Candidates with a smaller rank come first.
    pub rank: u8,
    pub import: Option<Import>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionEntry {
    /// The part of the word that is typed so far.
    pub replace: Span,
    pub candidates: Vec<Candidate>,
}

pub fn complete(source: &str, offset: u32, analysis: &Analysis, around: &dyn IdeHost) -> CompletionEntry {
    let context = CompletionContext::new(source, offset as usize);
    let mut replace = Span::new(ENTRY, context.word_start, offset as usize);
    let mut list = List { analysis, names: named_items(analysis), candidates: Vec::new() };
    match context.place() {
        CompletionPlace::Nothing => {}
        CompletionPlace::Item => items(&mut list, &context),
        CompletionPlace::Import { path } => imports(&mut list, &path, &around.modules()),
        CompletionPlace::Key { owner, present } => keys(&mut list, &owner, &present),
        CompletionPlace::Type => list.words(vocabulary::TYPES, CandidateKind::Type, 0),
        CompletionPlace::Parameter => list.scope_of(&context, |kind| kind == SymbolKind::Param),
        CompletionPlace::Part => list.signals(&vocabulary::PARTS, 0),
        CompletionPlace::Arm => {
            list.keyword("for", "for d in domains: ...", 1);
            list.keyword("else", "every other domain", 1);
            list.add("domain", CandidateKind::Signal, "the domain that is being routed", "", "domain == ", 0);
            list.scope(&context, ArgumentKind::Domains);
        }
        CompletionPlace::Teacher => {
            list.scope_of(&context, |kind| matches!(kind, SymbolKind::Teacher | SymbolKind::Turn))
        }
        CompletionPlace::Value { takes, callee, given } => {
            if let Some(callee) = callee {
                arguments(&mut list, &callee, &given);
            }
            values::values(&mut list, &context, takes, around);
        }
        CompletionPlace::Text { place, start } => {
            let typed = &source[start..offset as usize];
            let replaced = outside::text(&mut list, place, typed, around);
            replace = Span::new(ENTRY, offset as usize - replaced, offset as usize);
        }
        CompletionPlace::Field => outside::fields(&mut list, &context, around),
        CompletionPlace::StepNumber { callee, given } => {
            arguments(&mut list, &callee, &given);
            values::step_numbers(&mut list, &context);
        }
        CompletionPlace::Side => {
            list.signals(&vocabulary::SIGNALS[..4], 0);
            let distribution = |kind| matches!(kind, SymbolKind::Teacher | SymbolKind::Parameter);
            list.scope_of(&context, distribution);
            list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Teacher(_)), 2);
        }
        CompletionPlace::ComparedDomain => {
            list.scope_of(&context, |kind| matches!(kind, SymbolKind::Domain | SymbolKind::Turn))
        }
    }
    let mut seen = FxHashSet::default();
    list.candidates.sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.label.cmp(&b.label)));
    // Several modules may declare the same name.
    list.candidates.retain(|candidate| seen.insert((candidate.label.clone(), candidate.import.clone())));
    CompletionEntry { replace, candidates: list.candidates }
}

pub(super) struct List<'a> {
    pub(super) analysis: &'a Analysis,
    /// The items visible in the file by name, for descriptions of names that tokens declare.
    names: FxHashMap<String, SymbolId>,
    pub(super) candidates: Vec<Candidate>,
}

/// The file's own items, those that it imports, and the standard library's divergences, which need no import.
pub fn named_items(analysis: &Analysis) -> FxHashMap<String, SymbolId> {
    let uses = analysis.index.uses_in(ENTRY).iter();
    let items = uses.filter_map(|a_use| match a_use.target {
        NameTarget::Symbol(id) if analysis.index.symbol(id).owner.is_none() => {
            Some((analysis.index.symbol(id).name.clone(), id))
        }
        _ => None,
    });
    let mut named: FxHashMap<String, SymbolId> = items.collect();
    for id in standard_divergences(analysis) {
        named.entry(analysis.index.symbol(id).name.clone()).or_insert(id);
    }
    named
}

/// The divergences that need no import.
pub(super) fn standard_divergences(analysis: &Analysis) -> impl Iterator<Item = SymbolId> {
    analysis.index.ids().filter(|id| {
        let symbol = analysis.index.symbol(*id);
        let path = || &analysis.sources.file(symbol.span.file).path;
        symbol.kind == SymbolKind::Divergence
            && symbol.public
            && is_standard_divergence(&symbol.name)
            && path().starts_with("std:")
    })
}

impl List<'_> {
    pub(super) fn add(
        &mut self,
        label: &str,
        kind: CandidateKind,
        detail: &str,
        doc: &str,
        insert: &str,
        rank: u8,
    ) {
        let (label, detail, doc, insert) =
            (label.to_owned(), detail.to_owned(), doc.to_owned(), insert.to_owned());
        self.candidates.push(Candidate { label, kind, detail, doc, insert, rank, import: None });
    }

    pub(super) fn keyword(&mut self, word: &str, detail: &str, rank: u8) {
        self.add(word, CandidateKind::Keyword, detail, "", &format!("{word} "), rank);
    }

    pub(super) fn words(&mut self, words: &[Word], kind: CandidateKind, rank: u8) {
        for word in words {
            self.add(word.name, kind, word.doc, "", word.name, rank);
        }
    }

    pub(super) fn signals(&mut self, signals: &[SignalName], rank: u8) {
        for signal in signals {
            self.add(signal.name, CandidateKind::Signal, &signal.shape, signal.doc, signal.name, rank);
        }
    }

    pub(super) fn builtins(&mut self, wanted: impl Fn(&Builtin) -> bool, rank: u8) {
        for builtin in builtins::all().iter().filter(|builtin| wanted(builtin)) {
            self.add(builtin.name, CandidateKind::Function, builtin.usage, "", builtin.name, rank);
        }
    }

    pub(super) fn symbol(&mut self, name: &str, kind: SymbolKind, rank: u8) {
        let known = self.names.get(name).filter(|id| self.analysis.index.symbol(**id).kind == kind);
        let (detail, doc) = match known {
            Some(id) => {
                (describe::signature(self.analysis, *id), self.analysis.index.symbol(*id).doc.clone())
            }
            None => (kind.name().to_owned(), String::new()),
        };
        self.add(name, CandidateKind::Symbol(kind), &detail, &doc, name, rank);
    }

    /// Adds the names in scope that a place accepts. Those whose kind fits come first.
    pub(super) fn scope(&mut self, context: &CompletionContext, takes: ArgumentKind) {
        for (name, kind, local) in self.in_scope(context) {
            let rank = if fits(kind, takes) { 0 } else { 3 };
            if rank == 3 && !self.may_fit(&name, kind, takes) {
                continue;
            }
            self.symbol(&name, kind, if rank == 0 && !local { 1 } else { rank });
        }
    }

    /// Whether a name of another kind may still be accepted, since a `let` may hold any value.
    fn may_fit(&self, name: &str, kind: SymbolKind, takes: ArgumentKind) -> bool {
        use SymbolKind as S;
        // These places accept any kind.
        if matches!(takes, ArgumentKind::Formula | ArgumentKind::Condition) {
            return true;
        }
        let holds_anything = matches!(kind, S::Let | S::LocalLet | S::Param | S::Fn | S::Where | S::Carried);
        let info = self.names.get(name).and_then(|id| self.analysis.index.symbol(*id).info.as_ref());
        holds_anything && info.is_none_or(|info| info.number.is_none())
    }

    pub(super) fn scope_of(&mut self, context: &CompletionContext, wanted: impl Fn(SymbolKind) -> bool) {
        for (name, kind, _) in self.in_scope(context) {
            if wanted(kind) {
                self.symbol(&name, kind, 0);
            }
        }
    }

    /// The name and kind of each name in scope, and whether it is local. In objectives, roles hide items.
    pub(super) fn in_scope(&self, context: &CompletionContext) -> Vec<(String, SymbolKind, bool)> {
        let declared = scope::declared(context);
        let own = declared.iter().map(|LocalName { name, kind, local }| ((*name).to_owned(), *kind, *local));
        let imported = self.names.iter().filter_map(|(name, id)| {
            let symbol = self.analysis.index.symbol(*id);
            let imported = symbol.span.file != ENTRY && !is_standard_divergence(name);
            imported.then(|| (name.clone(), symbol.kind, false))
        });
        let hidden =
            |name: &str, local: bool| !local && context.sees_signals() && vocabulary::signal(name).is_some();
        own.chain(imported).filter(|(name, _, local)| !hidden(name, *local)).collect()
    }
}

/// Whether a symbol is accepted in a place.
pub(super) fn fits(kind: SymbolKind, takes: ArgumentKind) -> bool {
    use SymbolKind as S;
    // A parameter may be anything.
    if kind == S::Parameter {
        return !matches!(
            takes,
            ArgumentKind::Words(_) | ArgumentKind::Field | ArgumentKind::Role | ArgumentKind::Reduce
        );
    }
    match takes {
        ArgumentKind::Model | ArgumentKind::Models => {
            matches!(kind, S::Model | S::Stage | S::Carried | S::Turn)
        }
        ArgumentKind::Domains => matches!(kind, S::Domain | S::Turn),
        ArgumentKind::Objective => kind == S::Objective,
        ArgumentKind::Reward => kind == S::Reward,
        ArgumentKind::Rollout => kind == S::Rollout,
        ArgumentKind::Teacher | ArgumentKind::Teachers => matches!(kind, S::Teacher | S::Turn | S::Panel),
        ArgumentKind::Template => kind == S::Template,
        ArgumentKind::Benchmark | ArgumentKind::Benchmarks => kind == S::Eval,
        ArgumentKind::Schedule
        | ArgumentKind::Count
        | ArgumentKind::Number
        | ArgumentKind::Numbers
        | ArgumentKind::Formula
        | ArgumentKind::Condition => {
            matches!(kind, S::Fn | S::Schedule | S::Param | S::Let | S::LocalLet | S::State)
        }
        _ => false,
    }
}

fn items(list: &mut List, context: &CompletionContext) {
    let public = context.before(context.cut).is_some_and(|last| context.text(last) == "pub");
    for (rank, keyword) in words::ITEMS.iter().enumerate() {
        let no_pub = matches!(*keyword, "experiment" | "compare" | "route" | "sweep" | "use");
        if !(public && no_pub) {
            list.keyword(keyword, item_shape(keyword), rank as u8);
        }
    }
    if !public {
        list.keyword("pub", "lets other files import what follows", words::ITEMS.len() as u8);
    }
}

fn item_shape(keyword: &str) -> &'static str {
    match keyword {
        "experiment" => "experiment \"name\" { seed = 1 }",
        "domain" => "domain name { prompts = ..., reward = ..., share = ... }",
        "model" => "model name = stage(...) { ... }",
        "teacher" => "teacher name = model",
        "route" => "route { domain == math -> teacher }",
        "objective" => "objective name { term ... reduce = ... }",
        "compare" => "compare \"name\" { models = [...] }",
        "let" => "let name = value",
        "fn" => "fn name(a, b) = value",
        "stage" => "stage name(start: model) = stage(...) { ... }",
        "schedule" => "schedule name = warmup(...)",
        "reward" => "reward name = command(...)",
        "template" => "template name = \"{prompt} ...\"",
        "rollout" => "rollout name = sample(...) |> ...",
        "divergence" => "divergence name(u) = f(u)",
        "panel" => "panel name = debate([...]) { ... }",
        "eval" => "eval name { prompts = ..., reward = ... }",
        "param" => "param name: count = 1",
        "sweep" => "sweep { name in [...] }",
        _ => "use std.opd.mopd",
    }
}

fn imports(list: &mut List, path: &[String], libraries: &[Rc<LibraryModule>]) {
    for library in libraries.iter().filter(|library| library.path.starts_with(path)) {
        match library.path.get(path.len()) {
            Some(next) => {
                let leaf = library.path.len() == path.len() + 1;
                let doc = if leaf { library.doc.as_str() } else { "" };
                list.add(next, CandidateKind::Module, &library.path[..=path.len()].join("."), doc, next, 0);
            }
            None => {
                for item in &library.items {
                    let kind = item_kind(&item.signature);
                    list.add(
                        &item.name,
                        CandidateKind::Symbol(kind),
                        &item.signature,
                        &item.doc,
                        &item.name,
                        0,
                    );
                }
            }
        }
    }
}

pub(super) fn item_kind(signature: &str) -> SymbolKind {
    match signature.trim_start_matches("pub ").split(' ').next() {
        Some("objective") => SymbolKind::Objective,
        Some("stage") => SymbolKind::Stage,
        Some("fn") => SymbolKind::Fn,
        Some("domain") => SymbolKind::Domain,
        Some("reward") => SymbolKind::Reward,
        Some("schedule") => SymbolKind::Schedule,
        Some("model") => SymbolKind::Model,
        Some("teacher") => SymbolKind::Teacher,
        Some("template") => SymbolKind::Template,
        Some("rollout") => SymbolKind::Rollout,
        Some("divergence") => SymbolKind::Divergence,
        Some("panel") => SymbolKind::Panel,
        Some("eval") => SymbolKind::Eval,
        Some("param") => SymbolKind::Param,
        _ => SymbolKind::Let,
    }
}

fn keys(list: &mut List, owner: &str, present: &[String]) {
    for key in vocabulary::keys(owner).unwrap_or_default() {
        if present.iter().any(|set| set == key.name) {
            continue;
        }
        let detail = if key.required { "must be set" } else { "may be left out" };
        let rank = if key.required { 0 } else { 1 };
        list.add(
            key.name,
            CandidateKind::Key,
            detail,
            &hover::key_text(key),
            &format!("{} = ", key.name),
            rank,
        );
    }
    if owner == "train" {
        list.keyword("trains", "trains name = model { ... }", 0);
        list.keyword("step", "step name { updates = ... }", 0);
    }
    if owner == "objective" {
        list.keyword("term", "term name = ... * live student.logp", 0);
        list.keyword("let", "let name = value", 0);
        list.keyword("state", "state name = first then next", 0);
    }
    if vocabulary::may_route(owner) {
        list.keyword("route", "route { ... } for this stage alone", 2);
    }
}

/// Adds the names of the arguments that are not given yet, required ones first.
fn arguments(list: &mut List, callee: &str, given: &[String]) {
    let written: Vec<(String, String, bool)> = match (builtins::find(callee), list.names.get(callee)) {
        (Some(builtin), _) => {
            let each = |parameter: &BuiltinParameter| {
                (parameter.name.to_owned(), builtin.usage.to_owned(), parameter.required)
            };
            builtin.parameters.iter().map(each).collect()
        }
        (None, Some(id)) => {
            let mut written: Vec<(String, String, bool)> = describe::written_parameters(list.analysis, *id)
                .into_iter()
                .map(|(name, written)| {
                    let required = !written.contains(" = ");
                    (name, written, required)
                })
                .collect();
            if list.analysis.index.symbol(*id).kind == SymbolKind::Divergence {
                // Sides have no names in a call.
                written.retain(|(name, written, _)| name != written);
                let usage = DIVERGENCE_SETTINGS.map(|name| (name.to_owned(), format!("{name}: ..."), false));
                written.extend(usage);
            }
            written
        }
        (None, None) => Vec::new(),
    };
    for (name, detail, required) in written.iter().filter(|(name, ..)| !given.contains(name)) {
        let rank = if *required { 2 } else { 3 };
        list.add(&format!("{name}:"), CandidateKind::Key, detail, "", &format!("{name}: "), rank);
    }
}
