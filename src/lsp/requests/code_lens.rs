//! Code lenses above declarations: run the experiment or one model of its tables, audit an objective, and
//! each stage's fate in a run.

use lsp_types::{CodeLens, CodeLensParams, Command};
use mopd_lang::check::index::SymbolKind;
use mopd_lang::ide::{self, Outline};
use serde_json::json;

use super::super::dispatch::RequestError;
use super::super::planned::DocumentPlan;
use super::super::session::{ENTRY, Session};

pub fn handle(session: &Session, params: CodeLensParams) -> Result<Vec<CodeLens>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let outlines = ide::outline(&document.analysis, ENTRY);
    // A file that only others import has no plan.
    let planned = DocumentPlan::compile(session, document);
    let runs = |command: &str| session.client.runs_commands.then(|| command.to_owned());
    let mut found = Vec::new();
    let mut add = |outline: &Outline, title: String, command: Option<String>, more: &[String]| {
        let with_more = || match more {
            [] => vec![json!(document.uri)],
            more => vec![json!(document.uri), json!(more)],
        };
        found.push(CodeLens {
            range: lines.range_of(outline.name_span),
            command: Some(Command {
                title,
                arguments: command.is_some().then(with_more),
                // A lens without a command is text.
                command: command.unwrap_or_default(),
            }),
            data: None,
        });
    };
    for outline in &outlines {
        match outline.kind {
            None if outline.detail == "experiment" => {
                for (title, command) in [("run", "mopd.run"), ("watch", "mopd.watch")] {
                    if let Some(command) = runs(command) {
                        add(outline, title.to_owned(), Some(command), &[]);
                    }
                }
                if let Some(planned) = &planned {
                    add(outline, planned.summary(), None, &[]);
                }
            }
            Some(SymbolKind::Objective) => {
                if let Some(command) = runs("mopd.audit") {
                    add(outline, "audit".to_owned(), Some(command), &[]);
                }
            }
            Some(SymbolKind::Model) => {
                let fate = planned.as_ref().and_then(|planned| planned.fate(family(&outline.name)));
                if let Some(fate) = fate {
                    add(outline, fate, None, &[]);
                }
                let alone = planned.as_ref().and_then(|planned| planned.alone(&outline.name));
                if let (Some(alone), Some(command)) = (alone, runs("mopd.run")) {
                    add(outline, "run alone".to_owned(), Some(command), &alone);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The name of a family without the member.
fn family(name: &str) -> &str {
    name.split('[').next().unwrap_or(name)
}
