//! Prints formulas as an author would write them, for normal forms, messages and hovers.
//!
//! Expansions that the language has a name for are folded back (`ratio`). Broadcasting from a coarse axis to
//! a fine one is not written, as in the language.

use crate::checked::formula::{
    Adaptive, Amount, Axis, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, Function, Live,
    Mass, Memory, ModelSignal, PreferenceKind, Reduction, Role, Scan, Side, Signal, Similarity, Statistic,
    Summand, Support, Unit,
};
use crate::checked::{Schedule, ScheduleLength};
use mopd_ops::ZSCORE_EPSILON;

/// Longest formula that is quoted inside a name: the parameter of a divergence, a discount.
const INNER: usize = 60;

/// A formula in at most about `limit` characters; the rest is replaced by `...`.
pub fn formula(formula: &Formula, limit: usize) -> String {
    let mut writer = Writer { text: String::new(), limit, depth: 0, cut: false };
    writer.write(formula, LOOSEST);
    writer.text
}

/// A formula inside the name of another one. Only one level of these is written, so that a long chain does
/// not need a deep stack.
fn inner(formula: &Formula) -> String {
    let nested = formula.any(|node| match &node.kind {
        FormulaKind::Signal(Signal::Divergence(divergence))
        | FormulaKind::Live(Live::Divergence(divergence)) => !divergence.formulas().is_empty(),
        FormulaKind::Live(
            Live::SquaredError { .. } | Live::BinaryCrossEntropy { .. } | Live::Preference(_),
        ) => true,
        FormulaKind::Reduce { among, fraction, .. } | FormulaKind::Statistic { among, fraction, .. } => {
            among.is_some() || fraction.is_some()
        }
        FormulaKind::Scan { scan: Scan::RewardToGo { .. }, .. } | FormulaKind::Adaptive(_) => true,
        _ => false,
    });
    if nested { "...".to_owned() } else { self::formula(formula, INNER) }
}

/// `student.logp`, `kl(student || teacher, support: full)`, `reward`
pub fn signal(signal: &Signal) -> String {
    match signal {
        Signal::Plain(signal) => signal.name().into(),
        Signal::Of { role, part } => format!("{}.{}", role.name(), part.name()),
        Signal::Divergence(divergence) => self::divergence(divergence),
        Signal::Overlap { left, right, k } => format!("overlap({}, {}, k: {k})", left.name(), right.name()),
        Signal::Mass { role, support } => {
            format!("mass({}, support: {})", role.name(), self::support(support))
        }
        Signal::InNucleus { role, p } => format!("in_nucleus({}, p: {})", role.name(), number(*p)),
        Signal::SupportSize { support } => format!("size({})", self::support(support)),
        Signal::SpanScore { role, span } => format!("score({}, on: span.{})", role.name(), span.name()),
        Signal::Agreement { role, samples, by } => {
            let by = match by {
                Similarity::Edit => "edit",
                Similarity::Rouge => "rouge",
            };
            format!("agreement({}, samples: {samples}, by: {by})", role.name())
        }
        Signal::InSpan(span) => format!("span.{}", span.name()),
        Signal::Available { role } => format!("available({})", role.name()),
        Signal::RewardPart { part } => format!("reward.{part}"),
        Signal::Data { field } => format!("data.{field}"),
        Signal::DataIs { field, text } => format!("data.{field} == {text:?}"),
        Signal::DomainIs { name, .. } => format!("domain == {name}"),
        Signal::TermLoss { term } => format!("loss.{term}"),
        Signal::State { name, .. } => name.clone(),
        Signal::ValidationLoss => "loss.validation".into(),
        Signal::OfSteps { number, window } => window.written(*number),
        Signal::Random { axis, .. } => format!("random(per: {})", axis.name()),
    }
}

/// `live student.logp`
pub fn live(live: &Live) -> String {
    match live {
        Live::Part(part) => format!("live {}.{}", Role::Student.name(), part.name()),
        Live::Divergence(divergence) => format!("live {}", self::divergence(divergence)),
        Live::Likelihood { of } => format!("live nll({})", of.name()),
        Live::Preference(preference) => {
            let (chosen, rejected) = (preference.chosen.source.name(), preference.rejected.source.name());
            let on =
                preference.on.as_ref().map(|span| format!(", on: span.{}", span.name())).unwrap_or_default();
            let pair = format!("chosen: {chosen}(...), rejected: {rejected}(...){on}");
            match &preference.kind {
                PreferenceKind::Dpo { beta } => format!("live dpo({pair}, beta: {})", inner(beta)),
                PreferenceKind::BradleyTerry => format!("live bradley_terry({pair})"),
            }
        }
        Live::Ranking { order } => format!("live ranking(order: {})", support(order)),
        Live::SquaredError { part, target, dimensions: of } => {
            format!("live mse(student.{}, {}{})", part.name(), inner(target), dimensions(of))
        }
        Live::BinaryCrossEntropy { part, target } => {
            format!("live bce(student.{}, {})", part.name(), inner(target))
        }
    }
}

