//! The analysis of one run of a file: its checks in order, then the audit.

use crate::diag::{Diagnostic, Severity, bounded};
use crate::source::{SourceFile, Sources, Span};
use crate::syntax::ast::{Expr, ExprKind, ItemKind};
use mopd_experiment::{Experiment, SweepAxis, SweptTo, stack};

use crate::check::checker::{CallStack, Cancellation, Checker, ItemEffort, RouteState};
use crate::check::declarations::{Declarations, ExperimentParts, NamedObjective};
use crate::check::evaluate::{self, items};
use crate::check::evaluation::{self, benchmarks, compare, sweep};
use crate::check::names::allow;
use crate::check::names::callable::callable;
use crate::check::names::candidates::NameCandidates;
use crate::check::names::load::{Loader, Parsed, parse_all};
use crate::check::names::modules::{ItemId, ModuleId, Modules};
use crate::check::names::parse_cache::ParseCache;
use crate::check::reporter::Reporter;
use crate::check::stages::{self, narrow_bounds};
use crate::check::teachers::route;
use crate::check::values::recorded::RecordedValues;
use crate::check::{data, index, unused};

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

impl Analysis {
    /// The analysis of an empty file, for a file that has not been read yet.
    pub fn unread(path: &str) -> Analysis {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile { path: path.to_owned(), text: String::new() });
        let modules = Modules::of_empty_file(file);
        Checked::unchecked(sources, modules, RecordedValues::default()).audited(None)
    }

    pub fn has_errors(&self) -> bool {
        has_errors(&self.diagnostics)
    }
}

/// Finds further mistakes in an experiment whose text has no errors. Also gets the places of its parts.
pub type Auditor<'a> = &'a dyn Fn(&Experiment, &[Span]) -> Vec<Diagnostic>;

/// Trees and names only, without a check.
pub fn outline(entry: SourceFile, load: Loader) -> Analysis {
    let parsed = stack::with_room(|| parse_all(entry, load, &mut ParseCache::default()));
    Checked::unchecked(parsed.sources, parsed.modules, RecordedValues::default()).audited(None)
}

/// The files and everything known about them, before the audit.
pub struct Checked {
    sources: Sources,
    modules: Modules,
    recorded: RecordedValues,
    diagnostics: Vec<Diagnostic>,
    experiment: Option<Experiment>,
    /// The axes of the `sweep`, also where the experiment has errors; empty if an axis is faulty.
    pub sweep: Vec<SweepAxis>,
    objectives: Vec<NamedObjective>,
    changed_models: Vec<Span>,
    pub origins: Vec<Span>,
    pub stopped: bool,
}

impl Checker {
    pub fn new(parsed: Parsed, cancellation: Cancellation) -> Checker {
        let Parsed { sources, modules, entry, diagnostics } = parsed;
        let items = &modules.tree(entry).items;
        let has_experiment = items.iter().any(|item| matches!(item.kind, ItemKind::Experiment { .. }));
        Checker {
            declarations: Declarations {
                reporter: Reporter::new(sources, diagnostics),
                modules,
                parts: ExperimentParts::default(),
                candidates: NameCandidates::default(),
                entry,
                has_experiment,
                any_numbers: false,
            },
            stack: CallStack::default(),
            cancellation,
            route: RouteState::default(),
            recorded: RecordedValues::default(),
            seed: None,
        }
    }

