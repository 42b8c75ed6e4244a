//! Checks the items `experiment` and `domain`.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, Item, ItemKind, Module, Name};
use mopd_experiment::{DataSource, Device, Domain, DomainId, Dtype, GpuArithmetic, Reward, WithOrigin};

use crate::check::builtins::vocabulary::{DomainBlock, ExperimentBlock};
use crate::check::checker::Checker;
use crate::check::data;
use crate::check::names::modules::{ItemId, ModuleId};
use crate::check::read::{changes, numbers, read, read_with_origin, reads, settings};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::values::environment::Env;
use crate::check::values::recorded::ItemProgress;
use crate::check::values::value::Value;

reads! {
    Field => |checker, given, _| data_field(checker, given.expr);
}

/// The settings of an `experiment`, which hold for the run as a whole.
pub struct ExperimentHeader {
    pub name: String,
    pub seed: u64,
    pub out: Option<String>,
    pub device: Option<WithOrigin<Device>>,
    pub dtype: Option<WithOrigin<Dtype>>,
    pub gpu: GpuArithmetic,
}

pub fn experiment_header(checker: &mut Checker, module: &Module, id: ModuleId) -> Option<ExperimentHeader> {
    let mut headers = module.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Experiment { name, block } => Some((name, block, item.span)),
        _ => None,
    });
    let Some((name, block, _)) = headers.next() else {
        let runs = |kind: &ItemKind| matches!(kind, ItemKind::Compare { .. } | ItemKind::Model(_));
        if let Some(item) = module.items.iter().find(|item| runs(&item.kind)) {
            let first_line = Span { end: item.span.start, start: item.span.start, ..item.span };
            checker.report(
                Diagnostic::error(
                    Code::MissingExperiment,
                    first_line,
                    "a file with models needs an `experiment`",
                )
                .help("add `experiment \"name\" { seed = 1 }` at its head"),
            );
        }
        return None;
    };
    if let Some((second, _, _)) = headers.next() {
        checker.report(
            Diagnostic::error(Code::DuplicateName, second.span, "one file is one experiment")
                .note(name.span, "declared here"),
        );
    }
    // A name without quotes has been reported, and has no text.
    if name.text.trim().is_empty() && checker.sources.text(name.span).starts_with('"') {
        let text = "the name of an experiment is empty";
        checker.report(Diagnostic::error(Code::OutOfRange, name.span, text));
    }
    let env = Env::constant(id);
    let (settings, given) = settings::block::<ExperimentBlock>(checker, Some(block), "experiment", name.span);
    settings::keep_marks(&mut checker.parts, &settings, "experiment");
    let device = given.device.and_then(|device| read_with_origin(checker, device, &env));
    let dtype = given.dtype.and_then(|dtype| read_with_origin(checker, dtype, &env));
    let of_gpu = [("deterministic", settings.key_span("deterministic")), ("tf32", settings.key_span("tf32"))];
    if device.as_ref().is_some_and(|device| device.value == Device::Cpu) {
        for (key, place) in of_gpu.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            let text = format!("`{key}` is of a GPU, and the device is `cpu`: it changes nothing");
            let diagnostic = Diagnostic::warning(Code::UnusedSetting, place, text);
            checker.report(diagnostic.help("remove it, or write `device = cuda`"));
        }
    }
    let (deterministic, tf32) = (read(checker, given.deterministic, &env), read(checker, given.tf32, &env));
    let usual = GpuArithmetic::default();
    let gpu = GpuArithmetic {
        deterministic: deterministic.unwrap_or(usual.deterministic),
        tf32: tf32.unwrap_or(usual.tf32),
    };
    let seed = read(checker, given.seed, &env);
    let out = read(checker, given.out, &env)?;
    Some(ExperimentHeader { name: name.text.clone(), seed: seed?, out, device, dtype, gpu })
}

/// Declares every domain of the file, in order, before anything else is evaluated: `domains` must mean
/// all of them everywhere.
pub fn declare_domains(checker: &mut Checker, entry: ModuleId) {
    let tree = checker.modules.tree(entry);
    let mut shares = Vec::new();
    for (index, item) in tree.items.iter().enumerate() {
        let found = match &item.kind {
            ItemKind::Domain { .. } => vec![ItemId { module: entry, index }],
            // Imported domains take part like the file's own.
            ItemKind::Use(import) => import
                .names
                .iter()
                .filter_map(|name| Some(checker.modules.lookup(entry, &name.text)?.item))
                .collect(),
            _ => continue,
        };
        for id in found {
            let tree = checker.modules.tree(id.module);
            let item = &tree.items[id.index].kind;
            let ItemKind::Domain { name, .. } = item else { continue };
            // A second domain of a name has been reported and takes no part.
            if id.module == entry
                && checker.modules.lookup(entry, &name.text).map(|declared| declared.item) != Some(id)
            {
                continue;
            }
            if checker.recorded.progress.contains_key(&id) {
                continue;
            }
            let value = declare_domain(checker, id.module, name, item, &mut shares);
            checker
                .recorded
                .progress
                .insert(id, ItemProgress::Done(value.map_or(Value::Error, Value::Domain)));
        }
    }
    // A broken item may be a domain.
    let broken = |item: &Item| matches!(&item.kind, ItemKind::Use(import) if import.module.span().is_none());
    if !tree.items.iter().any(|item| broken(item)) {
        check_shares(checker, &shares);
    }
}

