//! The numbers that formulas read, as far as normal forms need it, and the live parts that gradient reaches.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_experiment::formula::{
    Formula, FormulaKind, FormulaNode, Function, Live, ModelSignal, Reduction, Role, Signal,
};

use crate::lower::postorder::ordered;

/// The kinds of numbers that a formula reads.
#[derive(Clone, Copy, Default)]
pub(super) struct FormulaReading {
    /// The difference of two models' log-probabilities of the token taken; one of them is the student.
    pub log_ratio: bool,
    pub reward: bool,
    /// Any signal. The log-probability of `old` or the sampler alone counts as part of the ratio.
    pub signal: bool,
    pub live: bool,
    /// `exp(live student.logp - old.logp)`, or `sampler.logp` there.
    pub ratio: bool,
    /// The exponential of a whole sequence's mean log-ratio.
    pub sequence_ratio: bool,
}

impl FormulaReading {
    fn add(&mut self, other: FormulaReading) {
        self.log_ratio |= other.log_ratio;
        self.reward |= other.reward;
        self.signal |= other.signal;
        self.live |= other.live;
        self.ratio |= other.ratio;
        self.sequence_ratio |= other.sequence_ratio;
    }

    /// The factor of the log-probability in the gradient, as text.
    pub fn text(self) -> String {
        match (self.log_ratio, self.reward) {
            (true, true) => "sampled log-ratio and reward",
            (true, false) => "sampled log-ratio",
            (false, true) => "reward",
            (false, false) if self.signal => "custom expression",
            (false, false) => "likelihood",
        }
        .into()
    }
}

/// The parts of some formulas, in the order of [`ordered`], with the reading of each.
pub(super) struct FormulaParts<'a> {
    roots: Vec<&'a Formula>,
    pub ordered: Vec<&'a Formula>,
    reading: HashMap<*const FormulaNode, FormulaReading>,
}

impl<'a> FormulaParts<'a> {
    pub fn new(roots: impl Iterator<Item = &'a Formula>) -> FormulaParts<'a> {
        let roots: Vec<&Formula> = roots.collect();
        let ordered = ordered(roots.iter().copied(), Formula::operands);
        let mut parts = FormulaParts { roots, ordered, reading: HashMap::new() };
        for formula in &parts.ordered {
            let mut reading = own_reading(formula);
            formula.operands().into_iter().for_each(|operand| reading.add(parts.reading(operand)));
            parts.reading.insert(Rc::as_ptr(&formula.0), reading);
        }
        parts
    }

    fn reading(&self, formula: &Formula) -> FormulaReading {
        self.reading[&Rc::as_ptr(&formula.0)]
    }

    /// Every live part that gradient reaches, each once, in the order in which they are read, with the
    /// reading of its derivative's factor.
    pub fn live(&self) -> Vec<(&'a Live, FormulaReading)> {
        let mut before: HashMap<*const FormulaNode, FormulaReading> =
            self.roots.iter().map(|root| (Rc::as_ptr(&root.0), FormulaReading::default())).collect();
        for formula in self.ordered.iter().rev() {
            let Some(outer) = before.get(&Rc::as_ptr(&formula.0)).copied() else { continue };
            for (operand, inner) in self.derivatives(formula) {
                let reading = before.entry(Rc::as_ptr(&operand.0)).or_default();
                reading.add(outer);
                reading.add(inner);
            }
        }
        let mut found: Vec<(&Live, FormulaReading)> = Vec::new();
        for formula in &self.ordered {
            let FormulaKind::Live(live) = &formula.0.kind else { continue };
            let Some(reading) = before.get(&Rc::as_ptr(&formula.0)).copied() else { continue };
            match found.iter_mut().find(|(known, _)| *known == live) {
                Some((_, known)) => known.add(reading),
                None => found.push((live, reading)),
            }
        }
        found
    }

    /// The operands that gradient reaches, each with the reading of the formula's derivative by it.
    fn derivatives(&self, formula: &'a Formula) -> Vec<(&'a Formula, FormulaReading)> {
        let nothing = FormulaReading::default();
        let found: Vec<(&Formula, FormulaReading)> = match &formula.0.kind {
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand, .. } => {
                vec![(operand, nothing)]
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate | Function::Add | Function::Subtract, operands) => {
                    operands.iter().map(|operand| (operand, nothing)).collect()
                }
                (Function::Multiply, [left, right]) => {
                    vec![(left, self.reading(right)), (right, self.reading(left))]
                }
                (Function::Divide, [left, right]) => {
                    vec![(left, self.reading(right)), (right, self.reading(formula))]
                }
                (Function::Where, [condition, then, otherwise]) => {
                    vec![(then, self.reading(condition)), (otherwise, self.reading(condition))]
                }
                (function, _) if !function.is_differentiable() => Vec::new(),
                (_, operands) => operands.iter().map(|operand| (operand, self.reading(formula))).collect(),
            },
            FormulaKind::Reduce { operand, .. }
            | FormulaKind::Statistic { operand, .. }
            | FormulaKind::Scan { operand, .. }
            | FormulaKind::Memory { operand, .. } => vec![(operand, self.reading(formula))],
            FormulaKind::Across { members, .. } => {
                members.iter().map(|member| (member, self.reading(formula))).collect()
            }
            FormulaKind::Number(_)
            | FormulaKind::Schedule(_)
            | FormulaKind::Adaptive(_)
            | FormulaKind::Signal(_)
            | FormulaKind::Live(_)
            | FormulaKind::Variable(_)
            | FormulaKind::Entry(_) => Vec::new(),
        };
        found.into_iter().filter(|(operand, _)| operand.live()).collect()
    }
}

/// The reading of a formula apart from its operands.
fn own_reading(formula: &Formula) -> FormulaReading {
    let nothing = FormulaReading::default();
    match &formula.0.kind {
        FormulaKind::Signal(signal) => FormulaReading {
            reward: signal.is_of_reward(),
            signal: !matches!(
                signal,
                Signal::Of { role: Role::Old | Role::Sampler, part: ModelSignal::Logp }
            ),
            ..nothing
        },
        FormulaKind::Live(_) => FormulaReading { live: true, ..nothing },
        FormulaKind::Apply { function: Function::Subtract, operands } => {
            let log_ratio = match operands.as_slice() {
                [left, right] => match (logp_of(left), logp_of(right)) {
                    (Some(left), Some(right)) => left.is_policy() != right.is_policy(),
                    _ => false,
                },
                _ => false,
            };
            FormulaReading { log_ratio, ..nothing }
        }
        FormulaKind::Apply { function: Function::Exp, operands } => {
            let over_sequence = operands.iter().any(|operand| match &operand.0.kind {
                FormulaKind::Reduce { reduction: Reduction::Mean, operand, .. } => is_live_log_ratio(operand),
                _ => false,
            });
            FormulaReading {
                ratio: operands.iter().any(is_live_log_ratio),
                sequence_ratio: over_sequence,
                ..nothing
            }
        }
        _ => nothing,
    }
}

/// The role of a detached log-probability of the token taken, if the formula is one.
fn logp_of(formula: &Formula) -> Option<&Role> {
    match &formula.0.kind {
        FormulaKind::Signal(Signal::Of { role, part: ModelSignal::Logp }) => Some(role),
        _ => None,
    }
}

/// `live student.logp - old.logp`, or `sampler.logp` there.
fn is_live_log_ratio(formula: &Formula) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &formula.0.kind else { return false };
    let [above, below] = operands.as_slice() else { return false };
    matches!(above.0.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp)))
        && matches!(logp_of(below), Some(Role::Old | Role::Sampler))
}
