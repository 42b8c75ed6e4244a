//! The quotes around a text: `"..."` on one line, or `"""` around several.
//!
//! ```text
//! template shown = """
//!   Question: {prompt}
//!   Answer:
//!   """
//! ```
//!
//! The closing `"""` is the first on its line. Its indentation is no part of the text, nor are the line
//! breaks beside the quotes: this text is `Question: {prompt}\nAnswer:`.

use super::words::is_word;

/// The quotes around a text of several lines.
pub const TRIPLE: &str = "\"\"\"";

/// Offset of the last quote of the text that is opened at `start`, if it is closed.
pub fn text_end(source: &str, start: usize) -> Option<usize> {
    match source[start..].starts_with(TRIPLE) {
        true => lines_end(source, start + TRIPLE.len()),
        false => line_end(source.as_bytes(), start),
    }
}

fn lines_end(source: &str, mut at: usize) -> Option<usize> {
    loop {
        at += source[at..].find('\n')? + 1;
        let rest = &source[at..];
        let indentation = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        if rest[indentation..].starts_with(TRIPLE) {
            return Some(at + indentation + TRIPLE.len() - 1);
        }
    }
}

fn line_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Some(at),
            b'\n' => return None,
            b'\\' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// The characters between the quotes of a text, with their offsets in `source`: escapes and slots as they are
/// written, lines without their indentation.
pub fn inside(source: &str) -> Vec<(usize, char)> {
    let Some(inner) = source.strip_prefix(TRIPLE).and_then(|rest| rest.strip_suffix(TRIPLE)) else {
        let inner = source.strip_prefix('"').unwrap_or(source);
        let start = source.len() - inner.len();
        let inner = inner.strip_suffix('"').unwrap_or(inner);
        return inner.char_indices().map(|(at, character)| (start + at, character)).collect();
    };
    let mut characters = Vec::with_capacity(inner.len());
    let (_, indentation) = inner.rsplit_once('\n').unwrap_or_default();
    for (number, (at, line)) in lines(source).enumerate() {
        if number > 0 {
            characters.push((at - 1, '\n'));
        }
        let content = line.strip_prefix(indentation).unwrap_or_else(|| line.trim_start());
        let blank = content.trim().is_empty();
        let start = at + line.len() - content.len();
        characters.extend(content.char_indices().filter(|_| !blank).map(|(at, c)| (start + at, c)));
    }
    characters
}

/// `{name}` in a text.
pub struct NameInBraces {
    pub name: String,
    /// The offsets of both braces.
    pub braces: (usize, usize),
}

/// The names in braces among characters and their offsets.
pub fn names_in(characters: &[(usize, char)]) -> Vec<NameInBraces> {
    let mut names = Vec::new();
    for (index, (open, character)) in characters.iter().enumerate() {
        if *character != '{' {
            continue;
        }
        let inside = &characters[index + 1..];
        let name: String = inside.iter().map(|(_, c)| *c).take_while(|c| is_word(*c)).collect();
        if let Some((close, '}')) = inside.get(name.chars().count())
            && !name.is_empty()
        {
            names.push(NameInBraces { name, braces: (*open, *close) });
        }
    }
    names
}

/// Offset of the first line of a text of several lines that has less indentation than its closing quotes, and
/// the length of its own.
pub fn outdented(source: &str) -> Option<(usize, usize)> {
    let inner = source.strip_prefix(TRIPLE)?.strip_suffix(TRIPLE)?;
    let (_, indentation) = inner.rsplit_once('\n')?;
    lines(source)
        .find(|(_, line)| !line.trim().is_empty() && !line.starts_with(indentation))
        .map(|(at, line)| (at, line.len() - line.trim_start().len()))
}

/// The lines between those of the quotes, with their offsets in `source`.
fn lines(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let start = source.find('\n').map_or(source.len(), |newline| newline + 1);
    let end = source.rfind('\n').unwrap_or(start).max(start);
    let within = &source[start..end];
    within.split('\n').map(move |line| {
        let at = line.as_ptr() as usize - source.as_ptr() as usize;
        (at, line.strip_suffix('\r').unwrap_or(line))
    })
}
