//! The scores of frozen models on data, computed once: their last hidden states at the completion tokens.
//! Every divergence, support and signal is computed from these and the LM head. So a stage with another
//! objective, clip or learning rate finds them in the store, and later epochs find those of the first.
//!
//! The last bits of a row of a matrix product may depend on the number of rows. So the sequences that occur
//! for the first time in a batch are always computed together: in that batch, as without a store, and again
//! whenever the store does not have them. The result of a stage does not depend on the contents of its store.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use mopd_plan::results::ScoresFound;
use mopd_plan::{ModelId, Role};
use tch::{Device, Tensor};

use crate::machine::transfer::upload;
use crate::model::ScoringDecoder;
use crate::train::batches::{Batches, FirstEpoch};
use crate::train::models::{ModelRef, ModelScorer, Models};
use crate::train::packing::in_order;
use crate::train::sequences::Sequences;
use crate::train::stage::{Stage, StageSources};
use crate::train::views::ScorerPrompts;

/// The most bytes of a role's scores of one stage. Batches of the first epoch beyond it are computed anew in
/// every epoch.
pub const AT_MOST: u64 = 4 << 30;

/// The cache of scores between stages and runs.
#[derive(Clone, Copy)]
pub struct ScoreCache<'a> {
    /// Whether a model's scores are cached. It depends on the plan alone.
    pub keeps: &'a dyn Fn(ModelId) -> bool,
    /// The most bytes of a role's scores.
    pub at_most: u64,
    /// The concatenated bytes of some ranges; `None` where they have to be computed.
    pub find: &'a dyn Fn(ScoredBatch, &Ranges) -> Option<Vec<u8>>,
    /// Stores bytes that were not found and therefore computed.
    pub keep: &'a dyn Fn(ScoredBatch, &[u8]),
}

/// Ranges of bytes.
pub type Ranges = [Range<u64>];

/// The scores by a model of the sequences that are computed together.
#[derive(Clone, Copy, Debug)]
pub struct ScoredBatch<'a> {
    pub model: ModelId,
    /// A hash of everything that the model reads.
    pub batch: &'a str,
    /// The size of all scores of the batch.
    pub bytes: u64,
}

pub struct CachedScores<'a> {
    cache: ScoreCache<'a>,
    first: FirstEpoch,
    /// By role: the first batch of the first epoch that is not cached.
    ends: Vec<(Role, u32)>,
    /// By range of sources (start, end) and batch of the first epoch.
    batches: RefCell<HashMap<(usize, usize, u32), Rc<CachedBatch>>>,
    found: Cell<ScoresFound>,
}

/// The sequences of some sources that occur for the first time in one batch.
struct CachedBatch {
    hash: String,
    /// The first token of each sequence, then the number of tokens.
    starts: Vec<u64>,
}

/// The model of a role for adjacent sources.
pub struct CachedScorer<'s, 'd, F: Fn() -> ScoringDecoder<'d>> {
    pub stage: &'s Stage<'s>,
    pub models: &'s Models,
    pub batches: &'s Batches,
    pub role: Role,
    pub model_ref: ModelRef,
    pub sources: Range<usize>,
    /// Loads the model.
    pub decoder: F,
}

