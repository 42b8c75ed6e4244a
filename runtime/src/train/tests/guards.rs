//! Guards: the values that they read, the steps at which they act, and that interruptions change neither.

use std::io::Write;
use std::sync::Mutex;

use mopd_plan::events::FailureKind;
use mopd_plan::{Guard, GuardAction};

use super::super::guards::{GuardedStage, Guards};
use super::super::{Checkpoints, Pace};
use super::resume::finished_in_turns;
use super::*;
use crate::compiled;
use crate::store::Store;

/// Compiles guards of a stage with the fixture's domains.
pub fn guards(written: &str) -> Vec<Guard> {
    let plan = compiled::plan(format!(
        "experiment \"t\" {{ seed = 1 }}\n\
         domain copy {{ prompts = \"a.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         domain flip {{ prompts = \"b.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         teacher one = base\n\
         route {{ else -> one }}\n\
         objective o {{ term a = -clip(student.logp - teacher.logp, -1, 1) * live student.logp\n \
         reduce = mean(token) then mean(sequence) }}\n\
         model student = distill(base) {{ objective = o, rollout = sample(n: 1, temperature: 1.0, max_tokens: 4), prompts = 5, \
         steps = 10, lr = 1e-3, guards = [{written}] }}\n"
    ));
    compiled::train(&plan, "student").guards.clone()
}

/// Collects the events.
#[derive(Clone, Default)]
struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl CapturedOutput {
    fn times(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(text).count()
    }
}

/// Steps with these two rows: `copy` has a fifth of the completions and a quarter of the tokens.
fn rows(steps: &[[Option<f64>; 2]], number: fn(&mut StepMetrics) -> &mut Option<f64>) -> Vec<StepMetrics> {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(mopd(1.0), 1);
    let (_, trained) = trained_to_the_end(&fixture.stage(&train, ROUTED, &models));
    let of = |(step, values): (usize, &[Option<f64>; 2])| {
        [("copy", 0.2, 0.25), ("flip", 0.8, 0.75)]
            .into_iter()
            .zip(*values)
            .map(move |((name, prompts, tokens), value)| (step, name, prompts, tokens, value))
    };
    let mut made = Vec::new();
    for (step, domain, prompt_share, token_share, value) in steps.iter().enumerate().flat_map(of) {
        let mut row = StepMetrics {
            step: step as u32,
            domain: domain.to_owned(),
            prompt_share,
            token_share,
            ..trained[0].clone()
        };
        *number(&mut row) = value;
        made.push(row);
    }
    made
}

/// The steps after which a guard acts, and the values that it read.
fn acts(written: &str, rows: &[StepMetrics]) -> Vec<(u32, String)> {
    let guarded = Train { guards: guards(written), ..train(mopd(1.0), 1) };
    let stage = GuardedStage { name: "student", seed: 1, steps: 10, train: &guarded, turn: None, from: 0 };
    let mut guards = Guards::new(stage);
    guards.replay(rows);
    guards.take_triggered().iter().map(|triggered| (triggered.step, triggered.record().numbers)).collect()
}

fn steps_of(written: &str, rows: &[StepMetrics]) -> Vec<u32> {
    acts(written, rows).into_iter().map(|(step, _)| step).collect()
}

/// By hand: 0.25 * 4 + 0.75 * 2 = 2.5 by tokens, 0.2 * 4 + 0.8 * 2 = 2.4 by completions.
#[test]
fn guards_combine_rows_into_the_metrics_of_the_step() {
    let both = [[Some(4.0), Some(2.0)]];
    let entropy = rows(&both, |row| &mut row.entropy);
    assert_eq!(acts("warn(entropy > 2.4999)", &entropy), [(0, "entropy = 2.5000".to_owned())]);
    assert!(acts("warn(entropy > 2.5)", &entropy).is_empty());
    assert_eq!(acts("warn(entropy > 3, on: copy)", &entropy), [(0, "entropy = 4.0000".to_owned())]);
    assert_eq!(acts("warn(entropy > 3, on: domains)", &entropy).len(), 1);
    let length = rows(&both, |row| &mut row.length);
    assert_eq!(acts("warn(length > 0 tokens)", &length), [(0, "length = 2.4000".to_owned())]);
    let shares = acts("warn(token_share < 0.5, on: copy)", &entropy);
    assert_eq!(shares, [(0, "token_share = 0.2500".to_owned())]);
    // A domain without completions in the step.
    let copy: Vec<StepMetrics> = entropy.iter().filter(|row| row.domain == "copy").cloned().collect();
    assert_eq!(acts("warn(token_share < 0.1, on: flip)", &copy).len(), 1);
    // A step without tokens has no loss and no shares, and its gradient is only noise.
    let mut idle = entropy.clone();
    for row in &mut idle {
        (row.token_share, row.loss, row.gradient_norm) = (0.0, 0.0, 3.0);
    }
    for guard in ["warn(loss < 1)", "warn(token_share < 1, on: copy)"] {
        assert!(acts(guard, &idle).is_empty(), "{guard}");
    }
    assert_eq!(acts("warn(gradient_norm > 2)", &idle).len(), 1);
    // A row without the number does not count.
    let one = rows(&[[None, Some(2.0)]], |row| &mut row.reward);
    assert_eq!(acts("warn(reward > 1)", &one), [(0, "reward = 2.0000".to_owned())]);
    let none = rows(&[[Some(f64::NAN), None]], |row| &mut row.reward);
    assert!(acts("warn(reward > 1)", &none).is_empty() && acts("warn(reward <= 1)", &none).is_empty());
}

