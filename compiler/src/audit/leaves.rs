//! The leaves of a term's graph: signals, live primitives and parameters, for one sample of a toy model.

use mopd_experiment::formula::{Adaptive, Axis, FormulaKind, Live, ModelSignal, PlainSignal, Signal};
use mopd_expr::batch::Layout;

use super::divergence::TokenContext;
use super::dual::Dual;
use super::moments::rung;
use super::refusal::AuditRefusal;
use super::toy_model::ToyModel;
use crate::lower::GraphLeaf;

/// The number of tokens of a real completion that one toy token represents where positions are counted, so
/// that a condition on positions holds for some tokens and not for others. The last token represents the rest
/// of the [`length`].
const STRETCH: usize = 100;

/// The most tokens that the last token of a completion represents.
const LONGEST_END: f64 = 200.0;

/// A token of a sample.
#[derive(Clone, Copy)]
struct TokenPlace {
    token: usize,
    sequence: usize,
    position: usize,
    prefix: usize,
}

/// One sample of all tokens of a toy model.
pub(super) struct ToySample<'a> {
    pub toy: &'a ToyModel,
    /// The tokens of each sequence.
    pub outcome: &'a [Vec<usize>],
    pub layout: Layout,
    places: Vec<TokenPlace>,
    /// Whether `clip`, and `min` and `max` with a bound, are applied.
    pub bounds: bool,
}

