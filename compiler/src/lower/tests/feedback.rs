//! Feedback written by another model, and that model's own attempts: their part in a stage's plan and key,
//! and refusals.

use std::rc::Rc;

use mopd_plan::views::{Piece, Slot as PlanSlot};

use super::*;
use mopd_experiment::formula::WeightedRole;

fn named(place: u32, name: &str) -> Role {
    Role::Named { teacher: TeacherId(place), name: name.into() }
}

fn tutored() -> Role {
    named(2, "tutored")
}

fn peer() -> Role {
    named(1, "specialist[sort]")
}

fn template(name: &str, slots: &[Slot]) -> Rc<Template> {
    let pieces = slots.iter().cloned().map(TemplatePiece::Slot).collect();
    Rc::new(Template { name: name.into(), pieces, origin: HERE })
}

fn student_of(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

fn sampling_of(rollout: &RolloutSource) -> Sampling {
    let (RolloutSource::Sample(sampling) | RolloutSource::From { sampling, .. }) = rollout else {
        panic!("it is drawn")
    };
    sampling.clone()
}

fn written(by: Role, slots: &[Slot]) -> Rollout {
    let sampling = sampling_of(&student(4, 1).0);
    let sees = Some(template("critique", slots));
    let source = RolloutSource::From { teacher: by, sees, sequences: None, sampling };
    Rollout::new(source, HERE)
}

fn right() -> Formula {
    signal(Signal::Of { role: peer(), part: ModelSignal::Correct })
}

/// `where(available(tutored), tutored.logp * right, 0)`
fn guarded(right: &Formula) -> Formula {
    let available = signal(Signal::Available { role: tutored() });
    let read = apply(Function::Multiply, [&logp(tutored()), &live(Live::Part(ModelSignal::Logp))]);
    let read = apply(Function::Multiply, [&read, right]);
    apply(Function::Where, [&available, &read, &number(0.0)])
}

/// The second expert writes for the student's own copy, where its own attempt is right.
fn advised() -> Experiment {
    let mut experiment = experiment();
    let feedback = Some(Rc::new(written(peer(), &[Slot::Prompt, Slot::Draft])));
    let sees = Some(template("shown", &[Slot::Prompt, Slot::Feedback]));
    let weights = TeacherWeights::Student(SelfCopy::Ema { rate: 0.95 });
    experiment.teachers.push(Teacher { sees, feedback, ..teacher("tutored", weights) });
    let train = student_of(&mut experiment);
    train.teachers.clear();
    train.objective = objective(guarded(&right()), sequence_mean());
    experiment
}

fn refusals(change: impl FnOnce(&mut Experiment)) -> Vec<String> {
    let mut experiment = advised();
    change(&mut experiment);
    refusals_of(&experiment)
}

fn refused(change: impl FnOnce(&mut Experiment), construct: &str) {
    assert_eq!(refusals(change), [format!("{construct} is not supported yet")]);
}

fn change_feedback(change: impl FnOnce(&mut Rollout)) -> impl FnOnce(&mut Experiment) {
    |experiment| {
        let mut rollout = (**experiment.teachers[2].feedback.as_ref().expect("it is written")).clone();
        change(&mut rollout);
        experiment.teachers[2].feedback = Some(Rc::new(rollout));
    }
}

fn change_sampling(change: impl FnOnce(&mut Sampling)) -> impl FnOnce(&mut Experiment) {
    change_feedback(|rollout| {
        let RolloutSource::From { sampling, .. } = &mut rollout.source else { panic!("a teacher writes") };
        change(sampling);
    })
}

#[test]
fn feedback_is_in_the_plan() {
    let plan = compiled(&advised());
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert!(!train.only_student_writes());
    let [feedback] = train.feedback.as_slice() else { panic!("{:?}", train.feedback) };
    assert_eq!((feedback.name.as_str(), feedback.sampling.max_tokens), ("tutored", 16));
    assert_eq!(train.scorers.name(feedback.writer), "specialist[sort]");
    let pieces = &feedback.sees.as_ref().expect("a template").pieces;
    assert_eq!(*pieces, [Piece::Slot(PlanSlot::Prompt), Piece::Slot(PlanSlot::Draft)]);
    assert_eq!(feedback.tokens(20), 36, "a completion is read, and 16 tokens are written");
    let tutored = train.scorers.iter().find(|(_, scorer)| scorer.name == "tutored").expect("it is read").0;
    let shown = &train.scorers.choices(tutored)[0].sees.as_ref().expect("a template").pieces;
    assert_eq!(shown[1], Piece::Slot(PlanSlot::WrittenFeedback(0)));
    assert_eq!(train.feedback_for(&train.objective), [0]);
    assert_eq!(train.objective.attempts(), [feedback.writer]);
    assert!(!train.objective.reads(feedback.writer), "it writes, and scores nothing");
    assert_eq!(train.scorers.choices(feedback.writer).len(), 2, "about the prompts of both domains");
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.contains(r#"{"written_feedback":0}"#) && json.contains(r#""signal":"correct_of""#));
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn feedback_settings_change_the_key() {
    let key = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = advised();
        change(&mut experiment);
        compiled(&experiment).stages[4].key.clone()
    };
    let plain = key(&|_| {});
    let renamed = |experiment: &mut Experiment| experiment.teachers[2].name = "other".into();
    assert_eq!(key(&renamed), plain);
    let moved: [&dyn Fn(&mut Experiment); 5] = [
        &|experiment| change_sampling(|sampling| sampling.max_tokens = number(17.0))(experiment),
        &|experiment| change_sampling(|sampling| sampling.temperature = number(0.5))(experiment),
        &|experiment| {
            experiment.teachers[2].feedback = Some(Rc::new(written(peer(), &[Slot::Draft, Slot::Prompt])));
        },
        &|experiment| {
            let by = named(0, "specialist[add]");
            experiment.teachers[2].feedback = Some(Rc::new(written(by, &[Slot::Prompt, Slot::Draft])));
        },
        &|experiment| {
            let own = signal(PlainSignal::Correct);
            student_of(experiment).objective = objective(guarded(&own), sequence_mean());
        },
    ];
    let mut keys: Vec<String> = moved.iter().map(|change| key(*change)).chain([plain]).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 6);
    // Both cost operations: the feedback, and the writer's own completions.
    let flops = |experiment: &Experiment| compiled(experiment).stages[4].cost.flops.expect("it is known");
    let mut unasked = advised();
    student_of(&mut unasked).objective = objective(guarded(&signal(PlainSignal::Correct)), sequence_mean());
    let mut unwritten = unasked.clone();
    unwritten.teachers[2].feedback = None;
    assert!(flops(&advised()) > flops(&unasked) && flops(&unasked) > flops(&unwritten));
}

#[test]
fn refuses_unsupported_feedback() {
    let shown = |slots: &'static [Slot]| {
        move |experiment: &mut Experiment| experiment.teachers[2].sees = Some(template("shown", slots))
    };
    refused(
        shown(&[Slot::Prompt]),
        "`feedback` for the teacher `tutored`, whose template has no slot \
        `{feedback}`",
    );
    let otherwise = "`feedback` for `tutored` by anything but `from(...)` at every step";
    refused(change_feedback(|rollout| rollout.source = student(4, 1).0), otherwise);
    refused(
        change_feedback(|rollout| {
            let RolloutSource::From { sequences, .. } = &mut rollout.source else {
                panic!("a teacher writes")
            };
            *sequences = Some(8);
        }),
        otherwise,
    );
    refused(
        |experiment| {
            experiment.teachers[2].feedback = Some(Rc::new(written(Role::Teacher, &[Slot::Prompt])));
        },
        "`feedback` for `tutored` by the role `teacher`",
    );
    refused(
        change_sampling(|sampling| sampling.n = 2),
        "several samples (`n`) of the `feedback` for `tutored`",
    );
    let member = Slot::Group(GroupMember::Correct);
    refused(
        |experiment| {
            experiment.teachers[2].feedback = Some(Rc::new(written(peer(), &[Slot::Prompt, member])))
        },
        "the slot `{group}` in the template `critique` of the model that writes `feedback`",
    );
    let composed = |experiment: &mut Experiment| {
        experiment.teachers[1].weights = TeacherWeights::Pooled {
            pool: Pool::Mixture,
            members: vec![WeightedRole { weight: 1.0, role: named(0, "specialist[add]") }],
        };
    };
    let own = signal(PlainSignal::Correct);
    refused(
        |experiment| {
            composed(experiment);
            student_of(experiment).objective = objective(guarded(&own), sequence_mean());
        },
        "`feedback` for `tutored` by a teacher that has its own temperature or is composed of other \
        teachers",
    );
    refused(
        |experiment| {
            experiment.teachers[1].align = Alignment::Tokens;
            student_of(experiment).objective = objective(guarded(&own), sequence_mean());
        },
        "`feedback` for `tutored` by a teacher with another tokenizer",
    );
    refused(
        |experiment| {
            let mut rollout = written(peer(), &[]);
            let RolloutSource::From { sees, .. } = &mut rollout.source else { panic!("a teacher writes") };
            *sees = None;
            experiment.teachers[2].feedback = Some(Rc::new(rollout));
            experiment.teachers[1].sees = Some(template("told", &[Slot::Prompt, Slot::Feedback]));
            student_of(experiment).objective = objective(guarded(&own), sequence_mean());
        },
        "`feedback` for `tutored` by a teacher whose template shows the outcome of a completion",
    );
    let unguarded = apply(Function::Multiply, [&logp(tutored()), &live(Live::Part(ModelSignal::Logp))]);
    refused(
        |experiment| student_of(experiment).objective = objective(unguarded, sequence_mean()),
        "an objective that reads `tutored` without testing `available`, although a slot of the template \
        `shown` may be empty",
    );
}

