//! A learned share of a slot: its part in plans, keys and costs, and the places where it is not
//! allowed.

use std::rc::Rc;

use mopd_expr::graph::Operation;
use mopd_plan::views::{Piece, SlotShare};

use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

/// `mean(student.logp, over: batch, on: data(FIELD))`
fn recorded(field: &str) -> Formula {
    on(RolloutSource::Data { field: field.into() }, Reduction::Mean, Axis::Batch)
}

fn on(source: RolloutSource, reduction: Reduction, over: Axis) -> Formula {
    let rollout = Rc::new(Rollout::new(source, HERE));
    let (operand, among) = (logp(Role::Student), None);
    formula(FormulaKind::Reduce { reduction, operand, among, on: Some(rollout), fraction: None }, over, false)
}

/// `previous(loss) - loss`
fn fall() -> Formula {
    let loss = signal(PlainSignal::Loss);
    let before = FormulaKind::Memory { memory: Memory::Previous, operand: loss.clone() };
    apply(Function::Subtract, [&formula(before, Axis::Run, false), &loss])
}

fn gain() -> Formula {
    apply(Function::Add, [&fall(), &recorded("solution")])
}

fn learned(gain: Formula, hold: u32, discount: f64, lr: f64) -> Formula {
    formula(FormulaKind::Adaptive(Adaptive::Learned { gain, hold, discount, lr }), Axis::Run, false)
}

fn usual() -> Formula {
    learned(gain(), 10, 0.9, 0.1)
}

fn first(share: Formula) -> Option<Rc<Template>> {
    let pieces = vec![TemplatePiece::First { slot: Slot::Data("solution".into()), share }];
    Some(Rc::new(Template { name: "hint".into(), pieces, origin: HERE }))
}

