//! What the student's pass over a batch says about the log-probabilities with which the batch was sampled: a
//! metric of every sampler, and a reason to stop where a server sampled.

use std::ops::Range;

use mopd_expr::batch::Batch;
use mopd_plan::events::FailureKind;
use mopd_plan::producers::{SampledBy, Writer};
use mopd_plan::{Engine, Objective, Sampling, StageStep, Train};

use super::batches::{Replayed, SampledAt};
use super::rollouts::Rollouts;
use super::scoring::STUDENT_LOGP;
use super::sequences::Sequences;
use super::stage::{Stage, draws_are_unselected};
use crate::failure::{Error, Result};
use crate::remote::ledger::gap::{self, ComparedCompletion, SamplerGap};
use crate::rollout::Sequence;

/// The completions of a batch whose numbers the student's pass can be compared with.
pub fn compared(
    train: &Train<Objective>,
    sequences: &Sequences,
    batch: &Batch,
    drawn: StageStep,
    step: u32,
) -> Vec<ComparedCompletion> {
    let Some(trainer) = batch.signal(&STUDENT_LOGP) else { return Vec::new() };
    let of = |(index, sequence): (usize, &Sequence)| {
        let same_weights = drawn_with_same_weights(train, sequence, drawn, step)?;
        let sampler = sequence.completion.logps()?;
        Some(ComparedCompletion {
            index,
            group: sequences.layout.group_of_sequence[index],
            tokens: sequence.completion.trained_tokens().collect(),
            trainer: trainer[sequences.tokens(index)].to_vec(),
            sampler,
            same_weights,
        })
    };
    sequences.list.iter().enumerate().filter_map(of).collect()
}

/// The gap over the completions in a range of the batch that the current weights drew.
pub fn over(compared: &[ComparedCompletion], members: Range<usize>) -> Option<SamplerGap> {
    let own = compared.iter().filter(|of| of.same_weights && members.contains(&of.index));
    SamplerGap::of(own.flat_map(ComparedCompletion::pairs))
}

/// Stops a step on completions whose log-probabilities a server can't have drawn them with.
pub fn check(stage: &Stage, rollouts: &Rollouts, batch: &Batch, step: u32) -> Result<()> {
    let Some(SampledBy { server, .. }) = stage.train.sampled_by().next() else { return Ok(()) };
    let sequences = &rollouts.sequences;
    let mut compared = compared(stage.train, sequences, batch, rollouts.drawn, step);
    compared.retain(|of| sequences.list[of.index].extra::<SampledAt>().is_some());
    let exact = stage.train.sampled_by().all(|of| of.server.engine == Engine::Mopd);
    let engine = if exact { Engine::Mopd } else { server.engine };
    gap::check(&compared, gap::tolerance(engine, stage.dtype())).map_err(|what| {
        // Two servers in one stage are rare, and the message then names both.
        let names = stage.train.sampled_by().map(|of| stage.servers.sampling(&of.server).place());
        let mut names: Vec<String> = names.collect();
        names.dedup();
        let message = format!("the server of rollouts {} {what}", names.join(" or "));
        Error::new(FailureKind::Model, message).at(stage.train.objective.origin).help(
            "nothing was trained on these completions: look for settings of the server that change its \
            log-probabilities, its weights or its tokens, and restart it",
        )
    })
}

/// Whether a completion was drawn with the weights that the student has at this step; `None` where its
/// numbers can't be compared with the student's: they are of another distribution, or the student has learnt
/// from it.
fn drawn_with_same_weights(
    train: &Train<Objective>,
    sequence: &Sequence,
    drawn: StageStep,
    step: u32,
) -> Option<bool> {
    let comparable =
        |sampling: &Sampling| sampling.is_plain() && sampling.temperature == train.objective.temperature;
    let Some(SampledAt(sampled_at)) = sequence.extra() else {
        let (writer, sampling) = train.rollout.producer.kind().policy().ok()?;
        let current = writer == Writer::Student && step.is_multiple_of(train.options.updates_per_batch());
        return (current && comparable(sampling)).then_some(true);
    };
    if sequence.extra::<Replayed>().is_some() || !train.sampled_by().all(|of| comparable(&of.sampling)) {
        return None;
    }
    if sampled_at == step {
        return Some(true);
    }
    let first_pass = step - drawn.step < train.options.mini_batches.max(1);
    (first_pass && draws_are_unselected(&train.rollout)).then_some(false)
}
