//! The numbers of a stage that follow a schedule.

use super::producers::FieldValue;
use super::{AdaptiveSchedule, Formula, Live, Objective, Rollout, Schedule, Scorers, StepFunction, Train};

impl Train<Objective> {
    /// The schedules of a stage, each with a description of its number for people.
    pub fn schedules(&self) -> Vec<(&'static str, Schedule)> {
        let rate = match &self.learning_rate {
            StepFunction::Schedule(schedule) => vec![schedule.clone()],
            StepFunction::Formula(formula) => formula.graph.schedules(),
        };
        let chosen = self.curriculum.iter().flat_map(|curriculum| [&curriculum.filter, &curriculum.priority]);
        let chosen = chosen.chain([&self.filter]).flatten();
        let guarded = self.guards.iter().map(|guard| &guard.condition);
        let all = [
            ("the learning rate", rate),
            ("a number of the objective", self.objectives().flat_map(|(_, one)| of_objective(one)).collect()),
            ("a number of the rollout", self.rollouts().flat_map(of_rollout).collect()),
            ("a teacher's weight", of_teachers(&self.scorers)),
            ("a domain's share", of_formulas(&self.shares)),
            ("a number that chooses prompts", of_formulas(chosen)),
            ("a guard's number", of_formulas(guarded)),
        ];
        all.into_iter()
            .flat_map(|(what, schedules)| schedules.into_iter().map(move |one| (what, one)))
            .collect()
    }
}

fn of_objective(objective: &Objective) -> Vec<Schedule> {
    let live = objective.live.iter().flat_map(|primitive| match &primitive.primitive {
        Live::Divergence(divergence) => divergence.schedules(),
        _ => Vec::new(),
    });
    objective.graph.schedules().into_iter().chain(live).collect()
}

fn of_formulas<'a>(formulas: impl IntoIterator<Item = &'a Formula>) -> Vec<Schedule> {
    formulas.into_iter().flat_map(|formula| formula.graph.schedules()).collect()
}

fn of_teachers(scorers: &Scorers) -> Vec<Schedule> {
    let members = scorers.compositions().flat_map(|composition| &composition.members);
    members.flat_map(|member| member.weight.schedules()).collect()
}

fn of_rollout(rollout: &Rollout) -> Vec<Schedule> {
    let moving = rollout.fields(&FieldValue::Model).moving();
    let by_schedule = moving.into_iter().filter_map(|moving| match moving {
        AdaptiveSchedule::Schedule(schedule) => Some(schedule),
        AdaptiveSchedule::Ladder { .. } => None,
    });
    by_schedule.collect()
}
