//! Where the compiler finds a syntax error this grammar must find one, and nowhere else.
//!
//! Asked of every `.mopd` file of the repository, which the compiler accepts, and of every program of the book and
//! of the language suite, piece by piece: a piece runs from one item at the left margin to the next. What the
//! compiler says of a piece stands in its comments (`// error: [syntax] ...`), and the suite proves that the
//! compiler says so.

use std::path::Path;

use super::{files, here, parse, read};

/// Pieces on which the two disagree, by one line of them, and why.
const EXCEPTIONS: [(&str, &str); 9] = [
    (
        "model how[objective in { mopd = mopd(clip_at: 3) }]",
        "settings in braces to the grammar; the compiler knows what a family goes over",
    ),
    ("let b = True", "a name like any other to the grammar; the compiler knows the habit"),
    ("let c = None", "a name like any other to the grammar; the compiler knows the habit"),
    ("let d = 1e999", "the number's size is judged by the compiler: its shape is sound"),
    ("let g = 1e-5000", "the number's size is judged by the compiler: its shape is sound"),
    (
        "template shown = \"\"\"Question: {prompt} //",
        "where a text of several lines begins is judged by the compiler",
    ),
    ("Hint: {hint} //", "the indentation in a text is judged by the compiler"),
    ("// \u{202e}reversed", "what a comment holds is judged by the compiler"),
    (
        "experiment \"a\" { seed = 1, out = \"runs/\u{202e}a\" }",
        "what a text holds is judged by the compiler",
    ),
];

struct Piece {
    place: String,
    lines: Vec<String>,
    /// Whether the compiler finds a syntax error in it.
    refused: bool,
}

/// A program of a page, and the line it begins on.
struct Fence {
    first: usize,
    lines: Vec<String>,
    /// Refused as a whole.
    wrong: bool,
}

fn fences(page: &Path) -> Vec<Fence> {
    let mut found = Vec::new();
    // Of a fence in another language, nothing.
    let mut open: Option<Option<Fence>> = None;
    for (line, number) in read(page).lines().zip(1..) {
        match &mut open {
            Some(_) if line.starts_with("```") => found.extend(open.take().flatten()),
            Some(Some(fence)) => fence.lines.push(line.to_owned()),
            Some(None) => {}
            None if line == "```mopd" || line.starts_with("```mopd ") => {
                // What the page of a code shows as wrong is wrong as a whole.
                let wrong = line == "```mopd before" && page.to_string_lossy().ends_with("syntax.md");
                open = Some(Some(Fence { first: number + 1, lines: Vec::new(), wrong }));
            }
            None if line.starts_with("```") => open = Some(None),
            None => {}
        }
    }
    found
}

/// Whether a comment says that the compiler finds a syntax error.
fn says_refused(comment: &str) -> bool {
    comment.match_indices("// error:").any(|(at, _)| {
        let code = comment[at..].find('[').map_or("", |code| &comment[at + code..]);
        code.starts_with("[syntax]") || code.starts_with("[foreign-syntax]")
    })
}

/// For each line, whether the compiler is said to find a syntax error in it.
fn refused(lines: &[String]) -> Vec<bool> {
    let mut waiting = false;
    let marks = ["// error:", "// warning:", "// advice:"];
    let of_line = |line: &String| match marks.iter().filter_map(|mark| line.find(mark)).min() {
        // A comment alone is about the line below it.
        Some(mark) if line[..mark].trim().is_empty() => {
            waiting |= says_refused(&line[mark..]);
            false
        }
        mark => std::mem::take(&mut waiting) || mark.is_some_and(|mark| says_refused(&line[mark..])),
    };
    lines.iter().map(of_line).collect()
}

/// What is indented, a closing bracket, a `{`, a comment and closing quotes go with what is before them.
fn pieces(page: &str, fence: Fence) -> Vec<Piece> {
    let Fence { first, lines, wrong } = fence;
    if wrong {
        return vec![Piece { place: format!("{page}:{first}"), lines, refused: true }];
    }
    let mut found: Vec<Piece> = Vec::new();
    for (index, (refused, line)) in refused(&lines).into_iter().zip(lines).enumerate() {
        let begins = line.starts_with(|c: char| !c.is_whitespace() && !")}]{/\"".contains(c));
        match found.last_mut() {
            Some(piece) if !begins => {
                piece.lines.push(line);
                piece.refused |= refused;
            }
            _ => {
                let place = format!("{page}:{}", first + index);
                found.push(Piece { place, lines: vec![line], refused });
            }
        }
    }
    found
}

#[test]
fn syntax_errors_are_where_the_compiler_finds_them() {
    let root = here().join("../../..").canonicalize().expect("the repository");
    let name = |path: &Path| path.strip_prefix(&root).expect("in the repository").display().to_string();
    let sources = files(&root, ".mopd").into_iter().map(|path| {
        let lines = read(&path).lines().map(str::to_owned).collect();
        Piece { place: name(&path), lines, refused: false }
    });
    let mut asked: Vec<Piece> = sources.collect();
    let programs = asked.len();
    let mut pages = vec![root.join("README.md")];
    pages.extend(
        ["book/src", "tests/suite", "lang/codes"].map(|folder| files(&root.join(folder), ".md")).concat(),
    );
    for page in pages {
        asked.extend(fences(&page).into_iter().flat_map(|fence| pieces(&name(&page), fence)));
    }
    let wrong = asked.iter().filter(|piece| piece.refused).count();
    assert!(
        programs >= 100 && wrong >= 50,
        "only {programs} files and {wrong} pieces with a syntax error were found"
    );

    let mut faults = Vec::new();
    let mut used = [false; EXCEPTIONS.len()];
    for piece in asked {
        let text = piece.lines.join("\n") + "\n";
        if parse(&text).root_node().has_error() == piece.refused {
            continue;
        }
        let excused =
            |(line, _): &(&str, &str)| piece.lines.iter().any(|text| text.trim_start().starts_with(line));
        if let Some(exception) = EXCEPTIONS.iter().position(excused) {
            used[exception] = true;
            continue;
        }
        let what = match piece.refused {
            true => "the compiler refuses this, the grammar does not",
            false => "a syntax error that is none",
        };
        faults.push(format!("{}: {what}\n{text}", piece.place));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for ((line, why), used) in EXCEPTIONS.iter().zip(used) {
        assert!(used, "the exception `{line}` ({why}) excuses nothing any more");
    }
}
