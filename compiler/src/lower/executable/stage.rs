//! Converts stages. In place of its objective, a training stage keeps the checked stage for lowering.

use super::producers;
use super::template::view;
use crate::lower::refusal::{Converted, LearnerInTurns, Origins};
use mopd_experiment as checked;
use mopd_plan::{
    Axis, Feedback, Formula, Joint, Learner, Model, Origin, OwnData, Rollout, Scorers, Stage, Train,
    Trainable, View,
};

use super::roles::StageScorers;
use super::schedules::of_step;
use super::settings::SettingsConverter;
use super::{derived, feedback, filter, refused, roles, teacher};

/// What the parts of a stage draw.
struct PartRollouts<'p> {
    /// The first is the stage's own, if any term has no completions of its own.
    parts: &'p [checked::Train],
    /// One for each part; `None` where it was refused.
    drawn: Vec<Option<Rollout>>,
}

impl PartRollouts<'_> {
    fn of_stage(&self) -> Option<&Rollout> {
        self.drawn.first()?.as_ref()
    }

    fn all(&self) -> impl Iterator<Item = &Rollout> {
        self.drawn.iter().flatten()
    }

    /// The stage's own, and those of terms with completions of their own.
    fn split<O: Copy>(self, objective: O) -> (Option<Rollout>, Option<Vec<OwnData<O>>>) {
        let mut drawn = self.drawn.into_iter();
        let rollout = drawn.next().flatten();
        (rollout, drawn.map(|rollout| Some(OwnData { rollout: rollout?, objective })).collect())
    }
}

impl<'a> SettingsConverter<'a> {
    pub fn model(&mut self, model: &'a checked::Model) -> Option<Model<&'a checked::Train>> {
        let checked::Model { name, stage, origin } = model;
        let stage = match stage {
            checked::Stage::Initialise(of) => Stage::Initialise(of.clone()),
            checked::Stage::Train(of) => Stage::Train(Box::new(self.train(of, *origin, None)?)),
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
                return self.refuse(*origin, format!("the model `{name}`, a parameter without a value"));
            }
        };
        Some(Model { name: name.clone(), stage, origin: *origin })
    }

    /// Several models that are trained in turns; each step updates one of them.
    fn joint(&mut self, joint: &'a checked::Joint, origin: Origin) -> Option<Joint<&'a checked::Train>> {
        let length = joint.steps.first().map(|step| step.train.length);
        let mut learners = Vec::with_capacity(joint.members.len());
        for (index, member) in joint.members.iter().enumerate() {
            let own = joint.steps.iter().zip(0..).filter(|(step, _)| step.updates == index);
            let own: Vec<(&checked::JointStep, u32)> = own.collect();
            let [(step, turn)] = own.as_slice() else {
                self.refuse::<()>(
                    member.origin,
                    format!(
                        "updating `{}` in more than one step of \
                    `train`",
                        member.name
                    ),
                );
                continue;
            };
            if step.every > 1 && step.train.options.passes > 1 {
                self.refuse::<()>(member.origin, "several `passes` of a step with `every` above 1");
            }
            if step.every > 1 && step.train.options.mini_batches > 1 {
                self.refuse::<()>(member.origin, "several `mini_batches` of a step with `every` above 1");
            }
            if Some(step.train.length) != length {
                self.refuse::<()>(member.origin, "a step of `train` with its own length");
            }
            let learner = LearnerInTurns { index, members: &joint.members };
            if let Some(train) = self.train(&step.train, origin, Some(learner)) {
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
        learner: Option<LearnerInTurns<'a>>,
    ) -> Option<Train<&'a checked::Train>> {
        let checked::Train {
            recipe,
            start,
            mixture,
            teachers: _,
            reference: _,
            sees,
            rollout: _,
            size: _,
            keep: _,
            filter: _,
            priority: _,
            refresh: _,
            shares: _,
            objective: _,
            optimizer,
            length,
            learning_rate,
            extrapolation: _,
            trainable,
            options,
            origins: _,
            guards: _,
        } = train;
        let in_turns = learner.is_some();
        let sees = match sees.as_deref() {
            None => Some(None),
            Some(template) => self.student_view(template, origin).map(Some),
        };
        let (found, ladders) = (roles::find(train, self.experiment), train.ladders());
        let origins = Origins { roles: &found.roles, ladders: &ladders, learner, ..self.origins };
        let parts = train.parts();
        if let [_, own, ..] = parts.as_slice() {
            self.refuse_beside_own_data(train, own.objective.terms[0].origin, origins);
        }
        let drawn: Vec<Option<Rollout>> = parts.iter().map(|part| self.rollout(part, origins)).collect();
        let drawn = PartRollouts { parts: &parts, drawn };
        let rollout = drawn.of_stage();
        let curriculum = self.curriculum(train, rollout, in_turns, origins);
        let shares = self.shares(train, drawn.all(), in_turns, origins);
        let filter = self.filter(train, rollout);
        let scorers = self.scorers(train, &found, origins);
        if let Some(scorers) = &scorers {
            let student = sees.as_ref().and_then(Option::as_ref);
            self.refuse_unsupported_writers(&drawn, scorers, student);
            for producer in curriculum.iter().flat_map(|curriculum| &curriculum.rollouts) {
                let rollout = Rollout::new(1, producer.clone());
                self.refuse_unsupported_writer(&rollout, origin, scorers, student);
            }
        }
        let written = self.feedback(&found, scorers.as_ref(), &drawn, origins, origin);
        if let Some(rollout) = rollout {
            self.refuse_unaccounted(train, rollout, in_turns);
        }
        let extrapolation = self.extrapolation(train, in_turns);
        let guards = self.guards(train, in_turns);
        self.refuse_alignment(train, in_turns);
        self.refuse_updates(trainable, options.private.is_some(), origin);
        let (rollout, own_data) = drawn.split(train);
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
            options: options.clone(),
            filter,
            curriculum,
            shares,
            objective: train,
            own_data: own_data?,
            trainable: trainable.clone(),
            optimizer: optimizer.clone(),
            length: *length,
            learning_rate: learning_rate?,
            guards,
            extrapolation,
        })
    }

