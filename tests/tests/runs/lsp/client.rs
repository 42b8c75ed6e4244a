//! A client of the protocol: frames, requests, and notifications such as diagnostics.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

pub struct Client {
    pub process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next_id: i64,
    /// The last published diagnostics by URI, unless the test has read them.
    published: HashMap<String, Value>,
    /// Other notifications and requests of the server.
    pub unasked: Vec<Value>,
    /// The server's capabilities.
    pub capabilities: Value,
}

impl Client {
    /// Starts a server and initializes it. The standard library's files go to `cache`.
    pub fn start(cache: &Path, capabilities: Value) -> Client {
        let mut client = Client::connect(cache);
        let result = client.request(
            "initialize",
            json!({ "processId": null, "rootUri": null, "capabilities": capabilities }),
        );
        client.capabilities = result["capabilities"].clone();
        client.notify("initialized", json!({}));
        client
    }

    /// Starts a server and sends nothing.
    pub fn connect(cache: &Path) -> Client {
        let mut command =
            Command::new(std::path::absolute(mopd_tests::mopd()).expect("the program has a path"));
        command.arg("lsp").env("XDG_CACHE_HOME", cache).env("HOME", cache);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mopd starts");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (published, unasked) = (HashMap::new(), Vec::new());
        Client { process, input, output, next_id: 0, published, unasked, capabilities: Value::Null }
    }

    pub fn send(&mut self, message: &Value) {
        let text = message.to_string();
        self.send_raw(&format!("Content-Length: {}\r\n\r\n{text}", text.len()));
    }

    pub fn send_raw(&mut self, frame: &str) {
        let input = self.input.as_mut().expect("the pipe is open");
        input.write_all(frame.as_bytes()).expect("the server reads");
        input.flush().expect("the server reads");
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Sends a request without waiting, and returns its id.
    pub fn begin(&mut self, method: &str, params: Value) -> i64 {
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params }));
        self.next_id
    }

    /// The result of a request, which must not fail.
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        self.attempt(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The result of a request, or its error.
    pub fn attempt(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.begin(method, params);
        self.response(id)
    }

    /// The response to a request that was begun. Responses may come in any order.
    pub fn response(&mut self, id: i64) -> Result<Value, Value> {
        let responds = |message: &Value| message["id"] == json!(id) && message.get("method").is_none();
        let message = match self.unasked.iter().position(responds) {
            Some(at) => self.unasked.remove(at),
            None => loop {
                let message = self.receive().expect("the server responds");
                if responds(&message) {
                    break message;
                }
                self.note(message);
            },
        };
        match message.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(message["result"].clone()),
        }
    }

    /// The diagnostics of a file; waits for them if they have not come yet.
    pub fn diagnostics(&mut self, uri: &str) -> Vec<Value> {
        loop {
            if let Some(published) = self.published.remove(uri) {
                return published.as_array().expect("a list").clone();
            }
            let message = self.receive().expect("the server publishes");
            self.note(message);
        }
    }

    /// The diagnostics of a file that came with the responses so far, if there are new ones.
    pub fn news(&mut self, uri: &str) -> Option<Vec<Value>> {
        Some(self.published.remove(uri)?.as_array().expect("a list").clone())
    }

    fn note(&mut self, message: Value) {
        if message["method"] == "textDocument/publishDiagnostics" {
            let uri = message["params"]["uri"].as_str().expect("an address").to_owned();
            self.published.insert(uri, message["params"]["diagnostics"].clone());
        } else {
            self.unasked.push(message);
        }
    }

    /// The next message, or `None` at the end of output.
    pub fn receive(&mut self) -> Option<Value> {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("text") == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().expect("a length")
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.output.read_exact(&mut body).expect("a whole message");
        Some(serde_json::from_slice(&body).expect("JSON"))
    }

    /// Closes the pipe to the server.
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// Waits for the server to end, and returns its exit status.
    pub fn status(&mut self) -> Option<i32> {
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A test that failed has left it running.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
