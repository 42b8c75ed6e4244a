//! Emits groups of nodes as Cranelift functions.

use std::collections::HashMap;
use std::mem::ManuallyDrop;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, BlockArg, InstBuilder, MemFlagsData, Type, UserFuncName, Value, types,
};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, ModuleError, default_libcall_names};
use mopd_ops::f32_ops::{self, Operand};

use super::groups::LoopGroup;
use super::precompiled::{self, Precompiled};
use super::vector::{INTEGERS, LANES, Lanes, NUMBERS, PARTS, VectorOps, WIDTH};
use super::{Code, CompileError, Constants, GroupListing, Loop, Repeated};
use crate::graph::signals::{Axis, Function};
use crate::graph::{Graph, NodeId, Operation};

/// The machine that code is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodeTarget {
    /// This machine, with all its CPU features and the precompiled functions.
    Host,
    /// This machine, without the precompiled functions.
    #[cfg(test)]
    Generated,
    /// The baseline features of any machine of this architecture.
    #[cfg(test)]
    Baseline,
}

impl CodeTarget {
    /// A precompiled function for this target.
    pub(super) fn precompiled(self, function: Function, fused: bool) -> Option<Precompiled> {
        match self {
            CodeTarget::Host => precompiled::find(function, fused),
            #[cfg(test)]
            CodeTarget::Generated | CodeTarget::Baseline => None,
        }
    }
}

/// Bytes of a vector.
const PART_BYTES: i32 = 16;

/// Functions that a loop may call in rare cases ([`FloatOps::call`]).
const CALLED: [Function; 1] = [Function::Cos];
const CALLED_NAMES: [&str; 1] = ["mopd_cos"];

extern "C" fn cos(x: f32) -> f32 {
    Function::Cos.value(&[f64::from(x)]) as f32
}

/// The function that Cranelift calls where the machine has no fused multiply-add.
extern "C" fn fused_multiply_add(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// One function per group, in order, and the memory that contains them. The generated code is appended to
/// `listings`.
pub(super) fn compile<'a>(
    graph: &Graph,
    groups: impl Iterator<Item = &'a LoopGroup>,
    target: CodeTarget,
    mut listings: Option<&mut Vec<GroupListing>>,
) -> Result<(Code, Vec<(Loop, Constants)>), CompileError> {
    // From here on, the module's memory is freed in every case.
    let mut code = Code(ManuallyDrop::new(module(target)?));
    let unsupported = |error: &dyn std::fmt::Display| CompileError::Unsupported(error.to_string());
    let mut builder_context = FunctionBuilderContext::new();
    let mut functions = Vec::new();
    for (index, group) in groups.enumerate() {
        match define(&mut code.0, graph, group, index, &mut builder_context, listings.as_deref_mut()) {
            Ok(function) => functions.push(function),
            Err(error) => {
                // Only finished segments can be freed, so finish what is defined.
                let _ = code.0.finalize_definitions();
                return Err(unsupported(&error));
            }
        }
    }
    code.0.finalize_definitions().map_err(|error| unsupported(&error))?;
    let loops = functions.into_iter().map(|(function, constants)| {
        let address = code.0.get_finalized_function(function);
        // SAFETY: `define` gave the function the signature of `Loop`, in the calling convention of `extern
        // "C"`.
        (unsafe { std::mem::transmute::<*const u8, Loop>(address) }, constants)
    });
    let loops = loops.collect();
    Ok((code, loops))
}

