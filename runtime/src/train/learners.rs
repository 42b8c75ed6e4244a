//! The steps of a stage, one after the other, with what is kept between them. Most stages train one model;
//! where there are several, a step gives each of them its turn: it is the student then, and the others are as
//! their turns left them.

use std::rc::Rc;
use std::time::{Duration, Instant};

use mopd_compiler::plan::events::{Event, FailureKind};
use mopd_compiler::plan::{Objective, Train};
use tch::Tensor;

use super::cached_scores::CachedScores;
use super::guards::Acted;
use super::non_finite::check_learning_rate;
use super::restore::RestoreMode;
use super::trained::Trained;
use super::{
    Checkpoints, Finished, RolloutCache, ScoreCache, Stage, Stopped, TrainedModel, Trainer, exchange, peft,
    student,
};
use crate::failure::{Error, Result};
use crate::machine::transfer::to_vec;
use crate::model::{Decoder, Weights};
use crate::report::Record;
use crate::store::adapter;
use crate::store::state::{StateTensors, TrainState};
use crate::zip::zip_equal;
use mopd_kernels::os::trim_heap;

/// What to do about a guard that stopped a stage.
const STOPPED: &str =
    "its checkpoint is kept: with the guard changed or removed, the next run goes on from there";

/// Trains to the last step. Asked to stop, it leaves a checkpoint: of the step at whose rollouts it was, else
/// of the next one.
pub fn train(stage: &Stage, checkpoints: Option<Checkpoints>) -> Result<Finished, Box<Stopped>> {
    train_in_turns(std::slice::from_ref(stage), checkpoints)
}

