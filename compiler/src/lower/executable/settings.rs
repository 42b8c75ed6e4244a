//! Domains, stages and tables. A training stage keeps the checked one in place of its objective, which is
//! lowered on its own.

use std::fmt::Display;

use mopd_lang::experiment as checked;

use super::of_step::of_step;
use super::{Diagnostic, data, derived, feedback, filter, refused, roles, teacher};
use crate::plan::producers;
use crate::plan::template::view;
use crate::plan::{
    Axis, DataSource, Domain, Evaluation, Joint, Learner, Model, Origin, OwnData, Rollout, Sampling, Scorers,
    Stage, Train, Trainable, Validation,
};
use crate::refusal::Origins;

/// Converts the settings of one experiment and notes what does not convert. A conversion goes on after a
/// refusal, so that one look shows all of them.
pub struct SettingsConverter<'a> {
    pub(super) experiment: &'a checked::Experiment,
    pub(super) origins: Origins<'a>,
    pub refusals: Vec<Diagnostic>,
}

impl<'a> SettingsConverter<'a> {
    pub fn new(experiment: &'a checked::Experiment, origins: Origins<'a>) -> SettingsConverter<'a> {
        SettingsConverter { experiment, origins, refusals: Vec::new() }
    }

    pub(super) fn refuse<T>(&mut self, origin: Origin, construct: impl Display) -> Option<T> {
        let refusal = *refused(self.origins.span(origin), construct);
        self.note([refusal]);
        None
    }

    /// The members of a family share what they ask for.
    pub(super) fn note(&mut self, refusals: impl IntoIterator<Item = Diagnostic>) {
        for refusal in refusals {
            if !self.refusals.contains(&refusal) {
                self.refusals.push(refusal);
            }
        }
    }

    pub fn domain(&mut self, domain: &checked::Domain) -> Option<Domain> {
        let checked::Domain {
            name,
            prompts,
            tests,
            validation,
            columns,
            format,
            reward,
            share,
            limit,
            origin,
        } = domain;
        let format = format.clone().unwrap_or_default();
        let prompts = self.source(prompts, columns);
        let tests = tests.as_ref().map(|tests| self.source(tests, columns));
        let validation = validation.as_ref().map(|validation| self.source(validation, columns));
        let reward = reward.clone();
        let tests = match tests {
            Some(tests) => Some(tests?),
            None => None,
        };
        let validation = match validation {
            Some(validation) => Some(validation?),
            None => None,
        };
        let limit = limit.map(|(limit, _)| limit);
        Some(Domain {
            name: name.clone(),
            prompts: prompts?,
            tests,
            validation,
            format,
            reward,
            share: *share,
            limit,
            origin: *origin,
        })
    }

    fn source(
        &mut self,
        source: &checked::DataSource,
        columns: &[checked::FieldColumn],
    ) -> Option<DataSource> {
        let checked::DataSource { path, split, filter, limit, origin: _ } = source;
        let filter = match filter {
            Some(filter) => {
                match data::formula(filter, "a choice of rows by anything but their data", self.origins) {
                    Ok(filter) => Some(filter),
                    Err(refusal) => {
                        self.note([*refusal]);
                        return None;
                    }
                }
            }
            None => None,
        };
        Some(DataSource {
            path: path.clone(),
            split: split.clone(),
            columns: columns.to_vec(),
            filter,
            limit: *limit,
        })
    }

    pub fn model(&mut self, model: &'a checked::Model) -> Option<Model<&'a checked::Train>> {
        let checked::Model { name, stage, origin } = model;
        let stage = match stage {
            checked::Stage::Initialise(of) => Stage::Initialise(of.clone()),
            checked::Stage::Train(of) => Stage::Train(Box::new(self.train(of, *origin, (&[], 0))?)),
            checked::Stage::Merge(merge) => Stage::Merge(merge.clone()),
            checked::Stage::Load(pretrained) => Stage::Load(pretrained.clone()),
            checked::Stage::Joint(joint) => Stage::Joint(self.joint(joint, *origin)?),
            checked::Stage::Member { joint, member } => {
                let checked::Stage::Joint(of) = &self.experiment.model(*joint).stage else {
                    unreachable!("a member is one of a joint stage's")
                };
                Stage::Learner { joint: *joint, learner: *member as u32, start: of.members[*member].start }
            }
            checked::Stage::Parameter => {
                return self.refuse(*origin, format!("the model `{name}` without weights"));
            }
        };
        Some(Model { name: name.clone(), stage, origin: *origin })
    }

    /// Several models that learn in turns: one step updates each of them.
    fn joint(&mut self, joint: &'a checked::Joint, origin: Origin) -> Option<Joint<&'a checked::Train>> {
        let length = joint.steps.first().map(|step| step.train.length);
        let mut learners = Vec::with_capacity(joint.members.len());
        for (index, member) in joint.members.iter().enumerate() {
            let own = joint.steps.iter().zip(0..).filter(|(step, _)| step.updates == index);
            let own: Vec<(&checked::JointStep, u32)> = own.collect();
            let [(step, turn)] = own.as_slice() else {
                self.refuse::<()>(member.origin, format!("`{}`, which two steps update,", member.name));
                continue;
            };
            if step.every > 1 && step.train.passes > 1 {
                self.refuse::<()>(member.origin, "several `passes` of a step that is not taken every time");
            }
            if Some(step.train.length) != length {
                self.refuse::<()>(member.origin, "a step of `train` with a length of its own");
            }
            if let Some(train) = self.train(&step.train, origin, (&joint.members, index)) {
                let (name, step_name) = (member.name.clone(), step.name.clone());
                learners.push(Learner { name, step: step_name, turn: *turn, every: step.every, train });
            }
        }
        (learners.len() == joint.members.len()).then_some(Joint { learners })
    }

    fn train(
        &mut self,
        train: &'a checked::Train,
        origin: Origin,
        learners: (&'a [checked::JointMember], usize),
    ) -> Option<Train<&'a checked::Train>> {
        let checked::Train {
            recipe,
            start,
            mixture,
            teachers,
            reference,
            sees,
            passes,
            rollout: _,
            size: _,
            keep: _,
            filter,
            priority: _,
            refresh: _,
            shares: _,
            objective: _,
            optimizer,
            length,
            learning_rate,
            extrapolation: _,
            validation,
            alignment,
            trainable,
            execution,
            ema,
            guards: _,
        } = train;
        let sees = sees.as_deref().map(|template| {
            let at = self.origins.span(origin);
            let view = view(template, at, self.origins)?;
            if view.has_draft() || view.may_lack() {
                let slot = if view.has_draft() { "draft" } else { "group" };
                let construct = format!("the slot `{{{slot}}}` of the student's template `{}`", view.name);
                return Err(refused(at, construct));
            }
            if view.moves() {
                return Err(refused(at, "a template of the student that changes during the run"));
            }
            Ok(view)
        });
        let sees = sees.transpose().map_err(|refusal| self.note([*refusal])).ok();
        let known = &self.experiment.teachers;
        let (found, ladders) = (roles::find(train, self.experiment), train.ladders());
        let origins = Origins { roles: &found.roles, ladders: &ladders, learners, ..self.origins };
        let parts = train.parts();
        if let [_, own, ..] = parts.as_slice() {
            let learns = !found.roles.learned.is_empty();
            self.refuse_beside_own_data(train, own.objective.terms[0].origin, (!ladders.is_empty(), learns));
        }
        let rollouts = parts.iter().map(|part| {
            producers::rollout(part, origins, &|formula, what, axis| {
                filter::formula(formula, what, axis, origins)
            })
            .map_err(|refusals| self.note(refusals))
            .ok()
        });
        let mut rollouts: Vec<Option<Rollout>> = rollouts.collect();
        let own_data = rollouts.split_off(1.min(rollouts.len()));
        let rollout = rollouts.pop().flatten();
        let curriculum = self.curriculum(train, rollout.as_ref(), !learners.0.is_empty(), origins);
        let drawn = std::iter::once(&rollout).chain(&own_data).flatten();
        let shares = self.shares(train, drawn, !learners.0.is_empty(), origins);
        let filter = match (filter, rollout.as_ref().map(|rollout| &rollout.producer)) {
            (None, _) | (_, None) => None,
            _ if train.chooses_prompts() => None,
            (Some(formula), Some(producer)) if producer.drawn_anew() => {
                filter::formula(formula, "a `filter`", Axis::Group, self.origins)
                    .map_err(|refusal| self.note([*refusal]))
                    .ok()
            }
            (Some(formula), Some(_)) => self.refuse(
                formula.0.origin,
                "a `filter` of prompts whose completions are not all drawn anew in every step",
            ),
        };
        let mut choices = Vec::with_capacity(teachers.len());
        for arm in teachers {
            match teacher::choice(arm, train, known, origins) {
                Ok(choice) => choices.push(choice),
                Err(refusals) => self.note(refusals),
            }
        }
        self.note(roles::sums_in_route(train, known, origins));
        let named = found.scorers(train, known, origins).map_err(|refusals| self.note(refusals)).ok();
        let scorers = (choices.len() == teachers.len())
            .then_some(choices)
            .zip(named)
            .map(|(choices, named)| Scorers::new(choices, reference.iter().copied(), named));
        for (part, rollout) in parts.iter().zip(std::iter::once(&rollout).chain(&own_data)) {
            if let (Some(scorers), Some(rollout)) = (&scorers, rollout) {
                let at = origins.span(part.rollout.origin);
                let student = sees.as_ref().and_then(Option::as_ref);
                self.note(roles::unfit_writer(rollout, scorers, student, at));
            }
        }
        if let (Some(curriculum), Some(scorers)) = (&curriculum, &scorers) {
            let student = sees.as_ref().and_then(Option::as_ref);
            for producer in &curriculum.rollouts {
                let rollout = Rollout::new(1, producer.clone());
                self.note(roles::unfit_writer(&rollout, scorers, student, origins.span(origin)));
            }
        }
        let written = found.feedback(known, origins).map_err(|refusals| self.note(refusals)).ok();
        if let Some((written, scorers)) = written.as_deref().zip(scorers.as_ref()) {
            self.note(feedback::unfit(written, scorers, origins.span(origin)));
            let derives = rollout.iter().chain(own_data.iter().flatten()).any(derived::derives);
            if derives && !written.is_empty() {
                self.refuse::<()>(origin, "`feedback` about completions of prompts that are `derived`");
            }
        }
        if let Some(rollout) = &rollout {
            self.refuse_unaccounted(train, rollout, !learners.0.is_empty());
        }
        let extrapolation = self.extrapolation(train, !learners.0.is_empty());
        let guards = self.guards(train, !learners.0.is_empty());
        let alignment =
            alignment.as_ref().map(|alignment| self.alignment(alignment, train, !learners.0.is_empty()));
        let (optimizer, private) = super::optimizer::executable(optimizer);
        // Which elements changed may tell of the records, and no budget has that.
        if private.is_some() && trainable.changes().next().is_some() {
            self.refuse::<()>(origin, "`changed` with the optimizer `private_adamw`");
        }
        if let Trainable::Adapter(adapter) = trainable
            && adapter.dropout != 0.0
        {
            self.refuse::<()>(origin, "an adapter with `dropout`");
        }
        let learning_rate = of_step(learning_rate, "a learning rate", self.origins)
            .map_err(|refusal| self.note([*refusal]))
            .ok();
        Some(Train {
            recipe: *recipe,
            start: *start,
            mixture: mixture.clone(),
            sees: sees?,
            scorers: scorers?,
            panels: found.stage_panels(self.experiment),
            feedback: written?,
            rollout: rollout?,
            passes: *passes,
            filter,
            curriculum,
            shares,
            objective: train,
            own_data: own_data
                .into_iter()
                .map(|rollout| Some(OwnData { rollout: rollout?, objective: train }))
                .collect::<Option<Vec<_>>>()?,
            trainable: trainable.clone(),
            optimizer,
            private,
            length: *length,
            learning_rate: learning_rate?,
            ema: *ema,
            guards,
            extrapolation,
            validation: validation.as_ref().map(|checked::Validation { target, every, rows, origin: _ }| {
                Validation { target: target.clone(), every: *every, rows: *rows }
            }),
            alignment,
            execution: *execution,
        })
    }

    /// What decides by a step's completions has one set of them to look at.
    fn refuse_beside_own_data(
        &mut self,
        train: &checked::Train,
        term: Origin,
        (climbs, learns): (bool, bool),
    ) {
        if let Some(filter) = &train.filter {
            self.refuse::<()>(filter.0.origin, "a `filter` beside a term with completions of its own");
        }
        if climbs {
            self.refuse::<()>(term, "a term with completions of its own where a `ladder` moves a rollout,");
        }
        if learns {
            let construct = "a term with completions of its own where what a teacher sees is `learned`,";
            self.refuse::<()>(term, construct);
        }
        let recorded =
            |part: &checked::Train| matches!(part.rollout.source, checked::RolloutSource::EachTurn { .. });
        if train.parts().iter().any(recorded) {
            self.refuse::<()>(term, "a term with completions of its own beside the rollout `each_turn`");
        }
    }
}

pub(super) fn evaluation(evaluation: &checked::Evaluation) -> Evaluation {
    let checked::Evaluation { samples, temperature, max_tokens, top_p, top_k, stop, prompts } = evaluation;
    let sampling = Sampling {
        top_p: top_p.filter(|p| *p < 1.0),
        top_k: *top_k,
        stop: stop.clone(),
        ..Sampling::new(*samples, *temperature, *max_tokens)
    };
    Evaluation { sampling, prompts: *prompts }
}
