//! Pages in a real browser, if one is installed.

use std::process::Command;

use tempfile::TempDir;

use crate::skipped;

/// The first browser that is installed; else the test is skipped.
pub fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let runs = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = names.into_iter().find(runs);
    if found.is_none() {
        skipped(&format!("none of {} is installed: no page is opened in a browser", names.join(", ")));
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
