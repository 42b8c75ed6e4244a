//! Divergences that the standard library can't declare in the language, and the forms of their sides.

use super::declare::builtins;
use super::types::{Dimensions, Masses, Real, Role, Support};

builtins! { Divergence: DivergenceName, DivergenceCall {
    /// KL divergence: the sum of left * log(left / right).
    #[usage = "kl(student || teacher, support: full)"]
    kl => Kl {
        pair: Role,
        support: Option<Support>,
        mass: Option<Masses>,
        temperature: Option<Real>,
        clip_each: Option<Real>,
    },

    /// Half the L1 distance of the sorted probabilities: vocabularies may differ.
    #[usage = "sorted_l1(student, teacher)"]
    sorted_l1 => SortedL1 {
        left: Role,
        right: Role,
        support: Option<Support>,
        mass: Option<Masses>,
        temperature: Option<Real>,
        clip_each: Option<Real>,
    },

    /// KL between normal distributions, summed over the components or over `dimensions`: continuous actions,
    /// denoising steps.
    #[usage = "gaussian_kl(teacher || student)"]
    gaussian_kl => Gaussian {
        pair: Role,
        dimensions: Option<Dimensions>,
        support: Option<Support>,
        mass: Option<Masses>,
        temperature: Option<Real>,
        clip_each: Option<Real>,
    },

    /// A weighted sum of distributions, by role; the weights may be numbers per token.
    #[usage = "blend(teacher: 0.1, student: 0.9)"]
    blend => Blend { .. },

    /// A side of a divergence without gradient.
    #[usage = "detached(blend(student: 0.1, teacher: 0.9))"]
    detached => Detached { side: Role },
}}
