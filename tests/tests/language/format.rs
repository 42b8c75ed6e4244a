//! Runs the formatter over all programs of the repository: those shown to users are formatted already, and
//! formatting changes only the layout.

use std::fmt::Write as _;

use mopd_lang::fmt;
use mopd_lang::source::FileId;
use mopd_lang::syntax::parse;
use mopd_ops::testing::Extent;
use mopd_tests::{Dice, texts};

/// Everything that the project shows as good style.
fn shown() -> Vec<(String, String)> {
    texts(&["examples", "stdlib", "src/starter"], &["README.md", "book/src"])
}

/// The syntax tree without its spans, and the parser's diagnostics.
fn tree(text: &str) -> String {
    let (module, diagnostics) = parse(FileId(0), text);
    let printed = format!("{module:?}");
    let mut tree = String::new();
    for part in printed.split("Span { ") {
        let rest = if tree.is_empty() { part } else { part.split_once('}').map_or(part, |(_, rest)| rest) };
        tree += rest;
    }
    let mut said: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| format!("\n{} {}", diagnostic.code.name(), diagnostic.message))
        .collect();
    said.sort();
    tree + &said.concat()
}

/// Where the tree has changed, for failure messages.
fn difference(before: &str, after: &str) -> String {
    let at = before.bytes().zip(after.bytes()).take_while(|(before, after)| before == after).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(60)).take(160).collect::<String>();
    format!("  before: {}\n  after:  {}", around(before), around(after))
}

/// Checks what must hold for every text, valid or not, and returns what does not hold.
fn faults_of(name: &str, text: &str) -> String {
    let mut faults = String::new();
    let once = fmt::format(text).text;
    if fmt::format(&once).text != once {
        let _ = writeln!(
            faults,
            "{name}: not settled after one pass:\n{once}\n--- becomes ---\n{}",
            fmt::format(&once).text
        );
    }
    if tree(&once) != tree(text) {
        let _ = writeln!(faults, "{name}: the tree has changed:\n{}", difference(&tree(text), &tree(&once)));
    }
    faults
}

#[test]
fn programs_in_book_and_examples_are_formatted() {
    let texts = shown();
    assert!(texts.len() > 15, "the fences were not found");
    let mut faults = String::new();
    for (name, text) in texts {
        let formatted = fmt::format(&text);
        if formatted.text != text {
            let _ = writeln!(faults, "{name} should be:\n{}", formatted.text);
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn layout_alone_changes() {
    let mut texts = texts(&[], &["tests/suite", "lang/codes"]);
    texts.extend(shown());
    assert!(texts.len() > 200, "only {} programs were found", texts.len());
    let faults: String = texts.iter().map(|(name, text)| faults_of(name, text)).collect();
    assert!(faults.is_empty(), "{faults}");
}

/// A line in parts that no space may be put into: words and numbers, texts, comments, runs of signs, spaces.
fn parts(line: &str) -> Vec<&str> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut parts = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.len()
        } else if first == '"' {
            2 + rest[1..].find('"').expect("a text is closed on its line")
        } else if rest.starts_with("..=") {
            3
        } else if first.is_ascii_digit() {
            let ranges = |at: usize| rest[at..].starts_with("..");
            let end = |(at, c): &(usize, char)| {
                ranges(*at) || !(word(*c) || *c == '-' && rest[..*at].ends_with('e'))
            };
            let digits = rest.char_indices().find(end).map_or(rest.len(), |(at, _)| at);
            digits + usize::from(rest[digits..].starts_with('%'))
        } else if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if first == ' ' {
            rest.find(|c| c != ' ').unwrap_or(rest.len())
        } else if "(){}[],".contains(first) {
            1
        } else {
            rest.find(|c: char| word(c) || c == ' ' || c == '"' || "(){}[],".contains(c))
                .unwrap_or(rest.len())
        };
        let (part, after) = rest.split_at(length);
        parts.push(part);
        rest = after;
    }
    parts
}

/// Whether every line is one of the program, and none is in a text of several lines.
fn has_lines_of_its_own(text: &str) -> bool {
    !text.contains("\"\"\"")
}

