//! The weights that a stage changes.

use serde::{Deserialize, Serialize};

use super::ModelId;
use super::optimizers::WeightGroup;
use super::stages::Adapter;

/// The weights that a stage changes. `M` is the type that names models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "trains", rename_all = "snake_case")]
pub enum Trainable<M = ModelId> {
    /// The model's own weights: those in `only` (all where absent) that are not in `except`.
    Weights { only: Option<Vec<WeightFilter<M>>>, except: Vec<WeightFilter<M>> },
    /// An adapter: small matrices beside frozen weights.
    Adapter(Adapter),
}

impl Default for Trainable {
    fn default() -> Trainable {
        Trainable::Weights { only: None, except: Vec::new() }
    }
}

/// Some of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFilter<M = ModelId> {
    /// In every layer.
    Group(WeightGroup),
    /// Everything in these layers, counted from 0, both ends included.
    Layers { first: u32, last: u32 },
    /// Single elements, in any matrix.
    Changed(ChangedElements<M>),
}

/// The elements that differ between two models of one shape by more than `beyond`: a subnetwork
/// (arXiv:2505.11711).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangedElements<M = ModelId> {
    pub after: M,
    pub before: M,
    pub beyond: f64,
}

impl<M> Trainable<M> {
    /// The pairs of models whose differences choose single elements.
    pub fn changes(&self) -> impl Iterator<Item = &ChangedElements<M>> {
        let (only, except): (&[WeightFilter<M>], &[WeightFilter<M>]) = match self {
            Trainable::Weights { only, except } => (only.as_deref().unwrap_or_default(), except),
            Trainable::Adapter(_) => (&[], &[]),
        };
        only.iter().chain(except).filter_map(|filter| match filter {
            WeightFilter::Changed(changed) => Some(changed),
            WeightFilter::Group(_) | WeightFilter::Layers { .. } => None,
        })
    }

    /// The same with model names mapped by `of`.
    pub fn map<N>(&self, of: impl Fn(&M) -> N) -> Trainable<N> {
        let filter = |filter: &WeightFilter<M>| match filter {
            WeightFilter::Group(group) => WeightFilter::Group(*group),
            WeightFilter::Layers { first, last } => WeightFilter::Layers { first: *first, last: *last },
            WeightFilter::Changed(ChangedElements { after, before, beyond }) => {
                WeightFilter::Changed(ChangedElements {
                    after: of(after),
                    before: of(before),
                    beyond: *beyond,
                })
            }
        };
        let all = |filters: &[WeightFilter<M>]| filters.iter().map(filter).collect();
        match self {
            Trainable::Weights { only, except } => {
                Trainable::Weights { only: only.as_deref().map(all), except: all(except) }
            }
            Trainable::Adapter(adapter) => Trainable::Adapter(adapter.clone()),
        }
    }
}

impl Trainable {
    /// The models whose differences choose elements.
    pub fn models(&self) -> impl Iterator<Item = ModelId> {
        self.changes().flat_map(|changed| [changed.after, changed.before])
    }

    /// Whether all of the model's own parameters are trained. The optimizer's state is then at least as large
    /// as the model.
    pub fn is_all(&self) -> bool {
        matches!(self, Trainable::Weights { only: None, except } if except.is_empty())
    }

    /// An upper bound of the trained weights: all elements, whichever ones `changed` selects.
    pub fn as_fully_trainable(&self) -> Trainable {
        let whole = |filter: &WeightFilter| !matches!(filter, WeightFilter::Changed(_));
        let mut trainable = self.clone();
        if let Trainable::Weights { only, except } = &mut trainable {
            if !only.iter().flatten().all(whole) {
                *only = None;
            }
            except.retain(whole);
        }
        trainable
    }
}
