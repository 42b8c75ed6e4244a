//! The scores of every role at the completion tokens: the signals and live primitives of the objective.
//!
//! The last hidden states of every role are computed first, in micro-batches where the stage has them, and
//! concatenated: from then on the step is one batch, and no number depends on how the sequences were divided.
//! With several micro-batches, the backward pass recomputes the student's hidden states for each of them.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use mopd_expr::batch::Batch;
use mopd_expr::values::EvaluationError;
use mopd_plan::events::FailureKind;
use mopd_plan::{Live, LivePrimitive, Objective, Origin, Role, Signal, producers};
use tch::{Device, Tensor, no_grad_guard};

use super::batches::no_teacher;
use super::cached_scores::CachedScorer;
use super::compose::compose;
use super::data_signals::{given, missing, of_data};
use super::models::{FrozenDecoder, ModelScorer, ScorerRef};
use super::part::{Rollouts, Scoring};
use super::sequences::Sequences;
use super::spans::rest_of;
use super::views::{ScorerPrompts, available};
use super::vocabulary::{LmHead, Logits, MappedLogits, Parameters, Primitive, Quantity, Spans, Vocabulary};
use super::{Source, Stage, panels, remote_scores};
use crate::failure::{Error, Result};
use crate::machine::transfer::to_vec;
use crate::machine::transfer::upload;
use crate::model::{CERTAIN, SavedActivations, ScoringDecoder, SecondPass};
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

/// The signals that diagnostics read at every step, besides those of the objective.
pub const STUDENT_LOGP: Signal = Signal::Logp { role: Role::Student };
pub const TEACHER_LOGP: Signal = Signal::Logp { role: Role::TEACHER };
pub const STUDENT_ENTROPY: Signal = Signal::Entropy { role: Role::Student };

/// Computes everything that the objective's graph and the diagnostics read at this step.
pub fn score(scoring: &Scoring, rollouts: &Rollouts, step: u32) -> Result<(Batch, ScoringPass)> {
    let objective = &scoring.stage.train.objective;
    let sequences = &rollouts.sequences;
    // The other models first, so that their weights are freed before the student's activations are computed.
    let (mut others, mut spans) = (Vec::new(), Vec::new());
    for (index, role) in scoring.roles.iter().copied().enumerate() {
        let known =
            rollouts.known.borrow().iter().find(|(of, _)| *of == role).map(|(_, logits)| shared(logits));
        let last = index + 1 == scoring.roles.len();
        let logits = match known {
            Some(known) => known,
            None => {
                let (logits, of_role) = logits_of(scoring, role, rollouts, step, last)?;
                spans.extend(of_role);
                logits
            }
        };
        others.push((role, logits));
    }
    scoring.models.release();

    let recorded = scoring.recorded.signals(scoring, sequences)?;
    let mut forward = ScoringPass::new(scoring, rollouts, others, spans)?;
    let layout = sequences.layout.clone();
    let mut signals = of_data(scoring.stage, sequences)?;
    signals.extend(recorded);
    signals.extend(scoring.losses.signals());
    signals.extend(scoring.tags.iter().flat_map(|tags| tags.signals(scoring.stage, sequences)));
    for signal in objective.signals().into_iter().chain(scoring.stage.train.scorers.signals()) {
        if signals.iter().any(|(known, _)| *known == signal) {
            continue;
        }
        if let Some(values) = panels::signal(scoring.stage, &signal, sequences) {
            signals.push((signal, values));
        } else if let Signal::Available { role } = signal {
            signals.push((signal, availability(scoring, role, sequences)?));
        }
    }
    let mut batch = Batch { layout, signals, step, steps: scoring.stage.steps, ..Batch::default() };
    compose(scoring, sequences, &mut forward, &mut batch)?;
    forward.read_rest(objective)?;
    let mut wanted = objective.graph.signals(&objective.outputs());
    // Parameters of divergences read these signals, so they are computed first.
    forward.read(&objective.signals_inside(), &[], objective, sequences, &mut batch)?;
    wanted.extend([STUDENT_LOGP, STUDENT_ENTROPY]);
    if scoring.roles.contains(&Role::TEACHER) && !scoring.models.own_tokens(Role::TEACHER) {
        wanted.push(TEACHER_LOGP);
    }
    forward.read(&wanted, &objective.live, objective, sequences, &mut batch)?;
    Ok((batch, forward))
}

