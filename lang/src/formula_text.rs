//! Formulas as an author would write them, for people: normal forms, messages, hover.
//!
//! What the checker spelled out is folded back where the language has a word for it (`ratio`). Going from a coarse axis to a
//! fine one is silent, as in the language.

use crate::experiment::Schedule;
use crate::formula::{
    Deviation, Divergence, DivergenceKind, Formula, FormulaKind, Function, Live, Mass, Reduction, Role, Signal, Statistic,
    Support,
};

/// A formula in at most about `limit` characters; what does not fit is `...`.
pub fn formula(formula: &Formula, limit: usize) -> String {
    let mut writer = Writer { text: String::new(), limit, depth: 0, cut: false };
    writer.write(formula, LOOSEST);
    writer.text
}

/// `student.logp`, `kl(student || teacher, support: full)`, `reward`
pub fn signal(signal: &Signal) -> String {
    match signal {
        Signal::Logp { role } => format!("{}.logp", role.name()),
        Signal::Entropy { role } => format!("{}.entropy", role.name()),
        Signal::Top1 { role } => format!("{}.top1", role.name()),
        Signal::Divergence(divergence) => self::divergence(divergence),
        Signal::Position => "position".into(),
        Signal::Length => "length".into(),
        Signal::Truncated => "truncated".into(),
        Signal::Reward => "reward".into(),
        Signal::Correct => "correct".into(),
        Signal::Progress => "progress".into(),
        Signal::Step => "step".into(),
    }
}

/// `live student.logp`
pub fn live(live: &Live) -> String {
    match live {
        Live::Logp => format!("live {}.logp", Role::Student.name()),
        Live::Divergence(divergence) => format!("live {}", self::divergence(divergence)),
    }
}

/// `kl(student || teacher, support: top_k(teacher, 64), mass: generalized)`
pub fn divergence(divergence: &Divergence) -> String {
    let (left, right) = (divergence.left.name(), divergence.right.name());
    let support = format!("support: {}", support(&divergence.support));
    let mass = match divergence.support {
        Support::Full => String::new(),
        Support::TopK { .. } => format!(", mass: {}", mass(divergence.mass)),
    };
    match divergence.kind {
        DivergenceKind::Kl => format!("kl({left} || {right}, {support}{mass})"),
        DivergenceKind::Jsd { beta } => format!("jsd({left}, {right}, beta: {}, {support}{mass})", number(beta)),
        DivergenceKind::TotalVariation => format!("tv({left}, {right}, {support}{mass})"),
    }
}

/// `full`, `top_k(teacher, 64)`
pub fn support(support: &Support) -> String {
    match support {
        Support::Full => "full".into(),
        Support::TopK { role, k } => format!("top_k({}, {k})", role.name()),
    }
}

pub fn mass(mass: Mass) -> &'static str {
    match mass {
        Mass::Renormalized => "renormalized",
        Mass::Tail => "tail",
        Mass::Generalized => "generalized",
        Mass::Raw => "raw",
    }
}

pub fn reduction(reduction: Reduction) -> &'static str {
    match reduction {
        Reduction::Sum => "sum",
        Reduction::Mean => "mean",
        Reduction::Minimum => "min",
        Reduction::Maximum => "max",
    }
}

pub fn statistic(statistic: Statistic) -> &'static str {
    match statistic {
        Statistic::Zscore { .. } => "zscore",
        Statistic::Minmax => "minmax",
        Statistic::Winsor { .. } => "winsor",
        Statistic::TopFraction { .. } => "top_fraction",
        Statistic::Softmax => "softmax",
    }
}

/// What a statistic is given besides its argument: the text before `over`, and the text after.
fn statistic_arguments(statistic: Statistic) -> (String, String) {
    match statistic {
        Statistic::Zscore { deviation } => {
            let deviation = match deviation {
                Deviation::Sample => "sample",
                Deviation::Population => "population",
            };
            (String::new(), format!(", deviation: {deviation}"))
        }
        Statistic::Winsor { upper } => (format!(", upper: {}", number(upper)), String::new()),
        Statistic::TopFraction { keep } => (format!(", {}", number(keep)), String::new()),
        Statistic::Minmax | Statistic::Softmax => (String::new(), String::new()),
    }
}

