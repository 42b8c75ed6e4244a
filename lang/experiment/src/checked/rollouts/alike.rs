//! Compares two rollouts for drawing the same, wherever they are written: copies of a text differ in places.

use super::{Edit, ExpertTurns, Rollout, RolloutArgument, RolloutSource, Sampling};
use crate::checked::formula::{Formula, FormulaKind, FormulaNode, Function};

/// Deeper formulas are equal only if they are one shared part, because shared parts may have many paths.
const DEEPEST: u32 = 8;

impl Rollout {
    /// Whether both draw from the same distribution. Templates with parameters, and deep formulas, are
    /// compared with their places.
    pub fn is_alike(&self, other: &Rollout) -> bool {
        if let (RolloutSource::Parameter { name, .. }, RolloutSource::Parameter { name: other, .. }) =
            (&self.source, &other.source)
            && name != other
        {
            return false;
        }
        let (own, others) = (self.source.arguments(), other.source.arguments());
        self.source.name() == other.source.name()
            && self.edits.len() == other.edits.len()
            && own.len() == others.len()
            && own
                .iter()
                .zip(&others)
                .all(|((name, one), (other_name, other))| name == other_name && are_alike(one, other))
            && self.edits.iter().zip(&other.edits).all(|(one, other)| one.is_alike(other))
    }
}

/// Whether completions are preferred that their author calls worse: those of the field `rejected`, or those
/// with the lowest verdict where the others have the highest.
pub fn are_exchanged(chosen: &Rollout, rejected: &Rollout) -> bool {
    if let (RolloutSource::Data { field: preferred }, RolloutSource::Data { field: other }) =
        (&chosen.source, &rejected.source)
    {
        return preferred == "rejected" && other == "chosen";
    }
    let number = |rollout: &Rollout| match rollout.edits.last() {
        Some(Edit::Best { by, .. }) => Some(by.clone()),
        _ => None,
    };
    let (Some(lowest), Some(highest)) = (number(chosen), number(rejected)) else { return false };
    let verdict =
        |node: &FormulaNode| matches!(&node.kind, FormulaKind::Signal(signal) if signal.is_of_reward());
    match &lowest.0.kind {
        FormulaKind::Apply { function: Function::Negate, operands } => {
            is_same(&operands[0], &highest) && highest.any(verdict)
        }
        _ => false,
    }
}

fn are_alike(one: &RolloutArgument, other: &RolloutArgument) -> bool {
    use RolloutArgument as Of;
    match (one, other) {
        (Of::Rollout(one), Of::Rollout(other)) => one.is_alike(other),
        (Of::Formula(one), Of::Formula(other)) => is_same(one, other),
        (Of::Sampling(one), Of::Sampling(other)) => one.is_alike(other),
        (Of::Template(one), Of::Template(other)) => one == other,
        (Of::Count(one), Of::Count(other)) => one == other,
        (Of::Word(one), Of::Word(other)) | (Of::Text(one), Of::Text(other)) => one == other,
        _ => false,
    }
}

impl Sampling {
    fn is_alike(&self, other: &Sampling) -> bool {
        let (temperature, max_tokens) = (self.temperature.clone(), self.max_tokens.clone());
        is_same(&temperature, &other.temperature)
            && is_same(&max_tokens, &other.max_tokens)
            && *self == Sampling { temperature, max_tokens, ..other.clone() }
    }
}

impl Edit {
    fn is_alike(&self, other: &Edit) -> bool {
        match (self, other) {
            (Edit::Keep { condition: one }, Edit::Keep { condition: other }) => is_same(one, other),
            (Edit::Retry { until: one, at_most }, Edit::Retry { until: other, at_most: others }) => {
                at_most == others && is_same(one, other)
            }
            (Edit::Best { by: one, of }, Edit::Best { by: other, of: others }) => {
                of == others && is_same(one, other)
            }
            (Edit::FirstTurns { turns: one }, Edit::FirstTurns { turns: other })
            | (
                Edit::ExpertTurns { turns: ExpertTurns::First(one) },
                Edit::ExpertTurns { turns: ExpertTurns::First(other) },
            )
            | (
                Edit::ExpertTurns { turns: ExpertTurns::AllBut(one) },
                Edit::ExpertTurns { turns: ExpertTurns::AllBut(other) },
            ) => is_same(one, other),
            (one, other) => one == other,
        }
    }
}

/// Whether two formulas are the same number.
fn is_same(one: &Formula, other: &Formula) -> bool {
    if one.depth() > DEEPEST {
        return one == other;
    }
    match (&one.0.kind, &other.0.kind) {
        (
            FormulaKind::Apply { function, operands },
            FormulaKind::Apply { function: other, operands: others },
        ) => {
            function == other
                && operands.len() == others.len()
                && operands.iter().zip(others).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}
