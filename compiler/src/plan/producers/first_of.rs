//! `first_of(tried |> keep(correct), hinted)`: for each prompt, the first rollout that has a completion.

use mopd_lang::experiment as checked;
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, OfCompletions, Producer, ProducerKind, Sampling, Writer, mix};
use crate::refusal::{Converted, Origins, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FirstOf {
    pub choices: Vec<Producer>,
}

impl FirstOf {
    fn described(&self, groups: Option<u32>, fields: impl Fn(&dyn ProducerKind) -> Fields) -> Fields {
        let choices = self.choices.iter().map(|choice| fields(choice.kind())).collect();
        Fields::of("first_of").with("choices", FieldValue::Each(choices)).with_groups("batch", groups)
    }
}

impl ProducerKind for FirstOf {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(groups, |choice| choice.fields(None, model))
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(groups, |choice| choice.key(None, model))
    }

    fn inner(&self) -> Vec<&Producer> {
        self.choices.iter().collect()
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        self.choices.iter_mut().collect()
    }

    /// It chooses anew at every step.
    fn fresh(&self) -> bool {
        true
    }

    /// With one sample, only if every choice may leave it out; with several samples, if any choice may.
    fn leaves_out(&self) -> bool {
        let mut each = self.choices.iter().map(|choice| choice.kind().leaves_out());
        if self.group() > 1 { each.any(|leaves_out| leaves_out) } else { each.all(|leaves_out| leaves_out) }
    }

    /// Each is drawn only if those before it have no completion.
    fn settle(&mut self, holds: bool) {
        let last = self.choices.len().saturating_sub(1);
        for (place, choice) in self.choices.iter_mut().enumerate() {
            choice.kind_mut().settle(holds && place == last);
        }
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        let policies: Vec<_> =
            self.choices.iter().map(|choice| choice.kind().policy()).collect::<Result<_, _>>()?;
        match policies.as_slice() {
            [first, rest @ ..] if rest.iter().all(|policy| policy == first) => Ok(*first),
            _ => Err("a `first_of` has several"),
        }
    }

    /// The cost if every choice is drawn.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        self.choices.iter().map(|choice| choice.kind().parameters(of)).sum()
    }

    fn asked(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }

    fn undivided(&self) -> Option<&'static str> {
        None
    }
}

pub(super) fn executable(
    choices: &[std::rc::Rc<checked::Rollout>],
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let mut made: Vec<Producer> = Vec::with_capacity(choices.len());
    for choice in choices {
        let at = origins.span(choice.origin);
        let producer = mix::side(choice, "first_of", origins, of_completions)?;
        if producer.all().into_iter().any(|inside| matches!(inside, Producer::FirstOf(_))) {
            return Err(refused(at, "a `first_of` inside another"));
        }
        let (group, first) = (producer.kind().group(), made.first().map(|first| first.kind().group()));
        if let Some(first) = first.filter(|first| *first != group) {
            return Err(refused(at, format!("a `first_of` of groups of {first} and of {group} samples")));
        }
        made.push(producer);
    }
    Ok(FirstOf { choices: made }.into())
}
