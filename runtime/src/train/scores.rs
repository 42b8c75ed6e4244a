//! What every role thinks of the completion tokens: the numbers that the objective asks for, and the gradient of its loss.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::expr::values::EvaluationError;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Live, LivePrimitive, Objective, Prefixes, Role, Signal};
use tch::{Tensor, no_grad_guard};

use super::Trainer;
use super::batches::{Sequence, Sequences};
use super::vocabulary::{Logits, Parameters, Quantity, Vocabulary};
use crate::failure::{Error, Result};
use crate::model::{Decoder, PackedBatch, to_vec};

/// The student's forward pass, from which the gradient is made.
pub struct Forward {
    /// With gradient.
    hidden: Tensor,
    vocabulary: Vocabulary,
    reads_teacher: bool,
}

/// What diagnostics read of every step, besides what the objective does.
pub const STUDENT_LOGP: Signal = Signal::Logp { role: Role::Student };
pub const TEACHER_LOGP: Signal = Signal::Logp { role: Role::Teacher };
pub const STUDENT_ENTROPY: Signal = Signal::Entropy { role: Role::Student };

/// Everything that the objective's graph and the diagnostics read at this step.
pub fn score(trainer: &Trainer, sequences: &Sequences, packed: &PackedBatch, step: u32) -> Result<(Batch, Forward)> {
    let objective = &trainer.stage.train.objective;
    let hidden = trainer.model.hidden(packed);
    let _guard = no_grad_guard();
    let reads_teacher = trainer.reads_teacher;
    let teacher = if reads_teacher { trainer.teacher_logits(sequences)? } else { Vec::new() };
    let student = Logits::projected(&hidden, trainer.model.matrix());
    let vocabulary = Vocabulary::new(&packed.targets, student, teacher, sampler(trainer)?, trainer.model.tokenizer.ends()[0]);
    let forward = Forward { hidden, vocabulary, reads_teacher };

    let layout = sequences.layout.clone();
    let mut batch = Batch { layout, step, steps: trainer.stage.steps, ..Batch::default() };
    let mut wanted = objective.graph.signals(&objective.outputs());
    // Formulas inside divergences are worked out before the divergences are.
    let inside = wanted.iter().filter_map(|signal| if let Signal::Divergence(of) = signal { Some(of) } else { None });
    let inside_live =
        objective.live.iter().filter_map(|live| if let Live::Divergence(of) = &live.primitive { Some(of) } else { None });
    let first: Vec<Signal> = inside.chain(inside_live).flat_map(|divergence| divergence.signals()).collect();
    forward.read(&first, &[], objective, sequences, &mut batch)?;
    wanted.extend([STUDENT_LOGP, STUDENT_ENTROPY]);
    if reads_teacher {
        wanted.push(TEACHER_LOGP);
    }
    forward.read(&wanted, &objective.live, objective, sequences, &mut batch)?;
    Ok((batch, forward))
}

impl Forward {
    /// Adds signals that are not there yet, and values of primitives. One pass over the vocabulary, where something needs it.
    fn read(
        &self,
        signals: &[Signal],
        live: &[LivePrimitive],
        objective: &Objective,
        sequences: &Sequences,
        batch: &mut Batch,
    ) -> Result<()> {
        let mut asked: Vec<&Signal> = Vec::new();
        for signal in signals {
            if batch.signal(signal).is_some() || asked.contains(&signal) {
                continue;
            }
            match given(signal, objective, sequences)? {
                Some(values) => batch.signals.push((signal.clone(), values)),
                None => asked.push(signal),
            }
        }
        let parameters = Parameters { batch, device: self.hidden.device() };
        let mut quantities = Vec::new();
        let mut computed = Vec::new();
        for signal in asked {
            // Others follow from the layout and the step.
            if let Some(quantity) = parameters.quantity(signal).map_err(|error| failed(error, objective))? {
                quantities.push(quantity);
                computed.push(signal.clone());
            }
        }
        for live in live {
            quantities
                .push(Quantity::Primitive(parameters.primitive(&live.primitive).map_err(|error| failed(error, objective))?));
        }
        if quantities.is_empty() {
            return Ok(());
        }
        let values = self.vocabulary.values(&quantities, self.reads_teacher);
        let (of_signals, of_live) = values.split_at(computed.len());
        batch.signals.extend(computed.into_iter().zip(of_signals.iter().map(to_vec)));
        batch.live.extend(of_live.iter().map(to_vec));
        Ok(())
    }

