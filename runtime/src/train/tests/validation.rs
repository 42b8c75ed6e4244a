//! The loss on validation rows, against the reference in double precision.

use mopd_plan::Validation;

use super::super::RestoreMode;
use super::super::batches::all_examples;
use super::*;
use crate::compiled;

/// A stage whose objective is weighted by its own validation loss. In the fixture, it validates on its
/// training rows.
pub fn validating(every: u32, rows: Option<u32>) -> Train<Objective> {
    let plan = compiled::plan(
        "experiment \"t\" { seed = 1 }\n\
         domain d { prompts = \"d.jsonl\", validation = \"v.jsonl\", format = text, reward = exact_match }\n\
         model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
         objective o {\n\
           weight = 0.5 + loss.validation + previous(loss.validation)\n\
           term a = -live student.logp\n\
           reduce = mean(token) then mean(sequence)\n\
         }\n\
         model student = sft(base, on: domains) {\n\
           target = answer, objective = o, batch = 5, steps = 10, lr = 1e-3\n\
           validate = validate(target: answer, every: 2)\n\
         }\n"
        .to_owned(),
    );
    let read = compiled::train(&plan, "student").clone();
    assert_eq!(
        read.options.validation,
        Some(Validation { target: "answer".to_owned(), every: 2, rows: None })
    );
    let validation = Some(Validation { target: "answer".to_owned(), every, rows });
    let mut train = train(read.objective, 1);
    (train.options.validation, train.scorers) = (validation, read.scorers);
    train
}

fn stage<'a>(fixture: &'a Fixture, train: &'a Train<Objective>, weights: &[Arc<Weights>]) -> Stage<'a> {
    let stage = fixture.stage(train, ROUTED, weights);
    Stage { validation: stage.sources.clone(), ..stage }
}

/// The mean of -log p over all tokens of the first rows of each domain.
fn expected(stage: &Stage, weights: Weights, rows: usize) -> f64 {
    let reference = Reference::new(&Arc::new(weights));
    let (mut sum, mut count) = (0.0, 0);
    for domain in all_examples(stage.texts(), "answer").unwrap() {
        for row in domain.into_iter().take(rows) {
            let logps = reference.logps(row.prompt(&stage.sources), &row.completion);
            let taken = logps.gather(1, &Tensor::from_slice(&row.completion).unsqueeze(1), false);
            sum -= taken.sum(Kind::Double).double_value(&[]);
            count += row.completion.len();
        }
    }
    sum / count as f64
}

/// The last validation loss, which was computed before `step`.
fn validated(trainer: &Trainer, step: u32) -> f64 {
    let (last, loss) = trainer.state(0, 0.0, Record::default()).position.hooks.validated.unwrap();
    assert_eq!(last, step);
    f64::from_bits(loss)
}

fn now(trainer: &Trainer) -> Weights {
    trainer.stage.start.with_values(trainer.student.trained.numbers(&trainer.student.model))
}

/// For all or some rows, in micro-batches too, with and without a domain's limit.
#[test]
fn validation_loss_is_the_mean_over_all_tokens() {
    let fixture = Fixture::new();
    let weights = models(true);
    for (rows, micro_batch, limit) in
        [(None, None, None), (None, Some(3), None), (Some(3), None, None), (Some(100), Some(1), Some(4))]
    {
        let train = validating(1, rows);
        let mut stage = Stage { micro_batch, ..stage(&fixture, &train, &weights) };
        stage.validation.iter_mut().for_each(|source| source.limit = limit);
        stage.sources = stage.validation.clone();
        let mut trainer = Trainer::new(&stage).unwrap();
        trainer.before_batch(0).unwrap();
        let got = validated(&trainer, 0);
        let expected = expected(&stage, (*weights[0]).clone(), rows.map_or(usize::MAX, |rows| rows as usize));
        assert!((got - expected).abs() < 1e-5, "{rows:?} {micro_batch:?} {limit:?}: {got} {expected}");
    }
}

/// The objective reads the last validation loss, and that of the previous step. The record has each loss at
/// its own step; checkpoints keep the last one.
#[test]
fn an_objective_reads_the_last_one() {
    let fixture = Fixture::new();
    let weights = models(true);
    let train = validating(2, None);
    let stage = stage(&fixture, &train, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    let (mut record, mut last, mut before) = (Record::default(), 0.0, None);
    for step in 0..5u32 {
        if step.is_multiple_of(2) {
            last = expected(&stage, now(&trainer), usize::MAX);
        }
        if step == 3 {
            let state = trainer.state(step, 0.0, Record::default());
            trainer = Trainer::new(&stage).unwrap();
            trainer.restore(&state, RestoreMode::Resume).unwrap();
            validated(&trainer, 2);
        }
        trainer.before_batch(step).unwrap();
        let rollouts = trainer.rollouts_of(step).unwrap();
        let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(0, &rollouts[0], step).unwrap();
        let read = f64::from(batch.signal(&Signal::ValidationLoss).unwrap()[0]);
        assert!((read - last).abs() < 1e-5, "{step}: {read} {last}");
        let sequences = &rollouts[0].sequences;
        let term = outputs.get(stage.train.objective.terms[0].value);
        let mean = |sequence: usize| {
            let tokens = &term[sequences.tokens(sequence)];
            tokens.iter().map(|value| f64::from(*value)).sum::<f64>() / tokens.len() as f64
        };
        let count = sequences.list.len();
        let term = (0..count).map(mean).sum::<f64>() / count as f64;
        let loss = (0.5 + last + before.unwrap_or(last)) * term;
        let got = f64::from(outputs.get(stage.train.objective.loss)[0]);
        assert!((got - loss).abs() < 1e-4 * loss.abs(), "{step}: {got} {loss}");
        before = Some(last);
        trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
        let row = record.rows.last().unwrap();
        assert_eq!(row.validation_loss.is_some(), step.is_multiple_of(2), "{step}");
        assert!(row.validation_loss.is_none_or(|loss| (loss - last).abs() < 1e-5));
    }
}

/// A fork computes its own validation loss.
#[test]
fn fork_computes_its_own_validation_loss() {
    let fixture = Fixture::new();
    let weights = models(true);
    let train = validating(100, None);
    let stage = stage(&fixture, &train, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.step(0, &mut Record::default()).unwrap();
    let state = trainer.state(1, 0.0, Record::default());
    let mut fork = Trainer::new(&stage).unwrap();
    fork.restore(&state, RestoreMode::Fork).unwrap();
    fork.before_batch(1).unwrap();
    let got = validated(&fork, 1);
    assert!((got - expected(&stage, now(&trainer), usize::MAX)).abs() < 1e-5);
    assert!((got - validated(&trainer, 0)).abs() > 1e-5, "the weights have moved");
}
