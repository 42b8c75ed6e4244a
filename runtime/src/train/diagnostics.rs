//! The metrics of a step for every domain. They show early when one domain dominates the others.

use std::collections::BTreeMap;

use mopd_expr::batch::Batch;
use mopd_plan::events::Seconds;
use mopd_plan::{Objective, Producer, Signal, StageStep};

use super::agreement;
use super::batches::{CorrectOf, DerivedPrompt, Replayed, SampledAt};
use super::objective::Outputs;
use super::sampler_gap;
use super::scoring::{STUDENT_ENTROPY, STUDENT_LOGP, TEACHER_LOGP, unstated_confidences};
use super::sequences::Sequences;
use super::stage::{Section, Stage};
use crate::model::ExpertLoad;
use crate::report::metrics::StepMetrics;
use crate::rollout::{Sequence, Speculation};
use crate::zip::zip_equal;

/// Metrics of a whole step, not of a domain.
pub struct StepTotals {
    pub step: u32,
    pub loss: f64,
    /// The values that the step began with.
    pub states: BTreeMap<String, f64>,
    pub learning_rate: f64,
    /// The step that drew the completions.
    pub drawn: StageStep,
    /// The value of `learned(...)` in the step.
    pub learned: Option<f64>,
    /// By source: the number of chosen prompts and their mean priority; `None` where prompts are not chosen.
    pub chosen: Vec<Option<(usize, Option<f64>)>>,
    pub gradient_norm: f64,
    pub seconds: Seconds,
    /// Of the student, if it has experts.
    pub experts: Option<ExpertLoad>,
    /// The share of the weights that is trained, where single elements are chosen.
    pub trained_share: Option<f64>,
}

/// One row per domain of the step's sequences and per teacher that scored some of them. With `several` parts,
/// it names the part's terms. `evaluated` is `None` for a part without sequences, which has rows for dropped
/// completions only; a private step updates the weights anyway, and has a row for every domain.
pub fn diagnose(
    stage: &Stage,
    sequences: &Sequences,
    evaluated: Option<&(Batch, Outputs)>,
    numbers: &StepTotals,
    several: bool,
) -> Vec<StepMetrics> {
    let (objective, producer) = (&stage.train.objective, &stage.train.rollout.producer);
    let terms = terms(objective, several, stage.turn.name);
    let sections = stage.sources.sections();
    let dropped = |index: usize| Some(f64::from(sequences.dropped.as_ref()?[index]));
    let nothing = |index: usize| StepMetrics {
        dropped: dropped(index),
        ..row(stage, &sections[index], &terms, numbers)
    };
    let empty = |index: usize| Some(nothing(index)).filter(|row| row.dropped.is_some_and(|of| of > 0.0));
    let Some((batch, outputs)) = evaluated else {
        let of_noise = stage.train.options.private.is_some();
        return (0..sections.len())
            .filter_map(|index| empty(index).or(of_noise.then(|| nothing(index))))
            .collect();
    };
    let signal = outputs.get(objective.signal);
    let [student_logps, teacher_logps, entropies] =
        [STUDENT_LOGP, TEACHER_LOGP, STUDENT_ENTROPY].map(|signal| batch.signal(&signal));
    let compared = sampler_gap::compared(stage.train, sequences, batch, numbers.drawn, numbers.step);
    let [clipped, domain_weight] =
        [objective.clipped, objective.domain_weight].map(|node| node.map(|node| outputs.get(node)));
    let all_tokens = sequences.layout.tokens() as f64;
    let all_completions = completions(&sequences.list).count() as f64;
    let all_signal: f64 = signal.iter().map(|value| f64::from(value.abs())).sum();
    let unavailable = unavailable(batch, sequences.list.len());
    let mut rows = Vec::new();
    let mut token = 0;
    for (index, section) in sections.iter().enumerate() {
        let members = sequences.of_sections(&stage.sources, index..index + 1);
        let own = &sequences.list[members.clone()];
        let count: usize = own.iter().map(|sequence| sequence.completion.trained()).sum();
        // Sequences of a section are adjacent, so its tokens are one range.
        let range = token..token + count;
        token += count;
        if own.is_empty() {
            rows.extend(empty(index));
            continue;
        }
        let tokens = count as f64;
        let sum = |values: &[f32]| values[range.clone()].iter().map(|&value| f64::from(value)).sum::<f64>();
        let own_signal: f64 = signal[range.clone()].iter().map(|value| f64::from(value.abs())).sum();
        let rewards: Option<Vec<f64>> = completions(own).map(|sequence| sequence.reward).collect();
        let written: usize = completions(own).map(|sequence| sequence.completion.trained()).sum();
        let truncated = completions(own).filter(|sequence| sequence.truncated).count();
        let acceptance = acceptance(own);
        let gap = sampler_gap::over(&compared, members.clone());
        rows.push(StepMetrics {
            prompt_share: completions(own).count() as f64 / all_completions,
            token_share: tokens / all_tokens,
            divergence: student_logps
                .zip(teacher_logps)
                .map(|(student, teacher)| (sum(student) - sum(teacher)) / tokens),
            divergence_floor: gap.filter(|_| teacher_logps.is_some()).map(|gap| gap.mean),
            signal_share: (all_signal > 0.0).then(|| own_signal / all_signal),
            signal_mean: Some(own_signal / tokens),
            entropy: entropies.map(|entropies| sum(entropies) / tokens),
            length: Some(written as f64 / completions(own).count() as f64),
            tokens: Some(tokens),
            truncated: Some(truncated as f64 / completions(own).count() as f64),
            clipped_fraction: clipped.map(|clipped| sum(clipped) / tokens),
            domain_weight: domain_weight
                .and_then(|weights| weights.get(range.start))
                .map(|&weight| f64::from(weight)),
            reward: rewards.map(|rewards| rewards.iter().sum::<f64>() / rewards.len() as f64),
            reward_parts: reward_parts(own),
            dropped: dropped(index),
            unavailable: unavailable.as_ref().map(|missing| {
                let missing = zip_equal(own, &missing[members]);
                missing.filter(|(sequence, missing)| **missing && !Speculation::is_rejected(sequence)).count()
                    as f64
            }),
            unstated: unstated_confidences(&stage.train.panels, sequences, own),
            accepted: acceptance.map(|[accepted, _]| accepted),
            accepted_length: acceptance.map(|[_, length]| length),
            tokens_per_step: tokens_per_step(own),
            agreement: objective
                .chosen
                .and_then(|chosen| agreement::mean(objective, batch, outputs.get(chosen), range.clone())),
            correct_of_others: correct_of_others(own),
            derived: derived(producer, own),
            replayed: replayed(producer, own),
            staleness: staleness(own, numbers.step),
            sampler_gap: gap.map(|gap| gap.mean),
            sampler_gap_max: gap.map(|gap| gap.max),
            sampler_ratio: gap.map(|gap| gap.ratio),
            ..row(stage, section, &terms, numbers)
        });
    }
    rows
}

