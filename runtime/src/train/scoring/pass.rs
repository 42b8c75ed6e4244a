//! The student's forward pass, and one pass over the vocabulary that reads signals and live primitives.

use std::cell::RefCell;
use std::rc::Rc;

use mopd_expr::batch::Batch;
use mopd_plan::{
    Live, LivePrimitive, ModelSignal, Objective, PlainSignal, Role, Signal, StageStep, producers,
};
use tch::{Tensor, no_grad_guard};

use super::context::Scoring;
use super::data_signals::given;
use crate::failure::Result;
use crate::machine::transfer::{to_vec, upload};
use crate::model::{CERTAIN, SavedActivations, ScoringDecoder, SecondPass};
use crate::train::objective::{failed, failed_at, missing};
use crate::train::rollouts::Rollouts;
use crate::train::sequences::Sequences;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{LmHead, Logits, Parameters, Primitive, Quantity, Spans, Vocabulary};
use crate::zip::zip_equal;

/// The student's forward pass, from which the gradient is computed.
pub struct ScoringPass {
    /// The student's last hidden states, `[tokens, width]`, without gradient.
    pub(super) hidden: Tensor,
    /// The pass of the second head, where it computed some of the hidden states.
    pub(super) second: Option<Rc<SecondPass>>,
    /// The activations of the layers, if there is one micro-batch.
    pub(super) trace: Option<SavedActivations>,
    pub(super) micro_batches: Vec<Vec<usize>>,
    pub vocabulary: Vocabulary,
    /// The number of tokens of the student's tokenizer.
    tokens: usize,
    /// For each live divergence that counts whole spans, per token: d divergence / d log of the student's
    /// probability of the rest of the span.
    pub(super) by_rest: RefCell<Vec<Vec<f32>>>,
}

impl ScoringPass {
    pub fn new(
        scoring: &Scoring,
        rollouts: &Rollouts,
        mut others: Vec<(Role, Vec<Logits>)>,
        spans: Vec<Spans>,
    ) -> Result<ScoringPass> {
        let Scoring { stage, model, .. } = *scoring;
        let sequences = &rollouts.sequences;
        let own = &ScorerPrompts::Own;
        let micro_batches = stage.packing().micro_batches(sequences, 0..sequences.list.len(), own);
        let trace = match micro_batches.as_slice() {
            [all] => {
                Some(rollouts.trace(model, &stage.packing().packed(sequences, all, own), stage.recomputed))
            }
            _ => None,
        };
        let of_layers = match &trace {
            Some(trace) => trace.hidden.shallow_clone(),
            None => stage.packing().hidden(ScoringDecoder::Held(model), sequences, &micro_batches, own),
        };
        let targets = upload(&sequences.targets(), stage.place.device);
        let second = model.second_pass(&of_layers, &targets, &sequences.second_tokens()).map(Rc::new);
        let _guard = no_grad_guard();
        let hidden =
            second.as_ref().map_or_else(|| of_layers.shallow_clone(), |pass| pass.hidden(&of_layers));
        let of_student = |hidden: &Tensor| Logits::Projected {
            hidden: hidden.detach(),
            lm_head: LmHead::Held(scoring.models.compared(model)),
            softcap: model.config.logit_softcap,
            scalar_head: model.scalar_head().map(Tensor::detach),
        };
        let mut sampler = sampler(scoring, rollouts.drawn)?;
        if let Some((Role::Student, temperature)) = sampler
            && stage.train.options.passes > 1
        {
            // The student equals the policy that sampled only in the first pass.
            let mut policy = rollouts.policy.borrow_mut();
            let policy = policy.get_or_insert_with(|| {
                let lm_head = LmHead::Held(scoring.models.compared(model).copy());
                Logits::Projected {
                    hidden: hidden.detach().copy(),
                    lm_head,
                    softcap: model.config.logit_softcap,
                    scalar_head: None,
                }
            });
            others.push((Role::Sampler, vec![policy.share()]));
            sampler = Some((Role::Sampler, temperature));
        }
        let mut vocabulary = Vocabulary::new(
            stage.place,
            &targets,
            of_student(&hidden),
            others,
            sampler,
            model.tokenizer.ends(),
        )
        .without(model.tokenizer.absent())
        .at(stage.train.objective.temperature.at(rollouts.drawn));
        vocabulary.spans = spans;
        let (tokens, by_rest) = (model.tokenizer.tokens(), RefCell::default());
        Ok(ScoringPass { hidden, second, trace, micro_batches, vocabulary, tokens, by_rest })
    }

    /// The same pass without the saved activations: its gradient recomputes the student's layers.
    pub fn without_activations(&self) -> ScoringPass {
        ScoringPass {
            hidden: self.hidden.shallow_clone(),
            second: self.second.clone(),
            trace: None,
            micro_batches: self.micro_batches.clone(),
            vocabulary: self.vocabulary.share(),
            tokens: self.tokens,
            by_rest: self.by_rest.clone(),
        }
    }

