//! Prints differences as text.

use std::fmt;

use super::{ChangeKind, DifferenceKind, ItemChange, SettingChange};

impl fmt::Display for ItemChange {
    /// `objective of `student`: clip ±5 -> ±3`
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let ItemChange { kind, name, runs, fate } = self;
        let named = match kind {
            DifferenceKind::Experiment => "the experiment".to_owned(),
            DifferenceKind::Domain => format!("domain `{name}`"),
            DifferenceKind::Stage => format!("`{name}`"),
            DifferenceKind::Table => format!("table `{name}`"),
            DifferenceKind::Run if name.is_empty() => "the run without a sweep".to_owned(),
            DifferenceKind::Run => format!("run `{name}`"),
        };
        match fate {
            ChangeKind::Added => write!(formatter, "{named} is new")?,
            ChangeKind::Removed => write!(formatter, "{named} is gone")?,
            ChangeKind::Renamed { before } if before.is_empty() => {
                write!(formatter, "{named} was the run without a sweep")?
            }
            ChangeKind::Renamed { before } => write!(formatter, "{named} was called `{before}`")?,
            ChangeKind::Changed { settings, objective } => {
                if !settings.is_empty() {
                    write!(formatter, "{named}: {}", joined(settings))?;
                }
                if !settings.is_empty() && !objective.is_empty() {
                    formatter.write_str("; ")?;
                }
                if !objective.is_empty() {
                    write!(formatter, "objective of {named}: {}", joined(objective))?;
                }
            }
        }
        if runs.is_empty() { Ok(()) } else { write!(formatter, " [{}]", runs.join("; ")) }
    }
}

impl fmt::Display for SettingChange {
    /// `steps 160 -> 200`
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let shown = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".to_owned());
        match (&self.before, &self.after) {
            (None, None) => write!(formatter, "{} differs", self.what),
            (before, after) => write!(formatter, "{} {} -> {}", self.what, shown(before), shown(after)),
        }
    }
}

fn joined(changes: &[SettingChange]) -> String {
    changes.iter().map(SettingChange::to_string).collect::<Vec<_>>().join(", ")
}
