//! Conversations: messages, the template that renders them as text, and the tokens that the assistant
//! wrote.

mod calls;
mod exchange;
mod python;
mod response;
mod template;

use std::fmt;

use minijinja::Value;
use minijinja::value::Serde;
use mopd_data::DataProblem;
pub use mopd_data::messages::ChatRole;
pub use mopd_data::messages::with_mappings;
use mopd_data::messages::{self, MessageForms, REASONING, ROLES};
use mopd_kernels::os::bounded::LimitExceeded;

use super::TokenizerError;
use super::json::{Json, Object};
use crate::zip::zip_equal;

pub use calls::{CallForm, ToolCall};
pub use exchange::behind_turn;
pub use response::{
    AnswerTokens, TrainingExample, answer, example, markers, prompt, prompt_text, turn_end, unended_turn,
    unmarked_end,
};
pub use template::{ChatTemplate, look_at_the_clock, today};

/// Messages in order, and further variables of the template.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// At least one.
    messages: Vec<Message>,
    tools: Option<Value>,
    documents: Option<Value>,
    /// Further variables of the template, such as `enable_thinking`.
    variables: Vec<(String, Value)>,
}

/// One message of a conversation.
#[derive(Clone, Debug)]
pub struct Message {
    role: ChatRole,
    /// Whether it may be trained on.
    is_trained: bool,
    /// The message's object, with its keys in their original order.
    value: Value,
    /// The same as JSON, where it has a form that not every template takes.
    written: Option<Box<Json>>,
}

/// The forms of messages that a template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TemplateForms {
    /// Arguments of tool calls as JSON text; as objects otherwise.
    text_arguments: bool,
    /// Contents as lists of parts; as one text otherwise.
    parts: bool,
}

impl TemplateForms {
    /// Any that a message has.
    const AS_WRITTEN: TemplateForms = TemplateForms { text_arguments: true, parts: true };
}

/// Why a conversation can't be converted to tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatError {
    /// The template is invalid.
    Template(String),
    /// The template refused the conversation, or failed on it.
    Render(String),
    /// The template exceeded a limit of resources.
    Bounds {
        template: String,
        exceeded: LimitExceeded,
    },
    /// The model has no template.
    NoTemplate,
    /// Not a list of messages; the text describes what was found.
    Messages(String),
    /// The text rendered up to a turn is not a prefix of the whole. Messages are counted from 1.
    Unstable {
        message: usize,
    },
    /// The assistant has no message, so there is nothing to train on.
    NoAnswer,
    /// All messages of the assistant have the weight 0.
    NoWeight,
    /// The template marks other parts than the assistant's messages, some of which have the weight 0.
    MarkedOtherwise {
        marked: usize,
        messages: usize,
    },
    Tokenizer(TokenizerError),
}

impl std::error::Error for ChatError {}

impl From<TokenizerError> for ChatError {
    fn from(error: TokenizerError) -> ChatError {
        ChatError::Tokenizer(error)
    }
}

impl From<ChatError> for DataProblem {
    fn from(error: ChatError) -> DataProblem {
        DataProblem::Chat { problem: error.to_string(), help: error.help() }
    }
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatError::Template(cause) => write!(f, "the chat template cannot be compiled: {cause}"),
            ChatError::Render(cause) => {
                write!(f, "the chat template cannot render the conversation: {cause}")
            }
            ChatError::Bounds { template, exceeded } => {
                write!(f, "the chat template `{template}` {exceeded}")
            }
            ChatError::NoTemplate => write!(f, "the model has no chat template"),
            ChatError::Messages(problem) => f.write_str(problem),
            ChatError::Unstable { message } => write!(
                f,
                "the chat template's output up to message {message} is not a prefix of its output for the \
                whole conversation, so the assistant's tokens cannot be identified"
            ),
            ChatError::NoAnswer => write!(f, "the conversation has no message of the role `assistant`"),
            ChatError::NoWeight => write!(f, "all messages of the assistant have the `weight` 0"),
            ChatError::MarkedOtherwise { marked, messages } => write!(
                f,
                "messages of the assistant have the `weight` 0, but the template marks {marked} parts as the \
                 assistant's, which has {messages} messages"
            ),
            ChatError::Tokenizer(error) => error.fmt(f),
        }
    }
}

