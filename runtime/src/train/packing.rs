//! Sequences packed for forward passes of a model, with the prompts that it reads; and its last hidden
//! states.

use tch::{Device, Tensor};

use super::sequences::Sequences;
use super::stage::Packing;
use super::views::ScorerPrompts;
use crate::machine::transfer::upload;
use crate::model::{PackedBatch, ScoringDecoder};
use crate::zip::zip_equal;

impl Packing<'_> {
    /// The completions of some sequences after the prompts in `shown`, packed for one forward pass.
    pub fn packed(self, sequences: &Sequences, members: &[usize], shown: &ScorerPrompts) -> PackedBatch {
        let masks: Vec<Option<Vec<bool>>> =
            members.iter().map(|member| sequences.list[*member].completion.mask()).collect();
        let members = zip_equal(members, &masks).map(|(member, mask)| {
            let sequence = &sequences.list[*member];
            let prompt = shown.prompt(self.sources, sequence, *member);
            (prompt, &*sequence.completion, mask.as_deref())
        });
        PackedBatch::masked(members, self.place.device)
    }

    /// Some sequences divided into micro-batches, by length, so that there is little padding. One
    /// micro-batch in their order, where they fit or there is no bound.
    pub fn micro_batches(
        self,
        sequences: &Sequences,
        members: impl IntoIterator<Item = usize>,
        shown: &ScorerPrompts,
    ) -> Vec<Vec<usize>> {
        let mut members: Vec<usize> = members.into_iter().collect();
        let Some(size) =
            self.micro_batch.map(|size| size.max(1) as usize).filter(|size| *size < members.len())
        else {
            return if members.is_empty() { Vec::new() } else { vec![members] };
        };
        members.sort_by_key(|member| {
            let sequence = &sequences.list[*member];
            shown.prompt(self.sources, sequence, *member).len() + sequence.completion.len()
        });
        members.chunks(size).map(<[usize]>::to_vec).collect()
    }

    /// A model's last hidden states at the completion tokens of some sequences, `[tokens, width]`, in the
    /// sequences' order.
    pub fn hidden(
        self,
        decoder: ScoringDecoder,
        sequences: &Sequences,
        micro_batches: &[Vec<usize>],
        shown: &ScorerPrompts,
    ) -> Tensor {
        let parts =
            decoder.hidden(micro_batches.iter().map(|members| self.packed(sequences, members, shown)));
        in_order(&parts, micro_batches.iter().flatten().copied(), sequences, self.place.device)
    }
}

/// The rows of some sequences' tokens, `[tokens, width]`, in the order of the sequences. The concatenated
/// `parts` have them in the order of `members`.
pub fn in_order(
    parts: &[Tensor],
    members: impl Iterator<Item = usize>,
    sequences: &Sequences,
    device: Device,
) -> Tensor {
    // Pairs of a token's index in the step and its row in the concatenated `parts`.
    let mut places: Vec<(usize, i64)> =
        members.flat_map(|member| sequences.tokens(member)).zip(0..).collect();
    let rows: i64 = parts.iter().map(|part| part.size()[0]).sum();
    assert_eq!(rows, places.len() as i64, "one row for each token that is trained on");
    if let ([whole], true) = (parts, places.is_sorted()) {
        return whole.shallow_clone();
    }
    places.sort_unstable();
    let order: Vec<i64> = places.into_iter().map(|(_, place)| place).collect();
    Tensor::cat(parts, 0).index_select(0, &upload(&order, device))
}
