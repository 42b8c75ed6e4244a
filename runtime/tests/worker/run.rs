//! Whole runs of the worker, through its real input and output.

use std::fs;
use std::io::BufRead;
use std::path::Path;

use crate::support::*;
use mopd_plan::events::{ColumnValues, Event, FailureKind, Job, ReadColumn, SampleJob, SamplePrompt};
use mopd_plan::*;
use mopd_runtime::report::read::{RowFilter, columns};

/// Every kind of stage: fine-tuning, two experts, distillation in three forms, imitation, merges; one table,
/// two seeds.
fn everything() -> Builder {
    let mut b = Builder::new();
    let domains = [b.domain("copy", 0.5), b.domain("flip", 0.5)];
    let base = b.model("base", Stage::Initialise(tiny()));
    let data = Rollout::new(16, Producer::data("answer"));
    let start = b.train(
        "start",
        Recipe::Sft,
        Training {
            start: base,
            domains: &domains,
            teachers: &[],
            rollout: data,
            objective: nll(),
            steps: 150,
            learning_rate: 1e-2,
        },
    );
    let rollouts = |n| Rollout::new(8, Producer::student(sampling(n)));
    let expert = |b: &mut Builder, name: &str, domain| {
        b.train(
            name,
            Recipe::Grpo,
            Training {
                start,
                domains: &[domain],
                teachers: &[],
                rollout: rollouts(4),
                objective: grpo(),
                steps: 6,
                learning_rate: 3e-3,
            },
        )
    };
    let experts = [expert(&mut b, "expert[copy]", domains[0]), expert(&mut b, "expert[flip]", domains[1])];
    let distill = |b: &mut Builder, name: &str, objective| {
        b.train(
            name,
            Recipe::Distill,
            Training {
                start,
                domains: &domains,
                teachers: &experts,
                rollout: rollouts(1),
                objective,
                steps: 6,
                learning_rate: 3e-3,
            },
        )
    };
    let student = distill(&mut b, "student", mopd(5.0));
    let full = distill(&mut b, "full", direct(Support::Full, Mass::Raw));
    let top = Support::TopK { role: Role::TEACHER, k: 8 };
    let top = distill(&mut b, "top", direct(top, Mass::Generalized));
    let imitation = Rollout::new(16, Producer::teacher_once(64, Keep::Correct, sampling(1)));
    let imitator = b.train(
        "imitator",
        Recipe::Sft,
        Training {
            start,
            domains: &domains,
            teachers: &experts,
            rollout: imitation,
            objective: nll(),
            steps: 6,
            learning_rate: 3e-3,
        },
    );
    let merge = |method, base| Stage::Merge(Merge { method, base, models: experts.to_vec() });
    let average = b.model("average", merge(MergeMethod::Average, None));
    let dropped = b.model("dropped", merge(MergeMethod::Dare { scale: 1.0, drop: 0.5 }, Some(start)));
    b.model("unused", Stage::Initialise(tiny()));
    let rows = [
        ("start", start),
        ("student", student),
        ("full", full),
        ("top", top),
        ("imitator", imitator),
        ("average", average),
        ("dropped", dropped),
    ];
    b.compare(&domains, &rows, 2, 4);
    b
}

fn weights(folder: &Path, out: &str, model: &str) -> Vec<u8> {
    fs::read(folder.join(out).join("models").join(model).join("model.safetensors")).unwrap()
}

#[track_caller]
fn failure(events: &[Event], code: i32) -> &mopd_plan::events::Failure {
    assert_eq!(code, 1, "{events:?}");
    let Some(Event::Failed(failure)) = events.last() else { panic!("no failure: {events:?}") };
    failure
}

