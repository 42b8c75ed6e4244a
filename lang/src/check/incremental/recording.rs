//! Records what the check of an item does, so that it can be repeated without checking.
//!
//! A check without diagnostics has four effects that others may notice: it asks for the values of other
//! items, names models, learns what names are worth, and uses domains and teachers. [`Checker::repeat`]
//! repeats these in the same order and leaves out the rest: the value of a model whose check is repeated is
//! computed when it is first needed.
//!
//! This is correct because **all items that declare teachers, panels, benchmarks, axes of a sweep, or loaded
//! models are evaluated at every analysis, in the order of a fresh one.** So these tables always equal those
//! of a fresh analysis, and code that searches them finds the same. Only the table of models has gaps, and
//! code that holds a model's number has asked for that model. [`Checker::touched`] names every part of the
//! checker's state and says which of these cases it is.

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
    /// The items whose values it asked for.
    asked: Vec<Asked>,
    effects: Vec<Effect<RelativeSpan>>,
    /// What is known of the item's value, for editors.
    info: Option<ValueInfo>,
    uses: Uses,
    /// Hashes of the names that it looked up, found or not.
    pub consulted: Vec<u32>,
    /// Whether it read the list of all domains.
    pub domains: bool,
}

struct Asked {
    path: Rc<str>,
    name: String,
}

/// A place inside an item: the item of the check itself, or one that it asked for.
struct RelativeSpan {
    asked: Option<usize>,
    start: u32,
    end: u32,
}

/// An effect of an item's check on others. A recording holds them in the order in which they happen.
enum Effect<P> {
    /// It asks for the value of an item for the first time: an index into the items asked for.
    Ask(usize),
    /// It asks for the file's route.
    Route,
    /// It names a model after what it is or where it is bound. If the name is taken, the model gets another.
    Name(String),
    /// It learns the value of a name that is declared at a place.
    Learn(P, ValueInfo),
}

/// What stages use, and what must therefore not be reported as unused.
#[derive(Clone, Default)]
pub struct Uses {
    /// Domains that are trained on.
    pub trained: BTreeSet<DomainId>,
    /// Domains whose teacher, by the file's route, is asked for.
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
    /// Whether it did something that must be done again each time.
    uncacheable: bool,
    /// How many cycles had been found before it.
    cycles: usize,
}

impl Checker {
    /// Checks an item on its own, unless it is known that there is nothing to report.
    pub(in crate::check) fn check_item_once(&mut self, id: ItemId, item: &Item) {
        match &item.kind {
            ItemKind::Model(_) => self.ask(id, item.span),
            kind if callable(kind).is_some() => {
                self.check_once(id, item, |checker| checker.check_item(id, item));
            }
            _ => self.check_item(id, item),
        }
    }

    /// Runs a check whose result nothing else needs; `None` where it was known that there is nothing to
    /// report.
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

    /// Asks for the value of an item, for the effects on others.
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

    /// The value of an item that nobody has asked for yet, or only for what that does to others: then `names`
    /// are those of its models.
    pub(in crate::check) fn evaluate_once(
        &mut self,
        id: ItemId,
        item: &Item,
        names: Option<VecDeque<String>>,
    ) -> Value {
        self.apart(ItemEffort::of(item), |checker| {
            if names.is_some() || !matches!(item.kind, ItemKind::Model(_)) {
                checker.parts.model_names.given = names;
                return checker.evaluate_item(id, item);
            }
            checker.begin_recording();
            let value = checker.evaluate_item(id, item);
            checker.end_recording(id, item, ValueInfo::of(&value));
            value
        })
    }

