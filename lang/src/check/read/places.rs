//! Texts that say where something is: files, folders, repositories.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::quotes::names_in;
use crate::syntax::words::shell_names;

use crate::check::builtins::declare::Call;
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The text, if no `{name}` is left in it that stands for nothing.
pub fn whole(reporter: &mut Reporter, text: String, span: Span, env: &Env) -> Option<String> {
    let of_a_shell = shell_names(&text).find(|name| env.local(name).is_some());
    if let Some(name) = of_a_shell {
        let message = format!("`${name}` in a path is no variable");
        let ours = reporter.sources.text(span).replace(&format!("${name}"), &format!("{{{name}}}"));
        let diagnostic = Diagnostic::error(Code::UnknownName, span, message);
        let diagnostic = diagnostic.help(format!("the value of `{name}` is written `{{{name}}}`"));
        reporter.report(diagnostic.replace_with(format!("write `{{{name}}}`"), ours).possibly());
        return None;
    }
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let Some(left) = names_in(&characters).into_iter().next() else { return Some(text) };
    let name = left.name;
    let message = format!("`{{{name}}}` in a path stands for nothing: `{name}` is no name here");
    let diagnostic = Diagnostic::error(Code::UnknownName, span, message);
    let shown =
        |value: &Value| matches!(value, Value::Text(_) | Value::Domain(_)) || value.number().is_some();
    let mut known: Vec<&str> =
        env.locals.iter().filter(|(_, value)| shown(value)).map(|(name, _)| &**name).collect();
    known.sort_unstable();
    known.dedup();
    // Other braces stay: a name of one letter is a variable, and so is one that is misspelt.
    let near = nearest(&name, known.iter().copied());
    if near.is_none() && name.len() > 1 {
        return Some(text);
    }
    let near = near.or(match known.as_slice() {
        [only] => Some(*only),
        _ => None,
    });
    reporter.report(match (near, known.is_empty()) {
        (Some(near), _) => {
            let ours = reporter.sources.text(span).replace(&format!("{{{name}}}"), &format!("{{{near}}}"));
            diagnostic
                .help(format!("`{{{near}}}` is the value of `{near}`"))
                .replace_with(format!("write `{{{near}}}`"), ours)
                .possibly()
        }
        (None, true) => diagnostic.help(format!(
            "a path has a variable where it is declared for several: `model expert[{name} in domains] = ...`; a \
             value from outside is a `param`"
        )),
        (None, false) => diagnostic.help(format!("names here: {}", known.join(", "))),
    });
    None
}

/// Why a text is no name of a repository or folder: the address of a page, a file of another format, or a
/// name with its revision.
pub fn not_a_repository(name: &str, span: Span, call: Call) -> Option<Diagnostic> {
    let error = |message: &str| Diagnostic::error(Code::OutOfRange, span, message);
    if let Some((_, address)) = name.split_once("://") {
        let path = address.split_once('/').map_or("", |(_, path)| path);
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let diagnostic = error("this is the address of a page, not the name of a model");
        let ours = match (parts.next(), parts.next()) {
            (Some(owner), Some(model)) if address.starts_with("huggingface.co/") => {
                format!("\"{owner}/{model}\"")
            }
            _ => {
                return Some(
                    diagnostic
                        .help("a model of the hub is named by its owner and its name: `hf(\"owner/name\")`"),
                );
            }
        };
        return Some(
            diagnostic.help(format!("write `{ours}`")).replace_with(format!("write `{ours}`"), ours),
        );
    }
    if name.ends_with(".gguf") {
        let diagnostic = error("this is a GGUF file, and `hf` loads folders and repositories");
        let ours = format!("gguf(\"{name}\")");
        let diagnostic = diagnostic.help(format!("write `{ours}`"));
        return Some(match call.arguments.len() {
            1 => diagnostic.fix(format!("write `{ours}`"), call.span, ours),
            _ => diagnostic,
        });
    }
    let (repository, revision) = name.rsplit_once('@')?;
    let named = !repository.is_empty() && !revision.is_empty() && !revision.contains('/');
    let diagnostic = error("the revision stands in the name, behind `@`");
    let help = format!("it is an argument: `hf(\"{repository}\", revision: \"{revision}\")`");
    named.then(|| diagnostic.help(help))
}
