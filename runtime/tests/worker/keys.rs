//! Keys of stored results, pinned: a change of keys invalidates every user's store.

use crate::support::*;
use mopd_plan::producers::{Model, PrecomputedRollouts};
use mopd_plan::*;
use mopd_runtime::machine::arithmetic::{Arithmetic, LibtorchBuild, Numeric};
use mopd_runtime::prepare::{ReadContext, model_specs, prepare};
use mopd_runtime::remote::NO_SERVERS;
use mopd_runtime::schedule::{self, KeyInputs, Keys, tasks};

/// A random model, a model that imitates its rollouts, one that learns from rewards, and a table.
fn plan() -> Plan {
    let mut builder = Builder::new();
    let domains = [builder.domain("copy", 0.5), builder.domain("flip", 0.5)];
    let start = builder.model("start", Stage::Initialise(tiny()));
    let rollout = Rollout::new(4, Producer::teacher_once(8, Keep::Correct, sampling(2)));
    let training = |start, rollout| Training {
        start,
        domains: &domains,
        teachers: &[ModelId(0), ModelId(0)],
        rollout,
        objective: nll(),
        steps: 3,
        learning_rate: 1e-3,
    };
    let imitator = builder.train("imitator", Recipe::Sft, training(start, rollout));
    let rollout = Rollout::new(4, Producer::student(sampling(2)));
    let student = builder.train("student", Recipe::Distill, training(imitator, rollout));
    builder.compare(&domains, &[("student", student)], 2, 2);
    for (stage, settings) in builder.plan.stages.iter_mut().zip(["start", "imitator", "student"]) {
        // The compiler's tests pin its own content keys.
        stage.content_key = settings.to_owned();
    }
    builder.plan
}

fn keys(plan: &Plan, version: u32) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let tasks = tasks(plan);
    let places = ReadContext { base: folder.path(), notes: folder.path(), cache: None, store: None };
    let specs = model_specs(plan, places).unwrap();
    let (domains, _) = prepare(plan, &schedule::stages(&tasks), &specs, places).unwrap();
    let arithmetic = Arithmetic {
        version,
        keys: mopd_plan::keys::VERSION,
        architecture: "x86_64".to_owned(),
        instructions: vec!["avx2".to_owned()],
        kernels: "avx2".to_owned(),
        fused: true,
        libtorch: LibtorchBuild { version: "2.11.0".to_owned(), bytes: Some(1234) },
        variables: [].into(),
    };
    let numeric = Numeric { arithmetic: &arithmetic, dtype: "float32", device: "cpu".to_owned() };
    let keys = Keys::new(&KeyInputs {
        plan,
        tasks: &tasks,
        specs: &specs,
        domains: &domains,
        environments: &vec![Vec::new(); plan.experiment.models.len()],
        servers: &NO_SERVERS,
        numeric: &numeric,
        forks: &[],
        widths: &vec![1; tasks.len()],
        engine: None,
    });
    let all = (0..tasks.len()).flat_map(|task| [Some(keys.of(task)), keys.of_rollouts(task)]);
    all.flatten().map(str::to_owned).collect()
}

/// If this fails and no change of keys is intended, keep the field's old name with `#[serde(rename)]`. If one
/// is intended, raise `mopd_plan::keys::VERSION`, or the version of one kind of result, such as answers:
/// the last four keys are of evaluations.
#[test]
fn the_keys_of_a_representative_plan_are_pinned() {
    let found: Vec<String> = keys(&plan(), 3).iter().map(|key| key[..16].to_owned()).collect();
    let pinned = [
        "87c655950fb4750c",
        "9dbbc37ef07c24d9",
        "72b35a9ee289d62e",
        "4cf4fcb43b5aade8",
        "a3b4b51e5d23e818",
        "be31b4108c608160",
        "f725f2990916a929",
        "63904429e65eb8ed",
        "fd5c14a62956f013",
        "9351983ca8698f81",
        "190e92a62a2a3d58",
        "0c26e749ef9a55c5",
    ];
    assert_eq!(found, pinned);
}

#[test]
fn another_numeric_version_and_another_setting_are_other_keys() {
    let (plan, mut other) = (plan(), plan());
    let (before, after) = (keys(&plan, 3), keys(&plan, 4));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    let Stage::Train(train) = &mut other.experiment.models[1].stage else { panic!("it is trained") };
    let Some(PrecomputedRollouts { keep, .. }) = train.rollout.producer.once_mut() else {
        panic!("a teacher writes")
    };
    *keep = Keep::All;
    let after = keys(&other, 3);
    let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    // For each of two seeds, only the key of the imitator's rollouts changes: `plan` sets its content key.
    assert_eq!(same.iter().filter(|same| !**same).count(), 2);
}

/// What a model writes for each prompt depends on how many prompts the steps take.
#[test]
fn rollouts_for_each_prompt_follow_the_prompts_of_the_steps() {
    let written = |change: fn(&mut Train<Objective>)| {
        let mut plan = plan();
        let Stage::Train(train) = &mut plan.experiment.models[1].stage else { panic!("it is trained") };
        let writer = Model { once: true, model: ModelId(0), sampling: sampling(2) };
        train.rollout = Rollout::new(4, writer.into());
        change(train);
        keys(&plan, 3)
    };
    let before = written(|_| ());
    let changes: [fn(&mut Train<Objective>); 3] = [
        |train| train.options.mini_batches = 2,
        |train| train.options.passes = 2,
        |train| train.rollout.groups = 8,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let after = written(change);
        // For each of two seeds, only the key of the rollouts: `plan` sets the content keys.
        let others = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!((before.len(), others), (after.len(), 2), "change {index}");
    }
}
