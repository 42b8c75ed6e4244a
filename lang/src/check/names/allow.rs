//! `// allow(code): reason`: a comment by which the author accepts a warning.
//!
//! A comment after code covers its line. A comment alone on its line covers everything up to the next line
//! that is not just a comment. Only warnings can be silenced, and only with a reason. A comment that silences
//! nothing is itself a warning, because it would hide the next mistake.

use std::ops::Range;

use crate::diag::{Code, Diagnostic, Fix, Severity, nearest};
use crate::source::{FileId, SourceFile, Sources, Span};
use crate::syntax::tokens::lex;
use mopd_experiment::{Experiment, Origin};

/// One such comment.
struct Allow {
    /// The whole comment.
    span: Span,
    /// The text between its parentheses.
    code: Span,
    /// The range that it covers: whole lines, as byte offsets.
    covers: std::ops::Range<u32>,
    has_reason: bool,
}

/// A warning that a run may give, when it has read the data.
pub struct LaterWarning {
    code: Code,
    span: Span,
}

/// Removes the diagnostics that comments silence, and reports faulty comments of the entry file. In other
/// files, comments may be meant for warnings of checks of those files. Comments about checks that have not
/// run are left alone: `audited` says whether gradients were audited.
pub fn silence(sources: &Sources, diagnostics: &mut Vec<Diagnostic>, later: &[LaterWarning], audited: bool) {
    let wrong = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    // An `allow` may silence the warning about another `allow`, so those come last.
    let allows = sources.programs().flat_map(|(id, file)| allows(id, file));
    let (last, first): (Vec<Allow>, Vec<Allow>) =
        allows.partition(|allow| sources.text(allow.code) == Code::UnusedAllow.name());
    for allows in [first, last] {
        // None of these comments silences the warning about another one: that need not be searched.
        let mut faulty = Vec::new();
        for allow in allows {
            let named = sources.text(allow.code);
            let fits = |diagnostic: &Diagnostic| {
                diagnostic.code.name() == named && allow.covers(diagnostic.primary.span)
            };
            let may_hit = later.iter().any(|later| later.code.name() == named && allow.covers(later.span));
            let hits = may_hit
                || diagnostics
                    .iter()
                    .any(|diagnostic| diagnostic.severity == Severity::Warning && fits(diagnostic));
            if hits && allow.has_reason {
                diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error || !fits(diagnostic));
                continue;
            }
            let not_looked_for =
                !audited && Code::ALL.iter().any(|code| code.name() == named && code.needs_audit());
            if allow.span.file != FileId(0) || not_looked_for {
                continue;
            }
            let error = diagnostics
                .iter()
                .find(|diagnostic| diagnostic.severity == Severity::Error && fits(diagnostic));
            let unknown = !Code::ALL.iter().any(|code| code.name() == named);
            // After an error, the check that would give the warning may not have run.
            if hits || error.is_some() || unknown || !wrong {
                let near = nearest(named, Code::ALL.iter().map(|code| code.name())).map(|near| {
                    let meant = |diagnostic: &&Diagnostic| {
                        diagnostic.code.name() == near && allow.covers(diagnostic.primary.span)
                    };
                    (near, diagnostics.iter().any(|diagnostic| meant(&diagnostic)))
                });
                faulty.push(unused(sources, &allow, named, hits, error, near));
            }
        }
        diagnostics.extend(faulty);
    }
}

impl Allow {
    fn covers(&self, span: Span) -> bool {
        span.file == self.span.file && self.covers.contains(&span.start)
    }
}

/// Whether a comment silences the warning of this code at this place.
pub fn is_allowed(sources: &Sources, code: Code, span: Span) -> bool {
    let mut allows = sources.programs().flat_map(|(id, file)| allows(id, file));
    allows.any(|allow| allow.has_reason && sources.text(allow.code) == code.name() && allow.covers(span))
}

/// The warnings that a run may give of an experiment, when it has read the data: their places.
pub fn of_runs(experiment: &Experiment, origins: &[Span]) -> Vec<LaterWarning> {
    let schedules =
        experiment.models.iter().flat_map(|model| model.stage.schedules_in_epochs(&experiment.teachers));
    let later = |code: Code, origin: Origin| LaterWarning { code, span: origins[origin.0 as usize] };
    let schedules = schedules.map(|(origin, _)| later(Code::UnfinishedSchedule, origin));
    // A stage may take more prompts than its data has rows.
    let stages = experiment.models.iter().map(|model| later(Code::DataMismatch, model.origin));
    schedules.chain(stages).collect()
}

