//! Records the effects of an item's check, so that they can be repeated without the check.
//!
//! A check without diagnostics has four effects that others depend on: it requests the values of other
//! items, names models, records the values of names, and uses domains and teachers. [`Checker::repeat`]
//! repeats these in the same order and leaves out the rest. The value of a model whose check is repeated is
//! computed when it is first needed.
//!
//! This is correct because **all items that declare teachers, panels, benchmarks, axes of a sweep, or loaded
//! models are evaluated at every analysis, in the order of a full one.** So these tables always equal those
//! of a full analysis, and searches in them have equal results. Only the table of models has gaps, and code
//! that has a model's index has requested that model. [`Checker::touched`] names every part of the checker's
//! state and says which of these cases applies to it.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::experiment::{DomainId, ModelId, Stage, Train};
use crate::source::Span;
use crate::syntax::ast::{Item, ItemKind};

use crate::check::Checker;
use crate::check::context::ExperimentParts;
use crate::check::names::index::ValueInfo;
use crate::check::names::items::callable;
use crate::check::names::modules::{ItemId, ItemProgress, ModuleId, declared_name};
use crate::check::teachers::route::{ENTRY, RouteState};
use crate::check::values::calls::ItemEffort;
use crate::check::values::value::Value;

/// The recorded check of an item that had no diagnostics.
pub(in crate::check) struct Check {
    /// The items whose values the check requested.
    asked: Vec<ItemRequest>,
    effects: Vec<Effect<RelativeSpan>>,
    /// The item's value as editors show it.
    info: Option<ValueInfo>,
    uses: UsedDeclarations,
    /// Hashes of the names that the check looked up, found or not.
    pub consulted: Vec<u32>,
    /// Whether the check read the list of all domains.
    pub domains: bool,
}

struct ItemRequest {
    path: Rc<str>,
    name: String,
}

/// A place inside an item: the checked item, or one whose value the check requested.
struct RelativeSpan {
    asked: Option<usize>,
    start: u32,
    end: u32,
}

/// An effect of an item's check on others. A recording holds them in the order in which they happen.
enum Effect<P> {
    /// Requests the value of an item for the first time. Index into the requested items.
    Request(usize),
    /// Requests the file's route.
    ReadRoute,
    /// Names a model. If the name is taken, the model gets another one.
    DeclareModel(String),
    /// Records the value of a name that is declared at a place.
    RecordValue(P, ValueInfo),
}

/// The domains and models that stages use, which are therefore not reported as unused.
#[derive(Clone, Default)]
pub struct UsedDeclarations {
    /// Domains that are trained on.
    pub trained: BTreeSet<DomainId>,
    /// Domains whose teacher is requested by the file's route.
    pub routed: BTreeSet<DomainId>,
    /// Whether there are models.
    pub models: bool,
}

/// The recording of a check under way.
#[derive(Default)]
pub struct Recording {
    asked: Vec<ItemId>,
    effects: Vec<Effect<Span>>,
    declared: Vec<ModelId>,
    consulted: Vec<u32>,
    domains: bool,
    /// Whether the check did something that must be done in every analysis.
    uncacheable: bool,
    /// How many cycles had been found before it.
    cycles: usize,
}

impl Checker {
    /// Checks an item on its own, unless a stored check shows that there is nothing to report.
    pub(in crate::check) fn check_item_once(&mut self, id: ItemId, item: &Item) {
        match &item.kind {
            ItemKind::Model(_) => self.ask(id, item.span),
            kind if callable(kind).is_some() => {
                self.check_once(id, item, |checker| checker.check_item(id, item));
            }
            _ => self.check_item(id, item),
        }
    }

    /// Runs a check whose result nothing else needs. `None` where a stored check shows that there is nothing
    /// to report.
    pub(in crate::check) fn check_once<T>(
        &mut self,
        id: ItemId,
        item: &Item,
        check: impl FnOnce(&mut Checker) -> T,
    ) -> Option<T> {
        if let Some(known) = self.known_check(id)
            && self.repeat(&known, item).is_some()
        {
            return None;
        }
        self.begin_recording();
        let found = check(self);
        self.end_recording(id, item, None);
        Some(found)
    }