    /// Adds signals that the batch does not have yet, and values of primitives, with at most one pass over
    /// the vocabulary. Numbers of `old` that it does not have are the student's: this is then the first
    /// update from the rollouts.
    pub fn read(
        &self,
        signals: &[Signal],
        live: &[LivePrimitive],
        objective: &Objective,
        sequences: &Sequences,
        batch: &mut Batch,
    ) -> Result<()> {
        let mut first: Vec<(&Signal, Signal)> = Vec::new();
        for signal in signals.iter().filter(|signal| batch.signal(signal).is_none()) {
            if let Some(now) = signal.of_student_now()
                && first.iter().all(|(known, _)| *known != signal)
            {
                first.push((signal, now));
            }
        }
        let mut asked: Vec<&Signal> = Vec::new();
        let now = first.iter().map(|(_, now)| now);
        for signal in signals.iter().filter(|signal| signal.of_student_now().is_none()).chain(now) {
            if batch.signal(signal).is_some() || asked.contains(&signal) {
                continue;
            }
            let given = match signal {
                Signal::Plain(PlainSignal::VocabularySize) => Some(vec![self.tokens as f32]),
                Signal::Of { role, part: ModelSignal::Value } => Some(self.scalars(*role, objective)?),
                Signal::Confidence => Some(self.confidence()),
                _ => given(signal, objective, sequences)?,
            };
            match given {
                Some(values) => batch.signals.push((signal.clone(), values)),
                None => asked.push(signal),
            }
        }
        let parameters = Parameters { batch, device: self.hidden.device() };
        let (mut quantities, mut computed) = (Vec::new(), Vec::new());
        for signal in asked {
            // A signal without a quantity follows from the layout and the step.
            if let Some(quantity) = parameters.quantity(signal).map_err(|error| failed(error, objective))? {
                quantities.push(quantity);
                computed.push(signal.clone());
            }
        }
        let resolved = live.iter().map(|live| (live.origin, parameters.primitive(&live.primitive)));
        let resolved = resolved.map(|(at, found)| found.map_err(|error| failed_at(error, objective, at)));
        let resolved: Vec<Option<Primitive>> = resolved.collect::<Result<_>>()?;
        let of_vocabulary: Vec<bool> = resolved.iter().map(Option::is_some).collect();
        let mut primitives: Vec<Primitive> = resolved.into_iter().flatten().collect();
        let of_spans = if live.is_empty() { Vec::new() } else { self.of_spans(objective) };
        for (_, divergence, _) in &of_spans {
            let divergence = parameters.divergence(divergence).map_err(|error| failed(error, objective))?;
            quantities.push(Quantity::ByRest(divergence));
        }
        if !of_spans.is_empty() {
            // The probability of the rest of a span has a gradient too.
            primitives.extend(self.rest_primitive(objective)?);
        }
        let asked = computed.len();
        let [of_signals, of_live] = match quantities.is_empty() && primitives.is_empty() {
            true => [Vec::new(), Vec::new()],
            false => self.vocabulary.read(&quantities, &primitives),
        };
        batch.signals.extend(zip_equal(computed, of_signals[..asked].iter().map(to_vec)));
        let mut of_live = of_live.iter();
        for (of_vocabulary, live) in zip_equal(of_vocabulary, live) {
            let values = match live.primitive {
                _ if of_vocabulary => to_vec(of_live.next().expect("one for each primitive")),
                Live::ConfidenceLogit => self.confidence_logits(),
                _ => self.scalars(Role::Student, objective)?,
            };
            batch.live.push(values);
        }
        if !of_spans.is_empty() {
            *self.by_rest.borrow_mut() = of_signals[asked..].iter().map(to_vec).collect();
        }
        for (signal, now) in first {
            let values = batch.signal(&now).expect("it was just read").to_vec();
            batch.signals.push((signal.clone(), values));
        }
        Ok(())
    }

    /// The log-odds that each token is accepted.
    fn confidence_logits(&self) -> Vec<f32> {
        let (tokens, certain) = (self.hidden.size()[0], |tokens: i64| vec![CERTAIN; tokens as usize]);
        self.second.as_ref().map_or_else(|| certain(tokens), |pass| to_vec(&pass.logits(tokens)))
    }

    /// The probability that each token is accepted: 1 for tokens of the first head.
    fn confidence(&self) -> Vec<f32> {
        let sigmoid = |odds: f32| (1.0 / (1.0 + f64::from(-odds).exp())) as f32;
        self.confidence_logits().into_iter().map(sigmoid).collect()
    }

    /// The output of a role's scalar head at each token.
    fn scalars(&self, role: Role, objective: &Objective) -> Result<Vec<f32>> {
        let head = format!("the scalar head of the {}", role.name());
        let values = self.vocabulary.scalars(role);
        Ok(to_vec(&values.ok_or_else(|| missing(&head, "it is a model without one", objective))?))
    }
}

/// The role whose logits the completions were drawn from, and the temperature; `None` where the objective
/// reads no more than the recorded log-probabilities.
fn sampler(scoring: &Scoring, drawn: StageStep) -> Result<Option<(Role, f64)>> {
    let train = &scoring.stage.train;
    let known = producers::sampler(&train.objective, &train.rollout);
    let known = known.map(|found| found.map(|(role, temperature)| (role, temperature.at(drawn))));
    known.map_err(|why| missing("the sampler's distribution", why, &train.objective))
}
