//! Whether data has what a stage or a table asks of it, and a model room for its tests.

use mopd_compiler::plan::{Comparison, DomainId, Evaluation, TableColumn, Train};

use super::{DomainData, ModelSpec, tested, trained};
use crate::failure::Result;

/// What a route says of a domain's data that is true of none of its rows: usually a slip in a text or a
/// number.
pub fn idle_arms<O>(
    stage: &str,
    train: &Train<O>,
    domain: DomainId,
    data: &DomainData,
) -> Result<Vec<String>> {
    let dataset = &trained(data, train)?.dataset;
    let taken = dataset.arms(&train.conditions(domain)).unwrap_or_default();
    let conditional =
        train.arms(domain).zip(0..).filter_map(|(arm, index)| Some((arm, arm.when.as_ref()?, index)));
    let idle = conditional.filter(|(.., index)| !taken.contains(index));
    Ok(idle
        .map(|(arm, when, _)| {
            let (domain, rows, when) = (&data.name, dataset.len(), when.text());
            format!(
                "`{stage}`: of the {rows} prompts of `{domain}`, none is routed to `{}` by `{when}`",
                arm.name
            )
        })
        .collect())
}

/// That a step asks for more prompts than there are, usually a slip in a number: it gets some of them several
/// times.
pub fn more_than_rows<O>(stage: &str, train: &Train<O>, domains: &[DomainData]) -> Option<String> {
    let rows = train.mixture.iter().filter_map(|share| domains[share.domain.0 as usize].rows_of(train));
    let rows: usize = rows.map(|prompts| prompts.dataset.draws()).sum();
    let groups = train.rollout.groups;
    (groups as usize > rows).then(|| {
        let asked = train.rollout.producer.kind().asked(groups);
        format!("`{stage}`: {asked} in a step, and its data has {rows} rows: some of them come several times")
    })
}

/// Columns of a table whose file has fewer tests than are asked for.
pub fn fewer_tests(comparison: &Comparison, domains: &[DomainData]) -> Vec<String> {
    let fewer = |column: &TableColumn| {
        let data = &domains[column.domain.0 as usize];
        let (asked, there) = (column.evaluation.prompts?, data.tests.as_ref()?.dataset.len());
        (asked as usize > there).then(|| {
            format!(
                "`{}`: the table asks for {asked} test prompts of `{}`, which has {there}",
                comparison.name, data.name
            )
        })
    };
    comparison.columns.iter().filter_map(fewer).collect()
}

/// The same of every evaluation of a table.
pub fn check_evaluation(comparison: &Comparison, domains: &[DomainData], specs: &[ModelSpec]) -> Result<()> {
    for (model, column) in comparison.evaluations() {
        let TableColumn { domain, evaluation, metrics: _ } = &comparison.columns[column];
        fits(&domains[domain.0 as usize], &specs[model.0 as usize], evaluation)?;
    }
    Ok(())
}

/// That a model's context has room for every test prompt with its completion.
pub fn fits(data: &DomainData, spec: &ModelSpec, evaluation: &Evaluation) -> Result<()> {
    let longest = tested(data)?.longest_prompt(&spec.tokenizer)?;
    Ok(longest.fits(evaluation.sampling.max_tokens(data.limit), spec.context())?)
}
