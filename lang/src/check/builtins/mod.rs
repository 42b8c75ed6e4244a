//! The functions that need no import, a file for each family. Each is declared once, with its arguments: from
//! that the checker binds and reads them, editors help and the book lists ([`declare`]).

pub mod bounds;
pub(in crate::check) mod constructors;
pub(in crate::check) mod data;
pub(in crate::check) mod declare;
pub(in crate::check) mod divergences;
pub(in crate::check) mod edits;
pub(in crate::check) mod losses;
pub(in crate::check) mod measures;
pub(in crate::check) mod optimizers;
pub(in crate::check) mod rewards;
pub(in crate::check) mod rollouts;
pub(in crate::check) mod schedules;
pub(in crate::check) mod supports;
pub(in crate::check) mod teachers;
pub(in crate::check) mod types;
pub mod vocabulary;
pub(in crate::check) mod weights;

use std::sync::LazyLock;

use mopd_ops::Form;

use crate::formula::{Formula, Function, Reduction, Scan};

pub use constructors::Constructor;
pub use data::DataName;
pub use declare::Parameter;
pub use divergences::DivergenceName;
pub use edits::EditName;
pub use losses::LossName;
pub use measures::Measure;
pub use optimizers::OptimizerName;
pub use rewards::RewardName;
pub use rollouts::RolloutName;
pub use schedules::ScheduleName;
pub use supports::SupportName;
pub use teachers::TeacherName;
pub use weights::WeightsName;

/// One built-in name.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub name: &'static str,
    /// In the order in which they may be given without a name: first those that must be given.
    pub parameters: &'static [Parameter],
    /// Takes any named arguments.
    pub any_names: bool,
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
    Support(SupportName),
    Measure(Measure),
    /// They mean something after `live` only.
    Loss(LossName),
    Schedule(ScheduleName),
    Reward(RewardName),
    Rollout(RolloutName),
    Edit(EditName),
    Optimizer(OptimizerName),
    Weights(WeightsName),
    Data(DataName),
    Constructor(Constructor),
    Teacher(TeacherName),
}

impl Builtin {
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// How many arguments must be given.
    pub fn required(&self) -> usize {
        self.parameters.iter().filter(|parameter| parameter.required).count()
    }
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

/// A function of formulas.
struct Row {
    name: &'static str,
    parameters: &'static [&'static str],
    /// The first so many must be given.
    required: usize,
    usage: &'static str,
    doc: &'static str,
    kind: Kind,
}

const fn function(
    name: &'static str,
    parameters: &'static [&'static str],
    required: usize,
    usage: &'static str,
    doc: &'static str,
    kind: Kind,
) -> Row {
    Row { name, parameters, required, usage, doc, kind }
}

impl Row {
    /// What its arguments take is known by their names.
    fn builtin(&self) -> Builtin {
        let takes = |(at, name): (usize, &&'static str)| Parameter {
            name,
            takes: vocabulary::takes(self.kind, name),
            required: at < self.required,
            default: None,
        };
        let parameters: Vec<Parameter> = self.parameters.iter().enumerate().map(takes).collect();
        // Once, for as long as the program runs.
        let parameters = parameters.leak();
        let Row { name, usage, doc, kind, .. } = *self;
        Builtin { name, parameters, any_names: false, usage, doc, kind }
    }
}

#[rustfmt::skip]
static FORMULAS: &[Row] = &[
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
];

pub fn find_loss(name: &str) -> Option<&'static Builtin> {
    losses::BUILTINS.iter().find(|builtin| builtin.name == name)
}

pub fn losses() -> &'static [Builtin] {
    losses::BUILTINS
}

/// The functions of the operators' table, then all others.
static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let calls = Function::ALL.iter().copied().filter(|function| function.is_call());
    let families = [
        divergences::BUILTINS,
        supports::BUILTINS,
        measures::BUILTINS,
        schedules::BUILTINS,
        data::BUILTINS,
        rewards::BUILTINS,
        rollouts::BUILTINS,
        edits::BUILTINS,
        optimizers::BUILTINS,
        weights::BUILTINS,
        constructors::BUILTINS,
        teachers::BUILTINS,
    ];
    let formulas = calls.map(elementwise).chain(FORMULAS.iter().map(Row::builtin));
    formulas.chain(families.concat()).collect()
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
    Row { name, parameters, required, usage: usage.leak(), doc, kind }.builtin()
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
