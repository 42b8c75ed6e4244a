//! The completions behind the tables, reduced to the size of a page: of each prompt the first completion of
//! every row, of the first seed, for as many prompts as there is room for.

use std::collections::{BTreeMap, BTreeSet};

use mopd_plan::results::Table;
use serde::Serialize;

use super::tables::{anchor_of, comparison};
use super::{LoadedRun, Rounded};
use crate::answers::{self, EvaluatedCompletion, Wanted};
use crate::intervals;
use crate::output::counted;
use crate::problem::Problem;
use crate::run_folder::RunFolder;

/// The most bytes of all completions of a page.
const TEXTS: usize = 200_000;
/// The most bytes of a text on the page.
const LONGEST: usize = 600;
/// Of a verifier's feedback.
const LONGEST_FEEDBACK: usize = 200;
const GAP: &str = " […] ";

/// The completions of a table.
#[derive(Serialize)]
pub struct TableAnswers {
    seed: u64,
    /// By column; `None` where no completions are known.
    columns: Vec<Option<ColumnAnswers>>,
}

#[derive(Serialize)]
struct ColumnAnswers {
    /// The number of test prompts, of which the first are shown.
    total: usize,
    prompts: Vec<String>,
    /// By row: the stage of its model, and for each prompt its completion.
    stages: Vec<String>,
    rows: Vec<Vec<Option<Shown>>>,
}

/// The reward, the text, and what else is known about a completion.
type Shown = (Rounded, String, String);

/// The completions that a page may show: the first of each prompt, of the first seed.
pub fn load(run: &RunFolder) -> Result<Vec<EvaluatedCompletion>, Problem> {
    let wanted = Wanted { seeds: vec![run.plan.experiment.seed], samples: vec![0], ..Wanted::default() };
    Ok(answers::read(run, &wanted)?.map_or_else(Vec::new, |answers| answers.found))
}

/// The completions of each table of a run. The budget of the page is shared by several runs.
pub fn of_tables(run: &LoadedRun, runs: usize) -> Vec<Option<TableAnswers>> {
    let tables = || run.folder.results.iter().flat_map(|results| &results.tables);
    let mut by_cell: BTreeMap<(&str, &str, &str), BTreeMap<u64, &EvaluatedCompletion>> = BTreeMap::new();
    for answer in &run.answers {
        let cell = &answer.cell;
        by_cell.entry((&cell.table, &cell.domain, &cell.row)).or_default().insert(answer.prompt, answer);
    }
    let mut shown: Vec<Vec<Option<ColumnAnswers>>> = tables()
        .map(|table| {
            table.domains.iter().enumerate().map(|column| empty(run, table, column, &by_cell)).collect()
        })
        .collect();
    let mut left = TEXTS / runs;
    // One more prompt of every column at a time, so that no column takes the room of the others.
    'room: for prompt in 0.. {
        let mut any = false;
        for (table, columns) in tables().zip(&mut shown) {
            for (domain, column) in table.domains.iter().zip(columns) {
                let Some(column) = column.as_mut().filter(|column| prompt < column.total) else { continue };
                any = true;
                let of_row = |row: &mopd_plan::results::TableRow| {
                    let found = by_cell.get(&(table.name.as_str(), domain.as_str(), row.model.as_str()))?;
                    found.get(&(prompt as u64)).copied()
                };
                let found: Vec<Option<&EvaluatedCompletion>> = table.rows.iter().map(of_row).collect();
                let text = found.iter().flatten().next().map_or("", |answer| answer.prompt_text.as_str());
                let text = without_middle(text, LONGEST);
                let completions: Vec<Option<Shown>> =
                    found.iter().map(|answer| answer.map(of_page)).collect();
                let size =
                    serde_json::to_string(&(&text, &completions)).map_or(usize::MAX, |text| text.len());
                if size > left {
                    break 'room;
                }
                left -= size;
                column.prompts.push(text);
                for (row, completion) in column.rows.iter_mut().zip(completions) {
                    row.push(completion);
                }
            }
        }
        if !any {
            break;
        }
    }
    let seed = run.folder.plan.experiment.seed;
    let known = |columns: Vec<Option<ColumnAnswers>>| {
        let columns: Vec<Option<ColumnAnswers>> =
            columns.into_iter().map(|column| column.filter(|column| !column.prompts.is_empty())).collect();
        columns.iter().any(Option::is_some).then_some(TableAnswers { seed, columns })
    };
    shown.into_iter().map(known).collect()
}

/// How many numbers of a table have no completions, because an earlier version stored the scores without
/// them.
pub fn absent(run: &LoadedRun, table: &Table) -> usize {
    let known: BTreeSet<(&str, &str)> = (run.answers.iter())
        .filter(|answer| answer.cell.table == table.name)
        .map(|answer| (answer.cell.row.as_str(), answer.cell.domain.as_str()))
        .collect();
    let cells =
        table.rows.iter().flat_map(|row| row.scores.keys().map(|domain| (row.model.as_str(), domain)));
    cells.filter(|(row, domain)| !known.contains(&(*row, domain.as_str()))).count()
}

/// A column without completions yet; `None` if none are known.
fn empty(
    run: &LoadedRun,
    table: &Table,
    (column, domain): (usize, &String),
    by_cell: &BTreeMap<(&str, &str, &str), BTreeMap<u64, &EvaluatedCompletion>>,
) -> Option<ColumnAnswers> {
    let of_column = by_cell.iter().filter(|((of, on, _), _)| *of == table.name && on == domain);
    let last = of_column.filter_map(|(_, prompts)| prompts.keys().last()).max()?;
    let comparison = comparison(run, table);
    Some(ColumnAnswers {
        total: *last as usize + 1,
        prompts: Vec::new(),
        stages: table.rows.iter().map(|row| anchor_of(run, comparison, &row.model, column)).collect(),
        rows: table.rows.iter().map(|_| Vec::new()).collect(),
    })
}

impl TableAnswers {
    /// Whether the completions of a cell are on the page.
    pub fn has(&self, row: usize, column: usize) -> bool {
        let column = self.columns.get(column).and_then(Option::as_ref);
        column.is_some_and(|column| column.rows[row].iter().any(Option::is_some))
    }
}

fn of_page(answer: &EvaluatedCompletion) -> Shown {
    let mut facts = vec![counted(answer.tokens as usize, "token")];
    facts.extend(answer.truncated.then(|| "cut off".to_owned()));
    facts.extend((answer.left_out > 0).then(|| format!("{} bytes were not stored", answer.left_out)));
    facts
        .extend(answer.parts.iter().map(|(name, reward)| format!("{name} {}", intervals::fixed(*reward, 2))));
    facts.extend(
        answer
            .feedback
            .as_ref()
            .map(|words| format!("feedback: {}", without_middle(words, LONGEST_FEEDBACK))),
    );
    (Rounded(answer.reward), without_middle(&answer.text, LONGEST), facts.join(", "))
}

/// The two ends of a long text.
fn without_middle(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(most / 2);
    let tail = text.ceil_char_boundary(text.len() - most / 2);
    format!("{}{GAP}{}", &text[..head], &text[tail..])
}
