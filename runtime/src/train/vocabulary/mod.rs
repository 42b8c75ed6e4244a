//! Everything that is computed over the vocabulary axis, some tokens at a time.
//!
//! A step needs numbers per token from next-token distributions, and later d loss / d logits of the student.
//! A plain implementation holds several tensors of tokens times vocabulary in single precision, for each
//! model and for each operation that is differentiated. Here logits are computed from the last hidden states
//! in blocks of rows, and everything inside a block in chunks that fit the CPU's cache. So only the hidden
//! states grow with the number of tokens, and no memory grows with tokens times vocabulary.
//!
//! There are two passes. The first, without gradient, computes [`Quantity`]s and the values of live
//! [`Primitive`]s. The objective's program turns these into d loss / d primitive per token. From that, the
//! second pass computes d loss / d logits block by block, each multiplied by the LM head at once. The first
//! pass already computes d primitive / d logits: it is kept for as many blocks as fit in memory, and the
//! second pass recomputes the logits of the others.

mod composed;
mod divergence;
mod listed;
mod logits;
mod loops;
mod mapped;
mod quantities;
mod resolve;
mod rows;
mod summands;
mod support;
#[cfg(test)]
mod tests;
mod whole;

use std::cell::RefCell;
use std::collections::HashMap;

use mopd_plan::Role;
use tch::{Kind, Tensor, no_grad_guard};

pub use self::composed::{Composed, ComposedPart, part};
pub use self::divergence::MixtureWeight;
pub use self::listed::Listed;
pub use self::logits::{LazyTensor, LmHead, LmHeadInFile, Logits};
use self::loops::{Loops, zero_rows};
pub use self::mapped::{Columns, MappedLogits, Spans, logps_of};
pub use self::quantities::{Primitive, Quantity};
pub use self::resolve::Parameters;
use self::rows::{LogitRows, LogpGrad};
pub use self::support::largest;
use crate::machine::place::Place;
use crate::machine::transfer::upload;
use crate::model::{ABSENT, LmHeadGrad};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Sets new logits to [`ABSENT`] at ids that belong to no token.
fn masked(mut logits: Tensor, absent: Option<&Tensor>) -> Tensor {
    if let Some(absent) = absent {
        let _ = logits.index_fill_(1, absent, f64::from(ABSENT));
    }
    logits
}

/// The distributions of a step, of all roles.
pub struct Vocabulary {
    place: Place,
    /// `[tokens]`: the tokens of the completions.
    pub targets: Tensor,
    pub student: Logits,
    /// The logits of every other role that is read, in consecutive parts with as many tokens as the student's
    /// in all.
    pub others: Vec<(Role, Vec<Logits>)>,
    /// The role whose logits the completions were drawn from, and the temperature.
    pub sampler: Option<(Role, f64)>,
    /// The temperature of the trained policy: see [`mopd_plan::Objective::temperature`].
    pub temperature: f64,
    /// The tokens that end a completion, `[ends]`.
    pub ends: Tensor,
    /// The spans of roles with another tokenizer.
    pub spans: Vec<Spans>,
    /// Ids that no token has, if there are any.
    absent: Option<Tensor>,
    /// By a block's first token: d live primitive / d logits of the student, `[block, vocabulary]` each, in
    /// the order of the primitives.
    kept: RefCell<HashMap<i64, Vec<Tensor>>>,
}

/// The number of rows of `vocabulary` elements in `numbers` elements; at least 1.
fn rows_in(numbers: i64, vocabulary: i64) -> i64 {
    (numbers / vocabulary.max(1)).max(1)
}

/// Logits of some tokens.
struct Block {
    first: i64,
    student: Tensor,
    /// Logits of other roles, computed when they are first read.
    others: RefCell<Vec<(Role, Tensor)>>,
}

