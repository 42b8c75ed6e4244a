//! Several scorers in one objective, each by its place in the stage's list.

use mopd_compiler::plan::{Distribution, Divergence, DivergenceKind, Live, Parameter, Scorer};

use super::super::objective::objectives::objective;
use super::*;

/// KL from the student to a blend of two teachers that the objective names, loss and gradient against double
/// precision. Neither is routed; in the second domain they change places.
#[test]
fn two_teachers_by_name_are_scored_in_one_objective() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let shares = [0.3, 0.7];
    let parts = [0, 1].map(|place| (Parameter::Number(shares[place]), Role::named(place)));
    let divergence = Divergence {
        right: Distribution::Blend(parts.into()),
        ..Divergence::between(DivergenceKind::Kl, Role::Student, Role::TEACHER, Support::Full, Mass::Raw)
    };
    let two = objective("two", Live::Divergence(divergence), |_, divergence| (divergence, None));
    let scorer = |name: &str| Scorer { name: name.to_owned(), choices: Vec::new() };
    let scorers = Scorers::new(Vec::new(), [], vec![scorer("one"), scorer("other")]);
    let train = Train { scorers, ..train(two, 1) };
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    let places = [[1, 2], [2, 1]];
    for (source, places) in stage.sources.iter_mut().zip(places) {
        let named = places.map(|model| Some(Teacher::Model(ModelId(model))));
        source.scorers = [None].into_iter().chain(named).collect();
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, one, other] = [0, 1, 2].map(|model| Reference::new(&weights[model]));
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let of = |model: &Reference| model.logps(sequence.prompt(&stage), &sequence.completion);
        let teachers = if sequence.source == 0 { [&one, &other] } else { [&other, &one] };
        let [first, second] = teachers.map(|teacher| of(teacher).detach().exp());
        let logps = of(&student);
        let blend = first * shares[0] + second * shares[1];
        let each = logps.exp() * (&logps - blend.log());
        each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
    });
    let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
    assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
    let apart = apart(&gradient, &student.gradient(&expected));
    assert!(apart < 1e-4, "{apart:e}");
}
