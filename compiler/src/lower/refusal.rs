//! Refusals: constructs that this version can't execute, reported by name at their place.

use std::fmt::Display;

use mopd_experiment::formula::{Formula, Role as CheckedRole, WeightedRole};
use mopd_experiment::{DomainId, JointMember, Origin, PanelId, TeacherId};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::{FileId, Span};
use mopd_plan::Role;

/// The result of a conversion from the language's types to the runtime's. The error is one refusal.
pub type Converted<T> = Result<T, Box<Diagnostic>>;

/// The table that origins index, and the meaning of names in the current stage.
#[derive(Clone, Copy)]
pub struct Origins<'a> {
    pub spans: &'a [Span],
    /// The roles of the current stage.
    pub roles: &'a StageRoles,
    /// The ladders that the stage's rollouts depend on, in the order of the plan.
    pub ladders: &'a [Formula],
    /// The current learner, if the stage trains several in turns.
    pub learner: Option<LearnerInTurns<'a>>,
}

/// One of the models that a stage trains in turns.
#[derive(Clone, Copy)]
pub struct LearnerInTurns<'a> {
    pub index: usize,
    pub members: &'a [JointMember],
}

/// The meaning of the names of teachers and domains in a stage.
#[derive(Default)]
pub struct StageRoles {
    /// The scorers after the reference, in order.
    pub named: Vec<NamedScorer>,
    pub sums: Vec<SummedTeachers>,
    /// The roles that may lack an input for a completion, or a discussion of its prompt.
    pub partial: Vec<Role>,
    /// The panels whose members score, in the order of the plan.
    pub panels: Vec<PanelId>,
    /// The teachers for which a model writes feedback, in the order of the plan.
    pub feedback: Vec<TeacherId>,
    /// The learned schedules in the teachers' templates; this version runs a single one.
    pub learned: Vec<Formula>,
    /// The stage's domains, in the order of its mixture.
    pub domains: Vec<DomainId>,
}

/// A teacher that scores in a stage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NamedScorer {
    pub teacher: TeacherId,
    /// Whether this is the teacher without its own temperature.
    pub bare: bool,
}

/// Teachers combined by `sum`.
pub struct SummedTeachers {
    /// `None` for the routed teacher.
    pub teacher: Option<TeacherId>,
    pub name: String,
    pub members: Vec<WeightedRole<f64>>,
}

const NO_ROLES: &StageRoles = &StageRoles {
    named: Vec::new(),
    sums: Vec::new(),
    partial: Vec::new(),
    panels: Vec::new(),
    feedback: Vec::new(),
    learned: Vec::new(),
    domains: Vec::new(),
};

impl StageRoles {
    pub fn place(&self, scorer: NamedScorer) -> Option<usize> {
        self.named.iter().position(|known| *known == scorer)
    }

    pub fn sum(&self, role: &CheckedRole) -> Option<&SummedTeachers> {
        self.sums.iter().find(|sum| match (role, sum.teacher) {
            (CheckedRole::Teacher, None) => true,
            (CheckedRole::Named { teacher, .. }, Some(known)) => *teacher == known,
            _ => false,
        })
    }
}

impl<'a> Origins<'a> {
    pub fn new(spans: &'a [Span]) -> Origins<'a> {
        Origins { spans, roles: NO_ROLES, ladders: &[], learner: None }
    }

    /// Without a table of places, every origin has an empty span.
    pub fn span(self, origin: Origin) -> Span {
        if self.spans.is_empty() {
            return Span::new(FileId(0), 0, 0);
        }
        self.spans[origin.0 as usize]
    }

    pub fn at(self, origin: Origin) -> FormulaContext<'a> {
        FormulaContext { span: self.span(origin), roles: self.roles }
    }
}

/// The place of a formula, and the meaning of teachers' names in it.
#[derive(Clone, Copy)]
pub struct FormulaContext<'a> {
    pub span: Span,
    pub roles: &'a StageRoles,
}

impl From<FormulaContext<'_>> for Span {
    fn from(at: FormulaContext) -> Span {
        at.span
    }
}

/// The diagnostic which says that this version can't execute `construct`, a noun phrase.
pub fn refused(at: impl Into<Span>, construct: impl Display) -> Box<Diagnostic> {
    let construct = construct.to_string();
    // A relative clause at the end of the noun phrase is closed.
    let clause = construct.rsplit_once(", which ").map(|(_, clause)| clause);
    let comma = if clause.is_some_and(|clause| !clause.contains(',')) { "," } else { "" };
    Diagnostic::error(Code::NotSupported, at.into(), format!("{construct}{comma} is not supported yet"))
        .label("part of the language, but this version can't run it")
        .into()
}

/// The role of the plan for a checked role.
pub fn role(role: &CheckedRole, at: FormulaContext) -> Converted<Role> {
    if let Some(sum) = at.roles.sum(role) {
        let construct = format!("`{}`, teachers added up by `sum`, outside of a divergence", sum.name);
        let help =
            "`mixture` and `geometric` make one distribution of several teachers, which everything reads";
        return Err(Box::new((*refused(at, construct)).help(help)));
    }
    Ok(match role {
        CheckedRole::Student => Role::Student,
        CheckedRole::Teacher => Role::TEACHER,
        CheckedRole::Old => {
            let construct = "the distribution of `old`, the student before the updates from a batch,";
            let help = "its numbers of each token are kept: `old.logp`, `old.entropy`, `old.top1`, \
                `old.rank`, `old.end_logp`; `sampler` has a distribution";
            return Err(Box::new((*refused(at, construct)).help(help)));
        }
        CheckedRole::Sampler => Role::Sampler,
        CheckedRole::Reference => Role::REFERENCE,
        CheckedRole::Named { teacher, name } => {
            match at.roles.place(NamedScorer { teacher: *teacher, bare: false }) {
                Some(place) => Role::named(place),
                None => return Err(refused(at, format!("`{name}`, a teacher by name, in this place"))),
            }
        }
    })
}
