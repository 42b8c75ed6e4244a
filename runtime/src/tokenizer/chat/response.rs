//! Which tokens of a conversation the assistant wrote.

use super::{ChatError, ChatRole, ChatTemplate, Conversation};
use crate::tokenizer::Token;
use crate::tokenizer::{ByteSpan, Tokenizer};

/// A conversation to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Up to the first token that the assistant wrote; never empty.
    pub prompt: Vec<Token>,
    /// From there up to the last one; never empty.
    pub completion: Vec<Token>,
    /// Per token of the completion: whether the assistant wrote it. Others are what users and tools answered
    /// meanwhile.
    pub written: Vec<bool>,
}

impl Example {
    /// One answer to one prompt.
    pub fn new(prompt: Vec<Token>, completion: Vec<Token>) -> Example {
        let written = vec![true; completion.len()];
        Example { prompt, completion, written }
    }
}

/// What a model is asked: the conversation without the assistant's last messages, and what its turn begins
/// with.
pub fn prompt(tokenizer: &Tokenizer, conversation: Conversation) -> Result<Vec<Token>, ChatError> {
    let conversation = conversation.asked();
    let template = tokenizer.template(&conversation).ok_or(ChatError::NoTemplate)?;
    let text = template.render(&conversation, conversation.roles().len(), true)?;
    Ok(tokenizer.encode(&text)?)
}

/// Tokens of the whole conversation, and what is to be trained on: the assistant's turns, each up to the
/// token that ends it.
///
/// Where the template marks them, by its marks. Otherwise by rendering the conversation up to each turn's
/// beginning and end: both must be beginnings of the whole.
pub fn example(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Example, ChatError> {
    let template = tokenizer.template(conversation).ok_or(ChatError::NoTemplate)?;
    let count = conversation.roles().len();
    let (text, marked) = template.render_marked(conversation, count, false)?;
    let spans = if template.marks_answers() { marked } else { answers(template, conversation, &text)? };
    if spans.is_empty() {
        return Err(ChatError::NoAnswer);
    }
    let (mut tokens, mut written) = tokens(tokenizer, &text, &spans)?;
    // What follows an end token, a line break as a rule, is the template's, not the assistant's.
    let mut turn = 0;
    while turn < tokens.len() {
        let length = written[turn..].iter().take_while(|&&written| written).count();
        let end = tokens[turn..turn + length].iter().rposition(|&token| tokenizer.is_end(token));
        if let Some(end) = end {
            written[turn + end + 1..turn + length].fill(false);
        }
        turn += length.max(1);
    }
    // A template without end tokens: the model would never learn to stop.
    if written.last() == Some(&true) && !tokens.last().is_some_and(|&last| tokenizer.is_end(last)) {
        tokens.push(tokenizer.ends()[0]);
        written.push(true);
    }
    let (Some(first), Some(last)) =
        (written.iter().position(|&written| written), written.iter().rposition(|&written| written))
    else {
        return Err(ChatError::NoAnswer);
    };
    if first == 0 {
        // A token is predicted from those before it.
        return Err(ChatError::Render("nothing stands before the assistant's first token".to_owned()));
    }
    Ok(Example {
        prompt: tokens[..first].to_vec(),
        completion: tokens[first..=last].to_vec(),
        written: written[first..=last].to_vec(),
    })
}

/// The bytes of each of the assistant's turns.
fn answers(
    template: &ChatTemplate,
    conversation: &Conversation,
    text: &str,
) -> Result<Vec<ByteSpan>, ChatError> {
    let mut spans = Vec::new();
    for (index, role) in conversation.roles().enumerate() {
        if role != ChatRole::Assistant {
            continue;
        }
        let unstable = ChatError::Unstable { message: index + 1 };
        // What another turn of the assistant precedes is a continuation: no prompt is written for it.
        let before = template.render(conversation, index, true)?;
        let after = template.render(conversation, index + 1, false)?;
        if !(text.starts_with(&before) && text.starts_with(&after) && before.len() <= after.len()) {
            return Err(unstable);
        }
        spans.push(before.len()..after.len());
    }
    Ok(spans)
}

/// The tokens of a text and which of them lie within the spans. A token that crosses the border of a span is
/// split there, as a sampler that starts at the border splits it.
fn tokens(
    tokenizer: &Tokenizer,
    text: &str,
    spans: &[ByteSpan],
) -> Result<(Vec<Token>, Vec<bool>), ChatError> {
    let whole = tokenizer.encode_with_spans(text)?;
    let within = |token: &ByteSpan| {
        spans.iter().any(|span| span.start <= token.start && token.end <= span.end && !token.is_empty())
    };
    let crosses = |token: &ByteSpan| {
        let border = |border: usize| token.start < border && border < token.end;
        spans.iter().any(|span| border(span.start) || border(span.end))
    };
    if !whole.iter().any(|(_, token)| crosses(token)) {
        return Ok(whole.into_iter().map(|(token, place)| (token, within(&place))).unzip());
    }
    let (mut tokens, mut written, mut done) = (Vec::new(), Vec::new(), 0);
    let pieces =
        spans.iter().flat_map(|span| [(span.start, false), (span.end, true)]).chain([(text.len(), false)]);
    for (border, inside) in pieces {
        let piece = tokenizer.encode(&text[done..border])?;
        written.resize(written.len() + piece.len(), inside);
        tokens.extend(piece);
        done = border;
    }
    Ok((tokens, written))
}
