//! What the targets have in common.

use mopd_lang::Analysis;
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::{SourceFile, Sources, Span};

/// Inputs are any bytes; what is no text is passed over. Longer ones than this say nothing that shorter ones
/// do not.
pub fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok().filter(|text| text.len() <= 1 << 16)
}

/// Checks a text as `mopd check` does, without files beside it.
pub fn check(text: &str) -> Analysis {
    let load = |path: &str| {
        mopd_std::source(path).map(|text| SourceFile { path: path.to_owned(), text: text.to_owned() })
    };
    mopd_lang::analyse(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() }, &load)
}

/// Every place of a diagnostic lies in its file, between whole characters.
pub fn check_diagnostic(diagnostic: &Diagnostic, sources: &Sources) {
    let spans = std::iter::once(diagnostic.primary.span)
        .chain(diagnostic.related.iter().map(|label| label.span))
        .chain(diagnostic.fix.iter().map(|fix| fix.span));
    for span in spans {
        check_span(span, &sources.file(span.file).text);
    }
    assert!(!diagnostic.message.is_empty());
}

pub fn check_span(span: Span, text: &str) {
    assert!(
        text.get(span.start as usize..span.end as usize).is_some(),
        "{span:?} in a text of {} bytes",
        text.len()
    );
}

/// The same for every span in what a tree says of itself.
pub fn check_spans_of(tree: &str, text: &str) {
    for part in tree.split("Span { file: FileId(0), start: ").skip(1) {
        let (start, rest) = part.split_once(", end: ").expect("a span has an end");
        let (end, _) = rest.split_once(' ').expect("a span is closed");
        let (start, end) =
            (start.parse::<usize>().expect("a number"), end.parse::<usize>().expect("a number"));
        assert!(text.get(start..end).is_some(), "{start}..{end} in a text of {} bytes", text.len());
    }
}

/// What a tree says of itself, without the places.
pub fn without_spans(tree: &str) -> String {
    let mut parts = tree.split("Span {");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('}').map_or(part, |(_, rest)| rest))
}
