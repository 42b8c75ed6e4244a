//! A stage that is interrupted after any step ends with the same bits as without interruptions.

use mopd_ops::testing::Extent;
use mopd_plan::producers::{Guidance, Model, ReplayContents};
use mopd_plan::{
    Axis, ChangedElements, Extrapolation, Function, GradientAlignment, GradientPartition, Live, Memory,
    OwnData, Private, Reduction,
};

use super::super::objective::objectives::{nll, objective};
use super::super::{Checkpoints, FinishedTraining, Pace, train_in_turns};
use super::chosen::tiers;
use super::curriculum::{self, curriculum};
use super::debate::roomy;
use super::derived::derived;
use super::extrapolation::extrapolation;
use super::guided::{guided, token_mix};
use super::keep::{SOME, kept, matches};
use super::producers::{climbing, mean_length, replay};
use super::refine::refined;
use super::retry::retry;
use super::rewrite::rewritten;
use super::speculative::{speculative, weighed};
use super::temperature::{at_temperature, cools};
use super::turns::{HEARD, behind_an_expert, environment, turns};
use super::*;
use crate::store::{Lookup, Store};

/// An objective that reads what outlives a step: the policy that sampled, the student before the updates, and
/// a number of the previous step.
fn ratio() -> Objective {
    objective("ratio", Live::Logp, |graph, logp| {
        let sampler = graph.signal(Signal::Of { role: Role::Sampler, part: ModelSignal::Logp });
        let teacher = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
        let old = graph.signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp });
        let difference = graph.apply(Function::Subtract, &[logp, old]);
        let ratio = graph.apply(Function::Exp, &[difference]);
        let advantage = graph.apply(Function::Subtract, &[sampler, teacher]);
        let mean = graph.reduce(Reduction::Mean, advantage, Axis::Batch, None);
        let baseline = graph.memory(Memory::Ema { rate: 0.5 }, mean);
        let centred = graph.apply(Function::Subtract, &[advantage, baseline]);
        (graph.apply(Function::Multiply, &[ratio, centred]), None)
    })
}

fn finished(stage: &Stage, checkpoints: Option<Checkpoints>) -> FinishedTraining {
    finished_in_turns(std::slice::from_ref(stage), checkpoints)
}

/// Trains to the end, from a state if there is one. Training that can't restore its state begins anew, and
/// ends with the same bits. So the time of the steps before must be in that of all.
pub(super) fn finished_in_turns(stages: &[Stage], mut checkpoints: Option<Checkpoints>) -> FinishedTraining {
    const BEFORE: f64 = 1e9;
    let state = checkpoints.as_mut().and_then(|checkpoints| checkpoints.from.as_mut());
    let from = state.map(|(state, _)| {
        state.position.seconds = BEFORE;
        state.position.step
    });
    let finished = train_in_turns(stages, checkpoints).map_err(|stopped| stopped.error).unwrap();
    assert_eq!(finished.seconds >= BEFORE, from.is_some(), "from step {from:?}, {} s", finished.seconds);
    finished
}

