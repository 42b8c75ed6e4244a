//! The weights that a stage trains (adapters, parts of the model), and the memory settings of its steps.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{
    Adapter, AdapterKind, ChangedElements, Checkpointing, ModelId, Projection, Stage, Train, Trainable,
    WeightFilter, WeightGroup,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::weights::{Changed as ChangedArguments, Lora, WeightsCall};
use crate::check::builtins::{self, types};
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::read::{expected, numbers, read, reads};
use crate::check::reporter::Reporter;
use crate::check::stages::lineage;
use crate::check::stages::optimizers::{self, WEIGHT_GROUPS};
use crate::check::suggestions::renamed::{ALL_MATRICES, is_all_matrices};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    LayerRange => |checker, given, env| layer_range(checker, given.expr, env);
    Projections => |checker, given, env| adapted(checker, given.expr, env);
    Layers => |checker, given, env| checkpointing(checker, given.expr, env);
    AverageDecay => |checker, given, env| average_decay(checker, given.expr, env);
    Adapter => |checker, given, env| adapter(checker, given.expr, env);
    Weights => |checker, given, env| weight_filters(checker, given.expr, given.name, env);
}

/// `adapter`, `train_only` and `freeze` of a stage. `None` if one is faulty.
pub fn trainable(
    checker: &mut Checker,
    adapter: Option<Arg<types::Adapter>>,
    only: Option<Arg<types::Weights>>,
    except: Option<Arg<types::Weights>>,
    settings: &BlockSettings,
    env: &Env,
) -> Option<Trainable> {
    let adapter = adapter.map(|adapter| (read(checker, adapter, env), adapter.expr.span));
    let (only, except) = (read(checker, only, env), read(checker, except, env));
    if let Some((adapter, place)) = adapter {
        if let Some(key) = ["train_only", "freeze"].iter().find_map(|key| settings.key_span(key)) {
            checker.report(
                Diagnostic::warning(
                    Code::UnusedSetting,
                    key,
                    "beside an adapter, all of the model's own weights are frozen",
                )
                .note(place, "only this is trained")
                .help("remove it; which layers have an adapter is said there: `layers: 8..=23`"),
            );
        }
        return adapter.map(Trainable::Adapter);
    }
    Some(Trainable::Weights { only: only?, except: except?.unwrap_or_default() })
}

pub fn adapter(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Adapter> {
    match checker.evaluate(expr, env) {
        Value::Adapter(adapter) => Some(adapter),
        other => {
            let usage = builtins::find("lora").expect("built in").usage;
            expected::wrong_kind(checker, expr.span, &format!("an adapter is `{usage}`"), &other);
            None
        }
    }
}

/// The value of a call about weights or updates: `lora(...)`, `layers(...)`, `extrapolate(...)`, ...
pub fn weights_call(checker: &mut Checker, call: WeightsCall, env: &Env) -> Option<Value> {
    match call {
        WeightsCall::Lora(given) => adapter_call(checker, AdapterKind::Lora, given, env).map(Value::Adapter),
        WeightsCall::Dora(given) => adapter_call(checker, AdapterKind::Dora, given, env).map(Value::Adapter),
        WeightsCall::Layers(given) => {
            read(checker, given.range, env).map(|(first, last)| Value::Layers { first, last })
        }
        WeightsCall::Changed(given) => changed(checker, given, env).map(Value::Changed),
        WeightsCall::Extrapolate(given) => {
            optimizers::extrapolation(checker, given, env).map(|found| Value::Extrapolation(Rc::new(found)))
        }
        WeightsCall::Validate(given) => {
            optimizers::validation(checker, given, env).map(|found| Value::Validation(Rc::new(found)))
        }
        WeightsCall::Align(given) => {
            optimizers::alignment(checker, given, env).map(|found| Value::GradientAlignment(Rc::new(found)))
        }
        WeightsCall::PowersOf(given) => read(checker, given.base, env).map(Value::PowersOf),
    }
}

/// `lora(rank: 16, alpha: 32, targets: [attention, feed_forward])`
fn adapter_call(checker: &mut Checker, kind: AdapterKind, given: Lora, env: &Env) -> Option<Adapter> {
    let (rank, alpha) = (read(checker, given.rank, env), read(checker, given.alpha, env));
    let targets = read(checker, given.targets, env);
    let given_dropout = given.dropout.given.map(Arg::expr);
    let dropout = read(checker, given.dropout, env);
    if let (Some(1.0), Some(expr)) = (dropout, given_dropout) {
        let text = "with `dropout` = 1 nothing would reach the adapter";
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, text).help("write a share below 1, such as 0.1"),
        );
        return None;
    }
    let layers = read(checker, given.layers, env);
    Some(Adapter { kind, rank: rank?, alpha: alpha?, dropout: dropout?, targets: targets?, layers: layers? })
}

