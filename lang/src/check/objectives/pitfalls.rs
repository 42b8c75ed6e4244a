//! Mistakes from the literature: objectives that look right and train something else, or nothing. Each check
//! cites its source.

use std::rc::Rc;

use mopd_ops::interval::{ANYTHING, ValueInterval};
use rustc_hash::FxHashSet;

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{
    Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Mass, Reduction, Role,
    Signal, Support, Unit,
};
use mopd_experiment::{Objective, Recipe, RolloutSource, Stage, TeacherId, TeacherWeights, Train};

use crate::check::Checker;
use crate::check::stages::settings::BlockSettings;

/// Whether the sum over the support can be negative, because the values on it do not sum to 1.
fn can_be_negative(divergence: &Divergence) -> bool {
    divergence.mass == Mass::Raw
        && divergence.support != Support::Full
        && match &divergence.kind {
            DivergenceKind::Kl => true,
            DivergenceKind::Entrywise(summand) => !summand.facts.never_negative,
            DivergenceKind::SortedL1 | DivergenceKind::Gaussian { .. } => false,
        }
}

/// The value that a node clamps from below at a number that is at least 0, and that number. `None` if the
/// node does not clamp.
fn held_above_zero(node: &FormulaNode) -> Option<(&Formula, f64)> {
    let FormulaKind::Apply { function, operands } = &node.kind else { return None };
    let at_least_zero = |bound: &Formula| bound.constant().filter(|bound| *bound >= 0.0);
    match (function, operands.as_slice()) {
        (Function::Relu, [value]) => Some((value, 0.0)),
        (Function::Maximum, [value, bound]) | (Function::Maximum, [bound, value])
            if at_least_zero(bound).is_some() =>
        {
            Some((value, bound.constant()?))
        }
        (Function::Clip, [value, low, _]) => Some((value, at_least_zero(low)?)),
        _ => None,
    }
}

/// Whether a value is above a bound where one of its parts is 0, so that the bound does not begin there.
fn is_above(value: &Formula, bound: f64, part: &Formula) -> bool {
    fn range(formula: &Formula, part: &Formula) -> ValueInterval {
        match &formula.0.kind {
            _ if Rc::ptr_eq(&formula.0, &part.0) => (0.0, 0.0),
            FormulaKind::Apply { function, operands } => {
                let operands: Vec<ValueInterval> =
                    operands.iter().map(|operand| range(operand, part)).collect();
                function.finite_range(&operands)
            }
            FormulaKind::Number(value) => (*value, *value),
            _ => match formula.unit() {
                Unit::Prob | Unit::Fraction => (0.0, 1.0),
                _ => ANYTHING,
            },
        }
    }
    range(value, part).0 > bound
}

