//! The semantic differences between two plans, stage by stage, for watch mode after an edit and for
//! comparisons of two runs. Texts, places and layout do not count, and a changed name is reported only as a
//! renaming.
//!
//! Settings are compared in their serialised form, field by field, so that none can be forgotten; indices
//! into the plan are first replaced by names.

mod comparisons;
mod computed;
mod curriculum;
mod display;
mod families;
mod inputs;
mod objective;
mod scorers;
mod settings;
mod values;

pub use families::{NamedPlan, of_families};
pub use inputs::{InputChange, input_changes};
pub use settings::settings;

use std::collections::{BTreeMap, HashSet};

use comparisons::comparison;
use computed::{KnownResults, computed};
use curriculum::{choice_of_prompts, of_formula};
use mopd_experiment::formula::text;
use scorers::{arms, feedback, name_writers, panels, teacher};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Domain, DomainId, Guard, Learner, Model, ModelId, Objective, Plan, Recipe, Rollout, Stage, StepFunction,
    Train, producers,
};

/// The differences from one plan to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanDifference {
    /// The changes in the order of the plan: the experiment itself, domains, stages, tables.
    pub items: Vec<ItemChange>,
    /// The stages of the new plan of which the old plan does not compute all results, under any name.
    pub reruns: Vec<String>,
    /// The number of stages of the new plan.
    pub stages: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemChange {
    pub kind: DifferenceKind,
    pub name: String,
    /// The runs of a sweep that have this change; empty if all have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<String>,
    #[serde(flatten)]
    pub fate: ChangeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    Experiment,
    Domain,
    Stage,
    Table,
    /// One run of a sweep, named by its values, or the only run of a file without a sweep.
    Run,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ChangeKind {
    Added,
    Removed,
    /// Only the name changed.
    Renamed {
        before: String,
    },
    /// `objective` is separate, because another author may have written its settings.
    Changed {
        settings: Vec<SettingChange>,
        objective: Vec<SettingChange>,
    },
}

/// The change of one setting. `None` on a side that does not have the setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SettingChange {
    /// `steps`, `optimizer.beta2`, `clip`
    pub what: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl ItemChange {
    fn new(kind: DifferenceKind, name: &str, fate: ChangeKind) -> ItemChange {
        ItemChange { kind, name: name.to_owned(), runs: Vec::new(), fate }
    }
}

impl PlanDifference {
    /// Whether both plans compute the same under the same names.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.reruns.is_empty()
    }

    /// `1 of 9 stages reruns, 8 kept`
    pub fn summary(&self) -> String {
        reruns(self.reruns.len(), self.stages)
    }
}

/// `1 of 9 stages reruns, 8 kept`
pub fn reruns(reruns: usize, stages: usize) -> String {
    let (plural, verb) = (if stages == 1 { "" } else { "s" }, if reruns == 1 { "reruns" } else { "rerun" });
    match reruns {
        0 => format!("nothing to rerun, {stages} stage{plural} kept"),
        _ => format!("{reruns} of {stages} stage{plural} {verb}, {} kept", stages - reruns),
    }
}

/// The changes from `before` to `after`. Models, domains and tables are matched by name, then by content.
pub fn difference(before: &Plan, after: &Plan) -> PlanDifference {
    let mut items = Vec::new();
    let whole = values::changes(&experiment(before), &experiment(after));
    if !whole.is_empty() {
        let fate = ChangeKind::Changed { settings: whole, objective: Vec::new() };
        items.push(ItemChange::new(DifferenceKind::Experiment, &after.experiment.name, fate));
    }

    let domains = MatchedItems::new(DifferenceKind::Domain, &sources(before), &sources(after));
    items.extend(domains.changes(|old, new| {
        let [old, new] = [&before.experiment.domains[old], &after.experiment.domains[new]];
        values::changes(&domain(old), &domain(new)).into()
    }));

    let models = MatchedItems::new(DifferenceKind::Stage, &keyed(before), &keyed(after));
    // Values of the old plan with the names of the new one, since renaming a start is no change.
    let old_names = Names { models: models.old_names(), domains: domains.old_names() };
    let new_names = Names { models: models.new.clone(), domains: domains.new.clone() };
    items.extend(models.changes(|old, new| {
        let [old, new] = [&before.experiment.models[old], &after.experiment.models[new]];
        let trained = old.stage.trains().into_iter().zip(new.stage.trains());
        let objective = trained.flat_map(|(old, new)| objective::changes(&old.objective, &new.objective));
        let settings = values::changes(&stage(old, &old_names), &stage(new, &new_names));
        ContentChanges { settings, objective: objective.collect() }
    }));

    let tables =
        MatchedItems::new(DifferenceKind::Table, &tabled(before, &old_names), &tabled(after, &new_names));
    items.extend(tables.changes(|old, new| {
        let [old, new] = [&before.experiment.comparisons[old], &after.experiment.comparisons[new]];
        values::changes(&comparison(old, before, &old_names), &comparison(new, after, &new_names)).into()
    }));

    let known = KnownResults::new(std::iter::once(before));
    let stages = after.experiment.models.iter().zip(computed(after));
    let rerun = stages.filter(|(_, stage)| !known.has(stage));
    let reruns = rerun.map(|(model, _)| model.name.clone()).collect();
    PlanDifference { items, reruns, stages: after.stages.len() }
}

