//! The tables of a run: as text, as data for charts, and the differences between their rows.

use minijinja::context;
use minijinja::value::Value;
use mopd_plan::results::{Interval, RowDifferences, Table, TableRow};
use mopd_plan::{Comparison, ModelId};
use serde::Serialize;

use super::answers::{TableAnswers, absent, of_tables};
use super::{LoadedRun, Rounded};
use crate::commands::compare::{self, CommonTables};
use crate::headline::{difference, is_normalized};
use crate::intervals;
use crate::output::{counted, printable};

/// The most numbers of all differences of a table.
const DIFFERENCES: usize = 30_000;

#[derive(Serialize)]
pub struct TableData {
    name: String,
    domains: Vec<String>,
    normalized: bool,
    rows: Vec<RowData>,
    /// The differences by reference row: for as many of the first rows as there is room for.
    references: Vec<Reference>,
    /// The sources of variation in the intervals of differences, as text.
    paired: String,
    /// The columns whose differences have no asterisk, because their intervals do not cover other prompts.
    unclear: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<TableAnswers>,
}

#[derive(Serialize)]
struct RowData {
    model: String,
    /// One cell per domain, then the normalized score, if there is one.
    cells: Vec<Option<ScoreBounds>>,
}

/// The mean, and the bounds of its 95% interval.
pub type ScoreBounds = [Rounded; 3];

#[derive(Serialize)]
struct Reference {
    row: usize,
    /// For every row, the difference of every column; `None` for the reference itself.
    rows: Vec<Vec<Option<Difference>>>,
}

/// The mean, the bounds of its 95% interval, and the decimals of all three.
type Difference = (Rounded, Rounded, Rounded, usize);

pub fn bounds(interval: &Interval) -> ScoreBounds {
    [Rounded(interval.mean), Rounded(interval.low), Rounded(interval.high)]
}

fn shown_difference(interval: &Interval) -> Difference {
    let [mean, low, high] = bounds(interval);
    (mean, low, high, intervals::decimals_of_difference(interval))
}

pub fn comparison<'a>(run: &'a LoadedRun, table: &Table) -> Option<&'a Comparison> {
    run.folder.plan.experiment.comparisons.iter().find(|comparison| comparison.name == table.name)
}

/// The differences between the rows of a table, if the worker compared them.
fn differences<'a>(run: &'a LoadedRun, table: &Table) -> Option<&'a RowDifferences> {
    let found = run.differences.iter().find(|found| found.table == table.name)?;
    (found.means.len() == table.rows.len()).then_some(found)
}

/// The page and its budget are shared by several runs.
pub fn data(run: &LoadedRun, runs: usize) -> Vec<TableData> {
    let tables = run.folder.results.iter().flat_map(|results| &results.tables);
    let with_answers = tables.zip(of_tables(run, runs));
    with_answers.map(|(table, answers)| table_data(run, table, answers)).collect()
}

fn table_data(run: &LoadedRun, table: &Table, answers: Option<TableAnswers>) -> TableData {
    let normalized = is_normalized(table);
    let rows = table.rows.iter().map(|row| {
        let scores = table.domains.iter().map(|domain| {
            let score = row.scores.get(domain)?;
            Some([Rounded(score.mean), Rounded(score.low), Rounded(score.high)])
        });
        let last = row.normalized.as_ref().map(bounds);
        RowData { model: printable(&row.model), cells: scores.chain(normalized.then_some(last)).collect() }
    });
    let columns = table.domains.len() + usize::from(normalized);
    let room = DIFFERENCES / (3 * columns * table.rows.len()).max(1);
    let references = differences(run, table).map_or_else(Vec::new, |found| {
        let of = |to: usize| {
            let rows = (0..table.rows.len()).map(|row| {
                let all = difference(found, row, to).unwrap_or_default();
                // The mean over columns comes in between; the table does not show it.
                let place = |column| if column < table.domains.len() { column } else { column + 1 };
                let shown = (0..columns).map(|column| all.get(place(column))?.as_ref().map(shown_difference));
                shown.collect::<Vec<_>>()
            });
            Reference { row: to, rows: rows.collect() }
        };
        let has_any = |reference: &Reference| reference.rows.iter().flatten().any(Option::is_some);
        (0..table.rows.len().min(room)).map(of).filter(has_any).collect()
    });
    let seeds = comparison(run, table).map_or(1, |comparison| comparison.seeds);
    let one_prompt = differences(run, table).map_or(&[][..], |found| &found.one_prompt);
    let over = match seeds {
        0 | 1 => "over prompts, which are paired; with one seed, it says nothing of other seeds",
        _ => "over prompts and seeds, which are paired",
    };
    let paired = match one_prompt {
        [] => over.to_owned(),
        names => {
            format!("{over}; with one test prompt, it says nothing of other prompts: {}", names.join(", "))
        }
    };
    // A normalized score depends on all columns.
    let is_unclear = |column: &usize| match table.domains.get(*column) {
        Some(domain) => one_prompt.contains(domain),
        None => !one_prompt.is_empty(),
    };
    TableData {
        name: printable(&table.name),
        domains: table.domains.iter().map(|name| printable(name)).collect(),
        normalized,
        rows: rows.collect(),
        references,
        paired: printable(&paired),
        unclear: (0..columns).filter(is_unclear).collect(),
        answers,
    }
}

