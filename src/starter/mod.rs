//! What `mopd new` writes: a commented experiment and small data for it, the same on every machine.

mod data;

/// Path below the new folder, and text.
pub fn files(name: &str) -> Vec<(String, String)> {
    let named = |text: &str| text.replace("{{name}}", name);
    let mut files = vec![
        (format!("{name}.mopd"), named(include_str!("starter.mopd"))),
        ("README.md".to_owned(), named(include_str!("README.md"))),
        (".gitignore".to_owned(), "/.mopd\n/runs\n".to_owned()),
    ];
    for task in data::TASKS {
        let split = task.make();
        files.push((format!("data/{}.train.jsonl", task.name), data::lines(&split.train)));
        files.push((format!("data/{}.test.jsonl", task.name), data::lines(&split.test)));
    }
    files
}
