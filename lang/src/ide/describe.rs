//! Descriptions of symbols: their declarations and values.

use std::rc::Rc;

use crate::check::Analysis;
use crate::check::ValueInfo;
use crate::check::index::{Symbol, SymbolId, SymbolKind};
use crate::syntax::ast::{DivergenceItem, Item, ItemKind, Parameter};
use mopd_experiment::formula::Axis;

/// The longest declaration that is shown whole, in characters.
const LONGEST: usize = 110;

/// The declaration of an item, without its body.
pub fn head(item: &Item, source: &str) -> String {
    let callable = |keyword: &str, name: &str, parameters: &[Parameter]| {
        let listed: Vec<String> = parameters.iter().map(|parameter| written(parameter, source)).collect();
        if listed.is_empty() {
            format!("{keyword} {name}")
        } else {
            format!("{keyword} {name}({})", listed.join(", "))
        }
    };
    match &item.kind {
        ItemKind::Fn { name, parameters, .. } => callable("fn", &name.text, parameters),
        ItemKind::Stage { name, parameters, .. } => callable("stage", &name.text, parameters),
        ItemKind::Objective { name, parameters, .. } => callable("objective", &name.text, parameters),
        ItemKind::Template { name, parameters, .. } => callable("template", &name.text, parameters),
        ItemKind::Rollout { name, parameters, .. } => callable("rollout", &name.text, parameters),
        ItemKind::Divergence(DivergenceItem { name, is_sum, directed, parameters, .. }) => {
            let head = callable(if *is_sum { "sum" } else { "divergence" }, &name.text, parameters);
            if *directed { head.replacen(", ", " || ", 1) } else { head }
        }
        ItemKind::Teacher { binding, parameters } if !parameters.is_empty() => {
            callable("teacher", &binding.name.text, parameters)
        }
        _ => {
            let text = &source[item.span.start as usize..item.span.end as usize];
            shortened(text.strip_prefix("pub ").unwrap_or(text))
        }
    }
}

/// The declaration of a parameter: `clip_at: nats = 5`.
pub fn written(parameter: &Parameter, source: &str) -> String {
    let mut text = parameter.name.text.clone();
    if let Some(annotation) = &parameter.annotation {
        text += &format!(": {}", annotation.text);
    }
    if let Some(default) = &parameter.default {
        text += &format!(" = {}", &source[default.span.start as usize..default.span.end as usize]);
    }
    text
}

/// The first line, without the `{` that ends it.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim_end();
    let whole = line.len() == text.trim_end().len();
    let line = if whole { line } else { line.trim_end_matches(['{', ' ']) };
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{} ...", line[..cut].trim_end()),
        None => line.to_owned(),
    }
}

/// The declaration of a symbol: `objective mopd(clip_at: nats = 5)`.
pub fn signature(analysis: &Analysis, id: SymbolId) -> String {
    let symbol = analysis.index.symbol(id);
    let source = &analysis.sources.file(symbol.span.file).text;
    match symbol.kind {
        SymbolKind::Parameter => match parameter(analysis, symbol) {
            Some(parameter) => written(parameter, source),
            None => symbol.name.clone(),
        },
        SymbolKind::LocalLet
        | SymbolKind::State
        | SymbolKind::Term
        | SymbolKind::Trained
        | SymbolKind::Step => {
            format!("{} {}", symbol.kind.name(), shortened(analysis.sources.text(symbol.extent)))
        }
        SymbolKind::Turn | SymbolKind::Carried | SymbolKind::Where => {
            shortened(analysis.sources.text(symbol.extent))
        }
        _ => match item(analysis, symbol) {
            Some(item) => head(item, source),
            None => format!("{} {}", symbol.kind.name(), symbol.name),
        },
    }
}

/// The item that declares a symbol.
fn item<'a>(analysis: &'a Analysis, symbol: &Symbol) -> Option<&'a Item> {
    analysis
        .index
        .tree(symbol.span.file)?
        .items
        .iter()
        .map(Rc::as_ref)
        .find(|item| item.span == symbol.extent)
}

fn parameter<'a>(analysis: &'a Analysis, symbol: &Symbol) -> Option<&'a Parameter> {
    let owner = analysis.index.symbol(symbol.owner?);
    parameters(item(analysis, owner)?).iter().find(|parameter| parameter.name.span == symbol.span)
}

pub fn parameters(item: &Item) -> &[Parameter] {
    match &item.kind {
        ItemKind::Fn { parameters, .. }
        | ItemKind::Stage { parameters, .. }
        | ItemKind::Objective { parameters, .. }
        | ItemKind::Teacher { parameters, .. }
        | ItemKind::Template { parameters, .. }
        | ItemKind::Rollout { parameters, .. }
        | ItemKind::Divergence(DivergenceItem { parameters, .. }) => parameters,
        _ => &[],
    }
}

/// The parameters of a callable symbol, as written, with their names.
pub fn written_parameters(analysis: &Analysis, id: SymbolId) -> Vec<(String, String)> {
    let symbol = analysis.index.symbol(id);
    let source = &analysis.sources.file(symbol.span.file).text;
    let listed = item(analysis, symbol).map(parameters).unwrap_or_default();
    listed.iter().map(|parameter| (parameter.name.text.clone(), written(parameter, source))).collect()
}

/// `nats[token]`, or `nats` for a number known before the run.
pub fn unit_and_axis(info: &ValueInfo) -> Option<String> {
    let (unit, axis) = info.number?;
    Some(if axis == Axis::Run { unit.name().to_owned() } else { format!("{}[{}]", unit.name(), axis.name()) })
}

/// A value in one line: `nats[token], live`, `= 60`, `a model`.
pub fn info(info: &ValueInfo) -> String {
    let mut text = match (info.constant, unit_and_axis(info)) {
        (Some(value), _) => format!("= {value}"),
        (None, Some(shape)) if info.description != "a schedule" => shape,
        _ => info.description.clone(),
    };
    if info.live {
        text += ", live";
    }
    text
}
