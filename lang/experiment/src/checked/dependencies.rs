//! The models and teachers that a stage depends on, and its numbers that are known only in the run.

use super::{
    Length, ModelId, Origin, Rollout, RolloutSource, Schedule, SelfCopy, Stage, Teacher, TeacherId,
    TeacherWeights, TemplatePiece, Train,
};
use crate::checked::formula::{Adaptive, Axis, Formula, FormulaKind, Role, Signal};

impl Stage {
    /// The schedules that may be longer than the stage, whose steps are counted in epochs and therefore known
    /// only when its data is read.
    pub fn schedules_in_epochs<'a>(&'a self, teachers: &'a [Teacher]) -> Vec<(Origin, &'a Schedule)> {
        let in_epochs = |train: &&Train| matches!(train.length, Length::Epochs(_));
        let schedules =
            self.trains().into_iter().filter(in_epochs).flat_map(|train| train.schedules(teachers));
        schedules.filter(|(_, schedule)| schedule.unreached(1).is_some()).collect()
    }
}

/// Something that a stage repeats.
#[derive(Clone, Copy, Debug)]
pub struct StageInterval {
    pub steps: u32,
    /// What the stage ends before if it is not longer: `the copy of the student is renewed`.
    pub acts: &'static str,
    pub origin: Origin,
}

/// Whether a number of a prompt is that of its row or of the objective's states.
fn known_before_completions(formula: &Formula) -> bool {
    let parts = formula.parts();
    let signals = || {
        parts.iter().filter_map(|part| match &part.0.kind {
            FormulaKind::Signal(signal) => Some(signal),
            _ => None,
        })
    };
    let of_prompt = |signal: &Signal| {
        matches!(signal, Signal::Data { .. } | Signal::DataIs { .. } | Signal::State { .. })
    };
    let of_step = |signal: &Signal| signal.axis() == Axis::Run || matches!(signal, Signal::DomainIs { .. });
    signals().any(of_prompt) && signals().all(|signal| of_prompt(signal) || of_step(signal))
}

impl Train {
    /// Every rollout of the stage, including those that choose its prompts and those inside others.
    pub fn rollouts(&self) -> Vec<&Rollout> {
        let choose = self.measured().into_iter().flat_map(Rollout::all);
        self.objective.rollouts(&self.rollout).into_iter().chain(choose).collect()
    }

    /// The formulas of its objective, and those that choose prompts and completions.
    pub fn formulas(&self) -> Vec<&Formula> {
        let decides = self.rollouts().into_iter().flat_map(Rollout::decides_by);
        let chosen = decides.chain(&self.filter).chain(&self.priority);
        self.objective.formulas().into_iter().chain(chosen).collect()
    }

