//! The walk over the trees that finds every name and its target.

use rustc_hash::FxHashMap;

use crate::source::{Sources, Span};
use crate::syntax::ast::{
    Argument, Arm, Binding, Block, Condition, DivergenceItem, Expr, ExprKind, Index as Family, Item,
    ItemKind, MatchArm, Name, Parameter, Route, Statement, WhereBinding,
};

use super::contexts::{of_argument, of_setting};
use super::declare::ItemSymbols;
use super::{NameIndex, NameTarget, NameUse, RecordedValues, SymbolId, SymbolKind};
use crate::check::builtins;
use crate::check::builtins::kinds::{ArgumentKind, SettingKey, Word};
use crate::check::builtins::vocabulary;
use crate::check::formulas::divergences::COMMON;
use crate::check::names::modules::{ItemId, ModuleId, Modules};
use crate::check::objectives::in_reading_order;
use crate::check::teachers::mentions_logits;
use crate::check::values::environment::EvaluationContext;
use crate::check::values::resolve::{Resolved, resolve};

/// Walks all files and returns their symbols, uses and trees, not yet sorted.
pub(super) fn walk(modules: &Modules, sources: &Sources, recorded: RecordedValues) -> NameIndex {
    let mut walk = Walk {
        modules,
        sources,
        recorded,
        index: NameIndex::default(),
        items: FxHashMap::default(),
        parts: FxHashMap::default(),
        locals: Vec::new(),
        owner: None,
    };
    for (id, file) in modules.files() {
        walk.declare_items(id, file, &modules.tree(id));
    }
    for (id, file) in modules.files() {
        let tree = modules.tree(id);
        for (index, item) in tree.items.iter().enumerate() {
            // Of domains with the same settings, the first.
            if index > 0 && tree.items[index - 1].span == item.span {
                continue;
            }
            walk.owner = walk.items.get(&ItemId { module: id, index }).map(|known| known.symbol);
            let scope = Scope { module: id, context: EvaluationContext::Constant };
            walk.item(&scope, ItemId { module: id, index }, item);
            walk.locals.clear();
        }
        walk.index.trees.push((file, tree));
    }
    walk.index
}

/// The scope of an expression: with the locals, it determines the names that are visible.
#[derive(Clone, Copy)]
pub(in crate::check) struct Scope {
    pub(super) module: ModuleId,
    /// The evaluator's context of the expression. Names of the run come before the file's items.
    pub(super) context: EvaluationContext,
}

impl Scope {
    pub(super) fn within(self, context: EvaluationContext) -> Scope {
        Scope { context, ..self }
    }
}

pub(in crate::check) struct Walk<'a> {
    pub(in crate::check) modules: &'a Modules,
    pub(super) sources: &'a Sources,
    pub(in crate::check) recorded: RecordedValues,
    pub(in crate::check) index: NameIndex,
    pub(in crate::check) items: FxHashMap<ItemId, ItemSymbols>,
    /// Names that an item's value declares for others, by place: `star.w`, `pair.guide`, `loss.follow`.
    pub(in crate::check) parts: FxHashMap<Span, SymbolId>,
    pub(in crate::check) locals: Vec<(String, NameTarget)>,
    pub(in crate::check) owner: Option<SymbolId>,
}

