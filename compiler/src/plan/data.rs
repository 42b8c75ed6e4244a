//! Where prompts come from.

use mopd_lang::experiment::Origin;
use mopd_lang::formula::{Axis, Formula, FormulaKind, Function, Signal, Unit, text};
use serde::{Deserialize, Serialize};

use super::settings::{Domain, FieldColumn};

/// Longest text of a formula, in characters.
const LONGEST: usize = 100;

/// Rows of data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSource {
    /// A file, a pattern of files or a folder in the layout of Hugging Face datasets; relative to the source
    /// file.
    pub path: String,
    /// Of a folder with several.
    pub split: Option<String>,
    /// Fields that stand in columns of other names; every other field is the column of its own name.
    pub columns: Vec<FieldColumn>,
    /// Rows are read where it is not 0.
    pub filter: Option<DataFormula>,
    /// Only the first so many rows, of those where the filter holds.
    pub limit: Option<u32>,
}

impl DataSource {
    /// A file as it is.
    pub fn file(path: impl Into<String>) -> DataSource {
        DataSource { path: path.into(), split: None, columns: Vec::new(), filter: None, limit: None }
    }

    /// The column that a field stands in.
    pub fn column<'a>(&'a self, field: &'a str) -> &'a str {
        self.columns.iter().find(|column| column.field == field).map_or(field, |column| &column.column)
    }
}

impl Domain {
    /// Where its rows are, by the names of the settings.
    pub fn sources(&self) -> impl Iterator<Item = (&'static str, &DataSource)> {
        let others = [("tests", &self.tests), ("validation", &self.validation)].into_iter();
        let others = others.filter_map(|(name, source)| Some((name, source.as_ref()?)));
        std::iter::once(("prompts", &self.prompts)).chain(others)
    }
}

/// A number that a row decides. Truth is 1, falsehood 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFormula {
    /// Operands stand before what is computed from them; the last is the value.
    pub nodes: Vec<DataNode>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case")]
pub enum DataNode {
    Number {
        value: f64,
    },
    /// A field that holds a number, or a bool.
    Field {
        field: String,
    },
    /// Whether a field that holds a text is this one.
    FieldIs {
        field: String,
        text: String,
    },
    Apply {
        function: Function,
        operands: Vec<u32>,
    },
}

impl DataFormula {
    /// Of a signal that a row decides.
    pub fn of_signal(signal: &super::Signal) -> Option<DataFormula> {
        let node = match signal {
            super::Signal::Data { field } => DataNode::Field { field: field.clone() },
            super::Signal::DataIs { field, text } => {
                DataNode::FieldIs { field: field.clone(), text: text.clone() }
            }
            _ => return None,
        };
        Some(DataFormula { nodes: vec![node] })
    }

    /// The fields that it reads, without repetition.
    pub fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = Vec::new();
        for node in &self.nodes {
            if let DataNode::Field { field } | DataNode::FieldIs { field, .. } = node
                && !fields.contains(&field.as_str())
            {
                fields.push(field);
            }
        }
        fields
    }

    /// Its value in a row that answers `number` for a field with a number or a bool, and `is` for a
    /// field and a text.
    pub fn value(&self, number: impl Fn(&str) -> f64, is: impl Fn(&str, &str) -> bool) -> f64 {
        let mut values: Vec<f64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            values.push(match node {
                DataNode::Number { value } => *value,
                DataNode::Field { field } => number(field),
                DataNode::FieldIs { field, text } => f64::from(is(field, text)),
                DataNode::Apply { function, operands } => {
                    let operands: Vec<f64> =
                        operands.iter().filter_map(|at| values.get(*at as usize).copied()).collect();
                    // A plan that was not made by the compiler may have any number of operands.
                    if operands.len() == function.operands() { function.value(&operands) } else { f64::NAN }
                }
            });
        }
        values.last().copied().unwrap_or(f64::NAN)
    }

    /// As an author would write it; its end is cut where it is long.
    pub fn text(&self) -> String {
        let mut formulas: Vec<Formula> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let kind = match node {
                DataNode::Number { value } => FormulaKind::Number(*value),
                DataNode::Field { field } => FormulaKind::Signal(Signal::Data { field: field.clone() }),
                DataNode::FieldIs { field, text } => {
                    FormulaKind::Signal(Signal::DataIs { field: field.clone(), text: text.clone() })
                }
                DataNode::Apply { function, operands } => {
                    let operands =
                        operands.iter().filter_map(|at| formulas.get(*at as usize).cloned()).collect();
                    FormulaKind::Apply { function: *function, operands }
                }
            };
            // A text says nothing of units and axes.
            formulas.push(Formula::new(kind, Unit::Number, Axis::Sequence, false, Origin(0)));
        }
        formulas.last().map(|formula| text::formula(formula, LONGEST)).unwrap_or_default()
    }
}
