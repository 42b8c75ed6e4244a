//! `mopd sample`: try a checkpoint on prompts.

use std::path::Path;

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::events::{Event, FailureKind, SampleJob, SamplePrompt};
use tch::Kind;

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Decoder, Weights};
use crate::random::{Key, Purpose, stream_of};
use crate::rollout::{Prompt, rollout};
use crate::schedule::Room;
use crate::store::Checkpoint;
use crate::tokenizer::chat::{self, Conversation};
use crate::tokenizer::json::Json;
use crate::tokenizer::{Token, Tokenizer};

/// Emits one event per completion.
pub fn sample(job: &SampleJob, place: Place, control: &Control) -> Result<()> {
    let checkpoint = Checkpoint::load(Path::new(&job.checkpoint))?;
    if !(job.temperature >= 0.0 && job.temperature.is_finite()) {
        return Err(Error::new(FailureKind::Runtime, "the temperature must be 0 or more"));
    }
    let decoder = Decoder::frozen(&checkpoint.weights, place, Kind::Float);
    for (index, prompt) in job.prompts.iter().enumerate() {
        complete(job, &checkpoint.weights, &decoder, (index, prompt), control)?;
    }
    Ok(())
}

/// The tokens of a prompt, and what its random numbers follow: not its place among others.
fn asked(job: &SampleJob, prompt: &SamplePrompt, tokenizer: &Tokenizer) -> Result<(Vec<Token>, u64)> {
    let system = job.system.as_deref();
    let (conversation, text) = match prompt {
        SamplePrompt::Prompt(text) if !job.chat => {
            return Ok((tokenizer.prompt(text)?, stream_of(text)));
        }
        SamplePrompt::Prompt(text) => (Conversation::question(system, text), text.clone()),
        SamplePrompt::Messages(messages) => {
            let conversation = Conversation::new(&Json::from(messages.clone()), system)?;
            (conversation, messages.to_string())
        }
    };
    Ok((chat::prompt(tokenizer, conversation)?, stream_of(&text)))
}

fn complete(
    job: &SampleJob,
    weights: &Weights,
    decoder: &Decoder,
    (index, prompt): (usize, &SamplePrompt),
    control: &Control,
) -> Result<()> {
    let (tokens, stream) = asked(job, prompt, &weights.tokenizer)?;
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
    let sampling = Sampling::new(job.n, job.temperature, max_tokens);
    let key = Key::new(job.seed, stream, Purpose::Sample, 0);
    let budget = Room::here(1, decoder.place).generation(true);
    for completion in rollout(
        decoder,
        &[Prompt { tokens: &tokens, id: 0, sample: 0, limit: None }],
        &sampling,
        key,
        budget,
        control,
    )? {
        control.emit(&Event::Sample {
            prompt: index as u32,
            text: weights.tokenizer.decode(&completion.tokens)?,
            tokens: completion.tokens.len() as u32,
            finished: !completion.truncated,
            logp: completion.logps.iter().map(|&logp| f64::from(logp)).sum(),
        });
    }
    Ok(())
}
