//! Short texts that models write beside the completions, each after a prompt that its view makes.

use mopd_plan::{Sampling, View};

use super::Batch;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::Key;
use crate::rollout::{Completion, Prompt, rollout};
use crate::tokenizer::Token;
use crate::train::completions::text_of_at_most;
use crate::train::models::{ModelRef, ModelScorer};
use crate::train::sequences::Sequences;
use crate::zip::zip_equal;

/// A request for a text.
pub(super) struct TextRequest {
    pub prompt: Draw,
    pub said: TemplateInputs,
    /// The prompt's number, and the text's among those about the prompt: they key its random numbers.
    pub number: u32,
    pub sample: u32,
}

/// A model that writes texts.
pub(super) struct TextWriter<'a> {
    pub model_ref: ModelRef,
    /// What it reads in place of the prompts.
    pub view: Option<&'a View>,
    pub sampling: &'a Sampling,
    pub key: Key,
}

impl TextWriter<'_> {
    /// One trimmed text per request. `no_room` makes the error from a prompt's tokens and the context's.
    pub fn texts(
        &self,
        batch: &Batch,
        asked: &[TextRequest],
        no_room: impl Fn(usize, usize) -> Error,
    ) -> Result<Vec<String>> {
        let TextWriter { model_ref, view, sampling, key } = *self;
        let Batch { stage, student, models, .. } = *batch;
        let tokenizer = &stage.start.tokenizer;
        let moment = batch.now().moment(stage.steps);
        let mut read: Vec<Vec<Token>> = Vec::with_capacity(asked.len());
        for TextRequest { prompt: Draw { source, record }, said, .. } in asked {
            let source = &stage.sources[*source];
            read.push(match view {
                None => source.tokens.get(*record).to_vec(),
                Some(view) => source.prompts.shown_now(tokenizer, view, moment, *record, said)?,
            });
        }
        let decoder = models.decoder(model_ref);
        let decoder = decoder.as_deref().unwrap_or(student);
        let context = decoder.config.context;
        let prompts = zip_equal(asked, &read).map(|(asked, tokens)| {
            if context.saturating_sub(tokens.len()) < sampling.max_tokens as usize {
                return Err(no_room(tokens.len(), context));
            }
            Ok(Prompt { tokens, id: asked.number, sample: asked.sample, limit: None })
        });
        let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
        let written = rollout(decoder, &prompts, sampling, key, stage.budget, stage.control)?;
        let text = |Completion { tokens, .. }: &Completion| {
            let text = text_of_at_most(tokenizer, tokens, sampling.max_tokens as usize)?;
            Ok(text.trim().to_owned())
        };
        written.iter().map(text).collect()
    }
}

/// The model that has a role for a prompt, if a model has it.
pub(super) fn scorer(batch: &Batch, role: mopd_plan::Role, prompt: Draw) -> Option<ModelScorer> {
    let section = batch.stage.sources.section(prompt.source, prompt.record);
    batch.models.of_role(role)[section].and_then(|scored| scored.model())
}

/// The distinct prompts of some sequences, in the order of the data.
pub(super) fn prompts(sequences: &Sequences) -> Vec<Draw> {
    let mut prompts: Vec<(usize, usize)> =
        sequences.list.iter().map(|sequence| (sequence.source, sequence.record)).collect();
    prompts.sort_unstable();
    prompts.dedup();
    prompts.into_iter().map(|(source, record)| Draw { source, record }).collect()
}