#[test]
fn a_guard_acts_each_time_that_it_comes_to_hold_and_lowering_each_time_anew() {
    let values = [1.0, 5.0, 5.0, 5.0, 5.0, 1.0, 5.0, 5.0];
    let rows = |values: &[f64]| {
        let values: Vec<_> = values.iter().map(|value| [Some(*value); 2]).collect();
        rows(&values, |row| &mut row.entropy)
    };
    let seen = rows(&values);
    assert_eq!(steps_of("warn(entropy > 3)", &seen), [1, 6]);
    assert_eq!(steps_of("warn(entropy > 3, for: 2 steps)", &seen), [2, 7]);
    assert_eq!(steps_of("stop(entropy > 3, for: 4 steps)", &seen), [4]);
    assert_eq!(steps_of("lower_lr(entropy > 3, by: 0.5, for: 2 steps)", &seen), [2, 4, 7]);
    assert_eq!(steps_of("warn(entropy > 4 * initial(entropy))", &seen), [1, 6]);
    // (1 + 5) / 2 = 3
    assert_eq!(steps_of("warn(entropy > 1.5 * initial(entropy, steps: 2))", &seen), [1, 6]);
    // The last three steps: from step 2 on, their means are 11/3, 5, 5, 11/3, 11/3, 11/3.
    assert_eq!(steps_of("warn(recent(entropy, steps: 3) > 4)", &seen), [3]);
    assert_eq!(steps_of("warn(entropy > 3 and step > 2 and not (progress > 0.5))", &seen), [3]);
    // A step without the metric does not count, and does not interrupt consecutive steps.
    let mut gap = seen.clone();
    gap.iter_mut().filter(|row| row.step == 3).for_each(|row| row.entropy = None);
    assert_eq!(steps_of("warn(entropy > 3, for: 3 steps)", &gap), [4]);
    assert_eq!(steps_of("warn(recent(entropy, steps: 2) > 4, for: 2 steps)", &gap), [4]);
}

/// A step without the metric does not test a mean over earlier steps again.
#[test]
fn a_mean_over_the_last_steps_is_tested_where_a_step_adds_to_it() {
    let values: Vec<_> = (0..10).map(|step| [(step % 3 == 0).then_some(5.0); 2]).collect();
    let seen = rows(&values, |row| &mut row.entropy);
    assert_eq!(steps_of("warn(recent(entropy, steps: 1) > 3, for: 3 steps)", &seen), [6]);
    assert_eq!(steps_of("lower_lr(recent(entropy, steps: 2) > 3, by: 0.5)", &seen), [3, 6, 9]);
    // A mean over the first steps no longer changes.
    assert_eq!(steps_of("warn(initial(entropy) > 3, for: 5 steps)", &seen), [4]);
}

/// Factors of one half are exact: the learning rate is 1e-2 until the guard has acted.
#[test]
fn a_lowered_rate_is_what_the_next_step_has_and_a_cut_changes_nothing() {
    let told = CapturedOutput::default();
    let fixture = Fixture { control: Control::new(told.clone()), ..Fixture::new() };
    let models = models(true);
    let held = "lower_lr(gradient_norm > 0, by: 0.5, for: 2 steps), warn(gradient_norm > 0, for: 2 steps)";
    let guarded = Train { guards: guards(held), ..train(mopd(1.0), 1) };
    let stage = fixture.stage(&guarded, ROUTED, &models);
    let (_, rows) = trained_to_the_end(&stage);
    let rates: Vec<f64> =
        rows.iter().filter(|row| row.domain == "copy").map(|row| row.learning_rate).collect();
    assert_eq!(rates, [1e-2, 1e-2, 5e-3, 5e-3]);
    assert_eq!(told.times("the learning rate is multiplied by 0.5 from the next step on"), 2);
    let said = || told.times("\"event\":\"warning\"");
    assert_eq!(said(), 3, "and once that it holds");
    resume::ends_the_same_wherever_it_is_cut("guards", &stage);
    // A resumed run repeats no warning: these are the runs resumed after one step, two and three.
    assert_eq!(said(), 3 * 3 + 3 + 1 + 1);
}

