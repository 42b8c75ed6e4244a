//! Features for shells and logs: completions, manual pages, quiet and verbose commands, colours, log files,
//! dry runs, the list of runs, experiments on standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{GOOD, Place, Said};

/// A worker's script: a short run that succeeds.
const FINISH: &str = r#"
ready()
if job["job"] == "files":
    say("finished", seconds=1.0, peak_memory=1)
    sys.exit()
say("started", tasks=1, kept=0)
say("warning", message="half of the rewards are 0")
say("stage_started", stage="start", seed=1, steps=2)
say("stage_finished", stage="start", seed=1, seconds=1.0)
json.dump({"schema": 1, "experiment": "tiny", "plan": job["plan"]["hash"], "seeds": [1],
    "versions": {"mopd": "VERSION", "libtorch": "2.11.0"}, "tables": [{"name": "tiny", "metric": "pass@1", "samples": 2,
    "domains": [], "rows": []}], "seconds": 75.0, "peak_memory": 1 << 30}, open(job["out"] + "/results.json", "w"))
say("finished", seconds=75.0, peak_memory=1 << 30)
"#;

fn place() -> Place {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.worker(&FINISH.replace("VERSION", env!("CARGO_PKG_VERSION")));
    place
}

/// Runs a command with this text as its standard input.
fn reading(mut command: Command, text: &str) -> Said {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("mopd starts");
    // A command that does not read its input reports why.
    let _ = child.stdin.take().expect("a pipe").write_all(text.as_bytes());
    Said::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn shells_complete_commands_and_options() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.mopd(&["completions", shell]).is(0, &[]).out;
        for word in ["watch", "checkpoint-every", "log-file"] {
            assert!(script.contains(word), "{shell}: no {word:?}");
        }
    }
    place.mopd(&["completions", "tcsh"]).is(2, &["bash, elvish, fish, powershell, zsh"]);
    // Installed shells accept the scripts.
    let script = place.mopd(&["completions", "bash"]).out;
    let bash = "COMP_WORDS=(mopd run --fr); COMP_CWORD=2; _mopd mopd --fr run; echo \"${COMPREPLY[*]}\"";
    place.write("mopd.bash", &format!("{script}\n{bash}\n"));
    let output = Command::new("bash").arg(place.path("mopd.bash")).output().expect("bash starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "--fresh --from", "{output:?}");
}

#[test]
fn every_command_has_a_page() {
    let place = Place::new();
    let page = place.mopd(&["man"]).is(0, &[]).out;
    assert!(page.contains(".TH mopd 1") && page.contains("mopd\\-run(1)"), "{page}");
    let page = place.mopd(&["man", "run"]).is(0, &[]).out;
    assert!(page.contains("\\-\\-checkpoint\\-every") && page.contains("mopd\\-run"), "{page}");
    place.mopd(&["man", "rnu"]).is(2, &["mopd has no command `rnu`", "did you mean `mopd man run`?"]);
    let listed = place.mopd(&["man", "--out", "man1"]).is(0, &[]).out;
    for name in ["man1/mopd.1", "man1/mopd-run.1", "man1/mopd-cache-prune.1"] {
        assert!(listed.lines().any(|line| line == name), "no {name} in {listed}");
        assert!(place.read(name).contains("\n.SH NAME\n"), "{name}");
    }
}

#[test]
fn a_quiet_command_says_what_is_wrong() {
    let place = place();
    place.write("bad.mopd", "let a = b\n");
    place.mopd(&["check", "bad.mopd", "--quiet"]).is(1, &[]);
    assert_eq!(place.mopd(&["-q", "check", "a.mopd"]).is(0, &[]).err, "");
    let run = place.mopd_with_worker(&["run", "-q", "a.mopd"]).is(0, &["warning: half of the rewards are 0"]);
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    assert!(run.out.contains("tiny: pass@1"), "{run:?}");
    place.mopd(&["run", "-q", "none.mopd"]).is(2, &["error[unreadable-file]"]);
}

#[test]
fn a_verbose_run_names_what_it_uses() {
    let place = place();
    let run = place.mopd_with_worker(&["run", "--verbose", "a.mopd"]);
    run.is(
        0,
        &[
            "read a.mopd",
            "store .mopd/store",
            &format!("worker {}", place.path("worker").display()),
            "start: key ",
        ],
    );
}

#[test]
fn colours_are_as_they_are_asked_for() {
    let place = Place::with(&[("bad.mopd", "let a = b\n")]);
    let coloured = |arguments: &[&str]| place.mopd(arguments).is(1, &[]).out.contains("\u{1b}[");
    assert!(!coloured(&["check", "bad.mopd"]));
    assert!(coloured(&["check", "--color", "always", "bad.mopd"]));
    assert!(!coloured(&["check", "--color", "never", "bad.mopd"]));
    let mut command = place.command(&["--color=always", "check", "bad.mopd"]);
    assert!(Said::of(command.env("NO_COLOR", "1").output().expect("mopd starts")).out.contains("\u{1b}["));
}

