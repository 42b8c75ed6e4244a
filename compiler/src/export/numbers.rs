//! Numbers of distributions in the JSON format that `mopd_distributions.py` reads.

use std::cell::RefCell;

use mopd_expr::roles::Role;
use mopd_expr::signals::{DivergenceKind, DivergenceParameter, Live, Mass};
use mopd_plan::Divergence;
use serde_json::{Map, Value, json};

use super::torch;

/// The Python module that computes them.
pub const DISTRIBUTIONS: &str = include_str!("python/mopd_distributions.py");

/// The code of the entrywise divergences, one function each.
#[derive(Default)]
pub struct Summands(pub RefCell<Vec<String>>);

impl Summands {
    /// A divergence in the JSON format that `mopd_distributions.py` reads.
    pub fn spec(&self, divergence: &Divergence) -> Result<Map<String, Value>, String> {
        let Divergence { kind, left, right, support, mass, temperature, clip_each } = divergence;
        let mut spec = Map::new();
        match kind {
            DivergenceKind::Kl => {
                spec.insert("divergence".into(), json!("kl"));
            }
            DivergenceKind::SortedL1 => {
                return Err("the exporter does not support divergences of sorted probabilities".to_owned());
            }
            DivergenceKind::Entrywise(summand) => {
                if *mass == Mass::Generalized {
                    return Err("the exporter supports `mass: generalized` for `kl` only".to_owned());
                }
                let live = ["p", "q", "p_detached", "q_detached"];
                let number = self.0.borrow().len();
                let code = |name: &str| torch::elementwise(name, &summand.graph, summand.value, &live);
                let name = format!("summand{number}");
                self.0.borrow_mut().push(code(&name));
                spec.insert("divergence".into(), json!("entrywise"));
                spec.insert("summand".into(), json!(number));
            }
        }
        if divergence.parameters().any(|parameter| matches!(parameter, DivergenceParameter::Formula(_))) {
            return Err("the exporter supports only constant weights of a blend".to_owned());
        }
        let json = |value: serde_json::Result<Value>| value.map_err(|error| error.to_string());
        spec.insert("left".into(), json(serde_json::to_value(left))?);
        spec.insert("right".into(), json(serde_json::to_value(right))?);
        spec.insert("support".into(), json(serde_json::to_value(support))?);
        spec.insert("mass".into(), json(serde_json::to_value(mass))?);
        spec.insert("temperature".into(), json!(temperature));
        spec.insert("clip_each".into(), json!(clip_each));
        Ok(spec)
    }
}

/// A live primitive in the JSON format that `mopd_distributions.py` reads.
pub fn live_spec(live: &Live, summands: &Summands) -> Result<Value, String> {
    match live {
        Live::Logp => Ok(json!({"live": "logp"})),
        Live::EndLogp => Ok(json!({"live": "end_logp"})),
        Live::Likelihood { of } => Ok(json!({"live": "likelihood", "of": of})),
        Live::Divergence(divergence) => {
            let mut spec = summands.spec(divergence)?;
            known_roles(&divergence.roles())?;
            spec.insert("live".into(), json!("divergence"));
            Ok(Value::Object(spec))
        }
        Live::Value | Live::ConfidenceLogit => Err("TRL's models have no such head".to_owned()),
        Live::Ranking { .. } => Err("the exporter does not support it".to_owned()),
        Live::Other { .. } => Err("this version can't run it".to_owned()),
    }
}

/// Refuses roles that the engines do not have.
pub fn known_roles(roles: &[Role]) -> Result<(), String> {
    let known = |role: &Role| {
        matches!(*role, Role::Student | Role::Old | Role::Sampler | Role::TEACHER | Role::REFERENCE)
    };
    if roles.iter().all(known) {
        Ok(())
    } else {
        Err("in the engines, each prompt has one teacher".to_owned())
    }
}
