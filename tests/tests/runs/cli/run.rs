//! `mopd run`, with a scripted worker.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{GOOD, Place, Said};

/// A worker's script: a run that succeeds and leaves a table.
const FINISH: &str = r#"
ready()
say("started", tasks=2, kept=0)
say("stage_started", stage="start", seed=1, steps=2)
say("step", stage="start", seed=1, step=1, steps=2, metric="loss", value=2.5, loss=2.5, domains=[], rows=[],
    tokens=12, seconds={"rollout": 0.5, "scoring": 0.25, "update": 0.25})
say("warning", message="half of the rewards are 0")
say("stage_finished", stage="start", seed=1, seconds=1.0)
say("stage_kept", stage="student", seed=1)
row = lambda model, mean: {"model": model, "scores": {"sort": {"mean": mean, "low": mean - 0.03, "high": mean + 0.03, "n": 200}},
    "normalized": {"mean": 0.95, "low": 0.92, "high": 0.98}, "normalized_by_seed": [0.95], "spread": 0.03}
table = {"name": "tiny", "metric": "pass@1", "samples": 2, "domains": ["sort"], "rows": [row("start", 0.46), row("student", 0.72)]}
json.dump({"schema": 1, "experiment": "tiny", "plan": "h", "seeds": [1], "versions": {"mopd": "VERSION", "libtorch": "2.11.0"},
    "tables": [table], "seconds": 75.0, "peak_memory": 1 << 30}, open(job["out"] + "/results.json", "w"))
json.dump(job, open("job.json", "w"))
say("finished", seconds=75.0, peak_memory=1 << 30)
"#;

fn place(script: &str) -> Place {
    let place = Place::with(&[("sub/a.mopd", GOOD)]);
    place.worker(script);
    place
}

fn play(script: &str) -> Said {
    place(script).mopd_with_worker(&["run", "sub/a.mopd"])
}

/// Nothing in a folder that no run has written to is replaced or removed.
#[test]
fn a_folder_of_the_user_is_refused() {
    let place = place(FINISH);
    let own =
        [("mine/modules/own.mopd", "text"), ("mine/previous/thesis.txt", "text"), ("mine/plan.json", "{}")];
    own.iter().for_each(|(name, text)| place.write(name, text));
    for command in
        [&["run", "sub/a.mopd", "--out", "mine"][..], &["run", "sub/a.mopd", "--out", "mine", "--dry-run"]]
    {
        let parts = [
            "not-a-run",
            "mine is not a folder of results, and has `plan.json`, `modules`, `previous`",
            "--out DIR",
        ];
        place.mopd_with_worker(command).is(2, &parts);
    }
    for (name, text) in own {
        assert_eq!(std::fs::read_to_string(place.path(name)).expect("it is there"), text);
    }
    // Other files are not in the way, and a folder that has results is used again.
    place.write("notes/ideas.txt", "text");
    for _ in 0..2 {
        place.mopd_with_worker(&["run", "sub/a.mopd", "--out", "notes"]).is(0, &["results in notes"]);
    }
    assert!(place.path("notes/ideas.txt").is_file());
}

#[test]
fn a_run_ends_with_its_table() {
    let place = place(FINISH);
    let said = place.mopd_with_worker(&["run", "sub/a.mopd"]).is(
        0,
        &["warning: half of the rewards are 0", "1 min 15 s, peak memory 1.00 GiB, results in runs/tiny"],
    );
    assert_eq!(
        said.out,
        "\
tiny: pass@1, 2 samples a prompt at temperature 1, 200 prompts, seed 1; mean [95% interval]

| model   |              sort |        normalized | spread |
|---------|-------------------|-------------------|--------|
| start   | 0.46 [0.43, 0.49] | 0.95 [0.92, 0.98] |   0.03 |
| student | 0.72 [0.69, 0.75] | 0.95 [0.92, 0.98] |   0.03 |
"
    );
    // Standard error is not a terminal here, so it has a log, then the last line.
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        logged(&said.err),
        [
            &format!("mopd {version}, libtorch 2.11.0, cpu, 2 threads; progress every 30 s"),
            "2 stages, 0 of them kept from before",
            "warning: half of the rewards are 0",
            "start: finished in 1.0 s; 1 of 2 stages done",
        ]
    );

    assert_eq!(place.read("runs/tiny/source.mopd"), GOOD);
    let job: serde_json::Value = serde_json::from_str(&place.read("job.json")).expect("a job");
    let plan: serde_json::Value = serde_json::from_str(&place.read("runs/tiny/plan.json")).expect("a plan");
    assert_eq!(job["plan"], plan);
    let rest =
        ["job", "base", "store", "out"].map(|field| job[field].as_str().unwrap_or_default().to_owned());
    assert_eq!(rest, ["run", "sub", ".mopd/store", "runs/tiny"]);
    assert_eq!(job["fresh"], false);
    assert!(job["workers"].is_null());
}

