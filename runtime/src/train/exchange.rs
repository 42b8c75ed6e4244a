//! The data that the processes of a stage exchange in a step. Each process draws, judges and scores the
//! completions of its part of the prompts, and runs the backward pass for its tokens. In between, all have
//! the whole batch: its sequences and the numbers that its objective reads, so a statistic over the batch
//! equals that of a single process. Nothing of the size of the vocabulary is sent. Gradients are
//! reduce-scattered to the processes that keep the optimizer's moments; the updated weights are all-gathered.

use std::ops::Range;

use mopd_expr::batch::Batch;
use mopd_plan::{Axis, Signal};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::master::Master;
use super::optimizer;
use super::sequences::{Group, RolloutsBySource, Sequences};
use super::stage::Stage;
use crate::failure::Result;
use crate::machine::transfer::{to_vec, upload};
use crate::model::{ExpertLoad, Gradient};
use crate::peers::{Peers, apart, from_bytes, shard, to_bytes, unreadable};
use crate::store::state::StateTensors;

/// The own result if all processes succeeded, else an error. A single process exchanges nothing.
pub fn all_or_none<T>(stage: &Stage, own: Result<T>) -> Result<T> {
    match stage.peers {
        None => own,
        Some(peers) => peers.all_or_none(stage.control, own),
    }
}

/// The value of `own` in the first process.
pub fn decision_of_first(stage: &Stage, own: bool) -> Result<bool> {
    let Some(peers) = stage.peers else { return Ok(own) };
    Ok(peers.broadcast(0, &[u8::from(own)])? == [1])
}

/// The bits of the number that the first process computes, or its error.
pub fn number_of_first(stage: &Stage, compute: impl FnOnce() -> Result<u64>) -> Result<u64> {
    let Some(peers) = stage.peers else { return compute() };
    let all = bytes_of_first(stage, peers, || Ok(compute()?.to_le_bytes().to_vec()))?;
    Ok(u64::from_le_bytes(all.try_into().map_err(|_| unreadable(0, &"a number"))?))
}

/// The rollouts that the first process makes, or its error.
pub fn rollouts_of_first(
    stage: &Stage,
    make: impl FnOnce() -> Result<RolloutsBySource>,
) -> Result<RolloutsBySource> {
    let Some(peers) = stage.peers else { return make() };
    groups_from_bytes(0, &bytes_of_first(stage, peers, || Ok(groups_to_bytes(make()?)))?)
}

fn bytes_of_first(stage: &Stage, peers: &Peers, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let own = if peers.is_first() { make() } else { Ok(Vec::new()) };
    Ok(peers.agreed(stage.control, own)?.swap_remove(0))
}

/// Groups as bytes. Log-probabilities are sent as numbers, because JSON has none that are not finite: the
/// step reports those, wherever they were drawn.
fn groups_to_bytes(mut groups: Vec<Group>) -> Vec<u8> {
    let logps = groups.iter_mut().flatten().filter_map(|sequence| sequence.logps.as_mut());
    let values = logps.map(std::mem::take).collect();
    let named = serde_json::to_vec(&groups).expect("sequences are plain data");
    BatchNumbers { named, values }.to_bytes()
}

fn groups_from_bytes(rank: usize, bytes: &[u8]) -> Result<Vec<Group>> {
    let BatchNumbers { named, values } =
        BatchNumbers::from_bytes(bytes).ok_or_else(|| unreadable(rank, &"sequences"))?;
    let mut groups: Vec<Group> = serde_json::from_slice(&named).map_err(|error| unreadable(rank, &error))?;
    let logps = groups.iter_mut().flatten().filter_map(|sequence| sequence.logps.as_mut());
    let mut values = values.into_iter();
    for logps in logps {
        *logps = values.next().ok_or_else(|| unreadable(rank, &"too few log-probabilities"))?;
    }
    Ok(groups)
}

