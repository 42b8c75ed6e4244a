//! `refine(by: editor, of: sample(...), sees: draft_shown)`: the student drafts as in `sample`. A teacher
//! reads the draft and writes the completion that is trained on.

use mopd_plan::events::FailureKind;
use mopd_plan::producers::Refine;
use mopd_plan::{Role, Sampling, View};

use super::sample::{NumberedDraw, draw_by, in_groups, judge, sample_now};
use super::teacher::no_teacher;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::Purpose;
use crate::rollout::{Completion, Prompt, Sequence, rollout};
use crate::tokenizer::Token;
use crate::train::completions::text_of_at_most;
use crate::train::views::DraftText;
use crate::zip::zip_equal;

pub(super) struct RefineProducer {
    editor: Role,
    sees: Option<View>,
    sampling: Sampling,
    judged: bool,
}

pub(super) fn make(refine: &Refine, context: &ProducerContext) -> RefineProducer {
    let sampling = refine.of.sampling().expect("the student drafts").clone();
    RefineProducer { editor: refine.by, sees: refine.sees.clone(), sampling, judged: context.judged }
}

impl SequenceProducer for RefineProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let section = |draw: &NumberedDraw| draw.section(&batch.stage.sources);
        let refined = |section: usize, draws: &[NumberedDraw]| self.refined(batch, section, draws, purpose);
        let mut list = draw_by(draws, section, refined)?;
        if self.judged {
            judge(batch.stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}

impl RefineProducer {
    /// The refined groups of prompts that have the same editor.
    fn refined(
        &self,
        batch: &Batch,
        section: usize,
        draws: &[NumberedDraw],
        purpose: Purpose,
    ) -> Result<Vec<Group>> {
        let Batch { stage, student, models, step, climbed, .. } = *batch;
        let drafts = sample_now(batch, student, draws, &self.sampling, purpose)?.concat();
        let editor = models.of_role(self.editor)[section].and_then(|scored| scored.model());
        let editor = editor.ok_or_else(|| no_teacher(&stage.sources[draws[0].draw.source]))?;
        let view = self.sees.as_ref().or(models.view(editor)).expect("an editor sees the draft");
        let n = self.sampling.n.max(1) as usize;
        let now = self.sampling.at(step, stage.steps, climbed);
        let moment = batch.now().moment(stage.steps);
        let tokenizer = &stage.start.tokenizer;
        let mut shown: Vec<(String, Vec<Token>)> = Vec::with_capacity(drafts.len());
        for Sequence { source, record, completion, .. } in &drafts {
            let draft = text_of_at_most(tokenizer, completion, now.max_tokens as usize)?;
            let prompts = stage.sources[*source].prompts;
            let prompt =
                prompts.shown_now(tokenizer, view, moment, *record, &TemplateInputs::draft(Some(&draft)))?;
            shown.push((draft, prompt));
        }
        let decoder = models.decoder(editor.model_ref);
        let decoder = decoder.as_deref().unwrap_or(student);
        let context = decoder.config.context;
        let prompts = shown.iter().enumerate().map(|(place, (_, tokens))| {
            let numbered = &draws[place / n];
            let room = context.saturating_sub(tokens.len());
            if room == 0 {
                let message = format!(
                    "the template `{}` with a prompt and its draft has {} tokens, which leaves no room in \
                    the context of {context}",
                    view.name,
                    tokens.len()
                );
                let help = "give the editor a longer context, or lower `max_tokens` of the drafts";
                return Err(Error::new(FailureKind::Context, message).help(help));
            }
            let limit = stage.sources[numbered.draw.source].limit.unwrap_or(u32::MAX);
            let limit = Some(limit.min(u32::try_from(room).unwrap_or(u32::MAX)));
            Ok(Prompt { tokens, id: numbered.number, sample: (place % n) as u32, limit })
        });
        let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
        let once = Sampling { n: 1, ..now.into_owned() };
        // Random numbers of turn 1: the draft had those of turn 0.
        let key = batch.key(purpose).turn(1);
        let written = rollout(decoder, &prompts, &once, key, stage.budget, stage.control)?;
        let drafted = zip_equal(drafts, shown.iter().map(|(draft, _)| draft.clone()));
        let refined = |(completion, (sequence, draft)): (Completion, (Sequence, String))| {
            let (truncated, completion) = (completion.truncated, completion.into());
            Sequence { completion, truncated, ..sequence }.with_extra(&DraftText(draft))
        };
        Ok(in_groups(zip_equal(written, drafted).map(refined), n))
    }
}
