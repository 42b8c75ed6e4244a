//! The syntax tree: the text as written, with a span on every node. Nothing in it is resolved or checked.

use std::rc::Rc;

use crate::source::Span;

/// A name as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub text: String,
    pub span: Span,
}

/// One parsed file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// The `//!` comment at the head of the file.
    pub doc: String,
    /// The items, shared with the cache that keeps them between two parses of a changing text.
    pub items: Vec<Rc<Item>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The `///` comment above the item.
    pub doc: String,
    pub public: bool,
    pub span: Span,
    pub kind: ItemKind,
}

/// The declaration of a divergence, or of a sum over the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergenceItem {
    pub name: Name,
    /// Whether it is a `sum`, of one distribution's entries.
    pub is_sum: bool,
    /// Whether `||` is between the sides.
    pub directed: bool,
    pub parameters: Vec<Parameter>,
    pub body: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    Use(Use),
    /// `experiment "name" { ... }`
    Experiment {
        name: Text,
        block: Block,
    },
    /// `param name: type = default`
    Param(Parameter),
    /// `let name: type = value`; the type may be missing.
    Let {
        name: Name,
        annotation: Option<Name>,
        value: Expr,
    },
    /// `fn name(a, b) = body`
    Fn {
        name: Name,
        parameters: Vec<Parameter>,
        body: Expr,
    },
    /// `domain name { ... }`, or `domain name = base with { ... }`
    Domain {
        name: Name,
        base: Option<Name>,
        block: Block,
    },
    /// `reward name = value`
    Reward {
        name: Name,
        value: Expr,
    },
    /// `schedule name = value`
    Schedule {
        name: Name,
        value: Expr,
    },
    /// `model name[index in family] = value`
    Model(Binding),
    /// `teacher name[index in family] = value { ... }`, or `teacher name(parameters) = value { ... }`
    Teacher {
        binding: Binding,
        parameters: Vec<Parameter>,
    },
    /// `template name(parameters) = "text with {slots}"`
    Template {
        name: Name,
        parameters: Vec<Parameter>,
        text: Expr,
    },
    /// `divergence name(p || q, parameters) = summand`, `name(p, q, ...)` where the order of the sides has no
    /// meaning, or `name(u, ...) = generator`; `sum name(q, parameters) = summand`.
    Divergence(DivergenceItem),
    /// `rollout name(parameters) = value`
    Rollout {
        name: Name,
        parameters: Vec<Parameter>,
        body: Expr,
    },
    /// `panel name = debate([...]) { ... }`
    Panel {
        name: Name,
        value: Expr,
    },
    /// `sweep { beta in [0, 1], k in [16, 64] }`
    Sweep {
        span: Span,
        axes: Vec<Index>,
    },
    /// `eval name { ... }`, or `eval name = base with { ... }`
    Eval {
        name: Name,
        base: Option<Name>,
        block: Block,
    },
    /// `stage name(from: model, ...) = body`
    Stage {
        name: Name,
        parameters: Vec<Parameter>,
        body: Expr,
    },
    /// `route { ... }`
    Route(Route),
    /// `objective name(parameters) { ... }`
    Objective {
        name: Name,
        parameters: Vec<Parameter>,
        body: Block,
    },
    /// `compare "name" { ... }`
    Compare {
        name: Text,
        block: Block,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    pub span: Span,
}

/// `use std.opd.mopd` (one name), `use std.baselines.{mix_rl, cascade_rl}`, `use "../lab/losses.mopd".ours`.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    pub module: ModuleName,
    /// The names taken from it.
    pub names: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ModuleName {
    /// `std.opd`
    Words(Vec<Name>),
    /// `"../lab/losses.mopd"`
    File(Text),
}

impl ModuleName {
    /// `None` for an import that could not be read. That has been reported.
    pub fn span(&self) -> Option<Span> {
        match self {
            ModuleName::Words(words) => Some(words.first()?.span.to(words.last()?.span)),
            ModuleName::File(text) => Some(text.span),
        }
    }
}

/// As it is written.
impl std::fmt::Display for ModuleName {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            ModuleName::Words(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
                out.write_str(&words.join("."))
            }
            ModuleName::File(text) => write!(out, "\"{}\"", text.text),
        }
    }
}

/// `name: type = default`; type and default may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: Name,
    pub annotation: Option<Name>,
    pub default: Option<Expr>,
}

