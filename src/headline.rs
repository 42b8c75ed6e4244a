//! The main result of a run in a sentence: the last lines of `mopd run`, and the top of its page.
//!
//! A mean over domains can hide that a model forgot one of them. So a domain on which the model is below the
//! model that its training started from is said first, the domain that is farthest from a mean is named, and
//! a share of a gain whose interval is wider than the gain itself is not said at all.

use std::fmt;
use std::path::Path;

use mopd_plan::results::{Interval, Results, RowDifferences, RowPair, Table};
use mopd_plan::{Comparison, ModelId, Plan, Recipe};

use crate::intervals;
use crate::output::printable;

pub struct Headline<'a> {
    pub comparison: &'a Comparison,
    /// The parts of the text, some with the row that they name.
    pub parts: Vec<(Option<usize>, String)>,
    /// The meaning of the numbers.
    pub note: String,
    pub losses: Vec<Loss>,
}

/// A domain on which a row is certainly below the row that its training started from.
pub struct Loss {
    pub row: String,
    pub start: String,
    pub domain: String,
}

impl Loss {
    /// The command that shows the completions, for a shell.
    pub fn command(&self, run: &Path) -> String {
        let run = run.display().to_string();
        let Loss { row, start, domain } = self;
        // Only a text with a NUL character can't be quoted, and no name has one.
        let [run, row, start, domain] =
            [&run, row, start, domain].map(|word| shlex::try_quote(word).unwrap_or(word.into()));
        format!("mopd answers {run} --row {row} --against {start} --domain {domain} --wrong")
    }
}

/// The sentence without links.
impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.parts.iter().try_for_each(|(_, text)| f.write_str(text))?;
        f.write_str(".")
    }
}

/// From the first table with a distilled model, otherwise from the first with any number.
pub fn headline<'a>(plan: &'a Plan, results: &Results, found: &[RowDifferences]) -> Option<Headline<'a>> {
    let tables: Vec<_> =
        results.tables.iter().filter_map(|table| HeadlineTable::new(plan, table, found)).collect();
    let first = tables.iter().find(|table| table.distilled().is_some());
    first.and_then(HeadlineTable::headline).or_else(|| tables.iter().find_map(HeadlineTable::headline))
}

/// `of - to`, by column: domains, their mean, the normalized score.
pub fn difference(found: &RowDifferences, of: usize, to: usize) -> Option<Vec<Option<Interval>>> {
    let is = |first: usize, second: usize| {
        let same = |pair: &&RowPair| (pair.first as usize, pair.second as usize) == (first, second);
        found.pairs.iter().find(same).map(|pair| &pair.differences)
    };
    let turned =
        |interval: &Interval| Interval { mean: -interval.mean, low: -interval.high, high: -interval.low };
    is(to, of)
        .cloned()
        .or_else(|| Some(is(of, to)?.iter().map(|difference| difference.as_ref().map(turned)).collect()))
}

/// The first row of a table that has only distilled models.
pub fn distilled_row(plan: &Plan, table: &Table) -> Option<usize> {
    HeadlineTable::new(plan, table, &[])?.distilled()
}

pub fn is_normalized(table: &Table) -> bool {
    table.rows.iter().any(|row| row.normalized.is_some())
}

/// A table with its comparison, and the differences between its rows.
struct HeadlineTable<'p, 't> {
    plan: &'p Plan,
    comparison: &'p Comparison,
    table: &'t Table,
    found: Option<&'t RowDifferences>,
}

/// What a headline says of a row: its normalized score, or its mean over domains.
struct HeadlineScores<'t> {
    share: bool,
    scores: Vec<Option<&'t Interval>>,
}

impl<'p, 't> HeadlineTable<'p, 't> {
    fn new(plan: &'p Plan, table: &'t Table, found: &'t [RowDifferences]) -> Option<HeadlineTable<'p, 't>> {
        let comparison = plan.experiment.comparisons.iter().find(|known| known.name == table.name)?;
        let of_table =
            |found: &&RowDifferences| found.table == table.name && found.means.len() == table.rows.len();
        let found = found.iter().find(of_table);
        (comparison.rows.len() == table.rows.len()).then_some(HeadlineTable {
            plan,
            comparison,
            table,
            found,
        })
    }

    /// The first row that has only distilled models.
    fn distilled(&self) -> Option<usize> {
        let is_distilled = |id: &ModelId| {
            let trains = self.plan.experiment.model(*id).stage.trains();
            trains.first().is_some_and(|train| train.recipe == Recipe::Distill)
        };
        let rows = &self.comparison.rows;
        rows.iter().position(|row| !row.models.is_empty() && row.models.iter().all(is_distilled))
    }

    fn row_of(&self, models: &[ModelId]) -> Option<usize> {
        self.comparison.rows.iter().position(|row| row.models == models)
    }

