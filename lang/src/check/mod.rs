//! From syntax trees to a checked experiment: names, units, axes, `live`, routes, constants.
//!
//! Checking never fails: a mistake becomes a diagnostic and the value `Error`, which fits everywhere, so that
//! one mistake is reported once. Each step turns the result of the step before into a value of its own type:
//!
//! ```text
//! SourceFile -- parse_all --> Parsed -- Checker::check --> Checked -- audited --> Analysis
//! ```
//!
//! 1. **[`Parsed`]**: files ([`names::load`]). The entry file and its imports are parsed into
//!    [`crate::syntax::ast`], and the declarations of names are collected in [`names::modules`]. In an
//!    editor, trees of unchanged items come from [`names::parse_cache`]; everything else is done again.
//! 2. **[`Checked`]**: the [`Checker`] takes what was parsed and goes through it in this order
//!    ([`Checker::check`]). Its context is in [`context`]: the experiment's [`ExperimentParts`]
//!    so far, the [`CallStack`], the [`Cancellation`] of an editor.
//!    - Values from outside ([`names::overrides`]), then domains ([`data`]): every route and objective is
//!      checked against the list of all of them.
//!    - Items, one after the other, each evaluated when first needed ([`values::evaluate`]). A value known
//!      before the run (number, domain, model, objective) becomes a [`values::value::Value`]; a number known
//!      only per token becomes a typed [`mopd_experiment::formula::Formula`], built in [`formulas`]:
//!      operators, functions, reductions, divergences, signals.
//!      A call binds its arguments in [`values::calls`]. Built-ins are declared in [`builtins`], with their
//!      arguments, and the words and keys of blocks in [`builtins::vocabulary`].
//!      Teachers, panels, templates and routes: [`teachers`]. Rollouts and rewards: [`rollouts`].
//!      Objectives and common mistakes in them: [`objectives`].
//!      Stages, that is models: [`stages`]. Each is checked as a whole in [`stages::stage_checks`], and its
//!      completions against its objective in `stages/rollout_checks.rs`.
//!    - The file's route ([`teachers::route`]), checked against every domain.
//!    - Bodies of functions, objectives and stages of the entry file, with any arguments.
//!    - The experiment as a whole: unrouted and unused domains, leakage between training and test data
//!      ([`data::leakage`]), tables of results ([`evaluation`]), unused names ([`names::unused`]).
//! 3. **[`Analysis`]**: the gradient audit of the compiler, where nothing so far is an error; then
//!    `// allow(...)` comments take effect ([`names::allow`]).

pub mod builtins;
mod context;
mod data;
mod evaluation;
mod formulas;
mod names;
mod objectives;
mod reported;
mod rollouts;
mod runs;
mod stages;
mod teachers;
mod values;

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::{Diagnostic, Severity, bounded};
use crate::source::{SourceFile, Sources, Span};
use crate::syntax::ast::ItemKind;
pub use builtins::{bounds, vocabulary};
use context::{CallStack, Cancellation, ExperimentParts};
pub use formulas::divergences::COMMON as DIVERGENCE_SETTINGS;
pub(crate) use formulas::signals::{is_role, named_number};
use mopd_experiment::stack;
use mopd_experiment::{
    Domain, DomainId, Experiment, Model, ModelId, Objective, Origin, Stage, SweepAxis, Teacher, TeacherId,
};
use names::index::ValueInfo;
use names::items::callable;
use names::load::{Parsed, parse_all};
pub(crate) use names::load::{is_slot, is_taken};
pub use names::modules::is_standard_divergence;
use names::modules::{ItemId, ModuleId, Modules};
pub(crate) use names::modules::{declared_name, import_edit};
pub use names::parse_cache::ParseCache;
use names::unknown_name::NameCandidates;
pub use names::{allow, index};
pub use objectives::capability::{nearest_form, needed_of};
use reported::ReportedDiagnostics;
pub use runs::{SweptValue, analyse, analyse_audited, analyse_edited, analyse_runs};
use teachers::route;
use values::calls;
use values::value::Value;

