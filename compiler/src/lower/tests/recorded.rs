//! Turns of recorded trajectories: trajectories are drawn, and no turn has a reward.

use std::rc::Rc;

use mopd_plan::producers::Writer;

use super::*;

fn distilled(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

fn rollout(source: RolloutSource) -> Rc<Rollout> {
    Rc::new(Rollout::new(source, HERE))
}

fn recorded(field: &str) -> Rc<Rollout> {
    rollout(RolloutSource::Data { field: field.into() })
}

fn each_turn(history: Rc<Rollout>, of: Rc<Rollout>) -> RolloutSource {
    RolloutSource::EachTurn { history, of }
}

fn turns(n: u32) -> RolloutSource {
    each_turn(recorded("trajectory"), rollout(student(4, n).0))
}

fn refusals(change: impl FnOnce(&mut Train)) -> Vec<String> {
    let mut experiment = experiment();
    distilled(&mut experiment).rollout.source = turns(1);
    change(distilled(&mut experiment));
    refusals_of(&experiment)
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

fn planned(source: RolloutSource) -> Plan {
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = source;
    compiled(&sound)
}

#[test]
fn a_step_draws_trajectories() {
    let plan = planned(turns(2));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it is trained") };
    let kind = train.rollout.producer.kind();
    assert_eq!((train.trajectory(), kind.group(), kind.is_redrawn()), (Some("trajectory"), 2, true));
    let writers: Vec<Writer> = train.rollout.producer.drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(
        (writers, train.producers().flat_map(plan::Producer::fields_of_data).count()),
        (vec![Writer::Student], 0)
    );
    assert_eq!(kind.policy().map(|(writer, sampling)| (writer, sampling.n)), Ok((Writer::Student, 2)));
    let form = &train.objective.normal_form.prefixes;
    assert_eq!(
        form,
        "student turns (2 for each of the assistant's in data (field `trajectory`)) (temperature 1)"
    );
    // The number of turns is known from the data only.
    let cost = plan.stages[4].cost;
    assert_eq!((cost.sequences, cost.tokens, cost.flops), (None, None, None));
    assert!(cost.memory.is_some());
    let plain = planned(student(4, 2).0);
    assert!(plain.stages[4].cost.sequences.is_some());
    let keys = [turns(2), turns(1), each_turn(recorded("episode"), rollout(student(4, 2).0))];
    let keys = keys.map(|source| planned(source).stages[4].key.clone());
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[0] != plain.stages[4].key);
}

#[test]
fn recorded_turns_refuse_other_producers() {
    let inside = |source: RolloutSource| {
        refusals(move |train| train.rollout.source = each_turn(recorded("trajectory"), rollout(source)))
    };
    let mixed = RolloutSource::TokenMix { alpha: number(0.5), of: rollout(student(4, 1).0) };
    assert_eq!(inside(mixed.clone()), supported("`each_turn` of the rollout `token_mix`"));
    assert_eq!(
        refusals(|train| train.rollout.source = each_turn(rollout(mixed), rollout(student(4, 1).0))),
        supported("`each_turn` of trajectories from `token_mix`")
    );
    let retry = || Edit::Retry { until: signal(PlainSignal::Correct), at_most: 8 };
    assert_eq!(
        refusals(|train| train.rollout.edits = vec![retry()]),
        supported("the edit `retry` of the rollout `each_turn`")
    );
    let edited = Rollout { edits: vec![retry()], ..(*rollout(student(4, 1).0)).clone() };
    assert_eq!(
        refusals(|train| train.rollout.source = each_turn(recorded("trajectory"), Rc::new(edited))),
        supported("the edit `retry` of a rollout")
    );
    let mix =
        RolloutSource::Mix { share: number(0.5), first: rollout(turns(1)), second: rollout(student(4, 1).0) };
    assert_eq!(
        refusals(|train| train.rollout.source = mix),
        supported("the rollout `each_turn` inside another one")
    );
    assert_eq!(
        refusals(|train| train.keep = Keep::Correct),
        supported("`keep = correct` of the rollout `each_turn`")
    );
    let solved = || {
        apply(
            Function::Greater,
            [&reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group), &number(0.0)],
        )
    };
    assert_eq!(
        refusals(|train| train.filter = Some(solved())),
        supported("a `filter` of the rollout `each_turn`")
    );
    assert_eq!(
        refusals(|train| train.size = BatchSize::Sequences(8)),
        supported("a batch of the rollout `each_turn` that is counted in sequences")
    );
    assert_eq!(
        refusals(|train| {
            let own =
                Term { data: Some(recorded("answer")), ..term("own", live(Live::Part(ModelSignal::Logp))) };
            train.objective.terms.push(own);
        }),
        supported("a term with its own completions together with the rollout `each_turn`")
    );
}

#[test]
fn a_turn_has_no_verdict_and_no_place_in_others() {
    let weighed = |of: &Formula| apply(Function::Multiply, [of, &live(Live::Part(ModelSignal::Logp))]);
    for (of, name) in [
        (Signal::Plain(PlainSignal::Reward), "reward"),
        (Signal::RewardPart { part: "format".into() }, "reward.format"),
        (Signal::Plain(PlainSignal::Correct), "correct"),
        (Signal::Plain(PlainSignal::Turn), "turn"),
        (Signal::InSpan(NamedSpan::FinalTurn), "span.final_turn"),
    ] {
        let said = refusals(|train| train.objective = objective(weighed(&signal(of)), token_mean()));
        assert_eq!(said, supported(&format!("the signal `{name}` of the turns of a recorded trajectory")));
    }
    // Numbers of a single turn can be read.
    for of in [
        Signal::Plain(PlainSignal::Position),
        Signal::Plain(PlainSignal::Length),
        Signal::Plain(PlainSignal::Truncated),
    ] {
        let mut sound = experiment();
        distilled(&mut sound).rollout.source = turns(1);
        distilled(&mut sound).objective = objective(weighed(&signal(of)), token_mean());
        compiled(&sound);
    }
}
