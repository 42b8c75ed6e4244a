//! Blames the caller for bad values: a diagnostic in the body of a library's objective or stage is reported
//! at the argument that the value comes from, with a note at the place in the body.

use crate::diag::{Code, Diagnostic, Label};
use crate::source::{Span, Spanned};

use crate::check::reporter::Reporter;

/// A call whose body is being evaluated.
pub struct Frame {
    /// The name of the callee.
    pub name: String,
    /// The span of the item that declares it.
    pub body: Span,
    /// The parameters with the spans of the caller's arguments.
    pub given: Vec<Spanned<String>>,
}

/// Whether a diagnostic is about a value, not about a name.
fn of_a_value(code: Code) -> bool {
    matches!(
        code,
        Code::OutOfRange | Code::TypeMismatch | Code::UnitMismatch | Code::UnknownValue | Code::ScheduleRange
    )
}

impl Reporter {
    /// Moves a diagnostic to the outermost argument that its value comes from.
    pub fn at_the_call(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if !of_a_value(diagnostic.code) {
            return diagnostic;
        }
        for frame in self.frames.iter().rev() {
            let place = diagnostic.primary.span;
            let inside = place.file == frame.body.file
                && frame.body.start <= place.start
                && place.end <= frame.body.end;
            if !inside {
                break;
            }
            let text = self.sources.text(place);
            let Some(argument) = frame.given.iter().find(|given| mentions(text, &given.value)) else {
                break;
            };
            diagnostic
                .related
                .insert(0, Label { span: place, text: format!("read here, in `{}`", frame.name) });
            diagnostic.primary.span = argument.span;
            // A fix in the body does not help the caller.
            diagnostic.fix = None;
            diagnostic.choices.clear();
        }
        diagnostic
    }

    /// Removes diagnostics reported at calls that equal this one: since it occurs without a call, the body is
    /// at fault.
    pub fn forget_at_calls(&mut self, diagnostic: &Diagnostic) {
        let Diagnostic { code, message, primary, .. } = diagnostic;
        self.diagnostics.remove_beside(*code, message, primary.span);
    }
}

/// Whether a name occurs in a text as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
}
