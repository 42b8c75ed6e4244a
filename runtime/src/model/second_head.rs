//! A second head, which predicts the token behind the next one (arXiv:2605.27255).
//!
//! A step draws a token from the last hidden state h, as ever. Its embedding e, normalised to a mean square
//! of 1, and h make a second hidden state, h' = h + W_out silu(W_in [h; e]), that the same LM head reads.
//! The log-odds that the second token stands are a product with h': they are known before it is drawn, so
//! what is drawn is of the head's own distribution whether or not it stands.

use tch::{Kind, Tensor, no_grad_guard};

use super::decoder::Decoder;
use crate::machine::transfer::upload;

/// The log-odds that first tokens stand, which they always do: in single precision their sigmoid is 1.
pub const CERTAIN: f32 = 40.0;

/// Its matrices.
pub struct SecondHead {
    /// `[width, 2 * width]`
    pub(super) input: Tensor,
    /// `[width, width]`
    pub(super) output: Tensor,
    /// `[1, width]`
    pub(super) confidence: Tensor,
}

impl SecondHead {
    pub(super) fn matrices(&self) -> [&Tensor; 3] {
        [&self.input, &self.output, &self.confidence]
    }

    /// From hidden states that predicted first tokens, and these tokens as the layers read them, `[rows,
    /// width]` each: the second hidden states, and the log-odds that second tokens stand, `[rows]`, in single
    /// precision or in double.
    fn forward(&self, first: &Tensor, read: &Tensor, epsilon: f64) -> (Tensor, Tensor) {
        let read = read.rms_norm::<&Tensor>([read.size()[1]], None, epsilon);
        let inner = Tensor::cat(&[first, &read], 1).linear::<&Tensor>(&self.input, None).silu();
        let second = first + inner.linear::<&Tensor>(&self.output, None);
        let wide = if second.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let logits = second.to_kind(wide).mv(&self.confidence.to_kind(wide).view([-1]));
        (second, logits)
    }
}

/// Its part of a forward pass over tokens that are trained on, with what the gradient needs.
pub struct SecondPass {
    /// `[pairs]`: the places of second tokens among all. The token before each is the first of its pair.
    places: Tensor,
    /// `[pairs]`: the first tokens.
    tokens: Tensor,
    first: Tensor,
    read: Tensor,
    second: Tensor,
    logits: Tensor,
}

/// d loss / d what a second head reads with, and d loss / d first tokens as it read them.
pub struct SecondHeadGrad {
    /// In the order of the layout.
    pub(super) matrices: Vec<Tensor>,
    pub(super) tokens: Tensor,
    /// `[pairs, width]`
    pub(super) read: Tensor,
}

impl Decoder {
    /// What the LM head makes logits of, for tokens behind `tokens`, and the log-odds that these stand; from
    /// the hidden states that predicted `tokens`.
    ///
    /// # Panics
    /// Where the model has no second head.
    pub fn second(&self, first: &Tensor, tokens: &Tensor) -> (Tensor, Tensor) {
        let _guard = no_grad_guard();
        self.second_head().forward(first, &self.embed(tokens), self.config.norm.epsilon)
    }

    fn second_head(&self) -> &SecondHead {
        self.second_head.as_ref().expect("a student that draws two tokens in a step has a second head")
    }

    /// The same for the tokens at `places` of a batch, of which `hidden`, `[tokens, width]`, are the last
    /// hidden states and `targets` the tokens; none where there are no places.
    pub fn second_pass(&self, hidden: &Tensor, targets: &Tensor, places: &[i64]) -> Option<SecondPass> {
        if places.is_empty() {
            return None;
        }
        let places = upload(places, self.device());
        let before = &places - 1;
        let (tokens, first, read) = {
            let _guard = no_grad_guard();
            let tokens = targets.index_select(0, &before);
            (tokens.shallow_clone(), hidden.index_select(0, &before), self.embed(&tokens))
        };
        let [first, read] = [first, read].map(|input| input.detach().set_requires_grad(true));
        let (second, logits) = self.second_head().forward(&first, &read, self.config.norm.epsilon);
        Some(SecondPass { places, tokens, first, read, second, logits })
    }
}

impl SecondPass {
    /// Hidden states of all tokens, those of second tokens in their places.
    pub fn hidden(&self, hidden: &Tensor) -> Tensor {
        let _guard = no_grad_guard();
        hidden.index_copy(0, &self.places, &self.second.detach())
    }

    /// `[tokens]`: the log-odds that second tokens stand; [`CERTAIN`] elsewhere.
    pub fn logits(&self, tokens: i64) -> Tensor {
        let _guard = no_grad_guard();
        let logits = self.logits.detach();
        let certain = Tensor::full([tokens], f64::from(CERTAIN), (logits.kind(), logits.device()));
        certain.index_copy(0, &self.places, &logits)
    }

    /// From d loss / d hidden states of all tokens and d loss / d log-odds, `[tokens]`: d loss / d what the
    /// layers answered, and d loss / d the head.
    pub fn backward(
        &self,
        decoder: &Decoder,
        grad_hidden: &Tensor,
        grad_logits: Option<&Tensor>,
    ) -> (Tensor, SecondHeadGrad) {
        let wide = grad_hidden.kind();
        let own = grad_hidden.index_select(0, &self.places);
        let mut number = (self.second.to_kind(wide) * own).sum(None::<Kind>);
        let grad_logits = match grad_logits {
            Some(grad) => grad.index_select(0, &self.places).to_kind(self.logits.kind()),
            None => self.logits.zeros_like(),
        };
        number += (&self.logits * grad_logits).sum(None::<Kind>).to_kind(wide);
        let head = decoder.second_head();
        let wanted: Vec<&Tensor> = [&self.first, &self.read].into_iter().chain(head.matrices()).collect();
        let mut found = Tensor::run_backward(&[number], &wanted, true, false).into_iter();
        let mut next = || found.next().expect("one for each that is asked for");
        let (grad_first, read) = (next().to_kind(wide), next());
        let matrices = vec![next(), next(), next()];
        let _guard = no_grad_guard();
        // The layers' own prediction of a second token is read by nobody.
        let without = grad_hidden.index_fill(0, &self.places, 0.0);
        let grad = without.index_add(0, &(&self.places - 1), &grad_first);
        (grad, SecondHeadGrad { matrices, tokens: self.tokens.shallow_clone(), read })
    }
}
