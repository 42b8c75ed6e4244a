//! Checks of the names that an objective declares.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Entry, ExprKind, ItemKind, Name};

use crate::check::Checker;
use crate::check::builtins::vocabulary;
use crate::check::names::modules::ItemId;
use crate::check::values::evaluate::Env;

impl Checker {
    /// Reports a `let` of an objective whose name already has a meaning there: it must be clear which is
    /// meant.
    pub(in crate::check) fn hides_nothing(&mut self, name: &Name, env: &Env) {
        let diagnostic = if vocabulary::signal(&name.text).is_some() {
            let text = format!("`{}` is what every objective reads under this name", name.text);
            Diagnostic::error(Code::DuplicateName, name.span, text).label("can't be declared again")
        } else if env.local(&name.text).is_some() {
            let text =
                format!("`{}` is a parameter, a `let` or a `state` of this objective already", name.text);
            Diagnostic::error(Code::DuplicateName, name.span, text).label("would hide it from here on")
        } else if let Some(outer) =
            self.modules.lookup(env.module, &name.text).filter(|outer| self.is_read_in_formulas(outer.item))
        {
            let text = format!("`{}` is declared outside this objective already", name.text);
            Diagnostic::error(Code::DuplicateName, name.span, text)
                .label("would hide it from here on")
                .note(outer.span, "declared here")
        } else {
            return;
        };
        self.report(diagnostic.help("choose another name"));
    }

    /// Whether formulas can read an item. Domains, models and the like can't be read: names may repeat.
    fn is_read_in_formulas(&self, id: ItemId) -> bool {
        let kind = &self.modules.item(id).kind;
        matches!(
            kind,
            ItemKind::Let { .. }
                | ItemKind::Param(_)
                | ItemKind::Teacher { .. }
                | ItemKind::Schedule { .. }
                | ItemKind::Fn { .. }
        )
    }

    /// Reports a term named like a parameter or a `let`: the name would stand for two numbers.
    pub(in crate::check) fn is_no_other(&mut self, name: &Name, env: &Env) {
        if env.local(&name.text).is_some() {
            let text = format!(
                "the term `{}` is named like a parameter, a `let` or a `state` of this objective",
                name.text
            );
            let diagnostic =
                Diagnostic::error(Code::DuplicateName, name.span, text).label("the loss is another number");
            self.report(diagnostic.help("give the term another name"));
        }
    }

    pub(in crate::check) fn unknown_of_objective(&mut self, entry: &Entry) {
        if matches!(entry.value.kind, ExprKind::Error) {
            return; // Reported by the parser.
        }
        if self.is_term(entry) {
            let (name, before) = (&entry.key.text, Span { end: entry.key.span.start, ..entry.key.span });
            let text = format!("an objective has no setting `{name}`");
            let diagnostic = Diagnostic::error(Code::UnknownKey, entry.key.span, text)
                .label("a part of the loss is a term");
            self.report(diagnostic.help(format!("write `term {name} = ...`")).fix(
                "write `term`",
                before,
                "term ",
            ));
            return;
        }
        self.unknown_setting(entry, "an objective", vocabulary::OBJECTIVE, &[]);
    }
}
