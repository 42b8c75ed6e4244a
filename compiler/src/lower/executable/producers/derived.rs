//! Converts `derived(...)`, with its template.

use mopd_experiment::formula::Role as CheckedRole;
use mopd_experiment::{self as checked, Origin, Slot as CheckedSlot, TemplatePiece};
use mopd_lang::source::Span;
use mopd_plan::producers::{Derived, DerivedText};
use mopd_plan::views::{Piece, Slot, SlotShare};
use mopd_plan::{Keep, Producer, Role, View};

use super::edits::edit_name;
use super::{OfCompletions, producer};
use crate::lower::executable::schedules::schedule;
use crate::lower::refusal::{Converted, Origins, refused, role};

pub(super) fn executable(
    template: &checked::Template,
    of: &checked::Rollout,
    origin: Origin,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let (at, inside) = (origins.span(origin), origins.span(of.origin));
    if let Some(edit) = of.edits.first() {
        return Err(refused(inside, edit_name(edit)));
    }
    let of = producer(of, Keep::All, origins, of_completions)?;
    let attempts = if let Producer::Replay(replay) = &of { &replay.of } else { &of };
    if !matches!(attempts, Producer::Student(_)) {
        let refusal = *refused(inside, "`derived` from completions that are not the student's own samples");
        return Err(Box::new(
            refusal.help("let the student attempt the prompts: `from: sample(...)`, or a `replay` of that"),
        ));
    }
    let mut maker = TemplateConverter { template: &template.name, at, origins, origin, texts: Vec::new() };
    let pieces = template.pieces.iter().map(|piece| maker.piece(piece)).collect::<Converted<Vec<Piece>>>()?;
    let sees = View { name: template.name.clone(), pieces };
    let derived = Derived { sees, texts: maker.texts, of };
    if derived.members().is_empty() && derived.answering().is_empty() {
        let construct = format!(
            "`derived` with the template `{}`, in which no slot shows an \
            attempt",
            template.name
        );
        let help = "show one, as in \"{prompt}\\n\\nThis is wrong: {group.wrong}\"; for a template that \
            is the same for every attempt, set `sees` of the stage";
        return Err(Box::new((*refused(at, construct)).help(help)));
    }
    Ok(derived.into())
}

/// Converts the slots of a template to those of a plan.
struct TemplateConverter<'a> {
    /// The template's name.
    template: &'a str,
    at: Span,
    origins: Origins<'a>,
    /// The place of the rollout.
    origin: Origin,
    /// The texts that the slots need.
    texts: Vec<DerivedText>,
}

impl TemplateConverter<'_> {
    fn refused<T>(&self, what: &str) -> Converted<T> {
        Err(refused(self.at, format!("{what} in the template `{}` of a `derived`", self.template)))
    }

    fn piece(&mut self, piece: &TemplatePiece) -> Converted<Piece> {
        let part = |share| schedule(share, "a share of a slot", self.origins).map(SlotShare::Schedule);
        Ok(match piece {
            TemplatePiece::Text(text) => Piece::Text(text.clone()),
            TemplatePiece::Slot(slot) => Piece::Slot(self.slot(slot)?),
            TemplatePiece::First { slot, share } => {
                let share = part(share)?;
                Piece::First { slot: self.slot(slot)?, share }
            }
            TemplatePiece::Last { slot, share } => {
                let share = part(share)?;
                Piece::Last { slot: self.slot(slot)?, share }
            }
            TemplatePiece::Number(_) => return self.refused("a number"),
            TemplatePiece::Anything => unreachable!("it stands on the left of a `rewrite` only"),
        })
    }

    fn slot(&mut self, slot: &CheckedSlot) -> Converted<Slot> {
        let text = match slot {
            CheckedSlot::Prompt => return Ok(Slot::Prompt),
            CheckedSlot::Data(field) => return Ok(Slot::Data(field.clone())),
            CheckedSlot::Group(member) => return Ok(Slot::Group(*member)),
            CheckedSlot::Answer { by, member } => {
                DerivedText::Answer { writer: self.writer(by)?, member: *member }
            }
            CheckedSlot::Shortened { slot, by, max_tokens } => {
                let (slot, writer) = (self.slot(slot)?, self.writer(by)?);
                DerivedText::Short { writer, sees: asked_to_shorten(slot), max_tokens: *max_tokens }
            }
            CheckedSlot::Shuffled(slots) => {
                let slots = slots.iter().map(|slot| self.slot(slot)).collect::<Converted<Vec<Slot>>>()?;
                // The length of such texts must follow from their settings alone.
                if slots.iter().any(|slot| !slot.of_completion()) {
                    return self.refused("the prompt, or a field of the data, in `shuffled(...)`");
                }
                DerivedText::Shuffled { slots }
            }
            CheckedSlot::Completion => return self.refused("the slot `{completion}`"),
            CheckedSlot::Draft => return self.refused("the slot `{draft}`"),
            CheckedSlot::Transcript => return self.refused("the slot `{transcript}`"),
            CheckedSlot::Feedback => return self.refused("the slot `{feedback}`"),
        };
        let known = self.texts.iter().position(|known| *known == text);
        let place = known.unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() - 1
        });
        Ok(Slot::Made(place as u32))
    }

    fn writer(&self, by: &CheckedRole) -> Converted<Role> {
        match by {
            CheckedRole::Teacher | CheckedRole::Named { .. } => role(by, self.origins.at(self.origin)),
            other => self.refused(&format!("what the role `{}` writes", other.name())),
        }
    }
}

/// The prompt for shortening a text.
fn asked_to_shorten(text: Slot) -> View {
    let pieces = vec![
        Piece::Slot(Slot::Prompt),
        Piece::Text("\n\nAn answer:\n".to_owned()),
        Piece::Slot(text),
        Piece::Text("\n\nThe same answer in fewer words:\n".to_owned()),
    ];
    View { name: "short".to_owned(), pieces }
}
