//! `speculative(...)`: rollouts of the routed teachers, sampled with the student's drafts. The prompts of one
//! teacher are completed together. After each trajectory come its rejected drafts, each as its own row: the
//! trajectory up to the draft, which is not trained on, and the drafted tokens from the first rejected one
//! on.

use mopd_plan::producers::Speculative;
use mopd_plan::{Role, Sampling};

use super::sample::{NumberedDraw, draw_by, judge, prompts, sequence};
use super::teacher::teacher_of;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::{
    Completion, DraftCounts, RejectedTail, Sampled, SegmentedTokens, Sequence, Speculation, Verification,
    speculative,
};
use crate::train::views::ScorerPrompts;

pub(super) struct SpeculativeProducer {
    verification: Verification,
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(producer: &Speculative, context: &ProducerContext) -> SpeculativeProducer {
    let verification = Verification { block: producer.block, rejects: producer.rejects };
    SpeculativeProducer { verification, sampling: producer.sampling().clone(), judged: context.judged }
}

impl SequenceProducer for SpeculativeProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, models, step, climbed, .. } = *batch;
        let sampling = self.sampling.at(step, stage.steps, climbed);
        let n = sampling.n.max(1) as usize;
        let mut list = draw_by(
            draws,
            |draw| draw.section(&stage.sources),
            |_, draws| {
                let teacher = teacher_of(&stage.sources, models, Role::TEACHER, draws[0].draw)?;
                let teacher = models.decoder(teacher.model_ref);
                let verified = speculative(
                    [student, teacher.as_deref().unwrap_or(student)],
                    self.verification,
                    &prompts(&stage.sources, &ScorerPrompts::Own, draws),
                    &sampling,
                    batch.key(purpose),
                    stage.budget,
                    stage.control,
                )?;
                let mut verified = verified.into_iter();
                let group = |draw: &NumberedDraw| {
                    let own = verified.by_ref().take(n);
                    own.flat_map(|(completion, rejected)| rows(draw.draw, completion, rejected)).collect()
                };
                Ok(draws.iter().map(group).collect())
            },
        )?;
        if self.judged {
            // Rejected drafts are not completions, so they get no rewards.
            judge(
                stage.texts(),
                list.iter_mut().flatten().filter(|sequence| !Speculation::is_rejected(sequence)),
            )?;
        }
        Ok(list)
    }
}

/// The rows of a trajectory and of its rejected drafts.
fn rows(draw: Draw, completion: Completion, rejected: Vec<RejectedTail>) -> Vec<Sequence> {
    let counts = DraftCounts::from_verdicts(&completion.verdicts);
    // The probability of a rejected token is not known, so no row has log-probabilities.
    let trajectory = sequence(draw, completion).without_logps().with_extra(&Speculation::Trajectory(counts));
    let of_draft = |RejectedTail { at, tokens }: RejectedTail| {
        let mut completion = SegmentedTokens::default();
        completion.push_context(&trajectory.completion[..at]);
        completion.push_trained(&tokens, Sampled::default());
        Sequence { completion, truncated: true, ..trajectory.clone() }.with_extra(&Speculation::Rejected)
    };
    let rejected: Vec<Sequence> = rejected.into_iter().map(of_draft).collect();
    [vec![trajectory], rejected].concat()
}