impl Vocabulary {
    pub fn new(
        place: Place,
        targets: &Tensor,
        student: Logits,
        others: Vec<(Role, Vec<Logits>)>,
        sampler: Option<(Role, f64)>,
        ends: &[Token],
    ) -> Vocabulary {
        let tokens = targets.numel() as i64;
        assert_eq!(student.tokens(), tokens, "the student's logits are of the tokens taken");
        for (role, parts) in &others {
            let of_role: i64 = parts.iter().map(Logits::tokens).sum();
            assert_eq!(of_role, tokens, "the logits of the {} are of the tokens taken", role.name());
        }
        let ends = upload(ends, targets.device());
        let (targets, temperature, absent) = (targets.shallow_clone(), 1.0, None);
        Vocabulary {
            place,
            targets,
            student,
            others,
            sampler,
            temperature,
            ends,
            spans: Vec::new(),
            absent,
            kept: RefCell::default(),
        }
    }

    /// The same logits, without the gradients that a pass over them kept.
    pub fn share(&self) -> Vocabulary {
        let others =
            self.others.iter().map(|(role, parts)| (*role, parts.iter().map(Logits::share).collect()));
        Vocabulary {
            place: self.place,
            targets: self.targets.shallow_clone(),
            student: self.student.share(),
            others: others.collect(),
            sampler: self.sampler,
            temperature: self.temperature,
            ends: self.ends.shallow_clone(),
            spans: self.spans.iter().map(Spans::share).collect(),
            absent: self.absent.as_ref().map(Tensor::shallow_clone),
            kept: RefCell::default(),
        }
    }

    /// The logits of a scorer, in consecutive parts.
    ///
    /// # Panics
    /// If the pass does not have them.
    pub fn logits(&self, role: Role) -> &[Logits] {
        let given = self.others.iter().find(|(of, _)| *of == role);
        let (_, given) =
            given.unwrap_or_else(|| panic!("a pass that reads the {} has its logits", role.name()));
        given
    }

    /// Replaces a role's logits: compositions are computed after the logits of their members.
    pub fn replace(&mut self, role: Role, parts: Vec<Logits>) {
        let of_role: i64 = parts.iter().map(Logits::tokens).sum();
        assert_eq!(of_role, self.tokens(), "the logits of the {} are of the tokens taken", role.name());
        let known = self.others.iter_mut().find(|(known, _)| *known == role);
        known.expect("a role that is scored").1 = parts;
    }

    /// The same for a policy with another temperature.
    pub fn at(self, temperature: f64) -> Vocabulary {
        Vocabulary { temperature, ..self }
    }

    /// The same with probability 0 for these ids, for all models.
    pub fn without(self, absent: &[Token]) -> Vocabulary {
        let ids = || upload(absent, self.targets.device());
        Vocabulary { absent: (!absent.is_empty()).then(ids), ..self }
    }

    pub fn tokens(&self) -> i64 {
        self.student.tokens()
    }

    /// The quantities at every token, `[tokens]` each.
    pub fn values(&self, quantities: &[Quantity]) -> Vec<Tensor> {
        let [values, _] = self.read(quantities, &[]);
        values
    }

    /// The quantities and the live primitives at every token, `[tokens]` each. A later call of
    /// [`Vocabulary::gradient`] must have the same primitives.
    pub fn read(&self, quantities: &[Quantity], live: &[Primitive]) -> [Vec<Tensor>; 2] {
        let _guard = no_grad_guard();
        // Allocated before the blocks, like the gradients below: long-lived tensors between larger
        // temporary ones would fragment the heap until the next block's no longer fit into freed memory.
        let empty = || Tensor::empty([self.tokens()], (Kind::Float, self.targets.device()));
        let values: [Vec<Tensor>; 2] =
            [quantities.iter().map(|_| empty()).collect(), live.iter().map(|_| empty()).collect()];
        let mut kept = self.kept.borrow_mut();
        let mut room = self.place.sizes.kept;
        let blocks: Vec<_> = self
            .blocks()
            .map(|(first, count)| (first, count, self.room_for_grad(count, live.len(), &mut room)))
            .collect();
        for (first, count, grad) in blocks {
            let block = self.block(first, count);
            for rows in self.chunks(&block) {
                let place = |values: &Tensor| values.narrow(0, rows.first, rows.len());
                for (quantity, values) in zip_equal(quantities, &values[0]) {
                    place(values).copy_(&quantity.values(&rows));
                }
                for (index, (primitive, values)) in zip_equal(live, &values[1]).enumerate() {
                    place(values).copy_(&primitive.values(&rows));
                    if let Some(grad) = &grad {
                        let one = Tensor::ones([rows.len(), 1], (Kind::Float, self.targets.device()));
                        let mut grad = grad[index].narrow(0, rows.first - first, rows.len());
                        self.grad_logits(&rows, [(primitive, one)].into_iter(), &mut grad);
                    }
                }
            }
            kept.extend(grad.map(|grad| (first, grad)));
        }
        values
    }

