//! Checks of values that are given for typed parameters.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::Name;
use mopd_experiment::formula::{Axis, DeclaredType, Formula, Role, Unit, is_whole};
use mopd_experiment::{Reward, TeacherWeights};

use crate::check::builtins::vocabulary;
use crate::check::declarations::{Declarations, plain_teachers};
use crate::check::names::callable::Callable;
use crate::check::read::numbers::{self, has_variables};
use crate::check::reporter::Reporter;
use crate::check::suggestions::{foreign, unknown};
use crate::check::values::value::{FamilyMembers, Value};

/// The unit of the numbers of a declared type. `None` for other types.
pub fn unit_of_type(annotation: &str) -> Option<Unit> {
    Some(match annotation {
        "count" => Unit::Count,
        "fraction" => Unit::Fraction,
        "real" | "number" | "schedule" => Unit::Number,
        "nats" => Unit::Nats,
        "ratio" => Unit::Ratio,
        "logp" => Unit::Logp,
        "prob" => Unit::Prob,
        "bool" => Unit::Bool,
        _ => return None,
    })
}

/// A value of a declared type in words: `a number in nats`.
fn described(annotation: &str) -> String {
    let text = match annotation {
        "models" => "models: a family or a list",
        "teachers" => "teachers: a family or a list",
        "objective" => "an objective",
        "eval" => "a benchmark",
        "domains" => "a list of domains",
        "counts" => "a list of whole numbers",
        "count" => "a whole number",
        "real" | "number" => "a number",
        "schedule" => "a number or a schedule",
        "nats" => "a number in nats",
        "logp" => "a log-probability",
        "prob" => "a probability",
        other => return format!("a {other}"),
    };
    text.to_owned()
}

/// Whether a `let` of this type may have a value of this unit. A plain number may be anything; a reward is as
/// `real` as what it is compared with.
fn has_unit(declared: Unit, found: Unit) -> bool {
    match (declared, found) {
        (Unit::Bool, _) | (_, Unit::Bool) => declared == found,
        (_, Unit::Number) => true,
        (Unit::Number, _) => !matches!(found, Unit::Nats | Unit::Logp | Unit::Prob),
        (Unit::Fraction | Unit::Ratio, Unit::Ratio | Unit::Count | Unit::Fraction) => true,
        _ => declared == found,
    }
}

/// The value of a `let`, with the type that is written beside its name.
pub fn as_declared(
    declarations: &mut Declarations,
    value: Value,
    annotation: Option<&Name>,
    span: Span,
) -> Value {
    let Some(annotation) = annotation else { return value };
    if let Value::Family(family) = &value {
        let members = family.members.iter();
        let members = members
            .map(|(key, member)| {
                (key.clone(), as_declared(declarations, member.clone(), Some(annotation), span))
            })
            .collect();
        return Value::Family(Rc::new(FamilyMembers { name: family.name.clone(), members }));
    }
    // `let gap: float = ...`: the type is the unit of the value, whatever another language calls it.
    if let Value::Formula(formula) = &value
        && unit_of_type(&annotation.text).is_none()
        && foreign::type_name(&annotation.text).is_some()
    {
        let unit = formula.unit().name();
        let text = format!("there is no type `{}`", annotation.text);
        let diagnostic = Diagnostic::error(Code::UnknownValue, annotation.span, text);
        declarations.report(match vocabulary::TYPES.iter().any(|known| known.name == unit) {
            true => diagnostic
                .help(format!("the type of this value is `{unit}`; it may be left out"))
                .replace_with(format!("change to `{unit}`"), unit),
            false => diagnostic.help("leave the type out: it follows from the value"),
        });
        return value;
    }
    let (Value::Formula(formula), Some(declared)) = (&value, unit_of_type(&annotation.text)) else {
        return coerce(declarations, value, annotation, span);
    };
    let found = formula.unit();
    if !has_unit(declared, found) {
        let text = format!("the `let` is declared as {}, and its value is not", annotation.text);
        let mut diagnostic = Diagnostic::error(Code::UnitMismatch, span, text)
            .label(format!("this is {}, per {}", found.name(), formula.axis().name()))
            .note(annotation.span, "declared here");
        if vocabulary::TYPES.iter().any(|known| known.name == found.name()) {
            let title = format!("declare it as `{}`", found.name());
            diagnostic = diagnostic.choice(title, annotation.span, found.name());
        }
        declarations.report(diagnostic);
        return Value::Error;
    }
    // `real` is any number, so it changes no unit.
    if declared == Unit::Number { value } else { coerce(declarations, value, annotation, span) }
}

