//! Tests numerically, on sample distributions, whether a declared function is a divergence.

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, Name, Parameter};
use mopd_experiment::StageStep;
use mopd_experiment::formula::{Formula, FormulaKind, Side, SummandProperties};

use crate::check::formulas::ranges::{Bindings, Tape};
use crate::check::reporter::Reporter;

/// Likelihood ratios at which a generator is evaluated, from very small to very large.
const RATIOS: [f64; 13] = [1e-3, 1e-2, 0.05, 0.1, 0.3, 0.6, 0.9, 1.0, 1.2, 2.0, 5.0, 30.0, 1e3];

/// How far rounding may take a sum from 0, relative to the size of its summands.
const ROUNDING: f64 = 1e-9;

/// A probability that counts as 0.
const NOTHING: f64 = 1e-300;

/// Pairs of distributions on which a divergence is tried, drawn with a fixed seed, some of them sharp.
pub fn tried() -> Vec<[Vec<f64>; 2]> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut distribution = |entries: usize, sharpness: f64| -> Vec<f64> {
        let weights: Vec<f64> = (0..entries).map(|_| (sharpness * (uniform() - 0.5)).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    };
    let cases = [(2, 2.0), (2, 8.0), (3, 1.0), (3, 6.0), (4, 3.0), (5, 2.0), (5, 10.0), (8, 4.0), (16, 6.0)];
    cases
        .iter()
        .flat_map(|&(entries, sharpness)| {
            let pair = [distribution(entries, sharpness), distribution(entries, sharpness)];
            let near = pair[0].iter().zip(&pair[1]).map(|(p, q)| 0.9 * p + 0.1 * q).collect();
            [[pair[0].clone(), near], pair]
        })
        .collect()
}

/// A distribution raised to a power and normalised.
fn tempered(distribution: &[f64], power: f64) -> Vec<f64> {
    let powers: Vec<f64> = distribution.iter().map(|p| p.powf(power)).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}

/// A summand that can be evaluated.
struct EvaluableSummand<'f>(Tape<'f>, Bindings);

impl EvaluableSummand<'_> {
    pub fn at(&self, p: f64, q: f64) -> Option<f64> {
        self.0.at(&Bindings { entry: Some([p, q]), ..self.1 })
    }

    pub fn sum(&self, left: &[f64], right: &[f64]) -> Option<f64> {
        left.iter().zip(right).map(|(p, q)| self.at(*p, *q)).sum()
    }

    /// The sum of the summands' magnitudes, at least 1. Rounding errors are relative to it.
    pub fn scale(&self, left: &[f64], right: &[f64]) -> f64 {
        left.iter().zip(right).filter_map(|(p, q)| self.at(*p, *q)).map(f64::abs).sum::<f64>().max(1.0)
    }
}

/// The reason why a summand makes no divergence.
pub enum DivergenceDefect {
    /// It is not finite where both probabilities are between 0 and 1.
    NotFinite {
        p: f64,
        q: f64,
        value: f64,
    },
    /// It is not 0 where the sides agree. `smallest`: whether agreement is the minimum while only the left,
    /// or only the right, side moves. `constant`: whether it has one value everywhere.
    NotZero {
        value: f64,
        smallest: [bool; 2],
        constant: bool,
        /// Whether the summand depends on the left and on the right side.
        reads: [bool; 2],
    },
    Negative {
        value: f64,
        left: Vec<f64>,
        right: Vec<f64>,
    },
}

/// Whether `value` is 0 on every test input; false where it can't be evaluated yet.
pub fn is_zero(value: &Formula, at: StageStep) -> bool {
    let trial = EvaluableSummand(Tape::new(value), Bindings { step: at.step, steps: at.steps, entry: None });
    tried().iter().all(|[p, q]| trial.sum(p, q).is_some_and(|sum| sum.abs() <= ROUNDING))
}

