//! Refuses objectives that read the sampler's distribution where completions have none.

use mopd_lang::diag::Diagnostic;
use mopd_plan::Objective;
use mopd_plan::producers::{Rollout, sampler};

use crate::lower::refusal::{Origins, refused};

pub fn refusal(objective: &Objective, rollout: &Rollout, origins: Origins) -> Option<Diagnostic> {
    let why = sampler(objective, rollout).err()?;
    let construct = format!("reading the whole distribution of the sampler here ({why})");
    let help = "the log-probabilities of the sampled tokens are recorded: read `sampler.logp`";
    Some((*refused(origins.span(objective.origin), construct)).help(help))
}
