//! Compiles graphs to machine code in f32. The only module that depends on Cranelift.
//!
//! Between two reductions, all elementwise nodes of one axis become one function that loops over the axis's
//! elements, four at a time, and keeps everything but its results in registers ([`groups`], [`emit`],
//! [`vector`]). Where the processor has wider vectors than Cranelift, elementary functions are not part of
//! this function: they are compiled ahead ([`precompiled`]), and the loop is split at them ([`parts`]).
//! [`mopd_ops::f32_ops`] defines what a function computes. Reductions, statistics and scans run in between,
//! in Rust and in f64 ([`super::aggregate`]). A number from a coarser axis is read inside the loop through
//! the array of each element's parent, which the batch has anyway. Gathering it first would cost a pass over
//! memory and a copy per fine element.

mod emit;
mod groups;
mod parts;
mod precompiled;
#[cfg(test)]
mod tests;
mod vector;
mod workspace;

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem::ManuallyDrop;

use cranelift_jit::JITModule;

use self::emit::CodeTarget;
use self::groups::{LoopGroup, LoopSchedule, LoopStep};
use self::parts::{Location, LoopPart, SplitGroup, TILE};
use self::precompiled::Precompiled;
use self::vector::{LANES, WIDTH};
pub use self::workspace::Workspace;
use super::aggregate;
use super::batch::Batch;
use super::graph::{Graph, MalformedGraph, NodeId, Operation};
use super::values::{EvaluationError, Values};
use crate::graph::signals::{Axis, Function};

/// The reason why a graph can't be compiled on this machine. The interpreter can still evaluate it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("code can't be generated for this machine: {0}")]
    Host(String),
    #[error("code can't be generated for an expression: {0}")]
    Unsupported(String),
    #[error("an output was requested that the graph does not have")]
    MissingNode,
    #[error(transparent)]
    Malformed(#[from] MalformedGraph),
}

/// A compiled graph. It owns its machine code.
pub struct Program {
    graph: Graph,
    outputs: Vec<NodeId>,
    schedule: LoopSchedule,
    /// The compiled groups, one per fused step of the schedule, in order. Contains pointers into `_code`.
    fused: Vec<Fused>,
    /// Keeps the executable memory alive.
    _code: Code,
}

/// The compiled functions of a group.
struct Fused {
    parts: Vec<CompiledPart>,
    /// The number of temporary arrays between the parts.
    between: usize,
}

struct CompiledPart {
    generated: Option<CompiledLoop>,
    inputs: Vec<Location>,
    stored: Vec<Location>,
    calls: Vec<CompiledCall>,
}

/// A precompiled function, applied to one array.
struct CompiledCall {
    function: Precompiled,
    operand: Location,
    result: Location,
}

/// A generated function, and the constants that it reads.
struct CompiledLoop {
    function: Loop,
    constants: Constants,
}

/// A generated function. For each of the elements `start..end`, at least [`WIDTH`] of them, it reads `inputs`
/// and writes `outputs`. For every coarser axis that it reads, `parents` has, at the index of that axis, the
/// array with the parent of each element.
type Loop = unsafe extern "C" fn(
    inputs: *const *const f32,
    parents: *const *const u32,
    constants: *const Repeated,
    outputs: *const *mut f32,
    start: usize,
    end: usize,
);

/// The same bits in every lane.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Repeated([u32; LANES as usize]);

/// The constants that a generated function reads.
type Constants = Vec<Repeated>;

/// The code of some nodes: a generated loop, and the functions that follow it for the same elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// The axis of the loop.
    pub axis: Axis,
    pub nodes: Vec<NodeId>,
    /// Cranelift's intermediate representation.
    pub clif: String,
    /// The machine code in assembly.
    pub assembly: String,
    /// Precompiled functions, for the widest vectors of this processor.
    pub ahead: Vec<(NodeId, Function)>,
}

impl GroupListing {
    fn of_no_loop(axis: Axis) -> GroupListing {
        GroupListing { axis, nodes: vec![], clif: String::new(), assembly: String::new(), ahead: vec![] }
    }
}

/// The number of elements per thread below which another thread costs more than it saves.
const ELEMENTS_PER_THREAD: usize = 1 << 17;

/// Whether this machine has a fused multiply-add instruction, so that a graph with [`Graph::fused`] runs
/// fast. False also where code can't be generated.
pub fn fuses() -> bool {
    emit::isa(CodeTarget::Host).is_ok_and(|isa| isa.has_native_fma())
}

/// Executable memory. A `JITModule` leaks it when dropped, on purpose, since function pointers may still
/// exist.
struct Code(ManuallyDrop<JITModule>);

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the module is not used after this. The only pointers into it are in `fused` of the
        // `Program` that owns this value; they are called only through a borrow of that `Program`, so
        // none is running and none is called again.
        unsafe { ManuallyDrop::take(&mut self.0).free_memory() }
    }
}

