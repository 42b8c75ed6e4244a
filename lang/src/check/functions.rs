//! The functions that need no import, and how formulas are made of them.

use crate::diag::{Code, Diagnostic, nearest};
use crate::formula::{
    Axis, Deviation, Divergence, DivergenceKind, Formula, FormulaKind, Function, Mass, Reduction, Role, Signal, Statistic,
    Support, Unit,
};
use crate::source::Span;
use crate::syntax::ast::{Argument, Block, Expr, ExprKind};

use super::Checker;
use super::arithmetic::common_unit;
use super::evaluate::{Context, Env};
use super::value::Value;

/// One built-in name.
#[derive(Debug)]
pub struct Builtin {
    pub name: &'static str,
    /// In the order in which they may be given without a name.
    pub parameters: &'static [&'static str],
    /// The first so many must be given.
    pub required: usize,
    /// How it is written, for help texts.
    pub usage: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One argument, elementwise.
    Elementwise(Function),
    /// `min(a, b)`, `max(a, b)`; with `over`, the smallest or largest along an axis.
    Extreme(Function, Reduction),
    Clip,
    Where,
    Reduce(Reduction),
    Zscore,
    Minmax,
    Winsor,
    TopFraction,
    Softmax,
    Kl,
    Jsd,
    TotalVariation,
    TopK,
    Schedule,
    Reward,
    Rollout,
    Optimizer,
    Normalized,
    Constructor,
}

const fn function(
    name: &'static str,
    parameters: &'static [&'static str],
    required: usize,
    usage: &'static str,
    kind: Kind,
) -> Builtin {
    Builtin { name, parameters, required, usage, kind }
}

#[rustfmt::skip]
static BUILTINS: &[Builtin] = &[
    function("abs", &["x"], 1, "abs(x)", Kind::Elementwise(Function::Abs)),
    function("exp", &["x"], 1, "exp(x)", Kind::Elementwise(Function::Exp)),
    function("log", &["x"], 1, "log(x), the natural logarithm", Kind::Elementwise(Function::Log)),
    function("log1p", &["x"], 1, "log1p(x)", Kind::Elementwise(Function::Log1p)),
    function("sqrt", &["x"], 1, "sqrt(x)", Kind::Elementwise(Function::Sqrt)),
    function("tanh", &["x"], 1, "tanh(x)", Kind::Elementwise(Function::Tanh)),
    function("sigmoid", &["x"], 1, "sigmoid(x)", Kind::Elementwise(Function::Sigmoid)),
    function("relu", &["x"], 1, "relu(x)", Kind::Elementwise(Function::Relu)),
    function("min", &["a", "b", "over"], 1, "min(a, b), or min(x, over: sequence)", Kind::Extreme(Function::Minimum, Reduction::Minimum)),
    function("max", &["a", "b", "over"], 1, "max(a, b), or max(x, over: sequence)", Kind::Extreme(Function::Maximum, Reduction::Maximum)),
    function("clip", &["x", "low", "high"], 3, "clip(x, low, high)", Kind::Clip),
    function("where", &["condition", "then", "else"], 3, "where(condition, then, else)", Kind::Where),
    function("mean", &["x", "over"], 2, "mean(x, over: sequence)", Kind::Reduce(Reduction::Mean)),
    function("sum", &["x", "over"], 2, "sum(x, over: sequence)", Kind::Reduce(Reduction::Sum)),
    function("zscore", &["x", "over", "deviation"], 3, "zscore(x, over: group, deviation: sample)", Kind::Zscore),
    function("minmax", &["x", "over"], 2, "minmax(x, over: batch)", Kind::Minmax),
    function("winsor", &["x", "upper", "over"], 3, "winsor(x, upper: 0.98, over: batch)", Kind::Winsor),
    function("top_fraction", &["x", "keep", "over"], 3, "top_fraction(x, keep, over: batch)", Kind::TopFraction),
    function("softmax", &["x", "over"], 2, "softmax(x, over: group)", Kind::Softmax),
    function("kl", &["pair", "support", "mass"], 1, "kl(student || teacher, support: full)", Kind::Kl),
    function("jsd", &["left", "right", "beta", "support", "mass"], 3, "jsd(student, teacher, beta: 0.5)", Kind::Jsd),
    function("tv", &["left", "right", "support", "mass"], 2, "tv(student, teacher)", Kind::TotalVariation),
    function("top_k", &["role", "k"], 2, "top_k(teacher, 64)", Kind::TopK),
    function("constant", &["value"], 1, "constant(1e-3)", Kind::Schedule),
    function("linear", &["range", "over"], 1, "linear(0 -> 1, over: 100 steps)", Kind::Schedule),
    function("cosine", &["range", "over"], 1, "cosine(1e-3 -> 1e-4)", Kind::Schedule),
    function("warmup", &["steps", "then"], 2, "warmup(20 steps, then: 1e-3)", Kind::Schedule),
    function("exact_match", &["field"], 0, "exact_match, or exact_match(field)", Kind::Reward),
    function("numeric", &["field", "tolerance"], 0, "numeric(tolerance: 0.01)", Kind::Reward),
    function("regex", &["pattern", "field"], 1, "regex(\"answer: (?<answer>.*)\")", Kind::Reward),
    function("command", &["command", "time_limit", "batch"], 1, "command(\"python3 verify.py\", time_limit: 10)", Kind::Reward),
    function("sample", &["n", "temperature", "max_tokens"], 3, "sample(n: 1, temperature: 1.0, max_tokens: 24)", Kind::Rollout),
    function("from", &["teacher", "sequences", "temperature", "max_tokens"], 4, "from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)", Kind::Rollout),
    function("adamw", &["beta1", "beta2", "epsilon", "weight_decay", "clip_norm"], 0, "adamw(beta2: 0.95, weight_decay: 0, clip_norm: 1.0)", Kind::Optimizer),
    function("normalized", &["zero", "one"], 2, "normalized(zero: start, one: expert)", Kind::Normalized),
    function("llama", &[], 0, "llama { layers, width, heads, context, tokenizer }", Kind::Constructor),
    function("sft", &["start", "on"], 2, "sft(base, on: domains) { target, steps, batch, lr }", Kind::Constructor),
    function("grpo", &["start", "on"], 2, "grpo(start, on: d) { steps, prompts, samples, max_tokens, lr }", Kind::Constructor),
    function("distill", &["start"], 1, "distill(start) { objective, rollout, prompts, steps, lr }", Kind::Constructor),
    function("merge", &["models", "base"], 1, "merge(experts, base: start) { method, scale }", Kind::Constructor),
];

