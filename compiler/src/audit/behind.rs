//! What is behind a verdict: the models that a composed teacher is made of, and the condition that a weight
//! per prefix comes from.

use mopd_experiment::formula::{Distribution, Divergence, DivergenceKind, Role};

use super::expectation::ALL;
use super::judge::{Query, quoted};
use super::known::KnownGradients;
use super::named::{GradientSource, Named, name_between, plain};
use super::standard::called;
use super::teachers::DistributionSource;
use super::toy_model::{ToyModel, ToyModelSpec, Variation};
use super::verdict::Verdict;
use super::view::{SampleFilter, TermView};

impl Query<'_> {
    /// The same gradient by the models that a composed teacher is made of, if it has a name by them.
    pub(super) fn behind_composed(
        &self,
        verdict: &Verdict,
        gradient: &[f64],
        toys: &[ToyModel],
    ) -> Option<String> {
        let name = verdict.one_gradient()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mentioned = |role: &&Role| name.split(|c| !is_word(c)).any(|word| word == role.name());
        let composed = |role: &&Role| !self.spec.teachers.parts(role, self.spec.step).is_empty();
        let role = self.spec.roles.iter().filter(composed).find(mentioned)?;
        let named = by_members(role, &self.spec);
        let by_members = KnownGradients::new(&named, toys, self.block()).ok()?;
        let text = by_members.identify(gradient)?.text();
        let text = text.trim_start_matches("mixture: ").trim_start_matches("follows ");
        Some(format!("`{}` is composed of other models: this is {text}", role.name()))
    }

    /// The condition without which the gradient would have no weight per prefix.
    pub(super) fn weight_comes_from(&self, verdict: &Verdict, known: &KnownGradients) -> Option<String> {
        let Verdict::Weighted { of, .. } = verdict else { return None };
        let view = &self.view;
        let like = || view.with_value(view.value);
        let unfiltered = SampleFilter { filter: None, ..view.samples };
        let unkept = SampleFilter { kept: false, ..view.samples };
        let written = |name: &str, formula| format!("`{name} = {}`", quoted(formula));
        let tries: [(Option<String>, TermView); 4] = [
            (
                view.samples.filter.map(|filter| format!("the stage's {}", written("filter", filter))),
                TermView { samples: unfiltered, ..like() },
            ),
            (
                view.samples.kept.then(|| "the stage's `keep = correct`".to_owned()),
                TermView { samples: unkept, ..like() },
            ),
            (view.select.map(|select| written("select", select)), TermView { select: None, ..like() }),
            (view.when.map(|when| written("when", when)), TermView { when: None, ..like() }),
        ];
        let mut acting = tries.into_iter().filter_map(|(what, view)| Some((what?, view)));
        acting.find_map(|(what, view)| {
            let plain = self.measure(&view, ALL, Variation::Usual).ok()?;
            match known.identify(&plain.gradient)? {
                Verdict::Follows { parts } if parts.len() == 1 && parts[0].of == *of => {
                    Some(format!("w comes from {what}"))
                }
                _ => None,
            }
        })
    }
}

/// The Jensen-Shannon divergence between a role and the student, `beta` the role's part of the mixture.
pub(super) fn jensen_shannon(role: &Role, beta: f64) -> Named {
    let kind = called(&format!("jsd(teacher, student, beta: {beta})"));
    let divergence = plain(kind, role, &Role::Student);
    let name = match beta {
        0.5 => name_between("JSD", role, &Role::Student, ", "),
        beta => format!("jsd({}, student, beta: {})", role.name(), (beta * 1e6).round() / 1e6),
    };
    // Not normalised.
    Named { name, source: GradientSource::Divergence(divergence, vec![beta, 0.0]), teaches: true }
}

/// The role in a mixture with the student alone, and its share; `None` for any other mixture.
pub(super) fn mixed_with_student(parts: &[(Role, f64)]) -> Option<(Role, f64)> {
    match parts {
        [(Role::Student, student), (other, share)] | [(other, share), (Role::Student, student)]
            if !other.is_policy()
                && (student + share - 1.0).abs() < 1e-9
                && *share > 0.0
                && *student > 0.0 =>
        {
            Some((other.clone(), *share))
        }
        _ => None,
    }
}

/// The gradients of divergences between the student and the models that a role is composed of.
fn by_members(role: &Role, spec: &ToyModelSpec) -> Vec<Named> {
    let (teachers, step) = (&spec.teachers, spec.step);
    let (mut waiting, mut members): (Vec<Role>, Vec<Role>) = (vec![role.clone()], Vec::new());
    let mut seen: Vec<Role> = Vec::new();
    while let Some(role) = waiting.pop() {
        let parts = teachers.parts(&role, step);
        let is_member = parts.is_empty() && !role.is_policy() && !teachers.is_student(&role, step);
        if is_member && !members.contains(&role) {
            members.push(role.clone());
        }
        waiting.extend(parts.into_iter().filter(|part| !seen.contains(part)));
        seen.push(role);
    }
    members.sort_by(|a, b| a.name().cmp(b.name()));
    let mut named = Vec::new();
    if let DistributionSource::Mixture(parts) = teachers.source(role, step) {
        let as_student = |role: Role| if teachers.is_student(&role, step) { Role::Student } else { role };
        let parts: Vec<(Role, f64)> =
            parts.into_iter().map(|part| (as_student(part.role), part.weight)).collect();
        named.extend(mixed_with_student(&parts).map(|(role, share)| jensen_shannon(&role, share)));
    }
    let student = Role::Student;
    let between = |kind: DivergenceKind, name: &str, left: &Role, right: &Role, sign: &str| Named {
        name: name_between(name, left, right, sign),
        source: GradientSource::Divergence(plain(kind, left, right), Vec::new()),
        teaches: true,
    };
    for member in &members {
        named.push(between(DivergenceKind::Kl, "KL", &student, member, " || "));
        named.push(between(DivergenceKind::Kl, "KL", member, &student, " || "));
    }
    named
}

/// The shares of a side that is a blend, from the values of the divergence's formulas.
pub(super) fn blended(divergence: &Divergence, values: &[f64]) -> Vec<Vec<(Role, f64)>> {
    fn parts(side: &Distribution) -> Option<Vec<Role>> {
        match side {
            Distribution::Role(_) => None,
            Distribution::Blend(parts) => Some(parts.iter().map(|part| part.role.clone()).collect()),
            Distribution::Detached(inner) => parts(inner),
        }
    }
    let sides: Vec<Vec<Role>> = [&divergence.left, &divergence.right].into_iter().filter_map(parts).collect();
    // The shares of both sides come last.
    let shares: usize = sides.iter().map(Vec::len).sum();
    let mut shares = values[values.len().saturating_sub(shares)..].iter().copied();
    sides.into_iter().map(|roles| roles.into_iter().zip(shares.by_ref()).collect()).collect()
}
