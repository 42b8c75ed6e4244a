//! A template's share that the run learns itself: the prompts that its teachers read, its gain, and its state
//! in checkpoints.

use mopd_plan::{Axis, Function, View};

use super::super::batches::LearnedPolicy;
use super::super::batches::all_examples;
use super::super::tensor_graph::whole::{Inputs, evaluate};
use super::resume::ends_the_same_wherever_it_is_cut;
use super::*;
use crate::compiled;

/// A policy whose gain is the fall of the loss plus the student's log-probability of the answers, held for
/// two steps; and the teachers' view.
fn learning(passes: u32) -> (Train<Objective>, View) {
    let plan = compiled::plan(
        "experiment \"t\" { seed = 1 }\n\
         domain d { prompts = \"d.jsonl\", format = text, reward = exact_match }\n\
         model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
         rollout probe = data(answer)\n\
         template begun(exposure: fraction) = \"{first(answer, exposure)}?\"\n\
         teacher insider(exposure: fraction) = base { sees = begun(exposure) }\n\
         objective o {\n\
           term a = live kl(student || teacher)\n\
           reduce = mean(token) then mean(sequence)\n\
         }\n\
         schedule shown = learned(\n\
           gain: previous(loss) - loss + 0.1 * mean(student.logp, over: batch, on: probe),\n\
           hold: 2 steps,\n\
           discount: 0.5,\n\
           lr: 0.3,\n\
         )\n\
         model student = distill(base) {\n\
           objective = o, prompts = 5, steps = 10, lr = 1e-3\n\
           rollout = sample(n: 2, temperature: 1, max_tokens: 6)\n\
           route { else -> insider(shown) }\n\
         }\n"
        .to_owned(),
    );
    let read = compiled::train(&plan, "student").clone();
    let [choice] = read.scorers.routed() else { panic!("one teacher for all prompts") };
    let view = choice.sees.clone().expect("it sees a template");
    let train = Train { rollout: read.rollout, ..train(read.objective, passes) };
    (train, view)
}

fn stage<'a>(
    fixture: &'a Fixture,
    (train, view): &'a (Train<Objective>, View),
    weights: &[Arc<Weights>],
) -> Stage<'a> {
    let mut stage = fixture.stage(train, ROUTED, weights);
    for source in stage.sources.iter_mut() {
        let own = TeacherChoice { sees: Some(view.clone()), ..choice(Teacher::Model(ModelId(1))) };
        source.route = SourceTeachers::all(&own);
    }
    stage.steps = 6;
    stage
}

/// The mean over completions of their tokens' mean KL(student || teacher), where the teacher has read `share`
/// of the answer.
fn loss(stage: &Stage, [student, teacher]: [&Reference; 2], sequences: &Sequences, share: f64) -> f64 {
    let each = sequences.list.iter().map(|sequence| {
        let answer = stage.sources[sequence.source].prompts.dataset.text(sequence.record, "answer").unwrap();
        let shown = &answer[..(share * answer.len() as f64).floor() as usize];
        let seen = stage.start.tokenizer.prompt(&format!("{shown}?")).unwrap();
        let [student, teacher] = [
            student.logps(sequence.prompt(&stage.sources), &sequence.completion),
            teacher.logps(&seen, &sequence.completion),
        ];
        let kl = (student.exp() * (&student - teacher)).sum_dim_intlist(-1, false, Kind::Double);
        kl.mean(Kind::Double).double_value(&[])
    });
    each.sum::<f64>() / sequences.list.len() as f64
}

/// The mean log-probability of all tokens of the answers to the step's prompts. Each answer counts once,
/// whatever the number of its prompt's completions.
fn recorded(stage: &Stage, student: &Reference, sequences: &Sequences) -> f64 {
    let answers = all_examples(stage.texts(), "answer").unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for group in sequences.groups() {
        let row = &answers[group[0].source][group[0].record];
        let logps = student.logps(row.prompt(&stage.sources), &row.completion);
        let taken = logps.gather(1, &Tensor::from_slice(&row.completion).unsqueeze(1), false);
        sum += taken.sum(Kind::Double).double_value(&[]);
        count += row.completion.len();
    }
    sum / count as f64
}

