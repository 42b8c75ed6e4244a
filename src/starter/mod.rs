//! The files that `mopd new` writes: a commented experiment with two of the quickstart's domains as data, or
//! an experiment of the book.

use crate::args::BookExample;

const IGNORED: (&str, &str) = (".gitignore", "/.mopd\n/runs\n");

/// Paths in `examples/`, with their texts.
macro_rules! examples {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../examples/", $path)))),*]
    };
}

const QUICKSTART: &[(&str, &str)] = examples![
    "quickstart/sort.train.jsonl",
    "quickstart/sort.test.jsonl",
    "quickstart/reverse.train.jsonl",
    "quickstart/reverse.test.jsonl",
    "quickstart/successor.train.jsonl",
    "quickstart/successor.test.jsonl",
    "quickstart/make_data.py",
];

const LOOKUP: &[(&str, &str)] =
    examples!["lookup/train.jsonl", "lookup/test.jsonl", "lookup/environment.py", "lookup/make_data.py"];

const AGENT: &[(&str, &str)] = examples![
    "agent/demonstrations.jsonl",
    "agent/price.jsonl",
    "agent/price_test.jsonl",
    "agent/stock.jsonl",
    "agent/stock_test.jsonl",
    "agent/environment.py",
    "agent/make_data.py",
    "agent/tokenizer/chat_template.jinja",
    "agent/tokenizer/tokenizer.json",
    "agent/tokenizer/tokenizer_config.json",
];

const REAL: &[(&str, &str)] = examples![
    "real/dates.train.jsonl",
    "real/dates.test.jsonl",
    "real/capitals.train.jsonl",
    "real/capitals.test.jsonl",
    "real/make_data.py",
];

/// Paths below the new folder, with their texts; the experiment first.
pub fn files(name: &str) -> Vec<(String, String)> {
    let named = |text: &str| text.replace("{{name}}", name);
    let mut files = vec![
        (format!("{name}.mopd"), named(include_str!("starter.mopd"))),
        ("README.md".to_owned(), named(include_str!("README.md"))),
        owned(IGNORED),
    ];
    for (path, text) in QUICKSTART {
        let data = path.strip_prefix("quickstart/").unwrap_or(path);
        if data.starts_with("sort.") || data.starts_with("reverse.") {
            files.push((format!("data/{data}"), (*text).to_owned()));
        }
    }
    files
}

/// The files of an experiment of the book, as in `examples/`.
pub fn example(which: BookExample) -> Vec<(String, String)> {
    let (experiment, data) = match which {
        BookExample::Quickstart => (examples!["quickstart.mopd"], QUICKSTART),
        BookExample::Literature => (examples!["literature.mopd"], QUICKSTART),
        BookExample::Lookup => (examples!["lookup.mopd"], LOOKUP),
        BookExample::Agent => (examples!["agent.mopd"], AGENT),
        BookExample::Real => (examples!["real.mopd"], REAL),
    };
    [experiment, data, &[IGNORED]].concat().into_iter().map(owned).collect()
}

fn owned((path, text): (&str, &str)) -> (String, String) {
    (path.to_owned(), text.to_owned())
}
