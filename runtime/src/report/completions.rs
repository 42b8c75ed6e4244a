//! The completions of evaluations as people read them: in the store with the score, and in `answers.parquet`
//! of a run for every cell of its tables.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use mopd_plan::events::{ColumnValues, ReadColumn};
use mopd_store::results_folder::ANSWERS;

use super::parquet::{failed, write_encoded};
use crate::files::WriteError;
use crate::reward::Judgement;
use crate::rollout::Completion;
use crate::table::{Column, TableWriter, encode, table};

/// The most bytes of all texts of an evaluation. Each completion may have an equal share of them.
const TEXTS: usize = 32 << 20;
/// The share that a text has in any case.
const SHORTEST: usize = 1_000;
/// The most bytes of a prompt.
pub const LONGEST_PROMPT: usize = 8_000;
/// Stands where the middle of a text is left out.
const GAP: &str = " […] ";

/// A completion of a test prompt, with its judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedCompletion {
    /// From 0, in the order of the test file.
    pub prompt: u32,
    /// From 0, among the completions of the prompt.
    pub sample: u32,
    /// Of a long text, its two ends.
    pub text: String,
    /// Bytes of the text that are left out in its middle.
    pub left_out: u32,
    pub reward: f64,
    /// The rewards of the verifier's parts, in their order. Their names are in no key, so they are not
    /// stored.
    pub parts: Vec<f64>,
    pub feedback: Option<String>,
    /// The end token included.
    pub tokens: u32,
    /// Whether it was cut off at its longest length.
    pub truncated: bool,
}

impl JudgedCompletion {
    /// `prompt` and `sample` are its numbers; `most` is the [`share`] of its text.
    pub fn new(
        (prompt, sample): (u32, u32),
        completion: &Completion,
        text: &str,
        judgement: &Judgement,
        most: usize,
    ) -> JudgedCompletion {
        let (text, left_out) = without_middle(text, most);
        JudgedCompletion {
            prompt,
            sample,
            text,
            left_out,
            reward: judgement.reward,
            parts: judgement.parts.iter().map(|(_, reward)| *reward).collect(),
            feedback: judgement.feedback.as_ref().map(|words| without_middle(words, most).0),
            tokens: completion.tokens.len() as u32,
            truncated: completion.truncated,
        }
    }
}

/// The most bytes of each text of an evaluation with so many completions.
pub fn share(completions: usize) -> usize {
    (TEXTS / completions.max(1)).max(SHORTEST)
}

/// The two ends of a longer text, and how many bytes between them are left out.
pub fn without_middle(text: &str, most: usize) -> (String, u32) {
    if text.len() <= most {
        return (text.to_owned(), 0);
    }
    let (head, tail) = (text.floor_char_boundary(most / 2), text.ceil_char_boundary(text.len() - most / 2));
    (format!("{}{GAP}{}", &text[..head], &text[tail..]), (tail - head) as u32)
}

/// The file of the store with the completions of an evaluation.
pub fn encoded(completions: &[JudgedCompletion]) -> parquet::errors::Result<Vec<u8>> {
    let mut columns =
        table!(completions; prompt, sample, text, left_out, reward, feedback, tokens, truncated);
    let parts = completions.first().map_or(0, |first| first.parts.len());
    columns.extend((0..parts).map(|part| {
        Column::new(part_column(part), completions.iter().map(|completion| completion.parts[part]))
    }));
    encode(&[columns])
}

fn part_column(part: usize) -> String {
    format!("part.{part}")
}

