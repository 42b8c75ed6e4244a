//! A few steps of a stage with shallow models.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mopd_compiler::plan::{Completions, Keep, ModelId, Objective, Prefixes, Reward, Train, Trainable, WeightFilter};
use tch::{Device, Kind};

use super::{Shapes, cut, some_weights};
use crate::control::Control;
use crate::failure::Result;
use crate::memory::{exactly, peak_since_reset, reset_peak_memory};
use crate::model::Weights;
use crate::prepare::{DomainData, trained};
use crate::report::metrics::Row;
use crate::reward::Verifier;
use crate::train::{self, Source};

/// Steps of a trial; the first is for warming up.
const STEPS: u32 = 3;
/// Of one that takes long.
const FEW_STEPS: u32 = 2;

pub struct Trial<'a> {
    pub train: &'a Train<Objective>,
    pub model: ModelId,
    pub domains: &'a [DomainData],
    pub shapes: &'a Shapes<'a>,
    pub device: Device,
    pub kind: Kind,
    /// Tokens of a completion that a model writes.
    pub completion: u32,
}

/// What a trial took, or what one is expected to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Seconds before the first step.
    pub before: f64,
    /// Of one step: rollouts, forward passes of all models, gradient and update.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Most resident memory of this process, in bytes.
    pub memory: f64,
}

impl Taken {
    fn zip(self, other: Taken, f: impl Fn(f64, f64) -> f64) -> Taken {
        Taken {
            before: f(self.before, other.before),
            rollout: f(self.rollout, other.rollout),
            scoring: f(self.scoring, other.scoring),
            update: f(self.update, other.update),
            memory: f(self.memory, other.memory),
        }
    }

    pub fn plus(self, other: Taken) -> Taken {
        self.zip(other, |a, b| a + b)
    }

    pub fn minus(self, other: Taken) -> Taken {
        self.zip(other, |a, b| a - b)
    }

    /// `more` was measured one unit further; this is `units` further. What measured less only did so by chance.
    pub fn extrapolated(self, more: Taken, units: f64) -> Taken {
        self.zip(more, |a, b| a + units * (b - a).max(0.0))
    }
}

