//! The arguments of a configuration and of its trainer in a Python program, which ruff parses. What literals
//! come to is known, and names that the module gives one value; what a program computes is not.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use ruff_python_ast::token::{TokenKind, Tokens};
use ruff_python_ast::visitor::source_order::{SourceOrderVisitor, TraversalSignal, walk_body};
use ruff_python_ast::{
    AnyNodeRef, ArgOrKeyword, Expr, ExprAttribute, ExprCall, Keyword, Number, Operator, Stmt, StmtClassDef,
    UnaryOp,
};
use ruff_text_size::{Ranged, TextRange};
use serde_json::Value;

use super::given::{GivenPairs, GivenValue, LONGEST_TEXT, MOST_SETTINGS};
use crate::problem::Problem;

const CLASSES: [&str; 3] = ["DistillationConfig", "AsyncDistillationConfig", "GKDConfig"];

/// How far names and expressions are followed: a chain of names ends, or is a circle.
const DEEPEST: usize = 64;

/// How many names and expressions are followed in a file. Each name of a chain may be read several times, so
/// that their number doubles with each of them.
const MOST_STEPS: usize = 20_000;

/// Methods that change a list or a dictionary.
const CHANGES: [&str; 9] =
    ["append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"];

/// The class of the configuration, and what it and its trainer are given.
pub fn arguments(path: &Path, text: &str) -> Result<(String, GivenPairs), Problem> {
    let unreadable = |at: usize, what: &dyn Display| {
        let line = (1 + text[..at].matches('\n').count()).min(text.lines().count());
        let message = format!("cannot parse {} as Python: line {line}: {what}", path.display());
        Problem::usage("wrong-configuration", message).help("`python3 -m py_compile FILE` says more")
    };
    if let Some(at) = too_deep(text) {
        return Err(unreadable(at, &"an expression is nested too deeply"));
    }
    let parsed = ruff_python_parser::parse_module(text)
        .map_err(|fault| unreadable(fault.location.start().to_usize(), &fault.error))?;
    let module = PythonModule::new(text, parsed.tokens(), parsed.suite());
    let call = |class: &str| module.names.calls.iter().find(|call| called(call) == Some(class)).copied();
    let Some((class, config)) = CLASSES.iter().find_map(|class| Some((*class, call(class)?))) else {
        let message = format!("{} makes no configuration that `mopd import` knows", path.display());
        return Err(Problem::usage("unknown-configuration", message)
            .help(format!("it looks for a call of {}", CLASSES.join(", "))));
    };
    let mut settings = module.given(config, &["output_dir"], 0);
    module.set_later(config, &mut settings);
    let trainer = class.replace("Config", "Trainer");
    if let Some(trainer) = call(&trainer) {
        let order: &[&str] =
            if class.starts_with("Async") { &["model", "args"] } else { &["model", "teacher_model", "args"] };
        for (name, value) in module.given(trainer, order, 0) {
            let setting = match name.as_str() {
                // The configuration itself.
                "args" => continue,
                "model" => "model_name_or_path",
                "teacher_model" => "teacher_model_name_or_path",
                other => other,
            };
            // A model that is no name stays what it is, an argument of the trainer.
            let named = matches!(&value, GivenValue::Known(Value::String(_)));
            let setting = if named { setting } else { &name };
            if !settings.iter().any(|(key, _)| key == setting) {
                settings.push((setting.to_owned(), value));
            }
        }
    }
    Ok((class.to_owned(), settings))
}

/// Where more brackets are open than Python itself takes, 200, or where one expression has so many words and
/// signs that its tree may be as deep: a parser calls itself for each.
fn too_deep(text: &str) -> Option<usize> {
    const BRACKETS: usize = 200;
    const WORDS: usize = 5_000;
    let (mut open, mut words, mut inside) = (0usize, 0usize, false);
    text.bytes().position(|byte| {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
        match byte {
            b',' | b';' => words = 0,
            b'\n' if open == 0 => words = 0,
            _ if byte.is_ascii_whitespace() || (is_word && inside) => {}
            _ => words += 1,
        }
        inside = is_word;
        open > BRACKETS || words > WORDS
    })
}

