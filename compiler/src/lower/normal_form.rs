//! The normal form of an objective: the slots that almost every distillation objective fills. It is computed
//! from typed formulas, so objectives that this version can't execute have one, too. Anything unrecognised is
//! called a custom expression. The slots classify; the last one, all formulas in full, identifies.

mod reading;

use mopd_experiment::formula::text;
use mopd_experiment::formula::{
    Amount, Axis, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Memory,
    ModelSignal, PlainSignal, PreferenceKind, Role, Signal, Support, Unit,
};
use mopd_experiment::{Keep, Objective, Reduce, Rollout, RolloutSource, State, Temperature, Term, Train};
use mopd_plan::NormalForm;
use reading::{FormulaParts, FormulaReading};

use super::expression::{self, exact};

/// Describes an objective. An objective of a library has no stage yet.
pub fn normal_form(objective: &Objective, stage: Option<&Train>) -> NormalForm {
    let parts = FormulaParts::new(objective.terms.iter().map(|term| &term.value));
    let live = parts.live();
    let scored_at = match stage {
        Some(stage) => objective.temperature_on(&stage.rollout),
        None => objective.temperature.unwrap_or(1.0).into(),
    };
    let each = |slot: &dyn Fn(&Live, FormulaReading) -> String| {
        or_none(listed(live.iter().map(|(live, before)| slot(live, *before)), " + "))
    };
    NormalForm {
        prefixes: prefixes(objective, stage.map(|stage| &stage.rollout)),
        sequence_selection: sequence_selection(objective, stage),
        token_allocation: token_allocation(objective),
        support: each(&|live, _| match live {
            Live::Divergence(divergence) if divergence.kind.over_vocabulary() => {
                text::support(&divergence.support)
            }
            Live::Divergence(_) => "no vocabulary".into(),
            Live::Part(ModelSignal::Logp | ModelSignal::EndLogp) => "sampled token".into(),
            Live::Part(_) | Live::SquaredError { .. } | Live::BinaryCrossEntropy { .. } => {
                "no vocabulary".into()
            }
            Live::Likelihood { of } => format!("most probable token of {}", of.name()),
            Live::Ranking { order } => text::support(order),
            Live::Preference(_) => "two completions".into(),
        }),
        mass: each(&|live, _| match live {
            Live::Divergence(divergence)
                if divergence.kind.over_vocabulary() && divergence.support == Support::Full =>
            {
                "complete".into()
            }
            Live::Divergence(divergence) if divergence.kind.over_vocabulary() => {
                text::mass(divergence.mass).into()
            }
            _ => "none".into(),
        }),
        divergence: each(&|live, before| match live {
            Live::Divergence(of) => divergence(of, &scored_at),
            Live::Part(ModelSignal::Logp) => before.text(),
            Live::Part(part) => format!("student.{} against {}", part.name(), before.text()),
            Live::Likelihood { of } => format!("likelihood of {}'s choice", of.name()),
            Live::Ranking { .. } => "likelihood of a ranking (Plackett-Luce)".into(),
            Live::Preference(preference) => match &preference.kind {
                PreferenceKind::Dpo { .. } => "preference (DPO, against the reference)".into(),
                PreferenceKind::BradleyTerry => "preference (Bradley-Terry, of scores)".into(),
            },
            Live::SquaredError { target, .. } => format!("squared error to {}", exact(target)),
            Live::BinaryCrossEntropy { target, .. } => format!("binary cross-entropy to {}", exact(target)),
        }),
        evaluation: each(&|live, _| match live {
            Live::Divergence(divergence) => evaluation(divergence),
            Live::Part(ModelSignal::Logp) => format!("sampled at y_t{}", at_temperature(&scored_at)),
            Live::Preference(_) => "sampled pairs".into(),
            Live::Part(part) | Live::SquaredError { part, .. } | Live::BinaryCrossEntropy { part, .. } => {
                match part.axis() {
                    Axis::Sequence => "at the completion".into(),
                    _ => "at each token".into(),
                }
            }
            Live::Likelihood { .. } | Live::Ranking { .. } => "at each prefix".into(),
        }),
        shaping: or_none(shaping(&parts)),
        realisation: each(&|live, before| match live {
            Live::Part(_) if before.ratio => "surrogate (ratio)".into(),
            Live::Part(_) if before.sequence_ratio => "surrogate (sequence ratio)".into(),
            Live::Part(_) if before.live => "surrogate (custom expression)".into(),
            Live::Part(_) => "score".into(),
            _ => "direct".into(),
        }),
        terms: terms(objective)
            + &states(objective)
            + &if scored_at.is_one() {
                String::new()
            } else {
                format!("; every logp{}", at_temperature(&scored_at).replace(',', ""))
            },
    }
}

/// Every term's formula in full. A single term needs no name.
fn terms(objective: &Objective) -> String {
    match objective.terms.as_slice() {
        [term] => exact(&term.value),
        terms => terms
            .iter()
            .map(|term| format!("`{}` {}", term.name, exact(&term.value)))
            .collect::<Vec<String>>()
            .join("; "),
    }
}