/// The groups of all draws; each process draws its part.
pub fn draw<D>(stage: &Stage, draws: &[D], draw: impl Fn(&[D]) -> Result<Vec<Group>>) -> Result<Vec<Group>> {
    let Some(peers) = stage.peers else { return draw(draws) };
    let own = &draws[peers.shard(draws.len())];
    let own = if own.is_empty() { Ok(Vec::new()) } else { draw(own) };
    let own = own.map(groups_to_bytes);
    let mut groups: Vec<Group> = Vec::with_capacity(draws.len());
    for (rank, bytes) in peers.agreed(stage.control, own)?.into_iter().enumerate() {
        let own: Vec<Group> = groups_from_bytes(rank, &bytes)?;
        let expected = shard(draws.len(), rank, peers.size()).len();
        if own.len() != expected {
            return Err(apart(&format!("process {rank} has {} groups instead of {expected}", own.len())));
        }
        groups.extend(own);
    }
    Ok(groups)
}

/// The sequences of a batch that this process scores, and the range of their tokens in the batch.
pub fn own_part(peers: &Peers, sequences: &Sequences, domains: usize) -> (Sequences, Range<usize>) {
    sequences.part(peers.shard(sequences.layout.groups as usize), domains)
}

/// The signals and live primitives of the whole batch, from those of each process. `own` is `Ok(None)` where
/// this process has no part; `whole` is the batch without its numbers.
pub fn signals(stage: &Stage, peers: &Peers, own: Result<Option<&Batch>>, whole: Batch) -> Result<Batch> {
    let own = own.map(|own| own.map_or_else(Vec::new, |batch| BatchNumbers::from_batch(batch).to_bytes()));
    let all = peers.agreed(stage.control, own)?;
    let mut known = Vec::new();
    for (rank, bytes) in all.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let numbers = BatchNumbers::from_bytes(bytes);
        known.push((rank, numbers.ok_or_else(|| unreadable(rank, &"numbers of a batch"))?));
    }
    joined(known, whole)
}

/// Numbers and what they are of.
#[derive(Debug, PartialEq)]
struct BatchNumbers {
    /// For a batch its signals in their order, for rollouts the sequences without log-probabilities; as JSON.
    named: Vec<u8>,
    /// The values of each signal, then of each live primitive; or each sequence's log-probabilities.
    values: Vec<Vec<f32>>,
}

impl BatchNumbers {
    fn from_batch(batch: &Batch) -> BatchNumbers {
        let named: Vec<&Signal> = batch.signals.iter().map(|(signal, _)| signal).collect();
        let named = serde_json::to_vec(&named).expect("signals are plain data");
        let values = batch.signals.iter().map(|(_, values)| values).chain(&batch.live).cloned().collect();
        BatchNumbers { named, values }
    }

    /// The names and then each list of values, each after its length (u64, little-endian).
    fn to_bytes(&self) -> Vec<u8> {
        let length = |length: usize| (length as u64).to_le_bytes();
        let mut bytes = length(self.named.len()).to_vec();
        bytes.extend(&self.named);
        for values in &self.values {
            bytes.extend(length(values.len()));
            bytes.extend(to_bytes(values));
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<BatchNumbers> {
        fn take<'b>(bytes: &mut &'b [u8], each: usize) -> Option<&'b [u8]> {
            let (length, rest) = bytes.split_at_checked(8)?;
            let length = u64::from_le_bytes(length.try_into().ok()?);
            let (taken, rest) = rest.split_at_checked(usize::try_from(length).ok()?.checked_mul(each)?)?;
            *bytes = rest;
            Some(taken)
        }
        let mut rest = bytes;
        let named = take(&mut rest, 1)?.to_vec();
        let mut values = Vec::new();
        while !rest.is_empty() {
            values.push(from_bytes(take(&mut rest, size_of::<f32>())?));
        }
        Some(BatchNumbers { named, values })
    }
}

