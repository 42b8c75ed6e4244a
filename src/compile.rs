//! Compiles a checked file to its plan, with the arithmetic that is faster on this machine.

use mopd_expr::jit;
use mopd_lang::Analysis;
use mopd_lang::diag::Diagnostic;
use mopd_plan::Plan;

/// The plan of a file with its own values or those set from outside, whatever it sweeps over. `None` for a
/// file that declares no experiment, or has errors.
///
/// # Errors
/// What prevents a plan: errors that the checker can't see, and constructs that this version can't execute.
pub fn compiled(analysis: &Analysis) -> Option<Result<Plan, Vec<Diagnostic>>> {
    let experiment = analysis.experiment.as_ref().filter(|_| !analysis.has_errors())?;
    Some(mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, jit::fuses()))
}

/// The plan of the run with a file's own values, whatever its other runs report. `None` if it can't run.
pub fn plan_of_own_values(analysis: &Analysis) -> Option<Plan> {
    let experiment = analysis.experiment.as_ref()?;
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, jit::fuses()).ok()
}

/// The plan of [`compiled`]. What prevents it is added to the diagnostics.
pub fn plan_of(analysis: &mut Analysis) -> Option<Plan> {
    match compiled(analysis)? {
        Ok(plan) => Some(plan),
        Err(found) => {
            analysis.diagnostics.extend(found);
            None
        }
    }
}
