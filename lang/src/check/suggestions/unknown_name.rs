//! Reports undeclared names, with suggestions. A suggestion must fit the place: a function in a call, a
//! domain in a comparison with a domain.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, folded, nearest};
use crate::source::Span;
use crate::syntax::ast::ItemKind;
use mopd_experiment::formula::StepNumber;

use crate::check::builtins::kinds::ArgumentKind;
use crate::check::builtins::reserved::is_role;
use crate::check::builtins::{self, Builtin, BuiltinKind, vocabulary};
use crate::check::declarations::Declarations;
use crate::check::names::callable::callable;
use crate::check::names::candidates::{CandidateList, ExpectedName};
use crate::check::names::modules::import_edit;
use crate::check::reporter::Reporter;
use crate::check::suggestions::expected_kind;
use crate::check::suggestions::foreign::{self, Spelling};
use crate::check::suggestions::unknown::{self, without_quotes};
use crate::check::values::environment::{Env, EvaluationContext};

/// An undeclared name, and what its suggestions look at.
struct UnknownName<'a> {
    name: &'a str,
    span: Span,
    env: &'a Env,
    wanted: ExpectedName,
    in_formula: bool,
    list: Rc<CandidateList>,
    /// Sorted names of the expression itself that are not in the list.
    locals: Vec<&'a str>,
    /// What the setting takes whose value it is.
    taken: Vec<ArgumentKind>,
}

/// The diagnostic with a suggestion, if this kind of suggestion fits.
type Suggest = fn(&Declarations, &UnknownName) -> Option<Diagnostic>;

pub fn unknown_name(declarations: &mut Declarations, name: &str, span: Span, env: &Env) {
    // A body is evaluated at every use.
    if declarations.diagnostics.is_reported(Code::UnknownName, span)
        || declarations.modules.is_lost(env.module, name)
    {
        return; // The name, or its import, has been reported.
    }
    if env.context == EvaluationContext::Guard && wanted(declarations, span) != ExpectedName::Callable {
        no_step_number(declarations, name, span);
        return;
    }
    let in_formula = matches!(env.context, EvaluationContext::Objective | EvaluationContext::Term);
    if builtins::find_loss(name).is_some() {
        let diagnostic =
            Diagnostic::error(Code::UnknownName, span, format!("`{name}` means something after `live` only"))
                .help(format!("write `live {name}(...)` in a term"));
        declarations.report(match in_formula {
            true => diagnostic.fix("write `live`", Span { end: span.start, ..span }, "live ").possibly(),
            false => diagnostic,
        });
        return;
    }
    if name == "domain" && declarations.key_before(span).is_some_and(|key| key == "on") {
        let names: Vec<String> =
            declarations.parts.domains.iter().map(|domain| domain.name.clone()).collect();
        let listed = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        let help = format!("`on` takes a domain by its name{listed}; all of them are `domains`");
        declarations
            .report(undeclared(name, span).help(help).fix("write `domains`", span, "domains").possibly());
        return;
    }
    if vocabulary::signal(name).is_some() {
        declarations.report(undeclared(name, span).help(match env.context {
            EvaluationContext::Schedule => {
                format!(
                    "`{name}` is not known for the run as a whole: a schedule reads `step` and `progress`"
                )
            }
            _ => format!("`{name}` is a signal of the run: it can be read inside an objective only"),
        }));
        return;
    }
    let wanted = wanted(declarations, span);
    let list = candidates(declarations, wanted, env);
    let taken = expected_kind::taken(&declarations.sources.file(span.file).text, span);
    let mut locals: Vec<&str> = match wanted {
        ExpectedName::Callable => Vec::new(),
        _ => env.locals.iter().map(|(name, _)| &**name).collect(),
    };
    locals.retain(|local| list.names.binary_search_by(|known| known.as_str().cmp(local)).is_err());
    locals.sort_unstable();
    locals.dedup();
    let unknown = UnknownName { name, span, env, wanted, in_formula, list, locals, taken };
    // The first that fits is the likeliest.
    const SUGGESTIONS: [Suggest; 17] = [
        same_letters,
        placeholder,
        text_without_quotes,
        case_left_over,
        state_by_its_kind,
        module_path,
        trainer,
        other_side,
        foreign_name,
        import,
        one_of_several_imports,
        signal_of_a_role,
        loop_over_domains,
        similar,
        known_keys,
        field_of_the_data,
        reward,
    ];
    let suggested = SUGGESTIONS.iter().find_map(|suggest| suggest(declarations, &unknown));
    declarations.report(suggested.unwrap_or_else(|| unknown.diagnostic()));
}