/// 1 for each sequence for which a role has everything that it reads, otherwise 0: `[sequences]`.
fn availability(scoring: &Scoring, role: Role, sequences: &Sequences) -> Result<Vec<f32>> {
    let mut values = vec![0.0; sequences.list.len()];
    for run in runs(scoring, role, sequences)? {
        let view = run.scored.and_then(|scored| scoring.models.sees(scored));
        for member in run.members.filter(|_| run.scored.is_some()) {
            values[member] = f32::from(u8::from(available(view, sequences, member)?));
        }
    }
    Ok(values)
}

/// The logits of a role at every completion token, by the model that has the role for the prompt, in batch
/// order. With another tokenizer, also the spans: where its tokens and the student's begin together.
/// Logits that do not change while the student learns are kept for the next pass over the same rollouts.
/// `last`: this is the last role to be scored.
fn logits_of(
    scoring: &Scoring,
    role: Role,
    rollouts: &Rollouts,
    step: u32,
    last: bool,
) -> Result<(Vec<Logits>, Option<Spans>)> {
    let _guard = no_grad_guard();
    let Scoring { stage, models, .. } = *scoring;
    let sequences = &rollouts.sequences;
    let runs = runs(scoring, role, sequences)?;
    let mut spans = models
        .own_tokens(role)
        .then(|| Spans::of_tokens(role, sequences.layout.tokens(), stage.place.device));
    let mut parts: Vec<Option<Logits>> = runs.iter().map(|_| None).collect();
    let passes = passes(&runs, stage.routes_by_data());
    let of_servers = remote_scores::logits(scoring, &passes, &runs, sequences, step)?;
    for ((scored, pass), of_server) in zip_equal(&passes, of_servers) {
        let scorer = match scored {
            ScorerRef::Model(scorer) => scorer,
            ScorerRef::Served(_) => {
                give(&mut parts, &runs, pass, &of_server.expect("a server answers its passes"));
                continue;
            }
            ScorerRef::Composed(_) => unreachable!("one that is made of others goes through no model"),
        };
        let ModelScorer { model_ref, .. } = *scorer;
        let sees = models.view(*scorer);
        let softcap = models.softcap(model_ref, scoring.model);
        let scalar_head = models.scalar_head(model_ref, scoring.model);
        let loaded = OnceCell::new();
        let decoder = || {
            let frozen = loaded.get_or_init(|| models.scoring_decoder(model_ref)).as_ref();
            frozen.map_or(ScoringDecoder::Held(scoring.model), FrozenDecoder::scoring)
        };
        if let (Some(other), Some(spans)) = (models.other_tokenizer(*scorer), &mut spans) {
            let [run] = pass.as_slice() else { unreachable!("runs of another tokenizer go alone") };
            let ScoringRun { members, tokens, .. } = &runs[*run];
            let reading = other.reading(stage, sees, sequences, members.clone(), scoring.now(step))?;
            let (hidden, targets) = reading.hidden(stage, decoder());
            let only = last && passes.len() == 1;
            let lm_head = models.lm_head(model_ref, loaded.get().is_some().then(decoder), only);
            let logits = Logits::Projected { hidden, lm_head, softcap, scalar_head };
            let (objective, there) = (&stage.train.objective, (stage.place, &logits));
            let rest = rest_of(objective, role, &reading, other, there, &targets)?;
            spans.set(tokens.start, reading.tokens, &reading.spans, rest);
            let mapped = MappedLogits::new(logits, reading.rows(), other.columns(stage.place.device));
            parts[*run] = Some(Logits::Mapped(mapped));
            continue;
        }
        let kept = match (scoring.kept, pass.as_slice()) {
            (Some(kept), [run]) if sees.is_none() && !scorer.own_tokens => {
                let ScoringRun { sources, members, .. } = &runs[*run];
                let scorer = CachedScorer { role, model_ref, sources: sources.clone(), decoder };
                kept.hidden(scoring, &scorer, sequences, members.clone())
            }
            _ => None,
        };
        let hidden = match kept {
            Some(kept) => kept,
            None => {
                let members = || pass.iter().flat_map(|run| runs[*run].members.clone());
                let view = (sees, decoder().config().context);
                let shown = ScorerPrompts::new(stage, view, sequences, members(), scoring.now(step))?;
                let micro_batches = sequences.micro_batches(stage, members(), &shown);
                hidden(stage, decoder(), sequences, &micro_batches, &shown)
            }
        };
        // The LM head of a single model stays in memory while its layers are freed. With several models, the
        // heads of others would be read before that of the last one.
        let only = last && passes.len() == 1;
        let lm_head = models.lm_head(model_ref, loaded.get().is_some().then(decoder), only);
        let logits = Logits::Projected { hidden, lm_head, softcap, scalar_head };
        give(&mut parts, &runs, pass, &logits);
    }
    let absent = |run: &ScoringRun| Logits::Absent(run.tokens.len() as i64);
    let parts: Vec<Logits> =
        zip_equal(&runs, parts).map(|(run, part)| part.unwrap_or_else(|| absent(run))).collect();
    if scoring.stage.train.passes > 1 && !models.moves(role) && spans.is_none() {
        rollouts.known.borrow_mut().push((role, shared(&parts)));
    }
    Ok((parts, spans))
}

