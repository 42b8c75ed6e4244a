//! Every exported setting exists in the released engine and has the right type.

use mopd_compiler::export::schema::{self, Configuration, TRL_SYNCHRONOUS};
use serde_json::Value;

#[test]
fn recorded_schemas_are_of_the_releases_that_files_are_written_for() {
    use mopd_compiler::export::ExportEngine;
    for (engine, schema) in [(ExportEngine::Verl, &*schema::VERL), (ExportEngine::Trl, &*schema::TRL)] {
        assert_eq!(schema["package"], engine.name());
        assert_eq!(schema["version"], engine.version());
        let classes = schema["classes"].as_object().expect("classes");
        for (class, recorded) in classes {
            let file = recorded["file"].as_str().expect("a file");
            assert!(file.starts_with(&format!("{}/", engine.name())), "{class} is in {file}");
            assert!(!recorded["fields"].as_object().expect("fields").is_empty(), "{class}");
        }
    }
}

/// verl has two sets of defaults; the exported file sets every value in which they differ.
#[test]
fn defaults_that_disagree_are_known() {
    let class = schema::fields(&schema::VERL, "verl.workers.config.DistillationLossConfig");
    let file = &schema::VERL["defaults"]["distillation"]["distillation_loss"];
    let differ: Vec<&str> = class
        .iter()
        .filter(|(name, field)| file.get(name.as_str()).is_some_and(|value| *value != field["default"]))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(differ, ["log_prob_min_clamp", "loss_max_clamp", "topk", "use_policy_gradient"]);
}

#[test]
fn a_configuration_of_verl_has_the_defaults_of_its_classes_too() {
    let Configuration(whole) = Configuration::verl();
    let loss = &whole["distillation"]["distillation_loss"];
    assert_eq!(loss["use_chunked_topk"], false);
    assert_eq!(loss["chunked_topk_chunk_size"], 4096);
    assert!(loss.get("loss_settings").is_none());
}

#[test]
#[should_panic(expected = "the engine has no setting `distillation.distillation_loss.topkk`")]
fn a_setting_that_the_engine_lacks_is_not_written() {
    Configuration::verl().set("distillation.distillation_loss.topkk", 3);
}

#[test]
fn trl_has_a_teacher_and_a_beta() {
    let fields = schema::fields(&schema::TRL, TRL_SYNCHRONOUS);
    for name in ["teacher_model_name_or_path", "beta", "temperature", "max_completion_length", "max_steps"] {
        assert!(fields.contains_key(name), "{name}");
    }
}

/// Every YAML parser reads the same values from what is written.
#[test]
fn yaml_keeps_its_types() {
    let value: Value = serde_json::from_str(
        r#"{"a": "1e-6", "rate": 1e-6, "large": 1e20, "n": 8, "none": null, "no": true, "list": [1, "x: y"],
            "empty": {}, "nested": {"n": [{"k": "a\nb"}]}}"#,
    )
    .expect("JSON");
    let text = schema::yaml(&value);
    assert_eq!(
        text,
        "\"a\": \"1e-6\"\nempty: {}\nlarge: 1.0e+20\nlist:\n  - 1\n  - \"x: y\"\n\"n\": 8\nnested:\n  \"n\":\n    -\n      \
         \"k\": \"a\\nb\"\n\"no\": true\nnone: null\nrate: 1.0e-6\n"
    );
}
