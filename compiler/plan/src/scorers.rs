//! Scorers: the models, besides the student, whose distributions an objective reads. Formulas refer to them
//! by their index in a list.

use mopd_experiment::{DomainId, ModelId};
use mopd_expr::roles::{Role, ScorerId};
use mopd_expr::signals::{DivergenceParameter, Signal};
use serde::{Deserialize, Serialize};

use crate::data::DataFormula;
use crate::served::Served;
use crate::views::View;

/// A role whose model, chosen by prompt, scores the student's tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scorer {
    /// The role's name in the objective.
    pub name: String,
    /// For each domain, the first choice that holds for a prompt decides.
    pub choices: Vec<TeacherChoice>,
}

/// How several distributions are combined into one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Composition {
    pub pool: Pool,
    pub members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The weighted sum of logits. With a single member of weight 1 / T, it is a temperature.
    Logits,
    /// The weighted sum of probabilities.
    Mixture,
    /// Not a distribution: objectives read the weighted sum of the members' divergences.
    Sum,
}

impl Pool {
    pub fn name(self) -> &'static str {
        match self {
            Pool::Logits => "logits",
            Pool::Mixture => "mixture",
            Pool::Sum => "sum",
        }
    }
}

/// A member of a composition, the student or a scorer. No gradient flows through it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub weight: DivergenceParameter,
    pub role: Role,
}

impl Composition {
    /// The roles whose distributions are combined, then those that the weights depend on.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        let members = self.members.iter().map(|member| member.role);
        members.chain(self.signals().into_iter().flat_map(|signal| signal.roles()))
    }

    /// The signals that the weights depend on.
    pub fn signals(&self) -> Vec<Signal> {
        self.members.iter().flat_map(|member| member.weight.signals()).collect()
    }
}

/// The scorers of a stage: the routed teacher, the reference, then the teachers that the objective reads by
/// name or that write completions, and the members of composed ones. The first two may be empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "SerializedScorers", into = "SerializedScorers")]
pub struct Scorers(Vec<Scorer>);

impl Scorers {
    /// `routed` are the arms of the route, domain by domain; `references` are the reference models.
    pub fn new(
        routed: Vec<TeacherChoice>,
        references: impl IntoIterator<Item = (DomainId, ModelId)>,
        named: Vec<Scorer>,
    ) -> Scorers {
        let reference = |(domain, id)| TeacherChoice {
            domain,
            when: None,
            name: "reference".to_owned(),
            teacher: Teacher::Model(id),
            sees: None,
            own_tokens: false,
        };
        let scorer = |role: Role, choices| Scorer { name: role.name(), choices };
        let first = [
            scorer(Role::TEACHER, routed),
            scorer(Role::REFERENCE, references.into_iter().map(reference).collect()),
        ];
        Scorers(first.into_iter().chain(named).collect())
    }

    pub fn none() -> Scorers {
        Scorers::new(Vec::new(), [], Vec::new())
    }

    pub fn iter(&self) -> impl Iterator<Item = (Role, &Scorer)> {
        self.0.iter().zip(0..).map(|(scorer, place)| (Role::Scorer(ScorerId(place)), scorer))
    }

    /// The arms of the route.
    pub fn routed(&self) -> &[TeacherChoice] {
        &self.0[0].choices
    }

    pub fn references(&self) -> impl Iterator<Item = (DomainId, ModelId)> {
        self.0[1].choices.iter().filter_map(|choice| Some((choice.domain, choice.teacher.model()?)))
    }

    /// The choices of a role, domain by domain.
    pub fn choices(&self, role: Role) -> &[TeacherChoice] {
        let Role::Scorer(ScorerId(place)) = role else { return &[] };
        self.0.get(place as usize).map_or(&[], |scorer| &scorer.choices)
    }

    /// The teachers that the stage uses by name: those that the objective reads, those that only write, and
    /// the members of composed ones.
    pub fn named(&self) -> &[Scorer] {
        &self.0[2..]
    }

    /// For the prompts of a domain, the teacher of each scorer after the routed teacher.
    pub fn beside_the_routed(&self, domain: DomainId) -> Vec<Option<TeacherChoice>> {
        let of = |scorer: &Scorer| scorer.choices.iter().find(|choice| choice.domain == domain).cloned();
        self.0[1..].iter().map(of).collect()
    }

    /// All scorers that read sequences of a domain, with repetition.
    pub fn readers(&self, domain: DomainId) -> impl Iterator<Item = &TeacherChoice> {
        self.0.iter().flat_map(|scorer| &scorer.choices).filter(move |choice| choice.domain == domain)
    }

    /// The composed teachers, with repetition.
    pub fn compositions(&self) -> impl Iterator<Item = &Composition> {
        let choices = self.0.iter().flat_map(|scorer| &scorer.choices);
        choices.filter_map(|choice| choice.teacher.composition())
    }

    /// The signals that the weights of composed teachers depend on, with repetition.
    pub fn signals(&self) -> Vec<Signal> {
        self.compositions().flat_map(Composition::signals).collect()
    }

    /// The models that must exist before the stage, with repetition.
    pub fn models(&self) -> impl Iterator<Item = ModelId> {
        self.0.iter().flat_map(|scorer| &scorer.choices).filter_map(|choice| choice.teacher.model())
    }

