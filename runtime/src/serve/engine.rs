//! The thread that holds the model: its requests and its replies.

use tch::{Kind, Tensor, no_grad_guard};

use super::http::Shared;
use super::transport::{ReplySender, RequestRefusal};
use super::update::WeightsUpdate;
use super::write::WriteRequest;
use crate::failure;
use crate::machine::place::Place;
use crate::machine::transfer::{to_vec, upload};
use crate::model::{ABSENT, Decoder, PackedBatch, Weights, logits};
use crate::remote::own;
use crate::rollout::Completion;
use crate::tokenizer::Token;
use crate::train::vocabulary::largest;

/// Most elements of logits computed at a time.
const AT_ONCE: i64 = 1 << 23;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most tokens of a request, over all its sequences.
    pub tokens: usize,
    /// Most entries for a token, beside its own; unlimited if absent.
    pub entries: Option<u32>,
    pub context: usize,
}

/// A request to the model's thread, with the channel for its reply.
pub enum EngineRequest {
    Read(ReadRequest),
    Write(WriteRequest),
    Update(WeightsUpdate, ReplySender<()>),
}

/// A request that needs at most one forward pass.
pub enum ReadRequest {
    LmHead(ReplySender<Vec<u8>>),
    Hidden { batch: own::SentBatch, body: Vec<u8>, reply: ReplySender<Vec<u8>> },
    Score(ScoreRequest, ReplySender<ScoredRequest>),
}

impl EngineRequest {
    /// Whether the client is gone.
    pub fn is_abandoned(&self) -> bool {
        match self {
            EngineRequest::Read(ReadRequest::LmHead(reply) | ReadRequest::Hidden { reply, .. })
            | EngineRequest::Write(WriteRequest::Rollouts { reply, .. }) => reply.is_closed(),
            EngineRequest::Read(ReadRequest::Score(_, reply)) => reply.is_closed(),
            EngineRequest::Write(WriteRequest::Completions { reply, .. }) => reply.is_closed(),
            EngineRequest::Update(_, reply) => reply.is_closed(),
        }
    }
}

/// Turns a panic, such as one of a tensor operation, into a refusal of this request.
fn caught<T>(answer: impl FnOnce() -> Result<T, RequestRefusal>) -> Result<T, RequestRefusal> {
    failure::caught(answer).unwrap_or_else(|error| Err(RequestRefusal::internal(error.to_string())))
}

/// Asks for the scores of the tokens after the first `start + 1` of each sequence.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    pub sequences: Vec<Vec<Token>>,
    pub start: usize,
    /// How many of the most probable entries, beside the token's own; all if absent.
    pub top: Option<u32>,
    /// Entries to return for every token, by id.
    pub chosen: Vec<Token>,
}

/// The scores of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    pub token: Token,
    pub logp: f32,
    /// 1 for the most probable.
    pub rank: u32,
    /// The most probable first.
    pub top: Vec<(Token, f32)>,
    pub chosen: Vec<f32>,
}

/// The scores of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub positions: Vec<TokenScores>,
    /// The most probable next token after the sequence.
    pub next: Token,
}

/// The scores of a request.
pub struct ScoredRequest {
    /// The version name of the weights that scored it.
    pub version: String,
    pub sequences: Vec<Scored>,
}

/// Completions of the model.
pub struct Generated {
    /// The version name of the weights that wrote them.
    pub version: String,
    pub completions: Vec<Completion>,
}

pub struct ServingEngine {
    pub(super) weights: Weights,
    pub(super) decoder: Decoder,
    place: Place,
    kind: Kind,
    limits: Limits,
}

impl ServingEngine {
    pub fn new(weights: Weights, place: Place, kind: Kind, limits: Limits) -> ServingEngine {
        let decoder = Decoder::frozen(&weights, place, kind);
        ServingEngine { weights, decoder, place, kind, limits }
    }

