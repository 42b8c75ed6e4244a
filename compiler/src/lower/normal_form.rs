//! The slots that almost every distillation objective fills, read off its typed formulas: so an objective
//! that this version can't execute has a normal form too. What is not recognised is called a custom
//! expression. The slots sort; the last one, the terms' formulas in full, tells any two objectives apart.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::experiment::{Keep, Objective, Reduce, Rollout, RolloutSource, Sampling, Term};
use mopd_lang::formula::text;
use mopd_lang::formula::{
    Axis, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Memory, Part,
    PreferenceKind, Reduction, Role, Signal, Support, Unit,
};

use super::expression::{self, exact};
use crate::plan::NormalForm;

/// Describes an objective. `rollout` is where the stage that uses it takes its tokens from, and which of them
/// it keeps; an objective of a library has no stage yet.
pub fn normal_form(objective: &Objective, rollout: Option<(&Rollout, Keep)>) -> NormalForm {
    let parts = Parts::of(objective.terms.iter().map(|term| &term.value));
    let live = parts.live();
    let scored_at = match rollout {
        Some((rollout, _)) => objective.temperature_on(rollout),
        None => objective.temperature.unwrap_or(1.0),
    };
    let each = |slot: &dyn Fn(&Live, Facts) -> String| {
        or_none(listed(live.iter().map(|(live, before)| slot(live, *before)), " + "))
    };
    NormalForm {
        prefixes: prefixes(objective, rollout),
        sequence_selection: sequence_selection(objective, rollout),
        token_allocation: token_allocation(objective),
        support: each(&|live, _| match live {
            Live::Divergence(divergence) if divergence.kind.over_vocabulary() => {
                text::support(&divergence.support)
            }
            Live::Divergence(_) => "no vocabulary".into(),
            Live::Part(Part::Logp | Part::EndLogp) => "sampled token".into(),
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
            Live::Divergence(of) => divergence(of, scored_at),
            Live::Part(Part::Logp) => before.reading(),
            Live::Part(part) => format!("student.{} against {}", part.name(), before.reading()),
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
            Live::Part(Part::Logp) => format!("sampled at y_t{}", at_temperature(scored_at)),
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
            + &if scored_at == 1.0 {
                String::new()
            } else {
                format!("; every logp{}", at_temperature(scored_at).replace(',', ""))
            },
    }
}

/// Every term's formula in full. One term alone needs no name.
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

/// Which temperature numbers are at, where it is not 1.
fn at_temperature(temperature: f64) -> String {
    if temperature == 1.0 { String::new() } else { format!(", at temperature {}", text::number(temperature)) }
}

/// `KL(student || teacher)`, with whatever makes it another one.
fn divergence(divergence: &Divergence, scored_at: f64) -> String {
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
    slot += &at_temperature(if with_sampler {
        divergence.temperature * scored_at
    } else {
        divergence.temperature
    });
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

/// What a formula reads, as far as normal forms tell formulas apart.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// The difference of two models' log-probabilities of the token taken, one of them the student's.
    log_ratio: bool,
    reward: bool,
    /// Some signal. The sampler's log-probability alone belongs to the ratio.
    signal: bool,
    live: bool,
    /// `exp(live student.logp - sampler.logp)`
    ratio: bool,
    /// The same of a whole sequence's mean.
    sequence_ratio: bool,
}

impl Facts {
    fn add(&mut self, other: Facts) {
        self.log_ratio |= other.log_ratio;
        self.reward |= other.reward;
        self.signal |= other.signal;
        self.live |= other.live;
        self.ratio |= other.ratio;
        self.sequence_ratio |= other.sequence_ratio;
    }

    /// What stands before the log-probability in the gradient.
    fn reading(self) -> String {
        match (self.log_ratio, self.reward) {
            (true, true) => "sampled log-ratio and reward",
            (true, false) => "sampled log-ratio",
            (false, true) => "reward",
            (false, false) if self.signal => "custom expression",
            (false, false) => "likelihood",
        }
        .into()
    }
}

/// The parts of some formulas, each once, operands before users. Formulas share parts, so nothing here walks
/// the tree that the sharing stands for.
struct Parts<'a> {
    roots: Vec<&'a Formula>,
    ordered: Vec<&'a Formula>,
    facts: HashMap<*const FormulaNode, Facts>,
}

impl<'a> Parts<'a> {
    fn of(roots: impl Iterator<Item = &'a Formula>) -> Parts<'a> {
        let mut parts = Parts { roots: roots.collect(), ordered: Vec::new(), facts: HashMap::new() };
        for root in parts.roots.clone() {
            let mut pending = vec![root];
            while let Some(formula) = pending.last().copied() {
                if parts.facts.contains_key(&Rc::as_ptr(&formula.0)) {
                    pending.pop();
                    continue;
                }
                let before = pending.len();
                // The first operand on top: parts are met in the order in which they are read.
                let operands = formula.operands().into_iter().rev();
                pending.extend(operands.filter(|operand| !parts.facts.contains_key(&Rc::as_ptr(&operand.0))));
                if pending.len() == before {
                    let mut facts = own_facts(formula);
                    formula.operands().into_iter().for_each(|operand| facts.add(parts.facts(operand)));
                    parts.facts.insert(Rc::as_ptr(&formula.0), facts);
                    parts.ordered.push(formula);
                    pending.pop();
                }
            }
        }
        parts
    }

    fn facts(&self, formula: &Formula) -> Facts {
        self.facts[&Rc::as_ptr(&formula.0)]
    }

    /// Every live part that gradient reaches, each once, in the order in which they are read, with the facts
    /// of what its derivative is multiplied by.
    fn live(&self) -> Vec<(&'a Live, Facts)> {
        let mut before: HashMap<*const FormulaNode, Facts> =
            self.roots.iter().map(|root| (Rc::as_ptr(&root.0), Facts::default())).collect();
        for formula in self.ordered.iter().rev() {
            let Some(outer) = before.get(&Rc::as_ptr(&formula.0)).copied() else { continue };
            for (operand, inner) in self.derivatives(formula) {
                let facts = before.entry(Rc::as_ptr(&operand.0)).or_default();
                facts.add(outer);
                facts.add(inner);
            }
        }
        let mut found: Vec<(&Live, Facts)> = Vec::new();
        for formula in &self.ordered {
            let FormulaKind::Live(live) = &formula.0.kind else { continue };
            let Some(facts) = before.get(&Rc::as_ptr(&formula.0)).copied() else { continue };
            match found.iter_mut().find(|(known, _)| *known == live) {
                Some((_, known)) => known.add(facts),
                None => found.push((live, facts)),
            }
        }
        found
    }

    /// The operands that gradient flows on to, each with the facts of the formula's derivative by it.
    fn derivatives(&self, formula: &'a Formula) -> Vec<(&'a Formula, Facts)> {
        let nothing = Facts::default();
        let found: Vec<(&Formula, Facts)> = match &formula.0.kind {
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand, .. } => {
                vec![(operand, nothing)]
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate | Function::Add | Function::Subtract, operands) => {
                    operands.iter().map(|operand| (operand, nothing)).collect()
                }
                (Function::Multiply, [left, right]) => {
                    vec![(left, self.facts(right)), (right, self.facts(left))]
                }
                (Function::Divide, [left, right]) => {
                    vec![(left, self.facts(right)), (right, self.facts(formula))]
                }
                (Function::Where, [condition, then, otherwise]) => {
                    vec![(then, self.facts(condition)), (otherwise, self.facts(condition))]
                }
                (function, _) if !function.is_differentiable() => Vec::new(),
                (_, operands) => operands.iter().map(|operand| (operand, self.facts(formula))).collect(),
            },
            FormulaKind::Reduce { operand, .. }
            | FormulaKind::Statistic { operand, .. }
            | FormulaKind::Scan { operand, .. }
            | FormulaKind::Memory { operand, .. } => vec![(operand, self.facts(formula))],
            FormulaKind::Across { members, .. } => {
                members.iter().map(|member| (member, self.facts(formula))).collect()
            }
            FormulaKind::Number(_)
            | FormulaKind::Schedule(_)
            | FormulaKind::Adaptive(_)
            | FormulaKind::Signal(_)
            | FormulaKind::Live(_)
            | FormulaKind::Variable(_)
            | FormulaKind::Entry(_) => Vec::new(),
        };
        found.into_iter().filter(|(operand, _)| operand.live()).collect()
    }
}

