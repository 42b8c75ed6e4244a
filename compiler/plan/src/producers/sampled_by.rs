//! `sampled_by("mopd", url: ..., model: ..., push: ..., sample(...))`: the student's rollouts, sampled at
//! every step by a server that has the weights of that step, or with `every` those of an earlier one.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, RolloutServer, Sampling, Writer};
use crate::Engine;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SampledBy {
    pub server: RolloutServer,
    pub sampling: Sampling,
    /// The age in steps at which the server's weights are replaced.
    #[serde(default = "each_step")]
    pub every: u32,
}

fn each_step() -> u32 {
    1
}

impl SampledBy {
    fn with_server(&self, name: &'static str, server: FieldValue, groups: Option<u32>) -> Fields {
        let fields = Fields::new("sampled_by").with(name, server);
        let fields = match self.every {
            1 => fields,
            every => fields.with("every", FieldValue::Count(every)),
        };
        fields.with_groups("prompts", groups).with("sampling", FieldValue::Sampling(self.sampling.clone()))
    }
}

impl ProducerKind for SampledBy {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.with_server("server", FieldValue::Server(self.server.clone()), groups)
    }

    /// The fields without the server's address and model name, which change no result.
    fn key(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.with_server("engine", FieldValue::Text(self.server.engine.name().to_owned()), groups)
    }

    fn group(&self) -> u32 {
        self.sampling.n
    }

    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        Some((Writer::Student, &self.sampling))
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        Some(&mut self.sampling)
    }

    /// The student, if the server has the weights of the step and is `mopd serve`, which computes alike.
    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        match self.server.engine {
            _ if self.every > 1 => Err("a server sampled some of them with weights of earlier steps"),
            Engine::Mopd => Ok((Writer::Student, &self.sampling)),
            Engine::Vllm | Engine::Sglang => Err("a server sampled them by arithmetic of its own"),
        }
    }

    /// Zero, because no model of this process samples.
    fn parameters(&self, _: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(0.0)
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}
