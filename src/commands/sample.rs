//! `mopd sample`: completions of prompts from a checkpoint.

use mopd_compiler::plan::events::{Event, Failure, Job, SampleJob, SamplePrompt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Format, SampleArgs};
use crate::host;
use crate::output::{self, Style, counted, hanging, printable};
use crate::problem::{Problem, Status};
use crate::worker;

#[derive(Serialize)]
struct SampledText {
    text: String,
    tokens: u32,
    /// It ended by itself; otherwise `max_tokens` cut it off.
    finished: bool,
    /// Log-probability of the whole completion, in nats.
    logp: f64,
}

pub fn sample(arguments: &SampleArgs) -> Result<Status, Problem> {
    let checkpoint = arguments.checkpoint.display();
    // One file of weights, or the index of several.
    for files in [&["model.safetensors", "model.safetensors.index.json"][..], &["config.json"]] {
        if !files.iter().any(|file| arguments.checkpoint.join(file).is_file()) {
            return Err(Problem::usage(
                "no-checkpoint",
                format!("{checkpoint} is no checkpoint: it has no {}", files[0]),
            )
            .help(
                "`mopd run` leaves a checkpoint of every model and seed in its results, such as \
                 runs/quickstart/models/student-seed1",
            ));
        }
    }
    let Some(folder) = arguments.checkpoint.to_str() else {
        return Err(Problem::usage("not-text", format!("the path {checkpoint} is not UTF-8 text")));
    };
    let prompts = prompts(arguments)?;
    let job = Job::Sample(SampleJob {
        checkpoint: folder.to_owned(),
        prompts: prompts.clone(),
        chat: arguments.chat,
        system: arguments.system.clone(),
        n: arguments.n,
        temperature: arguments.temperature,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
    });
    let style = Style::of_stdout();
    let mut completions: Vec<SampledText> = Vec::new();
    let mut finished = false;
    let failed = |failure: &Failure| Problem::run(failure.kind.name(), failure.message.clone());
    let status = worker::ask(&job, failed, |event| match event {
        Event::Sample { prompt, text, tokens, finished, logp } => {
            let completion = SampledText { text, tokens, finished, logp };
            let (prompt, several) = (prompts.get(prompt as usize), arguments.prompts.is_some());
            if arguments.format == Format::Human {
                if several && completions.is_empty() {
                    output::result(&prompt.map(|prompt| heading(prompt, style)).unwrap_or_default());
                }
                output::result(&line(&completion, completions.len() + 1, style));
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
    })?;
    if !finished {
        return Err(worker::death(status));
    }
    if arguments.format == Format::Json && arguments.prompts.is_none() {
        let text =
            serde_json::to_string_pretty(&completions).expect("strings and numbers can always be written");
        output::result(&(text + "\n"));
    }
    Ok(Status::Good)
}

/// What the checkpoint is asked, in order.
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
                Problem::usage("no-prompt", format!("line {number} of {} {why}", file.display()))
                    .help("a line is an object such as {\"prompt\": \"17 + 25?\"}; in a chat, also {\"messages\": [...]}")
            };
            let line: Value = serde_json::from_str(line).map_err(|_| wrong("is not JSON"))?;
            match (line.get("prompt"), line.get("messages")) {
                (Some(Value::String(text)), _) => Ok(SamplePrompt::Prompt(text.clone())),
                (_, Some(messages)) if arguments.chat => Ok(SamplePrompt::Messages(messages.clone())),
                (_, Some(_)) => Err(wrong("has `messages`, which only a model that is asked with `--chat` gets")),
                _ => Err(wrong("has no `prompt` that is a text")),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if prompts.is_empty() {
        return Err(Problem::usage("no-prompt", format!("{} has no lines", file.display())));
    }
    Ok(prompts)
}

/// A prompt above its completions.
fn heading(prompt: &SamplePrompt, style: Style) -> String {
    let text = match prompt {
        SamplePrompt::Prompt(text) => text.clone(),
        SamplePrompt::Messages(messages) => messages.to_string(),
    };
    format!("{}\n", style.bold(&printable(&text)))
}

/// `{"prompt": "...", "completions": [...]}`
fn json_line(prompt: Option<&SamplePrompt>, mut said: Value) -> String {
    match prompt {
        Some(SamplePrompt::Prompt(text)) => said["prompt"] = json!(text),
        Some(SamplePrompt::Messages(messages)) => said["messages"] = messages.clone(),
        None => {}
    }
    format!("{said}\n")
}

fn line(completion: &SampledText, number: usize, style: Style) -> String {
    let number = format!("{number:>3}  ");
    let cut = if completion.finished { "" } else { ", cut off" };
    let facts = format!(
        "({}{cut}, log-probability {:.2})",
        counted(completion.tokens as usize, "token"),
        completion.logp
    );
    let text = format!("{}  {}", printable(&completion.text), style.dim(&facts));
    hanging(&style.dim(&number), "     ", &text)
}
