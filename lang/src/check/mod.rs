//! From syntax trees to a checked experiment: names, units, axes, `live`, routes, constants.
//!
//! Checking never fails: a mistake becomes a diagnostic and the value `Error`, which fits everywhere, so that
//! one mistake is reported once. The steps, in order, as [`Checker::analyse`] takes them:
//!
//! 1. **Files** ([`names::modules`]). The entry file and what it imports are parsed into
//!    [`crate::syntax::ast`]; [`names::items`] knows who declares which name. In an editor, trees of
//!    unchanged items come from [`incremental::cache`].
//! 2. **Domains** ([`data`]) come first: every route and objective is checked against the list of all of
//!    them.
//! 3. **Items**, one after the other, each evaluated when first asked for ([`values::evaluate`]). What is
//!    known before the run (numbers, domains, models, objectives) becomes a [`values::value::Value`]; what is
//!    known only per token becomes a typed [`crate::formula::Formula`], built in [`formulas`]: operators,
//!    functions, reductions, divergences, signals.
//!    - A call binds its arguments in [`values::calls`]; what is built in is declared in [`builtins`], the
//!      words and keys of blocks in [`builtins::vocabulary`].
//!    - Teachers, panels, templates and routes: [`teachers`]. Rollouts and rewards: [`rollouts`].
//!    - Objectives and the mistakes one can make in them: [`objectives`].
//!    - Stages, that is models: [`stages`]. Each is checked as a whole in [`stages::stage_checks`].
//! 4. **The file's route** ([`teachers::route`]), held against every domain.
//! 5. **Bodies** of functions, objectives and stages of the entry file, with any arguments.
//! 6. **The experiment as a whole**: unrouted and unused domains, leakage between training and test data
//!    ([`data::leakage`]), tables of results ([`evaluation`]), unused names ([`names::unused`]).
//! 7. **The gradient audit** of the compiler, where nothing so far is an error; then `// allow(...)` comments
//!    take effect ([`names::allow`]).

pub mod builtins;
mod data;
mod evaluation;
mod formulas;
mod incremental;
mod names;
mod objectives;
mod rollouts;
mod stages;
mod teachers;
mod values;

use std::collections::HashMap;
use std::rc::Rc;

use crate::diag::{Diagnostic, Severity};
use crate::experiment::{
    Benchmark, Domain, DomainId, Experiment, MarkedSetting, Model, ModelId, Objective, Origin, Panel,
    SweepAxis, Teacher, TeacherId,
};
use crate::source::{SourceFile, Sources, Span};
use crate::stack;
use crate::syntax::ast::ItemKind;
pub use builtins::{bounds, vocabulary};
pub use formulas::divergences::COMMON as DIVERGENCE_SETTINGS;
pub use incremental::cache::AnalysisCache;
use incremental::recording;
use incremental::tracked::{ModelNames, Tracked};
use names::items::callable;
pub(crate) use names::modules::declared_name;
pub use names::modules::is_standard_divergence;
use names::modules::{ItemId, ModuleId, Modules};
pub use names::{allow, index};
use teachers::route;
use values::value::Value;
use values::{calls, frames};

