//! Views: the text that a scorer reads in place of the prompt. The student's tokens follow it unchanged.

use std::borrow::Cow;

pub use mopd_experiment::GroupMember;
use serde::{Deserialize, Serialize};

use super::{Formula, Schedule};

/// A template that is filled for each row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The name of the template.
    pub name: String,
    pub pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    Text(String),
    Slot(Slot),
    /// The beginning of a slot: this share of its characters, rounded down.
    First {
        slot: Slot,
        share: SlotShare,
    },
    /// The end of a slot: this share of its characters, rounded down.
    Last {
        slot: Slot,
        share: SlotShare,
    },
    /// A number computed from rewards and lengths, per sequence, formatted by [`number`].
    Number(Formula),
}

/// The share of a slot that is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SlotShare {
    Schedule(Schedule),
    Found(FoundByRun),
}

/// A number that is known only at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundByRun {
    /// The value drawn by the stage's policy ([`Learned`](super::Learned)).
    Learned,
}

impl From<Schedule> for SlotShare {
    fn from(schedule: Schedule) -> SlotShare {
        SlotShare::Schedule(schedule)
    }
}

impl SlotShare {
    /// The share that the stage learns.
    pub const LEARNED: SlotShare = SlotShare::Found(FoundByRun::Learned);

    fn at(&self, moment: Moment) -> f64 {
        match (self, moment) {
            (SlotShare::Schedule(schedule), Moment::Step { step, steps, .. }) => schedule.at(step, steps),
            (SlotShare::Schedule(schedule), Moment::Most) => schedule.ends().into_iter().fold(0.0, f64::max),
            (SlotShare::Found(FoundByRun::Learned), Moment::Step { learned, .. }) => {
                learned.expect("a share is drawn before the step in which it is shown")
            }
            (SlotShare::Found(FoundByRun::Learned), Moment::Most) => 1.0,
        }
    }
}

impl Piece {
    pub fn slot(&self) -> Option<&Slot> {
        match self {
            Piece::Text(_) | Piece::Number(_) => None,
            Piece::Slot(slot) | Piece::First { slot, .. } | Piece::Last { slot, .. } => Some(slot),
        }
    }

    pub fn slot_mut(&mut self) -> Option<&mut Slot> {
        match self {
            Piece::Text(_) | Piece::Number(_) => None,
            Piece::Slot(slot) | Piece::First { slot, .. } | Piece::Last { slot, .. } => Some(slot),
        }
    }

    /// The field of the data that the piece reads.
    pub fn field(&self) -> Option<&str> {
        if let Some(Slot::Data(field)) = self.slot() { Some(field) } else { None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The prompt as text; for a conversation, the last message that is not the assistant's.
    Prompt,
    /// A field of the data.
    Data(String),
    /// The student's draft, before a teacher refined it.
    Draft,
    /// The verifier's message about the completion.
    Feedback,
    /// Another model's feedback about the completion, by its index in the stage. It may be empty.
    WrittenFeedback(u32),
    /// Another completion of the prompt, which may not exist.
    Group(GroupMember),
    /// The discussion of the prompt by a panel, by the panel's index in the stage.
    Transcript(u32),
    /// A text made for a derived prompt, by its index in the texts of the producer.
    Made(u32),
}

impl Slot {
    /// Whether the slot depends on the completion, or on the completions of the step.
    pub fn of_completion(&self) -> bool {
        match self {
            Slot::Draft
            | Slot::Feedback
            | Slot::WrittenFeedback(_)
            | Slot::Group(_)
            | Slot::Transcript(_)
            | Slot::Made(_) => true,
            Slot::Prompt | Slot::Data(_) => false,
        }
    }
}

/// The time at which the shares in a view are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    Step {
        step: u32,
        steps: u32,
        /// The current value of the learned share.
        learned: Option<f64>,
    },
    /// The largest value of each share, over all steps.
    Most,
}

