//! The word lists of the editors' grammars hold every word that the compiler knows.
//!
//! The grammars are regular expressions and tree patterns; they can't ask the compiler, so they repeat its
//! words. A new word that is missing from a list would be highlighted as a user's name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mopd_lang::check::builtins::{self, BuiltinKind};
use mopd_lang::check::vocabulary::{self, ArgumentKind, SignalName, Word};
use mopd_lang::syntax::{ITEMS, RESERVED};
use serde_json::Value;

type Words = BTreeSet<String>;

/// The words of a grammar, by the scope or capture that it gives them.
struct Grammar {
    file: &'static str,
    words: BTreeMap<String, Words>,
}

impl Grammar {
    /// `tools/editors/vscode/syntaxes/mopd.tmLanguage.json`
    fn textmate() -> Self {
        let file = "tools/editors/vscode/syntaxes/mopd.tmLanguage.json";
        let mut words = BTreeMap::new();
        let grammar: Value = serde_json::from_str(&read(file)).expect("the grammar is JSON");
        collect_patterns(&grammar, &mut words);
        Grammar { file, words }
    }

    /// `tools/editors/tree-sitter-mopd/queries/highlights.scm`
    fn tree_sitter() -> Self {
        let file = "tools/editors/tree-sitter-mopd/queries/highlights.scm";
        let mut words: BTreeMap<String, Words> = BTreeMap::new();
        // A text belongs to the capture after it (`["let" "fn"] @keyword`); in an `#any-of?`, to the capture
        // before it.
        let (mut waiting, mut any_of): (Words, Option<String>) = (Words::new(), None);
        let mut starts_any_of = false;
        for token in tokens(&read(file)) {
            if let Some(text) = token.strip_prefix('"') {
                match &any_of {
                    Some(capture) => words.entry(capture.clone()).or_default().insert(text.to_owned()),
                    None => waiting.insert(text.to_owned()),
                };
            } else if let Some(capture) = token.strip_prefix('@') {
                if starts_any_of {
                    any_of = Some(capture.to_owned());
                } else {
                    words.entry(capture.to_owned()).or_default().extend(std::mem::take(&mut waiting));
                }
            } else if token == ")" {
                any_of = None;
            }
            starts_any_of = token == "#any-of?";
        }
        Grammar { file, words }
    }

    /// The words that are missing from all scopes that begin with one of `scopes`.
    fn lacking<'a>(&self, scopes: &[&str], words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let has = |word: &str| {
            let given = self.words.iter().filter(|(_, words)| words.contains(word));
            given.map(|(scope, _)| scope).any(|scope| scopes.iter().any(|wanted| scope.starts_with(wanted)))
        };
        let missing = words.into_iter().filter(|word| !has(word));
        missing.map(|word| format!("{}: `{word}` is not among {}\n", self.file, scopes.join(", "))).collect()
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(mopd_tests::root().join(file)).expect("a file of the repository")
}

/// The tokens of a query: texts (with the quote before them), captures, predicates, brackets.
fn tokens(query: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in query.lines().map(|line| line.trim_start()).filter(|line| !line.starts_with(';')) {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' => 1 + rest[1..].find('"').expect("a text ends on its line") + 1,
                _ if first.is_whitespace() || "()[]".contains(first) => 1,
                _ => rest
                    .find(|other: char| other.is_whitespace() || "()[]\"".contains(other))
                    .unwrap_or(rest.len()),
            };
            let token = rest[..length].trim_end_matches('"');
            if !token.trim().is_empty() || first == '"' {
                found.push(if first == '"' {
                    format!("\"{}", &rest[1..length - 1])
                } else {
                    token.to_owned()
                });
            }
            rest = &rest[length..];
        }
    }
    found
}

/// The words of every pattern, under each scope that the pattern gives.
fn collect_patterns(value: &Value, words: &mut BTreeMap<String, Words>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect_patterns(value, words)),
        Value::Object(fields) => {
            let pattern = fields.get("match").or(fields.get("begin")).and_then(Value::as_str);
            if let Some(pattern) = pattern {
                let captures =
                    ["captures", "beginCaptures"].into_iter().filter_map(|key| fields.get(key)?.as_object());
                let names =
                    captures.flat_map(|captures| captures.values().filter_map(|capture| capture.get("name")));
                for scope in names.chain(fields.get("name")).filter_map(Value::as_str) {
                    words.entry(scope.to_owned()).or_default().extend(words_of(pattern));
                }
            }
            fields.values().for_each(|value| collect_patterns(value, words));
        }
        _ => {}
    }
}