impl<'a> ToySample<'a> {
    pub fn new(toy: &'a ToyModel, outcome: &'a [Vec<usize>], bounds: bool) -> ToySample<'a> {
        let size = toy.size;
        let mut places = Vec::with_capacity(size.tokens());
        for (sequence, tokens) in outcome.iter().enumerate() {
            for (position, token) in tokens.iter().enumerate() {
                let prefix = size.prefix(size.prompt(sequence), &tokens[..position]);
                places.push(TokenPlace { token: *token, sequence, position, prefix });
            }
        }
        ToySample { toy, outcome, layout: size.layout(outcome), places, bounds }
    }

    pub fn tokens(&self) -> usize {
        self.places.len()
    }

    /// The prefix of each token.
    pub fn prefixes(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.iter().map(|place| place.prefix)
    }

    /// The probability of this sample.
    pub fn probability(&self) -> f64 {
        self.places.iter().map(|place| self.toy.sampler_logp(place.prefix)[place.token]).sum::<f64>().exp()
    }

    fn context(&self, token: usize) -> TokenContext<'_> {
        let TokenPlace { token, prefix, .. } = self.places[token];
        TokenContext { toy: self.toy, prefix, token: Some(token), bounds: self.bounds }
    }

    /// The leaf's value, one per element of its axis. `parameters` are the values of its formulas, by token.
    pub fn leaf(
        &self,
        leaf: &GraphLeaf,
        parameters: &dyn Fn(usize) -> Vec<f64>,
    ) -> Result<Vec<Dual>, AuditRefusal> {
        let axis = leaf.formula.axis();
        let one = |value: f64| Ok(vec![Dual::plain(value); self.layout.len(axis)]);
        match &leaf.formula.0.kind {
            FormulaKind::Signal(signal) => self.signal(signal, axis, parameters),
            FormulaKind::Live(live) => self.live(live, parameters),
            FormulaKind::Variable(name) => one(self.toy.values.get(name, leaf.formula.unit())),
            FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => {
                one(values.get(rung(values.len(), self.toy.current_step())).copied().unwrap_or(f64::NAN))
            }
            FormulaKind::Adaptive(Adaptive::Learned { .. }) => {
                Err("`learned(...)` is found by the run".into())
            }
            FormulaKind::Entry(_) => Err("a side of a divergence has no value of its own".into()),
            _ => unreachable!("what is computed from other numbers is no leaf"),
        }
    }

    fn live(&self, live: &Live, parameters: &dyn Fn(usize) -> Vec<f64>) -> Result<Vec<Dual>, AuditRefusal> {
        (0..self.tokens())
            .map(|token| {
                let local = self.context(token).live(live, &parameters(token))?;
                Ok(self.embedded(local, self.places[token].prefix))
            })
            .collect()
    }

    /// Embeds a derivative by the logits after one prefix into one by all logits.
    fn embedded(&self, local: Dual, prefix: usize) -> Dual {
        let size = self.toy.size;
        if size.prefixes() == 1 || local.gradient.is_empty() {
            return local;
        }
        let mut gradient = vec![0.0; size.logits()];
        gradient[prefix * size.vocabulary..(prefix + 1) * size.vocabulary].copy_from_slice(&local.gradient);
        Dual { value: local.value, gradient }
    }

    fn signal(
        &self,
        signal: &Signal,
        axis: Axis,
        parameters: &dyn Fn(usize) -> Vec<f64>,
    ) -> Result<Vec<Dual>, AuditRefusal> {
        let elements: Result<Vec<f64>, AuditRefusal> = match axis {
            Axis::Token => (0..self.tokens()).map(|token| self.of_token(signal, parameters, token)).collect(),
            Axis::Sequence | Axis::Turn | Axis::Block => {
                (0..self.toy.size.sequences()).map(|sequence| self.of_sequence(signal, sequence)).collect()
            }
            _ => self.of_run(signal).map(|value| vec![value]),
        };
        Ok(elements?.into_iter().map(Dual::plain).collect())
    }

    fn of_token(
        &self,
        signal: &Signal,
        parameters: &dyn Fn(usize) -> Vec<f64>,
        token: usize,
    ) -> Result<f64, AuditRefusal> {
        let context = self.context(token);
        let TokenPlace { token: taken, sequence, position, prefix } = self.places[token];
        let prompt = self.toy.size.prompt(sequence);
        let truth = |truth: bool| if truth { 1.0 } else { 0.0 };
        let chance = |name: &str, of: &[usize]| self.toy.chance(name, of);
        if let Some(known) = context.signal(signal, &parameters(token)) {
            return known;
        }
        Ok(match signal {
            Signal::Of { role, part: ModelSignal::Value } => {
                chance(&format!("value of {}", role.name()), &[prefix])
            }
            Signal::Of { role, part: ModelSignal::Confidence } => {
                chance(&format!("confidence of {}", role.name()), &[prefix, taken])
            }
            Signal::Of { role, part } => {
                return Err(format!("`{}.{}` can't be enumerated", role.name(), part.name()).into());
            }
            Signal::Plain(PlainSignal::Position) => (position * STRETCH) as f64,
            // Counted from the end of the stretch that the token represents.
            Signal::Plain(PlainSignal::Remaining) => {
                let tokens = &self.outcome[sequence];
                let length = length(self.toy, prompt, tokens);
                let behind = if position + 1 == tokens.len() { length } else { (position + 1) * STRETCH };
                (length - behind) as f64
            }
            Signal::Plain(PlainSignal::Offset) => position as f64 + 1.0,
            // Two heads take turns.
            Signal::Plain(PlainSignal::Head) => (position % 2) as f64,
            // The whole completion is one turn of a conversation, which may have others.
            Signal::Plain(PlainSignal::Turn) => (3.0 * chance("turn", &[prompt])).floor(),
            Signal::Plain(PlainSignal::TurnReward) => reward(self.toy, prompt, &self.outcome[sequence]),
            Signal::Plain(PlainSignal::Block) => (3.0 * chance("block", &[prompt])).floor(),
            Signal::Plain(PlainSignal::Accepted) => truth(chance("accepted", &[prefix, taken]) > 0.4),
            Signal::InSpan(span) => truth(chance(span.name(), &[prefix]) > 0.5),
            _ => return Err("it is no number of a token in a toy model".into()),
        })
    }

    fn of_sequence(&self, signal: &Signal, sequence: usize) -> Result<f64, AuditRefusal> {
        let size = self.toy.size;
        let prompt = size.prompt(sequence);
        let tokens = self.outcome[sequence].as_slice();
        let text: Vec<usize> = std::iter::once(prompt).chain(tokens.iter().copied()).collect();
        let truth = |truth: bool| if truth { 1.0 } else { 0.0 };
        let chance = |name: &str, of: &[usize]| self.toy.chance(name, of);
        Ok(match signal {
            Signal::Plain(PlainSignal::Reward) => reward(self.toy, prompt, tokens),
            Signal::Plain(PlainSignal::Correct) => truth(reward(self.toy, prompt, tokens) >= 1.0),
            Signal::Data { field } => chance(field, &[prompt]),
            Signal::DataIs { field, text } => truth(chance(&format!("{field} {text}"), &[prompt]) > 0.5),
            Signal::Available { role } => {
                truth(chance(&format!("available {}", role.name()), &[prompt]) > 0.25)
            }
            Signal::Plain(PlainSignal::Length) => length(self.toy, prompt, tokens) as f64,
            Signal::Plain(PlainSignal::Truncated) if size.ends => {
                truth(tokens.last() != Some(&(size.vocabulary - 1)))
            }
            Signal::Plain(PlainSignal::Truncated) => truth(chance("truncated", &text) > 0.7),
            Signal::Of { role, part: ModelSignal::Correct } => {
                truth(chance(&format!("correct {}", role.name()), &text) > 0.5)
            }
            Signal::Of { role, part: ModelSignal::StatedConfidence } => {
                chance(&format!("confidence of {}", role.name()), &[prompt]) * 100.0
            }
            Signal::Agreement { samples, .. } => {
                judged(self.toy, signal, prompt, tokens).unwrap_or_default() * f64::from(*samples)
            }
            signal if judgement(signal).is_some() => {
                judged(self.toy, signal, prompt, tokens).unwrap_or_default()
            }
            _ => return Err("it is no number of a completion in a toy model".into()),
        })
    }

    fn of_run(&self, signal: &Signal) -> Result<f64, AuditRefusal> {
        let now = self.toy.current_step();
        Ok(match signal {
            Signal::Plain(PlainSignal::Progress) => now.progress(),
            Signal::Plain(PlainSignal::Step) => f64::from(now.step),
            Signal::Plain(PlainSignal::VocabularySize) => self.toy.vocabulary_size(),
            Signal::Plain(PlainSignal::Loss) => 0.5 + self.toy.chance("loss", &[]),
            Signal::ValidationLoss => 0.5 + self.toy.chance("loss.validation", &[]),
            Signal::State { name, first, .. } => self.toy.state(name, *first),
            // Each domain is audited on its own; only the parameters of a divergence keep their comparisons.
            Signal::DomainIs { .. } => {
                return Err("a parameter of a divergence compares the domains of prompts".into());
            }
            Signal::TermLoss { term } => 0.5 + self.toy.chance(term, &[]),
            _ => return Err("it is no number of the run in a toy model".into()),
        })
    }
}

