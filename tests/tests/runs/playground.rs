//! The page of the playground in a browser. `./x test` and `./x playground` build it. If it can't be built,
//! or there is no browser, the test is skipped with a note: the playground's program has tests of its own.

use std::fs;

use mopd_tests::browser::{browser, opened_at};
use mopd_tests::skipped;
use tempfile::TempDir;

/// The page when its scripts are done, and what it logged. `then` runs once the first check is shown.
fn opened(browser: &str, page: &str, then: &str) -> (String, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let script = format!(
        "<script>(async () => {{
           const until = async (good) => {{ while (!good()) await new Promise((done) => setTimeout(done, 20)); }};
           await until(() => document.documentElement.dataset.checked);
           {then}
           document.documentElement.dataset.done = 'yes';
         }})();</script></body>"
    );
    let file = folder.path().join("page.html");
    fs::write(&file, page.replacen("</body>", &script, 1)).expect("a page");
    opened_at(browser, &format!("file://{}", file.display()), 60_000, &["--timeout=60000"])
}

#[test]
fn the_front_end_answers_in_a_browser() {
    let path = mopd_tests::root().join("target/playground/index.html");
    let Ok(page) = fs::read_to_string(path) else {
        return skipped("the playground's page was not built");
    };
    let Some(browser) = browser() else { return };

    // The initial state: the example is valid, its objective is described, and can be evaluated.
    let tried = "document.getElementById('try').click();
                 await until(() => document.getElementById('loss'));";
    let (dom, log) = opened(browser, &page, tried);
    assert_eq!(log, "");
    assert!(dom.contains("data-done=\"yes\""), "the page did not end: {}", &dom[..dom.len().min(2000)]);
    assert!(dom.contains("<p>Nothing is wrong.</p>"), "{dom}");
    assert!(
        dom.contains("follows 1.00 * grad KL(student || teacher)") || dom.contains("grad KL(student"),
        "{dom}"
    );
    let loss = dom.split("id=\"loss\">").nth(1).and_then(|rest| rest.split('<').next()).expect("a loss");
    assert!(loss.parse::<f64>().is_ok_and(f64::is_finite), "{loss}");
    assert!(dom.contains("d loss / d student.logp"), "the gradients are shown");

    // A mistake is shown with its code, line and page; the button selects its place.
    let mistake = "const text = document.getElementById('text');
                   text.value = text.value.replace('live student.logp', 'live student.logpp');
                   text.dispatchEvent(new Event('input'));
                   await until(() => document.querySelector('#found .place'));
                   document.querySelector('#found .place').click();
                   document.documentElement.dataset.selected = text.value.slice(text.selectionStart, text.selectionEnd);";
    let (dom, log) = opened(browser, &page, mistake);
    assert_eq!(log, "");
    assert!(dom.contains("<b>error[") && dom.contains("logpp"), "{dom}");
    assert!(
        dom.contains("data-selected=\"logpp\"") || dom.contains("data-selected=\"student.logpp\""),
        "{dom}"
    );
    assert!(dom.contains("<summary class=\"soft\">why</summary>"));
}
