//! Tests of tables' numbers against values computed by hand and a plain analysis of variance.

use mopd_plan::{
    Architecture, DataSource, Domain, Dtype, Evaluation, Family, GpuArithmetic, Model, Normalized, Origin,
    PromptFormat, Reward, RewardRange, Row, Sampling, Stage, TableColumn, TokenizerSpec,
};

use super::*;
use crate::random::{Key, Purpose, Uniforms};
use crate::report::answers::Answer;

/// Domains `d0`, `d1`, ... and models `m0`, `m1`, ..., none of them trained.
pub(in crate::report) fn experiment(domains: usize, models: usize) -> CompiledExperiment {
    let domain = |index| Domain {
        name: format!("d{index}"),
        prompts: DataSource::file("prompts.jsonl"),
        tests: Some(DataSource::file("tests.jsonl")),
        validation: None,
        format: PromptFormat::Text,
        reward: Reward::ExactMatch { field: "answer".to_owned() },
        share: 1.0 / domains as f64,
        limit: None,
        origin: Origin(0),
    };
    let architecture = Architecture {
        family: Family::Llama,
        layers: 1,
        width: 8,
        heads: 1,
        key_value_heads: 1,
        intermediate_size: 8,
        context: 8,
        tokenizer: TokenizerSpec::Bytes,
        tied: true,
        rope_theta: 1e4,
        norm_epsilon: 1e-5,
        initial_deviation: 0.02,
    };
    let model = |index| Model {
        name: format!("m{index}"),
        stage: Stage::Initialise(architecture.clone()),
        origin: Origin(0),
    };
    CompiledExperiment {
        name: "trial".to_owned(),
        seed: 7,
        out: None,
        device: None,
        dtype: Dtype::Float32,
        gpu: GpuArithmetic::default(),
        domains: (0..domains).map(domain).collect(),
        models: (0..models).map(model).collect(),
        comparisons: Vec::new(),
        marks: Vec::new(),
    }
}

/// Rows with one model per column; the first is 0 and the second is 1.
pub(in crate::report) fn comparison(rows: &[&[u32]], normalized: bool) -> Comparison {
    let row = |(index, models): (usize, &&[u32])| Row {
        label: format!("row {index}"),
        models: models.iter().map(|model| ModelId(*model)).collect(),
    };
    let rows: Vec<_> = rows.iter().enumerate().map(row).collect();
    let evaluation = Evaluation { sampling: Sampling::new(1, 1.0, 4), prompts: None };
    let column = |domain| TableColumn {
        domain: DomainId(domain),
        evaluation: evaluation.clone(),
        metrics: Vec::new(),
    };
    let columns = (0..rows[0].models.len() as u32).map(column).collect();
    let anchors =
        normalized.then(|| Normalized { zero: rows[0].models.clone(), one: rows[1].models.clone() });
    Comparison { name: "all".to_owned(), rows, columns, normalized: anchors, seeds: 1, origin: Origin(0) }
}

impl TableScores {
    /// `samples` rewards for each prompt, prompt after prompt.
    pub(in crate::report) fn insert_rewards(
        &mut self,
        model: ModelId,
        domain: DomainId,
        seed: u64,
        rewards: &[f64],
        samples: usize,
    ) {
        let answer = |reward: &f64| Answer { reward: *reward, text: "", tokens: 1, confidence: None };
        let answers = rewards.chunks(samples).map(|prompt| prompt.iter().map(answer).collect::<Vec<_>>());
        self.insert(
            model,
            domain,
            seed,
            answers.map(|prompt| PromptAnswers::from_answers(&prompt)).collect(),
        );
    }
}

fn key(number: u64) -> Uniforms {
    Key::new(number, 0, Purpose::Sample, 0).row(0, 0)
}

/// 0 and 1 at random, 1 with this probability.
fn coins(probability: f64, count: usize, uniforms: &mut Uniforms) -> Vec<f64> {
    (0..count).map(|_| f64::from(u8::from(uniforms.uniform() < probability))).collect()
}

