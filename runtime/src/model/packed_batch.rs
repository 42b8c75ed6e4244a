//! Packed sequences, as the layers read them, with the indices that padded attention needs.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::machine::transfer::upload;
use crate::tokenizer::Token;

/// Concatenated sequences without padding. Only attention may read them as rows, padded on the right: a
/// causal query never attends to that padding, so no mask is needed.
pub struct PackedBatch {
    /// `[sequences, longest]`
    pub(super) shape: [i64; 2],
    /// `[tokens]`
    pub(super) tokens: Tensor,
    /// `[tokens]`: position within the sequence.
    pub(super) positions: Tensor,
    /// `[sequences * longest]`: the packed token of each padded place; padding repeats the sequence's first
    /// token.
    pub(super) unpack: Tensor,
    /// `[tokens]`: the padded place of each packed token.
    pub(super) pack: Tensor,
    /// The packed tokens of each sequence.
    pub(super) sequences: Vec<Range<usize>>,
    /// `[completion tokens]`: the packed token that predicts each.
    pub(super) predictors: Tensor,
    /// `[completion tokens]`: their padded places.
    pub(super) predictors_padded: Tensor,
    /// `[completion tokens]`: the predicted tokens.
    pub targets: Tensor,
}

impl PackedBatch {
    /// Packs sequences of a prompt and a completion, with at least one token each. The last token is
    /// predicted, never read.
    pub fn new<'a>(
        sequences: impl Iterator<Item = (&'a [Token], &'a [Token])> + Clone,
        device: Device,
    ) -> PackedBatch {
        PackedBatch::masked(sequences.map(|(prompt, completion)| (prompt, completion, None)), device)
    }

    /// The same with optional masks: completion tokens whose mask is false are only read, not predicted.
    pub fn masked<'a>(
        sequences: impl Iterator<Item = (&'a [Token], &'a [Token], Option<&'a [bool]>)> + Clone,
        device: Device,
    ) -> PackedBatch {
        let longest = sequences
            .clone()
            .map(|(prompt, completion, _)| prompt.len() + completion.len() - 1)
            .max()
            .unwrap_or(1);
        let [mut tokens, mut positions, mut unpack, mut pack] = [const { Vec::new() }; 4];
        let [mut predictors, mut predictors_padded, mut targets] = [const { Vec::<i64>::new() }; 3];
        let (mut count, mut ranges) = (0, Vec::new());
        for (prompt, completion, mask) in sequences {
            let (start, padded_start) = (tokens.len() as i64, (count * longest) as i64);
            ranges.push(tokens.len()..tokens.len() + prompt.len() + completion.len() - 1);
            let length = (prompt.len() + completion.len() - 1) as i64;
            tokens.extend(prompt.iter().chain(&completion[..completion.len() - 1]).copied());
            positions.extend(0..length);
            pack.extend((0..length).map(|place| padded_start + place));
            unpack.extend((0..longest as i64).map(|place| start + if place < length { place } else { 0 }));
            let first = prompt.len() as i64 - 1;
            assert!(
                mask.is_none_or(|mask| mask.len() == completion.len()),
                "a mask says something of every token"
            );
            let predicted = (0..completion.len()).filter(|place| mask.is_none_or(|mask| mask[*place]));
            for place in predicted {
                predictors.push(start + first + place as i64);
                predictors_padded.push(padded_start + first + place as i64);
                targets.push(completion[place]);
            }
            count += 1;
        }
        let tensor = |values: &[i64]| upload(values, device);
        PackedBatch {
            shape: [count as i64, longest as i64],
            tokens: tensor(&tokens),
            positions: tensor(&positions),
            unpack: tensor(&unpack),
            pack: tensor(&pack),
            sequences: ranges,
            predictors: tensor(&predictors),
            predictors_padded: tensor(&predictors_padded),
            targets: tensor(&targets),
        }
    }

    /// The number of tokens that are read.
    pub(super) fn token_count(&self) -> i64 {
        self.tokens.size()[0]
    }

    /// The number of tokens of each sequence that are read: i64, `[sequences]`.
    pub(super) fn lengths(&self, device: Device) -> Tensor {
        upload(&self.sequences.iter().map(|sequence| sequence.len() as i64).collect::<Vec<i64>>(), device)
    }

    /// The first token of each sequence, then the number of tokens: i32, `[sequences + 1]`.
    pub(super) fn bounds(&self, device: Device) -> Tensor {
        let ends = self.sequences.iter().map(|sequence| sequence.end as i32);
        upload(&std::iter::once(0).chain(ends).collect::<Vec<i32>>(), device)
    }

    pub(super) fn shallow_clone(&self) -> PackedBatch {
        PackedBatch {
            shape: self.shape,
            tokens: self.tokens.shallow_clone(),
            positions: self.positions.shallow_clone(),
            unpack: self.unpack.shallow_clone(),
            pack: self.pack.shallow_clone(),
            sequences: self.sequences.clone(),
            predictors: self.predictors.shallow_clone(),
            predictors_padded: self.predictors_padded.shallow_clone(),
            targets: self.targets.shallow_clone(),
        }
    }
}