/// Domains by name, with their content.
fn sources(plan: &Plan) -> Vec<NamedItem> {
    let domains = plan.experiment.domains.iter();
    domains
        .map(|domain| NamedItem { name: domain.name.clone(), content: self::domain(domain).to_string() })
        .collect()
}

/// Models by name, with their keys.
fn keyed(plan: &Plan) -> Vec<NamedItem> {
    let models = plan.experiment.models.iter().zip(&plan.stages);
    models.map(|(model, facts)| NamedItem { name: model.name.clone(), content: facts.key.clone() }).collect()
}

/// Tables by name, with their content.
fn tabled(plan: &Plan, names: &Names) -> Vec<NamedItem> {
    let tables = plan.experiment.comparisons.iter();
    tables
        .map(|table| NamedItem {
            name: table.name.clone(),
            content: comparison(table, plan, names).to_string(),
        })
        .collect()
}

/// Old and new items of one kind, matched.
struct MatchedItems {
    kind: DifferenceKind,
    old: Vec<String>,
    new: Vec<String>,
    /// For each new item, the index of the matching old one.
    before: Vec<Option<usize>>,
}

/// An item to match. Names are unique; contents may be equal.
struct NamedItem {
    name: String,
    content: String,
}

/// The changes of an item that both plans have.
#[derive(Default)]
struct ContentChanges {
    settings: Vec<SettingChange>,
    /// The changes of the objective, for a stage that trains.
    objective: Vec<SettingChange>,
}

impl From<Vec<SettingChange>> for ContentChanges {
    fn from(settings: Vec<SettingChange>) -> ContentChanges {
        ContentChanges { settings, objective: Vec::new() }
    }
}

impl MatchedItems {
    fn new(kind: DifferenceKind, old: &[NamedItem], new: &[NamedItem]) -> MatchedItems {
        let named: BTreeMap<&str, usize> =
            old.iter().enumerate().map(|(index, item)| (item.name.as_str(), index)).collect();
        let mut before: Vec<Option<usize>> =
            new.iter().map(|item| named.get(item.name.as_str()).copied()).collect();
        let mut taken: HashSet<usize> = before.iter().flatten().copied().collect();
        for (index, NamedItem { content, .. }) in new.iter().enumerate() {
            if before[index].is_none() {
                before[index] = (0..old.len()).find(|at| !taken.contains(at) && old[*at].content == *content);
                taken.extend(before[index]);
            }
        }
        let names = |of: &[NamedItem]| of.iter().map(|item| item.name.clone()).collect();
        MatchedItems { kind, old: names(old), new: names(new), before }
    }

    /// The new names of the old items, or their own names if they were removed.
    fn old_names(&self) -> Vec<String> {
        let mut names = self.old.clone();
        for (new, before) in self.new.iter().zip(&self.before) {
            if let Some(before) = before {
                names[*before] = new.clone();
            }
        }
        names
    }

    /// The items that were added, renamed, changed or removed. `of` compares an old item with a new one.
    fn changes(&self, of: impl Fn(usize, usize) -> ContentChanges) -> Vec<ItemChange> {
        let mut items = Vec::new();
        for (index, name) in self.new.iter().enumerate() {
            let mut push = |fate| items.push(ItemChange::new(self.kind, name, fate));
            let Some(at) = self.before[index] else {
                push(ChangeKind::Added);
                continue;
            };
            if self.old[at] != *name {
                push(ChangeKind::Renamed { before: self.old[at].clone() });
            }
            let ContentChanges { settings, objective } = of(at, index);
            if !settings.is_empty() || !objective.is_empty() {
                push(ChangeKind::Changed { settings, objective });
            }
        }
        let kept: HashSet<usize> = self.before.iter().flatten().copied().collect();
        let gone = self.old.iter().enumerate().filter(|(index, _)| !kept.contains(index));
        items.extend(gone.map(|(_, name)| ItemChange::new(self.kind, name, ChangeKind::Removed)));
        items
    }
}

/// The names that replace indices.
struct Names {
    models: Vec<String>,
    domains: Vec<String>,
}

impl Names {
    fn model(&self, id: ModelId) -> Value {
        json!(self.models[id.0 as usize])
    }

    fn domain(&self, id: DomainId) -> String {
        self.domains[id.0 as usize].clone()
    }
}

fn experiment(plan: &Plan) -> Value {
    let experiment = &plan.experiment;
    json!({
        "name": experiment.name,
        "out": experiment.out,
        "seed": experiment.seed,
        "dtype": experiment.dtype,
        "device": experiment.device,
        "deterministic": experiment.gpu.deterministic,
        "tf32": experiment.gpu.tf32,
    })
}

/// Gives a field the name that the language has for it.
fn rename(fields: &mut Map<String, Value>, name: &str, ours: &str) {
    if let Some(value) = fields.remove(name) {
        fields.insert(ours.to_owned(), value);
    }
}