/// The concatenated numbers of the parts, each with the rank of its process. Numbers of the whole batch must
/// be equal in all processes.
fn joined(parts: Vec<(usize, BatchNumbers)>, whole: Batch) -> Result<Batch> {
    let Some((of_first, first)) = parts.first() else { return Ok(whole) };
    let signals: Vec<Signal> =
        serde_json::from_slice(&first.named).map_err(|error| unreadable(*of_first, &error))?;
    let other = |part: &BatchNumbers| (&part.named, part.values.len()) != (&first.named, first.values.len());
    if let Some((rank, part)) = parts.iter().find(|(_, part)| other(part)) {
        let text = |part: &BatchNumbers| String::from_utf8_lossy(&part.named).into_owned();
        return Err(apart(&format!(
            "process {rank} computed the signals {} ({} lists of values), process {of_first} {} ({} lists)",
            text(part),
            part.values.len(),
            text(first),
            first.values.len()
        )));
    }
    let lists = |place: usize| parts.iter().map(move |(_, part)| &part.values[place]);
    let end_to_end = |place: usize, axis: Axis, what: &dyn Fn() -> String| {
        let list: Vec<f32> = lists(place).flatten().copied().collect();
        let expected = whole.layout.len(axis);
        match list.len() == expected {
            true => Ok(list),
            false => Err(apart(&format!("{} values of {}, expected {expected}", list.len(), what()))),
        }
    };
    let mut of_signals = Vec::with_capacity(signals.len());
    for (place, signal) in signals.into_iter().enumerate() {
        let axis = signal.axis();
        let values = match axis {
            Axis::Run | Axis::Batch | Axis::Domain => {
                let bits = |list: &Vec<f32>| list.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                if lists(place).any(|list| bits(list) != bits(&first.values[place])) {
                    return Err(apart(&format!("the values of {signal:?} differ")));
                }
                first.values[place].clone()
            }
            Axis::Group | Axis::Sequence | Axis::Token => end_to_end(place, axis, &|| format!("{signal:?}"))?,
            Axis::Turn | Axis::Block | Axis::Vocab => {
                return Err(apart(&format!("{signal:?} belongs to no axis of a batch")));
            }
        };
        of_signals.push((signal, values));
    }
    let live = of_signals.len()..first.values.len();
    let live = live.map(|place| end_to_end(place, Axis::Token, &|| "a live primitive".to_owned()));
    let live = live.collect::<Result<_>>()?;
    Ok(Batch { signals: of_signals, live, ..whole })
}

/// The part of the summed gradient whose parameters this process updates. What was sent of the own gradient
/// is freed, so that the sum takes its memory.
pub fn reduced(peers: &Peers, gradient: Gradient) -> Result<Gradient> {
    let (length, place) = (gradient.parameters(), gradient.place);
    let owned = peers.shard(length);
    let mut sum = Gradient::zero(owned.len(), Kind::Float, place);
    let mut left = gradient.into_parts();
    let put = |range: Range<usize>, numbers: &[f32]| {
        sum.write(range.start - owned.start, &upload(numbers, place.device));
    };
    peers.reduce_scatter(length, |range| to_vec(&left.take(range)), put)?;
    Ok(sum)
}

/// The norm of a gradient that is divided among processes; `squares` is the sum of squares of the own part.
pub fn norm(peers: &Peers, squares: f64) -> Result<f64> {
    Ok(peers.all_reduce(&[squares])?[0].sqrt())
}

/// Gathers the parameters in every process, after each has updated its part.
pub fn weights(peers: &Peers, parameters: &Master) -> Result<()> {
    let put = |range: Range<usize>, numbers: &[f32]| {
        if !range.is_empty() {
            parameters.part(range).set(&upload(numbers, parameters.device()));
        }
    };
    peers.all_gather_parts(parameters.len(), |range| parameters.part(range).numbers(), put)
}

/// Completes the optimizer's moments of all `length` parameters in the first process, which alone writes
/// checkpoints. The others keep their parts.
pub fn whole_moments(peers: &Peers, tensors: &mut StateTensors, length: usize) -> Result<()> {
    let _guard = no_grad_guard();
    let start = peers.shard(length).start;
    for (_, tensor) in tensors.0.iter_mut().filter(|(name, _)| optimizer::is_state(name)) {
        let whole = peers.is_first().then(|| Tensor::zeros([length as i64], (Kind::Float, Device::Cpu)));
        let part =
            |range: Range<usize>| to_vec(&tensor.narrow(0, (range.start - start) as i64, range.len() as i64));
        peers.gather_parts(length, part, |range, numbers| {
            let whole = whole.as_ref().expect("only the first process receives them");
            let mut place = whole.narrow(0, range.start as i64, range.len() as i64);
            place.copy_(&Tensor::from_slice(numbers));
        })?;
        *tensor = whole.unwrap_or_else(|| tensor.shallow_clone());
    }
    Ok(())
}

