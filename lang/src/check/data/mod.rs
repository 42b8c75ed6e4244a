//! Sources of prompts (files, splits, columns, filters), and the format in which a model reads prompts.

pub mod domains;
pub mod leakage;

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, ItemKind};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, Reduction, Signal, Unit};
use mopd_experiment::{
    Architecture, Benchmark, BenchmarkId, DATA_ENDINGS, DataSource, Domain, DomainId, FieldColumn, Metric,
    ModelId, Origin, Pretrained, PretrainedSource, PromptFormat, Stage, TokenizerSpec,
};

use crate::check::builtins::data::{DataCall, Dataset};
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::types::{Format, Text};
use crate::check::builtins::vocabulary;
use crate::check::builtins::{self, BuiltinKind, DataName};
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::names::modules::Modules;
use crate::check::read::numbers::has_variables;
use crate::check::read::{expected, patterns, places, read, reads};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    Dataset => |checker, given, env| source(checker, given.expr, given.name, env);
    Column => |checker, given, _| column_name(checker, given.expr, given.name);
    FieldColumns => |checker, given, env| field_columns(checker, given.expr, env);
}

/// `prompts = "math.jsonl"`, `prompts = dataset("data/gsm8k", split: "train")`
pub fn source(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<DataSource> {
    // `prompts = math.jsonl`
    let written = checker.sources.text(expr.span);
    let ending = written.rsplit_once('.').map_or("", |(_, ending)| ending);
    if matches!(expr.kind, ExprKind::Field { .. }) && DATA_ENDINGS.contains(&ending) {
        let quoted = format!("\"{written}\"");
        let text = format!("`{key}` is a path, and a path is a text in quotes");
        let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, text).label("not in quotes");
        checker.report(diagnostic.help(format!("write `{quoted}`")).replace_with("write quotes", quoted));
        return None;
    }
    match checker.evaluate(expr, env) {
        Value::Text(path) => {
            let path = checked_path(checker, path, expr.span, env)?;
            Some(DataSource::file(path, checker.origin(expr.span)))
        }
        Value::Dataset(source) => Some(Rc::unwrap_or_clone(source)),
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                &format!("`{key}` is the path of a file in quotes, or `dataset(...)`"),
                &other,
            );
            None
        }
    }
}

fn checked_path(reporter: &mut Reporter, path: String, span: Span, env: &Env) -> Option<String> {
    if path.trim().is_empty() {
        reporter.report(Diagnostic::error(Code::OutOfRange, span, "this path is empty"));
        return None;
    }
    places::whole(reporter, path, span, env)
}

/// The value of a call about data: `dataset(...)`, `columns(...)`, `normalized(...)`, `pass_at(...)`.
pub fn data_call(checker: &mut Checker, call: DataCall, env: &Env) -> Option<Value> {
    match call {
        DataCall::Dataset(given) => {
            dataset(checker, given, env).map(|source| Value::Dataset(Rc::new(source)))
        }
        DataCall::Columns(given) => columns_call(checker, given.call, env),
        DataCall::Extract(given) => {
            let (column, pattern) =
                (read(checker, given.column, env), patterns::checked(checker, given.pattern, env));
            Some(Value::Extract { column: column?, pattern: pattern? })
        }
        DataCall::PassAt(given) => read(checker, given.k, env).map(|k| Value::Metric(Metric::PassAt(k))),
        DataCall::File(given) => {
            read(checker, given.path, env)?;
            let text = "`file` is the text of a template: `template shown = file(\"shown.txt\")`";
            checker.report(Diagnostic::error(Code::TypeMismatch, given.call.span, text));
            None
        }
        DataCall::Normalized(given) => {
            let text = "`normalized` belongs in `score = ...` of a `compare`";
            checker.report(Diagnostic::error(Code::TypeMismatch, given.call.span, text));
            None
        }
    }
}

