//! The serialised names of producers do not change: plans of earlier versions can be read, and keys keep
//! their bits.

use std::collections::BTreeSet;

use mopd_expr::graph::Graph;

use super::*;
use crate::views::{Piece, Slot};
use crate::{Axis, Engine, EnvironmentProgram, Formula, PlainSignal, Schedule, ScheduleLength, Secret};

const SAMPLING: &str = r#"{"n":2,"temperature":1.0,"max_tokens":8,"stop":[]}"#;

fn sampling() -> Sampling {
    Sampling::new(2, 1.0, 8)
}

#[test]
fn plans_and_keys_have_the_words_that_they_had() {
    let pairs = Producer::pairs(
        Producer::data("best"),
        Model { once: false, model: ModelId(3), sampling: sampling() }.into(),
    );
    let half = Schedule::Constant { value: 0.5 };
    let by_name = |once| Producer::of_scorer(Role::named(1), once, sampling());
    let once = PrecomputedRollouts { sequences: 64, keep: Keep::All };
    let grows = AdaptiveSchedule::Ladder { ladder: 0, values: vec![4.0, 8.0] };
    let cools = Schedule::Linear { from: 1.0, to: 0.5, over: ScheduleLength::Run };
    let guided = |guidance| Guided { guidance, of: Producer::student(sampling()) }.into();
    let replay = Replay {
        of: Producer::student(Sampling { max_tokens_moves: Some(grows), ..sampling() }),
        capacity: 100,
        share: half.clone().into(),
        keeps: ReplayContents::Prompts,
        condition: None,
        order: None,
    };
    let drafted = Speculative { block: 16, rejects: false, of: Producer::student(sampling()) };
    let speculative = Producer::Speculative(Box::new(drafted));
    let each_turn = EachTurn { trajectory: "trajectory".to_owned(), of: Producer::student(sampling()) };
    let each_turn = Producer::EachTurn(Box::new(each_turn));
    let cases = [
        (Rollout::new(8, Producer::data("answer")), r#"{"from":"data","field":"answer","batch":8}"#),
        (Rollout::new(4, Producer::student(sampling())), r#"{"from":"student","prompts":4,"sampling":S}"#),
        (
            Rollout::new(16, Producer::teacher_once(64, Keep::Correct, sampling())),
            r#"{"from":"teacher","sequences":64,"keep":"correct","batch":16,"sampling":S}"#,
        ),
        (
            Rollout::new(
                6,
                Producer::mix(half.clone(), Producer::student(sampling()), Producer::teacher(sampling())),
            ),
            r#"{"from":"mix","share":{"shape":"constant","value":0.5},"first":{"from":"student","sampling":S},"second":{"from":"teacher","sampling":S},"batch":6}"#,
        ),
        (
            Rollout::new(7, by_name(None)),
            r#"{"from":"teacher","writer":{"scorer":3},"batch":7,"sampling":S}"#,
        ),
        (
            Rollout::new(7, by_name(Some(once))),
            r#"{"from":"teacher","writer":{"scorer":3},"sequences":64,"keep":"all","batch":7,"sampling":S}"#,
        ),
        (
            Rollout::new(9, Producer::Replay(Box::new(replay))),
            r#"{"from":"replay","capacity":100,"share":{"shape":"constant","value":0.5},"keeps":"prompts","of":{"from":"student","sampling":{"n":2,"temperature":1.0,"max_tokens":8,"max_tokens_moves":{"ladder":0,"values":[4.0,8.0]},"stop":[]}},"batch":9}"#,
        ),
        (
            Rollout::new(4, Producer::student(Sampling::new(2, cools, 8))),
            r#"{"from":"student","prompts":4,"sampling":{"n":2,"temperature":{"shape":"linear","from":1.0,"to":0.5,"over":"run"},"max_tokens":8,"stop":[]}}"#,
        ),
        (
            Rollout::new(3, guided(Guidance::TokenMix { alpha: half.clone().into() })),
            r#"{"from":"guided","guidance":"token_mix","alpha":{"shape":"constant","value":0.5},"of":{"from":"student","sampling":S},"batch":3}"#,
        ),
        (
            Rollout::new(3, guided(Guidance::Interleave { top_k: 25 })),
            r#"{"from":"guided","guidance":"interleave","top_k":25,"of":{"from":"student","sampling":S},"batch":3}"#,
        ),
        (
            Rollout::new(3, speculative),
            r#"{"from":"speculative","block":16,"of":{"from":"student","sampling":S},"batch":3}"#,
        ),
        (
            Rollout::new(3, each_turn),
            r#"{"from":"each_turn","trajectory":"trajectory","of":{"from":"student","sampling":S},"batch":3}"#,
        ),
        (
            Rollout { keep: Keep::Correct, ..Rollout::new(4, Producer::student(sampling())) },
            r#"{"from":"student","prompts":4,"sampling":S,"keep_of_step":"correct"}"#,
        ),
        (
            Rollout::new(5, pairs),
            r#"{"from":"pairs","chosen":{"from":"data","field":"best"},"rejected":{"from":"model","model":3,"sampling":S},"batch":5}"#,
        ),
    ];
    for (rollout, text) in &cases {
        let text = text.replace('S', SAMPLING);
        assert_eq!(serde_json::to_string(rollout).unwrap(), text);
        assert_eq!(&serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
        let key =
            serde_json::to_string(&rollout.key(&|id| FieldValue::Text(format!("model {}", id.0)))).unwrap();
        if rollout.producer.models().is_empty() {
            assert_eq!(key, text);
        }
    }
    let key = cases.last().unwrap().0.key(&|id| FieldValue::Text(format!("key {}", id.0)));
    assert_eq!(
        serde_json::to_string(&key).unwrap(),
        r#"{"chosen":{"from":"data","field":"best"},"rejected":{"model":"key 3","sampling":S},"batch":5}"#
            .replace('S', SAMPLING)
    );
}

/// The pieces of the template are in the key, its name is not.
#[test]
fn a_refinement_says_who_writes_and_what_it_sees() {
    let pieces = vec![crate::views::Piece::Slot(crate::views::Slot::Draft)];
    let sees = Some(View { name: "shown".to_owned(), pieces });
    let refine = Refine { by: Role::named(1), sees, of: Producer::student(sampling()) };
    let rollout = Rollout::new(5, Producer::Refine(Box::new(refine)));
    let rest = r#""of":{"from":"student","sampling":S},"batch":5}"#.replace('S', SAMPLING);
    let text = r#"{"from":"refine","by":{"scorer":3},"sees":{"name":"shown","pieces":[{"slot":"draft"}]},"#;
    let text = text.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    let key = r#"{"from":"refine","by":{"scorer":3},"sees":[{"slot":"draft"}],"#.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), key);
    let of = |writer| Some(if writer == Writer::Student { 10 } else { 1000 });
    assert_eq!(rollout.producer.kind().parameters(&of), Some(1010.0));
}

/// The same for a template that a teacher reads as a writer. Its tokens have no policy that other code could
/// use.
#[test]
fn a_teacher_says_what_it_sees_while_it_writes() {
    let pieces = vec![crate::views::Piece::Slot(crate::views::Slot::Prompt)];
    let sees = Some(View { name: "shown".to_owned(), pieces });
    let teacher = Teacher { writer: Role::TEACHER, sees, once: None, sampling: sampling() };
    let rollout = Rollout::new(5, teacher.into());
    let rest = r#""batch":5,"sampling":S}"#.replace('S', SAMPLING);
    let text =
        r#"{"from":"teacher","sees":{"name":"shown","pieces":[{"slot":"prompt"}]},"#.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    let key = r#"{"from":"teacher","sees":[{"slot":"prompt"}],"#.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), key);
    assert_eq!(
        (rollout.producer.writer_templates().count(), rollout.producer.kind().policy().is_err()),
        (1, true)
    );
}

/// The time limit and the paths of a program's files change no result. The files' content is in the
/// key.
#[test]
fn an_edit_says_what_it_edits() {
    let edited = |of| {
        let (command, depends) = ("python3 edit.py".to_owned(), vec!["rules.json".to_owned()]);
        Through { command, time_limit_seconds: 600.0, depends, of }.into()
    };
    let rollout = Rollout::new(5, edited(Producer::student(sampling())));
    let rest = r#""of":{"from":"student","sampling":S},"batch":5}"#.replace('S', SAMPLING);
    let text = r#"{"from":"through","command":"python3 edit.py","time_limit_seconds":600.0,"depends":["rules.json"],"#;
    let text = text.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    let key = r#"{"from":"through","command":"python3 edit.py","#.to_owned() + &rest;
    assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), key);
    let kind = rollout.producer.kind();
    assert_eq!((kind.group(), kind.is_redrawn(), kind.policy().is_err()), (2, true, true));
    assert_eq!(rollout.producer.unedited(), &Producer::student(sampling()));
    let programs: Vec<&str> = rollout.producer.programs().iter().map(|program| program.command).collect();
    assert_eq!((programs, rollout.producer.environments().len()), (vec!["python3 edit.py"], 0));
    let once = edited(Producer::teacher_once(64, Keep::All, sampling()));
    assert_eq!((once.is_redrawn(), once.once().map(|once| once.sequences)), (false, Some(64)));
}

/// The interval at which weights go to a server changes results, its address does not. An interval of one
/// step is not written.
#[test]
fn a_rollout_of_a_server_says_how_old_weights_get() {
    let of = |every| {
        let server = RolloutServer {
            engine: Engine::Mopd,
            url: Secret::Text("http://gpu:8000".to_owned()),
            model: "m".to_owned(),
            push: "w".to_owned(),
            key: None,
        };
        Rollout::new(5, SampledBy { server, sampling: sampling(), every }.into())
    };
    for (every, said, on_policy) in [(1, "", true), (3, r#""every":3,"#, false)] {
        let rollout = of(every);
        let rest = format!(r#"{said}"prompts":5,"sampling":{SAMPLING}}}"#);
        let key = format!(r#"{{"from":"sampled_by","engine":"mopd",{rest}"#);
        assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), key);
        let text = serde_json::to_string(&rollout).unwrap();
        assert!(text.ends_with(&rest), "{text}");
        assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
        assert_eq!(rollout.producer.kind().policy().is_ok(), on_policy);
    }
}

/// The pattern and the replacement change results.
#[test]
fn a_rewrite_says_what_it_changes() {
    let mut graph = Graph::default();
    let value = graph.constant(Axis::Sequence, 0.5);
    let number = Piece::Number(Formula { graph, value });
    let rewrite = |of| {
        let pattern = vec![PatternPiece::Text("sure: ".to_owned()), PatternPiece::Anything];
        let text = vec![Piece::Text("sure: ".to_owned()), number.clone()];
        Rewrite { pattern, text, of }.into()
    };
    let rollout = Rollout::new(5, rewrite(Producer::student(sampling())));
    let text = r#"{"from":"rewrite","pattern":[{"text":"sure: "},"anything"],"text":[{"text":"sure: "},{"number":N}],"of":{"from":"student","sampling":S},"batch":5}"#;
    let Piece::Number(formula) = &number else { unreachable!("it is one") };
    let text = text.replace('N', &serde_json::to_string(formula).unwrap()).replace('S', SAMPLING);
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), text);
    let kind = rollout.producer.kind();
    assert_eq!((kind.group(), kind.is_redrawn(), kind.policy().is_err()), (2, true, true));
    assert!(rollout.producer.all_redrawn() && rollout.producer.is_drawn());
    assert_eq!(rollout.producer.unedited(), &Producer::student(sampling()));
    assert_eq!(kind.parameters(&|_| Some(10)), Some(10.0));
    // Data fields that are inserted count as read, wherever the edit is.
    let hint = || vec![Piece::Slot(Slot::Prompt), Piece::Slot(Slot::Data("hint".to_owned()))];
    let Producer::Rewrite(mut told) = rewrite(Producer::data("answer")) else { unreachable!("it is one") };
    told.text = hint();
    let inside =
        Producer::mix(Schedule::Constant { value: 0.5 }, Producer::Rewrite(told), Producer::data("other"));
    assert_eq!((inside.fields_of_texts(), inside.fields_of_data()), (vec!["hint"], vec!["other", "answer"]));
}

