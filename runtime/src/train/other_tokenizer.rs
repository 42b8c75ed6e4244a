//! A teacher with another tokenizer: it reads the text of a step's completions in its own tokens, and its
//! distributions are compared where tokens of both begin (GOLD, spans by bytes; arXiv:2402.12030 compares by
//! rank).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mopd_plan::View;
use mopd_plan::events::FailureKind;
use mopd_plan::views::Moment;
use tch::{Device, Kind, Tensor};

use super::sequences::Sequences;
use super::stage::{Packing, Texts};
use super::views::{DraftText, StepContext};
use super::vocabulary::Columns;
use crate::failure::{Error, Result};
use crate::model::{PackedBatch, ScoringDecoder, Weights};
use crate::prepare::prompts::TemplateInputs;
use crate::rollout::Sequence;
use crate::tokenizer::chat::{AnswerTokens, TrainingExample};
use crate::tokenizer::spans::{SpelledText, TextAlignment, TextSpan, leading_space, spans_of, text_of};
use crate::tokenizer::{Token, Tokenizer, VocabularyMap};

/// The tokenizer of such a teacher, with the counterparts of the student's tokens.
pub struct OtherTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The longest sequence that the teacher reads, in its own tokens.
    context: usize,
    counterparts: VocabularyMap,
    /// Whether the prompts are conversations.
    chat: bool,
    /// The teacher, as messages name it.
    who: String,
    compared: RefCell<TokensCompared>,
}

/// How much of the completions was compared so far.
#[derive(Default)]
struct TokensCompared {
    /// Whether any completion had a span.
    any: bool,
    /// The number of completions without a span while no completion had one.
    without: usize,
    /// By source: tokens in no span, all tokens, and how many in no span the next warning waits for.
    tokens: HashMap<usize, [usize; 3]>,
}

/// Completions of which none has a span before a run ends: the teacher reads other texts.
const WITHOUT: usize = 8;

/// A sequence as the teacher reads it.
struct SequenceReading {
    example: TrainingExample,
    spans: Vec<TextSpan>,
    /// The number of trained tokens, without the end token.
    tokens: usize,
    /// Whether the text is not blank.
    has_text: bool,
}

impl OtherTokenizer {
    /// # Errors
    /// If the vocabularies can't be compared.
    pub fn new(student: &Tokenizer, teacher: &Weights, chat: bool, who: &str) -> Result<OtherTokenizer> {
        let counterparts = VocabularyMap::new(student, &teacher.tokenizer, chat, who)?;
        let (tokenizer, context) = (teacher.tokenizer.clone(), teacher.config.context);
        let (who, compared) = (who.to_owned(), RefCell::default());
        Ok(OtherTokenizer { tokenizer, context, counterparts, chat, who, compared })
    }

    /// Ids in the teacher's vocabulary that belong to no token.
    pub fn absent(&self) -> &[Token] {
        self.tokenizer.absent()
    }

    /// The teacher's logits as columns of the student's vocabulary.
    pub fn columns(&self, device: Device) -> Rc<Columns> {
        Rc::new(Columns::new(&self.counterparts, device))
    }

    /// Consecutive sequences of a step as the teacher reads them.
    pub fn reading(
        &self,
        texts: Texts,
        sees: Option<&View>,
        sequences: &Sequences,
        members: impl Iterator<Item = usize>,
        now: StepContext,
    ) -> Result<Retokenized> {
        let sees = sees.map(|view| (view, now.moment(texts.steps)));
        let mut reading = Retokenized::default();
        for member in members {
            let sequence = &sequences.list[member];
            let SequenceReading { example, spans, tokens, has_text } =
                self.sequence(texts, sees, sequence)?;
            if has_text {
                self.count(texts, sequence.source, &spans, tokens)?;
            }
            reading.add(example, spans, sequences.tokens(member).len());
        }
        Ok(reading)
    }

