//! Keys follow meaning: a change of the result changes them, any other change does not.

use super::*;
use crate::lower::key::{self, FileScope};

type Change = fn(&mut Experiment);

fn trained(experiment: &mut Experiment, model: usize) -> &mut Train {
    match &mut experiment.models[model].stage {
        Stage::Train(train) => train,
        _ => panic!("model {model} is trained"),
    }
}

fn adam(experiment: &mut Experiment, model: usize) -> &mut AdamW {
    match &mut trained(experiment, model).optimizer {
        Optimizer::AdamW(adam) => adam,
        _ => panic!("model {model} is trained with AdamW"),
    }
}

fn keys(plan: &Plan) -> Vec<&str> {
    plan.stages.iter().map(|stage| stage.key.as_str()).collect()
}

/// The models, by index, whose keys `change` changes.
fn changed(change: Change) -> Vec<usize> {
    let (before, mut experiment) = (compiled(&experiment()), experiment());
    change(&mut experiment);
    let after = compiled(&experiment);
    (0..before.stages.len()).filter(|index| before.stages[*index].key != after.stages[*index].key).collect()
}

#[test]
fn names_and_places_are_not_meaning() {
    let before = compiled(&experiment());
    let mut renamed = experiment();
    renamed.name = "other".into();
    renamed.out = Some("elsewhere".into());
    for (index, model) in renamed.models.iter_mut().enumerate() {
        model.name = format!("m{index}");
        model.origin = Origin(1);
    }
    for (index, domain) in renamed.domains.iter_mut().enumerate() {
        domain.name = format!("d{index}");
        domain.origin = Origin(1);
    }
    for index in [1, 2, 3, 4] {
        let train = trained(&mut renamed, index);
        train.objective.name = "inline".into();
        train.objective.origin = Origin(1);
        train.objective.terms[0].name = "loss".into();
    }
    renamed.teachers.iter_mut().for_each(|teacher| teacher.name = "t".into());
    renamed.comparisons[0].name = "other".into();
    renamed.comparisons[0].rows.iter_mut().for_each(|row| row.label = "row".into());
    let after = compiled(&renamed);
    assert_eq!(keys(&before), keys(&after));
    assert_eq!(before.hash, after.hash);
}

/// Fused and unfused arithmetic differ in the last bit.
#[test]
fn the_arithmetic_is_meaning_where_an_objective_is_computed() {
    let (sources, origins) = super::sources();
    let plan = |fused| {
        super::super::compile(&experiment(), &origins, &sources, fused).expect("the experiment is sound")
    };
    let (fused, separate) = (plan(true), plan(false));
    assert_ne!(fused.hash, separate.hash);
    assert_eq!(fused.stages[0].key, separate.stages[0].key, "weights are drawn without any objective");
    assert_ne!(fused.stages[1].key, separate.stages[1].key);
}

#[test]
fn an_unrelated_model_in_between_changes_no_key() {
    let mut longer = experiment();
    let extra = longer.models[0].clone();
    longer.models.push(Model { name: "extra".into(), ..extra });
    let (before, after) = (compiled(&experiment()), compiled(&longer));
    assert_eq!(keys(&before), keys(&after)[..6]);
    assert_eq!(before.stages[0].key, after.stages[6].key, "the same initialisation is the same stage");
    assert_ne!(before.hash, after.hash);
}

/// A schedule of one value is that number.
#[test]
fn a_temperature_that_changes_is_meaning() {
    let keys = |temperature: Formula| {
        let mut experiment = experiment();
        let RolloutSource::Sample(sampling) = &mut trained(&mut experiment, 4).rollout.source else {
            panic!("the student samples")
        };
        sampling.temperature = temperature;
        compiled(&experiment).stages.into_iter().map(|stage| stage.key).collect::<Vec<String>>()
    };
    let falls = |to| keys(schedule(Schedule::Linear { from: 1.0, to, over: ScheduleLength::Run }));
    let one = keys(number(1.0));
    assert_eq!(keys(schedule(Schedule::Constant { value: 1.0 })), one);
    let others = [keys(number(0.5)), falls(0.5), falls(0.6)];
    for (index, other) in others.iter().enumerate() {
        assert_eq!(other[..4], one[..4]);
        assert!(other[4] != one[4] && others[..index].iter().all(|earlier| earlier[4] != other[4]));
    }
}

