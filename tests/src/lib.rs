//! Shared by the test programs.

#![forbid(unsafe_code)]

pub mod browser;
pub mod corpus;
pub mod fixes;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use mopd_lang::source::SourceFile;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The `mopd` program under test: `MOPD_BIN`, else the one built beside this test.
pub fn mopd() -> PathBuf {
    if let Some(path) = std::env::var_os("MOPD_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests run from target/<profile>/deps");
    folder.join("mopd")
}

/// The processes that a process has started, by whichever of its threads; none if it is gone.
pub fn children(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let ids = |list: String| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>();
    lists.flat_map(ids).collect()
}

/// Prints a note on standard error directly, since the harness hides what passing tests print.
pub fn note(text: &str) {
    writeln!(std::io::stderr(), "note: {text}").expect("standard error is open");
}

/// Says that a test, or a part of it, does not run on this machine, and why. Where `MOPD_REQUIRE_TOOLS` is
/// set, the test fails instead, so that a machine which should have everything can't pass by skipping.
#[track_caller]
pub fn skipped(reason: &str) {
    assert!(std::env::var_os("MOPD_REQUIRE_TOOLS").is_none(), "{reason}, and MOPD_REQUIRE_TOOLS is set");
    note(&format!("skipped: {reason}"));
}

/// Checks a text as `mopd check` would, with the standard library and no other files.
pub fn check(path: &str, text: &str) -> mopd_lang::Analysis {
    let entry = SourceFile { path: path.to_owned(), text: text.to_owned() };
    mopd_lang::analyse_audited(entry, &standard, &[], &mopd_compiler::audit::diagnostics)
}

/// The same as an editor has it: what only the gradient audit finds is left out.
pub fn check_text(path: &str, text: &str) -> mopd_lang::Analysis {
    mopd_lang::analyse(SourceFile { path: path.to_owned(), text: text.to_owned() }, &standard)
}

/// A module of the standard library, `std:opd.mopd`, or its table of contents, `std:`.
pub fn standard(path: &str) -> Option<SourceFile> {
    mopd_std::source(path).map(|text| SourceFile { path: path.to_owned(), text: text.to_owned() })
}

/// The diagnostics of an analysis, one a line, for failure messages.
pub fn listing(analysis: &mopd_lang::Analysis) -> String {
    let line = |diagnostic: &mopd_lang::diag::Diagnostic| {
        let place = diagnostic.primary.span;
        let (line, column) = analysis.sources.position(place.file, place.start);
        format!(
            "{}:{}:{}: [{}] {}\n",
            analysis.sources.file(place.file).path,
            line + 1,
            column + 1,
            diagnostic.code.name(),
            diagnostic.message
        )
    };
    analysis.diagnostics.iter().map(line).collect()
}

/// The files below a folder whose names end in `ending`, in order.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A program between fences tagged `mopd`.
pub struct Fence {
    /// The line of the page on which its text begins, from 1.
    pub line: usize,
    /// Tagged `mopd continued`: it continues the fence before it. A tutorial shows a file piece by piece.
    pub continued: bool,
    /// All words of its tag.
    pub tag: String,
    pub text: String,
}