/// The metrics without the times of the steps.
fn rows(finished: &FinishedTraining) -> Vec<StepMetrics> {
    finished.record.rows.iter().cloned().map(StepMetrics::without_times).collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// Trains with a checkpoint after every step, stored with the step's number as its key.
fn with_states(stage: &Stage, store: &Store) -> FinishedTraining {
    let keep = |state: &TrainState| store.keep_state(&state.position.step.to_string(), "a stage", state);
    finished(
        stage,
        Some(Checkpoints {
            from: None,
            rollouts: None,
            scores: None,
            pace: Pace::Every(Duration::ZERO),
            keep: &keep,
        }),
    )
}

fn state(store: &Store, step: u32) -> TrainState {
    match store.state(&step.to_string(), step) {
        Lookup::Found(state) => state,
        other => panic!("step {step}: {other:?}"),
    }
}

fn resumed(stage: &Stage, store: &Store, step: u32, mode: RestoreMode) -> FinishedTraining {
    let keep = |_: &TrainState| Ok(());
    finished(
        stage,
        Some(Checkpoints {
            from: Some((state(store, step), mode)),
            rollouts: None,
            scores: None,
            pace: Pace::Sparing,
            keep: &keep,
        }),
    )
}

#[test]
fn a_stage_ends_the_same_wherever_it_was_cut() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let mut models = models(false);
    // Single elements are chosen by the difference of these two models.
    let compared = [3, 4].map(|seed| Arc::new(random_model(&models[0].config, seed)));
    models.extend(compared);
    let sampled = |n| Rollout::new(5, Producer::student(Sampling::new(n, 1.0, 6)));
    let mut cases: Vec<(&str, Train<Objective>, [Teacher; 2])> = Vec::new();
    let mut case = |name, teachers, change: &dyn Fn(&mut Train<Objective>)| {
        let mut train = train(mopd(1.0), 1);
        change(&mut train);
        cases.push((name, train, teachers));
    };
    case("data", ROUTED, &|_| {});
    case("passes and memory", ROUTED, &|train| {
        (train.objective, train.options.passes, train.rollout) = (ratio(), 3, sampled(2));
    });
    case("mini-batches", ROUTED, &|train| {
        (train.objective, train.options.mini_batches, train.rollout) = (ratio(), 2, sampled(2));
    });
    case("passes over mini-batches", ROUTED, &|train| {
        (train.objective, train.options.passes, train.options.mini_batches) = (ratio(), 2, 3);
        (train.rollout, train.options.ema) = (sampled(2), Some(0.5));
    });
    case("a temperature that changes, in passes", ROUTED, &|train| {
        *train = Train { options: updates(2, 1), ..at_temperature(ratio(), &cools()) };
    });
    case("a temperature that changes, in mini-batches", ROUTED, &|train| {
        *train = Train { options: updates(1, 2), ..at_temperature(ratio(), &cools()) };
    });
    case("mini-batches of the data", ROUTED, &|train| train.options.mini_batches = 3);
    case("rollouts, copies of the student, average", [averages(0), averages(1)], &|train| {
        (train.rollout, train.options.ema) = (sampled(1), Some(0.5));
        // A student that equals its teachers learns nothing, so weight decay makes it differ first.
        train.optimizer = adamw(0.1);
    });
    case("momentum", ROUTED, &|train| {
        let sgd = plan::Sgd { momentum: 0.9, clip_norm: 1.0 };
        train.optimizer = plan::Optimizer::Sgd(sgd);
    });
    case("a mix", ROUTED, &|train| {
        let share = Schedule::Linear { from: 0.2, to: 0.8, over: mopd_plan::ScheduleLength::Run };
        let student = Producer::student(Sampling::new(1, 1.0, 6));
        train.rollout = Rollout::new(6, Producer::mix(share, student, Producer::data("answer")));
    });
    case("what is right of it", ROUTED, &|train| {
        (train.objective, train.options.passes, train.rollout) = (ratio(), 3, kept(sampled(3)));
    });
    case("the first that has a completion", ROUTED, &|train| {
        (train.options.passes, train.rollout) = (2, Rollout::new(5, tiers()));
    });
    case("a teacher by name", ROUTED, &|train| {
        let writer = Producer::of_scorer(Role::named(0), None, Sampling::new(2, 1.0, 6));
        train.rollout = Rollout::new(3, writer);
    });
    case("a snapshot", ROUTED, &|train| {
        let sampling = Sampling::new(2, 1.0, 6);
        train.rollout = Rollout::new(5, Model { once: true, model: ModelId(1), sampling }.into());
    });
    case("a mixture of tokens", ROUTED, &|train| {
        let rising = Schedule::Linear { from: 0.2, to: 0.8, over: mopd_plan::ScheduleLength::Run };
        (train.objective, train.options.passes) = (ratio(), 2);
        train.rollout = Rollout::new(3, token_mix(rising, 2));
    });
    case("replaced tokens", [averages(0), Teacher::Model(ModelId(2))], &|train| {
        train.rollout = Rollout::new(5, guided(Guidance::Interleave { top_k: 9 }, 1));
        train.optimizer = adamw(0.1);
    });
    case("drafts", [averages(0), Teacher::Model(ModelId(2))], &|train| {
        (train.objective, train.options.passes, train.rollout) =
            (weighed(), 2, Rollout::new(5, speculative(4, 2)));
        train.optimizer = adamw(0.1);
    });
    case("rewritten texts", ROUTED, &|train| {
        train.rollout = Rollout::new(5, rewritten("a", Producer::student(Sampling::new(2, 1.0, 6))));
    });
    case("further attempts", ROUTED, &|train| {
        (train.objective, train.options.passes) = (ratio(), 2);
        train.rollout = Rollout::new(5, retry(3, Producer::student(Sampling::new(2, 1.0, 6))));
    });
    case("derived prompts", [averages(0), averages(2)], &|train| {
        let student = || Producer::student(Sampling::new(2, 1.0, 6));
        let attempts = || replay(student(), ReplayContents::Prompts, 9, Some(mean_length()));
        (train.objective, train.options.passes) = (ratio(), 2);
        let share = Schedule::Constant { value: 0.7 };
        train.rollout = Rollout::new(6, Producer::mix(share, derived(attempts()), attempts()));
    });
    case("replayed refinements", ROUTED, &|train| {
        train.rollout = Rollout::new(4, replay(refined(1), ReplayContents::Rollouts, 9, None));
    });
    case("a ladder", ROUTED, &climbing);
    case("losses of the step before", ROUTED, &|train| {
        let read = given::reads_losses("");
        (train.objective, train.own_data) = (read.objective, read.own_data);
    });
    case("losses of terms with completions of their own", ROUTED, &|train| {
        let read = given::reads_losses(", data = data(answer)");
        (train.objective, train.own_data) = (read.objective, read.own_data);
    });
    case("states", ROUTED, &|train| {
        (train.objective, train.options.passes) = (given::trained(states::MOVING).objective, 2);
    });
    case("states of each domain, of one at a time", ROUTED, &|train| {
        train.objective = given::trained(states::BY_DOMAIN).objective;
        train.rollout = Rollout::new(1, Producer::data("answer"));
    });
    case("shares that follow states", ROUTED, &|train| {
        *train = states::sharing("0.05 + state.gap ^ 2");
    });
    case("states that terms on other completions read", ROUTED, &|train| {
        let read = given::trained(states::SHARED);
        (train.objective, train.own_data) = (read.objective, read.own_data);
    });
    case("replayed rollouts in a mix", ROUTED, &|train| {
        let student = Producer::student(Sampling::new(1, 1.0, 6));
        let replayed = replay(student, ReplayContents::Rollouts, 9, None);
        let half = Schedule::Constant { value: 0.7 };
        train.rollout = Rollout::new(6, Producer::mix(half, replayed, Producer::data("answer")));
    });
    case("replayed prompts", ROUTED, &|train| {
        let student = Producer::student(Sampling::new(2, 1.0, 6));
        train.rollout = Rollout::new(6, replay(student, ReplayContents::Prompts, 9, Some(mean_length())));
    });
    case("terms with completions of their own", ROUTED, &|train| {
        let student = || Producer::student(Sampling::new(1, 1.0, 6));
        let own = |producer, objective| OwnData { rollout: Rollout::new(5, producer), objective };
        train.rollout = Rollout::new(5, replay(student(), ReplayContents::Rollouts, 9, None));
        train.own_data = vec![
            own(replay(student(), ReplayContents::Rollouts, 7, None), direct(Support::Full, Mass::Raw)),
            own(Producer::data("answer"), nll()),
        ];
    });
    case("their passes and memory", ROUTED, &|train| {
        (train.objective, train.options.passes, train.rollout) = (ratio(), 3, sampled(2));
        train.own_data = vec![OwnData { rollout: sampled(3), objective: ratio() }];
    });
    std::fs::write(fixture.folder.path().join("env.py"), environment("'reward': 0.25")).unwrap();
    case("turns", ROUTED, &|train| {
        let grows = Schedule::Linear { from: 1.0, to: 3.0, over: mopd_plan::ScheduleLength::Run };
        (train.objective, train.options.passes) = (ratio(), 2);
        train.rollout = Rollout::new(3, turns(grows, Sampling::new(2, 1.0, 3)));
    });
    std::fs::write(fixture.folder.path().join("heard.py"), HEARD).unwrap();
    case("turns behind an expert", ROUTED, &|train| train.rollout = Rollout::new(3, behind_an_expert()));
    case("prompts that are chosen again", ROUTED, &|train| {
        (train.objective, train.options.passes, train.rollout) = (ratio(), 2, sampled(2));
        let writer = Producer::teacher(Sampling::new(4, 1.0, 6));
        train.curriculum = Some(curriculum(writer, 0.25, Some(2)));
    });
    case("prompts that are chosen by what changes", [averages(0), averages(1)], &|train| {
        train.rollout = sampled(1);
        let writer = Producer::teacher(Sampling::new(4, 1.0, 6));
        train.curriculum = Some(curriculum(writer, 0.25, Some(3)));
        train.optimizer = adamw(0.1);
    });
    case("some weights", ROUTED, &|train| {
        train.trainable =
            Trainable::Weights { only: Some(vec![WeightFilter::Group(WeightGroup::Norm)]), except: vec![] };
    });
    case("gradients that are compared", ROUTED, &|train| {
        (train.options.passes, train.rollout) = (2, sampled(2));
        train.options.alignment = Some(GradientAlignment { between: GradientPartition::Domains, every: 2 });
    });
    case("private", ROUTED, &|train| {
        train.options.private = Some(Private { clip: 0.1, epsilon: 5.0, delta: 1e-3 });
        train.rollout = sampled(2);
    });
    case("extrapolated weights", ROUTED, &|train| {
        (train.rollout, train.extrapolation) = (sampled(2), Some(extrapolation(1.0)));
    });
    case("some extrapolated weights, between passes", ROUTED, &|train| {
        (train.objective, train.options.passes, train.rollout) = (ratio(), 3, sampled(2));
        train.extrapolation = Some(Extrapolation { weights: Vec::new(), ..extrapolation(0.0) });
        train.trainable = Trainable::Weights {
            only: Some(vec![WeightFilter::Group(WeightGroup::Attention)]),
            except: vec![WeightFilter::Layers { first: 1, last: 1 }],
        };
    });
    let changed =
        WeightFilter::Changed(ChangedElements { after: ModelId(3), before: ModelId(4), beyond: 0.3 });
    case("elements that differ, on average", ROUTED, &|train| {
        train.trainable = Trainable::Weights { only: Some(vec![changed]), except: vec![] };
        (train.options.ema, train.optimizer) = (Some(0.5), adamw(0.1));
    });
    case("some extrapolated elements", ROUTED, &|train| {
        (train.rollout, train.extrapolation) = (sampled(2), Some(extrapolation(1.0)));
        train.trainable = Trainable::Weights { only: None, except: vec![changed] };
    });
    for kind in [AdapterKind::Lora, AdapterKind::Dora] {
        case("an adapter", ROUTED, &|train| train.trainable = Trainable::Adapter(adapter(kind)));
    }
    const STEPS: u32 = 5;
    let kinds = [Kind::Float, Kind::BFloat16];
    let cuts: Vec<(Kind, u32)> =
        kinds.into_iter().flat_map(|kind| (1..STEPS).map(move |cut| (kind, cut))).collect();
    for (index, (name, train, teachers)) in cases.iter().enumerate() {
        let cuts = Extent::from_environment().one_of(index, cuts.clone());
        for kind in kinds {
            let at: Vec<u32> = cuts.iter().filter(|cut| cut.0 == kind).map(|cut| cut.1).collect();
            if !at.is_empty() {
                let stage = fixture.stage(train, teachers.clone(), &models);
                ends_the_same_when_cut(name, &Stage { kind, steps: STEPS, ..stage }, &at);
            }
        }
    }
}

