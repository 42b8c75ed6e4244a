//! Everything that is computed over the vocabulary axis, some tokens at a time.
//!
//! A step needs numbers per token from next-token distributions, and later the gradient of the loss into the student's logits. A
//! plain implementation holds several tensors of tokens times vocabulary in single precision, for either model and for each
//! operation that is differentiated. Here logits themselves are made from the last hidden states in blocks of rows, and inside a
//! block everything else in chunks that stay in the processor's cache: memory does not grow with the number of tokens but by
//! hidden states, and not with the vocabulary at all.
//!
//! There are two passes. The first, without gradient, answers [`Quantity`]s. The objective's program turns these into the loss's
//! derivative by each live [`Primitive`] of each token; with it the second pass writes d loss / d logits block by block, to be
//! multiplied by the output matrix at once.

mod divergence;
mod quantities;
mod resolve;
mod rows;
mod summands;
mod support;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;

use mopd_compiler::plan::Role;
use tch::{Device, Kind, Tensor, no_grad_guard};

pub use self::quantities::{Primitive, Quantity};
pub use self::resolve::Parameters;
use self::rows::{Rows, Slopes};
use crate::model::Token;

/// Where next-token logits of consecutive tokens come from.
pub enum Logits {
    /// `[tokens, vocabulary]`. [`Vocabulary::gradient`] writes the student's over.
    Given(Tensor),
    /// The product of the last hidden states, `[tokens, width]`, and the output matrix, `[vocabulary, width]`.
    Projected { hidden: Tensor, matrix: Tensor },
}

impl Logits {
    pub fn projected(hidden: &Tensor, matrix: &Tensor) -> Logits {
        Logits::Projected { hidden: hidden.detach(), matrix: matrix.detach() }
    }

    fn tokens(&self) -> i64 {
        match self {
            Logits::Given(values) | Logits::Projected { hidden: values, .. } => values.size()[0],
        }
    }

    fn rows(&self, first: i64, count: i64) -> Tensor {
        match self {
            Logits::Given(logits) => logits.narrow(0, first, count),
            Logits::Projected { hidden, matrix } => hidden.narrow(0, first, count).linear::<&Tensor>(matrix, None),
        }
    }
}

/// The distributions of a step, of all roles.
pub struct Vocabulary {
    /// `[tokens]`: the tokens taken.
    pub targets: Tensor,
    pub student: Logits,
    /// One after the other, together as many tokens as the student has; none where nobody reads the teacher.
    pub teacher: Vec<Logits>,
    /// Whose logits the completions were drawn from, and at which temperature.
    pub sampler: Option<(Role, f64)>,
    /// The token that ends a completion.
    pub end: Token,
    sizes: Sizes,
    /// Blocks of the first pass that the second need not make again, by their first token.
    kept: RefCell<HashMap<i64, Block>>,
}

/// In elements.
#[derive(Clone, Copy)]
struct Sizes {
    /// Of a chunk: a tensor inside the computation of a divergence.
    chunk: i64,
    /// Of a block: the logits that are made with one product of matrices.
    block: i64,
    /// Of all blocks that are kept between the passes, both models together.
    kept: i64,
}

impl Sizes {
    fn of(device: Device) -> Sizes {
        match device {
            // A chunk of 1 MiB: the few that are at work at one time fit a core's cache. A block of 64 MiB has rows enough for
            // the product to run at full speed.
            Device::Cpu => Sizes { chunk: 1 << 18, block: 1 << 24, kept: 1 << 26 },
            // Starting a kernel costs more than it does on a small chunk.
            _ => Sizes { chunk: 1 << 26, block: 1 << 26, kept: 1 << 28 },
        }
    }

    fn rows(elements: i64, vocabulary: i64) -> i64 {
        (elements / vocabulary.max(1)).max(1)
    }
}

/// Logits of some tokens.
struct Block {
    first: i64,
    student: Tensor,
    teacher: Option<Tensor>,
}

impl Vocabulary {
    pub fn new(targets: &Tensor, student: Logits, teacher: Vec<Logits>, sampler: Option<(Role, f64)>, end: Token) -> Vocabulary {
        let sizes = Sizes::of(targets.device());
        Vocabulary { targets: targets.shallow_clone(), student, teacher, sampler, end, sizes, kept: RefCell::default() }
    }

    pub fn tokens(&self) -> i64 {
        self.student.tokens()
    }

