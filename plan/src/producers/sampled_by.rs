//! `sampled_by("mopd", url: ..., model: ..., push: ..., sample(...))`: the student's rollouts, sampled at
//! every step by a server that has the weights of that step, or with `every` those of an earlier one.

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{
    FieldValue, Fields, ModelId, Producer, ProducerKind, RolloutServer, Sampling, Writer, edit_name, sampling,
};
use crate::Engine;
use crate::refusal::{Converted, Origins, refused};

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

pub(super) fn executable(
    server: &checked::RolloutEngine,
    every: u32,
    of: &checked::Rollout,
    rollout: &checked::Rollout,
    origins: Origins,
) -> Converted<Producer> {
    let (at, inside) = (origins.span(rollout.origin), origins.span(of.origin));
    if let Some(edit) = of.edits.first() {
        return Err(refused(inside, edit_name(edit)));
    }
    let checked::RolloutEngine { engine, url, model, push, key } = server;
    let engine = Engine::named(engine).expect("the checker knows the engines");
    let refuse = |what: &str, help: &str| {
        let refusal = *refused(at, format!("`sampled_by({:?})`{what}", engine.name()));
        Err(Box::new(refusal.help(help.to_owned())))
    };
    let RolloutSource::Sample(drawn) = &of.source else {
        let refusal = *refused(inside, format!("`sampled_by` of the rollout `{}`", of.source.name()));
        return Err(Box::new(refusal.help("a server samples the student's own completions: `sample(...)`")));
    };
    let sampling = sampling(drawn, origins, of.origin)?;
    if engine != Engine::Mopd {
        // Except at these settings, the server's log-probabilities depend on how it was started.
        if !sampling.temperature.is_one() {
            let what = format!(" at temperature {}", sampling.temperature);
            return refuse(&what, "sample at temperature 1, or by `mopd serve`");
        }
        if !sampling.is_plain() {
            let what = " with `top_k`, `top_p` or `repetition_penalty`";
            return refuse(what, "leave them out, or sample by `mopd serve`");
        }
        if !sampling.stop.is_empty() {
            return refuse(" with `stop`", "end completions by `max_tokens`, or sample by `mopd serve`");
        }
    }
    let (url, model, push, key) = (url.clone(), model.clone(), push.clone(), key.clone());
    let server = RolloutServer { engine, url, model, push, key };
    Ok(SampledBy { server, sampling, every }.into())
}
