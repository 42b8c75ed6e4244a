//! Data, tokenizer and programs for the experiments of `tests`.

use std::fs;

use mopd_tests::root;
use tempfile::TempDir;

/// A folder with the files, as the experiments name them.
pub fn folder() -> TempDir {
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
        fs::write(folder.path().join(name), mopd_tests::environment(4)).expect("writing a test file");
    }
    for name in ["project.py", "filter.py"] {
        fs::write(folder.path().join(name), EDIT).expect("writing a test file");
    }
    for (name, program) in [("dies.py", DIES), ("nonsense.py", NONSENSE)] {
        fs::write(folder.path().join(name), program).expect("writing a test file");
    }
    folder
}

/// A trajectory of two turns, with a tool's reply between them.
fn trajectory(prompt: &str, first: &str, second: &str) -> String {
    let said = [("user", prompt), ("assistant", first), ("tool", "no"), ("assistant", second)];
    let said = said.map(|(role, text)| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}"));
    format!("[{}]", said.join(", "))
}

/// An edit that replaces each completion by the answer in the data.
const EDIT: &str = "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({'id': request['id'], 'completion': request['record']['answer']}), flush=True)
";

const DIES: &str = "import sys
sys.stdin.readline()
sys.exit(3)
";

const NONSENSE: &str = "import sys
for line in sys.stdin:
    print('what?', flush=True)
";
