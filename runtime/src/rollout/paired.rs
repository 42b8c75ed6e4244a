//! Decoding of one or two tokens per step: a second head of the model predicts the token after the next one,
//! and a confidence that this token is right (arXiv:2605.27255).

use tch::{Kind, Tensor};

use super::{Completion, HostSampler, READ, ROWS, RolloutRequest, Stop, append, host_sampler, units};
use crate::control::Control;
use crate::failure::Result;
use crate::machine::transfer::to_vec;
use crate::machine::transfer::upload;
use crate::model::{Decoder, Generator};
use crate::random::Uniforms;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Samples the requested completions; those of a prompt are adjacent. A second token is drawn where its
/// confidence is at least `accept`.
pub fn rollout(
    decoder: &Decoder,
    request: &RolloutRequest,
    accept: f64,
    control: &Control,
) -> Result<Vec<Completion>> {
    let n = request.n();
    let mut completions = vec![Completion::default(); request.prompts.len() * n];
    let (order, units) = units(request.prompts.iter().map(|prompt| prompt.tokens.len()), n, ROWS, READ);
    for unit in units {
        let unit = Unit { decoder, request, unit: &order[unit], accept };
        unit.write(control, &mut completions)?;
    }
    Ok(completions)
}

/// Prompts whose rows advance in lockstep.
struct Unit<'a> {
    decoder: &'a Decoder,
    request: &'a RolloutRequest,
    /// Numbers of the prompts.
    unit: &'a [usize],
    accept: f64,
}

struct Row {
    /// Index into the completions.
    index: usize,
    uniforms: Uniforms,
    most: usize,
    /// Index of its logits and hidden state; at first, samples of a prompt share them.
    place: usize,
}

/// A row that goes on, with the tokens it drew in this step.
struct SampledRow {
    row: Row,
    first: Token,
    second: Option<Token>,
    ended: bool,
}

impl Unit<'_> {
    fn write(&self, control: &Control, completions: &mut [Completion]) -> Result<()> {
        let Unit { decoder, request, unit, .. } = *self;
        let RolloutRequest { prompts, sampling, key } = request;
        let n = request.n();
        let mut host_sampler = HostSampler::new(decoder.into());
        let row = |row: usize| {
            let (prompt, sample) = (unit[row / n], row % n);
            let most = sampling.max_tokens(prompts[prompt].limit) as usize;
            let uniforms = prompts[prompt].borrowed().uniforms(*key, sample);
            Row { index: prompt * n + sample, uniforms, most, place: row / n }
        };
        let mut rows: Vec<Row> = (0..unit.len() * n).map(row).collect();
        let mut width = unit.len();
        let longest = rows.iter().map(|row| row.most).max().unwrap_or(0);
        let tokens: Vec<&[Token]> = unit.iter().map(|&prompt| prompts[prompt].tokens.as_slice()).collect();
        // A step takes two entries of the cache, whether it draws one token or two.
        let mut generator = Generator::start(decoder, &tokens, 2 * longest);
        loop {
            control.check()?;
            let hidden = generator.hidden();
            let places: Vec<usize> = rows.iter().map(|row| row.place).collect();
            let of = rows.iter_mut().collect();
            let goes_on = self.draw(&mut host_sampler, of, &places, 0, generator.logits(), completions)?;
            let going = zip_equal(rows, goes_on).filter(|(_, goes_on)| *goes_on);
            let mut drawn: Vec<SampledRow> = going
                .map(|(row, _)| {
                    let first = *completions[row.index].tokens.last().expect("a token was drawn");
                    SampledRow { row, first, second: None, ended: false }
                })
                .collect();
            self.draw_seconds(&mut host_sampler, &mut drawn, &hidden, completions)?;
            drawn.retain(|drawn| !drawn.ended);
            if drawn.is_empty() {
                return Ok(());
            }
            let places: Vec<i64> = drawn.iter().map(|drawn| drawn.row.place as i64).collect();
            if !places.iter().copied().eq(0..width as i64) {
                generator.select(&places);
                width = places.len();
            }
            let (firsts, seconds): (Vec<Token>, Vec<Option<Token>>) =
                drawn.iter().map(|drawn| (drawn.first, drawn.second)).unzip();
            generator.step_pairs(&firsts, &seconds);
            let placed = drawn.into_iter().enumerate();
            rows = placed.map(|(place, drawn)| Row { place, ..drawn.row }).collect();
        }
    }

    /// Draws the second token of the rows whose confidence is high enough. `hidden` holds the states from
    /// which their first tokens were predicted.
    fn draw_seconds(
        &self,
        host_sampler: &mut HostSampler,
        drawn: &mut [SampledRow],
        hidden: &Tensor,
        completions: &mut [Completion],
    ) -> Result<()> {
        if drawn.is_empty() {
            return Ok(());
        }
        let tensor = |numbers: Vec<i64>| upload(&numbers, self.decoder.device());
        let places = tensor(drawn.iter().map(|drawn| drawn.row.place as i64).collect());
        let firsts = tensor(drawn.iter().map(|drawn| drawn.first).collect());
        let (second, odds) = self.decoder.second(&hidden.index_select(0, &places), &firsts);
        let confident = |odds: &f32| 1.0 / (1.0 + f64::from(-odds).exp()) >= self.accept;
        let stands: Vec<bool> = to_vec(&odds).iter().map(confident).collect();
        let numbers: Vec<i64> =
            (0..).zip(&stands).filter(|(_, stands)| **stands).map(|(row, _)| row).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let second = second.index_select(0, &tensor(numbers));
        let mut logits = to_vec(&self.decoder.capped_logits(&second).to_kind(Kind::Float));
        let mut standing: Vec<&mut SampledRow> =
            zip_equal(drawn, stands).filter(|(_, stands)| *stands).map(|(drawn, _)| drawn).collect();
        let places: Vec<usize> = (0..standing.len()).collect();
        let rows = standing.iter_mut().map(|drawn| &mut drawn.row).collect();
        let goes_on = self.draw(host_sampler, rows, &places, 1, &mut logits, completions)?;
        for (drawn, goes_on) in zip_equal(standing, goes_on) {
            drawn.second = completions[drawn.row.index].tokens.last().copied();
            drawn.ended = !goes_on;
        }
        Ok(())
    }

    /// Draws a token of every row from the logits at its place, and records `head`. Returns which rows go on.
    fn draw(
        &self,
        host_sampler: &mut HostSampler,
        mut rows: Vec<&mut Row>,
        places: &[usize],
        head: u8,
        logits: &mut [f32],
        completions: &mut [Completion],
    ) -> Result<Vec<bool>> {
        let RolloutRequest { prompts, sampling, .. } = self.request;
        let n = self.request.n();
        let mut drawing = Vec::with_capacity(rows.len());
        for (row, &place) in zip_equal(&mut rows, places) {
            let Completion { tokens, verdicts, .. } = &completions[row.index];
            let seen = [prompts[row.index / n].tokens.as_slice(), tokens.as_slice()];
            let uniforms = &mut row.uniforms;
            drawing.push(host_sampler::DrawRow { sampling, uniforms, place, seen, verdicts });
        }
        let draws = host_sampler.draw(&mut drawing, logits, None);
        let stop = Stop::new(&sampling.stop, &self.decoder.tokenizer);
        let mut goes_on = Vec::with_capacity(rows.len());
        for (row, draw) in zip_equal(rows, draws) {
            let completion = &mut completions[row.index];
            goes_on.push(append(completion, draw, row.most, &stop)?);
            completion.heads.push(head);
        }
        Ok(goes_on)
    }
}
