//! Lowers an objective to a graph: its loss, the loss's derivative, and the reported numbers.

mod balance;
mod blocks;
mod gradients;
mod loss;
mod standalone;

use mopd_experiment as checked;
use mopd_experiment::formula::{Adaptive, Formula, FormulaKind};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Span;

pub(super) use standalone::expressions;
pub(crate) use standalone::{WholeObjective, whole};

use self::loss::only_where;
use super::executable::formula::CrossRolloutReads;
use super::formula::{LeafScope, LossNode, Lowering, PrimitiveUse};
use crate::lower::refusal::Origins;
use mopd_expr::graph::{LiveId, NodeId};
use mopd_plan::{
    Axis, Denominator, Function, Ladder, Learned, LivePrimitive, NormalForm, Objective, PlainSignal, Signal,
    State, Temperature, Term, TermGradient, TermLoss,
};

/// The inputs from a stage: the sizes that an objective's numbers depend on, and the outputs that are read.
pub(super) struct StageRequest<'a> {
    /// The temperature at which the objective reads distributions.
    pub temperature: Temperature,
    /// The size of the student's vocabulary, where it is known before the run.
    pub vocabulary: Option<u32>,
    /// The terms whose losses are read.
    pub read_losses: &'a [String],
    /// Whether the gradient of each term alone is read.
    pub each_term: bool,
    pub normal_form: NormalForm,
    /// The arithmetic of the graph: [`mopd_expr::graph::Graph::fused`].
    pub fused: bool,
}

/// Lowers an objective of a stage for the runtime.
///
/// # Errors
/// For a construct that a graph can't express, and for an objective without a gradient.
pub(super) fn lower<'a>(
    objective: &'a checked::Objective,
    request: StageRequest,
    origins: Origins<'a>,
) -> Result<Objective, Box<Diagnostic>> {
    let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins).with_vocabulary(request.vocabulary);
    lowering.blocks = true;
    let mut objective = ObjectiveLowering::new(objective, lowering)?;
    objective.lowering.graph.set_fused(request.fused);
    let chosen = objective.chosen()?;
    if let Some(chosen) = chosen {
        let values = objective.terms.iter_mut().map(|term| &mut term.per_token);
        blocks::report(&mut objective.lowering.graph, values, chosen);
    }
    let totals = objective.totals();
    let loss = objective.loss()?;
    let live: Vec<LiveId> = (0..objective.lowering.primitives.len() as u32).map(LiveId).collect();
    let gradients = objective.gradients(loss, &live)?;
    if gradients.iter().all(|gradient| objective.constant(*gradient) == Some(0.0)) {
        return Err(objective.without_gradient().into());
    }
    let signal = objective.signal(&totals, objective.lowering.selected, objective.place)?;
    let clipped = objective.clipped(&totals)?;
    let term_losses = objective.term_losses(request.read_losses)?;
    let ladders = objective.ladders()?;
    let mut losses = vec![LossNode { signal: Signal::Plain(PlainSignal::Loss), node: loss }];
    losses.extend(
        term_losses
            .iter()
            .map(|of| LossNode { signal: Signal::TermLoss { term: of.term.clone() }, node: of.loss }),
    );
    let states = objective.states(&losses)?;
    let learned = objective.learned(losses)?;
    let weight = objective.reported_weight();
    let terms = objective.reported_terms(chosen);
    // Last, so that all other nodes are the same as without it.
    let term_gradients = match request.each_term {
        true => objective.term_gradients(&live)?,
        false => Vec::new(),
    };

    let ObjectiveLowering { lowering, objective, denominators, .. } = objective;
    assert_eq!(lowering.graph.check(), Ok(()));
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
        denominators,
        signal,
        clipped,
        selected: lowering.selected,
        chosen,
        weight,
        domain_weight: lowering.domain_weight,
        temperature: request.temperature,
        ladders,
        states,
        learned,
        normal_form: request.normal_form,
        origin: objective.origin,
    })
}

/// An objective whose `select`, weights and terms are nodes of a graph, and whose loss is made from them.
struct ObjectiveLowering<'a> {
    lowering: Lowering<'a>,
    objective: &'a checked::Objective,
    /// The objective's own place.
    place: Span,
    /// The weight of all terms, on its own axis.
    weight: Option<NodeId>,
    /// The terms in the order of the objective, at least one.
    terms: Vec<LoweredTerm<'a>>,
    /// The denominators of the reductions so far, each once, without constants.
    denominators: Vec<Denominator>,
}