impl View {
    /// A view of the prompt alone.
    pub fn of_prompt() -> View {
        View { name: "prompt".to_owned(), pieces: vec![Piece::Slot(Slot::Prompt)] }
    }

    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.pieces.iter().filter_map(Piece::slot)
    }

    /// The fields of the data that the view reads, each once.
    pub fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = Vec::new();
        for field in self.pieces.iter().filter_map(Piece::field) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }

    /// Whether the view contains the prompt. If not, it contains no turn of a conversation either.
    pub fn has_prompt(&self) -> bool {
        self.slots().any(|slot| *slot == Slot::Prompt)
    }

    /// Whether it contains a draft.
    pub fn has_draft(&self) -> bool {
        self.slots().any(|slot| *slot == Slot::Draft)
    }

    /// The number of drafts in the view.
    pub fn drafts(&self) -> u32 {
        self.slots().filter(|slot| **slot == Slot::Draft).count() as u32
    }

    /// Whether it contains the verifier's message.
    pub fn has_feedback(&self) -> bool {
        self.slots().any(|slot| *slot == Slot::Feedback)
    }

    /// The panel whose discussion the view contains.
    pub fn panel(&self) -> Option<u32> {
        self.slots().find_map(|slot| if let Slot::Transcript(panel) = slot { Some(*panel) } else { None })
    }

    /// The stage's feedback that the view contains, as indices, with repetition.
    pub fn written_feedback(&self) -> impl Iterator<Item = u32> {
        self.slots()
            .filter_map(|slot| if let Slot::WrittenFeedback(place) = slot { Some(*place) } else { None })
    }

    /// Whether a slot may have no content: a group may lack the member, and a writer may write nothing.
    pub fn may_lack(&self) -> bool {
        self.slots().any(|slot| matches!(slot, Slot::Group(_) | Slot::WrittenFeedback(_) | Slot::Made(_)))
    }

    /// Whether the view differs between the completions of a row.
    pub fn of_completions(&self) -> bool {
        self.slots().any(Slot::of_completion) || self.numbers().next().is_some()
    }

    /// The numbers that are computed for each completion, in the order of the view.
    pub fn numbers(&self) -> impl Iterator<Item = &Formula> {
        self.pieces
            .iter()
            .filter_map(|piece| if let Piece::Number(formula) = piece { Some(formula) } else { None })
    }

    /// Whether the view of a row is the same at every step.
    pub fn is_fixed(&self) -> bool {
        !self.of_completions() && !self.moves()
    }

    /// Whether a shown share of a slot changes during the run.
    pub fn moves(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Text(_) | Piece::Slot(_) | Piece::Number(_) => false,
            Piece::First { share, .. } | Piece::Last { share, .. } => {
                !matches!(share, SlotShare::Schedule(Schedule::Constant { .. }))
            }
        })
    }

    /// The view's text. `slot` returns a row's content of a slot, and `numbers` are the values of
    /// [`View::numbers`]; missing ones are left out.
    pub fn filled<'a>(
        &self,
        moment: Moment,
        slot: impl Fn(&Slot) -> &'a str,
        numbers: &'a [String],
    ) -> String {
        let mut numbers = numbers.iter();
        let part = |piece: &Piece| -> Cow<'_, str> {
            match piece {
                Piece::Number(_) => Cow::Borrowed(numbers.next().map_or("", String::as_str)),
                Piece::Text(text) => Cow::Owned(text.clone()),
                Piece::Slot(of) => Cow::Borrowed(slot(of)),
                Piece::First { slot: of, share } => {
                    let text = slot(of);
                    Cow::Borrowed(&text[..place(text, share.at(moment))])
                }
                Piece::Last { slot: of, share } => {
                    let text = slot(of);
                    let hidden = text.chars().count() - shared_characters(text, share.at(moment));
                    Cow::Borrowed(&text[place_of(text, hidden)..])
                }
            }
        };
        self.pieces.iter().map(part).collect()
    }
}

/// A number as text, with at most three decimals, so that a share of eight attempts is exact.
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        short => short.to_owned(),
    }
}

/// The number of characters in a share of a text.
fn shared_characters(text: &str, share: f64) -> usize {
    let all = text.chars().count();
    // Rounding may make 1/3 of 3 slightly less than 1.
    ((share.clamp(0.0, 1.0) * all as f64 + 1e-9).floor() as usize).min(all)
}

fn place(text: &str, share: f64) -> usize {
    place_of(text, shared_characters(text, share))
}

