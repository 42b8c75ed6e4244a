//! The numbers of a stage that follow a schedule.

use mopd_expr::graph::{Graph, Operation};

use super::producers::FieldValue;
use super::{AdaptiveSchedule, Objective, Rollout, Schedule, StepFunction, Train};

impl Train<Objective> {
    /// The schedules of a stage, each with a description of its number for people.
    pub fn schedules(&self) -> Vec<(&'static str, Schedule)> {
        let rate = match &self.learning_rate {
            StepFunction::Schedule(schedule) => vec![schedule.clone()],
            StepFunction::Formula(formula) => of_graph(&formula.graph).collect(),
        };
        let objectives = self.objectives().flat_map(|(_, objective)| of_graph(&objective.graph));
        let rollouts = self.rollouts().flat_map(of_rollout);
        let rate = rate.into_iter().map(|schedule| ("the learning rate", schedule));
        let objectives = objectives.map(|schedule| ("a number of the objective", schedule));
        let rollouts = rollouts.map(|schedule| ("a number of the rollout", schedule));
        rate.chain(objectives).chain(rollouts).collect()
    }
}

fn of_graph(graph: &Graph) -> impl Iterator<Item = Schedule> {
    graph.nodes().filter_map(|(_, node)| match &node.operation {
        Operation::Schedule { schedule } => Some(schedule.clone()),
        _ => None,
    })
}

fn of_rollout(rollout: &Rollout) -> Vec<Schedule> {
    let moving = rollout.fields(&FieldValue::Model).moving();
    let by_schedule = moving.into_iter().filter_map(|moving| match moving {
        AdaptiveSchedule::Schedule(schedule) => Some(schedule),
        AdaptiveSchedule::Ladder { .. } => None,
    });
    by_schedule.collect()
}
