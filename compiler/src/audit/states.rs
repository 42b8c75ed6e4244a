//! The values of states at which a term is audited, beside the first one: a run moves them, and a condition
//! or a difference may then choose another gradient.

use mopd_experiment::formula::{Formula, FormulaKind, Function, Signal};

use super::bounds::range_of;
use super::range::ValueRange;
use super::toy_model::{RunNumbers, arbitrary};
use super::view::TermView;

/// The most values of a state that are tried beside the first one.
const MOST_VALUES: usize = 4;

/// The distance from a bound at which both of its sides are tried, as a share of the bound.
const BESIDE: f64 = 0.125;

/// For each state that a term reads, the values to try.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StateValues(Vec<(String, Vec<f64>)>);

impl StateValues {
    pub fn new(view: &TermView) -> StateValues {
        let mut values = StateValues::default();
        let parts: Vec<&Formula> = view.formulas().into_iter().flat_map(Formula::parts).collect();
        for part in &parts {
            let FormulaKind::Signal(Signal::State { name, first, .. }) = &part.0.kind else { continue };
            if values.0.iter().any(|(known, _)| known == name) {
                continue;
            }
            let next = view.states.iter().find(|state| state.name == *name).map(|state| &state.next);
            let reached = next.map_or(ValueRange::at(*first), range_of).with(ValueRange::at(*first));
            let mut tried: Vec<f64> = Vec::new();
            // The sides of its bounds first, because they matter more than its size.
            let bounds: Vec<f64> = parts.iter().filter_map(|part| bound(part, name)).collect();
            let beside = bounds.iter().flat_map(|bound| {
                let far = BESIDE * if *bound == 0.0 { 1.0 } else { bound.abs() };
                [bound + far, bound - far]
            });
            let scaled = if *first == 0.0 { [0.75, 1.5] } else { [first * 2.0, first / 2.0] };
            for value in beside.chain(scaled) {
                let value = value.clamp(reached.low, reached.high);
                if value != *first && !tried.contains(&value) && tried.len() < MOST_VALUES {
                    tried.push(value);
                }
            }
            values.0.push((name.clone(), tried));
        }
        values
    }

    /// The number of rounds in which every value of every state is tried.
    pub fn rounds(&self) -> u8 {
        self.0.iter().map(|(_, tried)| tried.len() as u8).max().unwrap_or(0)
    }

    /// The value of a state that begins at `first`.
    pub fn at(&self, run: RunNumbers, name: &str, first: f64) -> f64 {
        match run {
            RunNumbers::AtStep => first,
            RunNumbers::Tried(round) => self.in_round(name, round).unwrap_or(first),
            RunNumbers::Apart | RunNumbers::Arbitrary => arbitrary(name),
        }
    }

    /// The value of a state in a round. `None` if nothing else than its first value is tried.
    fn in_round(&self, name: &str, round: u8) -> Option<f64> {
        let (_, tried) = self.0.iter().find(|(known, _)| known == name)?;
        tried.get(usize::from(round).min(tried.len().saturating_sub(1))).copied()
    }
}

/// The number with which a part compares a state, or that it subtracts from it.
fn bound(part: &Formula, state: &str) -> Option<f64> {
    use Function::*;
    let FormulaKind::Apply { function, operands } = &part.0.kind else { return None };
    let compares = matches!(
        function,
        Less | LessEqual | Greater | GreaterEqual | Equal | NotEqual | Subtract | Minimum | Maximum
    );
    let is_state = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Signal(Signal::State { name, .. }) => name == state,
        _ => false,
    };
    match operands.as_slice() {
        [left, right] if compares && is_state(left) => right.constant(),
        [left, right] if compares && is_state(right) => left.constant(),
        _ => None,
    }
}
