//! Runs side by side: every table that the first run shares with another, with the interval of each difference.

use std::collections::BTreeMap;

use mopd_compiler::plan::results::{ComparedCell, ComparedRow, ComparedTable, Interval};
use mopd_compiler::plan::{Comparison, ModelId};

use super::{RESAMPLES, Scale, Weights, mean, middle};
use crate::random::Uniforms;
use crate::report::rewards::PromptReward;

/// A run as its folder tells it.
pub struct Run {
    pub comparisons: Vec<Comparison>,
    /// By their ids.
    pub domains: Vec<String>,
    pub models: Vec<String>,
    pub rewards: Vec<PromptReward>,
}

/// What is behind one column of one table.
struct Column<'a> {
    /// Hash of the test prompts.
    tests: &'a str,
    /// Rewards by model and seed, each one per prompt.
    rewards: BTreeMap<(&'a str, u64), Vec<f64>>,
}

/// A table of one run, with the columns that both sides have.
struct Side<'a> {
    run: &'a Run,
    comparison: &'a Comparison,
    seeds: Vec<u64>,
    columns: Vec<(usize, Column<'a>)>,
}

impl Run {
    /// The rewards of a domain in a table.
    fn column(&self, table: &str, domain: &str) -> Column<'_> {
        let mut column = Column { tests: "", rewards: BTreeMap::new() };
        for row in self.rewards.iter().filter(|row| row.table == table && row.domain == domain) {
            column.tests = &row.tests;
            // The file has the prompts of an evaluation in order.
            column.rewards.entry((&row.model, row.seed)).or_default().push(row.reward);
        }
        column
    }

    fn side<'a>(&'a self, comparison: &'a Comparison, shared: &[&str]) -> Side<'a> {
        let places = shared.iter().map(|name| {
            let place = comparison.domains.iter().position(|id| self.domains[id.0 as usize] == *name);
            let place = place.expect("a shared domain is in both tables");
            (place, self.column(&comparison.name, name))
        });
        let columns: Vec<_> = places.collect();
        let mut seeds: Vec<u64> = columns.iter().flat_map(|(_, column)| column.rewards.keys().map(|(_, seed)| *seed)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        Side { run: self, comparison, seeds, columns }
    }

    fn domains_of(&self, comparison: &Comparison) -> Vec<&str> {
        comparison.domains.iter().map(|id| self.domains[id.0 as usize].as_str()).collect()
    }
}

impl Side<'_> {
    /// The weighted mean of each column for a row's models; none where one was not evaluated.
    fn means(&self, models: &[ModelId], weights: &Weights) -> Option<Vec<f64>> {
        let column = |(index, (place, column)): (usize, &(usize, Column))| {
            let name = self.run.models.get(models.get(*place)?.0 as usize)?;
            let (mut sum, mut total) = (0.0, 0.0);
            for (seed, weight) in self.seeds.iter().zip(&weights.of_seed) {
                let rewards = column.rewards.get(&(name.as_str(), *seed))?;
                for (reward, of_prompt) in rewards.iter().zip(&weights.of_prompt[index]) {
                    sum += weight * of_prompt * reward;
                    total += weight * of_prompt;
                }
            }
            (total > 0.0).then_some(sum / total)
        };
        self.columns.iter().enumerate().map(column).collect()
    }

    fn prompts(&self) -> Vec<usize> {
        let longest = |column: &Column| column.rewards.values().map(Vec::len).max().unwrap_or(0);
        self.columns.iter().map(|(_, column)| longest(column)).collect()
    }

    /// The means, the mean over domains, and the normalized score where the table has one on all of its domains.
    fn scores(&self, models: &[ModelId], weights: &Weights) -> Option<Vec<Option<f64>>> {
        let means = self.means(models, weights)?;
        let normalized = || {
            let anchors = self.comparison.normalized.as_ref().filter(|_| self.columns.len() == self.comparison.domains.len())?;
            let scale = Scale::new(&self.means(&anchors.zero, weights)?, &self.means(&anchors.one, weights)?);
            scale.flat().is_none().then(|| mean(&scale.normalized(&means)))
        };
        let all = mean(&means);
        Some(means.iter().copied().map(Some).chain([Some(all), normalized()]).collect())
    }
}

