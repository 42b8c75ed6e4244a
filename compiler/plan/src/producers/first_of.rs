//! `first_of(tried |> keep(correct), hinted)`: for each prompt, the first rollout that has a completion.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FirstOf {
    pub choices: Vec<Producer>,
    /// For each choice the index of the first one that edits the same declared rollout. Empty where choices
    /// of rollouts with the same settings all edit the same one.
    #[serde(default)]
    pub same_as: Vec<u32>,
}

impl FirstOf {
    /// Choices among which rollouts with the same settings are one rollout.
    pub fn new(choices: Vec<Producer>) -> FirstOf {
        FirstOf { choices, same_as: Vec::new() }
    }

    /// For each choice the index of the first one whose completions it chooses from, too.
    pub fn shared(&self) -> Vec<usize> {
        match self.same_as.as_slice() {
            [] => {
                first_of_each(&self.choices, |one, other| one.before_choices().0 == other.before_choices().0)
            }
            same_as => same_as.iter().map(|index| *index as usize).collect(),
        }
    }

    fn described(&self, groups: Option<u32>, fields: impl Fn(&dyn ProducerKind) -> Fields) -> Fields {
        let choices = self.choices.iter().map(|choice| fields(choice.kind())).collect();
        let fields = Fields::new("first_of").with("choices", FieldValue::Each(choices));
        let fields = match self.same_as.is_empty() {
            true => fields,
            false => fields.with("same_as", FieldValue::Counts(self.same_as.clone())),
        };
        fields.with_groups("batch", groups)
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

    /// True, because the choice is made anew at every step.
    fn is_redrawn(&self) -> bool {
        true
    }

    /// With one sample: whether all choices may leave it out. With several: whether any choice may.
    fn may_drop(&self) -> bool {
        let mut each = self.choices.iter().map(|choice| choice.kind().may_drop());
        if self.group() > 1 { each.any(|may_drop| may_drop) } else { each.all(|may_drop| may_drop) }
    }

    /// Settles each choice. A choice is drawn only if those before it have no completion.
    fn assume_conditions(&mut self, holds: bool) {
        let last = self.choices.len().saturating_sub(1);
        for (place, choice) in self.choices.iter_mut().enumerate() {
            choice.kind_mut().assume_conditions(holds && place == last);
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

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}

/// For each element the index of the first one that is the same.
pub fn first_of_each<T>(all: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<usize> {
    let first = |one| all.iter().position(|other| same(one, other)).expect("it is the same as itself");
    all.iter().map(first).collect()
}
