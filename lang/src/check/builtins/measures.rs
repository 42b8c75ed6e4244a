//! Signals with arguments.

use super::declare::builtins;
use super::types::{Axis, Count, Formula, Fraction, Role, Similarity, Support, TextSpan};

builtins! { Measure: Measure, MeasureCall {
    /// Share of the `k` most probable entries that two roles have in common.
    #[usage = "overlap(student, teacher, k: 16)"]
    overlap => Overlap { left: Role, right: Role, k: Count },

    /// The total probability of a role on a support.
    #[usage = "mass(student, support: top_k(teacher, 16))"]
    mass => Mass { role: Role, support: Support },

    /// Whether the sampled token is in the role's nucleus: the fewest entries with at least `p` of the mass.
    #[usage = "in_nucleus(teacher, p: 0.95)"]
    in_nucleus => InNucleus { role: Role, p: Fraction },

    /// A role samples `samples` continuations from the beginning of the student's block; the sum of their
    /// similarities to the block.
    #[usage = "agreement(teacher, samples: 10, by: edit)"]
    agreement => Agreement { role: Role, samples: Count, by: Similarity },

    /// The output of a role's scalar head after one span of the completion; 0 where there is none.
    #[usage = "score(judge, on: span.answer)"]
    score => Score { role: Role, on: TextSpan },

    /// Number of entries of a support.
    #[usage = "size(matched)"]
    size => Size { support: Support },

    /// Whether a teacher scored this completion: one on a server may not.
    #[usage = "available(insider)"]
    available => Available { role: Role },

    /// A number drawn uniformly from [0, 1) for each element of an axis, at every step anew. It depends on
    /// the run's seed and the step only. Every call is a draw of its own; give it a name with `let` to read
    /// it twice.
    #[usage = "random(per: sequence)"]
    random => Random { per: Axis },

    /// True with probability `p`, for each element of an axis independently: `random(per: token) < p`.
    #[usage = "bernoulli(0.25, per: token)"]
    bernoulli => Bernoulli { p: Formula, per: Axis },
}}
