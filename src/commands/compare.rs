//! `mopd compare`: the differences between runs, in meaning and in results.

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_plan::Plan;
use mopd_plan::difference::{InputChange, PlanDifference, difference, input_changes};
use mopd_plan::events::{CompareJob, Event, Failure, Job};
use mopd_plan::results::{ComparedCell, ComparedTable};

use crate::args::{CompareArgs, CompareFormat};
use crate::host::as_text;
use crate::intervals;
use crate::output::{self, Style, counted, printable};
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::{REWARDS, RunFolder};
use crate::worker;

/// A run compared with the first one.
struct Pair<'a> {
    before: &'a str,
    after: &'a str,
    meaning: MeaningChange,
    common: CommonTables,
}

/// The tables that a run has in common with the first one.
pub enum CommonTables {
    Some(Vec<ComparedTable>),
    None { reason: String },
}

impl CommonTables {
    pub fn tables(&self) -> &[ComparedTable] {
        match self {
            CommonTables::Some(tables) => tables,
            CommonTables::None { .. } => &[],
        }
    }

    pub fn reason_for_none(&self) -> Option<&str> {
        match self {
            CommonTables::Some(_) => None,
            CommonTables::None { reason } => Some(reason),
        }
    }
}

pub struct MeaningChange {
    difference: PlanDifference,
    /// How many stages of each run the other does not compute, of how many.
    only: [(usize, usize); 2],
    inputs: Vec<InputChange>,
    /// Other possible causes of a difference: seeds, versions.
    circumstances: Vec<String>,
    /// Whether the runs have different forks.
    forked: bool,
}

pub fn compare(arguments: &CompareArgs) -> Result<CommandStatus, Problem> {
    let runs = arguments.runs.iter().map(|path| RunFolder::open(path)).collect::<Result<Vec<_>, _>>()?;
    for run in &runs {
        if !run.path.join(REWARDS).is_file() {
            let message =
                format!("{} has no {REWARDS}, which a comparison of tables needs", run.path.display());
            return Err(Problem::usage("no-results", message).help(
                "an unfinished run, or one by an earlier mopd, does not have it: run the experiment \
                again; finished stages are kept",
            ));
        }
        if run.results.is_none() {
            let message = format!("{} is not finished: it has no results for its plan", run.path.display());
            return Err(Problem::usage("no-results", message)
                .help("run the experiment again: finished stages are kept"));
        }
    }
    let names = runs.iter().map(|run| as_text(&run.path)).collect::<Result<Vec<_>, _>>()?;
    let (first, others) = runs.split_first().expect("the command line asks for two at least");
    let common = common_tables(first, others)?;
    let pairs = others.iter().zip(&names[1..]).zip(common).map(|((other, name), common)| Pair {
        before: &names[0],
        after: name,
        meaning: meaning(first, other),
        common,
    });
    let pairs: Vec<Pair> = pairs.collect();
    // A line of these files is a number.
    for Pair { before, after, common, .. } in &pairs {
        if let (Some(why), CompareFormat::Csv) = (common.reason_for_none(), arguments.format) {
            output::error(&format!("warning: {} -> {}: {why}\n", printable(before), printable(after)));
        }
    }
    let text = match arguments.format {
        CompareFormat::Text => text(&pairs, Style::of_stdout()),
        CompareFormat::Markdown => markdown(&pairs),
        CompareFormat::Latex => latex(&pairs),
        CompareFormat::Csv => csv(&pairs),
    };
    output::result(&text);
    Ok(CommandStatus::Success)
}

