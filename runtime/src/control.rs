//! The way out of a running job: events to whoever started it, and the signs that it should stop.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use mopd_compiler::plan::events::Event;

use crate::failure::{Error, Result};

/// Shared by all threads of a job.
pub struct Control {
    output: Mutex<Box<dyn Write + Send>>,
    stop: AtomicBool,
    interrupted: AtomicBool,
    signalled: AtomicBool,
    abandoned: AtomicBool,
    /// Something is under way that would be lost.
    at_work: AtomicBool,
}

impl Control {
    pub fn new(output: impl Write + Send + 'static) -> Control {
        let [stop, interrupted, signalled, abandoned, at_work] =
            std::array::from_fn(|_| AtomicBool::new(false));
        Control { output: Mutex::new(Box::new(output)), stop, interrupted, signalled, abandoned, at_work }
    }

    /// One line on the output, at once. If nobody reads any more, the job stops.
    pub fn emit(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        let mut output = self.output.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if output.write_all(&line).and_then(|()| output.flush()).is_err() {
            self.interrupt();
        }
    }

    pub fn warn(&self, message: impl Into<String>) {
        self.emit(&Event::Warning { message: message.into() });
    }

    /// Someone asked the job to stop.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// The same by a signal. Whether it is the first one.
    pub fn signal(&self) -> bool {
        self.interrupt();
        !self.signalled.swap(true, Ordering::Relaxed)
    }

    /// Whoever started the job is gone. What it keeps, it keeps for the next run; the folder of results may
    /// be another run's by now.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.interrupt();
    }

    pub fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// From here on the job has something to keep when it is asked to stop. Before, while it reads data and
    /// models, it has not, and ends at once.
    pub fn begin_work(&self) {
        self.at_work.store(true, Ordering::Relaxed);
    }

    pub fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    /// The job is over for another reason: whoever is still at work may leave it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Called often by everything that takes long.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_output_interrupts() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let control = Control::new(Closed);
        assert!(control.check().is_ok());
        control.warn("hello");
        assert!(control.check().is_err() && control.interrupted());
    }

    #[test]
    fn stopping_is_not_interrupting() {
        let control = Control::new(Vec::new());
        control.stop();
        assert!(control.check().is_err() && !control.interrupted());
    }
}