    /// The row of the nearest models from which the training of a row's models started.
    fn start(&self, row: usize) -> Option<usize> {
        let mut models = self.comparison.rows[row].models.clone();
        loop {
            let start = |id: &ModelId| self.plan.experiment.model(*id).stage.start();
            models = models.iter().map(start).collect::<Option<Vec<_>>>()?;
            if let Some(found) = self.row_of(&models) {
                return Some(found);
            }
        }
    }

    /// Whether a row is one that shares are relative to: these are always at 0 and 1.
    fn is_anchor(&self, row: usize) -> bool {
        let models = &self.comparison.rows[row].models;
        let anchors = self.comparison.normalized.as_ref();
        anchors.is_some_and(|normalized| [&normalized.zero, &normalized.one].contains(&models))
    }

    /// Shares of the gain, if their intervals fit into its scale, otherwise means over domains.
    fn scores(&self) -> Option<HeadlineScores<'t>> {
        let rows = 0..self.table.rows.len();
        let shares: Vec<_> = self.table.rows.iter().map(|row| row.normalized.as_ref()).collect();
        let subject = self.distilled().filter(|row| shares[*row].is_some());
        let said = subject
            .map_or_else(|| rows.clone().filter(|row| !self.is_anchor(*row)).collect(), |row| vec![row]);
        let mut widths =
            said.iter().filter_map(|row| shares[*row]).map(|share| share.high - share.low).peekable();
        if widths.peek().is_some() && widths.all(|width| width <= 1.0) {
            return Some(HeadlineScores { share: true, scores: shares });
        }
        Some(HeadlineScores { share: false, scores: self.found?.means.iter().map(Option::as_ref).collect() })
    }

    fn score(&self, row: usize, column: usize) -> Option<f64> {
        Some(self.table.rows[row].scores.get(self.table.domains.get(column)?)?.mean)
    }

    fn named(&self, row: usize) -> (Option<usize>, String) {
        (Some(row), printable(&self.comparison.rows[row].label))
    }

    /// The label of a row, or the names of models that are not a row.
    fn label(&self, models: &[ModelId]) -> String {
        let of_models = || {
            let mut names: Vec<&str> =
                models.iter().map(|id| self.plan.experiment.model(*id).name.as_str()).collect();
            names.dedup();
            names.join(", ")
        };
        printable(&self.row_of(models).map_or_else(of_models, |row| self.comparison.rows[row].label.clone()))
    }

    fn headline(&self) -> Option<Headline<'p>> {
        // A single row is in the table, and compared with nothing.
        if self.table.rows.len() < 2 {
            return None;
        }
        let HeadlineScores { share, scores } = self.scores()?;
        let ranked = (0..scores.len()).filter(|row| !(share && self.is_anchor(*row)));
        let ranked: Vec<(usize, &Interval)> = ranked.filter_map(|row| Some((row, scores[row]?))).collect();
        let best = ranked
            .iter()
            .copied()
            .reduce(|best, next| if next.1.mean > best.1.mean { next } else { best })?;
        let subject = self.distilled().and_then(|row| Some((row, scores[row]?)));
        // Of several best rows, the one of the distilled model.
        let best = subject.filter(|(_, own)| own.mean == best.1.mean).unwrap_or(best);

        let normalized = self.comparison.normalized.as_ref().filter(|_| share);
        let text = |text: String| (None, text);
        let score = |interval: &Interval| if share { percent(interval) } else { fraction(interval) };
        let of_what = match normalized {
            Some(normalized) => {
                format!(
                    " of what {} gains over {}",
                    self.label(&normalized.one),
                    self.label(&normalized.zero)
                )
            }
            None => String::new(),
        };
        let verb = if share { "keeps " } else { "has " };
        let row = subject.map_or(best.0, |(row, _)| row);
        let (mut parts, losses, unclear) = self.changes(row);
        match subject {
            Some((row, own)) if row == best.0 => {
                parts.extend([self.named(row), text(format!(" {verb}{}{of_what}", score(own)))]);
                parts.extend(self.farthest(row, share));
                if ranked.len() > 1 {
                    parts.push(text(format!("; best of {} rows", ranked.len())));
                }
            }
            Some((row, own)) => {
                parts.extend([self.named(row), text(format!(" {verb}{}{of_what}", score(own)))]);
                parts.extend(self.farthest(row, share));
                parts.extend([text("; best: ".to_owned()), self.named(best.0)]);
                parts.push(text(format!(" {}", score(best.1))));
                // The normalized score is last; the mean over columns is before it.
                let back = if share { 1 } else { 2 };
                let lead = self.found.and_then(|found| {
                    let all = difference(found, best.0, row)?;
                    all.get(all.len().checked_sub(back)?)?.clone()
                });
                if let Some(lead) = lead {
                    let lead = if share { points(&lead) } else { signed(&lead) };
                    parts.push(text(format!(", a difference of {lead}")));
                }
            }
            None => {
                parts.extend([text("best: ".to_owned()), self.named(best.0)]);
                parts.push(text(format!(" {verb}{}{of_what}", score(best.1))));
                parts.extend(self.farthest(best.0, share));
            }
        }
        parts.extend(unclear);
        let table = self.table;
        let over = table.intervals.map(|intervals| format!(" {}", intervals.name())).unwrap_or_default();
        let of_columns = match table.domains.len() {
            1 => String::new(),
            n => format!(", mean over {n} domains"),
        };
        let what = if share { "normalized " } else { "" };
        let wide = match is_normalized(table) && !share {
            true => "; no share of the gain, because its interval is wider than the gain",
            false => "",
        };
        let note = format!("{}: {what}{}{of_columns}; 95% intervals{over}{wide}.", table.name, table.metric);
        Some(Headline { comparison: self.comparison, parts, note: printable(&note), losses })
    }

    /// What a row lost against the row that it started from: a sentence, its domains, and the losses that
    /// chance could explain.
    #[expect(clippy::type_complexity, reason = "parts of a headline")]
    fn changes(
        &self,
        row: usize,
    ) -> (Vec<(Option<usize>, String)>, Vec<Loss>, Option<(Option<usize>, String)>) {
        let nothing = || (Vec::new(), Vec::new(), None);
        let (Some(start), Some(found)) = (self.start(row), self.found) else { return nothing() };
        let Some(changes) = difference(found, row, start) else { return nothing() };
        let (mut clear, mut unclear, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for (column, domain) in self.table.domains.iter().enumerate() {
            let Some(Some(change)) = changes.get(column) else { continue };
            let (Some(before), Some(after)) = (self.score(start, column), self.score(row, column)) else {
                continue;
            };
            let shown = signed(change);
            if change.high < 0.0 && !found.one_prompt.contains(domain) {
                let name = |row: usize| self.comparison.rows[row].label.clone();
                losses.push(Loss { row: name(row), start: name(start), domain: domain.clone() });
                clear.push(format!("{} ({before:.2} → {after:.2}, {shown})", printable(domain)));
            } else if change.mean < 0.0 && !shown.starts_with('+') {
                unclear.push(format!("{} ({shown})", printable(domain)));
            }
        }
        let mut said = Vec::new();
        if !clear.is_empty() {
            let on = format!(" on {}. ", clear.join(", "));
            said.extend([self.named(row), (None, " is below ".to_owned()), self.named(start), (None, on)]);
        }
        let label = printable(&self.comparison.rows[start].label);
        let unclear = (!unclear.is_empty())
            .then(|| (None, format!("; below {label}, which may be chance, on {}", unclear.join(", "))));
        (said, losses, unclear)
    }

    /// The domain that decides a mean over several: the one farthest from it, with its score.
    fn farthest(&self, row: usize, share: bool) -> Option<(Option<usize>, String)> {
        let columns = 0..self.table.domains.len();
        let anchors = self.comparison.normalized.as_ref().filter(|_| share);
        let anchors =
            anchors.and_then(|anchors| Some((self.row_of(&anchors.zero)?, self.row_of(&anchors.one)?)));
        let value = |column: usize| {
            let own = self.score(row, column)?;
            let Some((zero, one)) = anchors else { return Some(own) };
            let (zero, one) = (self.score(zero, column)?, self.score(one, column)?);
            Some((own - zero) / (one - zero)).filter(|value| value.is_finite())
        };
        let values: Vec<f64> = columns.map(value).collect::<Option<_>>()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let distance = |value: f64| (value - mean).abs();
        // Of two at the same distance, the lower one.
        let farther = |one: &(usize, f64), other: &(usize, f64)| {
            let (near, far) = (distance(one.1), distance(other.1));
            if (near - far).abs() < 1e-9 { other.1.total_cmp(&one.1) } else { near.total_cmp(&far) }
        };
        let (column, value) = values.iter().copied().enumerate().max_by(farther)?;
        if distance(value) < ALIKE {
            return None;
        }
        let mut others = Vec::new();
        if let Some((zero, one)) = anchors {
            for row in [zero, one] {
                let label = printable(&self.comparison.rows[row].label);
                others.push(format!("{label} {:.2}", self.score(row, column)?));
            }
        }
        let beside = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        let domain = printable(&self.table.domains[column]);
        Some((
            None,
            format!("; farthest from that mean: {domain} with {:.2}{beside}", self.score(row, column)?),
        ))
    }
}

/// Domains that are nearer to their mean than this are not named: none of them decides it.
const ALIKE: f64 = 0.05;

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
mod tests;
