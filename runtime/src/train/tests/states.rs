//! States against double precision, computed from the signals and outputs of each step.

use mopd_plan::events::FailureKind;
use mopd_plan::{Axis, ModelSignal, Signal};

use super::*;

/// States that read each other, the losses of the current step and those of the previous one.
pub const MOVING: &str = "\
    state beta = 0.5 then clip(beta * where(gap > last, 1.5, 1 / 1.5), 0.001, 4)\n\
    state last = 0 then 0.9 * last + 0.1 * gap\n\
    let gap = mean(kl(teacher || student), over: batch)\n\
    state pace = 1 then 0.5 * pace + 0.5 * loss / previous(loss) + 0.1 * loss.a * beta\n\
    term a = -beta * live student.logp\n\
    term b = pace * live kl(teacher || student)";

/// A state that the stage's own rollout updates, and that a term on other completions reads.
pub const SHARED: &str = "\
    state beta = 0.5 then 0.9 * beta + 0.2 * mean(student.entropy, over: batch)\n\
    term a = -live student.logp { weight = beta }\n\
    term b = beta * live kl(teacher || student) { data = data(answer) }";

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

fn state(batch: &Batch, name: &str) -> f64 {
    f64::from(
        batch.signal(&Signal::State { name: name.to_owned(), axis: Axis::Run }).expect("it is supplied")[0],
    )
}

fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{what}: {got} {expected}");
}

/// The metrics of the first `steps` steps; `look` gets each step's batches and outputs.
fn rows(stages: &[Stage], steps: u32, mut look: impl FnMut(u32, &[Batch], &[Outputs])) -> Vec<StepMetrics> {
    let mut trainer = Trainer::with(stages, None, None).unwrap();
    let mut record = Record::default();
    for step in 0..steps {
        let rollouts = trainer.rollouts_of(step).unwrap();
        let evaluated = rollouts.iter().enumerate().map(|(part, rollouts)| {
            let evaluated = trainer.evaluate(part, rollouts, step).unwrap();
            (evaluated.batch, evaluated.outputs)
        });
        let (batches, outputs): (Vec<Batch>, Vec<Outputs>) = evaluated.unzip();
        look(step, &batches, &outputs);
        trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
    }
    record.rows
}

#[test]
fn all_states_move_at_the_end_of_a_step() {
    let fixture = Fixture::new();
    let weights = models(true);
    let objective = given::trained(MOVING).objective;
    let train = train(objective, 2);
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
        // The first step has no previous loss: its own loss is used.
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
    // The same step in micro-batches.
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
        let entropy = Signal::Of { role: mopd_plan::Role::Student, part: ModelSignal::Entropy };
        beta = 0.9 * beta + 0.2 * mean(first.signal(&entropy).unwrap());
    });
}

#[test]
fn a_state_that_is_not_finite_stops_the_stage() {
    let fixture = Fixture::new();
    let weights = models(true);
    // The state is 3, then 2, then 1, then 1 / 0.
    let objective = given::trained(
        "state far = 3 then where(far > 1, far - 1, 1 / (far - 1))\n\
         term a = -far * live student.logp",
    );
    let train = train(objective.objective, 1);
    let stopped = super::super::train(&fixture.stage(&train, ROUTED, &weights), None).map(drop).unwrap_err();
    let Error::Failed(failure) = &stopped.error else { panic!("{}", stopped.error) };
    assert_eq!((failure.kind, failure.step), (FailureKind::NonFinite, Some(2)));
    assert_eq!(failure.message, "the state `far` is inf after this step");
    assert!(stopped.last_good.is_some());
}

#[test]
fn a_checkpoint_has_them_by_name() {
    let objective = given::trained(MOVING).objective;
    let mut states = States::first([&objective], []);
    let mut bits = states.bits();
    let names: Vec<&str> = bits.keys().map(String::as_str).collect();
    assert_eq!(names, ["beta", "last", "pace"]);
    bits.insert("last".to_owned(), 2.5f64.to_bits());
    states.restore(&bits).unwrap();
    assert_eq!(states.values()["last"], 2.5);
    bits.remove("pace");
    assert_eq!(states.restore(&bits), Err("it has no state `pace`".to_owned()));
}

/// Two states with a number per domain, one of which reads their mean over the batch, and one of the run.
pub const BY_DOMAIN: &str = "\
    let far = mean(kl(teacher || student), over: domain)\n\
    state gap = 1 by domain then 0.5 * gap + 0.5 * far\n\
    state lead = 2 by domain then gap / mean(gap, over: batch) + 0.1 * last\n\
    state last = 0 then 0.5 * last + 0.5 * mean(kl(teacher || student), over: batch)\n\
    term a = -gap * live student.logp\n\
    term b = lead * live kl(teacher || student)";

