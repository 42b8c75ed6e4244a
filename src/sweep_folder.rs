//! The list of a sweep's runs, in its folder: `sweep.json`. It is written when the sweep begins, and again
//! when it ends.

use std::path::{Path, PathBuf};

pub use mopd_store::results_folder::SWEEP;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields that older versions did not write have a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepFolder {
    pub schema: u32,
    /// The hashes of the plans of all runs that can run, separated by commas.
    pub plan: String,
    #[serde(default)]
    pub experiment: String,
    pub members: Vec<SweepMember>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepMember {
    /// Each swept `param` with its number.
    pub values: Map<String, Value>,
    /// Its folder, as it was named when the sweep ran.
    pub out: PathBuf,
    /// Whether it finished.
    pub good: bool,
    /// The hash of its plan; `None` if the file can't run with these values.
    #[serde(default)]
    pub plan: Option<String>,
    /// The work of the stages that no run before it has, in FLOPs at most, where known.
    #[serde(default)]
    pub flops: Option<f64>,
}

impl SweepFolder {
    /// `None` for a folder that is not that of a sweep.
    pub fn read(folder: &Path) -> Option<SweepFolder> {
        serde_json::from_slice(&std::fs::read(folder.join(SWEEP)).ok()?).ok()
    }

    /// The folders of the runs; that of the sweep may have moved.
    pub fn folders(&self, folder: &Path) -> Vec<PathBuf> {
        self.members.iter().map(|member| folder.join(member.name())).collect()
    }
}

impl SweepMember {
    /// `clip_at=5,samples=1`
    pub fn name(&self) -> String {
        self.out.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}
