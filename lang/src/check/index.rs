//! What every name resolves to, for editors: one entry a use, across all files of the analysis.
//!
//! The evaluator follows values, so it visits a body once per call, or never: a library's `for d in domains` has no domain to
//! turn over, and a call with a wrong argument stops before its other arguments. A rename must not miss those places. So uses
//! are found by one walk over the trees that applies the evaluator's rules for names (locals, then signals inside objectives,
//! then the file's items, then built-ins), and only what a name is worth comes from the evaluator.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::formula::{Axis, Unit};
use crate::source::{FileId, Span};
use crate::syntax::ast::{
    Argument, Arm, Binding, Block, Condition, Expr, ExprKind, Index as Family, Item, ItemKind, Module, Name, Parameter, Route,
    Statement, Use as Import,
};

use super::functions::{self, Builtin};
use super::modules::{ItemId, ModuleId, Modules, Progress, declared_name};
use super::value::Value;
use super::vocabulary::{self, Key, SignalName, Takes, Word};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymbolId(pub u32);

/// Something with a name and a place where it is declared.
#[derive(Debug)]
pub struct Symbol {
    pub name: String,
    pub kind: SymbolKind,
    /// Its name, where it is declared.
    pub span: Span,
    /// The whole declaration.
    pub extent: Span,
    pub doc: String,
    pub public: bool,
    /// The item that a parameter or local belongs to.
    pub owner: Option<SymbolId>,
    /// What it is worth, where the evaluator came by.
    pub worth: Option<Worth>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolKind {
    Param,
    Let,
    Fn,
    Domain,
    Reward,
    Schedule,
    Model,
    Teacher,
    Stage,
    Objective,
    /// Of a `fn`, `stage` or `objective`.
    Parameter,
    /// A `let` of an objective.
    LocalLet,
    Term,
    /// `d` of `for d in domains` and `[d in domains]`.
    Turn,
    /// `m` of `for d in domains, m = start`.
    Carried,
}

impl SymbolKind {
    /// As declared in source text, or in the reader's words.
    pub fn name(self) -> &'static str {
        match self {
            SymbolKind::Param => "param",
            SymbolKind::Let | SymbolKind::LocalLet => "let",
            SymbolKind::Fn => "fn",
            SymbolKind::Domain => "domain",
            SymbolKind::Reward => "reward",
            SymbolKind::Schedule => "schedule",
            SymbolKind::Model => "model",
            SymbolKind::Teacher => "teacher",
            SymbolKind::Stage => "stage",
            SymbolKind::Objective => "objective",
            SymbolKind::Parameter => "parameter",
            SymbolKind::Term => "term",
            SymbolKind::Turn => "each",
            SymbolKind::Carried => "carried",
        }
    }

    pub fn is_callable(self) -> bool {
        matches!(self, SymbolKind::Fn | SymbolKind::Stage | SymbolKind::Objective)
    }
}

/// What a name stands for, as far as the checker knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Worth {
    /// `a number`, `a model`, `the family `expert``
    pub description: String,
    pub number: Option<(Unit, Axis)>,
    pub live: bool,
    /// Known before the run, and the same wherever it is used.
    pub constant: Option<f64>,
}

impl Worth {
    pub(super) fn of(value: &Value) -> Option<Worth> {
        let (number, live) = match value {
            Value::Error => return None,
            Value::Formula(formula) => (Some((formula.unit(), formula.axis())), formula.live()),
            _ => (None, false),
        };
        Some(Worth { description: value.describe(), number, live, constant: value.constant() })
    }
}

/// What the evaluator tells of the names inside objectives.
#[derive(Default)]
pub struct Facts {
    worths: HashMap<Span, Worth>,
}

impl Facts {
    /// A body is evaluated once per call; what differs between calls is no constant.
    pub fn record(&mut self, declared: Span, mut worth: Worth) {
        if let Some(before) = self.worths.get(&declared)
            && before.constant != worth.constant
        {
            worth.constant = None;
        }
        self.worths.insert(declared, worth);
    }
}