/// The properties of a summand at one step; `None` where it can't be evaluated yet.
pub fn facts(value: &Formula, at: StageStep) -> Option<(SummandProperties, Option<DivergenceDefect>)> {
    let trial = EvaluableSummand(Tape::new(value), Bindings { step: at.step, steps: at.steps, entry: None });
    trial.at(0.5, 0.5)?;
    let mut facts =
        SummandProperties { divergence: true, never_negative: true, most: f64::INFINITY, zero: true };
    let mut flaw = None;
    let tried = tried();
    for [left, right] in &tried {
        for (p, q) in left.iter().zip(right) {
            let value = trial.at(*p, *q)?;
            if !value.is_finite() {
                let facts =
                    SummandProperties { divergence: false, zero: false, never_negative: false, ..facts };
                return Some((facts, Some(DivergenceDefect::NotFinite { p: *p, q: *q, value })));
            }
            facts.never_negative &= value >= -1e-12;
        }
        let (agreed, apart) = (trial.sum(right, right)?, trial.sum(left, right)?);
        if agreed.is_nan() || agreed.abs() > ROUNDING * trial.scale(right, right) {
            let smallest = [true, false].map(|left_moves| {
                tried.iter().all(|pair| {
                    let [moved, held] = if left_moves { [&pair[0], &pair[1]] } else { [&pair[1], &pair[0]] };
                    let sum = |moved: &[f64]| {
                        if left_moves { trial.sum(moved, held) } else { trial.sum(held, moved) }
                    };
                    // Sharper and flatter than the fixed side: there a cross-entropy keeps falling.
                    let tempered = [0.5, 2.0, 4.0].map(|power| tempered(held, power));
                    let least = trial.sum(held, held);
                    tempered.iter().chain([moved]).all(|moved| {
                        sum(moved).zip(least).is_some_and(|(apart, least)| apart >= least - ROUNDING)
                    })
                })
            });
            let same = |[left, right]: &[Vec<f64>; 2]| {
                trial.sum(left, right).is_some_and(|sum| (sum - agreed).abs() <= ROUNDING)
            };
            let constant = tried.iter().all(same);
            let reads = [Side::Left, Side::Right].map(|side| {
                value.any(|node| matches!(&node.kind, FormulaKind::Entry(entry) if entry.side == side))
            });
            flaw.get_or_insert(DivergenceDefect::NotZero { value: agreed, smallest, constant, reads });
        } else if apart < -ROUNDING * trial.scale(left, right) && flaw.is_none() {
            flaw =
                Some(DivergenceDefect::Negative { value: apart, left: left.clone(), right: right.clone() });
        }
        facts.zero &= apart.abs() <= ROUNDING;
    }
    facts.divergence = flaw.is_none();
    // An f-divergence is proportional to its two numbers; it is largest where the two sides are disjoint.
    let proportional = [(0.3, 0.1), (0.05, 0.4), (0.6, 0.5)].iter().all(|(p, q)| {
        let both = trial.at(*p, *q).zip(trial.at(p / 4.0, q / 4.0));
        both.is_some_and(|(whole, part)| (whole - 4.0 * part).abs() < 1e-9 * whole.abs().max(1.0))
    });
    let most = trial.at(1.0, NOTHING)? + trial.at(NOTHING, 1.0)?;
    if proportional && facts.divergence && most < 100.0 {
        facts.most = most;
    }
    Some((facts, flaw))
}

pub fn is_symmetric(value: &Formula) -> bool {
    let trial = EvaluableSummand(Tape::new(value), Bindings { step: 0, steps: 3, entry: None });
    tried().iter().all(|[p, q]| match (trial.sum(p, q), trial.sum(q, p)) {
        (Some(one), Some(other)) => (one - other).abs() <= 1e-9 * one.abs().max(1.0),
        _ => true,
    })
}

/// Reports a `sum` whose summand is not finite.
pub fn report_infinite_sum(
    reporter: &mut Reporter,
    name: &Name,
    side: &Parameter,
    body: &Expr,
    at: f64,
    value: f64,
) {
    let what = if value.is_nan() { "not a number" } else { "infinite" };
    let text = format!("`{}` is {what} at {} = {at:.3}", name.text, side.name.text);
    reporter.report(Diagnostic::error(Code::NotADivergence, body.span, text).help(
        "a logarithm or a power of something that is 0 or negative there, or a division by 0: hold it with \
         `where(...)` or `max(...)`",
    ));
}

