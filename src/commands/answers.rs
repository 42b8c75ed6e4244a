//! `mopd answers`: the completions behind the numbers of a run's tables.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_lang::diag::nearest;
use serde_json::{Map, Value, json};

use super::compare::quoted;
use crate::answers::{self, CellName, EvaluatedCompletion, RunAnswers, Wanted};
use crate::args::{AnswersArgs, AnswersFormat};
use crate::intervals;
use crate::output::{self, Style, counted, hanging, printable};
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::{ANSWERS, RunFolder};

/// The most completions, or pairs of them, that are printed for people.
const SHOWN: usize = 20;

pub fn answers(arguments: &AnswersArgs) -> Result<CommandStatus, Problem> {
    let run = RunFolder::open(&arguments.run)?;
    let cells = answers::cells(&run);
    if cells.is_empty() {
        return Err(without_tables(&run));
    }
    let wanted = wanted(arguments, &cells)?;
    let Some(RunAnswers { found, absent }) = answers::read(&run, &wanted)? else {
        let message = format!("{} has no {ANSWERS}: an earlier version of mopd made it", run.path.display());
        return Err(Problem::usage("no-answers", message).help(
            "`mopd run` writes it; it has the completions of what is evaluated from now on, and with `--fresh` \
            those of all",
        ));
    };
    warn_of(&absent);
    let groups = chosen(arguments, &found);
    match arguments.format {
        AnswersFormat::Json => {
            let lines =
                limited(&groups, arguments.limit).flatten().map(|answer| format!("{}\n", object(answer)));
            output::result(&lines.collect::<String>());
        }
        AnswersFormat::Csv => output::result(&csv(limited(&groups, arguments.limit).flatten())),
        AnswersFormat::Human if arguments.row.is_none() => output::result(&overview(&found)),
        AnswersFormat::Human => {
            let limit = arguments.limit.unwrap_or(SHOWN);
            output::result(&text(arguments, &groups, limit, Style::of_stdout()));
            if groups.len() > limit {
                output::note(&format!(
                    "{} more: `--limit {}` shows all\n",
                    groups.len() - limit,
                    groups.len()
                ));
            }
        }
    }
    Ok(CommandStatus::Success)
}

fn without_tables(run: &RunFolder) -> Problem {
    let shown = run.path.display();
    match &run.results {
        Some(_) => {
            Problem::usage("no-answers", format!("{shown} has no tables: its experiment has no `compare`"))
                .help("add a `compare`, or evaluate its models with `mopd eval`")
        }
        None => Problem::usage("no-answers", format!("{shown} is not finished: it has no tables yet"))
            .help("run the experiment again: finished stages are kept"),
    }
}

/// The filter of the command line, whose names are in the tables.
fn wanted(arguments: &AnswersArgs, cells: &[CellName]) -> Result<Wanted, Problem> {
    let known = |of: fn(&CellName) -> &str| -> Vec<&str> {
        let mut seen = BTreeSet::new();
        cells.iter().map(of).filter(|name| seen.insert(*name)).collect()
    };
    let (tables, rows, domains) =
        (known(|cell| &cell.table), known(|cell| &cell.row), known(|cell| &cell.domain));
    let check = |given: &Option<String>, option: &str, what: &str, known: &[&str]| {
        let Some(given) = given.as_deref().filter(|given| !known.contains(given)) else { return Ok(()) };
        let message = format!("the tables of {} have no {what} `{given}`", arguments.run.display());
        let problem = Problem::usage("unknown-cell", message);
        Err(match nearest(given, known.iter().copied()) {
            Some(meant) => problem.help(format!("did you mean `{option} '{meant}'`?")),
            None => problem.help(format!("there are {}", known.join(", "))),
        })
    };
    let table = &arguments.table;
    if let Some(given) = table.as_deref().filter(|given| !tables.contains(given)) {
        let message = format!("{} has no table `{given}`", arguments.run.display());
        return Err(Problem::usage("unknown-cell", message).help(format!("there are {}", tables.join(", "))));
    }
    check(&arguments.row, "--row", "row", &rows)?;
    check(&arguments.against, "--against", "row", &rows)?;
    check(&arguments.domain, "--domain", "domain", &domains)?;
    let seeds: BTreeSet<u64> = cells.iter().map(|cell| cell.seed).collect();
    if let Some(seed) = arguments.seed.filter(|seed| !seeds.contains(seed)) {
        let known: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let message = format!("the tables of {} have no seed {seed}", arguments.run.display());
        return Err(Problem::usage("unknown-cell", message).help(format!("there are {}", known.join(", "))));
    }
    Ok(Wanted {
        tables: table.iter().cloned().collect(),
        rows: arguments.row.iter().chain(&arguments.against).cloned().collect(),
        domains: arguments.domain.iter().cloned().collect(),
        seeds: arguments.seed.iter().copied().collect(),
        samples: Vec::new(),
    })
}

