//! Tests of a server that samples for a run: the completions are those that the run would have sampled,
//! whatever weights the server began with, and however its replies are damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mopd_plan::events::ServeJob;
use mopd_plan::{Dtype, Engine, PretrainedSource, RolloutServer, Sampling, Secret};
use serde_json::json;
use tch::{Kind, no_grad_guard};

use super::security::post;
use super::{Running, at_hand as at_hand_logps, control, job, packed, saved, start};
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::model::tests::{random_model, tiny};
use crate::model::{Decoder, Weights};
use crate::prepare::load::load;
use crate::random::{Key, Purpose};
use crate::remote::push::{PushedWeights, canary};
use crate::remote::sampling::SamplingServer;
use crate::remote::{ScoredSequence, StudentIdentity};
use crate::rollout::{Completion, MemoryBudget, Prompt, RolloutRequest, rollout};
use crate::tokenizer::Token;

const CLOSE: f64 = 1e-3;

/// A server that began with other weights than the run will send, and the folder for these.
fn serving(folder: &Path) -> (Running, PathBuf) {
    let first = saved(&random_model(&tiny(), 9), folder, "first");
    let models = first.parent().unwrap().to_owned();
    let updates = Some(models.to_str().unwrap().to_owned());
    (start(ServeJob { updates, ..job(&first) }), models)
}

pub fn client(url: &str, folder: &Path, limit: Duration) -> SamplingServer {
    speaking(Engine::Mopd, url, folder, limit)
}

pub fn speaking(engine: Engine, url: &str, folder: &Path, limit: Duration) -> SamplingServer {
    let (url, push) = (Secret::Text(url.to_owned()), folder.to_str().unwrap().to_owned());
    let server = RolloutServer { engine, url, model: "teacher".to_owned(), push, key: None };
    SamplingServer::with_time_limit(&server, Path::new("/"), limit).unwrap()
}

/// Saves weights in the folder that the run and the server share.
pub fn pushed(weights: &Weights, folder: &Path, step: u32) -> PushedWeights {
    let model = saved(weights, folder.parent().unwrap(), &format!("step{step}"));
    let named = PretrainedSource::Checkpoint { folder: model.to_str().unwrap().to_owned() };
    let content = load(&named, Path::new("/"), None).unwrap().content;
    let _guard = no_grad_guard();
    let reading = canary(&weights.tokenizer).unwrap();
    let decoder = Decoder::frozen(weights, Place::cpu(), Kind::Float);
    let entries = weights.tokenizer.vocabulary() as i64;
    let logps = decoder.logits(&packed(std::slice::from_ref(&reading))).narrow(1, 0, entries);
    let targets = tch::Tensor::from_slice(&reading.completion).unsqueeze(1);
    let canary = to_vec(&logps.log_softmax(-1, Kind::Float).gather(1, &targets, false));
    PushedWeights { folder: model, content, of: format!("step {step}"), canary }
}

pub fn prompts() -> Vec<Vec<Token>> {
    (0..5).map(|index| (0..2 + index % 3).map(|place| (97 + index + place) as Token).collect()).collect()
}

pub fn asked(prompts: &[Vec<Token>]) -> Vec<Prompt<'_>> {
    let limit = |index: usize| (index == 3).then_some(4);
    let prompt = |(index, tokens)| Prompt { tokens, id: 7 * index as u32, sample: 0, limit: limit(index) };
    prompts.iter().map(Vec::as_slice).enumerate().map(prompt).collect()
}

pub fn key(step: u64) -> Key {
    Key::new(3, 5, Purpose::Rollout, step)
}

/// What a server is told of a student.
fn identity(weights: &Weights, dtype: Dtype) -> StudentIdentity<'_> {
    StudentIdentity { tokenizer: &weights.tokenizer, longest: 8, dtype }
}

