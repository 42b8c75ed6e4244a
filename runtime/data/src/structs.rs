//! Columns that are members of structs: `reward_model.ground_truth`.

use mopd_plan::nearest;

use crate::json::{Json, Object};

/// The value of a member of a struct of a row. A table may have the struct as JSON text.
pub fn nested(object: &Object, column: &str) -> Option<Json> {
    let (outer, inner) = column.split_once('.')?;
    let parsed;
    let members = match object.get(outer)? {
        Json::Object(members) => members,
        Json::String(text) => {
            parsed = Json::parse(text).ok()?;
            parsed.as_object()?
        }
        _ => return None,
    };
    members.get(inner).cloned().or_else(|| nested(members, inner))
}

/// The column that a table must have for a column that may be in a struct.
pub fn outermost(column: &str) -> &str {
    column.split_once('.').map_or(column, |(outer, _)| outer)
}

/// The column that may be meant by one that is missing: of a struct, another member of it.
pub fn nearest_column(column: &str, present: &[String]) -> Option<String> {
    let outer = column.rsplit_once('.').map_or(0, |(outer, _)| outer.len() + 1);
    let (outer, inner) = column.split_at(outer);
    let members = present.iter().filter_map(|known| known.strip_prefix(outer));
    nearest(inner, members).map(|meant| format!("{outer}{meant}"))
}
