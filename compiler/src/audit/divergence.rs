//! Divergences between small distributions, with their derivatives by the student's logits.

use std::cell::RefCell;
use std::rc::Rc;

use mopd_experiment::StageStep;
use mopd_experiment::formula::{
    Amount, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, Mass, Role, Side,
    SideProbability, Summand, Support,
};
use mopd_expr::summand::LEAST_PROBABILITY;

use super::dual::{Dual, log_sum, sum};
use super::evaluate::{elementwise, of_probabilities};
use super::refusal::AuditRefusal;
use super::toy_model::ToyModel;
use crate::lower::{FormulaGraph, GraphLeaf};

/// The place in a toy model where a divergence is evaluated.
#[derive(Clone, Copy)]
pub(crate) struct TokenContext<'a> {
    pub toy: &'a ToyModel,
    pub prefix: usize,
    /// The token taken, if there is one.
    pub token: Option<usize>,
    /// Whether upper bounds of summands are applied.
    pub bounds: bool,
}

impl TokenContext<'_> {
    /// The log-probabilities of a role at a temperature. The student's have derivatives by the logits after
    /// this prefix. Everything is computed from these, because small probabilities would underflow.
    pub fn log_probabilities(
        &self,
        role: &Role,
        temperature: f64,
        live: bool,
    ) -> Result<Vec<Dual>, AuditRefusal> {
        let known = self
            .toy
            .logp(role, self.prefix)
            .ok_or_else(|| format!("nothing is known of `{}` here", role.name()))?;
        let scaled;
        let logp = if temperature == 1.0 {
            known
        } else {
            scaled = super::toy_model::normalised(
                &known.iter().map(|logit| logit / temperature).collect::<Vec<f64>>(),
            );
            &scaled
        };
        if !live || *role != Role::Student {
            return Ok(logp.iter().copied().map(Dual::plain).collect());
        }
        let p: Vec<f64> = logp.iter().map(|logp| logp.exp()).collect();
        let derivative = |i: usize, j: usize| (if i == j { 1.0 - p[j] } else { -p[j] }) / temperature;
        Ok(logp
            .iter()
            .enumerate()
            .map(|(i, logp)| Dual {
                value: *logp,
                gradient: (0..p.len()).map(|j| derivative(i, j)).collect(),
            })
            .collect())
    }

    /// [`Self::log_probabilities`] as probabilities.
    pub fn probabilities(
        &self,
        role: &Role,
        temperature: f64,
        live: bool,
    ) -> Result<Vec<Dual>, AuditRefusal> {
        Ok(self.log_probabilities(role, temperature, live)?.iter().map(Dual::exp).collect())
    }

    /// The student's log-probability of an entry, at the temperature of the trained policy.
    pub fn log_probability(&self, entry: usize) -> Result<Dual, AuditRefusal> {
        let logp = self.toy.scored(&Role::Student, self.prefix).ok_or("there is no student")?;
        let derivative = |(other, logp): (usize, &f64)| {
            (if other == entry { 1.0 } else { 0.0 } - logp.exp()) / self.toy.temperature
        };
        Ok(Dual { value: logp[entry], gradient: logp.iter().enumerate().map(derivative).collect() })
    }

    /// The log-probabilities of a side.
    fn side(
        &self,
        side: &Distribution,
        temperature: f64,
        live: bool,
        parameters: &mut dyn Iterator<Item = f64>,
    ) -> Result<Vec<Dual>, AuditRefusal> {
        // The sampler's probabilities are already at the temperature of the trained policy; see `divergence`.
        let of = |role: &Role| {
            if *role == Role::Sampler { temperature / self.toy.temperature } else { temperature }
        };
        match side {
            Distribution::Role(role) => self.log_probabilities(role, of(role), live),
            Distribution::Detached(inner) => self.side(inner, temperature, false, parameters),
            Distribution::Blend(parts) => {
                let parts: Vec<(f64, Vec<Dual>)> = parts
                    .iter()
                    .map(|part| {
                        let share = parameters.next().unwrap_or(f64::NAN);
                        Ok((share, self.log_probabilities(&part.role, of(&part.role), live)?))
                    })
                    .collect::<Result<_, AuditRefusal>>()?;
                let entry = |entry: usize| log_sum(parts.iter().map(|(share, logp)| (*share, &logp[entry])));
                Ok((0..self.toy.size.vocabulary).map(entry).collect())
            }
        }
    }

    /// For each entry, whether a support contains it.
    pub fn members(&self, support: &Support) -> Result<Vec<bool>, AuditRefusal> {
        let entries = self.toy.size.vocabulary;
        let several = |parts: &[Support], joined: fn(bool, bool) -> bool, empty: bool| {
            parts.iter().try_fold(vec![empty; entries], |so_far, part| {
                Ok::<_, AuditRefusal>(
                    so_far.into_iter().zip(self.members(part)?).map(|(a, b)| joined(a, b)).collect(),
                )
            })
        };
        match support {
            Support::Full => Ok(vec![true; entries]),
            Support::TopK { role, k } => {
                let order = self.order(role)?;
                Ok(chosen(entries, &order[..self.toy.entries(*k).min(entries)]))
            }
            Support::Nucleus { role, p } => {
                let logp: Vec<f64> =
                    self.log_probabilities(role, 1.0, false)?.into_iter().map(|logp| logp.value).collect();
                // An entry is in the nucleus if strictly more probable ones hold less than `p`: equals agree.
                let held = |entry: usize| {
                    let before = logp.iter().filter(|other| **other > logp[entry]);
                    before.map(|logp| logp.exp()).sum::<f64>()
                };
                Ok((0..entries).map(|entry| held(entry) < *p).collect())
            }
            Support::Sampled => {
                let token = self.token.ok_or("no token is drawn here")?;
                Ok(chosen(entries, &[token]))
            }
            Support::Matched | Support::Unmatched => {
                let matched = self.toy.matched.as_ref();
                let matched = matched.ok_or("which entries two vocabularies share is not known here")?;
                let wanted = *support == Support::Matched;
                Ok((0..entries).map(|entry| matched.contains(&entry) == wanted).collect())
            }
            Support::Union(parts) => several(parts, |a, b| a || b, false),
            Support::Intersection(parts) => several(parts, |a, b| a && b, true),
        }
    }

    /// A role's entries, the most probable first. Of equals, the one with the lower id comes first.
    pub fn order(&self, role: &Role) -> Result<Vec<usize>, AuditRefusal> {
        let logp = self.log_probabilities(role, 1.0, false)?;
        let mut order: Vec<usize> = (0..logp.len()).collect();
        order.sort_by(|a, b| logp[*b].value.total_cmp(&logp[*a].value).then(a.cmp(b)));
        Ok(order)
    }

    /// The student's entropy.
    pub fn entropy(&self) -> Result<Dual, AuditRefusal> {
        let logps = self.log_probabilities(&Role::Student, 1.0, true)?;
        let none = Dual::plain(0.0);
        let summands: Vec<Dual> = logps.iter().map(|logp| logp.kl_summand(&none).scale(-1.0)).collect();
        Ok(sum(&summands))
    }

    /// Minus the log-likelihood that the student, sampling without replacement, draws a support's entries in
    /// the order of the support's role (Plackett and Luce).
    pub fn ranking(&self, support: &Support) -> Result<Dual, AuditRefusal> {
        fn judge(support: &Support) -> Option<&Role> {
            match support {
                Support::TopK { role, .. } | Support::Nucleus { role, .. } => Some(role),
                Support::Union(parts) | Support::Intersection(parts) => parts.iter().find_map(judge),
                _ => None,
            }
        }
        let role = judge(support).ok_or("nothing says whose order counts")?;
        let (members, logps) = (self.members(support)?, self.log_probabilities(&Role::Student, 1.0, true)?);
        let (mut left, mut total) = (vec![true; logps.len()], Dual::plain(0.0));
        for entry in self.order(role)?.into_iter().filter(|entry| members[*entry]) {
            // The remaining entries are summed. 1 minus the others would lose all digits.
            let remaining = logps.iter().zip(&left).filter(|(_, left)| **left).map(|(logp, _)| (1.0, logp));
            total = total.add(&log_sum(remaining).subtract(&logps[entry]));
            left[entry] = false;
        }
        Ok(total)
    }

    /// A divergence at this place. `parameters` are the values of its formulas, in their order. The
    /// derivative is by the logits after this prefix only, and only if the divergence is live.
    pub fn divergence(&self, of: &Divergence, parameters: &[f64], live: bool) -> Result<Dual, AuditRefusal> {
        let mut parameters = parameters.iter().copied();
        let own: Vec<f64> = match &of.kind {
            DivergenceKind::Entrywise(summand) => {
                parameters.by_ref().take(summand.parameters.len()).collect()
            }
            DivergenceKind::Gaussian { .. } => {
                return Err("`gaussian_kl` is between continuous actions, which can't be enumerated".into());
            }
            DivergenceKind::Kl | DivergenceKind::SortedL1 => Vec::new(),
        };
        // A divergence from the sampler compares the trained policy with it.
        let with_sampler = [&of.left, &of.right].iter().any(|side| side.roles().contains(&Role::Sampler));
        let temperature = match of.temperature {
            Amount::Number(temperature) => temperature,
            Amount::Formula(_) => parameters.next().unwrap_or(f64::NAN),
        };
        if temperature.is_nan() || temperature <= 0.0 {
            return Err(format!("the temperature of a divergence is {temperature} here").into());
        }
        let temperature = if with_sampler { temperature * self.toy.temperature } else { temperature };
        let left = self.side(&of.left, temperature, live, &mut parameters)?;
        let right = self.side(&of.right, temperature, live, &mut parameters)?;
        let kind = &of.kind;
        let members = self.members(&of.support)?;
        let full = members.iter().all(|member| *member);
        let on = |side: &[Dual], wanted: bool| -> Vec<Dual> {
            let entries = side.iter().zip(&members).filter(|(_, member)| **member == wanted);
            entries.map(|(logp, _)| logp.clone()).collect()
        };
        let (mut l, mut r) = (on(&left, true), on(&right, true));
        if matches!(kind, DivergenceKind::SortedL1) {
            for side in [&mut l, &mut r] {
                side.sort_by(|a, b| b.value.total_cmp(&a.value));
            }
        }
        let mut generalized = false;
        match of.mass {
            // A bound applies to summands with their correction, on every support.
            Mass::Generalized => generalized = true,
            _ if full => {}
            Mass::Raw => {}
            // The tail comes after the sorted entries, because it is compared with the other side's tail.
            Mass::Tail => {
                l.push(log_sum(on(&left, false).iter().map(|logp| (1.0, logp))));
                r.push(log_sum(on(&right, false).iter().map(|logp| (1.0, logp))));
            }
            Mass::Renormalized => {
                for side in [&mut l, &mut r] {
                    let held = log_sum(side.iter().map(|logp| (1.0, logp)));
                    *side = side.iter().map(|logp| logp.subtract(&held)).collect();
                }
            }
        }
        let bound = of.clip_each.filter(|_| self.bounds).map(Dual::plain);
        let entries = match kind {
            DivergenceKind::Entrywise(summand) => {
                Some(EntryGraph { graph: self.toy.entry_graphs.graph(summand, &own)?, step: self.toy.step })
            }
            _ => None,
        };
        let agreed = if generalized { gradients_where_equal(kind, entries.as_ref())? } else { [0.0; 3] };
        let mut total = Dual::plain(0.0);
        for (l, r) in l.iter().zip(&r) {
            let mut summand = summand(kind, entries.as_ref(), l, r)?;
            if generalized {
                // r * (f(u) - f'(1) (u - 1)) in place of r * f(u), u = l / r: arXiv:2606.30406, eq. 5, for
                // any summand.
                let [value, by_l, by_r] = agreed;
                let (l, r) = (l.exp(), r.exp());
                let linear = l.scale(by_l).add(&r.scale(by_r));
                summand = summand.subtract(&Dual { value: value * (l.value - r.value), ..linear });
            }
            if let Some(bound) = &bound {
                summand = summand.minimum(bound);
            }
            total = total.add(&summand);
        }
        Ok(total)
    }
}