    /// The scorers whose distributions are needed: those that are `read`, and the members of composed ones,
    /// in the order of the list.
    pub fn scored(&self, read: impl Fn(Role) -> bool) -> Vec<Role> {
        let mut scored: Vec<Role> = self.iter().map(|(role, _)| role).filter(|role| read(*role)).collect();
        let mut at = 0;
        while let Some(Role::Scorer(ScorerId(place))) = scored.get(at).copied() {
            let choices = &self.0[place as usize].choices;
            for role in
                choices.iter().filter_map(|choice| choice.teacher.composition()).flat_map(|of| of.roles())
            {
                if matches!(role, Role::Scorer(_)) && !scored.contains(&role) {
                    scored.push(role);
                }
            }
            at += 1;
        }
        scored.sort();
        scored
    }

    /// The name of a role in the objective.
    pub fn name(&self, role: Role) -> String {
        match role {
            Role::Scorer(ScorerId(place)) => {
                self.0.get(place as usize).map_or_else(|| role.name(), |scorer| scorer.name.clone())
            }
            _ => role.name(),
        }
    }
}

/// An arm of a route that covers all prompts. Among a domain's arms, the first that applies decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// The condition on the prompt; absent for all prompts, as in a domain's last arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DataFormula>,
    /// `specialist[sort]`
    pub name: String,
    pub teacher: Teacher,
    /// The template that replaces the prompt for the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// Whether it tokenizes the student's text with its own tokenizer. The two are then compared where a
    /// token of both begins (`align = tokens`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_tokens: bool,
}

/// The source of a teacher's distributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    Model(ModelId),
    /// The student, with its weights of some step.
    Student(StudentCopy),
    /// Composed of other scorers.
    Composed(Composition),
    /// Another model of the same stage, by index, with its current weights. Its initial weights are `start`.
    Learner {
        learner: u32,
        start: ModelId,
    },
    /// A model that another program has loaded.
    Served(Box<Served>),
}

impl Teacher {
    /// The model whose weights the teacher has, which must exist before the stage. `None` for other teachers.
    pub fn model(&self) -> Option<ModelId> {
        match self {
            Teacher::Model(model) => Some(*model),
            Teacher::Student(_) | Teacher::Composed(_) | Teacher::Learner { .. } | Teacher::Served(_) => None,
        }
    }

    /// The model that has the teacher's specification: itself, or its start.
    pub fn spec_model(&self) -> Option<ModelId> {
        if let Teacher::Learner { start, .. } = self { Some(*start) } else { self.model() }
    }

    pub fn composition(&self) -> Option<&Composition> {
        if let Teacher::Composed(composition) = self { Some(composition) } else { None }
    }

    pub fn served(&self) -> Option<&Served> {
        if let Teacher::Served(served) = self { Some(served) } else { None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentCopy {
    /// The weights of the current step.
    Current,
    /// An average, updated after every step: rate * average + (1 - rate) * weights.
    Average { rate: f64 },
    /// A copy, renewed every `steps` steps.
    Every { steps: u32 },
}

/// The serialised form of scorers in plans.
#[derive(Clone, Serialize, Deserialize)]
struct SerializedScorers {
    teachers: Vec<TeacherChoice>,
    references: Vec<SerializedReference>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scorers: Vec<Scorer>,
}

#[derive(Clone, Serialize, Deserialize)]
struct SerializedReference {
    domain: DomainId,
    reference: ModelId,
}

impl From<Scorers> for SerializedScorers {
    fn from(scorers: Scorers) -> SerializedScorers {
        let reference = |(domain, reference)| SerializedReference { domain, reference };
        SerializedScorers {
            teachers: scorers.routed().to_vec(),
            references: scorers.references().map(reference).collect(),
            scorers: scorers.named().to_vec(),
        }
    }
}

impl From<SerializedScorers> for Scorers {
    fn from(SerializedScorers { teachers, references, scorers }: SerializedScorers) -> Scorers {
        let references = references.into_iter().map(|written| (written.domain, written.reference));
        Scorers::new(teachers, references, scorers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The serialised names of roles and scorers must not change.
    #[test]
    fn plans_have_the_words_that_they_had() {
        let roles = [
            Role::Student,
            Role::Old,
            Role::TEACHER,
            Role::Sampler,
            Role::REFERENCE,
            Role::Scorer(ScorerId(2)),
        ];
        let text = r#"["student","old","teacher","sampler","reference",{"scorer":2}]"#;
        assert_eq!(serde_json::to_string(&roles).unwrap(), text);
        assert_eq!(serde_json::from_str::<Vec<Role>>(text).unwrap(), roles);
        let text = concat!(
            r#"{"teachers":[{"domain":0,"name":"big","teacher":{"model":3}}],"#,
            r#""references":[{"domain":1,"reference":2}]}"#,
        );
        let scorers: Scorers = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&scorers).unwrap(), text);
        let beside = scorers.beside_the_routed(DomainId(1));
        assert_eq!(beside[0].as_ref().map(|choice| choice.teacher.clone()), Some(Teacher::Model(ModelId(2))));
        assert_eq!(scorers.beside_the_routed(DomainId(0)), [None]);
    }
}
