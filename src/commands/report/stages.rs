//! The stages of a run: the data for the script, and a text for each.

use std::collections::BTreeSet;

use mopd_plan::events::{Prediction, TimeRange};
use mopd_plan::results::{GuardActed, Results, StageRecord};
use mopd_plan::{Model, ModelId, Objective, Recipe, Stage};
use serde::Serialize;

use super::curves::{StageCurves, curves};
use super::samples::{Edges, Histogram, SampledCompletion, histograms, samples};
use super::source::{self, Excerpt, RunSources};
use super::{LoadedRun, Rounded};
use crate::figures::{self, bytes, count, duration, flops};
use crate::metrics::LearnerTurns;
use crate::output::{counted, printable};

#[derive(Serialize)]
pub struct StageData {
    id: u32,
    /// The index of its run on the page.
    run: usize,
    anchor: String,
    pub name: String,
    kind: String,
    /// The time of all seeds that were run; `None` for stages from the store.
    seconds: Option<Rounded>,
    predicted: Option<Rounded>,
    #[serde(flatten)]
    pub curves: StageCurves,
    histograms: Vec<Histogram>,
    pub samples: Vec<SampledCompletion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<String>,
}

/// `carries`: the weights are trained further; otherwise they teach, judge, or are merged.
#[derive(Serialize)]
pub struct Edge {
    from: u32,
    to: u32,
    carries: bool,
}

/// A stage as text.
#[derive(Serialize)]
pub struct Card {
    anchor: String,
    name: String,
    kind: String,
    key: String,
    inputs: Vec<CardInput>,
    facts: Vec<(String, String)>,
    curves: Option<String>,
    excerpts: Vec<Excerpt>,
    runs: String,
    predicted: String,
    spent: String,
    memory_predicted: String,
    memory: String,
    sequences: String,
    flops: String,
}

#[derive(Serialize)]
struct CardInput {
    anchor: String,
    name: String,
}

/// All stages of a run: data for the script, texts, and the bounds of histograms' bins. The page and its
/// budget are shared by several runs.
pub fn stages(run: &LoadedRun, sources: &mut RunSources, runs: usize) -> (Vec<StageData>, Vec<Card>, Edges) {
    let mut curves = curves(&run.metrics, &LearnerTurns::of(&run.folder.plan), runs);
    let wanted = by_interest(run);
    let mut samples = samples(&run.samples, &wanted, runs);
    let (mut histograms, bins) = histograms(&run.weights, &wanted, runs);
    let mut stages = Vec::new();
    let mut cards = Vec::new();
    for (index, model) in run.folder.plan.experiment.models.iter().enumerate() {
        let id = ModelId(index as u32);
        let records = records(run, &model.name);
        let mut missing = Vec::new();
        if samples.left_out.contains(&model.name) {
            missing.push("samples");
        }
        if histograms.left_out.contains(&model.name) {
            missing.push("histograms");
        }
        let missing = missing.join(" and ");
        let stage = StageData {
            id: run.stage(id),
            run: run.place,
            anchor: run.stage_anchor(id),
            name: model.name.clone(),
            kind: kind(&model.stage).to_owned(),
            seconds: (!records.is_empty())
                .then(|| Rounded(records.iter().map(|record| record.seconds).sum())),
            predicted: predicted_time(&records).map(|(seconds, _)| Rounded(seconds)),
            curves: curves.remove(&model.name).unwrap_or_default(),
            histograms: histograms.kept.remove(&model.name).unwrap_or_default(),
            samples: samples.kept.remove(&model.name).unwrap_or_default(),
            left_out: (!missing.is_empty()).then(|| missing[..1].to_uppercase() + &missing[1..]),
        };
        cards.push(card(run, sources, model, &records, &stage));
        stages.push(stage);
    }
    (stages, cards, bins)
}

