//! An objective of the library, the paper's formulas for it, and their comparison.

use std::fmt;

use mopd_compiler::{Expressions, TermExpressions, expressions};
use mopd_experiment::formula::{self as wide, Formula, FormulaKind};
use mopd_experiment::{Objective, Stage, Term};
use mopd_expr::batch::Batch;
use mopd_expr::derivative::adjoints;
use mopd_expr::graph::{Graph, LiveId, NodeId, Operation};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::Program;
use mopd_lang::Analysis;
use mopd_lang::source::Span;
use mopd_plan::{Axis, Function, Live, PlainSignal, Reduction, Signal};
use mopd_tests::{check_text, listing, root};

use crate::weights::table::{At, STEP, STEPS, Table};

/// Tolerances of the interpreter and of the compiled program, which computes in f32, against the reference.
/// Both are relative to the number or to 1, whichever is larger. (If all numbers of an output are below 1, to
/// the largest of them.)
const EXACT: f64 = 1e-12;
const SINGLE: f64 = 1e-5;

pub type Reference = Box<dyn Fn(&Table) -> Vec<f64>>;

pub fn per_token(number: impl Fn(At) -> f64 + 'static) -> Reference {
    Box::new(move |table| table.each(&number))
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// An objective of a module and the reference for everything that it computes for a token.
pub struct Case {
    pub module: &'static str,
    pub objective: &'static str,
    /// Values for parameters that the library leaves open, or other values than its own.
    values: Vec<(&'static str, &'static str)>,
    /// The program and model that give the objective its teachers, where any teacher is not enough.
    program: Option<(&'static str, &'static str)>,
    select: Option<Reference>,
    weight: Option<Reference>,
    terms: Vec<TermReference>,
    one_way: Vec<(&'static str, &'static str)>,
}

struct TermReference {
    name: &'static str,
    /// The term without its weights, if it is not the sum of primitives times their coefficients.
    value: Option<Reference>,
    /// For each live primitive, the derivative of the sum over all tokens.
    coefficients: Vec<(&'static str, Reference)>,
    weight: Option<Reference>,
    when: Option<Reference>,
    /// Formulas inside its primitives: shares of a blend, targets.
    inside: Vec<Reference>,
}

/// `of("tip.tip")`
pub fn of(path: &'static str) -> Case {
    let (module, objective) = path.split_once('.').expect("a module and an objective");
    Case {
        module,
        objective,
        values: Vec::new(),
        program: None,
        select: None,
        weight: None,
        terms: Vec::new(),
        one_way: Vec::new(),
    }
}

impl Case {
    /// `tip.tip`
    pub fn path(&self) -> String {
        format!("{}.{}", self.module, self.objective)
    }

    /// The value of a parameter.
    pub fn with(mut self, parameter: &'static str, value: &'static str) -> Case {
        self.values.push((parameter, value));
        self
    }

    /// With the teachers of a model that a program in `tests/methods` trains.
    pub fn in_program(mut self, program: &'static str, model: &'static str) -> Case {
        self.program = Some((program, model));
        self
    }

    pub fn select(mut self, holds: impl Fn(At) -> bool + 'static) -> Case {
        self.select = Some(per_token(move |t| truth(holds(t))));
        self
    }

    /// [`Case::select`] for a selection that compares the tokens of the batch.
    pub fn selection(mut self, holds: impl Fn(&Table) -> Vec<bool> + 'static) -> Case {
        self.select = Some(Box::new(move |table| holds(table).into_iter().map(truth).collect()));
        self
    }

    /// The weight of all terms.
    pub fn weight(mut self, number: impl Fn(At) -> f64 + 'static) -> Case {
        self.weight = Some(per_token(number));
        self
    }

    /// A term that is one live primitive times a coefficient.
    pub fn linear(
        mut self,
        name: &'static str,
        live: &'static str,
        coefficient: impl Fn(At) -> f64 + 'static,
    ) -> Case {
        let coefficients = vec![(live, per_token(coefficient))];
        self.terms.push(TermReference {
            name,
            value: None,
            coefficients,
            weight: None,
            when: None,
            inside: Vec::new(),
        });
        self
    }

    /// Another primitive of the last term.
    pub fn plus(mut self, live: &'static str, coefficient: impl Fn(At) -> f64 + 'static) -> Case {
        self.last().coefficients.push((live, per_token(coefficient)));
        self
    }

    /// A nonlinear term: its value, and its derivative in the student's log-probability.
    pub fn curved(
        mut self,
        name: &'static str,
        value: impl Fn(At) -> f64 + 'static,
        derivative: impl Fn(At) -> f64 + 'static,
    ) -> Case {
        self = self.linear(name, "student.logp", derivative);
        self.last().value = Some(per_token(value));
        self
    }

    /// [`Case::curved`], with the derivative in another primitive.
    pub fn bent(
        mut self,
        name: &'static str,
        live: &'static str,
        value: impl Fn(At) -> f64 + 'static,
        derivative: impl Fn(At) -> f64 + 'static,
    ) -> Case {
        self = self.linear(name, live, derivative);
        self.last().value = Some(per_token(value));
        self
    }

    /// `-A * drift`: a policy gradient, weighted against the policy that sampled.
    pub fn importance(self, name: &'static str, advantage: impl Fn(At) -> f64 + Copy + 'static) -> Case {
        let loss = move |t: At| -advantage(t) * t.drift();
        self.curved(name, loss, loss)
    }

    /// The clipped surrogate of PPO.
    pub fn clipped(
        self,
        name: &'static str,
        low: f64,
        high: f64,
        advantage: impl Fn(At) -> f64 + Copy + 'static,
    ) -> Case {
        self.clipped_at(name, |t| t.ratio(), [low, high], advantage)
    }

    /// The same with another ratio.
    pub fn clipped_at(
        self,
        name: &'static str,
        ratio: fn(At) -> f64,
        [low, high]: [f64; 2],
        advantage: impl Fn(At) -> f64 + Copy + 'static,
    ) -> Case {
        self.curved(
            name,
            move |t| crate::weights::math::clipped(ratio(t), advantage(t), low, high),
            move |t| crate::weights::math::clipped_derivative(ratio(t), advantage(t), low, high),
        )
    }

    /// Where the last term applies.
    pub fn when(mut self, holds: impl Fn(At) -> bool + 'static) -> Case {
        self.last().when = Some(per_token(move |t| truth(holds(t))));
        self
    }

    /// The last term's own weight.
    pub fn weighing(mut self, number: impl Fn(At) -> f64 + 'static) -> Case {
        self.last().weight = Some(per_token(number));
        self
    }

    /// A formula inside a primitive of the last term; in the order in which they are written.
    pub fn inside(mut self, number: impl Fn(At) -> f64 + 'static) -> Case {
        self.last().inside.push(per_token(number));
        self
    }

    /// A choice that can't go both ways on any batch, or goes one way here: the function that makes it, and
    /// why.
    pub fn one_way(mut self, function: &'static str, why: &'static str) -> Case {
        self.one_way.push((function, why));
        self
    }

    fn last(&mut self) -> &mut TermReference {
        self.terms.last_mut().expect("a term comes first")
    }
}

/// How much of an objective was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub selections: usize,
    pub weights: usize,
    pub gates: usize,
    pub coefficients: usize,
    /// Shares of blends, targets.
    pub inside: usize,
}

/// `selection, 2 weights, 1 coefficient`
impl fmt::Display for Compared {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let counts = [
            (self.selections, "selection"),
            (self.weights, "weight"),
            (self.gates, "gate"),
            (self.coefficients, "coefficient"),
            (self.inside, "number inside a primitive"),
        ];
        let said =
            counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| match (count, what) {
                (1, _) => what.to_owned(),
                (_, "number inside a primitive") => format!("{count} numbers inside primitives"),
                _ => format!("{count} {what}s"),
            });
        out.write_str(&said.collect::<Vec<String>>().join(", "))
    }
}

