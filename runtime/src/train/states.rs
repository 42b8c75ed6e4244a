//! What objectives carry from step to step as `state`.

use std::collections::BTreeMap;

use mopd_compiler::plan::{Objective, Signal};

use super::objective::Outputs;

/// By name, as the next step reads them: in single precision, as the objective's program computed them.
pub struct States(BTreeMap<String, f64>);

impl States {
    /// Before the first step, of the parts' objectives.
    pub fn first<'o>(objectives: impl IntoIterator<Item = &'o Objective>) -> States {
        let states = objectives.into_iter().flat_map(|objective| &objective.states);
        States(states.map(|state| (state.name.clone(), state.first)).collect())
    }

    /// All at once: what each is next was computed from those that the step began with.
    pub fn learn(&mut self, objective: &Objective, outputs: &Outputs) {
        for state in &objective.states {
            self.0.insert(state.name.clone(), f64::from(outputs.get(state.next)[0]));
        }
    }

    /// One value each, of an axis with one element.
    pub fn signals(&self) -> impl Iterator<Item = (Signal, f32)> {
        self.0.iter().map(|(name, value)| (Signal::State { name: name.clone() }, *value as f32))
    }

    pub fn values(&self) -> &BTreeMap<String, f64> {
        &self.0
    }

    /// As a checkpoint has them: JSON has no infinity.
    pub fn bits(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect()
    }

    pub fn restore(&mut self, bits: &BTreeMap<String, u64>) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|(name, value)| {
            let bits = bits.get(name).ok_or_else(|| format!("it has no state `{name}`"))?;
            *value = f64::from_bits(*bits);
            Ok(())
        })
    }
}