/// `kl(student || teacher, support: top_k(teacher, 64), mass: generalized)`
pub fn divergence(divergence: &Divergence) -> String {
    if let Some(role) = divergence.as_entropy() {
        return format!("{}.{}", role.name(), ModelSignal::Entropy.name());
    }
    let mut text = format!("{}({}", divergence.kind.name(), sides(divergence));
    match &divergence.kind {
        DivergenceKind::Entrywise(summand) => text += &changed_parameters(summand, ": "),
        DivergenceKind::Gaussian { dimensions: of } => text += &dimensions(of),
        _ => {}
    }
    if divergence.kind.over_vocabulary() {
        text += &format!(", support: {}", support(&divergence.support));
        if divergence.support != Support::Full {
            text += &format!(", mass: {}", mass(divergence.mass));
        }
    }
    text += &match &divergence.temperature {
        Amount::Number(1.0) => String::new(),
        Amount::Number(value) => format!(", temperature: {}", number(*value)),
        Amount::Formula(formula) => format!(", temperature: {}", inner(formula)),
    };
    if let Some(bound) = divergence.clip_each {
        text += &format!(", clip_each: {}", number(bound));
    }
    text + ")"
}

/// `, beta: 0.5`: the parameters that are not at their defaults; `between` separates name and value.
pub fn changed_parameters(summand: &Summand, between: &str) -> String {
    let worth = |value: &Formula| match (value.unit(), value.constant()) {
        (Unit::Bool, Some(truth)) => (truth != 0.0).to_string(),
        _ => inner(value),
    };
    let shown = summand.parameters.iter().filter(|given| !given.default);
    shown.map(|given| format!(", {}{between}{}", given.name, worth(&given.value))).collect()
}

/// `student || teacher`; `student, teacher` where their order has no meaning; the role of a `sum`.
pub fn sides(divergence: &Divergence) -> String {
    let between = if divergence.kind.directed() { " || " } else { ", " };
    let left = distribution(&divergence.left);
    if let DivergenceKind::Entrywise(summand) = &divergence.kind
        && summand.is_sum
    {
        return match summand.uniform {
            None => left,
            Some(Side::Left) => format!("uniform{between}{left}"),
            Some(Side::Right) => format!("{left}{between}uniform"),
        };
    }
    format!("{left}{between}{}", distribution(&divergence.right))
}

fn dimensions(listed: &Option<Vec<u32>>) -> String {
    let Some(listed) = listed else { return String::new() };
    let listed: Vec<String> = listed.iter().map(u32::to_string).collect();
    format!(", dimensions: [{}]", listed.join(", "))
}

/// `teacher`, `blend(teacher: 0.1, student: 0.9)`
pub fn distribution(side: &Distribution) -> String {
    match side {
        Distribution::Role(role) => role.name().to_owned(),
        Distribution::Blend(parts) => {
            let parts: Vec<String> =
                parts.iter().map(|part| format!("{}: {}", part.role.name(), inner(&part.weight))).collect();
            format!("blend({})", parts.join(", "))
        }
        Distribution::Detached(inner) => format!("detached({})", distribution(inner)),
    }
}

