//! `compare`: the models, columns, references and settings of a table.

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic, Reported};
use crate::source::Span;
use crate::syntax::ast::{Block, Expr, ExprKind, Item, ItemKind, Module, Text};
use crate::syntax::tokens;
use mopd_experiment::{BenchmarkId, Budget, Comparison, DomainId, Evaluation, ModelId, Normalized, Row};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::declare_settings::{DeclaredBlock, Required};
use crate::check::builtins::types::{self, Charges, Count};
use crate::check::builtins::vocabulary::{self, CompareBlock};
use crate::check::builtins::{self, BuiltinKind, DataName};
use crate::check::checker::Checker;
use crate::check::data;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::evaluation::{benchmarks, budgets};
use crate::check::names::modules::ModuleId;
use crate::check::read::{arguments, expected, read, settings};
use crate::check::reporter::Reporter;
use crate::check::stages::rewards;
use crate::check::values::environment::Env;
use crate::check::values::value::{MemberKey, Value};

use crate::check::builtins::data::Normalized as NormalizedArguments;

/// The columns of a table: domains first, then benchmarks.
struct Columns {
    domains: Vec<DomainId>,
    benchmarks: Vec<BenchmarkId>,
}

impl Columns {
    fn count(&self) -> usize {
        self.domains.len() + self.benchmarks.len()
    }
}

/// Checks the names of all tables: results of a table are found by its name.
pub fn check_names_of_tables(reporter: &mut Reporter, module: &Module) {
    let mut known: FxHashMap<&str, Span> = FxHashMap::default();
    for item in &module.items {
        let ItemKind::Compare { name, .. } = &item.kind else { continue };
        // A name without quotes has been reported, and has no text.
        if name.text.trim().is_empty() {
            if reporter.sources.text(name.span).starts_with('"') {
                let diagnostic =
                    Diagnostic::error(Code::OutOfRange, name.span, "the name of a table is empty");
                reporter.report(diagnostic.help("say what it compares: `compare \"transfer\" { ... }`"));
            }
            continue;
        }
        let Some(first) = known.get(name.text.as_str()) else {
            known.insert(&name.text, name.span);
            continue;
        };
        let diagnostic = Diagnostic::error(
            Code::DuplicateName,
            name.span,
            format!("two tables are called `{}`", name.text),
        );
        reporter.report(
            diagnostic
                .label("used again here")
                .note(*first, "first used here")
                .help("give one of them another name: results of a table are found by its name"),
        );
    }
}

pub fn comparison(
    checker: &mut Checker,
    module: ModuleId,
    item: &Item,
    name: &Text,
    block: &Block,
) -> Option<Comparison> {
    let env = Env::constant(module);
    let settings =
        settings::block_settings(checker, Some(block), "compare", name.span, vocabulary::COMPARE, false);
    let given = CompareBlock::of(&settings);
    settings::keep_marks(&mut checker.parts, &settings, &format!("compare {:?}", name.text));
    let columns = columns_of_table(checker, given.on, &env)?;
    let models = settings::required_setting(checker, given.models);
    let rows = models.and_then(|models| rows(checker, models.expr, &columns, &env));
    let normalized = match given.score {
        None => Some(None),
        Some(score) => normalized(checker, score.expr, &columns, &env).map(Some),
    };
    let evaluation = evaluation_of_table(checker, &settings, given.samples, given.prompts, &columns, &env);
    let seeds = read(checker, given.seeds, &env);
    let metrics = match (given.metrics, &evaluation) {
        (Some(metrics), Some(evaluation)) => {
            benchmarks::read_metrics(checker, metrics.expr, evaluation.samples, &env)
        }
        _ => Some(Vec::new()),
    };
    if let (Some(metrics), Some(place)) = (&metrics, settings.key_span("metrics")) {
        for domain in &columns.domains {
            let domain = checker.parts.domain(*domain).clone();
            benchmarks::check_metrics_of_reward(checker, metrics, &domain.name, &domain.reward, place);
        }
        // Without domains, the samples of the table are those of its first benchmark.
        let known = usize::from(columns.domains.is_empty());
        let benchmarks = columns.benchmarks.get(known..).unwrap_or_default();
        benchmarks::check_metrics_of_benchmarks(checker, metrics, benchmarks, place);
    }
    let budget = budget(checker, &settings, given.budget, given.teachers, &env);
    if !rewards::check_judged(checker, &columns.domains, name.span)
        || !check_held_out(checker, &columns.domains, name.span)
    {
        return None;
    }
    let (rows, normalized, budget) = (rows?, normalized?, budget.ok()?);
    for row in &rows {
        for (model, domain) in row.models.iter().zip(&columns.domains) {
            if !data::check_format(checker, *model, *domain, name.span) {
                return None;
            }
        }
        for (model, benchmark) in row.models[columns.domains.len()..].iter().zip(&columns.benchmarks) {
            if !data::check_format_of_benchmark(checker, *model, *benchmark, name.span) {
                return None;
            }
        }
    }
    if let (Some(evaluation), Some(place)) = (&evaluation, settings.key_span("max_tokens"))
        && !benchmarks::check_context(checker, &rows, &columns.domains, evaluation.max_tokens, place)
    {
        return None;
    }
    if let (Some(budget), Some(place)) = (budget, settings.key_span("budget")) {
        budgets::check_budget(checker, &rows, normalized.as_ref(), budget, place);
    }
    let origin = checker.origin(item.span);
    Some(Comparison {
        name: name.text.clone(),
        rows,
        domains: columns.domains,
        benchmarks: columns.benchmarks,
        normalized,
        seeds: seeds?,
        evaluation: evaluation?,
        metrics: metrics?,
        budget,
        origin,
    })
}