/// Everything known about one file and what it imports. Checking never fails: it returns what it could make
/// sense of, and a list of diagnostics, sorted by place.
pub struct Analysis {
    pub sources: Sources,
    pub diagnostics: Vec<Diagnostic>,
    /// Present where no diagnostic is an error and the file declares an `experiment`.
    pub experiment: Option<Experiment>,
    /// Every objective of the entry file that is sound, with any value for a parameter without a default.
    pub objectives: Vec<NamedObjective>,
    /// What [`crate::experiment::Origin`] points into.
    pub origins: Vec<Span>,
    /// What every name refers to.
    pub index: index::LazyIndex,
    /// It was given up before its end: there are no diagnostics.
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
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Hands over the text of a module, `["std", "opd"]` or `["mine"]`; none where there is no such module.
pub type Loader<'a> = &'a dyn Fn(&[&str]) -> Option<SourceFile>;

/// Checks `entry` and everything that it imports.
pub fn analyse(entry: SourceFile, load: Loader) -> Analysis {
    analyse_with(entry, load, &[])
}

/// The same with values set from outside, as `--set name=value` does: `seed`, or any `param` of the entry
/// file.
pub fn analyse_with(entry: SourceFile, load: Loader, overrides: &[(String, String)]) -> Analysis {
    Checker::new(AnalysisCache::default()).analyse(entry, load, overrides, None).0
}

/// Says what else is wrong with an experiment that is sound as far as its text goes. The places of its parts
/// come with it.
pub type Auditor<'a> = &'a dyn Fn(&Experiment, &[Span]) -> Vec<Diagnostic>;

/// The same, with what `audit` finds where nothing else is an error.
pub fn analyse_audited(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Auditor,
) -> Analysis {
    Checker::new(AnalysisCache::default()).analyse(entry, load, overrides, Some(audit)).0
}

/// The same for a file that is being written: what has not changed since the last time is not done again.
/// Diagnostics and index are those of [`analyse`]; experiment and objectives are not put together. It is
/// quickest where the last result has been dropped.
pub fn analyse_again(entry: SourceFile, load: Loader, cache: &mut AnalysisCache) -> Analysis {
    analyse_while(entry, load, cache, None)
}

/// Asked again and again during an analysis: whether to go on.
pub type GoOn = Rc<dyn Fn() -> bool>;

/// The same, given up as soon as `go_on` says no: [`Analysis::stopped`] tells. Then trees and names are
/// there, diagnostics are not.
pub fn analyse_while(
    entry: SourceFile,
    load: Loader,
    cache: &mut AnalysisCache,
    go_on: Option<GoOn>,
) -> Analysis {
    // Left empty should the checker panic: what it was about to change is not to be trusted.
    let checker = Checker { go_on, ..Checker::new(std::mem::take(cache)) };
    let (analysis, kept) = checker.analyse(entry, load, &[], None);
    if !analysis.stopped {
        *cache = kept;
    }
    // What was not checked again has left no trace in it.
    Analysis { experiment: None, objectives: Vec::new(), ..analysis }
}

/// Trees and names alone: what can be known of a text that can't be checked.
pub fn outline(entry: SourceFile, load: Loader) -> Analysis {
    Checker { go_on: Some(Rc::new(|| false)), stopped: true, ..Checker::new(AnalysisCache::default()) }
        .analyse(entry, load, &[], None)
        .0
}

/// How many definitions may wait for each other, each needed by the one before, and how many levels a formula
/// may have. A file of thousands of `let`s, each naming the last one, is far below that.
pub const DEEPEST_CHAIN: usize = 10_000;

/// So many expressions are evaluated between two looks at whether to go on.
const BETWEEN_LOOKS: u32 = 512;

/// The state of one analysis.
struct Checker {
    cache: AnalysisCache,
    /// What the check of an item does, where that may be kept.
    recording: Option<recording::Recording>,
    sources: Sources,
    modules: Modules,
    diagnostics: Vec<Diagnostic>,
    origins: Vec<Span>,
    known_origins: HashMap<Span, Origin>,
    domains: Tracked<Vec<Domain>>,
    models: Tracked<Vec<Model>>,
    model_names: ModelNames,
    /// By what was checked in outline alone.
    uses: recording::Uses,
    teachers: Tracked<Vec<Teacher>>,
    /// By teacher: some route, objective or rollout asks for it.
    used_teachers: Tracked<Vec<bool>>,
    /// What the author wrote about where teachers come from.
    said_origins: Tracked<teachers::SaidOrigins>,
    panels: Tracked<Vec<Panel>>,
    benchmarks: Tracked<Vec<Benchmark>>,
    sweep: Tracked<Vec<SweepAxis>>,
    objectives: Vec<NamedObjective>,
    /// The entry file's route, evaluated when a stage first asks for it.
    route: route::RouteState,
    marks: Vec<MarkedSetting>,
    facts: index::Facts,
    /// The items whose bodies are being evaluated, by the place of their names: a call of one of them never
    /// ends.
    calling: Vec<Span>,
    /// The same calls, with what their callers gave.
    frames: Vec<frames::Frame>,
    /// The items whose values are being worked out.
    evaluating: Vec<ItemId>,
    /// Of the item that is being evaluated.
    work: calls::Work,
    /// It has been said that an item takes too many.
    overworked: bool,
    /// `--set seed=2`
    seed: Option<u64>,
    /// The entry file is an experiment, not a library.
    has_experiment: bool,
    /// An objective is being checked for its own sake: a number that its parameters leave open has some
    /// value.
    any_numbers: bool,
    /// How often a definition was found to need itself.
    cycles: usize,
    /// How many definitions are being evaluated, each needed by the one before.
    chain: usize,
    go_on: Option<GoOn>,
    /// Expressions until the next look at whether to go on.
    until_look: u32,
    stopped: bool,
}

/// Whether two messages differ at most in which member of a family they are about: `expert[sort]`,
/// `expert[reverse]`.
fn same_but_for_members(a: &str, b: &str) -> bool {
    let plain = |text: &str| {
        let mut inside = false;
        let kept = text.chars().filter(|c| {
            inside = inside && *c != ']' || *c == '[';
            !inside
        });
        kept.collect::<String>()
    };
    a == b || a.contains('[') && b.contains('[') && plain(a) == plain(b)
}

impl Checker {
    fn new(cache: AnalysisCache) -> Checker {
        Checker {
            cache,
            recording: None,
            sources: Sources::default(),
            modules: Modules::default(),
            diagnostics: Vec::new(),
            origins: Vec::new(),
            known_origins: HashMap::new(),
            domains: Tracked::default(),
            models: Tracked::default(),
            model_names: ModelNames::default(),
            uses: recording::Uses::default(),
            teachers: Tracked::default(),
            used_teachers: Tracked::default(),
            said_origins: Tracked::default(),
            panels: Tracked::default(),
            benchmarks: Tracked::default(),
            sweep: Tracked::default(),
            objectives: Vec::new(),
            route: route::RouteState::default(),
            marks: Vec::new(),
            facts: index::Facts::default(),
            calling: Vec::new(),
            frames: Vec::new(),
            evaluating: Vec::new(),
            work: calls::Work::default(),
            overworked: false,
            seed: None,
            has_experiment: false,
            any_numbers: false,
            cycles: 0,
            chain: 0,
            go_on: None,
            until_look: BETWEEN_LOOKS,
            stopped: false,
        }
    }

