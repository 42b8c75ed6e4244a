//! Names that files may not declare, or that have a meaning without being declared.

use mopd_experiment::formula::{Axis, PlainSignal, Role};

use crate::check::builtins::vocabulary;

/// Whether files may not declare this name. They may declare roles: most files have a model `student`, and
/// inside an objective the role takes precedence.
pub fn is_reserved(name: &str) -> bool {
    vocabulary::signal(name).is_some() && !is_role(name)
        || matches!(name, "domains" | "self" | "data" | "span")
}

/// The roles that an objective has without declaring them.
pub fn role(name: &str) -> Option<Role> {
    Some(match name {
        "student" => Role::Student,
        "teacher" => Role::Teacher,
        "old" => Role::Old,
        "sampler" => Role::Sampler,
        "reference" => Role::Reference,
        _ => return None,
    })
}

pub fn is_role(name: &str) -> bool {
    role(name).is_some()
}

/// A named constant, unless a file declares another of that name.
pub fn named_number(name: &str) -> Option<f64> {
    (name == "pi").then_some(std::f64::consts::PI)
}

/// Signals that a schedule may read too: one number for the whole step.
pub fn number_of_run(name: &str) -> Option<PlainSignal> {
    PlainSignal::find(name).filter(|signal| signal.axis() == Axis::Run)
}

/// The slots that are a name, besides the fields of the data.
pub(in crate::check) const SLOTS: [&str; 5] = ["prompt", "completion", "draft", "transcript", "feedback"];
