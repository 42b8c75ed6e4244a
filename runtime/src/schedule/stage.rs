//! Execution of a stage: it is found in the store, or computed, stored and published.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use mopd_plan::events::{Event, FailureKind};
use mopd_plan::results::{ScoresFound, StageRecord};
use mopd_plan::{Learner, ModelId, Objective, Pretrained, PretrainedSource, Stage, Train};
use mopd_store::Lock;
use mopd_store::files::folder_of_model;

use super::exclusive::RunningTask;
use super::run::{Scheduler, TaskOutput, TaskStopped, lock};
use super::{Work, scores};
use crate::data;
use crate::environment::Environments;
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::model::merge::merge;
use crate::prepare::prompts::Prompts;
use crate::prepare::{DomainData, ModelSpec, trained, validated};
use crate::random::stream_of;
use crate::report::Record;
use crate::store::state::TrainState;
use crate::store::{Ancestor, CheckpointProvenance, Lookup};
use crate::train::{
    self, Checkpoints, LearnerTurn, NoiseSecret, RestoreMode, RolloutCache, RolloutsBySource, ScoreCache,
    Source, SourceTeachers, check_weights,
};
use crate::zip::zip_equal;

/// A stage that is being executed.
#[derive(Clone, Copy)]
pub(super) struct StageJob<'a> {
    pub(super) index: usize,
    pub(super) id: ModelId,
    pub(super) name: &'a str,
    pub(super) seed: u64,
    pub(super) key: &'a str,
    pub(super) inputs: &'a HashMap<usize, Arc<Weights>>,
}

/// The result of a computed stage.
pub(super) struct StageOutput {
    pub(super) weights: Weights,
    pub(super) record: Record,
    /// Further models that the stage trained.
    others: Vec<Weights>,
    /// `None` where no model's scores are stored.
    scores_found: Option<ScoresFound>,
    /// Time that earlier runs spent on this stage.
    seconds_before: f64,
}

impl StageOutput {
    /// The output of a stage that produces weights only.
    pub(super) fn new(weights: Weights) -> StageOutput {
        StageOutput {
            weights,
            record: Record::default(),
            others: Vec::new(),
            scores_found: None,
            seconds_before: 0.0,
        }
    }
}