/// A call's name, or an operator.
pub fn function(function: Function) -> &'static str {
    use Function::*;
    match function {
        Negate => "-",
        Not => "not ",
        Abs => "abs",
        Exp => "exp",
        Log => "log",
        Log1p => "log1p",
        Sqrt => "sqrt",
        Tanh => "tanh",
        Sigmoid => "sigmoid",
        Relu => "relu",
        Add => "+",
        Subtract => "-",
        Multiply => "*",
        Divide => "/",
        Power => "^",
        Minimum => "min",
        Maximum => "max",
        Equal => "==",
        NotEqual => "!=",
        Less => "<",
        LessEqual => "<=",
        Greater => ">",
        GreaterEqual => ">=",
        And => "and",
        Or => "or",
        Clip => "clip",
        Where => "where",
    }
}

/// `linear(0 -> 1, over: 100 steps)`
pub fn schedule(schedule: &Schedule) -> String {
    let change = |name: &str, from: &f64, to: &f64, steps: &Option<u32>| {
        let over = steps.map(|steps| format!(", over: {steps} steps")).unwrap_or_default();
        format!("{name}({} -> {}{over})", number(*from), number(*to))
    };
    match schedule {
        Schedule::Constant { value } => number(*value),
        Schedule::Linear { from, to, steps } => change("linear", from, to, steps),
        Schedule::Cosine { from, to, steps } => change("cosine", from, to, steps),
        Schedule::Warmup { steps, then } => format!("warmup({steps}, then: {})", self::schedule(then)),
    }
}

/// The shortest text that reads back as the number: `0.5`, `3e-6`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && size.is_finite() && !(1e-4..1e9).contains(&size) { format!("{value:e}") } else { value.to_string() }
}

/// `exp(a - b)` of the two log-probabilities that `ratio` stands for, which is not a word of its own once checked.
pub fn ratio(formula: &Formula) -> Option<&'static str> {
    let FormulaKind::Apply { function: Function::Exp, operands } = &formula.0.kind else { return None };
    let FormulaKind::Apply { function: Function::Subtract, operands } = &operands.first()?.0.kind else { return None };
    let [above, below] = operands.as_slice() else { return None };
    match (&above.0.kind, &below.0.kind) {
        (FormulaKind::Live(Live::Logp), FormulaKind::Signal(Signal::Logp { role: Role::Sampler })) => Some("live ratio"),
        (
            FormulaKind::Signal(Signal::Logp { role: Role::Student }),
            FormulaKind::Signal(Signal::Logp { role: Role::Sampler }),
        ) => Some("ratio"),
        _ => None,
    }
}

const LOOSEST: u8 = 0;
const CALL: u8 = 9;

/// How tightly an operator binds; calls and names bind tightest.
fn precedence(function: Function) -> u8 {
    use Function::*;
    match function {
        Or => 1,
        And => 2,
        Not => 3,
        Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual => 4,
        Add | Subtract => 5,
        Multiply | Divide => 6,
        Negate => 7,
        Power => 8,
        _ => CALL,
    }
}

/// Deepest nesting of operators and calls that is written: nobody reads further, and the stack is finite.
const DEEPEST: usize = 60;

struct Writer {
    text: String,
    limit: usize,
    depth: usize,
    /// The end is reached: nothing is written any more.
    cut: bool,
}

impl Writer {
    fn push(&mut self, text: &str) {
        if !self.cut {
            self.text.push_str(text);
        }
    }

    fn write(&mut self, formula: &Formula, tighter_than: u8) {
        if self.text.len() >= self.limit || self.depth >= DEEPEST {
            self.push("...");
            self.cut = true;
        }
        if self.cut {
            return;
        }
        self.depth += 1;
        self.kind(formula, tighter_than);
        self.depth -= 1;
    }

