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
use std::rc::Rc;

use mopd_compiler::plan::Role;
use tch::{Device, Kind, Tensor, no_grad_guard};

pub use self::quantities::{Primitive, Quantity};
pub use self::resolve::Parameters;
use self::rows::{Rows, Slopes};
use crate::kernels::product;
use crate::model::Token;

/// Where next-token logits of consecutive tokens come from.
pub enum Logits {
    /// `[tokens, vocabulary]`. [`Vocabulary::gradient`] writes the student's over.
    Given(Tensor),
    /// The product of the last hidden states, `[tokens, width]`, and the output matrix, `[vocabulary, width]`; with a `softcap` c,
    /// c * tanh(product / c).
    Projected { hidden: Tensor, matrix: Matrix, softcap: Option<f64> },
}

/// An output matrix, `[vocabulary, width]`.
pub enum Matrix {
    Held(Tensor),
    /// Made when the tokens that it is for have their turn, and let go when others have.
    Fetched(Fetched),
}

/// A tensor that can be made anew.
#[derive(Clone)]
pub struct Fetched {
    make: Rc<dyn Fn() -> Tensor>,
    held: Rc<RefCell<Option<Tensor>>>,
}

impl Fetched {
    pub fn new(make: impl Fn() -> Tensor + 'static) -> Fetched {
        Fetched { make: Rc::new(make), held: Rc::default() }
    }

    fn get(&self) -> Tensor {
        self.held.borrow_mut().get_or_insert_with(|| (self.make)()).shallow_clone()
    }

    fn let_go(&self) {
        *self.held.borrow_mut() = None;
    }
}

impl Matrix {
    fn get(&self) -> Tensor {
        match self {
            Matrix::Held(matrix) => matrix.shallow_clone(),
            Matrix::Fetched(fetched) => fetched.get(),
        }
    }
}

impl Logits {
    pub fn projected(hidden: &Tensor, matrix: &Tensor) -> Logits {
        Logits::Projected { hidden: hidden.detach(), matrix: Matrix::Held(matrix.detach()), softcap: None }
    }

    /// The same numbers, not copied.
    pub fn share(&self) -> Logits {
        match self {
            Logits::Given(logits) => Logits::Given(logits.shallow_clone()),
            Logits::Projected { hidden, matrix, softcap } => {
                let matrix = match matrix {
                    Matrix::Held(matrix) => Matrix::Held(matrix.shallow_clone()),
                    Matrix::Fetched(fetched) => Matrix::Fetched(fetched.clone()),
                };
                Logits::Projected { hidden: hidden.shallow_clone(), matrix, softcap: *softcap }
            }
        }
    }

    fn softcap(&self) -> Option<f64> {
        if let Logits::Projected { softcap, .. } = self { *softcap } else { None }
    }

    fn let_go(&self) {
        if let Logits::Projected { matrix: Matrix::Fetched(fetched), .. } = self {
            fetched.let_go();
        }
    }

    fn tokens(&self) -> i64 {
        match self {
            Logits::Given(values) | Logits::Projected { hidden: values, .. } => values.size()[0],
        }
    }

    fn rows(&self, first: i64, count: i64) -> Tensor {
        match self {
            Logits::Given(logits) => logits.narrow(0, first, count),
            Logits::Projected { hidden, matrix, softcap } => {
                let hidden = hidden.narrow(0, first, count);
                // Rounded to half precision, logits would differ by more than many a divergence.
                let logits = match hidden.kind() {
                    Kind::BFloat16 => product::multiply(&hidden, &matrix.get().tr()),
                    _ => hidden.linear::<&Tensor>(&matrix.get(), None),
                };
                softcap.map_or_else(|| logits.shallow_clone(), |cap| (&logits / cap).tanh_() * cap)
            }
        }
    }
}

/// The distributions of a step, of all roles.
pub struct Vocabulary {
    /// `[tokens]`: the tokens taken.
    pub targets: Tensor,
    pub student: Logits,
    /// Those of every other role that is read: one after the other, together as many tokens as the student has.
    pub others: Vec<(Role, Vec<Logits>)>,
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
            Device::Cpu => Sizes { chunk: 1 << 18, block: 1 << 24, kept: 1 << 25 },
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
    /// Of other roles, made when they are asked for.
    others: RefCell<Vec<(Role, Tensor)>>,
}

impl Block {
    fn elements(&self) -> usize {
        self.student.numel() + self.others.borrow().iter().map(|(_, logits)| logits.numel()).sum::<usize>()
    }
}

impl Vocabulary {
    pub fn new(
        targets: &Tensor,
        student: Logits,
        others: Vec<(Role, Vec<Logits>)>,
        sampler: Option<(Role, f64)>,
        end: Token,
    ) -> Vocabulary {
        let sizes = Sizes::of(targets.device());
        Vocabulary { targets: targets.shallow_clone(), student, others, sampler, end, sizes, kept: RefCell::default() }
    }

    pub fn tokens(&self) -> i64 {
        self.student.tokens()
    }

