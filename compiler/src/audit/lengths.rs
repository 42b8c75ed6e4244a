//! Completions of several lengths. Where a `reduce` divides by the length of a completion, the drawn tokens
//! decide the divisor, so it is not only a weight of prefixes: it may turn the gradient.

use mopd_experiment::formula::{Axis, Reduction};
use mopd_experiment::{Origin, Reduce, ReduceStep};
use mopd_expr::batch::Layout;

use super::expectation::{ALL, CompiledTerm};
use super::fit::per_prefix;
use super::judge::Query;
use super::known::{KnownGradients, LEAST, MeasuredGradient, measured_by};
use super::refusal::AuditRefusal;
use super::size::Size;
use super::toy_model::ToyModelSpec;
use super::verdict::{Verdict, distance_text};

/// The most outcomes of a toy model with completions of three tokens.
const MOST_OUTCOMES: usize = 20_000;

/// The most outcomes of a toy model whose completions end.
const MOST_OUTCOMES_THAT_END: usize = 2_500;

/// The number of toy models with several lengths.
const TOYS: u64 = 2;

/// The share of the gradient below which a change of its direction is rounding error.
const NOTICED: f64 = 1e-6;

const DEPENDS: &str = "`reduce` depends on the length, which the drawn tokens decide";

/// The share of each element in the loss, from the steps of a `reduce` inside a prompt's samples: 1 / n in a
/// mean over n. A batch is large, so the numbers of its elements are constants.
pub(super) struct TokenShares(Vec<ReductionStep>);

struct ReductionStep {
    mean: bool,
    elements: Axis,
    over: Axis,
    among_when: bool,
}

impl TokenShares {
    /// `None` for a reduction other than sums and means.
    pub fn new(reduce: &Reduce) -> Option<TokenShares> {
        let step = |step: &ReduceStep| {
            let (elements, over, among_when) = (step.elements, step.over, step.among_when);
            let mean = match step.operation {
                Reduction::Sum => false,
                Reduction::Mean => true,
                _ => return None,
            };
            Some(ReductionStep { mean, elements, over, among_when })
        };
        let steps: Option<Vec<ReductionStep>> = reduce.steps.iter().map(step).collect();
        steps.filter(|steps| !steps.is_empty()).map(TokenShares)
    }

    /// The axis of the elements that are reduced first.
    pub fn start(&self) -> Axis {
        self.0[0].elements
    }

    /// Whether some share depends on what was drawn.
    fn is_drawn(&self) -> bool {
        self.0.iter().any(|step| step.mean && step.over > Axis::Domain)
    }

    /// The shares of all elements of `axis`. `counted` and `applies` are the elements that are selected, and
    /// those of them where the term applies.
    pub fn of_elements(
        &self,
        layout: &Layout,
        axis: Axis,
        counted: Vec<bool>,
        applies: Vec<bool>,
    ) -> Vec<f64> {
        let mut shares = vec![1.0; layout.len(axis)];
        let (mut from, mut masks) = (axis, [counted, applies]);
        for step in self.0.iter().take_while(|step| step.over > Axis::Domain) {
            let parents = layout.parents(from, step.over);
            let into = layout.len(step.over);
            if step.mean {
                let mut counts = vec![0.0f64; into];
                for (parent, counts_here) in parents.iter().zip(&masks[usize::from(step.among_when)]) {
                    counts[*parent as usize] += f64::from(u8::from(*counts_here));
                }
                for (element, share) in shares.iter_mut().enumerate() {
                    *share /= counts[layout.parent(axis, step.over, element)].max(1.0);
                }
            }
            masks = masks.map(|mask| {
                let mut any = vec![false; into];
                parents.iter().zip(mask).for_each(|(parent, of)| any[*parent as usize] |= of);
                any
            });
            from = step.over;
        }
        shares
    }
}

impl<'a> Query<'a> {
    /// A verdict from completions of two tokens, if it also holds for those of three. Otherwise both, if only
    /// factors differ, or what is true of the longer ones.
    pub(super) fn in_longer_completions(&self, verdict: Verdict) -> Result<Verdict, AuditRefusal> {
        if self.spec.size.length != 2 || !verdict.claims_factors() || self.too_long() {
            return Ok(verdict);
        }
        // A weight per prefix needs two toy models: in one, a condition may hold after a single prefix.
        let spec = ToyModelSpec { size: self.longer(), toys: 2, ..self.spec.clone() };
        let longer = Query { view: self.view.with_value(self.view.value), spec };
        let usual = longer.usual_gradient()?;
        let named = longer.candidates();
        let known = KnownGradients::new(&named, &longer.toys(), longer.block())?;
        Ok(verdict.with_longer(longer.verdict(&usual, &known)?))
    }

