//! The output of `mopd try`.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use mopd_compiler::trial::{Trial, TrialValue};
use mopd_plan::Axis;

use crate::output::Style;

/// The most columns of a table, besides those of the place: further columns make another table below.
const COLUMNS: usize = 6;

/// The loss, the numbers coarser than a token, and a table with a row per token.
pub fn text(trial: &Trial, style: Style) -> String {
    let mut text = format!("{} = {}\n", style.bold("loss"), number(trial.loss.f64[0]));
    if trial.temperature != 1.0 {
        text += &format!("every logp at temperature {}\n", number(trial.temperature));
    }
    let (of_tokens, coarser): (Vec<&TrialValue>, Vec<&TrialValue>) =
        trial.parts.iter().partition(|part| part.axis == Axis::Token);
    for part in coarser {
        let per = match part.axis {
            Axis::Run | Axis::Batch => String::new(),
            axis => format!(" (per {})", axis.name()),
        };
        let numbers: Vec<String> = part.f64.iter().copied().map(number).collect();
        text += &format!("{}{per} = {}\n", style.bold(&part.name), numbers.join(", "));
    }
    let mut columns: Vec<(String, Vec<String>)> = Vec::new();
    let plain = |value: &&TrialValue| value.f64.iter().copied().map(number).collect::<Vec<String>>();
    columns.extend(of_tokens.iter().map(|part| (part.name.clone(), plain(part))));
    let gradients = trial.gradients.iter();
    columns.extend(gradients.map(|by| (format!("d loss / d {}", by.name), plain(&by))));
    if let Some(logits) = &trial.logits {
        let rows = logits.iter().map(|entries| {
            let entries: Vec<String> = entries.iter().copied().map(number).collect();
            format!("[{}]", entries.join(", "))
        });
        columns.push(("d loss / d logits".to_owned(), rows.collect()));
    }
    for columns in columns.chunks(COLUMNS) {
        text += &format!("\n{}\n", grid(trial, columns));
    }
    text + &compiled(trial)
}

fn grid(trial: &Trial, columns: &[(String, Vec<String>)]) -> Table {
    let mut grid = Table::new();
    grid.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    let names = ["prompt", "completion", "token"].map(str::to_owned).into_iter();
    grid.set_header(names.chain(columns.iter().map(|(name, _)| name.clone())));
    for (token, place) in trial.places.iter().enumerate() {
        let place = [place.prompt, place.completion, place.token].map(|place| place.to_string()).into_iter();
        grid.add_row(place.chain(columns.iter().map(|(_, rows)| rows[token].clone())));
    }
    grid.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    grid
}

/// The difference between the compiled code and the interpreter, as text.
fn compiled(trial: &Trial) -> String {
    let values = || std::iter::once(&trial.loss).chain(&trial.parts).chain(&trial.gradients);
    if values().any(|value| value.f32.is_none()) {
        return "\nf64, by the interpreter; a run interprets it too\n".to_owned();
    }
    let pairs = values().flat_map(|value| value.f64.iter().zip(value.f32.iter().flatten()));
    let differences = pairs
        .filter(|(exact, single)| exact.is_finite() && single.is_finite())
        .map(|(exact, single)| (exact - f64::from(*single)).abs() / exact.abs().max(1.0));
    let most = differences.fold(0.0, f64::max);
    match unlike(trial) {
        Some(unlike) => {
            format!("\nf64, by the interpreter; {unlike}; elsewhere it differs by at most {most:.1e}\n")
        }
        None => {
            format!("\nf64, by the interpreter; the compiled code, in f32, differs by at most {most:.1e}\n")
        }
    }
}

/// The derivative, or the loss, that is not finite, with which a run would stop.
pub fn not_finite(trial: &Trial) -> Option<String> {
    let bad = |value: &f64| !value.is_finite();
    let of = |by: &TrialValue| Some((by.name.clone(), *by.f64.iter().find(|value| bad(value))?));
    if let Some((name, value)) = trial.gradients.iter().find_map(of) {
        return Some(format!("d loss / d {name} is {value}: a run would stop here"));
    }
    let (name, value) = of(&trial.loss)?;
    Some(format!("the {name} is {value}: a run would stop here"))
}

/// The first number for which the compiled code and the formula are not both finite, the same infinity, or
/// both NaN, as text. The size of a difference would have no meaning there.
pub fn unlike(trial: &Trial) -> Option<String> {
    // Parts that make the loss non-finite come first.
    let values = trial.parts.iter().chain(std::iter::once(&trial.loss));
    let named = values.map(|value| (value.name.clone(), value));
    let gradients = trial.gradients.iter().map(|by| (format!("d loss / d {}", by.name), by));
    let mut found = named.chain(gradients).flat_map(|(name, value)| {
        let pairs = value.f64.iter().zip(value.f32.iter().flatten()).enumerate();
        let unlike = pairs.filter(|(_, (exact, single))| {
            let single = f64::from(**single);
            let same = **exact == single || exact.is_nan() && single.is_nan();
            !(same || exact.is_finite() && single.is_finite())
        });
        let unlike = unlike.map(|(index, (exact, single))| (name.clone(), value, index, *exact, *single));
        unlike.collect::<Vec<_>>()
    });
    let (name, value, index, exact, single) = found.next()?;
    let place = match value.axis {
        Axis::Token => {
            let place = &trial.places[index];
            format!(" at token {} of completion {} of prompt {}", place.token, place.completion, place.prompt)
        }
        _ if value.f64.len() == 1 => String::new(),
        axis => format!(" at {} {}", axis.name(), index + 1),
    };
    let more = match found.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let single = number(f64::from(single));
    Some(format!(
        "the compiled code, in f32, has {single} for `{name}`{place} where the formula has {}{more}",
        number(exact)
    ))
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-4..1e6).contains(&size) => {
            let text = format!("{value:.6}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.3e}"),
    }
}

/// JSON with a line for each list of numbers, which people can edit.
pub fn numbers(value: &serde_json::Value) -> String {
    let mut text = String::new();
    written(value, 0, &mut text);
    text
}

fn written(value: &serde_json::Value, depth: usize, text: &mut String) {
    use serde_json::Value::{Array, Object};
    let indent = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    match value {
        Object(entries) => {
            text.push('{');
            for (number, (name, value)) in entries.iter().enumerate() {
                text.push_str(if number == 0 { "" } else { "," });
                indent(text, depth + 1);
                text.push_str(&format!("{}: ", serde_json::Value::from(name.as_str())));
                written(value, depth + 1, text);
            }
            indent(text, depth);
            text.push('}');
        }
        Array(rows) if rows.iter().any(serde_json::Value::is_object) => {
            text.push('[');
            for (number, row) in rows.iter().enumerate() {
                text.push_str(if number == 0 { "" } else { "," });
                indent(text, depth + 1);
                written(row, depth + 1, text);
            }
            indent(text, depth);
            text.push(']');
        }
        flat => text.push_str(&flat.to_string()),
    }
}
