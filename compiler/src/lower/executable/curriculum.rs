//! Converts the choice of prompts before steps, by measures of completions of every prompt.

use std::cell::RefCell;

use mopd_experiment as checked;
use mopd_experiment::formula::{self, FormulaKind, FormulaNode};
use mopd_expr::graph::Operation;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Axis, Curriculum, CurriculumMeasure, Formula, Keep, Length, Producer, Rollout, Signal};

use super::formula::CrossRolloutReads;
use super::settings::SettingsConverter;
use super::{Converted, filter, producers, refused};
use crate::lower::refusal::{FormulaContext, Origins};

/// The construct's name in refusals.
const CHOICE: &str = "a choice of prompts before steps (`priority`, `refresh`, or `on` in a `filter`)";

impl SettingsConverter<'_> {
    /// `None` where the stage chooses no prompts, or the choice is refused.
    pub(super) fn curriculum(
        &mut self,
        train: &checked::Train,
        rollout: Option<&Rollout>,
        in_turns: bool,
        origins: Origins,
    ) -> Option<Curriculum> {
        if !train.chooses_prompts() {
            return None;
        }
        let place = train.priority.iter().chain(&train.filter).next()?.0.origin;
        for (unsupported, beside) in [
            (in_turns, "in a step of `train`"),
            (matches!(train.length, Length::Epochs(_)), "in a stage that trains in epochs"),
            (train.parts().len() > 1, "together with a term with its own completions"),
        ] {
            if unsupported {
                self.refuse::<()>(place, format!("{CHOICE} {beside}"));
            }
        }
        let (rollouts, measures) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let measure = |node: &FormulaNode, at: FormulaContext| {
            measured(node, at, origins, &mut rollouts.borrow_mut(), &mut measures.borrow_mut())
        };
        let mut lowered = |of: &Option<formula::Formula>, what: &str| {
            let of = of.as_ref()?;
            let elsewhere = CrossRolloutReads::Measured(&measure);
            let lowered = filter::with(of, what, Axis::Group, origins, elsewhere)
                .and_then(|formula| fit(formula, what, origins.at(of.0.origin)));
            match lowered {
                Ok(formula) => Some(formula),
                Err(refusal) => {
                    self.note([*refusal]);
                    None
                }
            }
        };
        let filter = lowered(&train.filter, "a `filter`");
        let priority = lowered(&train.priority, "a `priority`");
        let (rollouts, measures) = (rollouts.into_inner(), measures.into_inner());
        let chosen = Curriculum { filter, priority, refresh: train.refresh, rollouts, measures };
        let drawn = rollout.is_none_or(|rollout| {
            rollout.producer.samples_at_each_step()
                || (matches!(rollout.producer, Producer::Data(_)) && !chosen.draws())
        });
        if !drawn {
            let beside = "where the stage's completions are not `sample(...)` or `from(...)` of every step";
            self.refuse::<()>(place, format!("{CHOICE} {beside}"));
        }
        Some(chosen)
    }
}

/// The measure of each prompt for a reduction over another rollout. Equal rollouts and measures are merged.
fn measured(
    node: &FormulaNode,
    at: FormulaContext,
    origins: Origins,
    rollouts: &mut Vec<Producer>,
    measures: &mut Vec<CurriculumMeasure>,
) -> Converted<Signal> {
    let FormulaKind::Reduce { reduction, operand, among, on: Some(rollout), fraction } = &node.kind else {
        unreachable!("only reductions are over another rollout")
    };
    let what = "a number about other completions";
    if node.axis != Axis::Group {
        let construct =
            "a choice of prompts by a reduction over another rollout (`on`) that is not `over: group`";
        return Err(refused(at, construct));
    }
    let of_completions =
        |formula: &formula::Formula, what: &str, axis| filter::formula(formula, what, axis, origins);
    let producer = producers::producer(rollout, Keep::All, origins, &of_completions)?;
    if !producer.samples_at_each_step() {
        let construct = format!("a choice of prompts by the rollout `{}`", rollout.source.name());
        let help = "`sample(...)` and `from(..., n: ...)` are drawn whenever prompts are chosen";
        return Err(Box::new((*refused(at, construct)).help(help)));
    }
    let (operand, among, fraction) = (operand.clone(), among.clone(), fraction.clone());
    let kind = FormulaKind::Reduce { reduction: *reduction, operand, among, on: None, fraction };
    let own = formula::Formula::new(kind, node.unit, node.axis, false, node.origin);
    let value = fit(filter::formula(&own, what, Axis::Group, origins)?, what, at)?;
    let rollout = place(rollouts, producer);
    Ok(Signal::Measured { measure: place(measures, CurriculumMeasure { rollout, value }) })
}

/// The index of an element in a list without duplicates. Adds the element if it is missing.
fn place<T: PartialEq>(list: &mut Vec<T>, element: T) -> u32 {
    let known = list.iter().position(|known| *known == element);
    let place = known.unwrap_or_else(|| {
        list.push(element);
        list.len() - 1
    });
    place as u32
}

/// Checks that a number compares no prompts, because prompts are measured in portions, and that it is not
/// the same for all, because it could not choose.
fn fit(formula: Formula, what: &str, at: FormulaContext) -> Converted<Formula> {
    let Formula { graph, value } = &formula;
    let needed = graph.reachable(&[*value]);
    let compares = graph.nodes().filter(|(id, _)| needed[id.0 as usize]).any(|(_, node)| {
        let across = |over: Axis| over < Axis::Group;
        match &node.operation {
            Operation::Statistic { over, .. } | Operation::Scan { over, .. } => across(*over),
            Operation::Memory { .. } => true,
            Operation::Reduce { .. } => matches!(node.axis, Axis::Batch | Axis::Domain),
            _ => node.axis == Axis::Batch,
        }
    });
    if compares {
        let construct =
            format!("{what} that compares prompts with each other or with those of earlier steps");
        return Err(refused(at, construct));
    }
    let alike =
        |signal: &Signal| signal.is_of_step() || matches!(signal, Signal::State { .. } | Signal::DomainPlace);
    if graph.signals(&[*value]).iter().all(alike) {
        let message = format!("{what} is the same for every prompt, so it chooses nothing");
        let help = "read the prompt's data, such as `data.level`, or completions of it, such as \
            `mean(reward, over: group)`";
        return Err(Diagnostic::error(Code::UnusedSetting, at.span, message).help(help).into());
    }
    Ok(formula)
}