/// A setting that restricts nothing is as if it were not given.
#[test]
fn every_restriction_of_sampling_is_meaning() {
    fn sampling(experiment: &mut Experiment) -> &mut Sampling {
        match &mut trained(experiment, 4).rollout.source {
            RolloutSource::Sample(sampling) => sampling,
            _ => panic!("the student samples"),
        }
    }
    assert_eq!(changed(|experiment| sampling(experiment).top_p = Some(0.9)), [4]);
    assert_eq!(changed(|experiment| sampling(experiment).top_k = Some(20)), [4]);
    assert_eq!(changed(|experiment| sampling(experiment).repetition_penalty = Some(1.2)), [4]);
    assert_eq!(changed(|experiment| sampling(experiment).max_tokens = number(8.0)), [4]);
    assert_eq!(changed(|experiment| sampling(experiment).stop = vec!["END".into()]), [4]);
    assert_eq!(changed(|experiment| sampling(experiment).top_p = Some(1.0)), Vec::<usize>::new());
    assert_eq!(
        changed(|experiment| sampling(experiment).repetition_penalty = Some(1.0)),
        Vec::<usize>::new()
    );
}

#[test]
fn numbers_are_meaning_for_their_stage_and_what_is_made_from_it() {
    let all = vec![0, 1, 2, 3, 4, 5];
    assert_eq!(changed(|_| ()), Vec::<usize>::new());
    assert_eq!(
        changed(|experiment| {
            let Stage::Initialise(architecture) = &mut experiment.models[0].stage else {
                panic!("random weights")
            };
            architecture.width = 128;
        }),
        all
    );
    assert_eq!(changed(|experiment| trained(experiment, 1).length = Length::Steps(11)), all[1..]);
    assert_eq!(changed(|experiment| adam(experiment, 2).beta2 = 0.99), [2, 4, 5]);
    assert_eq!(changed(|experiment| trained(experiment, 4).objective = mopd(4.0)), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).objective.reduce = Some(token_mean())), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).mixture[0].share = 0.25), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).teachers[0].teacher = TeacherId(1)), [4]);
    assert_eq!(
        changed(|experiment| {
            trained(experiment, 4).rollout.source = student(64, 2).0;
        }),
        [4]
    );
    assert_eq!(changed(|experiment| trained(experiment, 4).learning_rate = number(1e-3)), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).options.passes = 2), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).options.mini_batches = 2), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).reference = vec![(DomainId(0), ModelId(1))]), [4]);
    let rewarded = |experiment: &mut Experiment| {
        let mean = reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group);
        trained(experiment, 2).filter = Some(apply(Function::Less, [&mean, &number(1.0)]));
    };
    assert_eq!(changed(rewarded), [2, 4, 5]);
    let average = |experiment: &mut Experiment| {
        experiment.teachers[1].weights = TeacherWeights::Student(SelfCopy::Ema { rate: 0.99 });
    };
    assert_eq!(changed(average), [4]);
    assert_eq!(changed(|experiment| experiment.domains[0].prompts = file("other.jsonl")), all[1..]);
    assert_eq!(
        changed(|experiment| experiment.domains[1].reward =
            Reward::Numeric { field: "answer".into(), tolerance: 0.1 }),
        [3, 4, 5],
        "what imitates answers asks no verifier"
    );
    assert_eq!(
        changed(|experiment| {
            let Stage::Merge(merge) = &mut experiment.models[5].stage else { panic!("a merge") };
            merge.method = MergeMethod::TaskArithmetic { scale: 0.5 };
            merge.base = Some(ModelId(1));
        }),
        [5]
    );
    // Held-out prompts serve comparisons only.
    assert_eq!(changed(|experiment| experiment.domains[0].tests = None), Vec::<usize>::new());
}

