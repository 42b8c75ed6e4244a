//! The named gradients, with which a term's gradient is compared.

use mopd_experiment::formula::{
    Distribution, Divergence, DivergenceKind, Formula, FormulaKind, Live, Mass, PlainSignal, Role, Signal,
    Support, text,
};

use super::behind::{blended, jensen_shannon, mixed_with_student};
use super::divergence::TokenContext;
use super::dual::{Dual, sum};
use super::leaves::{judged, judgement, length, reward};
use super::refusal::AuditRefusal;
use super::sampler::Sampler;
use super::standard::{StandardDivergence, standard};
use super::toy_model::{Drift, ToyModel, ToyModelSpec};
use super::view::TermView;

/// The function that a named gradient is the gradient of.
pub(super) enum GradientSource {
    /// A divergence, at every prefix, with the values of its formulas.
    Divergence(Divergence, Vec<f64>),
    /// The student's entropy.
    Entropy,
    /// Minus the student's log-likelihood of the drawn tokens, at every prefix.
    Sampled,
    /// The student's mass on a support.
    Mass(Support),
    /// Minus the log-probability of a role's most probable token.
    Likelihood(Role),
    /// Minus the log-likelihood of the order in which the support's role ranks its entries.
    Ranking(Support),
    /// Minus the mean of a number of the student's whole completions.
    Policy(NamedOutcome),
    /// KL(student || role) between whole completions.
    Sequences(Role),
    /// Minus the student's log-likelihood of the drawn completions that the verifier accepts.
    Kept,
}

/// A number of a completion.
#[derive(Clone, PartialEq)]
pub(super) enum NamedOutcome {
    Reward,
    Correct,
    /// The number of its tokens.
    Length,
    /// A number that is given to a completion.
    Judged(Signal),
}

pub(super) struct Named {
    /// `KL(student || teacher)`
    pub name: String,
    pub source: GradientSource,
    /// Whether it depends on a role other than the student.
    pub teaches: bool,
}

/// All gradients that a term is compared with, the best known first.
pub(super) fn candidates(view: &TermView, spec: &ToyModelSpec) -> Vec<Named> {
    let mut candidates = Candidates { view, spec, others: others(view, &spec.sampler), found: Vec::new() };
    candidates.truncated();
    candidates.kl();
    candidates.old();
    candidates.log_likelihoods();
    candidates.give("the student's entropy".into(), GradientSource::Entropy, false);
    candidates.outcomes();
    candidates.standard();
    candidates.own();
    candidates.rankings();
    candidates.about_as_good();
    candidates.found
}

/// The roles that may teach: those that the term reads, and the writer of the tokens.
fn others(view: &TermView, sampler: &Sampler) -> Vec<Role> {
    let mut others = view.others();
    match sampler {
        Sampler::By { role, .. } if !others.contains(role) => others.push(role.clone()),
        Sampler::Mixture { .. } if !others.contains(&Role::Teacher) => others.push(Role::Teacher),
        _ => {}
    }
    others
}

/// A divergence between two whole distributions, at temperature 1.
pub(super) fn plain(kind: DivergenceKind, left: &Role, right: &Role) -> Divergence {
    Divergence {
        kind,
        left: Distribution::Role(left.clone()),
        right: Distribution::Role(right.clone()),
        support: Support::Full,
        mass: Mass::Raw,
        temperature: 1.0.into(),
        clip_each: None,
    }
}

/// The name of a divergence between two roles: `KL(student || teacher)`.
pub(super) fn name_between(kind: &str, left: &Role, right: &Role, between: &str) -> String {
    format!("{kind}({}{between}{})", left.name(), right.name())
}

struct Candidates<'a> {
    view: &'a TermView<'a>,
    spec: &'a ToyModelSpec,
    others: Vec<Role>,
    found: Vec<Named>,
}

