//! The rewards of exported folders: those of a run, row by row, by the module that an engine calls, in a
//! Python without any package.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::rewards::{letters, serve};
use super::{Bench, assert_says, text};

/// The domains, each with another kind of reward, and the answers to its even and odd rows. Nothing in a
/// prompt says which of them is right, so that a policy is right at times.
const KINDS: [(&str, &str, [&str; 2]); 9] = [
    ("exact", "exact_match", ["ab", "ac"]),
    ("number", "numeric(tolerance: 2)", ["1", "6"]),
    ("pattern", "regex(\"(?<answer>[a-d]b)\")", ["ab", "cb"]),
    ("schema", "json_schema(\"small.json\")", ["5", "8"]),
    ("tested", "unit_tests(tests, time_limit: 20)", ["5", "6"]),
    ("program", "command(\"python3 judge.py\", batch: 3)", ["cab", "dab"]),
    ("function", "python(\"score.py:score\", batch: 3, range: any)", ["cab", "d"]),
    ("server", "http(env(\"JUDGE_URL\"), batch: 3)", ["cab", "dda"]),
    ("mixed", "parts(right: exact_match, form: regex(\"^[a-c]+$\"), weights: [0.7, 0.3])", ["ab", "ad"]),
];

/// A policy that is rewarded in all of them.
fn kinds() -> Bench {
    let bench = Bench::new();
    let mut domains = String::new();
    for (name, reward, answers) in KINDS {
        domains +=
            &format!("domain {name} {{ prompts = \"{name}.jsonl\", reward = {reward}, share = 1/9 }}\n");
        let row = |number: usize| {
            let (answer, tests) = (answers[number % 2], ["assert True", "assert False"][number % 2]);
            format!(
                "{{\"prompt\": \"{name} {number}:\", \"answer\": \"{answer}\", \"tests\": \"{tests}\", \"level\": {number}.5}}\n"
            )
        };
        bench.write(&format!("{name}.jsonl"), &(0..8).map(row).collect::<String>());
    }
    bench.write("small.json", "{\"type\": \"integer\", \"maximum\": 6}");
    bench.write(
        "judge.py",
        "import json, sys\n\
         for line in sys.stdin:\n    \
             asked = json.loads(line)\n    \
             right = asked['completion'][:1] == asked['record']['answer'][:1]\n    \
             print(json.dumps({'id': asked['id'], 'reward': 0.75 if right else 1 / 3}), flush=True)\n",
    );
    bench.write(
        "score.py",
        "def score(batch):\n    \
             return [len(one.completion) * one.record['level'] - len(one.prompt) for one in batch]\n",
    );
    bench.write(
        "tiny.mopd",
        &format!(
            r#"
experiment "kinds" {{ seed = 1 }}

{domains}
model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 40, batch = 18, lr = 1e-2 }}

objective paid {{
  term policy = -(reward - mean(reward, over: group)) * live student.logp
  reduce      = mean(token) then mean(sequence)
}}

model student = distill(start) {{
  objective = paid
  rollout   = sample(n: 2, temperature: 1, max_tokens: 6)
  prompts   = 18
  steps     = 5
  lr        = 1e-4
}}
"#
        ),
    );
    bench
}

/// The completions that a run has recorded: domain, prompt, completion and reward.
fn recorded(bench: &Bench) -> Vec<(String, String, String, f64)> {
    let file = fs::File::open(bench.path("out/samples.parquet")).expect("samples");
    let reader = SerializedFileReader::new(file).expect("a Parquet file");
    let mut samples: BTreeMap<String, (String, String, Vec<String>, f64)> = BTreeMap::new();
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let field = |name: &str| row.get_column_iter().find(|(known, _)| *known == name).expect("a column").1;
        let text = |name: &str| match field(name) {
            Field::Str(text) => text.clone(),
            other => other.to_string(),
        };
        if let ("student", Field::Double(reward)) = (text("stage").as_str(), field("reward")) {
            let key = format!("{} {} {}", text("step"), text("domain"), text("sample"));
            let of_sample = (text("domain"), text("prompt"), Vec::new(), *reward);
            samples.entry(key).or_insert(of_sample).2.push(text("text"));
        }
    }
    // Text of bytes that are no characters is not recorded.
    let known = |tokens: &[String]| tokens.iter().rev().skip(1).all(|token| token.chars().count() == 1);
    let whole = samples.into_values().filter(|(_, _, tokens, _)| known(tokens));
    whole.map(|(domain, prompt, tokens, reward)| (domain, prompt, tokens.concat(), reward)).collect()
}

fn export(bench: &Bench) {
    let words = ["export", "--engine", "trl", "--stage", "student", "tiny.mopd"];
    let output = Command::new(mopd_tests::mopd()).current_dir(bench.folder.path()).args(words).output();
    let output = output.expect("mopd starts");
    assert!(output.status.success(), "{}", text(&output));
}

/// Runs a program in Python beside the service.
fn beside(bench: &Bench, program: &str) -> Output {
    bench.write("program.py", program);
    let (url, _) = serve(letters);
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).env("JUDGE_URL", url).env("PYTHONPATH", "student-trl");
    command.args(["rewards", "student-trl", "--", "python3", "program.py"]).output().expect("mopd starts")
}

/// Python that asks, and what is said of the file with the secret.
const ASK: &str = "import json, os, pathlib
os.environ['http_proxy'] = 'http://127.0.0.1:1'
import mopd_rewards
file = pathlib.Path(mopd_rewards.SERVICE)
print(json.dumps({'mode': file.stat().st_mode & 0o777}))
pathlib.Path('seen').write_text(json.loads(file.read_text())['secret'])
";