    /// Each quantity of every token, `[tokens]` each. `reads_teacher` is whether some quantity does.
    pub fn values(&self, quantities: &[Quantity], reads_teacher: bool) -> Vec<Tensor> {
        let _guard = no_grad_guard();
        // Made before the chunks: small tensors that stay between large ones that go would break up the heap until none of the
        // next chunk's fits into what the last left.
        let values: Vec<Tensor> =
            quantities.iter().map(|_| Tensor::empty([self.tokens()], (Kind::Float, self.targets.device()))).collect();
        for (first, count) in self.blocks() {
            let block = self.block(first, count, reads_teacher);
            for rows in self.chunks(&block) {
                for (quantity, values) in quantities.iter().zip(&values) {
                    values.narrow(0, rows.first, rows.len()).copy_(&quantity.values(&rows));
                }
            }
            self.keep(block);
        }
        values
    }

    /// d loss / d logits of the student, for d loss / d primitive `[tokens]`: `give` gets the first token of each block and
    /// `[block, vocabulary]`. Ends the use of the logits.
    pub fn gradient(self, live: &[(Primitive, Tensor)], reads_teacher: bool, mut give: impl FnMut(i64, &Tensor)) {
        let _guard = no_grad_guard();
        for (first, count) in self.blocks() {
            let block = self.block(first, count, reads_teacher);
            for rows in self.chunks(&block) {
                let mut slopes = Slopes::default();
                for (primitive, adjoint) in live {
                    let adjoint = rows.column(adjoint);
                    // Where a token is not selected nothing is computed; nor can an infinite slope there become NaN.
                    if adjoint.count_nonzero(None).int64_value(&[]) > 0 {
                        primitive.add_slopes(&rows, &adjoint, &mut slopes);
                    }
                }
                slopes.into_logits(&rows, &mut block.student.narrow(0, rows.first - first, rows.len()));
            }
            give(first, &block.student);
        }
    }

    /// [`Vocabulary::gradient`] carried on to hidden states, `[tokens, width]`, and output matrix, `[vocabulary, width]`: d loss / d
    /// either.
    pub fn projected_gradient(
        self,
        live: &[(Primitive, Tensor)],
        reads_teacher: bool,
        hidden: &Tensor,
        matrix: &Tensor,
    ) -> [Tensor; 2] {
        let _guard = no_grad_guard();
        let mut by_hidden = Vec::new();
        let mut by_matrix: Option<Tensor> = None;
        self.gradient(live, reads_teacher, |first, by_logits| {
            let rows = hidden.narrow(0, first, by_logits.size()[0]);
            by_hidden.push(by_logits.mm(matrix));
            match &mut by_matrix {
                Some(sum) => drop(sum.addmm_(&by_logits.tr(), &rows)),
                None => by_matrix = Some(by_logits.tr().mm(&rows)),
            }
        });
        [Tensor::cat(&by_hidden, 0), by_matrix.unwrap_or_else(|| matrix.zeros_like())]
    }

    fn blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (tokens, rows) = (self.tokens(), Sizes::rows(self.sizes.block, self.vocabulary()));
        (0..tokens).step_by(rows as usize).map(move |first| (first, rows.min(tokens - first)))
    }

    fn vocabulary(&self) -> i64 {
        match &self.student {
            Logits::Given(logits) => logits.size()[1],
            Logits::Projected { matrix, .. } => matrix.size()[0],
        }
    }

    fn block(&self, first: i64, count: i64, reads_teacher: bool) -> Block {
        let kept = self.kept.borrow_mut().remove(&first);
        let mut block = kept.unwrap_or_else(|| Block { first, student: self.student.rows(first, count), teacher: None });
        if reads_teacher && block.teacher.is_none() {
            block.teacher = Some(self.teacher_rows(first, count));
        }
        block
    }

    fn teacher_rows(&self, first: i64, count: i64) -> Tensor {
        let mut parts = Vec::new();
        let mut start = 0;
        for logits in &self.teacher {
            let end = start + logits.tokens();
            let (from, to) = (first.max(start), (first + count).min(end));
            if from < to {
                parts.push(logits.rows(from - start, to - from));
            }
            start = end;
        }
        if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 0) }
    }

    fn keep(&self, block: Block) {
        let size = |block: &Block| block.student.numel() + block.teacher.as_ref().map_or(0, Tensor::numel);
        let mut kept = self.kept.borrow_mut();
        let held: usize = kept.values().map(size).sum();
        if (held + size(&block)) as i64 <= self.sizes.kept {
            kept.insert(block.first, block);
        }
    }

    fn chunks<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = Rows> + use<'a> {
        let (count, step) = (block.student.size()[0], Sizes::rows(self.sizes.chunk, self.vocabulary()));
        (0..count).step_by(step as usize).map(move |from| {
            let cut = |tensor: &Tensor| tensor.narrow(0, from, step.min(count - from));
            let targets = self.targets.narrow(0, block.first, count);
            let teacher = block.teacher.as_ref().map(cut);
            Rows::new(block.first + from, cut(&targets).unsqueeze(1), cut(&block.student), teacher, self.sampler, self.end)
        })
    }
}
