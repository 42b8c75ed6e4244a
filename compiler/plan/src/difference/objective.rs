//! Compares two objectives. Their normal forms show the kind of each objective; a parallel walk through the
//! graphs from the loss finds every number that differs.

use std::collections::HashSet;

use mopd_experiment::formula::text;
use mopd_expr::graph::{Graph, NodeId, Operation};
use serde_json::Value;

use super::{SettingChange, values};
use crate::{Axis, Function, Learned, NormalForm, Objective, Signal, State};

/// The longest quoted expression, in characters.
const QUOTED: usize = 60;
/// The deepest nesting of a quoted expression.
const DEEPEST: usize = 5;

pub fn changes(before: &Objective, after: &Objective) -> Vec<SettingChange> {
    let primitives = |objective: &Objective| -> Vec<_> {
        objective.live.iter().map(|live| (live.primitive.clone(), live.adjoint)).collect()
    };
    let same = before.graph == after.graph
        && before.loss == after.loss
        && before.temperature == after.temperature
        && moves(before) == moves(after)
        && before.ladders == after.ladders
        && before.learned == after.learned;
    if same && primitives(before) == primitives(after) {
        return Vec::new();
    }
    let mut found: Vec<SettingChange> = slots(&before.normal_form)
        .into_iter()
        .zip(slots(&after.normal_form))
        .filter(|((_, old), (_, new))| old != new)
        .map(|((slot, old), (_, new))| of_slot(slot, old, new))
        .collect();
    // A number shown in a slot is also a number of the graph. It is reported once.
    let said: HashSet<(String, String)> = found
        .iter()
        .filter_map(|change| Some((unsigned(change.before.as_deref()?), unsigned(change.after.as_deref()?))))
        .collect();
    let mut walk = GraphComparison { before, after, met: HashSet::new(), found: Vec::new() };
    let terms = before
        .terms
        .iter()
        .filter_map(|old| Some((old, after.terms.iter().find(|new| new.name == old.name)?)));
    for (old, new) in terms {
        walk.pair(old.value, new.value, &format!("term `{}`", old.name));
    }
    walk.pair(before.loss, after.loss, "the loss");
    walk.states();
    walk.ladders();
    match (&before.learned, &after.learned) {
        (Some(old), Some(new)) => {
            walk.pair(old.gain, new.gain, "the gain of `learned`");
            found.extend(of_policy(old, new));
        }
        (None, None) => {}
        (old, new) => {
            let said = |of: &Objective, learned: &Option<Learned>| {
                let gain = expression(&of.graph, learned.as_ref()?.gain);
                Some(format!("to raise {gain}"))
            };
            let (before, after) = (said(before, old), said(after, new));
            found.push(SettingChange { what: "`learned`".to_owned(), before, after });
        }
    }
    let shaped = !found.is_empty();
    // A part of a formula is hard to place without the rest, so the terms are said in full.
    let [old, new] = [before, after].map(|objective| &objective.normal_form.terms);
    if !shaped && old != new && walk.found.iter().any(|change| !change.number) {
        let (before, after) = (Some(old.clone()), Some(new.clone()));
        found.push(SettingChange { what: "terms".to_owned(), before, after });
        walk.found.retain(|change| change.number);
    }
    let shaped = !found.is_empty();
    for GraphChange { change, number } in walk.found {
        let repeated = said.contains(&(unsigned(&shown(&change.before)), unsigned(&shown(&change.after))));
        if (number && !repeated && !found.contains(&change)) || (!shaped && !found.contains(&change)) {
            found.push(change);
        }
    }
    if found.is_empty() {
        found.push(SettingChange {
            what: "the order in which it computes".to_owned(),
            before: None,
            after: None,
        });
    }
    found
}

/// The first and the next value of each state.
fn moves(objective: &Objective) -> Vec<(&str, Axis, f64, NodeId)> {
    objective.states.iter().map(|state| (state.name.as_str(), state.axis, state.first, state.next)).collect()
}

