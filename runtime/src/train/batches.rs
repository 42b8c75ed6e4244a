//! What a step trains on: sequences from the data, from the student, or from the teachers.

use std::ops::Range;

use mopd_compiler::expr::batch::{Batch, Domains, Layout, Runs};
use mopd_compiler::expr::interpret::interpret;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Completions, Formula, Keep, Length, Objective, Prefixes, Role, Sampling, Signal};
use serde::{Deserialize, Serialize};

use super::first_epoch::FirstEpoch;
use super::models::{Models, Whose};
use super::route::Section;
use super::{Source, Stage};
use crate::data::Mixture;
use crate::data::mixture::{Draw, Position};
use crate::failure::{Error, Result};
use crate::model::{Decoder, PackedBatch, Token};
use crate::random::{Key, Purpose, Uniforms};
use crate::reward::Answer;
use crate::rollout::{Prompt, rollout};
use crate::zip::zip_equal;

/// A prompt and a completion of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Index into the stage's sources.
    pub source: usize,
    /// Index of the prompt's record in the source's data.
    pub record: usize,
    /// What stands before the completion, where it is not the prompt of the record as a model is asked it.
    pub prompt: Option<Vec<Token>>,
    pub completion: Vec<Token>,
    /// Which tokens of the completion are trained on; all where absent. The others are what users and tools
    /// said meanwhile.
    pub written: Option<Vec<bool>>,
    /// Log-probabilities under whoever sampled it, at the temperature of sampling; none where the data has
    /// it.
    pub logps: Option<Vec<f32>>,
    pub truncated: bool,
    pub reward: Option<f64>,
    /// Whether it is the preferred one of its pair; none outside of pairs.
    pub chosen: Option<bool>,
}

impl Sequence {
    /// Number of tokens that are trained on.
    pub fn trained(&self) -> usize {
        match &self.written {
            Some(written) => written.iter().filter(|written| **written).count(),
            None => self.completion.len(),
        }
    }

    /// Of a list with one element for each token of the completion, those of the tokens that are trained on.
    pub fn of_trained<'a, T>(&'a self, elements: &'a [T]) -> impl Iterator<Item = &'a T> {
        let written = |index: usize| self.written.as_ref().is_none_or(|written| written[index]);
        assert!(
            self.written.as_ref().is_none_or(|written| written.len() == self.completion.len()),
            "a mask of the completion"
        );
        zip_equal(0..self.completion.len(), elements)
            .filter(move |(index, _)| written(*index))
            .map(|(_, element)| element)
    }

    /// What stands before the completion.
    pub fn prompt<'a>(&'a self, stage: &'a Stage) -> &'a [Token] {
        self.prompt.as_deref().unwrap_or_else(|| stage.sources[self.source].tokens.get(self.record))
    }
}

/// The sequences of a step. Those of a group are adjacent, and so are the groups of a section.
pub struct Sequences {
    pub list: Vec<Sequence>,
    /// What was drawn for each group, where they are of the data.
    pub draws: Vec<Draw>,
    pub layout: Layout,
    /// The first completion token of each sequence among those of the step, and behind the last one their
    /// number.
    starts: Vec<usize>,
}

impl Sequences {
    /// `domains` is the number of the stage's sources.
    pub fn new(list: Vec<Sequence>, group_size: usize, domains: usize) -> Sequences {
        let mut layout = Layout { groups: list.len().div_ceil(group_size) as u32, ..Layout::default() };
        let of_group = list.iter().step_by(group_size).map(|sequence| sequence.source as u32).collect();
        layout.domains = Some(Domains { of_group, count: domains as u32 });
        let mut starts = vec![0];
        for (index, sequence) in list.iter().enumerate() {
            layout.group_of_sequence.push((index / group_size) as u32);
            layout
                .sequence_of_token
                .resize(layout.sequence_of_token.len() + sequence.trained(), index as u32);
            starts.push(layout.sequence_of_token.len());
        }
        layout.turns = turns(&list);
        Sequences { list, draws: Vec::new(), layout, starts }
    }

