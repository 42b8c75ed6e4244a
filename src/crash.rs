//! The panic hook: a panic is a bug of mopd, and the message says so.

use crate::output;

pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        if let Some(limit) = limit_of_the_system(&message) {
            output::error(&limit);
            return;
        }
        let place = panic.location().map_or(String::new(), |at| format!(" at {}:{}", at.file(), at.line()));
        output::error(&apology(&message, &place));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            output::error(&format!("\n{}\n", std::backtrace::Backtrace::force_capture()));
        }
    }));
}

/// The error for a panic of the standard library or of a dependency that a limit of the system caused.
fn limit_of_the_system(message: &str) -> Option<String> {
    let (what, way) = if message.contains("failed to spawn thread") {
        ("another thread", "`ulimit -u`, `ulimit -v` or the limit of the container")
    } else if message.contains("allocate stack") || message.contains("mmap failed") {
        ("more memory", "`ulimit -v` or the limit of the container")
    } else {
        return None;
    };
    Some(format!("error[no-memory]: the system refuses {what}: {message}\n  help: raise {way}\n"))
}

fn apology(message: &str, place: &str) -> String {
    format!(
        "\nThis is a bug in mopd, not in your experiment. Sorry!\n\n  {message}{place}\n  mopd {} on {} \
         {}\n\nPlease report these lines with the command and the .mopd file that led here; \
         RUST_BACKTRACE=1 adds a backtrace.\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_system_is_no_bug() {
        let refused = limit_of_the_system("failed to spawn thread: Os { code: 11 }").unwrap();
        assert!(refused.starts_with("error[no-memory]: the system refuses another thread: "), "{refused}");
        assert!(limit_of_the_system("unable to allocate stack").unwrap().contains("`ulimit -v`"));
        assert_eq!(limit_of_the_system("index out of bounds"), None);
    }

    #[test]
    fn a_bug_says_so_apologises_and_asks_for_what_is_needed_to_find_it() {
        let said = apology("index out of bounds", " at lang/src/check/mod.rs:7");
        for part in [
            "a bug in mopd, not in your experiment",
            "Sorry",
            "index out of bounds at lang/src/check/mod.rs:7",
            "report",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
