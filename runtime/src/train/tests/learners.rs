//! Several models that are trained in turns.

use super::super::learners::{Learners, LearnersPosition};
use super::super::{Checkpoints, FinishedTraining, Pace};
use super::resume::finished_in_turns;
use super::*;

/// The settings of two models: the first learns from a frozen teacher, the other from the first, in every
/// second step.
fn settings() -> [Train<Objective>; 2] {
    let of = |rate: f64| {
        let mut train = train(mopd(5.0), 1);
        train.recipe = Recipe::Step;
        train.learning_rate = Schedule::Constant { value: rate }.into();
        train
    };
    [of(1e-2), of(5e-3)]
}

const FIRST: Teacher = Teacher::Learner { learner: 0, start: ModelId(0) };

/// The second model's turn comes before the first's.
fn stages<'a>(
    fixture: &'a Fixture,
    [one, other]: &'a [Train<Objective>; 2],
    models: &[Arc<Weights>],
) -> Vec<Stage<'a>> {
    let turn = |name: &'static str, place, every| LearnerTurn { name: Some(name), place, every };
    let first = Stage { turn: turn("lead", 1, 1), ..fixture.stage(one, ROUTED, models) };
    let start = models[1].clone();
    let stage = fixture.stage(other, [FIRST, FIRST], models);
    vec![first, Stage { turn: turn("follow", 0, 2), start, stream: 3, ..stage }]
}

fn numbers(finished: &FinishedTraining) -> [Vec<f32>; 2] {
    [finished.weights.values().into_owned(), finished.others[0].values().into_owned()]
}

/// The first model learns as if it were trained alone; the second as if the first, with the weights of its
/// last turn, were a frozen teacher. Both have the same bits.
#[test]
fn joint_training_equals_alternating_training_by_hand() {
    let (fixture, models) = (Fixture::new(), models(true));
    let settings = settings();
    let stages = stages(&fixture, &settings, &models);
    let together = numbers(&finished_in_turns(&stages, None));

    let mut lead = Trainer::new(&stages[0]).unwrap();
    let mut by_hand: Option<(Trainer, Vec<f32>)> = None;
    let by_lead = [Teacher::Model(ModelId(2)), Teacher::Model(ModelId(2))];
    let with_teacher = |now: &Decoder| {
        let start = models[2].with_values(to_vec(now.flat()));
        let models = [models[0].clone(), models[1].clone(), Arc::new(start)];
        let start = models[1].clone();
        let stage = fixture.stage(&settings[1], by_lead.clone(), &models);
        Box::leak(Box::new(Stage { start, stream: 3, ..stage }))
    };
    for step in 0..4 {
        if step % 2 == 1 {
            let mut now = Trainer::new(with_teacher(&lead.student.model)).unwrap();
            if let Some((before, _)) = by_hand.take() {
                let Trainer { student, mut parts, .. } = before;
                let StudentWeights { model, optimizer, .. } = student;
                now.student.optimizer = optimizer;
                tch::no_grad(|| now.student.model.flat().shallow_clone().copy_(model.flat()));
                now.parts[0].batches = parts.remove(0).batches;
            }
            now.step(step, &mut Record::default()).unwrap();
            let values = to_vec(now.student.model.flat());
            by_hand = Some((now, values));
        }
        lead.step(step, &mut Record::default()).unwrap();
    }
    assert!(together[0] == to_vec(lead.student.model.flat()));
    assert!(together[1] == by_hand.unwrap().1);
    assert!(together[1] != models[1].values().into_owned());
}

/// Interrupted after any step or between two turns, training ends with the same bits. Rows name the turn.
#[test]
fn a_stage_of_two_ends_the_same_wherever_it_was_cut() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut settings = settings();
    settings[0].options.ema = Some(0.5);
    let stages = stages(&fixture, &settings, &models);
    let through = finished_in_turns(&stages, None);
    let turns: Vec<(u32, Option<&str>)> =
        through.record.rows.iter().map(|row| (row.step, row.terms.as_deref())).collect();
    assert_eq!(turns.iter().filter(|(_, terms)| *terms == Some("follow")).count(), 2 * 2, "{turns:?}");
    assert_eq!(turns.iter().filter(|(_, terms)| *terms == Some("lead")).count(), 4 * 2, "{turns:?}");
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(folder.path()).unwrap();
    let parts: Vec<Vec<Stage>> = stages.iter().map(|stage| stage.parts(&[])).collect();
    for (step, turn) in (0..4).flat_map(|step| [(step, 0), (step, 1)]) {
        let mut cut = Learners::new(&parts, None, None).unwrap();
        let mut record = Record::default();
        for done in (0..4).flat_map(|step| [(step, 0), (step, 1)]).take_while(|done| *done < (step, turn)) {
            let place = cut.of_turn(done.1);
            let learner = &mut cut.0[place];
            if learner.stage.turn.is_due(done.0) {
                learner.step(done.0, &mut record).unwrap();
            }
        }
        let key = format!("{step}.{turn}");
        store.keep_state(&key, "a stage", &cut.state(LearnersPosition { step, turn }, 0.0, record)).unwrap();
        let from = store.last_state(&key).0.map(|state| (state, RestoreMode::Resume));
        assert!(from.is_some());
        let keep = |_: &TrainState| Ok(());
        let pace = Pace::Sparing;
        let again = finished_in_turns(
            &stages,
            Some(Checkpoints { from, rollouts: None, scores: None, pace, keep: &keep }),
        );
        assert!(numbers(&again) == numbers(&through), "{key}");
        assert_eq!(again.record.rows.len(), through.record.rows.len(), "{key}");
    }
}
