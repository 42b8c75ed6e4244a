//! What the steps before a tried step leave: the values of states, and of `ema(...)` and `previous(...)`.

use std::collections::{BTreeMap, HashMap};

use mopd_experiment::Objective;
use mopd_experiment::formula::Axis;
use mopd_expr::graph::NodeId;

use super::numbers::TrialNumbers;

#[derive(Clone, Debug, Default)]
pub(super) struct EarlierValues {
    /// By name of the state and of the domain, which is empty for one number of the run.
    states: BTreeMap<String, BTreeMap<String, f64>>,
    /// By memory node.
    pub memory: HashMap<NodeId, f64>,
}

impl EarlierValues {
    /// The value of a state, one for each of the step's domains if it has one for each. `None` where no step
    /// has left any.
    pub fn state(&self, name: &str, axis: Axis, domains: &[&str]) -> Option<Vec<Option<f64>>> {
        let values = self.states.get(name)?;
        let names = if axis == Axis::Domain { domains } else { &[""] };
        Some(names.iter().map(|domain| values.get(*domain).copied()).collect())
    }

    /// The same after a step: a domain without completions in it keeps its value.
    pub fn after<'v>(
        &self,
        objective: &Objective,
        numbers: &TrialNumbers,
        memories: &[(NodeId, NodeId)],
        value: impl Fn(NodeId) -> &'v [f64],
        parts: &[(String, NodeId)],
    ) -> EarlierValues {
        let mut states = self.states.clone();
        for state in &objective.states {
            let next = format!("{}.next", state.name);
            let Some((_, node)) = parts.iter().find(|(name, _)| *name == next) else { continue };
            let domains = if state.axis == Axis::Domain { numbers.domains() } else { vec![""] };
            let values = states.entry(state.name.clone()).or_default();
            assert_eq!(domains.len(), value(*node).len(), "a state has one number for each domain");
            for (domain, next) in domains.into_iter().zip(value(*node)) {
                values.insert(domain.to_owned(), *next);
            }
        }
        let memory = memories.iter().map(|(memory, node)| (*memory, value(*node)[0])).collect();
        EarlierValues { states, memory }
    }
}
