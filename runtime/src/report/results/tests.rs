//! Tests of the content of `results.json`.

use std::fs;

use mopd_plan::{DomainId, ModelId};
use serde_json::{Value, json};

use super::*;
use crate::report::statistics::tests::{comparison, experiment};

fn plan() -> Plan {
    let mut experiment = experiment(1, 2);
    let mut sampled = comparison(&[&[0], &[1]], true);
    sampled.columns[0].evaluation.sampling.n = 2;
    sampled.seeds = 2;
    let mut greedy = comparison(&[&[0], &[1]], false);
    greedy.name = "greedy".to_owned();
    greedy.columns[0].evaluation.sampling.n = 8;
    greedy.columns[0].evaluation.sampling.temperature = 0.0.into();
    experiment.comparisons = vec![sampled, greedy];
    Plan { schema: 1, hash: "abc".to_owned(), experiment, stages: Vec::new(), places: Vec::new() }
}

fn results() -> Results {
    let mut sampled = TableScores::default();
    for seed in [7, 8] {
        sampled.insert_rewards(ModelId(0), DomainId(0), seed, &[0.0, 0.0, 0.0, 0.0], 2);
        sampled.insert_rewards(ModelId(1), DomainId(0), seed, &[1.0, 0.0, 1.0, 1.0], 2);
    }
    let mut greedy = TableScores::default();
    greedy.insert_rewards(ModelId(0), DomainId(0), 7, &[0.0, 0.0], 1);
    greedy.insert_rewards(ModelId(1), DomainId(0), 7, &[1.0, 1.0], 1);
    let versions = Versions { mopd: "0.1.0".to_owned(), libtorch: "2.11.0".to_owned() };
    let took = RunCost { seconds: 1.5, ..RunCost::default() };
    let (results, warnings) = assemble(&plan(), &[sampled, greedy], took, versions).unwrap();
    // Two prompts are so few that the warning is expected.
    assert!(
        warnings.len() == 1 && warnings[0].ends_with("by 0.750, which may be random variation"),
        "{warnings:?}"
    );
    results
}

#[test]
fn the_promised_fields_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_results(&results(), folder.path()).unwrap();
    assert_eq!(path, folder.path().join("results.json"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("}\n"));
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&found["schema"], &found["experiment"], &found["plan"], &found["seeds"], &found["seconds"]),
        (&json!(1), &json!("trial"), &json!("abc"), &json!([7, 8]), &json!(1.5))
    );
    assert_eq!(found["versions"], json!({"mopd": "0.1.0", "libtorch": "2.11.0"}));
    let sampled = &found["tables"][0];
    assert_eq!(
        (&sampled["name"], &sampled["metric"], &sampled["samples"], &sampled["domains"]),
        (&json!("all"), &json!("pass@1"), &json!(2), &json!(["d0"]))
    );
    let row = &sampled["rows"][1];
    assert_eq!(
        (&row["model"], &row["scores"]["d0"]["mean"], &row["scores"]["d0"]["n"]),
        (&json!("row 1"), &json!(0.75), &json!(2))
    );
    assert_eq!(row["scores"]["d0"]["samples"], json!(2));
    assert_eq!(row["normalized"], json!({"mean": 1.0, "low": 1.0, "high": 1.0}));
    assert_eq!((&row["normalized_by_seed"], &row["spread"]), (&json!([1.0, 1.0]), &json!(0.0)));
    assert_eq!(
        (&row["scores"]["d0"]["by_seed"], &sampled["intervals"]),
        (&json!([0.75, 0.75]), &json!("prompts_and_seeds"))
    );
    let greedy = &found["tables"][1];
    assert_eq!((&greedy["metric"], &greedy["samples"]), (&json!("greedy"), &json!(1)));
    assert_eq!(greedy["rows"][1]["scores"]["d0"]["samples"], json!(1));
    assert_eq!(greedy["intervals"], json!("prompts"));
    assert_eq!(
        (&greedy["rows"][0]["normalized"], &greedy["rows"][0]["normalized_by_seed"]),
        (&Value::Null, &json!([]))
    );
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap().tables, results().tables);
}

/// The share of answers with reward 1 is pass@1; the mean of any other reward is a mean reward.
#[test]
fn pass_at_1_is_reported_only_for_verdicts() {
    let mut plan = plan();
    // The second table is greedy.
    let named = |plan: &Plan, table: usize| metric(&plan.experiment, &plan.experiment.comparisons[table]);
    assert_eq!([named(&plan, 0), named(&plan, 1)], ["pass@1", "greedy"]);
    plan.experiment.domains[0].reward = mopd_plan::Reward::Command {
        command: "judge".to_owned(),
        time_limit_seconds: 1.0,
        batch: 1,
        depends: Vec::new(),
        range: Default::default(),
    };
    assert_eq!([named(&plan, 0), named(&plan, 1)], ["mean reward", "greedy mean reward"]);
    let mut other = plan.experiment.comparisons[1].columns[0].clone();
    other.evaluation.sampling.temperature = 1.0.into();
    plan.experiment.comparisons[1].columns.push(other);
    assert_eq!(named(&plan, 1), "greedy mean reward (d0), mean reward (d0)");
}