/// The lines that begin with a time, without the time.
fn logged(err: &str) -> Vec<&str> {
    let stamped = |line: &&str| {
        let shape = line.get(..20).unwrap_or_default().chars();
        let shape: String = shape.map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        shape == "0000-00-00 00:00:00 "
    };
    err.lines().filter(stamped).map(|line| &line[20..]).collect()
}

/// Without a terminal, a running stage is logged at the interval, even while nothing happens.
#[test]
fn a_log_says_where_stages_stand() {
    let script = r#"
ready()
time.sleep(1.5)
say("started", tasks=2, kept=1)
for seconds, memory in [(60.0, 3 << 20), (90.5, 2 << 20)]:
    say("predicted", stage="start", seed=1, prediction={"seconds": seconds, "rollout": 1.0, "scoring": 1.0,
        "update": 1.0, "memory": memory})
say("prediction_ended", seconds=3.2, short=0, late=0)
say("stage_started", stage="start", seed=1, steps=4)
say("stage_resumed", stage="start", seed=1, step=1)
say("step", stage="start", seed=1, step=1, steps=4, metric="loss", value=2.5, loss=2.5, domains=[], rows=[],
    tokens=12, seconds={"rollout": 0.5, "scoring": 0.25, "update": 0.25})
say("checkpoint", stage="start", seed=1, key="k", step=2)
time.sleep(2.5)
say("stage_finished", stage="start", seed=1, seconds=2.5)
say("failed", kind="data", message="that is all", help=None, origin=None, stage=None, seed=None, step=None)
sys.exit(1)
"#;
    let said = place(script).mopd_with_worker(&["run", "--log-every", "1s", "sub/a.mopd"]);
    let lines = logged(&said.err);
    let at = |wanted: &str| {
        lines.iter().position(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{wanted}: {said:?}"))
    };
    let order = [
        at("progress every 1 s"),
        at("reading data and models"),
        at("2 stages, 1 of them kept from before"),
        at(
            "time and memory of 2 stages predicted in 3.2 s: about 2 min 31 s one after another, at most 3.00 \
            MiB in one",
        ),
        at("start: resumes at step 1"),
        at("start: step 2 of 4, "),
        at("start: finished in 2.5 s; 1 of 2 stages done"),
        at("2 of 2 stages are finished and kept in .mopd/store"),
    ];
    assert!(order.is_sorted(), "{lines:?}");
    let stands = lines[order[5]];
    assert!(stands.contains(" left, loss 2.500, checkpoint at step 2"), "{stands}");
    assert!(lines.iter().filter(|line| line.starts_with("start: step 2 of 4, ")).count() >= 2, "{lines:?}");
}

#[test]
fn options_reach_the_worker() {
    let place = place(FINISH);
    let arguments =
        ["run", "--set", "seed=5", "--out", "elsewhere/deep", "--fresh", "--workers", "1", "sub/a.mopd"];
    place.mopd_with_worker(&arguments).is(0, &["results in elsewhere/deep"]);
    let job: serde_json::Value = serde_json::from_str(&place.read("job.json")).expect("a job");
    assert_eq!(
        (&job["fresh"], &job["workers"], &job["out"]),
        (&true.into(), &1.into(), &"elsewhere/deep".into())
    );
    assert_eq!(job["plan"]["experiment"]["seed"], 5);
    let provenance: serde_json::Value =
        serde_json::from_str(&place.read("elsewhere/deep/provenance.json")).expect("JSON");
    assert_eq!(provenance["set"], serde_json::json!({ "seed": "5" }));
    assert!(!place.path("elsewhere/deep/modules").exists(), "no module but the standard library's was read");
}

#[test]
fn modules_are_kept_with_the_results() {
    let place = place(FINISH);
    let text = GOOD
        .replace("use std.opd.mopd\n", "use std.opd.mopd\nuse mine.rate\nuse inner.mine.other\n")
        .replace("lr        = 1e-3", "lr = rate + other");
    place.write("sub/a.mopd", &text);
    // Two modules with the same file name.
    place.write("sub/mine.mopd", "pub let rate = 1e-3\n");
    place.write("sub/inner/mine.mopd", "pub let other = 1e-4\n");
    place.mopd_with_worker(&["run", "sub/a.mopd"]).is(0, &[]);
    assert_eq!(place.read("runs/tiny/source.mopd"), text);
    assert_eq!(place.read("runs/tiny/modules/mine.mopd"), "pub let rate = 1e-3\n");
    assert_eq!(place.read("runs/tiny/modules/inner/mine.mopd"), "pub let other = 1e-4\n");
}

#[test]
fn run_passes_events_through() {
    let said = place(FINISH).mopd_with_worker(&["run", "--format", "json", "sub/a.mopd"]).is(0, &[]);
    let events: Vec<serde_json::Value> = said
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let times: Vec<&str> = events.iter().filter_map(|event| event["time"].as_str()).collect();
    assert!(times.len() == events.len() && times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|time| time.len() == "2026-11-23T14:57:50.125Z".len()), "{times:?}");
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(
        names,
        [
            "ready",
            "started",
            "stage_started",
            "step",
            "warning",
            "stage_finished",
            "stage_kept",
            "finished",
            "results"
        ]
    );
}

