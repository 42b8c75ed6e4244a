//! Teachers behind `mopd serve`, each a process of its own, train the same student as local teachers.
//! Likewise for a student whose rollouts a server samples.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Bench, assert_says, text, walk};

const DOMAINS: [&str; 4] = ["a", "b", "c", "d"];
const KEY: &str = "correct-horse-battery-staple";

/// A process that is killed when it is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(folder: &Path, model: &str, port: &str, more: &[&str]) -> Server {
        let mut command = Command::new(mopd_tests::mopd());
        command
            .current_dir(folder)
            .args(["serve", model, "--name", "big", "--port", port, "--format", "json"]);
        command.args(more).env("SERVER_KEY", KEY);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("mopd starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let serving = lines.find(|line| line.contains("\"serving\"")).expect("it says where it is");
        let serving: Value = serde_json::from_str(&serving).expect("JSON");
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, url: serving["url"].as_str().expect("a url").to_owned() }
    }

    fn port(&self) -> String {
        self.url.rsplit(':').next().expect("a port").to_owned()
    }
}

fn head(name: &str) -> String {
    let mut head = format!("experiment \"{name}\" {{ seed = 1 }}\n");
    for (place, domain) in DOMAINS.iter().enumerate() {
        let file = if place % 2 == 0 { "copy" } else { "last" };
        head += &format!(
            "domain {domain} {{ prompts = \"{file}.jsonl\", tests = \"{file}.test.jsonl\", format = text, \
             reward = exact_match, share = 1/4 }}\n"
        );
    }
    head
}

/// Four teachers, and the student before its first step.
fn with_teachers() -> Bench {
    let bench = Bench::new();
    let mut program = head("teachers");
    program += "model base = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }\n\
                model start = sft(base, on: domains) { target = answer, steps = 6, batch = 8, lr = 3e-3 }\n";
    for (place, domain) in DOMAINS.iter().enumerate() {
        program += &format!(
            "model expert_{domain} = sft(start, on: {domain}) {{ target = answer, steps = {}, batch = 4, \
             lr = 3e-3 }}\n",
            3 + place
        );
    }
    program += "compare \"experts\" { models = [start, expert_a, expert_b, expert_c, expert_d], samples = 1, \
                temperature = 1.0, max_tokens = 6 }\n";
    bench.write("tiny.mopd", &program);
    let output = bench.run(&["--out", "teachers"]);
    assert!(output.status.success(), "{}", text(&output));
    bench
}

fn model(domain: &str) -> String {
    format!("teachers/models/expert_{domain}-seed1")
}

/// A student of four teachers; `teacher` is the right side of each declaration, `models` come before it.
fn student(term: &str, steps: u32, teacher: &dyn Fn(&str) -> String, models: &str) -> String {
    let mut program = head("student");
    program += "model start = hf(\"teachers/models/start-seed1\")\n";
    program += models;
    for domain in DOMAINS {
        program += &format!("teacher of_{domain} = {}\n", teacher(domain));
    }
    let arms = DOMAINS.map(|domain| format!("domain == {domain} -> of_{domain}")).join(", ");
    program += &format!(
        "route {{ {arms} }}\n\
         objective closer {{\n  term pull = {term}\n  reduce = mean(token) then mean(sequence)\n}}\n\
         model student = distill(start) {{\n  objective = closer\n  rollout = sample(n: 2, temperature: 1.0, \
         max_tokens: 6)\n  prompts = 8\n  steps = {steps}\n  lr = 1e-3\n}}\n\
         compare \"student\" {{ models = [student], samples = 1, temperature = 1.0, max_tokens = 6 }}\n"
    );
    program
}

fn at_hand(term: &str, steps: u32) -> String {
    let models =
        DOMAINS.map(|domain| format!("model expert_{domain} = hf(\"{}\")\n", model(domain))).concat();
    student(term, steps, &|domain| format!("expert_{domain} {{ origin = same }}"), &models)
}

fn served(engine: &str, answers: &str, term: &str, steps: u32) -> String {
    let teacher = |domain: &str| {
        format!(
            "served(\"{engine}\", url: env(\"TEACHER_{domain}\"), model: \"big\", answers: {answers}) \
             {{ origin = same }}"
        )
    };
    student(term, steps, &teacher, "")
}

fn command(bench: &Bench, out: &str, servers: &[Server]) -> Command {
    let mut command = bench.command(&["--out", out, "--format", "json"]);
    for (domain, server) in DOMAINS.iter().zip(servers) {
        command.env(format!("TEACHER_{domain}"), &server.url);
    }
    command
}

fn run(bench: &Bench, out: &str, servers: &[Server]) -> Output {
    let output = command(bench, out, servers).output().expect("mopd starts");
    assert!(output.status.success(), "{}", text(&output));
    output
}

