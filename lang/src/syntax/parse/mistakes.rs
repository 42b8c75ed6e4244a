//! Tests of mistakes in forms that are valid only in a whole program, as the parser alone reports them.
//! Mistakes in other forms are in `tests/suite/syntax/`.

use super::parse;
use crate::source::FileId;

/// Place and message of every diagnostic: `2:3 expected ...`, lines and columns from 1.
fn told(text: &str) -> Vec<String> {
    let (_, diagnostics) = parse(FileId(0), text);
    let shown = diagnostics.iter().map(|diagnostic| {
        let before = &text[..diagnostic.primary.span.start as usize];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
        format!("{line}:{column} {}", diagnostic.message)
    });
    shown.collect()
}

/// The text after the one fix that the diagnostics offer.
fn fixed(text: &str) -> String {
    let (_, diagnostics) = parse(FileId(0), text);
    let [diagnostic] = diagnostics.as_slice() else { panic!("{text}: {diagnostics:#?}") };
    let fix = diagnostic.fix.as_ref().unwrap_or_else(|| panic!("{text}: no fix in {diagnostic:#?}"));
    format!("{}{}{}", &text[..fix.span.start as usize], fix.replacement, &text[fix.span.end as usize..])
}

#[test]
fn a_broken_arm_is_one_finding_and_its_neighbours_are_read() {
    assert_eq!(
        told("let a = match {\n  true\n  b c -> 1\n  d -> 1 2\n  e ->,\n  else 0\n}"),
        [
            "2:3 an arm of a `match` needs `->` and a value: `->` is missing",
            "3:5 expected `->` or an operator, found `c`",
            "4:10 expected `,`, the end of the line or an operator, found `2`",
            "5:7 expected a value, found `,`",
            "6:3 an arm of a `match` needs `->` and a value: `->` is missing",
        ]
    );
    assert_eq!(told("let a = match\n{ else -> 1 }"), ["2:1 `{` belongs at the end of the line before"]);
    assert_eq!(told("let a = match { b -> 1, else -> 0\nlet c = 3"), ["1:15 this `{` is never closed"]);
    assert_eq!(
        told("let a = match { b -> match { c -> 1, d }, else -> f(match { e 2 }) }"),
        [
            "1:38 an arm of a `match` needs `->` and a value: `->` is missing",
            "1:61 an arm of a `match` needs `->` and a value: `->` is missing"
        ]
    );
}

#[test]
fn habits_of_other_languages_in_an_arm() {
    for (text, ours) in [
        ("let a = match { b => 1, else -> 0 }", "let a = match { b -> 1, else -> 0 }"),
        ("let a = match { b -> 1, else: 0 }", "let a = match { b -> 1, else -> 0 }"),
        ("let a = match { b -> 1, _ -> 0 }", "let a = match { b -> 1, else -> 0 }"),
        ("route { domain == d => t, else -> u }", "route { domain == d -> t, else -> u }"),
        ("let a = 0..10", "let a = 0..=9"),
        ("sweep { beta = [0, 1], k in [1] }", "sweep { beta in [0, 1], k in [1] }"),
        ("sweep { beta: [0, 1] }", "sweep { beta in [0, 1] }"),
    ] {
        assert_eq!(fixed(text), ours);
    }
    assert_eq!(
        told("let a = match {\n  if b -> 1\n  case c: 2\n  else -> 0\n}"),
        [
            "2:3 an arm begins with its condition, without `if`",
            "3:3 an arm begins with its condition, without `case`"
        ]
    );
    assert_eq!(
        told("let a = b if c else d"),
        ["1:11 there is no `if`: a choice between two values is written `where`"]
    );
}

#[test]
fn parse_reports_mistakes_in_sweep_axes() {
    assert_eq!(
        told("sweep {\n  beta [0.1]\n  k in\n  1 in [2]\n  good in [3]\n}"),
        [
            "2:8 expected `in`, found `[`",
            "3:7 expected a value, found the end of the line",
            "4:3 expected a name, found `1`",
        ]
    );
    assert_eq!(told("sweep beta in [1]"), ["1:7 expected `{`, found `beta`"]);
}

#[test]
fn items_tell_what_they_miss() {
    for (text, message) in [
        ("template hinted \"{prompt}\"", "1:17 expected `=`, found `\"{prompt}\"`"),
        ("template worked(a: fraction = 1) =", "1:35 expected a value, found the end of the line"),
        ("divergence squeezed = 1", "1:21 expected `(`, found `=`"),
        ("rollout = sample(n: 1)", "1:1 a `rollout` needs a name"),
        ("rollout good sample(n: 1)", "1:14 expected `=`, found `sample`"),
        ("panel duo { rounds = 2 }", "1:11 expected `=`, found `{`"),
        ("eval math500 = 3", "1:16 expected a name, found `3`"),
        ("eval \"math500\" { samples = 1 }", "1:6 the name after `eval` has no quotes"),
        ("teacher t(a: fraction) self", "1:24 expected `=`, found `self`"),
        ("teacher t[r of [1]] = self", "1:13 expected `in`, found `of`"),
    ] {
        assert_eq!(told(&format!("{text}\nlet sound = 1")), [message], "{text}");
    }
}

#[test]
fn statements_tell_what_they_miss() {
    let text = "model pair = train {\n  steps = 10\n  trains other\n  step refine = 3\n  step = 3\n  trains \
                guide = start {\n    sees hint\n  }\n  let x[t of duo] = t.logp\n  term y[t in duo] live \
                t.logp\n}";
    assert_eq!(
        told(text),
        [
            "3:15 expected `=`, found the end of the line",
            "4:15 expected `{`, found `=`",
            "7:10 `=` is missing",
            "9:11 expected `in`, found `of`",
            "10:20 expected `=`, found `live`",
        ]
    );
}