/// What a call calls, without the module that it is in.
fn called(call: &ExprCall) -> Option<&str> {
    match &*call.func {
        Expr::Name(name) => Some(&name.id),
        Expr::Attribute(attribute) => Some(&attribute.attr),
        _ => None,
    }
}

/// What a program does with names.
#[derive(Default)]
struct PythonNames<'t> {
    calls: Vec<&'t ExprCall>,
    classes: HashMap<&'t str, &'t StmtClassDef>,
    /// How often a name gets a value or its value is changed, anywhere.
    times: HashMap<&'t str, usize>,
    objects: Vec<NamedObject<'t>>,
    members: Vec<MemberAssignment<'t>>,
}

/// `args = GKDConfig(...)`
struct NamedObject<'t> {
    name: &'t str,
    call: &'t ExprCall,
}

/// `args.seed = 1`, and `args.seed += 1` without the value.
struct MemberAssignment<'t> {
    member: &'t ExprAttribute,
    statement: TextRange,
    value: Option<&'t Expr>,
}

impl<'t> PythonNames<'t> {
    fn named(&mut self, name: &'t str) {
        *self.times.entry(name).or_default() += 1;
    }

    /// `a.b = 1`, `a["b"] = 1` and `a.update(b=1)` change `a`.
    fn changed(&mut self, object: &'t Expr) {
        match object {
            Expr::Name(name) => self.named(&name.id),
            Expr::Attribute(member) => self.changed(&member.value),
            Expr::Subscript(member) => self.changed(&member.value),
            _ => {}
        }
    }

    fn assigned(&mut self, target: &'t Expr, statement: TextRange, value: Option<&'t Expr>) {
        match (target, value) {
            (Expr::Attribute(member), _) => self.members.push(MemberAssignment { member, statement, value }),
            (Expr::Name(name), Some(Expr::Call(call))) => {
                self.objects.push(NamedObject { name: &name.id, call })
            }
            _ => {}
        }
    }
}

impl<'t> SourceOrderVisitor<'t> for PythonNames<'t> {
    fn enter_node(&mut self, node: AnyNodeRef<'t>) -> TraversalSignal {
        match node {
            AnyNodeRef::ExprCall(call) => {
                self.calls.push(call);
                if let Expr::Attribute(method) = &*call.func
                    && CHANGES.contains(&&*method.attr)
                {
                    self.changed(&method.value);
                }
            }
            AnyNodeRef::StmtAssign(assign) => {
                for target in &assign.targets {
                    self.assigned(target, assign.range, Some(&assign.value));
                }
            }
            AnyNodeRef::StmtAugAssign(assign) => self.assigned(&assign.target, assign.range, None),
            AnyNodeRef::ExprName(name) if !name.ctx.is_load() => self.named(&name.id),
            AnyNodeRef::ExprAttribute(member) if !member.ctx.is_load() => self.changed(&member.value),
            AnyNodeRef::ExprSubscript(member) if !member.ctx.is_load() => self.changed(&member.value),
            AnyNodeRef::Parameter(parameter) => self.named(&parameter.name),
            AnyNodeRef::Alias(alias) => self.named(alias.asname.as_ref().unwrap_or(&alias.name)),
            AnyNodeRef::StmtFunctionDef(function) => self.named(&function.name),
            AnyNodeRef::StmtClassDef(class) => {
                self.named(&class.name);
                self.classes.insert(&class.name, class);
            }
            _ => {}
        }
        TraversalSignal::Traverse
    }
}

struct PythonModule<'t> {
    text: &'t str,
    tokens: &'t Tokens,
    names: PythonNames<'t>,
    /// What the module says at its own level, not in a function, a branch or a loop, that a name is.
    values: HashMap<&'t str, &'t Expr>,
    /// What is left of [`MOST_STEPS`].
    steps: Cell<usize>,
}