#[test]
fn learned_value_is_logged_with_the_gain_of_its_steps() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let learning = learning(1);
    let settings = learning.0.objective.learned.clone().unwrap();
    assert_eq!((settings.hold, settings.discount, settings.learning_rate), (2, 0.5, 0.3));
    let teacher = Reference::new(&weights[1]);
    for micro_batch in [None, Some(3)] {
        let stage = Stage { micro_batch, ..stage(&fixture, &learning, &weights) };
        let mut trainer = Trainer::new(&stage).unwrap();
        let (mut record, mut before, mut drawn) = (Record::default(), None, Vec::new());
        let mut policy = LearnedPolicy::new(&settings);
        for step in 0..6 {
            let rollouts = trainer.rollouts_of(step).unwrap();
            // These rollouts are evaluated twice; the first evaluation would take the saved activations.
            rollouts[0].activations.take();
            let value = trainer.parts[0].batches.learned().expect("it is drawn before the step");
            policy.begin(stage.keys(), step);
            assert_eq!(policy.value(), Some(value), "step {step}");
            let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(0, &rollouts[0], step).unwrap();
            let now = stage.start.with_values(trainer.student.trained.numbers(&trainer.student.model));
            let student = Reference::new(&Arc::new(now));
            let sequences = &rollouts[0].sequences;
            let loss = loss(&stage, [&student, &teacher], sequences, value);
            let got = f64::from(outputs.get(stage.train.objective.loss)[0]);
            assert!((got - loss).abs() < 1e-5, "step {step}: {got} {loss}");
            let recorded = recorded(&stage, &student, sequences);
            let signal = Signal::RecordedLogp { field: "answer".to_owned() };
            let got = f64::from(batch.signal(&signal).unwrap()[0]);
            assert!((got - recorded).abs() < 1e-5, "step {step}: {got} {recorded}");
            // The first step has no earlier loss, so its loss has not fallen.
            let gain = before.unwrap_or(loss) - loss + 0.1 * recorded;
            let got = f64::from(outputs.get(settings.gain)[0]);
            assert!((got - gain).abs() < 1e-5, "step {step}: {got} {gain}");
            let inputs = Inputs::new(&batch, Kind::Double, Device::Cpu);
            let tensors = evaluate(&stage.train.objective.graph, &[settings.gain], &inputs).unwrap();
            assert!(
                (tensors[&settings.gain].double_value(&[0]) - got).abs() < 1e-5,
                "step {step}, on tensors"
            );
            policy.learn(got);
            before = Some(loss);
            trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
            assert_eq!(record.rows.last().unwrap().learned, Some(value));
            let state = trainer.parts[0].batches.save(stage.keys(), &mut StateTensors::default());
            assert_eq!(state.policy, policy.numbers(), "step {step}");
            drawn.push(value);
        }
        assert!(drawn.chunks(2).all(|held| held[0] == held[1]), "{drawn:?}");
        assert!(drawn[0] != drawn[2] && drawn[2] != drawn[4], "{drawn:?}");
    }
}

/// Interrupted between draws and while a value is held; with one and with several updates per batch.
#[test]
fn a_stage_that_learns_it_ends_the_same_wherever_it_was_cut() {
    let (fixture, weights) = (Fixture::new(), models(false));
    for passes in [1, 2] {
        let learning = learning(passes);
        let stage = stage(&fixture, &learning, &weights);
        ends_the_same_wherever_it_is_cut(&format!("{passes} passes"), &stage);
    }
}

#[test]
fn a_gain_must_be_finite() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let (mut train, view) = learning(1);
    let graph = &mut train.objective.graph;
    let zero = graph.constant(Axis::Run, 0.0);
    let gain = graph.apply(Function::Log, &[zero]);
    train.objective.learned.as_mut().unwrap().gain = gain;
    let learning = (train, view);
    let stage = stage(&fixture, &learning, &weights);
    let Err(error) = Trainer::new(&stage).unwrap().step(0, &mut Record::default()) else {
        panic!("it learns from infinity")
    };
    assert!(
        error.is_non_finite() && error.to_string().contains("the gain of `learned(...)` is not finite"),
        "{error}"
    );
}

/// A stage without a policy has no state of it.
#[test]
fn a_state_of_another_stage_does_not_fit() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let learning = learning(1);
    let stage = stage(&fixture, &learning, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.step(0, &mut Record::default()).unwrap();
    let mut state = trainer.state(1, 0.0, Record::default());
    let mut same = Trainer::new(&stage).unwrap();
    same.restore(&state, RestoreMode::Resume).unwrap();
    assert_eq!(same.parts[0].batches.learned(), trainer.parts[0].batches.learned());
    // A fork may have another gain, so it starts with a new policy.
    let mut fork = Trainer::new(&stage).unwrap();
    fork.restore(&state, RestoreMode::Fork).unwrap();
    assert_eq!(fork.parts[0].batches.learned(), None);
    state.position.first.batches.policy.clear();
    let problem = Trainer::new(&stage).unwrap().restore(&state, RestoreMode::Resume);
    assert_eq!(problem, Err("it has no valid state of the learned policy".to_owned()));
}
