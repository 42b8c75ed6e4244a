//! [`super::sampler`] on the device of the logits, by a kernel or by libtorch's operators: only the drawn
//! tokens and their log-probabilities leave the device. It inverts the same cumulative distribution, summed
//! in f64 by the same pieces, so that a uniform number picks the same token, unless it falls within rounding
//! of the border between two.

use mopd_kernels::cuda::DrawKernel;
use mopd_plan::Sampling;
use tch::{Kind, Tensor, no_grad_guard};

use super::Author;
use super::host_sampler::VocabularyMask;
use super::sampler::{PIECE, SampledToken, bounded, scale};
use crate::machine::device::compiled;
use crate::machine::place::Place;
use crate::machine::transfer::upload;
use crate::model::ABSENT;
use crate::tokenizer::Token;

/// Whether the device supports these settings. The repetition penalty, `top_k` and `top_p` depend on earlier
/// tokens or on the order of entries, and run on the host.
fn draws(sampling: &Sampling) -> bool {
    sampling.repetition_penalty.is_none() && sampling.top_k.is_none() && sampling.top_p.is_none()
}

/// A vocabulary on the device of the logits: the first `count` entries without the absent ones.
pub struct DeviceVocabulary {
    count: usize,
    absent: Option<Tensor>,
}

impl DeviceVocabulary {
    /// The vocabulary for draws on the device of the author's model; `None` where the host draws.
    pub fn for_author(author: Author, sampling: &Sampling) -> Option<DeviceVocabulary> {
        let (place, tokens) = (author.model.place, VocabularyMask::new(author.model));
        let draws = place.loops().is_none() && author.guide.is_none() && draws(sampling);
        draws.then(|| DeviceVocabulary::new(tokens.count, tokens.absent, place))
    }

    fn new(count: usize, absent: &[Token], place: Place) -> DeviceVocabulary {
        let absent = (!absent.is_empty()).then(|| upload(absent, place.device));
        DeviceVocabulary { count, absent }
    }
}

/// Draws the next token of each row from `logits`, f32, `[.., entries]`. `places`, i64, are the rows' indices
/// into them, and `uniforms`, f64, their uniform numbers. Returns per row the token, its log-probability and
/// whether its logits are finite, f64, `[rows, 3]`.
pub fn launch(
    place: Place,
    logits: &Tensor,
    vocabulary: &DeviceVocabulary,
    temperature: f64,
    [places, uniforms]: [&Tensor; 2],
) -> Tensor {
    let _guard = no_grad_guard();
    let temperature = bounded(temperature);
    if let Some(absent) = &vocabulary.absent {
        let _ = logits.shallow_clone().index_fill_(1, absent, f64::from(ABSENT));
    }
    match place.kernels().and_then(|gpu| compiled(DrawKernel::compile(gpu, PIECE))) {
        Some(kernel) => kernel.draw(logits, vocabulary.count, temperature, places, uniforms),
        None => {
            let rows = logits.narrow(1, 0, vocabulary.count as i64).index_select(0, places);
            by_operators(&rows, temperature, uniforms)
        }
    }
}

/// Decodes the result of [`launch`], copied to the host. `None` where logits are not finite.
pub fn sampled(numbers: &[f64]) -> Vec<Option<SampledToken>> {
    let draw = |of: &[f64]| (of[2] != 0.0).then(|| SampledToken::new(of[0] as Token, of[1]));
    numbers.chunks_exact(3).map(draw).collect()
}

/// The tokens of the result of [`launch`], on its device: i64, `[rows]`.
pub fn tokens(drawn: &Tensor) -> Tensor {
    drawn.select(1, 0).to_kind(Kind::Int64)
}

/// As [`launch`], by libtorch's operators: `[rows, 3]`.
fn by_operators(rows: &Tensor, temperature: f64, uniforms: &Tensor) -> Tensor {
    let (device, count) = (rows.device(), rows.size()[1]);
    let finite = rows.isfinite().all_dim(1, false);
    let largest = rows.amax([1i64].as_slice(), true);
    let (token, logp) = if temperature == 0.0 {
        let entries = Tensor::arange(count, (Kind::Int64, device));
        // Ties go to the lowest entry.
        let token = entries.where_scalarother(&rows.eq_tensor(&largest), count).amin([1i64].as_slice(), true);
        (token, largest.zeros_like().to_kind(Kind::Double))
    } else {
        inverse(rows, &largest, temperature, &uniforms.unsqueeze(1))
    };
    Tensor::cat(&[token.to_kind(Kind::Double), logp, finite.to_kind(Kind::Double).unsqueeze(1)], 1)
}