/// The tables that a run has in common with the first one of the page, as text.
pub fn compared(run: &LoadedRun) -> Vec<Value> {
    let tables = run.common.as_ref().map_or(&[][..], CommonTables::tables);
    let shown = tables.iter().map(|table| {
        let columns = compare::columns(table);
        let rows = table.rows.iter().map(|row| {
            let cells: Vec<Option<Value>> = (row.cells.iter().take(columns.len()).enumerate())
                .map(|(column, cell)| {
                    let cell = cell.as_ref()?;
                    let text = compare::span(cell).replace('-', "\u{2212}");
                    let decimals = 2 + intervals::decimals_of_difference(&cell.difference);
                    let title = format!("{:.decimals$} here, {:.decimals$} there", cell.after, cell.before);
                    Some(context! { text, title, clear => compare::is_clear(table, column, cell) })
                })
                .collect();
            context! { model => printable(&row.model), cells }
        });
        let columns: Vec<String> = columns.iter().map(|name| printable(name)).collect();
        let notes = compare::notes(table).iter().map(|note| printable(note)).collect::<Vec<_>>().join(". ");
        context! { name => printable(&table.name), notes, columns, rows => rows.collect::<Vec<_>>() }
    });
    shown.collect()
}

/// The tables as text. Every number has a link to its completions if they are on the page, else to its stage.
/// `first` is the index of the first table among those of all runs.
pub fn tables(run: &LoadedRun, data: &[TableData], first: usize) -> Vec<Value> {
    let mut shown_tables = Vec::new();
    let tables = run.folder.results.iter().flat_map(|results| &results.tables);
    for (place, (table, TableData { answers, .. })) in tables.zip(data).enumerate() {
        let comparison = comparison(run, table);
        let normalized = is_normalized(table);
        let best_scores: Vec<Option<f64>> = (table.domains.iter())
            .map(|domain| best(table.rows.iter().map(|row| row.scores.get(domain).map(|score| score.mean))))
            .collect();
        let best_normalized =
            best(table.rows.iter().map(|row| row.normalized.as_ref().map(|score| score.mean)));
        let rows: Vec<Value> = (table.rows.iter().enumerate())
            .map(|(index, row)| {
                let of_column = |column: usize| anchor_of(run, comparison, &row.model, column);
                let mut cells: Vec<Option<Value>> = Vec::new();
                for (column, domain) in table.domains.iter().enumerate() {
                    cells.push(row.scores.get(domain).map(|score| {
                        let interval = Interval { mean: score.mean, low: score.low, high: score.high };
                        let best = best_scores[column] == Some(score.mean);
                        let opens = answers.as_ref().is_some_and(|answers| answers.has(index, column));
                        let anchor = match opens {
                            true => format!("answers-{}-{index}-{column}", first + place),
                            false => of_column(column),
                        };
                        cell(&interval, anchor, Some(score.n), &score.by_seed, best)
                    }));
                }
                if normalized {
                    cells.push(row.normalized.as_ref().map(|interval| {
                        let best = best_normalized == Some(interval.mean);
                        cell(interval, of_column(0), None, &row.normalized_by_seed, best)
                    }));
                }
                context! {
                    model => printable(&row.model), anchor => of_column(0), cells,
                    spread => row.spread.map(|spread| format!("{spread:.2}")),
                }
            })
            .collect();
        let over = table.intervals.map(|intervals| format!(" {}", intervals.name())).unwrap_or_default();
        let several =
            table.rows.iter().flat_map(|row| row.scores.values()).any(|score| score.by_seed.len() > 1);
        let seeds = if several { "; below it, the mean of each seed" } else { "" };
        let opens = match (answers, absent(run, table)) {
            (Some(_), 0) => {
                "A number of a domain opens its completions; the name of a row leads to its stage.".to_owned()
            }
            (None, 0) => "Each number links to its stage.".to_owned(),
            (_, absent) => format!(
                "A number of a domain opens its completions, or leads to its stage: an earlier version of mopd \
                 stored {} without completions.",
                counted(absent, "number"),
            ),
        };
        let legend = format!(
            "{}, {}, {}. Mean and 95% interval{over}{seeds}. Marked: the highest of a column. {opens}",
            table.metric,
            crate::table::sampled(table, comparison),
            crate::table::prompts(table),
        );
        let domains: Vec<String> = table.domains.iter().map(|name| printable(name)).collect();
        let mut grids = vec![context! { metric => "", domains, normalized, rows }];
        grids.extend(table.metrics.iter().map(|metric| metric_grid(run, table, metric, comparison)));
        shown_tables.push(context! { name => printable(&table.name), legend, grids });
    }
    shown_tables
}

