//! Predicts the time that a stage spends on choosing its prompts.

use mopd_plan::producers::Writer;
use mopd_plan::{Curriculum, ModelId, Producer, Sampling, Share};

use super::trial::StageTrial;
use crate::model::Weights;

impl StageTrial<'_> {
    /// Seconds spent on choosing prompts in `steps` steps. A batch's completions take `rollout` seconds;
    /// others take time in proportion to the size of their writer and their most tokens.
    pub fn choosing(&self, of: &Curriculum, rollout: f64, steps: u32) -> f64 {
        let rows = |share: &Share| self.context.domains[share.domain.0 as usize].rows_of(self.train);
        let prompts: usize = self.train.mixture.iter().filter_map(rows).map(|rows| rows.dataset.len()).sum();
        let own = &self.train.rollout;
        let each = rollout / (f64::from(own.groups.max(1)) * self.written(&own.producer)).max(1.0);
        let rounds = f64::from(of.rounds(steps));
        let own = if of.reads_own() { rounds * self.written(&own.producer) } else { 0.0 };
        let others = of.rollouts.iter().zip(0u32..).map(|(producer, place)| {
            let mut measures = of.measures.iter().filter(|measure| measure.rollout == place);
            let fixed = measures.all(|measure| of.is_fixed(measure, &self.train.scorers));
            self.written(producer) * if fixed { 1.0 } else { rounds }
        });
        each * prompts as f64 * (own + others.sum::<f64>())
    }

    /// The work of a prompt's completions: tokens times parameters of the model that writes them.
    fn written(&self, producer: &Producer) -> f64 {
        let parameters =
            |id: ModelId| Weights::parameters(&self.context.shapes.configs[id.0 as usize]) as f64;
        let of = |(writer, sampling): (Writer, &Sampling)| {
            let writer = match writer {
                Writer::Scorer(role) => {
                    let models = self.train.scorers.choices(role).iter();
                    let models = models.map(|choice| choice.teacher.spec_model().unwrap_or(self.model));
                    models.map(parameters).fold(0.0, f64::max)
                }
                _ => parameters(self.model),
            };
            let tokens = sampling.max_tokens.min(self.completion.max(1));
            writer * f64::from(sampling.n) * f64::from(tokens)
        };
        producer.drawn().into_iter().map(of).sum()
    }
}
