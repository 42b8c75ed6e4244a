//! What settings and arguments accept, and the rows of the tables of words.

use std::borrow::Cow;

/// The kind of value that a setting or an argument accepts.
#[derive(Clone, Copy, Debug)]
pub enum ArgumentKind {
    /// A whole number known before the run.
    Count,
    /// A number known before the run.
    Number,
    /// A list of numbers known before the run.
    Numbers,
    Truth,
    Text,
    /// A text, or an environment variable.
    Secret,
    /// A number or a schedule.
    Schedule,
    /// One of a fixed list, written bare.
    Words(&'static [Word]),
    /// The name of a field of the data, written bare.
    Field,
    Model,
    Models,
    Teacher,
    Teachers,
    /// A domain or a list of them.
    Domains,
    Objective,
    Rollout,
    /// A command, or a class of Python.
    Environment,
    Template,
    Reward,
    Optimizer,
    /// A list of `warn(...)`, `stop(...)`, `lower_lr(...)`.
    Guards,
    Adapter,
    /// Parts of a decoder: words and `layers(...)`.
    Weights,
    /// A range of whole numbers.
    Range,
    /// The path of a file, or `dataset(...)`.
    Dataset,
    /// `columns(...)`
    Columns,
    /// A number of layers, or the word `all`.
    Layers,
    /// A text, or a list of them.
    Texts,
    Score,
    /// A list of benchmarks.
    Benchmarks,
    Benchmark,
    /// A list of the metrics of a table.
    Metrics,
    /// What a teacher can return.
    Capability,
    Support,
    Role,
    /// `mean(token) then mean(sequence)`
    Reduce,
    /// A bool per token, sequence or prompt.
    Condition,
    /// A number per token, sequence or step.
    Formula,
}

/// One setting of a block.
#[derive(Clone, Copy, Debug)]
pub struct SettingKey {
    pub name: &'static str,
    /// Whether it must be written.
    pub required: bool,
    pub takes: ArgumentKind,
    /// One sentence.
    pub doc: &'static str,
    /// The bound of a whole number that no other setting has.
    pub bound: Option<&'static Bound>,
}

/// One word of a fixed list.
#[derive(Debug)]
pub struct Word {
    pub name: &'static str,
    pub doc: &'static str,
}

/// A name that is visible in every objective without a declaration.
#[derive(Debug)]
pub struct SignalName {
    pub name: &'static str,
    /// A role, or unit and axis: `real[sequence]`.
    pub shape: Cow<'static, str>,
    pub doc: &'static str,
}

/// The largest value of a quantity.
#[derive(Debug, PartialEq, Eq)]
pub struct Bound {
    /// The settings and arguments that hold such a quantity.
    pub settings: &'static [&'static str],
    pub most: u32,
    /// The reason for the bound, as a sentence without its full stop.
    pub because: &'static str,
}
