//! Chat templates: Jinja, with the functions and filters of the reference library.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use chrono::format::StrftimeItems;
use chrono::{Datelike, NaiveDate};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};
use mopd_kernels::os::bounded::{self, TimeBudget};
use regex::Regex;
use serde_json::json;

use super::python::{self, DumpsArguments};
use super::{CallForm, ChatError, Conversation, TemplateForms};
use crate::tokenizer::ByteSpan;
use crate::tokenizer::json::Json;

/// A compiled chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    name: String,
    environment: Arc<Environment<'static>>,
    /// `bos_token` and other special tokens, by name.
    special: Vec<(&'static str, String)>,
    marks_answers: bool,
    asks_date: bool,
    /// Found out when first needed.
    forms: OnceLock<TemplateForms>,
    calls: OnceLock<Option<CallForm>>,
    /// For all of its renderings.
    time: TimeBudget,
}

/// The tag around the assistant's text, in templates that mark it.
static GENERATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is constant")
});
/// The function whose call replaces the tag.
const MARK: &str = "mopd_generation";
/// Delimiters of marked text in the rendered text, removed afterwards. Private characters and an improbable
/// word make sure that no conversation contains them.
const OPEN: &str = "\u{F8FF}mopd-answer-7d1f\u{F8FE}";
const CLOSE: &str = "\u{F8FE}mopd-answer-7d1f\u{F8FF}";
/// Most instructions of one rendering, far more than published templates take.
const FUEL: u64 = 50_000_000;
/// Processor time of a rendering; templates of published models take less than a hundredth of it.
pub(super) const EACH: Duration = Duration::from_millis(10);
/// And for each byte of the text: long conversations take longer.
const EACH_BYTE: Duration = Duration::from_nanos(50);
/// Processor time of all renderings together, besides.
pub(super) const SHARED: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 5_000 });
/// Most bytes of a template. Those of published models have less than a thirtieth.
const LONGEST: usize = 1 << 20;
/// Most bytes that a template writes of its own, and most copies of the conversation.
const LONGEST_OWN: usize = 1 << 20;
const MOST_COPIES: usize = 8;

impl ChatTemplate {
    pub fn new(
        name: &str,
        source: &str,
        special: Vec<(&'static str, String)>,
    ) -> Result<ChatTemplate, ChatError> {
        if source.len() > LONGEST {
            let size = source.len();
            return Err(ChatError::Template(format!("it has {size} bytes, more than {} MiB", LONGEST >> 20)));
        }
        let marks_answers = GENERATION.is_match(source);
        let rewritten = GENERATION.replace_all(source, |found: &regex::Captures| {
            let [before, after] = [&found[1], &found[3]];
            let tag = if found.get(2).is_some() { "endcall".to_owned() } else { format!("call {MARK}()") };
            format!("{{%{before} {tag} {after}%}}")
        });
        let rewritten = rewritten.into_owned();
        let time = TimeBudget::new(EACH, SHARED);
        let environment = bounded::run(&time, move || -> Result<Arc<Environment<'static>>, ChatError> {
            let mut environment = environment();
            environment
                .add_template_owned("chat", rewritten)
                .map_err(|error| ChatError::Template(describe(&error)))?;
            Ok(Arc::new(environment))
        });
        let (name, asks_date) = (name.to_owned(), source.contains("strftime_now"));
        let environment =
            environment.map_err(|exceeded| ChatError::Bounds { template: name.clone(), exceeded })??;
        Ok(ChatTemplate {
            name,
            environment,
            special,
            marks_answers,
            asks_date,
            forms: OnceLock::new(),
            calls: OnceLock::new(),
            time,
        })
    }

    /// Its name in the model's files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it marks the assistant's text by `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// Whether its text depends on the date.
    pub fn asks_date(&self) -> bool {
        self.asks_date
    }

    /// How it writes tool calls; `None` where it writes none, or in a way that is not known.
    pub fn call_form(&self) -> Option<&CallForm> {
        self.calls.get_or_init(|| CallForm::learn(self)).as_ref()
    }