/// All attempts have a cost.
#[test]
fn a_retry_says_how_often_it_draws() {
    let mut graph = Graph::default();
    let until = Formula { value: graph.signal(PlainSignal::Correct), graph };
    let of = Producer::student(sampling());
    let mut rollout = Rollout::new(5, Retry { until: until.clone(), at_most: 8, of: of.clone() }.into());
    let text = r#"{"from":"retry","until":N,"at_most":8,"of":{"from":"student","sampling":S},"batch":5}"#;
    let text = text.replace('N', &serde_json::to_string(&until).unwrap()).replace('S', SAMPLING);
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    assert_eq!(serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap(), text);
    let kind = rollout.producer.kind();
    assert_eq!((kind.group(), kind.is_redrawn(), kind.may_drop()), (2, true, false));
    assert_eq!((kind.parameters(&|_| Some(10)), kind.policy()), (Some(80.0), of.kind().policy()));
    assert!(rollout.producer.all_redrawn());
    rollout.assume_conditions();
    let Producer::Retry(retry) = &rollout.producer else { unreachable!("it stays one") };
    assert_eq!(retry.until.graph.constant_value(retry.until.value), Some(0.0), "a step costs most so");
}

#[test]
fn all_completions_of_a_choice_are_drawn() {
    let mut many = sampling();
    many.n = 16;
    let by = holding(true);
    let choice = SampleChoice::Best { by, count: 1 };
    let best: Producer = Chosen { choice, of: Producer::student(many) }.into();
    assert_eq!((best.kind().group(), best.kind().drawn_group()), (1, 16));
    // An upper bound, whichever part a prompt belongs to.
    let half = Schedule::Constant { value: 0.5 };
    let plain = || Producer::student(sampling());
    assert_eq!(Producer::mix(half.clone(), best.clone(), plain()).kind().drawn_group(), 16);
    assert_eq!(Producer::mix(half, plain(), best).kind().drawn_group(), 16);
}

