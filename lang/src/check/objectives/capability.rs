//! What an objective asks of its teachers, held against what they answer.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Capability, TeacherId, Train};
use crate::formula::{
    Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Live, ModelSignal, Role, Signal, Support,
};
use crate::source::Span;

use crate::check::Checker;
use crate::check::stages::settings::BlockSettings;

impl Checker {
    /// Capability, lineage and vocabulary of every teacher that the stage asks.
    pub(in crate::check) fn check_teachers(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let mut asked: Vec<(Role, TeacherId)> = Vec::new();
        for choice in &train.teachers {
            push(&mut asked, Role::Teacher, choice.teacher);
        }
        for teacher in train.objective.named_teachers() {
            push(
                &mut asked,
                Role::Named { teacher, name: self.teacher(teacher).name.as_str().into() },
                teacher,
            );
        }
        let mut good = true;
        for (role, teacher) in &asked {
            let read = train.objective.reads(role) || self.reads_named(train, *teacher);
            good &= self.check_capability(*teacher, role, train);
            // A teacher that only writes texts is imitated, whoever it is.
            if read {
                good &= self.check_vocabulary(*teacher, role, train, settings)
                    && self.check_lineage(*teacher, train, settings.span);
            }
        }
        good
    }

    /// A role carries the name that it was read under: the teacher's own, or a parameter's.
    fn reads_named(&self, train: &Train, teacher: TeacherId) -> bool {
        train.objective.named_teachers().contains(&teacher)
    }

    fn check_capability(&mut self, teacher: TeacherId, role: &Role, train: &Train) -> bool {
        let answers = self.teacher(teacher).answers;
        for part in train.objective.formulas().into_iter().flat_map(Formula::parts) {
            let Some(needed) = asks(&part.0, role) else { continue };
            if needed > answers {
                let span = self.span(part.0.origin);
                self.falls_short(teacher, role, needed, span);
                return false;
            }
        }
        for rollout in train.rollouts() {
            let Some(needed) = rollout.source.facts().asks_teacher else { continue };
            if *role == Role::Teacher && needed > answers {
                let span = self.span(rollout.origin);
                self.falls_short(teacher, role, needed, span);
                return false;
            }
        }
        true
    }

    fn falls_short(&mut self, teacher: TeacherId, role: &Role, needed: Capability, span: Span) {
        let teacher = self.teacher(teacher);
        let (name, answers, declared) = (teacher.name.clone(), teacher.answers, self.span(teacher.origin));
        let wanted = match needed {
            Capability::Distribution => "the whole next-token distribution".to_owned(),
            Capability::TopK(1) => "the most probable token".to_owned(),
            Capability::TopK(k) => format!("the {k} most probable tokens"),
            Capability::Sampled => "the log-probability of a token".to_owned(),
            Capability::Text => "a completion".to_owned(),
        };
        let help = match (needed, answers) {
            (Capability::Distribution, Capability::TopK(k)) => {
                format!("compare on what it answers: `support: top_k({}, {k})`, with a `mass`", role.name())
            }
            (Capability::TopK(_), Capability::TopK(k)) => {
                format!("ask for at most {k}, or raise what it answers")
            }
            (_, Capability::Sampled) => "use the token taken alone: `teacher.logp`, or `support: sampled`; \
                                         or a teacher that answers more"
                .to_owned(),
            (_, Capability::Text) => "a teacher that only writes can be imitated, `from(teacher, ...)`, and \
                                      asked nothing else"
                .to_owned(),
            _ => "use a teacher that answers more".to_owned(),
        };
        self.report(
            Diagnostic::error(Code::TeacherCapability, span, format!("this needs {wanted} of `{name}`"))
                .label(format!("`{name}` answers `{answers}`"))
                .note(declared, "declared here")
                .help(help),
        );
    }
}

fn push(asked: &mut Vec<(Role, TeacherId)>, role: Role, teacher: TeacherId) {
    if !asked.contains(&(role.clone(), teacher)) {
        asked.push((role, teacher));
    }
}

