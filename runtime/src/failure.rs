//! The one error type of this crate: a failure in the author's terms, ready to be sent as an event.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mopd_plan::Origin;
use mopd_plan::events::{Failure, FailureKind};

use crate::files::WriteError;
use crate::quote::bounded;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a job stops. Interruption is not a failure, but it unwinds the same way.
#[derive(Clone, Debug)]
pub enum Error {
    Failed(Box<Failure>),
    Interrupted,
}

impl Error {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Error {
        Error::Failed(Box::new(Failure {
            kind,
            message: bounded(message.into()),
            help: None,
            origin: None,
            stage: None,
            seed: None,
            step: None,
        }))
    }

    /// Whether a number was not finite.
    pub fn is_non_finite(&self) -> bool {
        matches!(self, Error::Failed(failure) if failure.kind == FailureKind::NonFinite)
    }

    /// A file or folder of the results or the store could not be made, changed or read.
    pub fn storage(path: &std::path::Path, source: std::io::Error) -> Error {
        WriteError { path: path.to_owned(), source }.into()
    }

    /// Converts a panic. Most come from tensor operations: a shape or a device that libtorch refused.
    pub fn from_panic(panic: &(dyn std::any::Any + Send)) -> Error {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("unknown error");
        // `called ... on an `Err` value: Torch("message\nC++ frames...")`
        let line = match text.split_once("Torch(\"") {
            Some((_, message)) => message.split("\\n").next().unwrap_or(message),
            None => text.lines().next().unwrap_or(text),
        };
        known(line).unwrap_or_else(|| {
            // Recorded by the hook in this thread; another panic's would be misleading.
            let recorded = LAST_PANIC.take().filter(|last| last.message == text);
            let (place, backtrace) = recorded.map(|last| (last.place, last.backtrace)).unwrap_or_default();
            let help = match backtrace {
                Some(backtrace) => format!("{BUG}\n{backtrace}"),
                None => format!("{BUG}; RUST_BACKTRACE=1 adds a backtrace"),
            };
            let message = format!("internal error{place}: {line}");
            Error::new(FailureKind::Runtime, message).change(|failure| failure.help = Some(help))
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Failure)) -> Error {
        if let Error::Failed(failure) = &mut self {
            change(failure);
        }
        self
    }

    /// Prefixes the message with `before`.
    pub fn with_prefix(self, before: &str) -> Error {
        self.change(|failure| failure.message = bounded(format!("{before}{}", failure.message)))
    }

    pub fn help(self, help: impl Into<String>) -> Error {
        let help = Some(bounded(help.into())).filter(|help| !help.is_empty());
        self.change(|failure| failure.help = help)
    }

    /// The help that is set.
    pub fn own_help(&self) -> Option<&str> {
        match self {
            Error::Failed(failure) => failure.help.as_deref(),
            _ => None,
        }
    }

    /// Fills in the origin, unless a more exact one is set already.
    pub fn at(self, origin: Origin) -> Error {
        self.change(|failure| failure.origin = failure.origin.or(Some(origin)))
    }

    pub fn in_stage(self, stage: &str, seed: u64) -> Error {
        self.change(|failure| {
            failure.stage.get_or_insert_with(|| stage.to_owned());
            failure.seed.get_or_insert(seed);
        })
    }

    pub fn at_step(self, step: u32) -> Error {
        self.change(|failure| failure.step = failure.step.or(Some(step)))
    }
}

const BUG: &str = "this is a bug in mopd: please report it with the command and the .mopd file";

/// What the hook knows of a panic, and the payload does not.
struct PanicRecord {
    message: String,
    /// Such as ` at runtime/src/train/mod.rs:7:9`.
    place: String,
    /// Where `RUST_BACKTRACE` asks for it.
    backtrace: Option<Backtrace>,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<PanicRecord>> = const { RefCell::new(None) };
}

/// Panics print nothing: they become failures, which say where the panic was. The conversion must be in the
/// thread that panics, as in [`caught`].
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or_default().to_owned();
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let asked = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        let backtrace = asked.then(Backtrace::force_capture);
        LAST_PANIC.set(Some(PanicRecord { message, place, backtrace }));
    }));
}

/// Turns a panic into an error.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Error::from_panic(panic.as_ref()))
}

