//! `mopd bench generate`: times a single model that writes completions as in a run, beside a lower bound of
//! that time.

use std::path::Path;
use std::time::Instant;

use mopd_plan::events::{Event, FailureKind, GenerateJob, GenerationRound};
use mopd_plan::{PretrainedSource, Sampling};

use super::floor::{StepTokens, rollout_phases};
use super::machine::{ProductShape, rates};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::device::kind;
use crate::machine::memory::{peak_of, reset_peak_of};
use crate::machine::place::Place;
use crate::model::Decoder;
use crate::prepare::load::load;
use crate::random::{Key, Purpose};
use crate::rollout::{Prompt, memory, rollout};
use crate::schedule::{self, DeviceMemoryBudget};
use crate::tokenizer::Token;

/// Emits one event for each shape and counted round. Shapes take turns, so that other load on the machine
/// affects all of them alike.
pub fn generate(job: &GenerateJob, place: Place, control: &Control) -> Result<()> {
    let named = PretrainedSource::HuggingFace { name: job.model.clone(), revision: None };
    let weights = load(&named, Path::new(&job.base), None)?.weights;
    let config = weights.config.clone();
    let longest = job.shapes.iter().map(|shape| shape.new).max().unwrap_or(0);
    if (job.prompt + longest) as usize > config.context {
        let message = format!(
            "prompts of {} tokens and {longest} new ones are more than the model's context of {}",
            job.prompt, config.context
        );
        return Err(Error::new(FailureKind::Runtime, message).help("lower `--prompt` or `--new`"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // As many threads as a run gives the model.
    let threads = schedule::threads_of(&config, cores);
    tch::set_num_threads(threads as i32);
    let decoder = Decoder::frozen(&weights, place, kind(job.dtype));
    drop(weights);
    let budget = DeviceMemoryBudget::detect(1, place).generation(true);
    let rates = rates(ProductShape::new(&config, place), threads, place, control)?;
    // A warm-up round that is not counted: it pays for first touches of memory and for loading kernels.
    let rounds = std::iter::once((0, false)).chain((0..job.rounds).map(|round| (round, true)));
    for (round, counted) in rounds {
        for &shape in &job.shapes {
            let prompts: Vec<Vec<Token>> =
                (0..shape.batch).map(|of| tokens(of, job.prompt, config.vocabulary)).collect();
            let prompts: Vec<Prompt> = (0..)
                .zip(&prompts)
                .map(|(id, tokens)| Prompt { tokens, id, sample: 0, limit: None })
                .collect();
            let sampling = Sampling::new(1, 1.0, shape.new);
            let lengths = || prompts.iter().map(|prompt| prompt.tokens.len());
            let predicted = memory(&config, kind(job.dtype), lengths(), &sampling, budget);
            let key = Key::new(1, 0, Purpose::Rollout, u64::from(round));
            let before = reset_peak_of(place);
            let started = Instant::now();
            let written = rollout(&decoder, &prompts, &sampling, key, budget, control)?;
            let seconds = started.elapsed().as_secs_f64();
            if !counted {
                continue;
            }
            let step = StepTokens {
                sequences: f64::from(shape.batch),
                groups: f64::from(shape.batch),
                prompt: f64::from(job.prompt),
                completion: f64::from(shape.new),
            };
            control.emit(&Event::MeasuredGeneration(GenerationRound {
                shape,
                seconds,
                tokens: written.iter().map(|completion| completion.tokens.len() as u64).sum(),
                memory: before.zip(peak_of(place)).map(|(before, peak)| peak.saturating_sub(before)),
                predicted_memory: predicted as u64,
                phases: rollout_phases(&config, &step, job.dtype),
                rates,
                threads: threads as u32,
            }));
        }
    }
    Ok(())
}

/// The tokens of prompt number `of`: arbitrary ones, but no two prompts begin alike.
fn tokens(of: u32, length: u32, vocabulary: usize) -> Vec<Token> {
    let modulus = vocabulary as u64;
    (0..u64::from(length)).map(|at| ((u64::from(of) * 7919 + at * 104_729 + 11) % modulus) as Token).collect()
}
