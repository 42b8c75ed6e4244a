//! `agreement(teacher, samples: 10, by: edit)`: how similar a block of the student's completion is to what a
//! model writes in its place (arXiv:2606.01476). The model reads the text before the block and samples as
//! many tokens as the block has, fewer where it ends the text. The similarity of the two texts is 1 minus
//! their edit distance over the length of the longer one. Units are characters, and bytes that belong to no
//! character. Two empty texts are equal.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use mopd_expr::batch::{Batch, TokenPartition};
use mopd_plan::events::FailureKind;
use mopd_plan::{Agreement, Axis, Objective, Sampling, Signal};
use tch::no_grad_guard;

use super::models::ScorerRef;
use super::objective::ObjectiveProgram;
use super::rollouts::Rollouts;
use super::scoring::{Scoring, ScoringRun, missing_scorer, runs};
use super::sequences::Sequences;
use super::views::ScorerPrompts;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::random::Purpose;
use crate::rollout::{Completion, Prompt, rollout};
use crate::tokenizer::{Token, TokenBytes, Tokenizer};
use crate::zip::zip_equal;

/// Adds the blocks of a batch, where the objective reads numbers per block, and the agreements about them.
pub fn add_blocks(
    scoring: &Scoring,
    program: &ObjectiveProgram,
    agreements: Option<&Agreements>,
    rollouts: &Rollouts,
    step: u32,
    batch: &mut Batch,
) -> Result<()> {
    let objective = &scoring.stage.train.objective;
    let Some(chosen) = objective.chosen else { return Ok(()) };
    // The program itself determines which tokens form a block, so its terms apply to the same tokens.
    fill_placeholders(objective, batch);
    let outputs = program.run(batch)?;
    let chosen = outputs.get(chosen);
    batch.layout.blocks = Some(TokenPartition::of_chosen(&batch.layout, chosen));
    match agreements {
        Some(agreements) => agreements.add(scoring, &rollouts.sequences, chosen, step, batch),
        None => Ok(()),
    }
}

/// Sets placeholders (0) before blocks are known. The choice of the blocks does not read them.
fn fill_placeholders(objective: &Objective, batch: &mut Batch) {
    let blocks = batch.layout.len(Axis::Block);
    set(batch, objective.agreements().iter().map(|agreement| (agreement.signal(), vec![0.0; blocks])));
}

fn set(batch: &mut Batch, signals: impl Iterator<Item = (Signal, Vec<f32>)>) {
    for (signal, values) in signals {
        batch.signals.retain(|(known, _)| *known != signal);
        batch.signals.push((signal, values));
    }
}

/// The agreements that a part's objective reads.
pub struct Agreements {
    asked: Vec<Agreement>,
    tokenizer: Arc<Tokenizer>,
    bytes: TokenBytes,
}

/// A block of a completion.
struct Block {
    /// The index of its sequence among those of the step.
    member: usize,
    /// Its range among the tokens of the completion.
    tokens: Range<usize>,
    /// Its index among the runs of the batch.
    run: usize,
}

impl Agreements {
    /// `None` where no agreement is read.
    ///
    /// # Errors
    /// If the tokens of the student's tokenizer are not pieces of text.
    pub fn new(objective: &Objective, tokenizer: &Arc<Tokenizer>) -> Result<Option<Agreements>> {
        let asked = objective.agreements();
        if asked.is_empty() {
            return Ok(None);
        }
        let bytes = TokenBytes::new(tokenizer)?;
        Ok(Some(Agreements { asked, tokenizer: tokenizer.clone(), bytes }))
    }

    /// Adds the agreements of a batch whose blocks are known; `chosen` marks the tokens in blocks.
    fn add(
        &self,
        scoring: &Scoring,
        sequences: &Sequences,
        chosen: &[f32],
        step: u32,
        batch: &mut Batch,
    ) -> Result<()> {
        let _guard = no_grad_guard();
        let runs = batch.layout.blocks.as_ref().expect("the batch is divided into blocks");
        let blocks = blocks(sequences, runs, chosen);
        let count = runs.parent.len();
        let mut signals = Vec::new();
        for (place, agreement) in self.asked.iter().enumerate() {
            let mut values = vec![0.0; count];
            self.fill(&mut values, scoring, sequences, &blocks, place, step)?;
            signals.push((agreement.signal(), values));
        }
        scoring.models.release();
        set(batch, signals.into_iter());
        Ok(())
    }

