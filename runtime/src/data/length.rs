//! Whether sequences fit a model's context.

use std::fmt;
use std::path::PathBuf;

use mopd_plan::events::FailureKind;

use super::{Dataset, RowPlace};
use crate::failure::Error;

/// The longest sequence of a dataset, and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longest {
    pub file: PathBuf,
    pub place: RowPlace,
    /// The field trained on, if its tokens count, too.
    pub target: Option<String>,
    /// The template that replaces the prompt.
    pub template: Option<String>,
    pub tokens: u32,
    /// Those of all rows, in order.
    lengths: Vec<u32>,
    /// Most tokens of text by other models: a panel or a writer of feedback.
    pub said: u32,
    /// Most tokens of completions, and of texts made from them, in a derived prompt.
    pub shown: u32,
}

impl Longest {
    /// `lengths` are those of all rows in tokens, in order. The first of equals is taken.
    pub fn find(dataset: &Dataset, target: Option<&str>, lengths: impl Iterator<Item = usize>) -> Longest {
        let lengths: Vec<u32> = lengths.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)).collect();
        let longer = |best: (usize, u32), (row, tokens): (usize, u32)| {
            if tokens > best.1 { (row, tokens) } else { best }
        };
        let (row, tokens) = lengths.iter().copied().enumerate().fold((0, 0), longer);
        let (file, place) = dataset.place(row);
        let target = target.map(str::to_owned);
        Longest { file: file.to_owned(), place, target, template: None, tokens, lengths, said: 0, shown: 0 }
    }

    /// The same, with a template instead of the prompt.
    pub fn seen_as(self, template: &str) -> Longest {
        Longest { template: Some(template.to_owned()), ..self }
    }

    /// The same, with `said` tokens by other models in the template or after it.
    pub fn with_words(self, said: u32) -> Longest {
        Longest { said, ..self }
    }

    /// The same, with `shown` tokens of completions, or of texts made from them, in the template or after it.
    pub fn with_shown(self, shown: u32) -> Longest {
        Longest { shown, ..self }
    }

    /// All tokens before the completion.
    fn all(&self) -> u32 {
        self.tokens.saturating_add(self.said).saturating_add(self.shown)
    }

    /// All tokens of the sequence, with `completion` tokens more.
    pub fn with_completion(&self, completion: u32) -> u32 {
        self.all().saturating_add(completion)
    }

    /// Whether the sequence, with `completion` tokens more, fits a model's context.
    pub fn fits(&self, completion: u32, context: impl Into<ContextLength>) -> Result<(), ContextError> {
        let context = context.into();
        if self.with_completion(completion) <= context.tokens {
            Ok(())
        } else {
            Err(ContextError { sequence: Box::new(self.clone()), completion, context, scorer: None })
        }
    }

    /// The same for a model that scores the sequence, whose name is for messages.
    pub fn fits_scorer(
        &self,
        completion: u32,
        context: impl Into<ContextLength>,
        scorer: &str,
    ) -> Result<(), ContextError> {
        let named = |error| ContextError { scorer: Some(scorer.to_owned()), ..error };
        self.fits(completion, context).map_err(named)
    }
}

/// The longest sequence that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLength {
    pub tokens: u32,
    /// Whether it comes from a checkpoint, so that the experiment can't choose it.
    pub fixed: bool,
}

impl From<u32> for ContextLength {
    fn from(tokens: u32) -> ContextLength {
        ContextLength { tokens, fixed: false }
    }
}

/// A sequence that exceeds a model's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextError {
    sequence: Box<Longest>,
    completion: u32,
    context: ContextLength,
    /// Who reads it, where that is not the model that is trained.
    scorer: Option<String>,
}

impl std::error::Error for ContextError {}

impl From<ContextError> for Error {
    fn from(error: ContextError) -> Error {
        Error::new(FailureKind::Context, error.to_string()).help(error.help())
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContextError { sequence, completion, context, scorer } = self;
        let Longest { file, place, target, template, tokens, lengths, said, shown } = sequence.as_ref();
        write!(f, "{}{place}: ", file.display())?;
        let prompt = match template {
            Some(template) => format!("the template `{template}`"),
            None => "the prompt".to_owned(),
        };
        match target {
            Some(field) => {
                write!(f, "{} and `{field}` take {tokens} tokens", prompt.trim_start_matches("the "))?
            }
            None => write!(f, "{prompt} takes {tokens} tokens")?,
        }
        if *said > 0 {
            write!(f, ", feedback or the texts of a panel up to {said}")?;
        }
        if *shown > 0 {
            write!(f, ", the shown attempts up to {shown}")?;
        }
        if *completion > 0 {
            write!(f, " and its completion up to {completion}")?;
        }
        match scorer {
            None => write!(f, ", the model's context is {}", context.tokens)?,
            Some(scorer) => write!(f, ", the context of {scorer} is {}", context.tokens)?,
        }
        let room = self.room();
        match lengths.iter().filter(|tokens| **tokens > room).count() {
            0 | 1 => Ok(()),
            rows => write!(f, "; {rows} of {} rows are too long", lengths.len()),
        }
    }
}

impl ContextError {
    /// Most tokens of a row.
    fn room(&self) -> u32 {
        let more = self.sequence.said.saturating_add(self.sequence.shown).saturating_add(self.completion);
        self.context.tokens.saturating_sub(more)
    }

    pub fn help(&self) -> String {
        let Longest { said, shown, .. } = *self.sequence;
        let needed = self.sequence.all().saturating_add(self.completion);
        let room = self.context.tokens.saturating_sub(self.sequence.tokens);
        let mut ways = Vec::new();
        if !self.context.fixed {
            ways.push(format!("set `context = {needed}` or more"));
        } else if self.scorer.is_some() {
            ways.push(format!("choose a model with a context of {needed} or more"));
        }
        if said > 0 {
            let way = "lower `max_tokens` of the panel or of the feedback, or `rounds` of the panel";
            ways.push(way.to_owned());
        } else if shown > 0 {
            ways.push("lower `max_tokens` of the attempts or of `short(...)`".to_owned());
        } else if self.completion > 0 && room > 0 {
            let set = if ways.is_empty() { "set " } else { "" };
            ways.push(format!("{set}`max_tokens = {room}` or less"));
        }
        ways.push(match self.sequence.place {
            RowPlace::Row(_) => "shorten the row".to_owned(),
            RowPlace::File | RowPlace::Line(_) => "shorten the line".to_owned(),
        });
        let Longest { target, template, .. } = self.sequence.as_ref();
        match (target, template, self.room()) {
            (None, None, room @ 1..) => {
                ways.push(format!("leave such rows out: `dataset(\"...\", max_prompt_tokens: {room})`"))
            }
            // Which part of them is long is not known here.
            (Some(_), None, 1..) => {
                ways.push(
                    "leave rows with long prompts out: `max_prompt_tokens` of `dataset(...)`".to_owned(),
                );
            }
            _ => {}
        }
        ways.join(", or ")
    }
}
