//! A scalar head, which maps each prefix to a number: its outputs and its training.

use mopd_plan::{Axis, Function, Live};

use super::super::objective::objectives::objective;
use super::*;
use crate::compiled;

/// Models whose heads are not 0: a head of zeros would pass no gradient to the hidden states.
fn scoring(tied: bool) -> Vec<Arc<Weights>> {
    let config = crate::model::Config { tied, scalar_head: true, ..tiny() };
    (0..3).map(|seed| Arc::new(random_model(&config, seed))).collect()
}

fn program(objective: &str) -> plan::Plan {
    compiled::plan(format!(
        r#"
experiment "scores" {{ seed = 1 }}
domain copy {{ prompts = "copy.jsonl", reward = exact_match }}
model base = llama {{ layers = 2, width = 8, heads = 2, context = 64, tokenizer = bytes }}
objective scored {{
{objective}
}}
model student = grpo(base, on: domains) {{
  objective = scored
  rollout   = sample(n: 2, temperature: 1, max_tokens: 6)
  prompts   = 7
  steps     = 4
  lr        = 1e-2
}}
"#
    ))
}

/// The loss of a group of completions, each with the head's outputs, the log-probabilities of its tokens, and
/// its reward.
type OfGroup = fn(&[(Tensor, Tensor, f64)]) -> Tensor;

fn last(values: &Tensor) -> Tensor {
    values.narrow(0, values.numel() as i64 - 1, 1).squeeze_dim(0)
}

fn mean(numbers: impl IntoIterator<Item = Tensor>) -> Tensor {
    Tensor::stack(&numbers.into_iter().collect::<Vec<_>>(), 0).mean(Kind::Double)
}

/// Each way to read a head, trained alone and together with the LM head, against double precision; tied and
/// untied, in micro-batches too.
#[test]
fn scalar_head_loss_and_gradient_equal_the_reference() {
    let cases: [(&str, OfGroup); 4] = [
        (
            "  term fit = live mse(student.value, reward)\n  reduce = mean(token) then mean(sequence)",
            |group| {
                mean(group.iter().map(|(values, _, reward)| (values - *reward).square().mean(Kind::Double)))
            },
        ),
        ("  term fit = 0.5 * live mse(student.score, reward)\n  reduce = mean(sequence)", |group| {
            mean(group.iter().map(|(values, _, reward)| 0.5 * (last(values) - *reward).square()))
        }),
        (
            "  term pair = live bradley_terry(chosen: data(answer), rejected: sample(n: 1, temperature: 1, max_tokens: 6))
  reduce = mean(group)",
            |group| {
                let [(chosen, ..), (rejected, ..)] = group else { panic!("a pair is two") };
                -(last(chosen) - last(rejected)).log_sigmoid()
            },
        ),
        (
            "  term policy = -(reward - student.value) * live student.logp
  term critic = 0.5 * live mse(student.value, reward)
  reduce = mean(token) then mean(sequence)",
            |group| {
                mean(group.iter().map(|(values, logps, reward)| {
                    let policy: Tensor = (values.detach() - *reward) * logps;
                    let critic: Tensor = 0.5 * (values - *reward).square();
                    (policy + critic).mean(Kind::Double)
                }))
            },
        ),
    ];
    let fixture = Fixture::new();
    for (text, of_group) in cases {
        let plan = program(text);
        let train = compiled::train(&plan, "student").clone();
        for tied in [true, false] {
            let models = scoring(tied);
            let mut stage = fixture.stage(&train, ROUTED, &models);
            // Some completions are correct.
            stage.sources.iter_mut().for_each(|source| source.verifier = &fixture.judge.verifier);
            let (_, _, rollouts) = first_step(&stage);
            let student = Reference::new(&models[0]);
            let losses = rollouts.sequences.groups().map(|group| {
                let of = |sequence: &crate::rollout::Sequence| {
                    let (prompt, completion) = (sequence.prompt(&stage.sources), &sequence.completion);
                    let taken = Tensor::from_slice(completion).unsqueeze(1);
                    let logps = student.logps(prompt, completion).gather(1, &taken, false).squeeze_dim(1);
                    (student.scalars(prompt, completion), logps, sequence.reward.unwrap_or(0.0))
                };
                of_group(&group.iter().map(of).collect::<Vec<_>>())
            });
            let loss = mean(losses);
            let gradient = student.gradient(&loss);
            let loss = loss.double_value(&[]);
            for micro_batch in [None, Some(1), Some(3)] {
                stage.micro_batch = micro_batch;
                let (got_loss, got, _) = first_step(&stage);
                assert!((got_loss - loss).abs() < 5e-6 * loss.abs().max(1.0), "{text}: {got_loss} {loss}");
                let apart = apart(&got, &gradient);
                assert!(apart < 2e-5, "{text}, {micro_batch:?}, tied {tied}: {apart:e}");
            }
        }
    }
}

