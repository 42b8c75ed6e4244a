//! `token_mix(...)`, `interleave(...)`: the student's rollouts, where the routed teacher influences each
//! token. The prompts of one teacher are completed together.

use mopd_plan::producers::{self, Guided};
use mopd_plan::{Role, Sampling};

use super::sample::{NumberedDraw, draw_by, judge, sample_now};
use super::teacher::teacher_of;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::{Author, GuidanceStep, Guide};

pub(super) struct GuidedProducer {
    guidance: producers::Guidance,
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(guided: &Guided, context: &ProducerContext) -> GuidedProducer {
    let sampling = guided.of.sampling().expect("the student draws").clone();
    GuidedProducer { guidance: guided.guidance.clone(), sampling, judged: context.judged }
}

impl SequenceProducer for GuidedProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, models, step, climbed, .. } = *batch;
        let guidance = match &self.guidance {
            producers::Guidance::TokenMix { alpha } => {
                GuidanceStep::Mix { share: alpha.at(step, stage.steps, climbed) }
            }
            producers::Guidance::Interleave { top_k } => GuidanceStep::Replace { top_k: *top_k },
        };
        let mut list = draw_by(
            draws,
            |draw| draw.section(&stage.sources),
            |_, draws| {
                let teacher = teacher_of(&stage.sources, models, Role::TEACHER, draws[0].draw)?;
                let teacher = models.decoder(teacher.model_ref);
                let guide = Guide { model: teacher.as_deref().unwrap_or(student), guidance };
                let author = Author { model: student, guide: Some(guide) };
                sample_now(batch, author, draws, &self.sampling, purpose)
            },
        )?;
        if self.judged {
            judge(stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}
