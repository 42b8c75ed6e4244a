//! Reports undeclared names, with suggestions. A suggestion must fit the place: a function in a call, a
//! domain in a comparison with a domain.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic, folded, nearest};
use crate::source::Span;
use crate::syntax::ast::ItemKind;

use crate::check::Checker;
use crate::check::builtins;
use crate::check::builtins::vocabulary::{self, ArgumentKind};
use crate::check::builtins::{Builtin, BuiltinKind};
use crate::check::formulas::signals::is_role;
use crate::check::names::expected_kind;
use crate::check::names::foreign::{self, Spelling};
use crate::check::names::items::callable;
use crate::check::names::modules::{ModuleId, import_edit};
use crate::check::names::unknown::without_quotes;
use crate::check::values::evaluate::{Env, EvaluationContext};

/// The kind of name that fits a place, judged by the text around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ExpectedName {
    /// `name(`
    Callable,
    /// `domain == name`, `family[name]`
    Key,
    Value,
}

/// The names that an unknown one may have meant, besides those of its expression. A file with many unknown
/// names asks for the same lists again and again.
#[derive(Default)]
pub(in crate::check) struct NameCandidates {
    /// By module, kind of name, and whether signals are visible.
    lists: FxHashMap<(ModuleId, ExpectedName, bool), Rc<CandidateList>>,
}

#[derive(Default)]
struct CandidateList {
    /// Sorted, without duplicates.
    names: Vec<String>,
    /// The first of the names with these letters, in lower case and without underscores.
    by_letters: FxHashMap<String, usize>,
}

impl CandidateList {
    fn new(mut names: Vec<String>) -> CandidateList {
        names.sort_unstable();
        names.dedup();
        let mut by_letters = FxHashMap::default();
        for (index, name) in names.iter().enumerate() {
            by_letters.entry(folded(name)).or_insert(index);
        }
        CandidateList { names, by_letters }
    }
}

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
type Suggest = fn(&Checker, &UnknownName) -> Option<Diagnostic>;

