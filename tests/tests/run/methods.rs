//! Every published experiment that a plan can be made of trains: a few steps each, on small models.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use mopd_tests::{check, files, root};
use tempfile::TempDir;

use super::text;

/// The program with two steps in place of each number of steps, and a reward that models earn which have
/// learnt nothing yet: some methods leave out prompts that nobody solves. Published weights become a small
/// model with their tokenizer.
fn short(program: &str) -> String {
    let program = program.replace("reward = exact_match", "reward = regex(\"[a-f]\")");
    let program = program.replace("round: 10 steps", "round: 1 steps");
    let program = match program.replace("hf(\"Qwen/Qwen3-0.6B\")", "published") {
        replaced if replaced == program => program,
        replaced => replaced + PUBLISHED,
    };
    let mut short = String::new();
    let mut rest = program.as_str();
    while let Some(place) = rest.find("steps") {
        let (before, after) = rest.split_at(place + "steps".len());
        short.push_str(before);
        let number = after.trim_start_matches([' ', '=', ':']);
        let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
        short.push_str(&after[..after.len() - number.len()]);
        rest = &number[digits..];
        if digits > 0 {
            short.push('2');
        }
    }
    short + rest
}

const PUBLISHED: &str = "
model published = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = \"qwen3\" }
";

/// Where the experiments look for their data.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab", "aab", "bba", "ccd", "dda"];
    for (name, sign) in [("sort", '<'), ("reverse", '~'), ("copy", '='), ("grid", '#'), ("quick", '<')] {
        let line = |word: &&str| {
            let mut letters: Vec<char> = word.chars().collect();
            match name {
                "sort" | "quick" => letters.sort_unstable(),
                "reverse" => letters.reverse(),
                _ => {}
            }
            let answer: String = letters.into_iter().collect();
            let fields = [
                "answer",
                "chosen",
                "demonstration",
                "distractor",
                "evidence",
                "hint",
                "map",
                "plan",
                "question",
                "rendering",
                "solution",
                "text",
            ];
            let fields = fields.map(|field| format!("\"{field}\": \"{answer}\", "));
            format!(
                "{{{}\"prompt\": \"{word}{sign}\", \"rejected\": \"{word}\", \"effort\": \"high\", \
                 \"expert_turns\": [\"a\", \"b\", \"c\"], \"trajectory\": {}}}\n",
                fields.concat(),
                trajectory(&format!("{word}{sign}"), word, &answer)
            )
        };
        let lines: String = words.iter().map(line).collect();
        for file in [format!("{name}.jsonl"), format!("{name}.test.jsonl"), format!("data/{name}.jsonl")] {
            fs::write(folder.path().join(file), &lines).expect("writing a test file");
        }
    }
    fs::create_dir(folder.path().join("qwen3")).expect("a folder");
    for file in fs::read_dir(root().join("tests/reference/text/qwen3")).expect("a tokenizer") {
        let path = file.expect("a file").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, folder.path().join("qwen3").join(name)).expect("a test file");
    }
    for name in ["environment.py", "tools.py", "kitchen.py"] {
        fs::write(folder.path().join(name), ENVIRONMENT).expect("writing a test file");
    }
    for name in ["project.py", "filter.py"] {
        fs::write(folder.path().join(name), EDIT).expect("writing a test file");
    }
    folder
}

/// Of two turns, with a tool's reply between them.
fn trajectory(prompt: &str, first: &str, second: &str) -> String {
    let said = [("user", prompt), ("assistant", first), ("tool", "no"), ("assistant", second)];
    let said = said.map(|(role, text)| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}"));
    format!("[{}]", said.join(", "))
}

/// Answers four times, then ends the episode.
const ENVIRONMENT: &str = "import json, sys
turns = {}
for line in sys.stdin:
    request = json.loads(line)
    id = request['id']
    if 'end' not in request:
        turns[id] = turns.get(id, -1) + 1
        print(json.dumps({'id': id, 'observation': 'more?', 'done': turns[id] > 4}), flush=True)
";

/// Answers each completion with what the data has.
const EDIT: &str = "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({'id': request['id'], 'completion': request['record']['answer']}), flush=True)
";

#[test]
fn every_method_that_a_plan_can_be_made_of_trains() {
    let folder = folder();
    let (mut faults, mut trained) = (String::new(), 0);
    for path in files(&root().join("tests/methods"), ".mopd") {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let program = fs::read_to_string(&path).expect("a program");
        let analysis = check(&name, &program);
        let experiment = analysis.experiment.as_ref().expect("it checks");
        if mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).is_err() {
            continue;
        }
        fs::write(folder.path().join(&name), short(&program)).expect("writing a test file");
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(folder.path()).args(["run", &name, "--out", &format!("out-{name}")]);
        let output = command.stdin(Stdio::null()).output().expect("mopd starts");
        trained += 1;
        if !output.status.success() {
            let _ = writeln!(faults, "{name}: {}", text(&output));
        }
    }
    assert!(faults.is_empty() && trained > 30, "{trained} experiments\n{faults}");
}