/// The result of an analysis: everything known about one file and its imports. Checking never fails: faults
/// are in the list of diagnostics, sorted by place.
pub struct Analysis {
    pub sources: Sources,
    pub diagnostics: Vec<Diagnostic>,
    /// Present where no diagnostic is an error and the file declares an `experiment`.
    pub experiment: Option<Experiment>,
    /// Every sound objective of the entry file; a parameter without a default may have any value.
    pub objectives: Vec<NamedObjective>,
    /// The places that [`mopd_experiment::Origin`] indexes.
    pub origins: Vec<Span>,
    /// The targets of all names.
    pub index: index::LazyIndex,
    /// Whether the analysis was cancelled. Then there are no diagnostics.
    pub stopped: bool,
}

/// An objective as its file declares it.
#[derive(Clone, Debug)]
pub struct NamedObjective {
    /// The `///` comment above it.
    pub doc: String,
    pub public: bool,
    /// As written: `clip_at: nats = 5`.
    pub parameters: Vec<String>,
    pub objective: Objective,
}

impl Analysis {
    /// The analysis of an empty file, for a file that has not been read yet.
    pub fn unread(path: &str) -> Analysis {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile { path: path.to_owned(), text: String::new() });
        let modules = Modules::of_empty_file(file);
        Checked::unchecked(sources, modules, index::RecordedValues::default()).audited(None)
    }

    pub fn has_errors(&self) -> bool {
        has_errors(&self.diagnostics)
    }
}

/// Loads the text of a module, `["std", "opd"]` or `["mine"]`; `None` where there is no such module.
pub type Loader<'a> = &'a dyn Fn(&[&str]) -> Option<SourceFile>;

/// Checks one run: with the file's own values, and with those set from outside, as `--set name=value` does:
/// `seed`, or any `param` of the entry file.
pub fn analyse_with(entry: SourceFile, load: Loader, overrides: &[(String, String)]) -> Analysis {
    analyse_once(entry, load, overrides, None)
}

fn analyse_once(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Option<Auditor>,
) -> Analysis {
    stack::with_room(|| {
        let parsed = parse_all(entry, load, &mut ParseCache::default());
        Checker::new(parsed, Cancellation::default()).check(overrides, &[]).audited(audit)
    })
}

/// Finds further mistakes in an experiment whose text has no errors. Also gets the places of its parts.
pub type Auditor<'a> = &'a dyn Fn(&Experiment, &[Span]) -> Vec<Diagnostic>;

/// [`analyse_with`], followed by `audit` if there are no errors.
pub fn analyse_run(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Auditor,
) -> Analysis {
    analyse_once(entry, load, overrides, Some(audit))
}

/// Whether to go on. Called repeatedly during an analysis.
pub type CancellationCheck = Rc<dyn Fn() -> bool>;

/// Trees and names only, without a check.
pub fn outline(entry: SourceFile, load: Loader) -> Analysis {
    let parsed = stack::with_room(|| parse_all(entry, load, &mut ParseCache::default()));
    Checked::unchecked(parsed.sources, parsed.modules, index::RecordedValues::default()).audited(None)
}

/// The largest number of definitions under evaluation, each needed by the one before, and of levels of a
/// formula. Files of thousands of `let`s, each naming the last one, stay far below it.
pub const DEEPEST_CHAIN: usize = 10_000;

/// The checker, which takes the parsed files.
struct Checker {
    sources: Sources,
    modules: Modules,
    diagnostics: ReportedDiagnostics,
    /// The names that unknown ones may have meant.
    candidates: NameCandidates,
    origins: Vec<Span>,
    known_origins: FxHashMap<Span, Origin>,
    parts: ExperimentParts,
    stack: CallStack,
    cancellation: Cancellation,
    /// The entry file's route, evaluated when a stage first needs it.
    route: route::RouteState,
    facts: index::RecordedValues,
    /// `--set seed=2`
    seed: Option<u64>,
    entry: ModuleId,
    /// Whether the entry file is an experiment, not a library.
    has_experiment: bool,
    /// Whether an objective is being checked on its own. Numbers that depend on its parameters may then have
    /// any value.
    any_numbers: bool,
}