    /// Each quantity of every token, `[tokens]` each.
    pub fn values(&self, quantities: &[Quantity]) -> Vec<Tensor> {
        let _guard = no_grad_guard();
        // Made before the chunks: small tensors that stay between large ones that go would break up the heap until none of the
        // next chunk's fits into what the last left.
        let values: Vec<Tensor> =
            quantities.iter().map(|_| Tensor::empty([self.tokens()], (Kind::Float, self.targets.device()))).collect();
        for (first, count) in self.blocks() {
            let block = self.block(first, count);
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
    pub fn gradient(self, live: &[(Primitive, Tensor)], mut give: impl FnMut(i64, &Tensor)) {
        let _guard = no_grad_guard();
        for (first, count) in self.blocks() {
            let block = self.block(first, count);
            for rows in self.chunks(&block) {
                let mut slopes = Slopes::default();
                for (primitive, adjoint) in live {
                    let adjoint = rows.column(adjoint);
                    // Where a token is not selected nothing is computed; nor can an infinite slope there become NaN.
                    if adjoint.count_nonzero(None).int64_value(&[]) > 0 {
                        primitive.add_slopes(&rows, &adjoint, &mut slopes);
                    }
                }
                let mut logits = block.student.narrow(0, rows.first - first, rows.len());
                // d cap(x) / d x = 1 - (cap(x) / c)^2, before the logits are written over.
                let bent = self.student.softcap().map(|cap| -(&logits / cap).square_() + 1.0);
                slopes.into_logits(&rows, &mut logits);
                if let Some(bent) = bent {
                    logits *= bent;
                }
            }
            give(first, &block.student);
        }
    }

    /// [`Vocabulary::gradient`] carried on to hidden states, `[tokens, width]`, and output matrix, `[vocabulary, width]`: d loss / d
    /// either; of half-precision models in single precision.
    pub fn projected_gradient(self, live: &[(Primitive, Tensor)], hidden: &Tensor, matrix: &Tensor) -> [Tensor; 2] {
        let _guard = no_grad_guard();
        let mut by_hidden = Vec::new();
        let mut by_matrix: Option<Tensor> = None;
        self.gradient(live, |first, by_logits| {
            let rows = hidden.narrow(0, first, by_logits.size()[0]);
            if rows.kind() == Kind::BFloat16 {
                let by_logits = by_logits.to_kind(Kind::BFloat16);
                by_hidden.push(product::multiply(&by_logits, matrix));
                match &mut by_matrix {
                    Some(sum) => product::add_product(sum, &by_logits.tr(), &rows),
                    None => by_matrix = Some(product::multiply(&by_logits.tr(), &rows)),
                }
                return;
            }
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
            Logits::Projected { matrix, .. } => matrix.get().size()[0],
        }
    }

    fn block(&self, first: i64, count: i64) -> Block {
        let kept = self.kept.borrow_mut().remove(&first);
        kept.unwrap_or_else(|| Block { first, student: self.student.rows(first, count), others: RefCell::default() })
    }

    /// The block's logits of a role that is not the student.
    ///
    /// # Panics
    /// If the pass was not given the role's logits: the caller looks before it starts one.
    fn other(&self, block: &Block, role: Role) -> Tensor {
        let mut known = block.others.borrow_mut();
        if let Some((_, logits)) = known.iter().find(|(of, _)| *of == role) {
            return logits.shallow_clone();
        }
        let given = self.others.iter().find(|(of, _)| *of == role);
        let (_, given) = given.unwrap_or_else(|| panic!("a pass that reads the {} has its logits", role.name()));
        let logits = self::rows_of(given, block.first, block.student.size()[0]);
        known.push((role, logits.shallow_clone()));
        logits
    }

    fn keep(&self, block: Block) {
        let mut kept = self.kept.borrow_mut();
        let held: usize = kept.values().map(Block::elements).sum();
        if (held + block.elements()) as i64 <= self.sizes.kept {
            kept.insert(block.first, block);
        }
    }

    fn chunks<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = Rows<'a>> + use<'a> {
        let (count, step) = (block.student.size()[0], Sizes::rows(self.sizes.chunk, self.vocabulary()));
        (0..count).step_by(step as usize).map(move |from| Rows::new(self, block, from, step.min(count - from)))
    }
}

/// `count` tokens from `first` of what stands one after the other.
fn rows_of(parts: &[Logits], first: i64, count: i64) -> Tensor {
    let mut whole: Option<Tensor> = None;
    let mut start = 0;
    for logits in parts {
        let end = start + logits.tokens();
        let (from, to) = (first.max(start), (first + count).min(end));
        if from < to {
            let rows = logits.rows(from - start, to - from);
            if to - from == count {
                whole = Some(rows);
            } else {
                // Written to their places as they come: side by side, the parts and the whole would be twice as much.
                let whole = whole.get_or_insert_with(|| Tensor::empty([count, rows.size()[1]], (rows.kind(), rows.device())));
                whole.narrow(0, from - first, to - from).copy_(&rows);
            }
        }
        // Only what the next tokens need too is held on to: a block may have tokens of every model.
        if end <= first + count || start >= first + count {
            logits.let_go();
        }
        start = end;
    }
    whole.expect("the parts are as many tokens as the student has, and no block is empty")
}