/// What a formula adds to the facts of its operands.
fn own_facts(formula: &Formula) -> Facts {
    let nothing = Facts::default();
    match &formula.0.kind {
        FormulaKind::Signal(signal) => Facts {
            reward: matches!(signal, Signal::Reward | Signal::RewardPart { .. } | Signal::Correct),
            signal: *signal != (Signal::Of { role: Role::Sampler, part: Part::Logp }),
            ..nothing
        },
        FormulaKind::Live(_) => Facts { live: true, ..nothing },
        FormulaKind::Apply { function: Function::Subtract, operands } => {
            let log_ratio = match operands.as_slice() {
                [left, right] => match (logp_of(left), logp_of(right)) {
                    (Some(left), Some(right)) => is_policy(left) != is_policy(right),
                    _ => false,
                },
                _ => false,
            };
            Facts { log_ratio, ..nothing }
        }
        FormulaKind::Apply { function: Function::Exp, operands } => {
            let over_sequence = operands.iter().any(|operand| match &operand.0.kind {
                FormulaKind::Reduce { reduction: Reduction::Mean, operand, .. } => is_live_log_ratio(operand),
                _ => false,
            });
            Facts { ratio: operands.iter().any(is_live_log_ratio), sequence_ratio: over_sequence, ..nothing }
        }
        _ => nothing,
    }
}