/// The settings by which domain columns are judged. Benchmarks have their own.
fn evaluation_of_table(
    checker: &mut Checker,
    settings: &BlockSettings,
    samples: Required<Count>,
    prompts: Option<Arg<Count>>,
    columns: &Columns,
    env: &Env,
) -> Option<Evaluation> {
    let (Some(first), true) = (columns.benchmarks.first(), columns.domains.is_empty()) else {
        return benchmarks::read_evaluation(checker, settings, samples, prompts, env);
    };
    for key in ["samples", "temperature", "max_tokens", "top_p", "top_k", "stop", "prompts"] {
        if let Some(span) = settings.key_span(key) {
            let text = format!("every column is a benchmark, which sets its own `{key}`");
            checker.report(
                Diagnostic::warning(Code::UnusedSetting, span, text)
                    .help("remove it, or write it in the `eval`"),
            );
        }
    }
    Some(checker.parts.benchmarks[first.0 as usize].evaluation.clone())
}

/// Whether all of these domains, judged at that place, have prompts that no model is trained on.
fn check_held_out(declarations: &mut Declarations, domains: &[DomainId], judged: Span) -> bool {
    let Some(&without) = domains.iter().find(|domain| declarations.parts.domain(**domain).tests.is_none())
    else {
        return true;
    };
    let domain = declarations.parts.domain(without);
    let text = format!("the domain `{}` has no held-out prompts", domain.name);
    let span = declarations.span(domain.origin);
    declarations.report(
        Diagnostic::error(Code::MissingKey, span, text)
            .label("`tests` is not set")
            .note(judged, "judged here")
            .help("add `tests = \"...\"`: prompts that no model is trained on"),
    );
    false
}

/// `on = [math, math500]`; every domain by default.
fn columns_of_table(checker: &mut Checker, on: Option<Arg<types::Columns>>, env: &Env) -> Option<Columns> {
    let Some(Arg { expr, .. }) = on else {
        let domains = (0..checker.parts.domains.len() as u32).map(DomainId).collect();
        return Some(Columns { domains, benchmarks: Vec::new() });
    };
    let values = match checker.evaluate(expr, env) {
        Value::List(values) => values,
        one @ (Value::Benchmark(_) | Value::Domain(_)) => vec![one],
        other => {
            expected::wrong_kind(checker, expr.span, "`on` is a list of domains and `eval`s", &other);
            return None;
        }
    };
    let mut columns = Columns { domains: Vec::new(), benchmarks: Vec::new() };
    for value in values {
        let twice = match value {
            Value::Domain(domain) => {
                let known = columns.domains.contains(&domain);
                columns.domains.push(domain);
                known
            }
            Value::Benchmark(benchmark) => {
                let known = columns.benchmarks.contains(&benchmark);
                columns.benchmarks.push(benchmark);
                known
            }
            other => {
                expected::wrong_kind(checker, expr.span, "a column is a domain or an `eval`", &other);
                return None;
            }
        };
        if twice {
            checker.report(Diagnostic::error(Code::DuplicateName, expr.span, "one column is listed twice"));
            return None;
        }
    }
    if columns.count() == 0 {
        let text = "this list is empty: a table needs at least one column";
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, text)
                .help("a column is a domain or an `eval`; without `on` there is one for each domain"),
        );
        return None;
    }
    Some(columns)
}

