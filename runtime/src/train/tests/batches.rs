//! The sequences of a batch: length limits and epochs.

use super::*;

/// A domain's `limits` applies to completions of the data as to rollouts: a longer completion is cut off,
/// counted as truncated, and its rest is not trained on.
#[test]
fn limits_bound_completions_of_the_data() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(super::objective::objectives::nll(), 1);
    let mut stage = fixture.stage(&train, ROUTED, &models);
    let lengths = |stage: &Stage| {
        let mut trainer = Trainer::new(stage).unwrap();
        let sequences = (0..8)
            .flat_map(|step| trainer.rollouts_of(step).unwrap().remove(0).sequences.list)
            .collect::<Vec<_>>();
        let of = |source: usize| sequences.iter().filter(move |sequence| sequence.source == source);
        [0, 1].map(|source| {
            let longest = of(source).map(|sequence| sequence.completion.len()).max().unwrap();
            (longest, of(source).any(|sequence| sequence.truncated))
        })
    };
    // Answers of 1 to 7 bytes, and the end token.
    assert_eq!(lengths(&stage), [(8, false), (8, false)]);
    stage.sources[1].limit = Some(5);
    assert_eq!(lengths(&stage), [(8, false), (5, true)]);
    stage.sources[1].limit = Some(8);
    assert_eq!(lengths(&stage), [(8, false), (8, false)]);
}

/// Every epoch visits each prompt of each domain once, whatever the domains' shares. The last batch has the
/// remaining prompts.
#[test]
fn epochs_visit_each_prompt_of_each_domain_as_often_as_they_say() {
    let fixture = Fixture::new();
    let models = models(true);
    let mut train = train(super::objective::objectives::nll(), 1);
    train.length = Length::Epochs(3);
    let mut stage = fixture.stage(&train, ROUTED, &models);
    stage.sources[0].share = 0.9;
    stage.sources[1].share = 0.1;
    // 3 times 16 prompts, 7 a step.
    stage.steps = 7;
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut visits = [[0; 8]; 2];
    for step in 0..stage.steps {
        let sequences = trainer.rollouts_of(step).unwrap().remove(0).sequences;
        assert_eq!(sequences.list.len(), if step == 6 { 6 } else { 7 });
        sequences.list.iter().for_each(|sequence| visits[sequence.source][sequence.record] += 1);
    }
    assert_eq!(visits, [[3; 8]; 2]);
    let Err(over) = trainer.rollouts_of(7) else { panic!("nothing is left") };
    assert!(over.to_string().contains("as often as the stage has epochs"), "{over}");
}
