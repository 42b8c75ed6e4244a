//! Comparison of runs: every table that the first run shares with another one, with the interval of each
//! difference.

use std::collections::BTreeMap;

use mopd_plan::results::{
    ComparedCell, ComparedRow, ComparedTable, FileHash, Interval, RowDifferences, RowPair,
};
use mopd_plan::{Comparison, Evaluation, ModelId, Reward, Sampling};

use super::interval::{self, Estimate, SeedPromptMatrix, VarianceComponents};
use super::scale::Scale;
use super::{ModelRewards, combined, mean};
use crate::report::rewards::PromptReward;

/// A run as read from its folder.
pub struct ComparedRun {
    pub comparisons: Vec<Comparison>,
    /// Names by domain id.
    pub domains: Vec<String>,
    /// Whether the rewards of each domain are from 0 to 1.
    pub bounded: Vec<bool>,
    /// The verifier of each domain.
    pub judges: Vec<Judge>,
    pub models: Vec<ComparedModel>,
    pub rewards: Vec<PromptReward>,
}

/// A model of a run.
pub struct ComparedModel {
    pub name: String,
    /// Content key of its stage; see [`mopd_plan::StageFacts::content_key`].
    pub key: String,
}

/// The verifier of a domain.
pub struct Judge {
    /// Without paths.
    pub reward: Reward,
    /// Hashes of its files; `None` where the run did not record them.
    pub files: Option<Vec<FileHash>>,
}

impl Judge {
    /// Whether two verifiers are the same, as far as known.
    fn is_like(&self, other: &Judge) -> bool {
        let same_files = match (&self.files, &other.files) {
            (Some(files), Some(others)) => files == others,
            _ => true,
        };
        self.reward == other.reward && same_files
    }
}

/// The data behind one column of one table.
struct Column<'a> {
    /// Hash of the test prompts.
    tests: &'a str,
    /// Rewards by model and seed, each one per prompt.
    rewards: BTreeMap<(&'a str, u64), Vec<f64>>,
}

/// A table of one run, with the columns that both sides have.
struct ComparedSide<'a> {
    run: &'a ComparedRun,
    comparison: &'a Comparison,
    seeds: Vec<u64>,
    columns: Vec<(usize, Column<'a>)>,
}

impl ComparedRun {
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

