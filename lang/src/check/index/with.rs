//! Names around `base with { ... }`, and in families over named values.

use crate::syntax::ast::{Binding, Expr, ExprKind, ItemKind, Name, NamedValue};

use super::walk::{Scope, Walk};
use crate::check::builtins;
use crate::check::builtins::kinds::SettingKey;
use crate::check::builtins::vocabulary;
use crate::check::evaluate::named_member;
use crate::check::read::changes::MOST_CHANGES;
use crate::check::values::environment::EvaluationContext;

impl Walk<'_> {
    pub(super) fn changed(&mut self, scope: &Scope, base: &Expr, changes: &Expr) {
        self.expr(scope, base);
        match &changes.kind {
            ExprKind::Settings(block) => {
                let keys = self.keys_of(scope, base).unwrap_or_default();
                self.block(scope, block, keys);
            }
            _ => self.expr(scope, changes),
        }
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
        if let ExprKind::With { base, .. } = &base.kind {
            return self.binding_of(scope, base);
        }
        let (name, _) = named_member(base)?;
        match &self.modules.item(self.modules.lookup(scope.module, name)?.item).kind {
            ItemKind::Model(binding) => Some((binding, false)),
            ItemKind::Teacher { binding, .. } => Some((binding, true)),
            _ => None,
        }
    }

    /// The settings that a `with` of this base may change.
    fn keys_of(&self, scope: &Scope, base: &Expr) -> Option<&'static [SettingKey]> {
        let of_call = |callee: &Expr| match &callee.kind {
            ExprKind::Name(name) => vocabulary::keys(builtins::find(name)?.name),
            _ => None,
        };
        match &base.kind {
            ExprKind::Call { callee, .. } => return of_call(callee),
            ExprKind::With { base, .. } => return self.keys_of(scope, base),
            _ => {}
        }
        let (mut binding, teacher) = self.binding_of(scope, base)?;
        if teacher {
            return vocabulary::keys("teacher");
        }
        for _ in 0..MOST_CHANGES {
            match &binding.value.kind {
                ExprKind::Call { callee, .. } => return of_call(callee),
                ExprKind::With { base, .. } => binding = self.binding_of(scope, base)?.0,
                _ => return None,
            }
        }
        None
    }

    pub(super) fn picks_by_name(&self, scope: &Scope, base: &Expr, index: &Expr) -> bool {
        let ExprKind::Name(name) = &index.kind else { return false };
        let picked = named_member(base).map_or(0, |(_, indices)| indices.len());
        let family = self.binding_of(scope, base).and_then(|(binding, _)| binding.indices.get(picked));
        let named = family.is_some_and(|family| matches!(family.over.kind, ExprKind::NamedValues(_)));
        named && !self.locals.iter().any(|(local, _)| local == name)
    }
}
