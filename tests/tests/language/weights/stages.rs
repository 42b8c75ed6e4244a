//! Decisions outside a loss: which prompts are trained on, which completions are kept, when a length grows.
//! Read from the programs in `tests/methods`, as the library's stages and rollouts set them.

use std::rc::Rc;

use mopd_experiment::formula::{Adaptive, Formula, FormulaKind, Live, ModelSignal, Unit};
use mopd_experiment::{
    Edit, Experiment, ExpertTurns, Objective, Origin, Replay, Rollout, RolloutSource, Stage, Term, Train,
};
use mopd_plan::Axis;
use mopd_tests::{check_text, listing, root};

use crate::weights::case::{Reference, compare_formula, per_token};
use crate::weights::math::{largest, mean, smallest};
use crate::weights::table::{At, STEP, STEPS, values};

/// A setting of some model of a program.
struct Setting {
    program: &'static str,
    setting: &'static str,
    number: Reference,
}

fn setting(program: &'static str, setting: &'static str, number: impl Fn(At) -> f64 + 'static) -> Setting {
    Setting { program, setting, number: per_token(number) }
}

fn rewards(t: At) -> Vec<f64> {
    values(&t.samples(), |s| s.s("reward"))
}

fn settings() -> Vec<Setting> {
    let right = |t: At| values(&t.samples(), |s| f64::from(s.s("reward") >= 1.0));
    let grown = |every: f64| 1.0 + (f64::from(STEP) / every).floor();
    vec![
        // Card B5, DAPO: groups with zero deviation are dropped.
        setting("dapo", "filter", |t| f64::from(largest(&rewards(t)) > smallest(&rewards(t)))),
        // Card B2.5: 0 < mean(correct, over: group) < 1.
        setting("hy_embodied", "filter", move |t| f64::from(mean(&right(t)) > 0.0 && mean(&right(t)) < 1.0)),
        // Card A1.6: admit while mean r < 0.5, hardest first.
        setting("zppo", "condition", |t| f64::from(mean(&rewards(t)) < 0.5)),
        setting("zppo", "order", |t| mean(&rewards(t))),
        // Card A1.28: the fraction of tokens inside the student's top-K.
        setting("brts", "best", |t| t.mean(Axis::Sequence, |u| f64::from(u.s("student.rank") <= 16.0))),
        setting("brts", "keep", |t| f64::from(t.s("reward") >= 1.0)),
        // Card A1.4: until correct.
        setting("d_opsd", "retry", |t| f64::from(t.s("reward") >= 1.0)),
        // Card B2.2: the next length only where the mean token entropy is at least H_min.
        setting("decoupling", "ladder", |t| {
            f64::from(t.mean(Axis::Batch, |u| u.s("student.entropy")) >= 0.4)
        }),
        // Card B5, DistiLLM: when the validation loss rises by epsilon.
        setting("distillm", "ladder", |t| {
            f64::from(t.s("loss.validation") >= t.s("before loss.validation") + 0.01)
        }),
        // Card B1.10: 27 regions of the pose, routed to their specialists; the last region has its upper
        // end.
        // All completions of a prompt have its row; here, where they don't, the largest counts.
        setting("dress", "filter", |t| {
            let pose = t.samples().into_iter().map(|t| t.s("data.pose")).fold(f64::MIN, f64::max);
            f64::from((27.0 * pose).floor().min(26.0) == 0.0)
        }),
        setting("dress", "route", |t| f64::from((27.0 * t.s("data.pose")).floor().min(26.0) == 0.0)),
        // Card A1.5: 100 to 4000 tokens over 100 steps, in the shape of 1 - cos(pi * x / 2).
        setting("opdlm", "max_tokens", |_| {
            100.0 + 3900.0 * (1.0 - (std::f64::consts::FRAC_PI_2 * (f64::from(STEP) / 100.0).min(1.0)).cos())
        }),
        // Card A1.20: the first 1 + floor(step / eta) turns, eta = 6; all but as many of the expert's
        // actions, eta = 5.
        setting("tcod", "first_turns", move |_| grown(6.0)),
        setting("tcod", "expert_turns", move |_| grown(5.0)),
        // Card B1.1: cosine with 5% warm-up.
        setting("mad_opd", "lr", |_| {
            let progress = f64::from(STEP as f32 / STEPS as f32);
            1e-5 * (1.0 + (std::f64::consts::PI * (progress - 0.05) / 0.95).cos()) / 2.0
        }),
        // Card B1.11: the rate halved after each quarter.
        setting("compass", "lr", |_| {
            1e-3 * 0.5_f64.powf((4.0 * f64::from(STEP as f32 / STEPS as f32)).floor())
        }),
    ]
}