    fn kind(&mut self, formula: &Formula, tighter_than: u8) {
        if let Some(word) = ratio(formula) {
            self.push(word);
            return;
        }
        match &formula.0.kind {
            FormulaKind::Number(value) if *value < 0.0 && tighter_than >= precedence(Function::Negate) => {
                self.push(&format!("({})", number(*value)));
            }
            FormulaKind::Number(value) => self.push(&number(*value)),
            FormulaKind::Schedule(schedule) => self.push(&self::schedule(schedule)),
            FormulaKind::Signal(signal) => self.push(&self::signal(signal)),
            FormulaKind::Live(live) => self.push(&self::live(live)),
            FormulaKind::Reduce { reduction, operand } => {
                let over = formula.axis().name();
                self.call(self::reduction(*reduction), [operand], &format!(", over: {over}"));
            }
            FormulaKind::Statistic { statistic, operand, over } => {
                let (before, after) = statistic_arguments(*statistic);
                self.call(self::statistic(*statistic), [operand], &format!("{before}, over: {}{after}", over.name()));
            }
            FormulaKind::Apply { function, operands } if precedence(*function) == CALL => {
                self.call(self::function(*function), operands, "");
            }
            FormulaKind::Apply { function, operands } => {
                let open = precedence(*function) <= tighter_than;
                self.push(if open { "(" } else { "" });
                match operands.as_slice() {
                    [operand] => {
                        self.push(self::function(*function));
                        self.write(operand, precedence(*function) - 1);
                    }
                    // A power leans right.
                    [base, exponent] if *function == Function::Power => {
                        self.write(base, precedence(Function::Power));
                        self.push("^");
                        self.write(exponent, precedence(Function::Power) - 1);
                    }
                    _ => self.chain(formula, precedence(*function)),
                }
                self.push(if open { ")" } else { "" });
            }
        }
    }