/// The differences between two runs other than their results.
pub fn meaning(before: &RunFolder, after: &RunFolder) -> MeaningChange {
    let (mut circumstances, mut inputs) = (Vec::new(), Vec::new());
    let forks =
        |run: &RunFolder| run.results.as_ref().map(|results| results.forks.clone()).unwrap_or_default();
    let forked = forks(before) != forks(after);
    if let (Some(before), Some(after)) = (&before.results, &after.results) {
        inputs = input_changes(before, after);
        let list = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        for (run, results) in [("before", before), ("after", after)] {
            circumstances.extend(results.forks.iter().map(|fork| format!("{run}: {}", fork.described())));
        }
        if before.seeds != after.seeds {
            circumstances.push(format!("seeds {} -> {}", list(&before.seeds), list(&after.seeds)));
        }
        for (name, old, new) in [
            ("mopd", &before.versions.mopd, &after.versions.mopd),
            ("libtorch", &before.versions.libtorch, &after.versions.libtorch),
        ] {
            if old != new {
                circumstances.push(format!("{name} {old} -> {new}"));
            }
        }
    }
    let there = difference(&before.plan, &after.plan);
    let here = difference(&after.plan, &before.plan);
    let only = [&here, &there].map(|one| (one.reruns.len(), one.stages));
    MeaningChange { difference: there, only, inputs, circumstances, forked }
}

impl MeaningChange {
    /// The differences as text, one line each.
    pub fn lines(&self) -> Vec<String> {
        let items = self.difference.items.iter().map(ToString::to_string);
        let inputs = self.inputs.iter().map(ToString::to_string);
        items.chain(inputs).chain(self.circumstances.iter().cloned()).map(|line| printable(&line)).collect()
    }

    pub fn summary(&self) -> String {
        let [(before, before_all), (after, after_all)] = self.only;
        if self.difference.items.is_empty() && before + after == 0 {
            let what = match (self.inputs.is_empty(), self.forked) {
                (_, true) => "the same plan, but a stage was forked from another text",
                (true, false) => "the same experiment",
                (false, false) => "the same plan with different data or reward files",
            };
            return what.to_owned();
        }
        if (before, before_all) != (after, after_all) {
            return format!(
                "{before} of {} {} only in the first, {after} of {} only in the second",
                counted(before_all, "stage"),
                if before == 1 { "is" } else { "are" },
                counted(after_all, "stage"),
            );
        }
        match after {
            0 => format!("all {} compute the same", counted(after_all, "stage")),
            n => format!(
                "{n} of {} {} something else",
                counted(after_all, "stage"),
                if n == 1 { "computes" } else { "compute" }
            ),
        }
    }
}

/// Why two runs have no table in common.
fn nothing_in_common(before: &Plan, after: &Plan) -> String {
    let names = |plan: &Plan| -> Vec<String> {
        plan.experiment.comparisons.iter().map(|comparison| comparison.name.clone()).collect()
    };
    let (first, second) = (names(before), names(after));
    let listed = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("\"{}\"", printable(name))).collect::<Vec<_>>().join(", "),
    };
    if first.is_empty() && second.is_empty() {
        return "neither run has a `compare`".to_owned();
    }
    // If each run has one table only, their names may differ.
    if first.iter().any(|name| second.contains(name)) || (first.len(), second.len()) == (1, 1) {
        return "the tables of the two runs have no domain in common".to_owned();
    }
    format!(
        "the two runs have no table with the same name: the first has {}, the second {}",
        listed(&first),
        listed(&second)
    )
}

/// The tables that each of the others has in common with the first run.
pub fn common_tables<'a>(
    first: &RunFolder,
    others: impl IntoIterator<Item = &'a RunFolder>,
) -> Result<Vec<CommonTables>, Problem> {
    let others: Vec<&RunFolder> = others.into_iter().collect();
    let runs = std::iter::once(first).chain(others.iter().copied());
    let runs = runs.map(|run| as_text(&run.path)).collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::new();
    let failed = |failure: &Failure| Problem::usage("can't-read", failure.message.clone());
    let status = worker::ask(&Job::Compare(CompareJob { runs }), failed, |event| {
        if let Event::Compared { tables } = event {
            found.push(tables);
        }
    })?;
    if !status.success() {
        return Err(worker::death(status));
    }
    assert_eq!(found.len(), others.len(), "one list of tables for each run after the first");
    let common = found.into_iter().zip(others).map(|(tables, other)| match tables.is_empty() {
        true => CommonTables::None { reason: nothing_in_common(&first.plan, &other.plan) },
        false => CommonTables::Some(tables),
    });
    Ok(common.collect())
}