/// Compares, or says what differs.
pub fn compare(case: &Case) -> Result<Compared, String> {
    let (analysis, objective) = objective(case)?;
    let (mut comparison, lowered) = Comparison::new(&objective, &analysis.origins)?;
    let mut compared = Compared {
        selections: comparison.expect("select", lowered.select, case.select.as_ref())?,
        weights: comparison.expect("weight", lowered.weight, case.weight.as_ref())?,
        ..Compared::default()
    };
    let names =
        |lowered: &[TermExpressions]| lowered.iter().map(|term| term.name.clone()).collect::<Vec<_>>();
    if names(&lowered.terms) != case.terms.iter().map(|term| term.name).collect::<Vec<_>>() {
        return Err(format!("has the terms {:?}", names(&lowered.terms)));
    }
    let live: Vec<LiveId> = (0..lowered.live.len() as u32).map(LiveId).collect();
    for (term, reference) in lowered.terms.iter().zip(&case.terms) {
        let name = &term.name;
        compared.weights +=
            comparison.expect(&format!("weight of {name}"), term.weight, reference.weight.as_ref())?;
        compared.gates +=
            comparison.expect(&format!("when of {name}"), term.when, reference.when.as_ref())?;
        comparison.choices(&[term.value]);
        let total = comparison.graph.reduce(Reduction::Sum, term.value, Axis::Batch, None);
        let gradients =
            adjoints(&mut comparison.graph, total, &live).map_err(|refusal| refusal.to_string())?;
        for (coefficient, live) in gradients.into_iter().zip(comparison.names.clone()) {
            let known = reference.coefficients.iter().find(|(name, _)| means(name, &live));
            let number = match known {
                Some((_, number)) => number(&comparison.table),
                None => comparison.table.each(|_| 0.0),
            };
            comparison.numbers(format!("coefficient of `{live}` in {name}"), coefficient, number);
            compared.coefficients += usize::from(known.is_some());
        }
        let unknown = |(name, _): &&(&str, Reference)| !comparison.names.iter().any(|live| means(name, live));
        if let Some((unknown, _)) = reference.coefficients.iter().find(unknown) {
            return Err(format!("has nothing live called `{unknown}`, but {:?}", comparison.names));
        }
        let value = match &reference.value {
            Some(value) => value(&comparison.table),
            None => {
                let parts = reference.coefficients.iter().map(|(live, number)| {
                    let numbers = number(&comparison.table);
                    let live =
                        comparison.names.iter().find(|name| means(live, name)).expect("just looked for");
                    comparison.table.tokens().zip(numbers).map(|(t, x)| t.s(live) * x).collect::<Vec<f64>>()
                });
                parts
                    .reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect())
                    .expect("a term has a primitive")
            }
        };
        comparison.numbers(format!("value of {name}"), term.value, value);
    }
    comparison.finish(&case.one_way)?;

    for (term, reference) in objective.terms.iter().zip(&case.terms) {
        let inside = inside(&term.value);
        if inside.len() != reference.inside.len() {
            let texts: Vec<String> = inside.iter().map(|formula| wide::text::formula(formula, 120)).collect();
            return Err(format!(
                "computes {} numbers inside the primitives of {}: {texts:?}",
                inside.len(),
                term.name
            ));
        }
        for (formula, number) in inside.into_iter().zip(&reference.inside) {
            compare_formula(&analysis, &objective, formula, number)
                .map_err(|fault| format!("inside of {}: {fault}", term.name))?;
            compared.inside += 1;
        }
    }
    Ok(compared)
}

