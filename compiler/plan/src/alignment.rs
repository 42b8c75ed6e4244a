//! Gradients of the parts of a loss, which show whether the parts agree.

use mopd_expr::graph::NodeId;
use serde::{Deserialize, Serialize};

/// One term's share of the loss's derivatives. Summed over the terms, these are the adjoints of
/// [`super::LivePrimitive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermGradient {
    pub term: String,
    /// One node per live primitive, in their order.
    pub adjoints: Vec<NodeId>,
}
