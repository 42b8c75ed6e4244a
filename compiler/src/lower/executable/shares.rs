//! Converts the domains' shares of a step's prompts, computed from the objective's states.

use mopd_experiment as checked;
use mopd_experiment::formula;
use mopd_expr::graph::Operation;
use mopd_plan::{Axis, Formula, Length, Rollout, Signal};

use super::settings::SettingsConverter;
use super::{Converted, refused};
use crate::lower::formula::{LeafScope, Lowering};
use crate::lower::refusal::Origins;

impl SettingsConverter<'_> {
    /// `None` where the shares are the mixture's, or computed shares are refused.
    pub(super) fn shares<'r>(
        &mut self,
        train: &checked::Train,
        rollouts: impl IntoIterator<Item = &'r Rollout>,
        in_turns: bool,
        origins: Origins,
    ) -> Option<Formula> {
        let shares = train.shares.as_ref()?;
        // The number of completions generated beforehand depends on fixed shares.
        let written = rollouts.into_iter().any(|Rollout { producer, .. }| {
            producer.cached_per_prompt() || producer.all().into_iter().any(|inside| inside.once().is_some())
        });
        for (unsupported, beside) in [
            (in_turns, "in a step of `train`"),
            (train.options.private.is_some(), "in a private stage"),
            (matches!(train.length, Length::Epochs(_)), "in a stage that trains in epochs"),
            (written, "with completions that are sampled only once, before the first step"),
        ] {
            if unsupported {
                let construct = format!("a mixture whose `shares` follow states {beside}");
                self.refuse::<()>(shares.0.origin, construct);
            }
        }
        lowered(shares, origins).map_err(|refusal| self.note([*refusal])).ok()
    }
}

/// One number for each domain, from numbers known at the beginning of a step.
fn lowered(shares: &formula::Formula, origins: Origins) -> Converted<Formula> {
    let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins);
    let value = lowering.lower(shares)?;
    let value = lowering.graph.broadcast(value, Axis::Domain);
    let graph = lowering.graph;
    let known = |signal: &Signal| signal.is_of_step() || matches!(signal, Signal::State { .. });
    let needed = graph.reachable(&[value]);
    let carries = graph
        .nodes()
        .any(|(id, node)| needed[id.0 as usize] && matches!(node.operation, Operation::Memory { .. }));
    if carries || !graph.signals(&[value]).iter().all(known) {
        let construct = "a mixture whose `shares` read anything but states, `step` and `progress`";
        return Err(refused(origins.at(shares.0.origin), construct));
    }
    Ok(Formula { graph, value })
}
