//! The functions that need no import: one table, from which the checker binds arguments, editors help and the
//! book lists.

pub mod bounds;
pub mod vocabulary;

use std::sync::LazyLock;

use mopd_ops::Form;

use crate::experiment::{AdapterKind, Family, Pool};
use crate::formula::{Formula, Function, Reduction, Scan};

/// One built-in name.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub name: &'static str,
    /// In the order in which they may be given without a name.
    pub parameters: &'static [&'static str],
    /// The first so many must be given.
    pub required: usize,
    /// How it is written, for help texts.
    pub usage: &'static str,
    /// One sentence.
    pub doc: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One argument, elementwise.
    Elementwise(Function),
    Bucket,
    /// `min(a, b)`, `max(a, b)`; with `over`, the smallest or largest along an axis.
    Extreme(Function, Reduction),
    Clip,
    Where,
    Reduce(Reduction),
    Quantile,
    Statistic(StatisticName),
    Scan(ScanName),
    Memory(MemoryName),
    Divergence(DivergenceName),
    Blend,
    /// A side of a divergence without gradient.
    Detached,
    Support(SupportName),
    Measure(Measure),
    /// They mean something after `live` only.
    Loss(LossName),
    Schedule(ScheduleName),
    Reward(RewardName),
    Rollout(RolloutName),
    Edit(EditName),
    Optimizer(OptimizerName),
    Adapter(AdapterKind),
    /// `layers(0..=11)`: some of a model's layers.
    Layers,
    /// Rows of data.
    Dataset,
    /// Takes any named arguments: each is a field.
    Columns,
    Normalized,
    Constructor(Constructor),
    Served,
    Logits,
    /// Several teachers as one. `sum` does it too, with `weights`.
    Pooled(Pool),
    Debate,
    /// `integer(0..=100)`: how a panel's confidence is read.
    Integer,
    /// `env("NAME")`
    Environment,
    PassAt,
    Extrapolate,
    PowersOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticName {
    Zscore,
    Center,
    Rank,
    LeaveOneOut,
    Minmax,
    Winsor,
    TopFraction,
    TopCount,
    Softmax,
    SampleWithoutReplacement,
    Balance,
    Chunks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanName {
    Sum,
    Product,
    Minimum,
    Maximum,
    Next,
    RewardToGo,
}

impl ScanName {
    /// The scans that need nothing but their argument.
    pub fn plain(self) -> Option<Scan<Formula>> {
        Some(match self {
            ScanName::Sum => Scan::Sum,
            ScanName::Product => Scan::Product,
            ScanName::Minimum => Scan::Minimum,
            ScanName::Maximum => Scan::Maximum,
            ScanName::Next => Scan::Next,
            ScanName::RewardToGo => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryName {
    Ema,
    Previous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivergenceName {
    Kl,
    SortedL1,
    Gaussian,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportName {
    TopK,
    Nucleus,
    Union,
    Intersection,
}

/// Signals with arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Overlap,
    Mass,
    InNucleus,
    Agreement,
    Available,
    Score,
    Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossName {
    Likelihood,
    Dpo,
    BradleyTerry,
    Ranking,
    SquaredError,
    BinaryCrossEntropy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleName {
    Constant,
    Linear,
    Cosine,
    Exponential,
    Piecewise,
    Alternate,
    Warmup,
    Ladder,
    Learned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewardName {
    ExactMatch,
    Numeric,
    Regex,
    Command,
    JsonSchema,
    UnitTests,
    Http,
    /// Takes any named arguments: each is a part.
    Parts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutName {
    Sample,
    From,
    Data,
    Mix,
    TokenMix,
    Interleave,
    Refine,
    Snapshot,
    Replay,
    Speculative,
    Turns,
    Denoise,
    Derived,
    FirstOf,
    EachTurn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditName {
    Rewrite,
    Keep,
    Retry,
    Best,
    FirstTurns,
    ExpertTurns,
    Through,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerName {
    AdamW,
    Sgd,
    PrivateAdamW,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constructor {
    Decoder(Family),
    HuggingFace,
    Gguf,
    Checkpoint,
    Sft,
    Grpo,
    Distill,
    Dpo,
    Train,
    Merge,
}

const fn function(
    name: &'static str,
    parameters: &'static [&'static str],
    required: usize,
    usage: &'static str,
    doc: &'static str,
    kind: Kind,
) -> Builtin {
    Builtin { name, parameters, required, usage, doc, kind }
}

/// What every divergence takes after its sides and its own parameter.
macro_rules! divergence {
    ($name:literal, [$($side:literal),*], [$($own:literal),*], $required:literal, $usage:literal, $doc:literal, $kind:ident) => {
        function(
            $name,
            &[$($side,)* $($own,)* "support", "mass", "temperature", "clip_each"],
            $required,
            $usage,
            $doc,
            Kind::Divergence(DivergenceName::$kind),
        )
    };
}

#[rustfmt::skip]
static OTHERS: &[Builtin] = &[
    function("bucket", &["x", "n"], 2, "bucket(x, 27)", "The index, from 0, of the one of `n` equal bins of [0, 1] that `x` lies in; values outside go to the nearest bin.", Kind::Bucket),
    // Reductions
    function("mean", &["x", "over", "among", "on"], 2, "mean(x, over: sequence)", "The mean along an axis.", Kind::Reduce(Reduction::Mean)),
    function("sum", &["x", "over", "among", "on", "weights"], 1, "sum(x, over: sequence), or sum([a, b], weights: [0.7, 0.3])", "The sum along an axis; of teachers, the weighted sum of their losses.", Kind::Reduce(Reduction::Sum)),
    function("first", &["x", "over", "among", "on"], 2, "first(x, over: sequence)", "The first element along an axis.", Kind::Reduce(Reduction::First)),
    function("last", &["x", "over", "among", "on"], 2, "last(x, over: sequence)", "The last element along an axis.", Kind::Reduce(Reduction::Last)),
    function("any", &["x", "over", "among", "on"], 2, "any(condition, over: group)", "Whether some element is true.", Kind::Reduce(Reduction::Any)),
    function("all", &["x", "over", "among", "on"], 2, "all(condition, over: group)", "Whether every element is true.", Kind::Reduce(Reduction::All)),
    function("count", &["x", "over", "among", "on"], 2, "count(correct, over: group)", "How many elements are true.", Kind::Reduce(Reduction::Count)),
    function("quantile", &["x", "q", "over", "among", "on"], 3, "quantile(x, 0.9, over: batch)", "The `q` quantile along an axis, interpolated linearly.", Kind::Quantile),
    // Statistics
    function("zscore", &["x", "over", "deviation", "among"], 3, "zscore(x, over: group, deviation: sample)", "(x - mean) / deviation; 0 where all are equal.", Kind::Statistic(StatisticName::Zscore)),
    function("center", &["x", "over", "among"], 2, "center(x, over: group)", "`x` minus the mean along the axis.", Kind::Statistic(StatisticName::Center)),
    function("rank", &["x", "over", "among"], 2, "rank(x, over: batch)", "Share of the others that are smaller, from 0 to 1; equal values share their mean rank.", Kind::Statistic(StatisticName::Rank)),
    function("leave_one_out", &["x", "over", "among"], 2, "leave_one_out(reward, over: group)", "The mean of the other elements: a baseline that does not depend on the element itself.", Kind::Statistic(StatisticName::LeaveOneOut)),
    function("minmax", &["x", "over", "among"], 2, "minmax(x, over: batch)", "Shifted and scaled to [0, 1]; 0 where all are equal.", Kind::Statistic(StatisticName::Minmax)),
    function("winsor", &["x", "upper", "over", "among"], 3, "winsor(x, upper: 0.98, over: batch)", "Values above the `upper` quantile are set to it.", Kind::Statistic(StatisticName::Winsor)),
    function("top_fraction", &["x", "keep", "over", "among"], 3, "top_fraction(x, keep: 0.5, over: batch)", "True for the `keep` fraction with the largest values, their number rounded up, ties broken by position.", Kind::Statistic(StatisticName::TopFraction)),
    function("top_count", &["x", "n", "over", "among"], 3, "top_count(x, n: 2, over: block)", "True for the `n` largest values, ties broken by position.", Kind::Statistic(StatisticName::TopCount)),
    function("softmax", &["x", "over", "among", "across", "missing"], 1, "softmax(x, over: group), or softmax(x, across: panel, missing: uniform)", "exp(x) / sum of exp(x), along an axis, or across the members of a panel.", Kind::Statistic(StatisticName::Softmax)),
    function("sample_without_replacement", &["x", "keep", "over", "among"], 3, "sample_without_replacement(weight, keep: 0.5, over: batch)", "True for the `keep` fraction of the elements, their number rounded up, drawn with probabilities proportional to `x`.", Kind::Statistic(StatisticName::SampleWithoutReplacement)),
    function("balance", &["x", "over", "among"], 2, "balance(correct, over: group)", "True for as many true elements as false ones: the larger side is thinned at random.", Kind::Statistic(StatisticName::Balance)),
    function("chunks", &["x", "most", "width"], 3, "chunks(student.entropy, most: 4, width: 20)", "True in windows of tokens that begin at the largest values of a sequence.", Kind::Statistic(StatisticName::Chunks)),
    // Scans and memory
    function("cumsum", &["x", "over"], 2, "cumsum(x, over: sequence)", "The sum so far, this element included.", Kind::Scan(ScanName::Sum)),
    function("cumprod", &["x", "over"], 2, "cumprod(x, over: sequence)", "The product so far, this element included.", Kind::Scan(ScanName::Product)),
    function("cummin", &["x", "over"], 2, "cummin(x, over: sequence)", "The smallest so far, this element included.", Kind::Scan(ScanName::Minimum)),
    function("cummax", &["x", "over"], 2, "cummax(x, over: sequence)", "The largest so far, this element included.", Kind::Scan(ScanName::Maximum)),
    function("next", &["x", "over"], 2, "next(student.value, over: sequence)", "The element after this one; 0 after the last.", Kind::Scan(ScanName::Next)),
    function("reward_to_go", &["x", "discount", "over"], 3, "reward_to_go(x, discount: 1, over: sequence)", "The discounted sum of this element and all later ones.", Kind::Scan(ScanName::RewardToGo)),
    function("ema", &["x", "rate"], 2, "ema(mean(x, over: batch), rate: 0.9)", "Exponential moving average over the steps of the run: `rate` times the old value plus `1 - rate` times the new one; at the first step the new one.", Kind::Memory(MemoryName::Ema)),
    function("previous", &["x"], 1, "previous(loss)", "The value of the previous step; at the first step the current value.", Kind::Memory(MemoryName::Previous)),
    // Divergences, supports, signals with arguments
    divergence!("kl", ["pair"], [], 1, "kl(student || teacher, support: full)", "KL divergence: the sum of left * log(left / right).", Kl),
    divergence!("sorted_l1", ["left", "right"], [], 2, "sorted_l1(student, teacher)", "Half the L1 distance of the sorted probabilities: vocabularies may differ.", SortedL1),
    divergence!("gaussian_kl", ["pair"], ["dimensions"], 1, "gaussian_kl(teacher || student)", "KL between normal distributions, summed over the components or over `dimensions`: continuous actions, denoising steps.", Gaussian),
    function("blend", &[], 0, "blend(teacher: 0.1, student: 0.9)", "A weighted sum of distributions, by role; the weights may be numbers per token.", Kind::Blend),
    function("detached", &["side"], 1, "detached(blend(student: 0.1, teacher: 0.9))", "A side of a divergence without gradient.", Kind::Detached),
    function("top_k", &["role", "k"], 1, "top_k(teacher, 64), or top_k(20)", "The `k` most probable entries of a role, of equal ones those with the lower id; without a role, what a teacher returns.", Kind::Support(SupportName::TopK)),
    function("nucleus", &["role", "p"], 2, "nucleus(teacher, 0.95)", "The fewest entries with at least `p` of a role's mass, the most probable first; equal ones together.", Kind::Support(SupportName::Nucleus)),
    function("union", &["first", "second", "third"], 2, "union(top_k(student, 32), top_k(teacher, 32))", "Entries of either support.", Kind::Support(SupportName::Union)),
    function("intersection", &["first", "second", "third"], 2, "intersection(top_k(student, 32), top_k(teacher, 32))", "Entries of both supports.", Kind::Support(SupportName::Intersection)),
    function("overlap", &["left", "right", "k"], 3, "overlap(student, teacher, k: 16)", "Share of the `k` most probable entries that two roles have in common.", Kind::Measure(Measure::Overlap)),
    function("mass", &["role", "support"], 2, "mass(student, support: top_k(teacher, 16))", "The total probability of a role on a support.", Kind::Measure(Measure::Mass)),
    function("in_nucleus", &["role", "p"], 2, "in_nucleus(teacher, p: 0.95)", "Whether the sampled token is in the role's nucleus: the fewest entries with at least `p` of the mass.", Kind::Measure(Measure::InNucleus)),
    function("agreement", &["role", "samples", "by"], 3, "agreement(teacher, samples: 10, by: edit)", "A role samples `samples` continuations from the beginning of the student's block; the sum of their similarities to the block.", Kind::Measure(Measure::Agreement)),
    function("score", &["role", "on"], 2, "score(judge, on: span.answer)", "The output of a role's scalar head for one span of the completion.", Kind::Measure(Measure::Score)),
    function("size", &["support"], 1, "size(matched)", "Number of entries of a support.", Kind::Measure(Measure::Size)),
    function("available", &["role"], 1, "available(insider)", "Whether a teacher scored this completion: one behind a server may not.", Kind::Measure(Measure::Available)),
    // Schedules
    function("constant", &["value"], 1, "constant(1e-3)", "The same number at every step.", Kind::Schedule(ScheduleName::Constant)),
    function("linear", &["range", "over"], 1, "linear(0 -> 1, over: 100 steps)", "Linear from one number to the other, constant afterwards.", Kind::Schedule(ScheduleName::Linear)),
    function("cosine", &["range", "over"], 1, "cosine(1e-3 -> 1e-4)", "Half a cosine from one number to the other, constant afterwards.", Kind::Schedule(ScheduleName::Cosine)),
    function("exponential", &["range", "over"], 1, "exponential(1e-3 -> 1e-5)", "From one number to the other by a constant factor per step; both are positive.", Kind::Schedule(ScheduleName::Exponential)),
    function("piecewise", &["pieces"], 1, "piecewise([0 -> 1e-3, 100 -> 1e-4])", "Pairs of a step and the value from that step on; the first step is 0.", Kind::Schedule(ScheduleName::Piecewise)),
    function("alternate", &["values", "every"], 2, "alternate([0, 1], every: 10 steps)", "Cycles through the values, each for `every` steps.", Kind::Schedule(ScheduleName::Alternate)),
    function("warmup", &["steps", "then"], 2, "warmup(20 steps, then: 1e-3)", "Rises linearly from 0 over this many steps, then follows another schedule, which starts there.", Kind::Schedule(ScheduleName::Warmup)),
    function("ladder", &["values", "advance_if", "every"], 2, "ladder([1024, 2048], advance_if: mean(student.entropy, over: batch) >= 0.4)", "Starts with the first value, and moves to the next when the condition holds after a step; `every` sets how often it is tested.", Kind::Schedule(ScheduleName::Ladder)),
    function("learned", &["gain", "hold", "discount"], 2, "learned(gain: previous(loss) - loss, hold: 10 steps)", "A number from 0 to 1, drawn every `hold` steps from a Beta distribution that is trained to raise `gain`, discounted by `discount` per step.", Kind::Schedule(ScheduleName::Learned)),
    // Data
    function("dataset", &["path", "split", "filter", "limit"], 1, "dataset(\"data/gsm8k\", split: \"train\")", "Rows of data: a JSON lines, CSV or parquet file, a pattern of files, or a folder in the layout of Hugging Face datasets. Reads the first `limit` rows for which `filter` holds.", Kind::Dataset),
    function("columns", &[], 0, "columns(prompt: question, answer: \"final answer\")", "Fields in columns with other names.", Kind::Columns),
    // Rewards
    function("exact_match", &["field"], 0, "exact_match, or exact_match(field)", "1 if the completion equals a field of the data exactly; the field is `answer` by default.", Kind::Reward(RewardName::ExactMatch)),
    function("numeric", &["field", "tolerance"], 0, "numeric(tolerance: 0.01)", "1 if the completion and a field of the data are numbers that differ by at most `tolerance`; the field is `answer` by default.", Kind::Reward(RewardName::Numeric)),
    function("regex", &["pattern", "field"], 1, "regex(\"answer: (?<answer>.*)\")", "1 if the pattern matches, and its group `answer`, if it has one, equals a field of the data.", Kind::Reward(RewardName::Regex)),
    function("command", &["command", "time_limit", "batch", "depends"], 1, "command(\"python3 verify.py\", time_limit: 10, depends: [\"rules.json\"])", "A program of yours returns a number from 0 to 1: one JSON object per line in, one out. `time_limit` is in seconds, `batch` is the number of requests at once. Rewards are recomputed when a source file in the script's folder changes, or a file or folder of `depends`.", Kind::Reward(RewardName::Command)),
    function("json_schema", &["schema"], 1, "json_schema(\"schema.json\")", "1 if the completion is JSON that a schema accepts.", Kind::Reward(RewardName::JsonSchema)),
    function("unit_tests", &["field", "time_limit"], 1, "unit_tests(tests, time_limit: 10)", "The share of the tests in a field of the data that the completion passes. `time_limit` is in seconds.", Kind::Reward(RewardName::UnitTests)),
    function("http", &["url", "time_limit", "batch"], 1, "http(env(\"JUDGE_URL\"), time_limit: 10)", "A server of yours returns a number from 0 to 1. `time_limit` is in seconds, `batch` is the number of requests at once.", Kind::Reward(RewardName::Http)),
    function("parts", &[], 0, "parts(accuracy: numeric, format: regex(\"...\"), weights: [0.8, 0.2])", "Several rewards and their weights; each can be read as `reward.<name>`.", Kind::Reward(RewardName::Parts)),
    // Rollouts
    function("sample", &["n", "temperature", "max_tokens", "top_p", "top_k", "repetition_penalty", "heads", "accept", "stop"], 3, "sample(n: 1, temperature: 1.0, max_tokens: 24)", "The student's own completions, `n` of each prompt, fresh at every step. With `heads` it generates that many tokens at once, and keeps those after the first if their confidence reaches `accept`. A completion ends after the first text of `stop`.", Kind::Rollout(RolloutName::Sample)),
    function("from", &["teacher", "sequences", "temperature", "max_tokens", "n", "top_p", "top_k", "sees", "stop"], 1, "from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)", "A teacher's completions: `n` of each prompt at every step, or `sequences` in total, generated once before the first step.", Kind::Rollout(RolloutName::From)),
    function("data", &["field"], 1, "data(answer)", "A field of the data as the completion.", Kind::Rollout(RolloutName::Data)),
    function("mix", &["share", "first", "second"], 3, "mix(0.5, sample(...), data(answer))", "Each sequence from the first rollout with probability `share`, otherwise from the second.", Kind::Rollout(RolloutName::Mix)),
    function("token_mix", &["alpha", "of"], 2, "token_mix(0.2, sample(...))", "Each token is drawn from a mixture with the weight `alpha` for the teacher and the rest for the student.", Kind::Rollout(RolloutName::TokenMix)),
    function("interleave", &["top_k", "of"], 2, "interleave(top_k: 25, sample(...))", "The student proposes each token; a token outside the teacher's `top_k` is replaced by one that the teacher draws.", Kind::Rollout(RolloutName::Interleave)),
    function("refine", &["by", "of", "sees"], 2, "refine(by: teacher, of: sample(...), sees: draft_shown)", "A teacher rewrites the student's draft.", Kind::Rollout(RolloutName::Refine)),
    function("snapshot", &["model", "of"], 2, "snapshot(start, sample(...))", "The completions of a model as it is before the run, generated once.", Kind::Rollout(RolloutName::Snapshot)),
    function("replay", &["of", "capacity", "share", "keeps", "while", "order"], 3, "replay(sample(...), capacity: 10_000, share: 0.25)", "A `share` of every batch comes from earlier rollouts, or from their prompts with new completions. `while` is the condition to enter and stay, `order` the priority: the smallest first, by default the oldest.", Kind::Rollout(RolloutName::Replay)),
    function("speculative", &["block", "of"], 2, "speculative(block: 16, sample(...))", "The student drafts `block` tokens at a time, the teacher accepts them up to the first that it rejects.", Kind::Rollout(RolloutName::Speculative)),
    function("turns", &["environment", "at_most", "of"], 3, "turns(\"python3 env.py\", at_most: 30, sample(...))", "A program responds between the student's turns, at most `at_most` times.", Kind::Rollout(RolloutName::Turns)),
    function("denoise", &["steps", "block", "of"], 3, "denoise(steps: 4, block: 4, sample(...))", "Blocks of `block` tokens, each filled over `steps` denoising steps.", Kind::Rollout(RolloutName::Denoise)),
    function("derived", &["template", "from"], 2, "derived(compare_answers, from: sample(...))", "New prompts, made from a group's completions by a template, which the student completes.", Kind::Rollout(RolloutName::Derived)),
    function("first_of", &["first", "second", "third", "fourth"], 2, "first_of(tried |> keep(correct), hinted)", "For each prompt, the first rollout that has a completion.", Kind::Rollout(RolloutName::FirstOf)),
    function("each_turn", &["history", "of"], 2, "each_turn(data(trajectory), sample(...))", "One prompt for each turn of a recorded trajectory, with the turns before it.", Kind::Rollout(RolloutName::EachTurn)),
    function("rewrite", &["change"], 1, "rewrite(\"Confidence: {_}\" -> \"Confidence: {mean(correct, over: group)}\")", "Replaces a pattern in the completions by another text; `{_}` matches any text, other braces are numbers.", Kind::Edit(EditName::Rewrite)),
    function("keep", &["condition"], 1, "keep(correct)", "Leaves out completions for which the condition does not hold.", Kind::Edit(EditName::Keep)),
    function("retry", &["until", "at_most"], 2, "retry(until: correct, at_most: 8)", "Resamples a completion until the condition holds; keeps the last attempt if it never does.", Kind::Edit(EditName::Retry)),
    function("best", &["x", "of"], 2, "best(reward, of: 1)", "Of the completions of a prompt, the `of` with the largest number.", Kind::Edit(EditName::Best)),
    function("first_turns", &["turns"], 1, "first_turns(1 + floor(step / 5))", "Trains only on the first turns, this many.", Kind::Edit(EditName::FirstTurns)),
    function("expert_turns", &["turns", "all_but"], 0, "expert_turns(3)", "The first turns, this many or `all_but` the last, are the expert's, from the data; the student continues from there.", Kind::Edit(EditName::ExpertTurns)),
    function("through", &["command"], 1, "through(\"python3 edit.py\")", "Passes completions through a program of yours. They are off-policy afterwards.", Kind::Edit(EditName::Through)),
    // Optimizers and measures of a table
    function("adamw", &["beta1", "beta2", "epsilon", "weight_decay", "clip_norm"], 0, "adamw(beta2: 0.95, weight_decay: 0, clip_norm: 1.0)", "Adam with decoupled weight decay.", Kind::Optimizer(OptimizerName::AdamW)),
    function("sgd", &["momentum", "clip_norm"], 0, "sgd(momentum: 0.9, clip_norm: 1.0)", "Stochastic gradient descent.", Kind::Optimizer(OptimizerName::Sgd)),
    function("private_adamw", &["clip", "epsilon", "delta"], 3, "private_adamw(clip: 1.0, epsilon: 2.0, delta: 1e-5)", "AdamW on gradients that are clipped per example to `clip`, with noise that makes the whole run (`epsilon`, `delta`)-differentially private.", Kind::Optimizer(OptimizerName::PrivateAdamW)),
    function("lora", &["rank", "alpha", "targets", "dropout", "layers"], 3, "lora(rank: 16, alpha: 32, targets: [attention, feed_forward])", "Low-rank matrices trained beside frozen ones: W + alpha / rank * B A. `layers` chooses the layers, `dropout` is the fraction of their inputs that is zeroed in training.", Kind::Adapter(AdapterKind::Lora)),
    function("dora", &["rank", "alpha", "targets", "dropout", "layers"], 3, "dora(rank: 16, alpha: 32, targets: [attention, feed_forward])", "As `lora`, with the norm of every row of the adapted matrix trained separately from its direction.", Kind::Adapter(AdapterKind::Dora)),
    function("layers", &["range"], 1, "layers(0..=11)", "A range of layers, counted from 0, both ends included.", Kind::Layers),
    function("normalized", &["zero", "one"], 2, "normalized(zero: start, one: expert)", "Scores on a scale where one model is 0 and another is 1, per domain.", Kind::Normalized),
    function("pass_at", &["k"], 1, "pass_at(16)", "The probability that at least one of `k` samples is right, estimated without bias from all samples.", Kind::PassAt),
    // Models
    function("llama", &[], 0, "llama { layers, width, heads, context, tokenizer }", "A Llama decoder with random weights.", Kind::Constructor(Constructor::Decoder(Family::Llama))),
    function("qwen2", &[], 0, "qwen2 { layers, width, heads, context, tokenizer }", "A Qwen2 decoder with random weights.", Kind::Constructor(Constructor::Decoder(Family::Qwen2))),
    function("qwen3", &[], 0, "qwen3 { layers, width, heads, context, tokenizer }", "A Qwen3 decoder with random weights.", Kind::Constructor(Constructor::Decoder(Family::Qwen3))),
    function("gemma", &[], 0, "gemma { layers, width, heads, context, tokenizer }", "A Gemma decoder with random weights.", Kind::Constructor(Constructor::Decoder(Family::Gemma))),
    function("hf", &["name", "revision"], 1, "hf(\"Qwen/Qwen3-0.6B\", revision: \"...\")", "A model in the Hugging Face layout, from a folder or the hub; `revision` pins the version on the hub.", Kind::Constructor(Constructor::HuggingFace)),
    function("gguf", &["file"], 1, "gguf(\"model.gguf\")", "A model from a GGUF file.", Kind::Constructor(Constructor::Gguf)),
    function("checkpoint", &["folder"], 1, "checkpoint(\"runs/first/student\")", "A model that an earlier run left in its folder.", Kind::Constructor(Constructor::Checkpoint)),
    function("sft", &["start", "on"], 2, "sft(base, on: domains) { target, steps, batch, lr }", "Supervised fine-tuning: imitation of a field of the data, or of a rollout.", Kind::Constructor(Constructor::Sft)),
    function("grpo", &["start", "on"], 2, "grpo(start, on: d) { steps, prompts, samples, max_tokens, lr }", "Reinforcement learning with verifiable rewards.", Kind::Constructor(Constructor::Grpo)),
    function("distill", &["start"], 1, "distill(start) { objective, rollout, prompts, steps, lr }", "Training with any objective on any rollout, with the routed teachers.", Kind::Constructor(Constructor::Distill)),
    function("dpo", &["start", "on"], 2, "dpo(start, on: domains) { chosen, rejected, beta, reference, batch, steps, lr }", "Training on pairs of completions.", Kind::Constructor(Constructor::Dpo)),
    function("train", &[], 0, "train { trains student = start, step follow { updates, objective, rollout } }", "Several models trained in turns, one kind of update after the other.", Kind::Constructor(Constructor::Train)),
    function("merge", &["models", "base"], 1, "merge(experts, base: start) { method, scale }", "A model whose weights are computed from those of others.", Kind::Constructor(Constructor::Merge)),
    // Teachers
    function("served", &["engine", "url", "model", "answers"], 4, "served(\"vllm\", url: env(\"TEACHER_URL\"), model: \"Qwen/Qwen3-32B\", answers: top_k(20))", "A teacher behind a server; `answers` is what it returns.", Kind::Served),
    function("logits", &["of"], 1, "logits(dpo) + w * (logits(dpo) - logits(rev)) where w = 2", "A model's logits, for a composed teacher.", Kind::Logits),
    function("mixture", &["teachers", "weights"], 2, "mixture([a, b], weights: [0.7, 0.3])", "One distribution: the weighted mean of the teachers' probabilities. `weights: equal` gives all the same weight.", Kind::Pooled(Pool::Mixture)),
    function("geometric", &["teachers", "weights"], 2, "geometric([a, b], weights: [0.7, 0.3])", "One distribution: the weighted mean of the teachers' logits, normalised. `weights: equal` gives all the same weight.", Kind::Pooled(Pool::Geometric)),
    function("debate", &["members"], 1, "debate([big, mid]) { rounds = 2 }", "Teachers that discuss a prompt in turns before they score the student's completions.", Kind::Debate),
    function("integer", &["range"], 1, "integer(0..=100)", "A whole number that each member of a panel states.", Kind::Integer),
    function("env", &["name"], 1, "env(\"TEACHER_URL\")", "An environment variable, read when the run starts; its value is not part of the plan.", Kind::Environment),
    function("extrapolate", &["factor", "rounds", "at", "judged_by", "weights"], 4, "extrapolate(factor: 2, rounds: 5, at: powers_of(2), judged_by: probe)", "At certain steps the weights are extrapolated along their change so far, by `factor`, up to `rounds` times, as long as a benchmark improves; `weights` lists which of them.", Kind::Extrapolate),
    function("powers_of", &["base"], 1, "powers_of(2)", "Steps 1, 2, 4, 8, ...", Kind::PowersOf),
];

/// What may follow `live` besides the student's own numbers and divergences. `dpo` is a stage elsewhere.
#[rustfmt::skip]
static LOSSES: &[Builtin] = &[
    function("nll", &["of"], 1, "live nll(teacher)", "Minus the student's log-probability of a role's most probable token.", Kind::Loss(LossName::Likelihood)),
    function("dpo", &["chosen", "rejected", "beta"], 3, "live dpo(chosen: from(teacher, ...), rejected: snapshot(start, ...), beta: 0.1)", "A preference between two completions of one prompt, measured against the reference (one number per group).", Kind::Loss(LossName::Dpo)),
    function("ranking", &["order"], 1, "live ranking(order: top_k(teacher, 8))", "The negative log-likelihood, under the student, of the order in which a role ranks its entries (Plackett-Luce).", Kind::Loss(LossName::Ranking)),
    function("bradley_terry", &["chosen", "rejected", "on"], 2, "live bradley_terry(chosen: from(teacher, ...), rejected: sample(...))", "A preference between the outputs of a scalar head for two completions.", Kind::Loss(LossName::BradleyTerry)),
    function("mse", &["x", "target", "dimensions"], 2, "live mse(student.mean, teacher.mean)", "The squared difference between a mean of the student's and a target.", Kind::Loss(LossName::SquaredError)),
    function("bce", &["x", "target"], 2, "live bce(student.confidence, target)", "Binary cross-entropy between the student's confidence and a target from 0 to 1.", Kind::Loss(LossName::BinaryCrossEntropy)),
];

pub fn find_loss(name: &str) -> Option<&'static Builtin> {
    LOSSES.iter().find(|builtin| builtin.name == name)
}

pub fn losses() -> &'static [Builtin] {
    LOSSES
}

/// The functions of the operators' table, then all others.
static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let calls = Function::ALL.iter().copied().filter(|function| function.is_call());
    calls.map(elementwise).chain(OTHERS.iter().copied()).collect()
});

/// An elementwise function, from its entry in the operators' table.
fn elementwise(function: Function) -> Builtin {
    let Form::Call { parameters, doc } = function.definition().form else {
        unreachable!("only what is called is looked up by name")
    };
    let (name, usage) = (function.name(), format!("{}({})", function.name(), parameters.join(", ")));
    // The same words name a reduction.
    let extreme = |reduction| {
        let usage = format!("{usage}, or {name}(x, over: sequence)");
        (&["a", "b", "over", "among", "on"][..], 1, usage, Kind::Extreme(function, reduction))
    };
    let (parameters, required, usage, kind) = match function {
        Function::Minimum => extreme(Reduction::Minimum),
        Function::Maximum => extreme(Reduction::Maximum),
        Function::Clip => (parameters, 3, usage, Kind::Clip),
        Function::Where => (parameters, 3, usage, Kind::Where),
        _ => (parameters, parameters.len(), usage, Kind::Elementwise(function)),
    };
    // Once, for as long as the program runs.
    Builtin { name, parameters, required, usage: usage.leak(), doc, kind }
}

pub fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

/// Every built-in.
pub fn all() -> &'static [Builtin] {
    &BUILTINS
}

pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    BUILTINS.iter().map(|builtin| builtin.name)
}