/// A stage that a guard stopped loses nothing: without the guard, it ends as if it had never been stopped.
#[test]
fn a_stopped_stage_goes_on_once_the_guard_is_changed() {
    let fixture = Fixture::new();
    let models = models(true);
    let plain = train(mopd(1.0), 1);
    let (through, _) = trained_to_the_end(&fixture.stage(&plain, ROUTED, &models));
    let guarded = Train { guards: guards("stop(entropy > 0, for: 3 steps, on: flip)"), ..plain.clone() };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let keep = |state: &TrainState| store.keep_state("key", "a stage", state);
    let checkpoints = |resumes: bool| {
        let from = resumes.then(|| (store.last_state("key").0.unwrap(), RestoreMode::Resume));
        Some(Checkpoints { from, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep })
    };
    let stage = fixture.stage(&guarded, ROUTED, &models);
    for resumes in [false, true] {
        let stopped = super::super::train(&stage, checkpoints(resumes)).err().expect("the guard stops it");
        let Error::Failed(failure) = &stopped.error else { panic!("{}", stopped.error) };
        assert_eq!((failure.kind, failure.step), (FailureKind::Guard, Some(2)));
        assert!(
            failure.message.contains("`entropy > 0` on `flip` has held for 3 steps in a row"),
            "{}",
            failure.message
        );
        assert_eq!((store.steps("key"), stopped.record.rows.len()), (vec![3], 6));
    }
    let again = finished_in_turns(&[fixture.stage(&plain, ROUTED, &models)], checkpoints(true));
    assert!(again.weights.values().into_owned() == through);
}

/// A fork begins with another stage's steps; its guards test only its own.
#[test]
fn a_fork_is_looked_at_from_its_own_steps_on() {
    let guarded = Train { guards: guards("warn(entropy > 3)"), ..train(mopd(1.0), 1) };
    let seen = rows(&[[Some(5.0); 2]; 4], |row| &mut row.entropy);
    let stage = GuardedStage { name: "student", seed: 1, steps: 10, train: &guarded, turn: None, from: 2 };
    let mut guards = Guards::new(stage);
    guards.replay(&seen);
    assert_eq!(guards.take_triggered().iter().map(|triggered| triggered.step).collect::<Vec<_>>(), [2]);
    assert_eq!(guards.untested().count(), 0);
    assert_eq!(Guards::new(stage).untested().count(), 1);
    assert_eq!(guarded.guards[0].action, GuardAction::Warn);
}

/// Of two models that are trained in turns, one step has guards of its own.
#[test]
fn guards_outside_the_steps_are_those_of_steps_without_their_own() {
    let plan = compiled::plan(
        "experiment \"t\" { seed = 1 }\ndomain d { prompts = \"d.jsonl\", format = text, reward = \
        exact_match }\nmodel base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = \
        bytes }\nobjective follow(guide: teacher) { term a = live kl(student || guide)\n reduce = \
        mean(token) then mean(sequence) }\nmodel three = train {\n steps = 10, prompts = 2, lr = 1e-3, \
        domains = domains\n rollout = sample(n: 1, temperature: 1, max_tokens: 4)\n guards = [warn(entropy \
        < 0.1), warn(loss > 9)]\n trains policy = base\n trains guide = base\n trains third = base\n step \
        one { updates = policy, objective = follow(guide) }\n step two { updates = guide, objective = \
        follow(policy), guards = [stop(loss > 5)] }\n step last { updates = third, objective = \
        follow(policy) } }\n"
            .to_owned(),
    );
    let joint = plan.experiment.models.iter().find_map(|model| match &model.stage {
        mopd_plan::Stage::Joint(joint) => Some(joint),
        _ => None,
    });
    let texts = |train: &Train<Objective>| train.guards.iter().map(|guard| guard.text.clone()).collect();
    let found: Vec<Vec<String>> =
        joint.unwrap().learners.iter().map(|learner| texts(&learner.train)).collect();
    let outside = ["entropy < 0.1", "loss > 9"];
    assert_eq!(found, [&outside[..], &["loss > 5"], &outside]);
}