fn unused(
    sources: &Sources,
    allow: &Allow,
    named: &str,
    hits: bool,
    error: Option<&Diagnostic>,
    near: Option<(&str, bool)>,
) -> Diagnostic {
    let warning = |message: String| Diagnostic::warning(Code::UnusedAllow, allow.span, message);
    if hits {
        return warning(format!("this `allow({named})` gives no reason, so it silences nothing"))
            .help("write after a colon why the text is right as it is");
    }
    if let Some(error) = error {
        return warning(format!("`{named}` is an error here: errors can't be silenced"))
            .note(error.primary.span, "this must be fixed");
    }
    if !Code::ALL.iter().any(|code| code.name() == named) {
        let diagnostic =
            Diagnostic::warning(Code::UnusedAllow, allow.code, format!("unknown diagnostic code `{named}`"));
        return match near {
            Some((near, true)) => diagnostic.did_you_mean(named, near),
            Some((near, false)) => {
                diagnostic.help(format!("did you mean `{near}`? nothing here gives that warning"))
            }
            None => diagnostic.help("`mopd explain --all` lists them"),
        };
    }
    warning(format!("there is no `{named}` here to silence")).label("covers nothing").fix(
        "remove the comment",
        with_blanks(&sources.file(allow.span.file).text, allow.span),
        "",
    )
}

/// The range of a comment or item with the blanks before it. Where nothing else precedes it on its line, the
/// rest of that line and the line end are included.
pub fn with_blanks(text: &str, comment: Span) -> Span {
    let (start, end) = (comment.start as usize, comment.end as usize);
    let bare = text[..start].trim_end_matches([' ', '\t']).len();
    if bare > 0 && !text[..bare].ends_with('\n') {
        return Span::new(comment.file, bare, end);
    }
    let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    Span::new(comment.file, bare, line_end)
}

/// The edit that silences a warning: a comment on a line of its own above, with a place for the reason.
/// `None` for errors.
pub fn insertion(sources: &Sources, diagnostic: &Diagnostic) -> Option<Fix> {
    if diagnostic.severity == Severity::Error || diagnostic.code == Code::UnusedAllow {
        return None;
    }
    let place = diagnostic.primary.span;
    let before = &sources.file(place.file).text[..place.start as usize];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let rest = &sources.file(place.file).text[line_start..];
    let indent = &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()];
    Some(Fix {
        title: format!("silence `{}` here, for a reason", diagnostic.code.name()),
        span: Span::new(place.file, line_start, line_start),
        replacement: format!("{indent}// allow({}): \n", diagnostic.code.name()),
        applicability: crate::diag::Applicability::Possible,
    })
}

fn allows(id: FileId, file: &SourceFile) -> Vec<Allow> {
    let text = file.text.as_str();
    let mut found: Vec<Allow> = Vec::new();
    // Where the line that the last comment alone on its line covers begins, and where it ends.
    let mut next = 0..0;
    for (at, _) in text.match_indices("allow(") {
        let line_start = text[..at].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].split('\n').next().unwrap_or_default();
        // One per line: a comment runs to the end of its line.
        if found.last().is_none_or(|last| (last.span.start as usize) < line_start) {
            found.extend(allow(id, text, line_start, line, &mut next));
        }
    }
    found
}

fn allow(id: FileId, text: &str, line_start: usize, line: &str, next: &mut Range<usize>) -> Option<Allow> {
    let tokens = lex(line);
    let token = tokens.iter().find(|token| token.is_comment())?;
    let comment = &line[token.start..token.end];
    let inside = comment.strip_prefix("//")?.trim_start().strip_prefix("allow(")?;
    let (code, rest) = inside.split_once(')')?;
    let is_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let reason = rest.strip_prefix(':');
    // `// allow(s) for more` is ordinary text.
    let known = Code::ALL.iter().any(|known| known.name() == code);
    if !is_code || !(known || reason.is_some() || rest.is_empty()) {
        return None;
    }
    let start = line_start + token.start;
    let code_start = start + (comment.len() - inside.len());
    let line_end = line_start + line.len();
    let alone = line[..token.start].trim().is_empty();
    if alone && line_start >= next.start {
        // Otherwise the line is one of the comments above a line that is known already.
        *next = next_line(text, line_end);
    }
    let covers = if alone { line_end..next.end } else { line_start..line_end + 1 };
    Some(Allow {
        span: Span::new(id, start, line_start + token.end),
        code: Span::new(id, code_start, code_start + code.len()),
        covers: covers.start as u32..covers.end as u32,
        has_reason: reason.is_some_and(|reason| !reason.trim().is_empty()),
    })
}

