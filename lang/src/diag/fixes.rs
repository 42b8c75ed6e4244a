//! Applying the fixes of diagnostics to a text.

use super::{Applicability, Diagnostic, Fix};
use crate::source::{FileId, Span};

/// The most rounds of applying fixes and checking. One fix may uncover the next; a few rounds are usual.
const MOST_ROUNDS: usize = 32;

/// The text of `file` with the fixes applied that `wanted` accepts, and their number. `None` where there is
/// nothing to apply. Of two fixes that overlap, the first in the text is applied; the other diagnostic is
/// reported again at the next check, if it still holds.
pub fn apply_once(
    text: &str,
    file: FileId,
    diagnostics: &[Diagnostic],
    wanted: impl Fn(&Fix) -> bool,
) -> Option<(String, usize)> {
    let fixes = compatible(file, diagnostics, wanted);
    let mut fixed = String::with_capacity(text.len());
    let mut done = 0;
    for fix in &fixes {
        fixed.push_str(&text[done..fix.span.start as usize]);
        // The line ends of the file are kept.
        match text.contains("\r\n") {
            true => fixed.push_str(&fix.replacement.replace('\n', "\r\n")),
            false => fixed.push_str(&fix.replacement),
        }
        done = fix.span.end as usize;
    }
    fixed.push_str(&text[done..]);
    (fixed != text).then_some((fixed, fixes.len()))
}

/// The fixes of a file that `wanted` accepts, in order and without overlaps: of two that overlap, the first.
pub fn compatible(file: FileId, diagnostics: &[Diagnostic], wanted: impl Fn(&Fix) -> bool) -> Vec<&Fix> {
    let fixes = diagnostics.iter().filter_map(|diagnostic| diagnostic.fix.as_ref());
    let mut fixes: Vec<&Fix> = fixes.filter(|fix| fix.span.file == file && wanted(fix)).collect();
    fixes.sort_by_key(|fix| (fix.span.start, fix.span.end));
    let (mut done, mut inserted) = (0, None);
    fixes.retain(|fix| {
        let Span { start, end, .. } = fix.span;
        // Two insertions at one place are one, because both diagnostics have the same fix.
        let chosen = start >= done && (start < end || inserted != Some(start));
        if chosen {
            (done, inserted) = (end, (start == end).then_some(start));
        }
        chosen
    });
    fixes
}

/// Applies the certain fixes of a text until none is left. `check` returns the diagnostics of a text.
/// Returns the last text and the number of fixes, or `None` where there was nothing to fix, or where fixes
/// undo each other.
pub fn apply_certain(
    text: &str,
    file: FileId,
    mut check: impl FnMut(&str) -> Vec<Diagnostic>,
) -> Option<(String, usize)> {
    let certain = |fix: &Fix| fix.applicability == Applicability::Certain;
    let (mut text, mut count) = (text.to_owned(), 0);
    for _ in 0..MOST_ROUNDS {
        let diagnostics = check(&text);
        let Some((fixed, applied)) = apply_once(&text, file, &diagnostics, certain) else { break };
        (text, count) = (fixed, count + applied);
    }
    (count > 0).then_some((text, count))
}

