//! Compares requests and replies with the protocol classes in the engines' released packages, whose fields
//! `runtime/tests/fixtures/engines.py` recorded with wheel and file.

use mopd_plan::{Answers, Engine};
use serde_json::{Value, json};

use super::security::post;
use super::{job, readings, saved, served, start};
use crate::model::tests::{random_model, tiny};
use crate::remote::conformance;

fn recorded() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/engines.json")).unwrap()
}

fn fields(engine: &str, class: &str) -> Vec<String> {
    let recorded = recorded();
    let fields = &recorded[engine]["classes"][class]["fields"];
    fields.as_array().unwrap().iter().map(|field| field.as_str().unwrap().to_owned()).collect()
}

fn assert_known(value: &Value, engine: &str, class: &str) {
    let known = fields(engine, class);
    for name in value.as_object().unwrap().keys() {
        assert!(known.contains(name), "`{name}` is no field of {engine}'s {class}: {known:?}");
    }
}

#[test]
fn requests_have_only_fields_that_the_engines_declare() {
    let reading = readings(1).remove(0);
    let body = |engine, answers| conformance::body(&served(engine, "http://x", answers), &reading);
    for answers in [Answers::Sampled, Answers::TopK(5), Answers::Distribution] {
        assert_known(&body(Engine::Vllm, answers), "vllm", "CompletionRequest");
    }
    for answers in [Answers::Sampled, Answers::TopK(5)] {
        let body = body(Engine::Sglang, answers);
        assert_known(&body, "sglang", "GenerateReqInput");
        assert_known(&body["sampling_params"], "sglang", "SamplingParams");
    }
    for (engine, name, class) in
        [(Engine::Vllm, "vllm", "GenerateRequest"), (Engine::Sglang, "sglang", "GenerateReqInput")]
    {
        let body = conformance::rollout(engine, &[97, 98], &[2]);
        assert_known(&body, name, class);
        assert_known(&body["sampling_params"], name, "SamplingParams");
    }
    let update = json!({ "model_path": "/pushed/one", "weight_version": "one" });
    assert_known(&update, "sglang", "UpdateWeightFromDiskReqInput");
    for (engine, name) in [(Engine::Vllm, "vllm"), (Engine::Sglang, "sglang")] {
        let body = conformance::detokenize(&served(engine, "http://x", Answers::Sampled), &[1, 2]);
        assert_known(&body, name, "DetokenizeRequest");
    }
}

#[test]
fn answers_have_only_fields_that_the_engines_declare() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let said = |path: &str, body: Value| -> Value {
        let (status, said) = post(&server.url, path, None, &body.to_string());
        assert_eq!(status, 200, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let reading = readings(1).remove(0);
    let body = |engine, answers| conformance::body(&served(engine, "http://x", answers), &reading);
    let of_vllm = said("/v1/completions", body(Engine::Vllm, Answers::TopK(2)));
    assert_known(&of_vllm, "vllm", "CompletionResponse");
    assert_known(&of_vllm["choices"][0], "vllm", "CompletionResponseChoice");
    let (_, entry) = of_vllm["choices"][0]["prompt_logprobs"][1].as_object().unwrap().iter().next().unwrap();
    assert_known(entry, "vllm", "Logprob");
    let of_sglang = said("/generate", body(Engine::Sglang, Answers::TopK(2)));
    let known = recorded()["sglang"]["meta_info"].clone();
    for name in of_sglang["meta_info"].as_object().unwrap().keys() {
        assert!(known.as_array().unwrap().contains(&json!(name)), "`{name}` is not in `meta_info`: {known}");
    }
    // Completions: as many tokens as were asked for, the same for the same seed.
    let drawn = json!({ "model": "teacher", "prompt": [97, 98], "max_tokens": 5, "seed": 7,
                        "return_token_ids": true, "logprobs": 1, "temperature": 1.0, "ignore_eos": false });
    let [one, two] = [0, 1].map(|_| said("/v1/completions", drawn.clone()));
    assert_eq!(one, two);
    let tokens = one["choices"][0]["token_ids"].as_array().unwrap().len();
    assert!((1..=5).contains(&tokens));
    assert_eq!(one["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), tokens);
    // The API with token ids alone, which also reports the weights that wrote them.
    let ends = weights.tokenizer.ends();
    let written = said("/inference/v1/generate", conformance::rollout(Engine::Vllm, &[97, 98], ends));
    assert_known(&written, "vllm", "GenerateTokensResponse");
    let choice = &written["choices"][0];
    assert_known(choice, "vllm", "GenerateTokensChoice");
    assert_known(&choice["logprobs"], "vllm", "GenerateLogProbs");
    assert_known(&choice["logprobs"]["content"][0], "vllm", "GenerateLogProbsContent");
    assert_known(&choice["weight_versions"][0], "vllm", "WeightVersionSpan");
    let chosen = json!({ "input_ids": [97, 98, 99], "sampling_params": { "max_new_tokens": 0 },
                         "return_logprob": true, "logprob_start_len": 0, "token_ids_logprob": [5, 99] });
    let chosen = &said("/generate", chosen)["meta_info"];
    let listed = chosen["input_token_ids_logprobs"].as_array().unwrap();
    assert!(listed.len() == 3 && listed[0].is_null());
    assert_eq!(listed[2][1], json!([chosen["input_token_logprobs"][2][0], 99, null]));
}
