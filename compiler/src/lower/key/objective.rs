//! The meaning of an objective.

use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{Ladder, Learned, Live, Objective, Temperature, TermGradient};
use serde::Serialize;

/// An objective without what only describes it: its name, its terms' names, its normal form.
#[derive(Serialize)]
pub(super) struct ObjectiveMeaning<'a> {
    graph: &'a Graph,
    loss: NodeId,
    live: Vec<(&'a Live, NodeId)>,
    terms: Vec<NodeId>,
    signal: NodeId,
    clipped: Option<NodeId>,
    selected: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<NodeId>,
    weight: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain_weight: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Temperature>,
    #[serde(skip_serializing_if = "<[Ladder]>::is_empty")]
    ladders: &'a [Ladder],
    /// The states, with the names that the graph's signals use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    states: Vec<(&'a str, f64, NodeId)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<&'a Learned>,
    /// The terms' names are part of it, because columns have them.
    #[serde(skip_serializing_if = "<[TermGradient]>::is_empty")]
    term_gradients: &'a [TermGradient],
}

impl<'a> ObjectiveMeaning<'a> {
    pub fn new(objective: &'a Objective) -> ObjectiveMeaning<'a> {
        // Every field is named, so that a new one does not compile before it is in the meaning or left out
        // here.
        let Objective {
            name: _,
            graph,
            loss,
            live,
            terms,
            term_losses: _,
            term_gradients,
            denominators: _,
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
            normal_form: _,
            origin: _,
        } = objective;
        ObjectiveMeaning {
            graph,
            loss: *loss,
            live: live.iter().map(|live| (&live.primitive, live.adjoint)).collect(),
            terms: terms.iter().map(|term| term.value).collect(),
            signal: *signal,
            clipped: *clipped,
            selected: *selected,
            chosen: *chosen,
            weight: *weight,
            domain_weight: *domain_weight,
            temperature: Some(temperature).filter(|temperature| !temperature.is_one()),
            ladders,
            states: states.iter().map(|of| (of.name.as_str(), of.first, of.next)).collect(),
            learned: learned.as_ref(),
            term_gradients,
        }
    }
}