impl Scheduler<'_> {
    pub(super) fn stage(
        &self,
        index: usize,
        id: ModelId,
        inputs: &HashMap<usize, Arc<Weights>>,
        running: &RunningTask,
        guard: &mut Option<Lock>,
    ) -> Result<TaskOutput, TaskStopped> {
        let job = self.job(index, id, inputs);
        let StageJob { name, seed, .. } = job;
        if let Some(found) = self.find(&job, guard)? {
            return Ok(found);
        }
        let started = Instant::now();
        let steps = super::steps(&self.plan.experiment.model(id).stage, self.domains);
        self.control.emit(&Event::StageStarted { stage: name.to_owned(), seed, steps });
        if let Some(loaded) = self.loaded(&job) {
            return Ok(loaded);
        }
        self.check_unchanged(index)?;
        let computed = self.compute(&job, steps)?;
        let computed = self.finite(&job, computed)?;
        self.store_result(&job, &computed)?;
        Ok(self.publish(&job, computed, started, running)?)
    }

    pub(super) fn job<'j>(
        &'j self,
        index: usize,
        id: ModelId,
        inputs: &'j HashMap<usize, Arc<Weights>>,
    ) -> StageJob<'j> {
        let (name, seed) = (self.plan.experiment.model(id).name.as_str(), self.tasks[index].seed);
        StageJob { index, id, name, seed, key: self.keys.of(index), inputs }
    }

    /// Finds and publishes a stage whose result is in the store.
    fn find(&self, job: &StageJob, guard: &mut Option<Lock>) -> Result<Option<TaskOutput>> {
        let StageJob { key, name, seed, .. } = *job;
        let find = || {
            // A stage with several models is found if all of them are.
            for other in self.keys.other_models(job.index) {
                match self.store.find_files(other) {
                    Lookup::Found(()) => {}
                    Lookup::Absent => return Lookup::Absent,
                    Lookup::Damaged(reason) => return Lookup::Damaged(reason),
                }
            }
            self.store.find(key, || self.base_of(job))
        };
        let Some(entry) = self.stored(job.index, guard, find)? else { return Ok(None) };
        self.drop_leftovers(key, guard.is_some());
        self.replay_guards(job.index, job.id, entry.record)?;
        let beside = matches!(self.plan.experiment.model(job.id).stage, Stage::Learner { .. });
        if beside && lock(&self.made).contains(key) {
            let stage = name.to_owned();
            self.control.emit(&Event::StageStarted { stage: stage.clone(), seed, steps: 0 });
            self.control.emit(&Event::StageFinished { stage, seed, seconds: 0.0, peak_memory: None });
        } else {
            self.control.emit(&Event::StageKept { stage: name.to_owned(), seed });
        }
        self.publish_model(job)?;
        Ok(Some(TaskOutput::Weights(Arc::new(entry.weights))))
    }

    /// A model loaded from files. It is neither stored nor published, because that would only copy the
    /// files.
    fn loaded(&self, job: &StageJob) -> Option<TaskOutput> {
        let loaded = self.specs[job.id.0 as usize].loaded.as_ref()?;
        let (stage, seed) = (job.name.to_owned(), job.seed);
        self.control.emit(&Event::StageFinished { stage, seed, seconds: 0.0, peak_memory: None });
        Some(TaskOutput::Weights(Arc::new(loaded.weights.clone())))
    }

    fn compute(&self, job: &StageJob, steps: u32) -> Result<StageOutput, TaskStopped> {
        let stream = self.plan.stages[job.id.0 as usize].stream;
        match &self.plan.experiment.model(job.id).stage {
            Stage::Initialise(_) => {
                let ModelSpec { config, tokenizer, .. } = self.specs[job.id.0 as usize].clone();
                Ok(StageOutput::new(Weights::initialise(config, tokenizer, job.seed, stream)))
            }
            Stage::Load(_) => unreachable!("what is read is opened before anything runs"),
            Stage::Merge(settings) => {
                let base = settings.base.map(|id| self.input(job, id));
                let models: Vec<Arc<Weights>> =
                    settings.models.iter().map(|id| self.input(job, *id)).collect();
                let models: Vec<&Weights> = models.iter().map(AsRef::as_ref).collect();
                Ok(StageOutput::new(merge(&settings.method, base.as_deref(), &models, job.seed, stream)?))
            }
            Stage::Train(settings) => match self.engine_of(job.id) {
                Some((engine, program)) => self.train_on(engine, program, job, settings, steps),
                None => self.train(job, &[(settings, LearnerTurn::ALONE)], steps),
            },
            Stage::Joint(joint) => {
                let learners = joint.learners.iter().map(|Learner { step, turn, every, train, .. }| {
                    (train, LearnerTurn { name: Some(step), place: *turn, every: *every })
                });
                self.train(job, &learners.collect::<Vec<_>>(), steps)
            }
            Stage::Learner { joint, .. } => {
                let joint = &self.plan.experiment.model(*joint).name;
                let message = format!(
                    "`{}` was removed from the store while it was needed; `{joint}` computes it",
                    job.name
                );
                Err(Error::new(FailureKind::Storage, message)
                    .help(format!("run again with `--from {joint}`"))
                    .into())
            }
        }
    }

    /// The weights of a stage's input.
    pub(super) fn input(&self, job: &StageJob, wanted: ModelId) -> Arc<Weights> {
        let found = self.maker(job, wanted);
        // Two models with the same key are the same model, and share one copy.
        let needs = &self.tasks[job.index].needs;
        let same = needs.iter().find(|need| self.keys.of(**need) == self.keys.of(*found)).unwrap_or(found);
        job.inputs[same].clone()
    }

    /// The task that produces a stage's input.
    pub(super) fn maker(&self, job: &StageJob, wanted: ModelId) -> &usize {
        let mut needs = self.tasks[job.index].needs.iter();
        let found = needs.find(|need| self.tasks[**need].work == Work::Stage(wanted));
        found.expect("a stage's inputs are among its needs")
    }

    /// Public location of a stage's input: its name on the hub, or its folder.
    pub(super) fn found_at(&self, job: &StageJob, wanted: ModelId) -> String {
        let folder = match &self.plan.experiment.model(wanted).stage {
            Stage::Load(Pretrained { source: PretrainedSource::HuggingFace { name, .. }, .. })
                if !self.base.join(name).is_dir() =>
            {
                return name.clone();
            }
            Stage::Load(Pretrained {
                source:
                    PretrainedSource::HuggingFace { name: folder, .. } | PretrainedSource::Checkpoint { folder },
                ..
            }) => data::path_as_written(&self.base, folder),
            stage if stage.loads_gguf() => self.store.path(&self.keys.of_base(*self.maker(job, wanted))),
            // The place of its base is written for this run in the folder of results.
            _ if self.store.is_adapter(self.keys.of(*self.maker(job, wanted))) => {
                let name = &self.plan.experiment.model(wanted).name;
                self.out.join("models").join(folder_of_model(name, job.seed))
            }
            _ => self.store.path(self.keys.of(*self.maker(job, wanted))),
        };
        std::path::absolute(&folder).unwrap_or(folder).to_string_lossy().into_owned()
    }

    /// The domains that a stage trains on, with the prompts that `rows` selects.
    fn sources<'s>(
        &'s self,
        settings: &Train<Objective>,
        rows: impl Fn(&'s DomainData) -> Result<&'s Prompts>,
    ) -> Result<Vec<Source<'s>>> {
        let mut sources = Vec::new();
        for share in &settings.mixture {
            let data = &self.domains[share.domain.0 as usize];
            let prompts = rows(data)?;
            sources.push(Source {
                name: &data.name,
                origin: data.origin,
                share: share.share,
                route: SourceTeachers::new(settings, share.domain, &trained(data, settings)?.dataset)?,
                scorers: settings.scorers.beside_the_routed(share.domain),
                prompts,
                tokens: prompts
                    .seen(&self.specs[settings.start.0 as usize].tokenizer, settings.sees.as_ref())?,
                limit: data.limit,
                verifier: &data.verifier,
            });
        }
        Ok(sources)
    }

    /// Trains the models of a stage, in turns.
    fn train(
        &self,
        job: &StageJob,
        learners: &[(&Train<Objective>, LearnerTurn)],
        steps: u32,
    ) -> Result<StageOutput, TaskStopped> {
        let from = self.from(job.index, job.name)?;
        self.train_from(job, learners, steps, from).map_err(|stopped| self.stopped(job, *stopped))
    }

    /// The learner of a stage at `place` among its learners, with its data and models.
    pub(super) fn learner<'s>(
        &'s self,
        job: &StageJob<'s>,
        settings: &'s Train<Objective>,
        turn: LearnerTurn<'s>,
        place: usize,
        steps: u32,
    ) -> Result<train::Stage<'s>> {
        let StageJob { index, id, name, seed, key, .. } = *job;
        let stream = super::stream(self.plan, id, self.domains);
        let inputs = settings.inputs().into_iter();
        Ok(train::Stage {
            name,
            seed,
            // Each learner has its own random numbers.
            stream: if place == 0 { stream } else { stream_of(&format!("{stream} learner {place}")) },
            secret: self.secret(settings, key)?,
            part: 0,
            train: settings,
            turn,
            steps,
            guards_from: self.guards_from(index),
            sources: self.sources(settings, |data| trained(data, settings))?.into(),
            start: train::beginning(settings, &self.input(job, settings.start), seed, stream),
            models: inputs.map(|id| (id, self.input(job, id))).collect(),
            models_fit: None,
            budget: self.device_memory.generation(self.widths[index] > 1),
            micro_batch: settings.options.execution.micro_batch,
            recomputed: settings.options.execution.checkpointing.layers(),
            saves_activations: settings.saves_activations(&settings.rollout),
            judge: settings.extrapolation.as_ref().map(|of| &self.domains[of.judged_by.0 as usize]),
            validation: match settings.options.validation {
                Some(_) => self.sources(settings, validated)?,
                None => Vec::new(),
            }
            .into(),
            place: self.place,
            kind: self.kind(),
            environments: Environments::In(&self.base),
            servers: self.servers,
            control: self.control,
        })
    }

    /// Trains them from a given state, in this process.
    pub(super) fn train_from(
        &self,
        job: &StageJob,
        learners: &[(&Train<Objective>, LearnerTurn)],
        steps: u32,
        from: Option<(TrainState, RestoreMode)>,
    ) -> Result<StageOutput, Box<train::StoppedTraining>> {
        let failed = |error: Error| {
            Box::new(train::StoppedTraining { error, last_good: None, record: Record::default() })
        };
        let StageJob { index, name, .. } = *job;
        let mut stages = Vec::with_capacity(learners.len());
        for (place, (settings, turn)) in learners.iter().copied().enumerate() {
            stages.push(self.learner(job, settings, turn, place, steps).map_err(failed)?);
        }
        let began = Instant::now();
        let keep = |state: &TrainState| self.keep(index, name, state);
        let writing = RefCell::new(None);
        let find = || self.rollouts(index, &mut writing.borrow_mut());
        let keep_written = |written: &RolloutsBySource| {
            self.check_unchanged(index)?;
            if let Err(error) = self.keep_rollouts(index, written) {
                self.control.warn(format!(
                    "the rollouts of the teachers of `{name}` cannot be stored: \
                    {error}"
                ));
            }
            // Others may read them now.
            writing.take();
            Ok(())
        };
        let known = scores::ScoreLocks::default();
        let scores = ScoreCache {
            keeps: &|model| self.keys.of_scores(index, model).is_some(),
            at_most: train::AT_MOST,
            find: &|scored, ranges| self.find_scores(index, &known, scored, ranges),
            keep: &|scored, bytes| self.keep_scores(index, &known, scored, bytes),
        };
        let checkpoints = Checkpoints {
            from,
            rollouts: Some(RolloutCache { find: &find, keep: &keep_written }),
            scores: Some(scores),
            pace: self.pace,
            keep: &keep,
        };
        let finished = train::train_in_turns(&stages, Some(checkpoints))?;
        Ok(StageOutput {
            weights: finished.weights,
            record: Record { names: self.record_names(job.id), ..finished.record },
            others: finished.others,
            scores_found: finished.found,
            seconds_before: finished.seconds - began.elapsed().as_secs_f64(),
        })
    }

    /// The secret of the noise of a private stage with this key; `None` for other stages.
    fn secret(&self, settings: &Train<Objective>, key: &str) -> Result<Option<NoiseSecret>> {
        settings.options.private.map(|_| Ok(NoiseSecret::new(&self.store.secret()?, key))).transpose()
    }

    fn provenance(&self, job: &StageJob, weights: &Weights) -> CheckpointProvenance {
        let ancestor = |need: &usize| Ancestor {
            name: self.name(&self.tasks[*need]),
            key: self.keys.of(*need).to_owned(),
        };
        let lineage = self.tasks[job.index].needs.iter().map(ancestor).collect();
        CheckpointProvenance::new(weights, job.name, job.seed, job.key, lineage)
            .forked_from(self.forked(job.index))
    }

    fn store_result(&self, job: &StageJob, computed: &StageOutput) -> Result<()> {
        let StageOutput { weights, record, others, .. } = computed;
        self.check_unchanged(job.index)?;
        let trains = self.plan.experiment.model(job.id).stage.trains();
        let base = |learner: usize, weights| self.stored_beside(job, trains.get(learner)?, weights);
        // The other models first: when the stage's own model is stored, all are.
        for (place, (key, weights)) in zip_equal(self.keys.other_models(job.index), others).enumerate() {
            let provenance = self.provenance(&StageJob { key, ..*job }, weights);
            let base = base(place + 1, weights);
            self.store.insert(key, &provenance, weights, &Record::default(), base.as_ref())?;
            lock(&self.made).insert(key.clone());
        }
        let (provenance, base) = (self.provenance(job, weights), base(0, weights));
        let insert = || self.store.insert(job.key, &provenance, weights, record, base.as_ref());
        self.keep_finished(job.index, insert)?;
        lock(&self.made).insert(job.key.to_owned());
        Ok(())
    }

    /// Fails unless all weights of a stage are finite: other numbers would spread to later stages.
    fn finite(&self, job: &StageJob, computed: StageOutput) -> Result<StageOutput, TaskStopped> {
        let trains = !self.plan.experiment.model(job.id).stage.trains().is_empty();
        let help = if trains {
            "the result is not stored: lower `lr`, or raise the optimizer's `epsilon`. The metrics of the steps \
             are in `metrics.parquet`"
        } else {
            "the result is not stored: its inputs are finite, so merge them with smaller weights"
        };
        let checked = std::iter::once(&computed.weights).chain(&computed.others).try_for_each(check_weights);
        match checked.map_err(|error| error.with_prefix(&format!("`{}`: ", job.name)).help(help)) {
            Ok(()) => Ok(computed),
            Err(error) => Err(TaskStopped { error, record: computed.record }),
        }
    }

    /// Adds a stored result to the run's results, and emits its event.
    fn publish(
        &self,
        job: &StageJob,
        computed: StageOutput,
        started: Instant,
        running: &RunningTask,
    ) -> Result<TaskOutput> {
        let (stage, seed) = (job.name.to_owned(), job.seed);
        let StageOutput { record, scores_found, seconds_before, .. } = computed;
        self.publish_model(job)?;
        // Later stages read the weights from the store, so that unused ones take no memory.
        let weights = self.store.weights(job.key, || self.base_of(job))?;
        let seconds = seconds_before.max(0.0) + started.elapsed().as_secs_f64();
        // An engine's processes are not measured.
        let peak_memory = match self.engine_of(job.id) {
            None => running.peak_memory(),
            Some(_) => None,
        };
        if let Some(ScoresFound { found, of }) = scores_found {
            self.control.emit(&Event::ScoresFound { stage: stage.clone(), seed, found, of });
        }
        for train in self.plan.experiment.model(job.id).stage.trains() {
            self.servers.warn_hedged(train, self.control);
        }
        self.keep_guards(job.index, job.id, &record);
        let predicted = self.predicted.stage(job.id);
        lock(&self.records).push(StageRecord {
            stage: stage.clone(),
            seed,
            seconds,
            peak_memory,
            predicted,
            scores_found,
        });
        self.control.emit(&Event::StageFinished { stage, seed, seconds, peak_memory });
        Ok(TaskOutput::Weights(Arc::new(weights)))
    }

    /// Handles training that failed: stores the weights before the failed step.
    fn stopped(&self, job: &StageJob, stopped: train::StoppedTraining) -> TaskStopped {
        let train::StoppedTraining { mut error, last_good, record } = stopped;
        if let Some(weights) = last_good {
            let usual = "lower `lr`, or bound the numbers that the objective divides by or exponentiates";
            let way_out = error.own_help().unwrap_or(usual).to_owned();
            let kept = match self.store.keep_last_good(job.key, &self.provenance(job, &weights), &weights) {
                Ok(folder) => format!("are in {}", folder.display()),
                Err(storage) => format!("could not be stored: {storage}"),
            };
            error = error.help(format!("{way_out}. The weights before that step {kept}"));
        }
        TaskStopped { error, record }
    }
}
