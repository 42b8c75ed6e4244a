//! The arguments of a call, bound to the parameters of what is called.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Argument, Expr};

use crate::check::builtins::BuiltinParameter;
use crate::check::builtins::declare::Call;
use crate::check::declarations::Declarations;
use crate::check::suggestions::{misplaced, unknown};

/// The arguments of a call, by parameter.
pub struct Slots<'e> {
    pub given: Vec<Option<&'e Expr>>,
    /// Arguments that fit no parameter. They have been reported.
    pub misplaced: Vec<&'e Argument>,
}

/// Assigns arguments to the slots of `names`: by name, or in order to the remaining slots. Reports
/// arguments that fit no slot, or a taken one.
pub fn slots<'e>(
    declarations: &mut Declarations,
    callee: &str,
    names: &[&str],
    arguments: &'e [Argument],
    declared: Option<Span>,
) -> Slots<'e> {
    let mut slots = Slots { given: vec![None; names.len()], misplaced: Vec::new() };
    let named = |name: &str| {
        arguments.iter().filter_map(|argument| argument.name.as_ref()).any(|given| given.text == name)
    };
    // `interleave(top_k: 25, sample(...))`: a slot that is given by name is skipped in the order.
    let mut order = (0..names.len()).filter(|slot| !named(names[*slot]));
    for argument in arguments {
        let slot = match &argument.name {
            Some(name) => names.iter().position(|known| *known == name.text),
            None => order.next(),
        };
        match slot {
            Some(slot) if slots.given[slot].is_none() => slots.given[slot] = Some(&argument.value),
            Some(slot) => {
                let text = format!("`{}` is given twice to `{callee}`", names[slot]);
                declarations.report(Diagnostic::error(Code::DuplicateKey, argument.value.span, text));
                slots.misplaced.push(argument);
            }
            None => {
                let in_order = arguments.iter().filter(|given| given.name.is_none()).count();
                let free: Vec<&str> =
                    names.iter().copied().filter(|name| !named(name)).skip(in_order).collect();
                unknown::unknown_argument(declarations, callee, argument, names, &free, declared);
                slots.misplaced.push(argument);
            }
        }
    }
    slots
}

/// Binds the arguments of a built-in to its parameters, in their order. Reports those that do not fit.
pub fn builtin_arguments<'e>(
    declarations: &mut Declarations,
    call: Call<'e>,
) -> Option<Vec<Option<&'e Expr>>> {
    let Call { builtin, arguments, span, .. } = call;
    if builtin.any_names {
        return Some(Vec::new());
    }
    let unknown = |argument: &&Argument| {
        argument.name.as_ref().is_some_and(|name| builtin.parameter(&name.text).is_none())
    };
    if let Some(setting) = arguments.iter().find(unknown)
        && misplaced::setting_as_argument(declarations, call, setting)
    {
        return None;
    }
    let names: Vec<&str> = builtin.parameters.iter().map(|parameter| parameter.name).collect();
    let Slots { given, misplaced } = slots(declarations, builtin.name, &names, arguments, None);
    if !misplaced.is_empty() {
        return None;
    }
    let missing =
        |(parameter, given): &(&BuiltinParameter, &Option<&Expr>)| parameter.required && given.is_none();
    if let Some((parameter, _)) = builtin.parameters.iter().zip(&given).find(missing) {
        let text = format!("`{}` needs `{}`", builtin.name, parameter.shown());
        declarations.report(
            Diagnostic::error(Code::MissingArgument, span, text).label("not given here").help(builtin.usage),
        );
        return None;
    }
    Some(given)
}