/// The next line that holds more than a comment.
fn next_line(text: &str, from: usize) -> Range<usize> {
    let mut at = (from + 1).min(text.len());
    let mut start = at;
    for line in text[at..].split_inclusive('\n') {
        start = at;
        at += line.len();
        let line = line.trim();
        if !line.is_empty() && !line.starts_with("//") {
            break;
        }
    }
    // An offset at the very end of the text belongs to the last line.
    start..if at == text.len() { at + 1 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Warnings at the beginning of these parts of a text, silenced; what is left, by its message.
    fn left(text: &str, warned: &[(Code, &str)]) -> Vec<String> {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() });
        let warning = |(code, part): &(Code, &str)| {
            let at = text.find(part).expect("a part of the text");
            Diagnostic::warning(*code, Span::new(file, at, at + part.len()), *part)
        };
        let mut diagnostics: Vec<Diagnostic> = warned.iter().map(warning).collect();
        silence(&sources, &mut diagnostics, &[], true);
        diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect()
    }

    const CODE: Code = Code::UnusedDomain;

    #[test]
    fn a_comment_covers_its_line_or_the_one_below() {
        assert_eq!(left("aa bb // allow(unused-domain): yes\ncc\n", &[(CODE, "bb"), (CODE, "cc")]), ["cc"]);
        assert_eq!(
            left("aa\n// allow(unused-domain): yes\nbb\ncc\n", &[(CODE, "aa"), (CODE, "bb"), (CODE, "cc")]),
            ["aa", "cc"]
        );
        let stacked = "  // allow(unused-domain): yes\n  // allow(unused-teacher): no\n\n  /// Of aa.\n  aa";
        assert_eq!(left(stacked, &[(CODE, "aa"), (Code::UnusedTeacher, "aa")]), [""; 0]);
        // At the very end of the text.
        assert_eq!(left("// allow(unused-domain): é\naa", &[(CODE, "aa")]), [""; 0]);
    }

    #[test]
    fn another_code_is_not_covered() {
        let found = left("// allow(unused-teacher): yes\naa\n", &[(CODE, "aa")]);
        assert_eq!(found, ["aa", "there is no `unused-teacher` here to silence"]);
    }

    #[test]
    fn allow_comment_needs_a_reason() {
        for comment in
            ["// allow(unused-domain)", "// allow(unused-domain): ", "// allow(unused-domain) but why"]
        {
            let found = left(&format!("{comment}\naa\n"), &[(CODE, "aa")]);
            assert_eq!(
                found,
                ["aa", "this `allow(unused-domain)` gives no reason, so it silences nothing"],
                "{comment}"
            );
        }
    }

    #[test]
    fn allow_comment_does_not_silence_errors() {
        let text = "aa // allow(syntax): é\n";
        let mut sources = Sources::default();
        let file = sources.add(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() });
        let mut diagnostics = vec![Diagnostic::error(Code::Syntax, Span::new(file, 0, 2), "wrong")];
        silence(&sources, &mut diagnostics, &[], true);
        let messages: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(messages, ["wrong", "`syntax` is an error here: errors can't be silenced"]);
        assert_eq!(insertion(&sources, &diagnostics[0]), None);
    }

    #[test]
    fn the_inserted_comment_silences_once_a_reason_is_written() {
        let text = "model a {\n  é = bb\n}\n";
        let mut sources = Sources::default();
        let file = sources.add(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() });
        let at = text.find("bb").expect("it is there");
        let fix = insertion(&sources, &Diagnostic::warning(CODE, Span::new(file, at, at + 2), "bb"))
            .expect("a warning");
        let mut edited = text.to_owned();
        edited.replace_range(fix.span.start as usize..fix.span.end as usize, &fix.replacement);
        assert_eq!(edited, "model a {\n  // allow(unused-domain): \n  é = bb\n}\n");
        assert_eq!(left(&edited, &[(CODE, "bb")]).len(), 2);
        assert_eq!(left(&edited.replace("): ", "): meant"), &[(CODE, "bb")]), [""; 0]);
    }
}