/// Consecutive sequences that have the same scorer for a role.
pub struct ScoringRun {
    /// `None` where no scorer has the role.
    pub scored: Option<ScorerRef>,
    sources: Range<usize>,
    pub members: Range<usize>,
    /// The range of their completion tokens among those of the step.
    pub tokens: Range<usize>,
}

/// The runs of a role. Sequences of a section are adjacent, so the concatenated runs have the order of the
/// batch. Consecutive sections with one model are one run: that is less work, and a model that equals the
/// student then computes the student's own batch, with the same bits.
pub fn runs(scoring: &Scoring, role: Role, sequences: &Sequences) -> Result<Vec<ScoringRun>> {
    let Scoring { stage, models, .. } = *scoring;
    let all = stage.sections();
    let mut runs = Vec::new();
    let mut first = 0;
    for run in models.of_role(role).chunk_by(|one, next| one == next) {
        let sections = first..first + run.len();
        first = sections.end;
        let members = sequences.of_sections(stage, sections.clone());
        let Some(sequence) = sequences.list[members.clone()].first() else { continue };
        let source = &stage.sources[sequence.source];
        let sources = all[sections.start].source..all[sections.end - 1].source + 1;
        // A role that the objective does not read is only a part of compositions, on the prompts they score.
        let asked = matches!(role, Role::TEACHER | Role::REFERENCE) || stage.train.objective.reads(role);
        if run[0].is_none() && asked {
            return Err(missing_scorer(scoring, role, source));
        }
        let tokens = sequences.tokens(members.start).start..sequences.tokens(members.end - 1).end;
        runs.push(ScoringRun { scored: run[0], sources, members, tokens });
    }
    Ok(runs)
}

/// The error for a domain that has no scorer for a role.
pub fn missing_scorer(scoring: &Scoring, role: Role, source: &Source) -> Error {
    match role {
        Role::TEACHER => no_teacher(source),
        _ => {
            let name = scoring.stage.train.scorers.name(role);
            Error::new(FailureKind::Runtime, format!("the domain `{}` has no {name}", source.name))
        }
    }
}

/// The runs that go through a model together, as indices. Where the data routes (`by_data`), all domains
/// share a few teachers: each teacher then has one pass for all its runs.
fn passes(runs: &[ScoringRun], by_data: bool) -> Vec<(ScorerRef, Vec<usize>)> {
    let mut passes: Vec<(ScorerRef, Vec<usize>)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let Some(scored @ (ScorerRef::Model(_) | ScorerRef::Served(_))) = run.scored else { continue };
        let together = by_data && !scored.model().is_some_and(|scorer| scorer.own_tokens);
        match passes.iter_mut().find(|(known, _)| together && *known == scored) {
            Some((_, pass)) => pass.push(index),
            None => passes.push((scored, vec![index])),
        }
    }
    passes
}

