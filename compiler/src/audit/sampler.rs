//! The samplers of the tokens that a term is trained on, as far as the audit depends on them.

use mopd_experiment::formula::Role;
use mopd_experiment::formula::text;
use mopd_experiment::{Edit, Rollout, Sampling, Schedule, StageStep, Temperature, TokensOf};

use super::toy_model::{ToyModel, normalised, scores};

/// A way in which tokens are sampled.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampler {
    /// From the student of this step.
    Student {
        temperature: Temperature,
        top_p: Option<f64>,
        top_k: Option<u32>,
    },
    By {
        role: Role,
        temperature: Temperature,
    },
    /// From a mixture: this share of `teacher`, and the rest of the student, both at the temperature.
    Mixture {
        teacher: f64,
        temperature: Temperature,
    },
    /// From a distribution that does not depend on the models: data, or an earlier student.
    Elsewhere {
        name: &'static str,
    },
    /// Unknown: the verdict must hold for every sampler.
    Unknown {
        why: String,
    },
}

impl Sampler {
    /// The usual sampler for a library's objective.
    pub const ON_POLICY: Sampler =
        Sampler::Student { temperature: Temperature::Constant(1.0), top_p: None, top_k: None };

    /// Whether a step's tokens are sampled from the student's full distribution, at the temperature at which
    /// the objective scores them.
    pub fn is_on_policy(&self, scored_at: f64, step: StageStep) -> bool {
        match self {
            Sampler::Student { temperature, top_p, top_k } => {
                temperature.at(step) == scored_at && top_p.is_none_or(|p| p >= 1.0) && top_k.is_none()
            }
            _ => false,
        }
    }

    /// The temperature of the policy trained on such tokens, if the objective does not set it. See
    /// [`mopd_experiment::Rollout::policy_temperature`].
    pub fn policy_temperature(&self) -> Temperature {
        match self {
            Sampler::Student { temperature, .. } if *temperature != Temperature::Constant(0.0) => {
                temperature.clone()
            }
            _ => Temperature::Constant(1.0),
        }
    }

    /// Whether the student draws some of the tokens, so that it has changed in later updates from them.
    pub(super) fn is_of_student(&self) -> bool {
        matches!(self, Sampler::Student { .. } | Sampler::Mixture { .. })
    }

    /// The schedule of its temperature, if that changes.
    pub(super) fn schedule(&self) -> Option<&Schedule> {
        match self {
            Sampler::Student { temperature, .. }
            | Sampler::By { temperature, .. }
            | Sampler::Mixture { temperature, .. } => temperature.schedule(),
            Sampler::Elsewhere { .. } | Sampler::Unknown { .. } => None,
        }
    }

    /// The samplers of all tokens of a rollout.
    pub fn from_rollout(rollout: &Rollout) -> Vec<Sampler> {
        let mut found = Vec::new();
        collect(rollout, &mut found);
        found
    }

    /// The sampler as text: `on tokens that ...`.
    pub fn text(&self) -> String {
        match self {
            Sampler::Student { temperature, top_p, top_k } => {
                let mut text = "tokens that the student drew".to_owned();
                if !temperature.is_one() {
                    text += &format!(" at temperature {temperature}");
                }
                if let Some(p) = top_p.filter(|p| *p < 1.0) {
                    text += &format!(", top_p {}", text::number(p));
                }
                if let Some(k) = top_k {
                    text += &format!(", top_k {k}");
                }
                text
            }
            Sampler::By { role, temperature } if temperature.is_one() => {
                format!("tokens that {} drew", role.name())
            }
            Sampler::By { role, temperature } => {
                format!("tokens that {} drew at temperature {temperature}", role.name())
            }
            Sampler::Mixture { teacher, temperature } => {
                let mut text = format!(
                    "tokens drawn from {} of the teacher and the rest of the student",
                    text::number(*teacher)
                );
                if !temperature.is_one() {
                    text += &format!(" at temperature {temperature}");
                }
                text
            }
            Sampler::Elsewhere { name } => format!("tokens of {name}"),
            Sampler::Unknown { why } => format!("tokens of an unknown distribution ({why})"),
        }
    }