#[test]
fn the_plan_hash_follows_stages_tables_and_the_seed() {
    let hash = |change: Change| {
        let mut experiment = experiment();
        change(&mut experiment);
        compiled(&experiment).hash
    };
    let changes: [Change; 10] = [
        |_| (),
        |experiment| experiment.comparisons[0].evaluation.top_p = Some(0.9),
        |experiment| experiment.comparisons[0].evaluation.top_k = Some(20),
        |experiment| experiment.seed = 2,
        |experiment| trained(experiment, 4).length = Length::Steps(11),
        |experiment| experiment.domains[0].tests = None,
        |experiment| experiment.comparisons[0].seeds = 3,
        |experiment| experiment.comparisons[0].normalized = None,
        |experiment| experiment.comparisons[0].evaluation.temperature = 0.0,
        |experiment| experiment.comparisons[0].rows.truncate(2),
    ];
    let mut hashes: Vec<String> = changes.into_iter().map(hash).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

#[test]
fn stages_that_differ_in_objective_reward_optimiser_or_length_share_their_random_numbers() {
    let streams = |change: Change| {
        let mut experiment = experiment();
        change(&mut experiment);
        compiled(&experiment).stages.iter().map(|stage| stage.stream).collect::<Vec<u64>>()
    };
    let before = streams(|_| ());
    let same: [Change; 4] = [
        |experiment| {
            experiment.domains[0].reward = Reward::Numeric { field: "answer".into(), tolerance: 0.5 }
        },
        |experiment| trained(experiment, 4).objective = mopd_top_k(),
        |experiment| trained(experiment, 1).length = Length::Steps(99),
        |experiment| adam(experiment, 2).clip_norm = 9.0,
    ];
    for change in same {
        assert_eq!(streams(change), before);
    }
    let differs = |change: Change| {
        let after = streams(change);
        (0..before.len()).filter(|index| before[*index] != after[*index]).collect::<Vec<usize>>()
    };
    assert_eq!(differs(|experiment| trained(experiment, 1).recipe = Recipe::Distill), [1, 2, 3, 4, 5]);
    assert_eq!(differs(|experiment| trained(experiment, 4).start = ModelId(2)), [4]);
    // The runtime adds the content of the prompts, so experts of different domains draw different
    // numbers.
    assert_eq!(differs(|experiment| experiment.domains[0].prompts = file("other")), Vec::<usize>::new());
}

/// The path of a file is no part of the key of a result, since a folder may be moved. Its use is.
#[test]
fn the_keys_of_results_do_not_know_paths() {
    let changed = |change: Change| {
        let (before, mut experiment) = (compiled(&experiment()), experiment());
        change(&mut experiment);
        let after = compiled(&experiment);
        let differ = |index: &usize| before.stages[*index].content_key != after.stages[*index].content_key;
        (0..before.stages.len()).filter(differ).collect::<Vec<usize>>()
    };
    assert_eq!(
        changed(|experiment| experiment.domains[0].prompts = file("elsewhere/other.jsonl")),
        Vec::<usize>::new()
    );
    let command = |command: &str, depends: &[&str]| Reward::Command {
        command: command.into(),
        time_limit_seconds: 1.0,
        batch: 8,
        depends: depends.iter().map(|path| (*path).to_owned()).collect(),
        range: Default::default(),
    };
    let keys = |depends: &[&str]| {
        let mut experiment = experiment();
        experiment.domains[0].reward = command("python3 judge.py", depends);
        compiled(&experiment).stages.into_iter().map(|stage| stage.content_key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&["rules"]), keys(&["elsewhere/rules"]));
    let rewarded = |reward: Reward| {
        let mut experiment = experiment();
        experiment.domains[0].reward = reward;
        compiled(&experiment).stages.into_iter().map(|stage| stage.content_key).collect::<Vec<_>>()
    };
    let program = |text: &str| {
        let mut experiment = experiment();
        experiment.domains[0].reward = command(text, &[]);
        compiled(&experiment).stages
    };
    // Where a program lies is added at run time, too.
    let (here, there) = (program("python3 /a/judge.py --x"), program("python3 /b/judge.py --x"));
    assert!(here.iter().zip(&there).all(|(one, other)| one.content_key == other.content_key));
    assert!(here.iter().zip(&there).any(|(one, other)| one.key != other.key), "watch compares texts");
    let other = program("python3 /a/judge.py --y");
    assert!(here.iter().zip(&other).any(|(one, other)| one.content_key != other.content_key));
    // A schema's content is added when it is read.
    let schema = |path: &str| rewarded(Reward::JsonSchema { schema: path.into() });
    assert_eq!(schema("a.json"), schema("b.json"));
    assert_ne!(schema("a.json"), keys(&[]));
    // No content of a server can be read, so its address is included.
    let server = |url: Secret, version: Option<&str>| {
        let version = version.map(str::to_owned);
        rewarded(Reward::Http { url, time_limit_seconds: 1.0, batch: 8, version, range: Default::default() })
    };
    let text = |url: &str| Secret::Text(url.into());
    let known = server(text("http://a"), None);
    assert_eq!(known, server(text("http://a"), None));
    let others = [server(text("http://b"), None), server(text("http://a"), Some("1"))];
    let variable = server(Secret::Environment("A".into()), None);
    assert!(others.iter().chain([&variable]).all(|other| *other != known) && others[0] != others[1]);
    // Two domains that differ only in their files: their places show who teaches which.
    let swapped = |experiment: &mut Experiment| {
        let teachers = &mut trained(experiment, 4).teachers;
        let first = teachers[0].teacher;
        teachers[0].teacher = teachers[1].teacher;
        teachers[1].teacher = first;
    };
    assert_eq!(changed(swapped), [4]);
    assert_eq!(changed(|experiment| trained(experiment, 4).length = Length::Steps(11)), [4]);
}

/// After an edited stage, a later stage has other inputs but the same settings of its own.
#[test]
fn own_settings_know_nothing_of_inputs_and_files() {
    let changed = |change: Change| {
        let (before, mut experiment) = (compiled(&experiment()), experiment());
        change(&mut experiment);
        let after = compiled(&experiment);
        let differ = |of: fn(&plan::StageFacts) -> &str| {
            let differ = |index: &usize| of(&before.stages[*index]) != of(&after.stages[*index]);
            (0..before.stages.len()).filter(differ).collect::<Vec<usize>>()
        };
        (differ(|stage| &stage.content_key), differ(|stage| &stage.own_settings))
    };
    let longer: Change = |experiment| trained(experiment, 1).length = Length::Steps(11);
    assert_eq!(changed(longer), (vec![1, 2, 3, 4, 5], vec![1]));
    let longer: Change = |experiment| trained(experiment, 4).length = Length::Steps(11);
    assert_eq!(changed(longer), (vec![4], vec![4]));
    let moved: Change = |experiment| experiment.domains[0].prompts = file("elsewhere/other.jsonl");
    assert_eq!(changed(moved), (vec![], vec![]));
    // Another model in its place is another input.
    let start: Change = |experiment| trained(experiment, 4).start = ModelId(2);
    assert_eq!(changed(start).1, [4]);
}

/// Imitation uses no verifier, so an edited reward leaves the stage unchanged. A stage that reads rewards of
/// data, or that writes completions itself, does change.
#[test]
fn a_reward_that_nobody_reads_is_no_meaning() {
    let keys = |reward: Reward, reads: bool| {
        let mut experiment = experiment();
        experiment.domains[0].reward = reward;
        if reads {
            let value = apply(
                Function::Multiply,
                [&signal(PlainSignal::Reward), &live(Live::Part(ModelSignal::Logp))],
            );
            trained(&mut experiment, 1).objective.terms[0].value = value;
        }
        let stages = compiled(&experiment).stages.into_iter();
        stages.map(|stage| [stage.key, stage.content_key]).collect::<Vec<_>>()
    };
    let rewards = || [0.1, 0.2].map(|tolerance| Reward::Numeric { field: "answer".into(), tolerance });
    let [one, other] = rewards().map(|reward| keys(reward, false));
    assert_eq!(one[..2], other[..2], "a new model, and one that imitates answers");
    assert!(one[2] != other[2] && one[4] != other[4], "experts and their student");
    let [one, other] = rewards().map(|reward| keys(reward, true));
    assert!(one[0] == other[0] && (0..2).all(|key| one[1][key] != other[1][key]));
}

/// A route by data: the condition and the target of an arm have a meaning, and so has the order of a domain's
/// arms. Names have none.
#[test]
fn a_routes_conditions_are_meaning() {
    let level = |bound: f64| {
        apply(Function::Greater, [&signal(Signal::Data { field: "level".into() }), &number(bound)])
    };
    let kind = || signal(Signal::DataIs { field: "kind".into(), text: "proof".into() });
    let arm = |domain: u32, when: Option<Formula>, teacher: u32| TeacherChoice {
        domain: DomainId(domain),
        when,
        teacher: TeacherId(teacher),
        origin: Origin(0),
    };
    let compile = |arms: Vec<TeacherChoice>| {
        let mut routed = experiment();
        trained(&mut routed, 4).teachers = arms;
        compiled(&routed)
    };
    let key = |arms: Vec<TeacherChoice>| compile(arms).stages[4].key.clone();
    let rest = || [arm(0, None, 0), arm(1, None, 1)];
    let plain = key(rest().into());
    assert_eq!(plain, compiled(&experiment()).stages[4].key);
    let hard = |bound: f64| [vec![arm(0, Some(level(bound)), 1)], rest().into()].concat();
    let routed = key(hard(3.0));
    let both = |first: Formula, second: Formula| {
        [vec![arm(0, Some(first), 1), arm(0, Some(second), 0)], rest().into()].concat()
    };
    let keys =
        [plain, routed.clone(), key(hard(4.0)), key(both(level(3.0), kind())), key(both(kind(), level(3.0)))];
    for (index, one) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(one), "{index}");
    }
    let mut renamed = experiment();
    trained(&mut renamed, 4).teachers = hard(3.0);
    renamed.teachers[1].name = "other".into();
    assert_eq!(compiled(&renamed).stages[4].key, routed);

    let plan = compile(hard(3.0));
    let mopd_plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    let said: Vec<Option<String>> =
        train.scorers.routed().iter().map(|arm| arm.when.as_ref().map(|when| when.text())).collect();
    assert_eq!(said, [Some("data.level > 3".to_owned()), None, None]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<mopd_plan::Plan>(&json).unwrap(), plan);
    assert_eq!(json.matches("\"when\"").count(), 1);
}

