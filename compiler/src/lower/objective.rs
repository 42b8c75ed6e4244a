//! Lowers an objective to a graph: its loss, the loss's derivative, and the reported numbers.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment as checked;
use mopd_lang::formula::{Adaptive, Formula, FormulaKind, text};
use mopd_lang::source::Span;

use super::executable::formula::Elsewhere;
use super::formula::{Lowering, PrimitiveUse, Supply};
use super::leaves::FormulaGraph;
use super::reduced::{Weighted, loss, only_where, shares, term_loss};
use super::{Expressions, TermExpressions, blocks};
use crate::expr::derivative::adjoints_beside;
use crate::expr::graph::{Graph, LiveId, NodeId, Operation};
use crate::plan::{
    Axis, Function, Ladder, Learned, LivePrimitive, NormalForm, Objective, Reduction, Signal, State, Term,
    TermGradient, TermLoss,
};
use crate::refusal::{Origins, refused};

pub(super) fn lower(
    objective: &checked::Objective,
    (temperature, vocabulary): (f64, Option<u32>),
    (read_losses, each_term): (&[String], bool),
    normal_form: NormalForm,
    origins: Origins,
    fused: bool,
) -> Result<Objective, Box<Diagnostic>> {
    let here = origins.span(objective.origin);
    let mut lowering = Lowering::new(Supply::Runtime, origins).with_vocabulary(vocabulary);
    lowering.blocks = true;
    let Pieces { mut lowering, selected, weight, mut terms, weighted } =
        pieces(objective, lowering, origins)?;
    lowering.graph.set_fused(fused);
    let chosen = blocks::chosen(&lowering.graph, objective, (&terms, &weighted), origins)?;
    if let Some(chosen) = chosen {
        blocks::report(&mut lowering.graph, terms.iter_mut().map(|term| &mut term.value), chosen);
    }
    // Terms with one number per token are summed as such; a loss per pair is not a number of any token.
    let (of_tokens, coarser): (Vec<NodeId>, Vec<NodeId>) =
        weighted.iter().map(|term| term.value).partition(|value| lowering.graph.axis(*value) == Axis::Token);
    let total = sum(&mut lowering.graph, of_tokens.into_iter());

    let loss = loss(&mut lowering, &weighted, selected, objective, origins)?;
    let live: Vec<LiveId> = (0..lowering.primitives.len() as u32).map(LiveId).collect();
    let gradients = self::gradients(&mut lowering, loss, &live, origins, here)?;
    if gradients.iter().all(|gradient| lowering.graph.constant_value(*gradient) == Some(0.0)) {
        let diagnostic = never_holds(&lowering, objective, (selected, &weighted), origins);
        return Err(diagnostic.unwrap_or_else(|| nothing_live(&lowering, objective, origins)).into());
    }

    let everything: Vec<NodeId> = total.into_iter().chain(coarser.iter().copied()).collect();
    let signal = signal(&mut lowering, &everything, selected, origins, here)?;
    let clipped = clipped(&mut lowering.graph, &everything);
    // Its bound would also be tested outside of blocks.
    if clipped.is_some_and(|node| blocks::readers(&lowering.graph)[node.0 as usize]) {
        return Err(refused(here, "`clip` of a number of a block"));
    }

    let read = objective.terms.iter().zip(&weighted).filter(|(term, _)| read_losses.contains(&term.name));
    let term_losses = read
        .map(|(term, weighted)| {
            let loss = term_loss(&mut lowering, term, weighted, selected, objective, origins)?;
            Ok(TermLoss { term: term.name.clone(), loss })
        })
        .collect::<Result<Vec<TermLoss>, Box<Diagnostic>>>()?;

    let ladders = origins.ladders.iter().map(|ladder| self::ladder(&mut lowering, ladder, origins));
    let ladders = ladders.collect::<Result<Vec<Ladder>, _>>()?;

    let mut losses = vec![(Signal::Loss, loss)];
    losses.extend(term_losses.iter().map(|of| (Signal::TermLoss { term: of.term.clone() }, of.loss)));
    let states = states(&mut lowering, objective, &losses)?;
    let learned = match origins.roles.learned.first() {
        // The gain is measured on the stage's own completions.
        Some(learned) if objective.terms.iter().all(|term| term.data.is_none()) => {
            Some(self::learned(&mut lowering, learned, losses, origins)?)
        }
        _ => None,
    };

    let own = if let [term] = weighted.as_slice() { term.weight } else { None };
    let weight = [weight, own]
        .into_iter()
        .flatten()
        .reduce(|left, right| lowering.graph.apply(Function::Multiply, &[left, right]));
    let weight = weight.map(|weight| lowering.graph.broadcast(weight, Axis::Token));

    // Last, so that all other nodes are the same as without it.
    let term_gradients = match each_term {
        true => term_gradients(&mut lowering, objective, (&weighted, selected), &live, origins)?,
        false => Vec::new(),
    };

    debug_assert_eq!(lowering.graph.check(), Ok(()));
    let domain_weight = lowering.domain_weight;
    let live = lowering.primitives.into_iter().zip(gradients);
    let live = live
        .map(|(PrimitiveUse { live, origin }, adjoint)| LivePrimitive { primitive: live, adjoint, origin })
        .collect();
    Ok(Objective {
        name: objective.name.clone(),
        graph: lowering.graph,
        loss,
        live,
        terms,
        term_losses,
        term_gradients,
        signal,
        clipped,
        selected,
        chosen,
        weight,
        domain_weight,
        temperature,
        ladders,
        states,
        learned,
        normal_form,
        origin: objective.origin,
    })
}