    /// The same, `draws` being what was drawn for each group.
    pub fn drawn(self, draws: Vec<Draw>) -> Sequences {
        Sequences { draws, ..self }
    }

    /// Sequences of a group.
    pub fn of_group(&self) -> usize {
        self.list.len().div_ceil(self.layout.groups.max(1) as usize)
    }

    /// The sequences of the sections in `sections`, which are adjacent.
    pub fn of_sections(&self, stage: &Stage, sections: Range<usize>) -> Range<usize> {
        let first = self.list.partition_point(|sequence| stage.section_of(sequence) < sections.start);
        first..self.list.partition_point(|sequence| stage.section_of(sequence) < sections.end)
    }

    /// The tokens of a sequence that are trained on, among those of the step.
    pub fn tokens(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }

    /// The tokens that are trained on, those of the step end to end.
    pub fn targets(&self) -> Vec<Token> {
        self.per_token(|sequence| Some(&sequence.completion)).expect("every sequence has a completion")
    }

    /// What was recorded of these tokens when they were sampled; none where some come from the data.
    pub fn sampled_logps(&self) -> Option<Vec<f32>> {
        self.per_token(|sequence| sequence.logps.as_deref())
    }

    /// One element for each token that is trained on, from a list of each sequence's completion.
    fn per_token<T: Copy>(&self, of: impl Fn(&Sequence) -> Option<&[T]>) -> Option<Vec<T>> {
        let mut all = Vec::with_capacity(self.layout.tokens());
        for (index, sequence) in self.list.iter().enumerate() {
            all.extend(sequence.of_trained(of(sequence)?));
            assert_eq!(all.len(), self.starts[index + 1], "sequences stay as they were laid out");
        }
        Some(all)
    }

    /// Prompts and completions of some sequences, to go through a model together.
    pub fn packed(&self, stage: &Stage, members: &[usize]) -> PackedBatch {
        let members = members.iter().map(|member| {
            let sequence = &self.list[*member];
            (sequence.prompt(stage), sequence.completion.as_slice(), sequence.written.as_deref())
        });
        PackedBatch::masked(members, stage.device)
    }

    /// Some sequences in parts of at most `size`, those of similar length together, so that little is padded;
    /// all of them together, in their order, where they fit or there is no bound.
    pub fn micro_batches(
        &self,
        stage: &Stage,
        members: impl IntoIterator<Item = usize>,
        size: Option<u32>,
    ) -> Vec<Vec<usize>> {
        let mut members: Vec<usize> = members.into_iter().collect();
        let Some(size) = size.map(|size| size.max(1) as usize).filter(|size| *size < members.len()) else {
            return if members.is_empty() { Vec::new() } else { vec![members] };
        };
        members.sort_by_key(|member| {
            let sequence = &self.list[*member];
            sequence.prompt(stage).len() + sequence.completion.len()
        });
        members.chunks(size).map(<[usize]>::to_vec).collect()
    }
}

/// The assistant's turns, where a sequence has several: what it wrote without interruption.
fn turns(list: &[Sequence]) -> Option<Runs> {
    let several = |sequence: &Sequence| {
        let written = sequence.written.as_deref().unwrap_or(&[]);
        written.chunk_by(|one, next| one == next).filter(|run| run[0]).count() > 1
    };
    if !list.iter().any(several) {
        return None;
    }
    let mut runs = Runs { of_token: Vec::new(), parent: Vec::new() };
    for (index, sequence) in list.iter().enumerate() {
        let whole = vec![true; sequence.completion.len()];
        let written = sequence.written.as_deref().unwrap_or(&whole);
        for run in written.chunk_by(|one, next| one == next).filter(|run| run[0]) {
            runs.of_token.resize(runs.of_token.len() + run.len(), runs.parent.len() as u32);
            runs.parent.push(index as u32);
        }
    }
    Some(runs)
}

