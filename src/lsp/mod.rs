//! `mopd lsp`: the language server, over standard input and output.
//!
//! One thread owns all state and handles one message at a time; a check takes about a millisecond, so nothing needs to be
//! interrupted. A second thread takes messages in as they come, so that a request that was cancelled while it waited is never
//! begun, and changes that came together are checked once. A panic inside a request becomes its error response.

mod capabilities;
mod convert;
mod dispatch;
mod library;
mod publish;
mod requests;
mod session;
mod uri;

use std::collections::VecDeque;
use std::sync::mpsc;

use lsp_server::{Connection, ErrorCode, Message, Notification, Request, RequestId, Response};

use crate::problem::{Problem, Status};
use capabilities::Client;
use session::Session;

/// Serves until the client says goodbye. Status 0 after `shutdown` and `exit`, 1 where the client went without them.
pub fn serve() -> Result<Status, Problem> {
    let (connection, threads) = Connection::stdio();
    let status = talk(&connection);
    drop(connection);
    match threads.join() {
        Ok(()) => Ok(status),
        // A client that goes away closes the pipe before the last answer is out.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(status),
        Err(error) => Err(Problem::usage("broken-protocol", format!("what the editor sent is no message: {error}"))
            .help("`mopd lsp` is started by editors and speaks the language server protocol")),
    }
}

/// A whole session, whatever carries its messages.
pub fn talk(connection: &Connection) -> Status {
    let (sender, messages) = mpsc::channel();
    let receiver = connection.receiver.clone();
    std::thread::spawn(move || receiver.into_iter().try_for_each(|message| sender.send(message)));
    let Some(client) = initialize(connection, &messages) else { return Status::Wrong };
    let mut server = Server { connection, session: Session::new(client), queue: VecDeque::new(), shut_down: false };
    server.run(&messages)
}

/// The handshake: everything before it is refused.
fn initialize(connection: &Connection, messages: &mpsc::Receiver<Message>) -> Option<Client> {
    for message in messages {
        match message {
            Message::Request(request) if request.method == "initialize" => {
                let client = Client::of(&request.params);
                let result = capabilities::result(&client);
                connection.sender.send(Response::new_ok(request.id, result).into()).ok()?;
                return Some(client);
            }
            Message::Request(request) => {
                let text = "the first request must be `initialize`".to_owned();
                let refusal = Response::new_err(request.id, ErrorCode::ServerNotInitialized as i32, text);
                connection.sender.send(refusal.into()).ok()?;
            }
            Message::Notification(notification) if notification.method == "exit" => return None,
            Message::Notification(_) | Message::Response(_) => {}
        }
    }
    None
}

struct Server<'a> {
    connection: &'a Connection,
    session: Session,
    /// Messages that have come and wait.
    queue: VecDeque<Message>,
    shut_down: bool,
}

impl Server<'_> {
    fn run(&mut self, messages: &mpsc::Receiver<Message>) -> Status {
        loop {
            if self.queue.is_empty() {
                self.refresh();
                match messages.recv() {
                    Ok(message) => self.queue.push_back(message),
                    Err(_) => return Status::Wrong,
                }
            }
            self.queue.extend(messages.try_iter());
            self.cancel();
            let Some(message) = self.queue.pop_front() else { continue };
            match message {
                Message::Request(request) => self.request(request),
                Message::Notification(notification) if notification.method == "exit" => {
                    return if self.shut_down { Status::Good } else { Status::Wrong };
                }
                Message::Notification(notification) => self.notification(notification),
                Message::Response(_) => {}
            }
        }
    }

    /// Answers the waiting requests that have been cancelled. What is cancelled before it is asked is nothing that waits.
    fn cancel(&mut self) {
        if !self.queue.iter().any(|message| cancelled(message).is_some()) {
            return;
        }
        for message in std::mem::take(&mut self.queue) {
            let Some(id) = cancelled(&message) else {
                self.queue.push_back(message);
                continue;
            };
            let asked = |waiting: &Message| matches!(waiting, Message::Request(request) if request.id == id);
            if let Some(at) = self.queue.iter().position(asked) {
                self.queue.remove(at);
                let text = "cancelled by the editor".to_owned();
                self.send(Response::new_err(id, ErrorCode::RequestCanceled as i32, text));
            }
        }
    }

    fn request(&mut self, request: Request) {
        if request.method == "shutdown" {
            self.shut_down = true;
            return self.send(Response::new_ok(request.id, serde_json::Value::Null));
        }
        if self.shut_down || request.method == "initialize" {
            let text = if self.shut_down { "the server has been shut down" } else { "the server has been initialized already" };
            return self.send(Response::new_err(request.id, ErrorCode::InvalidRequest as i32, text.to_owned()));
        }
        self.refresh();
        let response = dispatch::answer(&self.session, request);
        self.send(response);
    }

    fn notification(&mut self, notification: Notification) {
        if notification.method == "initialized" {
            if let Some(request) = capabilities::watch_files(&self.session.client) {
                self.send(request);
            }
            return;
        }
        for message in dispatch::take(&mut self.session, notification) {
            self.send(message);
        }
    }

    /// Checks what has changed, and tells the editor.
    fn refresh(&mut self) {
        self.session.refresh();
        for message in self.session.take_messages() {
            self.send(message);
        }
    }

    fn send(&self, message: impl Into<Message>) {
        // A client that is gone is noticed where messages are received.
        let _ = self.connection.sender.send(message.into());
    }
}

/// The request that a message cancels.
fn cancelled(message: &Message) -> Option<RequestId> {
    match message {
        Message::Notification(notification) if notification.method == "$/cancelRequest" => {
            serde_json::from_value(notification.params.get("id")?.clone()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the client is sent where these messages wait together when the server turns to them.
    fn answers(messages: Vec<Message>) -> Vec<Response> {
        let (server, client) = Connection::memory();
        let (sender, receiver) = mpsc::channel();
        messages.into_iter().for_each(|message| sender.send(message).expect("the receiver is there"));
        drop(sender);
        let session = Session::new(Client::of(&json!({})));
        let mut waiting = Server { connection: &server, session, queue: VecDeque::new(), shut_down: false };
        waiting.run(&receiver);
        drop(server);
        let responses = client.receiver.into_iter().filter_map(|message| match message {
            Message::Response(response) => Some(response),
            Message::Request(_) | Message::Notification(_) => None,
        });
        responses.collect()
    }

    #[test]
    fn a_request_that_waits_is_cancelled_and_no_other() {
        let symbols = |id: &str| Request::new(id.to_owned().into(), "workspace/symbol".to_owned(), json!({ "query": "" })).into();
        let cancel = |id| Notification::new("$/cancelRequest".to_owned(), json!({ "id": id })).into();
        let answers = answers(vec![cancel("d"), symbols("a"), symbols("b"), cancel("b"), cancel("c"), symbols("d")]);
        let shown: Vec<(String, Option<i32>)> = answers
            .into_iter()
            .map(|answer| (answer.id.to_string(), answer.response_result.err().map(|error| error.code)))
            .collect();
        let expected = [("\"b\"", Some(ErrorCode::RequestCanceled as i32)), ("\"a\"", None), ("\"d\"", None)];
        assert_eq!(shown, expected.map(|(id, code)| (id.to_owned(), code)));
    }
}
