//! `mopd expr`: the compiled form of the expressions of an objective.

use mopd_compiler::Expressions;
use mopd_expr::graph::NodeId;
use mopd_expr::jit::{self, Program};
use mopd_lang::Analysis;
use mopd_lang::check::NamedObjective;
use mopd_lang::check::index::NameTarget;
use mopd_lang::diag::nearest;
use mopd_lang::ide::ENTRY;
use mopd_lang::syntax::ast::ItemKind;

use super::report;
use crate::args::{Emit, ExprArgs};
use crate::host;
use crate::output;
use crate::problem::{CommandStatus, Problem};

pub fn expr(arguments: &ExprArgs) -> Result<CommandStatus, Problem> {
    let analysis = host::analyse_file(&arguments.file, &[])?;
    report(&analysis);
    if analysis.has_errors() {
        return Ok(CommandStatus::Failure);
    }
    let (name, part) = match arguments.name.split_once('.') {
        Some((name, part)) => (name, Some(part)),
        None => (arguments.name.as_str(), None),
    };
    let named = objective(&analysis, name)?;
    let mut expressions = match mopd_compiler::expressions(&named.objective, &analysis.origins) {
        Ok(expressions) => expressions,
        Err(diagnostic) => {
            let mut analysis = analysis;
            analysis.diagnostics = vec![*diagnostic];
            report(&analysis);
            return Ok(CommandStatus::Failure);
        }
    };
    let roots = roots(&expressions, name, part)?;
    expressions.graph.set_fused(jit::fuses());
    let (ids, names): (Vec<NodeId>, Vec<String>) = roots.into_iter().map(|(name, id)| (id, name)).unzip();
    let mut text = String::new();
    if arguments.emit == Emit::Ir {
        text += &expressions.graph.listing(&ids);
    } else {
        let listings = Program::listings(&expressions.graph, &ids);
        let listings = listings.map_err(|error| {
            Problem::run("not-compiled", error.to_string())
                .help("a run interprets such an expression; `--emit ir` shows it")
        })?;
        for listing in listings {
            let nodes: Vec<String> = listing.nodes.iter().map(|node| format!("%{}", node.0)).collect();
            let code = if arguments.emit == Emit::Clif { listing.clif } else { listing.assembly };
            text +=
                &format!("; for each {}: {}\n{}\n", listing.axis.name(), nodes.join(" "), code.trim_end());
            for (node, function) in listing.ahead {
                text += &format!("; then %{} by code that is compiled ahead: {}\n", node.0, function.name());
            }
            text += "\n";
        }
    }
    for (name, id) in names.iter().zip(&ids) {
        text += &format!("; {name} is %{}\n", id.0);
    }
    output::result(&text);
    Ok(CommandStatus::Success)
}

/// An objective of a file, by name.
pub(super) fn objective<'a>(analysis: &'a Analysis, name: &str) -> Result<&'a NamedObjective, Problem> {
    let objectives = &analysis.objectives;
    let names = || objectives.iter().map(|named| named.objective.name.as_str());
    objectives.iter().find(|named| named.objective.name == name).ok_or_else(|| {
        let problem = Problem::usage("unknown-name", format!("the file has no objective `{name}`"));
        match (imported(analysis, name), nearest(name, names())) {
            (Some(file), _) => problem.help(format!("it is imported: name the file `{file}`")),
            (None, Some(meant)) => problem.help(format!("did you mean `{meant}`?")),
            (None, None) if objectives.is_empty() => problem.help("it declares none"),
            (None, None) => problem.help(format!("it has: {}", names().collect::<Vec<_>>().join(", "))),
        }
    })
}

/// The file, or library, from which the entry imports a name.
fn imported(analysis: &Analysis, name: &str) -> Option<String> {
    let items = &analysis.index.tree(ENTRY)?.items;
    let import = items.iter().find_map(|item| match &item.kind {
        ItemKind::Use(import) => import.names.iter().any(|taken| taken.text == name).then_some(import),
        _ => None,
    })?;
    let NameTarget::Module(file) = analysis.index.at(ENTRY, import.module.span()?.start)?.target else {
        return None;
    };
    let path = &analysis.sources.file(file).path;
    Some(if path.starts_with("std:") { import.module.to_string() } else { path.clone() })
}

/// The requested expressions, with their names.
fn roots(
    expressions: &Expressions,
    objective: &str,
    part: Option<&str>,
) -> Result<Vec<(String, NodeId)>, Problem> {
    let mut all: Vec<(String, NodeId)> = Vec::new();
    all.extend(expressions.select.map(|id| ("select".to_owned(), id)));
    all.extend(expressions.weight.map(|id| ("weight".to_owned(), id)));
    for term in &expressions.terms {
        all.push((term.name.clone(), term.value));
        all.extend(term.weight.map(|id| (format!("{}.weight", term.name), id)));
        all.extend(term.when.map(|id| (format!("{}.when", term.name), id)));
    }
    let Some(part) = part else { return Ok(all) };
    let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    all.retain(|(name, _)| name == part);
    if all.is_empty() {
        let problem = Problem::usage("unknown-name", format!("the objective `{objective}` has no `{part}`"));
        return Err(problem.help(format!("it has: {}", names.join(", "))));
    }
    Ok(all)
}