/// The plain words of a regular expression.
fn words_of(pattern: &str) -> Words {
    let mut plain = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            characters.next(); // `\b`, `\w`: no part of a word.
            plain.push(' ');
        } else {
            plain.push(character);
        }
    }
    let words = plain.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words in quotes of a rule of the compiler's grammar, found by how its line begins.
fn rule_words<'a>(grammar: &'a str, rule: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = grammar.lines().filter(move |line| line.starts_with(rule));
    let words = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()))
}

fn names(words: &[Word]) -> impl Iterator<Item = &'static str> {
    words.iter().map(|word| word.name)
}

/// Those of one word: `reward.turn` has the colours of `reward` and of a part.
fn signals(signals: &[SignalName]) -> impl Iterator<Item = &'static str> {
    signals.iter().map(|signal| signal.name).filter(|name| !name.contains('.'))
}

/// Functions of numbers, in two groups: elementwise ones, and those that go along an axis.
fn functions_of_numbers() -> [Vec<&'static str>; 2] {
    let of = |wanted: fn(BuiltinKind) -> bool| {
        builtins::all()
            .iter()
            .filter(|function| wanted(function.kind))
            .map(|function| function.name)
            .collect()
    };
    use BuiltinKind::*;
    [
        of(|kind| matches!(kind, Elementwise(_) | Bucket | Extreme(..) | Clip | Where)),
        of(|kind| matches!(kind, Reduce(_) | Median | Statistic(_) | Scan(_) | Memory(_))),
    ]
}

/// The page with the lines between those that pass the two tests replaced.
fn replaced(
    file: &str,
    begins: impl Fn(&str) -> bool,
    ends: impl Fn(&str) -> bool,
    lines: &str,
) -> (String, String) {
    let page = read(file);
    let (mut made, mut inside, mut found) = (String::new(), false, 0);
    for line in page.lines() {
        inside &= !ends(line);
        if !inside {
            made += &format!("{line}\n");
        }
        if begins(line) {
            (inside, found) = (true, found + 1);
            made += lines;
        }
    }
    assert_eq!(found, 1, "{file} has one list of these functions");
    (page, made)
}

/// The differences between a page and its generated version.
fn settled(file: &str, (page, made): (String, String)) -> Vec<String> {
    let made = mopd_tests::Generated { text: made, names: Vec::new(), faults: Vec::new() };
    mopd_tests::settle(&mopd_tests::root().join(file), &page, &made)
}

/// The lists of functions of numbers are the compiler's; `MOPD_UPDATE=1` writes them anew.
#[test]
fn functions_of_numbers_are_those_of_the_table() {
    let [elementwise, along_an_axis] = functions_of_numbers();
    let quoted = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let lines: Vec<String> = names.chunks(14).map(|names| format!("    {}\n", names.join(" "))).collect();
        lines.concat()
    };
    let heading = |title: &'static str| move |line: &str| line.trim() == title;
    let comment = |line: &str| line.trim_start().starts_with("; ");
    let pattern = format!(
        "          \"match\": \"\\\\b({})(?=\\\\s*\\\\()\"\n",
        [elementwise.clone(), along_an_axis.clone()].concat().join("|")
    );
    let (textmate, tree_sitter) = (Grammar::textmate().file, Grammar::tree_sitter().file);
    let mut faults = Vec::new();
    let mut settle = |file: &str, lists: (String, String)| faults.extend(settled(file, lists));
    let name = |line: &str| line.trim() == "\"name\": \"support.function.mopd\",";
    settle(textmate, replaced(textmate, name, |line| line.trim() == "},", &pattern));
    settle(tree_sitter, replaced(tree_sitter, heading("; elementwise"), comment, &quoted(&elementwise)));
    let title = "; statistics and scans";
    settle(tree_sitter, replaced(tree_sitter, heading(title), comment, &quoted(&along_an_axis)));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The words that the book highlights are the compiler's; `MOPD_UPDATE=1` writes them anew.
#[test]
fn the_words_that_the_book_highlights_are_those_of_the_compiler() {
    let file = "book/mopd-highlight.js";
    let pest = read("lang/grammar.pest");
    let literals = BTreeSet::from(["false", "true"]);
    let mut keywords: BTreeSet<&str> = ITEMS.iter().chain(RESERVED).copied().collect();
    keywords.extend(rule_words(&pest, "kw_"));
    keywords.retain(|word| !literals.contains(word));
    let mut known: BTreeSet<&str> = builtins::names().chain(losses()).chain(fixed_words()).collect();
    known.extend(names(vocabulary::AXES).chain(names(vocabulary::TYPES)));
    known.extend(signals(&vocabulary::SIGNALS).chain(signals(&vocabulary::PARTS)));
    known.retain(|word| !literals.contains(word) && !keywords.contains(word));
    // highlight.js splits at single spaces.
    let list = |class: &str, words: BTreeSet<&str>| {
        let words: Vec<&str> = words.into_iter().collect();
        let lines: Vec<String> =
            words.chunks(10).map(|words| format!("      \"{}\"", words.join(" "))).collect();
        format!("    {class}:\n{},\n", lines.join(" + \" \" +\n"))
    };
    let lists = [list("keyword", keywords), list("literal", literals), list("built_in", known)].concat();
    let begins = |line: &str| line.trim_start().starts_with("// The compiler's words");
    let faults = settled(file, replaced(file, begins, |line| line.trim() == "// end", &lists));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The losses, which `live` stands before.
fn losses() -> impl Iterator<Item = &'static str> {
    builtins::losses().iter().map(|loss| loss.name)
}

