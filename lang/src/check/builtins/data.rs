//! Built-ins for the rows of data, for texts in files, and for the scores of tables.

use super::declare::builtins;
use super::types::{Column, Condition, Count, Model, Text};

builtins! { Data: DataName, DataCall {
    /// Rows of data: a JSON lines, CSV or parquet file, a pattern of files, a folder in the layout of Hugging
    /// Face datasets, or the name of a data set on the hub, at `revision`. Reads the first `limit` rows for
    /// which `filter` holds, without those whose prompt has more than `max_prompt_tokens` tokens for a model
    /// of the experiment that reads it.
    #[usage = "dataset(\"data/gsm8k\", split: \"train\")"]
    dataset => Dataset {
        path: Text,
        split: Option<Text>,
        filter: Option<Condition>,
        limit: Option<Count>,
        max_prompt_tokens: Option<Count>,
        revision: Option<Text>,
    },

    /// Fields in columns with other names.
    #[usage = "columns(prompt: question, answer: \"final answer\")"]
    columns => Columns { .. },

    /// A part of a column's text, in `columns(...)`: what the first group of the regular expression `pattern`
    /// matches where it matches first, or the whole match if it has no group.
    #[usage = "extract(answer, \"#### (.*)\")"]
    extract => Extract { column: Column, pattern: Text },

    /// The text of a template, from a file in UTF-8: with slots, without escapes, and without the line break
    /// at its end. The path is relative to the folder of the file that names it.
    #[usage = "file(\"prompts/shown.txt\")"]
    file => File { path: Text },

    /// Scores on a scale where one model is 0 and another is 1, per domain.
    #[usage = "normalized(zero: start, one: expert)"]
    normalized => Normalized { zero: Model, one: Model },

    /// The probability that at least one of `k` samples is right, estimated without bias from all samples.
    #[usage = "pass_at(16)"]
    pass_at => PassAt { k: Count },
}}
