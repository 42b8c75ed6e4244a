//! The prompts before the completions, as a scorer reads them: the student's prompts, or what a view makes of
//! their rows. The completions are the same tokens, so every trained token has a row of logits with any
//! prompt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::views::{self, GroupMember, Moment, Slot};
use mopd_plan::{Formula, StageStep, View};
use serde::{Deserialize, Serialize};

use super::completions::{of_completions, text_of_at_most};
use super::sequences::Sequences;
use super::stage::{Source, StageSources, Texts};
use crate::data::Lists;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::rollout::{Extra, Sequence};
use crate::tokenizer::Token;

/// The student's text, where a completion is a teacher's refinement of it.
#[derive(Serialize, Deserialize)]
pub struct DraftText(pub String);

impl Extra for DraftText {
    const NAME: &str = "draft";
}

/// The verifier's feedback on a completion, in a stage whose templates show it.
#[derive(Serialize, Deserialize)]
pub struct VerifierFeedback(pub String);

impl Extra for VerifierFeedback {
    const NAME: &str = "feedback";
}

/// Feedback that models wrote about a completion, one text per feedback of the stage.
#[derive(Default, Serialize, Deserialize)]
pub struct WrittenFeedback(pub Vec<String>);

impl Extra for WrittenFeedback {
    const NAME: &str = "written_feedback";
}

/// The step at which a view is read, and the learned share at that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepContext {
    pub step: u32,
    /// The value of `learned(...)`, where the stage has one.
    pub learned: Option<f64>,
}

impl StepContext {
    /// Before the first step.
    pub const START: StepContext = StepContext { step: 0, learned: None };

    pub fn moment(self, steps: u32) -> Moment {
        let StepContext { step, learned } = self;
        Moment::Step { step, steps, learned }
    }
}

/// The prompts of a step's sequences, as one scorer reads them.
pub enum ScorerPrompts {
    /// The student's prompts.
    Own,
    /// A view that is the same at every step: the prompts of all rows, by source.
    Fixed(HashMap<usize, Arc<Lists<Token>>>),
    /// A view that depends on the step or the completion: prompts by index of the sequence or draw.
    PerRow(HashMap<usize, Vec<Token>>),
}

impl ScorerPrompts {
    /// The prompts of some sequences of a step, for a scorer with the view `sees` and a context of `context`
    /// tokens. Where the group lacks what the view shows, the scorer reads the plain prompt: it is not
    /// [`available`] there, and its scores are not used.
    pub fn new(
        texts: Texts,
        sees: Option<&View>,
        context: usize,
        sequences: &Sequences,
        members: impl Iterator<Item = usize>,
        now: StepContext,
    ) -> Result<ScorerPrompts> {
        let Some(view) = sees else { return Ok(ScorerPrompts::Own) };
        let numbers = view.numbers().map(|number| numbers(view, number, sequences, texts.step(now.step)));
        let numbers: Vec<Vec<f64>> = numbers.collect::<Result<_>>()?;
        let read = |member| {
            let Sequence { source, record, completion, .. } = &sequences.list[member];
            let draw = Draw { source: *source, record: *record };
            let mut said = said(texts, view, sequences, member)?;
            if let Some(said) = &mut said {
                said.numbers = numbers.iter().map(|of_members| views::number(of_members[member])).collect();
            }
            Ok((member, draw, said, completion.len()))
        };
        ScorerPrompts::of(texts, view, members.map(read), now, context)
    }

    /// The prompts of some draws for a writer with the view `sees`.
    pub fn of_draws(
        texts: Texts,
        sees: Option<&View>,
        draws: impl Iterator<Item = Draw>,
        now: StepContext,
    ) -> Result<ScorerPrompts> {
        let Some(view) = sees else { return Ok(ScorerPrompts::Own) };
        let read = |(place, draw)| Ok((place, draw, Some(TemplateInputs::default()), 0));
        ScorerPrompts::of(texts, view, draws.enumerate().map(read), now, usize::MAX)
    }