    /// The sampler's log-probabilities after a prefix.
    pub(super) fn after(&self, toy: &ToyModel, prefix: usize) -> Vec<f64> {
        let own = |role: &Role| toy.logp(role, prefix).map(<[f64]>::to_vec);
        let student = || toy.old_logp(prefix).expect("every toy model has a student").to_vec();
        let elsewhere = |name: &str| scores(toy, name, prefix, toy.size.vocabulary, 0.9);
        match self {
            Sampler::Student { temperature, top_p: None, top_k: None } if temperature.is_one() => student(),
            Sampler::Student { temperature, top_p, top_k } => {
                let mut logits = at(&student(), temperature.at(toy.step));
                let mut order: Vec<usize> = (0..logits.len()).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
                let mut held = 0.0;
                for (place, entry) in order.into_iter().enumerate() {
                    let beyond_p = top_p.is_some_and(|p| held >= p);
                    held += logits[entry].exp();
                    if beyond_p || top_k.is_some_and(|k| place >= toy.entries(k)) {
                        logits[entry] = f64::NEG_INFINITY;
                    }
                }
                normalised(&logits)
            }
            Sampler::By { role, temperature } => {
                own(role).map_or_else(|| elsewhere(role.name()), |logp| at(&logp, temperature.at(toy.step)))
            }
            Sampler::Mixture { teacher, temperature } => {
                let theirs = own(&Role::Teacher).unwrap_or_else(|| elsewhere("teacher"));
                let temperature = temperature.at(toy.step);
                let theirs = at(&theirs, temperature);
                let mix = |(theirs, ours): (&f64, &f64)| {
                    (teacher * theirs.exp() + (1.0 - teacher) * ours.exp()).ln()
                };
                theirs.iter().zip(&at(&student(), temperature)).map(mix).collect()
            }
            Sampler::Elsewhere { name } => elsewhere(name),
            Sampler::Unknown { .. } => elsewhere("sampler"),
        }
    }
}

/// Log-probabilities at a temperature; at 0 only the most probable entry.
pub(super) fn at(logp: &[f64], temperature: f64) -> Vec<f64> {
    if temperature > 0.0 {
        return normalised(&logp.iter().map(|logit| logit / temperature).collect::<Vec<f64>>());
    }
    let best = (0..logp.len()).max_by(|a, b| logp[*a].total_cmp(&logp[*b]).then(b.cmp(a)));
    (0..logp.len()).map(|entry| if Some(entry) == best { 0.0 } else { f64::NEG_INFINITY }).collect()
}

fn collect(rollout: &Rollout, found: &mut Vec<Sampler>) {
    let unknown = |why: String| Sampler::Unknown { why };
    let changed =
        rollout.edits.iter().find(|edit| !matches!(edit, Edit::FirstTurns { .. } | Edit::ExpertTurns { .. }));
    let mut give = |sampler: Sampler| {
        if !found.contains(&sampler) {
            found.push(sampler);
        }
    };
    if let Some(edit) = changed {
        give(unknown(format!("`{}` changes what was drawn", edit.name())));
        return;
    }
    let facts = rollout.source.facts();
    match facts.tokens {
        TokensOf::Student(sampling) => give(student(sampling)),
        TokensOf::By(role, sampling) => {
            give(Sampler::By { role: role.clone(), temperature: sampling.temperature() });
        }
        TokensOf::Data | TokensOf::Open => give(Sampler::Elsewhere { name: "data" }),
        TokensOf::OfModel => give(Sampler::Elsewhere { name: "an earlier model" }),
        TokensOf::Mixture(share) => match share.constant() {
            Some(teacher) => {
                let drawn = rollout.sampling().map(Sampling::temperature);
                let temperature = drawn.unwrap_or(Temperature::Constant(1.0));
                give(Sampler::Mixture { teacher, temperature });
            }
            None => give(unknown("a share that moves is the teacher's".into())),
        },
        TokensOf::Earlier | TokensOf::Inside => {
            if let TokensOf::Earlier = facts.tokens {
                give(Sampler::Elsewhere { name: "earlier students" });
            }
            facts.inner.into_iter().for_each(|inner| collect(inner, found));
        }
        TokensOf::Changed(_) => give(unknown(format!("`{}` writes some of them", facts.name))),
    }
}

fn student(sampling: &Sampling) -> Sampler {
    if sampling.repetition_penalty.is_some() {
        return Sampler::Unknown {
            why: "a repetition penalty depends on all that was written before".into(),
        };
    }
    if sampling.heads.is_some() {
        return Sampler::Unknown { why: "several heads write tokens at once".into() };
    }
    let top_p = sampling.top_p.filter(|p| *p < 1.0);
    Sampler::Student { temperature: sampling.temperature(), top_p, top_k: sampling.top_k }
}
