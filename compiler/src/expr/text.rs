//! Expressions as the author would write them, for messages and for the normal form.

use crate::plan::{Deviation, Divergence, DivergenceKind, Function, Live, Mass, Reduction, Role, Signal, Statistic, Support};

use super::graph::{Graph, LiveId, NodeId, Operation};

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
        DivergenceKind::Jsd { beta } => format!("jsd({left}, {right}, beta: {beta}, {support}{mass})"),
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

/// `zscore`, with what it was given.
pub fn statistic(statistic: Statistic) -> String {
    match statistic {
        Statistic::Zscore { deviation: Deviation::Sample } => "zscore".into(),
        Statistic::Zscore { deviation: Deviation::Population } => "zscore with population deviation".into(),
        Statistic::Minmax => "minmax".into(),
        Statistic::Winsor { upper } => format!("winsor at quantile {upper}"),
        Statistic::TopFraction { keep } => format!("top_fraction {keep}"),
        Statistic::Softmax => "softmax".into(),
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

/// How tightly an operator binds; calls and names bind tightest.
fn precedence(function: Function) -> u8 {
    use Function::*;
    match function {
        Or => 1,
        And => 2,
        Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual => 4,
        Add | Subtract => 5,
        Multiply | Divide => 6,
        Not | Negate => 7,
        Power => 8,
        _ => 9,
    }
}

/// The expression that a node computes, in at most about `limit` characters; what does not fit is `...`. Going from a
/// coarse axis to a fine one is silent, as in the language.
pub fn expression(graph: &Graph, node: NodeId, primitives: &[Live], limit: usize) -> String {
    let mut writer = Writer { graph, primitives, text: String::new(), limit, depth: 0 };
    writer.write(node, 0);
    writer.text
}

struct Writer<'a> {
    graph: &'a Graph,
    primitives: &'a [Live],
    text: String,
    limit: usize,
    depth: usize,
}

impl Writer<'_> {
    fn write(&mut self, node: NodeId, tighter_than: u8) {
        // Brackets are not written before their contents: a deep expression says nothing for long.
        if self.text.len() >= self.limit || self.depth >= self.limit {
            if !self.text.ends_with("...") {
                self.text.push_str("...");
            }
            return;
        }
        self.depth += 1;
        self.operation(node, tighter_than);
        self.depth -= 1;
    }

    fn operation(&mut self, node: NodeId, tighter_than: u8) {
        match &self.graph.node(node).operation {
            Operation::Constant { value } => self.text.push_str(&value.to_string()),
            Operation::Schedule { .. } => self.text.push_str("schedule"),
            Operation::Signal { signal } => self.text.push_str(&self::signal(signal)),
            Operation::Live { live: LiveId(index) } => match self.primitives.get(*index as usize) {
                Some(primitive) => self.text.push_str(&live(primitive)),
                None => self.text.push_str("live"),
            },
            Operation::Broadcast { operand } => self.write(*operand, tighter_than),
            Operation::Reduce { reduction, operand, .. } => {
                self.text.push_str(self::reduction(*reduction));
                self.over(*operand, self.graph.axis(node).name());
            }
            Operation::Statistic { statistic, operand, over, .. } => {
                self.text.push_str(&self::statistic(*statistic));
                self.over(*operand, over.name());
            }
            Operation::Apply { function, operands } => {
                let own = precedence(*function);
                if own == 9 {
                    self.text.push_str(self::function(*function));
                    self.text.push('(');
                    for (position, operand) in operands.iter().enumerate() {
                        self.text.push_str(if position == 0 { "" } else { ", " });
                        self.write(*operand, 0);
                    }
                    self.text.push(')');
                    return;
                }
                let open = own <= tighter_than;
                self.text.push_str(if open { "(" } else { "" });
                if let [left, right] = operands[..] {
                    // Operators lean left: only the right operand needs brackets around an operator of the same rank.
                    self.write(left, own - 1);
                    self.text.push_str(&format!(" {} ", self::function(*function)));
                    self.write(right, own);
                } else {
                    self.text.push_str(self::function(*function));
                    self.write(operands[0], own - 1);
                }
                self.text.push_str(if open { ")" } else { "" });
            }
        }
    }

    fn over(&mut self, operand: NodeId, axis: &str) {
        self.text.push('(');
        self.write(operand, 0);
        self.text.push_str(&format!(", over: {axis})"));
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Axis;

    use super::*;

    #[test]
    fn brackets_stand_where_they_are_needed() {
        let mut graph = Graph::default();
        let a = graph.signal(Signal::Reward);
        let b = graph.signal(Signal::Length);
        let c = graph.constant(Axis::Run, 2.0);
        let sum = graph.apply(Function::Add, &[a, b]);
        let difference = graph.apply(Function::Subtract, &[a, b]);
        let product = graph.apply(Function::Multiply, &[a, b]);
        let less = graph.apply(Function::Less, &[a, b]);
        for (function, operands, expected) in [
            (Function::Multiply, vec![sum, c], "(reward + length) * 2"),
            (Function::Add, vec![product, c], "reward * length + 2"),
            (Function::Subtract, vec![a, difference], "reward - (reward - length)"),
            (Function::Subtract, vec![difference, a], "reward - length - reward"),
            (Function::Negate, vec![sum], "-(reward + length)"),
            (Function::Where, vec![less, sum, c], "where(reward < length, reward + length, 2)"),
            (Function::Not, vec![less], "not (reward < length)"),
        ] {
            let node = graph.apply(function, &operands);
            assert_eq!(expression(&graph, node, &[], 100), expected);
        }
        let mean = graph.reduce(Reduction::Mean, sum, Axis::Group, None);
        assert_eq!(expression(&graph, mean, &[], 100), "mean(reward + length, over: group)");
        assert_eq!(expression(&graph, mean, &[], 8), "mean(reward + ..., over: group)");
    }
}
