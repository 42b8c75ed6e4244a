//! What stands in a table, against values worked out by hand and a bootstrap written the plain way.

use mopd_compiler::plan::{
    Architecture, DataSource, Domain, Dtype, Evaluation, Family, Model, Normalized, Origin, PromptFormat, Reward, Row, Sampling,
    Stage, Tokenizer,
};

use super::*;
use crate::random::{Key, Purpose};

/// Domains `d0`, `d1`, ... and models `m0`, `m1`, ..., none of them trained.
pub(in crate::report) fn experiment(domains: usize, models: usize) -> Experiment {
    let domain = |index| Domain {
        name: format!("d{index}"),
        prompts: DataSource::file("prompts.jsonl"),
        tests: Some(DataSource::file("tests.jsonl")),
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
        hidden: 8,
        context: 8,
        tokenizer: Tokenizer::Bytes,
        tied: true,
        rope_theta: 1e4,
        norm_epsilon: 1e-5,
        initial_deviation: 0.02,
    };
    let model = |index| Model { name: format!("m{index}"), stage: Stage::Initialise(architecture.clone()), origin: Origin(0) };
    Experiment {
        name: "trial".to_owned(),
        seed: 7,
        out: None,
        device: None,
        dtype: Dtype::Float32,
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
    let domains = (0..rows[0].models.len() as u32).map(DomainId).collect();
    let anchors = normalized.then(|| Normalized { zero: rows[0].models.clone(), one: rows[1].models.clone() });
    let sampling = Sampling::new(1, 1.0, 4);
    Comparison {
        name: "all".to_owned(),
        rows,
        domains,
        normalized: anchors,
        seeds: 1,
        evaluation: Evaluation { sampling, prompts: None },
        origin: Origin(0),
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
    let mut scores = Scores::default();
    scores.insert(ModelId(0), DomainId(0), 1, &[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5], 4);
    assert_eq!(scores.by_prompt[&(ModelId(0), DomainId(0), 1)], [0.75, 0.125]);
    assert_eq!(scores.mean(ModelId(0), DomainId(0), 1), Some(0.4375));
    assert_eq!(scores.mean(ModelId(0), DomainId(0), 2), None);
}

#[test]
fn estimates_are_the_formula() {
    let experiment = experiment(2, 4);
    // The expert is a family: m1 on d0, m2 on d1.
    let comparison = comparison(&[&[0, 0], &[1, 2], &[3, 3]], true);
    let mut scores = Scores::default();
    let mut add = |model, domain, rewards: &[f64]| scores.insert(ModelId(model), DomainId(domain), 7, rewards, 1);
    add(0, 0, &[0.0, 0.0, 0.0, 1.0]); // 0.25
    add(0, 1, &[0.0, 1.0]); // 0.5
    add(1, 0, &[1.0, 0.0, 1.0, 1.0]); // 0.75
    add(2, 1, &[1.0, 1.0]); // 1
    add(3, 0, &[0.5, 0.0, 0.5, 1.0]); // 0.5
    add(3, 1, &[1.0, 1.0]); // 1
    let (rows, _) = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap();
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

/// The same bootstrap with lists of indices instead of weights, one number at a time.
#[test]
fn intervals_are_those_of_a_plain_bootstrap() {
    let (seeds, sizes, models) = ([7, 8, 9], [13, 8], 3);
    let experiment = experiment(2, models);
    let comparison = comparison(&[&[0, 0], &[1, 1], &[2, 2]], true);
    let mut scores = Scores::default();
    let mut numbers = key(42);
    let mut rewards = BTreeMap::new();
    for (model, probability) in [0.1, 0.9, 0.7].into_iter().enumerate() {
        for (domain, size) in sizes.into_iter().enumerate() {
            for (place, seed) in seeds.into_iter().enumerate() {
                let values = coins(probability, 4 * size, &mut numbers);
                scores.insert(ModelId(model as u32), DomainId(domain as u32), seed, &values, 4);
                rewards.insert((model, domain, place), values.chunks(4).map(mean).collect::<Vec<_>>());
            }
        }
    }
    let (rows, warnings) = table_rows(&experiment, &comparison, &seeds, &scores, key(3)).unwrap();
    assert_eq!(warnings, [] as [&str; 0]);

    let mut uniforms = key(3);
    let mut means = BTreeMap::<(usize, usize), Vec<f64>>::new();
    let mut normalized = vec![Vec::new(); models];
    for _ in 0..2000 {
        let drawn_seeds: Vec<_> = seeds.iter().map(|_| uniforms.below(seeds.len())).collect();
        let drawn_prompts = sizes.map(|size| (0..size).map(|_| uniforms.below(size)).collect::<Vec<_>>());
        let score = |model: usize, domain: usize| {
            let mut sum = 0.0;
            for seed in &drawn_seeds {
                for prompt in &drawn_prompts[domain] {
                    sum += rewards[&(model, domain, *seed)][*prompt];
                }
            }
            sum / (drawn_seeds.len() * drawn_prompts[domain].len()) as f64
        };
        for (model, normalized) in normalized.iter_mut().enumerate() {
            let mut sum = 0.0;
            for domain in 0..2 {
                means.entry((model, domain)).or_default().push(score(model, domain));
                sum += (score(model, domain) - score(0, domain)) / (score(1, domain) - score(0, domain));
            }
            normalized.push(sum / 2.0);
        }
    }
    // 2000 sorted values: the bounds lie at 0.025 * 1999 = 49.975 and 0.975 * 1999 = 1949.025.
    let bounds = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[49] * 0.025 + values[50] * 0.975, values[1949] * 0.975 + values[1950] * 0.025)
    };
    for model in 0..models {
        for domain in 0..2 {
            let found = &rows[model].scores[&format!("d{domain}")];
            let (low, high) = bounds(means[&(model, domain)].clone());
            close(found.low, low, 1e-12);
            close(found.high, high, 1e-12);
            assert!(found.low < found.mean && found.mean < found.high);
        }
        let found = rows[model].normalized.as_ref().unwrap();
        let (low, high) = bounds(normalized[model].clone());
        close(found.low, low, 1e-12);
        close(found.high, high, 1e-12);
    }
    // One number per seed, from that seed's own zero and one.
    let seed = |model: usize, domain, place| mean(&rewards[&(model, domain, place)]);
    for place in 0..3 {
        let of = |domain| (seed(2, domain, place) - seed(0, domain, place)) / (seed(1, domain, place) - seed(0, domain, place));
        close(rows[2].normalized_by_seed[place], (of(0) + of(1)) / 2.0, 1e-12);
    }
}

#[test]
fn an_interval_is_as_wide_as_theory_says() {
    let experiment = experiment(1, 1);
    let comparison = comparison(&[&[0]], false);
    let mut scores = Scores::default();
    let values: Vec<f64> = (0..400).map(|index| f64::from(index % 2)).collect();
    scores.insert(ModelId(0), DomainId(0), 7, &values, 1);
    let (rows, _) = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap();
    let score = &rows[0].scores["d0"];
    // A mean of 400 coins: 1.96 * 0.5 / 20 on either side.
    close(score.low, 0.5 - 0.049, 0.004);
    close(score.high, 0.5 + 0.049, 0.004);
    assert_eq!((&rows[0].normalized, rows[0].spread, rows[0].normalized_by_seed.len()), (&None, None, 0));
}

#[test]
fn models_are_compared_on_the_same_resample() {
    let experiment = experiment(1, 4);
    let comparison = comparison(&[&[0], &[1], &[2], &[3]], true);
    let mut scores = Scores::default();
    let mut numbers = key(5);
    let zero = coins(0.3, 50, &mut numbers);
    let one: Vec<f64> = zero.iter().map(|reward| 0.5 + reward / 2.0).collect();
    let halfway: Vec<f64> = zero.iter().zip(&one).map(|(zero, one)| (zero + one) / 2.0).collect();
    for (model, rewards) in [&zero, &one, &one, &halfway].into_iter().enumerate() {
        scores.insert(ModelId(model as u32), DomainId(0), 7, rewards, 1);
    }
    let (rows, _) = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap();
    // Who does the same as the anchor, or always half of it, is not uncertain, though each score alone is.
    for (row, wanted) in [(0, 0.0), (1, 1.0), (2, 1.0), (3, 0.5)] {
        let found = rows[row].normalized.as_ref().unwrap();
        for value in [found.mean, found.low, found.high] {
            close(value, wanted, 1e-12);
        }
        assert!(rows[row].scores["d0"].high - rows[row].scores["d0"].low > 0.05);
    }
}

#[test]
fn seeds_are_resampled_too() {
    let experiment = experiment(1, 1);
    let comparison = comparison(&[&[0]], false);
    let mut scores = Scores::default();
    for (seed, reward) in [(7, 0.0), (8, 1.0)] {
        scores.insert(ModelId(0), DomainId(0), seed, &[reward; 20], 1);
    }
    let (rows, _) = table_rows(&experiment, &comparison, &[7, 8], &scores, key(1)).unwrap();
    // All prompts agree, the runs do not: a quarter of the draws takes one run twice.
    assert_eq!(rows[0].scores["d0"], Score { mean: 0.5, low: 0.0, high: 1.0, n: 20 });
}

#[test]
fn the_same_numbers_give_the_same_table() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], true);
    let mut scores = Scores::default();
    let mut numbers = key(11);
    for model in [0, 1] {
        let rewards: Vec<f64> = (0..60).map(|_| (f64::from(model) + numbers.uniform()) / 2.0).collect();
        scores.insert(ModelId(model), DomainId(0), 7, &rewards, 1);
    }
    let table = |number| table_rows(&experiment, &comparison, &[7], &scores, key(number)).unwrap();
    assert_eq!(table(1), table(1));
    assert_ne!(table(1), table(2));
}

