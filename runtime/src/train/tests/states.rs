//! States against double precision, worked out from what each step read and answered.

use mopd_compiler::plan::Signal;
use mopd_compiler::plan::events::FailureKind;

use super::*;

/// They read each other, the losses of the step that ends and those of the one before.
pub const MOVING: &str = "\
    state beta = 0.5 then clip(beta * where(gap > last, 1.5, 1 / 1.5), 0.001, 4)\n\
    state last = 0 then 0.9 * last + 0.1 * gap\n\
    let gap = mean(kl(teacher || student), over: batch)\n\
    state pace = 1 then 0.5 * pace + 0.5 * loss / previous(loss) + 0.1 * loss.a * beta\n\
    term a = -beta * live student.logp\n\
    term b = pace * live kl(teacher || student)";

/// Moved by the completions of the stage's rollout, and read by a term on others.
pub const SHARED: &str = "\
    state beta = 0.5 then 0.9 * beta + 0.2 * mean(student.entropy, over: batch)\n\
    term a = -live student.logp { weight = beta }\n\
    term b = beta * live kl(teacher || student) { data = data(answer) }";

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

fn state(batch: &Batch, name: &str) -> f64 {
    f64::from(batch.signal(&Signal::State { name: name.to_owned() }).expect("it is supplied")[0])
}

fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{what}: {got} {expected}");
}

/// The rows of so many steps.
fn rows(stages: &[Stage], steps: u32, mut look: impl FnMut(u32, &[Batch], &[Outputs])) -> Vec<Row> {
    let mut trainer = Trainer::with(stages, None, None).unwrap();
    let mut record = Record::default();
    for step in 0..steps {
        let rollouts = trainer.rollouts_of(step).unwrap();
        let evaluated = rollouts.iter().enumerate().map(|(part, rollouts)| {
            let evaluated = trainer.evaluate(part, rollouts, step).map_err(|(error, _)| error).unwrap();
            (evaluated.batch, evaluated.outputs)
        });
        let (batches, outputs): (Vec<Batch>, Vec<Outputs>) = evaluated.unzip();
        look(step, &batches, &outputs);
        trainer.update(rollouts, Instant::now(), step, &mut record).map_err(|(error, _)| error).unwrap();
    }
    record.rows
}

#[test]
fn all_states_move_at_the_end_of_a_step() {
    let fixture = Fixture::new();
    let weights = models(true);
    let objective = given::trained(MOVING).objective;
    let train = Train { passes: 2, ..train(objective, 1) };
    let whole = fixture.stage(&train, ROUTED, &weights);
    let (mut beta, mut last, mut pace, mut before) = (0.5, 0.0, 1.0, None);
    let mut expected = Vec::new();
    let recorded = rows(std::slice::from_ref(&whole), 5, |step, batches, outputs| {
        let ([batch], [outputs]) = (batches, outputs) else { panic!("one part") };
        for (name, value) in [("beta", beta), ("last", last), ("pace", pace)] {
            close(state(batch, name), value, &format!("{name} of step {step}"));
        }
        expected.push([beta, last, pace]);
        let gap = batch
            .signals
            .iter()
            .find_map(|(signal, values)| matches!(signal, Signal::Divergence(_)).then(|| mean(values)));
        let (gap, objective) = (gap.unwrap(), &train.objective);
        let loss = f64::from(outputs.get(objective.loss)[0]);
        let of_a = f64::from(outputs.get(objective.term_losses[0].loss)[0]);
        assert_eq!((objective.term_losses.len(), objective.term_losses[0].term.as_str()), (1, "a"));
        // Nothing is before the first step: its own loss stands in.
        let next_pace = 0.5 * pace + 0.5 * loss / before.unwrap_or(loss) + 0.1 * of_a * beta;
        beta = (beta * if gap > last { 1.5 } else { 1.0 / 1.5 }).clamp(0.001, 4.0);
        last = 0.9 * last + 0.1 * gap;
        (pace, before) = (next_pace, Some(loss));
    });
    assert!(expected.iter().any(|of| of[0] > 0.5), "{expected:?}");
    for row in &recorded {
        let [beta, last, pace] = expected[row.step as usize];
        assert_eq!(row.states.len(), 3);
        for (name, value) in [("beta", beta), ("last", last), ("pace", pace)] {
            close(row.states[name], value, &format!("{name} in the record"));
        }
    }
    // In parts that go through the models one after the other it is the same step.
    let parts = Stage { micro_batch: Some(2), ..whole.clone() };
    let in_parts = rows(std::slice::from_ref(&parts), 5, |_, _, _| {});
    for (row, part) in zip_equal(&recorded, &in_parts) {
        for (name, value) in &row.states {
            close(part.states[name], *value, &format!("{name} of parts"));
        }
    }
}

#[test]
fn terms_on_other_completions_read_the_same_state() {
    let fixture = Fixture::new();
    let weights = models(true);
    let read = given::trained(SHARED);
    assert_eq!((read.objective.states.len(), read.own_data[0].objective.states.len()), (1, 0));
    let train = Train { own_data: read.own_data, ..train(read.objective, 1) };
    let whole = fixture.stage(&train, ROUTED, &weights);
    let own = train.own_parts();
    let mut beta = 0.5;
    rows(&whole.parts(&own), 3, |step, batches, _| {
        let [first, second] = batches else { panic!("two parts") };
        for batch in [first, second] {
            close(state(batch, "beta"), beta, &format!("beta of step {step}"));
        }
        let entropy = Signal::Entropy { role: mopd_compiler::plan::Role::Student };
        beta = 0.9 * beta + 0.2 * mean(first.signal(&entropy).unwrap());
    });
}

#[test]
fn a_state_that_is_not_finite_stops_the_stage() {
    let fixture = Fixture::new();
    let weights = models(true);
    // 3, then 2, then 1, then 1 / 0.
    let objective = given::trained(
        "state far = 3 then where(far > 1, far - 1, 1 / (far - 1))\n\
         term a = -far * live student.logp",
    );
    let train = train(objective.objective, 1);
    let stopped = super::super::train(&fixture.stage(&train, ROUTED, &weights), None).map(drop).unwrap_err();
    let Error::Failed(failure) = &stopped.error else { panic!("{}", stopped.error) };
    assert_eq!((failure.kind, failure.step), (FailureKind::NonFinite, Some(2)));
    assert_eq!(failure.message, "the state `far` would be inf in the next step");
    assert!(stopped.last_good.is_some());
}

#[test]
fn a_checkpoint_has_them_by_name() {
    let objective = given::trained(MOVING).objective;
    let mut states = crate::train::states::States::first([&objective]);
    let mut bits = states.bits();
    let names: Vec<&str> = bits.keys().map(String::as_str).collect();
    assert_eq!(names, ["beta", "last", "pace"]);
    bits.insert("last".to_owned(), 2.5f64.to_bits());
    states.restore(&bits).unwrap();
    assert_eq!(states.values()["last"], 2.5);
    bits.remove("pace");
    assert_eq!(states.restore(&bits), Err("it has no state `pace`".to_owned()));
}
