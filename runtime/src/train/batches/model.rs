//! `snapshot(model, sample(...))`: rollouts of a frozen model, written before the first step, once for each
//! prompt that the stage draws. As a side of a pair, they are drawn anew at every step.

use std::rc::Rc;

use mopd_plan::Sampling;
use mopd_plan::producers::Model;

use super::sample::{NumberedDraw, judge, sample, sample_now};
use super::teacher::cached_or_written;
use super::through::ProgramEditor;
use super::{Batch, Group, ProducerContext, SequenceProducer, first_epoch, of_prompts};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::Sequence;
use crate::train::models::{ModelRef, Models};
use crate::train::sequences::RolloutsBySource;
use crate::train::stage::{Stage, StageKeys, StageSources, Texts};
use crate::train::views::ScorerPrompts;
use crate::zip::zip_equal;

pub(super) struct ModelProducer {
    model: ModelRef,
    sampling: Sampling,
    judged: bool,
    editor: Option<Rc<ProgramEditor>>,
}

/// The rollouts that were written before the first step: a group for each record that the stage draws.
struct WrittenForPrompts {
    writer: ModelProducer,
    written: RolloutsBySource,
    /// By source and record, the index in `written` where its group begins.
    places: Vec<Vec<Option<usize>>>,
}

pub(super) fn make(
    Model { once, model, sampling }: &Model,
    context: &ProducerContext,
) -> Result<Box<dyn SequenceProducer>> {
    let ProducerContext { stage, models, cache, judged, editor, .. } = *context;
    let writer = ModelProducer {
        model: models.of_model(*model),
        sampling: sampling.clone(),
        judged,
        editor: editor.cloned(),
    };
    if !once {
        return Ok(Box::new(writer));
    }
    let written = cached_or_written(cache, || writer.for_all_prompts(stage, models))?;
    let n = sampling.n.max(1) as usize;
    let places = zip_equal(&written, &*stage.sources).map(|(written, source)| {
        let mut places = vec![None; source.tokens.len()];
        for (place, first) in written.iter().enumerate().step_by(n) {
            places[first.record] = Some(place);
        }
        places
    });
    Ok(Box::new(WrittenForPrompts { places: places.collect(), writer, written }))
}

impl ModelProducer {
    /// The rollouts for all prompts, in the order in which the stage draws them. Prompts that are new in a
    /// batch are completed together, so memory does not exceed that of rollouts drawn at every step.
    fn for_all_prompts(&self, stage: &Stage, models: &Models) -> Result<RolloutsBySource> {
        let mut written = vec![Vec::new(); stage.sources.len()];
        let first = first_epoch(
            stage.train,
            stage.steps,
            stage.keys(),
            of_prompts(&stage.sources, stage.train.length),
        );
        for new in (0..first.batches()).map(|batch| first.new_in(batch)).filter(|new| !new.is_empty()) {
            stage.control.check()?;
            let list = self.once(stage.texts(), stage.keys(), models, new)?;
            list.into_iter().flatten().for_each(|sequence| written[sequence.source].push(sequence));
        }
        Ok(written)
    }

    /// The rollouts for some prompts; they do not depend on the step.
    fn once(&self, texts: Texts, keys: StageKeys, models: &Models, draws: &[Draw]) -> Result<Vec<Group>> {
        let key = keys.key(Purpose::TeacherRollout, 0);
        let writer = models.decoder(self.model).expect("it is frozen, not the student");
        let mut list = sample(
            texts,
            &*writer,
            &ScorerPrompts::Own,
            &by_record(texts.sources, draws),
            &self.sampling,
            key,
        )?;
        if let Some(editor) = &self.editor {
            list = editor.edited(texts, list)?;
            editor.has_answered_all()?;
        }
        if self.judged {
            judge(texts, list.iter_mut().flatten())?;
        }
        Ok(list)
    }
}

/// Draws with numbers that depend only on the record, not on the step.
pub(super) fn by_record(sources: &StageSources, draws: &[Draw]) -> Vec<NumberedDraw> {
    draws.iter().map(|draw| NumberedDraw { number: sources.number(*draw), draw: *draw }).collect()
}

impl SequenceProducer for ModelProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let decoder = batch.models.decoder(self.model);
        sample_now(batch, decoder.as_deref().unwrap_or(batch.student), draws, &self.sampling, purpose)
    }
}

impl SequenceProducer for WrittenForPrompts {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], _: Purpose) -> Result<Vec<Group>> {
        let missing: Vec<Draw> =
            draws.iter().map(|each| each.draw).filter(|draw| self.fixed(*draw).is_empty()).collect();
        // A fork resumes at another stage's position, and may draw prompts that have no rollouts.
        let mut late = Vec::new();
        if !missing.is_empty() {
            late = self.writer.once(batch.stage.texts(), batch.stage.keys(), batch.models, &missing)?;
        }
        let mut late = late.into_iter();
        let group = |each: &NumberedDraw| match self.fixed(each.draw) {
            found if found.is_empty() => late.next().expect("one for each that is missing"),
            found => found.into_iter().cloned().collect(),
        };
        Ok(draws.iter().map(group).collect())
    }

    fn fixed(&self, Draw { source, record }: Draw) -> Vec<&Sequence> {
        let n = self.writer.sampling.n.max(1) as usize;
        match self.places[source][record] {
            Some(first) => self.written[source][first..first + n].iter().collect(),
            None => Vec::new(),
        }
    }
}
