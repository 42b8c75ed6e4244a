//! Aggregates rows of `metrics.parquet`: a domain whose prompts are routed to several teachers by their data
//! has a row for each.

use std::collections::{BTreeMap, HashMap, HashSet};

use mopd_plan::columns::MetricDefinition;
pub use mopd_plan::columns::{OF_DOMAIN, OF_STEP};
use mopd_plan::{Plan, Pooling, Stage};

use crate::run_folder::ColumnTable;

/// Whether the sum of a column over the rows of a step is 1.
pub fn is_share(column: &str) -> bool {
    MetricDefinition::of(column).is_some_and(|metric| metric.pooling == Pooling::Share)
}

/// The prefixes of columns of the whole step whose names depend on the stage: states, gradients of parts of
/// the loss.
pub const NAMED: [&str; 3] = ["state.", "grad_norm.", "alignment."];
/// The prefix of the columns of reward parts, which are per domain.
pub const REWARD_PART: &str = "reward.";
/// The subject of a row: its domain, with the terms where some have completions of their own.
pub fn domain(metrics: &ColumnTable, row: usize) -> String {
    let domain = metrics.text("domain", row);
    match metrics.text("terms", row) {
        "" => domain.to_owned(),
        terms => format!("{domain} ({terms})"),
    }
}

/// A step: its seed, its stage, its number.
pub type Step<'a> = (u64, &'a str, u64);

pub fn step_of(metrics: &ColumnTable, row: usize) -> Step<'_> {
    (metrics.whole("seed", row), metrics.text("stage", row), metrics.whole("step", row))
}

/// The stages in which several models learn in turns. In such a stage the numbers of a whole step are those
/// of a turn, and a step takes the time of all its turns.
#[derive(Clone, Debug, Default)]
pub struct LearnerTurns(HashSet<String>);

impl LearnerTurns {
    pub fn of(plan: &Plan) -> LearnerTurns {
        let joint = |stage: &Stage<_>| matches!(stage, Stage::Joint(_));
        let models = plan.experiment.models.iter().filter(|model| joint(&model.stage));
        LearnerTurns(models.map(|model| model.name.clone()).collect())
    }

    /// The turn of a row; empty where one model learns.
    pub fn of_row<'m>(&self, metrics: &'m ColumnTable, row: usize) -> &'m str {
        if !self.0.contains(metrics.text("stage", row)) {
            return "";
        }
        // Rows of a turn whose terms have completions of their own are labelled `turn: terms`.
        let terms = metrics.text("terms", row);
        terms.split_once(": ").map_or(terms, |(turn, _)| turn)
    }

    /// The first row of every turn of every step, in the order of the rows.
    pub fn first_rows(&self, metrics: &ColumnTable, rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut known = HashSet::new();
        let is_new = |row: &usize| known.insert((step_of(metrics, *row), self.of_row(metrics, *row)));
        rows.into_iter().filter(is_new).collect()
    }
}

/// The tokens and the time of a step, over all of its turns; `None` where they are not recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WholeStep {
    /// The first row of the step.
    pub row: usize,
    pub tokens: Option<f64>,
    pub seconds: Option<f64>,
}

impl WholeStep {
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.seconds.filter(|seconds| *seconds > 0.0)?;
        Some(self.tokens? / seconds)
    }
}

/// The totals of every step. Tokens are summed over the rows that have the number.
pub fn totals_of_steps<'m>(
    metrics: &'m ColumnTable,
    rows: impl IntoIterator<Item = usize>,
    turns: &LearnerTurns,
) -> BTreeMap<Step<'m>, WholeStep> {
    let rows: Vec<usize> = rows.into_iter().collect();
    let mut totals = BTreeMap::new();
    for &row in &rows {
        let nothing = WholeStep { row, tokens: None, seconds: Some(0.0) };
        let step: &mut WholeStep = totals.entry(step_of(metrics, row)).or_insert(nothing);
        step.tokens = match (step.tokens, metrics.number("tokens", row)) {
            (Some(known), Some(own)) => Some(known + own),
            (known, own) => known.or(own),
        };
    }
    for row in turns.first_rows(metrics, rows) {
        if let Some(step) = totals.get_mut(&step_of(metrics, row)) {
            let own = metrics.number("seconds", row);
            step.seconds = step.seconds.zip(own).map(|(known, own)| known + own);
        }
    }
    totals
}

