//! `mopd watch`, driven as a user would: saves as editors do them, a real worker, and the output.

mod editing;
mod sweep;
mod terminal;

use std::time::Duration;

use editing::{Desk, Save};

/// Time limit for anything to happen; `mopd bench watch` measures the actual time.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_last_stages_objective_reruns_the_last_stage_alone() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    let first = watch.until_finished(SOON);
    assert_eq!(first.started, ["start", "student"], "{first:?}");
    for (save, clip) in Save::ALL.into_iter().zip(["4", "3", "2", "1"]) {
        desk.edit(save, "clip_at: 5", &format!("clip_at: {clip}"));
        let run = watch.until_finished(SOON);
        assert_eq!(
            (run.started.as_slice(), run.kept.as_slice()),
            (["student".to_owned()].as_slice(), ["base".to_owned(), "start".to_owned()].as_slice()),
            "{save:?}"
        );
        assert!(
            watch.said(&format!("objective of `student`: clip ±5 -> ±{clip}; 1 of 3 stages reruns, 2 kept")),
            "{}",
            watch.text()
        );
        // The results of the previous text are in the store too.
        desk.edit(save, &format!("clip_at: {clip}"), "clip_at: 5");
        assert!(watch.until_finished(SOON).started.is_empty(), "{save:?}");
    }
    assert!(watch.quit().success());
}

#[test]
fn edit_without_meaning_reruns_nothing() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    let runs = watch.runs();
    desk.edit(Save::Replace, "experiment \"tiny\"", "// a comment\nexperiment \"tiny\"");
    watch.wait_for("nothing to rerun", SOON);
    desk.edit(Save::InPlace, "prompts   = 8", "prompts = 4 * 2");
    watch.wait_for_another("nothing to rerun", SOON);
    watch.settle();
    assert_eq!(watch.runs(), runs, "{}", watch.text());
    // The source beside the results is the current text.
    assert!(desk.read("runs/tiny/source.mopd").contains("4 * 2"));
}

#[test]
fn a_name_is_a_new_label_and_no_rerun() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    desk.edit(Save::Replace, "model student =", "model pupil =");
    desk.edit(Save::Replace, "[start, student]", "[start, pupil]");
    let run = watch.until_finished(SOON);
    assert!(run.started.is_empty(), "{run:?}");
    assert!(desk.read("runs/tiny/results.json").contains("pupil"));
}

#[test]
fn a_mistake_leaves_the_run_going_and_shows() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps     = 6", "steps     = 60");
    let mut watch = desk.watch();
    watch.until_step("student", 2, SOON);
    let runs = watch.runs();
    desk.edit(Save::Backup, "clip_at: 5", "clip_at: fife");
    watch.wait_for("unknown-name", SOON);
    watch.wait_for("the run continues with the last valid text", SOON);
    watch.until_step("student", 20, SOON);
    // With the old text again, the run continues; another text is run.
    desk.edit(Save::Backup, "clip_at: fife", "clip_at: 5");
    watch.wait_for("nothing to rerun", SOON);
    let run = watch.until_finished(SOON);
    assert_eq!((watch.runs(), run.steps("student")), (runs, 60), "{}", watch.text());
    desk.edit(Save::Backup, "clip_at: 5", "clip_at: six");
    watch.wait_for("waiting for the next save", SOON);
    desk.edit(Save::Backup, "clip_at: six", "clip_at: 6");
    assert_eq!(watch.until_finished(SOON).started, ["student"]);
}

#[test]
fn a_save_while_it_runs_stops_the_run_and_goes_on_with_the_new_text() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps     = 6", "steps     = 2000");
    let mut watch = desk.watch();
    watch.until_step("student", 2, SOON);
    desk.edit(Save::Truncate, "steps     = 2000", "steps     = 5");
    watch.wait_for("stopping at the next step", SOON);
    watch.wait_for("stopped", SOON);
    let run = watch.until_finished(SOON);
    assert_eq!(
        (run.started.as_slice(), run.steps("student")),
        (["student".to_owned()].as_slice(), 5),
        "{}",
        watch.text()
    );
    assert!(run.kept.contains(&"start".to_owned()));
}