/// The table's columns after the model.
pub fn columns(table: &ComparedTable) -> Vec<String> {
    let normalized = table.rows.iter().any(|row| row.cells.last().is_some_and(Option::is_some));
    let mut columns = table.domains.clone();
    columns.push("mean".to_owned());
    if normalized {
        columns.push("normalized".to_owned());
    }
    columns
}

/// Whether the models of a column certainly differ: the interval of the difference excludes 0 and covers
/// other prompts, and everything in it was sampled and judged in the same way.
pub fn is_clear(table: &ComparedTable, column: usize, cell: &ComparedCell) -> bool {
    let mut doubts = [&table.other_rewards, &table.other_sampling, &table.one_prompt].into_iter();
    let doubtful = match table.domains.get(column) {
        Some(domain) => doubts.any(|domains| domains.contains(domain)),
        // The mean over all domains.
        None => doubts.any(|domains| !domains.is_empty()),
    };
    !doubtful && (cell.difference.low > 0.0 || cell.difference.high < 0.0)
}

/// `+0.04 [+0.02, +0.06]`
pub fn span(cell: &ComparedCell) -> String {
    intervals::signed_span(&cell.difference)
}

/// How the intervals were computed, and what they do not include.
pub fn notes(table: &ComparedTable) -> Vec<String> {
    let seeds = if table.same_seeds {
        "prompts and seeds are paired"
    } else {
        "prompts are paired; seeds, which differ, are not"
    };
    let one_seed = match table.seeds {
        [1, 1] => "; with one seed, the interval is over prompts alone",
        [1, _] => "; the first run has one seed, so the variation between its seeds is left out",
        [_, 1] => "; the second run has one seed, so the variation between its seeds is left out",
        _ => "",
    };
    let mut notes = vec![format!(
        "difference of means with its 95% interval; {seeds}{one_seed}; * marks an interval that excludes 0"
    )];
    let doubts = [
        (&table.other_tests, "the test prompts differ, so nothing is paired there"),
        (
            &table.other_rewards,
            "the rewards differ, so differences there and over all domains do not compare the models",
        ),
        (
            &table.other_sampling,
            "the sampling differs, so differences there and over all domains do not compare the models",
        ),
        (
            &table.one_prompt,
            "with one test prompt, the intervals there and over all domains do not include the variation \
             between prompts",
        ),
        (&table.only_before, "only in the first run"),
        (&table.only_after, "only in the second run"),
    ];
    let given = doubts.into_iter().filter(|(names, _)| !names.is_empty());
    notes.extend(given.map(|(names, text)| format!("{text}: {}", names.join(", "))));
    notes
}