impl Candidates<'_> {
    /// Adds a candidate, unless its name is already there: earlier candidates are better known.
    fn give(&mut self, name: String, source: GradientSource, teaches: bool) {
        if !self.found.iter().any(|known| known.name == name) {
            self.found.push(Named { name, source, teaches });
        }
    }

    fn scored_at(&self) -> f64 {
        self.view.scored_at(&self.spec.sampler).at(self.spec.step)
    }

    fn is_on_policy(&self) -> bool {
        self.spec.is_on_policy(self.spec.step)
    }

    /// Both directions of KL, at temperature 1 and at that of the scored log-probabilities.
    fn kl(&mut self) {
        let student = Role::Student;
        for temperature in [1.0, self.scored_at()] {
            for role in self.others.clone() {
                for (left, right) in [(&student, &role), (&role, &student)] {
                    let kl = plain(DivergenceKind::Kl, left, right);
                    let divergence = Divergence { temperature: temperature.into(), ..kl };
                    let name = name_between("KL", left, right, " || ");
                    let name = if temperature == 1.0 {
                        name
                    } else {
                        format!("{name} at temperature {}", text::number(temperature))
                    };
                    self.give(name, GradientSource::Divergence(divergence, vec![]), true);
                }
            }
        }
    }

    /// KL to the policy that drew the tokens, where the student has changed since.
    fn old(&mut self) {
        if self.spec.drift == Drift::None {
            return;
        }
        let temperature = self.scored_at().into();
        let divergence = Divergence { temperature, ..plain(DivergenceKind::Kl, &Role::Student, &Role::Old) };
        let name = name_between("KL", &Role::Student, &Role::Old, " || ");
        self.give(name, GradientSource::Divergence(divergence, vec![]), true);
    }

    /// Log-likelihoods, for completions that the current student did not write.
    fn log_likelihoods(&mut self) {
        if self.is_on_policy() {
            return;
        }
        let name = match &self.spec.sampler {
            Sampler::Elsewhere { name } => format!("KL({name} || student)"),
            Sampler::Student { .. } => name_between("KL", &Role::Old, &Role::Student, " || "),
            Sampler::By { role, temperature } if temperature.is_one() => {
                format!("KL({} || student)", role.name())
            }
            _ => "minus the log-likelihood of what was drawn".into(),
        };
        self.give(name, GradientSource::Sampled, true);
        let kept = "minus the log-likelihood of the completions that are kept";
        self.give(kept.into(), GradientSource::Kept, true);
    }

    /// Functions of whole completions: their rewards, and their probabilities.
    fn outcomes(&mut self) {
        let length = self.spec.size.length;
        if !self.is_on_policy() && length != 1 {
            return;
        }
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            let FormulaKind::Signal(signal) = &part.0.kind else { continue };
            let outcome = match signal {
                Signal::Plain(PlainSignal::Reward) => NamedOutcome::Reward,
                Signal::Plain(PlainSignal::Correct) => NamedOutcome::Correct,
                Signal::Plain(PlainSignal::Length | PlainSignal::Remaining) => NamedOutcome::Length,
                signal if judgement(signal).is_some() => NamedOutcome::Judged(signal.clone()),
                _ => continue,
            };
            self.give(outcome.name(), GradientSource::Policy(outcome), false);
        }
        if length > 1 {
            for role in self.others.clone() {
                let name = format!("KL(student || {}) of whole completions", role.name());
                self.give(name, GradientSource::Sequences(role), true);
            }
        }
    }

    /// Divergences of the standard library, except those of [`Candidates::about_as_good`].
    fn standard(&mut self) {
        let student = Role::Student;
        for role in self.others.clone() {
            for known in standard().iter().filter(|known| known.name != "JSD") {
                let (left, right) = if known.reversed { (&student, &role) } else { (&role, &student) };
                self.give_standard(known, left, right);
            }
        }
    }

    fn give_standard(&mut self, known: &StandardDivergence, left: &Role, right: &Role) {
        let of = plain(known.kind.clone(), left, right);
        let numbers = parameters(&of, self.spec).unwrap_or_default();
        let name = name_between(known.name, left, right, known.between);
        self.give(name, GradientSource::Divergence(of, numbers), true);
    }

    /// The live divergences on a support. It may hold the whole vocabulary of a toy model, but not a real
    /// one, so these names come before those of whole distributions.
    fn truncated(&mut self) {
        for part in self.view.value.parts() {
            if let FormulaKind::Live(Live::Divergence(divergence)) = &part.0.kind
                && divergence.support != Support::Full
            {
                self.give_own(divergence);
            }
        }
    }

    /// The divergences that the term itself reads.
    fn own(&mut self) {
        for divergence in self.view.divergences() {
            let values = parameters(divergence, self.spec).unwrap_or_default();
            for parts in blended(divergence, &values) {
                if let Some((role, share)) = mixed_with_student(&parts) {
                    let Named { name, source, teaches } = jensen_shannon(&role, share);
                    self.give(name, source, teaches);
                }
            }
            self.give_own(divergence);
            if divergence.support != Support::Full && !divergence.support.reads_token() {
                let name = format!("the student's mass on {}", text::support(&divergence.support));
                self.give(name, GradientSource::Mass(divergence.support.clone()), false);
            }
        }
    }

    fn give_own(&mut self, divergence: &Divergence) {
        let Some(parameters) = parameters(divergence, self.spec) else { return };
        // On the whole vocabulary, the other masses are the same. On a support, the masses that are
        // stationary at the teacher come first.
        let variants: Vec<Mass> = match (&divergence.support, divergence.mass) {
            (Support::Full, mass) => vec![mass],
            (_, Mass::Raw) => vec![Mass::Raw, Mass::Generalized],
            (_, mass) => vec![mass],
        };
        for mass in variants {
            let variant = Divergence { mass, ..divergence.clone() };
            if variant.reaches_student() {
                let name = text::divergence(&variant).replace(", support: full", "");
                self.give(name, GradientSource::Divergence(variant, parameters.clone()), true);
            }
        }
    }

    fn rankings(&mut self) {
        for part in self.view.value.parts() {
            if let FormulaKind::Live(Live::Ranking { order }) = &part.0.kind {
                let name = format!("ranking(order: {})", text::support(order));
                self.give(name, GradientSource::Ranking(order.clone()), true);
            }
        }
    }

    /// Divergences that are often nearly as close as others.
    fn about_as_good(&mut self) {
        let student = Role::Student;
        for role in self.others.clone() {
            for known in standard().iter().filter(|known| known.name == "JSD") {
                self.give_standard(known, &role, &student);
            }
            let name = format!("the log-loss of {}'s most probable token", role.name());
            self.give(name, GradientSource::Likelihood(role), true);
        }
    }
}

