//! Stages that compare gradients of parts of their loss: their plans, keys and costs.

use super::objectives::{lower_by_term, lowered};
use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

/// A student with two terms, whose gradients are compared.
fn comparing(change: impl FnOnce(&mut Train)) -> Experiment {
    let mut experiment = experiment();
    let train = distilled(&mut experiment);
    train.objective.terms.push(term("own", apply(Function::Negate, [&live(Live::Part(ModelSignal::Logp))])));
    train.options.alignment = Some(GradientAlignment { between: GradientPartition::Terms, every: 4 });
    change(train);
    experiment
}

#[test]
fn every_setting_of_it_is_meaning() {
    let of = |change: fn(&mut Train)| {
        let plan = compiled(&comparing(change));
        let [.., expert, student, _] = &plan.stages[..] else { panic!("six stages") };
        (student.key.clone(), student.content_key.clone(), student.stream, expert.key.clone())
    };
    let changes: [fn(&mut Train); 5] = [
        |_| (),
        |train| train.options.alignment.as_mut().unwrap().every = 5,
        |train| train.options.alignment.as_mut().unwrap().between = GradientPartition::Domains,
        |train| train.options.alignment = None,
        // Columns have the terms' names.
        |train| train.objective.terms[1].name = "other".into(),
    ];
    let all: Vec<_> = changes.into_iter().map(of).collect();
    for (index, (key, content_key, stream, other)) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|(known, ..)| known != key), "{index}");
        assert!(all[..index].iter().all(|(_, known, ..)| known != content_key), "{index}");
        assert_eq!((*stream, other), (all[0].2, &all[0].3), "the same draws; and no other stage's concern");
    }
}

#[test]
fn alignment_is_in_the_plan_with_its_cost() {
    let plan = compiled(&comparing(|_| ()));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    let found = train.options.alignment.unwrap();
    assert_eq!([0, 1, 4, 6, 8].map(|step| found.is_due(step)), [true, false, true, false, true]);
    assert_eq!([1, 4, 5, 10].map(|steps| found.times(steps)), [1, 1, 2, 3]);
    assert_eq!(train.objective.term_gradients.len(), 2);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let plain = compiled(&comparing(|train| train.options.alignment = None));
    let (cost, before) = (plan.stages[4].cost, plain.stages[4].cost);
    assert!(matches!(train.optimizer, Optimizer::AdamW(_)));
    // Two more gradients, and in 3 of 10 steps one more forward and backward pass for each.
    assert_eq!(cost.memory.unwrap() - before.memory.unwrap(), 2 * 4 * before.trained.unwrap());
    let (tokens, parameters) = (before.tokens.unwrap() as f64, before.parameters.unwrap() as f64);
    let more = cost.flops.unwrap() - before.flops.unwrap();
    assert!((more / (2.0 * 0.3 * 6.0 * parameters * tokens) - 1.0).abs() < 1e-9, "{more}");
}

/// No other node of the objective changes, and the terms' derivatives sum to the whole derivative.
#[test]
fn term_gradients_sum_to_the_gradient() {
    let mut objective = mopd(5.0);
    objective.terms.push(term("own", apply(Function::Negate, [&live(Live::Part(ModelSignal::Logp))])));
    let (plain, each) = (lowered(&objective), lower_by_term(&objective, &[], true).unwrap());
    let nodes = |of: &plan::Objective| of.graph.nodes().map(|(_, node)| node.clone()).collect::<Vec<_>>();
    assert_eq!(nodes(&each)[..nodes(&plain).len()], nodes(&plain));
    assert_eq!((each.loss, each.signal), (plain.loss, plain.signal));
    assert!(plain.term_gradients.is_empty());
    let names: Vec<&str> = each.term_gradients.iter().map(|of| of.term.as_str()).collect();
    assert_eq!(names, ["term", "own"]);
    assert!(each.term_gradients.iter().all(|of| of.adjoints.len() == each.live.len()));
}

#[test]
fn alignment_is_refused_where_unsupported() {
    let private = |train: &mut Train| {
        train.options.private = Some(Private { clip: 1.0, epsilon: 8.0, delta: 1e-5 });
    };
    let refusals = refusals_of(&comparing(private));
    let refused = "`gradient_alignment` with the optimizer `private_adamw` is not supported yet";
    assert!(refusals.iter().any(|refusal| refusal == refused), "{refusals:?}");
}