/// The edit that adds a last setting to a block of `text`: its place and its text. The setting gets a line of
/// its own if the closing brace has one.
pub fn setting_at_end(text: &str, block: Span, setting: &str) -> (Span, String) {
    let (start, close) = (block.start as usize, block.end.saturating_sub(1) as usize);
    let line = text[..close].rfind('\n').map_or(0, |end| end + 1);
    let at = |place: usize| Span { start: place as u32, end: place as u32, ..block };
    let indent = &text[line..close];
    if line > start && indent.trim().is_empty() {
        return (at(line), format!("{indent}  {setting}\n"));
    }
    let inside = text[start..close].trim_end();
    let comma = if inside.ends_with(['{', ',']) { "" } else { "," };
    let blank = if start + inside.len() == close { " " } else { "" };
    (at(start + inside.len()), format!("{comma} {setting}{blank}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceFile;

    const FILE: FileId = FileId(0);

    /// The text after its certain fixes, and how many there were.
    fn fixed(text: &str) -> Option<(String, usize)> {
        let library = |path: &str| match path {
            "std:" => Some(SourceFile { path: "std:".to_owned(), text: "opd mopd\n".to_owned() }),
            "std:opd.mopd" => {
                let text = "pub objective mopd {\n  term t = live kl(student || teacher)\n  reduce = \
                            mean(token, over: batch)\n}\n";
                Some(SourceFile { path: "std:opd.mopd".to_owned(), text: text.to_owned() })
            }
            _ => None,
        };
        let check = |text: &str| {
            crate::analyse(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() }, &library)
                .diagnostics
        };
        apply_certain(text, FILE, check)
    }

    #[test]
    fn fixes_are_applied_until_none_is_left() {
        // The quotes are found once the colon is an equals sign, the name once the block is parsed.
        let text = "experiment 'a' { seed: 1, dtype = bf16 }\nlet most = 2,000\n";
        assert_eq!(
            fixed(text),
            Some(("experiment \"a\" { seed = 1, dtype = bfloat16 }\nlet most = 2_000\n".to_owned(), 4))
        );
        assert_eq!(fixed("experiment \"a\" { seed = 1 }\n"), None);
    }

    #[test]
    fn the_line_ends_of_a_file_are_kept() {
        let text = "experiment \"a\" {\r\n  seed = 1\r\n";
        assert_eq!(fixed(text), Some((format!("{text}}}\r\n"), 1)));
    }

    #[test]
    fn uncertain_fixes_are_not_applied() {
        assert_eq!(fixed("experiment \"a\" { seed = 1, dtipe = float32 }\n"), None);
    }

    #[test]
    fn fixes_that_leave_a_new_error_are_not_offered() {
        let text =
            |bracket: &str| format!("experiment \"a\" {{ seed = 1 }}\nlet most = {bracket}clip(1, 0, 2\n");
        assert_eq!(fixed(&text("")).map(|(text, _)| text), Some(text("").replace("2\n", "2)\n")));
        assert_eq!(fixed(&text("").replace("clip(1", "clip((1")), None);
    }

    #[test]
    fn errors_of_other_files_do_not_decide_on_a_fix() {
        let library = |path: &str| {
            let text = format!("{}let bad = missing\n", "\n".repeat(200));
            (path == "other.mopd").then(|| SourceFile { path: path.to_owned(), text })
        };
        let text = "use other.bad\nexperiment \"a\" { seed = 1 }\nlet most = clip(1, 0, 2\n";
        let check = |text: &str| {
            crate::analyse(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() }, &library)
                .diagnostics
        };
        let fixed = apply_certain(text, FILE, check).expect("a bracket is added");
        assert_eq!(fixed, (text.replace("2\n", "2)\n"), 1));
    }

    #[test]
    fn a_setting_is_added_where_a_block_ends() {
        let added = |text: &str| {
            let (start, end) = (text.find('{').expect("a block") as u32, text.trim_end().len() as u32);
            let (place, setting) = setting_at_end(text, Span { file: FILE, start, end }, "c = 3");
            let mut text = text.to_owned();
            text.insert_str(place.start as usize, &setting);
            text
        };
        assert_eq!(added("x {\n  a = 1 // one\n}\n"), "x {\n  a = 1 // one\n  c = 3\n}\n");
        assert_eq!(added("  x {\n    a = 1\n  }"), "  x {\n    a = 1\n    c = 3\n  }");
        assert_eq!(added("x { a = 1, b = 2 }"), "x { a = 1, b = 2, c = 3 }");
        assert_eq!(added("x {a = 1}"), "x {a = 1, c = 3 }");
        assert_eq!(added("x {\n  a = 1,\n  b = 2, }"), "x {\n  a = 1,\n  b = 2, c = 3 }");
        assert_eq!(added("x {}"), "x { c = 3 }");
        assert_eq!(added("x { }"), "x { c = 3 }");
    }

    #[test]
    fn overlapping_fixes_are_applied_one_at_a_time() {
        let at = |start: u32, end: u32, replacement: &str| {
            let span = crate::source::Span { file: FILE, start, end };
            Diagnostic::error(crate::diag::Code::Syntax, span, "").replace_with("", replacement)
        };
        let apply = |diagnostics: &[Diagnostic]| apply_once("abcdef", FILE, diagnostics, |_| true);
        assert_eq!(apply(&[at(2, 4, "X"), at(0, 3, "Y")]), Some(("Ydef".to_owned(), 1)));
        assert_eq!(apply(&[at(3, 3, "X"), at(3, 3, "X"), at(5, 6, "Z")]), Some(("abcXdeZ".to_owned(), 2)));
        assert_eq!(apply(&[at(1, 1, "")]), None);
    }
}