#[test]
fn refuses_unsupported_teacher_attempts() {
    let unwritten = |experiment: &mut Experiment| {
        experiment.teachers[2].feedback = None;
        experiment.teachers[2].sees = None;
    };
    let of = |of: &str| format!("`specialist[sort].correct` {of}");
    refused(
        |experiment| {
            unwritten(experiment);
            experiment.teachers[1].temperature = 0.5;
        },
        &of("of a teacher that has its own temperature or is composed of other teachers"),
    );
    refused(
        |experiment| {
            unwritten(experiment);
            experiment.teachers[1].align = Alignment::Tokens;
        },
        &of("of a teacher with another tokenizer"),
    );
    refused(
        |experiment| {
            unwritten(experiment);
            experiment.teachers[1].sees = Some(template("told", &[Slot::Prompt, Slot::Feedback]));
        },
        &of("of a teacher whose template shows the outcome of a completion"),
    );
    let unplain = of("together with completions that are not sampled by `sample(...)` at every step");
    refused(
        |experiment| {
            unwritten(experiment);
            student_of(experiment).rollout.source = RolloutSource::Data { field: "answer".into() };
        },
        &unplain,
    );
    refused(|experiment| student_of(experiment).keep = Keep::Correct, &unplain);
    // The filter is evaluated before other models write.
    let told = refusals(|experiment| {
        let all = Formula::new(
            FormulaKind::Reduce {
                reduction: Reduction::Mean,
                operand: right(),
                among: None,
                on: None,
                fraction: None,
            },
            Unit::Bool,
            Axis::Group,
            false,
            Origin(1),
        );
        student_of(experiment).filter = Some(all);
    });
    assert_eq!(told.len(), 1, "{told:?}");
}
