//! Undeclared names, settings, arguments and words, and what was probably meant. A suggestion fits the place:
//! a function in a call, a domain in a comparison with a domain.

use crate::diag::{Code, Diagnostic, nearest, same_letters};
use crate::source::Span;
use crate::syntax::ast::{Argument, Entry, Expr, ExprKind, ItemKind, Name};

use crate::check::Checker;
use crate::check::builtins;
use crate::check::builtins::vocabulary::{self, SettingKey};
use crate::check::builtins::{Builtin, BuiltinKind};
use crate::check::formulas::signals::is_role;
use crate::check::names::foreign::{self, ForeignSetting, Spelling};
use crate::check::names::items::callable;
use crate::check::names::modules::import_edit;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// What a name can refer to where it stands, as far as the text around it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// `name(`
    Callable,
    /// `domain == name`, `family[name]`
    Key,
    Value,
}

/// An unknown setting's probable meaning.
pub(in crate::check) struct Meant {
    pub key: String,
    /// Whether the value fits that setting: it can be read as if the right key had been written.
    pub same_value: bool,
}

impl Checker {
    fn wanted(&self, span: Span) -> Wanted {
        let text = &self.sources.file(span.file).text;
        let (before, after) = (
            text[..span.start as usize].trim_end(),
            text[span.end as usize..].trim_start_matches([' ', '\t']),
        );
        if after.starts_with('(') {
            return Wanted::Callable;
        }
        let compared = ["==", "!="].iter().find_map(|sign| before.strip_suffix(sign));
        let indexed = before
            .strip_suffix('[')
            .is_some_and(|base| base.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
        match compared.is_some_and(|left| left.trim_end().ends_with("domain")) || indexed {
            true => Wanted::Key,
            false => Wanted::Value,
        }
    }

    /// The names that are visible at this place.
    fn candidates(&self, wanted: Wanted, env: &Env) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let declared = self.modules.names(env.module).filter(|name| {
            let declared = self.modules.lookup_silently(env.module, name);
            let kind = declared.map(|id| self.modules.tree(id.module).items[id.index].kind.clone());
            match (&kind, wanted) {
                (Some(kind), Wanted::Callable) => callable(kind).is_some(),
                (Some(kind), Wanted::Key) => matches!(kind, ItemKind::Domain { .. }),
                _ => true,
            }
        });
        found.extend(declared.map(str::to_owned));
        if wanted != Wanted::Callable {
            found.extend(env.locals.iter().map(|(name, _)| name.to_string()));
        }
        let stands_alone = |builtin: &&Builtin| {
            matches!(
                builtin.kind,
                BuiltinKind::Reward(_) | BuiltinKind::Constructor(_) | BuiltinKind::Optimizer(_)
            ) && wanted == Wanted::Value
        };
        found.extend(
            builtins::all()
                .iter()
                .filter(|b| wanted == Wanted::Callable || stands_alone(b))
                .map(|b| b.name.to_owned()),
        );
        if wanted == Wanted::Callable {
            found.extend(self.modules.standard_divergences().map(str::to_owned));
        }
        if wanted == Wanted::Value {
            found.extend(["domains", "self"].map(str::to_owned));
            if !matches!(env.context, EvaluationContext::Constant | EvaluationContext::Entry) {
                found.extend(vocabulary::SIGNALS.iter().map(|signal| signal.name.to_owned()));
            }
        }
        // The names of a module have no order.
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(in crate::check) fn unknown_name(&mut self, name: &str, span: Span, env: &Env) {
        // A body is evaluated at every use, and the search for suggestions is slow.
        let is_known = self
            .diagnostics
            .iter()
            .any(|known| known.code == Code::UnknownName && known.primary.span == span);
        if is_known || self.modules.is_lost(env.module, name) {
            // The name, or its import, has been reported.
            self.mark_uncacheable();
            return;
        }
        if env.context == EvaluationContext::Guard && self.wanted(span) != Wanted::Callable {
            self.no_step_number(name, span);
            return;
        }
        let in_formula = matches!(env.context, EvaluationContext::Objective | EvaluationContext::Term);
        if builtins::find_loss(name).is_some() {
            let diagnostic = Diagnostic::error(
                Code::UnknownName,
                span,
                format!("`{name}` means something after `live` only"),
            )
            .help(format!("write `live {name}(...)` in a term"));
            self.report(match in_formula {
                true => diagnostic.fix("write `live`", Span { end: span.start, ..span }, "live ").possibly(),
                false => diagnostic,
            });
            return;
        }
        let diagnostic =
            Diagnostic::error(Code::UnknownName, span, format!("cannot find `{name}` in this scope"))
                .label("not declared");
        if vocabulary::signal(name).is_some() {
            self.report(diagnostic.help(match env.context {
                EvaluationContext::Schedule => {
                    format!(
                        "`{name}` is not known for the run as a whole: a schedule reads `step` and `progress`"
                    )
                }
                _ => format!("`{name}` is a signal of the run: it can be read inside an objective only"),
            }));
            return;
        }
        let wanted = self.wanted(span);
        let candidates = self.candidates(wanted, env);
        let diagnostic = if let Some(same) = candidates.iter().find(|candidate| same_letters(candidate, name))
        {
            diagnostic.did_you_mean(name, same)
        } else if let Some(known) = foreign::name(name).filter(|known| fits(*known, wanted, in_formula)) {
            match known {
                Spelling::Name(ours) => diagnostic
                    .help(format!("here it is called `{ours}`"))
                    .replace_with(format!("write `{ours}`"), ours),
                Spelling::Otherwise(words) => diagnostic.help(words),
            }
        } else if let Some(module) = self.modules.of_library(name) {
            let import = format!("use std.{module}.{name}");
            let (place, text) = self.place_of_import(env, &import);
            diagnostic.help(format!("`std.{module}` has it: add `{import}`")).fix(
                format!("add `{import}`"),
                place,
                text,
            )
        } else if let modules @ [_, ..] = &self.modules_with(name)[..] {
            let listed: Vec<String> = modules.iter().map(|module| format!("`std.{module}`")).collect();
            let diagnostic = diagnostic.help(format!("{} have it: import one", listed.join(" and ")));
            modules.iter().fold(diagnostic, |diagnostic, module| {
                let import = format!("use std.{module}.{name}");
                let (place, text) = self.place_of_import(env, &import);
                diagnostic.choice(format!("add `{import}`"), place, text)
            })
        } else if let Some(signal) = in_formula.then(|| part_of_role(name)).flatten() {
            diagnostic.did_you_mean(name, &signal)
        } else if let Some(head) = self.loop_variable(name, span) {
            diagnostic
                .help(format!(
                    "`{name}` ranges over nothing here: begin the arm with `for {name} in domains:`"
                ))
                .fix("range over the domains", head, format!("for {name} in domains: "))
        } else if let Some(near) = nearest(name, candidates.iter().map(String::as_str))
            .or_else(|| begins_alike(wanted, name, &candidates))
        {
            diagnostic.did_you_mean(name, near)
        } else if wanted == Wanted::Key && !candidates.is_empty() {
            diagnostic.help(format!("there are: {}", candidates.join(", ")))
        } else if in_formula && wanted != Wanted::Callable {
            diagnostic.help(format!("if it is a field of the data, write `data.{name}`"))
        } else if wanted == Wanted::Value
            && self.sources.file(span.file).text[..span.start as usize].trim_end().ends_with("reward =")
        {
            diagnostic.help(
                "rewards are `exact_match`, `numeric`, `regex(\"...\")` and programs of yours: \
                 `command(\"python3 verify.py\")`",
            )
        } else {
            diagnostic
        };
        self.report(diagnostic);
    }

    /// The start of a route's arm that compares the domain with an undeclared short name: probably a
    /// forgotten `for d in domains:`.
    fn loop_variable(&self, name: &str, span: Span) -> Option<Span> {
        let text = &self.sources.file(span.file).text;
        let line = text[..span.start as usize].rfind(['{', '\n', ',']).map_or(0, |at| at + 1);
        let before = &text[line..span.start as usize];
        let start = line + before.len() - before.trim_start().len();
        let alone = name.len() <= 2 && before.trim() == "domain ==";
        alone.then(|| Span::new(span.file, start, start))
    }

    fn modules_with(&self, name: &str) -> Vec<String> {
        self.modules.all_of_library(name).map(str::to_owned).collect()
    }

    /// Where a `use` can be inserted into the file of `env`, and its text.
    fn place_of_import(&self, env: &Env, import: &str) -> (Span, String) {
        let (file, tree) = (self.modules.file(env.module), self.modules.tree(env.module));
        let (at, text) = import_edit(&tree, &self.sources.file(file).text, import);
        (Span { file, start: at, end: at }, text)
    }

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

    /// Reports a setting that the block does not have. `set` are the settings that are already written; none
    /// of them was meant.
    pub(in crate::check) fn unknown_setting(
        &mut self,
        entry: &Entry,
        owner: &str,
        keys: &[SettingKey],
        set: &[&str],
    ) -> Option<Meant> {
        let name = entry.key.text.as_str();
        let known = vocabulary::names(keys);
        let diagnostic =
            Diagnostic::error(Code::UnknownKey, entry.key.span, format!("{owner} has no setting `{name}`"));
        let free: Vec<&str> = known.iter().copied().filter(|key| !set.contains(key)).collect();
        if let Some(same) = free.iter().find(|key| same_letters(key, name)) {
            self.report(diagnostic.did_you_mean(name, same));
            return Some(Meant { key: (*same).to_owned(), same_value: true });
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
            return setting.key().map(|key| Meant {
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
                Some(Meant { key: near.to_owned(), same_value: similar })
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
            // Axes have names here, where other libraries use numbers.
            (None, Some(ForeignSetting::Is("over"))) => {
                diagnostic.help("an axis is named: `over: sequence`, `over: group`, `over: batch`, ...")
            }
            (None, Some(ForeignSetting::Is(key))) => diagnostic
                .help(format!("here it is called `{key}`"))
                .replace_with(format!("change to `{key}`"), key),
            // A declared name that is nearly the same was meant, whatever other tools call so.
            (None, Some(setting @ ForeignSetting::Otherwise(_)))
                if declared.is_none() || nearest(&name.text, known.iter().copied()).is_none() =>
            {
                diagnostic.help(setting.help())
            }
            _ => match (foreign::key(&name.text, known), known) {
                (Some((near, _)), _) => diagnostic.did_you_mean(&name.text, near),
                // The only argument that there is.
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

    /// The replacement of a quoted text, if the text is one of `words` or a number: probably the quotes are
    /// wrong.
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

/// Whether a foreign name's counterpart makes sense where the name stands.
fn fits(known: Spelling, wanted: Wanted, in_formula: bool) -> bool {
    let Spelling::Name(ours) = known else { return wanted != Wanted::Key };
    let signal = ours.contains('.') || vocabulary::signal(ours).is_some();
    match (signal, builtins::find(ours)) {
        (true, _) => in_formula && wanted == Wanted::Value,
        (false, Some(builtin)) => {
            wanted == Wanted::Callable
                || wanted == Wanted::Value && matches!(builtin.kind, BuiltinKind::Reward(_))
        }
        (false, None) => builtins::find_loss(ours).is_some(),
    }
}

/// The only domain with the same first letters: there are few domains, so few letters are enough.
fn begins_alike<'c>(wanted: Wanted, name: &str, candidates: &'c [String]) -> Option<&'c str> {
    let head = name.get(..3).filter(|_| wanted == Wanted::Key)?;
    let mut alike = candidates.iter().filter(|candidate| candidate.starts_with(head));
    alike.next().filter(|_| alike.next().is_none()).map(String::as_str)
}

/// `student.entropy` for `student_entropy`.
fn part_of_role(name: &str) -> Option<String> {
    let (role, part) = name.split_once('_')?;
    let known = vocabulary::PARTS.iter().any(|known| known.name == part);
    (is_role(role) && known).then(|| format!("{role}.{part}"))
}

/// The names that an expression reads on their own, with nothing before or after them.
pub(in crate::check) fn bare_names<'e>(expr: &'e Expr, found: &mut Vec<(&'e str, Span)>) {
    match &expr.kind {
        ExprKind::Name(name) => found.push((name, expr.span)),
        ExprKind::Unary { operand, .. } => bare_names(operand, found),
        ExprKind::Binary { left, right, .. } => {
            bare_names(left, found);
            bare_names(right, found);
        }
        _ => {}
    }
}
