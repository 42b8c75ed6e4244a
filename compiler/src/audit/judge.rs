//! From gradients to a verdict.

use std::rc::Rc;

use mopd_lang::formula::{Axis, Formula, FormulaKind, Function, Part as Number, Role, Signal, text};

use super::cast::Cast;
use super::divergence::Refusal;
use super::drawn::Drawn;
use super::evaluate::Evaluator;
use super::expectation::{ALL, Compiled, Counting};
use super::fit::{coefficients, cosine, difference, distance, norm, per_block};
use super::leaves::Scene;
use super::named::{Named, candidates};
use super::program::View;
use super::values::Values;
use super::variants;
use super::verdict::{Finding, Part, Task, Verdict, When, away};
use super::world::{Recipe, Variation, World};
use crate::lower::FormulaGraph;

/// What is left of a gradient whose single outcomes add up to nothing, as a share of the largest of them.
const NOTHING: f64 = 1e-10;

/// What is smaller is no gradient. It may be far below rounding: sums that cancel are exactly 0 already
/// (`dual::cancelled`), and `exp(-length)` is a small weight, not none.
const LEAST: f64 = 1e-100;

/// A bias as small as this is a bound that hardly acts.
const HARDLY: f64 = 1e-6;

/// Teachers that make each other up, of which every one has a distribution in every world.
const MOST_ROLES: usize = 64;

/// A gradient in all worlds of a kind, one after the other, and the mean values.
pub(super) struct Measured {
    pub gradient: Vec<f64>,
    pub values: Vec<f64>,
    pub largest: f64,
}

impl Measured {
    /// Every outcome alone has a gradient, and their mean has none; or there is none to begin with.
    pub fn is_zero(&self) -> bool {
        norm(&self.gradient) <= (NOTHING * self.largest).max(LEAST)
    }
}

/// A term, the tokens that it is trained on and the step of the run.
pub(super) struct Inquiry<'a> {
    pub(super) view: View<'a>,
    recipe: Recipe,
}