/// The words that settings and arguments know.
fn fixed_words() -> BTreeSet<&'static str> {
    let owners = ITEMS.iter().copied().chain(builtins::names());
    let settings = owners.filter_map(vocabulary::keys).flatten().map(|key| key.takes);
    let arguments = builtins::all()
        .iter()
        .flat_map(|function| function.parameters.iter().map(|parameter| parameter.takes));
    let lists = settings.chain(arguments).filter_map(|takes| match takes {
        ArgumentKind::Words(words) => Some(words),
        _ => None,
    });
    lists.flat_map(names).collect()
}

#[test]
fn the_colours_of_vs_code_know_every_word() {
    let grammar = Grammar::textmate();
    let pest = read("lang/grammar.pest");
    let keywords = ["keyword", "storage.modifier", "constant.language"];
    let known = ["support.constant", "variable.language", "support.function"];
    let lacking = [
        grammar.lacking(&keywords, ITEMS.iter().chain(RESERVED).copied()),
        grammar.lacking(&keywords, rule_words(&pest, "kw_").filter(|word| *word != "lambda")),
        grammar.lacking(&["keyword.other.unit"], rule_words(&pest, "suffix ")),
        grammar.lacking(&["support.constant.axis", "variable.language"], names(vocabulary::AXES)),
        grammar.lacking(&["support.type"], names(vocabulary::TYPES)),
        grammar.lacking(&known[..2], signals(&vocabulary::SIGNALS)),
        grammar.lacking(&["support.variable.part"], signals(&vocabulary::PARTS)),
        grammar.lacking(&["support.function"], builtins::names().chain(losses())),
        grammar.lacking(&known, fixed_words()),
    ]
    .concat();
    assert!(lacking.is_empty(), "{}", lacking.concat());
}

#[test]
fn the_colours_of_tree_sitter_know_every_word() {
    let grammar = Grammar::tree_sitter();
    let pest = read("lang/grammar.pest");
    // The grammar has nodes for these words, named as the words.
    let node = |word: &&str| matches!(*word, "true" | "false" | "else" | "lambda");
    let known = ["constant.builtin", "variable.builtin", "function.builtin"];
    let lacking = [
        grammar.lacking(&["keyword"], ITEMS.iter().chain(RESERVED).copied().filter(|word| !node(word))),
        grammar.lacking(&["keyword"], rule_words(&pest, "kw_").filter(|word| !node(word))),
        grammar.lacking(&known[..2], names(vocabulary::AXES)),
        grammar.lacking(&["type.builtin"], names(vocabulary::TYPES)),
        grammar.lacking(&known[..2], signals(&vocabulary::SIGNALS)),
        grammar.lacking(&["variable.builtin"], signals(&vocabulary::PARTS)),
        grammar.lacking(&["function.builtin"], builtins::names().chain(losses())),
        grammar.lacking(&known, fixed_words()),
    ]
    .concat();
    assert!(lacking.is_empty(), "{}", lacking.concat());
}

/// Tests the tests above: the lists that they read are not empty, and a missing word is reported.
#[test]
fn a_missing_word_is_missed() {
    for (grammar, types, axes) in [
        (Grammar::textmate(), "support.type", "support.constant.axis"),
        (Grammar::tree_sitter(), "type.builtin", "constant.builtin"),
    ] {
        assert_eq!(grammar.lacking(&[types], ["nats"]), Vec::<String>::new());
        assert_eq!(grammar.lacking(&[types], ["nat"]).len(), 1);
        assert_eq!(grammar.lacking(&[axes], ["nats"]).len(), 1, "of another list");
        assert!(grammar.words.values().map(Words::len).sum::<usize>() > 200);
    }
    assert_eq!(rule_words(&read("lang/grammar.pest"), "kw_model ").collect::<Vec<_>>(), ["model"]);
    assert!(fixed_words().contains("generalized") && fixed_words().contains("sequence"));
}