/// The settings of a learned schedule's policy.
fn of_policy(old: &Learned, new: &Learned) -> Vec<SettingChange> {
    let numbers = |learned: &Learned| {
        let Learned { gain: _, hold, discount, learning_rate } = learned;
        [("hold", f64::from(*hold)), ("discount", *discount), ("lr", *learning_rate)]
    };
    let pairs = numbers(old).into_iter().zip(numbers(new));
    let other = pairs.filter(|((_, old), (_, new))| old != new);
    let change = |((name, old), (_, new)): ((&str, f64), (&str, f64))| SettingChange {
        what: format!("{name} of `learned`"),
        before: Some(text::number(old)),
        after: Some(text::number(new)),
    };
    other.map(change).collect()
}

fn shown(side: &Option<String>) -> String {
    side.clone().unwrap_or_default()
}

fn unsigned(number: &str) -> String {
    number.trim_start_matches(['-', '±']).to_owned()
}

fn slots(form: &NormalForm) -> [(&'static str, &str); 9] {
    [
        ("prefixes", &form.prefixes),
        ("sequence selection", &form.sequence_selection),
        ("token allocation", &form.token_allocation),
        ("support", &form.support),
        ("mass", &form.mass),
        ("divergence", &form.divergence),
        ("evaluation", &form.evaluation),
        ("shaping", &form.shaping),
        ("realisation", &form.realisation),
    ]
}

/// A change of a slot's text. A single changed number is named by the word before it: `clip ±5 -> ±3`.
fn of_slot(slot: &str, before: &str, after: &str) -> SettingChange {
    let (old, new) = (pieces(before), pieces(after));
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let behind =
        old[same..].iter().rev().zip(new[same..].iter().rev()).take_while(|(old, new)| old == new).count();
    let (old_middle, new_middle) = (&old[same..old.len() - behind], &new[same..new.len() - behind]);
    let is_number = |piece: &str| piece.trim_start_matches(['±', '-']).parse::<f64>().is_ok();
    match (old_middle, new_middle) {
        ([old_number], [new_number]) if is_number(old_number) && is_number(new_number) => {
            let whose = owner(&old[..same]).unwrap_or(slot);
            SettingChange {
                what: whose.to_owned(),
                before: Some((*old_number).to_owned()),
                after: Some((*new_number).to_owned()),
            }
        }
        _ => SettingChange {
            what: slot.to_owned(),
            before: Some(before.to_owned()),
            after: Some(after.to_owned()),
        },
    }
}

/// Splits a text into words, numbers and signs.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        while let Some(at) = rest.find(['(', ')', ',', ';', '[', ']', ':']) {
            pieces.extend([&rest[..at], &rest[at..at + 1]].into_iter().filter(|piece| !piece.is_empty()));
            rest = &rest[at + 1..];
        }
        pieces.extend(Some(rest).filter(|rest| !rest.is_empty()));
    }
    pieces
}

/// The word that a number after these pieces belongs to: the one right before it, or the function whose
/// argument it is.
fn owner<'a>(before: &[&'a str]) -> Option<&'a str> {
    let is_word = |piece: &str| piece.starts_with(|c: char| c.is_alphabetic());
    let last = before.iter().rposition(|piece| *piece != ":")?;
    if is_word(before[last]) {
        return Some(before[last]);
    }
    let mut closed = 0;
    for index in (0..before.len()).rev() {
        match before[index] {
            ")" | "]" => closed += 1,
            "(" | "[" if closed == 0 => {
                return before[..index].last().copied().filter(|piece| is_word(piece));
            }
            "(" | "[" => closed -= 1,
            _ => {}
        }
    }
    None
}

/// A difference of two graphs.
struct GraphChange {
    change: SettingChange,
    /// Whether a number differs in an otherwise equal expression.
    number: bool,
}

/// Nodes of two graphs that are compared.
struct NodePair {
    old: NodeId,
    new: NodeId,
    /// Where they are, in words.
    place: String,
}

/// Walks two graphs side by side.
struct GraphComparison<'a> {
    before: &'a Objective,
    after: &'a Objective,
    met: HashSet<(NodeId, NodeId)>,
    found: Vec<GraphChange>,
}