    /// Answers a request. A client that is gone needs no reply.
    pub fn read(&self, asked: ReadRequest, shared: &Shared) {
        let _guard = no_grad_guard();
        let count =
            |tokens: usize| shared.metrics.tokens.with_label_values(&["scored"]).inc_by(tokens as u64);
        match asked {
            ReadRequest::LmHead(reply) => {
                let _ = reply.send(caught(|| {
                    let lm_head = own::SentTensor::from_tensor(&self.lm_head());
                    Ok(lm_head.write("lm_head", &shared.about().content, &[]))
                }));
            }
            ReadRequest::Hidden { batch, body, reply } => {
                let _ = reply.send(caught(|| {
                    let hidden = self.hidden(&batch)?;
                    count(hidden.size()[0] as usize);
                    let hidden = own::SentTensor::from_tensor(&hidden);
                    Ok(hidden.write("hidden", &shared.about().content, &body))
                }));
            }
            ReadRequest::Score(score, reply) => {
                // Read on the thread that replaces weights, so that it is of those that score.
                let version = shared.about().version;
                let _ = reply.send(caught(|| {
                    let sequences = self.score(&score)?;
                    count(sequences.iter().map(|of| of.positions.len()).sum());
                    Ok(ScoredRequest { version, sequences })
                }));
            }
        }
    }

    /// The engine with the weights of an update, or as it was if that can't be used. The client that waits
    /// for the reply may be gone.
    pub fn updated(self, update: &WeightsUpdate, reply: ReplySender<()>, shared: &Shared) -> ServingEngine {
        if update.is_name() {
            update.rename(shared);
            let _ = reply.send(Ok(()));
            return self;
        }
        let loaded = match caught(|| update.load(&self.weights)) {
            Ok(loaded) => loaded,
            Err(refused) => {
                let _ = reply.send(Err(refused));
                return self;
            }
        };
        let _guard = no_grad_guard();
        let ServingEngine { weights, decoder, place, kind, limits } = self;
        // The old model is freed before the new one is made, so that memory holds one at a time.
        drop(decoder);
        match caught(|| Ok(ServingEngine::new(loaded.weights, place, kind, limits))) {
            Ok(engine) => {
                update.note(loaded.content, shared);
                let _ = reply.send(Ok(()));
                engine
            }
            Err(refused) => {
                // First, since there may be no memory for the old model either.
                let _ = reply.send(Err(refused));
                ServingEngine::new(weights, place, kind, limits)
            }
        }
    }

    /// `[vocabulary, width]`: the rows of the LM head that belong to tokens, without padding.
    fn lm_head(&self) -> Tensor {
        self.decoder.lm_head().detach().narrow(0, 0, self.weights.tokenizer.vocabulary() as i64)
    }

    pub(super) fn fits(&self, lengths: &[usize]) -> Result<(), RequestRefusal> {
        let Limits { tokens, context, .. } = self.limits;
        if lengths.is_empty() {
            return Err(RequestRefusal::bad("no sequence"));
        }
        if let Some(longest) = lengths.iter().max().filter(|longest| **longest > context) {
            return Err(RequestRefusal::bad(format!(
                "a sequence has {longest} tokens, more than the context of {context}"
            )));
        }
        let all: usize = lengths.iter().sum();
        if all > tokens {
            return Err(RequestRefusal::new(
                413,
                format!("the request has {all} tokens; at most {tokens} are supported"),
            ));
        }
        Ok(())
    }

    /// Last hidden states at the scored tokens, computed as a run does with a local model: all sequences in
    /// one batch.
    fn hidden(&self, batch: &own::SentBatch) -> Result<Tensor, RequestRefusal> {
        let entries = self.weights.tokenizer.vocabulary() as Token;
        let lengths: Vec<usize> =
            batch.sequences.iter().map(|of| of.prompt.len() + of.completion.len()).collect();
        self.fits(&lengths)?;
        for own::SentSequence { prompt, completion, scored } in &batch.sequences {
            if prompt.is_empty() || completion.is_empty() {
                return Err(RequestRefusal::bad(
                    "each sequence needs a prompt and a completion of at least one token",
                ));
            }
            if let Some(scored) = scored.as_ref().filter(|scored| scored.len() != completion.len()) {
                return Err(RequestRefusal::bad(format!(
                    "`scored` must have one entry per completion token: got {} for {}",
                    scored.len(),
                    completion.len()
                )));
            }
            if let Some(id) = prompt.iter().chain(completion).find(|id| !(0..entries).contains(*id)) {
                return Err(RequestRefusal::bad(format!(
                    "{id} is not a token id: ids go from 0 to {}",
                    entries - 1
                )));
            }
        }
        let sequences = batch
            .sequences
            .iter()
            .map(|of| (of.prompt.as_slice(), of.completion.as_slice(), of.scored.as_deref()));
        Ok(self.decoder.hidden(&PackedBatch::masked(sequences, self.place.device)))
    }

