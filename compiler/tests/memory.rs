//! Compiled programs free their memory. This test has a file of its own, so that nothing else runs in the
//! measured process.

use mopd_expr::graph::{Graph, LiveId};
use mopd_expr::jit::Program;
use mopd_plan::{Axis, Function, Reduction};

/// Resident memory of this process, in pages.
#[cfg(target_os = "linux")]
fn resident_pages() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    text.split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("the second field is the resident set")
}

/// `JITModule` leaks its code unless told otherwise. Each program here has a page of code of its own at
/// least, so 10,000 leaked ones would be 10,000 pages or more.
#[test]
#[cfg(target_os = "linux")]
fn ten_thousand_compilations_leave_the_process_no_larger() {
    let mut graph = Graph::default();
    let mut node = graph.live(LiveId(0));
    for _ in 0..2 {
        let mean = graph.reduce(Reduction::Mean, node, Axis::Sequence, None);
        let centred = graph.apply(Function::Subtract, &[node, mean]);
        node = graph.apply(Function::Exp, &[centred]);
    }
    let compile = || drop(Program::compile(&graph, &[node]).expect("compiles"));
    (0..500).for_each(|_| compile());
    let before = resident_pages();
    (0..10_000).for_each(|_| compile());
    let growth = resident_pages().saturating_sub(before);
    assert!(growth < 250, "10,000 programs left {growth} pages behind");
}