/// Compares a formula that is no objective of its own, read as the weight of one.
pub fn compare_formula(
    analysis: &Analysis,
    around: &Objective,
    formula: Formula,
    number: &Reference,
) -> Result<(), String> {
    let objective = Objective { weight: Some(formula), ..around.clone() };
    let (mut comparison, lowered) = Comparison::new(&objective, &analysis.origins)?;
    comparison.expect("value", lowered.weight, Some(number))?;
    comparison.finish(&[])
}

/// The formulas inside the primitives of a term that are not constant, each once.
fn inside(value: &Formula) -> Vec<Formula> {
    let mut found: Vec<Formula> = Vec::new();
    for part in value.parts() {
        let formulas = match &part.0.kind {
            FormulaKind::Live(wide::Live::Divergence(of))
            | FormulaKind::Signal(wide::Signal::Divergence(of)) => of.formulas(),
            FormulaKind::Live(
                wide::Live::SquaredError { target, .. } | wide::Live::BinaryCrossEntropy { target, .. },
            ) => {
                vec![target]
            }
            _ => continue,
        };
        for formula in formulas {
            let plain = matches!(formula.0.kind, FormulaKind::Signal(_)) || formula.constant().is_some();
            if !plain && !found.contains(formula) {
                found.push(formula.clone());
            }
        }
    }
    found
}