/// The label of these terms' rows: their names where there are `several` parts, after the model's `turn`
/// where several models learn; otherwise `None`.
pub fn terms(objective: &Objective, several: bool, turn: Option<&str>) -> Option<String> {
    let names = objective.terms.iter().map(|term| term.name.as_str());
    let terms = several.then(|| names.collect::<Vec<&str>>().join(", "));
    match (turn, terms) {
        (Some(turn), Some(terms)) => Some(format!("{turn}: {terms}")),
        (turn, terms) => terms.or(turn.map(str::to_owned)),
    }
}

/// For each sequence, whether a role whose availability the objective reads had no input; `None` where it
/// reads none.
fn unavailable(batch: &Batch, sequences: usize) -> Option<Vec<bool>> {
    let asked = batch.signals.iter().filter(|(signal, _)| matches!(signal, Signal::Available { .. }));
    let asked: Vec<&Vec<f32>> = asked.map(|(_, values)| values).collect();
    (!asked.is_empty())
        .then(|| (0..sequences).map(|place| asked.iter().any(|values| values[place] == 0.0)).collect())
}

/// The completions, without rejected drafts.
fn completions(own: &[Sequence]) -> impl Iterator<Item = &Sequence> {
    own.iter().filter(|sequence| !Speculation::is_rejected(sequence))
}

/// The mean of each part of the reward, except parts that some completion lacks.
fn reward_parts(own: &[Sequence]) -> BTreeMap<String, f64> {
    let names = completions(own).next().map_or(&[][..], |first| &first.reward_parts);
    let mean = |name: &String| {
        let said: Option<Vec<f64>> = completions(own).map(|sequence| sequence.reward_part(name)).collect();
        said.map(|said| (name.clone(), said.iter().sum::<f64>() / said.len() as f64))
    };
    names.iter().filter_map(|(name, _)| mean(name)).collect()
}

