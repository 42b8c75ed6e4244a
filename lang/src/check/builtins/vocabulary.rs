//! The fixed words of the language and what they mean: the settings of every block, the words that a setting
//! or an argument knows, the signals. The checker reads the names, editors the explanations.

mod keys;
mod words;

pub use keys::*;
pub use words::*;

use crate::check::builtins::{
    Builtin, Constructor, DivergenceName, EditName, Kind, LossName, Measure, MemoryName, RewardName,
    RolloutName, ScanName, ScheduleName, StatisticName, SupportName,
};

/// One setting of a block.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Must be written.
    pub required: bool,
    pub takes: Takes,
    /// One sentence.
    pub doc: &'static str,
}

/// What stands in a place: after a key, for an argument.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// A whole number known before the run.
    Count,
    /// A number known before the run.
    Number,
    /// A list of numbers known before the run.
    Numbers,
    Truth,
    Text,
    /// A text, or one of the environment.
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
    Template,
    Reward,
    Optimizer,
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
    /// A list of what a table shows.
    Metrics,
    /// What a teacher can answer.
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

/// One word of a fixed list.
#[derive(Debug)]
pub struct Word {
    pub name: &'static str,
    pub doc: &'static str,
}

/// A name that an objective sees without declaring it.
#[derive(Debug)]
pub struct SignalName {
    pub name: &'static str,
    /// A role, or unit and axis: `real[sequence]`.
    pub shape: &'static str,
    pub doc: &'static str,
}

pub fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}

pub fn signal(name: &str) -> Option<&'static SignalName> {
    SIGNALS.iter().find(|signal| signal.name == name)
}

/// What an argument of a built-in function takes.
pub fn takes(builtin: &Builtin, parameter: &str) -> Takes {
    match builtin.kind {
        Kind::Schedule(name) => schedule(name, parameter),
        Kind::Reward(name) => reward(name, parameter),
        Kind::Rollout(name) => rollout(name, parameter),
        Kind::Edit(name) => edit(name, parameter),
        Kind::Constructor(constructor) => constructed(constructor, parameter),
        Kind::Divergence(name) => divergence(name, parameter),
        Kind::Statistic(name) => statistic(name, parameter),
        Kind::Loss(name) => loss(name, parameter),
        Kind::Measure(measure) => measured(measure, parameter),
        Kind::Scan(ScanName::RewardToGo) if parameter == "discount" => Takes::Schedule,
        Kind::Memory(MemoryName::Ema) if parameter == "rate" => Takes::Number,
        Kind::Support(SupportName::TopK | SupportName::Nucleus) if parameter == "role" => Takes::Role,
        Kind::Support(SupportName::TopK) => Takes::Count,
        Kind::Support(SupportName::Nucleus) => Takes::Number,
        Kind::Support(SupportName::Union | SupportName::Intersection) => Takes::Support,
        Kind::Optimizer(_) => Takes::Number,
        Kind::Adapter(_) => match parameter {
            "rank" => Takes::Count,
            "targets" => Takes::Words(PROJECTIONS),
            "layers" => Takes::Range,
            _ => Takes::Number,
        },
        Kind::Layers => Takes::Range,
        Kind::Dataset => match parameter {
            "filter" => Takes::Condition,
            "limit" => Takes::Count,
            _ => Takes::Text,
        },
        Kind::Normalized => Takes::Model,
        Kind::Served => match parameter {
            "url" => Takes::Secret,
            "answers" => Takes::Capability,
            _ => Takes::Text,
        },
        Kind::Logits | Kind::Detached => Takes::Role,
        Kind::Pooled(_) | Kind::Debate => {
            if parameter == "weights" {
                Takes::Numbers
            } else {
                Takes::Teachers
            }
        }
        Kind::PassAt | Kind::PowersOf => Takes::Count,
        Kind::Environment => Takes::Text,
        Kind::Extrapolate => match parameter {
            "rounds" => Takes::Count,
            "judged_by" => Takes::Benchmark,
            "weights" => Takes::Numbers,
            _ => Takes::Number,
        },
        _ => measure(parameter),
    }
}

/// What the parameters take that many functions share.
fn measure(parameter: &str) -> Takes {
    match parameter {
        "over" => Takes::Words(OVER),
        "on" => Takes::Rollout,
        "among" => Takes::Condition,
        "condition" => Takes::Condition,
        "weights" => Takes::Numbers,
        "q" | "n" => Takes::Number,
        _ => Takes::Formula,
    }
}

fn schedule(name: ScheduleName, parameter: &str) -> Takes {
    match (name, parameter) {
        (_, "over" | "steps" | "every" | "hold") => Takes::Count,
        (_, "then") => Takes::Schedule,
        (_, "values" | "pieces") => Takes::Numbers,
        (ScheduleName::Ladder, "advance_if") => Takes::Condition,
        (ScheduleName::Learned, "gain") => Takes::Formula,
        _ => Takes::Number,
    }
}