/// d (share of a term in the loss) / d (live primitives), for each term.
fn term_gradients(
    lowering: &mut Lowering,
    objective: &checked::Objective,
    (weighted, selected): (&[Weighted], Option<NodeId>),
    live: &[LiveId],
    origins: Origins,
) -> Result<Vec<TermGradient>, Box<Diagnostic>> {
    let here = origins.span(objective.origin);
    let shares = shares(lowering, weighted, selected, objective, origins)?;
    let mut gradient = |(term, share): (&checked::Term, NodeId)| {
        let adjoints = gradients(lowering, share, live, origins, here)?;
        Ok(TermGradient { term: term.name.clone(), adjoints })
    };
    objective.terms.iter().zip(shares).map(&mut gradient).collect()
}

/// Whether nothing is live because of a condition that depends on a size known only in the plan.
fn never_holds(
    lowering: &Lowering,
    objective: &checked::Objective,
    (selected, weighted): (Option<NodeId>, &[Weighted]),
    origins: Origins,
) -> Option<Diagnostic> {
    let of_terms =
        objective.terms.iter().zip(weighted).map(|(term, weighted)| {
            (weighted.when, term.when.as_ref(), "when", Some(origins.span(term.origin)))
        });
    let mut conditions = of_terms.chain([(selected, objective.select.as_ref(), "select", None)]);
    let (condition, name, term) = conditions.find_map(|(node, condition, name, term)| {
        (lowering.graph.constant_value(node?) == Some(0.0)).then_some((condition?, name, term))
    })?;
    let text = format!("`{name}` never holds: nothing is trained on");
    let diagnostic = Diagnostic::error(Code::NeverHolds, origins.span(condition.0.origin), text)
        .label(format!("`{}` is false whatever is drawn", text::formula(condition, 60)))
        .help("compare with a value that the number can have, or leave the condition out");
    Some(match term {
        Some(term) => diagnostic.note(term, "for this term"),
        None => diagnostic,
    })
}

fn nothing_live(lowering: &Lowering, objective: &checked::Objective, origins: Origins) -> Diagnostic {
    let message = format!("no gradient reaches anything `live` in the objective `{}`", objective.name);
    let origin = lowering.primitives.first().map_or(objective.origin, |primitive| primitive.origin);
    Diagnostic::error(Code::NothingLive, origins.span(origin), message)
        .label("only compared, or multiplied away: its derivative is 0 everywhere")
        .help("let a term be a product with a `live` factor")
}

/// The condition of a ladder, evaluated after the step whose numbers it reads.
fn ladder(lowering: &mut Lowering, ladder: &Formula, origins: Origins) -> Result<Ladder, Box<Diagnostic>> {
    let FormulaKind::Adaptive(Adaptive::Ladder { values, advance_if, every }) = &ladder.0.kind else {
        unreachable!("the stage has looked for ladders")
    };
    let Some(advance_if) = detached(lowering, Some(advance_if), "advance_if", origins)? else {
        unreachable!("there is a formula")
    };
    Ok(Ladder { advance_if, every: (*every).max(1), values: values.len() as u32 })
}