pub(super) fn ends_the_same_wherever_it_is_cut(name: &str, stage: &Stage) {
    ends_the_same_when_cut(name, stage, &(1..stage.steps).collect::<Vec<u32>>());
}

/// Checks weights, adapter, metrics and the token log.
fn ends_the_same_when_cut(name: &str, stage: &Stage, steps: &[u32]) {
    let through = finished(stage, None);
    let (_folder, store) = store();
    let watched = with_states(stage, &store);
    assert!(watched.weights.values() == through.weights.values(), "{name}: looking at it changes it");
    assert!(through.weights.values() != stage.start.values(), "{name}: nothing moved");
    for &step in steps {
        let again = resumed(stage, &store, step, RestoreMode::Resume);
        assert!(
            again.weights.values() == through.weights.values(),
            "{name}: weights after a cut at step {step}"
        );
        let adapters = |result: &FinishedTraining| {
            result.weights.adapted().map(|merged| merged.adapters().collect::<Vec<_>>())
        };
        assert!(adapters(&again) == adapters(&through), "{name}: the adapter after a cut at step {step}");
        assert_eq!(rows(&again), rows(&through), "{name}: diagnostics after a cut at step {step}");
        assert_eq!(again.record.tokens, through.record.tokens, "{name}: tokens after a cut at step {step}");
    }
}