fn reward(name: RewardName, parameter: &str) -> Takes {
    match (name, parameter) {
        (_, "field") => Takes::Field,
        (_, "pattern" | "command" | "schema") => Takes::Text,
        (RewardName::Http, "url") => Takes::Secret,
        (_, "depends") => Takes::Texts,
        (_, "batch") => Takes::Count,
        _ => Takes::Number,
    }
}

fn rollout(name: RolloutName, parameter: &str) -> Takes {
    match (name, parameter) {
        (RolloutName::From, "teacher") | (RolloutName::Refine, "by") => Takes::Teacher,
        (RolloutName::Snapshot, "model") => Takes::Model,
        (RolloutName::Data, _) => Takes::Field,
        (RolloutName::Turns, "environment") => Takes::Text,
        (RolloutName::Replay, "keeps") => Takes::Words(KEPT),
        (RolloutName::Replay, "while") => Takes::Condition,
        (RolloutName::Replay, "order") => Takes::Formula,
        (RolloutName::Derived, "template") | (_, "sees") => Takes::Template,
        (_, "of" | "first" | "second" | "third" | "fourth" | "history" | "from") => Takes::Rollout,
        (_, "max_tokens" | "at_most" | "share" | "alpha") => Takes::Schedule,
        (_, "stop") => Takes::Texts,
        (_, "temperature" | "top_p" | "repetition_penalty" | "accept") => Takes::Number,
        _ => Takes::Count,
    }
}

fn edit(name: EditName, parameter: &str) -> Takes {
    match (name, parameter) {
        (EditName::Keep | EditName::Retry, "condition" | "until") => Takes::Condition,
        (EditName::Best, "x") => Takes::Formula,
        (EditName::FirstTurns | EditName::ExpertTurns, _) => Takes::Schedule,
        (EditName::Rewrite | EditName::Through, _) => Takes::Text,
        _ => Takes::Count,
    }
}

fn constructed(constructor: Constructor, parameter: &str) -> Takes {
    match (constructor, parameter) {
        (_, "start" | "base") => Takes::Model,
        (_, "models") => Takes::Models,
        (_, "on") => Takes::Domains,
        (Constructor::HuggingFace | Constructor::Gguf | Constructor::Checkpoint, _) => Takes::Text,
        _ => Takes::Formula,
    }
}

fn divergence(name: DivergenceName, parameter: &str) -> Takes {
    match (name, parameter) {
        (_, "pair" | "left" | "right") => Takes::Role,
        (_, "support") => Takes::Support,
        (_, "mass") => Takes::Words(MASSES),
        (DivergenceName::Gaussian, "dimensions") => Takes::Numbers,
        (_, "temperature" | "clip_each") => Takes::Number,
        // Its own parameter: it may move over training time.
        _ => Takes::Schedule,
    }
}

fn statistic(name: StatisticName, parameter: &str) -> Takes {
    match (name, parameter) {
        (StatisticName::Zscore, "deviation") => Takes::Words(DEVIATIONS),
        (StatisticName::Softmax, "missing") => Takes::Words(MISSING),
        (StatisticName::Balance, "x") => Takes::Condition,
        (_, "upper" | "keep") => Takes::Number,
        (_, "n" | "most" | "width") => Takes::Count,
        _ => measure(parameter),
    }
}

fn loss(name: LossName, parameter: &str) -> Takes {
    match (name, parameter) {
        (LossName::Likelihood, _) => Takes::Role,
        (_, "chosen" | "rejected") => Takes::Rollout,
        (LossName::Ranking, _) => Takes::Support,
        (_, "dimensions") => Takes::Numbers,
        (LossName::Dpo, "beta") => Takes::Schedule,
        _ => Takes::Formula,
    }
}

fn measured(measure: Measure, parameter: &str) -> Takes {
    match (measure, parameter) {
        (_, "role" | "left" | "right") => Takes::Role,
        (Measure::Mass | Measure::Size, "support") => Takes::Support,
        (Measure::Score, "on") => Takes::Formula,
        (Measure::Agreement, "by") => Takes::Words(SIMILARITIES),
        (Measure::InNucleus, "p") => Takes::Number,
        _ => Takes::Count,
    }
}

/// What a parameter of a declared type takes.
pub fn takes_type(annotation: &str) -> Takes {
    match annotation {
        "model" => Takes::Model,
        "models" => Takes::Models,
        "teacher" => Takes::Teacher,
        "objective" => Takes::Objective,
        "rollout" => Takes::Rollout,
        "eval" => Takes::Benchmark,
        "counts" => Takes::Numbers,
        "template" => Takes::Template,
        "reward" => Takes::Reward,
        "domain" | "domains" => Takes::Domains,
        "text" => Takes::Text,
        "bool" => Takes::Truth,
        "count" => Takes::Count,
        "schedule" => Takes::Schedule,
        "fraction" | "real" | "number" => Takes::Number,
        _ => Takes::Formula,
    }
}