/// The state for this process: of the optimizer's moments, only those of its parameters.
pub fn own_moments(peers: &Peers, tensors: &StateTensors, length: usize) -> Result<StateTensors, String> {
    let owned = peers.shard(length);
    let own = tensors.0.iter().map(|(name, tensor)| {
        let tensor = match optimizer::is_state(name) {
            false => tensor.shallow_clone(),
            true if tensor.numel() != length => {
                return Err(format!("`{name}` has {} numbers, expected {length}", tensor.numel()));
            }
            true => tensor.narrow(0, owned.start as i64, owned.len() as i64),
        };
        Ok((name.clone(), tensor))
    });
    Ok(StateTensors(own.collect::<Result<_, String>>()?))
}

/// How the tokens of all processes were distributed over experts.
pub fn expert_load(peers: &Peers, own: Option<ExpertLoad>) -> Result<Option<ExpertLoad>> {
    let own = own.map(|load| load.counts);
    let bytes = serde_json::to_vec(&own).expect("counts are plain data");
    let mut sum: Option<Vec<Vec<i64>>> = None;
    for (rank, bytes) in peers.all_gather(&bytes)?.into_iter().enumerate() {
        let counts: Option<Vec<Vec<i64>>> =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(rank, &error))?;
        sum = match (sum, counts) {
            (None, counts) => counts,
            (sum, None) => sum,
            (Some(mut sum), Some(counts)) => {
                let places = sum.iter_mut().flatten().zip(counts.iter().flatten());
                places.for_each(|(sum, count)| *sum += count);
                Some(sum)
            }
        };
    }
    Ok(sum.map(|counts| ExpertLoad { counts }))
}

#[cfg(test)]
mod tests {
    use mopd_expr::batch::Layout;
    use mopd_plan::Role;

    use super::*;
    use crate::machine::place::Place;
    use crate::peers::tests::among;
    use crate::rollout::Sequence;

    fn part(tokens: &[f32], loss: f32) -> Batch {
        let logp = Signal::Logp { role: Role::Student };
        let signals = vec![(logp, tokens.to_vec()), (Signal::Loss, vec![loss])];
        Batch { signals, live: vec![tokens.iter().map(|value| -value).collect()], ..Batch::default() }
    }

    fn whole(tokens: usize) -> Batch {
        let layout = Layout {
            sequence_of_token: vec![0; tokens],
            group_of_sequence: vec![0],
            groups: 1,
            ..Layout::default()
        };
        Batch { layout, ..Batch::default() }
    }

    fn join(parts: &[Batch], tokens: usize) -> Result<Batch> {
        let parts = parts
            .iter()
            .map(|part| BatchNumbers::from_bytes(&BatchNumbers::from_batch(part).to_bytes()).unwrap());
        // The first process has no part.
        joined((1..).zip(parts).collect(), whole(tokens))
    }

    /// For pieces of a gradient that no part begins with, some of which were never written.
    #[test]
    fn a_gradient_is_summed_in_the_order_of_the_processes() {
        const LENGTH: usize = 23;
        let number = |rank: usize, at: usize| [1e8, 1.0, -1e8, 3.0e-3][(rank + at) % 4] + at as f32;
        let mut place = Place::cpu();
        place.sizes.piece = 5;
        for processes in [2, 3] {
            let sums = among(processes, |peers| {
                let mut gradient = Gradient::zero(LENGTH, Kind::Float, place);
                let own: Vec<f32> = (0..20).map(|at| number(peers.rank(), at)).collect();
                gradient.write(0, &Tensor::from_slice(&own));
                let own = reduced(peers, gradient).unwrap();
                assert_eq!(own.parameters(), peers.shard(LENGTH).len());
                to_vec(&own.part(0..own.parameters()))
            });
            let in_order = |at| (1..processes).fold(number(0, at), |sum, rank| sum + number(rank, at));
            let expected: Vec<f32> = (0..LENGTH).map(|at| if at < 20 { in_order(at) } else { 0.0 }).collect();
            assert_eq!(sums.concat(), expected, "{processes}");
        }
    }