    /// `read` has index, row, template inputs (`None`: the plain prompt) and length of each completion.
    fn of(
        texts: Texts,
        view: &View,
        read: impl Iterator<Item = Result<(usize, Draw, Option<TemplateInputs>, usize)>>,
        now: StepContext,
        context: usize,
    ) -> Result<ScorerPrompts> {
        let Texts { sources, tokenizer, .. } = texts;
        if view.is_fixed() {
            let mut rows = HashMap::new();
            for each in read {
                let (_, Draw { source, .. }, ..) = each?;
                if let Entry::Vacant(place) = rows.entry(source) {
                    place.insert(sources[source].prompts.shown(tokenizer, view)?);
                }
            }
            return Ok(ScorerPrompts::Fixed(rows));
        }
        let moment = now.moment(texts.steps);
        let (mut shown, mut known) = (HashMap::new(), HashMap::new());
        for each in read {
            let (place, Draw { source, record }, said, completion) = each?;
            let tokens = match known.entry((source, record, said)) {
                Entry::Occupied(known) => Vec::clone(known.get()),
                Entry::Vacant(vacant) => {
                    let (_, _, said) = vacant.key();
                    let prompts = sources[source].prompts;
                    let tokens = match said {
                        Some(said) => prompts.shown_now(tokenizer, view, moment, record, said)?,
                        None => {
                            let plain = View::of_prompt();
                            prompts.shown_now(
                                tokenizer,
                                &plain,
                                moment,
                                record,
                                &TemplateInputs::default(),
                            )?
                        }
                    };
                    vacant.insert(tokens).clone()
                }
            };
            fits(view, tokens.len(), completion, context)?;
            shown.insert(place, tokens);
        }
        Ok(ScorerPrompts::PerRow(shown))
    }

    /// Checks that sequences of a step fit the context of the model that scores them. Positions beyond it
    /// have no meaning for a model, but logits all the same.
    pub fn fit(
        &self,
        sources: &StageSources,
        sequences: &Sequences,
        members: impl Iterator<Item = usize>,
        context: usize,
    ) -> Result<()> {
        for member in members {
            let sequence = &sequences.list[member];
            let (prompt, completion) =
                (self.prompt(sources, sequence, member).len(), sequence.completion.len());
            if prompt + completion > context {
                let message = format!(
                    "a sequence of {prompt} tokens and {completion} of its completion does not fit the \
                     context of {context} of a model that scores it"
                );
                let help = "choose a scorer with a longer context, or lower `max_tokens`";
                return Err(Error::new(FailureKind::Context, message).help(help));
            }
        }
        Ok(())
    }

    /// The prompt of a sequence, where `member` is its index among those of the step.
    pub fn prompt<'a>(
        &'a self,
        sources: &'a StageSources,
        sequence: &'a Sequence,
        member: usize,
    ) -> &'a [Token] {
        match self {
            ScorerPrompts::Own => sequence.prompt(sources),
            ScorerPrompts::Fixed(rows) => rows[&sequence.source].get(sequence.record),
            ScorerPrompts::PerRow(now) => &now[&member],
        }
    }

    /// The prompt of a draw, where `place` is its index among the draws.
    pub fn of_draw<'a>(&'a self, sources: &'a StageSources, draw: Draw, place: usize) -> &'a [Token] {
        let Draw { source, record } = draw;
        match self {
            ScorerPrompts::Own => sources[source].tokens.get(record),
            ScorerPrompts::Fixed(rows) => rows[&source].get(record),
            ScorerPrompts::PerRow(now) => &now[&place],
        }
    }
}

/// Checks that prompt and completion fit the context: a verifier's feedback has no bound.
fn fits(view: &View, prompt: usize, completion: usize, context: usize) -> Result<()> {
    if prompt + completion <= context {
        return Ok(());
    }
    let message = format!(
        "the template `{}` with a completion's feedback has {prompt} tokens, and {completion} follow: \
        more than the context of {context}",
        view.name
    );
    let help = "give the model that reads it a longer context, or shorten the verifier's feedback";
    Err(Error::new(FailureKind::Context, message).help(help))
}