/// Every state with its first and its next value.
fn states(objective: &Objective) -> String {
    let each = objective.states.iter().map(|State { name, axis, first, next, .. }| {
        let by = if *axis == Axis::Domain { " by domain" } else { "" };
        format!("; state {name} = {}{by} then {}", text::number(*first), exact(next))
    });
    each.collect()
}

/// The temperature of log-probabilities as text, empty for 1.
fn at_temperature(temperature: &Temperature) -> String {
    if temperature.is_one() { String::new() } else { format!(", at temperature {temperature}") }
}

/// `KL(student || teacher)`, with all settings that differ from the default.
fn divergence(divergence: &Divergence, scored_at: &Temperature) -> String {
    let name = match &divergence.kind {
        DivergenceKind::Kl => "KL",
        DivergenceKind::SortedL1 => "sorted L1",
        DivergenceKind::Gaussian { .. } => "Gaussian KL",
        DivergenceKind::Entrywise(summand) => &summand.name,
    };
    let mut slot = format!("{name}({})", text::sides(divergence));
    if let DivergenceKind::Entrywise(summand) = &divergence.kind {
        for given in summand.parameters.iter().filter(|given| !given.default) {
            slot += &match (given.value.unit(), given.value.constant()) {
                (Unit::Bool, Some(truth)) => format!(", {} {}", given.name, truth != 0.0),
                _ => format!(", {} {}", given.name, exact(&given.value)),
            };
        }
        if !summand.standard {
            slot += &format!(", at each entry {}", exact(&summand.value));
        }
    }
    let with_sampler =
        [&divergence.left, &divergence.right].iter().any(|side| side.roles().contains(&Role::Sampler));
    slot += &match (&divergence.temperature, with_sampler, scored_at) {
        (Amount::Number(own), true, Temperature::Constant(scored_at)) => {
            at_temperature(&Temperature::Constant(own * scored_at))
        }
        (own, true, scored_at) if own.is_one() => at_temperature(scored_at),
        (Amount::Number(own), true, scored_at) => {
            format!(", at temperature {} * {scored_at}", text::number(*own))
        }
        (Amount::Number(own), false, _) => at_temperature(&Temperature::Constant(*own)),
        (Amount::Formula(own), with_sampler, scored_at) => {
            let factor = match with_sampler && !scored_at.is_one() {
                true => format!(" * {scored_at}"),
                false => String::new(),
            };
            format!(", at temperature {}{factor}", exact(own))
        }
    };
    if let Some(bound) = divergence.clip_each {
        slot += &format!(", each summand at most {}", text::number(bound));
    }
    slot
}

fn evaluation(divergence: &Divergence) -> String {
    match (&divergence.kind, &divergence.support) {
        (DivergenceKind::Gaussian { .. }, _) => "exact".into(),
        (_, Support::Full) => "exact over the vocabulary".into(),
        (_, Support::Sampled) => "sampled at y_t".into(),
        _ => "exact over the support".into(),
    }
}

fn prefixes(objective: &Objective, rollout: Option<&Rollout>) -> String {
    let own = objective.terms.iter().filter_map(|term| {
        term.data.as_ref().map(|data| format!("`{}` on {}", term.name, own_rollout(data)))
    });
    // If every term has its own data, the stage's rollout is not drawn.
    let drawn = objective.terms.iter().any(|term| term.data.is_none());
    let stage = || rollout.map_or("the stage's choice".to_owned(), self::rollout);
    drawn.then(stage).into_iter().chain(own).collect::<Vec<String>>().join("; ")
}

/// The rollout of a term, with its sampling settings, which no other slot shows.
fn own_rollout(of: &Rollout) -> String {
    match &of.source {
        RolloutSource::Data { .. } | RolloutSource::Parameter { .. } if of.edits.is_empty() => rollout(of),
        _ => expression::rollout(of),
    }
}

fn rollout(rollout: &Rollout) -> String {
    let mut text = rollout.source.described(&exact);
    for edit in &rollout.edits {
        text += &format!(", then {}", edit.name());
    }
    text
}

fn sequence_selection(objective: &Objective, stage: Option<&Train>) -> String {
    let correct = stage.is_some_and(|stage| stage.keep == Keep::Correct);
    let kept = correct.then(|| "correct rollouts".to_string());
    let selected = objective.select.iter().filter(|select| select.axis() < Axis::Turn);
    let selected = selected.map(|select| format!("where {}", exact(select)));
    let parts: Vec<String> = kept.into_iter().chain(selected).collect();
    if parts.is_empty() { "all".into() } else { parts.join(", ") }
}

fn token_allocation(objective: &Objective) -> String {
    let selected = objective.select.iter().find(|select| select.axis() >= Axis::Turn);
    let selected =
        selected.map_or("all tokens".to_string(), |select| format!("tokens where {}", exact(select)));
    let weight = objective.weight.iter().map(|weight| format!("weight {}", exact(weight)));
    let reduce = objective.reduce.iter().map(steps);
    let own = objective.terms.iter().filter_map(own_allocation);
    let statistics = objective.select.iter().filter_map(|_| statistics(objective));
    std::iter::once(selected)
        .chain(statistics)
        .chain(weight)
        .chain(reduce)
        .chain(own)
        .collect::<Vec<String>>()
        .join("; ")
}