/// The first entry whose cumulative mass exceeds the uniform number times the total, and its log-probability,
/// `[rows, 1]` each.
fn inverse(rows: &Tensor, largest: &Tensor, temperature: f64, uniforms: &Tensor) -> (Tensor, Tensor) {
    let [count, entries] = rows.size()[..] else { unreachable!("logits have rows and entries") };
    let weights = ((rows - largest) * f64::from(scale(temperature))).exp();
    let pieces = (entries as u64).div_ceil(PIECE as u64) as i64;
    let weights =
        weights.constant_pad_nd([0, pieces * PIECE as i64 - entries]).view([count, pieces, PIECE as i64]);
    let ends = weights.sum_dim_intlist([2i64].as_slice(), false, Kind::Double).cumsum(1, Kind::Double);
    let total = ends.narrow(1, pieces - 1, 1);
    let threshold = uniforms * &total;
    // Number of sums up to the threshold, which is the index of the first sum above it.
    let passed =
        |sums: &Tensor| sums.le_tensor(&threshold).sum_dim_intlist([1i64].as_slice(), true, Kind::Int64);
    let piece = passed(&ends).clamp_max(pieces - 1);
    let before = ends.gather(1, &(&piece - 1).clamp_min(0), false).masked_fill(&piece.eq(0), 0.0);
    let inside = piece.unsqueeze(2).expand([count, 1, PIECE as i64], false);
    let weights = weights.gather(1, &inside, false).squeeze_dim(1);
    let cumulative = weights.cumsum(1, Kind::Double) + before;
    // By rounding, no sum may be above the threshold at the end: take the last entry with mass.
    let places = Tensor::arange(PIECE as i64, (Kind::Int64, rows.device()));
    let last = places.where_scalarother(&weights.gt(0.0), 0).amax([1i64].as_slice(), true);
    let token = piece * PIECE as i64 + passed(&cumulative).minimum(&last);
    let logit = (rows.gather(1, &token, false) - largest).to_kind(Kind::Double);
    (token, logit / temperature - total.log())
}

#[cfg(test)]
mod tests {
    use super::super::sampler::{Scratch, draw as drawn_by_loops};
    use super::*;
    use crate::machine::transfer::to_vec_f64;
    use crate::random::{Key, Purpose};
    use crate::zip::zip_equal;

    /// [`launch`], followed by a wait for its result.
    fn draw(
        place: Place,
        logits: &Tensor,
        vocabulary: &DeviceVocabulary,
        temperature: f64,
        rows: impl Iterator<Item = (usize, f64)>,
    ) -> Vec<Option<SampledToken>> {
        let (places, uniforms): (Vec<i64>, Vec<f64>) =
            rows.map(|(place, uniform)| (place as i64, uniform)).unzip();
        if places.is_empty() {
            return Vec::new();
        }
        let (of_rows, of_uniforms) = (upload(&places, place.device), upload(&uniforms, place.device));
        let drawn = launch(place, logits, vocabulary, temperature, [&of_rows, &of_uniforms]);
        let draws = sampled(&to_vec_f64(&drawn));
        assert_eq!(draws.len(), places.len());
        draws
    }

    /// Logits of a few rows, padded beyond the tokens, with one token of negligible probability.
    fn logits(rows: usize, width: usize, seed: usize) -> Vec<f32> {
        let number = |at: usize| (((at + seed) * 7919 % 10_007) as f32 / 500.0) - 10.0;
        (0..rows * width).map(|at| if at % width == 3 { -1e4 } else { number(at) }).collect()
    }

    #[test]
    fn tokens_and_log_probabilities_are_those_of_the_loops() {
        let key = Key::new(1, 0, Purpose::Sample, 0);
        let (mut apart, mut scratch) = (0, Scratch::default());
        let shapes = [(300, 259), (256, 256), (2000, 1999), (7, 5), (50_000, 49_990)];
        let by = Place::tested().split_off(1);
        let cases = by.into_iter().flat_map(|place| shapes.map(|shape| (place, shape)));
        for (seed, (place, (width, count))) in cases.enumerate() {
            let numbers = logits(64, width, seed);
            let there = Tensor::from_slice(&numbers).view([64, width as i64]).to_device(place.device);
            for temperature in [0.0, 1e-40, 0.3, 1.0, 2.0] {
                let sampling = Sampling::new(1, temperature, 1);
                assert!(draws(&sampling));
                // Several rows may have the same place.
                let rows: Vec<usize> = (0..96).map(|row| row * 7 % 64).collect();
                let uniforms: Vec<f64> = (0..96).map(|row| key.row(row, 0).uniform()).collect();
                let vocabulary = DeviceVocabulary::new(count, &[], place);
                let got = draw(place, &there, &vocabulary, temperature, zip_equal(rows.clone(), uniforms));
                for ((row, at), got) in zip_equal((0..96).zip(rows), got) {
                    let own = &numbers[at * width..][..count];
                    let mut uniforms = key.row(row, 0);
                    let expected =
                        drawn_by_loops(own, &sampling, [&[], &[]], &mut uniforms, &mut scratch).unwrap();
                    let got = got.unwrap();
                    if got.token != expected.token {
                        apart += 1;
                        continue;
                    }
                    assert!((got.logp - expected.logp).abs() < 1e-6, "{got:?} {expected:?}");
                }
            }
        }
        // 2,400 draws at each place; one uniform number in millions falls on the border between two entries.
        assert_eq!(apart, 0);
    }

    #[test]
    fn masked_entries_are_not_drawn_and_nan_logits_are_reported() {
        for place in Place::tested().split_off(1) {
            let there = Tensor::from_slice(&[0.0f32, 9.0, 1.0, f32::NAN, 0.0, 0.0]).view([2, 3]);
            let there = there.to_device(place.device);
            let vocabulary = DeviceVocabulary::new(3, &[1], place);
            for temperature in [0.0, 1.0] {
                let rows = [(0, 0.999_999), (1, 0.5)].into_iter();
                let got = draw(place, &there, &vocabulary, temperature, rows);
                assert_eq!(got[0].unwrap().token, 2);
                assert_eq!(got[1], None);
            }
            assert!(draw(place, &there, &vocabulary, 1.0, std::iter::empty()).is_empty());
        }
    }
}