/// -value of the teacher at each token * live student.logp
fn by_teacher() -> Objective {
    objective("by_teacher", Live::Logp, |graph, logp| {
        let value = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Value });
        let product = graph.apply(Function::Multiply, &[value, logp]);
        assert_eq!(graph.axis(product), Axis::Token);
        (graph.apply(Function::Negate, &[product]), None)
    })
}

/// The outputs of two teachers' heads, with teachers that stay in memory and teachers that do not.
#[test]
fn a_teacher_s_head_is_read() {
    let (fixture, models) = (Fixture::new(), scoring(false));
    let train = train(by_teacher(), 1);
    let mut stage = fixture.stage(&train, ROUTED, &models);
    let (_, _, rollouts) = first_step(&stage);
    let student = Reference::new(&models[0]);
    let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
    let loss = mean(rollouts.sequences.list.iter().map(|sequence| {
        let (prompt, completion) = (sequence.prompt(&stage.sources), &sequence.completion);
        let taken = Tensor::from_slice(completion).unsqueeze(1);
        let logps = student.logps(prompt, completion).gather(1, &taken, false).squeeze_dim(1);
        let values = teachers[sequence.source].scalars(prompt, completion).detach();
        -(values * logps).mean(Kind::Double)
    }));
    let gradient = student.gradient(&loss);
    let loss = loss.double_value(&[]);
    for fits in [Some(true), Some(false)] {
        stage.models_fit = fits;
        let (got_loss, got, _) = first_step(&stage);
        assert!((got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{fits:?}: {got_loss} {loss}");
        let apart = apart(&got, &gradient);
        assert!(apart < 1e-5, "{fits:?}: {apart:e}");
    }
}

/// Whether a model has a head may be known only when its files are read; the error comes at run time then.
#[test]
fn a_model_without_a_head_is_said() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = train(by_teacher(), 1);
    let stage = fixture.stage(&train, ROUTED, &models);
    let stopped = super::super::train(&stage, None).map(drop).unwrap_err();
    let message = stopped.error.to_string();
    assert!(message.contains("the scalar head of the teacher, but it is a model without one"), "{message}");
}

/// A student without a head gets one of zeros beside its own weights, learns, and ends the same after
/// interruptions at any step.
#[test]
fn a_head_begins_at_zero_and_survives_a_cut() {
    let (fixture, models) = (Fixture::new(), models(false));
    let plan = program("  term fit = live mse(student.score, reward + 1)\n  reduce = mean(sequence)");
    let train = compiled::train(&plan, "student").clone();
    let start = beginning(&train, &models[0], 1, 2);
    assert_eq!(*beginning(&train, &start, 1, 2).values(), *start.values(), "it has one already");
    let entries = layout(&start.config);
    let head = entries.iter().find(|entry| entry.is_scalar_head()).unwrap();
    assert!(start.of(head).iter().all(|number| *number == 0.0));
    let mut own = start.values().into_owned();
    own.drain(head.offset..head.offset + head.len());
    assert_eq!(own, *models[0].values());
    let named: HashMap<String, Vec<f32>> = layout(&models[0].config)
        .iter()
        .map(|entry| (entry.name.clone(), models[0].of(entry).into_owned()))
        .collect();
    for entry in entries.iter().filter(|entry| !entry.is_scalar_head()) {
        assert_eq!(*start.of(entry), named[&entry.name], "{}", entry.name);
    }

    let stage = Stage { start, ..fixture.stage(&train, ROUTED, &models) };
    let (through, rows) = trained_to_the_end(&stage);
    assert!(through[head.offset..head.offset + head.len()].iter().any(|number| *number != 0.0));
    assert!(rows.last().unwrap().loss < rows[0].loss, "{} {}", rows[0].loss, rows.last().unwrap().loss);
    for cut in 1..4 {
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut record = Record::default();
        for step in 0..cut {
            trainer.step(step, &mut record).unwrap();
        }
        let state = trainer.state(cut, 0.0, record);
        let keep = |_: &TrainState| Ok(());
        let from = Some((state, RestoreMode::Resume));
        let checkpoints =
            Checkpoints { from, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep };
        let again = super::super::train(&stage, Some(checkpoints)).map_err(|stopped| stopped.error).unwrap();
        assert_eq!(*again.weights.values(), through, "{cut}");
    }
}
