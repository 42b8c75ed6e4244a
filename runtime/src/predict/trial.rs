//! Trials: a few steps of a stage, as they will be or with fewer sequences and shallower models.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mopd_plan::events::TimeRange;
use mopd_plan::producers::PrecomputedRollouts;
use mopd_plan::{Keep, ModelId, Objective, Reward, RewardPart, Share, Train, Trainable, WeightFilter};
use tch::{Device, Kind};

use super::measurement::TrialMeasurement;
use super::{TrialContext, cut, some_weights};
use crate::control::Control;
use crate::environment::Environments;
use crate::failure::Result;
use crate::machine::{cores::CoreContention, memory, place::Place};
use crate::model::{Config, Weights};
use crate::prepare::prompts::Prompts;
use crate::prepare::{DomainData, ModelSpec, trained, validated};
use crate::report::metrics::StepMetrics;
use crate::reward::Verifier;
use crate::train::{self, LearnerTurn, NoiseSecret, Source, SourceTeachers};

/// Steps of a trial; the first is for warming up.
const STEPS: u32 = 4;
/// Most passes over the rollout of a trial.
const PASSES: u32 = 4;
/// Steps of a trial that takes long.
const FEW_STEPS: u32 = 3;

pub struct StageTrial<'a> {
    pub context: TrialContext<'a>,
    pub train: &'a Train<Objective>,
    /// All learners of the stage, and the index of the one that is tried.
    pub learners: &'a [&'a Train<Objective>],
    pub learner: usize,
    /// Index of the trained model's shape.
    pub model: ModelId,
    pub kind: Kind,
    /// Mean tokens of a completion, as far as they are known without writing any.
    pub completion: u32,
}

/// The size of a trial.
#[derive(Clone, Copy)]
enum Size {
    /// Steps of `batch` sequences, and models of full depth, with their own weights where these exist.
    /// `written` is the number of sequences that teachers write before the first step; else `batch`.
    Whole { batch: u32, written: Option<u32> },
    /// Steps of `batch` sequences, a student of `own` layers, teachers of `others`; made-up weights.
    Cut { batch: u32, own: usize, others: usize },
}

/// The models of a trial.
struct TrialModels {
    of: HashMap<ModelId, Arc<Weights>>,
    /// Made-up weights, each shape once. A trial has them in the host's memory; a run has its own weights in
    /// files.
    made: Vec<Weights>,
}

impl TrialModels {
    /// Bytes that the made-up weights take of a place's memory: none of a GPU's.
    fn made_bytes(&self, place: Place) -> u64 {
        let bytes = |made: &Weights| 4 * Weights::parameters(&made.config) as u64;
        if place.device == Device::Cpu { self.made.iter().map(bytes).sum() } else { 0 }
    }
}

