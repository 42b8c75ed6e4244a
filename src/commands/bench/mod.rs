//! `mopd bench`: the figures that the book quotes, on this machine.

mod check;
mod distill;
mod divergence;
mod editor;
mod experiments;
mod expr;
mod folder;
mod generate;
mod watch;

use comfy_table::{ContentArrangement, Table, presets};

use crate::args::{BenchArgs, BenchCommand};
use crate::problem::{CommandStatus, Problem};

pub fn bench(arguments: &BenchArgs) -> Result<CommandStatus, Problem> {
    match &arguments.command {
        BenchCommand::Check(arguments) => check::check(arguments),
        BenchCommand::Distill(arguments) => distill::distill(arguments),
        BenchCommand::Divergence(arguments) => divergence::divergence(arguments),
        BenchCommand::Expr(arguments) => expr::expr(arguments),
        BenchCommand::Generate(arguments) => generate::generate(arguments),
        BenchCommand::Watch(arguments) => watch::watch(arguments),
        BenchCommand::Other(words) => {
            let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Err(Problem::usage("unknown-command", format!("there is nothing to measure named `{word}`"))
                .help(
                    "`mopd bench check` measures the checker and the language server, `mopd bench expr` a \
                     weight, `mopd bench divergence` the work over a vocabulary, `mopd bench distill` whole \
                     steps of training, `mopd bench generate` completions of a model, `mopd bench watch` the way from a save to its diagnostics",
                ))
        }
    }
}

/// An empty table of figures.
fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .force_no_tty();
    table
}

/// The middle value, or the mean of the two in the middle; 0 without values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
