//! `derived(two_candidates(guide), from: attempts)`: the student attempts a prompt, then completes a new
//! prompt that shows some of the attempts and texts that teachers write for it (arXiv:2606.18216). Rewards
//! judge these completions as answers to the original prompt. If something that the new prompt shows is
//! missing, the attempts are the group.

use std::collections::HashMap;

use mopd_plan::events::FailureKind;
use mopd_plan::producers::{Derived, DerivedText};
use mopd_plan::views::{GroupMember, Slot};
use mopd_plan::{Role, View};
use serde::{Deserialize, Serialize};

use super::attempts::attempts;
use super::replay::Replayed;
use super::sample::{NumberedDraw, judge, sample};
use super::teacher::no_teacher;
use super::words::{TextRequest, TextWriter, scorer};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::{Purpose, permutation};
use crate::rollout::{Extra, Sequence};
use crate::tokenizer::Token;
use crate::train::completions::text_of_at_most;
use crate::train::stage::Texts;
use crate::train::views::ScorerPrompts;
use crate::zip::zip_equal;

/// Marks a sequence whose prompt was derived from completions of the record's own prompt. Always true.
#[derive(Serialize, Deserialize)]
pub struct DerivedPrompt(pub bool);

impl Extra for DerivedPrompt {
    const NAME: &str = "derived";
}

pub(super) struct DerivedProducer {
    settings: Derived,
    of: Box<dyn SequenceProducer>,
}

/// The own completions of a writer, by index of the prompt.
type GroupsByPrompt = HashMap<usize, Group>;

pub(super) fn make(derived: &Derived, context: &ProducerContext) -> Result<DerivedProducer> {
    let [inside, _] = context.inside();
    // The rewards decide which attempt is shown.
    Ok(DerivedProducer {
        settings: derived.clone(),
        of: super::make(&derived.of, &ProducerContext { judged: true, ..inside })?,
    })
}

impl SequenceProducer for DerivedProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, step, climbed, .. } = *batch;
        let mut groups = self.of.draw(batch, draws, purpose)?;
        // A replayed group has another prompt than the draw.
        let of_group = |(draw, group): (&NumberedDraw, &Group)| {
            let Sequence { source, record, .. } = group[0];
            NumberedDraw { draw: Draw { source, record }, ..*draw }
        };
        let prompts: Vec<NumberedDraw> = zip_equal(draws, &groups).map(of_group).collect();
        let said = self.said(batch, &prompts, &groups)?;
        let sampling = self.settings.sampling().at(step, stage.steps, climbed);
        let (mut open, mut shown) = (Vec::new(), HashMap::new());
        for (place, said) in said.iter().enumerate() {
            let Some(said) = said else { continue };
            let most = sampling.max_tokens(stage.sources[prompts[place].draw.source].limit);
            shown.insert(open.len(), self.prompt(batch, prompts[place].draw, said, most)?);
            open.push(place);
        }
        if open.is_empty() {
            return Ok(groups);
        }
        let asked: Vec<NumberedDraw> = open.iter().map(|place| prompts[*place]).collect();
        let shown = ScorerPrompts::PerRow(shown);
        // Random numbers of turn 1: the attempts had those of turn 0.
        let mut completed =
            sample(stage.texts(), batch.student, &shown, &asked, &sampling, batch.key(purpose).turn(1))?;
        for (place, group) in completed.iter_mut().enumerate() {
            let replayed = groups[open[place]].iter().any(|attempt| attempt.extra::<Replayed>().is_some());
            for sequence in group {
                if replayed {
                    sequence.set_extra(&Replayed(true));
                }
                sequence.prompt = Some(shown.of_draw(&stage.sources, asked[place].draw, place).to_vec());
                sequence.set_extra(&DerivedPrompt(true));
            }
        }
        judge(stage.texts(), completed.iter_mut().flatten())?;
        zip_equal(open, completed).for_each(|(place, group)| groups[place] = group);
        Ok(groups)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}

