//! Finds the tokens of a conversation that the assistant wrote.

use super::{ChatError, ChatRole, ChatTemplate, Conversation, Message, plain};
use crate::tokenizer::Token;
use crate::tokenizer::{ByteSpan, Tokenizer};
use crate::zip::zip_equal;

/// A conversation to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingExample {
    /// Tokens before the first one that the assistant wrote; never empty.
    pub prompt: Vec<Token>,
    /// Tokens from there up to the last one that the assistant wrote; never empty.
    pub completion: Vec<Token>,
    /// Per token of the completion, whether the assistant wrote it. The others were written by users and
    /// tools between its turns.
    pub written: Vec<bool>,
}

impl TrainingExample {
    /// One answer to one prompt.
    pub fn new(prompt: Vec<Token>, completion: Vec<Token>) -> TrainingExample {
        let written = vec![true; completion.len()];
        TrainingExample { prompt, completion, written }
    }
}

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerTokens {
    pub prompt: Vec<Token>,
    /// The text that a chat template writes before the answer, such as an empty thought. No model wrote it.
    pub opening: Vec<Token>,
    /// The answer and the token that ends it.
    pub completion: Vec<Token>,
}

/// The tokens of a text with their places in it, and whether the assistant wrote each.
type MarkedTokens = (Vec<(Token, ByteSpan)>, Vec<bool>);

/// The prompt of a model: the conversation without the assistant's last messages, and the beginning of the
/// assistant's turn.
pub fn prompt(tokenizer: &Tokenizer, conversation: Conversation) -> Result<Vec<Token>, ChatError> {
    Ok(tokenizer.encode(&prompt_text(tokenizer, conversation)?)?)
}

/// The text of the same.
pub fn prompt_text(tokenizer: &Tokenizer, conversation: Conversation) -> Result<String, ChatError> {
    let conversation = conversation.asked();
    let template = tokenizer.template(&conversation).ok_or(ChatError::NoTemplate)?;
    template.render(&conversation, conversation.roles().len(), true)
}