#[test]
fn a_run_is_complete_and_can_be_repeated() {
    let folder = folder();
    let plan = everything().plan;
    let (events, code) = run(&job(&plan, folder.path(), "first"));
    assert_eq!(code, 0, "{:?}", events.last());
    assert_eq!(warnings(&events), Vec::<&str>::new());
    assert!(matches!(events[0], Event::Ready { .. }));
    // Two seeds of ten stages; `unused` is in no table.
    assert!(matches!(events[1], Event::Started { tasks: 20, kept: 0 }), "{:?}", events[1]);
    let finished = events.iter().filter(|event| matches!(event, Event::StageFinished { .. })).count();
    assert_eq!(finished, 20);
    // Seven rows, two domains, two seeds.
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Evaluated { .. })).count(), 28);
    assert!(matches!(events.last(), Some(Event::Finished { .. })));
    let results: results::Results =
        serde_json::from_str(&fs::read_to_string(folder.path().join("first/results.json")).unwrap()).unwrap();
    assert_eq!((results.seeds.as_slice(), results.tables[0].rows.len()), (&[1, 2][..], 7));
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step { stage, seed: 1, metric, value, .. } if stage == "start" && metric == "loss" => {
                Some(*value)
            }
            _ => None,
        })
        .collect();
    assert!(losses.len() == 150 && losses[149] < 0.4 * losses[0], "fine-tuning taught nothing: {losses:?}");
    look(&folder.path().join("first"));

    // The same again: everything is kept, and the tables are the same.
    let (events, code) = run(&job(&plan, folder.path(), "second"));
    assert_eq!(code, 0);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::StageKept { .. })).count(), 20);
    let again: results::Results =
        serde_json::from_str(&fs::read_to_string(folder.path().join("second/results.json")).unwrap())
            .unwrap();
    assert_eq!(again.tables, results.tables);
    for file in
        ["metrics.parquet", "samples.parquet", "weights.parquet", "rewards.parquet", "answers.parquet"]
    {
        assert!(folder.path().join("second").join(file).exists());
        let read = |out: &str| columns(&folder.path().join(out).join(file), &RowFilter::new()).unwrap();
        assert_eq!(read("first"), read("second"), "{file}");
    }

    // Recomputed with one thread, all bits are the same.
    let (events, code) = run(&RunJobWith { fresh: true, workers: 1 }.of(&plan, folder.path(), "third"));
    assert_eq!(code, 0, "{:?}", events.last());
    for model in ["start", "expert.copy", "student", "full", "top", "imitator", "average", "dropped"] {
        for seed in [1, 2] {
            let name = format!("{model}-seed{seed}");
            assert_eq!(
                weights(folder.path(), "third", &name),
                weights(folder.path(), "second", &name),
                "{name}"
            );
        }
        assert_ne!(
            weights(folder.path(), "first", &format!("{model}-seed1")),
            weights(folder.path(), "first", &format!("{model}-seed2"))
        );
    }
    let third: results::Results =
        serde_json::from_str(&fs::read_to_string(folder.path().join("third/results.json")).unwrap()).unwrap();
    assert_eq!(third.tables, results.tables);
}

