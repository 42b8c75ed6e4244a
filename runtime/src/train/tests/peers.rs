//! Several processes that train together, simulated by threads, against a single process.

use mopd_plan::{Axis, Function, Live, Reduction};

use super::super::objective::objectives::objective;
use super::*;
use crate::peers::Peers;
use crate::peers::tests::among;

/// The state of a process after a stage.
struct After {
    weights: Vec<f32>,
    rows: Vec<StepMetrics>,
    updates: usize,
}

/// Runs a stage in `processes` processes, each with its own files, models and judges.
fn after(
    processes: usize,
    make: fn(Train<Objective>) -> Train<Objective>,
    objective: fn() -> Objective,
) -> Vec<After> {
    let run = |peers: Option<&Peers>| {
        let (fixture, models) = (Fixture::new(), models(true));
        let train = make(train(objective(), 1));
        let stage = Stage { peers, ..fixture.stage(&train, ROUTED, &models) };
        let finished =
            super::super::train(&stage, None).unwrap_or_else(|stopped| panic!("{}", stopped.error));
        let weights = finished.weights.values().into_owned();
        let start = models[0].values();
        let updates = weights.iter().zip(start.iter()).filter(|(now, before)| now != before).count();
        After { weights, rows: finished.record.rows, updates }
    };
    if processes == 1 { vec![run(None)] } else { among(processes, |peers| run(Some(peers))) }
}

/// The largest difference of weights, relative to the largest change by the stage.
fn apart(one: &After, other: &After) -> f64 {
    let models = models(true);
    let pairs = one.weights.iter().zip(&other.weights).zip(models[0].values().into_owned());
    let (mut apart, mut moved) = (0.0f64, 0.0f64);
    for ((one, other), start) in pairs {
        apart = apart.max(f64::from((one - other).abs()));
        moved = moved.max(f64::from((one - start).abs()));
    }
    apart / moved
}

/// All processes end with the same bits, and with the weights of a single process up to rounding.
fn agrees(what: &str, make: fn(Train<Objective>) -> Train<Objective>, objective: fn() -> Objective) {
    let alone = &after(1, make, objective)[0];
    assert!(alone.updates > 100, "{what}: it learns");
    for processes in [2, 3, 8] {
        let together = after(processes, make, objective);
        for other in &together {
            let bits =
                |after: &After| after.weights.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>();
            assert!(bits(other) == bits(&together[0]), "{what}: {processes} processes have the same weights");
        }
        let distance = apart(alone, &together[0]);
        println!("{what}, {processes} processes: weights within {distance:.1e} of their change");
        assert!(distance < 2e-3, "{what}, {processes} processes: {distance:e}");
        for (row, expected) in together[0].rows.iter().zip(&alone.rows) {
            assert_eq!((row.step, &row.domain), (expected.step, &expected.domain));
            for (found, expected) in [
                (row.loss, expected.loss),
                (row.gradient_norm, expected.gradient_norm),
                (row.token_share, expected.token_share),
                (row.length.unwrap_or(0.0), expected.length.unwrap_or(0.0)),
            ] {
                assert!(
                    (found - expected).abs() <= 1e-3 * expected.abs() + 1e-6,
                    "{what}: {found} {expected}"
                );
            }
        }
        assert_eq!(together[0].rows.len(), alone.rows.len());
    }
}

/// The log-ratio to the teacher under the ratio to the student before the updates, whose numbers each process
/// keeps for its part of the batch.
fn followed() -> Objective {
    objective("followed", Live::Logp, |graph, logp| {
        let [teacher, student, old] =
            [Role::TEACHER, Role::Student, Role::Old].map(|role| graph.signal(Signal::Logp { role }));
        let gap = graph.apply(Function::Subtract, &[student, teacher]);
        let (low, high) = (graph.constant(Axis::Run, -1.0), graph.constant(Axis::Run, 1.0));
        let bounded = graph.apply(Function::Clip, &[gap, low, high]);
        let drift = graph.apply(Function::Subtract, &[logp, old]);
        let ratio = graph.apply(Function::Exp, &[drift]);
        (graph.apply(Function::Multiply, &[bounded, ratio]), None)
    })
}

