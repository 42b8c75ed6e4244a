//! Stages that several processes train together.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::support::*;
use mopd_plan::events::{Event, FailureKind, Job, RunJob};
use mopd_plan::*;

const STUDENT: u32 = 40;

/// A base, fine-tuning, an expert by rewards, a student of both on its own completions, and a table.
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
    let start = b.train("start", Recipe::Sft, training(base, &[], data, nll(), 30));
    let expert = b.train("expert", Recipe::Grpo, training(start, &[], rollouts(4), grpo(), 8));
    let experts = [expert, start];
    let student =
        b.train("student", Recipe::Distill, training(start, &experts, rollouts(1), mopd(5.0), STUDENT));
    b.compare(&domains, &[("start", start), ("student", student)], 1, 2);
    b
}

fn with(processes: u32, plan: &Plan, folder: &Path) -> RunJob {
    RunJob { processes, workers: None, predict: events::Predict::Never, ..job(plan, folder, "out") }
}

/// The numbers of a model's file.
fn weights(folder: &Path, model: &str) -> Vec<f32> {
    let bytes = fs::read(folder.join(format!("out/models/{model}-seed1/model.safetensors"))).unwrap();
    let head = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let numbers = bytes[8 + head..].chunks_exact(4);
    numbers.map(|number| f32::from_le_bytes(number.try_into().unwrap())).collect()
}

