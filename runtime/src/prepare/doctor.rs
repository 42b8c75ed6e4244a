//! The data doctor: what is most likely a slip in the data of a stage, or in how its models read it. A run
//! would go on and train something else than was meant. What needs no tokenizer is found where rows are read:
//! [`Dataset::warnings`](crate::data::Dataset).

use std::collections::BTreeSet;

use mopd_plan::{DomainId, ModelId, Train};

use super::check::LOOKED_AT;
use super::prompts::Prompts;
use super::{DomainData, ModelSpec};
use crate::data::{Dataset, repeated};
use crate::quote::quote;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::chat::{self, Conversation};

/// Rows that were searched, by the place of their texts in memory and the hash of the tokenizer that reads
/// them: several stages read the same.
pub type SearchedRows = BTreeSet<(usize, String)>;

/// The warnings about the data of a stage. What is in `searched` is not searched again.
pub fn warnings<O>(
    stage: &str,
    train: &Train<O>,
    domains: &[DomainData],
    specs: &[ModelSpec],
    searched: &mut SearchedRows,
) -> Vec<String> {
    let student = &specs[train.start.0 as usize].tokenizer;
    let mut warnings = Vec::new();
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let Some(prompts) = data.rows_of(train) else { continue };
        let dataset = &prompts.dataset;
        if let Some(conversation) = dataset.conversation(0) {
            warnings.extend(other_templates(stage, train, share.domain, data, &conversation, specs));
            warnings.extend(unmarked_end(stage, &data.name, &conversation, student));
        }
        if searched.insert((std::ptr::from_ref(dataset) as usize, student.hash())) {
            warnings.extend(dataset.warnings.iter().map(|slip| format!("{}; {}", slip.message, slip.help)));
            warnings.extend(repeated(dataset).map(|rows| rows.to_string()));
            warnings.extend(markers(dataset, student));
        }
        warnings.extend(unshown_tools(stage, dataset, student));
        let mut teachers = BTreeSet::new();
        for choice in train.scorers.readers(share.domain) {
            let Some(teacher) = choice.teacher.spec_model().filter(|_| !choice.own_tokens) else { continue };
            if teachers.insert(teacher) {
                let of_teacher = &specs[teacher.0 as usize].tokenizer;
                warnings.extend(other_splits(stage, &choice.name, prompts, student, of_teacher, &data.name));
            }
        }
    }
    warnings
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
    domain: DomainId,
    data: &DomainData,
    conversation: &Conversation,
    specs: &[ModelSpec],
) -> BTreeSet<String> {
    // A conversation that can't be rendered is reported where it is read.
    let rendered = |model: ModelId| {
        let tokenizer = &specs[model.0 as usize].tokenizer;
        let tokens = chat::prompt(tokenizer, conversation.clone()).ok()?;
        tokenizer.as_read(&tokens).ok()
    };
    let Some(students) = rendered(train.start) else { return BTreeSet::new() };
    let readers = train.scorers.readers(domain).filter(|choice| !choice.own_tokens && choice.sees.is_none());
    let warnings = readers.filter_map(|choice| {
        let teachers = rendered(choice.teacher.spec_model()?).filter(|teachers| *teachers != students)?;
        let from = first_difference(&students, &teachers);
        Some(format!(
            "`{stage}`: the chat template of `{}` renders the prompts of `{}` otherwise than the \
             student's, by which it reads them: from character {from} on its own has {}, the student's {}",
            choice.name,
            data.name,
            quote(&teachers.chars().skip(from).collect::<String>()),
            quote(&students.chars().skip(from).collect::<String>()),
        ))
    });
    warnings.collect()
}

/// A template of the student whose marks leave out the token that ends a turn. It is trained all the same.
fn unmarked_end(
    stage: &str,
    domain: &str,
    conversation: &Conversation,
    student: &Tokenizer,
) -> Option<String> {
    let end = chat::unmarked_end(student, conversation)?;
    Some(format!(
        "`{stage}`: the `{{% generation %}}` part of the student's chat template leaves out {}, which ends \
         the turns of `{domain}`: it is trained too, because the student would never learn to stop",
        quote(&end),
    ))
}

/// The number of characters that two texts have in common at their beginning.
fn first_difference(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests;
