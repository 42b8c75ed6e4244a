//! Checks of teachers with another tokenizer. Such a teacher has a distribution over its own vocabulary where
//! a token of both tokenizers begins. It is compared by rank, or on entries of both vocabularies.

use mopd_lang::diag::Diagnostic;
use mopd_plan::{
    Divergence, DivergenceKind, Live, Objective, Role, Scorers, Signal, Support, Teacher, TeacherChoice,
};

use crate::lower::refusal::{Origins, refused};

/// The first thing that an objective needs of such a teacher and that is not supported.
pub fn refusal(objective: &Objective, scorers: &Scorers, origins: Origins) -> Option<Diagnostic> {
    let own_tokens = |role: Role| scorers.choices(role).iter().find(|choice| choice.own_tokens);
    let composed = scorers.iter().flat_map(|(_, scorer)| &scorer.choices).find_map(|choice| {
        let Teacher::Composed(composition) = &choice.teacher else { return None };
        composition.roles().find_map(own_tokens)
    });
    if let Some(TeacherChoice { name, .. }) = composed {
        let construct = format!("a composed teacher with the member `{name}`, which has another tokenizer");
        return Some(*refused(origins.span(objective.origin), construct));
    }
    let signals = objective.graph.signals(&objective.outputs());
    let of_signals = signals.iter().map(|signal| (RequiredNumber::of_signal(signal), objective.origin));
    let of_live = objective.live.iter().map(|live| (RequiredNumber::of_live(&live.primitive), live.origin));
    of_signals.chain(of_live).find_map(|(asked, origin)| {
        let inside = asked.divergence.map(Divergence::signals).unwrap_or_default();
        let mut parts = inside.iter().map(RequiredNumber::of_signal).chain([asked]);
        if parts.clone().any(|part| part.compared().is_some_and(|role| scorers.choices(role).is_empty())) {
            let construct = "`matched` or `unmatched` where no teacher is routed";
            let help = "route a teacher: its vocabulary is what the student's is compared with";
            return Some((*refused(origins.span(origin), construct)).help(help));
        }
        if let Some((name, beside)) = parts.clone().find_map(|part| part.beside_a_span(&own_tokens)) {
            let construct = format!(
                "`mass: raw` between `{}` and the teacher `{name}`, which has another tokenizer",
                scorers.name(beside)
            );
            let help = "`raw` compares whole spans, which are computed for the student and this teacher \
                only: compare these two, or write `mass: renormalized` or `tail`, which compare first \
                tokens";
            return Some((*refused(origins.span(origin), construct)).help(help));
        }
        if let Some(name) = parts.clone().find_map(|part| part.at_changing_temperature(&own_tokens)) {
            let construct = format!(
                "`mass: raw` at a temperature that changes, with the teacher `{name}`, which has another \
                 tokenizer"
            );
            let help = "`raw` compares whole spans, whose tokens have one temperature: write a number";
            return Some((*refused(origins.span(origin), construct)).help(help));
        }
        let name = parts.find_map(|part| part.unanswered(&own_tokens))?;
        let construct = format!(
            "reading the teacher `{name}`, which has another tokenizer, token by \
            token"
        );
        let help = "compare with `sorted_l1(student, teacher)`, or on the entries that both vocabularies \
            have: `jsd(teacher, student, support: matched, mass: raw)`";
        Some((*refused(origins.span(origin), construct)).help(help))
    })
}

/// A number that an objective needs of roles' distributions.
#[derive(Clone)]
struct RequiredNumber<'a> {
    roles: Vec<Role>,
    divergence: Option<&'a Divergence>,
    /// The support of a number that is not a divergence.
    support: Option<&'a Support>,
}

impl<'a> RequiredNumber<'a> {
    fn of_signal(signal: &'a Signal) -> RequiredNumber<'a> {
        let (divergence, support) = match signal {
            Signal::Divergence(divergence) => (Some(divergence), None),
            Signal::Mass { support, .. } | Signal::SupportSize { support } => (None, Some(support)),
            _ => (None, None),
        };
        RequiredNumber { roles: signal.roles(), divergence, support }
    }

    fn of_live(live: &'a Live) -> RequiredNumber<'a> {
        let divergence = if let Live::Divergence(divergence) = live { Some(divergence) } else { None };
        RequiredNumber { roles: live.roles(), divergence, support: None }
    }

    /// The role whose vocabulary is compared with the student's.
    fn compared(&self) -> Option<Role> {
        compared(self.support.or(self.divergence.map(|divergence| &divergence.support))?)
    }

    /// Where whole spans of a teacher's tokens are counted, the teacher's name, and a role other than the
    /// student that is compared with it: the probabilities of that role's tokens in a span are not known.
    fn beside_a_span<'n>(
        &self,
        own_tokens: &impl Fn(Role) -> Option<&'n TeacherChoice>,
    ) -> Option<(&'n str, Role)> {
        let sides = self.divergence.filter(|divergence| divergence.is_of_spans())?.sides();
        let teacher = sides.iter().find_map(|role| own_tokens(*role))?;
        let is_beside = |role: &Role| *role != Role::Student && own_tokens(*role).is_none();
        Some((teacher.name.as_str(), sides.into_iter().find(is_beside)?))
    }

    /// Where whole spans of a teacher's tokens are counted at a temperature that changes, the teacher's name.
    fn at_changing_temperature<'n>(
        &self,
        own_tokens: &impl Fn(Role) -> Option<&'n TeacherChoice>,
    ) -> Option<&'n str> {
        let divergence = self.divergence.filter(|divergence| divergence.is_of_spans())?;
        let teacher = divergence.sides().iter().find_map(|role| own_tokens(*role))?;
        divergence.temperature.constant().is_none().then_some(teacher.name.as_str())
    }

    /// The name of a teacher of these roles that does not support it.
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

/// Whether a divergence matches entries of the two vocabularies by other means than their ids.
fn by_text(divergence: &Divergence) -> bool {
    let by_rank = divergence.kind == DivergenceKind::SortedL1;
    match divergence.support {
        Support::Matched { .. } => true,
        Support::Full | Support::Unmatched { .. } => by_rank,
        _ => false,
    }
}