#[test]
fn several_processes_train_as_one() {
    let as_is = |train| train;
    agrees("sft on the data", as_is, || direct(Support::Full, Mass::Raw));
    agrees("the signal of a teacher", as_is, || mopd(1.0));
    agrees(
        "on-policy, in micro-batches, in two passes",
        |train| Train {
            rollout: Rollout::new(5, Producer::student(Sampling::new(3, 1.0, 6))),
            passes: 2,
            execution: Execution { micro_batch: Some(2), ..Execution::default() },
            ..train
        },
        followed,
    );
    agrees(
        "on-policy, in two passes over mini-batches",
        |train| Train {
            rollout: Rollout::new(9, Producer::student(Sampling::new(2, 1.0, 6))),
            passes: 2,
            mini_batches: 2,
            ..train
        },
        followed,
    );
    agrees(
        "prompts that a filter keeps",
        |train| {
            let filter = curriculum::formula(|graph| {
                let length = graph.signal(Signal::Length);
                let mean = graph.reduce(Reduction::Mean, length, Axis::Group, None);
                let least = graph.constant(Axis::Run, 5.0);
                graph.apply(Function::GreaterEqual, &[mean, least])
            });
            Train { filter: Some(filter), ..train }
        },
        || mopd(1.0),
    );
    agrees(
        "an adapter, momentum and averages",
        |train| Train {
            trainable: Trainable::Adapter(adapter(AdapterKind::Dora)),
            optimizer: plan::Optimizer::Sgd(plan::Sgd { momentum: 0.9, clip_norm: 0.5 }),
            learning_rate: Schedule::Constant { value: 1.0 }.into(),
            ema: Some(0.5),
            ..train
        },
        || direct(Support::Full, Mass::Raw),
    );
}

/// Statistics are over the whole batch: all processes select the same tokens, bit for bit.
#[test]
fn statistics_over_the_batch_are_of_the_whole_batch() {
    const COMPARED: &str = "\
        state pace = 1 then 0.5 * pace + mean(student.entropy, over: batch)\n\
        let gap = zscore(teacher.logp - student.logp, over: batch, deviation: sample)\n\
        select = student.entropy >= quantile(student.entropy, 0.7, over: batch)\n\
        term a = -gap * live student.logp { weight = pace }";
    let run = |peers: Option<&Peers>| {
        let (fixture, models) = (Fixture::new(), models(true));
        let train = train(given::trained(COMPARED).objective, 1);
        let stage = Stage { peers, ..fixture.stage(&train, ROUTED, &models) };
        let mut trainer = Trainer::new(&stage).unwrap();
        let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
        let evaluated = trainer.evaluate(0, &rollouts, 0).unwrap();
        let selected = evaluated.outputs.get(train.objective.selected.unwrap()).to_vec();
        let share = |tokens: std::ops::Range<usize>| {
            let count = tokens.len() as f32;
            selected[tokens].iter().sum::<f32>() / count
        };
        let own = rollouts.own.as_ref().map(|own| share(own.tokens.clone()));
        (f64::from(evaluated.outputs.get(train.objective.loss)[0]), selected, own)
    };
    let (loss, selected, _) = run(None);
    assert!(selected.contains(&0.0) && selected.contains(&1.0));
    for processes in [2, 4] {
        let all = among(processes, |peers| run(Some(peers)));
        for (own_loss, own, _) in &all {
            assert_eq!(*own, selected, "{processes} processes select the same tokens");
            assert!((own_loss - loss).abs() < 1e-5 * loss.abs(), "{processes}: {own_loss} {loss}");
        }
        // If each process computed the quantile of its own tokens, about 30% of them would be selected.
        let shares: Vec<f32> = all.iter().filter_map(|(_, _, share)| *share).collect();
        assert!(shares.iter().any(|share| (share - 0.3).abs() > 0.03), "{shares:?}");
    }
}

