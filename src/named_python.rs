//! The Python that a command uses for packages that mopd does not link.

use std::path::PathBuf;

use crate::host::as_text;
use crate::problem::Problem;

/// Names a Python where no option does.
pub const VARIABLE: &str = "MOPD_PYTHON";

/// The Python that an option or the environment names.
pub fn named_python(option: Option<&PathBuf>) -> Result<Option<String>, Problem> {
    match (option, std::env::var(VARIABLE)) {
        (Some(python), _) => Ok(Some(as_text(python)?)),
        (None, Ok(python)) if !python.is_empty() => Ok(Some(python)),
        (None, _) => Ok(None),
    }
}