#[test]
fn a_failure_points_at_the_source() {
    let place = place(
        r#"
ready()
say("started", tasks=4, kept=0)
say("stage_started", stage="start", seed=1, steps=2)
say("stage_finished", stage="start", seed=1, seconds=1.0)
model = next(model for model in job["plan"]["experiment"]["models"] if model["name"] == "student")
say("failed", kind="non_finite", message="the loss of term distill is not finite", help="lower the learning rate",
    origin=model["origin"], stage="student", seed=1, step=17)
sys.exit(1)
"#,
    );
    let said = place.mopd_with_worker(&["run", "sub/a.mopd"]).is(
        1,
        &[
            "error[non-finite]: the loss of term distill is not finite\n",
            "sub/a.mopd:15:",
            "model student = distill(start)",
            "note: in stage student, seed 1, step 17",
            "help: lower the learning rate",
            "1 of 4 stages are finished and kept in .mopd/store",
        ],
    );
    assert_eq!(said.out, "");
}

#[test]
fn a_failure_without_a_place() {
    let said = play(
        "ready()\nsay('failed', kind='storage', message='the disk is full', help=None, origin=999999, \
         stage=None, seed=None, step=None)\nsys.exit(1)",
    );
    said.is(1, &["error[storage]: the disk is full\n", "no stage was finished"]);
}

#[test]
fn stages_that_a_run_did_not_come_to_are_kept_too() {
    play("ready()\nsay('started', tasks=5, kept=4)\nsay('interrupted', finished=0, tasks=5)\nsys.exit(130)")
        .is(130, &["4 of 5 stages are finished and kept in .mopd/store; the next run reuses them"]);
}

/// On Unix an argument is bytes, not text.
#[test]
fn a_path_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let place = place(FINISH);
    let mut command = place.with_worker(&["run", "sub/a.mopd", "--out"]);
    command.arg(std::ffi::OsStr::from_bytes(b"runs/\xff"));
    let said = Said::of(command.output().expect("mopd starts"));
    said.is(2, &["error[not-text]: the path runs/", "is not UTF-8 text"]);
}