/// All processes return the same error: a judge that fails in one process stops all.
#[test]
fn error_in_one_process_stops_all_processes() {
    let said = among(3, |peers| {
        let (fixture, models) = (Fixture::new(), models(true));
        let train = Train {
            rollout: Rollout::new(6, Producer::student(Sampling::new(1, 1.0, 4))),
            ..train(mopd(1.0), 1)
        };
        let command = Reward::Command {
            command: "exit 3".to_owned(),
            time_limit_seconds: 10.0,
            batch: 8,
            depends: Vec::new(),
            range: Default::default(),
        };
        let broken = Verifier::new(&command, Path::new("."));
        let mut stage = Stage { peers: Some(peers), ..fixture.stage(&train, ROUTED, &models) };
        let broken = broken.unwrap();
        if peers.rank() == 1 {
            stage.sources.iter_mut().for_each(|source| source.verifier = &broken);
        }
        let Err(stopped) = super::super::train(&stage, None) else { panic!("a judge fails") };
        (stopped.error.to_string(), peers.lost())
    });
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    assert_eq!(said[0].1, None, "nobody is gone");
    let interrupted = among(2, |peers| {
        let (fixture, models) = (Fixture::new(), models(true));
        let train = train(mopd(1.0), 1);
        if peers.rank() == 1 {
            fixture.control.interrupt();
        }
        let stage = Stage { peers: Some(peers), ..fixture.stage(&train, ROUTED, &models) };
        let Err(stopped) = super::super::train(&stage, None) else { panic!("one was asked to stop") };
        matches!(stopped.error, Error::Interrupted)
    });
    assert_eq!(interrupted, [true, true]);
}

/// Random numbers depend on the prompt's number in the step, so parts of a step are drawn like the whole.
/// Rollouts that are written once are written by one process.
#[test]
fn several_processes_draw_what_one_draws() {
    let student = |n| Producer::student(Sampling::new(n, 1.0, 6));
    let teacher = || Producer::teacher(Sampling::new(2, 1.0, 6));
    let constant = |value| Schedule::Constant { value };
    let snapshot =
        |once| plan::producers::Model { once, model: ModelId(1), sampling: Sampling::new(2, 1.0, 6) };
    let producers: Vec<(&str, Producer)> = vec![
        ("the student", student(3)),
        ("a teacher", teacher()),
        ("a teacher, once", Producer::teacher_once(9, Keep::All, Sampling::new(1, 1.0, 6))),
        ("a model, once", snapshot(true).into()),
        ("a model", snapshot(false).into()),
        ("a mix", Producer::mix(constant(0.5), student(2), teacher())),
        ("guided", guided::token_mix(constant(0.5), 2)),
        ("refined", refine::refined(2)),
        ("retried", retry::retry(3, student(2))),
        ("the first of several", chosen::tiers()),
    ];
    for (name, producer) in producers {
        let drawn = |peers: Option<&Peers>| {
            let (fixture, weights) = (Fixture::new(), models(true));
            let mut train = train(mopd(1.0), 1);
            train.rollout = Rollout::new(5, producer.clone());
            let stage = Stage { peers, ..fixture.stage(&train, ROUTED, &weights) };
            let models = Models::new(&stage).unwrap();
            let mut batches = Batches::new(&stage, &models, None).unwrap();
            let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
            let mut list = |step| {
                let sequences = batches.next(&stage, &student, &models, step).unwrap();
                batches.commit();
                (sequences.list, sequences.dropped, sequences.draws)
            };
            let steps: Vec<_> = (0..3).map(&mut list).collect();
            (steps, batches.data())
        };
        let (expected, position) = drawn(None);
        assert!(expected.iter().all(|(list, _, _)| !list.is_empty()), "{name}");
        for processes in [2, 4] {
            for (steps, own) in among(processes, |peers| drawn(Some(peers))) {
                assert_eq!(own, position, "{name}");
                for ((list, dropped, draws), (known, left_out, drawn)) in zip_equal(steps, &expected) {
                    assert_eq!((&dropped, &draws), (left_out, drawn), "{name}");
                    for (one, other) in zip_equal(list, known) {
                        let of = |one: &crate::rollout::Sequence| {
                            (one.source, one.record, one.completion.clone(), one.truncated, one.reward)
                        };
                        assert_eq!(of(&one), of(other), "{name}, {processes} processes");
                        let logps = one.logps.unwrap_or_default();
                        for (one, other) in zip_equal(logps, other.logps.as_deref().unwrap_or_default()) {
                            assert!((one - other).abs() < 1e-4, "{name}: {one} {other}");
                        }
                    }
                }
            }
        }
    }
}

/// Terms with completions of their own, and a state that all parts read.
#[test]
fn several_processes_train_parts_as_one() {
    agrees(
        "terms with completions of their own",
        |train| {
            let read = given::trained(states::SHARED);
            let rollout = Rollout::new(6, Producer::student(Sampling::new(2, 1.0, 6)));
            Train { rollout, objective: read.objective, own_data: read.own_data, ..train }
        },
        || mopd(1.0),
    );
}