/// The objective's states after a step with these losses.
fn states(
    lowering: &mut Lowering,
    objective: &checked::Objective,
    losses: &[(Signal, NodeId)],
) -> Result<Vec<State>, Box<Diagnostic>> {
    if objective.states.is_empty() {
        return Ok(Vec::new());
    }
    lowering.end_of_step(losses.to_vec());
    let states = objective.states.iter().map(|checked::State { name, axis, first, next, origin }| {
        let next = lowering.lower(next)?;
        let next = if *axis == Axis::Run { next } else { lowering.graph.broadcast(next, *axis) };
        Ok(State { name: name.clone(), axis: *axis, first: *first, next, origin: *origin })
    });
    states.collect()
}

/// The gain that a policy is trained to raise; its losses are those of the step just ended.
fn learned(
    lowering: &mut Lowering,
    learned: &Formula,
    losses: Vec<(Signal, NodeId)>,
    origins: Origins,
) -> Result<Learned, Box<Diagnostic>> {
    let FormulaKind::Adaptive(Adaptive::Learned { gain, hold, discount, lr }) = &learned.0.kind else {
        unreachable!("the stage has looked for them")
    };
    lowering.end_of_step(losses);
    lowering.read(Elsewhere::Recorded);
    let Some(gain) = detached(lowering, Some(gain), "gain", origins)? else {
        unreachable!("there is a formula")
    };
    Ok(Learned { gain, hold: (*hold).max(1), discount: *discount, learning_rate: *lr })
}

/// An objective's `select`, weights and terms, before the reduction to a loss.
struct Pieces<'a> {
    lowering: Lowering<'a>,
    /// The mask, per token.
    selected: Option<NodeId>,
    weight: Option<NodeId>,
    terms: Vec<Term>,
    /// The terms with their weights, in the same order.
    weighted: Vec<Weighted>,
}

fn pieces<'a>(
    objective: &checked::Objective,
    mut lowering: Lowering<'a>,
    origins: Origins<'a>,
) -> Result<Pieces<'a>, Box<Diagnostic>> {
    let here = origins.span(objective.origin);

    let select = detached(&mut lowering, objective.select.as_ref(), "select", origins)?;
    let selected = select.map(|select| lowering.graph.broadcast(select, Axis::Token));
    if let Some(selected) = selected {
        lowering.select(selected);
    }
    let weight = detached(&mut lowering, objective.weight.as_ref(), "weight", origins)?;

    let mut terms = Vec::new();
    let mut values = Vec::new();
    for term in &objective.terms {
        let value = lowering.lower(&term.value)?;
        let per_token = lowering.graph.broadcast(value, Axis::Token);
        terms.push(Term { name: term.name.clone(), value: per_token, origin: term.origin });
        // The axis where its reduction starts: a loss per pair is averaged over pairs.
        let reduce = term.reduce.as_ref().or(objective.reduce.as_ref());
        let first = reduce.and_then(|reduce| reduce.steps.first()).map_or(Axis::Token, |step| step.elements);
        let at = first.max(lowering.graph.axis(value)).min(Axis::Token);
        values.push(lowering.graph.broadcast(value, at));
    }
    if terms.is_empty() {
        let message = format!("the objective `{}` has no term", objective.name);
        return Err(Diagnostic::error(Code::MissingTerm, here, message).into());
    }
    // Term by term, in the author's order: weight * a + weight * b.
    let mut weighted = Vec::with_capacity(terms.len());
    for (checked, value) in objective.terms.iter().zip(values) {
        let own = detached(&mut lowering, checked.weight.as_ref(), "weight", origins)?;
        let when = detached(&mut lowering, checked.when.as_ref(), "when", origins)?;
        let graph = &mut lowering.graph;
        let weights = [weight, own].into_iter().flatten();
        let bare = value;
        let value = weights.fold(value, |value, weight| graph.apply(Function::Multiply, &[weight, value]));
        let (value, when) = only_where(graph, value, when);
        weighted.push(Weighted { value, bare, weight: own, when });
    }
    Ok(Pieces { lowering, selected, weight, terms, weighted })
}

