//! Every elementwise function in f64: the language's own, with which it folds constants.

pub use mopd_lang::formula::elementwise::{apply, maximum, minimum};
