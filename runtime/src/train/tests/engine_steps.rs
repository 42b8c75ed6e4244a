//! Steps that an engine reports. Here the trainer plays the engine.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mopd_plan::{CompletionsFrom, EngineStage, ModelId};
use serde_json::{Value, json};

use super::given::trained;
use super::*;
use crate::report::Record;
use crate::train::EngineSteps;
use crate::train::part::EvaluatedBatch;

fn text(values: &[f32]) -> String {
    BASE64_STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// A step is noted with the rows of a step here; a misaligned one is refused, and says what differs.
#[test]
fn misaligned_steps_of_an_engine_are_refused() {
    let fixture = Fixture::new();
    let weights = models(true);
    let read = trained("weight = 1 + 50 * teacher.top1\nterm a = live kl(student || teacher)");
    let train = Train { rollout: Rollout::new(5, Producer::data("answer")), ..train(read.objective, 1) };
    let stage = fixture.stage(&train, ROUTED, &weights);
    let engine = EngineStage {
        model: ModelId(0),
        files: BTreeMap::new(),
        program: String::new(),
        completions: CompletionsFrom::Before,
        models: Vec::new(),
    };
    let stages = [stage];
    let steps = || EngineSteps::draw(&stages, &engine, None).unwrap();
    let stage = &stages[0];
    assert_eq!(steps().steps(), stage.steps);
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap();
    let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(0, &rollouts[0], 0).unwrap();
    let list = &rollouts[0].sequences.list;
    let signals: Vec<(&Signal, String)> =
        batch.signals.iter().map(|(signal, values)| (signal, text(values))).collect();
    let whole = json!({
        "step": 0,
        "loss": outputs.get(train.objective.loss)[0],
        "gradient_norm": 0.5,
        "learning_rate": 1e-3,
        "seconds": [0.0, 0.0],
        "rows": (0..list.len()).collect::<Vec<usize>>(),
        "completions": list.iter().map(|sequence| &*sequence.completion).collect::<Vec<_>>(),
        "truncated": vec![false; list.len()],
        "live": batch.live.iter().map(|values| text(values)).collect::<Vec<String>>(),
        "signals": signals,
    });
    let numbers = |record: &Record| {
        let of = |row: &crate::report::metrics::StepMetrics| {
            (row.domain.clone(), row.loss, row.divergence, row.entropy, row.signal_mean, row.tokens)
        };
        record.rows.iter().map(of).collect::<Vec<_>>()
    };
    let note = |reported: &Value| {
        let mut record = Record::default();
        let mut steps = steps();
        let asked = json!({
            "step": 0,
            "completions": reported["completions"],
            "truncated": reported["truncated"],
            "signals": [],
        });
        let known =
            steps.known(&serde_json::from_value(asked).unwrap()).map_err(|error| error.to_string())?;
        assert_eq!(known["shown"], json!({}));
        let reported = serde_json::from_value(reported.clone()).unwrap();
        steps.note(&reported, &mut record).map(|_| numbers(&record)).map_err(|error| error.to_string())
    };
    let noted = note(&whole).unwrap();
    let mut here = Record::default();
    trainer.update(rollouts, std::time::Instant::now(), 0, &mut here).unwrap();
    assert_eq!(noted, numbers(&here));

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut reported = whole.clone();
        change(&mut reported);
        note(&reported).expect_err("it is misaligned")
    };
    // A wrong divisor.
    let error = changed(&|step| step["loss"] = json!(2.0 * step["loss"].as_f64().unwrap()));
    assert!(error.contains("the objective is"), "{error}");
    // The teacher's column, shifted by a token.
    let shifted = |signal: &Signal| {
        let mut values = batch.signal(signal).unwrap().to_vec();
        values.rotate_right(1);
        text(&values)
    };
    let top1 = batch
        .signals
        .iter()
        .position(|(signal, _)| matches!(signal, Signal::Of { part: ModelSignal::Top1, .. }))
        .unwrap();
    let error = changed(&|step| step["signals"][top1][1] = json!(shifted(&batch.signals[top1].0)));
    assert!(error.contains("the objective is"), "{error}");
    // A sequence is missing; others are in another order.
    let error = changed(&|step| {
        step["completions"].as_array_mut().unwrap().pop();
    });
    assert!(error.contains("completions in place of"), "{error}");
    let error = changed(&|step| step["rows"].as_array_mut().unwrap().swap(0, 1));
    assert!(error.contains("in another order"), "{error}");
}
