//! Supports: sets of vocabulary entries over which a divergence sums.

use super::declare::builtins;
use super::types::{Count, Fraction, Role, Support};

builtins! { Support: SupportName, SupportCall {
    /// The `k` most probable entries of a role, of equal ones those with the lower id; without a role, what a
    /// teacher returns.
    #[usage = "top_k(teacher, 64), or top_k(20)"]
    top_k => TopK { role: Role, k: Option<Count> },

    /// The fewest entries with at least `p` of a role's mass, the most probable first; equal ones together.
    #[usage = "nucleus(teacher, 0.95)"]
    nucleus => Nucleus { role: Role, p: Fraction },

    /// Entries of either support.
    #[usage = "union(top_k(student, 32), top_k(teacher, 32))"]
    union => Union { first: Support, second: Support, third: Option<Support> },

    /// Entries of both supports.
    #[usage = "intersection(top_k(student, 32), top_k(teacher, 32))"]
    intersection => Intersection as Union,
}}
