//! Prompts that a model is trained on and judged on: its score then says how well it remembers.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{DataSource, DomainId};
use crate::formula::text;

use crate::check::Checker;

impl Checker {
    /// Held-out prompts, of domains and of `eval`s, that are prompts of a domain that is trained on.
    pub(in crate::check) fn warn_of_leakage(&mut self) {
        let trained: Vec<DomainId> = (0..self.parts.domains.read().len() as u32)
            .map(DomainId)
            .filter(|domain| self.is_trained_on(*domain))
            .collect();
        let whole = |path: &str, origin| DataSource {
            path: path.to_owned(),
            split: None,
            filter: None,
            limit: None,
            origin,
        };
        let tests = self.parts.domains.read().iter().filter_map(|domain| domain.tests.clone());
        let benchmarks =
            self.parts.benchmarks.read().iter().map(|benchmark| whole(&benchmark.prompts, benchmark.origin));
        let found = tests.chain(benchmarks).filter_map(|tests| {
            let domain = trained
                .iter()
                .map(|domain| self.domain(*domain))
                .find(|domain| overlap(&tests, &domain.prompts))?;
            let text =
                format!("these held-out prompts are those that the domain `{}` is trained on", domain.name);
            let diagnostic = Diagnostic::warning(Code::DataLeakage, self.span(tests.origin), text)
                .label("seen in training");
            let diagnostic = diagnostic.note(self.span(domain.prompts.origin), "trained on these");
            Some(
                diagnostic
                    .help("judge on prompts that no model is trained on: another file, split or filter"),
            )
        });
        for diagnostic in found.collect::<Vec<_>>() {
            self.report(diagnostic);
        }
    }
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
