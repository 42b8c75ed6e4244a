//! Completion of values: built-ins that fit, then names in scope, then names to import.

use super::complete::{CandidateKind, List, standard_divergences};
use super::context::CompletionContext;
use super::host::IdeHost;
use super::outside;
use crate::check::builtins::{
    self, BuiltinKind, DataName, DivergenceName, GuardName, RewardName, SupportName, TeacherName, WeightsName,
};
use crate::check::index::{SymbolId, SymbolKind};
use crate::check::vocabulary::{self, ArgumentKind, SignalName};
use mopd_experiment::formula::StepNumber;

/// The step numbers that a guard can read.
pub fn step_numbers(list: &mut List, context: &CompletionContext) {
    for number in StepNumber::ALL {
        list.add(number.name(), CandidateKind::Signal, "a number of the step", "", number.name(), 0);
    }
    for (name, detail) in [("step", "the steps that are done"), ("progress", "the share of them, 0 to 1")] {
        list.add(name, CandidateKind::Signal, detail, "", name, 0);
    }
    let inside = |kind| matches!(kind, BuiltinKind::Guard(GuardName::Initial | GuardName::Recent));
    list.builtins(|builtin| inside(builtin.kind), 1);
    list.scope(context, ArgumentKind::Number);
}

/// What learns: a divergence, a loss, the student's log-probability, the ratio.
fn learning(list: &mut List, context: &CompletionContext) {
    let learns = |signal: &&SignalName| matches!(signal.name, "student" | "ratio");
    for signal in vocabulary::SIGNALS.iter().filter(learns) {
        list.signals(std::slice::from_ref(signal), 0);
    }
    for (divergence, rank) in
        [(DivergenceName::Kl, 0), (DivergenceName::SortedL1, 1), (DivergenceName::Gaussian, 1)]
    {
        list.builtins(|builtin| builtin.kind == BuiltinKind::Divergence(divergence), rank);
    }
    for loss in builtins::losses() {
        list.add(loss.name, CandidateKind::Function, loss.usage, "", loss.name, 1);
    }
    for id in standard_divergences(list.analysis).collect::<Vec<SymbolId>>() {
        let name = list.analysis.index.symbol(id).name.clone();
        list.symbol(&name, SymbolKind::Divergence, 1);
    }
    list.scope_of(context, |kind| matches!(kind, SymbolKind::Divergence | SymbolKind::Fn));
}

pub fn values(list: &mut List, context: &CompletionContext, takes: ArgumentKind, around: &dyn IdeHost) {
    match takes {
        ArgumentKind::Words(words) => return list.words(words, CandidateKind::Word, 0),
        ArgumentKind::Truth => {
            list.add("true", CandidateKind::Word, "", "", "true", 0);
            list.add("false", CandidateKind::Word, "", "", "false", 0);
        }
        ArgumentKind::Field => return outside::fields(list, context, around),
        // The author invents these.
        ArgumentKind::Text | ArgumentKind::Texts | ArgumentKind::Range => return,
        ArgumentKind::Dataset => {
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Data(DataName::Dataset), 0);
        }
        ArgumentKind::Columns => {
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Data(DataName::Columns), 0);
        }
        ArgumentKind::Adapter => {
            return list.builtins(
                |builtin| matches!(builtin.kind, BuiltinKind::Weights(WeightsName::Lora | WeightsName::Dora)),
                0,
            );
        }
        ArgumentKind::Layers => return list.add("all", CandidateKind::Word, "every layer", "", "all", 0),
        ArgumentKind::Weights => {
            list.words(vocabulary::WEIGHTS, CandidateKind::Word, 0);
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Weights(WeightsName::Layers), 0);
        }
        ArgumentKind::Secret => {
            return list
                .builtins(|builtin| builtin.kind == BuiltinKind::Teacher(TeacherName::Environment), 0);
        }
        ArgumentKind::Metrics => {
            list.words(vocabulary::METRICS, CandidateKind::Word, 0);
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Data(DataName::PassAt), 0);
        }
        ArgumentKind::Capability => {
            list.words(vocabulary::CAPABILITIES, CandidateKind::Word, 0);
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Support(SupportName::TopK), 0);
        }
        ArgumentKind::Reduce => return list.builtins(|builtin| matches!(builtin.name, "mean" | "sum"), 0),
        ArgumentKind::Role => return list.signals(&vocabulary::SIGNALS[..4], 0),
        ArgumentKind::Support => {
            list.words(vocabulary::FULL, CandidateKind::Word, 0);
            return list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Support(_)), 0);
        }
        ArgumentKind::Rollout => list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Rollout(_)), 1),
        ArgumentKind::Optimizer => {
            return list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Optimizer(_)), 0);
        }
        ArgumentKind::Guards => return list.builtins(|builtin| guards(builtin.kind), 0),
        ArgumentKind::Score => {
            return list.builtins(|builtin| builtin.kind == BuiltinKind::Data(DataName::Normalized), 0);
        }
        ArgumentKind::Environment => {
            list.builtins(|builtin| builtin.kind == BuiltinKind::Reward(RewardName::Python), 0)
        }
        ArgumentKind::Reward => list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Reward(_)), 0),
        ArgumentKind::Schedule => {
            list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Schedule(_)), 1)
        }
        ArgumentKind::Model => {
            list.builtins(|builtin| matches!(builtin.kind, BuiltinKind::Constructor(_)), 1)
        }
        ArgumentKind::Domains => {
            list.add("domains", CandidateKind::Signal, "every domain of the experiment", "", "domains", 0)
        }
        _ => {}
    }
    let signals = context.sees_signals();
    if signals && context.is_after_live() {
        learning(list, context);
        return outside::importable(list, context, takes, around);
    }
    if matches!(takes, ArgumentKind::Formula | ArgumentKind::Condition) {
        list.builtins(|builtin| !signals || belongs_in_formula(builtin.kind), 2);
        for id in standard_divergences(list.analysis).collect::<Vec<SymbolId>>() {
            let name = list.analysis.index.symbol(id).name.clone();
            list.symbol(&name, SymbolKind::Divergence, 2);
        }
    }
    if signals && matches!(takes, ArgumentKind::Formula | ArgumentKind::Condition | ArgumentKind::Number) {
        // Objectives read mostly roles.
        let (roles, others) = vocabulary::SIGNALS.split_at(4);
        list.signals(roles, 0);
        list.signals(others, 1);
        if context.in_term() {
            list.keyword("live", "marks the factor that learns", 1);
        }
    }
    list.scope(context, takes);
    outside::importable(list, context, takes, around);
}

fn guards(kind: BuiltinKind) -> bool {
    matches!(kind, BuiltinKind::Guard(GuardName::Warn | GuardName::Stop | GuardName::LowerLr))
}

fn belongs_in_formula(kind: BuiltinKind) -> bool {
    use BuiltinKind::*;
    matches!(
        kind,
        Elementwise(_)
            | Bucket
            | Extreme(..)
            | Clip
            | Where
            | Reduce(_)
            | Median
            | Statistic(_)
            | Scan(_)
            | Memory(_)
            | Divergence(_)
            | Measure(_)
    )
}
