//! What an unknown or misplaced name was meant to be: misspelt, of another library, or in the wrong place.

mod expected_kind;
pub mod foreign;
pub mod misplaced;
pub mod renamed;
pub mod unknown;
pub mod unknown_name;
