//! Checks of stages that sample two tokens per step, and of reads of the second head's numbers.

use mopd_lang::diag::Diagnostic;
use mopd_plan::{
    Live, Model, ModelId, Objective, PlainSignal, Producer, Signal, Stage, Train, Trainable, second_heads,
};

use crate::lower::refusal::{Origins, refused};

const TWO: &str = "sampling with two output heads";
const HELP: &str = "a stage draws two tokens in a step with `rollout = sample(..., heads: 2, accept: 0.95)`";

pub fn refusals(models: &[Model<Objective>], origins: Origins) -> Vec<Diagnostic> {
    let known = second_heads(models);
    let has = |id: &ModelId| known.get(id.0 as usize).copied().flatten() == Some(true);
    let mut found = Vec::new();
    for model in models {
        let at = origins.span(model.origin);
        if let Stage::Merge(merge) = &model.stage
            && merge.base.iter().chain(&merge.models).any(has)
        {
            found.push(*refused(at, "a merge of models with a second output head"));
        }
        let joint = matches!(model.stage, Stage::Joint(_));
        for train in model.stage.trains() {
            let beside = match excluding_setting(train) {
                _ if !draws(train.producers().chain(train.measured())) => None,
                _ if joint => Some("in a stage that trains several models"),
                beside => beside,
            };
            found.extend(beside.map(|beside| *refused(at, format!("{TWO} {beside}"))));
            found.extend(unreadable(train, origins));
        }
    }
    found
}

/// Whether one of these producers samples two tokens per step.
fn draws<'p>(mut producers: impl Iterator<Item = &'p Producer>) -> bool {
    producers.any(|producer| producer.drawn().iter().any(|(_, sampling)| sampling.accept.is_some()))
}

/// The first setting of the stage that can't be combined with training a second head.
fn excluding_setting(train: &Train<Objective>) -> Option<&'static str> {
    if !train.trains_second_head() || draws(train.producers().skip(1).chain(train.measured())) {
        return Some("in another rollout than a stage's own `sample(...)`");
    }
    if matches!(train.trainable, Trainable::Adapter(_)) {
        return Some("together with an adapter");
    }
    if !train.own_data.is_empty() {
        return Some("together with terms with their own completions");
    }
    train.options.private.is_some().then_some("in a private stage")
}

/// Refuses reads of a second head where the student has none.
fn unreadable(train: &Train<Objective>, origins: Origins) -> Option<Diagnostic> {
    if train.trains_second_head() {
        return None;
    }
    train.objectives().find_map(|(_, objective)| {
        let signals = objective.signals();
        let live = objective.live.iter().any(|live| live.primitive == Live::ConfidenceLogit);
        let what = if live || signals.contains(&Signal::Confidence) {
            "`student.confidence` of a student with one output head"
        } else if signals.contains(&Signal::Plain(PlainSignal::Head)) {
            "`head` of completions of a student with one output head"
        } else {
            return None;
        };
        Some((*refused(origins.span(objective.origin), what)).help(HELP))
    })
}
