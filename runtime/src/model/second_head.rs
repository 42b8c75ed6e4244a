//! A second head, which predicts the token after the next one (arXiv:2605.27255).
//!
//! A step draws the first token from the last hidden state h, as usual. Its embedding e, normalised to a mean
//! square of 1, and h give a second hidden state, h' = h + W_out silu(W_in [h; e]), which the same LM head
//! reads. The log-odds that the second token is accepted are a product with h'. They do not depend on the
//! second token, so that token follows the head's own distribution whether it is accepted or not.

use tch::{Kind, Tensor, no_grad_guard};

use super::decoder::Decoder;
use crate::machine::transfer::upload;

/// The log-odds of first tokens, which are always accepted: its sigmoid is 1 in single precision.
pub const CERTAIN: f32 = 40.0;

/// The matrices of a second head.
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

    /// From the hidden states that predicted first tokens, and the embeddings of these tokens, `[rows,
    /// width]` each: the second hidden states, and the log-odds that second tokens are accepted, `[rows]`, in
    /// single precision or in double.
    fn forward(&self, first: &Tensor, read: &Tensor, epsilon: f64) -> (Tensor, Tensor) {
        let read = read.rms_norm::<&Tensor>([read.size()[1]], None, epsilon);
        let inner = Tensor::cat(&[first, &read], 1).linear::<&Tensor>(&self.input, None).silu();
        let second = first + inner.linear::<&Tensor>(&self.output, None);
        let wide = if second.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let logits = second.to_kind(wide).mv(&self.confidence.to_kind(wide).view([-1]));
        (second, logits)
    }
}

/// The second head's part of a forward pass over trained tokens, with what its gradient needs.
pub struct SecondPass {
    /// `[pairs]`: the indices of second tokens among all. The token before each is the first of its pair.
    places: Tensor,
    /// `[pairs]`: the first tokens.
    tokens: Tensor,
    first: Tensor,
    read: Tensor,
    second: Tensor,
    logits: Tensor,
}

/// d loss / d matrices of a second head, and d loss / d embeddings of first tokens.
pub struct SecondHeadGrad {
    /// In the order of the layout.
    pub(super) matrices: Vec<Tensor>,
    pub(super) tokens: Tensor,
    /// `[pairs, width]`
    pub(super) read: Tensor,
}

impl Decoder {
    /// The second hidden states, which the LM head reads for the tokens after `tokens`, and the log-odds that
    /// those are accepted. `first` are the hidden states that predicted `tokens`.
    ///
    /// # Panics
    /// If the model has no second head.
    pub fn second(&self, first: &Tensor, tokens: &Tensor) -> (Tensor, Tensor) {
        let _guard = no_grad_guard();
        self.second_head().forward(first, &self.embed(tokens), self.config.norm.epsilon)
    }

    fn second_head(&self) -> &SecondHead {
        self.second_head.as_ref().expect("a student that draws two tokens in a step has a second head")
    }

    /// The same for the tokens at `places` of a batch with last hidden states `hidden`, `[tokens, width]`,
    /// and tokens `targets`; `None` where there are no places.
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
    /// The hidden states of all tokens, with the second hidden states at second tokens.
    pub fn hidden(&self, hidden: &Tensor) -> Tensor {
        let _guard = no_grad_guard();
        hidden.index_copy(0, &self.places, &self.second.detach())
    }

    /// `[tokens]`: the log-odds that second tokens are accepted; [`CERTAIN`] elsewhere.
    pub fn logits(&self, tokens: i64) -> Tensor {
        let _guard = no_grad_guard();
        let logits = self.logits.detach();
        let certain = Tensor::full([tokens], f64::from(CERTAIN), (logits.kind(), logits.device()));
        certain.index_copy(0, &self.places, &logits)
    }

    /// From d loss / d hidden states of all tokens and d loss / d log-odds, `[tokens]`: d loss / d output of
    /// the layers, and d loss / d head.
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
        // The first head's prediction of a second token is not used, so its gradient is 0.
        let without = grad_hidden.index_fill(0, &self.places, 0.0);
        let grad = without.index_add(0, &(&self.places - 1), &grad_first);
        (grad, SecondHeadGrad { matrices, tokens: self.tokens.shallow_clone(), read })
    }
}
