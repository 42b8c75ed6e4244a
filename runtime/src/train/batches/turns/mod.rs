//! `turns(...)`: the student's own turns, with a program's observations between them. The student's tokens
//! are trained on; observations are only read. Where prompts are conversations, so are episodes.

mod dialogue;

use std::cell::Cell;
use std::ops::Range;

use mopd_expr::batch::{self, Layout};
use mopd_expr::interpret::interpret;
use mopd_plan::events::FailureKind;
use mopd_plan::producers::{ExpertTurns, Turns};
use mopd_plan::{AdaptiveSchedule, Formula, PlainSignal, Sampling, Signal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::dialogue::Dialogue;
use super::sample::{NumberedDraw, in_groups, judge_by};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::environment::{
    Environment, EnvironmentError, Environments, Episode, Observation, Start, StudentTurn, recorded,
};
use crate::failure::{Error, Result};
use crate::random::{Key, Purpose};
use crate::rollout::{Completion, Extra, Prompt, SegmentedTokens, Sequence, rollout};
use crate::tokenizer::{Token, Tokenizer};
use crate::train::stage::StageSources;
use crate::zip::zip_equal;

pub(super) struct TurnsProducer {
    /// `None` in a trial, which does not run programs on its random completions.
    environment: Option<Environment>,
    command: String,
    at_most: AdaptiveSchedule,
    /// How many of the first turns are trained on; all without it.
    first_turns: Option<Formula>,
    /// The recorded turns that are played before the student's.
    expert_turns: Option<ExpertTurns<Formula>>,
    sampling: Sampling,
    judged: bool,
    /// Whether it was said that a chat template writes earlier turns otherwise.
    told_of_rewriting: Cell<bool>,
}

/// The reward that each turn of a completion got. Only where it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnRewards(Vec<f64>);

impl Extra for TurnRewards {
    const NAME: &str = "turn_rewards";
}

impl TurnRewards {
    /// The rewards of an episode's last turns, which are the student's.
    fn of(episode: &Episode, turns: usize) -> Option<TurnRewards> {
        let rewards: Option<Vec<f64>> = episode.rewards().collect();
        let mut rewards = rewards?;
        let expert = rewards.len().checked_sub(turns).expect("every turn has a reply");
        rewards.drain(..expert);
        Some(TurnRewards(rewards))
    }

    /// For each trained token of a sequence, the reward of its turn. Perhaps only first turns are left of it.
    pub fn of_tokens(sequence: &Sequence) -> Option<Vec<f32>> {
        let TurnRewards(rewards) = sequence.extra()?;
        let turns: Vec<Range<usize>> = sequence.completion.turns().collect();
        assert!(turns.len() <= rewards.len(), "a reward for each turn");
        let of_turn = |(turn, reward): (Range<usize>, f64)| std::iter::repeat_n(reward as f32, turn.len());
        Some(turns.into_iter().zip(rewards).flat_map(of_turn).collect())
    }
}

/// One episode so far.
struct Played {
    number: u32,
    sample: u32,
    source: usize,
    record: usize,
    /// The prompt, and the environment's observation before the first turn.
    prompt: Vec<Token>,
    observed_first: bool,
    /// The student's turns, and the observations between.
    completion: SegmentedTokens,
    /// The messages, where the prompt is a conversation.
    dialogue: Option<Dialogue>,
    /// Whether the episode is over: nothing more is written.
    over: bool,
}

pub(super) fn make(turns: &Turns, context: &ProducerContext) -> Result<TurnsProducer> {
    let Turns {
        environment: program,
        time_limit_seconds,
        depends: _,
        at_most,
        first_turns,
        expert_turns,
        sampling,
    } = turns.clone();
    let environment = match context.stage.environments {
        Environments::In(folder) => Some(Environment::new(&program, time_limit_seconds, folder)?),
        Environments::Untouched => None,
    };
    Ok(TurnsProducer {
        environment,
        command: program.to_string(),
        at_most,
        first_turns,
        expert_turns,
        sampling,
        judged: context.judged,
        told_of_rewriting: Cell::new(false),
    })
}

impl SequenceProducer for TurnsProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let stage = batch.stage;
        let sampling = self.sampling.at(batch.step, stage.steps, batch.climbed);
        let at_most = self.at_most.at(batch.step, stage.steps, batch.climbed).round().max(1.0) as u32;
        let mut played: Vec<Played> = draws
            .iter()
            .flat_map(|draw| (0..sampling.n.max(1)).map(|sample| Played::new(&stage.sources, draw, sample)))
            .collect();
        let seeds = batch.key(Purpose::Environment);
        let dataset = |one: &Played| &stage.sources[one.source].prompts.dataset;
        let records: Vec<Map<String, Value>> =
            played.iter().map(|one| dataset(one).object(one.record)).collect();
        let mut episodes: Vec<Episode> = zip_equal(&played, &records)
            .map(|(one, record)| {
                // Samples of a prompt have the same seed, so that a group compares what the student does.
                // 32 bits: every language's random generators take them.
                let seed = seeds.row(one.number, 0).below(1 << 32) as u64;
                let (domain, prompt) = (stage.sources[one.source].name, dataset(one).prompt(one.record));
                let row = dataset(one).place(one.record);
                Episode::new(Start { seed, domain, prompt, record, row }, one.dialogue.is_some())
            })
            .collect();
        let all: Vec<usize> = (0..played.len()).collect();
        self.answer(&mut played, &mut episodes, &all, batch, &sampling)?;
        self.play_expert(&mut played, &mut episodes, &records, batch, &sampling)?;
        for turn in 0..at_most {
            let open: Vec<usize> = (0..played.len()).filter(|index| !played[*index].over).collect();
            if open.is_empty() {
                break;
            }
            let completions = write(batch, &played, &open, &sampling, batch.key(purpose).turn(turn))?;
            for (index, completion) in zip_equal(&open, completions) {
                episodes[*index].act(played[*index].act(&stage.start.tokenizer, completion)?);
            }
            if turn + 1 == at_most {
                played.iter_mut().for_each(|one| one.over = true);
            }
            self.answer(&mut played, &mut episodes, &open, batch, &sampling)?;
        }
        if let Some(environment) = &self.environment {
            environment.end(&episodes);
        }
        Ok(in_groups(self.sequences(batch, played, &episodes)?, sampling.n.max(1) as usize))
    }
}

