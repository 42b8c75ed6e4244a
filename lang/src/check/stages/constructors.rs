//! Constructors of models: dispatch by name, and the stages that train nothing (initialise, load, merge).

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{
    Architecture, Family, Merge, MergeMethod, ModelId, Pretrained, PretrainedSource, Recipe, Stage,
    TokenizerSpec,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::constructors::{ConstructorCall, Llama, Merge as MergeArguments};
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::types::{EndTokens, Fraction, Text, Truth};
use crate::check::builtins::vocabulary::{DecoderBlock, MergeBlock};
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{expected, places, read, reads, settings};
use crate::check::stages::{joint, lineage, training};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Models => |checker, given, env| models_of(checker, given.expr, env);
    Tokenizer => |checker, given, env| tokenizer(checker, given.expr, env);
}

pub fn construct(checker: &mut Checker, call: ConstructorCall, env: &Env) -> Option<ModelId> {
    let written = call.written();
    let stage = match call {
        ConstructorCall::Llama(given) => decoder(checker, Family::Llama, given, env),
        ConstructorCall::Qwen2(given) => decoder(checker, Family::Qwen2, given, env),
        ConstructorCall::Qwen3(given) => decoder(checker, Family::Qwen3, given, env),
        ConstructorCall::Gemma(given) => decoder(checker, Family::Gemma, given, env),
        ConstructorCall::HuggingFace(given) => {
            let place = given.name.expr.span;
            let name = stored(checker, written, given.name, env)?;
            if let Some(diagnostic) = places::not_a_repository(&name, place, written) {
                checker.report(diagnostic);
                return None;
            }
            let revision = read(checker, given.revision, env)?;
            let source = PretrainedSource::HuggingFace { name, revision };
            loaded(checker, source, given.end_tokens, given.chat_template, given.enable_thinking, env)
        }
        ConstructorCall::Gguf(given) => {
            let file = stored(checker, written, given.file, env)?;
            let source = PretrainedSource::Gguf { file };
            loaded(checker, source, given.end_tokens, given.chat_template, given.enable_thinking, env)
        }
        ConstructorCall::Checkpoint(given) => {
            let folder = stored(checker, written, given.folder, env)?;
            let source = PretrainedSource::Checkpoint { folder };
            loaded(checker, source, given.end_tokens, given.chat_template, given.enable_thinking, env)
        }
        ConstructorCall::Merge(given) => merge(checker, given, env).map(Stage::Merge),
        ConstructorCall::Sft(given) => {
            training::training(checker, Recipe::Sft, written, given.start, Some(given.on.expr), env)
        }
        ConstructorCall::Grpo(given) => {
            training::training(checker, Recipe::Grpo, written, given.start, Some(given.on.expr), env)
        }
        ConstructorCall::Dpo(given) => {
            training::training(checker, Recipe::Dpo, written, given.start, Some(given.on.expr), env)
        }
        ConstructorCall::Distill(given) => {
            training::training(checker, Recipe::Distill, written, given.start, None, env)
        }
        ConstructorCall::Train(_) => return joint::joint(checker, written.span, written.block, env),
    };
    Some(checker.declare_stage(written.builtin.name, stage?, written.span, env))
}

fn loaded(
    checker: &mut Checker,
    source: PretrainedSource,
    end_tokens: Option<Arg<EndTokens>>,
    chat_template: Option<Arg<Text>>,
    enable_thinking: Option<Arg<Truth>>,
    env: &Env,
) -> Option<Stage> {
    let end_tokens = read(checker, end_tokens, env);
    let (chat_template, enable_thinking) =
        (read(checker, chat_template, env), read(checker, enable_thinking, env));
    Some(Stage::Load(Pretrained {
        source,
        end_tokens: end_tokens?.unwrap_or_default(),
        chat_template: chat_template?,
        enable_thinking: enable_thinking?,
    }))
}

/// The text that says where a model is stored: `hf("Qwen/Qwen3-0.6B")`, `gguf("file.gguf")`,
/// `checkpoint("runs/first/student")`.
fn stored(checker: &mut Checker, call: Call, given: Arg<Text>, env: &Env) -> Option<String> {
    if let Some(block) = call.block {
        let text = format!("`{}` takes no settings in braces", call.builtin.name);
        checker.report(Diagnostic::error(Code::TypeMismatch, block.span, text).help(call.builtin.usage));
        return None;
    }
    let place = given.expr.span;
    let stored = read(checker, given, env)?;
    if stored.trim().is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, place, "this name is empty"));
        return None;
    }
    places::whole(checker, stored, place, env)
}