/// A stage that is asked to stop leaves a checkpoint after the steps that it has done.
#[test]
fn a_stop_leaves_a_checkpoint_of_the_next_step() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(mopd(1.0), 1);
    let through = finished(&fixture.stage(&train, ROUTED, &models), None);
    let (_folder, store) = store();
    // The events' reader closes its end at the second step, which stops the stage.
    struct Leaves(u32);
    impl std::io::Write for Leaves {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 < 2 { Ok(bytes.len()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let control = Control::new(Leaves(0));
    let stage = Stage { control: &control, ..fixture.stage(&train, ROUTED, &models) };
    let keep = |state: &TrainState| store.keep_state("key", "a stage", state);
    let checkpoints =
        Checkpoints { from: None, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep };
    let Err(stopped) = super::super::train(&stage, Some(checkpoints)) else { panic!("it went on") };
    assert!(matches!(stopped.error, Error::Interrupted));
    assert_eq!((store.steps("key"), stopped.record.rows.len()), (vec![2], 4));
    let keep = |_: &TrainState| Ok(());
    let from = Some((store.last_state("key").0.unwrap(), RestoreMode::Resume));
    let again = finished(
        &fixture.stage(&train, ROUTED, &models),
        Some(Checkpoints { from, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep }),
    );
    assert!(again.weights.values() == through.weights.values());
}

/// An interruption does not wait for long rollouts: the resumed step draws the same prompts and completions.
#[test]
fn a_stop_in_the_middle_of_rollouts_leaves_a_checkpoint_of_that_step() {
    let mut train = train(mopd(1.0), 1);
    let long = Rollout::new(5, Producer::student(Sampling::new(8, 1.0, 100)));
    train.rollout = long.clone();
    stopped_in_rollouts(&train);
    // The same for an interruption while prompts are chosen.
    let mut choosing = train.clone();
    choosing.rollout = Rollout::new(5, Producer::student(Sampling::new(1, 1.0, 6)));
    let writer = Producer::teacher(Sampling::new(64, 1.0, 100));
    let mut chosen = curriculum(writer, 0.0, Some(1));
    chosen.measures[0].value = curriculum::moving();
    choosing.curriculum = Some(chosen);
    stopped_in_rollouts(&choosing);
    // A part's replay buffer stays unchanged while another part's rollouts are not complete.
    let student = Producer::student(Sampling::new(1, 1.0, 6));
    train.rollout = Rollout::new(5, replay(student, ReplayContents::Rollouts, 9, None));
    train.own_data = vec![OwnData { rollout: long, objective: mopd(1.0) }];
    stopped_in_rollouts(&train);
}

fn stopped_in_rollouts(train: &Train<Objective>) {
    let fixture = Fixture::new();
    let models = roomy();
    let through = finished(&fixture.stage(train, ROUTED, &models), None);
    let (_folder, store) = store();
    // The reader of the events stops the stage a moment after its second step, while it draws rollouts of a
    // later one.
    struct Listens(u32, std::sync::mpsc::Sender<()>);
    impl std::io::Write for Listens {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 == 2 {
                self.1.send(()).unwrap();
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (heard, second) = std::sync::mpsc::channel();
    let control = Control::new(Listens(0, heard));
    let stage = Stage { control: &control, ..fixture.stage(train, ROUTED, &models) };
    let keep = |state: &TrainState| store.keep_state("key", "a stage", state);
    let stopped = std::thread::scope(|scope| {
        let control = &control;
        scope.spawn(move || {
            second.recv().unwrap();
            std::thread::sleep(Duration::from_millis(2));
            control.interrupt();
        });
        let checkpoints =
            Checkpoints { from: None, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep };
        super::super::train(&stage, Some(checkpoints)).err().expect("it is stopped before its last step")
    });
    assert!(matches!(stopped.error, Error::Interrupted));
    let kept = store.steps("key");
    assert!(kept.len() == 1 && kept[0] >= 2, "{kept:?}");
    let parts = 1 + train.own_data.len();
    assert_eq!(stopped.record.rows.len(), 2 * parts * kept[0] as usize);
    let keep = |_: &TrainState| Ok(());
    let from = Some((store.last_state("key").0.unwrap(), RestoreMode::Resume));
    let again = finished(
        &fixture.stage(train, ROUTED, &models),
        Some(Checkpoints { from, rollouts: None, scores: None, pace: Pace::Sparing, keep: &keep }),
    );
    assert!(again.weights.values() == through.weights.values());
}

/// A fork has the other stage's weights, optimizer state and position in the data, but its own objective. A
/// state that does not fit is refused.
#[test]
fn a_fork_goes_on_from_anothers_state() {
    let fixture = Fixture::new();
    let models = models(true);
    let (one, mut other) = (train(mopd(5.0), 1), train(mopd(5.0), 1));
    other.objective = direct(Support::Full, Mass::Raw);
    other.learning_rate = Schedule::Constant { value: 1e-3 }.into();
    let (_folder, store) = store();
    let stage = fixture.stage(&one, ROUTED, &models);
    with_states(&stage, &store);
    let edited = fixture.stage(&other, ROUTED, &models);
    let forked = resumed(&edited, &store, 2, RestoreMode::Fork);
    // By hand: two steps of the first stage, then two of the other.
    let mut trainer = Trainer::new(&stage).unwrap();
    for step in 0..2 {
        trainer.step(step, &mut Default::default()).unwrap();
    }
    let mut second = Trainer::new(&edited).unwrap();
    second.student.optimizer = trainer.student.optimizer;
    second.student.model.flat().shallow_clone().detach().copy_(trainer.student.model.flat());
    second.parts[0].batches = trainer.parts.remove(0).batches;
    for step in 2..4 {
        second.step(step, &mut Default::default()).unwrap();
    }
    assert!(forked.weights.values() == to_vec(second.student.model.flat()));

    let mut frozen = one.clone();
    frozen.trainable =
        Trainable::Weights { only: Some(vec![WeightFilter::Group(WeightGroup::Norm)]), except: vec![] };
    let keep = |_: &TrainState| Ok(());
    let from = |mode| {
        Some(Checkpoints {
            from: Some((state(&store, 2), mode)),
            rollouts: None,
            scores: None,
            pace: Pace::Sparing,
            keep: &keep,
        })
    };
    let narrow = fixture.stage(&frozen, ROUTED, &models);
    let Err(stopped) = super::super::train(&narrow, from(RestoreMode::Fork)) else { panic!("shapes differ") };
    assert!(
        stopped.error.to_string().contains("cannot fork from the checkpoint of step 2: `trained` is"),
        "{}",
        stopped.error
    );
    // A stage's own state that does not fit, for example of another version, is ignored.
    let Ok(anew) = super::super::train(&narrow, from(RestoreMode::Resume)) else { panic!("it begins anew") };
    assert!(anew.weights.values() == finished(&narrow, None).weights.values());
}
