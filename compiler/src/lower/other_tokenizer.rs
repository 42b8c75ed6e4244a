//! What a teacher with another tokenizer supports. It has a distribution where a token of both tokenizers
//! begins, over its own vocabulary: it is compared by rank, or on the entries that both vocabularies have.

use mopd_lang::diag::Diagnostic;

use crate::plan::{
    Divergence, DivergenceKind, Live, Objective, Role, Scorers, Signal, Support, Teacher, TeacherChoice,
};
use crate::refusal::{Origins, refused};

/// The first thing that an objective needs of such a teacher and that is not supported.
pub fn unfit(objective: &Objective, scorers: &Scorers, origins: Origins) -> Option<Diagnostic> {
    let own_tokens = |role: Role| scorers.choices(role).iter().find(|choice| choice.own_tokens);
    let composed = scorers.iter().flat_map(|(_, scorer)| &scorer.choices).find_map(|choice| {
        let Teacher::Composed(composition) = &choice.teacher else { return None };
        composition.roles().find_map(own_tokens)
    });
    if let Some(TeacherChoice { name, .. }) = composed {
        let construct = format!("a teacher that is made of `{name}`, which has another tokenizer,");
        return Some(*refused(origins.span(objective.origin), construct));
    }
    let signals = objective.graph.signals(&objective.outputs());
    let of_signals = signals.iter().map(|signal| (Asked::of_signal(signal), objective.origin));
    let of_live = objective.live.iter().map(|live| (Asked::of_live(&live.primitive), live.origin));
    of_signals.chain(of_live).find_map(|(asked, origin)| {
        let inside = asked.divergence.map(Divergence::signals).unwrap_or_default();
        let mut parts = inside.iter().map(Asked::of_signal).chain([asked]);
        if parts.clone().any(|part| part.compared().is_some_and(|role| scorers.choices(role).is_empty())) {
            let construct = "`matched` or `unmatched` where no teacher is routed";
            let help = "route a teacher: its vocabulary is what the student's is compared with";
            return Some((*refused(origins.span(origin), construct)).help(help));
        }
        let name = parts.find_map(|part| part.unanswered(&own_tokens))?;
        let construct = format!("reading `{name}`, a teacher with another tokenizer, token by token");
        let help = "compare with `sorted_l1(student, teacher)`, or on the entries that both vocabularies have: \
                    `jsd(teacher, student, support: matched, mass: raw)`";
        Some((*refused(origins.span(origin), construct)).help(help))
    })
}

/// What an objective needs of roles' distributions.
#[derive(Clone)]
struct Asked<'a> {
    roles: Vec<Role>,
    divergence: Option<&'a Divergence>,
    /// The support of a number that is not a divergence.
    support: Option<&'a Support>,
}

impl<'a> Asked<'a> {
    fn of_signal(signal: &'a Signal) -> Asked<'a> {
        let (divergence, support) = match signal {
            Signal::Divergence(divergence) => (Some(divergence), None),
            Signal::Mass { support, .. } | Signal::SupportSize { support } => (None, Some(support)),
            _ => (None, None),
        };
        Asked { roles: signal.roles(), divergence, support }
    }

    fn of_live(live: &'a Live) -> Asked<'a> {
        let divergence = if let Live::Divergence(divergence) = live { Some(divergence) } else { None };
        Asked { roles: live.roles(), divergence, support: None }
    }

    /// The role whose vocabulary the student's is compared with.
    fn compared(&self) -> Option<Role> {
        compared(self.support.or(self.divergence.map(|divergence| &divergence.support))?)
    }

    /// The name of a teacher that does not support it.
    fn unanswered<'n>(&self, own_tokens: &impl Fn(Role) -> Option<&'n TeacherChoice>) -> Option<&'n str> {
        let mut others = self.roles.iter().filter_map(|role| own_tokens(*role));
        let first = others.next()?;
        let answered = others.next().is_none()
            && match (self.divergence, self.support) {
                (Some(divergence), _) => by_text(divergence),
                (None, Some(support)) => matches!(support, Support::Matched { .. }),
                (None, None) => false,
            };
        (!answered).then_some(first.name.as_str())
    }
}

fn compared(support: &Support) -> Option<Role> {
    match support {
        Support::Matched { role } | Support::Unmatched { role } => Some(*role),
        Support::Union { of } | Support::Intersection { of } => of.iter().find_map(compared),
        Support::Full | Support::TopK { .. } | Support::Nucleus { .. } | Support::Sampled => None,
    }
}

/// Whether a divergence does not match entries of the two vocabularies by id.
fn by_text(divergence: &Divergence) -> bool {
    let by_rank = divergence.kind == DivergenceKind::SortedL1;
    match divergence.support {
        Support::Matched { .. } => true,
        Support::Full | Support::Unmatched { .. } => by_rank,
        _ => false,
    }
}