#[derive(Clone, Copy)]
struct LoweredTerm<'a> {
    checked: &'a checked::Term,
    /// The value per token, without weights, which is reported.
    per_token: NodeId,
    /// The value without weights, wherever the term applies, on the axis where its reduction starts.
    bare: NodeId,
    /// The value multiplied by the weights, 0 where the term does not apply.
    value: NodeId,
    /// The term's own weight, on its own axis.
    weight: Option<NodeId>,
    /// Where the term applies, on the axis of `value`.
    when: Option<NodeId>,
}

impl<'a> ObjectiveLowering<'a> {
    fn new(
        objective: &'a checked::Objective,
        mut lowering: Lowering<'a>,
    ) -> Result<ObjectiveLowering<'a>, Box<Diagnostic>> {
        let place = lowering.origins.span(objective.origin);
        let select = lowering.detached(objective.select.as_ref(), "select")?;
        if let Some(select) = select {
            let mask = lowering.graph.broadcast(select, Axis::Token);
            lowering.select(mask);
        }
        let weight = lowering.detached(objective.weight.as_ref(), "weight")?;

        let mut values = Vec::with_capacity(objective.terms.len());
        for term in &objective.terms {
            let value = lowering.lower(&term.value)?;
            let per_token = lowering.graph.broadcast(value, Axis::Token);
            // A loss per pair is averaged over pairs.
            let reduce = term.reduce.as_ref().or(objective.reduce.as_ref());
            let first = reduce.and_then(|reduce| reduce.steps.first());
            let first = first.map_or(Axis::Token, |step| step.elements);
            let axis = first.max(lowering.graph.axis(value)).min(Axis::Token);
            values.push((per_token, lowering.graph.broadcast(value, axis)));
        }
        if values.is_empty() {
            let message = format!("the objective `{}` has no term", objective.name);
            return Err(Diagnostic::error(Code::MissingTerm, place, message).into());
        }
        // Term by term, in the author's order: weight * a + weight * b.
        let mut terms = Vec::with_capacity(values.len());
        for (checked, (per_token, bare)) in objective.terms.iter().zip(values) {
            let own = lowering.detached(checked.weight.as_ref(), "weight")?;
            let when = lowering.detached(checked.when.as_ref(), "when")?;
            let graph = &mut lowering.graph;
            let weights = [weight, own].into_iter().flatten();
            let value = weights.fold(bare, |value, weight| graph.apply(Function::Multiply, &[weight, value]));
            let (value, when) = only_where(graph, value, when);
            terms.push(LoweredTerm { checked, per_token, bare, value, weight: own, when });
        }
        Ok(ObjectiveLowering { lowering, objective, place, weight, terms, denominators: Vec::new() })
    }

    /// The terms as they are reported: 0 where a term does not apply, as in its loss, because it may be
    /// infinite there. `chosen` are the tokens in blocks.
    fn reported_terms(&mut self, chosen: Option<NodeId>) -> Vec<Term> {
        let graph = &mut self.lowering.graph;
        let reported = |LoweredTerm { checked, per_token, when, .. }: &LoweredTerm| {
            let when = when.filter(|when| Some(*when) != chosen);
            let (value, _) = only_where(graph, *per_token, when);
            Term { name: checked.name.clone(), value, origin: checked.origin }
        };
        self.terms.iter().map(reported).collect()
    }

    fn constant(&self, node: NodeId) -> Option<f64> {
        self.lowering.graph.constant_value(node)
    }

    /// The place of the formula of a node, or of the objective.
    fn place_of(&self, node: NodeId) -> Span {
        self.lowering.place(node).map_or(self.place, |origin| self.lowering.origins.span(origin))
    }

    /// The weighted values from which the reported signal is computed. Those per token are summed; a loss per
    /// pair is not a number of any token, and stays separate.
    fn totals(&mut self) -> Vec<NodeId> {
        let graph = &mut self.lowering.graph;
        let values = self.terms.iter().map(|term| term.value);
        let (of_tokens, coarser): (Vec<NodeId>, Vec<NodeId>) =
            values.partition(|value| graph.axis(*value) == Axis::Token);
        graph.sum(of_tokens).into_iter().chain(coarser).collect()
    }

    /// The weight of the objective, times that of its only term.
    fn reported_weight(&mut self) -> Option<NodeId> {
        let graph = &mut self.lowering.graph;
        let own = if let [term] = self.terms.as_slice() { term.weight } else { None };
        let weights = [self.weight, own].into_iter().flatten();
        let weight = weights.reduce(|left, right| graph.apply(Function::Multiply, &[left, right]))?;
        Some(graph.broadcast(weight, Axis::Token))
    }

    /// The losses of the terms that are named in `read`.
    fn term_losses(&mut self, read: &[String]) -> Result<Vec<TermLoss>, Box<Diagnostic>> {
        let terms = self.terms.clone().into_iter().filter(|term| read.contains(&term.checked.name));
        terms
            .map(|term| Ok(TermLoss { term: term.checked.name.clone(), loss: self.term_loss(&term)? }))
            .collect()
    }

    /// d (share of a term in the loss) / d (live primitives), for each term.
    fn term_gradients(&mut self, live: &[LiveId]) -> Result<Vec<TermGradient>, Box<Diagnostic>> {
        let shares = self.shares()?;
        let terms = self.terms.clone().into_iter().zip(shares);
        terms
            .map(|(term, share)| {
                let adjoints = self.gradients(share, live)?;
                Ok(TermGradient { term: term.checked.name.clone(), adjoints })
            })
            .collect()
    }

    /// The conditions of the ladders, each evaluated after the step whose numbers it reads.
    fn ladders(&mut self) -> Result<Vec<Ladder>, Box<Diagnostic>> {
        let ladders = self.lowering.origins.ladders.iter();
        ladders
            .map(|ladder| {
                let FormulaKind::Adaptive(Adaptive::Ladder { values, advance_if, every }) = &ladder.0.kind
                else {
                    unreachable!("the stage has looked for ladders")
                };
                let advance_if = self.lowering.lower_detached(advance_if, "advance_if")?;
                Ok(Ladder { advance_if, every: (*every).max(1), values: values.len() as u32 })
            })
            .collect()
    }

    /// The objective's states after a step with these losses.
    fn states(&mut self, losses: &[LossNode]) -> Result<Vec<State>, Box<Diagnostic>> {
        if self.objective.states.is_empty() {
            return Ok(Vec::new());
        }
        let lowering = &mut self.lowering;
        lowering.end_of_step(losses.to_vec());
        let states = self.objective.states.iter();
        states
            .map(|checked::State { name, axis, first, next, origin }| {
                let next = lowering.lower(next)?;
                let next = if *axis == Axis::Run { next } else { lowering.graph.broadcast(next, *axis) };
                Ok(State { name: name.clone(), axis: *axis, first: *first, next, origin: *origin })
            })
            .collect()
    }

    /// The gain that a policy is trained to raise, with the losses of the step just ended. `None` unless it
    /// is measured on the stage's own completions.
    fn learned(&mut self, losses: Vec<LossNode>) -> Result<Option<Learned>, Box<Diagnostic>> {
        let Some(learned) = self.lowering.origins.roles.learned.first() else { return Ok(None) };
        if self.objective.terms.iter().any(|term| term.data.is_some()) {
            return Ok(None);
        }
        let FormulaKind::Adaptive(Adaptive::Learned { gain, hold, discount, lr }) = &learned.0.kind else {
            unreachable!("the stage has looked for them")
        };
        self.lowering.end_of_step(losses);
        self.lowering.read(CrossRolloutReads::Recorded);
        let gain = self.lowering.lower_detached(gain, "gain")?;
        Ok(Some(Learned { gain, hold: (*hold).max(1), discount: *discount, learning_rate: *lr }))
    }
}

impl Lowering<'_> {
    /// The node of a formula that carries no gradient, such as `select` or `weight`.
    fn lower_detached(&mut self, formula: &Formula, name: &str) -> Result<NodeId, Box<Diagnostic>> {
        if formula.live() {
            let message = format!("`{name}` is a number already computed: no gradient flows through it");
            let span = self.origins.span(formula.0.origin);
            return Err(Diagnostic::error(Code::LiveOutsideTerm, span, message)
                .help("`live` belongs in a `term`")
                .into());
        }
        self.lower(formula)
    }

    fn detached(&mut self, formula: Option<&Formula>, name: &str) -> Result<Option<NodeId>, Box<Diagnostic>> {
        formula.map(|formula| self.lower_detached(formula, name)).transpose()
    }
}
