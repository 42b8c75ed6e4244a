//! `agreement`: the blocks, and a teacher's continuations from where they begin, against the models alone.

use super::debate::roomy;
use super::*;
use crate::compiled;
use crate::rollout::Sequence;
use crate::tokenizer::Token;

const SAMPLES: u32 = 3;

/// `omniopd` of the standard library with a teacher that only writes: completions of at most 6 tokens,
/// windows of `width` at two positions.
fn omniopd(width: u32, samples: u32, temperature: f64) -> Train<Objective> {
    let plan = compiled::plan(format!(
        "use std.omniopd.omniopd\n\
         experiment \"t\" {{ seed = 1 }}\n\
         domain d {{ prompts = \"d.jsonl\", reward = exact_match }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         teacher guide = base {{ answers = text }}\n\
         route {{ else -> guide }}\n\
         model student = distill(base) {{ objective = omniopd(pieces: 2, width: {width}, stay: 0.5, samples: {samples}, \
         prior: 2), reference = base, rollout = sample(n: 2, temperature: 1, max_tokens: 6), prompts = 5, steps = 4, \
         lr = 1e-3 }}\n"
    ));
    let Train { objective, .. } = compiled::train(&plan, "student").clone();
    Train {
        objective,
        rollout: Rollout::new(5, Producer::student(Sampling::new(2, temperature, 6))),
        ..train(mopd(1.0), 1)
    }
}

/// The same model with logits so large that it draws the most probable token.
fn decided(weights: &Arc<Weights>) -> Arc<Weights> {
    let entries = layout(&weights.config);
    let mut values = weights.values().into_owned();
    let norm = entries.iter().find(|entry| entry.name == "model.norm.weight").unwrap();
    values[norm.offset..norm.offset + norm.len()].iter_mut().for_each(|value| *value *= 1e5);
    Arc::new(weights.with_values(values))
}

fn prompt(stage: &Stage, sequence: &Sequence) -> Vec<Token> {
    sequence.prompt(&stage.sources).to_vec()
}

/// The most probable tokens after `before`.
fn greedy(model: &Reference, before: &[Token], most: usize) -> Vec<Token> {
    let mut written: Vec<Token> = Vec::new();
    while written.len() < most && !written.last().is_some_and(|last| Tokenizer::Bytes.is_end(*last)) {
        let logps = model.logps(before, &[written.as_slice(), &[0]].concat());
        let next = Vec::<i64>::try_from(logps.argmax(-1, false)).unwrap()[written.len()];
        written.push(next);
    }
    written
}

/// The characters of a text, and its bytes that belong to no character.
fn text(tokens: &[Token]) -> Vec<String> {
    let text = tokens.iter().copied().take_while(|token| !Tokenizer::Bytes.is_end(*token));
    let bytes: Vec<u8> = text.filter_map(|token| u8::try_from(token).ok()).collect();
    let (mut units, mut rest) = (Vec::new(), bytes.as_slice());
    while let Some(first) = rest.first() {
        let character = (1..=rest.len().min(4)).find(|most| std::str::from_utf8(&rest[..*most]).is_ok());
        let unit = match character {
            Some(most) => String::from_utf8(rest[..most].to_vec()).unwrap(),
            None => format!("byte {first}"),
        };
        rest = &rest[character.unwrap_or(1)..];
        units.push(unit);
    }
    units
}

/// The edit distance by its recursive definition, from the ends of both lists.
fn distance(one: &[String], other: &[String]) -> usize {
    match (one, other) {
        ([], rest) | (rest, []) => rest.len(),
        ([.., a], [.., b]) => {
            let (one_less, other_less) = (&one[..one.len() - 1], &other[..other.len() - 1]);
            let replaced = distance(one_less, other_less) + usize::from(a != b);
            replaced.min(distance(one_less, other) + 1).min(distance(one, other_less) + 1)
        }
    }
}

fn similarity(one: &[Token], other: &[Token]) -> f64 {
    let (one, other) = (text(one), text(other));
    let longer = one.len().max(other.len());
    if longer == 0 { 1.0 } else { 1.0 - distance(&one, &other) as f64 / longer as f64 }
}