/// Constructs of the language that this version knows by name only.
static PLANNED: &[(&str, &str)] = &[
    ("hf", "a model from a Hugging Face folder (`hf`)"),
    ("gguf", "a model from a GGUF file (`gguf`)"),
    ("checkpoint", "a model from a checkpoint (`checkpoint`)"),
    ("qwen2", "the architecture `qwen2`"),
    ("qwen3", "the architecture `qwen3`"),
    ("gemma", "the architecture `gemma`"),
    ("dpo", "the stage `dpo`"),
    ("train", "the stage `train`"),
    ("served", "a teacher served elsewhere (`served`)"),
    ("logits", "a teacher composed of logits (`logits`)"),
    ("mixture", "a mixture of teachers (`mixture`)"),
    ("geometric", "a geometric mean of teachers (`geometric`)"),
    ("skew", "the divergence `skew`"),
    ("chi2", "the divergence `chi2`"),
    ("hellinger", "the divergence `hellinger`"),
    ("alpha", "the divergence `alpha`"),
    ("overlap", "the signal `overlap`"),
    ("in_nucleus", "the signal `in_nucleus`"),
    ("nucleus", "the support `nucleus`"),
    ("cumsum", "the scan `cumsum`"),
    ("cumprod", "the scan `cumprod`"),
    ("reward_to_go", "the scan `reward_to_go`"),
    ("quantile", "the statistic `quantile`"),
    ("exponential", "the schedule `exponential`"),
    ("piecewise", "the schedule `piecewise`"),
    ("ladder", "the schedule `ladder`"),
    ("replay", "the rollout `replay`"),
    ("mix", "the rollout `mix`"),
    ("json_schema", "the reward `json_schema`"),
    ("unit_tests", "the reward `unit_tests`"),
    ("http", "the reward `http`"),
];

pub fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

pub fn planned(name: &str) -> Option<&'static str> {
    PLANNED.iter().find(|(planned, _)| *planned == name).map(|(_, construct)| *construct)
}

