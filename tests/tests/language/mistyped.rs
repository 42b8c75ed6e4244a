//! Programs of the corpora, each with one small slip in it: a token missing or doubled, a quote left open, a
//! word of another language. Every certain fix that is offered, applied alone and all together, leaves no
//! more errors than before, or than the program has without the slip, and a text that is parsed at least as
//! well. Of a hundred such fixes one may fail: a slip can make another mistake look certain.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;

use mopd_lang::Analysis;
use mopd_lang::diag::{Applicability, Code, Severity, apply_certain};
use mopd_lang::source::{FileId, SourceFile};
use mopd_ops::testing::Extent;
use mopd_tests::corpus::corpus;
use mopd_tests::fixes::{applied, edits};
use mopd_tests::{check_text, fences, files, root, standard};

use super::mutations::{Random, tokens};

/// So many slips of each program.
const SLIPS: u64 = 8;

/// Words and signs of Python, YAML, JSON, Rust and shell, and of those who write quickly.
const FOREIGN: &[&str] = &[
    "def ",
    "lambda x: ",
    "import ",
    "return ",
    "self.",
    "torch.",
    "class ",
    "if ",
    "elif ",
    "in ",
    "not ",
    "None",
    "True",
    "null",
    "**",
    "//",
    "#",
    ";",
    ":",
    "=",
    "==",
    "->",
    "=>",
    "&&",
    "||",
    "!",
    "'",
    "\"",
    "`",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "$",
    "@",
    "%",
    "...",
    "- ",
    "+",
    "&",
    "let ",
    "term ",
    "const ",
    "var ",
    "fn ",
    "::",
];

/// A program, and a module of its own that it may import.
struct Original {
    tokens: Vec<String>,
    module: Option<String>,
}

fn originals() -> Vec<Original> {
    let mut texts: Vec<(String, Option<String>)> =
        corpus().into_iter().map(|case| (case.text, case.module)).collect();
    for folder in ["examples", "stdlib", "tests/methods"] {
        let paths = files(&root().join(folder), ".mopd");
        texts.extend(paths.iter().map(|path| (fs::read_to_string(path).expect("a program"), None)));
    }
    for path in files(&root().join("tests/suite"), ".md") {
        let page = fs::read_to_string(path).expect("a page of the suite");
        texts.extend(fences(&page).into_iter().map(|fence| (fence.text, None)));
    }
    texts.retain(|(text, _)| text.len() < 4_000);
    let original = |(text, module): (String, _)| Original { tokens: tokens(&text), module };
    texts.into_iter().map(original).collect()
}

/// The program with one slip. Number `number` is the same in every run.
fn with_a_slip(original: &Original, number: u64) -> String {
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x0f0f_1234_9abc_def0);
    let mut tokens = original.tokens.clone();
    let is_blank = |token: &String| token.trim().is_empty() || token.starts_with("//");
    let written: Vec<usize> = (0..tokens.len()).filter(|index| !is_blank(&tokens[*index])).collect();
    if written.is_empty() {
        return tokens.concat();
    }
    let index = *random.pick(&written);
    match random.below(6) {
        0 => drop(tokens.remove(index)),
        1 => tokens.insert(index, tokens[index].clone()),
        2 => tokens.insert(index, "\"".to_owned()),
        3 => tokens[index] = (*random.pick(FOREIGN)).trim().to_owned(),
        4 => {
            // A letter is missing.
            let mut letters: Vec<char> = tokens[index].chars().collect();
            letters.remove(random.below(letters.len()));
            tokens[index] = letters.into_iter().collect();
        }
        _ => tokens.insert(index, (*random.pick(FOREIGN)).to_owned()),
    }
    tokens.concat()
}

fn check(original: &Original, text: &str) -> Analysis {
    let Some(module) = &original.module else { return check_text("a.mopd", text) };
    let load = |path: &str| match path {
        "mine.mopd" => Some(SourceFile { path: path.to_owned(), text: module.clone() }),
        _ => standard(path),
    };
    mopd_lang::analyse(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() }, &load)
}