impl ChatError {
    /// Advice on how to solve the problem.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            ChatError::Template(_) => "the template is in `chat_template.jinja` or under `chat_template` in \
                                       tokenizer_config.json"
                .to_owned(),
            ChatError::Render(_) => {
                "change the conversation, or name another template where the model is loaded: `hf(\"...\", \
                 chat_template: \"chat.jinja\")`"
                    .to_owned()
            }
            ChatError::Bounds { .. } => "templates of published models need a thousandth of that: check \
                this one, in `chat_template.jinja` or under `chat_template` in tokenizer_config.json"
                .to_owned(),
            ChatError::NoTemplate => {
                "write `format = text`, or name a template where the model is loaded: `hf(\"...\", chat_template: \
                 \"chat.jinja\")`"
                    .to_owned()
            }
            ChatError::Messages(_) => messages::HELP.to_owned(),
            ChatError::Unstable { .. } => "mark the assistant's text with {% generation %} in a \
                copy of the template, and name it where the model is loaded: `hf(\"...\", chat_template: \
                \"chat.jinja\")`; or end each conversation after one answer"
                .to_owned(),
            ChatError::NoAnswer => "add the answer to train on".to_owned(),
            ChatError::NoWeight => {
                "leave the row out, or give the message to train on the `weight` 1".to_owned()
            }
            ChatError::MarkedOtherwise { .. } => {
                "leave `weight` out, and the turns that are not to be learnt".to_owned()
            }
            ChatError::Tokenizer(error) => return error.help.clone(),
        })
    }
}

impl Conversation {
    /// A user's question.
    pub fn question(system: Option<&str>, prompt: &str) -> Conversation {
        let messages = system.map(|system| plain("system", ChatRole::System, system));
        let messages = messages.into_iter().chain([plain("user", ChatRole::User, prompt)]).collect();
        Conversation { messages, tools: None, documents: None, variables: Vec::new() }
    }

    /// From a list of messages, each an object with a `role`. `system` is put first unless they have a system
    /// message.
    pub fn new(messages: &Json, system: Option<&str>) -> Result<Conversation, ChatError> {
        let mut checked = messages_of(messages).map_err(ChatError::Messages)?;
        if let Some(system) = system
            && !checked.iter().any(|message| message.role == ChatRole::System)
        {
            checked.insert(0, plain("system", ChatRole::System, system));
        }
        Ok(Conversation { messages: checked, tools: None, documents: None, variables: Vec::new() })
    }

    /// Functions that the model may call: a list of JSON schemas.
    pub fn with_tools(mut self, tools: &Json) -> Conversation {
        self.tools = (!tools.is_null()).then(|| Value::from(Serde(tools)));
        self
    }

    /// Texts that the model may quote: a list of objects.
    pub fn with_documents(mut self, documents: &Json) -> Conversation {
        self.documents = (!documents.is_null()).then(|| Value::from(Serde(documents)));
        self
    }

    /// Further variables of the template.
    pub fn with_variables(mut self, variables: &Object) -> Conversation {
        self.variables =
            variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect();
        self
    }

    /// The same with an answer at the end.
    pub fn answered(mut self, answer: &str) -> Conversation {
        self.messages.push(plain("assistant", ChatRole::Assistant, answer));
        self
    }

    /// The same without the assistant's messages at the end: the prompt of a model.
    pub fn asked(mut self) -> Conversation {
        let asked = self
            .messages
            .iter()
            .rposition(|message| message.role != ChatRole::Assistant)
            .map_or(0, |last| last + 1);
        self.messages.truncate(asked);
        self
    }

    /// The prompt of a model with another text as the question: instead of the last message, or of the whole
    /// conversation except its system message.
    pub fn asking(self, text: &str, after_its_turns: bool) -> Conversation {
        let mut conversation = self.asked();
        let asked = conversation.messages.pop().map_or(ChatRole::User, |message| message.role);
        if after_its_turns {
            let name = ROLES.iter().find(|(_, role)| *role == asked).map_or("user", |(name, _)| name);
            conversation.messages.push(plain(name, asked, text));
        } else {
            conversation.messages.retain(|message| message.role == ChatRole::System);
            conversation.messages.push(plain("user", ChatRole::User, text));
        }
        conversation
    }

    /// Appends a turn of the assistant.
    pub fn push_assistant(&mut self, content: &str, calls: &[ToolCall]) {
        let first = self.messages.len();
        self.messages.push(message(ChatRole::Assistant, &assistant_message(content, calls, first)));
    }

    /// Appends messages of others.
    pub fn extend(&mut self, messages: &[Message]) {
        self.messages.extend_from_slice(messages);
    }

    pub fn roles(&self) -> impl ExactSizeIterator<Item = ChatRole> {
        self.messages.iter().map(|message| message.role)
    }

    /// A text that is equal for equal conversations.
    pub fn fingerprint(&self) -> String {
        let messages: Vec<String> = self.messages.iter().map(|message| message.value.to_string()).collect();
        format!("{messages:?} {:?} {:?}", self.tools, self.documents)
    }

