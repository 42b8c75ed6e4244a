//! Plans as a whole.

use mopd_lang::diag::Code;
use mopd_plan::{Cost, FieldColumn, PromptFormat, SCHEMA, SourcePlace};

use super::*;
use crate::lower::cost;

#[test]
fn a_plan_survives_json_exactly() {
    let mut experiment = experiment();
    experiment.domains[0].share = 1.0 / 3.0;
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.objective = mopd(0.1 + 0.2);
    train.objective.select = Some(statistic(
        Statistic::TopFraction { keep: 1.0 / 3.0 },
        &signal(Signal::Of { role: Role::Teacher, part: ModelSignal::Entropy }),
        Axis::Batch,
    ));
    let slow = Schedule::Linear { from: 1e-300, to: 1.0 / 3.0, over: ScheduleLength::Share(1.0 / 7.0) };
    train.objective.weight = Some(schedule(Schedule::Warmup { steps: 3, then: Box::new(slow) }));
    train.learning_rate = number(5e-324);
    let plan = compiled(&experiment);
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    let read: Plan = serde_json::from_str(&text).expect("a plan reads its own text");
    assert_eq!(read, plan);
    assert_eq!(serde_json::to_string(&read).expect("a plan is plain data"), text);
}

#[test]
fn nobody_beside_the_student_writes_where_models_only_score() {
    let plan = compiled(&experiment());
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    assert!(train.only_student_writes());
    let mut mixed = train.clone();
    let sampling = mixed.rollout.producer.sampling().expect("it samples").clone();
    let (student, teacher) = (mixed.rollout.producer.clone(), plan::Producer::teacher(sampling));
    mixed.rollout.producer = plan::Producer::mix(plan::Schedule::Constant { value: 0.5 }, student, teacher);
    assert!(!mixed.only_student_writes());
}

#[test]
fn a_domain_says_which_rows_are_read_and_how() {
    let mut experiment = experiment();
    let columns = vec![FieldColumn { field: "prompt".into(), column: "question".into(), pattern: None }];
    let domain = &mut experiment.domains[0];
    (domain.columns, domain.limit) = (columns.clone(), Some(WithOrigin { value: 16, origin: HERE }));
    domain.format = Some(PromptFormat::Chat { system: Some("Be brief.".into()) });
    (domain.prompts.split, domain.prompts.limit) = (Some("train".into()), Some(5));
    let plan = compiled(&experiment);
    let narrow = &plan.experiment.domains[0];
    assert_eq!((narrow.limit, &narrow.prompts.columns, narrow.prompts.limit), (Some(16), &columns, Some(5)));
    assert_eq!(narrow.prompts.split.as_deref(), Some("train"));
    assert_eq!(narrow.format, PromptFormat::Chat { system: Some("Be brief.".into()) });
}

#[test]
fn places_point_into_the_source() {
    let plan = compiled(&experiment());
    assert_eq!(plan.place(HERE), Some(&SourcePlace { file: "test.mopd".into(), start: 0, end: 10 }));
    assert_eq!(plan.place(Origin(9)), None);
    assert_eq!(plan.schema, SCHEMA);
    assert_eq!(plan.stages.len(), plan.experiment.models.len());
}

#[test]
fn numbers_without_json_are_refused_by_name() {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.learning_rate = number(f64::INFINITY);
    let Optimizer::AdamW(adam) = &mut train.optimizer else { panic!("the student is trained with AdamW") };
    adam.beta1 = f64::NAN;
    let (sources, origins) = sources();
    let found =
        super::super::compile(&experiment, &origins, &sources, true).expect_err("a plan can't hold these");
    let messages: Vec<&str> = found.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the `beta1` of model `student` is NaN, which is not a finite number",
            "the learning rate of model `student` is inf, which is not a finite number",
        ]
    );
    assert!(found.iter().all(|diagnostic| diagnostic.code == Code::OutOfRange));
}

/// The members of a family share their objective, so one fault gives one diagnostic.
#[test]
fn a_fault_of_a_family_is_reported_once() {
    let mut experiment = experiment();
    for model in [2, 3] {
        let Stage::Train(train) = &mut experiment.models[model].stage else { panic!("experts are trained") };
        train.objective.reduce = Some(by_steps(vec![]));
    }
    let (sources, origins) = sources();
    let found = super::super::compile(&experiment, &origins, &sources, true).expect_err("nothing is reduced");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, Code::MissingReduce);
}

#[test]
fn what_only_some_families_have_is_counted() {
    let parameters = |family: Family| {
        let mut experiment = experiment();
        let Stage::Initialise(architecture) = &mut experiment.models[0].stage else { panic!("a new model") };
        architecture.family = family;
        compiled(&experiment).stages[0].cost.parameters.expect("its tokenizer is known")
    };
    let plain = parameters(Family::Llama);
    assert_eq!(parameters(Family::Gemma), plain);
    // In each of three layers: biases of queries, keys and values; norms of a head's queries and keys.
    assert_eq!(parameters(Family::Qwen2), plain + 3 * (96 + 48 + 48));
    assert_eq!(parameters(Family::Qwen3), plain + 3 * (24 + 24));
}

