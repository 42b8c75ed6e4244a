//! A real vLLM and a real SGLang, started by the commands that `MOPD_VLLM` and `MOPD_SGLANG` hold. The
//! student of a teacher there is the student of the same teacher at hand, and what an engine samples is by
//! the student's weights of the step. `./x test --engines` runs this; nothing else does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mopd_tests::{note, skipped};
use serde_json::Value;

use super::{Bench, assert_says, text};

/// Time limit for loading a model and compiling kernels.
const PATIENCE: Duration = Duration::from_secs(900);
/// Tolerance of losses and log-probabilities: float32 on both sides, summed in another order.
const CLOSE: f64 = 1e-4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Vllm,
    Sglang,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Vllm => "vllm",
            Kind::Sglang => "sglang",
        }
    }

    /// The variable that holds the command which starts one, and an example of it.
    fn command(self) -> (&'static str, &'static str) {
        match self {
            Kind::Vllm => ("MOPD_VLLM", "vllm serve"),
            Kind::Sglang => ("MOPD_SGLANG", "python -m sglang.launch_server --model-path"),
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Kind::Vllm => &["--dtype", "float32", "--max-logprobs", "-1", "--enable-scale-out"],
            Kind::Sglang => &["--dtype", "float32", "--skip-server-warmup"],
        }
    }
}

/// A process that is stopped when it is dropped, with those that it started: its group.
struct Engine {
    kind: Kind,
    child: Child,
    url: String,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SGLang would wait for requests that it no longer answers.
        let signal = if self.kind == Kind::Sglang { "-KILL" } else { "-TERM" };
        let _ = Command::new("kill").args([signal, "--", &format!("-{}", self.child.id())]).status();
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Engine {
    /// Starts an engine with a model of the bench. Skipped if its variable is not set.
    fn start(kind: Kind, bench: &Bench, model: &str) -> Option<Engine> {
        let (variable, example) = kind.command();
        let Ok(command) = std::env::var(variable) else {
            let name = kind.name();
            skipped(&format!(
                "{variable} is not set, as in {variable}=\"{example}\": no request goes to a real {name}"
            ));
            return None;
        };
        let words: Vec<&str> = command.split_whitespace().collect();
        let (program, words) = words.split_first().expect("it holds a command");
        // The model follows `vllm serve`, and SGLang's `--model-path`.
        let is_before = |word: &&&str| kind == Kind::Vllm && !word.starts_with('-');
        let model_at = match words.iter().position(|word| *word == "--model-path") {
            Some(option) => option + 1,
            None => words.iter().take_while(is_before).count(),
        };
        let (words, options) = words.split_at(model_at);
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let log = bench.path("engine.log");
        let file = || Stdio::from(File::options().create(true).append(true).open(&log).expect("a log"));
        let child = Command::new(program)
            .args(words)
            .arg(bench.path(model))
            .args(options)
            .args(["--served-model-name", "big", "--host", "127.0.0.1", "--port", &free.port().to_string()])
            .args(kind.options())
            .env("VLLM_SERVER_DEV_MODE", "1")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap_or_else(|error| panic!("{command}: {error}"));
        let mut engine = Engine { kind, child, url: format!("http://{free}") };
        let until = Instant::now() + PATIENCE;
        while !answers(&free.to_string()) {
            let ended = engine.child.try_wait().expect("it was started");
            let log = fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "it does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(500));
        }
        Some(engine)
    }
}

/// Whether a server is healthy.
fn answers(place: &str) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(place)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said.starts_with("HTTP/1.1 200"))
    };
    asked().unwrap_or(false)
}

const DOMAINS: &str = r#"
domain copy {
  prompts = "copy.jsonl", tests = "copy.test.jsonl", format = text, reward = exact_match, share = 1/2
}
domain last {
  prompts = "last.jsonl", tests = "last.test.jsonl", format = text, reward = exact_match, share = 1/2
}
"#;
const LOCAL: &str = "big { origin = same }";
const SAMPLE: &str = "sample(n: 2, temperature: 1.0, max_tokens: 6)";