fn numbers(bench: &Bench, out: &str) -> Vec<f32> {
    let bytes = bench.student(out);
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    let of = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    bytes[header..].chunks_exact(4).map(of).collect()
}

fn furthest(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

const KL: &str = "live kl(student || teacher)";
const SAMPLED: &str = "-(teacher.logp - student.logp) * live student.logp";
const TOP: &str = "live kl(teacher || student, support: top_k(teacher, 5), mass: generalized)";

/// Equal bits if whole distributions are sent; log-probabilities are rounded differently in another batch.
#[test]
fn four_served_teachers_make_the_student_that_teachers_at_hand_make() {
    let bench = with_teachers();
    let servers = DOMAINS.map(|domain| Server::start(bench.folder.path(), &model(domain), "0", &[]));
    bench.write("tiny.mopd", &at_hand(KL, 6));
    run(&bench, "local", &servers);
    bench.write("tiny.mopd", &served("mopd", "dist", KL, 6));
    run(&bench, "served", &servers);
    assert!(bench.student("local") == bench.student("served"), "other bits than of teachers at hand");
    for (term, engine, answers) in [
        (SAMPLED, "vllm", "sampled"),
        (SAMPLED, "sglang", "sampled"),
        (TOP, "vllm", "top_k(5)"),
        (TOP, "sglang", "top_k(8)"),
        (KL, "vllm", "dist"),
    ] {
        bench.write("tiny.mopd", &at_hand(term, 6));
        let out = format!("local-{engine}-{}", answers.len());
        run(&bench, &out, &servers);
        let local = numbers(&bench, &out);
        bench.write("tiny.mopd", &served(engine, answers, term, 6));
        let out = format!("served-{engine}-{}", answers.len());
        run(&bench, &out, &servers);
        let apart = furthest(&local, &numbers(&bench, &out));
        // A step changes weights by about 1e-3.
        assert!(apart < 1e-5, "{engine} {answers}: {apart}");
    }
}

/// Waits until `holds` is true.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_warning(line: &str, what: &str) -> bool {
    line.contains("\"warning\"") && line.contains(what)
}

/// Reads a run's events until it waits for a killed server, then waits until the server's port is free: the
/// worker of a killed `mopd` ends by itself.
fn waits(lines: &mut impl Iterator<Item = String>, port: &str) {
    let mut before = lines.take_while(|line| !is_warning(line, "the run waits for it"));
    assert!(before.all(|line| !line.contains("\"finished\"")), "it did not wait");
    let place = format!("127.0.0.1:{port}");
    until("free port", || std::net::TcpListener::bind(&place).is_ok());
}

/// Reads the rest of a run's events: the server is back, and the run ends well.
fn goes_on(lines: impl Iterator<Item = String>, mut child: Child) {
    let after: Vec<String> = lines.collect();
    assert!(child.wait().expect("it ends").success(), "{after:?}");
    assert!(after.iter().any(|line| is_warning(line, "the run goes on")), "{after:?}");
}

#[test]
fn a_server_that_is_killed_and_comes_back_changes_nothing() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let mut servers: Vec<Server> =
        DOMAINS.map(|domain| Server::start(&folder, &model(domain), "0", &[])).into();
    bench.write("tiny.mopd", &at_hand(KL, 150));
    run(&bench, "local", &servers);
    bench.write("tiny.mopd", &served("mopd", "dist", KL, 150));
    let mut child = command(&bench, "served", &servers).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"step\":5,")), "it ended early");
    let port = servers[1].port();
    drop(servers.remove(1));
    waits(&mut lines, &port);
    servers.insert(1, Server::start(&folder, &model("b"), &port, &[]));
    goes_on(lines, child);
    assert!(bench.student("local") == bench.student("served"), "a pause changed the student");
}

/// Another model at the same address is another teacher, so the run ends.
#[test]
fn a_server_that_comes_back_with_other_weights_ends_the_run() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let mut servers: Vec<Server> =
        DOMAINS.map(|domain| Server::start(&folder, &model(domain), "0", &[])).into();
    bench.write("tiny.mopd", &served("vllm", "sampled", SAMPLED, 1000));
    let mut child = command(&bench, "served", &servers).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"step\":3,")), "it ended early");
    let port = servers[1].port();
    drop(servers.remove(1));
    let place = format!("127.0.0.1:{port}");
    until("free port", || std::net::TcpListener::bind(&place).is_ok());
    servers.insert(1, Server::start(&folder, &model("c"), &port, &[]));
    let after: Vec<String> = lines.collect();
    assert!(!child.wait().expect("it ends").success());
    let failed = after.iter().find(|line| line.contains("\"failed\"")).expect("a failure");
    assert!(failed.contains("when the run began"), "{failed}");
}