fn chosen(entries: usize, which: &[usize]) -> Vec<bool> {
    (0..entries).map(|entry| which.contains(&entry)).collect()
}

/// The summand of one entry, from both sides' log-probabilities. `entries` is its graph if it is declared.
fn summand(
    kind: &DivergenceKind,
    entries: Option<&EntryGraph>,
    l: &Dual,
    r: &Dual,
) -> Result<Dual, AuditRefusal> {
    Ok(match kind {
        _ if let Some(entries) = entries => entrywise(entries, l, r)?,
        DivergenceKind::Kl => l.kl_summand(r),
        DivergenceKind::SortedL1 => l.exp().subtract(&r.exp()).abs().scale(0.5),
        DivergenceKind::Gaussian { .. } | DivergenceKind::Entrywise(_) => {
            return Err("it has no vocabulary".into());
        }
    })
}

/// Where both sides agree: the value of the derivative by the left one, and the gradient's factors by both.
fn gradients_where_equal(
    kind: &DivergenceKind,
    entries: Option<&EntryGraph>,
) -> Result<[f64; 3], AuditRefusal> {
    let Some(entries) = entries else {
        return Ok(if matches!(kind, DivergenceKind::Kl) { [1.0, 1.0, -1.0] } else { [0.0; 3] });
    };
    let by = |l: Vec<f64>, r: Vec<f64>, detached: f64| -> Result<f64, AuditRefusal> {
        let side = |gradient| Dual { value: 0.5, gradient };
        let (l, r) = (side(l), side(r));
        let found = entries.value(&|entry| match (entry.side, entry.detached) {
            (Side::Left, false) => l.clone(),
            (Side::Right, false) => r.clone(),
            (Side::Left, true) => Dual { value: 0.5, gradient: vec![detached] },
            (Side::Right, true) => Dual::plain(0.5),
        })?;
        Ok(found.gradient.first().copied().unwrap_or(0.0))
    };
    let one = || vec![1.0];
    Ok([by(one(), vec![], 1.0)?, by(one(), vec![], 0.0)?, by(vec![], one(), 0.0)?])
}