/// A teacher and its student before the first step, of a size that vLLM has kernels for, with a tokenizer
/// that it reads.
fn with_models(tied: bool) -> Bench {
    let bench = Bench::new();
    let words = mopd_tests::root().join("tests/reference/text/smollm");
    fs::create_dir(bench.path("words")).expect("a folder");
    for file in fs::read_dir(words).expect("a tokenizer").map(|file| file.expect("a file")) {
        fs::copy(file.path(), bench.path("words").join(file.file_name())).expect("copying");
    }
    bench.write(
        "tiny.mopd",
        &format!(
            "experiment \"made\" {{ seed = 1 }}\n{DOMAINS}\
             model base = qwen3 {{ layers = 2, width = 64, heads = 2, context = 64, tied = {tied}, \
             tokenizer = \"words\" }}\n\
             model start = sft(base, on: domains) {{ target = answer, steps = 10, batch = 8, lr = 3e-3 }}\n\
             model big = sft(start, on: domains) {{ target = answer, steps = 20, batch = 8, lr = 3e-3 }}\n\
             compare \"made\" {{ models = [start, big], samples = 1, temperature = 1.0, max_tokens = 6 }}\n"
        ),
    );
    run(&bench, "made", "");
    bench
}

fn student(teacher: &str, term: &str, rollout: &str) -> String {
    format!(
        "experiment \"student\" {{ seed = 1 }}\n{DOMAINS}\
         model start = hf(\"made/models/start-seed1\")\nmodel big = hf(\"made/models/big-seed1\")\n\
         teacher far = {teacher}\nroute {{ else -> far }}\n\
         objective closer {{\n  term pull = {term}\n  reduce = mean(token) then mean(sequence)\n}}\n\
         model student = distill(start) {{\n  objective = closer\n  rollout = {rollout}\n  prompts = 8\n  \
         steps = 6\n  lr = 3e-3\n}}\n\
         compare \"student\" {{ models = [student], samples = 1, temperature = 1.0, max_tokens = 6 }}\n"
    )
}

fn served(kind: Kind, answers: &str) -> String {
    let kind = kind.name();
    format!(
        "served(\"{kind}\", url: env(\"FAR_URL\"), model: \"big\", answers: {answers}) {{ origin = same }}"
    )
}

/// The loss is how far the log-probabilities of both sides are apart. Its gradient is that of noise, and
/// moves the student at each step.
const APART: &str = "abs(live student.logp - sampler.logp) + 1e-6 * live kl(student || teacher)";

fn by(kind: Kind, every: &str) -> String {
    let kind = kind.name();
    format!(
        "sampled_by(\"{kind}\", url: env(\"FAR_URL\"), model: \"big\", push: \"pushed\"{every}, {SAMPLE})"
    )
}

fn ran(bench: &Bench, out: &str, url: &str) -> Output {
    let mut command = bench.command(&["--out", out, "--format", "json"]);
    command.env("FAR_URL", url).output().expect("mopd starts")
}

fn run(bench: &Bench, out: &str, url: &str) -> Vec<Value> {
    let output = ran(bench, out, url);
    let log = fs::read_to_string(bench.path("engine.log")).unwrap_or_default();
    let end: Vec<&str> = log.lines().rev().take(40).collect();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output),
        end.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    steps(&output)
}

fn steps(output: &Output) -> Vec<Value> {
    let events = String::from_utf8_lossy(&output.stdout);
    let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "step" && event["stage"] == "student").collect()
}

fn losses(steps: &[Value]) -> Vec<f64> {
    let losses: Vec<f64> = steps.iter().map(|step| step["loss"].as_f64().expect("a loss")).collect();
    assert_eq!(losses.len(), 6);
    losses
}

fn furthest(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
}

fn doctor(folder: &Path, url: &str) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(["doctor", "tiny.mopd"]).env("FAR_URL", url);
    command.output().expect("mopd starts")
}

/// The student of a teacher in an engine is that of the teacher at hand.
fn the_teacher_is_the_one_at_hand(kind: Kind, said: &str, asked: &[(&str, &str)]) {
    let bench = with_models(true);
    let Some(engine) = Engine::start(kind, &bench, "made/models/big-seed1") else { return };
    for (answers, term) in asked {
        bench.write("tiny.mopd", &student(LOCAL, term, SAMPLE));
        let local = losses(&run(&bench, &format!("local-{}", answers.len()), ""));
        bench.write("tiny.mopd", &student(&served(kind, answers), term, SAMPLE));
        let told = doctor(bench.folder.path(), &engine.url);
        assert!(told.status.success(), "{}", text(&told));
        assert_says(&text(&told), &["same as the student's", said]);
        let there = losses(&run(&bench, &format!("served-{}", answers.len()), &engine.url));
        let apart = furthest(&local, &there);
        note(&format!("{kind:?}, `answers: {answers}`: losses of 6 steps are at most {apart:.1e} apart"));
        assert!(apart < CLOSE, "{answers}: {local:?} {there:?}");
    }
}

