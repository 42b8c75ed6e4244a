//! Terms with completions of their own.

use std::rc::Rc;

use super::*;

fn data(field: &str) -> Option<Rc<Rollout>> {
    let source = RolloutSource::Data { field: field.into() };
    Some(Rc::new(Rollout::new(source, HERE)))
}

fn own(name: &str, weight: f64, field: &str) -> Term {
    let value = apply(Function::Multiply, [&number(weight), &live(Live::Part(ModelSignal::Logp))]);
    Term { data: data(field), ..term(name, value) }
}

/// The student's stage, after a change of its terms.
fn student_with(change: impl FnOnce(&mut Vec<Term>)) -> (plan::Train<plan::Objective>, plan::StageFacts) {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    change(&mut train.objective.terms);
    let plan = compiled(&experiment);
    let plan::Stage::Train(train) = plan.experiment.models[4].stage.clone() else { panic!("it is trained") };
    (*train, plan.stages[4].clone())
}

/// For each set of completions, its producer and its terms.
fn sets(train: &plan::Train<plan::Objective>) -> Vec<(&'static str, Vec<String>)> {
    let producer = |rollout: &plan::Rollout| match &rollout.producer {
        plan::Producer::Data(_) => "data",
        plan::Producer::Student(_) => "student",
        other => panic!("{other:?}"),
    };
    let names = |of: &plan::Objective| of.terms.iter().map(|term| term.name.clone()).collect();
    train.objectives().map(|(rollout, objective)| (producer(rollout), names(objective))).collect()
}

#[test]
fn terms_are_together_that_have_the_same_completions() {
    let (train, facts) = student_with(|terms| {
        terms.insert(0, own("one", -1.0, "answer"));
        terms.extend([own("two", -2.0, "answer"), own("other", -1.0, "demonstration")]);
    });
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        sets(&train),
        [("student", names(&["term"])), ("data", names(&["one", "two"])), ("data", names(&["other"])),]
    );
    assert!(train.rollouts().all(|rollout| rollout.groups == train.rollout.groups));
    // Each set has as many sequences as the stage's rollout, and all are trained on.
    let (alone, usual) = student_with(|_| {});
    assert!(alone.own_data.is_empty());
    assert_eq!(facts.cost.sequences, usual.cost.sequences.map(|sequences| 3 * sequences));
    // Data is not sampled, and no teacher scores it.
    let (flops, usual) = (facts.cost.flops.unwrap(), usual.cost.flops.unwrap());
    assert!(flops > 2.0 * usual && flops < 3.0 * usual, "{flops:e} {usual:e}");
}

#[test]
fn stage_rollout_is_not_drawn_if_every_term_has_its_own() {
    let (train, _) = student_with(|terms| {
        *terms = vec![own("one", -1.0, "answer"), own("other", -1.0, "demonstration")];
    });
    assert_eq!(sets(&train).iter().map(|(producer, _)| *producer).collect::<Vec<_>>(), ["data", "data"]);
    assert!(train.objective.normal_form.prefixes.starts_with("`one` on data"), "{:?}", train.objective);
}

/// If a coefficient is 0, no completions are drawn for the term.
#[test]
fn a_term_that_is_multiplied_away_needs_no_completions() {
    let (train, facts) = student_with(|terms| terms.push(own("one", 0.0, "answer")));
    assert_eq!((train.own_data.len(), &*train.objective.terms[0].name), (0, "term"));
    let (without, usual) = student_with(|_| {});
    assert_eq!((train.objective.graph, facts.key), (without.objective.graph, usual.key));
}

#[test]
fn keys_have_the_terms_and_their_completions() {
    let key = |weight, field| student_with(|terms| terms.push(own("one", weight, field))).1.key;
    let first = key(-1.0, "answer");
    let usual = student_with(|_| {}).1.key;
    assert!([&usual, &key(-0.5, "answer"), &key(-1.0, "demonstration")].iter().all(|other| **other != first));
    let renamed = student_with(|terms| terms.push(own("renamed", -1.0, "answer"))).1.key;
    assert_eq!(renamed, first);
}
