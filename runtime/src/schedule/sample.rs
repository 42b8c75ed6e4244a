//! `mopd sample`: samples from a checkpoint.

use std::path::Path;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, FailureKind, SampleJob, SamplePrompt};
use mopd_plan::{Pretrained, Sampling};
use serde_json::Value;
use tch::Kind;

use crate::control::Control;
use crate::data;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Decoder, Weights};
use crate::prepare::load;
use crate::random::{Key, Purpose, stream_of};
use crate::rollout::{Completion, Prompt, rollout_watched};
use crate::schedule::DeviceMemoryBudget;
use crate::tokenizer::chat::{self, ChatError, Conversation};
use crate::tokenizer::{Token, Tokenizer};

/// Interval of events about unfinished completions.
const PACE: Duration = Duration::from_millis(100);

/// Emits one event per completion.
pub fn sample(job: &SampleJob, place: Place, control: &Control) -> Result<()> {
    let model = Pretrained::new(job.model.clone());
    let here = Path::new("");
    // What is on this machine is not hashed.
    let weights = match load::open(&model, here)? {
        Some(weights) => weights,
        None => load::load_pretrained(&model, here, None)?.weights,
    };
    if !(job.temperature >= 0.0 && job.temperature.is_finite()) {
        return Err(Error::new(FailureKind::Runtime, "the temperature must be 0 or more"));
    }
    let decoder = Decoder::frozen(&weights, place, Kind::Float);
    for (index, prompt) in job.prompts.iter().enumerate() {
        complete(job, &weights, &decoder, index, prompt, control)?;
    }
    Ok(())
}

/// The tokens of a prompt, and the key of its random numbers, which does not depend on its position.
fn asked(
    job: &SampleJob,
    index: usize,
    prompt: &SamplePrompt,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Token>, u64)> {
    let system = job.system.as_deref();
    let (conversation, text) = match prompt {
        SamplePrompt::Prompt(text) if !job.chat => {
            return Ok((tokenizer.prompt(text)?, stream_of(text)));
        }
        SamplePrompt::Prompt(text) => (Conversation::question(system, text), text.clone()),
        SamplePrompt::Line(line) => {
            let conversation = data::conversation(line, system).map_err(|problem| {
                let error = Error::new(FailureKind::Data, format!("prompt {}: {problem}", index + 1));
                error.help("change the line in the file of prompts")
            })?;
            (conversation, question(line))
        }
    };
    match chat::prompt(tokenizer, conversation) {
        Err(ChatError::NoTemplate) => Err(Error::new(FailureKind::Data, ChatError::NoTemplate.to_string())
            .help("leave `--chat` out, or put a `chat_template.jinja` into the model's folder")),
        prompt => Ok((prompt?, stream_of(&text))),
    }
}

/// The text that selects the random numbers of a line's completions: the prompt, or the messages with members
/// in the order of their names.
fn question(line: &str) -> String {
    let row: Value = serde_json::from_str(line).unwrap_or_default();
    match row.get("prompt").or(row.get("messages")) {
        Some(Value::String(text)) => text.clone(),
        Some(messages) => messages.to_string(),
        None => line.to_owned(),
    }
}

fn complete(
    job: &SampleJob,
    weights: &Weights,
    decoder: &Decoder,
    index: usize,
    prompt: &SamplePrompt,
    control: &Control,
) -> Result<()> {
    let (tokens, stream) = asked(job, index, prompt, &weights.tokenizer)?;
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
    let budget = DeviceMemoryBudget::detect(1, decoder.place).generation(true);
    let most = job.n.saturating_mul(max_tokens);
    let mut reported =
        ReportedCompletion { prompt: index as u32, most, at: Instant::now(), text: String::new() };
    let completions = rollout_watched(
        decoder,
        &[Prompt { tokens: &tokens, id: 0, sample: 0, limit: None }],
        &sampling,
        key,
        budget,
        control,
        &mut |completions| reported.look(completions, &weights.tokenizer, control),
    )?;
    for completion in completions {
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

/// The part of a prompt's completion that has been reported so far.
struct ReportedCompletion {
    prompt: u32,
    most: u32,
    at: Instant,
    text: String,
}

impl ReportedCompletion {
    fn look(&mut self, completions: &[Completion], tokenizer: &Tokenizer, control: &Control) -> Result<()> {
        if self.at.elapsed() < PACE {
            return Ok(());
        }
        self.at = Instant::now();
        let mut text = String::new();
        if let [alone] = completions {
            text = continued(&self.text, &tokenizer.decode(&alone.tokens)?).to_owned();
            self.text += &text;
        }
        let tokens = completions.iter().map(|completion| completion.tokens.len() as u32).sum();
        control.emit(&Event::SampleWritten { prompt: self.prompt, tokens, most: self.most, text });
        Ok(())
    }
}

/// The new part of a text after the part reported so far, without an incomplete character at its end. It is
/// empty where earlier text has changed.
fn continued<'a>(told: &str, text: &'a str) -> &'a str {
    text.strip_prefix(told).unwrap_or_default().trim_end_matches(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::continued;

    #[test]
    fn a_text_is_told_in_whole_characters() {
        assert_eq!(continued("", "caf"), "caf");
        assert_eq!(continued("caf", "caf\u{fffd}"), "");
        assert_eq!(continued("caf", "caf\u{e9}"), "\u{e9}");
        assert_eq!(continued("a b", "a  b"), "", "the tokenizer joins words in another way");
    }
}