/// The summand from log-probabilities. In quotients and powers, a probability that is too small is replaced
/// by the smallest usable one, as in a run. Logarithms are exact.
fn entrywise(entries: &EntryGraph, l: &Dual, r: &Dual) -> Result<Dual, AuditRefusal> {
    let least = LEAST_PROBABILITY.ln();
    let of = |[l, r]: [&Dual; 2], entry: SideProbability| {
        let side = if entry.side == Side::Left { l } else { r };
        if entry.detached { Dual::plain(side.value) } else { side.clone() }
    };
    let bounded = |logp: &Dual| match logp.value < least {
        true => Dual::plain(LEAST_PROBABILITY),
        false => logp.exp(),
    };
    let probabilities = [bounded(l), bounded(r)];
    let probability = |entry| of(probabilities.each_ref(), entry);
    if l.value >= least && r.value >= least {
        return entries.value(&probability);
    }
    // An entry of probability 0 gets a finite logarithm.
    let finite = |logp: &Dual| match logp.value == f64::NEG_INFINITY {
        true => Dual::plain(least),
        false => logp.clone(),
    };
    let logs = [finite(l), finite(r)];
    entries.value_of_small(&probability, &|entry| of(logs.each_ref(), entry))
}

/// The summand of one entry, as a graph whose leaves are the entry's probabilities.
struct EntryGraph {
    graph: Rc<FormulaGraph>,
    step: StageStep,
}