/// `d in domains`, `how in { gold: gold(), uld: uld() }`
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    pub name: Name,
    pub over: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub name: Name,
    /// `[how in { ... }][d in domains]`: a family of families.
    pub indices: Vec<Index>,
    pub value: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub span: Span,
    pub statements: Vec<Statement>,
    /// Whether a part of it could not be parsed and has been reported. That part may hold what seems to be
    /// missing.
    pub broken: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `key = value @mark`
    Entry(Entry),
    /// `let name: type = value`, or one per element: `let name[t in panel] = value`. The type may be missing.
    Let { name: Name, index: Option<Index>, annotation: Option<Name>, value: Expr },
    /// `state name = first then next`: a number that the run carries from step to step, or one per element:
    /// `state name[t in guides] = ...`. With `first by domain then next` there is one for each domain.
    State { name: Name, index: Option<Index>, first: Expr, by: Option<Name>, next: Option<Expr> },
    /// `term name = value { ... }`, or one per element: `term name[t in panel] = value`
    Term { name: Name, index: Option<Index>, value: Expr, block: Option<Block> },
    /// `trains name = model { ... }`: one of the models that a `train` stage trains together.
    Trains { name: Name, value: Expr },
    /// `step name { ... }`: one kind of update of a `train` stage.
    Step { name: Name, block: Block },
    /// `route { ... }` for this stage alone
    Route(Route),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Name,
    pub value: Expr,
    pub marks: Vec<Mark>,
}

/// `@unpublished` or `@source("...")`
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub name: Name,
    pub argument: Option<Text>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub span: Span,
    pub arms: Vec<Arm>,
}

/// `condition -> teacher`, or `for d in domains: condition -> teacher`
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    pub span: Span,
    pub index: Option<Index>,
    pub condition: Condition,
    pub target: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    When(Expr),
    /// `else -> ...`
    Else,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub span: Span,
    pub kind: ExprKind,
}

/// One of several values, with the name of the member or the run that has it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedValue {
    pub name: Name,
    pub value: Expr,
}

/// A name that a `where` gives to a value.
#[derive(Clone, Debug, PartialEq)]
pub struct WhereBinding {
    pub name: Name,
    pub value: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `1_000`, `3e-6`, `35%` (0.35), `5 steps`
    Number {
        value: f64,
        suffix: Option<Name>,
    },
    Text(String),
    Bool(bool),
    Name(String),
    /// `student.logp`
    Field {
        base: Box<Expr>,
        field: Name,
    },
    /// `expert[d]`
    Index {
        base: Box<Expr>,
        index: Box<Expr>,
    },
    /// `grpo(start, on: d) { steps = 120 }`; `block` is the part in braces. A bare `name { ... }` is a call
    /// without arguments.
    Call {
        callee: Box<Expr>,
        arguments: Vec<Argument>,
        block: Option<Block>,
    },
    List(Vec<Expr>),
    /// `student with { lr = 1e-4 }`, `student with quick`
    With {
        base: Box<Expr>,
        changes: Box<Expr>,
    },
    /// `{ lr = 1e-4, steps = 12 }`, not behind a call
    Settings(Block),
    /// `{ gold: gold(), uld: uld() }`, after the `in` of a family or a sweep.
    NamedValues(Vec<NamedValue>),
    Unary {
        operator: UnaryOperator,
        operand: Box<Expr>,
    },
    Binary {
        operator: BinaryOperator,
        operator_span: Span,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `live student.logp`
    Live(Box<Expr>),
    /// `3e-3 -> 3e-4`
    Arrow {
        from: Box<Expr>,
        to: Box<Expr>,
    },
    /// `teacher || student`
    Versus {
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `mean(token) then mean(sequence)`
    Then {
        first: Box<Expr>,
        second: Box<Expr>,
    },
    /// `for d in domains: body`, or, with a value carried from one iteration to the next, `for d in domains,
    /// m = start: body`
    For {
        index: Box<Index>,
        carried: Option<Box<Carried>>,
        body: Box<Expr>,
    },
    /// `match { condition -> value, else -> value }`
    Match {
        arms: Vec<MatchArm>,
    },
    /// `0..=100`, with both ends included.
    Range {
        low: Box<Expr>,
        high: Box<Expr>,
    },
    /// `sample(...) |> keep(correct)`
    Pipe {
        value: Box<Expr>,
        through: Box<Expr>,
    },
    /// `logits(a) + w * logits(b) where w = tv(a, b)`
    Where {
        value: Box<Expr>,
        bindings: Vec<WhereBinding>,
    },
    /// `mean(token, over: batch) by domain { ... }`
    By {
        value: Box<Expr>,
        axis: Name,
        block: Block,
    },
    /// Text that could not be parsed; a diagnostic has been reported.
    Error,
}

/// `condition -> value @mark`
#[derive(Clone, Debug, PartialEq)]
pub struct MatchArm {
    pub span: Span,
    pub condition: Condition,
    pub value: Expr,
    pub marks: Vec<Mark>,
}

/// `previous = start`
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    pub name: Name,
    pub start: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// `name: value`
    pub name: Option<Name>,
    pub value: Expr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOperator {
    Negate,
    Not,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOperator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

impl BinaryOperator {
    /// As written in source text.
    pub fn symbol(self) -> &'static str {
        use BinaryOperator::*;
        match self {
            Add => "+",
            Subtract => "-",
            Multiply => "*",
            Divide => "/",
            Power => "^",
            Equal => "==",
            NotEqual => "!=",
            Less => "<",
            LessEqual => "<=",
            Greater => ">",
            GreaterEqual => ">=",
            And => "and",
            Or => "or",
        }
    }
}