#[test]
fn an_expert_that_is_no_better_than_the_start_is_told() {
    let experiment = experiment(2, 2);
    let comparison = comparison(&[&[0, 0], &[1, 1]], true);
    let mut scores = Scores::default();
    let mut add = |model, domain, rewards: &[f64]| scores.insert(ModelId(model), DomainId(domain), 7, rewards, 1);
    add(0, 0, &[0.0, 0.0]);
    add(1, 0, &[1.0, 1.0]);
    add(0, 1, &[1.0, 0.0, 1.0]);
    add(1, 1, &[1.0, 1.0, 0.0]);
    let (rows, warnings) = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap();
    assert_eq!(
        warnings,
        ["compare \"all\": no normalized score: on `d1` the row that scores 1 has 0.667, which does not exceed the 0.667 \
          of the row that scores 0"]
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
    let mut scores = Scores::default();
    for seed in 7..12 {
        let one = if seed == 9 { 0.0 } else { 1.0 };
        scores.insert(ModelId(0), DomainId(0), seed, &[0.0; 30], 1);
        scores.insert(ModelId(1), DomainId(0), seed, &[one; 30], 1);
    }
    let (rows, warnings) = table_rows(&experiment, &comparison, &[7, 8, 9, 10, 11], &scores, key(1)).unwrap();
    assert_eq!(
        warnings,
        ["compare \"all\": no normalized score per seed, because of seed 9: on `d0` the row that scores 1 has 0.000, which \
          does not exceed the 0.000 of the row that scores 0"]
    );
    assert_eq!(rows[1].normalized.as_ref().unwrap().mean, 1.0);
    assert_eq!(rows[1].normalized_by_seed, [] as [f64; 0]);
}

#[test]
fn an_interval_that_many_resamples_cannot_serve_is_told() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], true);
    let mut scores = Scores::default();
    // The experts' lead hangs on one prompt of ten, which a resample misses with probability 0.9^10 = 0.35.
    let mut one = [0.0; 10];
    one[3] = 1.0;
    scores.insert(ModelId(0), DomainId(0), 7, &[0.0; 10], 1);
    scores.insert(ModelId(1), DomainId(0), 7, &one, 1);
    let (rows, warnings) = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap();
    assert_eq!(warnings.len(), 1);
    let start = "compare \"all\": the intervals of normalized scores are unreliable: in ";
    let missed = warnings[0].strip_prefix(start).and_then(|rest| rest.split_once(" of 2000 resamples"));
    let missed: f64 = missed.unwrap().0.parse().unwrap();
    close(missed / 2000.0, 0.9f64.powi(10), 0.04);
    assert_eq!(*rows[1].normalized.as_ref().unwrap(), Interval { mean: 1.0, low: 1.0, high: 1.0 });
}

#[test]
fn a_missing_or_uneven_evaluation_is_an_error() {
    let experiment = experiment(1, 2);
    let comparison = comparison(&[&[0], &[1]], false);
    let mut scores = Scores::default();
    scores.insert(ModelId(0), DomainId(0), 7, &[0.0, 1.0], 1);
    let error = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap_err();
    assert_eq!(error.to_string(), "`m1` was not evaluated on `d0` with seed 7");
    scores.insert(ModelId(1), DomainId(0), 7, &[0.0, 1.0, 1.0], 1);
    let error = table_rows(&experiment, &comparison, &[7], &scores, key(1)).unwrap_err();
    assert_eq!(error.to_string(), "`d0` was evaluated on 3 prompts for one model and 2 for another");
}