impl EntryGraph {
    fn value(&self, at: &dyn Fn(SideProbability) -> Dual) -> Result<Dual, AuditRefusal> {
        let leaf = |leaf: &GraphLeaf| match leaf.formula.0.kind {
            FormulaKind::Entry(entry) => Some(at(entry)),
            _ => None,
        };
        elementwise(&self.graph, self.step, &leaf)
            .ok_or_else(|| "the divergence holds more than arithmetic and its parameters".into())
    }

    /// The value where probabilities underflow, and their logarithms are given as well.
    fn value_of_small(
        &self,
        probability: &dyn Fn(SideProbability) -> Dual,
        log_probability: &dyn Fn(SideProbability) -> Dual,
    ) -> Result<Dual, AuditRefusal> {
        let entry = |leaf: &GraphLeaf| match leaf.formula.0.kind {
            FormulaKind::Entry(entry) => Some(entry),
            _ => None,
        };
        of_probabilities(&self.graph, self.step, &|leaf| entry(leaf).map(probability), &|leaf| {
            entry(leaf).map(log_probability)
        })
        .ok_or_else(|| "the divergence holds more than arithmetic and its parameters".into())
    }
}

/// The most graphs in the cache. Parameters may differ from token to token.
const MOST_GRAPHS: usize = 16;

/// A cache of summands' graphs with the values of their parameters. All tokens of all toy models of a kind
/// share a few graphs.
#[derive(Clone, Debug, Default)]
pub(super) struct EntryGraphs(Rc<RefCell<Vec<KnownGraph>>>);

#[derive(Debug)]
struct KnownGraph {
    summand: Formula,
    own: Vec<f64>,
    graph: Rc<FormulaGraph>,
}

impl EntryGraphs {
    /// The graph of a summand. `own` are the values of its parameters.
    fn graph(&self, summand: &Summand, own: &[f64]) -> Result<Rc<FormulaGraph>, AuditRefusal> {
        let mut known = self.0.borrow_mut();
        let same = |known: &&KnownGraph| Rc::ptr_eq(&known.summand.0, &summand.value.0) && known.own == own;
        if let Some(known) = known.iter().find(same) {
            return Ok(known.graph.clone());
        }
        let given = summand.parameters.iter().zip(own).map(|(given, own)| (&given.value, *own));
        let given: Vec<(&Formula, f64)> = given.collect();
        let graph = Rc::new(FormulaGraph::with(&given, &summand.value)?);
        if known.len() == MOST_GRAPHS {
            known.clear();
        }
        known.push(KnownGraph { summand: summand.value.clone(), own: own.to_vec(), graph: graph.clone() });
        Ok(graph)
    }
}
