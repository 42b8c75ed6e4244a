//! The overrides of a launch script: `a.b=c` and `+a.b=c` among its words.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::given::{GivenPairs, GivenValue, MOST_SETTINGS, flatten};
use crate::problem::Problem;

/// A word of a script, quotes taken off.
#[derive(Default)]
struct ShellWord {
    text: String,
    /// Something in it is only known to the shell.
    open: bool,
}

/// Most bytes that stand in place of variables: a variable may hold another one many times.
const MOST_REPLACED: usize = 4 << 20;

/// What a script gives each of its variables: a value, or several or one that only the shell knows.
type ShellVariables = HashMap<String, Option<String>>;

/// Of several overrides of one setting Hydra takes the last.
pub fn overrides(path: &Path, text: &str) -> Result<GivenPairs, Problem> {
    let text = &without_documents(text);
    let words = variables(text).and_then(|variables| words(text, &variables)).map_err(|line| {
        let message =
            format!("cannot parse {} as a script: line {line}: a quote is not closed", path.display());
        Problem::usage("wrong-configuration", message).help("`bash -n FILE` says more")
    })?;
    let mut settings = GivenPairs::new();
    for word in words {
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
        // One more than is allowed: the caller refuses them.
        if settings.len() > MOST_SETTINGS {
            break;
        }
        for (path, value) in found {
            settings.retain(|(known, _)| *known != path);
            settings.push((path, value));
        }
    }
    Ok(settings)
}

/// Without the text of here-documents, which are no words; their lines stay, empty.
fn without_documents(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last: HashMap<&str, usize> =
        lines.iter().enumerate().map(|(number, line)| (line.trim_start(), number)).collect();
    let (mut at, mut kept) = (0, String::new());
    while let Some(line) = lines.get(at) {
        kept.extend([line, "\n"]);
        at += 1;
        let after =
            line.rsplit_once("<<").filter(|(before, _)| !before.ends_with('<')).map(|(_, after)| after);
        let end = after.and_then(|after| after.trim_start_matches('-').split_whitespace().next());
        let end = end.map(|end| end.trim_matches(['\'', '"', '\\']));
        // Without its end it is none, but a shift in an expression or part of a text.
        let is_closed = |end: &&str| last.get(end).is_some_and(|number| *number >= at);
        if let Some(end) = end.filter(is_closed) {
            let length = lines[at..].iter().take_while(|line| line.trim_start() != end).count();
            at += length + 1;
            kept += &"\n".repeat(length + 1);
        }
    }
    kept
}

/// `NAME=value` of a script. Which of several values holds depends on the path through the script.
fn variables(text: &str) -> Result<ShellVariables, usize> {
    let mut known = ShellVariables::new();
    // A value may name a variable before it.
    for _ in 0..4 {
        let mut found = ShellVariables::new();
        let mut before = String::new();
        for word in words(text, &known)? {
            let (name, value) = match word.text.split_once('=') {
                // A loop gives its variable several values; `NAME+=value` is another one.
                None if before == "for" => (word.text.as_str(), None),
                None => ("", None),
                Some((name, value)) => match name.strip_suffix('+') {
                    Some(name) => (name, None),
                    None => (name, (!word.open).then(|| value.to_owned())),
                },
            };
            if is_name(name) {
                let value = value.filter(|_| !found.contains_key(name));
                found.insert(name.to_owned(), value);
            }
            before = word.text;
        }
        if found == known {
            break;
        }
        known = found;
    }
    Ok(known)
}

