//! `... |> through("python3 edit.py")`: a program of the author reads completions, and returns the text that
//! is trained on in their place, or leaves a completion out.

use std::cell::Cell;
use std::rc::Rc;

use mopd_plan::Producer;
use mopd_plan::events::FailureKind;
use mopd_plan::producers::Through;
use serde_json::Value;

use super::edited::{TextReplacer, text};
use super::sample::{NumberedDraw, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer, model, teacher};
use crate::environment::Environments;
use crate::failure::{Error, Result};
use crate::program::{self, BatchFailure, ProcessPool, ProgramFailure};
use crate::quote::quote;
use crate::random::Purpose;
use crate::reward::RewardInput;
use crate::rollout::Sequence;
use crate::train::stage::Texts;
use crate::zip::zip_equal;

/// The editing of completions by a program.
pub(super) struct ProgramEditor {
    /// `None` in a trial, which does not run programs on its random completions.
    pool: Option<ProcessPool>,
    command: String,
    texts: TextReplacer,
    /// The number of completions left out, and of all completions.
    left_out: Cell<(usize, usize)>,
}

/// Completions that are new in every step.
struct ThroughProducer {
    of: Box<dyn SequenceProducer>,
    editor: Rc<ProgramEditor>,
    judged: bool,
}

pub(super) fn make(through: &Through, context: &ProducerContext) -> Result<Box<dyn SequenceProducer>> {
    let editor = Rc::new(ProgramEditor::new(through, context)?);
    // Rollouts that are written once are edited once.
    match &through.of {
        Producer::Teacher(of) if of.once.is_some() => {
            teacher::make(of, &ProducerContext { editor: Some(&editor), ..*context })
        }
        Producer::Model(of) if of.once => {
            model::make(of, &ProducerContext { editor: Some(&editor), ..*context })
        }
        of => {
            let judged = context.judged;
            let of = super::make(of, &ProducerContext { judged: false, ..*context })?;
            Ok(Box::new(ThroughProducer { of, editor, judged }))
        }
    }
}

impl SequenceProducer for ThroughProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut groups = self.editor.edited(batch.stage.texts(), self.of.draw(batch, draws, purpose)?)?;
        if self.judged {
            judge(batch.stage.texts(), groups.iter_mut().flatten())?;
        }
        Ok(groups)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}

impl ProgramEditor {
    fn new(through: &Through, context: &ProducerContext) -> Result<ProgramEditor> {
        let Through { command, time_limit_seconds: limit, of, .. } = through;
        let texts = TextReplacer::new(format!("`{command}`"), of, true);
        let pool = match context.stage.environments {
            Environments::Untouched => None,
            Environments::In(folder) => {
                let pool = ProcessPool::new("program of `through`", command, *limit, folder);
                Some(pool.ok_or_else(|| {
                    let message = format!("`through` cannot work with a time limit of {limit} s");
                    Error::new(FailureKind::Edit, message).help("`time_limit` must be more than 0 seconds")
                })?)
            }
        };
        Ok(ProgramEditor { pool, command: command.clone(), texts, left_out: Cell::default() })
    }

    /// The edited groups, without completions that were left out. Log-probabilities of tokens are dropped.
    pub(super) fn edited(&self, texts: Texts, groups: Vec<Group>) -> Result<Vec<Group>> {
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        let list = groups.concat();
        let edits = match &self.pool {
            None => vec![None; list.len()],
            Some(pool) => self.asked(pool, texts, &list)?.into_iter().map(Some).collect(),
        };
        let mut edited = Vec::with_capacity(list.len());
        for (sequence, text) in zip_equal(list, edits) {
            edited.push(match text {
                None => Some(sequence.without_logps()),
                Some(ProgramEdit::LeftOut) => None,
                Some(ProgramEdit::Same) => Some(sequence.without_logps()),
                Some(ProgramEdit::Other(text)) => self.texts.replaced(texts, sequence, &text)?,
            });
        }
        let (gone, all) = self.left_out.get();
        let now = edited.iter().filter(|each| each.is_none()).count();
        self.left_out.set((gone + now, all + edited.len()));
        let mut edited = edited.into_iter();
        Ok(sizes.into_iter().map(|size| edited.by_ref().take(size).flatten().collect()).collect())
    }

    /// The message about completions that were left out, if there are any.
    pub(super) fn left_out(&self) -> Option<String> {
        let (gone, all) = self.left_out.get();
        (gone > 0).then(|| format!("`{}` left out {gone} of {all} completions", self.command))
    }

