//! A few steps of a stage: its own, or smaller ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mopd_compiler::plan::events::TimeRange;
use mopd_compiler::plan::producers::Once;
use mopd_compiler::plan::{
    Keep, ModelId, Objective, Reward, RewardPart, Share, Train, Trainable, WeightFilter,
};
use tch::{Device, Kind};

use super::taken::Taken;
use super::{Shapes, cut, some_weights};
use crate::control::Control;
use crate::environment::Environments;
use crate::failure::Result;
use crate::machine::{cores::CoreWaits, memory, place::Place};
use crate::model::{Config, Weights};
use crate::prepare::prompts::Prompts;
use crate::prepare::{DomainData, ModelSpec, trained, validated};
use crate::report::metrics::StepMetrics;
use crate::reward::Verifier;
use crate::rollout::MemoryBudget;
use crate::train::privacy::NoiseSecret;
use crate::train::{self, LearnerTurn, Source, SourceTeachers};

/// Steps of a trial; the first is for warming up.
const STEPS: u32 = 4;
/// Of one that takes long.
const FEW_STEPS: u32 = 3;

pub struct StageTrial<'a> {
    pub train: &'a Train<Objective>,
    /// All that learn in the stage, and which of them this is.
    pub learners: &'a [&'a Train<Objective>],
    pub learner: usize,
    /// Of its specification.
    pub model: ModelId,
    pub domains: &'a [DomainData],
    pub shapes: &'a Shapes,
    pub place: Place,
    pub kind: Kind,
    /// What generation may take.
    pub budget: MemoryBudget,
    /// Tokens of a completion, on average, as far as they can be known without writing any.
    pub completion: u32,
}

/// What a trial trains with.
#[derive(Clone, Copy)]
enum Size {
    /// So many sequences, and models of their own depth: those that it will have, where they exist. Teachers
    /// that write before the first step write so many.
    Whole { batch: u32, written: Option<u32> },
    /// So many sequences, a student of `own` layers and teachers of `others`; numbers of no account.
    Cut { batch: u32, own: usize, others: usize },
}

/// What a trial has of each model.
struct TrialModels {
    of: HashMap<ModelId, Arc<Weights>>,
    /// Those whose numbers are made up, each shape once. A trial has them in the host's memory; a run has its
    /// own in files.
    made: Vec<Weights>,
}

impl TrialModels {
    /// Of a place's memory, bytes of those that are made up.
    fn made_bytes(&self, place: Place) -> u64 {
        let bytes = |made: &Weights| 4 * Weights::parameters(&made.config) as u64;
        if place.device == Device::Cpu { self.made.iter().map(bytes).sum() } else { 0 }
    }
}