// SAFETY: `JITModule` is `Send`, but not `Sync`, because looking up symbols changes a table inside it.
// Nothing looks up symbols once a `Code` is shared: after `emit::compile` returns, the module is only
// dropped. The code itself is immutable, has no global state, and touches no memory but what its arguments
// point to.
unsafe impl Sync for Code {}

impl Program {
    /// Compiles the nodes that `outputs` depend on.
    pub fn compile(graph: &Graph, outputs: &[NodeId]) -> Result<Program, CompileError> {
        Program::compile_for(CodeTarget::Host, graph, outputs, None)
    }

    /// The output of [`Program::compile`] as text, with one listing for each group of nodes.
    pub fn listings(graph: &Graph, outputs: &[NodeId]) -> Result<Vec<GroupListing>, CompileError> {
        let mut listings = Vec::new();
        Program::compile_for(CodeTarget::Host, graph, outputs, Some(&mut listings))?;
        Ok(listings)
    }

    fn compile_for(
        target: CodeTarget,
        graph: &Graph,
        outputs: &[NodeId],
        mut listings: Option<&mut Vec<GroupListing>>,
    ) -> Result<Program, CompileError> {
        graph.check()?;
        if !graph.has(outputs) {
            return Err(CompileError::MissingNode);
        }
        let schedule = groups::schedule(graph, outputs);
        let ahead = |function| target.precompiled(function, graph.fused());
        let divisions: Vec<SplitGroup> = (schedule.groups())
            .map(|group| parts::divide(graph, group, |function| ahead(function).is_some()))
            .collect();
        let generated = divisions.iter().flat_map(|division| &division.parts);
        let generated = generated.filter_map(|part| part.generated.as_ref());
        let (code, loops) = emit::compile(graph, generated, target, listings.as_deref_mut())?;
        if let Some(listings) = listings {
            let mut loops = std::mem::take(listings).into_iter();
            for (group, division) in schedule.groups().zip(&divisions) {
                listings.extend(division.parts.iter().map(|part| {
                    let generated = part.generated.as_ref().and_then(|_| loops.next());
                    let ahead = part.calls.iter().map(|call| (call.node, call.function)).collect();
                    GroupListing {
                        ahead,
                        ..generated.unwrap_or_else(|| GroupListing::of_no_loop(group.axis))
                    }
                }));
            }
        }
        let mut loops = loops.into_iter();
        let mut compiled = |part: LoopPart| {
            let LoopPart { generated, inputs, stored, calls } = part;
            let calls = calls.into_iter().map(|call| {
                let function = ahead(call.function).expect("it is called because it is there");
                CompiledCall { function, operand: call.operand, result: call.result }
            });
            let generated = generated.map(|_| {
                let (function, constants) = loops.next().expect("one function for each loop");
                CompiledLoop { function, constants }
            });
            CompiledPart { generated, inputs, stored, calls: calls.collect() }
        };
        let fused = divisions.into_iter().map(|SplitGroup { parts, between }| Fused {
            parts: parts.into_iter().map(&mut compiled).collect(),
            between,
        });
        let fused = fused.collect();
        Ok(Program { graph: graph.clone(), outputs: outputs.to_vec(), schedule, fused, _code: code })
    }

    /// The values of the outputs on `batch`. An error if the batch lacks something that they read.
    pub fn run(&self, batch: &Batch) -> Result<Values<f32>, EvaluationError> {
        let mut workspace = Workspace::default();
        self.run_in(batch, &mut workspace)?;
        Ok(workspace.into_values(&self.outputs))
    }

    /// Like [`Program::run`], but leaves the values in `workspace`, whose memory is reused.
    pub fn run_in(&self, batch: &Batch, workspace: &mut Workspace) -> Result<(), EvaluationError> {
        let layout = &batch.layout;
        if self.schedule.reads_layout {
            layout.check()?;
        }
        workspace.prepare(self.graph.len());
        // Values in the batch are read in place.
        let mut given: Vec<Option<&[f32]>> = vec![None; self.graph.len()];
        for id in &self.schedule.leaves {
            let node = self.graph.node(*id);
            let leaf = &mut given[id.0 as usize];
            match &node.operation {
                Operation::Constant { value } => workspace.fill(*id, layout.len(node.axis), *value as f32),
                Operation::Schedule { schedule } => {
                    workspace.fill(*id, 1, schedule.at(batch.step, batch.steps) as f32)
                }
                Operation::Signal { signal } => match batch.values(signal)? {
                    Cow::Borrowed(values) => *leaf = Some(values),
                    Cow::Owned(values) => workspace.keep(*id, values),
                },
                Operation::Live { live } => *leaf = Some(batch.live_values(*live)?),
                _ => unreachable!("a leaf has no operands"),
            }
        }
        let parents = Parents::of(batch, &self.schedule, &self.graph);
        let mut fused = self.fused.iter();
        for step in &self.schedule.steps {
            match step {
                LoopStep::Fused(group) => {
                    let compiled = fused.next().expect("one for each fused step");
                    self.run_loop(group, compiled, batch, &parents, &given, workspace);
                }
                LoopStep::Aggregate(id) => {
                    let values = self.aggregate(*id, batch, &given, workspace);
                    workspace.keep(*id, values);
                }
            }
        }
        for output in &self.outputs {
            if let Some(values) = given[output.0 as usize] {
                workspace.copy(*output, values);
            }
        }
        Ok(())
    }