    /// Renders the first `count` messages; `answer` adds the beginning of an assistant's turn.
    pub fn render(
        &self,
        conversation: &Conversation,
        count: usize,
        answer: bool,
    ) -> Result<String, ChatError> {
        Ok(self.render_marked(conversation, count, answer)?.0)
    }

    /// As [`ChatTemplate::render`], and also returns the ranges of bytes inside `{% generation %}`.
    pub fn render_marked(
        &self,
        conversation: &Conversation,
        count: usize,
        answer: bool,
    ) -> Result<(String, Vec<ByteSpan>), ChatError> {
        let forms = match conversation.has_forms() {
            true => *self.forms.get_or_init(|| self.forms()),
            false => TemplateForms::AS_WRITTEN,
        };
        self.render_with(conversation, count, answer, forms)
    }

    /// The forms of messages that the template takes, by what it writes of a call and of a content in each
    /// form.
    fn forms(&self) -> TemplateForms {
        let rendered = |messages: serde_json::Value| {
            let conversation = Conversation::new(&Json::from(messages), None).ok()?;
            let count = conversation.roles().len();
            Some(self.render_with(&conversation, count, false, TemplateForms::AS_WRITTEN).ok()?.0)
        };
        let call = |arguments: serde_json::Value| {
            let function = json!({ "name": "f", "arguments": arguments });
            rendered(json!([
                { "role": "user", "content": "a" },
                { "role": "assistant", "content": "", "tool_calls": [
                    { "id": "call00001", "type": "function", "function": function }
                ] },
            ]))
        };
        let (as_text, as_object) = (call(json!("{\"mopd-probe\": 1}")), call(json!({ "mopd-probe": 1 })));
        let verbatim = as_text.is_some_and(|text| text.contains("{\"mopd-probe\": 1}"));
        let reads_objects = as_object.is_some_and(|text| text.contains("mopd-probe"));
        let parts =
            rendered(json!([{ "role": "user", "content": [{ "type": "text", "text": "mopd-probe" }] }]));
        // Not the list itself, as Python or JSON would print it.
        let shows = |text: &String| text.contains("mopd-probe") && !text.contains("type");
        TemplateForms { text_arguments: verbatim || !reads_objects, parts: parts.as_ref().is_some_and(shows) }
    }

    fn render_with(
        &self,
        conversation: &Conversation,
        count: usize,
        answer: bool,
        forms: TemplateForms,
    ) -> Result<(String, Vec<ByteSpan>), ChatError> {
        let special = self.special.iter().map(|(name, token)| ((*name).to_owned(), Value::from(token)));
        let context = special
            .chain(conversation.context(count, forms))
            .chain([("add_generation_prompt".to_owned(), Value::from(answer))]);
        let (environment, context) = (self.environment.clone(), Value::from_pairs(context));
        let marked = bounded::run(&self.time, move || {
            let template =
                environment.get_template("chat").map_err(|error| ChatError::Template(describe(&error)))?;
            template.render(context).map_err(|error| ChatError::Render(describe(&error)))
        });
        let marked =
            marked.map_err(|exceeded| ChatError::Bounds { template: self.name.clone(), exceeded })??;
        self.time.earn(EACH_BYTE * u32::try_from(marked.len()).unwrap_or(u32::MAX));
        if marked.len() > LONGEST_OWN && marked.len() > MOST_COPIES * conversation.size() {
            return Err(ChatError::Render(format!(
                "it writes {} MiB, more than {} MiB and {MOST_COPIES} times the conversation",
                marked.len() >> 20,
                LONGEST_OWN >> 20
            )));
        }
        if !self.marks_answers {
            return Ok((marked, Vec::new()));
        }
        let (mut text, mut spans, mut rest) = (String::new(), Vec::new(), marked.as_str());
        while let Some((before, behind)) = rest.split_once(OPEN) {
            text.push_str(before);
            let (inside, behind) = behind.split_once(CLOSE).unwrap_or((behind, ""));
            spans.push(text.len()..text.len() + inside.len());
            text.push_str(inside);
            rest = behind;
        }
        text.push_str(rest);
        Ok((text, spans))
    }
}

