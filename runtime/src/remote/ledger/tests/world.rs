//! A toy world: models whose distributions are hashes of the prefix, and a server that speaks for them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::{Value, json};

use crate::random::{Key, Purpose, Uniforms};
use crate::tokenizer::{Token, Tokenizer};

pub const TOKENIZER: Tokenizer = Tokenizer::Bytes;
pub const STUDENT: u64 = 1;
pub const TEACHER: u64 = 2;
pub const OTHER_TEACHER: u64 = 3;

pub fn entries() -> usize {
    TOKENIZER.vocabulary()
}

pub fn random(number: u64) -> Uniforms {
    Key::new(67, 9, Purpose::Sample, number).row(0, 0)
}

/// A number from 0 to 1 for anything.
fn uniform(of: impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

type Distributions = HashMap<(u64, Vec<Token>), Arc<Vec<f64>>>;

/// The log-probabilities of all tokens after a prefix. All models agree in part.
pub fn logps(model: u64, prefix: &[Token]) -> Arc<Vec<f64>> {
    static KNOWN: LazyLock<Mutex<Distributions>> = LazyLock::new(Mutex::default);
    if let Some(known) = KNOWN.lock().unwrap().get(&(model, prefix.to_vec())) {
        return known.clone();
    }
    let logit = |id: usize| {
        let common = -uniform((0, prefix, id)).max(1e-12).ln();
        let own = -uniform((model, prefix, id)).max(1e-12).ln();
        1.1 * common + 0.4 * own
    };
    let logits: Vec<f64> = (0..entries()).map(logit).collect();
    let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
    let made = Arc::new(logits.into_iter().map(|logit| logit - total).collect::<Vec<_>>());
    KNOWN.lock().unwrap().insert((model, prefix.to_vec()), made.clone());
    made
}

/// The log-probability of each token of a completion.
pub fn of_completion(model: u64, prompt: &[Token], completion: &[Token]) -> Vec<f64> {
    let whole = [prompt, completion].concat();
    (prompt.len()..whole.len()).map(|place| logps(model, &whole[..place])[whole[place] as usize]).collect()
}

/// Draws a completion, with the log-probabilities of its tokens.
pub fn drawn(model: u64, prompt: &[Token], most: usize, random: &mut Uniforms) -> (Vec<Token>, Vec<f64>) {
    let (mut whole, mut drawn) = (prompt.to_vec(), Vec::new());
    while drawn.len() < most && whole.last().is_none_or(|id| drawn.is_empty() || !TOKENIZER.is_end(*id)) {
        let logps = logps(model, &whole);
        let mut left = random.uniform();
        let id = logps.iter().position(|logp| {
            left -= logp.exp();
            left < 0.0
        });
        let id = id.unwrap_or(logps.len() - 1);
        whole.push(id as Token);
        drawn.push(logps[id]);
    }
    (whole.split_off(prompt.len()), drawn)
}

/// What a handler returns: a status and a body.
pub type Reply = (u16, Vec<u8>);

pub fn ok(value: &Value) -> Reply {
    (200, value.to_string().into_bytes())
}

/// JSON has no NaN; programs write it anyway.
pub fn number(logp: f64) -> Value {
    if logp.is_nan() { json!("NaN") } else { json!(logp) }
}

pub fn single(logps: Vec<f64>) -> Vec<f32> {
    logps.into_iter().map(|logp| logp as f32).collect()
}

/// A server on loopback.
pub struct Fake {
    pub url: String,
}

impl Fake {
    /// `answer` gets the path and the body of each request.
    pub fn start(answer: impl Fn(&str, &[u8]) -> Reply + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        // Ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let _ = serve(stream, &*answer);
                });
            }
        });
        Fake { url }
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&str, &[u8]) -> Reply) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, said) = answer(&path, &body);
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", said.len());
        stream.write_all(&[head.as_bytes(), &said].concat())?;
    }
}