/// Checks the files that a run leaves besides its tables.
fn look(out: &Path) {
    let read = |file: &str| columns(&out.join(file), &RowFilter::new()).unwrap();
    let numbers = |columns: &[ReadColumn], name: &str| match &columns
        .iter()
        .find(|column| column.name == name)
        .unwrap()
        .values
    {
        ColumnValues::Numbers(values) => values.clone(),
        ColumnValues::Wholes(values) => values.iter().map(|value| value.map(|value| value as f64)).collect(),
        other => panic!("{name}: {other:?}"),
    };
    let texts = |columns: &[ReadColumn], name: &str| match &columns
        .iter()
        .find(|column| column.name == name)
        .unwrap()
        .values
    {
        ColumnValues::Texts(values) => values.clone(),
        other => panic!("{name}: {other:?}"),
    };

    // Steps with the student's own rollouts have a divergence floor; imitation has none.
    let metrics = read("metrics.parquet");
    let (stages, floors) = (texts(&metrics, "stage"), numbers(&metrics, "divergence_floor"));
    for (stage, floor) in stages.iter().zip(floors) {
        let stage = stage.as_deref().unwrap();
        assert_eq!(floor.is_some(), ["student", "full", "top"].contains(&stage), "{stage}");
        assert!(floor.is_none_or(|floor| (0.0..1e-5).contains(&floor)), "{stage}: {floor:?}");
    }

    // The texts of recorded tokens add up to the text that the model wrote, and their numbers are those of
    // the objective.
    let samples = read("samples.parquet");
    let (stages, signals) = (texts(&samples, "stage"), numbers(&samples, "signal"));
    let (advantages, divergences) = (numbers(&samples, "advantage"), numbers(&samples, "divergence"));
    let mut seen = [0, 0];
    for (index, stage) in stages.iter().enumerate() {
        match stage.as_deref().unwrap() {
            "student" => {
                seen[0] += 1;
                // -clip(log-ratio) is the advantage, which is clipped at 5.
                let expected = (-divergences[index].unwrap()).clamp(-5.0, 5.0);
                assert!((advantages[index].unwrap() - expected).abs() < 1e-5, "{index}");
                assert!((signals[index].unwrap() - expected.abs()).abs() < 1e-5, "{index}");
            }
            "full" => {
                seen[1] += 1;
                assert_eq!(advantages[index], None);
            }
            _ => {}
        }
    }
    assert!(seen.iter().all(|tokens| *tokens > 50), "{seen:?}");

    // Every token of every step is in a bin, both by position and by entropy.
    let bins = read("weights.parquet");
    let over = texts(&bins, "over");
    let tokens = numbers(&bins, "tokens");
    let counted = |of: &str| {
        over.iter()
            .zip(&tokens)
            .filter(|(over, _)| over.as_deref() == Some(of))
            .map(|(_, tokens)| tokens.unwrap())
            .sum::<f64>()
    };
    assert!(counted("position") > 1000.0);
    assert_eq!(counted("position"), counted("entropy"));

    // Seven rows, two domains, two seeds, each with all prompts.
    let rewards = read("rewards.parquet");
    let (prompts, values) = (numbers(&rewards, "prompt"), numbers(&rewards, "reward"));
    assert_eq!(prompts.iter().filter(|prompt| **prompt == Some(0.0)).count(), 28);
    assert!(values.iter().all(|value| value.is_some_and(|value| (0.0..=1.0).contains(&value))));
}

struct RunJobWith {
    fresh: bool,
    workers: u32,
}

impl RunJobWith {
    fn of(self, plan: &Plan, folder: &Path, out: &str) -> mopd_plan::events::RunJob {
        mopd_plan::events::RunJob { fresh: self.fresh, workers: Some(self.workers), ..job(plan, folder, out) }
    }
}

/// Fine-tuning alone: the smallest run.
fn fine_tuning(steps: u32, objective: Objective) -> Builder {
    let mut b = Builder::new();
    let domains = [b.domain("copy", 0.5), b.domain("flip", 0.5)];
    let base = b.model("base", Stage::Initialise(tiny()));
    let data = Rollout::new(8, Producer::data("answer"));
    b.train(
        "start",
        Recipe::Sft,
        Training {
            start: base,
            domains: &domains,
            teachers: &[],
            rollout: data,
            objective,
            steps,
            learning_rate: 1e-2,
        },
    );
    b
}

