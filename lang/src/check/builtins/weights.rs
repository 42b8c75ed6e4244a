//! Built-ins that choose the weights to train, and built-ins that act between updates.

use super::declare::builtins;
use super::types::{
    Benchmark, Between, Count, Field, Fraction, LayerRange, Model, NotNegative, Positive, Powers,
    Projections, Real, WeightGroups,
};

builtins! { Weights: WeightsName, WeightsCall {
    /// Low-rank matrices trained beside frozen ones: W + alpha / rank * B A. `layers` chooses the layers,
    /// `dropout` is the fraction of their inputs that is zeroed in training.
    #[usage = "lora(rank: 16, alpha: 32, targets: [attention, feed_forward])"]
    lora => Lora {
        rank: Count,
        alpha: Positive,
        targets: Projections,
        dropout: Fraction = 0.0,
        layers: Option<LayerRange>,
    },

    /// As `lora`, with the norm of every row of the adapted matrix trained separately from its direction.
    #[usage = "dora(rank: 16, alpha: 32, targets: [attention, feed_forward])"]
    dora => Dora as Lora,

    /// A range of layers, counted from 0, both ends included.
    #[usage = "layers(0..=11)"]
    layers => Layers { range: LayerRange },

    /// The single elements of the weights that training changed by more than `beyond`, from the model that it
    /// began from, or from another one that `from` names. The difference is absolute.
    #[usage = "changed(first, beyond: 1e-5)"]
    changed => Changed { model: Model, beyond: NotNegative, from: Option<Model> },

    /// At certain steps the weights are extrapolated along their change so far, by `factor`, up to `rounds`
    /// times, as long as a benchmark improves; `weights` lists which of them.
    #[usage = "extrapolate(factor: 2, rounds: 5, at: powers_of(2), judged_by: probe)"]
    extrapolate => Extrapolate {
        factor: Real,
        rounds: Count,
        at: Powers,
        judged_by: Benchmark,
        weights: Option<WeightGroups>,
    },

    /// The loss on the `validation` rows of the domains, before a step and then every so many: the mean
    /// negative log-probability of the tokens of the field `target`. `rows` are the first ones of each
    /// domain; all by default.
    #[usage = "validate(target: answer, every: 10 steps)"]
    validate => Validate { target: Field, every: Count, rows: Option<Count> },

    /// The cosine between the gradients of each two terms of the objective, or of each two domains, and the
    /// norm of each: at the first step and then every so many. Below 0 they conflict. `terms` by default.
    #[usage = "gradient_alignment(every: 20 steps, between: terms)"]
    gradient_alignment => Align { every: Count, between: Option<Between> },

    /// Steps 1, 2, 4, 8, ...
    #[usage = "powers_of(2)"]
    powers_of => PowersOf { base: Count<2> },
}}
