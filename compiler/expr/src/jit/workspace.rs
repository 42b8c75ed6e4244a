//! Memory for the values of a program, reused between runs.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::graph::NodeId;
use crate::values::Values;

/// The values that a run of a [`super::Program`] computes. One workspace works for any programs and batches,
/// one run at a time.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The values of each node; empty where they are in the batch or not computed.
    values: Vec<Vec<f32>>,
    threads: Option<usize>,
}

impl Workspace {
    /// A workspace that uses at most this many threads. [`Default`] uses all of the machine. Results are the
    /// same.
    pub fn with_threads(threads: usize) -> Workspace {
        Workspace { threads: Some(threads), ..Workspace::default() }
    }

    /// The values of an output of the last run.
    ///
    /// # Panics
    /// If `node` was not among the outputs.
    pub fn get(&self, node: NodeId) -> &[f32] {
        self.values
            .get(node.0 as usize)
            .map(Vec::as_slice)
            .expect("only outputs that were asked for are read")
    }

    pub(super) fn threads(&self) -> usize {
        // Cached, because the system call takes as long as a small batch.
        static OF_THE_MACHINE: OnceLock<usize> = OnceLock::new();
        self.threads.unwrap_or_else(|| {
            *OF_THE_MACHINE.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
        })
    }

    pub(super) fn prepare(&mut self, nodes: usize) {
        if self.values.len() < nodes {
            self.values.resize_with(nodes, Vec::new);
        }
    }

    /// An empty vector with capacity for `count` numbers; the node's old value is dropped.
    pub(super) fn room(&mut self, node: NodeId, count: usize) -> Vec<f32> {
        let mut room = std::mem::take(&mut self.values[node.0 as usize]);
        room.clear();
        room.reserve(count);
        room
    }

    pub(super) fn keep(&mut self, node: NodeId, values: Vec<f32>) {
        self.values[node.0 as usize] = values;
    }

    pub(super) fn fill(&mut self, node: NodeId, count: usize, value: f32) {
        let values = &mut self.values[node.0 as usize];
        values.clear();
        values.resize(count, value);
    }

    pub(super) fn copy(&mut self, node: NodeId, from: &[f32]) {
        let values = &mut self.values[node.0 as usize];
        values.clear();
        values.extend_from_slice(from);
    }

    /// The value of a node: from the batch, or computed.
    pub(super) fn value<'a>(&'a self, node: NodeId, given: &[Option<&'a [f32]>]) -> &'a [f32] {
        given[node.0 as usize].unwrap_or(&self.values[node.0 as usize])
    }

    pub(super) fn into_values(mut self, outputs: &[NodeId]) -> Values<f32> {
        let mut values = HashMap::new();
        for output in outputs {
            values.entry(*output).or_insert_with(|| std::mem::take(&mut self.values[output.0 as usize]));
        }
        Values::new(values)
    }
}
