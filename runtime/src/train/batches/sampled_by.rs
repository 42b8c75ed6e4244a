//! `sampled_by(...)`: the student's own rollouts, fresh every step, by a server that gets its weights before.

use std::fs;

use mopd_compiler::plan::producers::SampledBy;
use mopd_compiler::plan::{Engine, RolloutServer, Sampling};
use tch::{Kind, no_grad_guard};

use super::sample::{Numbered, in_groups, judge, prompts, sequence};
use super::{Batch, Draws, Group, Making};
use crate::failure::{Error, Result};
use crate::machine::transfer::{to_vec, upload};
use crate::model::{ABSENT, Decoder, PackedBatch};
use crate::prepare::load::saved_content;
use crate::random::Purpose;
use crate::served::push::{self, PushedWeights};
use crate::served::sampling::SamplingServer;
use crate::store::{self, CheckpointProvenance};
use crate::train::Stage;
use crate::train::views::Shown;

/// Largest mean difference between the server's and the trainer's log-probabilities of the canary, in
/// float32: both sum in another order.
const CANARY_TOLERANCE: f64 = 1e-3;
/// The same in bfloat16, or by another engine's arithmetic.
const CANARY_TOLERANCE_BF16: f64 = 5e-2;

pub(super) struct OfServer {
    server: RolloutServer,
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(producer: &SampledBy, making: &Making) -> OfServer {
    let SampledBy { server, sampling } = producer.clone();
    OfServer { server, sampling, judged: making.judged }
}

impl Draws for OfServer {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, step, climbed, .. } = *batch;
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        let sampling = self.sampling.at(step, stage.steps, climbed);
        let n = sampling.n.max(1) as usize;
        let server = stage.servers.sampling(&self.server);
        let exact = stage.kind == Kind::Float && self.server.engine == Engine::Mopd;
        let tolerance = if exact { CANARY_TOLERANCE } else { CANARY_TOLERANCE_BF16 };
        let completions = server.sample(
            || save_weights(stage, student, step, server),
            &prompts(stage, &Shown::Own, draws),
            (&sampling, batch.key(purpose)),
            (&stage.start.tokenizer, tolerance),
            stage.control,
        )?;
        let sequences = completions.into_iter().enumerate();
        let sequences = sequences.map(|(index, completion)| sequence(draws[index / n].draw, completion));
        let mut list = in_groups(sequences, n);
        if self.judged {
            judge(stage, list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}

/// Saves the student's present weights in a folder that is named by the hash of its content. Equal weights
/// have one folder.
fn save_weights(
    stage: &Stage,
    student: &Decoder,
    step: u32,
    server: &SamplingServer,
) -> Result<PushedWeights> {
    let _guard = no_grad_guard();
    let writing = format!(".writing-{}-{:x}-{}", std::process::id(), stage.stream, stage.seed);
    let writing = server.folder().join(writing);
    let failed = |error: std::io::Error| Error::storage(&writing, error);
    // A killed run left it.
    if writing.exists() {
        fs::remove_dir_all(&writing).map_err(failed)?;
    }
    fs::create_dir_all(&writing).map_err(failed)?;
    let weights = stage.start.with_values(to_vec(&student.flat().to_kind(Kind::Float)));
    let provenance = CheckpointProvenance::new(&weights, stage.name, stage.seed, "", Vec::new());
    let hashes = store::save(&writing, &provenance, &weights)?;
    let content = saved_content(&weights, &writing, &hashes)?;
    let folder = server.folder().join(&content);
    if folder.exists() {
        fs::remove_dir_all(&writing).map_err(failed)?;
    } else {
        fs::rename(&writing, &folder).map_err(failed)?;
    }
    let of = format!("step {step} of `{}`", stage.name);
    Ok(PushedWeights { folder, content, of, canary: canary(stage, student)? })
}

/// The trainer's log-probabilities of the canary.
fn canary(stage: &Stage, student: &Decoder) -> Result<Vec<f32>> {
    let (reading, tokenizer, device) =
        (push::canary(&stage.start.tokenizer)?, &stage.start.tokenizer, stage.place.device);
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
