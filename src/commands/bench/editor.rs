//! A language client for measurements: one server, one file, one keystroke at a time.

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lsp_server::{Message, Notification, Request};
use serde_json::json;

use crate::problem::Problem;

pub struct BenchEditor {
    server: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    uri: String,
    version: i32,
}

/// One character typed or removed; columns in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Keystroke {
    pub line: usize,
    pub column: usize,
    /// `None`: the character after the place is removed.
    pub typed: Option<char>,
}

impl BenchEditor {
    /// Starts `mopd lsp`; `folder` is for files that it writes.
    pub fn start(program: &Path, folder: &Path) -> Result<BenchEditor, Problem> {
        let mut command = Command::new(program);
        command
            .arg("lsp")
            .env("XDG_CACHE_HOME", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut server = command.spawn().map_err(|error| failed(&error.to_string()))?;
        let input = server.stdin.take();
        let output = BufReader::new(server.stdout.take().ok_or_else(|| failed("it has no standard output"))?);
        let uri = format!("file://{}", folder.join("a.mopd").display());
        let mut editor = BenchEditor { server, input, output, uri, version: 1 };
        // Columns in bytes: only the check is measured, not the conversion of columns.
        let capabilities = json!({ "general": { "positionEncodings": ["utf-8"] } });
        let params = json!({ "processId": null, "rootUri": null, "capabilities": capabilities });
        editor.send(Request::new(0.into(), "initialize".to_owned(), params).into())?;
        while !matches!(editor.receive()?, Message::Response(_)) {}
        editor.notify("initialized", json!({}))?;
        Ok(editor)
    }

    /// Opens a text; returns the number of its diagnostics.
    pub fn open(&mut self, text: &str) -> Result<usize, Problem> {
        let document =
            json!({ "uri": self.uri, "languageId": "mopd", "version": self.version, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }))?;
        self.diagnostics()
    }

    /// The time from a keystroke to the diagnostics of the new text.
    pub fn press(&mut self, key: Keystroke) -> Result<Duration, Problem> {
        self.version += 1;
        let column = key.column + usize::from(key.typed.is_none());
        let range = json!({
            "start": { "line": key.line, "character": key.column },
            "end": { "line": key.line, "character": column },
        });
        let change = json!([{ "range": range, "text": key.typed.map(String::from).unwrap_or_default() }]);
        let params =
            json!({ "textDocument": { "uri": self.uri, "version": self.version }, "contentChanges": change });
        let pressed = Instant::now();
        self.notify("textDocument/didChange", params)?;
        self.diagnostics()?;
        Ok(pressed.elapsed())
    }

    /// The memory of the server, in bytes; `None` where the system does not tell.
    pub fn memory(&self) -> Option<u64> {
        in_status(&self.server.id().to_string(), "VmRSS")
    }

    /// Waits for the diagnostics of the current text; returns their number.
    fn diagnostics(&mut self) -> Result<usize, Problem> {
        loop {
            let Message::Notification(notification) = self.receive()? else { continue };
            let about_now = notification.params.get("version") == Some(&json!(self.version));
            if notification.method == "textDocument/publishDiagnostics" && about_now {
                return Ok(notification.params["diagnostics"].as_array().map_or(0, Vec::len));
            }
        }
    }

    fn notify(&mut self, method: &str, params: serde_json::Value) -> Result<(), Problem> {
        self.send(Notification::new(method.to_owned(), params).into())
    }

    fn send(&mut self, message: Message) -> Result<(), Problem> {
        let input = self.input.as_mut().ok_or_else(|| failed("it has no standard input"))?;
        message.write(input).and_then(|()| input.flush()).map_err(|error| failed(&error.to_string()))
    }

    fn receive(&mut self) -> Result<Message, Problem> {
        let message = Message::read(&mut self.output).map_err(|error| failed(&error.to_string()))?;
        message.ok_or_else(|| failed("it has ended"))
    }
}

impl Drop for BenchEditor {
    fn drop(&mut self) {
        // The server ends when its input is closed; it is killed in case it hangs.
        self.input = None;
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn failed(why: &str) -> Problem {
    Problem::run("bench-failed", format!("cannot measure the language server: {why}"))
}

/// A field of the system's memory statistics of a process, in bytes; `None` where there are none.
pub fn in_status(process: &str, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
