use mopd_plan::{DomainId, Row};

use super::super::tests::comparison;
use super::*;

/// One domain, one row; `reward(seed, prompt)`.
fn run(tests: &str, seeds: &[u64], prompts: u32, reward: impl Fn(u64, u32) -> f64) -> ComparedRun {
    let mut table = comparison(&[&[0]], false);
    table.rows = vec![Row { label: "student".into(), models: vec![ModelId(0)] }];
    let row = |seed: u64, prompt: u32| PromptReward {
        table: table.name.clone(),
        model: "student".into(),
        domain: "sort".into(),
        seed,
        tests: tests.into(),
        prompt,
        reward: reward(seed, prompt),
    };
    let rewards = seeds.iter().flat_map(|seed| (0..prompts).map(move |prompt| (*seed, prompt)));
    let rewards = rewards.map(|(seed, prompt)| row(seed, prompt)).collect();
    ComparedRun {
        comparisons: vec![table],
        domains: vec!["sort".into()],
        bounded: vec![true],
        judges: vec![judge("judge.py", Some("1"))],
        models: vec![model("student", "of a run")],
        rewards,
    }
}

fn model(name: &str, key: &str) -> ComparedModel {
    ComparedModel { name: name.into(), key: key.into() }
}

fn judge(command: &str, file: Option<&str>) -> Judge {
    let reward = Reward::Command {
        command: command.to_owned(),
        time_limit_seconds: 1.0,
        batch: 1,
        depends: Vec::new(),
        range: Default::default(),
    };
    let of = |hash: &str| vec![FileHash { name: "judge.py".into(), hash: hash.into() }];
    Judge { reward, files: file.map(of) }
}

/// Columns with the same test prompts and other verifiers are marked.
#[test]
fn columns_with_other_verifiers_are_marked() {
    let before = run("same", &[1], 9, |_, _| 0.5);
    let by = |judge: Judge| ComparedRun { judges: vec![judge], ..run("same", &[1], 9, |_, _| 0.7) };
    let other = |judge: Judge| compare(&before, &by(judge))[0].other_rewards.clone();
    assert_eq!(other(judge("judge.py", Some("1"))), [""; 0]);
    assert_eq!(other(judge("judge.py", Some("2"))), ["sort"]);
    assert_eq!(other(judge("other.py", Some("1"))), ["sort"]);
    // A run of an older version has not recorded the files.
    assert_eq!(other(judge("judge.py", None)), [""; 0]);
}

/// The bound of Clopper and Pearson on the share of prompts with another outcome, where this many agree.
fn unseen(prompts: u32) -> f64 {
    1.0 - 0.025_f64.powf(1.0 / f64::from(prompts))
}

/// One more right answer says little about other prompts.
#[test]
fn interval_of_one_prompt_is_wide() {
    let [before, after] = [0.0, 1.0].map(|reward| run("same", &[1], 1, move |_, _| reward));
    let paired = difference(&before, &after);
    assert!((paired.low - -0.95).abs() < 1e-9 && (paired.high - 1.0).abs() < 1e-9, "{paired:?}");
    // The prompts differ, so the unseen ones of both runs vary independently.
    let elsewhere = run("other", &[1], 1, |_, _| 1.0);
    let unpaired = difference(&before, &elsewhere);
    assert!((unpaired.low - (1.0 - 2.0 * 0.975)).abs() < 1e-9 && unpaired.high == 1.0, "{unpaired:?}");
    let two = difference(&run("same", &[1], 2, |_, _| 0.0), &run("other", &[1], 2, |_, _| 0.0));
    assert!((two.high - unseen(2)).abs() < 1e-9 && (two.low + unseen(2)).abs() < 1e-9, "{two:?}");
}

/// The same key and the same rewards mean the same model.
#[test]
fn a_model_differs_from_itself_by_nothing() {
    let right = |key: &str| ComparedRun {
        models: vec![model("student", key)],
        ..run("same", &[1], 5, |_, prompt| f64::from(prompt % 2))
    };
    let found = difference(&right("a"), &right("a"));
    assert_eq!((found.mean, found.low, found.high), (0.0, 0.0, 0.0));
    let found = difference(&right("a"), &right("b"));
    assert!((found.high - unseen(5)).abs() < 1e-9 && (found.low + unseen(5)).abs() < 1e-9, "{found:?}");
}

