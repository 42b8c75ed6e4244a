//! The temperatures at which verl computes its numbers, compared with those of a run.
//!
//! The student's logits are divided by the rollout's temperature (`_scale_logits_by_temperature` in
//! `verl/workers/engine/fsdp/transformer_impl.py`) before its log-probabilities, the old ones, the
//! reference's, divergences over entries and the entropy are computed. A teacher's log-probabilities are
//! those of a prompt, which engines compute at temperature 1 (`_get_teacher_sampling_params` in
//! `verl/experimental/teacher_loop/teacher_manager.py`).

use mopd_expr::roles::Role;
use mopd_expr::signals::{Divergence, Signal};

/// The temperatures at which a run computes the numbers of an objective.
#[derive(Clone, Copy, Debug)]
pub struct VerlTemperatures {
    pub rollout: f64,
    /// The temperature of the log-probabilities that the objective reads.
    pub objective: f64,
}

const TEACHER: &str = "verl computes the teacher at temperature 1, and the student at the rollout's; set \
                       `temperature: 1` in the rollout, so that both equal a run's";

const ENTROPY: &str = "verl computes the entropy at the rollout's temperature, a run at 1; set \
                       `temperature: 1` in the rollout, so that they are equal";

const STUDENT: &str = "verl divides the student's logits by the rollout's temperature and ignores the \
                       objective's; leave `temperature` of the objective out, or set it to the rollout's";

const OWN: &str = "verl's divergences have no temperature of their own; leave `temperature:` out";

impl VerlTemperatures {
    /// # Errors
    /// The reason why verl's number differs from a run's.
    pub fn of_signal(self, signal: &Signal) -> Result<(), &'static str> {
        match signal {
            Signal::Logp { role: Role::TEACHER } => same(self.objective, 1.0, TEACHER),
            Signal::Logp { role: Role::Student | Role::Old | Role::REFERENCE } => {
                same(self.objective, self.rollout, STUDENT)
            }
            Signal::Entropy { role: Role::Student } => same(1.0, self.rollout, ENTROPY),
            // The sampler's log-probabilities are at the temperature of sampling, in verl too.
            _ => Ok(()),
        }
    }

    /// # Errors
    /// The reason why verl's live log-probability differs from a run's.
    pub fn of_live_logp(self) -> Result<(), &'static str> {
        self.of_signal(&Signal::Logp { role: Role::Student })
    }

    /// # Errors
    /// The reason why verl's KL(teacher || student), whose sides have two temperatures, differs from a run's.
    pub fn of_divergence(self, divergence: &Divergence) -> Result<(), &'static str> {
        same(1.0, self.rollout, TEACHER)?;
        same(divergence.temperature, 1.0, OWN)
    }
}

fn same(run: f64, verl: f64, why: &'static str) -> Result<(), &'static str> {
    if (run - verl).abs() > 1e-12 { Err(why) } else { Ok(()) }
}