/// `changed(first, beyond: 1e-5)`
fn changed(checker: &mut Checker, given: ChangedArguments, env: &Env) -> Option<ChangedElements> {
    let span = given.model.expr.span;
    let (after, beyond) = (read(checker, given.model, env), read(checker, given.beyond, env));
    let (from, after) = (read(checker, given.from, env)?, after?);
    let Some(before) = from.or_else(|| trained_from(&checker.parts, after)) else {
        let name = checker.parts.model(after).name.clone();
        let text = format!("`{name}` is not trained from another model, so training changed nothing of it");
        let help = format!("name a model to compare it with: `changed({name}, beyond: 1e-5, from: ...)`");
        checker.report(Diagnostic::error(Code::TypeMismatch, span, text).help(help));
        return None;
    };
    if let Some(text) = lineage::unlike(&checker.parts, after, before) {
        report_unlike(checker, span, text);
        return None;
    }
    Some(ChangedElements { after, before, beyond: beyond? })
}

/// The model that a model's stage started from. A parameter stands for itself until it has a value.
fn trained_from(parts: &ExperimentParts, model: ModelId) -> Option<ModelId> {
    match &parts.model(model).stage {
        Stage::Train(train) => Some(train.start),
        Stage::Joint(joint) => Some(joint.members[0].start),
        Stage::Member { joint, member } => match &parts.model(*joint).stage {
            Stage::Joint(joint) => Some(joint.members[*member].start),
            _ => None,
        },
        Stage::Parameter => Some(model),
        Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) => None,
    }
}

fn report_unlike(reporter: &mut Reporter, span: Span, text: String) {
    reporter.report(
        Diagnostic::error(Code::TypeMismatch, span, text)
            .help("elements can be compared only between models of one architecture and one tokenizer"),
    );
}

/// `targets: [query, value]`, `targets: [attention, feed_forward]`
pub fn adapted(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Vec<Projection>> {
    const WANTED: &str =
        "`targets` lists the matrices that get an adapter: `[attention, feed_forward]`, `[query, value]`";
    let groups = [
        ("attention", Projection::ATTENTION),
        ("feed_forward", Projection::FEED_FORWARD),
        ("gated_delta", Projection::GATED_DELTA),
        ("short_conv", Projection::SHORT_CONV),
    ];
    let each = groups.iter().flat_map(|(_, group)| *group);
    let single = each.map(|one| (one.name(), std::slice::from_ref(one)));
    let words: Vec<(&str, &[Projection])> = groups.into_iter().chain(single).collect();
    if let ExprKind::Name(name) | ExprKind::Text(name) = &expr.kind {
        let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, WANTED);
        if is_all_matrices(name) {
            checker.report(diagnostic.replace_with("name both groups", ALL_MATRICES));
            return None;
        }
        if words.iter().any(|(word, _)| word == name) {
            checker.report(diagnostic.label("not a list").replace_with("write a list", format!("[{name}]")));
            return None;
        }
    }
    let items = list(checker, expr, WANTED, env)?;
    let mut targets: Vec<Projection> = Vec::new();
    for item in items {
        for projection in expected::word(checker, item, "a matrix of a decoder layer", &words)? {
            if targets.contains(projection) {
                let text = format!("`{}` gets two adapters", projection.name());
                checker.report(Diagnostic::error(Code::DuplicateKey, item.span, text).help("name it once"));
                return None;
            }
            targets.push(*projection);
        }
    }
    if targets.is_empty() {
        checker.report(Diagnostic::error(
            Code::OutOfRange,
            expr.span,
            "no matrix gets an adapter: nothing would be trained",
        ));
        return None;
    }
    targets.sort();
    Some(targets)
}