/// The files and everything known about them, before the audit.
struct Checked {
    sources: Sources,
    modules: Modules,
    facts: index::RecordedValues,
    diagnostics: Vec<Diagnostic>,
    experiment: Option<Experiment>,
    /// The axes of the `sweep`, also where the experiment has errors; empty if an axis is faulty.
    sweep: Vec<SweepAxis>,
    objectives: Vec<NamedObjective>,
    origins: Vec<Span>,
    stopped: bool,
}

impl Checker {
    fn new(parsed: Parsed, cancellation: Cancellation) -> Checker {
        let Parsed { sources, modules, entry, diagnostics } = parsed;
        let items = &modules.tree(entry).items;
        let has_experiment = items.iter().any(|item| matches!(item.kind, ItemKind::Experiment { .. }));
        Checker {
            sources,
            modules,
            diagnostics,
            candidates: NameCandidates::default(),
            origins: Vec::new(),
            known_origins: FxHashMap::default(),
            parts: ExperimentParts::default(),
            stack: CallStack::default(),
            cancellation,
            route: route::RouteState::default(),
            facts: index::RecordedValues::default(),
            seed: None,
            entry,
            has_experiment,
            any_numbers: false,
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        let diagnostic = self.at_the_call(diagnostic);
        self.forget_at_calls(&diagnostic);
        self.diagnostics.add(diagnostic);
    }

    fn origin(&mut self, span: Span) -> Origin {
        let origins = &mut self.origins;
        *self.known_origins.entry(span).or_insert_with(|| {
            origins.push(span);
            Origin(origins.len() as u32 - 1)
        })
    }

    fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    fn domain(&self, id: DomainId) -> &Domain {
        &self.parts.domains[id.0 as usize]
    }

    fn model(&self, id: ModelId) -> &Model {
        &self.parts.models[id.0 as usize]
    }

    fn teacher(&self, id: TeacherId) -> &Teacher {
        &self.parts.teachers[id.0 as usize]
    }

    fn declare_teacher(&mut self, teacher: Teacher) -> Value {
        self.parts.teachers.push(teacher);
        self.parts.used_teachers.push(false);
        Value::Teacher(TeacherId(self.parts.teachers.len() as u32 - 1))
    }

    /// Declares a model. Its name is `wanted`, or a variant of it if that is taken.
    fn declare_model(&mut self, wanted: &str, stage: Stage, span: Span) -> ModelId {
        let origin = self.origin(span);
        let name = self.parts.model_names.give(wanted);
        self.parts.models.push(Model { name, stage, origin });
        ModelId(self.parts.models.len() as u32 - 1)
    }

    /// Records the value of a name inside a body, for editors.
    fn record(&mut self, declared: Span, value: &Value) {
        if let Some(info) = ValueInfo::from_value(value) {
            self.facts.record(declared, info);
        }
    }

    /// Checks the entry file.
    fn check(mut self, overrides: &[(String, String)], swept: &[SweptValue]) -> Checked {
        self.apply_overrides(self.entry, overrides);
        for value in swept {
            let entry = &mut self.modules.loaded[self.entry.0 as usize];
            entry.set.insert(value.parameter.clone(), value.expr());
        }
        let experiment = self.experiment(self.entry);
        if self.cancellation.stopped {
            return Checked::unchecked(self.sources, self.modules, self.facts);
        }
        // After an error, a name may be unread because of the error. A file without an experiment has only
        // been begun.
        if self.has_experiment && !self.diagnostics.has_errors() {
            self.warn_of_unused_names();
        }
        Checked {
            sources: self.sources,
            modules: self.modules,
            facts: self.facts,
            diagnostics: self.diagnostics.into_vec(),
            experiment,
            sweep: self.parts.sweep,
            objectives: self.parts.objectives,
            origins: self.origins,
            stopped: false,
        }
    }

    /// Checks every item of the entry file and assembles the experiment.
    fn experiment(&mut self, entry: ModuleId) -> Option<Experiment> {
        self.declare_domains(entry);
        let module = self.modules.tree(entry);
        let header = self.experiment_header(&module, entry);
        self.check_names_of_tables(&module);
        let mut comparisons = Vec::new();
        for (index, item) in module.items.iter().enumerate() {
            if let ItemKind::Compare { name, block } = &item.kind {
                self.stack.work = calls::ItemEffort::new(item);
                comparisons.extend(self.comparison(entry, item, name, block));
            } else if callable(&item.kind).is_none() {
                self.check_item(ItemId { module: entry, index }, item);
            }
        }
        self.file_route(entry);
        // Bodies are checked with any arguments, after all parts of the experiment. The models and teachers
        // that they declare are not part of it.
        let real = (
            self.parts.models.len(),
            self.parts.teachers.len(),
            self.parts.panels.len(),
            self.parts.marks.len(),
        );
        for (index, item) in
            module.items.iter().enumerate().filter(|(_, item)| callable(&item.kind).is_some())
        {
            self.check_item(ItemId { module: entry, index }, item);
        }
        self.parts.models.truncate(real.0);
        self.parts.teachers.truncate(real.1);
        self.parts.used_teachers.truncate(real.1);
        self.parts.said_origins.retain(|teacher, _| (teacher.0 as usize) < real.1);
        self.parts.panels.truncate(real.2);
        self.parts.marks.truncate(real.3);
        self.check_routes(entry);
        let judged = module.items.iter().any(|item| matches!(item.kind, ItemKind::Compare { .. }));
        self.check_use_of_domains(judged);
        self.check_compared_domains();
        self.warn_of_leakage(&comparisons);
        self.warn_of_narrow_bounds(header.as_ref());
        self.check_use_of_benchmarks(&comparisons);
        let header = header?;
        Some(Experiment {
            name: header.name,
            seed: self.seed.unwrap_or(header.seed),
            out: header.out,
            device: header.device,
            dtype: header.dtype,
            gpu: header.gpu,
            domains: std::mem::take(&mut self.parts.domains),
            teachers: std::mem::take(&mut self.parts.teachers),
            panels: std::mem::take(&mut self.parts.panels),
            models: std::mem::take(&mut self.parts.models),
            benchmarks: std::mem::take(&mut self.parts.benchmarks),
            comparisons,
            sweep: self.parts.sweep.clone(),
            marks: std::mem::take(&mut self.parts.marks),
        })
    }
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

impl Checked {
    /// The result of a cancelled analysis: trees and names only.
    fn unchecked(sources: Sources, modules: Modules, facts: index::RecordedValues) -> Checked {
        Checked {
            sources,
            modules,
            facts,
            diagnostics: Vec::new(),
            experiment: None,
            sweep: Vec::new(),
            objectives: Vec::new(),
            origins: Vec::new(),
            stopped: true,
        }
    }

    /// Adds the diagnostics of `audit` if there are no errors, and removes those that comments allow.
    fn audited(mut self, audit: Option<Auditor>) -> Analysis {
        let audited = match (&self.experiment, audit) {
            (Some(experiment), Some(audit)) if !has_errors(&self.diagnostics) => {
                self.diagnostics.extend(audit(experiment, &self.origins));
                self.diagnostics.extend(evaluation::left_out(experiment, &self.origins));
                true
            }
            _ => false,
        };
        if !self.stopped {
            let experiment = self.experiment.as_ref();
            let later = experiment.map(|experiment| allow::of_runs(experiment, &self.origins));
            allow::silence(&self.sources, &mut self.diagnostics, &later.unwrap_or_default(), audited);
        }
        self.diagnostics.sort_by_key(|diagnostic| (diagnostic.primary.span, diagnostic.code));
        let failed = has_errors(&self.diagnostics);
        self.diagnostics = bounded(self.diagnostics);
        Analysis {
            index: index::NameIndex::lazy(self.modules, self.sources.clone(), self.facts),
            sources: self.sources,
            diagnostics: self.diagnostics,
            experiment: self.experiment.filter(|_| !failed),
            objectives: self.objectives,
            origins: self.origins,
            stopped: self.stopped,
        }
    }
}