fn declare_domain(
    checker: &mut Checker,
    module: ModuleId,
    name: &Name,
    item: &ItemKind,
    shares: &mut Vec<Spanned<Option<f64>>>,
) -> Option<DomainId> {
    // `prompts = "{domain}.jsonl"`
    let mut env = Env::constant(module);
    env.bind("domain", Value::Text(name.text.clone()));
    let owner = format!("domain {}", name.text);
    let Some(block) = changes::changed_block(checker, module, item) else {
        shares.push(Spanned::new(None, name.span));
        return None;
    };
    let (settings, given) = settings::block::<DomainBlock>(checker, Some(&block), &owner, name.span);
    settings::keep_marks(&mut checker.parts, &settings, &owner);
    let limit = given.limits.and_then(|limit| read_with_origin(checker, limit, &env));
    let share = given.share.map(|share| Spanned::new(read(checker, share, &env), share.expr.span));
    let unsaid = if settings.broken { None } else { Some(f64::NAN) };
    shares.push(share.unwrap_or(Spanned::new(unsaid, name.span)));
    let prompts = read(checker, given.prompts, &env);
    let tests = given.tests.map(|tests| read(checker, tests, &env));
    let validation = given.validation.map(|rows| read(checker, rows, &env));
    let columns = read(checker, given.fields, &env).flatten().unwrap_or_default();
    let format = data::format(checker, given.format, given.system, &env);
    let reward = given.reward.map(|reward| read(checker, reward, &env));
    let origin = checker.origin(name.span);
    let nowhere = || DataSource::file("", origin);
    // A faulty domain is declared all the same, so that no reference to it is reported too.
    let any_reward = || Reward::ExactMatch { field: "answer".into() };
    let reward = match reward {
        Some(reward) => reward.unwrap_or_else(any_reward),
        None if settings.broken => any_reward(),
        None => Reward::None,
    };
    checker.parts.domains.push(Domain {
        name: name.text.clone(),
        prompts: prompts.unwrap_or_else(nowhere),
        tests: tests.map(|tests| tests.unwrap_or_else(nowhere)).or_else(|| settings.broken.then(nowhere)),
        validation: validation
            .map(|rows| rows.unwrap_or_else(nowhere))
            .or_else(|| settings.broken.then(nowhere)),
        columns,
        format,
        reward,
        share: share.and_then(|share| share.value).unwrap_or(1.0),
        limit,
        origin,
    });
    Some(DomainId(checker.parts.domains.len() as u32 - 1))
}

fn check_shares(reporter: &mut Reporter, shares: &[Spanned<Option<f64>>]) {
    if shares.len() > 1 {
        for unsaid in shares.iter().filter(|share| share.value.is_some_and(f64::is_nan)) {
            reporter.report(
                Diagnostic::error(
                    Code::MissingKey,
                    unsaid.span,
                    "with several domains, each needs a `share`",
                )
                .label("not set here")
                .help(format!("for equal parts write `share = 1/{}`", shares.len())),
            );
        }
    }
    let known: Option<Vec<f64>> =
        shares.iter().map(|share| share.value.filter(|share| !share.is_nan())).collect();
    let Some(known) = known.filter(|known| !known.is_empty()) else { return };
    let total: f64 = known.iter().sum();
    if (total - 1.0).abs() > 1e-6 {
        let last = shares.last().expect("not empty");
        let message = format!("the shares of the domains add up to {}, not 1", numbers::rounded(total));
        let mut diagnostic = Diagnostic::error(Code::ShareSum, last.span, message);
        for (share, written) in known.iter().zip(&shares[..shares.len() - 1]) {
            diagnostic = diagnostic.note(written.span, format!("{}", numbers::rounded(*share)));
        }
        let text = numbers::rounded(*known.last().expect("not empty")).to_string();
        reporter.report(
            diagnostic.label(text).help(format!("for equal parts write `1/{}` in each", shares.len())),
        );
    }
}

/// A field of the data, written as a bare name.
pub fn data_field(reporter: &mut Reporter, expr: &Expr) -> Option<String> {
    match &expr.kind {
        ExprKind::Name(name) => Some(name.clone()),
        ExprKind::Error => None,
        ExprKind::Text(text)
            if text.chars().all(crate::syntax::words::is_word)
                && text.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            let diagnostic = Diagnostic::error(
                Code::TypeMismatch,
                expr.span,
                "a field of the data is named without quotes",
            );
            reporter.report(unknown::without_quotes(diagnostic.label("this is a text"), Some(text.clone())));
            Some(text.clone())
        }
        _ => {
            let diagnostic =
                Diagnostic::error(Code::TypeMismatch, expr.span, "expected the name of a field of the data");
            // `numeric(0.01)`
            let number = matches!(expr.kind, ExprKind::Number { .. });
            let before = reporter.sources.file(expr.span.file).text[..expr.span.start as usize].trim_end();
            reporter.report(match number && before.ends_with("numeric(") {
                true => {
                    let start = Span { end: expr.span.start, ..expr.span };
                    diagnostic.help("write `tolerance: ...` for how far the numbers may differ").fix(
                        "write `tolerance:`",
                        start,
                        "tolerance: ",
                    )
                }
                false => diagnostic.help("write its name, such as `answer`"),
            });
            None
        }
    }
}
