//! Activations for the backward pass of training, saved during generation in the form in which
//! [`crate::rope`], [`crate::causal_attention`] and [`crate::gated_unit`] save them, so that a student's own
//! completions need no separate forward pass.

use std::any::Any;
use std::ops::Range;

use half::bf16;

use super::Shape;
use crate::thread_pool::DisjointSlices;
use crate::{Cpu, Scalar, round_to_bf16};

/// A kind of activation that is saved per token and layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The layer's input: `width`.
    Stream,
    /// Queries, keys and values before their normalisation, where they have one: `(heads + 2 * groups) * head
    /// width`.
    BeforeNorm,
    /// Rotated queries and keys, and values: of the same size.
    Projected,
    /// The outputs of attention's heads: `heads * head width`.
    Attended,
    /// The residual stream between attention and the gated unit: `width`.
    Middle,
    /// Gate, then up: `2 * hidden`.
    GateUp,
}

/// Numbers per token of each [`Saved`], in the order of its variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedWidths([usize; 6]);

impl SavedWidths {
    /// For a decoder with plain gated units in all layers.
    pub fn new(shape: &Shape, has_head_norm: bool) -> SavedWidths {
        let heads = shape.heads * shape.head_dim;
        let projected = heads + 2 * shape.key_value_heads * shape.head_dim;
        let before = if has_head_norm { projected } else { 0 };
        SavedWidths([shape.width, before, projected, heads, shape.width, 2 * shape.intermediate_size])
    }

    pub fn of(&self, saved: Saved) -> usize {
        self.0[saved as usize]
    }

    /// For a layer that is recomputed in the backward pass, which needs only its input.
    fn of_stream(self) -> SavedWidths {
        SavedWidths([self.0[0], 0, 0, 0, 0, 0])
    }

    /// Its range among the numbers of a layer, which are one `[tokens, width]` after the other.
    fn range(&self, saved: Saved, tokens: usize) -> Range<usize> {
        let start = self.0[..saved as usize].iter().sum::<usize>() * tokens;
        start..start + self.of(saved) * tokens
    }

    fn layer(&self) -> usize {
        self.0.iter().sum()
    }
}

enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Numbers {
    fn zeros(count: usize, is_bf16: bool) -> Numbers {
        if is_bf16 { Numbers::Bf16(vec![bf16::ZERO; count]) } else { Numbers::F32(vec![0.0; count]) }
    }

    /// # Panics
    /// If they are of another type.
    fn of<T: 'static>(&self) -> &[T] {
        let numbers: &dyn Any = match self {
            Numbers::F32(numbers) => numbers,
            Numbers::Bf16(numbers) => numbers,
        };
        numbers.downcast_ref::<Vec<T>>().expect(OTHER)
    }

    /// # Panics
    /// If they are of another type.
    fn of_mut<T: 'static>(&mut self) -> &mut [T] {
        let numbers: &mut dyn Any = match self {
            Numbers::F32(numbers) => numbers,
            Numbers::Bf16(numbers) => numbers,
        };
        numbers.downcast_mut::<Vec<T>>().expect(OTHER)
    }
}

const OTHER: &str = "activations of this kind of number";

/// The activations of the tokens of one pass.
pub struct SavedPass {
    tokens: usize,
    /// Widths and numbers of each layer; the last entry is the stream after all layers.
    layers: Vec<(SavedWidths, Numbers)>,
}

impl SavedPass {
    /// With room for `tokens` tokens. For the first `recomputed` of the `layers`, only the stream is saved,
    /// as after the last layer.
    pub fn new(
        tokens: usize,
        layers: usize,
        recomputed: usize,
        widths: SavedWidths,
        is_bf16: bool,
    ) -> SavedPass {
        let layer = |index| {
            let is_whole = (recomputed..layers).contains(&index);
            let widths = if is_whole { widths } else { widths.of_stream() };
            (widths, Numbers::zeros(tokens * widths.layer(), is_bf16))
        };
        SavedPass { tokens, layers: (0..=layers).map(layer).collect() }
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers per token; 0 where it is not saved in that layer.
    pub fn width(&self, layer: usize, saved: Saved) -> usize {
        self.layers[layer].0.of(saved)
    }

    /// The slice to write a layer's activations of all tokens to, `[tokens, width]`. `layer` equal to the
    /// number of layers means the stream after the last one.
    pub fn part_mut<T: Scalar + 'static>(&mut self, layer: usize, saved: Saved) -> &mut [T] {
        let (widths, numbers) = &mut self.layers[layer];
        &mut numbers.of_mut()[widths.range(saved, self.tokens)]
    }