/// Makes one batch after the other.
pub struct Batches {
    mixture: Mixture,
    size: u32,
    kind: Kind,
}

enum Kind {
    /// Ready-made sequences, by source.
    Fixed(Vec<Vec<Sequence>>),
    Student(Sampling),
    Pairs([Side; 2]),
}

/// The preferred completions of pairs, or the others.
enum Side {
    /// By source, one for each record.
    Data(Vec<Vec<Sequence>>),
    Rollouts(Writer, Sampling),
}

/// Who writes one side of a pair.
#[derive(Clone, Copy)]
enum Writer {
    /// Whoever judges the prompt.
    Teacher,
    One(Whose),
}

/// Rollouts that frozen models write before the first step, by source.
pub type Written = Vec<Vec<Sequence>>;

/// Where such rollouts are kept from one stage, or one run, to the next: what else the stage does with them
/// changes none of them.
#[derive(Clone, Copy)]
pub struct Shelf<'a> {
    pub find: &'a dyn Fn() -> Result<Option<Written>>,
    pub keep: &'a dyn Fn(&Written) -> Result<()>,
}

impl Batches {
    /// Teachers whose rollouts are imitated write them here, before the first step, unless they are on the
    /// shelf.
    pub fn new(stage: &Stage, models: &Models, shelf: Option<&Shelf>) -> Result<Batches> {
        let sizes: Vec<usize> = stage.sources.iter().map(|source| source.tokens.len()).collect();
        let by_share = || {
            Mixture::new(
                &stage.sources.iter().map(|source| (source.share, source.tokens.len())).collect::<Vec<_>>(),
            )
        };
        let whole = || match stage.train.length {
            Length::Epochs(epochs) => {
                told_shares(stage, &sizes);
                Mixture::in_epochs(&sizes, epochs)
            }
            Length::Steps(_) => by_share(),
        };
        let (mixture, size, kind) = match &stage.train.prefixes {
            Prefixes::Data { field, batch } => {
                let judged = reads_reward(&stage.train.objective);
                (whole(), *batch, Kind::Fixed(all_examples(stage, field, judged)?))
            }
            Prefixes::Pairs { chosen, rejected, batch } => {
                let sides = [side(stage, models, chosen)?, side(stage, models, rejected)?];
                (whole(), *batch, Kind::Pairs(sides))
            }
            Prefixes::Student { prompts, sampling } => (whole(), *prompts, Kind::Student(sampling.clone())),
            Prefixes::Teacher { sequences, keep, batch, sampling } => {
                let kept = match shelf.map_or(Ok(None), |shelf| (shelf.find)())? {
                    Some(kept) => kept,
                    None => {
                        let written =
                            teacher_rollouts(stage, models, by_share(), *sequences, *keep, sampling)?;
                        shelf.map_or(Ok(()), |shelf| (shelf.keep)(&written))?;
                        written
                    }
                };
                let sizes: Vec<_> = zip_equal(&stage.sources, &kept)
                    .map(|(source, kept)| (source.share, kept.len()))
                    .collect();
                (Mixture::new(&sizes), *batch, Kind::Fixed(kept))
            }
        };
        if size == 0 {
            return Err(Error::new(FailureKind::Runtime, "a batch of no sequences"));
        }
        Ok(Batches { mixture, size, kind })
    }

    pub fn position(&self) -> Position {
        self.mixture.position()
    }

    /// Goes to where the batches of the same stage, or of one with as many sources, stood.
    pub fn restore(&mut self, position: &Position, stage: &Stage) -> Result<(), String> {
        self.mixture.restore(position, shuffle(stage, Purpose::Shuffle))
    }

