//! `mopd bench expr`: the time of a per-token weight, interpreted and compiled, compared with a plain pass
//! over the same memory.

use std::time::{Duration, Instant};

use comfy_table::CellAlignment;
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::graph::{Graph, NodeId};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::{self, Program, Workspace};
use mopd_expr::values::EvaluationError;
use mopd_lang::check::analyse;
use mopd_lang::source::SourceFile;
use mopd_plan::{ModelSignal, Signal};
use serde_json::{Value, json};

use super::plain_table;
use crate::args::BenchExprArgs;
use crate::figures;
use crate::host;
use crate::output;
use crate::problem::{CommandStatus, Problem};

/// A truncated importance ratio, damped where the student is certain, times a capped divergence, plus a bonus
/// for entropy: the kinds of operations in weights of the literature.
const SOURCE: &str = "\
// `unit` makes a number without a unit of the entropy: dividing by 1 is not computed.
objective weighted(unit: nats = 1) {
  let trust  = clip(exp(teacher.logp - student.logp), 0.2, 5)
  let damped = where(student.entropy > 1.2, trust, trust * 0.1)

  weight       = damped * min(1, kl(teacher || student)) + 0.5 * log1p(student.entropy / unit)
  term imitate = -live student.logp
  reduce       = mean(token) then mean(sequence)
}
";

const TOKENS: [u32; 2] = [65_536, 4_194_304];
const TOKENS_PER_SEQUENCE: u32 = 1024;
/// Runs that are not counted: they bring memory into the caches.
const WARM_UP: usize = 2;
const COMPILATIONS: usize = 201;
const INTERPRETATIONS: usize = 3;

struct BenchWeight {
    graph: Graph,
    node: NodeId,
}

/// The medians.
struct ExprFigures {
    tokens: u32,
    /// A pass that reads as many arrays as the weight does, and writes one.
    memory: Duration,
    one_thread: Duration,
    all_threads: Duration,
    interpreted: Duration,
}

pub fn expr(arguments: &BenchExprArgs) -> Result<CommandStatus, Problem> {
    let weight = weight()?;
    let failed = |error: &dyn std::fmt::Display| {
        Problem::run("bench-failed", format!("the weight can't be computed: {error}"))
    };
    let mut sources = Vec::new();
    let mut codes = Vec::new();
    let mut program = Program::compile(&weight.graph, &[weight.node]).map_err(|error| failed(&error))?;
    for _ in 0..COMPILATIONS {
        let start = Instant::now();
        let weight = self::weight()?;
        sources.push(start.elapsed());
        let start = Instant::now();
        program = Program::compile(&weight.graph, &[weight.node]).map_err(|error| failed(&error))?;
        codes.push(start.elapsed());
    }
    let (source, code) = (median(&mut sources), median(&mut codes));

    let sizes = if arguments.tokens.is_empty() { &TOKENS[..] } else { &arguments.tokens };
    let mut figures = Vec::new();
    for tokens in sizes {
        figures.push(
            measured(&weight, &program, *tokens, arguments.runs as usize).map_err(|error| failed(&error))?,
        );
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    output::result(&if arguments.json {
        self::json(&figures, threads, source, code)
    } else {
        table(&figures, threads, source, code)
    });
    Ok(CommandStatus::Success)
}

/// The weight of [`SOURCE`], compiled like that of any file.
fn weight() -> Result<BenchWeight, Problem> {
    let wrong =
        |what: String| Problem::run("bench-failed", format!("the built-in objective is wrong: {what}"));
    let source = SourceFile { path: "bench.mopd".to_owned(), text: SOURCE.to_owned() };
    let analysis = analyse(source, &host::standard);
    if let Some(diagnostic) = analysis.diagnostics.first() {
        return Err(wrong(diagnostic.message.clone()));
    }
    let [named] = &analysis.objectives[..] else { return Err(wrong("it is not one".to_owned())) };
    let expressions = mopd_compiler::expressions(&named.objective, &analysis.origins);
    let expressions = expressions.map_err(|diagnostic| wrong(diagnostic.message.clone()))?;
    let mut graph = expressions.graph;
    graph.set_fused(jit::fuses());
    let node = expressions.weight.ok_or_else(|| wrong("it has no weight".to_owned()))?;
    Ok(BenchWeight { graph, node })
}

fn measured(
    weight: &BenchWeight,
    program: &Program,
    tokens: u32,
    runs: usize,
) -> Result<ExprFigures, EvaluationError> {
    let batch = batch(weight, tokens);
    let (mut single, mut parallel) = (Workspace::with_threads(1), Workspace::default());
    let mut sums = vec![0.0f32; tokens as usize];
    let mut times = [const { Vec::new() }; 4];
    for run in 0..WARM_UP + runs {
        let mut timed = |way: usize,
                         work: &mut dyn FnMut() -> Result<(), EvaluationError>|
         -> Result<(), EvaluationError> {
            let start = Instant::now();
            work()?;
            if run >= WARM_UP {
                times[way].push(start.elapsed());
            }
            Ok(())
        };
        timed(0, &mut || {
            plain_pass(&batch, &mut sums);
            Ok(())
        })?;
        timed(1, &mut || program.run_in(&batch, &mut single))?;
        timed(2, &mut || program.run_in(&batch, &mut parallel))?;
        if (WARM_UP..WARM_UP + INTERPRETATIONS).contains(&run) {
            timed(3, &mut || interpret(&weight.graph, &[weight.node], &batch).map(drop))?;
        }
    }
    let [memory, one_thread, all_threads, interpreted] = times.each_mut().map(|times| median(times));
    Ok(ExprFigures { tokens, memory, one_thread, all_threads, interpreted })
}

/// Sums the signals, element by element.
fn plain_pass(batch: &Batch, sums: &mut [f32]) {
    let signals: Vec<&[f32]> = batch.signals.iter().map(|(_, values)| values.as_slice()).collect();
    if let [a, b, c, d] = signals[..] {
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = a + b + c + d;
        }
    }
    std::hint::black_box(sums);
}