    /// Evaluates an item for its effects on others.
    fn ask(&mut self, id: ItemId, asked_at: Span) {
        if self.modules.progress.contains_key(&id) {
            return;
        }
        let tree = self.modules.tree(id.module);
        let item = &tree.items[id.index];
        if matches!(item.kind, ItemKind::Model(_))
            && let Some(known) = self.known_check(id)
            && let Some(names) = self.repeat(&known, item)
        {
            let info = known.info.clone();
            self.modules.progress.entry(id).or_insert(ItemProgress::Repeated { names, info });
            return;
        }
        self.item_value(id, asked_at);
    }

    /// The value of an item that has not been evaluated, or whose check was only repeated. In that case
    /// `names` are the names of its models.
    pub(in crate::check) fn evaluate_once(
        &mut self,
        id: ItemId,
        item: &Item,
        names: Option<VecDeque<String>>,
    ) -> Value {
        self.outside_recording(ItemEffort::new(item), |checker| {
            if names.is_some() || !matches!(item.kind, ItemKind::Model(_)) {
                checker.parts.model_names.given = names;
                return checker.evaluate_item(id, item);
            }
            checker.begin_recording();
            let value = checker.evaluate_item(id, item);
            checker.end_recording(id, item, ValueInfo::from_value(&value));
            value
        })
    }

    /// Runs an evaluation whose result does not depend on the caller, outside the caller's recording.
    pub(in crate::check) fn outside_recording<T>(
        &mut self,
        work: ItemEffort,
        evaluate: impl FnOnce(&mut Checker) -> T,
    ) -> T {
        let recording = self.pause_recording();
        let work = std::mem::replace(&mut self.stack.work, work);
        let calling = std::mem::take(&mut self.stack.calling);
        let any_numbers = std::mem::take(&mut self.any_numbers);
        let given = self.parts.model_names.given.take();
        let value = evaluate(self);
        (self.stack.work, self.stack.calling, self.any_numbers, self.parts.model_names.given) =
            (work, calling, any_numbers, given);
        self.resume_recording(recording);
        value
    }

    fn known_check(&mut self, id: ItemId) -> Option<Rc<Check>> {
        let path = self.path_of(id.module)?;
        self.cache.check(&path, id.index)
    }

    /// The file of a module, unless the same file was loaded before under another name.
    fn path_of(&self, module: ModuleId) -> Option<Rc<str>> {
        let (path, first) = self.modules.path(module);
        (first == module).then_some(path)
    }

    fn begin_recording(&mut self) {
        let cycles = self.stack.cycles;
        self.resume_recording(Some(Recording { cycles, ..Recording::default() }));
    }

    /// Stores the recorded check, if it can be repeated.
    fn end_recording(&mut self, id: ItemId, item: &Item, info: Option<ValueInfo>) {
        let Some(recording) = self.pause_recording() else { return };
        let check = self.check_of(recording, item, info);
        if let Some(path) = self.path_of(id.module) {
            self.cache.keep(&path, id.index, check);
        }
    }

    fn check_of(&self, recording: Recording, item: &Item, info: Option<ValueInfo>) -> Option<Check> {
        let Recording { asked: ids, effects, declared, mut consulted, domains, uncacheable, cycles } =
            recording;
        // The diagnostics of a cycle depend on where it was entered.
        if uncacheable || self.stack.cycles > cycles {
            return None;
        }
        let uses = self.uses_of(&declared)?;
        consulted.sort_unstable();
        consulted.dedup();
        let asked = ids.iter().map(|id| {
            let tree = self.modules.tree(id.module);
            let name = declared_name(&tree.items[id.index].kind)?.text.clone();
            Some(ItemRequest { path: self.path_of(id.module)?, name })
        });
        let effects = effects.into_iter().map(|effect| {
            Some(match effect {
                Effect::Request(number) => Effect::Request(number),
                Effect::ReadRoute => Effect::ReadRoute,
                Effect::DeclareModel(name) => Effect::DeclareModel(name),
                Effect::RecordValue(span, info) => Effect::RecordValue(self.place(span, item, &ids)?, info),
            })
        });
        Some(Check {
            asked: asked.collect::<Option<_>>()?,
            effects: effects.collect::<Option<_>>()?,
            info,
            uses,
            consulted,
            domains,
        })
    }