    /// The sequences of the next step. `student` is as it is now.
    pub fn next(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        models: &Models,
        step: u32,
    ) -> Result<Sequences> {
        let Drawn { mut list, of_group, draws } = self.drawn(stage, student, models, step)?;
        if stage.routes_by_data() {
            // Groups stay whole: they are of one prompt. Only now, so that another route changes no prompt's
            // random numbers.
            list.sort_by_key(|sequence| stage.section_of(sequence));
            return Ok(Sequences::new(list, of_group, stage.sources.len()));
        }
        Ok(Sequences::new(list, of_group, stage.sources.len()).drawn(draws))
    }

    fn drawn(&mut self, stage: &Stage, student: &Decoder, models: &Models, step: u32) -> Result<Drawn> {
        let draws = draw(&mut self.mixture, self.size, stage, Purpose::Shuffle);
        if draws.is_empty() {
            // A fork may begin behind the end of its own epochs.
            let message = "every prompt has been visited as often as the stage's epochs say: there is none \
                           left to train on";
            return Err(Error::new(FailureKind::Runtime, message)
                .help("give the stage more epochs, or `steps` as a number"));
        }
        let key = |purpose| Key::new(stage.seed, stage.stream, purpose, u64::from(step));
        match &self.kind {
            Kind::Fixed(sequences) => {
                let list = draws.iter().map(|draw| sequences[draw.source][draw.record].clone()).collect();
                Ok(Drawn { list, of_group: 1, draws })
            }
            Kind::Student(sampling) => {
                let (sampling, key) = (sampling.clone(), key(Purpose::Rollout));
                let mut list = sample(stage, student, &numbered(stage, &draws, 0), &sampling, key)?;
                judge(stage, &mut list)?;
                if let Some(filter) = &stage.train.filter {
                    list = self.filtered(stage, student, list, filter, &sampling, key, step)?;
                }
                Ok(Drawn { list, of_group: sampling.n.max(1) as usize, draws: Vec::new() })
            }
            Kind::Pairs(sides) => {
                let completions = |side: &Side, purpose| match side {
                    Side::Data(examples) => Ok(draws
                        .iter()
                        .map(|draw| examples[draw.source][draw.record].clone())
                        .collect::<Vec<_>>()),
                    Side::Rollouts(writer, sampling) => {
                        written(stage, student, models, &draws, *writer, sampling, key(purpose))
                    }
                };
                let [chosen, rejected] = sides;
                let chosen = completions(chosen, Purpose::Rollout)?;
                let rejected = completions(rejected, Purpose::TeacherRollout)?;
                let mut list: Vec<Sequence> = zip_equal(chosen, rejected).flat_map(pair).collect();
                if reads_reward(&stage.train.objective) {
                    judge(stage, &mut list)?;
                }
                Ok(Drawn { list, of_group: 2, draws })
            }
        }
    }

    /// The sequences of a draw, where they are the same whenever it comes.
    pub fn fixed(&self, draw: Draw) -> Option<Vec<Sequence>> {
        match &self.kind {
            Kind::Fixed(sequences) => Some(vec![sequences[draw.source][draw.record].clone()]),
            Kind::Pairs([Side::Data(chosen), Side::Data(rejected)]) => {
                let [chosen, rejected] =
                    [chosen, rejected].map(|side| side[draw.source][draw.record].clone());
                Some(pair((chosen, rejected)).to_vec())
            }
            Kind::Student(_) | Kind::Pairs(_) => None,
        }
    }

    /// How many tokens of a draw are trained on, where these are the same whenever it comes.
    pub fn trained(&self, draw: Draw) -> usize {
        match &self.kind {
            Kind::Fixed(sequences) => sequences[draw.source][draw.record].trained(),
            Kind::Pairs([Side::Data(chosen), Side::Data(rejected)]) => {
                [chosen, rejected].into_iter().map(|side| side[draw.source][draw.record].trained()).sum()
            }
            Kind::Student(_) | Kind::Pairs(_) => 0,
        }
    }