/// The checked objective, and the analysis that its places refer to.
fn objective(case: &Case) -> Result<(Analysis, Objective), String> {
    if let Some((program, model)) = case.program {
        let path = root().join(format!("tests/methods/{program}.mopd"));
        let analysis = check_text(program, &std::fs::read_to_string(path).expect("a program"));
        let experiment = analysis.experiment.as_ref().ok_or_else(|| listing(&analysis))?;
        let found = experiment.models.iter().find(|known| known.name == model).map(|known| &known.stage);
        let Some(Stage::Train(train)) = found else {
            return Err(format!("no model `{model}` is trained in {program}.mopd"));
        };
        let objective = train.objective.clone();
        return Ok((analysis, objective));
    }
    let (path, text) = mopd_std::module(case.module).ok_or("no such module")?;
    let analysis = check_text(&path, &with_values(text, case));
    if analysis.has_errors() {
        return Err(listing(&analysis));
    }
    let found =
        analysis.objectives.iter().find(|known| known.public && known.objective.name == case.objective);
    let objective = found.ok_or("no such objective")?.objective.clone();
    Ok((analysis, objective))
}

/// The module's text, with the values of the case as the parameters' defaults.
fn with_values(text: &str, case: &Case) -> String {
    if case.values.is_empty() {
        return text.to_owned();
    }
    let declaration = format!("pub objective {}(", case.objective);
    let start = text.find(&declaration).expect("the objective has parameters") + declaration.len();
    let mut depth = 1;
    let end = text[start..].find(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        depth == 0
    });
    let end = start + end.expect("the parameters end");
    let mut parameters: Vec<String> = Vec::new();
    for piece in text[start..end].split(',') {
        let open = |text: &String| text.matches('(').count() > text.matches(')').count();
        match parameters.last_mut() {
            Some(last) if open(last) => *last += &format!(",{piece}"),
            _ => parameters.push(piece.to_owned()),
        }
    }
    for (name, value) in &case.values {
        let named = |parameter: &&mut String| parameter.trim_start().starts_with(&format!("{name}:"));
        let parameter = parameters.iter_mut().find(named).unwrap_or_else(|| panic!("no parameter `{name}`"));
        let declared = parameter.split(" = ").next().expect("a split has a first part").trim_end().to_owned();
        *parameter = format!("{declared} = {value}");
    }
    format!("{}{}{}", &text[..start], parameters.join(","), &text[end..])
}

/// The language's names of the compiler's signals and primitives, found by lowering each one alone.
struct Names {
    signals: Vec<(Signal, String)>,
    live: Vec<(Live, String)>,
}

impl Names {
    fn of(objective: &Objective, origins: &[Span]) -> Result<Names, String> {
        let mut names = Names { signals: Vec::new(), live: Vec::new() };
        let alone = |weight: Option<Formula>, value: Formula| {
            let term = Term { when: None, weight: None, data: None, value, ..objective.terms[0].clone() };
            let objective = Objective { select: None, weight, terms: vec![term], ..objective.clone() };
            expressions(&objective, origins).map_err(|refusal| refusal.message.clone())
        };
        for part in objective.formulas().into_iter().flat_map(Formula::parts) {
            match &part.0.kind {
                FormulaKind::Signal(signal) => {
                    let lowered = alone(Some(part.clone()), objective.terms[0].value.clone())?;
                    if let [signal_alone] =
                        lowered.graph.signals(&lowered.weight.into_iter().collect::<Vec<_>>()).as_slice()
                    {
                        names.signals.push((signal_alone.clone(), short(&wide::text::signal(signal))));
                    }
                }
                FormulaKind::Live(live) => {
                    let [live_alone] =
                        alone(None, part.clone())?.live.try_into().expect("a primitive is one primitive");
                    names.live.push((live_alone, short(wide::text::live(live).trim_start_matches("live "))));
                }
                _ => {}
            }
        }
        Ok(names)
    }

