//! What every role thinks of the completion tokens, and the numbers that the objective asks for.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Divergence, Live, Objective, Prefixes, Role, Signal};
use tch::{Kind, Tensor, no_grad_guard};

use super::Trainer;
use super::batches::{Sequence, Sequences};
use super::divergence::{divergence, entropy};
use crate::failure::{Error, Result};
use crate::model::{PackedBatch, to_vec};

/// Next-token log-probabilities at the completion tokens, `[tokens, vocabulary]`, and what every step needs of them.
pub struct Scores {
    /// With gradient; the student is trained at temperature 1.
    student: Tensor,
    teacher: Option<Tensor>,
    /// Whoever wrote the completions, at the temperature of sampling; absent where the objective does not ask.
    sampler: Option<Tensor>,
    /// With gradient: the student's log-probability of each token taken, `[tokens]`.
    taken: Tensor,
    pub student_logps: Vec<f32>,
    pub teacher_logps: Option<Vec<f32>>,
    /// The student's, in nats.
    pub entropies: Vec<f32>,
}

impl Scores {
    pub(super) fn new(trainer: &Trainer, sequences: &Sequences, packed: &PackedBatch, logits: &Tensor) -> Result<Scores> {
        let student = logits.log_softmax(-1, Kind::Float);
        let targets = packed.targets.unsqueeze(1);
        let taken = student.gather(1, &targets, false).squeeze_dim(1);

        let _guard = no_grad_guard();
        let teacher_logits = if trainer.reads_teacher { Some(trainer.teacher_logits(sequences)?) } else { None };
        let objective = &trainer.stage.train.objective;
        let sampler = if asks_for_sampler(objective) {
            let (written_by, temperature) = match &trainer.stage.train.prefixes {
                // One update per rollout: the student is still the policy that sampled.
                Prefixes::Student { sampling, .. } => (Some(logits), sampling.temperature),
                Prefixes::Teacher { sampling, .. } => (teacher_logits.as_ref(), sampling.temperature),
                Prefixes::Data { .. } => (None, 1.0),
            };
            let logits = written_by.ok_or_else(|| missing("the sampler", "the completions come from the data", objective))?;
            if temperature == 0.0 {
                return Err(missing("the sampler's distribution", "it is greedy", objective));
            }
            Some((logits.detach() / temperature).log_softmax(-1, Kind::Float))
        } else {
            None
        };
        let teacher = teacher_logits.map(|logits| logits.log_softmax(-1, Kind::Float));
        let teacher_logps = teacher.as_ref().map(|teacher| to_vec(&teacher.gather(1, &targets, false)));
        let (student_logps, entropies) = (to_vec(&taken), to_vec(&entropy(&student)));
        Ok(Scores { student, teacher, sampler, taken, student_logps, teacher_logps, entropies })
    }

    /// The live primitives with gradient, `[tokens]` each.
    pub fn live(&self, objective: &Objective) -> Result<Vec<Tensor>> {
        let live = objective.live.iter().map(|primitive| match &primitive.primitive {
            Live::Logp => Ok(self.taken.shallow_clone()),
            Live::Divergence(divergence) => self.divergence(divergence, objective),
            Live::Other { text } => Err(missing(text, "this version can't compute it", objective)),
        });
        live.collect()
    }

    /// Everything that the objective's graph reads, on the host.
    pub fn batch(&self, objective: &Objective, sequences: &Sequences, live: &[Tensor], step: u32, steps: u32) -> Result<Batch> {
        let _guard = no_grad_guard();
        let mut batch =
            Batch { layout: sequences.layout.clone(), live: live.iter().map(to_vec).collect(), step, steps, ..Batch::default() };
        for signal in objective.graph.signals(&objective.outputs()) {
            let per_sequence = |value: fn(&Sequence) -> Option<f32>, what: &str| {
                let values: Option<Vec<f32>> = sequences.list.iter().map(value).collect();
                values.ok_or_else(|| missing(what, "the completions were not judged", objective))
            };
            let values = match &signal {
                Signal::Logp { role: Role::Student } => self.student_logps.clone(),
                Signal::Logp { role: Role::Teacher } => {
                    self.teacher_logps.clone().ok_or_else(|| missing("the teacher", "none is routed", objective))?
                }
                Signal::Logp { role: Role::Sampler } => {
                    let recorded: Option<Vec<&Vec<f32>>> =
                        sequences.list.iter().map(|sequence| sequence.logps.as_ref()).collect();
                    let recorded =
                        recorded.ok_or_else(|| missing("the sampler", "the completions come from the data", objective))?;
                    recorded.into_iter().flatten().copied().collect()
                }
                Signal::Entropy { role: Role::Student } => self.entropies.clone(),
                Signal::Entropy { role } => to_vec(&entropy(self.distribution(*role, objective)?)),
                Signal::Top1 { role } => to_vec(&self.distribution(*role, objective)?.amax([-1], false).exp()),
                Signal::Divergence(divergence) => to_vec(&self.divergence(divergence, objective)?),
                Signal::Truncated => per_sequence(|sequence| Some(f32::from(u8::from(sequence.truncated))), "truncated")?,
                Signal::Reward => per_sequence(|sequence| sequence.reward.map(|reward| reward as f32), "reward")?,
                // These follow from the layout, the step and the rewards.
                Signal::Position | Signal::Length | Signal::Progress | Signal::Step => continue,
                // The trainer draws them.
                Signal::Uniform { .. } => continue,
                Signal::Other { text, .. } => return Err(missing(text, "this version can't compute it", objective)),
                Signal::Correct => {
                    per_sequence(|sequence| sequence.reward.map(|reward| f32::from(u8::from(reward >= 1.0))), "reward")?
                }
            };
            batch.signals.push((signal, values));
        }
        Ok(batch)
    }

    fn distribution(&self, role: Role, objective: &Objective) -> Result<&Tensor> {
        match role {
            Role::Student => Ok(&self.student),
            Role::Teacher => self.teacher.as_ref().ok_or_else(|| missing("the teacher", "none is routed", objective)),
            Role::Sampler => {
                self.sampler.as_ref().ok_or_else(|| missing("the sampler", "the completions come from the data", objective))
            }
        }
    }

    fn divergence(&self, spec: &Divergence, objective: &Objective) -> Result<Tensor> {
        for role in spec.roles() {
            self.distribution(role, objective)?;
        }
        Ok(divergence(spec, |role| self.distribution(role, objective).expect("all roles were checked above").shallow_clone()))
    }
}

/// Whether some number needs the sampler's whole distribution, not only what it recorded.
fn asks_for_sampler(objective: &Objective) -> bool {
    let live = objective
        .live
        .iter()
        .any(|live| matches!(&live.primitive, Live::Divergence(divergence) if divergence.roles().contains(&Role::Sampler)));
    let signals = objective.graph.signals(&objective.outputs());
    live || signals.iter().any(|signal| match signal {
        Signal::Entropy { role } | Signal::Top1 { role } => *role == Role::Sampler,
        Signal::Divergence(divergence) => divergence.roles().contains(&Role::Sampler),
        _ => false,
    })
}

fn missing(what: &str, why: &str, objective: &Objective) -> Error {
    let message = format!("the objective `{}` reads {what}, but {why}", objective.name);
    Error::new(FailureKind::Runtime, message).at(objective.origin)
}