#[test]
fn costs_are_counted_from_the_architecture() {
    let experiment = experiment();
    let plan = compiled(&experiment);
    // Embedding 259 * 96; three layers of queries and output 2 * 96^2, keys and values 2 * 96 * 48, SwiGLU 3
    // * 96 * 256, two norms 2 * 96; a last norm.
    let parameters = 259 * 96 + 3 * (2 * 96 * 96 + 2 * 96 * 48 + 3 * 96 * 256 + 2 * 96) + 96;
    let costs: Vec<Cost> = plan.stages.iter().map(|stage| stage.cost).collect();
    assert!(costs.iter().all(|cost| cost.parameters == Some(parameters)));
    let alone = Cost {
        parameters: Some(parameters),
        trained: Some(0),
        sequences: Some(0),
        drawn: None,
        tokens: Some(0),
        flops: Some(0.0),
        memory: Some(4 * parameters),
    };
    assert_eq!(costs[0], alone);
    let trained = Cost {
        parameters: Some(parameters),
        trained: Some(parameters),
        sequences: Some(320),
        drawn: None,
        tokens: Some(320 * 64),
        flops: Some(6.0 * parameters as f64 * 320.0 * 64.0),
        memory: Some(16 * parameters),
    };
    assert_eq!(costs[1], trained);
    // Rollouts are sampled, too.
    assert_eq!(
        (costs[2].sequences, costs[2].flops),
        (Some(320), Some(8.0 * parameters as f64 * 320.0 * 64.0))
    );
    // The student's rollouts are also scored by a teacher.
    assert_eq!(
        (costs[4].sequences, costs[4].flops),
        (Some(640), Some(10.0 * parameters as f64 * 640.0 * 64.0))
    );
    assert_eq!((costs[5].sequences, costs[5].memory), (Some(0), Some(4 * parameters)));

    let plan::Stage::Initialise(architecture) = &plan.experiment.models[0].stage else {
        panic!("random weights")
    };
    let untied = plan::Architecture { tied: false, ..architecture.clone() };
    assert_eq!(cost::parameters(&untied), Some(parameters + 259 * 96));
}

/// An adapter may have more numbers than the model itself.
#[test]
fn an_adapter_costs_in_addition_to_the_model() {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[1].stage else { panic!("it is trained") };
    train.trainable = Trainable::Adapter(Adapter {
        kind: AdapterKind::Lora,
        rank: 512,
        alpha: 8.0,
        dropout: 0.0,
        targets: Projection::ATTENTION.to_vec(),
        layers: None,
    });
    let cost = compiled(&experiment).stages[1].cost;
    let parameters = cost.parameters.expect("its tokenizer is known");
    // In each of three layers: queries and output, then keys and values.
    let trained = 3 * 512 * (2 * (96 + 96) + 2 * (96 + 48));
    assert_eq!(cost.trained, Some(trained));
    assert!(trained > parameters);
    assert_eq!(cost.memory, Some(4 * parameters + 16 * trained));
    let tokens = 320.0 * 64.0;
    assert_eq!(cost.flops, Some((4.0 * parameters as f64 + 6.0 * trained as f64) * tokens));
}

/// Two pieces, as in the recipe of MAD-OPD (arXiv:2605.01347): a rise over the first twentieth, a fall by
/// half a cosine.
#[test]
fn a_learning_rate_is_computed_from_the_step_in_float64() {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    let progress = || signal(PlainSignal::Progress);
    let of = |function, left: &Formula, right: &Formula| apply(function, [left, right]);
    let rising = of(Function::Divide, &of(Function::Multiply, &number(1e-5), &progress()), &number(0.05));
    let falling = of(
        Function::Multiply,
        &number(1e-5),
        &schedule(Schedule::Linear { from: 1.0, to: 0.5, over: ScheduleLength::Run }),
    );
    let early = of(Function::Less, &progress(), &number(0.05));
    train.learning_rate = apply(Function::Where, [&early, &rising, &falling]);
    let plan = compiled(&experiment);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let at = |step: u32| train.learning_rate.at(step, 60);
    assert_eq!(at(0), 0.0);
    // A float32 would be off in the eighth digit.
    assert_eq!(at(1), 1e-5 * (1.0 / 60.0) / 0.05);
    assert_eq!(at(2), 1e-5 * (2.0 / 60.0) / 0.05);
    assert_eq!(at(3), 1e-5 * (1.0 - 0.5 * (3.0 / 60.0)));
    assert_eq!(at(59), 1e-5 * (1.0 - 0.5 * (59.0 / 60.0)));
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    assert_eq!(serde_json::from_str::<Plan>(&text).expect("a plan reads its own text"), plan);
}
