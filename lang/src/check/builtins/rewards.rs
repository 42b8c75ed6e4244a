//! Built-in rewards, which judge completions. Each is declared with its arguments, which
//! `rollouts/reward_calls.rs` reads; its properties are in `experiment/rewards.rs`.

use super::declare::builtins;
use super::types::{Count, Dependencies, Field, NotNegative, Range, Seconds, Secret, Text};

builtins! { Reward: RewardName, RewardCall {
    /// 1 if the completion equals a field of the data exactly; the field is `answer` by default.
    #[usage = "exact_match, or exact_match(field)"]
    exact_match => ExactMatch { field: Field = "answer" },

    /// 1 if the completion and a field of the data are numbers that differ by at most `tolerance`; the field
    /// is `answer` by default.
    #[usage = "numeric(tolerance: 0.01)"]
    numeric => Numeric { field: Field = "answer", tolerance: NotNegative = 0.0 },

    /// 1 if the pattern matches, and its group `answer`, if it has one, equals a field of the data.
    #[usage = "regex(\"answer: (?<answer>.*)\")"]
    regex => Regex { pattern: Text, field: Field = "answer" },

    /// A program of yours returns a number from 0 to 1, with `range: any` any other: one JSON object per line
    /// in, one out. `time_limit` is in seconds, `batch` is the number of requests at once. Rewards are
    /// recomputed when a source file in the script's folder changes, or a file or folder of `depends`.
    #[usage = "command(\"python3 verify.py\", time_limit: 10, depends: [\"rules.json\"])"]
    command => Command {
        command: Text,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        depends: Option<Dependencies>,
        range: Option<Range>,
    },

    /// A function of Python returns a number from 0 to 1, with `range: any` any other, for each of a list of
    /// completions, which have `prompt`, `completion` and `record`. `time_limit` is in seconds, `batch` is
    /// the longest list. Rewards are recomputed when a source file in the file's folder changes, or a file or
    /// folder of `depends`. In `turns`, `python(\"shop.py:Shop\")` is a class that plays episodes.
    #[usage = "python(\"judge.py:score\", time_limit: 10, depends: [\"rules.json\"])"]
    python => Python {
        function: Text,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        depends: Option<Dependencies>,
        range: Option<Range>,
    },

    /// 1 if the completion is JSON that a JSON Schema in a file accepts; it may stand in a fence of
    /// Markdown.
    #[usage = "json_schema(\"schema.json\")"]
    json_schema => JsonSchema { schema: Text },

    /// 1 if the completion's Python code passes the tests in a field of the data. `time_limit` is in seconds.
    #[usage = "unit_tests(tests, time_limit: 10)"]
    unit_tests => UnitTests { field: Field, time_limit: Seconds = 30.0 },

    /// A server of yours returns a number from 0 to 1, with `range: any` any other, for each of a JSON list
    /// of completions. `time_limit` is in seconds, `batch` is the number of completions in a request. What
    /// the server answers can't be known before the run: another `version` recomputes rewards.
    #[usage = "http(env(\"JUDGE_URL\"), time_limit: 10, version: \"1\")"]
    http => Http {
        url: Secret,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        version: Option<Text>,
        range: Option<Range>,
    },

    /// Several rewards and their weights; each can be read as `reward.<name>`.
    #[usage = "parts(accuracy: numeric, format: regex(\"...\"), weights: [0.8, 0.2])"]
    parts => Parts { .. },
}}