/// The completions that a run samples itself.
pub fn at_hand(weights: &Weights, prompts: &[Prompt], sampling: &Sampling, key: Key) -> Vec<Completion> {
    let (control, _events) = control();
    let decoder = Decoder::frozen(weights, Place::cpu(), Kind::Float);
    rollout(&decoder, prompts, sampling, key, MemoryBudget(1 << 24), &control).unwrap()
}

#[test]
fn a_server_samples_to_the_bit_what_the_run_would_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (server, models) = serving(folder.path());
    let (control, _events) = control();
    let client = client(&server.url, &models, Duration::from_secs(60));
    let prompts = prompts();
    let sampled = |seed: u64, step: u32, sampling: &Sampling| {
        let weights = random_model(&tiny(), seed);
        let (prompts, key) = (asked(&prompts), key(u64::from(step)));
        let tokenizer = &weights.tokenizer;
        let there = client
            .sample(
                || Ok(pushed(&weights, &models, step)),
                &RolloutRequest::new(&prompts, sampling, key),
                tokenizer,
                CLOSE,
                &control,
            )
            .unwrap();
        assert_eq!(there, at_hand(&weights, &prompts, sampling, key), "step {step}");
    };
    let plain = Sampling::new(3, 1.0, 9);
    let student = random_model(&tiny(), 1);
    client.check_student(identity(&student, Dtype::Float32), &control).unwrap();
    sampled(1, 0, &plain);
    sampled(2, 1, &Sampling { top_k: Some(20), top_p: Some(0.9), ..Sampling::new(2, 0.7, 6) });
    let stop = vec!["e".to_owned()];
    sampled(3, 2, &Sampling { repetition_penalty: Some(1.3), stop, ..plain });
    let left: Vec<_> = std::fs::read_dir(&models).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "the server's own and the newest: {left:?}");
    // A run in half precision would sample other completions, so it is refused.
    let said = client.check_student(identity(&student, Dtype::Bfloat16), &control);
    let said = said.unwrap_err().to_string();
    assert!(said.contains("computes in float32, the run in bfloat16"), "{said}");
}

/// By vLLM or SGLang requests: other draws, each with the log-probability that the trainer computes for it.
#[test]
fn another_dialect_samples_by_the_weights_that_it_was_given() {
    check_samples_by_engine(Engine::Sglang);
    check_samples_by_engine(Engine::Vllm);
}

fn check_samples_by_engine(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let (server, models) = serving(folder.path());
    let (control, _events) = control();
    let client = speaking(engine, &server.url, &models, Duration::from_secs(60));
    let (prompts, sampling) = (prompts(), Sampling::new(3, 1.0, 7));
    client.check_student(identity(&random_model(&tiny(), 1), Dtype::Bfloat16), &control).unwrap();
    let mut known = Vec::new();
    for step in 0..3 {
        let weights = random_model(&tiny(), u64::from(step) + 1);
        let pushed = pushed(&weights, &models, step);
        let sample = || {
            let rollout = RolloutRequest::new(&asked(&prompts), &sampling, key(u64::from(step)));
            client.sample(|| Ok(pushed.clone()), &rollout, &weights.tokenizer, CLOSE, &control).unwrap()
        };
        let written = sample();
        assert_eq!(written, sample(), "the same seeds");
        assert_eq!(written.len(), 15);
        for (place, completion) in written.iter().enumerate() {
            assert!(completion.tokens.len() <= if place / 3 == 3 { 4 } else { 7 });
            let prompt = prompts[place / 3].clone();
            let reading = ScoredSequence { prompt, completion: completion.tokens.clone(), scored: None };
            let (logps, tokens) = at_hand_logps(&weights, std::slice::from_ref(&reading));
            for (row, (logp, token)) in completion.logps.iter().zip(tokens).enumerate() {
                let own = logps.double_value(&[row as i64, token]);
                assert!((own - f64::from(*logp)).abs() < 1e-4, "{own} {logp}");
            }
        }
        assert_ne!(known, written);
        known = written;
    }
}

