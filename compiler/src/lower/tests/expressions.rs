//! Expressions of objectives that this version can't execute.

use mopd_expr::batch::{Batch, Layout, TokenPartition};
use mopd_expr::interpret::interpret;
use mopd_plan::Live as Primitive;

use super::*;
use crate::lower::expressions;

fn objective(select: Formula, weight: Formula) -> Objective {
    let value = live(Live::Part(ModelSignal::Mean));
    let term =
        Term { name: "fit".into(), value, when: None, weight: None, reduce: None, data: None, origin: HERE };
    Objective {
        name: "objective".into(),
        terms: vec![term],
        select: Some(select),
        weight: Some(weight),
        temperature: None,
        reduce: None,
        lets: Vec::new(),
        states: Vec::new(),
        origin: HERE,
    }
}

/// Facts that the runtime takes for granted (that every teacher scores, the vocabulary size) are signals
/// here, and so are blocks.
#[test]
fn expressions_keep_signals_that_the_runtime_lacks() {
    let available = signal(Signal::Available { role: Role::Teacher });
    let size = signal(PlainSignal::VocabularySize);
    let share = reduce(Reduction::Mean, &apply(Function::Divide, [&logp(Role::Student), &size]), Axis::Block);
    let (_, origins) = sources();
    let lowered = expressions(&objective(available, share), &origins).expect("all of it is the language's");
    assert_eq!(lowered.live, [Primitive::Other { text: "live student.mean".into() }]);
    let (select, weight) = (lowered.select.expect("there is one"), lowered.weight.expect("there is one"));
    assert_eq!(lowered.graph.axis(weight), Axis::Block);

    let other = |text: &str, axis| plan::Signal::Other { text: text.into(), axis };
    let layout = Layout {
        sequence_of_token: vec![0, 0, 0, 1],
        group_of_sequence: vec![0, 0],
        groups: 1,
        blocks: Some(TokenPartition { of_token: vec![0, 1, 1, 2], parent: vec![0, 0, 1] }),
        ..Layout::default()
    };
    let signals = vec![
        (other("available(teacher)", Axis::Sequence), vec![1.0, 0.0]),
        (other("vocab_size", Axis::Run), vec![4.0]),
        (
            plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Logp },
            vec![-1.0, -2.0, -4.0, -8.0],
        ),
    ];
    let batch = Batch { layout, signals, live: vec![vec![0.0; 4]], ..Batch::default() };
    let values = interpret(&lowered.graph, &[select, weight], &batch).expect("the batch has everything");
    assert_eq!(values.get(select), [1.0, 1.0, 1.0, 0.0]);
    // `select` narrows no reduction without `among: selected`: the last block has no selected token.
    assert_eq!(values.get(weight), [-0.25, -0.75, -2.0]);
}

/// Names are abbreviated to a readable length. Two primitives with equal abbreviations stay distinct.
#[test]
fn two_primitives_of_one_name_are_two() {
    let target = |rate: f64| {
        let clipped = reduce(
            Reduction::Mean,
            &apply(Function::Multiply, [&number(rate), &logp(Role::Teacher)]),
            Axis::Sequence,
        );
        let among = FormulaKind::Reduce {
            reduction: Reduction::Mean,
            operand: clipped,
            among: Some(signal(PlainSignal::Correct)),
            on: None,
            fraction: None,
        };
        live(Live::SquaredError {
            part: ModelSignal::Mean,
            target: formula(among, Axis::Group, false),
            dimensions: None,
        })
    };
    let (first, second) = (target(0.25), target(0.75));
    let doubled = apply(Function::Add, [&first, &first]);
    let mut objective = objective(signal(PlainSignal::Masked), number(1.0));
    objective.terms[0].value = apply(Function::Add, [&doubled, &second]);
    let (_, origins) = sources();
    let lowered = expressions(&objective, &origins).expect("all of it is the language's");
    let names = ["live mse(student.mean, ...)", "live mse(student.mean, ...) (number 2)"];
    assert_eq!(lowered.live, names.map(|text| Primitive::Other { text: text.into() }));
}
