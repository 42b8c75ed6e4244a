//! A decoder as tensors: the forward pass that training and scoring share.
//!
//! RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864, in the half-split layout of the Llama checkpoints),
//! grouped heads (arXiv:2305.13245), SwiGLU (arXiv:2002.05202).

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::weights::{Entry, EntryKind, Weights, layout};
use super::{Config, Token};
use crate::data::tokenizer::Tokenizer;

/// Parameters of one layer. Matrices are `[outputs, inputs]`.
///
/// Where several matrices read the same input, training multiplies them one by one, because the backward pass of a split
/// costs more than it saves; `fused` are the same numbers as one matrix, for inference.
pub(super) struct Layer {
    pub norm_attention: Tensor,
    query_key: Tensor,
    value: Tensor,
    pub fused_query_key_value: Tensor,
    pub output: Tensor,
    pub norm_mlp: Tensor,
    gate: Tensor,
    up: Tensor,
    pub fused_gate_up: Tensor,
    pub down: Tensor,
}

/// A model on a device. All parameters are views of one flat tensor, in the order of [`layout`].
pub struct Decoder {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    pub device: Device,
    flat: Tensor,
    /// Every tensor that gradients are taken for, in the order of the flat tensor.
    leaves: Vec<Tensor>,
    decayed: i64,
    pub(super) embedding: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Tensor,
    pub(super) matrix: Tensor,
    /// Rotary tables `[context, head width]`; the sine's first half is negated, see [`rotate`].
    pub(super) cosine: Tensor,
    pub(super) sine: Tensor,
}

/// Sequences end to end, without padding. Only attention sees them side by side, padded on the right: a causal query never
/// looks at padding, so no mask is needed.
pub struct PackedBatch {
    /// `[sequences, longest]`
    shape: [i64; 2],
    /// `[tokens]`
    tokens: Tensor,
    /// `[tokens]`: place within the sequence.
    positions: Tensor,
    /// `[sequences * longest]`: the packed token of each padded place; padding repeats the sequence's first token.
    unpack: Tensor,
    /// `[tokens]`: the padded place of each packed token.
    pack: Tensor,
    /// `[completion tokens]`: the packed token that predicts each.
    predictors: Tensor,
    /// `[completion tokens]`: their padded places.
    predictors_padded: Tensor,
    /// `[completion tokens]`: the tokens taken there.
    pub targets: Tensor,
}

impl PackedBatch {
    /// Each sequence is a prompt and a completion, at least one token each. The last token is predicted, never read.
    pub fn new<'a>(sequences: impl Iterator<Item = (&'a [Token], &'a [Token])> + Clone, device: Device) -> PackedBatch {
        let longest = sequences.clone().map(|(prompt, completion)| prompt.len() + completion.len() - 1).max().unwrap_or(1);
        let [mut tokens, mut positions, mut unpack, mut pack] = [const { Vec::new() }; 4];
        let [mut predictors, mut predictors_padded, mut targets] = [const { Vec::<i64>::new() }; 3];
        let mut count = 0;
        for (prompt, completion) in sequences {
            let (start, padded_start) = (tokens.len() as i64, (count * longest) as i64);
            let length = (prompt.len() + completion.len() - 1) as i64;
            tokens.extend(prompt.iter().chain(&completion[..completion.len() - 1]).copied());
            positions.extend(0..length);
            pack.extend((0..length).map(|place| padded_start + place));
            unpack.extend((0..longest as i64).map(|place| start + if place < length { place } else { 0 }));
            let first = prompt.len() as i64 - 1;
            predictors.extend((first..length).map(|place| start + place));
            predictors_padded.extend((first..length).map(|place| padded_start + place));
            targets.extend(completion.iter().copied());
            count += 1;
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        PackedBatch {
            shape: [count as i64, longest as i64],
            tokens: tensor(&tokens),
            positions: tensor(&positions),
            unpack: tensor(&unpack),
            pack: tensor(&pack),
            predictors: tensor(&predictors),
            predictors_padded: tensor(&predictors_padded),
            targets: tensor(&targets),
        }
    }
}

impl Decoder {
    /// For scoring and sampling.
    pub fn frozen(weights: &Weights, device: Device) -> Decoder {
        Decoder::new(weights, device, false)
    }

    /// For training.
    pub fn trainable(weights: &Weights, device: Device) -> Decoder {
        Decoder::new(weights, device, true)
    }