/// `steps = TODO`
fn placeholder(_: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let is_one = matches!(unknown.name, "TODO" | "FIXME" | "XXX" | "TBD" | "todo" | "REQUIRED");
    is_one.then(|| {
        let diagnostic = unknown.diagnostic();
        match unknown.wanted {
            ExpectedName::Value => diagnostic.help("a value is missing here: write one"),
            _ => diagnostic.help("a name is missing here: write one"),
        }
    })
}

/// `env(TEACHER_URL)`, `served(vllm, ...)`: where a call takes a text.
fn text_without_quotes(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let before = declarations.sources.file(unknown.span.file).text[..unknown.span.start as usize].trim_end();
    let before = before.strip_suffix('(')?;
    let callee = &before[before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len()..];
    let first = builtins::find(callee)?.parameters.first()?;
    let takes_text = matches!(first.takes, ArgumentKind::Text | ArgumentKind::Texts | ArgumentKind::Secret)
        || callee == "served"
        || callee == "sampled_by";
    // `file(prompts/shown.txt)`: all of it is meant.
    let text = &declarations.sources.file(unknown.span.file).text[unknown.span.start as usize..];
    let whole = &text[..text.find([')', ',', '\n']).unwrap_or(text.len())];
    let is_path = whole.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/.-~".contains(&byte));
    (takes_text && is_path && unknown.wanted == ExpectedName::Value).then(|| {
        let ours = format!("\"{whole}\"");
        let help = format!("`{callee}` takes a text in quotes: `{ours}`");
        let span = Span { end: unknown.span.start + whole.len() as u32, ..unknown.span };
        unknown.diagnostic().help(help).fix("write quotes", span, ours)
    })
}

/// `default -> guide`
fn case_left_over(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let after = &declarations.sources.file(unknown.span.file).text[unknown.span.end as usize..];
    let is_arm = matches!(unknown.name, "default" | "otherwise" | "others" | "rest" | "_")
        && after.trim_start_matches([' ', '\t']).starts_with("->");
    is_arm.then(|| {
        let help = "the remaining cases are written `else -> ...`";
        unknown.diagnostic().help(help).replace_with("write `else`", "else")
    })
}

/// `state.price` in the objective that has the state.
fn state_by_its_kind(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let after = &declarations.sources.file(unknown.span.file).text[unknown.span.end as usize..];
    let rest = after.strip_prefix('.').filter(|_| unknown.name == "state" && unknown.in_formula)?;
    let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let state = &rest[..length];
    unknown.env.local(state)?;
    let whole = Span { end: unknown.span.end + 1 + length as u32, ..unknown.span };
    let help = format!("within its objective, a state is read by its name: `{state}`");
    Some(unknown.diagnostic().help(help).fix(format!("write `{state}`"), whole, state))
}

/// `GRPOTrainer(...)`, `SFTConfig(...)`
fn trainer(_: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let stem =
        ["Trainer", "Config", "Arguments", "Stage"].iter().find_map(|end| unknown.name.strip_suffix(end))?;
    let ours = match stem.to_ascii_lowercase().as_str() {
        "gkd" | "distillation" | "opd" | "kd" => "distill".to_owned(),
        "ppo" | "rloo" | "rl" => "grpo".to_owned(),
        stem => stem.to_owned(),
    };
    let builtin = builtins::find(&ours).filter(|known| matches!(known.kind, BuiltinKind::Constructor(_)))?;
    let help = format!("here it is a stage: `{}`", builtin.usage);
    Some(unknown.diagnostic().help(help).replace_with(format!("write `{ours}`"), ours))
}

/// `p` in the body of a `sum h(q) = ...`
fn other_side(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let (other, text) = match unknown.name {
        "p" => ("q", &declarations.sources.file(unknown.span.file).text),
        "q" => ("p", &declarations.sources.file(unknown.span.file).text),
        _ => return None,
    };
    let line_start = text[..unknown.span.start as usize].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].trim_start().trim_start_matches("pub ");
    line.starts_with("sum ").then(|| {
        unknown.diagnostic().help(format!(
            "a `sum` is of one distribution, whose probability is `{other}`; two are compared by a `divergence`"
        ))
    })
}

