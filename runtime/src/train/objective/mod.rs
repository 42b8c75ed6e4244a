//! The objective's graph, ready to run, and what it reads that comes from no model: the losses and states of
//! earlier steps ([`losses`], [`states`]) and random numbers ([`noise`]).

mod losses;
mod noise;
mod states;

use std::collections::HashMap;

use mopd_expr::batch::Batch;
use mopd_expr::graph::NodeId;
use mopd_expr::interpret::interpret;
use mopd_expr::jit;
use mopd_expr::values::{EvaluationError, Values};
use mopd_plan::events::FailureKind;
use mopd_plan::{Objective, Origin};

pub use self::losses::Losses;
pub use self::noise::add_uniforms;
pub use self::states::{States, present};
use crate::control::Control;
use crate::failure::{Error, Result};

/// Machine code, or the interpreter where there is no code generator for this machine. It runs on the host
/// even if models are on a GPU: signals are only a few numbers per token, and one program gives the same bits
/// everywhere.
pub enum ObjectiveProgram<'a> {
    Compiled(Box<jit::Program>, &'a Objective),
    Interpreted(&'a Objective),
}

/// The values of the objective's outputs.
pub enum Outputs {
    Compiled(Values<f32>),
    Listed(HashMap<NodeId, Vec<f32>>),
}

impl Outputs {
    /// `node` is one of [`Objective::outputs`].
    pub fn get(&self, node: NodeId) -> &[f32] {
        match self {
            Outputs::Compiled(values) => values.get(node),
            Outputs::Listed(values) => &values[&node],
        }
    }
}

impl<'a> ObjectiveProgram<'a> {
    pub fn new(objective: &'a Objective, control: &Control) -> ObjectiveProgram<'a> {
        match jit::Program::compile(&objective.graph, &objective.outputs()) {
            Ok(program) => ObjectiveProgram::Compiled(Box::new(program), objective),
            Err(error) => {
                control.warn(format!(
                    "the objective `{}` is interpreted, which is slower: {error}",
                    objective.name
                ));
                ObjectiveProgram::Interpreted(objective)
            }
        }
    }

    pub fn run(&self, batch: &Batch) -> Result<Outputs> {
        let (ObjectiveProgram::Compiled(_, objective) | ObjectiveProgram::Interpreted(objective)) = self;
        let failed = |error| failed(error, objective);
        match self {
            ObjectiveProgram::Compiled(program, _) => {
                Ok(Outputs::Compiled(program.run(batch).map_err(failed)?))
            }
            ObjectiveProgram::Interpreted(_) => {
                let outputs = objective.outputs();
                let values = interpret(&objective.graph, &outputs, batch).map_err(failed)?;
                let narrow = |node: NodeId| values.get(node).iter().map(|&value| value as f32).collect();
                Ok(Outputs::Listed(outputs.into_iter().map(|node| (node, narrow(node))).collect()))
            }
        }
    }
}

/// The error of an objective that reads what the completions do not have.
pub fn missing(what: &str, why: &str, objective: &Objective) -> Error {
    let message = format!("the objective `{}` reads {what}, but {why}", objective.name);
    Error::new(FailureKind::Runtime, message).at(objective.origin)
}

/// The error of a program that could not be run.
pub fn failed(error: EvaluationError, objective: &Objective) -> Error {
    failed_at(error, objective, objective.origin)
}

pub fn failed_at(error: EvaluationError, objective: &Objective, place: Origin) -> Error {
    Error::new(FailureKind::Runtime, format!("the objective `{}`: {error}", objective.name)).at(place)
}

/// d loss / d live primitive, per token, in the objective's order.
pub fn adjoints<'o>(objective: &Objective, outputs: &'o Outputs) -> Vec<&'o [f32]> {
    objective.live.iter().map(|live| outputs.get(live.adjoint)).collect()
}

#[cfg(test)]
#[path = "../../../tests/worker/support/objectives.rs"]
#[allow(dead_code, reason = "tests of whole runs use the others")]
pub(super) mod objectives;

#[cfg(test)]
mod tests {
    use mopd_expr::batch::Layout;
    use mopd_expr::testing::Random;
    use mopd_plan::{Function, Live, ModelSignal, Role, Signal};
    use tch::{Device, Kind};

    use super::*;
    use crate::machine::transfer::to_vec;
    use crate::train::tensor_graph::whole::{Inputs, evaluate};

    /// The mean of exp(logp) over each sequence, then over the batch.
    fn probability() -> Objective {
        objectives::objective("probability", Live::Logp, |graph, logp| {
            (graph.apply(Function::Exp, &[logp]), None)
        })
    }

    #[test]
    fn interpreted_and_compiled_programs_agree() {
        let objective = probability();
        let compiled = ObjectiveProgram::new(&objective, &Control::new(Vec::new()));
        assert!(matches!(compiled, ObjectiveProgram::Compiled(..)));
        let interpreted = ObjectiveProgram::Interpreted(&objective);
        let layout = Layout {
            sequence_of_token: vec![0, 0, 1],
            group_of_sequence: vec![0, 1],
            groups: 2,
            ..Layout::default()
        };
        let batch = Batch { layout, live: vec![vec![-1.0, -2.0, -0.5]], steps: 1, ..Batch::default() };
        let (compiled, interpreted) = (compiled.run(&batch).unwrap(), interpreted.run(&batch).unwrap());
        for node in objective.outputs() {
            for (a, b) in compiled.get(node).iter().zip(interpreted.get(node)) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
        // 1 / (2 sequences * 2 tokens) * exp(-1)
        assert!((interpreted.get(objective.live[0].adjoint)[0] - 0.25 * (-1.0f32).exp()).abs() < 1e-6);
        // A batch that lacks what the graph reads gives an error message.
        let Err(error) = ObjectiveProgram::Interpreted(&objective).run(&Batch::default()) else {
            panic!("nothing was missing")
        };
        assert!(error.to_string().starts_with("the objective `probability`: "), "{error}");
    }

    /// Whole objectives: the loss, its derivatives and all other outputs.
    #[test]
    fn tensors_and_compiled_programs_agree() {
        let mut at_bound = 0.0;
        for objective in [objectives::mopd(1.0), objectives::grpo(), probability()] {
            let compiled = ObjectiveProgram::new(&objective, &Control::new(Vec::new()));
            for seed in 0..50 {
                let mut random = Random(seed);
                let layout = random.layout();
                let mut batch = random.batch(layout, 1, Random::number);
                for role in [Role::Student, Role::Old] {
                    let values = (0..batch.layout.tokens()).map(|_| random.number()).collect();
                    batch.signals.push((Signal::Of { role, part: ModelSignal::Logp }, values));
                }
                let inputs = Inputs::new(&batch, Kind::Float, Device::Cpu);
                let tensors = evaluate(&objective.graph, &objective.outputs(), &inputs).unwrap();
                let compiled = compiled.run(&batch).unwrap();
                at_bound += objective.clipped.map_or(0.0, |clipped| compiled.get(clipped).iter().sum());
                for node in objective.outputs() {
                    let tensors = to_vec(&tensors[&node]);
                    assert_eq!(compiled.get(node).len(), tensors.len());
                    for (a, b) in compiled.get(node).iter().zip(&tensors) {
                        // A few roundings to 24 bits; the summands of the loss may cancel.
                        let bound = 4.0 * f32::EPSILON * a.abs() + 1e-7;
                        assert!((a - b).abs() <= bound, "{}, seed {seed}: {a} {b}", objective.name);
                    }
                }
            }
        }
        assert!(at_bound > 100.0, "only {at_bound} tokens are where a clip changes the derivative");
    }
}
