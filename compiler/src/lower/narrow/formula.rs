//! Parts of formulas. `at` is the place of the formula that reads the part.

use mopd_lang::formula as wide;
use mopd_lang::source::Span;

use super::Narrowed;
use crate::plan::{Axis, Divergence, DivergenceKind, Live, Reduction, Role, Signal, Statistic, Support};

pub fn axis(axis: wide::Axis, _at: Span) -> Narrowed<Axis> {
    Ok(match axis {
        wide::Axis::Run => Axis::Run,
        wide::Axis::Batch => Axis::Batch,
        wide::Axis::Group => Axis::Group,
        wide::Axis::Sequence => Axis::Sequence,
        wide::Axis::Token => Axis::Token,
    })
}

pub fn role(role: wide::Role, _at: Span) -> Narrowed<Role> {
    Ok(match role {
        wide::Role::Student => Role::Student,
        wide::Role::Teacher => Role::Teacher,
        wide::Role::Sampler => Role::Sampler,
    })
}

pub fn signal(signal: &wide::Signal, at: Span) -> Narrowed<Signal> {
    let role = |role| self::role(role, at);
    Ok(match signal {
        wide::Signal::Logp { role: of } => Signal::Logp { role: role(*of)? },
        wide::Signal::Entropy { role: of } => Signal::Entropy { role: role(*of)? },
        wide::Signal::Top1 { role: of } => Signal::Top1 { role: role(*of)? },
        wide::Signal::Divergence(of) => Signal::Divergence(divergence(of, at)?),
        wide::Signal::Position => Signal::Position,
        wide::Signal::Length => Signal::Length,
        wide::Signal::Truncated => Signal::Truncated,
        wide::Signal::Reward => Signal::Reward,
        wide::Signal::Correct => Signal::Correct,
        wide::Signal::Progress => Signal::Progress,
        wide::Signal::Step => Signal::Step,
    })
}

pub fn live(live: &wide::Live, at: Span) -> Narrowed<Live> {
    Ok(match live {
        wide::Live::Logp => Live::Logp,
        wide::Live::Divergence(of) => Live::Divergence(divergence(of, at)?),
    })
}

pub fn divergence(divergence: &wide::Divergence, at: Span) -> Narrowed<Divergence> {
    let wide::Divergence { kind, left, right, support: of, mass } = divergence;
    let (left, right) = (role(*left, at)?, role(*right, at)?);
    Ok(Divergence { kind: divergence_kind(kind, at)?, left, right, support: support(of, at)?, mass: *mass })
}

fn divergence_kind(kind: &wide::DivergenceKind, _at: Span) -> Narrowed<DivergenceKind> {
    Ok(match kind {
        wide::DivergenceKind::Kl => DivergenceKind::Kl,
        wide::DivergenceKind::Jsd { beta } => DivergenceKind::Jsd { beta: *beta },
        wide::DivergenceKind::TotalVariation => DivergenceKind::TotalVariation,
    })
}

fn support(support: &wide::Support, at: Span) -> Narrowed<Support> {
    Ok(match support {
        wide::Support::Full => Support::Full,
        wide::Support::TopK { role, k } => Support::TopK { role: self::role(*role, at)?, k: *k },
    })
}

pub fn reduction(reduction: wide::Reduction, _at: Span) -> Narrowed<Reduction> {
    Ok(match reduction {
        wide::Reduction::Sum => Reduction::Sum,
        wide::Reduction::Mean => Reduction::Mean,
        wide::Reduction::Minimum => Reduction::Minimum,
        wide::Reduction::Maximum => Reduction::Maximum,
    })
}

pub fn statistic(statistic: wide::Statistic, _at: Span) -> Narrowed<Statistic> {
    Ok(match statistic {
        wide::Statistic::Zscore { deviation } => Statistic::Zscore { deviation },
        wide::Statistic::Minmax => Statistic::Minmax,
        wide::Statistic::Winsor { upper } => Statistic::Winsor { upper },
        wide::Statistic::TopFraction { keep } => Statistic::TopFraction { keep },
        wide::Statistic::Softmax => Statistic::Softmax,
    })
}
