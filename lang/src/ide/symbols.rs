//! The outline of a file.

use super::ENTRY;
use crate::check::Analysis;
use crate::check::index::{SymbolId, SymbolKind};
use crate::source::{FileId, Span};
use crate::syntax::ast::ItemKind;
use crate::syntax::parse;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    /// `None` for items that can't be referred to: `experiment`, `compare`, `route`, `sweep`.
    pub kind: Option<SymbolKind>,
    pub detail: String,
    pub extent: Span,
    /// The span of the name, within `extent`.
    pub name_span: Span,
    pub children: Vec<Outline>,
}

/// The items of a file in order, each with its parameters, `let`s and terms.
pub fn outline(analysis: &Analysis, file: FileId) -> Vec<Outline> {
    let Some(tree) = analysis.index.tree(file) else { return Vec::new() };
    let ids: Vec<SymbolId> =
        analysis.index.ids().filter(|id| analysis.index.symbol(*id).span.file == file).collect();
    let mut outlines = Vec::new();
    for item in &tree.items {
        let unnamed = |name: &str, name_span: Span, keyword: &str| Outline {
            name: name.to_owned(),
            kind: None,
            detail: keyword.to_owned(),
            extent: item.span,
            name_span,
            children: Vec::new(),
        };
        match &item.kind {
            ItemKind::Experiment { name, .. } => {
                outlines.push(unnamed(&name.text, within(name.span, item.span), "experiment"))
            }
            ItemKind::Compare { name, .. } => {
                outlines.push(unnamed(&name.text, within(name.span, item.span), "compare"))
            }
            ItemKind::Route(_) => {
                let keyword = Span { end: (item.span.start + 5).min(item.span.end), ..item.span };
                outlines.push(unnamed("route", keyword, ""));
            }
            ItemKind::Sweep { .. } => {
                let keyword = Span { end: (item.span.start + 5).min(item.span.end), ..item.span };
                outlines.push(unnamed("sweep", keyword, ""));
            }
            ItemKind::Use(_) => {}
            _ => {
                let declared = crate::check::declared_name(&item.kind).map(|name| name.span);
                let symbol = ids.iter().copied().find(|id| {
                    let symbol = analysis.index.symbol(*id);
                    symbol.owner.is_none() && Some(symbol.span) == declared
                });
                outlines.extend(symbol.map(|id| of_symbol(analysis, id, &ids)));
            }
        }
    }
    outlines
}

/// The named items of a file, without an analysis: parsing is enough.
pub fn declarations(text: &str) -> Vec<Outline> {
    let (tree, _) = parse(ENTRY, text);
    let declared = tree.items.iter().filter_map(|item| {
        let (name, kind) = (crate::check::declared_name(&item.kind)?, SymbolKind::from_item(&item.kind)?);
        Some(Outline {
            name: name.text.clone(),
            kind: Some(kind),
            detail: kind.name().to_owned(),
            extent: item.span,
            name_span: within(name.span, item.span),
            children: Vec::new(),
        })
    });
    declared.collect()
}

fn of_symbol(analysis: &Analysis, id: SymbolId, ids: &[SymbolId]) -> Outline {
    let symbol = analysis.index.symbol(id);
    let shown = |kind| {
        matches!(
            kind,
            SymbolKind::Parameter
                | SymbolKind::LocalLet
                | SymbolKind::State
                | SymbolKind::Term
                | SymbolKind::Where
                | SymbolKind::Trained
                | SymbolKind::Step
        )
    };
    let children = ids.iter().copied().filter(|child| {
        let child = analysis.index.symbol(*child);
        child.owner == Some(id) && shown(child.kind)
    });
    let mut children: Vec<Outline> = children.map(|child| of_symbol(analysis, child, ids)).collect();
    children.sort_by_key(|child| child.name_span.start);
    Outline {
        name: symbol.name.clone(),
        kind: Some(symbol.kind),
        detail: symbol
            .info
            .as_ref()
            .and_then(super::describe::unit_and_axis)
            .unwrap_or_else(|| symbol.kind.name().to_owned()),
        extent: symbol.extent,
        name_span: within(symbol.span, symbol.extent),
        children,
    }
}

/// The name's span, moved into its extent: editors refuse an outline whose name lies outside.
fn within(name: Span, extent: Span) -> Span {
    if extent.start <= name.start && name.end <= extent.end { name } else { extent }
}
