//! What this version can't execute, said by name where it was asked for.

use std::fmt::Display;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Origin, TeacherId};
use mopd_lang::formula::{Formula, Role as CheckedRole};
use mopd_lang::source::{FileId, Span};

use crate::expr::roles::Role;

/// A conversion from what the language says to what the runtime executes; its error is one refusal.
pub type Narrowed<T> = Result<T, Box<Diagnostic>>;

/// The table that origins point into.
#[derive(Clone, Copy)]
pub struct Origins<'a> {
    pub spans: &'a [Span],
    /// The teachers that the objective at hand reads by name, in the order in which a stage has them.
    pub named: &'a [TeacherId],
    /// The ladders by which its rollouts change, in the order in which a plan has them.
    pub ladders: &'a [Formula],
}

impl<'a> Origins<'a> {
    pub fn new(spans: &'a [Span]) -> Origins<'a> {
        Origins { spans, named: &[], ladders: &[] }
    }

    /// Where nobody asks for a place, there is no table.
    pub fn span(self, origin: Origin) -> Span {
        if self.spans.is_empty() {
            return Span::new(FileId(0), 0, 0);
        }
        self.spans[origin.0 as usize]
    }

    pub fn at(self, origin: Origin) -> At<'a> {
        At { span: self.span(origin), named: self.named }
    }
}

/// Where a formula stands, and what the names of teachers in it stand for.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub span: Span,
    pub named: &'a [TeacherId],
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
pub fn role(role: &CheckedRole, at: At) -> Narrowed<Role> {
    Ok(match role {
        CheckedRole::Student => Role::Student,
        CheckedRole::Teacher => Role::TEACHER,
        CheckedRole::Sampler => Role::Sampler,
        CheckedRole::Reference => Role::REFERENCE,
        CheckedRole::Named { teacher, name } => match at.named.iter().position(|named| named == teacher) {
            Some(place) => Role::named(place),
            None => return Err(refused(at, format!("`{name}`, a teacher by name, in this place"))),
        },
    })
}
