//! The sampler: the model whose next-token distribution the completions were sampled from.

use super::{Producer, Rollout, Writer};
use crate::{ModelSignal, Objective, Role, Signal, Temperature};

/// The model that sampled the completions, and its temperature. `None` where the objective needs only
/// recorded log-probabilities. An error with the reason if it needs the distribution and there is none.
pub fn sampler(
    objective: &Objective,
    rollout: &Rollout,
) -> Result<Option<(Role, Temperature)>, &'static str> {
    let live = objective.live.iter().any(|live| live.primitive.roles().contains(&Role::Sampler));
    let asked = |signal: &Signal| {
        *signal != Signal::Of { role: Role::Sampler, part: ModelSignal::Logp }
            && signal.roles().contains(&Role::Sampler)
    };
    if !live && !objective.graph.signals(&objective.outputs()).iter().any(asked) {
        return Ok(None);
    }
    let (writer, sampling) = rollout.producer.kind().policy()?;
    let writer = match writer {
        Writer::Student => Role::Student,
        Writer::Scorer(role) | Writer::Editor { editor: role, .. } => role,
        Writer::Model(_) => return Err("a model of its own wrote the completions"),
        Writer::Guide(_) => unreachable!("it has no policy of its own"),
    };
    if sampling.is_greedy() {
        return Err("sampling is greedy");
    }
    if !sampling.is_plain() {
        return Err("tokens are drawn with `top_k`, `top_p` or `repetition_penalty`");
    }
    Ok(Some((writer, sampling.temperature.clone())))
}

impl Producer {
    /// Whether one writer samples the completions of each prompt at the step, independently of all others.
    pub fn samples_at_each_step(&self) -> bool {
        matches!(self, Producer::Student(_) | Producer::Teacher(_)) && self.once().is_none()
    }
}