impl<'t> PythonModule<'t> {
    fn new(text: &'t str, tokens: &'t Tokens, body: &'t [Stmt]) -> PythonModule<'t> {
        let mut module = PythonModule {
            text,
            tokens,
            names: PythonNames::default(),
            values: HashMap::new(),
            steps: Cell::new(MOST_STEPS),
        };
        walk_body(&mut module.names, body);
        for statement in body {
            match statement {
                Stmt::Assign(assign) => {
                    assign.targets.iter().for_each(|target| module.assigned(target, &assign.value));
                }
                Stmt::AnnAssign(assign) => {
                    assign.value.iter().for_each(|value| module.assigned(&assign.target, value));
                }
                _ => {}
            }
        }
        module
    }

    fn assigned(&mut self, target: &'t Expr, value: &'t Expr) {
        match (target, value) {
            (Expr::Name(name), _) => {
                self.values.insert(&name.id, value);
            }
            (Expr::Tuple(targets), Expr::Tuple(values)) if targets.len() == values.len() => {
                targets.iter().zip(values).for_each(|(target, value)| self.assigned(target, value));
            }
            _ => {}
        }
    }

    /// Whether the program gives a name one value and never changes it.
    fn is_constant(&self, name: &str) -> bool {
        self.names.times.get(name) == Some(&1)
    }

    /// On one line, without comments.
    fn shown(&self, node: impl Ranged) -> String {
        let steps = node.range().len().to_usize() / 64;
        self.steps.set(self.steps.get().saturating_sub(steps));
        let tokens = self.tokens.in_range(node.range()).iter();
        let (mut text, mut from) = (String::new(), node.start());
        for comment in tokens.filter(|token| token.kind() == TokenKind::Comment) {
            text += &self.text[from.to_usize()..comment.start().to_usize()];
            from = comment.end();
        }
        text += &self.text[from.to_usize()..node.end().to_usize()];
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What a call is given; `order` names its first arguments.
    fn given(&self, call: &'t ExprCall, order: &[&str], depth: usize) -> GivenPairs {
        let mut settings = GivenPairs::new();
        for (number, argument) in call.arguments.arguments_source_order().enumerate() {
            let name = match argument {
                ArgOrKeyword::Keyword(Keyword { arg: Some(name), .. }) => name.to_string(),
                ArgOrKeyword::Keyword(keyword) => {
                    settings.extend(self.fields("", &keyword.value, depth).unwrap_or_else(|| {
                        let shown = self.shown(keyword);
                        vec![(shown.clone(), GivenValue::Expression(shown))]
                    }));
                    continue;
                }
                ArgOrKeyword::Arg(_) => match order.get(number) {
                    Some(name) => (*name).to_owned(),
                    None => format!("argument {}", number + 1),
                },
            };
            settings.extend(self.setting(&name, argument.value(), depth));
        }
        settings
    }

    /// `args.seed = 1` after `args = GKDConfig(...)`. It is sure to run at the module's own level.
    fn set_later(&self, config: &ExprCall, settings: &mut GivenPairs) {
        let object = self.names.objects.iter().find(|object| std::ptr::eq(object.call, config));
        for MemberAssignment { member, statement, value } in &self.names.members {
            let is_same = object.is_some_and(|object| self.shown(&*member.value) == object.name);
            if !is_same || statement.start() < config.end() || settings.len() > MOST_SETTINGS {
                continue;
            }
            settings.retain(|(known, _)| *known != *member.attr && !is_below(known, &member.attr));
            let is_sure = self.text[..statement.start().to_usize()].ends_with('\n');
            match value.filter(|_| is_sure) {
                Some(value) => settings.extend(self.setting(&member.attr, value, 0)),
                None => {
                    let changed = format!("changed by `{}`", self.shown(statement));
                    settings.push((member.attr.to_string(), GivenValue::Expression(changed)));
                }
            }
        }
    }

    /// One setting, or those of a dictionary or of peft's configuration below it.
    fn setting(&self, name: &str, written: &'t Expr, depth: usize) -> GivenPairs {
        self.fields(name, written, depth).unwrap_or_else(|| {
            let value = self.value(written, depth).map(GivenValue::Known);
            vec![(name.to_owned(), value.unwrap_or_else(|| GivenValue::Expression(self.shown(written))))]
        })
    }

    /// The fields of `{"a": 1}`, of `dict(a=1)`, of two joined by `|` and of `LoraConfig(r=8)`.
    fn fields(&self, path: &str, written: &'t Expr, depth: usize) -> Option<GivenPairs> {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let mut found = GivenPairs::new();
        // Of several values for one key the last holds.
        let mut add = |fields: GivenPairs| {
            found.retain(|(known, _)| !fields.iter().any(|(key, _)| known == key || is_below(known, key)));
            found.extend(fields);
        };
        match self.resolved(written, depth)? {
            Expr::Call(call) if called(call) == Some("LoraConfig") => {
                add(vec![(below("kind"), GivenValue::Known(Value::from("lora")))]);
                add(self
                    .given(call, &[], depth + 1)
                    .into_iter()
                    .map(|(key, value)| (below(&key), value))
                    .collect());
            }
            Expr::Call(call) if called(call) == Some("dict") && call.arguments.len() <= MOST_SETTINGS => {
                for argument in call.arguments.arguments_source_order() {
                    add(match argument {
                        ArgOrKeyword::Keyword(Keyword { arg: Some(key), value, .. }) => {
                            self.setting(&below(key), value, depth + 1)
                        }
                        other => self.fields(path, other.value(), depth + 1)?,
                    });
                }
            }
            Expr::Dict(dict) if dict.items.len() <= MOST_SETTINGS => {
                for item in &dict.items {
                    add(match &item.key {
                        Some(key) => self.setting(
                            &below(self.value(key, depth + 1)?.as_str()?),
                            &item.value,
                            depth + 1,
                        ),
                        None => self.fields(path, &item.value, depth + 1)?,
                    });
                }
            }
            Expr::BinOp(both) if both.op == Operator::BitOr => {
                add(self.fields(path, &both.left, depth + 1)?);
                add(self.fields(path, &both.right, depth + 1)?);
            }
            _ => return None,
        }
        (!found.is_empty()).then_some(found)
    }

    /// What a name, `cfg.lr` or `kw["lr"]` stands for, if the module says it once.
    fn resolved(&self, written: &'t Expr, depth: usize) -> Option<&'t Expr> {
        self.steps.set(self.steps.get().checked_sub(1)?);
        if depth >= DEEPEST {
            return None;
        }
        let next = match written {
            Expr::Name(name) if self.is_constant(&name.id) => self.values.get(name.id.as_str()).copied(),
            Expr::Attribute(member) => self.member(&member.value, &member.attr, depth + 1),
            Expr::Subscript(member) => match &*member.slice {
                Expr::StringLiteral(key) => self.member(&member.value, key.value.to_str(), depth + 1),
                _ => None,
            },
            _ => None,
        };
        next.map_or(Some(written), |next| self.resolved(next, depth + 1))
    }

    /// `lr` of `{"lr": 1e-5}`, of `Config(lr=1e-5)` and of `class Config: lr: float = 1e-5`.
    fn member(&self, object: &'t Expr, name: &str, depth: usize) -> Option<&'t Expr> {
        let class = match self.resolved(object, depth)? {
            Expr::Dict(dict) => {
                let mut found = None;
                for item in &dict.items {
                    let key = self.value(item.key.as_ref()?, depth + 1)?;
                    found = if key == name { Some(&item.value) } else { found };
                }
                return found;
            }
            Expr::Call(call) if call.arguments.args.is_empty() => {
                let class = called(call)?;
                let is_plain =
                    ["dict", "SimpleNamespace"].contains(&class) || self.dataclass(class).is_some();
                let keywords = || call.arguments.keywords.iter();
                if !is_plain || keywords().any(|keyword| keyword.arg.is_none()) {
                    return None;
                }
                let given = keywords().find(|keyword| keyword.arg.as_deref() == Some(name));
                match given {
                    Some(keyword) => return Some(&keyword.value),
                    None => class,
                }
            }
            Expr::Name(class) => &class.id,
            _ => return None,
        };
        self.dataclass(class)?.body.iter().find_map(|statement| match statement {
            Stmt::AnnAssign(field) if matches!(&*field.target, Expr::Name(of) if of.id == name) => {
                field.value.as_deref()
            }
            _ => None,
        })
    }

    /// A class that does nothing but hold fields.
    fn dataclass(&self, name: &str) -> Option<&'t StmtClassDef> {
        let class = self.names.classes.get(name).filter(|_| self.is_constant(name))?;
        let mut decorators = class.decorator_list.iter();
        let is_decorated = decorators.any(|decorator| self.shown(decorator).contains("dataclass"));
        let is_plain = class.arguments.is_none() && !self.shown(*class).contains("__post_init__");
        (is_decorated && is_plain).then_some(class)
    }

    /// What literals come to, and what is computed from them alone.
    fn value(&self, written: &'t Expr, depth: usize) -> Option<Value> {
        let all = |values: &'t [Expr]| values.iter().map(|value| self.value(value, depth + 1)).collect();
        match self.resolved(written, depth)? {
            Expr::BooleanLiteral(literal) => Some(Value::Bool(literal.value)),
            Expr::NoneLiteral(_) => Some(Value::Null),
            Expr::StringLiteral(literal) => Some(Value::from(literal.value.to_str())),
            Expr::NumberLiteral(literal) => match &literal.value {
                Number::Int(whole) => whole.as_i64().map(Value::from),
                Number::Float(real) => finite(*real),
                Number::Complex { .. } => None,
            },
            Expr::List(list) => all(&list.elts),
            Expr::Tuple(tuple) => all(&tuple.elts),
            Expr::Dict(dict) => {
                let items = dict.items.iter().map(|item| {
                    let key = self.value(item.key.as_ref()?, depth + 1)?;
                    Some((key.as_str()?.to_owned(), self.value(&item.value, depth + 1)?))
                });
                items.collect::<Option<_>>().map(Value::Object)
            }
            Expr::UnaryOp(unary) => match (unary.op, self.value(&unary.operand, depth + 1)?) {
                (UnaryOp::UAdd, Value::Number(number)) => Some(Value::Number(number)),
                (UnaryOp::USub, value) => computed(value, Operator::Mult, Value::from(-1)),
                _ => None,
            },
            Expr::BinOp(both) => {
                computed(self.value(&both.left, depth + 1)?, both.op, self.value(&both.right, depth + 1)?)
            }
            _ => None,
        }
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
}

fn finite(number: f64) -> Option<Value> {
    number.is_finite().then(|| Value::from(number))
}

/// As Python computes: whole numbers stay whole, but for `/`.
fn computed(left: Value, operator: Operator, right: Value) -> Option<Value> {
    if let (Some(left), Some(right), Operator::Add) = (left.as_str(), right.as_str(), operator) {
        return (left.len() + right.len() <= LONGEST_TEXT).then(|| Value::from(format!("{left}{right}")));
    }
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        let whole = match operator {
            Operator::Add => left.checked_add(right),
            Operator::Sub => left.checked_sub(right),
            Operator::Mult => left.checked_mul(right),
            Operator::Pow if right >= 0 => left.checked_pow(right.try_into().ok()?),
            // Python rounds down, which this does for a divisor above 0.
            Operator::FloorDiv if right > 0 => Some(left.div_euclid(right)),
            Operator::Mod if right > 0 => Some(left.rem_euclid(right)),
            _ => None,
        };
        // A quotient is rounded once where both are exact in binary64.
        let is_real = operator == Operator::Div || (operator == Operator::Pow && right < 0);
        if !is_real || left.unsigned_abs().max(right.unsigned_abs()) >= 1 << 53 {
            return whole.map(Value::from);
        }
    }
    let (left, right) = (left.as_f64()?, right.as_f64()?);
    finite(match operator {
        Operator::Add => left + right,
        Operator::Sub => left - right,
        Operator::Mult => left * right,
        Operator::Div => left / right,
        Operator::Pow => left.powf(right),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