/// The values of a divergence's formulas, if they are the same at every token.
fn parameters(divergence: &Divergence, spec: &ToyModelSpec) -> Option<Vec<f64>> {
    let worth = |formula: &&Formula| match &formula.0.kind {
        FormulaKind::Number(value) => Some(*value),
        FormulaKind::Schedule(schedule) => Some(schedule.at(spec.step.step, spec.step.steps)),
        FormulaKind::Variable(name) => Some(spec.values.get(name, formula.unit())),
        _ => None,
    };
    divergence.formulas().iter().map(worth).collect()
}

impl NamedOutcome {
    fn name(&self) -> String {
        match self {
            NamedOutcome::Reward => "minus the expected reward".into(),
            NamedOutcome::Correct => "minus the share of correct completions".into(),
            // Without a minus, because it is a number to minimise.
            NamedOutcome::Length => "the expected length".into(),
            NamedOutcome::Judged(signal) => format!("minus the expected {}", text::signal(signal)),
        }
    }

    fn outcome(&self, toy: &ToyModel, prompt: usize, tokens: &[usize]) -> f64 {
        let reward = reward(toy, prompt, tokens);
        match self {
            NamedOutcome::Reward => reward,
            NamedOutcome::Correct if reward >= 1.0 => 1.0,
            NamedOutcome::Correct => 0.0,
            NamedOutcome::Length => -(length(toy, prompt, tokens) as f64),
            NamedOutcome::Judged(signal) => judged(toy, signal, prompt, tokens).unwrap_or_default(),
        }
    }
}

impl Named {
    /// Whether it belongs to a divergence that the author declares.
    pub fn is_declared(&self) -> bool {
        match &self.source {
            GradientSource::Divergence(Divergence { kind: DivergenceKind::Entrywise(own), .. }, _) => {
                !own.standard
            }
            _ => false,
        }
    }

    /// The gradient by all logits of a toy model, per token that follows each prefix.
    pub fn gradient(&self, toy: &ToyModel) -> Result<Vec<f64>, AuditRefusal> {
        let mut gradient = self.after_every_prefix(toy)?;
        if !toy.size.ends {
            return Ok(gradient);
        }
        for (block, reached) in gradient.chunks_mut(toy.size.vocabulary).zip(toy.size.reached()) {
            if !reached {
                block.fill(0.0);
            }
        }
        Ok(gradient)
    }