    fn signal(&self, wanted: &Signal) -> String {
        let known = self.signals.iter().find(|(signal, _)| signal == wanted).map(|(_, text)| text.clone());
        match wanted {
            Signal::Uniform { draw, .. } => format!("uniform {draw}"),
            // `remaining` is computed from these.
            Signal::Plain(PlainSignal::Position) => "position".into(),
            Signal::Plain(PlainSignal::Length) => "length".into(),
            _ => known.unwrap_or_else(|| panic!("{wanted:?} comes from nowhere in the objective")),
        }
    }

    fn live(&self, wanted: &Live) -> String {
        let known = self.live.iter().find(|(live, _)| live == wanted).map(|(_, text)| text.clone());
        known.unwrap_or_else(|| panic!("{wanted:?} comes from nowhere in the objective"))
    }
}

/// Leaves out `support: full`, which is the default.
fn short(text: &str) -> String {
    text.replace(", support: full", "")
}

/// The name of a carried number: `before loss.imitate` for the average of a signal, else `before`.
fn carried_name(graph: &Graph, memory: NodeId, names: &Names) -> String {
    let operand = graph.operands(memory)[0];
    match &graph.node(operand).operation {
        Operation::Signal { signal } => format!("before {}", names.signal(signal)),
        _ => "before".into(),
    }
}

/// Whether a reference's name means the primitive; `...` in it stands for any text.
fn means(reference: &str, live: &str) -> bool {
    match reference.split_once("...") {
        Some((start, _)) => live.starts_with(start),
        None => live == reference,
    }
}

/// Nodes of one graph, with the numbers that they should have.
struct Comparison {
    graph: Graph,
    table: Table,
    /// Names of the live primitives.
    names: Vec<String>,
    batch: Batch,
    expected: Vec<(String, NodeId, Vec<f64>)>,
    /// Nodes that the objective itself computes, without its derivatives.
    choosing: Vec<NodeId>,
}

impl Comparison {
    fn new(objective: &Objective, origins: &[Span]) -> Result<(Comparison, Expressions), String> {
        let lowered = expressions(objective, origins)
            .map_err(|refusal| format!("is not lowered: {}", refusal.message))?;
        let known = Names::of(objective, origins)?;
        let graph = lowered.graph.clone();
        let roots: Vec<NodeId> = (0..graph.len() as u32).map(NodeId).collect();
        let mut table = Table::new();
        let mut batch = Batch { layout: table.layout(), step: STEP, steps: STEPS, ..Batch::default() };
        for signal in graph.signals(&roots) {
            let numbers = table.supply(&known.signal(&signal), signal.axis()).to_vec();
            batch.signals.push((signal, numbers));
        }
        let names: Vec<String> = lowered.live.iter().map(|live| known.live(live)).collect();
        batch.live = names.iter().map(|name| table.supply(name, Axis::Token).to_vec()).collect();
        for (node, _) in graph.carried(&roots) {
            let before = f64::from(table.supply(&carried_name(&graph, node, &known), Axis::Run)[0]);
            batch.carried.insert(node, before);
        }
        Ok((Comparison { graph, table, names, batch, expected: Vec::new(), choosing: Vec::new() }, lowered))
    }

    /// Node and reference must both exist or both be absent. Returns the number of nodes to compare.
    fn expect(
        &mut self,
        what: &str,
        node: Option<NodeId>,
        reference: Option<&Reference>,
    ) -> Result<usize, String> {
        match (node, reference) {
            (None, None) => Ok(0),
            (Some(node), Some(reference)) => {
                self.choices(&[node]);
                let numbers = reference(&self.table);
                if (what == "select" || what.starts_with("when"))
                    && !(numbers.contains(&0.0) && numbers.contains(&1.0))
                {
                    return Err(format!("the {what} of the reference does not occur both ways"));
                }
                self.numbers(what.to_owned(), node, numbers);
                Ok(1)
            }
            (None, Some(_)) => Err(format!("has no {what}")),
            (Some(_), None) => Err(format!("has a {what}, for which there is no reference")),
        }
    }