/// The blocks of a completion: windows from the positions of largest entropy on, merged where they touch.
fn blocks(entropies: &[f64], most: usize, width: usize) -> Vec<std::ops::Range<usize>> {
    let mut order: Vec<usize> = (0..entropies.len()).collect();
    order.sort_by(|a, b| entropies[*b].total_cmp(&entropies[*a]));
    let mut inside = vec![false; entropies.len()];
    for first in order.into_iter().take(most) {
        inside.iter_mut().skip(first).take(width).for_each(|inside| *inside = true);
    }
    let mut blocks: Vec<std::ops::Range<usize>> = Vec::new();
    for token in (0..inside.len()).filter(|token| inside[*token]) {
        match blocks.last_mut() {
            Some(block) if block.end == token => block.end += 1,
            _ => blocks.push(token..token + 1),
        }
    }
    blocks
}

fn entropies(student: &Reference, prompt: &[Token], completion: &[Token]) -> Vec<f64> {
    let logps = student.logps(prompt, completion);
    Vec::try_from(-(logps.exp() * &logps).sum_dim_intlist([-1].as_slice(), false, Kind::Double)).unwrap()
}

fn evaluated(stage: &Stage) -> (f64, Vec<f32>, Rollouts, Batch) {
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let EvaluatedBatch { batch, outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let gradient = to_vec(&gradient.part(0..gradient.parameters()));
    (f64::from(outputs.get(stage.train.objective.loss)[0]), gradient, rollouts, batch)
}

fn agreements(batch: &Batch, samples: u32) -> Vec<f64> {
    let signal = Signal::Agreement { role: Role::TEACHER, samples };
    batch.signal(&signal).unwrap().iter().map(|value| f64::from(*value)).collect()
}

/// A teacher that writes the most probable tokens has the same similarity to a block in every sample. Loss
/// and gradient against float64, in micro-batches too.
#[test]
fn a_teacher_goes_on_from_where_blocks_begin() {
    let (fixture, mut weights) = (Fixture::new(), roomy());
    let plain: Vec<Arc<Weights>> = weights.clone();
    // The first teacher writes the student's most probable tokens, so it often agrees with the student.
    weights[1] = decided(&plain[0]);
    weights[2] = decided(&plain[2]);
    // The student samples at a low temperature, to agree with this teacher now and then.
    let train = omniopd(2, SAMPLES, 0.3);
    for micro_batch in [None, Some(3)] {
        let stage = Stage { micro_batch, ..fixture.stage(&train, ROUTED, &weights) };
        let (loss, gradient, rollouts, batch) = evaluated(&stage);
        let student = Reference::new(&weights[0]);
        let teachers = [0, 2].map(|model| Reference::new(&plain[model]));
        let found = agreements(&batch, SAMPLES);
        let runs = batch.layout.blocks.as_ref().unwrap();
        let (mut losses, mut seen, mut token) = (Vec::new(), Vec::new(), 0);
        for sequence in &rollouts.sequences.list {
            let (prompt, completion) = (prompt(&stage, sequence), &*sequence.completion);
            let logps = student.logps(&prompt, completion);
            let taken = logps.gather(1, &Tensor::from_slice(completion).unsqueeze(1), false).squeeze_dim(1);
            let mut sum = Tensor::from(0.0);
            // The student equals the reference here, so the anchor and its gradient are 0.
            for block in blocks(&entropies(&student, &prompt, completion), 2, 2) {
                let before = [prompt.as_slice(), &completion[..block.start]].concat();
                let written = greedy(&teachers[sequence.source], &before, block.len());
                let each = similarity(&completion[block.clone()], &written);
                let agreement = each * f64::from(SAMPLES);
                let got = found[runs.of_token[token + block.start] as usize];
                assert!((got - agreement).abs() < 1e-5, "{got} {agreement}");
                seen.push(each);
                let own = taken.narrow(0, block.start as i64, block.len() as i64);
                let guess = (own.mean(Kind::Double).exp() * 2.0 + agreement) / (f64::from(SAMPLES) + 2.0);
                sum -= guess.detach() * own.sum(Kind::Double);
            }
            token += completion.len();
            losses.push(sum);
        }
        assert!(seen.contains(&0.0), "{seen:?}");
        assert!(seen.iter().any(|each| *each > 0.0), "{seen:?}");
        let expected = Tensor::stack(&losses, 0).mean(Kind::Double);
        assert!((loss - expected.double_value(&[])).abs() < 1e-4, "{loss} {expected:?}");
        let apart = apart(&gradient, &student.gradient(&expected));
        assert!(apart < 1e-4, "{apart:e}");
    }
}

/// For blocks of one token, the share of samples that agree estimates the teacher's probability of that
/// token.
#[test]
fn continuations_are_drawn_from_the_teachers_own_distribution() {
    const MANY: u32 = 1500;
    let (fixture, mut weights) = (Fixture::new(), roomy());
    weights[1] = weights[0].clone();
    let train = omniopd(1, MANY, 1.0);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let (_, _, rollouts, batch) = evaluated(&stage);
    let [student, first, second] = [0, 1, 2].map(|model| Reference::new(&weights[model]));
    let (found, runs) = (agreements(&batch, MANY), batch.layout.blocks.as_ref().unwrap());
    let (mut token, mut checked, mut squares) = (0, 0, 0.0);
    for sequence in &rollouts.sequences.list {
        let (prompt, completion) = (prompt(&stage, sequence), &*sequence.completion);
        let teacher = [&first, &second][sequence.source];
        let logps = teacher.logps(&prompt, completion);
        for block in blocks(&entropies(&student, &prompt, completion), 2, 1) {
            let taken = completion[block.start];
            if block.len() == 1 && taken < 256 {
                let p = logps.double_value(&[block.start as i64, taken]).exp();
                let share = found[runs.of_token[token + block.start] as usize] / f64::from(MANY);
                let deviation = (p * (1.0 - p) / f64::from(MANY)).sqrt();
                assert!((share - p).abs() < 5.0 * deviation + 1e-3, "{share} {p}");
                squares += ((share - p) / deviation.max(1e-6)).powi(2);
                checked += 1;
            }
        }
        token += completion.len();
    }
    assert!(checked >= 5, "{checked} blocks of one token");
    assert!(squares / f64::from(checked) < 4.0, "{}", squares / f64::from(checked));
}

/// Random numbers differ by block, completion and step, and a run that was interrupted draws the same ones
/// again.
#[test]
fn a_stage_that_was_cut_draws_the_same() {
    let (fixture, weights) = (Fixture::new(), roomy());
    let mut train = omniopd(2, SAMPLES, 1.0);
    train.options.passes = 2;
    let stage = Stage { steps: 5, ..fixture.stage(&train, [averages(0), averages(2)], &weights) };
    resume::ends_the_same_wherever_it_is_cut("agreement", &stage);
    let stage = Stage { steps: 3, ..fixture.stage(&train, ROUTED, &weights) };
    resume::ends_the_same_wherever_it_is_cut("agreement with frozen teachers", &stage);
    let (_, rows) = trained_to_the_end(&stage);
    assert!(rows.iter().all(|row| row.agreement.is_some_and(|mean| (0.0..=1.0).contains(&mean))), "{rows:?}");
}

/// A teacher may fail while it writes, after all signals were checked. The weights before the step are kept,
/// as with any other number that is not finite.
#[test]
fn a_teacher_that_writes_nothing_finite_leaves_the_last_weights() {
    let (fixture, mut weights) = (Fixture::new(), roomy());
    for teacher in [1, 2] {
        let broken = vec![f32::NAN; weights[teacher].values().len()];
        weights[teacher] = Arc::new(weights[teacher].with_values(broken));
    }
    let train = omniopd(2, SAMPLES, 1.0);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let stopped = super::super::train(&stage, None).map(drop).unwrap_err();
    assert!(stopped.error.to_string().contains("not finite while sampling"), "{}", stopped.error);
    assert!(stopped.last_good.is_some());
}