    /// Sets the values of the agreement at `place`, `[runs]`; a run that is no block keeps 0.
    fn fill(
        &self,
        values: &mut [f32],
        scoring: &Scoring,
        sequences: &Sequences,
        blocks: &[Block],
        place: usize,
        step: u32,
    ) -> Result<()> {
        let (Scoring { stage, models, .. }, agreement) = (*scoring, &self.asked[place]);
        // A prompt may occur several times in a step: this numbers its completions.
        let mut samples: HashMap<(usize, usize), u32> = HashMap::new();
        let sample = sequences.list.iter().map(|sequence| {
            let next = samples.entry((sequence.source, sequence.record)).or_default();
            *next += 1;
            *next - 1
        });
        let sample: Vec<u32> = sample.collect();
        for ScoringRun { scored, members, .. } in runs(scoring, agreement.role, sequences)? {
            stage.control.check()?;
            let own = blocks.partition_point(|block| block.member < members.start)
                ..blocks.partition_point(|block| block.member < members.end);
            let own = &blocks[own];
            if own.is_empty() {
                continue;
            }
            let Some(scorer) = scored.and_then(ScorerRef::model) else {
                let source = &stage.sources[sequences.list[members.start].source];
                return Err(missing_scorer(scoring, agreement.role, source));
            };
            let decoder = models.decoder(scorer.model_ref);
            let decoder = decoder.as_deref().unwrap_or(scoring.model);
            let context = decoder.config.context;
            let (sees, now) = (models.view(scorer), scoring.now(step));
            let shown = ScorerPrompts::new(stage.texts(), sees, context, sequences, members, now)?;
            let before = own.iter().map(|Block { member, tokens, .. }| {
                let sequence = &sequences.list[*member];
                [shown.prompt(&stage.sources, sequence, *member), &sequence.completion[..tokens.start]]
                    .concat()
            });
            let before: Vec<Vec<Token>> = before.collect();
            let prompts = zip_equal(own, &before).map(|(Block { member, tokens, .. }, before)| {
                if before.len() + tokens.len() > context {
                    return Err(no_room(before.len(), tokens.len(), context));
                }
                let sequence = &sequences.list[*member];
                let draw = Draw { source: sequence.source, record: sequence.record };
                // Random numbers differ by sample, position of the block and completion of the prompt.
                let first = sample[*member].wrapping_mul(context as u32).wrapping_add(tokens.start as u32);
                Ok(Prompt {
                    tokens: before,
                    id: stage.sources.number(draw),
                    sample: first.wrapping_mul(agreement.samples),
                    limit: Some(tokens.len() as u32),
                })
            });
            let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
            let longest = own.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
            let sampling = Sampling::new(agreement.samples, 1.0, longest as u32);
            let key = stage.key(Purpose::Agreement, u64::from(step)).turn(place as u32);
            let written = rollout(decoder, &prompts, &sampling, key, stage.budget, stage.control)?;
            let of_blocks = written.chunks(agreement.samples as usize);
            for (Block { member, tokens, run }, written) in zip_equal(own, of_blocks) {
                let own = self.text(&sequences.list[*member].completion[tokens.clone()]);
                let each = |Completion { tokens, .. }: &Completion| similarity(&own, &self.text(tokens));
                values[*run] = written.iter().map(each).sum::<f64>() as f32;
            }
        }
        Ok(())
    }

    /// The characters of a text, up to a token that ends it; a byte that belongs to no character is a unit
    /// of its own.
    fn text(&self, tokens: &[Token]) -> Vec<u32> {
        let before_end = tokens.iter().take_while(|token| !self.tokenizer.is_end(**token));
        let bytes: Vec<u8> =
            before_end.filter_map(|token| self.bytes.get(*token)).flatten().copied().collect();
        let mut units = Vec::new();
        for chunk in bytes.utf8_chunks() {
            units.extend(chunk.valid().chars().map(u32::from));
            units.extend(chunk.invalid().iter().map(|byte| u32::from(char::MAX) + 1 + u32::from(*byte)));
        }
        units
    }
}

