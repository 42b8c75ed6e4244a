//! Teachers combined by `sum`, which are no distribution but the weighted sum of each one's divergence. A
//! divergence that reads them becomes several divergences.

use mopd_experiment::formula::{self as checked, Formula, FormulaKind};

use crate::lower::refusal::StageRoles;

/// The variants of a formula's node, without weights: one for each combination of the members of the sums
/// that it reads, or the formula itself if it reads none.
pub fn summands(formula: &Formula, roles: &StageRoles) -> Vec<Formula> {
    let mut found = Vec::new();
    let mut pending = vec![formula.clone()];
    while let Some(formula) = pending.pop() {
        match members(&formula, roles) {
            Some(members) => pending.extend(members.into_iter().map(|(_, member)| member)),
            None => found.push(formula),
        }
    }
    found
}

/// For a divergence that reads a sum of teachers: for each member its weight, and the divergence with the
/// member in place of the sum. `None` for any other formula.
pub fn members(formula: &Formula, roles: &StageRoles) -> Option<Vec<(f64, Formula)>> {
    let (FormulaKind::Live(checked::Live::Divergence(divergence))
    | FormulaKind::Signal(checked::Signal::Divergence(divergence))) = &formula.0.kind
    else {
        return None;
    };
    let (role, sum) =
        divergence.roles().into_iter().find_map(|role| roles.sum(&role).map(|sum| (role, sum)))?;
    let of = |member: &checked::WeightedRole<f64>| {
        let divergence = replaced(divergence, &role, &member.role);
        let kind = match &formula.0.kind {
            FormulaKind::Live(_) => FormulaKind::Live(checked::Live::Divergence(divergence)),
            _ => FormulaKind::Signal(checked::Signal::Divergence(divergence)),
        };
        let node = &formula.0;
        (member.weight, Formula::new(kind, node.unit, node.axis, node.live, node.origin))
    };
    Some(sum.members.iter().map(of).collect())
}

/// The divergence with a role replaced by another one.
fn replaced(
    divergence: &checked::Divergence,
    role: &checked::Role,
    by: &checked::Role,
) -> checked::Divergence {
    let mut divergence = divergence.clone();
    for side in [&mut divergence.left, &mut divergence.right] {
        on_side(side, role, by);
    }
    on_support(&mut divergence.support, role, by);
    divergence
}

fn on_side(side: &mut checked::Distribution, role: &checked::Role, by: &checked::Role) {
    match side {
        checked::Distribution::Role(of) => replace(of, role, by),
        checked::Distribution::Blend(parts) => {
            parts.iter_mut().for_each(|part| replace(&mut part.role, role, by))
        }
        checked::Distribution::Detached(inner) => on_side(inner, role, by),
    }
}

fn on_support(support: &mut checked::Support, role: &checked::Role, by: &checked::Role) {
    match support {
        checked::Support::TopK { role: of, .. } | checked::Support::Nucleus { role: of, .. } => {
            replace(of, role, by);
        }
        checked::Support::Union(parts) | checked::Support::Intersection(parts) => {
            parts.iter_mut().for_each(|part| on_support(part, role, by));
        }
        checked::Support::Full
        | checked::Support::Sampled
        | checked::Support::Matched
        | checked::Support::Unmatched => {}
    }
}

fn replace(of: &mut checked::Role, role: &checked::Role, by: &checked::Role) {
    if of == role {
        *of = by.clone();
    }
}