    /// When each sequence of the stage comes for the first time; none where they are new in every step.
    /// Nothing was drawn yet.
    pub fn first_epoch(&self, stage: &Stage) -> Option<FirstEpoch> {
        let fixed = matches!(self.kind, Kind::Fixed(_) | Kind::Pairs([Side::Data(_), Side::Data(_)]));
        fixed.then(|| {
            let batches = stage.steps.div_ceil(stage.train.passes.max(1));
            let mut mixture = self.mixture.clone();
            FirstEpoch::new(
                &mixture.sizes(),
                (0..batches).map(|_| draw(&mut mixture, self.size, stage, Purpose::Shuffle)),
            )
        })
    }
}

fn pair((chosen, rejected): (Sequence, Sequence)) -> [Sequence; 2] {
    [Sequence { chosen: Some(true), ..chosen }, Sequence { chosen: Some(false), ..rejected }]
}

/// What a step trains on, that of a source together.
struct Drawn {
    list: Vec<Sequence>,
    /// Sequences of a group.
    of_group: usize,
    /// What was drawn for each group, where they are of the data.
    draws: Vec<Draw>,
}

/// How often prompts that a filter leaves out are replaced before a step does with those it has.
const ROUNDS: usize = 10;

impl Batches {
    /// The groups that the filter holds for; for each of the others, one of another prompt of its source.
    #[allow(clippy::too_many_arguments, reason = "what a step of rollouts is made from")]
    fn filtered(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        first: Vec<Sequence>,
        filter: &Formula,
        sampling: &Sampling,
        key: Key,
        step: u32,
    ) -> Result<Vec<Sequence>> {
        let n = sampling.n.max(1) as usize;
        let mut kept: Vec<Vec<Sequence>> = Vec::new();
        let mut fresh = first;
        let mut drawn = 0;
        for round in 0..ROUNDS {
            drawn += fresh.len() / n;
            let holds = holding(stage, filter, &fresh, n, step)?;
            let mut missing: Vec<usize> = Vec::new();
            for (group, holds) in zip_equal(fresh.chunks(n), holds) {
                if holds {
                    kept.push(group.to_vec());
                } else {
                    missing.push(group[0].source);
                }
            }
            if missing.is_empty() || round + 1 == ROUNDS {
                break;
            }
            let mixture = &mut self.mixture;
            let uniforms = shuffle(stage, Purpose::Shuffle);
            let draws: Vec<Draw> =
                missing.into_iter().map(|source| mixture.replacement(source, &uniforms)).collect();
            fresh = sample(stage, student, &numbered(stage, &draws, drawn), sampling, key)?;
            judge(stage, &mut fresh)?;
        }
        if kept.is_empty() {
            let message =
                format!("the `filter` holds for none of {drawn} prompts, so nothing is left to train on");
            return Err(Error::new(FailureKind::Runtime, message).help(
                "a filter that asks for unlike rewards needs prompts that are neither solved always nor \
                 never",
            ));
        }
        // Those of a source are adjacent.
        kept.sort_by_key(|group| group[0].source);
        Ok(kept.into_iter().flatten().collect())
    }
}

/// Whether a formula of rewards and lengths holds, group by group.
fn holding(stage: &Stage, filter: &Formula, list: &[Sequence], n: usize, step: u32) -> Result<Vec<bool>> {
    let sequences = Sequences::new(list.to_vec(), n, stage.sources.len());
    let rewards = list.iter().map(|sequence| sequence.reward.unwrap_or(0.0) as f32).collect();
    let truncated = list.iter().map(|sequence| f32::from(u8::from(sequence.truncated))).collect();
    let batch = Batch {
        layout: sequences.layout,
        signals: vec![(Signal::Reward, rewards), (Signal::Truncated, truncated)],
        step,
        steps: stage.steps,
        ..Batch::default()
    };
    let values = interpret(&filter.graph, &[filter.value], &batch)
        .map_err(|error| Error::new(FailureKind::Runtime, format!("the `filter`: {error}")))?;
    Ok(values.get(filter.value).iter().map(|value| *value != 0.0).collect())
}

