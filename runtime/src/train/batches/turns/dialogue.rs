//! An episode in a conversation: the student's turns as messages with tool calls, and what the chat template
//! writes between them. The student's tokens are never rendered again.

use mopd_data::json::Json;
use mopd_plan::events::FailureKind;

use crate::environment::StudentTurn;
use crate::failure::{Error, Result};
use crate::quote::quote;
use crate::tokenizer::chat::{self, ChatError, ChatRole, Conversation, ToolCall, assistant_message, call_id};
use crate::tokenizer::{Token, Tokenizer};

/// A conversation up to the student's last turn, and this turn.
pub(super) struct Dialogue {
    asked: Conversation,
    turn: Option<Turn>,
}

struct Turn {
    said: String,
    calls: Vec<ToolCall>,
    /// Whether it has a token that ends it.
    ended: bool,
}

impl Dialogue {
    /// A conversation whose next turn is the student's.
    pub fn new(conversation: Conversation) -> Dialogue {
        Dialogue { asked: conversation.asked(), turn: None }
    }

    /// A turn of the student, for the environment.
    pub fn act(&mut self, tokenizer: &Tokenizer, tokens: &[Token], truncated: bool) -> Result<StudentTurn> {
        let last = tokens.last().is_some_and(|last| tokenizer.is_end(*last));
        let text = tokenizer.as_read(&tokens[..tokens.len() - usize::from(last)])?;
        let form = tokenizer.template(&self.asked).and_then(|template| template.call_form());
        let (said, calls) = match form {
            Some(form) => form.parse(&text),
            None => (text.clone(), Vec::new()),
        };
        let mut message = assistant_message(&said, &calls, self.asked.roles().len());
        chat::with_mappings(&mut message);
        let message = serde_json::to_value(&message).expect("a message is JSON");
        let action = StudentTurn { text, message: Some(message), calls: calls.len(), truncated };
        self.turn = Some(Turn { said, calls, ended: last });
        Ok(action)
    }

    /// The whole prompt, where the environment says something before the first turn.
    pub fn before_first(&mut self, tokenizer: &Tokenizer, messages: &Json) -> Result<Vec<Token>> {
        let messages = chat::messages_of(messages).map_err(ChatError::Messages).map_err(error)?;
        self.asked.extend(&messages);
        chat::prompt(tokenizer, self.asked.clone()).map_err(error)
    }

    /// The tokens behind the last turn up to the student's next one.
    pub fn behind(&mut self, tokenizer: &Tokenizer, messages: &Json) -> Result<Vec<Token>> {
        let Turn { said, calls, ended } = self.turn.take().expect("an environment replies to a turn");
        let mut messages = messages.clone();
        name_calls(&mut messages, &calls, self.asked.roles().len());
        let messages = chat::messages_of(&messages).map_err(ChatError::Messages).map_err(error)?;
        let tokens = chat::behind_turn(tokenizer, &self.asked, &calls, &messages, ended).map_err(error)?;
        self.asked.push_assistant(&said, &calls);
        self.asked.extend(&messages);
        Ok(tokens)
    }

    /// How the template changes a turn once it is earlier in the conversation: both texts from the first
    /// difference on. `None` where it leaves all turns as they were.
    pub fn rewritten(&self, tokenizer: &Tokenizer) -> Option<String> {
        let mut whole = self.asked.clone();
        if let Some(Turn { said, calls, .. }) = &self.turn {
            whole.push_assistant(said, calls);
        }
        let template = tokenizer.template(&whole)?;
        let roles: Vec<ChatRole> = whole.roles().collect();
        let text = template.render(&whole, roles.len(), false).ok()?;
        let turns = (1..roles.len()).filter(|count| roles[count - 1] == ChatRole::Assistant);
        let mut as_last = turns.filter_map(|count| template.render(&whole, count, false).ok());
        let before = as_last.find(|before| !text.starts_with(before.as_str()))?;
        let same = before.char_indices().zip(text.chars()).find(|((_, one), other)| one != other);
        let start = same.map_or(text.len().min(before.len()), |((start, _), _)| start);
        Some(format!("{} in place of {}", quote(&text[start..]), quote(&before[start..])))
    }
}

