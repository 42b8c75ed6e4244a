//! Values of data fields as text and as numbers.

use std::borrow::Cow;

use mopd_compiler::plan::DataValue;
pub use mopd_compiler::plan::number_of_text as number;

use crate::tokenizer::json::Json;

/// A string as it is, a number as it is written in JSON; none for anything else.
pub fn text(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// What formulas read of a value.
pub fn read(value: &Json) -> DataValue<'_> {
    match value {
        Json::Null => DataValue::Null,
        Json::Bool(truth) => DataValue::Bool(*truth),
        value => text(value).map_or(DataValue::Other, DataValue::Text),
    }
}
