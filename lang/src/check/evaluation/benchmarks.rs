//! `eval`: held-out prompts with a verifier of their own, the settings by which models are judged, and the
//! metrics of tables.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind, ItemKind, Name};
use mopd_experiment::{
    Benchmark, BenchmarkId, Comparison, DomainId, Evaluation, Metric, Reward, RewardRange, RewardValues, Row,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::{DeclaredBlock, Required};
use crate::check::builtins::types::Count;
use crate::check::builtins::vocabulary::{self, EvalBlock, EvaluationBlock};
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{changes, expected, read, settings};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;
use crate::check::{data, rollouts};

/// Whether completions leave room for a prompt in the context of every model of the table, where it is known.
pub fn check_context(
    checker: &mut Checker,
    rows: &[Row],
    domains: &[DomainId],
    max_tokens: u32,
    place: Span,
) -> bool {
    for row in rows {
        for (model, domain) in row.models.iter().zip(domains) {
            let limit = checker.parts.domain(*domain).limit.map_or(u32::MAX, |limit| limit.value);
            let longest = max_tokens.min(limit);
            let context = checker.parts.architecture(*model).map(|architecture| architecture.context);
            let Some(context) = context.filter(|context| longest >= *context) else { continue };
            let (name, made) = {
                let model = checker.parts.model(*model);
                (model.name.clone(), checker.span(model.origin))
            };
            let text = format!("{longest} new tokens leave no room for a prompt in a context of {context}");
            let diagnostic = Diagnostic::error(Code::OutOfRange, place, text);
            checker.report(
                diagnostic
                    .note(made, format!("the context of `{name}`"))
                    .help("lower `max_tokens`, or give the model a longer `context`"),
            );
            return false;
        }
    }
    true
}

pub fn eval_item(checker: &mut Checker, name: &Name, item: &ItemKind, env: &Env) -> Value {
    let Some(block) = changes::changed_block(checker, env.module, item) else { return Value::Error };
    let owner = format!("eval {}", name.text);
    let settings =
        settings::block_settings(checker, Some(&block), &owner, name.span, vocabulary::EVAL, false);
    let given = EvalBlock::of(&settings);
    settings::keep_marks(&mut checker.parts, &settings, &owner);
    let prompts = read(checker, given.prompts, env);
    let columns = read(checker, given.fields, env).flatten().unwrap_or_default();
    let format = data::format(checker, given.format, given.system, env);
    let reward = read(checker, given.reward, env);
    let evaluation = read_evaluation(checker, &settings, given.samples, None, env);
    let metrics = match (given.metrics, &evaluation) {
        (Some(metrics), Some(evaluation)) => read_metrics(checker, metrics.expr, evaluation.samples, env),
        _ => Some(Vec::new()),
    };
    let (Some(prompts), Some(reward), Some(evaluation), Some(metrics)) =
        (prompts, reward, evaluation, metrics)
    else {
        return Value::Error;
    };
    if let Some(span) = settings.key_span("metrics") {
        check_metrics_of_reward(checker, &metrics, &name.text, &reward, span);
    }
    let origin = checker.origin(name.span);
    checker.parts.benchmarks.push(Benchmark {
        name: name.text.clone(),
        prompts,
        columns,
        format,
        reward,
        evaluation,
        metrics,
        origin,
    });
    Value::Benchmark(BenchmarkId(checker.parts.benchmarks.len() as u32 - 1))
}

/// `samples`, `temperature` and `max_tokens` of an `eval` or a `compare`.
pub fn read_evaluation(
    checker: &mut Checker,
    settings: &BlockSettings,
    samples: Required<Count>,
    prompts: Option<Arg<Count>>,
    env: &Env,
) -> Option<Evaluation> {
    let given = EvaluationBlock::of(settings);
    let (samples, temperature) = (read(checker, samples, env), read(checker, given.temperature, env));
    let max_tokens = read(checker, given.max_tokens, env);
    let truncation =
        rollouts::truncation(checker, given.top_p.map(Arg::expr), given.top_k.map(Arg::expr), env);
    let stop = read(checker, given.stop, env);
    let prompts = read(checker, prompts, env)?;
    let ((top_p, top_k), stop) = (truncation?, stop?.unwrap_or_default());
    let mut evaluation = Evaluation {
        samples: samples?,
        temperature: temperature?,
        max_tokens: max_tokens?,
        top_p,
        top_k,
        stop,
        prompts,
    };
    if evaluation.temperature == 0.0
        && let Some(place) = ["top_p", "top_k"].iter().find_map(|key| settings.key_span(key))
    {
        checker.report(
            Diagnostic::warning(
                Code::UnusedSetting,
                place,
                "a greedy completion takes the most probable token: nothing is cut off",
            )
            .note(settings.place(&["temperature"]), "greedy")
            .help("remove it, or write a temperature above 0"),
        );
        (evaluation.top_p, evaluation.top_k) = (None, None);
    }
    if evaluation.temperature == 0.0 && evaluation.samples > 1 {
        checker.report(
            Diagnostic::error(
                Code::OutOfRange,
                settings.place(&["samples"]),
                "greedy samples of one prompt are all the same",
            )
            .help("write `samples = 1`, or a temperature above 0"),
        );
        return None;
    }
    Some(evaluation)
}

/// `[pass_at(1), pass_at(16), distinct]`
pub fn read_metrics(checker: &mut Checker, expr: &Expr, samples: u32, env: &Env) -> Option<Vec<Metric>> {
    const WANTED: &str = "a list of what a cell shows: `[pass_at(16), distinct, length, entropy]`";
    let ExprKind::List(items) = &expr.kind else {
        let value = checker.evaluate(expr, env);
        expected::wrong_kind(checker, expr.span, WANTED, &value);
        return None;
    };
    let mut metrics = Vec::new();
    for item in items {
        let metric = metric(checker, item, env)?;
        if let Some((text, label)) = too_few(metric, samples) {
            let diagnostic = Diagnostic::error(Code::OutOfRange, item.span, text).label(label);
            checker.report(diagnostic.help("raise `samples`"));
            return None;
        }
        if metrics.contains(&metric) {
            checker.report(Diagnostic::error(
                Code::DuplicateKey,
                item.span,
                format!("`{metric}` is listed twice"),
            ));
            return None;
        }
        metrics.push(metric);
    }
    Some(metrics)
}

fn metric(checker: &mut Checker, item: &Expr, env: &Env) -> Option<Metric> {
    let words = [
        ("distinct", Metric::Distinct),
        ("length", Metric::Length),
        ("calibration", Metric::Calibration),
        ("entropy", Metric::Entropy),
    ];
    if let ExprKind::Name(name) = &item.kind {
        let near = nearest(name, ["pass_at"]);
        if near.is_some() {
            let text = format!("`{name}` needs the number of samples");
            checker.report(
                Diagnostic::error(Code::MissingArgument, item.span, text).help("write `pass_at(16)`"),
            );
            return None;
        }
        return expected::word(checker, item, "a measure", &words);
    }
    match checker.evaluate(item, env) {
        Value::Metric(metric) => Some(metric),
        other => {
            expected::wrong_kind(
                checker,
                item.span,
                "a measure is `pass_at(16)`, `distinct`, `length`, `calibration` or `entropy`",
                &other,
            );
            None
        }
    }
}

/// Checks that the benchmarks of a table, which draw their own samples, can give its metrics.
pub fn check_metrics_of_benchmarks(
    declarations: &mut Declarations,
    metrics: &[Metric],
    benchmarks: &[BenchmarkId],
    span: Span,
) {
    for benchmark in benchmarks {
        let Benchmark { name, evaluation, origin, reward, .. } =
            declarations.parts.benchmark(*benchmark).clone();
        check_metrics_of_reward(declarations, metrics, &name, &reward, span);
        let found = metrics.iter().find_map(|metric| too_few(*metric, evaluation.samples));
        if let Some((text, label)) = found {
            let declared = declarations.span(origin);
            let diagnostic = Diagnostic::error(Code::OutOfRange, span, text)
                .label(format!("asked of every column, `{name}` too"))
                .note(declared, label);
            declarations.report(diagnostic.help(format!("raise the `samples` of `{name}`")));
        }
    }
}

/// Checks that the column's reward is a verdict, and states confidences, where a metric needs that.
pub fn check_metrics_of_reward(
    reporter: &mut Reporter,
    metrics: &[Metric],
    column: &str,
    reward: &Reward,
    span: Span,
) {
    let counted = metrics.iter().any(|metric| matches!(metric, Metric::PassAt(_)));
    if counted && reward.range() == RewardRange::Any {
        let text = format!("the reward of `{column}` may be any number: no answer is the right one");
        reporter.report(
            Diagnostic::error(Code::TypeMismatch, span, text).label("counts right answers").help(
                "leave `pass_at` out: the table has the mean reward; or judge by rewards from 0 to 1, which \
             have no `range: any`",
            ),
        );
    }
    if !metrics.contains(&Metric::Calibration) {
        return;
    }
    let (text, help) = match reward.facts().values {
        RewardValues::Verdict => return,
        RewardValues::VerdictOnWhole => (
            "takes the confidence for the answer: a completion that states one is never right",
            "find the answer beside the confidence, such as `reward = regex(\"answer: (?<answer>\\\\S+)\")`",
        ),
        RewardValues::Graded(_) => (
            "may be between 0 and 1: `calibration` compares a confidence with right and wrong",
            "judge by `regex`, `json_schema` or `unit_tests`, or leave `calibration` out",
        ),
    };
    let text = format!("the reward of `{column}` {text}");
    reporter.report(Diagnostic::error(Code::TypeMismatch, span, text).help(help));
}

/// Checks that some table or stage uses every `eval`.
pub fn check_use_of_benchmarks(declarations: &mut Declarations, comparisons: &[Comparison]) {
    if !declarations.has_experiment || declarations.diagnostics.has_errors() {
        return; // A table may be missing because of another mistake.
    }
    for index in 0..declarations.parts.benchmarks.len() {
        let id = BenchmarkId(index as u32);
        let compared = comparisons.iter().any(|table| table.benchmarks.contains(&id));
        let guides = |train: &&mopd_experiment::Train| {
            train.extrapolation.as_ref().is_some_and(|extrapolation| extrapolation.judged_by == id)
        };
        if compared || declarations.parts.trains().iter().any(guides) {
            continue;
        }
        let (span, name) = (
            declarations.span(declarations.parts.benchmarks[index].origin),
            declarations.parts.benchmarks[index].name.clone(),
        );
        declarations.report(
            Diagnostic::warning(Code::UnusedDeclaration, span, format!("no table evaluates on `{name}`"))
                .help(format!("add `on = [{name}]` to a `compare`, or remove it")),
        );
    }
}

/// Why `samples` of a prompt are too few for a metric, and the number that is needed.
fn too_few(metric: Metric, samples: u32) -> Option<(String, String)> {
    let text = match metric {
        Metric::PassAt(k) if k > samples => format!("pass@{k} needs {k} samples of each prompt"),
        Metric::Distinct if samples < 2 => {
            "one sample of a prompt is always different from all others".to_owned()
        }
        _ => return None,
    };
    let drawn = if samples == 1 { "1 is drawn".to_owned() } else { format!("{samples} are drawn") };
    Some((text, drawn))
}
