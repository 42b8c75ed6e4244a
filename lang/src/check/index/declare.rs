//! Declarations of names: items, their parameters, names inside bodies.

use crate::source::{FileId, Span};
use crate::syntax::ast::{Block, Expr, ExprKind, ItemKind, Module, Name, Statement, Use, WhereBinding};

use super::walk::{Scope, Walk};
use super::{NameTarget, NameUse, Symbol, SymbolId, SymbolKind, ValueInfo};
use crate::check::names::callable::signature;
use crate::check::names::modules::{ItemId, ModuleId, declared_name};
use crate::check::values::environment::EvaluationContext;
use crate::check::values::recorded::ItemProgress;

/// An item's symbol and those of its parameters.
pub(super) struct ItemSymbols {
    pub(in crate::check) symbol: SymbolId,
    pub(in crate::check) parameters: Vec<SymbolId>,
}

impl Walk<'_> {
    /// The module and the names of an import.
    pub(super) fn import(&mut self, scope: &Scope, import: &Use) {
        let Some((module, file)) = self.modules.imported(scope.module, &import.module) else { return };
        if let Some(span) = import.module.span() {
            self.record(span, NameTarget::Module(file));
        }
        let tree = self.modules.tree(module);
        for name in &import.names {
            let found = tree
                .items
                .iter()
                .position(|item| declared_name(&item.kind).is_some_and(|known| known.text == name.text));
            if let Some(known) = found.and_then(|index| self.items.get(&ItemId { module, index })) {
                let target = NameTarget::Symbol(known.symbol);
                assert_eq!(name.span.file, self.modules.file(scope.module));
                self.record(name.span, target);
            }
        }
    }

    pub(super) fn declare_items(&mut self, module: ModuleId, file: FileId, tree: &Module) {
        for (index, item) in tree.items.iter().enumerate() {
            let Some(name) = declared_name(&item.kind).filter(|name| name.span.file == file) else {
                continue;
            };
            let Some(kind) = SymbolKind::from_item(&item.kind) else { continue };
            let parameters = signature(&item.kind).map_or(&[][..], |(_, parameters)| parameters);
            let id = ItemId { module, index };
            let info = match self.recorded.progress.get(&id) {
                Some(ItemProgress::Done(value)) if !kind.is_callable() => ValueInfo::from_value(value),
                _ => None,
            };
            self.owner = None;
            let symbol = self.declare(name, kind, item.span);
            let declared = &mut self.index.symbols[symbol.0 as usize];
            (declared.doc, declared.public, declared.info) = (item.doc.clone(), item.public, info);
            self.owner = Some(symbol);
            let parameters = parameters.iter().map(|parameter| {
                let extent = parameter
                    .default
                    .as_ref()
                    .map_or(parameter.name.span, |default| parameter.name.span.to(default.span));
                self.declare(&parameter.name, SymbolKind::Parameter, extent)
            });
            let parameters = parameters.collect();
            if let ItemKind::Model(binding) | ItemKind::Teacher { binding, .. } = &item.kind {
                self.declare_parts(&binding.value);
            }
            self.items.insert(id, ItemSymbols { symbol, parameters });
        }
    }

    /// Declares the bindings of a teacher's `where`, and the models and steps of a `train` stage.
    fn declare_parts(&mut self, value: &Expr) {
        match &value.kind {
            ExprKind::Where { bindings, .. } => {
                for WhereBinding { name, value } in bindings {
                    let symbol = self.declare(name, SymbolKind::Where, name.span.to(value.span));
                    self.parts.insert(name.span, symbol);
                }
            }
            ExprKind::For { body, .. } => self.declare_parts(body),
            ExprKind::Call { block: Some(block), .. } => {
                for statement in &block.statements {
                    if let Statement::Trains { name, value } = statement {
                        let symbol = self.declare(name, SymbolKind::Trained, name.span.to(value.span));
                        self.parts.insert(name.span, symbol);
                    }
                }
            }
            _ => {}
        }
    }

    /// Declares an objective's terms before its statements: `loss.<term>` may be written before the term.
    pub(super) fn declare_terms(&mut self, body: &Block) {
        for statement in &body.statements {
            if let Statement::Term { name, value, .. } = statement {
                let symbol = self.declare(name, SymbolKind::Term, name.span.to(value.span));
                self.parts.insert(name.span, symbol);
            }
        }
    }

    /// `star.w`, `pair.guide`, `loss.follow`: a name that an item, or this objective, declares.
    pub(super) fn part_of(&self, scope: &Scope, base: &Expr, field: &Name) -> Option<SymbolId> {
        let ExprKind::Name(name) = &base.kind else { return None };
        let owner = match self.resolve(scope, name)? {
            NameTarget::Symbol(owner) => owner,
            NameTarget::Signal(signal) if signal.name == "loss" => self.owner?,
            _ => return None,
        };
        self.parts.values().copied().find(|part| {
            let part = &self.index.symbols[part.0 as usize];
            part.owner == Some(owner) && part.name == field.text
        })
    }

    /// Makes a name visible from here on: the symbol of [`Self::declare_parts`], or else a new one.
    pub(super) fn bind_part(&mut self, name: &Name, kind: SymbolKind, extent: Span) {
        match self.parts.get(&name.span) {
            Some(known) => self.locals.push((name.text.clone(), NameTarget::Symbol(*known))),
            None => self.bind(name, kind, extent),
        }
    }

    pub(super) fn declare(&mut self, name: &Name, kind: SymbolKind, extent: Span) -> SymbolId {
        let id = SymbolId(self.index.symbols.len() as u32);
        self.index.symbols.push(Symbol {
            name: name.text.clone(),
            kind,
            span: name.span,
            extent,
            doc: String::new(),
            public: false,
            owner: self.owner,
            info: self.recorded.values.remove(&name.span),
        });
        let context = EvaluationContext::Constant;
        let target = NameTarget::Symbol(id);
        self.index.uses.push(NameUse { span: name.span, target, declares: true, context });
        id
    }

    pub(super) fn bind(&mut self, name: &Name, kind: SymbolKind, extent: Span) {
        let id = self.declare(name, kind, extent);
        self.locals.push((name.text.clone(), NameTarget::Symbol(id)));
    }
}