    /// The same, to be written by the workers of a pass.
    pub(super) fn slots(&mut self) -> SavedSlots<'_> {
        let layers = self.layers.iter_mut().map(|(widths, numbers)| match numbers {
            Numbers::F32(numbers) => (*widths, Slots::F32(DisjointSlices::new(numbers))),
            Numbers::Bf16(numbers) => (*widths, Slots::Bf16(DisjointSlices::new(numbers))),
        });
        SavedSlots { tokens: self.tokens, layers: layers.collect() }
    }

    /// The activations of one token.
    fn row<T: Scalar + 'static>(&self, layer: usize, saved: Saved, token: usize) -> &[T] {
        let (widths, numbers) = &self.layers[layer];
        let width = widths.of(saved);
        &numbers.of()[widths.range(saved, self.tokens)][token * width..(token + 1) * width]
    }
}

/// A token of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedToken {
    pub pass: u32,
    pub token: u32,
}

/// Gathers the activations of tokens from several passes, in the tokens' order: `[tokens, width]`.
pub fn gather<T: Scalar + Send + Sync + 'static>(
    cpu: Cpu,
    passes: &[SavedPass],
    layer: usize,
    saved: Saved,
    tokens: &[SavedToken],
    to: &mut [T],
) {
    let Some(width) = passes.first().map(|pass| pass.width(layer, saved)) else { return };
    assert_eq!(to.len(), tokens.len() * width, "a row for each token");
    let to = DisjointSlices::new(to);
    cpu.parallel(|worker| {
        for place in worker.range(tokens.len(), 1) {
            let SavedToken { pass, token } = tokens[place];
            let row = passes[pass as usize].row::<T>(layer, saved, token as usize);
            // SAFETY: workers have rows of their own.
            unsafe { to.slice_mut(place * width..(place + 1) * width) }.copy_from_slice(row);
        }
    });
}

/// Frees the saved activations of a layer.
pub fn release(passes: &mut [SavedPass], layer: usize) {
    passes.iter_mut().for_each(|pass| pass.layers[layer].1 = Numbers::F32(Vec::new()));
}

enum Slots<'a> {
    F32(DisjointSlices<'a, f32>),
    Bf16(DisjointSlices<'a, bf16>),
}

/// A [`SavedPass`] that is being written by the workers of its pass.
pub(super) struct SavedSlots<'a> {
    tokens: usize,
    layers: Vec<(SavedWidths, Slots<'a>)>,
}

impl SavedSlots<'_> {
    /// Saves `numbers` of a token from `column` on, where the layer saves this kind.
    ///
    /// # Safety
    /// No other worker writes them.
    pub unsafe fn write(&self, layer: usize, saved: Saved, (token, column): (usize, usize), numbers: &[f32]) {
        let (widths, slots) = &self.layers[layer];
        let (range, width) = (widths.range(saved, self.tokens), widths.of(saved));
        if width == 0 {
            return;
        }
        assert!(token < self.tokens && column + numbers.len() <= width, "within the token");
        let start = range.start + token * width + column;
        let place = start..start + numbers.len();
        match slots {
            // SAFETY: by the caller's promise.
            Slots::F32(slots) => unsafe { slots.slice_mut(place) }.copy_from_slice(numbers),
            // SAFETY: by the caller's promise.
            Slots::Bf16(slots) => round_to_bf16(numbers, unsafe { slots.slice_mut(place) }),
        }
    }
}