    /// Counts a completion's tokens that are in no span, and warns where they are a tenth of a domain's.
    fn count(&self, texts: Texts, source: usize, spans: &[TextSpan], tokens: usize) -> Result<()> {
        let mut compared = self.compared.borrow_mut();
        compared.any |= !spans.is_empty();
        compared.without += usize::from(!compared.any);
        if compared.without >= WITHOUT && !compared.any {
            let message = format!(
                "in {WITHOUT} completions, no token of {} begins at the same position as a token of its \
                student: it reads other text than the completions",
                self.who
            );
            return Err(Error::new(FailureKind::Data, message).help(
                "a chat template that changes answers, or a tokenizer that changes text, cannot be \
                aligned",
            ));
        }
        let [apart, all, next] = compared.tokens.entry(source).or_insert([0, 0, 1]);
        // A span of the end tokens lies behind these.
        let within: usize =
            spans.iter().map(|span| span.student.end.min(tokens) - span.student.start.min(tokens)).sum();
        *apart += tokens - within;
        *all += tokens;
        if *apart >= *next && *apart * 10 >= *all {
            *next = *apart * 10;
            texts.control.warn(format!(
                "{apart} of {all} completion tokens of `{}` so far are not compared with {}: its chat template or \
                 tokenizer writes other text or white space there, or its context ends",
                texts.sources[source].name, self.who
            ));
        }
        Ok(())
    }

    /// A sequence as the teacher reads it, the spans of its completion, and whether the text is not blank.
    fn sequence(
        &self,
        texts: Texts,
        sees: Option<(&View, Moment)>,
        sequence: &Sequence,
    ) -> Result<SequenceReading> {
        let source = &texts.sources[sequence.source];
        if sequence.prompt.is_some() || !sequence.completion.is_whole() {
            let message = format!(
                "conversations that continue after an answer (those of `{}`) are not supported yet with a \
                teacher that has another tokenizer",
                source.name
            );
            return Err(Error::new(FailureKind::Data, message)
                .at(source.origin)
                .help("train on `sample(...)`, or write prompt and answer as two fields"));
        }
        let student = texts.tokenizer;
        let ended = sequence.completion.last().is_some_and(|token| student.is_end(*token));
        let written = &sequence.completion[..sequence.completion.len() - usize::from(ended)];
        let spelled = text_of(written.iter().map(|token| self.counterparts.student.get(*token)));
        let SpelledText { text, .. } = &spelled;
        let said = TemplateInputs::draft(sequence.extra().map(|DraftText(text)| text).as_deref());
        let answer = &text[self.added(texts, sequence, text)?..];
        let AnswerTokens { mut prompt, opening, mut completion } =
            source.prompts.answered(&self.tokenizer, sees, sequence.record, answer, &said)?;
        // No student predicts the text that the teacher's template writes before an answer.
        prompt.extend(opening);
        let end = completion.iter().position(|token| self.tokenizer.is_end(*token));
        let length = end.map_or(completion.len(), |end| end + usize::from(ended)).max(1);
        if prompt.len() >= self.context {
            return Err(self.too_long(source.name, prompt.len()));
        }
        // Tokens beyond the teacher's context are not compared: in its tokens a completion may be longer than
        // in the student's.
        let length = length.min(self.context - prompt.len());
        completion.truncate(length);
        let end = end.filter(|end| *end < length);
        let read = &completion[..end.unwrap_or(length)];
        let bytes = read.iter().map(|token| self.counterparts.teacher.get(*token));
        let TextAlignment { mut spans, to_the_end } = spans_of(&spelled, bytes);
        // The end tokens are compared only if they end the same text.
        if ended && end.is_some() && to_the_end {
            spans.push(TextSpan {
                student: written.len()..written.len() + 1,
                teacher: read.len()..read.len() + 1,
                same_text: true,
            });
        }
        let (tokens, has_text) = (written.len(), !text.trim().is_empty());
        Ok(SequenceReading { example: TrainingExample::new(prompt, completion), spans, tokens, has_text })
    }

    /// The length of the white space that the student's own tokenizer or chat template writes before an
    /// answer. `text` begins with it, and the teacher reads the answer without it.
    fn added(&self, texts: Texts, sequence: &Sequence, text: &str) -> Result<usize> {
        let space = leading_space(text.as_bytes());
        if !self.chat || space == 0 {
            return Ok(0);
        }
        let (prompts, said) = (texts.sources[sequence.source].prompts, TemplateInputs::default());
        let answered = prompts.answered(texts.tokenizer, None, sequence.record, &text[space..], &said)?;
        let spelled = answered.completion.iter().map(|token| self.counterparts.student.get(*token));
        Ok(leading_space(text_of(spelled).text.as_bytes()).min(space))
    }

