//! Templates: texts with slots, for what a teacher is shown, or for the rewriting of completions.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, Reported, nearest};
use crate::source::{FileId, Sources, Span};
use crate::syntax::ast::{Argument, Expr, ExprKind, ItemKind, Name};
use crate::syntax::{parse, quotes};
use mopd_experiment::formula::{Axis, Role, Unit};
use mopd_experiment::{GroupMember, Slot, Template, TemplatePiece};

use crate::check::builtins::reserved::SLOTS;
use crate::check::builtins::vocabulary;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::formulas::schedules;
use crate::check::names::callable::Callable;
use crate::check::names::modules::{ModuleId, Modules, path_of_text};
use crate::check::read::{arguments, expected, numbers, reads};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::teachers::slots;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    Template => |checker, given, env| template_value(checker, given.expr, env);
}

/// The use of a text, which decides which slots it may have.
#[derive(Clone, Copy, PartialEq)]
enum TemplateUse {
    /// A prompt.
    Shown,
    /// The left side of a `rewrite`.
    Found,
    /// The right side of a `rewrite`.
    Written,
}

/// A piece of a text as it is written in the source.
pub enum TextSegment {
    Text(String),
    /// The expression between two braces.
    Slot(Span),
}

const MEMBERS: [(&str, GroupMember); 3] =
    [("correct", GroupMember::Correct), ("wrong", GroupMember::Wrong), ("other", GroupMember::Other)];

pub fn template_item(checker: &mut Checker, name: &Name, text: &Expr, env: &Env) -> Value {
    let Some(pieces) = pieces(checker, text, TemplateUse::Shown, env) else { return Value::Error };
    slots::warn_of_odd_texts(checker, &pieces, text.span);
    let origin = checker.origin(name.span);
    Value::Template(Rc::new(Template { name: name.text.clone(), pieces, origin }))
}

/// A template, as a call or a name.
pub fn template_value(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Rc<Template>> {
    match checker.evaluate(expr, env) {
        Value::Template(template) => Some(template),
        Value::Item { item, kind: Callable::Template } => {
            match checker.call_item(item, expr.span, &[], env) {
                Value::Template(template) => Some(template),
                _ => None,
            }
        }
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "expected a template: `template shown = \"{prompt}\\n\\n{hint}\"`",
                &other,
            );
            None
        }
    }
}

