//! Settings written among the arguments of a call, as in Python.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::Argument;

use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::Call;
use crate::check::reporter::Reporter;

/// Reports an argument that is a setting of the call's block. Returns whether it is one.
pub fn setting_as_argument(reporter: &mut Reporter, call: Call<'_>, argument: &Argument) -> bool {
    let builtin = call.builtin;
    let Some(name) = &argument.name else { return false };
    let (BuiltinKind::Constructor(_), Some((_, settings))) = (builtin.kind, builtin.usage.split_once('{'))
    else {
        return false;
    };
    let is_setting = |name: &str| {
        settings.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|setting| setting == name)
    };
    if !is_setting(&name.text) {
        return false;
    }
    let text = format!("`{}` is a setting of `{}`, not an argument", name.text, builtin.name);
    let diagnostic = Diagnostic::error(Code::UnknownArgument, name.span, text)
        .label("settings stand in the block")
        .help(format!("in braces, with `=`: `{}`", builtin.usage));
    let written = |argument: &Argument| {
        let name = argument.name.as_ref().filter(|name| is_setting(&name.text))?;
        Some(format!("{} = {}", name.text, reporter.sources.text(argument.value.span)))
    };
    let block = call.arguments.iter().map(written).collect::<Option<Vec<String>>>();
    // The fix is offered only if the parentheses hold nothing else and nothing else follows the name.
    let whole = reporter.sources.text(call.span);
    let open = whole.find('(').filter(|_| call.block.is_none() && whole.ends_with(')'));
    let Some((settings, open)) = block.zip(open) else {
        reporter.report(diagnostic);
        return true;
    };
    let diagnostic = diagnostic.fix(
        "write them in braces",
        Span { start: call.span.start + open as u32, ..call.span },
        format!(" {{ {} }}", settings.join(", ")),
    );
    // These are arguments of the loss of this name, which may lack its `live`.
    let of_loss = matches!(name.text.as_str(), "chosen" | "rejected");
    reporter.report(if of_loss { diagnostic.possibly() } else { diagnostic });
    true
}
