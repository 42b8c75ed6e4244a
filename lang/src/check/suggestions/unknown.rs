//! Reports unknown settings, arguments, methods and libraries, with suggestions.

use crate::diag::{Code, Diagnostic, nearest, same_letters};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Entry, Expr, ExprKind, Name};
use mopd_experiment::formula::Unit;

use crate::check::builtins;
use crate::check::builtins::kinds::SettingKey;
use crate::check::builtins::vocabulary;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::names::modules::Modules;
use crate::check::reporter::Reporter;
use crate::check::suggestions::foreign::{self, ForeignSetting, Spelling};
use crate::check::suggestions::renamed;
use crate::check::suggestions::unknown_name::DIRECTION_OF_PYTORCH;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The setting that an unknown one was probably meant for.
pub struct SuggestedSetting {
    pub key: String,
    /// Whether the value fits that setting, so that the entry can be read as if the key were right.
    pub same_value: bool,
}

/// `torch.clamp`, `AutoModelForCausalLM.from_pretrained`: suggests the built-in for it.
pub fn foreign_library(reporter: &mut Reporter, library: &str, field: &Name, span: Span) -> Value {
    let ours = builtins::find(&field.text).map(|builtin| builtin.name).or(match foreign::name(&field.text) {
        Some(Spelling::Name(ours)) => Some(ours),
        _ => None,
    });
    let text = format!("cannot find `{library}.{}` in this scope", field.text);
    let diagnostic =
        Diagnostic::error(Code::UnknownName, span, text).label("there are no libraries of Python here");
    let builtin = ours.and_then(builtins::find);
    if ours == Some("kl") {
        reporter.report(diagnostic.help(DIRECTION_OF_PYTORCH));
        return Value::Error;
    }
    reporter.report(match (ours, foreign::name(&field.text)) {
        (Some(ours), _) => {
            let usage = builtin.map_or(String::new(), |builtin| format!(": `{}`", builtin.usage));
            diagnostic
                .help(format!("here it is called `{ours}`{usage}"))
                .replace_with(format!("write `{ours}`"), ours)
        }
        (None, Some(Spelling::Otherwise(words))) => diagnostic.help(words),
        _ => diagnostic.help(
            "the functions are listed in the reference: `min`, `max`, `clip`, `where`, `exp`, `log`, ...",
        ),
    });
    builtin.map_or(Value::Error, Value::Builtin)
}

/// `x.detach()`, `x.mean()`: numbers have no methods.
pub fn method(
    checker: &mut Checker,
    base: &Expr,
    field: &Name,
    arguments: &[Argument],
    whole: Span,
    env: &Env,
) -> Option<Value> {
    let value = checker.evaluate(base, env);
    let Value::Formula(formula) = &value else { return Some(value).filter(Value::is_error) };
    let written = checker.sources.text(base.span).to_owned();
    let inner = written.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
    let operand = inner.filter(|inner| !inner.contains(['(', ')'])).unwrap_or(&written).to_owned();
    let unnamed = |argument: &Argument| argument.name.is_none();
    let more: Vec<&str> =
        arguments.iter().map(|argument| checker.sources.text(argument.value.span)).collect();
    let text = format!("numbers have no methods such as `.{}()`", field.text);
    let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
    let diagnostic = match field.text.as_str() {
        "float" | "int" | "double" if formula.unit() == Unit::Bool => {
            let ours = format!("where({operand}, 1, 0)");
            let diagnostic = diagnostic.help(format!("a condition as a number is `{ours}`"));
            checker.report(diagnostic.fix(format!("write `{ours}`"), whole, ours));
            return Some(Value::Error);
        }
        "detach" | "item" | "stop_gradient" | "float" | "data" | "cpu" => {
            let diagnostic =
                diagnostic.help("nothing needs to be detached: only what is marked `live` carries gradient");
            checker.report(diagnostic.fix(format!("write `{written}`"), whole, written));
            return Some(value);
        }
        "clamp" | "clip" if more.len() == 2 && arguments.iter().all(unnamed) => {
            let ours = format!("clip({operand}, {})", more.join(", "));
            diagnostic.help(format!("write `{ours}`")).fix(format!("write `{ours}`"), whole, ours)
        }
        "clamp" | "clip" => diagnostic.help(format!("write `clip({operand}, low, high)`")),
        "mean" | "sum" | "min" | "max" => diagnostic
            .help(format!("write `{}({operand}, over: sequence)`, or over another axis", field.text)),
        "std" | "var" => diagnostic
            .help(format!("`zscore({operand}, over: group, deviation: sample)` is (x - mean) / deviation")),
        name if builtins::find(name).is_some_and(|builtin| builtin.required() == 1)
            && arguments.is_empty() =>
        {
            let ours = format!("{name}({operand})");
            diagnostic.help(format!("write `{ours}`")).fix(format!("write `{ours}`"), whole, ours)
        }
        name if builtins::find(name).is_some() => diagnostic.help(format!("write `{name}({operand}, ...)`")),
        _ => diagnostic.help("a function stands before its arguments: `exp(x)`, `mean(x, over: sequence)`"),
    };
    checker.report(diagnostic);
    Some(Value::Error)
}