fn wanted(reporter: &Reporter, span: Span) -> ExpectedName {
    let text = &reporter.sources.file(span.file).text;
    let (before, after) =
        (text[..span.start as usize].trim_end(), text[span.end as usize..].trim_start_matches([' ', '\t']));
    if after.starts_with('(') {
        return ExpectedName::Callable;
    }
    let compared = ["==", "!="].iter().find_map(|sign| before.strip_suffix(sign));
    let indexed = before
        .strip_suffix('[')
        .is_some_and(|base| base.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
    match compared.is_some_and(|left| left.trim_end().ends_with("domain")) || indexed {
        true => ExpectedName::Key,
        false => ExpectedName::Value,
    }
}

/// The names that are visible in a module at places of this kind.
fn candidates(declarations: &mut Declarations, wanted: ExpectedName, env: &Env) -> Rc<CandidateList> {
    let signals = wanted == ExpectedName::Value
        && !matches!(env.context, EvaluationContext::Constant | EvaluationContext::Entry);
    let key = (env.module, wanted, signals);
    if let Some(known) = declarations.candidates.lists.get(&key) {
        return Rc::clone(known);
    }
    let declared = declarations.modules.names(env.module).filter(|name| {
        let declared = declarations.modules.lookup(env.module, name);
        match (declared.map(|declared| &declarations.modules.item(declared.item).kind), wanted) {
            (Some(kind), ExpectedName::Callable) => callable(kind).is_some(),
            (Some(kind), ExpectedName::Key) => matches!(kind, ItemKind::Domain { .. }),
            _ => true,
        }
    });
    let mut found: Vec<String> = declared.map(str::to_owned).collect();
    let stands_alone = |builtin: &&Builtin| {
        matches!(
            builtin.kind,
            BuiltinKind::Reward(_) | BuiltinKind::Constructor(_) | BuiltinKind::Optimizer(_)
        ) && wanted == ExpectedName::Value
    };
    found.extend(
        builtins::all()
            .iter()
            .filter(|b| wanted == ExpectedName::Callable || stands_alone(b))
            .map(|b| b.name.to_owned()),
    );
    if wanted == ExpectedName::Callable {
        found.extend(declarations.modules.standard_divergences().map(str::to_owned));
    }
    if wanted == ExpectedName::Value {
        found.extend(["domains", "self"].map(str::to_owned));
    }
    if signals {
        found.extend(vocabulary::SIGNALS.iter().map(|signal| signal.name.to_owned()));
    }
    let list = Rc::new(CandidateList::new(found));
    declarations.candidates.lists.insert(key, Rc::clone(&list));
    list
}

/// The start of a route's arm that compares the domain with an undeclared short name. Probably
/// `for d in domains:` was forgotten.
fn loop_variable(reporter: &Reporter, name: &str, span: Span) -> Option<Span> {
    let text = &reporter.sources.file(span.file).text;
    let line = text[..span.start as usize].rfind(['{', '\n', ',']).map_or(0, |at| at + 1);
    let before = &text[line..span.start as usize];
    let start = line + before.len() - before.trim_start().len();
    let alone = name.len() <= 2 && before.trim() == "domain ==";
    alone.then(|| Span::new(span.file, start, start))
}

/// Reports `domain == "math"`.
pub fn domain_in_quotes(declarations: &mut Declarations, text: &str, span: Span) {
    let names: Vec<String> =
        declarations.parts.domains.iter().map(|domain| format!("`{}`", domain.name)).collect();
    let known = declarations.parts.domains.iter().any(|domain| domain.name == text);
    let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "a domain is compared with a text")
        .label("a domain is named without quotes");
    let diagnostic = match known.then(|| unknown::unquoted(declarations, span, text, |_| true)).flatten() {
        Some(bare) => without_quotes(diagnostic, Some(bare)),
        None => diagnostic.help(format!("domains: {}", names.join(", "))),
    };
    declarations.report(diagnostic);
}

/// The place in the file of `env` where a `use` can be inserted, and its text.
fn place_of_import(declarations: &Declarations, env: &Env, import: &str) -> (Span, String) {
    let (file, tree) = (declarations.modules.file(env.module), declarations.modules.tree(env.module));
    let (at, text) = import_edit(&tree, &declarations.sources.file(file).text, import);
    (Span { file, start: at, end: at }, text)
}

