//! The gradients that have a name: what a term's own is compared with.

use std::rc::Rc;

use mopd_lang::analyse;
use mopd_lang::formula::{
    Distribution, Divergence, DivergenceKind, Formula, FormulaKind, Live, Mass, Role, Signal, Support, text,
};
use mopd_lang::source::SourceFile;

use super::divergence::{Place, Refusal};
use super::drawn::Drawn;
use super::dual::{Dual, sum};
use super::leaves::{judged, judgement, reward};
use super::program::View;
use super::world::{Recipe, World};

/// Where a named gradient comes from.
pub(super) enum Source {
    /// Of a divergence, at every prefix, with the numbers of its formulas.
    Divergence(Divergence, Vec<f64>),
    /// Of the student's entropy.
    Entropy,
    /// Of minus the student's log-likelihood of what was drawn, at every prefix.
    Drawn,
    /// Of the student's mass on a support.
    Mass(Support),
    /// Of minus the log-probability of a role's most probable token.
    Likelihood(Role),
    /// Of minus the log-likelihood of the order in which the support's role ranks its entries.
    Ranking(Support),
    /// Of minus the mean of a number of whole completions that the student writes.
    Policy(Outcome),
    /// Of KL(student || role) between whole completions.
    Sequences(Role),
    /// Of minus the student's log-likelihood of the completions drawn that the verifier accepts.
    Kept,
}

/// A number of a completion.
#[derive(Clone, PartialEq)]
pub(super) enum Outcome {
    Reward,
    Correct,
    /// What somebody gives it.
    Judged(Signal),
}

pub(super) struct Named {
    /// `KL(student || teacher)`
    pub name: String,
    pub source: Source,
    /// It says something of somebody else than the student.
    pub teaches: bool,
}

/// Everything that a term may be told to follow, the best known first.
pub(super) fn candidates(view: &View, recipe: &Recipe) -> Vec<Named> {
    let (drawn, length) = (&recipe.drawn, recipe.size.length);
    let mut found: Vec<Named> = Vec::new();
    let mut others = view.others();
    match drawn {
        Drawn::By { role, .. } if !others.contains(role) => others.push(role.clone()),
        Drawn::Mixture { .. } if !others.contains(&Role::Teacher) => others.push(Role::Teacher),
        _ => {}
    }
    let plain = |kind: DivergenceKind, left: &Role, right: &Role| Divergence {
        kind,
        left: Distribution::Role(left.clone()),
        right: Distribution::Role(right.clone()),
        support: Support::Full,
        mass: Mass::Raw,
        temperature: 1.0,
        clip_each: None,
    };
    let scored_at = view.scored_at(drawn);
    let mut give = |name: String, source: Source, teaches: bool| {
        if !found.iter().any(|known: &Named| known.name == name) {
            found.push(Named { name, source, teaches });
        }
    };
    let named = |kind: &str, left: &Role, right: &Role, between: &str| {
        format!("{kind}({}{between}{})", left.name(), right.name())
    };
    let student = Role::Student;
    for role in &others {
        give(
            named("KL", &student, role, " || "),
            Source::Divergence(plain(DivergenceKind::Kl, &student, role), vec![]),
            true,
        );
        give(
            named("KL", role, &student, " || "),
            Source::Divergence(plain(DivergenceKind::Kl, role, &student), vec![]),
            true,
        );
    }
    if scored_at != 1.0 {
        // What log-ratios of the tokens taken follow.
        for role in &others {
            for (left, right) in [(&student, role), (role, &student)] {
                let name = format!(
                    "{} at temperature {}",
                    named("KL", left, right, " || "),
                    text::number(scored_at)
                );
                let scaled = Divergence { temperature: scored_at, ..plain(DivergenceKind::Kl, left, right) };
                give(name, Source::Divergence(scaled, vec![]), true);
            }
        }
    }
    let on_policy = drawn.is_on_policy(scored_at);
    if !on_policy {
        let name = match drawn {
            Drawn::Elsewhere { name } => format!("KL({name} || student)"),
            Drawn::Student { .. } => "KL(sampler || student)".into(),
            Drawn::By { role, temperature: 1.0 } => format!("KL({} || student)", role.name()),
            _ => "minus the log-likelihood of what was drawn".into(),
        };
        give(name, Source::Drawn, true);
        give("minus the log-likelihood of the completions that are kept".into(), Source::Kept, true);
    }
    give("the student's entropy".into(), Source::Entropy, false);
    if on_policy || length == 1 {
        for part in view.formulas().into_iter().flat_map(Formula::parts) {
            let FormulaKind::Signal(signal) = &part.0.kind else { continue };
            let outcome = match signal {
                Signal::Reward => Outcome::Reward,
                Signal::Correct => Outcome::Correct,
                signal if judgement(signal).is_some() => Outcome::Judged(signal.clone()),
                _ => continue,
            };
            give(outcome.name(), Source::Policy(outcome), false);
        }
        if length > 1 {
            for role in &others {
                let name = format!("KL(student || {}) of whole completions", role.name());
                give(name, Source::Sequences(role.clone()), true);
            }
        }
    }
    for role in &others {
        for (name, between, reversed, kind) in standard().iter().filter(|(name, ..)| name != "JSD") {
            let (left, right) = if *reversed { (&student, role) } else { (role, &student) };
            let divergence = plain(kind.clone(), left, right);
            let numbers = parameters(&divergence, recipe).unwrap_or_default();
            give(named(name, left, right, between), Source::Divergence(divergence, numbers), true);
        }
    }
    let own = view.divergences();
    for divergence in &own {
        // The same on the whole vocabulary is known already; on a support, the forms that agree with the
        // teacher go first.
        let variants: Vec<Mass> = match (&divergence.support, divergence.mass) {
            (Support::Full, mass) => vec![mass],
            (_, Mass::Raw) => vec![Mass::Raw, Mass::Generalized],
            (_, mass) => vec![mass],
        };
        let Some(parameters) = parameters(divergence, recipe) else { continue };
        for mass in variants {
            let variant = Divergence { mass, ..(*divergence).clone() };
            if variant.reaches_student() {
                let name = text::divergence(&variant).replace(", support: full", "");
                give(name, Source::Divergence(variant, parameters.clone()), true);
            }
        }
        if divergence.support != Support::Full && !reads_token(&divergence.support) {
            give(
                format!("the student's mass on {}", text::support(&divergence.support)),
                Source::Mass(divergence.support.clone()),
                false,
            );
        }
    }
    for part in view.value.parts() {
        if let FormulaKind::Live(Live::Ranking { order }) = &part.0.kind {
            give(format!("ranking(order: {})", text::support(order)), Source::Ranking(order.clone()), true);
        }
    }
    for role in &others {
        for (name, between, _, kind) in standard().iter().filter(|(name, ..)| name == "JSD") {
            let divergence = plain(kind.clone(), role, &student);
            let numbers = parameters(&divergence, recipe).unwrap_or_default();
            give(named(name, role, &student, between), Source::Divergence(divergence, numbers), true);
        }
        give(
            format!("the log-loss of {}'s most probable token", role.name()),
            Source::Likelihood(role.clone()),
            true,
        );
    }
    found
}