/// `budget = tokens, teachers = charged`, if it is set.
fn budget(
    checker: &mut Checker,
    settings: &BlockSettings,
    budget: Option<Arg<types::BudgetUnit>>,
    teachers: Option<Arg<Charges>>,
    env: &Env,
) -> Result<Option<Budget>, Reported> {
    let charged = teachers.map(|teachers| read(checker, teachers, env));
    let Some(budget) = budget else {
        if let Some(span) = settings.key_span("teachers") {
            checker.report(
                Diagnostic::warning(Code::UnusedSetting, span, "nothing is counted here")
                    .help("name the quantity that every row spends equally: `budget = sequences`"),
            );
        }
        return Ok(None);
    };
    let unit = read(checker, budget, env);
    if charged.is_none() {
        checker.report(
            Diagnostic::error(
                Code::MissingKey,
                budget.expr.span,
                "a budget must set whether the teachers' use counts",
            )
            .help("add `teachers = free` or `teachers = charged`"),
        );
    }
    match (unit, charged.flatten()) {
        (Some(unit), Some(teachers_charged)) => Ok(Some(Budget { unit, teachers_charged })),
        _ => Err(Reported),
    }
}

fn rows(checker: &mut Checker, expr: &Expr, columns: &Columns, env: &Env) -> Option<Vec<Row>> {
    let ExprKind::List(items) = &expr.kind else {
        let value = checker.evaluate(expr, env);
        expected::wrong_kind(
            checker,
            expr.span,
            "`models` is a list, such as `[start, expert, student]`",
            &value,
        );
        return None;
    };
    if items.is_empty() {
        let diagnostic = Diagnostic::error(Code::OutOfRange, expr.span, "a table needs at least one model")
            .label("no model");
        checker
            .report(diagnostic.help("list the models that it compares: `models = [start, expert, student]`"));
        return None;
    }
    let rows: Vec<Option<Vec<Row>>> = items
        .iter()
        .map(|item| {
            let label = row_label(checker, item);
            let value = checker.evaluate(item, &env.named(&label));
            rows_of(checker, value, item, columns, label)
        })
        .collect();
    let rows: Option<Vec<Vec<Row>>> = rows.into_iter().collect();
    let rows = rows?;
    // A family has several rows at one place.
    let places: Vec<Span> =
        rows.iter().zip(items).flat_map(|(rows, item)| rows.iter().map(|_| item.span)).collect();
    let mut rows = rows.concat();
    let twice = |at: usize| {
        rows[..at].iter().position(|first| first.models == rows[at].models).map(|first| (first, at))
    };
    if let Some((first, second)) = (1..rows.len()).find_map(twice) {
        let text = format!("`{}` stands in two rows of the table", rows[second].label);
        let diagnostic =
            Diagnostic::error(Code::DuplicateName, places[second], text).label("the same models as above");
        let diagnostic = match places[first] == places[second] {
            true => diagnostic,
            false => diagnostic.note(places[first], "first listed here"),
        };
        checker.report(diagnostic.help("list each model once"));
        return None;
    }
    tell_rows_apart(&checker.parts, &mut rows);
    Some(rows)
}

/// Members that differ in how they were made are rows; those of domains are columns of one.
fn rows_of(
    declarations: &mut Declarations,
    value: Value,
    item: &Expr,
    columns: &Columns,
    label: String,
) -> Option<Vec<Row>> {
    match value {
        Value::Family(family) if !family.is_by_domain() => {
            let mut rows = Vec::new();
            for (key, member) in &family.members {
                let label = format!("{label}[{}]", declarations.parts.key_text(key));
                rows.extend(rows_of(declarations, member.clone(), item, columns, label)?);
            }
            Some(rows)
        }
        value => Some(vec![Row { models: row_models(declarations, value, item, columns)?, label }]),
    }
}

/// A row is found by its label. Of several rows by the same call with other arguments, the later ones are
/// labelled with the names of their models: `tuned`, `tuned.2`.
fn tell_rows_apart(parts: &ExperimentParts, rows: &mut [Row]) {
    for at in 1..rows.len() {
        let label = &rows[at].label;
        if !rows[..at].iter().any(|earlier| earlier.label == *label) {
            continue;
        }
        let models = &parts.models;
        let names = rows[at].models.iter().map(|id| models[id.0 as usize].name.as_str());
        // The members of a family share a name: `expert[sort]`.
        let mut names: Vec<&str> = names.map(|name| name.split('[').next().unwrap_or_default()).collect();
        names.dedup();
        let own = (names.len() == 1).then(|| names[0].to_owned());
        let numbered = (2..).map(|number| format!("{label}.{number}"));
        let is_new = |label: &String| rows.iter().all(|row| row.label != *label);
        let found = own.into_iter().chain(numbered).find(is_new);
        if let Some(found) = found {
            rows[at].label = found;
        }
    }
}

/// The label of a row: as written, or the name of the stage.
fn row_label(reporter: &Reporter, item: &Expr) -> String {
    match &item.kind {
        ExprKind::Name(name) => name.clone(),
        ExprKind::Call { callee, .. } => row_label(reporter, callee),
        _ => tokens::on_one_line(reporter.sources.text(item.span)),
    }
}