    /// The position of a span within the item, or within an item whose value was requested.
    fn place(&self, span: Span, item: &Item, asked: &[ItemId]) -> Option<RelativeSpan> {
        let inside = |item: &Item| {
            item.span.file == span.file && item.span.start <= span.start && span.end <= item.span.end
        };
        let place = |asked, item: &Item| RelativeSpan {
            asked,
            start: span.start - item.span.start,
            end: span.end - item.span.start,
        };
        if inside(item) {
            return Some(place(None, item));
        }
        asked.iter().enumerate().find_map(|(number, id)| {
            let tree = self.modules.tree(id.module);
            let item = &tree.items[id.index];
            inside(item).then(|| place(Some(number), item))
        })
    }

    /// The domains that the stages of models use. `None` where they must be determined in every analysis.
    fn uses_of(&self, declared: &[ModelId]) -> Option<UsedDeclarations> {
        let mut uses = UsedDeclarations { models: !declared.is_empty(), ..UsedDeclarations::default() };
        for model in declared {
            match &self.model(*model).stage {
                Stage::Train(train) => {
                    let measured = train.validation.is_some() || train.alignment.is_some();
                    let moves = train.extrapolation.is_some() || train.trainable.changes().next().is_some();
                    if names_teachers(train) || measured || moves {
                        return None;
                    }
                    uses.trained.extend(train.mixture.iter().map(|share| share.domain));
                    uses.routed.extend(train.teachers.iter().map(|choice| choice.domain));
                }
                Stage::Initialise(_) | Stage::Merge(_) | Stage::Parameter => {}
                // The first of several models that load the same weights stands for all of them.
                Stage::Load(_) => return None,
                // Declares teachers.
                Stage::Joint(_) | Stage::Member { .. } => return None,
            }
        }
        Some(uses)
    }

    /// Repeats the effects of an item's check, which had no diagnostics, and returns the names of its models.
    /// `None` where that is impossible; then nothing has been done.
    fn repeat(&mut self, check: &Check, item: &Item) -> Option<VecDeque<String>> {
        let ids = check.asked.iter().map(|asked| {
            let module = self.modules.at_file(&asked.path)?;
            let declared = self.modules.lookup(module, &asked.name)?;
            (declared.item.module == module).then_some(declared.item)
        });
        let ids = ids.collect::<Option<Vec<ItemId>>>()?;
        let mut names = VecDeque::new();
        for effect in &check.effects {
            match effect {
                Effect::Request(number) => self.ask(ids[*number], item.span),
                Effect::ReadRoute => {
                    self.file_route(ENTRY);
                }
                Effect::DeclareModel(wanted) => names.push_back(self.parts.model_names.give(wanted)),
                Effect::RecordValue(place, info) => {
                    let around = match place.asked {
                        None => item.span,
                        Some(number) => self.modules.item_span(ids[number]),
                    };
                    let span = Span {
                        file: around.file,
                        start: around.start + place.start,
                        end: around.start + place.end,
                    };
                    self.facts.record(span, info);
                }
            }
        }
        self.uses.trained.extend(&check.uses.trained);
        self.uses.routed.extend(&check.uses.routed);
        self.uses.models |= check.uses.models;
        Some(names)
    }