#[test]
fn twenty_saves_are_one_run_of_the_last_text() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    let runs = watch.runs();
    for edit in 0..20 {
        let clip = |edit: usize| format!("clip_at: 0.{}", 100 + edit);
        let from = if edit == 0 { "clip_at: 5".to_owned() } else { clip(edit - 1) };
        desk.edit(Save::ALL[edit % 4], &from, &clip(edit));
        std::thread::sleep(Duration::from_millis(60));
    }
    let run = watch.until_finished(SOON);
    watch.settle();
    assert_eq!((watch.runs() - runs, run.started), (1, vec!["student".to_owned()]), "{}", watch.text());
    assert!(desk.read("runs/tiny/source.mopd").contains("0.119"));
}

#[test]
fn modules_data_and_programs_are_followed() {
    let desk = Desk::new();
    desk.write(Save::InPlace, "mine.mopd", "pub let rate = 1e-3\n");
    desk.edit(Save::InPlace, "use std.opd.mopd\n", "use std.opd.mopd\nuse mine.rate\n");
    desk.edit(Save::InPlace, "lr        = 1e-3", "lr        = rate");
    desk.edit(
        Save::InPlace,
        "reward = exact_match",
        "reward = command(\"python3 judge.py\", time_limit: 20)",
    );
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    desk.write(Save::Replace, "mine.mopd", "pub let rate = 2e-3\n");
    assert_eq!(watch.until_finished(SOON).started, ["student"]);
    assert!(watch.said("lr 0.001 -> 0.002"), "{}", watch.text());

    let data = desk.read("copy.jsonl");
    desk.write(Save::Backup, "copy.jsonl", &(data + "{\"prompt\": \"copy: zz=\", \"answer\": \"zz\"}\n"));
    assert_eq!(watch.until_finished(SOON).started, ["start", "student"]);
    assert!(watch.said("copy.jsonl changed"), "{}", watch.text());

    let judge = desk.read("judge.py");
    desk.write(Save::Truncate, "judge.py", &judge.replace("0.5", "0.75"));
    let run = watch.until_finished(SOON);
    assert_eq!(run.started, ["student"], "what imitates the data's answers asks no verifier");
    assert!(watch.said("judge.py changed"), "{}", watch.text());
}

/// "Save all" writes the data and the experiment, one after the other.
#[test]
fn an_edit_of_the_data_counts_whatever_is_saved_after_it() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps     = 6", "steps     = 2000");
    let mut watch = desk.watch();
    watch.until_step("student", 2, SOON);
    let data = desk.read("copy.jsonl");
    desk.write(Save::Replace, "copy.jsonl", &(data + "{\"prompt\": \"copy: zz=\", \"answer\": \"zz\"}\n"));
    watch.wait_for("copy.jsonl changed", SOON);
    desk.edit(Save::Replace, "experiment \"tiny\"", "// a comment\nexperiment \"tiny\"");
    watch.wait_for("stopping at the next step", SOON);
    watch.wait_for("stopped", SOON);
    desk.edit(Save::Replace, "steps     = 2000", "steps     = 6");
    watch.until_finished(SOON);
    assert_eq!(watch.steps("start"), 10, "five of each data: {}", watch.text());
}

#[test]
fn a_new_file_that_a_pattern_matches_is_data() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "\"copy.jsonl\"", "\"copy[0-9]*.jsonl\"");
    desk.write(Save::InPlace, "copy1.jsonl", &desk.read("copy.jsonl"));
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    desk.write(Save::InPlace, "copy2.jsonl", "{\"prompt\": \"copy: zz=\", \"answer\": \"zz\"}\n");
    assert_eq!(watch.until_finished(SOON).started, ["start", "student"]);
    assert!(watch.said("copy2.jsonl changed"), "{}", watch.text());
}

#[test]
fn a_file_that_goes_and_comes_back() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    watch.until_finished(SOON);
    let text = desk.read("tiny.mopd");
    desk.remove("tiny.mopd");
    watch.wait_for("can't read tiny.mopd", SOON);
    desk.write(Save::InPlace, "tiny.mopd", &text.replace("clip_at: 5", "clip_at: 2"));
    assert_eq!(watch.until_finished(SOON).started, ["student"]);
}

#[test]
fn failed_run_is_shown_and_the_next_save_continues() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "\"copy.jsonl\"", "\"missing.jsonl\"");
    let mut watch = desk.watch();
    watch.wait_for("missing.jsonl", SOON);
    watch.wait_for("waiting for the next save", SOON);
    // When the data appears, the run starts without another save.
    desk.write(Save::InPlace, "missing.jsonl", &desk.read("copy.jsonl"));
    assert_eq!(watch.until_finished(SOON).started, ["start", "student"]);
}

