//! The types of arguments: what editors and the book say of each ([`ArgumentType`]), and how its value is
//! read where there is only one way ([`Reads`]).

use std::rc::Rc;

use crate::experiment::{self, Keeps, ModelId, RewardRange, Secret as SecretText};
use crate::formula::{self, Role as RoleOf};

use crate::check::Checker;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::vocabulary::{self, Takes};
use crate::check::values::evaluate::Env;

pub(in crate::check) trait ArgumentType {
    const TAKES: Takes;
}

/// An argument type that is read in the same way wherever it occurs.
pub(in crate::check) trait Reads: ArgumentType + Sized {
    type Value;

    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<Self::Value>;
}

/// Declares argument types: each with its description, and, where there is one way to read it, that way.
macro_rules! types {
    ($(
        $(#[$meta:meta])*
        $name:ident: $takes:expr
        $(, |$checker:ident, $given:ident, $env:pat_param| -> $value:ty { $($read:tt)* })?
    );* $(;)?) => {$(
        $(#[$meta])*
        pub(in crate::check) struct $name;

        impl ArgumentType for $name {
            const TAKES: Takes = $takes;
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
    const TAKES: Takes = Takes::Count;
}

impl<const LEAST: u64> Reads for Count<LEAST> {
    type Value = u32;

    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<u32> {
        checker.count(given.expr, given.name, env, LEAST)
    }
}

types! {
    // Numbers known before the run.
    Real: Takes::Number, |checker, given, env| -> f64 { checker.real(given.expr, given.name, env) };
    NotNegative: Takes::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, 0.0)
    };
    Positive: Takes::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, f64::MIN_POSITIVE)
    };
    /// Sampling temperature; 0 takes the most probable token.
    Temperature: Takes::Number, |checker, given, env| -> f64 { checker.temperature(given.expr, env, true) };
    Seconds: Takes::Number, |checker, given, env| -> f64 {
        checker.at_least(given.expr, given.name, env, 0.001)
    };
    /// From 0 to 1.
    Fraction: Takes::Number, |checker, given, env| -> f64 {
        let value = checker.evaluate(given.expr, env);
        checker.fraction(&value, given.expr.span, &format!("`{}`", given.name))
    };
    /// The decay of a moving average: at least 0, below 1.
    Decay: Takes::Number, |checker, given, env| -> f64 { checker.decay(given, env) };
    /// A number of tokens: the width of a window, not of a model.
    Window: Takes::Count, |checker, given, env| -> u32 {
        let value = checker.evaluate(given.expr, env);
        checker.whole(&value, given.expr.span, "the width of a window", 1).map(|width| width as u32)
    };
    Numbers: Takes::Numbers, |checker, given, env| -> Vec<f64> { checker.numbers(given.expr, env) };
    /// Whole numbers, from 0.
    Dimensions: Takes::Numbers, |checker, given, env| -> Vec<u32> {
        checker.counts(given.expr, given.name, env)
    };
    /// `[0 -> 1e-3, 100 -> 1e-4]`
    Pieces: Takes::Numbers;
    /// `0 -> 1`
    Arrow: Takes::Number;
    /// Steps, or a share of the run.
    Over: Takes::Count;
    /// `8..=23`
    LayerRange: Takes::Range, |checker, given, env| -> (u32, u32) { checker.layer_range(given.expr, env) };
    /// `powers_of(2)`
    Powers: Takes::Number;

    // Numbers that may change during training.
    Schedule: Takes::Schedule, |checker, given, env| -> formula::Formula {
        checker.schedule_setting(given.expr, env)
    };
    /// From 0 to 1.
    Share: Takes::Schedule, |checker, given, env| -> formula::Formula {
        checker.share(given.expr, &format!("`{}`", given.name), env)
    };
    /// At least 1.
    Whole: Takes::Schedule, |checker, given, env| -> formula::Formula {
        checker.tokens_or_turns(given.expr, given.name, env)
    };

    // Numbers per completion or per token; the code that reads one knows how fine it may be.
    Condition: Takes::Condition, |checker, given, env| -> formula::Formula {
        let value = checker.evaluate(given.expr, env);
        checker.formula(value, given.expr.span)
    };
    Formula: Takes::Formula, |checker, given, env| -> formula::Formula {
        let value = checker.evaluate(given.expr, env);
        checker.formula(value, given.expr.span)
    };
    /// A panel, of which one member's number is taken.
    Panel: Takes::Formula;
    Role: Takes::Role, |checker, given, env| -> RoleOf {
        let value = checker.evaluate(given.expr, env);
        checker.role_of(value, given.expr.span, "expected a role, such as `teacher`")
    };
    Support: Takes::Support, |checker, given, env| -> formula::Support { checker.support(given.expr, env) };
    /// `span.answer`
    TextSpan: Takes::Formula, |checker, given, env| -> formula::NamedSpan {
        checker.span_value(given.expr, env)
    };

    // Texts and words.
    Text: Takes::Text, |checker, given, env| -> String { checker.text(given.expr, given.name, env) };
    Secret: Takes::Secret, |checker, given, env| -> SecretText {
        checker.secret(given.expr, given.name, env)
    };
    /// A command.
    Program: Takes::Text, |checker, given, env| -> String { checker.program(given.expr, given.name, env) };
    Stop: Takes::Texts, |checker, given, env| -> Vec<String> { checker.stop_texts(Some(given.expr), env) };
    Dependencies: Takes::Texts, |checker, given, env| -> Vec<String> {
        const WANTED: &str = "`depends` is a file or folder that the program reads, or a list of them: \
                              `[\"rules.json\", \"lib\"]`";
        checker.texts(Some(given.expr), WANTED, "an empty text names no file", env)
    };
    /// A field of the data.
    Field: Takes::Field, |checker, given, _| -> String { checker.data_field(given.expr) };
    /// `"before" -> "after"`
    Rewriting: Takes::Text;
    Range: Takes::Words(vocabulary::RANGES), |checker, given, _| -> RewardRange {
        let words = [("unit", RewardRange::Unit), ("any", RewardRange::Any)];
        checker.word(given.expr, "what rewards may be", &words)
    };
    Kept: Takes::Words(vocabulary::KEPT), |checker, given, _| -> Keeps {
        let words = [("rollouts", Keeps::Rollouts), ("prompts", Keeps::Prompts)];
        checker.word(given.expr, "what a buffer keeps", &words)
    };
    Between: Takes::Words(vocabulary::BETWEEN), |checker, given, _| -> experiment::Between {
        let words = [experiment::Between::Terms, experiment::Between::Domains];
        let words = words.map(|between| (between.name(), between));
        checker.word(given.expr, "a part of a loss", &words)
    };
    Masses: Takes::Words(vocabulary::MASSES);
    Axis: Takes::Words(vocabulary::OVER), |checker, given, _| -> formula::Axis { checker.axis(given.expr) };
    Deviation: Takes::Words(vocabulary::DEVIATIONS), |checker, given, _| -> formula::Deviation {
        let words =
            [("population", formula::Deviation::Population), ("sample", formula::Deviation::Sample)];
        checker.word(given.expr, "a kind of deviation", &words)
    };
    /// The rule for missing values.
    Missing: Takes::Words(vocabulary::MISSING), |checker, given, _| -> () {
        checker.word(given.expr, "what holds where a value is missing", &[("uniform", ())])
    };
    Similarity: Takes::Words(vocabulary::SIMILARITIES), |checker, given, _| -> formula::Similarity {
        let words = [("edit", formula::Similarity::Edit), ("rouge", formula::Similarity::Rouge)];
        checker.word(given.expr, "a similarity of texts", &words)
    };
    /// `[attention, query]`
    Projections: Takes::Words(vocabulary::PROJECTIONS), |checker, given, env| -> Vec<experiment::Projection> {
        checker.adapted(given.expr, env)
    };
    WeightGroups: Takes::Numbers, |checker, given, env| -> Vec<experiment::WeightGroup> {
        checker.weight_groups(given.expr, env)
    };

    // Models, teachers, data.
    Model: Takes::Model, |checker, given, env| -> ModelId { checker.model_value(given.expr, env) };
    /// The weights of a model, also of a teacher.
    StartWeights: Takes::Model, |checker, given, env| -> ModelId { checker.weights_of(given.expr, env) };
    Models: Takes::Models, |checker, given, env| -> Vec<ModelId> { checker.models_of(given.expr, env) };
    Domains: Takes::Domains;
    Teachers: Takes::Teachers;
    /// The role that writes completions.
    Author: Takes::Teacher, |checker, given, env| -> RoleOf { checker.speaker(given.expr, env) };
    /// What a teacher can return.
    Capability: Takes::Capability, |checker, given, env| -> experiment::Capability {
        checker.capability(given.expr, env)
    };
    Benchmark: Takes::Benchmark;
    Template: Takes::Template, |checker, given, env| -> Rc<experiment::Template> {
        checker.template_value(given.expr, env)
    };
    Rollout: Takes::Rollout, |checker, given, env| -> Rc<experiment::Rollout> {
        checker.rollout_value(given.expr, env)
    };
    /// A rollout whose completions are sampled, not read.
    Drawn: Takes::Rollout, |checker, given, env| -> Rc<experiment::Rollout> {
        checker.drawn(given.expr, given.owner, env)
    };
}
