//! Formatting as small edits, which an editor can apply without moving the cursor, also for a part of a file.
//!
//! Formatting keeps every token and their order, so a text and its canonical layout differ only in the gaps
//! between tokens. Each gap that differs is one edit.

use std::ops::Range;

use super::{format, same_meaning, tokens_of, top_level_items};
use crate::syntax::tokens::TokenKind;

/// A byte range of a text and its replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEdit {
    pub range: Range<usize>,
    pub text: String,
}

/// The edits that bring a whole file into the canonical layout. Sorted; no two overlap.
pub fn edits(text: &str) -> Vec<TextEdit> {
    between(text, &format(text).text)
}

/// The edits of formatting that change only the lines that a range touches. If these lines can't be formatted
/// alone, their items are formatted as a whole.
pub fn edits_in(text: &str, range: Range<usize>) -> Vec<TextEdit> {
    let lines = lines_of(text, range);
    let section = section(text, &lines);
    let moved = |range: Range<usize>| range.start - section.start..range.end - section.start;
    let mut chosen = edits_of_lines(&text[section.clone()], moved(lines));
    for edit in &mut chosen {
        edit.range = edit.range.start + section.start..edit.range.end + section.start;
    }
    chosen
}

/// [`edits_in`] for a short text.
fn edits_of_lines(text: &str, lines: Range<usize>) -> Vec<TextEdit> {
    let all = edits(text);
    let touched = |item: &Range<usize>| item.start <= lines.end && lines.start <= item.end;
    let items = top_level_items(text).into_iter().filter(touched);
    let whole = items.fold(lines.clone(), |whole, item| whole.start.min(item.start)..whole.end.max(item.end));
    for part in [lines, lines_of(text, whole)] {
        let chosen: Vec<TextEdit> = all
            .iter()
            .filter(|edit| part.start <= edit.range.start && edit.range.end <= part.end)
            .cloned()
            .collect();
        if same_meaning(text, &applied(text, &chosen)) {
            return chosen;
        }
    }
    Vec::new()
}

