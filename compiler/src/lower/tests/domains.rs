//! Numbers that differ from domain to domain: their values against f64, their part in keys, what is refused.

use mopd_expr::batch::{Domains, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::Program;
use mopd_expr::testing::Random;

use super::*;

fn is(domain: u32) -> Formula {
    signal(Signal::DomainIs {
        domain: DomainId(domain),
        name: ["add", "sort", "other"][domain as usize].into(),
    })
}

/// `match { domain == add -> first, else -> second }`
fn by_domain(domain: u32, first: f64, second: f64) -> Formula {
    apply(Function::Where, [&is(domain), &number(first), &number(second)])
}

/// `weight * live kl(student || teacher)` of the tokens whose log-probability is above the threshold.
fn weighted(weight: &Formula, threshold: &Formula) -> Objective {
    let divergence = Live::Divergence(divergence(DivergenceKind::Kl, Support::Full));
    Objective {
        select: Some(apply(Function::Greater, [&logp(Role::Teacher), threshold])),
        ..objective(apply(Function::Multiply, [weight, &live(divergence)]), token_mean())
    }
}

fn student(objective: Objective) -> Experiment {
    let mut experiment = experiment();
    experiment.domains.push(Domain { name: "other".into(), ..experiment.domains[1].clone() });
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.objective = objective;
    experiment
}

fn objective_of(plan: &Plan) -> &plan::Objective {
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it is trained") };
    &train.objective
}

#[test]
fn each_domain_has_its_own_coefficient_and_threshold() {
    let plan = compiled(&student(weighted(&by_domain(1, 0.5, 0.1), &by_domain(0, -1.0, -2.0))));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    let objective = objective_of(&plan);
    let mut trained = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut layout: Layout = random.layout();
        (layout.turns, layout.blocks) = (None, None);
        let of_group: Vec<u32> = (0..layout.groups).map(|_| random.below(2) as u32).collect();
        layout.domains = Some(Domains { of_group: of_group.clone(), count: 2 });
        let mut batch = random.batch(layout, 1, |random| random.number().abs() + 0.125);
        let (_, teacher) = &mut batch.signals[0];
        teacher.iter_mut().for_each(|logp| *logp = -*logp);
        let (teacher, divergence) = (&batch.signals[0].1, &batch.live[0]);
        let domain: Vec<u32> = batch
            .layout
            .sequence_of_token
            .iter()
            .map(|sequence| of_group[batch.layout.group_of_sequence[*sequence as usize] as usize])
            .collect();
        let threshold = |token: usize| if domain[token] == 0 { -1.0 } else { -2.0 };
        let counted: Vec<usize> =
            (0..domain.len()).filter(|token| f64::from(teacher[*token]) > threshold(*token)).collect();
        trained += usize::from(!counted.is_empty());
        let factor = |token: usize| {
            let own = if domain[token] == 1 { 0.5 } else { 0.1 };
            if counted.contains(&token) { own / counted.len() as f64 } else { 0.0 }
        };
        let loss: f64 = (0..domain.len()).map(|token| factor(token) * f64::from(divergence[token])).sum();

        let outputs = objective.outputs();
        let reference = interpret(&objective.graph, &outputs, &batch).expect("the batch has everything");
        let program = Program::compile(&objective.graph, &outputs).expect("compiles");
        let program = program.run(&batch).expect("the batch has everything");
        let same = |node, index: usize, expected: f64| {
            let (reference, compiled) = (reference.get(node)[index], f64::from(program.get(node)[index]));
            assert!((reference - expected).abs() < 1e-10, "{seed}: {reference} is not {expected}");
            assert!((compiled - expected).abs() < 1e-5, "{seed}: {compiled} is not {expected}");
        };
        same(objective.loss, 0, loss);
        (0..domain.len()).for_each(|token| same(objective.live[0].adjoint, token, factor(token)));
    }
    assert!(trained > 150, "{trained} batches have something selected");
}

/// A domain is known by its place among those that the stage trains on, so its name has no meaning.
#[test]
fn keys_have_what_is_said_of_the_domains_of_the_stage() {
    let everywhere = number(-2.0);
    let of = |weight: &Formula, change: &dyn Fn(&mut Experiment)| {
        let mut experiment = student(weighted(weight, &everywhere));
        change(&mut experiment);
        compiled(&experiment).stages[4].key.clone()
    };
    let key = |weight: &Formula| of(weight, &|_| {});
    let alone = |weight: &Formula| {
        of(weight, &|experiment| {
            let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("it is trained") };
            train.mixture = vec![Share { domain: DomainId(1), share: 1.0 }];
            train.teachers.retain(|choice| choice.domain == DomainId(1));
        })
    };
    let weight = by_domain(1, 0.5, 0.1);
    let keys = [
        key(&weight),
        key(&by_domain(1, 0.5, 0.2)),
        key(&by_domain(0, 0.5, 0.1)),
        key(&number(0.5)),
        key(&number(0.1)),
    ];
    for (index, one) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(one), "{index}");
    }
    assert_eq!(of(&weight, &|experiment| experiment.domains[1].name = "renamed".into()), keys[0]);
    assert_ne!(alone(&weight), alone(&by_domain(1, 0.25, 0.1)));

    let plain = compiled(&student(weighted(&number(0.5), &everywhere)));
    assert!(!serde_json::to_string(&plain).unwrap().contains("domain_place"));
    let plan = compiled(&student(weighted(&weight, &everywhere)));
    assert!(serde_json::to_string(&plan).unwrap().contains("domain_place"));
    let said = &objective_of(&plan).normal_form.terms;
    assert!(said.starts_with("where(domain == sort, 0.5, 0.1) * live kl("), "{said}");
}
