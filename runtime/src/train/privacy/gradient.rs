//! The gradient of a private step.

use mopd_plan::Signal;
use mopd_plan::events::FailureKind;
use tch::{Kind, Tensor, no_grad_guard};

use super::{Privacy, key};
use crate::failure::{Error, Result};
use crate::model::Gradient;
use crate::train::optimizer::gradient_norm;
use crate::train::rollouts::Rollouts;
use crate::train::stage::NoiseSecret;
use crate::train::student::StudentWeights;

impl Privacy {
    /// The sum of the records' clipped gradients, with noise, divided by the mean number of records in a
    /// batch. `of_record` evaluates a record as a batch of its own: its gradient does not depend on others.
    pub fn gradient(
        &self,
        student: &StudentWeights,
        rollouts: &Rollouts,
        secret: Option<NoiseSecret>,
        step: u32,
        of_record: impl Fn(&Rollouts) -> Result<Gradient>,
    ) -> Result<Gradient> {
        let mut sum = {
            let parameters = student.parameters();
            Tensor::zeros([parameters.len() as i64], (Kind::Float, parameters.device()))
        };
        for record in records(rollouts) {
            let gradient = student.gradient(of_record(&record)?);
            let norm = gradient_norm(&gradient);
            if !norm.is_finite() {
                let message = "the gradient of a record is not finite";
                return Err(Error::new(FailureKind::NonFinite, message));
            }
            let _guard = no_grad_guard();
            // As in the optimizer: rounding does not scale up a gradient at the bound.
            let scale = (self.clip / (norm + 1e-6)).min(1.0);
            for (range, piece) in gradient.into_pieces() {
                let mut place = sum.narrow(0, range.start as i64, range.len() as i64);
                place += piece.to_kind(Kind::Float) * scale;
            }
        }
        let _guard = no_grad_guard();
        self.add_noise(&mut sum, key(secret, step));
        sum /= self.records;
        Ok(Gradient::whole(sum, student.model.place))
    }
}

/// Each group as a batch of its own.
fn records(rollouts: &Rollouts) -> impl Iterator<Item = Rollouts> {
    let sequences = &rollouts.sequences;
    let domains = sequences.layout.domains.as_ref().map_or(0, |domains| domains.count as usize);
    (0..sequences.layout.groups as usize).map(move |group| {
        let (alone, tokens) = sequences.part(group..group + 1, domains);
        let alone = Rollouts::new(alone, rollouts.drawn);
        let old = rollouts.old.borrow();
        let of_record =
            |(signal, values): &(Signal, Vec<f32>)| (signal.clone(), values[tokens.clone()].to_vec());
        alone.restore_old(old.iter().map(of_record).collect());
        alone
    })
}
