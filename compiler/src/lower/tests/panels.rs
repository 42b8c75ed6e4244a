//! Panels: their part in a stage's plan and key, and refusals.

use std::rc::Rc;

use mopd_plan::views::{Piece, Slot as PlanSlot};

use super::*;

fn member(place: u32) -> Role {
    Role::Named { teacher: TeacherId(place), name: format!("member {place}").into() }
}

fn confidence(place: u32) -> Formula {
    signal(Signal::Of { role: member(place), part: ModelSignal::StatedConfidence })
}

/// The share of member 2 or 3, times its number of the token.
fn weighed(place: u32) -> Formula {
    let members = vec![confidence(2), confidence(3)];
    let among = [2, 3].map(|place| signal(Signal::Available { role: member(place) })).into();
    let kind = FormulaKind::Across { members, among, index: place as usize - 2 };
    let share = formula(kind, Axis::Sequence, false);
    let read = apply(Function::Multiply, [&logp(member(place)), &live(Live::Part(ModelSignal::Logp))]);
    apply(Function::Multiply, [&share, &read])
}

fn template(pieces: Vec<TemplatePiece>) -> Option<Rc<Template>> {
    Some(Rc::new(Template { name: "heard".into(), pieces, origin: HERE }))
}

fn student_of(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

/// The experts, as members 2 and 3, discuss before they score the student.
fn panelled() -> Experiment {
    let mut experiment = experiment();
    let sees = template(vec![TemplatePiece::Slot(Slot::Prompt), TemplatePiece::Slot(Slot::Transcript)]);
    for (place, name) in [(0, "specialist[add]"), (1, "specialist[sort]")] {
        let speaker = Role::Named { teacher: TeacherId(place), name: name.into() };
        let weights = TeacherWeights::Panelist { panel: PanelId(0), speaker };
        let own = Teacher { sees: sees.clone(), ..teacher(&format!("duo[{name}]"), weights) };
        experiment.teachers.push(own);
    }
    experiment.panels.push(Panel {
        name: "duo".into(),
        members: vec![TeacherId(2), TeacherId(3)],
        rounds: 2,
        sees,
        confidence: Some((0, 100)),
        max_tokens: 16,
        temperature: 1.0,
        origin: HERE,
    });
    let value = apply(Function::Add, [&weighed(2), &weighed(3)]);
    student_of(&mut experiment).objective = objective(value, sequence_mean());
    experiment
}

fn refusals(change: impl FnOnce(&mut Experiment)) -> Vec<String> {
    let mut experiment = panelled();
    change(&mut experiment);
    refusals_of(&experiment)
}

fn refused(change: impl FnOnce(&mut Experiment), construct: &str) {
    assert_eq!(refusals(change), [format!("{construct} is not supported yet")]);
}

#[test]
fn a_panel_in_a_plan() {
    let plan = compiled(&panelled());
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert!(!train.only_student_writes());
    let [panel] = train.panels.as_slice() else { panic!("{:?}", train.panels) };
    assert_eq!((panel.name.as_str(), panel.rounds, panel.turns(), panel.tokens()), ("duo", 2, 4, 64));
    assert_eq!(panel.confidence, Some((0, 100)));
    let names: Vec<String> = panel.members.iter().map(|role| train.scorers.name(*role)).collect();
    assert_eq!(names, ["duo[specialist[add]]", "duo[specialist[sort]]"], "in the order in which they speak");
    for (role, model) in panel.members.iter().zip([2, 3]) {
        let [add, sort] = train.scorers.choices(*role) else { panic!("it judges both domains") };
        assert_eq!((&add.teacher, &add.sees), (&sort.teacher, &sort.sees));
        assert_eq!(add.teacher, plan::Teacher::Model(ModelId(model)));
        let pieces = &add.sees.as_ref().expect("a template").pieces;
        assert_eq!(*pieces, [Piece::Slot(PlanSlot::Prompt), Piece::Slot(PlanSlot::Transcript(0))]);
    }
    let signals = train.objective.signals();
    for role in &panel.members {
        for of_member in [
            plan::Signal::Available { role: *role },
            plan::Signal::Of { role: *role, part: plan::ModelSignal::StatedConfidence },
        ] {
            assert!(signals.contains(&of_member), "{of_member:?}");
        }
    }
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.contains(r#""confidence":[0,100]"#) && json.contains(r#"{"transcript":0}"#));
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn panel_settings_change_the_key() {
    let key = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = panelled();
        change(&mut experiment);
        compiled(&experiment).stages[4].key.clone()
    };
    let plain = key(&|_| {});
    let same: [&dyn Fn(&mut Experiment); 2] =
        [&|experiment| experiment.panels[0].name = "other".into(), &|experiment| {
            experiment.teachers[2].name = "other".into()
        }];
    for change in same {
        assert_eq!(key(change), plain);
    }
    let moved: [&dyn Fn(&mut Experiment); 7] = [
        &|experiment| experiment.panels[0].rounds = 3,
        &|experiment| experiment.panels[0].max_tokens = 17,
        &|experiment| experiment.panels[0].temperature = 0.5,
        &|experiment| experiment.panels[0].confidence = Some((0, 10)),
        &|experiment| experiment.panels[0].members.swap(0, 1),
        &|experiment| experiment.teachers[0].weights = TeacherWeights::Model(ModelId(1)),
        &|experiment| experiment.teachers[3].sees = template(vec![TemplatePiece::Slot(Slot::Transcript)]),
    ];
    let mut keys: Vec<String> = moved.iter().map(|change| key(*change)).chain([plain]).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 8);
    // The discussion costs operations.
    let flops = |experiment: &Experiment| compiled(experiment).stages[4].cost.flops.expect("it is known");
    let mut longer = panelled();
    longer.panels[0].rounds = 4;
    assert!(flops(&longer) > flops(&panelled()));
}

#[test]
fn refuses_unsupported_panels() {
    let own = "has its own template or temperature or is composed of other teachers";
    let construct = format!("a panel (`debate`) with the member `specialist[add]`, which {own},");
    refused(
        |experiment| experiment.teachers[0].sees = template(vec![TemplatePiece::Slot(Slot::Prompt)]),
        &construct,
    );
    refused(|experiment| experiment.teachers[0].temperature = 0.5, &construct);
    refused(
        |experiment| experiment.teachers[0].align = Alignment::Tokens,
        "a panel (`debate`) with the member `specialist[add]`, which has another tokenizer,",
    );
    refused(
        |experiment| {
            let weights = experiment.teachers[2].weights.clone();
            experiment.teachers.push(teacher("twice", weights));
            let speaker = Role::Named { teacher: TeacherId(4), name: "twice".into() };
            experiment.teachers[3].weights = TeacherWeights::Panelist { panel: PanelId(0), speaker };
        },
        "a panel (`debate`) of a panel's members",
    );
    refused(
        |experiment| experiment.teachers[2].sees = template(vec![TemplatePiece::Slot(Slot::Feedback)]),
        "a slot about a completion in the template `heard` of a panel",
    );
    refused(
        |experiment| experiment.panels[0].confidence = None,
        "reading the confidence of the panel `duo`, which does not state one,",
    );
    refused(
        |experiment| {
            let bare = apply(Function::Multiply, [&confidence(2), &weighed(2)]);
            student_of(experiment).objective = objective(bare, sequence_mean());
        },
        "the signal `member 2.confidence`, which may be missing, outside of `across`",
    );
    refused(
        |experiment| {
            let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
            let source = RolloutSource::From { teacher: member(2), sees: None, sequences: None, sampling };
            student_of(experiment).rollout.source = source;
        },
        "the template `heard`, which shows the outcome of a completion, for the model that samples this \
        completion",
    );
}

/// Only one member is read, but all of them speak.
#[test]
fn every_panel_member_speaks() {
    let mut experiment = panelled();
    let read = apply(Function::Multiply, [&logp(member(3)), &live(Live::Part(ModelSignal::Logp))]);
    student_of(&mut experiment).objective = objective(read, sequence_mean());
    let plan = compiled(&experiment);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert_eq!(train.panels[0].members.len(), 2);
    assert!(train.panels[0].members.iter().all(|role| train.scorers.choices(*role).len() == 2));
}
