//! Scores of frozen models on data are cached in the store. A stage's result has the same bits with and
//! without the cache.

use std::cell::Cell;
use std::path::PathBuf;

use mopd_ops::testing::Extent;
use mopd_plan::producers::Model;
use mopd_plan::results::ScoresFound;
use mopd_plan::{Keep, Producer};

use super::super::{AT_MOST, Checkpoints, FinishedTraining, Pace, ScoreCache, ScoredBatch};
use super::resume::finished_in_turns;
use super::*;
use crate::store::{Lookup, ScoreEntry, Store};

/// A store, and the number of times that computed scores were stored.
struct ScoreStore {
    folder: tempfile::TempDir,
    store: Store,
    at_most: u64,
    made: Cell<u32>,
}

impl ScoreStore {
    fn new(at_most: u64) -> ScoreStore {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        ScoreStore { folder, store, at_most, made: Cell::new(0) }
    }

    fn train(
        &self,
        stage: &Stage,
        from: Option<TrainState>,
        keep: &dyn Fn(&TrainState) -> Result<()>,
    ) -> FinishedTraining {
        let key = |scored: ScoredBatch| format!("model-{}", scored.model.0);
        let cache = ScoreCache {
            keeps: &|_| true,
            at_most: self.at_most,
            find: &|scored, ranges| {
                let place = ScoreEntry { key: &key(scored), batch: scored.batch, bytes: scored.bytes };
                match self.store.scores(place, ranges, false) {
                    Lookup::Found(found) => Some(found),
                    _ => None,
                }
            },
            keep: &|scored, bytes| {
                assert_eq!(bytes.len() as u64, scored.bytes);
                self.made.set(self.made.get() + 1);
                let place = ScoreEntry { key: &key(scored), batch: scored.batch, bytes: scored.bytes };
                self.store.insert_scores(place, "scores", bytes).unwrap();
            },
        };
        let from = from.map(|state| (state, RestoreMode::Resume));
        let checkpoints = Checkpoints {
            from,
            rollouts: None,
            scores: Some(cache),
            pace: Pace::Every(Duration::ZERO),
            keep,
        };
        finished_in_turns(std::slice::from_ref(stage), Some(checkpoints))
    }

