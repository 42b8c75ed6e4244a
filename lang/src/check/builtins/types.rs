//! The types of arguments: their descriptions for editors and the book ([`ArgumentType`]), and the types of
//! their values, where all arguments of a type are read alike ([`Typed`]).

use std::rc::Rc;

use mopd_experiment::formula::{self, Role as RoleOf};
use mopd_experiment::{
    self as experiment, ModelId, ReplayContents, RewardRange, Secret as SecretText, WithOrigin,
};

use crate::check::builtins::kinds::ArgumentKind;
use crate::check::builtins::vocabulary::words;

pub(in crate::check) trait ArgumentType {
    const TAKES: ArgumentKind;
}

/// An argument type whose values are of one type, so that it is read in the same way in every place: by the
/// module that knows such values ([`crate::check::read`]).
pub(in crate::check) trait Typed: ArgumentType {
    type Value;
}

/// Declares argument types: what they take and, if all are read alike, the type of their values.
macro_rules! types {
    ($($(#[$meta:meta])* $name:ident: $takes:expr $(, $value:ty)?);* $(;)?) => {$(
        $(#[$meta])*
        pub(in crate::check) struct $name;

        impl ArgumentType for $name {
            const TAKES: ArgumentKind = $takes;
        }

        $(impl Typed for $name {
            type Value = $value;
        })?
    )*};
}

/// A whole number known before the run.
pub(in crate::check) struct Count<const LEAST: u64 = 1>;

impl<const LEAST: u64> ArgumentType for Count<LEAST> {
    const TAKES: ArgumentKind = ArgumentKind::Count;
}

impl<const LEAST: u64> Typed for Count<LEAST> {
    type Value = u32;
}

types! {
    // Numbers known before the run.
    Real: ArgumentKind::Number, f64;
    NotNegative: ArgumentKind::Number, f64;
    Positive: ArgumentKind::Number, f64;
    Seconds: ArgumentKind::Number, f64;
    /// From 0 to 1.
    Fraction: ArgumentKind::Number, f64;
    /// The decay of a moving average: at least 0, below 1.
    Decay: ArgumentKind::Number, f64;
    /// A number of tokens: the width of a window, not of a model.
    Window: ArgumentKind::Count, u32;
    Numbers: ArgumentKind::Numbers, Vec<f64>;
    /// Whole numbers, from 0.
    Dimensions: ArgumentKind::Numbers, Vec<u32>;
    /// `[0 -> 1e-3, 100 -> 1e-4]`
    Pieces: ArgumentKind::Numbers;
    /// `0 -> 1`
    Arrow: ArgumentKind::Number;
    /// Steps, or a share of the run.
    Over: ArgumentKind::Count;
    /// `8..=23`
    LayerRange: ArgumentKind::Range, (u32, u32);
    /// `powers_of(2)`
    Powers: ArgumentKind::Number;

    // Numbers that may change during training.
    Schedule: ArgumentKind::Schedule, formula::Formula;
    /// From 0 to 1.
    Share: ArgumentKind::Schedule, formula::Formula;
    /// Sampling temperature; 0 takes the most probable token.
    Temperature: ArgumentKind::Schedule, formula::Formula;
    /// At least 1.
    Whole: ArgumentKind::Schedule, formula::Formula;

    // Numbers per completion or per token. The caller checks how fine the axis may be.
    Condition: ArgumentKind::Condition, formula::Formula;
    Formula: ArgumentKind::Formula, formula::Formula;
    /// A fraction of the elements that are compared: from 0 to 1, and it may change during the run.
    PeerFraction: ArgumentKind::Formula, formula::Amount;
    /// A panel, from which one member's number is taken.
    Panel: ArgumentKind::Formula;
    Role: ArgumentKind::Role, RoleOf;
    Support: ArgumentKind::Support, formula::Support;
    /// `span.answer`
    TextSpan: ArgumentKind::Formula, formula::NamedSpan;

    // Texts and words.
    Text: ArgumentKind::Text, String;
    Secret: ArgumentKind::Secret, SecretText;
    /// A command.
    Program: ArgumentKind::Text, String;
    Environment: ArgumentKind::Environment, experiment::EnvironmentProgram;
    Stop: ArgumentKind::Texts, Vec<String>;
    Dependencies: ArgumentKind::Texts, Vec<String>;
    /// Tokens by their texts.
    EndTokens: ArgumentKind::Texts, Vec<String>;
    /// A field of the data.
    Field: ArgumentKind::Field, String;
    /// A column of the data, or a member of one.
    Column: ArgumentKind::Field, String;
    /// `"before" -> "after"`
    Rewriting: ArgumentKind::Text;
    Range: ArgumentKind::Words(words::RANGES), RewardRange;
    Kept: ArgumentKind::Words(words::KEPT), ReplayContents;
    Between: ArgumentKind::Words(words::BETWEEN), experiment::GradientPartition;
    Masses: ArgumentKind::Words(words::MASSES);
    Axis: ArgumentKind::Words(words::OVER), formula::Axis;
    Deviation: ArgumentKind::Words(words::DEVIATIONS), formula::Deviation;
    /// The rule for missing values.
    Missing: ArgumentKind::Words(words::MISSING), ();
    Similarity: ArgumentKind::Words(words::SIMILARITIES), formula::Similarity;
    /// `[attention, query]`
    Projections: ArgumentKind::Words(words::PROJECTIONS), Vec<experiment::Projection>;
    WeightGroups: ArgumentKind::Numbers, Vec<experiment::WeightGroup>;

    // Models, teachers, data.
    Model: ArgumentKind::Model, ModelId;
    /// The weights of a model, also of a teacher.
    StartWeights: ArgumentKind::Model, ModelId;
    Models: ArgumentKind::Models, Vec<ModelId>;
    Domains: ArgumentKind::Domains;
    Teachers: ArgumentKind::Teachers;
    /// The role that writes completions.
    Author: ArgumentKind::Teacher, RoleOf;
    /// What a teacher can return.
    Capability: ArgumentKind::Capability, experiment::Capability;
    Benchmark: ArgumentKind::Benchmark;
    Template: ArgumentKind::Template, Rc<experiment::Template>;
    Rollout: ArgumentKind::Rollout, Rc<experiment::Rollout>;
    /// A rollout whose completions are sampled, not read.
    Drawn: ArgumentKind::Rollout, Rc<experiment::Rollout>;

    // Settings of blocks.
    Truth: ArgumentKind::Truth, bool;
    Seed: ArgumentKind::Count, u64;
    /// Steps or epochs.
    Steps: ArgumentKind::Count, experiment::Length;
    /// A number of layers, or `all`.
    Layers: ArgumentKind::Layers, experiment::Checkpointing;
    /// The decay of an average of the weights.
    AverageDecay: ArgumentKind::Number, f64;
    /// Sampling temperature above 0.
    PositiveTemperature: ArgumentKind::Schedule, formula::Formula;
    /// Sampling temperature, known before the run; 0 takes the most probable token.
    GreedyTemperature: ArgumentKind::Number, f64;
    TeacherTemperature: ArgumentKind::Number, f64;
    /// `integer(0..=100)`
    Confidence: ArgumentKind::Number, (i64, i64);
    /// A share of the loss, above 0.
    BalanceTarget: ArgumentKind::Number, f64;
    /// `0.05..=20`
    BalanceClamp: ArgumentKind::Number, (f64, f64);
    Device: ArgumentKind::Words(words::DEVICES), experiment::Device;
    Dtype: ArgumentKind::Words(words::DTYPES), experiment::Dtype;
    Tokenizer: ArgumentKind::Words(words::TOKENIZERS), experiment::TokenizerSpec;
    Format: ArgumentKind::Words(words::FORMATS), experiment::PromptFormat;
    Keep: ArgumentKind::Words(words::KEEPS), experiment::Keep;
    Alignment: ArgumentKind::Words(words::ALIGNMENTS), experiment::Alignment;
    Reveals: ArgumentKind::Words(words::REVEALS), experiment::Reveal;
    Origin: ArgumentKind::Words(words::ORIGINS), SaidOrigin;
    BudgetUnit: ArgumentKind::Words(words::BUDGETS), experiment::BudgetUnit;
    /// Whether teachers are charged.
    Charges: ArgumentKind::Words(words::CHARGES), bool;
    MergeMethod: ArgumentKind::Words(words::MERGES), &'static str;
    Dataset: ArgumentKind::Dataset, experiment::DataSource;
    FieldColumns: ArgumentKind::Columns, Vec<experiment::FieldColumn>;
    Reward: ArgumentKind::Reward, experiment::Reward;
    Objective: ArgumentKind::Objective, Rc<experiment::Objective>;
    Adapter: ArgumentKind::Adapter, experiment::Adapter;
    Weights: ArgumentKind::Weights, Vec<experiment::WeightFilter>;
    /// `extrapolate(...)`
    Extrapolation: ArgumentKind::Formula, experiment::Extrapolation;
    /// `validate(...)`
    Validation: ArgumentKind::Formula, WithOrigin<experiment::Validation>;
    /// `gradient_alignment(...)`
    GradientAlignment: ArgumentKind::Formula, WithOrigin<experiment::GradientAlignment>;
    // What these are depends on the rest of the block.
    References: ArgumentKind::Model;
    Optimizer: ArgumentKind::Optimizer;
    Guards: ArgumentKind::Guards;
    Score: ArgumentKind::Score;
    Columns: ArgumentKind::Benchmarks;
    Metrics: ArgumentKind::Metrics;
    Reduce: ArgumentKind::Reduce;
}

/// The origin of a teacher as the author declared it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SaidOrigin {
    Same,
    Foreign,
}
