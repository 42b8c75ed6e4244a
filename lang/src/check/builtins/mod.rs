//! The built-in functions, which need no import; one file per family. Each is declared once with its
//! arguments ([`declare`]), and the checker, editors and the book use that declaration.

pub(in crate::check) mod block_settings;
pub mod bounds;
pub(in crate::check) mod constructors;
pub(in crate::check) mod data;
pub(in crate::check) mod declare;
pub(in crate::check) mod declare_settings;
pub(in crate::check) mod divergences;
pub(in crate::check) mod edits;
pub(in crate::check) mod formulas;
pub(in crate::check) mod guards;
pub mod kinds;
pub(in crate::check) mod losses;
pub(in crate::check) mod measures;
pub(in crate::check) mod optimizers;
pub(in crate::check) mod reserved;
pub(in crate::check) mod rewards;
pub(in crate::check) mod rollouts;
pub(in crate::check) mod schedules;
pub(in crate::check) mod supports;
pub(in crate::check) mod teachers;
pub(in crate::check) mod types;
pub mod vocabulary;
pub(in crate::check) mod weights;

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use mopd_experiment::formula::{Function, Memory, Reduction, Scan, Statistic};
use mopd_ops::{Notation, OperatorEntry};

pub use constructors::Constructor;
pub use data::DataName;
pub use declare::BuiltinParameter;
pub use divergences::DivergenceName;
pub use edits::EditName;
pub use guards::GuardName;
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
    /// Required parameters first; arguments without a name are bound in this order.
    pub parameters: &'static [BuiltinParameter],
    /// ArgumentKind any named arguments.
    pub any_names: bool,
    /// The syntax of a call, for help texts.
    pub usage: &'static str,
    /// One sentence.
    pub doc: &'static str,
    pub kind: BuiltinKind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BuiltinKind {
    /// One argument, elementwise.
    Elementwise(Function),
    Bucket,
    /// `min(a, b)` and `max(a, b)`; with `over`, the smallest or largest value along an axis.
    Extreme(Function, Reduction),
    Clip,
    Where,
    /// The numbers in this and later variants are placeholders; a call's arguments replace them.
    Reduce(Reduction),
    /// The quantile at one half.
    Median,
    Statistic(Statistic),
    Scan(Scan<()>),
    Memory(Memory),
    Divergence(DivergenceName),
    Support(SupportName),
    Measure(Measure),
    /// Has a meaning only after `live`.
    Loss(LossName),
    Schedule(ScheduleName),
    Reward(RewardName),
    Rollout(RolloutName),
    Edit(EditName),
    Optimizer(OptimizerName),
    Guard(GuardName),
    Weights(WeightsName),
    Data(DataName),
    Constructor(Constructor),
    Teacher(TeacherName),
}

impl Builtin {
    pub fn parameter(&self, name: &str) -> Option<&'static BuiltinParameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// The number of required arguments.
    pub fn required(&self) -> usize {
        self.parameters.iter().filter(|parameter| parameter.required).count()
    }
}

/// A function of formulas.
fn of_formulas(name: &'static str, usage: &'static str, doc: &'static str, kind: BuiltinKind) -> Builtin {
    Builtin { name, parameters: formulas::parameters(kind), any_names: false, usage, doc, kind }
}

fn bucket() -> Builtin {
    let doc = "The index, from 0, of the one of `n` equal bins of [0, 1] that `x` lies in; values outside go \
               to the nearest bin.";
    of_formulas("bucket", "bucket(x, 27)", doc, BuiltinKind::Bucket)
}

fn median() -> Builtin {
    let doc = "The median along an axis: the mean of the two in the middle where their number is even.";
    of_formulas("median", "median(x, over: group)", doc, BuiltinKind::Median)
}

/// The functions along an axis, or from step to step.
fn along_axes() -> impl Iterator<Item = Builtin> {
    // `min` and `max` come with the elementwise functions of the same names.
    let reductions = Reduction::EACH.into_iter().filter(|reduction| !reduction.definition().doc.is_empty());
    let reductions = reductions.map(|reduction| (reduction.definition(), BuiltinKind::Reduce(reduction)));
    let statistics =
        Statistic::EACH.map(|statistic| (statistic.definition(), BuiltinKind::Statistic(statistic)));
    let scans = Scan::EACH.map(|scan| (scan.definition(), BuiltinKind::Scan(scan)));
    let memory = Memory::EACH.map(|memory| (memory.definition(), BuiltinKind::Memory(memory)));
    let each = reductions.chain(statistics).chain(scans).chain(memory);
    let each = each.map(|(OperatorEntry { name, usage, doc, .. }, kind)| of_formulas(name, usage, doc, kind));
    each.chain(std::iter::once(median()))
}

pub fn find_loss(name: &str) -> Option<&'static Builtin> {
    losses::BUILTINS.iter().find(|builtin| builtin.name == name)
}

pub fn losses() -> &'static [Builtin] {
    losses::BUILTINS
}

/// The functions of the operators' tables, then all others.
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
        guards::BUILTINS,
        weights::BUILTINS,
        constructors::BUILTINS,
        teachers::BUILTINS,
    ];
    let formulas = calls.map(elementwise).chain(std::iter::once(bucket())).chain(along_axes());
    formulas.chain(families.concat()).collect()
});

/// An elementwise function, from its entry in the operators' table.
fn elementwise(function: Function) -> Builtin {
    let Notation::Call { parameters, doc } = function.definition().notation else {
        unreachable!("only what is called is looked up by name")
    };
    let (name, usage) = (function.name(), format!("{}({})", function.name(), parameters.join(", ")));
    // The same name is also a reduction.
    let extreme = |reduction| {
        let usage = format!("{usage}, or {name}(x, over: sequence)");
        (usage, BuiltinKind::Extreme(function, reduction))
    };
    let (usage, kind) = match function {
        Function::Minimum => extreme(Reduction::Minimum),
        Function::Maximum => extreme(Reduction::Maximum),
        Function::Clip => (usage, BuiltinKind::Clip),
        Function::Where => (usage, BuiltinKind::Where),
        _ => (usage, BuiltinKind::Elementwise(function)),
    };
    // Leaked once, for the life of the program.
    of_formulas(name, usage.leak(), doc, kind)
}

pub fn find(name: &str) -> Option<&'static Builtin> {
    static BY_NAME: LazyLock<FxHashMap<&str, &Builtin>> =
        // The first entry of a name wins.
        LazyLock::new(|| BUILTINS.iter().rev().map(|builtin| (builtin.name, builtin)).collect());
    BY_NAME.get(name).copied()
}

/// Every built-in.
pub fn all() -> &'static [Builtin] {
    &BUILTINS
}

pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    BUILTINS.iter().map(|builtin| builtin.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::words::MAKES_A_MODEL;

    #[test]
    fn the_parser_knows_the_functions_whose_value_is_a_model() {
        let constructors = all().iter().filter(|builtin| matches!(builtin.kind, BuiltinKind::Constructor(_)));
        let mut names: Vec<&str> = constructors.map(|builtin| builtin.name).collect();
        let mut known = MAKES_A_MODEL.to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, names);
    }
}
