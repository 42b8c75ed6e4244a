//! Stages with validation: plans, keys and costs, and refusals of reading a loss that is not computed.

use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

/// The student validates.
fn validating(change: impl FnOnce(&mut Experiment)) -> Experiment {
    let mut experiment = experiment();
    for domain in &mut experiment.domains {
        domain.validation = Some(file(&format!("{}.validation.jsonl", domain.name)));
    }
    distilled(&mut experiment).options.validation =
        Some(Validation { target: "answer".into(), every: 10, rows: Some(64) });
    change(&mut experiment);
    experiment
}

#[test]
fn every_setting_of_it_is_meaning() {
    let of = |plan: Plan| {
        let [.., expert, student, _] = &plan.stages[..] else { panic!("six stages") };
        (student.key.clone(), student.content_key.clone(), student.stream, expert.key.clone())
    };
    let keys = |change: fn(&mut Experiment)| of(compiled(&validating(change)));
    fn found(experiment: &mut Experiment) -> &mut Validation {
        distilled(experiment).options.validation.as_mut().unwrap()
    }
    let changes: [fn(&mut Experiment); 5] = [
        |_| (),
        |experiment| found(experiment).target = "solution".into(),
        |experiment| found(experiment).every = 5,
        |experiment| found(experiment).rows = None,
        |experiment| distilled(experiment).options.validation = None,
    ];
    let all: Vec<_> = changes.into_iter().map(keys).collect();
    for (index, (key, content_key, stream, other)) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|(known, ..)| known != key), "{index}");
        assert!(all[..index].iter().all(|(_, known, ..)| known != content_key), "{index}");
        assert_eq!((*stream, other), (all[0].2, &all[0].3), "the same draws; and no other stage's concern");
    }
    // The content of the files is added when they are read.
    let moved = keys(|experiment| experiment.domains[1].validation = Some(file("elsewhere.jsonl")));
    assert_eq!((&moved.1, moved.0 == all[0].0), (&all[0].1, false));
    // The validation rows of a domain do not affect stages without validation.
    assert_eq!(all[4], of(compiled(&experiment())));
}

#[test]
fn validation_is_in_the_plan_with_unknown_cost() {
    let plan = compiled(&validating(|_| ()));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    let found = train.options.validation.as_ref().unwrap();
    assert_eq!((found.target.as_str(), found.every, found.rows), ("answer", 10, Some(64)));
    assert_eq!([100, 50].map(|rows| found.rows_of(rows)), [64, 50]);
    assert_eq!([1, 10, 11, 20].map(|steps| found.times(steps)), [1, 1, 2, 2]);
    let domain = &plan.experiment.domains[0];
    let sources: Vec<&str> = domain.sources().map(|(name, _)| name).collect();
    assert_eq!(sources, ["prompts", "tests", "validation"]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let before = compiled(&experiment()).stages[4].cost;
    assert!(before.flops.is_some());
    assert_eq!((plan.stages[4].cost.flops, plan.stages[4].cost.memory), (None, before.memory));
}

/// The checker reports this in the author's words; a plan never contains it.
#[test]
fn a_loss_that_nobody_computes_is_refused() {
    let reads = |experiment: &mut Experiment| {
        distilled(experiment).objective.weight =
            Some(formula(FormulaKind::Signal(Signal::ValidationLoss), Axis::Run, false));
    };
    compiled(&validating(reads));
    let experiment = validating(|experiment| {
        reads(experiment);
        distilled(experiment).options.validation = None;
    });
    assert_eq!(
        refusals_of(&experiment),
        ["the signal `loss.validation` in a stage without `validate` is not supported yet"]
    );
}
