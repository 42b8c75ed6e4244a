//! Findings of the members of a family: one that only some of them have names them.

use crate::diag::{Code, Label};
use crate::source::Span;
use crate::syntax::ast::{ExprKind, Index};

use crate::check::reporter::Reporter;

#[derive(Default)]
pub struct MemberFindings {
    /// The members so far.
    names: Vec<String>,
    /// What was found, and the positions of the members that have it.
    found: Vec<((Code, Span), Vec<usize>)>,
}

impl MemberFindings {
    /// Adds the next member with what was found in it.
    pub fn add(&mut self, name: &str, heard: &[(Code, Span)]) {
        let member = self.names.len();
        self.names.push(name.to_owned());
        for finding in heard {
            match self.found.iter_mut().find(|(known, _)| known == finding) {
                Some((_, members)) if members.last() == Some(&member) => {}
                Some((_, members)) => members.push(member),
                None => self.found.push((*finding, vec![member])),
            }
        }
    }

    /// Notes, beside each finding that not all members have, the first one that has it.
    pub fn name_members(self, reporter: &mut Reporter, index: &Index) {
        for ((code, span), members) in self.found {
            if members.len() == self.names.len() {
                continue;
            }
            let (first, others) = (members[0], members.len() - 1);
            let span_of_first = match &index.over.kind {
                ExprKind::NamedValues(values) => values.get(first).map(|named| named.name.span),
                ExprKind::List(items) => items.get(first).map(|item| item.span),
                _ => None,
            };
            let name = &self.names[first];
            let text = match others {
                0 => format!("in `{name}`"),
                _ => format!("in `{name}`, and in {others} more of {} members", self.names.len()),
            };
            let note = Label { span: span_of_first.unwrap_or(index.over.span), text };
            reporter.diagnostics.annotate(code, span, name, &note);
        }
    }
}
