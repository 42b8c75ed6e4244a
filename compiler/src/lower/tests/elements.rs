//! Training of the elements that another stage changed: their part in plans, keys and costs, and
//! refusals.

use super::*;

/// A student that trains the elements that the first expert changed.
fn training(change: impl FnOnce(&mut Experiment)) -> Experiment {
    let mut experiment = experiment();
    let changed = ChangedElements { after: ModelId(2), before: ModelId(1), beyond: 1e-5 };
    student(&mut experiment).trainable =
        Trainable::Weights { only: Some(vec![WeightFilter::Changed(changed)]), except: vec![] };
    change(&mut experiment);
    experiment
}

fn student(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

fn choice(experiment: &mut Experiment) -> &mut ChangedElements {
    match &mut student(experiment).trainable {
        Trainable::Weights { only: Some(only), .. } => match &mut only[0] {
            WeightFilter::Changed(changed) => changed,
            _ => panic!("elements are chosen"),
        },
        _ => panic!("some weights train"),
    }
}

fn plan_of(experiment: &Experiment) -> Plan {
    let (sources, origins) = sources();
    super::super::compile(experiment, &origins, &sources, false).expect("it can run")
}

#[test]
fn the_compared_models_are_inputs_and_the_choice_is_meaning() {
    let keys = |change: fn(&mut Experiment)| {
        let plan = plan_of(&training(change));
        (plan.stages[4].key.clone(), plan.stages[4].content_key.clone(), plan.stages[4].stream)
    };
    // The student trains other elements if the expert learns longer.
    fn longer(experiment: &mut Experiment) {
        let Stage::Train(train) = &mut experiment.models[2].stage else { panic!("the expert is trained") };
        train.length = Length::Steps(11);
    }
    let changes: [fn(&mut Experiment); 6] = [
        |_| (),
        |experiment| choice(experiment).beyond = 1e-4,
        |experiment| choice(experiment).after = ModelId(3),
        |experiment| choice(experiment).before = ModelId(0),
        longer,
        |experiment| {
            let changed = *choice(experiment);
            student(experiment).trainable =
                Trainable::Weights { only: None, except: vec![WeightFilter::Changed(changed)] };
        },
    ];
    let all: Vec<_> = changes.into_iter().map(keys).collect();
    let plain = plan_of(&experiment());
    for (index, (key, content_key, stream)) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|(known, ..)| known != key), "{index}");
        assert!(all[..index].iter().all(|(_, known, _)| known != content_key) || index == 4, "{index}");
        assert_eq!(*stream, plain.stages[4].stream, "the same prompts, so that stages can be compared");
        assert!(*key != plain.stages[4].key);
    }
    // Names do not enter keys.
    assert_eq!(keys(|experiment| experiment.models[2].name = "other".into()), all[0]);

    let plan = plan_of(&training(|experiment| student(experiment).teachers.remove(0).domain = DomainId(0)));
    let inputs = plan.experiment.models[4].stage.inputs();
    assert_eq!(inputs, [ModelId(1), ModelId(2), ModelId(3)], "no teacher, and there before the student");
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    // At most one index and one value for each.
    let (cost, before) = (plan_of(&training(|_| ())).stages[4].cost, plain.stages[4].cost);
    assert_eq!(cost.memory.unwrap(), before.memory.unwrap() + 8 * before.parameters.unwrap());
}

#[test]
fn private_stages_choose_no_elements() {
    let refused = refusals_of(&training(|experiment| {
        student(experiment).options.private = Some(Private { clip: 1.0, epsilon: 3.0, delta: 1e-5 });
    }));
    let said = "`changed` with the optimizer `private_adamw` is not supported yet";
    assert!(refused.iter().any(|refused| refused == said), "{refused:?}");
}
