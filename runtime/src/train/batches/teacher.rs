//! `from(teacher, ...)`: rollouts of the routed teachers, or of a teacher by name: written once before the
//! first step, or fresh every step.

use std::rc::Rc;

use mopd_plan::events::FailureKind;
use mopd_plan::producers::{PrecomputedRollouts, Teacher};
use mopd_plan::{Keep, Role};

use super::data::FixedRollouts;
use super::sample::{NumberedDraw, draw_by, judge, numbered, sample, sample_shown};
use super::through::ProgramEditor;
use super::{Batch, Group, ProducerContext, SequenceProducer, by_share, draw};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::model::Decoder;
use crate::random::Purpose;
use crate::rollout::Sequence;
use crate::train::models::{ModelScorer, Models, ScorerRef};
use crate::train::sequences::RolloutsBySource;
use crate::train::stage::Section;
use crate::train::stage::{Source, Stage, StageSources};
use crate::train::views::{ScorerPrompts, StepContext};
use crate::zip::zip_equal;

/// The cache of such rollouts between stages and runs. They do not depend on what else a stage does with
/// them.
#[derive(Clone, Copy)]
pub struct RolloutCache<'a> {
    pub find: &'a dyn Fn() -> Result<Option<RolloutsBySource>>,
    pub keep: &'a dyn Fn(&RolloutsBySource) -> Result<()>,
}

/// Fresh every step.
struct TeacherProducer {
    teacher: Teacher,
    judged: bool,
}

/// Rollouts written before the first step. A draw is one of them, not a prompt.
struct WrittenOnce(FixedRollouts);

pub(super) fn make(teacher: &Teacher, context: &ProducerContext) -> Result<Box<dyn SequenceProducer>> {
    let ProducerContext { stage, models, cache, judged, editor, .. } = *context;
    let Some(once) = teacher.once else {
        return Ok(Box::new(TeacherProducer { teacher: teacher.clone(), judged }));
    };
    let written = cached_or_written(cache, || teacher_rollouts(stage, models, teacher, editor, once))?;
    Ok(Box::new(WrittenOnce(FixedRollouts(written))))
}

/// The rollouts before the first step, from the cache or newly written.
pub(super) fn cached_or_written(
    cache: Option<&RolloutCache>,
    write: impl FnOnce() -> Result<RolloutsBySource>,
) -> Result<RolloutsBySource> {
    if let Some(kept) = cache.map_or(Ok(None), |cache| (cache.find)())? {
        return Ok(kept);
    }
    let written = write()?;
    cache.map_or(Ok(()), |cache| (cache.keep)(&written))?;
    Ok(written)
}

impl SequenceProducer for TeacherProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, models, .. } = *batch;
        let mut list = draw_by(
            draws,
            |draw| draw.section(&stage.sources),
            |_, draws| {
                let Teacher { writer, sees, sampling, .. } = &self.teacher;
                let writer = teacher_of(&stage.sources, models, *writer, draws[0].draw)?;
                let decoder = models.decoder(writer.model_ref);
                let sees = sees.as_ref().or(models.view(writer));
                let author = decoder.as_deref().unwrap_or(student);
                sample_shown(batch, author, sees, draws, sampling, purpose)
            },
        )?;
        if self.judged {
            judge(stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}

impl SequenceProducer for WrittenOnce {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        self.0.draw(batch, draws, purpose)
    }

    fn fixed(&self, draw: Draw) -> Vec<&Sequence> {
        self.0.fixed(draw)
    }

    fn records(&self) -> Option<Vec<usize>> {
        Some(self.0.0.iter().map(Vec::len).collect())
    }
}

/// The model that writes for a prompt.
pub(super) fn teacher_of(
    sources: &StageSources,
    models: &Models,
    writer: Role,
    draw: Draw,
) -> Result<ModelScorer> {
    let section = sources.section(draw.source, draw.record);
    let scored = models.of_role(writer)[section];
    scored.and_then(ScorerRef::model).ok_or_else(|| no_teacher(&sources[draw.source]))
}

