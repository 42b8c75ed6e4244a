//! Runs that end early, and how the next run resumes them.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use crate::support::*;
use mopd_plan::events::{Event, FailureKind, Fork, Job, RunJob};
use mopd_plan::views::{Piece, Slot};
use mopd_plan::*;

/// Steps of the student: enough that a signal comes before the last.
const STUDENT: u32 = 80;

/// A base, fine-tuning, an expert by reinforcement learning in two passes, a student of it, and a table.
fn chain() -> Builder {
    let mut b = Builder::new();
    let domains = [b.domain("copy", 0.5), b.domain("flip", 0.5)];
    let base = b.model("base", Stage::Initialise(tiny()));
    let data = Rollout::new(8, Producer::data("answer"));
    let training = |start, teachers, rollout, objective, steps| Training {
        start,
        domains: &domains,
        teachers,
        rollout,
        objective,
        steps,
        learning_rate: 3e-3,
    };
    let rollouts = |n| Rollout::new(8, Producer::student(sampling(n)));
    let start = b.train("start", Recipe::Sft, training(base, &[], data, nll(), 40));
    let expert = b.train("expert", Recipe::Grpo, training(start, &[], rollouts(4), grpo(), 9));
    if let Stage::Train(train) = &mut b.plan.experiment.models[expert.0 as usize].stage {
        train.options.passes = 2;
    }
    let student = b.train(
        "student",
        Recipe::Distill,
        training(start, &[expert, expert], rollouts(1), mopd(5.0), STUDENT),
    );
    b.compare(&domains, &[("start", start), ("student", student)], 1, 2);
    b
}

/// A job with a checkpoint after every step.
fn often(plan: &Plan, folder: &Path, out: &str) -> RunJob {
    RunJob { checkpoint_every: Some(0.0), ..job(plan, folder, out) }
}

/// Runs until `enough`, then ends the run with a signal.
fn cut(job: &RunJob, signal: &str, enough: impl Fn(&Event) -> bool) -> (Vec<Event>, Option<i32>) {
    let mut child = start(&Job::Run(Box::new(job.clone())));
    let mut events = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(event) = serde_json::from_str::<Event>(&line.unwrap()) else { break };
        if enough(&event) {
            let pid = child.id().to_string();
            assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        }
        events.push(event);
    }
    (events, child.wait().unwrap().code())
}

