//! Tests with a proxy that holds one reply back: the request is sent a second time.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mopd_plan::{Answers, Engine};

use super::faults::{Fault, LIMIT, pass};
use super::{control, job, readings, saved, served, start};
use crate::model::tests::{random_model, tiny};
use crate::remote::{CancelToken, ListedTokens, ScoredSequence, ServedScores, Server};
use crate::tokenizer::Token;

/// How often to check whether the held reply is to be released.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The proxy's faults for the chosen scoring request, one for each time that it comes.
#[derive(Default)]
struct Plan {
    faults: Vec<Option<Fault>>,
    /// Text of the requests to choose from: a second request of an earlier round may arrive late.
    of_round: String,
    /// The chosen request.
    chosen: Option<Vec<u8>>,
    came: usize,
    /// Number of all scoring requests.
    all: usize,
    /// Whether the held reply is released.
    open: Arc<AtomicBool>,
}

impl Plan {
    fn fault(&mut self, request: &[u8]) -> Option<Fault> {
        if !request.starts_with(b"POST /v1/comp") {
            return None;
        }
        self.all += 1;
        let of_round = String::from_utf8_lossy(request).contains(&self.of_round);
        if self.faults.is_empty() || !of_round {
            return None;
        }
        if self.chosen.get_or_insert_with(|| request.to_vec()) != request {
            return None;
        }
        self.came += 1;
        self.faults.get(self.came - 1).copied().flatten()
    }
}

fn before(target: &str, plan: &Arc<Mutex<Plan>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (target, plan) = (target.strip_prefix("http://").unwrap().to_owned(), plan.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (target, plan) = (target.clone(), plan.clone());
            let fault = move |request: &[u8]| {
                let (fault, open) = {
                    let mut plan = plan.lock().unwrap();
                    (plan.fault(request), plan.open.clone())
                };
                if fault != Some(Fault::TimeOut) {
                    return fault;
                }
                while !open.load(Ordering::Relaxed) {
                    std::thread::sleep(POLL_INTERVAL);
                }
                None
            };
            std::thread::spawn(move || pass(client, &target, fault));
        }
    });
    url
}

/// A batch that no other round sends, and a text that each of its requests contains.
fn of_round(round: Token) -> (Vec<ScoredSequence>, String) {
    let start = [100 + round; 6];
    let mut batch = readings(160);
    batch.iter_mut().for_each(|one| drop(one.prompt.splice(..0, start)));
    (batch, start.map(|token| token.to_string()).join(","))
}

#[test]
fn a_slow_answer_is_asked_for_again_and_no_number_changes() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let plan = Arc::new(Mutex::new(Plan::default()));
    let url = before(&server.url, &plan);
    let (control, _events) = control();
    let open = |url: &str| {
        let served = served(Engine::Vllm, url, Answers::Sampled);
        Server::with_time_limit(&served, Duration::from_secs(3600), &control).unwrap()
    };
    let entries = weights.tokenizer.vocabulary();
    let score = |server: &Server, batch: &[ScoredSequence]| -> Vec<ListedTokens> {
        match server.score(&[batch.to_vec()], entries, CancelToken::new(&control)).unwrap() {
            ServedScores::Listed(listed) => listed,
            ServedScores::Hidden { .. } => panic!("a list"),
        }
    };
    let through = open(&url);
    // A direct client, which has too few latencies to send anything twice.
    let straight = |batch: &[ScoredSequence]| {
        let straight = open(&server.url);
        let right = score(&straight, batch);
        assert_eq!(straight.take_hedged(), None);
        right
    };
    // Without earlier latencies, nothing is sent twice.
    let batch = readings(160);
    assert_eq!(score(&through, &batch), straight(&batch));
    assert_eq!(through.take_hedged(), None);
    let (mut asked, mut again) = (160, 0);
    // A good second reply counts before the first comes; with a bad second reply, the first counts.
    for (round, second, patient) in
        [(0, None, false), (1, Some(Fault::Positive), true), (2, Some(Fault::Closed), true)]
    {
        let (batch, of_round) = of_round(round);
        let right = straight(&batch);
        let open = Arc::new(AtomicBool::new(false));
        let faults = vec![Some(Fault::TimeOut), second];
        *plan.lock().unwrap() = Plan { faults, of_round, open: open.clone(), ..Plan::default() };
        if patient {
            // Releases the first reply after the second request was answered.
            let (plan, open) = (plan.clone(), open.clone());
            std::thread::spawn(move || {
                while plan.lock().unwrap().came < 2 {
                    std::thread::sleep(POLL_INTERVAL);
                }
                std::thread::sleep(LIMIT / 5);
                open.store(true, Ordering::Relaxed);
            });
        }
        assert_eq!(score(&through, &batch), right, "{second:?}");
        // A good second reply counts while the first is still held back.
        assert_eq!(open.swap(true, Ordering::Relaxed), patient, "{second:?}");
        let Plan { came, all, .. } = *plan.lock().unwrap();
        assert_eq!(came, 2, "{second:?}");
        // At most one in twenty of all requests so far: a round may use what earlier rounds left unused.
        (asked, again) = (asked + 160, again + all - 160);
        assert!(again * 20 <= asked, "{second:?}: {again} requests of {asked} were sent again");
        let told = through.take_hedged().unwrap();
        assert!(told.contains("requests were sent a second time"), "{told}");
    }
}

/// If one thread computes, a second request would wait for the first.
#[test]
fn a_server_of_one_thread_is_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    let client = Server::open(&served(Engine::Mopd, &server.url, Answers::Distribution), &control).unwrap();
    let batches: Vec<_> = (0..150).map(|count| readings(1 + count % 3)).collect();
    for _ in 0..2 {
        client.score(&batches, weights.tokenizer.vocabulary(), CancelToken::new(&control)).unwrap();
    }
    assert_eq!(client.take_hedged(), None);
}