/// One side of the pairs.
fn side(stage: &Stage, models: &Models, completions: &Completions) -> Result<Side> {
    Ok(match completions {
        Completions::Data { field } => Side::Data(all_examples(stage, field, false)?),
        Completions::Student { sampling } => Side::Rollouts(Writer::One(Whose::Student), sampling.clone()),
        Completions::Teacher { sampling } => Side::Rollouts(Writer::Teacher, sampling.clone()),
        Completions::Model { model, sampling } => {
            Side::Rollouts(Writer::One(models.of_model(*model)), sampling.clone())
        }
    })
}

/// One rollout of each prompt.
fn written(
    stage: &Stage,
    student: &Decoder,
    models: &Models,
    draws: &[Draw],
    writer: Writer,
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Sequence>> {
    let mut list = Vec::with_capacity(draws.len());
    let whose = |draw: Draw| match writer {
        Writer::One(whose) => Ok(whose),
        Writer::Teacher => teacher_of(stage, models, draw),
    };
    for draws in by_section(stage, draws).chunk_by(|one, next| one.section == next.section) {
        let decoder = models.decoder(whose(draws[0].draw)?);
        let sequences = sample(stage, decoder.as_deref().unwrap_or(student), draws, sampling, key)?;
        list.extend(zip_equal(draws, sequences).map(|(draw, sequence)| (draw.number, sequence)));
    }
    list.sort_by_key(|(number, _)| *number);
    Ok(list.into_iter().map(|(_, sequence)| sequence).collect())
}

/// Who judges a prompt.
fn teacher_of(stage: &Stage, models: &Models, draw: Draw) -> Result<Whose> {
    let section = stage.section(draw.source, draw.record);
    models.of_role(Role::Teacher)[section].ok_or_else(|| no_teacher(&stage.sources[draw.source]))
}

/// A drawn prompt, and its number among those of the step: the key of its random numbers.
#[derive(Clone, Copy)]
struct Numbered {
    number: u32,
    draw: Draw,
    section: usize,
}

/// As they were drawn, counted from `first`.
fn numbered(stage: &Stage, draws: &[Draw], first: usize) -> Vec<Numbered> {
    let number = |(place, draw): (usize, &Draw)| Numbered {
        number: (first + place) as u32,
        draw: *draw,
        section: stage.section(draw.source, draw.record),
    };
    draws.iter().enumerate().map(number).collect()
}

/// The same, those of a section together.
fn by_section(stage: &Stage, draws: &[Draw]) -> Vec<Numbered> {
    let mut draws = numbered(stage, draws, 0);
    draws.sort_by_key(|draw| draw.section);
    draws
}

pub fn no_teacher(source: &Source) -> Error {
    Error::new(FailureKind::Runtime, format!("no teacher is routed to the domain `{}`", source.name))
}

/// An epoch visits every prompt once: where the domains' shares are others than those of their prompts, they
/// do not hold, and that is said.
fn told_shares(stage: &Stage, sizes: &[usize]) {
    let all: usize = sizes.iter().sum();
    let shares = stage.sources.iter().map(|source| source.share);
    let whole: f64 = shares.clone().sum();
    let differ = zip_equal(shares, sizes)
        .any(|(share, size)| (share / whole - *size as f64 / all as f64).abs() > 0.005);
    if !differ {
        return;
    }
    let percent = |share: f64| format!("{:.0}%", 100.0 * share);
    let of = |(source, size): (&Source, &usize)| {
        format!(
            "`{}` {} (its share is {})",
            source.name,
            percent(*size as f64 / all as f64),
            percent(source.share / whole)
        )
    };
    let listed: Vec<String> = zip_equal(&stage.sources, sizes).map(of).collect();
    stage.control.warn(format!(
        "`{}` trains in epochs, which visit every prompt once, so its batches are by the number of prompts: \
         {}. Write `steps = ...` without `epochs` to keep to the shares",
        stage.name,
        listed.join(", ")
    ));
}

/// The next prompts of the mixture. Epochs are shuffled by numbers of their own.
fn draw(mixture: &mut Mixture, count: u32, stage: &Stage, purpose: Purpose) -> Vec<Draw> {
    mixture.next_batch(count, shuffle(stage, purpose))
}

/// The numbers that shuffle each epoch of each source.
fn shuffle(stage: &Stage, purpose: Purpose) -> impl Fn(usize, u64) -> Uniforms {
    let (seed, stream) = (stage.seed, stage.stream);
    move |source, epoch| Key::new(seed, stream, purpose, epoch).row(source as u32, 0)
}

/// Whether what the data gives as completions must be judged too; rollouts always are.
fn reads_reward(objective: &Objective) -> bool {
    let signals = objective.graph.signals(&objective.outputs());
    signals.iter().any(|signal| matches!(signal, Signal::Reward | Signal::Correct))
}

/// What the data gives as completions, by source.
pub(super) fn all_examples(stage: &Stage, field: &str, judged: bool) -> Result<Vec<Vec<Sequence>>> {
    let examples = stage.sources.iter().enumerate().map(|(index, source)| {
        let mut examples = examples(stage, source, index, field)?;
        if judged {
            judge(stage, &mut examples)?;
        }
        Ok(examples)
    });
    examples.collect()
}

fn examples(stage: &Stage, source: &Source, index: usize, field: &str) -> Result<Vec<Sequence>> {
    let examples = source.prompts.examples(&stage.start.tokenizer, field)?;
    let mut cut = 0;
    let mut sequence = |record| {
        let (prompt, mut completion, mut written) = examples.get(record);
        let end = source.limit.and_then(|limit| beyond(&written, limit));
        if let Some(end) = end {
            completion.truncate(end);
            written.truncate(end);
            cut += 1;
        }
        Sequence {
            source: index,
            record,
            prompt: prompt.map(<[Token]>::to_vec),
            completion,
            written: written.contains(&false).then_some(written),
            logps: None,
            truncated: end.is_some(),
            reward: None,
            chosen: None,
        }
    };
    let list: Vec<Sequence> = (0..source.prompts.dataset.len()).map(&mut sequence).collect();
    if cut > 0 {
        stage.control.warn(format!(
            "`limits` of the domain `{}` cuts off {cut} of {} completions in the field `{field}`, for `{}`: \
             their ends are not trained on",
            source.name,
            list.len(),
            stage.name
        ));
    }
    Ok(list)
}

/// Where a completion is cut off that has more tokens to be trained on than `limit`.
fn beyond(written: &[bool], limit: u32) -> Option<usize> {
    let mut trained = (0..written.len()).filter(|token| written[*token]);
    let last = trained.nth((limit as usize).saturating_sub(1))?;
    trained.next().map(|_| last + 1)
}

/// Completions of the drawn prompts.
fn sample(
    stage: &Stage,
    model: &Decoder,
    draws: &[Numbered],
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Sequence>> {
    let prompts: Vec<Prompt> = draws
        .iter()
        .map(|Numbered { number, draw, .. }| Prompt {
            tokens: stage.sources[draw.source].tokens.get(draw.record),
            id: *number,
            limit: stage.sources[draw.source].limit,
        })
        .collect();
    let n = sampling.n.max(1) as usize;
    let completions = rollout(model, &prompts, sampling, key, stage.budget, stage.control)?;
    let sequences = completions.into_iter().enumerate().map(|(index, completion)| {
        let draw = draws[index / n].draw;
        Sequence {
            source: draw.source,
            record: draw.record,
            prompt: None,
            completion: completion.tokens,
            written: None,
            logps: Some(completion.logps),
            truncated: completion.truncated,
            reward: None,
            chosen: None,
        }
    });
    Ok(sequences.collect())
}

/// Fills in the rewards, each by the verifier of its own domain.
fn judge(stage: &Stage, sequences: &mut [Sequence]) -> Result<()> {
    for (index, source) in stage.sources.iter().enumerate() {
        let of_source = || sequences.iter().filter(|sequence| sequence.source == index);
        let written =
            |sequence: &Sequence| sequence.of_trained(&sequence.completion).copied().collect::<Vec<Token>>();
        let texts = of_source().map(|sequence| stage.start.tokenizer.decode(&written(sequence)));
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        let dataset = &source.prompts.dataset;
        let records: Vec<_> = of_source().map(|sequence| dataset.object(sequence.record)).collect();
        let own: Vec<&Sequence> = of_source().collect();
        let answers: Vec<Answer> = zip_equal(own, zip_equal(&texts, &records))
            .map(|(sequence, (completion, record))| Answer {
                prompt: dataset.prompt(sequence.record),
                completion,
                record,
            })
            .collect();
        let rewards = source
            .verifier
            .judge(&answers, stage.control)
            .map_err(|error| Error::from(error).at(source.origin))?;
        for warning in source.verifier.take_warnings() {
            stage.control.warn(warning);
        }
        let own: Vec<&mut Sequence> =
            sequences.iter_mut().filter(|sequence| sequence.source == index).collect();
        for (sequence, reward) in zip_equal(own, rewards) {
            sequence.reward = Some(reward);
        }
    }
    Ok(())
}

/// `count` rollouts in all, each by the teacher of its prompt; those to keep, by source.
fn teacher_rollouts(
    stage: &Stage,
    models: &Models,
    mut mixture: Mixture,
    count: u32,
    keep: Keep,
    sampling: &Sampling,
) -> Result<Vec<Vec<Sequence>>> {
    let n = sampling.n.max(1);
    let draws = draw(&mut mixture, count.div_ceil(n), stage, Purpose::TeacherRollout);
    let key = Key::new(stage.seed, stage.stream, Purpose::TeacherRollout, 0);
    let mut kept = vec![Vec::new(); stage.sources.len()];
    let mut kept_of_section = vec![0; stage.sections().len()];
    let mut first = 0;
    // Chunks of one teacher each, so that an interruption does not wait for all of them.
    let draws = by_section(stage, &draws);
    for chunk in draws.chunk_by(|a, b| a.section == b.section).flat_map(|chunk| chunk.chunks(256)) {
        stage.control.check()?;
        let Numbered { draw, section, .. } = chunk[0];
        let whose = teacher_of(stage, models, draw)?;
        // Before the first step, the student is what it starts from.
        let teacher = match models.decoder(whose) {
            Some(teacher) => teacher,
            None => std::rc::Rc::new(Decoder::frozen(&stage.start, stage.device, stage.kind)),
        };
        let mut sequences = sample(stage, &teacher, chunk, sampling, key)?;
        sequences.truncate((count as usize).saturating_sub(first * n as usize));
        judge(stage, &mut sequences)?;
        if keep == Keep::Correct {
            sequences.retain(|sequence| sequence.reward >= Some(1.0));
        }
        kept_of_section[section] += sequences.len();
        kept[draw.source].extend(sequences);
        first += chunk.len();
    }
    for (section, count) in zip_equal(&stage.sections(), kept_of_section) {
        let Section { source, teacher: Some(teacher) } = *section else { continue };
        if count > 0 {
            continue;
        }
        let (teacher, domain) = (&teacher.name, stage.sources[source].name);
        let message =
            format!("none of the rollouts that `{teacher}` wrote for the domain `{domain}` can be kept");
        if kept[source].is_empty() {
            return Err(Error::new(
                FailureKind::Runtime,
                format!("{message}, so nothing is left to train on"),
            )
            .help("train the teacher longer, ask for more `sequences`, or write `keep = all`"));
        }
        stage.control.warn(format!("{message}: those of the domain's other teachers take their share"));
    }
    Ok(kept)
}