/// The per-token values of an objective, before `reduce`, as a graph, whether or not the runtime supplies
/// what it reads.
pub(super) fn expressions(
    objective: &checked::Objective,
    origins: Origins,
) -> Result<Expressions, Box<Diagnostic>> {
    let Pieces { mut lowering, selected, weight, terms, weighted } =
        pieces(objective, Lowering::new(Supply::Anything, origins), origins)?;
    let terms = terms.into_iter().zip(weighted);
    let terms = terms.map(|(term, Weighted { weight, when, .. })| TermExpressions {
        name: term.name,
        value: term.value,
        weight,
        when: when.map(|when| lowering.graph.broadcast(when, Axis::Token)),
    });
    let terms = terms.collect();
    Ok(Expressions {
        terms,
        select: selected,
        weight,
        live: lowering.primitives.into_iter().map(|primitive| primitive.live).collect(),
        graph: lowering.graph,
    })
}

/// An objective lowered to its loss, on leaves: see [`FormulaGraph`].
pub(crate) struct WholeObjective {
    /// Its roots are all nodes listed below.
    pub formulas: FormulaGraph,
    pub loss: NodeId,
    /// The mask of chosen tokens, as in [`Objective`].
    pub chosen: Option<NodeId>,
    /// `let`s, `select`, weights and terms, with their names.
    pub parts: Vec<(String, NodeId)>,
    /// The derivative of the loss by each live leaf.
    pub gradients: Vec<(LiveId, NodeId)>,
}

/// Lowers an objective whose terms all use one batch of completions.
///
/// # Errors
/// What a graph can't express.
pub(crate) fn whole(
    objective: &checked::Objective,
    origins: &[Span],
) -> Result<WholeObjective, Box<Diagnostic>> {
    let origins = Origins::new(origins);
    let here = origins.span(objective.origin);
    let Pieces { mut lowering, selected, weight, terms, weighted } =
        pieces(objective, Lowering::new(Supply::Leaves, origins).opening_losses(), origins)?;
    let mut parts = Vec::new();
    for (name, formula) in &objective.lets {
        parts.push((name.clone(), lowering.lower(formula)?));
    }
    parts.extend(selected.map(|node| ("select".to_owned(), node)));
    parts.extend(weight.map(|node| ("weight".to_owned(), node)));
    for (term, weighted) in terms.iter().zip(&weighted) {
        parts.push((term.name.clone(), term.value));
        parts.extend(weighted.weight.map(|node| (format!("{}.weight", term.name), node)));
        parts.extend(weighted.when.map(|node| (format!("{}.when", term.name), node)));
    }
    let chosen = blocks::chosen(&lowering.graph, objective, (&terms, &weighted), origins)?;
    let of_block = lowering.graph.nodes().find(|(_, node)| node.axis == Axis::Block);
    match (chosen, of_block) {
        (Some(chosen), _) => {
            blocks::report(&mut lowering.graph, parts.iter_mut().map(|(_, node)| node), chosen);
        }
        (None, Some((node, _))) => {
            let place = lowering.place(node).map_or(here, |origin| origins.span(origin));
            return Err(refused(place, "one number per block that no term reads, on given numbers,"));
        }
        (None, None) => {}
    }
    let loss = loss(&mut lowering, &weighted, selected, objective, origins)?;
    let mut losses = vec![(Signal::Loss, loss)];
    for (term, weighted) in objective.terms.iter().zip(&weighted).filter(|_| !objective.states.is_empty()) {
        let loss = term_loss(&mut lowering, term, weighted, selected, objective, origins)?;
        losses.push((Signal::TermLoss { term: term.name.clone() }, loss));
    }
    for State { name, next, .. } in states(&mut lowering, objective, &losses)? {
        parts.push((format!("{name}.next"), next));
    }
    let mut live = Vec::new();
    for leaf in lowering.leaves.iter().filter(|leaf| matches!(leaf.formula.0.kind, FormulaKind::Live(_))) {
        match lowering.graph.node(leaf.node).operation {
            Operation::Live { live: id } => live.push(id),
            _ => {
                let construct = format!("`{}` on given numbers", text::formula(&leaf.formula, 60));
                return Err(refused(origins.span(leaf.formula.0.origin), construct));
            }
        }
    }
    let gradients = gradients(&mut lowering, loss, &live, origins, here)?;
    let gradients: Vec<(LiveId, NodeId)> = live.into_iter().zip(gradients).collect();
    let roots = parts.iter().map(|(_, node)| *node).chain([loss]).chain(chosen);
    let roots = roots.chain(gradients.iter().map(|(_, node)| *node)).collect();
    let formulas = FormulaGraph::new(lowering, None, roots);
    Ok(WholeObjective { formulas, loss, chosen, parts, gradients })
}