type Standard = (String, &'static str, bool, DivergenceKind);

/// Divergences of the standard library that any gradient is compared with: what they are called, what stands
/// between their sides, and whether the student is on the left.
fn standard() -> Rc<Vec<Standard>> {
    const KNOWN: [(&str, &str, bool, &str); 5] = [
        ("TV", ", ", false, "tv(teacher, student)"),
        ("squared Hellinger", ", ", false, "hellinger(teacher, student)"),
        ("chi2", " || ", false, "chi2(teacher || student)"),
        ("chi2", " || ", true, "chi2(student || teacher)"),
        ("JSD", ", ", false, "jsd(teacher, student, beta: 0.5)"),
    ];
    thread_local! {
        static STANDARD: Rc<Vec<Standard>> = Rc::new(KNOWN.iter().map(|(name, between, reversed, call)| {
            let text = format!("objective o {{\n  term all = live {call}\n  reduce = mean(token, over: batch)\n}}\n");
            let found = analyse(SourceFile { path: "known.mopd".into(), text }, &|_| None).objectives;
            let FormulaKind::Live(Live::Divergence(divergence)) = &found[0].objective.terms[0].value.0.kind else {
                unreachable!("the term is a divergence")
            };
            ((*name).to_owned(), *between, *reversed, divergence.kind.clone())
        }).collect());
    }
    STANDARD.with(Rc::clone)
}

/// The numbers of a divergence's formulas, where they are the same at every token.
fn parameters(divergence: &Divergence, recipe: &Recipe) -> Option<Vec<f64>> {
    let worth = |formula: &&Formula| match &formula.0.kind {
        FormulaKind::Number(value) => Some(*value),
        FormulaKind::Schedule(schedule) => Some(schedule.at(recipe.step.0, recipe.step.1)),
        FormulaKind::Variable(name) => Some(recipe.values.get(name, formula.unit())),
        _ => None,
    };
    divergence.formulas().iter().map(worth).collect()
}

impl Outcome {
    fn name(&self) -> String {
        match self {
            Outcome::Reward => "minus the expected reward".into(),
            Outcome::Correct => "minus the share of correct completions".into(),
            Outcome::Judged(signal) => format!("minus the expected {}", text::signal(signal)),
        }
    }

    fn of(&self, world: &World, prompt: usize, tokens: &[usize]) -> f64 {
        let reward = reward(world, prompt, tokens);
        match self {
            Outcome::Reward => reward,
            Outcome::Correct if reward >= 1.0 => 1.0,
            Outcome::Correct => 0.0,
            Outcome::Judged(signal) => judged(world, signal, prompt, tokens).unwrap_or_default(),
        }
    }
}

impl Named {
    /// It is of a divergence that the author declares.
    pub fn is_declared(&self) -> bool {
        matches!(&self.source, Source::Divergence(divergence, _) if matches!(&divergence.kind, DivergenceKind::Entrywise(own) if !own.standard))
    }

    /// Its gradient by all logits of a world, per token that follows a prefix.
    pub fn gradient(&self, world: &World) -> Result<Vec<f64>, Refusal> {
        let size = world.size;
        let here = |prefix: usize| Place { world, prefix, token: None, bounds: true };
        let student = |prefix: usize| here(prefix).probabilities(&Role::Student, 1.0, true);
        match &self.source {
            Source::Policy(outcome) => {
                completions(world, |prompt, tokens| Ok(-outcome.of(world, prompt, tokens)), true)
            }
            Source::Kept => {
                completions(world, |prompt, tokens| Ok(-Outcome::Correct.of(world, prompt, tokens)), false)
            }
            Source::Sequences(role) => completions(
                world,
                |prompt, tokens| {
                    let mut total = 0.0;
                    for (position, token) in tokens.iter().enumerate() {
                        let prefix = size.prefix(prompt, &tokens[..position]);
                        let of = |role: &Role| {
                            world.scored(role, prefix).map(|logp| logp[*token]).ok_or("a role is missing")
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
                    let place = here(prefix);
                    let local: Dual = match source {
                        Source::Divergence(divergence, parameters) if reads_token(&divergence.support) => {
                            let mut mean = Dual::plain(0.0);
                            for (token, logp) in world.drawn(prefix).iter().enumerate() {
                                let taken = Place { token: Some(token), ..place };
                                mean = mean
                                    .add(&taken.divergence(divergence, parameters, true)?.scale(logp.exp()));
                            }
                            mean
                        }
                        Source::Divergence(divergence, parameters) => {
                            place.divergence(divergence, parameters, true)?
                        }
                        Source::Entropy => place.entropy()?,
                        Source::Ranking(support) => place.ranking(support)?,
                        Source::Drawn => {
                            let weighted: Vec<Dual> = here(prefix)
                                .probabilities(&Role::Student, world.temperature, true)?
                                .iter()
                                .zip(world.drawn(prefix))
                                .map(|(p, drawn)| p.log().scale(-drawn.exp()))
                                .collect();
                            sum(&weighted)
                        }
                        Source::Mass(support) => {
                            let members = place.members(support)?;
                            sum(student(prefix)?
                                .iter()
                                .zip(members)
                                .filter(|(_, member)| *member)
                                .map(|(p, _)| p))
                        }
                        Source::Likelihood(role) => {
                            student(prefix)?[place.order(role)?.0[0]].log().scale(-1.0)
                        }
                        Source::Policy(_) | Source::Sequences(_) | Source::Kept => {
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

    /// The value itself, where the world is one prefix.
    pub fn value(&self, world: &World) -> Option<f64> {
        match &self.source {
            Source::Divergence(divergence, parameters) if world.size.prefixes() == 1 => {
                let place = Place { world, prefix: 0, token: None, bounds: true };
                place.divergence(divergence, parameters, false).ok().map(|value| value.value)
            }
            _ => None,
        }
    }
}

fn reads_token(support: &Support) -> bool {
    match support {
        Support::Sampled => true,
        Support::Union(parts) | Support::Intersection(parts) => parts.iter().any(reads_token),
        _ => false,
    }
}

/// The sum over all completions of their probability, a number of theirs and the student's score of all their
/// tokens, per token that follows a prefix. They are the student's own, or those that are drawn.
fn completions(
    world: &World,
    worth: impl Fn(usize, &[usize]) -> Result<f64, Refusal>,
    own: bool,
) -> Result<Vec<f64>, Refusal> {
    let size = world.size;
    let mut gradient = vec![0.0; size.logits()];
    let mut visits = vec![0.0; size.prefixes()];
    for prompt in 0..size.prompts {
        for tokens in size.completions() {
            let prefixes: Vec<usize> =
                (0..tokens.len()).map(|position| size.prefix(prompt, &tokens[..position])).collect();
            let logp = |prefix: usize| {
                if own { world.scored(&Role::Student, prefix) } else { Some(world.drawn(prefix).into()) }
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
                let student = world.scored(&Role::Student, *prefix).ok_or("there is no student")?;
                for (entry, logp) in student.iter().enumerate() {
                    let score = (if entry == *token { 1.0 } else { 0.0 } - logp.exp()) / world.temperature;
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