/// The inputs of a view's template for a completion; `None` where the group lacks them.
fn said(texts: Texts, view: &View, sequences: &Sequences, member: usize) -> Result<Option<TemplateInputs>> {
    let sequence = &sequences.list[member];
    let mut said = TemplateInputs::default();
    for slot in view.slots().filter(|slot| slot.of_completion()) {
        let text = match slot {
            Slot::Draft => {
                let DraftText(text) =
                    sequence.extra().expect("a template of drafts is read where there are some");
                text
            }
            Slot::Feedback => sequence
                .extra()
                .map(|VerifierFeedback(text)| text)
                .ok_or_else(|| missing_feedback(&texts.sources[sequence.source], &view.name))?,
            Slot::WrittenFeedback(place) => match written(sequence, *place) {
                Some(text) => text,
                None => return Ok(None),
            },
            Slot::Group(which) => match other(sequences, member, *which)? {
                Some(other) => text(texts, &sequences.list[other])?,
                None => return Ok(None),
            },
            Slot::Transcript(panel) => {
                let debate = sequences.debate(*panel, sequence);
                debate.expect("a panel talks before its members score").transcript.clone()
            }
            Slot::Made(_) => unreachable!("it stands in derived prompts only"),
            Slot::Prompt | Slot::Data(_) => unreachable!("they are of the row"),
        };
        said.slots.push((slot.clone(), text));
    }
    Ok(Some(said))
}

/// The feedback that a model wrote about a completion; `None` where it is empty.
fn written(sequence: &Sequence, place: u32) -> Option<String> {
    let WrittenFeedback(texts) = sequence.extra()?;
    texts.into_iter().nth(place as usize).filter(|text| !text.is_empty())
}

/// The values of a number in a template, one for each sequence.
fn numbers(view: &View, number: &Formula, sequences: &Sequences, step: StageStep) -> Result<Vec<f64>> {
    let wanted = number.graph.signals(&[number.value]);
    let asks_reward = wanted.iter().any(|signal| signal.is_of_reward());
    if asks_reward && sequences.list.iter().any(|sequence| sequence.reward.is_none()) {
        return Err(missing_reward());
    }
    let what = format!("a number of the template `{}`", view.name);
    let numbers = of_completions(number, sequences, Vec::new(), step, &what)?;
    assert_eq!(numbers.len(), sequences.list.len(), "a number for each");
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(numbers);
    }
    Err(Error::new(FailureKind::NonFinite, format!("{what} is not finite")))
}

fn missing_reward() -> Error {
    Error::new(
        FailureKind::Runtime,
        "a template shows the outcome of completions, but they have no \
        rewards",
    )
}

/// A completion as text, cut to the most tokens that it may have.
pub fn text(texts: Texts, sequence: &Sequence) -> Result<String> {
    let limit = texts.sources[sequence.source].limit;
    // The sides of a `mix` may have different lengths.
    let drawn = texts.rollout.producer.drawn();
    let most = drawn.into_iter().map(|(_, sampling)| sampling.max_tokens(limit)).max().unwrap_or(u32::MAX);
    let tokens: Vec<Token> = sequence.completion.trained_tokens().collect();
    text_of_at_most(texts.tokenizer, &tokens, most as usize)
}

/// The error where a template shows feedback about a completion, but the verifier gave none.
pub fn missing_feedback(source: &Source, template: &str) -> Error {
    let message = format!(
        "the reward of `{}` returned no feedback on a completion, but the template `{template}` shows \
        `{{feedback}}`",
        source.name
    );
    Error::new(FailureKind::Reward, message).at(source.origin).help(
        "let the reward command return feedback: {\"id\": 0, \"reward\": 0.5, \"feedback\": \
            \"...\"}",
    )
}

/// The first other completion of the group that is correct, wrong, or any.
fn other(sequences: &Sequences, member: usize, which: GroupMember) -> Result<Option<usize>> {
    let of = &sequences.layout.group_of_sequence;
    let group =
        of.partition_point(|group| *group < of[member])..of.partition_point(|group| *group <= of[member]);
    for place in group.filter(|place| *place != member) {
        let reward = sequences.list[place].reward;
        let reward = reward.ok_or_else(missing_reward)?;
        let is = match which {
            GroupMember::Correct => reward >= 1.0,
            GroupMember::Wrong => reward < 1.0,
            GroupMember::Other => true,
        };
        if is {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Whether everything that a view shows of a completion exists.
pub fn available(view: Option<&View>, sequences: &Sequences, member: usize) -> Result<bool> {
    for slot in view.into_iter().flat_map(View::slots) {
        let lacks = match slot {
            Slot::Group(which) => other(sequences, member, *which)?.is_none(),
            Slot::WrittenFeedback(place) => written(&sequences.list[member], *place).is_none(),
            _ => false,
        };
        if lacks {
            return Ok(false);
        }
    }
    Ok(true)
}
