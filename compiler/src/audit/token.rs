//! Numbers of one token that depend only on distributions. They are computed as in the runtime, but in f64,
//! and live ones with the derivative by the student's logits.

use std::borrow::Cow;

use mopd_experiment::formula::{FormulaKind, Live, ModelSignal, Role, Signal, Support};

use super::divergence::TokenContext;
use super::dual::Dual;
use super::refusal::AuditRefusal;

/// Whether a signal is computed from distributions over tokens alone.
pub(crate) fn is_from_distributions(signal: &Signal) -> bool {
    match signal {
        Signal::Of { part, .. } => part.definition().from_distribution,
        Signal::Divergence(divergence) => divergence.kind.over_vocabulary(),
        Signal::Mass { .. }
        | Signal::SupportSize { .. }
        | Signal::Overlap { .. }
        | Signal::InNucleus { .. } => true,
        _ => false,
    }
}

/// [`is_from_distributions`] for live primitives.
pub(crate) fn is_live_of_distributions(live: &Live) -> bool {
    match live {
        Live::Part(part) => matches!(part, ModelSignal::Logp | ModelSignal::EndLogp | ModelSignal::Top1),
        Live::Divergence(divergence) => divergence.kind.over_vocabulary(),
        Live::Likelihood { .. } | Live::Ranking { .. } => true,
        _ => false,
    }
}

/// Whether a formula's support depends on two vocabularies.
pub(crate) fn compares_vocabularies(kind: &FormulaKind) -> bool {
    fn is_matched(support: &Support) -> bool {
        match support {
            Support::Matched | Support::Unmatched => true,
            Support::Union(parts) | Support::Intersection(parts) => parts.iter().any(is_matched),
            _ => false,
        }
    }
    match kind {
        FormulaKind::Signal(Signal::Divergence(divergence))
        | FormulaKind::Live(Live::Divergence(divergence)) => is_matched(&divergence.support),
        FormulaKind::Signal(Signal::Mass { support, .. } | Signal::SupportSize { support })
        | FormulaKind::Live(Live::Ranking { order: support }) => is_matched(support),
        _ => false,
    }
}

impl TokenContext<'_> {
    /// A signal of the token. `None` if it does not depend on distributions alone. `parameters` are the
    /// values of its formulas.
    pub fn signal(&self, signal: &Signal, parameters: &[f64]) -> Option<Result<f64, AuditRefusal>> {
        Some(match signal {
            Signal::Of { role, part: ModelSignal::Logp } => {
                self.scored(role).and_then(|logp| Ok(logp[self.drawn_token()?]))
            }
            Signal::Of { role, part: ModelSignal::EndLogp } => {
                self.scored(role).map(|logp| logp[logp.len() - 1])
            }
            Signal::Of { role, part: ModelSignal::Entropy } => self.plain(role).map(|logp| {
                let entry = |logp: &f64| if *logp == f64::NEG_INFINITY { 0.0 } else { logp.exp() * logp };
                -logp.iter().map(entry).sum::<f64>()
            }),
            Signal::Of { role, part: ModelSignal::Top1 } => {
                self.plain(role).map(|logp| logp.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp())
            }
            Signal::Of { role, part: ModelSignal::Rank } => self.plain(role).and_then(|logp| {
                let taken = logp[self.drawn_token()?];
                Ok(1.0 + logp.iter().filter(|other| **other > taken).count() as f64)
            }),
            Signal::Divergence(divergence) => {
                self.divergence(divergence, parameters, false).map(|divergence| divergence.value)
            }
            Signal::Overlap { left, right, k } => self.overlap(left, right, *k),
            Signal::Mass { role, support } => self.mass(role, support),
            Signal::InNucleus { role, p } => {
                let support = Support::Nucleus { role: role.clone(), p: *p };
                self.drawn_token().and_then(|taken| Ok(f64::from(u8::from(self.members(&support)?[taken]))))
            }
            Signal::SupportSize { support } => self
                .members(support)
                .map(|members| members.into_iter().filter(|member| *member).count() as f64),
            _ => return None,
        })
    }

    /// The value of a live primitive, with its derivative.
    pub fn live(&self, live: &Live, parameters: &[f64]) -> Result<Dual, AuditRefusal> {
        let student = || self.log_probabilities(&Role::Student, 1.0, true);
        match live {
            Live::Part(ModelSignal::Logp) => self.log_probability(self.drawn_token()?),
            Live::Part(ModelSignal::EndLogp) => self.log_probability(self.toy.size.vocabulary - 1),
            Live::Part(ModelSignal::Top1) => Ok(student()?[self.order(&Role::Student)?[0]].exp()),
            Live::Divergence(divergence) => self.divergence(divergence, parameters, true),
            Live::Likelihood { of } => Ok(student()?[self.order(of)?[0]].scale(-1.0)),
            Live::Ranking { order } => self.ranking(order),
            _ => Err("it is no number of a distribution over tokens".into()),
        }
    }

    fn drawn_token(&self) -> Result<usize, AuditRefusal> {
        self.token.ok_or_else(|| "no token is drawn here".into())
    }

    /// Log-probabilities of a role at temperature 1.
    fn plain(&self, role: &Role) -> Result<&[f64], AuditRefusal> {
        self.toy.logp(role, self.prefix).ok_or_else(|| unknown(role))
    }

    /// Log-probabilities of a role at the temperature of the trained policy.
    fn scored(&self, role: &Role) -> Result<Cow<'_, [f64]>, AuditRefusal> {
        self.toy.scored(role, self.prefix).ok_or_else(|| unknown(role))
    }

    fn overlap(&self, left: &Role, right: &Role, k: u32) -> Result<f64, AuditRefusal> {
        let entries = self.toy.entries(k).min(self.toy.size.vocabulary);
        let (ours, theirs) = (self.order(left)?, self.order(right)?);
        let shared = ours[..entries].iter().filter(|entry| theirs[..entries].contains(entry)).count();
        Ok(shared as f64 / entries as f64)
    }

    fn mass(&self, role: &Role, support: &Support) -> Result<f64, AuditRefusal> {
        let (members, p) = (self.members(support)?, self.probabilities(role, 1.0, false)?);
        Ok(p.iter().zip(members).filter(|(_, member)| *member).map(|(p, _)| p.value).sum())
    }
}

fn unknown(role: &Role) -> AuditRefusal {
    format!("nothing is known of `{}` here", role.name()).into()
}
