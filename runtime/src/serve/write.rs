//! Completions, batched over several requests.

use std::collections::BTreeMap;

use mopd_plan::Sampling;
use mopd_store::random_bytes;

use super::engine::{Generated, ServingEngine};
use super::http::Shared;
use super::transport::{ReplySender, RequestRefusal};
use super::{ServedModelInfo, settings};
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
        reply: ReplySender<Generated>,
    },
    /// Rollouts of the student, for a run that has sent its weights: the same completions that the run would
    /// sample itself, with its random numbers.
    Rollouts { batch: RolloutBatch, body: Vec<u8>, reply: ReplySender<Vec<u8>> },
}

/// Who waits for completions, and in which form. A client that is gone needs no reply.
enum WaitingClient {
    Completions(ReplySender<Generated>),
    Rollouts { body: Vec<u8>, reply: ReplySender<Vec<u8>> },
}

impl WaitingClient {
    fn is_gone(&self) -> bool {
        match self {
            WaitingClient::Completions(reply) => reply.is_closed(),
            WaitingClient::Rollouts { reply, .. } => reply.is_closed(),
        }
    }

    fn refuse(self, refused: RequestRefusal) {
        match self {
            WaitingClient::Completions(reply) => _ = reply.send(Err(refused)),
            WaitingClient::Rollouts { reply, .. } => _ = reply.send(Err(refused)),
        }
    }

    /// `about` is read on the thread that replaces weights, so that it is of those that wrote these.
    fn answer(self, completions: Vec<Completion>, about: ServedModelInfo) {
        match self {
            WaitingClient::Completions(reply) => {
                let _ = reply.send(Ok(Generated { version: about.version, completions }));
            }
            WaitingClient::Rollouts { body, reply } => {
                let _ = reply.send(Ok(SentRollouts::new(completions, about.content, &body).bytes()));
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
    waiting: BTreeMap<RequestId, WaitingClient>,
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
    pub fn add(&mut self, asked: WriteRequest, control: &Control) {
        let (request, client) = self.understood(asked);
        let request = match request.and_then(|request| self.fitting(request)) {
            Ok(request) => request,
            Err(refused) => return client.refuse(refused),
        };
        let decoder = &self.engine.decoder;
        let budget = || DeviceMemoryBudget::detect(1, decoder.place).generation(true);
        if self.batch.is_none() {
            self.batch = ContinuousBatch::new(decoder, 1, budget());
        }
        if let Some(batch) = &mut self.batch {
            self.waiting.insert(batch.add(request), client);
            return;
        }
        let RolloutRequest { prompts, sampling, key } = &request;
        let prompts: Vec<_> = prompts.iter().map(OwnedPrompt::borrowed).collect();
        let written = rollout(decoder, &prompts, sampling, *key, budget(), control);
        self.answer(client, written);
    }

    /// Writes one more token of every completion. Cancels requests whose client is gone.
    pub fn advance(&mut self) {
        let Some(batch) = &mut self.batch else { return };
        let gone = self.waiting.extract_if(.., |_, client| client.is_gone());
        gone.for_each(|(id, _)| batch.cancel(id));
        match caught(|| batch.advance()) {
            Ok(finished) => {
                for (id, written) in finished {
                    let client = self.waiting.remove(&id).expect("it was asked for");
                    self.answer(client, written);
                }
            }
            Err(error) => {
                let message = error.to_string();
                for client in std::mem::take(&mut self.waiting).into_values() {
                    client.refuse(RequestRefusal::internal(message.clone()));
                }
            }
        }
        if self.is_idle() {
            self.batch = None;
        }
    }

    fn answer(&self, client: WaitingClient, written: Result<Vec<Completion>, Error>) {
        let written = match written {
            Ok(written) => written,
            Err(error) => return client.refuse(RequestRefusal::internal(error.to_string())),
        };
        let tokens: usize = written.iter().map(|of| of.tokens.len()).sum();
        self.shared.metrics.tokens.with_label_values(&["written"]).inc_by(tokens as u64);
        client.answer(written, self.shared.about());
    }

    /// What a request asks for, checked as far as it is for these weights, and who waits for it.
    fn understood(&self, asked: WriteRequest) -> (Result<RolloutRequest, RequestRefusal>, WaitingClient) {
        match asked {
            WriteRequest::Completions { prompts, sampling, seed, reply } => {
                let seed = seed.unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
                let key = Key::new(seed, stream_of("serve"), Purpose::Sample, 0);
                let prompt = |(tokens, id)| OwnedPrompt { tokens, id, sample: 0, limit: None };
                let prompts = prompts.into_iter().zip(0..).map(prompt).collect();
                (Ok(RolloutRequest { prompts, sampling, key }), WaitingClient::Completions(reply))
            }
            WriteRequest::Rollouts { batch, body, reply } => {
                (self.of_batch(batch), WaitingClient::Rollouts { body, reply })
            }
        }
    }

    fn of_batch(&self, batch: RolloutBatch) -> Result<RolloutRequest, RequestRefusal> {
        let has = self.shared.about().content;
        if batch.weights != has {
            let message = format!("the server has the weights {has}, not {}", batch.weights);
            return Err(RequestRefusal::new(409, message));
        }
        settings::check(&batch, self.engine.weights.tokenizer.vocabulary())?;
        let RolloutBatch { prompts, sampling, key, .. } = batch;
        Ok(RolloutRequest { prompts, sampling, key })
    }

    /// Checks the size of a request before the model reads any of it.
    fn fitting(&self, request: RolloutRequest) -> Result<RolloutRequest, RequestRefusal> {
        self.engine.fits(&request.lengths().collect::<Vec<_>>())?;
        Ok(request)
    }
}
