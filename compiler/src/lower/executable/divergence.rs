//! Converts divergences, their supports, and the formulas inside them. `at` is the place of the formula that
//! reads the divergence.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_experiment::formula::{self as checked, FormulaKind, FormulaNode};
use mopd_expr::graph::{Graph, LiveId, NodeId};
use mopd_expr::summand::SIDES;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{
    Axis, Distribution, Divergence, DivergenceKind, DivergenceParameter, Formula, ModelSignal, Role, Signal,
    Summand, SummandParameter, Support,
};

use super::formula::{ExecutableKind, role};
use super::{Converted, refused};
use crate::lower::finite::schedule_is_finite;
use crate::lower::positions;
use crate::lower::refusal::FormulaContext;
use crate::lower::scores::ScorePosition;

pub fn divergence(divergence: &checked::Divergence, at: FormulaContext) -> Converted<Divergence> {
    let checked::Divergence { kind, left, right, support: of, mass, temperature, clip_each } = divergence;
    Ok(Divergence {
        kind: divergence_kind(kind, at)?,
        left: distribution(left, at)?,
        right: distribution(right, at)?,
        support: support(of, compared_by_text(divergence, at)?, at)?,
        mass: *mass,
        temperature: match temperature {
            checked::Amount::Number(number) => DivergenceParameter::Number(*number),
            checked::Amount::Formula(formula) => parameter(formula, at)?,
        },
        clip_each: *clip_each,
    })
}

fn distribution(distribution: &checked::Distribution, at: FormulaContext) -> Converted<Distribution> {
    Ok(match distribution {
        checked::Distribution::Role(of) => Distribution::Role(role(of, at)?),
        checked::Distribution::Blend(parts) => {
            let parts = parts.iter().map(|part| Ok((parameter(&part.weight, at)?, role(&part.role, at)?)));
            Distribution::Blend(parts.collect::<Converted<_>>()?)
        }
        checked::Distribution::Detached(inner) => {
            Distribution::Detached(Box::new(self::distribution(inner, at)?))
        }
    })
}

fn divergence_kind(kind: &checked::DivergenceKind, at: FormulaContext) -> Converted<DivergenceKind> {
    Ok(match kind {
        checked::DivergenceKind::Kl => DivergenceKind::Kl,
        checked::DivergenceKind::SortedL1 => DivergenceKind::SortedL1,
        checked::DivergenceKind::Gaussian { .. } => {
            return Err(refused(at, format!("the divergence `{}`", kind.name())));
        }
        checked::DivergenceKind::Entrywise(own) => DivergenceKind::Entrywise(Box::new(summand(own, at)?)),
    })
}

/// The role whose vocabulary is compared with the student's in a `matched` or `unmatched` support: the other
/// role of the divergence.
fn compared_by_text(divergence: &checked::Divergence, at: FormulaContext) -> Converted<Role> {
    let roles = [divergence.left.roles(), divergence.right.roles()].concat();
    let mut others = roles.iter().filter(|of| !of.is_policy());
    others.next().map_or(Ok(Role::TEACHER), |of| role(of, at))
}

/// `matched` and `unmatched` compare the vocabulary of `with` to the student's.
pub fn support(support: &checked::Support, with: Role, at: FormulaContext) -> Converted<Support> {
    let parts = |parts: &[checked::Support]| {
        parts.iter().map(|part| self::support(part, with, at)).collect::<Converted<Vec<Support>>>()
    };
    Ok(match support {
        checked::Support::Full => Support::Full,
        checked::Support::TopK { role: of, k } => Support::TopK { role: role(of, at)?, k: *k },
        checked::Support::Nucleus { role: of, p } => Support::Nucleus { role: role(of, at)?, p: *p },
        checked::Support::Sampled => Support::Sampled,
        checked::Support::Union(of) => Support::Union { of: parts(of)? },
        checked::Support::Intersection(of) => Support::Intersection { of: parts(of)? },
        checked::Support::Matched => Support::Matched { role: with },
        checked::Support::Unmatched => Support::Unmatched { role: with },
    })
}

pub fn parameter(formula: &checked::Formula, at: FormulaContext) -> Converted<DivergenceParameter> {
    let mut graph = Graph::default();
    let value = node(&mut graph, formula, None, at)?;
    Ok(match graph.constant_value(value) {
        Some(value) => DivergenceParameter::Number(value),
        None => DivergenceParameter::Formula(Box::new(Formula { graph, value })),
    })
}

