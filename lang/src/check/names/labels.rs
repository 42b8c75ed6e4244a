//! The places of names that are written before a `:` or `=` and read nothing: keys of settings, names of
//! arguments, and names that are declared.

use rustc_hash::FxHashSet;

use crate::syntax::ast::{
    Argument, Binding, Block, Condition, DivergenceItem, Expr, ExprKind, Index, Item, ItemKind, Name,
    Parameter, Route, Statement,
};

/// The offsets of all of them in a file.
pub fn labels<'a>(items: impl Iterator<Item = &'a Item>) -> FxHashSet<u32> {
    let mut labels = Labels { found: FxHashSet::default() };
    items.for_each(|item| labels.item(item));
    labels.found
}

struct Labels {
    found: FxHashSet<u32>,
}

impl Labels {
    fn name(&mut self, name: &Name) {
        self.found.insert(name.span.start);
    }

    fn item(&mut self, item: &Item) {
        match &item.kind {
            ItemKind::Use(_) => {}
            ItemKind::Param(parameter) => self.parameter(parameter),
            ItemKind::Let { name, value, .. }
            | ItemKind::Reward { name, value }
            | ItemKind::Schedule { name, value }
            | ItemKind::Panel { name, value } => {
                self.name(name);
                self.expr(value);
            }
            ItemKind::Experiment { block, .. }
            | ItemKind::Domain { block, .. }
            | ItemKind::Eval { block, .. }
            | ItemKind::Compare { block, .. } => self.block(block),
            ItemKind::Model(binding) => self.binding(binding, &[]),
            ItemKind::Teacher { binding, parameters } => self.binding(binding, parameters),
            ItemKind::Fn { name, parameters, body }
            | ItemKind::Stage { name, parameters, body }
            | ItemKind::Rollout { name, parameters, body }
            | ItemKind::Divergence(DivergenceItem { name, parameters, body, .. })
            | ItemKind::Template { name, parameters, text: body } => {
                self.name(name);
                parameters.iter().for_each(|parameter| self.parameter(parameter));
                self.expr(body);
            }
            ItemKind::Objective { name, parameters, body } => {
                self.name(name);
                parameters.iter().for_each(|parameter| self.parameter(parameter));
                self.block(body);
            }
            ItemKind::Sweep { axes, .. } => axes.iter().for_each(|axis| self.index(axis)),
            ItemKind::Route(route) => self.route(route),
        }
    }

    fn parameter(&mut self, Parameter { name, default, .. }: &Parameter) {
        self.name(name);
        default.iter().for_each(|default| self.expr(default));
    }

    fn binding(&mut self, Binding { name, indices, value }: &Binding, parameters: &[Parameter]) {
        self.name(name);
        parameters.iter().for_each(|parameter| self.parameter(parameter));
        indices.iter().for_each(|index| self.index(index));
        self.expr(value);
    }

    fn index(&mut self, index: &Index) {
        self.expr(&index.over);
    }

    fn block(&mut self, block: &Block) {
        for statement in &block.statements {
            match statement {
                Statement::Entry(entry) => {
                    self.name(&entry.key);
                    self.expr(&entry.value);
                }
                Statement::Let { name, index, value, .. } => {
                    self.name(name);
                    index.iter().for_each(|index| self.index(index));
                    self.expr(value);
                }
                Statement::State { name, index, first, next, .. } => {
                    self.name(name);
                    index.iter().for_each(|index| self.index(index));
                    std::iter::once(first).chain(next).for_each(|value| self.expr(value));
                }
                Statement::Term { name, index, value, block } => {
                    self.name(name);
                    index.iter().for_each(|index| self.index(index));
                    self.expr(value);
                    block.iter().for_each(|block| self.block(block));
                }
                Statement::Trains { name, value } => {
                    self.name(name);
                    self.expr(value);
                }
                Statement::Step { block, .. } => self.block(block),
                Statement::Route(route) => self.route(route),
            }
        }
    }

    fn route(&mut self, route: &Route) {
        for arm in &route.arms {
            arm.index.iter().for_each(|index| self.index(index));
            self.condition(&arm.condition);
            self.expr(&arm.target);
        }
    }

    fn condition(&mut self, condition: &Condition) {
        if let Condition::When(condition) = condition {
            self.expr(condition);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Number { .. }
            | ExprKind::Text(_)
            | ExprKind::Bool(_)
            | ExprKind::Name(_)
            | ExprKind::Error => {}
            ExprKind::Field { base: inner, .. }
            | ExprKind::Unary { operand: inner, .. }
            | ExprKind::Live(inner) => self.expr(inner),
            ExprKind::With { base, changes } => {
                self.expr(base);
                self.expr(changes);
            }
            ExprKind::Settings(block) => self.block(block),
            ExprKind::NamedValues(values) => {
                for named in values {
                    self.name(&named.name);
                    self.expr(&named.value);
                }
            }
            ExprKind::List(items) => items.iter().for_each(|item| self.expr(item)),
            ExprKind::Index { base: left, index: right }
            | ExprKind::Binary { left, right, .. }
            | ExprKind::Arrow { from: left, to: right }
            | ExprKind::Versus { left, right }
            | ExprKind::Then { first: left, second: right }
            | ExprKind::Range { low: left, high: right }
            | ExprKind::Pipe { value: left, through: right } => {
                self.expr(left);
                self.expr(right);
            }
            ExprKind::Call { callee, arguments, block } => {
                self.expr(callee);
                // `blend(student: 0.1, t: 0.9)` reads the roles that it names.
                let roles = matches!(&callee.kind, ExprKind::Name(name) if name == "blend");
                for Argument { name, value } in arguments {
                    name.iter().filter(|_| !roles).for_each(|name| self.name(name));
                    self.expr(value);
                }
                block.iter().for_each(|block| self.block(block));
            }
            ExprKind::Where { value, bindings } => {
                for binding in bindings {
                    self.name(&binding.name);
                    self.expr(&binding.value);
                }
                self.expr(value);
            }
            ExprKind::Match { arms } => {
                for arm in arms {
                    self.condition(&arm.condition);
                    self.expr(&arm.value);
                }
            }
            ExprKind::By { value, block, .. } => {
                self.expr(value);
                self.block(block);
            }
            ExprKind::For { index, carried, body } => {
                self.index(index);
                if let Some(carried) = carried {
                    self.name(&carried.name);
                    self.expr(&carried.start);
                }
                self.expr(body);
            }
        }
    }
}