    fn after_every_prefix(&self, toy: &ToyModel) -> Result<Vec<f64>, AuditRefusal> {
        let size = toy.size;
        let here = |prefix: usize| TokenContext { toy, prefix, token: None, bounds: true };
        let student = |prefix: usize| here(prefix).log_probabilities(&Role::Student, 1.0, true);
        match &self.source {
            GradientSource::Policy(outcome) => {
                completions(toy, |prompt, tokens| Ok(-outcome.outcome(toy, prompt, tokens)), true)
            }
            GradientSource::Kept => completions(
                toy,
                |prompt, tokens| Ok(-NamedOutcome::Correct.outcome(toy, prompt, tokens)),
                false,
            ),
            GradientSource::Sequences(role) => completions(
                toy,
                |prompt, tokens| {
                    let mut total = 0.0;
                    for (position, token) in tokens.iter().enumerate() {
                        let prefix = size.prefix(prompt, &tokens[..position]);
                        let of = |role: &Role| {
                            toy.scored(role, prefix).map(|logp| logp[*token]).ok_or("a role is missing")
                        };
                        total += of(&Role::Student)? - of(role)?;
                    }
                    Ok(total)
                },
                true,
            ),
            source => {
                let mut gradient = Vec::with_capacity(size.logits());
                for prefix in 0..size.prefixes() {
                    let context = here(prefix);
                    let local: Dual = match source {
                        GradientSource::Divergence(divergence, parameters)
                            if divergence.support.reads_token() =>
                        {
                            let mut mean = Dual::plain(0.0);
                            for (token, logp) in toy.sampler_logp(prefix).iter().enumerate() {
                                let taken = TokenContext { token: Some(token), ..context };
                                mean = mean
                                    .add(&taken.divergence(divergence, parameters, true)?.scale(logp.exp()));
                            }
                            mean
                        }
                        GradientSource::Divergence(divergence, parameters) => {
                            context.divergence(divergence, parameters, true)?
                        }
                        GradientSource::Entropy => context.entropy()?,
                        GradientSource::Ranking(support) => context.ranking(support)?,
                        GradientSource::Sampled => {
                            let weighted: Vec<Dual> = here(prefix)
                                .log_probabilities(&Role::Student, toy.temperature, true)?
                                .iter()
                                .zip(toy.sampler_logp(prefix))
                                .map(|(logp, sampler)| logp.scale(-sampler.exp()))
                                .collect();
                            sum(&weighted)
                        }
                        GradientSource::Mass(support) => {
                            let members = context.members(support)?;
                            let student = context.probabilities(&Role::Student, 1.0, true)?;
                            sum(student.iter().zip(members).filter(|(_, member)| *member).map(|(p, _)| p))
                        }
                        GradientSource::Likelihood(role) => {
                            student(prefix)?[context.order(role)?[0]].scale(-1.0)
                        }
                        GradientSource::Policy(_) | GradientSource::Sequences(_) | GradientSource::Kept => {
                            unreachable!("of whole completions")
                        }
                    };
                    let partials =
                        if local.gradient.is_empty() { vec![0.0; size.vocabulary] } else { local.gradient };
                    gradient.extend(partials);
                }
                Ok(gradient)
            }
        }
    }

    /// The value, if the toy model has only one prefix.
    pub fn value(&self, toy: &ToyModel) -> Option<f64> {
        match &self.source {
            GradientSource::Divergence(divergence, parameters) if toy.size.prefixes() == 1 => {
                let context = TokenContext { toy, prefix: 0, token: None, bounds: true };
                context.divergence(divergence, parameters, false).ok().map(|value| value.value)
            }
            _ => None,
        }
    }
}

/// The sum over all completions of the probability, a number of the completion and the student's score of all
/// its tokens, per token that follows a prefix. Completions are the student's own, or the sampler's.
fn completions(
    toy: &ToyModel,
    worth: impl Fn(usize, &[usize]) -> Result<f64, AuditRefusal>,
    own: bool,
) -> Result<Vec<f64>, AuditRefusal> {
    let size = toy.size;
    let mut gradient = vec![0.0; size.logits()];
    let mut visits = vec![0.0; size.prefixes()];
    for prompt in 0..size.prompts {
        for tokens in size.completions() {
            let prefixes: Vec<usize> =
                (0..tokens.len()).map(|position| size.prefix(prompt, &tokens[..position])).collect();
            let logp = |prefix: usize| {
                if own { toy.scored(&Role::Student, prefix) } else { Some(toy.sampler_logp(prefix).into()) }
            };
            let each = prefixes
                .iter()
                .zip(&tokens)
                .map(|(prefix, token)| logp(*prefix).map_or(f64::NAN, |logp| logp[*token]));
            let probability = each.sum::<f64>().exp();
            if probability == 0.0 {
                continue;
            }
            let worth = worth(prompt, &tokens)?;
            for (prefix, token) in prefixes.iter().zip(&tokens) {
                visits[*prefix] += probability;
                let student = toy.scored(&Role::Student, *prefix).ok_or("there is no student")?;
                for (entry, logp) in student.iter().enumerate() {
                    let score = (if entry == *token { 1.0 } else { 0.0 } - logp.exp()) / toy.temperature;
                    gradient[prefix * size.vocabulary + entry] += probability * worth * score;
                }
            }
        }
    }
    for (index, partial) in gradient.iter_mut().enumerate() {
        let visits = visits[index / size.vocabulary];
        *partial = if visits > 0.0 { *partial / visits } else { 0.0 };
    }
    Ok(gradient)
}
