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
        let place = panic.location().map_or(String::new(), |at| format!(" at {}:{}", at.file(), at.line()));
        output::error(&apology(&message, &place));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            output::error(&format!("\n{}\n", std::backtrace::Backtrace::force_capture()));
        }
    }));
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