fn of_domains(batch: &Batch, name: &str) -> Vec<f32> {
    let signal = Signal::State { name: name.to_owned(), axis: Axis::Domain };
    batch.signal(&signal).expect("it is supplied").to_vec()
}

/// The domain of each token.
fn domain_of_tokens(batch: &Batch) -> Vec<usize> {
    let layout = &batch.layout;
    let domains = layout.domains.as_ref().expect("there are two");
    let of =
        |sequence: &u32| domains.of_group[layout.group_of_sequence[*sequence as usize] as usize] as usize;
    layout.sequence_of_token.iter().map(of).collect()
}

#[test]
fn state_of_a_domain_stays_in_steps_without_the_domain() {
    let fixture = Fixture::new();
    let weights = models(true);
    // Batches of both domains, and of one domain at a time.
    for groups in [5, 1] {
        let objective = given::trained(BY_DOMAIN).objective;
        let rollout = Rollout::new(groups, Producer::data("answer"));
        let train = Train { rollout, ..train(objective, 1) };
        let stage = fixture.stage(&train, ROUTED, &weights);
        let (mut gap, mut lead, mut last) = ([1.0, 1.0], [2.0, 2.0], 0.0);
        let (mut expected, mut alone) = (Vec::new(), 0);
        let recorded = rows(std::slice::from_ref(&stage), 6, |step, batches, outputs| {
            let ([batch], [outputs]) = (batches, outputs) else { panic!("one part") };
            let of_token = domain_of_tokens(batch);
            for domain in 0..2 {
                close(of_domains(batch, "gap")[domain].into(), gap[domain], &format!("gap of step {step}"));
                close(of_domains(batch, "lead")[domain].into(), lead[domain], "lead");
            }
            close(state(batch, "last"), last, "last");
            expected.push([gap[0], gap[1], lead[0], lead[1], last]);
            // A token reads its domain's number.
            let live = &train.objective.live;
            let logp = live.iter().position(|live| live.primitive == plan::Live::Logp).unwrap();
            let terms = outputs.get(train.objective.terms[0].value);
            assert_eq!(terms.len(), of_token.len());
            for (token, (term, logp)) in zip_equal(terms, &batch.live[logp]).enumerate() {
                close((*term).into(), -gap[of_token[token]] * f64::from(*logp), "a term");
            }
            let far = batch
                .signals
                .iter()
                .find_map(|(signal, values)| matches!(signal, Signal::Divergence(_)).then_some(values))
                .unwrap();
            let (before, all) = (gap, (gap[0] + gap[1]) / 2.0);
            for domain in 0..2 {
                let own = zip_equal(&of_token, far).filter(|(of, _)| **of == domain);
                let own: Vec<f32> = own.map(|(_, far)| *far).collect();
                if own.is_empty() {
                    alone += 1;
                    continue;
                }
                gap[domain] = 0.5 * gap[domain] + 0.5 * mean(&own);
                lead[domain] = before[domain] / all + 0.1 * last;
            }
            last = 0.5 * last + 0.5 * mean(far);
        });
        assert_eq!(alone, if groups == 1 { 6 } else { 0 });
        assert!((gap[0] - gap[1]).abs() > 1e-3, "{gap:?}");
        for row in &recorded {
            let names = ["gap.copy", "gap.flip", "lead.copy", "lead.flip", "last"];
            assert_eq!(row.states.len(), names.len());
            for (name, value) in zip_equal(names, expected[row.step as usize]) {
                close(row.states[name], value, name);
            }
        }
    }
}

#[test]
fn a_checkpoint_has_them_by_domain() {
    let objective = given::trained(BY_DOMAIN).objective;
    let first = || States::first([&objective], ["copy", "flip"]);
    let mut states = first();
    let mut bits = states.bits();
    let names: Vec<&str> = bits.keys().map(String::as_str).collect();
    assert_eq!(names, ["gap.copy", "gap.flip", "last", "lead.copy", "lead.flip"]);
    bits.insert("gap.flip".to_owned(), 2.5f64.to_bits());
    states.restore(&bits).unwrap();
    assert_eq!((states.values()["gap.copy"], states.values()["gap.flip"]), (1.0, 2.5));
    bits.remove("lead.copy");
    assert_eq!(first().restore(&bits), Err("it has no state `lead.copy`".to_owned()));
}

