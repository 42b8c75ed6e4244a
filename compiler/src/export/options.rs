//! Options of a training loop that engines do not have.

use mopd_plan::{Origin, TrainOptions};

use super::coverage::Coverage;

/// Refuses the options that no engine has, wherever they are not at their defaults. An option that is in no
/// line here is one of them. Where the engine does not write completions, the run that does also validates.
pub fn refuse(options: &TrainOptions, by_engine: bool, at: Origin, coverage: &mut Coverage) {
    for option in options.changed().keys() {
        let named = format!("`{option}`");
        let (construct, why) = match option.as_str() {
            "mini_batches" | "execution" => continue, // by each engine
            "validate" if !by_engine => continue,
            "passes" => ("`passes` above 1", "engines sample new completions for each update"),
            "private" => ("`optimizer = private_adamw(...)`", "engines do not clip per example"),
            "ema" => ("`ema` of the weights", "engines save the weights of the last step"),
            "validate" => ("`validate`", "engines do not compute the loss on validation rows"),
            "gradient_alignment" => (&*named, "engines compute the gradient of the whole loss"),
            _ => (&*named, "engines have no such setting"),
        };
        coverage.refuse(construct, at, why);
    }
}