#[test]
fn a_key_is_in_no_file_and_in_nothing_that_is_said() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let servers = DOMAINS.map(|domain| Server::start(&folder, &model(domain), "0", &["--key", "SERVER_KEY"]));
    let program =
        served("mopd", "dist", KL, 3).replace("answers: dist", "answers: dist, key: env(\"STUDENT_KEY\")");
    bench.write("tiny.mopd", &program);
    let mut said = Vec::new();
    for (key, good) in [(None, false), (Some("wrong-horse"), false), (Some(KEY), true)] {
        let mut command = command(&bench, "served", &servers);
        key.map(|key| command.env("STUDENT_KEY", key));
        let output = command.output().expect("mopd starts");
        assert_eq!(output.status.success(), good, "{}", text(&output));
        said.push(text(&output));
    }
    assert_says(&said[0], &["the environment variable STUDENT_KEY", "is not set"]);
    assert_says(&said[1], &["answered /mopd/model with status 401"]);
    assert!(said.iter().all(|said| !said.contains(KEY) && !said.contains("wrong-horse")));
    let mut plan = Command::new(mopd_tests::mopd());
    plan.current_dir(&folder).args(["plan", "tiny.mopd", "--format", "json"]).env("STUDENT_KEY", KEY);
    let plan = text(&plan.output().expect("mopd starts"));
    assert!(plan.contains("STUDENT_KEY") && !plan.contains(KEY));
    for file in walk(&folder) {
        let bytes = fs::read(&file).unwrap_or_default();
        let found = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
        assert!(!found, "the key is in {}", file.display());
    }
}

#[test]
fn unsupported_server_requests_are_refused_before_the_run() {
    let bench = with_teachers();
    let refused = |engine: &str, answers: &str, term: &str, parts: &[&str]| {
        bench.write("tiny.mopd", &served(engine, answers, term, 3));
        let mut command = Command::new(mopd_tests::mopd());
        let output = command.current_dir(bench.folder.path()).args(["plan", "tiny.mopd"]).output();
        let output = output.expect("mopd starts");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_says(&text(&output), parts);
    };
    refused("vllm", "sampled", KL, &["teacher-capability", "use the token taken alone"]);
    refused("vllm", "top_k(3)", TOP, &["teacher-capability", "ask for at most 3"]);
    refused("sglang", "dist", KL, &["`answers: dist` of `served(\"sglang\")`", "top_k(20)"]);
    refused("mopd", "sampled", SAMPLED, &["`answers: sampled` of `served(\"mopd\")`", "answers: dist"]);
    let hot = "live kl(teacher || student, support: top_k(teacher, 5), mass: renormalized, temperature: 2)";
    refused("vllm", "top_k(5)", hot, &["at temperature 2", "`of_a`"]);
    let tail = "live kl(teacher || student, support: top_k(teacher, 5), mass: tail)";
    refused("vllm", "top_k(5)", tail, &["`mass: tail` with the served teacher `of_a`", "mass: renormalized"]);
    // A key must not be in a file.
    let text_key =
        served("vllm", "sampled", SAMPLED, 3).replace("answers: sampled", "answers: sampled, key: \"x\"");
    bench.write("tiny.mopd", &text_key);
    let mut command = Command::new(mopd_tests::mopd());
    let said = command.current_dir(bench.folder.path()).args(["check", "tiny.mopd"]).output();
    assert_says(&text(&said.expect("mopd starts")), &["the key of a server is read from the environment"]);
}

/// A missing server is reported before anything is trained, with the way out.
#[test]
fn a_server_that_was_never_there_is_said_before_the_first_stage() {
    let bench = with_teachers();
    bench.write("tiny.mopd", &served("vllm", "sampled", SAMPLED, 3));
    let mut command = command(&bench, "out", &[]);
    for domain in DOMAINS {
        command.env(format!("TEACHER_{domain}"), "http://127.0.0.1:9");
    }
    let output = command.output().expect("mopd starts");
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &["http://127.0.0.1:9 could not be reached"]);
}

/// A server that can't return what the stage needs is reported before the first stage.
#[test]
fn a_server_that_lists_less_than_is_asked_for_is_found_out_before_the_first_stage() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let servers = DOMAINS.map(|domain| Server::start(&folder, &model(domain), "0", &["--max-logprobs", "3"]));
    bench.write("tiny.mopd", &served("vllm", "top_k(5)", TOP, 3));
    let output = command(&bench, "out", &servers).output().expect("mopd starts");
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &["status 400", "at most 3 entries per token"]);
    assert!(!text(&output).contains("stage_started"), "{}", text(&output));
}

