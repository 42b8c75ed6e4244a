//! `mopd bench divergence`: peak memory and time of a divergence with its gradient, compared with a plain
//! version. The worker measures, each memory figure in a separate process.

use comfy_table::CellAlignment;
use mopd_plan::events::{BenchDivergence as Of, BenchJob, Event, Failure, Job, Measure};
use serde::Serialize;
use serde_json::json;

use super::{median, plain_table};
use crate::args::{BenchDivergenceArgs, BenchDivergenceName};
use crate::figures;
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::worker;

/// The figures for one vocabulary size.
#[derive(Serialize)]
struct DivergenceFigures {
    vocabulary: u32,
    plain_memory: Option<u64>,
    chunked_memory: Option<u64>,
    /// In the order of the runs.
    plain_seconds: Vec<f64>,
    chunked_seconds: Vec<f64>,
    value_difference: f64,
    gradient_difference: f64,
}

pub fn divergence(arguments: &BenchDivergenceArgs) -> Result<CommandStatus, Problem> {
    let figures = arguments.vocabulary.iter().map(|vocabulary| measure(arguments, *vocabulary));
    let figures = figures.collect::<Result<Vec<DivergenceFigures>, Problem>>()?;
    output::result(&if arguments.json { json(arguments, &figures) } else { table(arguments, &figures) });
    Ok(CommandStatus::Success)
}

fn measure(arguments: &BenchDivergenceArgs, vocabulary: u32) -> Result<DivergenceFigures, Problem> {
    let ask = |measure| {
        let divergence = match arguments.of {
            BenchDivergenceName::Kl => Of::Kl,
            BenchDivergenceName::Jsd => Of::Jsd,
            BenchDivergenceName::TopK => Of::TopK,
        };
        run_worker(BenchJob {
            vocabulary,
            tokens: arguments.tokens,
            width: arguments.width,
            divergence,
            measure,
        })
    };
    let memory = |plain| match ask(Measure::Memory { plain })? {
        Event::MeasuredMemory { bytes } => Ok(bytes),
        _ => Err(unexpected()),
    };
    let (plain_memory, chunked_memory) = (memory(true)?, memory(false)?);
    match ask(Measure::Time { runs: arguments.runs })? {
        Event::MeasuredTime { plain, chunked, value_difference, gradient_difference } => {
            Ok(DivergenceFigures {
                vocabulary,
                plain_memory,
                chunked_memory,
                plain_seconds: plain,
                chunked_seconds: chunked,
                value_difference,
                gradient_difference,
            })
        }
        _ => Err(unexpected()),
    }
}

/// The measurements of one worker.
fn run_worker(job: BenchJob) -> Result<Event, Problem> {
    let mut measured = None;
    let failed = |failure: &Failure| Problem::run("bench-failed", failure.message.clone());
    let status = worker::ask(&Job::Bench(job), failed, |event| {
        if matches!(event, Event::MeasuredMemory { .. } | Event::MeasuredTime { .. }) {
            measured = Some(event);
        }
    })?;
    measured.ok_or_else(|| worker::death(status))
}

fn unexpected() -> Problem {
    Problem::run(
        "worker-protocol",
        "unexpected reply from the worker: it is not the measurement \
        that was requested",
    )
}

/// The inputs of both versions, which are not counted.
fn given(arguments: &BenchDivergenceArgs) -> String {
    match arguments.width {
        None => {
            format!("both models' logits of {} tokens given", figures::count(u64::from(arguments.tokens)))
        }
        Some(width) => {
            format!(
                "both models' hidden states of {} tokens given, {width} wide",
                figures::count(u64::from(arguments.tokens))
            )
        }
    }
}

fn table(arguments: &BenchDivergenceArgs, all: &[DivergenceFigures]) -> String {
    let mut table = plain_table();
    table.set_header([
        "vocabulary",
        "version",
        "peak memory beyond what is given",
        "median time",
        "values",
        "gradients",
    ]);
    let memory = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), figures::bytes);
    let ratio = |plain: f64, chunked: f64| format!("{:.3}", chunked / plain);
    for figures in all {
        let vocabulary = figures::count(u64::from(figures.vocabulary));
        let (plain, chunked) =
            (median(figures.plain_seconds.clone()), median(figures.chunked_seconds.clone()));
        let time = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
        let empty = String::new;
        table.add_row([
            vocabulary.clone(),
            "plain".into(),
            memory(figures.plain_memory),
            time(plain),
            empty(),
            empty(),
        ]);
        let apart = |difference: f64| format!("{difference:.0e} apart");
        table.add_row([
            vocabulary.clone(),
            "chunked".into(),
            memory(figures.chunked_memory),
            time(chunked),
            apart(figures.value_difference),
            apart(figures.gradient_difference),
        ]);
        let of_memory = figures.plain_memory.zip(figures.chunked_memory);
        let of_memory = of_memory.map_or_else(empty, |(plain, chunked)| ratio(plain as f64, chunked as f64));
        table.add_row([vocabulary, "ratio".into(), of_memory, ratio(plain, chunked), empty(), empty()]);
    }
    for column in [0, 2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "{}, gradients included; {}, one thread, {} runs in turn\n\n{table}\n",
        name(arguments.of),
        given(arguments),
        arguments.runs
    )
}

fn name(of: BenchDivergenceName) -> &'static str {
    match of {
        BenchDivergenceName::Kl => "kl(student || teacher)",
        BenchDivergenceName::Jsd => "jsd(student, teacher, beta: 0.5)",
        BenchDivergenceName::TopK => "kl(student || teacher, support: top_k(teacher, 64), mass: generalized)",
    }
}

/// Times in seconds, memory in bytes.
fn json(arguments: &BenchDivergenceArgs, figures: &[DivergenceFigures]) -> String {
    let all = json!({
        "divergence": name(arguments.of),
        "tokens": arguments.tokens,
        "width": arguments.width,
        "threads": 1,
        "figures": figures,
    });
    format!("{all:#}\n")
}