impl GraphComparison<'_> {
    fn states(&mut self) {
        let (before, after) = (self.before, self.after);
        for old in &before.states {
            let place = format!("state `{}`", old.name);
            match after.states.iter().find(|new| new.name == old.name) {
                Some(new) => {
                    if new.first != old.first {
                        let (first, now) = (Some(text::number(old.first)), Some(text::number(new.first)));
                        let what = format!("the first value of {place}");
                        self.found.push(GraphChange {
                            change: SettingChange { what, before: first, after: now },
                            number: true,
                        });
                    }
                    if new.axis != old.axis {
                        let many = |state: &State| match state.axis {
                            Axis::Domain => Some("one number for each domain".to_owned()),
                            _ => Some("one number".to_owned()),
                        };
                        let (before, after) = (many(old), many(new));
                        self.found.push(GraphChange {
                            change: SettingChange { what: place.clone(), before, after },
                            number: true,
                        });
                    }
                    self.pair(old.next, new.next, &place);
                }
                None => {
                    let gone = Some(expression(&before.graph, old.next));
                    self.found.push(GraphChange {
                        change: SettingChange { what: place, before: gone, after: None },
                        number: true,
                    });
                }
            }
        }
        let known = |name: &str| before.states.iter().any(|old| old.name == name);
        for new in after.states.iter().filter(|new| !known(&new.name)) {
            let (what, now) = (format!("state `{}`", new.name), Some(expression(&after.graph, new.next)));
            self.found
                .push(GraphChange { change: SettingChange { what, before: None, after: now }, number: true });
        }
    }

    /// Compares ladders. Their values, and added or removed ladders, are settings of the stage.
    fn ladders(&mut self) {
        let (before, after) = (self.before, self.after);
        for (old, new) in before.ladders.iter().zip(&after.ladders) {
            self.pair(old.advance_if, new.advance_if, "`advance_if`");
            if old.every != new.every {
                let steps = |every: u32| Some(format!("every {every} steps"));
                let what = "how often `advance_if` is looked at".to_owned();
                self.found.push(GraphChange {
                    change: SettingChange { what, before: steps(old.every), after: steps(new.every) },
                    number: true,
                });
            }
        }
    }

    fn pair(&mut self, old: NodeId, new: NodeId, place: &str) {
        // Nodes are hash-consed: each pair of nodes is visited once, not once per path. Not recursive, since
        // a chain may have a million nodes.
        let mut pending = vec![NodePair { old, new, place: place.to_owned() }];
        while let Some(pair) = pending.pop() {
            if self.met.insert((pair.old, pair.new)) {
                self.compare_nodes(pair, &mut pending);
            }
        }
    }

    fn compare_nodes(&mut self, NodePair { old, new, place }: NodePair, pending: &mut Vec<NodePair>) {
        let (before, after) = (&self.before.graph, &self.after.graph);
        let operands = |graph: &Graph, node| graph.operands(node);
        let (below_old, below_new) = (operands(before, old), operands(after, new));
        let go_on = |place: String| {
            below_old
                .iter()
                .zip(&below_new)
                .rev()
                .map(move |(old, new)| NodePair { old: *old, new: *new, place: place.clone() })
                .collect::<Vec<_>>()
        };
        let same_operands = below_old.len() == below_new.len();
        match (&before.node(old).operation, &after.node(new).operation) {
            (Operation::Constant { value: old }, Operation::Constant { value: new }) => {
                if old.to_bits() != new.to_bits() {
                    let change = SettingChange {
                        what: place,
                        before: Some(text::number(*old)),
                        after: Some(text::number(*new)),
                    };
                    self.found.push(GraphChange { change, number: true });
                }
            }
            (Operation::Schedule { schedule: old }, Operation::Schedule { schedule: new }) => {
                if old != new {
                    let change = SettingChange {
                        what: place,
                        before: Some(text::schedule(old)),
                        after: Some(text::schedule(new)),
                    };
                    self.found.push(GraphChange { change, number: true });
                }
            }
            (Operation::Signal { signal: old }, Operation::Signal { signal: new }) => {
                let changes = values::changes(&super::written(old), &super::written(new));
                self.found.extend(changes.into_iter().map(|change| {
                    let what = format!("{place}, {}", change.what);
                    GraphChange { change: SettingChange { what, ..change }, number: true }
                }));
            }
            (Operation::Live { live: old }, Operation::Live { live: new }) => {
                let primitive = |objective: &Objective, at: &mopd_expr::graph::LiveId| {
                    objective.live.get(at.0 as usize).map(|live| super::written(&live.primitive))
                };
                if let (Some(old), Some(new)) = (primitive(self.before, old), primitive(self.after, new)) {
                    self.found.extend(
                        values::changes(&old, &new)
                            .into_iter()
                            .map(|change| GraphChange { change, number: false }),
                    );
                }
            }
            (Operation::Apply { function, .. }, Operation::Apply { function: other, .. })
                if function == other && same_operands =>
            {
                pending.extend(go_on(argument_of(*function, &place)));
            }
            (old_operation, new_operation) if kind(old_operation) == kind(new_operation) && same_operands => {
                pending.extend(go_on(place));
            }
            _ => {
                let quoted = |graph: &Graph, node| Some(expression(graph, node));
                let change =
                    SettingChange { what: place, before: quoted(before, old), after: quoted(after, new) };
                self.found.push(GraphChange { change, number: false });
            }
        }
    }
}

