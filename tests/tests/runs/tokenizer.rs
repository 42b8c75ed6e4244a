//! A model made from scratch with a tokenizer from a file, end to end with a real worker.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const WORDS: [&str; 8] = ["hello", "world", "sort", "reverse", "answer", "quick", "fox", "dog"];

struct Case {
    folder: TempDir,
}

impl Case {
    /// Makes a folder with the files of a small byte-pair tokenizer in `words`, which the experiment names.
    fn new(tokenizer: &str) -> Case {
        let case = Case { folder: TempDir::new().expect("a temporary folder") };
        fs::create_dir(case.path("words")).expect("a folder");
        for file in fs::read_dir(mopd_tests::root().join("tests/reference/text/smollm")).expect("a tokenizer")
        {
            let file = file.expect("a file");
            fs::copy(file.path(), case.path("words").join(file.file_name())).expect("copying");
        }
        let line = |word: &&str| format!("{{\"prompt\": \"copy: {word} =\", \"answer\": \"{word}\"}}\n");
        fs::write(case.path("copy.jsonl"), WORDS.iter().map(line).collect::<String>()).expect("data");
        let source = format!(
            r#"use std.opd.mopd

experiment "words" {{ seed = 1 }}

domain copy {{ prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match }}

model base   = llama {{ layers = 1, width = 32, heads = 2, context = 64, tokenizer = "{tokenizer}" }}
model start  = sft(base, on: domains) {{ target = answer, steps = 150, batch = 8, lr = 1e-2 }}
model expert = grpo(start, on: domains) {{ steps = 2, prompts = 4, samples = 4, max_tokens = 8, lr = 1e-3 }}

teacher judge = expert
route {{ else -> judge }}

model student = distill(start) {{
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 8)
  prompts   = 8
  steps     = 3
  lr        = 1e-3
}}

compare "t" {{ models = [base, start, student], samples = 2, temperature = 1.0, max_tokens = 8 }}
"#
        );
        fs::write(case.path("words.mopd"), source).expect("an experiment");
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mopd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).output().expect("mopd starts")
    }

    /// The results of a run that succeeds.
    fn run(&self) -> Value {
        let output = self.mopd(&["run", "words.mopd", "--out", "out"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&fs::read(self.path("out/results.json")).expect("results")).expect("JSON")
    }

    fn refused(&self) -> String {
        let output = self.mopd(&["run", "words.mopd", "--out", "out"]);
        assert!(!output.status.success(), "{}", said(&output));
        let said = said(&output);
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    fn weights(&self, model: &str) -> Vec<u8> {
        fs::read(self.path(&format!("out/models/{model}-seed1/model.safetensors"))).expect("a model")
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn computed(results: &Value) -> usize {
    results["stages"].as_array().expect("stages").len()
}

#[test]
fn a_model_from_scratch_has_the_tokenizer_of_a_file() {
    let case = Case::new("words/tokenizer.json");
    let results = case.run();
    assert_eq!(computed(&results), 4);
    let score = &results["tables"][0]["rows"][1]["scores"]["copy"]["mean"];
    assert!(score.as_f64().expect("a score") > 0.8, "{score}");
    // Every model is saved with the tokenizer, and uses it.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let saved = fs::read(case.path(&format!("out/models/student-seed1/{file}"))).expect("the tokenizer");
        assert_eq!(saved, fs::read(case.path("words").join(file)).expect("the tokenizer"));
    }
    let sampled =
        case.mopd(&["sample", "out/models/start-seed1", "--prompt", "copy: quick =", "--temperature", "0"]);
    assert!(said(&sampled).contains("quick"), "{}", said(&sampled));

    // The plan shows what is known only from the files.
    let plan = said(&case.mopd(&["plan", "words.mopd"]));
    assert!(plan.contains("tokenizer \"words/tokenizer.json\"") && plan.contains("predicted"), "{plan}");

    // The folder of a tokenizer means the same as its file.
    let folder = Case::new("words");
    folder.run();
    assert!(folder.weights("student") == case.weights("student"), "other weights");

    // The file's content is part of every stage's key; its time is not.
    let tokenizer = case.path("words/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).expect("the tokenizer");
    fs::write(&tokenizer, &text).expect("writing");
    assert_eq!(computed(&case.run()), 0);
    let mut edited: Value = serde_json::from_str(&text).expect("JSON");
    let vocabulary = edited["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let ids: Vec<Value> = letters.iter().map(|letter| vocabulary[letter].clone()).collect();
    for (letter, id) in letters.iter().rev().zip(ids) {
        vocabulary[letter] = id;
    }
    fs::write(&tokenizer, edited.to_string()).expect("writing");
    let before = case.weights("student");
    assert_eq!(computed(&case.run()), 4);
    assert!(case.weights("student") != before, "the same weights");
}

#[test]
fn a_file_that_is_no_tokenizer_is_said_at_its_model() {
    let case = Case::new("letters/tokenizer.json");
    let said = case.refused();
    assert!(
        said.contains("letters/tokenizer.json: there is no such file") && said.contains("model base"),
        "{said}"
    );

    let case = Case::new("copy.jsonl");
    let said = case.refused();
    assert!(said.contains("copy.jsonl: a tokenizer is a folder, or the `tokenizer.json` in it"), "{said}");

    let case = Case::new("words");
    for hostile in
        ["", "{}", "[[[[", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 4294967295}, \"merges\": []}}"]
    {
        fs::write(case.path("words/tokenizer.json"), hostile).expect("writing");
        let said = case.refused();
        assert!(said.contains("words/tokenizer.json: ") && said.contains("model base"), "{said}");
    }
}
