//! Rows that all go on in step, where keys and values are tensors: those of a unit of prompts, then those of
//! the next.

use mopd_compiler::plan::Sampling;

use super::tensor_sampler::DeviceVocabulary;
use super::{
    Author, Completion, Drawer, MemoryBudget, Prompt, ROWS, Stop, Watch, ahead, append, drawer, units,
};
use crate::control::Control;
use crate::failure::Result;
use crate::model::{Decoder, Generator};
use crate::random::{Key, Uniforms};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// `sampling.n` completions of every prompt, those of a prompt adjacent.
pub fn rollout<'a>(
    author: impl Into<Author<'a>>,
    prompts: &[Prompt],
    (sampling, key): (&Sampling, Key),
    budget: MemoryBudget,
    control: &Control,
    watch: Watch,
) -> Result<Vec<Completion>> {
    let (author, n) = (author.into(), sampling.n.max(1) as usize);
    let mut completions = vec![Completion::default(); prompts.len() * n];
    let lengths = || prompts.iter().map(|prompt| prompt.tokens.len());
    let rows = rows_in_step(author, lengths().max().unwrap_or(0), sampling, budget);
    // The generator reads them in parts.
    let (order, units) = units(lengths(), n, rows, usize::MAX);
    for unit in units {
        write_unit(author, prompts, &order[unit], (sampling, key), (control, &mut *watch), &mut completions)?;
    }
    Ok(completions)
}

/// Rows that go on together, at most: as many as the budget has room for keys, values and logits of, in
/// powers of two, so that the last bits of results do not follow every byte that is free.
fn rows_in_step(author: Author, longest: usize, sampling: &Sampling, budget: MemoryBudget) -> usize {
    let bytes = |model: &Decoder| {
        let config = &*model.config;
        let of_token = 2 * config.layers * config.key_value_heads * config.head_width;
        let tokens = longest + sampling.max_tokens as usize;
        // Of the logits, those that are drawn from and what the draw makes of them.
        tokens * of_token * model.kind().elt_size_in_bytes() + 4 * config.vocabulary * size_of::<f32>()
    };
    let row = bytes(author.model) + author.guide.map_or(0, |guide| bytes(guide.model));
    let rows = (budget.0 / row.max(1)).clamp(1, ROWS);
    1 << rows.ilog2()
}

pub(super) struct StepRow {
    /// Index into the completions.
    pub(super) index: usize,
    pub(super) uniforms: Uniforms,
    pub(super) most: usize,
}

fn write_unit(
    author: Author,
    prompts: &[Prompt],
    unit: &[usize],
    (sampling, key): (&Sampling, Key),
    (control, watch): (&Control, Watch),
    completions: &mut [Completion],
) -> Result<()> {
    let n = sampling.n.max(1) as usize;
    let stop = Stop::new(&sampling.stop, &author.model.tokenizer);
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
    if let Some(vocabulary) = DeviceVocabulary::of(author, sampling) {
        let rows = zip_equal(rows, places).collect();
        let of_draws = (&vocabulary, sampling.temperature, &stop);
        return ahead::write(&mut generator, of_draws, rows, (control, watch), completions);
    }
    let mut drawer = Drawer::new(author);
    let mut width = rows.len();
    for step in 0..longest {
        control.check()?;
        let mut drawn = Vec::with_capacity(rows.len());
        for (StepRow { index, uniforms, .. }, &place) in zip_equal(&mut rows, &places) {
            let Completion { tokens, verdicts, .. } = &completions[*index];
            let seen = [prompts[*index / n].tokens, tokens.as_slice()];
            drawn.push(drawer::DrawRow { sampling, uniforms, place, seen, verdicts });
        }
        let draws = drawer.draw(&mut drawn, generator.logits(), guide.as_mut().map(Generator::logits));
        let mut inputs = vec![author.model.tokenizer.padding(); width];
        let (mut alive, mut alive_places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (number, ((row, place), draw)) in zip_equal(zip_equal(rows, places), draws).enumerate() {
            let completion = &mut completions[row.index];
            if !append(completion, draw, row.most, &stop)? {
                continue;
            }
            // After the first step, rows have places of their own.
            let place = if step == 0 { number } else { place };
            inputs[place] = completion.tokens[step];
            alive.push(row);
            alive_places.push(place);
        }
        watch(completions)?;
        (rows, places) = (alive, alive_places);
        if rows.is_empty() {
            break;
        }
        if rows.len() <= generator.compaction_threshold(width) {
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
