//! `mopd eval`: models on files of prompts. It is an experiment of one table, which is written here and runs
//! like any other.

use std::collections::HashSet;
use std::path::Path;

use clap::Parser;

use super::run;
use crate::args::{Cli, Command, EvalArgs, Format, RunArgs};
use crate::host;
use crate::problem::{Problem, Status};

pub fn eval(arguments: &EvalArgs) -> Result<Status, Problem> {
    for file in &arguments.on {
        if !Path::new(file).is_file() {
            return Err(Problem::usage("unreadable-file", format!("there is no file {file}"))
                .help("`--on` names JSON lines with a `prompt` each"));
        }
    }
    host::set_standard_input(experiment(arguments)?);
    let Some(arguments) = run_arguments(arguments) else {
        return Err(Problem::usage("bad-name", "the folder of `--out` can't be used"));
    };
    run::run(&arguments)
}

/// Those of the run of a text on standard input.
fn run_arguments(arguments: &EvalArgs) -> Option<RunArgs> {
    let format = match arguments.format {
        Format::Human => "human",
        Format::Json => "json",
    };
    let out = format!("--out={}", arguments.out);
    let run = Cli::try_parse_from(["mopd", "run", out.as_str(), "--format", format, "-"]).ok()?;
    match run.command {
        Command::Run(arguments) => Some(arguments),
        _ => None,
    }
}

/// The experiment: a model for each checkpoint, a benchmark for each file, a table of both.
fn experiment(arguments: &EvalArgs) -> Result<String, Problem> {
    let temperature = arguments.temperature.unwrap_or(if arguments.samples == 1 { 0.0 } else { 1.0 });
    let mut settings = vec![
        format!("reward = {}", arguments.reward),
        format!("format = {}", if arguments.chat { "chat" } else { "text" }),
        format!("samples = {}", arguments.samples),
        format!("temperature = {temperature}"),
        format!("max_tokens = {}", arguments.max_tokens),
    ];
    if let Some(system) = &arguments.system {
        settings.push(format!("system = {}", quoted(system)?));
    }
    if !arguments.metric.is_empty() {
        settings.push(format!("metrics = [{}]", arguments.metric.join(", ")));
    }
    let mut text = format!("experiment \"eval\" {{ seed = {} }}\n\n", arguments.seed);
    let columns = names(&arguments.on, "on");
    for (name, file) in columns.iter().zip(&arguments.on) {
        text +=
            &format!("eval {name} {{\n  prompts = {}\n  {}\n}}\n\n", quoted(file)?, settings.join("\n  "));
    }
    let models = names(&arguments.checkpoints, "model");
    for (name, checkpoint) in models.iter().zip(&arguments.checkpoints) {
        // Only a run's own says how it makes tokens.
        let of_run = Path::new(checkpoint).join("mopd.json").is_file();
        let source = if of_run { "checkpoint" } else { "hf" };
        text += &format!("model {name} = {source}({})\n", quoted(checkpoint)?);
    }
    let (models, columns) = (models.join(", "), columns.join(", "));
    Ok(text + &format!("\ncompare \"eval\" {{ models = [{models}], on = [{columns}] }}\n"))
}

/// A text of the language.
fn quoted(text: &str) -> Result<String, Problem> {
    if text.contains(['\n', '\r']) {
        return Err(Problem::usage("not-text", format!("{text:?} has more than one line")));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Whether it is a name that has no meaning of its own in the language.
fn is_free(name: &str) -> bool {
    let declared = host::analyse_text(Path::new("-"), &format!("let {name} = 1\n"));
    declared.is_ok_and(|analysis| !analysis.has_errors())
}

/// A name of the language for each path, its last part as near as it goes; all differ.
fn names(paths: &[String], otherwise: &str) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::new();
    let name = |path: &String| {
        let last = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let name: String = last.chars().map(letter).collect();
        let name = match name.trim_matches('_') {
            name if is_free(name) => name.to_owned(),
            name => format!("{otherwise}_{name}").trim_end_matches('_').to_owned(),
        };
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let unique = std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name));
        let unique = unique.unwrap_or(name);
        taken.insert(unique.clone());
        unique
    };
    paths.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        let paths =
            ["data/Sort.test.jsonl", "b/sort.test.jsonl", "7.jsonl", "Qwen/Qwen3-0.6B", "é", "data.jsonl"];
        let found = names(&paths.map(str::to_owned), "on");
        assert_eq!(found, ["sort_test", "sort_test_2", "on_7", "qwen3_0", "on", "on_data"]);
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quoted("a \"b\" \\c").ok().as_deref(), Some("\"a \\\"b\\\" \\\\c\""));
        assert!(quoted("a\nb").is_err());
    }
}
