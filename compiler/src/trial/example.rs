//! Example numbers for an objective.

use mopd_experiment::formula::{Axis, FormulaKind, PlainSignal, Role, Signal};
use serde_json::{Map, Value, json};

use super::supply::{given_as, random_choices, roles};
use crate::audit::compares_vocabularies;
use crate::lower::FormulaGraph;

/// The vocabulary entries of the tokens of the two completions.
const TOKENS: [&[usize]; 2] = [&[0, 2, 1], &[1, 0]];
const REWARDS: [f64; 2] = [1.0, 0.0];
/// The values of all other numbers.
const NUMBERS: [f64; 3] = [0.4, 0.7, 0.3];

/// One prompt with two completions, with every distribution and number that the graph depends on.
pub(super) fn example_numbers(formulas: &FormulaGraph) -> Value {
    let leaves = formulas.leaves();
    let mut wanted: Vec<Role> = Vec::new();
    for role in leaves.iter().flat_map(roles) {
        if !wanted.contains(&role) {
            wanted.push(role);
        }
    }
    let completions = TOKENS.iter().map(|tokens| {
        let mut completion = Map::from_iter([("tokens".to_owned(), json!(tokens))]);
        for (number, role) in wanted.iter().enumerate() {
            let rows: Vec<[f64; 3]> = (0..tokens.len()).map(|token| distribution(number, token)).collect();
            completion.insert(role.name().to_owned(), json!(rows));
        }
        completion
    });
    let mut example = Example {
        run: Map::from_iter([("step".to_owned(), json!(0)), ("steps".to_owned(), json!(100))]),
        prompt: Map::new(),
        completions: completions.collect(),
    };
    if leaves.iter().any(|leaf| compares_vocabularies(&leaf.formula.0.kind)) {
        example.run.insert("matched".to_owned(), json!([0, 1]));
    }
    for leaf in leaves.iter().filter(|leaf| roles(leaf).is_empty()) {
        match &leaf.formula.0.kind {
            FormulaKind::Signal(Signal::Plain(PlainSignal::VocabularySize)) if !wanted.is_empty() => {}
            FormulaKind::Signal(signal) if follows(signal) => {}
            kind if compares_vocabularies(kind) => {}
            // A parameter: `arguments` gives its value. (`star.w` is the weight of a composed teacher.)
            FormulaKind::Variable(name) if !name.contains('.') => {}
            FormulaKind::Signal(Signal::Plain(PlainSignal::Correct)) => example.add("reward", Axis::Sequence),
            FormulaKind::Signal(Signal::State { name, first, .. }) => {
                drop(example.run.insert(name.clone(), json!(first)));
            }
            FormulaKind::Signal(Signal::DomainIs { name, .. }) => {
                example.prompt.entry("domain").or_insert_with(|| json!(**name));
            }
            _ => example.add(&given_as(leaf), leaf.formula.axis()),
        }
    }
    for (name, signal) in random_choices(formulas) {
        example.add(&name, signal.axis());
    }
    let Example { mut run, mut prompt, completions } = example;
    prompt.insert("completions".to_owned(), json!(completions));
    run.insert("prompts".to_owned(), json!([prompt]));
    Value::Object(run)
}

/// Whether a signal is computed from the step and the lengths of completions.
fn follows(signal: &Signal) -> bool {
    matches!(
        signal,
        Signal::Plain(
            PlainSignal::Position
                | PlainSignal::Remaining
                | PlainSignal::Length
                | PlainSignal::Turn
                | PlainSignal::Step
                | PlainSignal::Progress
                | PlainSignal::Selected
        )
    )
}

struct Example {
    run: Map<String, Value>,
    prompt: Map<String, Value>,
    completions: Vec<Map<String, Value>>,
}

impl Example {
    /// Adds a number for each element of an axis.
    fn add(&mut self, name: &str, axis: Axis) {
        match axis {
            Axis::Run | Axis::Batch => drop(self.run.insert(name.to_owned(), json!(NUMBERS[0]))),
            Axis::Group => drop(self.prompt.insert(name.to_owned(), json!(NUMBERS[0]))),
            _ => {
                for (index, completion) in self.completions.iter_mut().enumerate() {
                    let value = match axis {
                        Axis::Token => json!(&NUMBERS[index..index + TOKENS[index].len()]),
                        // All tokens of a block have one number.
                        Axis::Block => json!(vec![NUMBERS[index]; TOKENS[index].len()]),
                        _ if name == "reward" => json!(REWARDS[index]),
                        _ => json!(NUMBERS[index]),
                    };
                    completion.insert(name.to_owned(), value);
                }
            }
        }
    }
}

/// Probabilities of three entries, different for every role and token.
fn distribution(role: usize, token: usize) -> [f64; 3] {
    let each = [0.53, 0.29, 0.18];
    let turned = |entry: usize| each[(entry + role + 2 * token) % 3];
    [turned(0), turned(1), turned(2)]
}