fn written(value: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(value).expect("a plan is plain data");
    without_places(&mut value);
    value
}

fn without_places(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("origin");
            fields.values_mut().for_each(without_places);
        }
        Value::Array(items) => items.iter_mut().for_each(without_places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn domain(domain: &Domain) -> Value {
    let mut value = written(domain);
    if let Value::Object(fields) = &mut value {
        fields.remove("name");
    }
    for (name, source) in domain.sources() {
        if let Some(filter) = &source.filter {
            value[name]["filter"] = json!(filter.text());
        }
    }
    value
}

/// The settings of a stage, without those of its objective.
fn stage(model: &Model<Objective>, names: &Names) -> Value {
    match &model.stage {
        Stage::Train(train) => self::train(train, names),
        Stage::Joint(joint) => {
            let learner = |learner: &Learner<Objective>| {
                let mut settings = self::train(&learner.train, names);
                settings["every"] = json!(learner.every);
                settings["turn"] = json!(learner.turn);
                (learner.name.clone(), settings)
            };
            Value::Object(joint.learners.iter().map(learner).collect())
        }
        Stage::Learner { joint, .. } => json!({ "trained with": names.model(*joint) }),
        Stage::Merge(merge) => json!({
            "merge": written(&merge.method),
            "base": merge.base.map(|base| names.model(base)),
            "models": merge.models.iter().map(|id| names.model(*id)).collect::<Vec<_>>(),
        }),
        Stage::Initialise(architecture) => written(architecture),
        Stage::Load(pretrained) => written(pretrained),
    }
}

fn train(train: &Train<Objective>, names: &Names) -> Value {
    let Train { recipe, start, mixture, sees, scorers, rollout, filter, curriculum, shares, .. } = train;
    let Train { own_data, trainable, optimizer, length, learning_rate, extrapolation, options, .. } = train;
    let by_domain = |entries: Vec<(DomainId, Value)>| -> Value {
        let entries = entries.into_iter().map(|(domain, value)| (names.domain(domain), value));
        Value::Object(entries.collect::<Map<String, Value>>())
    };
    let name = |id: ModelId| producers::FieldValue::Text(names.models[id.0 as usize].clone());
    let of_producer = |mut rollout: Value| {
        name_writers(&mut rollout, scorers);
        // `sampling` is a field of the plan, not a setting of the language.
        if let Value::Object(fields) = &mut rollout
            && let Some(Value::Object(sampling)) = fields.remove("sampling")
        {
            fields.extend(sampling);
        }
        rollout
    };
    let of_rollout = |rollout: &Rollout| of_producer(written(&rollout.fields(&name)));
    let mut own_rollout = of_rollout(rollout);
    if let (Recipe::Grpo, Value::Object(fields)) = (recipe, &mut own_rollout) {
        rename(fields, "n", "samples");
    }
    let own = own_data.iter().map(|own| {
        let terms: Vec<&str> = own.objective.terms.iter().map(|term| term.name.as_str()).collect();
        (terms.join(", "), of_rollout(&own.rollout))
    });
    let routed = scorers.routed().iter().map(|choice| (choice.domain, arms(train, choice.domain, names)));
    let named = scorers.named().iter().map(|scorer| {
        let weights = scorer.choices.first().map(|choice| teacher(choice, scorers, names));
        (scorer.name.clone(), json!(weights))
    });
    let mut settings = json!({
        "recipe": recipe.name(),
        "start": names.model(*start),
        "share": by_domain(mixture.iter().map(|share| (share.domain, json!(share.share))).collect()),
        "student sees": sees.as_ref().map(|view| written(&view.pieces)),
        "teacher": by_domain(routed.collect()),
        "reference": by_domain(scorers.references().map(|(domain, id)| (domain, names.model(id))).collect()),
        "named teachers": named.collect::<Map<String, Value>>(),
        "panel": panels(&train.panels, scorers),
        "feedback": feedback(&train.feedback, scorers),
        "rollout": own_rollout,
        "data": own.collect::<Map<String, Value>>(),
        "filter": filter.as_ref().map(of_formula),
        "choice of prompts": curriculum.as_ref().map(|of| choice_of_prompts(of, &of_producer)),
        "shares": shares.as_ref().map(of_formula),
        "trainable": written(&trainable.map(|id| names.model(*id))),
        "optimizer": written(optimizer),
        "length": written(length),
        "lr": match learning_rate {
            StepFunction::Schedule(schedule) => text::schedule(schedule),
            StepFunction::Formula(formula) => objective::expression(&formula.graph, formula.value),
        },
        "guards": train.guards.iter().map(Guard::written).collect::<Vec<_>>(),
        "extrapolate": extrapolation.as_ref().map(|extrapolation| {
            let mut settings = written(extrapolation);
            settings["judged_by"] = json!(names.domain(extrapolation.judged_by));
            settings
        }),
    });
    if let Value::Object(settings) = &mut settings {
        settings.extend(options.written());
    }
    settings
}