/// What a summand reads besides the step: its sides, and the parameters that the step does not decide.
struct SummandInputs<'a> {
    sides: [NodeId; 4],
    parameters: Vec<(&'a checked::Formula, NodeId)>,
}

impl SummandInputs<'_> {
    fn find(&self, part: &checked::Formula) -> Option<NodeId> {
        if let FormulaKind::Entry(entry) = part.0.kind {
            let index = checked::SideProbability::ALL.iter().position(|side| *side == entry);
            return index.map(|index| self.sides[index]);
        }
        let parameter = self.parameters.iter().find(|(value, _)| checked::is_parameter(part, value));
        parameter.map(|(_, node)| *node)
    }
}

fn summand(summand: &checked::Summand, at: FormulaContext) -> Converted<Summand> {
    let mut graph = Graph::default();
    let sides = [0, 1, 2, 3].map(|live| graph.live(LiveId(live)));
    let mut inputs = SummandInputs { sides, parameters: Vec::new() };
    let mut parameters = Vec::new();
    for given in summand.parameters.iter().filter(|given| given.reads_the_run()) {
        let bounds = given.value.0.declared.as_ref().map(|declared| (declared.low, declared.high));
        let input = match parameter(&given.value, at)? {
            DivergenceParameter::Number(number)
                if bounds.is_some_and(|(low, high)| !(low..=high).contains(&number)) =>
            {
                let message = format!("`{}` of the divergence `{}` is {number}", given.name, summand.name);
                return Err(Diagnostic::error(Code::OutOfRange, at.span, message).into());
            }
            DivergenceParameter::Number(number) => graph.constant(Axis::Run, number),
            value => {
                parameters.push(SummandParameter { name: given.name.clone(), value, bounds });
                graph.live(LiveId(SIDES - 1 + parameters.len() as u32))
            }
        };
        inputs.parameters.push((&given.value, input));
    }
    let value = node(&mut graph, &summand.value, Some(&inputs), at)?;
    let value = graph.broadcast(value, Axis::Token);
    if !graph.signals(&[value]).iter().all(Signal::is_of_step) {
        let construct = format!("a signal in the divergence `{}` that is no parameter of it", summand.name);
        return Err(refused(at, construct));
    }
    let own = Summand { graph, value, parameters };
    own.at((0, 1), &vec![None; own.parameters.len()])
        .map_err(|error| refused(at, format!("the divergence `{}`: {error}; so it", summand.name)))?;
    Ok(own)
}

/// The node of a formula. In a summand, which has `inputs`, the formula may not depend on other tokens.
fn node(
    graph: &mut Graph,
    formula: &checked::Formula,
    inputs: Option<&SummandInputs>,
    at: FormulaContext,
) -> Converted<NodeId> {
    let mut known: HashMap<*const FormulaNode, NodeId> = HashMap::new();
    let mut pending = vec![formula];
    // Not recursive: a long sum is a deep formula.
    while let Some(formula) = pending.last().copied() {
        let address = Rc::as_ptr(&formula.0);
        if known.contains_key(&address) {
            pending.pop();
            continue;
        }
        if let Some(input) = inputs.and_then(|inputs| inputs.find(formula)) {
            known.insert(address, input);
            pending.pop();
            continue;
        }
        let operands = match (&formula.0.kind, inputs) {
            (FormulaKind::Apply { operands, .. }, _) => operands.as_slice(),
            (FormulaKind::Reduce { operand, among: None, on: None, fraction: None, .. }, None) => {
                std::slice::from_ref(operand)
            }
            _ => &[],
        };
        let before = pending.len();
        pending.extend(operands.iter().filter(|operand| !known.contains_key(&Rc::as_ptr(&operand.0))));
        if pending.len() > before {
            continue;
        }
        let made = match (&formula.0.kind, inputs) {
            (FormulaKind::Apply { function, .. }, _) => {
                let operands: Vec<NodeId> =
                    operands.iter().map(|operand| known[&Rc::as_ptr(&operand.0)]).collect();
                graph.apply(*function, &operands)
            }
            (FormulaKind::Reduce { operand, among: None, on: None, reduction, fraction: None }, None) => {
                super::formula::kind(&formula.0, at)?;
                let operand = known[&Rc::as_ptr(&operand.0)];
                if graph.axis(operand) <= formula.0.axis {
                    let message = format!(
                        "`{}` has nothing to run over: its argument is one number per {}",
                        reduction.name(),
                        formula.0.axis.name()
                    );
                    return Err(Diagnostic::error(Code::AxisMismatch, at.span, message).into());
                }
                graph.reduce(*reduction, operand, formula.0.axis, None)
            }
            _ => leaf(graph, &formula.0, at)?,
        };
        known.insert(address, made);
        pending.pop();
    }
    Ok(known[&Rc::as_ptr(&formula.0)])
}

