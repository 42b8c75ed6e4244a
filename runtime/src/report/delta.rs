//! Differences between the weights of two models, parameter by parameter: the size of the change, its
//! sparsity (arXiv:2505.11711), and its rank.

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use mopd_plan::WeightGroup;
use mopd_plan::deltas::{Delta, DeltaJob, DeltaOverlap, Rank};
use mopd_plan::events::{Event, FailureKind};
use tch::{Kind, Tensor};

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::formats::{huggingface, peft};
use crate::model::change::{first_difference, is_beyond};
use crate::model::{Merged, ParameterEntry, Weights, layout};
use crate::tokenizer::Tokenizer;
use crate::zip::zip_equal;

/// Emits one [`Event::Delta`] per parameter, then one per group and one for all.
pub fn delta(job: &DeltaJob, control: &Control) -> Result<()> {
    let after = Folder::open(&job.after)?;
    let before = Folder::open(&job.before)?.check_same_parameters(&after)?;
    let beside = match &job.beside {
        Some((one, other)) => Some((
            Folder::open(one)?.check_same_parameters(&after)?,
            Folder::open(other)?.check_same_parameters(&after)?,
        )),
        None => None,
    };
    let mut groups: Vec<(WeightGroup, Sums)> = Vec::new();
    for (index, entry) in after.entries.iter().enumerate() {
        control.check()?;
        let (now, then) = (after.numbers(index)?, before.numbers(index)?);
        let other = match &beside {
            Some((after, before)) => Some((after.numbers(index)?, before.numbers(index)?)),
            None => None,
        };
        let other = other.as_ref().map(|(now, then)| WeightChange { now, then });
        let sums = Sums::of(WeightChange { now: &now, then: &then }, other, job.beyond);
        let matrix = entry.shape.len() == 2 && job.ranks && sums.changed > 0;
        let rank = matrix.then(|| rank(&now, &then, &entry.shape));
        let delta = Delta {
            group: Some(entry.group),
            shape: entry.shape.iter().map(|size| *size as u64).collect(),
            rank,
            ..sums.delta(entry.name.clone(), beside.is_some())
        };
        control.emit(&Event::Delta { delta });
        match groups.iter_mut().find(|(group, _)| *group == entry.group) {
            Some((_, known)) => known.add(&sums),
            None => groups.push((entry.group, sums)),
        }
    }
    let mut all = Sums::default();
    for (group, sums) in &groups {
        all.add(sums);
        let delta = Delta { group: Some(*group), ..sums.delta(group.name().to_owned(), beside.is_some()) };
        control.emit(&Event::Delta { delta });
    }
    control.emit(&Event::Delta { delta: all.delta("all".to_owned(), beside.is_some()) });
    Ok(())
}

/// A model's parameters, which stay in their files.
struct Folder {
    path: String,
    entries: Vec<ParameterEntry>,
    weights: Weights,
}

impl Folder {
    fn open(path: &str) -> Result<Folder> {
        let folder = Path::new(path);
        let weights = match peft::is_adapter(folder)? {
            false => numbers(folder)?,
            true => {
                let base = Arc::new(numbers(&peft::base_folder(folder)?)?);
                let adapters = peft::read(folder, &base.config)?;
                Weights::merged(Merged::new(base, adapters))
            }
        };
        Ok(Folder { path: path.to_owned(), entries: layout(&weights.config), weights })
    }

    /// Checks that its parameters are those of `other`.
    fn check_same_parameters(self, other: &Folder) -> Result<Folder> {
        let Some((theirs, own)) = first_difference(&other.entries, &self.entries) else { return Ok(self) };
        let message =
            format!("{} and {} have different parameters: {theirs} and {own}", other.path, self.path);
        Err(Error::new(FailureKind::Model, message)
            .help("name the model that training started from: it has the same shape"))
    }

    fn numbers(&self, index: usize) -> Result<Vec<f32>> {
        let numbers = self.weights.of(&self.entries[index]).into_owned();
        self.weights.release();
        match numbers.iter().filter(|number| !number.is_finite()).count() {
            0 => Ok(numbers),
            broken => {
                let (name, path) = (&self.entries[index].name, &self.path);
                let message =
                    format!("{broken} of {} entries of `{name}` in {path} are not finite", numbers.len());
                Err(Error::new(FailureKind::Model, message).help(
                    "a change can only be measured between finite weights: name a model from before \
                    training diverged",
                ))
            }
        }
    }
}

