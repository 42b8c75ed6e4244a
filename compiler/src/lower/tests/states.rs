//! States: their nodes, their part in keys and normal forms, and what is refused.

use std::rc::Rc;

use super::objectives::{STUDENT, assert_values_with, lower_with, lowered};
use super::*;

const BETA: f64 = 0.04;

fn beta() -> Formula {
    signal(Signal::State { name: "beta".into(), axis: Axis::Run, unit: Unit::Number, first: BETA })
}

fn mean_reward() -> Formula {
    reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Batch)
}

/// `-beta * live student.logp`, with `state beta = 0.04 then next`.
fn moved(next: Formula) -> Objective {
    let value = apply(Function::Multiply, [&beta(), &live(Live::Part(ModelSignal::Logp))]);
    let mut objective = objective(apply(Function::Negate, [&value]), token_mean());
    objective.states = vec![State { name: "beta".into(), axis: Axis::Run, first: BETA, next, origin: HERE }];
    objective
}

/// A state reads its value at the beginning of the step, the step's own losses, and those of the step before.
#[test]
fn a_state_moves_by_the_losses_of_its_step() {
    let (loss, term) = (signal(PlainSignal::Loss), signal(Signal::TermLoss { term: "term".into() }));
    // One formula for both, like a `let` that a term and the state read.
    let both = apply(Function::Add, [&loss, &mean_reward()]);
    let next = apply(Function::Multiply, [&beta(), &apply(Function::Add, [&both, &term])]);
    let mut objective = moved(next);
    objective.weight = Some(both);
    let plan = lower_with(&objective, &["term".to_owned()]).unwrap();
    let given = [
        (plan::Signal::State { name: "beta".into(), axis: Axis::Run }, vec![0.5]),
        (plan::Signal::Plain(plan::PlainSignal::Loss), vec![2.0]),
        (plan::Signal::TermLoss { term: "term".into() }, vec![9.0]),
    ];
    // The mean of the rewards 1, 0, 0.25 and 0.75 is 0.5.
    let logp = STUDENT.iter().map(|logp| f64::from(*logp)).sum::<f64>() / 8.0;
    let bare = -0.5 * logp;
    let loss = (2.0 + 0.5) * bare;
    assert_values_with(&plan, plan.loss, &[loss], &given);
    assert_values_with(&plan, plan.states[0].next, &[0.5 * (loss + 0.5 + bare)], &given);
    assert_eq!((plan.states[0].name.as_str(), plan.states[0].first), ("beta", BETA));
    assert!(lowered(&nll()).states.is_empty());
}

fn student(objective: Objective) -> Experiment {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.objective = objective;
    experiment
}

#[test]
fn first_and_next_value_are_meaning() {
    let risen = |by: f64| apply(Function::Multiply, [&beta(), &number(by)]);
    let key = |objective: Objective| compiled(&student(objective)).stages[4].key.clone();
    let base = key(moved(risen(1.5)));
    assert_ne!(key(moved(risen(1.25))), base);
    let mut later = moved(risen(1.5));
    later.states[0].first = 0.05;
    assert_ne!(key(later), base);
    assert_eq!(key(moved(risen(1.5))), base);
    let plan = compiled(&student(moved(risen(1.5))));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it is trained") };
    assert_eq!(
        train.objective.normal_form.terms,
        "-(beta * live student.logp); state beta = 0.04 then beta * 1.5"
    );
    assert!(train.objective.outputs().contains(&train.objective.states[0].next));
}