/// The same with several models: a stage for each, of as many steps. The first is what the stage answers.
pub fn train_in_turns(stages: &[Stage], checkpoints: Option<Checkpoints>) -> Result<Finished, Box<Stopped>> {
    let stage = &stages[0];
    let stopped = |error: Error| Box::new(Stopped { error, last_good: None, record: Record::default() });
    stages.iter().try_for_each(check_learning_rate).map_err(stopped)?;
    let started = Instant::now();
    let own: Vec<Vec<Train<Objective>>> = stages.iter().map(|stage| stage.train.own_parts()).collect();
    let parts: Vec<Vec<Stage>> = zip_equal(stages, &own).map(|(stage, own)| stage.parts(own)).collect();
    let mut checkpoints = checkpoints;
    let (cache, scores) =
        checkpoints.as_ref().map_or((None, None), |checkpoints| (checkpoints.rollouts, checkpoints.scores));
    let new = || Learners::new(&parts, cache, scores);
    let mut learners = exchange::all_or_none(stage, new()).map_err(stopped)?;
    let (mut first, mut before, mut record) = (LearnersPosition::default(), 0.0, Record::default());
    if let Some((state, mode)) = checkpoints.as_mut().and_then(|checkpoints| checkpoints.from.take()) {
        match (learners.restore(&state, mode), mode) {
            (Ok(()), _) => {
                first = LearnersPosition { step: state.position.step, turn: state.position.turn };
                (before, record) = (state.position.seconds, state.record)
            }
            (Err(problem), RestoreMode::Resume) => {
                let step = state.position.step;
                stage.control.warn(format!(
                    "the checkpoint of `{}` at step {step} can't be restored, so the stage starts again from \
                     its first step: {problem}",
                    stage.name
                ));
                learners = new().map_err(stopped)?;
            }
            (Err(problem), RestoreMode::Fork) => return Err(stopped(no_fork(&state, &problem))),
        }
    }
    // They were said when the steps were done.
    if let Some(stop) = learners.look_back(&record).into_iter().find(Acted::stops) {
        return Err(Box::new(Stopped { error: stop.error(STOPPED), last_good: None, record }));
    }
    let seconds = || before + started.elapsed().as_secs_f64();
    let (mut last, mut took, mut kept, mut failed) = (Instant::now(), Duration::ZERO, first, false);
    let mut keep = |learners: &Learners, place: LearnersPosition, record: &mut Record, now: bool| {
        let Some(Checkpoints { pace, keep, .. }) = &checkpoints else { return };
        let wanted = place != kept && (now || pace.due(last.elapsed(), took));
        // Without its peers this process has only a part of the state. The next exchange reports the loss.
        if !exchange::first_wants(stage, wanted).unwrap_or(false) {
            return;
        }
        let begun = Instant::now();
        let mut state = learners.state(place, seconds(), std::mem::take(record));
        // The same where a peer is lost during the exchange.
        let outcome = learners.make_whole(&mut state).ok().map(|()| keep(&state));
        *record = state.record;
        let Some(outcome) = outcome else { return };
        match outcome {
            Ok(()) => (kept, failed) = (place, false),
            // A disk that stays full is said once, and again where it costs something.
            Err(error) if now || !failed => {
                failed = true;
                let next =
                    if now { "so the next run goes on from an earlier one" } else { "training goes on" };
                let step = place.step;
                stage
                    .control
                    .warn(format!("no checkpoint of `{}` at step {step}, {next}: {error}", stage.name));
            }
            Err(_) => {}
        }
        // Steps leave holes between small blocks that stay, such as the rows of metrics, so that the heap of
        // a long stage grows; what is in no use goes back now and then.
        trim_heap();
        (took, last) = (begun.elapsed(), Instant::now());
    };
    for step in first.step..=stage.steps {
        if let Err(error) = learners.extrapolate(step, &mut record) {
            // Who is stopped here is where the step left everything.
            if stage.control.interrupted() || matches!(error, Error::Interrupted) {
                keep(&learners, LearnersPosition { step, turn: 0 }, &mut record, true);
            }
            return Err(Box::new(Stopped { error: error.at_step(step - 1), last_good: None, record }));
        }
        if step == stage.steps {
            break;
        }
        let mut events = Vec::new();
        for turn in 0..stages.len() as u32 {
            let place = LearnersPosition { step, turn };
            let learner = learners.of_turn(turn);
            if (step, turn) < (first.step, first.turn) || !learners.0[learner].stage.turn.comes(step) {
                continue;
            }
            if let Err(error) = exchange::all_or_none(stage, stage.control.check()) {
                keep(&learners, place, &mut record, true);
                return Err(Box::new(Stopped { error, last_good: None, record }));
            }
            let trainer = &mut learners.0[learner];
            let data = trainer.positions();
            match trainer.step(step, &mut record) {
                Ok(event) => events.push((learner, event)),
                Err((error, finite)) => {
                    // Rollouts that are stopped, or whose judges were stopped along with the run, have
                    // changed nothing but the place in the data. Later passes have lost their rollouts.
                    // Of several processes that go on together, all have heard the same.
                    let interrupted = stage.peers.is_none() && stage.control.interrupted();
                    let stopped = interrupted || matches!(error, Error::Interrupted);
                    let first_pass = step.is_multiple_of(trainer.stage.train.passes.max(1));
                    if stopped && finite && first_pass && trainer.restore_positions(&data).is_ok() {
                        keep(&learners, place, &mut record, true);
                    }
                    let trainer = &learners.0[learner];
                    let last_good = (!finite).then(|| trainer.trained.weights(&trainer.model));
                    let error = match trainer.stage.turn.name {
                        Some(turn) => error.behind(&format!("`step {turn}`: ")),
                        None => error,
                    };
                    return Err(Box::new(Stopped { error: error.at_step(step), last_good, record }));
                }
            }
        }
        if let Some(event) = of_step(events) {
            stage.control.emit(&event);
        }
        let acted = learners.acted();
        acted.iter().filter(|acted| !acted.stops()).for_each(|acted| stage.control.warn(acted.message()));
        if let Some(stop) = acted.iter().find(|acted| acted.stops()) {
            keep(&learners, LearnersPosition { step: step + 1, turn: 0 }, &mut record, true);
            return Err(Box::new(Stopped { error: stop.error(STOPPED), last_good: None, record }));
        }
        if step + 1 < stage.steps {
            keep(&learners, LearnersPosition { step: step + 1, turn: 0 }, &mut record, false);
        }
    }
    learners.0.iter().flat_map(|trainer| trainer.guards.untested()).for_each(|text| stage.control.warn(text));
    let found = learners.0[0].parts[0].kept.as_ref().map(CachedScores::found);
    let answers = learners.trained_models();
    match answers {
        Ok((TrainedModel { weights, adapter }, others)) => {
            Ok(Finished { weights, adapter, others, record, found, seconds: seconds() })
        }
        Err(error) => Err(Box::new(Stopped { error, last_good: None, record })),
    }
}

/// Between two turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LearnersPosition {
    /// Steps done.
    pub step: u32,
    /// Turns of the next one that are done.
    pub turn: u32,
}

/// What is said of a step: of several models, how the first of them fares, and what all took.
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

/// The models that learn in a stage.
pub(super) struct Learners<'a>(pub(super) Vec<Trainer<'a>>);

impl<'a> Learners<'a> {
    /// Of each model, the parts of its stage.
    pub(super) fn new(
        parts: &'a [Vec<Stage<'a>>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Learners<'a>> {
        let models: Vec<Rc<Decoder>> = parts.iter().map(|stages| student(&stages[0])).collect();
        let trainer = |(place, stages): (usize, &'a Vec<Stage<'a>>)| {
            Trainer::among(stages, place, &models, cache, scores)
        };
        Ok(Learners(parts.iter().enumerate().map(trainer).collect::<Result<_>>()?))
    }

