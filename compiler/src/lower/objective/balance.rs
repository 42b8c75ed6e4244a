//! `by domain`: weights tokens so that each domain has its share of the loss, whatever the length of its
//! completions, and more of it while its signal is large (Open-MOPD, arXiv:2608.19098).

use mopd_experiment::{Balance, Reduce};
use mopd_expr::graph::{Graph, NodeId};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::{Axis, Function, Reduction};

use crate::lower::executable::formula as executable;
use crate::lower::refusal::refused;

/// The masks of the elements that are included: the selected ones, and those where the term applies.
#[derive(Clone, Copy)]
pub struct IncludedMasks {
    pub selected: Option<NodeId>,
    pub applies: Option<NodeId>,
}

impl IncludedMasks {
    /// The mask of the elements that a step of a reduction includes.
    pub fn mask(self, among_when: bool) -> Option<NodeId> {
        if among_when { self.applies.or(self.selected) } else { self.selected }
    }

    /// The same masks on the axis that is left after a step.
    pub fn reduced(self, graph: &mut Graph, over: Axis) -> IncludedMasks {
        let mut any = |mask: Option<NodeId>| mask.map(|mask| graph.reduce(Reduction::Any, mask, over, None));
        IncludedMasks { selected: any(self.selected), applies: any(self.applies) }
    }
}

/// The factor of each domain's elements on `axis` before `reduce`, one number per domain:
///
/// w_d = G * (g_d * a_d / sum_e g_e * a_e) / (c_d / c),  a_d = clamp((m_d / m)^follow_gap)
///
/// c_d is the weight of the domain's elements in the reduction, c that of all; in a mean over tokens these
/// are numbers of tokens. g_d is the target, G the sum of all targets. m_d is the mean `signal` of the
/// domain's elements, m the mean of these weighted by the targets. Domains without counted elements are left
/// out of both sums, so that the others share the whole, and the size of the loss does not change. No
/// gradient flows through the factor.
pub fn factor(
    graph: &mut Graph,
    axis: Axis,
    signal: NodeId,
    counted: IncludedMasks,
    reduce: &Reduce,
    balance: &Balance,
    here: Span,
) -> Result<NodeId, Box<Diagnostic>> {
    use Function::*;
    if axis <= Axis::Domain {
        return Err(refused(here, format!("`by domain` of one number per {}", axis.name())));
    }
    let each = each(graph, axis, counted, reduce, here)?;
    let first = counted.mask(reduce.steps.first().is_some_and(|step| step.among_when));
    let [zero, one] = [0.0, 1.0].map(|value| graph.constant(Axis::Run, value));
    let all = |graph: &mut Graph, of: NodeId| graph.reduce(Reduction::Sum, of, Axis::Batch, None);
    let target = match balance.target {
        Some(target) => graph.constant(Axis::Domain, target),
        None => {
            let prompts = graph.constant(Axis::Group, 1.0);
            let own = graph.reduce(Reduction::Sum, prompts, Axis::Domain, None);
            let prompts = all(graph, own);
            graph.apply(Divide, &[own, prompts])
        }
    };
    let whole = all(graph, target);
    let own = graph.reduce(Reduction::Sum, each, Axis::Domain, first);
    let present = graph.apply(Greater, &[own, zero]);
    let target = graph.apply(Where, &[present, target, zero]);
    let mut wanted = target;
    if balance.follow_gap != 0.0 {
        let of_elements = graph.apply(Multiply, &[each, signal]);
        let of_domain = graph.reduce(Reduction::Sum, of_elements, Axis::Domain, first);
        let mean = graph.apply(Divide, &[of_domain, own]);
        let mean = graph.apply(Where, &[present, mean, zero]);
        let weighed = graph.apply(Multiply, &[target, mean]);
        let (weighed, targets) = (all(graph, weighed), all(graph, target));
        let reference = graph.apply(Divide, &[weighed, targets]);
        let ratio = graph.apply(Divide, &[mean, reference]);
        // If no domain has a signal, there is no gap to follow.
        let some = graph.apply(Greater, &[reference, zero]);
        let ratio = graph.apply(Where, &[some, ratio, one]);
        let power = graph.constant(Axis::Run, balance.follow_gap);
        let gap = graph.apply(Power, &[ratio, power]);
        let gap = match balance.clamp {
            Some((low, high)) => {
                let [low, high] = [low, high].map(|bound| graph.constant(Axis::Run, bound));
                let gap = graph.apply(Maximum, &[gap, low]);
                graph.apply(Minimum, &[gap, high])
            }
            // Avoids a division by a signal of 0: such a domain needs no share.
            None if balance.follow_gap < 0.0 => {
                let some = graph.apply(Greater, &[ratio, zero]);
                graph.apply(Where, &[some, gap, zero])
            }
            None => gap,
        };
        wanted = graph.apply(Multiply, &[target, gap]);
    }
    let shared = all(graph, wanted);
    let share = graph.apply(Divide, &[wanted, shared]);
    let share = graph.apply(Multiply, &[share, whole]);
    let counts = all(graph, own);
    let counts = graph.apply(Divide, &[counts, own]);
    let factor = graph.apply(Multiply, &[share, counts]);
    Ok(graph.apply(Where, &[present, factor, zero]))
}

/// The weight of each element in the reduction: 1 / n in a mean over n, multiplied over the steps.
fn each(
    graph: &mut Graph,
    axis: Axis,
    mut counted: IncludedMasks,
    reduce: &Reduce,
    here: Span,
) -> Result<NodeId, Box<Diagnostic>> {
    let mut each = graph.constant(axis, 1.0);
    let mut at = axis;
    for step in &reduce.steps {
        let over = executable::axis(step.over, here)?;
        match step.operation {
            Reduction::Sum => {}
            Reduction::Mean => {
                let one = graph.constant(at, 1.0);
                let number = graph.reduce(Reduction::Sum, one, over, counted.mask(step.among_when));
                let one = graph.constant(Axis::Run, 1.0);
                let number = graph.apply(Function::Maximum, &[number, one]);
                let share = graph.apply(Function::Divide, &[one, number]);
                each = graph.apply(Function::Multiply, &[each, share]);
            }
            other => return Err(refused(here, format!("`by domain` of a `{}`", other.name()))),
        }
        counted = counted.reduced(graph, over);
        at = over;
    }
    Ok(each)
}