/// The elements of a list of words. They are not evaluated, because the words are no values.
fn list<'e>(checker: &mut Checker, expr: &'e Expr, wanted: &str, env: &Env) -> Option<&'e [Expr]> {
    match &expr.kind {
        ExprKind::List(items) => return Some(items),
        ExprKind::Name(name) => {
            let list = format!("[{name}]");
            let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, wanted);
            checker.report(diagnostic.label("a single name").replace_with("write a list", &list));
        }
        _ => {
            let value = checker.evaluate(expr, env);
            expected::wrong_kind(checker, expr.span, wanted, &value);
        }
    }
    None
}

/// `8..=23`
pub fn layer_range(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<(u32, u32)> {
    match checker.evaluate(expr, env) {
        Value::Range { low, high }
            if low.fract() == 0.0 && high.fract() == 0.0 && low >= 0.0 && high <= 4096.0 =>
        {
            Some((low as u32, high as u32))
        }
        Value::Range { .. } => {
            let text = "layers are counted in whole numbers from 0";
            checker.report(
                Diagnostic::error(Code::OutOfRange, expr.span, text).help("both ends are included: `0..=11`"),
            );
            None
        }
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "layers are a range with both ends, such as `0..=11`",
                &other,
            );
            None
        }
    }
}

/// `[attention, layers(0..=11)]`
pub fn weight_filters(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<Vec<WeightFilter>> {
    let items = list(
        checker,
        expr,
        &format!("`{key}` is a list of parts of the model: `[attention, layers(0..=11)]`"),
        env,
    )?;
    let mut filters = Vec::new();
    for item in items {
        let filter = match &item.kind {
            ExprKind::Call { .. } => match checker.evaluate(item, env) {
                Value::Layers { first, last } => WeightFilter::Layers { first, last },
                Value::Changed(changed) => WeightFilter::Changed(changed),
                other => {
                    expected::wrong_kind(
                        checker,
                        item.span,
                        "a part of a model is a word such as `attention`, `layers(0..=11)`, or \
                         `changed(first, beyond: 1e-5)`",
                        &other,
                    );
                    return None;
                }
            },
            _ => WeightFilter::Group(expected::word(checker, item, "a part of a decoder", &WEIGHT_GROUPS)?),
        };
        if filters.contains(&filter) {
            checker.report(Diagnostic::error(Code::DuplicateKey, item.span, "this part is listed twice"));
            return None;
        }
        filters.push(filter);
    }
    if filters.is_empty() {
        checker.report(Diagnostic::error(
            Code::OutOfRange,
            expr.span,
            format!("`{key}` names no part of the model"),
        ));
        return None;
    }
    Some(filters)
}

/// `checkpointing = 8`, `checkpointing = all`
pub fn checkpointing(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Checkpointing> {
    match &expr.kind {
        ExprKind::Name(name) if name == "all" && env.local(name).is_none() => Some(Checkpointing::All),
        _ => numbers::count(checker, expr, "checkpointing", env, 1).map(Checkpointing::Layers),
    }
}

/// `ema = 0.999`
pub fn average_decay(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<f64> {
    let value = checker.evaluate(expr, env);
    let rate = numbers::fraction(checker, &value, expr.span, "`ema`")?;
    if rate == 0.0 || rate == 1.0 {
        let text = if rate == 1.0 {
            "with `ema` = 1 the average never moves"
        } else {
            "with `ema` = 0 nothing is averaged"
        };
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, text)
                .help("write how much of the average is kept at every step, such as `0.999`, or remove it"),
        );
        return None;
    }
    Some(rate)
}

/// Checks that named layers exist, that weights are left to train, and that `micro_batch` fits a step.
pub fn check_trainable(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let mut good = true;
    let mut beyond: Vec<(u32, Span)> = Vec::new();
    match &train.trainable {
        Trainable::Adapter(adapter) => {
            beyond.extend(adapter.layers.map(|(_, last)| (last, settings.place(&["adapter"]))));
            // No family that is made from random weights has others.
            let made = declarations.parts.architecture(train.start).is_some();
            let adaptable = [Projection::ATTENTION, Projection::FEED_FORWARD].concat();
            let absent = adapter.targets.iter().find(|target| !adaptable.contains(target));
            if let Some(target) = absent.filter(|_| made) {
                let (name, module) = (target.name(), target.module());
                let text = format!("an adapter of `{name}`, but the model has no matrix `{module}`");
                declarations.report(
                    Diagnostic::error(Code::OutOfRange, settings.place(&["adapter"]), text)
                        .help("name matrices of the model in `targets`"),
                );
                good = false;
            }
        }
        Trainable::Weights { only, except } => {
            for (filters, key) in
                [(only.as_deref().unwrap_or_default(), "train_only"), (except.as_slice(), "freeze")]
            {
                beyond.extend(filters.iter().filter_map(|filter| match filter {
                    WeightFilter::Layers { last, .. } => Some((*last, settings.place(&[key]))),
                    WeightFilter::Group(_) | WeightFilter::Changed(_) => None,
                }));
            }
            for ChangedElements { after, .. } in train.trainable.changes() {
                if let Some(text) = lineage::unlike(&declarations.parts, train.start, *after) {
                    report_unlike(declarations, settings.place(&["train_only", "freeze"]), text);
                    good = false;
                }
            }
        }
    }
    if let Checkpointing::Layers(layers) = train.options.execution.checkpointing {
        beyond.push((layers.saturating_sub(1), settings.place(&["checkpointing"])));
    }
    let layers = declarations.parts.architecture(train.start).map(|architecture| architecture.layers);
    if let Some(layers) = layers {
        for (last, place) in beyond.into_iter().filter(|(last, _)| *last >= layers) {
            let text = format!("there is no layer {last}: the model has {layers}, counted from 0");
            let help = match layers {
                1 => "its only layer is layer 0: `0..=0`".to_owned(),
                _ => format!("its layers are 0 to {last}: `0..={last}`", last = layers - 1),
            };
            declarations.report(Diagnostic::error(Code::OutOfRange, place, text).help(help));
            good = false;
        }
    }
    if good && !trains_something(&train.trainable, layers) {
        let (train_only, freeze) = (settings.key_span("train_only"), settings.key_span("freeze"));
        let place = train_only.or(freeze).unwrap_or(settings.span);
        let diagnostic = Diagnostic::error(Code::OutOfRange, place, "no weights are left to train");
        let diagnostic = match (train_only, freeze) {
            (Some(_), Some(freeze)) => diagnostic.note(freeze, "frozen here"),
            _ => diagnostic.label("all of them are frozen here"),
        };
        declarations.report(diagnostic.help(match train_only {
            Some(_) => "take a part out of `freeze`, or add one to `train_only`",
            None => "take a part out of `freeze`",
        }));
        good = false;
    }
    good
}

/// Whether any weight is left to train in a model of `layers` layers. Where the number is not known, the
/// model is taken to have one layer more than are named.
fn trains_something(trainable: &Trainable, layers: Option<u32>) -> bool {
    let Trainable::Weights { only, except } = trainable else { return true };
    let filters = only.iter().flatten().chain(except);
    let named = filters.filter_map(|filter| match filter {
        WeightFilter::Layers { last, .. } => Some(last + 1),
        WeightFilter::Group(_) | WeightFilter::Changed(_) => None,
    });
    let layers = layers.unwrap_or_else(|| named.max().unwrap_or(0) + 1);
    // Which elements have changed is known only in the run: some of every part, but not all.
    let is_in = |filter: &WeightFilter, part: (WeightGroup, Option<u32>), changed: bool| match filter {
        WeightFilter::Group(group) => *group == part.0,
        WeightFilter::Layers { first, last } => part.1.is_some_and(|layer| (*first..=*last).contains(&layer)),
        WeightFilter::Changed(_) => changed,
    };
    let trained = |part| {
        only.as_ref().is_none_or(|only| only.iter().any(|filter| is_in(filter, part, true)))
            && !except.iter().any(|filter| is_in(filter, part, false))
    };
    let inside = (0..layers).flat_map(|layer| {
        [WeightGroup::Attention, WeightGroup::FeedForward, WeightGroup::Norm].map(|of| (of, Some(layer)))
    });
    // The final norm and the embedding are in no layer.
    inside.chain([(WeightGroup::Embedding, None), (WeightGroup::Norm, None)]).any(trained)
}
