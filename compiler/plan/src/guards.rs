//! Guards, which watch the numbers of a stage's steps and act when a condition holds.

pub use mopd_experiment::GuardAction;
pub use mopd_experiment::formula::{Pooling, StepNumber, StepWindow};
use serde::{Deserialize, Serialize};

use super::{Formula, Origin, Signal, step_functions};
use mopd_experiment::StageStep;

/// A guard. It acts when its condition has held for `steps` steps in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// The condition as an author would write it.
    pub text: String,
    /// One bool, made of [`Signal::OfSteps`] and numbers of the step.
    pub condition: Formula,
    pub steps: u32,
    /// The domain whose numbers it reads; where absent, those of all domains together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<GuardedDomain>,
    pub action: GuardAction,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardedDomain {
    /// The domain's index in the stage's mixture.
    pub place: u32,
    /// The domain's name in the rows of steps.
    pub name: String,
}

impl Guard {
    /// Whether the condition holds after `step` of `steps`. `None` where a number that it reads is missing.
    pub fn holds(
        &self,
        step: u32,
        steps: u32,
        read: impl Fn(StepNumber, StepWindow) -> Option<f64>,
    ) -> Option<bool> {
        let of_steps = |signal: &Signal| match signal {
            Signal::OfSteps { number, window } => read(*number, *window),
            _ => None,
        };
        let Formula { graph, value } = &self.condition;
        step_functions::value(graph, *value, StageStep { step, steps }, &of_steps).map(|value| value != 0.0)
    }

    /// The step numbers that the condition reads.
    pub fn reads(&self) -> Vec<(StepNumber, StepWindow)> {
        let signals = self.condition.graph.signals(&[self.condition.value]);
        let read = signals.into_iter().filter_map(|signal| match signal {
            Signal::OfSteps { number, window } => Some((number, window)),
            _ => None,
        });
        read.collect()
    }

    /// The guard's text: `stop(entropy < 0.1, for: 5 steps, on: math)`.
    pub fn written(&self) -> String {
        let mut arguments = vec![self.text.clone()];
        if let GuardAction::LowerRate { by } = self.action {
            arguments.push(format!("by: {by}"));
        }
        if self.steps > 1 {
            arguments.push(format!("for: {} steps", self.steps));
        }
        arguments.extend(self.on.iter().map(|domain| format!("on: {}", domain.name)));
        format!("{}({})", self.action.name(), arguments.join(", "))
    }

    /// The guard's part of a stage's key; `None` if it changes no result. A stopped stage has no result.
    pub fn meaning(&self) -> Option<GuardMeaning<'_>> {
        let Guard { text: _, condition, steps, on, action, origin: _ } = self;
        let GuardAction::LowerRate { by } = action else { return None };
        // When a stage resumes, the past numbers of a domain are looked up by its name.
        let on = on.as_ref().map(|domain| (domain.place, domain.name.as_str()));
        Some(GuardMeaning { condition, steps: *steps, on, by: *by })
    }
}

#[derive(Serialize)]
pub struct GuardMeaning<'a> {
    condition: &'a Formula,
    steps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<(u32, &'a str)>,
    by: f64,
}