    /// `name(operand, ...rest)`
    fn call<'a>(&mut self, name: &str, operands: impl IntoIterator<Item = &'a Formula>, rest: &str) {
        self.push(name);
        self.push("(");
        for (position, operand) in operands.into_iter().enumerate() {
            self.push(if position == 0 { "" } else { ", " });
            self.write(operand, LOOSEST);
        }
        self.push(rest);
        self.push(")");
    }

    /// Operators of one rank: they lean left, so only right operands need brackets around an operator of the same rank. The
    /// first operand lies at the bottom of a spine that may be very long.
    fn chain(&mut self, formula: &Formula, rank: u8) {
        let mut rest = Vec::new();
        let mut first = formula;
        while let FormulaKind::Apply { function, operands } = &first.0.kind
            && let [left, right] = operands.as_slice()
            && precedence(*function) == rank
        {
            rest.push((*function, right));
            first = left;
        }
        self.write(first, rank - 1);
        for (function, right) in rest.into_iter().rev() {
            if self.cut {
                return;
            }
            self.push(&format!(" {} ", self::function(function)));
            self.write(right, rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Origin;
    use crate::formula::{Axis, Unit};

    fn part(kind: FormulaKind, axis: Axis) -> Formula {
        Formula::new(kind, Unit::Number, axis, false, Origin(0))
    }

    fn signal(signal: Signal) -> Formula {
        let axis = signal.axis();
        part(FormulaKind::Signal(signal), axis)
    }

    fn apply(function: Function, operands: &[&Formula]) -> Formula {
        let axis = operands.iter().map(|operand| operand.axis()).max().expect("functions have operands");
        part(FormulaKind::Apply { function, operands: operands.iter().copied().cloned().collect() }, axis)
    }

    #[test]
    fn brackets_stand_where_they_are_needed() {
        let (a, b) = (signal(Signal::Reward), signal(Signal::Length));
        let two = part(FormulaKind::Number(2.0), Axis::Run);
        let minus_two = part(FormulaKind::Number(-2.0), Axis::Run);
        let sum = apply(Function::Add, &[&a, &b]);
        let difference = apply(Function::Subtract, &[&a, &b]);
        let product = apply(Function::Multiply, &[&a, &b]);
        let less = apply(Function::Less, &[&a, &b]);
        let power = apply(Function::Power, &[&difference, &two]);
        for (function, operands, expected) in [
            (Function::Multiply, vec![&sum, &two], "(reward + length) * 2"),
            (Function::Add, vec![&product, &two], "reward * length + 2"),
            (Function::Subtract, vec![&a, &difference], "reward - (reward - length)"),
            (Function::Subtract, vec![&difference, &a], "reward - length - reward"),
            (Function::Negate, vec![&sum], "-(reward + length)"),
            (Function::Negate, vec![&power], "-(reward - length)^2"),
            (Function::Power, vec![&power, &two], "((reward - length)^2)^2"),
            (Function::Power, vec![&minus_two, &two], "(-2)^2"),
            (Function::Multiply, vec![&minus_two, &sum], "-2 * (reward + length)"),
            (Function::Where, vec![&less, &sum, &two], "where(reward < length, reward + length, 2)"),
            (Function::Not, vec![&less], "not reward < length"),
            (Function::And, vec![&less, &less], "reward < length and reward < length"),
        ] {
            assert_eq!(formula(&apply(function, &operands), 100), expected);
        }
        let mean = part(FormulaKind::Reduce { reduction: Reduction::Mean, operand: sum }, Axis::Group);
        assert_eq!(formula(&mean, 100), "mean(reward + length, over: group)");
        assert_eq!(formula(&mean, 8), "mean(reward + ...");
    }

    #[test]
    fn statistics_read_as_they_are_written() {
        let entropy = signal(Signal::Entropy { role: Role::Student });
        let of = |statistic| {
            formula(&part(FormulaKind::Statistic { statistic, operand: entropy.clone(), over: Axis::Batch }, Axis::Token), 100)
        };
        assert_eq!(of(Statistic::TopFraction { keep: 0.5 }), "top_fraction(student.entropy, 0.5, over: batch)");
        assert_eq!(of(Statistic::Winsor { upper: 0.98 }), "winsor(student.entropy, upper: 0.98, over: batch)");
        let deviation = Deviation::Sample;
        assert_eq!(of(Statistic::Zscore { deviation }), "zscore(student.entropy, over: batch, deviation: sample)");
    }

    #[test]
    fn a_ratio_is_a_word() {
        let of = |top: FormulaKind| {
            let top = part(top, Axis::Token);
            let sampler = signal(Signal::Logp { role: Role::Sampler });
            formula(&apply(Function::Exp, &[&apply(Function::Subtract, &[&top, &sampler])]), 100)
        };
        assert_eq!(of(FormulaKind::Live(Live::Logp)), "live ratio");
        assert_eq!(of(FormulaKind::Signal(Signal::Logp { role: Role::Student })), "ratio");
        assert_eq!(of(FormulaKind::Signal(Signal::Logp { role: Role::Teacher })), "exp(teacher.logp - sampler.logp)");
    }

    #[test]
    fn numbers_are_short_at_every_size() {
        assert_eq!([0.5, -5.0, 3e-6, 1e300, 0.0, 1_000_000.0].map(number), ["0.5", "-5", "3e-6", "1e300", "0", "1000000"]);
    }

    /// Sharing makes few parts stand for very many: the text is cut, and so is the time.
    #[test]
    fn a_formula_of_many_paths_is_cut() {
        let mut shared = signal(Signal::Reward);
        for _ in 0..200 {
            shared = apply(Function::Add, &[&shared, &shared]);
        }
        let text = formula(&shared, 60);
        assert!(text.starts_with("reward + reward + (reward") && text.ends_with("...") && text.len() < 100, "{text}");
        for _ in 0..20_000 {
            shared = apply(Function::Tanh, &[&shared]);
        }
        assert!(formula(&shared, 1000).ends_with("tanh(..."));
    }
}