/// Whether a text is a name rather than a sign.
fn is_word(name: &str) -> bool {
    name.chars().all(|character| character.is_alphanumeric() || character == '_')
}

/// The place of a number as an argument of a function. Signs and sums give no place.
fn argument_of(function: Function, place: &str) -> String {
    let name = function.name();
    if is_word(name) {
        format!("{name} in {}", place.rsplit(" in ").next().unwrap_or(place))
    } else {
        place.to_owned()
    }
}

/// An operation without its operands.
fn kind(operation: &Operation) -> Value {
    let mut value = super::written(operation);
    if let Value::Object(fields) = &mut value {
        ["operand", "operands", "mask", "noise", "discount"]
            .iter()
            .for_each(|field| _ = fields.remove(*field));
    }
    value
}

/// A node as text for people: deep or long parts are `...`.
pub fn expression(graph: &Graph, node: NodeId) -> String {
    let text = part(graph, node, DEEPEST);
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn part(graph: &Graph, node: NodeId, depth: usize) -> String {
    let Some(depth) = depth.checked_sub(1) else { return "...".to_owned() };
    let below = |node: NodeId| part(graph, node, depth);
    match &graph.node(node).operation {
        Operation::Constant { value } => text::number(*value),
        Operation::Schedule { schedule } => text::schedule(schedule),
        Operation::Signal { signal } => signal_text(signal),
        Operation::Live { .. } => "live".to_owned(),
        // Broadcasting is not written, as in the language.
        Operation::Broadcast { operand } => part(graph, *operand, depth + 1),
        Operation::Apply { function, operands } => {
            let name = function.name();
            let operands: Vec<String> = operands.iter().map(|operand| below(*operand)).collect();
            match operands.as_slice() {
                [left, right] if !is_word(name) => {
                    format!("({left} {name} {right})")
                }
                [one] if name.ends_with(['-', ' ']) => format!("{name}{one}"),
                _ => format!("{name}({})", operands.join(", ")),
            }
        }
        Operation::Reduce { reduction, operand, .. } => format!("{}({})", reduction.name(), below(*operand)),
        Operation::Statistic { statistic, operand, .. } => {
            format!("{}({})", statistic.name(), below(*operand))
        }
        Operation::Scan { scan, operand, .. } => format!("{}({})", scan.name(), below(*operand)),
        Operation::Memory { operand, .. } => format!("memory({})", below(*operand)),
    }
}

fn signal_text(signal: &Signal) -> String {
    match signal {
        Signal::Of { role, part } if part.definition().from_distribution => {
            format!("{}.{}", role.name(), part.name())
        }
        Signal::Other { text, .. } => text.clone(),
        Signal::State { name, .. } => name.clone(),
        Signal::DomainPlace => "domain".to_owned(),
        Signal::OfSteps { number, window } => window.written(*number),
        Signal::Measured { measure } => format!("measured[{measure}]"),
        other => super::written(other)["signal"].as_str().unwrap_or("signal").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_number_is_named_by_its_owner() {
        let said = |before, after| of_slot("slot", before, after).to_string();
        assert_eq!(said("clip ±5", "clip ±3"), "clip ±5 -> ±3");
        assert_eq!(said("top_k(teacher, 64)", "top_k(teacher, 32)"), "top_k 64 -> 32");
        assert_eq!(
            said("JSD(student, teacher), beta 0.5", "JSD(student, teacher), beta 0.1"),
            "beta 0.5 -> 0.1"
        );
        assert_eq!(said("full", "sampled token"), "slot full -> sampled token");
        assert_eq!(said("none", "clip ±3"), "slot none -> clip ±3");
        assert_eq!(said("(1)", "(2)"), "slot 1 -> 2");
    }
}