/// Both models process each token that is drawn.
#[test]
fn a_teacher_that_has_a_say_writes() {
    let guidance = Guidance::Interleave { top_k: 25 };
    let guided: Producer = Guided { guidance, of: Producer::student(sampling()) }.into();
    let writers: Vec<Writer> = guided.drawn().iter().map(|(writer, _)| *writer).collect();
    assert_eq!(writers, [Writer::Guide(Role::TEACHER), Writer::Student]);
    let of = |writer| Some(if writer == Writer::Student { 10 } else { 1000 });
    let kind = guided.kind();
    assert_eq!((kind.group(), kind.is_redrawn(), kind.parameters(&of)), (2, true, Some(1010.0)));
    assert_eq!(
        (kind.policy(), kind.groups_setting(4)),
        (Err("a teacher replaced some of the tokens"), "`prompts = 4`".to_owned())
    );
}

#[test]
fn a_snapshot_says_that_it_is_written_once() {
    let model = Model { once: true, model: ModelId(3), sampling: sampling() };
    let rollout = Rollout::new(8, model.into());
    let text = r#"{"from":"model","once":true,"model":3,"batch":8,"sampling":S}"#.replace('S', SAMPLING);
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    assert!(!rollout.producer.is_redrawn() && rollout.producer.cached_per_prompt());
    let mut afresh = rollout.producer;
    afresh.redraw_each_step();
    assert!(afresh.is_redrawn() && !afresh.cached_per_prompt());
}