    /// The schedules of its numbers and of those of its teachers, each with its place in the text.
    pub fn schedules<'a>(&'a self, teachers: &'a [Teacher]) -> Vec<(Origin, &'a Schedule)> {
        let used = self.reachable_teachers(teachers).into_iter().map(|id| &teachers[id.0 as usize]);
        let of_teachers = used.flat_map(Teacher::formulas);
        let shown = self.sees.iter().flat_map(|template| template.formulas());
        let watched = self.guards.iter().map(|guard| &guard.condition);
        let chosen = self.formulas();
        let drawn = self.rollouts().into_iter().flat_map(|rollout| {
            let temperature = rollout.source.facts().sampling.map(|sampling| &sampling.temperature);
            rollout.moving().into_iter().chain(temperature)
        });
        let formulas = chosen.into_iter().chain(drawn).chain([&self.learning_rate]).chain(&self.shares);
        let formulas = formulas.chain(watched).chain(shown).chain(of_teachers);
        let schedules = formulas.flat_map(Formula::parts).filter_map(|part| match &part.0.kind {
            FormulaKind::Schedule(schedule) => Some((part.0.origin, schedule)),
            _ => None,
        });
        schedules.collect()
    }

    /// What it repeats at intervals of more than one step.
    pub fn intervals(&self, teachers: &[Teacher]) -> Vec<StageInterval> {
        let mut found = Vec::new();
        let mut add = |steps, acts, origin| found.push(StageInterval { steps, acts, origin });
        if let Some(validation) = &self.options.validation {
            add(validation.every, "the validation loss is computed a second time", self.origins.validation);
        }
        if let Some(alignment) = &self.options.alignment {
            add(alignment.every, "the gradients are compared a second time", self.origins.alignment);
        }
        for id in self.reachable_teachers(teachers) {
            let Teacher { weights, origin, .. } = &teachers[id.0 as usize];
            if let TeacherWeights::Student(SelfCopy::Every { steps }) = weights {
                add(*steps, "the copy of the student is renewed", *origin);
            }
        }
        for rollout in self.rollouts() {
            if let RolloutSource::SampledBy { every, .. } = &rollout.source {
                add(*every, "the server gets newer weights", rollout.origin);
            }
        }
        let adaptive = self.ladders().into_iter().chain(self.learned(teachers));
        for formula in adaptive {
            match &formula.0.kind {
                FormulaKind::Adaptive(Adaptive::Ladder { every, .. }) => {
                    add(*every, "the ladder moves to its second value", formula.0.origin)
                }
                FormulaKind::Adaptive(Adaptive::Learned { hold, .. }) => {
                    add(*hold, "a second value is drawn", formula.0.origin)
                }
                _ => {}
            }
        }
        found.retain(|interval| interval.steps > 1);
        found
    }

    /// The rollouts, besides the stage's own, that are measured to choose prompts.
    fn measured(&self) -> Vec<&Rollout> {
        let parts = self.filter.iter().chain(&self.priority).flat_map(Formula::parts);
        let on = parts.filter_map(|part| match &part.0.kind {
            FormulaKind::Reduce { on, .. } => on.as_deref(),
            _ => None,
        });
        on.collect()
    }

    /// Whether prompts are chosen before steps, by their rows, by states, or by completions drawn for every
    /// prompt. Otherwise a `filter` applies to the completions of a step.
    pub fn chooses_prompts(&self) -> bool {
        let by_rows = || self.filter.as_ref().is_some_and(known_before_completions);
        self.priority.is_some() || self.refresh.is_some() || !self.measured().is_empty() || by_rows()
    }

    /// The ladders that the stage's rollouts read, each once.
    pub fn ladders(&self) -> Vec<Formula> {
        let mut found: Vec<Formula> = Vec::new();
        for moving in self.rollouts().into_iter().filter_map(Rollout::moving) {
            let ladder = matches!(moving.0.kind, FormulaKind::Adaptive(Adaptive::Ladder { .. }));
            if ladder && !found.iter().any(|known| known.0.kind == moving.0.kind) {
                found.push(moving.clone());
            }
        }
        found
    }

    /// The learned schedules in the templates of the stage's teachers, each once.
    pub fn learned(&self, teachers: &[Teacher]) -> Vec<Formula> {
        let mut found: Vec<Formula> = Vec::new();
        for id in self.reachable_teachers(teachers) {
            let pieces = teachers[id.0 as usize].sees.iter().flat_map(|template| &template.pieces);
            for share in pieces.filter_map(TemplatePiece::share) {
                let learned = matches!(share.0.kind, FormulaKind::Adaptive(Adaptive::Learned { .. }));
                if learned && !found.iter().any(|known| known.0.kind == share.0.kind) {
                    found.push(share.clone());
                }
            }
        }
        found
    }

    /// The declared teachers that the stage uses by name: first those that the objective reads, then those
    /// that write for its rollouts.
    pub fn named_teachers(&self) -> Vec<TeacherId> {
        let mut found = self.objective.named_teachers();
        let writers = self.rollouts().into_iter().flat_map(Rollout::writers);
        for teacher in writers.filter_map(named) {
            if !found.contains(&teacher) {
                found.push(teacher);
            }
        }
        found
    }

    /// The models that must exist before the stage.
    pub(super) fn inputs(&self, teachers: &[Teacher]) -> Vec<ModelId> {
        let mut inputs = vec![self.start];
        inputs.extend(self.reference.iter().map(|(_, model)| *model));
        inputs.extend(self.rollouts().into_iter().filter_map(Rollout::earlier_model));
        inputs.extend(self.trainable.models());
        let models = self.reachable_teachers(teachers).into_iter().filter_map(|id| {
            match &teachers[id.0 as usize].weights {
                TeacherWeights::Model(model) => Some(*model),
                _ => None,
            }
        });
        inputs.extend(models);
        inputs
    }

    /// The declared teachers that the stage uses, with those that these are composed of or listen to.
    pub fn reachable_teachers(&self, teachers: &[Teacher]) -> Vec<TeacherId> {
        let mut waiting: Vec<TeacherId> = self.teachers.iter().map(|choice| choice.teacher).collect();
        waiting.extend(self.named_teachers());
        let mut seen = Vec::new();
        while let Some(id) = waiting.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let feedback = teachers[id.0 as usize].feedback.iter().flat_map(|feedback| feedback.all());
            waiting.extend(feedback.filter_map(Rollout::writer).filter_map(named));
            match &teachers[id.0 as usize].weights {
                TeacherWeights::Composed { logits, .. } => {
                    waiting.extend(logits.iter().filter_map(|part| named(&part.role)))
                }
                TeacherWeights::Pooled { members, .. } => {
                    waiting.extend(members.iter().filter_map(|part| named(&part.role)))
                }
                TeacherWeights::Panelist { speaker, .. } => waiting.extend(named(speaker)),
                _ => {}
            }
        }
        seen
    }
}

pub(super) fn named(role: &Role) -> Option<TeacherId> {
    match role {
        Role::Named { teacher, .. } => Some(*teacher),
        _ => None,
    }
}