/// Reports a setting that the block does not have. `others` are all settings of the block, which are not
/// suggested.
pub fn unknown_setting(
    declarations: &mut Declarations,
    entry: &Entry,
    owner: &str,
    keys: &[SettingKey],
    others: &[&Entry],
) -> Option<SuggestedSetting> {
    let name = entry.key.text.as_str();
    let set: Vec<&str> = others.iter().map(|other| other.key.text.as_str()).collect();
    let known = vocabulary::names(keys);
    let diagnostic =
        Diagnostic::error(Code::UnknownKey, entry.key.span, format!("{owner} has no setting `{name}`"));
    // The size of a step is counted in prompts or in sequences.
    let sized = ["prompts", "batch"].iter().any(|key| set.contains(key)) && known.contains(&"steps");
    let taken = |key: &&str| set.contains(key) || sized && matches!(*key, "prompts" | "batch");
    let free: Vec<&str> = known.iter().copied().filter(|key| !taken(key)).collect();
    if let Some(same) = free.iter().find(|key| same_letters(key, name)) {
        declarations.report(diagnostic.did_you_mean(name, same));
        return Some(SuggestedSetting { key: (*same).to_owned(), same_value: true });
    }
    if let Some(setting) = foreign::setting(name, &known, &free) {
        let diagnostic = diagnostic.help(setting.help());
        let diagnostic = renamed::with_our_setting(declarations, diagnostic, entry, setting, keys, others);
        declarations.report(diagnostic);
        return setting.key().map(|key| {
            let takes = keys.iter().find(|known| known.name == key).map(|known| known.takes);
            let ours = renamed::value_here(declarations, key, takes, &entry.value);
            let fits = ours.as_deref() == Some(declarations.sources.text(entry.value.span));
            let same_value = matches!(setting, ForeignSetting::Is(_)) && fits;
            SuggestedSetting { key: key.to_owned(), same_value }
        });
    }
    // A setting that another one replaces: `max_grad_norm` beside an `optimizer`.
    if let Some(setting @ (ForeignSetting::Within { .. } | ForeignSetting::Otherwise(_))) =
        foreign::setting(name, &known, &known)
    {
        declarations.report(diagnostic.help(setting.help()));
        return None;
    }
    if let Some(key) = foreign::setting(name, &known, &known).and_then(ForeignSetting::key) {
        let help = match set.contains(&key) {
            true => format!("here it is called `{key}`, which is set already: remove one of them"),
            false => "`prompts` or `batch` sets the size of a step already: remove one of them".to_owned(),
        };
        let value = |entry: &Entry| declarations.sources.text(entry.value.span);
        let first = others.iter().find(|other| other.key.text == key);
        let again =
            first.filter(|first| value(first) == value(entry)).and_then(|_| removal(declarations, entry));
        let diagnostic = diagnostic.help(help);
        declarations.report(match again {
            Some(span) => diagnostic.fix(format!("remove it: `{key}` has this value"), span, ""),
            None => diagnostic,
        });
        return None;
    }
    // `student with { lrr = 1e-4 }`: the setting is that of the base, in another block.
    if let Some(near) = nearest(name, known.iter().copied())
        && let Some(other) = others.iter().find(|other| other.key.text == near)
        && in_another_block(declarations, other, entry)
    {
        declarations.report(diagnostic.did_you_mean(name, near).possibly());
        return None;
    }
    match foreign::key(name, &free) {
        _ if name == "seed" && known.contains(&"steps") => {
            let help = "one seed is of the whole experiment: `experiment \"name\" { seed = 1 }`";
            declarations.report(diagnostic.help(help));
            None
        }
        Some((near, similar)) if blocks_with(name).is_none() => {
            declarations.report(diagnostic.did_you_mean(name, near).possibly());
            Some(SuggestedSetting { key: near.to_owned(), same_value: similar })
        }
        _ => {
            let help = match (name, known.contains(&"rollout")) {
                (
                    "samples" | "max_tokens" | "temperature" | "top_p" | "top_k" | "n" | "repetition_penalty"
                    | "stop",
                    true,
                ) => {
                    let inside = if name == "samples" { "n" } else { name };
                    format!("it belongs to the rollout: `rollout = sample(..., {inside}: ...)`")
                }
                ("route", true) => "the route of a stage is a block: `route { else -> guide }`".to_owned(),
                _ => match blocks_with(name) {
                    Some(blocks) => format!("`{name}` is a setting of {blocks}"),
                    None => format!("it has: {}", known.join(", ")),
                },
            };
            declarations.report(diagnostic.help(help));
            None
        }
    }
}

