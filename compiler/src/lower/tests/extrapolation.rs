//! Extrapolation of weights: its part, and that of its benchmark, in a plan, in keys and in costs, and
//! refusals.

use mopd_lang::diag::Code;

use super::*;

fn benchmark(name: &str, prompts: &str) -> Benchmark {
    Benchmark {
        name: name.into(),
        prompts: prompts.into(),
        columns: Vec::new(),
        format: None,
        reward: Reward::ExactMatch { field: "answer".into() },
        evaluation: Evaluation {
            samples: 1,
            temperature: 0.0,
            max_tokens: 16,
            top_p: None,
            top_k: None,
            stop: vec![],
            prompts: None,
        },
        metrics: vec![Metric::PassAt(1)],
        origin: HERE,
    }
}

/// The student's stage.
fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

/// A student whose extrapolation is judged by the second benchmark.
fn extrapolating(change: impl FnOnce(&mut Experiment)) -> Experiment {
    let mut experiment = experiment();
    experiment.benchmarks = vec![benchmark("idle", "idle.jsonl"), benchmark("quick", "quick.jsonl")];
    distilled(&mut experiment).extrapolation = Some(Extrapolation {
        factor: 2.0,
        rounds: 5,
        powers_of: 2,
        judged_by: BenchmarkId(1),
        weights: vec![WeightGroup::Attention],
        origin: HERE,
    });
    change(&mut experiment);
    experiment
}

fn only_judges(experiment: &mut Experiment) {
    experiment.benchmarks.remove(0);
    distilled(experiment).extrapolation.as_mut().unwrap().judged_by = BenchmarkId(0);
}

fn refusals(change: impl FnOnce(&mut Experiment)) -> Vec<String> {
    let experiment = extrapolating(|experiment| {
        only_judges(experiment);
        change(experiment);
    });
    let (sources, origins) = sources();
    let found =
        super::super::compile(&experiment, &origins, &sources, true).expect_err("it can't be executed");
    assert!(found.iter().all(|diagnostic| diagnostic.code == Code::NotSupported), "{found:?}");
    found.into_iter().map(|diagnostic| diagnostic.message).collect()
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

#[test]
fn a_benchmark_that_judges_is_a_domain_that_no_stage_is_trained_on() {
    let plan = compiled(&extrapolating(only_judges));
    let plain = compiled(&experiment());
    assert_eq!(plan.experiment.domains[..2], plain.experiment.domains);
    let [judge] = &plan.experiment.domains[2..] else { panic!("one benchmark judges") };
    assert_eq!((judge.name.as_str(), judge.share), ("quick", 0.0));
    assert_eq!(judge.tests, Some(plan::DataSource::file("quick.jsonl")));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    let found = train.extrapolation.as_ref().unwrap();
    assert_eq!((found.factor, found.rounds, found.powers_of), (2.0, 5, 2));
    assert_eq!((found.judged_by, found.weights.as_slice()), (DomainId(2), &[WeightGroup::Attention][..]));
    let sampling = &found.evaluation.sampling;
    assert_eq!((sampling.n, sampling.drawn_at(), sampling.max_tokens), (1, 0.0, 16));
    // In ten steps, after steps 1, 2, 4 and 8.
    assert_eq!(found.evaluations(10), 24);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    // The cost beside training is unknown: only the benchmark's file has its number of prompts.
    let (cost, before) = (plan.stages[4].cost, plain.stages[4].cost);
    assert_eq!(cost.memory.unwrap(), before.memory.unwrap() + 8 * before.parameters.unwrap());
    assert_eq!((cost.flops, cost.sequences), (None, before.sequences));
    assert!(before.flops.is_some());
}

#[test]
fn every_setting_of_it_and_of_its_benchmark_is_meaning() {
    let of = |plan: Plan| {
        let [.., expert, student, _] = &plan.stages[..] else { panic!("six stages") };
        (student.key.clone(), student.content_key.clone(), student.stream, expert.key.clone())
    };
    let keys = |change: fn(&mut Experiment)| {
        of(compiled(&extrapolating(|experiment| {
            only_judges(experiment);
            change(experiment);
        })))
    };
    fn found(experiment: &mut Experiment) -> &mut Extrapolation {
        distilled(experiment).extrapolation.as_mut().unwrap()
    }
    let changes: [fn(&mut Experiment); 9] = [
        |_| (),
        |experiment| found(experiment).factor = 1.5,
        |experiment| found(experiment).rounds = 4,
        |experiment| found(experiment).powers_of = 3,
        |experiment| found(experiment).weights.clear(),
        |experiment| experiment.benchmarks[0].evaluation.max_tokens = 8,
        |experiment| experiment.benchmarks[0].evaluation.temperature = 0.5,
        |experiment| experiment.benchmarks[0].evaluation.samples = 2,
        |experiment| {
            experiment.benchmarks[0].reward = Reward::Numeric { field: "answer".into(), tolerance: 0.5 };
        },
    ];
    let all: Vec<_> = changes.into_iter().map(keys).chain([of(compiled(&experiment()))]).collect();
    for (index, (key, content_key, stream, other)) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|(known, ..)| known != key), "{index}");
        assert!(all[..index].iter().all(|(_, known, ..)| known != content_key), "{index}");
        assert_eq!((*stream, other), (all[0].2, &all[0].3), "the same draws; and no other stage's concern");
    }
    // Names and the path of the benchmark's file do not enter keys.
    let renamed = keys(|experiment| experiment.benchmarks[0].name = "slow".into());
    assert_eq!(renamed, all[0]);
    let moved = keys(|experiment| experiment.benchmarks[0].prompts = "elsewhere/quick.jsonl".into());
    assert_eq!((&moved.1, moved.0 == all[0].0), (&all[0].1, false));
}

#[test]
fn extrapolation_refuses_unsupported_settings() {
    let stage = |change: &dyn Fn(&mut Train)| refusals(|experiment| change(distilled(experiment)));
    let private = Some(Private { clip: 1.0, epsilon: 3.0, delta: 1e-5 });
    let found = stage(&|train| train.options.private = private);
    assert!(found.contains(&supported("`extrapolate` with the optimizer `private_adamw`")[0]), "{found:?}");
    assert_eq!(stage(&|train| train.options.ema = Some(0.9)), supported("`extrapolate` with `ema`"));
    let adapter = Adapter {
        kind: AdapterKind::Lora,
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        targets: Projection::ATTENTION.to_vec(),
        layers: None,
    };
    assert_eq!(
        stage(&|train| train.trainable = Trainable::Adapter(adapter.clone())),
        supported("`extrapolate` of a stage that trains an adapter")
    );
    assert_eq!(
        refusals(|experiment| experiment.domains[1].format = Some(PromptFormat::Chat { system: None })),
        supported(
            "`extrapolate` by a benchmark, whose prompts are plain text, of a model that reads conversations"
        )
    );
    assert_eq!(
        refusals(|experiment| experiment.benchmarks[0].metrics = vec![Metric::PassAt(1), Metric::Length]),
        supported(
            "the metric `length` of the benchmark `quick`, which is only used to judge a stage by \
            its mean reward,"
        )
    );
}