/// `"Confidence: {_}" -> "Confidence: {mean(correct, over: group)}"`
pub fn rewrite(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<(Rc<Template>, Rc<Template>)> {
    let ExprKind::Arrow { from, to } = &expr.kind else {
        let value = checker.evaluate(expr, env);
        expected::wrong_kind(
            checker,
            expr.span,
            "`rewrite` needs two texts: `rewrite(\"before {_}\" -> \"after {expression}\")`",
            &value,
        );
        return None;
    };
    let left = pieces(checker, from, TemplateUse::Found, env);
    let right = pieces(checker, to, TemplateUse::Written, env);
    let left = left?;
    if !left.iter().any(|piece| matches!(piece, TemplatePiece::Text(_))) {
        checker.report(
            Diagnostic::error(
                Code::TemplateSlot,
                from.span,
                "the left of a `rewrite` must say which text is looked for",
            )
            .help("for example `\"Confidence: {_}\"`"),
        );
        return None;
    }
    let origin = checker.origin(expr.span);
    let template = |pieces| Rc::new(Template { name: "rewrite".into(), pieces, origin });
    Some((template(left), template(right?)))
}

fn pieces(checker: &mut Checker, expr: &Expr, purpose: TemplateUse, env: &Env) -> Option<Vec<TemplatePiece>> {
    let Some(written) = WrittenText::new(&checker.sources, &checker.modules, env.module, expr) else {
        // A file that could not be read has been reported.
        if !matches!(expr.kind, ExprKind::Error) && path_of_text(expr).is_none() {
            let value = checker.evaluate(expr, env);
            let text = "the text of a template is written where it is declared, in quotes, or is that of a `file(...)`";
            checker.report(
                Diagnostic::error(Code::TypeMismatch, expr.span, text)
                    .label(format!("this is {}", value.describe())),
            );
        }
        return None;
    };
    let stretches = match written.stretches() {
        Ok(stretches) => stretches,
        Err(diagnostic) => {
            checker.report(*diagnostic);
            return None;
        }
    };
    let mut pieces = Vec::new();
    let mut good = true;
    for stretch in stretches {
        match stretch {
            TextSegment::Text(text) => pieces.push(TemplatePiece::Text(text)),
            TextSegment::Slot(span) => match slot(checker, span, purpose, env) {
                Some(piece) => pieces.push(piece),
                None => good = false,
            },
        }
    }
    good.then_some(pieces)
}

fn slot(checker: &mut Checker, span: Span, purpose: TemplateUse, env: &Env) -> Option<TemplatePiece> {
    let inside = checker.sources.text(span).to_owned();
    if inside.trim() == "_" {
        if purpose == TemplateUse::Found {
            return Some(TemplatePiece::Anything);
        }
        checker.report(
            Diagnostic::error(Code::TemplateSlot, span, "`{_}` stands for any text, and here a text is made")
                .help(
                    "it belongs on the left of a `rewrite`: `rewrite(\"before {_}\" -> \"after \
                 {expression}\")`",
                ),
        );
        return None;
    }
    if purpose == TemplateUse::Found {
        checker.report(
            Diagnostic::error(Code::TemplateSlot, span, "the left of a `rewrite` is looked for as it stands")
                .label("nothing is filled in here")
                .help("write `{_}` for whatever stands there"),
        );
        return None;
    }
    if let Some(diagnostic) = slots::of_another_language(span, &inside) {
        checker.report(diagnostic);
        return None;
    }
    let expr = read_slot_expression(checker, span, &inside)?;
    if let Some(diagnostic) = slots::without_its_share(&expr, span) {
        checker.report(diagnostic);
        return None;
    }
    if let Some((name, slot, share)) = slots::part_of_slot(&expr) {
        return read_part_of_slot(checker, name == "first", slot, share, env);
    }
    if let Some(slot) = slot_of(checker, &expr, purpose, env).ok()? {
        return Some(slot);
    }
    let value = checker.evaluate(&expr, &env.with_context(EvaluationContext::Objective));
    let formula = expected::formula(checker, value, span)?;
    if formula.axis() > Axis::Sequence || formula.unit() == Unit::Bool {
        let text = "one number per completion can be written into it";
        checker.report(
            Diagnostic::error(Code::AxisMismatch, span, text)
                .label(format!("this is {} per {}", formula.unit().name(), formula.axis().name()))
                .help("reduce first: `mean(..., over: sequence)`"),
        );
        return None;
    }
    Some(TemplatePiece::Number(formula))
}

fn read_slot_expression(reporter: &mut Reporter, span: Span, inside: &str) -> Option<Expr> {
    let (expr, diagnostics) = slot_expression(span, inside);
    for mut diagnostic in diagnostics {
        diagnostic.code = Code::TemplateSlot;
        // A fix would edit the padded text.
        diagnostic.fix = None;
        reporter.report(diagnostic);
    }
    expr
}

/// `first(solution, exposure)`
fn read_part_of_slot(
    checker: &mut Checker,
    first: bool,
    slot: &Argument,
    share: &Argument,
    env: &Env,
) -> Option<TemplatePiece> {
    let piece = slot_of(checker, &slot.value, TemplateUse::Shown, env).ok()?;
    let share = schedules::share(checker, &share.value, "the share that is shown", env);
    let Some(TemplatePiece::Slot(slot_value)) = piece else {
        checker.report(
            Diagnostic::error(
                Code::TemplateSlot,
                slot.value.span,
                "a part is taken of a field of the data or of another slot",
            )
            .help("for example `{first(solution, 0.5)}`"),
        );
        return None;
    };
    let share = share?;
    Some(if first {
        TemplatePiece::First { slot: slot_value, share }
    } else {
        TemplatePiece::Last { slot: slot_value, share }
    })
}

/// A slot, or several combined. `None` where it is no slot.
fn slot_of(
    checker: &mut Checker,
    expr: &Expr,
    purpose: TemplateUse,
    env: &Env,
) -> Result<Option<TemplatePiece>, Reported> {
    let ExprKind::Call { callee, arguments, block: None } = &expr.kind else {
        return named_slot(checker, expr, purpose, env);
    };
    let ExprKind::Name(name) = &callee.kind else { return Ok(None) };
    match name.as_str() {
        "shuffled" => {
            let slots: Option<Vec<Slot>> =
                arguments.iter().map(|argument| inner_slot(checker, &argument.value, env)).collect();
            let slots = slots.ok_or(Reported)?;
            if slots.len() < 2 {
                checker.report(
                    Diagnostic::error(Code::TemplateSlot, expr.span, "an order needs at least two things")
                        .help("for example `{shuffled(group.correct, group.wrong)}`"),
                );
                return Err(Reported);
            }
            Ok(Some(TemplatePiece::Slot(Slot::Shuffled(slots))))
        }
        "short" => {
            let slots = arguments::slots(checker, "short", &["slot", "by", "max_tokens"], arguments, None);
            let [Some(slot), Some(by), Some(max_tokens)] = slots.given.as_slice() else {
                checker.report(
                    Diagnostic::error(
                        Code::TemplateSlot,
                        expr.span,
                        "`short` needs a slot, who shortens it, and to what length",
                    )
                    .help("for example `{short(group.wrong, by: guide, max_tokens: 512)}`"),
                );
                return Err(Reported);
            };
            if !slots.misplaced.is_empty() {
                return Err(Reported);
            }
            let inner = inner_slot(checker, slot, env);
            let writer = checker.evaluate(by, env);
            let writer =
                roles::teacher_role(checker, writer, by.span, env, "a text is shortened by a teacher");
            let max_tokens = numbers::count(checker, max_tokens, "max_tokens", env, 1);
            let (Some(inner), Some(by), Some(max_tokens)) = (inner, writer, max_tokens) else {
                return Err(Reported);
            };
            let slot = Box::new(inner);
            Ok(Some(TemplatePiece::Slot(Slot::Shortened { slot, by, max_tokens })))
        }
        _ => Ok(None),
    }
}

/// Warns of a field that looks like a typo of another slot's name. Whether the data has the field is
/// known only in the run.
fn warn_of_near_slot(reporter: &mut Reporter, field: &str, span: Span) {
    if let Some(near) = nearest(field, SLOTS) {
        reporter.report(
            Diagnostic::warning(
                Code::TemplateSlot,
                span,
                format!("`{{{field}}}` is a field of the data, and nearly `{{{near}}}`"),
            )
            .help(format!("did you mean `{near}`? For the field write `{{data.{field}}}`"))
            .replace_with(format!("change to `{near}`"), near),
        );
    }
}

/// A slot in a place where only a slot is allowed.
fn inner_slot(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Slot> {
    match slot_of(checker, expr, TemplateUse::Shown, env).ok()? {
        Some(TemplatePiece::Slot(slot)) => Some(slot),
        _ => {
            checker.report(
                Diagnostic::error(Code::TemplateSlot, expr.span, "expected a slot")
                    .help("a field of the data, `prompt`, `draft`, `group.correct`, `group.wrong`, ..."),
            );
            None
        }
    }
}

/// A slot that is a name. `None` where it is no slot.
fn named_slot(
    declarations: &mut Declarations,
    expr: &Expr,
    purpose: TemplateUse,
    env: &Env,
) -> Result<Option<TemplatePiece>, Reported> {
    match &expr.kind {
        ExprKind::Name(name) => {
            match env.local(name) {
                Some(Value::Text(text)) => return Ok(Some(TemplatePiece::Text(text.clone()))),
                Some(Value::Error) => return Err(Reported),
                Some(_) => return Ok(None),
                None => {}
            }
            Ok(Some(TemplatePiece::Slot(match name.as_str() {
                "prompt" => Slot::Prompt,
                "completion" => Slot::Completion,
                "draft" => Slot::Draft,
                "transcript" => Slot::Transcript,
                "feedback" => Slot::Feedback,
                _ if purpose == TemplateUse::Written && vocabulary::signal(name).is_some() => {
                    return Ok(None);
                }
                // Whether the data has the field is known only when it is read.
                field => {
                    warn_of_near_slot(declarations, field, expr.span);
                    Slot::Data(field.to_owned())
                }
            })))
        }
        ExprKind::Field { base, field } => match &base.kind {
            ExprKind::Name(name) if env.local(name).is_none() && name == "group" => {
                group_member(declarations, field, "group")
                    .map(|member| Some(TemplatePiece::Slot(Slot::Group(member))))
                    .ok_or(Reported)
            }
            ExprKind::Name(name) if env.local(name).is_none() && name == "data" => {
                Ok(Some(TemplatePiece::Slot(Slot::Data(field.text.clone()))))
            }
            ExprKind::Name(name) => {
                let by = match env.local(name) {
                    Some(Value::Teacher(teacher)) => Role::Named {
                        teacher: *teacher,
                        name: declarations.parts.teacher(*teacher).name.as_str().into(),
                    },
                    Some(Value::Role(role)) => role.clone(),
                    _ => return Ok(None),
                };
                // Numbers of the student's tokens are not slots. The outputs of panel members are texts.
                if !MEMBERS.iter().any(|(word, _)| *word == field.text) {
                    return Ok(None);
                }
                group_member(declarations, field, name)
                    .map(|member| Some(TemplatePiece::Slot(Slot::Answer { by, member })))
                    .ok_or(Reported)
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn group_member(reporter: &mut Reporter, field: &Name, of: &str) -> Option<GroupMember> {
    if let Some((_, member)) = MEMBERS.iter().find(|(word, _)| *word == field.text) {
        return Some(*member);
    }
    let diagnostic =
        Diagnostic::error(Code::TemplateSlot, field.span, format!("`{of}` has no member `{}`", field.text));
    reporter.report(match nearest(&field.text, MEMBERS.iter().map(|(word, _)| *word)) {
        Some(near) => diagnostic.did_you_mean(&field.text, near),
        None => diagnostic.help(format!("it has: `{of}.correct`, `{of}.wrong`, `{of}.other`")),
    });
    None
}

/// The text of a template as it is written, in quotes or in a file of its own: every slot has its place.
pub struct WrittenText {
    file: FileId,
    /// With their offsets in the file.
    characters: Vec<(usize, char)>,
    /// Whether `\n` and its like are escapes.
    escapes: bool,
}

impl WrittenText {
    /// `None` where this is no text, or a file that could not be read.
    pub fn new(sources: &Sources, modules: &Modules, module: ModuleId, text: &Expr) -> Option<WrittenText> {
        let span = text.span;
        if matches!(text.kind, ExprKind::Text(_)) {
            let written = quotes::inside(sources.text(span)).into_iter();
            let characters = written.map(|(at, character)| (span.start as usize + at, character)).collect();
            return Some(WrittenText { file: span.file, characters, escapes: true });
        }
        let file = modules.text_of(module, text)?;
        let whole = &sources.file(file).text;
        let trimmed = whole.strip_suffix('\n').unwrap_or(whole);
        // Line breaks are those of Unix, as in quotes.
        let characters = trimmed.char_indices().filter(|(_, character)| *character != '\r').collect();
        Some(WrittenText { file, characters, escapes: false })
    }

    /// The texts and slots.
    pub fn stretches(&self) -> Result<Vec<TextSegment>, Box<Diagnostic>> {
        let mut stretches = Vec::new();
        let mut text = String::new();
        let place = |start: usize, end: usize| Span::new(self.file, start, end);
        let mut characters = self.characters.iter().copied().peekable();
        while let Some((start, character)) = characters.next() {
            match character {
                '\\' if self.escapes => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    // The line goes on.
                    Some((_, '\n')) | None => {}
                    Some((_, other)) => text.push(other),
                },
                '{' | '}' if characters.peek().is_some_and(|(_, next)| *next == character) => {
                    characters.next();
                    text.push(character);
                }
                '{' => {
                    let mut rest = characters.clone();
                    let Some((end, _)) =
                        rest.find(|(_, c)| matches!(c, '{' | '}' | '\n')).filter(|(_, c)| *c == '}')
                    else {
                        let diagnostic = Diagnostic::error(
                            Code::TemplateSlot,
                            place(start, start + 1),
                            "this brace is never closed",
                        );
                        return Err(Box::new(
                            diagnostic.help("a slot is `{prompt}`; for a brace itself write `{{`"),
                        ));
                    };
                    characters = rest;
                    if !text.is_empty() {
                        stretches.push(TextSegment::Text(std::mem::take(&mut text)));
                    }
                    stretches.push(TextSegment::Slot(place(start + 1, end)));
                }
                '}' => {
                    let diagnostic = Diagnostic::error(
                        Code::TemplateSlot,
                        place(start, start + 1),
                        "this brace closes nothing",
                    );
                    return Err(Box::new(
                        diagnostic.help("a slot is `{prompt}`; for a brace itself write `}}`"),
                    ));
                }
                other => text.push(other),
            }
        }
        if !text.is_empty() {
            stretches.push(TextSegment::Text(text));
        }
        Ok(stretches)
    }
}

/// Parses the expression between braces, at its own place in the file.
pub fn slot_expression(span: Span, inside: &str) -> (Option<Expr>, Vec<Diagnostic>) {
    const HEAD: &str = "\nlet slot = ";
    let padding = " ".repeat((span.start as usize).saturating_sub(HEAD.len()));
    let (tree, diagnostics) = parse(span.file, &format!("{padding}{HEAD}{inside}\n"));
    let expr = match tree.items.as_slice() {
        [item] if diagnostics.is_empty() => match &item.kind {
            ItemKind::Let { value, .. } => Some(value.clone()),
            _ => None,
        },
        _ => None,
    };
    (expr, diagnostics)
}
