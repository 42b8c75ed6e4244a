//! The corpus of programs with one mistake each, and of unusual ones that are valid: `tests/mistakes`. The
//! test that scores the diagnostics describes its notation.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

pub struct Case {
    pub name: String,
    pub text: String,
    pub module: Option<String>,
    /// The files beside the program, with their texts.
    pub files: Vec<(String, String)>,
    pub expected: Option<Expected>,
}

#[derive(Default)]
pub struct Expected {
    /// From 0.
    pub line: usize,
    /// Lines that may be pointed at as well.
    pub also: Vec<usize>,
    pub token: String,
    pub cause: String,
    pub remedy: String,
    /// The name of the diagnostic, where it is kept.
    pub code: Option<String>,
    /// Programs that a certain fix results in.
    pub fixed: Vec<String>,
    pub most: usize,
}

/// If a program declares an objective and no experiment, this experiment trains on it, so that the objective
/// is audited.
const AROUND: &str = "\
experiment \"around\" { seed = 1 }
domain sums { prompts = \"sums.jsonl\", reward = numeric }
model small = llama { layers = 2, width = 64, heads = 4, context = 128, tokenizer = bytes }
model skilled = grpo(small, on: sums) { prompts = 16, samples = 8, max_tokens = 16, steps = 60, lr = 1e-4 }
teacher skilled_one = skilled
route { else -> skilled_one }
model learner = distill(small) {
  objective = OBJECTIVE
  rollout   = sample(n: 4, temperature: 1, max_tokens: 16)
  prompts   = 16
  steps     = 40
  lr        = 1e-4
}
";

/// Spaces between the words of a line don't matter.
fn plain(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn plain_program(text: &str) -> Vec<String> {
    text.lines().map(plain).filter(|line| !line.is_empty()).collect()
}

/// The scene with its edits: the lines of the program.
fn edited(name: &str, scene: &str, body: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = scene.lines().map(str::to_owned).collect();
    let old: Vec<&str> = body.iter().filter_map(|line| line.strip_prefix('-')).collect();
    let mut new: Vec<&str> = body.iter().filter_map(|line| line.strip_prefix('+')).collect();
    let mut places = Vec::new();
    for line in &old {
        let after = places.last().map_or(0, |place| place + 1);
        let found = (after..lines.len()).find(|at| plain(&lines[*at]) == plain(line));
        let found = found.or_else(|| lines.iter().position(|candidate| plain(candidate) == plain(line)));
        places.push(found.unwrap_or_else(|| panic!("{name}: the scene has no line `{}`", plain(line))));
    }
    let mut replaced: Vec<(usize, Vec<String>)> = Vec::new();
    for (nth, place) in places.iter().enumerate() {
        let indent: String = lines[*place].chars().take_while(|c| *c == ' ').collect();
        let taken = if nth + 1 == places.len() { new.len() } else { new.len().min(1) };
        let written = new.drain(..taken).map(|line| {
            if line.trim().is_empty() { String::new() } else { format!("{indent}{}", &line[1..]) }
        });
        replaced.push((*place, written.collect()));
    }
    assert!(new.is_empty(), "{name}: a `+` without a `-`");
    replaced.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    for (place, written) in replaced {
        lines.splice(place..=place, written);
    }
    lines.extend(
        body.iter()
            .filter_map(|line| line.strip_prefix('$'))
            .map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()),
    );
    lines
}

fn read_case(page: &str, block: &str, scenes: &HashMap<String, String>) -> Case {
    let mut rows = block.lines();
    let name = format!("{page}: {}", rows.next().unwrap_or_default().trim());
    let rows: Vec<&str> = rows.filter(|row| !row.trim().is_empty()).collect();
    let module: Vec<&str> = rows.iter().filter_map(|row| row.strip_prefix("> ")).collect();
    let module = (!module.is_empty()).then(|| module.join("\n") + "\n");
    let scene = rows.iter().find_map(|row| row.strip_prefix("@ "));
    let mut files: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter_map(|row| row.strip_prefix('&')) {
        let mut parts = row.splitn(3, ' ');
        let (Some(times), Some(file), Some(line)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("{name}: `& file row`")
        };
        let times = if times.is_empty() { 1 } else { times.parse().expect("a number behind `&`") };
        let written = format!("{line}\n").repeat(times);
        match files.iter_mut().find(|(name, _)| name == file) {
            Some((_, text)) => *text += &written,
            None => files.push((file.to_owned(), written)),
        }
    }
    let body: Vec<&str> = rows.iter().filter(|row| !row.starts_with(['~', '@', '>', '&'])).copied().collect();
    let lines = match scene {
        Some(scene) => {
            edited(&name, scenes.get(scene).unwrap_or_else(|| panic!("{name}: no scene `{scene}`")), &body)
        }
        None => body.iter().map(|line| (*line).to_owned()).collect(),
    };
    let declared = lines.iter().rev().find_map(|line| line.strip_prefix("objective ").map(str::to_owned));
    let mut lines = lines;
    if let Some(declared) = declared.filter(|_| !lines.iter().any(|line| line.starts_with("experiment "))) {
        let objective: String = declared.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        lines.extend(AROUND.replace("OBJECTIVE", &objective).lines().map(str::to_owned));
    }
    let lines = lines;
    let find = |wanted: &str| {
        let found = lines.iter().position(|line| plain(line) == plain(wanted));
        found.unwrap_or_else(|| panic!("{name}: the program has no line `{}`", plain(wanted)))
    };
    let mut expected = None;
    let mut at = None;
    for (nth, row) in rows.iter().enumerate() {
        let Some(row) = row.strip_prefix("~ ") else { continue };
        if let Some(line) = row.strip_prefix("at ") {
            at = Some(find(line));
            continue;
        }
        if let (Some(most), Some(expected)) = (row.strip_prefix("n "), &mut expected) {
            let expected: &mut Expected = expected;
            expected.most = most.parse().expect("a number behind n");
            continue;
        }
        let above = || {
            let above = rows[..nth]
                .iter()
                .rev()
                .find(|row| !row.starts_with(['~', '-', '>', '@', '&']))
                .expect("a line above the expectation");
            find(if scene.is_some() { above[1..].trim() } else { above })
        };
        let fields: Vec<&str> = row.split(" ~ ").collect();
        let [token, cause, remedy, more @ ..] = fields.as_slice() else {
            panic!("{name}: token, cause and remedy are expected")
        };
        let line =
            more.iter().find_map(|field| field.strip_prefix("at ")).map(find).or(at).unwrap_or_else(above);
        let mut it = Expected {
            line,
            token: (*token).into(),
            cause: (*cause).into(),
            remedy: (*remedy).into(),
            most: 1,
            ..Expected::default()
        };
        for field in more {
            let (word, rest) = field.split_once(' ').unwrap_or((field, ""));
            let with = |written: &[&str]| {
                let mut fixed = lines.clone();
                fixed.splice(line..=line, written.iter().map(|line| (*line).to_owned()));
                fixed.join("\n")
            };
            match word {
                "fix" => it.fixed.push(with(&[rest])),
                "drop" => it.fixed.push(with(&[])),
                "add" => it.fixed.push(format!("+{rest}\n{}", lines.join("\n"))),
                "also" => it.also.push(find(rest)),
                "code" => it.code = Some(rest.to_owned()),
                "n" => it.most = rest.trim().parse().expect("a number behind n"),
                "at" => {}
                _ => panic!("{name}: unknown field `{field}`"),
            }
        }
        expected = Some(it);
    }
    Case { name, text: lines.join("\n") + "\n", module, files, expected }
}

/// Every case, the scenes included.
pub fn corpus() -> Vec<Case> {
    let folder = crate::root().join("tests/mistakes");
    let read = |path: &Path| fs::read_to_string(path).expect("a file of the corpus");
    let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let scenes: HashMap<String, String> =
        crate::files(&folder.join("scenes"), ".mopd").iter().map(|path| (stem(path), read(path))).collect();
    let mut cases: Vec<Case> = scenes
        .iter()
        .map(|(name, text)| Case {
            name: format!("scene {name}"),
            text: text.clone(),
            module: None,
            files: Vec::new(),
            expected: None,
        })
        .collect();
    for path in crate::files(&folder, ".txt") {
        for block in format!("\n{}", read(&path)).split("\n=== ").skip(1) {
            cases.push(read_case(&stem(&path), block, &scenes));
        }
    }
    cases
}
