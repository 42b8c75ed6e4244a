//! Several scorers in one objective.

use mopd_expr::graph::Graph;
use mopd_plan::{
    Axis, Composition, Distribution, Divergence, DivergenceKind, DivergenceParameter, DomainId, Formula,
    Function, Live, Member, Pool, Scorer, TeacherChoice,
};

use super::super::objective::objectives::objective;
use super::*;

/// KL from the student to a blend of two teachers by name: loss and gradient against double precision.
/// Neither is routed; in the second domain they are exchanged.
#[test]
fn two_teachers_by_name_are_scored_in_one_objective() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let shares = [0.3, 0.7];
    let parts = [0, 1].map(|place| (DivergenceParameter::Number(shares[place]), Role::named(place)));
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
        let named = places.map(|model| Some(choice(Teacher::Model(ModelId(model)))));
        source.scorers = [None].into_iter().chain(named).collect();
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, one, other] = [0, 1, 2].map(|model| Reference::new(&weights[model]));
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let of = |model: &Reference| model.logps(sequence.prompt(&stage.sources), &sequence.completion);
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

/// A composed teacher: in the first domain `one + w * (one - other)`, where w depends on the divergence of
/// the two at the token; in the second a mixture of them. Loss and gradient against double precision. The
/// weights are signals that the step computes on the way.
#[test]
fn a_composed_teacher_is_made_of_scored_ones() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let apart_at =
        |role| Divergence::between(DivergenceKind::Kl, role, Role::named(1), Support::Full, Mass::Raw);
    let factor = |more: f64, times: f64| {
        let mut graph = Graph::default();
        let apart = graph.signal(Signal::Divergence(apart_at(Role::named(0))));
        let [more, times] = [more, times].map(|number| graph.constant(Axis::Run, number));
        let value = graph.apply(Function::Multiply, &[times, apart]);
        let value = graph.apply(Function::Add, &[more, value]);
        DivergenceParameter::Formula(Box::new(Formula { graph, value }))
    };
    let member = |weight, place| Member { weight, role: Role::named(place) };
    let extrapolated = Composition {
        pool: Pool::Logits,
        members: vec![member(factor(1.0, 4.0), 0), member(factor(0.0, -4.0), 1)],
    };
    let share = |share: f64| DivergenceParameter::Number(share);
    let mixture =
        Composition { pool: Pool::Mixture, members: vec![member(share(0.25), 0), member(share(0.75), 1)] };
    let to_teacher =
        Divergence::between(DivergenceKind::Kl, Role::Student, Role::TEACHER, Support::Full, Mass::Raw);
    let composed = objective("composed", Live::Divergence(to_teacher), |_, divergence| (divergence, None));
    for passes in [1, 2] {
        let scorer = |name: &str| Scorer { name: name.to_owned(), choices: Vec::new() };
        let choice = |domain: u32, teacher: &Composition| TeacherChoice {
            domain: DomainId(domain),
            when: None,
            name: "composed".to_owned(),
            teacher: Teacher::Composed(teacher.clone()),
            sees: None,
            own_tokens: false,
        };
        let routed = vec![choice(0, &extrapolated), choice(1, &mixture)];
        let scorers = Scorers::new(routed, [], vec![scorer("one"), scorer("other")]);
        let train = Train { scorers, ..train(composed.clone(), passes) };
        let teachers = [&extrapolated, &mixture].map(|teacher| Teacher::Composed(teacher.clone()));
        let mut stage = fixture.stage(&train, teachers, &weights);
        for source in stage.sources.iter_mut() {
            let named = [1, 2].map(|model| Some(super::choice(Teacher::Model(ModelId(model)))));
            source.scorers = [None].into_iter().chain(named).collect();
        }
        let [student, one, other] = [0, 1, 2].map(|model| Reference::new(&weights[model]));
        for micro_batch in [None, Some(2)] {
            stage.micro_batch = micro_batch;
            let (loss, gradient, rollouts) = first_step(&stage);
            let losses = rollouts.sequences.list.iter().map(|sequence| {
                let of =
                    |model: &Reference| model.logps(sequence.prompt(&stage.sources), &sequence.completion);
                let (one, other, logps) = (of(&one).detach(), of(&other).detach(), of(&student));
                let target = if sequence.source == 0 {
                    let apart = (one.exp() * (&one - &other)).sum_dim_intlist(-1, true, Kind::Double);
                    (&one + apart * 4.0 * (&one - &other)).log_softmax(-1, Kind::Double)
                } else {
                    (one.exp() * 0.25 + other.exp() * 0.75).log()
                };
                let each = logps.exp() * (&logps - target);
                each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
            });
            let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
            assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
            let apart = apart(&gradient, &student.gradient(&expected));
            assert!(apart < 1e-4, "{apart:e}");
        }
        // Whole steps, with one and two passes over a batch; and models that do not stay in memory.
        let (kept, rows) = trained_to_the_end(&stage);
        assert!(rows.iter().all(|row| row.loss.is_finite()));
        stage.models_fit = Some(false);
        assert_eq!(trained_to_the_end(&stage).0, kept);
    }
}