    fn analyse(
        mut self,
        entry: SourceFile,
        load: Loader,
        overrides: &[(String, String)],
        audit: Option<Auditor>,
    ) -> (Analysis, AnalysisCache) {
        stack::with_room(|| {
            self.list_library(load);
            let entry = self.load(entry, load);
            self.load_defaults(load);
            self.apply_overrides(entry, overrides);
            let experiment = self.experiment(entry);
            self.finish(experiment, audit)
        })
    }

    /// Whether the analysis has been given up.
    fn gives_up(&mut self) -> bool {
        let Some(go_on) = &self.go_on else { return false };
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = BETWEEN_LOOKS;
            self.stopped |= !go_on();
        }
        self.stopped
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.mark_uncacheable();
        let diagnostic = self.at_the_call(diagnostic);
        self.forget_at_calls(&diagnostic);
        // The body of a function or objective is checked at every use; a mistake in it is still one mistake.
        let seen = |known: &Diagnostic| {
            known.code == diagnostic.code
                && known.primary.span == diagnostic.primary.span
                && same_but_for_members(&known.message, &diagnostic.message)
        };
        if !self.diagnostics.iter().any(seen) {
            self.diagnostics.push(diagnostic);
        }
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
        &self.domains.read()[id.0 as usize]
    }

    fn model(&self, id: ModelId) -> &Model {
        &self.models.known()[id.0 as usize]
    }

    fn teacher(&self, id: TeacherId) -> &Teacher {
        &self.teachers.known()[id.0 as usize]
    }