impl Checker {
    pub(in crate::check) fn unknown_name(&mut self, name: &str, span: Span, env: &Env) {
        // A body is evaluated at every use.
        if self.diagnostics.is_reported(Code::UnknownName, span) || self.modules.is_lost(env.module, name) {
            return; // The name, or its import, has been reported.
        }
        if env.context == EvaluationContext::Guard && self.wanted(span) != ExpectedName::Callable {
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
        if name == "domain" && self.key_before(span).is_some_and(|key| key == "on") {
            let names: Vec<String> = self.parts.domains.iter().map(|domain| domain.name.clone()).collect();
            let listed = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
            let help = format!("`on` takes a domain by its name{listed}; all of them are `domains`");
            self.report(undeclared(name, span).help(help).fix("write `domains`", span, "domains").possibly());
            return;
        }
        if vocabulary::signal(name).is_some() {
            self.report(undeclared(name, span).help(match env.context {
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
        let list = self.candidates(wanted, env);
        let taken = expected_kind::taken(&self.sources.file(span.file).text, span);
        let mut locals: Vec<&str> = match wanted {
            ExpectedName::Callable => Vec::new(),
            _ => env.locals.iter().map(|(name, _)| &**name).collect(),
        };
        locals.retain(|local| list.names.binary_search_by(|known| known.as_str().cmp(local)).is_err());
        locals.sort_unstable();
        locals.dedup();
        let unknown = UnknownName { name, span, env, wanted, in_formula, list, locals, taken };
        // The first that fits is the likeliest.
        const SUGGESTIONS: [Suggest; 11] = [
            same_letters,
            module_path,
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
        let suggested = SUGGESTIONS.iter().find_map(|suggest| suggest(self, &unknown));
        self.report(suggested.unwrap_or_else(|| unknown.diagnostic()));
    }

    fn wanted(&self, span: Span) -> ExpectedName {
        let text = &self.sources.file(span.file).text;
        let (before, after) = (
            text[..span.start as usize].trim_end(),
            text[span.end as usize..].trim_start_matches([' ', '\t']),
        );
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
    fn candidates(&mut self, wanted: ExpectedName, env: &Env) -> Rc<CandidateList> {
        let signals = wanted == ExpectedName::Value
            && !matches!(env.context, EvaluationContext::Constant | EvaluationContext::Entry);
        let key = (env.module, wanted, signals);
        if let Some(known) = self.candidates.lists.get(&key) {
            return Rc::clone(known);
        }
        let declared = self.modules.names(env.module).filter(|name| {
            let declared = self.modules.lookup(env.module, name);
            match (declared.map(|declared| &self.modules.item(declared.item).kind), wanted) {
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
            found.extend(self.modules.standard_divergences().map(str::to_owned));
        }
        if wanted == ExpectedName::Value {
            found.extend(["domains", "self"].map(str::to_owned));
        }
        if signals {
            found.extend(vocabulary::SIGNALS.iter().map(|signal| signal.name.to_owned()));
        }
        let list = Rc::new(CandidateList::new(found));
        self.candidates.lists.insert(key, Rc::clone(&list));
        list
    }

    /// The start of a route's arm that compares the domain with an undeclared short name. Probably
    /// `for d in domains:` was forgotten.
    fn loop_variable(&self, name: &str, span: Span) -> Option<Span> {
        let text = &self.sources.file(span.file).text;
        let line = text[..span.start as usize].rfind(['{', '\n', ',']).map_or(0, |at| at + 1);
        let before = &text[line..span.start as usize];
        let start = line + before.len() - before.trim_start().len();
        let alone = name.len() <= 2 && before.trim() == "domain ==";
        alone.then(|| Span::new(span.file, start, start))
    }

    /// Reports `domain == "math"`.
    pub(in crate::check) fn domain_in_quotes(&mut self, text: &str, place: Span) {
        let names: Vec<String> =
            self.parts.domains.iter().map(|domain| format!("`{}`", domain.name)).collect();
        let known = self.parts.domains.iter().any(|domain| domain.name == text);
        let diagnostic = Diagnostic::error(Code::TypeMismatch, place, "a domain is compared with a text")
            .label("a domain is named without quotes");
        self.report(match known.then(|| self.unquoted(place, text, |_| true)).flatten() {
            Some(bare) => without_quotes(diagnostic, Some(bare)),
            None => diagnostic.help(format!("domains: {}", names.join(", "))),
        });
    }

    /// The place in the file of `env` where a `use` can be inserted, and its text.
    fn place_of_import(&self, env: &Env, import: &str) -> (Span, String) {
        let (file, tree) = (self.modules.file(env.module), self.modules.tree(env.module));
        let (at, text) = import_edit(&tree, &self.sources.file(file).text, import);
        (Span { file, start: at, end: at }, text)
    }
}

/// The diagnostic for `domains == d`.
pub(in crate::check) fn all_domains(place: Span) -> Diagnostic {
    Diagnostic::error(Code::TypeMismatch, place, "a list of domains is compared with one domain")
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
    fn candidates(&self, checker: &Checker) -> impl Iterator<Item = &str> {
        let names = self.list.names.iter().map(String::as_str).chain(self.locals.iter().copied());
        names.filter(|name| self.may_be(checker, name))
    }

    /// Whether a name is of a kind that may stand here.
    fn may_be(&self, checker: &Checker, name: &str) -> bool {
        let declared = checker.modules.lookup(self.env.module, name);
        declared.is_none_or(|declared| {
            expected_kind::may_be(&checker.modules.item(declared.item).kind, &self.taken)
        })
    }
}

fn same_letters(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let letters = folded(unknown.name);
    let listed = unknown.list.by_letters.get(&letters).map(|index| unknown.list.names[*index].as_str());
    let local = unknown.locals.iter().copied().find(|local| folded(local) == letters);
    let same = listed.into_iter().chain(local).filter(|name| unknown.may_be(checker, name)).min()?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, same))
}

/// `std.opd.mopd` in an expression.
fn module_path(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let text = &checker.sources.file(unknown.span.file).text[unknown.span.start as usize..];
    let end = text.find(|character: char| !(character.is_alphanumeric() || "_.".contains(character)));
    let path = &text[..end.unwrap_or(text.len())];
    let name = path.strip_prefix("std.")?.rsplit('.').next().filter(|name| !name.is_empty())?;
    let help = format!("import it at the top of the file, `use {path}`, and write `{name}` here");
    Some(unknown.diagnostic().help(help))
}

/// The name of another tool.
fn foreign_name(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let known = foreign::name(unknown.name)?;
    if known == Spelling::Name("kl") && !is_directed(checker, unknown.span) {
        // PyTorch's order of the sides is the other one, so the name alone must not be replaced.
        return Some(unknown.diagnostic().help(DIRECTION_OF_PYTORCH));
    }
    fits(checker, known, unknown.wanted, unknown.in_formula).then(|| match known {
        Spelling::Name(ours) => unknown
            .diagnostic()
            .help(format!("here it is called `{ours}`"))
            .replace_with(format!("write `{ours}`"), ours),
        Spelling::Otherwise(words) => unknown.diagnostic().help(words),
    })
}

pub(in crate::check) const DIRECTION_OF_PYTORCH: &str = "`kl(p || q)` names its sides in the order of the formula; PyTorch's `kl_div(q, p)` is `kl(p || q)`, so \
     `kl_div(student, teacher)` is `kl(teacher || student)`";

/// Whether the sides of a called divergence are separated by `||`.
fn is_directed(checker: &Checker, callee: Span) -> bool {
    let after = &checker.sources.file(callee.file).text[callee.end as usize..];
    after.lines().next().is_some_and(|line| line.contains("||"))
}

/// A name of one module of the standard library.
fn import(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let module = checker.modules.of_library(name)?;
    let import = format!("use std.{module}.{name}");
    let (place, text) = checker.place_of_import(unknown.env, &import);
    let diagnostic = unknown.diagnostic().help(format!("`std.{module}` has it: add `{import}`"));
    Some(diagnostic.fix(format!("add `{import}`"), place, text))
}

fn one_of_several_imports(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let modules: Vec<&str> = checker.modules.all_of_library(name).collect();
    if modules.len() < 2 {
        return None;
    }
    let listed: Vec<String> = modules.iter().map(|module| format!("`std.{module}`")).collect();
    let diagnostic = unknown.diagnostic().help(format!("{} have it: import one", listed.join(" and ")));
    Some(modules.iter().fold(diagnostic, |diagnostic, module| {
        let import = format!("use std.{module}.{name}");
        let (place, text) = checker.place_of_import(unknown.env, &import);
        diagnostic.choice(format!("add `{import}`"), place, text)
    }))
}

fn signal_of_a_role(_: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let signal = unknown.in_formula.then(|| part_of_role(unknown.name)).flatten()?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, &signal))
}

fn loop_over_domains(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let UnknownName { name, .. } = unknown;
    let head = checker.loop_variable(name, unknown.span)?;
    let help = format!("`{name}` ranges over nothing here: begin the arm with `for {name} in domains:`");
    let fix = format!("for {name} in domains: ");
    Some(unknown.diagnostic().help(help).fix("range over the domains", head, fix))
}

fn similar(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let near =
        nearest(unknown.name, unknown.candidates(checker)).or_else(|| begins_alike(checker, unknown))?;
    Some(unknown.diagnostic().did_you_mean(unknown.name, near))
}

fn known_keys(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let mut keys: Vec<&str> = unknown.candidates(checker).collect();
    if unknown.wanted != ExpectedName::Key || keys.is_empty() {
        return None;
    }
    keys.sort_unstable();
    Some(unknown.diagnostic().help(format!("there are: {}", keys.join(", "))))
}

fn field_of_the_data(_: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
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

fn reward(checker: &Checker, unknown: &UnknownName) -> Option<Diagnostic> {
    let before = &checker.sources.file(unknown.span.file).text[..unknown.span.start as usize];
    let fits = unknown.wanted == ExpectedName::Value && before.trim_end().ends_with("reward =");
    fits.then(|| {
        unknown.diagnostic().help(
            "rewards are `exact_match`, `numeric`, `regex(\"...\")` and programs of yours: \
             `command(\"python3 verify.py\")`",
        )
    })
}

/// Whether the counterpart of a foreign name fits the place of the name.
fn fits(checker: &Checker, known: Spelling, wanted: ExpectedName, in_formula: bool) -> bool {
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
                    && checker.modules.standard_divergences().any(|name| name == ours)
        }
    }
}

/// The only domain with the same first three letters. Domains are few, so three letters are enough.
fn begins_alike<'u>(checker: &Checker, unknown: &'u UnknownName) -> Option<&'u str> {
    let head = unknown.name.get(..3).filter(|_| unknown.wanted == ExpectedName::Key)?;
    let mut alike = unknown.candidates(checker).filter(|candidate| candidate.starts_with(head));
    alike.next().filter(|_| alike.next().is_none())
}

/// `student.entropy` for `student_entropy`.
fn part_of_role(name: &str) -> Option<String> {
    let (role, part) = name.split_once('_')?;
    let known = vocabulary::PARTS.iter().any(|known| known.name == part);
    (is_role(role) && known).then(|| format!("{role}.{part}"))
}
