//! Teachers without an input for some completions: an objective must test `available` before it reads them.

use mopd_lang::diag::Diagnostic;
use mopd_plan::{ModelSignal, Objective, Panel, Role, Scorers, Signal};

use crate::lower::refusal::{Origins, refused};

pub fn refusal(objective: &Objective, scorers: &Scorers, origins: Origins) -> Option<Diagnostic> {
    let lacks = |role: Role| {
        let views = scorers.choices(role).iter().filter_map(|choice| choice.sees.as_ref());
        views.into_iter().find(|view| view.may_lack())
    };
    let at = origins.span(objective.origin);
    let compositions = scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let composed = compositions.filter_map(|choice| Some((choice, choice.teacher.composition()?)));
    for (choice, composition) in composed {
        if composition.roles().any(|role| lacks(role).is_some()) {
            let construct =
                format!("composing `{}` from a teacher whose template may have an empty slot", choice.name);
            return Some(*refused(at, construct));
        }
    }
    let signals = objective.graph.signals(&objective.outputs());
    let (role, view) = scorers.iter().find_map(|(role, _)| {
        let asked = signals.contains(&Signal::Available { role });
        Some((role, lacks(role).filter(|_| !asked && objective.reads(role))?))
    })?;
    let name = scorers.name(role);
    let construct = format!(
        "an objective that reads `{name}` without testing `available`, although a slot of the template \
        `{}` may be empty",
        view.name
    );
    let help = format!("test it where it is read: `where(available({name}), ..., 0)`");
    Some((*refused(at, construct)).help(help))
}

/// Refuses reading the stated confidence of a panel that states none.
pub fn unstated_confidence(objective: &Objective, panels: &[Panel], origins: Origins) -> Option<Diagnostic> {
    let stated =
        |role: Role| panels.iter().any(|panel| panel.confidence.is_some() && panel.members.contains(&role));
    let read = objective.signals().into_iter().find_map(|signal| match signal {
        Signal::Of { role, part: ModelSignal::StatedConfidence } if !stated(role) => Some(role),
        _ => None,
    })?;
    let name = panels.iter().find(|panel| panel.members.contains(&read)).map_or("", |panel| &panel.name);
    let construct = format!("reading the confidence of the panel `{name}`, which does not state one");
    let help = "let the panel state one: `confidence = integer(0..=100)`";
    Some((*refused(origins.span(objective.origin), construct)).help(help))
}
