//! Thousands of programs with a few tokens changed: the checker returns for every text, quickly and without a
//! panic. The programs are those of the library, the examples, the suite, the pages of the codes and the
//! catalogue of methods; numbers are replaced by ones that overflow.
//!
//! Every program is checked as an editor checks it; a valid one is also planned and shown, and one in
//! `AUDITED` of those is audited, which takes a hundred times as long. Most are made from small programs: the
//! time of a check grows with their length, but what it finds with their number.
//! `few_mutated_programs_do_not_crash_the_checker` is part of every test run. The long run is
//!
//! ```text
//! MOPD_MUTATIONS=10000000 cargo test --locked --release --workspace --test language mutations:: -- \
//!   --ignored --nocapture
//! ```
//!
//! and may be split: `MOPD_MUTATIONS_FROM=5000000` begins at that program. Program number `n` is the same in
//! every run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mopd_experiment::formula::text;
use mopd_lang::check::ParseCache;
use mopd_lang::source::SourceFile;
use mopd_tests::{fences, files, root, standard};

/// A program that takes longer fails the test like a panic. Generous, since the machine may be busy.
const MOST_TIME: Duration = Duration::from_secs(20);

/// One in this many valid programs is audited in the long run.
const AUDITED: u64 = 16;

/// In bytes; fifteen of sixteen programs are made from one of these.
const SMALL: usize = 400;

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "7",
    "0.5",
    "1.5",
    "-1",
    "1e-9",
    "1e-300",
    "1e300",
    "1e308",
    "50%",
    "100%",
    "1/3",
    "255",
    "65_535",
    "65_536",
    "65_537",
    "1_000_000",
    "16_777_217",
    "536_870_912",
    "1_000_000_000",
    "2_147_483_647",
    "2_147_483_648",
    "4_294_967_295",
    "4294967295",
    "4_294_967_296",
    "9007199254740993",
    "18446744073709551615",
    "100 tokens",
    "3 epochs",
    "4_000_000_000 epochs",
];

/// A small random number generator (splitmix64), so that a program can be made again from its number.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

struct Corpus {
    /// Tokens of each program, white space included.
    programs: Vec<Vec<String>>,
    small: Vec<Vec<String>>,
    /// The distinct tokens of all programs.
    words: Vec<String>,
    /// Whole items.
    items: Vec<String>,
}

/// Words, numbers, quoted texts, white space, comments, and signs one by one.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let length = match first {
            '"' => rest[1..].find(['"', '\n']).map_or(rest.len(), |end| end + 2),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            c if c.is_whitespace() => rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len()),
            c if c.is_alphanumeric() => rest.find(|c: char| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length.min(rest.len()));
        found.push(token.to_owned());
        rest = after;
    }
    found
}

fn corpus() -> Corpus {
    let read = |path: &std::path::Path| fs::read_to_string(path).expect("a file of the repository");
    let mut texts: Vec<String> = Vec::new();
    for folder in ["examples", "stdlib", "tests/methods"] {
        texts.extend(files(&root().join(folder), ".mopd").iter().map(|path| read(path)));
    }
    for folder in ["tests/suite", "lang/codes", "book/src/language"] {
        for path in files(&root().join(folder), ".md") {
            texts.extend(fences(&read(&path)).into_iter().map(|fence| fence.text));
        }
    }
    // Very long programs, made to reach a limit, show nothing that shorter ones do not.
    texts.retain(|text| text.len() < 20_000);
    let small = texts.iter().filter(|text| text.len() < SMALL).map(|text| tokens(text)).collect();
    let programs: Vec<Vec<String>> = texts.iter().map(|text| tokens(text)).collect();
    let mut words: Vec<String> =
        programs.iter().flatten().filter(|token| token.len() < 40).cloned().collect();
    words.sort_unstable();
    words.dedup();
    let items = texts.iter().flat_map(|text| text.split("\n\n").map(|item| format!("\n{item}\n"))).collect();
    Corpus { programs, small, words, items }
}

fn is_number(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_digit())
}

/// Program number `number`, and what it was made from.
fn mutant(corpus: &Corpus, number: u64) -> String {
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x1234_5678_9abc_def0);
    let from = if random.below(16) == 0 { &corpus.programs } else { &corpus.small };
    let mut tokens = random.pick(from).clone();
    for _ in 0..1 + random.below(4) {
        if tokens.is_empty() {
            break;
        }
        let at = random.below(tokens.len());
        match random.below(12) {
            // Half of all changes replace a number by another one.
            0..6 => {
                let numbers: Vec<usize> = (0..tokens.len()).filter(|at| is_number(&tokens[*at])).collect();
                if !numbers.is_empty() {
                    let at = *random.pick(&numbers);
                    tokens[at] = (*random.pick(NUMBERS)).to_owned();
                }
            }
            6 => {
                tokens.remove(at);
            }
            7 => {
                let token = tokens[at].clone();
                tokens.insert(at, token);
            }
            8 => {
                let other = random.below(tokens.len());
                tokens.swap(at, other);
            }
            9 => tokens[at] = random.pick(&corpus.words).clone(),
            10 => tokens.insert(at, random.pick(&corpus.words).clone()),
            _ => tokens.push(random.pick(&corpus.items).clone()),
        }
    }
    tokens.concat()
}

