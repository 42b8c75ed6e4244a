//! Which units may be combined by which operators, found by running the checker.

use std::collections::HashMap;
use std::fmt::Write as _;

use mopd_experiment::formula::{Axis, Function, Unit};
use mopd_lang::check::index::SymbolKind;

/// One expression of every unit, with the finest axis if there is a choice.
const SAMPLES: &[(Unit, &str)] = &[
    (Unit::Number, "loss"),
    (Unit::Logp, "teacher.logp"),
    (Unit::Prob, "teacher.top1"),
    (Unit::Ratio, "ratio"),
    (Unit::Nats, "teacher.entropy"),
    (Unit::Real, "reward"),
    (Unit::Fraction, "progress"),
    (Unit::Count, "length"),
    (Unit::Bool, "correct"),
];

const OPERATORS: &[(&str, &str)] = &[
    ("+", "Sums"),
    ("-", "Differences"),
    ("*", "Products"),
    ("/", "Quotients"),
    ("^", "Powers"),
    (
        "<",
        "Comparisons: `==`, `!=`, `<`, `<=`, `>`, `>=`; the two sides of a `min`, `max` or `where` and the \
         bounds of a `clip` obey the same table",
    ),
];

/// Elementwise functions of one operand.
fn functions_of_one() -> Vec<&'static str> {
    let one = Function::ALL.iter().filter(|function| function.is_call() && function.operands() == 1);
    one.map(|function| function.name()).collect()
}

/// The unit and axis of each expression, or `None` if the checker refuses it.
fn ask(expressions: &[String]) -> Vec<Option<(Unit, Axis)>> {
    let mut program = "objective asked {\n".to_owned();
    for (index, expression) in expressions.iter().enumerate() {
        let _ = writeln!(program, "  let x{index} = {expression}");
    }
    program += "  term all = live student.logp\n  reduce = mean(token, over: batch)\n}\n";
    let analysis = mopd_tests::check("asked.mopd", &program);
    let symbols = analysis.index.symbols.iter().filter(|symbol| symbol.kind == SymbolKind::LocalLet);
    let known: HashMap<&str, (Unit, Axis)> =
        symbols.filter_map(|symbol| Some((symbol.name.as_str(), symbol.info.as_ref()?.number?))).collect();
    let results: Vec<_> =
        (0..expressions.len()).map(|index| known.get(format!("x{index}").as_str()).copied()).collect();
    let refused = results.iter().filter(|result| result.is_none()).count();
    let diagnostics = analysis.diagnostics.len();
    assert_eq!(refused, diagnostics, "each refusal is one diagnostic:\n{}", mopd_tests::listing(&analysis));
    results
}

fn name(result: Option<(Unit, Axis)>) -> &'static str {
    result.map_or("·", |(unit, _)| unit.name())
}

/// A table for each operator: the left side down, the right side across.
pub fn operators() -> String {
    let mut text = String::new();
    for (operator, title) in OPERATORS {
        let pair = |left: &str, right: &str| format!("{left} {operator} {right}");
        let asked: Vec<String> = SAMPLES
            .iter()
            .flat_map(|(_, left)| SAMPLES.iter().map(move |(_, right)| pair(left, right)))
            .collect();
        let results = ask(&asked);
        let across: Vec<&str> = SAMPLES.iter().map(|(unit, _)| unit.name()).collect();
        let _ = write!(
            text,
            "{title}:\n\n| `{operator}` | {} |\n|---{}|\n",
            across.join(" | "),
            "|---".repeat(SAMPLES.len())
        );
        for (row, (unit, _)) in SAMPLES.iter().enumerate() {
            let cells: Vec<&str> =
                results[row * SAMPLES.len()..][..SAMPLES.len()].iter().map(|result| name(*result)).collect();
            let _ = writeln!(text, "| **{}** | {} |", unit.name(), cells.join(" | "));
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// The unit that each function of one number returns.
pub fn functions() -> String {
    let listed = functions_of_one();
    let asked: Vec<String> = listed
        .iter()
        .flat_map(|function| SAMPLES.iter().map(move |(_, of)| format!("{function}({of})")))
        .collect();
    let results = ask(&asked);
    let across: Vec<&str> = SAMPLES.iter().map(|(unit, _)| unit.name()).collect();
    let mut text = format!("| of a | {} |\n|---{}|\n", across.join(" | "), "|---".repeat(SAMPLES.len()));
    for (row, function) in listed.iter().enumerate() {
        let cells: Vec<&str> =
            results[row * SAMPLES.len()..][..SAMPLES.len()].iter().map(|result| name(*result)).collect();
        let _ = writeln!(text, "| `{function}` | {} |", cells.join(" | "));
    }
    text.trim_end().to_owned()
}

/// Every unit with an example.
pub fn units() -> String {
    let mut text = "| unit | what it measures | for example |\n|---|---|---|\n".to_owned();
    let results = ask(&SAMPLES.iter().map(|(_, sample)| (*sample).to_owned()).collect::<Vec<_>>());
    for ((unit, sample), result) in SAMPLES.iter().zip(results) {
        let (found, axis) = result.expect("every sample is a number");
        assert_eq!(found, *unit, "`{sample}`");
        let _ = writeln!(text, "| {} | {} | `{sample}`, per {} |", unit.name(), meaning(*unit), axis.name());
    }
    text.trim_end().to_owned()
}

fn meaning(unit: Unit) -> &'static str {
    match unit {
        Unit::Number => "a literal, or a product of unlike things: it takes the unit of what it is added to",
        Unit::Logp => "the log of a probability",
        Unit::Prob => "a probability",
        Unit::Ratio => "a quotient of like things",
        Unit::Nats => "a difference of log-probabilities, an entropy, a divergence",
        Unit::Real => "a reward, a score, a field of the data",
        Unit::Fraction => "a number from 0 to 1",
        Unit::Count => "a whole number",
        Unit::Bool => "a boolean",
    }
}