/// The completions in the columns of such a file; `None` if they are not those of one.
pub fn decoded(columns: Vec<ReadColumn>) -> Option<Vec<JudgedCompletion>> {
    let mut columns: HashMap<String, ColumnValues> =
        columns.into_iter().map(|column| (column.name, column.values)).collect();
    let mut wholes = |name: &str| match columns.remove(name)? {
        ColumnValues::Wholes(values) => values.into_iter().collect::<Option<Vec<u64>>>(),
        _ => None,
    };
    let [prompts, samples, left_out, tokens] =
        [wholes("prompt")?, wholes("sample")?, wholes("left_out")?, wholes("tokens")?];
    let mut numbers = |name: &str| match columns.remove(name)? {
        ColumnValues::Numbers(values) => values.into_iter().collect::<Option<Vec<f64>>>(),
        _ => None,
    };
    let rewards = numbers("reward")?;
    let parts: Vec<Vec<f64>> = (0..).map_while(|part| numbers(&part_column(part))).collect();
    let mut texts = |name: &str| match columns.remove(name)? {
        ColumnValues::Texts(values) => Some(values),
        _ => None,
    };
    let (mut completions, mut feedback) = (texts("text")?.into_iter(), texts("feedback")?.into_iter());
    let ColumnValues::Truths(truncated) = columns.remove("truncated")? else { return None };
    let completion = |row: usize| {
        Some(JudgedCompletion {
            prompt: prompts[row] as u32,
            sample: samples[row] as u32,
            text: completions.next()??,
            left_out: left_out[row] as u32,
            reward: rewards[row],
            parts: parts.iter().map(|part| part[row]).collect(),
            feedback: feedback.next()?,
            tokens: tokens[row] as u32,
            truncated: truncated[row]?,
        })
    };
    (0..rewards.len()).map(completion).collect()
}

/// The completions of one cell of a table.
pub struct CellAnswers<'a> {
    pub table: &'a str,
    pub row: &'a str,
    pub model: &'a str,
    pub domain: &'a str,
    /// The names of the verifier's parts.
    pub parts: &'a [&'a str],
    /// The prompt of each number, as the data has it.
    pub prompt: &'a dyn Fn(u32) -> &'a str,
    /// For each seed whose completions are known.
    pub seeds: Vec<(u64, Vec<JudgedCompletion>)>,
}

/// A row of `answers.parquet`.
struct AnswerRow {
    table: String,
    row: String,
    model: String,
    domain: String,
    seed: u64,
    prompt: u32,
    prompt_text: String,
    prompt_left_out: u32,
    sample: u32,
    text: String,
    left_out: u32,
    reward: f64,
    feedback: Option<String>,
    tokens: u32,
    truncated: bool,
    parts: Vec<(String, f64)>,
}

impl CellAnswers<'_> {
    fn rows(self) -> Vec<AnswerRow> {
        let CellAnswers { table, row, model, domain, parts, prompt, seeds } = self;
        let of_seed = |(seed, completions): (u64, Vec<JudgedCompletion>)| {
            completions.into_iter().map(move |completion| {
                let (prompt_text, prompt_left_out) =
                    without_middle(prompt(completion.prompt), LONGEST_PROMPT);
                AnswerRow {
                    table: table.to_owned(),
                    row: row.to_owned(),
                    model: model.to_owned(),
                    domain: domain.to_owned(),
                    seed,
                    prompt: completion.prompt,
                    prompt_text,
                    prompt_left_out,
                    sample: completion.sample,
                    text: completion.text,
                    left_out: completion.left_out,
                    reward: completion.reward,
                    feedback: completion.feedback,
                    tokens: completion.tokens,
                    truncated: completion.truncated,
                    parts: parts.iter().map(|name| (*name).to_owned()).zip(completion.parts).collect(),
                }
            })
        };
        seeds.into_iter().flat_map(of_seed).collect()
    }
}

/// Writes `answers.parquet`, with a row group for each cell, so that one is read without the others.
pub struct AnswersFile {
    path: PathBuf,
    /// The names of the parts of all verifiers.
    parts: BTreeSet<String>,
    file: TableWriter,
}

impl AnswersFile {
    pub fn new(parts: BTreeSet<String>, folder: &Path) -> Result<AnswersFile, WriteError> {
        let path = folder.join(ANSWERS);
        let file = TableWriter::new(&columns(&[], &parts)).map_err(|error| failed(&path, error))?;
        Ok(AnswersFile { path, parts, file })
    }

    pub fn push(&mut self, cell: CellAnswers) -> Result<(), WriteError> {
        let columns = columns(&cell.rows(), &self.parts);
        self.file.push(&columns).map_err(|error| failed(&self.path, error))
    }

    pub fn finish(self) -> Result<(), WriteError> {
        let encoded = self.file.finish().map_err(|error| failed(&self.path, error))?;
        write_encoded(&encoded, &self.path)
    }
}

