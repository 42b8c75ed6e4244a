//! Keeping trees between keystrokes changes no result: after any edit, the results are those of an analysis
//! from scratch.

use std::collections::BTreeMap;

use mopd_lang::check::index::NameIndex;
use mopd_lang::source::{FileId, SourceFile};
use mopd_lang::syntax::{KnownFile, parse};
use mopd_lang::{Analysis, ParseCache, analyse, analyse_edited};
use mopd_ops::testing::Extent;
use mopd_tests::{Dice, texts};

const ENTRY: &str = "entry";

/// All programs of the repository, valid or not.
fn corpus() -> Vec<(String, String)> {
    let found = texts(
        &["examples", "stdlib", "src/starter"],
        &["README.md", "book/src", "tests/suite", "lang/codes"],
    );
    assert!(found.len() > 200, "only {} programs were found", found.len());
    found
}

/// Makes random edits: some like a user's, some arbitrary.
struct Author {
    dice: Dice,
    clipboard: String,
    before: String,
}

impl Author {
    fn new(seed: u64) -> Author {
        Author { dice: Dice(seed), clipboard: "let pasted = 1\n".to_owned(), before: String::new() }
    }

    fn edit(&mut self, text: &mut String) {
        let before = text.clone();
        let (start, end) = (self.place(text), self.place(text));
        let (start, end) = (start.min(end), start.max(end));
        let near = text.floor_char_boundary(end.min(start + 40));
        match self.dice.roll(16) {
            0..5 => text.insert_str(start, self.typed()),
            5 | 6 => text.replace_range(start..text.ceil_char_boundary((start + 1).min(text.len())), ""),
            7 => text.replace_range(start..near, self.typed()),
            8 => {
                self.clipboard = text[start..near].to_owned();
                text.replace_range(start..near, "");
            }
            9 => text.insert_str(start, &self.clipboard),
            10 => {
                // Moves lines.
                let line = |at: usize| text[..at].rfind('\n').map_or(0, |at| at + 1);
                let (from, to) = (line(start), line(end));
                let moved = text[from..to].to_owned();
                text.insert_str(to, &moved);
                text.replace_range(from..to, "");
            }
            11..15 => {
                // Replaces a name by another name, or a number by another number.
                let words: Vec<(usize, &str)> = words(text).collect();
                if !words.is_empty() {
                    let (from, to) = (words[self.dice.roll(words.len())], words[self.dice.roll(words.len())]);
                    let to = to.1.to_owned();
                    text.replace_range(from.0..from.0 + from.1.len(), &to);
                }
            }
            _ => text.clone_from(&self.before),
        }
        self.before = before;
    }

    fn place(&mut self, text: &str) -> usize {
        let at = self.dice.roll(text.len() + 1);
        // Often the beginning of a line.
        match self.dice.roll(3) {
            0 => text[..text.floor_char_boundary(at)].rfind('\n').map_or(0, |at| at + 1),
            _ => text.floor_char_boundary(at),
        }
    }

    fn typed(&mut self) -> &'static str {
        const LETTERS: &[&str] =
            &["a", "e", "s", "1", "0", ".", "_", " ", "\n", "  ", "=", ",", ":", "-", "+", "/"];
        const MARKS: &[&str] = &[
            "(", ")", "[", "]", "{", "}", "\"", "\"\"\"", "'", "//", "///", "//!", "/*", "*/", "#", ";",
            "->", "@", "é", "“", "−", "\r\n", "\u{1}", "\u{feff}", "\t", "%",
        ];
        const PARTS: &[&str] = &[
            "let a = 1\n",
            "model m",
            "\ndomain d { ",
            "term t = live ratio\n",
            "  key = value\n",
            "\nroute {\n",
            "pub ",
            "fn f(x) = x\n",
            "/// said\n",
            "\n  model indented = \n",
            "else",
            "import x",
            "use std.opd.mopd\n",
        ];
        let from = match self.dice.roll(3) {
            0 => LETTERS,
            1 => MARKS,
            _ => PARTS,
        };
        self.dice.pick(from)
    }
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

#[test]
fn a_file_that_is_parsed_again_has_the_tree_and_the_diagnostics_of_a_new_one() {
    for (number, (name, original)) in Extent::from_environment().cases(corpus().into_iter().enumerate()) {
        let mut author = Author::new(number as u64 + 1);
        let mut known = KnownFile::default();
        let mut text = original.clone();
        let mut held = None;
        for round in 0..60 {
            let file = FileId(round / 20);
            let again = known.parse(file, &text);
            assert_eq!(
                format!("{again:?}"),
                format!("{:?}", parse(file, &text)),
                "{name}, round {round}:\n{text}"
            );
            // Some rounds keep a reference to the last tree, which must make no difference.
            held = (round % 3 == 0).then_some(again);
            author.edit(&mut text);
            if text.len() > 4 * original.len() + 4_000 {
                text.clone_from(&original);
            }
        }
        drop(held);
    }
}

/// Everything that an editor gets from an analysis, as text.
fn told(analysis: &Analysis) -> String {
    let index: &NameIndex = &analysis.index;
    let names: Vec<_> = analysis.sources.files().map(|(file, _)| index.uses_in(file)).collect();
    format!("{:?}{:?}{names:?}", analysis.diagnostics, index.symbols)
}

/// Where the two begin to differ, for failure messages.
fn difference(again: &str, fresh: &str) -> String {
    let at = again.bytes().zip(fresh.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(300)).take(600).collect::<String>();
    format!("again:\n{}\n\nfresh:\n{}", around(again), around(fresh))
}

/// Repeatedly edits one of the files and compares. The first file is the entry.
fn write_on(name: &str, files: &BTreeMap<String, String>, seed: u64, rounds: usize) {
    let mut author = Author::new(seed);
    let mut trees = ParseCache::default();
    let mut now = files.clone();
    let keys: Vec<&String> = files.keys().collect();
    for round in 0..rounds {
        // Now and then, one of the files is missing.
        let missing = (author.dice.roll(6) == 0).then(|| keys[author.dice.roll(keys.len())].clone());
        let load = |path: &str| {
            let text = now.get(path).filter(|_| missing.as_deref() != Some(path))?;
            Some(SourceFile { path: path.to_owned(), text: text.clone() })
        };
        let entry = || SourceFile { path: ENTRY.to_owned(), text: now[ENTRY].clone() };
        let (again, fresh) =
            (told(&analyse_edited(entry(), &load, &mut trees, None)), told(&analyse(entry(), &load)));
        assert!(again == fresh, "{name}, round {round}: {}\nin:\n{}", difference(&again, &fresh), now[ENTRY]);
        if author.dice.roll(12) == 0 {
            now.clone_from(files);
            continue;
        }
        // Edits the entry most of the time.
        let key = if author.dice.roll(3) > 0 { ENTRY } else { keys[author.dice.roll(keys.len())] };
        author.edit(now.get_mut(key).expect("one of the files"));
    }
}

fn with_library(entry: &str) -> BTreeMap<String, String> {
    let library =
        mopd_std::MODULES.iter().map(|(name, text)| (format!("std:{name}.mopd"), (*text).to_owned()));
    library.chain([(ENTRY.to_owned(), entry.to_owned())]).collect()
}

#[test]
fn a_file_that_is_checked_again_has_the_diagnostics_and_the_names_of_a_new_one() {
    // Each program is analysed with the whole library, twice a round.
    for (number, (name, text)) in Extent::from_environment().cases(corpus().into_iter().enumerate()) {
        write_on(&name, &with_library(&text), 0x5eed + number as u64, 6);
    }
}
