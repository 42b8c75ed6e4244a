//! Diagnostics for imports as other languages write them.

use super::build::CatchAllRule;
use super::unparsed::Unparsed;
use crate::diag::Diagnostic;
use crate::syntax::words::{self, split_word};

/// Whether a statement imports a library of Python.
pub(super) fn is_of_python(statement: &str) -> bool {
    const LIBRARIES: [&str; 20] = [
        "accelerate",
        "argparse",
        "dataclasses",
        "datasets",
        "functools",
        "jax",
        "json",
        "math",
        "numpy",
        "os",
        "peft",
        "random",
        "re",
        "sys",
        "torch",
        "transformers",
        "trl",
        "typing",
        "verl",
        "vllm",
    ];
    let (first, rest) = split_word(statement);
    matches!(first, "import" | "from") && LIBRARIES.contains(&split_word(rest).0)
}

/// `use std.opd.mopd` for `import std.opd.mopd` and `from std.opd import mopd`.
pub(super) fn imported(word: &str, rest: &str) -> Option<String> {
    let is_path = |path: &str| {
        !path.is_empty() && path.split('.').all(|part| !part.is_empty() && part.chars().all(words::is_word))
    };
    let rest = rest.trim();
    if word == "import" {
        let dots = if rest.starts_with("std.") { 2 } else { 1 };
        return (is_path(rest) && rest.matches('.').count() >= dots).then(|| format!("use {rest}"));
    }
    let (module, names) = rest.split_once(" import ")?;
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let sound = word == "from"
        && is_path(module.trim())
        && names.iter().all(|name| is_path(name) && !name.contains('.'));
    let module = module.trim();
    sound.then(|| match names.as_slice() {
        [name] => format!("use {module}.{name}"),
        names => format!("use {module}.{{{}}}", names.join(", ")),
    })
}

/// The text after `use` in an import.
fn import<'a>(unparsed: &Unparsed<'a, '_>) -> Option<&'a str> {
    let (first, rest) = unparsed.first();
    (first == "use" && unparsed.kind == CatchAllRule::Item).then_some(rest)
}

/// `use std.opd.*`
pub(super) fn import_of_all(unparsed: &Unparsed) -> Option<Diagnostic> {
    import(unparsed)?;
    let star = unparsed.slice.find('*')?;
    let module = unparsed.slice[..star].trim_end();
    Some(
        unparsed
            .foreign(star, 1, "an import takes names one by one: there is no `*`")
            .help(format!("list them: `{module}{{first, second}}`")),
    )
}

/// `use std.opd.[a, b]`, `use std.opd.a, std.opd.b`
pub(super) fn import_of_several(unparsed: &Unparsed) -> Option<Diagnostic> {
    import(unparsed)?;
    let (stuck, at) = (unparsed.stuck(), unparsed.at);
    if stuck.starts_with(',') {
        let message = "an import is of one module, and a comma names another";
        let help =
            "write a `use` for each module: `use std.opd.mopd`, and on the next line `use std.kl_penalty.k1`";
        return Some(unparsed.foreign(at, 1, message).help(help));
    }
    let close = match stuck.chars().next() {
        Some('[') => ']',
        Some('(') => ')',
        _ => return None,
    };
    if let Some(rest) = stuck.strip_prefix('(')
        && let Some(length) = rest.find(')').filter(|length| rest[..*length].trim().is_empty())
    {
        let message = "an import is a name, without parentheses: `(`";
        return Some(unparsed.foreign(at, 1, message).fix(
            "remove the parentheses",
            unparsed.span(at, length + 2),
            "",
        ));
    }
    let diagnostic = unparsed.foreign(at, 1, "the names of an import stand in braces");
    Some(match stuck.find(close) {
        Some(end) => {
            let ours = format!("{{{}}}", &stuck[1..end]);
            diagnostic.fix(format!("write `{ours}`"), unparsed.span(at, end + 1), ours)
        }
        None => diagnostic.help("for example `use std.baselines.{mix_rl, cascade_rl}`"),
    })
}

/// `use std.opd.mopd as base`
pub(super) fn import_by_another_name(unparsed: &Unparsed) -> Option<Diagnostic> {
    import(unparsed)?;
    let alias = unparsed.slice.find(" as ")?;
    let import = unparsed.slice[..alias].trim_end();
    Some(
        unparsed
            .foreign(alias + 1, "as".len(), "an import keeps its name: there is no `as`")
            .help(format!("write `{import}`, and use that name")),
    )
}
