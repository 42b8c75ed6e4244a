//! Tests of what killed runs leave behind, and of several runs with one folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, assert_says, text, walk};

const SOON: Duration = Duration::from_secs(120);

fn until(what: &str, found: impl Fn() -> bool) {
    let since = Instant::now();
    while !found() {
        assert!(since.elapsed() < SOON, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Deletes a folder that a run writes to, including files that are written meanwhile.
fn delete(folder: &Path) {
    until("an empty folder", || !folder.exists() || fs::remove_dir_all(folder).is_ok());
}

/// Starts a run and returns once the student has done `step` steps.
fn started(bench: &Bench, out: &str, step: u32) -> Child {
    let mut child = bench.command(&["--out", out, "--format", "json"]).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let moment = format!("\"stage\":\"student\",\"seed\":1,\"step\":{step},");
    assert!(lines.any(|line| line.contains(&moment)), "it ended early");
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn long() -> Bench {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 200");
    bench
}

#[test]
fn a_folder_of_results_has_one_writer() {
    let bench = long();
    let mut first = started(&bench, "out", 2);
    let second = bench.run(&["--out", "out", "--set", "start_lr=1e-3"]);
    assert_eq!(second.status.code(), Some(2), "{}", text(&second));
    let process = format!("process {}", first.id());
    assert_says(
        &text(&second),
        &["folder-in-use", "another run writes to out: `mopd run tiny.mopd --out out", &process, "--out DIR"],
    );
    // Another folder can be used, and so can the same one once its run has ended in any way.
    assert!(bench.run(&["--out", "other"]).status.success());
    first.kill().expect("it is ours");
    first.wait().expect("it ends");
    let third = bench.run(&["--out", "out"]);
    assert!(third.status.success(), "{}", text(&third));
    assert!(!bench.path("out/.lock").exists());
}

#[test]
fn a_folder_of_results_that_is_deleted_meanwhile_is_no_success() {
    let bench = long();
    let child = started(&bench, "out", 2);
    delete(&bench.path("out"));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_says(&text(&output), &["results-gone", "was deleted", "run the same command again"]);
    assert!(bench.run(&["--out", "out"]).status.success());
    // If only models were deleted, they are written again, and the run is complete.
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    let child = started(&bench, "out", 2);
    delete(&bench.path("out/models"));
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output));
    for model in ["base", "start", "expert.copy", "student"] {
        assert!(
            bench.path(&format!("out/models/{model}-seed1/model.safetensors")).is_file(),
            "{model} is missing"
        );
    }
}

/// The run calls nothing of a deleted store damaged, and the next run computes it again.
#[test]
fn a_store_that_is_deleted_meanwhile_is_named_and_filled_again() {
    let bench = long();
    for deleted in [".mopd", ".mopd/store"] {
        // The last run's results would be taken from the store.
        let _ = fs::remove_dir_all(bench.path(".mopd"));
        let child = started(&bench, "out", 2);
        delete(&bench.path(deleted));
        let output = child.wait_with_output().expect("it ends");
        let said = text(&output);
        assert!(!said.contains("damaged") && !said.contains("internal error"), "{said}");
        if !output.status.success() {
            assert_says(&said, &["was deleted", "run the same command again"]);
        }
        // A checkpoint that lost files while it was written is not used.
        let again = bench.run(&["--out", "out"]);
        assert!(again.status.success(), "{}", text(&again));
    }
}

/// A kill after a result is stored and before its checkpoints are deleted.
#[test]
fn checkpoints_of_a_finished_stage_go_away() {
    let bench = Bench::new();
    bench.tables("out", &["--checkpoint-every", "0s"]);
    let store = bench.path(".mopd/store");
    let student = fs::read_dir(&store).expect("a store").flatten().find(|entry| {
        fs::read_to_string(entry.path().join("checksums.json"))
            .is_ok_and(|sums| sums.contains("\"about\":\"student, seed 1\""))
    });
    let key = student.expect("the student is kept").file_name().into_string().expect("a key");
    let left = store.join(format!("{key}.unfinished/0000000003"));
    fs::create_dir_all(&left).expect("a folder");
    fs::write(left.join("checksums.json"), "{\"about\":\"student, seed 1\",\"files\":{}}").expect("written");
    bench.tables("out", &[]);
    assert!(!store.join(format!("{key}.unfinished")).exists());
    assert!(!walk(&store).iter().any(|path| path.to_string_lossy().contains(".writing-")));
}

/// A run in the project's own folder, while others write in the folders inside.
#[test]
fn a_run_in_the_folder_above_takes_no_files_of_others() {
    let bench = Bench::new();
    let others = [".mopd/store/key/.writing-1", "runs/other/models/a-seed1/.writing-2", "data/.writing-3"];
    for name in others {
        fs::create_dir_all(bench.path(name).parent().expect("a folder")).expect("a folder");
        bench.write(name, "half");
    }
    bench.write(".writing-4", "half");
    bench.tables(".", &[]);
    assert!(others.iter().all(|name| bench.path(name).exists()) && !bench.path(".writing-4").exists());
}

#[test]
fn a_damaged_list_of_needs_is_named_and_the_rest_goes_on() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    bench.write(".mopd/store/runs/broken.json", "{");
    let cache = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(bench.folder.path()).arg("cache").args(arguments).stdin(Stdio::null());
        command.output().expect("mopd starts")
    };
    let listed = cache(&["list"]);
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed));
    assert_says(
        &text(&listed),
        &[
            "student, seed 1",
            "broken.json",
            "cannot read the list of results that a \
        run needs",
        ],
    );
    assert_says(&text(&cache(&["verify"])), &["0 damaged", "broken.json"]);
    fs::remove_dir_all(bench.path("out")).expect("removable");
    let pruned = cache(&["prune", "--keep-under", "1KiB"]);
    assert_eq!(pruned.status.code(), Some(0), "{}", text(&pruned));
    assert_says(&text(&pruned), &["broken.json", "kept, because that run may need them"]);
    fs::remove_file(bench.path(".mopd/store/runs/broken.json")).expect("removable");
    assert_says(&text(&cache(&["prune", "--keep-under", "1KiB"])), &["freed"]);
}