    fn side<'a>(&'a self, comparison: &'a Comparison, shared: &[&str]) -> ComparedSide<'a> {
        let places = shared.iter().map(|name| {
            let place = self.domains_of(comparison).iter().position(|domain| domain == name);
            let place = place.expect("a shared domain is in both tables");
            (place, self.column(&comparison.name, name))
        });
        let columns: Vec<_> = places.collect();
        let mut seeds: Vec<u64> =
            columns.iter().flat_map(|(_, column)| column.rewards.keys().map(|(_, seed)| *seed)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        ComparedSide { run: self, comparison, seeds, columns }
    }

    fn judge(&self, domain: &str) -> Option<&Judge> {
        let place = self.domains.iter().position(|known| known == domain)?;
        self.judges.get(place)
    }

    fn domains_of(&self, comparison: &Comparison) -> Vec<&str> {
        let columns = comparison.columns.iter();
        columns.map(|column| self.domains[column.domain.0 as usize].as_str()).collect()
    }
}

impl ComparedSide<'_> {
    /// The rewards of each column for a row's models; `None` if one was not evaluated.
    fn rewards(&self, models: &[ModelId]) -> Option<Vec<ModelRewards<'_>>> {
        let mut found = Vec::with_capacity(self.columns.len());
        for (place, column) in &self.columns {
            let ComparedModel { name, key } = self.run.models.get(models.get(*place)?.0 as usize)?;
            let of_seed = |seed: &u64| {
                column.rewards.get(&(name.as_str(), *seed)).map(Vec::as_slice).filter(|all| !all.is_empty())
            };
            let rewards: Vec<&[f64]> = self.seeds.iter().map(of_seed).collect::<Option<_>>()?;
            if rewards.iter().any(|other| other.len() != rewards[0].len()) {
                return None;
            }
            // A run that was edited by hand may lack keys.
            let key = if key.is_empty() { name } else { key };
            found.push(ModelRewards { key, seeds: rewards });
        }
        Some(found)
    }

    /// How completions of each column are sampled.
    fn evaluations(&self) -> impl Iterator<Item = &Evaluation> {
        self.columns.iter().map(|(place, _)| &self.comparison.columns[*place].evaluation)
    }

    /// The columns with a single test prompt, without bounds of rewards that would cover other prompts.
    fn one_prompt(&self) -> Vec<bool> {
        let bounded = |place: usize| self.run.bounded[self.comparison.columns[place].domain.0 as usize];
        let columns = self.columns.iter().zip(self.prompts());
        columns.map(|((place, _), prompts)| prompts == 1 && !bounded(*place)).collect()
    }

    /// Number of test prompts of each column.
    fn prompts(&self) -> Vec<usize> {
        let longest = |column: &Column| column.rewards.values().map(Vec::len).max().unwrap_or(0);
        self.columns.iter().map(|(_, column)| longest(column)).collect()
    }

    /// The means, the mean over domains, and the normalized score if the table has one on all of its domains,
    /// each with the effect of its answers by column of the table.
    fn scores(&self, models: &[ModelId]) -> Option<Vec<Option<Scored>>> {
        let rewards = self.rewards(models)?;
        let of_all = |column: &ModelRewards| {
            mean(&column.seeds.iter().map(|rewards| mean(rewards)).collect::<Vec<f64>>())
        };
        let means: Vec<f64> = rewards.iter().map(of_all).collect();
        let bounded: Vec<bool> = (self.columns.iter())
            .map(|(place, _)| self.run.bounded[self.comparison.columns[*place].domain.0 as usize])
            .collect();
        let keys = |index: usize, models: &[&[ModelId]]| -> Vec<String> {
            let (place, _) = self.columns[index];
            models.iter().map(|models| self.run.models[models[place].0 as usize].key.clone()).collect()
        };
        let scored = |index: usize, rewards: SeedPromptMatrix, models: &[&[ModelId]]| ScoredColumn {
            index,
            rewards,
            models: keys(index, models),
        };
        let single = |(index, value): (usize, &f64)| {
            let column = combined(&[(1.0, &rewards[index])], bounded[index]);
            Some(Scored { value: *value, is_mean: true, columns: vec![scored(index, column, &[models])] })
        };
        let share = 1.0 / means.len() as f64;
        let columns = rewards
            .iter()
            .enumerate()
            .map(|(index, rewards)| scored(index, combined(&[(share, rewards)], bounded[index]), &[models]))
            .collect();
        let all = Scored { value: mean(&means), is_mean: true, columns };
        let normalized = || {
            let anchors = self
                .comparison
                .normalized
                .as_ref()
                .filter(|_| self.columns.len() == self.comparison.columns.len())?;
            let (zero, one) = (self.rewards(&anchors.zero)?, self.rewards(&anchors.one)?);
            let scale = Scale::new(
                &zero.iter().map(of_all).collect::<Vec<f64>>(),
                &one.iter().map(of_all).collect::<Vec<f64>>(),
                &bounded,
            );
            let of_row = [models, &anchors.zero, &anchors.one];
            let columns = || {
                let columns = scale.linear(&means, &rewards, &zero, &one).into_iter().enumerate();
                columns.map(|(index, column)| scored(index, column, &of_row)).collect()
            };
            let value = mean(&scale.normalized(&means));
            scale.flat().is_none().then(|| Scored { value, is_mean: false, columns: columns() })
        };
        Some(means.iter().enumerate().map(single).chain([Some(all), normalized()]).collect())
    }
}

/// A number of a table, and the effect of answers on it, for each column that it depends on.
struct Scored {
    value: f64,
    /// Whether it is a mean of rewards, which has their bounds; a normalized score is only locally linear in
    /// them.
    is_mean: bool,
    columns: Vec<ScoredColumn>,
}

struct ScoredColumn {
    /// Index among the columns that both sides have.
    index: usize,
    rewards: SeedPromptMatrix,
    /// The keys of the models whose rewards these are.
    models: Vec<String>,
}

impl Scored {
    /// Bounds of the number, where known.
    fn bounds(&self) -> Option<(f64, f64)> {
        self.estimate().bounds().filter(|_| self.is_mean)
    }

    fn estimate(&self) -> Estimate {
        Estimate { columns: self.columns.iter().map(|column| column.rewards.clone()).collect() }
    }
}

