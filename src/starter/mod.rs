//! The files that `mopd new` writes: a commented experiment, with two of the quickstart's domains as
//! data.

/// Path below the new folder, and text.
pub fn files(name: &str) -> Vec<(String, String)> {
    let named = |text: &str| text.replace("{{name}}", name);
    let mut files = vec![
        (format!("{name}.mopd"), named(include_str!("starter.mopd"))),
        ("README.md".to_owned(), named(include_str!("README.md"))),
        (".gitignore".to_owned(), "/.mopd\n/runs\n".to_owned()),
    ];
    let data = [
        ("sort.train", include_str!("../../examples/quickstart/sort.train.jsonl")),
        ("sort.test", include_str!("../../examples/quickstart/sort.test.jsonl")),
        ("reverse.train", include_str!("../../examples/quickstart/reverse.train.jsonl")),
        ("reverse.test", include_str!("../../examples/quickstart/reverse.test.jsonl")),
    ];
    files.extend(data.map(|(file, text)| (format!("data/{file}.jsonl"), text.to_owned())));
    files
}
