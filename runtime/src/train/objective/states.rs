//! The `state`s that objectives carry from step to step.

use std::collections::BTreeMap;

use mopd_expr::batch::{Batch, Layout};
use mopd_plan::{Axis, Objective, Signal};

use super::Outputs;
use crate::zip::zip_equal;

/// States by name, with the values that the next step reads: in the program's single precision.
pub struct States {
    numbers: BTreeMap<String, DomainNumbers>,
    /// The domains of the stage, in the order of the mixture.
    domains: Vec<String>,
}

struct DomainNumbers {
    axis: Axis,
    /// One, or one for each domain.
    values: Vec<f64>,
}

impl States {
    /// The states of the parts' objectives before the first step of a stage with these domains.
    pub fn first<'o>(
        objectives: impl IntoIterator<Item = &'o Objective>,
        domains: impl IntoIterator<Item = &'o str>,
    ) -> States {
        let domains: Vec<String> = domains.into_iter().map(str::to_owned).collect();
        let states = objectives.into_iter().flat_map(|objective| &objective.states);
        let numbers = states.map(|state| {
            let count = if state.axis == Axis::Domain { domains.len() } else { 1 };
            (state.name.clone(), DomainNumbers { axis: state.axis, values: vec![state.first; count] })
        });
        States { numbers: numbers.collect(), domains }
    }

    /// Updates all states at once: the next values were computed from those that the step began with. A
    /// domain without completions in the step keeps its values.
    pub fn learn(&mut self, objective: &Objective, batch: &Batch, outputs: &Outputs) {
        let present = present(&batch.layout);
        for state in &objective.states {
            let DomainNumbers { axis, values } =
                self.numbers.get_mut(&state.name).expect("they are those of the objective");
            let next = outputs.get(state.next);
            match axis {
                Axis::Domain => {
                    for (value, (next, present)) in zip_equal(values, zip_equal(next, &present)) {
                        if *present {
                            *value = f64::from(*next);
                        }
                    }
                }
                _ => values[0] = f64::from(next[0]),
            }
        }
    }

    /// The signals, with one value each or one for each domain.
    pub fn signals(&self) -> impl Iterator<Item = (Signal, Vec<f32>)> {
        self.numbers.iter().map(|(name, DomainNumbers { axis, values })| {
            let values = values.iter().map(|value| *value as f32).collect();
            (Signal::State { name: name.clone(), axis: *axis }, values)
        })
    }

    /// Values by name; a state with one for each domain is `<name>.<domain>`, where neither has a dot.
    pub fn values(&self) -> BTreeMap<String, f64> {
        let named = self.numbers.iter().flat_map(|(name, numbers)| {
            zip_equal(self.names(name, numbers.axis), numbers.values.iter().copied())
        });
        named.collect()
    }

    fn names(&self, state: &str, axis: Axis) -> Vec<String> {
        match axis {
            Axis::Domain => self.domains.iter().map(|domain| format!("{state}.{domain}")).collect(),
            _ => vec![state.to_owned()],
        }
    }

    /// The values as bits, for a checkpoint: JSON has no infinity.
    pub fn bits(&self) -> BTreeMap<String, u64> {
        self.values().into_iter().map(|(name, value)| (name, value.to_bits())).collect()
    }

    pub fn restore(&mut self, bits: &BTreeMap<String, u64>) -> Result<(), String> {
        let names: Vec<(String, Axis)> =
            self.numbers.iter().map(|(name, numbers)| (name.clone(), numbers.axis)).collect();
        for (state, axis) in names {
            let found = self.names(&state, axis).into_iter().map(|name| {
                let bits = bits.get(&name).ok_or_else(|| format!("it has no state `{name}`"))?;
                Ok(f64::from_bits(*bits))
            });
            let found = found.collect::<Result<Vec<f64>, String>>()?;
            self.numbers.get_mut(&state).expect("it is one of them").values = found;
        }
        Ok(())
    }
}

/// For each domain, whether the batch has completions of it.
pub fn present(layout: &Layout) -> Vec<bool> {
    let mut present = vec![false; layout.len(Axis::Domain)];
    for sequence in 0..layout.sequences() {
        present[layout.parent(Axis::Sequence, Axis::Domain, sequence)] = true;
    }
    present
}