    /// d loss / d parameters, in the order of the model's flat vector. `adjoints` are d loss / d primitive, per token, in the
    /// objective's order; `batch` is what [`score`] answered.
    pub fn gradient(self, model: &Decoder, objective: &Objective, batch: &Batch, adjoints: &[&[f32]]) -> Result<Tensor> {
        let device = self.hidden.device();
        let parameters = Parameters { batch, device };
        let mut live = Vec::new();
        for (primitive, adjoint) in objective.live.iter().zip(adjoints) {
            let primitive = parameters.primitive(&primitive.primitive).map_err(|error| failed(error, objective))?;
            live.push((primitive, Tensor::from_slice(adjoint).to_device(device)));
        }
        let (hidden, matrix) = (self.hidden.detach(), model.matrix().detach());
        let [by_hidden, by_matrix] = self.vocabulary.projected_gradient(&live, self.reads_teacher, &hidden, &matrix);
        Ok(model.gradient(&self.hidden, &by_hidden, Some(&by_matrix)))
    }
}

/// The values of a signal that comes with the sequences.
fn given(signal: &Signal, objective: &Objective, sequences: &Sequences) -> Result<Option<Vec<f32>>> {
    let per_sequence = |value: fn(&Sequence) -> Option<f32>, what: &str| {
        let values: Option<Vec<f32>> = sequences.list.iter().map(value).collect();
        values.map(Some).ok_or_else(|| missing(what, "the completions were not judged", objective))
    };
    match signal {
        Signal::Logp { role: Role::Sampler } => {
            let recorded: Option<Vec<&Vec<f32>>> = sequences.list.iter().map(|sequence| sequence.logps.as_ref()).collect();
            let recorded = recorded.ok_or_else(|| missing("the sampler", "the completions come from the data", objective))?;
            Ok(Some(recorded.into_iter().flatten().copied().collect()))
        }
        Signal::Truncated => per_sequence(|sequence| Some(f32::from(u8::from(sequence.truncated))), "truncated"),
        Signal::Reward => per_sequence(|sequence| sequence.reward.map(|reward| reward as f32), "reward"),
        Signal::Correct => per_sequence(|sequence| sequence.reward.map(|reward| f32::from(u8::from(reward >= 1.0))), "reward"),
        Signal::Other { text, .. } => Err(missing(text, "this version can't compute it", objective)),
        _ => Ok(None),
    }
}

/// Whose logits the completions were drawn from, and at which temperature; none where nobody asks for more than the recorded
/// log-probabilities.
fn sampler(trainer: &Trainer) -> Result<Option<(Role, f64)>> {
    let objective = &trainer.stage.train.objective;
    let live = objective.live.iter().any(|live| live.primitive.roles().contains(&Role::Sampler));
    let signals = objective.graph.signals(&objective.outputs());
    let asked = |signal: &Signal| *signal != Signal::Logp { role: Role::Sampler } && signal.roles().contains(&Role::Sampler);
    if !live && !signals.iter().any(asked) {
        return Ok(None);
    }
    let (writer, temperature) = match &trainer.stage.train.prefixes {
        // One update per rollout: the student is still the policy that sampled.
        Prefixes::Student { sampling, .. } => (Role::Student, sampling.temperature),
        Prefixes::Teacher { sampling, .. } => (Role::Teacher, sampling.temperature),
        Prefixes::Data { .. } => return Err(missing("the sampler", "the completions come from the data", objective)),
    };
    if temperature == 0.0 {
        return Err(missing("the sampler's distribution", "it is greedy", objective));
    }
    Ok(Some((writer, temperature)))
}

fn missing(what: &str, why: &str, objective: &Objective) -> Error {
    let message = format!("the objective `{}` reads {what}, but {why}", objective.name);
    Error::new(FailureKind::Runtime, message).at(objective.origin)
}

fn failed(error: EvaluationError, objective: &Objective) -> Error {
    Error::new(FailureKind::Runtime, format!("the objective `{}`: {error}", objective.name)).at(objective.origin)
}