fn dataset(checker: &mut Checker, given: Dataset, env: &Env) -> Option<DataSource> {
    let path = read(checker, given.path, env)
        .and_then(|path| checked_path(checker, path, given.path.expr.span, env));
    let split_place = given.split.as_ref().map(|split| split.expr.span);
    let split = read(checker, given.split, env);
    let revision = read(checker, given.revision, env);
    if let (Some(Some(name)), Some(place)) = (&split, split_place)
        && let Some((name, slice)) = name.split_once('[')
    {
        let text = format!("`[{slice}` is no part of the name of a split");
        let diagnostic = Diagnostic::error(Code::OutOfRange, place, text);
        let count = slice.trim_start_matches("0:").trim_start_matches(':').trim_end_matches(']');
        checker.report(match count.parse::<u32>() {
            Ok(count) => diagnostic.help(format!("write `split: \"{name}\", limit: {count}`")),
            Err(_) => {
                diagnostic.help(format!("write `split: \"{name}\"`, and `limit: 100` for the first rows"))
            }
        });
        return None;
    }
    let filter = match given.filter {
        Some(filter) => row_filter(checker, filter.expr, env).map(Some),
        None => Some(None),
    };
    let limit = read(checker, given.limit, env);
    let max_prompt_tokens = read(checker, given.max_prompt_tokens, env);
    let (path, split, revision, filter, limit) = (path?, split?, revision?, filter?, limit?);
    let max_prompt_tokens = max_prompt_tokens?;
    let origin = checker.origin(given.call.span);
    Some(DataSource { path, split, revision, filter, limit, max_prompt_tokens, origin })
}

/// `data.level >= 3`
fn row_filter(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Formula> {
    const WANTED: &str = "a filter must be a condition on each row, such as `data.level >= 3` or \
        `data.topic == \"algebra\"`";
    let mut bare = Vec::new();
    unknown::bare_names(expr, &mut bare);
    let unknown = bare.into_iter().find(|bare| {
        env.local(bare.value).is_none()
            && !unknown::is_declared(&checker.modules, bare.span.file, bare.value)
            && vocabulary::signal(bare.value).is_none()
    });
    if let Some(Spanned { value: name, span }) = unknown {
        let text = format!("cannot find `{name}` in this scope");
        let diagnostic = Diagnostic::error(Code::UnknownName, span, text).label("not declared");
        let ours = format!("data.{name}");
        checker.report(
            diagnostic
                .help(format!("a field of the data is read as `{ours}`"))
                .replace_with(format!("write `{ours}`"), ours),
        );
        return None;
    }
    let formula = match checker.evaluate(expr, &env.with_context(EvaluationContext::Objective)) {
        Value::Formula(formula) if formula.unit() == Unit::Bool || has_variables(&formula) => formula,
        Value::Text(text) => {
            let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, WANTED);
            checker.report(diagnostic.label("this is a text").help(format!(
                "the split is given by its name, `split: \"train\"`; a configuration such as `{text}` is a folder \
                 of the path"
            )));
            return None;
        }
        other => {
            expected::wrong_kind(checker, expr.span, WANTED, &other);
            return None;
        }
    };
    if let Some(truth) = formula.constant() {
        let text = if truth == 1.0 { "this filter keeps every row" } else { "this filter keeps no row" };
        checker.report(
            Diagnostic::error(Code::UnusedSetting, expr.span, text)
                .help("remove it, or read a field: `data.level >= 3`"),
        );
        return None;
    }
    if !has_variables(&formula) && !decided_by_data(&formula) {
        checker.report(
            Diagnostic::error(Code::TypeMismatch, expr.span, WANTED)
                .label("this is known only after a completion has been sampled"),
        );
        return None;
    }
    Some(formula)
}

/// The name of a column, which is the data's and may be anything.
fn column_name(reporter: &mut Reporter, expr: &Expr, usage: &str) -> Option<String> {
    match &expr.kind {
        ExprKind::Text(text) if !text.is_empty() => Some(text.clone()),
        ExprKind::Name(name) => Some(name.clone()),
        // `reward_model.ground_truth`, a member of a struct.
        ExprKind::Field { .. } if is_path(expr) => {
            Some(reporter.sources.text(expr.span).split_whitespace().collect())
        }
        ExprKind::Error => None,
        _ => {
            let text = "a column is a name, or a text in quotes";
            reporter.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(usage));
            None
        }
    }
}

/// A column, or what is extracted from one.
fn column(checker: &mut Checker, expr: &Expr, usage: &str, env: &Env) -> Option<(String, Option<String>)> {
    const EXTRACT: BuiltinKind = BuiltinKind::Data(DataName::Extract);
    let kind = |callee: &Expr| match &callee.kind {
        ExprKind::Name(name) => builtins::find(name).map(|builtin| builtin.kind),
        _ => None,
    };
    if matches!(&expr.kind, ExprKind::Call { callee, .. } if kind(callee) == Some(EXTRACT)) {
        return match checker.evaluate(expr, env) {
            Value::Extract { column, pattern } => Some((column, Some(pattern))),
            _ => None,
        };
    }
    Some((column_name(checker, expr, usage)?, None))
}