impl<'a> Inquiry<'a> {
    /// # Errors
    /// What can't be told in a small world, in words.
    pub fn of(view: View<'a>, drawn: &Drawn, cast: &Cast, step: (u32, u32)) -> Result<Inquiry<'a>, Refusal> {
        if let Some(why) = view.refusal() {
            return Err(why);
        }
        let (size, worlds) = view.size()?;
        let mut roles = view.others();
        match drawn {
            Drawn::By { role, .. }
                if !roles.contains(role) && !matches!(role, Role::Student | Role::Sampler) =>
            {
                roles.push(role.clone());
            }
            Drawn::Mixture { .. } if !roles.contains(&Role::Teacher) => roles.push(Role::Teacher),
            _ => {}
        }
        let mut supports = view.supports(size.vocabulary);
        if let Drawn::Student { top_k: Some(k), .. } = drawn
            && *k as usize >= size.vocabulary
            && supports.iter().all(|(written, _)| written != k)
        {
            supports.push((*k, size.vocabulary.div_ceil(2)));
        }
        let (roles, cast) = (cast.closure(roles, step, MOST_ROLES), cast.clone());
        if roles.len() > MOST_ROLES {
            return Err(format!("more than {MOST_ROLES} teachers have to do with it"));
        }
        let (values, temperature) = (Rc::new(Values::of(&view)), view.scored_at(drawn));
        let recipe =
            Recipe { size, worlds, roles, cast, drawn: drawn.clone(), temperature, step, supports, values };
        Ok(Inquiry { view, recipe })
    }

    pub fn measure(
        &self,
        view: &View,
        counting: Counting,
        variation: Variation,
    ) -> Result<Measured, Refusal> {
        measure(view, counting, &self.recipe.worlds(variation))
    }

    /// Whether the mean gradient is 0 in all usual worlds, and whether single outcomes have any all the same.
    /// One world that is smaller still tells in most cases.
    pub fn vanishes(&self) -> Result<(bool, bool), Refusal> {
        let mut moved = false;
        let smallest = Recipe { size: self.recipe.size.smallest(), ..self.recipe.clone() };
        let usual = (0..self.recipe.worlds).map(|seed| self.recipe.world(seed, Variation::Usual));
        for world in std::iter::once(smallest.world(1, Variation::Usual)).chain(usual) {
            let measured = measure(&self.view, ALL, &[world])?;
            if !measured.is_zero() {
                return Ok((false, true));
            }
            moved |= measured.largest > LEAST;
        }
        Ok((true, moved))
    }

    /// The gradient and the values as written, in the usual worlds.
    pub fn usual(&self) -> Result<Measured, Refusal> {
        self.measure(&self.view, ALL, Variation::Usual)
    }

    /// The same in these worlds.
    pub fn within(&self, worlds: &[World]) -> Result<Measured, Refusal> {
        measure(&self.view, ALL, worlds)
    }

    pub fn worlds(&self) -> Vec<World> {
        self.recipe.worlds(Variation::Usual)
    }

    pub fn other_worlds(&self, variation: Variation) -> Vec<World> {
        self.recipe.worlds(variation)
    }

    pub fn drawn(&self) -> &Drawn {
        &self.recipe.drawn
    }

    /// Nobody but the student has to do with a role's distributions.
    pub fn is_made_of_student(&self, role: &Role) -> bool {
        self.recipe.cast.is_made_of_student(role, self.recipe.step)
    }

    /// One token is all there is: the mean value is of one prefix.
    pub fn is_one_token(&self) -> bool {
        self.recipe.size.tokens() == 1
    }

    /// Logits after one prefix.
    pub fn block(&self) -> usize {
        self.recipe.size.vocabulary
    }

    /// Whether some condition of the formula may keep all gradient away here, though it would not elsewhere.
    pub fn may_be_silent(&self) -> bool {
        self.view.conditions()
    }

    /// Named divergences whose values could be what the term's value estimates, with these values.
    pub fn estimated(&self, measured: &Measured, named: &[Named], worlds: &[World]) -> Option<usize> {
        if !self.is_one_token() || measured.values.iter().all(|value| value.abs() < 1e-12) {
            return None;
        }
        named.iter().position(|named| {
            let values: Option<Vec<f64>> = worlds.iter().map(|world| named.value(world)).collect();
            let multiple = values.and_then(|values| coefficients(&measured.values, &[&values]));
            multiple.is_some_and(|multiple| multiple[0] > 0.0)
        })
    }

    pub fn candidates(&self) -> Vec<Named> {
        candidates(&self.view, &self.recipe)
    }

    /// The tokens that what is said holds for.
    fn on(&self) -> String {
        self.recipe.drawn.text() + &self.recipe.cast.text()
    }

    pub fn finding(&self, when: When) -> Finding {
        self.judged(when).unwrap_or_else(|why| Finding::not_audited(when, self.on(), why))
    }

    fn judged(&self, when: When) -> Result<Finding, Refusal> {
        let usual = self.usual()?;
        if let Drawn::Unknown { why } = &self.recipe.drawn {
            let other = self.measure(&self.view, ALL, Variation::OtherSampler)?;
            if norm(&difference(&usual.gradient, &other.gradient)) > 1e-9 * norm(&usual.gradient) {
                return Err(format!("it depends on the tokens taken, and {why}"));
            }
        }
        let worlds = self.worlds();
        let named = self.candidates();
        let known = Known::of(&named, &worlds, self.block())?;
        let value_estimates = self.estimated(&usual, &named, &worlds).map(|index| named[index].name.clone());
        let verdict = self.verdict(&usual, &known)?;
        let mut notes = self.notes();
        notes.extend(self.beside_declared(&verdict, &usual.gradient, &known));
        notes.extend(self.at_temperature_one());
        notes.extend(self.untried(&worlds));
        // Where models are very far apart, or all the same, some formulas have no value: then there is
        // nothing to add.
        notes.extend(self.steep(&verdict).unwrap_or_default());
        let stationary_at_teacher = match &verdict {
            Verdict::Follows { .. }
            | Verdict::Weighted { .. }
            | Verdict::Sum { .. }
            | Verdict::Unnamed { .. }
                if self.compares() =>
            {
                let agreed = self.measure(&self.view, ALL, Variation::Agreed);
                agreed
                    .ok()
                    .map(|agreed| agreed.is_zero() || norm(&agreed.gradient) <= 1e-9 * norm(&usual.gradient))
            }
            _ => None,
        };
        Ok(Finding { when, on: self.on(), verdict, value_estimates, stationary_at_teacher, notes })
    }

    /// The nearest of the gradients that everybody knows, where the one followed is of a divergence that the
    /// author declares.
    fn beside_declared(&self, verdict: &Verdict, gradient: &[f64], known: &Known) -> Option<String> {
        let of = match verdict {
            Verdict::Biased { of, .. } => of.single()?,
            verdict => verdict.single()?,
        };
        known.named.iter().find(|named| named.name == of && named.is_declared())?;
        let (nearest, cosine) = known.nearest_of(gradient, |named| !named.is_declared());
        Some(format!("nearest with a known name: {nearest} (cosine {cosine:.3})"))
    }

    /// Drawn at another temperature, an estimate is one of nothing; what it would be at 1 is what its author
    /// took it for.
    fn at_temperature_one(&self) -> Option<String> {
        let Drawn::Student { .. } = self.recipe.drawn else { return None };
        if self.recipe.drawn.is_on_policy(self.recipe.temperature) {
            return None;
        }
        let recipe = Recipe { drawn: Drawn::ON_POLICY, temperature: 1.0, ..self.recipe.clone() };
        let (value, gradient) =
            Inquiry { view: self.view.with_value(self.view.value), recipe }.misleading()?;
        Some(format!(
            "on tokens drawn at temperature 1 its value estimates {value}, its gradient is of {gradient}"
        ))
    }

    /// The term is about somebody else's distribution and nothing but that.
    fn compares(&self) -> bool {
        let other = |node: &mopd_lang::formula::FormulaNode| {
            matches!(
                node.kind,
                FormulaKind::Signal(Signal::Reward | Signal::RewardPart { .. } | Signal::Correct)
            )
        };
        !self.view.others().is_empty()
            && !self.view.any(other)
            && self.recipe.drawn.is_on_policy(self.recipe.temperature)
    }

    /// Whether the term reads what a teacher says.
    pub fn reads_teacher(&self) -> bool {
        let teaches = |role: &Role| matches!(role, Role::Teacher | Role::Named { .. });
        self.view.any(|node| match &node.kind {
            // Verdicts and critics judge what was written: they are no teachers, whoever gives them.
            FormulaKind::Signal(Signal::Of { part, role }) => {
                teaches(role)
                    && matches!(
                        part,
                        Number::Logp | Number::Entropy | Number::Top1 | Number::Rank | Number::EndLogp
                    )
            }
            FormulaKind::Signal(
                Signal::Available { .. } | Signal::SpanScore { .. } | Signal::Agreement { .. },
            ) => false,
            FormulaKind::Signal(signal) => signal.roles().iter().any(teaches),
            FormulaKind::Live(live) => live.roles().iter().any(teaches),
            _ => false,
        })
    }

    fn verdict(&self, usual: &Measured, known: &Known) -> Result<Verdict, Refusal> {
        if usual.is_zero() {
            if usual.largest <= LEAST && self.may_be_silent() {
                return Ok(Verdict::NotAudited {
                    why: "no gradient passes its conditions in worlds this small".into(),
                });
            }
            return Ok(Verdict::Zero);
        }
        let gradient = &usual.gradient;
        if let Some(found) = known.identify(gradient) {
            return Ok(found);
        }
        if let Some(found) = self.beside_task(gradient, known)? {
            return Ok(found);
        }
        if let Some(found) = self.by_summands(known) {
            return Ok(found);
        }
        if let Some(found) = self.biased(gradient, known) {
            return Ok(found);
        }
        let (nearest, cosine) = known.nearest(gradient);
        Ok(Verdict::Unnamed { nearest, cosine })
    }

    /// What stays the same whoever teaches is split off: the rest may have a name.
    fn beside_task(&self, gradient: &[f64], known: &Known) -> Result<Option<Verdict>, Refusal> {
        let task = |gradient: &[f64]| Task { reads_teacher: self.reads_teacher(), ..known.task(gradient) };
        if self.recipe.roles.is_empty() {
            return Ok(Some(Verdict::Task(task(gradient))));
        }
        let others = self.recipe.worlds(Variation::OtherTeachers);
        let elsewhere = measure(&self.view, ALL, &others)?.gradient;
        let change = difference(gradient, &elsewhere);
        if norm(&change) <= 1e-9 * norm(gradient) {
            return Ok(Some(Verdict::Task(task(gradient))));
        }
        for (named, own) in known.named.iter().zip(&known.gradients).filter(|(named, _)| named.teaches) {
            let theirs = gradients(named, &others)?;
            let Some(times) = coefficients(&change, &[&difference(own, &theirs)]) else { continue };
            let scaled: Vec<f64> = own.iter().map(|partial| partial * times[0]).collect();
            let rest = difference(gradient, &scaled);
            let parts = vec![Part { of: named.name.clone(), times: times[0] }];
            return Ok(Some(Verdict::WithTask { parts, task: task(&rest) }));
        }
        Ok(None)
    }

    /// Each summand by itself, where all of them have names.
    fn by_summands(&self, known: &Known) -> Option<Verdict> {
        let summands = variants::summands(self.view.value);
        if summands.len() < 2 {
            return None;
        }
        // Summands that follow one gradient are one: `(1 - w) * x` is not x and its opposite.
        let mut found: Vec<(Option<String>, Vec<f64>)> = Vec::new();
        for summand in &summands {
            let Ok(measured) = self.measure(&self.view.with_value(summand), ALL, Variation::Usual) else {
                return None;
            };
            if measured.is_zero() {
                continue;
            }
            let name = known.identify(&measured.gradient)?.single().map(str::to_owned);
            match found.iter_mut().find(|(known, ..)| known.is_some() && *known == name) {
                Some((_, sum)) => sum.iter_mut().zip(&measured.gradient).for_each(|(sum, own)| *sum += own),
                None => found.push((name, measured.gradient)),
            }
        }
        let mut parts: Vec<Verdict> = Vec::new();
        for (_, gradient) in found.iter().filter(|(_, gradient)| norm(gradient) > LEAST) {
            match known.identify(gradient)? {
                Verdict::Sum { parts: inner } => parts.extend(inner),
                verdict => parts.push(verdict),
            }
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Verdict::Sum { parts }),
        }
    }