/// `full`, `top_k(teacher, 64)`
pub fn support(support: &Support) -> String {
    let several = |name: &str, parts: &[Support]| {
        format!("{name}({})", parts.iter().map(self::support).collect::<Vec<_>>().join(", "))
    };
    match support {
        Support::Full => "full".into(),
        Support::TopK { role, k } => format!("top_k({}, {k})", role.name()),
        Support::Nucleus { role, p } => format!("nucleus({}, {})", role.name(), number(*p)),
        Support::Sampled => "sampled".into(),
        Support::Matched => "matched".into(),
        Support::Unmatched => "unmatched".into(),
        Support::Union(parts) => several("union", parts),
        Support::Intersection(parts) => several("intersection", parts),
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

/// The formula where there is one, else the number.
fn number_or(value: f64, formula: Option<&Formula>) -> String {
    formula.map_or_else(|| number(value), inner)
}

/// The arguments of a reduction besides the reduced formula: the text before `over`, and the text after.
fn reduction_arguments(reduction: Reduction, fraction: Option<&Formula>) -> (String, String) {
    match reduction {
        Reduction::Quantile { q } => (format!(", {}", number_or(q, fraction)), String::new()),
        Reduction::Stddev { deviation } => (String::new(), format!(", deviation: {}", deviation.name())),
        _ => (String::new(), String::new()),
    }
}

/// The arguments of a statistic besides its formula: the text before `over`, and the text after.
fn statistic_arguments(statistic: Statistic, fraction: Option<&Formula>) -> (String, String) {
    let before = |text: String| (text, String::new());
    match statistic {
        Statistic::Zscore { deviation, epsilon } => {
            let epsilon = match epsilon == ZSCORE_EPSILON {
                true => String::new(),
                false => format!(", epsilon: {}", number(epsilon)),
            };
            (String::new(), format!(", deviation: {}{epsilon}", deviation.name()))
        }
        Statistic::Winsor { upper } => before(format!(", upper: {}", number_or(upper, fraction))),
        Statistic::TopFraction { keep } | Statistic::SampleWithoutReplacement { keep } => {
            before(format!(", keep: {}", number_or(keep, fraction)))
        }
        Statistic::TopCount { count } => before(format!(", n: {count}")),
        Statistic::Chunks { most, width } => before(format!(", most: {most}, width: {width}")),
        Statistic::Center
        | Statistic::Rank
        | Statistic::LeaveOneOut
        | Statistic::MeanOfSmaller
        | Statistic::Minmax
        | Statistic::Softmax
        | Statistic::Balance => before(String::new()),
    }
}

/// `linear(0 -> 1, over: 100 steps)`
pub fn schedule(schedule: &Schedule) -> String {
    let change = |name: &str, from: f64, to: f64, over: ScheduleLength| {
        let over = match over {
            ScheduleLength::Run => String::new(),
            ScheduleLength::Steps(steps) => format!(", over: {steps} steps"),
            ScheduleLength::Share(share) => format!(", over: {}%", number(share * 100.0)),
        };
        format!("{name}({} -> {}{over})", number(from), number(to))
    };
    match schedule {
        Schedule::Constant { value } => number(*value),
        Schedule::Linear { from, to, over } => change("linear", *from, *to, *over),
        Schedule::Cosine { from, to, over } => change("cosine", *from, *to, *over),
        Schedule::Exponential { from, to, over } => change("exponential", *from, *to, *over),
        Schedule::Piecewise { pieces } => {
            let pieces: Vec<String> =
                pieces.iter().map(|(step, value)| format!("{step} -> {}", number(*value))).collect();
            format!("piecewise([{}])", pieces.join(", "))
        }
        Schedule::Alternate { values, every } => {
            format!("alternate([{}], every: {every} steps)", numbers(values))
        }
        Schedule::Warmup { steps, then } => format!("warmup({steps} steps, then: {})", self::schedule(then)),
    }
}

fn adaptive(adaptive: &Adaptive) -> String {
    match adaptive {
        Adaptive::Ladder { values, advance_if, every } => {
            format!("ladder([{}], advance_if: {}, every: {every} steps)", numbers(values), inner(advance_if))
        }
        Adaptive::Learned { gain, hold, discount, lr } => {
            let (gain, discount, lr) = (inner(gain), number(*discount), number(*lr));
            format!("learned(gain: {gain}, hold: {hold} steps, discount: {discount}, lr: {lr})")
        }
    }
}

fn numbers(values: &[f64]) -> String {
    values.iter().copied().map(number).collect::<Vec<_>>().join(", ")
}

/// The shortest text that parses to the same number: `0.5`, `3e-6`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && size.is_finite() && !(1e-4..1e9).contains(&size) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

/// The probability and the axis of `bernoulli(p, per: token)`, which is `random(per: token) < p`.
fn bernoulli(formula: &Formula) -> Option<(&Formula, Axis)> {
    let FormulaKind::Apply { function: Function::Less, operands } = &formula.0.kind else { return None };
    let [random, chance] = operands.as_slice() else { return None };
    match random.0.kind {
        FormulaKind::Signal(Signal::Random { axis, .. }) => Some((chance, axis)),
        _ => None,
    }
}

/// The name `ratio` for a formula `exp(a - b)` of the two log-probabilities that it stands for. Checked
/// formulas do not contain the name.
pub fn ratio(formula: &Formula) -> Option<&'static str> {
    let FormulaKind::Apply { function: Function::Exp, operands } = &formula.0.kind else { return None };
    let FormulaKind::Apply { function: Function::Subtract, operands } = &operands.first()?.0.kind else {
        return None;
    };
    let [above, below] = operands.as_slice() else { return None };
    match (&above.0.kind, &below.0.kind) {
        (
            FormulaKind::Live(Live::Part(ModelSignal::Logp)),
            FormulaKind::Signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp }),
        ) => Some("live ratio"),
        (
            FormulaKind::Signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }),
            FormulaKind::Signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp }),
        ) => Some("ratio"),
        _ => None,
    }
}

/// `, among: correct`
fn among(among: &Option<Formula>) -> String {
    among.as_ref().map(|among| format!(", among: {}", inner(among))).unwrap_or_default()
}

