//! Foreign text within our messages: a data field, a key of a configuration, a hub's answer, a file's name.
//! It is shortened and put on one line, so that a message is never as long as the text it is about.

/// Text in quotes, control characters escaped, the middle left out if it is longer than 80 characters.
pub fn quote(text: &str) -> String {
    format!("{:?}", shortened(text, 80))
}

/// [`quote`] for messages of other programs: the limit is 300 characters.
pub fn quote_sentence(text: &str) -> String {
    format!("{:?}", shortened(text, 300))
}

/// A message or help text, cut to a length that only inserted foreign text can exceed.
pub fn bounded(message: String) -> String {
    const SHOWN: usize = 4000;
    // Bytes first: nearly all messages are short.
    if message.len() <= SHOWN { message } else { shortened(&message, SHOWN) }
}

fn shortened(text: &str, shown: usize) -> String {
    let end_of = |count: usize| text.char_indices().nth(count).map(|(at, _)| at);
    if end_of(shown).is_none() {
        return text.to_owned();
    }
    let start = &text[..end_of(shown * 3 / 4).unwrap_or(text.len())];
    let end = text.char_indices().rev().nth((shown / 4).saturating_sub(1)).map_or("", |(at, _)| &text[at..]);
    format!("{start} ... {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_long_text_is_left_out() {
        assert_eq!(quote("short"), "\"short\"");
        assert_eq!(quote(&"é".repeat(80)), format!("\"{}\"", "é".repeat(80)));
        let long = format!("{}{}", "a".repeat(1_000_000), "z".repeat(1_000_000));
        assert_eq!(quote(&long), format!("\"{} ... {}\"", "a".repeat(60), "z".repeat(20)));
        let message = bounded(format!("what: {}", "é".repeat(10_000_000)));
        assert!(message.starts_with("what: é") && message.chars().count() < 4100, "{}", message.len());
        assert_eq!(bounded("short".to_owned()), "short");
    }

    #[test]
    fn quote_escapes_terminal_control_characters() {
        assert_eq!(quote("a\u{1b}[2J\u{9b}\n\u{202e}\u{2066}b"), r#""a\u{1b}[2J\u{9b}\n\u{202e}\u{2066}b""#);
    }
}
