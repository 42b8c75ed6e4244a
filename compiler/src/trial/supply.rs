//! Supplies the leaves of an objective's graph: numbers given by name, or computed from given distributions
//! and from the completions' lengths.

use std::collections::{BTreeSet, HashMap};

use mopd_experiment::StageStep;
use mopd_experiment::formula::{Axis, FormulaKind, ModelSignal, PlainSignal, Role, Signal, Support, text};
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::graph::{LiveId, NodeId, Operation};
use mopd_expr::interpret::interpret_exact;
use mopd_expr::signals;

use super::blocks::Blocks;
use super::carried::EarlierValues;
use super::numbers::TrialNumbers;
use crate::audit::{
    RoleDistributions, TokenContext, ToyModel, compares_vocabularies, is_from_distributions,
    is_live_of_distributions,
};
use crate::lower::{FormulaGraph, GraphLeaf};

/// All inputs of the graph.
pub(super) struct TrialInputs {
    pub batch: Batch,
    /// The values of the leaves, as they are before they are rounded to the single precision of a batch.
    pub exact: HashMap<NodeId, Vec<f64>>,
    /// One for each live leaf.
    pub by_logits: Vec<LogitGradient>,
    pub unread: Vec<String>,
}

/// The derivative of a live leaf by the student's logits.
pub(super) struct LogitGradient {
    pub live: LiveId,
    /// By token and entry. `None` where the leaf was given as a number.
    pub by_entry: Option<Vec<Vec<f64>>>,
}

/// The numbers of one leaf, one per element of its axis.
struct LeafValues {
    values: Vec<f64>,
    by_logits: Option<Vec<Vec<f64>>>,
}