/// `mopd doctor` of the experiment, with the addresses of its servers.
fn doctor(bench: &Bench, urls: &[&str], more: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(["doctor", "tiny.mopd"]).args(more);
    for (domain, url) in DOMAINS.iter().zip(urls) {
        command.env(format!("TEACHER_{domain}"), url);
    }
    command.env("STUDENT_KEY", KEY).output().expect("mopd starts")
}

#[test]
fn a_doctor_says_what_each_server_answers_and_what_is_needed() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let start = |more: &[&str]| Server::start(&folder, &model("a"), "0", more);
    let (open, short) = (start(&["--key", "SERVER_KEY"]), start(&["--max-logprobs", "3"]));
    let asks = |engine: &str, answers: &str, term: &str| {
        let key = format!("answers: {answers}, key: env(\"STUDENT_KEY\")");
        bench.write(
            "tiny.mopd",
            &served(engine, answers, term, 3).replace(&format!("answers: {answers}"), &key),
        );
    };
    let told = |output: &Output, code: i32, parts: &[&str]| {
        assert_eq!(output.status.code(), Some(code), "{}", text(output));
        assert_says(&text(output), parts);
        assert!(!text(output).contains(KEY), "{}", text(output));
    };
    asks("mopd", "dist", KL);
    let all = [open.url.as_str(); 4];
    let parts = ["of_a, teacher of `student`", "same as the student's", "asked is dist, needed is dist"];
    told(&doctor(&bench, &all, &[]), 0, &parts);
    // The report says what a server lacks and what would suffice, also if another server is unreachable.
    asks("vllm", "top_k(5)", TOP);
    let away = [open.url.as_str(), &short.url, "http://127.0.0.1:9", &open.url];
    let parts = [
        "top_k(3) at most; asked is top_k(5), needed is top_k(5)",
        "start the server with `--max-logprobs 5`; or write `answers: top_k(3)`, and ask for at most 3",
        "http://127.0.0.1:9 could not be reached",
        "dist, everything; asked is top_k(5)",
    ];
    told(&doctor(&bench, &away, &[]), 1, &parts);
    asks("vllm", "dist", SAMPLED);
    let parts = [
        "asked is dist, needed is sampled",
        "write `answers: top_k(3)`: the experiment needs no \
        more",
    ];
    told(&doctor(&bench, &[short.url.as_str(); 4], &[]), 1, &parts);
    // Another temperature needs whole distributions, whatever the divergence reads.
    let hot = "live kl(teacher || student, support: top_k(teacher, 2), mass: renormalized, temperature: 2)";
    asks("vllm", "dist", hot);
    let output = doctor(&bench, &[short.url.as_str(); 4], &["--format", "json"]);
    told(&output, 1, &["use another server"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let servers = said["servers"].as_array().expect("a list");
    assert_eq!(servers.len(), 4, "{said}");
    assert_eq!((&servers[0]["answers"]["top_k"], &servers[0]["needed"]), (&3.into(), &"top_k(2)".into()));
    // Now the student's rollouts are sampled by a server.
    bench.write("tiny.mopd", &sampled(3, BY_SERVER, ""));
    told(
        &doctor(&bench, &[short.url.as_str()], &[]),
        0,
        &["rollouts of `student`", "samples and returns log-probabilities"],
    );
    bench.write("tiny.mopd", &at_hand(KL, 3));
    told(&doctor(&bench, &[], &[]), 0, &["no server is named"]);
    bench.write("tiny.mopd", "model x = hf(");
    told(&doctor(&bench, &[], &[]), 1, &["error"]);
}

/// A server that has the student before its first step, and the folder for its weights.
fn sampler(folder: &Path, port: &str, dtype: &str) -> Server {
    fs::create_dir_all(folder.join("pushed")).expect("a folder");
    // The server starts with another model, which the student's weights replace.
    Server::start(folder, &model("a"), port, &["--allow-updates", "pushed", "--dtype", dtype])
}

/// A student of local teachers, whose loss reads the sampler's log-probabilities; `by` wraps its rollout.
/// Micro-batches make it recompute the activations of its own samples, too, because saved ones differ by
/// rounding.
fn sampled(steps: u32, by: &str, settings: &str) -> String {
    let sample = "sample(n: 2, temperature: 1.0, max_tokens: 6)";
    let by = by.replace("SAMPLE", sample);
    let program = at_hand(WEIGHED, steps);
    assert!(program.contains(sample));
    let program = program.replace(sample, &format!("{by}, micro_batch = 8"));
    program.replace(
        "experiment \"student\" { seed = 1 }",
        &format!("experiment \"student\" {{ seed = 1{settings} }}"),
    )
}

const WEIGHED: &str = "-clip(teacher.logp - sampler.logp, -5, 5) * exp(live student.logp - sampler.logp)";
const BY_SERVER: &str =
    "sampled_by(\"mopd\", url: env(\"TEACHER_a\"), model: \"big\", push: \"pushed\", SAMPLE)";

fn samples_of(bench: &Bench, out: &str) -> Vec<u8> {
    fs::read(bench.path(out).join("samples.parquet")).expect("samples")
}

/// A server that began with other weights samples what the student samples, in both precisions.
#[test]
fn rollouts_of_a_server_make_the_student_that_its_own_make() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    for (dtype, settings) in [("float32", ""), ("bfloat16", ", dtype = bfloat16")] {
        let server = [sampler(&folder, "0", dtype)];
        let (local, served) = (format!("local-{dtype}"), format!("served-{dtype}"));
        bench.write("tiny.mopd", &sampled(8, "SAMPLE", settings));
        run(&bench, &local, &server);
        bench.write("tiny.mopd", &sampled(8, BY_SERVER, settings));
        run(&bench, &served, &server);
        assert!(bench.student(&local) == bench.student(&served), "{dtype}: other bits than of its own");
        assert!(samples_of(&bench, &local) == samples_of(&bench, &served), "{dtype}");
        let left = fs::read_dir(folder.join("pushed")).expect("a folder").count();
        assert!(left <= 2, "{left} folders of weights");
    }
    let mut plan = Command::new(mopd_tests::mopd());
    let plan = plan.current_dir(&folder).args(["plan", "tiny.mopd"]).output().expect("mopd starts");
    assert_says(&text(&plan), &["rollouts by \"big\" (mopd)", "weights are sent through `pushed`"]);
}