/// The texts of the tokens with which the template delimits turns, and of those that end a completion: in the
/// text of a message they would be read as such.
pub fn markers(tokenizer: &Tokenizer, conversation: &Conversation) -> Vec<String> {
    let Tokenizer::Pretrained(pretrained) = tokenizer else { return Vec::new() };
    let (user, assistant) =
        (plain("user", ChatRole::User, "a"), plain("assistant", ChatRole::Assistant, "a"));
    let messages = vec![user.clone(), assistant, user];
    let probe = Conversation { messages, ..conversation.clone().without_tools() };
    let written = tokenizer.template(&probe).and_then(|template| template.render(&probe, 3, false).ok());
    let tokens = written.and_then(|text| tokenizer.encode(&text).ok()).unwrap_or_default();
    let delimits = tokens.into_iter().filter(|token| pretrained.is_added(*token));
    let mut all: Vec<Token> = delimits.chain(tokenizer.ends().iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().filter_map(|token| pretrained.token(token)).filter(|text| is_marker(text)).collect()
}

/// Whether a token would stand in no text by chance, as runs of spaces and line breaks do.
fn is_marker(token: &str) -> bool {
    token.trim_matches(|character: char| character.is_whitespace() || character == '▁').len() > 2
}

/// The tokens of the whole conversation, with the assistant's turns, each up to its end token, marked for
/// training.
///
/// The turns are found by the template's marks, if it has any. Otherwise the conversation is rendered up to
/// each turn's beginning and end, which must both be prefixes of the whole.
pub fn example(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<TrainingExample, ChatError> {
    let template = tokenizer.template(conversation).ok_or(ChatError::NoTemplate)?;
    let count = conversation.roles().len();
    let (text, marked) = template.render_marked(conversation, count, false)?;
    let spans = match template.marks_answers() {
        true => weighted(marked, conversation)?,
        false => answers(template, conversation, &text)?,
    };
    if spans.is_empty() {
        let assistant = conversation.roles().any(|role| role == ChatRole::Assistant);
        return Err(if assistant { ChatError::NoWeight } else { ChatError::NoAnswer });
    }
    let closing = || closing(template, conversation);
    let (places, written) = turns(tokenizer, &text, &spans, closing)?;
    let tokens: Vec<Token> = places.into_iter().map(|(token, _)| token).collect();
    let (first, last) = ends_of(&written)?;
    Ok(TrainingExample {
        prompt: tokens[..first].to_vec(),
        completion: tokens[first..=last].to_vec(),
        written: written[first..=last].to_vec(),
    })
}

/// The tokens of an answer to the last question of a conversation. Earlier turns of the assistant are prompt.
pub fn answer(
    tokenizer: &Tokenizer,
    conversation: Conversation,
    answer: &str,
) -> Result<AnswerTokens, ChatError> {
    let asked = conversation.asked();
    if answer.is_empty() {
        // The template may leave an empty answer out.
        let end = turn_end(tokenizer, &asked);
        return Ok(AnswerTokens {
            prompt: prompt(tokenizer, asked)?,
            opening: Vec::new(),
            completion: vec![end],
        });
    }
    let answered = asked.clone().answered(answer);
    let template = tokenizer.template(&answered).ok_or(ChatError::NoTemplate)?;
    let count = answered.roles().len();
    let (text, marked) = template.render_marked(&answered, count, false)?;
    let span = match template.marks_answers() {
        true => marked.last().cloned().ok_or(ChatError::NoAnswer)?,
        false => turn(template, &answered, count - 1, &text)?,
    };
    let opening = opening(template, asked, &text, &span, answer);
    let closing = || closing(template, &answered);
    let (places, written) = turns(tokenizer, &text, &[span], closing)?;
    let (first, last) = ends_of(&written)?;
    let of_opening = places[first..last].iter().take_while(|(_, place)| place.end <= opening).count();
    let mut tokens: Vec<Token> = places[..=last].iter().map(|(token, _)| *token).collect();
    let completion = tokens.split_off(first + of_opening);
    let opening = tokens.split_off(first);
    Ok(AnswerTokens { prompt: tokens, opening, completion })
}

/// The token that ends an answer in a conversation: the template's, or the tokenizer's own where the template
/// writes none.
pub fn turn_end(tokenizer: &Tokenizer, asked: &Conversation) -> Token {
    let answered = answer(tokenizer, asked.clone(), "a").ok();
    let last = answered.and_then(|answered| answered.completion.last().copied());
    last.filter(|last| tokenizer.is_end(*last)).unwrap_or(tokenizer.ends()[0])
}

/// An answer that no conversation has, to find the text that a template writes before one.
const PROBE: &str = "mopd-answer-7d1f";

/// The end of the text that the template writes between a prompt and an answer, such as an empty thought.
/// White space alone does not count: it may be part of the answer's first token.
fn opening(template: &ChatTemplate, asked: Conversation, text: &str, turn: &ByteSpan, answer: &str) -> usize {
    let probe = asked.answered(PROBE);
    let end = template.render(&probe, probe.roles().len(), false).ok().and_then(|probed| {
        let end = probed.rfind(PROBE)?;
        let same = text.starts_with(&probed[..end]) && text[end..].trim_start().starts_with(answer.trim());
        same.then_some(end)
    });
    let writes = |end: &usize| *end > turn.start && !text[turn.start..*end].trim().is_empty();
    end.filter(writes).unwrap_or(turn.start)
}

/// The text that a template writes behind an answer; empty where it can't be told.
pub(super) fn closing(template: &ChatTemplate, conversation: &Conversation) -> String {
    let probe = conversation.clone().asked().answered(PROBE);
    let text = template.render(&probe, probe.roles().len(), false).unwrap_or_default();
    text.rfind(PROBE).map_or_else(String::new, |at| text[at + PROBE.len()..].to_owned())
}

/// The token with which a template closes an answer, if it ends no completion of the model, which would write
/// on behind it. `None` where the template writes no such token: the tokenizer's own end is behind answers
/// then.
pub fn unended_turn(tokenizer: &Tokenizer, conversation: &Conversation) -> Option<String> {
    let Tokenizer::Pretrained(pretrained) = tokenizer else { return None };
    let tokens = tokenizer.continuation(&closing(tokenizer.template(conversation)?, conversation)).ok()?;
    let ids = || tokens.iter().map(|(token, _)| *token);
    if ids().any(|token| tokenizer.is_end(token)) {
        return None;
    }
    ids().find(|token| pretrained.is_added(*token)).and_then(|token| pretrained.token(token))
}

/// The token that ends a turn, if it is behind the part of the turn that a template marks as the assistant's.
pub fn unmarked_end(tokenizer: &Tokenizer, conversation: &Conversation) -> Option<String> {
    let template = tokenizer.template(conversation).filter(|template| template.marks_answers())?;
    let probe = conversation.clone().asked().answered(PROBE);
    let (text, marked) = template.render_marked(&probe, probe.roles().len(), false).ok()?;
    let end = marked.last()?.end;
    let tokens = tokenizer.continuation(&text[end..]).ok()?;
    let first = tokens.first().map(|(token, _)| *token).filter(|token| tokenizer.is_end(*token))?;
    tokenizer.as_read(&[first]).ok()
}

/// The tokens of a text with their places, and which of them the assistant wrote: those of its turns, which
/// are `spans`, up to the token that ends each. `closing` is what the template writes behind an answer.
fn turns(
    tokenizer: &Tokenizer,
    text: &str,
    spans: &[ByteSpan],
    closing: impl FnOnce() -> String,
) -> Result<MarkedTokens, ChatError> {
    let (mut tokens, mut written) = tokens(tokenizer, text, spans)?;
    // Text after an end token, usually a line break, comes from the template, not the assistant.
    let mut turn = 0;
    while turn < tokens.len() {
        let length = written[turn..].iter().take_while(|&&written| written).count();
        let end = tokens[turn..turn + length].iter().rposition(|(token, _)| tokenizer.is_end(*token));
        match end {
            Some(end) => written[turn + end + 1..turn + length].fill(false),
            // Marks may leave it out. Without it, the model would never learn to stop.
            None if length > 0
                && tokens.get(turn + length).is_some_and(|(next, _)| tokenizer.is_end(*next)) =>
            {
                written[turn + length] = true;
            }
            None => {}
        }
        turn += length.max(1);
    }
    // The template has no end token here, which the model has to learn nevertheless.
    let last = written.iter().rposition(|&written| written);
    if let Some(last) = last.filter(|last| !tokenizer.is_end(tokens[*last].0)) {
        // What the template writes behind an answer is not the assistant's, usually a line break.
        let closing = closing();
        let turn = spans.last().map_or(text.len(), |span| span.end);
        let answer = text[..turn].strip_suffix(closing.as_str()).map_or(turn, str::len);
        let behind = |(token, written): &(&(Token, ByteSpan), &bool)| **written && token.1.start >= answer;
        let dropped = zip_equal(&tokens[..=last], &written[..=last]).rev().take_while(behind).count();
        // An answer of white space alone stays.
        let length = written[..=last].iter().rev().take_while(|&&written| written).count();
        let end = last + 1 - if dropped < length { dropped } else { 0 };
        tokens.truncate(end);
        written.truncate(end);
        tokens.push((tokenizer.ends()[0], text.len()..text.len()));
        written.push(true);
    }
    Ok((tokens, written))
}

/// The first and the last token that the assistant wrote.
fn ends_of(written: &[bool]) -> Result<(usize, usize), ChatError> {
    let (Some(first), Some(last)) =
        (written.iter().position(|&written| written), written.iter().rposition(|&written| written))
    else {
        return Err(ChatError::NoAnswer);
    };
    if first == 0 {
        // A token needs at least one token before it to be predicted from.
        return Err(ChatError::Render("nothing stands before the assistant's first token".to_owned()));
    }
    Ok((first, last))
}

/// The bytes of each of the assistant's turns.
fn answers(
    template: &ChatTemplate,
    conversation: &Conversation,
    text: &str,
) -> Result<Vec<ByteSpan>, ChatError> {
    let of_assistant = |(index, message): (usize, &Message)| {
        (message.role == ChatRole::Assistant && message.is_trained).then_some(index)
    };
    let turns = conversation.messages.iter().enumerate().filter_map(of_assistant);
    turns.map(|index| turn(template, conversation, index, text)).collect()
}

/// The marked turns without those that are not trained on.
fn weighted(marked: Vec<ByteSpan>, conversation: &Conversation) -> Result<Vec<ByteSpan>, ChatError> {
    let of_assistant = conversation.messages.iter().filter(|message| message.role == ChatRole::Assistant);
    let trained: Vec<bool> = of_assistant.map(|message| message.is_trained).collect();
    if trained.iter().all(|trained| *trained) {
        return Ok(marked);
    }
    if marked.len() != trained.len() {
        return Err(ChatError::MarkedOtherwise { marked: marked.len(), messages: trained.len() });
    }
    Ok(zip_equal(marked, trained).filter(|(_, trained)| *trained).map(|(span, _)| span).collect())
}

/// The bytes of one of the assistant's turns.
fn turn(
    template: &ChatTemplate,
    conversation: &Conversation,
    index: usize,
    text: &str,
) -> Result<ByteSpan, ChatError> {
    // A message after another one of the assistant continues its turn, without a new prompt.
    let before = template.render(conversation, index, true)?;
    let after = template.render(conversation, index + 1, false)?;
    if !(text.starts_with(&before) && text.starts_with(&after) && before.len() <= after.len()) {
        return Err(ChatError::Unstable { message: index + 1 });
    }
    Ok(before.len()..after.len())
}

/// The tokens of a text, and which of them are within the spans. The text is split at the borders of spans,
/// as for a sampler that starts at the border.
fn tokens(tokenizer: &Tokenizer, text: &str, spans: &[ByteSpan]) -> Result<MarkedTokens, ChatError> {
    let whole = tokenizer.encode_with_spans(text)?;
    let within = |token: &ByteSpan| {
        spans.iter().any(|span| span.start <= token.start && token.end <= span.end && !token.is_empty())
    };
    let crosses = |token: &ByteSpan| {
        let border = |border: usize| token.start < border && border < token.end;
        spans.iter().any(|span| border(span.start) || border(span.end))
    };
    if !whole.iter().any(|(_, token)| crosses(token)) {
        let written = whole.iter().map(|(_, place)| within(place)).collect();
        return Ok((whole, written));
    }
    let (mut tokens, mut written, mut done) = (Vec::new(), Vec::new(), 0);
    let pieces =
        spans.iter().flat_map(|span| [(span.start, false), (span.end, true)]).chain([(text.len(), false)]);
    for (border, inside) in pieces {
        let piece = match done {
            0 => tokenizer.encode_with_spans(&text[..border])?,
            _ => tokenizer.continuation(&text[done..border])?,
        };
        written.resize(written.len() + piece.len(), inside);
        tokens.extend(piece.into_iter().map(|(token, place)| (token, done + place.start..done + place.end)));
        done = border;
    }
    Ok((tokens, written))
}