/// The tables that both runs have, `after` less `before`.
///
/// Intervals are percentiles of [`RESAMPLES`] bootstrap draws over seeds and test prompts, as in a run's own tables. A draw takes the
/// same prompts for both runs where their test files are the same, and the same seeds where both trained with the same; so
/// chance that hits both alike cancels out.
pub fn compare(before: &Run, after: &Run, mut uniforms: Uniforms) -> Vec<ComparedTable> {
    let mut tables = Vec::new();
    for first in &before.comparisons {
        let named = after.comparisons.iter().find(|second| second.name == first.name);
        // One table each: whatever they are called, they are what the runs were made for.
        let only = || match (before.comparisons.as_slice(), after.comparisons.as_slice()) {
            ([_], [second]) => Some(second),
            _ => None,
        };
        let Some(second) = named.or_else(only) else { continue };
        let there = after.domains_of(second);
        let domains: Vec<&str> = before.domains_of(first).into_iter().filter(|name| there.contains(name)).collect();
        if domains.is_empty() {
            continue;
        }
        let (left, right) = (before.side(first, &domains), after.side(second, &domains));
        if !left.seeds.is_empty() && !right.seeds.is_empty() {
            tables.push(table(&left, &right, &domains, &mut uniforms));
        }
    }
    tables
}

fn table(left: &Side, right: &Side, domains: &[&str], uniforms: &mut Uniforms) -> ComparedTable {
    let (left_prompts, right_prompts) = (left.prompts(), right.prompts());
    let same_seeds = left.seeds == right.seeds;
    let same_tests: Vec<bool> = (left.columns.iter().zip(&right.columns).enumerate())
        .map(|(index, ((_, left), (_, right)))| left.tests == right.tests && left_prompts[index] == right_prompts[index])
        .collect();
    let shared: Vec<_> = (left.comparison.rows.iter())
        .filter_map(|row| {
            let other = right.comparison.rows.iter().find(|other| other.label == row.label)?;
            Some((row, other))
        })
        .collect();
    let even = |side: &Side, prompts: &[usize]| Weights::even(side.seeds.len(), prompts);
    let whole = (even(left, &left_prompts), even(right, &right_prompts));
    let known: Vec<_> =
        (shared.iter()).map(|(row, other)| (left.scores(&row.models, &whole.0), right.scores(&other.models, &whole.1))).collect();
    let columns = domains.len() + 2;
    let mut drawn = vec![vec![Vec::with_capacity(RESAMPLES); columns]; shared.len()];
    for _ in 0..RESAMPLES {
        let weights = Weights::drawn(left.seeds.len(), &left_prompts, uniforms);
        let mut others = Weights::drawn(right.seeds.len(), &right_prompts, uniforms);
        if same_seeds {
            others.of_seed.clone_from(&weights.of_seed);
        }
        for (index, same) in same_tests.iter().enumerate() {
            if *same {
                others.of_prompt[index].clone_from(&weights.of_prompt[index]);
            }
        }
        for ((row, other), drawn) in shared.iter().zip(&mut drawn) {
            let (Some(left), Some(right)) = (left.scores(&row.models, &weights), right.scores(&other.models, &others)) else {
                continue;
            };
            for ((left, right), drawn) in left.into_iter().zip(right).zip(drawn) {
                drawn.extend(left.zip(right).map(|(left, right)| right - left));
            }
        }
    }
    let rows = shared.iter().zip(known).zip(drawn).map(|(((row, _), (left, right)), drawn)| {
        let cells = match (left, right) {
            (Some(left), Some(right)) => left.into_iter().zip(right).zip(drawn).map(cell).collect(),
            _ => vec![None; columns],
        };
        ComparedRow { model: row.label.clone(), cells }
    });
    let missing = |rows: &[mopd_compiler::plan::Row], others: &[mopd_compiler::plan::Row]| {
        let unknown = rows.iter().filter(|row| !others.iter().any(|other| other.label == row.label));
        unknown.map(|row| row.label.clone()).collect()
    };
    ComparedTable {
        name: left.comparison.name.clone(),
        domains: domains.iter().map(|name| (*name).to_owned()).collect(),
        rows: rows.collect(),
        same_seeds,
        other_tests: domains.iter().zip(&same_tests).filter(|(_, same)| !**same).map(|(name, _)| (*name).to_owned()).collect(),
        only_before: missing(&left.comparison.rows, &right.comparison.rows),
        only_after: missing(&right.comparison.rows, &left.comparison.rows),
    }
}

