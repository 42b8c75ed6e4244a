//! Two tokens per step: the plan, refusals, and the loss of the confidence.

use mopd_expr::interpret::interpret;
use mopd_plan::producers::Writer;

use super::objectives::{batch, lowered};
use super::*;

fn paired(heads: u32, accept: f64) -> Rollout {
    let (source, _) = student(1, 1);
    let RolloutSource::Sample(of) = source else { unreachable!("the student samples") };
    let source = RolloutSource::Sample(Sampling { heads: Some(Heads { heads, accept }), ..of });
    Rollout::new(source, HERE)
}

/// The experiment with a changed student that samples two tokens per step. It is not compiled.
fn changed(change: impl FnOnce(&mut Train)) -> Experiment {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.rollout = paired(2, 0.95);
    change(train);
    experiment
}

fn refused(change: impl FnOnce(&mut Train)) -> Vec<String> {
    refusals_of(&changed(change))
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

#[test]
fn a_plan_says_when_a_second_token_stands() {
    let plan = compiled(&changed(|_| {}));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it is trained") };
    let [(Writer::Student, sampling)] = train.rollout.producer.drawn()[..] else {
        panic!("the student writes")
    };
    assert_eq!(sampling.accept, Some(0.95));
    assert!(train.trains_second_head());
    assert_eq!(plan::second_heads(&plan.experiment.models)[3..], [Some(false), Some(true), Some(false)]);
    let plain = compiled(&experiment());
    let [own, without] = [&plan, &plain].map(|plan| &plan.stages[4]);
    assert_ne!(own.key, without.key);
    // 3 W^2 + W, with a gradient and two moments each.
    let head = 3 * 96 * 96 + 96;
    assert_eq!(own.cost.parameters.unwrap() - without.cost.parameters.unwrap(), head);
    assert_eq!(own.cost.memory.unwrap() - without.cost.memory.unwrap(), 16 * head);
    assert!(!serde_json::to_string(&plain.experiment).unwrap().contains("accept"));
    let other = compiled(&changed(|train| train.rollout = paired(2, 0.5)));
    assert_ne!(own.key, other.stages[4].key);
}

#[test]
fn refuses_unsupported_second_heads() {
    assert_eq!(
        refused(|train| train.rollout = paired(3, 0.95)),
        supported("sampling with more than two output heads")
    );
    let place = "sampling with two output heads in another rollout than a stage's own `sample(...)`";
    let mix = |train: &mut Train| {
        let second = RolloutSource::Data { field: "demonstration".into() };
        let second = Rollout::new(second, HERE);
        let source =
            RolloutSource::Mix { share: number(0.5), first: paired(2, 0.95).into(), second: second.into() };
        train.rollout.source = source;
    };
    assert_eq!(refused(mix), supported(place));
    let adapter = Adapter {
        kind: AdapterKind::Lora,
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        targets: Projection::ATTENTION.to_vec(),
        layers: None,
    };
    assert_eq!(
        refused(|train| train.trainable = Trainable::Adapter(adapter)),
        supported("sampling with two output heads together with an adapter")
    );
    let mut merged = changed(|_| {});
    let Stage::Merge(merge) = &mut merged.models[5].stage else { panic!("it is merged") };
    merge.models.push(ModelId(4));
    assert_eq!(refusals_of(&merged), supported("a merge of models with a second output head"));
}

/// A student with one head has no second one to read.
#[test]
fn confidence_needs_a_second_head() {
    let (one, _) = student(1, 1);
    let plain = |value: Formula| {
        let rollout = Rollout::new(one.clone(), HERE);
        refused(|train| {
            train.rollout = rollout;
            train.objective = objective(value, by_steps(vec![step(Axis::Token, Axis::Batch)]));
        })
    };
    let logp = live(Live::Part(ModelSignal::Logp));
    let weighed = |by: Formula| apply(Function::Multiply, [&by, &logp]);
    let confidence = Signal::Of { role: Role::Student, part: ModelSignal::Confidence };
    let asked = "`student.confidence` of a student with one output head";
    assert_eq!(plain(weighed(signal(confidence))), supported(asked));
    let bce = live(Live::BinaryCrossEntropy { part: ModelSignal::Confidence, target: number(0.5) });
    assert_eq!(plain(bce), supported(asked));
    let head = "`head` of completions of a student with one output head";
    assert_eq!(plain(weighed(signal(PlainSignal::Head))), supported(head));
}

/// Where the confidence rounds to 0 or 1, the loss and its derivative by the logit equal those of exact
/// arithmetic.
#[test]
fn the_loss_of_confidence_is_exact_far_out() {
    let odds = [-800.0f32, -40.0, -2.0, 0.0, 0.5, 3.0, 50.0, 900.0];
    let target = 0.25;
    let bce = live(Live::BinaryCrossEntropy { part: ModelSignal::Confidence, target: number(target) });
    let objective = lowered(&objective(bce, by_steps(vec![step(Axis::Token, Axis::Batch)])));
    let [live] = objective.live.as_slice() else { panic!("one primitive") };
    assert_eq!(live.primitive, plan::Live::ConfidenceLogit);
    let mut batch = batch();
    batch.live = vec![odds.to_vec()];
    let values = interpret(&objective.graph, &objective.outputs(), &batch).unwrap();
    // log(1 + e^z) - y z, where log(1 + e^z) = max(z, 0) + log(1 + e^-|z|).
    let of = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z;
    let loss: f64 = odds.iter().map(|z| of(f64::from(*z)) / 8.0).sum();
    assert!((values.get(objective.loss)[0] - loss).abs() < 1e-12 * loss);
    for (got, z) in values.get(live.adjoint).iter().zip(odds) {
        let expected = (1.0 / (1.0 + f64::from(-z).exp()) - target) / 8.0;
        assert!((got - expected).abs() < 1e-12, "{z}: {got} {expected}");
    }
}
