//! A teacher with another tokenizer: it reads the text of a step's completions as tokens of its own, and its
//! distributions stand where a token of both begins (GOLD, spans by bytes; arXiv:2402.12030 compares by
//! rank).

use std::rc::Rc;
use std::sync::Arc;

use mopd_compiler::plan::View;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::views::Moment;
use tch::{Device, Kind, Tensor};

use super::Stage;
use super::sequences::Sequences;
use super::views::Now;
use super::vocabulary::Columns;
use crate::failure::{Error, Result};
use crate::model::{PackedBatch, ScoringDecoder, Weights};
use crate::prepare::prompts::TemplateInputs;
use crate::rollout::Sequence;
use crate::tokenizer::chat::Example;
use crate::tokenizer::spans::{TextSpan, spans_of, text_of};
use crate::tokenizer::{Counterparts, Token, Tokenizer};

/// What a student is compared with.
pub struct OtherTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The longest sequence that it reads, in its own tokens.
    context: usize,
    counterparts: Counterparts,
}

impl OtherTokenizer {
    /// # Errors
    /// If the vocabularies can't be compared.
    pub fn new(student: &Tokenizer, teacher: &Weights, who: &str) -> Result<OtherTokenizer> {
        let counterparts = Counterparts::new(student, &teacher.tokenizer, who)?;
        let (tokenizer, context) = (teacher.tokenizer.clone(), teacher.config.context);
        Ok(OtherTokenizer { tokenizer, context, counterparts })
    }

    /// Ids that no token of the teacher has.
    pub fn absent(&self) -> &[Token] {
        self.tokenizer.absent()
    }

    /// The teacher's logits as columns of the student's vocabulary.
    pub fn columns(&self, device: Device) -> Rc<Columns> {
        Rc::new(Columns::new(&self.counterparts, device))
    }

    /// What the teacher reads of some sequences of a step that follow each other.
    pub fn reading(
        &self,
        stage: &Stage,
        sees: Option<&View>,
        sequences: &Sequences,
        members: impl Iterator<Item = usize>,
        now: Now,
    ) -> Result<Retokenized> {
        let sees = sees.map(|view| (view, now.moment(stage)));
        let mut reading = Retokenized::default();
        let mut has_text = false;
        for member in members {
            let (read, of_sequence, text) = self.sequence(stage, sees, &sequences.list[member])?;
            has_text |= text;
            reading.add(read, of_sequence, sequences.tokens(member).len());
        }
        if has_text && reading.spans.is_empty() {
            let message = "no token of the teacher begins where one of its student's does: it reads other texts \
                           than the completions";
            return Err(Error::new(FailureKind::Data, message).help(
                "a chat template that changes answers, or a tokenizer that changes texts, can't be aligned",
            ));
        }
        Ok(reading)
    }

    /// What the teacher reads of a sequence, with the spans of the completion, and whether it says anything.
    fn sequence(
        &self,
        stage: &Stage,
        sees: Option<(&View, Moment)>,
        sequence: &Sequence,
    ) -> Result<(Example, Vec<TextSpan>, bool)> {
        let source = &stage.sources[sequence.source];
        let goes_on = |written: &Vec<bool>| written.contains(&false);
        if sequence.prompt.is_some() || sequence.written.as_ref().is_some_and(goes_on) {
            let message = format!(
                "conversations that go on after an answer, as those of `{}` do, with a teacher that has another \
                 tokenizer, are not supported yet",
                source.name
            );
            return Err(Error::new(FailureKind::Data, message)
                .at(source.origin)
                .help("train on `sample(...)`, or give prompt and answer as two fields"));
        }
        let student = &stage.start.tokenizer;
        let ended = sequence.completion.last().is_some_and(|token| student.is_end(*token));
        let written = &sequence.completion[..sequence.completion.len() - usize::from(ended)];
        let (text, ends) = text_of(written.iter().map(|token| self.counterparts.student.get(*token)));
        let Example { prompt, mut completion, written: mut mask } = source.prompts.answered(
            &self.tokenizer,
            sees,
            sequence.record,
            &text,
            &TemplateInputs::draft(sequence.draft.as_deref()),
        )?;
        let end = completion.iter().position(|token| self.tokenizer.is_end(*token));
        let length = end.map_or(completion.len(), |end| end + usize::from(ended)).max(1);
        if prompt.len() >= self.context {
            return Err(self.too_long(source.name, prompt.len()));
        }
        // What lies behind its context is compared with nothing: in its own tokens a completion may be longer
        // than in its student's.
        let length = length.min(self.context - prompt.len());
        completion.truncate(length);
        mask.truncate(length);
        let end = end.filter(|end| *end < length);
        let own = |at: usize| mask[at] && end != Some(at);
        let read: Vec<Token> = (0..length).filter(|at| own(*at)).map(|at| completion[at]).collect();
        let mut spans =
            spans_of(&text, &ends, read.iter().map(|token| self.counterparts.teacher.get(*token)));
        // Ends are compared where all that stands before them is.
        let whole = spans.last().map_or((0, 0), |last| (last.student.end, last.teacher.end));
        if ended && end.is_some_and(|end| mask[end]) && whole == (written.len(), read.len()) {
            spans.push(TextSpan {
                student: written.len()..written.len() + 1,
                teacher: read.len()..read.len() + 1,
            });
        }
        Ok((Example { prompt, completion, written: mask }, spans, !text.trim().is_empty()))
    }

