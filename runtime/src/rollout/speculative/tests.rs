//! Tests that trajectories are distributed as the teacher's, and rejected drafts as the student's.

use tch::Kind;

use super::super::sampler::{Scratch, weigh};
use super::*;
use crate::machine::place::Place;
use crate::model::tests::{random_model, tiny};
use crate::random::Purpose;
use crate::tokenizer::END;

const STUDENT: [f32; 6] = [1.0, -0.5, 2.0, -40.0, 0.3, 0.3];
const TEACHER: [f32; 6] = [-1.0, 1.5, 0.5, 0.5, -2.0, 0.3];

fn verification(block: u32) -> Verification {
    Verification { block, rejects: false }
}

/// Probabilities by definition, of at most `top` entries.
fn softmax(logits: &[f32], temperature: f64, top: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let weight = |entry: usize| {
        let within = order[..top.min(order.len())].contains(&entry);
        if within { (f64::from(logits[entry]) / temperature).exp() } else { 0.0 }
    };
    let weights: Vec<f64> = (0..logits.len()).map(weight).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// The sum of (found - expected)^2 / expected over possible entries, and the degrees of freedom. Impossible
/// entries must not occur.
fn chi_square(counts: &[u32], expected: &[f64]) -> (f64, usize) {
    let all: u32 = counts.iter().sum();
    let (mut sum, mut cells) = (0.0, 0);
    for (count, probability) in zip_equal(counts, expected) {
        let expected = f64::from(all) * probability;
        if *probability == 0.0 {
            assert_eq!(*count, 0, "an entry without probability");
        } else if expected > 1e-6 {
            sum += (f64::from(*count) - expected).powi(2) / expected;
            cells += 1;
        }
    }
    (sum, cells - 1)
}

/// The bound is about 5 standard deviations above the mean; the random numbers are fixed.
fn follows(counts: &[u32], expected: &[f64], what: &str) {
    let (found, degrees) = chi_square(counts, expected);
    let bound = degrees as f64 + 5.0 * (2.0 * degrees as f64).sqrt() + 10.0;
    assert!(found < bound, "{what}: {found} of {degrees} degrees of freedom, {counts:?}");
}

/// The tokens of a trajectory where both models always have the same distribution.
fn trajectory(
    logits: [&[f32]; 2],
    sampling: &Sampling,
    verification: Verification,
    length: usize,
) -> Vec<SampledToken> {
    let mut uniforms = Key::new(1, 0, Purpose::Sample, 0).row(0, 0);
    let mut scratch = [Scratch::default(), Scratch::default()];
    let mut residual = CombinedWeights::default();
    let (mut drawn, mut verdicts): (Vec<SampledToken>, Vec<DraftVerdict>) = Default::default();
    for _ in 0..length {
        let [own, teacher] = &mut scratch;
        let own = weigh(logits[0], sampling, [&[], &[]], own).unwrap();
        let teacher = weigh(logits[1], sampling, [&[], &[]], teacher).unwrap();
        let draw = verified(&own, &teacher, verification, &verdicts, &mut uniforms, &mut residual).unwrap();
        verdicts.push(draw.verdict.unwrap());
        drawn.push(draw);
    }
    drawn
}

#[test]
fn speculative_output_matches_the_teachers_distribution() {
    const LENGTH: usize = 60_000;
    for (temperature, top_k, block) in
        [(1.0, None, 1), (1.0, None, 4), (0.6, None, 4), (1.7, None, 16), (1.0, Some(3), 4), (0.0, None, 3)]
    {
        let sampling = Sampling { top_k, ..Sampling::new(1, temperature, 1) };
        let top = if temperature == 0.0 { 1 } else { top_k.map_or(6, |k| k as usize) };
        let shape = |logits: &[f32]| softmax(logits, if temperature == 0.0 { 1.0 } else { temperature }, top);
        let (q, p) = (shape(&STUDENT), shape(&TEACHER));
        let what = format!("temperature {temperature}, top_k {top_k:?}, block {block}");
        let drawn = trajectory([&STUDENT, &TEACHER], &sampling, verification(block), LENGTH);
        let mut counts = [0; 6];
        let mut rejected = [0; 6];
        for draw in &drawn {
            counts[draw.token as usize] += 1;
            let expected = p[draw.token as usize].ln();
            assert!((draw.logp - expected).abs() < 1e-6, "{what}: {draw:?}, {expected}");
            if let Some(DraftVerdict::Corrected { draft }) = draw.verdict {
                assert_ne!(draft, draw.token, "the teacher has no more of it than the student");
                rejected[draft as usize] += 1;
            }
        }
        follows(&counts, &p, &what);
        // A token is rejected in proportion to max(0, q - p).
        let surplus: Vec<f64> = zip_equal(&q, &p).map(|(q, p)| (q - p).max(0.0)).collect();
        let whole: f64 = surplus.iter().sum();
        let rejected_ones: u32 = rejected.iter().sum();
        if whole > 0.0 {
            follows(&rejected, &surplus.iter().map(|part| part / whole).collect::<Vec<_>>(), &what);
        }
        let verdicts: Vec<DraftVerdict> = drawn.iter().filter_map(|draw| draw.verdict).collect();
        let counted = DraftCounts::from_verdicts(&verdicts);
        assert_eq!((counted.rejected, verdicts.len()), (rejected_ones, LENGTH), "{what}");
        // The mean of min(1, p / q) over drafts is the sum of min(p, q).
        let verified = f64::from(counted.stood + counted.rejected);
        let (share, kept) = (f64::from(counted.stood) / verified, 1.0 - whole);
        let bound = 5.0 * (kept * whole / verified).sqrt() + 1e-12;
        assert!((share - kept).abs() <= bound, "{what}: {share}, {kept}");
        // Tokens per draft: (1 - a^(block + 1)) / (1 - a), eq. 1 of the paper.
        let per_block = LENGTH as f64 / f64::from(counted.blocks);
        let expected = (0..=block).map(|power| kept.powi(power as i32)).sum::<f64>();
        assert!((per_block / expected - 1.0).abs() < 0.05, "{what}: {per_block}, {expected}");
    }
}

#[test]
fn equal_models_accept_every_draft() {
    let sampling = Sampling { top_p: Some(0.9), ..Sampling::new(1, 0.8, 1) };
    let drawn = trajectory([&TEACHER, &TEACHER], &sampling, verification(3), 4000);
    for (place, draw) in drawn.iter().enumerate() {
        let expected = if place % 4 == 3 { DraftVerdict::Added } else { DraftVerdict::Stood };
        assert_eq!(draw.verdict, Some(expected));
    }
    let verdicts: Vec<DraftVerdict> = drawn[..6].iter().filter_map(|draw| draw.verdict).collect();
    assert_eq!(DraftCounts::from_verdicts(&verdicts), DraftCounts { blocks: 2, stood: 5, rejected: 0 });
}

/// If every draft is rejected, the teacher's draw works even where p - q is nowhere positive.
#[test]
fn forced_rejection_rejects_every_draft() {
    let rejects = Verification { block: 3, rejects: true };
    for student in [&STUDENT, &TEACHER] {
        let drawn = trajectory([student, &TEACHER], &Sampling::new(1, 1.0, 1), rejects, 200);
        assert!(drawn.iter().all(|draw| matches!(draw.verdict, Some(DraftVerdict::Corrected { .. }))));
    }
}

fn decoders(kind: Kind) -> [Decoder; 2] {
    [3, 5].map(|seed| {
        let weights = random_model(&tiny(), seed);
        let width = weights.config.width;
        let mut values = weights.values().into_owned();
        // Makes the end token frequent.
        values[END as usize * width..][..width].iter_mut().for_each(|value| *value *= 2.5);
        Decoder::frozen(&weights.with_values(values), Place::cpu(), kind)
    })
}

fn drafted(
    models: [&Decoder; 2],
    block: u32,
    prompts: &[Prompt],
    sampling: &Sampling,
) -> Vec<(Completion, Vec<RejectedTail>)> {
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let control = Control::new(std::io::sink());
    let budget = MemoryBudget(usize::MAX);
    speculative(models, verification(block), prompts, sampling, key, budget, &control).unwrap()
}

fn prompts(count: usize) -> Vec<Vec<Token>> {
    (0..count as i64).map(|i| (0..1 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect()
}

fn requests(prompts: &[Vec<Token>]) -> Vec<Prompt<'_>> {
    let numbered = prompts.iter().zip(0..);
    numbered.map(|(tokens, id)| Prompt { tokens, id, sample: 0, limit: (id % 3 == 0).then_some(9) }).collect()
}

/// By loops and by operators: a rejected draft ends with its block, the completion, or an end token.
#[test]
fn drafts_end_with_their_block_or_the_completion() {
    let (prompts, sampling) = (prompts(20), Sampling::new(3, 1.0, 12));
    let requests = requests(&prompts);
    for kind in [Kind::Float, Kind::Double] {
        let [student, teacher] = decoders(kind);
        for block in [1, 4, 30] {
            let drafted = drafted([&student, &teacher], block, &requests, &sampling);
            let (mut cut, mut whole, mut ended) = (0, 0, 0);
            for (index, (completion, rejected)) in drafted.iter().enumerate() {
                assert_eq!(completion.verdicts.len(), completion.tokens.len());
                let most = sampling.max_tokens(requests[index / 3].limit) as usize;
                let corrected = |verdict: &DraftVerdict| matches!(verdict, DraftVerdict::Corrected { .. });
                let places = (0..completion.tokens.len()).filter(|at| corrected(&completion.verdicts[*at]));
                assert!(places.eq(rejected.iter().map(|rejected| rejected.at)));
                for RejectedTail { at, tokens } in rejected {
                    let DraftVerdict::Corrected { draft } = completion.verdicts[*at] else { unreachable!() };
                    assert!(tokens[0] == draft && draft != completion.tokens[*at]);
                    let left = block as usize - accepted_tokens(&completion.verdicts[..*at]);
                    let room = left.min(most - at);
                    let ends = tokens.iter().position(|token| *token == END).map(|place| place + 1);
                    assert_eq!(tokens.len(), ends.unwrap_or(room).min(room));
                    ended += u32::from(ends.is_some());
                    cut += u32::from(most - at < left);
                    whole += u32::from(tokens.len() == left);
                }
            }
            assert!(ended > 0 && (block == 1 || cut > 0) && (block == 30 || whole > 0), "{kind:?}, {block}");
        }
        // With the student as its own teacher, nothing is rejected.
        let own = drafted([&student, &student], 4, &requests, &sampling);
        assert!(own.iter().all(|(_, rejected)| rejected.is_empty()));
    }
}

/// Drafts do not depend on what else is drawn.
#[test]
fn drafts_do_not_depend_on_the_batch() {
    let ([student, teacher], prompts) = (decoders(Kind::Float), prompts(20));
    let (requests, sampling) = (requests(&prompts), Sampling::new(2, 1.0, 12));
    let together = drafted([&student, &teacher], 5, &requests, &sampling);
    for (request, own) in requests.iter().zip(together.chunks(2)) {
        let alone = drafted([&student, &teacher], 5, &[*request], &sampling);
        for ((completion, rejected), (other, of_other)) in zip_equal(alone, own) {
            assert_eq!((&completion.tokens, &rejected), (&other.tokens, of_other));
        }
    }
    let first: Vec<&RejectedTail> = together.iter().flat_map(|(_, rejected)| rejected).collect();
    assert!(first.iter().any(|rejected| rejected.tokens.len() > 1));
}

/// The first tokens of many samples, with real models.
#[test]
fn trajectories_of_models_are_the_teacher_s() {
    let ([student, teacher], prompts) = (decoders(Kind::Float), prompts(1));
    let request = Prompt { tokens: &prompts[0], id: 0, sample: 0, limit: None };
    let drafted = drafted([&student, &teacher], 2, &[request], &Sampling::new(20_000, 1.0, 2));
    let mut generator = crate::model::Generator::start(&teacher, &[&prompts[0]], 1);
    let logits: Vec<f32> = generator.logits()[..teacher.tokenizer.vocabulary()].to_vec();
    let mut counts = vec![0; logits.len()];
    drafted.iter().for_each(|(completion, _)| counts[completion.tokens[0] as usize] += 1);
    follows(&counts, &softmax(&logits, 1.0, logits.len()), "first tokens");
}

/// A stop text also ends drafts, even if it began before the draft.
#[test]
fn texts_that_end_completions_end_drafts() {
    let ([student, teacher], prompts) = (decoders(Kind::Float), prompts(40));
    let requests = requests(&prompts);
    let plain = Sampling::new(4, 1.0, 12);
    let text = |tokens: &[Token]| student.tokenizer.decode(tokens).unwrap();
    // A pair of letters of which the second was drafted after the first.
    let all = drafted([&student, &teacher], 8, &requests, &plain);
    let pairs = all.iter().flat_map(|(completion, rejected)| {
        let pair = |RejectedTail { at, tokens }: &RejectedTail| {
            let before = *completion.tokens[..*at].last()?;
            let pair = text(&[before, tokens[0]]);
            (tokens.len() > 1 && pair.len() == 2 && pair.chars().all(|c| c.is_ascii_graphic()))
                .then_some(pair)
        };
        rejected.iter().filter_map(pair).collect::<Vec<_>>()
    });
    let pair = pairs.into_iter().next().expect("some draft begins with a letter behind a letter");
    let stopped = Sampling { stop: vec![pair.clone()], ..plain };
    let mut found = 0;
    for (completion, rejected) in drafted([&student, &teacher], 8, &requests, &stopped) {
        for RejectedTail { at, tokens } in rejected {
            let whole = [&completion.tokens[..at], &tokens].concat();
            found += u32::from(text(&whole).contains(&pair));
            assert!(!text(&whole[..whole.len() - 1]).contains(&pair), "nothing follows the text");
        }
    }
    assert!(found > 0);
}
