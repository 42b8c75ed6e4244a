//! The overrides of a launch script: `a.b=c` and `+a.b=c` among its words.

use std::collections::HashMap;

use serde_json::Value;

use super::given::{GivenPairs, GivenValue, flatten};

/// A word of a script, quotes taken off.
#[derive(Default)]
struct ShellWord {
    text: String,
    /// Something in it is only known to the shell.
    open: bool,
}

/// Of several overrides of one setting Hydra takes the last.
pub fn overrides(text: &str) -> GivenPairs {
    let mut settings = GivenPairs::new();
    for word in words(text, &variables(text)) {
        let Some((key, value)) = word.text.split_once('=') else { continue };
        let key = key.trim_start_matches('+');
        let is_path =
            key.contains('.') && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !is_path || key.starts_with(['.', '-']) {
            continue;
        }
        let mut found = GivenPairs::new();
        match word.open {
            true => found.push((key.to_owned(), GivenValue::Expression(value.to_owned()))),
            false => flatten(key, &scalar(value), &mut found),
        }
        for (path, value) in found {
            settings.retain(|(known, _)| *known != path);
            settings.push((path, value));
        }
    }
    settings
}

/// `NAME=value` of a script. A name with several values, or with one that the shell computes, stays unknown:
/// which holds depends on the path through the script.
fn variables(text: &str) -> HashMap<String, String> {
    let mut known = HashMap::new();
    // A value may name a variable before it.
    for _ in 0..4 {
        let mut found: HashMap<String, Option<String>> = HashMap::new();
        for word in words(text, &known) {
            let Some((name, value)) = word.text.split_once('=') else { continue };
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if is_name {
                let value = (!word.open && !found.contains_key(name)).then(|| value.to_owned());
                found.insert(name.to_owned(), value);
            }
        }
        let next: HashMap<_, _> =
            found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if next == known {
            break;
        }
        known = next;
    }
    known
}

/// The words of a script: quotes off, comments out, `$NAME` and `${NAME}` replaced where they are known.
fn words(text: &str, variables: &HashMap<String, String>) -> Vec<ShellWord> {
    let (mut words, mut word) = (Vec::new(), ShellWord::default());
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None | Some('"'), '\\') => match letters.next() {
                Some('\n') | None => {}
                // In double quotes a backslash stays before other letters than these.
                Some(next) => {
                    if quote.is_some() && !"$`\"\\".contains(next) {
                        word.text.push('\\');
                    }
                    word.text.push(next);
                }
            },
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            (None, '#') if word.text.is_empty() => {
                while letters.next_if(|letter| *letter != '\n').is_some() {}
            }
            (None, letter) if letter.is_whitespace() || letter == ';' => {
                words.push(std::mem::take(&mut word));
            }
            (None | Some('"'), '`') => {
                word.text.push(letter);
                word.open = true;
            }
            (None | Some('"'), '$') => {
                let (shown, name) = reference(&mut letters);
                match name.and_then(|name| variables.get(&name)) {
                    Some(value) => word.text += value,
                    None => {
                        word.text += &shown;
                        word.open = true;
                    }
                }
            }
            (_, letter) => word.text.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.text.is_empty());
    words
}

/// What follows a `$`: as it is written, and the name if it is no more than that.
fn reference(letters: &mut std::iter::Peekable<std::str::Chars>) -> (String, Option<String>) {
    let is_of_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    let mut name = String::new();
    match letters.peek() {
        Some(open @ ('{' | '(')) => {
            let (open, close) = if *open == '{' { ('{', '}') } else { ('(', ')') };
            let (mut shown, mut depth) = ("$".to_owned(), 0);
            for letter in letters.by_ref() {
                shown.push(letter);
                depth += i32::from(letter == open) - i32::from(letter == close);
                if depth == 0 {
                    break;
                }
            }
            let inside = shown.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            let name = inside.filter(|inside| inside.chars().all(|letter| is_of_name(&letter)));
            let name = name.map(str::to_owned);
            (shown, name)
        }
        _ => {
            while let Some(letter) = letters.next_if(is_of_name) {
                name.push(letter);
            }
            (format!("${name}"), Some(name))
        }
    }
}

/// As Hydra reads a value.
fn scalar(text: &str) -> Value {
    match text {
        "True" | "true" => Value::Bool(true),
        "False" | "false" => Value::Bool(false),
        "null" | "None" => Value::Null,
        text if text.starts_with('[') => serde_saphyr::from_str(text)
            .ok()
            .filter(Value::is_array)
            .unwrap_or_else(|| Value::String(text.to_owned())),
        text => serde_json::from_str(text)
            .ok()
            .filter(Value::is_number)
            .or_else(|| {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(Value::from)
            })
            .unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, String)> {
        let shown = |value| match value {
            GivenValue::Known(value) => value.to_string(),
            GivenValue::Expression(text) => format!("? {text}"),
        };
        overrides(text).into_iter().map(|(path, value)| (path, shown(value))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_last_override_holds() {
        assert_eq!(of("a.b=1 \\\n c.d=2 +a.b=3 # a.b=4"), pairs(&[("c.d", "2"), ("a.b", "3")]));
    }

    #[test]
    fn a_variable_is_known_if_it_has_one_value() {
        let script = "LR=1e-5\nSAME=$LR\nBS=1; BS=2\nTOP=${2:-3}\n\
                      run a.lr=${LR} a.same=\"$SAME\" a.bs=$BS a.top=$TOP a.no='$LR' a.out=$(nproc)";
        let known = [
            ("a.lr", "0.00001"),
            ("a.same", "0.00001"),
            ("a.bs", "? $BS"),
            ("a.top", "? $TOP"),
            ("a.no", "\"$LR\""),
            ("a.out", "? $(nproc)"),
        ];
        assert_eq!(of(script), pairs(&known));
    }

    #[test]
    fn lists_are_lists() {
        let script = "x a.betas='[0.9,0.95]' a.files=\"['x.parquet','y.parquet']\"";
        let known = [("a.betas", "[0.9,0.95]"), ("a.files", "[\"x.parquet\",\"y.parquet\"]")];
        assert_eq!(of(script), pairs(&known));
    }
}
