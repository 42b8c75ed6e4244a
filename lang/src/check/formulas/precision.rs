//! The numbers of an objective, which is computed in single precision. Numbers that are 0 or infinite there
//! are refused when the graph is made.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{Formula, FormulaKind, text};
use mopd_experiment::{Objective, Origin};

use crate::check::reporter::Reporter;

/// Warns of constants that lose digits in single precision.
pub fn warn_of_subnormal_numbers(reporter: &mut Reporter, objective: &Objective) {
    let parts = objective.formulas().into_iter().flat_map(Formula::parts);
    let numbers = parts.filter_map(|part| match part.0.kind {
        FormulaKind::Number(value) if (value as f32).is_subnormal() => Some((value, part.0.origin)),
        _ => None,
    });
    for (value, origin) in numbers.collect::<Vec<(f64, Origin)>>() {
        let message =
            format!("this constant is {}, which loses digits in single precision", text::number(value));
        reporter.report(
            Diagnostic::warning(Code::OutOfRange, reporter.span(origin), message)
                .label("objectives are computed in 32-bit floats; the smallest normal one is 1.2e-38")
                .help("write `0` if that is meant, or a larger number"),
        );
    }
}