    /// Without a bound, a mask, a weight or a summand it may have a name: then that part biases.
    fn biased(&self, gradient: &[f64], known: &Known) -> Option<Verdict> {
        let bounded = variants::has_bounds(&self.view);
        let gates = self.view.gates();
        let mut gated: Vec<&str> = gates.iter().map(|(name, _)| *name).collect();
        gated.dedup();
        let gated = gated.iter().map(|name| format!("`{name}`")).collect::<Vec<String>>().join(" and ");
        let tries = [
            (bounded, "its bounds".to_owned(), Counting { bounds: false, gates: true }),
            (!gates.is_empty(), gated.clone(), Counting { bounds: true, gates: false }),
            (
                bounded && !gates.is_empty(),
                format!("{gated} and its bounds"),
                Counting { bounds: false, gates: false },
            ),
        ];
        for (possible, by, counting) in tries {
            if !possible {
                continue;
            }
            // Not every formula has a value without its bounds.
            let Ok(plain) = self.measure(&self.view, counting, Variation::Usual) else { continue };
            if let Some(of) = known.identify(&plain.gradient).filter(|_| !plain.is_zero()) {
                return Some(bias(gradient, &plain.gradient, of, by));
            }
        }
        // With and without bounds, with and without gates: a weight that depends on the token often stands
        // inside them. One gradient without a weight says more than one with.
        let parts = variants::without_parts(self.view.value);
        let mut best: Option<(bool, f64, Verdict)> = None;
        for (bounds, gates_act) in [(true, true), (false, true), (true, false), (false, false)] {
            if (!bounds && !bounded) || (!gates_act && gates.is_empty()) {
                continue;
            }
            for (left_out, value) in &parts {
                let counting = Counting { bounds, gates: gates_act };
                let Ok(plain) = self.measure(&self.view.with_value(value), counting, Variation::Usual) else {
                    continue;
                };
                let Some(of) =
                    known.identify(&plain.gradient).filter(|of| !plain.is_zero() && of.single().is_some())
                else {
                    continue;
                };
                let others = [(!gates_act).then_some(gated.as_str()), (!bounds).then_some("its bounds")];
                let by = std::iter::once(format!("`{left_out}`"))
                    .chain(others.into_iter().flatten().map(str::to_owned));
                let by = by.collect::<Vec<String>>().join(" and ");
                let exact = matches!(of, Verdict::Follows { .. });
                let near = cosine(gradient, &plain.gradient);
                let better =
                    |(known_exact, known, _): &(bool, f64, Verdict)| (exact, near) > (*known_exact, *known);
                if best.as_ref().is_none_or(better) {
                    best = Some((exact, near, bias(gradient, &plain.gradient, of, by)));
                }
            }
            // The fewest parts that say it.
            if best.as_ref().is_some_and(|(exact, ..)| *exact) {
                break;
            }
        }
        best.map(|(_, _, verdict)| verdict)
    }