/// The byte offset of a character.
fn place_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScheduleLength;

    fn filled(pieces: Vec<Piece>, moment: Moment) -> String {
        let view = View { name: "shown".to_owned(), pieces };
        view.filled(
            moment,
            |slot| match slot {
                Slot::Prompt => "sort: 3 1",
                Slot::Data(_) => "größer",
                Slot::Draft => "3 1",
                _ => unreachable!("no test has it"),
            },
            &[],
        )
    }

    #[test]
    fn slots_are_filled_and_cut_at_characters() {
        let step = |step| Moment::Step { step, steps: 4, learned: None };
        let solution = || Slot::Data("solution".to_owned());
        let half = || SlotShare::from(Schedule::Constant { value: 0.5 });
        let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Text("\n".to_owned()), Piece::Slot(solution())];
        assert_eq!(filled(pieces, step(0)), "sort: 3 1\ngrößer");
        assert_eq!(filled(vec![Piece::First { slot: solution(), share: half() }], step(0)), "grö");
        assert_eq!(filled(vec![Piece::Last { slot: solution(), share: half() }], step(0)), "ßer");
        let third = || SlotShare::from(Schedule::Constant { value: 1.0 / 3.0 });
        assert_eq!(filled(vec![Piece::First { slot: solution(), share: third() }], step(0)), "gr");
        let fading = || SlotShare::from(Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run });
        let at = |moment| filled(vec![Piece::First { slot: solution(), share: fading() }], moment);
        assert_eq!([at(step(0)), at(step(1)), at(step(3))], ["größer", "größ", "g"]);
        assert_eq!(at(Moment::Most), "größer");
        let all = || SlotShare::from(Schedule::Constant { value: 1.0 });
        assert_eq!(filled(vec![Piece::Last { slot: solution(), share: all() }], step(0)), "größer");
        let none = || SlotShare::from(Schedule::Constant { value: 0.0 });
        assert_eq!(filled(vec![Piece::Last { slot: solution(), share: none() }], step(0)), "");
    }

    #[test]
    fn a_share_that_is_learned_is_that_of_the_step() {
        let piece = || Piece::First { slot: Slot::Data("solution".to_owned()), share: SlotShare::LEARNED };
        let view = View { name: "shown".to_owned(), pieces: vec![piece()] };
        assert!(view.moves() && !view.is_fixed());
        let step = |learned| Moment::Step { step: 0, steps: 4, learned: Some(learned) };
        let at = |moment| filled(vec![piece()], moment);
        assert_eq!(
            [at(step(0.0)), at(step(0.5)), at(step(0.99)), at(step(1.0))],
            ["", "grö", "größe", "größer"]
        );
        assert_eq!(at(Moment::Most), "größer", "what must fit");
        let written = serde_json::to_string(&piece()).unwrap();
        assert_eq!(written, r#"{"first":{"slot":{"data":"solution"},"share":"learned"}}"#);
        assert_eq!(serde_json::from_str::<Piece>(&written).unwrap(), piece());
    }

    #[test]
    fn a_view_says_what_it_reads() {
        let slot = |name: &str| Piece::Slot(Slot::Data(name.to_owned()));
        let mut view = View { name: "shown".to_owned(), pieces: vec![slot("a"), slot("b"), slot("a")] };
        assert_eq!(view.fields(), ["a", "b"]);
        assert!(!view.has_prompt() && view.is_fixed());
        let share = SlotShare::from(Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run });
        view.pieces.push(Piece::First { slot: Slot::Prompt, share });
        assert!(view.has_prompt() && !view.is_fixed() && !view.has_draft());
        view.pieces = vec![Piece::Slot(Slot::Draft)];
        assert!(view.has_draft() && !view.is_fixed(), "each completion has another");
        assert!(!view.may_lack() && !view.has_feedback());
        view.pieces = vec![Piece::Slot(Slot::Feedback), Piece::Slot(Slot::Group(GroupMember::Correct))];
        assert!(view.may_lack() && view.has_feedback() && !view.is_fixed() && !view.has_draft());
        let written = serde_json::to_string(&view.pieces).unwrap();
        assert_eq!(written, r#"[{"slot":"feedback"},{"slot":{"group":"correct"}}]"#);
        view.pieces = vec![Piece::Slot(Slot::Draft), Piece::Slot(Slot::WrittenFeedback(2))];
        assert!(view.may_lack() && !view.has_feedback() && view.of_completions() && view.drafts() == 1);
        assert_eq!(view.written_feedback().collect::<Vec<_>>(), [2]);
        view.pieces = vec![Piece::Slot(Slot::Prompt), Piece::Slot(Slot::Transcript(1))];
        assert!(view.panel() == Some(1) && !view.is_fixed() && !view.may_lack());
    }

    #[test]
    fn a_number_is_short_and_exact_for_eighths() {
        assert_eq!(
            [0.375, 1.0, 0.0, -0.0001, 2.0 / 3.0, 12.5, 100.0].map(number),
            ["0.375", "1", "0", "0", "0.667", "12.5", "100"]
        );
    }

    #[test]
    fn numbers_stand_in_their_order_and_are_of_completions() {
        let formula = |value| {
            let mut graph = mopd_expr::graph::Graph::default();
            let value = graph.constant(crate::Axis::Sequence, value);
            Piece::Number(Formula { graph, value })
        };
        let pieces = vec![formula(1.0), Piece::Text(" of ".to_owned()), formula(2.0)];
        let view = View { name: "shown".to_owned(), pieces };
        assert!(view.of_completions() && !view.is_fixed() && !view.may_lack() && !view.moves());
        let numbers = ["3".to_owned(), "8".to_owned()];
        let filled = |numbers| view.filled(Moment::Most, |_| unreachable!("it has no slot"), numbers);
        assert_eq!(filled(&numbers), "3 of 8");
        assert_eq!(filled(&[]), " of ", "before there are completions");
    }
}
