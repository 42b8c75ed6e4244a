//! Formatting changes blanks and commas only, keeps what the parser makes of a text, and has nothing to do
//! the second time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mopd_fuzz::{text, without_spans};
use mopd_lang::fmt;
use mopd_lang::source::FileId;
use mopd_lang::syntax::parse;

fuzz_target!(|data: &[u8]| {
    let Some(text) = text(data) else { return };
    let formatted = fmt::format(text).text;
    assert_eq!(fmt::format(&formatted).text, formatted, "a second pass changes it again");
    assert_eq!(tokens(text), tokens(&formatted), "more than blanks and commas has changed");
    let ((before, wrong), (after, still_wrong)) = (parse(FileId(0), text), parse(FileId(0), &formatted));
    assert_eq!(
        without_spans(&format!("{before:?}")),
        without_spans(&format!("{after:?}")),
        "the meaning has changed"
    );
    assert_eq!(wrong.len(), still_wrong.len());

    assert_eq!(fmt::applied(text, &fmt::edits(text)), formatted);
    // Parts of it, at places that depend on the input.
    let place =
        text.floor_char_boundary(data.iter().map(|byte| *byte as usize).sum::<usize>() % (text.len() + 1));
    for edits in [
        fmt::edits_in(text, place..place),
        fmt::edits_on_close(text, place),
        fmt::edits_on_newline(text, place),
    ] {
        let part = fmt::applied(text, &edits);
        assert_eq!(tokens(text), tokens(&part));
        // What is done for a part is what would be done for the whole.
        let whole = fmt::edits(text);
        assert!(
            !wrong.is_empty() || edits.iter().all(|edit| whole.contains(edit)),
            "{edits:?} is not of {whole:?}"
        );
    }
});

fn tokens(text: &str) -> String {
    text.chars()
        .filter(|character| !matches!(character, ' ' | '\t' | '\r' | '\n' | '\x0c' | ',' | '\u{feff}'))
        .collect()
}
