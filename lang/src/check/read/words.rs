//! Words of a fixed list, as values.

use mopd_experiment::{self as experiment, ReplayContents, RewardRange, formula};

use crate::check::builtins::types::SaidOrigin;
use crate::check::read::{expected, reads};

reads! {
    Range => |checker, given, _| {
        let words = [("unit", RewardRange::Unit), ("any", RewardRange::Any)];
        expected::word(checker, given.expr, "what rewards may be", &words)
    };
    Kept => |checker, given, _| {
        let words = [("rollouts", ReplayContents::Rollouts), ("prompts", ReplayContents::Prompts)];
        expected::word(checker, given.expr, "what a buffer keeps", &words)
    };
    Between => |checker, given, _| {
        let words = [experiment::GradientPartition::Terms, experiment::GradientPartition::Domains];
        let words = words.map(|between| (between.name(), between));
        expected::word(checker, given.expr, "a part of a loss", &words)
    };
    Deviation => |checker, given, _| {
        let words = formula::Deviation::ALL.map(|deviation| (deviation.name(), deviation));
        expected::word(checker, given.expr, "a kind of deviation", &words)
    };
    Missing => |checker, given, _| {
        expected::word(checker, given.expr, "what holds where a value is missing", &[("uniform", ())])
    };
    Similarity => |checker, given, _| {
        let words = [("edit", formula::Similarity::Edit), ("rouge", formula::Similarity::Rouge)];
        expected::word(checker, given.expr, "a similarity of texts", &words)
    };
    Device => |checker, given, _| {
        let words = [("cpu", experiment::Device::Cpu), ("cuda", experiment::Device::Cuda)];
        expected::word(checker, given.expr, "a device", &words)
    };
    Dtype => |checker, given, _| {
        let words = [("float32", experiment::Dtype::Float32), ("bfloat16", experiment::Dtype::Bfloat16)];
        expected::word(checker, given.expr, "a kind of number", &words)
    };
    Keep => |checker, given, _| {
        let words = [("all", experiment::Keep::All), ("correct", experiment::Keep::Correct)];
        expected::word(checker, given.expr, "a rule for what to keep", &words)
    };
    Alignment => |checker, given, _| {
        let words = [
            ("positions", experiment::Alignment::Positions),
            ("tokens", experiment::Alignment::Tokens),
            ("shifted", experiment::Alignment::Shifted),
        ];
        expected::word(checker, given.expr, "a way to align tokens", &words)
    };
    Origin => |checker, given, _| {
        let words = [("same", SaidOrigin::Same), ("foreign", SaidOrigin::Foreign)];
        expected::word(checker, given.expr, "an origin", &words)
    };
    BudgetUnit => |checker, given, _| {
        let words = [
            ("steps", experiment::BudgetUnit::Steps),
            ("sequences", experiment::BudgetUnit::Sequences),
            ("tokens", experiment::BudgetUnit::Tokens),
        ];
        expected::word(checker, given.expr, "a budget", &words)
    };
    Charges => |checker, given, _| {
        expected::word(checker, given.expr, "a way to count teachers", &[("free", false), ("charged", true)])
    };
    MergeMethod => |checker, given, _| {
        let methods = ["average", "task_arithmetic", "ties", "dare"].map(|method| (method, method));
        expected::word(checker, given.expr, "a way to merge", &methods)
    };
    Format => |checker, given, _| {
        let chat = experiment::PromptFormat::Chat { system: None };
        let words = [("text", experiment::PromptFormat::Text), ("chat", chat)];
        expected::word(checker, given.expr, "a format of prompts", &words)
    };
}
