//! The choice and order of prompts, made before some steps: by their rows, by states, and from completions
//! that are drawn for every prompt.
//! At every choice, completions have their own random numbers, by step, prompt and rollout. Measures of a
//! frozen teacher's completions are taken once and kept, since its distribution does not change.

use mopd_expr::batch::{self, Domains, Layout};
use mopd_plan::events::FailureKind;
use mopd_plan::{self as plan, Axis, Formula, Signal};

use super::prompts::shuffle;
use super::sample::numbered;
use super::{Batch, ProducerContext, SequenceProducer, make};
use crate::data::Mixture;
use crate::data::mixture::{Draw, PromptChoice};
use crate::failure::{Error, Result};
use crate::random::{Purpose, permutation};
use crate::train::completions::{judged, of_groups, of_rows, value_as_written};
use crate::train::objective::States;
use crate::train::sequences::Sequences;
use crate::train::stage::{Source, StageKeys, Texts};
use crate::zip::zip_equal;

/// Prompts that are measured at a time. An interrupted run does not wait for all prompts.
const TOGETHER: usize = 256;

pub(super) struct CurriculumState {
    settings: plan::Curriculum,
    /// The producers of `settings.rollouts`.
    rollouts: Vec<Box<dyn SequenceProducer>>,
    measures: Vec<Measured>,
    /// The states with which the step begins.
    states: Vec<(Signal, Vec<f32>)>,
}

/// A measure: a number for each prompt.
struct Measured {
    /// Whether it is the same at every choice.
    fixed: bool,
    /// The values by source and record, where it is fixed and was measured.
    known: Option<Vec<Vec<f64>>>,
}

impl CurriculumState {
    pub(super) fn new(settings: &plan::Curriculum, context: &ProducerContext) -> Result<CurriculumState> {
        let context = ProducerContext { cache: None, ..*context };
        let rollouts =
            settings.rollouts.iter().map(|producer| make(producer, &context)).collect::<Result<_>>()?;
        let scorers = &context.stage.train.scorers;
        let measured = |measure| Measured { fixed: settings.is_fixed(measure, scorers), known: None };
        let measures = settings.measures.iter().map(measured).collect();
        Ok(CurriculumState { settings: settings.clone(), rollouts, measures, states: Vec::new() })
    }

    pub(super) fn set_states(&mut self, states: &States) {
        self.states = states.signals().collect();
    }

    /// The producers whose completions are measured.
    pub(super) fn rollouts(&self) -> impl Iterator<Item = &dyn SequenceProducer> {
        self.rollouts.iter().map(AsRef::as_ref)
    }

    /// The measures that are kept, as bits.
    pub(super) fn bits(&self) -> Vec<Vec<Vec<u64>>> {
        let bits = |numbers: &Vec<f64>| numbers.iter().map(|number| number.to_bits()).collect();
        let of = |measure: &Measured| measure.known.iter().flatten().map(bits).collect();
        self.measures.iter().map(of).collect()
    }

    pub(super) fn restore(&mut self, bits: &[Vec<Vec<u64>>], sizes: &[usize]) -> Result<(), String> {
        let fits =
            |known: &Vec<Vec<u64>>| known.is_empty() || known.iter().map(Vec::len).eq(sizes.iter().copied());
        if bits.len() != self.measures.len() || !bits.iter().all(fits) {
            return Err("it has measurements of other prompts than the stage's".to_owned());
        }
        for (measure, known) in zip_equal(&mut self.measures, bits) {
            let numbers = known.iter().map(|bits| bits.iter().copied().map(f64::from_bits).collect());
            measure.known = (measure.fixed && !known.is_empty()).then(|| numbers.collect());
        }
        Ok(())
    }

    /// The choice of prompts for a step, if a new one is due. `own` is the producer that the stage trains on.
    pub(super) fn due(
        &mut self,
        batch: &Batch,
        own: &dyn SequenceProducer,
        mixture: &Mixture,
    ) -> Result<Option<PromptChoice>> {
        let round = self.settings.round(batch.step);
        if mixture.choice().is_some_and(|choice| choice.round == round) {
            return Ok(None);
        }
        let choice = self.choose(batch, own, &mixture.sizes(), round)?;
        // This load of experts belongs to no step's metrics.
        let _ = batch.student.take_expert_load();
        Ok(Some(choice))
    }

