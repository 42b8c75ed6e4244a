//! What a template writes between two turns of the assistant. The tokens of a turn are those that were
//! sampled, and are never rendered again: only the text behind them is.

use super::{ChatError, Conversation, Message, ToolCall};
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;

/// The content of an assistant's turn, to find the text behind it.
const TURN: &str = "mopd-turn-7d1f";

/// The tokens behind a turn of the assistant up to the beginning of its next one. `asked` is the conversation
/// before the turn, `calls` are those of the turn, and `replies` stand between the two. `ended` says whether
/// the turn has the token that ends it.
///
/// A template may write a turn otherwise once it is an earlier one, as those that drop its reasoning do. This
/// changes nothing behind the turn, so it does not matter here.
pub fn behind_turn(
    tokenizer: &Tokenizer,
    asked: &Conversation,
    calls: &[ToolCall],
    replies: &[Message],
    ended: bool,
) -> Result<Vec<Token>, ChatError> {
    let template = tokenizer.template(asked).ok_or(ChatError::NoTemplate)?;
    let mut probe = asked.clone();
    probe.push_assistant(TURN, calls);
    let turn = probe.messages.len();
    let before = template.render(&probe, turn, false)?;
    probe.messages.extend_from_slice(replies);
    let after = template.render(&probe, probe.messages.len(), true)?;
    let behind = |text: &str| text.rfind(TURN).map(|start| text[start + TURN.len()..].to_owned());
    // Some templates leave the content out where there are calls.
    let (before, after) = behind(&before).zip(behind(&after)).unwrap_or((before, after));
    let Some(added) = after.strip_prefix(before.as_str()) else {
        return Err(ChatError::Unstable { message: turn });
    };
    let ends = tokenizer.ends().iter().filter_map(|end| tokenizer.as_read(&[*end]).ok());
    let end = ends.filter_map(|end| before.rfind(&end).map(|start| start..start + end.len()));
    let closing = match end.max_by_key(|end| end.end) {
        Some(end) => &before[if ended { end.end } else { end.start }..],
        None if calls.is_empty() => &before,
        None => {
            return Err(ChatError::Render("it writes no token at the end of a turn with calls".to_owned()));
        }
    };
    let text = format!("{closing}{added}");
    Ok(tokenizer.continuation(&text)?.into_iter().map(|(token, _)| token).collect())
}