/// The programs that a page shows.
pub fn fences(page: &str) -> Vec<Fence> {
    let mut found = Vec::new();
    let mut open: Option<Fence> = None;
    for (number, line) in page.lines().enumerate() {
        match &mut open {
            Some(_) if line.starts_with("```") => found.extend(open.take()),
            Some(fence) => fence.text += &format!("{line}\n"),
            None if line.starts_with("```mopd") => {
                let continued = line.starts_with("```mopd continued");
                let tag = line.trim_start_matches('`').trim().to_owned();
                open = Some(Fence { line: number + 2, continued, tag, text: String::new() });
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a fence is never closed");
    found
}

/// What closes a section of a page that a test writes.
const END: &str = "<!-- end -->";

/// A page of which tests write some sections: those between `<!-- KIND: NAME -->` and `<!-- end -->`.
pub struct Generated {
    /// The page with every such section written anew.
    pub text: String,
    /// The names of the sections, in order.
    pub names: Vec<String>,
    /// Messages on sections that have no generator or no end.
    pub faults: Vec<String>,
}

/// Rewrites the sections of one kind, each with what `section` returns for its name.
pub fn generate(page: &str, kind: &str, section: impl Fn(&str) -> Option<String>) -> Generated {
    let begin = format!("<!-- {kind}: ");
    let mut made = Generated { text: String::new(), names: Vec::new(), faults: Vec::new() };
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        made.text += &format!("{line}\n");
        let Some(name) = line.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        made.names.push(name.to_owned());
        match section(name) {
            Some(section) => made.text += &format!("\n{section}\n\n"),
            None => made.faults.push(format!("nothing is called `{name}`")),
        }
        match lines.by_ref().find(|line| line.starts_with("<!-- ")) {
            Some(END) => made.text += &format!("{END}\n"),
            _ => made.faults.push(format!("`{name}` has no end")),
        }
    }
    made
}

/// Writes a changed page if `MOPD_UPDATE=1` is set; otherwise the change is a fault.
pub fn settle(path: &Path, page: &str, made: &Generated) -> Vec<String> {
    let place = |fault: &String| format!("{}: {fault}", path.display());
    if !made.faults.is_empty() {
        return made.faults.iter().map(place).collect();
    }
    if made.text == page {
        return Vec::new();
    }
    if std::env::var_os("MOPD_UPDATE").is_some() {
        std::fs::write(path, &made.text).expect("the page is written");
        return Vec::new();
    }
    let differs = made.text.lines().zip(page.lines()).position(|(ours, theirs)| ours != theirs);
    let line = differs.unwrap_or_else(|| made.text.lines().count().min(page.lines().count())) + 1;
    vec![format!("{}:{line}: not what it is made from; MOPD_UPDATE=1 writes it anew", path.display())]
}

/// Source files and fences of pages, each with its name.
pub fn texts(folders: &[&str], pages: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut texts = Vec::new();
    for path in folders.iter().flat_map(|folder| files(&root.join(folder), ".mopd")) {
        texts.push((path.display().to_string(), std::fs::read_to_string(&path).expect("a file")));
    }
    for page in pages.iter().map(|page| root.join(page)) {
        for page in if page.is_dir() { files(&page, ".md") } else { vec![page] } {
            let shown = fences(&std::fs::read_to_string(&page).expect("a page"));
            texts.extend(
                shown.into_iter().map(|fence| (format!("{}:{}", page.display(), fence.line), fence.text)),
            );
        }
    }
    texts
}

/// An environment that replies so many times, then ends the episode.
pub fn environment(replies: u32) -> String {
    format!(
        "import json, sys
turns = {{}}
for line in sys.stdin:
    request = json.loads(line)
    id = request['id']
    if 'end' not in request:
        turns[id] = turns.get(id, -1) + 1
        print(json.dumps({{'id': id, 'observation': 'more?', 'done': turns[id] > {replies}}}), flush=True)
"
    )
}

/// Applies a function to each item on all cores. Results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        let mine = numbers.map_while(|number| Some((number, each(items.get(number)?))));
        mine.collect::<Vec<(usize, R)>>()
    };
    let mut results = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let each = threads.into_iter().flat_map(|thread| thread.join().expect("each item is done"));
        each.collect::<Vec<(usize, R)>>()
    });
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A small deterministic generator (xorshift), so that a failure can be reproduced.
pub struct Dice(pub u64);

impl Dice {
    /// For a case of a sweep by its number, so that it is the same whichever cases run.
    pub fn of_case(number: usize) -> Dice {
        // Odd times odd is never 0, from which xorshift would not move.
        Dice((2 * number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}
