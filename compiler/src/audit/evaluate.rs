//! What a term is worth, with its derivative, for one thing that may be drawn.

use mopd_lang::formula::{
    Adaptive, Axis, Formula, FormulaKind, Live, Memory, Part, Reduction, Role, Scan, Signal, Statistic,
};

use super::divergence::{Place, Refusal};
use super::dual::{self, Dual, sum};
use super::program::{Program, Step};
use super::world::{Size, World};

/// So many tokens of a real completion one token stands for where positions and lengths are counted: a
/// condition on positions then holds for some tokens and not for others.
const STRETCH: usize = 100;

/// One drawing of all tokens of a world.
pub(super) struct Scene<'a> {
    pub world: &'a World,
    /// By token, sequence after sequence.
    pub tokens: &'a [usize],
    /// What each of them follows.
    pub prefixes: Vec<usize>,
    /// `clip`, and `min` and `max` with a bound, act.
    pub bounds: bool,
}

/// One number per element of an axis.
#[derive(Clone)]
pub(super) struct Value {
    pub elements: Vec<Dual>,
}

pub(super) fn count(size: Size, axis: Axis) -> usize {
    match axis {
        Axis::Run | Axis::Batch | Axis::Domain => 1,
        Axis::Group => size.prompts,
        // Every completion is one turn and one block.
        Axis::Sequence | Axis::Turn | Axis::Block => size.sequences(),
        Axis::Token | Axis::Vocab => size.tokens(),
    }
}

/// The element of `to` that an element of the finer `from` lies in.
pub(super) fn parent(size: Size, from: Axis, to: Axis, index: usize) -> usize {
    let sequence = match from {
        Axis::Token | Axis::Vocab => index / size.length,
        Axis::Sequence | Axis::Turn | Axis::Block => index,
        Axis::Group => index * size.samples,
        _ => 0,
    };
    match to {
        Axis::Token | Axis::Vocab => index,
        Axis::Sequence | Axis::Turn | Axis::Block => sequence,
        Axis::Group => sequence / size.samples,
        _ => 0,
    }
}

