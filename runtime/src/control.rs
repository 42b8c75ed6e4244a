//! A running job's interface to the outside: the events it emits, and the flags that tell it to stop.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use mopd_plan::events::Event;

use crate::failure::{Error, Result};

/// Shared by all threads of a job.
pub struct Control {
    output: Mutex<Box<dyn Write + Send>>,
    stop: AtomicBool,
    interrupted: AtomicBool,
    signalled: AtomicBool,
    abandoned: AtomicBool,
    /// Work is under way that would be lost if the job ended at once.
    at_work: AtomicBool,
    /// Tells others, such as processes that this one has started, that the job is interrupted.
    pass_on: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Control {
    pub fn new(output: impl Write + Send + 'static) -> Control {
        let [stop, interrupted, signalled, abandoned, at_work] =
            std::array::from_fn(|_| AtomicBool::new(false));
        let (output, pass_on) = (Mutex::new(Box::new(output) as _), Mutex::default());
        Control { output, stop, interrupted, signalled, abandoned, at_work, pass_on }
    }

    /// Writes an event as one line and flushes. If the output is closed, the job is interrupted.
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

    /// Asks the job to stop, on behalf of the user.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
        self.stop();
        if let Some(pass_on) = &*self.pass_on.lock().unwrap_or_else(PoisonError::into_inner) {
            pass_on();
        }
    }

    /// Calls `pass_on` whenever the job is interrupted, at once if it is already. It must not wait.
    pub fn on_interrupt(&self, pass_on: impl Fn() + Send + 'static) {
        let mut own = self.pass_on.lock().unwrap_or_else(PoisonError::into_inner);
        if self.interrupted() {
            pass_on();
        }
        *own = Some(Box::new(pass_on));
    }

    /// Interrupts because of a signal. Returns whether this is the first signal.
    pub fn signal(&self) -> bool {
        self.interrupt();
        !self.signalled.swap(true, Ordering::Relaxed)
    }

    /// Interrupts because the process that started the job is gone. The job still stores what it has for
    /// the next run, but the folder of results may belong to another run by now.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.interrupt();
    }

    pub fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// From here on a job that is asked to stop has work to save. Before, while it reads data and models, it
    /// has none and ends at once.
    pub fn begin_work(&self) {
        self.at_work.store(true, Ordering::Relaxed);
    }

    pub fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    /// Stops all threads of a job that is over for another reason, such as a failure.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Returns [`Error::Interrupted`] if the job is to stop. Every long computation calls it often.
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

    #[test]
    fn an_interruption_is_passed_on_before_and_after_it_is_asked_for() {
        use std::sync::mpsc::channel;

        let control = Control::new(Vec::new());
        let (told, heard) = channel();
        control.on_interrupt(move || told.send("first").unwrap());
        control.stop();
        assert!(heard.try_recv().is_err(), "stopping is not interrupting");
        control.interrupt();
        assert_eq!(heard.try_recv(), Ok("first"));
        let (told, heard) = channel();
        control.on_interrupt(move || told.send("late").unwrap());
        assert_eq!(heard.try_recv(), Ok("late"));
    }
}