fn close(found: f64, wanted: f64, tolerance: f64) {
    assert!((found - wanted).abs() <= tolerance, "{found} is not {wanted}");
}

#[test]
fn samples_of_a_prompt_are_averaged_first() {
    let mut scores = TableScores::default();
    scores.insert_rewards(ModelId(0), DomainId(0), 1, &[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5], 4);
    assert_eq!(scores.rewards[&(ModelId(0), DomainId(0), 1)], [0.75, 0.125]);
}

/// The row that scores 1, listed again by another name, has the same interval.
#[test]
fn two_names_of_one_model_have_the_same_interval() {
    let experiment = experiment(1, 3);
    let comparison = comparison(&[&[0], &[1], &[2]], true);
    let mut scores = TableScores::default();
    for (model, rewards) in [(0, [0.0, 0.0, 1.0, 0.0]), (1, [1.0, 0.0, 1.0, 1.0]), (2, [1.0, 0.0, 1.0, 1.0])]
    {
        scores.insert_rewards(ModelId(model), DomainId(0), 7, &rewards, 1);
    }
    let (rows, _) = table_rows(&experiment, &["start", "same", "same"], &comparison, &[7], &scores).unwrap();
    let normalized = |row: usize| rows[row].normalized.clone().expect("a normalized score");
    assert_eq!((normalized(1), normalized(1).low, normalized(1).high), (normalized(2), 1.0, 1.0));
    // Another model with the same rewards may differ on other prompts.
    let (rows, _) = table_rows(&experiment, &["start", "same", "other"], &comparison, &[7], &scores).unwrap();
    assert!(rows[2].normalized.as_ref().is_some_and(|other| other.low < 1.0));
}

#[test]
fn estimates_are_the_formula() {
    let experiment = experiment(2, 4);
    // The expert is a family: m1 on d0, m2 on d1.
    let comparison = comparison(&[&[0, 0], &[1, 2], &[3, 3]], true);
    let mut scores = TableScores::default();
    let mut add = |model, domain, rewards: &[f64]| {
        scores.insert_rewards(ModelId(model), DomainId(domain), 7, rewards, 1)
    };
    add(0, 0, &[0.0, 0.0, 0.0, 1.0]); // 0.25
    add(0, 1, &[0.0, 1.0]); // 0.5
    add(1, 0, &[1.0, 0.0, 1.0, 1.0]); // 0.75
    add(2, 1, &[1.0, 1.0]); // 1
    add(3, 0, &[0.5, 0.0, 0.5, 1.0]); // 0.5
    add(3, 1, &[1.0, 1.0]); // 1
    let (rows, _) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    let labels: Vec<_> = rows.iter().map(|row| row.model.as_str()).collect();
    assert_eq!(labels, ["row 0", "row 1", "row 2"]);
    assert_eq!((rows[1].scores["d0"].mean, rows[1].scores["d1"].mean), (0.75, 1.0));
    assert_eq!((rows[2].scores["d0"].n, rows[2].scores["d1"].n), (4, 2));
    // (0.5 - 0.25) / (0.75 - 0.25) = 0.5 and (1 - 0.5) / (1 - 0.5) = 1.
    assert_eq!(rows[2].normalized.as_ref().unwrap().mean, 0.75);
    assert_eq!(rows[2].normalized_by_seed, [0.75]);
    assert_eq!(rows[2].spread, Some(0.25));
    assert_eq!((rows[0].normalized.as_ref().unwrap().mean, rows[0].spread), (0.0, Some(0.0)));
    assert_eq!((rows[1].normalized.as_ref().unwrap().mean, rows[1].spread), (1.0, Some(0.0)));
}

