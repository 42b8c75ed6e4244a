//! What a step trains on: sequences from the data, from the student, or from the teachers.

use mopd_compiler::expr::batch::{Domains, Layout};
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Keep, Objective, Prefixes, Sampling, Signal};

use super::{Source, Stage};
use crate::data::Mixture;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::model::{Decoder, Token};
use crate::random::{Key, Purpose};
use crate::reward::Answer;
use crate::rollout::{Prompt, rollout};

/// A prompt and a completion of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Index into the stage's sources.
    pub source: usize,
    /// Index of the prompt's record in the source's data.
    pub record: usize,
    /// What stands before the completion, where it is not the prompt of the record as a model is asked it.
    pub prompt: Option<Vec<Token>>,
    pub completion: Vec<Token>,
    /// Which tokens of the completion are trained on; all where absent. The others are what users and tools said meanwhile.
    pub written: Option<Vec<bool>>,
    /// Log-probabilities under whoever sampled it, at the temperature of sampling; none where the data has it.
    pub logps: Option<Vec<f32>>,
    pub truncated: bool,
    pub reward: Option<f64>,
}

impl Sequence {
    /// Number of tokens that are trained on.
    pub fn trained(&self) -> usize {
        match &self.written {
            Some(written) => written.iter().filter(|written| **written).count(),
            None => self.completion.len(),
        }
    }

    /// What stands before the completion.
    pub fn prompt<'a>(&'a self, stage: &'a Stage) -> &'a [Token] {
        self.prompt.as_deref().unwrap_or_else(|| stage.sources[self.source].tokens.get(self.record))
    }
}

/// The sequences of a step. Those of a group are adjacent, and so are the groups of a source.
pub struct Sequences {
    pub list: Vec<Sequence>,
    pub layout: Layout,
}

impl Sequences {
    /// `domains` is the number of the stage's sources.
    fn new(list: Vec<Sequence>, group_size: usize, domains: usize) -> Sequences {
        let mut layout = Layout { groups: list.len().div_ceil(group_size) as u32, ..Layout::default() };
        let of_group = list.iter().step_by(group_size).map(|sequence| sequence.source as u32).collect();
        layout.domains = Some(Domains { of_group, count: domains as u32 });
        for (index, sequence) in list.iter().enumerate() {
            layout.group_of_sequence.push((index / group_size) as u32);
            layout.sequence_of_token.resize(layout.sequence_of_token.len() + sequence.trained(), index as u32);
        }
        Sequences { list, layout }
    }

    /// The prompt, completion and mask of each sequence that belongs to a source in `sources`.
    pub fn pairs<'a>(
        &'a self,
        stage: &'a Stage,
        sources: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (&'a [Token], &'a [Token], Option<&'a [bool]>)> + Clone {
        self.list
            .iter()
            .filter(move |sequence| sources.contains(&sequence.source))
            .map(|sequence| (sequence.prompt(stage), sequence.completion.as_slice(), sequence.written.as_deref()))
    }
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
}

impl Batches {
    /// `teachers` are the routed ones, by source; they write their rollouts here, before the first step.
    pub fn new(stage: &Stage, teachers: &[Option<&Decoder>]) -> Result<Batches> {
        let whole = || Mixture::new(&stage.sources.iter().map(|source| (source.share, source.tokens.len())).collect::<Vec<_>>());
        let (mixture, size, kind) = match &stage.train.prefixes {
            Prefixes::Data { field, batch } => {
                let judged = reads_reward(&stage.train.objective);
                let examples = stage.sources.iter().enumerate().map(|(index, source)| {
                    let mut examples = examples(stage, source, index, field)?;
                    if judged {
                        judge(stage, &mut examples)?;
                    }
                    Ok(examples)
                });
                (whole(), *batch, Kind::Fixed(examples.collect::<Result<_>>()?))
            }
            Prefixes::Student { prompts, sampling } => (whole(), *prompts, Kind::Student(sampling.clone())),
            Prefixes::Teacher { sequences, keep, batch, sampling } => {
                let kept = teacher_rollouts(stage, teachers, whole(), *sequences, *keep, sampling)?;
                let sizes: Vec<_> = stage.sources.iter().zip(&kept).map(|(source, kept)| (source.share, kept.len())).collect();
                (Mixture::new(&sizes), *batch, Kind::Fixed(kept))
            }
        };
        if size == 0 {
            return Err(Error::new(FailureKind::Runtime, "a batch of no sequences"));
        }
        Ok(Batches { mixture, size, kind })
    }

    /// The sequences of the next step. `model` is the student as it is now.
    pub fn next(&mut self, stage: &Stage, model: &Decoder, step: u32) -> Result<Sequences> {
        let draws = draw(&mut self.mixture, self.size, stage, Purpose::Shuffle);
        match &self.kind {
            Kind::Fixed(sequences) => Ok(Sequences::new(
                draws.iter().map(|draw| sequences[draw.source][draw.record].clone()).collect(),
                1,
                stage.sources.len(),
            )),
            Kind::Student(sampling) => {
                let key = Key::new(stage.seed, stage.stream, Purpose::Rollout, u64::from(step));
                let mut list = sample(stage, model, &draws, 0, sampling, key)?;
                judge(stage, &mut list)?;
                Ok(Sequences::new(list, sampling.n.max(1) as usize, stage.sources.len()))
            }
        }
    }
}

