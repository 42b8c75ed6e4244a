//! Tests of several simultaneous clients, also while the weights are replaced.

use mopd_plan::events::ServeJob;
use serde_json::{Value, json};

use super::security::post;
use super::{job, saved, start};
use crate::model::tests::{random_model, tiny};

/// A request of a client: completions by its own seed, or scores.
fn body(number: usize) -> String {
    let prompt: Vec<usize> = (0..1 + number % 5).map(|place| 97 + (number + 3 * place) % 26).collect();
    if number % 4 == 3 {
        return json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 2 })
            .to_string();
    }
    let (temperature, n) = ([1.0, 0.7, 0.0][number % 3], 1 + number % 2);
    json!({
        "prompt": prompt, "max_tokens": 2 + number % 6, "temperature": temperature, "n": n,
        "seed": number, "return_token_ids": true, "logprobs": 0,
    })
    .to_string()
}

fn answer(url: &str, number: usize) -> Value {
    let (status, said) = post(url, "/v1/completions", None, &body(number));
    assert_eq!(status, 200, "{said}");
    serde_json::from_str(&said).unwrap()
}

/// Clients that keep the queue full of texts to score don't stop the completions of another one.
#[test]
fn completions_go_on_while_others_score() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(job(&saved(&random_model(&tiny(), 1), folder.path(), "one")));
    let (url, done) = (server.url.as_str(), std::sync::atomic::AtomicBool::new(false));
    let began = std::time::Instant::now();
    let scored = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (done, scored) = (&done, &scored);
        for number in 0..6 {
            scope.spawn(move || {
                let late = || began.elapsed() > std::time::Duration::from_secs(30);
                while !done.load(std::sync::atomic::Ordering::SeqCst) && !late() {
                    answer(url, 4 * number + 3);
                    scored.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
        while scored.load(std::sync::atomic::Ordering::SeqCst) < 12 {
            std::thread::yield_now();
        }
        let long = json!({ "prompt": [97, 98], "max_tokens": 12, "temperature": 1, "seed": 1 });
        let (status, said) = post(url, "/v1/completions", None, &long.to_string());
        assert_eq!(status, 200, "{said}");
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn answers_do_not_depend_on_who_else_asks() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [(1, "first"), (2, "second")]
        .map(|(seed, name)| saved(&random_model(&tiny(), seed), folder.path(), name));
    let updates = Some(first.parent().unwrap().to_str().unwrap().to_owned());
    let server = start(ServeJob { updates, ..job(&first) });
    let other = start(job(&second));
    const CLIENTS: usize = 12;
    let alone = |url: &str| -> Vec<Value> { (0..CLIENTS).map(|number| answer(url, number)).collect() };
    let [before, after] = [alone(&server.url), alone(&other.url)];
    assert!(before.iter().zip(&after).filter(|(one, other)| one != other).count() > CLIENTS / 2);
    let (url, barrier) = (server.url.as_str(), std::sync::Barrier::new(CLIENTS + 1));
    let updated = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (before, after, barrier, updated) = (&before, &after, &barrier, &updated);
        for number in 0..CLIENTS {
            scope.spawn(move || {
                barrier.wait();
                let mut seen = 0;
                while seen < 5 {
                    let sent_after = updated.load(std::sync::atomic::Ordering::SeqCst);
                    let said = answer(url, number);
                    assert!(
                        said == after[number] || (said == before[number] && !sent_after),
                        "{number}: {said}"
                    );
                    seen += usize::from(sent_after);
                }
            });
        }
        barrier.wait();
        let weights = json!({ "model_path": second.file_name().unwrap().to_str().unwrap() }).to_string();
        let (status, said) = post(url, "/update_weights_from_disk", None, &weights);
        assert_eq!(status, 200, "{said}");
        updated.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
