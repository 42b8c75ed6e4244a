//! Tests of a real server on loopback with the client of runs, directly and through a damaging proxy.

mod engine;
mod faults;
mod fields;
mod hedging;
mod limits;
mod probe;
mod recorded;
mod rewards;
mod sampling;
mod security;
mod together;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mopd_plan::events::{Event, ServeJob};
use mopd_plan::{Answers, Dtype, Engine, PretrainedSource, Secret, Served};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::serve;
use crate::control::Control;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::model::tests::{random_model, tiny};
use crate::model::{Decoder, PackedBatch, Weights};
use crate::remote::{CancelToken, ScoredSequence, ServedScores, Server};
use crate::store::{CheckpointProvenance, CurrentFiles, Store};
use crate::tokenizer::Token;

/// The output of a job, as events.
struct Lines(Sender<Event>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        for line in line.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let _ = self.0.send(serde_json::from_slice(line).expect("an event a line"));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn control() -> (Arc<Control>, Receiver<Event>) {
    let (sender, events) = channel();
    (Arc::new(Control::new(Lines(sender))), events)
}

/// A server that runs until it is dropped.
struct Running {
    url: String,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.interrupt();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn job(model: &Path) -> ServeJob {
    ServeJob {
        model: PretrainedSource::Checkpoint { folder: model.to_str().expect("text").to_owned() },
        base: "/".to_owned(),
        name: "teacher".to_owned(),
        address: "127.0.0.1:0".to_owned(),
        key: None,
        updates: None,
        dtype: Dtype::Float32,
        tokens: 4096,
        entries: None,
    }
}

fn start(job: ServeJob) -> Running {
    let (control, events) = control();
    let own = control.clone();
    let thread = std::thread::spawn(move || drop(serve(&job, Place::cpu(), &own)));
    let Ok(Event::Serving { url, .. }) = events.recv_timeout(Duration::from_secs(60)) else {
        panic!("the server says where it is")
    };
    Running { url, control, thread: Some(thread) }
}

/// Saves a model under a name and returns its folder.
fn saved(weights: &Weights, folder: &Path, name: &str) -> PathBuf {
    let store = Store::open(&folder.join("store")).unwrap();
    let provenance = CheckpointProvenance::new(weights, name, 1, name, Vec::new());
    store.insert(name, &provenance, weights, &Default::default(), None).unwrap();
    store.publish(name, folder, name, 1, &CurrentFiles::of(weights)).unwrap();
    folder.join(format!("models/{name}-seed1")).canonicalize().unwrap()
}

fn served(engine: Engine, url: &str, answers: Answers) -> Served {
    Served { engine, url: Secret::Text(url.to_owned()), model: "teacher".to_owned(), answers, key: None }
}

/// Prompts and completions of several lengths; some tokens of one are not scored.
fn readings(count: usize) -> Vec<ScoredSequence> {
    let token = |place: usize| (97 + place * 7 % 26) as Token;
    let one = |index: usize| {
        let prompt = (0..1 + index % 4).map(|place| token(place + index)).collect();
        let completion: Vec<Token> = (0..2 + index % 5).map(|place| token(3 * place + index)).collect();
        let scored = (index % 3 == 1).then(|| (0..completion.len()).map(|place| place != 1).collect());
        ScoredSequence { prompt, completion, scored }
    };
    (0..count).map(one).collect()
}

fn packed(readings: &[ScoredSequence]) -> PackedBatch {
    let sequences =
        readings.iter().map(|of| (of.prompt.as_slice(), of.completion.as_slice(), of.scored.as_deref()));
    PackedBatch::masked(sequences, Device::Cpu)
}

/// Log-probabilities `[scored tokens, vocabulary]` and the tokens, as a run computes them with a local model.
fn at_hand(weights: &Weights, readings: &[ScoredSequence]) -> (Tensor, Vec<Token>) {
    let _guard = no_grad_guard();
    let decoder = Decoder::frozen(weights, Place::cpu(), Kind::Float);
    let batch = packed(readings);
    let entries = weights.tokenizer.vocabulary() as i64;
    let logps = decoder.logits(&batch).narrow(1, 0, entries).log_softmax(-1, Kind::Float);
    (logps, Vec::try_from(&batch.targets).unwrap())
}

#[test]
fn whole_distributions_cross_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    let client = Server::open(&served(Engine::Mopd, &server.url, Answers::Distribution), &control).unwrap();
    client.compare_tokenizer(&weights.tokenizer, &control).unwrap();
    let entries = weights.tokenizer.vocabulary();
    let batches = [readings(5), readings(9)];
    let scores = client.score(&batches, entries, CancelToken::new(&control)).unwrap();
    let ServedScores::Hidden { batches: hidden, lm_head, softcap } = scores else { panic!("hidden states") };
    assert_eq!((hidden.len(), softcap), (2, None));
    let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
    for (hidden, readings) in hidden.iter().zip(&batches) {
        let own = decoder.hidden(&packed(readings));
        assert_eq!((hidden.size(), to_vec(hidden)), (own.size(), to_vec(&own)));
    }
    assert_eq!(to_vec(&lm_head), to_vec(&decoder.lm_head().detach().narrow(0, 0, entries as i64)));
}

/// The scores of both dialects are those of a local model, up to rounding in another batch.
#[test]
fn scores_of_both_dialects_equal_a_local_model() {
    const CLOSE: f64 = 1e-5;
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    let readings = readings(12);
    let (logps, tokens) = at_hand(&weights, &readings);
    let entries = weights.tokenizer.vocabulary();
    let close = |one: f64, other: f32| assert!((one - f64::from(other)).abs() < CLOSE, "{one} {other}");
    for (engine, answers) in [
        (Engine::Vllm, Answers::Sampled),
        (Engine::Vllm, Answers::TopK(3)),
        (Engine::Vllm, Answers::Distribution),
        (Engine::Sglang, Answers::Sampled),
        (Engine::Sglang, Answers::TopK(3)),
    ] {
        let client = Server::open(&served(engine, &server.url, answers), &control).unwrap();
        client.compare_tokenizer(&weights.tokenizer, &control).unwrap();
        let scores =
            client.score(std::slice::from_ref(&readings), entries, CancelToken::new(&control)).unwrap();
        let ServedScores::Listed(listed) = scores else { panic!("listed entries") };
        let listed: Vec<_> = listed.into_iter().flat_map(|of| of.tokens).collect();
        assert_eq!(listed.len(), tokens.len(), "{engine:?} {answers:?}");
        for (row, (listed, token)) in listed.iter().zip(&tokens).enumerate() {
            let of = |id: Token| logps.double_value(&[row as i64, id]);
            assert_eq!(listed[0].0, *token);
            listed.iter().for_each(|(id, logp)| close(of(*id), *logp));
            match answers {
                Answers::Sampled => assert_eq!(listed.len(), 1),
                Answers::Distribution => assert_eq!(listed.len(), entries),
                Answers::TopK(k) => {
                    // The three most probable entries, and the token's own.
                    let (best, _) = logps.get(row as i64).topk(i64::from(k), -1, true, true);
                    let mut found: Vec<f32> = listed.iter().map(|(_, logp)| *logp).collect();
                    found.sort_by(|one, other| other.total_cmp(one));
                    assert!(listed.len() == 3 || listed.len() == 4);
                    to_vec(&best).iter().zip(found).for_each(|(best, found)| close(f64::from(*best), found));
                }
            }
        }
    }
}

/// An id in a list that no token has takes the place of a token's entry, so it is an error.
#[test]
fn an_id_without_a_token_is_no_entry_of_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    let entries = weights.tokenizer.vocabulary();
    let scored = |answers| {
        let client = Server::open(&served(Engine::Vllm, &server.url, answers), &control).unwrap();
        let scores = client.score(&[readings(2)], entries, CancelToken::new(&control)).unwrap();
        (client, scores)
    };
    let (client, scores) = scored(Answers::TopK(3));
    let ServedScores::Listed(listed) = &scores else { panic!("listed entries") };
    // The most probable entry that is not the token itself.
    let absent = listed[0].tokens[0][1].0;
    let said = client.check_listed(&scores, &[absent]).unwrap_err().to_string();
    assert!(
        said.contains(&format!("returned the token {absent}, which the tokenizer does not have")),
        "{said}"
    );
    client.check_listed(&scores, &[]).unwrap();
    // In a whole distribution, its probability is spread over the other entries.
    let (client, scores) = scored(Answers::Distribution);
    client.check_listed(&scores, &[absent]).unwrap();
}