    /// Fails if completions were left out: each prompt of a `snapshot` needs its own.
    pub(super) fn has_answered_all(&self) -> Result<()> {
        self.left_out().map_or(Ok(()), |told| {
            let message = format!("{told}, but a `snapshot` needs one completion for each prompt");
            Err(Error::new(FailureKind::Edit, message).help(
                "return a text, or write `from(MODEL, sequences: ...)`, from which a program may leave \
                completions out",
            ))
        })
    }

    /// The program's edit of each sequence.
    fn asked(
        &self,
        pool: &ProcessPool,
        Texts { sources, tokenizer, control, .. }: Texts,
        list: &[Sequence],
    ) -> Result<Vec<ProgramEdit>> {
        let texts: Vec<String> =
            list.iter().map(|sequence| text(tokenizer, sequence)).collect::<Result<_>>()?;
        let dataset = |sequence: &Sequence| &sources[sequence.source].prompts.dataset;
        let records: Vec<_> = list.iter().map(|each| dataset(each).object(each.record)).collect();
        let asked: Vec<RewardInput> = zip_equal(list, zip_equal(&texts, &records))
            .map(|(sequence, (completion, record))| RewardInput {
                prompt: dataset(sequence).prompt(sequence.record),
                completion,
                record,
            })
            .collect();
        // A worker that failed is not put back: dropping it ends its process.
        let mut worker = pool.take();
        let answers = pool.batch(&mut worker, &asked, "completion", completion, control);
        pool.take_warnings().into_iter().for_each(|warning| control.warn(warning));
        let answers = answers.map_err(|unanswered| {
            let prompt = unanswered.place().map_or("", |place| asked[place].prompt);
            self.failed(pool, unanswered, prompt, asked.len())
        })?;
        pool.put_back(worker);
        let answer = |(before, after): (&String, Option<String>)| match after {
            None => ProgramEdit::LeftOut,
            Some(after) if after == *before => ProgramEdit::Same,
            Some(after) => ProgramEdit::Other(after),
        };
        Ok(zip_equal(&texts, answers).map(answer).collect())
    }

    fn failed(
        &self,
        pool: &ProcessPool,
        BatchFailure { failure, given, .. }: BatchFailure,
        prompt: &str,
        asked: usize,
    ) -> Error {
        let (program, prompt) = (format!("the program `{}` of `through`", self.command), quote(prompt));
        let (message, help) = match failure {
            ProgramFailure::Stopped => return Error::Interrupted,
            ProgramFailure::Start { cause } => (
                format!("{program} could not be started in {}: {cause}", pool.folder.display()),
                "commands run by `sh` in the folder of the experiment's file".to_owned(),
            ),
            ProgramFailure::Ended { how, stderr } => (
                format!(
                    "{program} ended ({how}) before it answered for the prompt {prompt}; restarting it did not help"
                ),
                program::how_it_ended(how, &stderr),
            ),
            ProgramFailure::TimedOut { stderr } => (
                format!(
                    "{program} answered {given} of {asked} completions within its time limit of {} s; restarting it \
                     did not help; the first prompt without an answer is {prompt}",
                    pool.limit.as_secs_f64()
                ),
                format!(
                    "raise `time_limit`, or check what the program does with that prompt; {}",
                    program::last_words(&stderr)
                ),
            ),
            ProgramFailure::InvalidOutput { why, line } => (
                format!("{program} returned invalid output: {why}; the line was {}", quote(&line)),
                "for every line {\"id\": 0, \"prompt\": ..., \"completion\": ..., \"record\": {...}} it must write one \
                 line {\"id\": 0, \"completion\": \"...\"}, with `null` for a completion to leave out, and nothing \
                 else; messages belong on standard error"
                    .to_owned(),
            ),
            ProgramFailure::Refused { why, .. } => program::refusal(&program, &prompt, &why),
        };
        Error::new(FailureKind::Edit, message).help(help)
    }
}

#[derive(Clone)]
enum ProgramEdit {
    Same,
    Other(String),
    LeftOut,
}

/// The text in a reply; `None` for a completion to leave out.
fn completion(reply: &Value) -> Result<Option<String>, String> {
    match reply.get("completion") {
        None => Err("no `completion`".to_owned()),
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err("a `completion` that is neither a text nor `null`".to_owned()),
    }
}