#[test]
fn text_of_others_does_not_steer_the_terminal() {
    // Control characters that clear the screen, write the clipboard, reverse text, or hide it.
    let hostile = "\\x1b[2J\\x1b]52;c;eA==\\x07\\x9b8m\\u202e\\u2066\\x1b[8m\\r";
    let script = format!(
        "ready()\nsay('warning', message='w{hostile}')\nprint('e{hostile}', file=sys.stderr, \
         flush=True)\nprint('o{hostile}', flush=True)\nsay('failed', kind='storage', message='m{hostile}', \
         help='h{hostile}', origin=None, stage='s{hostile}', seed=1, step=None)\nsys.exit(1)"
    );
    let safe = |text: &str| {
        !text.chars().any(|c| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{2069}').contains(&c))
    };
    let spelled = "\\u001b[2J\\u001b]52;c;eA==\\u0007\\u009b8m\\u202e\\u2066\\u001b[8m";
    let said = play(&script).is(
        1,
        &[&format!("w{spelled}"), &format!("m{spelled}"), &format!("h{spelled}"), &format!("s{spelled}")],
    );
    assert!(safe(&said.out) && safe(&said.err), "{said:?}");
    let place = place(&script);
    let said = place.mopd_with_worker(&["run", "--format", "json", "sub/a.mopd"]).is(1, &[]);
    assert!(safe(&said.out), "{said:?}");
    let failed = said
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|line| line["event"] == "failed");
    assert_eq!(
        failed.unwrap()["message"],
        "m\u{1b}[2J\u{1b}]52;c;eA==\u{7}\u{9b}8m\u{202e}\u{2066}\u{1b}[8m\r"
    );
}

#[test]
fn run_reports_a_worker_that_dies() {
    play("ready()\nos.kill(os.getpid(), signal.SIGKILL)").is(
        1,
        &[
            "error[worker-died]",
            "signal 9",
            "memory",
            "the next stage had not \
            started",
            "mopd plan --predict",
        ],
    );
    // All stages are kept; only evaluations remain.
    let kept = "say('stage_kept', stage='start', seed=1)\nsay('stage_kept', stage='student', seed=1)";
    play(&format!("ready()\nsay('started', tasks=2, kept=2)\n{kept}\nos.kill(os.getpid(), signal.SIGKILL)"))
        .is(1, &["error[worker-died]", "all stages were finished", "of evaluations"]);
    let killed = r#"
ready()
say("started", tasks=2, kept=0)
say("stage_started", stage="start", seed=1, steps=2)
say("stage_started", stage="student", seed=1, steps=150)
say("step", stage="student", seed=1, step=16, steps=150, metric="loss", value=2.5, loss=2.5, domains=[], rows=[],
    tokens=12, seconds={"rollout": 0.5, "scoring": 0.25, "update": 0.25})
os.kill(os.getpid(), signal.SIGKILL)
"#;
    play(killed).is(
        1,
        &[
            "error[worker-died]",
            "at work: `start`",
            "`student` at step 17 of 150",
            "of `student`, set `micro_batch = 1`, which only changes the rounding of sums, or lower \
            `prompts = ",
            "`max_tokens = ",
            "run fewer stages in parallel (2 were): `--workers 1`",
        ],
    );
    play("ready()\nos.kill(os.getpid(), signal.SIGSEGV)")
        .is(1, &["error[worker-died]", "signal 11", "memory fault"]);
    let silent = play("print('about to go', file=sys.stderr)\nsys.exit(3)");
    silent.is(1, &["about to go", "exited without reporting a result (exit status 3)", "mopd doctor"]);
    // The worker ends before it has read the job, which is longer than a pipe's buffer.
    let place = Place::with(&[("a.mopd", &format!("{GOOD}{}", "// padding\n".repeat(20_000)))]);
    place.worker("");
    place.write("worker", "#!/bin/sh\nexit 4\n");
    place.mopd_with_worker(&["run", "a.mopd"]).is(1, &["exit status 4"]);
}