/// The t quantile of 97.5%, from a printed table.
fn t(freedom: usize) -> f64 {
    [(1, 12.7062), (2, 4.30265), (7, 2.36462), (12, 2.17881)]
        .into_iter()
        .find(|(known, _)| *known == freedom)
        .expect("in the table")
        .1
}

/// The bound of Clopper and Pearson on the share of prompts with another outcome, where this many agree.
fn unseen(prompts: u32) -> f64 {
    1.0 - 0.025_f64.powf(1.0 / f64::from(prompts))
}

/// sum of t V / sqrt(sum of V), for lists whose means add up to the estimate.
fn half_width(lists: &[Vec<f64>]) -> f64 {
    let variance = |list: &Vec<f64>| {
        let center = mean(list);
        list.iter().map(|value| (value - center) * (value - center)).sum::<f64>()
            / (list.len() - 1) as f64
            / list.len() as f64
    };
    let weighted: f64 = lists.iter().map(|list| t(list.len() - 1) * variance(list)).sum();
    weighted / lists.iter().map(variance).sum::<f64>().sqrt()
}

/// A reward whose numbers have no bounds.
fn any_range() -> Reward {
    Reward::Command {
        command: "judge".to_owned(),
        time_limit_seconds: 1.0,
        batch: 1,
        depends: Vec::new(),
        range: RewardRange::Any,
    }
}

/// Computes the variances of seeds and of prompts separately, with plain loops. Without bounds, intervals
/// depend on these variances alone.
#[test]
fn intervals_are_those_of_a_plain_analysis_of_variance() {
    let (seeds, sizes, models) = ([7, 8, 9], [13, 8], 3);
    let mut experiment = experiment(2, models);
    experiment.domains.iter_mut().for_each(|domain| domain.reward = any_range());
    let comparison = comparison(&[&[0, 0], &[1, 1], &[2, 2]], true);
    let mut scores = TableScores::default();
    let mut numbers = key(42);
    let mut rewards = BTreeMap::new();
    for (model, probability) in [0.1, 0.9, 0.7].into_iter().enumerate() {
        for (domain, size) in sizes.into_iter().enumerate() {
            for (place, seed) in seeds.into_iter().enumerate() {
                let values = coins(probability, 4 * size, &mut numbers);
                scores.insert_rewards(ModelId(model as u32), DomainId(domain as u32), seed, &values, 4);
                rewards.insert((model, domain, place), values.chunks(4).map(mean).collect::<Vec<_>>());
            }
        }
    }
    let (rows, warnings) = table_rows(&experiment, &[], &comparison, &seeds, &scores).unwrap();
    assert_eq!(warnings, [] as [&str; 0]);

    let reward =
        |model: usize, domain: usize, seed: usize, prompt: usize| rewards[&(model, domain, seed)][prompt];
    let of_seed = |model, domain, seed| {
        (0..sizes[domain]).map(|p| reward(model, domain, seed, p)).sum::<f64>() / sizes[domain] as f64
    };
    let of_prompt =
        |model, domain, prompt| (0..3).map(|seed| reward(model, domain, seed, prompt)).sum::<f64>() / 3.0;
    let whole = |model, domain| (0..3).map(|seed| of_seed(model, domain, seed)).sum::<f64>() / 3.0;
    assert_eq!(rows.len(), models);
    for (model, row) in rows.iter().enumerate() {
        for (domain, size) in sizes.into_iter().enumerate() {
            let found = &row.scores[&format!("d{domain}")];
            let by_seed: Vec<f64> = (0..3).map(|seed| of_seed(model, domain, seed)).collect();
            let by_prompt = (0..size).map(|prompt| of_prompt(model, domain, prompt)).collect();
            let half = half_width(&[by_seed.clone(), by_prompt]);
            close(found.mean, whole(model, domain), 1e-12);
            close(found.low, found.mean - half, 1e-5);
            close(found.high, found.mean + half, 1e-5);
            assert_eq!(found.by_seed.len(), 3);
            found.by_seed.iter().zip(by_seed).for_each(|(found, wanted)| close(*found, wanted, 1e-12));
        }
        // The effect of every answer: (s - (1 - n) zero - n one) / gain; the score is the mean over domains.
        let gain = |domain| whole(1, domain) - whole(0, domain);
        let n = |domain| (whole(model, domain) - whole(0, domain)) / gain(domain);
        let linear = |domain: usize, of: &dyn Fn(usize) -> f64| {
            (of(model) - (1.0 - n(domain)) * of(0) - n(domain) * of(1)) / gain(domain) / 2.0
        };
        let by_seed =
            (0..3).map(|seed| (0..2).map(|d| linear(d, &|model| of_seed(model, d, seed))).sum()).collect();
        let by_prompt = |d: usize| {
            (0..sizes[d]).map(|prompt| linear(d, &|model| of_prompt(model, d, prompt))).collect::<Vec<f64>>()
        };
        let found = row.normalized.as_ref().unwrap();
        close(found.mean, (n(0) + n(1)) / 2.0, 1e-12);
        if model == 2 {
            let half = half_width(&[by_seed, by_prompt(0), by_prompt(1)]);
            close(found.low, found.mean - half, 1e-5);
            close(found.high, found.mean + half, 1e-5);
        } else {
            // The rows that score 0 and 1 have no interval.
            close(found.high - found.low, 0.0, 1e-12);
        }
    }
    // One normalized score per seed, from that seed's own zero and one.
    for place in 0..3 {
        let of = |domain| {
            let score = |model| of_seed(model, domain, place);
            (score(2) - score(0)) / (score(1) - score(0))
        };
        close(rows[2].normalized_by_seed[place], (of(0) + of(1)) / 2.0, 1e-12);
    }
}