/// Checks a value given for a parameter with a type, and converts it.
pub fn coerce(declarations: &mut Declarations, value: Value, annotation: &Name, span: Span) -> Value {
    let wanted = annotation.text.as_str();
    let types = || vocabulary::TYPES.iter().map(|word| word.name);
    if !types().any(|known| known == wanted) {
        let diagnostic =
            Diagnostic::error(Code::UnknownValue, annotation.span, format!("there is no type `{wanted}`"));
        declarations.report(match foreign::type_name(wanted).or_else(|| nearest(wanted, types())) {
            Some(near) if foreign::type_name(wanted).is_some() => diagnostic
                .help(format!("here it is called `{near}`"))
                .replace_with(format!("change to `{near}`"), near),
            Some(near) => diagnostic.did_you_mean(wanted, near),
            None => diagnostic.help(format!("types: {}", types().collect::<Vec<_>>().join(", "))),
        });
        return value;
    }
    let fits = match (&value, wanted) {
        (Value::Error, _) => true,
        (Value::Model(_), "model")
        | (Value::Text(_), "text")
        | (Value::Reward(_), "reward")
        | (Value::Text(_) | Value::Reward(Reward::Python { .. }), "environment")
        | (Value::Domain(_), "domain")
        | (Value::Panel(_), "panel")
        | (Value::Teacher(_), "teacher")
        | (Value::Rollout(_), "rollout")
        | (Value::Settings(_), "settings")
        | (Value::Template(_), "template") => true,
        (Value::Role(Role::Teacher | Role::Named { .. }), "teacher") => true,
        // A model that is trained beside this one is a teacher value with its role.
        (Value::Teacher(id), "model")
            if matches!(declarations.parts.teacher(*id).weights, TeacherWeights::Trained { .. }) =>
        {
            true
        }
        // The length of a stage may be in epochs; every other count must be a number.
        (Value::Epochs(_), "count") | (Value::Benchmark(_), "eval") => true,
        (Value::List(values), "counts") => {
            let counts: Vec<_> = values
                .iter()
                .map(|value| numbers::whole(declarations, value, span, "every element", 0))
                .collect();
            if counts.iter().any(Option::is_none) {
                return Value::Error;
            }
            true
        }
        // An item whose parameters all have defaults may stand for its value.
        (Value::Item { kind: Callable::Teacher, .. }, "teacher")
        | (Value::Item { kind: Callable::Rollout, .. }, "rollout")
        | (Value::Item { kind: Callable::Template, .. }, "template") => true,
        (Value::Family(_) | Value::List(_), "models") | (Value::List(_), "domains") => true,
        (Value::Family(_) | Value::List(_), "teachers") => {
            return teachers(declarations, value, annotation, span);
        }
        (Value::Objective(_) | Value::Item { kind: Callable::Objective, .. }, "objective") => true,
        (Value::Student(copy), "teacher") => {
            let name = declarations.sources.text(span).to_owned();
            return plain_teachers::student_as_teacher(declarations, &name, *copy, span);
        }
        (Value::Model(_), "teacher") => {
            declarations.report(
                Diagnostic::error(Code::TypeMismatch, span, "expected a teacher")
                    .label("this is a model")
                    .note(annotation.span, "declared here")
                    .help("declare the role first: `teacher name = model`"),
            );
            return Value::Error;
        }
        (Value::Formula(formula), _) => {
            return coerce_number(declarations, formula.clone(), annotation, span);
        }
        _ => false,
    };
    if fits {
        return value;
    }
    // `clip_at: "5"`
    if let (Value::Text(text), Some(_)) = (&value, unit_of_type(wanted)) {
        let number =
            |text: &str| text.parse::<f64>().is_ok() && text.starts_with(|c: char| c.is_ascii_digit());
        let bare = unknown::unquoted(declarations, span, text, number);
        let diagnostic =
            Diagnostic::error(Code::TypeMismatch, span, format!("expected a number of the type `{wanted}`"));
        let diagnostic = diagnostic.label("this is a text").note(annotation.span, "declared here");
        declarations.report(unknown::without_quotes(diagnostic, bare));
        return Value::Error;
    }
    mistyped(declarations, span, annotation, &value.describe())
}