/// Says which completions were never stored.
fn warn_of(absent: &[CellName]) {
    let Some(CellName { row, domain, seed, .. }) = absent.first() else { return };
    let others = if absent.len() > 1 { format!(" and {} more", absent.len() - 1) } else { String::new() };
    output::error(&printable(&format!(
        "warning: there are no completions of {row} on {domain}, seed {seed}{others}: an earlier version \
        stored the scores without them\n"
    )));
}

/// The completions to show: one alone, or one of the other row and one of the row for the same sample.
fn chosen<'a>(
    arguments: &AnswersArgs,
    found: &'a [EvaluatedCompletion],
) -> Vec<Vec<&'a EvaluatedCompletion>> {
    let shows = |right: bool| if right { !arguments.wrong } else { !arguments.right };
    let is_of = |answer: &&EvaluatedCompletion, row: &Option<String>| {
        row.as_ref().is_none_or(|row| answer.cell.row == *row)
    };
    let of_row = found.iter().filter(|answer| is_of(answer, &arguments.row));
    let Some(against) = &arguments.against else {
        return of_row.filter(|answer| shows(answer.is_right())).map(|answer| vec![answer]).collect();
    };
    let others: BTreeMap<_, &EvaluatedCompletion> =
        found.iter().filter(|answer| answer.cell.row == *against).map(|one| (one.sampled(), one)).collect();
    // With `--wrong`, what the row alone has wrong; with `--right`, what it alone has right.
    let differs = arguments.wrong || arguments.right;
    of_row
        .filter_map(|answer| Some(vec![*others.get(&answer.sampled())?, answer]))
        .filter(|pair| !differs || (shows(pair[1].is_right()) && pair[0].is_right() != pair[1].is_right()))
        .collect()
}

fn limited<'a, 'b>(
    groups: &'b [Vec<&'a EvaluatedCompletion>],
    limit: Option<usize>,
) -> impl Iterator<Item = impl Iterator<Item = &'a EvaluatedCompletion> + use<'a, 'b>> + use<'a, 'b> {
    groups.iter().take(limit.unwrap_or(usize::MAX)).map(|group| group.iter().copied())
}

fn object(answer: &EvaluatedCompletion) -> Value {
    let mut object = serde_json::to_value(answer).expect("names, numbers and texts can always be written");
    let parts = answer.parts.iter().map(|(name, reward)| (name.clone(), json!(reward)));
    object["parts"] = Value::Object(parts.collect::<Map<_, _>>());
    object
}

/// One line for each completion; a column for each part of a reward.
fn csv<'a>(answers: impl Iterator<Item = &'a EvaluatedCompletion>) -> String {
    let answers: Vec<&EvaluatedCompletion> = answers.collect();
    let parts: BTreeSet<&str> =
        answers.iter().flat_map(|answer| &answer.parts).map(|(name, _)| name.as_str()).collect();
    let mut out =
        "table,row,domain,seed,prompt,prompt_text,prompt_left_out,sample,text,left_out,reward,feedback,\
                   tokens,truncated"
            .to_owned();
    out.extend(parts.iter().map(|name| format!(",{}", quoted(&format!("reward.{name}")))));
    out.push('\n');
    for answer in answers {
        let CellName { table, row, domain, seed } = &answer.cell;
        let mut fields: Vec<String> = [table, row, domain].map(|name| quoted(name)).to_vec();
        fields.extend([seed.to_string(), answer.prompt.to_string(), quoted(&answer.prompt_text)]);
        fields.extend([answer.prompt_left_out, answer.sample].map(|number| number.to_string()));
        fields.extend([quoted(&answer.text), answer.left_out.to_string(), answer.reward.to_string()]);
        fields.push(quoted(answer.feedback.as_deref().unwrap_or_default()));
        fields.extend([answer.tokens.to_string(), answer.truncated.to_string()]);
        fields.extend(parts.iter().map(|part| {
            let found = answer.parts.iter().find(|(name, _)| name == part);
            found.map(|(_, reward)| reward.to_string()).unwrap_or_default()
        }));
        out += &(fields.join(",") + "\n");
    }
    out
}

