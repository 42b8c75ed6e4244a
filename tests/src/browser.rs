//! Pages in a real browser, if one is installed.

use std::io::Write;
use std::process::Command;

use tempfile::TempDir;

/// Prints a note on standard error directly, since the harness hides what passing tests print.
pub fn note(text: &str) {
    writeln!(std::io::stderr(), "note: {text}").expect("standard error is open");
}

/// The first browser that is installed; a note is printed if there is none.
pub fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let runs = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = names.into_iter().find(runs);
    if found.is_none() {
        note(&format!("none of {} is here, so the page was not opened in a browser", names.join(", ")));
    }
    found
}

/// The page as a browser has it when its scripts are done, within so many milliseconds of its own clock, and
/// what it logged.
pub fn opened_at(browser: &str, url: &str, milliseconds: u32, flags: &[&str]) -> (String, String) {
    let profile = TempDir::new().expect("a temporary folder");
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--virtual-time-budget={milliseconds}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(flags)
        .arg(url)
        .output()
        .expect("the browser starts");
    let log = String::from_utf8_lossy(&output.stderr);
    let log: Vec<&str> =
        log.lines().filter(|line| line.contains("CONSOLE") || line.contains("Uncaught")).collect();
    (String::from_utf8_lossy(&output.stdout).into_owned(), log.join("\n"))
}