#[test]
fn a_worker_that_talks_nonsense() {
    // Other output of libraries on standard output is passed on and does no harm.
    let chatty = format!(
        "print('hello \\x1b[2J from a library')\nsys.stdout.buffer.write(b'\\xff\\xfe\\n')\n{FINISH}"
    );
    play(&chatty).is(0, &["hello \\u001b[2J from a library"]);
    play("print('{\"event\": \"dance\"}', flush=True)\ntime.sleep(60)")
        .is(1, &["error[worker-protocol]", "from one build"]);
    play("print('{\"event\": \"step\"', flush=True)\ntime.sleep(60)").is(1, &["error[worker-protocol]"]);
    play(
        "say('ready', versions={'mopd': '9.9.9', 'libtorch': '2'}, device='cpu', threads=1)\ntime.sleep(60)",
    )
    .is(1, &["error[worker-protocol]", "version 9.9.9"]);
}

#[test]
fn results_that_are_missing_or_broken() {
    play("ready()\nsay('finished', seconds=1.0, peak_memory=1)")
        .is(1, &["error[no-results]", "results.json", "no such file"]);
    play(
        "ready()\nopen(job['out'] + '/results.json', 'w').write('{')\nsay('finished', seconds=1.0, \
         peak_memory=1)",
    )
    .is(1, &["error[no-results]"]);
}

#[test]
fn results_that_have_nowhere_to_go() {
    let place = place(FINISH);
    place.write("runs", "a file in the way");
    place.mopd_with_worker(&["run", "sub/a.mopd"]).is(2, &["error[can't-write]", "runs/tiny"]);
}

#[test]
fn run_without_a_worker_is_refused() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.mopd(&["run", "a.mopd"]).is(2, &["error[no-worker]", "./x build", "MOPD_WORKER"]);
    assert!(!place.path("runs").exists(), "nothing is written before it is known that the run can start");
}