/// The node of `select` or `weight`, which carry no gradient.
pub(super) fn detached(
    lowering: &mut Lowering,
    formula: Option<&Formula>,
    name: &str,
    origins: Origins,
) -> Result<Option<NodeId>, Box<Diagnostic>> {
    let Some(formula) = formula else { return Ok(None) };
    if formula.live() {
        let message = format!("`{name}` is a number already computed: no gradient flows through it");
        let span = origins.span(formula.0.origin);
        return Err(Diagnostic::error(Code::LiveOutsideTerm, span, message)
            .help("`live` belongs in a `term`")
            .into());
    }
    lowering.lower(formula).map(Some)
}

pub(super) fn sum(graph: &mut Graph, nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    nodes.reduce(|left, right| graph.apply(Function::Add, &[left, right]))
}

/// Per token: the derivative, by its primitive, of the sum of all selected tokens' `values`. Where these are
/// elementwise in the live numbers, it is the token's own coefficient; otherwise it includes the token's
/// effect on others.
pub(super) fn signal(
    lowering: &mut Lowering,
    values: &[NodeId],
    selected: Option<NodeId>,
    origins: Origins,
    here: Span,
) -> Result<NodeId, Box<Diagnostic>> {
    let (live, is_log_probability): (Vec<LiveId>, Vec<bool>) = lowering.live_numbers().into_iter().unzip();
    let graph = &mut lowering.graph;
    let sums = values.iter().map(|value| {
        // Values coarser than a token already exclude tokens that are not selected.
        let mask = selected.filter(|_| graph.axis(*value) == Axis::Token);
        graph.reduce(Reduction::Sum, *value, Axis::Batch, mask)
    });
    let sums: Vec<NodeId> = sums.collect();
    let everything = sum(graph, sums.into_iter()).expect("an objective has a term");
    let coefficients = self::gradients(lowering, everything, &live, origins, here)?;
    let sizes: Vec<NodeId> = coefficients
        .into_iter()
        .zip(live.iter().zip(is_log_probability))
        .map(|(coefficient, (&live, is_log_probability))| {
            // A log-probability's coefficient is its advantage. A divergence or a loss has a magnitude of its
            // own: where student and teacher agree there is no gradient, whatever its coefficient.
            let size = if is_log_probability {
                coefficient
            } else {
                let value = lowering.graph.add(Axis::Token, Operation::Live { live });
                lowering.graph.apply(Function::Multiply, &[coefficient, value])
            };
            lowering.graph.apply(Function::Abs, &[size])
        })
        .collect();
    let Some(signal) = sum(&mut lowering.graph, sizes.into_iter()) else {
        unreachable!("some gradient is not 0, so there is a live primitive");
    };
    Ok(signal)
}

fn gradients(
    lowering: &mut Lowering,
    of: NodeId,
    live: &[LiveId],
    origins: Origins,
    here: Span,
) -> Result<Vec<NodeId>, Box<Diagnostic>> {
    adjoints_beside(&mut lowering.graph, of, live, &lowering.constants).map_err(|refused| {
        let place = lowering.place(refused.node).map_or(here, |origin| origins.span(origin));
        Diagnostic::error(Code::NotDifferentiable, place, refused.to_string())
            .label("gradient would flow through this")
            .help(format!(
                "take `live` out of it: `{}` of numbers already computed is fine",
                refused.operation
            ))
            .into()
    })
}

/// 1 where some `clip` that `totals` depend on replaces its argument by a bound.
fn clipped(graph: &mut Graph, totals: &[NodeId]) -> Option<NodeId> {
    let reachable = graph.reachable(totals);
    let clips: Vec<[NodeId; 3]> = graph
        .nodes()
        .filter(|(id, _)| reachable[id.0 as usize])
        .filter_map(|(_, node)| match &node.operation {
            Operation::Apply { function: Function::Clip, operands } => operands.as_slice().try_into().ok(),
            _ => None,
        })
        .collect();
    let at_bound = clips.into_iter().map(|[x, low, high]| {
        let below = graph.apply(Function::Less, &[x, low]);
        let above = graph.apply(Function::Greater, &[x, high]);
        let either = graph.apply(Function::Or, &[below, above]);
        graph.broadcast(either, Axis::Token)
    });
    let at_bound: Vec<NodeId> = at_bound.collect();
    at_bound.into_iter().reduce(|left, right| graph.apply(Function::Or, &[left, right]))
}
