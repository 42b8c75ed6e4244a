//! Numbers of a stage that change during training, by a schedule or depending on the run.

use mopd_experiment::{Schedule, StageStep};
use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::signals::{self, PlainSignal, Signal};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdaptiveSchedule {
    Schedule(Schedule),
    /// Starts at the first value, and moves to the next one with each rung of one of the objective's ladders.
    Ladder {
        ladder: u32,
        values: Vec<f64>,
    },
}

/// A number of a stage that depends only on the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StepFunction {
    Schedule(Schedule),
    /// An expression of numbers of the step and schedules.
    Formula(signals::Formula),
}

impl From<Schedule> for StepFunction {
    fn from(schedule: Schedule) -> StepFunction {
        StepFunction::Schedule(schedule)
    }
}

impl StepFunction {
    /// The value at `step` of `steps`, in float64.
    pub fn at(&self, step: u32, steps: u32) -> f64 {
        match self {
            StepFunction::Schedule(schedule) => schedule.at(step, steps),
            StepFunction::Formula(formula) => {
                value(&formula.graph, formula.value, StageStep { step, steps }, &|_| None)
                    .expect("the compiler has looked that it follows from the step")
            }
        }
    }
}

/// The value of a graph's node at a step of a stage, in float64. `read` returns other
/// signals. `None` where one of these is missing.
pub(super) fn value(
    graph: &Graph,
    of: NodeId,
    at: StageStep,
    read: &dyn Fn(&Signal) -> Option<f64>,
) -> Option<f64> {
    let mut values: Vec<Option<f64>> = Vec::with_capacity(graph.len());
    for (_, node) in graph.nodes() {
        let known = |id: &NodeId| values[id.0 as usize];
        values.push(match &node.operation {
            Operation::Constant { value } => Some(*value),
            Operation::Schedule { schedule } => Some(schedule.at(at.step, at.steps)),
            Operation::Signal { signal: Signal::Plain(PlainSignal::Step) } => Some(f64::from(at.step)),
            Operation::Signal { signal: Signal::Plain(PlainSignal::Progress) } => Some(at.progress()),
            Operation::Signal { signal } => read(signal),
            Operation::Broadcast { operand } => known(operand),
            Operation::Apply { function, operands } => {
                let operands: Option<Vec<f64>> = operands.iter().map(known).collect();
                operands.map(|operands| function.value(&operands))
            }
            other => {
                unreachable!("{other:?} is no number of a step, which the compiler has looked at")
            }
        });
    }
    values[of.0 as usize]
}

/// Whether [`value`] supports all operations of a graph.
pub fn is_of_steps(graph: &Graph, known: impl Fn(&Signal) -> bool) -> bool {
    graph.nodes().all(|(_, node)| match &node.operation {
        Operation::Constant { .. }
        | Operation::Schedule { .. }
        | Operation::Broadcast { .. }
        | Operation::Apply { .. } => true,
        Operation::Signal { signal } => known(signal),
        _ => false,
    })
}

/// The condition of a ladder, and the interval of its tests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// One bool: whether to move to the next value.
    pub advance_if: NodeId,
    /// The steps between two tests.
    pub every: u32,
    pub values: u32,
}

/// A number between 0 and 1 that the run learns. It is drawn from Beta(a, b), where a = 1 + softplus(theta_a)
/// and b = 1 + softplus(theta_b), and held for some steps. Then both thetas ascend the gradient of
/// log Beta(a, b) at the drawn value, times the discounted gain (arXiv:2605.11458).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// One number, read after a step with the losses of that step.
    pub gain: NodeId,
    /// The number of gains after which a new value is drawn.
    pub hold: u32,
    /// The factor of the gain for each further step.
    pub discount: f64,
    pub learning_rate: f64,
}

impl From<Schedule> for AdaptiveSchedule {
    fn from(schedule: Schedule) -> AdaptiveSchedule {
        AdaptiveSchedule::Schedule(schedule)
    }
}

impl AdaptiveSchedule {
    /// The values at the ends of its pieces.
    pub fn ends(&self) -> Vec<f64> {
        match self {
            AdaptiveSchedule::Schedule(schedule) => schedule.ends(),
            AdaptiveSchedule::Ladder { values, .. } => values.clone(),
        }
    }

    pub fn largest(&self) -> f64 {
        self.ends().into_iter().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The value at `step` of `steps`. `climbed` has the rung of each ladder.
    pub fn at(&self, step: u32, steps: u32, climbed: &[u32]) -> f64 {
        match self {
            AdaptiveSchedule::Schedule(schedule) => schedule.at(step, steps),
            AdaptiveSchedule::Ladder { ladder, values } => values[climbed[*ladder as usize] as usize],
        }
    }
}