impl<'a> Scene<'a> {
    pub fn of(world: &'a World, tokens: &'a [usize], bounds: bool) -> Scene<'a> {
        let size = world.size;
        let prefix = |token: usize| {
            let first = token / size.length * size.length;
            size.prefix(token / size.length / size.samples, &tokens[first..token])
        };
        Scene { world, tokens, prefixes: (0..size.tokens()).map(prefix).collect(), bounds }
    }

    /// How likely it is.
    pub fn probability(&self) -> f64 {
        let each =
            self.tokens.iter().zip(&self.prefixes).map(|(token, prefix)| self.world.drawn(*prefix)[*token]);
        each.sum::<f64>().exp()
    }

    fn place(&self, token: usize) -> Place<'_> {
        Place {
            world: self.world,
            prefix: self.prefixes[token],
            token: Some(self.tokens[token]),
            bounds: self.bounds,
        }
    }

    /// The values of all steps. `selected` is what `select` says of each token, where it is known.
    pub fn run(&self, program: &Program, selected: Option<&[bool]>) -> Result<Vec<Value>, Refusal> {
        let mut values: Vec<Value> = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let operands: Vec<&Value> = step.operands.iter().map(|(operand, _)| &values[*operand]).collect();
            let value = self.step(step, &operands, selected)?;
            values.push(value);
        }
        Ok(values)
    }

    fn step(&self, step: &Step, operands: &[&Value], selected: Option<&[bool]>) -> Result<Value, Refusal> {
        let formula = step.formula;
        let size = self.world.size;
        let axis = formula.axis();
        let one = |value: f64| vec![Dual::plain(value)];
        let each = |axis: Axis, of: &dyn Fn(usize) -> f64| {
            (0..count(size, axis)).map(|index| Dual::plain(of(index))).collect()
        };
        let elements: Vec<Dual> = match &formula.0.kind {
            FormulaKind::Number(value) => one(*value),
            FormulaKind::Schedule(schedule) => one(schedule.at(self.world.step.0, self.world.step.1)),
            FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => {
                let (step, steps) = self.world.step;
                let rung = values.len() * step as usize / steps.max(1) as usize;
                one(values.get(rung.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN))
            }
            FormulaKind::Adaptive(Adaptive::Learned { .. }) => {
                return Err("`learned(...)` is found by the run".into());
            }
            FormulaKind::Entry(_) => return Err("a side of a divergence has no value of its own".into()),
            FormulaKind::Variable(name) => one(self.world.values.get(name, formula.unit())),
            FormulaKind::Signal(Signal::Selected) => {
                // Where the selection is left out of account, all count.
                each(Axis::Token, &|token| {
                    f64::from(u8::from(selected.is_none_or(|selected| selected[token])))
                })
            }
            FormulaKind::Signal(signal) => self.signal(signal, axis, operands)?,
            FormulaKind::Live(live) => self.live(live, operands)?,
            FormulaKind::Apply { function, .. } => {
                let elements = (0..count(size, axis)).map(|index| {
                    let given = operands.iter().zip(&step.operands);
                    let parts: Vec<&Dual> = given
                        .map(|(operand, (_, from))| &operand.elements[parent(size, axis, *from, index)])
                        .collect();
                    self.unbounded(formula, &parts).unwrap_or_else(|| dual::apply(*function, &parts))
                });
                elements.collect()
            }
            FormulaKind::Reduce { reduction, operand, among, .. } => {
                self.reduce(*reduction, operand, among.as_ref(), axis, operands)
            }
            FormulaKind::Statistic { statistic, operand, over, among } => {
                let from = operand.axis();
                let takes_part = |index: usize| self.among(among.as_ref(), operands.get(1), from, index);
                let mut elements = vec![Dual::plain(0.0); count(size, from)];
                for whole in 0..count(size, *over) {
                    let members: Vec<usize> = (0..count(size, from))
                        .filter(|i| parent(size, from, *over, *i) == whole && takes_part(*i))
                        .collect();
                    let values: Vec<f64> =
                        members.iter().map(|index| operands[0].elements[*index].value).collect();
                    for (index, result) in members.into_iter().zip(compare(*statistic, &values)?) {
                        elements[index] = Dual::plain(result);
                    }
                }
                elements
            }
            FormulaKind::Scan { scan, operand, over } => self.scan(scan, operand.axis(), *over, operands),
            FormulaKind::Memory { memory, operand } => {
                let before = self.before(operand)?;
                let kept = match memory {
                    Memory::Ema { rate } => *rate,
                    Memory::Previous => 1.0,
                };
                let now = operands[0].elements.iter();
                now.zip(before)
                    .map(|(now, before)| Dual::plain(kept * before + (1.0 - kept) * now.value))
                    .collect()
            }
            FormulaKind::Across { members, among, index } => {
                let (values, conditions) = operands.split_at(members.len());
                let at = |operand: &Value, of: &Formula, index: usize| {
                    operand.elements[parent(size, axis, of.axis(), index)].value
                };
                each(axis, &|element| {
                    let present: Vec<bool> = (0..members.len())
                        .map(|member| match (conditions.get(member), among.get(member)) {
                            (Some(condition), Some(of)) => at(condition, of, element) != 0.0,
                            _ => true,
                        })
                        .collect();
                    if !present.iter().any(|present| *present) {
                        return 1.0 / members.len() as f64;
                    }
                    let weight = |member: usize| {
                        if present[member] {
                            at(values[member], &members[member], element).exp()
                        } else {
                            0.0
                        }
                    };
                    weight(*index) / (0..members.len()).map(weight).sum::<f64>()
                })
            }
        };
        Ok(Value { elements })
    }

    /// What a number of the step was on an earlier batch: nothing drawn here has to do with it.
    fn before(&self, operand: &Formula) -> Result<Vec<f64>, Refusal> {
        let Some(world) = &self.world.before else {
            // Nobody needs to know what was carried over into what is carried over.
            return Ok(vec![self.world.chance("memory", &[]); count(self.world.size, operand.axis())]);
        };
        let tokens = world.typical();
        let (program, roots) = Program::of(&[operand]);
        let values = Scene::of(world, &tokens, self.bounds).run(&program, None)?;
        Ok(values[roots[0]].elements.iter().map(|element| element.value).collect())
    }

    /// A bounded number without its bound, where bounds don't act.
    fn unbounded(&self, formula: &Formula, parts: &[&Dual]) -> Option<Dual> {
        if self.bounds {
            return None;
        }
        bounded(formula).map(|operand| parts[operand].clone())
    }

    fn among(&self, among: Option<&Formula>, value: Option<&&Value>, axis: Axis, index: usize) -> bool {
        match (among, value) {
            (Some(formula), Some(value)) => {
                value.elements[parent(self.world.size, axis, formula.axis(), index)].truth()
            }
            _ => true,
        }
    }

    fn reduce(
        &self,
        reduction: Reduction,
        operand: &Formula,
        among: Option<&Formula>,
        to: Axis,
        operands: &[&Value],
    ) -> Vec<Dual> {
        let (size, from) = (self.world.size, operand.axis());
        let elements = (0..count(size, to)).map(|whole| {
            let members: Vec<&Dual> = (0..count(size, from))
                .filter(|index| parent(size, from, to, *index) == whole)
                .filter(|index| self.among(among, operands.get(1), from, *index))
                .map(|index| &operands[0].elements[index])
                .collect();
            reduced(reduction, &members)
        });
        elements.collect()
    }

    fn scan(&self, scan: &Scan<Formula>, axis: Axis, over: Axis, operands: &[&Value]) -> Vec<Dual> {
        let size = self.world.size;
        let values = &operands[0].elements;
        let mut results = values.clone();
        let runs =
            |whole: usize| (0..values.len()).filter(move |index| parent(size, axis, over, *index) == whole);
        for whole in 0..count(size, over) {
            let members: Vec<usize> = runs(whole).collect();
            let forwards: Vec<usize> = members.clone();
            let backwards: Vec<usize> = members.into_iter().rev().collect();
            let mut so_far: Option<Dual> = None;
            let order =
                if matches!(scan, Scan::Next | Scan::RewardToGo { .. }) { &backwards } else { &forwards };
            for index in order {
                let here = &values[*index];
                let result = match (scan, &so_far) {
                    (Scan::Next, before) => before.clone().unwrap_or(Dual::plain(0.0)),
                    (_, None) => here.clone(),
                    (Scan::Sum, Some(before)) => before.add(here),
                    (Scan::Product, Some(before)) => before.multiply(here),
                    (Scan::Minimum, Some(before)) => before.minimum(here),
                    (Scan::Maximum, Some(before)) => before.maximum(here),
                    (Scan::RewardToGo { .. }, Some(after)) => {
                        // A discount is one number for the whole run.
                        here.add(&after.multiply(&operands[1].elements[0]))
                    }
                };
                so_far = Some(if matches!(scan, Scan::Next) { here.clone() } else { result.clone() });
                results[*index] = result;
            }
        }
        results
    }

    fn live(&self, live: &Live, operands: &[&Value]) -> Result<Vec<Dual>, Refusal> {
        let student = |place: &Place| place.probabilities(&Role::Student, 1.0, true);
        (0..self.world.size.tokens())
            .map(|token| {
                let place = self.place(token);
                let local = match live {
                    Live::Part(Part::Logp) => place.log_probability(self.tokens[token])?,
                    Live::Part(Part::EndLogp) => place.log_probability(self.world.size.vocabulary - 1)?,
                    Live::Part(Part::Entropy) => place.entropy()?,
                    Live::Part(Part::Top1) => {
                        let best = place.order(&Role::Student)?.0[0];
                        student(&place)?[best].clone()
                    }
                    Live::Divergence(divergence) => place.divergence(
                        divergence,
                        &self.parameters(divergence.formulas(), operands, token),
                        true,
                    )?,
                    Live::Likelihood { of } => {
                        let best = place.order(of)?.0[0];
                        student(&place)?[best].log().scale(-1.0)
                    }
                    Live::Ranking { order } => place.ranking(order)?,
                    _ => return Err("it is no number of a distribution over tokens".into()),
                };
                Ok(self.embedded(local, self.prefixes[token]))
            })
            .collect()
    }

    /// A derivative by the logits after one prefix as one by all logits.
    fn embedded(&self, local: Dual, prefix: usize) -> Dual {
        let size = self.world.size;
        if size.prefixes() == 1 || local.gradient.is_empty() {
            return local;
        }
        let mut gradient = vec![0.0; size.logits()];
        gradient[prefix * size.vocabulary..(prefix + 1) * size.vocabulary].copy_from_slice(&local.gradient);
        Dual { value: local.value, gradient }
    }

    /// The numbers of a divergence's formulas at a token.
    fn parameters(&self, formulas: Vec<&Formula>, operands: &[&Value], token: usize) -> Vec<f64> {
        let at = |(formula, value): (&&Formula, &&Value)| {
            value.elements[parent(self.world.size, Axis::Token, formula.axis(), token)].value
        };
        formulas.iter().zip(operands).map(at).collect()
    }

    fn signal(&self, signal: &Signal, axis: Axis, operands: &[&Value]) -> Result<Vec<Dual>, Refusal> {
        let elements: Result<Vec<f64>, Refusal> = match axis {
            Axis::Token => {
                (0..self.world.size.tokens()).map(|token| self.of_token(signal, operands, token)).collect()
            }
            Axis::Sequence | Axis::Turn | Axis::Block => {
                (0..self.world.size.sequences()).map(|sequence| self.of_sequence(signal, sequence)).collect()
            }
            _ => self.of_run(signal).map(|value| vec![value]),
        };
        Ok(elements?.into_iter().map(Dual::plain).collect())
    }

    fn of_token(&self, signal: &Signal, operands: &[&Value], token: usize) -> Result<f64, Refusal> {
        let place = self.place(token);
        let (taken, prefix, position) =
            (self.tokens[token], self.prefixes[token], token % self.world.size.length);
        let truth = |truth: bool| if truth { 1.0 } else { 0.0 };
        let chance = |name: &str, of: &[usize]| self.world.chance(name, of);
        Ok(match signal {
            Signal::Of { role, part } => match part {
                Part::Value => chance(&format!("value of {}", role.name()), &[prefix]),
                Part::Confidence => chance(&format!("confidence of {}", role.name()), &[prefix, taken]),
                part => {
                    let logp = self
                        .world
                        .logp(role, prefix)
                        .ok_or_else(|| format!("nothing is known of `{}` here", role.name()))?;
                    let scored = || self.world.scored(role, prefix).expect("it is known");
                    match part {
                        Part::Logp => scored()[taken],
                        Part::EndLogp => scored()[logp.len() - 1],
                        Part::Entropy => -logp
                            .iter()
                            .map(|logp| if *logp == f64::NEG_INFINITY { 0.0 } else { logp.exp() * logp })
                            .sum::<f64>(),
                        Part::Top1 => logp.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp(),
                        Part::Rank => 1.0 + logp.iter().filter(|other| **other > logp[taken]).count() as f64,
                        _ => return Err(format!("`{}.{}` can't be enumerated", role.name(), part.name())),
                    }
                }
            },
            Signal::Divergence(divergence) => {
                place
                    .divergence(divergence, &self.parameters(divergence.formulas(), operands, token), false)?
                    .value
            }
            Signal::Overlap { left, right, k } => {
                let entries = self.world.entries(*k).min(self.world.size.vocabulary);
                let (ours, theirs) = (place.order(left)?.0, place.order(right)?.0);
                ours[..entries].iter().filter(|entry| theirs[..entries].contains(entry)).count() as f64
                    / entries as f64
            }
            Signal::Mass { role, support } => {
                let members = place.members(support)?;
                place
                    .probabilities(role, 1.0, false)?
                    .iter()
                    .zip(members)
                    .filter(|(_, member)| *member)
                    .map(|(p, _)| p.value)
                    .sum()
            }
            Signal::InNucleus { role, p } => {
                let support = mopd_lang::formula::Support::Nucleus { role: role.clone(), p: *p };
                truth(place.members(&support)?[taken])
            }
            Signal::SupportSize { support } => {
                place.members(support)?.into_iter().filter(|member| *member).count() as f64
            }
            Signal::Position => (position * STRETCH) as f64,
            Signal::Remaining => ((self.world.size.length - 1 - position) * STRETCH) as f64,
            Signal::Offset => position as f64 + 1.0,
            Signal::Head => position as f64,
            Signal::Turn | Signal::Block => 0.0,
            Signal::Accepted => truth(chance("accepted", &[prefix, taken]) > 0.4),
            Signal::InSpan(span) => truth(chance(span.name(), &[prefix]) > 0.5),
            _ => return Err("it is no number of a token in a small world".into()),
        })
    }

    fn of_sequence(&self, signal: &Signal, sequence: usize) -> Result<f64, Refusal> {
        let size = self.world.size;
        let prompt = sequence / size.samples;
        let tokens = &self.tokens[sequence * size.length..(sequence + 1) * size.length];
        let text: Vec<usize> = std::iter::once(prompt).chain(tokens.iter().copied()).collect();
        let truth = |truth: bool| if truth { 1.0 } else { 0.0 };
        let chance = |name: &str, of: &[usize]| self.world.chance(name, of);
        Ok(match signal {
            Signal::Reward => reward(self.world, prompt, tokens),
            Signal::Correct => truth(reward(self.world, prompt, tokens) >= 1.0),
            Signal::Data { field } => chance(field, &[prompt]),
            Signal::DataIs { field, text } => truth(chance(&format!("{field} {text}"), &[prompt]) > 0.5),
            Signal::Available { role } => {
                truth(chance(&format!("available {}", role.name()), &[prompt]) > 0.25)
            }
            Signal::Length => (size.length * STRETCH) as f64,
            Signal::Truncated => truth(chance("truncated", &text) > 0.7),
            Signal::Of { role, part: Part::Correct } => {
                truth(chance(&format!("correct {}", role.name()), &text) > 0.5)
            }
            Signal::Of { role, part: Part::StatedConfidence } => {
                chance(&format!("confidence of {}", role.name()), &[prompt]) * 100.0
            }
            Signal::Agreement { samples, .. } => {
                judged(self.world, signal, prompt, tokens).unwrap_or_default() * f64::from(*samples)
            }
            signal if judgement(signal).is_some() => {
                judged(self.world, signal, prompt, tokens).unwrap_or_default()
            }
            _ => return Err("it is no number of a completion in a small world".into()),
        })
    }

    fn of_run(&self, signal: &Signal) -> Result<f64, Refusal> {
        let (step, steps) = self.world.step;
        Ok(match signal {
            Signal::Progress => f64::from(step) / f64::from(steps.max(1)),
            Signal::Step => f64::from(step),
            Signal::VocabularySize => self.world.size.vocabulary as f64,
            Signal::Loss | Signal::HeldOutLoss => 1.0,
            Signal::TermLoss { term } => 0.5 + self.world.chance(term, &[]),
            _ => return Err("it is no number of the run in a small world".into()),
        })
    }
}