/// Whether a role is the one asked about: a teacher is itself under every name.
fn same(role: &Role, asked: &Role) -> bool {
    match (role, asked) {
        (Role::Named { teacher: a, .. }, Role::Named { teacher: b, .. }) => a == b,
        _ => role == asked,
    }
}

/// What a part of an objective needs of `role`; none where it does not ask it.
fn asks(node: &FormulaNode, role: &Role) -> Option<Capability> {
    match &node.kind {
        FormulaKind::Signal(Signal::Divergence(divergence))
        | FormulaKind::Live(Live::Divergence(divergence)) => of_divergence(divergence, role),
        FormulaKind::Live(Live::Likelihood { of }) => same(of, role).then_some(Capability::TopK(1)),
        FormulaKind::Live(Live::Ranking { order }) => chooses(order, role),
        FormulaKind::Signal(signal) => of_signal(signal, role),
        _ => None,
    }
}

fn of_signal(signal: &Signal, role: &Role) -> Option<Capability> {
    if !signal.roles().iter().any(|read| same(read, role)) {
        return None;
    }
    Some(match signal {
        Signal::Of { part, .. } => match part {
            ModelSignal::Logp | ModelSignal::EndLogp => Capability::Sampled,
            ModelSignal::Top1 => Capability::TopK(1),
            ModelSignal::Entropy | ModelSignal::Rank => Capability::Distribution,
            // Heads of their own: local weights have them or do not.
            ModelSignal::Mean | ModelSignal::Deviation | ModelSignal::Score | ModelSignal::Confidence => {
                Capability::Distribution
            }
            ModelSignal::Value => Capability::Distribution,
            ModelSignal::StatedConfidence | ModelSignal::Correct => Capability::Text,
        },
        Signal::Overlap { k, .. } => Capability::TopK(*k),
        Signal::Mass { role: of, support } => {
            let own = if same(of, role) { Some(on_support(support, role)) } else { None };
            own.max(chooses(support, role)).unwrap_or(Capability::Text)
        }
        Signal::SupportSize { support } => chooses(support, role).unwrap_or(Capability::Text),
        Signal::InNucleus { .. } | Signal::SpanScore { .. } => Capability::Distribution,
        _ => Capability::Text,
    })
}

fn of_divergence(divergence: &Divergence, role: &Role) -> Option<Capability> {
    let side = divergence.left.roles().iter().chain(&divergence.right.roles()).any(|read| same(read, role));
    let own = side.then(|| match divergence.kind {
        DivergenceKind::SortedL1 | DivergenceKind::Gaussian { .. } => Capability::Distribution,
        _ => on_support(&divergence.support, role),
    });
    own.max(chooses(&divergence.support, role))
}

/// What is needed to know a role's probabilities on a support.
fn on_support(support: &Support, role: &Role) -> Capability {
    match support {
        Support::Full | Support::Matched | Support::Unmatched => Capability::Distribution,
        Support::Sampled => Capability::Sampled,
        Support::TopK { role: of, k } if same(of, role) => Capability::TopK(*k),
        // Another one chose the entries: only the whole distribution has them all.
        Support::TopK { .. } | Support::Nucleus { .. } => Capability::Distribution,
        Support::Union(parts) => {
            parts.iter().map(|part| on_support(part, role)).max().unwrap_or(Capability::Distribution)
        }
        Support::Intersection(parts) => {
            parts.iter().map(|part| on_support(part, role)).min().unwrap_or(Capability::Distribution)
        }
    }
}

/// What is needed of a role to choose a support.
fn chooses(support: &Support, role: &Role) -> Option<Capability> {
    match support {
        Support::TopK { role: of, k } => same(of, role).then_some(Capability::TopK(*k)),
        Support::Nucleus { role: of, .. } => same(of, role).then_some(Capability::Distribution),
        Support::Union(parts) | Support::Intersection(parts) => {
            parts.iter().filter_map(|part| chooses(part, role)).max()
        }
        _ => None,
    }
}
