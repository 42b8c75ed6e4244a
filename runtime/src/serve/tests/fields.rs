//! Tests of request fields: each is honoured, or refused by name.

use serde_json::{Value, json};

use super::security::post;
use super::{Running, job, saved, start};
use crate::model::tests::{random_model, tiny};

fn running() -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    let model = saved(&random_model(&tiny(), 1), folder.path(), "one");
    (folder, start(job(&model)))
}

fn said(server: &Running, path: &str, body: &Value) -> Value {
    let (status, said) = post(&server.url, path, None, &body.to_string());
    assert_eq!(status, 200, "{body}: {said}");
    serde_json::from_str(&said).unwrap()
}

fn refused(server: &Running, path: &str, body: &Value, why: &str) {
    let (status, said) = post(&server.url, path, None, &body.to_string());
    assert_eq!(status, 400, "{body}: {said}");
    assert!(said.contains(why), "{body}: {said}");
}

fn with(mut body: Value, change: Value) -> Value {
    let Value::Object(change) = change else { panic!("fields have names") };
    change.into_iter().for_each(|(name, value)| body[name] = value);
    body
}

#[test]
fn fields_at_their_neutral_values_are_accepted() {
    let (_folder, server) = running();
    let asked =
        json!({ "prompt": [97, 98], "max_tokens": 3, "seed": 7, "return_token_ids": true, "logprobs": 0 });
    let plain = said(&server, "/v1/completions", &asked);
    for change in [
        json!({ "repetition_penalty": 1, "length_penalty": 1.0, "presence_penalty": 0, "frequency_penalty": 0.0 }),
        json!({ "min_p": 0, "min_tokens": 0, "echo": false, "stop": [], "logit_bias": {}, "suffix": null }),
        json!({ "skip_special_tokens": true, "add_special_tokens": false, "logprobs": 1, "n": 1 }),
    ] {
        assert_eq!(said(&server, "/v1/completions", &with(asked.clone(), change)), plain);
    }
}

#[test]
fn a_text_without_special_tokens_is_encoded_as_it_stands() {
    let (_folder, server) = running();
    let ids = |change: Value| {
        let asked = json!({ "prompt": "ab", "max_tokens": 1, "seed": 1, "return_token_ids": true });
        said(&server, "/v1/completions", &with(asked, change))["choices"][0]["prompt_token_ids"].clone()
    };
    let tokens = |special: bool| {
        said(&server, "/tokenize", &json!({ "prompt": "ab", "add_special_tokens": special }))["tokens"]
            .clone()
    };
    assert_ne!(tokens(true), tokens(false));
    assert_eq!(ids(json!({})), tokens(true));
    assert_eq!(ids(json!({ "add_special_tokens": true })), tokens(true));
    assert_eq!(ids(json!({ "add_special_tokens": false })), tokens(false));
}

/// A greedy choice has probability 1, whether it is written or scored.
#[test]
fn a_greedy_token_has_one_log_probability() {
    let (_folder, server) = running();
    let asked = json!({ "prompt": [97, 98], "max_tokens": 1, "temperature": 0, "logprobs": 0 });
    let logprobs = |change: Value| {
        said(&server, "/v1/completions", &with(asked.clone(), change))["choices"][0]["logprobs"].clone()
    };
    let plain = logprobs(json!({}));
    assert_eq!(plain["token_logprobs"], json!([0.0]));
    assert_eq!(logprobs(json!({ "prompt_logprobs": 0 })), plain);
    let longer = logprobs(json!({ "prompt_logprobs": 0, "max_tokens": 2 }));
    assert_eq!(longer["tokens"][0], plain["tokens"][0]);
    assert_eq!(longer["token_logprobs"][0], json!(0.0));
}

/// Regression: one of these temperatures once ended the requests of all other clients.
#[test]
fn temperatures_near_zero_are_drawn_at() {
    let (_folder, server) = running();
    let asked = json!({ "prompt": [97, 98], "max_tokens": 2, "seed": 1, "return_token_ids": true });
    let greedy = said(&server, "/v1/completions", &with(asked.clone(), json!({ "temperature": 0 })));
    for temperature in [5e-324, 1e-40, 1e-30] {
        for cut in [json!({}), json!({ "top_k": 1 }), json!({ "top_p": 0.5 })] {
            let asked = with(with(asked.clone(), json!({ "temperature": temperature })), cut);
            assert_eq!(said(&server, "/v1/completions", &asked), greedy, "{asked}");
        }
    }
}