    fn choices(&mut self, nodes: &[NodeId]) {
        self.choosing.extend(nodes);
    }

    fn numbers(&mut self, what: String, node: NodeId, numbers: Vec<f64>) {
        self.expected.push((what, node, numbers));
    }

    /// Evaluates all nodes at once. `one_way` lists the choices that need not go both ways: their function,
    /// and why.
    fn finish(mut self, one_way: &[(&str, &str)]) -> Result<(), String> {
        let needed = self.graph.reachable(&self.choosing);
        let chosen: Vec<NodeId> =
            self.graph.nodes().map(|(id, _)| id).filter(|id| needed[id.0 as usize]).collect();
        let mut outputs: Vec<NodeId> = self.expected.iter().map(|(_, node, _)| *node).collect();
        let all: Vec<NodeId> = outputs.iter().chain(&chosen).copied().collect();
        outputs.dedup();
        let exact = interpret(&self.graph, &all, &self.batch).map_err(|error| error.to_string())?;
        let program = Program::compile(&self.graph, &outputs).map_err(|error| error.to_string())?;
        let single = program.run(&self.batch).map_err(|error| error.to_string())?;
        for (what, node, expected) in std::mem::take(&mut self.expected) {
            let axis = self.graph.axis(node);
            let largest = expected.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
            for (t, expected) in self.table.tokens().zip(&expected) {
                let element = t.element(axis);
                let size = expected.abs().max(largest.min(1.0));
                let (interpreted, compiled) =
                    (exact.get(node)[element], f64::from(single.get(node)[element]));
                let apart = |x: f64, bound: f64| x.is_nan() || (x - expected).abs() > bound * size;
                if apart(interpreted, EXACT) {
                    return Err(format!(
                        "{what}, token {}: {interpreted} where the reference has {expected}",
                        t.token
                    ));
                }
                if apart(compiled, SINGLE) {
                    return Err(format!(
                        "{what}, token {}: compiled {compiled} where the reference has {expected}",
                        t.token
                    ));
                }
            }
        }
        let mut stuck: Vec<(&'static str, String)> = Vec::new();
        for id in chosen {
            if self.graph.axis(id) <= Axis::Batch {
                continue;
            }
            let Operation::Apply { function, operands } = &self.graph.node(id).operation else { continue };
            let of = |operand: usize| exact.get(operands[operand]);
            if !both_ways(*function, exact.get(id), (0..operands.len()).map(of).collect()) {
                stuck.push((function.name(), format!("of {:?}", of(0))));
            }
        }
        if let Some((function, of)) =
            stuck.iter().find(|(function, _)| !one_way.iter().any(|(known, _)| known == function))
        {
            return Err(format!("a `{function}` goes one way on the whole batch: {of}"));
        }
        match one_way.iter().find(|(function, _)| !stuck.iter().any(|(known, _)| known == function)) {
            Some((function, why)) => Err(format!("every `{function}` goes both ways, in spite of: {why}")),
            None => Ok(()),
        }
    }
}

/// Whether a choice goes both ways somewhere; true for functions that make no choice.
fn both_ways(function: Function, results: &[f64], operands: Vec<&[f64]>) -> bool {
    let mixed = |holds: &dyn Fn(usize) -> bool| {
        let first = holds(0);
        (0..results.len()).any(|index| holds(index) != first)
    };
    match function {
        Function::Where => mixed(&|index| operands[0][index] != 0.0),
        Function::Clip => mixed(&|index| operands[0][index] != results[index]),
        Function::Minimum | Function::Maximum => mixed(&|index| operands[0][index] < operands[1][index]),
        Function::Relu => mixed(&|index| operands[0][index] > 0.0),
        Function::Less | Function::LessEqual | Function::Greater | Function::GreaterEqual => {
            mixed(&|index| results[index] != 0.0)
        }
        _ => true,
    }
}