/// `columns(prompt: question, answer: "final answer", level: extra_info.level)`
fn columns_call(
    checker: &mut Checker,
    Call { builtin, arguments, span, .. }: Call,
    env: &Env,
) -> Option<Value> {
    let usage = builtin.usage;
    let mut columns: Vec<FieldColumn> = Vec::new();
    let mut good = true;
    for argument in arguments {
        let Some(name) = &argument.name else {
            let text = "the field of this column is not named";
            checker.report(Diagnostic::error(Code::MissingArgument, argument.value.span, text).help(usage));
            good = false;
            continue;
        };
        let Some((column, pattern)) = column(checker, &argument.value, usage, env) else {
            good = false;
            continue;
        };
        if columns.iter().any(|known| known.field == name.text) {
            let text = format!("the field `{}` is given twice", name.text);
            checker.report(Diagnostic::error(Code::DuplicateKey, name.span, text));
            good = false;
            continue;
        }
        if column == name.text && pattern.is_none() {
            let text = format!("the field `{column}` is read from the column `{column}` by default");
            checker
                .report(Diagnostic::error(Code::UnusedSetting, argument.value.span, text).help("remove it"));
            good = false;
            continue;
        }
        columns.push(FieldColumn { field: name.text.clone(), column, pattern });
    }
    if columns.is_empty() && good {
        checker.report(Diagnostic::error(Code::MissingArgument, span, "no column is named").help(usage));
    }
    if columns.is_empty() || !good {
        return None;
    }
    Some(Value::Columns(Rc::new(columns)))
}

