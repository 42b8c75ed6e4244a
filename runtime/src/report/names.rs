//! The names in the records of a stage. Records have names, and keys have none: a stored record is read with
//! the names of the plan that reads it. Names correspond by their place, because keys do cover the order of
//! a stage's domains and of the arms of its route.

use std::collections::BTreeMap;

use mopd_plan::{DomainId, GradientPartition, Objective, Stage, Train};
use serde::{Deserialize, Serialize};

/// The names of a stage's domains and teachers, for each model that it trains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordNames(pub Vec<MixtureNames>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixtureNames {
    /// In the order of the mixture.
    pub domains: Vec<String>,
    /// For each arm of the route, the place of its domain in the mixture, and the name of its teacher.
    pub teachers: Vec<(usize, String)>,
    /// Whether gradients of the domains are compared: columns then have their names.
    pub in_columns: bool,
}

impl RecordNames {
    /// `domain` is the name of a domain of the plan.
    pub fn new<'n>(stage: &Stage<Objective>, domain: impl Fn(DomainId) -> &'n str) -> RecordNames {
        let of = |train: &Train<Objective>| {
            let place = |of| train.mixture.iter().position(|share| share.domain == of);
            let arms = train.scorers.routed().iter();
            MixtureNames {
                domains: train.mixture.iter().map(|share| domain(share.domain).to_owned()).collect(),
                teachers: arms.filter_map(|arm| Some((place(arm.domain)?, arm.name.clone()))).collect(),
                in_columns: train
                    .options
                    .alignment
                    .is_some_and(|of| of.between == GradientPartition::Domains),
            }
        };
        RecordNames(stage.trains().into_iter().map(of).collect())
    }
}

/// Replaces the names of a record.
#[derive(Clone, Copy)]
pub(super) struct Renaming<'n> {
    pub(super) old: &'n RecordNames,
    pub(super) new: &'n RecordNames,
}

impl<'n> Renaming<'n> {
    fn mixtures(self) -> impl Iterator<Item = (&'n MixtureNames, &'n MixtureNames)> {
        self.old.0.iter().zip(&self.new.0)
    }

    /// Names that are not found stay: records of earlier versions do not say which they have.
    pub(super) fn apply(self, domain: &mut String, teacher: Option<&mut String>) {
        let found = self.mixtures().find_map(|(old, new)| {
            let place = old.domains.iter().position(|name| name == domain)?;
            Some((old, new, place, new.domains.get(place)?))
        });
        let Some((old, new, place, name)) = found else { return };
        if let Some(teacher) = teacher {
            let arm = old.teachers.iter().position(|(of, name)| *of == place && name == teacher);
            if let Some((_, name)) = arm.and_then(|arm| new.teachers.get(arm)) {
                name.clone_into(teacher);
            }
        }
        name.clone_into(domain);
    }

    /// The columns of compared gradients, which may be named after domains.
    pub(super) fn columns(self, columns: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let mut names = BTreeMap::new();
        for (old, new) in self.mixtures().filter(|(old, _)| old.in_columns) {
            let all = || old.domains.iter().zip(&new.domains);
            for (one, new_one) in all() {
                names.insert(format!("grad_norm.{one}"), format!("grad_norm.{new_one}"));
                for (other, new_other) in all() {
                    names.insert(
                        format!("alignment.{one}.{other}"),
                        format!("alignment.{new_one}.{new_other}"),
                    );
                }
            }
        }
        let renamed = |(name, value)| (names.get(&name).cloned().unwrap_or(name), value);
        columns.into_iter().map(renamed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(domains: [&str; 2], teachers: [&str; 2]) -> RecordNames {
        RecordNames(vec![MixtureNames {
            domains: domains.map(str::to_owned).to_vec(),
            teachers: teachers.iter().enumerate().map(|(place, name)| (place, (*name).to_owned())).collect(),
            in_columns: true,
        }])
    }

    #[test]
    fn names_correspond_by_their_place() {
        let (old, new) = (names(["sort", "copy"], ["a", "a"]), names(["copy", "sort"], ["b", "c"]));
        let renamed = |old, domain: &str, teacher: &str| {
            let (mut domain, mut teacher) = (domain.to_owned(), teacher.to_owned());
            Renaming { old, new: &new }.apply(&mut domain, Some(&mut teacher));
            [domain, teacher]
        };
        assert_eq!(renamed(&old, "sort", "a"), ["copy", "b"], "two domains with swapped names");
        assert_eq!(renamed(&old, "copy", "a"), ["sort", "c"]);
        assert_eq!(renamed(&RecordNames::default(), "sort", "a"), ["sort", "a"], "of an earlier version");
        let columns = ["alignment.sort.copy", "grad_norm.copy", "grad_norm.sort"];
        let columns = columns.iter().zip(1..).map(|(name, value)| ((*name).to_owned(), f64::from(value)));
        let found = Renaming { old: &old, new: &new }.columns(columns.collect());
        let expected = [("alignment.copy.sort", 1.0), ("grad_norm.copy", 3.0), ("grad_norm.sort", 2.0)];
        assert_eq!(found.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>(), expected);
    }
}