    /// What its messages say, without the system's.
    pub fn said(&self) -> String {
        let said = self.messages.iter().filter(|message| message.role != ChatRole::System);
        let content =
            |message: &Message| message.value.get_attr("content").map(|content| content.to_string());
        said.filter_map(|message| content(message).ok()).collect::<Vec<_>>().join("\n")
    }

    /// About how many bytes of text it has.
    fn size(&self) -> usize {
        let variables = self.variables.iter().map(|(_, value)| value);
        let parts = self.messages.iter().map(|message| &message.value).chain(variables);
        parts.chain(&self.tools).chain(&self.documents).map(|value| value.to_string().len()).sum()
    }

    pub fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// Whether it has any tool.
    pub fn lists_tools(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.len().is_some_and(|count| count > 0))
    }

    /// The same without tools.
    pub fn without_tools(self) -> Conversation {
        Conversation { tools: None, ..self }
    }

    /// Whether a message has a form that not every template takes.
    fn has_forms(&self) -> bool {
        self.messages.iter().any(|message| message.written.is_some())
    }

    /// The template's variables; absent tools and documents are `none`, as in the reference library.
    fn context(&self, count: usize, forms: TemplateForms) -> impl Iterator<Item = (String, Value)> {
        let messages: Value = self.messages[..count].iter().map(|message| message.taken_as(forms)).collect();
        let of = |value: &Option<Value>| value.clone().unwrap_or(Value::from(()));
        let fixed = [("messages", messages), ("tools", of(&self.tools)), ("documents", of(&self.documents))];
        fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(self.variables.clone())
    }
}

/// A list of messages, each an object with a `role`.
pub fn messages_of(list: &Json) -> Result<Vec<Message>, String> {
    let roles = messages::roles(list)?;
    Ok(zip_equal(roles, list.as_array().unwrap_or_default())
        .map(|(role, value)| message(role, value))
        .collect())
}

/// A turn of the assistant as a message of OpenAI's interface. Ids of calls differ within a conversation,
/// whose message `index` this is; they have the nine characters that Mistral's templates ask for.
pub fn assistant_message(content: &str, calls: &[ToolCall], index: usize) -> Json {
    let text = |text: &str| Json::String(text.to_owned());
    // Templates that write a call as a whole keep the order of its members.
    let object = |members: Vec<(&str, Json)>| -> Json {
        Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let call = |(number, ToolCall { name, arguments }): (usize, &ToolCall)| {
        let arguments = text(&Json::Object(arguments.clone()).to_string());
        object(vec![
            ("type", text("function")),
            ("id", text(&call_id(index, number))),
            ("function", object(vec![("name", text(name)), ("arguments", arguments)])),
        ])
    };
    let mut members = vec![("role", text("assistant")), ("content", text(content))];
    if !calls.is_empty() {
        members.push(("tool_calls", Json::Array(calls.iter().enumerate().map(call).collect())));
    }
    object(members)
}

/// The id of a call, by the index of its message in the conversation and its number in the message.
pub fn call_id(message: usize, call: usize) -> String {
    format!("call{:05}", (message * 100 + call) % 100_000)
}

fn plain(name: &str, role: ChatRole, content: &str) -> Message {
    let value = Value::from_pairs([("role", name), ("content", content)]);
    Message { role, is_trained: true, value, written: None }
}

impl Message {
    /// The message for a template that takes these forms.
    fn taken_as(&self, forms: TemplateForms) -> Value {
        let Some(written) = &self.written else { return self.value.clone() };
        let mut written = (**written).clone();
        if !forms.text_arguments {
            messages::with_mappings(&mut written);
        }
        if !forms.parts {
            messages::with_text(&mut written);
        }
        Value::from(Serde(&written))
    }
}

/// A message whose role was read.
fn message(role: ChatRole, value: &Json) -> Message {
    let Json::Object(fields) = value else { unreachable!("a message with a role is an object") };
    // All keys for reasoning get the same value, as in the reference library.
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()));
    let aliased = reasoning.map(|reasoning| {
        let first = std::iter::once(("thinking".to_owned(), reasoning.clone()));
        let members = fields.iter().map(|(name, value)| (name.clone(), value.clone()));
        let mut aliased: Object = first.chain(members).collect();
        aliased.insert("reasoning_content".to_owned(), reasoning.clone());
        Json::Object(aliased)
    });
    let value = aliased.as_ref().unwrap_or(value);
    let forms = MessageForms::of(std::slice::from_ref(value));
    let written = (forms.text_arguments || forms.parts).then(|| Box::new(value.clone()));
    Message { role, is_trained: !forms.weights, value: Value::from(Serde(value)), written }
}

#[cfg(test)]
mod tests;