    #[test]
    fn only_the_first_process_has_all_moments() {
        for processes in [2, 3] {
            let found = among(processes, |peers| {
                let owned = peers.shard(10);
                let own: Vec<f32> = owned.clone().map(|at| at as f32).collect();
                let mut tensors = StateTensors::default();
                tensors.put("optimizer.mean", &Tensor::from_slice(&own));
                tensors.put("weights", &Tensor::from_slice(&[7.0f32]));
                whole_moments(peers, &mut tensors, 10).unwrap();
                let of = |name: &str| to_vec(tensors.0.iter().find(|(known, _)| *known == name).unwrap().1);
                assert_eq!(of("weights"), [7.0]);
                (of("optimizer.mean"), own)
            });
            let all: Vec<f32> = (0..10u8).map(f32::from).collect();
            assert_eq!(found[0].0, all);
            assert!(found[1..].iter().all(|(kept, own)| kept == own));
        }
    }

    /// The numbers include some that JSON does not have.
    #[test]
    fn parts_of_a_batch_are_put_end_to_end() {
        let batch = join(&[part(&[1.0, f32::NAN], 0.5), part(&[f32::NEG_INFINITY], 0.5)], 3).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&batch.signals[0].1), bits(&[1.0, f32::NAN, f32::NEG_INFINITY]));
        assert_eq!(batch.signals[1], (Signal::Loss, vec![0.5]));
        assert_eq!(bits(&batch.live[0][2..]), bits(&[f32::INFINITY]));
    }

    #[test]
    fn rollouts_keep_every_bit_of_their_log_probabilities() {
        let sequence = |logps: Option<Vec<f32>>| Sequence { logps, ..Sequence::new(0, 1, vec![7, 8]) };
        let odd = vec![f32::NAN, f32::NEG_INFINITY, -0.0];
        let groups =
            vec![vec![sequence(Some(odd.clone())), sequence(None)], vec![], vec![sequence(Some(vec![-0.1]))]];
        let bytes = groups_to_bytes(groups);
        let read = groups_from_bytes(0, &bytes).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(read[0][0].logps.as_ref().unwrap()), bits(&odd));
        assert_eq!((&read[0][1], &read[2][0]), (&sequence(None), &sequence(Some(vec![-0.1]))));
        assert_eq!((read.len(), read[1].len()), (3, 0));
        assert!(groups_from_bytes(0, &bytes[..bytes.len() - 1]).is_err(), "a message that was cut off");
    }

    /// One of the processes has no tokens.
    #[test]
    fn loads_of_experts_add_up() {
        let load = |peers: &Peers| match peers.rank() {
            1 => None,
            rank => Some(ExpertLoad { counts: vec![vec![rank as i64, 2], vec![5, 1]] }),
        };
        let expected = ExpertLoad { counts: vec![vec![2, 4], vec![10, 2]] };
        for sum in crate::peers::tests::among(3, |peers| expert_load(peers, load(peers)).unwrap()) {
            assert_eq!(sum.as_ref(), Some(&expected));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_no_batch() {
        let said = |parts: &[Batch], tokens| join(parts, tokens).unwrap_err().to_string();
        let (one, other) = (part(&[1.0, 2.0], 0.5), part(&[3.0], 0.5));
        assert!(said(&[one.clone(), other.clone()], 4).contains("3 values of"), "too few tokens");
        assert!(said(&[one.clone(), part(&[3.0], 0.25)], 3).contains("differ"), "another loss");
        let mut unlike = other;
        unlike.signals.pop();
        let apart = said(&[one, unlike], 3);
        assert!(
            apart.contains("process 2 computed the signals") && apart.contains(", process 1 "),
            "{apart}"
        );
        let bytes = BatchNumbers::from_batch(&part(&[1.0], 0.0)).to_bytes();
        assert_eq!(BatchNumbers::from_bytes(&bytes[..bytes.len() - 1]), None, "a message that was cut off");
    }
}