    /// Evaluates what is the same whoever asks for it, outside the caller's recording.
    pub(in crate::check) fn apart<T>(
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

    /// Keeps the check that was recorded, if it can be repeated.
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
        // Where a cycle begins decides what is reported of it.
        if uncacheable || self.stack.cycles > cycles {
            return None;
        }
        let uses = self.uses_of(&declared)?;
        consulted.sort_unstable();
        consulted.dedup();
        let asked = ids.iter().map(|id| {
            let tree = self.modules.tree(id.module);
            let name = declared_name(&tree.items[id.index].kind)?.text.clone();
            Some(Asked { path: self.path_of(id.module)?, name })
        });
        let effects = effects.into_iter().map(|effect| {
            Some(match effect {
                Effect::Ask(number) => Effect::Ask(number),
                Effect::Route => Effect::Route,
                Effect::Name(name) => Effect::Name(name),
                Effect::Learn(span, info) => Effect::Learn(self.place(span, item, &ids)?, info),
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

    /// Where a span lies: in an item, or in one of those that it asked for.
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

    /// What the stages of models use; `None` where that must be computed each time.
    fn uses_of(&self, declared: &[ModelId]) -> Option<Uses> {
        let mut uses = Uses { models: !declared.is_empty(), ..Uses::default() };
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
                Effect::Ask(number) => self.ask(ids[*number], item.span),
                Effect::Route => {
                    self.file_route(ENTRY);
                }
                Effect::Name(wanted) => names.push_back(self.parts.model_names.give(wanted)),
                Effect::Learn(place, info) => {
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

    /// What has been touched since the last call: the list of domains, and anything that makes a recording
    /// uncacheable. A new part of the checker's state does not compile until it is named here: it must be
    /// said whether a check that reads or changes it may be left out.
    fn touched(&self) -> (bool, bool) {
        let Checker {
            cache: _,
            recording: _,
            sources: _,
            // Values of items are asked for again.
            modules: _,
            // A check with diagnostics is not kept.
            diagnostics: _,
            // Their numbers do not matter, only that they lead to the same places.
            origins: _,
            known_origins: _,
            parts,
            // Of the item that is being evaluated. A check that takes too much work, is in a cycle or reaches
            // the end of the chain is not kept.
            stack: _,
            any_numbers: _,
            // Nothing is kept of a cancelled analysis.
            cancellation: _,
            // Repeated.
            uses: _,
            // Asked for again.
            route: _,
            // Recorded again.
            facts: _,
            // Set before the first check, by items that concern everything.
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
            // Only for callers that ask for the experiment.
            objectives: _,
            // Of the experiment, which is not assembled.
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

    // ---- What a check does while it is recorded ----

    /// The check must be done again next time.
    pub(in crate::check) fn mark_uncacheable(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.uncacheable = true;
        }
    }

    /// Records that the check asks for the value of an item.
    pub(in crate::check) fn record_request(&mut self, id: ItemId) {
        if let Some(recording) = &mut self.recording
            && !recording.asked.contains(&id)
        {
            recording.effects.push(Effect::Ask(recording.asked.len()));
            recording.asked.push(id);
        }
    }

    /// Records that the check asks for the file's route.
    pub(in crate::check) fn route_of_file(&mut self) -> &RouteState {
        if let Some(recording) = &mut self.recording
            && !recording.effects.iter().any(|effect| matches!(effect, Effect::Route))
        {
            recording.effects.push(Effect::Route);
        }
        &self.route
    }

    /// Records the value that the check has found for a name.
    pub(in crate::check) fn record(&mut self, declared: Span, value: &Value) {
        if self.parts.model_names.given.is_some() {
            return; // That has been repeated already.
        }
        let Some(info) = ValueInfo::of(value) else { return };
        self.facts.record(declared, &info);
        if let Some(recording) = &mut self.recording {
            recording.effects.push(Effect::Learn(declared, info));
        }
    }

    /// Declares a model; `wanted` is its name unless that is taken.
    pub(in crate::check) fn declare_model(&mut self, wanted: &str, stage: Stage, span: Span) -> ModelId {
        let origin = self.origin(span);
        let given = self.parts.model_names.given.as_mut().and_then(VecDeque::pop_front);
        let name = given.unwrap_or_else(|| self.parts.model_names.give(wanted));
        let id = ModelId(self.parts.models.declare(crate::experiment::Model { name, stage, origin }) as u32);
        if let Some(recording) = &mut self.recording {
            recording.effects.push(Effect::Name(wanted.to_owned()));
            recording.declared.push(id);
        }
        id
    }

    /// Pauses the recording while the value of another item is evaluated: the effects are that item's.
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

/// Whether a stage asks teachers that do not come from a route.
fn names_teachers(train: &Train) -> bool {
    !train.named_teachers().is_empty()
}