/// Every built-in.
pub fn all() -> &'static [Builtin] {
    BUILTINS
}

pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    BUILTINS.iter().map(|builtin| builtin.name)
}

impl Checker {
    pub(super) fn call_builtin(
        &mut self,
        builtin: &'static Builtin,
        whole: &Expr,
        arguments: &[Argument],
        block: Option<&Block>,
        env: &Env,
    ) -> Value {
        if builtin.kind != Kind::Constructor
            && let Some(block) = block
        {
            self.report(
                Diagnostic::error(Code::WrongKind, block.span, format!("`{}` takes no settings in braces", builtin.name))
                    .help(builtin.usage),
            );
        }
        let Some(given) = self.builtin_arguments(builtin, arguments, whole.span) else { return Value::Error };
        let span = whole.span;
        match builtin.kind {
            Kind::Constructor => self.construct(builtin, whole.span, &given, block, env),
            Kind::Schedule => self.schedule(builtin.name, &given, span, env),
            Kind::Reward => self.reward_call(builtin.name, &given, span, env).map_or(Value::Error, Value::Reward),
            Kind::Rollout => self.rollout(builtin.name, &given, env).map_or(Value::Error, Value::Rollout),
            Kind::TopK => self.top_k(&given, env),
            Kind::Optimizer | Kind::Normalized => {
                let place =
                    if builtin.kind == Kind::Optimizer { "`optimizer = ...` of a stage" } else { "`score = ...` of a `compare`" };
                self.report(Diagnostic::error(Code::WrongKind, span, format!("`{}` belongs in {place}", builtin.name)));
                Value::Error
            }
            _ => self.formula_call(builtin, &given, span, env),
        }
    }

