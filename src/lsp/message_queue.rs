//! The queue of received messages. A thread reads them while the session is busy: a cancelled request in the
//! queue is answered at once, and a changed text cancels the check of the old one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lsp_server::{ErrorCode, Message, RequestId, Response};

#[derive(Default)]
pub struct MessageQueue {
    waiting: Mutex<QueuedMessages>,
    come: Condvar,
    /// Whether a text has changed since the session last checked.
    changed: AtomicBool,
    /// Whether the current request has been cancelled.
    cancelled: AtomicBool,
}

#[derive(Default)]
struct QueuedMessages {
    messages: VecDeque<Message>,
    /// The current request.
    current: Option<RequestId>,
    /// Whether the input has ended.
    closed: bool,
}

impl MessageQueue {
    fn waiting(&self) -> MutexGuard<'_, QueuedMessages> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. Returns the response to a waiting request that it cancels.
    pub fn put(&self, message: Message) -> Option<Response> {
        let mut waiting = self.waiting();
        if let Some(id) = cancelled(&message) {
            let asked = |message: &Message| matches!(message, Message::Request(request) if request.id == id);
            if let Some(at) = waiting.messages.iter().position(asked) {
                waiting.messages.remove(at);
                return Some(refusal(id));
            }
            if waiting.current.as_ref() == Some(&id) {
                self.cancelled.store(true, Ordering::Relaxed);
            }
            return None;
        }
        if matches!(&message, Message::Notification(note) if note.method == "textDocument/didChange") {
            self.changed.store(true, Ordering::Relaxed);
        }
        waiting.messages.push_back(message);
        self.come.notify_one();
        None
    }

    pub fn close(&self) {
        self.waiting().closed = true;
        self.come.notify_one();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting().messages.is_empty()
    }

    /// Marks the last request as answered: a later cancellation has no effect.
    pub fn answered(&self) {
        let mut waiting = self.waiting();
        waiting.current = None;
        self.cancelled.store(false, Ordering::Relaxed);
    }

    /// The next message, as soon as there is one; `None` at the end.
    pub fn next(&self) -> Option<Message> {
        let mut waiting = self.waiting();
        loop {
            if let Some(message) = waiting.messages.pop_front() {
                waiting.current = match &message {
                    Message::Request(request) => Some(request.id.clone()),
                    _ => None,
                };
                self.cancelled.store(false, Ordering::Relaxed);
                let change = |message: &Message| match message {
                    Message::Notification(note) => note.method == "textDocument/didChange",
                    _ => false,
                };
                self.changed.store(waiting.messages.iter().any(change), Ordering::Relaxed);
                return Some(message);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the current work is obsolete: its text has changed, or it was cancelled.
    pub fn interrupts(&self) -> bool {
        self.changed.load(Ordering::Relaxed) || self.is_cancelled()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

pub fn refusal(id: RequestId) -> Response {
    Response::new_err(id, ErrorCode::RequestCanceled as i32, "cancelled by the editor".to_owned())
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
    use lsp_server::{Notification, Request};
    use serde_json::json;

    use super::*;

    fn ask(id: &str) -> Message {
        Request::new(id.to_owned().into(), "workspace/symbol".to_owned(), json!({ "query": "" })).into()
    }

    fn cancel(id: &str) -> Message {
        Notification::new("$/cancelRequest".to_owned(), json!({ "id": id })).into()
    }

    fn change() -> Message {
        Notification::new("textDocument/didChange".to_owned(), json!({})).into()
    }

    #[test]
    fn a_request_that_waits_is_cancelled_and_no_other() {
        let intake = MessageQueue::default();
        let messages = [cancel("d"), ask("a"), ask("b"), cancel("b"), cancel("c"), ask("d")];
        let responses: Vec<String> = messages
            .into_iter()
            .filter_map(|message| intake.put(message))
            .map(|response| response.id.to_string())
            .collect();
        assert_eq!(responses, ["\"b\""]);
        intake.close();
        let left: Vec<String> = std::iter::from_fn(|| intake.next())
            .filter_map(|message| match message {
                Message::Request(request) => Some(request.id.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(left, ["\"a\"", "\"d\""]);
    }

    #[test]
    fn the_request_that_is_being_answered_is_interrupted() {
        let intake = MessageQueue::default();
        intake.put(ask("a"));
        intake.put(ask("b"));
        intake.next();
        assert!(!intake.interrupts());
        intake.put(cancel("a"));
        assert!(intake.interrupts() && intake.is_cancelled());
        intake.next();
        assert!(!intake.interrupts());
    }

    #[test]
    fn answered_request_cannot_be_cancelled() {
        let intake = MessageQueue::default();
        intake.put(ask("a"));
        intake.next();
        intake.answered();
        intake.put(cancel("a"));
        assert!(!intake.interrupts());
        // The request was cancelled while it was being answered: that must not end the next check.
        intake.put(ask("b"));
        intake.next();
        intake.put(cancel("b"));
        intake.put(change());
        intake.next();
        assert!(!intake.interrupts());
    }

    #[test]
    fn a_change_interrupts_what_is_of_the_text_before() {
        let intake = MessageQueue::default();
        intake.put(ask("a"));
        intake.put(change());
        intake.next();
        assert!(intake.interrupts() && !intake.is_cancelled());
        intake.next();
        assert!(!intake.interrupts());
    }
}