/// The time limit and the paths of a program's files change no result. The files' content is in the
/// key.
#[test]
fn turns_say_who_answers_and_their_key_what_matters() {
    let grows = Schedule::Linear { from: 1.0, to: 5.0, over: crate::ScheduleLength::Run };
    let turns = Turns {
        environment: EnvironmentProgram::Command("python3 env.py".to_owned()),
        time_limit_seconds: 30.0,
        depends: vec!["rules.json".to_owned()],
        at_most: grows.into(),
        first_turns: None,
        expert_turns: None,
        sampling: sampling(),
    };
    let rollout = Rollout::new(6, Producer::Turns(Box::new(turns)));
    let rest = r#""at_most":{"shape":"linear","from":1.0,"to":5.0,"over":"run"},"batch":6,"sampling":S}"#;
    let text = r#"{"from":"turns","environment":"python3 env.py","time_limit_seconds":30.0,"depends":["rules.json"],"#;
    let text = (text.to_owned() + rest).replace('S', SAMPLING);
    assert_eq!(serde_json::to_string(&rollout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    let key = serde_json::to_string(&rollout.key(&|id| FieldValue::Model(id))).unwrap();
    let wanted = r#"{"from":"turns","environment":"python3 env.py","#.to_owned() + rest;
    assert_eq!(key, wanted.replace('S', SAMPLING));
    let kind = rollout.producer.kind();
    assert_eq!(
        (kind.turns(), kind.group(), kind.is_redrawn(), rollout.producer.environments().len()),
        (5, 2, true, 1)
    );
    let Producer::Turns(turns) = &rollout.producer else { panic!("turns") };
    let environment = EnvironmentProgram::Python { file: "/a/shop.py".to_owned(), class: "Shop".to_owned() };
    let class = Turns { environment, ..Turns::clone(turns) };
    let class = Rollout::new(6, Producer::Turns(Box::new(class)));
    let text = serde_json::to_string(&class).unwrap();
    assert!(text.contains(r#""environment":{"python":{"file":"/a/shop.py","class":"Shop"}},"#), "{text}");
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), class);
    let key = serde_json::to_string(&class.key(&|id| FieldValue::Model(id))).unwrap();
    assert!(key.contains(r#""environment":{"python":{"file":"/","class":"Shop"}},"#), "{key}");
    let programs: Vec<&str> = class.producer.programs().iter().map(|program| program.command).collect();
    assert_eq!(programs, ["/a/shop.py"]);
    let mut graph = mopd_expr::graph::Graph::default();
    let value = graph.constant(crate::Axis::Group, 2.0);
    let two = || Formula { graph: graph.clone(), value };
    let edited = Turns {
        first_turns: Some(two()),
        expert_turns: Some(ExpertTurns::AllBut(two())),
        ..Turns::clone(turns)
    };
    let edited = Rollout::new(6, Producer::Turns(Box::new(edited)));
    let text = serde_json::to_string(&edited).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), edited);
    let text = serde_json::to_string(&edited.key(&|id| FieldValue::Model(id))).unwrap();
    assert!(text.contains("\"first_turns\":{") && text.contains("\"expert_turns\":{\"all_but\":{"), "{text}");
    // A mix has the larger number of turns.
    let mixed = Producer::mix(Schedule::Constant { value: 0.5 }, Producer::data("answer"), rollout.producer);
    assert_eq!((mixed.kind().turns(), mixed.environments().len()), (5, 1));
}

#[test]
fn edits_and_tiers_say_what_they_choose_from() {
    let mut graph = mopd_expr::graph::Graph::default();
    let rank = graph.signal(crate::Signal::Of { role: Role::Student, part: crate::ModelSignal::Rank });
    let value = graph.reduce(crate::Reduction::Mean, rank, crate::Axis::Sequence, None);
    let by = Formula { graph, value };
    let chosen = |choice, of| Chosen { choice, of }.into();
    let kept = |of| chosen(SampleChoice::Keep { condition: by.clone() }, of);
    let best = |of| chosen(SampleChoice::Best { by: by.clone(), count: 1 }, of);
    let tiers = |last| {
        let choices = vec![best(kept(Producer::teacher(sampling()))), last];
        FirstOf::new(choices).into()
    };
    let rollout = Rollout::new(5, tiers(best(Producer::student(sampling()))));
    let text = serde_json::to_string(&rollout).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    let formula = serde_json::to_string(&by).unwrap();
    let of = |who: &str| format!(r#"{{"from":"{who}","sampling":S}}"#).replace('S', SAMPLING);
    let best_of =
        |of: &str| format!(r#"{{"from":"chosen","choice":"best","by":{formula},"count":1,"of":{of}}}"#);
    let kept_of =
        format!(r#"{{"from":"chosen","choice":"keep","condition":{formula},"of":{}}}"#, of("teacher"));
    let (first, second) = (best_of(&kept_of), best_of(&of("student")));
    assert_eq!(text, format!(r#"{{"from":"first_of","choices":[{first},{second}],"batch":5}}"#));
    // Both tiers may be drawn, two per prompt for one that is trained on, and the student scores them all.
    let of = |writer| Some(if writer == Writer::Student { 10 } else { 1000 });
    let kind = rollout.producer.kind();
    assert_eq!(
        (kind.group(), kind.parameters(&of)),
        (1, Some(2.0 * (1000.0 + 10.0 + 10.0) + 2.0 * (10.0 + 10.0)))
    );
    assert!(!rollout.may_drop() && rollout.producer.is_redrawn());
    let mut empty = Rollout::new(5, tiers(kept(Producer::student(sampling()))));
    assert!(empty.may_drop());
    // At the highest cost, the first tier is drawn in vain.
    empty.assume_conditions();
    let Producer::FirstOf(of) = &empty.producer else { panic!("tiers") };
    let holds = |producer: &Producer| {
        let mut inside = producer;
        while let Producer::Chosen(chosen) = inside {
            if let SampleChoice::Keep { condition } = &chosen.choice {
                return Some(condition.clone());
            }
            inside = &chosen.of;
        }
        None
    };
    let always = |holds| {
        let mut graph = mopd_expr::graph::Graph::default();
        let value = graph.constant(crate::Axis::Sequence, holds);
        Some(Formula { graph, value })
    };
    assert_eq!(of.choices.iter().map(holds).collect::<Vec<_>>(), [always(0.0), always(1.0)]);
}

/// A producer of each kind, with two sequences per group from the student where it has producers inside.
fn one_of_each_kind() -> Vec<Producer> {
    let student = || Producer::student(sampling());
    let half: AdaptiveSchedule = Schedule::Constant { value: 0.5 }.into();
    let server = RolloutServer {
        engine: Engine::Mopd,
        url: Secret::Text("http://gpu:8000".to_owned()),
        model: "m".to_owned(),
        push: "w".to_owned(),
        key: None,
    };
    let view = || View { name: "shown".to_owned(), pieces: vec![Piece::Slot(Slot::Prompt)] };
    vec![
        Producer::data("answer"),
        student(),
        Producer::teacher(sampling()),
        Producer::teacher_once(64, Keep::All, sampling()),
        Model { once: true, model: ModelId(3), sampling: sampling() }.into(),
        Producer::pairs(Producer::data("best"), student()),
        Producer::mix(half.clone(), student(), Producer::data("answer")),
        Replay {
            of: student(),
            capacity: 100,
            share: half.clone(),
            keeps: ReplayContents::Rollouts,
            condition: None,
            order: None,
        }
        .into(),
        Turns {
            environment: EnvironmentProgram::Command("python3 env.py".to_owned()),
            time_limit_seconds: 30.0,
            depends: Vec::new(),
            at_most: Schedule::Constant { value: 4.0 }.into(),
            first_turns: None,
            expert_turns: None,
            sampling: sampling(),
        }
        .into(),
        Guided { guidance: Guidance::TokenMix { alpha: half }, of: student() }.into(),
        Refine { by: Role::TEACHER, sees: None, of: student() }.into(),
        Chosen { choice: SampleChoice::Keep { condition: holding(true) }, of: student() }.into(),
        Chosen { choice: SampleChoice::Best { by: holding(true), count: 1 }, of: student() }.into(),
        Through {
            command: "python3 edit.py".to_owned(),
            time_limit_seconds: 600.0,
            depends: Vec::new(),
            of: student(),
        }
        .into(),
        Rewrite { pattern: vec![PatternPiece::Anything], text: Vec::new(), of: student() }.into(),
        Retry { until: holding(true), at_most: 8, of: student() }.into(),
        FirstOf::new(vec![student(), Producer::data("answer")]).into(),
        Speculative { block: 16, rejects: false, of: student() }.into(),
        Derived { sees: view(), texts: Vec::new(), of: student() }.into(),
        EachTurn { trajectory: "trajectory".to_owned(), of: student() }.into(),
        SampledBy { server, sampling: sampling(), every: 3 }.into(),
        Ranked { chosen: holding(true), rejected: holding(false), of: student() }.into(),
    ]
}

/// A new kind gets an arm here, and a producer in [`one_of_each_kind`].
fn name(producer: &Producer) -> &'static str {
    match producer {
        Producer::Data(_) => "data",
        Producer::Student(_) => "student",
        Producer::Teacher(_) => "teacher",
        Producer::Model(_) => "model",
        Producer::Pairs(_) => "pairs",
        Producer::Mix(_) => "mix",
        Producer::Replay(_) => "replay",
        Producer::Turns(_) => "turns",
        Producer::Guided(_) => "guided",
        Producer::Refine(_) => "refine",
        Producer::Chosen(_) => "chosen",
        Producer::Through(_) => "through",
        Producer::Rewrite(_) => "rewrite",
        Producer::Retry(_) => "retry",
        Producer::FirstOf(_) => "first_of",
        Producer::Speculative(_) => "speculative",
        Producer::Derived(_) => "derived",
        Producer::EachTurn(_) => "each_turn",
        Producer::SampledBy(_) => "sampled_by",
        Producer::Ranked(_) => "ranked",
    }
}

/// The row of a new kind is to be read: what `ProducerKind` has a default for is decided here.
#[test]
fn properties_of_each_kind_are_those_of_the_table() {
    let yes = |property: bool| if property { "yes" } else { "-" };
    let mut table = "kind, group, rows, turns, drawn anew, all drawn, once, per prompt, may drop, drafts, parameters | policy\n".to_owned();
    let parameters = |writer: Writer| match writer {
        Writer::Student => Some(100),
        Writer::Scorer(_) => Some(10),
        Writer::Editor { .. } => Some(20),
        Writer::Guide(_) => Some(30),
        Writer::Model(_) => Some(40),
    };
    let producers = one_of_each_kind();
    let named: BTreeSet<&str> = producers.iter().map(name).collect();
    assert_eq!(named.len(), 20, "a kind has no row: {named:?}");
    for producer in &producers {
        let kind = producer.kind();
        let rows = kind.rows().map_or("?".to_owned(), |rows| rows.to_string());
        let row = [
            name(producer).to_owned(),
            kind.group().to_string(),
            rows,
            kind.turns().to_string(),
            yes(producer.is_redrawn()).to_owned(),
            yes(producer.all_redrawn()).to_owned(),
            yes(producer.once().is_some()).to_owned(),
            yes(producer.cached_per_prompt()).to_owned(),
            yes(kind.may_drop()).to_owned(),
            yes(producer.drafts()).to_owned(),
            kind.parameters(&parameters).expect("all are known").to_string(),
        ];
        let policy = match kind.policy() {
            Ok((writer, _)) => format!("{writer:?}"),
            Err(reason) => reason.to_owned(),
        };
        table += &format!("{} | {policy}\n", row.join(", "));
    }
    assert_eq!(table, include_str!("properties.txt"));
}
