//! Steps that append one or two tokens to each row, in one pass. Where a row has no second token, its place
//! in the cache is masked from then on, like padding. So places in the cache are not positions, and windows
//! are not supported.

use tch::{Kind, Tensor, no_grad_guard};

use super::{Generator, Projected, gated};
use crate::machine::transfer::upload;
use crate::model::attention::{HIDDEN, attend_stored};
use crate::model::config::FastPath;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

impl Generator<'_> {
    /// Appends to every row its first token, and its second if it has one. Every such step takes the room of
    /// two tokens from `max_tokens`.
    pub fn step_pairs(&mut self, first: &[Token], second: &[Option<Token>]) {
        if second.iter().all(Option::is_none) {
            return self.step(first);
        }
        let _guard = no_grad_guard();
        while self.capacity < self.filled + 2 {
            self.grow();
        }
        let decoder = self.decoder;
        let config = &*decoder.config;
        assert!(config.runs_on(FastPath::TokenPairs), "other models are refused where a stage is checked");
        let rows = first.len() as i64;
        let [heads, groups, width] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let padding = decoder.tokenizer.padding();
        let pair = |(first, second): (&Token, &Option<Token>)| [*first, second.unwrap_or(padding)];
        let tokens: Vec<Token> = zip_equal(first, second).flat_map(pair).collect();
        let tokens = upload(&tokens, decoder.device());
        let positions = Tensor::stack(&[&self.positions, &(&self.positions + 1)], 1).view([-1]);
        let rotary = self.rotary.at(&positions);
        let length = self.filled + 2;
        // `[rows, 1, 2, length]`: the first token does not see the second.
        let bias = self.bias.narrow(3, 0, length).repeat([1, 1, 2, 1]);
        let _ = bias.select(2, 0).select(2, length - 1).fill_(HIDDEN);
        let mut stream = decoder.embed(&tokens);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let normed = decoder.normalise(&stream, &layer.norm_attention);
            let weights = layer.mixer.attention().expect("`Config::runs_on` excludes other models");
            let Projected { query, key, value, gate } = decoder.project(weights, &normed, &rotary);
            let cached = |cache: &Tensor, new: &Tensor| {
                let new = new.reshape([rows, 2, groups, width]).transpose(1, 2);
                cache.narrow(2, self.filled, 2).copy_(&new);
                cache.narrow(2, 0, length)
            };
            let [keys, values] = self.caches[index].keys_values();
            let (keys, values) = (cached(keys, &key), cached(values, &value));
            let query = query.reshape([rows, 2, heads, width]).transpose(1, 2);
            let attended = attend_stored(config, &query, &keys, &values, Some(&bias), None).transpose(1, 2);
            let attended = gated(attended.reshape([rows * 2, heads * width]), gate);
            stream = decoder.finish(layer, stream, &attended);
        }
        let stands: Vec<i64> = second.iter().map(|second| i64::from(second.is_some())).collect();
        let stands = upload(&stands, decoder.device());
        // Rows without a second token continue from the first.
        let hidden = stands.eq(0).to_kind(self.bias.kind()) * HIDDEN;
        self.bias.select(3, self.filled + 1).copy_(&hidden.view([rows, 1, 1]));
        let last = Tensor::arange(rows, (Kind::Int64, decoder.device())) * 2 + &stands;
        self.filled = length;
        let _ = self.positions.g_add_(&(&stands + 1));
        self.on_gpu.iter_mut().for_each(|on_gpu| on_gpu.set_place(length));
        self.predict(stream.index_select(0, &last));
    }
}
