//! The names of teachers in the rows of an export.

use super::stage::ExportedTeacher;

/// The name as one word of ASCII letters, digits and `_`, made unique among `others`.
pub fn word(name: &str, others: &[&ExportedTeacher]) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let plain = name.chars().map(letter).collect::<String>().trim_matches('_').to_owned();
    // verl drops an entry of this name.
    let plain = if plain.is_empty() || plain == "teacher_model" { format!("teacher_{plain}") } else { plain };
    let taken = |key: &str| others.iter().any(|other| other.key == key);
    let mut key = plain.clone();
    let mut number = 2;
    while taken(&key) {
        key = format!("{plain}_{number}");
        number += 1;
    }
    key
}
