//! Trajectories sampled with drafts: the rejected tokens of a draft form a row, but no completion.

use std::rc::Rc;

use mopd_plan::producers::{Producer, Writer};

use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

fn drafts(n: u32) -> RolloutSource {
    let of = Rollout::new(student(4, n).0, HERE);
    RolloutSource::Speculative { block: 16, of: Rc::new(of) }
}

fn refusals(change: impl FnOnce(&mut Train)) -> Vec<String> {
    let mut experiment = experiment();
    change(distilled(&mut experiment));
    let (sources, origins) = sources();
    let found =
        super::super::compile(&experiment, &origins, &sources, true).expect_err("it can't be executed");
    found.into_iter().map(|diagnostic| diagnostic.message).collect()
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

/// 1 for accepted tokens, 2 * 0.9^(offset - 1) for rejected ones.
fn worth() -> Formula {
    let further = apply(Function::Subtract, [&signal(PlainSignal::Offset), &number(1.0)]);
    let decay = apply(Function::Power, [&number(0.9), &further]);
    let rejected = apply(Function::Multiply, [&number(2.0), &decay]);
    apply(Function::Where, [&signal(PlainSignal::Accepted), &number(1.0), &rejected])
}

fn weighed(weight: &Formula) -> Formula {
    apply(Function::Multiply, [weight, &live(Live::Part(ModelSignal::Logp))])
}

/// One denominator for accepted and rejected tokens.
fn joint() -> Reduce {
    let all = reduce(Reduction::Sum, &worth(), Axis::Batch);
    let sum = ReduceStep { operation: Reduction::Sum, ..step(Axis::Token, Axis::Batch) };
    Reduce { denominator: Some(all), ..by_steps(vec![sum]) }
}

fn train_of(experiment: &Experiment) -> plan::Train<plan::Objective> {
    let plan = compiled(experiment);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    (**train).clone()
}

#[test]
fn an_objective_counts_tokens() {
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = drafts(2);
    distilled(&mut sound).objective = objective(weighed(&worth()), joint());
    let train = train_of(&sound);
    let producer = &train.rollout.producer;
    let writers: Vec<Writer> = producer.drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(writers, [Writer::Guide(plan::Role::TEACHER), Writer::Student]);
    assert!(matches!(producer, Producer::Speculative(_)) && producer.is_redrawn());
    assert_eq!(train.rollout.sequences(), 2 * train.rollout.groups);
    // Another length of drafts is another run with the same number of rows, since each draft may end after
    // one token.
    let key = |plan: &Plan| (plan.stages[4].key.clone(), plan.stages[4].cost);
    let (one, of_one) = key(&compiled(&sound));
    let RolloutSource::Speculative { block, .. } = &mut distilled(&mut sound).rollout.source else {
        panic!("it drafts")
    };
    *block = 4;
    let (other, of_other) = key(&compiled(&sound));
    assert!(one != other && of_one == of_other);
    // At most one row for each token of a trajectory, beside the trajectory.
    let mut plain = experiment();
    distilled(&mut plain).rollout.source = student(4, 2).0;
    distilled(&mut plain).objective = objective(live(Live::Part(ModelSignal::Logp)), token_mean());
    let (_, of_plain) = key(&compiled(&plain));
    let sampled = train.rollout.producer.sampling().unwrap().max_tokens;
    assert_eq!(of_one.sequences, of_plain.sequences.map(|all| all * u64::from(sampled + 1)));
    assert_eq!(of_one.tokens, of_plain.tokens.map(|all| all * u64::from(sampled + 1)));
}

#[test]
fn a_rejected_draft_is_no_completion() {
    let refused = |value: Formula, reduce: Reduce, construct: &str| {
        let said = refusals(|train| {
            train.rollout.source = drafts(2);
            train.objective = objective(value, reduce);
        });
        assert_eq!(said, supported(&format!("{construct} in an objective on the rollout `speculative`")));
    };
    let plain = || live(Live::Part(ModelSignal::Logp));
    refused(plain(), sequence_mean(), "a number of each sequence");
    for (of, name) in [
        (Signal::Plain(PlainSignal::Reward), "reward"),
        (Signal::Plain(PlainSignal::Correct), "correct"),
        (Signal::Plain(PlainSignal::Truncated), "truncated"),
        (Signal::Plain(PlainSignal::Length), "length"),
        (Signal::Plain(PlainSignal::Position), "position"),
        (Signal::InSpan(NamedSpan::Tag("answer".into())), "span"),
    ] {
        refused(weighed(&signal(of)), token_mean(), &format!("the signal `{name}`"));
    }
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    for axis in [Axis::Sequence, Axis::Group] {
        let what = format!("a number of each {}", axis.name());
        refused(weighed(&reduce(Reduction::Mean, &entropy, axis)), token_mean(), &what);
    }
    let scored =
        |axis| statistic(Statistic::Zscore { deviation: Deviation::Sample, epsilon: 1e-4 }, &entropy, axis);
    refused(weighed(&scored(Axis::Sequence)), token_mean(), "a comparison over each sequence");
    // Over the batch, the comparison is well-defined.
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = drafts(2);
    distilled(&mut sound).objective = objective(weighed(&scored(Axis::Batch)), token_mean());
    compiled(&sound);
    let level = signal(Signal::Data { field: "level".into() });
    distilled(&mut sound).objective = objective(weighed(&level), token_mean());
    compiled(&sound);
}

#[test]
fn curriculum_and_filters_refuse_drafts() {
    let with = |change: &dyn Fn(&mut Train)| {
        refusals(|train| {
            train.rollout.source = drafts(2);
            train.objective = objective(live(Live::Part(ModelSignal::Logp)), token_mean());
            change(train);
        })
    };
    let keep = || Edit::Keep { condition: signal(PlainSignal::Correct) };
    assert_eq!(
        with(&|train| train.rollout.edits = vec![keep()]),
        supported("the edit `keep` of the rollout `speculative`")
    );
    assert_eq!(
        with(&|train| train.keep = Keep::Correct),
        supported("`keep = correct` of the rollout `speculative`")
    );
    let same = reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group);
    let some = || apply(Function::Greater, [&same, &number(0.0)]);
    assert_eq!(
        with(&|train| train.filter = Some(some())),
        supported("a `filter` of the rollout `speculative`")
    );
    let of = |source, edits| Rc::new(Rollout { edits, ..Rollout::new(source, HERE) });
    let drafted = |of| RolloutSource::Speculative { block: 4, of };
    assert_eq!(
        with(&|train| train.rollout.source = drafted(of(student(4, 2).0, vec![keep()]))),
        supported("the edit `keep` of a rollout")
    );
    let answers = || RolloutSource::Data { field: "answer".into() };
    assert_eq!(
        with(&|train| train.rollout.source = drafted(of(answers(), vec![]))),
        supported("`speculative` of the rollout `data`")
    );
    let mixed = || RolloutSource::Mix {
        share: number(0.5),
        first: of(drafts(1), vec![]),
        second: of(student(4, 1).0, vec![]),
    };
    assert_eq!(
        with(&|train| train.rollout.source = mixed()),
        supported("the rollout `speculative` inside another one")
    );
}

