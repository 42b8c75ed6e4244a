//! Checks of teachers on a server. They score, but do not write. A teacher that does not return the whole
//! distribution supports only numbers at temperature 1, of the tokens that it lists.

use mopd_lang::diag::Diagnostic;
use mopd_plan::producers::Writer;
use mopd_plan::{
    Answers, Composition, Divergence, Live, Mass, ModelSignal, Objective, Pool, Role, Served, Signal,
    TeacherChoice, Temperature, Train,
};

use crate::lower::refusal::{Origins, refused};

/// The first thing that a stage needs of such a teacher and that is not supported.
pub fn refusal(train: &Train<Objective>, origins: Origins) -> Option<Diagnostic> {
    train.objectives().find_map(|(_, objective)| {
        let asked = ServedTeacherCheck { train, objective, origins };
        asked.writers().or_else(|| asked.composed()).or_else(|| asked.numbers())
    })
}

struct ServedTeacherCheck<'a> {
    train: &'a Train<Objective>,
    objective: &'a Objective,
    origins: Origins<'a>,
}

const DISTRIBUTION: &str = "request the whole distribution: `answers: dist`";

impl<'a> ServedTeacherCheck<'a> {
    fn refuse(&self, construct: String, help: &str) -> Option<Diagnostic> {
        let at = self.origins.span(self.objective.origin);
        Some((*refused(at, construct)).help(help.to_owned()))
    }

    fn served(&self, role: Role) -> Option<(&'a TeacherChoice, &'a Served)> {
        let mut choices = self.train.scorers.choices(role).iter();
        choices.find_map(|choice| Some((choice, choice.teacher.served()?)))
    }

    /// The name of a teacher of the role that does not return the whole distribution.
    fn partial(&self, role: Role) -> Option<&'a str> {
        let mut choices = self.train.scorers.choices(role).iter();
        let partial = |served: &Served| served.answers != Answers::Distribution;
        choices.find(|choice| choice.teacher.served().is_some_and(partial)).map(|choice| choice.name.as_str())
    }

    /// Refuses writers on a server, because a writer needs local weights.
    fn writers(&self) -> Option<Diagnostic> {
        let train = self.train;
        let drawn = train.producers().chain(train.measured()).flat_map(|producer| producer.drawn());
        let of_rollouts = drawn.filter_map(|(writer, _)| match writer {
            Writer::Scorer(role) | Writer::Guide(role) | Writer::Editor { editor: role, .. } => Some(role),
            Writer::Student | Writer::Model(_) => None,
        });
        let of_panels = train.panels.iter().flat_map(|panel| panel.members.iter().copied());
        let of_feedback = train.feedback.iter().map(|feedback| feedback.writer);
        let agreements = self.objective.agreements().into_iter().map(|agreement| agreement.role);
        let attempts = self.objective.signals().into_iter().filter_map(|signal| match signal {
            Signal::Of { role, part: ModelSignal::Correct } => Some(role),
            _ => None,
        });
        let mut writers = of_rollouts.chain(of_panels).chain(of_feedback).chain(agreements).chain(attempts);
        let (choice, _) = writers.find_map(|role| self.served(role))?;
        self.refuse(
            format!("sampling text from the served teacher `{}`", choice.name),
            "a teacher on a server can only score completions: sample them from the student, \
            `sample(...)`, or take those of the data",
        )
    }

    fn composed(&self) -> Option<Diagnostic> {
        let choices = self.train.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
        let mut composed = choices.filter_map(|choice| Some((&choice.name, choice.teacher.composition()?)));
        let (name, part) = composed.find_map(|(name, Composition { pool, members })| {
            let mut roles = members.iter().map(|member| member.role);
            Some((name, roles.find_map(|role| self.partial(role)).filter(|_| *pool != Pool::Sum)?))
        })?;
        self.refuse(
            format!("composing `{name}` from the served teacher `{part}`, which returns only some tokens"),
            DISTRIBUTION,
        )
    }

    fn numbers(&self) -> Option<Diagnostic> {
        let of_scorers = self.train.scorers.signals();
        let mut signals = self.objective.signals().into_iter().chain(of_scorers);
        signals.find_map(|signal| self.signal(&signal)).or_else(|| {
            self.objective.live.iter().find_map(|live| match &live.primitive {
                Live::Divergence(divergence) => self.divergence(divergence),
                _ => None,
            })
        })
    }

    fn signal(&self, signal: &Signal) -> Option<Diagnostic> {
        match signal {
            Signal::Of { role, part: ModelSignal::Value } => {
                let (choice, _) = self.served(*role)?;
                let what = format!("a score by the served teacher `{}`", choice.name);
                self.refuse(what, "load its weights: a server does not return the output of a scalar head")
            }
            Signal::Of { role, part: ModelSignal::EndLogp } => {
                let what = format!(
                    "the log-probability of ending by the served teacher `{}`, ",
                    self.partial(*role)?
                );
                self.refuse(what + "which does not return it", DISTRIBUTION)
            }
            Signal::Of { role, part: ModelSignal::Logp } if !self.objective.temperature.is_one() => {
                self.tempered(self.partial(*role)?, &format!("temperature {}", self.objective.temperature))
            }
            Signal::Divergence(divergence) => self.divergence(divergence),
            _ => None,
        }
    }

    fn divergence(&self, divergence: &Divergence) -> Option<Diagnostic> {
        let roles = divergence.roles();
        let name = roles.iter().find_map(|role| self.partial(*role))?;
        let sides = [divergence.left.roles(), divergence.right.roles()].concat();
        let listed = sides.into_iter().find_map(|role| self.partial(role));
        if let (Some(name), Mass::Tail) = (listed, divergence.mass) {
            let what =
                format!("`mass: tail` with the served teacher `{name}`, which returns only some tokens");
            // The tail is 1 minus the listed mass: if the teacher is certain, only rounding error is left.
            let help = "take `mass: renormalized` or `mass: generalized`, or request the whole \
                distribution: `answers: dist`";
            return self.refuse(what, help);
        }
        let sampler = roles.contains(&Role::Sampler);
        let Some(own) = divergence.temperature.constant() else {
            return self.tempered(name, "a temperature that changes");
        };
        let temperature = match &self.objective.temperature {
            Temperature::Constant(scored_at) if sampler => (own * scored_at).into(),
            scheduled if sampler => scheduled.clone(),
            _ => own.into(),
        };
        if temperature.is_one() { None } else { self.tempered(name, &format!("temperature {temperature}")) }
    }

    /// Refuses other temperatures: the listed tokens would need the normalizer of all tokens.
    fn tempered(&self, name: &str, temperature: &str) -> Option<Diagnostic> {
        let what = format!(
            "a probability at {temperature} by the served teacher `{name}`, which returns \
            only some tokens"
        );
        self.refuse(
            what,
            "sample and compare at temperature 1, or request the whole distribution: \
            `answers: dist`",
        )
    }
}
