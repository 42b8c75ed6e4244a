//! The index of names for editors: one entry per use, across all files of the analysis.
//!
//! The evaluator follows values, so it visits a body once per call, or never: a library's `for d in domains`
//! has no domain to loop over, and a call with a wrong argument stops before its other arguments. A rename
//! must find those places, too. So one walk over the trees finds all uses, with the evaluator's rules for
//! names (locals, then signals where they are visible, then the file's items, then built-ins). Only the
//! values of names come from the evaluator.

mod contexts;
mod declare;
mod walk;
mod with;

use std::cell::LazyCell;
use std::rc::Rc;

use crate::source::{FileId, Sources, Span};
use crate::syntax::ast::{ItemKind, Module};

use crate::check::builtins::Builtin;
use crate::check::builtins::kinds::{SettingKey, SignalName, Word};
use crate::check::names::modules::Modules;
use crate::check::values::environment::EvaluationContext;
use crate::check::values::recorded::{RecordedValues, ValueInfo};
use crate::check::values::resolve::name_of_run;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymbolId(pub u32);

/// Something with a name and a place where it is declared.
#[derive(Debug)]
pub struct Symbol {
    pub name: String,
    pub kind: SymbolKind,
    /// The place of the name in its declaration.
    pub span: Span,
    /// The whole declaration.
    pub extent: Span,
    pub doc: String,
    pub public: bool,
    /// The item that a parameter or local belongs to.
    pub owner: Option<SymbolId>,
    /// Its value, if the evaluator has computed it.
    pub info: Option<ValueInfo>,
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
    Template,
    Rollout,
    Divergence,
    Panel,
    Eval,
    Stage,
    Objective,
    /// A parameter of a `fn`, `stage`, `objective`, `teacher`, `template`, `rollout` or `divergence`.
    Parameter,
    /// A `let` of an objective.
    LocalLet,
    /// A number that an objective carries from step to step.
    State,
    Term,
    /// `d` of `for d in domains` and `[d in domains]`.
    Turn,
    /// `m` of `for d in domains, m = start`.
    Carried,
    /// `w` of `... where w = ...`.
    Where,
    /// A model that a `train` stage trains.
    Trained,
    /// `follow` of `step follow { ... }`.
    Step,
}

impl SymbolKind {
    /// The kind of the symbol that an item declares. `None` for items without a name.
    pub fn from_item(item: &ItemKind) -> Option<SymbolKind> {
        Some(match item {
            ItemKind::Param(_) => SymbolKind::Param,
            ItemKind::Let { .. } => SymbolKind::Let,
            ItemKind::Fn { .. } => SymbolKind::Fn,
            ItemKind::Domain { .. } => SymbolKind::Domain,
            ItemKind::Reward { .. } => SymbolKind::Reward,
            ItemKind::Schedule { .. } => SymbolKind::Schedule,
            ItemKind::Model(_) => SymbolKind::Model,
            ItemKind::Teacher { .. } => SymbolKind::Teacher,
            ItemKind::Template { .. } => SymbolKind::Template,
            ItemKind::Rollout { .. } => SymbolKind::Rollout,
            ItemKind::Divergence(_) => SymbolKind::Divergence,
            ItemKind::Panel { .. } => SymbolKind::Panel,
            ItemKind::Eval { .. } => SymbolKind::Eval,
            ItemKind::Stage { .. } => SymbolKind::Stage,
            ItemKind::Objective { .. } => SymbolKind::Objective,
            ItemKind::Use(_)
            | ItemKind::Experiment { .. }
            | ItemKind::Route(_)
            | ItemKind::Compare { .. }
            | ItemKind::Sweep { .. } => return None,
        })
    }

