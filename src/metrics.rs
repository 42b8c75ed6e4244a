//! Aggregates rows of `metrics.parquet`: a domain whose prompts are routed to several teachers by their data
//! has a row for each.

use std::collections::{BTreeMap, HashMap};

pub use mopd_plan::columns::{OF_DOMAIN, OF_STEP};

use crate::run_folder::ColumnTable;

/// Columns whose sum over the rows of a step is 1.
pub const SHARES: [&str; 3] = ["prompt_share", "token_share", "signal_share"];
/// The prefixes of columns of the whole step whose names depend on the stage: states, gradients of parts of
/// the loss.
pub const NAMED: [&str; 3] = ["state.", "grad_norm.", "alignment."];
/// The prefix of the columns of reward parts, which are per domain.
pub const REWARD_PART: &str = "reward.";
/// Columns that are counts.
const COUNTS: [&str; 3] = ["dropped", "unavailable", "unstated"];
/// Columns that are means over completions; all other columns of a row are means over tokens.
const OF_COMPLETIONS: [&str; 6] = ["reward", "length", "truncated", "derived", "replayed", "staleness"];

/// The subject of a row: its domain, with the terms where some have completions of their own.
pub fn domain(metrics: &ColumnTable, row: usize) -> String {
    let domain = metrics.text("domain", row);
    match metrics.text("terms", row) {
        "" => domain.to_owned(),
        terms => format!("{domain} ({terms})"),
    }
}

/// The step of a row: its seed, its stage, its number.
pub fn step_of(metrics: &ColumnTable, row: usize) -> (u64, &str, u64) {
    (metrics.whole("seed", row), metrics.text("stage", row), metrics.whole("step", row))
}

/// The tokens of every step, summed over the rows that have the number, with the first of these rows.
pub fn tokens_of_steps(
    metrics: &ColumnTable,
    rows: impl IntoIterator<Item = usize>,
) -> BTreeMap<(u64, &str, u64), (usize, f64)> {
    let mut tokens = BTreeMap::new();
    for row in rows {
        if let Some(own) = metrics.number("tokens", row) {
            tokens.entry(step_of(metrics, row)).or_insert((row, 0.0)).1 += own;
        }
    }
    tokens
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
        let step = (metrics.whole("seed", row), metrics.text("stage", row), metrics.whole("step", row));
        let of = (metrics.text(column, row), metrics.text("terms", row));
        let group = *known.entry((step, of)).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A number of a group of rows: their sum or their mean. `None` where one of them lacks it.
pub fn number(metrics: &ColumnTable, name: &str, rows: &[usize]) -> Option<f64> {
    if let [row] = rows {
        return metrics.number(name, *row);
    }
    if SHARES.contains(&name) || COUNTS.contains(&name) {
        return rows.iter().map(|row| metrics.number(name, *row)).sum();
    }
    let share = if OF_COMPLETIONS.contains(&name) || name.starts_with(REWARD_PART) {
        "prompt_share"
    } else {
        "token_share"
    };
    let share = |row: &usize| metrics.number(share, *row).unwrap_or(0.0);
    let whole: f64 = rows.iter().map(share).sum();
    // A row without a share has no mean.
    let rows = rows.iter().filter(|row| share(row) > 0.0);
    let sum: Option<f64> = rows.map(|row| Some(metrics.number(name, *row)? * share(row))).sum();
    sum.filter(|_| whole > 0.0).map(|sum| sum / whole)
}

#[cfg(test)]
mod tests {
    use mopd_plan::events::{ColumnValues, ReadColumn};

    use super::*;

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