    fn run_loop(
        &self,
        group: &LoopGroup,
        fused: &Fused,
        batch: &Batch,
        parents: &Parents,
        given: &[Option<&[f32]>],
        workspace: &mut Workspace,
    ) {
        let count = batch.layout.len(group.axis);
        // The results are taken out of the workspace, so that it can be borrowed meanwhile.
        let mut results: Vec<Vec<f32>> = group.stored.iter().map(|id| workspace.room(*id, count)).collect();
        let inputs: Vec<&[f32]> = group.inputs.iter().map(|id| workspace.value(*id, given)).collect();
        let parents = parents.for_elements_of(group.axis);
        if count < WIDTH {
            self.run_few(group, fused, count, &inputs, parents, &mut results);
        } else {
            let arguments = CallArguments {
                fused,
                inputs: inputs.iter().map(|input| input.as_ptr()).collect(),
                parents: parents.map(|parents| parents.as_ptr()),
                outputs: results.iter_mut().map(|result| result.as_mut_ptr()).collect(),
            };
            let threads = workspace.threads().min(count / ELEMENTS_PER_THREAD).max(1);
            // Ranges end at multiples of the width, so that no element is computed by two threads.
            let border = |thread: usize| {
                if thread == threads { count } else { count / WIDTH * thread / threads * WIDTH }
            };
            // SAFETY: `fused` was made for `group` of this graph, which passed `Graph::check`. It reads
            // `inputs[k]` at element indices below `count` where the input has the group's axis,
            // at parent indices where it is coarser, at 0 where it is a single number; every
            // input was computed before this group and has one value per element of its
            // axis (`Batch::values` and `Batch::live_values` check lengths, the rest is made here). Parent
            // indices are inside their axis by `Layout::check`, and their arrays have `count`
            // elements wherever the schedule says that they are read. It writes each output below
            // `count`, for which `Workspace::room` reserved memory; outputs are taken out of
            // the workspace, so nothing aliases them, and no two threads write the same elements. Each range
            // has at least `WIDTH` elements: the first and only one has `count`, several have
            // `ELEMENTS_PER_THREAD` about.
            let run = |thread: usize| unsafe { arguments.run(border(thread), border(thread + 1)) };
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || run(thread))).collect();
                run(0);
                for other in others {
                    other.join().expect("generated code does not panic");
                }
            });
            for result in &mut results {
                // SAFETY: the capacity is at least `count` and all of these elements were written.
                unsafe { result.set_len(count) };
            }
        }
        for (id, result) in group.stored.iter().zip(results) {
            workspace.keep(*id, result);
        }
    }

    /// Runs the loop for fewer elements than its width, by padding them to a full width.
    fn run_few(
        &self,
        group: &LoopGroup,
        fused: &Fused,
        count: usize,
        inputs: &[&[f32]],
        parents: [&[u32]; AXES],
        results: &mut [Vec<f32>],
    ) {
        const FULL: usize = WIDTH;
        if count == 0 {
            return;
        }
        let padded: Vec<[f32; FULL]> = (group.inputs.iter().zip(inputs))
            .map(|(id, input)| {
                let here = self.graph.axis(*id) == group.axis;
                std::array::from_fn(|index| if here { input[index.min(count - 1)] } else { 0.0 })
            })
            .collect();
        let pointers: Vec<*const f32> = (group.inputs.iter().zip(inputs).zip(&padded))
            .map(
                |((id, input), padded)| {
                    if self.graph.axis(*id) == group.axis { padded.as_ptr() } else { input.as_ptr() }
                },
            )
            .collect();
        let parents = parents.map(|parents| -> [u32; FULL] {
            std::array::from_fn(|index| parents.get(index.min(count - 1)).copied().unwrap_or_default())
        });
        let mut computed = vec![[0.0f32; FULL]; results.len()];
        let arguments = CallArguments {
            fused,
            inputs: pointers,
            parents: parents.each_ref().map(|parents| parents.as_ptr()),
            outputs: computed.iter_mut().map(|result| result.as_mut_ptr()).collect(),
        };
        // SAFETY: as in `run_loop`, with `FULL` for `count`: inputs of the group's axis, parents and outputs
        // have so many elements here, and made-up parents are those of the last element.
        unsafe { arguments.run(0, FULL) };
        for (result, computed) in results.iter_mut().zip(computed) {
            result.extend_from_slice(&computed[..count]);
        }
    }

    fn aggregate(
        &self,
        id: NodeId,
        batch: &Batch,
        given: &[Option<&[f32]>],
        workspace: &Workspace,
    ) -> Vec<f32> {
        let value = |of: NodeId, index: usize| f64::from(workspace.value(of, given)[index]);
        let results = aggregate::evaluate(&self.graph, id, batch, value);
        results.into_iter().map(|x| x as f32).collect()
    }
}