    /// The number of scores found, and the trained weights.
    fn run(&self, stage: &Stage) -> (ScoresFound, Vec<f32>) {
        let finished = self.train(stage, None, &|_| Ok(()));
        (finished.found.unwrap(), finished.weights.values().into_owned())
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders = |path: PathBuf| {
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let mut files: Vec<PathBuf> = folders(self.folder.path().to_owned())
            .into_iter()
            .flat_map(folders)
            .map(|entry| entry.join("hidden.bin"))
            .collect();
        files.sort();
        files
    }
}

/// The weights with a store that finds and keeps nothing.
fn without_a_store(stage: &Stage, at_most: u64) -> Vec<f32> {
    let cache = ScoreCache { keeps: &|_| true, at_most, find: &|_, _| None, keep: &|_, _| {} };
    let (keep, scores) = (|_: &TrainState| Ok(()), Some(cache));
    let checkpoints = Checkpoints { from: None, rollouts: None, scores, pace: Pace::Sparing, keep: &keep };
    let finished = super::super::train(stage, Some(checkpoints)).map_err(|stopped| stopped.error).unwrap();
    finished.weights.values().into_owned()
}

fn trained(stage: &Stage) -> Vec<f32> {
    trained_to_the_end(stage).0
}

/// Stages on data that is the same in each epoch: 16 records, 7 per step, more than two epochs. For each list
/// of teachers, today's kind of data; the days begin with another one for each `test`.
fn stages(test: usize, fixture: &Fixture, models: &[Arc<Weights>], check: impl Fn(&str, &mut Stage)) {
    let data = |field: &str| Producer::data(field);
    let pairs = Rollout::new(7, Producer::pairs(data("answer"), data("answer")));
    let rollouts = Rollout::new(7, Producer::teacher_once(13, Keep::All, Sampling::new(1, 1.0, 6)));
    let earlier = Model { once: true, model: ModelId(2), sampling: Sampling::new(2, 1.0, 6) };
    let snapshot = Rollout::new(7, earlier.into());
    let cases = [
        ("a snapshot", Some(3), 1, snapshot),
        ("data", None, 1, train(mopd(1.0), 1).rollout),
        ("data in half precision", None, 1, train(mopd(1.0), 1).rollout),
        ("data in micro-batches", Some(3), 1, train(mopd(1.0), 1).rollout),
        ("data in two passes", None, 2, train(mopd(1.0), 1).rollout),
        ("data in mini-batches", None, 1, train(mopd(1.0), 1).rollout),
        ("pairs", None, 1, pairs),
        ("rollouts of the teachers", Some(2), 1, rollouts),
    ];
    let one_teacher = [Teacher::Model(ModelId(1)), Teacher::Model(ModelId(1))];
    for (offset, teachers) in [(0, ROUTED), (3, one_teacher)] {
        let today = Extent::from_environment().one_of(test + offset, cases.to_vec());
        for (name, micro_batch, passes, rollout) in today {
            let mini_batches = if name.contains("mini-batches") { 3 } else { 1 };
            let of_case = train(direct(Support::Full, Mass::Raw), passes);
            let options = updates(passes, mini_batches);
            let train = Train { rollout: rollout.clone(), options, ..of_case };
            let mut stage = fixture.stage(&train, teachers.clone(), models);
            (stage.micro_batch, stage.steps) = (micro_batch, 6 * train.options.updates_per_batch());
            stage.kind = if name.contains("half") { Kind::BFloat16 } else { Kind::Float };
            check(&format!("{name}, {teachers:?}"), &mut stage);
        }
    }
}

/// In the first epoch, scores have the same bits as in a stage without a cache: the same sequences are
/// computed together.
#[test]
fn in_the_first_epoch_nothing_is_computed_otherwise() {
    let fixture = Fixture::new();
    let models = models(true);
    stages(0, &fixture, &models, |name, stage| {
        stage.steps = 2 * stage.train.options.updates_per_batch();
        if name.starts_with("rollouts") {
            stage.steps = 1;
        }
        let kept = ScoreStore::new(AT_MOST);
        let (found, weights) = kept.run(stage);
        assert!(weights == trained(stage), "{name}");
        assert!(found.found == 0 && found.of > 0 && kept.made.get() > 0, "{name}: {found:?}");
        assert!(weights != models[0].values().into_owned(), "{name}: nothing moved");
    });
}

#[test]
fn training_with_cached_scores_has_the_same_bits() {
    let fixture = Fixture::new();
    let models = models(true);
    stages(2, &fixture, &models, |name, stage| {
        let expected = without_a_store(stage, AT_MOST);
        let kept = ScoreStore::new(AT_MOST);
        let (first, weights) = kept.run(stage);
        assert!(weights == expected, "{name}: made");
        let made = kept.made.get();
        // Later epochs find the scores of the first.
        assert!(first.found > first.of / 2 && first.found < first.of, "{name}: {first:?}");
        let (again, weights) = kept.run(stage);
        assert!(weights == expected, "{name}: found");
        assert_eq!((again.found, kept.made.get()), (first.of, made), "{name}: nothing is made twice");
        for spoil in ["removed", "a flipped bit", "cut off"] {
            for path in kept.files() {
                let mut bytes = std::fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                match spoil {
                    "removed" => std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
                    "cut off" => std::fs::write(&path, &bytes[..middle]).unwrap(),
                    _ => std::fs::write(&path, &bytes).unwrap(),
                }
                let (found, weights) = kept.run(stage);
                assert!(weights == expected, "{name}: {spoil}");
                assert!(found.found < found.of, "{name}: {spoil}: {found:?}");
            }
            assert_eq!(kept.run(stage).0, again, "{name}: it is there again");
        }
    });
}

/// Scores beyond the limit are neither stored nor looked up: the result depends on the limit, not on the
/// store.
#[test]
fn beyond_the_limit_scores_are_computed_anew() {
    let fixture = Fixture::new();
    let models = models(true);
    stages(4, &fixture, &models, |name, stage| {
        let whole = ScoreStore::new(AT_MOST);
        whole.run(stage);
        let size = |kept: &ScoreStore| {
            kept.files().iter().map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>()
        };
        for at_most in [0, size(&whole) - 1] {
            let kept = ScoreStore::new(at_most);
            let expected = without_a_store(stage, at_most);
            let (first, weights) = kept.run(stage);
            assert!(weights == expected, "{name}");
            assert!(
                size(&kept) <= at_most && kept.files().is_empty() == (at_most == 0),
                "{name}: {} {at_most}",
                size(&kept)
            );
            let (again, weights) = kept.run(stage);
            assert!(weights == expected, "{name}");
            assert!(again.found >= first.found && again.found < again.of, "{name}: {again:?}");
            if at_most == 0 {
                assert!(weights == trained(stage), "{name}: as without any of this");
            }
        }
    });
}

/// With another objective or learning rate, all scores are found; with other data, micro-batches or seeds,
/// none.
#[test]
fn an_edit_of_the_objective_finds_the_scores() {
    let fixture = Fixture::new();
    let models = models(true);
    let kept = ScoreStore::new(AT_MOST);
    let one = train(direct(Support::Full, Mass::Raw), 1);
    let all = kept.run(&fixture.stage(&one, ROUTED, &models)).0.of;
    let other = Train {
        learning_rate: Schedule::Constant { value: 1e-3 }.into(),
        ..train(direct(Support::TopK { role: Role::TEACHER, k: 4 }, Mass::Generalized), 1)
    };
    let edited = fixture.stage(&other, ROUTED, &models);
    let (found, weights) = kept.run(&edited);
    assert_eq!(found, ScoresFound { found: all, of: all });
    assert!(weights == without_a_store(&edited, AT_MOST));
    // Only the first batch: a later one may have so few new records that its micro-batches are the same.
    let nothing = ScoresFound { found: 0, of: 7 };
    let first = || Stage { steps: 1, ..fixture.stage(&one, ROUTED, &models) };
    assert_eq!(kept.run(&first()).0, ScoresFound { found: 7, of: 7 });
    assert_eq!(kept.run(&Stage { micro_batch: Some(2), ..first() }).0, nothing);
    assert_eq!(kept.run(&Stage { seed: 2, ..first() }).0, nothing);
    let path = fixture.folder.path().join("copy.jsonl");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("copy", "cope")).unwrap();
    let prompts = vec![load(&path), load(&path)];
    let renamed = Fixture { prompts, ..Fixture::new() };
    assert_eq!(kept.run(&Stage { steps: 1, ..renamed.stage(&one, ROUTED, &models) }).0, nothing);
}

