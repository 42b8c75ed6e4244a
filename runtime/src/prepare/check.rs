//! Whether models, data and templates fit each other: lengths, tokenizers, turns of experts.

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::producers::Writer;
use mopd_compiler::plan::{
    Comparison, DomainId, Evaluation, ModelId, Objective, Producer, Role, TableColumn, Train,
};

use super::prompts::Prompts;
use super::room::{OfAttempts, for_derived, for_feedback, with_completions, with_words};
use super::{DomainData, ModelSpec, tested, trained, validated};
use crate::data::{ContextLength, DataProblem};
use crate::environment::{EXPERT_TURNS, recorded};
use crate::failure::{Error, Result};
use crate::model::change::first_difference;
use crate::model::layout;
use crate::quote::quote;
use crate::tokenizer::{Counterparts, difference};

/// Whether every row has the turns of an expert.
fn experts(prompts: &Prompts) -> Result<()> {
    let dataset = &prompts.dataset;
    for row in 0..dataset.len() {
        let record = dataset.object(row);
        if recorded(&record).is_some() {
            continue;
        }
        let field = EXPERT_TURNS;
        let problem = match record.get(field) {
            None => DataProblem::missing(field, record.keys().map(String::as_str)),
            Some(found) => DataProblem::TypeMismatch {
                field: field.to_owned(),
                wanted: "a list of texts, none of them empty, one for each turn of the expert",
                found: quote(&found.to_string()),
            },
        };
        return Err(dataset.error(row, problem).into());
    }
    Ok(())
}

