//! The exact expected gradient of a term in a world: the mean of its derivative over everything that can be
//! drawn. How the tokens were drawn is not differentiated: prefixes and samples are constants, as trainers
//! have it.

use mopd_lang::formula::{Axis, Formula};

use super::divergence::Refusal;
use super::dual::Dual;
use super::evaluate::{Scene, count, parent, reward};
use super::program::{Program, View};
use super::world::World;

/// What of a term counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counting {
    /// `clip`, and `min` and `max` with a bound.
    pub bounds: bool,
    /// `select`, `weight` and `when`.
    pub gates: bool,
}

pub(super) const ALL: Counting = Counting { bounds: true, gates: true };

/// A term ready to be evaluated.
pub(super) struct Compiled<'a> {
    select: Option<(Program<'a>, usize, Axis)>,
    main: Program<'a>,
    value: (usize, Axis),
    factors: Vec<(usize, Axis)>,
    when: Option<(usize, Axis)>,
    /// The finest axis of value, factors and masks.
    axis: Axis,
    kept: bool,
}

/// What comes out on average.
pub(super) struct Expectation {
    /// By the student's logits, prefix after prefix: per token that follows the prefix. 0 after prefixes
    /// that are never met.
    pub gradient: Vec<f64>,
    /// Of the term's own elements, on average.
    pub value: f64,
    /// The largest derivative of any single outcome.
    pub largest: f64,
}

impl<'a> Compiled<'a> {
    pub fn of(view: &View<'a>, counting: Counting) -> Compiled<'a> {
        let gates = counting.gates;
        let select = view.select.filter(|_| gates).map(|select| {
            let (program, roots) = Program::of(&[select]);
            (program, roots[0], select.axis())
        });
        let factors: Vec<&Formula> =
            view.weight.into_iter().chain(view.own_weight).filter(|_| gates).collect();
        let when = view.when.filter(|_| gates);
        let roots: Vec<&Formula> =
            std::iter::once(view.value).chain(factors.iter().copied()).chain(when).collect();
        let (main, places) = Program::of(&roots);
        let placed: Vec<(usize, Axis)> =
            places.into_iter().zip(roots.iter().map(|root| root.axis())).collect();
        let axes = placed.iter().map(|(_, axis)| *axis).chain(select.iter().map(|(_, _, axis)| *axis));
        let axis = axes.max().unwrap_or(Axis::Token);
        Compiled {
            select,
            main,
            value: placed[0],
            factors: placed[1..=factors.len()].to_vec(),
            when: when.and_then(|_| placed.last().copied()),
            axis,
            kept: view.kept,
        }
    }

    /// # Errors
    /// What the world lacks, and numbers that are not finite.
    pub fn expectation(&self, world: &World, counting: Counting) -> Result<Expectation, Refusal> {
        let size = world.size;
        let mut gradient = vec![0.0; size.logits()];
        let mut visits = vec![0.0; size.prefixes()];
        let (mut value, mut largest) = (0.0, 0.0f64);
        for tokens in size.outcomes() {
            let scene = Scene::of(world, &tokens, counting.bounds);
            let probability = scene.probability();
            if probability == 0.0 {
                continue;
            }
            scene.prefixes.iter().for_each(|prefix| visits[*prefix] += probability);
            let total = self.total(&scene, counting)?;
            if !total.is_finite() {
                return Err("its numbers are not finite here".into());
            }
            value += probability * total.value;
            for (sum, partial) in gradient.iter_mut().zip(&total.gradient) {
                *sum += probability * partial;
                largest = largest.max(partial.abs());
            }
        }
        for (prefix, visits) in visits.into_iter().enumerate() {
            let own = &mut gradient[prefix * size.vocabulary..(prefix + 1) * size.vocabulary];
            own.iter_mut().for_each(|partial| *partial = if visits > 0.0 { *partial / visits } else { 0.0 });
        }
        Ok(Expectation { gradient, value: value / count(size, self.value.1) as f64, largest })
    }

    /// The sum over the term's own elements of one drawing.
    fn total(&self, scene: &Scene, counting: Counting) -> Result<Dual, Refusal> {
        let size = scene.world.size;
        let selected = match &self.select {
            None => None,
            Some((program, root, axis)) => {
                let values = scene.run(program, None)?;
                let at =
                    |token: usize| values[*root].elements[parent(size, Axis::Token, *axis, token)].truth();
                Some((0..size.tokens()).map(at).collect::<Vec<bool>>())
            }
        };
        let values = scene.run(&self.main, selected.as_deref())?;
        let kept = |index: usize| {
            if !(self.kept && counting.gates) {
                return true;
            }
            let sequence = parent(size, self.axis.max(Axis::Sequence), Axis::Sequence, index);
            reward(
                scene.world,
                sequence / size.samples,
                &scene.tokens[sequence * size.length..(sequence + 1) * size.length],
            ) >= 1.0
        };
        let at = |(root, axis): (usize, Axis), index: usize| {
            &values[root].elements[parent(size, self.axis, axis, index)]
        };
        // A coarse term that is spread over finer elements counts once.
        let elements = count(size, self.axis);
        let share = count(size, self.value.1) as f64 / elements as f64;
        let mut total = Dual::plain(0.0);
        for index in 0..elements {
            let chosen = match &selected {
                Some(selected) if self.axis == Axis::Token => selected[index],
                Some(selected) => (0..size.tokens())
                    .any(|token| selected[token] && parent(size, Axis::Token, self.axis, token) == index),
                None => true,
            };
            if !chosen || !kept(index) || self.when.is_some_and(|when| !at(when, index).truth()) {
                continue;
            }
            let weighted = self
                .factors
                .iter()
                .fold(at(self.value, index).scale(share), |value, factor| value.multiply(at(*factor, index)));
            total = total.add(&weighted);
        }
        Ok(total)
    }
}
