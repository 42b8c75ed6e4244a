//! `mopd eval`: evaluates models on files of prompts. It generates an experiment with one table, and runs it
//! like any other.

use std::collections::HashSet;
use std::path::Path;

use clap::Parser;
use mopd_plan::DATA_ENDINGS;

use super::run;
use crate::args::{Cli, Command, EvalArgs, Format, RunArgs};
use crate::host::{self, WrittenPart};
use crate::model_argument;
use crate::output::{self, printable};
use crate::problem::{CommandStatus, Problem};

pub fn eval(arguments: &EvalArgs) -> Result<CommandStatus, Problem> {
    for file in &arguments.on {
        if !Path::new(file).is_file() {
            return Err(Problem::usage("unreadable-file", format!("there is no file {file}"))
                .help("`--on` must be a file of JSON lines with a field `prompt`"));
        }
    }
    let experiment = experiment(arguments)?;
    for (label, path) in experiment.labels.iter().filter(|(label, path)| label != path) {
        output::note(&format!("{label} is {}\n", printable(path)));
    }
    host::set_standard_input(experiment.text, experiment.parts);
    let Some(arguments) = run_arguments(arguments) else {
        return Err(Problem::usage("bad-name", "the folder of `--out` cannot be used"));
    };
    run::run(&arguments)
}

/// The arguments of a run whose text is on standard input.
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

/// The generated experiment: a model for each checkpoint, a benchmark for each file, and a table of both.
#[derive(Default)]
struct WrittenExperiment {
    text: String,
    /// The command-line words that its parts come from.
    parts: Vec<WrittenPart>,
    /// The names of files and checkpoints in the table, with their paths.
    labels: Vec<(String, String)>,
}

impl WrittenExperiment {
    /// Adds a part that comes from words of the command line.
    fn write(&mut self, text: &str, words: String) {
        let start = self.text.len();
        self.text += text;
        self.parts.push(WrittenPart { bytes: start..self.text.len(), words });
    }
}

fn experiment(arguments: &EvalArgs) -> Result<WrittenExperiment, Problem> {
    let temperature = arguments.temperature.unwrap_or(if arguments.samples == 1 { 0.0 } else { 1.0 });
    let format = if arguments.chat { "chat" } else { "text" };
    let reward = reward(&arguments.reward);
    // Each setting, with its option.
    let mut settings = vec![
        (format!("reward = {reward}"), format!("--reward {}", arguments.reward)),
        (format!("format = {format}"), "--chat".to_owned()),
        (format!("samples = {}", arguments.samples), format!("--samples {}", arguments.samples)),
        (format!("temperature = {temperature}"), format!("--temperature {temperature}")),
        (format!("max_tokens = {}", arguments.max_tokens), format!("--max-tokens {}", arguments.max_tokens)),
    ];
    if let Some(fields) = &arguments.fields
        && let columns = columns(fields)?
        && !columns.is_empty()
    {
        settings.push((format!("fields = columns({columns})"), format!("--fields {fields}")));
    }
    if let Some(system) = &arguments.system {
        settings.push((format!("system = {}", quoted(system)?), format!("--system {system}")));
    }
    if !arguments.metric.is_empty() {
        let metrics = &arguments.metric;
        settings.push((
            format!("metrics = [{}]", metrics.join(", ")),
            format!("--metric {}", metrics.join(" --metric ")),
        ));
    }
    let mut written = WrittenExperiment::default();
    written.text += &format!("experiment \"eval\" {{ seed = {} }}\n\n", arguments.seed);
    let mut taken = HashSet::new();
    let columns = names(&arguments.on, "on", &mut taken);
    for (name, file) in columns.iter().zip(&arguments.on) {
        written.write(&format!("eval {name} {{\n  prompts = {}\n", quoted(file)?), format!("--on {file}"));
        for (setting, words) in &settings {
            written.write(&format!("  {setting}\n"), words.clone());
        }
        written.text += "}\n\n";
    }
    let models = names(&arguments.checkpoints, "model", &mut taken);
    for (name, checkpoint) in models.iter().zip(&arguments.checkpoints) {
        let source = model_argument::source(checkpoint).function();
        written.write(&format!("model {name} = {source}({})\n", quoted(checkpoint)?), checkpoint.clone());
    }
    let (rows, on) = (models.join(", "), columns.join(", "));
    written.text += &format!("\ncompare \"eval\" {{ models = [{rows}], on = [{on}] }}\n");
    let labels = columns.into_iter().zip(&arguments.on).chain(models.into_iter().zip(&arguments.checkpoints));
    written.labels = labels.map(|(label, path)| (label, path.clone())).collect();
    Ok(written)
}

/// A reward of the language. `judge.py:score` alone stands for `python("judge.py:score")`.
fn reward(given: &str) -> String {
    let is_function = given.split_once(".py:").is_some_and(|(file, function)| {
        !file.is_empty() && function.chars().all(|c| c.is_alphanumeric() || c == '_') && !function.is_empty()
    });
    let plain = !given.contains(['"', '(', '\n']);
    if is_function && plain { format!("python(\"{given}\")") } else { given.to_owned() }
}

