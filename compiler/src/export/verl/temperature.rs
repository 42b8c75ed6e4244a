//! The temperatures at which verl makes its numbers.
//!
//! The student's logits are divided by the rollout's temperature (`_scale_logits_by_temperature` in
//! `verl/workers/engine/fsdp/transformer_impl.py`), for log-probabilities, for its old ones and the
//! reference's, for divergences over entries, and before the entropy is taken. A teacher's are
//! log-probabilities of a prompt, which engines leave at temperature 1 (`_get_teacher_sampling_params` in
//! `verl/experimental/teacher_loop/teacher_manager.py`).

use crate::expr::roles::Role;
use crate::expr::signals::{Divergence, Signal};

/// The temperatures that the numbers of an objective have in a run.
#[derive(Clone, Copy, Debug)]
pub struct VerlTemperatures {
    pub rollout: f64,
    /// Of the log-probabilities that the objective reads.
    pub objective: f64,
}

const TEACHER: &str = "verl's teachers are always at temperature 1, and its student at the rollout's: with \
                       `temperature: 1` in the rollout both are what a run compares";

const ENTROPY: &str = "verl takes the entropy at the rollout's temperature, and a run at 1: with \
                       `temperature: 1` in the rollout they are one";

const STUDENT: &str = "verl divides the student's logits by the rollout's temperature, whatever the \
                       objective says: leave `temperature` of the objective out, or let the rollout have the \
                       same";

const OWN: &str = "verl's divergence is at temperature 1 where the rollout is: leave its `temperature:` out";

impl VerlTemperatures {
    /// # Errors
    /// Why verl's number is another than a run's.
    pub fn of_signal(self, signal: &Signal) -> Result<(), &'static str> {
        match signal {
            Signal::Logp { role: Role::TEACHER } => same(self.objective, 1.0, TEACHER),
            Signal::Logp { role: Role::Student | Role::REFERENCE } => {
                same(self.objective, self.rollout, STUDENT)
            }
            Signal::Entropy { role: Role::Student } => same(1.0, self.rollout, ENTROPY),
            // What the sampler says is at the temperature that it drew by, in verl too.
            _ => Ok(()),
        }
    }

    /// # Errors
    /// Likewise of the log-probability that gradient flows through.
    pub fn of_live_logp(self) -> Result<(), &'static str> {
        self.of_signal(&Signal::Logp { role: Role::Student })
    }

    /// # Errors
    /// Likewise of KL(teacher || student), whose two sides verl has at two temperatures.
    pub fn of_divergence(self, divergence: &Divergence) -> Result<(), &'static str> {
        same(1.0, self.rollout, TEACHER)?;
        same(divergence.temperature, 1.0, OWN)
    }
}

fn same(run: f64, verl: f64, why: &'static str) -> Result<(), &'static str> {
    if (run - verl).abs() > 1e-12 { Err(why) } else { Ok(()) }
}
