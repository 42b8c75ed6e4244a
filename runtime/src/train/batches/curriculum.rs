//! Which prompts come, and in which order: chosen before steps by completions that are drawn of every prompt.
//!
//! Whenever prompts are chosen, completions have random numbers of their own: of the step, the prompt and the
//! rollout. Numbers that a frozen teacher's completions have are measured once and kept, since they say the
//! same of its distribution whenever they are drawn.

use mopd_compiler::expr::batch::{self, Layout};
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{self, Formula};

use super::filter::{judged, of_groups, value_of};
use super::prompts::shuffle;
use super::sample::numbered;
use super::{Batch, Draws, Making, make};
use crate::data::Mixture;
use crate::data::mixture::{Draw, PromptChoice};
use crate::failure::{Error, Result};
use crate::random::{Purpose, permutation};
use crate::train::sequences::Sequences;
use crate::train::{Source, Stage};
use crate::zip::zip_equal;

/// Prompts that are looked at together. A run that is to stop does not wait for all of them.
const TOGETHER: usize = 256;

pub(super) struct CurriculumState {
    settings: plan::Curriculum,
    /// Those of `settings`.
    rollouts: Vec<Box<dyn Draws>>,
    measures: Vec<Measured>,
}

/// A number of each prompt.
struct Measured {
    /// The same whenever prompts are chosen.
    fixed: bool,
    /// By source and record, where it is fixed and was measured.
    known: Option<Vec<Vec<f64>>>,
}

impl CurriculumState {
    pub(super) fn new(settings: &plan::Curriculum, making: &Making) -> Result<CurriculumState> {
        let making = Making { cache: None, ..*making };
        let rollouts =
            settings.rollouts.iter().map(|producer| make(producer, &making)).collect::<Result<_>>()?;
        let scorers = &making.stage.train.scorers;
        let measured = |measure| Measured { fixed: settings.is_fixed(measure, scorers), known: None };
        let measures = settings.measures.iter().map(measured).collect();
        Ok(CurriculumState { settings: settings.clone(), rollouts, measures })
    }

    /// Those that draw what is measured.
    pub(super) fn rollouts(&self) -> impl Iterator<Item = &dyn Draws> {
        self.rollouts.iter().map(AsRef::as_ref)
    }

    /// What is kept of prompts, as bits.
    pub(super) fn bits(&self) -> Vec<Vec<Vec<u64>>> {
        let bits = |numbers: &Vec<f64>| numbers.iter().map(|number| number.to_bits()).collect();
        let of = |measure: &Measured| measure.known.iter().flatten().map(bits).collect();
        self.measures.iter().map(of).collect()
    }

    pub(super) fn restore(&mut self, bits: &[Vec<Vec<u64>>], sizes: &[usize]) -> Result<(), String> {
        let fits =
            |known: &Vec<Vec<u64>>| known.is_empty() || known.iter().map(Vec::len).eq(sizes.iter().copied());
        if bits.len() != self.measures.len() || !bits.iter().all(fits) {
            return Err("what it has measured is of other prompts than the stage's".to_owned());
        }
        for (measure, known) in zip_equal(&mut self.measures, bits) {
            let numbers = known.iter().map(|bits| bits.iter().copied().map(f64::from_bits).collect());
            measure.known = (measure.fixed && !known.is_empty()).then(|| numbers.collect());
        }
        Ok(())
    }

    /// The choice that a step goes by, where it has not been made. `own` draws what the stage trains on.
    pub(super) fn due(
        &mut self,
        batch: &Batch,
        own: &dyn Draws,
        mixture: &Mixture,
    ) -> Result<Option<PromptChoice>> {
        let round = self.settings.round(batch.step);
        if mixture.choice().is_some_and(|choice| choice.round == round) {
            return Ok(None);
        }
        let choice = self.choose(batch, own, &mixture.sizes(), round)?;
        // The experts that it asked are in no step's numbers.
        let _ = batch.student.take_expert_load();
        Ok(Some(choice))
    }

    fn choose(
        &mut self,
        batch: &Batch,
        own: &dyn Draws,
        sizes: &[usize],
        round: u32,
    ) -> Result<PromptChoice> {
        let stage = batch.stage;
        let all: Vec<Draw> = (0..sizes.len())
            .flat_map(|source| (0..sizes[source]).map(move |record| Draw { source, record }))
            .collect();
        if all.len().saturating_mul(1 + self.rollouts.len()) > u32::MAX as usize {
            let message = format!("{} prompts are too many to choose among", all.len());
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
            self.measure(batch, draws, (first, all.len()), &mut numbers)?;
            let mut known = match self.settings.reads_own() {
                true => {
                    let groups = own.draw(batch, &numbered(draws, first), Purpose::Measure)?;
                    judged(stage, &Sequences::of_groups(groups, sizes.len()), batch.step)
                }
                false => {
                    let layout = Layout { groups: draws.len() as u32, ..Layout::default() };
                    let (step, steps) = (batch.step, stage.steps);
                    batch::Batch { layout, step, steps, ..batch::Batch::default() }
                }
            };
            known.measured =
                numbers.iter().map(|numbers| numbers[first..first + draws.len()].to_vec()).collect();
            let of = |formula: &Option<Formula>, what, otherwise| match formula {
                Some(formula) => value_of(formula, &known, what),
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
            lists.push(self.list(stage, (source, round), &holds[own.clone()], &priorities[own])?);
            before += size;
        }
        Ok(PromptChoice::new(round, lists))
    }

    /// Adds what is measured of some prompts, which stand behind `first` others of `all`, to the numbers that
    /// are not known.
    fn measure(
        &self,
        batch: &Batch,
        draws: &[Draw],
        (first, all): (usize, usize),
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
            // Prompts have numbers of their own in each rollout.
            let draws = numbered(draws, (1 + place) * all + first);
            let groups = rollout.draw(batch, &draws, Purpose::Measure)?;
            for measure in wanted {
                let value = &self.settings.measures[measure].value;
                numbers[measure].extend(of_groups(
                    batch.stage,
                    value,
                    &groups,
                    batch.step,
                    "a choice of prompts",
                )?);
            }
        }
        Ok(())
    }

    /// The records of a source that a filter holds for, those with the largest priority first, equals as they
    /// are shuffled; and the mean of their priority.
    fn list(
        &self,
        stage: &Stage,
        (source, round): (usize, u32),
        holds: &[f64],
        priorities: &[f64],
    ) -> Result<(Vec<u32>, Option<f64>)> {
        let shuffled = permutation(shuffle(stage, Purpose::Shuffle)(source, u64::from(round)), holds.len());
        let mut records: Vec<u32> =
            shuffled.into_iter().filter(|record| holds[*record as usize] != 0.0).collect();
        let priority = |record: &u32| priorities[*record as usize];
        records.sort_by(|one, other| {
            priority(other).partial_cmp(&priority(one)).expect("a priority is a number")
        });
        if records.is_empty() {
            let Source { name, origin, .. } = &stage.sources[source];
            let message = format!(
                "the `filter` of `{}` holds for none of the {} prompts of the domain `{name}`, so nothing is left to \
                 train on",
                stage.name,
                holds.len()
            );
            let help = "lower its bound, or leave the domain out of the stage: `domains = ...`";
            return Err(Error::new(FailureKind::Runtime, message).help(help).at(*origin));
        }
        let mean = records.iter().map(priority).sum::<f64>() / records.len() as f64;
        Ok((records, self.settings.priority.as_ref().map(|_| mean)))
    }
}
