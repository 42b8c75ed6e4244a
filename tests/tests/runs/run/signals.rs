//! Signals that are sent to `mopd` alone, as `kill`, `docker stop`, systemd and schedulers do.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, assert_says, text};

/// Time limit for everything, on a machine that is busy with other work.
const SOON: Duration = Duration::from_secs(120);

/// `mopd` with the default signal handling, whatever the tests inherited (`nohup` ignores SIGHUP).
pub fn mopd(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM,HUP").arg(mopd_tests::mopd()).args(arguments);
    command
        .current_dir(bench.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill starts");
    assert!(sent.success());
}

/// The worker of a `mopd`, once it is there.
fn worker_of(child: &Child) -> u32 {
    let since = Instant::now();
    loop {
        if let Some(worker) = mopd_tests::children(child.id()).first() {
            return *worker;
        }
        assert!(since.elapsed() < SOON, "no worker came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until_gone(process: u32) {
    let since = Instant::now();
    // A zombie does not count as a process.
    let state = || std::fs::read_to_string(format!("/proc/{process}/stat")).ok();
    while state()
        .is_some_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    {
        assert!(since.elapsed() < SOON, "process {process} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs until the output has `moment`, if it ever does, then sends the signal. Returns the whole output.
pub fn cut(mut command: Command, moment: &str, signal: &str) -> Output {
    let mut child = command.spawn().expect("mopd starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stdout = String::new();
    while !stdout.lines().last().unwrap_or_default().contains(moment) {
        assert!(out.read_line(&mut stdout).expect("text") > 0, "it ended before `{moment}`:\n{stdout}");
    }
    send(signal, &child);
    out.read_to_string(&mut stdout).expect("text");
    let output = child.wait_with_output().expect("it ends");
    Output { stdout: stdout.into_bytes(), ..output }
}

/// Interrupts the student of a run at two steps, resumes it after each, and lets it end in `out`.
pub fn interrupted_twice(bench: &Bench) {
    for (signal, step) in [("-INT", 10), ("-TERM", 50)] {
        let moment = format!("\"stage\":\"student\",\"seed\":1,\"step\":{step},");
        let run = ["run", "tiny.mopd", "--format", "json", "--out", "out"];
        assert_eq!(cut(mopd(bench, &run), &moment, signal).status.code(), Some(130));
    }
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
}

fn long() -> Bench {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 300");
    bench
}

const RUN: [&str; 5] = ["run", "tiny.mopd", "--format", "json", "--out"];

/// Each signal to `mopd` alone leaves a checkpoint of the current step, and the resumed run ends with the
/// bits of an uninterrupted one.
#[test]
fn a_signal_leaves_a_checkpoint_and_the_next_run_ends_with_the_same_bits() {
    let bench = long();
    let expected = bench.tables("expected", &[]);
    let student = bench.student("expected");
    std::fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    for (signal, step) in [("-INT", 10), ("-TERM", 60), ("-HUP", 110)] {
        let moment = format!("\"stage\":\"student\",\"seed\":1,\"step\":{step},");
        let output = cut(mopd(&bench, &[&RUN[..], &["out"]].concat()), &moment, signal);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(130), "{signal}: {said}");
        assert_says(
            &said,
            &["stopping after this step", "a checkpoint of student at step", "run the same command again"],
        );
        assert!(said.contains("\"event\":\"checkpoint\",\"stage\":\"student\""), "{signal}: {said}");
        assert_eq!(said.contains("stage_resumed"), step > 10, "{signal}: {said}");
    }
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
    assert_eq!(bench.tables("out", &[]), expected);
    assert!(bench.student("out") == student, "other weights");
}

/// `docker stop` and SLURM signal every process: the worker, which gets the signal twice, stops once.
#[test]
fn a_signal_to_the_whole_group_is_one_signal() {
    use std::os::unix::process::CommandExt;
    let bench = long();
    let mut command = mopd(&bench, &[&RUN[..], &["out"]].concat());
    command.process_group(0);
    let mut child = command.spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("\"stage\":\"student\",\"seed\":1,\"step\":5,")),
        "it ended early"
    );
    let sent = Command::new("kill")
        .args(["-TERM", "--", &format!("-{}", child.id())])
        .status()
        .expect("kill starts");
    assert!(sent.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(
        rest.iter().any(|line| line.contains("\"event\":\"checkpoint\",\"stage\":\"student\"")),
        "{rest:?}"
    );
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 40");
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" run tiny.mopd --format json --out out"])
        .arg(mopd_tests::mopd());
    command
        .current_dir(bench.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = cut(command, "\"stage\":\"student\",\"seed\":1,\"step\":2,", "-HUP");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_sweep_stops_as_a_whole() {
    let bench = long();
    bench.edit(
        "tiny.mopd",
        "param start_lr: real = 3e-3",
        "param start_lr: real = 3e-3\nsweep { start_lr in [1e-3, 3e-3] }",
    );
    let output = cut(
        mopd(&bench, &[&RUN[..], &["out"]].concat()),
        "\"stage\":\"student\",\"seed\":1,\"step\":5,",
        "-TERM",
    );
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_says(&text(&output), &["0 of 2 runs of the sweep are finished", "a checkpoint of student"]);
}

#[test]
fn watching_stops_with_a_checkpoint() {
    let bench = long();
    let command = mopd(&bench, &["watch", "tiny.mopd", "--format", "json"]);
    let output = cut(command, "\"stage\":\"student\",\"seed\":1,\"step\":5,", "-TERM");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("\"event\":\"checkpoint\",\"stage\":\"student\""), "{}", text(&output));
}

/// A run without work to save ends at once: here while it waits for a hub that never answers, as it would
/// during a long read of data.
#[test]
fn interrupted_run_without_state_ends_at_once() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hub = format!("http://{}", silent.local_addr().expect("an address"));
    bench.edit(
        "tiny.mopd",
        "model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }",
        "model base  = hf(\"organisation/model\", revision: \"main\")",
    );
    bench.edit("tiny.mopd", "share = 1/2 }", "share = 1/2, format = text }");
    let start = |arguments: &[&str]| {
        let mut command = mopd(&bench, arguments);
        command.env("HF_ENDPOINT", &hub).env("HF_HOME", bench.path("cache")).env_remove("HF_HUB_OFFLINE");
        command.env_remove("HF_HUB_CACHE").env_remove("HUGGINGFACE_HUB_CACHE");
        let child = command.spawn().expect("mopd starts");
        // The request has arrived, and the run waits for the reply.
        let asked = silent.accept().expect("a connection");
        (child, asked)
    };
    for (arguments, signal) in [
        (&["run", "tiny.mopd"][..], "-TERM"),
        (&["run", "tiny.mopd"], "-HUP"),
        (&["plan", "--predict", "tiny.mopd"], "-TERM"),
        (&["watch", "tiny.mopd", "--format", "json"], "-TERM"),
    ] {
        let (child, _asked) = start(arguments);
        let worker = worker_of(&child);
        send(signal, &child);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130), "{arguments:?} {signal}: {}", text(&output));
        assert!(!text(&output).contains("error["), "{arguments:?}: {}", text(&output));
        until_gone(worker);
    }
    // A killed `mopd` can't tell its worker, which notices by itself.
    let (mut child, _asked) = start(&["run", "tiny.mopd"]);
    let worker = worker_of(&child);
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    until_gone(worker);
}

#[test]
fn interrupted_sampling_stops() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let arguments = ["sample", "out/models/student-seed1", "--prompt", "copy: ab=", "-n", "64"];
    let child = mopd(&bench, &arguments).spawn().expect("mopd starts");
    let worker = worker_of(&child);
    send("-TERM", &child);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    until_gone(worker);
}