/// The highest mean of a column; `None` where all are the same.
fn best(means: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let means: Vec<f64> = means.flatten().filter(|mean| mean.is_finite()).collect();
    let highest = means.iter().copied().reduce(f64::max)?;
    means.iter().any(|mean| *mean < highest).then_some(highest)
}

/// The columns that have a metric.
fn metric_grid(run: &LoadedRun, table: &Table, metric: &str, comparison: Option<&Comparison>) -> Value {
    let of = |row: &TableRow, domain: &String| row.metrics.get(metric)?.get(domain).cloned();
    let asked = |domain: &str| table.rows.iter().any(|row| of(row, &domain.to_owned()).is_some());
    let columns: Vec<(usize, &String)> =
        table.domains.iter().enumerate().filter(|(_, domain)| asked(domain)).collect();
    let rows = table.rows.iter().map(|row| {
        let cells: Vec<Option<Value>> = (columns.iter())
            .map(|(column, domain)| {
                let score = of(row, domain)?;
                let interval = Interval { mean: score.mean, low: score.low, high: score.high };
                let anchor = anchor_of(run, comparison, &row.model, *column);
                // A higher value of a metric is not always better.
                Some(cell(&interval, anchor, Some(score.n), &score.by_seed, false))
            })
            .collect();
        let anchor = anchor_of(run, comparison, &row.model, 0);
        context! { model => printable(&row.model), anchor, cells }
    });
    let rows: Vec<Value> = rows.collect();
    let domains: Vec<String> = columns.iter().map(|(_, domain)| printable(domain)).collect();
    context! { metric, domains, normalized => false, rows }
}

/// The anchor of the stage of a row's model in a column.
pub fn anchor_of(run: &LoadedRun, comparison: Option<&Comparison>, row: &str, column: usize) -> String {
    let row = comparison.and_then(|comparison| comparison.rows.iter().find(|known| known.label == row));
    let model = row.and_then(|row| row.models.get(column));
    model.map_or_else(|| run.anchor("provenance"), |model: &ModelId| run.stage_anchor(*model))
}

/// A number with its interval, and a link to its stage.
fn cell(interval: &Interval, anchor: String, prompts: Option<u32>, by_seed: &[f64], best: bool) -> Value {
    let by_seed = if by_seed.len() > 1 { by_seed } else { &[] };
    let decimals = intervals::decimals(interval);
    let seeds = by_seed.iter().map(|mean| intervals::fixed(*mean, decimals)).collect::<Vec<_>>().join(" ");
    let prompts = prompts.map(|n| format!(", {}", counted(n as usize, "prompt"))).unwrap_or_default();
    let Interval { mean, low, high } = interval;
    let exact = |value: f64| intervals::fixed(value, decimals + 2);
    context! {
        mean => intervals::fixed(*mean, decimals),
        low => intervals::fixed(*low, decimals),
        high => intervals::fixed(*high, decimals),
        seeds,
        anchor,
        best,
        title => format!("{}, 95% interval {} to {}{prompts}", exact(*mean), exact(*low), exact(*high)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_a_column_stands_out() {
        let of = |means: &[Option<f64>]| best(means.iter().copied());
        assert_eq!(of(&[Some(0.5), None, Some(0.75), Some(f64::NAN)]), Some(0.75));
        assert_eq!(of(&[Some(0.5), Some(0.5)]), None);
        assert_eq!(of(&[None]), None);
    }
}
