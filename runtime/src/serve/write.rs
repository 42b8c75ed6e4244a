//! Completions, batched over several requests.

use std::collections::BTreeMap;

use mopd_plan::Sampling;
use mopd_store::random_bytes;
use tokio::sync::oneshot::Sender;

use super::engine::{EngineReply, RequestRefusal, ServingEngine};
use super::http::Shared;
use super::settings;
use crate::control::Control;
use crate::failure::{Error, caught};
use crate::random::{Key, Purpose, stream_of};
use crate::remote::sampling::{RolloutBatch, SentRollouts};
use crate::rollout::{Completion, ContinuousBatch, OwnedPrompt, RequestId, RolloutRequest, rollout};
use crate::schedule::DeviceMemoryBudget;
use crate::tokenizer::Token;

/// A request for completions.
pub enum WriteRequest {
    Completions {
        prompts: Vec<Vec<Token>>,
        sampling: Sampling,
        seed: Option<u64>,
    },
    /// Rollouts of the student, for a run that has sent its weights: the same completions that the run would
    /// sample itself, with its random numbers.
    Rollouts {
        batch: RolloutBatch,
        body: Vec<u8>,
    },
}

/// The channel for the reply to a request.
pub type ReplySender = Sender<Result<EngineReply, RequestRefusal>>;

/// The form of the reply.
enum AnswerForm {
    Completions,
    Rollouts { weights: String, body: Vec<u8> },
}

impl AnswerForm {
    /// `version` is read on the thread that replaces weights, so that it is the version that wrote these.
    fn answer(self, completions: Vec<Completion>, version: String) -> EngineReply {
        match self {
            AnswerForm::Completions => EngineReply::Generated { version, completions },
            AnswerForm::Rollouts { weights, body } => {
                EngineReply::Bytes(SentRollouts::new(completions, weights, &body).bytes())
            }
        }
    }
}

/// Continuous batching: a request that comes while others are being written joins them at the next token.
/// The completions of a request do not depend on the others.
pub struct RequestBatcher<'a> {
    engine: &'a ServingEngine,
    shared: &'a Shared,
    /// None while nothing is written, so that its memory is free for other work.
    batch: Option<ContinuousBatch<'a>>,
    waiting: BTreeMap<RequestId, (ReplySender, AnswerForm)>,
}

impl<'a> RequestBatcher<'a> {
    pub fn new(engine: &'a ServingEngine, shared: &'a Shared) -> RequestBatcher<'a> {
        RequestBatcher { engine, shared, batch: None, waiting: BTreeMap::new() }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn requests(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a request. If the model can't add and remove rows while decoding, it is answered at once.
    pub fn add(&mut self, asked: WriteRequest, reply: ReplySender, control: &Control) {
        let (request, form) = match self.checked(asked) {
            Ok(checked) => checked,
            Err(refused) => {
                let _ = reply.send(Err(refused));
                return;
            }
        };
        let decoder = &self.engine.decoder;
        let budget = || DeviceMemoryBudget::detect(1, decoder.place).generation(true);
        if self.batch.is_none() {
            self.batch = ContinuousBatch::new(decoder, 1, budget());
        }
        if let Some(batch) = &mut self.batch {
            self.waiting.insert(batch.add(request), (reply, form));
            return;
        }
        let RolloutRequest { prompts, sampling, key } = &request;
        let prompts: Vec<_> = prompts.iter().map(OwnedPrompt::borrowed).collect();
        let written = rollout(decoder, &prompts, sampling, *key, budget(), control);
        let _ = reply.send(self.answer(form, written));
    }

    /// Writes one more token of every completion. Cancels requests whose client is gone.
    pub fn advance(&mut self) {
        let Some(batch) = &mut self.batch else { return };
        let gone = self.waiting.extract_if(.., |_, (reply, _)| reply.is_closed());
        gone.for_each(|(id, _)| batch.cancel(id));
        match caught(|| batch.advance()) {
            Ok(finished) => {
                for (id, written) in finished {
                    let (reply, form) = self.waiting.remove(&id).expect("it was asked for");
                    let _ = reply.send(self.answer(form, written));
                }
            }
            Err(error) => {
                let message = error.to_string();
                for (reply, _) in std::mem::take(&mut self.waiting).into_values() {
                    let _ = reply.send(Err(RequestRefusal::internal(message.clone())));
                }
            }
        }
        if self.is_idle() {
            self.batch = None;
        }
    }

    fn answer(
        &self,
        form: AnswerForm,
        written: Result<Vec<Completion>, Error>,
    ) -> Result<EngineReply, RequestRefusal> {
        let written = written.map_err(|error| RequestRefusal::internal(error.to_string()))?;
        let tokens: usize = written.iter().map(|of| of.tokens.len()).sum();
        self.shared.metrics.tokens.with_label_values(&["written"]).inc_by(tokens as u64);
        Ok(form.answer(written, self.shared.about().version))
    }

    /// Checks a request before the model reads any of it.
    fn checked(&self, asked: WriteRequest) -> Result<(RolloutRequest, AnswerForm), RequestRefusal> {
        let (request, form) = match asked {
            WriteRequest::Completions { prompts, sampling, seed } => {
                let seed = seed.unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
                let key = Key::new(seed, stream_of("serve"), Purpose::Sample, 0);
                let prompt = |(tokens, id)| OwnedPrompt { tokens, id, sample: 0, limit: None };
                let prompts = prompts.into_iter().zip(0..).map(prompt).collect();
                (RolloutRequest { prompts, sampling, key }, AnswerForm::Completions)
            }
            WriteRequest::Rollouts { batch, body } => {
                let has = self.shared.about().content;
                if batch.weights != has {
                    let message = format!("the server has the weights {has}, not {}", batch.weights);
                    return Err(RequestRefusal::new(409, message));
                }
                settings::check(&batch, self.engine.weights.tokenizer.vocabulary())?;
                let RolloutBatch { prompts, sampling, key, .. } = batch;
                (RolloutRequest { prompts, sampling, key }, AnswerForm::Rollouts { weights: has, body })
            }
        };
        self.engine.fits(&request.lengths().collect::<Vec<_>>())?;
        Ok((request, form))
    }
}