#[test]
fn an_interval_is_as_wide_as_theory_says() {
    let experiment = experiment(1, 1);
    let comparison = comparison(&[&[0]], false);
    let mut scores = TableScores::default();
    let values: Vec<f64> = (0..400).map(|index| f64::from(index % 2)).collect();
    scores.insert_rewards(ModelId(0), DomainId(0), 7, &values, 1);
    let (rows, _) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    let score = &rows[0].scores["d0"];
    // A mean of 400 coins: 1.96 * 0.5 / 20 on either side.
    close(score.low, 0.5 - 0.049, 0.004);
    close(score.high, 0.5 + 0.049, 0.004);
    assert_eq!((&rows[0].normalized, rows[0].spread, rows[0].normalized_by_seed.len()), (&None, None, 0));
}

#[test]
fn rewards_of_any_range_have_intervals_of_any_range() {
    let mut experiment = experiment(1, 1);
    let comparison = comparison(&[&[0]], false);
    let mut scores = TableScores::default();
    let values: Vec<f64> = (0..400).map(|index| f64::from(index % 2) * 4.0 - 12.0).collect();
    scores.insert_rewards(ModelId(0), DomainId(0), 7, &values, 1);
    experiment.domains[0].reward = any_range();
    let (rows, _) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    let score = &rows[0].scores["d0"];
    // A mean of 400 coins of -12 and -8: 1.96 * 2 / 20 on either side.
    close(score.mean, -10.0, 1e-12);
    close(score.low, -10.196, 0.004);
    close(score.high, -9.804, 0.004);
}

