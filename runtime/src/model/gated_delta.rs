//! The gated delta rule (arXiv:2412.06464), which some layers have in place of attention: a causal
//! convolution of queries, keys and values, a recurrence over a state for each head, and a gated
//! normalisation.
//!
//! A token with the decay `a`, the write strength `b`, the key `k` and the value `v` changes the state `S` of
//! a head to `a S`, to which it adds the product of `k` and `b (v - a S'k)`; then it reads `S'q` (equation
//! 10; states are transposed here). Whole sequences are computed in chunks (section 3.2): inside a chunk all
//! tokens at once, by the solution of a triangular system; from chunk to chunk by the state. Decoding
//! computes token by token. The rule is in single precision, also for models in half: rounding errors of a
//! state stay in it.

use tch::{Device, Kind, Tensor};

use super::GatedDelta;
use super::attention::LayerRead;
use super::causal_conv::{RecurrentState, convolve, last_inputs, padded, with_past};
use super::decoder::{Decoder, gather};
use super::linear::Linear;
use super::packed_batch::PackedBatch;

/// Parameters of a layer's gated delta rule. Its output projection is that of the layer.
pub(super) struct DeltaWeights {
    /// Rows for queries, keys and values, for the gate of the output, for write strengths, and for decays.
    pub inputs: Linear,
    /// `[channels, 1, taps]`
    pub convolution: Tensor,
    /// `[value heads]`: the logarithm of the factor of decays.
    pub decay: Tensor,
    /// `[value heads]`
    pub decay_bias: Tensor,
    /// `[value head width]`: the scale of the normalisation of each head's output.
    pub norm: Tensor,
}

/// The inputs of the recurrence, in single precision: `[rows, value heads, tokens, ..]`.
struct DeltaInputs {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    /// `[rows, value heads, tokens]`: write strengths between 0 and 1.
    strength: Tensor,
    /// `[rows, value heads, tokens]`: logarithms of decays.
    decay: Tensor,
}

/// Tokens of a chunk. The length is fixed, so that a sequence's numbers do not depend on the others of its
/// batch.
const CHUNK: i64 = 64;

impl GatedDelta {
    /// What a layer remembers before the first token.
    pub(super) fn empty(&self, rows: i64, kind: Kind, device: Device) -> RecurrentState {
        let [channels, taps, heads, keys, values] =
            [self.channels(), self.convolution, self.value_heads, self.key_head_dim, self.value_head_dim]
                .map(|size| size as i64);
        RecurrentState {
            window: Tensor::zeros([rows, channels, taps - 1], (kind, device)),
            state: Some(Tensor::zeros([rows, heads, keys, values], (computed_in(kind), device))),
        }
    }

    /// Approximate bytes of activations while a layer reads `tokens` tokens of `prompts` prompts of about the
    /// same length, which are padded to whole chunks.
    pub fn bytes_to_read(&self, prompts: usize, tokens: usize) -> usize {
        let padded = tokens + prompts * CHUNK as usize;
        // Of a head: its parts of the system and of its sides and solution, decays and products in a chunk.
        let head = 8 * self.key_head_dim + 6 * self.value_head_dim + 4 * CHUNK as usize;
        padded * (3 * self.channels() + self.value_heads * head) * size_of::<f32>()
    }
}

/// Added to the squared length of queries and keys.
const EPSILON: f64 = 1e-6;