    fn too_long(&self, domain: &str, prompt: usize) -> Error {
        let message = format!(
            "a prompt of `{domain}` has {prompt} tokens for a teacher with another tokenizer, whose \
            context is {}",
            self.context
        );
        Error::new(FailureKind::Context, message).help("choose a teacher with a longer context")
    }
}

/// The sequences of a step as a teacher with another tokenizer reads them.
#[derive(Default)]
pub struct Retokenized {
    list: Vec<TrainingExample>,
    /// Spans, as ranges of these sequences' trained tokens and of the tokens that the teacher predicts.
    pub spans: Vec<TextSpan>,
    /// The number of trained tokens.
    pub tokens: usize,
    /// The number of tokens that the teacher predicts.
    predicted: usize,
}

impl Retokenized {
    /// `tokens` is the number of the sequence's trained tokens.
    fn add(&mut self, read: TrainingExample, spans: Vec<TextSpan>, tokens: usize) {
        let of_teacher = read.written.iter().filter(|written| **written).count();
        for TextSpan { student, teacher, same_text } in spans {
            assert!(student.end <= tokens && teacher.end <= of_teacher, "spans are of the sequence's tokens");
            self.spans.push(TextSpan {
                student: self.tokens + student.start..self.tokens + student.end,
                teacher: self.predicted + teacher.start..self.predicted + teacher.end,
                same_text,
            });
        }
        self.tokens += tokens;
        self.predicted += of_teacher;
        self.list.push(read);
    }

    /// The teacher's last hidden states for the tokens that it predicts, `[predicted, width]`, and these
    /// tokens.
    pub fn hidden(&self, packing: Packing, decoder: ScoringDecoder) -> (Tensor, Vec<Token>) {
        let most = packing.micro_batch.map_or(self.list.len(), |size| size.max(1) as usize).max(1);
        let batches = self.list.chunks(most).map(|chunk| {
            let read = chunk.iter().map(|example| {
                (example.prompt.as_slice(), example.completion.as_slice(), Some(example.written.as_slice()))
            });
            PackedBatch::masked(read, packing.place.device)
        });
        let hidden = Tensor::cat(&decoder.hidden(batches), 0);
        let targets: Vec<Token> = self
            .list
            .iter()
            .flat_map(|TrainingExample { completion, written, .. }| {
                completion.iter().zip(written).filter(|(_, written)| **written).map(|(token, _)| *token)
            })
            .collect();
        assert_eq!(hidden.size()[0], targets.len() as i64, "a row for each token that is predicted");
        (hidden, targets)
    }

    /// For each trained token, the row of the teacher's token that begins a span together with it.
    pub fn rows(&self) -> Vec<Option<i64>> {
        let mut rows = vec![None; self.tokens];
        for span in &self.spans {
            rows[span.student.start] = Some(span.teacher.start as i64);
        }
        rows
    }

    /// The teacher's log-probability of the rest of each span after its first token, `[tokens]`, 0 at tokens
    /// that begin no span, and where the teacher's tokens spell another text than the student's; `logps`
    /// returns log-probabilities of predicted tokens by row.
    pub fn rest(&self, logps: impl Fn(&[i64]) -> Tensor) -> Tensor {
        let whole = || self.spans.iter().filter(|span| span.same_text);
        let rows: Vec<i64> =
            whole().flat_map(|span| span.teacher.start + 1..span.teacher.end).map(|row| row as i64).collect();
        let begins: Vec<i64> =
            whole().flat_map(|span| vec![span.student.start as i64; span.teacher.len() - 1]).collect();
        let rest = Tensor::zeros([self.tokens as i64], (Kind::Float, Device::Cpu));
        if rows.is_empty() {
            return rest;
        }
        rest.index_add(0, &Tensor::from_slice(&begins), &logps(&rows).to_device(Device::Cpu))
    }
}
