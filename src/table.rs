//! The tables of `results.json` as Markdown: readable on a terminal, and ready to be pasted into a
//! README.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_plan::difference::NamedPlan;
use mopd_plan::events::{Prediction, TimeRange};
use mopd_plan::results::{Interval, Intervals, Results, Score, StageRecord, Table, TableRow};
use mopd_plan::{Comparison, Evaluation, Plan};

use crate::figures::{self, bytes, duration};
use crate::intervals;
use crate::output::{Style, counted};

/// Every table with its caption, followed by one for each further metric. On a terminal, the best value of a
/// column is bold.
pub fn show(results: &Results, plan: &Plan, style: Style) -> String {
    show_merged(results, &[NamedPlan { name: String::new(), plan }], style)
}

/// [`show`] for several runs with a merged table.
pub fn show_merged(results: &Results, runs: &[NamedPlan], style: Style) -> String {
    let tables = results.tables.iter().map(|table| {
        let mut shown =
            format!("{}\n\n{}\n", caption(table, runs, &results.seeds, style), grid(table, style));
        for metric in &table.metrics {
            let title = format!("{}, {metric}:", style.bold(&table.name));
            shown += &format!("\n{title}\n\n{}\n", grid_of(table, metric, style));
        }
        shown
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// The name of a row whose numbers are those of one of several runs.
pub fn row_of_run(model: &str, run: &str) -> String {
    format!("{model} [{run}]")
}

/// Texts of runs: a single text if all are the same, otherwise each text with its runs, as in `2 samples a
/// prompt [n=2], 8 samples a prompt [n=8]`.
pub fn by_run(said: impl IntoIterator<Item = (String, String)>) -> String {
    let mut texts: Vec<(String, Vec<String>)> = Vec::new();
    for (run, text) in said {
        match texts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, runs)) => runs.push(run),
            None => texts.push((text, vec![run])),
        }
    }
    match &texts[..] {
        [(text, _)] => text.clone(),
        texts => {
            let each = texts.iter().map(|(text, runs)| row_of_run(text, &runs.join("; ")));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// The distinct values, in the order of their first appearance.
pub fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

fn caption(table: &Table, runs: &[NamedPlan], seeds: &[u64], style: Style) -> String {
    let by_run = |say: &dyn Fn(&str, &Plan, Option<&Comparison>) -> String| {
        by_run(runs.iter().map(|NamedPlan { name: run, plan }| {
            let comparisons = &plan.experiment.comparisons;
            let comparison = comparisons.iter().find(|comparison| comparison.name == table.name);
            (run.clone(), say(run, plan, comparison))
        }))
    };
    let seeds_of = |plan: &Plan, comparison: Option<&Comparison>| match comparison {
        Some(comparison) => {
            let own = 0..u64::from(comparison.seeds);
            own.map(|index| plan.experiment.seed.wrapping_add(index)).collect()
        }
        None => seeds.to_vec(),
    };
    let named_seeds = |_: &str, plan: &Plan, comparison: Option<&Comparison>| {
        let seeds: Vec<String> = seeds_of(plan, comparison).iter().map(u64::to_string).collect();
        format!("{} {}", if seeds.len() == 1 { "seed" } else { "seeds" }, seeds.join(", "))
    };
    let intervals = |_: &str, plan: &Plan, comparison: Option<&Comparison>| {
        let own = comparison.map(|_| Intervals::for_seeds(seeds_of(plan, comparison).len()));
        // A merged table has none if its runs differ.
        let intervals = table.intervals.or(own.filter(|_| runs.len() > 1));
        intervals.map(|intervals| intervals.name().to_owned()).unwrap_or_default()
    };
    let over = by_run(&intervals);
    format!(
        "{}: {}, {}, {}, {}; mean [95% interval{}{over}]",
        style.bold(&table.name),
        table.metric,
        by_run(&|_, _, comparison| sampled(table, comparison)),
        by_run(&|run, _, _| prompts(&rows_of(table, run))),
        by_run(&named_seeds),
        if over.is_empty() { "" } else { " " },
    )
}

/// The table with only the rows of one run, if rows are named by their runs.
fn rows_of<'a>(table: &'a Table, run: &str) -> Cow<'a, Table> {
    let own = |row: &&TableRow| row.model.ends_with(&row_of_run("", run));
    let rows: Vec<TableRow> = table.rows.iter().filter(own).cloned().collect();
    if rows.is_empty() { Cow::Borrowed(table) } else { Cow::Owned(Table { rows, ..table.clone() }) }
}

/// `8 samples a prompt at temperature 1`, or the settings of each column if they differ.
pub fn sampled(table: &Table, comparison: Option<&Comparison>) -> String {
    let of = |evaluation: &Evaluation| {
        let samples = format!("{} a prompt", counted(evaluation.samples() as usize, "sample"));
        match evaluation.is_greedy() {
            true => samples,
            false => format!("{samples} at temperature {}", evaluation.sampling.temperature),
        }
    };
    let columns = comparison.map_or(&[][..], |comparison| &comparison.columns);
    let each: Vec<String> = columns.iter().map(|column| of(&column.evaluation)).collect();
    match &each[..] {
        [] => format!("{} a prompt", counted(table.samples as usize, "sample")),
        [first, others @ ..] if others.iter().all(|other| other == first) => first.clone(),
        each => {
            let named = table.domains.iter().zip(each);
            named.map(|(domain, sampled)| format!("{sampled} ({domain})")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// `200 prompts`, `200 prompts in each column`, or a number for each column if they differ.
pub fn prompts(table: &Table) -> String {
    let of =
        |domain: &String| table.rows.iter().find_map(|row| row.scores.get(domain)).map_or(0, |score| score.n);
    let counts: BTreeSet<u32> = table.domains.iter().map(of).collect();
    match counts.iter().collect::<Vec<_>>()[..] {
        [n] if table.domains.len() == 1 => counted(*n as usize, "prompt"),
        [n] => format!("{} in each column", counted(*n as usize, "prompt")),
        _ => {
            let each: Vec<String> =
                table.domains.iter().map(|domain| format!("{domain} {}", of(domain))).collect();
            format!("prompts: {}", each.join(", "))
        }
    }
}

/// The time and memory of the whole run.
pub fn whole(results: &Results, seconds: f64, peak_memory: u64) -> String {
    let before = match results.before_stages {
        short if short < 0.0995 * seconds => String::new(),
        before => format!(" ({} before the first stage)", duration(before)),
    };
    let predicted = match results.predicted_memory {
        Some(memory) => format!(" (predicted {})", bytes(memory)),
        None => String::new(),
    };
    format!("{}{before}, peak memory {}{predicted}", duration(seconds), bytes(peak_memory))
}

/// The measured and the predicted cost of each training stage: one line each, with means over its seeds.
/// Empty without training.
pub fn stages(records: &[StageRecord]) -> String {
    let mut by_name: BTreeMap<&str, Vec<&StageRecord>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.predicted.is_some()) {
        by_name.entry(&record.stage).or_default().push(record);
    }
    let width = by_name.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let line = |(name, records): (&&str, &Vec<&StageRecord>)| {
        let count = records.len() as f64;
        let took = records.iter().map(|record| record.seconds).sum::<f64>() / count;
        let predictions: Vec<Prediction> = records.iter().filter_map(|record| record.predicted).collect();
        let mean = |of: fn(&Prediction) -> f64| predictions.iter().map(of).sum::<f64>() / count;
        let range = TimeRange { least: mean(|it| it.range().least), most: mean(|it| it.range().most) };
        let expected = figures::predicted(mean(|it| it.seconds), range);
        let memory = records.iter().filter_map(|record| record.peak_memory).max();
        let most = predictions.iter().map(|it| it.memory).max().unwrap_or(0);
        let memory = match memory {
            Some(memory) => format!("peak memory {} (predicted {})", bytes(memory), bytes(most)),
            // The memory can't be attributed to one of them.
            None => format!("ran beside others (alone, peak memory {} was predicted)", bytes(most)),
        };
        format!("{name:>width$}  {:>10} (predicted {expected}), {memory}\n", duration(took))
    };
    by_name.iter().map(line).collect()
}

fn grid(table: &Table, style: Style) -> Grid {
    let normalized = table.rows.iter().any(|row| row.normalized.is_some());
    let mut header = vec!["model".to_owned()];
    header.extend(table.domains.iter().cloned());
    if normalized {
        header.extend(["normalized".to_owned(), "spread".to_owned()]);
    }
    let columns = header.len();

    let best = |values: Vec<Option<f64>>| {
        values.into_iter().flatten().filter(|value| value.is_finite()).reduce(f64::max)
    };
    let mean = |score: Option<&Score>| score.map(|score| score.mean);
    let best_scores: Vec<Option<f64>> = table
        .domains
        .iter()
        .map(|domain| best(table.rows.iter().map(|row| mean(row.scores.get(domain))).collect()))
        .collect();
    let best_normalized =
        best(table.rows.iter().map(|row| row.normalized.as_ref().map(|interval| interval.mean)).collect());

    let mut grid = empty(header, style);
    for row in &table.rows {
        let mut cells = vec![Cell::new(&row.model)];
        for (domain, best) in table.domains.iter().zip(&best_scores) {
            let score = row.scores.get(domain);
            let text = score.map(span).unwrap_or_default();
            cells.push(marked(text, score.is_some() && mean(score) == *best));
        }
        if normalized {
            let text = row.normalized.as_ref().map(intervals::span).unwrap_or_default();
            cells.push(marked(
                text,
                row.normalized.as_ref().is_some_and(|interval| Some(interval.mean) == best_normalized),
            ));
            cells.push(Cell::new(row.spread.map(|spread| format!("{spread:.2}")).unwrap_or_default()));
        }
        grid.add_row(cells);
    }
    aligned(grid, columns)
}

/// The columns that have a metric.
fn grid_of(table: &Table, metric: &str, style: Style) -> Grid {
    let of = |row: &TableRow, domain: &String| row.metrics.get(metric)?.get(domain).cloned();
    let domains: Vec<&String> = table
        .domains
        .iter()
        .filter(|domain| table.rows.iter().any(|row| of(row, domain).is_some()))
        .collect();
    let header = std::iter::once("model".to_owned()).chain(domains.iter().map(|domain| (*domain).clone()));
    let mut grid = empty(header.collect(), style);
    for row in &table.rows {
        let text = |domain: &&String| of(row, domain).as_ref().map(span).unwrap_or_default();
        grid.add_row(std::iter::once(row.model.clone()).chain(domains.iter().map(text)));
    }
    aligned(grid, 1 + domains.len())
}

fn empty(header: Vec<String>, style: Style) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    // The attribute is written only if the style allows it; comfy-table itself only tests for a terminal.
    if style.terminal {
        grid.enforce_styling();
    } else {
        grid.force_no_tty();
    }
    grid
}

/// Numbers are right-aligned.
fn aligned(mut grid: Grid, columns: usize) -> Grid {
    for index in 1..columns {
        if let Some(column) = grid.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    grid
}

fn span(score: &Score) -> String {
    intervals::span(&Interval { mean: score.mean, low: score.low, high: score.high })
}

fn marked(text: String, best: bool) -> Cell {
    if best { Cell::new(text).add_attribute(Attribute::Bold) } else { Cell::new(text) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mopd_plan::events::{Prediction, Versions};
    use mopd_plan::{Dtype, Experiment, GpuArithmetic, SCHEMA};

    use super::*;

    fn plan() -> Plan {
        Plan {
            schema: SCHEMA,
            hash: "h".to_owned(),
            experiment: Experiment {
                name: "e".to_owned(),
                seed: 1,
                out: None,
                device: None,
                dtype: Dtype::Float32,
                gpu: GpuArithmetic::default(),
                domains: Vec::new(),
                models: Vec::new(),
                comparisons: Vec::new(),
                marks: Vec::new(),
            },
            stages: Vec::new(),
            places: Vec::new(),
        }
    }

    fn row(model: &str, sort: f64, normalized: Option<f64>) -> TableRow {
        let score = Score {
            mean: sort,
            low: sort - 0.03,
            high: sort + 0.03,
            n: 200,
            samples: None,
            by_seed: vec![sort],
        };
        TableRow {
            model: model.to_owned(),
            scores: BTreeMap::from([("sort".to_owned(), score)]),
            normalized: normalized.map(|mean| Interval { mean, low: mean - 0.03, high: mean + 0.03 }),
            normalized_by_seed: normalized.into_iter().collect(),
            spread: normalized.map(|_| 0.031),
            metrics: BTreeMap::new(),
        }
    }

    fn results(rows: Vec<TableRow>) -> Results {
        Results {
            schema: SCHEMA,
            experiment: "e".to_owned(),
            plan: "h".to_owned(),
            keys: None,
            forks: Vec::new(),
            seeds: vec![1],
            versions: Versions { mopd: "0".to_owned(), libtorch: "0".to_owned() },
            device: None,
            data: Vec::new(),
            rewards: None,
            stages: Vec::new(),
            guards: Vec::new(),
            private: Vec::new(),
            before_stages: 0.0,
            predicted_memory: None,
            tables: vec![Table {
                name: "merging".to_owned(),
                metric: "pass@1".to_owned(),
                intervals: Some(Intervals::Prompts),
                samples: 8,
                domains: vec!["sort".to_owned()],
                metrics: Vec::new(),
                rows,
            }],
            seconds: 1.0,
            peak_memory: 1,
        }
    }

    #[test]
    fn a_table_is_markdown() {
        let results = results(vec![row("start", 0.46, Some(0.0)), row("student", 0.72, Some(0.95))]);
        let expected = "\
merging: pass@1, 8 samples a prompt, 200 prompts, seed 1; mean [95% interval over prompts alone: \
                        there is one seed]

| model   |              sort |         normalized | spread |
|---------|-------------------|--------------------|--------|
| start   | 0.46 [0.43, 0.49] | 0.00 [-0.03, 0.03] |   0.03 |
| student | 0.72 [0.69, 0.75] |  0.95 [0.92, 0.98] |   0.03 |
";
        let shown = show(&results, &plan(), Style::PLAIN);
        assert_eq!(shown, expected);
        assert!(shown.lines().all(|line| !line.contains('\u{1b}')));
    }

    #[test]
    fn the_best_of_a_column_is_bold_on_a_terminal() {
        let shown = show(
            &results(vec![row("start", 0.46, None), row("student", 0.72, None)]),
            &plan(),
            Style { terminal: true },
        );
        let line = |name: &str| shown.lines().find(|line| line.contains(name)).expect("a row").to_owned();
        assert!(!line("start ").contains("\u{1b}[1m"), "{shown}");
        assert!(
            line("student").contains("\u{1b}[1m") && line("student").contains("0.72 [0.69, 0.75]"),
            "{shown}"
        );
        assert!(!shown.contains("normalized"), "{shown}");
    }

    #[test]
    fn table_shows_time_and_memory_beside_predictions() {
        let mut results = results(Vec::new());
        assert_eq!(whole(&results, 20.0, 3 << 30), "20.0 s, peak memory 3.00 GiB");
        (results.before_stages, results.predicted_memory) = (4.0, Some(1 << 30));
        assert_eq!(
            whole(&results, 20.0, 3 << 30),
            "20.0 s (4.0 s before the first stage), peak memory 3.00 GiB (predicted 1.00 GiB)"
        );
        let predicted = Prediction {
            seconds: 2.0,
            rollout: 0.0,
            scoring: 0.0,
            update: 0.0,
            memory: 2 << 20,
            resting: 0,
            range: None,
        };
        let record = |stage: &str, peak_memory| StageRecord {
            stage: stage.to_owned(),
            seed: 1,
            seconds: 1.0,
            peak_memory,
            predicted: Some(predicted),
            scores_found: None,
        };
        assert_eq!(
            stages(&[record("student", Some(3 << 20)), record("expert", None)]),
            " expert       1.0 s (predicted 2.0 s), ran beside others (alone, peak memory 2.00 MiB was \
             predicted)\nstudent       1.0 s (predicted 2.0 s), peak memory 3.00 MiB (predicted 2.00 MiB)\n"
        );
    }

    #[test]
    fn a_score_that_is_missing_is_an_empty_cell() {
        let mut rows = vec![row("start", 0.46, None), row("student", 0.72, None)];
        rows[0].scores.clear();
        let shown = show(&results(rows), &plan(), Style::PLAIN);
        let empty = shown.lines().find(|line| line.contains("start")).expect("a row");
        assert_eq!(empty.replace(' ', ""), "|start||");
    }

    #[test]
    fn columns_of_other_lengths_are_named() {
        let mut table = results(vec![row("start", 0.46, None)]).tables.remove(0);
        assert_eq!(prompts(&table), "200 prompts");
        table.domains.push("sums".to_owned());
        let score = table.rows[0].scores["sort"].clone();
        table.rows[0].scores.insert("sums".to_owned(), score);
        assert_eq!(prompts(&table), "200 prompts in each column");
        table.rows[0].scores.get_mut("sums").expect("a score").n = 13;
        assert_eq!(prompts(&table), "prompts: sort 200, sums 13");
    }

    #[test]
    fn a_metric_has_a_table_of_its_own() {
        let mut results = results(vec![row("start", 0.46, None), row("student", 0.72, None)]);
        let table = &mut results.tables[0];
        table.domains.push("sums".to_owned());
        table.metrics = vec!["pass@8".to_owned()];
        let score =
            |mean| Score { mean, low: mean - 0.1, high: mean, n: 9, samples: None, by_seed: vec![mean] };
        for (row, mean) in table.rows.iter_mut().zip([0.5, 1.0]) {
            let of_sums = BTreeMap::from([("sums".to_owned(), score(mean))]);
            row.metrics = BTreeMap::from([("pass@8".to_owned(), of_sums)]);
        }
        let shown = show(&results, &plan(), Style::PLAIN);
        let (_, metric) = shown.split_once("merging, pass@8:\n\n").expect("the metric's table");
        let expected = "\
| model   |              sums |
|---------|-------------------|
| start   | 0.50 [0.40, 0.50] |
| student | 1.00 [0.90, 1.00] |
";
        assert_eq!(metric, expected);
    }
}