/// By the APIs of vLLM and SGLang, the same server samples another student, but the same one each time.
#[test]
fn rollouts_by_the_words_of_an_engine_are_the_same_each_time() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    for engine in ["vllm", "sglang"] {
        bench.write("tiny.mopd", &sampled(8, &BY_SERVER.replace("\"mopd\"", &format!("{engine:?}")), ""));
        let made = ["one", "two"].map(|out| {
            let server = [sampler(&folder, "0", "float32")];
            let out = format!("{engine}-{out}");
            let output = command(&bench, &out, &server).args(["--fresh"]).output().expect("mopd starts");
            assert!(output.status.success(), "{}", text(&output));
            bench.student(&out)
        });
        assert!(made[0] == made[1], "{engine}: equal seeds, another student");
    }
}

/// Kills a run that keeps a checkpoint of each step.
fn killed_after_a_few_steps(mut run: Command) {
    let mut child = run.args(["--checkpoint-every", "0s"]).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"step\":7,")), "it ended early");
    child.kill().expect("it runs");
    let _ = child.wait();
    lines.for_each(drop);
}

/// Server and run are killed in the middle of a stage: the student is the same.
#[test]
fn a_killed_server_and_a_killed_run_change_no_rollout() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let mut server = vec![sampler(&folder, "0", "float32")];
    bench.write("tiny.mopd", &sampled(100, "SAMPLE", ""));
    run(&bench, "local", &server);
    bench.write("tiny.mopd", &sampled(100, BY_SERVER, ""));
    killed_after_a_few_steps(command(&bench, "served", &server));
    let mut child = command(&bench, "served", &server).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"event\":\"step\"")), "it ended early");
    let port = server[0].port();
    server.clear();
    waits(&mut lines, &port);
    server.push(sampler(&folder, &port, "float32"));
    goes_on(lines, child);
    assert!(bench.student("local") == bench.student("served"), "a pause changed the student");
}

/// The column `staleness` of each step.
fn staleness(output: &Output) -> Vec<f64> {
    let events = String::from_utf8_lossy(&output.stdout);
    let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let steps = events.filter(|event| event["event"] == "step");
    steps.map(|step| step["rows"][0]["staleness"].as_f64().expect("a number")).collect()
}