/// The tokens that the statistics and reductions of weights and terms include, if there is a `select`.
fn statistics(objective: &Objective) -> Option<String> {
    let is_selected = |node: &FormulaNode| node.is(PlainSignal::Selected);
    let (mut all, mut narrowed) = (false, false);
    let outside = objective
        .formulas()
        .into_iter()
        .filter(|formula| !objective.select.iter().any(|select| std::ptr::eq(select, *formula)));
    for part in outside.flat_map(Formula::parts) {
        let (FormulaKind::Reduce { operand, among, .. } | FormulaKind::Statistic { operand, among, .. }) =
            &part.0.kind
        else {
            continue;
        };
        match among {
            Some(among) if among.any(is_selected) => narrowed = true,
            // The same as `among: selected`, on a coarser axis.
            _ if is_selected(&operand.0) => {}
            _ => all = true,
        }
    }
    Some(match (all, narrowed) {
        (false, false) => return None,
        (true, false) => "statistics over all trained tokens".into(),
        (false, true) => "statistics over the selected tokens".into(),
        (true, true) => "statistics over all trained tokens, where they say `among: selected` over the \
                         selected ones"
            .into(),
    })
}

/// The settings of a single term.
fn own_allocation(term: &Term) -> Option<String> {
    let when = term.when.iter().map(|when| format!("where {}", exact(when)));
    let weight = term.weight.iter().map(|weight| format!("weight {}", exact(weight)));
    let parts: Vec<String> = when.chain(weight).chain(term.reduce.iter().map(steps)).collect();
    (!parts.is_empty()).then(|| format!("`{}` {}", term.name, parts.join(", ")))
}

fn steps(reduce: &Reduce) -> String {
    let steps = reduce.steps.iter().map(|step| {
        let among = if step.among_when { " where the term applies" } else { "" };
        format!(
            "{} over the {}s{among} of each {}",
            step.operation.name(),
            step.elements.name(),
            step.over.name()
        )
    });
    let mut text = steps.collect::<Vec<String>>().join(", then ").replace("of each batch", "of the batch");
    if let Some(denominator) = &reduce.denominator {
        text += &format!(", divided by {}", exact(denominator));
    }
    if let Some(balance) = &reduce.balance {
        text += ", balanced by domain";
        text +=
            &balance.target.map(|target| format!(", target {}", text::number(target))).unwrap_or_default();
        text += &format!(", gap to the power of {}", text::number(balance.follow_gap));
        let clamp =
            |(low, high): (f64, f64)| format!(", within [{}, {}]", text::number(low), text::number(high));
        text += &balance.clamp.map(clamp).unwrap_or_default();
        text += if balance.observe { " (observed only)" } else { "" };
    }
    text
}

/// The nonlinear functions, the statistics and the scans in the terms.
fn shaping(parts: &FormulaParts) -> String {
    use Function::*;
    let found = parts.ordered.iter().filter_map(|formula| match &formula.0.kind {
        FormulaKind::Statistic { statistic, over, .. } => {
            Some(format!("{} over {}", statistic.name(), over.name()))
        }
        FormulaKind::Scan { scan, over, .. } => Some(format!("{} over {}", scan.name(), over.name())),
        FormulaKind::Memory { memory: Memory::Ema { .. }, .. } => Some("ema over steps".into()),
        FormulaKind::Memory { memory: Memory::Previous, .. } => Some("value of the step before".into()),
        FormulaKind::Signal(Signal::State { name, .. }) => Some(format!("state {name}")),
        FormulaKind::Across { .. } => Some("softmax across a panel".into()),
        FormulaKind::Apply { function: Clip, operands } => Some(match operands.as_slice() {
            [_, low, high] if is_negation(low, high) => format!("clip ±{}", exact(high)),
            [_, low, high] => format!("clip to [{}, {}]", exact(low), exact(high)),
            _ => "clip".into(),
        }),
        // Exponentials and logarithms belong to ratios and their logs, which have slots of their own.
        FormulaKind::Apply { function, .. }
            if *function == Power || (function.is_call() && !matches!(function, Exp | Log | Where)) =>
        {
            Some(function.name().to_string())
        }
        _ => None,
    });
    listed(found, ", ")
}

/// Whether the bounds are `-x` and `x`, as numbers or as names without a value.
fn is_negation(low: &Formula, high: &Formula) -> bool {
    match (&low.0.kind, &high.0.kind) {
        (FormulaKind::Number(low), FormulaKind::Number(high)) => *low == -high,
        (FormulaKind::Apply { function: Function::Negate, operands }, FormulaKind::Variable(high)) => {
            matches!(&operands[0].0.kind, FormulaKind::Variable(low) if low == high)
        }
        _ => false,
    }
}

/// The texts, each once, in order.
fn listed(parts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut once: Vec<String> = Vec::new();
    for part in parts {
        if !once.contains(&part) {
            once.push(part);
        }
    }
    once.join(separator)
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}
