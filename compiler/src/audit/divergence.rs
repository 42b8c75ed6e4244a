//! Divergences of small distributions, with their derivative by the student's logits.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::formula::{
    Distribution, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Generator, Mass, Role,
    Support,
};

use super::dual::{self, Dual, sum};
use super::world::World;

/// Where in a world a divergence is taken.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub world: &'a World,
    pub prefix: usize,
    /// The token taken, if one is.
    pub token: Option<usize>,
    /// Upper bounds of summands act.
    pub bounds: bool,
}

/// Why something can't be told in a small world, in words.
pub(super) type Refusal = String;

impl Place<'_> {
    /// The probabilities of a role at a temperature; the student's carry gradient by the logits after this
    /// prefix.
    pub fn probabilities(&self, role: &Role, temperature: f64, live: bool) -> Result<Vec<Dual>, Refusal> {
        let known = self
            .world
            .logp(role, self.prefix)
            .ok_or_else(|| format!("nothing is known of `{}` here", role.name()))?;
        let scaled;
        let logp = if temperature == 1.0 {
            known
        } else {
            scaled = super::world::normalised(
                &known.iter().map(|logit| logit / temperature).collect::<Vec<f64>>(),
            );
            &scaled
        };
        let p: Vec<f64> = logp.iter().map(|logp| logp.exp()).collect();
        if !live || *role != Role::Student {
            return Ok(p.into_iter().map(Dual::plain).collect());
        }
        let slope = |i: usize, j: usize| p[i] * (if i == j { 1.0 - p[j] } else { -p[j] }) / temperature;
        Ok((0..p.len())
            .map(|i| Dual { value: p[i], gradient: (0..p.len()).map(|j| slope(i, j)).collect() })
            .collect())
    }

    /// The student's log-probability of an entry, at the temperature of the policy that is trained.
    pub fn log_probability(&self, entry: usize) -> Result<Dual, Refusal> {
        let logp = self.world.scored(&Role::Student, self.prefix).ok_or("there is no student")?;
        let slope = |(other, logp): (usize, &f64)| {
            (if other == entry { 1.0 } else { 0.0 } - logp.exp()) / self.world.temperature
        };
        Ok(Dual { value: logp[entry], gradient: logp.iter().enumerate().map(slope).collect() })
    }

    fn side(
        &self,
        side: &Distribution,
        temperature: f64,
        live: bool,
        parameters: &mut dyn Iterator<Item = f64>,
    ) -> Result<Vec<Dual>, Refusal> {
        // The sampler drew at the temperature of the policy that is trained: see `divergence`.
        let of = |role: &Role| {
            if *role == Role::Sampler { temperature / self.world.temperature } else { temperature }
        };
        match side {
            Distribution::Role(role) => self.probabilities(role, of(role), live),
            Distribution::Detached(inner) => self.side(inner, temperature, false, parameters),
            Distribution::Blend(parts) => {
                let mut blend = vec![Dual::plain(0.0); self.world.size.vocabulary];
                for (_, role) in parts {
                    let share = parameters.next().unwrap_or(f64::NAN);
                    for (sum, p) in blend.iter_mut().zip(self.probabilities(role, of(role), live)?) {
                        *sum = sum.add(&p.scale(share));
                    }
                }
                Ok(blend)
            }
        }
    }

    /// Which entries a support holds.
    pub fn members(&self, support: &Support) -> Result<Vec<bool>, Refusal> {
        let entries = self.world.size.vocabulary;
        let several = |parts: &[Support], joined: fn(bool, bool) -> bool, empty: bool| {
            parts.iter().try_fold(vec![empty; entries], |so_far, part| {
                Ok::<_, Refusal>(
                    so_far.into_iter().zip(self.members(part)?).map(|(a, b)| joined(a, b)).collect(),
                )
            })
        };
        match support {
            Support::Full => Ok(vec![true; entries]),
            Support::TopK { role, k } => {
                let (order, _) = self.order(role)?;
                Ok(chosen(entries, &order[..self.world.entries(*k).min(entries)]))
            }
            Support::Nucleus { role, p } => {
                let (_, probabilities) = self.order(role)?;
                // What is strictly more probable holds less than `p`: equals go in or stay out together.
                let held = |entry: usize| {
                    probabilities.iter().filter(|other| **other > probabilities[entry]).sum::<f64>()
                };
                Ok((0..entries).map(|entry| held(entry) < *p).collect())
            }
            Support::Sampled => {
                let token = self.token.ok_or("no token is drawn here")?;
                Ok(chosen(entries, &[token]))
            }
            Support::Matched | Support::Unmatched => {
                Err("which entries two vocabularies share is not known here".into())
            }
            Support::Union(parts) => several(parts, |a, b| a || b, false),
            Support::Intersection(parts) => several(parts, |a, b| a && b, true),
        }
    }

    /// A role's entries, the most probable first, of equals the one of the lower id; and its probabilities.
    pub fn order(&self, role: &Role) -> Result<(Vec<usize>, Vec<f64>), Refusal> {
        let p: Vec<f64> = self.probabilities(role, 1.0, false)?.into_iter().map(|p| p.value).collect();
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
        Ok((order, p))
    }

    /// The student's entropy.
    pub fn entropy(&self) -> Result<Dual, Refusal> {
        let summands: Vec<Dual> = self
            .probabilities(&Role::Student, 1.0, true)?
            .iter()
            .map(|p| p.multiply(&p.log()).scale(-1.0))
            .collect();
        Ok(sum(&summands))
    }

    /// Minus the log-likelihood that the student, drawing without replacement, takes a support's entries in
    /// the order of its role (Plackett and Luce).
    pub fn ranking(&self, support: &Support) -> Result<Dual, Refusal> {
        fn judge(support: &Support) -> Option<&Role> {
            match support {
                Support::TopK { role, .. } | Support::Nucleus { role, .. } => Some(role),
                Support::Union(parts) | Support::Intersection(parts) => parts.iter().find_map(judge),
                _ => None,
            }
        }
        let role = judge(support).ok_or("nothing says whose order counts")?;
        let (members, probabilities) =
            (self.members(support)?, self.probabilities(&Role::Student, 1.0, true)?);
        let (mut left, mut total) = (Dual::plain(1.0), Dual::plain(0.0));
        for entry in self.order(role)?.0.into_iter().filter(|entry| members[*entry]) {
            total = total.subtract(&probabilities[entry].divide(&left).log());
            left = left.subtract(&probabilities[entry]);
        }
        Ok(total)
    }

    /// A divergence at this place. `parameters` are the numbers of its formulas, in their order. The
    /// derivative is by the logits after this prefix alone, and only where the divergence is live.
    pub fn divergence(&self, of: &Divergence, parameters: &[f64], live: bool) -> Result<Dual, Refusal> {
        let mut parameters = parameters.iter().copied();
        let parameter = match &of.kind {
            DivergenceKind::Jsd { .. } | DivergenceKind::Skew { .. } | DivergenceKind::Alpha { .. } => {
                parameters.next()
            }
            DivergenceKind::Gaussian { .. } => {
                return Err("`gaussian_kl` is between continuous actions, which can't be enumerated".into());
            }
            _ => None,
        };
        // What is compared with the sampler is the policy that is trained.
        let with_sampler = [&of.left, &of.right].iter().any(|side| side.roles().contains(&Role::Sampler));
        let temperature = if with_sampler { of.temperature * self.world.temperature } else { of.temperature };
        let mut left = self.side(&of.left, temperature, live, &mut parameters)?;
        let mut right = self.side(&of.right, temperature, live, &mut parameters)?;
        let mut kind = &of.kind;
        if let Some(reversed) = limit(kind, parameter) {
            kind = &DivergenceKind::Kl;
            if reversed {
                std::mem::swap(&mut left, &mut right);
            }
        }
        let members = self.members(&of.support)?;
        let full = members.iter().all(|member| *member);
        let inside = |p: &[Dual]| -> Vec<Dual> {
            p.iter().zip(&members).filter(|(_, member)| **member).map(|(p, _)| p.clone()).collect()
        };
        let outside =
            |p: &[Dual]| sum(p.iter().zip(&members).filter(|(_, member)| !**member).map(|(p, _)| p));
        let (mut l, mut r) = (inside(&left), inside(&right));
        let mut generalized = false;
        match of.mass {
            _ if full => {}
            Mass::Raw => {}
            Mass::Generalized => generalized = true,
            Mass::Tail => {
                l.push(outside(&left));
                r.push(outside(&right));
            }
            Mass::Renormalized => {
                let (in_left, in_right) = (sum(&l), sum(&r));
                l = l.iter().map(|p| p.divide(&in_left)).collect();
                r = r.iter().map(|p| p.divide(&in_right)).collect();
            }
        }
        if matches!(kind, DivergenceKind::SortedL1) {
            for side in [&mut l, &mut r] {
                side.sort_by(|a, b| b.value.total_cmp(&a.value));
            }
        }
        let bound = of.clip_each.filter(|_| self.bounds).map(Dual::plain);
        let mut total = Dual::plain(0.0);
        for (l, r) in l.iter().zip(&r) {
            let mut summand = summand(kind, parameter, l, r)?;
            if generalized {
                // r * (f(u) - f'(1) (u - 1)) in place of r * f(u), u = l / r: arXiv:2606.30406, eq. 5, for
                // any generator.
                summand = summand.subtract(&l.subtract(r).scale(slope_at_one(kind, parameter)?));
            }
            if let Some(bound) = &bound {
                summand = summand.minimum(bound);
            }
            total = total.add(&summand);
        }
        Ok(match (kind, parameter) {
            (DivergenceKind::Jsd { normalized: true, .. }, Some(beta)) => {
                total.scale(1.0 / (beta * (1.0 - beta)))
            }
            _ => total,
        })
    }
}