    /// What bounds do where models differ by many nats, if they do nothing where they differ little.
    fn steep(&self, verdict: &Verdict) -> Result<Option<String>, Refusal> {
        let named = matches!(
            verdict,
            Verdict::Follows { .. }
                | Verdict::Weighted { .. }
                | Verdict::WithTask { .. }
                | Verdict::Sum { .. }
        );
        if !named || !variants::has_bounds(&self.view) || self.recipe.roles.is_empty() {
            return Ok(None);
        }
        let free = self.measure(&self.view, Counting { bounds: false, gates: true }, Variation::Steep)?;
        let bound = self.measure(&self.view, ALL, Variation::Steep)?.gradient;
        if free.is_zero() || norm(&difference(&bound, &free.gradient)) <= HARDLY * norm(&free.gradient) {
            return Ok(None);
        }
        let (far, angle) = (distance(&bound, &free.gradient), cosine(&bound, &free.gradient));
        Ok(Some(format!(
            "where models differ by many nats its bounds act: {} from that (cosine {angle:.3})",
            away(far)
        )))
    }

    /// Conditions of cases that never differ in these worlds: of what they choose between, only one was
    /// looked at.
    fn untried(&self, worlds: &[World]) -> Vec<String> {
        let mut conditions: Vec<&Formula> = Vec::new();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            let FormulaKind::Apply { function: Function::Where, operands } = &part.0.kind else { continue };
            if operands[0].axis() > Axis::Run && !conditions.contains(&&operands[0]) {
                conditions.push(&operands[0]);
            }
        }
        let Ok(seen) = truths(&conditions, worlds) else { return Vec::new() };
        let same = conditions.iter().zip(seen).filter(|(_, seen)| *seen != [true; 2]);
        same.map(|(condition, seen)| {
            format!("`{}` {} holds here", quoted(condition), if seen[1] { "always" } else { "never" })
        })
        .collect()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        let mut open: Vec<String> = Vec::new();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            if let FormulaKind::Variable(name) = &part.0.kind {
                let taken =
                    format!("{name} = {}", text::number(readable(self.recipe.values.get(name, part.unit()))));
                if !open.contains(&taken) {
                    open.push(taken);
                }
            }
        }
        if !open.is_empty() {
            notes.push(format!("with {} for want of a value", open.join(", ")));
        }
        for axis in [Axis::Turn, Axis::Block, Axis::Domain] {
            let over = |node: &mopd_lang::formula::FormulaNode| match &node.kind {
                FormulaKind::Reduce { .. } => node.axis == axis,
                FormulaKind::Statistic { over, .. } | FormulaKind::Scan { over, .. } => *over == axis,
                _ => false,
            };
            if self.view.any(over) {
                let whole = if axis == Axis::Domain { "batch" } else { "completion" };
                notes.push(format!("a whole {whole} is one {} here", axis.name()));
            }
        }
        for (written, entries) in &self.recipe.supports {
            if *written as usize != *entries {
                notes.push(format!(
                    "the top {written} are the top {entries} of {} here",
                    self.recipe.size.vocabulary
                ));
            }
        }
        notes
    }
}