/// The verdict on a completion: 1, 0.4 or 0, and some of each.
pub(super) fn reward(world: &World, prompt: usize, tokens: &[usize]) -> f64 {
    let place: usize = tokens.iter().enumerate().map(|(position, token)| token * (position + 1)).sum();
    [1.0, 0.0, 0.4][(place + prompt + world.seed as usize) % 3]
}

/// A number that somebody gives a whole completion, by name.
pub(super) fn judgement(signal: &Signal) -> Option<String> {
    match signal {
        Signal::RewardPart { .. }
        | Signal::SpanScore { .. }
        | Signal::Agreement { .. }
        | Signal::Of { part: Part::Score, .. } => Some(mopd_lang::formula::text::signal(signal)),
        _ => None,
    }
}

/// What it is for a completion, in (0, 1).
pub(super) fn judged(world: &World, signal: &Signal, prompt: usize, tokens: &[usize]) -> Option<f64> {
    let text: Vec<usize> = std::iter::once(prompt).chain(tokens.iter().copied()).collect();
    judgement(signal).map(|name| world.chance(&name, &text))
}

/// The operand that a formula bounds by numbers known before anything is drawn.
pub(super) fn bounded(formula: &Formula) -> Option<usize> {
    use mopd_lang::formula::Function::{Clip, Maximum, Minimum};
    let FormulaKind::Apply { function, operands } = &formula.0.kind else { return None };
    match (function, operands.as_slice()) {
        (Clip, [x, ..]) if x.axis() > Axis::Run => Some(0),
        (Minimum | Maximum, [x, y]) => match (x.axis() == Axis::Run, y.axis() == Axis::Run) {
            (false, true) => Some(0),
            (true, false) => Some(1),
            _ => None,
        },
        _ => None,
    }
}