/// The diagnostic for `domains == d`.
pub fn all_domains(span: Span) -> Diagnostic {
    Diagnostic::error(Code::TypeMismatch, span, "a list of domains is compared with one domain")
        .label("all domains")
        .help("the prompt's own domain is `domain`")
        .replace_with("write `domain`", "domain")
}

fn undeclared(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error(Code::UnknownName, span, format!("cannot find `{name}` in this scope"))
        .label("not declared")
}

impl UnknownName<'_> {
    fn diagnostic(&self) -> Diagnostic {
        undeclared(self.name, self.span)
    }

    /// All names that it may have meant, those of the list first.
    fn candidates(&self, declarations: &Declarations) -> impl Iterator<Item = &str> {
        let names = self.list.names.iter().map(String::as_str).chain(self.locals.iter().copied());
        names.filter(|name| self.may_be(declarations, name))
    }

    /// Whether a name is of a kind that may stand here.
    fn may_be(&self, declarations: &Declarations, name: &str) -> bool {
        let declared = declarations.modules.lookup(self.env.module, name);
        declared.is_none_or(|declared| {
            expected_kind::may_be(&declarations.modules.item(declared.item).kind, &self.taken)
        })
    }
}

fn same_letters(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let letters = folded(unknown.name);
    let listed = unknown.list.by_letters.get(&letters).map(|index| unknown.list.names[*index].as_str());
    let local = unknown.locals.iter().copied().find(|local| folded(local) == letters);
    let same = listed.into_iter().chain(local).filter(|name| unknown.may_be(declarations, name)).min()?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, same))
}

/// `std.opd.mopd` in an expression.
fn module_path(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let text = &declarations.sources.file(unknown.span.file).text[unknown.span.start as usize..];
    let end = text.find(|character: char| !(character.is_alphanumeric() || "_.".contains(character)));
    let path = &text[..end.unwrap_or(text.len())];
    // `opd.mopd`
    if let Some((module, name)) = path.split_once('.')
        && declarations.modules.all_of_library(name).any(|known| known == module)
    {
        let help = format!("import it at the top of the file, `use std.{path}`, and write `{name}` here");
        return Some(unknown.diagnostic().help(help));
    }
    let name = path.strip_prefix("std.")?.rsplit('.').next().filter(|name| !name.is_empty())?;
    let help = format!("import it at the top of the file, `use {path}`, and write `{name}` here");
    Some(unknown.diagnostic().help(help))
}

/// The name of another tool.
fn foreign_name(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let known = foreign::name(unknown.name)?;
    if known == Spelling::Name("kl") && !is_directed(declarations, unknown.span) {
        // PyTorch's order of the sides is the other one, so the name alone must not be replaced.
        return Some(unknown.diagnostic().help(DIRECTION_OF_PYTORCH));
    }
    fits(declarations, known, unknown.wanted, unknown.in_formula).then(|| match known {
        Spelling::Name(ours) => unknown
            .diagnostic()
            .help(format!("here it is called `{ours}`"))
            .replace_with(format!("write `{ours}`"), ours),
        Spelling::Otherwise(words) => unknown.diagnostic().help(words),
    })
}

pub const DIRECTION_OF_PYTORCH: &str = "`kl(p || q)` names its sides in the order of the formula; PyTorch's `kl_div(q, p)` is `kl(p || q)`, so \
     `kl_div(student, teacher)` is `kl(teacher || student)`";

/// Whether the sides of a called divergence are separated by `||`.
fn is_directed(declarations: &Declarations, callee: Span) -> bool {
    let after = &declarations.sources.file(callee.file).text[callee.end as usize..];
    after.lines().next().is_some_and(|line| line.contains("||"))
}

/// A name of one module of the standard library.
fn import(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let module = declarations.modules.of_library(name)?;
    let import = format!("use std.{module}.{name}");
    let (place, text) = place_of_import(declarations, unknown.env, &import);
    let diagnostic = unknown.diagnostic().help(format!("`std.{module}` has it: add `{import}`"));
    Some(diagnostic.fix(format!("add `{import}`"), place, text))
}

