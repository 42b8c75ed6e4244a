//! `... |> keep(correct)`, `... |> best(reward, of: 1)`: some of the completions that are drawn for each
//! prompt.

use mopd_expr as expr;
use mopd_plan::events::FailureKind;
use mopd_plan::producers::{Chosen, SampleChoice, reads_student};
use mopd_plan::{Formula, Role, Signal, StageStep};
use tch::no_grad_guard;

use super::sample::{NumberedDraw, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::{Error, Result};
use crate::machine::transfer::to_vec;
use crate::machine::transfer::upload;
use crate::model::ScoringDecoder;
use crate::random::Purpose;
use crate::rollout::Sequence;
use crate::train::completions::of_completions;
use crate::train::objective::failed;
use crate::train::sequences::Sequences;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{LmHead, Logits, Parameters, Vocabulary};
use crate::zip::zip_equal;

pub(super) struct ChosenProducer {
    choice: SampleChoice,
    of: Box<dyn SequenceProducer>,
}

pub(super) fn make(chosen: &Chosen, context: &ProducerContext) -> Result<ChosenProducer> {
    let [inside, _] = context.inside();
    Ok(ChosenProducer { choice: chosen.choice.clone(), of: super::make(&chosen.of, &inside)? })
}

impl SequenceProducer for ChosenProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        choose(batch, &self.choice, self.of.draw(batch, draws, purpose)?)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}

/// The chosen sequences of each group.
pub(super) fn choose(batch: &Batch, choice: &SampleChoice, mut groups: Vec<Group>) -> Result<Vec<Group>> {
    let what = match choice {
        SampleChoice::Keep { .. } => "the condition of a `keep`",
        SampleChoice::Best { .. } => "the number of a `best`",
    };
    let mut numbers = numbers(batch, choice.formula(), what, &mut groups)?.into_iter();
    let mut left = |group: Group| {
        let mut number = || numbers.next().expect("a number for each");
        let of_group: Vec<(Sequence, f64)> = group.into_iter().map(|sequence| (sequence, number())).collect();
        match choice {
            SampleChoice::Keep { .. } => of_group
                .into_iter()
                .filter(|(_, holds)| *holds != 0.0)
                .map(|(sequence, _)| sequence)
                .collect(),
            SampleChoice::Best { count, .. } => best(of_group, *count as usize),
        }
    };
    Ok(groups.into_iter().map(&mut left).collect())
}

/// The `count` sequences with the largest numbers, the first of equal ones, in their original order.
fn best(group: Vec<(Sequence, f64)>, count: usize) -> Group {
    let mut order: Vec<usize> = (0..group.len()).collect();
    // The sort is stable.
    order.sort_by(|one, other| group[*other].1.total_cmp(&group[*one].1));
    order.truncate(count);
    let chosen = group.into_iter().enumerate().filter(|(place, _)| order.contains(place));
    chosen.map(|(_, (sequence, _))| sequence).collect()
}

/// The value of a formula for each sequence, before a step trains on them. Judges sequences without a reward
/// where the formula reads rewards.
pub(super) fn numbers(
    batch: &Batch,
    formula: &Formula,
    what: &str,
    groups: &mut [Group],
) -> Result<Vec<f64>> {
    let stage = batch.stage;
    let wanted = formula.graph.signals(&[formula.value]);
    let asks_reward = wanted.iter().any(|signal| signal.is_of_reward());
    if asks_reward && groups.iter().flatten().any(|sequence| sequence.reward.is_none()) {
        judge(stage.texts(), groups.iter_mut().flatten())?;
    }
    let full: Vec<Group> = groups.iter().filter(|group| !group.is_empty()).cloned().collect();
    if full.is_empty() {
        return Ok(Vec::new());
    }
    let sequences = Sequences::of_groups(full, stage.sources.len());
    let known = match reads_student(formula) {
        true => of_student(batch, &sequences, &wanted)?,
        false => Vec::new(),
    };
    let numbers = of_completions(formula, &sequences, known, stage.step(batch.step), what)?;
    match zip_equal(&sequences.list, &numbers).find(|(_, number)| number.is_nan()) {
        None => Ok(numbers),
        Some((sequence, _)) => {
            let (file, line) = stage.sources[sequence.source].prompts.dataset.place(sequence.record);
            let message = format!("{what} is not a number for the prompt of {}{line}", file.display());
            Err(Error::new(FailureKind::NonFinite, message))
        }
    }
}

/// The signals of completions that the student supplies, before a step trains on them.
fn of_student(batch: &Batch, sequences: &Sequences, wanted: &[Signal]) -> Result<Vec<(Signal, Vec<f32>)>> {
    let Batch { stage, student, models, .. } = *batch;
    let _guard = no_grad_guard();
    let (packing, own) = (stage.packing(), &ScorerPrompts::Own);
    let micro_batches = packing.micro_batches(sequences, 0..sequences.list.len(), own);
    let hidden = packing.hidden(ScoringDecoder::Held(student), sequences, &micro_batches, own);
    let lm_head = LmHead::Held(models.compared(student));
    let logits =
        Logits::Projected { hidden, lm_head, softcap: student.config.logit_softcap, scalar_head: None };
    let targets = upload(&sequences.targets(), stage.place.device);
    let vocabulary =
        Vocabulary::new(stage.place, &targets, logits, Vec::new(), None, student.tokenizer.ends())
            .without(student.tokenizer.absent())
            .at(stage.train.objective.temperature.at(StageStep { step: batch.step, steps: stage.steps }));
    let layout = expr::batch::Batch { layout: sequences.layout.clone(), ..expr::batch::Batch::default() };
    let parameters = Parameters { batch: &layout, device: stage.place.device };
    let (mut signals, mut quantities) = (Vec::new(), Vec::new());
    for signal in wanted.iter().filter(|signal| signal.roles().contains(&Role::Student)) {
        let quantity = parameters.quantity(signal).map_err(|error| failed(error, &stage.train.objective))?;
        quantities.extend(quantity);
        signals.push(signal.clone());
    }
    Ok(zip_equal(signals, vocabulary.values(&quantities).iter().map(to_vec)).collect())
}