    /// Tensors for the gradients of each primitive in a block of `count` tokens, if they fit into the `room`
    /// that is left. No gradients are kept where logits are given, since these need not be recomputed.
    fn room_for_grad(&self, count: i64, primitives: usize, room: &mut usize) -> Option<Vec<Tensor>> {
        let Logits::Projected { hidden, .. } = &self.student else { return None };
        // The kind that the products with the LM head take.
        let kind = hidden.kind();
        let size = [count, self.vocabulary()];
        let bytes = primitives * (size[0] * size[1]) as usize * kind.elt_size_in_bytes();
        *room = room.checked_sub(bytes).filter(|_| bytes > 0)?;
        let empty = || Tensor::empty(size, (kind, hidden.device()));
        Some((0..primitives).map(|_| empty()).collect())
    }

    /// d loss / d logits of the student, from d loss / d primitive `[tokens]`. Overwrites the logits.
    pub fn gradient(self, live: &[(Primitive, Tensor)], mut give: impl FnMut(ByLogits)) {
        let _guard = no_grad_guard();
        for (_, adjoint) in live {
            assert_eq!(adjoint.numel() as i64, self.tokens(), "d loss / d primitive of every token");
        }
        for (first, count) in self.blocks() {
            if let Some(grad) = self.kept.borrow_mut().remove(&first) {
                assert_eq!(grad.len(), live.len(), "the primitives of the first pass");
                give(scaled_grad(
                    self.place,
                    first,
                    grad,
                    live.iter().map(|(_, adjoint)| adjoint.narrow(0, first, count)),
                ));
                continue;
            }
            let block = self.block(first, count);
            for rows in self.chunks(&block) {
                let mut logits = block.student.narrow(0, rows.first - first, rows.len());
                let live = live.iter().map(|(primitive, adjoint)| (primitive, rows.column(adjoint)));
                // The gradient overwrites the logits of these rows, which are not read any more.
                self.grad_logits(&rows, live, &mut logits);
            }
            give(ByLogits { first, grad: block.student, scale: None });
        }
    }