/// One model per column.
fn row_models(
    declarations: &mut Declarations,
    value: Value,
    expr: &Expr,
    columns: &Columns,
) -> Option<Vec<ModelId>> {
    match value {
        Value::Model(model) => Some(vec![model; columns.count()]),
        Value::Family(family) => {
            if let Some(benchmark) = columns.benchmarks.first() {
                let name = declarations.parts.benchmarks[benchmark.0 as usize].name.clone();
                let text =
                    format!("`{}` has one member per domain, and `{name}` is not a domain", family.name);
                declarations.report(
                    Diagnostic::error(Code::TypeMismatch, expr.span, text)
                        .label("it is not known which member belongs in this column")
                        .help("name one member, such as `expert[math]`, to show it in every column"),
                );
                return None;
            }
            let mut models = Vec::new();
            for domain in &columns.domains {
                match family.get(&MemberKey::Domain(*domain)) {
                    Some(Value::Model(model)) => models.push(*model),
                    Some(Value::Error) => return None,
                    Some(other) => {
                        expected::wrong_kind(declarations, expr.span, "a table compares models", other);
                        return None;
                    }
                    None => {
                        let text = format!(
                            "`{}` has no member for the domain `{}`",
                            family.name,
                            declarations.parts.domain(*domain).name
                        );
                        declarations.report(
                            Diagnostic::error(Code::UnknownName, expr.span, text)
                                .label("one column would stay empty")
                                .help("name one member, such as `expert[math]`, to show it in every column"),
                        );
                        return None;
                    }
                }
            }
            Some(models)
        }
        other => {
            expected::wrong_kind(declarations, expr.span, "a table compares models", &other);
            None
        }
    }
}

fn normalized(checker: &mut Checker, expr: &Expr, columns: &Columns, env: &Env) -> Option<Normalized> {
    let usage = "`score` is `normalized(zero: start, one: expert)`";
    let ExprKind::Call { callee, arguments, .. } = &expr.kind else {
        let value = checker.evaluate(expr, env);
        expected::wrong_kind(checker, expr.span, usage, &value);
        return None;
    };
    let Value::Builtin(builtin) = checker.evaluate(callee, env) else {
        checker.report(Diagnostic::error(Code::TypeMismatch, expr.span, usage));
        return None;
    };
    if builtin.kind != BuiltinKind::Data(DataName::Normalized) {
        checker.report(
            Diagnostic::error(Code::TypeMismatch, expr.span, usage)
                .help(builtins::find("normalized").expect("built in").usage),
        );
        return None;
    }
    let call = Call { builtin, arguments, block: None, span: expr.span };
    let given = arguments::builtin_arguments(checker, call)?;
    let NormalizedArguments { zero, one, .. } = NormalizedArguments::of(call, &given)?;
    let (zero, one) = (zero.expr, one.expr);
    let (zero_value, one_value) = (checker.evaluate(zero, env), checker.evaluate(one, env));
    let (zero_models, one_models) =
        (row_models(checker, zero_value, zero, columns)?, row_models(checker, one_value, one, columns)?);
    if zero_models.iter().zip(&one_models).any(|(zero, one)| zero == one) {
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, "the references of the score are the same model")
                .note(zero.span, "scores 0")
                .note(one.span, "scores 1")
                .help("name two different models: what scores 0, and what scores 1"),
        );
        return None;
    }
    Some(Normalized { zero: zero_models, one: one_models })
}

#[cfg(test)]
mod tests {
    use crate::check::analyse;
    use crate::source::SourceFile;

    /// Rows are found by their labels.
    #[test]
    fn rows_by_one_call_with_other_arguments_have_labels_of_their_own() {
        let text = r#"experiment "rows" { seed = 1 }
domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }
model base = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
stage tuned(start: model, steps: count) =
  grpo(start, on: domains) { steps = steps, prompts = 2, samples = 2, max_tokens = 4, lr = 1e-3 }
compare "table" {
  models = [base, tuned(base, steps: 1), tuned(base, steps: 3)], samples = 1, temperature = 1, max_tokens = 4
}
"#;
        let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let rl = include_str!("../../../../stdlib/rl.mopd");
        let load = |path: &str| (path == "std:rl.mopd").then(|| file(path, rl));
        let analysis = analyse(file("rows.mopd", text), &load);
        let experiment = analysis.experiment.unwrap_or_else(|| panic!("{:?}", analysis.diagnostics));
        let rows = experiment.comparisons[0].rows.iter();
        let named = |row: &mopd_experiment::Row| {
            let model = &experiment.models[row.models[0].0 as usize];
            (row.label.clone(), model.name.clone())
        };
        let expected = ["base", "tuned", "tuned.2"].map(|name| (name.to_owned(), name.to_owned()));
        assert_eq!(rows.map(named).collect::<Vec<_>>(), expected);
    }
}
