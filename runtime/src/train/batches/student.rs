//! `sample(...)`: the student's own rollouts, fresh every step.

use mopd_plan::Sampling;
use mopd_plan::producers::Student;

use super::sample::{NumberedDraw, judge, sample_student};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;

pub(super) struct StudentProducer {
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(student: &Student, context: &ProducerContext) -> StudentProducer {
    StudentProducer { sampling: student.sampling.clone(), judged: context.judged }
}

impl SequenceProducer for StudentProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut list = sample_student(batch, draws, &self.sampling, purpose)?;
        if self.judged {
            judge(batch.stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}