    fn longer(&self) -> Size {
        Size { length: 3, ..self.spec.size }
    }

    /// Whether completions of three tokens, where their length matters, have too many outcomes.
    pub(super) fn too_long(&self) -> bool {
        self.spec.size.length == 2 && self.longer().outcome_count() > MOST_OUTCOMES
    }

    /// The same term on completions of several lengths. `None` if these have too many outcomes.
    pub(super) fn of_several_lengths(&self) -> Option<Query<'a>> {
        let of = |length: usize| Size { length, ends: true, ..self.spec.size };
        let size = [of(3), of(2)].into_iter().find(|size| size.outcome_count() <= MOST_OUTCOMES_THAT_END)?;
        let spec = ToyModelSpec { size, toys: TOYS, ..self.spec.clone() };
        Some(Query { view: self.view.with_value(self.view.value), spec })
    }

    /// The effect of a `reduce` that divides by the length, and the verdict where lengths differ, if they
    /// differ from `verdict`.
    pub(super) fn at_several_lengths(&self, verdict: &Verdict) -> Result<Vec<String>, AuditRefusal> {
        let Some(several) = self.of_several_lengths() else { return Ok(Vec::new()) };
        let mut notes = Vec::new();
        // A term of single tokens does not know the length.
        if self.spec.size.length > 1 {
            notes.extend(several.differs_from(verdict)?);
        }
        notes.extend(several.turned_by_reduce()?);
        Ok(notes)
    }

    /// The verdict where lengths differ, if it is not that of completions of one length.
    fn differs_from(&self, verdict: &Verdict) -> Result<Option<String>, AuditRefusal> {
        let usual = match verdict {
            Verdict::ByLength { of_two, .. } => of_two,
            verdict if verdict.claims_factors() => verdict,
            _ => return Ok(None),
        };
        let measured = self.usual_gradient()?;
        let named = self.candidates();
        let known = KnownGradients::new(&named, &self.toys(), self.block())?;
        let here = self.verdict(&measured, &known)?;
        Ok(usual.fails_in(&here).then(|| format!("where lengths differ: {}", here.text())))
    }

    /// Whether and how far `reduce` turns the gradient, beyond a weight per prefix.
    fn turned_by_reduce(&self) -> Result<Option<String>, AuditRefusal> {
        let Some([plain, reduced]) = self.without_and_with_reduce()? else { return Ok(None) };
        if is_pull(&plain, &reduced) {
            let left = "what is left is a pull on the length";
            return Ok(Some(format!("{DEPENDS}: {left}")));
        }
        if plain.is_zero() {
            return Ok(None);
        }
        let far = per_prefix(&reduced.gradient, &plain.gradient, self.block());
        let text = format!("{DEPENDS}: where lengths differ, {}", distance_text(far));
        Ok((far > NOTICED).then_some(text))
    }

    /// The `reduce` that leaves a pull on the length of a gradient that is 0 in completions of one length.
    pub(super) fn pull_on_length(&self) -> Option<Origin> {
        let [plain, reduced] = self.of_several_lengths()?.without_and_with_reduce().ok()??;
        self.view.reduce.filter(|_| is_pull(&plain, &reduced)).map(|reduce| reduce.origin)
    }

    /// The gradient where each element counts the same, and as `reduce` averages it. `None` if the drawn
    /// tokens don't decide how much an element counts.
    fn without_and_with_reduce(&self) -> Result<Option<[MeasuredGradient; 2]>, AuditRefusal> {
        let Some(shares) = self.view.reduce.and_then(TokenShares::new) else { return Ok(None) };
        if !shares.is_drawn() && self.view.value.axis() >= shares.start() {
            return Ok(None);
        }
        let plain = self.usual_gradient()?;
        let term = CompiledTerm::new(&self.view, ALL)?.reduced(shares);
        Ok(Some([plain, measured_by(&term, ALL, &self.toys())?]))
    }
}

/// Whether only a reduction leaves something of a gradient.
fn is_pull(plain: &MeasuredGradient, reduced: &MeasuredGradient) -> bool {
    plain.is_zero() && plain.largest > LEAST && !reduced.is_zero()
}
