//! Hovers: the name under the cursor; for a term or an objective, also what its gradient follows.

use lsp_types::{Hover, HoverContents, HoverParams};
use mopd_compiler::audit::{self, ObjectiveUse, TermAudit};
use mopd_experiment::{Objective, Stage, Train};
use mopd_lang::Analysis;
use mopd_lang::check::index::{NameTarget, Symbol, SymbolKind};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::planned::DocumentPlan;
use super::super::session::{Document, ENTRY, RefreshInterruption, Session};

pub fn handle(session: &Session, params: HoverParams) -> Result<Option<Hover>, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position_params)?;
    let Some(found) = ide::hover(&document.analysis, offset) else { return Ok(None) };
    let more = match symbol_at(document, offset) {
        Some(symbol) if matches!(symbol.kind, SymbolKind::Objective | SymbolKind::Term) => {
            super::in_time(gradients(session, document, symbol))?.flatten()
        }
        Some(symbol) if symbol.kind == SymbolKind::Model => {
            DocumentPlan::compile(session, document).and_then(|planned| planned.of_model(&symbol.name))
        }
        _ => None,
    };
    Ok(Some(Hover {
        contents: HoverContents::Markup(super::markdown(found.markdown + &more.unwrap_or_default())),
        range: Some(lines.range_of(found.span)),
    }))
}

fn symbol_at(document: &Document, offset: u32) -> Option<&Symbol> {
    let index = &document.analysis.index;
    let NameTarget::Symbol(id) = index.at(ENTRY, offset)?.target else { return None };
    Some(index.symbol(id))
}

/// The audit of an objective's terms, or of one term, as text. It is computed on request: it takes longer
/// than a keystroke may.
fn gradients(
    session: &Session,
    document: &Document,
    symbol: &Symbol,
) -> Result<Option<String>, RefreshInterruption> {
    let (analysis, extent) = (&document.analysis, symbol.extent);
    let is_within = |origin: mopd_experiment::Origin| {
        let Some(span) = analysis.origins.get(origin.0 as usize) else { return false };
        span.file == extent.file && extent.start <= span.start && span.end <= extent.end
    };
    let found = objectives(analysis).into_iter().find(|(objective, _)| match symbol.kind {
        SymbolKind::Objective => is_within(objective.origin),
        _ => objective.terms.iter().any(|term| is_within(term.origin)),
    });
    let Some((objective, usage)) = found else { return Ok(None) };
    let keep_going = session.patience();
    let mut terms: Vec<TermAudit> = Vec::new();
    for (place, term) in objective.terms.iter().enumerate() {
        if !keep_going() {
            return Err(session.interruption());
        }
        if symbol.kind == SymbolKind::Objective || is_within(term.origin) {
            terms.push(audit::audit_term(objective, place, &usage));
        }
    }
    let mut text = "\n\nGradient, by `mopd audit`:".to_owned();
    for term in terms {
        for (place, line) in term.lines().into_iter().enumerate() {
            let name = if place == 0 { format!("- `{}` ", term.term) } else { "  ".to_owned() };
            text += &format!("\n{name}{line}{}", if place == 0 { "" } else { "." });
        }
    }
    Ok(Some(text))
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
        found.extend(
            trains.into_iter().map(|train| (&train.objective, ObjectiveUse::from_stage(experiment, train))),
        );
    }
    found.extend(analysis.objectives.iter().map(|named| (&named.objective, ObjectiveUse::unknown())));
    found
}