impl DerivedProducer {
    /// The new prompt; at most `completion` tokens follow it.
    fn prompt(
        &self,
        batch: &Batch,
        draw: Draw,
        said: &TemplateInputs,
        completion: u32,
    ) -> Result<Vec<Token>> {
        let Batch { stage, student, .. } = *batch;
        let (view, moment) = (&self.settings.sees, batch.now().moment(stage.steps));
        let prompts = stage.sources[draw.source].prompts;
        let tokens = prompts.shown_now(&stage.start.tokenizer, view, moment, draw.record, said)?;
        let context = student.config.context;
        if tokens.len() + completion as usize <= context {
            return Ok(tokens);
        }
        let message = format!(
            "the prompt that `{}` derives from attempts has {} tokens, and a completion may have \
            {completion} more: more than the context of {context}",
            view.name,
            tokens.len()
        );
        let help = "give the student a longer context, or show less: lower `max_tokens` of the attempts \
            or of `short(...)`";
        Err(Error::new(FailureKind::Context, message).help(help))
    }

    /// The template inputs of each new prompt; `None` where some are missing. Teachers write only for the
    /// others.
    fn said(
        &self,
        batch: &Batch,
        prompts: &[NumberedDraw],
        groups: &[Group],
    ) -> Result<Vec<Option<TemplateInputs>>> {
        let attempted = groups.iter().map(|group| self.attempted(batch.stage.texts(), group));
        let mut said: Vec<Option<TemplateInputs>> = attempted.collect::<Result<_>>()?;
        let mut answers: HashMap<Role, GroupsByPrompt> = HashMap::new();
        for (place, text) in self.settings.texts.iter().enumerate() {
            let open: Vec<usize> = (0..said.len()).filter(|place| said[*place].is_some()).collect();
            if open.is_empty() {
                break;
            }
            batch.stage.control.check()?;
            let of_place = |place: &usize| said[*place].as_ref().expect("it is open");
            let asked: Vec<(&NumberedDraw, &TemplateInputs)> =
                open.iter().map(|place| (&prompts[*place], of_place(place))).collect();
            let made: Vec<Option<String>> = match text {
                DerivedText::Answer { writer, member } => {
                    if !answers.contains_key(writer) {
                        answers.insert(*writer, self.answers(batch, *writer, prompts, &open)?);
                    }
                    let known = &answers[writer];
                    let shown =
                        open.iter().map(|place| self.member(batch.stage.texts(), &known[place], *member));
                    shown.collect::<Result<_>>()?
                }
                DerivedText::Short { writer, sees, max_tokens } => {
                    self.shortened(batch, *writer, sees, *max_tokens, &asked, place as u32)?
                }
                DerivedText::Shuffled { slots } => {
                    let each = asked.iter().map(|(prompt, said)| {
                        let uniforms = batch.key(Purpose::Derived).row(prompt.number, place as u32);
                        Some(shuffled(slots, said, &permutation(uniforms, slots.len())))
                    });
                    each.collect()
                }
            };
            for (open, made) in zip_equal(open, made) {
                match (&mut said[open], made) {
                    (Some(said), Some(text)) => said.slots.push((Slot::Made(place as u32), text)),
                    (said, _) => *said = None,
                }
            }
        }
        Ok(said)
    }

    /// The attempts that are shown; `None` where one of them does not exist.
    fn attempted(&self, texts: Texts, group: &Group) -> Result<Option<TemplateInputs>> {
        let mut said = TemplateInputs::default();
        for member in self.settings.members() {
            let Some(text) = self.member(texts, group, member)? else { return Ok(None) };
            said.slots.push((Slot::Group(member), text));
        }
        Ok(Some(said))
    }