    /// Writes d loss / d logits of some rows to `out`, `[rows, vocabulary]`, which may be the logits
    /// themselves; `live` has d loss / d primitive, `[rows, 1]`. 0 at ids that belong to no token.
    fn grad_logits<'p>(
        &self,
        rows: &LogitRows,
        live: impl Iterator<Item = (&'p Primitive<'p>, Tensor)>,
        out: &mut Tensor,
    ) {
        let live: Vec<_> = live.collect();
        if let [(Primitive::Divergence(divergence), adjoint)] = &live[..]
            && self.student.softcap().is_none()
            && divergence.write_gradient(rows, adjoint, out)
        {
            // Ids that belong to no token have probability 0, so their gradient is 0.
            return;
        }
        if out.kind() == Kind::BFloat16 {
            // Rounded once, at the end.
            let mut single = Tensor::empty(out.size(), (Kind::Float, out.device()));
            self.grad_logits(rows, live.into_iter(), &mut single);
            return out.copy_(&single);
        }
        let mut grad = LogpGrad::default();
        for (primitive, adjoint) in live {
            // Rows without a selected token are skipped, which also keeps an infinite gradient from becoming
            // NaN. On a GPU the test would cost more than the computation: it waits for all earlier kernels.
            let selects = || adjoint.count_nonzero(None).int64_value(&[]) > 0;
            if self.place.loops().is_none() || selects() {
                primitive.accumulate_grad(rows, &adjoint, &mut grad);
            }
        }
        // d cap(x) / d x = 1 - (cap(x) / c)^2, before the logits are overwritten.
        let bent = self.student.softcap().map(|cap| -(rows.logits() / cap).square_() + 1.0);
        grad.into_logits(rows, out);
        if let Some(bent) = bent {
            *out *= bent;
        }
        if let Some(absent) = &self.absent {
            let _ = out.index_fill_(1, absent, 0.0);
        }
    }

    /// [`Vocabulary::gradient`] through the LM head: d loss / d hidden states, `[tokens, width]`, in single
    /// precision where they are in half, and d loss / d LM head, `[vocabulary, width]`, if `of_lm_head`.
    pub fn projected_gradient(
        self,
        live: &[(Primitive, Tensor)],
        hidden: &Tensor,
        lm_head: &Tensor,
        of_lm_head: bool,
    ) -> (Tensor, Option<LmHeadGrad>) {
        let _guard = no_grad_guard();
        let mut grad_hidden = Vec::new();
        let mut grad_lm_head = of_lm_head.then(|| LmHeadGrad::zero(lm_head, self.place));
        let (half, place) = (hidden.kind() == Kind::BFloat16, self.place);
        self.gradient(live, |ByLogits { first, grad, scale }| {
            let rows = hidden.narrow(0, first, grad.size()[0]);
            let grad = if half { grad.to_kind(Kind::BFloat16) } else { grad };
            let product = if half { place.multiply(&grad, lm_head) } else { grad.mm(lm_head) };
            match scale {
                // The scale is applied to the product, which is narrower than the gradient's rows.
                Some(scale) => {
                    grad_hidden.push(product * &scale);
                    if let Some(sum) = &mut grad_lm_head {
                        sum.keep(grad, (rows * scale).to_kind(hidden.kind()));
                    }
                }
                None => {
                    grad_hidden.push(product);
                    if let Some(sum) = &mut grad_lm_head {
                        sum.add(&grad, &rows);
                    }
                }
            }
        });
        (Tensor::cat(&grad_hidden, 0), grad_lm_head)
    }

    /// The output of a role's scalar head at each token, `[tokens]`; `None` where one of its models has no
    /// such head.
    pub fn scalars(&self, role: Role) -> Option<Tensor> {
        let _guard = no_grad_guard();
        let device = self.targets.device();
        match role {
            Role::Student => self.student.scalars(device),
            _ => {
                let parts = self.logits(role).iter().map(|logits| logits.scalars(device));
                Some(Tensor::cat(&parts.collect::<Option<Vec<_>>>()?, 0))
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (tokens, most) = (self.tokens(), rows_in(self.place.sizes.block, self.vocabulary()));
        // Blocks of about equal size: a product of a few rows has the same overhead as one of many.
        let rows = (tokens as u64).div_ceil((tokens as u64).div_ceil(most as u64).max(1)).max(1) as i64;
        (0..tokens).step_by(rows as usize).map(move |first| (first, rows.min(tokens - first)))
    }

    fn vocabulary(&self) -> i64 {
        match &self.student {
            Logits::Given(logits) => logits.size()[1],
            Logits::Projected { lm_head, .. } => lm_head.entries(),
            Logits::Composed(_) | Logits::Mapped(_) | Logits::Listed(_) | Logits::Absent(_) => {
                unreachable!("the student is a model")
            }
        }
    }

    fn block(&self, first: i64, count: i64) -> Block {
        let student = self.student.rows(self.place, first, count, self.absent.as_ref());
        Block { first, student, others: RefCell::default() }
    }

    /// The block's logits of a role that is not the student.
    ///
    /// # Panics
    /// If the pass was not given the role's logits; callers check that before they start one.
    fn other(&self, block: &Block, role: Role) -> Tensor {
        let mut known = block.others.borrow_mut();
        if let Some((_, logits)) = known.iter().find(|(of, _)| *of == role) {
            return logits.shallow_clone();
        }
        let logits = rows_of(
            self.place,
            self.logits(role),
            block.first,
            block.student.size()[0],
            self.absent.as_ref(),
        );
        known.push((role, logits.shallow_clone()));
        logits
    }

    fn chunks<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = LogitRows<'a>> + use<'a> {
        let (count, step) = (block.student.size()[0], rows_in(self.place.sizes.chunk, self.vocabulary()));
        (0..count)
            .step_by(step as usize)
            .map(move |from| LogitRows::new(self, block, from, step.min(count - from)))
    }
}

/// d loss / d logits of a block.
pub struct ByLogits {
    /// The block's first token.
    first: i64,
    /// `[block, vocabulary]`
    grad: Tensor,
    /// `[block, 1]`: the rows must be multiplied by it; `None` where they are complete.
    scale: Option<Tensor>,
}

impl ByLogits {
    /// The first token, and the complete gradient, `[block, vocabulary]`.
    pub fn whole(self) -> (i64, Tensor) {
        let ByLogits { first, grad, scale } = self;
        let kind = grad.kind();
        (first, if let Some(scale) = scale { (grad * scale).to_kind(kind) } else { grad })
    }
}

/// d loss / d logits, from d primitive / d logits and d loss / d primitive, `[block]`, of live primitives.
fn scaled_grad(
    place: Place,
    first: i64,
    grad: Vec<Tensor>,
    adjoints: impl Iterator<Item = Tensor>,
) -> ByLogits {
    let mut parts = grad.into_iter().zip(adjoints).map(|(mut grad, adjoint)| {
        let adjoint = adjoint.unsqueeze(1);
        // Tokens that are not selected have gradient 0, even if it is infinite here.
        zero_rows(Loops::at(place), &mut grad, &adjoint);
        (grad, adjoint)
    });
    let one = parts.next().expect("gradients are kept of live primitives");
    // The sum over several primitives is complete: its scale is 1.
    let (grad, scale) =
        parts.fold(one, |(sum, scale), (grad, adjoint)| (sum * scale + grad * &adjoint, adjoint.ones_like()));
    ByLogits { first, grad, scale: Some(scale) }
}

/// Whether a role's rows are log-probabilities, because some come from a server that lists a few entries.
fn are_listed(parts: &[Logits]) -> bool {
    parts.iter().any(|part| matches!(part, Logits::Listed(_)))
}

/// The rows of `count` tokens from `first` of consecutive parts: logits, or log-probabilities where some
/// parts [`are_listed`].
fn rows_of(place: Place, parts: &[Logits], first: i64, count: i64, absent: Option<&Tensor>) -> Tensor {
    let listed = are_listed(parts);
    let composed = listed || parts.iter().any(|part| matches!(part, Logits::Composed(_) | Logits::Mapped(_)));
    let columns = parts.iter().filter_map(Logits::columns).max();
    let mut whole: Option<Tensor> = None;
    let mut start = 0;
    for logits in parts {
        let end = start + logits.tokens();
        let (from, to) = (first.max(start), (first + count).min(end));
        if from < to {
            let rows = logits.rows(place, from - start, to - from, absent);
            let rows = if listed && !matches!(logits, Logits::Listed(_)) {
                rows.to_kind(Kind::Float).log_softmax(-1, Kind::Float)
            } else {
                rows
            };
            // Models with fewer columns have probability 0 in the missing ones.
            let missing = columns.map_or(0, |columns| columns - rows.size()[1]);
            let rows = if missing > 0 { rows.pad([0, missing], "constant", f64::from(ABSENT)) } else { rows };
            if to - from == count {
                whole = Some(rows);
            } else {
                // Parts are written to their places one by one: concatenating them would take twice the
                // memory.
                let whole = whole.get_or_insert_with(|| {
                    let kind = if composed { Kind::Float } else { rows.kind() };
                    Tensor::empty([count, rows.size()[1]], (kind, rows.device()))
                });
                whole.narrow(0, from - first, to - from).copy_(&rows);
            }
        }
        // Only the part that the next tokens need is kept: a block may have tokens of every model.
        if end <= first + count || start >= first + count {
            logits.release();
        }
        start = end;
    }
    whole.expect("the parts are as many tokens as the student has, and no block is empty")
}
