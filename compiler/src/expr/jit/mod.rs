//! Graphs as machine code, in f32: the only module that knows Cranelift.
//!
//! Between two reductions, all elementwise nodes of one axis become one function that loops over the axis's elements and
//! keeps everything but its results in registers ([`groups`], [`emit`]). Reductions, statistics and scans run in between, in Rust
//! and in f64 ([`super::aggregate`]). A number from a coarser axis is read inside the loop through the array that says which
//! coarse element each element lies in, which the batch has anyway: gathering it first would cost a pass over memory and a
//! copy per fine element. No fused multiply-add is generated, so results are the same on every machine.

mod emit;
mod groups;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem::ManuallyDrop;

use crate::plan::Axis;
use cranelift_jit::JITModule;

use self::groups::{Group, Schedule, Step};
use super::aggregate;
use super::batch::Batch;
use super::graph::{Graph, MalformedGraph, NodeId, Operation};
use super::values::{EvaluationError, Values};

/// Why a graph can't become machine code here. The interpreter still evaluates it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("code can't be generated for this machine: {0}")]
    Host(String),
    #[error("code can't be generated for an expression: {0}")]
    Unsupported(String),
    #[error("an output was asked for that the graph does not have")]
    MissingNode,
    #[error(transparent)]
    Malformed(#[from] MalformedGraph),
}

/// A compiled graph. Its code lives as long as it does.
pub struct Program {
    graph: Graph,
    outputs: Vec<NodeId>,
    schedule: Schedule,
    /// One per fused step of the schedule, in order. Points into `code`.
    loops: Vec<Loop>,
    /// Kept for its memory.
    _code: Code,
}

/// A generated function: for each of `count` elements, reads `inputs`, writes `outputs`. `parents` holds, for every coarser axis
/// that is read, at its place in [`Axis::ALL`], the array that says which of its elements each element lies in.
type Loop = unsafe extern "C" fn(inputs: *const *const f32, parents: *const *const u32, outputs: *const *mut f32, count: usize);

/// Executable memory. Dropping a `JITModule` leaks it on purpose, since function pointers may still be around.
struct Code(ManuallyDrop<JITModule>);

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the module is not used after this. The only pointers into it are the `loops` of the `Program` that owns
        // this value; they are called only through a borrow of that `Program`, so none is running and none is called again.
        unsafe { ManuallyDrop::take(&mut self.0).free_memory() }
    }
}

// SAFETY: `JITModule` is `Send`, but not `Sync`, because looking up symbols changes a table inside it. Nothing looks up
// symbols once a `Code` is shared: after `emit::compile` returns, the module is only dropped. The code itself is immutable,
// has no global state, and touches no memory but what its arguments point to.
unsafe impl Sync for Code {}

impl Program {
    /// Compiles what `outputs` need.
    pub fn compile(graph: &Graph, outputs: &[NodeId]) -> Result<Program, CompileError> {
        graph.check()?;
        if !graph.has(outputs) {
            return Err(CompileError::MissingNode);
        }
        let schedule = groups::schedule(graph, outputs);
        let (code, loops) = emit::compile(graph, schedule.groups())?;
        Ok(Program { graph: graph.clone(), outputs: outputs.to_vec(), schedule, loops, _code: code })
    }

    /// The values of the outputs on `batch`. Fails where the batch lacks something that they read.
    pub fn run(&self, batch: &Batch) -> Result<Values<f32>, EvaluationError> {
        let layout = &batch.layout;
        layout.check()?;
        let mut values: Vec<Cow<[f32]>> = vec![Cow::Borrowed(&[]); self.graph.len()];
        for id in &self.schedule.leaves {
            let node = self.graph.node(*id);
            values[id.0 as usize] = match &node.operation {
                Operation::Constant { value } => Cow::Owned(vec![*value as f32; layout.len(node.axis)]),
                Operation::Schedule { schedule } => Cow::Owned(vec![schedule.at(batch.step, batch.steps) as f32]),
                Operation::Signal { signal } => batch.values(signal)?,
                Operation::Live { live } => Cow::Borrowed(batch.live_values(*live)?),
                _ => unreachable!("a leaf has no operands"),
            };
        }
        let parents = Parents::of(batch, &self.schedule, &self.graph);
        let mut loops = self.loops.iter();
        for step in &self.schedule.steps {
            match step {
                Step::Fused(group) => {
                    let generated = loops.next().expect("one function per fused step");
                    self.run_loop(group, *generated, batch, &parents, &mut values);
                }
                Step::Aggregate(id) => values[id.0 as usize] = Cow::Owned(self.aggregate(*id, batch, &values)),
            }
        }
        let outputs = self.outputs.iter().map(|id| (*id, values[id.0 as usize].to_vec()));
        Ok(Values::new(outputs.collect::<HashMap<_, _>>()))
    }

    fn run_loop(&self, group: &Group, generated: Loop, batch: &Batch, parents: &Parents, values: &mut [Cow<[f32]>]) {
        let count = batch.layout.len(group.axis);
        let mut results: Vec<Vec<f32>> = group.stored.iter().map(|_| vec![0.0; count]).collect();
        let inputs: Vec<*const f32> = group.inputs.iter().map(|id| values[id.0 as usize].as_ptr()).collect();
        let outputs: Vec<*mut f32> = results.iter_mut().map(|result| result.as_mut_ptr()).collect();
        let parents = parents.for_elements_of(group.axis);
        // SAFETY: `generated` was made for `group` of this graph, which passed `Graph::check`. It reads `inputs[k]` at
        // element indices below `count` where the input has the group's axis, at parent indices where it is coarser, at 0
        // where it is a single number; every input was computed before this group and has one value per element of its
        // axis (`Batch::values` and `Batch::live_values` check lengths, the rest is made here). Parent indices are inside
        // their axis by `Layout::check`, and their arrays have `count` elements wherever the schedule says that they are
        // read. It writes each output below `count`; outputs are fresh, so nothing aliases them.
        unsafe { generated(inputs.as_ptr(), parents.as_ptr(), outputs.as_ptr(), count) };
        for (id, result) in group.stored.iter().zip(results) {
            values[id.0 as usize] = Cow::Owned(result);
        }
    }

    fn aggregate(&self, id: NodeId, batch: &Batch, values: &[Cow<[f32]>]) -> Vec<f32> {
        let results = aggregate::evaluate(&self.graph, id, batch, |of, index| f64::from(values[of.0 as usize][index]));
        results.into_iter().map(|x| x as f32).collect()
    }
}

/// For each axis that loops run over, and each coarser one that they read numbers of: which element of the coarser each element
/// lies in.
struct Parents<'a>(HashMap<(Axis, Axis), Cow<'a, [u32]>>);

impl Parents<'_> {
    fn of<'a>(batch: &'a Batch, schedule: &Schedule, graph: &Graph) -> Parents<'a> {
        let mut parents = HashMap::new();
        for group in schedule.groups() {
            for coarse in
                group.inputs.iter().map(|input| graph.axis(*input)).filter(|coarse| Axis::Batch < *coarse && *coarse < group.axis)
            {
                parents.entry((group.axis, coarse)).or_insert_with(|| batch.layout.parents(group.axis, coarse));
            }
        }
        Parents(parents)
    }

    /// By coarser axis; null where there is none, or none is read.
    fn for_elements_of(&self, axis: Axis) -> [*const u32; Axis::ALL.len()] {
        std::array::from_fn(|coarse| self.0.get(&(axis, Axis::ALL[coarse])).map_or(std::ptr::null(), |parents| parents.as_ptr()))
    }
}