/// Distillation first, then other training: if something must be left out, the last ones are.
fn by_interest(run: &LoadedRun) -> Vec<&str> {
    let rank = |model: &Model<Objective>| match &model.stage {
        Stage::Train(train) if train.recipe == Recipe::Distill => 0,
        Stage::Train(train) if train.recipe == Recipe::Grpo => 1,
        _ => 2,
    };
    let mut models: Vec<_> = run.folder.plan.experiment.models.iter().collect();
    models.sort_by_key(|model| rank(model));
    models.into_iter().map(|model| model.name.as_str()).collect()
}

fn kind<O>(stage: &Stage<O>) -> &'static str {
    match stage {
        Stage::Initialise(shape) => shape.family.name(),
        Stage::Load(_) => "loaded",
        Stage::Train(train) => train.recipe.name(),
        Stage::Joint(_) | Stage::Learner { .. } => "train",
        Stage::Merge(_) => "merge",
    }
}

fn records<'a>(run: &'a LoadedRun, stage: &str) -> Vec<&'a StageRecord> {
    let records = run.folder.results.iter().flat_map(|results| &results.stages);
    records.filter(|record| record.stage == stage).collect()
}

/// Seconds of all seeds in sequence, and their range; `None` where one has no prediction.
fn predicted_time(records: &[&StageRecord]) -> Option<(f64, TimeRange)> {
    let predictions: Option<Vec<Prediction>> = records.iter().map(|record| record.predicted).collect();
    let each = predictions?.into_iter().map(|prediction| (prediction.seconds, prediction.range()));
    each.reduce(|(seconds, range), (more, its)| (seconds + more, range.plus(its)))
}

pub fn edges(run: &LoadedRun) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (index, model) in run.folder.plan.experiment.models.iter().enumerate() {
        let start = model.stage.trains().first().map(|train| train.start);
        for input in model.stage.inputs() {
            edges.push(Edge {
                from: run.stage(input),
                to: run.stage(ModelId(index as u32)),
                carries: start == Some(input),
            });
        }
    }
    edges
}

fn card(
    run: &LoadedRun,
    sources: &mut RunSources,
    model: &Model<Objective>,
    records: &[&StageRecord],
    stage: &StageData,
) -> Card {
    let plan = &run.folder.plan;
    let name = |id: ModelId| plan.experiment.model(id).name.as_str();
    let facts_of_plan = &plan.stages[(stage.id - run.stages_before) as usize];
    let mut facts = Vec::new();
    let mut excerpts: Vec<Excerpt> = sources.excerpt(model.origin, &stage.anchor).into_iter().collect();
    for train in model.stage.trains() {
        let objective = &train.objective;
        facts.push(("objective".to_owned(), objective.name.clone()));
        let form = &objective.normal_form;
        facts.extend([
            ("divergence".to_owned(), form.divergence.clone()),
            ("tokens".to_owned(), form.token_allocation.clone()),
        ]);
        let named = train.scorers.named().iter().flat_map(|scorer| &scorer.choices);
        let teachers: BTreeSet<String> = train
            .scorers
            .routed()
            .iter()
            .chain(named)
            .map(|choice| {
                let is =
                    choice.teacher.model().map(|model| format!(" (is {})", name(model))).unwrap_or_default();
                let domain = &plan.experiment.domain(choice.domain).name;
                let when = choice
                    .when
                    .as_ref()
                    .map(|when| format!(" where {} in {domain}", when.text()))
                    .unwrap_or_default();
                format!("{}{is}{when}", choice.name)
            })
            .collect();
        if !teachers.is_empty() {
            facts.push(("teachers".to_owned(), teachers.into_iter().collect::<Vec<_>>().join(", ")));
        }
        if !source::covers(plan, model.origin, objective.origin) {
            let found = sources.excerpt(objective.origin, &stage.anchor);
            let is_new = |new: &Excerpt| !excerpts.iter().any(|known| known.place == new.place);
            if let Some(new) = found.filter(is_new) {
                excerpts.push(new);
            }
        }
    }
    let scores = || records.iter().filter_map(|record| record.scores_found);
    let (found, of) = scores().fold((0, 0), |(found, of), scores| (found + scores.found, of + scores.of));
    if found > 0 {
        facts.push(("scores found in the store".to_owned(), format!("{} of {}", count(found), count(of))));
    }
    let acted = run.folder.results.iter().flat_map(|results| guards(results, &model.name));
    facts.extend(acted.map(|text| ("guard".to_owned(), text)));
    for (_, text) in &mut facts {
        *text = printable(text);
    }
    facts.retain(|(_, text)| !text.is_empty());
    let cost = &facts_of_plan.cost;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let memory = records.iter().filter_map(|record| record.peak_memory).max();
    let memory_predicted =
        records.iter().filter_map(|record| record.predicted.map(|prediction| prediction.memory)).max();
    Card {
        anchor: stage.anchor.clone(),
        name: printable(&model.name),
        kind: stage.kind.clone(),
        key: facts_of_plan.key.clone(),
        inputs: (model.stage.inputs().into_iter())
            .map(|id| CardInput { anchor: run.stage_anchor(id), name: printable(name(id)) })
            .collect(),
        facts,
        curves: (!stage.curves.at.is_empty()).then(|| format!("train-{}", stage.id)),
        excerpts,
        runs: if records.is_empty() { "kept".to_owned() } else { counted(records.len(), "seed") },
        predicted: or_dash(
            predicted_time(records).map(|(seconds, range)| figures::predicted(seconds, range)),
        ),
        spent: or_dash(stage.seconds.map(|seconds| duration(seconds.0))),
        memory_predicted: or_dash(memory_predicted.map(bytes)),
        memory: or_dash(memory.map(bytes)),
        sequences: or_dash(cost.sequences.map(count)),
        flops: or_dash(cost.flops.filter(|flops| *flops > 0.0).map(flops)),
    }
}

