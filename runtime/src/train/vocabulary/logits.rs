//! The sources of next-token logits: given, projected from hidden states, composed of others.

use std::cell::RefCell;
use std::rc::Rc;

use mopd_kernels::gemm::columns_at_once;
use mopd_kernels::tensor;
use tch::{Device, Kind, Tensor};

use super::composed::Composed;
use super::listed::Listed;
use super::mapped::MappedLogits;
use super::masked;
use crate::machine::place::Place;
use crate::mapped::MappedTensor;
use crate::model::{cap, logits};

/// The source of the next-token logits of consecutive tokens.
pub enum Logits {
    /// `[tokens, vocabulary]`. [`Vocabulary::gradient`] overwrites the student's.
    Given(Tensor),
    /// The product of the last hidden states, `[tokens, width]`, and the LM head, `[vocabulary,
    /// width]`; with a `softcap` c, c * tanh(product / c).
    Projected { hidden: Tensor, lm_head: LmHead, softcap: Option<f64>, scalar_head: Option<Tensor> },
    /// Composed of others, in single precision.
    Composed(Composed),
    /// Logits of a model with another vocabulary.
    Mapped(MappedLogits),
    /// Log-probabilities of some entries.
    Listed(Listed),
    /// The number of tokens; they have no logits, because no scorer has the role.
    Absent(i64),
}

/// An LM head, `[vocabulary, width]`.
pub enum LmHead {
    Held(Tensor),
    /// Made when its tokens are processed, and freed after them.
    Fetched(LazyTensor),
    InFile(LmHeadInFile),
}

/// An LM head in bf16 that stays in its mapped file. A product reads some thousand rows at a time, so the
/// head takes no memory of its own.
#[derive(Clone)]
pub struct LmHeadInFile {
    stored: MappedTensor,
}

impl LmHeadInFile {
    /// `None` where its numbers would have to be converted first, or where the CPU engine may not run.
    pub fn new(place: Place, kind: Kind, stored: MappedTensor) -> Option<LmHeadInFile> {
        place.loops()?;
        let [_, width] = stored.shape();
        let is_readable = kind == Kind::BFloat16 && tensor::multiplies_rows(width);
        (is_readable && stored.as_bf16().is_some()).then_some(LmHeadInFile { stored })
    }

    /// Logits `[rows, vocabulary]` of hidden states `[rows, width]`, in single precision, with the same bits
    /// as from the matrix in memory.
    fn logits(&self, hidden: &Tensor) -> Tensor {
        let [entries, width] = self.stored.shape();
        let mut logits = Tensor::empty([hidden.size()[0], entries as i64], (Kind::Float, Device::Cpu));
        let at_once = columns_at_once(width);
        for first in (0..entries).step_by(at_once) {
            let part = self.stored.narrow(first, at_once.min(entries - first)).expect("some of its rows");
            part.expect();
            let numbers = part.as_bf16().expect("looked at when it was made");
            tensor::multiply_by_rows(hidden, numbers, &mut logits, first);
            part.release();
        }
        logits
    }
}

/// A tensor that is made on demand.
#[derive(Clone)]
pub struct LazyTensor {
    make: Rc<dyn Fn() -> Tensor>,
    pub(super) held: Rc<RefCell<Option<Tensor>>>,
}

impl LazyTensor {
    /// `held` is the tensor, if it was made before.
    pub fn new(make: impl Fn() -> Tensor + 'static, held: Option<Tensor>) -> LazyTensor {
        LazyTensor { make: Rc::new(make), held: Rc::new(RefCell::new(held)) }
    }

    pub(super) fn get(&self) -> Tensor {
        self.held.borrow_mut().get_or_insert_with(|| (self.make)()).shallow_clone()
    }

    pub(super) fn release(&self) {
        *self.held.borrow_mut() = None;
    }
}

impl LmHead {
    pub(super) fn entries(&self) -> i64 {
        match self {
            LmHead::Held(lm_head) => lm_head.size()[0],
            LmHead::Fetched(fetched) => fetched.get().size()[0],
            LmHead::InFile(lm_head) => lm_head.stored.shape()[0] as i64,
        }
    }

    /// See [`model::logits`](logits).
    fn logits(&self, place: Place, hidden: &Tensor, softcap: Option<f64>) -> Tensor {
        match self {
            LmHead::Held(lm_head) => logits(place, hidden, lm_head, softcap),
            LmHead::Fetched(fetched) => logits(place, hidden, &fetched.get(), softcap),
            LmHead::InFile(lm_head) => cap(lm_head.logits(hidden), softcap),
        }
    }

    /// The same matrix, not copied.
    fn share(&self) -> LmHead {
        match self {
            LmHead::Held(lm_head) => LmHead::Held(lm_head.shallow_clone()),
            LmHead::Fetched(fetched) => LmHead::Fetched(fetched.clone()),
            LmHead::InFile(lm_head) => LmHead::InFile(lm_head.clone()),
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
                let scalar_head = scalar_head.as_ref().map(Tensor::shallow_clone);
                let (hidden, lm_head) = (hidden.shallow_clone(), lm_head.share());
                Logits::Projected { hidden, lm_head, softcap: *softcap, scalar_head }
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

    /// The output of the model's scalar head at each token, `[tokens]`, in single precision or in double; 0
    /// where no scorer has the role. `None` without such a head.
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

    pub(super) fn release(&self) {
        match self {
            Logits::Projected { lm_head: LmHead::Fetched(fetched), .. } => fetched.release(),
            Logits::Composed(composed) => composed.release(),
            Logits::Mapped(mapped) => mapped.release(),
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

    /// The logits of some rows, `[rows]`, of a model's own logits.
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

    /// The number of columns of a mapped vocabulary; more than the student's ids if some have no counterpart.
    pub(super) fn columns(&self) -> Option<i64> {
        if let Logits::Mapped(mapped) = self { Some(mapped.columns()) } else { None }
    }

    /// `[count, columns]`; `absent` are ids that belong to no token.
    pub(super) fn rows(&self, place: Place, first: i64, count: i64, absent: Option<&Tensor>) -> Tensor {
        let logits = match self {
            Logits::Given(logits) => logits.narrow(0, first, count),
            Logits::Projected { hidden, lm_head, softcap, .. } => {
                lm_head.logits(place, &hidden.narrow(0, first, count), *softcap)
            }
            Logits::Composed(composed) => composed.rows(place, first, count, absent),
            Logits::Mapped(mapped) => mapped.rows(place, first, count),
            Logits::Listed(listed) => listed.rows(first, count),
            Logits::Absent(_) => unreachable!("only tokens that a scorer has logits of are read"),
        };
        masked(logits, absent)
    }
}
