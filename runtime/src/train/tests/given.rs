//! Signals that are not computed from distributions: earlier losses, columns of the data, text between tags.

use mopd_plan::{DataFormula, PlainSignal, Signal, Term};

use super::*;
use crate::compiled;
use crate::store::state::LossesPosition;

pub fn trained(objective: &str) -> Train<Objective> {
    let plan = compiled::plan(format!(
        "experiment \"t\" {{ seed = 1 }}\n\
         domain d {{ prompts = \"d.jsonl\", format = text, reward = exact_match }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         teacher one = base\n\
         route {{ else -> one }}\n\
         objective o {{ {objective}\n reduce = mean(token) then mean(sequence) }}\n\
         model student = distill(base) {{ objective = o, rollout = data(other), prompts = 5, steps = 10, \
         lr = 1e-3 }}\n"
    ));
    compiled::train(&plan, "student").clone()
}

/// Two terms, weighted by the loss and by each other's loss. `own` is added to the first term's settings.
pub fn reads_losses(own: &str) -> Train<Objective> {
    trained(&format!(
        "weight = 0.5 + loss\n\
         term a = -live student.logp {{ weight = loss.b{own} }}\n\
         term b = live kl(teacher || student) {{ when = position > 0, weight = 2 - loss.a }}"
    ))
}

/// The mean of a number per token over tokens, then over sequences.
fn reduced(sequences: &Sequences, values: &[f32]) -> f64 {
    let mean = |sequence: usize| {
        let tokens = &values[sequences.tokens(sequence)];
        tokens.iter().map(|value| f64::from(*value)).sum::<f64>() / tokens.len() as f64
    };
    (0..sequences.list.len()).map(mean).sum::<f64>() / sequences.list.len() as f64
}

/// Step by step, the losses that the next step reads, and the losses computed from them.
#[test]
fn a_step_reads_the_losses_of_the_one_before() {
    let fixture = Fixture::new();
    let weights = models(true);
    for own in ["", ", data = data(answer)"] {
        let read = reads_losses(own);
        let (objective, own_data) = (read.objective, read.own_data);
        assert_eq!(own_data.len(), usize::from(!own.is_empty()));
        let rollout = Rollout::new(5, Producer::data("answer"));
        let train = Train { own_data, rollout, ..train(objective, 1) };
        let whole = fixture.stage(&train, ROUTED, &weights);
        let own_parts = train.own_parts();
        let stages = whole.parts(&own_parts);
        let mut trainer = Trainer::with(&stages, None, None).unwrap();
        let (mut total, mut of_terms) = (1.0, HashMap::from([("a", 1.0), ("b", 1.0)]));
        for step in 0..3 {
            let rollouts = trainer.rollouts_of(step).unwrap();
            let (mut next_total, mut next) = (0.0, HashMap::new());
            for (part, rollouts) in rollouts.iter().enumerate() {
                let sequences = &rollouts.sequences;
                let objective = &stages[part].train.objective;
                let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(part, rollouts, step).unwrap();
                let close = |got: f32, expected: f64| {
                    assert!((f64::from(got) - expected).abs() < 1e-5, "{step} {own}: {got} {expected}");
                };
                close(batch.signal(&Signal::Plain(PlainSignal::Loss)).unwrap()[0], total);
                for (term, loss) in &of_terms {
                    close(batch.signal(&Signal::TermLoss { term: (*term).into() }).unwrap()[0], *loss);
                }
                let loss = |term: &Term| {
                    let mut values = outputs.get(term.value).to_vec();
                    if term.name == "b" {
                        let firsts =
                            (0..sequences.list.len()).map(|sequence| sequences.tokens(sequence).start);
                        firsts.for_each(|first| values[first] = 0.0);
                    }
                    reduced(sequences, &values)
                };
                let mut whole = 0.0;
                for term in &objective.terms {
                    let (name, weight) = match term.name.as_str() {
                        "a" => ("a", of_terms["b"]),
                        _ => ("b", 2.0 - of_terms["a"]),
                    };
                    next.insert(name, loss(term));
                    whole += (0.5 + total) * weight * loss(term);
                }
                close(outputs.get(objective.loss)[0], whole);
                next_total += whole;
            }
            let (now, record) = (Instant::now(), &mut Default::default());
            trainer.update(rollouts, now, step, record).unwrap();
            (total, of_terms) = (next_total, next);
            assert_eq!(of_terms.len(), 2);
        }
    }
}

#[test]
fn a_step_with_nothing_to_train_on_leaves_the_losses() {
    let train = reads_losses("");
    let mut losses = Losses::first([&train.objective], ["sort"]);
    let first = losses.save();
    let numbers = [2.0f64, 0.5, f64::INFINITY].map(f64::to_bits).to_vec();
    losses.restore(&LossesPosition { losses: numbers, ..first }).unwrap();
    let before = losses.save();
    assert_eq!(losses.learn([(&train.objective, None)].into_iter()), 0.0);
    assert_eq!(losses.save(), before);
    let other = LossesPosition { losses: before.losses[..2].to_vec(), ..before };
    assert!(losses.restore(&other).is_err(), "of another objective");
}

/// A column of each completion's own row, and each token's position in the text.
#[test]
fn rows_and_tags_weigh_their_own_tokens() {
    let train = Train {
        objective: trained(
            "term t = -live student.logp { weight = data.level + where(data.kind == \"even\", 10, 0) + \
             where(span.think, 100, 0) }",
        )
        .objective,
        ..train(mopd(1.0), 1)
    };
    let fixture = Fixture::new();
    let numbers: Vec<DataFormula> = train.data_signals().into_iter().map(|(_, formula)| formula).collect();
    assert_eq!(numbers.len(), 2);
    let answers = ["<think>ab</think>c", "d", "e<think>f"];
    let mut prompts = Vec::new();
    for (domain, name) in ["copy", "flip"].into_iter().enumerate() {
        let rows: Vec<String> = (0..8)
            .map(|row| {
                let (answer, kind) = (answers[(row + domain) % 3], ["even", "odd"][row % 2]);
                let level = row + 20 * domain;
                serde_json::json!({ "prompt": name, "answer": answer, "level": level, "kind": kind })
                    .to_string()
            })
            .collect();
        let path = fixture.folder.path().join(format!("{name}.jsonl"));
        std::fs::write(&path, rows.join("\n")).unwrap();
        prompts.push(load_with(&path, &numbers));
    }
    let fixture = Fixture { prompts, ..fixture };
    let weights = models(true);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut seen = 0;
    for step in 0..3 {
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        let evaluated = trainer.evaluate(0, &rollouts, step).unwrap();
        let found = evaluated.outputs.get(train.objective.weight.unwrap());
        for (index, sequence) in rollouts.sequences.list.iter().enumerate() {
            let (row, domain) = (sequence.record, sequence.source);
            let of_row = (row + 20 * domain) as f32 + if row % 2 == 0 { 10.0 } else { 0.0 };
            let inside = [7..9, 0..0, 8..9][(row + domain) % 3].clone();
            let tokens = &found[rollouts.sequences.tokens(index)];
            assert_eq!(tokens.len(), answers[(row + domain) % 3].len() + 1);
            for (place, weight) in tokens.iter().enumerate() {
                // The end token is not part of the text.
                let inside = inside.contains(&place);
                assert_eq!(*weight, of_row + if inside { 100.0 } else { 0.0 }, "{sequence:?} {place}");
                seen += usize::from(inside);
            }
        }
    }
    assert!(seen > 10);
}
