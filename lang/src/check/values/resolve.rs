//! What a name stands for. The evaluator computes its value, and the index of names records its target; both
//! ask here.

use mopd_experiment::formula::{PlainSignal, Role, StepNumber};

use crate::check::builtins::reserved::{named_number, number_of_run, role};
use crate::check::builtins::{self, Builtin, vocabulary};
use crate::check::names::modules::{DIVERGENCES, ItemId, ModuleId, Modules};
use crate::check::values::environment::EvaluationContext;

/// What a name stands for that is no parameter, `let` or variable of the expression's surroundings: those
/// come before all of these.
#[derive(Clone, Debug)]
pub enum Resolved {
    OfRun(NameOfRun),
    /// An item of the file or of the standard library.
    Item(ItemId),
    /// `domains`
    Domains,
    /// `self`
    Student,
    /// `pi`
    Number(f64),
    Builtin(&'static Builtin),
}

/// A name that needs no declaration where it can be read.
#[derive(Clone, Debug)]
pub enum NameOfRun {
    Role(Role),
    Signal(PlainSignal),
    /// `domain`
    PromptDomain,
    /// `ratio`
    Ratio,
    /// A number of past steps, in a guard.
    StepNumber(StepNumber),
    /// It can't be read here: in a divergence none can, and in a guard none that differs between tokens.
    Unreadable,
}

/// Names of the run come before the file's items, which come before what is built in.
pub fn resolve(
    modules: &Modules,
    module: ModuleId,
    context: EvaluationContext,
    name: &str,
) -> Option<Resolved> {
    if let Some(of_run) = name_of_run(name, context) {
        return Some(Resolved::OfRun(of_run));
    }
    if let Some(declared) = modules.lookup(module, name) {
        return Some(Resolved::Item(declared.item));
    }
    match name {
        "domains" => return Some(Resolved::Domains),
        "self" => return Some(Resolved::Student),
        _ => {}
    }
    named_number(name)
        .map(Resolved::Number)
        .or_else(|| builtins::find(name).map(Resolved::Builtin))
        .or_else(|| standard_divergence(modules, name).map(Resolved::Item))
}

/// A divergence of the standard library, which needs no import.
pub fn standard_divergence(modules: &Modules, name: &str) -> Option<ItemId> {
    modules.standard_item(DIVERGENCES, name)
}

/// What a name stands for in this context even if the file declares it.
pub fn name_of_run(name: &str, context: EvaluationContext) -> Option<NameOfRun> {
    match context {
        EvaluationContext::Constant => None,
        EvaluationContext::Schedule => number_of_run(name).map(NameOfRun::Signal),
        EvaluationContext::Guard => match (name, StepNumber::find(name)) {
            ("step", _) => Some(NameOfRun::Signal(PlainSignal::Step)),
            ("progress", _) => Some(NameOfRun::Signal(PlainSignal::Progress)),
            (_, Some(number)) => Some(NameOfRun::StepNumber(number)),
            (_, None) => vocabulary::signal(name).map(|_| NameOfRun::Unreadable),
        },
        EvaluationContext::Entry => vocabulary::signal(name).map(|_| NameOfRun::Unreadable),
        EvaluationContext::Objective | EvaluationContext::Term => match name {
            "domain" => Some(NameOfRun::PromptDomain),
            "ratio" => Some(NameOfRun::Ratio),
            _ => role(name).map(NameOfRun::Role).or_else(|| PlainSignal::find(name).map(NameOfRun::Signal)),
        },
    }
}