/// At another temperature the same model may answer other prompts differently.
#[test]
fn a_model_that_is_sampled_differently_may_differ() {
    let at = |temperature: f64, samples: u32| {
        let mut run = run("same", &[1], 5, |_, _| 1.0);
        let sampling = &mut run.comparisons[0].columns[0].evaluation.sampling;
        (sampling.temperature, sampling.n) = (temperature.into(), samples);
        run
    };
    let other = |before: &ComparedRun, after: &ComparedRun| {
        let found = difference(before, after);
        (compare(before, after)[0].other_sampling.clone(), found.high - found.low > 0.5)
    };
    assert_eq!(other(&at(1.0, 2), &at(3.0, 2)), (vec!["sort".to_owned()], true));
    assert_eq!(other(&at(1.0, 2), &at(1.0, 2)), (Vec::new(), false));
    // More samples estimate the same number.
    assert_eq!(other(&at(1.0, 2), &at(1.0, 8)), (Vec::new(), true));
    // Greedy completions are all equal.
    assert_eq!(other(&at(0.0, 2), &at(0.0, 8)), (Vec::new(), false));
}

/// One prompt says nothing of others unless rewards have bounds.
#[test]
fn one_prompt_is_named_where_rewards_have_no_bounds() {
    let of = |prompts: u32, bounded: bool, reward: f64| {
        let bounded = vec![bounded];
        ComparedRun { bounded, ..run("same", &[1], prompts, move |_, _| reward) }
    };
    let named = |prompts, bounded| {
        let (before, after) = (of(prompts, bounded, 0.25), of(prompts, bounded, 0.75));
        let one_prompt = compare(&before, &after)[0].one_prompt.clone();
        assert_eq!(within(&before)[0].one_prompt, one_prompt);
        one_prompt
    };
    assert_eq!(named(1, false), ["sort"]);
    assert!(named(2, false).is_empty() && named(1, true).is_empty());
    assert_eq!(compare(&of(1, true, 0.5), &of(1, true, 0.5))[0].seeds, [1, 1]);
}

/// Where rewards have no bounds, the interval covers only the variation that was seen.
#[test]
fn unbounded_rewards_have_an_unclipped_interval() {
    let [before, after] = [0.0, 7.0]
        .map(|reward| ComparedRun { bounded: vec![false], ..run("same", &[1], 3, move |_, _| reward) });
    let found = difference(&before, &after);
    assert_eq!((found.low, found.high), (7.0, 7.0));
}

fn difference(before: &ComparedRun, after: &ComparedRun) -> Interval {
    let tables = compare(before, after);
    assert_eq!(tables.len(), 1);
    tables[0].rows[0].cells[0].clone().unwrap().difference
}

/// The difficulty of prompts varies widely, the difference of the runs hardly: paired prompts show it,
/// unpaired ones do not.
#[test]
fn paired_interval_ignores_common_noise() {
    let hard = |prompt: u32| if prompt < 50 { 0.9 } else { 0.1 };
    let before = run("same", &[1, 2, 3], 100, |_, prompt| hard(prompt));
    let after = run("same", &[1, 2, 3], 100, |_, prompt| hard(prompt) + 0.02);
    let paired = difference(&before, &after);
    assert!(
        (paired.mean - 0.02).abs() < 1e-12
            && (paired.low - (0.02 - 1.02 * unseen(100))).abs() < 1e-9
            && (paired.high - (0.02 + 0.98 * unseen(100))).abs() < 1e-9,
        "{paired:?}"
    );
    let elsewhere = run("other", &[1, 2, 3], 100, |_, prompt| hard(prompt) + 0.02);
    let unpaired = difference(&before, &elsewhere);
    // The standard error of either mean is 0.04; that of a difference of two, 0.0566.
    assert!((unpaired.mean - 0.02).abs() < 1e-12);
    assert!((0.18..0.26).contains(&(unpaired.high - unpaired.low)), "{unpaired:?}");
    assert_eq!(compare(&before, &elsewhere)[0].other_tests, ["sort"]);
}

/// The effect of a seed cancels out where both runs have that seed, and not where seeds differ.
#[test]
fn seeds_are_paired_where_they_are_the_same() {
    let luck = |seed: u64| 0.1 * (seed % 5) as f64;
    let before = run("same", &[1, 2, 3], 20, |seed, _| luck(seed));
    let same = difference(&before, &run("same", &[1, 2, 3], 20, |seed, _| luck(seed) + 0.1));
    assert!((same.high - same.low - 2.0 * unseen(20)).abs() < 1e-9, "{same:?}");
    let other = run("same", &[6, 7, 8], 20, |seed, _| luck(seed) + 0.1);
    let other = difference(&before, &other);
    assert!((other.mean - 0.1).abs() < 1e-9 && other.high - other.low > 0.1, "{other:?}");
    let fewer = difference(&before, &run("same", &[1], 20, |_, _| 0.3));
    assert!((fewer.mean - 0.1).abs() < 1e-9);
}