    fn too_long(&self, domain: &str, prompt: usize) -> Error {
        let message = format!(
            "a prompt of `{domain}` is {prompt} tokens of a teacher with another tokenizer, whose context is {}",
            self.context
        );
        Error::new(FailureKind::Context, message).help("choose a teacher with a longer context")
    }
}

/// The sequences of a step as a teacher with another tokenizer reads them.
#[derive(Default)]
pub struct Retokenized {
    list: Vec<Example>,
    /// Among the tokens of these sequences that are trained on, and those that the teacher predicts.
    pub spans: Vec<TextSpan>,
    /// Tokens that are trained on.
    pub tokens: usize,
    /// Tokens that the teacher predicts.
    predicted: usize,
}

impl Retokenized {
    /// `tokens` of the sequence are trained on.
    fn add(&mut self, read: Example, spans: Vec<TextSpan>, tokens: usize) {
        let of_teacher = read.written.iter().filter(|written| **written).count();
        for TextSpan { student, teacher } in spans {
            assert!(student.end <= tokens && teacher.end <= of_teacher, "spans are of the sequence's tokens");
            self.spans.push(TextSpan {
                student: self.tokens + student.start..self.tokens + student.end,
                teacher: self.predicted + teacher.start..self.predicted + teacher.end,
            });
        }
        self.tokens += tokens;
        self.predicted += of_teacher;
        self.list.push(read);
    }

    /// The teacher's last hidden states at the tokens that it predicts, `[predicted, width]`, and these
    /// tokens.
    pub fn hidden(&self, stage: &Stage, decoder: ScoringDecoder) -> (Tensor, Vec<Token>) {
        let most = stage.micro_batch.map_or(self.list.len(), |size| size.max(1) as usize).max(1);
        let batches = self.list.chunks(most).map(|chunk| {
            let read = chunk.iter().map(|example| {
                (example.prompt.as_slice(), example.completion.as_slice(), Some(example.written.as_slice()))
            });
            PackedBatch::masked(read, stage.place.device)
        });
        let hidden = Tensor::cat(&decoder.hidden(batches), 0);
        let targets: Vec<Token> = self
            .list
            .iter()
            .flat_map(|Example { completion, written, .. }| {
                completion.iter().zip(written).filter(|(_, written)| **written).map(|(token, _)| *token)
            })
            .collect();
        assert_eq!(hidden.size()[0], targets.len() as i64, "a row for each token that is predicted");
        (hidden, targets)
    }

    /// For each token that is trained on, the row of the teacher's token that begins a span with it.
    pub fn rows(&self) -> Vec<Option<i64>> {
        let mut rows = vec![None; self.tokens];
        for span in &self.spans {
            rows[span.student.start] = Some(span.teacher.start as i64);
        }
        rows
    }

    /// The teacher's log-probability of what follows the first token in each span, `[tokens]`, 0 at tokens
    /// that begin none; `logps` answers it for some of the tokens that are predicted.
    pub fn rest(&self, logps: impl Fn(&[i64]) -> Tensor) -> Tensor {
        let rows: Vec<i64> = self
            .spans
            .iter()
            .flat_map(|span| span.teacher.start + 1..span.teacher.end)
            .map(|row| row as i64)
            .collect();
        let begins: Vec<i64> = self
            .spans
            .iter()
            .flat_map(|span| vec![span.student.start as i64; span.teacher.len() - 1])
            .collect();
        let rest = Tensor::zeros([self.tokens as i64], (Kind::Float, Device::Cpu));
        if rows.is_empty() {
            return rest;
        }
        rest.index_add(0, &Tensor::from_slice(&begins), &logps(&rows).to_device(Device::Cpu))
    }
}
