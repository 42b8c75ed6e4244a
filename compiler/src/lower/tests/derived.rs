//! Derived prompts: their part in a stage's plan, key and cost, and refusals.

use std::rc::Rc;

use mopd_plan::producers::{Derived, DerivedText};
use mopd_plan::views::{Piece, Slot as PlanSlot};

use super::*;
use mopd_experiment::formula::WeightedRole;

fn guide() -> Role {
    Role::Named { teacher: TeacherId(1), name: "specialist[sort]".into() }
}

fn short(slot: Slot) -> Slot {
    Slot::Shortened { slot: Box::new(slot), by: guide(), max_tokens: 12 }
}

fn wrong() -> Slot {
    Slot::Group(GroupMember::Wrong)
}

fn answer() -> Slot {
    Slot::Answer { by: guide(), member: GroupMember::Correct }
}

fn template(slots: Vec<Slot>) -> Rc<Template> {
    let pieces = slots.into_iter().map(TemplatePiece::Slot).collect();
    Rc::new(Template { name: "candidates".into(), pieces, origin: HERE })
}

fn of(source: RolloutSource) -> Rc<Rollout> {
    Rc::new(Rollout::new(source, HERE))
}

fn student_of(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

/// `derived("{prompt}{shuffled(short(guide.correct), short(group.wrong))}", from: sample(...))`
fn experiment_with(slots: Vec<Slot>) -> Experiment {
    let mut experiment = experiment();
    let train = student_of(&mut experiment);
    train.objective = grpo();
    train.teachers.clear();
    (train.rollout.source, train.size) = student(4, 8);
    let attempts = of(train.rollout.source.clone());
    train.rollout.source = RolloutSource::Derived { template: template(slots), of: attempts };
    experiment
}

fn shuffled() -> Vec<Slot> {
    vec![Slot::Prompt, Slot::Shuffled(vec![short(answer()), short(wrong())])]
}

fn derived_of(plan: &Plan) -> &Derived {
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    train.rollout.producer.derives()[0]
}

#[test]
fn a_derived_prompt_in_a_plan() {
    let plan = compiled(&experiment_with(shuffled()));
    let derived = derived_of(&plan);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert!(!train.only_student_writes());
    assert_eq!(derived.sees.pieces, [Piece::Slot(PlanSlot::Prompt), Piece::Slot(PlanSlot::Made(3))]);
    let [
        DerivedText::Answer { writer, member },
        DerivedText::Short { .. },
        DerivedText::Short { sees, max_tokens, .. },
        DerivedText::Shuffled { slots },
    ] = derived.texts.as_slice()
    else {
        panic!("{:?}", derived.texts)
    };
    assert_eq!((train.scorers.name(*writer).as_str(), *member), ("specialist[sort]", GroupMember::Correct));
    assert_eq!(train.scorers.choices(*writer).len(), 2, "for the prompts of both domains");
    assert!(!train.objective.reads(*writer), "it writes, and scores nothing");
    assert!(sees.slots().eq([&PlanSlot::Prompt, &PlanSlot::Group(GroupMember::Wrong)]));
    assert_eq!((*max_tokens, slots.as_slice()), (12, [PlanSlot::Made(1), PlanSlot::Made(2)].as_slice()));
    // Two texts of 12 and the text between them. The second shortens a completion.
    assert_eq!((derived.shown(&derived.sees, 16, 2), derived.shown(sees, 16, 2)), (26, 16));
    let producer = &train.rollout.producer;
    let kind = producer.kind();
    assert_eq!(
        (kind.group(), kind.is_redrawn(), producer.all_redrawn(), kind.may_drop()),
        (8, true, true, false)
    );
    assert_eq!(kind.policy().map(|(writer, _)| writer), Ok(plan::producers::Writer::Student));
    // An attempt and a completion of 10 parameters; an answer of 1000, and two texts for eight completions.
    let parameters = |writer| Some(if writer == plan::producers::Writer::Student { 10 } else { 1000 });
    assert_eq!(kind.parameters(&parameters), Some(20.0 + 1000.0 + 250.0));
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.contains(r#"{"answer":{"writer":{"scorer":2},"member":"correct"}}"#), "{json}");
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

/// A text that is shown twice is made once, and no text is made without a writer.
#[test]
fn texts_are_made_once() {
    let plan = compiled(&experiment_with(vec![short(wrong()), Slot::Prompt, short(wrong())]));
    assert_eq!((derived_of(&plan).texts.len(), derived_of(&plan).sees.pieces.len()), (1, 3));
    let plan = compiled(&experiment_with(vec![Slot::Prompt, wrong()]));
    assert!(derived_of(&plan).texts.is_empty());
    assert_eq!(derived_of(&plan).members(), [GroupMember::Wrong]);
}

#[test]
fn derived_template_changes_the_key() {
    let key = |experiment: &Experiment| compiled(experiment).stages[4].key.clone();
    let plain = experiment_with(shuffled());
    let mut renamed = plain.clone();
    let RolloutSource::Derived { template, .. } = &mut student_of(&mut renamed).rollout.source else {
        panic!("it derives")
    };
    Rc::make_mut(template).name = "other".into();
    assert_eq!(key(&renamed), key(&plain));
    let mut attempts = experiment_with(shuffled());
    student_of(&mut attempts).rollout.source = student(4, 8).0;
    let longer = Slot::Shortened { slot: Box::new(wrong()), by: guide(), max_tokens: 13 };
    let by = Role::Named { teacher: TeacherId(0), name: "specialist[add]".into() };
    let other = Slot::Shortened { slot: Box::new(wrong()), by, max_tokens: 12 };
    let templates = [
        vec![Slot::Prompt, short(wrong())],
        vec![Slot::Prompt, longer],
        vec![Slot::Prompt, other],
        vec![Slot::Prompt, short(Slot::Group(GroupMember::Other))],
        vec![Slot::Prompt, Slot::Shuffled(vec![short(wrong()), short(answer())])],
    ];
    let mut keys: Vec<String> = templates.map(|slots| key(&experiment_with(slots))).into();
    keys.extend([key(&plain), key(&attempts)]);
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 7);
    let flops = |experiment: &Experiment| compiled(experiment).stages[4].cost.flops.expect("it is known");
    let unanswered = experiment_with(vec![Slot::Prompt, short(wrong())]);
    let unwritten = experiment_with(vec![Slot::Prompt, wrong()]);
    assert!(flops(&plain) > flops(&unanswered) && flops(&unanswered) > flops(&unwritten));
    assert!(flops(&unwritten) > flops(&attempts));
}

/// For the most expensive step, every prompt is assumed to have all that it shows.
#[test]
fn prediction_assumes_prompts_with_all_attempts() {
    let mut derived = derived_of(&compiled(&experiment_with(shuffled()))).clone();
    plan::producers::ProducerKind::assume_conditions(&mut derived, true);
    assert_eq!(derived.members(), [GroupMember::Other]);
    assert!(matches!(derived.texts[0], DerivedText::Answer { member: GroupMember::Other, .. }));
}

fn refused(experiment: &Experiment, construct: &str) {
    assert_eq!(refusals_of(experiment), [format!("{construct} is not supported yet")]);
}

#[test]
fn refuses_unsupported_derived_prompts() {
    let nothing = "`derived` with the template `candidates`, in which no slot shows an attempt";
    refused(&experiment_with(vec![Slot::Prompt]), nothing);
    refused(&experiment_with(vec![Slot::Prompt, short(Slot::Prompt)]), nothing);
    let slot = |slot: &str| format!("the slot `{{{slot}}}` in the template `candidates` of a `derived`");
    refused(&experiment_with(vec![wrong(), Slot::Draft]), &slot("draft"));
    refused(&experiment_with(vec![wrong(), Slot::Feedback]), &slot("feedback"));
    refused(&experiment_with(vec![wrong(), Slot::Completion]), &slot("completion"));
    refused(&experiment_with(vec![short(Slot::Transcript), wrong()]), &slot("transcript"));
    refused(
        &experiment_with(vec![Slot::Shuffled(vec![wrong(), Slot::Data("hint".into())])]),
        "the prompt, or a field of the data, in `shuffled(...)` in the template `candidates` of a `derived`",
    );
    let own = Slot::Answer { by: Role::Student, member: GroupMember::Correct };
    refused(
        &experiment_with(vec![wrong(), own]),
        "what the role `student` writes in the template `candidates` of a `derived`",
    );
    let mut counted = experiment_with(vec![wrong()]);
    let RolloutSource::Derived { template, .. } = &mut student_of(&mut counted).rollout.source else {
        panic!("it derives")
    };
    Rc::make_mut(template).pieces.push(TemplatePiece::Number(number(1.0)));
    refused(&counted, "a number in the template `candidates` of a `derived`");
}

#[test]
fn refuses_unsupported_attempts_and_writers() {
    let from = |attempts: Rollout| {
        let mut experiment = experiment_with(vec![wrong()]);
        let RolloutSource::Derived { of, .. } = &mut student_of(&mut experiment).rollout.source else {
            panic!("it derives")
        };
        *of = Rc::new(attempts);
        experiment
    };
    let RolloutSource::Sample(sampling) = student(4, 8).0 else { panic!("it is drawn") };
    let by_guide =
        RolloutSource::From { teacher: guide(), sees: None, sequences: None, sampling: sampling.clone() };
    let others = "`derived` from completions that are not the student's own samples";
    let plain = |source| Rollout::new(source, HERE);
    let mut imitated = from(plain(by_guide));
    student_of(&mut imitated).objective = nll();
    refused(&imitated, others);
    let twice = RolloutSource::Derived { template: template(vec![wrong()]), of: of(student(4, 8).0) };
    refused(&from(plain(twice)), others);
    let keep = Edit::Keep { condition: signal(PlainSignal::Correct) };
    refused(
        &from(Rollout { edits: vec![keep], ..Rollout::new(RolloutSource::Sample(sampling), HERE) }),
        "the edit `keep` of a rollout",
    );
    let written = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = experiment_with(shuffled());
        change(&mut experiment);
        experiment
    };
    let by = |of: &str| format!("a text in the template `candidates` by a teacher {of}");
    let first = Role::Named { teacher: TeacherId(0), name: "specialist[add]".into() };
    let members = vec![WeightedRole { weight: 1.0, role: first }];
    refused(
        &written(&|experiment| {
            experiment.teachers[1].weights =
                TeacherWeights::Pooled { pool: Pool::Mixture, members: members.clone() };
        }),
        &by("that has its own temperature or is composed of other teachers"),
    );
    refused(
        &written(&|experiment| {
            experiment.teachers[1].sees = Some(template(vec![Slot::Prompt, Slot::Feedback]))
        }),
        &by("whose template shows the outcome of a completion"),
    );
    refused(
        &written(&|experiment| experiment.teachers[1].align = Alignment::Tokens),
        "`derived` with the teacher `specialist[sort]`, which has another tokenizer,",
    );
    refused(
        &written(&|experiment| student_of(experiment).sees = Some(template(vec![Slot::Prompt]))),
        "`derived` for a student that sees the template `candidates`",
    );
}
