//! `mopd sample`: completions of prompts from a checkpoint.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, Job, SampleJob, SamplePrompt};
use mopd_store::named::NamedModel;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Format, SampleArgs};
use crate::host;
use crate::model_argument;
use crate::output::{self, Style, counted, hanging, printable};
use crate::problem::{CommandStatus, Problem};
use crate::worker;

const CHECKPOINTS: &str = "`mopd run` leaves a checkpoint of every model and seed in its results, such as \
                           runs/quickstart/models/student-seed1;\nother models are a folder as \
                           `save_pretrained` writes it, a GGUF file, or a name on the hub, OWNER/NAME";

#[derive(Serialize)]
struct SampledText {
    text: String,
    tokens: u32,
    /// Whether it ended by itself; otherwise `max_tokens` cut it off.
    finished: bool,
    /// Log-probability of the whole completion, in nats.
    logp: f64,
}

pub fn sample(arguments: &SampleArgs) -> Result<CommandStatus, Problem> {
    let named = host::as_text(&arguments.checkpoint)?;
    let model = model_argument::source(&named);
    if !model.is_gguf() {
        check_folder(&named, &arguments.checkpoint)?;
    }
    let prompts = prompts(arguments)?;
    let job = Job::Sample(SampleJob {
        model,
        prompts: prompts.clone(),
        chat: arguments.chat,
        system: arguments.system.clone(),
        n: arguments.n,
        temperature: arguments.temperature,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
    });
    let style = Style::of_stdout();
    let mut written = CompletionProgress::new(arguments);
    let mut completions: Vec<SampledText> = Vec::new();
    let mut finished = false;
    let asked = worker::ask(
        &job,
        |failure| failure.into(),
        |event| match event {
            Event::SampleWritten { prompt, tokens, most, text } => {
                let heading = |prompt| heading(prompt, style);
                let above =
                    arguments.prompts.as_ref().and_then(|_| prompts.get(prompt as usize)).map(heading);
                written.look(tokens, most, &text, above, style);
            }
            Event::Sample { prompt, text, tokens, finished, logp } => {
                let completion = SampledText { text, tokens, finished, logp };
                let (prompt, several) = (prompts.get(prompt as usize), arguments.prompts.is_some());
                if arguments.format == Format::Human {
                    let begun = written.end();
                    if several && completions.is_empty() && begun.is_empty() {
                        output::result(&prompt.map(|prompt| heading(prompt, style)).unwrap_or_default());
                    }
                    let line = line(&completion, completions.len() + 1, style);
                    // If the beginning of the text was streamed already, only the rest is printed.
                    output::result(line.strip_prefix(&begun).unwrap_or(&format!("\n{line}")));
                }
                completions.push(completion);
                if several && completions.len() == arguments.n as usize {
                    let said = json!({ "completions": std::mem::take(&mut completions) });
                    if arguments.format == Format::Json {
                        output::result(&json_line(prompt, said));
                    }
                }
            }
            Event::Finished { .. } => finished = true,
            _ => {}
        },
    );
    if !written.end().is_empty() {
        output::result("\n");
    }
    let status = asked?;
    if !finished {
        return Err(worker::death(status));
    }
    if arguments.format == Format::Json && arguments.prompts.is_none() {
        let text =
            serde_json::to_string_pretty(&completions).expect("strings and numbers can always be written");
        output::result(&(text + "\n"));
    }
    Ok(CommandStatus::Success)
}

/// Refuses a folder that has no model, and a name that is neither a folder nor a repository `OWNER/NAME`.
fn check_folder(named: &str, folder: &Path) -> Result<(), Problem> {
    let wrong = |what: String| Err(Problem::usage("no-checkpoint", what).help(CHECKPOINTS));
    match NamedModel::resolve(named, Path::new("")) {
        NamedModel::Folder(_) => {}
        NamedModel::Repository if named.contains('/') => return Ok(()),
        NamedModel::Repository | NamedModel::Nowhere(_) => {
            return wrong(format!("there is no folder {named}"));
        }
    }
    // A single file of weights, the index of several, or an adapter, whose base has the rest.
    for files in [
        &["model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"][..],
        &["config.json", "adapter_config.json"],
    ] {
        if !files.iter().any(|file| folder.join(file).is_file()) {
            return wrong(format!("{named} is not a checkpoint: it has no {}", files[0]));
        }
    }
    Ok(())
}

/// The progress of completions: at a terminal, the text of a single completion as it comes; otherwise the
/// number of tokens, from time to time.
struct CompletionProgress {
    shows_text: bool,
    /// The part of the current completion that is on the screen.
    shown: String,
    began: Option<Instant>,
    said: Instant,
}

/// The interval between two reports of the number of tokens.
const PACE: Duration = Duration::from_secs(10);