/// The blocks of a batch, in its order.
fn blocks(sequences: &Sequences, runs: &TokenPartition, chosen: &[f32]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (member, sequence) in sequences.list.iter().enumerate() {
        let indices: Vec<usize> = sequence.completion.trained_indices().collect();
        for (token, place) in zip_equal(sequences.tokens(member), indices) {
            if chosen[token] == 0.0 {
                continue;
            }
            let run = runs.of_token[token] as usize;
            match blocks.last_mut() {
                Some(block) if block.run == run => {
                    assert_eq!(block.tokens.end, place, "a block is inside of a turn");
                    block.tokens.end += 1;
                }
                _ => blocks.push(Block { member, tokens: place..place + 1, run }),
            }
        }
    }
    blocks
}

/// 1 minus the Levenshtein distance (insertions, deletions, substitutions) over the longer length.
fn similarity(one: &[u32], other: &[u32]) -> f64 {
    let longer = one.len().max(other.len());
    if longer == 0 {
        return 1.0;
    }
    // The distances from the part of `one` read so far to each prefix of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (read, unit) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], read + 1);
        for (place, of_other) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(unit != of_other);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(row[place] + 1).min(diagonal + 1);
        }
    }
    1.0 - row[other.len()] as f64 / longer as f64
}

fn no_room(before: usize, block: usize, context: usize) -> Error {
    let message = format!(
        "a teacher reads {before} tokens before a block of {block}: more than its context of {context}"
    );
    Error::new(FailureKind::Context, message)
        .help("give it a longer context, or lower `max_tokens` of the completions")
}

/// The mean similarity of the continuations to the blocks among the tokens in `range`; `None` without
/// agreements or blocks.
pub fn mean(objective: &Objective, batch: &Batch, chosen: &[f32], range: Range<usize>) -> Option<f64> {
    let of_token = &batch.layout.blocks.as_ref()?.of_token[range.clone()];
    let mut blocks: Vec<u32> = zip_equal(of_token, &chosen[range])
        .filter(|(_, chosen)| **chosen != 0.0)
        .map(|(run, _)| *run)
        .collect();
    blocks.dedup();
    let mut shares: Vec<f64> = Vec::new();
    for agreement in objective.agreements() {
        let values = batch.signal(&agreement.signal())?;
        shares
            .extend(blocks.iter().map(|run| f64::from(values[*run as usize]) / f64::from(agreement.samples)));
    }
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_by_what_must_be_changed() {
        let units = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
        for (one, other, expected) in [
            ("", "", 1.0),
            ("a", "", 0.0),
            ("abc", "abc", 1.0),
            ("kitten", "sitting", 4.0 / 7.0),
            ("flaw", "lawn", 0.5),
            ("ab", "ba", 0.0),
            ("äb", "ab", 0.5),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let got = similarity(&units(one), &units(other));
                assert!((got - expected).abs() < 1e-12, "{one} {other}: {got}");
            }
        }
    }

    #[test]
    fn bytes_of_no_character_are_units() {
        let tokenizer = Arc::new(Tokenizer::Bytes);
        let bytes = TokenBytes::new(&tokenizer).unwrap();
        let agreements = Agreements { asked: Vec::new(), tokenizer, bytes };
        let end = Tokenizer::Bytes.ends()[0];
        let text = |bytes: &[u8], last: Token| {
            let tokens: Vec<Token> = bytes.iter().map(|byte| Token::from(*byte)).chain([last]).collect();
            agreements.text(&tokens)
        };
        assert_eq!(text("ä".as_bytes(), end), [0xe4]);
        // The second byte of one character, and that of another.
        assert_ne!(text(&[0xa4], end), text(&[0xb6], end));
        assert_eq!(text(b"ab", end), text(b"a", Token::from(b'b')));
        assert!(text(b"", end).is_empty());
    }
}