/// The words of a script: quotes off, comments out, `$NAME`, `${NAME}` and `${NAME:-value}` replaced where
/// they are known. The line of a quote that is not closed is an error.
fn words(text: &str, variables: &ShellVariables) -> Result<Vec<ShellWord>, usize> {
    let (mut words, mut word) = (Vec::new(), ShellWord::default());
    let mut quote = None;
    let mut quoted = text.chars().peekable();
    let mut letters = text.chars().peekable();
    let mut room = MOST_REPLACED;
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
            (None, '\'' | '"') => {
                quote = Some(letter);
                quoted = letters.clone();
            }
            (Some(open), letter) if open == letter => quote = None,
            (None, '#') if word.text.is_empty() => {
                while letters.next_if(|letter| *letter != '\n').is_some() {}
            }
            // Brackets hold the values of an array.
            (None, letter) if letter.is_whitespace() || ";()".contains(letter) => {
                words.push(std::mem::take(&mut word));
            }
            (None | Some('"'), '`') => {
                word.text.push(letter);
                word.open = true;
            }
            (None | Some('"'), '$') => {
                let shown = reference(&mut letters);
                let known = value(&shown, variables).filter(|known| known.len() <= room);
                room -= known.map_or(0, str::len);
                word.open |= known.is_none();
                word.text += known.unwrap_or(&shown);
            }
            (_, letter) => word.text.push(letter),
        }
    }
    if quote.is_some() {
        return Err(text.lines().count() + 1 - quoted.filter(|letter| *letter == '\n').count());
    }
    words.push(word);
    words.retain(|word| !word.text.is_empty());
    Ok(words)
}

/// A `$` and what belongs to it, as it is written.
fn reference(letters: &mut std::iter::Peekable<std::str::Chars>) -> String {
    let mut shown = "$".to_owned();
    match letters.peek() {
        Some(open @ ('{' | '(')) => {
            let (open, close) = if *open == '{' { ('{', '}') } else { ('(', ')') };
            let mut depth = 0;
            for letter in letters.by_ref() {
                shown.push(letter);
                depth += i32::from(letter == open) - i32::from(letter == close);
                if depth == 0 {
                    break;
                }
            }
        }
        _ => {
            while let Some(letter) =
                letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            {
                shown.push(letter);
            }
        }
    }
    shown
}

/// What `$NAME`, `${NAME}` or `${NAME:-value}` stands for.
fn value<'t>(shown: &'t str, variables: &'t ShellVariables) -> Option<&'t str> {
    let inside = shown.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or(&shown[1..]);
    let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, value)| (name, Some(value)));
    match variables.get(name) {
        Some(Some(value)) if default.is_none() || !value.is_empty() => Some(value),
        Some(None) => None,
        // Where the script leaves a variable to the environment, its default is what the file says.
        _ => default.filter(|default| is_name(name) && !default.contains(['$', '`', '"', '\'', '\\'])),
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
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
        overrides(Path::new("a.sh"), text)
            .expect("a script")
            .into_iter()
            .map(|(path, value)| (path, shown(value)))
            .collect()
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

    #[test]
    fn a_default_holds_where_the_script_sets_nothing() {
        let script = "LR=${LR:-1e-5}\nTOP=4\nTOP=5\nNONE=\nfor SEED in 1 2; do\n\
                      run a.lr=$LR a.p=\"${P:-0.9}\" a.top=${TOP:-3} a.none=${NONE:-7} a.seed=${SEED:-1} \\\n\
                      a.arg=${1:-2} a.home=${DIR:-$HOME} a.list=${LIST[@]:-1}\ndone";
        let known = [
            ("a.lr", "0.00001"),
            ("a.p", "0.9"),
            ("a.top", "? ${TOP:-3}"),
            ("a.none", "7"),
            ("a.seed", "? ${SEED:-1}"),
            ("a.arg", "? ${1:-2}"),
            ("a.home", "? ${DIR:-$HOME}"),
            ("a.list", "? ${LIST[@]:-1}"),
        ];
        assert_eq!(of(script), pairs(&known));
    }

    #[test]
    fn the_values_of_an_array_are_words_and_a_here_document_has_none() {
        let script = "cat <<'EOF' > note\nIt's a.b=9\nEOF\nARGS=(a.b=1\n  a.c=x) # a.c=y\n\
                      ARGS+=(a.d=2)\nrun \"${ARGS[@]}\" a.e=$((1 << 2)) a.f=3\n";
        let known = [("a.b", "1"), ("a.c", "\"x\""), ("a.d", "2"), ("a.e", "? $((1 << 2))"), ("a.f", "3")];
        assert_eq!(of(script), pairs(&known));
    }
}