/// If all scores are found, only a teacher's LM head is loaded.
#[test]
fn a_teacher_whose_scores_are_found_is_not_loaded() {
    let fixture = Fixture::new();
    for (tied, stay) in [(true, true), (false, true), (true, false)] {
        let models = models(tied);
        let train = train(direct(Support::Full, Mass::Raw), 1);
        let stage = Stage { models_fit: Some(stay), ..fixture.stage(&train, ROUTED, &models) };
        let kept = ScoreStore::new(AT_MOST);
        let (_, expected) = kept.run(&stage);
        let find = |scored: ScoredBatch, ranges: &[std::ops::Range<u64>]| {
            let place = ScoreEntry {
                key: &format!("model-{}", scored.model.0),
                batch: scored.batch,
                bytes: scored.bytes,
            };
            let Lookup::Found(found) = kept.store.scores(place, ranges, true) else { panic!("it is there") };
            Some(found)
        };
        let keep = |_: ScoredBatch, _: &[u8]| panic!("nothing is made");
        let cache = ScoreCache { keeps: &|_| true, at_most: AT_MOST, find: &find, keep: &keep };
        let mut trainer = Trainer::with(std::slice::from_ref(&stage), None, Some(cache)).unwrap();
        for step in 0..stage.steps {
            trainer.step(step, &mut Record::default()).unwrap();
            assert_eq!(trainer.models.loaded(), 0, "step {step}");
        }
        assert_eq!(to_vec(trainer.student.model.flat()), expected);
    }
}

/// Interrupted after any step, in any epoch, with the store unchanged or empty.
#[test]
fn a_stage_with_kept_scores_goes_on_with_the_same_bits() {
    let fixture = Fixture::new();
    let models = models(true);
    stages(6, &fixture, &models, |name, stage| {
        let states = tempfile::tempdir().unwrap();
        let states = Store::open(states.path()).unwrap();
        let kept = ScoreStore::new(AT_MOST);
        let keep = |state: &TrainState| states.keep_state(&state.position.step.to_string(), "a stage", state);
        let expected = kept.train(stage, None, &keep).weights.values().into_owned();
        for step in 1..stage.steps {
            for kept in [&kept, &ScoreStore::new(AT_MOST)] {
                let Lookup::Found(state) = states.state(&step.to_string(), step) else {
                    panic!("step {step}")
                };
                let again = kept.train(stage, Some(state), &|_| Ok(()));
                assert!(again.weights.values() == expected, "{name}: cut at step {step}");
            }
        }
    });
}

/// Nothing is cached for completions that are new in every step, nor for the student and its copies.
#[test]
fn scores_of_new_completions_are_not_cached() {
    let fixture = Fixture::new();
    let models = models(true);
    let kept = ScoreStore::new(AT_MOST);
    let objective = || direct(Support::Full, Mass::Raw);
    let sampling = || Sampling::new(1, 1.0, 6);
    let own = Rollout::new(4, Producer::student(sampling()));
    let half = Rollout::new(4, Producer::pairs(Producer::data("answer"), Producer::student(sampling())));
    for rollout in [own, half] {
        let train = Train { rollout, ..train(objective(), 1) };
        let finished = kept.train(&fixture.stage(&train, ROUTED, &models), None, &|_| Ok(()));
        assert_eq!(finished.found, None);
    }
    let train = train(objective(), 1);
    let finished = kept.train(&fixture.stage(&train, [averages(0), averages(2)], &models), None, &|_| Ok(()));
    assert_eq!((finished.found, kept.files().len()), (None, 0));
    // Beside a copy of the student, the scores of a frozen teacher are cached.
    let stage = fixture.stage(&train, [averages(0), Teacher::Model(ModelId(1))], &models);
    let (found, weights) = kept.run(&stage);
    assert!(found.of > 0 && found.of < 28 && weights == without_a_store(&stage, AT_MOST), "{found:?}");
    assert_eq!(kept.run(&stage).0.found, found.of);
}