/// The actions of a stage's guards, including those of seeds from the store.
fn guards(results: &Results, stage: &str) -> Vec<String> {
    let several = results.seeds.len() > 1;
    let text = |acted: &GuardActed| {
        let of = if several { format!(", seed {}", acted.seed) } else { String::new() };
        format!("`{}` at step {}{of}: {}", acted.guard, acted.step, acted.numbers)
    };
    results.guards.iter().filter(|acted| acted.stage == stage).map(text).collect()
}

pub fn cost_legend(run: &LoadedRun) -> String {
    let text = "Sequences and floating-point operations are for one seed, with every completion at its \
                maximum length. Memory that was not measured is a dash: stages ran in parallel, or \
                nothing was trained.";
    match &run.folder.results {
        Some(results) => format!(
            "{} in all, peak memory {}. {text}",
            duration(results.seconds),
            bytes(results.peak_memory)
        ),
        None => format!("This run was not finished, so nothing was measured. {text}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// After a run whose stages were all in the store, only the guards mention seeds.
    #[test]
    fn a_guard_says_of_which_seed_it_is() {
        let acted = |seed: u64| {
            let guard = "warn(entropy < 1)";
            json!({ "stage": "student", "seed": seed, "step": 3, "guard": guard, "numbers": "entropy = 0.5" })
        };
        let results = |seeds: &[u64]| -> Results {
            let guards: Vec<_> = seeds.iter().copied().map(acted).collect();
            serde_json::from_value(json!({
                "schema": 1, "experiment": "e", "plan": "h", "seeds": seeds, "tables": [], "guards": guards,
                "versions": { "mopd": "0", "libtorch": "0" }, "seconds": 1.0, "peak_memory": 1,
            }))
            .expect("results")
        };
        let several = guards(&results(&[1, 2]), "student");
        assert_eq!(several[1], "`warn(entropy < 1)` at step 3, seed 2: entropy = 0.5");
        assert_eq!(guards(&results(&[1]), "student"), ["`warn(entropy < 1)` at step 3: entropy = 0.5"]);
        assert!(guards(&results(&[1]), "expert").is_empty());
    }
}
