//! A second head, which predicts the token after the next one: its outputs, sampling with it, and its
//! training.

use super::half::{relative, rounded};
use super::*;
use crate::compiled;
use crate::rollout::Sequence;

/// Models whose second heads are not 0.
fn paired(tied: bool) -> Vec<Arc<Weights>> {
    let config = crate::model::Config { tied, second_head: true, ..tiny() };
    (0..3).map(|seed| Arc::new(random_model(&config, seed))).collect()
}

fn program(objective: &str, accept: f64) -> plan::Plan {
    compiled::plan(format!(
        r#"
use std.pipo.{{pipo_full, pipo_sampled}}
experiment "pairs" {{ seed = 1 }}
domain copy {{ prompts = "copy.jsonl", reward = exact_match }}
model base = llama {{ layers = 2, width = 8, heads = 2, context = 64, tokenizer = bytes }}
teacher one = base
route {{ else -> one }}
objective bare {{
  term pull = live kl(student || teacher)
  term sure = 0.5 * (1 - live student.confidence) {{ when = head == 1 }}
  reduce = mean(token) then mean(sequence)
}}
objective everywhere {{
  term sure = live bce(student.confidence, 0.5)
  reduce = mean(token) then mean(sequence)
}}
model student = distill(base) {{
  objective = {objective}
  rollout   = sample(n: 2, temperature: 0.8, max_tokens: 7, heads: 2, accept: {accept:?})
  prompts   = 7
  steps     = 4
  lr        = 1e-2
}}
"#
    ))
}

/// Logits in double precision at the tokens of a completion, `[tokens, vocabulary]`, each of the head that
/// wrote the token; and the log-odds that tokens of the second head are accepted.
fn by_heads(model: &Reference, prompt: &[Token], sequence: &Sequence) -> (Tensor, Tensor) {
    let completion = &sequence.completion;
    let hidden = model.hidden(prompt, completion);
    let heads = &sequence.completion.heads().unwrap();
    assert_eq!(heads.len(), completion.len());
    let (mut rows, mut odds) = (Vec::new(), Vec::new());
    for (place, head) in heads.iter().enumerate() {
        if *head == 0 {
            rows.push(hidden.get(place as i64));
            odds.push(Tensor::zeros([], (Kind::Double, Device::Cpu)));
            continue;
        }
        let first = hidden.get(place as i64 - 1);
        let read = model.part("model.embed_tokens").get(completion[place - 1]);
        let size = read.square().mean(Kind::Double) + model.weights.config.norm.epsilon;
        let both = Tensor::cat(&[&first, &(read / size.sqrt())], 0);
        let inner = model.part("second_head.input").mv(&both).silu();
        let second = first + model.part("second_head.output").mv(&inner);
        odds.push(second.dot(&model.part("second_head.confidence").view([-1])));
        rows.push(second);
    }
    let matrix = model.part(if model.weights.config.tied { "model.embed_tokens" } else { "lm_head" });
    let matrix = matrix.narrow(0, 0, model.weights.tokenizer.vocabulary() as i64);
    let logits = Tensor::stack(&rows, 0).matmul(&matrix.tr());
    (logits, Tensor::stack(&odds, 0))
}

/// The loss of one token, from the student's and the teacher's log-probabilities, the token, the head, and
/// the log-odds.
type Terms = fn(&Tensor, &Tensor, i64, u8, &Tensor) -> Tensor;

/// Binary cross-entropy from log-odds: -(y log c + (1 - y) log(1 - c)).
fn bce(odds: &Tensor, target: &Tensor) -> Tensor {
    let target = target.detach();
    let (stands, falls): (Tensor, Tensor) = (odds.log_sigmoid(), odds.neg().log_sigmoid());
    let other: Tensor = 1.0 - &target;
    (target * stands + other * falls).neg()
}

fn kl(student: &Tensor, teacher: &Tensor) -> Tensor {
    (student.exp() * (student - teacher)).sum(Kind::Double)
}