#[test]
fn offsets_are_of_drafts() {
    for (of, name) in
        [(Signal::Plain(PlainSignal::Accepted), "accepted"), (Signal::Plain(PlainSignal::Offset), "offset")]
    {
        assert_eq!(
            refusals(|train| train.objective = objective(weighed(&signal(of)), token_mean())),
            supported(&format!("the signal `{name}` of completions that are not sampled with drafts"))
        );
    }
}

/// The teacher that verifies drafts reads the student's prompt, with its tokens. No template shows the
/// rejected tokens.
#[test]
fn refuses_unsupported_verifying_teachers() {
    let with = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = experiment();
        distilled(&mut experiment).rollout.source = drafts(2);
        distilled(&mut experiment).objective = objective(live(Live::Part(ModelSignal::Logp)), token_mean());
        change(&mut experiment);
        let (sources, origins) = sources();
        let found =
            super::super::compile(&experiment, &origins, &sources, true).expect_err("it can't be executed");
        found.into_iter().map(|diagnostic| diagnostic.message).collect::<Vec<_>>()
    };
    let template = |slots: &[Slot]| {
        let pieces = slots.iter().cloned().map(TemplatePiece::Slot).collect();
        Some(Rc::new(Template { name: "shown".into(), pieces, origin: HERE }))
    };
    assert_eq!(
        with(&|experiment| experiment.teachers[0].sees = template(&[Slot::Prompt])),
        supported(
            "a teacher that takes part in sampling each token and reads another prompt than the \
            student"
        )
    );
    assert_eq!(
        with(&|experiment| experiment.teachers[0].sees = template(&[Slot::Prompt, Slot::Feedback])),
        supported(
            "the template `shown`, which shows the outcome of a completion, with the rollout \
            `speculative`"
        )
    );
}
