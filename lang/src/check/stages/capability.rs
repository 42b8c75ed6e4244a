//! Compares what objectives need of their teachers with what the teachers return.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::{
    Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Live, Role, Signal, Support,
};
use mopd_experiment::{Capability, Experiment, Origin, TeacherId, Train};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::declarations::Declarations;
use crate::check::stages::lineage;

/// A teacher, and the role as which a stage asks it.
#[derive(PartialEq)]
struct AskedTeacher {
    role: Role,
    teacher: TeacherId,
}

/// Checks capability, lineage and vocabulary of every teacher of the stage.
pub fn check_teachers(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let mut asked: Vec<AskedTeacher> = Vec::new();
    for choice in &train.teachers {
        push(&mut asked, AskedTeacher { role: Role::Teacher, teacher: choice.teacher });
    }
    for teacher in train.objective.named_teachers() {
        let role = Role::Named { teacher, name: declarations.parts.teacher(teacher).name.as_str().into() };
        push(&mut asked, AskedTeacher { role, teacher });
    }
    let mut good = true;
    for AskedTeacher { role, teacher } in &asked {
        let read = train.objective.reads(role) || reads_named(train, *teacher);
        good &= check_capability(declarations, *teacher, role, train);
        // A teacher that only writes texts can be imitated by any student.
        if read {
            good &= lineage::check_vocabulary(declarations, *teacher, role, train, settings)
                && lineage::check_lineage(declarations, *teacher, train, settings.span);
        }
    }
    good
}

/// Whether the objective reads this teacher by name, its own or a parameter's.
fn reads_named(train: &Train, teacher: TeacherId) -> bool {
    train.objective.named_teachers().contains(&teacher)
}

fn check_capability(declarations: &mut Declarations, teacher: TeacherId, role: &Role, train: &Train) -> bool {
    let answers = declarations.parts.teacher(teacher).answers;
    let Some((needed, at)) = needs(train, role).into_iter().find(|(needed, _)| *needed > answers) else {
        return true;
    };
    falls_short(declarations, teacher, role, needed, declarations.span(at));
    false
}

fn falls_short(
    declarations: &mut Declarations,
    teacher: TeacherId,
    role: &Role,
    needed: Capability,
    span: Span,
) {
    let teacher = declarations.parts.teacher(teacher);
    let (name, answers, declared) =
        (teacher.name.clone(), teacher.answers, declarations.span(teacher.origin));
    let wanted = match needed {
        Capability::Distribution => "the whole next-token distribution".to_owned(),
        Capability::TopK(1) => "the most probable token".to_owned(),
        Capability::TopK(k) => format!("the {k} most probable tokens"),
        Capability::Sampled => "the log-probability of a token".to_owned(),
        Capability::Text => "a completion".to_owned(),
    };
    let help = nearest_form(needed, answers, role.name());
    declarations.report(
        Diagnostic::error(Code::TeacherCapability, span, format!("this needs {wanted} of `{name}`"))
            .label(format!("`{name}` answers `{answers}`"))
            .note(declared, "declared here")
            .help(help),
    );
}

/// The needs of a stage of a role, with their places: first in its objective, then in its rollouts.
fn needs(train: &Train, role: &Role) -> Vec<(Capability, Origin)> {
    let parts = train.objective.formulas().into_iter().flat_map(Formula::parts);
    let of_parts = parts.filter_map(|part| Some((asks(&part.0, role)?, part.0.origin)));
    let rollouts = train.rollouts().into_iter().filter(|_| *role == Role::Teacher);
    let of_rollouts =
        rollouts.filter_map(|rollout| Some((rollout.source.facts().asks_teacher?, rollout.origin)));
    of_parts.chain(of_rollouts).collect()
}

/// The most that the stages of an experiment need of a teacher, and the name by which they read it. `None`
/// where they do not read it. Needs due to temperatures and composed teachers are known only in the plan.
pub fn needed_of(experiment: &Experiment, teacher: TeacherId) -> Option<(Capability, String)> {
    let name = &experiment.teacher(teacher).name;
    let (named, teacher_role) = (Role::Named { teacher, name: name.as_str().into() }, Role::Teacher);
    let routed = |train: &Train| train.teachers.iter().any(|choice| choice.teacher == teacher);
    let of_train = |train: &Train| {
        let roles = [Some(&named), routed(train).then_some(&teacher_role)];
        let needs = |role: &Role| {
            let most = needs(train, role).into_iter().map(|(needed, _)| needed).max();
            most.map(|needed| (needed, role.name().to_owned()))
        };
        roles.into_iter().flatten().filter_map(needs).collect::<Vec<_>>()
    };
    experiment.models.iter().flat_map(|model| model.stage.trains()).flat_map(of_train).max()
}

/// The suggestion where a teacher returns less than is needed. `role` is its name in the objective.
pub fn nearest_form(needed: Capability, answers: Capability, role: &str) -> String {
    match (needed, answers) {
        (Capability::Distribution, Capability::TopK(k)) => {
            format!("compare on what it answers: `support: top_k({role}, {k})`, with a `mass`")
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
    }
}

fn push(asked: &mut Vec<AskedTeacher>, of: AskedTeacher) {
    if !asked.contains(&of) {
        asked.push(of);
    }
}

/// Whether two roles are equal, regardless of a teacher's names.
fn same(role: &Role, asked: &Role) -> bool {
    match (role, asked) {
        (Role::Named { teacher: a, .. }, Role::Named { teacher: b, .. }) => a == b,
        _ => role == asked,
    }
}

/// The capability that a part of an objective needs of `role`. `None` if it does not read the role.
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
        Signal::Of { part, .. } => part.definition().capability,
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

/// The capability that is needed for a role's probabilities on a support.
fn on_support(support: &Support, role: &Role) -> Capability {
    match support {
        Support::Full | Support::Matched | Support::Unmatched => Capability::Distribution,
        Support::Sampled => Capability::Sampled,
        Support::TopK { role: of, k } if same(of, role) => Capability::TopK(*k),
        // Another role determines the entries, so any of them may be needed.
        Support::TopK { .. } | Support::Nucleus { .. } => Capability::Distribution,
        Support::Union(parts) => {
            parts.iter().map(|part| on_support(part, role)).max().unwrap_or(Capability::Distribution)
        }
        Support::Intersection(parts) => {
            parts.iter().map(|part| on_support(part, role)).min().unwrap_or(Capability::Distribution)
        }
    }
}

/// The capability that is needed of a role if it determines the support.
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