/// The next prompts of the mixture. Epochs are shuffled by numbers of their own.
fn draw(mixture: &mut Mixture, count: u32, stage: &Stage, purpose: Purpose) -> Vec<Draw> {
    mixture.next_batch(count, |source, epoch| Key::new(stage.seed, stage.stream, purpose, epoch).row(source as u32, 0))
}

/// Whether what the data gives as completions must be judged too; rollouts always are.
fn reads_reward(objective: &Objective) -> bool {
    let signals = objective.graph.signals(&objective.outputs());
    signals.iter().any(|signal| matches!(signal, Signal::Reward | Signal::Correct))
}

fn examples(stage: &Stage, source: &Source, index: usize, field: &str) -> Result<Vec<Sequence>> {
    let tokenizer = &stage.start.tokenizer;
    let sequences = (0..source.prompts.dataset.len()).map(|record| {
        let example = source.prompts.example(tokenizer, record, field)?;
        let prompt = (example.prompt != source.tokens.get(record)).then_some(example.prompt);
        let written = example.written.contains(&false).then_some(example.written);
        Ok(Sequence {
            source: index,
            record,
            prompt,
            completion: example.completion,
            written,
            logps: None,
            truncated: false,
            reward: None,
        })
    });
    sequences.collect()
}

/// Completions of the drawn prompts, whose random numbers are keyed by their place, counted from `first`.
fn sample(stage: &Stage, model: &Decoder, draws: &[Draw], first: usize, sampling: &Sampling, key: Key) -> Result<Vec<Sequence>> {
    let prompts: Vec<Prompt> = draws
        .iter()
        .enumerate()
        .map(|(place, draw)| Prompt {
            tokens: stage.sources[draw.source].tokens.get(draw.record),
            id: (first + place) as u32,
            limit: stage.sources[draw.source].limit,
        })
        .collect();
    let n = sampling.n.max(1) as usize;
    let completions = rollout(model, &prompts, sampling, key)?;
    let sequences = completions.into_iter().enumerate().map(|(index, completion)| {
        let draw = draws[index / n];
        Sequence {
            source: draw.source,
            record: draw.record,
            prompt: None,
            completion: completion.tokens,
            written: None,
            logps: Some(completion.logps),
            truncated: completion.truncated,
            reward: None,
        }
    });
    Ok(sequences.collect())
}

/// Fills in the rewards, each by the verifier of its own domain.
fn judge(stage: &Stage, sequences: &mut [Sequence]) -> Result<()> {
    for (index, source) in stage.sources.iter().enumerate() {
        let of_source = || sequences.iter().filter(|sequence| sequence.source == index);
        let texts = of_source().map(|sequence| stage.start.tokenizer.decode(&sequence.completion));
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        let dataset = &source.prompts.dataset;
        let records: Vec<_> = of_source().map(|sequence| dataset.object(sequence.record)).collect();
        let answers: Vec<Answer> = of_source()
            .zip(texts.iter().zip(&records))
            .map(|(sequence, (completion, record))| Answer { prompt: dataset.prompt(sequence.record), completion, record })
            .collect();
        let rewards = source.verifier.judge(&answers).map_err(|error| Error::from(error).at(source.origin))?;
        for warning in source.verifier.take_warnings() {
            stage.control.warn(warning);
        }
        for (sequence, reward) in sequences.iter_mut().filter(|sequence| sequence.source == index).zip(rewards) {
            sequence.reward = Some(reward);
        }
    }
    Ok(())
}

/// `count` rollouts in all, each by the teacher of its prompt's domain; those to keep, by source.
fn teacher_rollouts(
    stage: &Stage,
    teachers: &[Option<&Decoder>],
    mut mixture: Mixture,
    count: u32,
    keep: Keep,
    sampling: &Sampling,
) -> Result<Vec<Vec<Sequence>>> {
    let n = sampling.n.max(1);
    let draws = draw(&mut mixture, count.div_ceil(n), stage, Purpose::TeacherRollout);
    let key = Key::new(stage.seed, stage.stream, Purpose::TeacherRollout, 0);
    let mut kept = vec![Vec::new(); stage.sources.len()];
    let mut first = 0;
    // Chunks of one source each, so that an interruption does not wait for all of them.
    for chunk in draws.chunk_by(|a, b| a.source == b.source).flat_map(|chunk| chunk.chunks(256)) {
        stage.control.check()?;
        let source = chunk[0].source;
        let teacher = teachers[source].ok_or_else(|| {
            Error::new(FailureKind::Runtime, format!("no teacher is routed to the domain `{}`", stage.sources[source].name))
        })?;
        let mut sequences = sample(stage, teacher, chunk, first, sampling, key)?;
        sequences.truncate((count as usize).saturating_sub(first * n as usize));
        judge(stage, &mut sequences)?;
        if keep == Keep::Correct {
            sequences.retain(|sequence| sequence.reward >= Some(1.0));
        }
        kept[source].extend(sequences);
        first += chunk.len();
    }
    for (source, kept) in stage.sources.iter().zip(&kept) {
        if kept.is_empty() {
            let teacher = source.teacher.as_deref().unwrap_or("the teacher");
            let message = format!(
                "none of the rollouts that `{teacher}` wrote for the domain `{}` can be kept, so nothing is left to train on",
                source.name
            );
            return Err(Error::new(FailureKind::Runtime, message)
                .help("train the teacher longer, ask for more `sequences`, or write `keep = all`"));
        }
    }
    Ok(kept)
}
