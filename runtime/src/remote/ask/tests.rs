use std::io::{Read, Write};
use std::net::TcpListener;

use mopd_plan::Secret;

use super::*;

/// A thread that panics answers, too: otherwise the step would wait for ever.
#[test]
fn a_panic_of_a_request_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]");
        }
    });
    let address = Address::new(&Secret::Text(url), None, Duration::from_secs(20)).unwrap();
    let look: ServerCheck = Box::new(|| Ok(()));
    let server = Arc::new(Recipient { address, called: "the server", at_once: 2, look, hedges: None });
    let read: ParseReply<u8> = Box::new(|said| Ok(said[7]));
    let request = ServerRequest { body: None, path: "/", read };
    let control = Control::new(Vec::new());
    let error = all(&server, vec![request], CancelToken::new(&control)).unwrap_err().to_string();
    assert!(error.starts_with("the server http://127.0.0.1:"), "{error}");
    assert!(error.contains("returned a response that mopd can't read: internal error"), "{error}");
    assert!(error.ends_with("index out of bounds: the len is 2 but the index is 7"), "{error}");
}

/// Servers that answer for ever, or never in full: the log says that they are waited for, and there is an
/// end.
#[test]
fn an_answer_that_never_ends_ends_the_run() {
    type Answer = fn(&mut std::net::TcpStream) -> std::io::Result<()>;
    let cases: [(&str, Answer, &str, bool); 5] = [
        (
            "a trickle of bytes",
            |stream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
                loop {
                    stream.write_all(b" ")?;
                    thread::sleep(Duration::from_millis(20));
                }
            },
            "response within 0.4 s",
            true,
        ),
        (
            "endless interim responses",
            |stream| {
                loop {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                    thread::sleep(Duration::from_millis(5));
                }
            },
            "response within 0.4 s",
            true,
        ),
        (
            "nothing",
            |_| loop {
                thread::sleep(Duration::from_secs(1))
            },
            "response within 0.4 s",
            true,
        ),
        (
            "half an answer",
            |stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]"),
            "broke off its answer",
            false,
        ),
        (
            "a length that is too small",
            |stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[]"),
            "is not JSON",
            false,
        ),
    ];
    for (name, answer, expected, is_slow) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = answer(&mut stream);
                });
            }
        });
        // A server that answers at once may be slow on a busy machine.
        let limit = if is_slow { Duration::from_millis(400) } else { Duration::from_secs(60) };
        let address = Address::new(&Secret::Text(url), None, limit).unwrap();
        let look: ServerCheck = Box::new(|| Ok(()));
        let server = Arc::new(Recipient { address, called: "the server", at_once: 2, look, hedges: None });
        let read: ParseReply<()> = Box::new(|said| super::super::identity::parse(said).map(drop));
        let request = ServerRequest { body: None, path: "/", read };
        let said = Arc::new(Mutex::new(Vec::new()));
        let control = Control::new(Shared(said.clone()));
        let began = Instant::now();
        let error = all(&server, vec![request], CancelToken::new(&control)).unwrap_err().to_string();
        assert!(began.elapsed() < Duration::from_secs(20), "{name}");
        assert!(error.contains(expected), "{name}: {error}");
        let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
        assert_eq!(said.contains("has not answered for"), is_slow, "{name}: {said}");
    }
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