/// For speculative decoding: the share of the verified drafted tokens that were accepted; and tokens of a
/// completion per draft, the accepted ones and the teacher's own after them.
fn acceptance(own: &[Sequence]) -> Option<[f64; 2]> {
    let (mut tokens, mut blocks, mut stood, mut verified) = (0, 0, 0, 0);
    for sequence in own {
        let Some(Speculation::Trajectory(counts)) = sequence.extra() else { continue };
        tokens += sequence.completion.len();
        blocks += counts.blocks;
        stood += counts.stood;
        verified += counts.stood + counts.rejected;
    }
    // The first token of every draft is verified, so `blocks` is positive too.
    (verified > 0).then(|| [f64::from(stood) / f64::from(verified), tokens as f64 / f64::from(blocks)])
}

/// Number of decoding steps, where a step draws up to two tokens; else `None`.
fn steps(sequence: &Sequence) -> Option<usize> {
    Some(sequence.completion.heads()?.into_iter().filter(|head| *head == 0).count())
}

/// Completion tokens per decoding step, where a step draws up to two tokens.
fn tokens_per_step(own: &[Sequence]) -> Option<f64> {
    let steps: usize = own.iter().map(steps).sum::<Option<usize>>()?;
    let tokens: usize = own.iter().map(|sequence| sequence.completion.len()).sum();
    (steps > 0).then(|| tokens as f64 / steps as f64)
}

/// The share of correct completions among other models' for the same prompts, if the objective reads them.
fn correct_of_others(own: &[Sequence]) -> Option<f64> {
    let asked = || own.iter().filter_map(Sequence::extra).flat_map(|CorrectOf(roles)| roles);
    let right = asked().filter(|(_, right)| *right).count();
    (asked().count() > 0).then(|| right as f64 / asked().count() as f64)
}

/// The share of completions whose prompts were derived; `None` in a stage that derives none.
fn derived(producer: &Producer, own: &[Sequence]) -> Option<f64> {
    (!producer.derives().is_empty())
        .then(|| share(own, |sequence| sequence.extra::<DerivedPrompt>().is_some()))
}

/// The share of completions that are replayed; `None` in a stage that replays none.
fn replayed(producer: &Producer, own: &[Sequence]) -> Option<f64> {
    producer.replays().then(|| share(own, |sequence| sequence.extra::<Replayed>().is_some()))
}

/// The mean age, in updates, of the weights that a server sampled the completions with; `None` without such
/// completions.
fn staleness(own: &[Sequence], step: u32) -> Option<f64> {
    let ages = completions(own).filter_map(Sequence::extra);
    let ages: Vec<f64> = ages.map(|SampledAt(at)| f64::from(step.saturating_sub(at))).collect();
    (!ages.is_empty()).then(|| ages.iter().sum::<f64>() / ages.len() as f64)
}

fn share(of: &[Sequence], which: impl Fn(&Sequence) -> bool) -> f64 {
    of.iter().filter(|sequence| which(sequence)).count() as f64 / of.len() as f64
}

/// A row with the metrics that do not depend on the sequences.
fn row(stage: &Stage, section: &Section, terms: &Option<String>, numbers: &StepTotals) -> StepMetrics {
    let chosen = numbers.chosen[section.source];
    StepMetrics {
        seed: stage.seed,
        stage: stage.name.to_owned(),
        step: numbers.step,
        domain: stage.sources[section.source].name.to_owned(),
        teacher: section.teacher.map(|teacher| teacher.name.clone()),
        terms: terms.clone(),
        chosen_prompts: chosen.map(|(prompts, _)| prompts as f64),
        priority: chosen.and_then(|(_, priority)| priority),
        expert_entropy: numbers.experts.as_ref().map(ExpertLoad::entropy),
        expert_largest_share: numbers.experts.as_ref().map(ExpertLoad::largest_share),
        loss: numbers.loss,
        learning_rate: numbers.learning_rate,
        temperature: temperature(&stage.train.rollout.producer, numbers.drawn),
        learned: numbers.learned,
        gradient_norm: numbers.gradient_norm,
        trained_share: numbers.trained_share,
        seconds: numbers.seconds.sum(),
        rollout_seconds: numbers.seconds.rollout,
        scoring_seconds: numbers.seconds.scoring,
        update_seconds: numbers.seconds.update,
        states: numbers.states.clone(),
        ..StepMetrics::default()
    }
}

/// The sampling temperature of the completions, where it changes during training.
fn temperature(producer: &Producer, drawn: StageStep) -> Option<f64> {
    let sampling = producer.sampling()?;
    sampling.temperature.schedule().map(|schedule| schedule.at(drawn.step, drawn.steps))
}
