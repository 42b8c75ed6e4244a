//! Reports unknown settings, arguments, methods and libraries, with suggestions.

use crate::diag::{Code, Diagnostic, nearest, same_letters};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Entry, Expr, ExprKind, Name};

use crate::check::Checker;
use crate::check::builtins;
use crate::check::builtins::vocabulary::{self, SettingKey};
use crate::check::names::foreign::{self, ForeignSetting, Spelling};
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

/// The setting that an unknown one was probably meant for.
pub(in crate::check) struct SuggestedSetting {
    pub key: String,
    /// Whether the value fits that setting, so that the entry can be read as if the key were right.
    pub same_value: bool,
}

impl Checker {
    /// `torch.clamp`, `AutoModelForCausalLM.from_pretrained`: suggests the built-in for it.
    pub(in crate::check) fn foreign_library(&mut self, library: &str, field: &Name, span: Span) -> Value {
        let ours =
            builtins::find(&field.text).map(|builtin| builtin.name).or(match foreign::name(&field.text) {
                Some(Spelling::Name(ours)) => Some(ours),
                _ => None,
            });
        let text = format!("cannot find `{library}.{}` in this scope", field.text);
        let diagnostic =
            Diagnostic::error(Code::UnknownName, span, text).label("there are no libraries of Python here");
        let builtin = ours.and_then(builtins::find);
        self.report(match (ours, foreign::name(&field.text)) {
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
    pub(in crate::check) fn method(
        &mut self,
        base: &Expr,
        field: &Name,
        arguments: &[Argument],
        whole: Span,
        env: &Env,
    ) -> Option<Value> {
        let value = self.evaluate(base, env);
        let Value::Formula(formula) = &value else { return Some(value).filter(Value::is_error) };
        let written = self.sources.text(base.span).to_owned();
        let text = format!("numbers have no methods, and `{}` would be one", field.text);
        let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
        let diagnostic = match field.text.as_str() {
            "detach" | "item" | "stop_gradient" | "float" | "data" | "cpu" => {
                let diagnostic = diagnostic
                    .help("nothing needs to be detached: only what is marked `live` carries gradient");
                self.report(diagnostic.fix(format!("write `{written}`"), whole, written));
                return Some(value);
            }
            "clamp" | "clip" => diagnostic.help(format!("write `clip({written}, low, high)`")),
            "mean" | "sum" | "min" | "max" if arguments.is_empty() => diagnostic
                .help(format!("write `{}({written}, over: sequence)`, or over another axis", field.text)),
            name if builtins::find(name).is_some_and(|builtin| builtin.required() == 1)
                && arguments.is_empty() =>
            {
                let ours = format!("{name}({written})");
                diagnostic.help(format!("write `{ours}`")).fix(format!("write `{ours}`"), whole, ours)
            }
            name if builtins::find(name).is_some() => {
                diagnostic.help(format!("write `{name}({written}, ...)`"))
            }
            _ => {
                diagnostic.help("a function stands before its arguments: `exp(x)`, `mean(x, over: sequence)`")
            }
        };
        let _ = formula;
        self.report(diagnostic);
        Some(Value::Error)
    }

    /// Reports a setting that the block does not have. `set` are the settings that are already written, which
    /// are not suggested.
    pub(in crate::check) fn unknown_setting(
        &mut self,
        entry: &Entry,
        owner: &str,
        keys: &[SettingKey],
        set: &[&str],
    ) -> Option<SuggestedSetting> {
        let name = entry.key.text.as_str();
        let known = vocabulary::names(keys);
        let diagnostic =
            Diagnostic::error(Code::UnknownKey, entry.key.span, format!("{owner} has no setting `{name}`"));
        let free: Vec<&str> = known.iter().copied().filter(|key| !set.contains(key)).collect();
        if let Some(same) = free.iter().find(|key| same_letters(key, name)) {
            self.report(diagnostic.did_you_mean(name, same));
            return Some(SuggestedSetting { key: (*same).to_owned(), same_value: true });
        }
        if let Some(setting) = foreign::setting(name, &known, &free) {
            let value = self.sources.text(entry.value.span);
            let whole = entry.key.span.to(entry.value.span);
            let diagnostic = diagnostic.help(setting.help());
            self.report(match (setting, setting.written(value)) {
                (ForeignSetting::Is(key), _) => diagnostic.replace_with(format!("change to `{key}`"), key),
                (_, Some(written)) => diagnostic.fix(format!("write `{written}`"), whole, written),
                _ => diagnostic,
            });
            return setting.key().map(|key| SuggestedSetting {
                key: key.to_owned(),
                same_value: matches!(setting, ForeignSetting::Is(_)),
            });
        }
        // A setting that another one replaces: `max_grad_norm` beside an `optimizer`.
        if let Some(setting @ (ForeignSetting::Within { .. } | ForeignSetting::Otherwise(_))) =
            foreign::setting(name, &known, &known)
        {
            self.report(diagnostic.help(setting.help()));
            return None;
        }
        match foreign::key(name, &free) {
            _ if name == "seed" && known.contains(&"steps") => {
                let help = "one seed is of the whole experiment: `experiment \"name\" { seed = 1 }`";
                self.report(diagnostic.help(help));
                None
            }
            Some((near, similar)) => {
                self.report(diagnostic.did_you_mean(name, near).possibly());
                Some(SuggestedSetting { key: near.to_owned(), same_value: similar })
            }
            None => {
                let help = match (name, known.contains(&"rollout")) {
                    ("samples" | "max_tokens" | "temperature" | "top_p" | "top_k" | "n", true) => {
                        let inside = if name == "samples" { "n" } else { name };
                        format!("it belongs to the rollout: `rollout = sample(..., {inside}: ...)`")
                    }
                    _ => format!("it has: {}", known.join(", ")),
                };
                self.report(diagnostic.help(help));
                None
            }
        }
    }

    pub(in crate::check) fn unknown_argument(
        &mut self,
        callee: &str,
        argument: &Argument,
        known: &[&str],
        declared: Option<Span>,
    ) {
        let Some(name) = &argument.name else {
            let count = known.len();
            let text = format!("`{callee}` takes {count} argument{}", if count == 1 { "" } else { "s" });
            let diagnostic =
                Diagnostic::error(Code::UnknownArgument, argument.value.span, text).label("one too many");
            return self.report(declared_there(diagnostic, declared));
        };
        let text = format!("`{callee}` has no argument `{}`", name.text);
        let diagnostic = declared_there(Diagnostic::error(Code::UnknownArgument, name.span, text), declared);
        let same = known.iter().find(|key| same_letters(key, &name.text));
        let takes = || match known.is_empty() {
            true => "it takes none".to_owned(),
            false => format!("it takes: {}", known.join(", ")),
        };
        let diagnostic = match (same, foreign::setting(&name.text, known, known)) {
            (Some(same), _) => diagnostic.did_you_mean(&name.text, same),
            // Axes are names in the language; other libraries use numbers.
            (None, Some(ForeignSetting::Is("over"))) => {
                diagnostic.help("an axis is named: `over: sequence`, `over: group`, `over: batch`, ...")
            }
            (None, Some(ForeignSetting::Is(key))) => diagnostic
                .help(format!("here it is called `{key}`"))
                .replace_with(format!("change to `{key}`"), key),
            // A declared name that is almost the same is preferred to the counterpart of another tool's name.
            (None, Some(setting @ ForeignSetting::Otherwise(_)))
                if declared.is_none() || nearest(&name.text, known.iter().copied()).is_none() =>
            {
                diagnostic.help(setting.help())
            }
            _ => match (foreign::key(&name.text, known), known) {
                (Some((near, _)), _) => diagnostic.did_you_mean(&name.text, near),
                // There is only one argument left to suggest.
                (None, [only]) => {
                    diagnostic.help(takes()).replace_with(format!("change to `{only}`"), *only).possibly()
                }
                _ => diagnostic.help(takes()),
            },
        };
        self.report(diagnostic);
    }

    /// Whether a file declares or imports a name.
    pub(in crate::check) fn is_declared(&self, file: crate::source::FileId, name: &str) -> bool {
        self.modules
            .files()
            .any(|(module, of)| of == file && self.modules.lookup_silently(module, name).is_some())
    }

    /// The replacement of a quoted text by the bare one, if that is one of `words` or a number. Probably the
    /// quotes are wrong.
    pub(in crate::check) fn unquoted(
        &self,
        span: Span,
        text: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let whole = self.sources.text(span);
        (whole == format!("\"{text}\"") && fits(text)).then(|| text.to_owned())
    }
}

/// A diagnostic for a text where something else is needed: without its quotes it might fit.
pub(in crate::check) fn without_quotes(diagnostic: Diagnostic, unquoted: Option<String>) -> Diagnostic {
    match unquoted {
        Some(bare) => {
            let diagnostic = diagnostic.help(format!("without quotes: `{bare}`"));
            let span = diagnostic.primary.span;
            diagnostic.fix("remove the quotes", span, bare)
        }
        None => diagnostic,
    }
}

fn declared_there(diagnostic: Diagnostic, declared: Option<Span>) -> Diagnostic {
    match declared {
        Some(declared) => diagnostic.note(declared, "declared here"),
        None => diagnostic,
    }
}

/// The names that stand by themselves in an expression, not as calls or before a dot.
pub(in crate::check) fn bare_names<'e>(expr: &'e Expr, found: &mut Vec<Spanned<&'e str>>) {
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
