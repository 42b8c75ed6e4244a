//! A training loop: all settings of a stage that trains, and what follows from several of them.

use mopd_expr::signals::{Formula, Signal};
use serde::{Deserialize, Serialize};

use crate::curriculum::Curriculum;
use crate::data::DataFormula;
use crate::extrapolation::Extrapolation;
use crate::feedback::Feedback;
use crate::guards::Guard;
use crate::objective::Objective;
use crate::panels::Panel;
use crate::producers::{Producer, Rollout, SampledBy, Writer};
use crate::scorers::{Scorers, TeacherChoice};
use crate::served::Served;
use crate::settings::{
    DomainId, GradientPartition, Length, ModelId, Optimizer, Recipe, Share, TrainOptions, Trainable,
};
use crate::step_functions::StepFunction;
use crate::views::View;

/// A training loop. SFT, GRPO and distillation differ in the source of prefixes and in the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train<O> {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// The template that replaces the prompts for the student.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// The other models whose distributions the objective reads.
    #[serde(flatten)]
    pub scorers: Scorers,
    /// Panels of scorers, which discuss a prompt first.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub panels: Vec<Panel>,
    /// Texts that models write about completions before these are scored.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    #[serde(flatten)]
    pub options: TrainOptions,
    /// A condition per group. A prompt whose rollouts do not meet it is replaced by the next one
    /// (arXiv:2503.14476, eq. 11).
    pub filter: Option<Formula>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// Weights per domain, from states, that the domains' shares of a step's prompts are proportional to.
    /// They replace the shares of `mixture`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Formula>,
    pub objective: O,
    /// Terms with completions of their own. Their gradients are added to those of `objective`.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub own_data: Vec<OwnData<O>>,
    pub trainable: Trainable,
    pub optimizer: Optimizer,
    pub length: Length,
    pub learning_rate: StepFunction,
    /// The guards, in the order in which they are evaluated.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
    /// The extrapolation of the weights between steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolation: Option<Extrapolation>,
}

/// Terms of an objective that are trained on completions of their own, besides the stage's rollout. These are
/// drawn for the prompts of the same step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnData<O> {
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    /// The objective with only these terms.
    pub objective: O,
}

impl<O: Clone> Train<O> {
    /// One stage for each of `own_data`, with only these terms, on their completions.
    pub fn own_parts(&self) -> Vec<Train<O>> {
        let part = |OwnData { rollout, objective }: OwnData<O>| Train {
            rollout,
            objective,
            own_data: Vec::new(),
            ..self.clone()
        };
        self.own_data.iter().cloned().map(part).collect()
    }
}

impl<O> Train<O> {
    /// The same loop with other objectives, and the completions that each is trained on.
    pub fn with_objectives<P>(self, rollout: Rollout, objective: P, own_data: Vec<OwnData<P>>) -> Train<P> {
        Train {
            rollout,
            objective,
            own_data,
            recipe: self.recipe,
            start: self.start,
            mixture: self.mixture,
            sees: self.sees,
            scorers: self.scorers,
            panels: self.panels,
            feedback: self.feedback,
            options: self.options,
            filter: self.filter,
            curriculum: self.curriculum,
            shares: self.shares,
            trainable: self.trainable,
            optimizer: self.optimizer,
            length: self.length,
            learning_rate: self.learning_rate,
            guards: self.guards,
            extrapolation: self.extrapolation,
        }
    }

    /// The models that must exist before the stage, with repetition.
    pub fn inputs(&self) -> Vec<ModelId> {
        std::iter::once(self.start)
            .chain(self.scorer_and_writer_models())
            .chain(self.trainable.models())
            .collect()
    }

    /// The models that score or write.
    pub fn scorer_and_writer_models(&self) -> impl Iterator<Item = ModelId> {
        self.scorers.models().chain(self.producers().flat_map(Producer::models))
    }

