//! How the gradients of parts of a stage's loss align: the gradient of each part alone, over the trained
//! parameters, at the steps that the stage names. It is only reported; the step does not read it.

use std::collections::BTreeMap;

use mopd_expr::batch::Batch;
use mopd_plan::GradientPartition;
use tch::{Kind, Tensor, no_grad_guard};

use super::objective::{Outputs, adjoints};
use super::rollouts::Rollouts;
use super::scoring::{Scoring, ScoringPass};
use crate::failure::Result;
use crate::model::Gradient;

/// Gradients of parts of the loss, over the trained parameters, each with the part's name.
pub type Gradients = Vec<(String, Gradient)>;

/// Elements of each gradient that are processed at a time.
const CHUNK: usize = 1 << 20;

/// A forward pass for one more backward pass, with the adjoints of one part of the loss.
pub struct PreparedPass {
    name: String,
    pass: ScoringPass,
    adjoints: Vec<Vec<f32>>,
}

/// The parts of the loss whose gradients this step reports; empty at other steps.
pub fn prepared(
    scoring: &Scoring,
    pass: &ScoringPass,
    rollouts: &Rollouts,
    outputs: &Outputs,
    step: u32,
) -> Vec<PreparedPass> {
    let Scoring { stage, .. } = *scoring;
    let Some(alignment) = stage.train.options.alignment.filter(|alignment| alignment.is_due(step)) else {
        return Vec::new();
    };
    let objective = &stage.train.objective;
    let prepared = |name: &str, adjoints| PreparedPass {
        name: name.to_owned(),
        pass: pass.without_activations(),
        adjoints,
    };
    match alignment.between {
        GradientPartition::Terms => {
            let of_term = objective.term_gradients.iter().map(|term| {
                let adjoints = term.adjoints.iter().map(|adjoint| outputs.get(*adjoint).to_vec());
                prepared(&term.term, adjoints.collect())
            });
            of_term.collect()
        }
        GradientPartition::Domains => {
            let (sequences, adjoints) = (&rollouts.sequences, adjoints(objective, outputs));
            let sources = stage.sources.iter().enumerate();
            let there = sources.filter(|(index, _)| sequences.list.iter().any(|own| own.source == *index));
            there.map(|(index, source)| prepared(source.name, sequences.alone(index, &adjoints))).collect()
        }
    }
}

/// The gradients of the prepared parts. Each recomputes the student's layers.
pub fn gradients(
    prepared: Vec<PreparedPass>,
    scoring: &Scoring,
    rollouts: &Rollouts,
    batch: &Batch,
    trained: &dyn Fn(Gradient) -> Gradient,
) -> Result<Gradients> {
    let gradient = |PreparedPass { name, pass, adjoints }: PreparedPass| {
        let adjoints: Vec<&[f32]> = adjoints.iter().map(Vec::as_slice).collect();
        Ok((name, trained(pass.gradient(scoring, rollouts, batch, &adjoints)?)))
    };
    // The load of the experts was counted in the step's own pass.
    scoring.model.uncounted(|| prepared.into_iter().map(gradient).collect())
}

/// Adds the gradients of another part of the stage to those of the same name, such as a domain.
pub fn join(all: &mut Gradients, others: Gradients) {
    for (name, other) in others {
        match all.iter().position(|(known, _)| *known == name) {
            Some(place) => {
                let (_, known) = all.remove(place);
                all.insert(place, (name, known.plus(other)));
            }
            None => all.push((name, other)),
        }
    }
}

/// The norm of each gradient and the cosine of each pair, by column name. A gradient that is 0 has no cosine.
pub fn columns(gradients: Gradients) -> BTreeMap<String, f64> {
    let Some((_, first)) = gradients.first() else { return BTreeMap::new() };
    let _guard = no_grad_guard();
    let count = gradients.len();
    let mut products = vec![0.0; count * count];
    for start in (0..first.parameters()).step_by(CHUNK) {
        let range = start..(start + CHUNK).min(first.parameters());
        let rows = gradients.iter().map(|(_, gradient)| gradient.part(range.clone()).to_kind(Kind::Double));
        let rows = Tensor::stack(&rows.collect::<Vec<_>>(), 0);
        let of_chunk = Vec::<f64>::try_from(rows.mm(&rows.tr()).view([-1])).expect("numbers in one row");
        products.iter_mut().zip(of_chunk).for_each(|(sum, product)| *sum += product);
    }
    let norm = |of: usize| products[of * count + of].sqrt();
    let mut columns = BTreeMap::new();
    for (one, (name, _)) in gradients.iter().enumerate() {
        columns.insert(format!("grad_norm.{name}"), norm(one));
        for (other, (second, _)) in gradients.iter().enumerate().skip(one + 1) {
            let cosine = products[one * count + other] / (norm(one) * norm(other));
            columns.insert(format!("alignment.{name}.{second}"), cosine);
        }
    }
    columns.retain(|_, number| number.is_finite());
    columns
}
