use super::*;
use crate::checked::Origin;
use crate::checked::formula::{Deviation, PlainSignal};

fn part(kind: FormulaKind, axis: Axis) -> Formula {
    Formula::new(kind, Unit::Number, axis, false, Origin(0))
}

fn signal(signal: impl Into<Signal>) -> Formula {
    Formula::signal(signal, Origin(0))
}

fn apply(function: Function, operands: &[&Formula]) -> Formula {
    let axis = operands.iter().map(|operand| operand.axis()).max().expect("functions have operands");
    part(FormulaKind::Apply { function, operands: operands.iter().copied().cloned().collect() }, axis)
}

#[test]
fn brackets_stand_where_they_are_needed() {
    let (a, b) = (signal(PlainSignal::Reward), signal(PlainSignal::Length));
    let two = part(FormulaKind::Number(2.0), Axis::Run);
    let minus_two = part(FormulaKind::Number(-2.0), Axis::Run);
    let sum = apply(Function::Add, &[&a, &b]);
    let difference = apply(Function::Subtract, &[&a, &b]);
    let product = apply(Function::Multiply, &[&a, &b]);
    let less = apply(Function::Less, &[&a, &b]);
    let power = apply(Function::Power, &[&difference, &two]);
    for (function, operands, expected) in [
        (Function::Multiply, vec![&sum, &two], "(reward + length) * 2"),
        (Function::Add, vec![&product, &two], "reward * length + 2"),
        (Function::Subtract, vec![&a, &difference], "reward - (reward - length)"),
        (Function::Subtract, vec![&difference, &a], "reward - length - reward"),
        (Function::Negate, vec![&sum], "-(reward + length)"),
        (Function::Negate, vec![&power], "-(reward - length)^2"),
        (Function::Power, vec![&power, &two], "((reward - length)^2)^2"),
        (Function::Power, vec![&minus_two, &two], "(-2)^2"),
        (Function::Multiply, vec![&minus_two, &sum], "-2 * (reward + length)"),
        (Function::Where, vec![&less, &sum, &two], "where(reward < length, reward + length, 2)"),
        (Function::Not, vec![&less], "not reward < length"),
        (Function::And, vec![&less, &less], "reward < length and reward < length"),
    ] {
        assert_eq!(formula(&apply(function, &operands), 100), expected);
    }
    let mean = part(
        FormulaKind::Reduce {
            reduction: Reduction::Mean,
            operand: sum,
            among: None,
            on: None,
            fraction: None,
        },
        Axis::Group,
    );
    assert_eq!(formula(&mean, 100), "mean(reward + length, over: group)");
    assert_eq!(formula(&mean, 8), "mean(reward + ...");
}

#[test]
fn statistics_read_as_they_are_written() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let of = |statistic| {
        formula(
            &part(
                FormulaKind::Statistic {
                    statistic,
                    operand: entropy.clone(),
                    over: Axis::Batch,
                    among: None,
                    fraction: None,
                },
                Axis::Token,
            ),
            100,
        )
    };
    assert_eq!(
        of(Statistic::TopFraction { keep: 0.5 }),
        "top_fraction(student.entropy, keep: 0.5, over: batch)"
    );
    assert_eq!(of(Statistic::Winsor { upper: 0.98 }), "winsor(student.entropy, upper: 0.98, over: batch)");
    let deviation = Deviation::Sample;
    assert_eq!(
        of(Statistic::Zscore { deviation, epsilon: ZSCORE_EPSILON }),
        "zscore(student.entropy, over: batch, deviation: sample)"
    );
    assert_eq!(
        of(Statistic::Zscore { deviation, epsilon: 1e-6 }),
        "zscore(student.entropy, over: batch, deviation: sample, epsilon: 1e-6)"
    );
}

#[test]
fn a_ratio_is_a_word() {
    let of = |top: FormulaKind| {
        let top = part(top, Axis::Token);
        let old = signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp });
        formula(&apply(Function::Exp, &[&apply(Function::Subtract, &[&top, &old])]), 100)
    };
    assert_eq!(of(FormulaKind::Live(Live::Part(ModelSignal::Logp))), "live ratio");
    assert_eq!(of(FormulaKind::Signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp })), "ratio");
    assert_eq!(
        of(FormulaKind::Signal(Signal::Of { role: Role::Teacher, part: ModelSignal::Logp })),
        "exp(teacher.logp - old.logp)"
    );
}

#[test]
fn numbers_are_short_at_every_size() {
    assert_eq!(
        [0.5, -5.0, 3e-6, 1e300, 0.0, 1_000_000.0].map(number),
        ["0.5", "-5", "3e-6", "1e300", "0", "1000000"]
    );
}

/// Sharing makes few parts stand for very many paths: both the text and the time must be limited.
#[test]
fn a_formula_of_many_paths_is_cut() {
    let mut shared = signal(PlainSignal::Reward);
    for _ in 0..200 {
        shared = apply(Function::Add, &[&shared, &shared]);
    }
    let text = formula(&shared, 60);
    assert!(
        text.starts_with("reward + reward + (reward") && text.ends_with("...") && text.len() < 100,
        "{text}"
    );
    for _ in 0..20_000 {
        shared = apply(Function::Tanh, &[&shared]);
    }
    assert!(formula(&shared, 1000).ends_with("tanh(..."));
}

/// All completions of a prompt have its row, so the largest of their numbers is the row's; their sum is not.
#[test]
fn a_number_of_the_row_is_written_without_its_reduction() {
    let level = signal(Signal::Data { field: "level".to_owned() });
    let reduced = |reduction| {
        let operand = level.clone();
        let kind = FormulaKind::Reduce { reduction, operand, among: None, on: None, fraction: None };
        formula(&part(kind, Axis::Group), 100)
    };
    assert_eq!(reduced(Reduction::Maximum), "data.level");
    assert_eq!(reduced(Reduction::Sum), "sum(data.level, over: group)");
}