pub(super) fn isa(target: CodeTarget) -> Result<OwnedTargetIsa, CompileError> {
    let host = |error: &dyn std::fmt::Display| CompileError::Host(error.to_string());
    let mut flags = settings::builder();
    // The verifier finds faults of this module, not of a graph, so only tests need it.
    let verifier = if cfg!(any(test, debug_assertions)) { "true" } else { "false" };
    let settings = [
        ("opt_level", "none"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", verifier),
    ];
    for (name, value) in settings {
        flags.set(name, value).map_err(|error| host(&error))?;
    }
    let builder = match target {
        CodeTarget::Host => cranelift_native::builder(),
        #[cfg(test)]
        CodeTarget::Generated => cranelift_native::builder(),
        #[cfg(test)]
        CodeTarget::Baseline => cranelift_native::builder_with_options(false),
    };
    builder.map_err(|error| host(&error))?.finish(settings::Flags::new(flags)).map_err(|error| host(&error))
}

fn module(target: CodeTarget) -> Result<JITModule, CompileError> {
    let mut builder = JITBuilder::with_isa(isa(target)?, default_libcall_names());
    let addresses = [cos as extern "C" fn(f32) -> f32 as *const u8];
    builder.symbols(CALLED_NAMES.into_iter().zip(addresses));
    builder.symbol("fmaf", fused_multiply_add as extern "C" fn(f32, f32, f32) -> f32 as *const u8);
    Ok(JITModule::new(builder))
}

fn define(
    module: &mut JITModule,
    graph: &Graph,
    group: &LoopGroup,
    index: usize,
    builder_context: &mut FunctionBuilderContext,
    listings: Option<&mut Vec<GroupListing>>,
) -> Result<(FuncId, Constants), Box<ModuleError>> {
    let pointer = module.target_config().pointer_type();
    let mut context = module.make_context();
    context.func.signature = module.make_signature();
    context.func.signature.params.extend((0..6).map(|_| AbiParam::new(pointer)));
    let function =
        module.declare_function(&format!("group{index}"), Linkage::Local, &context.func.signature)?;
    context.func.name = UserFuncName::user(0, function.as_u32());
    let mut callees = HashMap::new();
    for (callee, name) in CALLED.into_iter().zip(CALLED_NAMES) {
        let called = |id: &NodeId| match graph.node(*id).operation {
            Operation::Apply { function, .. } => function == callee,
            _ => false,
        };
        if group.nodes.iter().any(called) {
            let mut signature = module.make_signature();
            signature.params.push(AbiParam::new(types::F32));
            signature.returns.push(AbiParam::new(types::F32));
            let id = module.declare_function(name, Linkage::Import, &signature)?;
            callees.insert(callee, module.declare_func_in_func(id, &mut context.func));
        }
    }
    let rounds = module.isa().has_round();
    let builder = FunctionBuilder::new(&mut context.func, builder_context);
    let vector = VectorOps {
        builder,
        fused: graph.fused(),
        rounds,
        constants: Vec::new(),
        table: Value::from_u32(0),
        callees,
    };
    let mut emitter = Emitter {
        graph,
        group,
        pointer,
        vector,
        sources: HashMap::new(),
        offset: Value::from_u32(0),
        values: HashMap::new(),
    };
    emitter.function();
    let VectorOps { mut builder, constants, .. } = emitter.vector;
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    let clif = listings.as_ref().map(|_| context.func.display().to_string());
    context.set_disasm(listings.is_some());
    module.define_function(function, &mut context)?;
    if let (Some(listings), Some(clif)) = (listings, clif) {
        let assembly = context.compiled_code().and_then(|code| code.vcode.clone()).unwrap_or_default();
        let nodes = group.nodes.clone();
        listings.push(GroupListing { axis: group.axis, nodes, clif, assembly, ahead: vec![] });
    }
    Ok((function, constants.into_iter().map(|bits| Repeated([bits; LANES as usize])).collect()))
}

struct Emitter<'a> {
    graph: &'a Graph,
    group: &'a LoopGroup,
    pointer: Type,
    vector: VectorOps<'a>,
    sources: HashMap<NodeId, Source>,
    /// The byte offset of the current elements in every array.
    offset: Value,
    /// The values of the group's nodes and inputs, for the current elements.
    values: HashMap<NodeId, Operand<Lanes, Lanes>>,
}

/// The location of an input.
#[derive(Clone, Copy)]
enum Source {
    /// A single number, read before the loop.
    Once(Value),
    /// An array of the group's own axis.
    Here(Value),
    /// An array of a coarser axis.
    Through(Value, Axis),
}

