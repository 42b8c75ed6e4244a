//! The language suite: literate cases in `tests/suite/**/*.md`, and the pages of the diagnostic codes in
//! `lang/codes/*.md`.
//!
//! A program is in a fence tagged `mopd`. Its expected diagnostics are comments, on their line or alone on
//! the line above: `// error: [code]`, or more exactly `// warning: 12 [code] "part of the message"` with the
//! column, from 1. A program must get exactly these diagnostics. More words in the tag:
//!
//! - `mopd fragment`: it need not have an `experiment`.
//! - `mopd setup`: not a case, but the beginning of every program tagged `mopd using setup` further down the
//!   page.
//! - `mopd file=mine.mopd`, `text file=shown.txt`: a file that the program that follows names.
//!
//! A fence tagged `snapshot` after a program has the text of its diagnostics, one tagged `audit` what the
//! gradients of its terms follow. `MOPD_UPDATE=1` rewrites both.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use mopd_compiler::audit::{self, Audit, ObjectiveUse};
use mopd_lang::Analysis;
use mopd_lang::diag::{Code, Diagnostic, Label};
use mopd_lang::source::{FileId, SourceFile, Span};
use mopd_ops::testing::Extent;
use mopd_tests::fixes::{self, Checks};
use mopd_tests::{Dice, standard};

const ENTRY: FileId = FileId(0);

/// One program of a page.
struct Case {
    /// Page, headings and line, for messages.
    name: String,
    headings: Vec<String>,
    tag: Vec<String>,
    text: String,
    /// The number of its lines that come from the page's setup.
    setup: usize,
    /// By their paths from its folder.
    files: HashMap<String, String>,
    /// The page's lines of the snapshot that follows: first one inside the fence, and the one that closes
    /// it.
    snapshot: Option<(usize, usize)>,
    /// The lines of the audit that follows.
    audit: Option<(usize, usize)>,
}

/// A diagnostic that a program expects.
#[derive(Debug, PartialEq)]
struct Expected {
    /// From 0, in the whole text.
    line: usize,
    severity: String,
    column: Option<usize>,
    code: String,
    message: Option<String>,
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the suite is a folder") {
        let path = entry.expect("an entry of the suite").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The programs of a page; `faults` receives mistakes of the page itself.
fn cases(page: &str, text: &str, faults: &mut String) -> Vec<Case> {
    let lines: Vec<&str> = text.lines().collect();
    let mut cases: Vec<Case> = Vec::new();
    let mut headings: Vec<String> = Vec::new();
    let mut setup = String::new();
    let mut files = HashMap::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if let Some(tag) = line.strip_prefix("```") {
            let start = at + 1;
            let end = (start..lines.len()).find(|end| lines[*end].starts_with("```"));
            let Some(end) = end else {
                let _ = writeln!(faults, "{page}:{start}: this fence is never closed");
                break;
            };
            let body: String = lines[start..end].iter().map(|line| format!("{line}\n")).collect();
            let tag: Vec<String> = tag.split_whitespace().map(str::to_owned).collect();
            let words: Vec<&str> = tag.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["mopd", "setup"] => setup = body,
                ["mopd" | "text", file] if let Some(path) = file.strip_prefix("file=") => {
                    files.insert(path.to_owned(), body);
                }
                ["mopd"] | ["mopd", "fragment" | "before" | "after"] | ["mopd", "using", "setup"] => {
                    let text = if words.last() == Some(&"setup") { format!("{setup}{body}") } else { body };
                    let setup = if words.last() == Some(&"setup") { setup.lines().count() } else { 0 };
                    let name = format!("{page}:{start} ({})", headings.join(" / "));
                    let files = std::mem::take(&mut files);
                    cases.push(Case {
                        name,
                        headings: headings.clone(),
                        tag,
                        text,
                        setup,
                        files,
                        snapshot: None,
                        audit: None,
                    });
                }
                ["snapshot"] => match cases.last_mut().filter(|case| case.snapshot.is_none()) {
                    Some(case) => case.snapshot = Some((start, end)),
                    None => {
                        let _ = writeln!(faults, "{page}:{start}: this snapshot follows no program");
                    }
                },
                ["audit"] => match cases.last_mut().filter(|case| case.audit.is_none()) {
                    Some(case) => case.audit = Some((start, end)),
                    None => {
                        let _ = writeln!(faults, "{page}:{start}: this audit follows no program");
                    }
                },
                ["mopd" | "snapshot" | "audit", ..] => {
                    let _ = writeln!(faults, "{page}:{start}: unknown tag `{}`", words.join(" "));
                }
                _ => {}
            }
            at = end;
        } else if line.starts_with('#') {
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            headings.truncate(level - 1);
            headings.push(line[level..].trim().to_owned());
        }
        at += 1;
    }
    if !files.is_empty() {
        let _ = writeln!(faults, "{page}: a file that no program follows");
    }
    cases
}