fn refused(change: impl FnOnce(&mut Experiment)) -> Vec<String> {
    let mut experiment = experiment();
    change(&mut experiment);
    refusals_of(&experiment)
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

/// The student's stage, whose teachers see a share of the solutions.
fn student_with(share: Formula) -> (plan::Train<plan::Objective>, plan::StageFacts) {
    let mut experiment = experiment();
    experiment.teachers.iter_mut().for_each(|teacher| teacher.sees = first(share.clone()));
    let plan = compiled(&experiment);
    let plan::Stage::Train(train) = plan.experiment.models[4].stage.clone() else { panic!("it is trained") };
    (*train, plan.stages[4].clone())
}

#[test]
fn learned_share_is_in_the_plan() {
    let (train, facts) = student_with(usual());
    for choice in train.scorers.routed() {
        let view = choice.sees.as_ref().expect("it sees a template");
        assert!(matches!(&view.pieces[..], [Piece::First { share: SlotShare::LEARNED, .. }]), "{view:?}");
    }
    let objective = &train.objective;
    let learned = objective.learned.as_ref().expect("it is learned");
    assert_eq!((learned.hold, learned.discount, learned.learning_rate), (10, 0.9, 0.1));
    assert!(objective.outputs().contains(&learned.gain));
    assert_eq!(objective.recorded(), ["solution"]);
    // `loss` is that of the step after which the gain is read; the carried number is that of the step
    // before.
    let operation = |node| objective.graph.node(node).operation.clone();
    let Operation::Apply { function: Function::Add, operands } = operation(learned.gain) else { panic!() };
    let fall = operands.iter().find_map(|of| match operation(*of) {
        Operation::Apply { function: Function::Subtract, operands } => Some(operands),
        _ => None,
    });
    let [before, now] = fall.expect("the loss falls")[..] else { panic!() };
    assert_eq!(now, objective.loss);
    assert!(objective.graph.carried(&objective.outputs()).contains(&(before, objective.loss)));
    assert!(!objective.signals().contains(&plan::Signal::Plain(plan::PlainSignal::Loss)));
    // The rest of the objective is unchanged.
    let (usual, plain) = student_with(number(0.5));
    assert!(usual.objective.learned.is_none() && usual.objective.recorded().is_empty());
    // A forward pass over a text for each prompt of a step.
    let (flops, plain) = (facts.cost.flops.unwrap(), plain.cost.flops.unwrap());
    let parameters = facts.cost.parameters.unwrap() as f64;
    assert_eq!(flops - plain, 2.0 * parameters * 10.0 * 64.0 * 64.0);
}

#[test]
fn every_setting_of_it_is_meaning() {
    let shares = [
        usual(),
        learned(gain(), 5, 0.9, 0.1),
        learned(gain(), 10, 0.5, 0.1),
        learned(gain(), 10, 0.9, 0.2),
        learned(fall(), 10, 0.9, 0.1),
        learned(apply(Function::Add, [&fall(), &recorded("answer")]), 10, 0.9, 0.1),
        number(0.5),
    ];
    let facts: Vec<plan::StageFacts> = shares.map(|share| student_with(share).1).into();
    for (index, one) in facts.iter().enumerate() {
        assert!(facts[..index].iter().all(|other| other.key != one.key), "{index}");
        assert!(facts[..index].iter().all(|other| other.content_key != one.content_key), "{index}");
        assert_eq!(one.stream, facts[0].stream, "the same prompts and the same draws");
    }
    assert_eq!(student_with(usual()).1.key, facts[0].key);
}

#[test]
fn learned_number_is_refused_elsewhere_than_in_shares() {
    let seen = |share: Formula| move |experiment: &mut Experiment| experiment.teachers[0].sees = first(share);
    assert_eq!(
        refused(|experiment| distilled(experiment).sees = first(usual())),
        supported("a share of a slot that is learned outside of a teacher's template")
    );
    assert_eq!(
        refused(|experiment| distilled(experiment).learning_rate = usual()),
        supported("a learning rate that adapts to the run")
    );
    let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
    let sampling = Sampling { max_tokens: usual(), ..sampling };
    assert_eq!(
        refused(|experiment| distilled(experiment).rollout.source = RolloutSource::Sample(sampling)),
        supported("a `max_tokens` that is learned")
    );
    assert_eq!(
        refused(|experiment| {
            experiment.teachers[0].sees = first(usual());
            experiment.teachers[1].sees = first(learned(gain(), 5, 0.9, 0.1));
        }),
        supported("a second `learned(...)` in one stage")
    );
    // A learned schedule in a weight is not one of the teachers' templates.
    assert_eq!(
        refused(|experiment| {
            distilled(experiment).objective.weight = Some(learned(fall(), 10, 0.9, 0.1));
        }),
        supported("a learned schedule")
    );
    let ladder = Adaptive::Ladder {
        values: vec![0.5, 1.0],
        advance_if: apply(Function::Less, [&fall(), &number(0.0)]),
        every: 1,
    };
    assert_eq!(
        refused(seen(formula(FormulaKind::Adaptive(ladder), Axis::Run, false))),
        supported("a share of a slot that adapts to the run")
    );
}

#[test]
fn refuses_unsupported_gains_of_learned_shares() {
    let paid = |gain: Formula| {
        refused(|experiment| experiment.teachers[0].sees = first(learned(gain, 10, 0.9, 0.1)))
    };
    let elsewhere = supported(
        "a reduction over another rollout (`on`) that is not `mean(student.logp, over: batch, on: data(...))`",
    );
    let data = || RolloutSource::Data { field: "solution".into() };
    assert_eq!(paid(on(data(), Reduction::Sum, Axis::Batch)), elsewhere);
    assert_eq!(paid(on(student(4, 1).0, Reduction::Mean, Axis::Batch)), elsewhere);
    let masked = reduce(Reduction::Mean, &signal(PlainSignal::Masked), Axis::Batch);
    assert_eq!(paid(masked), supported("the signal `masked`"));
    // It can be read only after a step.
    let refused_weight =
        refused(|experiment| distilled(experiment).objective.weight = Some(recorded("solution")));
    assert_eq!(refused_weight, supported("a reduction over another rollout (`on`)"));
}

#[test]
fn learned_share_refuses_unsupported_settings() {
    let seen = |experiment: &mut Experiment| experiment.teachers[0].sees = first(usual());
    let own = refused(|experiment| {
        seen(experiment);
        let source = RolloutSource::Data { field: "answer".into() };
        let data = Some(Rc::new(Rollout::new(source, HERE)));
        let value = live(Live::Part(ModelSignal::Logp));
        distilled(experiment).objective.terms.push(Term { data, ..term("own", value) });
    });
    assert_eq!(
        own,
        supported(
            "a term with its own completions together with a template that has a \
        `learned` share"
        )
    );
    let private = refused(|experiment| {
        seen(experiment);
        let clip = Some(Private { clip: 1.0, epsilon: 3.0, delta: 1e-5 });
        distilled(experiment).options.private = clip;
    });
    let construct = "the optimizer `private_adamw` where what a teacher sees is `learned`";
    assert!(private.contains(&supported(construct)[0]), "{private:?}");
    // No row of recorded turns is the step's prompt.
    let turns = refused(|experiment| {
        seen(experiment);
        let rollout = |source| Rc::new(Rollout::new(source, HERE));
        let history = rollout(RolloutSource::Data { field: "trajectory".into() });
        let of = rollout(student(4, 1).0);
        distilled(experiment).rollout.source = RolloutSource::EachTurn { history, of };
    });
    let construct = "`mean(student.logp, on: data(solution))` of the turns of a recorded trajectory";
    assert_eq!(turns, supported(construct));
}