impl CompletionProgress {
    fn new(arguments: &SampleArgs) -> CompletionProgress {
        let person = arguments.format == Format::Human && std::io::stdout().is_terminal();
        CompletionProgress {
            shows_text: person && arguments.n == 1,
            shown: String::new(),
            began: None,
            said: Instant::now(),
        }
    }

    /// `above` is a heading before the first completion of a prompt.
    fn look(&mut self, tokens: u32, most: u32, text: &str, above: Option<String>, style: Style) {
        let began = *self.began.get_or_insert_with(Instant::now);
        if self.shows_text {
            let mut piece = printable(text).replace('\n', &format!("\n{HANGING}"));
            if self.shown.is_empty() && !text.is_empty() {
                output::result(&above.unwrap_or_default());
                piece = style.dim(&number(1)) + &piece;
            }
            output::result(&piece);
            self.shown += &piece;
        } else if self.said.elapsed() >= PACE {
            self.said = Instant::now();
            let rate = f64::from(tokens) / began.elapsed().as_secs_f64().max(0.1);
            output::note(&format!(
                "{} of {most} at most, {rate:.0} a second\n",
                counted(tokens as usize, "token")
            ));
        }
    }

    /// Ends the current completion, or all of them. Returns the part of it on the screen.
    fn end(&mut self) -> String {
        self.began = None;
        std::mem::take(&mut self.shown)
    }
}

/// The prompts for the checkpoint, in order.
fn prompts(arguments: &SampleArgs) -> Result<Vec<SamplePrompt>, Problem> {
    let Some(file) = &arguments.prompts else {
        let text = match arguments.prompt.as_deref().unwrap_or_default() {
            "-" => host::standard_input()?,
            text => text.to_owned(),
        };
        return Ok(vec![SamplePrompt::Prompt(text)]);
    };
    let text = if host::is_standard_input(file) { host::standard_input()? } else { host::read_text(file)? };
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let prompts = lines
        .map(|(line, number)| {
            let wrong = |why: &str| {
                Problem::usage("no-prompt", format!("line {number} of {} {why}", file.display())).help(
                    "a line is an object such as {\"prompt\": \"17 + 25?\"}; in a chat, also {\"messages\": [...]}",
                )
            };
            let row: Value = serde_json::from_str(line).map_err(|_| wrong("is not JSON"))?;
            let given = |name| row.get(name).filter(|value: &&Value| !value.is_null());
            match (given("prompt"), given("messages")) {
                (Some(Value::String(text)), _) if !arguments.chat => Ok(SamplePrompt::Prompt(text.clone())),
                // The worker reads its tools and other parts as `mopd run` does.
                (Some(Value::String(_) | Value::Array(_)), _) | (None, Some(_)) if arguments.chat => {
                    Ok(SamplePrompt::Line(line.to_owned()))
                }
                (Some(Value::Array(_)), _) => Err(wrong("has messages as its `prompt`, which need `--chat`")),
                (_, Some(_)) => Err(wrong("has `messages`, which need `--chat`")),
                _ => Err(wrong("has no string `prompt`")),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if prompts.is_empty() {
        return Err(Problem::usage("no-prompt", format!("{} has no lines", file.display())));
    }
    Ok(prompts)
}

/// The prompt of a line, or its messages, with their name.
fn asked(line: &str) -> (&'static str, Value) {
    let mut row: Value = serde_json::from_str(line).unwrap_or_default();
    let name = if row["prompt"].is_null() { "messages" } else { "prompt" };
    (name, row[name].take())
}

/// The heading with a prompt, before its completions.
fn heading(prompt: &SamplePrompt, style: Style) -> String {
    let text = match prompt {
        SamplePrompt::Prompt(text) => text.clone(),
        SamplePrompt::Line(line) => match asked(line) {
            (_, Value::String(text)) => text,
            (_, messages) => messages.to_string(),
        },
    };
    format!("{}\n", style.bold(&printable(&text)))
}

/// `{"prompt": "...", "completions": [...]}`
fn json_line(prompt: Option<&SamplePrompt>, mut said: Value) -> String {
    match prompt {
        Some(SamplePrompt::Prompt(text)) => said["prompt"] = json!(text),
        Some(SamplePrompt::Line(line)) => {
            let (name, value) = asked(line);
            said[name] = value;
        }
        None => {}
    }
    format!("{said}\n")
}

fn line(completion: &SampledText, number: usize, style: Style) -> String {
    let cut = if completion.finished { "" } else { ", cut off" };
    let facts = format!(
        "({}{cut}, log-probability {:.2})",
        counted(completion.tokens as usize, "token"),
        completion.logp
    );
    let text = format!("{}  {}", printable(&completion.text), style.dim(&facts));
    hanging(&style.dim(&self::number(number)), HANGING, &text)
}

/// The indentation of the further lines of a completion: as wide as its number.
const HANGING: &str = "     ";

fn number(number: usize) -> String {
    format!("{number:>3}  ")
}