    /// Whose turn it is.
    pub(super) fn of_turn(&self, turn: u32) -> usize {
        let its = |trainer: &Trainer| trainer.stage.turn.place == turn;
        self.0.iter().position(its).expect("each turn is one model's")
    }

    /// A state with what other processes keep of it.
    fn make_whole(&self, state: &mut TrainState) -> Result<()> {
        let trainer = &self.0[0];
        let Some(peers) = trainer.stage.peers else { return Ok(()) };
        let parameters = trainer.trained.parameters(&trainer.model).0.len();
        exchange::whole_moments(peers, &mut state.tensors, parameters)
    }

    /// What comes after so many steps.
    fn extrapolate(&mut self, steps: u32, record: &mut Record) -> Result<()> {
        self.0.iter_mut().try_for_each(|trainer| trainer.extrapolate(steps, record))
    }

    /// What guards did after the steps that a record has.
    fn look_back(&mut self, record: &Record) -> Vec<Acted<'a>> {
        self.0.iter_mut().for_each(|trainer| trainer.guards.replay(&record.rows));
        self.acted()
    }

    /// What guards did since the last time.
    fn acted(&mut self) -> Vec<Acted<'a>> {
        self.0.iter_mut().flat_map(|trainer| trainer.guards.take_acted()).collect()
    }

    pub(super) fn state(
        &self,
        LearnersPosition { step, turn }: LearnersPosition,
        seconds: f64,
        record: Record,
    ) -> TrainState {
        let mut state = self.0[0].state(step, seconds, record);
        state.position.turn = turn;
        for (place, trainer) in self.0.iter().enumerate().skip(1) {
            let TrainState { position, tensors, .. } = trainer.state(step, seconds, Record::default());
            let named = tensors.0.into_iter().map(|(name, tensor)| (prefix(place) + &name, tensor));
            state.tensors.0.extend(named);
            state.position.others.push(position);
        }
        state
    }

    fn restore(&mut self, state: &TrainState, mode: RestoreMode) -> Result<(), String> {
        let (has, trains) = (1 + state.position.others.len(), self.0.len());
        if has != trains {
            return Err(format!("it is of {has} models, where the stage trains {trains}"));
        }
        let (first, others) = self.0.split_first_mut().expect("a stage trains a model");
        match first.stage.peers {
            None => first.restore(state, mode)?,
            Some(peers) => {
                let parameters = first.trained.parameters(&first.model).0.len();
                let tensors = exchange::own_moments(peers, &state.tensors, parameters)?;
                let (position, record) = (state.position.clone(), Record::default());
                first.restore(&TrainState { position, tensors, record }, mode)?;
            }
        }
        zip_equal(others, &state.position.others).enumerate().try_for_each(|(place, (trainer, position))| {
            let prefix = prefix(place + 1);
            let own = state.tensors.0.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor.shallow_clone()))
            });
            let tensors = StateTensors(own.collect());
            let state = TrainState { position: position.clone(), tensors, record: Record::default() };
            trainer.restore(&state, mode)
        })
    }

    /// The models that were trained: the stage's own, then the others.
    fn trained_models(self) -> Result<(TrainedModel, Vec<TrainedModel>)> {
        // What is only needed to go on leaves before the answers take their room.
        let left = |trainer| {
            let Trainer { stage, model, trained, average, .. } = trainer;
            (stage, model, trained, average)
        };
        let left: Vec<_> = self.0.into_iter().map(left).collect();
        let answer = |(stage, model, trained, average): (&Stage, Rc<Decoder>, Trained, _)| {
            let weights = weights(stage, &model, &trained, average);
            drop(model);
            let adapter = trained.adapter().map_or_else(
                || Ok(adapter::AdapterFiles::new()),
                |adapted| peft::files(adapted, &stage.start_place),
            )?;
            Ok(TrainedModel { weights, adapter })
        };
        let mut answers = left.into_iter().map(answer);
        let first = answers.next().expect("a stage trains a model")?;
        Ok((first, answers.collect::<Result<_>>()?))
    }
}

/// Of what a checkpoint has of another model than the first.
fn prefix(place: usize) -> String {
    format!("learner.{place}.")
}

/// The weights that a stage answers.
fn weights(stage: &Stage, model: &Decoder, trained: &Trained, average: Option<(f64, Tensor)>) -> Weights {
    match average {
        Some((_, average)) => stage.start.with_values(to_vec(&trained.with_the_frozen(average))),
        None => trained.weights(model),
    }
}

fn no_fork(state: &TrainState, problem: &str) -> Error {
    let message = format!("cannot fork from the checkpoint of step {}: {problem}", state.position.step);
    Error::new(FailureKind::Runtime, message).help("run it without the fork: it begins with its first step")
}
