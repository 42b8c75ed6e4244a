//! Generation with cached keys and values: every token is computed once.

use tch::{Kind, Tensor, no_grad_guard};

use super::Token;
use super::decoder::{Decoder, Layer, rotate};
use super::step::{State, Stepper};

/// Added to the score of a place that must not be looked at. Finite, so that a row of nothing else stays finite.
const HIDDEN: f64 = -1e30;

/// Rows that are being continued in step. Prompts end at the same place of the cache: shorter ones are padded on the left,
/// and the padding is hidden from attention.
pub struct Generator<'a> {
    decoder: &'a Decoder,
    /// Per layer, `[rows, key-value heads, capacity, head width]`.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// `[rows, 1, 1, capacity]`: 0, or [`HIDDEN`] on left padding.
    bias: Tensor,
    /// `[rows]`: the position of the next token within its own sequence.
    positions: Tensor,
    filled: i64,
    /// Of each row: the place of its first token, behind its padding.
    starts: Vec<usize>,
    capacity: usize,
    stepper: Option<Stepper>,
}

impl<'a> Generator<'a> {
    /// Reads the prompts (one token each at least) and makes room for `max_tokens` more. Returns the logits of the first
    /// completion token, `[prompts, vocabulary]`.
    pub fn start(decoder: &'a Decoder, prompts: &[&[Token]], max_tokens: usize) -> (Generator<'a>, Tensor) {
        let _guard = no_grad_guard();
        let sizes = &*decoder.config;
        let device = decoder.device;
        let rows = prompts.len() as i64;
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(1);
        let capacity = (longest + max_tokens) as i64;

        let mut tokens = Vec::with_capacity(prompts.len() * longest);
        let mut places = Vec::with_capacity(tokens.capacity());
        let mut bias = vec![0.0f32; prompts.len() * capacity as usize];
        for (row, prompt) in prompts.iter().enumerate() {
            let padding = longest - prompt.len();
            tokens.extend(std::iter::repeat_n(decoder.tokenizer.padding(), padding));
            tokens.extend(prompt.iter().copied());
            places.extend((0..longest).map(|place| place.saturating_sub(padding) as i64));
            bias[row * capacity as usize..][..padding].fill(HIDDEN as f32);
        }
        let places = Tensor::from_slice(&places).to_device(device);
        let bias = Tensor::from_slice(&bias).to_device(device).view([rows, 1, 1, capacity]);
        let lengths: Vec<i64> = prompts.iter().map(|prompt| prompt.len() as i64).collect();

        let length = longest as i64;
        let (heads, groups, head_width) = (sizes.heads as i64, sizes.key_value_heads as i64, sizes.head_width as i64);
        let causal = Tensor::full([length, length], HIDDEN, (Kind::Float, device)).triu(1);
        // Padding looks at itself, so that its softmax is defined; nobody looks at padding.
        let seen = Tensor::ones([length, length], (Kind::Float, device)) - Tensor::eye(length, (Kind::Float, device));
        let mask = bias.narrow(3, 0, length) * seen + causal;

        let cosine = decoder.cosine.index_select(0, &places).view([rows, length, 1, head_width]);
        let sine = decoder.sine.index_select(0, &places).view([rows, length, 1, head_width]);
        let tokens = Tensor::from_slice(&tokens).to_device(device);
        let mut stream = decoder.embedding.index_select(0, &tokens);
        let mut generator = Generator {
            decoder,
            keys: Vec::new(),
            values: Vec::new(),
            bias,
            positions: Tensor::new(),
            filled: length,
            starts: prompts.iter().map(|prompt| longest - prompt.len()).collect(),
            capacity: capacity as usize,
            stepper: Stepper::new(decoder, tch::get_num_threads() as usize),
        };
        generator.positions = Tensor::from_slice(&lengths).to_device(device);
        for layer in &decoder.layers {
            let (query, key, value) = generator.project(layer, &stream, &[rows, length], &cosine, &sine);
            let (query, key, value) = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2));
            let cache = |part: &Tensor| {
                let cache = Tensor::zeros([rows, groups, capacity, head_width], (Kind::Float, device));
                cache.narrow(2, 0, length).copy_(part);
                cache
            };
            generator.keys.push(cache(&key));
            generator.values.push(cache(&value));
            let attended =
                Tensor::scaled_dot_product_attention(&query, &key, &value, Some(&mask), 0.0, false, None, heads != groups);
            stream = generator.finish(layer, stream, &attended.transpose(1, 2).reshape([rows * length, -1]));
        }
        let last = stream.view([rows, length, -1]).select(1, length - 1);
        let logits = decoder.project_vocabulary(&last);
        (generator, logits)
    }

    /// Appends one token to every row; returns the logits of the next, `[rows, vocabulary]`.
    pub fn step(&mut self, tokens: &[Token]) -> Tensor {
        let _guard = no_grad_guard();
        let decoder = self.decoder;
        if let Some(stepper) = &self.stepper {
            let (keys, values) = (&mut self.keys, &mut self.values);
            let state = State { keys, values, capacity: self.capacity, filled: self.filled as usize, starts: &self.starts };
            let logits = stepper.step(tokens, state);
            self.filled += 1;
            self.positions = &self.positions + 1;
            return Tensor::from_slice(&logits).view([tokens.len() as i64, -1]);
        }
        let sizes = &*decoder.config;
        let rows = tokens.len() as i64;
        let (heads, groups, head_width) = (sizes.heads as i64, sizes.key_value_heads as i64, sizes.head_width as i64);
        let tokens = Tensor::from_slice(tokens).to_device(decoder.device);
        let cosine = decoder.cosine.index_select(0, &self.positions).unsqueeze(1);
        let sine = decoder.sine.index_select(0, &self.positions).unsqueeze(1);
        let length = self.filled + 1;
        let bias = self.bias.narrow(3, 0, length);
        let scale = 1.0 / (head_width as f64).sqrt();
        let mut stream = decoder.embedding.index_select(0, &tokens);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let (query, key, value) = self.project(layer, &stream, &[rows], &cosine, &sine);
            self.keys[index].select(2, self.filled).copy_(&key);
            self.values[index].select(2, self.filled).copy_(&value);
            // Heads that share keys and values are the rows of one small matrix product.
            let query = (query * scale).reshape([rows, groups, heads / groups, head_width]);
            let keys = self.keys[index].narrow(2, 0, length);
            let values = self.values[index].narrow(2, 0, length);
            let scores = query.matmul(&keys.transpose(2, 3)) + &bias;
            let attended = scores.softmax(-1, Kind::Float).matmul(&values).view([rows, heads * head_width]);
            stream = self.finish(layer, stream, &attended);
        }
        self.filled = length;
        self.positions = &self.positions + 1;
        decoder.project_vocabulary(&stream)
    }

    /// Goes on with these rows only, in this order; a row may be repeated.
    pub fn select(&mut self, rows: &[i64]) {
        let _guard = no_grad_guard();
        self.starts = rows.iter().map(|&row| self.starts[row as usize]).collect();
        let rows = Tensor::from_slice(rows).to_device(self.decoder.device);
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            *cache = cache.index_select(0, &rows);
        }
        self.bias = self.bias.index_select(0, &rows);
        self.positions = self.positions.index_select(0, &rows);
    }

    /// Queries, keys and values, `[leading.., heads, head width]` each, rotated.
    fn project(
        &self,
        layer: &Layer,
        stream: &Tensor,
        leading: &[i64],
        cosine: &Tensor,
        sine: &Tensor,
    ) -> (Tensor, Tensor, Tensor) {
        let sizes = &*self.decoder.config;
        let (heads, groups) = (sizes.heads as i64, sizes.key_value_heads as i64);
        let shape: Vec<i64> = leading.iter().copied().chain([heads + 2 * groups, sizes.head_width as i64]).collect();
        let normed = self.decoder.normalise(stream, &layer.norm_attention);
        let all = normed.linear::<&Tensor>(&layer.fused_query_key_value, None).view(shape.as_slice());
        let rotated = rotate(&all.narrow(-2, 0, heads + groups), cosine, sine);
        (rotated.narrow(-2, 0, heads), rotated.narrow(-2, heads, groups), all.narrow(-2, heads + groups, groups))
    }

    /// The rest of a layer: output projection, residual, SwiGLU, residual.
    fn finish(&self, layer: &Layer, stream: Tensor, attended: &Tensor) -> Tensor {
        let hidden = self.decoder.config.hidden as i64;
        let stream = stream + attended.linear::<&Tensor>(&layer.output, None);
        let normed = self.decoder.normalise(&stream, &layer.norm_mlp);
        let gate_up = normed.linear::<&Tensor>(&layer.fused_gate_up, None);
        let inner = gate_up.narrow(-1, 0, hidden).silu() * gate_up.narrow(-1, hidden, hidden);
        stream + inner.linear::<&Tensor>(&layer.down, None)
    }
}
