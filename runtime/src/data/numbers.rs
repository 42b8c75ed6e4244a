//! Values of data fields as text and as numbers.

use std::borrow::Cow;

use crate::tokenizer::json::Json;

/// A string as it is, a number as it is written in JSON; none for anything else.
pub fn text(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// Reads a number as people write it: white space around it and commas between groups of three digits do not
/// count. None for anything else, `inf` and `nan` included.
pub fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.contains(',') {
        // Rust's parser also knows the words "inf" and "nan".
        return text.parse().ok().filter(|number: &f64| number.is_finite());
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) =
        unsigned.split_once('.').map_or((unsigned, None), |(whole, rest)| (whole, Some(rest)));
    let mut groups = whole.split(',');
    let first = groups.next().is_some_and(|group| digits(group) && group.len() <= 3);
    let rest = groups.all(|group| digits(group) && group.len() == 3);
    (first && rest && fraction.is_none_or(digits)).then(|| text.replace(',', "").parse().ok()).flatten()
}
