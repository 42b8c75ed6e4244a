//! Where next-token logits come from: given, projected from hidden states, composed of others'.

use std::cell::RefCell;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::composed::Composed;
use super::listed::Listed;
use super::mapped::Mapped;
use super::masked;
use crate::machine::place::Place;
use crate::model::logits;

/// Where next-token logits of consecutive tokens come from.
pub enum Logits {
    /// `[tokens, vocabulary]`. [`Vocabulary::gradient`] writes the student's over.
    Given(Tensor),
    /// The product of the last hidden states, `[tokens, width]`, and the LM head, `[vocabulary,
    /// width]`; with a `softcap` c, c * tanh(product / c).
    Projected { hidden: Tensor, lm_head: LmHead, softcap: Option<f64>, scalar_head: Option<Tensor> },
    /// Made of others', in single precision.
    Composed(Composed),
    /// Of a model with another vocabulary.
    Mapped(Mapped),
    /// Log-probabilities of some entries.
    Listed(Listed),
    /// Of so many tokens, which nobody asks about.
    Absent(i64),
}

/// An LM head, `[vocabulary, width]`.
pub enum LmHead {
    Held(Tensor),
    /// Made when the tokens that it is for have their turn, and let go when others have.
    Fetched(Fetched),
}

/// A tensor that can be made anew.
#[derive(Clone)]
pub struct Fetched {
    make: Rc<dyn Fn() -> Tensor>,
    pub(super) held: Rc<RefCell<Option<Tensor>>>,
}

impl Fetched {
    /// `held` is the tensor, if it was made before.
    pub fn new(make: impl Fn() -> Tensor + 'static, held: Option<Tensor>) -> Fetched {
        Fetched { make: Rc::new(make), held: Rc::new(RefCell::new(held)) }
    }

    pub(super) fn get(&self) -> Tensor {
        self.held.borrow_mut().get_or_insert_with(|| (self.make)()).shallow_clone()
    }

    pub(super) fn let_go(&self) {
        *self.held.borrow_mut() = None;
    }
}

impl LmHead {
    pub(super) fn get(&self) -> Tensor {
        match self {
            LmHead::Held(lm_head) => lm_head.shallow_clone(),
            LmHead::Fetched(fetched) => fetched.get(),
        }
    }
}

impl Logits {
    pub fn projected(hidden: &Tensor, lm_head: &Tensor) -> Logits {
        Logits::Projected {
            hidden: hidden.detach(),
            lm_head: LmHead::Held(lm_head.detach()),
            softcap: None,
            scalar_head: None,
        }
    }

    /// The same numbers, not copied.
    pub fn share(&self) -> Logits {
        match self {
            Logits::Given(logits) => Logits::Given(logits.shallow_clone()),
            Logits::Projected { hidden, lm_head, softcap, scalar_head } => {
                let lm_head = match lm_head {
                    LmHead::Held(lm_head) => LmHead::Held(lm_head.shallow_clone()),
                    LmHead::Fetched(fetched) => LmHead::Fetched(fetched.clone()),
                };
                let scalar_head = scalar_head.as_ref().map(Tensor::shallow_clone);
                Logits::Projected { hidden: hidden.shallow_clone(), lm_head, softcap: *softcap, scalar_head }
            }
            Logits::Composed(composed) => Logits::Composed(composed.part(0, self.tokens())),
            Logits::Mapped(mapped) => Logits::Mapped(mapped.part(0, self.tokens())),
            Logits::Listed(listed) => Logits::Listed(listed.share()),
            Logits::Absent(tokens) => Logits::Absent(*tokens),
        }
    }

    /// `count` tokens from `first`, not copied.
    pub fn part(&self, first: i64, count: i64) -> Logits {
        let mut part = self.share();
        match &mut part {
            Logits::Given(values) | Logits::Projected { hidden: values, .. } => {
                *values = values.narrow(0, first, count);
            }
            Logits::Composed(composed) => *composed = composed.part(first, count),
            Logits::Mapped(mapped) => *mapped = mapped.part(first, count),
            Logits::Listed(listed) => *listed = listed.part(first, count),
            Logits::Absent(tokens) => *tokens = count,
        }
        part
    }

    /// What the model's scalar head says at each token, `[tokens]`, in single precision or in double; 0 where
    /// nobody is asked. None for what has no such head.
    pub(super) fn scalars(&self, device: Device) -> Option<Tensor> {
        match self {
            Logits::Projected { hidden, scalar_head: Some(head), .. } => {
                let wide = if hidden.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                Some(hidden.to_kind(wide).mv(&head.to_kind(wide).view([-1])))
            }
            Logits::Absent(tokens) => Some(Tensor::zeros([*tokens], (Kind::Float, device))),
            _ => None,
        }
    }

    pub(super) fn softcap(&self) -> Option<f64> {
        if let Logits::Projected { softcap, .. } = self { *softcap } else { None }
    }

    pub(super) fn let_go(&self) {
        match self {
            Logits::Projected { lm_head: LmHead::Fetched(fetched), .. } => fetched.let_go(),
            Logits::Composed(composed) => composed.let_go(),
            Logits::Mapped(mapped) => mapped.let_go(),
            Logits::Projected { .. } | Logits::Given(_) | Logits::Listed(_) | Logits::Absent(_) => {}
        }
    }

    pub fn tokens(&self) -> i64 {
        match self {
            Logits::Given(values) | Logits::Projected { hidden: values, .. } => values.size()[0],
            Logits::Composed(composed) => composed.tokens(),
            Logits::Mapped(mapped) => mapped.tokens(),
            Logits::Listed(listed) => listed.tokens(),
            Logits::Absent(tokens) => *tokens,
        }
    }

    /// Those of some rows, `[rows]`, of logits that are a model's own.
    pub(super) fn chosen(&self, rows: &Tensor) -> Logits {
        let mut chosen = self.share();
        match &mut chosen {
            Logits::Given(values) | Logits::Projected { hidden: values, .. } => {
                *values = values.index_select(0, rows);
            }
            Logits::Composed(_) | Logits::Mapped(_) | Logits::Listed(_) | Logits::Absent(_) => {
                unreachable!("a model's own logits are chosen from")
            }
        }
        chosen
    }

    /// More columns than the student's vocabulary has ids, where some of another's have no counterpart.
    pub(super) fn columns(&self) -> Option<i64> {
        if let Logits::Mapped(mapped) = self { Some(mapped.columns()) } else { None }
    }

    /// `absent` are ids that no token has.
    pub(super) fn rows(&self, place: Place, first: i64, count: i64, absent: Option<&Tensor>) -> Tensor {
        let logits = match self {
            Logits::Given(logits) => logits.narrow(0, first, count),
            Logits::Projected { hidden, lm_head, softcap, .. } => {
                logits(place, &hidden.narrow(0, first, count), &lm_head.get(), *softcap)
            }
            Logits::Composed(composed) => composed.rows(place, first, count, absent),
            Logits::Mapped(mapped) => mapped.rows(place, first, count),
            Logits::Listed(listed) => listed.rows(first, count),
            Logits::Absent(_) => unreachable!("only tokens that a scorer has logits of are read"),
        };
        masked(logits, absent)
    }
}
