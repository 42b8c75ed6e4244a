//! Steps of training against PyTorch in float64, one sequence at a time: `tests/fixtures/training.py`. The
//! objectives are compiled from `tests/fixtures/training/cases.mopd`, so language, compiler and runtime are
//! all that is compared.

use std::collections::HashMap;
use std::path::PathBuf;

use mopd_plan::{self as plan, Plan};
use serde_json::Value;

use super::*;
use crate::compiled;
use crate::model::tests::parity::read;
use crate::rollout::Sequence;
use crate::train::batches::ChosenSide;

struct Fixtures {
    plan: Plan,
    /// In the order of the plan's models: the student's start, two teachers, a reference model.
    models: Vec<Arc<Weights>>,
    batches: Value,
    reference: HashMap<String, Vec<f64>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/training")
}

impl Fixtures {
    fn new() -> Fixtures {
        let plan = compiled::plan(std::fs::read_to_string(folder().join("cases.mopd")).unwrap());
        let batches: Value =
            serde_json::from_slice(&std::fs::read(folder().join("batches.json")).unwrap()).unwrap();
        let plan::Stage::Initialise(architecture) = &plan.experiment.models[0].stage else {
            panic!("the student is made")
        };
        let config = Arc::new(crate::model::Config::new(architecture));
        let stored = read(&folder().join("models.safetensors"));
        let tokenizer = Arc::new(Tokenizer::Bytes);
        let model = |name: &str| {
            let values =
                in_layout(&config, &batches, &stored[name]).into_iter().map(|value| value as f32).collect();
            Arc::new(Weights::new(config.clone(), tokenizer.clone(), values))
        };
        let models = ["student", "first", "second", "reference"].map(model).into();
        Fixtures { plan, models, batches, reference: read(&folder().join("reference.safetensors")) }
    }

    fn train(&self, model: &str) -> &Train<Objective> {
        compiled::train(&self.plan, model)
    }

    fn rollouts(&self, stage: &Stage, kind: &str) -> Rollouts {
        let batch = &self.batches[kind];
        let list = batch["sequences"].as_array().unwrap().iter().map(sequence).collect();
        let sequences = Sequences::new(list, batch["group"].as_u64().unwrap() as usize, 2);
        let rollouts = Rollouts::new(sequences, stage.step(0));
        // What was recorded is that of the student some updates ago.
        let old = Signal::Of { role: Role::Old, part: ModelSignal::Logp };
        if stage.train.objective.signals().contains(&old) {
            let recorded =
                rollouts.sequences.list.iter().map(|sequence| sequence.completion.logps().unwrap());
            rollouts.restore_old(vec![(old, recorded.flatten().collect())]);
        }
        rollouts
    }

    /// A vector of the reference, in the order of the runtime's layout.
    fn vector(&self, name: &str) -> Vec<f64> {
        in_layout(&self.models[0].config, &self.batches, &self.reference[name])
    }
}

