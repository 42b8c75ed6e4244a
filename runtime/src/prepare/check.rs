//! Whether data has what a stage or a table asks of it, and a model room for its tests.

use mopd_plan::events::FailureKind;
use mopd_plan::{
    Comparison, DomainId, Evaluation, Length, Model, ModelId, Objective, Plan, Stage, TableColumn, Train,
};

use super::prompts::Prompts;
use super::{DomainData, ModelSpec, tested, trained};
use crate::data::reads;
use crate::failure::{Error, Result};
use crate::quote::quote;
use crate::tokenizer::{Token, Tokenizer, chat};

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

/// [`reads::more_than_rows`], with the rows that there are.
pub fn more_than_rows<O>(stage: &str, train: &Train<O>, domains: &[DomainData]) -> Option<String> {
    let rows = train.mixture.iter().filter_map(|share| domains[share.domain.0 as usize].rows_of(train));
    reads::more_than_rows(stage, train, rows.map(|prompts| prompts.dataset.draws() as u64).sum())
}

/// Checks that a model stops where the chat template closes its turns.
pub fn turns_end(prompts: &Prompts, tokenizer: &Tokenizer) -> Result<()> {
    let dataset = &prompts.dataset;
    // Conversations with tools may have a template of their own.
    let with_tools = |row: &usize| dataset.conversation(*row).is_some_and(|chat| chat.has_tools());
    let rows = [Some(0), (1..dataset.len().min(LOOKED_AT)).find(with_tools)];
    for conversation in rows.into_iter().flatten().filter_map(|row| dataset.conversation(row)) {
        let Some(token) = chat::unended_turn(tokenizer, &conversation) else { continue };
        let ends: Vec<Token> = tokenizer.ends().to_vec();
        let ends: Vec<String> =
            ends.iter().filter_map(|end| Some(quote(&tokenizer.as_read(&[*end]).ok()?))).collect();
        let message = format!(
            "the model's chat template closes a turn with {}, but its completions end with {}: it would write on \
             behind its answers",
            quote(&token),
            ends.join(" or ")
        );
        return Err(Error::new(FailureKind::Model, message).help(format!(
            "name the token where the model is loaded: `hf(\"...\", end_tokens: {token:?})`"
        )));
    }
    Ok(())
}

/// Rows among which one with tools is looked for.
pub(super) const LOOKED_AT: usize = 1000;

/// Steps of a stage; what does not train has none. All that learn in one do so for as many.
pub fn steps(stage: &Stage<Objective>, domains: &[DomainData]) -> u32 {
    stage.trains().first().map_or(0, |train| training_steps(train, domains))
}

/// An epoch is as many prompts as the domains have together, or trajectories, or as many sequences as the
/// teachers are asked for.
fn training_steps(train: &Train<Objective>, domains: &[DomainData]) -> u32 {
    let epochs = match train.length {
        Length::Steps(steps) => return steps,
        Length::Epochs(epochs) => epochs,
    };
    let rows = || {
        let rows =
            train.mixture.iter().filter_map(|share| domains.get(share.domain.0 as usize)?.rows_of(train));
        rows.map(|prompts| prompts.dataset.draws() as u64).sum()
    };
    let all = train.rollout.producer.once().map_or_else(rows, |once| u64::from(once.sequences));
    let batches = all.saturating_mul(u64::from(epochs)).div_ceil(u64::from(train.rollout.groups.max(1)));
    let steps = batches.saturating_mul(u64::from(train.options.updates_per_batch()));
    u32::try_from(steps).unwrap_or(u32::MAX)
}

/// Schedules that go on behind the last step of a stage whose steps are known only here, since they are
/// counted in epochs. Where the text says them, the checker has looked: `unfinished-schedule`.
/// Those that comments allow are left out.
pub fn unfinished_schedules(plan: &Plan, id: ModelId, domains: &[DomainData]) -> Vec<String> {
    let Model { name, stage, .. } = plan.experiment.model(id);
    let allowed = plan.stages.get(id.0 as usize).map_or(&[][..], |facts| &facts.allowed_schedules);
    let mut said: Vec<String> = Vec::new();
    let of_stage = steps(stage, domains);
    let in_epochs = |train: &&Train<Objective>| matches!(train.length, Length::Epochs(_));
    let trains = stage.trains().into_iter().filter(in_epochs);
    for (what, schedule) in trains.flat_map(Train::schedules) {
        let Some(step) = schedule.unreached(of_stage) else { continue };
        if allowed.contains(&schedule) {
            continue;
        }
        let text = format!(
            "`{name}`: the stage ends before this schedule does: {what} goes on to step {step}, and its \
             epochs are {of_stage} steps. Give it the length of the stage, `over: 100%` or fewer steps, or \
             train for longer (`mopd explain unfinished-schedule`)"
        );
        if !said.contains(&text) {
            said.push(text);
        }
    }
    said
}

/// Columns of a table whose file has fewer tests than are asked for.
pub fn fewer_tests(comparison: &Comparison, domains: &[DomainData]) -> Vec<String> {
    let fewer = |column: &TableColumn| {
        let data = &domains[column.domain.0 as usize];
        let (asked, there) = (column.evaluation.prompts?, data.tests.as_ref()?.dataset.len());
        (asked as usize > there).then(|| {
            format!(
                "`{}`: the table needs {asked} test prompts of `{}`, which has {there}",
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
    let prompts = tested(data)?;
    turns_end(prompts, &spec.tokenizer)?;
    let longest = prompts.longest_prompt(&spec.tokenizer)?;
    Ok(longest.fits(evaluation.sampling.max_tokens(data.limit), spec.context())?)
}