    /// Checks the entry file.
    pub fn check(mut self, overrides: &[(String, String)], swept: &[SweptValue]) -> Checked {
        let entry = self.entry;
        evaluate::overrides::apply_overrides(&mut self, entry, overrides);
        for SweptValue { parameter, value, span } in swept {
            let module = &mut self.modules.loaded[entry.0 as usize];
            // As if it were written in place of the default.
            let written = match value {
                SweptTo::Number(value) => {
                    Some(Expr { span: *span, kind: ExprKind::Number { value: *value, suffix: None } })
                }
                SweptTo::Name(name) => sweep::named_value(&module.tree, parameter, name),
            };
            module.set.extend(written.map(|written| (parameter.clone(), written)));
        }
        let experiment = self.experiment(entry);
        if self.cancellation.stopped {
            let Declarations { reporter, modules, .. } = self.declarations;
            return Checked::unchecked(reporter.sources, modules, self.recorded);
        }
        // After an error, a name may be unread because of the error. A file without an experiment has only
        // been begun.
        if self.has_experiment && !self.diagnostics.has_errors() {
            unused::warn_of_unused_names(&mut self);
        }
        let Declarations { reporter, modules, parts, .. } = self.declarations;
        Checked {
            sources: reporter.sources,
            modules,
            recorded: self.recorded,
            diagnostics: reporter.diagnostics.into_vec(),
            experiment,
            sweep: parts.sweep,
            objectives: parts.objectives,
            changed_models: parts.changed_models,
            origins: reporter.origins,
            stopped: false,
        }
    }

    /// Checks every item of the entry file and assembles the experiment.
    fn experiment(&mut self, entry: ModuleId) -> Option<Experiment> {
        data::domains::declare_domains(self, entry);
        let module = self.modules.tree(entry);
        let header = data::domains::experiment_header(self, &module, entry);
        compare::check_names_of_tables(self, &module);
        let mut comparisons = Vec::new();
        for (index, item) in module.items.iter().enumerate() {
            if let ItemKind::Compare { name, block } = &item.kind {
                self.stack.work = ItemEffort::new(item);
                comparisons.extend(compare::comparison(self, entry, item, name, block));
            } else if callable(&item.kind).is_none() {
                items::check_item(self, ItemId { module: entry, index }, item);
            }
        }
        route::file_route(self, entry);
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
            items::check_item(self, ItemId { module: entry, index }, item);
        }
        self.parts.models.truncate(real.0);
        self.parts.teachers.truncate(real.1);
        self.parts.used_teachers.truncate(real.1);
        self.parts.said_origins.retain(|teacher, _| (teacher.0 as usize) < real.1);
        self.parts.panels.truncate(real.2);
        self.parts.marks.truncate(real.3);
        route::check_routes(self, entry);
        let judged = module.items.iter().any(|item| matches!(item.kind, ItemKind::Compare { .. }));
        route::check_use_of_domains(self, judged);
        stages::domains::check_compared_domains(self);
        data::leakage::warn_of_leakage(self, &comparisons);
        narrow_bounds::warn_of_narrow_bounds(self, header.as_ref());
        benchmarks::check_use_of_benchmarks(self, &comparisons);
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
    fn unchecked(sources: Sources, modules: Modules, recorded: RecordedValues) -> Checked {
        Checked {
            sources,
            modules,
            recorded,
            diagnostics: Vec::new(),
            experiment: None,
            sweep: Vec::new(),
            objectives: Vec::new(),
            changed_models: Vec::new(),
            origins: Vec::new(),
            stopped: true,
        }
    }

    /// Adds the diagnostics of `audit` if there are no errors, and removes those that comments allow.
    pub fn audited(mut self, audit: Option<Auditor>) -> Analysis {
        let audited = match (&self.experiment, audit) {
            (Some(experiment), Some(audit)) if !has_errors(&self.diagnostics) => {
                self.diagnostics.extend(audit(experiment, &self.origins));
                self.diagnostics.extend(evaluation::left_out(
                    experiment,
                    &self.origins,
                    &self.changed_models,
                ));
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
            index: index::NameIndex::lazy(self.modules, self.sources.clone(), self.recorded),
            sources: self.sources,
            diagnostics: self.diagnostics,
            experiment: self.experiment.filter(|_| !failed),
            objectives: self.objectives,
            origins: self.origins,
            stopped: self.stopped,
        }
    }
}

/// The value of a swept `param` in one run.
#[derive(Clone, Debug)]
pub struct SweptValue {
    pub parameter: String,
    pub value: SweptTo,
    /// Its place in the `sweep`.
    pub span: Span,
}