#[test]
fn models_are_compared_prompt_by_prompt() {
    let experiment = experiment(1, 4);
    let comparison = comparison(&[&[0], &[1], &[2], &[3]], true);
    let mut scores = TableScores::default();
    let mut numbers = key(5);
    let zero = coins(0.3, 50, &mut numbers);
    let one: Vec<f64> = zero.iter().map(|reward| 0.5 + reward / 2.0).collect();
    let halfway: Vec<f64> = zero.iter().zip(&one).map(|(zero, one)| (zero + one) / 2.0).collect();
    for (model, rewards) in [&zero, &one, &one, &halfway].into_iter().enumerate() {
        scores.insert_rewards(ModelId(model as u32), DomainId(0), 7, rewards, 1);
    }
    let (rows, _) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    // An anchor has no interval. A row with the same rewards, or always half of them, is uncertain only by
    // unseen prompts: by one reward on each that differs, although each score alone is more uncertain.
    let gain = mean(&one) - mean(&zero);
    let other = unseen(50) / gain;
    for (row, wanted, half) in [(0, 0.0, 0.0), (1, 1.0, 0.0), (2, 1.0, other), (3, 0.5, other)] {
        let found = rows[row].normalized.as_ref().unwrap();
        for (value, wanted) in [(found.mean, wanted), (found.low, wanted - half), (found.high, wanted + half)]
        {
            close(value, wanted, 1e-12);
        }
        assert!(rows[row].scores["d0"].high - rows[row].scores["d0"].low > 0.05);
    }
}

/// All prompts agree and the two seeds differ: two numbers say little, and scores are from 0 to 1.
#[test]
fn interval_of_differing_seeds_is_wide() {
    let experiment = experiment(1, 1);
    let comparison = comparison(&[&[0]], false);
    let row = |rewards: [f64; 2]| {
        let mut scores = TableScores::default();
        for (seed, reward) in [7, 8].into_iter().zip(rewards) {
            scores.insert_rewards(ModelId(0), DomainId(0), seed, &[reward; 20], 1);
        }
        let (rows, _) = table_rows(&experiment, &[], &comparison, &[7, 8], &scores).unwrap();
        rows[0].scores["d0"].clone()
    };
    let found = Score { mean: 0.5, low: 0.0, high: 1.0, n: 20, samples: Some(1), by_seed: vec![0.0, 1.0] };
    assert_eq!(row([0.0, 1.0]), found);
    let near = row([0.49, 0.51]);
    close(near.high, 0.5 + t(1) * 0.01 + 0.5 * unseen(20), 1e-6);
    close(near.low, 0.5 - t(1) * 0.01 - 0.5 * unseen(20), 1e-6);
}

#[test]
fn an_expert_that_is_no_better_than_the_start_is_told() {
    let experiment = experiment(2, 2);
    let comparison = comparison(&[&[0, 0], &[1, 1]], true);
    let mut scores = TableScores::default();
    let mut add = |model, domain, rewards: &[f64]| {
        scores.insert_rewards(ModelId(model), DomainId(domain), 7, rewards, 1)
    };
    add(0, 0, &[0.0, 0.0]);
    add(1, 0, &[1.0, 1.0]);
    add(0, 1, &[1.0, 0.0, 1.0]);
    add(1, 1, &[1.0, 1.0, 0.0]);
    let (rows, warnings) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    assert_eq!(
        warnings,
        ["compare \"all\": no normalized score: on `d1` the row that scores 1 has 0.667, which does not \
          exceed the 0.667 of the row that scores 0"]
    );
    for row in &rows {
        assert_eq!((&row.normalized, row.spread, row.normalized_by_seed.len()), (&None, None, 0));
        assert_eq!(row.scores.len(), 2);
    }
}

#[test]
fn a_seed_without_a_scale_is_told() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], true);
    let mut scores = TableScores::default();
    for seed in 7..12 {
        let one = if seed == 9 { 0.0 } else { 1.0 };
        scores.insert_rewards(ModelId(0), DomainId(0), seed, &[0.0; 30], 1);
        scores.insert_rewards(ModelId(1), DomainId(0), seed, &[one; 30], 1);
    }
    let (rows, warnings) = table_rows(&experiment, &[], &comparison, &[7, 8, 9, 10, 11], &scores).unwrap();
    assert_eq!(
        warnings,
        ["compare \"all\": no normalized score per seed, because of seed 9: on `d0` the row that scores 1 \
          has 0.000, which does not exceed the 0.000 of the row that scores 0"]
    );
    assert_eq!(rows[1].normalized.as_ref().unwrap().mean, 1.0);
    assert_eq!(rows[1].normalized_by_seed, [] as [f64; 0]);
}