/// That what a stage reads fits the models that read it.
pub fn check_training(
    train: &Train<Objective>,
    model: ModelId,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Result<()> {
    let spec = |model: ModelId| &specs[model.0 as usize];
    let context = |model: ModelId| spec(model).context();
    let shorter =
        |one: ContextLength, other: ContextLength| if other.tokens < one.tokens { other } else { one };
    let tokenizer = &spec(model).tokenizer;
    if train.mixture.is_empty() {
        return Err(Error::new(FailureKind::Runtime, "a stage trains on no domain"));
    }
    if train.trains_second_head() && spec(model).config.attention.iter().any(|layer| layer.window.is_some()) {
        let message =
            "sampling with two output heads from a model with sliding attention is not supported yet";
        return Err(Error::new(FailureKind::Runtime, message).help("leave `heads` and `accept` out"));
    }
    for other in train.trainable.models() {
        let [own, others] = [model, other].map(|id| layout(&spec(id).config));
        // A stage gives some heads to models that have none.
        let [own, others] = [&own, &others].map(|all| all.iter().filter(|entry| !entry.is_given()));
        if let Some((own, others)) = first_difference(own, others) {
            let message =
                format!("`changed` compares models of another shape than the student's: {others}, not {own}");
            return Err(
                Error::new(FailureKind::Runtime, message).help("name models of the student's architecture")
            );
        }
    }
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let prompts = trained(data, train)?;
        // Of the student and all that have a role in the domain, the shortest.
        let of_role = |role: Role| {
            let choices = train.scorers.choices(role).iter().filter(|choice| choice.domain == share.domain);
            choices
                .filter_map(|choice| choice.teacher.spec_model())
                .map(context)
                .fold(context(model), shorter)
        };
        let sees = train.sees.as_ref();
        let fields = || train.producers().flat_map(Producer::fields_of_data);
        let writing = || train.producers().chain(train.measured());
        let drawn = || writing().flat_map(Producer::drawn);
        for field in fields().chain(train.objective.recorded()) {
            prompts.longest(tokenizer, sees, Some(field))?.fits(0, context(model))?;
        }
        if let Some(validation) = &train.validation {
            let longest = validated(data)?.longest(tokenizer, sees, Some(&validation.target))?;
            longest.fits(0, context(model))?;
        }
        let environments = || train.producers().flat_map(Producer::environments);
        if prompts.dataset.is_chat() && environments().next().is_some() {
            let message =
                format!("`turns` of `{}`, whose prompts are conversations, is not supported yet", data.name);
            return Err(Error::new(FailureKind::Data, message).help(
                "write its prompts as plain text, and what is to stand between turns in the observations",
            ));
        }
        if environments().any(|turns| turns.expert_turns.is_some()) {
            experts(prompts)?;
        }
        for (writer, sampling) in drawn() {
            let shortest = match writer {
                Writer::Student => context(model),
                Writer::Scorer(role) => of_role(role),
                // They may read more than the prompt: see below.
                Writer::Guide(role) | Writer::Editor { editor: role, .. } => of_role(role),
                Writer::Model(writer) => shorter(context(model), context(writer)),
            };
            let longest = prompts.longest(tokenizer, sees, None)?;
            longest.fits(sampling.max_tokens(data.limit), shortest).map_err(Error::from)?;
        }
        for choice in train.scorers.readers(share.domain) {
            let Some(view) = &choice.sees else { continue };
            let longest = |field| prompts.longest(tokenizer, Some(view), field);
            let context = context(choice.teacher.spec_model().unwrap_or(model));
            let words = with_words(train, view, tokenizer)?;
            for field in fields() {
                longest(Some(field))?.with_words(words).fits(0, context)?;
            }
            for (_, sampling) in drawn() {
                let completion = with_completions(view, sampling.max_tokens(data.limit));
                longest(None)?.with_words(words).fits(completion, context)?;
            }
        }
        for panel in &train.panels {
            let members = panel.members.iter().flat_map(|role| train.scorers.choices(*role));
            for choice in members.filter(|choice| choice.domain == share.domain) {
                // Where it sees what was said, its last turn is part of that.
                let debate = choice.sees.as_ref().map_or(Ok(0), |view| with_words(train, view, tokenizer))?;
                let longest = prompts.longest(tokenizer, choice.sees.as_ref().or(sees), None)?;
                let context = context(choice.teacher.spec_model().unwrap_or(model));
                longest.with_words(debate.max(panel.sampling.max_tokens)).fits(0, context)?;
            }
        }
        for (choice, view, words) in for_feedback(train, share.domain, data.limit) {
            let longest = prompts.longest(tokenizer, view, None)?;
            longest.with_words(words).fits(0, context(choice.teacher.spec_model().unwrap_or(model)))?;
        }
        for OfAttempts { writer, view, shown, completion } in for_derived(train, tokenizer, data.limit)? {
            let longest = prompts.longest(tokenizer, Some(view), None)?.with_shown(shown);
            longest.fits(completion, writer.map_or(context(model), of_role))?;
        }
        for (writer, sampling, view) in writing().flat_map(Producer::shown) {
            let (Writer::Scorer(role) | Writer::Editor { editor: role, .. }) = writer else { continue };
            let longest = prompts.longest(tokenizer, Some(view), None)?;
            longest.fits(with_completions(view, sampling.max_tokens(data.limit)), of_role(role))?;
        }
        // Whoever scores reads the same completions.
        let scorers = train.scorers.iter().flat_map(|(role, scorer)| {
            let own = scorer.choices.iter().filter(|choice| choice.domain == share.domain);
            own.filter_map(move |choice| {
                let name = match role {
                    Role::REFERENCE => "the reference".to_owned(),
                    _ => format!("the teacher `{}`", choice.name),
                };
                Some((name, choice.teacher.spec_model()?, choice.own_tokens))
            })
        });
        let writers = train
            .producers()
            .flat_map(Producer::models)
            .map(|id| ("the model of the `snapshot`".to_owned(), id, false));
        for (name, other, own_tokens) in scorers.chain(writers) {
            let (student, other) = (spec(model), spec(other));
            if own_tokens {
                // How long completions get in its tokens is known when they are there.
                Counterparts::new(tokenizer, &other.tokenizer, &name)?;
                prompts.longest_prompt(&other.tokenizer)?.fits(1, other.context())?;
                continue;
            }
            if let Some(difference) = difference(tokenizer, &other.tokenizer) {
                let message = format!("{name} has another tokenizer than its student: {difference}");
                return Err(Error::new(FailureKind::Runtime, message).help(difference.help()));
            }
            let (own, needed) = (other.config.context, student.config.context);
            if own < needed {
                let message =
                    format!("{name} has a context of {own} tokens, less than its student's {needed}");
                return Err(
                    Error::new(FailureKind::Context, message).help("give it at least the student's context")
                );
            }
        }
    }
    Ok(())
}

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
