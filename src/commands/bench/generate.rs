//! `mopd bench generate`: completions of one model, without training.

use comfy_table::CellAlignment;
use mopd_plan::Dtype;
use mopd_plan::events::{Event, GenerateJob, GenerationRound, GenerationShape, Job};
use serde_json::{Value, json};

use super::{median, plain_table};
use crate::args::BenchGenerateArgs;
use crate::figures;
use crate::host;
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::worker;

/// The measurements of one shape: at least one round.
struct GenerationFigures {
    shape: GenerationShape,
    rounds: Vec<GenerationRound>,
}

impl GenerationFigures {
    fn seconds(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.seconds).collect())
    }

    fn tokens_per_second(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.tokens as f64 / round.seconds).collect())
    }

    /// The lower bound of the time, for completions of full length.
    fn floor(&self, dtype: Dtype) -> f64 {
        let GenerationRound { phases, rates, .. } = &self.rounds[0];
        phases.iter().map(|phase| phase.seconds(*rates, dtype)).sum()
    }

    /// `None` where some completion was shorter: the lower bound does not hold for these.
    fn times_the_floor(&self, dtype: Dtype) -> Option<f64> {
        let full = u64::from(self.shape.batch) * u64::from(self.shape.new);
        let whole = self.rounds.iter().all(|round| round.tokens == full);
        whole.then(|| self.seconds() / self.floor(dtype))
    }

    fn memory(&self) -> Option<u64> {
        self.rounds.iter().filter_map(|round| round.memory).max()
    }

    fn predicted_memory(&self) -> u64 {
        self.rounds[0].predicted_memory
    }
}

pub fn generate(arguments: &BenchGenerateArgs) -> Result<CommandStatus, Problem> {
    let written = arguments
        .new
        .iter()
        .flat_map(|&new| arguments.batch.iter().map(move |&batch| GenerationShape { batch, new }));
    // A size that is named twice is still one size, with its rounds.
    let mut shapes: Vec<GenerationShape> = Vec::new();
    for shape in written {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    let job = Job::Generate(GenerateJob {
        model: arguments.model.clone(),
        base: host::current_folder()?,
        dtype: arguments.dtype.into(),
        prompt: arguments.prompt,
        shapes,
        rounds: arguments.rounds,
    });
    let mut all: Vec<GenerationFigures> = Vec::new();
    worker::ask(
        &job,
        |failure| failure.into(),
        |event| {
            let Event::MeasuredGeneration(round) = event else { return };
            match all.iter_mut().find(|figures| figures.shape == round.shape) {
                Some(figures) => figures.rounds.push(round),
                None => all.push(GenerationFigures { shape: round.shape, rounds: vec![round] }),
            }
        },
    )?;
    let text = if arguments.json { json(arguments, &all) } else { table(arguments, &all) };
    output::result(&text);
    Ok(CommandStatus::Success)
}

fn table(arguments: &BenchGenerateArgs, all: &[GenerationFigures]) -> String {
    let dtype = Dtype::from(arguments.dtype);
    let mut table = plain_table();
    table.set_header([
        "completions",
        "new tokens",
        "seconds",
        "tokens a second",
        "times the floor",
        "memory",
        "predicted",
    ]);
    for figures in all {
        let times = figures.times_the_floor(dtype);
        table.add_row([
            figures.shape.batch.to_string(),
            figures.shape.new.to_string(),
            format!("{:.3}", figures.seconds()),
            format!("{:.0}", figures.tokens_per_second()),
            times.map_or_else(|| "ended early".to_owned(), |times| format!("{times:.2}")),
            figures.memory().map_or_else(|| "unknown".to_owned(), figures::bytes),
            figures::bytes(figures.predicted_memory()),
        ]);
    }
    for column in 0..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let machine = all.first().map_or_else(String::new, |figures| {
        let GenerationRound { rates, threads, .. } = &figures.rounds[0];
        format!(
            "seen of this machine with {threads} cores: {}/s in float32, {}/s in bfloat16, {}/s from memory\n",
            figures::flops(rates.float32),
            figures::flops(rates.bfloat16),
            figures::bytes(rates.memory as u64),
        )
    });
    format!(
        "{}, {}, prompts of {} tokens; medians of {} rounds, memory beyond the model's\n\n{table}\n\n{machine}",
        output::printable(&arguments.model),
        dtype.name(),
        arguments.prompt,
        arguments.rounds,
    )
}

/// Times in seconds, memory in bytes, rates per second.
fn json(arguments: &BenchGenerateArgs, all: &[GenerationFigures]) -> String {
    let dtype = Dtype::from(arguments.dtype);
    let one = |figures: &GenerationFigures| {
        json!({
            "batch": figures.shape.batch,
            "new": figures.shape.new,
            "seconds": figures.rounds.iter().map(|round| round.seconds).collect::<Vec<f64>>(),
            "tokens": figures.rounds.iter().map(|round| round.tokens).collect::<Vec<u64>>(),
            "tokens_per_second": figures.tokens_per_second(),
            "floor": figures.floor(dtype),
            "times_the_floor": figures.times_the_floor(dtype),
            "memory": figures.memory(),
            "predicted_memory": figures.predicted_memory(),
            "phases": figures.rounds[0].phases,
        })
    };
    let whole = json!({
        "model": arguments.model,
        "dtype": dtype.name(),
        "prompt": arguments.prompt,
        "machine": all.first().map(|figures| figures.rounds[0].rates),
        "threads": all.first().map(|figures| figures.rounds[0].threads),
        "figures": all.iter().map(one).collect::<Vec<Value>>(),
    });
    format!("{whole:#}\n")
}