/// The teachers of a family or a list.
fn teachers(declarations: &mut Declarations, value: Value, annotation: &Name, span: Span) -> Value {
    let one = Name { text: "teacher".to_owned(), span: annotation.span };
    let Ok(elements) = value.elements() else { return Value::Error };
    if elements.is_empty() {
        let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "there is no teacher in this list");
        declarations.report(diagnostic.note(annotation.span, "declared here"));
        return Value::Error;
    }
    let mut teachers = Vec::with_capacity(elements.len());
    for element in elements {
        let teacher = match element {
            Value::Teacher(_) | Value::Role(_) | Value::Model(_) | Value::Error => {
                coerce(declarations, element, &one, span)
            }
            other => mistyped(declarations, span, annotation, &format!("a list with {}", other.describe())),
        };
        if teacher.is_error() {
            return Value::Error;
        }
        teachers.push(teacher);
    }
    Value::List(teachers)
}

fn coerce_number(declarations: &mut Declarations, formula: Formula, annotation: &Name, span: Span) -> Value {
    let Some(unit) = unit_of_type(&annotation.text) else {
        return mistyped(declarations, span, annotation, &Value::Formula(formula).describe());
    };
    let found = formula.unit();
    let convertible = found == unit
        || (found == Unit::Number && unit != Unit::Bool)
        || (unit == Unit::Number && found != Unit::Bool)
        || (matches!(unit, Unit::Fraction | Unit::Ratio)
            && matches!(found, Unit::Ratio | Unit::Count | Unit::Fraction));
    if !convertible {
        return mistyped(declarations, span, annotation, found.name());
    }
    let written = declarations.sources.text(span);
    if matches!(unit, Unit::Nats | Unit::Logp) && found == Unit::Number && written.ends_with('%') {
        let text = format!("a share of a hundred is no number of nats: `{written}`");
        let plain = formula.constant().map_or(String::new(), |number| format!(": `{number}`"));
        declarations.report(
            Diagnostic::error(Code::UnitMismatch, span, text)
                .note(annotation.span, "declared here")
                .help(format!("write the number of nats without `%`{plain}")),
        );
        return Value::Error;
    }
    let worth = Value::Formula(formula.clone());
    if unit == Unit::Count && worth.constant().is_some() {
        let Some(_) = numbers::whole(declarations, &worth, span, "a count", 0) else { return Value::Error };
    }
    if unit == Unit::Fraction && worth.constant().is_some() {
        let Some(_) = numbers::fraction(declarations, &worth, span, "a fraction") else {
            return Value::Error;
        };
    }
    if unit == Unit::Prob && worth.constant().is_some() {
        let Some(_) = numbers::fraction(declarations, &worth, span, "a probability") else {
            return Value::Error;
        };
    }
    let moves = formula.axis() == Axis::Run && worth.constant().is_none() && !has_variables(&formula);
    if unit == Unit::Count && moves && !is_whole(&formula) {
        declarations.report(
            Diagnostic::error(Code::TypeMismatch, span, "a count is a whole number at every step")
                .label("this has other values in between")
                .note(annotation.span, "declared here")
                .help("round it, `floor(linear(0 -> 3))`, or declare the parameter as `real`"),
        );
        return Value::Error;
    }
    let node = &formula.0;
    let mut given =
        Formula::new(node.kind.clone(), unit, node.axis, node.live, node.origin).counting(node.counted);
    if let Some(before) = &node.declared {
        given = given.declared(before.clone());
    }
    if let Some(covered) = &node.covered {
        given = given.covering(covered.clone());
    }
    // A number that changes during training is checked once the length of the run is known.
    let bounds = match unit {
        Unit::Fraction | Unit::Prob => Some((0.0, 1.0)),
        Unit::Count => Some((0.0, f64::from(u32::MAX))),
        _ => None,
    };
    if let Some((low, high)) = bounds.filter(|_| given.constant().is_none() && given.axis() == Axis::Run) {
        let parameter = format!("a number given for a `{}`", annotation.text).into();
        given = given.declared(DeclaredType { parameter, low, high });
    }
    Value::Formula(given)
}

pub fn mistyped(reporter: &mut Reporter, span: Span, annotation: &Name, found: &str) -> Value {
    reporter.report(
        Diagnostic::error(Code::TypeMismatch, span, format!("expected {}", described(&annotation.text)))
            .label(format!("this is {found}"))
            .note(annotation.span, "declared here"),
    );
    Value::Error
}