/// A step recomputes the bits that it computed, but not those that generation saves.
#[test]
fn layers_that_are_computed_again_are_meaning_where_generation_saves_them() {
    let none: [usize; 0] = [];
    let on_data: Change =
        |experiment| trained(experiment, 1).options.execution.checkpointing = Checkpointing::All;
    assert_eq!(changed(on_data), none);
    let on_rollouts: Change =
        |experiment| trained(experiment, 4).options.execution.checkpointing = Checkpointing::Layers(1);
    assert_eq!(changed(on_rollouts), [4]);
    // With micro-batches nothing is saved.
    let divided = |checkpointing| {
        let mut divided = experiment();
        trained(&mut divided, 4).options.execution = Execution { micro_batch: Some(2), checkpointing };
        compiled(&divided).stages[4].key.clone()
    };
    assert_eq!(divided(Checkpointing::None), divided(Checkpointing::All));
}

/// The texts of all keys, and the numbers that select random numbers, of a representative plan. A difference
/// here empties every user's store. If it is not intended, fix a field's name by `#[serde(rename)]`; if it
/// is, raise [`keys::VERSION`](mopd_plan::keys::VERSION) and write the file anew with `MOPD_UPDATE=1`.
#[test]
fn the_text_of_keys_is_pinned() {
    let plan = compiled(&experiment());
    let texts = key::texts(&plan.experiment, FileScope::ByContent);
    let streams = plan.stages.iter().map(|stage| format!("stream {}", stage.stream));
    let found: String = texts.into_iter().chain(streams).map(|line| line + "\n").collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lower/tests/keys.golden");
    if std::env::var_os("MOPD_UPDATE").is_some() {
        std::fs::write(file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

/// Teachers that an objective reads by name are scorers of the stage.
#[test]
fn teachers_by_name_enter_keys_by_their_weights() {
    let reading = |teachers: [u32; 2]| {
        let mut experiment = experiment();
        let named = |id| logp(Role::Named { teacher: TeacherId(id), name: format!("teacher {id}").into() });
        let difference = apply(Function::Subtract, [&named(teachers[0]), &named(teachers[1])]);
        let value = apply(Function::Multiply, [&difference, &live(Live::Part(ModelSignal::Logp))]);
        trained(&mut experiment, 4).objective.terms[0].value = value;
        experiment
    };
    let key = |experiment: &Experiment| compiled(experiment).stages[4].key.clone();
    let forward = reading([0, 1]);
    let mut renamed = forward.clone();
    renamed.teachers.iter_mut().for_each(|teacher| teacher.name += " of before");
    let mut swapped = forward.clone();
    swapped.teachers.swap(0, 1);
    assert_eq!(key(&forward), key(&renamed));
    assert_ne!(key(&forward), key(&reading([1, 0])));
    assert_ne!(key(&forward), key(&swapped));

    let plan = compiled(&reading([1, 0]));
    let mopd_plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
    let mut named: Vec<&str> = train.scorers.named().iter().map(|scorer| scorer.name.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, [0, 1].map(|teacher| forward.teachers[teacher].name.as_str()));
    assert!(train.objective.reads(mopd_plan::Role::named(1)));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<mopd_plan::Plan>(&json).unwrap(), plan);
}

/// A server's address and the variable of its key change no result; the engine, the model and the requests
/// do. The identity of the weights is added when the run starts.
#[test]
fn where_a_server_is_does_not_enter_a_key() {
    let keys = |engine: &str, url: &str, model: &str, key: Option<&str>| {
        let mut experiment = experiment();
        for teacher in &mut experiment.teachers {
            let (engine, url, model) = (engine.into(), Secret::Text(url.into()), model.into());
            teacher.weights = TeacherWeights::Served { engine, url, model, key: key.map(str::to_owned) };
        }
        let plan = compiled(&experiment);
        plan.stages.iter().map(|stage| (stage.key.clone(), stage.content_key.clone())).collect::<Vec<_>>()
    };
    let known = keys("vllm", "http://a", "m", None);
    assert_eq!(known, keys("vllm", "http://b", "m", Some("KEY")));
    assert_ne!(known, keys("vllm", "http://a", "n", None));
    assert_ne!(known, keys("mopd", "http://a", "m", None));
    assert_ne!(known, keys_of_models());
}

fn keys_of_models() -> Vec<(String, String)> {
    let plan = compiled(&experiment());
    plan.stages.iter().map(|stage| (stage.key.clone(), stage.content_key.clone())).collect()
}
