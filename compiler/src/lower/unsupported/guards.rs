//! Refuses guards that read numbers which their stage does not have.

use mopd_experiment::formula::StepNumber;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Guard, Objective, Producer, Role, Rollout, Scorers, Validation};

use crate::lower::refusal::Origins;

/// The parts of a stage that decide which numbers its steps have. Where some terms have completions of their
/// own, these are the parts of the other terms.
pub struct GuardContext<'a> {
    pub objective: &'a Objective,
    pub rollout: &'a Rollout,
    pub scorers: &'a Scorers,
    pub validation: Option<&'a Validation>,
}

impl GuardContext<'_> {
    fn have(&self, number: StepNumber) -> bool {
        match number {
            StepNumber::Divergence => self.has_divergence(),
            StepNumber::ClippedFraction => self.objective.clipped.is_some(),
            StepNumber::ValidationLoss => self.validation.is_some(),
            // Completions from the data are rewarded only if the objective needs the reward.
            StepNumber::Reward => {
                let asked = || self.objective.signals().iter().any(|signal| signal.is_of_reward());
                !matches!(self.rollout.producer, Producer::Data(_)) || asked()
            }
            StepNumber::Loss
            | StepNumber::GradientNorm
            | StepNumber::Entropy
            | StepNumber::SignalMean
            | StepNumber::Length
            | StepNumber::Truncated
            | StepNumber::TokenShare
            | StepNumber::SignalShare => true,
        }
    }

    /// Whether the routed teacher returns log-probabilities of the student's tokens.
    fn has_divergence(&self) -> bool {
        let routed = self.scorers.routed();
        let scored = self.scorers.scored(|role| self.objective.reads(role)).contains(&Role::TEACHER);
        scored && !routed.is_empty() && routed.iter().all(|choice| !choice.own_tokens)
    }
}

pub fn refusal(guards: &[Guard], steps: &GuardContext, origins: Origins) -> Option<Diagnostic> {
    for guard in guards {
        let Some((number, _)) = guard.reads().into_iter().find(|(number, _)| !steps.have(*number)) else {
            continue;
        };
        let why = match number {
            StepNumber::Divergence => "its objective reads no routed teacher with the student's tokens",
            StepNumber::ClippedFraction => "its objective has no `clip`",
            StepNumber::ValidationLoss => "it has no `validate`",
            _ => "its completions are the data's, and its objective does not ask for their reward",
        };
        let text = format!("the steps of this stage have no `{}`: {why}", number.name());
        let has = StepNumber::ALL.into_iter().filter(|number| steps.have(*number));
        let help = format!("they have: {}", has.map(StepNumber::name).collect::<Vec<_>>().join(", "));
        return Some(Diagnostic::error(Code::UnknownField, origins.span(guard.origin), text).help(help));
    }
    None
}