fn one_of_several_imports(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let modules: Vec<&str> = declarations.modules.all_of_library(name).collect();
    if modules.len() < 2 {
        return None;
    }
    let listed: Vec<String> = modules.iter().map(|module| format!("`std.{module}`")).collect();
    let diagnostic = unknown.diagnostic().help(format!("{} have it: import one", listed.join(" and ")));
    Some(modules.iter().fold(diagnostic, |diagnostic, module| {
        let import = format!("use std.{module}.{name}");
        let (place, text) = place_of_import(declarations, unknown.env, &import);
        diagnostic.choice(format!("add `{import}`"), place, text)
    }))
}

fn signal_of_a_role(_: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let signal = unknown.in_formula.then(|| part_of_role(unknown.name)).flatten()?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, &signal))
}

fn loop_over_domains(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let head = loop_variable(declarations, name, unknown.span)?;
    let help = format!("`{name}` ranges over nothing here: begin the arm with `for {name} in domains:`");
    let fix = format!("for {name} in domains: ");
    Some(unknown.diagnostic().help(help).fix("range over the domains", head, fix))
}

fn similar(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let near = nearest(unknown.name, unknown.candidates(declarations))
        .or_else(|| begins_alike(declarations, unknown))?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, near))
}

fn known_keys(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let mut keys: Vec<&str> = unknown.candidates(declarations).collect();
    if unknown.wanted != ExpectedName::Key || keys.is_empty() {
        return None;
    }
    keys.sort_unstable();
    Some(unknown.diagnostic().help(format!("there are: {}", keys.join(", "))))
}

fn field_of_the_data(_: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let fits = unknown.in_formula && unknown.wanted != ExpectedName::Callable;
    let help = || {
        format!(
            "declare it, `let {0} = ...`, or as a parameter, `objective name({0}: real = 0.1)`; a field of the \
             data is `data.{0}`",
            unknown.name
        )
    };
    fits.then(|| unknown.diagnostic().help(help()))
}

fn reward(declarations: &Declarations, unknown: &UnknownName) -> Option<Diagnostic> {
    let before = &declarations.sources.file(unknown.span.file).text[..unknown.span.start as usize];
    let fits = unknown.wanted == ExpectedName::Value && before.trim_end().ends_with("reward =");
    fits.then(|| {
        unknown.diagnostic().help(
            "rewards are `exact_match`, `numeric`, `regex(\"...\")` and programs of yours: \
             `command(\"python3 verify.py\")`",
        )
    })
}

/// Whether the counterpart of a foreign name fits the place of the name.
fn fits(declarations: &Declarations, known: Spelling, wanted: ExpectedName, in_formula: bool) -> bool {
    let Spelling::Name(ours) = known else { return wanted != ExpectedName::Key };
    let signal = ours.contains('.') || vocabulary::signal(ours).is_some();
    match (signal, builtins::find(ours)) {
        (true, _) => in_formula && wanted == ExpectedName::Value,
        (false, Some(builtin)) => {
            wanted == ExpectedName::Callable
                || wanted == ExpectedName::Value && matches!(builtin.kind, BuiltinKind::Reward(_))
        }
        (false, None) => {
            builtins::find_loss(ours).is_some()
                || wanted == ExpectedName::Callable
                    && declarations.modules.standard_divergences().any(|name| name == ours)
        }
    }
}

/// The only domain with the same first three letters. Domains are few, so three letters are enough.
fn begins_alike<'u>(declarations: &Declarations, unknown: &'u UnknownName) -> Option<&'u str> {
    let head = unknown.name.get(..3).filter(|_| unknown.wanted == ExpectedName::Key)?;
    let mut alike = unknown.candidates(declarations).filter(|candidate| candidate.starts_with(head));
    alike.next().filter(|_| alike.next().is_none())
}

/// `student.entropy` for `student_entropy`.
fn part_of_role(name: &str) -> Option<String> {
    let (role, part) = name.split_once('_')?;
    let known = vocabulary::PARTS.iter().any(|known| known.name == part);
    (is_role(role) && known).then(|| format!("{role}.{part}"))
}

pub fn no_step_number(reporter: &mut Reporter, name: &str, span: Span) {
    let text = format!("a guard reads numbers of whole steps, and `{name}` is none of them");
    let diagnostic = Diagnostic::error(Code::UnknownName, span, text);
    let known = StepNumber::ALL.map(StepNumber::name);
    reporter.report(match nearest(name, known) {
        Some(near) => diagnostic.did_you_mean(name, near),
        None => diagnostic.help(format!("it may read: {}", StepNumber::names())),
    });
}
