//! Hovers: the name under the cursor; for a term or an objective, also what its gradient follows.

use lsp_types::{Hover, HoverContents, HoverParams};
use mopd_compiler::audit::{self, ObjectiveUse, TermAudit};
use mopd_lang::Analysis;
use mopd_lang::check::index::{NameTarget, SymbolKind};
use mopd_lang::experiment::{Objective, Stage, Train};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::planned::Planned;
use super::super::session::{Document, ENTRY, Session};

pub fn handle(session: &Session, params: HoverParams) -> Result<Option<Hover>, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position_params)?;
    let found = ide::hover(&document.analysis, offset);
    Ok(found.map(|found| {
        let gradients = gradients(session, document, offset).unwrap_or_default();
        let stage = stage(session, document, offset).unwrap_or_default();
        Hover {
            contents: HoverContents::Markup(super::markdown(found.markdown + &gradients + &stage)),
            range: Some(lines.range_of(found.span)),
        }
    }))
}

/// The fate of a model in a run, and its cost.
fn stage(session: &Session, document: &Document, offset: u32) -> Option<String> {
    let index = &document.analysis.index;
    let NameTarget::Symbol(id) = index.at(ENTRY, offset)?.target else { return None };
    let symbol = index.symbol(id);
    if symbol.kind != SymbolKind::Model {
        return None;
    }
    Planned::of(session, document)?.of_model(&symbol.name)
}

/// What the gradients of an objective's terms, or of one term, follow. It is computed on request: the
/// analysis after a keystroke has no objectives.
fn gradients(session: &Session, document: &Document, offset: u32) -> Option<String> {
    let index = &document.analysis.index;
    let NameTarget::Symbol(id) = index.at(ENTRY, offset)?.target else { return None };
    let symbol = index.symbol(id);
    let place = |analysis: &Analysis, span: mopd_lang::source::Span| {
        (analysis.sources.file(span.file).path.clone(), span)
    };
    let (path, extent) = place(&document.analysis, symbol.extent);
    let whole = session.whole(document);
    let within = |origin: mopd_lang::experiment::Origin| {
        let (file, span) = place(&whole, *whole.origins.get(origin.0 as usize)?);
        (file == path && extent.start <= span.start && span.end <= extent.end).then_some(())
    };
    let (objective, usage) = objectives(&whole).into_iter().find(|(objective, _)| match symbol.kind {
        SymbolKind::Objective => within(objective.origin).is_some(),
        SymbolKind::Term => objective.terms.iter().any(|term| within(term.origin).is_some()),
        _ => false,
    })?;
    let asked = |place: &usize| {
        symbol.kind == SymbolKind::Objective || within(objective.terms[*place].origin).is_some()
    };
    let terms: Vec<TermAudit> = (0..objective.terms.len())
        .filter(asked)
        .map(|place| audit::audit_term(objective, place, &usage))
        .collect();
    let mut text = "\n\nGradient, by `mopd audit`:".to_owned();
    for term in terms {
        for (place, line) in term.lines().into_iter().enumerate() {
            let name = if place == 0 { format!("- `{}` ", term.term) } else { "  ".to_owned() };
            text += &format!("\n{name}{line}{}", if place == 0 { "" } else { "." });
        }
    }
    Some(text)
}

/// Every objective, with its use by a stage if there is one.
fn objectives(analysis: &Analysis) -> Vec<(&Objective, ObjectiveUse)> {
    let mut found: Vec<(&Objective, ObjectiveUse)> = Vec::new();
    let models = analysis
        .experiment
        .iter()
        .flat_map(|experiment| experiment.models.iter().map(move |model| (experiment, model)));
    for (experiment, model) in models {
        let trains: Vec<&Train> = match &model.stage {
            Stage::Train(train) => vec![train],
            Stage::Joint(joint) => joint.steps.iter().map(|step| &step.train).collect(),
            _ => Vec::new(),
        };
        found.extend(trains.into_iter().map(|train| (&train.objective, ObjectiveUse::of(experiment, train))));
    }
    found.extend(analysis.objectives.iter().map(|named| (&named.objective, ObjectiveUse::unknown())));
    found
}