/// The members of a family at its ends, where its formula is 0 / 0: KL in one direction or the other. True
/// where the sides change places.
fn limit(kind: &DivergenceKind, parameter: Option<f64>) -> Option<bool> {
    let near = |end: f64| parameter.is_some_and(|parameter| (parameter - end).abs() < 1e-6);
    match kind {
        DivergenceKind::Jsd { normalized: true, .. } if near(0.0) => Some(false),
        DivergenceKind::Jsd { normalized: true, .. } if near(1.0) => Some(true),
        DivergenceKind::Alpha { .. } if near(1.0) => Some(false),
        DivergenceKind::Alpha { .. } if near(0.0) => Some(true),
        _ => None,
    }
}

fn chosen(entries: usize, which: &[usize]) -> Vec<bool> {
    (0..entries).map(|entry| which.contains(&entry)).collect()
}

/// What one entry adds: `right * f(left / right)`.
fn summand(kind: &DivergenceKind, parameter: Option<f64>, l: &Dual, r: &Dual) -> Result<Dual, Refusal> {
    let parameter = parameter.unwrap_or(f64::NAN);
    Ok(match kind {
        DivergenceKind::Kl => l.times_log_ratio(r),
        DivergenceKind::Jsd { .. } => {
            let middle = l.scale(parameter).add(&r.scale(1.0 - parameter));
            l.times_log_ratio(&middle)
                .scale(parameter)
                .add(&r.times_log_ratio(&middle).scale(1.0 - parameter))
        }
        DivergenceKind::Skew { .. } => l.times_log_ratio(&l.scale(parameter).add(&r.scale(1.0 - parameter))),
        DivergenceKind::TotalVariation | DivergenceKind::SortedL1 => l.subtract(r).abs().scale(0.5),
        DivergenceKind::ChiSquared => l.subtract(r).power(&Dual::plain(2.0)).divide(r),
        DivergenceKind::Hellinger => l.add(r).scale(0.5).subtract(&l.multiply(r).sqrt()),
        DivergenceKind::Alpha { .. } => {
            let product = l.power(&Dual::plain(parameter)).multiply(&r.power(&Dual::plain(1.0 - parameter)));
            product.subtract(r).scale(1.0 / (parameter * (parameter - 1.0)))
        }
        DivergenceKind::Custom(generator) => r.multiply(&generated(generator, &l.divide(r))?),
        DivergenceKind::Gaussian { .. } => return Err("`gaussian_kl` has no vocabulary".into()),
    })
}