impl Walk<'_> {
    pub(super) fn record(&mut self, span: Span, target: NameTarget) {
        self.record_in(EvaluationContext::Constant, span, target);
    }

    fn record_in(&mut self, context: EvaluationContext, span: Span, target: NameTarget) {
        self.index.uses.push(NameUse { span, target, declares: false, context });
    }

    fn item(&mut self, scope: &Scope, id: ItemId, item: &Item) {
        match &item.kind {
            ItemKind::Use(import) => self.import(scope, import),
            ItemKind::Experiment { block, .. } => self.block(scope, block, vocabulary::EXPERIMENT),
            ItemKind::Compare { block, .. } => self.block(scope, block, vocabulary::COMPARE),
            ItemKind::Domain { base, block, .. } => {
                self.base(scope, base.as_ref());
                self.block(scope, block, vocabulary::DOMAIN);
            }
            ItemKind::Param(Parameter { default: value, .. }) => {
                if let Some(value) = value {
                    self.expr(scope, value);
                }
            }
            ItemKind::Let { annotation, value, .. } => {
                self.type_name(annotation.as_ref());
                self.expr(scope, value);
            }
            ItemKind::Reward { value, .. } => self.expr(scope, value),
            ItemKind::Schedule { value, .. } => {
                self.expr(&scope.within(EvaluationContext::Schedule), value);
            }
            ItemKind::Fn { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.expr(&scope.within(EvaluationContext::Objective), body);
            }
            ItemKind::Stage { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.expr(scope, body);
            }
            ItemKind::Objective { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.objective(&scope.within(EvaluationContext::Objective), body);
            }
            ItemKind::Model(binding) => self.binding(scope, binding),
            ItemKind::Teacher { binding, parameters } => {
                self.parameters(scope, id, parameters);
                let composed = mentions_logits(&binding.value);
                let inner = if composed { scope.within(EvaluationContext::Objective) } else { *scope };
                self.binding(&inner, binding);
            }
            ItemKind::Template { parameters, text, .. } => {
                self.parameters(scope, id, parameters);
                self.place(scope, text, ArgumentKind::Template);
            }
            ItemKind::Rollout { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.expr(scope, body);
            }
            ItemKind::Divergence(DivergenceItem { parameters, body, .. }) => {
                self.parameters(scope, id, parameters);
                self.expr(&scope.within(EvaluationContext::Entry), body);
            }
            ItemKind::Panel { value, .. } => self.expr(scope, value),
            ItemKind::Eval { base, block, .. } => {
                self.base(scope, base.as_ref());
                self.block(scope, block, vocabulary::keys("eval").unwrap_or_default())
            }
            ItemKind::Sweep { axes, .. } => {
                for Family { name, over } in axes {
                    if let Some(target) = self.resolve(scope, &name.text) {
                        self.record(name.span, target);
                    }
                    self.expr(scope, over);
                }
            }
            ItemKind::Route(route) => self.route(scope, route),
        }
    }

    /// Visits parameters. Defaults see only the file's items; the parameters are bound after them.
    fn parameters(&mut self, scope: &Scope, id: ItemId, parameters: &[Parameter]) {
        for default in parameters.iter().filter_map(|parameter| parameter.default.as_ref()) {
            self.expr(scope, default);
        }
        for parameter in parameters {
            self.type_name(parameter.annotation.as_ref());
        }
        if let Some(known) = self.items.get(&id) {
            let bound = parameters.iter().zip(&known.parameters);
            self.locals.extend(
                bound.map(|(parameter, symbol)| (parameter.name.text.clone(), NameTarget::Symbol(*symbol))),
            );
        }
    }

    fn type_name(&mut self, annotation: Option<&Name>) {
        let Some(name) = annotation else { return };
        if let Some(word) = find_word(vocabulary::TYPES, &name.text) {
            self.record(name.span, NameTarget::Word(word));
        }
    }

    fn binding(&mut self, scope: &Scope, binding: &Binding) {
        for index in &binding.indices {
            self.turn(scope, index);
        }
        self.expr(scope, &binding.value);
    }

    fn turn(&mut self, scope: &Scope, index: &Family) {
        self.expr(scope, &index.over);
        self.bind(&index.name, SymbolKind::Turn, index.name.span.to(index.over.span));
    }

    fn route(&mut self, scope: &Scope, route: &Route) {
        for Arm { index, condition, target, .. } in &route.arms {
            let outer = self.locals.len();
            if let Some(index) = index {
                self.turn(scope, index);
            }
            self.locals.push(("domain".to_owned(), NameTarget::RoutedDomain));
            if let Condition::When(condition) = condition {
                self.expr(&scope.within(EvaluationContext::Objective), condition);
            }
            self.expr(scope, target);
            self.locals.truncate(outer);
        }
    }

    fn objective(&mut self, scope: &Scope, body: &Block) {
        self.declare_terms(body);
        // The next value of a state is computed at the end of the step: it sees all names.
        let mut moved = Vec::new();
        for statement in in_reading_order(body, self.sources) {
            match statement {
                Statement::Let { name, index, annotation, value } => {
                    self.type_name(annotation.as_ref());
                    self.indexed(scope, index.as_ref(), [value]);
                    self.bind(name, SymbolKind::LocalLet, name.span.to(value.span));
                }
                Statement::State { name, index, first, next, .. } => {
                    self.indexed(scope, index.as_ref(), [first]);
                    let end = next.as_ref().map_or(first.span, |next| next.span);
                    self.bind(name, SymbolKind::State, name.span.to(end));
                    moved.push((index.as_ref(), next));
                }
                Statement::Term { index, value, block, .. } => {
                    let outer = self.locals.len();
                    if let Some(index) = index {
                        self.turn(scope, index);
                    }
                    self.expr(scope, value);
                    if let Some(block) = block {
                        self.block(scope, block, vocabulary::keys("term").unwrap_or_default());
                    }
                    self.locals.truncate(outer);
                }
                Statement::Trains { value, .. } => self.expr(scope, value),
                Statement::Step { block, .. } => self.block(scope, block, &[]),
                Statement::Entry(entry) => self.entry(scope, &entry.key, &entry.value, vocabulary::OBJECTIVE),
                Statement::Route(route) => self.route(scope, route),
            }
        }
        for (index, next) in moved {
            self.indexed(scope, index, next);
        }
    }

    /// Visits values, with the variable of their index bound if they have one.
    fn indexed<'e>(
        &mut self,
        scope: &Scope,
        index: Option<&Family>,
        values: impl IntoIterator<Item = &'e Expr>,
    ) {
        let outer = self.locals.len();
        if let Some(index) = index {
            self.turn(scope, index);
        }
        values.into_iter().for_each(|value| self.expr(scope, value));
        self.locals.truncate(outer);
    }

    pub(super) fn block(&mut self, scope: &Scope, block: &Block, keys: &'static [SettingKey]) {
        let outer = self.locals.len();
        // The models that are trained together are visible in the settings of all.
        for statement in &block.statements {
            if let Statement::Trains { name, value } = statement {
                self.bind_part(name, SymbolKind::Trained, name.span.to(value.span));
            }
        }
        for statement in &block.statements {
            match statement {
                Statement::Entry(entry) => self.entry(scope, &entry.key, &entry.value, keys),
                Statement::Let { index, value, .. } | Statement::Term { index, value, .. } => {
                    self.indexed(scope, index.as_ref(), [value]);
                }
                Statement::State { index, first, next, .. } => {
                    self.indexed(scope, index.as_ref(), std::iter::once(first).chain(next));
                }
                Statement::Trains { value, .. } => self.expr(scope, value),
                Statement::Step { name, block } => {
                    self.declare(name, SymbolKind::Step, name.span.to(block.span));
                    self.block(scope, block, vocabulary::keys("step").unwrap_or_default());
                }
                Statement::Route(route) => self.route(scope, route),
            }
        }
        self.locals.truncate(outer);
    }

    fn entry(&mut self, scope: &Scope, name: &Name, value: &Expr, keys: &'static [SettingKey]) {
        let key = keys.iter().find(|key| key.name == name.text);
        if let Some(key) = key {
            self.record(name.span, NameTarget::Key(key));
        }
        let inner = key.map_or(*scope, |key| of_setting(*scope, key));
        self.place(&inner, value, key.map_or(ArgumentKind::Formula, |key| key.takes));
    }

    /// Visits an expression in which a bare name may be a word.
    pub(super) fn place(&mut self, scope: &Scope, expr: &Expr, takes: ArgumentKind) {
        match (&expr.kind, takes) {
            (ExprKind::Name(name), ArgumentKind::Words(words)) => {
                if let Some(word) = find_word(words, name) {
                    self.record(expr.span, NameTarget::Word(word));
                }
            }
            (ExprKind::Name(name), ArgumentKind::Support) if name == "full" => {
                self.record(expr.span, NameTarget::Word(&vocabulary::FULL[0]))
            }
            // Outside an objective `teacher` does not name the routed teacher.
            (ExprKind::Name(name), ArgumentKind::Teacher) if name == "teacher" => {
                self.expr(&scope.within(EvaluationContext::Objective), expr);
            }
            (ExprKind::Text(_) | ExprKind::Call { .. }, ArgumentKind::Template) => self.template(scope, expr),
            // Both sides of a `rewrite` have slots.
            (ExprKind::Arrow { from, to }, ArgumentKind::Text) => {
                self.place(scope, from, ArgumentKind::Template);
                self.place(scope, to, ArgumentKind::Template);
            }
            (ExprKind::Name(_), ArgumentKind::Field) => self.record(expr.span, NameTarget::Field),
            (ExprKind::Then { first, second }, ArgumentKind::Reduce) => {
                self.place(scope, first, takes);
                self.place(scope, second, takes);
            }
            (ExprKind::Call { callee, arguments, .. }, ArgumentKind::Reduce) => {
                self.place(scope, callee, ArgumentKind::Words(vocabulary::REDUCTIONS));
                for argument in arguments {
                    self.place(scope, &argument.value, ArgumentKind::Words(vocabulary::AXES));
                }
            }
            (ExprKind::By { value, block, .. }, _) => {
                self.place(scope, value, takes);
                self.block(scope, block, vocabulary::keys("by").unwrap_or_default());
            }
            (ExprKind::Match { arms }, _) => {
                for MatchArm { condition, value, .. } in arms {
                    if let Condition::When(condition) = condition {
                        self.expr(scope, condition);
                    }
                    self.place(scope, value, takes);
                }
            }
            // A denominator is an expression: `sum(token, over: batch) / sum(w, over: batch)`.
            (ExprKind::Binary { left, right, .. }, ArgumentKind::Reduce) => {
                self.place(scope, left, takes);
                self.expr(scope, right);
            }
            _ => self.expr(scope, expr),
        }
    }

    pub(super) fn expr(&mut self, scope: &Scope, expr: &Expr) {
        match &expr.kind {
            ExprKind::Number { .. } | ExprKind::Bool(_) | ExprKind::Error => {}
            ExprKind::Text(text) if text.contains('{') => self.names_in_text(expr),
            ExprKind::Text(_) => {}
            ExprKind::Name(name) => {
                if let Some(target) = self.resolve(scope, name) {
                    self.record_in(scope.context, expr.span, target);
                }
            }
            ExprKind::Field { base, field } => {
                self.expr(scope, base);
                if let Some(part) = self.part_of(scope, base, field) {
                    self.record(field.span, NameTarget::Symbol(part));
                } else if let Some(part) = vocabulary::PARTS.iter().find(|part| part.name == field.text) {
                    self.record(field.span, NameTarget::Part(part));
                }
            }
            ExprKind::Call { callee, arguments, block } => {
                self.call(scope, callee, arguments, block.as_ref())
            }
            ExprKind::With { base, changes } => self.changed(scope, base, changes),
            // What they are settings of is known where they are used.
            ExprKind::Settings(block) => self.block(scope, block, &[]),
            ExprKind::NamedValues(values) => self.named_values(scope, values),
            // The name of a member, not of what else has it.
            ExprKind::Index { base, index } if self.picks_by_name(scope, base, index) => {
                self.expr(scope, base);
            }
            ExprKind::List(items) => items.iter().for_each(|item| self.expr(scope, item)),
            ExprKind::Unary { operand, .. } | ExprKind::Live(operand) => self.expr(scope, operand),
            ExprKind::Index { base: left, index: right }
            | ExprKind::Binary { left, right, .. }
            | ExprKind::Arrow { from: left, to: right }
            | ExprKind::Versus { left, right }
            | ExprKind::Then { first: left, second: right }
            | ExprKind::Range { low: left, high: right } => {
                self.expr(scope, left);
                self.expr(scope, right);
            }
            ExprKind::Pipe { value, through } => {
                self.expr(scope, value);
                // An edit reads the result of the rollout: `keep(correct)`.
                self.expr(&scope.within(EvaluationContext::Objective), through);
            }
            ExprKind::Where { value, bindings } => {
                let scope = &scope.within(EvaluationContext::Objective);
                let outer = self.locals.len();
                for WhereBinding { name, value } in bindings {
                    self.expr(scope, value);
                    self.bind_part(name, SymbolKind::Where, name.span.to(value.span));
                }
                self.expr(scope, value);
                self.locals.truncate(outer);
            }
            ExprKind::Match { .. } | ExprKind::By { .. } => self.place(scope, expr, ArgumentKind::Formula),
            ExprKind::For { index, carried, body } => {
                let outer = self.locals.len();
                if let Some(carried) = carried {
                    self.expr(scope, &carried.start);
                }
                self.turn(scope, index);
                if let Some(carried) = carried {
                    self.bind(&carried.name, SymbolKind::Carried, carried.name.span.to(carried.start.span));
                }
                self.expr(scope, body);
                self.locals.truncate(outer);
            }
        }
    }

    pub(super) fn resolve(&self, scope: &Scope, name: &str) -> Option<NameTarget> {
        if let Some((_, target)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Some(*target);
        }
        match resolve(self.modules, scope.module, scope.context, name)? {
            Resolved::OfRun(_) => vocabulary::signal(name).map(NameTarget::Signal),
            Resolved::Item(item) => self.items.get(&item).map(|known| NameTarget::Symbol(known.symbol)),
            Resolved::Domains => Some(NameTarget::Domains),
            Resolved::Builtin(builtin) => Some(NameTarget::Builtin(builtin)),
            Resolved::Student | Resolved::Number(_) => None,
        }
    }

    fn call(&mut self, scope: &Scope, callee: &Expr, arguments: &[Argument], block: Option<&Block>) {
        self.expr(scope, callee);
        let target = match &callee.kind {
            ExprKind::Name(name) => self.resolve(scope, name),
            _ => None,
        };
        let mut position = 0;
        for argument in arguments {
            if argument.name.is_none() {
                position += 1;
            }
            let mut inner = *scope;
            let takes = match target {
                Some(NameTarget::Builtin(builtin)) => {
                    let parameter = match &argument.name {
                        Some(name) => builtin.parameter(&name.text),
                        None => builtin.parameters.get(position - 1),
                    };
                    inner = parameter.map_or(inner, |parameter| of_argument(inner, builtin, parameter));
                    parameter.map_or(ArgumentKind::Formula, |parameter| parameter.takes)
                }
                Some(NameTarget::Symbol(symbol)) => {
                    self.label(symbol, argument);
                    // `support:` and the other arguments common to all divergences, also to declared ones.
                    let divergence = self.index.symbols[symbol.0 as usize].kind == SymbolKind::Divergence;
                    let name = argument.name.as_ref().map(|name| name.text.as_str());
                    let common = name.filter(|name| divergence && COMMON.contains(name));
                    let parameter = common.and_then(|name| builtins::find("kl")?.parameter(name));
                    parameter.map_or(ArgumentKind::Formula, |parameter| parameter.takes)
                }
                _ => ArgumentKind::Formula,
            };
            self.place(&inner, &argument.value, takes);
        }
        if let Some(block) = block {
            let keys = match target {
                Some(NameTarget::Builtin(builtin)) => vocabulary::keys(builtin.name).unwrap_or_default(),
                _ => &[],
            };
            self.block(scope, block, keys);
        }
    }

    /// Records an argument's name as a use of the callee's parameter: `clip_at: 5`.
    fn label(&mut self, callee: SymbolId, argument: &Argument) {
        let Some(name) = &argument.name else { return };
        let parameter = self.index.parameters(callee).find(|id| self.index.symbol(*id).name == name.text);
        if let Some(parameter) = parameter {
            self.record(name.span, NameTarget::Symbol(parameter));
        }
    }
}

fn find_word(words: &'static [Word], name: &str) -> Option<&'static Word> {
    words.iter().find(|word| word.name == name)
}
