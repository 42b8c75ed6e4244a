//! The objective's graph, ready to run.

use std::collections::HashMap;

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::expr::graph::NodeId;
use mopd_compiler::expr::interpret::interpret;
use mopd_compiler::expr::jit;
use mopd_compiler::expr::values::Values;
use mopd_compiler::plan::Objective;
use mopd_compiler::plan::events::FailureKind;

use crate::control::Control;
use crate::failure::{Error, Result};

/// Machine code, or the interpreter where this machine has no code generator.
pub enum Program<'a> {
    Compiled(Box<jit::Program>, &'a Objective),
    Interpreted(&'a Objective),
}

/// The values of the objective's outputs.
pub enum Outputs {
    Compiled(Values<f32>),
    Interpreted(HashMap<NodeId, Vec<f32>>),
}

impl Outputs {
    /// `node` is one of [`Objective::outputs`].
    pub fn get(&self, node: NodeId) -> &[f32] {
        match self {
            Outputs::Compiled(values) => values.get(node),
            Outputs::Interpreted(values) => &values[&node],
        }
    }
}

impl<'a> Program<'a> {
    pub fn new(objective: &'a Objective, control: &Control) -> Program<'a> {
        match jit::Program::compile(&objective.graph, &objective.outputs()) {
            Ok(program) => Program::Compiled(Box::new(program), objective),
            Err(error) => {
                control.warn(format!("the objective `{}` is interpreted, which is slower: {error}", objective.name));
                Program::Interpreted(objective)
            }
        }
    }

    pub fn run(&self, batch: &Batch) -> Result<Outputs> {
        let (Program::Compiled(_, objective) | Program::Interpreted(objective)) = self;
        let failed =
            |error| Error::new(FailureKind::Runtime, format!("the objective `{}`: {error}", objective.name)).at(objective.origin);
        match self {
            Program::Compiled(program, _) => Ok(Outputs::Compiled(program.run(batch).map_err(failed)?)),
            Program::Interpreted(_) => {
                let outputs = objective.outputs();
                let values = interpret(&objective.graph, &outputs, batch).map_err(failed)?;
                let narrow = |node: NodeId| values.get(node).iter().map(|&value| value as f32).collect();
                Ok(Outputs::Interpreted(outputs.into_iter().map(|node| (node, narrow(node))).collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mopd_compiler::expr::batch::Layout;
    use mopd_compiler::expr::derivative::adjoints;
    use mopd_compiler::expr::graph::{Graph, LiveId};
    use mopd_compiler::plan::{Axis, Function, Live, LivePrimitive, NormalForm, Origin, Reduction, Term};

    use super::*;

    /// exp(logp), averaged over each sequence, then over the batch.
    fn probability() -> Objective {
        let mut graph = Graph::default();
        let live = graph.live(LiveId(0));
        let value = graph.apply(Function::Exp, &[live]);
        let sequences = graph.reduce(Reduction::Mean, value, Axis::Sequence, None);
        let loss = graph.reduce(Reduction::Mean, sequences, Axis::Batch, None);
        let adjoint = adjoints(&mut graph, loss, &[LiveId(0)]).unwrap()[0];
        let origin = Origin(0);
        let [prefixes, sequence_selection, token_allocation, support, mass, divergence, evaluation, shaping, realisation] =
            [const { String::new() }; 9];
        Objective {
            name: "probability".into(),
            graph,
            loss,
            live: vec![LivePrimitive { primitive: Live::Logp, adjoint, origin }],
            terms: vec![Term { name: "term".into(), value, origin }],
            signal: adjoint,
            clipped: None,
            selected: None,
            normal_form: NormalForm {
                prefixes,
                sequence_selection,
                token_allocation,
                support,
                mass,
                divergence,
                evaluation,
                shaping,
                realisation,
            },
            origin,
        }
    }

    #[test]
    fn interpreted_and_compiled_programs_agree() {
        let objective = probability();
        let compiled = Program::new(&objective, &Control::new(Vec::new()));
        assert!(matches!(compiled, Program::Compiled(..)));
        let interpreted = Program::Interpreted(&objective);
        let layout = Layout { sequence_of_token: vec![0, 0, 1], group_of_sequence: vec![0, 1], groups: 2, ..Layout::default() };
        let batch = Batch { layout, live: vec![vec![-1.0, -2.0, -0.5]], steps: 1, ..Batch::default() };
        let (compiled, interpreted) = (compiled.run(&batch).unwrap(), interpreted.run(&batch).unwrap());
        for node in objective.outputs() {
            for (a, b) in compiled.get(node).iter().zip(interpreted.get(node)) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
        // 1 / (2 sequences * 2 tokens) * exp(-1)
        assert!((interpreted.get(objective.live[0].adjoint)[0] - 0.25 * (-1.0f32).exp()).abs() < 1e-6);
        // A batch that lacks what the graph reads is an error in words.
        let Err(error) = Program::Interpreted(&objective).run(&Batch::default()) else { panic!("nothing was missing") };
        assert!(error.to_string().starts_with("the objective `probability`: "), "{error}");
    }
}