#[test]
fn a_student_that_equals_its_teacher_stands_still() {
    let folder = folder();
    let mut b = fine_tuning(20, nll());
    let (start, domains) = (ModelId(1), [DomainId(0), DomainId(1)]);
    for (name, objective) in [("sampled", mopd(5.0)), ("exact", direct(Support::Full, Mass::Raw))] {
        let rollout = Rollout::new(8, Producer::student(sampling(2)));
        b.train(
            name,
            Recipe::Distill,
            Training {
                start,
                domains: &domains,
                teachers: &[start, start],
                rollout,
                objective,
                steps: 1,
                learning_rate: 1e-3,
            },
        );
    }
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    assert_eq!(code, 0, "{:?}", events.last());
    for name in ["sampled", "exact"] {
        let divergence = events.iter().find_map(|event| match event {
            Event::Step { stage, metric, value, .. } if stage == name => Some((metric.clone(), *value)),
            _ => None,
        });
        let (metric, value) = divergence.unwrap();
        assert_eq!(metric, "divergence");
        assert!(value.abs() < 1e-5, "{name}: {value}");
    }
}

#[test]
fn a_damaged_entry_is_rebuilt_with_a_warning() {
    let folder = folder();
    let plan = fine_tuning(3, nll()).plan;
    assert_eq!(run(&job(&plan, folder.path(), "first")).1, 0);
    let before = weights(folder.path(), "first", "start-seed1");
    for entry in fs::read_dir(folder.path().join("store")).unwrap() {
        let path = entry.unwrap().path().join("model.safetensors");
        // The list of needed entries and the locks are in the store too.
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        // Writes a new file, because the published model is a link to the old one.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let (events, code) = run(&job(&plan, folder.path(), "second"));
    assert_eq!(code, 0);
    let warnings = warnings(&events);
    assert!(
        warnings.len() == 2 && warnings.iter().all(|warning| warning.contains("damaged")),
        "{warnings:?}"
    );
    assert_eq!(weights(folder.path(), "second", "start-seed1"), before);
}

#[test]
fn a_loss_that_is_not_finite_names_step_domain_and_term() {
    let folder = folder();
    let (events, code) = run(&job(&fine_tuning(5, poisoned(3.0)).plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert_eq!(failure.kind, FailureKind::NonFinite);
    let message = failure
        .message
        .strip_prefix("the term `distill` is not finite for the domain `copy`: first at sequence 0 ");
    let (place, count) =
        message.expect("the message names term, domain and sequence").split_once("; ").unwrap();
    assert!(place.contains("copy.train.jsonl:") && place.ends_with(", position 0"), "{place}");
    // The whole batch: eight answers of two letters and an end.
    assert_eq!(count, "24 of 24 tokens");
    assert_eq!((failure.stage.as_deref(), failure.seed, failure.step), (Some("start"), Some(1), Some(3)));
    let kept = fs::read_dir(folder.path().join("store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(".last-good"))
        .unwrap();
    assert!(failure.help.as_ref().unwrap().contains(kept.to_str().unwrap()));
    assert!(kept.join("model.safetensors").exists());
    assert!(folder.path().join("out/metrics.parquet").exists());
}

/// A model with weights that are not finite is not a result, so no later stage reads it.
#[test]
fn a_model_without_numbers_is_no_teacher() {
    let folder = folder();
    let mut b = Builder::new();
    let domain = b.domain("copy", 1.0);
    let base = b.model("base", Stage::Initialise(tiny()));
    let broken = b.model("broken", Stage::Initialise(Architecture { initial_deviation: 3e38, ..tiny() }));
    b.train(
        "student",
        Recipe::Distill,
        Training {
            start: base,
            domains: &[domain],
            teachers: &[broken],
            rollout: Rollout::new(4, Producer::data("answer")),
            objective: objective("plain", Live::Logp, |_, logp| (logp, None)),
            steps: 2,
            learning_rate: 1e-3,
        },
    );
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert_eq!((failure.kind, failure.step), (FailureKind::NonFinite, None));
    let message = "`broken`: the resulting weights are not finite: ";
    assert!(failure.message.starts_with(message), "{}", failure.message);
}

#[test]
fn weights_that_explode_are_noticed() {
    let folder = folder();
    let mut b = fine_tuning(5, nll());
    let Stage::Train(train) = &mut b.plan.experiment.models[1].stage else {
        panic!("the second model is trained")
    };
    train.learning_rate = Schedule::Constant { value: 1e30 }.into();
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert_eq!((failure.kind, failure.step), (FailureKind::NonFinite, Some(1)), "{}", failure.message);
}

/// Weights that overflow in the last update are found, although no further step would show it.
#[test]
fn weights_that_overflow_in_the_last_step_are_no_result() {
    let folder = folder();
    let mut b = fine_tuning(1, nll());
    let Stage::Train(train) = &mut b.plan.experiment.models[1].stage else {
        panic!("the second model is trained")
    };
    train.learning_rate = Schedule::Constant { value: 1e39 }.into();
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert_eq!((failure.kind, failure.stage.as_deref()), (FailureKind::NonFinite, Some("start")));
    let said = &failure.message;
    assert!(
        said.contains("the resulting weights are not finite: ") && said.contains(" numbers in `"),
        "{said}"
    );
    assert!(failure.help.as_ref().is_some_and(|help| help.contains("lower `lr`")), "{:?}", failure.help);
    let models = fs::read_dir(folder.path().join("out/models")).into_iter().flatten();
    let names: Vec<_> = models.map(|model| model.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "start-seed1"), "{names:?}");
    assert!(folder.path().join("out/metrics.parquet").exists());
}

#[test]
fn the_sampler_at_temperature_1_is_the_student() {
    let folder = folder();
    let between = |left, right| {
        Signal::Divergence(Divergence::between(DivergenceKind::Kl, left, right, Support::Full, Mass::Raw))
    };
    let student = |of: fn(Role) -> Signal| of(Role::Student);
    let sampler = |of: fn(Role) -> Signal| of(Role::Sampler);
    let entropy: fn(Role) -> Signal = |role| Signal::Of { role, part: ModelSignal::Entropy };
    let top1: fn(Role) -> Signal = |role| Signal::Of { role, part: ModelSignal::Top1 };
    let pairs = [
        (between(Role::Student, Role::Sampler), between(Role::Sampler, Role::Student)),
        (student(entropy), sampler(entropy)),
        (student(top1), sampler(top1)),
    ];
    let mut b = fine_tuning(20, nll());
    let rollouts = |temperature| {
        let sampling = Sampling::new(2, temperature, 8);
        Rollout::new(8, Producer::student(sampling))
    };
    for (index, (left, right)) in pairs.iter().enumerate() {
        // The weight is a difference that is exactly 0, so the update must be 0.
        let idle = objective("idle", Live::Logp, |graph, logp| {
            let (left, right) = (graph.signal(left.clone()), graph.signal(right.clone()));
            let difference = graph.apply(Function::Subtract, &[left, right]);
            (graph.apply(Function::Multiply, &[difference, logp]), None)
        });
        for (name, temperature) in [("same", 1.0), ("hotter", 1.5)] {
            let training = Training {
                start: ModelId(1),
                domains: &[DomainId(0)],
                teachers: &[],
                rollout: rollouts(temperature),
                objective: idle.clone(),
                steps: 1,
                learning_rate: 1e-2,
            };
            b.train(&format!("{name}{index}"), Recipe::Grpo, training);
        }
    }
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    assert_eq!(code, 0, "{:?}", events.last());
    let start = weights(folder.path(), "out", "start-seed1");
    for (index, pair) in pairs.iter().enumerate() {
        assert_eq!(weights(folder.path(), "out", &format!("same{index}-seed1")), start, "{pair:?}");
        assert_ne!(weights(folder.path(), "out", &format!("hotter{index}-seed1")), start, "{pair:?}");
    }

    let Stage::Train(train) = &mut b.plan.experiment.models[2].stage else {
        panic!("the third model is trained")
    };
    train.rollout = rollouts(0.0);
    b.plan.stages[2].content_key = "greedy".into();
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    assert!(failure(&events, code).message.contains("sampling is greedy"));
}

#[test]
fn a_sequence_that_does_not_fit_is_found_before_the_first_step() {
    let folder = folder();
    let long = "x".repeat(40);
    let mut text = fs::read_to_string(folder.path().join("flip.train.jsonl")).unwrap();
    text += &format!("{{\"prompt\": \"{long}\", \"answer\": \"a\"}}\n");
    fs::write(folder.path().join("flip.train.jsonl"), &text).unwrap();
    let (events, code) = run(&job(&fine_tuning(3, nll()).plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert_eq!(failure.kind, FailureKind::Context);
    let place = format!("flip.train.jsonl:{}", text.lines().count());
    assert!(failure.message.contains(&place) && failure.message.contains("43 tokens"), "{}", failure.message);
    assert!(!events.iter().any(|event| matches!(event, Event::StageStarted { .. })));
}

#[test]
fn missing_data_and_bad_folders_are_named() {
    let folder = folder();
    fs::remove_file(folder.path().join("flip.train.jsonl")).unwrap();
    let plan = fine_tuning(3, nll()).plan;
    let (events, code) = run(&job(&plan, folder.path(), "out"));
    let failed = failure(&events, code);
    assert_eq!(failed.kind, FailureKind::Data);
    assert!(failed.message.contains("flip.train.jsonl"), "{}", failed.message);

    write_data(folder.path());
    // The store is made before data is read: an unusable one is found early.
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    fs::write(folder.path().join("store"), "").unwrap();
    let (events, code) = run(&job(&plan, folder.path(), "out"));
    let failed = failure(&events, code);
    assert_eq!(failed.kind, FailureKind::Storage);
    assert!(failed.message.contains("store"), "{}", failed.message);
}

#[test]
fn nothing_to_imitate_is_an_error() {
    let folder = folder();
    let mut b = Builder::new();
    let domain = b.domain("copy", 1.0);
    let base = b.model("base", Stage::Initialise(tiny()));
    let imitation = Rollout::new(4, Producer::teacher_once(8, Keep::Correct, sampling(1)));
    b.train(
        "imitator",
        Recipe::Sft,
        Training {
            start: base,
            domains: &[domain],
            teachers: &[base],
            rollout: imitation,
            objective: nll(),
            steps: 3,
            learning_rate: 1e-3,
        },
    );
    let (events, code) = run(&job(&b.plan, folder.path(), "out"));
    let failure = failure(&events, code);
    assert!(
        failure.message.contains("`teacher0`") && failure.message.contains("`copy`"),
        "{}",
        failure.message
    );
}

#[test]
fn interruption_keeps_finished_stages() {
    let folder = folder();
    let mut b = fine_tuning(3, nll());
    let data = Rollout::new(8, Producer::data("answer"));
    b.train(
        "endless",
        Recipe::Sft,
        Training {
            start: ModelId(1),
            domains: &[DomainId(0)],
            teachers: &[],
            rollout: data,
            objective: nll(),
            steps: 1_000_000,
            learning_rate: 1e-3,
        },
    );
    let mut child = start(&Job::Run(Box::new(job(&b.plan, folder.path(), "out"))));
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = None;
    for line in lines.by_ref() {
        let event: Event = serde_json::from_str(&line.unwrap()).unwrap();
        if matches!(&event, Event::Step { stage, step: 2, .. } if stage == "endless") {
            let pid = child.id().to_string();
            assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        }
        last = Some(event);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(matches!(last, Some(Event::Interrupted { finished: 2, tasks: 3 })), "{last:?}");
    assert!(folder.path().join("out/models/start-seed1/model.safetensors").exists());
    assert!(folder.path().join("out/metrics.parquet").exists());
}

/// Predictions come before the first stage, and only for stages that are not in the store.
#[test]
fn time_and_memory_of_stages_are_predicted() {
    let folder = folder();
    let job = job(&fine_tuning(3, nll()).plan, folder.path(), "out");
    let predicted = |events: &[Event]| {
        let of = |event: &Event| match event {
            Event::Predicted { stage, seed, prediction } => Some((stage.clone(), *seed, *prediction)),
            _ => None,
        };
        events.iter().filter_map(of).collect::<Vec<_>>()
    };
    let (events, code) = finish(start(&Job::Predict(Box::new(job.clone()))));
    assert_eq!(code, 0, "{:?}", events.last());
    let found = predicted(&events);
    let [(stage, 1, prediction)] = &found[..] else { panic!("one stage trains: {events:?}") };
    assert_eq!(stage, "start");
    // A tiny model: the memory is mostly that of a process with libtorch.
    assert!(prediction.seconds > 0.0 && (1 << 20..1 << 34).contains(&prediction.memory), "{prediction:?}");
    assert!(
        prediction.update > 0.0
            && prediction.rollout + prediction.scoring + prediction.update <= prediction.seconds
    );
    assert!(!folder.path().join("out").exists());

    let (events, code) = run(&job);
    assert_eq!((code, predicted(&events).len()), (0, 1));
    let results = fs::read_to_string(folder.path().join("out/results.json")).unwrap();
    let results: results::Results = serde_json::from_str(&results).unwrap();
    let record = results.stages.iter().find(|record| record.stage == "start").unwrap();
    assert!(record.seconds > 0.0 && record.predicted.is_some());
    let (events, code) = run(&job);
    assert_eq!((code, predicted(&events).len()), (0, 0), "it is kept");
}

#[test]
fn closed_event_stream_ends_the_worker() {
    let folder = folder();
    let mut child =
        start(&Job::Run(Box::new(job(&fine_tuning(1_000_000, nll()).plan, folder.path(), "out"))));
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().take(5).for_each(drop);
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_checkpoint_answers_a_prompt() {
    let folder = folder();
    assert_eq!(run(&job(&fine_tuning(3, nll()).plan, folder.path(), "out")).1, 0);
    let checkpoint = folder.path().join("out/models/start-seed1").to_str().unwrap().to_owned();
    let sample = |checkpoint: &str, max_tokens| {
        let prompt = |text: &str| SamplePrompt::Prompt(text.to_owned());
        let model = PretrainedSource::Checkpoint { folder: checkpoint.to_owned() };
        let prompts = vec![prompt("copy ab="), prompt("copy ba=")];
        let (mut events, code) = finish(start(&Job::Sample(SampleJob {
            model,
            prompts,
            chat: false,
            system: None,
            n: 3,
            temperature: 1.0,
            max_tokens,
            seed: 1,
        })));
        // These events depend on the time.
        events.retain(|event| !matches!(event, Event::SampleWritten { .. }));
        (events, code)
    };
    let (events, code) = sample(&checkpoint, Some(5));
    assert_eq!(code, 0);
    let of = |place: u32| {
        let own =
            |event: &&Event| matches!(event, Event::Sample { tokens: 1..=5, prompt, .. } if *prompt == place);
        events.iter().filter(own).count()
    };
    assert_eq!((of(0), of(1)), (3, 3));
    assert_eq!(sample(&checkpoint, Some(5)).0[1..7], events[1..7]);
    assert_eq!(sample(&checkpoint, None).1, 0, "without a limit, what the context leaves is taken");

    let (events, code) = sample(&checkpoint, Some(100));
    assert_eq!(failure(&events, code).kind, FailureKind::Context);
    let (events, code) = sample("nowhere", Some(5));
    assert!(failure(&events, code).message.contains("nowhere"));
}

#[test]
fn probe_job_reports_versions() {
    let (events, code) = finish(start(&Job::Probe));
    assert_eq!(code, 0);
    assert!(
        matches!(&events[..], [Event::Ready { versions, .. }] if versions.libtorch.starts_with("2.")),
        "{events:?}"
    );
}