/// The part of a file around a range whose layout does not depend on the rest: between blank lines outside of
/// all brackets. This avoids parsing a long file again for every typed line.
fn section(text: &str, range: &Range<usize>) -> Range<usize> {
    let mut section = 0..text.len();
    let mut depth = 0usize;
    // The end of the line of the last token, and the number of line ends since.
    let (mut end, mut newlines) = (0, 0);
    for token in tokens_of(text) {
        if token.kind == TokenKind::Newline {
            newlines += 1;
            if newlines == 1 {
                end = token.end;
            }
            continue;
        }
        if newlines > 1 && depth == 0 {
            if token.start <= range.start {
                section.start = token.start;
            } else if end >= range.end {
                section.end = end;
                break;
            }
        }
        newlines = 0;
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    section.start = text[..section.start].rfind('\n').map_or(0, |at| at + 1);
    section
}

/// The edits after the bracket before an offset has been typed: on the lines of the block that it
/// closes.
pub fn edits_on_close(text: &str, offset: usize) -> Vec<TextEdit> {
    let mut open = Vec::new();
    for token in tokens_of(text) {
        match token.kind {
            TokenKind::Open => open.push(token.start),
            TokenKind::Close => {
                let partner = open.pop();
                if token.end == offset {
                    let mut edits = partner.map_or_else(Vec::new, |start| edits_in(text, start..offset));
                    // The author may continue to type after the bracket.
                    edits.retain(|edit| edit.range.end <= offset && edit.range.start < offset);
                    return edits;
                }
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The edits after a line has been ended: on the line before that of the offset.
pub fn edits_on_newline(text: &str, offset: usize) -> Vec<TextEdit> {
    match text[..offset].rfind('\n') {
        Some(end) => edits_in(text, end..end),
        None => Vec::new(),
    }
}

/// The text with edits applied; they must be sorted and must not overlap.
pub fn applied(text: &str, edits: &[TextEdit]) -> String {
    let mut new = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        new += &text[at..edit.range.start];
        new += &edit.text;
        at = edit.range.end;
    }
    new + &text[at..]
}

/// The range from the start of a range's first line to the end of its last, without the line end.
fn lines_of(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[range.end..].find('\n').map_or(text.len(), |at| range.end + at);
    start..end
}

/// The differing gaps as edits. If the texts differ in more than gaps, one edit replaces everything.
fn between(old: &str, new: &str) -> Vec<TextEdit> {
    let mut found = Vec::new();
    let (mut before, mut after) = (old, new);
    loop {
        let (gap, wanted) = (gap(before), gap(after));
        let at = old.len() - before.len();
        if gap != wanted {
            found.push(trimmed(at, gap, wanted));
        }
        (before, after) = (&before[gap.len()..], &after[wanted.len()..]);
        match (before.chars().next(), after.chars().next()) {
            (None, None) => return found,
            (Some(a), Some(b)) if a == b => {
                (before, after) = (&before[a.len_utf8()..], &after[a.len_utf8()..])
            }
            _ => return vec![TextEdit { range: 0..old.len(), text: new.to_owned() }],
        }
    }
}

/// The gap at the start of a text: blanks, line breaks and commas; also a byte order mark, which outside of
/// quotes occurs only at the start.
fn gap(text: &str) -> &str {
    let end = text.trim_start_matches([' ', '\t', '\r', '\n', '\x0c', ',', '\u{feff}']);
    &text[..text.len() - end.len()]
}

/// An edit from one gap to another, without their common prefix and suffix. No edit separates `\r` from its
/// `\n`: editors treat both as one.
fn trimmed(at: usize, old: &str, new: &str) -> TextEdit {
    if old.contains('\r') {
        return TextEdit { range: at..at + old.len(), text: new.to_owned() };
    }
    let same = |(a, b): &(char, char)| a == b;
    let size = |pairs: &mut dyn Iterator<Item = (char, char)>| {
        pairs.take_while(same).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let head = size(&mut old.chars().zip(new.chars()));
    let (old, new) = (&old[head..], &new[head..]);
    let tail = size(&mut old.chars().rev().zip(new.chars().rev()));
    let start = at + head;
    TextEdit { range: start..start + old.len() - tail, text: new[..new.len() - tail].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARELESS: &str = "\u{feff}use std.opd.{ b,a , }\r\nlet  é=\"a  , b\"   //one  \nmodel m = f( x \
                            ){\n a=1 ,\n\n\n    b = [ 1,2 ]\n}\n\n\nlet   z=(1\n+2)";

    #[test]
    fn all_edits_together_are_the_canonical_layout() {
        let edits = edits(CARELESS);
        assert_eq!(applied(CARELESS, &edits), format(CARELESS).text);
        assert!(edits.len() > 8, "small edits, not one: {edits:?}");
        let apart = edits.windows(2).all(|pair| pair[0].range.end < pair[1].range.start);
        assert!(apart, "{edits:?}");
        assert_eq!(super::edits(&format(CARELESS).text), []);
    }

    #[track_caller]
    fn becomes(text: &str, marked: &str, expected: &str) {
        let start = text.find(marked).expect("it is there");
        let edits = edits_in(text, start..start + marked.len());
        assert_eq!(applied(text, &edits), expected);
    }

    #[test]
    fn a_part_is_laid_out_and_the_rest_left_alone() {
        let text = "let  a=1\nmodel m = f {\n   b=1\n     c=2\n}\nlet  d=3\n";
        becomes(text, "b=1", "let  a=1\nmodel m = f {\n  b = 1\n     c=2\n}\nlet  d=3\n");
        becomes(
            text,
            "m = f {\n   b=1\n     c=2\n}",
            "let  a=1\nmodel m = f {\n  b = 1\n  c = 2\n}\nlet  d=3\n",
        );
        becomes(text, "a=1", "let a = 1\nmodel m = f {\n   b=1\n     c=2\n}\nlet  d=3\n");
    }

    #[test]
    fn format_range_extends_to_the_item_if_a_line_is_not_enough() {
        // The comma moves to the line above.
        becomes(
            "let  a=1\nlet b = f(c // one\n, d)\nlet  e=2",
            "c // one",
            "let  a=1\nlet b = f(\n  c, // one\n  d,\n)\nlet  e=2",
        );
    }

    #[test]
    fn a_line_is_laid_out_alike_in_its_section_and_in_its_file() {
        let item = "\n\n\n   let  a=1\nlet bcd =f( x,\n\n y )\n\n// é\nmodel m = f {\n b=1\n\n   c=2}\n \n";
        let text = CARELESS.to_owned() + &item.repeat(3);
        let all = edits(&text);
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let line = lines_of(&text, at..at);
            let section = section(&text, &line);
            assert!(
                section.start <= line.start && line.end <= section.end && section.len() < text.len(),
                "{section:?}"
            );
            let part = edits_in(&text, at..at);
            assert!(part.iter().all(|edit| all.contains(edit)), "{part:?}");
        }
    }

    #[test]
    fn edits_leave_unparsable_items_unchanged() {
        let text = "let  a=1\nmodel m = f( {\n   b=1\n}\n";
        becomes(text, "b=1", text);
    }

    #[test]
    fn typing_a_closing_bracket_lays_out_its_block() {
        let text = "let  a=1\nmodel m = f {\n b=1\n   t = g {\nc=2\n}\n}\n";
        let inner = text.find("}\n}").expect("it is there") + 1;
        assert_eq!(
            applied(text, &edits_on_close(text, inner)),
            "let  a=1\nmodel m = f {\n b=1\n  t = g {\n    c = 2\n  }\n}\n"
        );
        assert_eq!(
            applied(text, &edits_on_close(text, inner + 2)),
            "let  a=1\nmodel m = f {\n  b = 1\n  t = g {\n    c = 2\n  }\n}\n"
        );
        // A bracket that closes nothing, one in a text, and half a file.
        for text in ["let a=1\n}", "let a = \"}\"", "model a={\n b = 1"] {
            let at = text.find('}').map_or(text.len(), |at| at + 1);
            assert_eq!(edits_on_close(text, at), [], "{text}");
        }
    }

    #[test]
    fn ending_a_line_lays_out_that_line_and_no_other() {
        let text = "let  z=0\nmodel m = f {\n   b=\"é\"\n   \n   c=3\n}\n";
        let at = text.find("   \n").expect("it is there") + 3;
        assert_eq!(
            applied(text, &edits_on_newline(text, at)),
            "let  z=0\nmodel m = f {\n  b = \"é\"\n   \n   c=3\n}\n"
        );
        assert_eq!(edits_on_newline(text, 3), []);
    }
}
