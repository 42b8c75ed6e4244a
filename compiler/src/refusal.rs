//! What this version can't execute, said by name where it was asked for.

use std::fmt::Display;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{JointMember, Origin, PanelId, TeacherId};
use mopd_lang::formula::{Formula, Role as CheckedRole};
use mopd_lang::source::{FileId, Span};

use crate::expr::roles::Role;

/// A conversion from what the language says to what the runtime executes; its error is one refusal.
pub type Converted<T> = Result<T, Box<Diagnostic>>;

/// The table that origins point into.
#[derive(Clone, Copy)]
pub struct Origins<'a> {
    pub spans: &'a [Span],
    /// Of the stage at hand.
    pub roles: &'a StageRoles,
    /// The ladders by which its rollouts change, in the order in which a plan has them.
    pub ladders: &'a [Formula],
    /// The models that learn in turns in it, and which of them this is about.
    pub learners: (&'a [JointMember], usize),
}

/// What the names of teachers stand for in a stage.
#[derive(Default)]
pub struct StageRoles {
    /// The scorers after the reference, in order.
    pub named: Vec<NamedScorer>,
    pub sums: Vec<SummedTeachers>,
    /// Those that may have nothing to read for a completion, or nothing to say of its prompt.
    pub partial: Vec<Role>,
    /// The panels whose members are among them, in the order in which a plan has them.
    pub panels: Vec<PanelId>,
    /// The teachers that a model writes feedback for, in that order.
    pub feedback: Vec<TeacherId>,
    /// What is learned for what teachers see: one, where this version runs it.
    pub learned: Vec<Formula>,
}

/// A teacher that a stage scores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NamedScorer {
    pub teacher: TeacherId,
    /// Before its own temperature.
    pub bare: bool,
}

/// Teachers added up by `sum`.
pub struct SummedTeachers {
    /// None for the routed teacher.
    pub teacher: Option<TeacherId>,
    pub name: String,
    pub members: Vec<(f64, CheckedRole)>,
}

const NO_ROLES: &StageRoles = &StageRoles {
    named: Vec::new(),
    sums: Vec::new(),
    partial: Vec::new(),
    panels: Vec::new(),
    feedback: Vec::new(),
    learned: Vec::new(),
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
        Origins { spans, roles: NO_ROLES, ladders: &[], learners: (&[], 0) }
    }

    /// Where nobody asks for a place, there is no table.
    pub fn span(self, origin: Origin) -> Span {
        if self.spans.is_empty() {
            return Span::new(FileId(0), 0, 0);
        }
        self.spans[origin.0 as usize]
    }

    pub fn at(self, origin: Origin) -> At<'a> {
        At { span: self.span(origin), roles: self.roles }
    }
}

/// Where a formula stands, and what the names of teachers in it stand for.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub span: Span,
    pub roles: &'a StageRoles,
}

impl From<At<'_>> for Span {
    fn from(at: At) -> Span {
        at.span
    }
}

/// This version can't execute `construct`, a noun phrase.
pub fn refused(at: impl Into<Span>, construct: impl Display) -> Box<Diagnostic> {
    Diagnostic::error(Code::NotSupported, at.into(), format!("{construct} is not supported yet"))
        .label("part of the language, but this version can't run it")
        .into()
}

/// Which of a stage's roles it is.
pub fn role(role: &CheckedRole, at: At) -> Converted<Role> {
    if let Some(sum) = at.roles.sum(role) {
        let construct = format!("`{}`, teachers added up by `sum`, outside of a divergence", sum.name);
        let help =
            "`mixture` and `geometric` make one distribution of several teachers, which everything reads";
        return Err(Box::new((*refused(at, construct)).help(help)));
    }
    Ok(match role {
        CheckedRole::Student => Role::Student,
        CheckedRole::Teacher => Role::TEACHER,
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