    /// Refuses writers that can't write for the stage's rollouts.
    fn refuse_unsupported_writers(
        &mut self,
        drawn: &PartRollouts,
        scorers: &Scorers,
        student: Option<&View>,
    ) {
        for (part, rollout) in drawn.parts.iter().zip(&drawn.drawn) {
            if let Some(rollout) = rollout {
                self.refuse_unsupported_writer(rollout, part.rollout.origin, scorers, student);
            }
        }
    }

    fn refuse_unsupported_writer(
        &mut self,
        rollout: &Rollout,
        origin: Origin,
        scorers: &Scorers,
        student: Option<&View>,
    ) {
        self.note(roles::unsupported_writer(rollout, scorers, student, self.origins.span(origin)));
    }

    /// The feedback that other models write about completions.
    fn feedback(
        &mut self,
        found: &StageScorers,
        scorers: Option<&Scorers>,
        drawn: &PartRollouts,
        origins: Origins,
        origin: Origin,
    ) -> Option<Vec<Feedback>> {
        let written = found.feedback(&self.experiment.teachers, origins);
        let written = written.map_err(|refusals| self.note(refusals)).ok();
        if let Some((written, scorers)) = written.as_deref().zip(scorers) {
            self.refuse_feedback(written, scorers, drawn.all().any(derived::derives), origin);
        }
        written
    }

    /// The student's template, which replaces the prompts.
    fn student_view(&mut self, template: &checked::Template, origin: Origin) -> Option<View> {
        let at = self.origins.span(origin);
        let view = view(template, at, self.origins).and_then(|view| {
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
        view.map_err(|refusal| self.note([*refusal])).ok()
    }

    /// The rollout of a part of a stage.
    fn rollout(&mut self, part: &checked::Train, origins: Origins) -> Option<Rollout> {
        let of_completions = |formula: &_, what: &str, axis| -> Converted<Formula> {
            filter::formula(formula, what, axis, origins)
        };
        producers::rollout(part, origins, &of_completions).map_err(|refusals| self.note(refusals)).ok()
    }

    /// The filter of a step's prompts, by their completions.
    fn filter(&mut self, train: &checked::Train, rollout: Option<&Rollout>) -> Option<Formula> {
        let (formula, rollout) = (train.filter.as_ref()?, rollout?);
        if train.chooses_prompts() {
            return None;
        }
        if !rollout.producer.all_redrawn() {
            let construct = "a `filter` of prompts whose completions are not all sampled anew at every \
                step";
            return self.refuse(formula.0.origin, construct);
        }
        filter::formula(formula, "a `filter`", Axis::Group, self.origins)
            .map_err(|refusal| self.note([*refusal]))
            .ok()
    }

    /// The models that score: those of the route, the reference, and those that terms read by name.
    fn scorers(&mut self, train: &checked::Train, found: &StageScorers, origins: Origins) -> Option<Scorers> {
        let known = &self.experiment.teachers;
        let mut choices = Vec::with_capacity(train.teachers.len());
        for arm in &train.teachers {
            match teacher::choice(arm, train, known, origins) {
                Ok(choice) => choices.push(choice),
                Err(refusals) => self.note(refusals),
            }
        }
        self.note(roles::sums_in_route(train, known, origins));
        let named = found.scorers(train, known, origins).map_err(|refusals| self.note(refusals)).ok();
        let routed = (choices.len() == train.teachers.len()).then_some(choices);
        Some(Scorers::new(routed?, train.reference.iter().copied(), named?))
    }

    fn refuse_feedback(&mut self, written: &[Feedback], scorers: &Scorers, derives: bool, origin: Origin) {
        self.note(feedback::refusal(written, scorers, self.origins.span(origin)));
        if derives && !written.is_empty() {
            self.refuse::<()>(origin, "`feedback` about completions of prompts that are `derived`");
        }
    }

    fn refuse_updates(&mut self, trainable: &Trainable, private: bool, origin: Origin) {
        // The choice of changed elements may reveal records, which no privacy budget covers.
        if private && trainable.changes().next().is_some() {
            self.refuse::<()>(origin, "`changed` with the optimizer `private_adamw`");
        }
        if let Trainable::Adapter(adapter) = trainable
            && adapter.dropout != 0.0
        {
            self.refuse::<()>(origin, "an adapter with `dropout`");
        }
    }

    /// Refuses settings that need the step's completions to be a single set.
    fn refuse_beside_own_data(&mut self, train: &checked::Train, term: Origin, origins: Origins) {
        if let Some(filter) = &train.filter {
            self.refuse::<()>(filter.0.origin, "a `filter` together with a term with its own completions");
        }
        if !origins.ladders.is_empty() {
            self.refuse::<()>(
                term,
                "a term with its own completions together with a `ladder` in a \
                rollout",
            );
        }
        if !origins.roles.learned.is_empty() {
            let construct = "a term with its own completions together with a template that has a \
                `learned` share";
            self.refuse::<()>(term, construct);
        }
        let recorded =
            |part: &checked::Train| matches!(part.rollout.source, checked::RolloutSource::EachTurn { .. });
        if train.parts().iter().any(recorded) {
            self.refuse::<()>(
                term,
                "a term with its own completions together with the rollout \
                `each_turn`",
            );
        }
    }
}