#[test]
fn state_that_a_part_lacks_is_refused() {
    let data = |field: &str| {
        let source = RolloutSource::Data { field: field.into() };
        Some(Rc::new(Rollout::new(source, HERE)))
    };
    let own = || {
        let value = apply(Function::Multiply, [&number(-1.0), &live(Live::Part(ModelSignal::Logp))]);
        Term { data: data("answer"), ..term("own", value) }
    };
    let mut by_loss = moved(apply(Function::Multiply, [&beta(), &signal(PlainSignal::Loss)]));
    compiled(&student(by_loss.clone()));
    by_loss.terms.push(own());
    assert_eq!(
        refusals_of(&student(by_loss)),
        ["`loss` in the update of the state `beta` of an objective whose terms have their own completions \
            is not supported yet"]
    );
    let mut by_rewards = moved(apply(Function::Multiply, [&beta(), &mean_reward()]));
    by_rewards.terms.push(own());
    compiled(&student(by_rewards.clone()));
    by_rewards.terms[0].value =
        apply(Function::Multiply, [&number(0.0), &live(Live::Part(ModelSignal::Logp))]);
    assert_eq!(
        refusals_of(&student(by_rewards)),
        ["a `state` in an objective whose terms on the stage's rollout are all constant is not supported \
            yet"]
    );
}

fn gap() -> Formula {
    signal(Signal::State { name: "gap".into(), axis: Axis::Domain, unit: Unit::Number, first: 1.0 })
}

/// `-gap * live student.logp`, with `state gap = 1 by domain then next`.
fn moved_by_domain(next: Formula) -> Objective {
    let value = apply(Function::Multiply, [&gap(), &live(Live::Part(ModelSignal::Logp))]);
    let mut objective = objective(apply(Function::Negate, [&value]), token_mean());
    objective.states = vec![State { name: "gap".into(), axis: Axis::Domain, first: 1.0, next, origin: HERE }];
    objective
}

fn domain_reward() -> Formula {
    reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Domain)
}

/// The tests' layout has one domain, where both axes have one number.
#[test]
fn a_state_by_domain_is_on_the_axis_of_domains() {
    let next = apply(Function::Multiply, [&gap(), &domain_reward()]);
    let plan = lower_with(&moved_by_domain(next.clone()), &[]).unwrap();
    let state = &plan.states[0];
    assert_eq!((state.axis, plan.graph.axis(state.next)), (Axis::Domain, Axis::Domain));
    let given = [(plan::Signal::State { name: "gap".into(), axis: Axis::Domain }, vec![3.0])];
    assert_values_with(&plan, state.next, &[3.0 * 0.5], &given);
    let logp = STUDENT.iter().map(|logp| f64::from(*logp)).sum::<f64>() / 8.0;
    assert_values_with(&plan, plan.loss, &[-3.0 * logp], &given);

    let plan = compiled(&student(moved_by_domain(next)));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it is trained") };
    assert_eq!(
        train.objective.normal_form.terms,
        "-(gap * live student.logp); state gap = 1 by domain then gap * mean(reward, over: domain)"
    );
    // The plan of a number of the run does not mention an axis.
    let plain = compiled(&student(moved(apply(Function::Multiply, [&beta(), &number(1.5)]))));
    assert!(!serde_json::to_string(&plain.experiment).unwrap().contains("\"axis\":\"domain\""));
}

fn sharing(change: impl FnOnce(&mut Train)) -> Experiment {
    let mut experiment = student(moved_by_domain(apply(Function::Add, [&gap(), &domain_reward()])));
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.shares = Some(gap());
    change(train);
    experiment
}

#[test]
fn shares_are_meaning_and_what_they_do_not_go_with_is_refused() {
    let key = |experiment: &Experiment| compiled(experiment).stages[4].key.clone();
    let base = key(&sharing(|_| {}));
    assert_ne!(key(&sharing(|train| train.shares = None)), base);
    let squared = apply(Function::Multiply, [&gap(), &gap()]);
    assert_ne!(key(&sharing(|train| train.shares = Some(squared))), base);
    let plan = compiled(&sharing(|_| {}));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);

    let refused = |change: &dyn Fn(&mut Train)| refusals_of(&sharing(change));
    assert_eq!(
        refused(&|train| train.length = Length::Epochs(2)),
        ["a mixture whose `shares` follow states in a stage that trains in epochs is not supported yet"]
    );
    let by_loss = apply(Function::Multiply, [&gap(), &signal(PlainSignal::Loss)]);
    assert_eq!(
        refused(&|train| train.shares = Some(by_loss.clone())),
        ["a mixture whose `shares` read anything but states, `step` and `progress` is not supported yet"]
    );
}
