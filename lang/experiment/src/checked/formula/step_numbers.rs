//! The numbers of a stage's steps that guards can read. They are columns of `metrics.parquet`.

use serde::{Deserialize, Serialize};

use super::Unit;

/// A number of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepNumber {
    Loss,
    GradientNorm,
    ValidationLoss,
    Entropy,
    Divergence,
    ClippedFraction,
    SignalMean,
    Reward,
    Length,
    Truncated,
    TokenShare,
    SignalShare,
}

/// How a number of a step is combined from the rows of its domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All rows have the same value, that of the whole step.
    Step,
    /// The mean over tokens.
    Tokens,
    /// The mean over completions.
    Completions,
    /// The sum: each row has its share of the step, and the shares sum to 1.
    Share,
}

/// The steps whose numbers a guard reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepWindow {
    /// The step that has just ended.
    Now,
    /// The mean over the first `steps` steps that have the number.
    First { steps: u32 },
    /// The mean over the last `steps` steps that have the number.
    Recent { steps: u32 },
}

impl StepNumber {
    pub const ALL: [StepNumber; 12] = [
        StepNumber::Loss,
        StepNumber::GradientNorm,
        StepNumber::ValidationLoss,
        StepNumber::Entropy,
        StepNumber::Divergence,
        StepNumber::ClippedFraction,
        StepNumber::SignalMean,
        StepNumber::Reward,
        StepNumber::Length,
        StepNumber::Truncated,
        StepNumber::TokenShare,
        StepNumber::SignalShare,
    ];

    /// All names, for messages.
    pub fn names() -> String {
        StepNumber::ALL.map(StepNumber::name).join(", ")
    }

    pub fn find(name: &str) -> Option<StepNumber> {
        StepNumber::ALL.into_iter().find(|number| number.name() == name)
    }

    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            StepNumber::Loss => "loss",
            StepNumber::GradientNorm => "gradient_norm",
            StepNumber::ValidationLoss => "validation_loss",
            StepNumber::Entropy => "entropy",
            StepNumber::Divergence => "divergence",
            StepNumber::ClippedFraction => "clipped_fraction",
            StepNumber::SignalMean => "signal_mean",
            StepNumber::Reward => "reward",
            StepNumber::Length => "length",
            StepNumber::Truncated => "truncated",
            StepNumber::TokenShare => "token_share",
            StepNumber::SignalShare => "signal_share",
        }
    }

    pub fn unit(self) -> Unit {
        match self {
            StepNumber::Loss | StepNumber::SignalMean => Unit::Number,
            StepNumber::GradientNorm | StepNumber::Reward => Unit::Real,
            StepNumber::ValidationLoss | StepNumber::Entropy | StepNumber::Divergence => Unit::Nats,
            StepNumber::Length => Unit::Count,
            StepNumber::ClippedFraction
            | StepNumber::Truncated
            | StepNumber::TokenShare
            | StepNumber::SignalShare => Unit::Fraction,
        }
    }

    pub fn pooling(self) -> Pooling {
        match self {
            StepNumber::Loss | StepNumber::GradientNorm | StepNumber::ValidationLoss => Pooling::Step,
            StepNumber::Entropy
            | StepNumber::Divergence
            | StepNumber::ClippedFraction
            | StepNumber::SignalMean => Pooling::Tokens,
            StepNumber::Reward | StepNumber::Length | StepNumber::Truncated => Pooling::Completions,
            StepNumber::TokenShare | StepNumber::SignalShare => Pooling::Share,
        }
    }
}

impl StepWindow {
    /// `entropy`, `initial(entropy)`, `recent(entropy, steps: 10)`
    pub fn written(self, number: StepNumber) -> String {
        let name = number.name();
        match self {
            StepWindow::Now => name.to_owned(),
            StepWindow::First { steps: 1 } => format!("initial({name})"),
            StepWindow::First { steps } => format!("initial({name}, steps: {steps})"),
            StepWindow::Recent { steps } => format!("recent({name}, steps: {steps})"),
        }
    }
}
