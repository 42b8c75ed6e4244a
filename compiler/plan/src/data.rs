//! Sources of prompts, and formulas of rows.

use std::borrow::Cow;

pub use mopd_experiment::DATA_ENDINGS;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Function, Signal, Unit, text};
use mopd_experiment::{FieldColumn, Origin};
use serde::{Deserialize, Serialize};

/// The longest text of a formula, in characters.
const LONGEST: usize = 100;

/// Rows of data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSource {
    /// A file, a pattern of files or a folder in the layout of Hugging Face datasets, relative to the source
    /// file; or such a folder on the hub: `organisation/name`, also with a subset behind it.
    pub path: String,
    /// The split, of a folder with several.
    pub split: Option<String>,
    /// The branch, tag or commit on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Columns of fields with other names; every other field is the column of its own name.
    pub columns: Vec<FieldColumn>,
    /// A condition; only rows where it is not 0 are read.
    pub filter: Option<DataFormula>,
    /// The most rows that are read, counted where the filter holds; all where absent.
    pub limit: Option<u32>,
    /// The most tokens of a prompt, as the models read it that train or are judged on it; rows of longer ones
    /// are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<u32>,
}

impl DataSource {
    /// A whole file: all of its rows.
    pub fn file(path: impl Into<String>) -> DataSource {
        DataSource {
            path: path.into(),
            split: None,
            revision: None,
            columns: Vec::new(),
            filter: None,
            limit: None,
            max_prompt_tokens: None,
        }
    }

    /// The column of a field.
    pub fn column<'a>(&'a self, field: &'a str) -> &'a str {
        self.columns.iter().find(|column| column.field == field).map_or(field, |column| &column.column)
    }

    /// A whole row, with fields under the names that the domain gives them. Every column is looked up before
    /// any is renamed, since `columns` may swap two names.
    pub fn renamed<V: Clone>(&self, row: impl IntoIterator<Item = (String, V)>) -> Vec<(String, V)> {
        let mut row: Vec<(String, V)> = row.into_iter().collect();
        let value = |column: &String| row.iter().find(|(name, _)| name == column).map(|(_, value)| value);
        let fields: Vec<(&String, V)> = self
            .columns
            .iter()
            .filter_map(|FieldColumn { field, column, .. }| Some((field, value(column)?.clone())))
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

/// Whether a path that names no existing file is a glob pattern.
pub fn is_file_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Parses a number as people write it: surrounding white space and commas between groups of three digits are
/// ignored. `None` for anything else, also for `inf` and `nan`.
pub fn number_of_text(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.contains(',') {
        // Rust's parser also accepts "inf" and "nan".
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

/// The number of the next prompts from each source. `owed` has what each source is owed, with the sum
/// `prompts`. The quotas have the same sum, and the difference stays in `owed`.
pub fn quotas(owed: &mut [f64], prompts: u32) -> Vec<u32> {
    let mut quotas = vec![0; owed.len()];
    // One at a time to the source that is owed most: the largest remainder method, without negative quotas.
    for _ in 0..prompts {
        let most = (0..owed.len()).rev().max_by(|a, b| owed[*a].total_cmp(&owed[*b]));
        let most = most.expect("a mixture has at least one source");
        quotas[most] += 1;
        owed[most] -= 1.0;
    }
    quotas
}

/// The value of a field in a row, as far as formulas can read it.
#[derive(Clone, Debug, PartialEq)]
pub enum DataValue<'a> {
    Null,
    Bool(bool),
    /// A string, or a number in its JSON notation.
    Text(Cow<'a, str>),
    /// A list or an object.
    Other,
}

/// The meaning of a null field in a formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullField {
    /// Its value is unknown: no condition that reads it holds.
    Unknown,
    /// The row is in error.
    Fault,
}

/// The reason why a formula has no value for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFault<'f> {
    Missing { field: &'f str },
    Mismatch { field: &'f str, wanted: &'static str },
}

/// A number that depends only on a row. True is 1, false is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFormula {
    /// The nodes, operands before their users. The last node is the value.
    pub nodes: Vec<DataNode>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case")]
pub enum DataNode {
    Number {
        value: f64,
    },
    /// A field with a number or a bool.
    Field {
        field: String,
    },
    /// Whether a field is this text.
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
    /// The formula of a signal that depends only on the row; `None` for other signals.
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

    /// The fields that the formula reads, without repetition.
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

    /// The formula's value for a row. `number` returns a field with a number or a bool, `is` compares a field
    /// with a text.
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
                    // A plan that the compiler did not write may have any number of operands.
                    if operands.len() == function.operands() { function.value(&operands) } else { f64::NAN }
                }
            });
        }
        values.last().copied().unwrap_or(f64::NAN)
    }

    /// The formula's value for a row; NaN if a field that it reads is unknown. `value` returns a field.
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
        let mut is_unknown = false;
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
            if value == DataValue::Null && null == NullField::Unknown {
                is_unknown = true;
            } else if !fits {
                return Err(DataFault::Mismatch { field, wanted });
            }
        }
        // `!=` and `not` of a NaN would hold.
        if is_unknown {
            return Ok(f64::NAN);
        }
        let is =
            |field: &str, wanted: &str| matches!(value(field), Some(DataValue::Text(text)) if text == wanted);
        Ok(self.value(|field| value(field).as_ref().and_then(number).unwrap_or(f64::NAN), is))
    }

    /// Whether the condition holds for the row. NaN is false.
    pub fn holds<'v>(
        &self,
        null: NullField,
        value: impl Fn(&str) -> Option<DataValue<'v>>,
    ) -> Result<bool, DataFault<'_>> {
        let value = self.of_row(null, value)?;
        Ok(value != 0.0 && !value.is_nan())
    }

    /// The formula as an author would write it, abbreviated if long.
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
            // Units and axes do not appear in the text.
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
            pattern: None,
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

    /// The result does not depend on the order of the columns.
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

    /// Not even under `not`, `!=` and `or`.
    #[test]
    fn no_condition_on_a_null_field_holds() {
        let field = |name: &str| DataNode::Field { field: name.to_owned() };
        let is = |name: &str| DataNode::FieldIs { field: name.to_owned(), text: "easy".to_owned() };
        let apply = |function, operands: &[u32]| DataNode::Apply { function, operands: operands.to_vec() };
        let row = |name: &str| match name {
            "null" => Some(DataValue::Null),
            "text" => Some(DataValue::Text("hard".into())),
            "number" => Some(DataValue::Text("2".into())),
            _ => None,
        };
        let differs = |name: &str| {
            vec![field(name), DataNode::Number { value: 1.0 }, apply(Function::NotEqual, &[0, 1])]
        };
        let is_not = |name: &str| vec![is(name), apply(Function::Not, &[0])];
        let either =
            |name: &str| vec![field("number"), is_not(name)[0].clone(), apply(Function::Or, &[0, 1])];
        let holds =
            |nodes, null| DataFormula { nodes }.holds(null, row).map_err(|fault| format!("{fault:?}"));
        for (nodes, known) in [
            (differs("null"), differs("number")),
            (is_not("null"), is_not("text")),
            (either("null"), either("text")),
        ] {
            assert_eq!(holds(nodes.clone(), NullField::Unknown), Ok(false), "{nodes:?}");
            assert!(holds(nodes, NullField::Fault).is_err());
            assert_eq!(holds(known, NullField::Unknown), Ok(true));
        }
    }
}