    fn declare_teacher(&mut self, teacher: Teacher) -> Value {
        self.teachers.write().push(teacher);
        self.used_teachers.write().push(false);
        Value::Teacher(TeacherId(self.teachers.read().len() as u32 - 1))
    }

    /// Checks every item of the entry file and puts the experiment together.
    fn experiment(&mut self, entry: ModuleId) -> Option<Experiment> {
        self.has_experiment = self
            .modules
            .tree(entry)
            .items
            .iter()
            .any(|item| matches!(item.kind, ItemKind::Experiment { .. }));
        self.declare_domains(entry);
        self.cache.forget_what_changed(self.domains.read());
        let module = self.modules.tree(entry);
        let header = self.experiment_header(&module, entry);
        let mut comparisons = Vec::new();
        for (index, item) in module.items.iter().enumerate() {
            let id = ItemId { module: entry, index };
            if let ItemKind::Compare { name, block } = &item.kind {
                self.work = calls::Work::of(item);
                let comparison =
                    self.check_once(id, item, |checker| checker.comparison(entry, item, name, block));
                comparisons.extend(comparison.flatten());
            } else if callable(&item.kind).is_none() {
                self.check_item_once(id, item);
            }
        }
        self.file_route(entry);
        // Bodies are checked with any arguments, after everything that the experiment is made of: what they
        // declare on the way is no part of it.
        let real = (
            self.models.read().len(),
            self.teachers.read().len(),
            self.panels.read().len(),
            self.marks.len(),
        );
        let uses = self.uses.clone();
        for (index, item) in
            module.items.iter().enumerate().filter(|(_, item)| callable(&item.kind).is_some())
        {
            self.check_item_once(ItemId { module: entry, index }, item);
        }
        self.models.write().truncate(real.0);
        self.teachers.write().truncate(real.1);
        self.used_teachers.write().truncate(real.1);
        self.said_origins.write().retain(|teacher, _| (teacher.0 as usize) < real.1);
        self.panels.write().truncate(real.2);
        self.marks.truncate(real.3);
        self.uses = uses;
        self.check_routes(entry);
        let judged = module.items.iter().any(|item| matches!(item.kind, ItemKind::Compare { .. }));
        self.check_use_of_domains(judged);
        self.warn_of_leakage();
        self.check_use_of_benchmarks(&comparisons);
        let header = header?;
        Some(Experiment {
            name: header.name,
            seed: self.seed.unwrap_or(header.seed),
            out: header.out,
            device: header.device,
            dtype: header.dtype,
            domains: self.domains.take(),
            teachers: self.teachers.take(),
            panels: self.panels.take(),
            models: self.models.take(),
            benchmarks: self.benchmarks.take(),
            comparisons,
            sweep: self.sweep.take(),
            marks: std::mem::take(&mut self.marks),
        })
    }

    fn finish(mut self, experiment: Option<Experiment>, audit: Option<Auditor>) -> (Analysis, AnalysisCache) {
        let experiment = experiment.filter(|_| !self.stopped);
        if self.stopped {
            self.diagnostics.clear();
            self.objectives.clear();
        }
        // Where something is wrong, a name may be unread because of it; and a file without an experiment has
        // only begun.
        let sound = self.diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Warning);
        if sound && self.has_experiment && !self.stopped {
            self.warn_of_unused_names();
        }
        let audited = match (&experiment, audit) {
            (Some(experiment), Some(audit)) if sound => {
                self.diagnostics.extend(audit(experiment, &self.origins));
                true
            }
            _ => false,
        };
        if !self.stopped {
            allow::silence(&self.sources, &mut self.diagnostics, audited);
        }
        self.diagnostics.sort_by_key(|diagnostic| (diagnostic.primary.span, diagnostic.code));
        let failed = self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        let analysis = Analysis {
            sources: self.sources,
            diagnostics: self.diagnostics,
            experiment: experiment.filter(|_| !failed),
            objectives: self.objectives,
            origins: self.origins,
            index: index::NameIndex::lazy(self.modules, self.facts),
            stopped: self.stopped,
        };
        (analysis, self.cache)
    }
}