/// Does everything with a program, up to its plan. Returns whether it is valid.
fn digest(program: &str, trees: &mut ParseCache, audited: bool) -> bool {
    let source = || SourceFile { path: "a.mopd".to_owned(), text: program.to_owned() };
    let analysis = mopd_lang::analyse_edited(source(), &standard, trees, None);
    if analysis.has_errors() {
        return false;
    }
    let analysis = match audited {
        true => mopd_lang::analyse_audited(source(), &standard, &[], &mopd_compiler::audit::diagnostics),
        false => analysis,
    };
    for named in &analysis.objectives {
        mopd_compiler::normal_form(&named.objective, None);
        for term in &named.objective.terms {
            text::formula(&term.value, 200);
        }
        let _ = mopd_compiler::expressions(&named.objective, &analysis.origins);
        // An audit takes a hundred times as long as everything else.
        if audited {
            mopd_compiler::audit::audit(&named.objective, &mopd_compiler::audit::ObjectiveUse::unknown());
        }
    }
    if let Some(experiment) = &analysis.experiment {
        let _ = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, true);
    }
    true
}

struct Digested {
    /// The programs that panic, with their numbers.
    faults: Vec<(u64, String)>,
    /// How many are valid, and so were planned too.
    sound: u64,
}

/// Digests programs `first..last`. One in `audited` sound ones is audited.
fn run(corpus: &Arc<Corpus>, first: u64, last: u64, audited: u64, report: bool) -> Digested {
    let current = Arc::new((AtomicU64::new(first), Mutex::new(Instant::now())));
    // A check that never ends can't be stopped: this thread prints the program's number and ends the process.
    let watched = (Arc::clone(&current), Arc::clone(corpus));
    std::thread::spawn(move || {
        while Arc::strong_count(&watched.0) > 1 {
            std::thread::sleep(Duration::from_millis(500));
            let began = *watched.0.1.lock().expect("nobody panics with it");
            if began.elapsed() > MOST_TIME {
                let number = watched.0.0.load(Ordering::Relaxed);
                eprintln!("program {number} takes more than {MOST_TIME:?}:\n{}", mutant(&watched.1, number));
                std::process::abort();
            }
        }
    });
    let mut faults = Vec::new();
    let mut trees = ParseCache::default();
    let (began, mut sound) = (Instant::now(), 0u64);
    for number in first..last {
        current.0.store(number, Ordering::Relaxed);
        *current.1.lock().expect("nobody panics with it") = Instant::now();
        let program = mutant(corpus, number);
        match catch_unwind(AssertUnwindSafe(|| digest(&program, &mut trees, number % audited == 0))) {
            Ok(good) => sound += u64::from(good),
            Err(_) => {
                eprintln!("program {number} panics");
                faults.push((number, program));
            }
        }
        let done = number + 1 - first;
        if report && done.is_multiple_of(50_000) {
            let rate = done as f64 / began.elapsed().as_secs_f64();
            eprintln!(
                "{done} programs up to number {number}, {sound} of them sound, {} panics, {rate:.0} a second",
                faults.len()
            );
        }
    }
    Digested { faults, sound }
}

fn settle(faults: &[(u64, String)]) {
    let shown: Vec<String> =
        faults.iter().take(5).map(|(number, program)| format!("program {number}:\n{program}")).collect();
    assert!(faults.is_empty(), "{} programs panic\n{}", faults.len(), shown.join("\n"));
}

#[test]
fn few_mutated_programs_do_not_crash_the_checker() {
    let digested = run(&Arc::new(corpus()), 0, 1_500, 1, false);
    settle(&digested.faults);
    // If all were refused at once, nothing behind the checker would have been tried.
    assert!(digested.sound >= 75, "only {} of 1,500 programs are valid", digested.sound);
}

#[test]
#[ignore = "as long as one likes: see the head of this file"]
fn many_mutated_programs_do_not_crash_the_checker() {
    let setting =
        |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (count, first) = (setting("MOPD_MUTATIONS", 100_000), setting("MOPD_MUTATIONS_FROM", 0));
    let Digested { faults, .. } = run(&Arc::new(corpus()), first, first + count, AUDITED, true);
    for (number, program) in &faults {
        let path = std::env::temp_dir().join(format!("mutation-{number}.mopd"));
        fs::write(&path, program).expect("a temporary file");
        eprintln!("program {number} is in {}", path.display());
    }
    settle(&faults);
}

/// Multi-byte characters right beside a name or a number, as in lines copied from a web page.
#[test]
fn letters_of_several_bytes_may_stand_anywhere() {
    let mut trees = ParseCache::default();
    let path = root().join("examples/quickstart.mopd");
    let tokens = tokens(&fs::read_to_string(path).expect("an example"));
    for foreign in ["\u{a0}", "\u{e9}", "\u{2003}", "\u{1f600}"] {
        for at in (0..tokens.len())
            .filter(|at| !tokens[*at].starts_with(|c: char| c.is_whitespace() || c == '/'))
            .step_by(3)
        {
            let mut mutated = tokens.clone();
            mutated.insert(at, foreign.to_owned());
            let program = mutated.concat();
            let outcome = catch_unwind(AssertUnwindSafe(|| digest(&program, &mut trees, false)));
            assert!(outcome.is_ok(), "{foreign:?} before {}:\n{program}", tokens[at]);
        }
    }
}

/// Replaces every number of every example by each of the numbers that once overflowed.
#[test]
fn every_number_of_the_examples_may_be_any_number() {
    let mut trees = ParseCache::default();
    let mut tried = 0;
    for path in files(&root().join("examples"), ".mopd") {
        let tokens = tokens(&fs::read_to_string(&path).expect("an example"));
        for at in (0..tokens.len()).filter(|at| is_number(&tokens[*at])) {
            for number in ["0", "1e308", "536_870_912", "2_147_483_648", "4_294_967_295"] {
                let mut mutated = tokens.clone();
                mutated[at] = number.to_owned();
                let program = mutated.concat();
                let outcome = catch_unwind(AssertUnwindSafe(|| digest(&program, &mut trees, false)));
                assert!(outcome.is_ok(), "{} with {number} for {}:\n{program}", path.display(), tokens[at]);
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}
