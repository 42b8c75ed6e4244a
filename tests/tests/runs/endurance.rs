//! Long tests of the store, run by hand:
//!
//! ```text
//! MOPD_KILLS=100 cargo test --release --locked --test runs endurance::kills -- --ignored --nocapture
//! MOPD_EXPERIMENT=$PWD/tests/endurance/everything.mopd MOPD_CHECKPOINTS=0s MOPD_KILLS=30 MOPD_KILLS_EACH=1 \
//!   cargo test --release --locked --test runs endurance::kills -- --ignored --nocapture
//! MOPD_MINUTES=10 cargo test --release --locked --test runs endurance::simultaneous -- --ignored --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A folder with the experiment; `MOPD_EXPERIMENT` names another than the quickstart, in a folder of its own.
fn folder() -> (TempDir, String) {
    let file = std::env::var("MOPD_EXPERIMENT")
        .map_or_else(|_| mopd_tests::root().join("examples/quickstart.mopd"), PathBuf::from);
    let folder = TempDir::new().expect("a temporary folder");
    copy(file.parent().expect("a file is in a folder"), folder.path());
    (folder, file.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned())
}

/// Copies everything except results.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "runs" && name != ".mopd" {
            fs::create_dir_all(to.join(&name)).expect("a folder");
            copy(&path, &to.join(&name));
        } else if path.is_file() {
            fs::copy(&path, to.join(&name)).expect("a copy");
        }
    }
}

fn start(folder: &Path, file: &str, out: &str, more: &[&str]) -> Child {
    let output = fs::File::create(folder.join(format!("{out}.events"))).expect("a file");
    let errors = fs::File::create(folder.join(format!("{out}.errors"))).expect("a file");
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(["run", file, "--format", "json", "--out", out]).args(more);
    // A group of its own, so that all of it can be killed at once.
    command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors).spawn().expect("mopd starts")
}

fn kill(target: &str) {
    let _ = Command::new("kill").args(["-KILL", "--", target]).stderr(Stdio::null()).status();
}

/// The weights of every model, and the tables.
fn outcome(folder: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut outcome = BTreeMap::new();
    for model in fs::read_dir(folder.join(out).join("models")).expect("models").flatten() {
        let weights = fs::read(model.path().join("model.safetensors")).expect("weights");
        outcome.insert(model.file_name().into_string().expect("a plain name"), weights);
    }
    let results: Value =
        serde_json::from_slice(&fs::read(folder.join(out).join("results.json")).expect("results"))
            .expect("JSON");
    outcome.insert("tables".to_owned(), results["tables"].to_string().into_bytes());
    outcome
}

fn events(folder: &Path, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(format!("{out}.events"))).expect("events");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event"] == name)
}

/// Random numbers, seeded by the time of day; the seed is printed, so that a test can be repeated.
struct Moments(u64);