    fn score(&self, score: &ScoreRequest) -> Result<Vec<Scored>, RequestRefusal> {
        let ScoreRequest { sequences, start, top, chosen } = score;
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        self.fits(&lengths)?;
        if let Some(shortest) = lengths.iter().min().filter(|length| *length <= start) {
            return Err(RequestRefusal::bad(format!(
                "log-probabilities are to start at token {start}, but the text has only {shortest} tokens"
            )));
        }
        let vocabulary = self.weights.tokenizer.vocabulary() as i64;
        let asked = top.map_or(vocabulary, i64::from);
        if self.limits.entries.is_some_and(|most| asked > i64::from(most)) {
            let most = self.limits.entries.unwrap_or_default();
            return Err(RequestRefusal::bad(format!(
                "at most {most} entries per token can be requested (`--max-logprobs`)"
            )));
        }
        // One token is appended, which is predicted but never read, to get the distribution after the last.
        let padding = self.weights.tokenizer.padding();
        let longer: Vec<Vec<Token>> =
            sequences.iter().map(|ids| ids.iter().copied().chain([padding]).collect()).collect();
        let packed = longer.iter().map(|ids| ids.split_at(start + 1));
        let batch = PackedBatch::new(packed, self.place.device);
        let hidden = self.decoder.hidden(&batch);
        let targets: Vec<Token> = longer.iter().flat_map(|ids| ids[start + 1..].iter().copied()).collect();
        let positions = self.positions(&hidden, &targets, asked, chosen);
        let mut positions = positions.into_iter();
        let mut scored = Vec::with_capacity(sequences.len());
        for ids in sequences {
            let own: Vec<TokenScores> = positions.by_ref().take(ids.len() - start - 1).collect();
            let last = positions.next().expect("a position behind the last token");
            let next = last.top.first().map_or(last.token, |(token, _)| *token);
            scored.push(Scored { positions: own, next });
        }
        Ok(scored)
    }

    fn positions(&self, hidden: &Tensor, targets: &[Token], top: i64, chosen: &[Token]) -> Vec<TokenScores> {
        let tokenizer = &self.weights.tokenizer;
        let (lm_head, softcap) = (self.lm_head(), self.weights.config.logit_softcap);
        let on_device = |ids: &[Token]| upload(ids, self.place.device);
        let absent = (!tokenizer.absent().is_empty()).then(|| on_device(tokenizer.absent()));
        let vocabulary = lm_head.size()[0];
        // At least one: the most probable token after the last is always returned.
        let top = top.clamp(1, vocabulary);
        let rows = (AT_ONCE / vocabulary).max(1);
        let mut positions = Vec::with_capacity(targets.len());
        for (chunk, targets) in targets.chunks(rows as usize).enumerate() {
            let count = targets.len() as i64;
            let of_chunk = hidden.narrow(0, chunk as i64 * rows, count);
            let mut made = logits(self.place, &of_chunk, &lm_head, softcap).to_kind(Kind::Float);
            if let Some(absent) = &absent {
                let _ = made.index_fill_(1, absent, f64::from(ABSENT));
            }
            let logps = made.log_softmax(-1, Kind::Float);
            let own = logps.gather(1, &on_device(targets).unsqueeze(1), false);
            let ranks = logps.gt_tensor(&own).sum_dim_intlist([-1].as_slice(), false, Kind::Float) + 1.0;
            let indices = largest(&logps, top);
            let listed = to_vec(&logps.gather(1, &indices, false));
            let indices: Vec<i64> = Vec::try_from(indices.contiguous().view([-1])).expect("ids in rows");
            let of_chosen = match chosen {
                [] => Vec::new(),
                ids => to_vec(&logps.index_select(1, &on_device(ids))),
            };
            let (own, ranks, k) = (to_vec(&own), to_vec(&ranks), top as usize);
            for (row, token) in targets.iter().enumerate() {
                let of_row = row * k..(row + 1) * k;
                positions.push(TokenScores {
                    token: *token,
                    logp: own[row],
                    rank: ranks[row] as u32,
                    top: indices[of_row.clone()]
                        .iter()
                        .copied()
                        .zip(listed[of_row].iter().copied())
                        .collect(),
                    chosen: of_chosen[row * chosen.len()..(row + 1) * chosen.len()].to_vec(),
                });
            }
        }
        positions
    }
}
