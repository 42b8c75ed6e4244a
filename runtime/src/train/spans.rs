//! Divergences that count entries with the probability of their whole span, where a teacher has another
//! tokenizer: what follows the first token in it is read before them, and has a gradient of its own.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::plan::{Divergence, Live, LivePrimitive, Mass, Objective, Role, Signal, Support};
use tch::Tensor;

use super::other_tokenizer::{OtherTokenizer, Retokenized};
use super::scores::{STUDENT_LOGP, ScoringPass};
use super::sequences::Sequences;
use super::vocabulary::{Logits, Spans, logps_of};
use crate::failure::Result;
use crate::machine::place::Place;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Whether a divergence counts entries with the probability of their whole span: that of the first token
/// times those of what follows it. The whole vocabulary, and what is normalised anew, are distributions of
/// the first token alone.
pub fn is_of_spans(divergence: &Divergence) -> bool {
    divergence.mass == Mass::Raw && divergence.support != Support::Full
}

/// Whether an objective asks for the probability of whole spans by a role.
fn reads_spans(objective: &Objective, role: Role) -> bool {
    let of_role = |divergence: &Divergence| is_of_spans(divergence) && divergence.roles().contains(&role);
    let signals = objective.graph.signals(&objective.outputs());
    signals.iter().any(|signal| matches!(signal, Signal::Divergence(divergence) if of_role(divergence)))
        || objective
            .live
            .iter()
            .any(|live| matches!(&live.primitive, Live::Divergence(divergence) if of_role(divergence)))
}

/// The role's log-probability of what follows the first token in each span, `[tokens]`; none where nobody
/// asks. `logits` are of the `targets` that it reads.
pub fn rest_of(
    objective: &Objective,
    role: Role,
    reading: &Retokenized,
    other: &OtherTokenizer,
    (place, logits): (Place, &Logits),
    targets: &[Token],
) -> Option<Tensor> {
    reads_spans(objective, role).then(|| {
        reading.rest(|rows| logps_of(place, logits, rows, targets, other.absent(), objective.temperature))
    })
}

impl ScoringPass {
    /// What follows in spans by the student, where somebody with another tokenizer is asked about them.
    pub fn read_rest(
        &mut self,
        objective: &Objective,
        sequences: &Sequences,
        batch: &mut Batch,
    ) -> Result<()> {
        let counts = |spans: &Spans| !spans.follow.is_empty() && reads_spans(objective, spans.role);
        if !self.vocabulary.spans.iter().any(counts) {
            return Ok(());
        }
        self.read(&[STUDENT_LOGP], &[], objective, sequences, batch)?;
        let logps = batch.signal(&STUDENT_LOGP).expect("it was just read");
        self.vocabulary.spans.iter_mut().for_each(|spans| spans.set_student(logps));
        Ok(())
    }

    /// The live divergences that count whole spans, and these spans, where some have several tokens of the
    /// student.
    pub fn of_spans<'o>(&self, objective: &'o Objective) -> Vec<(usize, &'o Divergence, &Spans)> {
        let of_spans = |(index, live): (usize, &'o LivePrimitive)| {
            let Live::Divergence(divergence) = &live.primitive else { return None };
            let roles = divergence.roles();
            let spans = self.vocabulary.spans.iter().find(|spans| roles.contains(&spans.role))?;
            (is_of_spans(divergence) && !spans.follow.is_empty()).then_some((index, divergence, spans))
        };
        objective.live.iter().enumerate().filter_map(of_spans).collect()
    }

    /// d loss / d log-probability of the student's tokens that follow in spans; none where nothing counts
    /// them.
    pub fn adjoint_of_rest(&self, objective: &Objective, adjoints: &[&[f32]]) -> Option<Vec<f32>> {
        let by_rest = self.by_rest.borrow();
        let of_spans = zip_equal(self.of_spans(objective), by_rest.iter());
        let parts = of_spans.map(|((index, _, spans), by_rest)| {
            let loss_by_rest: Vec<f32> =
                zip_equal(adjoints[index], by_rest).map(|(adjoint, by_rest)| adjoint * by_rest).collect();
            spans.adjoint(&loss_by_rest)
        });
        parts.reduce(|mut sum, part| {
            zip_equal(&mut sum, part).for_each(|(sum, part)| *sum += part);
            sum
        })
    }
}