/// The differences `after` minus `before` in the tables that both runs have.
///
/// Intervals are over seeds and test prompts, as in a run's own tables. Prompts are paired if the test files
/// are the same, and seeds are paired if both runs trained with the same ones, so that common variation
/// cancels.
pub fn compare(before: &ComparedRun, after: &ComparedRun) -> Vec<ComparedTable> {
    let mut tables = Vec::new();
    for first in &before.comparisons {
        let named = after.comparisons.iter().find(|second| second.name == first.name);
        // If each run has one table only, these are compared even if their names differ.
        let only = || match (before.comparisons.as_slice(), after.comparisons.as_slice()) {
            ([_], [second]) => Some(second),
            _ => None,
        };
        let Some(second) = named.or_else(only) else { continue };
        let there = after.domains_of(second);
        let domains: Vec<&str> =
            before.domains_of(first).into_iter().filter(|name| there.contains(name)).collect();
        if domains.is_empty() {
            continue;
        }
        let (left, right) = (before.side(first, &domains), after.side(second, &domains));
        if !left.seeds.is_empty() && !right.seeds.is_empty() {
            tables.push(table(&left, &right, &domains));
        }
    }
    tables
}

/// Differences between the rows of each table of one run. All rows have the same test prompts and seeds, so
/// everything is paired.
pub fn within(run: &ComparedRun) -> Vec<RowDifferences> {
    let of_table = |comparison: &Comparison| {
        let side = run.side(comparison, &run.domains_of(comparison));
        let rows: Vec<Option<Vec<Option<Scored>>>> =
            comparison.rows.iter().map(|row| side.scores(&row.models)).collect();
        let columns = side.columns.len();
        let pairing = Pairing { seeds: true, tests: vec![true; columns], evaluations: vec![true; columns] };
        let over_columns = |scores: &Vec<Option<Scored>>| {
            let mean = scores.get(side.columns.len())?.as_ref()?;
            let (low, high) = mean.estimate().interval();
            Some(Interval { mean: mean.value, low, high })
        };
        let means = rows.iter().map(|row| row.as_ref().and_then(over_columns)).collect();
        let mut pairs = Vec::new();
        for (second, after) in rows.iter().enumerate() {
            for (first, before) in rows[..second].iter().enumerate() {
                let (Some(before), Some(after)) = (before, after) else { continue };
                let difference = |(before, after): (&Option<Scored>, &Option<Scored>)| {
                    Some(cell(before.as_ref()?, after.as_ref()?, &pairing).difference)
                };
                let differences = before.iter().zip(after).map(difference).collect();
                pairs.push(RowPair { first: first as u32, second: second as u32, differences });
            }
        }
        let one_prompt = named(&run.domains_of(comparison), side.one_prompt());
        RowDifferences { table: comparison.name.clone(), means, one_prompt, pairs }
    };
    run.comparisons.iter().map(of_table).collect()
}

/// The settings that decide which completions are sampled, as far as the mean reward depends on them.
fn sampled(evaluation: &Evaluation) -> Sampling {
    // More samples of a prompt have the same mean.
    let sampling = Sampling { n: 1, ..evaluation.sampling.clone() };
    match evaluation.is_greedy() {
        // The most probable entry is always among the kept ones.
        true => Sampling { top_p: None, top_k: None, ..sampling },
        false => sampling,
    }
}

/// The domains for which a condition holds.
fn named(domains: &[&str], holds: impl IntoIterator<Item = bool>) -> Vec<String> {
    let found = domains.iter().zip(holds).filter(|(_, holds)| *holds);
    found.map(|(name, _)| (*name).to_owned()).collect()
}

/// What two compared numbers have in common.
struct Pairing {
    /// Whether they have the same seeds.
    seeds: bool,
    /// By column: whether they have the same test prompts, and the same settings of the evaluation.
    tests: Vec<bool>,
    evaluations: Vec<bool>,
}