/// Parses the expected diagnostics in a program's comments.
fn expectations(case: &Case, faults: &mut String) -> Vec<Expected> {
    let mut found = Vec::new();
    let mut waiting = Vec::new();
    for (line, text) in case.text.lines().enumerate() {
        let mut here: Vec<Expected> = std::mem::take(&mut waiting);
        let marks = ["// error:", "// warning:"].into_iter().flat_map(|mark| text.match_indices(mark));
        let mut marks: Vec<usize> = marks.map(|(at, _)| at).collect();
        marks.sort();
        for (index, start) in marks.iter().enumerate() {
            let end = marks.get(index + 1).copied().unwrap_or(text.len());
            match expectation(line, &text[*start..end]) {
                Some(expected) => here.push(expected),
                None => {
                    let _ = writeln!(faults, "{}: not an expectation: `{}`", case.name, &text[*start..end]);
                }
            }
        }
        let alone = marks.first().is_some_and(|start| text[..*start].trim().is_empty());
        if alone {
            waiting = here;
        } else {
            found.extend(here.into_iter().map(|expected| Expected { line, ..expected }));
        }
    }
    if !waiting.is_empty() {
        let _ = writeln!(faults, "{}: an expectation with no line after it", case.name);
    }
    found
}

/// `// error: 12 [code] "part of the message"`
fn expectation(line: usize, comment: &str) -> Option<Expected> {
    let (severity, rest) = comment.trim_start_matches("// ").split_once(':')?;
    let (column, rest) = rest.split_once('[')?;
    let (code, rest) = rest.split_once(']')?;
    let column = match column.trim() {
        "" => None,
        number => Some(number.parse().ok()?),
    };
    let message = match rest.trim() {
        "" => None,
        quoted => Some(quoted.strip_prefix('"')?.strip_suffix('"')?.to_owned()),
    };
    Code::ALL.iter().any(|known| known.name() == code).then(|| Expected {
        line,
        severity: severity.to_owned(),
        column,
        code: code.to_owned(),
        message,
    })
}

fn analyse(case: &Case) -> Analysis {
    analyse_text(case, &case.text)
}

/// Another text in the place of a case's.
fn analyse_text(case: &Case, text: &str) -> Analysis {
    let load = |path: &str| load(case, path);
    mopd_lang::analyse_audited(entry(text), &load, &[], &mopd_compiler::audit::diagnostics)
}

fn entry(text: &str) -> SourceFile {
    SourceFile { path: "case.mopd".to_owned(), text: text.to_owned() }
}

/// A module that a case imports.
fn load(case: &Case, path: &str) -> Option<SourceFile> {
    let of_case =
        || case.files.get(path).map(|text| SourceFile { path: path.to_owned(), text: text.clone() });
    standard(path).or_else(of_case)
}

/// The diagnostics that are compared for a case.
fn diagnostics<'a>(case: &Case, analysis: &'a Analysis) -> Vec<&'a Diagnostic> {
    let fragment = case.tag.iter().any(|word| word == "fragment");
    // Not every program uses everything that its setup imports.
    let of_setup = |diagnostic: &Diagnostic| {
        let (line, _) =
            analysis.sources.position(diagnostic.primary.span.file, diagnostic.primary.span.start);
        diagnostic.code == Code::UnusedName && diagnostic.primary.span.file == ENTRY && line < case.setup
    };
    // A fragment need not have an experiment.
    let of_fragment = |diagnostic: &Diagnostic| fragment && diagnostic.code == Code::MissingExperiment;
    analysis
        .diagnostics
        .iter()
        .filter(|diagnostic| !of_setup(diagnostic) && !of_fragment(diagnostic))
        .collect()
}

