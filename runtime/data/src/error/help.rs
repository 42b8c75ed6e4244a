//! What to do about each problem of data.

use mopd_plan::{DATA_ENDINGS as ENDINGS, unlike_a_path};

use super::{DataError, DataProblem};
use crate::compressed::ending;

impl DataError {
    /// Advice on how to solve the problem.
    pub fn help(&self) -> String {
        match &*self.problem {
            DataProblem::Missing { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            DataProblem::Missing { folder_missing: true, .. } => unlike_a_path(&self.file).unwrap_or_else(|| {
                "its folder does not exist either; paths are relative to the experiment's file".to_owned()
            }),
            DataProblem::Missing { .. } => "paths are relative to the experiment's file".to_owned(),
            DataProblem::Unreadable { .. } => {
                "it must be a readable text file with one JSON object per line".to_owned()
            }
            DataProblem::TooLong { .. } => "each row needs its own line; an unclosed quote joins all rows \
                into one"
                .to_owned(),
            DataProblem::CarriageReturns => "save the CSV file with line feeds: LF or CRLF".to_owned(),
            DataProblem::Empty if matches!(ending(&self.file).as_deref(), Some("csv" | "tsv")) => {
                "write the names of the columns in the first line, then one row per line".to_owned()
            }
            DataProblem::Empty => {
                "write one JSON object per line, such as {\"prompt\": \"2+2=\", \"answer\": \"4\"}".to_owned()
            }
            DataProblem::NotUtf8 { utf16: true, .. } => "it looks like UTF-16: save the file as UTF-8"
                .to_owned(),
            DataProblem::NotUtf8 { .. } => "save the file as UTF-8".to_owned(),
            DataProblem::NotJson { line, cause, .. } => not_json_help(line, cause).to_owned(),
            DataProblem::NotAnObject { found } if found.starts_with("a list") => LIST_HELP.to_owned(),
            DataProblem::NotAnObject { .. } => "each line must be one whole JSON object, such as {\"prompt\": \
                                            \"2+2=\", \"answer\": \"4\"}"
                .to_owned(),
            DataProblem::MissingField { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            DataProblem::MissingField { field, read_as, present, .. } => match present.as_slice() {
                [header] if header.contains([';', '\t']) => {
                    "separate the columns by commas, or by tabs in a file that ends in .tsv".to_owned()
                }
                [] => format!("every line needs `{field}`"),
                // The domain has named it.
                columns if read_as.is_some() => format!(
                    "`fields` of the domain reads `{}` from it: name another column there: {}",
                    read_as.as_deref().unwrap_or_default(),
                    columns.iter().take(12).cloned().collect::<Vec<_>>().join(", ")
                ),
                [other] => format!(
                    "every line needs `{field}`; if it has another name, say so in the domain: `fields = \
                     columns({field}: {other})`"
                ),
                // Any of them may be meant.
                others => format!(
                    "every line needs `{field}`; if one of these columns is meant, name it in the domain, `fields = \
                     columns({field}: ...)`: {}",
                    others.iter().take(8).cloned().collect::<Vec<_>>().join(", ")
                ),
            },
            DataProblem::TypeMismatch { field, wanted, found } => {
                let is_answer = *wanted == "a string or a number" && found.starts_with("a list");
                let chat = if is_answer { CHAT_HELP } else { "" };
                format!("write `{field}` as {wanted}{chat}")
            }
            DataProblem::Conversation { .. } => "write `format = chat` in the domain".to_owned(),
            DataProblem::Chat { help, .. } => help.clone().unwrap_or_else(|| "change the row".to_owned()),
            DataProblem::Trajectory { .. } => "leave the row out, or write the trajectory as a list such as \
                                           [{\"role\": \"user\", \"content\": \"2+2?\"}, {\"role\": \
                                           \"assistant\", \"content\": \"4\"}]; messages with other content need \
                                           `format = chat` in the domain"
                .to_owned(),
            DataProblem::NoTokens => "leave the row out, or write a prompt".to_owned(),
            DataProblem::Compressed => {
                "unpack it first, or save it as parquet, which is compressed by itself".to_owned()
            }
            DataProblem::NotParquet { .. } => "write it again with the program that wrote it".to_owned(),
            DataProblem::ColumnKind { column, .. } => {
                format!("save `{column}` as text, 64-bit numbers, bools, or lists or structs of them")
            }
            DataProblem::OpenList => "write a whole JSON list, or one object per line".to_owned(),
            DataProblem::OpenQuote => "close it, or double the quotes that are part of the text".to_owned(),
            DataProblem::ColumnTwice { .. } => "give each column a name of its own in the first line"
                .to_owned(),
            DataProblem::CellCount { .. } => "put text with separators or line breaks between quotes"
                .to_owned(),
            DataProblem::AllLeftOut { .. } => "change the domain's `filter`".to_owned(),
            DataProblem::AllTooLong { .. } => "raise `max_prompt_tokens`".to_owned(),
            DataProblem::Pattern { .. } | DataProblem::NoMatch => {
                "paths are relative to the experiment's file".to_owned()
            }
            DataProblem::PatternTooWide { .. } => {
                "begin it with the folder that has the data, such as \"data/**/*.jsonl\"".to_owned()
            }
            DataProblem::TooManyColumns { .. } => {
                "leave out the columns that nothing reads, or put their values into a list in one column"
                    .to_owned()
            }
            DataProblem::NoData => format!("it must have files that end in .{}", ENDINGS.join(", .")),
            DataProblem::NoSplits { .. } => "leave `split` out, or name the folder".to_owned(),
            DataProblem::NoSuchSplit { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            DataProblem::NoSuchSplit { .. } => "choose one of them".to_owned(),
            DataProblem::ManySplits { present } => {
                format!("choose one, such as dataset(\"...\", split: \"{}\")", present[0])
            }
            DataProblem::Subsets { wanted, subsets } => {
                let wanted = wanted.as_deref().unwrap_or_default();
                let has = |splits: &[String]| splits.iter().any(|split| split == wanted);
                let subset = subsets.iter().find(|(name, splits)| name == wanted || has(splits));
                let (name, splits) = subset.unwrap_or(&subsets[0]);
                let split = if has(splits) { wanted } else { splits[0].as_str() };
                let path = self.file.join(name);
                format!("name its folder: dataset(\"{}\", split: \"{split}\")", path.display())
            }
            DataProblem::PartsMissing { .. } => "copy the other parts, too, or name the files by a pattern, such as \
                                             \"data/train-*.parquet\""
                .to_owned(),
            DataProblem::NotInText { .. } => "change the pattern of `extract`, or leave the row out".to_owned(),
            DataProblem::LargePattern { .. } => "write a shorter pattern, with smaller numbers of repetitions"
                .to_owned(),
            DataProblem::NotFetched { .. } => format!(
                "`mopd run` fetches what it reads of it; without a network, fetch it elsewhere with `hf download \
                 --repo-type dataset`, copy the folder and name that in place of {}",
                self.file.display()
            ),
            DataProblem::NoRevision { .. } => "leave `revision` out".to_owned(),
            DataProblem::TwoLayouts { files: [one, _], .. } => format!(
                "their rows would count twice: remove one of them, or name the files, such as \"{}\"",
                self.file.join(one).display()
            ),
            DataProblem::RewrittenNumber { .. } => {
                "write it as a string: \"...\"".to_owned()
            }
        }
    }
}

const LIST_HELP: &str = "write one object per line, `jq -c '.[]' FILE > rows.jsonl`";
const CHAT_HELP: &str = "; of a list of messages, `format = chat` reads the answer";

/// `line` is quoted.
fn not_json_help(line: &str, cause: &str) -> &'static str {
    if cause.contains("surrogate") || cause.contains("hex escape") && line.contains("\\ud") {
        return "half of a character: a text was cut between the two parts of a pair such as \\ud83d\\ude00. In Python, \
                `text.encode(\"utf-8\", \"replace\").decode()` writes `?` in its place";
    }
    match line.trim_start_matches('"') {
        line if line.starts_with("{'") => "JSON has double quotes: `json.dumps(row)` of Python writes them",
        line if line.starts_with('[') => LIST_HELP,
        line if ["NaN", "Infinity"].iter().any(|number| line.contains(number)) => {
            "JSON has no NaN and no Infinity: leave the field out, or write a number"
        }
        _ => "each line must be one whole JSON object; write line breaks inside text as \\n",
    }
}
