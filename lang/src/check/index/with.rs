//! Names around `base with { ... }`, and in families over named values.

use crate::syntax::ast::{Binding, Block, Expr, ExprKind, ItemKind, Name, NamedValue};

use super::walk::{Scope, Walk};
use crate::check::builtins;
use crate::check::builtins::kinds::SettingKey;
use crate::check::builtins::vocabulary;
use crate::check::read::changes::MOST_CHANGES;
use crate::check::values::environment::EvaluationContext;

impl Walk<'_> {
    pub(super) fn changed(&mut self, scope: &Scope, base: &Expr, block: &Block) {
        self.expr(scope, base);
        let keys = self.keys_of(scope, base).unwrap_or_default();
        self.block(scope, block, keys);
    }

    /// They may be schedules.
    pub(super) fn named_values(&mut self, scope: &Scope, values: &[NamedValue]) {
        for named in values {
            self.expr(&scope.within(EvaluationContext::Schedule), &named.value);
        }
    }

    /// The `sums` of `domain hard = sums with { ... }`.
    pub(super) fn base(&mut self, scope: &Scope, base: Option<&Name>) {
        let Some(base) = base else { return };
        if let Some(target) = self.resolve(scope, &base.text) {
            self.record(base.span, target);
        }
    }

    /// The model or teacher that a `with`, or an index, is of.
    fn binding_of(&self, scope: &Scope, base: &Expr) -> Option<(&Binding, bool)> {
        let name = match &base.kind {
            ExprKind::Name(name) => name,
            ExprKind::Index { base, .. } => match &base.kind {
                ExprKind::Name(name) => name,
                _ => return None,
            },
            ExprKind::With { base, .. } => return self.binding_of(scope, base),
            _ => return None,
        };
        match &self.modules.item(self.modules.lookup(scope.module, name)?.item).kind {
            ItemKind::Model(binding) => Some((binding, false)),
            ItemKind::Teacher { binding, .. } => Some((binding, true)),
            _ => None,
        }
    }

    /// The settings that a `with` of this base may change.
    fn keys_of(&self, scope: &Scope, base: &Expr) -> Option<&'static [SettingKey]> {
        let (mut binding, teacher) = self.binding_of(scope, base)?;
        if teacher {
            return vocabulary::keys("teacher");
        }
        for _ in 0..MOST_CHANGES {
            match &binding.value.kind {
                ExprKind::Call { callee, .. } => {
                    let ExprKind::Name(name) = &callee.kind else { return None };
                    return vocabulary::keys(builtins::find(name)?.name);
                }
                ExprKind::With { base, .. } => binding = self.binding_of(scope, base)?.0,
                _ => return None,
            }
        }
        None
    }

    pub(super) fn picks_by_name(&self, scope: &Scope, base: &Expr, index: &Expr) -> bool {
        let ExprKind::Name(name) = &index.kind else { return false };
        let family = self.binding_of(scope, base).and_then(|(binding, _)| binding.index.as_ref());
        let named = family.is_some_and(|family| matches!(family.over.kind, ExprKind::NamedValues(_)));
        named && !self.locals.iter().any(|(local, _)| local == name)
    }
}
