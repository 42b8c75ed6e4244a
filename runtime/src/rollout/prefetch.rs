//! Lockstep decoding with sampling on the model's device. The next step is launched before the host has
//! received this step's tokens, so that the device never waits for the host.

use tch::{Kind, Tensor};

use super::in_step::StepRow;
use super::sampler::SampledToken;
use super::tensor_sampler::{self, DeviceVocabulary};
use super::{Completion, CompletionObserver, Stop, append};
use crate::control::Control;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::machine::transfer::{StagingBuffer, upload};
use crate::model::Generator;
use crate::zip::zip_equal;

/// Launched draws. At most two have not been received by the host.
pub(super) struct PipelinedDraws<'a> {
    place: Place,
    vocabulary: &'a DeviceVocabulary,
    temperature: f64,
    /// Used alternately.
    staging: [Staging; 2],
    launched: usize,
    taken: usize,
}

struct Staging {
    uniforms: StagingBuffer,
    drawn: StagingBuffer,
}

impl<'a> PipelinedDraws<'a> {
    pub(super) fn new(
        place: Place,
        vocabulary: &'a DeviceVocabulary,
        temperature: f64,
    ) -> PipelinedDraws<'a> {
        let staging = || Staging { uniforms: StagingBuffer::new(place), drawn: StagingBuffer::new(place) };
        let staging = [staging(), staging()];
        PipelinedDraws { place, vocabulary, temperature, staging, launched: 0, taken: 0 }
    }

    /// Launches a draw for each row, from its row of `logits` (`places`, i64) and its uniform number.
    /// Returns the tokens on the device: i64, `[rows]`.
    fn launch(&mut self, logits: &Tensor, places: &Tensor, uniforms: &[f64]) -> Tensor {
        assert!(self.launched - self.taken < 2, "the host has seen what was staged here");
        let staging = &mut self.staging[self.launched % 2];
        let uniforms = staging.uniforms.upload(uniforms);
        let of_rows = [places, &uniforms];
        let drawn = tensor_sampler::launch(self.place, logits, self.vocabulary, self.temperature, of_rows);
        staging.drawn.download(&drawn);
        self.launched += 1;
        tensor_sampler::tokens(&drawn)
    }

    /// Receives the oldest draw that was launched and not taken.
    fn take(&mut self) -> Vec<Option<SampledToken>> {
        let numbers = self.staging[self.taken % 2].drawn.take();
        self.taken += 1;
        tensor_sampler::sampled(&numbers)
    }

    /// Completes rows from the generator's current logits; each row comes with the index of its logits. A row
    /// that has ended stays in the batch, and its draws are ignored, until enough rows can leave.
    pub(super) fn complete(
        mut self,
        generator: &mut Generator,
        rows: Vec<(StepRow, usize)>,
        stop: &Stop,
        control: &Control,
        watch: CompletionObserver,
        completions: &mut [Completion],
    ) -> Result<()> {
        let device = self.place.device;
        let longest = rows.iter().map(|(row, _)| row.most).max().unwrap_or(0);
        let (rows, places): (Vec<StepRow>, Vec<i64>) =
            rows.into_iter().map(|(row, place)| (row, place as i64)).unzip();
        let mut rows: Vec<Option<StepRow>> = rows.into_iter().map(Some).collect();
        let in_order = |count: usize| Tensor::arange(count as i64, (Kind::Int64, device));
        let places = upload(&places, device);
        let mut tokens = self.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
        // From the first step on, each row has its own logits.
        let mut places = in_order(rows.len());
        let mut leaving = false;
        for step in 0..longest {
            control.check()?;
            let last = step + 1 == longest;
            if !last && !leaving {
                generator.step_on_device(&tokens);
                tokens = self.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
            }
            for (row, draw) in zip_equal(&mut rows, self.take()) {
                let Some(of) = row else { continue };
                if !append(&mut completions[of.index], draw, of.most, stop)? {
                    *row = None;
                }
            }
            watch(completions)?;
            let alive: Vec<i64> =
                (0..).zip(&rows).filter(|(_, row)| row.is_some()).map(|(at, _)| at).collect();
            if alive.is_empty() {
                break;
            }
            if leaving && !last {
                // No launch is pending here, so none includes the rows that leave.
                generator.select(&alive);
                rows.retain(Option::is_some);
                places = in_order(rows.len());
                generator.step_on_device(&tokens.index_select(0, &upload(&alive, device)));
                tokens = self.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
            }
            leaving = !leaving && alive.len() <= generator.compaction_threshold(rows.len());
        }
        Ok(())
    }
}

/// The next uniform number of each row; 0 for a row that has ended.
fn uniforms(rows: &mut [Option<StepRow>]) -> Vec<f64> {
    rows.iter_mut().map(|row| row.as_mut().map_or(0.0, |row| row.uniforms.uniform())).collect()
}