fn resumed(events: &[Event]) -> Vec<(String, u32)> {
    let of = |event: &Event| match event {
        Event::StageResumed { stage, step, .. } => Some((stage.clone(), *step)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn steps_of<'a>(events: &'a [Event], wanted: &'a str) -> impl Iterator<Item = u32> + 'a {
    events.iter().filter_map(move |event| match event {
        Event::Step { stage, step, .. } if stage == wanted => Some(*step),
        _ => None,
    })
}

fn checkpoints<'a>(events: &'a [Event], wanted: &'a str) -> impl Iterator<Item = (String, u32)> + 'a {
    events.iter().filter_map(move |event| match event {
        Event::Checkpoint { stage, key, step, .. } if stage == wanted => Some((key.clone(), *step)),
        _ => None,
    })
}

/// SIGKILL at arbitrary moments: each run gets a little further than the one before.
#[test]
fn a_run_that_is_killed_over_and_over_ends_the_same() {
    let plan = chain().plan;
    let whole = folder();
    let first_step = Cell::new(None);
    let (events, code) = cut(&job(&plan, whole.path(), "out"), "-KILL", |event| {
        if matches!(event, Event::Step { .. }) && first_step.get().is_none() {
            first_step.set(Some(Instant::now()));
        }
        false
    });
    assert_eq!(code, Some(0), "{:?}", events.last());
    let took = first_step.get().expect("it trains").elapsed();
    let expected = outcome(whole.path(), "out");

    let folder = folder();
    let job = often(&plan, folder.path(), "out");
    let mut kills = 0;
    let mut went_on = 0;
    loop {
        let mut child = start(&Job::Run(Box::new(job.clone())));
        let reader = child.stdout.take().unwrap();
        let (steps, trains) = channel();
        let heard = std::thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map_while(Result::ok);
            let events = lines.filter_map(|line| serde_json::from_str::<Event>(&line).ok());
            let note = |event: &Event| {
                if matches!(event, Event::Step { .. }) {
                    let _ = steps.send(());
                }
            };
            events.inspect(note).collect::<Vec<_>>()
        });
        if kills < 6 {
            // Counted from the first step on, because the time to start varies. If no step comes, all stages
            // are done. The fractions of the whole are no multiples of one another.
            let _ = trains.recv();
            std::thread::sleep(took.mul_f64(0.1 + 0.11 * f64::from(kills % 4)));
            // It may have ended already.
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        let events = heard.join().unwrap();
        assert!(!events.iter().any(|event| matches!(event, Event::Failed(_))), "{events:?}");
        assert_eq!(warnings(&events), Vec::<&str>::new(), "nothing is ever damaged by a kill");
        went_on += resumed(&events).len();
        if status.success() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "it was too fast to be killed");
    assert!(went_on > 0 || kills < 3, "of {kills} kills none left a checkpoint");
    assert!(outcome(folder.path(), "out") == expected, "after {kills} kills");
    let left = fs::read_dir(folder.path().join("store"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        left.filter(|name| name.ends_with(".unfinished")).count(),
        0,
        "finished stages need no checkpoints"
    );
}

#[test]
fn stopped_run_keeps_its_current_step() {
    let folder = folder();
    let plan = chain().plan;
    // The interval is too long to cause a checkpoint by itself.
    let job = RunJob { checkpoint_every: Some(1e6), ..job(&plan, folder.path(), "out") };
    let (events, code) =
        cut(&job, "-TERM", |event| matches!(event, Event::Step { stage, step: 4, .. } if stage == "student"));
    assert_eq!(code, Some(130));
    let (_, kept) = checkpoints(&events, "student").last().expect("a checkpoint");
    assert_eq!(steps_of(&events, "student").last(), Some(kept - 1), "all that was done is kept");
    let (events, code) = run(&job);
    assert_eq!((code, resumed(&events)), (0, vec![("student".to_owned(), kept)]));
    assert_eq!(steps_of(&events, "student").collect::<Vec<_>>(), (kept..STUDENT).collect::<Vec<_>>());
    let whole = self::folder();
    run(&self::job(&plan, whole.path(), "out"));
    assert!(outcome(folder.path(), "out") == outcome(whole.path(), "out"));
    // The metrics include the steps of the interrupted run.
    let rows = |folder: &Path| fs::metadata(folder.join("out/metrics.parquet")).unwrap().len();
    assert!(rows(folder.path()).abs_diff(rows(whole.path())) < 2000, "as many rows");
}

#[test]
fn from_a_stage_on_everything_is_computed_again() {
    let folder = folder();
    let plan = chain().plan;
    assert_eq!(run(&job(&plan, folder.path(), "out")).1, 0);
    let expected = outcome(folder.path(), "out");
    let from = RunJob { from: vec!["expert".to_owned()], ..often(&plan, folder.path(), "out") };
    let (events, code) = run(&from);
    assert_eq!(code, 0);
    let names =
        |wanted: fn(&Event) -> Option<&String>| events.iter().filter_map(wanted).cloned().collect::<Vec<_>>();
    let kept = names(|event| if let Event::StageKept { stage, .. } = event { Some(stage) } else { None });
    let made = names(|event| if let Event::StageFinished { stage, .. } = event { Some(stage) } else { None });
    assert_eq!(
        (kept, made),
        (vec!["base".to_owned(), "start".to_owned()], vec!["expert".to_owned(), "student".to_owned()])
    );
    assert!(outcome(folder.path(), "out") == expected);
    // After an interruption, `--from` starts the stage again, and a run without it resumes.
    let at = |event: &Event| matches!(event, Event::Checkpoint { stage, step: 3, .. } if stage == "expert");
    let (_, code) = cut(&from, "-KILL", at);
    assert_eq!(code, None);
    let (events, _) = run(&from);
    assert_eq!(resumed(&events), []);
}

/// An edit during a run: with another objective, the student continues from its checkpoint, under a key that
/// records this.
#[test]
fn a_stage_can_be_forked_from_another_ones_checkpoint() {
    let folder = folder();
    let plan = chain().plan;
    let job = often(&plan, folder.path(), "out");
    let at = |event: &Event| matches!(event, Event::Step { stage, step: 4, .. } if stage == "student");
    let (events, _) = cut(&job, "-TERM", at);
    let (key, step) = checkpoints(&events, "student").last().expect("a checkpoint");

    let mut edited = chain();
    let student = edited.plan.experiment.models.iter().position(|model| model.name == "student").unwrap();
    if let Stage::Train(train) = &mut edited.plan.experiment.models[student].stage {
        train.objective = mopd(1.0);
    }
    edited.plan.stages[student].content_key = "edited".to_owned();
    let plain = often(&edited.plan, folder.path(), "out");
    let fork = |step| Fork { stage: "student".to_owned(), seed: 1, key: key.clone(), step };
    let forked = RunJob { forks: vec![fork(step)], ..plain.clone() };
    let (events, code) = run(&forked);
    assert_eq!((code, resumed(&events)), (0, vec![("student".to_owned(), step)]));
    assert_eq!(steps_of(&events, "student").collect::<Vec<_>>(), (step..STUDENT).collect::<Vec<_>>());
    let provenance = fs::read_to_string(folder.path().join("out/models/student-seed1/mopd.json")).unwrap();
    let provenance: serde_json::Value = serde_json::from_str(&provenance).unwrap();
    assert_eq!(provenance["forked"], serde_json::json!({ "key": key, "step": step }));
    let of_fork = outcome(folder.path(), "out");
    // The same fork is found in the store; the text without a fork is another result.
    let (events, _) = run(&forked);
    assert!(events.iter().any(|event| matches!(event, Event::StageKept { stage, .. } if stage == "student")));
    let (events, _) = run(&plain);
    assert_eq!(steps_of(&events, "student").count(), STUDENT as usize);
    assert!(outcome(folder.path(), "out") != of_fork);
    // A missing checkpoint can't be forked from.
    let (events, code) = run(&RunJob { forks: vec![fork(77)], ..plain });
    let Some(Event::Failed(failure)) = events.last() else { panic!("{code} {events:?}") };
    assert_eq!(failure.kind, FailureKind::Storage);
    assert!(
        failure.message.contains("cannot fork `student` from the checkpoint of step 77"),
        "{}",
        failure.message
    );
}

/// If the last checkpoint is damaged or incomplete, a warning reports it and the one before is used; without
/// any, the stage starts again.
#[test]
fn a_damaged_checkpoint_is_said_and_passed_over() {
    let plan = chain().plan;
    let whole = folder();
    run(&job(&plan, whole.path(), "out"));
    let expected = outcome(whole.path(), "out");
    for (damaged, deleted) in [(1, false), (2, false), (1, true), (2, true)] {
        let folder = folder();
        let job = often(&plan, folder.path(), "out");
        let at =
            |event: &Event| matches!(event, Event::Checkpoint { stage, step: 5, .. } if stage == "student");
        let (events, _) = cut(&job, "-TERM", at);
        let (key, last) = checkpoints(&events, "student").last().expect("a checkpoint");
        let states = folder.path().join("store").join(format!("{key}.unfinished"));
        for step in (last - 1..=last).rev().take(damaged) {
            let path = states.join(format!("{step:010}")).join("state.safetensors");
            let bytes = fs::read(&path).unwrap();
            match deleted {
                false => fs::write(&path, &bytes[..bytes.len() - 100]).unwrap(),
                true => fs::remove_file(&path).unwrap(),
            }
        }
        let (events, code) = run(&job);
        assert_eq!(code, 0, "{:?}", events.last());
        let said = warnings(&events);
        let (kind, reason) = match deleted {
            false => ("damaged", "the checksum of state.safetensors is wrong"),
            true => ("incomplete", "state.safetensors was deleted"),
        };
        let then = if damaged == 1 { "the one before is used" } else { "the stage begins at its first step" };
        let begins = format!("a checkpoint of `student` is {kind}, so ");
        let all = said.iter().all(|said| said.starts_with(&begins) && said.contains(reason));
        assert!(said.len() == damaged && all, "{said:?}");
        assert!(said.last().is_some_and(|said| said.contains(then)), "{said:?}");
        let expected_step = if damaged == 1 { vec![("student".to_owned(), last - 1)] } else { vec![] };
        assert_eq!(resumed(&events), expected_step);
        assert!(outcome(folder.path(), "out") == expected);
    }
}

/// If a checkpoint can't be written, the run reports it and goes on.
#[test]
fn where_no_checkpoint_can_be_written_training_goes_on() {
    let folder = folder();
    let plan = chain().plan;
    let job = often(&plan, folder.path(), "out");
    let at = |event: &Event| matches!(event, Event::Checkpoint { stage, step: 2, .. } if stage == "student");
    let (events, _) = cut(&job, "-KILL", at);
    let (key, _) = checkpoints(&events, "student").next().expect("a checkpoint");
    let states = folder.path().join("store").join(format!("{key}.unfinished"));
    // Puts files in place of the checkpoints' folders, which also stops a user who may write anywhere.
    for step in 5..8 {
        let _ = fs::remove_dir_all(states.join(format!("{step:010}")));
        fs::write(states.join(format!("{step:010}")), "").unwrap();
    }
    let (events, code) = run(&job);
    assert_eq!(code, 0, "{:?}", events.last());
    let said = warnings(&events);
    let fits = |said: &&&str| {
        said.contains("no checkpoint of `student` at step") && said.contains("training goes on")
    };
    assert!(
        said.len() == 1 && said.iter().filter(fits).count() == 1,
        "said once, not at every step: {said:?}"
    );
    let whole = self::folder();
    run(&self::job(&plan, whole.path(), "out"));
    assert!(outcome(folder.path(), "out") == outcome(whole.path(), "out"));
}

/// Three runs start together on one store, and one of them is killed: nothing is computed twice, no run waits
/// for ever, and all that finish have the same results.
#[test]
fn runs_on_one_store_share_the_work() {
    let plan = chain().plan;
    let folder = folder();
    let mut all: Vec<_> =
        ["a", "b", "c"].map(|out| start(&Job::Run(Box::new(often(&plan, folder.path(), out))))).into();
    let mut killed = all.pop().unwrap();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for line in BufReader::new(killed.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Event>(&line) else { break };
            if heard.len() == 40 {
                let _ = killed.kill();
            }
            heard.push(event);
        }
        killed.wait().unwrap();
        heard
    });
    let others: Vec<_> = all.into_iter().map(|child| std::thread::spawn(move || finish(child))).collect();
    let mut everything = heard.join().unwrap();
    for other in others {
        let (events, code) = other.join().unwrap();
        assert_eq!((code, warnings(&events)), (0, vec![]), "{:?}", events.last());
        everything.extend(events);
    }
    let made = everything.iter().filter_map(|event| match event {
        Event::StageFinished { stage, .. } => Some(stage.as_str()),
        _ => None,
    });
    let mut made: Vec<&str> = made.collect();
    made.sort_unstable();
    let once: std::collections::BTreeSet<&str> = made.iter().copied().collect();
    assert_eq!(made.len(), once.len(), "computed twice: {made:?}");
    assert!(outcome(folder.path(), "a") == outcome(folder.path(), "b"));
    let locks = fs::read_dir(folder.path().join("store/locks")).unwrap();
    assert!(locks.count() <= 1, "who ends takes its locks away");
}

/// What a run needs is not pruned while its folder of results exists.
#[test]
fn results_that_a_run_needs_are_not_pruned() {
    let folder = folder();
    assert_eq!(run(&job(&chain().plan, folder.path(), "out")).1, 0);
    let store = mopd_store::Folder::at(&folder.path().join("store"));
    let everything =
        mopd_store::PrunePolicy { older_than: Some(std::time::Duration::ZERO), ..Default::default() };
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    let pruned = store.prune(&everything, later).unwrap().unwrap();
    assert!(pruned.removed.is_empty() && pruned.left == pruned.needed && pruned.left > 0, "{pruned:?}");
    let items = store.items().unwrap();
    let mut about: Vec<&str> = items.iter().map(|item| item.about.as_str()).collect();
    about.sort_unstable();
    let evaluations = [
        "start on copy, seed 1",
        "start on flip, seed 1",
        "student on copy, seed 1",
        "student on flip, seed 1",
    ];
    let stages = ["base, seed 1", "expert, seed 1", "start, seed 1", "student, seed 1"];
    let mut expected = [evaluations, stages].concat();
    expected.sort_unstable();
    assert_eq!(about, expected);
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    let pruned = store.prune(&everything, later).unwrap().unwrap();
    assert_eq!((pruned.removed.len(), pruned.left), (8, 0));
}

/// A plan in which a student imitates its own start, with this learning rate.
fn imitation(learning_rate: f64) -> Plan {
    let mut b = Builder::new();
    let domains = [b.domain("copy", 0.5), b.domain("flip", 0.5)];
    let base = b.model("base", Stage::Initialise(tiny()));
    let rollout = Rollout::new(8, Producer::teacher_once(40, Keep::All, sampling(1)));
    let training = Training {
        start: base,
        domains: &domains,
        teachers: &[base, base],
        rollout,
        objective: nll(),
        steps: 6,
        learning_rate,
    };
    let imitator = b.train("imitator", Recipe::Sft, training);
    b.plan.stages[imitator.0 as usize].content_key = format!("at {learning_rate}");
    b.plan
}

/// Rollouts that a frozen model writes before the first step depend neither on objective nor learning rate.
#[test]
fn rollouts_of_frozen_models_are_written_once() {
    let folder = folder();
    let rollouts = || {
        let items = mopd_store::Folder::at(&folder.path().join("store")).items().unwrap();
        let of = |item: &&mopd_store::StoreItem| item.about == "rollouts of the teachers of imitator, seed 1";
        items.iter().filter(of).map(|item| item.name.clone()).collect::<Vec<_>>()
    };
    let weights = |out: &str| {
        fs::read(folder.path().join(out).join("models/imitator-seed1/model.safetensors")).unwrap()
    };
    assert_eq!(run(&job(&imitation(1e-3), folder.path(), "one")).1, 0);
    let written = rollouts();
    assert_eq!(written.len(), 1);
    assert_eq!(run(&job(&imitation(1e-2), folder.path(), "two")).1, 0);
    assert_eq!(rollouts(), written);
    // Read from the store, rollouts are as they were written.
    let fresh = RunJob { fresh: true, ..job(&imitation(1e-2), folder.path(), "three") };
    assert_eq!(run(&fresh).1, 0);
    assert!(weights("two") == weights("three") && weights("one") != weights("two"));
    // Damaged rollouts are written again.
    let path = folder.path().join("store").join(&written[0]).join("value.json");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let from = RunJob { from: vec!["imitator".to_owned()], ..job(&imitation(1e-3), folder.path(), "four") };
    assert_eq!(run(&from).1, 0);
    let (events, code) = run(&job(&imitation(3e-3), folder.path(), "five"));
    assert_eq!((code, warnings(&events)), (0, vec![]), "`--from` wrote them anew");
    assert!(weights("four") == weights("one"));
    // With other prompts, the rollouts are others.
    let mut shown = imitation(1e-3);
    let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Text(" now".to_owned())];
    for (model, stage) in shown.experiment.models.iter_mut().zip(&mut shown.stages) {
        if let (Stage::Train(train), "imitator") = (&mut model.stage, model.name.as_str()) {
            train.sees = Some(View { name: "shown".to_owned(), pieces: pieces.clone() });
            stage.content_key = "shown".to_owned();
        }
    }
    assert_eq!(run(&job(&shown, folder.path(), "six")).1, 0);
    assert_eq!(rollouts().len(), 2);
    assert!(weights("six") != weights("one"));
}