#[test]
fn rewards_of_an_exported_folder_are_those_of_a_run() {
    let bench = kinds();
    let (url, _) = serve(letters);
    let mut run = bench.command(&["--out", "out"]);
    let output = run.env("JUDGE_URL", url).output().expect("mopd starts");
    assert!(output.status.success(), "{}", text(&output));
    let recorded = recorded(&bench);
    export(&bench);
    let records = fs::read_to_string(bench.path("student-trl/records.jsonl")).expect("records");
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let number = |domain: &str, prompt: &str| {
        let same = |record: &Value| record["domain"] == domain && record["prompt"] == prompt;
        records.iter().position(same).unwrap_or_else(|| panic!("{domain}: {prompt:?}"))
    };
    // Prompts begin with a special token.
    let plain = |prompt: &str| prompt.rsplit('>').next().expect("a part").to_owned();
    let asked: Vec<(usize, &str)> = recorded
        .iter()
        .map(|(domain, prompt, completion, _)| (number(domain, &plain(prompt)), completion.as_str()))
        .collect();
    bench.write("asked.json", &serde_json::to_string(&asked).expect("JSON"));
    let program = format!(
        "{ASK}asked = json.load(open('asked.json'))\n\
         print(json.dumps(mopd_rewards.judged(*zip(*asked))))\n\
         verls = [mopd_rewards.compute_score('', text, '', {{'record': record}}) for record, text in asked[:5]]\n\
         print(json.dumps(verls))\n\
         raise SystemExit(7)\n"
    );
    let output = beside(&bench, &program);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    let said = String::from_utf8(output.stdout.clone()).expect("text");
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [file, verdicts, verls] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(file["mode"], 0o600);
    let mut of_kinds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (number, (domain, prompt, completion, reward)) in recorded.iter().enumerate() {
        let verdict = &verdicts[number];
        assert_eq!(verdict["reward"].as_f64(), Some(*reward), "{domain}: {prompt:?} {completion:?}");
        assert_eq!(
            verdict["parts"].as_object().map_or(0, |parts| parts.len()),
            2 * usize::from(domain == "mixed")
        );
        of_kinds.entry(domain).or_default().push(*reward);
        assert!(number >= 5 || verls[number] == verdict["reward"]);
    }
    println!("{of_kinds:?}");
    assert_eq!(of_kinds.len(), KINDS.len());
    let mut varied = 0;
    for (kind, rewards) in of_kinds {
        assert!(rewards.len() >= 5 && rewards.iter().any(|reward| *reward != 0.0), "{kind}: {rewards:?}");
        varied += u32::from(rewards.iter().any(|reward| *reward != rewards[0]));
    }
    assert!(varied >= 6, "{varied} kinds");
    // The secret is in the one file, which is gone.
    let secret = fs::read_to_string(bench.path("seen")).expect("the secret");
    assert_eq!(secret.len(), 64);
    assert!(!text(&output).contains(&secret), "{}", text(&output));
    let left: Vec<String> = fs::read_dir(bench.path("student-trl"))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("rewards-service"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A completion that can't be judged ends the training with the cause, also where the program goes on without
/// its reward. A service that is gone is named by whoever asks.
#[test]
fn training_ends_where_rewards_do() {
    let bench = kinds();
    bench.edit(
        "score.py",
        "    return",
        "    assert 'boom' not in [one.completion for one in batch]\n    return",
    );
    export(&bench);
    let record = "function = [line.startswith('{\"domain\":\"function\"') for line in open('student-trl/records.jsonl')]\n\
                  record = function.index(True)\n";
    let began = Instant::now();
    let output = beside(
        &bench,
        &format!(
            "{ASK}{record}print(mopd_rewards.judged([record], ['fine']))\n\
             try:\n    mopd_rewards.judged([record], ['boom'])\nexcept RuntimeError as error:\n    print('caught', error, flush=True)\n\
             import time; time.sleep(1000)\n"
        ),
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(began.elapsed() < Duration::from_secs(100));
    assert_says(
        &text(&output),
        &["caught mopd can't judge a completion: the reward function", "AssertionError"],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(&said, &["the reward function `score.py:score` failed for the prompt"]);
    let output = beside(
        &bench,
        &format!(
            "{ASK}{record}import glob, signal, time\n\
             lists = glob.glob(f'/proc/{{os.getppid()}}/task/*/children')\n\
             children = [child for path in lists for child in open(path).read().split()]\n\
             worker = [child for child in children if open(f'/proc/{{child}}/comm').read() == 'mopd-worker\\n']\n\
             os.kill(int(*worker), signal.SIGKILL)\n\
             time.sleep(0.5)\n\
             mopd_rewards.judged([record], ['fine'])\n"
        ),
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_says(&text(&output), &["does not answer on", "launch.sh starts it", "error[worker"]);
    let secret = fs::read_to_string(bench.path("seen")).expect("the secret");
    assert!(!text(&output).contains(&secret), "{}", text(&output));
}

/// What can't be served or started is said before anything trains.
#[test]
fn a_service_begins_or_says_why_not() {
    let bench = kinds();
    let rewards = |words: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(bench.folder.path()).env("JUDGE_URL", "http://127.0.0.1:1/judge").arg("rewards");
        text(&command.args(words).output().expect("mopd starts"))
    };
    assert_says(
        &rewards(&["student-trl", "--", "true"]),
        &["is no folder of an export", "export the stage again"],
    );
    export(&bench);
    assert_says(&rewards(&["student-trl", "--", "no-such-program"]), &["can't start no-such-program"]);
    fs::remove_file(bench.path("small.json")).expect("it was there");
    assert_says(&rewards(&["student-trl", "--", "true"]), &["the JSON Schema small.json can't be read"]);
}