/// A reward program that reads no input, starts a child in a session of its own, and would outlive the run
/// if it were not killed.
#[test]
fn judges_end_with_the_worker_however_it_ends() {
    let bench = Bench::new();
    bench.edit(
        "tiny.mopd",
        "tests = \"copy.test.jsonl\", reward = exact_match",
        "tests = \"copy.test.jsonl\", reward = command(\"python3 judge.py\", time_limit: 600)",
    );
    bench.write(
        "judge.py",
        "import os, subprocess, time
child = subprocess.Popen(['sleep', '1000'], start_new_session=True, stdin=subprocess.DEVNULL, \
         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open('judges', 'a').write(f'{os.getpid()} {child.pid}\\n')
time.sleep(1000)
",
    );
    let gone = |process: &str| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        state.is_none_or(|state| state == 'Z')
    };
    for victims in ["the worker", "both", "nobody"] {
        let _ = fs::remove_file(bench.path("judges"));
        let mut child = bench.command(&["--out", "out"]).spawn().expect("mopd starts");
        let judges = || fs::read_to_string(bench.path("judges")).unwrap_or_default();
        until("a judge", || judges().ends_with('\n'));
        let worker = mopd_tests::children(child.id()).first().expect("a worker").to_string();
        let kill = |signal: &str, process: &str| {
            assert!(Command::new("kill").args([signal, process]).status().expect("kill starts").success());
        };
        match victims {
            "the worker" => kill("-KILL", &worker),
            "both" => {
                kill("-KILL", &child.id().to_string());
                kill("-KILL", &worker);
            }
            // After two signals everything ends at once. Two signals of the same kind may arrive as one.
            _ => {
                kill("-TERM", &child.id().to_string());
                kill("-INT", &child.id().to_string());
            }
        }
        let status = child.wait().expect("it ends");
        if victims == "nobody" {
            assert_eq!(status.code(), Some(130));
        }
        for process in judges().split_whitespace() {
            until(&format!("the end of {process}, where {victims} were killed"), || gone(process));
        }
    }
}