    fn formula_call(&mut self, builtin: &'static Builtin, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        match builtin.kind {
            Kind::Kl | Kind::Jsd | Kind::TotalVariation => self.divergence(builtin.kind, given, span, env),
            Kind::Elementwise(function) => {
                let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
                self.elementwise(function, x, place, span)
            }
            Kind::Extreme(function, reduction) => match (given[1], given[2]) {
                (Some(_), None) => self.extreme(function, given, span, env),
                (None, Some(over)) => self.reduce(reduction, given[0].expect("required"), over, span, env),
                _ => {
                    self.report(
                        Diagnostic::error(
                            Code::MissingArgument,
                            span,
                            format!("`{}` needs two numbers, or one and `over`", builtin.name),
                        )
                        .help(builtin.usage),
                    );
                    Value::Error
                }
            },
            Kind::Clip => self.clip(given, span, env),
            Kind::Where => self.choose(given, span, env),
            Kind::Reduce(reduction) => {
                self.reduce(reduction, given[0].expect("required"), given[1].expect("required"), span, env)
            }
            _ => self.statistic(builtin.kind, given, span, env),
        }
    }

    /// The number given for a parameter.
    fn argument(&mut self, given: &[Option<&Expr>], slot: usize, env: &Env) -> Option<(Formula, Span)> {
        let expr = given[slot].expect("required arguments are there");
        let value = self.evaluate(expr, env);
        Some((self.formula(value, expr.span)?, expr.span))
    }

    fn elementwise(&mut self, function: Function, x: Formula, place: Span, span: Span) -> Value {
        let unit = match (function, x.unit()) {
            (_, Unit::Bool) => None,
            (Function::Abs, Unit::Logp) => Some(Unit::Nats),
            (Function::Abs | Function::Relu, unit) => Some(unit),
            (Function::Exp, Unit::Logp) => Some(Unit::Prob),
            (Function::Exp, Unit::Nats) => Some(Unit::Ratio),
            (Function::Exp, Unit::Prob) => None,
            (Function::Log, Unit::Prob) => Some(Unit::Logp),
            (Function::Log, Unit::Ratio | Unit::Count) => Some(Unit::Nats),
            (Function::Log | Function::Log1p, Unit::Logp | Unit::Nats) => None,
            (Function::Sigmoid, _) => Some(Unit::Fraction),
            _ => Some(Unit::Number),
        };
        let Some(unit) = unit else {
            let (message, help) = match (function, x.unit()) {
                (Function::Exp, Unit::Prob) => ("`exp` of a probability", Some("it is a probability already: drop the `exp`")),
                (Function::Log | Function::Log1p, _) if x.unit() != Unit::Bool => {
                    ("the log of something that is a log already", Some("drop the `log`, or take `exp` first"))
                }
                _ => ("a truth value is no number", Some("use `where(condition, then, else)`")),
            };
            self.unit_mismatch(place, message, &[(place, &x)], help);
            return Value::Error;
        };
        self.apply(function, vec![x], unit, span)
    }

    /// Numbers that must share a unit: the bounds of a `clip`, the sides of a `min`, the branches of a `where`.
    fn shared_unit(&mut self, name: &str, parts: &[(Formula, Span)], span: Span) -> Option<Unit> {
        let mut unit = parts[0].0.unit();
        for (part, place) in &parts[1..] {
            match common_unit(unit, part.unit()) {
                Some(common) => unit = common,
                None => {
                    let message = format!("`{name}` mixes {} and {}", unit.name(), part.unit().name());
                    self.unit_mismatch(span, &message, &[(parts[0].1, &parts[0].0), (*place, part)], None);
                    return None;
                }
            }
        }
        Some(unit)
    }

    fn extreme(&mut self, function: Function, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(a), Some(b)) = (self.argument(given, 0, env), self.argument(given, 1, env)) else { return Value::Error };
        let parts = [a, b];
        let Some(unit) = self.shared_unit(if function == Function::Minimum { "min" } else { "max" }, &parts, span) else {
            return Value::Error;
        };
        self.apply(function, parts.into_iter().map(|(formula, _)| formula).collect(), unit, span)
    }

    fn clip(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(x), Some(low), Some(high)) =
            (self.argument(given, 0, env), self.argument(given, 1, env), self.argument(given, 2, env))
        else {
            return Value::Error;
        };
        for (bound, place) in [&low, &high] {
            if bound.live() {
                self.report(Diagnostic::error(Code::NotDifferentiable, *place, "the bounds of a `clip` carry no gradient"));
                return Value::Error;
            }
        }
        if let (FormulaKind::Number(a), FormulaKind::Number(b)) = (&low.0.0.kind, &high.0.0.kind)
            && a > b
        {
            let text = format!("nothing lies between {a} and {b}");
            self.report(
                Diagnostic::error(Code::OutOfRange, high.1, text)
                    .because(low.1, "the lower bound")
                    .help("write the lower bound first: `clip(x, low, high)`"),
            );
            return Value::Error;
        }
        let parts = [x, low, high];
        let Some(unit) = self.shared_unit("clip", &parts, span) else { return Value::Error };
        self.apply(Function::Clip, parts.into_iter().map(|(formula, _)| formula).collect(), unit, span)
    }

    fn choose(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(condition), Some(then), Some(otherwise)) =
            (self.argument(given, 0, env), self.argument(given, 1, env), self.argument(given, 2, env))
        else {
            return Value::Error;
        };
        if condition.0.unit() != Unit::Bool {
            let place = condition.1;
            self.unit_mismatch(place, "the condition of a `where` must be a truth value", &[(place, &condition.0)], None);
            return Value::Error;
        }
        let branches = [then, otherwise];
        let Some(unit) = self.shared_unit("where", &branches, span) else { return Value::Error };
        let operands = std::iter::once(condition).chain(branches).map(|(formula, _)| formula).collect();
        self.apply(Function::Where, operands, unit, span)
    }

    /// The axis named by `over: sequence`.
    pub(super) fn axis(&mut self, expr: &Expr) -> Option<Axis> {
        let axes = [
            ("token", Axis::Token),
            ("sequence", Axis::Sequence),
            ("group", Axis::Group),
            ("batch", Axis::Batch),
            ("run", Axis::Run),
        ];
        if let ExprKind::Name(name) = &expr.kind
            && matches!(name.as_str(), "turn" | "vocab")
        {
            self.not_supported(expr.span, &format!("the axis `{name}`"));
            return None;
        }
        self.word(expr, "an axis", &axes)
    }

    /// One of a fixed list of words.
    pub(super) fn word<T: Clone>(&mut self, expr: &Expr, what: &str, words: &[(&str, T)]) -> Option<T> {
        let listed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let ExprKind::Name(name) = &expr.kind else {
            if !matches!(expr.kind, ExprKind::Error) {
                self.report(
                    Diagnostic::error(Code::UnknownValue, expr.span, format!("this must be {what}"))
                        .help(format!("one of: {}", listed())),
                );
            }
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == name) {
            return Some(value.clone());
        }
        let finding = Diagnostic::error(Code::UnknownValue, expr.span, format!("`{name}` is not {what}"));
        let finding = match nearest(name, words.iter().map(|(word, _)| *word)) {
            Some(near) => finding.help(format!("did you mean `{near}`?")).replace_with(format!("change to `{near}`"), near),
            None => finding.help(format!("one of: {}", listed())),
        };
        self.report(finding);
        None
    }

    fn reduce(&mut self, reduction: Reduction, x: &Expr, over: &Expr, span: Span, env: &Env) -> Value {
        let value = self.evaluate(x, env);
        let (Some(formula), Some(over_axis)) = (self.formula(value, x.span), self.axis(over)) else { return Value::Error };
        if formula.axis() <= over_axis {
            let text = format!("this is one number per {} already", formula.axis().name());
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    x.span,
                    format!("there is nothing to put together over {}", over_axis.name()),
                )
                .label(text)
                .because(over.span, "reduces to one number per element of this axis"),
            );
            return Value::Error;
        }
        if formula.live() && matches!(reduction, Reduction::Minimum | Reduction::Maximum) {
            self.report(Diagnostic::error(
                Code::NotDifferentiable,
                span,
                "the smallest or largest of `live` values has no derivative here",
            ));
            return Value::Error;
        }
        let unit = match formula.unit() {
            Unit::Bool => Unit::Fraction,
            unit => unit,
        };
        let (live, origin) = (formula.live(), self.origin(span));
        let kind = FormulaKind::Reduce { reduction, operand: formula };
        Value::Formula(Formula::new(kind, unit, over_axis, live, origin))
    }

    fn statistic(&mut self, kind: Kind, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
        let over_slot = if matches!(kind, Kind::Winsor | Kind::TopFraction) { 2 } else { 1 };
        let over_expr = given[over_slot].expect("required");
        let Some(over) = self.axis(over_expr) else { return Value::Error };
        let (statistic, unit) = match kind {
            Kind::Zscore => {
                let words = [("population", Deviation::Population), ("sample", Deviation::Sample)];
                let Some(deviation) = self.word(given[2].expect("required"), "a kind of deviation", &words) else {
                    return Value::Error;
                };
                (Statistic::Zscore { deviation }, Unit::Number)
            }
            Kind::Minmax => (Statistic::Minmax, Unit::Fraction),
            Kind::Softmax => (Statistic::Softmax, Unit::Fraction),
            Kind::Winsor | Kind::TopFraction => {
                let expr = given[1].expect("required");
                let value = self.evaluate(expr, env);
                let Some(fraction) = self.fraction(&value, expr.span, "this") else { return Value::Error };
                if kind == Kind::Winsor {
                    (Statistic::Winsor { upper: fraction }, x.unit())
                } else {
                    (Statistic::TopFraction { keep: fraction }, Unit::Bool)
                }
            }
            _ => unreachable!("every other kind is handled by its own function"),
        };
        if x.live() {
            self.report(
                Diagnostic::error(Code::NotDifferentiable, span, "a statistic over a batch or group has no derivative here")
                    .because(place, "`live` in here")
                    .help("statistics are for weights and advantages: read the value without `live`"),
            );
            return Value::Error;
        }
        if x.axis() <= over {
            let text = format!("this is one number per {}", x.axis().name());
            self.report(
                Diagnostic::error(Code::AxisMismatch, place, format!("there is nothing to compare within one {}", over.name()))
                    .label(text)
                    .because(over_expr.span, "elements of this axis are compared"),
            );
            return Value::Error;
        }
        let (axis, origin) = (x.axis(), self.origin(span));
        Value::Formula(Formula::new(FormulaKind::Statistic { statistic, operand: x, over }, unit, axis, false, origin))
    }

    fn top_k(&mut self, given: &[Option<&Expr>], env: &Env) -> Value {
        let (role, k) = (given[0].expect("required"), given[1].expect("required"));
        let role_value = self.evaluate(role, env);
        let k_value = self.evaluate(k, env);
        match role_value {
            Value::Role(role) => match self.whole(&k_value, k.span, "the size of the support", 1) {
                Some(k) => Value::Support(Support::TopK { role, k: k as u32 }),
                None => Value::Error,
            },
            other => self.wrong_kind(role.span, "`top_k` needs the role that chooses: `top_k(teacher, 64)`", &other),
        }
    }

    fn divergence(&mut self, kind: Kind, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        if env.context == Context::Constant {
            let text = "a divergence is a signal of the run: it can be read inside an objective only";
            self.report(Diagnostic::error(Code::WrongKind, span, text));
            return Value::Error;
        }
        let (pair, kind, rest) = match kind {
            Kind::Kl => {
                let expr = given[0].expect("required");
                match self.evaluate(expr, env) {
                    Value::Versus { left, right } => (Some((left, right)), DivergenceKind::Kl, &given[1..]),
                    Value::Error => return Value::Error,
                    other => {
                        return self.wrong_kind(
                            expr.span,
                            "`kl` needs both arguments and their order: `kl(student || teacher)`",
                            &other,
                        );
                    }
                }
            }
            Kind::Jsd => {
                let expr = given[2].expect("required");
                let value = self.evaluate(expr, env);
                let Some(beta) = self.fraction(&value, expr.span, "`beta`") else { return Value::Error };
                if beta == 0.0 || beta == 1.0 {
                    self.report(
                        Diagnostic::error(Code::OutOfRange, expr.span, format!("`jsd` with beta = {beta} is 0 everywhere"))
                            .label("teaches nothing")
                            .help("its limits, divided by beta * (1 - beta), are the two directions of `kl`: write the one you mean"),
                    );
                    return Value::Error;
                }
                (self.two_roles(given, env), DivergenceKind::Jsd { beta }, &given[3..])
            }
            _ => (self.two_roles(given, env), DivergenceKind::TotalVariation, &given[2..]),
        };
        let Some((left, right)) = pair else { return Value::Error };
        if left == right {
            let text = format!("`{}` is compared with itself: the divergence is 0", left.name());
            self.report(Diagnostic::error(Code::OutOfRange, span, text));
            return Value::Error;
        }
        let Some((support, mass)) = self.support_and_mass(rest[0], rest[1], span, env) else { return Value::Error };
        self.signal(Signal::Divergence(Divergence { kind, left, right, support, mass }), Unit::Nats, span)
    }

    fn two_roles(&mut self, given: &[Option<&Expr>], env: &Env) -> Option<(Role, Role)> {
        let mut roles = Vec::new();
        for expr in given[..2].iter().map(|expr| expr.expect("required")) {
            match self.evaluate(expr, env) {
                Value::Role(role) => roles.push(role),
                other => {
                    self.wrong_kind(expr.span, "a divergence compares two roles", &other);
                    return None;
                }
            }
        }
        Some((roles[0], roles[1]))
    }

    fn support_and_mass(
        &mut self,
        support: Option<&Expr>,
        mass: Option<&Expr>,
        span: Span,
        env: &Env,
    ) -> Option<(Support, Mass)> {
        let support = match support {
            None => Support::Full,
            Some(expr) if matches!(&expr.kind, ExprKind::Name(name) if name == "full") => Support::Full,
            Some(expr) => match self.evaluate(expr, env) {
                Value::Support(support) => support,
                other => {
                    self.wrong_kind(expr.span, "a support is `full` or `top_k(role, k)`", &other);
                    return None;
                }
            },
        };
        let words =
            [("renormalized", Mass::Renormalized), ("tail", Mass::Tail), ("generalized", Mass::Generalized), ("raw", Mass::Raw)];
        match (&support, mass) {
            // On the whole vocabulary the four agree.
            (Support::Full, None) => Some((support, Mass::Raw)),
            (Support::Full, Some(expr)) => {
                self.word(expr, "a treatment of mass", &words)?;
                Some((support, Mass::Raw))
            }
            (Support::TopK { .. }, Some(expr)) => {
                let mass = self.word(expr, "a treatment of mass", &words)?;
                Some((support, mass))
            }
            (Support::TopK { .. }, None) => {
                self.report(
                    Diagnostic::error(
                        Code::MissingArgument,
                        span,
                        "a truncated support must say what happens to the mass outside it",
                    )
                    .help("add `mass: generalized` (keeps student = teacher stationary), `renormalized`, `tail` or `raw`"),
                );
                None
            }
        }
    }
}