/// Reports why a two-sided function is not a divergence.
pub fn report_flaw(
    reporter: &mut Reporter,
    name: &Name,
    sides: &[Parameter],
    body: &Expr,
    flaw: DivergenceDefect,
) {
    let name = &name.text;
    let [p, q] = [&sides[0].name.text, &sides[1].name.text];
    let listed = |of: &[f64]| {
        let numbers: Vec<String> = of.iter().map(|p| format!("{p:.2}")).collect();
        format!("({})", numbers.join(", "))
    };
    let diagnostic = match flaw {
        DivergenceDefect::NotFinite { p: at_p, q: at_q, value } => {
            let what = if value.is_nan() { "not a number" } else { "infinite" };
            let text = format!("`{name}` is {what} at {p} = {at_p:.3}, {q} = {at_q:.3}");
            Diagnostic::error(Code::NotADivergence, body.span, text).help(
                "a logarithm or a power of something that is 0 or negative there, or a division by 0: \
                 hold it with `where(...)` or `max(...)`",
            )
        }
        DivergenceDefect::NotZero { value, smallest, constant, reads } => {
            let text = format!("`{name}` is no divergence: it is {value:.4} where both sides agree");
            let diagnostic = Diagnostic::warning(Code::NotADivergence, body.span, text);
            let [student, other] = if smallest[0] { [p, q] } else { [q, p] };
            match smallest {
                _ if constant => diagnostic
                    .label("the same for all distributions")
                    .help("its derivative is 0: the probabilities of a side always add up to 1"),
                _ if reads != [true; 2] => {
                    let [read, other] = if reads[0] { [p, q] } else { [q, p] };
                    diagnostic.label(format!("`{other}` is not read: a number of `{read}` alone")).help(
                        format!(
                            "compare both sides, `{p} * log({p} / {q})`; minimising a number of `{read}` \
                             alone leads to one and the same distribution, whatever the teacher says"
                        ),
                    )
                }
                [true, true] => diagnostic.label("a divergence and a constant").help(
                    "it is smallest where the sides agree: its gradient is that of a divergence, its \
                     value is not 0 at the end of training",
                ),
                [false, false] => diagnostic
                    .label("a score of two distributions")
                    .help("it is smaller somewhere else: minimising it leads away from the teacher"),
                _ => diagnostic
                    .label(format!("for a student as `{student}`, a divergence and a constant"))
                    .help(format!(
                        "as a cross-entropy is, it is smallest where the sides agree if only `{student}` \
                         moves: let the student be `{student}`. A student as `{other}` is led away from \
                         the teacher"
                    )),
            }
        }
        DivergenceDefect::Negative { value, left, right } => {
            let text = format!("`{name}` is no divergence: it can be negative");
            Diagnostic::warning(Code::NotADivergence, body.span, text)
                .label(format!("sums to {value:.4} at {p} = {}, {q} = {}", listed(&left), listed(&right)))
                .help(
                    "it is 0 where the sides agree and less elsewhere: minimising it leads away from the \
                     teacher",
                )
        }
    };
    reporter.report(diagnostic);
}

/// Whether `value`, which is `q * f(p / q)`, comes from a generator: `f` is convex at the test ratios,
/// and 0 at 1.
pub fn is_generator(
    reporter: &mut Reporter,
    name: &Name,
    variable: &Parameter,
    value: &Formula,
    body: &Expr,
) -> bool {
    let trial = EvaluableSummand(Tape::new(value), Bindings { step: 0, steps: 1, entry: None });
    let variable = &variable.name.text;
    if let Some(one) = trial.at(1.0, 1.0)
        && (one.is_nan() || one.abs() >= 1e-9)
    {
        let text = format!("`{}` is {one} where both sides agree", name.text);
        reporter.report(
            Diagnostic::error(Code::NotADivergence, body.span, text)
                .label(format!("at {variable} = 1"))
                .help("a generator is 0 at 1: subtract its value there"),
        );
        return false;
    }
    let values: Option<Vec<f64>> = RATIOS.iter().map(|u| trial.at(*u, 1.0)).collect();
    // A parameter has no value yet: convexity is checked where the divergence is used.
    let Some(values) = values else { return true };
    let bend = (1..RATIOS.len() - 1).find(|&at| {
        let (a, b, c) = (RATIOS[at - 1], RATIOS[at], RATIOS[at + 1]);
        let chord = values[at - 1] + (values[at + 1] - values[at - 1]) * (b - a) / (c - a);
        let scale = values[at - 1].abs().max(values[at + 1].abs()).max(1.0);
        let above = values[at] - chord - 1e-9 * scale;
        above.is_nan() || above > 0.0
    });
    if let Some(bend) = bend {
        let text = format!("`{}` is not convex near {variable} = {}", name.text, RATIOS[bend]);
        reporter.report(
            Diagnostic::error(Code::NotADivergence, body.span, text).label("bends downwards there").help(
                "without convexity the value can be negative, and its smallest value is not where the \
                 sides agree",
            ),
        );
        return false;
    }
    true
}
