//! `mopd sample`: try a checkpoint on a prompt.

use std::path::Path;

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::events::{Event, FailureKind, SampleJob};
use tch::{Device, Kind};

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::Decoder;
use crate::random::{Key, Purpose, stream_of};
use crate::rollout::{Prompt, rollout};
use crate::schedule::Room;
use crate::store::Checkpoint;

/// Emits one event per completion.
pub fn sample(job: &SampleJob, device: Device, control: &Control) -> Result<()> {
    let checkpoint = Checkpoint::load(Path::new(&job.checkpoint))?;
    let weights = &checkpoint.weights;
    let tokens = weights.tokenizer.prompt(&job.prompt)?;
    let context = weights.config.context;
    let max_tokens = job.max_tokens.unwrap_or(context.saturating_sub(tokens.len()).max(1) as u32);
    if tokens.len() + max_tokens as usize > context {
        let message = format!(
            "the prompt takes {} tokens and its completion up to {max_tokens}, the model's context is \
             {context}",
            tokens.len()
        );
        return Err(
            Error::new(FailureKind::Context, message).help("shorten the prompt or ask for fewer tokens")
        );
    }
    if !(job.temperature >= 0.0 && job.temperature.is_finite()) {
        return Err(Error::new(FailureKind::Runtime, "the temperature must be 0 or more"));
    }
    let decoder = Decoder::frozen(weights, device, Kind::Float);
    let sampling = Sampling::new(job.n, job.temperature, max_tokens);
    let key = Key::new(job.seed, stream_of(&job.prompt), Purpose::Sample, 0);
    let budget = Room::here(1, device).generation(true);
    for completion in rollout(
        &decoder,
        &[Prompt { tokens: &tokens, id: 0, sample: 0, limit: None }],
        &sampling,
        key,
        budget,
        control,
    )? {
        control.emit(&Event::Sample {
            text: weights.tokenizer.decode(&completion.tokens)?,
            tokens: completion.tokens.len() as u32,
            finished: !completion.truncated,
            logp: completion.logps.iter().map(|&logp| f64::from(logp)).sum(),
        });
    }
    Ok(())
}