impl StageTrial<'_> {
    /// The specification of the trained model.
    pub fn spec(&self) -> ModelSpec {
        let index = self.model.0 as usize;
        let (config, tokenizer) =
            (self.context.shapes.configs[index].clone(), self.context.shapes.tokenizers[index].clone());
        ModelSpec { config, tokenizer, loaded: None, of_files: false }
    }

    /// Whether weights of the model's shape exist before the run: its own, or those that it starts from.
    pub fn exists(&self) -> bool {
        self.context.shapes.weights[self.model.0 as usize].is_some()
    }

    /// The model's start weights at full depth, made up where they do not exist.
    pub fn start(&self) -> Arc<Weights> {
        Arc::new(self.weights(self.model, Size::Whole { batch: 1, written: None }, &mut Vec::new()))
    }

    /// Measures `steps` steps as they will be, but with `batch` sequences; the first of several is a warm-up.
    /// `written` is how many sequences teachers write before the first step, `batch` where absent. On a busy
    /// machine times vary, so the steps are tried twice.
    pub fn whole(&self, batch: u32, steps: u32, written: Option<u32>) -> Result<TrialMeasurement> {
        let size = Size::Whole { batch, written };
        let measured = self.run(size, steps)?;
        if steps > 1 && measured.on_busy_cores() {
            Ok(measured.or(self.run(size, steps)?))
        } else {
            Ok(measured)
        }
    }

    /// Measures steps of `batch` sequences, a student of `own` layers and teachers of `others`. The memory
    /// excludes what the allocator keeps, so that it can be extrapolated.
    pub fn cut(&self, batch: u32, own: usize, others: usize) -> Result<TrialMeasurement> {
        let steps = if self.work(batch, own.max(others)) > 2e9 { FEW_STEPS } else { STEPS };
        self.run(Size::Cut { batch, own, others }, steps)
    }

    /// A reward of 1 for every completion, with the parts that the rewards of the domains have.
    fn reward(&self) -> Reward {
        let any = || Reward::Regex { pattern: String::new(), field: String::new() };
        let domains = self.train.mixture.iter().map(|share| &self.context.domains[share.domain.0 as usize]);
        let names: BTreeSet<&str> = domains.flat_map(|domain| domain.verifier.parts()).collect();
        let weight = 1.0 / names.len() as f64;
        let part = |name: &&str| RewardPart { name: (*name).to_owned(), weight, reward: any() };
        if names.is_empty() { any() } else { Reward::Parts { parts: names.iter().map(part).collect() } }
    }

    fn run(&self, size: Size, steps: u32) -> Result<TrialMeasurement> {
        let train = self.settings(size);
        // The author's verifiers are not called on meaningless completions.
        let verifier = Verifier::new(&self.reward(), ".".as_ref())?;
        // A rollout serves several steps.
        let updates = train.options.updates_per_batch();
        // A trial may have fewer passes over a rollout than the stage.
        let shared = f64::from(self.train.options.updates_per_batch());
        let drawn_share = f64::from(updates) / shared;
        let steps = steps.saturating_mul(updates);
        let resting = memory::reset_peak_of(self.context.place).unwrap_or(0);
        let models = self.models(size);
        let (started, waits) = (Instant::now(), CoreContention::now());
        let rows = self.train(&train, &verifier, steps, &models)?;
        let seconds = started.elapsed().as_secs_f64();
        let waited = CoreContention::now().longest_since(&waits).as_secs_f64();
        if matches!(size, Size::Cut { .. }) {
            memory::reset_peak_of(self.context.place);
            let saves = self.train.rollouts().any(|rollout| self.train.saves_activations(rollout));
            // Up to the first step with activations that generation saved; the very first step has none.
            let steps = if saves { updates + 1 } else { 1 };
            memory::with_exact_memory(|| self.train(&train, &verifier, steps, &models))?;
        }
        let memory = memory::peak_of(self.context.place)
            .unwrap_or(0)
            .saturating_sub(models.made_bytes(self.context.place)) as f64;

        // One row per domain and teacher; all rows of a step have the same times.
        let each: Vec<_> = (0..steps).filter_map(|step| rows.iter().find(|row| row.step == step)).collect();
        let warm = &each[if steps > updates { updates as usize } else { 0 }.min(each.len())..];
        // A disturbance only makes a step longer, and extrapolation over layers multiplies it.
        let least = |of: fn(&StepMetrics) -> f64| warm.iter().map(|row| of(row)).reduce(f64::min);
        // Only the first of the steps that share a rollout draws it.
        let drawn = warm.iter().filter(|row| row.step.is_multiple_of(updates)).map(|row| row.rollout_seconds);
        let drawn = drawn.reduce(f64::min).unwrap_or(0.0);
        // The first of them may score the tokens of all.
        let scoring = warm
            .chunks_exact(updates as usize)
            .map(|rows| rows.iter().map(|row| row.scoring_seconds).sum::<f64>() / f64::from(updates));
        let scoring = scoring.reduce(f64::min);
        // Mean over the steps that share a rollout, whichever of them drew it.
        let steps_of = |rows: &[&StepMetrics]| {
            let step = |row: &&StepMetrics| {
                drawn_share * row.rollout_seconds + row.scoring_seconds + row.update_seconds
            };
            rows.iter().map(step).sum::<f64>() / f64::from(updates)
        };
        let each_step: Vec<f64> = warm.chunks_exact(updates as usize).map(steps_of).collect();
        Ok(TrialMeasurement {
            around: (seconds - each.iter().map(|row| row.seconds).sum::<f64>()).max(0.0),
            rollout: drawn / shared,
            scoring: scoring.unwrap_or(0.0),
            update: least(|row| row.update_seconds).unwrap_or(0.0),
            step: TimeRange {
                least: each_step.iter().copied().reduce(f64::min).unwrap_or(0.0),
                most: each_step.iter().copied().reduce(f64::max).unwrap_or(0.0),
            },
            waited: (waited / seconds).min(1.0),
            memory,
            resting: resting as f64,
        })
    }

    /// The stage's settings, without those that a trial can't follow.
    fn settings(&self, size: Size) -> Train<Objective> {
        let mut train = self.train.clone();
        let (Size::Whole { batch, .. } | Size::Cut { batch, .. }) = size;
        // Models that exist end their completions by themselves.
        let clipped = !(matches!(size, Size::Whole { .. })
            && self.context.shapes.weights[self.model.0 as usize].is_some());
        let groups = (batch / train.rollout.group()).max(1);
        train.each_rollout(|rollout| {
            rollout.groups = groups;
            // Completions of a trial are never right: conditions get the outcome that costs most.
            rollout.assume_conditions();
            // A moving limit is at its longest.
            rollout.producer.each_sampling(&mut |sampling| sampling.max_tokens_moves = None);
            if clipped {
                rollout.producer.each_sampling(&mut |sampling| {
                    sampling.max_tokens = self.completion.min(sampling.max_tokens).max(1);
                });
            }
        });
        if let Some(once) = train.rollout.producer.once_mut() {
            let written = if let Size::Whole { written: Some(written), .. } = size { written } else { batch };
            *once = PrecomputedRollouts { sequences: written, keep: Keep::All };
        }
        // Completions of a trial are meaningless, so a filter might leave out all of them.
        train.filter = None;
        // Every pass takes as long as the last of a few.
        train.options.passes = train.options.passes.min(PASSES);
        // The cost of these is predicted separately.
        (train.extrapolation, train.curriculum, train.options.alignment) = (None, None, None);
        if let Some(validation) = &mut train.options.validation {
            (validation.rows, validation.every) = (Some(1), u32::MAX);
        }
        if matches!(size, Size::Whole { .. }) {
            return train;
        }
        // Shallow models may have none of the named layers.
        match &mut train.trainable {
            Trainable::Adapter(adapter) => adapter.layers = None,
            Trainable::Weights { only, except } => {
                let group = |filter: &WeightFilter| matches!(filter, WeightFilter::Group(_));
                except.retain(group);
                if only.as_ref().is_some_and(|only| !only.iter().all(group)) {
                    *only = None;
                }
            }
        }
        train
    }

    fn sources<'s>(
        &'s self,
        train: &Train<Objective>,
        rows: impl Fn(&'s DomainData) -> Result<&'s Prompts>,
        verifier: &'s Verifier,
    ) -> Result<Vec<Source<'s>>> {
        let source = |share: &Share| {
            let data = &self.context.domains[share.domain.0 as usize];
            Ok(Source {
                name: &data.name,
                origin: data.origin,
                share: share.share,
                route: SourceTeachers::new(train, share.domain, &trained(data, train)?.dataset)?,
                scorers: train.scorers.beside_the_routed(share.domain),
                prompts: rows(data)?,
                tokens: rows(data)?
                    .seen(&self.context.shapes.tokenizers[train.start.0 as usize], train.sees.as_ref())?,
                limit: data.limit,
                verifier,
            })
        };
        train.mixture.iter().map(source).collect()
    }

    /// The models beside the student, each once.
    pub fn other_models(&self) -> BTreeSet<ModelId> {
        // Other learners are in memory, like models that are not trained.
        let learners = self.learners.iter().map(|other| other.start);
        self.train.scorer_and_writer_models().chain(learners.filter(|id| *id != self.train.start)).collect()
    }

    /// Whether the models fit in memory at full depth, however small those of the trial are.
    pub fn models_fit(&self) -> bool {
        // The start model counts too.
        let mut models = self.other_models();
        models.insert(self.train.start);
        let count = |id: &ModelId| Weights::parameters(&self.context.shapes.configs[id.0 as usize]);
        train::fits_in_memory(self.context.place, models.iter().map(count).sum())
    }

    /// The shape of a model's made-up weights; `None` where the model's own weights exist and have the wanted
    /// depth.
    fn made_up(&self, id: ModelId, size: Size) -> Option<Config> {
        let config = &self.context.shapes.configs[id.0 as usize];
        match size {
            Size::Whole { .. } if self.context.shapes.weights[id.0 as usize].is_some() => None,
            Size::Whole { .. } => Some(config.as_ref().clone()),
            Size::Cut { own, others, .. } => {
                Some(cut(config, if id == self.train.start { own } else { others }))
            }
        }
    }

    /// The start models of all learners, and the models that they use.
    fn models(&self, size: Size) -> TrialModels {
        let read = self
            .learners
            .iter()
            .flat_map(|learner| learner.scorer_and_writer_models().chain([learner.start]));
        let ids: BTreeSet<ModelId> = read.collect();
        let mut made = Vec::new();
        let of = ids.into_iter().map(|id| (id, Arc::new(self.weights(id, size, &mut made)))).collect();
        TrialModels { of, made }
    }

    /// A model's own weights, or made-up ones. Models of one shape share the latter through `made`: otherwise
    /// each of many teachers would have its own embedding.
    fn weights(&self, id: ModelId, size: Size, made: &mut Vec<Weights>) -> Weights {
        let index = id.0 as usize;
        let Some(config) = self.made_up(id, size) else {
            return self.context.shapes.weights[index]
                .clone()
                .expect("only models that exist are not made up");
        };
        let tokenizer = self.context.shapes.tokenizers[index].clone();
        if let Some(known) = made.iter().find(|known| *known.config == config) {
            let mut weights = known.clone();
            weights.tokenizer = tokenizer;
            return weights;
        }
        let weights = some_weights(config, &tokenizer);
        made.push(weights.clone());
        weights
    }

    /// The metrics of this many steps.
    fn train(
        &self,
        train: &Train<Objective>,
        verifier: &Verifier,
        steps: u32,
        models: &TrialModels,
    ) -> Result<Vec<StepMetrics>> {
        let quiet = Control::new(std::io::sink());
        let mut stages = Vec::with_capacity(self.learners.len());
        for (place, other) in self.learners.iter().copied().enumerate() {
            let own = place == self.learner;
            // The other learners are present, but it is never their turn.
            let every = if own { 1 } else { u32::MAX };
            let turn = LearnerTurn { name: None, place: place as u32, every };
            let settings = if own { train } else { other };
            stages.push(self.stage(settings, turn, verifier, steps, models, &quiet)?);
        }
        train::train_in_turns(&stages, None)
            .map(|trained| trained.record.rows)
            .map_err(|stopped| stopped.error)
    }

    fn stage<'s>(
        &'s self,
        train: &'s Train<Objective>,
        turn: LearnerTurn<'s>,
        verifier: &'s Verifier,
        steps: u32,
        models: &TrialModels,
        control: &'s Control,
    ) -> Result<train::Stage<'s>> {
        let start = &models.of[&train.start];
        Ok(train::Stage {
            name: "trial",
            seed: 0,
            stream: 0,
            // The result of a trial is discarded, so its noise need not be secret.
            secret: Some(NoiseSecret::new(&[0; 32], "trial")),
            part: 0,
            guards_from: 0,
            train,
            turn,
            steps,
            sources: self.sources(train, |data| trained(data, train), verifier)?.into(),
            start: train::beginning(train, start, 0, 0),
            models: train.scorer_and_writer_models().map(|id| (id, models.of[&id].clone())).collect(),
            models_fit: Some(self.models_fit()),
            budget: self.context.budget,
            micro_batch: train.options.execution.micro_batch,
            recomputed: train.options.execution.checkpointing.layers(),
            // As in the stage itself: a trial's settings have no filter.
            saves_activations: self.train.saves_activations(&self.train.rollout),
            judge: None,
            validation: match train.options.validation {
                Some(_) => self.sources(train, validated, verifier)?,
                None => Vec::new(),
            }
            .into(),
            place: self.context.place,
            kind: self.kind,
            environments: Environments::Untouched,
            servers: &crate::remote::NO_SERVERS,
            control,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{random_model, tiny};

    /// Made-up weights take the host's memory, and none of a GPU's.
    #[test]
    fn made_up_models_take_no_memory_of_a_gpu() {
        let weights = random_model(&tiny(), 1);
        let bytes = 4 * Weights::parameters(&weights.config) as u64;
        let models = TrialModels { of: HashMap::new(), made: vec![weights.clone(), weights] };
        assert_eq!(models.made_bytes(Place::cpu()), 2 * bytes);
        assert_eq!(models.made_bytes(Place::gpu(0, 80 << 30)), 0);
    }
}