#[test]
fn lead_within_chance_is_reported() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], true);
    let mut scores = TableScores::default();
    // The experts are better on only one of ten prompts.
    let mut one = [0.0; 10];
    one[3] = 1.0;
    scores.insert_rewards(ModelId(0), DomainId(0), 7, &[0.0; 10], 1);
    scores.insert_rewards(ModelId(1), DomainId(0), 7, &one, 1);
    let (rows, warnings) = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap();
    assert_eq!(
        warnings,
        ["compare \"all\": the intervals of normalized scores are unreliable: on `d0` the row that scores \
          1 exceeds the row that scores 0 by 0.100, which may be random variation"]
    );
    assert_eq!(rows[1].normalized.as_ref().unwrap().mean, 1.0);
}

#[test]
fn a_missing_or_uneven_evaluation_is_an_error() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], false);
    let mut scores = TableScores::default();
    scores.insert_rewards(ModelId(0), DomainId(0), 7, &[0.0, 1.0], 1);
    let error = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap_err();
    assert_eq!(error.to_string(), "`m1` was not evaluated on `d0` with seed 7");
    scores.insert_rewards(ModelId(1), DomainId(0), 7, &[0.0, 1.0, 1.0], 1);
    let error = table_rows(&experiment, &[], &comparison, &[7], &scores).unwrap_err();
    assert_eq!(error.to_string(), "`d0` was evaluated on 3 prompts for one model and 2 for another");
}

/// A metric's mean and interval are computed like the score's; a metric that is not a share may exceed 1.
#[test]
fn metrics_stand_beside_the_score() {
    let experiment = experiment(2, 1);
    let mut comparison = comparison(&[&[0, 0]], false);
    comparison.columns[1].metrics = vec![Metric::PassAt { k: 2 }, Metric::Length];
    let mut scores = TableScores::default();
    for seed in [7, 8] {
        for domain in [0, 1] {
            // Of the first prompt's four samples, two are right with one seed, and one with the other.
            let first = [1.0, if seed == 7 { 1.0 } else { 0.0 }, 0.0, 0.0];
            let answers = [first, [1.0, 0.0, 0.0, 0.0]].map(|rewards| {
                let tokens = |index: usize| 10 + index as u32;
                let of =
                    |(index, reward)| Answer { reward, text: "", tokens: tokens(index), confidence: None };
                PromptAnswers::from_answers(&rewards.into_iter().enumerate().map(of).collect::<Vec<_>>())
            });
            scores.insert(ModelId(0), DomainId(domain), seed, answers.to_vec());
        }
    }
    let (rows, _) = table_rows(&experiment, &[], &comparison, &[7, 8], &scores).unwrap();
    let metrics = &rows[0].metrics;
    assert_eq!(metrics.keys().collect::<Vec<_>>(), ["length", "pass@2"]);
    assert!(metrics.values().all(|of| of.keys().eq(["d1"])), "{metrics:?}");
    // 1 - C(2, 2) / C(4, 2) = 5/6, 1 - C(3, 2) / C(4, 2) = 1/2.
    let (five_sixths, half) = (5.0 / 6.0, 0.5);
    let passed = &metrics["pass@2"]["d1"];
    close(passed.mean, (five_sixths + 3.0 * half) / 4.0, 1e-12);
    close(passed.by_seed[0], (five_sixths + half) / 2.0, 1e-12);
    close(passed.by_seed[1], half, 1e-12);
    assert_eq!(passed.n, 2);
    let length = &metrics["length"]["d1"];
    assert_eq!((length.mean, length.low, length.high), (11.5, 11.5, 11.5));
}
