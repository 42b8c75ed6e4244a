//! The loop over the steps of a stage, with checkpoints between them. Most stages train one model. With
//! several models, a step gives each its turn: it is the student then, and the others have the weights that
//! their last turns left.

use std::time::Instant;

use mopd_kernels::os::trim_heap;
use mopd_plan::events::{Event, FailureKind};
use mopd_plan::results::ScoresFound;
use mopd_plan::{Objective, Train};

use super::checkpoints::{CheckpointWriter, Checkpoints, WriteWhen};
use super::hooks::StepAction;
use super::learners::{Learners, LearnersPosition};
use super::non_finite::check_learning_rate;
use super::scoring::CachedScores;
use super::stage::Stage;
use super::trainer::RestoreMode;
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::remote::CancelToken;
use crate::report::Record;
use crate::store::state::TrainState;
use crate::zip::zip_equal;

/// Why training stopped early, with the diagnostics of the steps before.
pub struct StoppedTraining {
    pub error: Error,
    /// The weights before the failed step, where it failed because of a number that is not finite.
    pub last_good: Option<Weights>,
    pub record: Record,
}

/// The result of training.
pub struct FinishedTraining {
    pub weights: Weights,
    /// Those of the other models that were trained.
    pub others: Vec<Weights>,
    pub record: Record,
    /// `None` where no model's scores are cached.
    pub found: Option<ScoresFound>,
    /// Training time in seconds, from the first step on.
    pub seconds: f64,
}

/// Trains to the last step. An interrupted run leaves a checkpoint: before the current step if its rollouts
/// were interrupted, else before the next step.
pub fn train(
    stage: &Stage,
    checkpoints: Option<Checkpoints>,
) -> Result<FinishedTraining, Box<StoppedTraining>> {
    train_in_turns(std::slice::from_ref(stage), checkpoints)
}

/// The same with several models: a stage for each, with equal numbers of steps. The first is the result.
pub fn train_in_turns(
    stages: &[Stage],
    mut checkpoints: Option<Checkpoints>,
) -> Result<FinishedTraining, Box<StoppedTraining>> {
    let started = Instant::now();
    let own: Vec<Vec<Train<Objective>>> = stages.iter().map(|stage| stage.train.own_parts()).collect();
    let parts: Vec<Vec<Stage>> = zip_equal(stages, &own).map(|(stage, own)| stage.parts(own)).collect();
    let from = checkpoints.as_mut().and_then(|checkpoints| checkpoints.from.take());
    let begun = stages
        .iter()
        .try_for_each(|stage| check_learning_rate(stage.name, stage.train, stage.steps))
        .and_then(|()| learners(&parts, checkpoints.as_ref()));
    let mut training = match begun {
        Ok(learners) => TrainingLoop {
            stage: &stages[0],
            parts: &parts,
            checkpoints: checkpoints.as_ref(),
            learners,
            writer: None,
            record: Record::default(),
            started,
            before: 0.0,
        },
        Err(error) => {
            return Err(Box::new(StoppedTraining { error, last_good: None, record: Record::default() }));
        }
    };
    match training.train_on(from) {
        Ok(()) => Ok(training.finished()),
        Err(EarlyStop { error, last_good }) => {
            Err(Box::new(StoppedTraining { error, last_good, record: training.record }))
        }
    }
}

/// The learners of a stage; `parts` has the parts of each model's stage.
fn learners<'a>(parts: &'a [Vec<Stage<'a>>], checkpoints: Option<&Checkpoints<'a>>) -> Result<Learners<'a>> {
    let caches = checkpoints.map(|checkpoints| (checkpoints.rollouts, checkpoints.scores));
    let (rollouts, scores) = caches.unwrap_or((None, None));
    Learners::new(parts, rollouts, scores)
}

/// Why training stopped early.
struct EarlyStop {
    error: Error,
    /// See [`StoppedTraining::last_good`].
    last_good: Option<Weights>,
}

impl From<Error> for EarlyStop {
    fn from(error: Error) -> EarlyStop {
        EarlyStop { error, last_good: None }
    }
}

