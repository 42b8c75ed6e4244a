//! Names in texts: `hf("models/{d}")` in a family over domains.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words::is_word;

use crate::check::checker::Checker;
use crate::check::read::numbers::undecided;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// A text in which `{name}` stands for the value of a variable or parameter. Other braces are as they are.
pub(super) fn filled(checker: &mut Checker, text: &str, span: Span, env: &Env) -> Value {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, name, behind)) = next_name(rest) {
        filled += before;
        match env.local(name) {
            None => filled += &format!("{{{name}}}"),
            Some(value) if undecided(value) => return Value::Error,
            Some(value) => match shown(checker, value) {
                Some(value) => filled += &value,
                None => {
                    let text = format!("`{{{name}}}` in a text stands for a text, a number or a domain");
                    let label = format!("`{name}` is {}", value.describe());
                    checker.report(Diagnostic::error(Code::TypeMismatch, span, text).label(label));
                    return Value::Error;
                }
            },
        }
        rest = behind;
    }
    Value::Text(filled + rest)
}

/// The text before the next `{name}`, the name, and the text behind it.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find('{')?;
        let inside = &text[open + 1..];
        let length = inside.len() - inside.trim_start_matches(is_word).len();
        if length > 0 && inside[length..].starts_with('}') {
            return Some((&text[..open], &inside[..length], &inside[length + 1..]));
        }
        from = open + 1;
    }
}

fn shown(checker: &Checker, value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Domain(domain) => Some(checker.parts.domain(*domain).name.clone()),
        value => value.number().map(|number| number.to_string()),
    }
}