/// For each axis that loops run over, and each coarser one whose numbers they read: the parents of its
/// elements.
struct Parents<'a>(HashMap<(Axis, Axis), Cow<'a, [u32]>>);

impl Parents<'_> {
    fn of<'a>(batch: &'a Batch, schedule: &LoopSchedule, graph: &Graph) -> Parents<'a> {
        let mut parents = HashMap::new();
        for group in schedule.groups() {
            for coarse in group.coarser_axes(graph) {
                parents
                    .entry((group.axis, coarse))
                    .or_insert_with(|| batch.layout.parents(group.axis, coarse));
            }
        }
        Parents(parents)
    }

    /// The parents on each coarser axis; empty where there are none, or none are read.
    fn for_elements_of(&self, axis: Axis) -> [&[u32]; AXES] {
        std::array::from_fn(|coarse| {
            self.0.get(&(axis, Axis::ALL[coarse])).map_or(&[][..], |parents| parents)
        })
    }
}

const AXES: usize = Axis::ALL.len();

/// The inputs and outputs of a group.
struct CallArguments<'a> {
    fused: &'a Fused,
    inputs: Vec<*const f32>,
    parents: [*const u32; AXES],
    outputs: Vec<*mut f32>,
}

// SAFETY: these are plain addresses; only `run` follows them, whose caller guarantees their contents.
unsafe impl Sync for CallArguments<'_> {}

impl CallArguments<'_> {
    /// # Safety
    /// There are at least [`WIDTH`] elements in `start..end`. All that the loops read and write for them
    /// exists, and nothing else reads or writes the same elements of the outputs meanwhile.
    unsafe fn run(&self, start: usize, end: usize) {
        // The last tile includes the remainder, if that is shorter than the width.
        const ROOM: usize = TILE + WIDTH;
        let Fused { parts, between } = self.fused;
        let calls = parts.iter().any(|part| !part.calls.is_empty());
        let tile = if calls { TILE } else { end - start };
        let mut room = vec![0.0f32; between * ROOM];
        let room = room.as_mut_ptr();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut first = start;
        while first < end {
            let last = if end - first < tile + WIDTH { end } else { first + tile };
            // A temporary array has elements of the current tile only.
            let tile_room = |index: usize| room.wrapping_add(index * ROOM).wrapping_sub(first);
            for CompiledPart { generated, inputs: read, stored, calls } in parts {
                if let Some(CompiledLoop { function, constants }) = generated {
                    inputs.clear();
                    for location in read {
                        inputs.push(self.address(*location, tile_room).cast_const());
                    }
                    outputs.clear();
                    for location in stored {
                        outputs.push(self.address(*location, tile_room));
                    }
                    let (inputs, outputs) = (inputs.as_ptr(), outputs.as_ptr());
                    // SAFETY: the caller guarantees it; the arrays between have room for a tile, which is at
                    // least as long as the width.
                    unsafe {
                        function(inputs, self.parents.as_ptr(), constants.as_ptr(), outputs, first, last);
                    }
                }
                for CompiledCall { function, operand, result } in calls {
                    let operand = self.address(*operand, tile_room).wrapping_add(first);
                    let result = self.address(*result, tile_room).wrapping_add(first);
                    // SAFETY: as above. Operand and result are two arrays of the group's axis, and
                    // `precompiled::find` has looked for the instructions.
                    unsafe { function(operand.cast_const(), result, last - first) };
                }
            }
            first = last;
        }
    }

    /// The address of element 0 of an array, which may lie outside of it. Inlined, because tiles are short.
    #[inline(always)]
    fn address(&self, location: Location, between: impl Fn(usize) -> *mut f32) -> *mut f32 {
        match location {
            Location::Input(index) => self.inputs[index].cast_mut(),
            Location::Stored(index) => self.outputs[index],
            Location::Between(index) => between(index),
        }
    }
}
