//! The nine slots that almost every distillation objective fills, read off its typed formulas: so an objective that this version
//! can't execute has a normal form too. What is not recognised is called a custom expression.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::experiment::{Keep, Objective, Prefixes, Sampling};
use mopd_lang::formula::{
    Axis, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Reduction, Role, Signal, Support,
};
use mopd_lang::formula_text as text;

use crate::plan::NormalForm;

/// Longest expression quoted in a slot, in characters.
const QUOTED: usize = 100;

/// Describes an objective. `prefixes` is where the stage that uses it takes its tokens from; an objective of a library has no
/// stage yet.
pub fn normal_form(objective: &Objective, prefixes: Option<&Prefixes>) -> NormalForm {
    let parts = Parts::of(objective.terms.iter().map(|term| &term.value));
    let live = parts.live();
    let each =
        |slot: &dyn Fn(&Live, &Facts) -> String| or_none(listed(live.iter().map(|(live, before)| slot(live, before)), " + "));
    NormalForm {
        prefixes: prefixes.map_or("the stage's choice".into(), self::prefixes),
        sequence_selection: sequence_selection(objective, prefixes),
        token_allocation: token_allocation(objective),
        support: each(&|live, _| match live {
            Live::Logp => "sampled token".into(),
            Live::Divergence(divergence) => text::support(&divergence.support),
        }),
        mass: each(&|live, _| match live {
            Live::Logp => "none".into(),
            Live::Divergence(divergence) => match divergence.support {
                Support::Full => "complete".into(),
                Support::TopK { .. } => text::mass(divergence.mass).into(),
            },
        }),
        divergence: each(&|live, before| match live {
            Live::Logp => before.reading(),
            Live::Divergence(divergence) => {
                let (left, right) = (divergence.left.name(), divergence.right.name());
                match divergence.kind {
                    DivergenceKind::Kl => format!("KL({left} || {right})"),
                    DivergenceKind::Jsd { beta } => format!("JSD({left}, {right}), beta {}", text::number(beta)),
                    DivergenceKind::TotalVariation => format!("TV({left}, {right})"),
                }
            }
        }),
        evaluation: each(&|live, _| match live {
            Live::Logp => "sampled at y_t".into(),
            Live::Divergence(divergence) => match divergence.support {
                Support::Full => "exact over the vocabulary".into(),
                Support::TopK { .. } => "exact over the support".into(),
            },
        }),
        shaping: or_none(shaping(&parts)),
        realisation: each(&|live, before| match live {
            Live::Divergence(_) => "direct".into(),
            Live::Logp if before.ratio => "surrogate (ratio)".into(),
            Live::Logp if before.sequence_ratio => "surrogate (sequence ratio)".into(),
            Live::Logp if before.live => "surrogate (custom expression)".into(),
            Live::Logp => "score".into(),
        }),
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

/// The parts of some formulas, each once, operands before users. Formulas share parts, so nothing here walks the tree that the
/// sharing stands for.
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
                let operands = formula.operands().iter().rev();
                pending.extend(operands.filter(|operand| !parts.facts.contains_key(&Rc::as_ptr(&operand.0))));
                if pending.len() == before {
                    let mut facts = own_facts(formula);
                    formula.operands().iter().for_each(|operand| facts.add(parts.facts(operand)));
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

    /// Every live part that gradient reaches, each once, in the order in which they are read, with the facts of what its
    /// derivative is multiplied by.
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
        let all = |operands: &'a [Formula], facts: Facts| operands.iter().map(|operand| (operand, facts)).collect::<Vec<_>>();
        let found = match &formula.0.kind {
            FormulaKind::Number(_) | FormulaKind::Schedule(_) | FormulaKind::Signal(_) | FormulaKind::Live(_) => Vec::new(),
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand } => vec![(operand, nothing)],
            FormulaKind::Reduce { operand, .. } | FormulaKind::Statistic { operand, .. } => {
                vec![(operand, self.facts(formula))]
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate | Function::Add | Function::Subtract, operands) => all(operands, nothing),
                (Function::Multiply, [left, right]) => vec![(left, self.facts(right)), (right, self.facts(left))],
                (Function::Divide, [left, right]) => vec![(left, self.facts(right)), (right, self.facts(formula))],
                (Function::Where, [condition, then, otherwise]) => {
                    vec![(then, self.facts(condition)), (otherwise, self.facts(condition))]
                }
                // A truth value has no slope.
                (function, _) if is_truth(*function) => Vec::new(),
                (_, operands) => all(operands, self.facts(formula)),
            },
        };
        found.into_iter().filter(|(operand, _)| operand.live()).collect()
    }
}