fn columns(rows: &[AnswerRow], parts: &BTreeSet<String>) -> Vec<Column> {
    let mut columns = table!(rows;
        table, row, model, domain, seed, prompt, prompt_text, prompt_left_out, sample, text, left_out,
        reward, feedback, tokens, truncated,
    );
    columns.extend(parts.iter().map(|name| {
        let part =
            |row: &AnswerRow| row.parts.iter().find(|(known, _)| known == name).map(|(_, reward)| *reward);
        Column::new(format!("reward.{name}"), rows.iter().map(part))
    }));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::read::{RowFilter, columns};

    fn completion(prompt: u32, text: &str) -> JudgedCompletion {
        JudgedCompletion {
            prompt,
            sample: 0,
            text: text.to_owned(),
            left_out: 0,
            reward: 0.5,
            parts: vec![1.0, 0.0],
            feedback: None,
            tokens: 3,
            truncated: prompt == 1,
        }
    }

    #[test]
    fn a_long_text_has_its_two_ends() {
        assert_eq!(without_middle("short", 5), ("short".to_owned(), 0));
        assert_eq!(without_middle("0123456789", 4), ("01 […] 89".to_owned(), 6));
        // A character is whole or left out, and the ends with what is left out are all of the text.
        let text = "ä".repeat(100);
        for most in 4..20 {
            let (shown, left_out) = without_middle(&text, most);
            assert_eq!(shown.len() - GAP.len() + left_out as usize, text.len(), "{most}");
            assert!(shown.len() - GAP.len() <= most);
        }
    }

    #[test]
    fn an_evaluation_has_a_bounded_size() {
        for completions in [1, 100, 32_000] {
            assert!(share(completions) * completions <= TEXTS, "{completions}");
        }
        assert_eq!(share(10_000_000), SHORTEST);
    }

    #[test]
    fn completions_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.parquet");
        let mut written = vec![completion(0, "a\nb"), completion(1, "")];
        written[1].feedback = Some("wrong".to_owned());
        std::fs::write(&path, encoded(&written).unwrap()).unwrap();
        assert_eq!(decoded(columns(&path, &RowFilter::new()).unwrap()), Some(written));
        std::fs::write(&path, encoded(&[]).unwrap()).unwrap();
        assert_eq!(decoded(columns(&path, &RowFilter::new()).unwrap()), Some(Vec::new()));
        assert_eq!(decoded(Vec::new()), None);
    }

    #[test]
    fn a_cell_is_read_without_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let cell = |row: &'static str, parts: &'static [&'static str]| CellAnswers {
            table: "t",
            row,
            model: row,
            domain: "d",
            parts,
            prompt: &|prompt| ["first", "second"][prompt as usize],
            seeds: vec![(1, vec![completion(0, "x")]), (2, vec![completion(1, "y")])],
        };
        let parts = ["format", "right"].map(str::to_owned);
        let mut file = AnswersFile::new(parts.into(), folder.path()).unwrap();
        file.push(cell("start", &["format", "right"])).unwrap();
        file.push(cell("student", &[])).unwrap();
        file.finish().unwrap();
        let path = folder.path().join(ANSWERS);
        let of = |filter: &[(&str, &str)], name: &str| {
            let filter =
                filter.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
            let found = columns(&path, &filter).unwrap().into_iter().find(|column| column.name == name);
            found.expect("a column").values
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[], "text"), ColumnValues::Texts(["x", "y", "x", "y"].map(text).to_vec()));
        let of_student = [("row", "student"), ("seed", "2")];
        assert_eq!(of(&of_student, "prompt_text"), ColumnValues::Texts(vec![text("second")]));
        assert_eq!(of(&of_student, "reward.format"), ColumnValues::Numbers(vec![None]));
        assert_eq!(of(&[("row", "start")], "reward.right"), ColumnValues::Numbers(vec![Some(0.0); 2]));
        assert_eq!(of(&[("row", "nobody")], "text"), ColumnValues::Texts(Vec::new()));
        // A run without tables has the columns all the same.
        AnswersFile::new(BTreeSet::new(), folder.path()).unwrap().finish().unwrap();
        assert_eq!(of(&[], "text"), ColumnValues::Texts(Vec::new()));
    }
}