/// The errors of libtorch that the user can do something about, in our words.
fn known(line: &str) -> Option<Error> {
    out_of_memory(line).or_else(|| not_deterministic(line))
}

/// libtorch could not allocate memory, on the CPU (`DefaultCPUAllocator: can't allocate memory: you tried to
/// allocate 12853248 bytes`) or on a GPU (`CUDA out of memory. Tried to allocate 2.00 GiB`).
fn out_of_memory(line: &str) -> Option<Error> {
    let (device, _) = [("", "DefaultCPUAllocator"), (" of the GPU", "CUDA out of memory")]
        .into_iter()
        .find(|(_, said)| line.contains(said))?;
    // A number and its unit.
    let asked = line.split("ried to allocate ").nth(1).map(|rest| {
        let words: Vec<&str> = rest.split_whitespace().take(2).collect();
        format!(": {} more were requested", words.join(" ").trim_end_matches('.'))
    });
    let message = format!("memory{device} ran out{}", asked.unwrap_or_default());
    Some(Error::new(FailureKind::Runtime, message).help(
        "lower `max_tokens`, `prompts`, `samples` or `batch`, set `micro_batch` or `checkpointing`, or \
        take a smaller model; `mopd plan --predict` shows the memory of each stage",
    ))
}

/// An operator of libtorch can't add in the same order each time (`grid_sampler does not have a
/// deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'`).
fn not_deterministic(line: &str) -> Option<Error> {
    let (before, _) = line.split_once(" does not have a deterministic implementation")?;
    let operator = before.rsplit([' ', '"']).next().unwrap_or_default();
    let message = format!("libtorch's `{operator}` is not deterministic on a GPU");
    Some(
        Error::new(FailureKind::Runtime, message).help(
            "set `deterministic = false` in the experiment: two runs may then differ in their last bits",
        ),
    )
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Failed(failure) => f.write_str(&failure.message),
            Error::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Error {
        let failure = Error::new(FailureKind::Storage, error.to_string());
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// A tensor operation that libtorch refused.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        let text = error.to_string();
        // libtorch appends its own C++ frames after the first line; they don't help the author of an
        // experiment.
        let line = text.lines().next().unwrap_or("unknown error").trim();
        known(line).unwrap_or_else(|| Error::new(FailureKind::Runtime, format!("libtorch: {line}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another test process may have another hook; so this one is set, and restored, around the panic.
    #[test]
    fn an_internal_error_says_where_it_is() {
        let before = std::panic::take_hook();
        install_hook();
        let line = line!() + 1;
        let error = caught(|| [1, 2, 3][std::hint::black_box(7)]).unwrap_err();
        let other = Error::from_panic(&"another".to_owned() as &(dyn std::any::Any + Send));
        std::panic::set_hook(before);
        let said = error.to_string();
        assert!(said.starts_with(&format!("internal error at runtime/src/failure.rs:{line}:")), "{said}");
        assert!(said.ends_with(": index out of bounds: the len is 3 but the index is 7"), "{said}");
        assert_eq!(other.to_string(), "internal error: another");
        let Error::Failed(failure) = error else { panic!("a failure") };
        assert!(failure.help.unwrap().contains("a bug in mopd"));
    }

    #[test]
    fn memory_that_ran_out_is_no_internal_error() {
        let panic =
            |text: &str| Error::from_panic(&text.to_owned() as &(dyn std::any::Any + Send)).to_string();
        let cpu = "called `Result::unwrap()` on an `Err` value: Torch(\"[enforce fail at alloc_cpu.cpp:127] \
                   err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 12853248 \
                   bytes. Error code 12 (Cannot allocate memory)\\nframes\")";
        assert_eq!(panic(cpu), "memory ran out: 12853248 bytes more were requested");
        let gpu = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to \
                   allocate 2.50 GiB. GPU 0 has\")";
        assert_eq!(panic(gpu), "memory of the GPU ran out: 2.50 GiB more were requested");
        let order = "called `Result::unwrap()` on an `Err` value: Torch(\"put_ does not have a \
                     deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'\")";
        assert_eq!(panic(order), "libtorch's `put_` is not deterministic on a GPU");
        assert!(
            panic("called `Result::unwrap()` on an `Err` value: Torch(\"a shape\")")
                .starts_with("internal error: a shape")
        );
    }
}
