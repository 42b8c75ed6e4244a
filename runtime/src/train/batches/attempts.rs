//! `peer.correct`: whether a teacher's own completions are correct (arXiv:2606.14368). For each prompt of a
//! step, the teacher writes as many completions as the prompt's group has, by the same settings.

use std::collections::HashMap;

use mopd_plan::{Role, Sampling};
use serde::{Deserialize, Serialize};

use super::sample::{NumberedDraw, draw_by, judge, sample};
use super::teacher::teacher_of;
use super::words::prompts;
use super::{Batch, Group};
use crate::failure::Result;
use crate::random::{Key, Purpose};
use crate::rollout::{Extra, Sequence};
use crate::train::sequences::Sequences;
use crate::train::views::ScorerPrompts;
use crate::zip::zip_equal;

/// For each role that the objective reads `correct` of: whether that role's completion at the same index is
/// correct.
#[derive(Default, Serialize, Deserialize)]
pub struct CorrectOf(pub Vec<(Role, bool)>);

impl Extra for CorrectOf {
    const NAME: &str = "correct_of";
}

impl CorrectOf {
    /// Whether the role's completion with the index of this sequence is correct, where known.
    pub fn role(sequence: &Sequence, role: Role) -> Option<bool> {
        let CorrectOf(roles) = sequence.extra()?;
        roles.into_iter().find(|(known, _)| *known == role).map(|(_, right)| right)
    }
}

/// Sets [`CorrectOf`] in each sequence: whether the role's own completion with the same index in the group
/// is correct.
pub(super) fn attempt(batch: &Batch, sequences: &mut Sequences) -> Result<()> {
    let stage = batch.stage;
    let prompts = prompts(sequences);
    let groups: Vec<usize> = sequences.groups().map(<[_]>::len).collect();
    for role in stage.train.objective.attempts() {
        stage.control.check()?;
        let draws: Vec<NumberedDraw> = prompts
            .iter()
            .map(|draw| NumberedDraw { number: stage.sources.number(*draw), draw: *draw })
            .collect();
        let sampling = stage.train.rollout.producer.sampling().expect("the stage's completions are sampled");
        let Role::Scorer(place) = role else { unreachable!("a teacher by name is a scorer") };
        let key = batch.key(Purpose::Attempt).turn(place.0);
        let mut attempts = attempts(batch, role, &draws, sampling, key)?;
        judge(stage.texts(), attempts.iter_mut().flatten())?;
        let right = |sequence: &Sequence| sequence.reward >= Some(1.0);
        let right: HashMap<(usize, usize), Vec<bool>> = zip_equal(&prompts, attempts)
            .map(|(draw, group)| ((draw.source, draw.record), group.iter().map(right).collect()))
            .collect();
        let mut rest = sequences.list.iter_mut();
        for size in &groups {
            let mut own = rest.by_ref().take(*size).peekable();
            let Some(first) = own.peek() else { break };
            let right = &right[&(first.source, first.record)];
            assert_eq!(right.len(), *size, "as many as the group has");
            for (sequence, right) in own.zip(right) {
                let CorrectOf(mut roles) = sequence.extra().unwrap_or_default();
                roles.push((role, *right));
                sequence.set_extra(&CorrectOf(roles));
            }
        }
    }
    Ok(())
}

/// The own completions of a scorer, with the length limit of this step.
pub(super) fn attempts(
    batch: &Batch,
    role: Role,
    draws: &[NumberedDraw],
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Group>> {
    let Batch { stage, student, models, step, climbed, .. } = *batch;
    let sampling = sampling.at(step, stage.steps, climbed);
    draw_by(
        draws,
        |draw| draw.section(&stage.sources),
        |_, draws| {
            let scorer = teacher_of(&stage.sources, models, role, draws[0].draw)?;
            let decoder = models.decoder(scorer.model_ref);
            let shown = ScorerPrompts::of_draws(
                stage.texts(),
                models.view(scorer),
                draws.iter().map(|each| each.draw),
                batch.now(),
            )?;
            sample(stage.texts(), decoder.as_deref().unwrap_or(student), &shown, draws, &sampling, key)
        },
    )
}