fn place(analysis: &Analysis, span: Span) -> String {
    let (line, column) = analysis.sources.position(span.file, span.start);
    format!("{}:{}:{}", analysis.sources.file(span.file).path, line + 1, column + 1)
}

fn matches(analysis: &Analysis, expected: &Expected, diagnostic: &Diagnostic) -> bool {
    let (line, column) =
        analysis.sources.position(diagnostic.primary.span.file, diagnostic.primary.span.start);
    diagnostic.primary.span.file == ENTRY
        && line == expected.line
        && diagnostic.severity.name() == expected.severity
        && diagnostic.code.name() == expected.code
        && expected.column.is_none_or(|expected| expected == column + 1)
        && expected.message.as_ref().is_none_or(|part| diagnostic.message.contains(part))
}

/// Reports where the diagnostics of a program differ from the expected ones.
fn compare(case: &Case, expected: &[Expected], analysis: &Analysis, faults: &mut String) {
    let mut left: Vec<&Diagnostic> = diagnostics(case, analysis);
    for expected in expected {
        match left.iter().position(|diagnostic| matches(analysis, expected, diagnostic)) {
            Some(found) => drop(left.remove(found)),
            None => {
                let Expected { line, severity, column, code, message } = expected;
                let column = column.map_or(String::new(), |column| format!(":{column}"));
                let message = message.as_ref().map_or(String::new(), |message| format!(" \"{message}\""));
                let _ = writeln!(
                    faults,
                    "{}\n  missing: {severity} at {}{column} [{code}]{message}",
                    case.name,
                    line + 1
                );
            }
        }
    }
    for diagnostic in left {
        let _ = writeln!(
            faults,
            "{}\n  unexpected: {} at {} [{}] {}",
            case.name,
            diagnostic.severity.name(),
            place(analysis, diagnostic.primary.span),
            diagnostic.code.name(),
            diagnostic.message
        );
    }
}

/// Everything that the diagnostics say, in plain text.
fn render(case: &Case, analysis: &Analysis) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics(case, analysis) {
        let label = |mark: char, label: &Label| {
            let source = analysis.sources.text(label.span);
            let shown = if source.contains('\n') { "..." } else { source };
            format!("  {mark} {} `{shown}` {}", place(analysis, label.span), label.text).trim_end().to_owned()
                + "\n"
        };
        let _ = writeln!(
            text,
            "{}[{}]: {}",
            diagnostic.severity.name(),
            diagnostic.code.name(),
            diagnostic.message
        );
        text += &label('^', &diagnostic.primary);
        for related in &diagnostic.related {
            text += &label('|', related);
        }
        if let Some(help) = &diagnostic.help {
            let _ = writeln!(text, "  help: {help}");
        }
        if let Some(fix) = &diagnostic.fix {
            let _ = writeln!(
                text,
                "  fix: {} (`{}` becomes `{}`)",
                fix.title,
                analysis.sources.text(fix.span),
                fix.replacement.escape_debug()
            );
        }
        for choice in &diagnostic.choices {
            let _ = writeln!(text, "  or: {}", choice.title);
        }
    }
    text
}

/// The audit of a program's objectives, as text.
fn audits(analysis: &Analysis) -> String {
    let audits: Vec<Audit> = match &analysis.experiment {
        Some(experiment) => {
            audit::of_experiment(experiment).into_iter().map(|audited| audited.audit).collect()
        }
        None => analysis
            .objectives
            .iter()
            .map(|named| audit::audit(&named.objective, &ObjectiveUse::unknown()))
            .collect(),
    };
    let mut text = String::new();
    for (audit, term) in audits.iter().flat_map(|audit| audit.terms.iter().map(move |term| (audit, term))) {
        for (place, line) in term.lines().into_iter().enumerate() {
            let name =
                if place == 0 { format!("{}.{}: ", audit.objective, term.term) } else { "  ".to_owned() };
            let _ = writeln!(text, "{name}{line}");
        }
    }
    text
}

