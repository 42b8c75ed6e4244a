//! Leakage: prompts that a model is trained on, or that decide about its weights, and that it is also judged
//! on. The score then measures memory, or the luck of the choice.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words;
use mopd_experiment::formula::text;
use mopd_experiment::{Benchmark, BenchmarkId, Comparison, DataSource, Domain, DomainId};

use crate::check::declarations::Declarations;

/// Warns of held-out prompts, of domains and of `eval`s, that are also prompts of a trained domain, or of
/// an `eval` that decides about weights in training.
pub fn warn_of_leakage(declarations: &mut Declarations, comparisons: &[Comparison]) {
    let trained: Vec<DomainId> = (0..declarations.parts.domains.len() as u32)
        .map(DomainId)
        .filter(|domain| declarations.parts.is_trained_on(*domain))
        .collect();
    let tests = declarations.parts.domains.iter().filter_map(|domain| domain.tests.clone());
    let benchmarks = declarations
        .parts
        .benchmarks
        .iter()
        .map(|benchmark| DataSource::file(&benchmark.prompts, benchmark.origin));
    let validation = declarations.parts.domains.iter().filter_map(|domain| domain.validation.clone());
    let validation: Vec<DataSource> = validation.collect();
    let of_training = tests.chain(benchmarks).chain(validation).filter_map(|tests| {
        let domain = trained
            .iter()
            .map(|domain| declarations.parts.domain(*domain))
            .find(|domain| overlap(&tests, &domain.prompts))?;
        let text =
            format!("these held-out prompts are those that the domain `{}` is trained on", domain.name);
        let diagnostic = Diagnostic::warning(Code::DataLeakage, declarations.span(tests.origin), text)
            .label("seen in training");
        let diagnostic = diagnostic.note(declarations.span(domain.prompts.origin), "trained on these");
        Some(diagnostic.help("judge on prompts that no model is trained on: another file, split or filter"))
    });
    let mut found: Vec<Diagnostic> = of_training.collect();
    if !declarations.diagnostics.has_errors() {
        found.extend(read_twice(declarations));
    }
    found.extend(judged_twice(declarations, comparisons));
    for diagnostic in found {
        declarations.report(diagnostic);
    }
}

/// Domains that read the same rows in the same way: a path was copied, and not changed.
fn read_twice(declarations: &Declarations) -> Vec<Diagnostic> {
    let domains = &declarations.parts.domains;
    let alike = |one: &Domain, other: &Domain| {
        one.reward == other.reward && one.columns == other.columns && one.format == other.format
    };
    let warning = |(earlier, later): (&Domain, &Domain)| {
        let same = |one: &DataSource, other: &DataSource| {
            one.filter.is_some() == other.filter.is_some() && one.limit == other.limit && overlap(one, other)
        };
        // What `hard = sums with { share = 1/2 }` shares is meant.
        let (one, other) = (declarations.span(earlier.origin), declarations.span(later.origin));
        let listed = one.file == other.file && one.end <= other.start && {
            let between = declarations.sources.text(Span { start: one.end, end: other.start, ..one });
            between.chars().all(|c| c.is_whitespace() || c == ',' || words::is_word(c))
        };
        let written = listed || earlier.prompts.origin != later.prompts.origin;
        let prompts =
            (written && same(&earlier.prompts, &later.prompts)).then_some((&earlier.prompts, &later.prompts));
        // The tests of `hard = sums with { prompts = ... }` are meant.
        let tests = earlier.tests.as_ref().zip(later.tests.as_ref());
        let tests = tests.filter(|(one, other)| one.origin != other.origin && same(one, other));
        let (what, (one, other)) = match (prompts, tests) {
            (Some(prompts), _) => ("prompts", prompts),
            (None, Some(tests)) => ("tests", tests),
            (None, None) => return None,
        };
        let text = format!("the {what} of `{}` are the same as those of `{}`", later.name, earlier.name);
        let [one_span, other_span] = [one, other].map(|source| declarations.span(source.origin));
        let diagnostic = Diagnostic::warning(Code::SameData, other_span, text);
        // One block of several domains.
        Some(match one_span == other_span {
            true => {
                diagnostic.help("`{domain}` in a path is the name of each: `prompts = \"{domain}.jsonl\"`")
            }
            false => diagnostic
                .note(one_span, "the same")
                .help("name another file, split or filter, or judge them by another reward"),
        })
    };
    let warnings = domains.iter().enumerate().filter_map(|(at, later)| {
        let mut earlier = domains[..at].iter().filter(|earlier| alike(earlier, later));
        earlier.find_map(|earlier| warning((earlier, later)))
    });
    warnings.collect()
}

/// Held-out prompts that also decide about weights in training.
fn judged_twice(declarations: &Declarations, comparisons: &[Comparison]) -> Vec<Diagnostic> {
    let (domains, benchmarks) = (&declarations.parts.domains, &declarations.parts.benchmarks);
    let choosing = declarations
        .parts
        .trains()
        .into_iter()
        .filter_map(|train| Some(train.extrapolation.as_ref()?.judged_by));
    let mut choosing: Vec<BenchmarkId> = choosing.collect();
    choosing.sort_unstable();
    choosing.dedup();
    let shown = |id: &BenchmarkId| comparisons.iter().any(|table| table.benchmarks.contains(id));
    let tests = domains.iter().filter_map(|domain| domain.tests.clone());
    let columns = (0..benchmarks.len() as u32).map(BenchmarkId).filter(shown);
    let columns = columns.map(|id| &benchmarks[id.0 as usize]);
    let columns = columns.map(|benchmark| DataSource::file(&benchmark.prompts, benchmark.origin));
    let warning = |tests: DataSource| {
        let mut choosing = choosing.iter().map(|id| &benchmarks[id.0 as usize]);
        let same = |judge: &&Benchmark| overlap(&tests, &DataSource::file(&judge.prompts, judge.origin));
        let judge = choosing.find(same)?;
        let text =
            format!("these held-out prompts are those of `{}`, by which a stage chooses weights", judge.name);
        let diagnostic = Diagnostic::warning(Code::DataLeakage, declarations.span(tests.origin), text)
            .label("seen in training");
        let diagnostic = match judge.origin == tests.origin {
            true => diagnostic,
            false => diagnostic.note(declarations.span(judge.origin), "weights are chosen by these"),
        };
        Some(diagnostic.help("let a stage be judged by prompts that no table shows: another file"))
    };
    tests.chain(columns).filter_map(warning).collect()
}

/// Whether two sources share rows, as far as their descriptions tell: one file under two names is not
/// noticed.
fn overlap(one: &DataSource, other: &DataSource) -> bool {
    let plain = |path: &str| path.trim_start_matches("./").trim_end_matches('/').to_owned();
    let same_path = !one.path.is_empty() && plain(&one.path) == plain(&other.path);
    let same_rows = match (&one.filter, &other.filter) {
        // Two filters may leave different rows.
        (Some(one), Some(other)) => text::formula(one, usize::MAX) == text::formula(other, usize::MAX),
        _ => true,
    };
    same_path && one.split == other.split && same_rows
}
