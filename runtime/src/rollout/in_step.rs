//! Rows that all go on in step, where keys and values are tensors: those of a unit of prompts, then those of
//! the next.

use mopd_compiler::plan::Sampling;

use super::{Author, Completion, Drawer, Prompt, append, drawer, units};
use crate::control::Control;
use crate::failure::Result;
use crate::model::Generator;
use crate::random::{Key, Uniforms};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// `sampling.n` completions of every prompt, those of a prompt adjacent.
pub fn rollout<'a>(
    author: impl Into<Author<'a>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    control: &Control,
) -> Result<Vec<Completion>> {
    let (author, n) = (author.into(), sampling.n.max(1) as usize);
    let mut completions = vec![Completion::default(); prompts.len() * n];
    let (order, units) = units(prompts.iter().map(|prompt| prompt.tokens.len()), n);
    for unit in units {
        together(author, prompts, &order[unit], (sampling, key), control, &mut completions)?;
    }
    Ok(completions)
}

struct StepRow {
    /// Index into the completions.
    index: usize,
    uniforms: Uniforms,
    most: usize,
}

fn together(
    author: Author,
    prompts: &[Prompt],
    unit: &[usize],
    (sampling, key): (&Sampling, Key),
    control: &Control,
    completions: &mut [Completion],
) -> Result<()> {
    let n = sampling.n.max(1) as usize;
    let mut drawer = Drawer::new(author, sampling);
    let row = |row: usize| {
        let (prompt, sample) = (unit[row / n], row % n);
        let most = sampling.max_tokens(prompts[prompt].limit) as usize;
        StepRow { index: prompt * n + sample, uniforms: prompts[prompt].uniforms(key, sample), most }
    };
    let mut rows: Vec<StepRow> = (0..unit.len() * n).map(row).collect();
    let longest = rows.iter().map(|row| row.most).max().unwrap_or(0);
    // Every prompt is read once; its samples start from the same logits.
    let tokens: Vec<&[Token]> = unit.iter().map(|&prompt| prompts[prompt].tokens).collect();
    let start = |model| Generator::start(model, &tokens, longest);
    let (mut generator, mut guide) = (start(author.model), author.guide.map(|guide| start(guide.model)));
    let select = |generator: &mut Generator, guide: &mut Option<Generator>, places: &[usize]| {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        generator.select(&places);
        guide.iter_mut().for_each(|guide| guide.select(&places));
    };
    // Where each row's logits are: the rows of a finished completion stay in the batch until enough of them
    // can leave.
    let mut places: Vec<usize> = (0..rows.len()).map(|row| row / n).collect();
    if n > 1 {
        select(&mut generator, &mut guide, &places);
    }
    let mut width = rows.len();
    for step in 0..longest {
        control.check()?;
        let mut drawn = Vec::with_capacity(rows.len());
        for (StepRow { index, uniforms, .. }, &place) in zip_equal(&mut rows, &places) {
            let Completion { tokens, verdicts, .. } = &completions[*index];
            let seen = [prompts[*index / n].tokens, tokens.as_slice()];
            drawn.push(drawer::DrawRow { uniforms, place, seen, verdicts });
        }
        let draws = drawer.draw(&mut drawn, generator.logits(), guide.as_mut().map(Generator::logits));
        let mut inputs = vec![author.model.tokenizer.padding(); width];
        let (mut alive, mut alive_places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (number, ((row, place), draw)) in zip_equal(zip_equal(rows, places), draws).enumerate() {
            let completion = &mut completions[row.index];
            if !append(completion, draw, row.most, &drawer)? {
                continue;
            }
            // After the first step, rows have places of their own.
            let place = if step == 0 { number } else { place };
            inputs[place] = completion.tokens[step];
            alive.push(row);
            alive_places.push(place);
        }
        (rows, places) = (alive, alive_places);
        if rows.is_empty() {
            break;
        }
        // Leaving costs a copy of the cache, staying costs computing for nothing.
        if rows.len() * 4 <= width * 3 {
            select(&mut generator, &mut guide, &places);
            inputs = places.iter().map(|&place| inputs[place]).collect();
            places = (0..rows.len()).collect();
            width = rows.len();
        }
        generator.step(&inputs);
        guide.iter_mut().for_each(|guide| guide.step(&inputs));
    }
    Ok(())
}
