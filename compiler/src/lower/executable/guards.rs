//! Converts guards on the numbers of a stage's steps.

use mopd_experiment as checked;
use mopd_experiment::formula::text;
use mopd_plan::{Formula, Guard, GuardAction, GuardedDomain, Signal, is_of_steps};

use super::settings::SettingsConverter;
use super::{Converted, refused};
use crate::lower::formula::{LeafScope, Lowering};
use crate::lower::refusal::Origins;

/// The longest condition that is stored as text, in characters.
const LONGEST: usize = 200;

impl SettingsConverter<'_> {
    /// Converts the guards of a stage, and notes refusals.
    pub(super) fn guards(&mut self, train: &checked::Train, in_turns: bool) -> Vec<Guard> {
        let mut found = Vec::with_capacity(train.guards.len());
        for guard in &train.guards {
            let checked::Guard { condition, steps, on, action, origin } = guard;
            if let GuardAction::LowerRate { .. } = action {
                if in_turns {
                    self.refuse::<()>(*origin, "`lower_lr` in a step of `train`");
                }
                if train.parts().len() > 1 {
                    self.refuse::<()>(*origin, "`lower_lr` together with a term with its own completions");
                }
            }
            let lowered = match self.condition(condition) {
                Ok(lowered) => lowered,
                Err(refusal) => {
                    self.note([*refusal]);
                    continue;
                }
            };
            let on = on.map(|domain| GuardedDomain {
                place: train.mixture.iter().position(|share| share.domain == domain).unwrap_or_default()
                    as u32,
                name: self.experiment.domain(domain).name.clone(),
            });
            let text = text::formula(condition, LONGEST);
            found.push(Guard {
                text,
                condition: lowered,
                steps: *steps,
                on,
                action: *action,
                origin: *origin,
            });
        }
        found
    }

    fn condition(&self, condition: &mopd_experiment::formula::Formula) -> Converted<Formula> {
        let origins: Origins = self.origins;
        let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins);
        let value = lowering.lower(condition)?;
        let known = |signal: &Signal| signal.is_of_step() || matches!(signal, Signal::OfSteps { .. });
        if !is_of_steps(&lowering.graph, known) {
            let at = origins.span(condition.0.origin);
            return Err(refused(at, "a guard that does more than compare and compute with numbers of steps"));
        }
        Ok(Formula { graph: lowering.graph, value })
    }
}