/// Gives results of tools the id and the name of the call that they answer, in the order of the calls, where
/// they have none.
fn name_calls(messages: &mut Json, calls: &[ToolCall], index: usize) {
    let Json::Array(list) = messages else { return };
    let mut calls = calls.iter().enumerate();
    for message in list {
        let Json::Object(members) = message else { continue };
        if members.get("role").and_then(Json::as_str) != Some("tool") {
            continue;
        }
        let Some((number, call)) = calls.next() else { return };
        let id = || Json::String(call_id(index, number));
        members.entry("tool_call_id".to_owned()).or_insert_with(id);
        members.entry("name".to_owned()).or_insert_with(|| Json::String(call.name.clone()));
    }
}

fn error(error: ChatError) -> Error {
    let help = error.help();
    let error = Error::new(FailureKind::Environment, error.to_string());
    match help {
        Some(help) => error.help(help),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenizer::tests::pretrained;

    /// A turn with two calls, the results of both, and an answer: what the environment gets, and what the
    /// student reads.
    #[test]
    fn calls_and_their_results() {
        let tokenizer = pretrained("qwen3");
        let asked = Conversation::question(None, "a and b?");
        let mut tokens = chat::prompt(&tokenizer, asked.clone()).unwrap();
        let mut dialogue = Dialogue::new(asked);
        let turn = "<think>\nboth\n</think>\n\nI look.\n\
            <tool_call>{\"name\": \"find\", \"arguments\": {\"key\": \"a\"}}</tool_call>\n\
            <tool_call>{\"name\": \"find\", \"arguments\": {\"key\": \"b\"}}</tool_call><|im_end|>";
        let sampled = tokenizer.encode(turn).unwrap();
        let action = dialogue.act(&tokenizer, &sampled, false).unwrap();
        assert_eq!(action.text, turn.strip_suffix("<|im_end|>").unwrap());
        let call = |number: usize, key: &str| {
            let function = json!({ "name": "find", "arguments": { "key": key } });
            json!({ "type": "function", "id": call_id(1, number), "function": function })
        };
        let content = "<think>\nboth\n</think>\n\nI look.";
        let calls = [call(0, "a"), call(1, "b")];
        assert_eq!(
            action.message.unwrap(),
            json!({ "role": "assistant", "content": content, "tool_calls": calls })
        );
        assert_eq!(action.calls, 2);
        tokens.extend(sampled);
        let results = json!([{ "role": "tool", "content": "1" }, { "role": "tool", "content": "2" }]);
        tokens.extend(dialogue.behind(&tokenizer, &Json::from(results)).unwrap());
        let read = tokenizer.as_read(&tokens).unwrap();
        let (_, behind) = read.split_once(turn).unwrap();
        assert_eq!(
            behind,
            "\n<|im_start|>user\n<result>1</result>\n<result>2</result><|im_end|>\n<|im_start|>assistant\n"
        );
        let answer = tokenizer.encode("<think>\nso\n</think>\n\n1 and 2<|im_end|>").unwrap();
        dialogue.act(&tokenizer, &answer, false).unwrap();
        tokens.extend(answer);
        assert_eq!(dialogue.rewritten(&tokenizer), None);
        // This template drops earlier thoughts once a user goes on.
        let more = Json::from(json!([{ "role": "user", "content": "and c?" }]));
        tokens.extend(dialogue.behind(&tokenizer, &more).unwrap());
        let change = dialogue.rewritten(&tokenizer).unwrap();
        assert!(change.starts_with("\"I look.") && change.contains("in place of \"<think>"), "{change}");
    }
}
