//! Lowers outputs of scalar heads, and losses on two completions of a prompt.

use mopd_experiment::Origin;
use mopd_experiment::formula::{self as checked, Formula, FormulaKind, FormulaNode};
use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{Axis, Function, Live, ModelSignal, PlainSignal, Reduction, Role, Signal};

use super::formula::{LeafScope, Lowering};
use super::positions;

/// The position of a score among the values of a scalar head. A value is computed before its token, so the
/// score of a text is the value before the token that follows the text.
#[derive(Clone, Debug, PartialEq)]
pub enum ScorePosition {
    /// Every token's value, without a score.
    EachToken,
    /// At the last token of the completion, which is the end token unless it was cut off.
    Completion,
    /// After `<tag>...</tag>`; 0 where there is no such text.
    Span { tag: String },
}

impl Lowering<'_> {
    /// Reads a score from `value`, which is per token.
    pub(super) fn score(&mut self, value: NodeId, on: ScorePosition, origin: Origin) -> NodeId {
        let here = match on {
            ScorePosition::EachToken => return value,
            ScorePosition::Completion => {
                let (remaining, none) = (self.remaining(origin), self.graph.constant(Axis::Run, 0.0));
                self.graph.apply(Function::Equal, &[remaining, none])
            }
            ScorePosition::Span { tag } => self.after_tag(tag, origin),
        };
        self.graph.reduce(Reduction::Sum, value, Axis::Sequence, Some(here))
    }

    /// The output of the student's own head, with its gradient.
    pub(super) fn live_score(&mut self, on: ScorePosition, origin: Origin) -> NodeId {
        let value = self.live_part(checked::ModelSignal::Value, Live::Value, origin);
        self.score(value, on, origin)
    }

    /// Whether the token is the one after the last token inside a tag, or that last token itself if none
    /// follows.
    fn after_tag(&mut self, tag: String, origin: Origin) -> NodeId {
        use Function::*;
        let inside = checked::Signal::InSpan(checked::NamedSpan::Tag(tag.clone()));
        let inside = self.given_or_signal(inside, Signal::InSpan { tag }, origin);
        let position = self.given_or_signal(
            checked::Signal::Plain(checked::PlainSignal::Position),
            Signal::Plain(PlainSignal::Position),
            origin,
        );
        let remaining = self.remaining(origin);
        let graph = &mut self.graph;
        let (any, one) =
            (graph.reduce(Reduction::Any, inside, Axis::Sequence, None), graph.constant(Axis::Run, 1.0));
        let end = graph.reduce(Reduction::Maximum, position, Axis::Sequence, Some(inside));
        let behind = graph.apply(Add, &[end, one]);
        let last = graph.apply(Add, &[position, remaining]);
        let place = graph.apply(Minimum, &[behind, last]);
        let here = graph.apply(Equal, &[position, place]);
        graph.apply(And, &[any, here])
    }

    fn remaining(&mut self, origin: Origin) -> NodeId {
        match self.supply {
            LeafScope::GraphLeaves => self.given_or_signal(
                checked::Signal::Plain(checked::PlainSignal::Remaining),
                Signal::Plain(PlainSignal::Length),
                origin,
            ),
            LeafScope::RuntimeOnly | LeafScope::AllSignals => positions::remaining(&mut self.graph),
        }
    }

    /// The language's signal if it is given; else the signal that the runtime computes.
    fn given_or_signal(&mut self, given: checked::Signal, computed: Signal, origin: Origin) -> NodeId {
        let (unit, axis) = (given.unit(), given.axis());
        self.given_or(FormulaKind::Signal(given), unit, axis, origin, |lowering| {
            lowering.graph.signal(computed)
        })
    }

    /// [`Self::known()`] for a number of the student that has a gradient.
    fn live_part(&mut self, given: checked::ModelSignal, computed: Live, origin: Origin) -> NodeId {
        let (unit, axis) = (given.unit(), given.axis());
        let given = FormulaKind::Live(checked::Live::Part(given));
        self.given_or(given, unit, axis, origin, |lowering| lowering.live(computed, origin))
    }

    fn given_or(
        &mut self,
        given: FormulaKind,
        unit: checked::Unit,
        axis: Axis,
        origin: Origin,
        computed: impl FnOnce(&mut Self) -> NodeId,
    ) -> NodeId {
        match self.supply {
            LeafScope::GraphLeaves => {
                let live = matches!(given, FormulaKind::Live(_));
                let formula = Formula::new(given, unit, axis, live, origin);
                self.leaf(&formula).expect("a signal is a leaf")
            }
            LeafScope::RuntimeOnly | LeafScope::AllSignals => computed(self),
        }
    }

    /// With [`Lowering::opening_losses`], a loss computed from given numbers. `None` where it stays a leaf.
    pub(super) fn of_given(&mut self, formula: &FormulaNode) -> Option<NodeId> {
        let FormulaKind::Live(live) = &formula.kind else { return None };
        if !self.opens_losses {
            return None;
        }
        let (origin, operands) = (formula.origin, formula.operands());
        Some(match live {
            checked::Live::Part(checked::ModelSignal::Score) => {
                self.live_score(ScorePosition::Completion, origin)
            }
            checked::Live::SquaredError { part, dimensions: None, .. } => {
                let (on, target) = (read_of(part)?, self.lowered(operands[0]));
                self.squared_error(on, target, origin)
            }
            checked::Live::Preference(preference) => match (&preference.kind, &preference.on) {
                (checked::PreferenceKind::Dpo { .. }, None) => {
                    let beta = self.lowered(operands[0]);
                    self.dpo(beta, origin)
                }
                (checked::PreferenceKind::BradleyTerry, None) => {
                    self.bradley_terry(ScorePosition::Completion, origin)
                }
                (checked::PreferenceKind::BradleyTerry, Some(checked::NamedSpan::Tag(tag))) => {
                    self.bradley_terry(ScorePosition::Span { tag: tag.clone() }, origin)
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    /// -log sigmoid(beta * (S(chosen) - S(rejected))) of each pair, where S is the sum over a completion's
    /// tokens of log student / reference (arXiv:2305.18290, eq. 7). Tokens that are not selected are left
    /// out.
    pub(super) fn dpo(&mut self, beta: NodeId, origin: Origin) -> NodeId {
        let student = self.live_part(checked::ModelSignal::Logp, Live::Logp, origin);
        let reference =
            checked::Signal::Of { role: checked::Role::Reference, part: checked::ModelSignal::Logp };
        let reference = self.given_or_signal(
            reference,
            Signal::Of { role: Role::REFERENCE, part: ModelSignal::Logp },
            origin,
        );
        let graph = &mut self.graph;
        let log_ratio = graph.apply(Function::Subtract, &[student, reference]);
        let log_ratio = graph.reduce(Reduction::Sum, log_ratio, Axis::Sequence, self.selected);
        let margin = margin(graph, log_ratio);
        let x = graph.apply(Function::Multiply, &[beta, margin]);
        minus_log_sigmoid(graph, x)
    }

    /// -log sigmoid(score(chosen) - score(rejected)) of each pair (arXiv:2203.02155, eq. 1).
    pub(super) fn bradley_terry(&mut self, on: ScorePosition, origin: Origin) -> NodeId {
        let score = self.live_score(on, origin);
        let margin = margin(&mut self.graph, score);
        minus_log_sigmoid(&mut self.graph, margin)
    }

    /// The squared difference between the head's output and the target.
    pub(super) fn squared_error(&mut self, on: ScorePosition, target: NodeId, origin: Origin) -> NodeId {
        let read = self.live_score(on, origin);
        let error = self.graph.apply(Function::Subtract, &[read, target]);
        self.graph.apply(Function::Multiply, &[error, error])
    }
}

impl Lowering<'_> {
    /// `live student.confidence`
    pub(super) fn live_confidence(&mut self, origin: Origin) -> NodeId {
        let logit = self.live(Live::ConfidenceLogit, origin);
        self.graph.apply(Function::Sigmoid, &[logit])
    }

    /// -(y log c + (1 - y) log(1 - c)) of the confidence c and a target y. It is computed from the logit of
    /// c, because log c would be infinite where c rounds to 0.
    pub(super) fn cross_entropy(&mut self, target: NodeId, origin: Origin) -> NodeId {
        use Function::*;
        let logit = self.live(Live::ConfidenceLogit, origin);
        let graph = &mut self.graph;
        let one = graph.constant(Axis::Run, 1.0);
        let opposite = graph.apply(Negate, &[logit]);
        let (stands, falls) = (minus_log_sigmoid(graph, logit), minus_log_sigmoid(graph, opposite));
        let other = graph.apply(Subtract, &[one, target]);
        let (stands, falls) =
            (graph.apply(Multiply, &[target, stands]), graph.apply(Multiply, &[other, falls]));
        graph.apply(Add, &[stands, falls])
    }
}

/// How a part of a role is read from a scalar head. `None` for other parts.
pub(super) fn read_of(part: &checked::ModelSignal) -> Option<ScorePosition> {
    match part {
        checked::ModelSignal::Value => Some(ScorePosition::EachToken),
        checked::ModelSignal::Score => Some(ScorePosition::Completion),
        _ => None,
    }
}

/// The chosen completion's number minus the rejected one's, for each pair.
fn margin(graph: &mut Graph, of: NodeId) -> NodeId {
    let chosen = graph.signal(Signal::Chosen);
    let opposite = graph.apply(Function::Negate, &[of]);
    let signed = graph.apply(Function::Where, &[chosen, of, opposite]);
    graph.reduce(Reduction::Sum, signed, Axis::Group, None)
}

/// log(1 + exp(-x)) without overflow. At 0, where training starts from the reference, the derivative must be
/// -1/2, so there is no `abs`, and no tie of `min` and `max` in the branch that is taken.
fn minus_log_sigmoid(graph: &mut Graph, x: NodeId) -> NodeId {
    use Function::*;
    let zero = graph.constant(Axis::Run, 0.0);
    let below = graph.apply(Less, &[x, zero]);
    let lower = graph.apply(Minimum, &[x, zero]);
    let of_lower = graph.apply(Exp, &[lower]);
    let of_lower = graph.apply(Log1p, &[of_lower]);
    let of_lower = graph.apply(Subtract, &[of_lower, x]);
    let upper = graph.apply(Maximum, &[x, zero]);
    let upper = graph.apply(Negate, &[upper]);
    let of_upper = graph.apply(Exp, &[upper]);
    let of_upper = graph.apply(Log1p, &[of_upper]);
    graph.apply(Where, &[below, of_lower, of_upper])
}