/// The operation of a formula, as it is written.
fn written(formula: &FormulaNode) -> String {
    let name = match &formula.kind {
        FormulaKind::Apply { function, .. } => function.name(),
        FormulaKind::Statistic { statistic, .. } => statistic.name(),
        FormulaKind::Scan { scan, .. } => scan.name(),
        FormulaKind::Memory { memory, .. } => memory.name(),
        FormulaKind::Across { .. } => "softmax",
        FormulaKind::Reduce { reduction, among: Some(_), .. } => {
            return format!("`{}(..., among: ...)`", reduction.name());
        }
        FormulaKind::Reduce { reduction, on: Some(_), .. } => {
            return format!("`{}(..., on: ...)`", reduction.name());
        }
        FormulaKind::Reduce { reduction, .. } => reduction.name(),
        FormulaKind::Live(_) => return "`live`".to_owned(),
        _ => return "this number".to_owned(),
    };
    format!("`{name}`")
}

fn leaf(graph: &mut Graph, formula: &FormulaNode, at: FormulaContext) -> Converted<NodeId> {
    let infinite = |what: String| Diagnostic::error(Code::OutOfRange, at.span, what).into();
    Ok(match super::formula::kind(formula, at)? {
        ExecutableKind::Number(value) if !value.is_finite() => {
            return Err(infinite(format!("the number {value} is not finite")));
        }
        ExecutableKind::Number(value) => graph.constant(Axis::Run, value),
        ExecutableKind::PerSequence(value) => graph.constant(Axis::Sequence, value),
        ExecutableKind::Schedule(schedule) if !schedule_is_finite(&schedule) => {
            return Err(infinite("a schedule has a bound that is not finite".into()));
        }
        ExecutableKind::Schedule(schedule) => graph.schedule(schedule),
        ExecutableKind::Signal(Signal::Divergence(divergence)) if !divergence.signals().is_empty() => {
            return Err(refused(at, "a divergence with its own formulas inside a divergence"));
        }
        ExecutableKind::Signal(Signal::Agreement { .. }) => {
            return Err(refused(at, "`agreement` inside a divergence"));
        }
        ExecutableKind::Signal(Signal::Uniform { .. }) => {
            return Err(refused(at, "a random number inside a divergence"));
        }
        ExecutableKind::Signal(signal) => graph.signal(signal),
        ExecutableKind::Remaining => positions::remaining(graph),
        ExecutableKind::Turn => return Err(refused(at, "the signal `turn` inside a divergence")),
        ExecutableKind::InFinalTurn => return Err(refused(at, "`span.final_turn` inside a divergence")),
        ExecutableKind::PerDomain(value) => graph.constant(Axis::Domain, value),
        ExecutableKind::InDomain(place) => positions::in_domain(graph, place),
        ExecutableKind::Selected => return Err(refused(at, "`selected` inside a divergence")),
        ExecutableKind::Score { of: Some(role), on: ScorePosition::EachToken } => {
            graph.signal(Signal::Of { role, part: ModelSignal::Value })
        }
        ExecutableKind::Live(_)
        | ExecutableKind::Score { .. }
        | ExecutableKind::Dpo
        | ExecutableKind::BradleyTerry { .. }
        | ExecutableKind::SquaredError { .. }
        | ExecutableKind::Confidence
        | ExecutableKind::CrossEntropy
        | ExecutableKind::Apply(_)
        | ExecutableKind::Reduce(_)
        | ExecutableKind::Statistic { .. }
        | ExecutableKind::Scan { .. }
        | ExecutableKind::Memory(_)
        | ExecutableKind::Across { .. } => {
            return Err(refused(at, format!("{} inside a divergence", written(formula))));
        }
    })
}