#[test]
fn programs_get_exactly_the_diagnostics_that_they_name() {
    let root = mopd_tests::root();
    let pages = pages(&root.join("tests/suite"));
    let checked = mopd_tests::in_parallel(&pages, |path| check_page(&root, path));
    let faults: String = checked.iter().map(|(faults, _)| faults.as_str()).collect();
    let count: usize = checked.iter().map(|(_, count)| count).sum();
    assert!(faults.is_empty(), "{faults}");
    assert!(count > 100, "only {count} programs were found");
}

/// The faults of a page and the number of its programs.
fn check_page(root: &Path, path: &Path) -> (String, usize) {
    let update = std::env::var_os("MOPD_UPDATE").is_some();
    let mut faults = String::new();
    let page = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let text = fs::read_to_string(path).expect("a page of the suite");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let cases = cases(&page, &text, &mut faults);
    // From the last to the first, so that a snapshot that grows moves no other.
    for case in cases.iter().rev() {
        let analysis = analyse(case);
        let expected = expectations(case, &mut faults);
        compare(case, &expected, &analysis, &mut faults);
        let snapshot = case.snapshot.map(|place| (place, render(case, &analysis)));
        let audit = case.audit.map(|place| (place, audits(&analysis)));
        let mut shown: Vec<((usize, usize), String)> = snapshot.into_iter().chain(audit).collect();
        shown.sort_by(|(a, _), (b, _)| b.cmp(a));
        for ((start, end), rendered) in shown {
            let written: String = lines[start..end].iter().map(|line| format!("{line}\n")).collect();
            if update {
                lines.splice(start..end, rendered.lines().map(str::to_owned));
            } else if written != rendered {
                let _ = writeln!(
                    faults,
                    "{}\n  the snapshot should be (MOPD_UPDATE=1 writes it):\n{rendered}",
                    case.name
                );
            }
        }
    }
    let updated = lines.join("\n") + "\n";
    if update && updated != text {
        fs::write(path, updated).expect("the page can be written");
    }
    (faults, cases.len())
}

