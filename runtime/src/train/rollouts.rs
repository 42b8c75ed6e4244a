//! The rollouts of a step: its sequences, with what does not change while the student learns from them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use mopd_expr::batch::Batch;
use mopd_plan::{Role, Signal, StageStep};
use tch::Tensor;

use super::sequences::Sequences;
use super::stage::{Stage, StageKeys};
use super::vocabulary::{LmHead, Logits};
use crate::data::mixture::Draw;
use crate::machine::transfer::to_vec;
use crate::model::{Decoder, GeneratedActivations, PackedBatch, SavedActivations};
use crate::rollout::{Debate, Sequence};
use crate::store::state::{GroupSizes, StateTensors, StoredRollouts};

/// A batch, with what does not change while the student learns from it.
pub struct Rollouts {
    pub sequences: Sequences,
    /// The step that drew them. Its temperature is that of every update from them.
    pub drawn: StageStep,
    /// Logits of frozen models, where several updates read them.
    pub known: RefCell<Vec<(Role, Vec<Logits>)>>,
    /// Logits of the student at the time of sampling, where several updates read them.
    pub policy: RefCell<Option<Logits>>,
    /// The numbers of the student before the first update from these rollouts, where several updates read
    /// them; empty until that update has computed them.
    pub old: RefCell<Vec<(Signal, Vec<f32>)>>,
    /// Activations that generation saved, until the student's forward pass takes them.
    pub activations: RefCell<Option<GeneratedActivations>>,
}

impl Rollouts {
    pub fn new(sequences: Sequences, drawn: StageStep) -> Rollouts {
        Rollouts {
            sequences,
            drawn,
            known: RefCell::default(),
            policy: RefCell::default(),
            old: RefCell::default(),
            activations: RefCell::default(),
        }
    }

    /// The same with the activations that generation saved.
    pub fn generated(self, activations: GeneratedActivations) -> Rollouts {
        self.activations.replace(Some(activations));
        self
    }

    /// Keeps the numbers of `old` in a batch of the first update.
    pub fn keep_old(&self, batch: &Batch) {
        if self.old.borrow().is_empty() {
            let of_old = batch.signals.iter().filter(|(signal, _)| signal.of_student_now().is_some());
            self.restore_old(of_old.cloned().collect());
        }
    }

    /// Sets the numbers of `old`, each one per token of the whole batch.
    pub fn restore_old(&self, old: Vec<(Signal, Vec<f32>)>) {
        self.old.replace(old);
    }

    /// The student's activations for the whole batch: saved by generation, or from a forward pass. The
    /// backward pass recomputes the first `recomputed` layers.
    pub fn trace(&self, model: &Decoder, packed: &PackedBatch, recomputed: usize) -> SavedActivations {
        let generated = self.activations.take().and_then(|saved| saved.into_trace(model, packed));
        generated.unwrap_or_else(|| model.trace(packed, recomputed))
    }
}

impl Rollouts {
    /// The state, whose tensors are added to `tensors`. `index` is the place among those that are stored.
    pub fn save(&self, keys: StageKeys, index: usize, tensors: &mut StateTensors) -> StoredRollouts {
        if let Some(Logits::Projected { hidden, lm_head: LmHead::Held(lm_head), .. }) = &*self.policy.borrow()
        {
            tensors.put(keys.tensor_name("policy.hidden"), hidden);
            tensors.put(keys.tensor_name("policy.matrix"), lm_head);
        }
        let old = self.old.borrow();
        for (place, (_, values)) in old.iter().enumerate() {
            tensors.put(keys.tensor_name(&format!("old.{index}.{place}")), &Tensor::from_slice(values));
        }
        let Sequences { list, draws, dropped, debates, .. } = &self.sequences;
        StoredRollouts {
            sequences: list.clone(),
            of_group: GroupSizes::Each(self.sequences.groups().map(<[_]>::len).collect()),
            draws: draws.clone(),
            dropped: dropped.clone(),
            debates: if index == 0 { debates.to_vec() } else { Vec::new() },
            drawn: self.drawn.step,
            old: old.iter().map(|(signal, _)| signal.clone()).collect(),
        }
    }

    /// The rollouts of a state of the same stage, in their order. `model` is the student.
    pub fn restored<'s>(
        stage: &Stage,
        model: &Decoder,
        stored: impl Iterator<Item = &'s StoredRollouts> + Clone,
        tensors: &StateTensors,
    ) -> Result<VecDeque<Rollouts>, String> {
        // The first has the debates of all.
        let first = stored.clone().take(1);
        let debates: Rc<[Debate]> = first.flat_map(|first| first.debates.clone()).collect();
        let each = |(index, stored)| Rollouts::restored_one(stage, model, index, stored, &debates, tensors);
        stored.enumerate().map(each).collect()
    }

    fn restored_one(
        stage: &Stage,
        model: &Decoder,
        index: usize,
        StoredRollouts { sequences, of_group, draws, dropped, debates: _, drawn, old }: &StoredRollouts,
        debates: &Rc<[Debate]>,
        tensors: &StateTensors,
    ) -> Result<Rollouts, String> {
        let known = |sequence: &Sequence| {
            stage.sources.contains(Draw { source: sequence.source, record: sequence.record })
        };
        if !sequences.iter().all(known) {
            return Err("its rollouts have prompts that the stage does not have".to_owned());
        }
        let sizes = match of_group {
            GroupSizes::Alike(size) => vec![*size; sequences.len() / size.max(&1)],
            GroupSizes::Each(sizes) => sizes.clone(),
        };
        if sizes.contains(&0) || sizes.iter().sum::<usize>() != sequences.len() {
            return Err("its rollouts have groups of another size".to_owned());
        }
        let mut rest = sequences.iter().cloned();
        let groups = sizes.iter().map(|size| rest.by_ref().take(*size).collect()).collect::<Vec<_>>();
        let (device, keys) = (stage.place.device, stage.keys());
        let policy = match tensors.0.contains_key(&keys.tensor_name("policy.hidden")) {
            true => Some(Logits::Projected {
                hidden: tensors.get(&keys.tensor_name("policy.hidden"))?.to_device(device),
                lm_head: LmHead::Held(tensors.get(&keys.tensor_name("policy.matrix"))?.to_device(device)),
                softcap: model.config.logit_softcap,
                scalar_head: None,
            }),
            false => None,
        };
        if dropped.as_ref().is_some_and(|dropped| dropped.len() != stage.sources.sections().len()) {
            return Err("its rollouts have teachers that the stage does not have".to_owned());
        }
        let sequences = Sequences::of_groups(groups, stage.sources.len())
            .drawn(draws.clone())
            .without(dropped.clone())
            .debated(debates.clone());
        let tokens = sequences.layout.tokens();
        let of_old = old.iter().enumerate().map(|(place, signal)| {
            let values = to_vec(tensors.get(&keys.tensor_name(&format!("old.{index}.{place}")))?);
            match values.len() == tokens {
                true => Ok((signal.clone(), values)),
                false => Err(format!("`old` has {} numbers for {tokens} tokens", values.len())),
            }
        });
        let of_old = of_old.collect::<Result<Vec<_>, String>>()?;
        let rollouts =
            Rollouts { policy: RefCell::new(policy), ..Rollouts::new(sequences, stage.step(*drawn)) };
        rollouts.restore_old(of_old);
        Ok(rollouts)
    }
}
