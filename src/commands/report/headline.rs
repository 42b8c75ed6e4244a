//! The headline of a run's page: its main result.

use mopd_plan::results::{Interval, Table};
use mopd_plan::{Comparison, ModelId, Recipe};
use serde::Serialize;

use super::LoadedRun;
use super::tables::{anchor_of, comparison, difference, differences, is_normalized};
use crate::intervals;
use crate::output::printable;

#[derive(Serialize)]
pub struct Headline {
    /// The parts of the text, each with the target of its link, if any.
    parts: Vec<(Option<String>, String)>,
    /// The meaning of the numbers.
    note: String,
}

/// From the first table with a distilled model, otherwise from the first with any number.
pub fn headline(run: &LoadedRun) -> Option<Headline> {
    let tables = || run.folder.results.iter().flat_map(|results| &results.tables);
    let found =
        tables().find(|table| comparison(run, table).is_some_and(|known| distilled(run, known).is_some()));
    found.and_then(|table| of_table(run, table)).or_else(|| tables().find_map(|table| of_table(run, table)))
}

/// The first row that has only distilled models.
fn distilled(run: &LoadedRun, comparison: &Comparison) -> Option<usize> {
    let experiment = &run.folder.plan.experiment;
    let is_distilled = |id: &ModelId| {
        let trains = experiment.model(*id).stage.trains();
        trains.first().is_some_and(|train| train.recipe == Recipe::Distill)
    };
    comparison.rows.iter().position(|row| !row.models.is_empty() && row.models.iter().all(is_distilled))
}

fn of_table(run: &LoadedRun, table: &Table) -> Option<Headline> {
    let comparison = comparison(run, table)?;
    if comparison.rows.len() != table.rows.len() {
        return None;
    }
    let found = differences(run, table);
    let normalized = comparison.normalized.as_ref().filter(|_| is_normalized(table));
    let scores: Vec<Option<&Interval>> = match normalized {
        Some(_) => table.rows.iter().map(|row| row.normalized.as_ref()).collect(),
        None => found?.means.iter().map(Option::as_ref).collect(),
    };
    // The rows that a normalized score is relative to are always at 0 and 1.
    let is_anchor = |row: usize| {
        let models = &comparison.rows[row].models;
        normalized.is_some_and(|normalized| [&normalized.zero, &normalized.one].contains(&models))
    };
    let ranked = (0..scores.len()).filter(|row| !is_anchor(*row));
    let ranked: Vec<(usize, &Interval)> = ranked.filter_map(|row| Some((row, scores[row]?))).collect();
    let best =
        ranked.iter().copied().reduce(|best, next| if next.1.mean > best.1.mean { next } else { best })?;
    let subject = distilled(run, comparison).and_then(|row| Some((row, scores[row]?)));
    // Of several best rows, the one of the distilled model.
    let best = subject.filter(|(_, own)| own.mean == best.1.mean).unwrap_or(best);

    let label = |models: &[ModelId]| {
        let row = comparison.rows.iter().find(|row| row.models == models).map(|row| row.label.clone());
        row.unwrap_or_else(|| {
            let mut names: Vec<&str> =
                models.iter().map(|id| run.folder.plan.experiment.model(*id).name.as_str()).collect();
            names.dedup();
            names.join(", ")
        })
    };
    let row_link = |row: usize| {
        let name = &comparison.rows[row].label;
        (Some(anchor_of(run, Some(comparison), name, 0)), printable(name))
    };
    let text = |text: String| (None, text);
    let score = |interval: &Interval| match normalized {
        Some(_) => percent(interval),
        None => fraction(interval),
    };
    let of_what = match normalized {
        Some(normalized) => format!(
            " of what {} gains over {}",
            printable(&label(&normalized.one)),
            printable(&label(&normalized.zero))
        ),
        None => String::new(),
    };
    let verb = if normalized.is_some() { "keeps " } else { "has " };
    let mut parts = Vec::new();
    match subject {
        Some((row, own)) if row == best.0 => {
            parts.extend([row_link(row), text(format!(" {verb}{}{of_what}", score(own)))]);
            if ranked.len() > 1 {
                parts.push(text(format!("; best of {} rows", ranked.len())));
            }
        }
        Some((row, own)) => {
            parts.extend([row_link(row), text(format!(" {verb}{}{of_what}; best: ", score(own)))]);
            parts.extend([row_link(best.0), text(format!(" {}", score(best.1)))]);
            // The normalized score is last; the mean over columns is before it.
            let back = if normalized.is_some() { 1 } else { 2 };
            let lead = found.and_then(|found| {
                let all = difference(found, best.0, row)?;
                all.get(all.len().checked_sub(back)?)?.clone()
            });
            if let Some(lead) = lead {
                let lead = if normalized.is_some() { points(&lead) } else { signed(&lead) };
                parts.push(text(format!(", a difference of {lead}")));
            }
        }
        None => {
            parts.extend([text("best: ".to_owned()), row_link(best.0)]);
            parts.push(text(format!(" {verb}{}{of_what}", score(best.1))));
        }
    }
    let over = table.intervals.map(|intervals| format!(" {}", intervals.name())).unwrap_or_default();
    let of_columns = match table.domains.len() {
        1 => String::new(),
        n => format!(", mean over {n} domains"),
    };
    let what = if normalized.is_some() { "normalized " } else { "" };
    Some(Headline {
        parts,
        note: printable(&format!("{}: {what}{}{of_columns}; 95% intervals{over}.", table.name, table.metric)),
    })
}

/// `100% [97, 102]`
fn percent(interval: &Interval) -> String {
    let [mean, low, high] = [interval.mean, interval.low, interval.high].map(whole);
    format!("{mean}% [{low}, {high}]")
}

/// Percent without decimals; a number that rounds to 0 has no sign.
fn whole(part: f64) -> String {
    let text = format!("{:.0}", 100.0 * part);
    if text == "-0" { "0".to_owned() } else { text.replace('-', "\u{2212}") }
}

fn points(difference: &Interval) -> String {
    let [mean, low, high] = [difference.mean, difference.low, difference.high].map(|part| {
        let text = whole(part);
        if text.starts_with('\u{2212}') || text == "0" { text } else { format!("+{text}") }
    });
    format!("{mean} points [{low}, {high}]")
}

fn fraction(interval: &Interval) -> String {
    intervals::span(interval).replace('-', "\u{2212}")
}

fn signed(difference: &Interval) -> String {
    intervals::signed_span(difference).replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_short() {
        let interval = |mean, low, high| Interval { mean, low, high };
        assert_eq!(percent(&interval(0.996, 0.97, 1.02)), "100% [97, 102]");
        assert_eq!(percent(&interval(-0.001, -0.2, 0.2)), "0% [\u{2212}20, 20]");
        assert_eq!(points(&interval(0.04, -0.012, 0.09)), "+4 points [\u{2212}1, +9]");
        assert_eq!(fraction(&interval(0.5, 0.25, 0.75)), "0.50 [0.25, 0.75]");
        assert_eq!(signed(&interval(-0.001, -0.25, 0.25)), "+0.00 [\u{2212}0.25, +0.25]");
    }
}