/// Whether a bracket closes between two settings.
fn in_another_block(reporter: &Reporter, one: &Entry, other: &Entry) -> bool {
    let (first, last) = match one.key.span.start < other.key.span.start {
        true => (one, other),
        false => (other, one),
    };
    let (start, end) = (first.value.span.end, last.key.span.start);
    first.key.span.file == last.key.span.file
        && start <= end
        && reporter.sources.text(Span { start, end, ..first.key.span }).contains('}')
}

/// What to delete so that a setting is gone: its line, or the setting with the comma before it. `None`
/// where another setting follows on its line and none comes before it there.
fn removal(reporter: &Reporter, entry: &Entry) -> Option<Span> {
    let whole = entry.key.span.to(entry.value.span);
    let text = reporter.sources.file(whole.file).text.as_str();
    let (before, after) = text.split_at_checked(whole.start as usize)?;
    let after = &after[(whole.end - whole.start) as usize..];
    let line_end = after.find('\n').map_or(after.len(), |end| end + 1);
    let bare = before.trim_end_matches([' ', '\t']);
    if bare.ends_with('\n') && matches!(after[..line_end].trim(), "" | ",") {
        return Some(Span::new(whole.file, bare.len(), whole.end as usize + line_end));
    }
    bare.ends_with(',').then(|| Span::new(whole.file, bare.len() - 1, whole.end as usize))
}

pub fn unknown_argument(
    declarations: &mut Declarations,
    callee: &str,
    argument: &Argument,
    known: &[&str],
    free: &[&str],
    declared: Option<Span>,
) {
    let Some(name) = &argument.name else {
        let text = match known.len() {
            0 => format!("`{callee}` takes no arguments"),
            1 => format!("`{callee}` takes 1 argument"),
            count => format!("`{callee}` takes {count} arguments"),
        };
        let diagnostic =
            Diagnostic::error(Code::UnknownArgument, argument.value.span, text).label("one too many");
        return declarations.report(declared_there(diagnostic, declared));
    };
    let text = format!("`{callee}` has no argument `{}`", name.text);
    let diagnostic = declared_there(Diagnostic::error(Code::UnknownArgument, name.span, text), declared);
    let same = known.iter().find(|key| same_letters(key, &name.text));
    let takes = || match known.is_empty() {
        true => "it takes none".to_owned(),
        false => {
            let shown: Vec<&str> = known.iter().map(|name| builtins::declare::shown(name)).collect();
            format!("it takes: {}", shown.join(", "))
        }
    };
    let diagnostic = match (same, foreign::setting(&name.text, known, known)) {
        (Some(same), _) => diagnostic.did_you_mean(&name.text, same),
        // Axes are names in the language; other libraries use numbers.
        (None, Some(ForeignSetting::Is("over"))) => {
            let help = "an axis is named: `over: sequence`, `over: group`, `over: batch`, ...";
            match argument.value.kind {
                ExprKind::Name(_) => diagnostic.help(help).replace_with("change to `over`", "over"),
                _ => diagnostic.help(help),
            }
        }
        (None, Some(ForeignSetting::Is(key))) => {
            let diagnostic = diagnostic.help(format!("here it is called `{key}`"));
            let value = declarations.sources.text(argument.value.span);
            match (key, renamed::value_here(declarations, key, None, &argument.value)) {
                ("targets", None) => diagnostic,
                ("targets", Some(ours)) if ours != value => {
                    let written = format!("{key}: {ours}");
                    let whole = name.span.to(argument.value.span);
                    diagnostic.fix(format!("write `{written}`"), whole, written)
                }
                _ => diagnostic.replace_with(format!("change to `{key}`"), key),
            }
        }
        (None, None) if name.text == "per" && known.contains(&"over") => diagnostic
            .help("the axis of a reduction or statistic stands after `over`")
            .replace_with("change to `over`", "over"),
        (None, None) if matches!(name.text.as_str(), "steps" | "length") && known == ["range", "over"] => {
            diagnostic
                .help("how long a schedule changes stands after `over`")
                .replace_with("change to `over`", "over")
        }
        // A declared name that is almost the same is preferred to the counterpart of another tool's name.
        (None, Some(setting @ (ForeignSetting::Otherwise(_) | ForeignSetting::Beside { .. })))
            if declared.is_none() || nearest(&name.text, known.iter().copied()).is_none() =>
        {
            diagnostic.help(setting.help())
        }
        _ => match (foreign::key(&name.text, known), known) {
            (Some((near, _)), _) => diagnostic.did_you_mean(&name.text, near),
            // There is only one argument left to suggest.
            (None, [only]) if free.contains(only) && others_with(&name.text).is_empty() => {
                diagnostic.help(takes()).replace_with(format!("change to `{only}`"), *only).possibly()
            }
            _ => diagnostic.help(match (blocks_with(&name.text), others_with(&name.text).as_slice()) {
                (Some(blocks), _) => format!("{}; `{}` is a setting of {blocks}", takes(), name.text),
                (None, [other]) => format!("{}; `{}` is an argument of `{other}`", takes(), name.text),
                (None, _) => match builtins::find(callee) {
                    Some(builtin) => format!("{}: `{}`", takes(), builtin.usage),
                    None => takes(),
                },
            }),
        },
    };
    declarations.report(diagnostic);
}