/// Which of false and true conditions are in these worlds.
fn truths(conditions: &[&Formula], worlds: &[World]) -> Result<Vec<[bool; 2]>, Refusal> {
    let lowered = FormulaGraph::of(None, conditions)?;
    let mut seen = vec![[false; 2]; conditions.len()];
    for world in worlds {
        let evaluator = Evaluator::of(world, &lowered, true)?;
        for tokens in world.size.outcomes() {
            let values = evaluator.run(&Scene::of(world, &tokens, true))?;
            for (seen, root) in seen.iter_mut().zip(&lowered.roots) {
                for element in 0..evaluator.layout().len(lowered.graph.axis(*root)) {
                    seen[usize::from(values.at(*root, element).truth())] = true;
                }
            }
        }
    }
    Ok(seen)
}

/// Without the noise of binary fractions.
fn readable(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

fn bias(gradient: &[f64], plain: &[f64], of: Verdict, by: String) -> Verdict {
    Verdict::Biased {
        of: Box::new(of),
        by,
        distance: distance(gradient, plain),
        cosine: cosine(gradient, plain),
    }
}

pub(super) fn measure(view: &View, counting: Counting, worlds: &[World]) -> Result<Measured, Refusal> {
    let compiled = Compiled::of(view, counting)?;
    let mut measured = Measured { gradient: Vec::new(), values: Vec::new(), largest: 0.0 };
    for world in worlds {
        let expectation = compiled.expectation(world, counting)?;
        measured.gradient.extend(expectation.gradient);
        measured.values.push(expectation.value);
        measured.largest = measured.largest.max(expectation.largest);
    }
    Ok(measured)
}

pub(super) fn gradients(named: &Named, worlds: &[World]) -> Result<Vec<f64>, Refusal> {
    let mut gradient = Vec::new();
    for world in worlds {
        gradient.extend(named.gradient(world)?);
    }
    Ok(gradient)
}

/// The named gradients in the usual worlds.
pub(super) struct Known<'a> {
    named: Vec<&'a Named>,
    gradients: Vec<Vec<f64>>,
    /// Logits after one prefix.
    block: usize,
}

