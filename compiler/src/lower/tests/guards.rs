//! Guards: their part in plans and keys, and numbers that a stage's steps do not have.

use mopd_experiment::Guard;
use mopd_experiment::formula::{StepNumber, StepWindow};
use mopd_plan::{self as plan, GuardAction};

use super::*;

/// `NUMBER > BOUND`
fn above(number: StepNumber, bound: f64) -> Formula {
    let number = signal(Signal::OfSteps { number, window: StepWindow::Now });
    apply(Function::Greater, [&number, &super::number(bound)])
}

fn guard(action: GuardAction, condition: Formula) -> Guard {
    Guard { condition, steps: 2, on: None, action, origin: HERE }
}

/// The experiment with these guards on its student.
fn guarded(guards: Vec<Guard>) -> Experiment {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.guards = guards;
    experiment
}

fn refusal(experiment: &Experiment) -> String {
    let (sources, origins) = sources();
    let diagnostics =
        crate::lower::compile(experiment, &origins, &sources, false).expect_err("it is refused");
    diagnostics.iter().map(|found| format!("{} {:?}\n", found.message, found.help)).collect()
}

/// A warning changes nothing, and a stop leaves no result: their keys are those of a stage without guards.
#[test]
fn only_guards_that_change_results_change_the_key() {
    let key = |guards: Vec<Guard>| {
        let plan = compiled(&guarded(guards));
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<plan::Plan>(&json).unwrap(), plan);
        plan.stages[4].key.clone()
    };
    let plain = key(vec![]);
    let condition = || above(StepNumber::GradientNorm, 10.0);
    assert_eq!(key(vec![guard(GuardAction::Warn, condition())]), plain);
    assert_eq!(key(vec![guard(GuardAction::Stop, condition())]), plain);
    let lower = |by: f64, bound: f64| {
        let condition = above(StepNumber::GradientNorm, bound);
        guard(GuardAction::LowerRate { by }, condition)
    };
    let lowered = key(vec![lower(0.5, 10.0)]);
    assert_ne!(lowered, plain);
    assert_ne!(key(vec![lower(0.25, 10.0)]), lowered);
    assert_ne!(key(vec![lower(0.5, 9.0)]), lowered);
    assert_ne!(key(vec![lower(0.5, 10.0), lower(0.5, 10.0)]), lowered);
    assert_ne!(key(vec![Guard { steps: 3, ..lower(0.5, 10.0) }]), lowered);
    assert_eq!(key(vec![guard(GuardAction::Warn, condition()), lower(0.5, 10.0)]), lowered);
    let on = |domain| Guard {
        on: Some(DomainId(domain)),
        ..guard(GuardAction::LowerRate { by: 0.5 }, above(StepNumber::Entropy, 1.0))
    };
    assert_ne!(key(vec![on(0)]), key(vec![on(1)]));
}

#[test]
fn guard_on_a_missing_number_is_refused_by_name() {
    let said = refusal(&guarded(vec![guard(GuardAction::Warn, above(StepNumber::ValidationLoss, 1.0))]));
    assert!(
        said.contains("the steps of this stage have no `validation_loss`: it has no `validate`"),
        "{said}"
    );
    assert!(said.contains("they have: reward, divergence, entropy, "), "{said}");
    let mut supervised = experiment();
    let Stage::Train(train) = &mut supervised.models[1].stage else { panic!("it is trained") };
    train.guards = vec![guard(GuardAction::Stop, above(StepNumber::Divergence, 1.0))];
    let said = refusal(&supervised);
    assert!(said.contains("no `divergence`: its objective reads no routed teacher"), "{said}");
    let previous = FormulaKind::Memory {
        memory: Memory::Previous,
        operand: signal(Signal::OfSteps { number: StepNumber::Loss, window: StepWindow::Now }),
    };
    let condition = apply(Function::Greater, [&formula(previous, Axis::Run, false), &number(1.0)]);
    let said = refusal(&guarded(vec![guard(GuardAction::Warn, condition)]));
    assert!(said.contains("a guard that does more than compare and compute with numbers of steps"), "{said}");
}