/// The server reports the right hash, but its numbers show that it has other weights.
#[test]
fn a_canary_that_differs_ends_the_run_and_names_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (server, models) = serving(folder.path());
    let (control, _events) = control();
    let client = client(&server.url, &models, Duration::from_secs(60));
    let [one, two] = [1, 2].map(|seed| random_model(&tiny(), seed));
    let (prompts, sampling) = (prompts(), Sampling::new(1, 1.0, 4));
    let rollout = RolloutRequest::new(&asked(&prompts), &sampling, key(0));
    let sample = |pushed: PushedWeights| {
        client.sample(|| Ok(pushed), &rollout, &one.tokenizer, CLOSE, &control).map(drop)
    };
    let first = pushed(&one, &models, 0);
    sample(first.clone()).unwrap();
    // The canary comes from the weights of step 1, but the server gets others.
    let other = pushed(&two, &models, 1);
    let wrong = PushedWeights { canary: first.canary.clone(), ..other.clone() };
    let third = pushed(&random_model(&tiny(), 3), &models, 2);
    let said =
        sample(PushedWeights { canary: third.canary.clone(), ..other.clone() }).unwrap_err().to_string();
    assert!(said.contains("no weights that this run sent give these"), "{said}");
    assert!(said.contains("reports the weights of step 1"), "{said}");
    // The server now reports these weights. Another run compares the canary before it trusts that.
    for engine in Engine::ALL {
        let client = speaking(engine, &server.url, &models, Duration::from_secs(60));
        let said = client.sample(|| Ok(wrong.clone()), &rollout, &one.tokenizer, CLOSE, &control);
        let said = said.unwrap_err();
        assert!(said.to_string().contains("reports the weights of step 1"), "{engine:?}: {said}");
    }
    // `first` was deleted when others were sent; it is sent again under the name of the third.
    let again = pushed(&one, &models, 3);
    let said = sample(PushedWeights { canary: third.canary, ..again }).unwrap_err().to_string();
    assert!(said.contains("they are those of step 0"), "{said}");
}

/// A request that names weights is never answered with others.
#[test]
fn weights_that_are_not_there_sample_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _models) = serving(folder.path());
    let sampling = serde_json::to_value(Sampling::new(1, 1.0, 4)).unwrap();
    let body = |weights: &str, sampling: &serde_json::Value, id: i64| {
        let prompt = json!({ "tokens": [id], "id": 0, "sample": 0, "limit": null });
        json!({ "weights": weights, "prompts": [prompt], "sampling": sampling, "key": [1, 2, 3, 4] })
    };
    let ask = |body: serde_json::Value| post(&server.url, "/mopd/rollouts", None, &body.to_string());
    let (status, said) = ask(body("others", &sampling, 97));
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("the server has the weights "), "{said}");
    let has = said.split("the weights ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned();
    assert_eq!(ask(body(&has, &sampling, 97)).0, 200);
    assert_eq!(ask(body(&has, &sampling, 1 << 20)).0, 400);
    let mut endless = sampling.clone();
    endless["max_tokens"] = json!(0);
    assert_eq!(ask(body(&has, &endless, 97)).0, 400);
    let mut long = sampling.clone();
    long["n"] = json!(1024);
    assert_eq!(ask(body(&has, &long, 97)).0, 413);
    // A run that is not allowed to send weights reports so.
    let (control, _events) = control();
    let kept = start(job(&saved(&random_model(&tiny(), 4), folder.path(), "kept")));
    let client = client(&kept.url, folder.path(), Duration::from_secs(60));
    let weights = random_model(&tiny(), 5);
    let models = folder.path().join("models");
    let (prompts, sampling) = (prompts(), Sampling::new(1, 1.0, 4));
    let rollout = RolloutRequest::new(&asked(&prompts), &sampling, key(0));
    let pushing = || Ok(pushed(&weights, &models, 9));
    let said = client.sample(pushing, &rollout, &weights.tokenizer, CLOSE, &control);
    let said = said.unwrap_err().to_string();
    assert!(said.contains("status 403"), "{said}");
}