/// The derivative of the generator where both sides agree.
fn slope_at_one(kind: &DivergenceKind, parameter: Option<f64>) -> Result<f64, Refusal> {
    let parameter = parameter.unwrap_or(f64::NAN);
    Ok(match kind {
        DivergenceKind::Kl => 1.0,
        DivergenceKind::Skew { .. } => 1.0 - parameter,
        DivergenceKind::Alpha { .. } => 1.0 / (parameter - 1.0),
        DivergenceKind::Custom(generator) => {
            let at_one = generated(generator, &Dual { value: 1.0, gradient: vec![1.0] })?;
            at_one.gradient.first().copied().unwrap_or(0.0)
        }
        _ => 0.0,
    })
}

/// A generator at `u`.
fn generated(generator: &Generator, u: &Dual) -> Result<Dual, Refusal> {
    fn walk(
        formula: &Formula,
        u: &Dual,
        depth: usize,
        known: &mut HashMap<*const FormulaNode, Dual>,
    ) -> Result<Dual, Refusal> {
        // A function of a function uses its argument more than once.
        if let Some(known) = known.get(&Rc::as_ptr(&formula.0)) {
            return Ok(known.clone());
        }
        let value: Result<Dual, Refusal> = match &formula.0.kind {
            _ if depth > 200 => Err("the generator is nested too deep".into()),
            FormulaKind::Number(value) => Ok(Dual::plain(*value)),
            FormulaKind::Variable(_) => Ok(u.clone()),
            FormulaKind::Apply { function, operands } => {
                let operands: Vec<Dual> =
                    operands.iter().map(|part| walk(part, u, depth + 1, known)).collect::<Result<_, _>>()?;
                Ok(dual::apply(*function, &operands.iter().collect::<Vec<&Dual>>()))
            }
            _ => Err("the generator holds more than arithmetic".into()),
        };
        let value = value?;
        known.insert(Rc::as_ptr(&formula.0), value.clone());
        Ok(value)
    }
    walk(&generator.value, u, 0, &mut HashMap::new())
}