/// What a name in the text refers to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    Symbol(SymbolId),
    /// The module named in a `use`.
    Module(FileId),
    Builtin(&'static Builtin),
    Signal(&'static SignalName),
    /// `.logp`
    Part(&'static SignalName),
    /// A word of a fixed list.
    Word(&'static Word),
    /// A setting of a block.
    Key(&'static Key),
    /// A field of the data.
    Field,
    /// `domains`: every domain of the experiment.
    Domains,
    /// `domain` in a route: the one that is being routed.
    RoutedDomain,
}

#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub span: Span,
    pub target: Target,
    /// The name is declared here.
    pub declares: bool,
}

/// An index that is built when it is first asked for: findings are needed after every keystroke, names are not.
pub type LazyIndex = LazyCell<Index, Box<dyn FnOnce() -> Index>>;

/// Names and trees of one analysis.
#[derive(Default)]
pub struct Index {
    pub symbols: Vec<Symbol>,
    /// Sorted by place.
    uses: Vec<Use>,
    trees: Vec<(FileId, Rc<Module>)>,
}

impl Index {
    pub fn symbol(&self, id: SymbolId) -> &Symbol {
        &self.symbols[id.0 as usize]
    }

    pub fn ids(&self) -> impl Iterator<Item = SymbolId> {
        (0..self.symbols.len() as u32).map(SymbolId)
    }

    pub fn tree(&self, file: FileId) -> Option<&Module> {
        self.trees.iter().find(|(known, _)| *known == file).map(|(_, tree)| tree.as_ref())
    }

    /// Every name of a file, in order.
    pub fn uses_in(&self, file: FileId) -> &[Use] {
        let start = self.uses.partition_point(|a_use| a_use.span.file < file);
        let end = self.uses.partition_point(|a_use| a_use.span.file <= file);
        &self.uses[start..end]
    }

    /// The name at an offset; a cursor right behind a name still means it.
    pub fn at(&self, file: FileId, offset: u32) -> Option<Use> {
        let uses = self.uses_in(file);
        let after = uses.partition_point(|a_use| a_use.span.start <= offset);
        uses[..after].iter().rev().take(2).find(|a_use| offset <= a_use.span.end).copied()
    }

    /// Every place that names a symbol, its declaration included, in order.
    pub fn places(&self, id: SymbolId) -> impl Iterator<Item = Use> {
        self.uses.iter().copied().filter(move |a_use| matches!(a_use.target, Target::Symbol(target) if target == id))
    }

    /// The symbol that is declared at a place.
    pub fn declared_at(&self, span: Span) -> Option<SymbolId> {
        self.ids().find(|id| self.symbol(*id).span == span)
    }

    /// The parameters of a `fn`, `stage` or `objective`, in order: they are declared right after it.
    pub fn parameters(&self, id: SymbolId) -> impl Iterator<Item = SymbolId> {
        let of_it = move |child: &SymbolId| {
            self.symbols.get(child.0 as usize).is_some_and(|child| child.owner == Some(id) && child.kind == SymbolKind::Parameter)
        };
        (id.0 + 1..).map(SymbolId).take_while(of_it)
    }

    pub(super) fn lazy(modules: Modules, facts: Facts) -> LazyIndex {
        LazyCell::new(Box::new(move || Index::build(&modules, facts)))
    }

    fn build(modules: &Modules, facts: Facts) -> Index {
        let mut walk = Walk { modules, facts, index: Index::default(), items: HashMap::new(), locals: Vec::new(), owner: None };
        for (id, file) in modules.files() {
            walk.declare_items(id, file, &modules.tree(id));
        }
        for (id, file) in modules.files() {
            let tree = modules.tree(id);
            for (index, item) in tree.items.iter().enumerate() {
                walk.owner = walk.items.get(&ItemId { module: id, index }).map(|known| known.symbol);
                walk.item(&Scope { module: id, signals: false }, ItemId { module: id, index }, item);
                walk.locals.clear();
            }
            walk.index.trees.push((file, tree));
        }
        walk.index.uses.sort_by_key(|a_use| a_use.span);
        walk.index
    }
}

/// An item's symbol and those of its parameters.
struct Known {
    symbol: SymbolId,
    parameters: Vec<SymbolId>,
}

/// Which names an expression sees, besides the locals.
#[derive(Clone, Copy)]
struct Scope {
    module: ModuleId,
    /// Inside an objective or a function, where signals come before the file's items.
    signals: bool,
}

struct Walk<'a> {
    modules: &'a Modules,
    facts: Facts,
    index: Index,
    items: HashMap<ItemId, Known>,
    locals: Vec<(String, Target)>,
    owner: Option<SymbolId>,
}

impl Walk<'_> {
    fn declare_items(&mut self, module: ModuleId, file: FileId, tree: &Module) {
        for (index, item) in tree.items.iter().enumerate() {
            let Some(name) = declared_name(&item.kind).filter(|name| name.span.file == file) else { continue };
            let (kind, parameters) = match &item.kind {
                ItemKind::Param(_) => (SymbolKind::Param, &[][..]),
                ItemKind::Let { .. } => (SymbolKind::Let, &[][..]),
                ItemKind::Fn { parameters, .. } => (SymbolKind::Fn, parameters.as_slice()),
                ItemKind::Domain { .. } => (SymbolKind::Domain, &[][..]),
                ItemKind::Reward { .. } => (SymbolKind::Reward, &[][..]),
                ItemKind::Schedule { .. } => (SymbolKind::Schedule, &[][..]),
                ItemKind::Model(_) => (SymbolKind::Model, &[][..]),
                ItemKind::Teacher(_) => (SymbolKind::Teacher, &[][..]),
                ItemKind::Stage { parameters, .. } => (SymbolKind::Stage, parameters.as_slice()),
                _ => (SymbolKind::Objective, objective_parameters(&item.kind)),
            };
            let id = ItemId { module, index };
            let worth = match self.modules.progress.get(&id) {
                Some(Progress::Done(value)) if !kind.is_callable() => Worth::of(value),
                _ => None,
            };
            self.owner = None;
            let symbol = self.declare(name, kind, item.span);
            let declared = &mut self.index.symbols[symbol.0 as usize];
            (declared.doc, declared.public, declared.worth) = (item.doc.clone(), item.public, worth);
            self.owner = Some(symbol);
            let parameters = parameters.iter().map(|parameter| {
                let extent =
                    parameter.default.as_ref().map_or(parameter.name.span, |default| parameter.name.span.to(default.span));
                self.declare(&parameter.name, SymbolKind::Parameter, extent)
            });
            let parameters = parameters.collect();
            self.items.insert(id, Known { symbol, parameters });
        }
    }

    fn declare(&mut self, name: &Name, kind: SymbolKind, extent: Span) -> SymbolId {
        let id = SymbolId(self.index.symbols.len() as u32);
        self.index.symbols.push(Symbol {
            name: name.text.clone(),
            kind,
            span: name.span,
            extent,
            doc: String::new(),
            public: false,
            owner: self.owner,
            worth: self.facts.worths.remove(&name.span),
        });
        self.index.uses.push(Use { span: name.span, target: Target::Symbol(id), declares: true });
        id
    }

    fn bind(&mut self, name: &Name, kind: SymbolKind, extent: Span) {
        let id = self.declare(name, kind, extent);
        self.locals.push((name.text.clone(), Target::Symbol(id)));
    }

    fn record(&mut self, span: Span, target: Target) {
        self.index.uses.push(Use { span, target, declares: false });
    }

    fn item(&mut self, scope: &Scope, id: ItemId, item: &Item) {
        match &item.kind {
            ItemKind::Use(import) => self.import(scope, import),
            ItemKind::Experiment { block, .. } => self.block(scope, block, vocabulary::EXPERIMENT),
            ItemKind::Compare { block, .. } => self.block(scope, block, vocabulary::COMPARE),
            ItemKind::Domain { block, .. } => self.block(scope, block, vocabulary::DOMAIN),
            ItemKind::Param(Parameter { default: value, .. }) => {
                if let Some(value) = value {
                    self.expr(scope, value);
                }
            }
            ItemKind::Let { value, .. } | ItemKind::Reward { value, .. } | ItemKind::Schedule { value, .. } => {
                self.expr(scope, value);
            }
            ItemKind::Fn { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.expr(&Scope { signals: true, ..*scope }, body);
            }
            ItemKind::Stage { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.expr(scope, body);
            }
            ItemKind::Objective { parameters, body, .. } => {
                self.parameters(scope, id, parameters);
                self.objective(&Scope { signals: true, ..*scope }, body);
            }
            ItemKind::Model(binding) | ItemKind::Teacher(binding) => self.binding(scope, binding),
            ItemKind::Route(route) => self.route(scope, route),
            ItemKind::Unsupported { .. } => {}
        }
    }

    fn import(&mut self, scope: &Scope, import: &Import) {
        let path: Vec<&str> = import.module.iter().map(|name| name.text.as_str()).collect();
        let Some((module, file)) = self.modules.at_path(&path) else { return };
        if let (Some(first), Some(last)) = (import.module.first(), import.module.last()) {
            self.record(first.span.to(last.span), Target::Module(file));
        }
        let tree = self.modules.tree(module);
        for name in &import.names {
            let found = tree.items.iter().position(|item| declared_name(&item.kind).is_some_and(|known| known.text == name.text));
            if let Some(known) = found.and_then(|index| self.items.get(&ItemId { module, index })) {
                let target = Target::Symbol(known.symbol);
                debug_assert_eq!(name.span.file, self.modules.file(scope.module));
                self.record(name.span, target);
            }
        }
    }

    /// Defaults see the file's items alone; the parameters are bound afterwards.
    fn parameters(&mut self, scope: &Scope, id: ItemId, parameters: &[Parameter]) {
        for default in parameters.iter().filter_map(|parameter| parameter.default.as_ref()) {
            self.expr(scope, default);
        }
        for parameter in parameters {
            if let Some(word) = parameter.annotation.as_ref().and_then(|name| find_word(vocabulary::TYPES, &name.text)) {
                self.record(parameter.annotation.as_ref().map_or(parameter.name.span, |name| name.span), Target::Word(word));
            }
        }
        if let Some(known) = self.items.get(&id) {
            let bound = parameters.iter().zip(&known.parameters);
            self.locals.extend(bound.map(|(parameter, symbol)| (parameter.name.text.clone(), Target::Symbol(*symbol))));
        }
    }

    fn binding(&mut self, scope: &Scope, binding: &Binding) {
        if let Some(index) = &binding.index {
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
            self.locals.push(("domain".to_owned(), Target::RoutedDomain));
            if let Condition::When(condition) = condition {
                self.expr(scope, condition);
            }
            self.expr(scope, target);
            self.locals.truncate(outer);
        }
    }

    fn objective(&mut self, scope: &Scope, body: &Block) {
        for statement in &body.statements {
            match statement {
                Statement::Let { name, value } => {
                    self.expr(scope, value);
                    self.bind(name, SymbolKind::LocalLet, name.span.to(value.span));
                }
                Statement::Term { name, value, block } => {
                    self.expr(scope, value);
                    self.declare(name, SymbolKind::Term, name.span.to(value.span));
                    if let Some(block) = block {
                        self.block(scope, block, &[]);
                    }
                }
                Statement::Entry(entry) => self.entry(scope, &entry.key, &entry.value, vocabulary::OBJECTIVE),
                Statement::Route(route) => self.route(scope, route),
            }
        }
    }

    fn block(&mut self, scope: &Scope, block: &Block, keys: &'static [Key]) {
        for statement in &block.statements {
            match statement {
                Statement::Entry(entry) => self.entry(scope, &entry.key, &entry.value, keys),
                Statement::Let { value, .. } | Statement::Term { value, .. } => self.expr(scope, value),
                Statement::Route(route) => self.route(scope, route),
            }
        }
    }

    fn entry(&mut self, scope: &Scope, name: &Name, value: &Expr, keys: &'static [Key]) {
        let key = keys.iter().find(|key| key.name == name.text);
        if let Some(key) = key {
            self.record(name.span, Target::Key(key));
        }
        self.place(scope, value, key.map_or(Takes::Formula, |key| key.takes));
    }

    /// An expression where a bare name may be a word instead.
    fn place(&mut self, scope: &Scope, expr: &Expr, takes: Takes) {
        match (&expr.kind, takes) {
            (ExprKind::Name(name), Takes::Words(words)) => {
                if let Some(word) = find_word(words, name) {
                    self.record(expr.span, Target::Word(word));
                }
            }
            (ExprKind::Name(name), Takes::Support) if name == "full" => {
                self.record(expr.span, Target::Word(&vocabulary::FULL[0]))
            }
            (ExprKind::Name(_), Takes::Field) => self.record(expr.span, Target::Field),
            (ExprKind::Then { first, second }, Takes::Reduce) => {
                self.place(scope, first, takes);
                self.place(scope, second, takes);
            }
            (ExprKind::Call { callee, arguments, .. }, Takes::Reduce) => {
                self.place(scope, callee, Takes::Words(vocabulary::REDUCTIONS));
                for argument in arguments {
                    self.place(scope, &argument.value, Takes::Words(vocabulary::AXES));
                }
            }
            _ => self.expr(scope, expr),
        }
    }

    fn expr(&mut self, scope: &Scope, expr: &Expr) {
        match &expr.kind {
            ExprKind::Number { .. } | ExprKind::Text(_) | ExprKind::Bool(_) | ExprKind::Error => {}
            ExprKind::Name(name) => {
                if let Some(target) = self.resolve(scope, name) {
                    self.record(expr.span, target);
                }
            }
            ExprKind::Field { base, field } => {
                self.expr(scope, base);
                if let Some(part) = vocabulary::PARTS.iter().find(|part| part.name == field.text) {
                    self.record(field.span, Target::Part(part));
                }
            }
            ExprKind::Call { callee, arguments, block } => self.call(scope, callee, arguments, block.as_ref()),
            ExprKind::List(items) => items.iter().for_each(|item| self.expr(scope, item)),
            ExprKind::Unary { operand, .. } | ExprKind::Live(operand) => self.expr(scope, operand),
            ExprKind::Index { base: left, index: right }
            | ExprKind::Binary { left, right, .. }
            | ExprKind::Arrow { from: left, to: right }
            | ExprKind::Versus { left, right }
            | ExprKind::Then { first: left, second: right } => {
                self.expr(scope, left);
                self.expr(scope, right);
            }
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

    fn resolve(&self, scope: &Scope, name: &str) -> Option<Target> {
        if let Some((_, target)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Some(*target);
        }
        if let Some(signal) = vocabulary::signal(name).filter(|_| scope.signals) {
            return Some(Target::Signal(signal));
        }
        if let Some(declared) = self.modules.lookup(scope.module, name) {
            return self.items.get(&declared.item).map(|known| Target::Symbol(known.symbol));
        }
        if name == "domains" {
            return Some(Target::Domains);
        }
        functions::find(name).map(Target::Builtin)
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
            let takes = match target {
                Some(Target::Builtin(builtin)) => {
                    let parameter = match &argument.name {
                        Some(name) => Some(name.text.as_str()),
                        None => builtin.parameters.get(position - 1).copied(),
                    };
                    parameter.map_or(Takes::Formula, |parameter| vocabulary::takes(builtin, parameter))
                }
                Some(Target::Symbol(symbol)) => {
                    self.label(symbol, argument);
                    Takes::Formula
                }
                _ => Takes::Formula,
            };
            self.place(scope, &argument.value, takes);
        }
        if let Some(block) = block {
            let keys = match target {
                Some(Target::Builtin(builtin)) => vocabulary::keys(builtin.name).unwrap_or_default(),
                _ => &[],
            };
            self.block(scope, block, keys);
        }
    }

    /// `clip_at: 5` names a parameter of the callee.
    fn label(&mut self, callee: SymbolId, argument: &Argument) {
        let Some(name) = &argument.name else { return };
        let parameter = self.index.parameters(callee).find(|id| self.index.symbol(*id).name == name.text);
        if let Some(parameter) = parameter {
            self.record(name.span, Target::Symbol(parameter));
        }
    }
}

fn objective_parameters(kind: &ItemKind) -> &[Parameter] {
    match kind {
        ItemKind::Objective { parameters, .. } => parameters,
        _ => &[],
    }
}

fn find_word(words: &'static [Word], name: &str) -> Option<&'static Word> {
    words.iter().find(|word| word.name == name)
}
