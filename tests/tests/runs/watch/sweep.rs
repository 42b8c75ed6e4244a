//! A file with a `sweep` is a list of runs, and an edit may affect each of them.

use super::SOON;
use super::editing::{Desk, Save, Watching};

/// A desk whose experiment sweeps `parameter` over `values`, with the value in place of `from`.
fn sweep(parameter: &str, values: &str, from: &str, to: &str) -> Desk {
    let desk = Desk::new();
    desk.edit(
        Save::InPlace,
        "experiment \"tiny\"",
        &format!("{parameter}\nsweep {{ {values} }}\nexperiment \"tiny\""),
    );
    desk.edit(Save::InPlace, from, to);
    desk
}

fn bounds() -> Desk {
    sweep("param bound: nats = 5", "bound in [1, 5]", "clip_at: 5", "clip_at: bound")
}

fn lengths(values: &str) -> Desk {
    sweep("param many: count = 5", &format!("many in {values}"), "steps     = 6", "steps     = many")
}

/// The stages that each of the next runs trains.
fn trained<const N: usize>(watch: &mut Watching) -> [Vec<String>; N] {
    std::array::from_fn(|_| watch.until_finished(SOON).started)
}

#[test]
fn sweep_shares_stages_and_reruns_only_changed_ones() {
    let desk = bounds();
    let mut watch = desk.watch();
    assert_eq!(
        trained(&mut watch),
        [vec!["start".to_owned(), "student".to_owned()], vec!["student".to_owned()]]
    );
    watch.wait_for("2 of 2 runs, results in runs/tiny", SOON);
    assert!(watch.said("run 1 of 2: bound=1") && watch.said("run 2 of 2: bound=5"), "{}", watch.text());
    assert_eq!(watch.members(), [r#"{"bound":1.0}"#, r#"{"bound":5.0}"#]);
    let worker = watch.worker();
    assert!(worker.is_some());
    for row in ["\"start\"", "student [bound=1]", "student [bound=5]"] {
        assert!(desk.read("runs/tiny/results.json").contains(row), "{row}");
    }

    // A change that all runs share is reported once.
    desk.edit(Save::Replace, "steps     = 6", "steps     = 5");
    assert_eq!(trained(&mut watch), [["student".to_owned()], ["student".to_owned()]].map(Vec::from));
    assert!(watch.said("`student`: steps 6 -> 5; 2 of 4 stages rerun, 2 kept"), "{}", watch.text());

    // One run is removed, one is new, one stays.
    desk.edit(Save::Backup, "[1, 5]", "[1, 7]");
    assert_eq!(trained(&mut watch), [vec![], vec!["student".to_owned()]]);
    for said in ["run `bound=7` is new", "run `bound=5` is gone", "1 of 4 stages reruns, 3 kept"] {
        assert!(watch.said(said), "{said}: {}", watch.text());
    }
    watch.wait_for_another("2 of 2 runs", SOON);
    let together = desk.read("runs/tiny/results.json");
    assert!(together.contains("student [bound=7]") && !together.contains("student [bound=5]"), "{together}");

    // No change in meaning: only the source beside the results is updated.
    let runs = watch.runs();
    desk.edit(Save::Truncate, "experiment \"tiny\"", "// a comment\nexperiment \"tiny\"");
    watch.wait_for_another("nothing to rerun", SOON);
    watch.settle();
    assert_eq!((watch.runs(), watch.worker()), (runs, worker), "{}", watch.text());
    for run in ["bound=1", "bound=7"] {
        assert!(desk.read(&format!("runs/tiny/{run}/source.mopd")).contains("// a comment"), "{run}");
    }
    assert!(watch.quit().success());
}

#[test]
fn a_save_in_the_middle_keeps_what_is_valid_and_goes_on_with_the_new_runs() {
    let desk = lengths("[4, 2000]");
    let mut watch = desk.watch();
    assert_eq!(watch.until_finished(SOON).steps("student"), 4);
    watch.until_step("student", 10, SOON);
    desk.edit(Save::Replace, "[4, 2000]", "[4, 6, 3]");
    watch.wait_for("stopping at the next step", SOON);
    watch.wait_for("stopped", SOON);
    let steps: [usize; 3] = std::array::from_fn(|_| watch.until_finished(SOON).steps("student"));
    assert_eq!(steps, [0, 6, 3], "{}", watch.text());
    watch.wait_for("3 of 3 runs", SOON);
    // The stopped run has no results that could be taken for those of a new one.
    assert!(!desk.has("runs/tiny/many=2000/results.json"));
    // Back at the old sweep, the run resumes from its checkpoint.
    desk.edit(Save::Replace, "[4, 6, 3]", "[2000]");
    watch.wait_for("resumes after step", SOON);
    assert!(!watch.quit().success(), "it was interrupted");
}

#[test]
fn a_save_between_two_runs_does_not_begin_the_old_ones() {
    let desk = lengths("[900, 2000]");
    let mut watch = desk.watch();
    watch.until_step("student", 2, SOON);
    desk.edit(Save::Replace, "[900, 2000]", "[3, 2]");
    let steps: [usize; 2] = std::array::from_fn(|_| watch.until_finished(SOON).steps("student"));
    assert_eq!(steps, [3, 2], "{}", watch.text());
    assert_eq!(watch.members(), ["900", "3", "2"].map(|many| format!(r#"{{"many":{many}.0}}"#)));
}

#[test]
fn a_run_that_fails_leaves_the_others_alone() {
    // With this rate, weights overflow.
    let desk = sweep("param rate: real = 1e-3", "rate in [1e30, 1e-3]", "lr = 3e-3", "lr = rate");
    let mut watch = desk.watch();
    watch.wait_for("the other runs continue", SOON);
    assert_eq!(watch.until_finished(SOON).started, ["start", "student"]);
    watch.wait_for("failed: rate=1000000000000000000000000000000", SOON);
    assert!(watch.said("1 of 2 runs, results in runs/tiny"), "{}", watch.text());
    desk.edit(Save::Replace, "[1e30, 1e-3]", "[1e-2, 1e-3]");
    assert_eq!(trained(&mut watch), [vec!["start".to_owned(), "student".to_owned()], vec![]]);
    watch.wait_for("2 of 2 runs, results in runs/tiny", SOON);
}

#[test]
fn a_worker_that_dies_takes_one_run_with_it() {
    let desk = lengths("[2000, 3]");
    let mut watch = desk.watch();
    watch.until_step("student", 2, SOON);
    let worker = watch.worker().expect("a worker runs").to_string();
    assert!(
        std::process::Command::new("kill").args(["-KILL", &worker]).status().expect("kill runs").success()
    );
    assert_eq!(watch.until_finished(SOON).steps("student"), 3);
    watch.wait_for("failed: many=2000", SOON);
}

#[test]
fn values_that_the_file_can_not_take_are_named_and_the_others_run() {
    let desk = lengths("[0, 4]");
    let mut watch = desk.watch();
    watch.wait_for("can't run: many=0", SOON);
    assert!(watch.said("out-of-range"), "{}", watch.text());
    assert_eq!(watch.until_finished(SOON).steps("student"), 4);
    watch.wait_for("failed: many=0", SOON);
}

#[test]
fn a_sweep_that_comes_and_goes() {
    let desk = Desk::new();
    let mut watch = desk.watch();
    assert_eq!(trained(&mut watch), [["start".to_owned(), "student".to_owned()]].map(Vec::from));
    desk.edit(
        Save::Replace,
        "experiment \"tiny\"",
        "param bound: nats = 5\nsweep { bound in [1, 5] }\nexperiment \"tiny\"",
    );
    // The parameter had no effect before; now it has.
    desk.edit(Save::Replace, "clip_at: 5", "clip_at: bound");
    watch.wait_for("2 of 2 runs", SOON);
    assert!(
        watch.said("run `bound=1` is new") && watch.said("`bound=5` was the run without a sweep"),
        "{}",
        watch.text()
    );
    assert_eq!(watch.steps("student"), 12, "one of the two was there: {}", watch.text());
    desk.edit(Save::Replace, "sweep { bound in [1, 5] }\n", "");
    watch.wait_for("the run without a sweep was called `bound=5`", SOON);
    watch.settle();
    assert_eq!(watch.steps("student"), 12);
}

#[test]
fn a_fork_of_what_the_runs_share_is_shared() {
    let desk = bounds();
    desk.edit(Save::InPlace, "steps = 5, batch", "steps = 300, batch");
    let mut watch = desk.watch_with(&["--fork"]);
    watch.until_step("start", 20, SOON);
    desk.edit(Save::Replace, "lr = 3e-3", "lr = 2e-3");
    let [first, second] = [watch.until_finished(SOON), watch.until_finished(SOON)];
    assert!(first.resumed.contains(&"start".to_owned()), "{first:?}");
    assert_eq!(
        (second.started, watch.steps("start")),
        (vec!["student".to_owned()], 300),
        "none of its steps twice"
    );
}
