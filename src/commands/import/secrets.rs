//! What must not come into an experiment from a configuration: passwords and keys, because it is shared, and
//! characters that a source file may not have.

use serde_json::Value;

use super::given::GivenValue;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// The last words of settings that hold a secret. `eos_token` and the like are none.
const NAMES: [&str; 12] = [
    "access_key",
    "access_token",
    "api_key",
    "api_token",
    "apikey",
    "auth_token",
    "hf_token",
    "hub_token",
    "passwd",
    "password",
    "private_key",
    "secret",
];

/// How published kinds of keys begin; at least [`KEY_LENGTH`] letters follow.
const KEYS: [&str; 5] = ["hf_", "sk-", "ghp_", "github_pat_", "AKIA"];
const KEY_LENGTH: usize = 16;

/// The value of a setting without its secrets.
pub fn without_secrets(path: &str, value: GivenValue) -> GivenValue {
    let name = path.rsplit('.').next().unwrap_or(path).to_lowercase();
    let is_secret = name == "token" || NAMES.iter().any(|secret| name.ends_with(secret));
    match value {
        GivenValue::Known(Value::String(text)) if is_secret && !text.is_empty() => {
            GivenValue::Known(Value::from(HIDDEN))
        }
        GivenValue::Expression(_) if is_secret => GivenValue::Expression(HIDDEN.to_owned()),
        GivenValue::Known(value) => GivenValue::Known(cleaned(value)),
        GivenValue::Expression(text) => {
            GivenValue::Expression(visible(&without_keys(&without_logins(&text))))
        }
    }
}

/// Spaces in place of control characters, but for those that a text may have as `\n` and `\t`.
fn visible(text: &str) -> String {
    let shown = |letter| if is_invisible(letter) && !"\n\t".contains(letter) { ' ' } else { letter };
    text.chars().map(shown).collect()
}

/// Control characters, and those that change the direction of a line.
pub fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || ('\u{200b}'..='\u{200f}').contains(&letter)
        || ('\u{2028}'..='\u{202e}').contains(&letter)
        || ('\u{2066}'..='\u{2069}').contains(&letter)
        || letter == '\u{feff}'
}

fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(visible(&without_keys(&without_logins(&text)))),
        Value::Array(values) => values.into_iter().map(cleaned).collect(),
        Value::Object(fields) => {
            let clean = |(name, value): (String, Value)| {
                let GivenValue::Known(value) = without_secrets(&name, GivenValue::Known(value)) else {
                    unreachable!("a known value stays one")
                };
                (name, value)
            };
            Value::Object(fields.into_iter().map(clean).collect())
        }
        other => other,
    }
}

/// Without the name and the password in `https://name:password@host`, and without the values of a query that
/// hold secrets: `?api_key=...`.
fn without_logins(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown += before;
        let is_end = |letter: char| letter.is_whitespace() || "\"'`<>,;)]}".contains(letter);
        let url = &after[..after.find(is_end).unwrap_or(after.len())];
        rest = &after[url.len()..];
        let host_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        match url[..host_end].rfind('@') {
            Some(login) => shown += &format!("{HIDDEN}@{}", without_query(&url[login + 1..])),
            None => shown += &without_query(url),
        }
    }
    shown + rest
}

fn without_query(url: &str) -> String {
    let Some((address, query)) = url.split_once('?') else { return url.to_owned() };
    let cleaned = query.split('&').map(|part| match part.split_once('=') {
        Some((name, _)) if is_key_of_query(&name.to_lowercase()) => format!("{name}={HIDDEN}"),
        _ => part.to_owned(),
    });
    format!("{address}?{}", cleaned.collect::<Vec<_>>().join("&"))
}

fn is_key_of_query(name: &str) -> bool {
    matches!(name, "token" | "key" | "sig" | "signature" | "x-amz-signature")
        || NAMES.iter().any(|secret| name.ends_with(secret))
}

/// Without what looks like a key of a published service.
fn without_keys(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((at, start)) = KEYS.iter().filter_map(|start| Some((rest.find(start)?, *start))).min() {
        let (before, key) = rest.split_at(at);
        shown += before;
        let inside = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        let length = key[start.len()..].find(|letter| !inside(letter)).unwrap_or(key.len() - start.len());
        let begins_a_word = !before.ends_with(|letter: char| letter.is_ascii_alphanumeric());
        if length >= KEY_LENGTH && begins_a_word {
            shown += HIDDEN;
        } else {
            shown += &key[..start.len() + length];
        }
        rest = &key[start.len() + length..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(path: &str, value: Value) -> Value {
        match without_secrets(path, GivenValue::Known(value)) {
            GivenValue::Known(value) => value,
            GivenValue::Expression(text) => Value::from(text),
        }
    }

    #[test]
    fn no_secret_comes_over() {
        for (path, value, wanted) in [
            ("teacher_url", json!("http://me:pa55@host:8000/v1"), json!("http://***@host:8000/v1")),
            ("a.url", json!("https://user@host"), json!("https://***@host")),
            (
                "a.url",
                json!("see http://a:b@c/d and ftp://e:f@g"),
                json!("see http://***@c/d and ftp://***@g"),
            ),
            ("a.url", json!("http://a:p@ss@host/x@y"), json!("http://***@host/x@y")),
            ("a.url", json!("http://host/?a=1&api_key=abc#x"), json!("http://host/?a=1&api_key=***")),
            ("a.url", json!("http://host/v1?a=1"), json!("http://host/v1?a=1")),
            ("urls", json!(["http://a:b@c", 1]), json!(["http://***@c", 1])),
            ("hub_token", json!("abc"), json!("***")),
            ("trainer.api_key", json!("abc"), json!("***")),
            ("trainer.token", json!("abc"), json!("***")),
            ("env", json!({"WANDB_API_KEY": "abc", "A": "b"}), json!({"WANDB_API_KEY": "***", "A": "b"})),
            ("a", json!("hf_abcdefghijklmnopqrstuvwx"), json!("***")),
            ("a", json!("key sk-abcdefghijklmnopqrstuvwx."), json!("key ***.")),
            ("model", json!("org/hf_small"), json!("org/hf_small")),
            ("eos_token", json!("</s>"), json!("</s>")),
            ("hub_token", json!(null), json!(null)),
            ("hub_token", json!(""), json!("")),
            ("max_tokens", json!(512), json!(512)),
            ("stop", json!(["\u{1}a\n", "\u{202e}"]), json!([" a\n", " "])),
        ] {
            assert_eq!(shown(path, value), wanted, "{path}");
        }
        let expression = GivenValue::Expression("get('http://a:b@c', \"x\")".to_owned());
        let wanted = GivenValue::Expression("get('http://***@c', \"x\")".to_owned());
        assert_eq!(without_secrets("x", expression), wanted);
    }
}