/// Value and gradient as the operators' table has them; sums cancel as those of two numbers do.
fn reduced(reduction: Reduction, members: &[&Dual]) -> Dual {
    match reduction {
        Reduction::Sum | Reduction::Mean if !members.is_empty() => {
            let sum = sum(members.iter().copied());
            if reduction == Reduction::Sum { sum } else { sum.scale(1.0 / members.len() as f64) }
        }
        _ => {
            let values: Vec<f64> = members.iter().map(|member| member.value).collect();
            let shares = reduction.gradient(&values).unwrap_or_default();
            let live = members.iter().zip(shares).filter(|(_, share)| *share != 0.0);
            let gradient =
                sum(live.map(|(member, share)| member.scale(share)).collect::<Vec<_>>().iter()).gradient;
            Dual { value: reduction.value(&values), gradient }
        }
    }
}

/// Each of some peers compared with all of them. The small number that a z-score adds to the deviation is
/// left out.
fn compare(statistic: Statistic, values: &[f64]) -> Result<Vec<f64>, Refusal> {
    match statistic {
        _ if values.is_empty() => Ok(Vec::new()),
        Statistic::Chunks { .. } => Err(format!("`{}` can't be enumerated", statistic.name())),
        _ => statistic.exact(values).ok_or_else(|| format!("`{}` can't be enumerated", statistic.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_none_is_what_the_table_says() {
        for reduction in Reduction::EACH {
            assert_eq!(reduced(reduction, &[]), Dual::plain(reduction.of_none()), "{reduction:?}");
        }
    }
}