    /// The text of the first sequence that is correct, wrong, or any, cut to a completion's limit.
    fn member(&self, texts: Texts, group: &Group, member: GroupMember) -> Result<Option<String>> {
        let is = |sequence: &&Sequence| {
            let right = sequence.reward.expect("attempts and answers are judged") >= 1.0;
            match member {
                GroupMember::Correct => right,
                GroupMember::Wrong => !right,
                GroupMember::Other => true,
            }
        };
        let text = |sequence: &Sequence| {
            let most = self.settings.sampling().max_tokens(texts.sources[sequence.source].limit);
            text_of_at_most(texts.tokenizer, &sequence.completion, most as usize)
        };
        group.iter().find(is).map(text).transpose()
    }

    /// The own completions of `writer` for some of the prompts, as many as the student's.
    fn answers(
        &self,
        batch: &Batch,
        writer: Role,
        prompts: &[NumberedDraw],
        open: &[usize],
    ) -> Result<GroupsByPrompt> {
        let asked: Vec<NumberedDraw> = open.iter().map(|place| prompts[*place]).collect();
        let Role::Scorer(scorer) = writer else { unreachable!("a teacher is a scorer") };
        // `shuffled` and `shortened` have the random numbers of turns 0 and 1.
        let key = batch.key(Purpose::Derived).turn(2 + scorer.0);
        let mut answers = attempts(batch, writer, &asked, self.settings.sampling(), key)?;
        judge(batch.stage.texts(), answers.iter_mut().flatten())?;
        Ok(zip_equal(open.iter().copied(), answers).collect())
    }

    /// Short versions of some texts by `writer`; `None` where one is empty.
    fn shortened(
        &self,
        batch: &Batch,
        writer: Role,
        sees: &View,
        max_tokens: u32,
        asked: &[(&NumberedDraw, &TemplateInputs)],
        place: u32,
    ) -> Result<Vec<Option<String>>> {
        let stage = batch.stage;
        let sampling = self.settings.shortening(max_tokens);
        let sampling = sampling.at(batch.step, stage.steps, batch.climbed);
        let key = batch.key(Purpose::Derived).turn(1);
        let no_room =
            |prompt, context| no_room(&stage.train.scorers.name(writer), prompt, max_tokens, context);
        let of = |(prompt, _): &(&NumberedDraw, &TemplateInputs)| scorer(batch, writer, prompt.draw);
        let mut written = Vec::with_capacity(asked.len());
        for alike in asked.chunk_by(|one, next| of(one) == of(next)) {
            let source = &stage.sources[alike[0].0.draw.source];
            let scorer = of(&alike[0]).ok_or_else(|| no_teacher(source))?;
            let asked = alike.iter().map(|(prompt, said)| {
                let (number, said) = (prompt.number, TemplateInputs::clone(said));
                TextRequest { prompt: prompt.draw, said, number, sample: place }
            });
            let asked: Vec<TextRequest> = asked.collect();
            let (model_ref, view, sampling) = (scorer.model_ref, Some(sees), &*sampling);
            let model = TextWriter { model_ref, view, sampling, key };
            written.extend(model.texts(batch, &asked, no_room)?);
        }
        Ok(written.into_iter().map(|text| Some(text).filter(|text| !text.is_empty())).collect())
    }
}

/// Some of the slots' texts, joined in the given order.
fn shuffled(slots: &[Slot], said: &TemplateInputs, order: &[u32]) -> String {
    let text = |place: &u32| said.of(&slots[*place as usize]).expect("it was made before");
    order.iter().map(text).collect::<Vec<&str>>().join(Derived::BETWEEN)
}

fn no_room(writer: &str, prompt: usize, short: u32, context: usize) -> Error {
    let message = format!(
        "a text that `{writer}` shortens has {prompt} tokens with its prompt, and its summary may have \
        {short} more: more than the context of {context}"
    );
    let help = "give it a longer context, or `short(...)` a smaller `max_tokens`";
    Error::new(FailureKind::Context, message).help(help)
}