/// The rows of every step with the same text in `column` and the same terms, in the order of the first row of
/// each.
pub fn gathered(
    metrics: &ColumnTable,
    rows: impl IntoIterator<Item = usize>,
    column: &str,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<_, usize> = HashMap::new();
    for row in rows {
        let of = (metrics.text(column, row), metrics.text("terms", row));
        let group = *known.entry((step_of(metrics, row), of)).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A number of a group of rows: their sum, their maximum or their mean. `None` where one of them lacks it.
pub fn number(metrics: &ColumnTable, name: &str, rows: &[usize]) -> Option<f64> {
    if let [row] = rows {
        return metrics.number(name, *row);
    }
    let share = match MetricDefinition::of(name).map(|metric| metric.pooling) {
        Some(Pooling::Share | Pooling::Sum) => {
            return rows.iter().map(|row| metrics.number(name, *row)).sum();
        }
        Some(Pooling::Max) => {
            let values: Option<Vec<f64>> = rows.iter().map(|row| metrics.number(name, *row)).collect();
            return values?.into_iter().reduce(f64::max);
        }
        Some(Pooling::Completions) => "prompt_share",
        None if name.starts_with(REWARD_PART) => "prompt_share",
        Some(Pooling::Tokens | Pooling::Step) | None => "token_share",
    };
    let share = |row: &usize| metrics.number(share, *row).unwrap_or(0.0);
    let whole: f64 = rows.iter().map(share).sum();
    // A row without a share has no mean.
    let rows = rows.iter().filter(|row| share(row) > 0.0);
    let sum: Option<f64> = rows.map(|row| Some(metrics.number(name, *row)? * share(row))).sum();
    sum.filter(|_| whole > 0.0).map(|sum| sum / whole)
}

/// Two steps of the stage `pair`. The turn `lead` is in the first step only; `follow` has two domains there.
#[cfg(test)]
pub fn pair() -> (ColumnTable, LearnerTurns) {
    use mopd_plan::events::{ColumnValues, ReadColumn};
    let column = |name: &str, values| ReadColumn { name: name.to_owned(), values };
    let texts = |values: [&str; 4]| ColumnValues::Texts(values.map(|text| Some(text.to_owned())).to_vec());
    let numbers = |values: [f64; 4]| ColumnValues::Numbers(values.map(Some).to_vec());
    let metrics = ColumnTable::from(vec![
        column("seed", ColumnValues::Wholes([1; 4].map(Some).to_vec())),
        column("step", ColumnValues::Wholes([0, 0, 0, 1].map(Some).to_vec())),
        column("stage", texts(["pair"; 4])),
        column("domain", texts(["a", "b", "a", "a"])),
        column("terms", texts(["follow", "follow", "lead", "follow"])),
        column("loss", numbers([0.5, 0.5, 4.0, 0.25])),
        column("tokens", numbers([8.0; 4])),
        column("seconds", numbers([1.0, 1.0, 1.5, 1.0])),
    ]);
    (metrics, LearnerTurns(HashSet::from(["pair".to_owned()])))
}

#[cfg(test)]
mod tests {
    use mopd_plan::events::{ColumnValues, ReadColumn};

    use super::*;

    /// Two models learn in turns: a step takes the time of both, and each turn has its own rows.
    #[test]
    fn a_step_takes_the_time_of_all_its_turns() {
        let (metrics, turns) = pair();
        let totals = totals_of_steps(&metrics, 0..metrics.rows(), &turns);
        let totals: Vec<_> = totals.into_values().map(|step| (step.row, step.tokens, step.seconds)).collect();
        assert_eq!(totals, [(0, Some(24.0), Some(2.5)), (3, Some(8.0), Some(1.0))]);
        assert_eq!(turns.first_rows(&metrics, 0..metrics.rows()), [0, 2, 3]);
        // The terms of a stage with one learner share the step, and its time.
        let totals = totals_of_steps(&metrics, 0..metrics.rows(), &LearnerTurns::default());
        assert_eq!(totals.into_values().next().and_then(|step| step.seconds), Some(1.0));
    }

    /// One step of two domains; the first one has two teachers, with a fifth and two fifths of the prompts.
    #[test]
    fn metrics_of_teachers_are_combined_by_domain() {
        let column = |name: &str, values| ReadColumn { name: name.to_owned(), values };
        let texts =
            |values: [&str; 3]| ColumnValues::Texts(values.map(|text| Some(text.to_owned())).to_vec());
        let numbers = |values: [f64; 3]| ColumnValues::Numbers(values.map(Some).to_vec());
        let metrics = ColumnTable::from(vec![
            column("domain", texts(["sort", "sort", "reverse"])),
            column("teacher", texts(["small", "big", "big"])),
            column("prompt_share", numbers([0.2, 0.4, 0.4])),
            column("token_share", numbers([0.1, 0.3, 0.6])),
            column("reward", numbers([1.0, 0.25, 0.5])),
            column("truncated", numbers([0.0, 0.75, 0.5])),
            column("unstated", numbers([1.0, 2.0, 0.0])),
            column("divergence", numbers([2.0, 1.0, 0.5])),
            column("clipped_fraction", ColumnValues::Numbers(vec![None, Some(0.5), None])),
        ]);
        let domains = gathered(&metrics, 0..3, "domain");
        assert_eq!(domains, [vec![0, 1], vec![2]]);
        let near = |name, rows: &[usize], expected: f64| {
            assert!((number(&metrics, name, rows).unwrap() - expected).abs() < 1e-12, "{name}");
        };
        near("prompt_share", &domains[0], 0.6);
        near("reward", &domains[0], 0.5);
        near("divergence", &domains[0], 1.25);
        near("truncated", &domains[0], 0.5);
        near("unstated", &domains[0], 3.0);
        near("divergence", &domains[1], 0.5);
        assert_eq!(number(&metrics, "clipped_fraction", &domains[0]), None);
        let teachers = gathered(&metrics, 0..3, "teacher");
        assert_eq!(teachers, [vec![0], vec![1, 2]]);
        near("token_share", &teachers[1], 0.9);
    }
}
