//! Results that are an adapter beside the model that it changes: which those are, and where that model is.

use std::sync::Arc;
use std::time::Duration;

use mopd_plan::{ModelId, Objective, Stage, Train, Trainable};

use super::run::Scheduler;
use super::stage::StageJob;
use crate::failure::Result;
use crate::formats::peft;
use crate::model::Weights;
use crate::report::Record;
use crate::store::{AdapterBase, CheckpointProvenance};

impl Scheduler<'_> {
    /// How the model of a stage was trained, and the stage that did it: one with several models trains those
    /// of others too.
    fn training<'j>(&'j self, job: &StageJob<'j>) -> Option<(StageJob<'j>, &'j Train<Objective>)> {
        match &self.plan.experiment.model(job.id).stage {
            Stage::Train(train) => Some((*job, train)),
            Stage::Joint(joint) => Some((*job, &joint.learners.first()?.train)),
            Stage::Learner { joint: id, learner, .. } => {
                let Stage::Joint(joint) = &self.plan.experiment.model(*id).stage else { return None };
                let index = *self.tasks[job.index].needs.first()?;
                Some((StageJob { index, ..*job }, &joint.learners.get(*learner as usize)?.train))
            }
            Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) => None,
        }
    }

    /// The model that the adapter of a stored result changes: the one that its stage began with.
    pub(super) fn base_of(&self, job: &StageJob) -> Result<Arc<Weights>> {
        let (trainer, train) = self.training(job).expect("only a trained model has an adapter");
        let start = *self.maker(&trainer, train.start);
        if let Some(weights) = job.inputs.get(&start) {
            return Ok(weights.clone());
        }
        if let Some(loaded) = &self.specs[train.start.0 as usize].loaded {
            return Ok(Arc::new(loaded.weights.clone()));
        }
        let base = self.job(start, train.start, job.inputs);
        self.store.weights(base.key, || self.base_of(&base)).map(Arc::new)
    }

    /// The public location of that model, for the files of the adapter.
    pub(super) fn place_of_base(&self, job: &StageJob) -> Option<String> {
        let (trainer, train) = self.training(job)?;
        Some(self.found_at(&trainer, train.start))
    }

    /// The base of a new result that is stored as an adapter. `None` where the whole model is stored: PEFT
    /// would make another model of its adapter, or it has none.
    pub(super) fn stored_beside(
        &self,
        job: &StageJob,
        train: &Train<Objective>,
        weights: &Weights,
    ) -> Option<AdapterBase> {
        let Trainable::Adapter(settings) = &train.trainable else { return None };
        // Averaged weights are not the merge of an adapter.
        let merged = weights.adapted()?;
        let start = &self.plan.experiment.model(train.start).stage;
        let why = if merged.base().adapted().is_some() {
            Some("the model that it started from has an adapter too, and PEFT does not add one to another")
        } else if !merged.base().shares_numbers(&self.input(job, train.start)) {
            Some("the stage gave the model another head")
        } else {
            peft::obstacle(&weights.config, settings)
        };
        if let Some(why) = why {
            self.control.warn(format!("`{}` is stored as a whole model, not as an adapter: {why}", job.name));
            return None;
        }
        let of_store = !matches!(start, Stage::Load(_));
        let key = of_store.then(|| self.keys.of(*self.maker(job, train.start)).to_owned());
        let key = key.or_else(|| self.key_of_file(job, train.start));
        Some(AdapterBase { place: self.found_at(job, train.start), key })
    }

    /// The key under which the store has the model of a GGUF file as a folder: PEFT adds no adapter to the
    /// file. `None` for other models.
    pub(super) fn key_of_file(&self, job: &StageJob, start: ModelId) -> Option<String> {
        let stage = &self.plan.experiment.model(start).stage;
        stage.loads_gguf().then(|| self.keys.of_base(*self.maker(job, start)))
    }

    /// Stores the model of a GGUF file that the adapter of a stored result changes, if it is not stored yet.
    pub(super) fn store_file(&self, job: &StageJob) -> Result<()> {
        let Some((trainer, train)) = self.training(job) else { return Ok(()) };
        let Some(key) = self.key_of_file(&trainer, train.start) else { return Ok(()) };
        let mut held = None;
        while !self.store.has(&key) {
            // Another stage of this run, or another run, may be writing it.
            held = self.store.try_lock(&key)?;
            if held.is_some() {
                break;
            }
            self.control.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        if held.is_none() || self.store.has(&key) {
            return Ok(());
        }
        let weights = self.base_of(job)?;
        let name = &self.plan.experiment.model(train.start).name;
        let provenance = CheckpointProvenance::new(&weights, name, job.seed, &key, Vec::new());
        self.store.insert(&key, &provenance, &weights, &Record::default(), None)
    }
}
