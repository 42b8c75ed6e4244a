//! `derived(two_candidates(guide), from: attempts)`: the student's attempts at a prompt, then its completions
//! of a new prompt, which a template makes of the attempts and of texts by teachers (arXiv:2606.18216). If
//! the template lacks something for a prompt, the prompt keeps its attempts.

use mopd_experiment::GroupMember;
use serde::{Deserialize, Serialize};

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::views::{Piece, Slot};
use crate::{Role, View};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Derived {
    /// The template of the new prompt.
    pub sees: View,
    /// The texts made for the new prompt, in this order. Each is a slot of the template, or of a later text.
    pub texts: Vec<DerivedText>,
    /// The producer of the attempts: the student's.
    pub of: Producer,
}

/// A text in a derived prompt, other than the data's row and the attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DerivedText {
    /// The first completion with this property among those that `writer` writes for the plain prompt: as many
    /// as the student's group has, with the same settings.
    Answer { writer: Role, member: GroupMember },
    /// A shortened version of a text, written by `writer`.
    Short { writer: Role, sees: View, max_tokens: u32 },
    /// Some texts in random order.
    Shuffled { slots: Vec<Slot> },
}

impl DerivedText {
    /// The role that writes the text, if any.
    pub fn writer(&self) -> Option<Role> {
        match self {
            DerivedText::Answer { writer, .. } | DerivedText::Short { writer, .. } => Some(*writer),
            DerivedText::Shuffled { .. } => None,
        }
    }

    fn slots(&self) -> Vec<&Slot> {
        match self {
            DerivedText::Answer { .. } => Vec::new(),
            DerivedText::Short { sees, .. } => sees.slots().collect(),
            DerivedText::Shuffled { slots } => slots.iter().collect(),
        }
    }
}

impl Derived {
    /// The separator of shuffled texts.
    pub const BETWEEN: &'static str = "\n\n";

    fn described(&self, sees: FieldValue, of: Fields, groups: Option<u32>) -> Fields {
        Fields::new("derived")
            .with("sees", sees)
            .with("texts", FieldValue::Made(self.texts.clone()))
            .with("of", FieldValue::Fields(of))
            .with_groups("batch", groups)
    }

    /// The sampling settings of attempts and completions.
    pub fn sampling(&self) -> &Sampling {
        self.of.sampling().expect("the student attempts")
    }

    /// The sampling settings of shortening: those of attempts, with another length and without stop texts.
    pub fn shortening(&self, max_tokens: u32) -> Sampling {
        let (max_tokens_moves, stop) = (None, Vec::new());
        Sampling { n: 1, max_tokens, max_tokens_moves, stop, ..self.sampling().clone() }
    }

    /// The roles whose answers are needed, each once.
    pub fn answering(&self) -> Vec<Role> {
        let mut roles: Vec<Role> = Vec::new();
        for text in &self.texts {
            if let DerivedText::Answer { writer, .. } = text
                && !roles.contains(writer)
            {
                roles.push(*writer);
            }
        }
        roles
    }

    /// The roles that shorten texts, with their templates and their limits in tokens.
    pub fn shorts(&self) -> impl Iterator<Item = (Role, &View, u32)> {
        self.texts.iter().filter_map(|text| match text {
            DerivedText::Short { writer, sees, max_tokens } => Some((*writer, sees, *max_tokens)),
            DerivedText::Answer { .. } | DerivedText::Shuffled { .. } => None,
        })
    }

    /// All templates that replace prompts.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        std::iter::once(&self.sees).chain(self.shorts().map(|(_, view, _)| view))
    }

    /// The properties of the attempts that are shown, each once.
    pub fn members(&self) -> Vec<GroupMember> {
        let slots = self.sees.slots().chain(self.texts.iter().flat_map(DerivedText::slots));
        let mut members: Vec<GroupMember> = Vec::new();
        for slot in slots {
            if let Slot::Group(member) = slot
                && !members.contains(member)
            {
                members.push(*member);
            }
        }
        members
    }

    /// The most tokens of attempts and texts in a view. `completion` and `between` are the lengths of a
    /// completion and of [`Derived::BETWEEN`].
    pub fn shown(&self, view: &View, completion: u32, between: u32) -> u32 {
        let slots = view.slots().map(|slot| self.tokens(slot, completion, between));
        slots.fold(0, u32::saturating_add)
    }

    fn tokens(&self, slot: &Slot, completion: u32, between: u32) -> u32 {
        match slot {
            Slot::Group(_) => completion,
            Slot::Made(place) => match &self.texts[*place as usize] {
                DerivedText::Answer { .. } => completion,
                DerivedText::Short { max_tokens, .. } => *max_tokens,
                DerivedText::Shuffled { slots } => {
                    let each = slots.iter().map(|slot| self.tokens(slot, completion, between));
                    let gaps = between.saturating_mul(slots.len().saturating_sub(1) as u32);
                    each.fold(gaps, u32::saturating_add)
                }
            },
            _ => 0,
        }
    }
}

impl ProducerKind for Derived {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(FieldValue::View(self.sees.clone()), self.of.kind().fields(None, model), groups)
    }

    /// The fields without the template's name, which changes no result.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(FieldValue::Pieces(self.sees.pieces.clone()), self.of.kind().key(None, model), groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    fn derives(&self) -> Option<&Derived> {
        Some(self)
    }

    /// Assumes that every template has all that it shows, which costs most.
    fn assume_conditions(&mut self, holds: bool) {
        let any = |slot: &mut Slot| {
            if let Slot::Group(member) = slot {
                *member = GroupMember::Other;
            }
        };
        self.sees.pieces.iter_mut().filter_map(Piece::slot_mut).for_each(any);
        for text in &mut self.texts {
            match text {
                DerivedText::Answer { member, .. } => *member = GroupMember::Other,
                DerivedText::Short { sees, .. } => {
                    sees.pieces.iter_mut().filter_map(Piece::slot_mut).for_each(any);
                }
                DerivedText::Shuffled { slots } => slots.iter_mut().for_each(any),
            }
        }
        self.of.kind_mut().assume_conditions(holds);
    }

    fn draws_inside(&self) -> bool {
        true
    }

    /// The student's, because it samples attempts and completions with the same settings.
    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    /// The cost of an attempt, its completion, others' answers, and shortening for the whole group.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let mut all = self.of.kind().parameters(of)? + of(Writer::Student)? as f64;
        for writer in self.answering() {
            all += of(Writer::Scorer(writer))? as f64;
        }
        for (writer, ..) in self.shorts() {
            all += of(Writer::Scorer(writer))? as f64 / f64::from(self.group().max(1));
        }
        Some(all)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
