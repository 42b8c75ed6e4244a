//! The functions that need no import, a file for each family. Each is declared once, with its arguments: from
//! that the checker binds and reads them, editors help and the book lists ([`declare`]).

pub mod bounds;
pub(in crate::check) mod constructors;
pub(in crate::check) mod data;
pub(in crate::check) mod declare;
pub(in crate::check) mod divergences;
pub(in crate::check) mod edits;
pub(in crate::check) mod losses;
pub(in crate::check) mod measures;
pub(in crate::check) mod optimizers;
pub(in crate::check) mod rewards;
pub(in crate::check) mod rollouts;
pub(in crate::check) mod schedules;
pub(in crate::check) mod supports;
pub(in crate::check) mod teachers;
pub(in crate::check) mod types;
pub mod vocabulary;
pub(in crate::check) mod weights;

use std::sync::LazyLock;

use mopd_ops::{Entry, Form};

use crate::formula::{Function, Memory, Reduction, Scan, Statistic};

pub use constructors::Constructor;
pub use data::DataName;
pub use declare::Parameter;
pub use divergences::DivergenceName;
pub use edits::EditName;
pub use losses::LossName;
pub use measures::Measure;
pub use optimizers::OptimizerName;
pub use rewards::RewardName;
pub use rollouts::RolloutName;
pub use schedules::ScheduleName;
pub use supports::SupportName;
pub use teachers::TeacherName;
pub use weights::WeightsName;

/// One built-in name.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub name: &'static str,
    /// In the order in which they may be given without a name: first those that must be given.
    pub parameters: &'static [Parameter],
    /// Takes any named arguments.
    pub any_names: bool,
    /// How it is written, for help texts.
    pub usage: &'static str,
    /// One sentence.
    pub doc: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One argument, elementwise.
    Elementwise(Function),
    Bucket,
    /// `min(a, b)`, `max(a, b)`; with `over`, the smallest or largest along an axis.
    Extreme(Function, Reduction),
    Clip,
    Where,
    /// Numbers in it, and in those that follow, are placeholders: arguments give them.
    Reduce(Reduction),
    Statistic(Statistic),
    Scan(Scan<()>),
    Memory(Memory),
    Divergence(DivergenceName),
    Support(SupportName),
    Measure(Measure),
    /// They mean something after `live` only.
    Loss(LossName),
    Schedule(ScheduleName),
    Reward(RewardName),
    Rollout(RolloutName),
    Edit(EditName),
    Optimizer(OptimizerName),
    Weights(WeightsName),
    Data(DataName),
    Constructor(Constructor),
    Teacher(TeacherName),
}

impl Builtin {
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// How many arguments must be given.
    pub fn required(&self) -> usize {
        self.parameters.iter().filter(|parameter| parameter.required).count()
    }
}

/// A function of formulas.
struct Row {
    name: &'static str,
    parameters: &'static [&'static str],
    /// The first so many must be given.
    required: usize,
    usage: &'static str,
    doc: &'static str,
    kind: Kind,
}

impl Row {
    fn of(Entry { name, parameters, required, usage, doc, .. }: Entry, kind: Kind) -> Row {
        Row { name, parameters, required, usage, doc, kind }
    }

    /// What its arguments take is known by their names.
    fn builtin(&self) -> Builtin {
        let takes = |(at, name): (usize, &&'static str)| Parameter {
            name,
            takes: vocabulary::takes(self.kind, name),
            required: at < self.required,
            default: None,
        };
        let parameters: Vec<Parameter> = self.parameters.iter().enumerate().map(takes).collect();
        // Once, for as long as the program runs.
        let parameters = parameters.leak();
        let Row { name, usage, doc, kind, .. } = *self;
        Builtin { name, parameters, any_names: false, usage, doc, kind }
    }
}

const BUCKET: Row = Row {
    name: "bucket",
    parameters: &["x", "n"],
    required: 2,
    usage: "bucket(x, 27)",
    doc: "The index, from 0, of the one of `n` equal bins of [0, 1] that `x` lies in; values outside go to the \
          nearest bin.",
    kind: Kind::Bucket,
};

/// What goes along an axis, or from step to step.
fn along_axes() -> impl Iterator<Item = Row> {
    // The smallest and the largest are found by what they are of two numbers.
    let reductions = Reduction::EACH.into_iter().filter(|reduction| !reduction.definition().doc.is_empty());
    let reductions = reductions.map(|reduction| Row::of(reduction.definition(), Kind::Reduce(reduction)));
    let statistics =
        Statistic::EACH.map(|statistic| Row::of(statistic.definition(), Kind::Statistic(statistic)));
    let scans = Scan::EACH.map(|scan| Row::of(scan.definition(), Kind::Scan(scan)));
    let memory = Memory::EACH.map(|memory| Row::of(memory.definition(), Kind::Memory(memory)));
    reductions.chain(statistics).chain(scans).chain(memory)
}

pub fn find_loss(name: &str) -> Option<&'static Builtin> {
    losses::BUILTINS.iter().find(|builtin| builtin.name == name)
}

pub fn losses() -> &'static [Builtin] {
    losses::BUILTINS
}

/// The operators' tables, then all others.
static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let calls = Function::ALL.iter().copied().filter(|function| function.is_call());
    let families = [
        divergences::BUILTINS,
        supports::BUILTINS,
        measures::BUILTINS,
        schedules::BUILTINS,
        data::BUILTINS,
        rewards::BUILTINS,
        rollouts::BUILTINS,
        edits::BUILTINS,
        optimizers::BUILTINS,
        weights::BUILTINS,
        constructors::BUILTINS,
        teachers::BUILTINS,
    ];
    let others = std::iter::once(BUCKET).chain(along_axes());
    let formulas = calls.map(elementwise).chain(others.map(|row| row.builtin()));
    formulas.chain(families.concat()).collect()
});

/// An elementwise function, from its entry in the operators' table.
fn elementwise(function: Function) -> Builtin {
    let Form::Call { parameters, doc } = function.definition().form else {
        unreachable!("only what is called is looked up by name")
    };
    let (name, usage) = (function.name(), format!("{}({})", function.name(), parameters.join(", ")));
    // The same words name a reduction.
    let extreme = |reduction| {
        let usage = format!("{usage}, or {name}(x, over: sequence)");
        (&["a", "b", "over", "among", "on"][..], 1, usage, Kind::Extreme(function, reduction))
    };
    let (parameters, required, usage, kind) = match function {
        Function::Minimum => extreme(Reduction::Minimum),
        Function::Maximum => extreme(Reduction::Maximum),
        Function::Clip => (parameters, 3, usage, Kind::Clip),
        Function::Where => (parameters, 3, usage, Kind::Where),
        _ => (parameters, parameters.len(), usage, Kind::Elementwise(function)),
    };
    // Once, for as long as the program runs.
    Row { name, parameters, required, usage: usage.leak(), doc, kind }.builtin()
}

pub fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

/// Every built-in.
pub fn all() -> &'static [Builtin] {
    &BUILTINS
}

pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    BUILTINS.iter().map(|builtin| builtin.name)
}