/// # Errors
/// Everything that is missing or does not fit, in one sentence each.
pub(super) fn supply(
    formulas: &FormulaGraph,
    chosen: Option<NodeId>,
    numbers: &TrialNumbers,
    carried: &EarlierValues,
    temperature: f64,
) -> Result<TrialInputs, Vec<String>> {
    let layout = numbers.layout()?;
    let source = LeafSource::new(formulas, numbers, carried, &layout, temperature)?;
    let (step, steps, carried) = (numbers.step, numbers.steps, carried.memory.clone());
    let mut batch = Batch { layout, step, steps, carried, ..Batch::default() };
    batch.live = vec![Vec::new(); formulas.leaves().len()];
    let (mut faults, mut by_logits, mut exact) = (Vec::new(), Vec::new(), HashMap::new());
    let needed = formulas.leaves().iter().filter(|leaf| formulas.is_needed(leaf.node));
    let (of_blocks, others): (Vec<&GraphLeaf>, Vec<&GraphLeaf>) =
        needed.partition(|leaf| leaf.formula.axis() == Axis::Block);
    let mut blocks = None;
    for leaf in others.into_iter().chain(of_blocks) {
        let of_block = leaf.formula.axis() == Axis::Block;
        if let (Some(chosen), None, true, true) = (chosen, &blocks, of_block, faults.is_empty()) {
            blocks = Some(Blocks::from_selection(formulas, chosen, &batch).map_err(|fault| vec![fault])?);
        }
        // The numbers inside a leaf are computed first, because leaves are in this order.
        let inside = operand_values(formulas, leaf, &batch, &exact);
        let of_leaf = inside.and_then(|inside| source.leaf(leaf, &inside, &batch.layout));
        let of_leaf = match (of_leaf, &blocks) {
            (Ok(LeafValues { values, .. }), Some(blocks)) if of_block => {
                let numbers = blocks.numbers(&given_as(leaf), &values);
                numbers.map(|values| LeafValues { values, by_logits: None })
            }
            (of_leaf, _) => of_leaf,
        };
        let of_leaf = match of_leaf {
            Ok(numbers) => numbers,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let values: Vec<f32> = of_leaf.values.iter().map(|value| *value as f32).collect();
        exact.insert(leaf.node, of_leaf.values);
        match &formulas.graph.node(leaf.node).operation {
            Operation::Live { live } => {
                batch.live[live.0 as usize] = values;
                by_logits.push(LogitGradient { live: *live, by_entry: of_leaf.by_logits });
            }
            Operation::Signal { signal } => batch.signals.push((signal.clone(), values)),
            _ => {}
        }
    }
    if formulas.graph.signals(&formulas.roots).contains(&signals::Signal::Chosen) {
        match preferred(&batch.layout) {
            Ok(preferred) => batch.signals.push((signals::Signal::Chosen, preferred)),
            Err(fault) => faults.push(fault),
        }
    }
    for (name, signal) in random_choices(formulas) {
        let axis = signal.axis();
        match source.given(&name, axis) {
            Ok(Some(values)) => {
                batch.signals.push((signal, values.iter().map(|value| *value as f32).collect()));
            }
            Ok(None) => faults.push(format!("`{name}` is missing: one number in [0, 1) per {}", axis.name())),
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        faults.dedup();
        return Err(faults);
    }
    if let (Some(chosen), None) = (chosen, &blocks) {
        blocks = Some(Blocks::from_selection(formulas, chosen, &batch).map_err(|fault| vec![fault])?);
    }
    blocks.iter().for_each(|blocks| blocks.divide(&mut batch.layout));
    let read = source.read.into_inner();
    let unread: BTreeSet<&String> = numbers.names().filter(|name| !read.contains(*name)).collect();
    Ok(TrialInputs { unread: unread.into_iter().cloned().collect(), batch, exact, by_logits })
}

/// Marks the first of the two completions of each prompt.
fn preferred(layout: &Layout) -> Result<Vec<f32>, String> {
    let of_group = |group: u32| layout.group_of_sequence.iter().filter(|of| **of == group).count();
    if (0..layout.groups).any(|group| of_group(group) != 2) {
        return Err(
            "a pair is two completions of one prompt, the chosen one and then the rejected".to_owned()
        );
    }
    Ok((0..layout.group_of_sequence.len()).map(|sequence| (1 - sequence % 2) as f32).collect())
}

/// The random numbers that the graph reads, with the names under which they are given.
pub(super) fn random_choices(formulas: &FormulaGraph) -> Vec<(String, signals::Signal)> {
    let signals = formulas.graph.signals(&formulas.roots).into_iter();
    let named = signals.filter_map(|signal| match signal {
        signals::Signal::Uniform { draw, .. } => Some((format!("uniform {draw}"), signal)),
        _ => None,
    });
    named.collect()
}

/// The name of a live number in the language, without `live`; see [`given_as`].
pub(super) fn name(leaves: &[GraphLeaf], live: LiveId) -> String {
    given_as(&leaves[live.0 as usize])
}

/// The name under which a leaf is given.
pub(super) fn given_as(leaf: &GraphLeaf) -> String {
    let name = match &leaf.formula.0.kind {
        FormulaKind::Signal(signal) => text::signal(signal),
        FormulaKind::Live(live) => text::live(live).trim_start_matches("live ").to_owned(),
        FormulaKind::Variable(name) => name.to_string(),
        _ => text::formula(&leaf.formula, 60),
    };
    // `support: full` is the default and not written.
    name.replace(", support: full", "")
}

/// The roles whose distributions a leaf is computed from; empty if it is not computed so.
pub(super) fn roles(leaf: &GraphLeaf) -> Vec<Role> {
    match &leaf.formula.0.kind {
        FormulaKind::Signal(signal) if is_from_distributions(signal) => signal.roles(),
        FormulaKind::Live(live) if is_live_of_distributions(live) => live.roles(),
        _ => Vec::new(),
    }
}

/// The numbers inside a leaf, by token, computed from the leaves before it.
fn operand_values(
    formulas: &FormulaGraph,
    leaf: &GraphLeaf,
    batch: &Batch,
    exact: &HashMap<NodeId, Vec<f64>>,
) -> Result<Vec<Vec<f64>>, String> {
    let tokens = batch.layout.tokens();
    if leaf.operands.is_empty() {
        return Ok(vec![Vec::new(); tokens]);
    }
    let values = interpret_exact(&formulas.graph, &leaf.operands, batch, exact)
        .map_err(|_| format!("`{}` cannot be computed without the missing numbers", given_as(leaf)))?;
    let of = |node: &NodeId, token| {
        values.get(*node)[batch.layout.parent(Axis::Token, formulas.graph.axis(*node), token)]
    };
    Ok((0..tokens).map(|token| leaf.operands.iter().map(|node| of(node, token)).collect()).collect())
}

struct LeafSource<'a> {
    numbers: &'a TrialNumbers,
    carried: &'a EarlierValues,
    /// The given distributions of all roles. `None` if there are none.
    distributions: Option<ToyModel>,
    known: Vec<Role>,
    tokens: Option<Vec<usize>>,
    read: std::cell::RefCell<BTreeSet<String>>,
}

impl<'a> LeafSource<'a> {
    fn new(
        formulas: &FormulaGraph,
        numbers: &'a TrialNumbers,
        carried: &'a EarlierValues,
        layout: &Layout,
        temperature: f64,
    ) -> Result<LeafSource<'a>, Vec<String>> {
        let mut wanted: Vec<Role> = Vec::new();
        for role in formulas.leaves().iter().flat_map(roles) {
            if !wanted.contains(&role) {
                wanted.push(role);
            }
        }
        let mut found: Vec<RoleDistributions> = Vec::new();
        let (mut faults, mut read) = (Vec::new(), BTreeSet::new());
        for role in wanted {
            match numbers.distributions(role.name()) {
                Ok(Some(distributions)) => {
                    read.insert(role.name().to_owned());
                    found.push(RoleDistributions { role, logp: distributions });
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        let entries = found.first().map_or(0, |known| known.logp[0].len());
        for RoleDistributions { role, logp } in &found {
            let (role, others) = (role.name(), logp[0].len());
            if others != entries {
                faults.push(format!(
                    "`{role}` has {others} entries, but `{}` has {entries}: all distributions must be \
                    over one vocabulary",
                    found[0].role.name()
                ));
            }
        }
        let tokens = numbers.tokens();
        for (place, completion) in numbers.completions() {
            let beyond = completion.tokens.iter().flatten().find(|token| entries > 0 && **token >= entries);
            if let Some(token) = beyond {
                faults.push(format!(
                    "{place}: token {token} is not one of the {entries} entries, which are counted from 0"
                ));
            }
        }
        let beyond = numbers.matched.iter().flatten().find(|entry| entries > 0 && **entry >= entries);
        if let Some(entry) = beyond {
            faults.push(format!(
                "`matched` has {entry}, which is not one of the {entries} entries (counted from 0)"
            ));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let known = found.iter().map(|known| known.role.clone()).collect();
        let step = StageStep { step: numbers.step, steps: numbers.steps };
        let distributions = (!found.is_empty())
            .then(|| ToyModel::of_tokens(layout.tokens(), entries, found, temperature, step))
            .map(|known| known.with_matched(numbers.matched.clone()));
        Ok(LeafSource { numbers, carried, distributions, known, tokens, read: read.into() })
    }

    fn given(&self, name: &str, axis: Axis) -> Result<Option<Vec<f64>>, String> {
        self.given_or_lacking(name, axis, false)
    }

    fn given_or_lacking(&self, name: &str, axis: Axis, may_lack: bool) -> Result<Option<Vec<f64>>, String> {
        let found = self.numbers.numbers(name, axis, may_lack)?;
        if found.is_some() {
            self.read.borrow_mut().insert(name.to_owned());
        }
        Ok(found)
    }

    fn leaf(&self, leaf: &GraphLeaf, inside: &[Vec<f64>], layout: &Layout) -> Result<LeafValues, String> {
        let (name, axis) = (given_as(leaf), leaf.formula.axis());
        // A member of a panel may have stated no confidence.
        let part = |signal: &Signal| matches!(signal, Signal::Of { part: ModelSignal::StatedConfidence, .. });
        let may_lack = matches!(&leaf.formula.0.kind, FormulaKind::Signal(signal) if part(signal));
        if let Some(values) = self.given_or_lacking(&name, axis, may_lack)? {
            return Ok(LeafValues { values, by_logits: None });
        }
        let plain = |values| Ok(LeafValues { values, by_logits: None });
        if let FormulaKind::Signal(signal) = &leaf.formula.0.kind {
            if let Some(values) = self.of_layout(signal, layout)? {
                return plain(values);
            }
            if let Signal::State { axis, first, .. } = signal {
                // The file has one number, which holds for every domain.
                let given = self.given(&name, Axis::Run)?.map(|given| given[0]);
                let left = || self.carried.state(&name, *axis, &self.numbers.domains());
                return match (given, left()) {
                    (None, Some(left)) => {
                        plain(left.into_iter().map(|value| value.unwrap_or(*first)).collect())
                    }
                    (given, _) => plain(vec![given.unwrap_or(*first); layout.len(*axis)]),
                };
            }
            if *signal == Signal::Plain(PlainSignal::VocabularySize)
                && let Some(distributions) = &self.distributions
            {
                return plain(vec![distributions.entries_in_all() as f64]);
            }
        }
        let one_per = match axis {
            Axis::Run | Axis::Batch => "one number".to_owned(),
            Axis::Block => "one number per token, that of its block".to_owned(),
            axis => format!("one number per {}", axis.name()),
        };
        if compares_vocabularies(&leaf.formula.0.kind) && self.numbers.matched.is_none() {
            return Err(format!(
                "`{name}` is missing: {one_per}, or in `matched` the entries that both vocabularies have"
            ));
        }
        let roles = roles(leaf);
        let unknown: Vec<String> = roles
            .iter()
            .filter(|role| !self.known.contains(role))
            .map(|role| format!("`{}`", role.name()))
            .collect();
        if let Some(distributions) =
            self.distributions.as_ref().filter(|_| unknown.is_empty() && !roles.is_empty())
        {
            return self
                .of_distributions(leaf, distributions, inside)
                .map_err(|fault| format!("`{name}`: {fault}"));
        }
        Err(if unknown.is_empty() {
            format!("`{name}` is missing: {one_per}")
        } else {
            format!("`{name}` is missing: {one_per}, or the distributions of {}", unknown.join(" and "))
        })
    }

    /// The numbers of a signal that is computed from lengths, step, rewards and vocabularies.
    fn of_layout(&self, signal: &Signal, layout: &Layout) -> Result<Option<Vec<f64>>, String> {
        let tokens = 0..layout.tokens();
        let first = |sequence: u32| layout.sequence_of_token.partition_point(|of| *of < sequence);
        Ok(Some(match signal {
            Signal::Plain(PlainSignal::Position) => {
                tokens.map(|token| (token - first(layout.sequence_of_token[token])) as f64).collect()
            }
            Signal::Plain(PlainSignal::Remaining) => {
                tokens.map(|token| (first(layout.sequence_of_token[token] + 1) - 1 - token) as f64).collect()
            }
            Signal::Plain(PlainSignal::Length) => {
                (0..layout.sequences() as u32).map(|of| (first(of + 1) - first(of)) as f64).collect()
            }
            Signal::Plain(PlainSignal::Turn) => tokens
                .map(|token| {
                    let turn = |token| layout.parent(Axis::Token, Axis::Turn, token);
                    (turn(token) - turn(first(layout.sequence_of_token[token]))) as f64
                })
                .collect(),
            Signal::SupportSize { support: Support::Matched } if self.numbers.matched.is_some() => {
                let matched = self.numbers.matched.iter().flatten().collect::<BTreeSet<_>>();
                tokens.map(|_| matched.len() as f64).collect()
            }
            Signal::DomainIs { name, .. } => {
                let domains = self.numbers.domains();
                if domains.contains(&"") {
                    return Err(format!("a prompt has no `domain`, which `domain == {name}` compares"));
                }
                domains.into_iter().map(|domain| f64::from(u8::from(domain == &**name))).collect()
            }
            Signal::Plain(PlainSignal::Step) => vec![f64::from(self.numbers.step)],
            Signal::Plain(PlainSignal::Progress) => {
                vec![f64::from(self.numbers.step) / f64::from(self.numbers.steps.max(1))]
            }
            Signal::Plain(PlainSignal::Correct) => {
                let rewards = self.given("reward", Axis::Sequence)?;
                let rewards = rewards.ok_or("`correct` is missing: one number per sequence, or `reward`")?;
                rewards.iter().map(|reward| f64::from(u8::from(*reward >= 1.0))).collect()
            }
            _ => return Ok(None),
        }))
    }

    fn of_distributions(
        &self,
        leaf: &GraphLeaf,
        distributions: &ToyModel,
        inside: &[Vec<f64>],
    ) -> Result<LeafValues, String> {
        let (mut values, mut by_logits) = (Vec::new(), Vec::new());
        for (token, inside) in inside.iter().enumerate() {
            let context = TokenContext {
                toy: distributions,
                prefix: token,
                token: self.tokens.as_ref().map(|tokens| tokens[token]),
                bounds: true,
            };
            match &leaf.formula.0.kind {
                FormulaKind::Signal(signal) => {
                    let value = context.signal(signal, inside).ok_or("distributions don't give it")?;
                    let value = value.map_err(|why| why.to_string())?;
                    values.push(value);
                }
                FormulaKind::Live(live) => {
                    let live = context.live(live, inside).map_err(|why| why.to_string())?;
                    values.push(live.value);
                    by_logits.push(live.gradient);
                }
                _ => return Err("distributions don't give it".into()),
            }
        }
        let live = matches!(leaf.formula.0.kind, FormulaKind::Live(_));
        Ok(LeafValues { values, by_logits: live.then_some(by_logits) })
    }
}