/// Numbers in the usual range of their signals, always the same.
fn batch(weight: &BenchWeight, tokens: u32) -> Batch {
    let mut state = 0u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let signals = weight.graph.signals(&[weight.node]).into_iter().map(|signal| {
        let scale = match signal {
            Signal::Of { part: ModelSignal::Logp, .. } => -8.0,
            Signal::Of { part: ModelSignal::Entropy, .. } => 4.0,
            _ => 2.0,
        };
        let values = (0..tokens).map(|_| scale * uniform()).collect();
        (signal, values)
    });
    let signals = signals.collect();
    let sequences = tokens.div_ceil(TOKENS_PER_SEQUENCE);
    let layout = Layout {
        sequence_of_token: (0..tokens).map(|token| token / TOKENS_PER_SEQUENCE).collect(),
        group_of_sequence: vec![0; sequences as usize],
        groups: 1,
        ..Layout::default()
    };
    Batch { layout, signals, ..Batch::default() }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn microseconds(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

impl ExprFigures {
    fn ways(&self, threads: usize) -> [(String, Duration); 4] {
        [
            ("plain pass over memory, 1 thread".to_owned(), self.memory),
            ("compiled, 1 thread".to_owned(), self.one_thread),
            (format!("compiled, up to {threads} threads"), self.all_threads),
            ("interpreted, in f64".to_owned(), self.interpreted),
        ]
    }
}

fn table(figures: &[ExprFigures], threads: usize, source: Duration, code: Duration) -> String {
    let mut table = plain_table();
    table.set_header(["tokens", "what", "median", "a token", "times the plain pass"]);
    let dash = || "-".to_owned();
    table.add_row([dash(), "source to graph".to_owned(), microseconds(source), dash(), dash()]);
    table.add_row([dash(), "graph to code".to_owned(), microseconds(code), dash(), dash()]);
    for size in figures {
        for (way, time) in size.ways(threads) {
            let each = format!("{:.3} ns", time.as_secs_f64() * 1e9 / f64::from(size.tokens));
            let ratio = format!("{:.2}", time.as_secs_f64() / size.memory.as_secs_f64());
            table.add_row([figures::count(size.tokens.into()), way, microseconds(time), each, ratio]);
        }
    }
    for column in [0, 2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

/// Times in seconds.
fn json(figures: &[ExprFigures], threads: usize, source: Duration, code: Duration) -> String {
    let sizes: Vec<Value> = figures
        .iter()
        .map(|size| {
            json!({
                "tokens": size.tokens,
                "memory_pass": size.memory.as_secs_f64(),
                "compiled_one_thread": size.one_thread.as_secs_f64(),
                "compiled": size.all_threads.as_secs_f64(),
                "interpreted": size.interpreted.as_secs_f64(),
            })
        })
        .collect();
    let figures = json!({
        "source": SOURCE,
        "threads": threads,
        "source_to_graph": source.as_secs_f64(),
        "graph_to_code": code.as_secs_f64(),
        "sizes": sizes,
    });
    format!("{figures:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_one_number_per_token_of_four_signals_and_means_what_it_says() {
        let weight = weight().unwrap_or_else(|problem| panic!("{problem:?}"));
        let batch = batch(&weight, 1000);
        assert_eq!(batch.signals.len(), 4, "the plain pass reads four arrays");
        let of = |wanted: fn(&Signal) -> bool| {
            let found = batch.signals.iter().find(|(signal, _)| wanted(signal));
            f64::from(found.expect("the weight reads it").1[7])
        };
        use mopd_plan::Role;
        let student = of(|signal| *signal == Signal::Of { role: Role::Student, part: ModelSignal::Logp });
        let teacher = of(|signal| *signal == Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
        let entropy = of(|signal| matches!(signal, Signal::Of { part: ModelSignal::Entropy, .. }));
        let divergence = of(|signal| matches!(signal, Signal::Divergence(_)));
        let ratio = (teacher - student).exp().clamp(0.2, 5.0);
        let expected =
            if entropy > 1.2 { ratio } else { ratio * 0.1 } * divergence.min(1.0) + 0.5 * entropy.ln_1p();
        let values = interpret(&weight.graph, &[weight.node], &batch).expect("the batch has everything");
        assert!((values.get(weight.node)[7] - expected).abs() < 1e-12);
        let program = Program::compile(&weight.graph, &[weight.node]).expect("it has a lowering");
        let mut workspace = Workspace::default();
        program.run_in(&batch, &mut workspace).expect("the batch has everything");
        assert!((f64::from(workspace.get(weight.node)[7]) - expected).abs() < 1e-6 * expected.abs());
    }
}