    /// The stage's teachers on servers, with repetition.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        let choices = self.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
        choices.filter_map(|choice| choice.teacher.served())
    }

    /// The rollouts that servers sample.
    pub fn sampled_by(&self) -> impl Iterator<Item = &SampledBy> {
        let all = self.producers().chain(self.measured()).flat_map(Producer::all);
        all.filter_map(|producer| match producer {
            Producer::SampledBy(kind) => Some(kind.as_ref()),
            _ => None,
        })
    }

    /// The stage's rollout, then the rollouts of terms with completions of their own.
    pub fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        std::iter::once(&self.rollout).chain(self.own_data.iter().map(|own| &own.rollout))
    }

    /// The producers of all its rollouts.
    pub fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.rollouts().map(|rollout| &rollout.producer)
    }

    /// The producers of completions that are measured to choose prompts.
    pub fn measured(&self) -> impl Iterator<Item = &Producer> {
        self.curriculum.iter().flat_map(|curriculum| &curriculum.rollouts)
    }

    /// Applies `change` to all its rollouts.
    pub fn each_rollout(&mut self, mut change: impl FnMut(&mut Rollout)) {
        change(&mut self.rollout);
        self.own_data.iter_mut().for_each(|own| change(&mut own.rollout));
    }

    /// The objectives, each with the rollout that it is trained on.
    pub fn objectives(&self) -> impl Iterator<Item = (&Rollout, &O)> {
        let own = self.own_data.iter().map(|own| (&own.rollout, &own.objective));
        std::iter::once((&self.rollout, &self.objective)).chain(own)
    }

    /// All templates that replace the prompts of a domain.
    pub fn views(&self, domain: DomainId) -> impl Iterator<Item = &View> {
        let scorers = self.scorers.readers(domain).filter_map(|choice| choice.sees.as_ref());
        let feedback =
            self.feedback.iter().filter(move |feedback| feedback.is_written(&self.scorers, domain));
        let of_writers = self
            .producers()
            .chain(self.measured())
            .flat_map(Producer::views)
            .chain(feedback.filter_map(Feedback::sees));
        self.sees.iter().chain(scorers).chain(of_writers)
    }

    /// The arms of the route for the prompts of a domain, in order.
    pub fn arms(&self, domain: DomainId) -> impl Iterator<Item = &TeacherChoice> {
        self.scorers.routed().iter().filter(move |choice| choice.domain == domain)
    }

    /// The conditions on a prompt's data for the arms of a domain, in order, without the last arm, which
    /// takes all other prompts. Empty where one teacher has all prompts.
    pub fn conditions(&self, domain: DomainId) -> Vec<DataFormula> {
        self.arms(domain).map_while(|choice| choice.when.clone()).collect()
    }

    /// The field with the trajectories whose turns are the prompts.
    pub fn trajectory(&self) -> Option<&str> {
        self.producers().find_map(|producer| producer.kind().trajectory())
    }

    /// Whether any model reads the verifier's message about a completion.
    pub fn shows_feedback(&self) -> bool {
        let choices = self.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
        let scorers = choices.filter_map(|choice| choice.sees.as_ref());
        let writers = self.feedback.iter().filter_map(Feedback::sees);
        self.sees.iter().chain(scorers).chain(writers).any(View::has_feedback)
    }

    /// The indices of the stage's feedback that an objective needs: feedback shown to scorers that it reads,
    /// or whose `available` it reads.
    pub fn feedback_for(&self, objective: &Objective) -> Vec<u32> {
        let mut readers = self.scorers.scored(|role| objective.reads(role));
        readers.extend(objective.signals().into_iter().filter_map(|signal| match signal {
            Signal::Available { role } => Some(role),
            _ => None,
        }));
        let choices = readers.into_iter().flat_map(|role| self.scorers.choices(role));
        let views = choices.filter_map(|choice| choice.sees.as_ref());
        let mut places: Vec<u32> = views.flat_map(View::written_feedback).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl Train<Objective> {
    /// The numbers of a data row that the stage's objectives, composed teachers and choice of prompts read,
    /// each once.
    pub fn data_signals(&self) -> Vec<(Signal, DataFormula)> {
        let objectives = self.objectives().flat_map(|(_, objective)| objective.signals());
        let mut found: Vec<(Signal, DataFormula)> = Vec::new();
        let chosen = self.curriculum.iter().flat_map(Curriculum::signals);
        for signal in objectives.chain(self.scorers.signals()).chain(chosen) {
            if let Some(formula) = DataFormula::of_signal(&signal)
                && !found.iter().any(|(known, _)| *known == signal)
            {
                found.push((signal, formula));
            }
        }
        found
    }

    /// Whether only the student writes, while the other models only score: they write no completions,
    /// attempts, panel discussions, feedback, or texts of derived prompts.
    pub fn only_student_writes(&self) -> bool {
        let by_student =
            |producer: &Producer| producer.drawn().iter().all(|(writer, _)| *writer == Writer::Student);
        let only_scored = |(_, objective): (&Rollout, &Objective)| {
            objective.attempts().is_empty() && objective.agreements().is_empty()
        };
        self.producers().chain(self.measured()).all(by_student)
            && self.producers().all(|producer| producer.derives().is_empty())
            && self.panels.is_empty()
            && self.feedback.is_empty()
            && self.objectives().all(only_scored)
    }

    /// The number of parts of the loss for which this objective gives a separate gradient.
    pub fn aligned_in(&self, objective: &Objective) -> usize {
        match self.options.alignment.map(|alignment| alignment.between) {
            None => 0,
            Some(GradientPartition::Terms) => objective.term_gradients.len(),
            Some(GradientPartition::Domains) => self.mixture.len(),
        }
    }

    /// The number of gradients besides that of the step.
    pub fn aligned(&self) -> usize {
        match self.options.alignment.map(|alignment| alignment.between) {
            Some(GradientPartition::Domains) => self.mixture.len(),
            _ => self.objectives().map(|(_, objective)| self.aligned_in(objective)).sum(),
        }
    }
}