fn losses(events: &[Event], wanted: &str) -> Vec<f64> {
    let of = |event: &Event| match event {
        Event::Step { stage, loss, .. } if stage == wanted => Some(*loss),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

/// The largest difference of two models' weights, relative to the largest change of `other` from the start.
fn distance(one: &[f32], other: &[f32], start: &[f32]) -> f64 {
    let largest = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| {
        pairs.map(|(one, other)| f64::from((one - other).abs())).fold(0.0, f64::max)
    };
    largest(&mut one.iter().zip(other)) / largest(&mut other.iter().zip(start))
}

#[test]
fn two_and_four_processes_are_one_but_for_rounding() {
    let plan = chain().plan;
    let one = folder();
    let (one_s, code) = run(&with(1, &plan, one.path()));
    assert_eq!(code, 0, "{:?}", one_s.last());
    let expected = losses(&one_s, "start");
    for processes in [2, 4] {
        let several = folder();
        let (events, code) = run(&with(processes, &plan, several.path()));
        assert_eq!(code, 0, "{:?}", events.last());
        let found = losses(&events, "start");
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(&expected).map(|(found, expected)| (found / expected - 1.0).abs());
        let off = off.fold(0.0, f64::max);
        let apart = |model| {
            let of = |folder: &Path| weights(folder, model);
            distance(&of(several.path()), &of(one.path()), &weights(one.path(), "base"))
        };
        let (drawn, known) = (losses(&events, "student"), losses(&one_s, "student"));
        let alike = drawn.iter().zip(&known).take_while(|(found, known)| (*found - *known).abs() < 1e-3);
        println!(
            "{processes} processes: losses of `start` within {off:.1e}, weights of `start` within {:.1e} of \
             their change, of `student` within {:.1e}; its losses are alike for {} of {STUDENT} steps",
            apart("start"),
            apart("student"),
            alike.count()
        );
        assert!((drawn[0] - known[0]).abs() < 1e-3, "{} {}", drawn[0], known[0]);
        assert!(off < 1e-4, "{processes}: {off:e}");
        assert!(apart("start") < 1e-2, "{processes}: {:e}", apart("start"));
        // Later stages sample completions: rounding may change a token, and then everything after it.
        assert_eq!(drawn.len(), STUDENT as usize);
        // A repetition has the same bits, and another result than a run of one process.
        let again = folder();
        assert_eq!(run(&with(processes, &plan, again.path())).1, 0);
        assert!(
            outcome(again.path(), "out") == outcome(several.path(), "out"),
            "{processes} processes twice"
        );
        let (events, code) = run(&with(1, &plan, several.path()));
        assert_eq!(code, 0, "{:?}", events.last());
        assert_eq!(losses(&events, "start"), expected, "one process finds no result of several");
        assert!(outcome(several.path(), "out") == outcome(one.path(), "out"));
        let (events, _) = run(&with(processes, &plan, several.path()));
        assert!(losses(&events, "start").is_empty(), "each finds its own");
        assert_eq!(warnings(&events), Vec::<&str>::new());
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let of = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name in brackets: the state, then the parent.
        let own: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (own == parent).then_some(pid)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Runs until `enough`, then sends a signal to the process with this number.
fn cut(
    job: &RunJob,
    signal: &str,
    rank: usize,
    enough: impl Fn(&Event) -> bool,
) -> (Vec<Event>, Option<i32>) {
    let mut child = start(&Job::Run(Box::new(job.clone())));
    let (mut events, mut sent, mut others) = (Vec::new(), false, Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(event) = serde_json::from_str::<Event>(&line.unwrap()) else { break };
        if enough(&event) && !sent {
            others = children(child.id());
            assert_eq!(others.len(), job.processes as usize - 1, "as many as were asked for");
            others.sort_unstable();
            let pid = if rank == 0 { child.id() } else { others[rank - 1] };
            let kill = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
            assert!(kill.unwrap().success());
            sent = true;
        }
        events.push(event);
    }
    let code = child.wait().unwrap().code();
    for _ in 0..500 {
        if others.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            return (events, code);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("processes outlive the run: {others:?}");
}

fn at(wanted: u32) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Step { stage, step, .. } if stage == "student" && *step == wanted)
}

fn resumed(events: &[Event]) -> Vec<(String, u32)> {
    let of = |event: &Event| match event {
        Event::StageResumed { stage, step, .. } => Some((stage.clone(), *step)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

/// If any process is killed in the middle of a step, the run reports which, resumes from its last checkpoint,
/// and ends with the bits of an uninterrupted run.
#[test]
fn a_process_that_is_killed_stops_the_run_and_the_next_one_ends_the_same() {
    let plan = chain().plan;
    let whole = folder();
    let (events, code) = run(&with(3, &plan, whole.path()));
    assert_eq!(code, 0, "{:?}", events.last());
    let expected = outcome(whole.path(), "out");
    let folder = folder();
    let job = RunJob { checkpoint_every: Some(0.0), ..with(3, &plan, folder.path()) };
    for (step, rank) in [(5, 2), (11, 1), (17, 0)] {
        let (events, code) = cut(&job, "-KILL", rank, at(step));
        if rank > 0 {
            let Some(Event::Failed(failure)) = events.last() else { panic!("{:?}", events.last()) };
            assert_eq!(failure.message, format!("process {rank} of 3 was killed (signal 9)"));
            assert_eq!((code, failure.kind), (Some(1), FailureKind::Runtime));
            assert!(failure.help.as_deref().unwrap().contains("resumes from its last checkpoint"));
            assert_eq!(failure.stage.as_deref(), Some("student"));
        } else {
            assert_eq!(code, None, "the worker is gone");
        }
        assert!(step < 6 || resumed(&events).iter().any(|(stage, _)| stage == "student"), "{events:?}");
    }
    let (events, code) = run(&job);
    assert_eq!(code, 0, "{:?}", events.last());
    let resumed = resumed(&events);
    assert!(matches!(&resumed[..], [(stage, 17..)] if stage == "student"), "{resumed:?}");
    assert!(outcome(folder.path(), "out") == expected);
}

/// If any process is asked to stop, all stop at the same step.
#[test]
fn processes_that_are_asked_to_stop_keep_the_step_they_are_at() {
    let plan = chain().plan;
    let whole = folder();
    assert_eq!(run(&with(2, &plan, whole.path())).1, 0);
    let folder = folder();
    // The interval is too long to cause a checkpoint by itself.
    let job = RunJob { checkpoint_every: Some(1e6), ..with(2, &plan, folder.path()) };
    for (step, rank) in [(4, 0), (9, 1)] {
        let (events, code) = cut(&job, "-TERM", rank, at(step));
        assert_eq!(code, Some(130), "{:?}", events.last());
        assert!(matches!(events.last(), Some(Event::Interrupted { .. })));
        assert!(
            events.iter().any(|event| matches!(event, Event::Checkpoint { stage, .. } if stage == "student"))
        );
    }
    let (events, code) = run(&job);
    assert_eq!(code, 0, "{:?}", events.last());
    assert_eq!(resumed(&events).len(), 1);
    assert!(outcome(folder.path(), "out") == outcome(whole.path(), "out"));
}

fn refused(plan: &Plan, processes: u32) -> String {
    let folder = folder();
    let (events, code) = run(&with(processes, plan, folder.path()));
    assert_eq!(code, 1);
    assert!(!events.iter().any(|event| matches!(event, Event::StageStarted { .. })), "before anything runs");
    let Some(Event::Failed(failure)) = events.last() else { panic!("{:?}", events.last()) };
    assert!(failure.help.is_some(), "{failure:?}");
    failure.message.clone()
}

#[test]
fn stages_unsupported_with_processes_are_refused_by_name() {
    let changed = |change: &dyn Fn(&mut Train<Objective>)| {
        let mut plan = chain().plan;
        for model in &mut plan.experiment.models {
            if let (Stage::Train(train), "student") = (&mut model.stage, model.name.as_str()) {
                change(train);
            }
        }
        plan
    };
    let unsupported = |change: &dyn Fn(&mut Train<Objective>), what: &str| {
        assert_eq!(
            refused(&changed(change), 2),
            format!("`student`: {what} is not supported yet with `--processes`")
        );
    };
    unsupported(
        &|train| train.private = Some(Private { clip: 1.0, epsilon: 8.0, delta: 1e-5 }),
        "a private stage",
    );
    unsupported(
        &|train| train.alignment = Some(GradientAlignment { between: GradientPartition::Domains, every: 2 }),
        "`gradient_alignment`",
    );
    assert_eq!(
        refused(&changed(&|train| train.rollout.groups = 3), 4),
        "`student`: 4 processes cannot split the data of a step, `prompts = 3`"
    );
    assert_eq!(refused(&chain().plan, 65), "a run can have 1 to 64 processes, not 65");
}