/// The precision of the rule in a model of this kind.
fn computed_in(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

impl DeltaWeights {
    /// Queries, keys and values, `[tokens, channels]`; the gate, `[tokens, values]`; the arguments of write
    /// strengths and of decays, `[tokens, value heads]`.
    fn project(&self, delta: &GatedDelta, normed: &Tensor) -> [Tensor; 4] {
        let sizes = [delta.channels(), delta.values(), delta.value_heads, delta.value_heads];
        let parts = self.inputs.apply(normed).split_with_sizes(sizes.map(|size| size as i64), -1);
        parts.try_into().expect("as many parts as sizes")
    }

    /// The convolution with its activation: `[rows, channels, taps - 1 + tokens]` to `[rows, channels,
    /// tokens]`.
    fn convolve(&self, x: &Tensor) -> Tensor {
        convolve(x, &self.convolution, None).silu()
    }

    /// The recurrence's inputs. `mixed` is `[rows, channels, tokens]` after the convolution; `strength` and
    /// `decay` are `[rows, tokens, value heads]`.
    fn inputs(&self, delta: &GatedDelta, mixed: &Tensor, strength: &Tensor, decay: &Tensor) -> DeltaInputs {
        let kind = computed_in(mixed.kind());
        let [rows, _, tokens] = mixed.size()[..] else { unreachable!("it has three axes") };
        let [keys, values] = [delta.keys(), delta.values()].map(|size| size as i64);
        let parts = mixed.to_kind(kind).split_with_sizes([keys, keys, values], 1);
        let heads = |part: &Tensor, count: usize, width: usize| {
            part.view([rows, count as i64, width as i64, tokens]).transpose(2, 3)
        };
        let shared = (delta.value_heads / delta.key_heads) as i64;
        let normed = |part: &Tensor| {
            let part = heads(part, delta.key_heads, delta.key_head_dim);
            let length = (&part * &part).sum_dim_intlist(-1, true, kind) + EPSILON;
            (part * length.rsqrt()).repeat_interleave_self_int(shared, 1, None)
        };
        let by_head = |part: &Tensor| part.to_kind(kind).transpose(1, 2);
        let softplus = (decay.to_kind(kind) + self.decay_bias.to_kind(kind)).softplus();
        DeltaInputs {
            query: normed(&parts[0]) * (delta.key_head_dim as f64).powf(-0.5),
            key: normed(&parts[1]),
            value: heads(&parts[2], delta.value_heads, delta.value_head_dim),
            strength: by_head(strength).sigmoid(),
            decay: by_head(&-(self.decay.to_kind(kind).exp() * softplus)),
        }
    }

    /// The recurrence's output, `[.., value heads, value head width]` in single precision, normalised per
    /// head and multiplied by the gate, `[.., values]`: `[.., values]`, of the gate's kind.
    fn gated(&self, output: &Tensor, gate: &Tensor, epsilon: f64) -> Tensor {
        let kind = output.kind();
        let width = self.norm.size()[0];
        let normed = output.rms_norm([width], Some(&self.norm.to_kind(kind)), epsilon);
        (normed.flatten(-2, -1) * gate.to_kind(kind).silu()).to_kind(gate.kind())
    }
}

impl DeltaInputs {
    /// The outputs, `[rows, value heads, tokens, value head width]`, and the state after the last token, from
    /// an empty state.
    fn chunked(&self, chunk: i64) -> (Tensor, Tensor) {
        let [rows, heads, tokens, width] = self.value.size()[..] else { unreachable!("it has four axes") };
        let key_width = self.key.size()[3];
        let padding = (chunk - tokens % chunk) % chunk;
        // Tokens of strength and decay 0 do not change the state.
        let chunks = |x: &Tensor| match x.dim() {
            4 => x.constant_pad_nd([0, 0, 0, padding]).unflatten(2, [-1, chunk]),
            _ => x.constant_pad_nd([0, padding]).unflatten(2, [-1, chunk]).unsqueeze(-1),
        };
        let (query, key, value) = (chunks(&self.query), chunks(&self.key), chunks(&self.value));
        let (strength, decay) = (chunks(&self.strength), chunks(&self.decay).cumsum(-2, None::<Kind>));
        // The decay from token j to token i, `[.., chunk (i), chunk (j)]`, 0 where j is later.
        let later = Tensor::ones([chunk, chunk], (Kind::Bool, value.device())).triu(1);
        let between = (&decay - decay.transpose(-2, -1)).masked_fill(&later, f64::NEG_INFINITY).exp();
        let since_start = decay.exp();
        let (keys, written) = (key.transpose(-2, -1), &key * &strength);
        // Equations 7 to 9 with decays: what the tokens write depends on what those before them wrote.
        let system = written.matmul(&keys) * &between;
        let sides = Tensor::cat(&[&value * &strength, written * &since_start], -1);
        let solved = system.linalg_solve_triangular(&sides, false, true, true);
        let [value, forgotten] = &solved.split_with_sizes([width, key_width], -1)[..] else {
            unreachable!("two sizes make two parts")
        };
        let weights = query.matmul(&keys) * between;
        let total = decay.narrow(-2, chunk - 1, 1);
        let [reading, writing] = [query * since_start, key * (&total - &decay).exp()];
        let total = total.exp();
        // `unbind`: its gradient is one copy, where that of indexing is as large as all chunks, for each.
        let parts = [value, forgotten, &weights, &reading, &writing, &total].map(|all| all.unbind(2));
        let mut state = Tensor::zeros([rows, heads, key_width, width], (value.kind(), value.device()));
        let mut outputs = Vec::with_capacity(parts[0].len());
        for index in 0..parts[0].len() {
            let [value, forgotten, weights, reading, writing, total] = parts.each_ref().map(|of| &of[index]);
            let value = value - forgotten.matmul(&state);
            outputs.push(reading.matmul(&state) + weights.matmul(&value));
            state = state * total + writing.transpose(-2, -1).matmul(&value);
        }
        (Tensor::cat(&outputs, 2).narrow(2, 0, tokens), state)
    }

    /// The output of one token, `[rows, value heads, value head width]`; changes the state.
    fn step(&self, state: &mut Tensor) -> Tensor {
        let column = |x: &Tensor| x.transpose(-2, -1);
        let decayed = &*state * self.decay.exp().unsqueeze(-1);
        let written = (&self.value - self.key.matmul(&decayed)) * self.strength.unsqueeze(-1);
        *state = decayed + column(&self.key).matmul(&written);
        self.query.matmul(state).squeeze_dim(2)
    }
}

/// Decoders with such layers.
impl Decoder {
    fn delta(&self) -> &GatedDelta {
        self.config.gated_delta.as_ref().expect("a layer with the rule belongs to a configuration with it")
    }

    /// The output of the heads before the output projection, `[tokens, values]`, in the `last` layer only
    /// where a completion token is predicted; and what the layer remembers of each sequence.
    pub(super) fn gated_delta(
        &self,
        weights: &DeltaWeights,
        normed: &Tensor,
        batch: &PackedBatch,
        last: bool,
    ) -> (Tensor, LayerRead) {
        let delta = self.delta();
        let [sequences, longest] = batch.shape;
        let [mixed, gate, strength, decay] = weights.project(delta, normed);
        let mixed = with_past(&mixed, batch, delta.convolution);
        let window = last_inputs(&mixed, batch, delta.convolution);
        let padded = |x: &Tensor| padded(x, batch);
        let mut inputs =
            weights.inputs(delta, &weights.convolve(&mixed), &padded(&strength), &padded(&decay));
        // Padding must not change the state. In the packed layout it repeats the first token.
        let lengths = batch.lengths(self.device());
        let tokens = Tensor::arange(longest, (Kind::Int64, self.device()));
        let read = tokens.unsqueeze(0).less_tensor(&lengths.unsqueeze(1)).unsqueeze(1);
        for numbers in [&mut inputs.strength, &mut inputs.decay] {
            *numbers = &*numbers * read.to_kind(numbers.kind());
        }
        let (output, state) = inputs.chunked(CHUNK);
        let output = output.transpose(1, 2).reshape([sequences * longest, delta.values() as i64]);
        let output = gather(&output, if last { &batch.predictors_padded } else { &batch.pack });
        let gate = if last { gather(&gate, &batch.predictors) } else { gate };
        let output = output.unflatten(-1, [delta.value_heads as i64, -1]);
        let read = LayerRead::Recurrent(RecurrentState { window, state: Some(state.detach()) });
        (weights.gated(&output, &gate, self.config.norm.epsilon), read)
    }

    /// The output of the heads for one more token of every row, `[rows, values]`; changes what the layer
    /// remembers.
    pub(super) fn gated_delta_step(
        &self,
        weights: &DeltaWeights,
        normed: &Tensor,
        remembered: &mut RecurrentState,
    ) -> Tensor {
        let delta = self.delta();
        let [mixed, gate, strength, decay] = weights.project(delta, normed);
        let mixed = weights.convolve(&remembered.append(&mixed));
        let inputs = weights.inputs(delta, &mixed, &strength.unsqueeze(1), &decay.unsqueeze(1));
        let output = inputs.step(remembered.state.as_mut().expect("the rule has a state"));
        weights.gated(&output, &gate, self.config.norm.epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::place::Place;
    use crate::model::tests::parity::weights;
    use crate::model::{Generator, PackedBatch};
    use crate::tokenizer::Token;

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn random_inputs(tokens: i64) -> DeltaInputs {
        tch::manual_seed(tokens);
        let normal = |width: i64| Tensor::randn([2, 3, tokens, width], DOUBLE);
        let unit = |x: Tensor| &x / x.norm_scalaropt_dim(2.0, [-1], true);
        let uniform = || Tensor::rand([2, 3, tokens], DOUBLE);
        DeltaInputs {
            query: unit(normal(5)),
            key: unit(normal(5)),
            value: normal(4),
            strength: uniform(),
            decay: -uniform() * 2.0,
        }
    }

    /// Token by token, by the definition.
    fn by_tokens(inputs: &DeltaInputs) -> (Tensor, Tensor) {
        let mut state = Tensor::zeros([2, 3, 5, 4], DOUBLE);
        let outputs: Vec<Tensor> = (0..inputs.value.size()[2])
            .map(|token| {
                let of = |x: &Tensor| x.narrow(2, token, 1);
                let DeltaInputs { query, key, value, strength, decay } = inputs;
                let [query, key, value] = [query, key, value].map(of);
                let inputs = DeltaInputs { query, key, value, strength: of(strength), decay: of(decay) };
                inputs.step(&mut state)
            })
            .collect();
        (Tensor::stack(&outputs, 2), state)
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.size(), b.size());
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn chunks_compute_the_recurrence() {
        for tokens in [1, 2, 7, 8, 9, 130] {
            let inputs = random_inputs(tokens);
            let (outputs, state) = by_tokens(&inputs);
            for chunk in [1, 4, 8, CHUNK] {
                let (by_chunks, after) = inputs.chunked(chunk);
                let apart = apart(&by_chunks, &outputs).max(apart(&after, &state));
                assert!(apart < 1e-12, "{tokens} tokens in chunks of {chunk}: {apart:.1e}");
            }
        }
    }

    /// Strong decays over a chunk underflow, and must not become `NaN` in the gradient.
    #[test]
    fn chunks_have_the_gradient_of_the_recurrence() {
        for factor in [1.0, 400.0] {
            let gradients = |run: fn(&DeltaInputs) -> (Tensor, Tensor)| {
                let DeltaInputs { query, key, value, strength, decay } = random_inputs(70);
                let all = [query, key, value, strength, decay * factor].map(|of| of.set_requires_grad(true));
                let [query, key, value, strength, decay] = all.each_ref().map(Tensor::shallow_clone);
                let (outputs, state) = run(&DeltaInputs { query, key, value, strength, decay });
                let loss = outputs.cos().sum(None::<Kind>) + state.sin().sum(None::<Kind>);
                Tensor::run_backward(&[loss], &all.each_ref(), false, false)
            };
            let expected = gradients(by_tokens);
            for (found, expected) in gradients(|inputs| inputs.chunked(CHUNK)).iter().zip(&expected) {
                let apart = apart(found, expected);
                assert!(apart < 1e-10, "{factor}: {apart:.1e}");
            }
        }
    }

    /// Prompts shorter than the convolution, longer than a chunk, and between; then token by token.
    #[test]
    fn decoding_continues_from_what_a_prompt_left() {
        let _guard = tch::no_grad_guard();
        let tokens: Vec<Token> = (0..CHUNK as Token * 2 + 20).map(|token| (token * 37 + 5) % 256).collect();
        let prompts: Vec<&[Token]> = [1, 2, 3, 4, 63, 64, 65, 130].map(|length| &tokens[..length]).to_vec();
        for case in ["qwen3_5", "qwen3_5_untied"] {
            let decoder = Decoder::frozen(&weights(case), Place::cpu(), Kind::Double);
            let mut generator = Generator::start(&decoder, &prompts, 6);
            let continued: [Token; 6] = [7, 80, 200, 9, 33, 61];
            for step in 0..=continued.len() {
                let read = prompts.iter().map(|prompt| (*prompt, [&continued[..step], &[0]].concat()));
                let read: Vec<(&[Token], Vec<Token>)> = read.collect();
                let batch = PackedBatch::new(
                    read.iter().map(|(prompt, completion)| (*prompt, completion.as_slice())),
                    Device::Cpu,
                );
                let ends: Vec<i64> = (1..=prompts.len()).map(|row| (row * (step + 1) - 1) as i64).collect();
                let expected = decoder.logits(&batch).index_select(0, &Tensor::from_slice(&ends));
                let apart = apart(generator.logits_on_device(), &expected);
                assert!(apart < 1e-10, "{case}, step {step}: {apart:.1e}");
                if let Some(token) = continued.get(step) {
                    generator.step(&vec![*token; prompts.len()]);
                }
            }
        }
    }
}
