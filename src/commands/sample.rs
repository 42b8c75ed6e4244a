//! `mopd sample`: completions of a prompt from a checkpoint.

use mopd_compiler::plan::events::{Event, Failure, Job, SampleJob};
use serde::Serialize;

use crate::args::{Format, SampleArgs};
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
    let job = Job::Sample(SampleJob {
        checkpoint: folder.to_owned(),
        prompt: arguments.prompt.clone(),
        n: arguments.n,
        temperature: arguments.temperature,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
    });
    let style = Style::of_stdout();
    let mut completions = Vec::new();
    let mut finished = false;
    let failed = |failure: &Failure| Problem::run(failure.kind.name(), failure.message.clone());
    let status = worker::ask(&job, failed, |event| match event {
        Event::Sample { text, tokens, finished, logp } => {
            let completion = SampledText { text, tokens, finished, logp };
            if arguments.format == Format::Human {
                output::result(&line(&completion, completions.len() + 1, style));
            }
            completions.push(completion);
        }
        Event::Finished { .. } => finished = true,
        _ => {}
    })?;
    if !finished {
        return Err(worker::death(status));
    }
    if arguments.format == Format::Json {
        let text =
            serde_json::to_string_pretty(&completions).expect("strings and numbers can always be written");
        output::result(&(text + "\n"));
    }
    Ok(Status::Good)
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
