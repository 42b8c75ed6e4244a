//! `mopd bench`: the figures that the manual quotes, on this machine.

mod check;
mod distill;
mod divergence;
mod editor;
mod expr;
mod folder;
mod generate;
mod watch;

use crate::args::{Bench, BenchWhat};
use crate::problem::{Problem, Status};

pub fn bench(arguments: &Bench) -> Result<Status, Problem> {
    match &arguments.what {
        BenchWhat::Check(arguments) => check::check(arguments),
        BenchWhat::Distill(arguments) => distill::distill(arguments),
        BenchWhat::Divergence(arguments) => divergence::divergence(arguments),
        BenchWhat::Expr(arguments) => expr::expr(arguments),
        BenchWhat::Watch(arguments) => watch::watch(arguments),
        BenchWhat::Other(words) => {
            let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Err(Problem::usage("unknown-command", format!("there is nothing to measure named `{word}`"))
                .help(
                    "`mopd bench check` measures the checker and the language server, `mopd bench expr` a \
                     weight, `mopd bench divergence` the work over a vocabulary, `mopd bench distill` whole \
                     steps of training, `mopd bench watch` the way from a save to its findings",
                ))
        }
    }
}