impl Trial<'_> {
    /// About how many multiplications and additions a step takes with so many layers.
    pub fn work(&self, batch: u32, layers: usize) -> f64 {
        let config = &self.shapes.configs[self.model.0 as usize];
        let layer = config.width * (config.hidden * 3 + config.heads * config.head_width * 4);
        let matrix = config.vocabulary * config.width;
        let tokenizer = &self.shapes.tokenizers[self.model.0 as usize];
        // They are known since the plan was checked.
        let prompts = || self.domains.iter().filter_map(|data| data.train.as_ref()?.tokens(tokenizer).ok());
        let sequences: usize = prompts().map(|tokens| tokens.len()).sum();
        let tokens: usize = prompts().map(|tokens| tokens.lengths().sum::<usize>()).sum();
        let length = tokens as f64 / sequences.max(1) as f64 + f64::from(self.completion);
        8.0 * f64::from(batch) * length * (layer * layers + matrix) as f64
    }

    /// Steps with `batch` sequences, a student of `own` layers and teachers of `others`. Where these are not `whole`, their memory
    /// is that without what the allocator keeps, so that it can be extrapolated.
    pub fn run(&self, batch: u32, own: usize, others: usize, whole: bool) -> Result<Taken> {
        let mut train = self.train.clone();
        match &mut train.prefixes {
            Prefixes::Data { batch: size, .. } => *size = batch,
            Prefixes::Student { prompts, sampling } => {
                *prompts = (batch / sampling.n.max(1)).max(1);
                sampling.max_tokens = self.completion;
            }
            Prefixes::Teacher { sequences, keep, batch: size, sampling } => {
                (*size, *sequences) = (batch, batch);
                // Nothing that these models write is right.
                *keep = Keep::All;
                sampling.max_tokens = self.completion;
            }
            Prefixes::Pairs { chosen, rejected, batch: pairs } => {
                *pairs = (batch / 2).max(1);
                for sampling in [chosen, rejected].into_iter().filter_map(Completions::sampling_mut) {
                    sampling.max_tokens = self.completion;
                }
            }
        }
        // Nor is it unlike; and of the layers that are named, these models may have none.
        train.filter = None;
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
        // Verifiers of the author's are not asked about nonsense.
        let verifier = Verifier::new(&Reward::Regex { pattern: String::new(), field: String::new() }, ".".as_ref())?;
        let mut sources = Vec::new();
        for share in &train.mixture {
            let data = &self.domains[share.domain.0 as usize];
            let teacher = train.teachers.iter().find(|choice| choice.domain == share.domain);
            sources.push(Source {
                name: &data.name,
                origin: data.origin,
                share: share.share,
                teacher: teacher.map(|choice| choice.name.clone()),
                teacher_model: teacher.map(|choice| choice.teacher),
                reference: train.references.iter().find(|choice| choice.domain == share.domain).map(|choice| choice.reference),
                prompts: trained(data)?,
                tokens: trained(data)?.tokens(&self.shapes.tokenizers[self.model.0 as usize])?,
                limit: data.limit,
                verifier: &verifier,
            });
        }
        let steps = if self.work(batch, own.max(others)) > 2e9 { FEW_STEPS } else { STEPS };
        reset_peak_memory();
        let started = Instant::now();
        let rows = self.train(&train, &sources, steps, own, others)?;
        let seconds = started.elapsed().as_secs_f64();
        if !whole {
            reset_peak_memory();
            exactly(|| self.train(&train, &sources, 1, own, others))?;
        }
        // In a run, what a stage starts from stays in the files of earlier ones.
        let given = 4 * self.given(own, others) as u64;
        let memory = peak_since_reset().unwrap_or(0).saturating_sub(given) as f64;

        // One row a domain; all of a step say the same.
        let each: Vec<&Row> = (0..steps).filter_map(|step| rows.iter().find(|row| row.step == step)).collect();
        let warm = &each[1.min(each.len().saturating_sub(1))..];
        let mean = |of: fn(&Row) -> f64| warm.iter().map(|row| of(row)).sum::<f64>() / warm.len().max(1) as f64;
        Ok(Taken {
            before: (seconds - each.iter().map(|row| row.seconds).sum::<f64>()).max(0.0),
            rollout: mean(|row| row.rollout_seconds),
            scoring: mean(|row| row.scoring_seconds),
            update: mean(|row| row.update_seconds),
            memory,
        })
    }

    /// The models beside the student, each once.
    fn beside(&self) -> BTreeSet<ModelId> {
        super::teachers(self.train).collect()
    }

    /// As it will be, however small the models are here.
    fn models_stay(&self) -> bool {
        let mut models = self.beside();
        models.insert(self.train.start);
        let parameters = models.iter().map(|id| Weights::parameters(&self.shapes.configs[id.0 as usize])).sum();
        train::stay(parameters)
    }

    /// Parameters of the models that a trial starts from.
    fn given(&self, own: usize, others: usize) -> usize {
        let parameters = |id: ModelId, layers: usize| Weights::parameters(&cut(&self.shapes.configs[id.0 as usize], layers));
        let beside = self.beside().into_iter().filter(|id| *id != self.train.start);
        parameters(self.train.start, own) + beside.map(|id| parameters(id, others)).sum::<usize>()
    }

    /// The rows of so many steps.
    fn train(&self, train: &Train<Objective>, sources: &[Source], steps: u32, own: usize, others: usize) -> Result<Vec<Row>> {
        let weights = |id: ModelId, layers: usize| -> Arc<Weights> {
            let config = &self.shapes.configs[id.0 as usize];
            Arc::new(some_weights(cut(config, layers), &self.shapes.tokenizers[id.0 as usize]))
        };
        let quiet = Control::new(std::io::sink());
        let start = weights(train.start, own);
        let mut teachers: HashMap<ModelId, Arc<Weights>> = HashMap::new();
        for id in super::teachers(train) {
            // A student's own start is one model, whoever reads it.
            let one = if id == train.start { start.clone() } else { weights(id, others) };
            teachers.entry(id).or_insert(one);
        }
        let stage = train::Stage {
            name: "trial",
            seed: 0,
            stream: 0,
            train,
            steps,
            sources: sources.to_vec(),
            start,
            models: teachers,
            models_stay: Some(self.models_stay()),
            micro_batch: train.execution.micro_batch,
            recomputed: train.execution.checkpointing.layers(),
            device: self.device,
            kind: self.kind,
            control: &quiet,
        };
        train::train(&stage, None).map(|trained| trained.record.rows).map_err(|stopped| stopped.error)
    }
}
