//! What is kept from one keystroke to the next changes nothing: after any edit, the results are those of a fresh start.

use mopd_lang::source::FileId;
use mopd_lang::syntax::{KnownFile, parse};
use mopd_tests::{Dice, texts};

/// Everything in the repository that is written in the language, sound or not.
fn corpus() -> Vec<(String, String)> {
    let found = texts(&["examples", "stdlib", "src/starter"], &["README.md", "book/src", "tests/suite", "lang/codes"]);
    assert!(found.len() > 200, "only {} programs were found", found.len());
    found
}

/// Edits such as an author makes, and such as nobody does.
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
        match self.dice.roll(12) {
            0..5 => text.insert_str(start, self.typed()),
            5 | 6 => drop(text.replace_range(start..text.ceil_char_boundary((start + 1).min(text.len())), "")),
            7 => text.replace_range(start..near, self.typed()),
            8 => {
                self.clipboard = text[start..near].to_owned();
                text.replace_range(start..near, "");
            }
            9 => text.insert_str(start, &self.clipboard),
            10 => {
                // Lines move.
                let line = |at: usize| text[..at].rfind('\n').map_or(0, |at| at + 1);
                let (from, to) = (line(start), line(end));
                let moved = text[from..to].to_owned();
                text.insert_str(to, &moved);
                text.replace_range(from..to, "");
            }
            _ => text.clone_from(&self.before),
        }
        self.before = before;
    }

    fn place(&mut self, text: &str) -> usize {
        let at = self.dice.roll(text.len() + 1);
        // Often where a line begins or ends.
        match self.dice.roll(3) {
            0 => text[..text.floor_char_boundary(at)].rfind('\n').map_or(0, |at| at + 1),
            _ => text.floor_char_boundary(at),
        }
    }

    fn typed(&mut self) -> &'static str {
        const LETTERS: &[&str] = &["a", "e", "s", "1", "0", ".", "_", " ", "\n", "  ", "=", ",", ":", "-", "+", "/"];
        const MARKS: &[&str] = &[
            "(", ")", "[", "]", "{", "}", "\"", "\"\"\"", "'", "//", "///", "//!", "/*", "*/", "#", ";", "->", "@", "é", "“",
            "−", "\r\n", "\u{1}", "\u{feff}", "\t", "%",
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

#[test]
fn a_file_that_is_parsed_again_has_the_tree_and_the_findings_of_a_new_one() {
    for (number, (name, original)) in corpus().into_iter().enumerate() {
        let mut author = Author::new(number as u64 + 1);
        let mut known = KnownFile::default();
        let mut text = original.clone();
        let mut held = None;
        for round in 0..60 {
            let file = FileId(round / 20);
            let again = known.parse(file, &text);
            assert_eq!(format!("{again:?}"), format!("{:?}", parse(file, &text)), "{name}, round {round}:\n{text}");
            // Whether someone still holds the last tree makes no difference.
            held = (round % 3 == 0).then_some(again);
            author.edit(&mut text);
            if text.len() > 4 * original.len() + 4_000 {
                text.clone_from(&original);
            }
        }
        drop(held);
    }
}
