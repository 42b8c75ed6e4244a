//! The numbers that an objective reads and differentiates, as the engines' plugins have them: those of
//! distributions in the JSON format that `mopd_distributions.py` reads.

use std::cell::RefCell;

use mopd_expr::signals::{DivergenceKind, DivergenceParameter, Live, Mass, PlainSignal, Signal};
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
        if divergence.parameters().any(|parameter| matches!(parameter, DivergenceParameter::Formula(_))) {
            return Err("the exporter supports only constant parameters, temperatures and weights of a \
                        blend in a divergence"
                .to_owned());
        }
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
pub fn live_number(live: &Live, summands: &Summands) -> Result<Value, String> {
    match live {
        Live::Logp => Ok(json!({"live": "logp"})),
        Live::EndLogp => Ok(json!({"live": "end_logp"})),
        Live::Likelihood { of } => Ok(json!({"live": "likelihood", "of": of})),
        Live::Divergence(divergence) => {
            let mut spec = summands.spec(divergence)?;
            spec.insert("live".into(), json!("divergence"));
            Ok(Value::Object(spec))
        }
        Live::Value | Live::ConfidenceLogit => Err("the engines' models have no such head".to_owned()),
        Live::Ranking { role, k } => Ok(json!({"live": "ranking", "role": role, "k": k})),
        Live::Other { .. } => Err("this version can't run it".to_owned()),
    }
}

/// A number that an objective reads, which every plugin computes alike.
pub enum EngineNumber {
    /// The plugin has it by this name.
    Named(&'static str),
    /// It is computed from whole distributions.
    Distribution(Value),
}

/// The number of a signal; nothing if it is the engine that decides whether it has one.
pub fn number(signal: &Signal, summands: &Summands) -> Result<Option<EngineNumber>, String> {
    match signal {
        Signal::Plain(
            plain @ (PlainSignal::Position
            | PlainSignal::Length
            | PlainSignal::Truncated
            | PlainSignal::Reward
            | PlainSignal::Correct
            | PlainSignal::Step
            | PlainSignal::Progress),
        ) => Ok(Some(EngineNumber::Named(plain.name()))),
        Signal::Divergence(divergence) => {
            let mut spec = summands.spec(divergence)?;
            spec.insert("signal".into(), json!("divergence"));
            Ok(Some(EngineNumber::Distribution(Value::Object(spec))))
        }
        _ if signal.is_from_distributions() => match serde_json::to_value(signal) {
            Ok(spec) => Ok(Some(EngineNumber::Distribution(spec))),
            Err(error) => Err(error.to_string()),
        },
        _ => Ok(None),
    }
}

/// The specifications of an objective's numbers of distributions, each once, by the names that they have in
/// its code.
#[derive(Default)]
pub struct DistributionNumbers(RefCell<Vec<(String, Value)>>);

impl DistributionNumbers {
    pub fn name(&self, signal: &Signal, spec: Value) -> String {
        let mut numbers = self.0.borrow_mut();
        if let Some((name, _)) = numbers.iter().find(|(_, other)| *other == spec) {
            return name.clone();
        }
        let name = format!("{} #{}", torch::signal_name(signal), numbers.len());
        numbers.push((name.clone(), spec));
        name
    }

    pub fn json(&self) -> Value {
        Value::Object(self.0.borrow().iter().cloned().collect())
    }
}
