//! Leakage: prompts that a model is trained on, or that decide about its weights, and that it is also judged
//! on. The score then measures memory, or the luck of the choice.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::text;
use mopd_experiment::{Benchmark, BenchmarkId, Comparison, DataSource, DomainId};

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
    found.extend(judged_twice(declarations, comparisons));
    for diagnostic in found {
        declarations.report(diagnostic);
    }
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
