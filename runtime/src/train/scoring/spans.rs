//! Divergences that count entries with the probability of their whole span, where a teacher has another
//! tokenizer. The span's tokens after the first are read before them, and have a gradient of their own.

use mopd_plan::{Divergence, Live, LivePrimitive, Objective, Role, Signal};
use tch::Tensor;

use super::pass::ScoringPass;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::tokenizer::Token;
use crate::train::objective::missing;
use crate::train::other_tokenizer::{OtherTokenizer, Retokenized};
use crate::train::vocabulary::{Logits, Primitive, Quantity, Spans, logps_of};
use crate::zip::zip_equal;

/// The divergences of an objective that count whole spans.
fn of_spans(objective: &Objective) -> Vec<Divergence> {
    let read = objective.graph.signals(&objective.outputs()).into_iter().filter_map(|signal| match signal {
        Signal::Divergence(divergence) => Some(divergence),
        _ => None,
    });
    let live = objective.live.iter().filter_map(|live| match &live.primitive {
        Live::Divergence(divergence) => Some(divergence.clone()),
        _ => None,
    });
    read.chain(live).filter(Divergence::is_of_spans).collect()
}

/// The temperature of the divergences that count whole spans of these roles, for all tokens of a span; `None`
/// where there is no such divergence.
///
/// # Errors
/// If there are several such temperatures.
fn temperature(objective: &Objective, roles: &[Role]) -> Result<Option<f64>> {
    let mut all = of_spans(objective);
    all.retain(|divergence| divergence.sides().iter().any(|role| roles.contains(role)));
    let Some(first) = all.first().map(|divergence| divergence.temperature.clone()) else { return Ok(None) };
    if all.iter().any(|divergence| divergence.temperature != first) {
        let why = "divergences with `mass: raw` between two tokenizers must all have one temperature";
        return Err(missing("a second temperature of such a divergence", why, objective)
            .help("give all of them the same `temperature`"));
    }
    Ok(Some(first.constant().expect("the compiler refuses temperatures that change")))
}

/// The role's log-probability of each span's tokens after the first, `[tokens]`; `None` where the objective
/// does not read it. `logits` are those of `targets`.
pub fn rest_of(
    objective: &Objective,
    role: Role,
    reading: &Retokenized,
    other: &OtherTokenizer,
    place: Place,
    logits: &Logits,
    targets: &[Token],
) -> Result<Option<Tensor>> {
    let Some(temperature) = temperature(objective, &[role])? else { return Ok(None) };
    Ok(Some(reading.rest(|rows| logps_of(place, logits, rows, targets, other.absent(), temperature))))
}

impl ScoringPass {
    /// The student's log-probability of a token after the first of a span; `None` where no divergence counts
    /// whole spans.
    pub fn rest_primitive(&self, objective: &Objective) -> Result<Option<Primitive<'static>>> {
        let roles: Vec<Role> = self.vocabulary.spans.iter().map(|spans| spans.role).collect();
        let temperature = temperature(objective, &roles)?;
        Ok(temperature.map(|temperature| Primitive::LogpAt { temperature }))
    }

    /// Sets the student's log-probability of each span's tokens after the first, where a divergence reads it.
    pub fn read_rest(&mut self, objective: &Objective) -> Result<()> {
        let Some(rest) = self.rest_primitive(objective)? else { return Ok(()) };
        if self.vocabulary.spans.iter().all(|spans| spans.follow.is_empty()) {
            return Ok(());
        }
        let quantity = Quantity::Primitive(rest);
        let logps = to_vec(&self.vocabulary.values(&[quantity])[0]);
        self.vocabulary.spans.iter_mut().for_each(|spans| spans.set_student(&logps));
        Ok(())
    }

    /// The live divergences that count whole spans, with their index and the spans, where some spans have
    /// several tokens of the student.
    pub fn of_spans<'o>(&self, objective: &'o Objective) -> Vec<(usize, &'o Divergence, &Spans)> {
        let of_spans = |(index, live): (usize, &'o LivePrimitive)| {
            let Live::Divergence(divergence) = &live.primitive else { return None };
            let sides = divergence.sides();
            let spans = self.vocabulary.spans.iter().find(|spans| sides.contains(&spans.role))?;
            (divergence.is_of_spans() && !spans.follow.is_empty()).then_some((index, divergence, spans))
        };
        objective.live.iter().enumerate().filter_map(of_spans).collect()
    }

    /// d loss / d log-probability of the student's tokens after the first of each span; `None` where no
    /// divergence counts them.
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