impl Emitter<'_> {
    /// ```text
    /// index = start
    /// repeat {
    ///     load inputs; compute nodes; store results        // of the elements index..index + WIDTH
    ///     if index == end - WIDTH { return }
    ///     index = min(index + WIDTH, end - WIDTH)
    /// }
    /// ```
    /// The last elements may be computed twice, from the same inputs with the same result. That is cheaper
    /// than a second loop for the remainder, in time and in code.
    fn function(&mut self) {
        let (entry, body, next, exit) = (
            self.vector.builder.create_block(),
            self.vector.builder.create_block(),
            self.vector.builder.create_block(),
            self.vector.builder.create_block(),
        );
        self.vector.builder.append_block_params_for_function_params(entry);
        self.vector.builder.switch_to_block(entry);
        let parameters = self.vector.builder.block_params(entry).to_vec();
        let [inputs, parents, constants, outputs, start, end] = parameters[..] else {
            unreachable!("a loop has six parameters")
        };
        self.vector.table = constants;
        let size = self.pointer.bytes() as i32;

        let mut sources: Vec<(NodeId, Source)> = Vec::new();
        for (position, id) in self.group.inputs.iter().enumerate() {
            let base = self.load(self.pointer, inputs, position as i32 * size);
            let source = match self.graph.axis(*id) {
                axis if axis == self.group.axis => Source::Here(base),
                axis if axis > Axis::Batch => Source::Through(base, axis),
                _ => {
                    let number = self.load(types::F32, base, 0);
                    Source::Once(self.vector.builder.ins().splat(NUMBERS, number))
                }
            };
            sources.push((*id, source));
        }
        let parents: HashMap<Axis, Value> = (self.group.coarser_axes(self.graph))
            .map(|axis| (axis, self.load(self.pointer, parents, axis as i32 * size)))
            .collect();
        let targets: Vec<Value> = (0..self.group.stored.len())
            .map(|position| self.load(self.pointer, outputs, position as i32 * size))
            .collect();
        let last = self.vector.builder.ins().iadd_imm_s(end, -(WIDTH as i64));
        self.vector.builder.ins().jump(body, &[BlockArg::Value(start)]);

        let index = self.vector.builder.append_block_param(body, self.pointer);
        self.vector.builder.switch_to_block(body);
        let offset = self.vector.builder.ins().ishl_imm_u(index, 2);
        self.through(&sources, &parents, offset);
        self.offset = offset;
        self.sources = sources.into_iter().collect();
        for id in &self.group.nodes {
            let value = self.node(*id);
            self.values.insert(*id, value);
        }
        for (id, target) in self.group.stored.iter().zip(targets) {
            let value = self.values[id];
            let number = value.number(&mut self.vector);
            let address = self.vector.builder.ins().iadd(target, offset);
            for (part, number) in (0..).zip(number) {
                self.vector.builder.ins().store(flags(), number, address, part * PART_BYTES);
            }
        }
        let done = self.vector.builder.ins().icmp(IntCC::Equal, index, last);
        self.vector.builder.ins().brif(done, exit, &[], next, &[]);

        self.vector.builder.switch_to_block(next);
        let following = self.vector.builder.ins().iadd_imm_u(index, WIDTH as i64);
        let beyond = self.vector.builder.ins().icmp(IntCC::UnsignedGreaterThan, following, last);
        let following = self.vector.builder.ins().select(beyond, last, following);
        self.vector.builder.ins().jump(body, &[BlockArg::Value(following)]);

        self.vector.builder.switch_to_block(exit);
        self.vector.builder.ins().return_(&[]);
    }

    /// Loads inputs on coarser axes. Tokens of a sequence are adjacent, so in most cases all lanes read the
    /// same element, with a single load.
    fn through(&mut self, sources: &[(NodeId, Source)], parents: &HashMap<Axis, Value>, offset: Value) {
        let coarse: Vec<(NodeId, Value, Axis)> = sources
            .iter()
            .filter_map(|(id, source)| match source {
                Source::Through(base, axis) => Some((*id, *base, *axis)),
                _ => None,
            })
            .collect();
        // Elements with the same parent on this axis have the same parents on all coarser axes.
        let Some(finest) = coarse.iter().map(|(_, _, axis)| *axis).max() else { return };
        let address = self.vector.builder.ins().iadd(parents[&finest], offset);
        let indices = self.load_lanes(INTEGERS, address);
        let first = self.vector.builder.ins().extractlane(indices[0], 0);
        let together = self.vector.uniform(indices, first);
        let [one, each, join] = [(); 3].map(|()| self.vector.builder.create_block());
        self.vector.builder.ins().brif(together, one, &[], each, &[]);

        self.vector.builder.switch_to_block(one);
        let mut values = Vec::new();
        for (_, base, axis) in &coarse {
            let index = if *axis == finest {
                first
            } else {
                let address = self.vector.builder.ins().iadd(parents[axis], offset);
                self.load(types::I32, address, 0)
            };
            let number = self.element(*base, index);
            let everywhere = self.vector.builder.ins().splat(NUMBERS, number);
            values.extend([BlockArg::Value(everywhere); PARTS]);
        }
        self.vector.builder.ins().jump(join, &values);

        self.vector.builder.switch_to_block(each);
        let mut values = Vec::new();
        for (_, base, axis) in &coarse {
            let indices = if *axis == finest {
                indices
            } else {
                let address = self.vector.builder.ins().iadd(parents[axis], offset);
                self.load_lanes(INTEGERS, address)
            };
            for indices in indices {
                let lanes = std::array::from_fn(|lane| {
                    let index = self.vector.builder.ins().extractlane(indices, lane as u8);
                    self.element(*base, index)
                });
                values.push(BlockArg::Value(self.vector.gather(lanes)));
            }
        }
        self.vector.builder.ins().jump(join, &values);

        self.vector.builder.switch_to_block(join);
        for (id, _, _) in &coarse {
            let value = [(); PARTS].map(|()| self.vector.builder.append_block_param(join, NUMBERS));
            self.values.insert(*id, Operand::Number(value));
        }
    }

    /// The number at a 32-bit index.
    fn element(&mut self, base: Value, index: Value) -> Value {
        let index = if self.pointer == types::I32 {
            index
        } else {
            self.vector.builder.ins().uextend(self.pointer, index)
        };
        let offset = self.vector.builder.ins().ishl_imm_u(index, 2);
        let address = self.vector.builder.ins().iadd(base, offset);
        self.load(types::F32, address, 0)
    }

    fn node(&mut self, id: NodeId) -> Operand<Lanes, Lanes> {
        match &self.graph.node(id).operation {
            Operation::Apply { function, operands } => {
                let operands: Vec<_> = operands.iter().map(|operand| self.operand(*operand)).collect();
                f32_ops::apply(&mut self.vector, *function, &operands)
            }
            Operation::Broadcast { operand } => self.operand(*operand),
            _ => unreachable!("only elementwise nodes are in a group"),
        }
    }

    fn operand(&mut self, id: NodeId) -> Operand<Lanes, Lanes> {
        if let Some(value) = self.graph.constant_value(id) {
            return Operand::Constant(value as f32);
        }
        if let Some(value) = self.values.get(&id) {
            return *value;
        }
        // An input is loaded at its first use, so that it occupies no register before.
        let value = match self.sources[&id] {
            Source::Once(value) => [value; PARTS],
            Source::Here(base) => {
                let address = self.vector.builder.ins().iadd(base, self.offset);
                self.load_lanes(NUMBERS, address)
            }
            Source::Through(..) => unreachable!("what lies on a coarser axis is read at once"),
        };
        self.values.insert(id, Operand::Number(value));
        Operand::Number(value)
    }

    /// Elements are aligned to their own size, not to that of a vector. Without AVX, memory operands need
    /// vector alignment, which Cranelift ignores in comparisons; it does not fold loads of bytes into
    /// instructions.
    fn load_lanes(&mut self, kind: Type, address: Value) -> Lanes {
        let bytes = std::array::from_fn(|part| self.load(types::I8X16, address, part as i32 * PART_BYTES));
        self.vector.reinterpret(kind, bytes)
    }

    fn load(&mut self, kind: Type, address: Value, offset: i32) -> Value {
        self.vector.builder.ins().load(kind, flags(), address, offset)
    }
}

/// The address is valid, but not aligned to a vector's size.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}