fn cell(((left, right), mut drawn): ((Option<f64>, Option<f64>), Vec<f64>)) -> Option<ComparedCell> {
    let (before, after) = left.zip(right)?;
    let (low, high) = middle(&mut drawn)?;
    Some(ComparedCell { before, after, difference: Interval { mean: after - before, low, high } })
}

#[cfg(test)]
mod tests {
    use mopd_compiler::plan::Row;

    use super::super::tests::comparison;
    use super::*;
    use crate::random::{Key, Purpose};

    fn uniforms() -> Uniforms {
        Key::new(1, 0, Purpose::Bootstrap, 0).row(0, 0)
    }

    /// One domain, one row; `reward(seed, prompt)`.
    fn run(tests: &str, seeds: &[u64], prompts: u32, reward: impl Fn(u64, u32) -> f64) -> Run {
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
        Run { comparisons: vec![table], domains: vec!["sort".into()], models: vec!["student".into()], rewards }
    }

    fn difference(before: &Run, after: &Run) -> Interval {
        let tables = compare(before, after, uniforms());
        assert_eq!(tables.len(), 1);
        tables[0].rows[0].cells[0].clone().unwrap().difference
    }

    /// Prompts differ widely in how hard they are, the runs hardly: paired, that much is certain; unpaired, nothing is.
    #[test]
    fn what_hits_both_runs_alike_cancels_out() {
        let hard = |prompt: u32| if prompt < 50 { 0.9 } else { 0.1 };
        let before = run("same", &[1, 2, 3], 100, |_, prompt| hard(prompt));
        let after = run("same", &[1, 2, 3], 100, |_, prompt| hard(prompt) + 0.02);
        let paired = difference(&before, &after);
        assert!((paired.mean - 0.02).abs() < 1e-12 && (paired.low - 0.02).abs() < 1e-9 && (paired.high - 0.02).abs() < 1e-9);
        let elsewhere = run("other", &[1, 2, 3], 100, |_, prompt| hard(prompt) + 0.02);
        let unpaired = difference(&before, &elsewhere);
        // The standard error of either mean is 0.04; that of a difference of two, 0.0566.
        assert!((unpaired.mean - 0.02).abs() < 1e-12);
        assert!((0.18..0.26).contains(&(unpaired.high - unpaired.low)), "{unpaired:?}");
        assert_eq!(compare(&before, &elsewhere, uniforms())[0].other_tests, ["sort"]);
    }

    /// Luck that a seed has in both runs is no difference; where the seeds are others, it is.
    #[test]
    fn seeds_are_paired_where_they_are_the_same() {
        let luck = |seed: u64| 0.1 * (seed % 5) as f64;
        let before = run("same", &[1, 2, 3], 20, |seed, _| luck(seed));
        let same = difference(&before, &run("same", &[1, 2, 3], 20, |seed, _| luck(seed) + 0.1));
        assert!((same.high - same.low).abs() < 1e-9, "{same:?}");
        let other = run("same", &[6, 7, 8], 20, |seed, _| luck(seed) + 0.1);
        let other = difference(&before, &other);
        assert!((other.mean - 0.1).abs() < 1e-9 && other.high - other.low > 0.1, "{other:?}");
        let fewer = difference(&before, &run("same", &[1], 20, |_, _| 0.3));
        assert!((fewer.mean - 0.1).abs() < 1e-9);
    }

    #[test]
    fn what_only_one_run_has_is_named() {
        let before = run("same", &[1], 2, |_, _| 0.5);
        let mut after = run("same", &[1], 2, |_, _| 0.5);
        after.comparisons[0].rows[0].label = "another".into();
        let tables = compare(&before, &after, uniforms());
        assert!(tables[0].rows.is_empty());
        assert_eq!(
            (&tables[0].only_before[..], &tables[0].only_after[..]),
            (&["student".to_owned()][..], &["another".to_owned()][..])
        );
        after.domains[0] = "elsewhere".into();
        assert!(compare(&before, &after, uniforms()).is_empty());
    }
}