/// The server gets weights at the steps 0, 3 and 6; in between they are one and two updates old.
#[test]
fn weights_that_are_pushed_every_third_step_are_up_to_two_updates_old() {
    let bench = with_teachers();
    let server = [sampler(bench.folder.path(), "0", "float32")];
    let every = |steps: &str| BY_SERVER.replace("push: \"pushed\"", &format!("push: \"pushed\"{steps}"));
    bench.write("tiny.mopd", &sampled(8, &every(""), ""));
    assert_eq!(staleness(&run(&bench, "always", &server)), [0.0; 8]);
    // `every: 1` means the same: the stage is not trained again.
    bench.write("tiny.mopd", &sampled(8, &every(", every: 1"), ""));
    assert_eq!(staleness(&run(&bench, "each", &server)).len(), 0);
    assert!(bench.student("always") == bench.student("each"));
    bench.write("tiny.mopd", &sampled(8, &every(", every: 3 steps"), ""));
    let third = run(&bench, "third", &server);
    assert_eq!(staleness(&third), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0]);
    assert!(bench.student("always") != bench.student("third"), "old weights sampled what new ones do");
    let plan = |program: &str| {
        bench.write("tiny.mopd", program);
        let mut plan = Command::new(mopd_tests::mopd());
        text(
            &plan.current_dir(bench.folder.path()).args(["plan", "tiny.mopd"]).output().expect("mopd starts"),
        )
    };
    let said = plan(&sampled(8, &every(", every: 3 steps"), ""));
    assert_says(&said, &["weights are sent through `pushed` every 3 steps", "at most 2 updates old"]);
    // With two passes over a batch, the weights that sampled it are one update older in the second.
    let passes =
        sampled(4, &every(", every: 3 steps"), "").replace("  steps = 4", "  passes = 2\n  steps = 4");
    bench.write("tiny.mopd", &passes);
    assert_eq!(staleness(&run(&bench, "passes", &server)), [0.0, 1.0, 2.0, 3.0]);
    // The distribution of earlier weights is not known, only the probabilities of the tokens that they drew.
    let whole = "sampler.entropy * live kl(student || teacher)";
    let reads = sampled(4, &every(", every: 3 steps"), "").replace(WEIGHED, whole);
    assert_says(
        &plan(&reads),
        &["reading the whole distribution of the sampler", "weights of earlier steps"],
    );
}

/// A run is killed between two pushes, with its server and the pushed files: it resumes with the old weights.
#[test]
fn a_killed_run_goes_on_with_the_weights_that_were_pushed_before() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let by = BY_SERVER.replace("push: \"pushed\"", "push: \"pushed\", every: 50 steps");
    bench.write("tiny.mopd", &sampled(60, &by, ""));
    let mut server = vec![sampler(&folder, "0", "float32")];
    let whole = run(&bench, "whole", &server);
    assert_eq!(staleness(&whole)[49..], [49.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    fs::remove_dir_all(folder.join(".mopd")).expect("a store");
    killed_after_a_few_steps(command(&bench, "cut", &server));
    server.clear();
    // The killed run's worker may write for a moment longer.
    let removed = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::remove_dir_all(folder.join("pushed")).is_ok()
    });
    assert!(removed, "the folder is still written to");
    server.push(sampler(&folder, "0", "float32"));
    let rest = run(&bench, "cut", &server);
    let ages = staleness(&rest);
    assert!(text(&rest).contains("stage_resumed") && (11..60).contains(&ages.len()), "{ages:?}");
    assert!(ages.ends_with(&[48.0, 49.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), "{ages:?}");
    assert!(bench.student("whole") == bench.student("cut"), "a kill changed the student");
}

#[test]
fn unsupported_server_sampling_is_refused_before_the_run() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let refused = |from: &str, to: &str, parts: &[&str]| {
        let by =
            BY_SERVER.replace("SAMPLE", "sample(n: 2, temperature: 1.0, max_tokens: 6)").replace(from, to);
        bench.write("tiny.mopd", &sampled(3, &by, ""));
        let mut command = Command::new(mopd_tests::mopd());
        let output = command.current_dir(&folder).args(["plan", "tiny.mopd"]).output().expect("mopd starts");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_says(&text(&output), parts);
    };
    let engine = |name: &str, from: &str, to: &str, parts: &[&str]| {
        let by = BY_SERVER.replace("\"mopd\"", &format!("{name:?}"));
        let by = by.replace("SAMPLE", "sample(n: 2, temperature: 1.0, max_tokens: 6)").replace(from, to);
        let program = sampled(3, &by, "");
        // Without the sampler's log-probabilities in the objective.
        bench.write("tiny.mopd", &program.replace(WEIGHED, KL));
        let mut command = Command::new(mopd_tests::mopd());
        let output = command.current_dir(&folder).args(["plan", "tiny.mopd"]).output().expect("mopd starts");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_says(&text(&output), parts);
    };
    for name in ["vllm", "sglang"] {
        let temperature = ["at temperature 0.7", "sample at temperature 1"];
        engine(name, "temperature: 1.0", "temperature: 0.7", &temperature);
        let cooling = ["at temperature linear(1 -> 0.7)", "sample at temperature 1, or by `mopd serve`"];
        engine(name, "temperature: 1.0", "temperature: linear(1 -> 0.7)", &cooling);
        engine(
            name,
            "max_tokens: 6)",
            "max_tokens: 6, top_k: 5)",
            &["with `top_k`, `top_p`", "leave them out"],
        );
        engine(name, "max_tokens: 6)", "max_tokens: 6, stop: \"a\")", &["with `stop`", "mopd serve"]);
    }
    refused("\"mopd\"", "\"vlm\"", &["unknown engine `vlm`", "did you mean `vllm`?"]);
    let heads = "max_tokens: 6, heads: 2, accept: 0.9)";
    refused("max_tokens: 6)", heads, &["several output heads in this place"]);
    // The server exists, but has another compute dtype, or must not get weights.
    bench.write("tiny.mopd", &sampled(3, BY_SERVER, ""));
    let said = |server: Server| {
        let output = command(&bench, "out", &[server]).output().expect("mopd starts");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(!text(&output).contains("\"event\":\"step\""), "{}", text(&output));
        text(&output)
    };
    assert_says(&said(sampler(&folder, "0", "bfloat16")), &["computes in bfloat16", "--dtype float32"]);
    let kept = Server::start(&folder, &model("a"), "0", &[]);
    assert_says(&said(kept), &["updates are not allowed", "`mopd serve --allow-updates FOLDER`"]);
    let elsewhere = folder.join("elsewhere");
    fs::create_dir_all(&elsewhere).expect("a folder");
    let elsewhere = Server::start(&folder, &model("a"), "0", &["--allow-updates", "elsewhere"]);
    assert_says(
        &said(elsewhere),
        &["weights must be in the folder of `--allow-updates`", "`mopd serve --allow-updates FOLDER`"],
    );
}

