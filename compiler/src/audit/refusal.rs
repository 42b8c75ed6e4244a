//! The reasons why the audit can't evaluate a term in a toy model.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AuditRefusal {
    /// Value or gradient are infinite or NaN for something that can be drawn.
    NotFinite,
    /// The toy model lacks something that the term reads, or it can't be enumerated. The text says what.
    Unknown(String),
}

impl From<String> for AuditRefusal {
    fn from(why: String) -> AuditRefusal {
        AuditRefusal::Unknown(why)
    }
}

impl From<&str> for AuditRefusal {
    fn from(why: &str) -> AuditRefusal {
        AuditRefusal::Unknown(why.to_owned())
    }
}

impl fmt::Display for AuditRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            AuditRefusal::NotFinite => formatter.write_str("its numbers are not finite here"),
            AuditRefusal::Unknown(why) => formatter.write_str(why),
        }
    }
}
