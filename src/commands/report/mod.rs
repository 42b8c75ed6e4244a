//! `mopd report`: a run as one HTML page without dependencies.

mod curves;
mod page;
mod samples;
mod source;

use std::path::Path;

use serde::{Serialize, Serializer};

use crate::args::ReportArgs;
use crate::output;
use crate::problem::{Problem, Status};
use crate::run_folder::{METRICS, RunFolder, SAMPLES, WEIGHTS};

/// Larger pages open slowly; what grows with a run is kept below this.
const LARGE: usize = 2_000_000;

pub fn report(arguments: &ReportArgs) -> Result<Status, Problem> {
    let run = RunFolder::open(&arguments.run)?;
    let [metrics, samples, weights] = run.tables([METRICS, SAMPLES, WEIGHTS])?.map(Option::unwrap_or_default);
    let html = page::page(&run, &metrics, &samples, &weights)?;
    let out = arguments.out.clone().unwrap_or_else(|| run.path.join("report.html"));
    write(&out, &html)?;
    if html.len() > LARGE {
        let size = crate::figures::bytes(html.len() as u64);
        output::error(&format!(
            "warning: the page is large ({size}); its source text and its tables take what they take\n"
        ));
    }
    output::result(&format!("{}\n", out.display()));
    Ok(Status::Good)
}

fn write(path: &Path, text: &str) -> Result<(), Problem> {
    std::fs::write(path, text)
        .map_err(|error| Problem::unwritten(path, &error).help("`--out FILE` names another place"))
}

/// A number as a page needs it: four figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounded(pub f64);

impl Serialize for Rounded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded: f64 = format!("{:.3e}", self.0).parse().unwrap_or(f64::NAN);
        if rounded.is_finite() && rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            return serializer.serialize_i64(rounded as i64);
        }
        // Not finite is null.
        serializer.serialize_f64(rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_figures() {
        let text = |value: f64| serde_json::to_string(&Rounded(value)).unwrap();
        let values = [1.0 / 3.0, 123_456.0, 0.0, -1.0, 1.5e-7, f64::NAN, f64::INFINITY].map(text);
        assert_eq!(values, ["0.3333", "123500", "0", "-1", "1.5e-7", "null", "null"]);
    }
}
