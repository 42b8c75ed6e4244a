//! Any text is checked, with the library; every place of every diagnostic and name lies in its file, between
//! whole characters.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mopd_fuzz::{check, check_diagnostic, check_span, text};
use mopd_lang::check::allow;

fuzz_target!(|data: &[u8]| {
    let Some(text) = text(data) else { return };
    let analysis = check(text);
    for diagnostic in &analysis.diagnostics {
        check_diagnostic(diagnostic, &analysis.sources);
        if let Some(fix) = allow::insertion(&analysis.sources, diagnostic) {
            check_span(fix.span, &analysis.sources.file(fix.span.file).text);
        }
    }
    for (file, source) in analysis.sources.files() {
        for a_use in analysis.index.uses_in(file) {
            check_span(a_use.span, &source.text);
        }
    }
    for id in analysis.index.ids() {
        let symbol = analysis.index.symbol(id);
        check_span(symbol.span, &analysis.sources.file(symbol.span.file).text);
        check_span(symbol.extent, &analysis.sources.file(symbol.extent.file).text);
    }
    for origin in &analysis.origins {
        check_span(*origin, &analysis.sources.file(origin.file).text);
    }
});