impl TurnsProducer {
    /// Plays the expert's turns. To the environment they are the student's actions; they are not trained on.
    fn play_expert(
        &self,
        played: &mut [Played],
        episodes: &mut [Episode],
        records: &[Map<String, Value>],
        batch: &Batch,
        sampling: &Sampling,
    ) -> Result<()> {
        let Some(expert) = &self.expert_turns else { return Ok(()) };
        let tokenizer = &batch.stage.start.tokenizer;
        let turns = |record| {
            let all = recorded(record).expect("the data was looked at before the run");
            let count = match expert {
                ExpertTurns::First(turns) => at_step(turns, batch)?,
                ExpertTurns::AllBut(turns) => all.len().saturating_sub(at_step(turns, batch)?),
            };
            Ok(all.into_iter().take(count).collect::<Vec<&str>>())
        };
        let turns: Vec<Vec<&str>> = records.iter().map(turns).collect::<Result<_>>()?;
        for turn in 0..turns.iter().map(Vec::len).max().unwrap_or(0) {
            let acting: Vec<usize> = (0..played.len()).filter(|index| turn < turns[*index].len()).collect();
            for index in &acting {
                let text = turns[*index][turn];
                played[*index].observe(&tokenizer.completion("", text)?, batch)?;
                episodes[*index].act(StudentTurn { text: text.to_owned(), ..StudentTurn::default() });
            }
            self.answer(played, episodes, &acting, batch, sampling)?;
            if let Some(over) = acting.iter().find(|index| played[**index].over) {
                let (command, episode) = (self.command.clone(), episodes[*over].named());
                return Err(EnvironmentError::Over { command, episode }.into());
            }
        }
        Ok(())
    }

