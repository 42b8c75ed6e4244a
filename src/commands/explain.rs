//! `mopd explain`: the page of a diagnostic code.

use mopd_lang::diag::{Code, nearest};

use crate::args::Explain;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render::markdown;

pub fn explain(arguments: &Explain) -> Result<Status, Problem> {
    let Some(name) = &arguments.code else {
        output::result(&all());
        return Ok(Status::Good);
    };
    // What people paste: `error[unit-mismatch]`, `[unit-mismatch]`, `unit_mismatch`.
    let name = name.rsplit('[').next().unwrap_or(name).trim_end_matches([']', ':']).to_lowercase().replace('_', "-");
    match Code::ALL.iter().find(|code| code.name() == name) {
        Some(code) => {
            output::result(&markdown::show(code.page(), Style::of_stdout()));
            Ok(Status::Good)
        }
        None => {
            let problem = Problem::usage("unknown-code", format!("there is no finding called `{name}`"));
            Err(match nearest(&name, Code::ALL.iter().map(|code| code.name())) {
                Some(meant) => problem.help(format!("did you mean `mopd explain {meant}`?")),
                None => problem.help("`mopd explain --all` lists them"),
            })
        }
    }
}

fn all() -> String {
    let mut codes = Code::ALL.to_vec();
    codes.sort_by_key(|code| code.name());
    let width = codes.iter().map(|code| code.name().len()).max().unwrap_or(0);
    codes.iter().map(|code| format!("{:width$}  {}\n", code.name(), code.summary())).collect()
}