/// How many completions of each cell are right, for all seeds together.
fn overview(found: &[EvaluatedCompletion]) -> String {
    let mut tables: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    let mut counts: BTreeMap<(&str, &str, &str), (usize, usize)> = BTreeMap::new();
    for answer in found {
        let CellName { table, row, domain, .. } = &answer.cell;
        let place = tables.iter().position(|(name, ..)| name == table).unwrap_or_else(|| {
            tables.push((table, Vec::new(), Vec::new()));
            tables.len() - 1
        });
        let (_, rows, domains) = &mut tables[place];
        for (names, name) in [(rows, row), (domains, domain)] {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let (right, all) = counts.entry((table, row, domain)).or_default();
        *right += usize::from(answer.is_right());
        *all += 1;
    }
    let mut out = String::new();
    for (table, rows, domains) in tables {
        let mut grid = Grid::new();
        let header = std::iter::once("row").chain(domains.iter().copied()).map(printable);
        grid.load_style(presets::ASCII_MARKDOWN)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(header);
        for row in rows {
            let cells = domains.iter().map(|domain| {
                let count = counts.get(&(table, row, *domain));
                count.map(|(right, all)| format!("{right} of {all}")).unwrap_or_default()
            });
            grid.add_row(std::iter::once(printable(row)).chain(cells));
        }
        for column in 1..=domains.len() {
            if let Some(column) = grid.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        out += &format!("{}: completions with the whole reward\n\n{grid}\n\n", printable(table));
    }
    out + "`--row ROW --domain DOMAIN` shows the texts\n"
}

/// The texts under their prompts, cell by cell.
fn text(arguments: &AnswersArgs, groups: &[Vec<&EvaluatedCompletion>], limit: usize, style: Style) -> String {
    let name = |answer: &EvaluatedCompletion| answer.cell.row.clone();
    let width = groups.first().map_or(0, |group| {
        group.iter().map(|answer| printable(&name(answer)).chars().count()).max().unwrap_or(0)
    });
    let which = match (&arguments.against, arguments.wrong, arguments.right) {
        (None, true, _) => " wrong".to_owned(),
        (None, _, true) => " right".to_owned(),
        (Some(against), true, _) => format!(" wrong where {against} is right"),
        (Some(against), _, true) => format!(" right where {against} is wrong"),
        _ => String::new(),
    };
    let counts = groups.iter().fold(BTreeMap::new(), |mut counts: BTreeMap<&CellName, usize>, group| {
        *counts.entry(&group[group.len() - 1].cell).or_default() += 1;
        counts
    });
    let mut out = String::new();
    let mut current = None;
    for group in groups.iter().take(limit) {
        let first = group[0];
        let cell = &group[group.len() - 1].cell;
        if current != Some(cell) {
            current = Some(cell);
            let CellName { table, row, domain, seed } = cell;
            let head = format!("{row} on {domain}, seed {seed}");
            let count = counted(counts[cell], "completion");
            let line = format!("{}: {count}{which} (table \"{table}\")", style.bold(&printable(&head)));
            out += &format!("{}{}\n", if out.is_empty() { "" } else { "\n" }, line);
        }
        let number = format!("\n[{}] ", first.prompt + 1);
        out +=
            &hanging(&style.dim(&number), "    ", &shown(&first.prompt_text, first.prompt_left_out, style));
        for answer in group {
            let row = printable(&name(answer));
            let mut facts = vec![counted(answer.tokens as usize, "token")];
            facts.extend(answer.truncated.then(|| "cut off".to_owned()));
            facts.extend(answer.parts.iter().map(|(name, reward)| format!("{name} {}", number_of(*reward))));
            facts.extend(answer.feedback.as_ref().map(|words| format!("feedback: {words}")));
            let facts = style.dim(&format!("({})", printable(&facts.join(", "))));
            let first = format!("    {row:<width$}  {:<4}  ", number_of(answer.reward));
            let rest = " ".repeat(first.chars().count());
            out +=
                &hanging(&first, &rest, &format!("{}  {facts}", shown(&answer.text, answer.left_out, style)));
        }
    }
    if groups.is_empty() {
        out += &format!("no completion is{}\n", if which.is_empty() { " there" } else { which.as_str() });
    }
    out
}

/// A text of a model or a file, with what is left out of it.
fn shown(text: &str, left_out: u64, style: Style) -> String {
    match left_out {
        0 => printable(text),
        bytes => format!("{} {}", printable(text), style.dim(&format!("[{bytes} bytes left out]"))),
    }
}

/// `1`, `0.25`
fn number_of(reward: f64) -> String {
    let text = intervals::fixed(reward, 2);
    text.strip_suffix(".00").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(row: &str, prompt: u64, reward: f64, text: &str) -> EvaluatedCompletion {
        EvaluatedCompletion {
            cell: CellName {
                table: "t".to_owned(),
                row: row.to_owned(),
                domain: "units".to_owned(),
                seed: 1,
            },
            prompt,
            prompt_text: format!("question {prompt}"),
            prompt_left_out: 0,
            sample: 0,
            text: text.to_owned(),
            left_out: 0,
            reward,
            parts: vec![("format".to_owned(), 1.0)],
            feedback: None,
            tokens: 2,
            truncated: prompt == 1,
        }
    }

    fn arguments(words: &[&str]) -> AnswersArgs {
        use clap::Parser;
        let words = ["mopd", "answers", "run"].iter().chain(words);
        match crate::args::Cli::try_parse_from(words).expect("arguments").command {
            crate::args::Command::Answers(arguments) => arguments,
            _ => unreachable!("it is the command"),
        }
    }

    #[test]
    fn two_rows_are_compared_sample_by_sample() {
        let found = [
            answer("start", 0, 1.0, "a"),
            answer("start", 1, 0.0, "b"),
            answer("start", 2, 1.0, "c"),
            answer("student", 0, 0.0, "d"),
            answer("student", 1, 1.0, "e"),
            answer("student", 2, 1.0, "f"),
            // `start` has no such sample.
            answer("student", 3, 0.0, "g"),
        ];
        let texts = |words: &[&str]| -> Vec<String> {
            let groups = chosen(&arguments(words), &found);
            groups.iter().map(|group| group.iter().map(|answer| answer.text.as_str()).collect()).collect()
        };
        assert_eq!(texts(&["--row", "student"]), ["d", "e", "f", "g"]);
        assert_eq!(texts(&["--row", "student", "--wrong"]), ["d", "g"]);
        assert_eq!(texts(&["--row", "student", "--right"]), ["e", "f"]);
        assert_eq!(texts(&["--row", "student", "--against", "start"]), ["ad", "be", "cf"]);
        assert_eq!(texts(&["--row", "student", "--against", "start", "--wrong"]), ["ad"]);
        assert_eq!(texts(&["--row", "student", "--against", "start", "--right"]), ["be"]);
    }

    #[test]
    fn texts_are_printed_under_their_prompt() {
        let found = [answer("start", 1, 1.0, "Paris"), answer("student", 1, 0.25, "12\nkm\u{1b}")];
        let arguments = arguments(&["--row", "student", "--against", "start", "--wrong"]);
        let shown = text(&arguments, &chosen(&arguments, &found), 20, Style::PLAIN);
        let expected = "\
student on units, seed 1: 1 completion wrong where start is right (table \"t\")

[2] question 1
    start    1     Paris  (2 tokens, cut off, format 1)
    student  0.25  12
                   km\\u001b  (2 tokens, cut off, format 1)
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_line_of_csv_has_every_field() {
        let found = [answer("start", 0, 1.0, "a,\"b\"")];
        let written = csv(found.iter());
        let (head, line) = written.split_once('\n').expect("a header");
        assert_eq!(head.split(',').count(), 15);
        assert_eq!(line, "t,start,units,1,0,question 0,0,0,\"a,\"\"b\"\"\",0,1,,2,false,1\n");
    }
}