/// A server whose weights were replaced is another teacher: no step mixes the two.
#[test]
fn weights_are_replaced_from_an_allowed_folder_and_a_run_notices() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = [1, 2].map(|seed| random_model(&tiny(), seed));
    let first = saved(&one, folder.path(), "one");
    let allowed = tempfile::tempdir().unwrap();
    let second = saved(&two, allowed.path(), "two");
    let updates = Some(second.parent().unwrap().to_str().unwrap().to_owned());
    let server = start(ServeJob { updates, ..job(&first) });
    let (control, _events) = control();
    let open =
        |engine: Engine, answers| Server::open(&served(engine, &server.url, answers), &control).unwrap();
    let old = open(Engine::Mopd, Answers::Distribution);
    let old_by_name = open(Engine::Sglang, Answers::Sampled);
    let entries = one.tokenizer.vocabulary();
    old.score(&[readings(2)], entries, CancelToken::new(&control)).map(drop).unwrap();
    let post =
        |path: &str, body: serde_json::Value| security::post(&server.url, path, None, &body.to_string()).0;
    let outside = first.to_str().unwrap();
    let name = second.file_name().unwrap().to_str().unwrap();
    assert_eq!(post("/update_weights_from_disk", serde_json::json!({ "model_path": outside })), 403);
    assert_eq!(post("/update_weights_from_disk", serde_json::json!({ "model_path": "../../.." })), 403);
    let update = serde_json::json!({ "model_path": name, "weight_version": "step 10" });
    assert_eq!(post("/update_weights_from_disk", update), 200);
    let said =
        old.score(&[readings(2)], entries, CancelToken::new(&control)).map(drop).unwrap_err().to_string();
    assert!(said.contains("serves") && said.contains("when the run began"), "{said}");
    let new = open(Engine::Mopd, Answers::Distribution);
    assert_ne!(new.identity().hash(), old.identity().hash());
    let (was, is) = (old_by_name.identity(), open(Engine::Sglang, Answers::Sampled));
    assert_eq!(is.identity().weights.as_deref(), Some("step 10"));
    assert_ne!(was.hash(), is.identity().hash());
    let ServedScores::Hidden { batches, .. } =
        new.score(&[readings(3)], entries, CancelToken::new(&control)).unwrap()
    else {
        panic!("hidden states")
    };
    let own = Decoder::frozen(&two, Place::cpu(), Kind::Float).hidden(&packed(&readings(3)));
    assert_eq!(to_vec(&batches[0]), to_vec(&own));
    // By vLLM's request.
    let rpc = serde_json::json!({ "method": "reload_weights", "kwargs": { "weights_path": name } });
    assert_eq!(post("/collective_rpc", rpc), 200);
}
