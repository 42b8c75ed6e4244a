//! Prompts chosen before steps: the plan, keys and costs, and formulas that may not choose.

use std::rc::Rc;

use mopd_plan::{self as plan, Curriculum, producers};

use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

fn drawn(n: u32) -> Sampling {
    Sampling {
        n,
        temperature: number(1.0),
        max_tokens: number(16.0),
        top_p: None,
        top_k: None,
        repetition_penalty: None,
        stop: vec![],
        heads: None,
    }
}

fn rollout(source: RolloutSource) -> Rollout {
    Rollout::new(source, HERE)
}

fn from(n: u32, sequences: Option<u32>) -> Rollout {
    rollout(RolloutSource::From { teacher: Role::Teacher, sees: None, sequences, sampling: drawn(n) })
}

/// `mean(OPERAND, over: AXIS, on: ROLLOUT)`
fn on(operand: &Formula, over: Axis, rollout: Rollout) -> Formula {
    let (operand, on) = (operand.clone(), Some(Rc::new(rollout)));
    formula(
        FormulaKind::Reduce { reduction: Reduction::Mean, operand, among: None, on, fraction: None },
        over,
        false,
    )
}

/// `mean(reward, over: group, on: from(teacher, n: 4, ...))`
fn score() -> Formula {
    on(&signal(PlainSignal::Reward), Axis::Group, from(4, None))
}

fn own() -> Formula {
    reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group)
}

/// The choice as in the paper.
fn choosing(change: impl FnOnce(&mut Train)) -> Experiment {
    let mut experiment = experiment();
    let train = distilled(&mut experiment);
    train.rollout = rollout(RolloutSource::Sample(drawn(1)));
    train.size = BatchSize::Prompts(8);
    train.filter = Some(apply(Function::GreaterEqual, [&score(), &number(0.25)]));
    train.priority = Some(apply(Function::Subtract, [&score(), &own()]));
    train.refresh = Some(5);
    change(train);
    experiment
}

fn chosen(experiment: &Experiment) -> Option<Curriculum> {
    let plan = compiled(experiment);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert!(train.filter.is_none() || train.curriculum.is_none(), "one filter");
    train.curriculum.clone()
}

/// Two formulas that read the same completions share them, and their measures.
#[test]
fn curriculum_is_in_the_plan_with_unknown_cost() {
    let experiment = choosing(|_| ());
    let found = chosen(&experiment).unwrap();
    assert_eq!((found.rollouts.len(), found.measures.len(), found.refresh), (1, 1, Some(5)));
    let producers::Teacher { writer, once, sampling, .. } = match &found.rollouts[0] {
        plan::Producer::Teacher(teacher) => (**teacher).clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((writer, once, sampling.n), (plan::Role::TEACHER, None, 4));
    assert!(found.reads_own());
    let plan = compiled(&experiment);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert_eq!(plan.stages[4].cost.flops, None);
    let others = chosen(&choosing(|train| {
        train.filter = Some(apply(
            Function::Less,
            [&on(&signal(PlainSignal::Length), Axis::Group, from(4, None)), &number(9.0)],
        ));
        train.priority = Some(on(&signal(PlainSignal::Reward), Axis::Group, from(2, None)));
    }));
    let others = others.unwrap();
    assert_eq!((others.rollouts.len(), others.measures.len(), others.reads_own()), (2, 2, false));
}

/// A filter alone acts on a step's completions. Each of the other settings makes it a choice before steps.
#[test]
fn a_filter_alone_looks_at_what_a_step_has_drawn() {
    let solved = || Some(apply(Function::Less, [&own(), &number(1.0)]));
    let of = |change: &dyn Fn(&mut Train)| {
        chosen(&choosing(|train| {
            (train.filter, train.priority, train.refresh) = (solved(), None, None);
            change(train);
        }))
    };
    assert_eq!(of(&|_| ()), None);
    assert!(of(&|train| train.refresh = Some(2)).is_some());
    assert!(of(&|train| train.priority = Some(own())).is_some_and(|found| found.refresh.is_none()));
    let taught = || Some(apply(Function::Less, [&score(), &number(1.0)]));
    assert!(of(&|train| train.filter = taught()).is_some_and(|found| !found.reads_own()));
}

#[test]
fn every_setting_of_it_is_meaning() {
    let of = |change: fn(&mut Train)| {
        let plan = compiled(&choosing(change));
        (plan.stages[4].key.clone(), plan.stages[4].content_key.clone(), plan.stages[4].stream)
    };
    let changes: [fn(&mut Train); 7] = [
        |_| (),
        |train| train.filter = Some(apply(Function::GreaterEqual, [&score(), &number(0.5)])),
        |train| train.filter = None,
        |train| train.priority = Some(apply(Function::Subtract, [&own(), &score()])),
        |train| train.priority = None,
        |train| train.refresh = Some(2),
        |train| {
            let score = on(&signal(PlainSignal::Reward), Axis::Group, from(2, None));
            train.priority = Some(apply(Function::Subtract, [&score, &own()]));
        },
    ];
    let all = changes.map(of);
    for (index, (key, content_key, stream)) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|(known, ..)| known != key), "{index}");
        assert!(all[..index].iter().all(|(_, known, _)| known != content_key), "{index}");
        assert_eq!(*stream, all[0].2);
    }
}

