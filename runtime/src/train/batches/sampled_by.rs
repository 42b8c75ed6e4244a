//! `sampled_by(...)`: the student's own rollouts, fresh every step, by a server to which its weights are
//! pushed first. With `every`, the server keeps them for some steps. Checkpoints have these weights, so that
//! a run that was killed resumes with the same completions.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use mopd_plan::producers::SampledBy;
use mopd_plan::{RolloutServer, Sampling};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad_guard};

use super::sample::{NumberedDraw, in_groups, judge, prompts, sequence};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::{Error, Result};
use crate::machine::transfer::{to_vec, upload};
use crate::model::{ABSENT, Decoder, PackedBatch, Weights};
use crate::prepare::load::saved_content;
use crate::random::Purpose;
use crate::remote::ledger::gap;
use crate::remote::push::{self, PushedWeights};
use crate::remote::sampling::SamplingServer;
use crate::rollout::{Extra, RolloutRequest};
use crate::store::state::{PushedPosition, StateTensors};
use crate::store::{self, CheckpointProvenance};
use crate::train::stage::StageKeys;
use crate::train::views::ScorerPrompts;

/// Number of steps after which the student had the weights that a server sampled a completion with.
#[derive(Serialize, Deserialize)]
pub struct SampledAt(pub u32);

impl Extra for SampledAt {
    const NAME: &str = "sampled_at";
}

pub(super) struct SampledByProducer {
    server: RolloutServer,
    sampling: Sampling,
    every: u32,
    judged: bool,
    weights: RefCell<Option<SentWeights>>,
}

/// The weights of a step, which a server samples with until new ones are due.
pub struct SentWeights {
    step: u32,
    /// A copy where they are needed for longer than the step: the student changes, and the folder may be
    /// deleted by another stage or after a kill.
    numbers: Tensor,
    /// The trainer's log-probabilities of the canary with these weights.
    canary: Vec<f32>,
    /// The folder that they were last written to, and their hash.
    written: Option<(PathBuf, String)>,
}

impl SentWeights {
    fn new(student: &Decoder, step: u32, every: u32) -> Result<SentWeights> {
        let _guard = no_grad_guard();
        let numbers = if every > 1 { student.flat().copy() } else { student.flat().shallow_clone() };
        Ok(SentWeights { step, numbers, canary: canary(student)?, written: None })
    }

    /// Writes them to the server's folder, if they are not there.
    fn push(
        &mut self,
        stage: &str,
        keys: StageKeys,
        start: &Weights,
        server: &SamplingServer,
    ) -> Result<PushedWeights> {
        let written = self.written.take().filter(|(folder, _)| folder.exists());
        let (folder, content) = match written {
            Some(written) => written,
            None => save_weights(stage, keys, start, &self.numbers, server)?,
        };
        self.written = Some((folder.clone(), content.clone()));
        let of = format!("step {} of `{stage}`", self.step);
        Ok(PushedWeights { folder, content, of, canary: self.canary.clone() })
    }

    pub(super) fn state(&self, name: &str, tensors: &mut StateTensors) -> PushedPosition {
        tensors.put(name, &self.numbers);
        let canary = self.canary.iter().map(|logp| logp.to_bits()).collect();
        PushedPosition { step: self.step, canary }
    }

    /// Restores the weights of a state.
    pub(super) fn restored(
        position: &PushedPosition,
        student: &Decoder,
        name: &str,
        tensors: &StateTensors,
    ) -> Result<SentWeights, String> {
        let _guard = no_grad_guard();
        let numbers = student.flat().copy();
        tensors.restore(name, &numbers)?;
        let canary = position.canary.iter().copied().map(f32::from_bits).collect();
        Ok(SentWeights { step: position.step, numbers, canary, written: None })
    }
}

pub(super) fn make(producer: &SampledBy, context: &ProducerContext) -> SampledByProducer {
    let SampledBy { server, sampling, every } = producer.clone();
    SampledByProducer {
        server,
        sampling,
        every: every.max(1),
        judged: context.judged,
        weights: RefCell::default(),
    }
}

impl SequenceProducer for SampledByProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, step, climbed, .. } = *batch;
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        let sampling = self.sampling.at(step, stage.steps, climbed);
        let n = sampling.n.max(1) as usize;
        let server = stage.servers.sampling(&self.server);
        let tolerance = gap::tolerance(self.server.engine, stage.dtype());
        let mut weights = self.weights.borrow_mut();
        let fresh = weights.take().filter(|weights| step < weights.step.saturating_add(self.every));
        let weights = match fresh {
            Some(fresh) => weights.insert(fresh),
            None => weights.insert(SentWeights::new(student, step, self.every)?),
        };
        let completions = server.sample(
            || weights.push(stage.name, stage.keys(), &stage.start, server),
            &RolloutRequest::new(
                &prompts(&stage.sources, &ScorerPrompts::Own, draws),
                &sampling,
                batch.key(purpose),
            ),
            &stage.start.tokenizer,
            tolerance,
            stage.control,
        )?;
        let sequences = completions.into_iter().enumerate();
        let sampled_at = SampledAt(weights.step);
        let sequences = sequences
            .map(|(index, completion)| sequence(draws[index / n].draw, completion).with_extra(&sampled_at));
        let mut list = in_groups(sequences, n);
        if self.judged {
            judge(stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }

    fn pushed(&self) -> Option<&RefCell<Option<SentWeights>>> {
        (self.every > 1).then_some(&self.weights)
    }
}

/// Saves weights in a folder that is named by the hash of its content; returns both. Equal weights share a
/// folder.
fn save_weights(
    stage: &str,
    StageKeys { seed, stream, .. }: StageKeys,
    start: &Weights,
    numbers: &Tensor,
    server: &SamplingServer,
) -> Result<(PathBuf, String)> {
    let _guard = no_grad_guard();
    let writing = format!(".writing-{}-{:x}-{}", std::process::id(), stream, seed);
    let writing = server.folder().join(writing);
    let failed = |error: std::io::Error| Error::storage(&writing, error);
    // Left by a killed run.
    if writing.exists() {
        fs::remove_dir_all(&writing).map_err(failed)?;
    }
    fs::create_dir_all(&writing).map_err(failed)?;
    let weights = start.with_values(to_vec(&numbers.to_kind(Kind::Float)));
    let provenance = CheckpointProvenance::new(&weights, stage, seed, "", Vec::new());
    let hashes = store::save(&writing, &provenance, &weights)?;
    let content = saved_content(&weights, &writing, &hashes)?;
    let folder = server.folder().join(&content);
    if folder.exists() {
        fs::remove_dir_all(&writing).map_err(failed)?;
    } else {
        fs::rename(&writing, &folder).map_err(failed)?;
    }
    Ok((folder, content))
}

/// The trainer's log-probabilities of the canary.
fn canary(student: &Decoder) -> Result<Vec<f32>> {
    let (tokenizer, device) = (&student.tokenizer, student.device());
    let reading = push::canary(tokenizer)?;
    let batch =
        PackedBatch::new([(reading.prompt.as_slice(), reading.completion.as_slice())].into_iter(), device);
    let entries = tokenizer.vocabulary() as i64;
    let mut logits = student.logits(&batch).narrow(1, 0, entries).to_kind(Kind::Float);
    if !tokenizer.absent().is_empty() {
        let _ = logits.index_fill_(1, &upload(tokenizer.absent(), device), f64::from(ABSENT));
    }
    let targets = upload(&reading.completion, device).unsqueeze(1);
    Ok(to_vec(&logits.log_softmax(-1, Kind::Float).gather(1, &targets, false)))
}