#[test]
fn filters_ladders_and_schedules_are_what_the_papers_say() {
    let mut faults = String::new();
    for Setting { program, setting, number } in settings() {
        let path = root().join(format!("tests/methods/{program}.mopd"));
        // The context is long enough for the library's own lengths.
        let text =
            std::fs::read_to_string(path).expect("a program").replace("context = 48", "context = 8192");
        let text = if program == "opdlm" { text.replace(", max_tokens: 16", "") } else { text };
        let analysis = check_text(program, &text);
        let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
        let found = set(experiment).into_iter().find(|(name, _)| *name == setting);
        let outcome = match found {
            Some((_, formula)) => compare_formula(&analysis, &holder(), formula, &number),
            None => Err("nothing sets it".into()),
        };
        if let Err(fault) = outcome {
            faults += &format!("{program}, {setting}: {fault}\n");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Video-OPD's filter and priority (card B2.11) are means over the rollouts of another model.
#[test]
fn a_mean_over_another_rollout_is_refused_by_name() {
    let path = root().join("tests/methods/video_opd.mopd");
    let analysis = check_text("video_opd", &std::fs::read_to_string(path).expect("a program"));
    let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
    let (_, filter) = set(experiment).into_iter().find(|(name, _)| *name == "filter").expect("it has one");
    let refusal =
        compare_formula(&analysis, &holder(), filter, &per_token(|_| 0.0)).expect_err("nothing supplies it");
    assert!(refusal.contains("a reduction over another rollout"), "{refusal}");
}

/// An objective around a formula.
fn holder() -> Objective {
    let origin = Origin(0);
    let value =
        Formula::new(FormulaKind::Live(Live::Part(ModelSignal::Logp)), Unit::Logp, Axis::Token, true, origin);
    let term =
        Term { name: "imitate".into(), value, when: None, weight: None, reduce: None, data: None, origin };
    Objective {
        name: "holder".into(),
        terms: vec![term],
        select: None,
        weight: None,
        temperature: None,
        reduce: None,
        lets: Vec::new(),
        states: Vec::new(),
        origin,
    }
}

/// The formulas of stages and rollouts, by the word that sets them; those deeper in a rollout come later.
fn set(experiment: &Experiment) -> Vec<(&'static str, Formula)> {
    let mut found = Vec::new();
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => of_training(train, &mut found),
            Stage::Joint(joint) => joint.steps.iter().for_each(|step| of_training(&step.train, &mut found)),
            _ => {}
        }
    }
    found.retain(|(_, formula)| formula.constant().is_none());
    found
}

fn of_training(train: &Train, found: &mut Vec<(&'static str, Formula)>) {
    found.extend(train.filter.iter().map(|filter| ("filter", filter.clone())));
    found.push(("lr", train.learning_rate.clone()));
    found.extend(train.teachers.iter().filter_map(|choice| choice.when.clone()).map(|when| ("route", when)));
    let data = train.objective.terms.iter().filter_map(|term| term.data.as_ref()).map(Rc::as_ref);
    for rollout in std::iter::once(&train.rollout).chain(data) {
        of_rollout(rollout, found);
    }
}

fn of_rollout(rollout: &Rollout, found: &mut Vec<(&'static str, Formula)>) {
    let mut add = |name, formula: &Formula| match &formula.0.kind {
        FormulaKind::Adaptive(Adaptive::Ladder { advance_if, .. }) => {
            found.push(("ladder", advance_if.clone()))
        }
        _ => found.push((name, formula.clone())),
    };
    for edit in &rollout.edits {
        match edit {
            Edit::Keep { condition } => add("keep", condition),
            Edit::Retry { until, .. } => add("retry", until),
            Edit::Best { by, .. } => add("best", by),
            Edit::FirstTurns { turns } => add("first_turns", turns),
            Edit::ExpertTurns { turns: ExpertTurns::First(turns) | ExpertTurns::AllBut(turns) } => {
                add("expert_turns", turns)
            }
            Edit::Rewrite { .. } | Edit::Through { .. } => {}
        }
    }
    match &rollout.source {
        RolloutSource::Mix { share, .. } => add("share", share),
        RolloutSource::Replay(Replay { condition, order, .. }) => {
            condition.iter().for_each(|condition| add("condition", condition));
            order.iter().for_each(|order| add("order", order));
        }
        RolloutSource::Sample(sampling) => add("max_tokens", &sampling.max_tokens),
        _ => {}
    }
    for inner in rollout.source.inner() {
        of_rollout(inner, found);
    }
}
