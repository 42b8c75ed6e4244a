//! Tables: their columns, and how each is judged.

use super::*;

fn benchmark(name: &str, samples: u32, metrics: Vec<Metric>) -> Benchmark {
    Benchmark {
        name: name.into(),
        prompts: format!("{name}.jsonl"),
        columns: Vec::new(),
        format: Some(PromptFormat::Chat { system: None }),
        reward: Reward::Numeric { field: "answer".into(), tolerance: 0.5 },
        evaluation: Evaluation {
            samples,
            temperature: 0.6,
            max_tokens: 32,
            top_p: Some(0.95),
            top_k: None,
            stop: vec![],
            prompts: None,
        },
        metrics,
        origin: HERE,
    }
}

#[test]
fn a_benchmark_is_a_column_with_its_own_settings() {
    let mut experiment = experiment();
    experiment.benchmarks = vec![
        benchmark("idle", 2, vec![]),
        benchmark("sums", 16, vec![Metric::PassAt(1), Metric::PassAt(16), Metric::Length]),
    ];
    let columns = vec![FieldColumn { field: "prompt".into(), column: "question".into(), pattern: None }];
    experiment.benchmarks[1].columns = columns.clone();
    let table = &mut experiment.comparisons[0];
    (table.benchmarks, table.normalized) = (vec![BenchmarkId(1)], None);
    table.metrics = vec![Metric::PassAt(1), Metric::Length, Metric::Distinct];
    for row in &mut table.rows {
        row.models.push(row.models[0]);
    }
    let plan = compiled(&experiment);
    let sums = &plan.experiment.domains[3];
    assert_eq!((sums.name.as_str(), sums.share), ("sums", 0.0));
    assert_eq!(sums.tests, Some(plan::DataSource { columns, ..plan::DataSource::file("sums.jsonl") }));
    assert_eq!(sums.format, PromptFormat::Chat { system: None });
    let table = &plan.experiment.comparisons[0];
    let [add, sort, last] = &table.columns[..] else { panic!("three columns") };
    assert_eq!([add.domain, sort.domain, last.domain], [DomainId(0), DomainId(1), DomainId(3)]);
    // If rewards are verdicts, pass@1 is the score itself.
    let (length, distinct) = (plan::Metric::Length, plan::Metric::Distinct);
    assert_eq!(add.metrics, [length, distinct]);
    assert_eq!((&sort.metrics, &sort.evaluation), (&add.metrics, &add.evaluation));
    assert_eq!(last.metrics, [plan::Metric::PassAt { k: 16 }, length, distinct]);
    assert_eq!(table.metrics(), [length, distinct, plan::Metric::PassAt { k: 16 }]);
    let sampling = &last.evaluation.sampling;
    assert_eq!((sampling.n, sampling.drawn_at(), sampling.top_p), (16, 0.6, Some(0.95)));
    assert_eq!((add.evaluation.sampling.n, add.evaluation.sampling.top_p), (8, None));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

/// A program may return any number from 0 to 1, so its mean is not the share of right answers.
#[test]
fn pass_at_1_stands_beside_a_reward_that_is_no_verdict() {
    let mut experiment = experiment();
    let command = Reward::Command {
        command: "judge".into(),
        time_limit_seconds: 1.0,
        batch: 1,
        depends: vec![],
        range: Default::default(),
    };
    experiment.domains[1].reward = command;
    experiment.comparisons[0].metrics = vec![Metric::PassAt(1)];
    let plan = compiled(&experiment);
    let [add, sort] = &plan.experiment.comparisons[0].columns[..] else { panic!("two columns") };
    assert_eq!((&add.metrics[..], &sort.metrics[..]), (&[][..], &[plan::Metric::PassAt { k: 1 }][..]));
}

/// The checker has compared the budgets, so there is nothing to execute.
#[test]
fn an_equal_budget_changes_nothing() {
    let plain = compiled(&experiment());
    for unit in [BudgetUnit::Steps, BudgetUnit::Sequences] {
        let mut even = experiment();
        even.comparisons[0].budget = Some(Budget { unit, teachers_charged: false });
        assert_eq!(compiled(&even), plain);
    }
}

#[test]
fn columns_and_metrics_are_meaning() {
    let hash = |change: &dyn Fn(&mut Comparison)| {
        let mut experiment = experiment();
        experiment.benchmarks = vec![benchmark("sums", 16, vec![])];
        let table = &mut experiment.comparisons[0];
        (table.benchmarks, table.normalized) = (vec![BenchmarkId(0)], None);
        for row in &mut table.rows {
            row.models.push(row.models[0]);
        }
        change(table);
        let plan = compiled(&experiment);
        (plan.hash, plan.stages.iter().map(|stage| stage.key.clone()).collect::<Vec<_>>())
    };
    let (before, stages) = hash(&|_| ());
    let narrower = |table: &mut Comparison| {
        table.benchmarks.clear();
        table.rows.iter_mut().for_each(|row| row.models.truncate(2));
    };
    let changes: [&dyn Fn(&mut Comparison); 3] =
        [&|table| table.metrics = vec![Metric::Length], &|table| table.evaluation.samples = 4, &narrower];
    for change in changes {
        let (after, others) = hash(change);
        assert_ne!(after, before);
        assert_eq!(others, stages, "no stage is made otherwise");
    }
}

/// Calibration comes with the share of answers that it is computed from.
#[test]
fn calibration_is_three_metrics() {
    let mut experiment = experiment();
    experiment.comparisons[0].metrics = vec![Metric::Calibration];
    let plan = compiled(&experiment);
    let metrics = plan.experiment.comparisons[0].metrics();
    assert_eq!(metrics, [plan::Metric::Ece, plan::Metric::Brier, plan::Metric::Stated]);
    assert_eq!(metrics.iter().map(plan::Metric::to_string).collect::<Vec<_>>(), ["ece", "brier", "stated"]);
}