/// What a formula adds to the facts of its operands.
fn own_facts(formula: &Formula) -> Facts {
    let nothing = Facts::default();
    match &formula.0.kind {
        FormulaKind::Signal(signal) => Facts {
            reward: matches!(signal, Signal::Reward | Signal::Correct),
            signal: !matches!(signal, Signal::Logp { role: Role::Sampler }),
            ..nothing
        },
        FormulaKind::Live(_) => Facts { live: true, ..nothing },
        FormulaKind::Apply { function: Function::Subtract, operands } => {
            let roles = operands.iter().map(|operand| match &operand.0.kind {
                FormulaKind::Signal(Signal::Logp { role }) => Some(*role),
                _ => None,
            });
            let log_ratio = match roles.collect::<Vec<_>>().as_slice() {
                [Some(left), Some(right)] => is_policy(*left) != is_policy(*right),
                _ => false,
            };
            Facts { log_ratio, ..nothing }
        }
        FormulaKind::Apply { function: Function::Exp, operands } => {
            let over_sequence = operands.iter().any(|operand| match &operand.0.kind {
                FormulaKind::Reduce { reduction: Reduction::Mean, operand } => is_live_log_ratio(operand),
                _ => false,
            });
            Facts { ratio: operands.iter().any(is_live_log_ratio), sequence_ratio: over_sequence, ..nothing }
        }
        _ => nothing,
    }
}

/// The student, or the policy that it was when it wrote the tokens.
fn is_policy(role: Role) -> bool {
    matches!(role, Role::Student | Role::Sampler)
}

/// `live student.logp - sampler.logp`
fn is_live_log_ratio(formula: &Formula) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &formula.0.kind else { return false };
    let [above, below] = operands.as_slice() else { return false };
    matches!(above.0.kind, FormulaKind::Live(Live::Logp))
        && matches!(below.0.kind, FormulaKind::Signal(Signal::Logp { role: Role::Sampler }))
}

fn is_truth(function: Function) -> bool {
    use Function::*;
    matches!(function, Not | And | Or | Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual)
}

fn prefixes(prefixes: &Prefixes) -> String {
    let sampled = |sampling: &Sampling| match sampling.temperature {
        0.0 => "greedy".to_string(),
        temperature => format!("temperature {temperature}"),
    };
    match prefixes {
        Prefixes::Data { field, .. } => format!("data (field `{field}`)"),
        Prefixes::Student { sampling, .. } => format!("student rollouts ({} per prompt, {})", sampling.n, sampled(sampling)),
        Prefixes::Teacher { sampling, .. } => format!("teacher rollouts (made once, {})", sampled(sampling)),
    }
}

fn sequence_selection(objective: &Objective, prefixes: Option<&Prefixes>) -> String {
    let kept = match prefixes {
        Some(Prefixes::Teacher { keep: Keep::Correct, .. }) => Some("correct rollouts".to_string()),
        _ => None,
    };
    let selected = objective.select.iter().filter(|select| select.axis() < Axis::Token);
    let selected = selected.map(|select| format!("where {}", quoted(select)));
    let parts: Vec<String> = kept.into_iter().chain(selected).collect();
    if parts.is_empty() { "all".into() } else { parts.join(", ") }
}

fn token_allocation(objective: &Objective) -> String {
    let selected = objective.select.iter().find(|select| select.axis() == Axis::Token);
    let selected = selected.map_or("all tokens".to_string(), |select| format!("tokens where {}", quoted(select)));
    let weight = objective.weight.iter().map(|weight| format!("weight {}", quoted(weight)));
    let steps = objective.reduce.iter().map(|step| {
        format!("{} over the {}s of each {}", text::reduction(step.operation), step.elements.name(), step.over.name())
    });
    let steps = steps.collect::<Vec<String>>().join(", then ").replace("of each batch", "of the batch");
    std::iter::once(selected).chain(weight).chain([steps]).collect::<Vec<String>>().join("; ")
}

fn quoted(formula: &Formula) -> String {
    text::formula(formula, QUOTED)
}

/// The nonlinear functions and the statistics in the terms.
fn shaping(parts: &Parts) -> String {
    use Function::*;
    let found = parts.ordered.iter().filter_map(|formula| match &formula.0.kind {
        FormulaKind::Statistic { statistic, over, .. } => Some(format!("{} over {}", text::statistic(*statistic), over.name())),
        FormulaKind::Apply { function: Clip, operands } => {
            let bounds = operands.get(1).zip(operands.get(2));
            let number = |bound: &Formula| match bound.0.kind {
                FormulaKind::Number(value) => Some(value),
                _ => None,
            };
            Some(match bounds {
                Some((low, high)) if number(low).is_some_and(|low| number(high) == Some(-low)) => {
                    format!("clip ±{}", quoted(high))
                }
                Some((low, high)) => format!("clip to [{}, {}]", quoted(low), quoted(high)),
                None => "clip".into(),
            })
        }
        FormulaKind::Apply {
            function: function @ (Minimum | Maximum | Abs | Relu | Tanh | Sigmoid | Sqrt | Log1p | Power),
            ..
        } => Some(text::function(*function).to_string()),
        _ => None,
    });
    listed(found, ", ")
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
