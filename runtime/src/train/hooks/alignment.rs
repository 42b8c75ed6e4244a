//! How the gradients of parts of a stage's loss align: the gradient of each part alone, over the trained
//! parameters, at the steps that the stage names. It is only reported; the step does not read it.

use std::collections::BTreeMap;

use mopd_plan::{GradientAlignment, GradientPartition};
use tch::{Kind, Tensor, no_grad_guard};

use super::{GradientPass, StepHook};
use crate::failure::Result;
use crate::model::Gradient;
use crate::report::metrics::StepMetrics;
use crate::train::objective::adjoints;

/// Gradients of parts of the loss, over the trained parameters, each with the part's name.
type Gradients = Vec<(String, Gradient)>;

/// Elements of each gradient that are processed at a time.
const CHUNK: usize = 1 << 20;

/// The comparison of gradients in a stage.
pub struct AlignedGradients {
    settings: GradientAlignment,
    /// Those of the current step, where it compares them.
    pub gradients: Gradients,
}

impl AlignedGradients {
    pub fn new(settings: GradientAlignment) -> AlignedGradients {
        AlignedGradients { settings, gradients: Vec::new() }
    }

    /// The parts of the loss, each with its adjoints.
    fn parts(&self, part: &GradientPass) -> Vec<(String, Vec<Vec<f32>>)> {
        let GradientPass { scoring, rollouts, outputs, .. } = *part;
        let objective = &scoring.stage.train.objective;
        match self.settings.between {
            GradientPartition::Terms => {
                let of_term = objective.term_gradients.iter().map(|term| {
                    let adjoints = term.adjoints.iter().map(|adjoint| outputs.get(*adjoint).to_vec());
                    (term.term.clone(), adjoints.collect())
                });
                of_term.collect()
            }
            GradientPartition::Domains => {
                let (sequences, adjoints) = (&rollouts.sequences, adjoints(objective, outputs));
                let sources = scoring.stage.sources.iter().enumerate();
                let there =
                    sources.filter(|(index, _)| sequences.list.iter().any(|own| own.source == *index));
                there
                    .map(|(index, source)| (source.name.to_owned(), sequences.alone(index, &adjoints)))
                    .collect()
            }
        }
    }

    /// Adds the gradient of a part of the loss to that of the same name, such as a domain's, in another part
    /// of the stage.
    fn add(&mut self, name: String, gradient: Gradient) {
        let gradients = &mut self.gradients;
        match gradients.iter().position(|(known, _)| *known == name) {
            Some(place) => {
                let (_, known) = gradients.remove(place);
                gradients.insert(place, (name, known.plus(gradient)));
            }
            None => gradients.push((name, gradient)),
        }
    }
}

impl StepHook for AlignedGradients {
    fn reads_gradients(&self, step: u32) -> bool {
        self.settings.is_due(step)
    }

    /// Each gradient recomputes the student's layers.
    fn after_gradient(&mut self, part: &GradientPass) -> Result<()> {
        let GradientPass { scoring, pass, rollouts, batch, trained, .. } = *part;
        // The load of the experts was counted in the step's own pass.
        scoring.model.uncounted(|| {
            for (name, adjoints) in self.parts(part) {
                let adjoints: Vec<&[f32]> = adjoints.iter().map(Vec::as_slice).collect();
                let pass = pass.without_activations();
                self.add(name, trained(pass.gradient(scoring, rollouts, batch, &adjoints)?));
            }
            Ok(())
        })
    }

    fn end_of_step(&mut self, _: u32, rows: &mut [Vec<StepMetrics>]) {
        let columns = columns(std::mem::take(&mut self.gradients));
        rows.iter_mut().flatten().for_each(|row| row.alignment.clone_from(&columns));
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