    /// The keyword that declares it, or a description for readers.
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
            SymbolKind::Template => "template",
            SymbolKind::Rollout => "rollout",
            SymbolKind::Divergence => "divergence",
            SymbolKind::Panel => "panel",
            SymbolKind::Eval => "eval",
            SymbolKind::Stage => "stage",
            SymbolKind::Objective => "objective",
            SymbolKind::Parameter => "parameter",
            SymbolKind::State => "state",
            SymbolKind::Term => "term",
            SymbolKind::Turn => "each",
            SymbolKind::Carried => "carried",
            SymbolKind::Where => "where",
            SymbolKind::Trained => "trains",
            SymbolKind::Step => "step",
        }
    }

    pub fn is_callable(self) -> bool {
        matches!(self, SymbolKind::Fn | SymbolKind::Stage | SymbolKind::Objective)
    }
}

/// The target of a name in the text.
#[derive(Clone, Copy, Debug)]
pub enum NameTarget {
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
    Key(&'static SettingKey),
    /// A field of the data.
    Field,
    /// `domains`: every domain of the experiment.
    Domains,
    /// `domain` in a route: the one that is being routed.
    RoutedDomain,
}

#[derive(Clone, Copy, Debug)]
pub struct NameUse {
    pub span: Span,
    pub target: NameTarget,
    /// Whether this use is the declaration of the name.
    pub declares: bool,
    pub(in crate::check) context: EvaluationContext,
}

impl NameUse {
    /// Whether `name` would refer to a name of the run here, even if the file declares it.
    pub fn would_be_of_run(&self, name: &str) -> bool {
        name_of_run(name, self.context).is_some()
    }
}

/// An index that is built at its first use: diagnostics are needed after every keystroke, names less often.
pub type LazyIndex = LazyCell<NameIndex, Box<dyn FnOnce() -> NameIndex>>;

/// Names and trees of one analysis.
#[derive(Default)]
pub struct NameIndex {
    pub symbols: Vec<Symbol>,
    /// The uses, sorted by place.
    uses: Vec<NameUse>,
    trees: Vec<(FileId, Rc<Module>)>,
}

impl NameIndex {
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
    pub fn uses_in(&self, file: FileId) -> &[NameUse] {
        let start = self.uses.partition_point(|a_use| a_use.span.file < file);
        let end = self.uses.partition_point(|a_use| a_use.span.file <= file);
        &self.uses[start..end]
    }

    /// The name at an offset, or ending there, as for a cursor behind it.
    pub fn at(&self, file: FileId, offset: u32) -> Option<NameUse> {
        let uses = self.uses_in(file);
        let after = uses.partition_point(|a_use| a_use.span.start <= offset);
        uses[..after].iter().rev().take(2).find(|a_use| offset <= a_use.span.end).copied()
    }

    /// Every place that names a symbol, its declaration included, in order.
    pub fn places(&self, id: SymbolId) -> impl Iterator<Item = NameUse> {
        self.uses
            .iter()
            .copied()
            .filter(move |a_use| matches!(a_use.target, NameTarget::Symbol(target) if target == id))
    }

    /// The symbol whose name is declared at a place.
    pub fn declared_at(&self, span: Span) -> Option<SymbolId> {
        self.ids().find(|id| self.symbol(*id).span == span)
    }

    /// The parameters of an item, in order: they are declared right after it.
    pub fn parameters(&self, id: SymbolId) -> impl Iterator<Item = SymbolId> {
        let of_it = move |child: &SymbolId| {
            self.symbols
                .get(child.0 as usize)
                .is_some_and(|child| child.owner == Some(id) && child.kind == SymbolKind::Parameter)
        };
        (id.0 + 1..).map(SymbolId).take_while(of_it)
    }

    pub(in crate::check) fn lazy(modules: Modules, sources: Sources, recorded: RecordedValues) -> LazyIndex {
        LazyCell::new(Box::new(move || NameIndex::build(&modules, &sources, recorded)))
    }

    fn build(modules: &Modules, sources: &Sources, recorded: RecordedValues) -> NameIndex {
        let mut index = walk::walk(modules, sources, recorded);
        index.uses.sort_by_key(|a_use| a_use.span);
        index
    }
}
