//! Values of data fields as text and as numbers.

use std::borrow::Cow;

use mopd_plan::DataValue;

use crate::json::Json;

/// The text of a string, or of a number as written in JSON; `None` for other values.
pub fn text(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// A value as formulas read it.
pub fn read(value: &Json) -> DataValue<'_> {
    match value {
        Json::Null => DataValue::Null,
        Json::Bool(truth) => DataValue::Bool(*truth),
        value => text(value).map_or(DataValue::Other, DataValue::Text),
    }
}