/// The errors of the grammar, and all errors.
fn errors(analysis: &Analysis) -> (usize, usize) {
    let errors = || analysis.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    let of_grammar = errors().filter(|error| matches!(error.code, Code::Syntax | Code::ForeignSyntax));
    (of_grammar.count(), errors().count())
}

/// Why a text is worse after a fix, which may uncover the errors of the program without the slip. What errors
/// of the grammar in that hide is not known.
fn worse(before: &Analysis, after: &Analysis, original: &Original) -> Option<String> {
    let ((old_grammar, old), (new_grammar, new)) = (errors(before), errors(after));
    let list = || {
        let lines = after.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        let line = |span| after.sources.position(FileId(0), span).0 + 1;
        lines
            .map(|error| {
                format!(
                    "\n      {}: [{}] {}",
                    line(error.primary.span.start),
                    error.code.name(),
                    error.message
                )
            })
            .collect::<String>()
    };
    let (of_grammar, without_slip) = errors(&check(original, &original.tokens.concat()));
    if of_grammar > 0 {
        return None;
    }
    if new > old && new > without_slip + new_grammar {
        return Some(format!("{new} errors, before {old}:{}", list()));
    }
    (new_grammar > old_grammar)
        .then(|| format!("{new_grammar} errors of the grammar, before {old_grammar}:{}", list()))
}

/// The lines of `after` that `before` does not have.
fn changed(before: &str, after: &str) -> String {
    let old: HashSet<&str> = before.lines().collect();
    after.lines().filter(|line| !old.contains(line)).map(|line| format!("\n    + {line}")).collect()
}

/// What the certain fixes of a text make worse; adds to `offered` how many there are.
fn faults(original: &Original, text: &str, offered: &mut usize) -> String {
    let before = check(original, text);
    let mut story = String::new();
    let mut any = false;
    for diagnostic in &before.diagnostics {
        let certain = edits(diagnostic).filter(|fix| fix.applicability == Applicability::Certain);
        for fix in certain {
            any = true;
            *offered += 1;
            let line = before.sources.position(FileId(0), fix.span.start).0;
            let written = text.lines().nth(line).unwrap_or_default();
            let name = format!(
                "[{}] {} / {}\n    - {written}",
                diagnostic.code.name(),
                diagnostic.message,
                fix.title
            );
            let Some(fixed) = applied(text, diagnostic, fix) else {
                let _ = writeln!(story, "  {name}\n    changes nothing");
                continue;
            };
            if let Some(why) = worse(&before, &check(original, &fixed), original) {
                let _ = writeln!(story, "  {name}{}\n    {why}", changed(text, &fixed));
            }
        }
    }
    if any && story.is_empty() {
        let fixed = apply_certain(text, FileId(0), |text| check(original, text).diagnostics);
        match fixed {
            Some((fixed, _)) => {
                if let Some(why) = worse(&before, &check(original, &fixed), original) {
                    let _ = writeln!(story, "  `--fix`{}\n    {why}", changed(text, &fixed));
                }
            }
            None => {
                let _ = writeln!(story, "  `--fix` changes nothing");
            }
        }
    }
    story
}

#[test]
fn no_certain_fix_of_a_slip_makes_it_worse() {
    let originals = originals();
    let all = (0..SLIPS)
        .flat_map(|slip| originals.iter().enumerate().map(move |(nth, original)| (slip, nth, original)));
    let (mut story, mut wrong, mut offered, mut tried) = (String::new(), 0, 0, 0);
    let extent = Extent::from_environment();
    for (slip, nth, original) in extent.cases(all) {
        let text = with_a_slip(original, slip * 1_000_003 + nth as u64);
        tried += 1;
        let fault = faults(original, &text, &mut offered);
        if !fault.is_empty() {
            wrong += 1;
            let _ = writeln!(story, "slip {slip} of program {nth}\n{fault}\n{text}");
        }
    }
    println!("{offered} certain fixes of {tried} programs, {wrong} of them wrong");
    assert!(wrong == 0, "{wrong} programs with a wrong fix:\n{story}");
    assert!(offered >= extent.least(4_000), "only {offered} fixes were offered");
}
