//! The types of arguments: their descriptions for editors and the book ([`ArgumentType`]), and how values are
//! read, where all arguments of a type are read alike ([`Reads`]).

use std::rc::Rc;

use mopd_experiment::formula::{self, Role as RoleOf};
use mopd_experiment::{
    self as experiment, ModelId, ReplayContents, RewardRange, Secret as SecretText, WithOrigin,
};

use crate::check::Checker;
use crate::check::builtins;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::vocabulary::{self, ArgumentKind};
use crate::check::teachers::SaidOrigin;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

pub(in crate::check) trait ArgumentType {
    const TAKES: ArgumentKind;
}

/// An argument type that is read in the same way in every place.
pub(in crate::check) trait Reads: ArgumentType + Sized {
    type Value;

    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<Self::Value>;
}

/// Declares argument types with their descriptions and, if all are read alike, the function that reads them.
macro_rules! types {
    ($(
        $(#[$meta:meta])*
        $name:ident: $takes:expr
        $(, |$checker:ident, $given:ident, $env:pat_param| -> $value:ty { $($read:tt)* })?
    );* $(;)?) => {$(
        $(#[$meta])*
        pub(in crate::check) struct $name;

        impl ArgumentType for $name {
            const TAKES: ArgumentKind = $takes;
        }

        $(impl Reads for $name {
            type Value = $value;

            fn read($checker: &mut Checker, $given: Arg<Self>, $env: &Env) -> Option<$value> {
                $($read)*
            }
        })?
    )*};
}

/// A whole number known before the run.
pub(in crate::check) struct Count<const LEAST: u64 = 1>;

impl<const LEAST: u64> ArgumentType for Count<LEAST> {
    const TAKES: ArgumentKind = ArgumentKind::Count;
}

impl<const LEAST: u64> Reads for Count<LEAST> {
    type Value = u32;

    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<u32> {
        checker.count(given.expr, given.name, env, LEAST)
    }
}

types! {
    // Numbers known before the run.
    Real: ArgumentKind::Number, |checker, given, env| -> f64 { checker.real(given.expr, given.name, env) };
    NotNegative: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, 0.0)
    };
    Positive: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, f64::MIN_POSITIVE)
    };
    Seconds: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, 0.001)
    };
    /// From 0 to 1.
    Fraction: ArgumentKind::Number, |checker, given, env| -> f64 {
        let value = checker.evaluate(given.expr, env);
        checker.fraction(&value, given.expr.span, &format!("`{}`", given.name))
    };
    /// The decay of a moving average: at least 0, below 1.
    Decay: ArgumentKind::Number, |checker, given, env| -> f64 { checker.decay(given, env) };
    /// A number of tokens: the width of a window, not of a model.
    Window: ArgumentKind::Count, |checker, given, env| -> u32 {
        let value = checker.evaluate(given.expr, env);
        checker.whole(&value, given.expr.span, "the width of a window", 1).map(|width| width as u32)
    };
    Numbers: ArgumentKind::Numbers, |checker, given, env| -> Vec<f64> { checker.numbers(given.expr, env) };
    /// Whole numbers, from 0.
    Dimensions: ArgumentKind::Numbers, |checker, given, env| -> Vec<u32> {
        checker.counts(given.expr, given.name, env)
    };
    /// `[0 -> 1e-3, 100 -> 1e-4]`
    Pieces: ArgumentKind::Numbers;
    /// `0 -> 1`
    Arrow: ArgumentKind::Number;
    /// Steps, or a share of the run.
    Over: ArgumentKind::Count;
    /// `8..=23`
    LayerRange: ArgumentKind::Range, |checker, given, env| -> (u32, u32) {
        checker.layer_range(given.expr, env)
    };
    /// `powers_of(2)`
    Powers: ArgumentKind::Number;

    // Numbers that may change during training.
    Schedule: ArgumentKind::Schedule, |checker, given, env| -> formula::Formula {
        checker.schedule_setting(given.expr, env)
    };
    /// From 0 to 1.
    Share: ArgumentKind::Schedule, |checker, given, env| -> formula::Formula {
        checker.share(given.expr, &format!("`{}`", given.name), env)
    };
    /// Sampling temperature; 0 takes the most probable token.
    Temperature: ArgumentKind::Schedule, |checker, given, env| -> formula::Formula {
        checker.temperature_of_steps(given.expr, env, true)
    };
    /// At least 1.
    Whole: ArgumentKind::Schedule, |checker, given, env| -> formula::Formula {
        checker.tokens_or_turns(given.expr, given.name, env)
    };

    // Numbers per completion or per token. The caller checks how fine the axis may be.
    Condition: ArgumentKind::Condition, |checker, given, env| -> formula::Formula {
        let value = checker.evaluate(given.expr, env);
        checker.formula(value, given.expr.span)
    };
    Formula: ArgumentKind::Formula, |checker, given, env| -> formula::Formula {
        let value = checker.evaluate(given.expr, env);
        checker.formula(value, given.expr.span)
    };
    /// A panel, from which one member's number is taken.
    Panel: ArgumentKind::Formula;
    Role: ArgumentKind::Role, |checker, given, env| -> RoleOf {
        let value = checker.evaluate(given.expr, env);
        checker.role_of(value, given.expr.span, "expected a role, such as `teacher`")
    };
    Support: ArgumentKind::Support, |checker, given, env| -> formula::Support {
        checker.support(given.expr, env)
    };
    /// `span.answer`
    TextSpan: ArgumentKind::Formula, |checker, given, env| -> formula::NamedSpan {
        checker.span_value(given.expr, env)
    };

    // Texts and words.
    Text: ArgumentKind::Text, |checker, given, env| -> String { checker.text(given.expr, given.name, env) };
    Secret: ArgumentKind::Secret, |checker, given, env| -> SecretText {
        checker.secret(given.expr, given.name, env)
    };
    /// A command.
    Program: ArgumentKind::Text, |checker, given, env| -> String {
        checker.program(given.expr, given.name, env)
    };
    Stop: ArgumentKind::Texts, |checker, given, env| -> Vec<String> {
        checker.stop_texts(Some(given.expr), env)
    };
    Dependencies: ArgumentKind::Texts, |checker, given, env| -> Vec<String> {
        const WANTED: &str = "`depends` is a file or folder that the program reads, or a list of them: \
                              `[\"rules.json\", \"lib\"]`";
        checker.texts(Some(given.expr), WANTED, "an empty text names no file", env)
    };
    /// Tokens by their texts.
    EndTokens: ArgumentKind::Texts, |checker, given, env| -> Vec<String> {
        const WANTED: &str = "`end_tokens` is the text of a token, or a list of them: `[\"<|im_end|>\"]`";
        checker.texts(Some(given.expr), WANTED, "an empty text is no token", env)
    };
    /// A field of the data.
    Field: ArgumentKind::Field, |checker, given, _| -> String { checker.data_field(given.expr) };
    /// `"before" -> "after"`
    Rewriting: ArgumentKind::Text;
    Range: ArgumentKind::Words(vocabulary::RANGES), |checker, given, _| -> RewardRange {
        let words = [("unit", RewardRange::Unit), ("any", RewardRange::Any)];
        checker.word(given.expr, "what rewards may be", &words)
    };
    Kept: ArgumentKind::Words(vocabulary::KEPT), |checker, given, _| -> ReplayContents {
        let words = [("rollouts", ReplayContents::Rollouts), ("prompts", ReplayContents::Prompts)];
        checker.word(given.expr, "what a buffer keeps", &words)
    };
    Between: ArgumentKind::Words(vocabulary::BETWEEN), |checker, given, _| -> experiment::GradientPartition {
        let words = [experiment::GradientPartition::Terms, experiment::GradientPartition::Domains];
        let words = words.map(|between| (between.name(), between));
        checker.word(given.expr, "a part of a loss", &words)
    };
    Masses: ArgumentKind::Words(vocabulary::MASSES);
    Axis: ArgumentKind::Words(vocabulary::OVER), |checker, given, _| -> formula::Axis {
        checker.axis(given.expr)
    };
    Deviation: ArgumentKind::Words(vocabulary::DEVIATIONS), |checker, given, _| -> formula::Deviation {
        let words =
            [("population", formula::Deviation::Population), ("sample", formula::Deviation::Sample)];
        checker.word(given.expr, "a kind of deviation", &words)
    };
    /// The rule for missing values.
    Missing: ArgumentKind::Words(vocabulary::MISSING), |checker, given, _| -> () {
        checker.word(given.expr, "what holds where a value is missing", &[("uniform", ())])
    };
    Similarity: ArgumentKind::Words(vocabulary::SIMILARITIES), |checker, given, _| -> formula::Similarity {
        let words = [("edit", formula::Similarity::Edit), ("rouge", formula::Similarity::Rouge)];
        checker.word(given.expr, "a similarity of texts", &words)
    };
    /// `[attention, query]`
    Projections: ArgumentKind::Words(vocabulary::PROJECTIONS), |checker, given, env| -> Vec<experiment::Projection> {
        checker.adapted(given.expr, env)
    };
    WeightGroups: ArgumentKind::Numbers, |checker, given, env| -> Vec<experiment::WeightGroup> {
        checker.weight_groups(given.expr, env)
    };

    // Models, teachers, data.
    Model: ArgumentKind::Model, |checker, given, env| -> ModelId { checker.model_value(given.expr, env) };
    /// The weights of a model, also of a teacher.
    StartWeights: ArgumentKind::Model, |checker, given, env| -> ModelId {
        checker.weights_of(given.expr, env)
    };
    Models: ArgumentKind::Models, |checker, given, env| -> Vec<ModelId> {
        checker.models_of(given.expr, env)
    };
    Domains: ArgumentKind::Domains;
    Teachers: ArgumentKind::Teachers;
    /// The role that writes completions.
    Author: ArgumentKind::Teacher, |checker, given, env| -> RoleOf { checker.speaker(given.expr, env) };
    /// What a teacher can return.
    Capability: ArgumentKind::Capability, |checker, given, env| -> experiment::Capability {
        checker.capability(given.expr, env)
    };
    Benchmark: ArgumentKind::Benchmark;
    Template: ArgumentKind::Template, |checker, given, env| -> Rc<experiment::Template> {
        checker.template_value(given.expr, env)
    };
    Rollout: ArgumentKind::Rollout, |checker, given, env| -> Rc<experiment::Rollout> {
        checker.rollout_value(given.expr, env)
    };
    /// A rollout whose completions are sampled, not read.
    Drawn: ArgumentKind::Rollout, |checker, given, env| -> Rc<experiment::Rollout> {
        checker.drawn(given.expr, given.owner, env)
    };

    // Settings of blocks.
    Truth: ArgumentKind::Truth, |checker, given, env| -> bool {
        checker.truth_setting(given.expr, given.name, env)
    };
    Seed: ArgumentKind::Count, |checker, given, env| -> u64 {
        let value = checker.evaluate(given.expr, env);
        checker.whole(&value, given.expr.span, "`seed`", 0)
    };
    /// Steps or epochs.
    Steps: ArgumentKind::Count, |checker, given, env| -> experiment::Length {
        checker.stage_length(given.expr, env)
    };
    /// A number of layers, or `all`.
    Layers: ArgumentKind::Layers, |checker, given, env| -> experiment::Checkpointing {
        checker.checkpointing(given.expr, env)
    };
    /// The decay of an average of the weights.
    AverageDecay: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.average_decay(given.expr, env)
    };
    /// Sampling temperature above 0.
    PositiveTemperature: ArgumentKind::Schedule, |checker, given, env| -> formula::Formula {
        checker.temperature_of_steps(given.expr, env, false)
    };
    /// Sampling temperature, known before the run; 0 takes the most probable token.
    GreedyTemperature: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.temperature(given.expr, env, true)
    };
    TeacherTemperature: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.temperature(given.expr, env, false)
    };
    /// `integer(0..=100)`
    Confidence: ArgumentKind::Number, |checker, given, env| -> (i64, i64) {
        checker.stated_confidence(given.expr, env)
    };
    /// A share of the loss, above 0.
    BalanceTarget: ArgumentKind::Number, |checker, given, env| -> f64 {
        checker.balance_target(given.expr, env)
    };
    /// `0.05..=20`
    BalanceClamp: ArgumentKind::Number, |checker, given, env| -> (f64, f64) {
        checker.balance_clamp(given.expr, env)
    };
    Device: ArgumentKind::Words(vocabulary::DEVICES), |checker, given, _| -> experiment::Device {
        let words = [("cpu", experiment::Device::Cpu), ("cuda", experiment::Device::Cuda)];
        checker.word(given.expr, "a device", &words)
    };
    Dtype: ArgumentKind::Words(vocabulary::DTYPES), |checker, given, _| -> experiment::Dtype {
        let words = [("float32", experiment::Dtype::Float32), ("bfloat16", experiment::Dtype::Bfloat16)];
        checker.word(given.expr, "a kind of number", &words)
    };
    Tokenizer: ArgumentKind::Words(vocabulary::TOKENIZERS), |checker, given, env| -> experiment::TokenizerSpec {
        checker.tokenizer(given.expr, env)
    };
    Format: ArgumentKind::Words(vocabulary::FORMATS), |checker, given, _| -> experiment::PromptFormat {
        let chat = experiment::PromptFormat::Chat { system: None };
        let words = [("text", experiment::PromptFormat::Text), ("chat", chat)];
        checker.word(given.expr, "a format of prompts", &words)
    };
    Keep: ArgumentKind::Words(vocabulary::KEEPS), |checker, given, _| -> experiment::Keep {
        let words = [("all", experiment::Keep::All), ("correct", experiment::Keep::Correct)];
        checker.word(given.expr, "a rule for what to keep", &words)
    };
    Alignment: ArgumentKind::Words(vocabulary::ALIGNMENTS), |checker, given, _| -> experiment::Alignment {
        let words = [
            ("positions", experiment::Alignment::Positions),
            ("tokens", experiment::Alignment::Tokens),
            ("shifted", experiment::Alignment::Shifted),
        ];
        checker.word(given.expr, "a way to align tokens", &words)
    };
    Reveals: ArgumentKind::Words(vocabulary::REVEALS), |checker, given, env| -> experiment::Reveal {
        checker.reveals(given.expr, env)
    };
    Origin: ArgumentKind::Words(vocabulary::ORIGINS), |checker, given, _| -> SaidOrigin {
        let words = [("same", SaidOrigin::Same), ("foreign", SaidOrigin::Foreign)];
        checker.word(given.expr, "an origin", &words)
    };
    BudgetUnit: ArgumentKind::Words(vocabulary::BUDGETS), |checker, given, _| -> experiment::BudgetUnit {
        let words = [
            ("steps", experiment::BudgetUnit::Steps),
            ("sequences", experiment::BudgetUnit::Sequences),
            ("tokens", experiment::BudgetUnit::Tokens),
        ];
        checker.word(given.expr, "a budget", &words)
    };
    /// Whether teachers are charged.
    Charges: ArgumentKind::Words(vocabulary::CHARGES), |checker, given, _| -> bool {
        checker.word(given.expr, "a way to count teachers", &[("free", false), ("charged", true)])
    };
    MergeMethod: ArgumentKind::Words(vocabulary::MERGES), |checker, given, _| -> &'static str {
        let methods = ["average", "task_arithmetic", "ties", "dare"].map(|method| (method, method));
        checker.word(given.expr, "a way to merge", &methods)
    };
    Dataset: ArgumentKind::Dataset, |checker, given, env| -> experiment::DataSource {
        checker.source(given.expr, given.name, env)
    };
    FieldColumns: ArgumentKind::Columns, |checker, given, env| -> Vec<experiment::FieldColumn> {
        checker.field_columns(given.expr, env)
    };
    Reward: ArgumentKind::Reward, |checker, given, env| -> experiment::Reward {
        checker.reward(given.expr, env)
    };
    Objective: ArgumentKind::Objective, |checker, given, env| -> Rc<experiment::Objective> {
        checker.objective_value(given.expr, env)
    };
    Adapter: ArgumentKind::Adapter, |checker, given, env| -> experiment::Adapter {
        checker.adapter(given.expr, env)
    };
    Weights: ArgumentKind::Weights, |checker, given, env| -> Vec<experiment::WeightFilter> {
        checker.weight_filters(given.expr, given.name, env)
    };
    /// `extrapolate(...)`
    Extrapolation: ArgumentKind::Formula, |checker, given, env| -> experiment::Extrapolation {
        match checker.evaluate(given.expr, env) {
            Value::Extrapolation(extrapolation) => Some(Rc::unwrap_or_clone(extrapolation)),
            other => checker.no_such_call(given, &other),
        }
    };
    /// `validate(...)`
    Validation: ArgumentKind::Formula, |checker, given, env| -> WithOrigin<experiment::Validation> {
        match checker.evaluate(given.expr, env) {
            Value::Validation(validation) => Some(Rc::unwrap_or_clone(validation)),
            other => checker.no_such_call(given, &other),
        }
    };
    /// `gradient_alignment(...)`
    GradientAlignment: ArgumentKind::Formula, |checker, given, env| -> WithOrigin<experiment::GradientAlignment> {
        match checker.evaluate(given.expr, env) {
            Value::GradientAlignment(alignment) => Some(Rc::unwrap_or_clone(alignment)),
            other => checker.no_such_call(given, &other),
        }
    };
    // What these are depends on the rest of the block.
    References: ArgumentKind::Model;
    Optimizer: ArgumentKind::Optimizer;
    Guards: ArgumentKind::Guards;
    Score: ArgumentKind::Score;
    Columns: ArgumentKind::Benchmarks;
    Metrics: ArgumentKind::Metrics;
    Reduce: ArgumentKind::Reduce;
}

impl Checker {
    /// Reports a value of a setting that is not a call of the setting's name.
    fn no_such_call<T, V>(&mut self, given: Arg<T>, value: &Value) -> Option<V> {
        let usage = builtins::find(given.name).expect("built in").usage;
        self.wrong_kind(given.expr.span, &format!("`{}` is `{usage}`", given.name), value);
        None
    }
}
