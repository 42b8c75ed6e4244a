//! Optimizers.

use super::declare::builtins;
use super::types::{Decay, NotNegative, Positive};

builtins! { Optimizer: OptimizerName, OptimizerCall {
    /// Adam with decoupled weight decay.
    #[usage = "adamw(beta2: 0.95, weight_decay: 0, clip_norm: 1.0)"]
    adamw => AdamW {
        beta1: Decay = 0.9,
        beta2: Decay = 0.95,
        epsilon: NotNegative = 1e-8,
        weight_decay: NotNegative = 0.0,
        clip_norm: NotNegative = 1.0,
    },

    /// Stochastic gradient descent.
    #[usage = "sgd(momentum: 0.9, clip_norm: 1.0)"]
    sgd => Sgd { momentum: Decay = 0.0, clip_norm: NotNegative = 1.0 },

    /// AdamW on gradients that are clipped per example to `clip`, with noise that makes the whole run
    /// (`epsilon`, `delta`)-differentially private.
    #[usage = "private_adamw(clip: 1.0, epsilon: 2.0, delta: 1e-5)"]
    private_adamw => PrivateAdamW { clip: Positive, epsilon: Positive, delta: Positive },
}}