/// The role whose log-probability of the token taken this is, as a number already computed.
fn logp_of(formula: &Formula) -> Option<&Role> {
    match &formula.0.kind {
        FormulaKind::Signal(Signal::Of { role, part: Part::Logp }) => Some(role),
        _ => None,
    }
}

/// The student, or the policy that it was when it wrote the tokens.
fn is_policy(role: &Role) -> bool {
    matches!(role, Role::Student | Role::Sampler)
}

/// `live student.logp - sampler.logp`
fn is_live_log_ratio(formula: &Formula) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &formula.0.kind else { return false };
    let [above, below] = operands.as_slice() else { return false };
    matches!(above.0.kind, FormulaKind::Live(Live::Part(Part::Logp)))
        && logp_of(below) == Some(&Role::Sampler)
}

fn prefixes(objective: &Objective, rollout: Option<(&Rollout, Keep)>) -> String {
    let own = objective.terms.iter().filter_map(|term| {
        term.data.as_ref().map(|data| format!("`{}` on {}", term.name, own_rollout(data)))
    });
    let stage = rollout.map_or("the stage's choice".to_owned(), |(rollout, _)| self::rollout(rollout));
    std::iter::once(stage).chain(own).collect::<Vec<String>>().join("; ")
}

/// Of a term: nothing else says how it is drawn.
fn own_rollout(of: &Rollout) -> String {
    match &of.source {
        RolloutSource::Data { .. } | RolloutSource::Parameter { .. } if of.edits.is_empty() => rollout(of),
        _ => expression::rollout(of),
    }
}

fn rollout(rollout: &Rollout) -> String {
    let mut text = source(rollout);
    for edit in &rollout.edits {
        text += &format!(", then {}", edit.name());
    }
    text
}

