//! Who writes the completions of a stage: the engine, or the run that starts it.

use mopd_plan::{CompletionsFrom, Objective, Producer, Sampling, Temperature, Train, View};

use super::coverage::Coverage;
use super::stage::{DomainPart, ExportSettings};

/// Who writes the completions of a stage that a run gives to an engine. What an engine can't sample, or what
/// depends on the steps before, is drawn by the run.
pub fn completions_from(train: &Train<Objective>, domains: &[DomainPart]) -> CompletionsFrom {
    let Train { rollout, objective, .. } = train;
    let carries = !objective.states.is_empty()
        || !objective.term_losses.is_empty()
        || !objective.ladders.is_empty()
        || objective.learned.is_some()
        || train.options.validation.is_some();
    let chooses = train.curriculum.is_some() || train.shares.is_some();
    if carries || chooses || train.sees.as_ref().is_some_and(View::of_completions) {
        return CompletionsFrom::EachStep;
    }
    let limited = domains.iter().any(|part| part.domain.limit.is_some());
    match &rollout.producer {
        Producer::Data(_) => CompletionsFrom::Before,
        Producer::Teacher(teacher) if teacher.once.is_some() => CompletionsFrom::Before,
        Producer::Model(model) if model.once => CompletionsFrom::Before,
        Producer::Student(student) if is_plain(&student.sampling) && !limited => CompletionsFrom::Engine,
        _ => CompletionsFrom::EachStep,
    }
}

/// Whether engines can sample so.
fn is_plain(sampling: &Sampling) -> bool {
    let Sampling {
        n: _,
        temperature,
        max_tokens: _,
        max_tokens_moves,
        top_p: _,
        top_k: _,
        repetition_penalty,
        // Another model, which no engine trains.
        accept: _,
        stop,
    } = sampling;
    let divides = temperature.constant().is_some_and(|temperature| temperature > 0.0);
    divides && max_tokens_moves.is_none() && repetition_penalty.is_none() && stop.is_empty()
}

/// Reports the completions that the stage trains on.
pub fn report(settings: &mut ExportSettings, coverage: &mut Coverage) {
    let train = settings.train;
    let origin = settings.origins.rollout;
    match settings.completions {
        CompletionsFrom::Engine => {}
        CompletionsFrom::Before => {
            coverage.exact("completions, which the run writes before the first step", origin);
            return;
        }
        CompletionsFrom::EachStep => {
            drawn_by_run(settings, coverage);
            return;
        }
    }
    let Producer::Student(student) = &train.rollout.producer else {
        let kind = serde_json::to_value(&train.rollout).ok();
        let from = kind.as_ref().and_then(|kind| kind["from"].as_str()).unwrap_or("others").to_owned();
        coverage.refuse(
            format!("rollout from `{from}`"),
            origin,
            "the engines' distillation trains only on completions that the student samples in the same step",
        );
        return;
    };
    let Sampling {
        n,
        temperature,
        max_tokens,
        max_tokens_moves,
        top_p,
        top_k,
        repetition_penalty,
        accept,
        stop,
    } = &student.sampling;
    if temperature.constant().is_none() {
        coverage.refuse(
            "a sampling temperature that changes during the run",
            origin,
            "engines have one temperature for the whole run; write a number",
        );
    } else if *temperature == Temperature::Constant(0.0) {
        coverage.refuse(
            "`temperature: 0`",
            origin,
            "engines divide logits by the temperature; `top_k: 1` is greedy too",
        );
    } else {
        coverage
            .exact(format!("`sample(n: {n}, temperature: {temperature}, max_tokens: {max_tokens})`"), origin);
    }
    if max_tokens_moves.is_some() {
        coverage.refuse(
            "`max_tokens` that changes during the run",
            origin,
            "engines have one limit for the whole run",
        );
    }
    if top_p.is_some() || top_k.is_some() {
        coverage.exact("`top_p` and `top_k` of the rollout", origin);
    }
    if repetition_penalty.is_some() {
        let why = "the trainer's log-probabilities would differ from those that the tokens were sampled with";
        coverage.refuse("`repetition_penalty`", origin, why);
    }
    if accept.is_some() {
        coverage.refuse(
            "`accept`, which samples tokens from a second head",
            origin,
            "the engines' models have one LM head",
        );
    }
    if !stop.is_empty() {
        let why = "engines end a completion at the end token; they can't end it after a given text";
        coverage.refuse("`stop`", origin, why);
    }
    settings.sampling = Some(&student.sampling);
}

/// Reports completions that the run draws in each step.
fn drawn_by_run(settings: &ExportSettings, coverage: &mut Coverage) {
    let (rollout, at) = (&settings.train.rollout, settings.origins.rollout);
    coverage
        .exact("completions, which the run draws in each step with the student's weights of that step", at);
    if rollout.may_drop() {
        let why = "a step of the engine needs a completion for each process";
        coverage.refuse("a rollout that may leave prompts without completions", at, why);
    }
    if settings.train.trains_second_head() {
        let why = "the engines' models have one LM head";
        coverage.refuse("`accept`, which samples tokens from a second head", at, why);
    }
}
