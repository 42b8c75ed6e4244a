//! `sample(...)`: the student's own rollouts, fresh every step.

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::producers::Student;

use super::sample::{Numbered, judge, sample_student};
use super::{Batch, Draws, Group, Making};
use crate::failure::Result;
use crate::random::Purpose;

pub(super) struct OfStudent {
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(student: &Student, making: &Making) -> OfStudent {
    OfStudent { sampling: student.sampling.clone(), judged: making.judged }
}

impl Draws for OfStudent {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Group>> {
        let mut list = sample_student(batch, draws, &self.sampling, purpose)?;
        if self.judged {
            judge(batch.stage, list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}