    /// Appends the environment's observations to the episodes in `asked`: its answers to their start, or
    /// to their last action.
    fn answer(
        &self,
        played: &mut [Played],
        episodes: &mut [Episode],
        asked: &[usize],
        batch: &Batch,
        sampling: &Sampling,
    ) -> Result<()> {
        let tokenizer = &batch.stage.start.tokenizer;
        let Some(environment) = &self.environment else {
            // The length of observations is not known: in a trial they are as long as turns.
            let observation = vec![tokenizer.padding(); sampling.max_tokens as usize];
            return asked.iter().try_for_each(|index| {
                let one = &mut played[*index];
                // A made-up observation must not be the reason that a first turn has no room.
                let room = one.room(batch).0 > observation.len();
                if room || !one.completion.is_empty() { one.observe(&observation, batch) } else { Ok(()) }
            });
        };
        environment.answer(episodes, batch.stage.control)?;
        environment.take_warnings().into_iter().for_each(|warning| batch.stage.control.warn(warning));
        for (one, episode) in asked.iter().map(|index| (*index, &episodes[*index])) {
            let one = &mut played[one];
            one.over |= episode.done();
            let observation = episode.last().and_then(|reply| reply.observation.as_ref());
            let Some(observation) = observation.filter(|_| !one.over) else { continue };
            let tokens = match (observation, &mut one.dialogue) {
                (Observation::Text(text), _) => tokenizer.encode(text)?,
                (Observation::Messages(messages), Some(dialogue)) if one.completion.is_empty() => {
                    one.prompt = dialogue.before_first(tokenizer, messages)?;
                    one.observed_first = true;
                    Vec::new()
                }
                (Observation::Messages(messages), Some(dialogue)) => dialogue.behind(tokenizer, messages)?,
                (Observation::Messages(_), None) => unreachable!("messages belong to a conversation"),
            };
            if tokens.is_empty() && !one.completion.is_empty() {
                // The student's turns before and after it would be one turn.
                let (command, observation) = (self.command.clone(), observation.to_string());
                return Err(EnvironmentError::NoTokens { command, observation }.into());
            }
            one.observe(&tokens, batch)?;
        }
        Ok(())
    }

    /// Warns once if the chat template writes earlier turns otherwise than the student did.
    fn tell_of_rewriting(&self, batch: &Batch, one: &Played) {
        let Some(dialogue) = one.dialogue.as_ref().filter(|_| !self.told_of_rewriting.get()) else { return };
        let Some(change) = dialogue.rewritten(&batch.stage.start.tokenizer) else { return };
        self.told_of_rewriting.set(true);
        batch.stage.control.warn(format!(
            "`{}`: the chat template writes earlier turns otherwise ({change}); the student and its teachers \
             read each turn as the student wrote it",
            batch.stage.name
        ));
    }

    /// The sequences with rewards: the environment's, or the domains' verifiers' if it gives none.
    fn sequences(&self, batch: &Batch, played: Vec<Played>, episodes: &[Episode]) -> Result<Vec<Sequence>> {
        let mut list = Vec::with_capacity(played.len());
        let train = &batch.stage.train;
        let signals = [train.objective.signals(), train.scorers.signals()].concat();
        let reads_turns = signals.contains(&Signal::Plain(PlainSignal::TurnReward));
        let read: Vec<String> = signals.into_iter().filter_map(part).collect();
        for (one, episode) in zip_equal(played, episodes) {
            self.tell_of_rewriting(batch, &one);
            let (mut reward, mut reward_parts) = (None, Vec::new());
            if let Some(environment) = &self.environment {
                reward = environment.reward(episode)?;
                if reward.is_some() {
                    reward_parts = environment.reward_parts(episode, &read)?;
                }
            }
            let played = Sequence { truncated: !episode.done(), reward, reward_parts, ..one.sequence() };
            let turns = played.completion.turns().count();
            let of_turns = reads_turns.then(|| TurnRewards::of(episode, turns)).flatten();
            list.push(match of_turns {
                Some(rewards) => played.with_extra(&rewards),
                None => played,
            });
        }
        if self.judged && list.iter().all(|sequence| sequence.reward.is_none()) {
            // The answer is in the last turn of an episode.
            judge_by(batch.stage.texts(), &mut list, |sequence| {
                let last = sequence.completion.turns().last().unwrap_or_default();
                sequence.completion[last].to_vec()
            })?;
        }
        if let Some(turns) = &self.first_turns {
            let turns = at_step(turns, batch)?.max(1);
            list.iter_mut().for_each(|sequence| sequence.completion.cut_after_turns(turns));
        }
        Ok(list)
    }
}

/// The name of the part of the reward that a signal is.
fn part(signal: Signal) -> Option<String> {
    match signal {
        Signal::RewardPart { part } => Some(part),
        _ => None,
    }
}