/// `fields` of a domain.
pub fn field_columns(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Vec<FieldColumn>> {
    match checker.evaluate(expr, env) {
        Value::Columns(columns) => Some(Rc::unwrap_or_clone(columns)),
        other => {
            let usage = builtins::find("columns").expect("built in").usage;
            expected::wrong_kind(
                checker,
                expr.span,
                &format!("`fields` names the columns of fields: `{usage}`"),
                &other,
            );
            None
        }
    }
}

/// `format` and `system` of a domain. `None` where neither is set.
pub fn format(
    checker: &mut Checker,
    format: Option<Arg<Format>>,
    system: Option<Arg<Text>>,
    env: &Env,
) -> Option<PromptFormat> {
    let system = system.map(|system| (read(checker, system, env), system.expr.span));
    let format = format.map(|format| (read(checker, format, env), format.expr.span));
    match (format, system) {
        (Some((Some(PromptFormat::Chat { .. }), _)), Some((system, _))) => {
            Some(PromptFormat::Chat { system })
        }
        (Some((Some(PromptFormat::Text), place)), Some((_, system))) => {
            checker.report(
                Diagnostic::warning(
                    Code::UnusedSetting,
                    system,
                    "prompts that are text have no system message",
                )
                .note(place, "the model gets the text of the prompt unchanged")
                .help("write `format = chat`, or put the text into the prompts"),
            );
            Some(PromptFormat::Text)
        }
        (None, Some((_, system))) => {
            checker.report(
                Diagnostic::error(Code::MissingKey, system, "only a conversation has a system message")
                    .help("add `format = chat`"),
            );
            None
        }
        (format, _) => format.and_then(|(format, _)| format),
    }
}

pub fn check_format(declarations: &mut Declarations, model: ModelId, domain: DomainId, span: Span) -> bool {
    let Domain { name, format, origin, .. } = declarations.parts.domain(domain);
    let (prompts, format, origin) = (format!("the domain `{name}`"), format.clone(), *origin);
    check_format_of(declarations, model, format, &prompts, origin, span)
}

pub fn check_format_of_benchmark(
    declarations: &mut Declarations,
    model: ModelId,
    benchmark: BenchmarkId,
    span: Span,
) -> bool {
    let Benchmark { name, format, origin, .. } = declarations.parts.benchmark(benchmark).clone();
    check_format_of(declarations, model, format, &format!("the `eval {name}`"), origin, span)
}

fn check_format_of(
    declarations: &mut Declarations,
    model: ModelId,
    format: Option<PromptFormat>,
    prompts: &str,
    origin: Origin,
    span: Span,
) -> bool {
    match format {
        Some(PromptFormat::Chat { .. }) => check_chat_of(declarations, model, prompts, origin, span),
        Some(PromptFormat::Text) => true,
        None => check_format_is_set(declarations, model, prompts, origin, span),
    }
}

/// Reports conversations for a model whose tokenizer is the built-in one, which has no chat template.
fn check_chat_of(
    declarations: &mut Declarations,
    model: ModelId,
    prompts: &str,
    origin: Origin,
    span: Span,
) -> bool {
    let first = declarations.parts.first_weights(model);
    let of_bytes = matches!(
        &declarations.parts.model(first).stage,
        Stage::Initialise(Architecture { tokenizer: TokenizerSpec::Bytes, .. })
    );
    if of_bytes {
        let made = declarations.span(declarations.parts.model(first).origin);
        let text = format!("{prompts} has conversations, and the model has no chat template");
        let format = declarations.span(origin);
        declarations.report(
            Diagnostic::error(Code::OutOfRange, format, text)
                .label("`format = chat`")
                .note(made, "the tokenizer `bytes` has no template")
                .note(span, "used here")
                .help("write `format = text`, or give the model a tokenizer with a chat template"),
        );
    }
    !of_bytes
}

/// Reports a domain without `format` for a loaded model. The model may be trained on conversations, and
/// whether prompts go through its template changes every number, so the author must decide.
fn check_format_is_set(
    declarations: &mut Declarations,
    model: ModelId,
    prompts: &str,
    origin: Origin,
    span: Span,
) -> bool {
    let first = declarations.parts.first_weights(model);
    let Stage::Load(Pretrained {
        source: PretrainedSource::HuggingFace { .. } | PretrainedSource::Gguf { .. },
        ..
    }) = &declarations.parts.model(first).stage
    else {
        return true;
    };
    let place = declarations.span(origin);
    let loaded = declarations.span(declarations.parts.model(first).origin);
    let diagnostic =
        Diagnostic::error(Code::MissingKey, place, format!("{prompts} must set the format of its prompts"))
            .note(loaded, "this model may have been trained on conversations")
            .note(span, "used here")
            .help(
                "add `format = chat` to put them into the model's chat template, or `format = text` to leave \
         them as they are",
            );
    let source = &declarations.sources.file(place.file).text;
    let diagnostic = match block_of_prompts(&declarations.modules, place) {
        Some(block) => diagnostic.choice_of_settings(source, block, &["format = chat", "format = text"]),
        None => diagnostic,
    };
    declarations.report(diagnostic);
    false
}

/// The block of the domain or `eval` whose name is at `place`.
fn block_of_prompts(modules: &Modules, span: Span) -> Option<Span> {
    let (module, _) = modules.files().find(|(_, file)| *file == span.file)?;
    modules.tree(module).items.iter().find_map(|item| match &item.kind {
        ItemKind::Domain { name, block, .. } | ItemKind::Eval { name, block, .. } => {
            (name.span == span && !block.broken).then_some(block.span)
        }
        _ => None,
    })
}

/// Whether a number depends only on the data, and is the same for all completions of a prompt.
pub fn decided_by_data(formula: &Formula) -> bool {
    formula.axis() == Axis::Sequence
        && formula.parts().iter().all(|part| match &part.0.kind {
            FormulaKind::Signal(signal) => matches!(signal, Signal::Data { .. } | Signal::DataIs { .. }),
            FormulaKind::Number(_) | FormulaKind::Apply { .. } => true,
            _ => false,
        })
}

/// The same with one number per prompt for each field of its row, which all its completions share.
pub fn per_prompt(formula: &Formula) -> Formula {
    let mut done: FxHashMap<*const FormulaNode, Formula> = FxHashMap::default();
    let mut waiting = vec![formula];
    while let Some(formula) = waiting.last().copied() {
        let address = |formula: &Formula| Rc::as_ptr(&formula.0);
        let node = &formula.0;
        let made = match &node.kind {
            _ if formula.axis() <= Axis::Group => formula.clone(),
            FormulaKind::Signal(Signal::Data { .. } | Signal::DataIs { .. }) => {
                let truth = formula.unit() == Unit::Bool;
                let reduction = if truth { Reduction::Any } else { Reduction::Maximum };
                let operand = formula.clone();
                let kind = FormulaKind::Reduce { reduction, operand, among: None, on: None, fraction: None };
                Formula::new(kind, formula.unit(), Axis::Group, false, node.origin)
            }
            FormulaKind::Apply { function, operands } => {
                let open: Vec<&Formula> =
                    operands.iter().filter(|operand| !done.contains_key(&address(operand))).collect();
                if !open.is_empty() {
                    waiting.extend(open);
                    continue;
                }
                let operands: Vec<Formula> =
                    operands.iter().map(|operand| done[&address(operand)].clone()).collect();
                let axis = operands.iter().map(Formula::axis).max().unwrap_or(Axis::Run);
                let kind = FormulaKind::Apply { function: *function, operands };
                Formula::new(kind, formula.unit(), axis, node.live, node.origin)
            }
            _ => formula.clone(),
        };
        done.insert(address(formula), made);
        waiting.pop();
    }
    done[&Rc::as_ptr(&formula.0)].clone()
}

/// Whether an expression is names with dots between them.
fn is_path(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Name(_) => true,
        ExprKind::Field { base, .. } => is_path(base),
        _ => false,
    }
}