    fn choose(
        &mut self,
        batch: &Batch,
        own: &dyn SequenceProducer,
        sizes: &[usize],
        round: u32,
    ) -> Result<PromptChoice> {
        let stage = batch.stage;
        let all: Vec<Draw> = (0..sizes.len())
            .flat_map(|source| (0..sizes[source]).map(move |record| Draw { source, record }))
            .collect();
        if all.len().saturating_mul(1 + self.rollouts.len()) > u32::MAX as usize {
            let message = format!("{} prompts are too many for `priority` and `filter`", all.len());
            return Err(Error::new(FailureKind::Runtime, message));
        }
        let mut numbers: Vec<Vec<f64>> = self
            .measures
            .iter()
            .map(|measure| measure.known.iter().flatten().flatten().copied().collect())
            .collect();
        let (mut holds, mut priorities) = (Vec::new(), Vec::new());
        for first in (0..all.len()).step_by(TOGETHER) {
            stage.control.check()?;
            let draws = &all[first..all.len().min(first + TOGETHER)];
            self.measure(batch, draws, first, all.len(), &mut numbers)?;
            let mut known = match self.settings.reads_own() {
                true => {
                    let groups = own.draw(batch, &numbered(draws, first), Purpose::Measure)?;
                    judged(&Sequences::of_groups(groups, sizes.len()), stage.step(batch.step))
                }
                false => {
                    let (step, steps) = (batch.step, stage.steps);
                    batch::Batch { layout: of_prompts(draws, sizes.len()), step, steps, ..Default::default() }
                }
            };
            let rows: Vec<(usize, usize)> = (0..known.layout.sequences())
                .map(|sequence| draws[known.layout.parent(Axis::Sequence, Axis::Group, sequence)])
                .map(|draw| (draw.source, draw.record))
                .collect();
            known.signals.extend(of_rows(stage.train, &stage.sources, &rows)?);
            known.signals.extend(self.states.iter().cloned());
            known.measured =
                numbers.iter().map(|numbers| numbers[first..first + draws.len()].to_vec()).collect();
            let of = |formula: &Option<Formula>, what, otherwise| match formula {
                Some(formula) => value_as_written(formula, &known, what),
                None => Ok(vec![otherwise; draws.len()]),
            };
            holds.extend(of(&self.settings.filter, "the `filter`", 1.0)?);
            priorities.extend(of(&self.settings.priority, "the `priority`", 0.0)?);
        }
        if let Some((draw, _)) = zip_equal(&all, &priorities).find(|(_, priority)| priority.is_nan()) {
            let (file, line) = stage.sources[draw.source].prompts.dataset.place(draw.record);
            let message =
                format!("the `priority` is not a number for the prompt of {}{line}", file.display());
            return Err(Error::new(FailureKind::NonFinite, message));
        }
        for (measure, numbers) in zip_equal(&mut self.measures, numbers) {
            if measure.fixed && measure.known.is_none() {
                let mut rest = numbers.into_iter();
                measure.known = Some(sizes.iter().map(|size| rest.by_ref().take(*size).collect()).collect());
            }
        }
        let (mut lists, mut before) = (Vec::with_capacity(sizes.len()), 0);
        for (source, size) in sizes.iter().enumerate() {
            let own = before..before + size;
            lists.push(self.list(
                stage.texts(),
                stage.keys(),
                source,
                round,
                &holds[own.clone()],
                &priorities[own],
            )?);
            before += size;
        }
        Ok(PromptChoice::new(round, lists))
    }

    /// Adds the measures of some prompts to those that are not known. `first` is the index of the first of
    /// these prompts among `all`.
    fn measure(
        &self,
        batch: &Batch,
        draws: &[Draw],
        first: usize,
        all: usize,
        numbers: &mut [Vec<f64>],
    ) -> Result<()> {
        for (place, rollout) in self.rollouts.iter().enumerate() {
            let of_rollout = |measure: &usize| self.settings.measures[*measure].rollout as usize == place;
            let wanted: Vec<usize> = (0..numbers.len())
                .filter(|measure| of_rollout(measure) && self.measures[*measure].known.is_none())
                .collect();
            if wanted.is_empty() {
                continue;
            }
            // The numbers of prompts differ between rollouts.
            let draws = numbered(draws, (1 + place) * all + first);
            let groups = rollout.draw(batch, &draws, Purpose::Measure)?;
            for measure in wanted {
                let value = &self.settings.measures[measure].value;
                numbers[measure].extend(of_groups(
                    value,
                    &groups,
                    batch.stage.sources.len(),
                    batch.stage.step(batch.step),
                    "a choice of prompts",
                )?);
            }
        }
        Ok(())
    }

    /// The records of a source that the filter holds for, by descending priority, equal ones shuffled; and
    /// their mean priority.
    fn list(
        &self,
        texts: Texts,
        keys: StageKeys,
        source: usize,
        round: u32,
        holds: &[f64],
        priorities: &[f64],
    ) -> Result<(Vec<u32>, Option<f64>)> {
        let shuffled = permutation(shuffle(keys, Purpose::Shuffle)(source, u64::from(round)), holds.len());
        let mut records: Vec<u32> =
            shuffled.into_iter().filter(|record| holds[*record as usize] != 0.0).collect();
        let priority = |record: &u32| priorities[*record as usize];
        records.sort_by(|one, other| {
            priority(other).partial_cmp(&priority(one)).expect("a priority is a number")
        });
        if records.is_empty() {
            let Source { name, origin, .. } = &texts.sources[source];
            let message = format!(
                "the `filter` of `{}` accepts none of the {} prompts of the domain `{name}`, so nothing \
                is left to train on",
                texts.name,
                holds.len()
            );
            let help = "lower its bound, or leave the domain out of the stage: `domains = ...`";
            return Err(Error::new(FailureKind::Runtime, message).help(help).at(*origin));
        }
        let mean = records.iter().map(priority).sum::<f64>() / records.len() as f64;
        Ok((records, self.settings.priority.as_ref().map(|_| mean)))
    }
}

/// Prompts of which nothing is drawn: one empty completion each, which has the numbers of the row.
fn of_prompts(draws: &[Draw], sources: usize) -> Layout {
    let of_group = draws.iter().map(|draw| draw.source as u32).collect();
    Layout {
        group_of_sequence: (0..draws.len() as u32).collect(),
        groups: draws.len() as u32,
        domains: Some(Domains { of_group, count: sources as u32 }),
        ..Layout::default()
    }
}