impl<'a> CachedScores<'a> {
    /// `None` where nothing is cached: completions are new in every step, the data routes within a source, or
    /// the scores of no model that the objective reads are cached. `batches` are at their beginning.
    pub fn new(
        stage: &Stage,
        cache: Option<ScoreCache<'a>>,
        models: &Models,
        batches: &Batches,
        roles: &[Role],
    ) -> Option<CachedScores<'a>> {
        let cache = cache.filter(|_| !stage.sources.routes_by_data())?;
        let width = |role: Role, source: usize| {
            // Not cached: rows that a view fills, which are not the data's own, and models with another
            // tokenizer.
            let scored = models.of_role(role)[source]?;
            let own = |scorer: &ModelScorer| scorer.view.is_none() && !scorer.own_tokens;
            let (model, config) = models.frozen(scored.model().filter(own)?.model_ref)?;
            (cache.keeps)(model).then_some(config.width as u64)
        };
        let kept = |role: &Role| (0..stage.sources.len()).any(|source| width(*role, source).is_some());
        if !roles.iter().any(kept) {
            return None;
        }
        let first = batches.first_epoch(stage)?;
        let of_number = stage.kind.elt_size_in_bytes() as u64;
        let trained = |draw| {
            batches.fixed(draw).iter().map(|sequence| sequence.completion.trained() as u64).sum::<u64>()
        };
        let end = |role: Role| {
            let mut bytes = 0;
            let mut fits = |new: &[_]| {
                let of = |draw| trained(draw) * width(role, draw.source).unwrap_or(0) * of_number;
                bytes += new.iter().copied().map(of).sum::<u64>();
                bytes <= cache.at_most
            };
            (0..first.batches()).take_while(|batch| fits(first.new_in(*batch))).count() as u32
        };
        let ends = roles.iter().map(|role| (*role, end(*role))).collect();
        let (batches, found) = (RefCell::default(), Cell::new(ScoresFound { found: 0, of: 0 }));
        Some(CachedScores { cache, first, ends, batches, found })
    }

    pub fn found(&self) -> ScoresFound {
        self.found.get()
    }

    fn count(&self, found: usize, of: usize) {
        let before = self.found.get();
        self.found.set(ScoresFound { found: before.found + found as u64, of: before.of + of as u64 });
    }

    /// A model's last hidden states at the completion tokens of some sequences, `[tokens, width]`, in their
    /// order; `None` where the model's scores are not cached.
    pub fn hidden<'d, F: Fn() -> ScoringDecoder<'d>>(
        &self,
        scorer: &CachedScorer<'_, 'd, F>,
        sequences: &Sequences,
        members: Range<usize>,
    ) -> Option<Tensor> {
        let (model, config) = scorer.models.frozen(scorer.model_ref)?;
        if !(self.cache.keeps)(model) {
            return None;
        }
        let stage = scorer.stage;
        let (_, end) = self.ends.iter().find(|(role, _)| *role == scorer.role)?;
        let of_draw = sequences.of_group();
        let mut by_batch: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        let mut beyond = Vec::new();
        self.count(0, members.len());
        for member in members {
            let place = self.first.place(sequences.draws[member / of_draw]);
            match place.filter(|(batch, _)| batch < end) {
                Some((batch, draw)) => {
                    let index = (draw - self.first.of_sources(batch, &scorer.sources).start) * of_draw
                        + member % of_draw;
                    by_batch.entry(batch).or_default().push((member, index));
                }
                None => beyond.push(member),
            }
        }
        let mut parts = Vec::new();
        let mut order = Vec::new();
        for (number, wanted) in by_batch {
            let batch = self.batch(scorer, number);
            let row = (config.width * stage.kind.elt_size_in_bytes()) as u64;
            let tokens: Vec<Range<u64>> =
                wanted.iter().map(|(_, index)| batch.starts[*index]..batch.starts[index + 1]).collect();
            let bytes = batch.starts.last().expect("it ends somewhere") * row;
            let scored = ScoredBatch { model, batch: &batch.hash, bytes };
            let ranges: Vec<Range<u64>> =
                tokens.iter().map(|tokens| tokens.start * row..tokens.end * row).collect();
            parts.push(match (self.cache.find)(scored, &ranges) {
                Some(found) => {
                    self.count(wanted.len(), 0);
                    let size = [(found.len() as u64 / row) as i64, config.width as i64];
                    Tensor::from_data_size(&found, &size, stage.kind).to_device(stage.place.device)
                }
                None => {
                    let sequences = self.sequences(scorer, number);
                    let micro_batches = stage.packing().micro_batches(
                        &sequences,
                        0..sequences.list.len(),
                        &ScorerPrompts::Own,
                    );
                    let whole = stage.packing().hidden(
                        (scorer.decoder)(),
                        &sequences,
                        &micro_batches,
                        &ScorerPrompts::Own,
                    );
                    (self.cache.keep)(scored, &to_bytes(&whole));
                    let rows: Vec<i64> = tokens.into_iter().flatten().map(|token| token as i64).collect();
                    // Usually all rows in their order are wanted.
                    let all = rows.len() as i64 == whole.size()[0] && rows.is_sorted();
                    if all { whole } else { whole.index_select(0, &upload(&rows, stage.place.device)) }
                }
            });
            order.extend(wanted.iter().map(|(member, _)| *member));
        }
        if !beyond.is_empty() {
            let micro_batches =
                stage.packing().micro_batches(sequences, beyond.iter().copied(), &ScorerPrompts::Own);
            parts.push(stage.packing().hidden(
                (scorer.decoder)(),
                sequences,
                &micro_batches,
                &ScorerPrompts::Own,
            ));
            order.extend(beyond);
        }
        Some(in_order(&parts, order.into_iter(), sequences, stage.place.device))
    }

    /// The sequences of some sources that occur for the first time in a batch of the first epoch.
    fn sequences<'d, F: Fn() -> ScoringDecoder<'d>>(
        &self,
        scorer: &CachedScorer<'_, 'd, F>,
        number: u32,
    ) -> Sequences {
        let new = &self.first.new_in(number)[self.first.of_sources(number, &scorer.sources)];
        let list = new.iter().flat_map(|draw| scorer.batches.fixed(*draw)).cloned().collect();
        Sequences::new(list, 1, scorer.stage.sources.len())
    }

    fn batch<'d, F: Fn() -> ScoringDecoder<'d>>(
        &self,
        scorer: &CachedScorer<'_, 'd, F>,
        number: u32,
    ) -> Rc<CachedBatch> {
        let place = (scorer.sources.start, scorer.sources.end, number);
        if let Some(known) = self.batches.borrow().get(&place) {
            return known.clone();
        }
        let sequences = self.sequences(scorer, number);
        let micro_batches =
            scorer.stage.packing().micro_batches(&sequences, 0..sequences.list.len(), &ScorerPrompts::Own);
        let starts = (0..sequences.list.len()).map(|index| sequences.tokens(index).start as u64);
        let starts = starts.chain([sequences.layout.tokens() as u64]).collect();
        let batch = Rc::new(CachedBatch {
            hash: read_by_the_model(&scorer.stage.sources, &sequences, &micro_batches),
            starts,
        });
        self.batches.borrow_mut().insert(place, batch.clone());
        batch
    }
}

/// A hash of the tokens that go through a model, with their boundaries, which of them are scored, and the
/// division into micro-batches.
fn read_by_the_model(sources: &StageSources, sequences: &Sequences, micro_batches: &[Vec<usize>]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut number = |number: usize| {
        hasher.update(&(number as u64).to_le_bytes());
    };
    number(micro_batches.len());
    for members in micro_batches {
        number(members.len());
        for member in members {
            let sequence = &sequences.list[*member];
            // The rows of the result are in the order of the sequences.
            number(*member);
            for tokens in [sequence.prompt(sources), &*sequence.completion] {
                number(tokens.len());
                tokens.iter().for_each(|token| number(*token as usize));
            }
            match sequence.completion.mask() {
                None => number(0),
                Some(written) => {
                    number(1);
                    written.iter().for_each(|written| number(usize::from(*written)));
                }
            }
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}
