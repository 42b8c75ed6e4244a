//! Caching between keystrokes changes no result: after any edit, the results are those of an analysis from
//! scratch.

use std::collections::BTreeMap;

use mopd_lang::check::index::NameIndex;
use mopd_lang::source::{FileId, SourceFile};
use mopd_lang::syntax::{KnownFile, parse};
use mopd_lang::{Analysis, AnalysisCache, analyse, analyse_edited};
use mopd_tests::{Dice, texts};

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
    for (number, (name, original)) in corpus().into_iter().enumerate() {
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
fn write_on(name: &str, files: &BTreeMap<Vec<String>, String>, seed: u64, rounds: usize) {
    let mut author = Author::new(seed);
    let mut memory = AnalysisCache::default();
    let mut now = files.clone();
    let keys: Vec<&Vec<String>> = files.keys().collect();
    for round in 0..rounds {
        // Now and then, one of the files is missing.
        let missing = (author.dice.roll(6) == 0).then(|| keys[author.dice.roll(keys.len())].clone());
        let load = |module: &[&str]| {
            let key: Vec<String> = module.iter().map(|&segment| segment.to_owned()).collect();
            let text = now.get(&key).filter(|_| Some(&key) != missing.as_ref())?;
            Some(SourceFile { path: key.join("."), text: text.clone() })
        };
        let entry = || SourceFile { path: "entry".to_owned(), text: now[&Vec::new()].clone() };
        let (again, fresh) =
            (told(&analyse_edited(entry(), &load, &mut memory)), told(&analyse(entry(), &load)));
        assert!(
            again == fresh,
            "{name}, round {round}: {}\nin:\n{}",
            difference(&again, &fresh),
            now[&Vec::new()]
        );
        if author.dice.roll(12) == 0 {
            now.clone_from(files);
            continue;
        }
        // Edits the entry most of the time.
        let key = if author.dice.roll(3) > 0 { &Vec::new() } else { keys[author.dice.roll(keys.len())] };
        author.edit(now.get_mut(key).expect("one of the files"));
    }
}

fn with_library(entry: &str) -> BTreeMap<Vec<String>, String> {
    let library = mopd_std::MODULES
        .iter()
        .map(|(name, text)| (vec!["std".to_owned(), (*name).to_owned()], (*text).to_owned()));
    library.chain([(Vec::new(), entry.to_owned())]).collect()
}

#[test]
fn a_file_that_is_checked_again_has_the_diagnostics_and_the_names_of_a_new_one() {
    for (number, (name, text)) in corpus().into_iter().enumerate() {
        write_on(&name, &with_library(&text), 0x5eed + number as u64, 6);
    }
}

/// Edits a valid file and the module `mine` that it imports, once for each seed.
fn write_on_both(name: &str, entry: &str, mine: &str, seeds: std::ops::Range<u64>) {
    let mut files = with_library(entry);
    files.insert(vec!["mine".to_owned()], mine.to_owned());
    let load = |module: &[&str]| {
        let key: Vec<String> = module.iter().map(|&segment| segment.to_owned()).collect();
        files.get(&key).map(|text| SourceFile { path: key.join("."), text: text.clone() })
    };
    let sound = analyse(SourceFile { path: "entry".to_owned(), text: entry.to_owned() }, &load);
    assert!(!sound.has_errors(), "{}", mopd_tests::listing(&sound));
    for seed in seeds {
        write_on(name, &files, seed, 60);
    }
}

#[test]
fn incremental_check_equals_full_check_for_bodies() {
    const ENTRY: &str = "use mine.{half, scale, lone, mean_of, gentle}\n\nexperiment \"e\" { seed = 1 }\n\ndomain sort { \
         prompts = \"s\", tests = \"t\", reward = exact_match, share = 1/2 }\ndomain other { prompts = \
         \"s\", tests = \"t\", reward = exact_match, share = half }\n\nlet bound = 2 * scale\nparam width: \
         number = bound\n\nfn shrunk(x) = clip(x, -bound, bound) * half\nfn twice(x) = shrunk(x) + \
         shrunk(x) * lone\n\nobjective own(by: number = width) {\n  let gap = twice(teacher.logp - \
         student.logp)\n  weight = gap * by\n\x20 term pull = live student.logp\n  reduce = mean(token) \
         then mean(sequence)\n}\n\nstage opening(from: model) = distill(from) { objective = own(by: \
         mean_of(1, 2)), rollout = sample(n: 1, temperature: 1.0, max_tokens: 4), prompts = 2, steps = 3, \
         lr = 0.1 }\n\nmodel start = llama { layers = 1, width = 8, heads = 1, key_value_heads = 1, context \
         = 8, tokenizer = bytes }\nmodel expert[d in domains] = grpo(start, on: d) { steps = 2, prompts = \
         2, samples = 2, max_tokens = 4, lr = 0.1 }\nstage closing(by: number = 1) = distill(start) { \
         objective = own(by: by), rollout = sample(n: 1, temperature: 1.0, max_tokens: 4), prompts = 2, \
         steps = 3, lr = 0.1, route { else -> spare } }\nteacher spare = start\nteacher specialist[d in \
         domains] = expert[d]\nroute { for d in domains: domain == d -> specialist[d] }\nmodel student_now \
         = opening(start)\nmodel student_then = distill(start) { objective = gentle(), rollout = sample(n: \
         1, temperature: 1.0, max_tokens: 4), prompts = 2, steps = 3, lr = 0.1 }\n";
    const MINE: &str = "pub let half = 1/2\npub let scale = 3\nlet hidden = half + scale\npub let lone = \
                        hidden\npub fn mean_of(a, b) = (a + b) * half\npub objective gentle(clip_at: nats = \
                        hidden) {\n  weight = clip(teacher.logp - student.logp, -clip_at, clip_at)\n\x20 \
                        term push = live student.logp\n  reduce = mean(token) then mean(sequence)\n}\n";
    write_on_both("two files", ENTRY, MINE, 1..12);
}

#[test]
fn incremental_check_equals_full_check_for_models_and_tables() {
    // Many items that depend on each other: families, routes by domain and by data, undeclared teachers,
    // tables with stages of their own, names that are taken, weights that are loaded twice, an `eval`, a
    // budget, a joint stage, a panel.
    const ENTRY: &str = "use std.opd.mopd\nuse std.baselines.{mix_rl, cascade_rl}\nuse mine.{longer, from_library, \
         soft}\n\nexperiment \"e\" { seed = 1 }\n\ndomain sort { prompts = \"s\", tests = \"t\", format = \
         text, reward = exact_match, share = 1/2 }\ndomain other { prompts = \"s\", tests = \"t\", format = \
         text, reward = parts(format: regex(\"a\"), answer: exact_match, weights: [0.5, 0.5]), share = \
         half, limits = 6 }\nlet half = 1/2\nlet rate = 0.1\nparam width: count = 8\n\neval held { prompts \
         = \"h\", reward = exact_match, samples = 2, temperature = 1.0, max_tokens = 4 }\nmodel start = \
         llama { layers = 1, width = width, heads = 1, key_value_heads = 1, context = 16, tokenizer = bytes \
         }\nmodel loaded = hf(\"some/base\")\nmodel again = hf(\"some/base\")\nmodel expert[d in domains] = \
         grpo(start, on: d) { steps = 2, prompts = 2, samples = 2, max_tokens = longer, lr = rate }\nmodel \
         warm = sft(again, on: sort) { target = answer, steps = 2, batch = 2, lr = rate }\nteacher \
         specialist[d in domains] = expert[d]\nteacher elder = loaded { origin = same }\nteacher both = \
         logits(specialist[sort]) + w * logits(specialist[other]) where w = 2\nroute { for d in domains: \
         domain == d -> specialist[d] }\n\n/// Clipped.\nobjective clipped(bound: nats = 2, share = 5%) {\n  \
         let gap = clip(teacher.logp - student.logp, -bound, bound)\n\x20 let fair = zscore(reward, over: \
         group, deviation: sample)\n  weight = 1 - share + share * fair\n  term pull = -gap * live \
         student.logp\n\x20 reduce = mean(token) then mean(sequence)\n}\nobjective both_of(a: teacher, by: \
         number = 1) {\n  let far = by * (a.logp - student.logp)\n  weight = far\n  term t = live \
         student.logp\n\x20 reduce = mean(token) then mean(sequence)\n}\nmodel first = distill(start) { \
         objective = clipped(bound: 3), rollout = sample(n: 2, temperature: 1.0, max_tokens: longer), \
         prompts = 2, steps = 3, lr = rate }\nmodel second = distill(first) { objective = clipped, rollout \
         = sample(n: 2, temperature: 1.0, max_tokens: longer), prompts = 2, steps = 3, lr = rate }\nmodel \
         third[n in [1, 2]] = distill(start) { objective = mopd(clip_at: n), rollout = sample(n: 1, \
         temperature: 1.0, max_tokens: longer), prompts = 2, steps = 3, lr = rate }\nmodel own = \
         distill(first) { objective = both_of(both), rollout = sample(n: 2, temperature: 1.0, max_tokens: \
         4), prompts = 2, steps = 3, lr = rate }\nmodel aged = distill(warm) { objective = both_of(elder, \
         by: 2), rollout = sample(n: 2, temperature: 1.0, max_tokens: 4), prompts = 2, steps = 3, lr = rate \
         }\nmodel mirror = distill(start) { objective = both_of(self.ema(0.9)), rollout = sample(n: 2, \
         temperature: 1.0, max_tokens: 4), prompts = 2, steps = 3, lr = rate }\nmodel late = \
         from_library(second)\nmodel merged = merge([first, second]) { method = average }\n\ncompare \
         \"one\" { models = [start, expert, first, second], score = normalized(zero: start, one: expert), \
         samples = 2, temperature = 1.0, max_tokens = 4 }\ncompare \"two\" { models = [first, \
         from_library(start), mix_rl(start, steps: 2, prompts: 2, samples: 2, max_tokens: longer, lr: \
         rate)], samples = 2, temperature = 1.0, max_tokens = 4 }\ncompare \"three\" { models = \
         [from_library(start), mix_rl(start, steps: 2, prompts: 2, samples: 2, max_tokens: longer, lr: \
         rate), late], samples = 2, temperature = 1.0, max_tokens = 4 }\ncompare \"four\" { models = \
         [first, mirror], on = [held], budget = steps, teachers = free }\ncompare \"five\" { models = \
         [start, third[1], third[2], aged, own, merged], on = [sort], samples = 1, temperature = 0, \
         max_tokens = 4 }\n";
    const MINE: &str = "use std.opd.mopd\npub let longer = 4 + two\nlet two = 2\npub objective soft(by: \
                        number = two) {\n  let near = by * (teacher.logp - student.logp)\n  weight = near\n  \
                        term push = live student.logp\n\x20 reduce = mean(token) then \
                        mean(sequence)\n}\npub stage from_library(from: model) = distill(from) { objective \
                        = soft(by: 3), rollout = sample(n: 1, temperature: 1.0, max_tokens: longer), \
                        prompts = 2, steps = two, lr = 0.1 }\n";
    write_on_both("two files with many models", ENTRY, MINE, 1..24);
}

/// Analyses one text after the other as an editor does, and compares each with an analysis from scratch.
fn write_in_turn(texts: &[&str]) {
    let mut memory = AnalysisCache::default();
    for text in texts {
        let library = with_library(text);
        let load = |module: &[&str]| {
            let key: Vec<String> = module.iter().map(|&segment| segment.to_owned()).collect();
            library.get(&key).map(|text| SourceFile { path: key.join("."), text: text.clone() })
        };
        let entry = || SourceFile { path: "entry".to_owned(), text: (*text).to_owned() };
        let (again, fresh) =
            (told(&analyse_edited(entry(), &load, &mut memory)), told(&analyse(entry(), &load)));
        assert!(again == fresh, "{}\nin:\n{text}", difference(&again, &fresh));
    }
}

#[test]
fn a_domain_may_ask_for_a_family_over_all_domains_for_a_moment() {
    let sound = "experiment \"e\" { seed = 1 }\ndomain sort { prompts = \"p\", tests = \"t\", reward = exact_match \
                 }\ndomain other { prompts = \"p\", tests = \"t\", reward = exact_match }\nmodel start = llama { layers = \
                 1, width = 8, heads = 1, context = 8, tokenizer = bytes }\nmodel expert[d in domains] = grpo(start, \
                 on: d) { steps = 2, prompts = 2, samples = 2, max_tokens = 4, lr = 0.1 }\n";
    let faulty = sound.replacen("exact_match", "expert", 1);
    write_in_turn(&[sound, &faulty, sound]);
}

#[test]
fn a_body_that_goes_through_all_domains_is_checked_again_when_one_comes_or_goes() {
    let one = "domain only { prompts = \"p\", tests = \"t\", reward = exact_match }\n";
    let rest = "experiment \"e\" { seed = 1 }\nfn each() = for d in domains: nowhere\n";
    let mut memory = AnalysisCache::default();
    let mut counts = Vec::new();
    for text in [rest.to_owned(), format!("{one}{rest}"), rest.to_owned()] {
        let library = with_library(&text);
        let load = |module: &[&str]| {
            let key: Vec<String> = module.iter().map(|&segment| segment.to_owned()).collect();
            library.get(&key).map(|text| SourceFile { path: key.join("."), text: text.clone() })
        };
        let entry = || SourceFile { path: "entry".to_owned(), text: text.clone() };
        let (again, fresh) = (analyse_edited(entry(), &load, &mut memory), analyse(entry(), &load));
        assert_eq!(again.diagnostics, fresh.diagnostics, "{text}");
        counts.push(fresh.diagnostics.len());
    }
    assert_eq!(counts, [0, 1, 0]);
}
