//! Diagnostics of later updates from a batch.

use mopd_lang::diag::{Code, Diagnostic};

use super::case::AuditCase;
use super::diagnostics::AuditPass;
use super::later::{Staleness, reads_old};
use super::verdict::distance_text;

impl AuditPass<'_> {
    /// Checks the later updates from a batch. False when the time is up.
    pub(super) fn of_later_updates(&mut self, cases: &[AuditCase]) -> bool {
        for case in cases.iter().filter(|case| case.updates > 1 && case.sampler.is_of_student()) {
            if !(self.keep_going)() {
                return false;
            }
            self.stale(case);
        }
        true
    }

    /// Reports later updates that follow another gradient than completions that the student would draw now.
    fn stale(&mut self, case: &AuditCase) {
        let Some(staleness) = case.query(case.steps / 2).and_then(|query| query.staleness()) else { return };
        let later = if case.called == "passes" { "passes" } else { "mini-batches" };
        let weighted = case.view().any(reads_old);
        let (message, label, help) = match staleness {
            Staleness::AwayFromOld { follows } => (
                format!(
                    "later {later} learn from how the student differed from its teacher before the first"
                ),
                format!("in later updates: {follows}"),
                "subtract `student.logp` instead: it is computed anew for every update",
            ),
            Staleness::Weight { distance } if !weighted => (
                format!("later {later} treat these completions as if the student had just sampled them"),
                format!(
                    "no `ratio` corrects for the change of their probabilities: at a moderate one it is {} from \
                     the gradient of fresh completions",
                    distance_text(distance)
                ),
                "multiply by `live ratio` in place of `live student.logp`, within bounds: `clip(live ratio, 0.8, \
                 1.2)`",
            ),
            Staleness::Weight { distance } => (
                format!("later {later} do not follow the gradient of fresh completions"),
                format!(
                    "this weight does not correct for the change of their probabilities: at a moderate one it \
                     is {} from it",
                    distance_text(distance)
                ),
                "the weight that corrects is `ratio` itself: `live ratio`, or `ratio * live student.logp`",
            ),
        };
        let drawn = format!("drawn once for {} {}", case.updates, case.called);
        self.add(
            Diagnostic::warning(Code::StaleSignal, self.span(case.term.origin), message)
                .label(label)
                .note(self.span(case.rollout), drawn)
                .help(help),
        );
    }
}