/// The same text in another layout, as a careless author would have it: blanks, tabs, blank lines, line
/// endings, commas.
fn shuffled(text: &str, dice: &mut Dice) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut blocks: Vec<char> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        out += dice.pick(&["", " ", "\t", "     "]);
        let parts = parts(line.trim_start());
        for (at, part) in parts.iter().enumerate() {
            let bracket = |part: &str| part.len() == 1 && "(){}[],".contains(part);
            let between = at > 0 && at + 1 < parts.len();
            if part.starts_with(' ') {
                let may_close =
                    between && (bracket(parts[at - 1]) || bracket(parts[at + 1])) && parts[at - 1] != ".";
                out += dice.pick(if may_close { &["", " ", "\t", "   "] } else { &[" ", "\t", "   "] });
                continue;
            }
            if between && !parts[at - 1].starts_with(' ') && dice.roll(4) == 0 {
                out += dice.pick(&[" ", "\t"]);
            }
            let next = lines.get(number + 1).map_or("", |line| line.trim());
            let last_comma = *part == "," && at + 1 == parts.len() && next.starts_with([')', ']']);
            if !(last_comma && dice.roll(2) == 0) {
                out += part;
            }
            match *part {
                "(" | "[" | "{" => blocks.extend(part.chars()),
                ")" | "]" | "}" => drop(blocks.pop()),
                _ => {}
            }
        }
        let next = lines.get(number + 1).map_or("", |line| line.trim());
        let goes_on = line.ends_with(['{', ',', '(', '[', '=', ':']) || next.starts_with("|>");
        let entry = !line.trim().is_empty() && !line.contains("//") && !goes_on;
        if entry && blocks.last() == Some(&'{') && dice.roll(4) == 0 {
            out += ",";
        }
        out += dice.pick(&["", "", " ", "\t  "]);
        out += dice.pick(&["\n", "\n", "\r\n"]);
        if line.is_empty() {
            out += dice.pick(&["", "\n", "\r\n  \n"]);
        }
    }
    out
}

#[test]
fn one_layout_whatever_the_author_left() {
    let shown: Vec<_> = shown().into_iter().filter(|(_, text)| has_lines_of_its_own(text)).collect();
    let rounds = shown.iter().flat_map(|shown| (0..40).map(move |round| (shown, round)));
    for ((name, text), round) in Extent::from_environment().cases(rounds) {
        let shuffled = shuffled(text, &mut Dice::of_case(round));
        let formatted = fmt::format(&shuffled).text;
        assert_eq!(formatted, *text, "{name}, round {round}, from:\n{shuffled}");
        assert_eq!(tree(&shuffled), tree(text), "{name}, round {round}, from:\n{shuffled}");
    }
}

#[test]
fn a_damaged_text_keeps_what_it_says() {
    let mut faults = String::new();
    let careless = shown().into_iter().filter(|(_, text)| has_lines_of_its_own(text));
    let careless = careless.map(|(name, text)| (name, shuffled(&text, &mut Dice(7)), true));
    let suite = texts(&[], &["tests/suite"]).into_iter().map(|(name, text)| (name, text, false));
    let (mut count, mut formatted) = (0, 0);
    let texts: Vec<_> = careless.chain(suite).collect();
    let rounds = (0..12).flat_map(|_| &texts).enumerate();
    for (round, (name, text, careless)) in Extent::from_environment().cases(rounds) {
        let mut dice = Dice::of_case(round);
        let mut damaged: Vec<char> = text.chars().collect();
        for _ in 0..=dice.roll(3) {
            let at = dice.roll(damaged.len());
            let marks =
                ['(', ')', '{', '}', '[', ']', '"', ',', '=', '\n', '/', '#', 'é', ';', '-', ' ', '\'', ':'];
            match dice.roll(3) {
                0 => drop(damaged.remove(at)),
                1 => damaged.insert(at, dice.pick(&marks)),
                _ => damaged[at] = dice.pick(&marks),
            }
        }
        let damaged: String = damaged.into_iter().collect();
        if *careless {
            count += 1;
            formatted += usize::from(fmt::format(&damaged).text != damaged);
        }
        let more = faults_of(&format!("{name}, round {round}"), &damaged);
        if !more.is_empty() {
            faults += &format!("{more}from:\n{damaged}\n");
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(
        formatted * 10 > count * 9,
        "only {formatted} of {count} damaged texts were formatted around the damage"
    );
}
