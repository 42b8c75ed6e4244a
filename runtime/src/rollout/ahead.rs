//! Rows that go on in step, whose tokens are drawn where the model is: the next step is launched before the
//! host has seen what was drawn for this one, so that the device never waits for the host.

use tch::{Kind, Tensor};

use super::in_step::StepRow;
use super::sampler::SampledToken;
use super::tensor_sampler::{self, DeviceVocabulary};
use super::{Completion, Stop, Watch, append};
use crate::control::Control;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::machine::transfer::{StagingBuffer, upload};
use crate::model::Generator;
use crate::zip::zip_equal;

/// Draws that were launched, of which the host has seen all but the last two.
struct Draws<'a> {
    place: Place,
    vocabulary: &'a DeviceVocabulary,
    temperature: f64,
    /// Used in turn.
    staging: [Staging; 2],
    launched: usize,
    taken: usize,
}

struct Staging {
    uniforms: StagingBuffer,
    drawn: StagingBuffer,
}

impl Draws<'_> {
    /// Draws for each row by its place among the logits, i64, and its uniform number: the tokens, i64,
    /// `[rows]`, where they are.
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

    /// The first of what was launched and not taken.
    fn take(&mut self) -> Vec<Option<SampledToken>> {
        let numbers = self.staging[self.taken % 2].drawn.take();
        self.taken += 1;
        tensor_sampler::sampled(&numbers)
    }
}

/// Goes on with rows that begin at the generator's `logits`, each at its place. A row that has ended stays,
/// and draws for nothing, until enough can leave.
pub(super) fn write(
    generator: &mut Generator,
    (vocabulary, temperature, stop): (&DeviceVocabulary, f64, &Stop),
    rows: Vec<(StepRow, usize)>,
    (control, watch): (&Control, Watch),
    completions: &mut [Completion],
) -> Result<()> {
    let place = generator.place();
    let longest = rows.iter().map(|(row, _)| row.most).max().unwrap_or(0);
    let staging = || Staging { uniforms: StagingBuffer::new(place), drawn: StagingBuffer::new(place) };
    let mut draws =
        Draws { place, vocabulary, temperature, staging: [staging(), staging()], launched: 0, taken: 0 };
    let (rows, places): (Vec<StepRow>, Vec<i64>) =
        rows.into_iter().map(|(row, place)| (row, place as i64)).unzip();
    let mut rows: Vec<Option<StepRow>> = rows.into_iter().map(Some).collect();
    let in_order = |count: usize| Tensor::arange(count as i64, (Kind::Int64, place.device));
    let places = upload(&places, place.device);
    let mut tokens = draws.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
    // From the first step on, rows have logits of their own.
    let mut places = in_order(rows.len());
    let mut leaving = false;
    for step in 0..longest {
        control.check()?;
        let last = step + 1 == longest;
        if !last && !leaving {
            generator.step_on_device(&tokens);
            tokens = draws.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
        }
        for (row, draw) in zip_equal(&mut rows, draws.take()) {
            let Some(of) = row else { continue };
            if !append(&mut completions[of.index], draw, of.most, stop)? {
                *row = None;
            }
        }
        watch(completions)?;
        let alive: Vec<i64> = (0..).zip(&rows).filter(|(_, row)| row.is_some()).map(|(at, _)| at).collect();
        if alive.is_empty() {
            break;
        }
        if leaving && !last {
            // Nothing is pending, so that nothing is drawn for those that leave.
            generator.select(&alive);
            rows.retain(Option::is_some);
            places = in_order(rows.len());
            generator.step_on_device(&tokens.index_select(0, &upload(&alive, place.device)));
            tokens = draws.launch(generator.logits_on_device(), &places, &uniforms(&mut rows));
        }
        leaving = !leaving && alive.len() <= generator.compaction_threshold(rows.len());
    }
    Ok(())
}

/// The next uniform number of each row; any of one that has ended.
fn uniforms(rows: &mut [Option<StepRow>]) -> Vec<f64> {
    rows.iter_mut().map(|row| row.as_mut().map_or(0.0, |row| row.uniforms.uniform())).collect()
}
