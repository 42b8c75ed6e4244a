//! Converts templates of scorers: those that are filled with a data row, a draft, the verifier's message and
//! completions of the group.

use mopd_experiment::formula::{Adaptive, Formula, FormulaKind};
use mopd_experiment::{Slot as CheckedSlot, Template, TemplatePiece};
use mopd_lang::source::Span;
use mopd_plan::View;
use mopd_plan::views::{Piece, Slot, SlotShare};

use super::schedules::schedule;
use super::{Converted, Origins, refused};

/// Converts a template without numbers; `at` is the place of its reader.
pub fn view(template: &Template, at: Span, origins: Origins) -> Converted<View> {
    let none = none_here(template, at);
    let pieces = pieces(template, TemplateContext::default(), at, origins, &none)?;
    Ok(View { name: template.name.clone(), pieces })
}

/// Converts a template with numbers, one per sequence, which `number` lowers. If a model writes feedback for
/// it, `others` has the feedback's index in the stage.
pub fn view_with_numbers(
    template: &Template,
    feedback: Option<u32>,
    at: Span,
    origins: Origins,
    number: Number,
) -> Converted<View> {
    let pieces = pieces(template, TemplateContext { panel: None, feedback }, at, origins, number)?;
    Ok(View { name: template.name.clone(), pieces })
}

/// Converts a template for the members of a panel. There is no completion yet when they read it.
pub fn view_of_panel(template: &Template, panel: u32, at: Span, origins: Origins) -> Converted<View> {
    let others = TemplateContext { panel: Some(panel), feedback: None };
    let pieces = pieces(template, others, at, origins, &none_here(template, at))?;
    let view = View { name: template.name.clone(), pieces };
    if view.slots().any(|slot| slot.of_completion() && *slot != Slot::Transcript(panel)) {
        let construct = format!("a slot about a completion in the template `{}` of a panel", view.name);
        return Err(refused(at, construct));
    }
    Ok(view)
}

/// The panel and the feedback of the stage that fill a template.
#[derive(Clone, Copy, Default)]
pub(crate) struct TemplateContext {
    pub panel: Option<u32>,
    pub feedback: Option<u32>,
}

/// The conversion of a number in a template.
type Number<'a> = &'a dyn Fn(&Formula) -> Converted<mopd_plan::Formula>;

fn none_here(template: &Template, at: Span) -> impl Fn(&Formula) -> Converted<mopd_plan::Formula> {
    move |_| Err(refused(at, format!("a number in the template `{}` here", template.name)))
}

/// The pieces of a template, or of a `rewrite`.
pub(crate) fn pieces(
    template: &Template,
    TemplateContext { panel, feedback }: TemplateContext,
    at: Span,
    origins: Origins,
    number: Number,
) -> Converted<Vec<Piece>> {
    let slot = |of: &CheckedSlot, name: &str, at: Span| match (of, panel, feedback) {
        (CheckedSlot::Transcript, Some(panel), _) => Ok(Slot::Transcript(panel)),
        (CheckedSlot::Feedback, _, Some(feedback)) => Ok(Slot::WrittenFeedback(feedback)),
        _ => slot(of, name, at),
    };
    let piece = |piece: &TemplatePiece| {
        Ok(match piece {
            TemplatePiece::Text(text) => Piece::Text(text.clone()),
            TemplatePiece::Slot(of) => Piece::Slot(slot(of, &template.name, at)?),
            TemplatePiece::First { slot: of, share: part } => {
                Piece::First { slot: slot(of, &template.name, at)?, share: share(part, origins)? }
            }
            TemplatePiece::Last { slot: of, share: part } => {
                Piece::Last { slot: slot(of, &template.name, at)?, share: share(part, origins)? }
            }
            TemplatePiece::Number(formula) => Piece::Number(number(formula)?),
            TemplatePiece::Anything => unreachable!("it stands on the left of a `rewrite` only"),
        })
    };
    template.pieces.iter().map(piece).collect()
}

/// The shown share of a slot: known before the run, or learned by the stage.
fn share(of: &Formula, origins: Origins) -> Converted<SlotShare> {
    let what = "a share of a slot";
    match &of.0.kind {
        FormulaKind::Adaptive(Adaptive::Learned { .. }) => {
            let learned = origins.roles.learned.as_slice();
            match learned.iter().position(|known| known.0.kind == of.0.kind) {
                Some(0) => Ok(SlotShare::LEARNED),
                Some(_) => Err(refused(origins.span(of.0.origin), "a second `learned(...)` in one stage")),
                None => {
                    let construct = format!("{what} that is learned outside of a teacher's template");
                    Err(refused(origins.span(of.0.origin), construct))
                }
            }
        }
        _ => schedule(of, what, origins).map(SlotShare::Schedule),
    }
}

fn slot(slot: &CheckedSlot, template: &str, at: Span) -> Converted<Slot> {
    let name = match slot {
        CheckedSlot::Prompt => return Ok(Slot::Prompt),
        CheckedSlot::Data(field) => return Ok(Slot::Data(field.clone())),
        CheckedSlot::Draft => return Ok(Slot::Draft),
        CheckedSlot::Feedback => return Ok(Slot::Feedback),
        CheckedSlot::Group(member) => return Ok(Slot::Group(*member)),
        CheckedSlot::Completion => "completion",
        CheckedSlot::Transcript => "transcript",
        CheckedSlot::Answer { .. } => return Err(refused(at, format!("a teacher's answer in `{template}`"))),
        CheckedSlot::Shortened { .. } => "short(...)",
        CheckedSlot::Shuffled(_) => "shuffled(...)",
    };
    Err(refused(at, format!("the slot `{{{name}}}` of the template `{template}`")))
}