/// Reorders numbers from the order of the fixtures to that of the layout.
fn in_layout(config: &crate::model::Config, batches: &Value, values: &[f64]) -> Vec<f64> {
    let mut parts: HashMap<&str, &[f64]> = HashMap::new();
    let mut rest = values;
    for parameter in batches["parameters"].as_array().unwrap() {
        let length = parameter["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|size| size.as_u64().unwrap() as usize)
            .product();
        let (part, behind) = rest.split_at(length);
        parts.insert(parameter["name"].as_str().unwrap(), part);
        rest = behind;
    }
    assert!(rest.is_empty());
    layout(config).iter().flat_map(|entry| parts[entry.name.as_str()]).copied().collect()
}

fn sequence(value: &Value) -> Sequence {
    let tokens =
        |name: &str| value[name].as_array().unwrap().iter().map(|token| token.as_i64().unwrap()).collect();
    let written: Vec<bool> =
        value["written"].as_array().unwrap().iter().map(|written| written.as_bool().unwrap()).collect();
    let logps = value["logps"].as_array();
    let logps = logps.map(|logps| logps.iter().map(|logp| logp.as_f64().unwrap() as f32).collect());
    let completion = SegmentedTokens::from_lists(tokens("completion"), Some(&written), logps, None).unwrap();
    let sequence = Sequence {
        prompt: Some(tokens("prompt")),
        truncated: value["truncated"].as_bool().unwrap(),
        reward: value["reward"].as_f64(),
        ..Sequence::new(value["domain"].as_u64().unwrap() as usize, 0, completion)
    };
    match value["chosen"].as_bool() {
        Some(chosen) => sequence.with_extra(&ChosenSide(chosen)),
        None => sequence,
    }
}

fn norm(of: &[f64]) -> f64 {
    of.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The norm of the difference, relative to the expected one; and the cosine of both.
fn compare(got: &[f64], expected: &[f64]) -> (f64, f64) {
    let difference: Vec<f64> = zip_equal(got, expected).map(|(got, expected)| got - expected).collect();
    let product: f64 = zip_equal(got, expected).map(|(got, expected)| got * expected).sum();
    (norm(&difference) / norm(expected), product / (norm(got) * norm(expected)))
}

/// The largest differences of a step from the reference.
struct Bounds {
    kind: Kind,
    loss: f64,
    /// For the whole gradient and for each parameter's, relative to the whole gradient's norm.
    gradient: f64,
    /// For the parameters' change by two updates, relative to that change.
    update: f64,
}

/// Single precision has 24 significant bits; half precision has 8, some of which two layers lose.
const SINGLE: Bounds = Bounds { kind: Kind::Float, loss: 2e-6, gradient: 5e-6, update: 2e-5 };
const HALF: Bounds = Bounds { kind: Kind::BFloat16, loss: 3e-2, gradient: 8e-2, update: 0.2 };

#[test]
fn steps_equal_the_reference() {
    let fixtures = Fixtures::new();
    let fixture = Fixture::new();
    let mut cases: Vec<&str> =
        fixtures.reference.keys().filter_map(|key| key.strip_suffix(".loss")).collect();
    cases.sort_unstable();
    assert!(cases.len() >= 41, "{cases:?}");
    let mut faults = Vec::new();
    for case in cases {
        let (model, kind) = case.split_once('.').unwrap();
        let mut train = fixtures.train(model).clone();
        if let Producer::Pairs(_) = &train.rollout.producer {
            // The pairs come from the fixtures; the stage would make others from its data.
            let answer = || Producer::data("answer");
            train.rollout.producer = Producer::pairs(answer(), answer());
        }
        let train = &train;
        let mut stage = fixture.stage(train, ROUTED, &fixtures.models);
        for choice in train.scorers.routed() {
            assert_eq!(choice.teacher, ROUTED[choice.domain.0 as usize], "{case}");
        }
        for (index, source) in stage.sources.iter_mut().enumerate() {
            source.scorers = train.scorers.beside_the_routed(plan::DomainId(index as u32));
            assert!(
                source.scorers.iter().flatten().all(|scorer| scorer.teacher == Teacher::Model(ModelId(3))),
                "{case}"
            );
        }
        stage.steps = 2;
        for bounds in [SINGLE, HALF] {
            stage.kind = bounds.kind;
            for micro_batch in [None, Some(1), Some(2)] {
                stage.micro_batch = micro_batch;
                let place = format!("{case} in {:?}, micro-batches of {micro_batch:?}", bounds.kind);
                faults.extend(
                    differences(&fixtures, &stage, case, kind, &bounds)
                        .into_iter()
                        .map(|fault| format!("{place}: {fault}")),
                );
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The differences from the reference that exceed the bounds, as text.
fn differences(fixtures: &Fixtures, stage: &Stage, case: &str, kind: &str, bounds: &Bounds) -> Vec<String> {
    let mut faults = Vec::new();
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = fixtures.rollouts(stage, kind);
    let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let loss = f64::from(outputs.get(stage.train.objective.loss)[0]);
    let expected = fixtures.reference[&format!("{case}.loss")][0];
    if (loss - expected).abs() >= bounds.loss * expected.abs().max(1.0) {
        faults.push(format!("loss {loss}, not {expected}"));
    }
    let got: Vec<f64> = to_vec(&gradient.part(0..gradient.parameters())).into_iter().map(f64::from).collect();
    let expected = fixtures.vector(&format!("{case}.gradient"));
    let (apart, cosine) = compare(&got, &expected);
    if !(apart < bounds.gradient && 1.0 - cosine < bounds.gradient.powi(2)) {
        faults.push(format!("the gradient is off by {apart:.1e} of its length, cosine {cosine:.9}"));
    }
    let whole = norm(&expected);
    for entry in layout(&stage.start.config) {
        let range = entry.offset..entry.offset + entry.len();
        let off: Vec<f64> =
            zip_equal(&got[range.clone()], &expected[range]).map(|(got, expected)| got - expected).collect();
        if norm(&off) >= bounds.gradient * whole {
            faults.push(format!(
                "the gradient of {} is off by {:.1e} of the whole's length",
                entry.name,
                norm(&off) / whole
            ));
        }
    }
    let Some(_) = fixtures.reference.get(&format!("{case}.after")) else { return faults };
    for step in 0..2 {
        let rollouts = fixtures.rollouts(stage, kind);
        trainer.update(vec![rollouts], Instant::now(), step, &mut Record::default()).unwrap();
    }
    let start = stage.start.values();
    let moved = |values: Vec<f64>| -> Vec<f64> {
        zip_equal(values, start.iter()).map(|(end, start)| end - f64::from(*start)).collect()
    };
    let after =
        to_vec(&trainer.student.trained.to_f32(&trainer.student.model)).into_iter().map(f64::from).collect();
    let (apart, cosine) = compare(&moved(after), &moved(fixtures.vector(&format!("{case}.after"))));
    if apart >= bounds.update {
        faults.push(format!("what two updates did is off by {apart:.1e}, cosine {cosine:.9}"));
    }
    faults
}