/// Terms of both heads and of the confidence, against double precision: tied and untied, in micro-batches
/// too. Means are taken over the tokens of each head, or over all tokens of a sequence.
#[test]
fn second_head_loss_and_gradient_equal_the_reference() {
    let cases: [(&str, Terms); 3] = [
        ("pipo_full", |student, teacher, _, head, odds| {
            let common = student.exp().minimum(&teacher.exp()).sum(Kind::Double);
            let sure = if head == 1 { bce(odds, &common) } else { odds.zeros_like() };
            kl(student, teacher) + sure
        }),
        ("pipo_sampled", |student, teacher, token, head, odds| {
            let (student, teacher) = (student.get(token), teacher.get(token));
            let accepted = (&teacher - &student).exp().clamp_max(1.0);
            let sure = if head == 1 { bce(odds, &accepted) } else { odds.zeros_like() };
            -(teacher - student.detach()) * student + sure
        }),
        ("bare", |student, teacher, _, head, odds| {
            let sure = if head == 1 { 0.5 * (1.0 - odds.sigmoid()) } else { odds.zeros_like() };
            kl(student, teacher) + sure
        }),
    ];
    let fixture = Fixture::new();
    for (name, terms) in cases {
        let plan = program(name, 0.4);
        let train = compiled::train(&plan, "student").clone();
        for tied in [true, false] {
            let models: Vec<Arc<Weights>> = paired(tied).iter().map(rounded).collect();
            let mut stage = fixture.stage(&train, ROUTED, &models);
            let (_, _, rollouts) = first_step(&stage);
            let student = Reference::new(&models[0]);
            let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
            let at = train.objective.temperature.constant().unwrap();
            let mut by_head = [Vec::new(), Vec::new()];
            let mut by_sequence = Vec::new();
            for sequence in &rollouts.sequences.list {
                let (prompt, completion) = (sequence.prompt(&stage.sources), &sequence.completion);
                let (logits, odds) = by_heads(&student, prompt, sequence);
                let teacher = teachers[sequence.source].logps(prompt, completion).detach();
                let mut of_sequence = Vec::new();
                for (place, (token, head)) in
                    zip_equal(&**completion, &sequence.completion.heads().unwrap()).enumerate()
                {
                    let row = place as i64;
                    let student = logits.get(row);
                    // Log-probabilities of tokens are at the policy's temperature, divergences at 1.
                    let scale = if name == "pipo_sampled" { at } else { 1.0 };
                    let [student, teacher] =
                        [student, teacher.get(row)].map(|of| (of / scale).log_softmax(-1, Kind::Double));
                    let term = terms(&student, &teacher, *token, *head, &odds.get(row));
                    by_head[usize::from(*head)].push(term.shallow_clone());
                    of_sequence.push(term);
                }
                by_sequence.push(Tensor::stack(&of_sequence, 0).mean(Kind::Double));
            }
            assert!(by_head.iter().all(|tokens| tokens.len() > 10), "tokens of both heads");
            let mean = |terms: &[Tensor]| Tensor::stack(terms, 0).mean(Kind::Double);
            let loss = match name {
                "bare" => mean(&by_sequence),
                // Each term is a mean over its own tokens; the confidence has those of the second head.
                _ => mean(&by_head[0]) + mean(&by_head[1]),
            };
            let gradient = student.gradient(&loss);
            let loss = loss.double_value(&[]);
            for micro_batch in [None, Some(1), Some(3)] {
                stage.micro_batch = micro_batch;
                let (got_loss, got, _) = first_step(&stage);
                let place = format!("{name}, {micro_batch:?}, tied {tied}");
                assert!((got_loss - loss).abs() < 5e-6 * loss.abs().max(1.0), "{place}: {got_loss} {loss}");
                let apart = apart(&got, &gradient);
                assert!(apart < 1e-5, "{place}: {apart:e}");
            }
            // The same tokens in half precision.
            let half = Stage { kind: Kind::BFloat16, ..stage.clone() };
            let trainer = Trainer::new(&half).unwrap();
            let EvaluatedBatch { outputs, gradient: got, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
            let got_loss = f64::from(outputs.get(train.objective.loss)[0]);
            assert!((got_loss - loss).abs() < 3e-2 * loss.abs().max(1.0), "{name}: {got_loss} {loss}");
            let apart = relative(&to_vec(&got.part(0..got.parameters())), &gradient);
            assert!(apart < 8e-2, "{name} in half, tied {tied}: {apart:e}");
        }
    }
}

/// Rows of different lengths, some of which get two tokens in steps where others get one. The sampler's
/// log-probabilities equal those of the tokens' heads in double precision, and second tokens are accepted
/// exactly where the confidence is high enough.
#[test]
fn tokens_are_drawn_by_the_heads_that_say_so() {
    let (fixture, models) = (Fixture::new(), paired(true));
    let mut shares = Vec::new();
    for accept in [0.0, 0.4, 0.5, 0.999_999] {
        let plan = program("pipo_full", accept);
        let train = compiled::train(&plan, "student").clone();
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let (mut seconds, mut all) = (0, 0);
        for step in 0..3 {
            let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
            assert_eq!(rollouts.sequences.list.len(), 14);
            for sequence in &rollouts.sequences.list {
                let prompt = sequence.prompt(&stage.sources);
                let (completion, heads) = (&sequence.completion, &sequence.completion.heads().unwrap());
                let (logits, _) = by_heads(&Reference::new(&models[0]), prompt, sequence);
                let logps = (logits / 0.8).log_softmax(-1, Kind::Double);
                let taken = logps.gather(1, &Tensor::from_slice(completion).unsqueeze(1), false);
                for (place, logp) in completion.logps().unwrap().iter().enumerate() {
                    let exact = taken.double_value(&[place as i64, 0]);
                    assert!((f64::from(*logp) - exact).abs() < 1e-5, "{place}: {logp} {exact}");
                }
                // Every first token but the last could have been followed by a second.
                for place in 0..completion.len() - 1 {
                    if heads[place] == 1 {
                        assert_eq!(heads[place + 1], 0);
                        continue;
                    }
                    let (tokens, logps) = (&completion[..place + 2], completion.logps().unwrap());
                    let heads_then = [&heads[..=place], &[1]].concat();
                    let completion = sampled(tokens, logps[..place + 2].to_vec(), Some(heads_then));
                    let longer = Sequence { completion, ..sequence.clone() };
                    let (_, odds) = by_heads(&Reference::new(&models[0]), prompt, &longer);
                    let confidence = odds.get(place as i64 + 1).sigmoid().double_value(&[]);
                    let stands = heads[place + 1] == 1;
                    assert_eq!(stands, confidence >= accept, "{confidence} at {accept}");
                }
                seconds += heads.iter().filter(|head| **head == 1).count();
                all += heads.len();
            }
        }
        shares.push(seconds as f64 / all as f64);
    }
    assert!(shares[0] > 0.4 && shares[3] == 0.0, "{shares:?}");
    assert!(shares[0] > shares[1] && shares[1] > shares[2] && shares[2] > 0.0, "{shares:?}");
}

/// A student without a second head gets one that leaves the first head unchanged, learns, reports its tokens
/// per step, and ends the same after interruptions at any step; a stage with one head drops it.
#[test]
fn a_head_begins_as_the_first_one_and_survives_a_cut() {
    let (fixture, models) = (Fixture::new(), models(false));
    let plan = program("pipo_full", 0.0);
    let train = compiled::train(&plan, "student").clone();
    let start = beginning(&train, &models[0], 1, 2);
    assert_eq!(*beginning(&train, &start, 5, 6).values(), *start.values(), "it has one already");
    let mut plain = train.clone();
    plain.rollout = Rollout::new(7, Producer::data("answer"));
    assert_eq!(*beginning(&plain, &start, 1, 2).values(), *models[0].values());
    let zeros = |name: &str| {
        let entries = layout(&start.config);
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        start.of(entry).iter().all(|number| *number == 0.0)
    };
    assert!(zeros("second_head.output.weight") && zeros("second_head.confidence.weight"));
    assert!(!zeros("second_head.input.weight"));

    let stage = Stage { start: start.clone(), ..fixture.stage(&train, ROUTED, &models) };
    let (through, rows) = trained_to_the_end(&stage);
    for entry in layout(&start.config) {
        let moved = (entry.offset..entry.offset + entry.len()).any(|at| through[at] != start.values()[at]);
        assert!(moved, "{}", entry.name);
    }
    assert!(rows.iter().all(|row| row.tokens_per_step.is_some_and(|tokens| tokens > 1.5 && tokens <= 2.0)));
    for cut in 1..4 {
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut record = Record::default();
        for step in 0..cut {
            trainer.step(step, &mut record).unwrap();
        }
        let state = trainer.state(cut, 0.0, record);
        let keep = |_: &TrainState| Ok(());
        let from = Some((state, RestoreMode::Resume));
        let checkpoints =
            Checkpoints { from, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep };
        let again = super::super::train(&stage, Some(checkpoints)).map_err(|stopped| stopped.error).unwrap();
        assert_eq!(*again.weights.values(), through, "{cut}");
    }
}

/// Tokens of the first head are always accepted: a cross-entropy of their confidence is an error.
#[test]
fn confidence_of_first_tokens_is_refused() {
    let (fixture, models) = (Fixture::new(), paired(true));
    let plan = program("everywhere", 0.4);
    let train = compiled::train(&plan, "student").clone();
    let stage = fixture.stage(&train, ROUTED, &models);
    let error = super::super::train(&stage, None).map(drop).unwrap_err().error.to_string();
    assert!(error.contains("`live student.confidence` of tokens of the first head"), "{error}");
}