/// Gives each run of a pass its part of `logits`, which are in the order of the runs.
fn give(parts: &mut [Option<Logits>], runs: &[ScoringRun], pass: &[usize], logits: &Logits) {
    let mut first = 0;
    for run in pass {
        let tokens = runs[*run].tokens.len() as i64;
        parts[*run] = Some(logits.part(first, tokens));
        first += tokens;
    }
    assert_eq!(first, logits.tokens(), "the logits of a pass are of its tokens");
}

fn shared(parts: &[Logits]) -> Vec<Logits> {
    parts.iter().map(Logits::share).collect()
}

/// A model's last hidden states at the completion tokens of some sequences, `[tokens, width]`, in the
/// sequences' order.
pub fn hidden(
    stage: &Stage,
    decoder: ScoringDecoder,
    sequences: &Sequences,
    micro_batches: &[Vec<usize>],
    shown: &ScorerPrompts,
) -> Tensor {
    let parts = decoder.hidden(micro_batches.iter().map(|members| sequences.packed(stage, members, shown)));
    in_order(&parts, micro_batches.iter().flatten().copied(), sequences, stage.place.device)
}

/// The rows of some sequences' tokens, `[tokens, width]`, in the order of the sequences. The concatenated
/// `parts` have them in the order of `members`.
pub fn in_order(
    parts: &[Tensor],
    members: impl Iterator<Item = usize>,
    sequences: &Sequences,
    device: Device,
) -> Tensor {
    // Pairs of a token's index in the step and its row in the concatenated `parts`.
    let mut places: Vec<(usize, i64)> =
        members.flat_map(|member| sequences.tokens(member)).zip(0..).collect();
    let rows: i64 = parts.iter().map(|part| part.size()[0]).sum();
    assert_eq!(rows, places.len() as i64, "one row for each token that is trained on");
    if let ([whole], true) = (parts, places.is_sorted()) {
        return whole.shallow_clone();
    }
    places.sort_unstable();
    let order: Vec<i64> = places.into_iter().map(|(_, place)| place).collect();
    Tensor::cat(parts, 0).index_select(0, &upload(&order, device))
}

impl ScoringPass {
    fn new(
        scoring: &Scoring,
        rollouts: &Rollouts,
        mut others: Vec<(Role, Vec<Logits>)>,
        spans: Vec<Spans>,
    ) -> Result<ScoringPass> {
        let Scoring { stage, model, .. } = *scoring;
        let sequences = &rollouts.sequences;
        let own = &ScorerPrompts::Own;
        let micro_batches = sequences.micro_batches(stage, 0..sequences.list.len(), own);
        let trace = match micro_batches.as_slice() {
            [all] => Some(rollouts.trace(stage, model, &sequences.packed(stage, all, own))),
            _ => None,
        };
        let of_layers = match &trace {
            Some(trace) => trace.hidden.shallow_clone(),
            None => hidden(stage, ScoringDecoder::Held(model), sequences, &micro_batches, own),
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
        let mut sampler = sampler(scoring)?;
        if let Some((Role::Student, temperature)) = sampler
            && stage.train.passes > 1
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
        .at(stage.train.objective.temperature);
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
    /// the vocabulary.
    pub fn read(
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
            let given = match signal {
                Signal::VocabularySize => Some(vec![self.tokens as f32]),
                Signal::Value { role } => Some(self.scalars(*role, objective)?),
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
fn sampler(scoring: &Scoring) -> Result<Option<(Role, f64)>> {
    let train = &scoring.stage.train;
    let known = producers::sampler(&train.objective, &train.rollout);
    known.map_err(|why| missing("the sampler's distribution", why, &train.objective))
}

pub fn failed(error: EvaluationError, objective: &Objective) -> Error {
    failed_at(error, objective, objective.origin)
}

fn failed_at(error: EvaluationError, objective: &Objective, place: Origin) -> Error {
    Error::new(FailureKind::Runtime, format!("the objective `{}`: {error}", objective.name)).at(place)
}