#[test]
fn every_fix_that_a_program_offers_makes_it_better() {
    let root = mopd_tests::root();
    let (mut faults, mut offered) = (String::new(), 0);
    for path in ["tests/suite", "lang/codes"].iter().flat_map(|folder| pages(&root.join(folder))) {
        let page = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        let text = fs::read_to_string(&path).expect("a page of programs");
        for case in cases(&page, &text, &mut faults) {
            let checks = Checks {
                text: &|text| mopd_lang::analyse(entry(text), &|module| load(&case, module)),
                audited: &|text| analyse_text(&case, text),
            };
            let wrong = fixes::faults(&case.text, &checks);
            offered += wrong.offered;
            if !wrong.text.is_empty() {
                let _ = writeln!(faults, "{}\n{}", case.name, wrong.text);
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(offered > 200, "only {offered} fixes were offered");
}

#[test]
fn every_code_has_a_program_that_triggers_it_and_one_that_nearly_does() {
    let root = mopd_tests::root();
    let mut triggered = Vec::new();
    let mut missed = Vec::new();
    for path in pages(&root.join("tests/suite")) {
        let text = fs::read_to_string(&path).expect("a page of the suite");
        for case in cases("", &text, &mut String::new()) {
            let expected = expectations(&case, &mut String::new());
            for heading in &case.headings {
                triggered.extend(
                    expected.iter().filter(|expected| expected.code == *heading).map(|_| heading.clone()),
                );
                missed.extend(expected.is_empty().then(|| heading.clone()));
            }
        }
    }
    let mut faults = String::new();
    // What is only found where files are read has tests elsewhere.
    for code in Code::ALL.iter().filter(|code| !code.needs_files()) {
        let name = code.name();
        if !triggered.iter().any(|heading| heading == name) {
            let _ = writeln!(faults, "under a heading `{name}`, no program triggers it");
        }
        if !missed.iter().any(|heading| heading == name) {
            let _ = writeln!(faults, "under a heading `{name}`, no program passes");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_code_has_a_page_whose_examples_do_what_it_says() {
    let mut faults = String::new();
    for code in Code::ALL {
        let page = format!("lang/codes/{}.md", code.name());
        let programs = cases(&page, code.page(), &mut faults);
        if code.page().lines().count() < 10 || !code.page().starts_with("# ") {
            let _ = writeln!(faults, "{page}: too short to explain anything");
        }
        for tag in ["before", "after"] {
            if !programs.iter().any(|case| case.tag[1..] == [tag]) {
                let _ = writeln!(faults, "{page}: no program tagged `mopd {tag}`");
            }
        }
        for case in &programs {
            let analysis = analyse(case);
            let codes: Vec<Code> = analysis.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
            let good = match case.tag.get(1).map(String::as_str) {
                Some("before") if code.needs_files() => codes.is_empty(),
                Some("before") => !codes.is_empty() && codes.iter().all(|found| found == code),
                _ => codes.is_empty(),
            };
            if !good {
                let _ = writeln!(faults, "{}:\n{}", case.name, mopd_tests::listing(&analysis));
            }
        }
    }
    let files = pages(&mopd_tests::root().join("lang/codes"));
    let known = |path: &PathBuf| {
        Code::ALL.iter().any(|code| path.file_stem().is_some_and(|stem| stem == code.name()))
    };
    for path in files.iter().filter(|path| !known(path)) {
        let _ = writeln!(faults, "{} is the page of no code", path.display());
    }
    assert!(faults.is_empty(), "{faults}");
}

/// One row of a table in `book/src/language/traps.md`: what mopd says, and where the program stands.
struct Row<'a> {
    line: usize,
    says: &'a str,
    program: &'a str,
}

fn rows(page: &str) -> Vec<Row<'_>> {
    let mut found = Vec::new();
    for (line, text) in
        page.lines().enumerate().filter(|(_, text)| text.starts_with("| ") && !text.starts_with("| trap "))
    {
        let mut cells = text.trim_matches('|').split(" | ");
        if let (Some(_), Some(says), Some(program), None) =
            (cells.next(), cells.next(), cells.next(), cells.next())
        {
            found.push(Row { line: line + 1, says, program: program.trim() });
        }
    }
    found
}

/// The codes that a row links to: ``[`zero-gradient`](../reference/diagnostics.md#zero-gradient)``.
fn linked_codes(says: &str) -> Vec<&str> {
    says.split("[`").skip(1).filter_map(|rest| rest.split_once("`]")).map(|(code, _)| code).collect()
}

#[test]
fn every_trap_of_the_book_has_its_programs_and_every_program_its_row() {
    let root = mopd_tests::root();
    let text = fs::read_to_string(root.join("book/src/language/traps.md")).expect("the page of traps");
    let mut faults = String::new();
    let mut shown: Vec<(String, String)> = Vec::new();
    let rows = rows(&text);
    let tables = text.lines().filter(|line| line.starts_with('|')).count()
        - 2 * text.matches("| trap | mopd | program |").count();
    assert_eq!(rows.len(), tables, "a row without three cells");
    for Row { line, says, program } in &rows {
        let codes = linked_codes(says);
        for code in &codes {
            if !Code::ALL.iter().any(|known| known.name() == *code)
                || !says.contains(&format!("(../reference/diagnostics.md#{code})"))
            {
                let _ = writeln!(faults, "traps.md:{line}: `{code}` is no code, or its link leads elsewhere");
            }
        }
        // The form is: `estimators`, *the heading*
        let place = program.split_once(", ").and_then(|(page, heading)| {
            Some((page.strip_prefix('`')?.strip_suffix('`')?, heading.strip_prefix('*')?.strip_suffix('*')?))
        });
        let Some((page, heading)) = place else {
            if !program.is_empty() || !codes.is_empty() {
                let _ = writeln!(faults, "traps.md:{line}: a row with a code names its page and heading");
            }
            continue;
        };
        let path = root.join(format!("tests/suite/traps/{page}.md"));
        let programs =
            fs::read_to_string(path).map(|text| cases(page, &text, &mut faults)).unwrap_or_default();
        let under: Vec<&Case> =
            programs.iter().filter(|case| case.headings.last().is_some_and(|last| last == heading)).collect();
        let expected: Vec<Vec<Expected>> = under.iter().map(|case| expectations(case, &mut faults)).collect();
        for code in codes {
            if !expected.iter().flatten().any(|expected| expected.code == code) {
                let _ = writeln!(
                    faults,
                    "traps.md:{line}: no program under `{page}`, `{heading}`, triggers `{code}`"
                );
            }
        }
        if !expected.iter().any(Vec::is_empty) {
            let _ = writeln!(faults, "traps.md:{line}: no program under `{page}`, `{heading}`, passes");
        }
        shown.push((page.to_owned(), heading.to_owned()));
    }
    for path in pages(&root.join("tests/suite/traps")) {
        let page = path.file_stem().expect("a page has a name").to_string_lossy().into_owned();
        for case in cases(&page, &fs::read_to_string(&path).expect("a page of the suite"), &mut faults) {
            let heading = case.headings.last().cloned().unwrap_or_default();
            if !shown.contains(&(page.clone(), heading)) {
                let _ =
                    writeln!(faults, "{}: no row of the book's page of traps names this heading", case.name);
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(rows.len() > 80, "only {} rows were found", rows.len());
}

/// An editor sees half-written files most of the time.
#[test]
fn no_text_makes_the_checker_panic() {
    let quickstart =
        fs::read_to_string(mopd_tests::root().join("examples/quickstart.mopd")).expect("the quickstart");
    let opd = mopd_std::module("opd").expect("std.opd").1;
    let text = format!("{quickstart}\n{opd}");
    let extent = Extent::from_environment();
    for (at, _) in extent.cases(text.char_indices()) {
        diagnostics_have_places(&text[..at]);
    }
    // Leaves out each word in turn, and replaces each word by its neighbour.
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split_inclusive(|character: char| !character.is_alphanumeric() && character != '_') {
        words.push((at, word));
        at += word.len();
    }
    for pair in extent.cases(words.windows(2)) {
        let [(start, word), (next_start, next)] = pair else { continue };
        diagnostics_have_places(&format!("{}{}", &text[..*start], &text[start + word.len()..]));
        diagnostics_have_places(&format!("{}{next}{}", &text[..*start], &text[*next_start..]));
    }
}

/// Words and signs of the language, and of others, in any order.
#[test]
fn no_soup_of_words_makes_the_checker_panic() {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "model ", "domain ", "sort", " = ", "{", "}", "(", ")", "[", "]", ",", "\n", "\n\n", "use std.opd.mopd\n",
        "experiment \"x\" { seed = 1 }\n", "a", "b", "start", "student", ".logp", " live ", "kl", "||", " then ", "->", " for ",
        " in ", "domains", ":", "1", "3e-3", "35%", "\"t\"", "'", "\"", "#", "//", " @unpublished", "let ", "fn ", "term ", "reduce",
        "route ", "else", " and ", " not ", "objective ", "teacher ", "stage ", "compare ", "sft", "grpo", "distill", "merge", "llama",
        " + ", " - ", "*", "/", "^", "<", "==", "..", "|>", "match ", "\u{e9}", "\u{2212}", "\u{201c}", "\u{2192}", "\\", "/*", "*/", ";",
        "True", "lambda x", "def f(x):", "sweep ", "by domain ", "where w = ", "/// doc\n", "//! doc\n", "\u{1}", "\u{0}", "\u{a0}", "mopd",
        "rollout = ", "sample(n: 1, temperature: 1.0, max_tokens: 16)", "steps = 5", "prompts = \"x\"", "share = 1/2",
        "reward = exact_match",
    ];
    for soup in Extent::from_environment().cases(0..20_000) {
        let mut dice = Dice::of_case(soup);
        let length = dice.roll(40);
        let text: String = (0..length).map(|_| dice.pick(WORDS)).collect();
        diagnostics_have_places(&text);
    }
}

/// Checks a text; every span of a diagnostic must lie within its file.
fn diagnostics_have_places(text: &str) {
    let analysis = mopd_tests::check("case.mopd", text);
    for diagnostic in &analysis.diagnostics {
        let labels = std::iter::once(&diagnostic.primary).chain(&diagnostic.related).map(|label| label.span);
        for span in labels.chain(diagnostic.fix.iter().map(|fix| fix.span)) {
            let source = &analysis.sources.file(span.file).text;
            let place = source.get(span.start as usize..span.end as usize);
            assert!(place.is_some(), "{diagnostic:#?}\n{text}");
        }
    }
}
