//! Tests of what `mopd doctor FILE` reports about servers.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mopd_plan::events::{ServeJob, ServerReport};
use mopd_plan::{Answers, Dtype, Engine, RolloutServer, Secret, Served};

use super::faults::{self, Fault, pass};
use super::{job, saved, served, start};
use crate::model::tests::{random_model, tiny};
use crate::remote::StudentIdentity;
use crate::remote::probe::{Findings, probe_sampling, probe_teacher};
use crate::tokenizer::Tokenizer;

pub(super) const LIMIT: Duration = Duration::from_secs(5);

fn unasked(engine: Engine, asked: Option<Answers>) -> ServerReport {
    ServerReport { asked, ..ServerReport::unasked("student", Some("far"), engine, "teacher") }
}

pub(super) fn student(tokenizer: &Tokenizer) -> Option<StudentIdentity<'_>> {
    Some(StudentIdentity { tokenizer, longest: 16, dtype: Dtype::Float32 })
}

pub(super) fn probed(served: &Served, student: Option<StudentIdentity>, limit: Duration) -> ServerReport {
    let findings = Findings::new(unasked(served.engine, Some(served.answers)));
    probe_teacher(served, student, limit, &findings);
    findings.report_so_far()
}

#[test]
fn a_probe_finds_the_most_that_a_server_answers() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let model = saved(&weights, folder.path(), "one");
    let (all, three) = (start(job(&model)), start(ServeJob { entries: Some(3), ..job(&model) }));
    let none = start(ServeJob { entries: Some(0), ..job(&model) });
    let entries = weights.tokenizer.vocabulary() as u32;
    let (whole, top) = (Answers::Distribution, Answers::TopK);
    for (server, engine, asked, most, enough) in [
        (&all, Engine::Mopd, whole, whole, true),
        (&all, Engine::Vllm, Answers::Sampled, whole, true),
        (&all, Engine::Vllm, whole, whole, true),
        (&all, Engine::Sglang, top(5), top(entries), true),
        (&three, Engine::Vllm, Answers::Sampled, top(3), true),
        (&three, Engine::Vllm, top(2), top(3), true),
        (&three, Engine::Vllm, top(3), top(3), true),
        (&three, Engine::Vllm, top(5), top(3), false),
        (&three, Engine::Sglang, top(5), top(3), false),
        (&three, Engine::Vllm, whole, top(3), false),
        (&none, Engine::Vllm, top(1), Answers::Sampled, false),
    ] {
        let found = probed(&served(engine, &server.url, asked), student(&weights.tokenizer), LIMIT);
        let what = format!("{engine:?} {asked}: {found:?}");
        assert_eq!((found.answers, found.falls_short.is_none()), (Some(most), enough), "{what}");
        assert!(found.there && found.ids_agree && found.problems.is_empty(), "{what}");
        assert_eq!(found.is_usable(), enough, "{what}");
        assert_eq!(found.context, Some(weights.config.context as u64), "{what}");
    }
}

/// An engine that compiles for its first requests answers one of them late, and can do what is asked of it.
#[test]
fn a_server_that_was_late_once_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let target = server.url.strip_prefix("http://").unwrap().to_owned();
    let mut late = 0;
    for place in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (target, seen) = (target.clone(), Arc::new(AtomicUsize::new(0)));
        let scored = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, scored) = (target.clone(), scored.clone());
                let fault = move |request: &[u8]| {
                    let scores = request.starts_with(b"POST /v1/comp");
                    let number = if scores { scored.fetch_add(1, Ordering::Relaxed) } else { usize::MAX };
                    (number == place).then_some(Fault::TimeOut)
                };
                thread::spawn(move || pass(client, &target, fault));
            }
        });
        let found =
            probed(&served(Engine::Vllm, &url, Answers::Sampled), student(&weights.tokenizer), faults::LIMIT);
        assert!(found.is_usable(), "the request {place}: {found:?}");
        assert_eq!(found.answers, Some(Answers::Distribution), "the request {place}");
        late += usize::from(seen.load(Ordering::Relaxed) > place);
    }
    assert_eq!(late, 2, "each of these requests was sent");
}

#[test]
fn a_probe_says_everything_that_is_wrong_and_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let says = |report: &ServerReport, parts: &[&str]| {
        let problems: Vec<&str> = report.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "no {part:?} in {problem}");
        }
    };
    let open = served(Engine::Vllm, &server.url, Answers::Sampled);
    let long = StudentIdentity { longest: 1 << 20, ..student(&weights.tokenizer).unwrap() };
    says(&probed(&open, Some(long), LIMIT), &["the longest sequence of the stage has 1048576"]);
    let other = Served { model: "other".to_owned(), ..open.clone() };
    says(
        &probed(&other, student(&weights.tokenizer), LIMIT),
        &["does not serve the model \"other\"; it serves \"teacher\""],
    );
    let unset = Served { key: Some("NO_VARIABLE_HAS_THIS_NAME".to_owned()), ..open.clone() };
    says(&probed(&unset, student(&weights.tokenizer), LIMIT), &["NO_VARIABLE_HAS_THIS_NAME"]);
    // Without a student, only the server's identity is checked.
    let alone = probed(&open, None, LIMIT);
    assert!(
        alone.there && alone.weights.is_none() && alone.answers.is_none() && alone.is_usable(),
        "{alone:?}"
    );
    // A server that accepts connections and never replies, and no server at all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Secret::Text(format!("http://{}", silent.local_addr().unwrap()));
    let began = Instant::now();
    let short = Duration::from_millis(300);
    let found = probed(&Served { url: silent, ..open.clone() }, student(&weights.tokenizer), short);
    says(&found, &["returned no response within 0.3 s"]);
    let nobody = Served { url: Secret::Text("http://127.0.0.1:9".to_owned()), ..open };
    let found = probed(&nobody, student(&weights.tokenizer), short);
    says(&found, &["could not be reached"]);
    assert!(!found.there && began.elapsed() < LIMIT, "it waited for {:?}", began.elapsed());
}

#[test]
fn a_probe_has_a_server_of_rollouts_sample_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let probed = |engine: Engine, dtype: Dtype| {
        let server = RolloutServer {
            engine,
            url: Secret::Text(server.url.clone()),
            model: "teacher".to_owned(),
            push: "pushed".to_owned(),
            key: None,
        };
        let findings = Findings::new(unasked(engine, None));
        let student = StudentIdentity { dtype, ..student(&weights.tokenizer).unwrap() };
        probe_sampling(&server, folder.path(), Some(student), LIMIT, &findings);
        findings.report_so_far()
    };
    for engine in Engine::ALL {
        let found = probed(engine, Dtype::Float32);
        assert!(found.samples && found.ids_agree && found.is_usable(), "{found:?}");
    }
    // Nothing was written to the folder for weights.
    assert!(!folder.path().join("pushed").exists());
    let found = probed(Engine::Mopd, Dtype::Bfloat16);
    assert!(found.samples && !found.is_usable(), "{found:?}");
    assert!(found.problems[0].message.contains("computes in float32, the run in bfloat16"), "{found:?}");
}
