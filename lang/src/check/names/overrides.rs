//! `--set name=value`: values from outside.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::SourceFile;
use crate::syntax::ast::ItemKind;
use crate::syntax::parse;

use crate::check::Checker;
use crate::check::names::modules::ModuleId;

impl Checker {
    /// Each value is parsed as an expression in a file of its own, so that mistakes in it
    /// have a place.
    pub(in crate::check) fn apply_overrides(&mut self, entry: ModuleId, overrides: &[(String, String)]) {
        for (name, value) in overrides {
            let text = format!("let {name} = {value}\n");
            let file = self.sources.add(SourceFile { path: format!("--set {name}"), text: text.clone() });
            let (tree, diagnostics) = parse(file, &text);
            let bad = !diagnostics.is_empty();
            for diagnostic in diagnostics {
                self.report(diagnostic);
            }
            let [item] = tree.items.as_slice() else { continue };
            let ItemKind::Let { name: place, value } = &item.kind else { continue };
            if bad {
                continue;
            }
            if name == "seed" {
                let value = self.evaluate_constant(entry, value);
                self.seed = self.whole(&value, item.span, "the seed", 0);
                continue;
            }
            let tree = self.modules.tree(entry);
            let parameters = tree.items.iter().filter_map(|item| match &item.kind {
                ItemKind::Param(parameter) => Some(parameter.name.text.as_str()),
                _ => None,
            });
            let parameters: Vec<&str> = parameters.chain(["seed"]).collect();
            if parameters.contains(&name.as_str()) {
                self.modules.loaded[entry.0 as usize].set.insert(name.clone(), value.clone());
            } else {
                let mut diagnostic = Diagnostic::error(
                    Code::UnknownName,
                    place.span,
                    format!("the experiment has no `param {name}` that could be set"),
                )
                .label(format!("can be set: {}", parameters.join(", ")));
                if let Some(near) = nearest(name, parameters) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                self.report(diagnostic);
            }
        }
    }
}