/// The built-ins with an argument of this name.
fn others_with(name: &str) -> Vec<&'static str> {
    let has = |builtin: &&builtins::Builtin| builtin.parameters.iter().any(|known| known.name == name);
    builtins::all().iter().filter(has).map(|builtin| builtin.name).collect()
}

/// Whether a file declares or imports a name.
pub fn is_declared(modules: &Modules, file: crate::source::FileId, name: &str) -> bool {
    modules.files().any(|(module, of)| of == file && modules.lookup(module, name).is_some())
}

/// The replacement of a quoted text by the bare one, if that is one of `words` or a number. Probably the
/// quotes are wrong.
pub fn unquoted(reporter: &Reporter, span: Span, text: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    let whole = reporter.sources.text(span);
    (whole == format!("\"{text}\"") && fits(text)).then(|| text.to_owned())
}

/// A diagnostic for a text where something else is needed: without its quotes it might fit.
pub fn without_quotes(diagnostic: Diagnostic, unquoted: Option<String>) -> Diagnostic {
    match unquoted {
        Some(bare) => {
            let diagnostic = diagnostic.help(format!("without quotes: `{bare}`"));
            let span = diagnostic.primary.span;
            diagnostic.fix("remove the quotes", span, bare)
        }
        None => diagnostic,
    }
}

/// The blocks that have a setting: "a stage or `compare`".
fn blocks_with(key: &str) -> Option<String> {
    let mut owners: Vec<String> = Vec::new();
    let has = |keys: &[SettingKey]| keys.iter().any(|known| known.name == key);
    let stages = || vocabulary::BLOCKS.iter().filter(|(owner, _)| vocabulary::may_route(owner));
    let all = stages().all(|(_, keys)| has(keys));
    for (owner, keys) in vocabulary::BLOCKS {
        let name = match all && vocabulary::may_route(owner) {
            true => "a stage".to_owned(),
            false => format!("`{owner}`"),
        };
        if has(keys) && !owners.contains(&name) {
            owners.push(name);
        }
    }
    let last = owners.pop()?;
    Some(if owners.is_empty() { last } else { format!("{} or {last}", owners.join(", ")) })
}

fn declared_there(diagnostic: Diagnostic, declared: Option<Span>) -> Diagnostic {
    match declared {
        Some(declared) => diagnostic.note(declared, "declared here"),
        None => diagnostic,
    }
}

/// The names that stand by themselves in an expression, not as calls or before a dot.
pub fn bare_names<'e>(expr: &'e Expr, found: &mut Vec<Spanned<&'e str>>) {
    match &expr.kind {
        ExprKind::Name(name) => found.push(Spanned::new(name, expr.span)),
        ExprKind::Unary { operand, .. } => bare_names(operand, found),
        ExprKind::Binary { left, right, .. } => {
            bare_names(left, found);
            bare_names(right, found);
        }
        _ => {}
    }
}
