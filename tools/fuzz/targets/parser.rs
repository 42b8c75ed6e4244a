//! Any text has a tree; every place in it is a place of the text; what is nested too deep is told, not
//! followed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mopd_fuzz::{check_span, check_spans_of, text};
use mopd_lang::diag::Code;
use mopd_lang::source::FileId;
use mopd_lang::syntax::parse;

fuzz_target!(|data: &[u8]| {
    let Some(text) = text(data) else { return };
    let (tree, diagnostics) = parse(FileId(0), text);
    check_spans_of(&format!("{tree:?}"), text);
    for diagnostic in &diagnostics {
        check_span(diagnostic.primary.span, text);
        assert!(!diagnostic.message.is_empty());
    }
    let deep = format!("let deep = {}{text}", "(".repeat(300));
    let (_, diagnostics) = parse(FileId(0), &deep);
    assert!(
        diagnostics.iter().any(|diagnostic| diagnostic.code == Code::NestingTooDeep),
        "300 brackets are accepted"
    );
});
