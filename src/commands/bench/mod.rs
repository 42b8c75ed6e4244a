//! `mopd bench`: the figures that the book quotes, on this machine.

mod check;
mod distill;
mod divergence;
mod editor;
mod expr;
mod folder;
mod generate;
mod watch;

use crate::args::{BenchArgs, BenchCommand};
use crate::problem::{Problem, Status};

pub fn bench(arguments: &BenchArgs) -> Result<Status, Problem> {
    match &arguments.command {
        BenchCommand::Check(arguments) => check::check(arguments),
        BenchCommand::Distill(arguments) => distill::distill(arguments),
        BenchCommand::Divergence(arguments) => divergence::divergence(arguments),
        BenchCommand::Expr(arguments) => expr::expr(arguments),
        BenchCommand::Watch(arguments) => watch::watch(arguments),
        BenchCommand::Other(words) => {
            let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Err(Problem::usage("unknown-command", format!("there is nothing to measure named `{word}`"))
                .help(
                    "`mopd bench check` measures the checker and the language server, `mopd bench expr` a \
                     weight, `mopd bench divergence` the work over a vocabulary, `mopd bench distill` whole \
                     steps of training, `mopd bench watch` the way from a save to its diagnostics",
                ))
        }
    }
}