const LOOSEST: u8 = 0;

/// The deepest nesting of operators and calls that is written. Deeper text is unreadable.
const DEEPEST: usize = 60;

struct Writer {
    text: String,
    limit: usize,
    depth: usize,
    /// Whether the limit is reached, so that nothing more is written.
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
        if let Some((chance, axis)) = bernoulli(formula) {
            self.call("bernoulli", [chance], &format!(", per: {}", axis.name()));
            return;
        }
        match &formula.0.kind {
            FormulaKind::Number(value) if formula.unit() == Unit::Bool => {
                self.push(if *value == 0.0 { "false" } else { "true" });
            }
            FormulaKind::Number(value) if *value < 0.0 && tighter_than >= Function::Negate.precedence() => {
                self.push(&format!("({})", number(*value)));
            }
            FormulaKind::Number(value) => self.push(&number(*value)),
            FormulaKind::Schedule(schedule) => self.push(&self::schedule(schedule)),
            FormulaKind::Signal(signal) => self.push(&self::signal(signal)),
            FormulaKind::Live(live) => self.push(&self::live(live)),
            FormulaKind::Adaptive(adaptive) => self.push(&self::adaptive(adaptive)),
            FormulaKind::Variable(name) => self.push(name),
            FormulaKind::Entry(entry) => self.push(entry.name()),
            // All completions of a prompt have its row.
            FormulaKind::Reduce {
                reduction: Reduction::Maximum | Reduction::Any,
                operand,
                among: None,
                on: None,
                ..
            } if formula.axis() == Axis::Group
                && let FormulaKind::Signal(row @ (Signal::Data { .. } | Signal::DataIs { .. })) =
                    &operand.0.kind =>
            {
                self.push(&self::signal(row));
            }
            FormulaKind::Reduce { reduction, operand, among, on, fraction } => {
                let (before, after) = reduction_arguments(*reduction, fraction.as_ref());
                let rest = format!("{before}, over: {}{after}", formula.axis().name());
                let on = on
                    .as_ref()
                    .map(|rollout| format!(", on: {}(...)", rollout.source.name()))
                    .unwrap_or_default();
                self.call(reduction.name(), [operand], &(rest + &self::among(among) + &on));
            }
            FormulaKind::Statistic { statistic, operand, over, among, fraction } => {
                let (before, after) = statistic_arguments(*statistic, fraction.as_ref());
                let rest = format!("{before}, over: {}{after}{}", over.name(), self::among(among));
                self.call(statistic.name(), [operand], &rest);
            }
            FormulaKind::Scan { scan, operand, over } => {
                let discount = match scan {
                    Scan::RewardToGo { discount } => format!(", discount: {}", inner(discount)),
                    _ => String::new(),
                };
                self.call(scan.name(), [operand], &format!("{discount}, over: {}", over.name()));
            }
            FormulaKind::Memory { memory: Memory::Ema { rate }, operand } => {
                self.call("ema", [operand], &format!(", rate: {}", number(*rate)));
            }
            FormulaKind::Memory { memory: Memory::Previous, operand } => self.call("previous", [operand], ""),
            FormulaKind::Across { members, index, .. } => match members.get(*index) {
                Some(member) => self.call("softmax", [member], ", across: panel"),
                None => self.push("softmax(..., across: panel)"),
            },
            FormulaKind::Apply { function, operands } if function.is_call() => {
                self.call(function.name(), operands, "");
            }
            FormulaKind::Apply { function, operands } => {
                let open = function.precedence() <= tighter_than;
                self.push(if open { "(" } else { "" });
                match operands.as_slice() {
                    [operand] => {
                        self.push(function.name());
                        self.write(operand, function.precedence() - 1);
                    }
                    // Powers are right-associative.
                    [base, exponent] if *function == Function::Power => {
                        self.write(base, Function::Power.precedence());
                        self.push("^");
                        self.write(exponent, Function::Power.precedence() - 1);
                    }
                    _ => self.chain(formula, function.precedence()),
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

    /// Operators of one precedence. They are left-associative, so only right operands need brackets around an
    /// operator of the same precedence. The left spine may be very deep, so it is not recursive.
    fn chain(&mut self, formula: &Formula, rank: u8) {
        let mut rest = Vec::new();
        let mut first = formula;
        while let FormulaKind::Apply { function, operands } = &first.0.kind
            && let [left, right] = operands.as_slice()
            && function.precedence() == rank
        {
            rest.push((*function, right));
            first = left;
        }
        self.write(first, rank - 1);
        for (function, right) in rest.into_iter().rev() {
            if self.cut {
                return;
            }
            self.push(&format!(" {} ", function.name()));
            self.write(right, rank);
        }
    }
}

#[cfg(test)]
mod tests;