/// Runs until the worker waits, sends SIGINT to both as a terminal does, and returns the output.
fn interrupt(script: &str, times: u32) -> Said {
    let place = place(script);
    let mut child = place
        .with_worker(&["run", "--format", "json", "sub/a.mopd"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mopd starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("stage_started") {
        line.clear();
        assert!(out.read_line(&mut line).expect("text") > 0, "the worker ended early");
    }
    let worker = place.read("pid");
    let mut said = String::new();
    for time in 0..times {
        // First both get the signal, as from a terminal; later the worker may have ended.
        let mut targets = vec![child.id().to_string()];
        targets.extend((time == 0).then(|| worker.clone()));
        let sent = std::process::Command::new("kill").arg("-INT").args(&targets).status();
        assert!(sent.expect("kill runs").success());
        if time == 0 {
            err.read_line(&mut said).expect("text");
            place.write("answered", "");
        }
    }
    err.read_to_string(&mut said).expect("text");
    let status = child.wait().expect("it ends").code();
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    Said { out: rest, err: said, status }
}

const WAIT: &str = r#"
ready()
open("pid", "w").write(str(os.getpid()))
say("started", tasks=3, kept=0)
say("stage_kept", stage="base", seed=1)
say("stage_started", stage="start", seed=1, steps=2)
"#;

#[test]
fn an_interrupt_leaves_finished_stages_and_status_130() {
    // The worker waits until mopd has reported the stop; otherwise there would be nothing to report.
    let script = format!(
        "def stop(*_):
    while not os.path.exists('answered'):
        time.sleep(0.01)
    say('interrupted', finished=1, tasks=3)
    os._exit(130)
signal.signal(signal.SIGINT, stop)
{WAIT}time.sleep(60)"
    );
    let said = interrupt(&script, 1)
        .is(130, &["stopping", "interrupted", "1 of 3 stages", "run the same command again"]);
    let lines = logged(&said.err);
    let [.., interrupted, _, again] = lines.as_slice() else { panic!("{said:?}") };
    assert_eq!((*interrupted, *again), ("interrupted", "run the same command again to resume"));
}

#[test]
fn run_reports_where_a_stage_resumes() {
    let said = play(
        "ready()
say('started', tasks=3, kept=0)
say('stage_kept', stage='start', seed=1)
say('stage_started', stage='student', seed=1, steps=100)
say('stage_resumed', stage='student', seed=1, step=40)
say('step', stage='student', seed=1, step=40, steps=100, metric='loss', value=1.0, loss=1.0, domains=[], rows=[], \
         tokens=12, seconds={'rollout': 0.5, 'scoring': 0.25, 'update': 0.25})
say('checkpoint', stage='student', seed=1, key='k', step=41)
say('waiting', what='expert, seed 1')
say('interrupted', finished=1, tasks=3)
sys.exit(130)",
    );
    said.is(
        130,
        &[
            "another run computes expert, seed 1; waiting for its result",
            "1 of 3 stages are finished and kept in .mopd/store, and a checkpoint of student at step 41 of \
             100; the next run resumes",
        ],
    );
}

#[test]
fn resume_says_where_there_is_nothing_to_go_on_from() {
    let script = "ready()
say('started', tasks=3, kept=0)
say('stage_started', stage='student', seed=1, steps=100)
say('step', stage='student', seed=1, step=0, steps=100, metric='loss', value=1.0, loss=1.0, domains=[], rows=[], \
                  tokens=12, seconds={'rollout': 0.5, 'scoring': 0.25, 'update': 0.25})
say('interrupted', finished=0, tasks=3)
sys.exit(130)";
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.worker(script);
    let words = "the store has no stage of this experiment: the run starts from its first stage";
    place.mopd_with_worker(&["run", "--resume", "a.mopd"]).is(130, &[words]);
    assert!(!place.mopd_with_worker(&["run", "a.mopd"]).err.contains(words));
}

#[test]
fn run_options_reach_the_worker() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.worker(
        "open('asked', 'w').write(json.dumps({k: job[k] for k in ('from', 'checkpoint_every', \
         'fresh')}))\nready()\nsys.exit(0)",
    );
    let asked = |arguments: &[&str]| {
        place.mopd_with_worker(&[&["run", "a.mopd"], arguments].concat());
        serde_json::from_str::<serde_json::Value>(&place.read("asked")).expect("JSON")
    };
    assert_eq!(asked(&[]), serde_json::json!({ "from": [], "checkpoint_every": null, "fresh": false }));
    let told = asked(&["--from", "student", "--from", "start", "--checkpoint-every", "1.5min"]);
    assert_eq!(
        told,
        serde_json::json!({ "from": ["student", "start"], "checkpoint_every": 90.0, "fresh": false })
    );
    place
        .mopd_with_worker(&["run", "--from", "studnet", "a.mopd"])
        .is(2, &["no stage `studnet`", "--from 'student'"]);
    place.mopd_with_worker(&["run", "--from", "x", "--fresh", "a.mopd"]).is(2, &["cannot be used with"]);
    place.mopd_with_worker(&["run", "--checkpoint-every", "often", "a.mopd"]).is(2, &["30s"]);
}

#[test]
fn a_second_interrupt_ends_a_worker_that_does_not_stop() {
    let script = format!("signal.signal(signal.SIGINT, signal.SIG_IGN)\n{WAIT}time.sleep(60)");
    interrupt(&script, 2).is(130, &["Ctrl-C or SIGTERM again stops at once", "interrupted", "1 of 3 stages"]);
}

/// A tracker finds the programs of the virtual environment that mopd is installed in, active or not.
#[test]
fn a_tracker_runs_in_the_environment_of_mopd() {
    let place = place(FINISH);
    place.write("venv/bin/probe", "#!/bin/sh\ncat > /dev/null\necho of the environment\n");
    let program = place.path("venv/bin/mopd");
    std::fs::copy(mopd_tests::mopd(), &program).expect("a copy");
    std::fs::set_permissions(place.path("venv/bin/probe"), Permissions::from_mode(0o755)).expect("a program");
    let run = || {
        let mut command = Command::new(&program);
        command.args(["run", "--tracker", "probe", "sub/a.mopd"]).current_dir(place.folder.path());
        command.env("MOPD_WORKER", place.path("worker"));
        Said::of(command.output().expect("mopd starts"))
    };
    // A folder with the settings file is a virtual environment.
    run().is(0, &["probe", "not found"]);
    place.write("venv/pyvenv.cfg", "");
    run().is(0, &["tracker: of the environment"]);
}