const SAMPLED: (&str, &str) = ("sampled", "-(teacher.logp - student.logp) * live student.logp");
const TOP: (&str, &str) =
    ("top_k(5)", "live kl(teacher || student, support: top_k(teacher, 5), mass: generalized)");
const WHOLE: (&str, &str) = ("dist", "live kl(student || teacher)");

#[test]
#[ignore = "needs vLLM: ./x test --engines"]
fn a_teacher_of_vllm_is_the_teacher_at_hand() {
    the_teacher_is_the_one_at_hand(Kind::Vllm, "dist, everything", &[SAMPLED, TOP, WHOLE]);
}

#[test]
#[ignore = "needs SGLang: ./x test --engines"]
fn a_teacher_of_sglang_is_the_teacher_at_hand() {
    the_teacher_is_the_one_at_hand(Kind::Sglang, "top_k", &[SAMPLED, TOP]);
}

/// What an engine samples is by the weights of the step. It starts with other weights than the student's.
fn rollouts_are_by_the_weights_of_the_step(kind: Kind, tied: bool) {
    let bench = with_models(tied);
    let Some(engine) = Engine::start(kind, &bench, "made/models/big-seed1") else { return };
    bench.write("tiny.mopd", &student(LOCAL, APART, &by(kind, "")));
    let told = doctor(bench.folder.path(), &engine.url);
    assert!(told.status.success(), "{}", text(&told));
    assert_says(&text(&told), &["samples and returns log-probabilities"]);
    let fresh = losses(&run(&bench, "fresh", &engine.url));
    let most = fresh.iter().copied().fold(0.0, f64::max);
    note(&format!(
        "{kind:?}, `sampled_by`: log-probabilities of 6 steps are {most:.1e} apart at most, on average of a step"
    ));
    assert!(most < CLOSE, "{fresh:?}");
    bench.write("tiny.mopd", &student(LOCAL, APART, &by(kind, ", every: 3 steps")));
    let old = run(&bench, "old", &engine.url);
    let ages: Vec<f64> =
        old.iter().map(|step| step["rows"][0]["staleness"].as_f64().expect("a number")).collect();
    assert_eq!(ages, [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    for (age, loss) in ages.iter().zip(losses(&old)) {
        assert_eq!(*age == 0.0, loss < CLOSE, "{age} steps old: {loss}");
    }
}

#[test]
#[ignore = "needs vLLM: ./x test --engines"]
fn rollouts_by_vllm_are_by_the_weights_of_the_step() {
    rollouts_are_by_the_weights_of_the_step(Kind::Vllm, false);
}

#[test]
#[ignore = "needs SGLang: ./x test --engines"]
fn rollouts_by_sglang_are_by_the_weights_of_the_step() {
    rollouts_are_by_the_weights_of_the_step(Kind::Sglang, true);
}

/// On a CPU vLLM 0.32.0 keeps its first LM head after an update of tied weights. No step is trained on what
/// it then samples.
#[test]
#[ignore = "needs vLLM: ./x test --engines"]
fn an_lm_head_that_stays_behind_is_found_out_by_the_canary() {
    let bench = with_models(true);
    let Some(engine) = Engine::start(Kind::Vllm, &bench, "made/models/big-seed1") else { return };
    bench.write("tiny.mopd", &student(LOCAL, APART, &by(Kind::Vllm, "")));
    // In the second run, the server claims to have the weights already.
    for out in ["one", "two"] {
        let output = ran(&bench, out, &engine.url);
        if output.status.success() {
            let most = losses(&steps(&output)).into_iter().fold(0.0, f64::max);
            assert!(most < CLOSE, "{most}");
            note("vLLM, `sampled_by` with tied embeddings: the weights are the student's");
        } else {
            assert_says(&text(&output), &["differ from the trainer's"]);
            assert!(steps(&output).is_empty(), "{}", text(&output));
            note("vLLM, `sampled_by` with tied embeddings: the canary ended the run");
        }
    }
}