/// A state that divides by 0 only for a domain without completions is not checked. For a domain with
/// completions, it stops the stage with an error that names the domain.
#[test]
fn a_number_that_is_not_finite_stops_the_stage_where_its_domain_comes() {
    let fixture = Fixture::new();
    let weights = models(true);
    let trained = |text: &str| {
        let rollout = Rollout::new(1, Producer::data("answer"));
        Train { rollout, ..train(given::trained(text).objective, 1) }
    };
    let absent = trained(
        "state far = 1 by domain then far / sum(where(student.logp < 0, 1, 1), over: domain)\n\
         term a = -far * live student.logp",
    );
    let stage = fixture.stage(&absent, ROUTED, &weights);
    assert!(super::super::train(&stage, None).is_ok());
    let present = trained(
        "state far = 1 by domain then where(far > 0, far - 1, 1 / sum(0 * student.logp, over: domain))\n\
         term a = -(1 + far) * live student.logp",
    );
    let stage = fixture.stage(&present, ROUTED, &weights);
    let stopped = super::super::train(&stage, None).map(drop).unwrap_err();
    let Error::Failed(failure) = &stopped.error else { panic!("{}", stopped.error) };
    // The first domain's second turn is the third step, the second one's would be the fourth.
    assert_eq!((failure.kind, failure.step), (FailureKind::NonFinite, Some(2)));
    assert!(failure.message.starts_with("the state `far` is "), "{}", failure.message);
    assert!(failure.message.ends_with(" for the domain `copy` after this step"), "{}", failure.message);
}

/// The settings of a stage with these `shares` of the domains.
pub fn sharing(shares: &str) -> Train<Objective> {
    let plan = crate::compiled::plan(format!(
        "experiment \"t\" {{ seed = 1 }}\n\
         domain copy {{ prompts = \"c.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         domain flip {{ prompts = \"f.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         teacher one = base\n\
         route {{ else -> one }}\n\
         objective o {{ {BY_DOMAIN}\n reduce = mean(token) then mean(sequence) }}\n\
         model student = distill(base) {{ objective = o, rollout = data(answer), \
         prompts = 5, steps = 10, lr = 1e-3, shares = {shares} }}\n"
    ));
    let read = crate::compiled::train(&plan, "student").clone();
    let (objective, shares) = (read.objective, read.shares);
    let rollout = Rollout::new(5, Producer::student(Sampling::new(1, 1.0, 6)));
    Train { shares, rollout, ..train(objective, 2) }
}

/// The number of prompts of each domain: the largest remainders of what each domain is owed, computed from
/// the recorded states.
#[test]
fn domains_come_by_their_shares() {
    let fixture = Fixture::new();
    let weights = models(true);
    let train = sharing("0.05 + 4 * progress * state.gap ^ 2");
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut counts = Vec::new();
    let recorded = rows(std::slice::from_ref(&stage), 4, |_, batches, _| {
        let of_group = &batches[0].layout.domains.as_ref().unwrap().of_group;
        counts.push([0, 1].map(|domain| of_group.iter().filter(|of| **of == domain).count()));
    });
    let (mut owed, mut whole) = ([0.0, 0.0], [0.0, 0.0]);
    for (step, counts) in counts.iter().enumerate() {
        // The second pass has the first one's batch.
        if step % 2 == 1 {
            assert_eq!(*counts, whole.map(|count| count as usize));
            continue;
        }
        let row = recorded.iter().find(|row| row.step as usize == step).unwrap();
        let share = ["gap.copy", "gap.flip"]
            .map(|name| 0.05 + 4.0 * step as f64 / f64::from(stage.steps) * row.states[name].powi(2));
        for domain in 0..2 {
            owed[domain] += 5.0 * share[domain] / (share[0] + share[1]);
        }
        whole = [0.0, 0.0];
        for _ in 0..5 {
            let most = usize::from(owed[1] > owed[0]);
            owed[most] -= 1.0;
            whole[most] += 1.0;
        }
        assert_eq!(*counts, whole.map(|count| count as usize), "step {step}, {share:?}");
    }
}

#[test]
fn shares_that_sum_to_zero_stop_the_stage() {
    let fixture = Fixture::new();
    let weights = models(true);
    for (shares, step, said) in [
        ("0 * state.gap", 0, "the `shares` of all domains add up to 0, so no prompt can be drawn"),
        (
            "where(state.gap > -1, 1 - step, 7)",
            2,
            "the share of the domain `copy` is -1; a share must be finite and at least 0",
        ),
        (
            "where(state.gap > -1, 1 / step, 7)",
            0,
            "the share of the domain `copy` is inf; a share must be finite and at least 0",
        ),
    ] {
        let train = sharing(shares);
        let stage = fixture.stage(&train, ROUTED, &weights);
        let stopped = super::super::train(&stage, None).map(drop).unwrap_err();
        let Error::Failed(failure) = &stopped.error else { panic!("{}", stopped.error) };
        assert_eq!((failure.kind, failure.step), (FailureKind::Runtime, Some(step)), "{shares}");
        assert_eq!(failure.message, said);
    }
}