#[test]
fn a_log_file_has_what_was_said() {
    let place = place();
    let arguments = ["run", "--quiet", "--color", "always", "--log-file", "run.log", "a.mopd"];
    place.mopd_with_worker(&arguments).is(0, &[]);
    let log = place.read("run.log");
    for part in [
        "warning: half of the rewards are 0",
        "start: finished in 1.0 s; 1 of 1 stage done",
        "results in runs/tiny",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    for line in log.lines() {
        let time = line.get(..20).unwrap_or_default();
        assert!(time.starts_with("20") && time.ends_with(' ') && time.matches(':').count() == 2, "{line}");
    }
    assert!(!log.contains('\u{1b}'), "{log}");
    // The next command appends to it.
    place.mopd(&["check", "--log-file", "run.log", "a.mopd"]).is(0, &["ok: tiny"]);
    let longer = place.read("run.log");
    assert!(
        longer.starts_with(&log) && longer.ends_with("ok: tiny: 4 models, 1 domain, 1 table\n"),
        "{longer}"
    );
    place.mopd(&["check", "--log-file", "no/such/run.log", "a.mopd"]).is(2, &["can't write no/such/run.log"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = place();
    let dry = ["run", "--dry-run", "a.mopd"];
    let said = place.mopd_with_worker(&dry).is(0, &[]);
    for part in
        ["tiny: 4 models on 1 seed, 1 table: base, start, expert, student\n", "results in runs/tiny\n"]
    {
        assert!(said.out.contains(part), "no {part:?} in {said:#?}");
    }
    assert!(!place.path("runs").exists() && !place.path(".mopd").exists());
    let json = place.mopd_with_worker(&["run", "--dry-run", "--format", "json", "a.mopd"]).is(0, &[]).json();
    assert_eq!((&json["event"], &json["runs"][0]["out"]), (&"dry_run".into(), &"runs/tiny".into()));
    place.mopd_with_worker(&["run", "a.mopd"]).is(0, &[]);
    let same = place.mopd_with_worker(&dry).is(0, &[]).out;
    assert!(same.contains("results in runs/tiny, which has those of the same plan\n"), "{same}");
    let other = place.mopd_with_worker(&["run", "--dry-run", "--set", "seed=7", "a.mopd"]).is(0, &[]).out;
    assert!(other.contains("they are moved to runs/tiny/previous"), "{other}");
    // A run that can't begin has the exit status of its error.
    place.mopd(&dry).is(2, &["error[no-worker]"]);
    place.mopd_with_worker(&["run", "--dry-run", "--from", "exprt", "a.mopd"]).is(2, &["unknown-stage"]);
    std::fs::remove_file(place.path("sort.jsonl")).expect("it was there");
    place.mopd_with_worker(&dry).is(0, &["warning[missing-file]"]);
    place.worker(
        "ready()\nsay('refused', kind='data', message='it is empty')\nsay('finished', seconds=1.0, peak_memory=1)",
    );
    let refused = place.mopd_with_worker(&dry).is(1, &["error[data]: it is empty"]);
    assert!(refused.out.is_empty(), "{refused:#?}");
}

#[test]
fn a_folder_for_results_must_be_one() {
    let place = place();
    place.write("f", "");
    for out in ["f", "f/deeper"] {
        for dry in [&[][..], &["--dry-run"]] {
            let run = [&["run", "a.mopd", "--out", out], dry].concat();
            place
                .mopd_with_worker(&run)
                .is(2, &[&format!("{out} cannot be the folder of results: f is a file")]);
        }
    }
    // No user can create a folder there, not even root.
    let nowhere = ["run", "a.mopd", "--dry-run", "--out", "/proc/none"];
    place.mopd_with_worker(&nowhere).is(2, &["error[can't-write]", "can't write /proc/none"]);
}

#[test]
fn runs_are_listed_with_their_state() {
    let place = place();
    place.mopd(&["ls"]).is(2, &["can't read runs"]);
    place.mopd_with_worker(&["run", "a.mopd"]).is(0, &[]);
    place.mopd_with_worker(&["run", "--out", "runs/deep/other", "a.mopd"]).is(0, &[]);
    std::fs::remove_file(place.path("runs/deep/other/results.json")).expect("it was there");
    let said = place.mopd(&["ls"]).is(0, &[]).out;
    let rows: Vec<&str> = said.lines().filter(|line| line.contains("runs/")).collect();
    let [other, tiny] = rows.as_slice() else { panic!("{said}") };
    assert!(other.contains("| runs/deep/other | tiny       | unfinished |"), "{said}");
    assert!(tiny.contains("| finished   |") && tiny.contains("1 min 15 s | tiny "), "{said}");

    let lock = std::fs::File::open(place.path("runs/deep/other")).expect("a folder");
    drop(lock);
    let lock = std::fs::File::create(place.path("runs/deep/other/.lock")).expect("a file");
    lock.lock().expect("a lock");
    let lines = place.mopd(&["ls", "--format", "json", "runs/deep"]).is(0, &[]).out;
    let run: serde_json::Value = serde_json::from_str(&lines).expect("one line");
    assert_eq!((&run["state"], &run["seconds"]), (&"running".into(), &serde_json::Value::Null));

    place.write("empty/readme", "");
    place.mopd(&["ls", "empty"]).is(0, &["no runs here"]);
}

#[test]
fn an_experiment_may_come_on_standard_input() {
    let place = place();
    let good = reading(place.command(&["check", "-"]), GOOD).is(0, &["ok: tiny"]);
    assert_eq!(good.out, "");
    let bad = reading(place.command(&["check", "--format", "json", "-"]), "let a = b\n").is(1, &[]).json();
    assert_eq!((&bad[0]["file"], &bad[0]["code"]), (&"-".into(), &"unknown-name".into()));
    let run = reading(place.with_worker(&["run", "--format", "json", "-"]), GOOD).is(0, &[]);
    let last: serde_json::Value =
        serde_json::from_str(run.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["event"], &last["out"]), (&"results".into(), &"runs/tiny".into()));
    assert_eq!(place.read("runs/tiny/source.mopd"), GOOD);
    reading(place.command(&["check", "--fix", "-"]), GOOD).is(2, &["`--fix` changes files in place"]);
    reading(place.command(&["watch", "-"]), GOOD).is(2, &["`watch` waits for saves of a file"]);
}

/// The generated experiment runs like any other.
#[test]
fn models_are_evaluated_on_files() {
    let place = place();
    place.write("a/tuned/mopd.json", "{}");
    place.write("sort.test.jsonl", "{\"prompt\": \"ba\", \"answer\": \"ab\"}\n");
    place.write("7.jsonl", "{\"prompt\": \"ba\", \"answer\": \"ab\"}\n");
    let arguments = [
        "eval",
        "a/tuned",
        "b/tuned",
        "--on",
        "sort.test.jsonl",
        "--on",
        "7.jsonl",
        "--reward",
        "exact_match",
        "--samples",
        "4",
        "--max-tokens",
        "8",
        "--metric",
        "pass_at(4)",
        "--metric",
        "length",
        "--chat",
        "--system",
        "Say \"it\".",
    ];
    place.mopd_with_worker(&arguments).is(
        0,
        &["results in runs/eval", "a_tuned is a/tuned\n", "b_tuned is b/tuned\n", "on_7 is 7.jsonl\n"],
    );
    assert_eq!(
        place.read("runs/eval/source.mopd"),
        r#"experiment "eval" { seed = 1 }

eval sort_test {
  prompts = "sort.test.jsonl"
  reward = exact_match
  format = chat
  samples = 4
  temperature = 1
  max_tokens = 8
  system = "Say \"it\"."
  metrics = [pass_at(4), length]
}

eval on_7 {
  prompts = "7.jsonl"
  reward = exact_match
  format = chat
  samples = 4
  temperature = 1
  max_tokens = 8
  system = "Say \"it\"."
  metrics = [pass_at(4), length]
}

model a_tuned = checkpoint("a/tuned")
model b_tuned = hf("b/tuned")

compare "eval" { models = [a_tuned, b_tuned], on = [sort_test, on_7] }
"#
    );
    place
        .mopd(&["eval", "a/tuned", "--on", "gone.jsonl", "--reward", "exact_match"])
        .is(2, &["there is no file gone.jsonl"]);
    // Errors are reported for the words of the command, because the user can't see the generated text.
    let eval = ["eval", "a/tuned", "--on", "7.jsonl"];
    let said = place
        .mopd(&[&eval[..], &["--reward", "exactmatch"]].concat())
        .is(1, &["unknown-name", "exact_match", "\n  in `--reward exactmatch`\n"]);
    assert!(!said.err.contains("[-:"), "{said:#?}");
    place
        .mopd(&[&eval[..], &["--reward", "exact_match", "--metric", "pass_at(9)"]].concat())
        .is(1, &["  in `--metric pass_at(9)`\n"]);
    place.mopd(&eval).is(2, &["--reward"]);
    let judged = ["--reward", "judge.py:score", "--fields", "prompt=question,answer=solution"];
    place.mopd_with_worker(&[&eval[..], &judged].concat()).is(0, &[]);
    let source = place.read("runs/eval/source.mopd");
    for part in [
        "reward = python(\"judge.py:score\")\n",
        "fields = columns(prompt: \"question\", answer: \"solution\")\n",
    ] {
        assert!(source.contains(part), "{source}");
    }
    let wrong = ["--reward", "exact_match", "--fields", "question"];
    place.mopd(&[&eval[..], &wrong].concat()).is(2, &["`--fields` must be `FIELD=COLUMN`, not `question`"]);
}
