//! Checkpoints of unfinished stages: in a folder beside the stage's entry, one folder per step, each valid
//! once its checksums are written. The last two are kept, so that the stage can be resumed even if one is
//! damaged. States after the one that a stage resumes from are deleted first, because they are damaged or of
//! no use: so the last one is always the one that training has come from.

use std::fs;
use std::path::PathBuf;

use mopd_store::{Damage, Lookup, read_json};

use super::hashed::{write_hashed, write_json};
use super::state::{StateTensors, TrainPosition, TrainState};
use super::{METRICS, NAMES, Store, TOKENS, read_record};
use crate::failure::Result;
use crate::formats::safetensors;
use crate::report::RecordNames;

const TENSORS: &str = "state.safetensors";
const POSITION: &str = "position.json";

impl Store {
    /// The folder of a stage's checkpoints.
    fn checkpoints(&self, key: &str) -> PathBuf {
        self.path(&checkpoints(key))
    }

    /// The folder of an engine that trains a stage, with the engine's own checkpoints.
    pub fn engine_folder(&self, key: &str) -> PathBuf {
        self.checkpoints(key).join("engine")
    }

    /// The steps of the checkpoints, the last one first; some may turn out to be damaged.
    pub fn steps(&self, key: &str) -> Vec<u32> {
        let folders = fs::read_dir(self.checkpoints(key)).into_iter().flatten().flatten();
        let mut steps: Vec<u32> =
            folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok()).collect();
        steps.retain(|step| self.has(&of_step(key, *step)));
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps
    }

    /// The step of the last checkpoint of a stage; 0 without one.
    pub fn last_step(&self, key: &str) -> u32 {
        self.steps(key).first().copied().unwrap_or(0)
    }

    #[cfg(test)]
    pub fn keep_state(&self, key: &str, about: &str, state: &TrainState) -> Result<()> {
        self.keep_named_state(key, about, state, &state.record.names)
    }

    /// Stores a state durably. The one before it remains, also if this fails; all others are deleted first.
    /// `names` are those that its record uses.
    pub fn keep_named_state(
        &self,
        key: &str,
        about: &str,
        TrainState { position, tensors, record }: &TrainState,
        names: &RecordNames,
    ) -> Result<()> {
        // Makes room for the new one, so that there are at most two at any time. Later ones are there if
        // training could not resume from them.
        let before = self.steps(key).into_iter().find(|step| *step < position.step);
        self.drop_others(key, |step| step == position.step || Some(step) == before)?;
        let name = of_step(key, position.step);
        self.folder.write(&name, about, |folder| {
            let tensors =
                write_hashed(&folder.join(TENSORS), |file| safetensors::write_tensors(&tensors.0, file))?;
            let sums = [
                (TENSORS, tensors),
                (POSITION, write_json(&folder.join(POSITION), position)?),
                (METRICS, write_json(&folder.join(METRICS), &record.rows)?),
                (TOKENS, write_json(&folder.join(TOKENS), &record.tokens)?),
                (NAMES, write_json(&folder.join(NAMES), names)?),
            ];
            Ok(sums.into_iter().map(|(name, sum)| (name.to_owned(), sum)).collect())
        })
    }

    /// The state of a stage after `step` steps.
    pub fn state(&self, key: &str, step: u32) -> Lookup<TrainState> {
        self.folder.read(&of_step(key, step), |folder| {
            let position: TrainPosition = read_json(&folder.join(POSITION))?;
            let record = read_record(folder)?;
            let tensors = safetensors::read_tensors(&folder.join(TENSORS))
                .map_err(|problem| format!("{TENSORS}: {problem}"))?;
            Ok(TrainState { position, tensors: StateTensors(tensors), record })
        })
    }

    /// The last intact state of a stage, to resume from, and the reasons why later ones are damaged; these
    /// are deleted.
    pub fn resume_from(&self, key: &str) -> Result<(Option<TrainState>, Vec<Damage>)> {
        let (state, damaged) = self.last_state(key);
        // Where none can be read, the reason may pass. The next state that is stored replaces them.
        if let Some(last) = state.as_ref().map(|state| state.position.step) {
            self.drop_others(key, |step| step <= last)?;
        }
        Ok((state, damaged))
    }

    /// The last intact state of a stage, and the reasons why later ones are damaged.
    pub fn last_state(&self, key: &str) -> (Option<TrainState>, Vec<Damage>) {
        let mut damaged = Vec::new();
        for step in self.steps(key) {
            match self.state(key, step) {
                Lookup::Found(state) => return (Some(state), damaged),
                Lookup::Absent => {}
                Lookup::Damaged(reason) => damaged.push(reason),
            }
        }
        (None, damaged)
    }

    /// Deletes all checkpoints of a stage but the last intact one. Returns false if nothing was deleted.
    pub fn drop_older_states(&self, key: &str) -> Result<bool> {
        let intact = |step: &u32| self.folder.verify(&of_step(key, *step)).is_ok();
        let Some(last) = self.steps(key).into_iter().find(intact) else { return Ok(false) };
        self.drop_others(key, |step| step == last)
    }

    /// Deletes the checkpoints of a stage that are not kept. Returns false if there are none.
    fn drop_others(&self, key: &str, kept: impl Fn(u32) -> bool) -> Result<bool> {
        let others: Vec<u32> = self.steps(key).into_iter().filter(|step| !kept(*step)).collect();
        for step in &others {
            self.folder.remove(&of_step(key, *step))?;
        }
        Ok(!others.is_empty())
    }

    /// Whether a stage has a folder of checkpoints, valid or not.
    pub fn has_states(&self, key: &str) -> bool {
        self.checkpoints(key).exists()
    }

    /// Deletes all checkpoints of a stage.
    pub fn drop_states(&self, key: &str) -> Result<()> {
        self.drop_others(key, |_| false)?;
        Ok(self.folder.remove(&checkpoints(key))?)
    }
}

fn checkpoints(key: &str) -> String {
    format!("{key}.unfinished")
}

fn of_step(key: &str, step: u32) -> String {
    format!("{}/{step:010}", checkpoints(key))
}

#[cfg(test)]
mod tests;