impl<'a> Known<'a> {
    pub fn of(named: &'a [Named], worlds: &[World], block: usize) -> Result<Known<'a>, Refusal> {
        let mut known = Known { named: Vec::new(), gradients: Vec::new(), block };
        for named in named {
            let own = gradients(named, worlds)?;
            // What has no gradient is followed by nothing; a teacher that is the student is one.
            if norm(&own) > LEAST {
                known.named.push(named);
                known.gradients.push(own);
            }
        }
        Ok(known)
    }

    /// The named gradient, sum of named gradients, or named gradient with a weight per prefix that this one
    /// is. One before two, the better known before the others.
    pub fn identify(&self, gradient: &[f64]) -> Option<Verdict> {
        let count = self.named.len();
        let follows = |which: &[usize]| -> Option<Verdict> {
            let parts: Vec<&[f64]> = which.iter().map(|index| self.gradients[*index].as_slice()).collect();
            let times = coefficients(gradient, &parts)?;
            let part = |(index, times): (&usize, f64)| Part { of: self.named[*index].name.clone(), times };
            Some(Verdict::Follows { parts: which.iter().zip(times).map(part).collect() })
        };
        let single = (0..count).find_map(|a| follows(&[a]));
        let pair =
            || (0..count).flat_map(|a| (a + 1..count).map(move |b| [a, b])).find_map(|which| follows(&which));
        let weighted = || {
            self.named.iter().zip(&self.gradients).find_map(|(named, own)| {
                let (least, most) = per_block(gradient, own, self.block)?;
                Some(Verdict::Weighted { of: named.name.clone(), least, most })
            })
        };
        let few = count.min(8);
        let triple = || {
            (0..few)
                .flat_map(|a| (a + 1..few).flat_map(move |b| (b + 1..few).map(move |c| [a, b, c])))
                .find_map(|which| follows(&which))
        };
        single.or_else(pair).or_else(weighted).or_else(triple)
    }

    /// The one named gradient that this is a multiple of.
    pub fn single(&self, gradient: &[f64]) -> Option<String> {
        let own = self
            .named
            .iter()
            .zip(&self.gradients)
            .find(|(_, own)| coefficients(gradient, &[own.as_slice()]).is_some());
        own.map(|(named, _)| named.name.clone())
    }

    fn nearest(&self, gradient: &[f64]) -> (String, f64) {
        self.nearest_of(gradient, |_| true)
    }

    fn nearest_of(&self, gradient: &[f64], which: impl Fn(&Named) -> bool) -> (String, f64) {
        let some = self.named.iter().zip(&self.gradients).filter(|(named, _)| which(named));
        let all = some.map(|(named, own)| (named.name.clone(), cosine(gradient, own)));
        all.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).unwrap_or_default()
    }

    /// What a gradient without a teacher is nearest to.
    fn task(&self, gradient: &[f64]) -> Task {
        let own = self.named.iter().zip(&self.gradients).filter(|(named, _)| !named.teaches);
        let near = own.map(|(named, own)| (named.name.clone(), cosine(gradient, own)));
        // Less than this is no resemblance.
        let near = near.filter(|(_, cosine)| cosine.abs() > 0.5);
        let (nearest, cosine) = near.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).unwrap_or_default();
        Task { reads_teacher: false, nearest, cosine }
    }
}

/// A formula inside a sentence.
pub(super) fn quoted(formula: &Formula) -> String {
    text::formula(formula, 60)
}