#[test]
fn curriculum_refuses_unsupported_priorities() {
    let refused = |change: &dyn Fn(&mut Train)| {
        let (sources, origins) = sources();
        let found =
            super::super::compile(&choosing(change), &origins, &sources, true).expect_err("it is refused");
        found.into_iter().map(|diagnostic| diagnostic.message).collect::<Vec<String>>()
    };
    let supported = |construct: &str| vec![format!("{construct} is not supported yet")];
    let entropy = || signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let per_group = |of: &Formula| reduce(Reduction::Mean, of, Axis::Group);
    assert_eq!(
        refused(
            &|train| train.priority = Some(per_group(&reduce(Reduction::Mean, &entropy(), Axis::Sequence)))
        ),
        supported("a `priority` that reads more than rewards, lengths, data and states")
    );
    assert_eq!(
        refused(&|train| train.priority = Some(on(&entropy(), Axis::Group, from(4, None)))),
        supported("a number about other completions that reads more than rewards and lengths")
    );
    assert_eq!(
        refused(&|train| train.priority = Some(statistic(Statistic::Rank, &own(), Axis::Batch))),
        supported("a `priority` that compares prompts with each other or with those of earlier steps")
    );
    assert_eq!(
        refused(&|train| train.priority = Some(on(&signal(PlainSignal::Reward), Axis::Batch, from(4, None)))),
        supported("a choice of prompts by a reduction over another rollout (`on`) that is not `over: group`")
    );
    let answers = || rollout(RolloutSource::Data { field: "answer".into() });
    assert_eq!(
        refused(&|train| train.priority = Some(on(&signal(PlainSignal::Reward), Axis::Group, answers()))),
        supported("a choice of prompts by the rollout `data`")
    );
    assert_eq!(
        refused(
            &|train| train.priority = Some(on(&signal(PlainSignal::Reward), Axis::Group, from(1, Some(64))))
        ),
        supported("a choice of prompts by the rollout `from`")
    );
    assert_eq!(
        refused(&|train| train.priority = Some(signal(PlainSignal::Progress))),
        ["a `priority` is the same for every prompt, so it chooses nothing"]
    );
    let choice = "a choice of prompts before steps (`priority`, `refresh`, or `on` in a `filter`)";
    assert_eq!(
        refused(&|train| train.length = Length::Epochs(2)),
        supported(&format!("{choice} in a stage that trains in epochs"))
    );
    assert_eq!(
        refused(&|train| train.rollout = answers()),
        supported(&format!(
            "{choice} where the stage's completions are not `sample(...)` or `from(...)` of every step"
        ))
    );
    let beside = refused(&|train| {
        let other =
            Term { data: Some(Rc::new(answers())), ..term("other", live(Live::Part(ModelSignal::Logp))) };
        train.objective.terms.push(other);
    });
    let refused_beside = |construct: &str| {
        format!("{construct} together with a term with its own completions is not supported yet")
    };
    assert_eq!(beside, ["a `filter`", choice].map(refused_beside));
}
