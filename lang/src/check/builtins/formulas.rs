//! Functions of formulas: the parameters of each. Their names, notation and documentation are in the
//! operators' table.

use super::BuiltinKind;
use super::declare::{BuiltinParameter, arguments};
use super::types::{
    Axis, Condition, Count, Deviation, Formula, Fraction, Missing, NotNegative, Numbers, Panel, PeerFraction,
    Rollout, Schedule, Window,
};
use mopd_experiment::formula::{Memory, Reduction, Scan, Statistic};

arguments! { Elementwise { x: Formula } }
arguments! { Bucket { x: Formula, n: Count } }
arguments! { Clip { x: Formula, low: Formula, high: Formula } }
arguments! { Where { condition: Condition, then: Formula, otherwise "else": Formula } }
// `min(a, b)`, or `min(x, over: sequence)`
arguments! { Extreme {
    a: Formula,
    b: Option<Formula>,
    over: Option<Axis>,
    among: Option<Condition>,
    on: Option<Rollout>,
} }
arguments! { Reduce { x: Formula, over: Axis, among: Option<Condition>, on: Option<Rollout> } }
// `sum(x, over: sequence)`, or `sum([a, b], weights: [0.7, 0.3])`
arguments! { Sum {
    x: Formula,
    over: Option<Axis>,
    among: Option<Condition>,
    on: Option<Rollout>,
    weights: Option<Numbers>,
} }
arguments! { Quantile {
    x: Formula,
    q: PeerFraction,
    over: Axis,
    among: Option<Condition>,
    on: Option<Rollout>,
} }
arguments! { Stddev {
    x: Formula,
    over: Axis,
    deviation: Deviation,
    among: Option<Condition>,
    on: Option<Rollout>,
} }
arguments! { Compared { x: Formula, over: Axis, among: Option<Condition> } }
arguments! { Balance { x: Condition, over: Axis, among: Option<Condition> } }
arguments! { Zscore {
    x: Formula,
    over: Axis,
    deviation: Deviation,
    epsilon: NotNegative = 1e-4,
    among: Option<Condition>,
} }
arguments! { Winsor { x: Formula, upper: PeerFraction, over: Axis, among: Option<Condition> } }
arguments! { TopFraction { x: Formula, keep: PeerFraction, over: Axis, among: Option<Condition> } }
arguments! { TopCount { x: Formula, n: Count, over: Axis, among: Option<Condition> } }
arguments! { Chunks { x: Formula, most: Count, width: Window } }
// `softmax(x, over: group)`, or `softmax(x, across: panel, missing: uniform)`
arguments! { Softmax {
    x: Formula,
    over: Option<Axis>,
    among: Option<Condition>,
    across: Option<Panel>,
    missing: Option<Missing>,
} }
arguments! { Scanned { x: Formula, over: Axis } }
arguments! { RewardToGo { x: Formula, discount: Schedule, over: Axis } }
arguments! { Ema { x: Formula, rate: Fraction } }
arguments! { Previous { x: Formula } }

/// The parameters of a function.
pub(super) fn parameters(kind: BuiltinKind) -> &'static [BuiltinParameter] {
    let listed = match kind {
        BuiltinKind::Bucket => Bucket::PARAMETERS,
        BuiltinKind::Clip => Clip::PARAMETERS,
        BuiltinKind::Where => Where::PARAMETERS,
        BuiltinKind::Extreme(..) => Extreme::PARAMETERS,
        BuiltinKind::Reduce(Reduction::Sum) => Sum::PARAMETERS,
        BuiltinKind::Reduce(Reduction::Quantile { .. }) => Quantile::PARAMETERS,
        BuiltinKind::Reduce(Reduction::Stddev { .. }) => Stddev::PARAMETERS,
        BuiltinKind::Reduce(_) | BuiltinKind::Median => Reduce::PARAMETERS,
        BuiltinKind::Statistic(statistic) => match statistic {
            Statistic::Center
            | Statistic::Rank
            | Statistic::LeaveOneOut
            | Statistic::MeanOfSmaller
            | Statistic::Minmax => Compared::PARAMETERS,
            Statistic::Balance => Balance::PARAMETERS,
            Statistic::Zscore { .. } => Zscore::PARAMETERS,
            Statistic::Winsor { .. } => Winsor::PARAMETERS,
            Statistic::TopFraction { .. } | Statistic::SampleWithoutReplacement { .. } => {
                TopFraction::PARAMETERS
            }
            Statistic::TopCount { .. } => TopCount::PARAMETERS,
            Statistic::Chunks { .. } => Chunks::PARAMETERS,
            Statistic::Softmax => Softmax::PARAMETERS,
        },
        BuiltinKind::Scan(Scan::RewardToGo { .. }) => RewardToGo::PARAMETERS,
        BuiltinKind::Scan(_) => Scanned::PARAMETERS,
        BuiltinKind::Memory(Memory::Ema { .. }) => Ema::PARAMETERS,
        BuiltinKind::Memory(Memory::Previous) => Previous::PARAMETERS,
        _ => Elementwise::PARAMETERS,
    };
    listed.unwrap_or_default()
}