/// Within a table, common variation of rows cancels out, as between two runs.
#[test]
fn rows_of_a_table_are_compared_prompt_by_prompt() {
    let hard = |prompt: u32| if prompt < 50 { 0.9 } else { 0.1 };
    let mut both = run("same", &[1, 2], 100, |_, prompt| hard(prompt));
    let alone = run("same", &[1, 2], 100, |seed, prompt| hard(prompt) + 0.02 * seed as f64);
    both.rewards.extend(alone.rewards.into_iter().map(|mut row| {
        row.model = "tuned".into();
        row
    }));
    both.models.push(model("tuned", "tuned"));
    both.comparisons[0].rows.push(Row { label: "tuned".into(), models: vec![ModelId(1)] });
    both.comparisons[0].rows.push(Row { label: "absent".into(), models: vec![ModelId(7)] });
    let [table] = &within(&both)[..] else { panic!("one table") };
    assert!(table.means[2].is_none() && table.pairs.len() == 1, "{table:?}");
    assert_eq!((table.pairs[0].first, table.pairs[0].second), (0, 1));
    let [column, mean, normalized] = &table.pairs[0].differences[..] else { panic!("{table:?}") };
    assert!(normalized.is_none() && column == mean, "one column is its own mean");
    // Seeds differ by 0.02, and t of one degree of freedom is 12.706.
    let of = column.clone().unwrap();
    assert!(
        (of.mean - 0.03).abs() < 1e-12
            && (of.high - of.mean - 12.7062 * 0.01 - 0.97 * unseen(100)).abs() < 1e-6,
        "{of:?}"
    );
    // All answers are right: the bound of Clopper and Pearson remains.
    both.rewards.iter_mut().for_each(|row| row.reward = 1.0);
    let all = within(&both)[0].means[0].clone().unwrap();
    assert!((all.low - 0.025_f64.powf(0.01)).abs() < 1e-9 && all.high == 1.0, "{all:?}");
    // The mean of a single row varies with its prompts too.
    let start = table.means[0].clone().unwrap();
    assert!((start.mean - 0.5).abs() < 1e-12 && (start.high - start.mean - 1.9842 * 0.0402).abs() < 1e-3);
}

/// Two seeds that differ widely say little, but shares differ by 1 at most.
#[test]
fn an_interval_ends_where_differences_of_rewards_do() {
    let before = run("same", &[1, 2], 20, |_, _| 0.5);
    let widely = |seed: u64| if seed == 1 { 0.0 } else { 1.0 };
    for tests in ["same", "other"] {
        let found = difference(&before, &run(tests, &[1, 2], 20, move |seed, _| widely(seed)));
        // t of one degree of freedom is 12.706, and half of it is more than 1.
        assert_eq!((found.mean, found.low, found.high), (0.0, -1.0, 1.0), "{tests}");
    }
    let unbounded = |run: ComparedRun| ComparedRun { bounded: vec![false], ..run };
    let other = unbounded(run("same", &[1, 2], 20, move |seed, _| widely(seed)));
    let found = difference(&unbounded(before), &other);
    assert!(found.low < -6.0 && found.high > 6.0, "{found:?}");
}

/// Of two columns that differ by 1 each, the mean over columns differs by 1, not by 2.
#[test]
fn the_mean_over_columns_has_the_bounds_of_one() {
    let both = |reward: fn(u64) -> f64| {
        let mut both = run("same", &[1, 2], 20, move |seed, _| reward(seed));
        let other = both.rewards.clone();
        both.rewards.extend(other.into_iter().map(|row| PromptReward { domain: "last".into(), ..row }));
        let mut column = both.comparisons[0].columns[0].clone();
        column.domain = DomainId(1);
        both.comparisons[0].columns.push(column);
        both.comparisons[0].rows[0].models.push(ModelId(0));
        (both.domains, both.bounded) = (vec!["sort".into(), "last".into()], vec![true, true]);
        both
    };
    let tables = compare(&both(|_| 0.5), &both(|seed| if seed == 1 { 0.0 } else { 1.0 }));
    let mean = tables[0].rows[0].cells[2].clone().expect("the mean over columns").difference;
    assert_eq!((mean.low, mean.high), (-1.0, 1.0));
}

#[test]
fn rows_of_only_one_run_are_listed_by_name() {
    let before = run("same", &[1], 2, |_, _| 0.5);
    let mut after = run("same", &[1], 2, |_, _| 0.5);
    after.comparisons[0].rows[0].label = "another".into();
    let tables = compare(&before, &after);
    assert!(tables[0].rows.is_empty());
    assert_eq!(
        (&tables[0].only_before[..], &tables[0].only_after[..]),
        (&["student".to_owned()][..], &["another".to_owned()][..])
    );
    after.domains[0] = "elsewhere".into();
    assert!(compare(&before, &after).is_empty());
}