    fn new(weights: &Weights, device: Device, trainable: bool) -> Decoder {
        let config = weights.config.clone();
        let entries = layout(&config);
        let flat = Tensor::from_slice(&weights.values()).to_device(device);
        let view = |entries: &[Entry]| {
            let elements: usize = entries.iter().map(|entry| entry.len()).sum();
            let shape: Vec<i64> = match entries[0].shape.as_slice() {
                [.., _, inputs] => vec![(elements / inputs) as i64, *inputs as i64],
                _ => vec![elements as i64],
            };
            flat.narrow(0, entries[0].offset as i64, elements as i64).view(shape.as_slice())
        };
        let mut leaves = Vec::new();
        let mut rest = entries.as_slice();
        // The next `count` entries, stacked along the outputs, as one leaf.
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            let leaf = view(taken).detach().set_requires_grad(trainable);
            leaves.push(leaf.shallow_clone());
            leaf
        };
        let embedding = take(1);
        let matrices: Vec<[Tensor; 6]> =
            (0..config.layers).map(|_| [take(2), take(1), take(1), take(1), take(1), take(1)]).collect();
        let matrix = if config.tied { embedding.shallow_clone() } else { take(1) };
        let norms: Vec<[Tensor; 2]> = (0..config.layers).map(|_| [take(1), take(1)]).collect();
        let norm = take(1);
        let layers = matrices.into_iter().zip(norms).enumerate();
        let layers = layers
            .map(|(index, ([query_key, value, output, gate, up, down], [norm_attention, norm_mlp]))| {
                let first = 1 + index * 7;
                Layer {
                    norm_attention,
                    query_key,
                    value,
                    fused_query_key_value: view(&entries[first..first + 3]),
                    output,
                    norm_mlp,
                    gate,
                    up,
                    fused_gate_up: view(&entries[first + 4..first + 6]),
                    down,
                }
            })
            .collect();
        let decayed: usize = entries.iter().filter(|entry| entry.kind != EntryKind::Norm).map(|entry| entry.len()).sum();
        let (cosine, sine) = rotary_tables(&config, device);
        Decoder {
            config,
            tokenizer: weights.tokenizer.clone(),
            device,
            flat,
            leaves,
            decayed: decayed as i64,
            embedding,
            layers,
            norm,
            matrix,
            cosine,
            sine,
        }
    }

    /// A parameter by the name that checkpoints give it.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let entry = layout(&self.config).into_iter().find(|entry| entry.name == name)?;
        let shape: Vec<i64> = entry.shape.iter().map(|&size| size as i64).collect();
        Some(self.flat.narrow(0, entry.offset as i64, entry.len() as i64).view(shape.as_slice()))
    }

    /// Cosines and sines, `[context, head width]` each, as [`rotate`] wants them.
    pub(super) fn rotary_tables(&self) -> Vec<[Tensor; 2]> {
        vec![[self.cosine.shallow_clone(), self.sine.shallow_clone()]]
    }

    /// The parameters as one vector; writing to it changes the model.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// How many of the flat vector's first elements weight decay applies to: the matrices, not the normalisations.
    pub fn decayed(&self) -> i64 {
        self.decayed
    }

    /// d loss / d parameters, in the order of the flat vector. `hidden` is what [`Decoder::hidden`] answered, `by_hidden` d loss /
    /// d hidden, `by_matrix` d loss / d output matrix.
    pub fn gradient(&self, hidden: &Tensor, by_hidden: &Tensor, by_matrix: &Tensor) -> Tensor {
        let same_gradient = (hidden * by_hidden).sum(Kind::Float);
        // The output matrix is the embedding too, which the hidden states were made from, or else it stands alone.
        let matrix = self.leaves.iter().position(|leaf| leaf.data_ptr() == self.matrix.data_ptr());
        let matrix = matrix.expect("the output matrix is a parameter");
        let (before, behind) = self.leaves.split_at(matrix);
        let used: Vec<&Tensor> =
            before.iter().chain(if self.config.tied { &behind[..1] } else { &[] }).chain(&behind[1..]).collect();
        let mut gradients = Tensor::run_backward(&[same_gradient], &used, false, false);
        if self.config.tied {
            gradients[matrix] += by_matrix;
        } else {
            gradients.insert(matrix, by_matrix.shallow_clone());
        }
        let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.reshape([-1])).collect();
        Tensor::cat(&flat, 0)
    }

    pub fn weights(&self) -> Weights {
        Weights::new(self.config.clone(), self.tokenizer.clone(), to_vec(&self.flat))
    }

    /// Next-token logits at the batch's completion positions: `[completion tokens, vocabulary]`.
    pub fn logits(&self, batch: &PackedBatch) -> Tensor {
        self.hidden(batch).linear::<&Tensor>(&self.matrix, None)
    }

    /// What the output matrix makes logits of, at the batch's completion positions: `[completion tokens, width]`.
    pub fn hidden(&self, batch: &PackedBatch) -> Tensor {
        let sizes = &*self.config;
        let [heads, groups, head_width] = [sizes.heads, sizes.key_value_heads, sizes.head_width].map(|size| size as i64);
        let [sequences, longest] = batch.shape;
        let cosine = self.cosine.index_select(0, &batch.positions).unsqueeze(1);
        let sine = self.sine.index_select(0, &batch.positions).unsqueeze(1);
        let mut stream = gather(&self.embedding, &batch.tokens);
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = self.normalise(&stream, &layer.norm_attention);
            let query_key = normed.linear::<&Tensor>(&layer.query_key, None).view([-1, heads + groups, head_width]);
            let query_key = rotate(&query_key, &cosine, &sine).view([-1, (heads + groups) * head_width]);
            let query_key = gather(&query_key, &batch.unpack).view([sequences, longest, heads + groups, head_width]);
            let value = gather(&normed.linear::<&Tensor>(&layer.value, None), &batch.unpack);
            let value = value.view([sequences, longest, groups, head_width]);
            // Splitting has a cheaper backward pass than two views.
            let [query, key]: [Tensor; 2] =
                query_key.split_with_sizes([heads, groups], 2).try_into().expect("two sizes make two parts");
            let attended = self.attend(&query, &key, &value).reshape([sequences * longest, heads * head_width]);
            // After the last attention a position only matters if its prediction does.
            let attended = if index + 1 == self.layers.len() {
                stream = gather(&stream, &batch.predictors);
                gather(&attended, &batch.predictors_padded)
            } else {
                gather(&attended, &batch.pack)
            };
            // Never in place: the backward pass reads what the normalisations read.
            stream = &stream + attended.linear::<&Tensor>(&layer.output, None);
            let normed = self.normalise(&stream, &layer.norm_mlp);
            let inner = normed.linear::<&Tensor>(&layer.gate, None).silu() * normed.linear::<&Tensor>(&layer.up, None);
            stream = &stream + inner.linear::<&Tensor>(&layer.down, None);
        }
        self.normalise(&stream, &self.norm)
    }

    /// `[vocabulary, width]`
    pub fn matrix(&self) -> &Tensor {
        &self.matrix
    }

    /// Causal attention over whole sequences; `[sequences, length, heads, head width]` in and out.
    fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        let grouped = self.config.heads != self.config.key_value_heads;
        let (query, key, value) = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2));
        Tensor::scaled_dot_product_attention::<&Tensor>(&query, &key, &value, None, 0.0, true, None, grouped).transpose(1, 2)
    }

    pub(super) fn project_vocabulary(&self, stream: &Tensor) -> Tensor {
        self.normalise(stream, &self.norm).linear::<&Tensor>(&self.matrix, None)
    }

    pub(super) fn normalise(&self, stream: &Tensor, scale: &Tensor) -> Tensor {
        stream.rms_norm([self.config.width as i64], Some(scale), self.config.norm.epsilon)
    }
}

