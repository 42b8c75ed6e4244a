//! Scores of data by large frozen models, stored between runs: tests of the worker process on plans written
//! by hand.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::support::*;
use mopd_plan::events::{Event, Job, RunJob};
use mopd_plan::*;

/// Rows of the data.
const ROWS: u64 = 54;
/// 12 rows a step: two epochs.
const STEPS: u32 = 9;
/// Sequences that are scored.
const OF: u64 = 12 * STEPS as u64;
/// Sequences without stored scores when they are drawn: each row once, and one row that occurs twice in the
/// batch in which the second epoch begins.
const NEW: u64 = 55;

/// A small student of a frozen teacher with more than ten million parameters.
fn plan(objective: Objective) -> Plan {
    let mut b = Builder::new();
    let domains = [b.domain("copy", 0.5), b.domain("flip", 0.5)];
    let large = Architecture { layers: 6, width: 256, intermediate_size: 2048, ..tiny() };
    let teacher = b.model("teacher", Stage::Initialise(large));
    let base = b.model("base", Stage::Initialise(tiny()));
    let training = Training {
        start: base,
        domains: &domains,
        teachers: &[teacher, teacher],
        rollout: Rollout::new(12, Producer::data("answer")),
        objective,
        steps: STEPS,
        learning_rate: 3e-3,
    };
    let student = b.train("student", Recipe::Distill, training);
    b.compare(&domains, &[("student", student)], 1, 1);
    b.plan
}

/// The student's weights.
fn student(folder: &Path, out: &str) -> Vec<u8> {
    fs::read(folder.join(out).join("models/student-seed1/model.safetensors")).unwrap()
}

/// The numbers of sequences with stored scores, from the events.
fn found(events: &[Event]) -> Vec<(u64, u64)> {
    let of = |event: &Event| {
        if let Event::ScoresFound { found, of, .. } = event { Some((*found, *of)) } else { None }
    };
    events.iter().filter_map(of).collect()
}

/// Folders of scores in the store.
fn stored_files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder.join("store")).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "scores")).collect()
}

/// Files of scores, with their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let batches = stored_files(folder).into_iter().flat_map(|kept| fs::read_dir(kept).unwrap());
    let files = batches.map(|batch| batch.unwrap().path().join("hidden.bin"));
    files.map(|file| (file.strip_prefix(folder).unwrap().to_owned(), fs::read(&file).unwrap())).collect()
}

fn good(job: &RunJob) -> Vec<Event> {
    let (events, code) = run(job);
    assert_eq!(code, 0, "{:?}", events.last());
    events
}

#[test]
fn an_edited_objective_finds_what_the_teacher_said() {
    let folder = folder();
    let (one, other) = (plan(mopd(5.0)), plan(mopd(1.0)));
    let events = good(&job(&one, folder.path(), "one"));
    assert_eq!((found(&events), warnings(&events)), (vec![(OF - NEW, OF)], vec![]));
    let made = files(folder.path());
    let bytes: usize = made.values().map(Vec::len).sum();
    // Two letters and the end of each row, 256 numbers a token, four bytes a number.
    assert_eq!((made.len(), bytes), (5, ROWS as usize * 3 * 256 * 4));
    let results: results::Results =
        serde_json::from_slice(&fs::read(folder.path().join("one/results.json")).unwrap()).unwrap();
    let records: Vec<_> = results.stages.iter().filter_map(|record| record.scores_found).collect();
    assert_eq!(records, [results::ScoresFound { found: OF - NEW, of: OF }]);

    let events = good(&job(&other, folder.path(), "other"));
    assert_eq!(found(&events), [(OF, OF)]);
    let alone = self::folder();
    good(&job(&other, alone.path(), "other"));
    assert!(student(folder.path(), "other") == student(alone.path(), "other"));
    assert!(student(folder.path(), "other") != student(folder.path(), "one"));
    assert!(files(folder.path()) == made);

    // Recomputed scores replace stored ones, which later runs find.
    for again in [
        RunJob { fresh: true, ..job(&one, folder.path(), "one") },
        RunJob { from: vec!["student".to_owned()], ..job(&one, folder.path(), "one") },
    ] {
        let before = student(folder.path(), "one");
        assert_eq!(found(&good(&again)), [(OF - NEW, OF)]);
        assert!(student(folder.path(), "one") == before);
    }
}

#[test]
fn another_teacher_and_other_data_find_nothing() {
    let folder = folder();
    let one = plan(mopd(5.0));
    good(&job(&one, folder.path(), "one"));
    let mut other = one.clone();
    other.stages[0].content_key = "another teacher".to_owned();
    other.stages[0].stream = 77;
    other.stages[2].content_key = "a student of another teacher".to_owned();
    assert_eq!(found(&good(&job(&other, folder.path(), "other"))), [(OF - NEW, OF)]);
    assert_eq!(stored_files(folder.path()).len(), 2);
    let data = folder.path().join("copy.train.jsonl");
    fs::write(&data, fs::read_to_string(&data).unwrap().replace("copy ab", "copy ba")).unwrap();
    // Other data has another order: several rows may occur twice in the batch between two epochs.
    let [(found_then, OF)] = found(&good(&job(&one, folder.path(), "data")))[..] else {
        panic!("scores are found once")
    };
    assert!(found_then <= OF - ROWS && found_then > OF - ROWS - 6, "{found_then}");
    assert_eq!(stored_files(folder.path()).len(), 3);
    // A longer run finds the scores of the steps before.
    let mut longer = one;
    longer.stages[2].content_key = "longer".to_owned();
    let Stage::Train(train) = &mut longer.experiment.models[2].stage else { panic!("it trains") };
    train.length = Length::Steps(2 * STEPS);
    assert_eq!(found(&good(&job(&longer, folder.path(), "longer"))), [(2 * OF, 2 * OF)]);
}