/// A stage that is being trained.
struct TrainingLoop<'a> {
    /// The stage of the first model.
    stage: &'a Stage<'a>,
    parts: &'a [Vec<Stage<'a>>],
    checkpoints: Option<&'a Checkpoints<'a>>,
    learners: Learners<'a>,
    /// `None` where no checkpoints are written.
    writer: Option<CheckpointWriter<'a>>,
    /// The record of all steps so far.
    record: Record,
    started: Instant,
    /// Seconds that an earlier run spent on the steps before the checkpoint.
    before: f64,
}

impl TrainingLoop<'_> {
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Trains from the first step, or from a state, to the last step.
    fn train_on(&mut self, from: Option<(TrainState, RestoreMode)>) -> Result<(), EarlyStop> {
        let first = match from {
            Some((state, mode)) => self.resume_from(state, mode)?,
            None => LearnersPosition::default(),
        };
        // Warnings about these steps were given when they were done.
        let stop = |action| if let StepAction::Stop(error) = action { Some(error) } else { None };
        if let Some(error) = self.learners.take_actions().into_iter().find_map(stop) {
            return Err(error.into());
        }
        self.writer = self.checkpoints.map(|checkpoints| CheckpointWriter::new(checkpoints, first));
        for step in first.step..self.stage.steps {
            self.between_steps(step)?;
            self.step(step, first)?;
            self.act(step)?;
            if step + 1 < self.stage.steps {
                self.keep_if_due(LearnersPosition::before(step + 1))?;
            }
        }
        self.between_steps(self.stage.steps)?;
        if let Err(error) = self.confirm() {
            if matches!(error, Error::Interrupted) {
                self.keep(LearnersPosition::before(self.stage.steps), WriteWhen::Now);
            }
            return Err(error.into());
        }
        self.learners.end_of_training().into_iter().for_each(|text| self.stage.control.warn(text));
        Ok(())
    }

    /// Restores a state. Returns the position of the first turn after it.
    fn resume_from(&mut self, state: TrainState, mode: RestoreMode) -> Result<LearnersPosition> {
        let position = LearnersPosition::from_state(&state);
        match (self.learners.restore(&state, mode), mode) {
            (Ok(()), _) => {
                self.stage.servers.compare_canaries(self.stage.train, &state.position.canaries)?;
                (self.before, self.record) = (state.position.seconds, state.record);
                Ok(position)
            }
            (Err(problem), RestoreMode::Resume) => {
                let (name, step) = (self.stage.name, position.step);
                self.stage.control.warn(format!(
                    "the checkpoint of `{name}` at step {step} cannot be restored, so the stage starts \
                    again from its first step: {problem}"
                ));
                self.learners = learners(self.parts, self.checkpoints)?;
                Ok(LearnersPosition::default())
            }
            (Err(problem), RestoreMode::Fork) => Err(no_fork(position.step, &problem)),
        }
    }

    /// What hooks do between two steps, after `steps` of them.
    fn between_steps(&mut self, steps: u32) -> Result<(), EarlyStop> {
        let Err(error) = self.learners.between_steps(steps, &mut self.record) else { return Ok(()) };
        // An interrupted hook leaves everything as the step did.
        if self.stage.control.interrupted() || matches!(error, Error::Interrupted) {
            self.keep(LearnersPosition::before(steps), WriteWhen::Now);
        }
        Err(error.at_step(steps - 1).into())
    }

    /// A step: each model's turn, without the turns before `first`, where the stage was resumed.
    fn step(&mut self, step: u32, first: LearnersPosition) -> Result<(), EarlyStop> {
        let mut events = Vec::new();
        for turn in 0..self.learners.0.len() as u32 {
            let position = LearnersPosition { step, turn };
            let learner = self.learners.of_turn(turn);
            if position < first || !self.learners.0[learner].stage.turn.is_due(step) {
                continue;
            }
            if let Err(error) = self.stage.control.check() {
                self.keep(position, WriteWhen::Now);
                return Err(error.into());
            }
            events.push((learner, self.turn(position, learner)?));
        }
        if let Some(event) = of_step(events) {
            self.stage.control.emit(&event);
        }
        Ok(())
    }

    fn turn(&mut self, position: LearnersPosition, learner: usize) -> Result<Event, EarlyStop> {
        let step = position.step;
        let trainer = &mut self.learners.0[learner];
        let data = trainer.positions();
        let error = match trainer.step(step, &mut self.record) {
            Ok(event) => return Ok(event),
            Err(failed) => failed,
        };
        // Interrupted rollouts, or rollouts whose judges were interrupted, have changed only the position in
        // the data. Later updates have lost their rollouts.
        let stopped = self.stage.control.interrupted() || matches!(error, Error::Interrupted);
        let first = step.is_multiple_of(trainer.stage.train.options.updates_per_batch());
        if stopped && !error.is_non_finite() && first && trainer.restore_positions(&data).is_ok() {
            trainer.parts.iter_mut().for_each(|part| part.rollouts.clear());
            self.keep(position, WriteWhen::Now);
        }
        let trainer = &self.learners.0[learner];
        let last_good = error.is_non_finite().then(|| trainer.student.weights());
        let error = match trainer.stage.turn.name {
            Some(turn) => error.with_prefix(&format!("`step {turn}`: ")),
            None => error,
        };
        Err(EarlyStop { error: error.at_step(step), last_good })
    }

    /// Does what hooks ask for after a step: gives their warnings, and stops the stage if one of them says
    /// so.
    fn act(&mut self, step: u32) -> Result<(), EarlyStop> {
        let mut stops = Vec::new();
        for action in self.learners.take_actions() {
            match action {
                StepAction::Warn(text) => self.stage.control.warn(text),
                StepAction::Stop(error) => stops.push(error),
            }
        }
        let Some(error) = stops.into_iter().next() else { return Ok(()) };
        self.keep(LearnersPosition::before(step + 1), WriteWhen::Now);
        Err(error.into())
    }

    /// Asks served teachers whether their numbers are still those of the beginning, so that no checkpoint and
    /// no result contains a step that was trained on others.
    fn confirm(&self) -> Result<()> {
        let cancel = CancelToken::new(self.stage.control);
        self.parts.iter().flatten().try_for_each(|part| self.stage.servers.confirm(part.train, cancel))
    }

    /// Writes a checkpoint if one is due.
    fn keep_if_due(&mut self, position: LearnersPosition) -> Result<(), EarlyStop> {
        if self.writer.as_ref().is_some_and(|writer| writer.wants(position, WriteWhen::Due)) {
            self.confirm()?;
        }
        self.keep(position, WriteWhen::Due);
        Ok(())
    }

    /// Writes a checkpoint where one is wanted.
    fn keep(&mut self, position: LearnersPosition, when: WriteWhen) {
        let (begun, seconds) = (Instant::now(), self.seconds());
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.wants(position, when)) else { return };
        let state = self.learners.state(position, seconds, std::mem::take(&mut self.record));
        writer.write(self.stage.name, &state, begun, when, self.stage.control);
        self.record = state.record;
        // Steps leave holes between small blocks that stay, such as the rows of metrics, so that the heap of
        // a long stage grows; trimming returns unused memory now and then.
        trim_heap();
    }

    fn finished(self) -> FinishedTraining {
        let seconds = self.seconds();
        let found = self.learners.0[0].parts[0].kept.as_ref().map(CachedScores::found);
        let (weights, others) = self.learners.trained_models();
        FinishedTraining { weights, others, record: self.record, found, seconds }
    }
}

/// The event of a step. With several models it has the loss of the first, and tokens, rows and times of all.
fn of_step(mut events: Vec<(usize, Event)>) -> Option<Event> {
    events.sort_by_key(|(learner, _)| *learner);
    let mut events = events.into_iter().map(|(_, event)| event);
    let first = events.next()?;
    Some(events.fold(first, |mut all, event| {
        if let (
            Event::Step { tokens, seconds, rows, .. },
            Event::Step { tokens: more, seconds: longer, rows: others, .. },
        ) = (&mut all, event)
        {
            *tokens += more;
            rows.extend(others);
            seconds.rollout += longer.rollout;
            seconds.scoring += longer.scoring;
            seconds.update += longer.update;
        }
        all
    }))
}

fn no_fork(step: u32, problem: &str) -> Error {
    let message = format!("cannot fork from the checkpoint of step {step}: {problem}");
    Error::new(FailureKind::Runtime, message).help(
        "run it without the fork: it then starts from its \
        first step",
    )
}
