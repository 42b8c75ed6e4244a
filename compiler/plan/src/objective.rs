//! An objective as the runtime computes it: a graph, and what its nodes are for.

use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::roles::Role;
use mopd_expr::signals::{Axis, Divergence, Live, Signal, is_run, run};
use serde::{Deserialize, Serialize};

use crate::alignment::TermGradient;
use crate::settings::{Origin, Temperature};
use crate::step_functions::{Ladder, Learned};

/// An objective as a graph. The loss to minimise is the node `loss`; its gradient reaches the weights only
/// through the live primitives: d loss / d weights = sum over primitives and tokens of `adjoint` * d
/// primitive / d weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub name: String,
    pub graph: Graph,
    /// A single number.
    pub loss: NodeId,
    pub live: Vec<LivePrimitive>,
    pub terms: Vec<Term>,
    /// The losses of terms that some formula of the stage reads in the next step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub term_losses: Vec<TermLoss>,
    /// The gradients of the terms, where the stage compares them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub term_gradients: Vec<TermGradient>,
    /// The denominators of the loss that are known only at a step. Each must be positive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denominators: Vec<Denominator>,
    /// Per token: the sum over live primitives of |d (sum of weighted terms) / d primitive|, before `reduce`,
    /// times the primitive if it is a divergence. This is the signal whose shares are reported: in a policy
    /// gradient the size of the advantage, in a divergence its weighted value.
    pub signal: NodeId,
    /// Per token: 1 where some `clip` of the objective is at its bound. `None` in an objective without
    /// `clip`.
    pub clipped: Option<NodeId>,
    /// Per token: 1 where the token is selected. `None` in an objective without `select`.
    pub selected: Option<NodeId>,
    /// Per token: 1 where the token is in a block. It reads no number of a block, and is evaluated first.
    /// `None` where no number of a block is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<NodeId>,
    /// Per token: the objective's `weight`, times the term's own weight if there is only one term. `None`
    /// without weights.
    #[serde(default)]
    pub weight: Option<NodeId>,
    /// Per token: the factor that `by domain` gives the token's domain, or would give if it only observes. Of
    /// several such reductions it is that of the first. `None` without a balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_weight: Option<NodeId>,
    /// The divisor of the logits of student, teacher and reference in every log-probability of a token taken
    /// or of ending, and in divergences with the sampler on a side.
    #[serde(default = "one", skip_serializing_if = "Temperature::is_one")]
    pub temperature: Temperature,
    /// The ladders that the stage's rollouts depend on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ladders: Vec<Ladder>,
    /// The numbers that are carried from step to step. Signals refer to them by name, in every part of the
    /// stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// The learned number that the teachers' templates depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
    pub normal_form: NormalForm,
    pub origin: Origin,
}

/// A value of 1 is left out, so that the keys of older plans do not change.
fn one() -> Temperature {
    Temperature::Constant(1.0)
}

impl Objective {
    /// Every node whose value the runtime needs: for training, for reports, and to carry it over to the next
    /// step.
    pub fn outputs(&self) -> Vec<NodeId> {
        let mut outputs = self.results();
        outputs.extend(self.graph.carried(&outputs).into_iter().map(|(_, source)| source));
        outputs
    }

    fn results(&self) -> Vec<NodeId> {
        let adjoints = self.live.iter().map(|live| live.adjoint);
        let terms = self.terms.iter().map(|term| term.value);
        std::iter::once(self.loss)
            .chain(adjoints)
            .chain(terms)
            .chain(self.term_losses.iter().map(|of| of.loss))
            .chain(self.denominators.iter().map(|of| of.value))
            .chain([self.signal])
            .chain(self.clipped)
            .chain(self.selected)
            .chain(self.chosen)
            .chain(self.weight)
            .chain(self.domain_weight)
            .chain(self.ladders.iter().map(|ladder| ladder.advance_if))
            .chain(self.states.iter().map(|state| state.next))
            .chain(self.learned.iter().map(|learned| learned.gain))
            .chain(self.term_gradients.iter().flat_map(|of| of.adjoints.iter().copied()))
            .collect()
    }

    /// All signals that the objective reads, also inside divergences, with repetition.
    pub fn signals(&self) -> Vec<Signal> {
        let signals = self.graph.signals(&self.outputs());
        signals.into_iter().chain(self.signals_inside()).collect()
    }

    /// The signals that numbers inside divergences depend on, with repetition.
    pub fn signals_inside(&self) -> Vec<Signal> {
        self.divergences().iter().flat_map(Divergence::signals).collect()
    }

    /// The divergences that are read as signals, then the live ones.
    pub fn divergences(&self) -> Vec<Divergence> {
        let of_signals = self.graph.signals(&self.outputs()).into_iter().filter_map(|signal| match signal {
            Signal::Divergence(divergence) => Some(divergence),
            _ => None,
        });
        let of_live = self.live.iter().filter_map(|live| match &live.primitive {
            Live::Divergence(divergence) => Some(divergence.clone()),
            _ => None,
        });
        of_signals.chain(of_live).collect()
    }

    /// The fields of the data whose log-probability is read ([`Signal::RecordedLogp`]), each once.
    pub fn recorded(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = Vec::new();
        for (_, node) in self.graph.nodes() {
            if let Operation::Signal { signal: Signal::RecordedLogp { field } } = &node.operation
                && !fields.contains(&field.as_str())
            {
                fields.push(field);
            }
        }
        fields
    }

    /// Whether the objective needs the distribution of a role, besides the student's.
    pub fn reads(&self, role: Role) -> bool {
        let live =
            self.live.iter().any(|live| role == Role::Student || live.primitive.roles().contains(&role));
        live || self.graph.signals(&self.outputs()).iter().any(|signal| signal.roles().contains(&role))
    }
}

/// The denominator of a `reduce`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denominator {
    /// A single number.
    pub value: NodeId,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LivePrimitive {
    pub primitive: Live,
    /// Per token: d loss / d primitive.
    pub adjoint: NodeId,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    pub name: String,
    /// Per token, before `weight`, `select` and `reduce`.
    pub value: NodeId,
    pub origin: Origin,
}

/// A number that is carried from step to step: one for the run, or one for each domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    /// The axis, which is the run or the domain.
    #[serde(default = "run", skip_serializing_if = "is_run")]
    pub axis: Axis,
    /// The value in the first step.
    pub first: f64,
    /// The value in the next step: one number, or one for each domain.
    pub next: NodeId,
    pub origin: Origin,
}

/// A term's loss, without weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermLoss {
    pub term: String,
    /// A single number.
    pub loss: NodeId,
}

/// Slots that make two objectives comparable line by line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NormalForm {
    pub prefixes: String,
    pub sequence_selection: String,
    pub token_allocation: String,
    pub support: String,
    pub mass: String,
    pub divergence: String,
    pub evaluation: String,
    pub shaping: String,
    pub realisation: String,
    /// The formulas of all terms in full: objectives with equal slots are equal. Missing in old plans.
    #[serde(default)]
    pub terms: String,
}