/// The weights in a folder, which may be without a tokenizer: no text is read.
fn numbers(folder: &Path) -> Result<Weights> {
    let config = huggingface::config(folder)?;
    let parts = huggingface::parts(folder, &config)?;
    Ok(Weights::stored(Arc::new(config), Arc::new(Tokenizer::Bytes), parts))
}

/// A parameter's entries after and before a change.
#[derive(Clone, Copy)]
struct WeightChange<'a> {
    now: &'a [f32],
    then: &'a [f32],
}

/// Sums over entries, in double precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    entries: u64,
    squares: f64,
    squares_before: f64,
    changed: u64,
    in_bfloat16: u64,
    beyond: u64,
    /// Sums for the other change, and for both together.
    squares_other: f64,
    products: f64,
    both: u64,
    either: u64,
}

impl Sums {
    fn of(change: WeightChange, other: Option<WeightChange>, beyond: f64) -> Sums {
        let WeightChange { now, then } = change;
        let mut sums = Sums { entries: now.len() as u64, ..Sums::default() };
        for (place, (now, then)) in zip_equal(now, then).enumerate() {
            let change = f64::from(*now) - f64::from(*then);
            sums.squares += change * change;
            sums.squares_before += f64::from(*then) * f64::from(*then);
            sums.changed += u64::from(now != then);
            sums.in_bfloat16 += u64::from(bf16::from_f32(*now) != bf16::from_f32(*then));
            let far = is_beyond(*now, *then, beyond);
            sums.beyond += u64::from(far);
            if let Some(WeightChange { now, then }) = other {
                let other = f64::from(now[place]) - f64::from(then[place]);
                let other_far = is_beyond(now[place], then[place], beyond);
                sums.squares_other += other * other;
                sums.products += change * other;
                sums.both += u64::from(far && other_far);
                sums.either += u64::from(far || other_far);
            }
        }
        sums
    }

    fn add(&mut self, more: &Sums) {
        self.entries += more.entries;
        self.squares += more.squares;
        self.squares_before += more.squares_before;
        self.changed += more.changed;
        self.in_bfloat16 += more.in_bfloat16;
        self.beyond += more.beyond;
        self.squares_other += more.squares_other;
        self.products += more.products;
        self.both += more.both;
        self.either += more.either;
    }

    fn delta(&self, name: String, beside: bool) -> Delta {
        let part = |of: f64, whole: f64| (whole > 0.0).then(|| of / whole);
        let norm = self.squares.sqrt();
        let overlap = || DeltaOverlap {
            cosine: part(self.products, norm * self.squares_other.sqrt()),
            jaccard: part(self.both as f64, self.either as f64),
        };
        Delta {
            name,
            group: None,
            shape: Vec::new(),
            entries: self.entries,
            norm,
            relative: part(norm, self.squares_before.sqrt()),
            changed: self.changed,
            changed_in_bfloat16: self.in_bfloat16,
            changed_beyond: self.beyond,
            rank: None,
            overlap: beside.then(overlap),
        }
    }
}

/// The rank of a change that is not 0.
fn rank(now: &[f32], then: &[f32], shape: &[usize]) -> Rank {
    let wide = |numbers: &[f32]| Tensor::from_slice(numbers).to_kind(Kind::Double);
    let change = (wide(now) - wide(then)).view([shape[0] as i64, shape[1] as i64]);
    // R of the QR decomposition of a tall matrix has the same singular values.
    let long = if shape[0] < shape[1] { change.tr() } else { change };
    let (_, triangle) = Tensor::linalg_qr(&long, "r");
    let (_, values, _) = triangle.svd(true, false);
    of_singular(&Vec::<f64>::try_from(values).expect("one row of numbers"), shape)
}

/// `values` are in descending order.
fn of_singular(values: &[f64], shape: &[usize]) -> Rank {
    let (sum, squares) = (values.iter().sum::<f64>(), values.iter().map(|value| value * value).sum::<f64>());
    let shares = values.iter().map(|value| value / sum).filter(|share| *share > 0.0);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    let mut reached = 0.0;
    let fewest = values.iter().take_while(|value| {
        let before = reached;
        reached += *value * *value;
        before < 0.99 * squares
    });
    let of_99_percent = fewest.count() as u64;
    Rank { effective: entropy.exp(), of_99_percent, full: shape[0].min(shape[1]) as u64 }
}

#[cfg(test)]
mod tests;