pub fn no_teacher(source: &Source) -> Error {
    Error::new(FailureKind::Runtime, format!("no teacher is routed to the domain `{}`", source.name))
}

/// Writes `count` rollouts in all, each by the teacher of its prompt. Returns those to keep, by source.
fn teacher_rollouts(
    stage: &Stage,
    models: &Models,
    Teacher { writer, sees, sampling, .. }: &Teacher,
    editor: Option<&Rc<ProgramEditor>>,
    PrecomputedRollouts { sequences: count, keep }: PrecomputedRollouts,
) -> Result<RolloutsBySource> {
    let n = sampling.n.max(1);
    let prompts: Vec<usize> = stage.sources.iter().map(|source| source.tokens.len()).collect();
    let mut mixture = by_share(&stage.sources, &prompts);
    let draws = draw(&mut mixture, count.div_ceil(n), stage.keys(), Purpose::TeacherRollout);
    let key = stage.key(Purpose::TeacherRollout, 0);
    let mut kept = vec![Vec::new(); stage.sources.len()];
    let mut kept_of_section = vec![0; stage.sources.sections().len()];
    let mut first = 0;
    // In chunks, each of one teacher, so that an interruption does not wait for all rollouts.
    let mut draws = numbered(&draws, 0);
    draws.sort_by_key(|draw| draw.section(&stage.sources));
    for chunk in draws
        .chunk_by(|a, b| a.section(&stage.sources) == b.section(&stage.sources))
        .flat_map(|chunk| chunk.chunks(256))
    {
        stage.control.check()?;
        let (draw, section) = (chunk[0].draw, chunk[0].section(&stage.sources));
        let writer = teacher_of(&stage.sources, models, *writer, draw)?;
        // Before the first step, the student has the weights that it starts from.
        let teacher = match models.decoder(writer.model_ref) {
            Some(teacher) => teacher,
            None => Rc::new(Decoder::frozen(&stage.start, stage.place, stage.kind)),
        };
        let sees = sees.as_ref().or(models.view(writer));
        let shown = ScorerPrompts::of_draws(
            stage.texts(),
            sees,
            chunk.iter().map(|each| each.draw),
            StepContext::START,
        )?;
        let mut sequences = sample(stage.texts(), &*teacher, &shown, chunk, sampling, key)?.concat();
        sequences.truncate((count as usize).saturating_sub(first * n as usize));
        if let Some(editor) = editor {
            sequences = editor.edited(stage.texts(), vec![sequences])?.concat();
        }
        judge(stage.texts(), &mut sequences)?;
        if keep == Keep::Correct {
            sequences.retain(|sequence| sequence.reward >= Some(1.0));
        }
        kept_of_section[section] += sequences.len();
        kept[draw.source].extend(sequences);
        first += chunk.len();
    }
    if let Some(told) = editor.and_then(|editor| editor.left_out()) {
        stage.control.warn(told);
    }
    for (section, count) in zip_equal(&stage.sources.sections(), kept_of_section) {
        let Section { source, teacher: routed } = *section;
        let teacher = match *writer {
            Role::TEACHER => routed.map(|routed| routed.name.clone()),
            writer => Some(stage.train.scorers.name(writer)),
        };
        let Some(teacher) = teacher.filter(|_| count == 0) else { continue };
        let domain = stage.sources[source].name;
        let message =
            format!("none of the rollouts that `{teacher}` wrote for the domain `{domain}` can be kept");
        if kept[source].is_empty() {
            return Err(Error::new(
                FailureKind::Runtime,
                format!("{message}, so nothing is left to train on"),
            )
            .help("train the teacher longer, ask for more `sequences`, or write `keep = all`"));
        }
        stage.control.warn(format!("{message}: the domain's other teachers get its share"));
    }
    Ok(kept)
}