fn grid(table: &ComparedTable) -> Grid {
    let columns = columns(table);
    let mut grid = Grid::new();
    let header =
        std::iter::once("model".to_owned()).chain(columns.iter().cloned()).map(|name| printable(&name));
    grid.load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in &table.rows {
        let cells = row.cells.iter().take(columns.len()).enumerate().map(|(column, cell)| match cell {
            Some(cell) => span(cell) + if is_clear(table, column, cell) { " *" } else { "  " },
            None => String::new(),
        });
        grid.add_row(std::iter::once(printable(&row.model)).chain(cells));
    }
    for index in 1..=columns.len() {
        if let Some(column) = grid.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    grid
}

fn text(pairs: &[Pair], style: Style) -> String {
    let mut out = String::new();
    for pair in pairs {
        let head = format!("{} -> {}", printable(pair.before), printable(pair.after));
        out += &format!("{}: {}\n", style.bold(&head), pair.meaning.summary());
        for line in pair.meaning.lines() {
            out += &format!("  {line}\n");
        }
        for table in pair.common.tables() {
            out += &format!("\n{}\n", style.bold(&printable(&table.name)));
            out += &format!("{}\n", grid(table));
            for note in notes(table) {
                out += &format!("  {}\n", style.dim(&printable(&note)));
            }
        }
        if let Some(why) = pair.common.reason_for_none() {
            out += &format!("\n{why}\n");
        }
        out += "\n";
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn markdown(pairs: &[Pair]) -> String {
    let mut out = String::new();
    for pair in pairs {
        out += &format!(
            "## `{}` -> `{}`\n\n{}.\n\n",
            printable(pair.before),
            printable(pair.after),
            pair.meaning.summary()
        );
        for line in pair.meaning.lines() {
            out += &format!("- {line}\n");
        }
        for table in pair.common.tables() {
            // In Markdown a bar would end a cell.
            out += &format!(
                "\n### {}\n\n{}\n\n{}.\n",
                printable(&table.name),
                escaped_bars(table),
                notes(table).join(". ")
            );
        }
        if let Some(why) = pair.common.reason_for_none() {
            out += &format!("\n{why}.\n");
        }
        out += "\n";
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn escaped_bars(table: &ComparedTable) -> Grid {
    let escape = |text: &String| text.replace('|', "\\|");
    let mut table = table.clone();
    table.domains = table.domains.iter().map(escape).collect();
    for row in &mut table.rows {
        row.model = escape(&row.model);
    }
    grid(&table)
}

fn latex(pairs: &[Pair]) -> String {
    let mut out = String::new();
    for pair in pairs {
        out += &format!(
            "% {} -> {}: {}\n",
            printable(pair.before),
            printable(pair.after),
            pair.meaning.summary()
        );
        for line in pair.meaning.lines() {
            out += &format!("%   {}\n", line.replace('\n', " "));
        }
        for table in pair.common.tables() {
            let columns = columns(table);
            out += &format!("% {}; needs the package booktabs\n", printable(&table.name).replace('\n', " "));
            for note in notes(table) {
                out += &format!("% {}\n", printable(&note).replace('\n', " "));
            }
            out += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(columns.len()));
            let header = std::iter::once("model").chain(columns.iter().map(String::as_str)).map(in_latex);
            out += &format!("{} \\\\\n\\midrule\n", header.collect::<Vec<_>>().join(" & "));
            for row in &table.rows {
                let cells =
                    row.cells.iter().take(columns.len()).enumerate().map(|(column, cell)| match cell {
                        Some(cell) => {
                            let [mean, low, high] = intervals::signed_parts(&cell.difference);
                            let mark = if is_clear(table, column, cell) { "^{*}" } else { "" };
                            format!("${mean}{mark}$ {{\\scriptsize $[{low}, {high}]$}}")
                        }
                        None => "--".to_owned(),
                    });
                let cells = std::iter::once(in_latex(&row.model)).chain(cells);
                out += &format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "));
            }
            out += "\\bottomrule\n\\end{tabular}\n";
        }
        if let Some(why) = pair.common.reason_for_none() {
            out += &format!("% {}\n", why.replace('\n', " "));
        }
    }
    out
}

fn in_latex(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\n' => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}

/// One line per number, for programs.
fn csv(pairs: &[Pair]) -> String {
    let mut out = "first,second,table,model,column,mean_first,mean_second,difference,low,high,\
                   paired_prompts,paired_seeds\n"
        .to_owned();
    for pair in pairs {
        for table in pair.common.tables() {
            for row in &table.rows {
                for (column, cell) in columns(table).iter().zip(&row.cells) {
                    let Some(ComparedCell { before, after, difference }) = cell else { continue };
                    let paired = match table.domains.contains(column) {
                        true => !table.other_tests.contains(column),
                        // The mean over all domains.
                        false => table.other_tests.is_empty(),
                    };
                    let names = [pair.before, pair.after, &table.name, &row.model, column].map(quoted);
                    let numbers = [*before, *after, difference.mean, difference.low, difference.high]
                        .map(|number| number.to_string());
                    let flags = [paired, table.same_seeds].map(|flag| flag.to_string());
                    let fields: Vec<String> = names.into_iter().chain(numbers).chain(flags).collect();
                    out += &(fields.join(",") + "\n");
                }
            }
        }
    }
    out
}

/// A field of a line (RFC 4180).
pub fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