    /// Which parts were touched since the last call: the list of domains, and anything that makes a recording
    /// uncacheable. A new field of the checker does not compile until it is listed here, with the reason why
    /// a check that reads or changes it may be skipped.
    fn touched(&self) -> (bool, bool) {
        let Checker {
            cache: _,
            recording: _,
            sources: _,
            // Values of items are requested again.
            modules: _,
            // A check with diagnostics is not kept. Only their suggestions read the candidates.
            diagnostics: _,
            candidates: _,
            // Only the places that they refer to matter, not their indices.
            origins: _,
            known_origins: _,
            parts,
            // State of the item under evaluation. A check that takes too much work, is in a cycle or reaches
            // the end of the chain is not stored.
            stack: _,
            any_numbers: _,
            // Nothing is stored from a cancelled analysis.
            cancellation: _,
            // These uses are repeated.
            uses: _,
            // The route is requested again.
            route: _,
            // Values are recorded again.
            facts: _,
            // Set before the first check, by items whose change invalidates every check.
            seed: _,
            entry: _,
            has_experiment: _,
        } = self;
        let ExperimentParts {
            domains,
            // New ones are recorded.
            models,
            model_names: _,
            teachers,
            used_teachers,
            said_origins,
            panels,
            benchmarks,
            sweep,
            // Only for callers that need the experiment.
            objectives: _,
            // Part of the experiment, which is not assembled.
            marks: _,
        } = parts;
        let uncacheable = [
            models.touched(),
            teachers.touched(),
            used_teachers.touched(),
            said_origins.touched(),
            panels.touched(),
            benchmarks.touched(),
            sweep.touched(),
        ];
        (domains.touched(), uncacheable.contains(&true))
    }

    // ---- Effects that are recorded during a check ----

    /// Notes that the check must be done again in the next analysis.
    pub(in crate::check) fn mark_uncacheable(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.uncacheable = true;
        }
    }

    /// Records that the check requests the value of an item.
    pub(in crate::check) fn record_request(&mut self, id: ItemId) {
        if let Some(recording) = &mut self.recording
            && !recording.asked.contains(&id)
        {
            recording.effects.push(Effect::Request(recording.asked.len()));
            recording.asked.push(id);
        }
    }

    /// Records that the check requests the file's route.
    pub(in crate::check) fn route_of_file(&mut self) -> &RouteState {
        if let Some(recording) = &mut self.recording
            && !recording.effects.iter().any(|effect| matches!(effect, Effect::ReadRoute))
        {
            recording.effects.push(Effect::ReadRoute);
        }
        &self.route
    }

    /// Records the value that the check has found for a name.
    pub(in crate::check) fn record(&mut self, declared: Span, value: &Value) {
        if self.parts.model_names.given.is_some() {
            return; // That has been repeated already.
        }
        let Some(info) = ValueInfo::from_value(value) else { return };
        self.facts.record(declared, &info);
        if let Some(recording) = &mut self.recording {
            recording.effects.push(Effect::RecordValue(declared, info));
        }
    }

    /// Declares a model. Its name is `wanted`, or a variant of it if that is taken.
    pub(in crate::check) fn declare_model(&mut self, wanted: &str, stage: Stage, span: Span) -> ModelId {
        let origin = self.origin(span);
        let given = self.parts.model_names.given.as_mut().and_then(VecDeque::pop_front);
        let name = given.unwrap_or_else(|| self.parts.model_names.give(wanted));
        let id = ModelId(self.parts.models.declare(crate::experiment::Model { name, stage, origin }) as u32);
        if let Some(recording) = &mut self.recording {
            recording.effects.push(Effect::DeclareModel(wanted.to_owned()));
            recording.declared.push(id);
        }
        id
    }

    /// Pauses the recording while another item is evaluated, whose effects are its own.
    fn pause_recording(&mut self) -> Option<Recording> {
        let mut recording = self.recording.take()?;
        let (domains, uncacheable) = self.touched();
        recording.domains |= domains;
        recording.uncacheable |= uncacheable;
        recording.consulted.extend(self.modules.consulted.take().unwrap_or_default());
        Some(recording)
    }

    fn resume_recording(&mut self, recording: Option<Recording>) {
        if recording.is_some() {
            self.touched();
            self.modules.consulted.replace(Some(Vec::new()));
        }
        self.recording = recording;
    }
}

/// Whether a stage uses teachers that do not come from a route.
fn names_teachers(train: &Train) -> bool {
    !train.named_teachers().is_empty()
}
