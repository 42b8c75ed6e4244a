//! An addition touches few files: those that have to say something of their own about it.

use crate::names::sources;

/// What is added, words of the code that stand for one that exists, and how many files may have them.
const WITNESSES: &[(&str, &[&str], usize)] = &[
    // Its row of the table, its values in runs and its values in the audit's toy models.
    ("a signal without arguments", &["Offset", "\"offset\""], 4),
    // Besides its row: its value, its value in the toy models, its name where it is not finite.
    ("a number of a role", &["ModelSignal::Rank"], 3),
    // Its row of the table, and where it is set.
    ("a number of a step", &["sampler_ratio"], 2),
    // Its file, and its line in the list of hooks.
    ("what a stage does besides updates", &["WeightAverage", "average::new"], 2),
    // Declaration and reading of a call, the type with its facts, its constructor, and the file that judges.
    ("a reward", &["JsonSchema"], 5),
    // Its declaration, its field, and where it is read. Its use is the fourth.
    ("a setting of a stage", &["ema:"], 3),
];

/// Whether the code has the word, and not only as a part of a longer one.
fn has_word(code: &str, word: &str) -> bool {
    let joins = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(joins) && !code[at + word.len()..].starts_with(joins))
}

#[test]
fn an_addition_touches_few_files() {
    let sources = sources();
    for (kind, words, most) in WITNESSES {
        let says = |text: &str| {
            let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.any(|line| words.iter().any(|word| has_word(line, word)))
        };
        let found = sources.iter().filter(|(name, text)| !name.starts_with("tools/") && says(text));
        let found: Vec<&str> = found.map(|(name, _)| name.as_str()).collect();
        assert!(!found.is_empty(), "{kind}: nothing says {words:?}");
        assert!(found.len() <= *most, "{kind}: {words:?} is in {found:#?}");
    }
}
