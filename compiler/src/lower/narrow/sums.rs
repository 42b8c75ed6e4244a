//! Teachers added up by `sum`: no distribution, but the divergence of each, times its weight. A divergence
//! that reads them is as many divergences.

use mopd_lang::formula::{self as wide, Formula, FormulaKind};

use crate::refusal::StageRoles;

/// A formula's own kind, once for each combination of the members of the sums that it reads, without weights:
/// of a formula that reads none, itself.
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

/// A divergence that reads a sum of teachers, with each of its members in the sum's place, and their weights;
/// none of anything else.
pub fn members(formula: &Formula, roles: &StageRoles) -> Option<Vec<(f64, Formula)>> {
    let (FormulaKind::Live(wide::Live::Divergence(divergence))
    | FormulaKind::Signal(wide::Signal::Divergence(divergence))) = &formula.0.kind
    else {
        return None;
    };
    let (role, sum) =
        divergence.roles().into_iter().find_map(|role| roles.sum(&role).map(|sum| (role, sum)))?;
    let of = |(weight, member): &(f64, wide::Role)| {
        let divergence = replaced(divergence, &role, member);
        let kind = match &formula.0.kind {
            FormulaKind::Live(_) => FormulaKind::Live(wide::Live::Divergence(divergence)),
            _ => FormulaKind::Signal(wide::Signal::Divergence(divergence)),
        };
        let node = &formula.0;
        (*weight, Formula::new(kind, node.unit, node.axis, node.live, node.origin))
    };
    Some(sum.members.iter().map(of).collect())
}

/// The divergence with another role in the place of one.
fn replaced(divergence: &wide::Divergence, role: &wide::Role, by: &wide::Role) -> wide::Divergence {
    let mut divergence = divergence.clone();
    for side in [&mut divergence.left, &mut divergence.right] {
        on_side(side, role, by);
    }
    on_support(&mut divergence.support, role, by);
    divergence
}

fn on_side(side: &mut wide::Distribution, role: &wide::Role, by: &wide::Role) {
    match side {
        wide::Distribution::Role(of) => replace(of, role, by),
        wide::Distribution::Blend(parts) => parts.iter_mut().for_each(|(_, of)| replace(of, role, by)),
        wide::Distribution::Detached(inner) => on_side(inner, role, by),
    }
}

fn on_support(support: &mut wide::Support, role: &wide::Role, by: &wide::Role) {
    match support {
        wide::Support::TopK { role: of, .. } | wide::Support::Nucleus { role: of, .. } => {
            replace(of, role, by);
        }
        wide::Support::Union(parts) | wide::Support::Intersection(parts) => {
            parts.iter_mut().for_each(|part| on_support(part, role, by));
        }
        wide::Support::Full | wide::Support::Sampled | wide::Support::Matched | wide::Support::Unmatched => {}
    }
}

fn replace(of: &mut wide::Role, role: &wide::Role, by: &wide::Role) {
    if of == role {
        *of = by.clone();
    }
}