/// Rows of a matrix. As an embedding, because its backward pass on the CPU is the fastest of all that gather rows.
fn gather(matrix: &Tensor, rows: &Tensor) -> Tensor {
    Tensor::embedding(matrix, rows, -1, false, false)
}

/// Turns each pair of components by its position's angle: `x * cosine + swap_halves(x) * sine`, where the first half of the
/// sine table is negated.
pub(super) fn rotate(x: &Tensor, cosine: &Tensor, sine: &Tensor) -> Tensor {
    let half = x.size()[x.dim() - 1] / 2;
    x * cosine + x.roll([half], [-1]) * sine
}

fn rotary_tables(sizes: &Config, device: Device) -> (Tensor, Tensor) {
    let half = sizes.head_width / 2;
    let shape = [sizes.context as i64, sizes.head_width as i64];
    let table = |function: fn(f64) -> f64, first: f64| {
        let mut values = Vec::with_capacity(sizes.context * sizes.head_width);
        for position in 0..sizes.context {
            for index in 0..sizes.head_width {
                let pair = (index % half) as f64;
                let angle = position as f64 * sizes.rope.theta.powf(-2.0 * pair / sizes.head_width as f64);
                let sign = if index < half { first } else { 1.0 };
                values.push((sign * function(angle)) as f32);
            }
        }
        Tensor::from_slice(&values).view(shape).to_device(device)
    };
    (table(f64::cos, 1.0), table(f64::sin, -1.0))
}

/// The elements of a tensor, in f32, on the host.
pub fn to_vec(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let length = values.len();
    tensor.copy_data(&mut values, length);
    values
}