/// Sends a request to a server, as somebody might while a run trains.
fn post(server: &Server, path: &str, body: &str) {
    let place = server.url.strip_prefix("http://").expect("an address");
    let mut stream = std::net::TcpStream::connect(place).expect("the server listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("a request");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

/// The weights of a model that is no teacher of a run, as a request that makes a server load them.
fn other_weights(bench: &Bench) -> String {
    let mut program = head("others");
    program += "model base = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }\n\
                model other = sft(base, on: domains) { target = answer, steps = 40, batch = 8, lr = 1e-2 }\n\
                compare \"other\" { models = [other], samples = 1, temperature = 1.0, max_tokens = 6 }\n";
    bench.write("tiny.mopd", &program);
    assert!(bench.run(&["--out", "others"]).status.success());
    let other = fs::canonicalize(bench.path("others/models/other-seed1")).expect("a model");
    format!("{{\"model_path\": {:?}, \"weight_version\": \"other\"}}", other.to_str().expect("text"))
}

/// Starts a run of 60 steps, and returns when its student has made three.
fn third_step(bench: &Bench, engine: &str, servers: &[Server]) -> (Child, impl Iterator<Item = String>) {
    bench.write("tiny.mopd", &served(engine, "sampled", SAMPLED, 60));
    let mut child = command(bench, engine, servers).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"step\":3,")), "it ended early");
    (child, lines)
}

/// SGLang's answers name the version of the weights; vLLM's don't, so there the canary shows it, before the
/// result is kept.
#[test]
fn a_teacher_that_is_replaced_in_the_middle_ends_the_run() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let update = other_weights(&bench);
    for (engine, expected) in [
        ("sglang", "names the version `other` of its weights now"),
        ("vllm", "gives a fixed request other numbers than when the run began"),
    ] {
        let start = |domain: &str| Server::start(&folder, &model(domain), "0", &["--allow-updates", "."]);
        let servers = DOMAINS.map(start);
        let (mut child, lines) = third_step(&bench, engine, &servers);
        post(&servers[1], "/update_weights_from_disk", &update);
        let after: Vec<String> = lines.collect();
        assert!(!child.wait().expect("it ends").success(), "{engine}: {after:?}");
        let failed = after.iter().find(|line| line.contains("\"failed\"")).expect("a failure");
        assert!(failed.contains(expected), "{failed}");
        assert!(!bench.path(engine).join("models/student-seed1").exists(), "{engine}: a student was kept");
    }
}

