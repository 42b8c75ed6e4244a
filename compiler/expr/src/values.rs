//! The results of an evaluation, and its errors.

use std::collections::HashMap;

use super::graph::{MalformedGraph, NodeId};

/// The values of the outputs, one number per element of each node's axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Values<T> {
    nodes: HashMap<NodeId, Vec<T>>,
}

impl<T> Values<T> {
    pub(super) fn new(nodes: HashMap<NodeId, Vec<T>>) -> Values<T> {
        Values { nodes }
    }

    /// # Panics
    /// If `node` was not among the outputs.
    pub fn get(&self, node: NodeId) -> &[T] {
        self.nodes.get(&node).map(Vec::as_slice).expect("only outputs that were asked for are read")
    }
}

/// The reason why a graph can't be evaluated on a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    #[error("the batch has no `{signal}`, which the objective reads")]
    MissingSignal { signal: String },
    #[error("the batch has no live primitive {live}")]
    MissingLive { live: u32 },
    #[error("`{what}` has {found} values where {expected} are needed")]
    Length { what: String, found: usize, expected: usize },
    #[error("a {element} of the batch lies in a {parent} that does not exist")]
    Layout { element: &'static str, parent: &'static str },
    #[error("an output was requested that the graph does not have")]
    MissingNode,
    /// Found only at run time, because the shares of a blend depend on the batch.
    #[error(
        "the shares of the blend of {roles} are {shares} at a token, together {total}; shares lie between 0 \
         and 1 and add up to 1: hold them with `clip(..., 0, 1)`, and write the last one as the rest"
    )]
    Shares { roles: String, shares: String, total: String },
    /// Found only at run time, because a number inside a divergence depends on the batch.
    #[error("`{name}` of a divergence is {value} at a token; it must be {bounds}: hold it with `clip(...)`")]
    Parameter { name: String, value: String, bounds: String },
    #[error(transparent)]
    Malformed(#[from] MalformedGraph),
}