/// Only the outermost layer of a layered rollout is told apart; what lies inside is what it draws from.
fn source(rollout: &Rollout) -> String {
    let temperature = |sampling: &Sampling| match sampling.temperature {
        0.0 => "greedy".to_owned(),
        temperature => format!("temperature {}", text::number(temperature)),
    };
    let drawn =
        || rollout.sampling().map(|sampling| format!(" ({})", temperature(sampling))).unwrap_or_default();
    match &rollout.source {
        RolloutSource::Data { field } => format!("data (field `{field}`)"),
        RolloutSource::Parameter { name, .. } => format!("whatever `{name}` is"),
        RolloutSource::Sample(sampling) => {
            format!("student rollouts ({} per prompt, {})", sampling.n, temperature(sampling))
        }
        RolloutSource::From { teacher, sequences, sampling, .. } => {
            let fresh = if sequences.is_some() { "made once" } else { "fresh every step" };
            format!("{} rollouts ({fresh}, {})", teacher.name(), temperature(sampling))
        }
        RolloutSource::Mix { share, first, second } => {
            format!("{} in a share of {}, else {}", first.source.name(), exact(share), second.source.name())
        }
        RolloutSource::TokenMix { alpha, .. } => {
            format!("tokens from {} * teacher + the rest of student{}", exact(alpha), drawn())
        }
        RolloutSource::Interleave { top_k, .. } => {
            format!("student rollouts{}, tokens outside the teacher's top {top_k} replaced", drawn())
        }
        RolloutSource::Refine { by, .. } => {
            format!("student rollouts{}, rewritten by {}", drawn(), by.name())
        }
        RolloutSource::Snapshot { .. } => format!("rollouts of an earlier model{}, made once", drawn()),
        RolloutSource::Replay { share, .. } => {
            format!("student rollouts{}, {} of them replayed", drawn(), exact(share))
        }
        RolloutSource::Speculative { block, .. } => {
            format!("student drafts of {block} tokens{}, verified by teacher", drawn())
        }
        RolloutSource::Turns { environment, .. } => {
            format!("student turns{} with `{environment}` in between", drawn())
        }
        RolloutSource::Denoise { steps, block, .. } => {
            format!("student blocks of {block} tokens{}, denoised in {steps} steps", drawn())
        }
        RolloutSource::FirstOf { choices } => {
            let choices: Vec<&str> = choices.iter().map(|choice| choice.source.name()).collect();
            format!("the first that has any of {}", choices.join(", "))
        }
        RolloutSource::EachTurn { .. } => {
            format!("one student turn{} after each of a recorded trajectory", drawn())
        }
        RolloutSource::Derived { template, .. } => {
            format!("prompts made by `{}` from student rollouts{}", template.name, drawn())
        }
    }
}

fn sequence_selection(objective: &Objective, rollout: Option<(&Rollout, Keep)>) -> String {
    let kept = match rollout {
        Some((_, Keep::Correct)) => Some("correct rollouts".to_string()),
        _ => None,
    };
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

/// Which tokens the statistics and reductions of weights and terms run over, beside a `select`.
fn statistics(objective: &Objective) -> Option<String> {
    let is_selected = |node: &FormulaNode| matches!(node.kind, FormulaKind::Signal(Signal::Selected));
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
            // What `among: selected` says of coarser axes.
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

/// What a term says for itself alone.
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

/// The nonlinear functions, the statistics and the running values in the terms.
fn shaping(parts: &Parts) -> String {
    use Function::*;
    let found = parts.ordered.iter().filter_map(|formula| match &formula.0.kind {
        FormulaKind::Statistic { statistic, over, .. } => {
            Some(format!("{} over {}", statistic.name(), over.name()))
        }
        FormulaKind::Scan { scan, over, .. } => Some(format!("{} over {}", scan.name(), over.name())),
        FormulaKind::Memory { memory: Memory::Ema { .. }, .. } => Some("ema over steps".into()),
        FormulaKind::Memory { memory: Memory::Previous, .. } => Some("value of the step before".into()),
        FormulaKind::Across { .. } => Some("softmax across a panel".into()),
        FormulaKind::Apply { function: Clip, operands } => Some(match operands.as_slice() {
            [_, low, high] if is_negation(low, high) => format!("clip ±{}", exact(high)),
            [_, low, high] => format!("clip to [{}, {}]", exact(low), exact(high)),
            _ => "clip".into(),
        }),
        // Exponentials and logarithms make ratios and their logs: those have lines of their own.
        FormulaKind::Apply { function, .. }
            if *function == Power || (function.is_call() && !matches!(function, Exp | Log | Where)) =>
        {
            Some(function.name().to_string())
        }
        _ => None,
    });
    listed(found, ", ")
}

/// `-x` and `x`, as numbers or as names without a value.
fn is_negation(low: &Formula, high: &Formula) -> bool {
    match (&low.0.kind, &high.0.kind) {
        (FormulaKind::Number(low), FormulaKind::Number(high)) => *low == -high,
        (FormulaKind::Apply { function: Function::Negate, operands }, FormulaKind::Variable(high)) => {
            matches!(&operands[0].0.kind, FormulaKind::Variable(low) if low == high)
        }
        _ => false,
    }
}

/// Each once, in order.
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
