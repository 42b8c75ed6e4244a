//! Where prompts come from, and what formulas make of a row.

use std::borrow::Cow;

pub use mopd_lang::experiment::DATA_ENDINGS;
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

    /// All of a row, its fields by the names that the domain gives them. Every column is looked up before any
    /// is renamed: `columns` may swap two names.
    pub fn renamed<V: Clone>(&self, row: impl IntoIterator<Item = (String, V)>) -> Vec<(String, V)> {
        let mut row: Vec<(String, V)> = row.into_iter().collect();
        let value = |column: &String| row.iter().find(|(name, _)| name == column).map(|(_, value)| value);
        let fields: Vec<(&String, V)> = self
            .columns
            .iter()
            .filter_map(|FieldColumn { field, column }| Some((field, value(column)?.clone())))
            .collect();
        row.retain(|(name, _)| self.columns.iter().all(|column| column.column != *name));
        for (field, value) in fields {
            match row.iter_mut().find(|(name, _)| name == field) {
                Some((_, known)) => *known = value,
                None => row.push((field.clone(), value)),
            }
        }
        row
    }
}

/// Whether a path that names no file is a pattern of files.
pub fn is_file_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Reads a number as people write it: white space around it and commas between groups of three digits do not
/// count. None for anything else, `inf` and `nan` included.
pub fn number_of_text(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.contains(',') {
        // Rust's parser also knows the words "inf" and "nan".
        return text.parse().ok().filter(|number: &f64| number.is_finite());
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) =
        unsigned.split_once('.').map_or((unsigned, None), |(whole, rest)| (whole, Some(rest)));
    let mut groups = whole.split(',');
    let first = groups.next().is_some_and(|group| digits(group) && group.len() <= 3);
    let rest = groups.all(|group| digits(group) && group.len() == 3);
    (first && rest && fraction.is_none_or(digits)).then(|| text.replace(',', "").parse().ok()).flatten()
}

/// How many of the next prompts are each source's, from what each is owed of them, which sums to `prompts`.
/// They sum to `prompts`; what is owed afterwards is left in `owed`.
pub fn quotas(owed: &mut [f64], prompts: u32) -> Vec<u32> {
    let mut quotas = vec![0; owed.len()];
    // Giving one at a time to whoever is owed most is largest remainder, and never gives a negative quota.
    for _ in 0..prompts {
        let most = (0..owed.len()).rev().max_by(|a, b| owed[*a].total_cmp(&owed[*b]));
        let most = most.expect("a mixture has at least one source");
        quotas[most] += 1;
        owed[most] -= 1.0;
    }
    quotas
}

/// What a row has in a field, as far as formulas read it.
#[derive(Clone, Debug, PartialEq)]
pub enum DataValue<'a> {
    Null,
    Bool(bool),
    /// A string as it is, a number as it is written in JSON.
    Text(Cow<'a, str>),
    /// A list or an object.
    Other,
}

/// What a formula makes of a field that is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullField {
    /// Nothing holds of it.
    Unknown,
    /// The row is at fault.
    Fault,
}

/// Why a formula has no value in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFault<'f> {
    Missing { field: &'f str },
    Mismatch { field: &'f str, wanted: &'static str },
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

    /// Its value in a row that answers `value` for a field.
    pub fn of_row<'v>(
        &self,
        null: NullField,
        value: impl Fn(&str) -> Option<DataValue<'v>>,
    ) -> Result<f64, DataFault<'_>> {
        let number = |value: &DataValue| match value {
            DataValue::Bool(truth) => Some(f64::from(u8::from(*truth))),
            DataValue::Text(text) => number_of_text(text),
            DataValue::Null | DataValue::Other => None,
        };
        for node in &self.nodes {
            let (field, wanted) = match node {
                DataNode::Field { field } => (field, "a number or a bool"),
                DataNode::FieldIs { field, .. } => (field, "a string"),
                _ => continue,
            };
            let value = value(field).ok_or(DataFault::Missing { field })?;
            let fits = match node {
                DataNode::Field { .. } => number(&value).is_some(),
                _ => matches!(value, DataValue::Text(_)),
            };
            let unknown = value == DataValue::Null && null == NullField::Unknown;
            if !fits && !unknown {
                return Err(DataFault::Mismatch { field, wanted });
            }
        }
        let is =
            |field: &str, wanted: &str| matches!(value(field), Some(DataValue::Text(text)) if text == wanted);
        Ok(self.value(|field| value(field).as_ref().and_then(number).unwrap_or(f64::NAN), is))
    }

    /// Whether the row is one of those that the author means; NaN is not true.
    pub fn holds<'v>(
        &self,
        null: NullField,
        value: impl Fn(&str) -> Option<DataValue<'v>>,
    ) -> Result<bool, DataFault<'_>> {
        let value = self.of_row(null, value)?;
        Ok(value != 0.0 && !value.is_nan())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(columns: &[(&str, &str)], row: &[(&str, u32)]) -> Vec<(String, u32)> {
        let column = |&(field, column): &(&str, &str)| FieldColumn {
            field: field.to_owned(),
            column: column.to_owned(),
        };
        let source =
            DataSource { columns: columns.iter().map(column).collect(), ..DataSource::file("rows.jsonl") };
        let mut row = source.renamed(row.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        row.sort();
        row
    }

    fn wanted(row: &[(&str, u32)]) -> Vec<(String, u32)> {
        row.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    /// In whatever order the columns are written.
    #[test]
    fn columns_are_renamed_at_once() {
        let row = [("answer", 1), ("question", 2)];
        for columns in
            [[("answer", "question"), ("prompt", "answer")], [("prompt", "answer"), ("answer", "question")]]
        {
            assert_eq!(renamed(&columns, &row), wanted(&[("answer", 2), ("prompt", 1)]), "{columns:?}");
        }
        for columns in [
            [("answer", "question"), ("question", "answer")],
            [("question", "answer"), ("answer", "question")],
        ] {
            assert_eq!(renamed(&columns, &row), wanted(&[("answer", 2), ("question", 1)]), "{columns:?}");
        }
        // One column under two names.
        let twice = [("answer", "question"), ("prompt", "question")];
        assert_eq!(renamed(&twice, &[("question", 2)]), wanted(&[("answer", 2), ("prompt", 2)]));
        // A chain.
        let row = [("answer", 1), ("final_answer", 3), ("prompt", 2)];
        for columns in [
            [("answer", "final_answer"), ("solution", "answer")],
            [("solution", "answer"), ("answer", "final_answer")],
        ] {
            let wanted = wanted(&[("answer", 3), ("prompt", 2), ("solution", 1)]);
            assert_eq!(renamed(&columns, &row), wanted, "{columns:?}");
        }
    }
}