#[test]
fn only_checking_needs_no_worker() {
    let desk = Desk::new();
    let mut watch = desk.check_only();
    watch.wait_for("watching tiny.mopd", SOON);
    desk.edit(Save::Replace, "clip_at: 5", "clip_at: fife");
    watch.wait_for("unknown-name", SOON);
    desk.edit(Save::Replace, "clip_at: fife", "clip_at: 3");
    watch.wait_for("objective of `student`: clip ±5 -> ±3; 1 of 3 stages reruns, 2 kept", SOON);
    assert_eq!(watch.runs(), 0);
    assert!(watch.quit().success());
}

#[test]
fn a_file_that_is_not_there_is_no_file_to_watch() {
    let desk = Desk::new();
    let output = desk.command(&["watch", "none.mopd"]).output().expect("mopd starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't read none.mopd"));
}

#[test]
fn the_worker_ends_with_whoever_watches() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps     = 6", "steps     = 2000");
    let mut watch = desk.watch();
    watch.until_step("student", 1, SOON);
    let worker = watch.worker().expect("a worker runs");
    watch.kill();
    let gone = || !std::path::Path::new(&format!("/proc/{worker}")).exists();
    let since = std::time::Instant::now();
    while !gone() {
        assert!(since.elapsed() < SOON, "the worker {worker} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A stage that an edit does not affect loses no step, and its weights are those of an uninterrupted run.
#[test]
fn a_stage_that_the_edit_does_not_touch_goes_on_where_it_was() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps = 5, batch", "steps = 300, batch");
    let mut watch = desk.watch();
    watch.until_step("start", 20, SOON);
    desk.edit(Save::Replace, "clip_at: 5", "clip_at: 3");
    let run = watch.until_finished(SOON);
    assert!(run.resumed.contains(&"start".to_owned()), "{run:?}");
    assert_eq!(watch.steps("start"), 300, "every step once");
    let weights = |out: &str| desk.bytes(&format!("{out}/models/start-seed1/model.safetensors"));
    let undisturbed =
        desk.command(&["run", "tiny.mopd", "--fresh", "--out", "other"]).output().expect("mopd starts");
    assert!(undisturbed.status.success(), "{}", String::from_utf8_lossy(&undisturbed.stderr));
    assert!(weights("runs/tiny") == weights("other"));
}

#[test]
fn a_fork_goes_on_from_the_checkpoint_and_is_written_down() {
    let desk = Desk::new();
    desk.edit(Save::InPlace, "steps     = 6", "steps     = 400");
    let mut watch = desk.watch_with(&["--fork"]);
    watch.until_step("student", 10, SOON);
    desk.edit(Save::Replace, "lr        = 1e-3", "lr        = 4e-3");
    let run = watch.until_finished(SOON);
    assert!(run.resumed.contains(&"student".to_owned()), "{run:?}");
    assert_eq!(watch.steps("student"), 400, "none of them twice");
    assert!(watch.said("resumes from step"), "{}", watch.text());
    assert!(desk.read("runs/tiny/models/student-seed1/mopd.json").contains("\"forked\""));
    assert!(desk.read("runs/tiny/results.json").contains("\"forks\""));
    let mopd = |arguments: &[&str]| {
        let output = desk.command(arguments).output().expect("mopd starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(mopd(&["ls", "runs/tiny"]).contains(", forked"));
    // A run of the file alone gives other weights than the fork.
    let run = desk.command(&["run", "tiny.mopd", "--out", "other"]).output().expect("mopd starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(
        desk.bytes("other/models/student-seed1/model.safetensors")
            != desk.bytes("runs/tiny/models/student-seed1/model.safetensors")
    );
    let compared = mopd(&["compare", "runs/tiny", "other"]);
    assert!(compared.contains("a stage was forked from another text"), "{compared}");
    assert!(compared.contains("before: `student`, seed 1, resumed from step"), "{compared}");
    mopd(&["report", "runs/tiny"]);
    assert!(desk.read("runs/tiny/report.html").contains("forked: `student`, seed 1, resumed from step"));
    // In the same folder, the forked results are not lost.
    watch.quit();
    mopd(&["run", "tiny.mopd"]);
    assert!(!desk.read("runs/tiny/results.json").contains("\"forks\""));
    assert!(desk.read("runs/tiny/previous/results.json").contains("\"forks\""));
}