/// The value of a formula at this step, rounded to a whole number.
fn at_step(formula: &Formula, batch: &Batch) -> Result<usize> {
    let layout = Layout { groups: 1, ..Layout::default() };
    let now = batch::Batch { layout, step: batch.step, steps: batch.stage.steps, ..batch::Batch::default() };
    let values = interpret(&formula.graph, &[formula.value], &now)
        .map_err(|error| Error::new(FailureKind::Runtime, format!("a number of turns: {error}")))?;
    Ok(values.get(formula.value)[0].round().max(0.0) as usize)
}

/// The next turn of each open episode.
fn write(
    batch: &Batch,
    played: &[Played],
    open: &[usize],
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Completion>> {
    let n = sampling.n.max(1) as usize;
    // Samples that have read only their prompt share its prefill.
    let alike = played.iter().all(|one| one.completion.is_empty() && !one.observed_first);
    let of_prompt = if alike { n } else { 1 };
    let sampling = Sampling { n: of_prompt as u32, ..sampling.clone() };
    let contexts: Vec<Vec<Token>> = open
        .iter()
        .step_by(of_prompt)
        .map(|index| [&*played[*index].prompt, &*played[*index].completion].concat())
        .collect();
    let prompts: Vec<Prompt> = zip_equal(&contexts, open.iter().step_by(of_prompt))
        .map(|(tokens, index)| {
            let one = &played[*index];
            Prompt { tokens, id: one.number, sample: one.sample, limit: Some(one.limit(batch)) }
        })
        .collect();
    let Batch { stage, student, .. } = batch;
    rollout(*student, &prompts, &sampling, key, stage.budget, stage.control)
}

impl Played {
    fn new(sources: &StageSources, NumberedDraw { number, draw }: &NumberedDraw, sample: u32) -> Played {
        Played {
            number: *number,
            sample,
            source: draw.source,
            record: draw.record,
            prompt: sources[draw.source].tokens.get(draw.record).to_vec(),
            observed_first: false,
            completion: SegmentedTokens::default(),
            dialogue: sources[draw.source].prompts.dataset.conversation(draw.record).map(Dialogue::new),
            over: false,
        }
    }

    /// Appends a turn of the student. Returns it for the environment.
    fn act(&mut self, tokenizer: &Tokenizer, completion: Completion) -> Result<StudentTurn> {
        let action = match &mut self.dialogue {
            // The turn as it is, even if it was truncated.
            None => StudentTurn { text: tokenizer.decode(&completion.tokens)?, ..StudentTurn::default() },
            Some(dialogue) => {
                // Nobody replies to half a message.
                self.over |= completion.truncated;
                dialogue.act(tokenizer, &completion.tokens, completion.truncated)?
            }
        };
        self.completion.push_completion(completion);
        Ok(action)
    }

    /// How many tokens still fit into the context, and how many of the student's tokens into the domain's
    /// limit.
    fn room(&self, batch: &Batch) -> (usize, u32) {
        let limit = batch.stage.sources[self.source].limit;
        (
            batch.student.config.context.saturating_sub(self.prompt.len() + self.completion.len()),
            limit.map_or(u32::MAX, |limit| limit.saturating_sub(self.completion.trained() as u32)),
        )
    }

    /// The most tokens that the next turn may have.
    fn limit(&self, batch: &Batch) -> u32 {
        let (context, limit) = self.room(batch);
        limit.min(u32::try_from(context).unwrap_or(u32::MAX))
    }

    /// Appends an observation. If it leaves no room for another turn, the episode ends without it.
    fn observe(&mut self, observation: &[Token], batch: &Batch) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let (context, limit) = self.room(batch);
        let first = self.completion.is_empty();
        if context <= observation.len() || limit == 0 {
            self.over = true;
            let message = format!(
                "a prompt of {} tokens and the environment's first observation of {} leave no room in the \
                context of {}",
                self.prompt.len(),
                observation.len(),
                batch.student.config.context
            );
            let help = "give the model a longer context, or shorten the environment's observations";
            return if first { Err(Error::new(FailureKind::Context, message).help(help)) } else { Ok(()) };
        }
        if first {
            self.prompt.extend(observation);
            self.observed_first = true;
            return Ok(());
        }
        self.completion.push_context(observation);
        Ok(())
    }

    fn sequence(self) -> Sequence {
        let ends = self.completion.turns().last().map(|turn| turn.end);
        assert_eq!(ends, Some(self.completion.len()), "an episode ends with what the student wrote");
        Sequence {
            prompt: self.observed_first.then_some(self.prompt),
            ..Sequence::new(self.source, self.record, self.completion)
        }
    }
}