/// `prompt=question,answer=solution` in the language; without fields whose column has the same name.
fn columns(fields: &str) -> Result<String, Problem> {
    let column = |pair: &str| {
        let Some((field, column)) = pair.split_once('=').filter(|(_, column)| !column.trim().is_empty())
        else {
            let message = format!("`--fields` must be `FIELD=COLUMN`, not `{}`", pair.trim());
            return Err(Problem::usage("usage", message).help(
                "for example `--fields prompt=question,answer=solution`: the prompt is in the column \
                `question`",
            ));
        };
        let (field, column) = (field.trim(), column.trim());
        Ok(if field == column { None } else { Some(format!("{field}: {}", quoted(column)?)) })
    };
    let columns = fields.split(',').map(column).collect::<Result<Vec<Option<String>>, _>>()?;
    Ok(columns.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// A text in the language.
fn quoted(text: &str) -> Result<String, Problem> {
    if text.contains(['\n', '\r']) {
        return Err(Problem::usage("not-text", format!("{text:?} has more than one line")));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Whether a name has no meaning in the language yet.
fn is_free(name: &str) -> bool {
    let declared = host::analyse_text(Path::new("-"), &format!("let {name} = 1\n"));
    declared.is_ok_and(|analysis| !analysis.has_errors())
}

/// A name in the language for each path: its last part, as similar as possible, with folders in front where
/// two would be equal. All differ, also from the names that are taken.
fn names(paths: &[String], otherwise: &str, taken: &mut HashSet<String>) -> Vec<String> {
    let parts = |path: &String| -> Vec<String> {
        let path = Path::new(path);
        let ending = path.extension().and_then(|ending| ending.to_str());
        let whole = match ending.is_some_and(|ending| DATA_ENDINGS.contains(&ending) || ending == "gguf") {
            true => path.with_extension(""),
            false => path.to_owned(),
        };
        whole.iter().map(|part| letters(&part.to_string_lossy())).filter(|part| !part.is_empty()).collect()
    };
    let all: Vec<Vec<String>> = paths.iter().map(parts).collect();
    // The fewest last parts of a path that no other path ends with.
    let enough = |index: usize, parts: &Vec<String>| {
        let last = |parts: &[String], count: usize| parts[parts.len().saturating_sub(count)..].join("_");
        let alone = |count: &usize| {
            let others = all.iter().enumerate().filter(|(other, _)| *other != index);
            others.map(|(_, other)| last(other, *count)).all(|other| other != last(parts, *count))
        };
        last(parts, (1..=parts.len()).find(alone).unwrap_or(1))
    };
    let name = |(index, parts): (usize, &Vec<String>)| {
        let name = match enough(index, parts) {
            name if is_free(&name) => name,
            name => format!("{otherwise}_{name}").trim_end_matches('_').to_owned(),
        };
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let unique = std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name));
        let unique = unique.unwrap_or(name);
        taken.insert(unique.clone());
        unique
    };
    all.iter().enumerate().map(name).collect()
}

/// A part of a path, with only characters of names.
fn letters(part: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    part.chars().map(letter).collect::<String>().trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        let mut taken = HashSet::new();
        let mut of = |paths: &[&str], otherwise: &str| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            names(&paths, otherwise, &mut taken)
        };
        let paths = [
            "data/Sort.test.jsonl",
            "b/sort.test.jsonl",
            "7.jsonl",
            "Qwen/Qwen3-0.6B",
            "é",
            "data.jsonl",
            "m.Q4_1.gguf",
        ];
        let expected = ["data_sort_test", "b_sort_test", "on_7", "qwen3_0_6b", "on", "on_data", "m_q4_1"];
        assert_eq!(of(&paths, "on"), expected);
        let runs = ["runs/x/models/expert.buy-seed1", "runs/x/models/expert.sell-seed1"];
        assert_eq!(of(&runs, "model"), ["expert_buy_seed1", "expert_sell_seed1"]);
        let same = ["runs/a/models/student", "runs/b/models/student", "runs/a/models/student"];
        assert_eq!(of(&same, "model"), ["student", "b_models_student", "student_2"]);
        assert_eq!(of(&["data/student"], "model"), ["student_3"]);
    }

    #[test]
    fn a_function_alone_is_a_reward() {
        assert_eq!(reward("judge/verify.py:score"), "python(\"judge/verify.py:score\")");
        for given in ["exact_match", "python(\"judge.py:score\")", "judge.py", "command(\"a.py:b\")", ".py:a"]
        {
            assert_eq!(reward(given), given);
        }
    }

    #[test]
    fn fields_are_columns() {
        assert_eq!(
            columns("prompt=question, answer=final answer").ok().as_deref(),
            Some("prompt: \"question\", answer: \"final answer\"")
        );
        assert_eq!(columns("prompt=prompt,answer=a").ok().as_deref(), Some("answer: \"a\""));
        assert_eq!(columns("prompt=prompt").ok().as_deref(), Some(""));
        for given in ["prompt", "prompt=", ""] {
            assert!(columns(given).is_err(), "{given}");
        }
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quoted("a \"b\" \\c").ok().as_deref(), Some("\"a \\\"b\\\" \\\\c\""));
        assert!(quoted("a\nb").is_err());
    }
}
