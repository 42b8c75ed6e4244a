//! The tables of signals that are one word. To add one, add its row here, then supply its value: in the
//! runtime, and in the toy models of the audit.

use serde::{Deserialize, Serialize};

use crate::checked::Capability;
use crate::checked::formula::{Axis, Unit};

/// What is known of a signal before any run.
#[derive(Clone, Copy, Debug)]
pub struct SignalDefinition {
    pub name: &'static str,
    pub unit: Unit,
    pub axis: Axis,
    /// Empty if the row before describes both.
    pub doc: &'static str,
    /// The bounds of its values in every run.
    pub low: f64,
    pub high: f64,
    /// Whether it says where in its completion a token is.
    pub is_positional: bool,
    /// Whether only completions that are sampled with drafts have it.
    pub drafts_only: bool,
    /// Of a model: whether it is computed from the next-token distribution. Otherwise it is the output of a
    /// separate head, or about texts of the model.
    pub from_distribution: bool,
    /// Of a model: what a teacher has to be able to output.
    pub capability: Capability,
    /// Of the student: whether gradient can flow through it.
    pub differentiable: bool,
}

const fn signal(name: &'static str, unit: Unit, axis: Axis, doc: &'static str) -> SignalDefinition {
    let (low, high) = match unit {
        Unit::Bool | Unit::Prob | Unit::Fraction => (0.0, 1.0),
        Unit::Count => (0.0, f64::INFINITY),
        Unit::Logp => (f64::NEG_INFINITY, 0.0),
        Unit::Number | Unit::Ratio | Unit::Nats | Unit::Real => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let (is_positional, drafts_only, from_distribution, differentiable) = (false, false, false, false);
    // Local weights have a separate head or not.
    let capability = Capability::Distribution;
    SignalDefinition {
        name,
        unit,
        axis,
        doc,
        low,
        high,
        is_positional,
        drafts_only,
        from_distribution,
        capability,
        differentiable,
    }
}

impl SignalDefinition {
    const fn at_least(self, low: f64) -> SignalDefinition {
        SignalDefinition { low, ..self }
    }

    const fn is_positional(self) -> SignalDefinition {
        SignalDefinition { is_positional: true, ..self }
    }

    const fn drafts_only(self) -> SignalDefinition {
        SignalDefinition { drafts_only: true, ..self }
    }

    const fn with_distribution(self, capability: Capability) -> SignalDefinition {
        SignalDefinition { from_distribution: true, capability, ..self }
    }

    const fn with_texts(self) -> SignalDefinition {
        SignalDefinition { capability: Capability::Text, ..self }
    }

    const fn differentiable(self) -> SignalDefinition {
        SignalDefinition { differentiable: true, ..self }
    }
}

/// Declares an enum of signals and its table at once.
macro_rules! signals {
    (
        $(#[$about:meta])*
        $kind:ident {
            $($(#[$attribute:meta])* $signal:ident = $definition:expr,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(tag = "signal", rename_all = "snake_case")]
        pub enum $kind {
            $($(#[$attribute])* $signal,)*
        }

        impl $kind {
            pub const ALL: &'static [$kind] = &[$($kind::$signal,)*];
            pub const TABLE: &'static [SignalDefinition] = &[$($definition,)*];

            pub fn definition(self) -> &'static SignalDefinition {
                &$kind::TABLE[self as usize]
            }

            /// The first of this name.
            pub fn find(name: &str) -> Option<$kind> {
                $kind::ALL.iter().copied().find(|signal| signal.name() == name)
            }

            pub fn name(self) -> &'static str {
                self.definition().name
            }

            pub fn unit(self) -> Unit {
                self.definition().unit
            }

            pub fn axis(self) -> Axis {
                self.definition().axis
            }
        }
    };
}

signals! {
    /// A number of tokens, completions or the run that has no arguments.
    PlainSignal {
        Reward = signal(
            "reward",
            Unit::Real,
            Axis::Sequence,
            "The reward of the completion; `reward.<part>` is one part of it.",
        ),
        Correct = signal("correct", Unit::Bool, Axis::Sequence, "`reward >= 1`."),
        Selected = signal(
            "selected",
            Unit::Bool,
            Axis::Token,
            "Whether the objective's `select` holds: `mean(x, over: batch, among: selected)` is over these \
             tokens only.",
        ),
        Position =
            signal("position", Unit::Count, Axis::Token, "Index of the token in its completion, from 0.")
                .is_positional(),
        Remaining = signal(
            "remaining",
            Unit::Count,
            Axis::Token,
            "Number of tokens after this one in the completion, 0 for the last.",
        )
        .is_positional(),
        Turn = signal("turn", Unit::Count, Axis::Token, "Index of the token's turn, from 0."),
        TurnReward = signal(
            "reward.turn",
            Unit::Real,
            Axis::Token,
            "The reward in the environment's reply to the token's turn; `reward` is the sum of those of all \
             turns.",
        ),
        Block = signal("block", Unit::Count, Axis::Token, "Index of the token's block, from 0."),
        Head = signal(
            "head",
            Unit::Count,
            Axis::Token,
            "The output head that generated the token, from 0.",
        )
        .is_positional(),
        Offset = signal(
            "offset",
            Unit::Count,
            Axis::Token,
            "Place of a token in a rejected draft, from 1 at the first that was rejected; 0 if it was \
             accepted.",
        )
        .is_positional()
        .drafts_only(),
        Accepted = signal(
            "accepted",
            Unit::Bool,
            Axis::Token,
            "Whether the token is of the completion: drafted and accepted by the teacher, or the teacher's \
             own. Otherwise it is of a draft, from the first rejected token on.",
        )
        .drafts_only(),
        Masked = signal(
            "masked",
            Unit::Bool,
            Axis::Token,
            "Whether the denoiser has not filled this position yet.",
        ),
        Length = signal("length", Unit::Count, Axis::Sequence, "Number of completion tokens."),
        Truncated = signal(
            "truncated",
            Unit::Bool,
            Axis::Sequence,
            "Whether the completion was cut off before its end token.",
        ),
        Progress = signal(
            "progress",
            Unit::Fraction,
            Axis::Run,
            "step / steps, from 0 at the first step towards 1.",
        ),
        Step = signal("step", Unit::Count, Axis::Run, "The step, from 0."),
        Loss = signal(
            "loss",
            Unit::Number,
            Axis::Run,
            "The loss of the previous step, 1 at the first step; `loss.<term>` is that of one term before \
             `weight`, `loss.validation` that on the validation rows. Where a `state` moves, at the end of a \
             step, and in the `gain` of `learned(...)`, it is that of this step.",
        ),
        VocabularySize = signal(
            "vocab_size",
            Unit::Count,
            Axis::Run,
            "Number of tokens of the student's tokenizer.",
        ),
    }
}

signals! {
    /// A number that a model computes about a token or a completion: a part of its role.
    ModelSignal {
        Logp = signal(
            "logp",
            Unit::Logp,
            Axis::Token,
            "Log-probability of the sampled token, at the student's sampling temperature.",
        )
        .with_distribution(Capability::Sampled)
        .differentiable(),
        Entropy = signal("entropy", Unit::Nats, Axis::Token, "Entropy of the next-token distribution.")
            .with_distribution(Capability::Distribution)
            .at_least(0.0),
        Top1 = signal(
            "top1",
            Unit::Prob,
            Axis::Token,
            "Largest probability of the next-token distribution.",
        )
        .with_distribution(Capability::TopK(1)),
        /// Equals share the better rank.
        Rank = signal(
            "rank",
            Unit::Count,
            Axis::Token,
            "Rank of the sampled token, 1 for the most probable.",
        )
        .with_distribution(Capability::Distribution)
        .at_least(1.0),
        EndLogp = signal("end_logp", Unit::Logp, Axis::Token, "Log-probability of ending here.")
            .with_distribution(Capability::Sampled)
            .differentiable(),
        Mean = signal(
            "mean",
            Unit::Real,
            Axis::Token,
            "Mean of a continuous action or of a denoising step.",
        )
        .differentiable(),
        Deviation =
            signal("deviation", Unit::Real, Axis::Token, "Its standard deviation.").at_least(0.0),
        Value = signal(
            "value",
            Unit::Real,
            Axis::Token,
            "The output of a scalar head before the token: what a critic expects from there on.",
        )
        .differentiable(),
        /// The completion of its own is the one for the same prompt, with the same settings, at the same
        /// index among those of the prompt.
        #[serde(rename = "correct_of")]
        Correct = signal(
            "correct",
            Unit::Bool,
            Axis::Sequence,
            "Of a teacher by name, such as a model that is trained beside the student: whether a completion \
             of its own is right.",
        )
        .with_texts(),
        Score = signal(
            "score",
            Unit::Real,
            Axis::Sequence,
            "The output of a scalar head at the end of the completion.",
        )
        .differentiable(),
        #[serde(rename = "confidence_of")]
        Confidence = signal(
            "confidence",
            Unit::Prob,
            Axis::Token,
            "The output of an acceptance head for the token; for a panel's member, its stated confidence.",
        )
        .differentiable(),
        /// Of a member of a panel, about its own answer; NaN where it stated none.
        StatedConfidence = signal("confidence", Unit::Real, Axis::Sequence, "").with_texts(),
    }
}
