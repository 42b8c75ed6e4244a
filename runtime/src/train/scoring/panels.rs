//! Signals of panel members, known before a step is scored: whether they answered, and their stated
//! confidence.

use mopd_plan::{ModelSignal, Panel, Role, Signal};

use crate::rollout::{Sequence, TurnSummary};
use crate::train::sequences::Sequences;

/// The index of the panel that a role is a member of, and its index among the members.
fn panel_and_member(panels: &[Panel], role: Role) -> Option<(u32, usize)> {
    panels.iter().zip(0..).find_map(|(panel, place)| {
        let member = panel.members.iter().position(|member| *member == role)?;
        Some((place, member))
    })
}

/// A signal of a member of a panel, for each sequence; `None` for other signals.
pub fn signal(panels: &[Panel], signal: &Signal, sequences: &Sequences) -> Option<Vec<f32>> {
    let (role, value): (Role, fn(TurnSummary) -> f32) = match signal {
        Signal::Available { role } => (*role, |stance| f32::from(u8::from(stance.answered))),
        Signal::Of { role, part: ModelSignal::StatedConfidence } => (*role, |stance| {
            // A missing confidence is NaN: `softmax(..., missing: uniform)` tests for that.
            stance.confidence.map_or(f32::NAN, |confidence| confidence as f32)
        }),
        _ => return None,
    };
    let (panel, member) = panel_and_member(panels, role)?;
    let silent = TurnSummary { answered: false, confidence: None };
    let stance = |sequence: &Sequence| {
        sequences.debate(panel, sequence).map_or(silent, |debate| debate.stances[member])
    };
    Some(sequences.list.iter().map(|sequence| value(stance(sequence))).collect())
}

/// How often members of panels stated no confidence, on the prompts of the sequences `own`; `None` where no
/// panel on these prompts asks for it.
pub fn unstated_confidences(panels: &[Panel], sequences: &Sequences, own: &[Sequence]) -> Option<f64> {
    let asked = |panel: u32| panels[panel as usize].confidence.is_some();
    let here = |prompt| own.iter().any(|sequence| (sequence.source, sequence.record) == prompt);
    let debates = sequences.debates.iter().filter(|debate| asked(debate.panel));
    let debates: Vec<_> =
        debates.filter(|debate| here((debate.prompt.source, debate.prompt.record))).collect();
    let stances = debates.iter().flat_map(|debate| &debate.stances);
    let silent = stances.filter(|stance| stance.confidence.is_none()).count();
    (!debates.is_empty()).then_some(silent as f64)
}