/// The environment that the reference library gives to templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters differ from each other"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&python::text(value)).map_err(Error::from),
    });
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("trim", |text: String, characters: Option<String>| {
        strip(&text, characters.as_deref(), true, true)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| date(&format));
    environment.add_function(MARK, |state: &mut State, arguments: Kwargs| -> Result<String, Error> {
        let body: Value = arguments.get("caller")?;
        Ok(format!("{OPEN}{}{CLOSE}", python::text(&body.call(state, &[])?)))
    });
    environment
}

/// The cause and location of an error, without the engine's other text.
fn describe(error: &Error) -> String {
    let cause = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} instructions"),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.line() {
        Some(line) => format!("{cause} (line {line} of the template)"),
        None => cause,
    }
}

/// Methods of Python's types: those of the compatibility layer, except where white space differs.
fn method(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match method {
            "strip" | "lstrip" | "rstrip" => {
                let (characters,): (Option<&str>,) = from_args(arguments)?;
                return Ok(Value::from(strip(text, characters, method != "rstrip", method != "lstrip")));
            }
            "title" => {
                let () = from_args(arguments)?;
                return Ok(Value::from(title(text)));
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// `str.title()`: a letter after a non-letter becomes a capital.
fn title(text: &str) -> String {
    let mut titled = String::new();
    let mut inside = false;
    for character in text.chars() {
        if inside {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        inside = character.is_alphabetic();
    }
    titled
}

fn strip(text: &str, characters: Option<&str>, start: bool, end: bool) -> String {
    let cut = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => python::is_space(character),
    };
    let text = if start { text.trim_start_matches(cut) } else { text };
    let text = if end { text.trim_end_matches(cut) } else { text };
    text.to_owned()
}

/// The reference library's `tojson`: `json.dumps(x, ensure_ascii=False, indent=None, separators=None,
/// sort_keys=False)`.
fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let positional = [ensure_ascii, indent, separators];
    let argument = |index: usize, name: &str| -> Option<Value> {
        let by_name = || named.get::<Option<Value>>(name).ok().flatten();
        positional
            .get(index)
            .cloned()
            .flatten()
            .or_else(by_name)
            .filter(|value| !value.is_none() && !value.is_undefined())
    };
    let indent = match argument(1, "indent") {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
    };
    let (between, after_key) = match argument(2, "separators") {
        Some(separators) => {
            let part = |index| separators.get_item_by_index(index).map(|part| python::text(&part));
            (part(0)?, part(1)?)
        }
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let flag = |index, name: &str| argument(index, name).is_some_and(|value| value.is_true());
    let json = DumpsArguments {
        ascii: flag(0, "ensure_ascii"),
        indent,
        between,
        after_key,
        sorted: flag(3, "sort_keys"),
    };
    named.assert_all_used()?;
    json.write(value).map(Value::from)
}

/// The date that templates see, as a day number; 0 before the first use.
static TODAY: AtomicI32 = AtomicI32::new(0);

/// Sets the date from the clock, at the start of a job. A run that goes past midnight keeps its date, which
/// is part of the keys of its results.
pub fn look_at_the_clock() -> NaiveDate {
    // A clock before 1970, or beyond any calendar, shows the first day.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let now = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().date_naive();
    TODAY.store(now.num_days_from_ce(), Ordering::Relaxed);
    now
}

/// The date in UTC, so that it does not depend on the time zone.
pub fn today() -> NaiveDate {
    match TODAY.load(Ordering::Relaxed) {
        0 => look_at_the_clock(),
        days => NaiveDate::from_num_days_from_ce_opt(days).unwrap_or_default(),
    }
}

/// Formats the date as `strftime` does. A template's text is keyed by the date, so formats with the time of
/// day are refused.
fn date(format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let refused = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    let items = StrftimeItems::new(format).parse();
    let items = items.map_err(|_| refused(format!("{format:?} is not a date format")))?;
    let mut text = String::new();
    // A date has no time of day, so that formats which need one are errors.
    write!(text, "{}", today().format_with_items(items.iter())).map_err(|_| {
        let why = "a template may read the date, but not the time of day: otherwise every run would \
            differ";
        refused(format!("strftime_now({format:?}) asks for the time of day; {why}"))
    })?;
    Ok(text)
}