fn table(left: &ComparedSide, right: &ComparedSide, domains: &[&str]) -> ComparedTable {
    let (left_prompts, right_prompts) = (left.prompts(), right.prompts());
    let tests: Vec<bool> = (left.columns.iter().zip(&right.columns).enumerate())
        .map(|(index, ((_, left), (_, right)))| {
            left.tests == right.tests && left_prompts[index] == right_prompts[index]
        })
        .collect();
    let evaluations = || left.evaluations().zip(right.evaluations());
    let is_same = |(left, right): (&Evaluation, &Evaluation)| {
        sampled(left) == sampled(right) && left.samples() == right.samples()
    };
    let pairing = Pairing {
        seeds: left.seeds == right.seeds,
        tests,
        evaluations: evaluations().map(is_same).collect(),
    };
    let shared: Vec<_> = (left.comparison.rows.iter())
        .filter_map(|row| {
            let other = right.comparison.rows.iter().find(|other| other.label == row.label)?;
            Some((row, other))
        })
        .collect();
    let columns = domains.len() + 2;
    let rows = shared.iter().map(|(row, other)| {
        let cells = match (left.scores(&row.models), right.scores(&other.models)) {
            (Some(before), Some(after)) => {
                let cell = |(before, after): (Option<Scored>, Option<Scored>)| {
                    Some(cell(&before?, &after?, &pairing))
                };
                before.into_iter().zip(after).map(cell).collect()
            }
            _ => vec![None; columns],
        };
        ComparedRow { model: row.label.clone(), cells }
    });
    let missing = |rows: &[mopd_plan::Row], others: &[mopd_plan::Row]| {
        let unknown = rows.iter().filter(|row| !others.iter().any(|other| other.label == row.label));
        unknown.map(|row| row.label.clone()).collect()
    };
    ComparedTable {
        name: left.comparison.name.clone(),
        domains: domains.iter().map(|name| (*name).to_owned()).collect(),
        rows: rows.collect(),
        same_seeds: pairing.seeds,
        seeds: [left.seeds.len() as u32, right.seeds.len() as u32],
        other_tests: named(domains, pairing.tests.iter().map(|same| !same)),
        other_sampling: named(domains, evaluations().map(|(left, right)| sampled(left) != sampled(right))),
        one_prompt: named(
            domains,
            left.one_prompt().into_iter().zip(right.one_prompt()).map(|(left, right)| left || right),
        ),
        other_rewards: domains
            .iter()
            .filter(|name| match (left.run.judge(name), right.run.judge(name)) {
                (Some(before), Some(after)) => !before.is_like(after),
                _ => false,
            })
            .map(|name| (*name).to_owned())
            .collect(),
        only_before: missing(&left.comparison.rows, &right.comparison.rows),
        only_after: missing(&right.comparison.rows, &left.comparison.rows),
    }
}

fn cell(before: &Scored, after: &Scored, pairing: &Pairing) -> ComparedCell {
    let less = |after: Vec<f64>, before: Vec<f64>| {
        after.into_iter().zip(before).map(|(after, before)| after - before).collect::<Vec<f64>>()
    };
    // Paired seeds or prompts give one difference each; unpaired ones vary independently.
    let mut chance = VarianceComponents::default();
    let (old, new) = (before.estimate().of_seeds(), after.estimate().of_seeds());
    if pairing.seeds {
        chance.add_seeds(&less(new, old));
    } else {
        chance.add_seeds(&new);
        chance.add_seeds(&old);
    }
    for (ScoredColumn { index, rewards: old, models }, column) in before.columns.iter().zip(&after.columns) {
        let new = &column.rewards;
        let old_bounds = old.bounds.map(negated);
        let (of_new, of_old) = (new.of_prompts(), old.of_prompts());
        if pairing.tests[*index] {
            // With the same keys and rewards, both are the same model, which no unseen prompt can tell apart
            // if both are evaluated in the same way.
            let same_circumstances = pairing.seeds && pairing.evaluations[*index];
            let alike = same_circumstances && *models == column.models && new.numbers == old.numbers;
            let both = new.bounds.zip(old_bounds).filter(|_| !alike);
            let both = both.map(|(new, old)| interval::sum(new, old));
            chance.add_prompts(&less(of_new, of_old), both);
        } else {
            chance.add_prompts(&of_new, new.bounds);
            chance.add_prompts(&of_old.iter().map(|value| -value).collect::<Vec<f64>>(), old_bounds);
        }
    }
    let difference = after.value - before.value;
    let bounds = after.bounds().zip(before.bounds());
    let bounds = bounds.map(|(after, before)| interval::sum(after, negated(before)));
    let (low, high) = interval::within(chance.around(difference), bounds);
    ComparedCell {
        before: before.value,
        after: after.value,
        difference: Interval { mean: difference, low, high },
    }
}

fn negated((least, most): (f64, f64)) -> (f64, f64) {
    (-most, -least)
}

#[cfg(test)]
mod tests;
