//! Numbers of earlier steps that objectives read: `loss` and `loss.<term>` of the last step, states, and what
//! hooks measure between steps.

use mopd_expr::batch::Batch;
use mopd_plan::{Objective, PlainSignal, Signal, TermLoss};

use super::Outputs;
use super::states::States;
use crate::store::state::LossesPosition;
use crate::zip::zip_equal;

pub struct Losses {
    /// The loss over all terms of all parts.
    total: f64,
    /// The loss of each term, in the order of the parts.
    of_terms: Vec<(Signal, f32)>,
    /// The last value of each number that hooks measure.
    measured: Vec<(Signal, f32)>,
    pub states: States,
}

impl Losses {
    /// The losses before the first step: all are 1.
    pub fn first<'o>(
        objectives: impl IntoIterator<Item = &'o Objective> + Clone,
        domains: impl IntoIterator<Item = &'o str>,
    ) -> Losses {
        let states = States::first(objectives.clone(), domains);
        let losses = objectives.into_iter().flat_map(|objective| &objective.term_losses);
        let first = |of: &TermLoss| (Signal::TermLoss { term: of.term.clone() }, 1.0);
        Losses { total: 1.0, of_terms: losses.map(first).collect(), measured: Vec::new(), states }
    }

    /// Returns the loss of a step over the parts that had something to train on. The other parts keep their
    /// losses and states.
    pub fn learn<'o>(
        &mut self,
        parts: impl Iterator<Item = (&'o Objective, Option<&'o (Batch, Outputs)>)>,
    ) -> f64 {
        let (mut step, mut place) = (None, 0);
        for (objective, evaluated) in parts {
            let own = &mut self.of_terms[place..place + objective.term_losses.len()];
            place += own.len();
            let Some((batch, outputs)) = evaluated else { continue };
            *step.get_or_insert(0.0) += f64::from(outputs.get(objective.loss)[0]);
            for ((_, loss), of) in zip_equal(own, &objective.term_losses) {
                *loss = outputs.get(of.loss)[0];
            }
            self.states.learn(objective, batch, outputs);
        }
        self.total = step.unwrap_or(self.total);
        step.unwrap_or(0.0)
    }

    /// The signals: one value each, except states with one value for each domain.
    pub fn signals(&self) -> impl Iterator<Item = (Signal, Vec<f32>)> {
        let total = (Signal::Plain(PlainSignal::Loss), self.total as f32);
        let all = std::iter::once(total).chain(self.of_terms.iter().chain(&self.measured).cloned());
        all.map(|(signal, loss)| (signal, vec![loss])).chain(self.states.signals())
    }

    /// Sets a number that a hook has measured.
    pub fn measure(&mut self, signal: Signal, value: f64) {
        self.measured.retain(|(known, _)| *known != signal);
        self.measured.push((signal, value as f32));
    }

    /// The state, as bits: JSON has no infinity. Hooks save what they measured.
    pub fn save(&self) -> LossesPosition {
        let Losses { total, of_terms, measured: _, states } = self;
        let of_terms = of_terms.iter().map(|(_, loss)| f64::from(*loss).to_bits());
        LossesPosition {
            losses: std::iter::once(total.to_bits()).chain(of_terms).collect(),
            states: states.bits(),
        }
    }

    pub fn restore(&mut self, position: &LossesPosition) -> Result<(), String> {
        let LossesPosition { losses, states } = position;
        // Earlier versions stored no losses.
        if let Some((total, of_terms)) = losses.split_first() {
            if of_terms.len() != self.of_terms.len() {
                return Err("it has losses of other terms than the stage".to_owned());
            }
            self.total = f64::from_bits(*total);
            for ((_, loss), bits) in zip_equal(&mut self.of_terms, of_terms) {
                *loss = f64::from_bits(*bits) as f32;
            }
        }
        self.states.restore(states)
    }
}