impl Moments {
    fn new() -> Moments {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = std::env::var("MOPD_MOMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(now);
        eprintln!("MOPD_MOMENTS={seed}");
        Moments(seed | 1)
    }

    /// In [0, 1).
    fn next(&mut self) -> f64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A run is killed at random moments and restarted, about `MOPD_KILLS_EACH` times, and then left to finish;
/// this is repeated until `MOPD_KILLS` kills.
#[test]
#[ignore = "takes an hour: MOPD_KILLS=100"]
fn kills_leave_no_trace() {
    let (wanted, each) = (number("MOPD_KILLS", 100), number("MOPD_KILLS_EACH", 3));
    let checkpoints = std::env::var("MOPD_CHECKPOINTS").unwrap_or_else(|_| "1s".to_owned());
    let mut moments = Moments::new();
    let (whole, file) = folder();
    let begun = Instant::now();
    assert!(start(whole.path(), &file, "out", &[]).wait().expect("it ends").success());
    let took = begun.elapsed();
    let expected = outcome(whole.path(), "out");
    // A resumed run repeats the warnings of guards.
    let usual: Vec<Value> =
        of(&events(whole.path(), "out"), "warning").map(|warning| warning["message"].clone()).collect();
    eprintln!("uninterrupted: {:.1} s, {} models", took.as_secs_f64(), expected.len() - 1);
    let (mut kills, mut chains, mut went_on) = (0, 0, 0);
    while kills < wanted {
        let (folder, file) = folder();
        let mut of_chain = 0;
        let last = (each - u32::from(each > 1 && moments.next() < 0.5)).min(wanted - kills);
        loop {
            let mut run =
                start(folder.path(), &file, "out", &["--resume", "--checkpoint-every", &checkpoints]);
            if of_chain < last {
                std::thread::sleep(took.mul_f64(0.02 + 1.5 / f64::from(each) * moments.next()));
                if run.try_wait().expect("it is ours").is_none() {
                    // Kills the whole group; or mopd alone, whose worker notices this and may still run when
                    // the next run starts.
                    let whole = moments.next() < 0.8;
                    kill(&if whole { format!("-{}", run.id()) } else { run.id().to_string() });
                    of_chain += 1;
                }
            }
            let status = run.wait().expect("it ends");
            let events = events(folder.path(), "out");
            went_on += of(&events, "stage_resumed").count();
            // A stage that ended before a kill is reused, which is said where its programs may have changed.
            let reused =
                |event: &Value| event["message"].as_str().is_some_and(|said| said.starts_with("reused: "));
            let new = |event: &&Value| !usual.contains(&event["message"]) && !reused(event);
            let complaint = of(&events, "warning").chain(of(&events, "failed")).find(new);
            assert_eq!(complaint, None, "after {} kills", kills + of_chain);
            if status.success() {
                break;
            }
        }
        assert!(
            outcome(folder.path(), "out") == expected,
            "other bits after {of_chain} kills, chain {chains}"
        );
        (kills, chains) = (kills + of_chain, chains + 1);
        eprintln!("{kills} kills, {chains} chains, {went_on} stages went on from a checkpoint");
    }
}

/// Ten runs start together on one store; now and then one of them is killed.
#[test]
#[ignore = "takes as long as it is told: MOPD_MINUTES=10"]
fn simultaneous_runs_share_the_work() {
    let minutes = number("MOPD_MINUTES", 10);
    let runs = number("MOPD_RUNS", 10);
    let mut moments = Moments::new();
    let begun = Instant::now();
    let mut expected = None;
    let (mut rounds, mut killed, mut waited) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(60 * u64::from(minutes)) {
        let (folder, file) = folder();
        let names: Vec<String> = (0..runs).map(|run| format!("out{run}")).collect();
        let mut all: Vec<Child> =
            names.iter().map(|out| start(folder.path(), &file, out, &["--checkpoint-every", "1s"])).collect();
        let victim = (moments.next() < 0.5).then(|| (moments.next() * f64::from(runs)) as usize);
        if let Some(victim) = victim {
            std::thread::sleep(Duration::from_secs_f64(30.0 * moments.next()));
            kill(&format!("-{}", all[victim].id()));
            killed += 1;
        }
        let patience = Instant::now();
        for (index, run) in all.iter_mut().enumerate() {
            let status = loop {
                if let Some(status) = run.try_wait().expect("it is ours") {
                    break status;
                }
                assert!(
                    patience.elapsed() < Duration::from_secs(1200),
                    "{} of round {rounds} does not end",
                    names[index]
                );
                std::thread::sleep(Duration::from_millis(20));
            };
            let errors = fs::read_to_string(folder.path().join(format!("{}.errors", names[index])))
                .unwrap_or_default();
            assert!(
                status.success() || victim == Some(index),
                "{} of round {rounds}: {errors}",
                names[index]
            );
        }
        let mut made: BTreeMap<String, u32> = BTreeMap::new();
        for (index, out) in names.iter().enumerate() {
            let events = events(folder.path(), out);
            for event in of(&events, "stage_finished") {
                *made.entry(format!("{} seed {}", event["stage"], event["seed"])).or_default() += 1;
            }
            waited += of(&events, "waiting").count();
            assert_eq!(of(&events, "warning").count(), 0, "{out} of round {rounds}");
            if victim != Some(index) || folder.path().join(out).join("results.json").exists() {
                let found = outcome(folder.path(), out);
                assert!(
                    *expected.get_or_insert_with(|| found.clone()) == found,
                    "{out} of round {rounds} has other bits"
                );
            }
        }
        assert!(made.values().all(|count| *count == 1), "computed twice in round {rounds}: {made:?}");
        rounds += 1;
        eprintln!(
            "{rounds} rounds of {runs} runs in {:.0} s, {killed} killed; {} stages a round, each computed \
             once; waited {waited} times",
            begun.elapsed().as_secs_f64(),
            made.len(),
        );
    }
}
