//! Regular expressions.

use crate::diag::{Code, Diagnostic};

use crate::check::builtins::declare::Arg;
use crate::check::builtins::types::Text;
use crate::check::checker::Checker;
use crate::check::read::read;
use crate::check::values::environment::Env;

/// The text of a regular expression.
pub fn checked(checker: &mut Checker, given: Arg<Text>, env: &Env) -> Option<String> {
    let pattern = read(checker, given, env)?;
    let Err(error) = regex_syntax::parse(&pattern) else { return Some(pattern) };
    let cause = match &error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    };
    let text = "this pattern is not a regular expression";
    let diagnostic = Diagnostic::error(Code::OutOfRange, given.expr.span, text);
    let help = "a character that stands for itself is written with `\\\\` before it; look-around and \
                back-references are not supported";
    checker.report(diagnostic.label(cause).help(help));
    None
}