impl StageTrial<'_> {
    /// What is known of the trained model.
    pub fn spec(&self) -> ModelSpec {
        let index = self.model.0 as usize;
        let (config, tokenizer) = (self.shapes.configs[index].clone(), self.shapes.tokenizers[index].clone());
        ModelSpec { config, tokenizer, loaded: None, of_files: false }
    }

    /// Whether the weights that it begins with, or some like them, are there.
    pub fn exists(&self) -> bool {
        self.shapes.weights[self.model.0 as usize].is_some()
    }

    /// Weights of its own depth.
    pub fn start(&self) -> Arc<Weights> {
        Arc::new(self.weights(self.model, Size::Whole { batch: 1, written: None }, &mut Vec::new()))
    }

    /// Steps of the stage with `batch` sequences and else as they will be, of several not the first.
    /// `written` is how many sequences teachers write before the first step; a batch where absent. On a busy
    /// machine steps are unlike, so these are tried twice.
    pub fn whole(&self, batch: u32, steps: u32, written: Option<u32>) -> Result<Taken> {
        let size = Size::Whole { batch, written };
        let taken = self.run(size, steps)?;
        if steps > 1 && taken.on_busy_cores() { Ok(taken.or(self.run(size, steps)?)) } else { Ok(taken) }
    }

    /// Steps with `batch` sequences, a student of `own` layers and teachers of `others`. Their memory is that
    /// without what the allocator keeps, so that it can be extrapolated.
    pub fn cut(&self, batch: u32, own: usize, others: usize) -> Result<Taken> {
        let steps = if self.work(batch, own.max(others)) > 2e9 { FEW_STEPS } else { STEPS };
        self.run(Size::Cut { batch, own, others }, steps)
    }

    /// One that says 1 of everything, with the parts of the domains' own.
    fn reward(&self) -> Reward {
        let any = || Reward::Regex { pattern: String::new(), field: String::new() };
        let domains = self.train.mixture.iter().map(|share| &self.domains[share.domain.0 as usize]);
        let names: BTreeSet<&str> = domains.flat_map(|domain| domain.verifier.parts()).collect();
        let weight = 1.0 / names.len() as f64;
        let part = |name: &&str| RewardPart { name: (*name).to_owned(), weight, reward: any() };
        if names.is_empty() { any() } else { Reward::Parts { parts: names.iter().map(part).collect() } }
    }

    fn run(&self, size: Size, steps: u32) -> Result<Taken> {
        let train = self.settings(size);
        // Verifiers of the author's are not asked about nonsense.
        let verifier = Verifier::new(&self.reward(), ".".as_ref())?;
        // A rollout serves as many steps as there are passes.
        let passes = train.passes.max(1);
        let steps = steps.saturating_mul(passes);
        let resting = memory::reset_peak_of(self.place).unwrap_or(0);
        let models = self.models(size);
        let (started, waits) = (Instant::now(), CoreWaits::now());
        let rows = self.train(&train, &verifier, steps, &models)?;
        let seconds = started.elapsed().as_secs_f64();
        let waited = CoreWaits::now().longest_since(&waits).as_secs_f64();
        if matches!(size, Size::Cut { .. }) {
            memory::reset_peak_of(self.place);
            let saves = self.train.rollouts().any(|rollout| self.train.saves_activations(rollout));
            // To the first step that has what generation saved, which the first of all has not.
            let steps = if saves { passes + 1 } else { 1 };
            memory::exactly(|| self.train(&train, &verifier, steps, &models))?;
        }
        let memory =
            memory::peak_of(self.place).unwrap_or(0).saturating_sub(models.made_bytes(self.place)) as f64;

        // One row a domain and teacher; all of a step say the same.
        let each: Vec<_> = (0..steps).filter_map(|step| rows.iter().find(|row| row.step == step)).collect();
        let warm = &each[if steps > passes { passes as usize } else { 0 }.min(each.len())..];
        // What disturbs a step only makes it longer, and layers multiply it.
        let least = |of: fn(&StepMetrics) -> f64| warm.iter().map(|row| of(row)).reduce(f64::min);
        // Only the first of a rollout's steps has drawn it.
        let drawn = warm.iter().filter(|row| row.step.is_multiple_of(passes)).map(|row| row.rollout_seconds);
        let drawn = drawn.reduce(f64::min).unwrap_or(0.0);
        // All steps of a rollout together, whichever has drawn it.
        let steps_of = |rows: &[&StepMetrics]| {
            rows.iter().map(|row| row.rollout_seconds + row.scoring_seconds + row.update_seconds).sum::<f64>()
                / f64::from(passes)
        };
        let each_step: Vec<f64> = warm.chunks_exact(passes as usize).map(steps_of).collect();
        Ok(Taken {
            around: (seconds - each.iter().map(|row| row.seconds).sum::<f64>()).max(0.0),
            rollout: drawn / f64::from(passes),
            scoring: least(|row| row.scoring_seconds).unwrap_or(0.0),
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

    /// The stage's settings, with what a trial can't have left out.
    fn settings(&self, size: Size) -> Train<Objective> {
        let mut train = self.train.clone();
        let (Size::Whole { batch, .. } | Size::Cut { batch, .. }) = size;
        // Models that exist end where they end.
        let clipped =
            !(matches!(size, Size::Whole { .. }) && self.shapes.weights[self.model.0 as usize].is_some());
        let groups = (batch / train.rollout.group()).max(1);
        train.each_rollout(|rollout| {
            rollout.groups = groups;
            // Nothing that models of a trial write is right.
            rollout.settle();
            // As long as they ever get.
            rollout.producer.each_sampling(&mut |sampling| sampling.max_tokens_moves = None);
            if clipped {
                rollout.producer.each_sampling(&mut |sampling| {
                    sampling.max_tokens = self.completion.min(sampling.max_tokens).max(1);
                });
            }
        });
        if let Some(once) = train.rollout.producer.once_mut() {
            let written = if let Size::Whole { written: Some(written), .. } = size { written } else { batch };
            *once = Once { sequences: written, keep: Keep::All };
        }
        // Nor is it unlike.
        train.filter = None;
        // What that takes is measured apart.
        (train.extrapolation, train.curriculum, train.alignment) = (None, None, None);
        if let Some(validation) = &mut train.validation {
            (validation.rows, validation.every) = (Some(1), u32::MAX);
        }
        if matches!(size, Size::Whole { .. }) {
            return train;
        }
        // Of the layers that are named, shallow models may have none.
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
            let data = &self.domains[share.domain.0 as usize];
            Ok(Source {
                name: &data.name,
                origin: data.origin,
                share: share.share,
                route: SourceTeachers::new(train, share.domain, &trained(data, train)?.dataset)?,
                scorers: train.scorers.beside_the_routed(share.domain),
                prompts: rows(data)?,
                tokens: rows(data)?
                    .seen(&self.shapes.tokenizers[train.start.0 as usize], train.sees.as_ref())?,
                limit: data.limit,
                verifier,
            })
        };
        train.mixture.iter().map(source).collect()
    }

    /// The models beside the student, each once.
    pub fn beside(&self) -> BTreeSet<ModelId> {
        // The others that learn are in memory like models that do not.
        let learners = self.learners.iter().map(|other| other.start);
        self.train.asked().chain(learners.filter(|id| *id != self.train.start)).collect()
    }

    /// As it will be, however small the models are here.
    pub fn models_fit(&self) -> bool {
        // Whatever a stage starts from is one of its models.
        let mut models = self.beside();
        models.insert(self.train.start);
        let count = |id: &ModelId| Weights::parameters(&self.shapes.configs[id.0 as usize]);
        train::fits_in_memory(self.place, models.iter().map(count).sum())
    }

    /// The shape of a model whose numbers are made up for a trial; none where the model exists and is tried
    /// whole.
    fn made_up(&self, id: ModelId, size: Size) -> Option<Config> {
        let config = &self.shapes.configs[id.0 as usize];
        match size {
            Size::Whole { .. } if self.shapes.weights[id.0 as usize].is_some() => None,
            Size::Whole { .. } => Some(config.as_ref().clone()),
            Size::Cut { own, others, .. } => {
                Some(cut(config, if id == self.train.start { own } else { others }))
            }
        }
    }

    /// Of all that learn in the stage, what they begin with and ask.
    fn models(&self, size: Size) -> TrialModels {
        let read = self.learners.iter().flat_map(|learner| learner.asked().chain([learner.start]));
        let ids: BTreeSet<ModelId> = read.collect();
        let mut made = Vec::new();
        let of = ids.into_iter().map(|id| (id, Arc::new(self.weights(id, size, &mut made)))).collect();
        TrialModels { of, made }
    }

    /// A model's own weights, or some that `made` has of its shape: of many teachers, each would have an
    /// embedding of its own.
    fn weights(&self, id: ModelId, size: Size, made: &mut Vec<Weights>) -> Weights {
        let index = id.0 as usize;
        let Some(config) = self.made_up(id, size) else {
            return self.shapes.weights[index].clone().expect("only models that exist are not made up");
        };
        let tokenizer = self.shapes.tokenizers[index].clone();
        if let Some(known) = made.iter().find(|known| *known.config == config) {
            let mut weights = known.clone();
            weights.tokenizer = tokenizer;
            return weights;
        }
        let weights = some_weights(config, &tokenizer);
        made.push(weights.clone());
        weights
    }

    /// The rows of so many steps.
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
            // The others are there, and it is never their turn.
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
            // Nobody sees what a trial makes.
            secret: Some(NoiseSecret::new(&[0; 32], "trial")),
            part: 0,
            guards_from: 0,
            train,
            turn,
            steps,
            sources: self.sources(train, |data| trained(data, train), verifier)?,
            start: train::beginning(train, start, (0, 0)),
            start_place: String::new(),
            models: train.asked().map(|id| (id, models.of[&id].clone())).collect(),
            models_fit: Some(self.models_fit()),
            budget: self.budget,
            micro_batch: train.execution.micro_batch,
            recomputed: train.execution.checkpointing.layers(),
            // As the stage does it, whose filter a trial leaves out.
            saves_activations: self.train.saves_activations(&self.train.rollout),
            judge: None,
            validation: match train.validation {
                Some(_) => self.sources(train, validated, verifier)?,
                None => Vec::new(),
            },
            place: self.place,
            kind: self.kind,
            environments: Environments::Untouched,
            servers: &crate::served::NO_SERVERS,
            peers: None,
            control,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{random_model, tiny};

    /// What is made up is the host's, however much of it a GPU has besides.
    #[test]
    fn made_up_models_take_no_memory_of_a_gpu() {
        let weights = random_model(&tiny(), 1);
        let bytes = 4 * Weights::parameters(&weights.config) as u64;
        let models = TrialModels { of: HashMap::new(), made: vec![weights.clone(), weights] };
        assert_eq!(models.made_bytes(Place::cpu()), 2 * bytes);
        assert_eq!(models.made_bytes(Place::gpu(0, 80 << 30)), 0);
    }
}
