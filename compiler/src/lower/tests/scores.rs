//! Scores read from a scalar head, and its losses, compared with formulas written out by hand.

use mopd_experiment::formula::NamedSpan;
use mopd_expr::interpret::interpret;

use super::objectives::{CHOSEN, SEQUENCE, batch, dpo, lowered};
use super::*;

/// The head's value before each token.
const VALUE: [f32; 8] = [0.5, -1.0, 2.0, 0.25, 1.0, -0.75, 3.0, -2.0];
/// The spans: closed in the first and third sequence, absent in the second, open to the end in the last.
const INSIDE: [f32; 8] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0];
/// The token at which each span's score is read.
const ENDS: [f32; 8] = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0];

/// The loss, and d loss / d value per token.
fn run(objective: &Objective) -> (f64, Vec<f64>) {
    let objective = lowered(objective);
    let [live] = objective.live.as_slice() else { panic!("one primitive") };
    assert_eq!(live.primitive, plan::Live::Value);
    let mut batch = batch();
    batch.live = vec![VALUE.to_vec()];
    batch.signals.push((
        plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Value },
        VALUE.to_vec(),
    ));
    batch.signals.push((plan::Signal::InSpan { tag: "think".into() }, INSIDE.to_vec()));
    let values = interpret(&objective.graph, &objective.outputs(), &batch).unwrap();
    (values.get(objective.loss)[0], values.get(live.adjoint).to_vec())
}

fn near(got: (f64, Vec<f64>), loss: f64, gradient: [f64; 8]) {
    assert!((got.0 - loss).abs() < 1e-12, "{} {loss}", got.0);
    for (got, expected) in got.1.iter().zip(gradient) {
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    }
}

fn bradley_terry(on: Option<NamedSpan>) -> Objective {
    let mut objective = dpo(1.0);
    let FormulaKind::Live(Live::Preference(preference)) = &objective.terms[0].value.0.kind else {
        unreachable!()
    };
    let pair = Preference { kind: PreferenceKind::BradleyTerry, on, ..Preference::clone(preference) };
    objective.terms[0].value = formula(FormulaKind::Live(Live::Preference(pair.into())), Axis::Group, true);
    objective
}

/// -log sigmoid(score of the chosen - score of the rejected), of whole completions and of a span
/// (arXiv:2203.02155, eq. 1).
#[test]
fn bradley_terry_compares_scores() {
    let last = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0];
    for (on, here) in [(None, last), (Some(NamedSpan::Tag("think".into())), ENDS)] {
        let mut margins = [0.0; 2];
        let sign = |token: usize| if CHOSEN[SEQUENCE[token]] == 1.0 { 1.0 } else { -1.0 };
        for token in 0..8 {
            margins[SEQUENCE[token] / 2] += sign(token) * f64::from(here[token] * VALUE[token]);
        }
        let loss = margins.iter().map(|margin| (-margin).exp().ln_1p() / 2.0).sum();
        let gradient = std::array::from_fn(|token| {
            let margin: f64 = margins[SEQUENCE[token] / 2];
            -sign(token) * f64::from(here[token]) / (1.0 + margin.exp()) / 2.0
        });
        near(run(&bradley_terry(on)), loss, gradient);
    }
}

/// Token by token for a critic, at the end of the completion for a judge.
#[test]
fn squared_errors_read_their_scalar_heads() {
    let reward = [1.0, 0.0, 0.25, 0.75];
    let error = |part: ModelSignal| {
        let target = signal(PlainSignal::Reward);
        live(Live::SquaredError { part, target, dimensions: None })
    };
    let of_tokens = objective(error(ModelSignal::Value), by_steps(vec![step(Axis::Token, Axis::Batch)]));
    let off = |token: usize| f64::from(VALUE[token]) - reward[SEQUENCE[token]];
    let loss = (0..8).map(|token| off(token).powi(2) / 8.0).sum();
    near(run(&of_tokens), loss, std::array::from_fn(|token| 2.0 * off(token) / 8.0));

    let at_end = objective(error(ModelSignal::Score), by_steps(vec![step(Axis::Sequence, Axis::Batch)]));
    let last = [2, 3, 5, 7];
    let loss = last.iter().map(|token| off(*token).powi(2) / 4.0).sum();
    let gradient = |token: usize| if last.contains(&token) { 2.0 * off(token) / 4.0 } else { 0.0 };
    near(run(&at_end), loss, std::array::from_fn(gradient));
}

/// The number of a head that is read and not trained is an ordinary signal.
#[test]
fn scores_weigh_other_terms() {
    let read = |of: Signal| {
        let weighed = apply(Function::Multiply, [&signal(of), &live(Live::Part(ModelSignal::Logp))]);
        let lowered = lowered(&objective(weighed, by_steps(vec![step(Axis::Token, Axis::Batch)])));
        let mut batch = batch();
        batch.signals.push((
            plan::Signal::Of { role: plan::Role::TEACHER, part: plan::ModelSignal::Value },
            VALUE.to_vec(),
        ));
        batch.signals.push((plan::Signal::InSpan { tag: "think".into() }, INSIDE.to_vec()));
        assert!(lowered.reads(plan::Role::TEACHER));
        let values = interpret(&lowered.graph, &[lowered.live[0].adjoint], &batch).unwrap();
        let adjoint = values.get(lowered.live[0].adjoint).to_vec();
        adjoint.iter().map(|value| value * 8.0).collect::<Vec<f64>>()
    };
    let of = |part| Signal::Of { role: Role::Teacher, part };
    assert_eq!(read(of(ModelSignal::Value)), VALUE.map(f64::from));
    assert_eq!(read(of(ModelSignal::Score)), [2.0, 2.0, 2.0, 0.25, -0.75, -0.75, -2.0, -2.0]);
    let span = NamedSpan::Tag("think".into());
    let on_span = Signal::SpanScore { role: Role::Teacher, span };
    assert_eq!(read(on_span), [-1.0, -1.0, -1.0, 0.0, -0.75, -0.75, -2.0, -2.0]);
}