pub fn tokenizer(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<TokenizerSpec> {
    // `"bytes"` is the word in quotes, not a file of that name.
    if matches!(&expr.kind, ExprKind::Text(path) if path != "bytes") {
        return expected::text(checker, expr, "tokenizer", env).map(TokenizerSpec::File);
    }
    expected::word(checker, expr, "a tokenizer", &[("bytes", TokenizerSpec::Bytes)])
}

/// `llama { ... }` and the other decoder families.
fn decoder(checker: &mut Checker, family: Family, given: Llama, env: &Env) -> Option<Stage> {
    let Call { block, span, .. } = given.call;
    let (settings, given) = settings::block::<DecoderBlock>(checker, block, family.name(), span);
    settings::keep_marks(&mut checker.parts, &settings, &env.model_name);
    let (layers, width) = (read(checker, given.layers, env), read(checker, given.width, env));
    let (heads, context) = (read(checker, given.heads, env), read(checker, given.context, env));
    let tokenizer = read(checker, given.tokenizer, env);
    let key_value_heads = given.key_value_heads.map(|heads| read(checker, heads, env));
    let hidden = given.hidden.map(|hidden| read(checker, hidden, env));
    let tied = read(checker, given.tied, env);
    let (rope_theta, norm_epsilon) =
        (read(checker, given.rope_theta, env), read(checker, given.norm_epsilon, env));
    // "Small init" (arXiv:1910.05895, section 2.2): 0.02 at width 1,000, and enough for narrow models to
    // learn at all.
    let small = (2.0 / (5.0 * f64::from(width.unwrap_or(1_000)))).sqrt();
    let initial_deviation = read(checker, given.initial_deviation, env).map(|given| given.unwrap_or(small));
    let (width, heads) = (width?, heads?);
    let key_value_heads = key_value_heads.unwrap_or(Some(heads))?;
    let multiple = |checker: &mut Checker, key: &str, text: String, help: String| {
        let place = settings.key_span(key).unwrap_or(span);
        checker.report(Diagnostic::error(Code::OutOfRange, place, text).help(help));
    };
    if width % (2 * heads) != 0 {
        let text = format!("the width {width} does not divide into {heads} heads of even size");
        let near = (width / (2 * heads)).max(1) * 2 * heads;
        multiple(checker, "width", text, format!("write a multiple of {}, such as {near}", 2 * heads));
        return None;
    }
    if heads % key_value_heads != 0 {
        let text = format!("{heads} heads can't share {key_value_heads} key-value heads evenly");
        let near = (1..key_value_heads.min(heads)).rev().find(|number| heads % number == 0).unwrap_or(1);
        let help = format!("write a number that divides {heads}, such as {near}");
        multiple(checker, "key_value_heads", text, help);
        return None;
    }
    Some(Stage::Initialise(Architecture {
        family,
        layers: layers?,
        width,
        heads,
        key_value_heads,
        // The usual two thirds of four times the width, rounded up to a multiple of 32.
        intermediate_size: hidden.unwrap_or(Some((width * 8).div_ceil(3).div_ceil(32) * 32))?,
        context: context?,
        tokenizer: tokenizer?,
        tied: tied?,
        rope_theta: rope_theta?,
        norm_epsilon: norm_epsilon?,
        initial_deviation: initial_deviation?,
    }))
}

fn merge(checker: &mut Checker, given: MergeArguments, env: &Env) -> Option<Merge> {
    let Call { block, span, .. } = given.call;
    let (settings, block) = settings::block::<MergeBlock>(checker, block, "merge", span);
    settings::keep_marks(&mut checker.parts, &settings, &env.model_name);
    let models_expr = given.models.expr;
    let base_place = given.base.as_ref().map_or(span, |base| base.expr.span);
    let models = read(checker, given.models, env);
    let base = read(checker, given.base, env)?;
    let method = merge_method(checker, &settings, block, span, env)?;
    let base = match (&method, base) {
        (MergeMethod::Average, Some(_)) => {
            let text = "`average` uses no differences, so it has no use for a `base`";
            checker.report(
                Diagnostic::warning(Code::UnusedSetting, base_place, text)
                    .help("remove it, or write `method = task_arithmetic` with a `scale`"),
            );
            None
        }
        (MergeMethod::Average, None) | (_, Some(_)) => base,
        (_, None) => {
            let text = format!("`{}` needs the `base` that differences are taken from", method.name());
            checker.report(
                Diagnostic::error(Code::MissingArgument, span, text)
                    .help("write `merge(experts, base: start) { ... }`"),
            );
            return None;
        }
    };
    let models = models?;
    if let Some(again) = (1..models.len()).find(|at| models[..*at].contains(&models[*at])) {
        report_twice(checker, models_expr, &models, again);
        return None;
    }
    for other in models.iter().chain(&base) {
        if let Some(text) = lineage::unlike(&checker.parts, models[0], *other) {
            checker.report(
                Diagnostic::error(Code::TypeMismatch, span, text)
                    .help("only weights of one architecture and one tokenizer can be merged"),
            );
            return None;
        }
    }
    Some(Merge { method, base, models })
}

/// The method of a merge, with its numbers.
fn merge_method(
    checker: &mut Checker,
    settings: &BlockSettings,
    given: MergeBlock,
    span: Span,
    env: &Env,
) -> Option<MergeMethod> {
    let method = read(checker, given.method, env)?;
    let known: &[&'static str] = match method {
        "average" => &[],
        "task_arithmetic" => &["scale"],
        "ties" => &["scale", "density"],
        _ => &["scale", "drop"],
    };
    for key in ["scale", "density", "drop"] {
        if let Some(place) = settings.key_span(key).filter(|_| !known.contains(&key)) {
            checker.report(Diagnostic::error(Code::UnknownKey, place, format!("`{method}` has no `{key}`")));
            return None;
        }
    }
    // Which of them a merge needs depends on its method.
    known.iter().for_each(|key| settings::report_if_missing(checker, settings, key));
    let out_of_range = |checker: &mut Checker, given: Option<Arg<Fraction>>, text: &str| {
        let place = given.map_or(span, |given| given.expr.span);
        checker.report(Diagnostic::error(Code::OutOfRange, place, text));
    };
    let scale = read(checker, given.scale, env)?;
    let (density, drop) = (read(checker, given.density, env)?, read(checker, given.drop, env)?);
    Some(match method {
        "average" => MergeMethod::Average,
        "task_arithmetic" => MergeMethod::TaskArithmetic { scale: scale? },
        "ties" => {
            let (scale, density) = (scale?, density?);
            if density <= 0.0 {
                let text = "`density` must be above 0: nothing would be kept";
                out_of_range(checker, given.density, text);
                return None;
            }
            MergeMethod::Ties { scale, density }
        }
        _ => {
            let (scale, drop) = (scale?, drop?);
            if drop >= 1.0 {
                out_of_range(checker, given.drop, "`drop` must be below 1: nothing would be left");
                return None;
            }
            MergeMethod::Dare { scale, drop }
        }
    })
}

/// Reports a model that is listed twice in a merge, where it would count twice.
fn report_twice(declarations: &mut Declarations, list: &Expr, models: &[ModelId], again: usize) {
    let model = models[again];
    let text =
        format!("`{}` is in this list twice, and would count twice", declarations.parts.model(model).name);
    let place = |at: Option<usize>| match &list.kind {
        ExprKind::List(items) => at.and_then(|at| items.get(at)).map(|item| item.span),
        _ => None,
    };
    let first = place(models.iter().position(|known| *known == model));
    let diagnostic = Diagnostic::error(Code::DuplicateName, place(Some(again)).unwrap_or(list.span), text);
    let diagnostic = match first {
        Some(first) => diagnostic.label("again here").note(first, "first here"),
        None => diagnostic,
    };
    declarations.report(diagnostic.help("name each model once"));
}

/// The models of a family or a list.
pub fn models_of(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Vec<ModelId>> {
    let values = match checker.evaluate(expr, env).elements() {
        Ok(values) => values,
        Err(other) => {
            expected::wrong_kind(checker, expr.span, "expected several models: a family or a list", &other);
            return None;
        }
    };
    let mut models = Vec::new();
    for value in values {
        match value {
            Value::Model(model) => models.push(model),
            other => {
                expected::wrong_kind(checker, expr.span, "every element must be a model", &other);
                return None;
            }
        }
    }
    if models.is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, expr.span, "this list of models is empty"));
        return None;
    }
    Some(models)
}
