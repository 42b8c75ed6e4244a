//! The data doctor: what is most likely a slip in the data of a stage, or in how its models read it. A run
//! would go on and train something else than was meant. What needs no tokenizer is found where rows are read:
//! [`Dataset::warnings`](crate::data::Dataset).

use std::collections::BTreeSet;

use mopd_plan::Train;

use super::check::LOOKED_AT;
use super::prompts::Prompts;
use super::{DomainData, ModelSpec};
use crate::data::{Dataset, repeated};
use crate::quote::quote;
use crate::tokenizer::{Tokenizer, chat};

/// The warnings about the data of a stage.
pub fn warnings<O>(
    stage: &str,
    train: &Train<O>,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Vec<String> {
    let tokenizer = &specs[train.start.0 as usize].tokenizer;
    let mut found = other_templates(stage, train, domains, specs);
    found.extend(unmarked_ends(stage, train, domains, specs));
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let Some(prompts) = data.rows_of(train) else { continue };
        let dataset = &prompts.dataset;
        found.extend(dataset.warnings.iter().map(|found| format!("{}; {}", found.message, found.help)));
        found.extend(repeated(dataset).map(|found| found.to_string()));
        found.extend(markers(dataset, tokenizer));
        found.extend(unshown_tools(stage, dataset, tokenizer));
        let mut teachers = BTreeSet::new();
        for choice in train.scorers.readers(share.domain) {
            let Some(teacher) = choice.teacher.spec_model().filter(|_| !choice.own_tokens) else { continue };
            if teachers.insert(teacher) {
                let of_teacher = &specs[teacher.0 as usize].tokenizer;
                found.extend(other_splits(stage, &choice.name, prompts, tokenizer, of_teacher, &data.name));
            }
        }
    }
    found
}

/// Texts that hold the tokens by which the chat template delimits turns: the model reads the end of a turn
/// there.
fn markers(dataset: &Dataset, tokenizer: &Tokenizer) -> Option<String> {
    let markers = chat::markers(tokenizer, &dataset.conversation(0)?);
    let holds =
        |row: usize| markers.iter().find(|marker| dataset.texts(row).any(|text| text.contains(*marker)));
    let mut rows = (0..dataset.len()).filter_map(|row| Some((row, holds(row)?)));
    let (row, marker) = rows.next()?;
    let (file, place) = dataset.place(row);
    let others = match rows.count() {
        0 => String::new(),
        1 => ", and so has one more row".to_owned(),
        others => format!(", and so have {others} more rows"),
    };
    Some(format!(
        "{}{place}: the text has {}, a marker of the chat template{others}: the model reads it as the beginning \
         or the end of a turn. Remove what an export left there, or leave the rows out",
        file.display(),
        quote(marker)
    ))
}

/// Tools that the template does not show: the model never sees which functions it may call.
fn unshown_tools(stage: &str, dataset: &Dataset, tokenizer: &Tokenizer) -> Option<String> {
    let rows = (0..dataset.len().min(LOOKED_AT)).filter_map(|row| Some((row, dataset.conversation(row)?)));
    let (row, conversation) = rows.into_iter().find(|(_, conversation)| conversation.lists_tools())?;
    let with = chat::prompt_text(tokenizer, conversation.clone()).ok()?;
    let without = chat::prompt_text(tokenizer, conversation.without_tools()).ok()?;
    let (file, place) = dataset.place(row);
    (with == without).then(|| {
        format!(
            "`{stage}`: {}{place}: the row has `tools`, but the student's chat template does not show them: \
             describe them in a message of the role `system`, or start from a model whose template has tools",
            file.display()
        )
    })
}

/// Teachers of the same vocabulary whose own tokenizer splits the prompts otherwise: they read unusual
/// spellings.
fn other_splits(
    stage: &str,
    name: &str,
    prompts: &Prompts,
    student: &Tokenizer,
    teacher: &Tokenizer,
    domain: &str,
) -> Option<String> {
    if student.hash() == teacher.hash() {
        return None;
    }
    let dataset = &prompts.dataset;
    let looked = dataset.len().min(LOOKED_AT);
    let differs = |row: &usize| {
        // What can't be rendered or split is reported where it is read.
        let text = match dataset.conversation(*row) {
            Some(conversation) => chat::prompt_text(student, conversation).ok(),
            None => Some(dataset.prompt(*row).to_owned()),
        };
        let tokens = |tokenizer: &Tokenizer| tokenizer.encode(text.as_deref()?).ok();
        tokens(student) != tokens(teacher)
    };
    let mut rows = (0..looked).filter(differs);
    let first = rows.next()?;
    let (file, place) = dataset.place(first);
    Some(format!(
        "`{stage}`: the tokenizer of `{name}` splits {} of {looked} prompts of `{domain}` otherwise than the \
         student's, whose tokens it reads, the first at {}{place}: it scores spellings that it has hardly seen. \
         Choose a teacher with the student's merges, or write `align = tokens` after it",
        1 + rows.count(),
        file.display()
    ))
}

/// Teachers whose own chat template renders the prompts otherwise than the student's, which they read: the
/// scores are those of an unusual prompt.
fn other_templates<O>(
    stage: &str,
    train: &Train<O>,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    let student = &specs[train.start.0 as usize].tokenizer;
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let conversation = data.rows_of(train).and_then(|prompts| prompts.dataset.conversation(0));
        let Some(conversation) = conversation else { continue };
        // A conversation that can't be rendered is reported where it is read.
        let rendered = |tokenizer: &Tokenizer| {
            let tokens = chat::prompt(tokenizer, conversation.clone()).ok()?;
            tokenizer.as_read(&tokens).ok()
        };
        let Some(students) = rendered(student) else { continue };
        let readers = train.scorers.readers(share.domain);
        for choice in readers.filter(|choice| !choice.own_tokens && choice.sees.is_none()) {
            let Some(teacher) = choice.teacher.spec_model() else { continue };
            let Some(teachers) = rendered(&specs[teacher.0 as usize].tokenizer) else { continue };
            if students == teachers {
                continue;
            }
            let from = first_difference(&students, &teachers);
            let warning = format!(
                "`{stage}`: the chat template of `{}` renders the prompts of `{}` otherwise than the \
                 student's, by which it reads them: from character {from} on its own has {}, the student's {}",
                choice.name,
                data.name,
                quote(&teachers.chars().skip(from).collect::<String>()),
                quote(&students.chars().skip(from).collect::<String>()),
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    warnings
}

/// Templates of students whose marks leave out the token that ends a turn. It is trained all the same.
fn unmarked_ends<O>(
    stage: &str,
    train: &Train<O>,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Vec<String> {
    let tokenizer = &specs[train.start.0 as usize].tokenizer;
    let warnings = train.mixture.iter().filter_map(|share| {
        let data = &domains[share.domain.0 as usize];
        let conversation = data.rows_of(train)?.dataset.conversation(0)?;
        let end = chat::unmarked_end(tokenizer, &conversation)?;
        Some(format!(
            "`{stage}`: the `{{% generation %}}` part of the student's chat template leaves out {}, which ends \
             the turns of `{}`: it is trained too, because the student would never learn to stop",
            quote(&end),
            data.name
        ))
    });
    warnings.collect()
}

/// The number of characters that two texts have in common at their beginning.
fn first_difference(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests;