/// A live partial sum whose negative values make `value` negative. The values of `exp` never are.
fn partial_sum(value: &Formula) -> Option<&Formula> {
    // Shared parts are visited once for each sign: the number of paths to them may be huge.
    let mut seen: FxHashSet<(*const FormulaNode, bool)> = FxHashSet::default();
    let mut pending = vec![(value, true)];
    while let Some((formula, positive)) = pending.pop() {
        if !seen.insert((Rc::as_ptr(&formula.0), positive)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Live(Live::Divergence(divergence)) if positive && can_be_negative(divergence) => {
                return Some(formula);
            }
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand, .. } => {
                pending.push((operand, positive))
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate, [x]) => pending.push((x, !positive)),
                (Function::Tanh, [x]) => pending.push((x, positive)),
                (Function::Add, [left, right]) | (Function::Where, [_, left, right]) => {
                    pending.extend([(right, positive), (left, positive)]);
                }
                (Function::Subtract, [left, right]) => pending.extend([(right, !positive), (left, positive)]),
                // A square is never negative.
                (Function::Multiply, [left, right]) if same_divergence(left, right) => {}
                (Function::Multiply, [left, right]) => {
                    let keeps =
                        |factor: &Formula| positive == factor.constant().is_none_or(|factor| factor > 0.0);
                    pending.extend([(right, keeps(left)), (left, keeps(right))]);
                }
                (Function::Divide, [above, below]) => {
                    pending.push((above, positive == below.constant().is_none_or(|below| below > 0.0)));
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}

fn same_divergence(left: &Formula, right: &Formula) -> bool {
    let divergence = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Live(Live::Divergence(divergence))
        | FormulaKind::Signal(Signal::Divergence(divergence)) => Some(divergence.clone()),
        _ => None,
    };
    Rc::ptr_eq(&left.0, &right.0) || divergence(left).is_some_and(|left| divergence(right) == Some(left))
}

impl Checker {
    /// Checks an objective for mistakes on the completions of its stage.
    pub(in crate::check) fn warn_of_pitfalls(&mut self, train: &Train, settings: &BlockSettings) {
        self.warn_of_other_teachers(train, settings);
        self.warn_of_targets(train, settings);
        self.warn_of_misrouted_domains(train, settings);
    }

    /// Warns of a balance that gives every domain the same target where the targets do not sum to 1: the loss
    /// is then scaled differently than intended.
    fn warn_of_targets(&mut self, train: &Train, settings: &BlockSettings) {
        let objective = &train.objective;
        let reductions =
            objective.reduce.iter().chain(objective.terms.iter().filter_map(|term| term.reduce.as_ref()));
        let domains = train.mixture.len();
        let wrong = reductions.filter_map(|reduce| reduce.balance.as_ref()).find_map(|balance| {
            let target = balance.target?;
            ((target * domains as f64 - 1.0).abs() > 1e-6).then_some((target, balance.origin))
        });
        let Some((target, origin)) = wrong else { return };
        let span = self.span(origin);
        let text =
            format!("{domains} domains with a target of {target} each: together they are not the whole");
        self.report(
            Diagnostic::warning(Code::ShareSum, settings.place(&["objective"]), text)
                .note(span, "balanced here")
                .help(format!("balance {domains} domains with `target = 1/{domains}`")),
        );
    }

    /// Warns of mistakes that do not depend on the stage.
    pub(in crate::check) fn warn_of_formulas(&mut self, objective: &Objective) {
        self.warn_of_clamped_divergences(objective);
        self.warn_of_subnormal_numbers(objective);
    }

    /// Warns of a partial sum with a lower bound of 0. The sum may be negative, and the bound removes its
    /// gradient. One user of a trainer counted 415 of 467 such steps.
    fn warn_of_clamped_divergences(&mut self, objective: &Objective) {
        for part in objective.terms.iter().flat_map(|term| term.value.parts()) {
            let Some((value, bound)) = held_above_zero(&part.0).filter(|(value, _)| value.live()) else {
                continue;
            };
            let Some(inside) = partial_sum(value).filter(|inside| !is_above(value, bound, inside)) else {
                continue;
            };
            let (span, divergence) = (self.span(part.0.origin), self.span(inside.0.origin));
            self.report(
                Diagnostic::warning(
                    Code::ClampedDivergence,
                    span,
                    "this bound deletes the gradient wherever the partial sum is negative",
                )
                .note(divergence, "with `mass: raw` it can be")
                .help(
                    "write `mass: tail` or `mass: generalized`, which are never negative, and drop the bound",
                ),
            );
        }
    }

    /// Warns of rollouts made once by a start that one teacher fine-tuned, if another teacher scores them:
    /// they keep the first teacher's bias (Lightning OPD, arXiv:2604.13010).
    fn warn_of_other_teachers(&mut self, train: &Train, settings: &BlockSettings) {
        if !train.rollout.all().iter().any(|rollout| matches!(rollout.source, RolloutSource::Snapshot { .. }))
        {
            return;
        }
        let Stage::Train(before) = &self.model(train.start).stage else { return };
        let imitated = self.imitated(before);
        if before.recipe != Recipe::Sft || imitated.is_empty() {
            return;
        }
        let weights = |teacher: &TeacherId| -> &TeacherWeights { &self.teacher(*teacher).weights };
        let known = |teacher: &TeacherId| imitated.iter().any(|known| weights(known) == weights(teacher));
        let Some(other) = train.teachers.iter().map(|choice| choice.teacher).find(|teacher| !known(teacher))
        else {
            return;
        };
        let (name, declared) = (self.teacher(other).name.clone(), self.span(self.teacher(other).origin));
        let start = self.span(self.model(train.start).origin);
        let text = format!(
            "the rollouts are made once, and `{name}` scores them: the student was fine-tuned on another \
             teacher"
        );
        self.report(
            Diagnostic::warning(Code::InconsistentTeacher, settings.place(&["rollout"]), text)
                .note(start, "fine-tuned here")
                .note(declared, "the teacher that scores")
                .help(
                    "fine-tune on the answers of the same teachers, or roll out anew at every step: \
                     `rollout = sample(...)`",
                ),
        );
    }

    /// The teachers whose texts a stage learns from.
    fn imitated(&self, train: &Train) -> Vec<TeacherId> {
        let mut found = Vec::new();
        for rollout in train.rollout.all() {
            match rollout.writer() {
                Some(Role::Teacher) => found.extend(train.teachers.iter().map(|choice| choice.teacher)),
                Some(Role::Named { teacher, .. }) => found.push(*teacher),
                _ => {}
            }
        }
        found
    }
}
