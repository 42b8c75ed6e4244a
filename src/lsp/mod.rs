//! `mopd lsp`: the language server, on standard input and output.
//!
//! One thread owns all state and handles one message at a time: a check takes about a millisecond. A
//! second thread reads messages ([`intake`]): a cancelled request is answered at once, and a long check
//! ends when its text has changed or its time is up. A panic inside a request becomes its error response.

mod capabilities;
mod check;
mod convert;
mod dispatch;
mod document_host;
mod frames;
mod library;
mod message_queue;
mod planned;
mod publish;
mod requests;
mod session;
mod uri;

use std::io::{self, BufReader, Write};
use std::sync::Arc;

use capabilities::EditorClient;
use lsp_server::{Connection, ErrorCode, Message, Notification, Request, Response};
use message_queue::MessageQueue;
use mopd_experiment::stack;
use session::{RefreshOutcome, Session};

use crate::problem::{CommandStatus, Problem};

/// Serves until the client ends the session. Status 0 after `shutdown` and `exit`, 1 if the client left
/// without them.
pub fn serve() -> Result<CommandStatus, Problem> {
    let (connection, editor) = Connection::memory();
    let Connection { sender, receiver } = editor;
    let reader = std::thread::spawn(move || -> io::Result<()> {
        let mut input = BufReader::new(io::stdin().lock());
        while let Some(message) = frames::read(&mut input)? {
            let last = matches!(&message, Message::Notification(note) if note.method == "exit");
            if sender.send(message).is_err() || last {
                break;
            }
        }
        Ok(())
    });
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut output = io::stdout().lock();
        receiver.into_iter().try_for_each(|message| frames::write(&mut output, &message))?;
        output.flush()
    });
    // Once for all checks; otherwise each would allocate its own stack.
    let status = stack::with_room(|| talk(&connection));
    drop(connection);
    let outcome = writer.join().map_err(|_| io::Error::other("a bug in mopd")).flatten();
    // If the client left first, the reader has ended. Otherwise it waits for more input, and ends with the
    // program.
    let outcome = if reader.is_finished() {
        reader.join().map_err(|_| io::Error::other("a bug in mopd")).flatten().and(outcome)
    } else {
        outcome
    };
    match outcome {
        Ok(()) => Ok(status),
        // A client that leaves closes the pipe before the last response is written.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(status),
        Err(error) => {
            Err(Problem::usage("broken-protocol", format!("what the editor sent is no message: {error}"))
                .help("`mopd lsp` is started by editors and speaks the language server protocol"))
        }
    }
}

/// A whole session, with any transport.
pub fn talk(connection: &Connection) -> CommandStatus {
    let intake = Arc::new(MessageQueue::default());
    let (receiver, sender, takes) =
        (connection.receiver.clone(), connection.sender.clone(), Arc::clone(&intake));
    std::thread::spawn(move || {
        for message in receiver {
            if let Some(response) = takes.put(message) {
                let _ = sender.send(response.into());
            }
        }
        takes.close();
    });
    let Some(client) = initialize(connection, &intake) else { return CommandStatus::Failure };
    let session = Session::new(client, Arc::clone(&intake));
    Server { connection, session, intake, shut_down: false }.run()
}

/// The handshake: all messages before it are refused.
fn initialize(connection: &Connection, intake: &MessageQueue) -> Option<EditorClient> {
    while let Some(message) = intake.next() {
        match message {
            Message::Request(request) if request.method == "initialize" => {
                let client = EditorClient::from_initialize(&request.params);
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
    intake: Arc<MessageQueue>,
    shut_down: bool,
}

impl Server<'_> {
    fn run(&mut self) -> CommandStatus {
        loop {
            if self.intake.is_empty() {
                self.refresh();
            }
            let Some(message) = self.intake.next() else { return CommandStatus::Failure };
            match message {
                Message::Request(request) => {
                    self.request(request);
                    self.intake.answered();
                }
                Message::Notification(notification) if notification.method == "exit" => {
                    return if self.shut_down { CommandStatus::Success } else { CommandStatus::Failure };
                }
                Message::Notification(notification) => self.notification(notification),
                Message::Response(_) => {}
            }
        }
    }

    fn request(&mut self, request: Request) {
        if request.method == "shutdown" {
            self.shut_down = true;
            return self.send(Response::new_ok(request.id, serde_json::Value::Null));
        }
        if self.shut_down || request.method == "initialize" {
            let text = if self.shut_down {
                "the server has been shut down"
            } else {
                "the server has been initialized already"
            };
            return self.send(Response::new_err(
                request.id,
                ErrorCode::InvalidRequest as i32,
                text.to_owned(),
            ));
        }
        let id = request.id.clone();
        if self.refresh() == RefreshOutcome::Interrupted && !self.intake.is_cancelled() {
            let text = "the text has changed since".to_owned();
            return self.send(Response::new_err(id, ErrorCode::ContentModified as i32, text));
        }
        let response = dispatch::respond(&self.session, request);
        self.send(if self.intake.is_cancelled() { message_queue::refusal(id) } else { response });
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

    /// Checks documents that have changed, and sends the results to the editor.
    fn refresh(&mut self) -> RefreshOutcome {
        let refreshed = self.session.refresh();
        for message in self.session.take_messages() {
            self.send(message);
        }
        refreshed
    }

    fn send(&self, message: impl Into<Message>) {
        // A lost connection is noticed where messages are received.
        let _ = self.connection.sender.send(message.into());
    }
}