/// The reward of a completion: 1, 0.4 or 0; each occurs.
pub(super) fn reward(toy: &ToyModel, prompt: usize, tokens: &[usize]) -> f64 {
    let context: usize = tokens.iter().enumerate().map(|(position, token)| token * (position + 1)).sum();
    [1.0, 0.0, 0.4][(context + prompt + toy.seed as usize) % 3]
}

/// The number of tokens of a completion, which is an arbitrary function of the completion, like the reward.
/// The last toy token may represent a few tokens, or as many as the stage allows.
pub(super) fn length(toy: &ToyModel, prompt: usize, tokens: &[usize]) -> usize {
    let text: Vec<usize> = std::iter::once(prompt).chain(tokens.iter().copied()).collect();
    (tokens.len() - 1) * STRETCH + LONGEST_END.min(toy.longest).powf(toy.chance("length", &text)) as usize
}

/// The name of a number that judges a whole completion, if the signal is one.
pub(super) fn judgement(signal: &Signal) -> Option<String> {
    match signal {
        Signal::RewardPart { .. }
        | Signal::SpanScore { .. }
        | Signal::Agreement { .. }
        | Signal::Of { part: ModelSignal::Score, .. } => Some(mopd_experiment::formula::text::signal(signal)),
        _ => None,
    }
}

/// The value of such a number for a completion, in (0, 1).
pub(super) fn judged(toy: &ToyModel, signal: &Signal, prompt: usize, tokens: &[usize]) -> Option<f64> {
    let text: Vec<usize> = std::iter::once(prompt).chain(tokens.iter().copied()).collect();
    judgement(signal).map(|name| toy.chance(&name, &text))
}