/// A run that goes on compares the canary with that of its checkpoint: a vLLM names the path of its weights,
/// so others under the same path have the same identity. With the weights that it began with, the run goes
/// on.
#[test]
fn a_teacher_that_is_replaced_between_two_runs_is_not_gone_on_with() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    other_weights(&bench);
    fs::create_dir(bench.path("far")).expect("a folder");
    let copy_to_far = |from: &str| {
        for file in fs::read_dir(bench.path(from)).expect("a model's folder").flatten() {
            fs::copy(file.path(), bench.path("far").join(file.file_name())).expect("copied");
        }
    };
    // `mopd serve` names the content of the weights in place of their path.
    let start = |domain: &str| {
        if domain != "b" {
            return Server::start(&folder, &model(domain), "0", &[]);
        }
        let mut server = Server::start(&folder, "far", "0", &[]);
        server.url = proxy(&server.url, |request, said| {
            if request.contains("/v1/models") {
                said["data"][0]["root"] = "far".into();
            }
        });
        server
    };
    copy_to_far(&model("b"));
    let servers = DOMAINS.map(start);
    let (mut child, lines) = third_step(&bench, "vllm", &servers);
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill starts");
    assert!(sent.success());
    let after: Vec<String> = lines.collect();
    assert!(!child.wait().expect("it ends").success(), "it was not interrupted: {after:?}");

    drop(servers);
    copy_to_far("others/models/other-seed1");
    let output = command(&bench, "vllm", &DOMAINS.map(start)).output().expect("mopd starts");
    assert!(!output.status.success(), "{}", text(&output));
    let expected = "gives a fixed request other numbers than when the checkpoint was written";
    assert_says(&text(&output), &[expected, "serve the weights that the run began with"]);
    assert!(!bench.path("vllm/models/student-seed1").exists(), "a student was kept");

    copy_to_far(&model("b"));
    let output = run(&bench, "vllm", &DOMAINS.map(start));
    let said = text(&output);
    let first = said.lines().find(|line| line.contains("\"event\":\"step\"")).expect("steps");
    let first: Value = serde_json::from_str(first).expect("JSON");
    assert!(first["step"].as_u64().is_some_and(|step| step > 3), "it did not go on: {first}");
}

/// The gap between sampler and trainer is a metric of every step; a server whose numbers are others ends the
/// run before it trains on them.
#[test]
fn the_gap_of_a_sampler_is_shown_and_bounded() {
    let bench = with_teachers();
    let folder = bench.folder.path().to_owned();
    let server = [sampler(&folder, "0", "float32")];
    let gaps = |output: &Output| -> Vec<[f64; 3]> {
        let lines = text(output);
        let steps = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let steps = steps.filter(|event| event["event"] == "step" && event["stage"] == "student");
        let number = |step: &Value, name: &str| step["rows"][0][name].as_f64().expect("a number");
        steps
            .map(|step| ["sampler_gap", "sampler_gap_max", "sampler_ratio"].map(|name| number(&step, name)))
            .collect()
    };
    for (out, by) in [("local", "SAMPLE".to_owned()), ("vllm", BY_SERVER.replace("\"mopd\"", "\"vllm\""))] {
        bench.write("tiny.mopd", &sampled(4, &by, ""));
        let gaps = gaps(&run(&bench, out, &server));
        assert_eq!(gaps.len(), 4, "{out}");
        for [mean, max, ratio] in gaps {
            assert!(mean <= max && max < 1e-3 && (ratio - 1.0).abs() < 1e-3, "{out}: {mean} {max} {ratio}");
        }
    }
    // Between the run and its server, all log-probabilities of completions become -1.
    let url = proxy(&server[0].url, |request, said| {
        if request.contains("/inference/") {
            let content = said["choices"][0]["logprobs"]["content"].as_array_mut().expect("tokens");
            content.iter_mut().for_each(|token| token["logprob"] = (-1.0).into());
        }
    });
    bench.write("tiny.mopd", &sampled(4, &BY_SERVER.replace("\"mopd\"", "\"vllm\""), ""));
    let mut command = bench.command(&["--out", "lies", "--format", "json"]);
    let output = command.env("TEACHER_a", &url).arg("--fresh").output().expect("mopd starts");
    assert!(!output.status.success(), "{}", text(&output));
    assert_says(
        &text(&output),
        &["log-probabilities that are not those of the student's weights", "-1.0000 by the server"],
    );
    assert!(gaps(&output).is_empty(), "a step was trained on them");
}

/// The address of a server that passes requests on to another, and changes its answers: `change` gets the
/// first line of a request, and the answer to it.
fn proxy(url: &str, change: fn(&str, &mut Value)) -> String {
    let target = url.strip_prefix("http://").expect("an address").to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let target = target.clone();
            std::thread::spawn(move || drop(pass(client, &target, change)));
        }
    });
    url
}

/// Passes one request on, and changes the answer.
fn pass(client: std::net::TcpStream, target: &str, change: fn(&str, &mut Value)) -> std::io::Result<()> {
    let message = |stream: &std::net::TcpStream| -> std::io::Result<(Vec<String>, Vec<u8>)> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let length = head
            .iter()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        Ok((head, body))
    };
    let (head, body) = message(&client)?;
    let mut server = std::net::TcpStream::connect(target)?;
    let kept = head.iter().filter(|line| !line.to_lowercase().starts_with("connection"));
    let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{kept}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    let (answered, mut answer) = message(&server)?;
    if let Ok(mut said) = serde_json::from_slice(&answer) {
        change(&head[0], &mut said);
        answer = Value::to_string(&said).into_bytes();
    }
    let mut client = client;
    let length = answer.len();
    client.write_all(
        format!("{}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n", answered[0]).as_bytes(),
    )?;
    client.write_all(&answer)
}
