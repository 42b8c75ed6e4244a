//! Objectives that read the sampler's distribution, where completions have none.

use mopd_lang::diag::Diagnostic;

use crate::plan::Objective;
use crate::plan::producers::{Rollout, sampler};
use crate::refusal::{Origins, refused};

pub fn unfit(objective: &Objective, rollout: &Rollout, origins: Origins) -> Option<Diagnostic> {
    let why = sampler(objective, rollout).err()?;
    let construct = format!("an objective that reads the distribution of the sampler, where {why},");
    let help = "its log-probabilities of the drawn tokens are recorded: read `sampler.logp`";
    Some((*refused(origins.span(objective.origin), construct)).help(help))
}
