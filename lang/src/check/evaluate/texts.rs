//! Names in texts: `hf("models/{d}")` in a family over domains.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::quotes::{NameInBraces, names_in};

use crate::check::checker::Checker;
use crate::check::read::numbers::undecided;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// A text in which `{name}` stands for the value of a variable or parameter. Other braces are as they are.
pub(super) fn filled(checker: &mut Checker, text: &str, span: Span, env: &Env) -> Value {
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let mut filled = String::new();
    let mut end = 0;
    for NameInBraces { name, braces: (open, close) } in names_in(&characters) {
        let Some(value) = env.local(&name) else { continue };
        if undecided(value) {
            return Value::Error;
        }
        let Some(value_text) = shown(checker, value) else {
            let text = format!("`{{{name}}}` in a text stands for a text, a number or a domain");
            let label = format!("`{name}` is {}", value.describe());
            checker.report(Diagnostic::error(Code::TypeMismatch, span, text).label(label));
            return Value::Error;
        };
        filled += &text[end..open];
        filled += &value_text;
        end = close + 1;
    }
    Value::Text(filled + &text[end..])
}

fn shown(checker: &Checker, value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Domain(domain) => Some(checker.parts.domain(*domain).name.clone()),
        value => value.number().map(|number| number.to_string()),
    }
}