#[test]
fn unsupported_fields_are_refused_with_their_name() {
    let (_folder, server) = running();
    let tokens = json!({ "token_ids": [97], "sampling_params": { "max_tokens": 2, "seed": 1 } });
    said(&server, "/inference/v1/generate", &tokens);
    for (change, why) in [
        (json!({ "logprobs": 4 }), "`logprobs` must be 0 or 1"),
        (json!({ "repetition_penalty": 0 }), "`repetition_penalty` is not supported"),
        (json!({ "prompt_logprobs": 0 }), "`prompt_logprobs` is not supported"),
        (json!({ "n": 2 }), "`n` is not supported"),
    ] {
        let settings = with(tokens["sampling_params"].clone(), change);
        let asked = with(tokens.clone(), json!({ "sampling_params": settings }));
        refused(&server, "/inference/v1/generate", &asked, why);
    }
    let asked = json!({ "text": "ab", "sampling_params": { "max_new_tokens": 1 }, "return_logprob": true });
    said(&server, "/generate", &asked);
    said(&server, "/generate", &with(asked.clone(), json!({ "return_text_in_logprobs": false })));
    for (change, why) in [
        (json!({ "return_text_in_logprobs": true }), "`return_text_in_logprobs` is not supported"),
        (json!({ "top_logprobs_num": 3 }), "`top_logprobs_num` and"),
        (json!({ "top_logprobs_num": 3, "logprob_start_len": 0 }), "`top_logprobs_num` and"),
        (json!({ "token_ids_logprob": [97] }), "`token_ids_logprob` are supported for input tokens only"),
        (json!({ "sampling_params": { "repetition_penalty": 0 } }), "`repetition_penalty` is not supported"),
        (
            json!({ "sampling_params": { "skip_special_tokens": false } }),
            "`skip_special_tokens` must be \
            true",
        ),
    ] {
        refused(&server, "/generate", &with(asked.clone(), change), why);
    }
}

/// Engines take 64-bit seeds; parsing them as floats would make several equal.
#[test]
fn seeds_of_64_bits_are_told_apart() {
    let (_folder, server) = running();
    let prompt = json!([97, 98, 99]);
    let by_vllm = |seed: Value| {
        (
            "/v1/completions",
            json!({ "prompt": prompt, "max_tokens": 8, "seed": seed, "return_token_ids": true }),
        )
    };
    let of_tokens = |seed: Value| {
        let sampling = json!({ "max_tokens": 8, "seed": seed });
        ("/inference/v1/generate", json!({ "token_ids": prompt, "sampling_params": sampling }))
    };
    let by_sglang = |seed: Value| {
        let sampling = json!({ "max_new_tokens": 8, "sampling_seed": seed });
        ("/generate", json!({ "input_ids": prompt, "sampling_params": sampling }))
    };
    let requests: [&dyn Fn(Value) -> (&'static str, Value); 3] = [&by_vllm, &of_tokens, &by_sglang];
    for request in requests {
        let drawn = |seed: u64| {
            let (path, asked) = request(json!(seed));
            let answer = said(&server, path, &asked);
            let tokens = answer.pointer("/choices/0/token_ids").or(answer.get("output_ids"));
            tokens.unwrap_or_else(|| panic!("{answer}")).clone()
        };
        // Two of these seeds are equal as float64.
        let seeds = [2_147_483_648, 1 << 60, (1 << 60) + 1, u64::MAX];
        let answers = seeds.map(drawn);
        let (path, asked) = request(json!(2_147_483_648.0));
        let answer = said(&server, path, &asked);
        assert!(answer.to_string().contains(&answers[0].to_string()), "{answer}");
        assert_eq!(answers, seeds.map(drawn));
        for (at, answer) in answers.iter().enumerate() {
            assert!(!answers[..at].contains(answer), "{answers:?}");
        }
        for wrong in [json!(-2), json!(1.5), json!("7"), json!(18_446_744_073_709_551_616.0)] {
            let (path, asked) = request(wrong);
            refused(
                &server,
                path,
                &asked,
                "seed` must be a whole number from 0 to 18446744073709551615, \
                not ",
            );
        }
    }
    // To vLLM, -1 is no seed: other draws each time. Its clients send it as a default.
    for request in &requests[..2] {
        let drawn = || {
            let (path, asked) = request(json!(-1));
            said(&server, path, &asked).pointer("/choices/0/token_ids").unwrap().clone()
        };
        let first = drawn();
        assert!((0..5).any(|_| drawn() != first), "{first}");
    }
    let (path, asked) = by_sglang(json!(-1));
    refused(&server, path, &asked, "`sampling_seed` must be a whole number");
}