/// Damaged scores are reported and computed again; a failed write is reported once, and the run goes on.
#[test]
fn damaged_scores_and_failed_writes_change_no_result() {
    let folder = folder();
    let one = plan(mopd(5.0));
    good(&job(&one, folder.path(), "one"));
    let (expected, made) = (student(folder.path(), "one"), files(folder.path()));
    let again = || {
        // Deletes the student's result, as pruning would.
        for entry in fs::read_dir(folder.path().join("store")).unwrap().map(|entry| entry.unwrap().path()) {
            if fs::read_to_string(entry.join("checksums.json")).is_ok_and(|sums| sums.contains("student")) {
                fs::remove_dir_all(entry).unwrap();
            }
        }
        let events = good(&job(&one, folder.path(), "one"));
        assert!(student(folder.path(), "one") == expected);
        events
    };
    assert_eq!(found(&again()), [(OF, OF)]);
    let (file, bytes) = made.iter().nth(1).unwrap();
    let mut bad = bytes.clone();
    bad[bytes.len() / 2] ^= 16;
    fs::write(folder.path().join(file), bad).unwrap();
    let events = again();
    assert!(
        matches!(warnings(&events)[..], [said] if said.contains("stored scores are damaged") && said.contains("hidden.bin"))
    );
    assert!(found(&events)[0].0 < OF && files(folder.path()) == made);
    // Deletes the scores between two runs.
    fs::remove_dir_all(&stored_files(folder.path())[0]).unwrap();
    let events = again();
    assert_eq!((found(&events), warnings(&events)), (vec![(OF - NEW, OF)], vec![]));
    assert!(files(folder.path()) == made);
    // Puts a file in place of their folder, so that no scores can be stored.
    let place = stored_files(folder.path())[0].clone();
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "").unwrap();
    let events = again();
    assert_eq!(found(&events), [(0, OF)]);
    assert!(
        matches!(warnings(&events)[..], [said] if said.contains("scores of teacher for student, seed 1 \
            cannot be stored")
            && said.contains("cannot write")),
        "{:?}",
        warnings(&events)
    );
}

#[test]
fn a_run_that_is_killed_in_the_second_epoch_ends_the_same() {
    let one = plan(mopd(5.0));
    let whole = folder();
    good(&job(&one, whole.path(), "out"));
    for pruned in [false, true] {
        let folder = folder();
        let job = RunJob { checkpoint_every: Some(0.0), ..job(&one, folder.path(), "out") };
        let mut child = start(&Job::Run(Box::new(job.clone())));
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            // Steps count from 0.
            if matches!(serde_json::from_str(&line), Ok(Event::Checkpoint { step: 6, .. })) {
                child.kill().unwrap();
            }
        }
        assert_eq!(child.wait().unwrap().code(), None);
        if pruned {
            fs::remove_dir_all(&stored_files(folder.path())[0]).unwrap();
        }
        let events = good(&job);
        assert!(events.iter().any(|event| matches!(event, Event::StageResumed { .. })));
        assert_eq!(warnings(&events), Vec::<&str>::new());
        let (found, of) = found(&events)[0];
        assert!(of < OF && (found == of) != pruned, "{found} of {of}");
        assert!(student(folder.path(), "out") == student(whole.path(), "out"));
        let (mine, theirs) = (files(folder.path()), files(whole.path()));
        assert!(mine.iter().all(|(file, bytes)| theirs[file] == *bytes));
    }
}

/// Two simultaneous runs with different objectives score every row once between them.
#[test]
fn two_runs_at_once_make_scores_once() {
    let folder = folder();
    let plans = [plan(mopd(5.0)), plan(mopd(1.0))];
    let jobs = [job(&plans[0], folder.path(), "one"), job(&plans[1], folder.path(), "other")];
    let children = jobs.clone().map(|job| start(&Job::Run(Box::new(job))));
    let all: Vec<Vec<Event>> = children
        .map(finish)
        .into_iter()
        .map(|(events, code)| {
            assert_eq!(code, 0, "{:?}", events.last());
            events
        })
        .collect();
    let (found, of) =
        all.iter().flat_map(|events| found(events)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((found, of), (2 * OF - NEW, 2 * OF));
    for (index, out) in ["one", "other"].iter().enumerate() {
        assert_eq!(warnings(&all[index]), Vec::<&str>::new());
        let alone = self::folder();
        good(&job(&plans[index], alone.path(), out));
        assert!(student(folder.path(), out) == student(alone.path(), out));
    }
}

/// If every step has new completions, or the teacher is small, no scores are stored, and the run reports
/// none.
#[test]
fn scores_that_save_no_time_are_not_stored() {
    let folder = folder();
    let mut small = plan(mopd(5.0));
    small.experiment.models[0].stage = Stage::Initialise(tiny());
    let mut own = plan(mopd(5.0));
    let Stage::Train(train) = &mut own.experiment.models[2].stage else { panic!("it trains") };
    train.rollout = Rollout::new(12, Producer::student(sampling(1)));
    (small.stages[0].key, small.stages[2].key, own.stages[2].key) =
        ("small".into(), "of it".into(), "own".into());
    for (plan, out) in [(&small, "small"), (&own, "own")] {
        assert_eq!(found(&good(&job(plan, folder.path(), out))), []);
    }
    assert_eq!(stored_files(folder.path()), Vec::<PathBuf>::new());
}
