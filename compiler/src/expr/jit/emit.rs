//! Groups as Cranelift functions.

use std::collections::HashMap;
use std::mem::ManuallyDrop;

use crate::plan::{Axis, Function};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{AbiParam, FuncRef, InstBuilder, MemFlagsData, Type, UserFuncName, Value, types};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};

use super::groups::Group;
use super::{Code, CompileError, Loop};
use crate::expr::graph::{Graph, NodeId, Operation};
use crate::expr::scalar;

/// Functions without a machine instruction: computed in f64 and rounded once.
const CALLED: [Function; 8] = [
    Function::Cos,
    Function::Floor,
    Function::Exp,
    Function::Log,
    Function::Log1p,
    Function::Tanh,
    Function::Sigmoid,
    Function::Power,
];

macro_rules! callee {
    ($function:ident, $($operand:ident),*) => {{
        extern "C" fn called($($operand: f32),*) -> f32 {
            scalar::apply(Function::$function, &[$(f64::from($operand)),*]) as f32
        }
        called as *const u8
    }};
}

/// The symbol and the address of a called function.
fn callee(function: Function) -> Option<(&'static str, *const u8)> {
    Some(match function {
        Function::Exp => ("mopd_exp", callee!(Exp, x)),
        Function::Log => ("mopd_log", callee!(Log, x)),
        Function::Log1p => ("mopd_log1p", callee!(Log1p, x)),
        Function::Cos => ("mopd_cos", callee!(Cos, x)),
        Function::Floor => ("mopd_floor", callee!(Floor, x)),
        Function::Tanh => ("mopd_tanh", callee!(Tanh, x)),
        Function::Sigmoid => ("mopd_sigmoid", callee!(Sigmoid, x)),
        Function::Power => ("mopd_power", callee!(Power, x, y)),
        _ => return None,
    })
}

/// One function per group, in order, and the memory that they live in.
pub(super) fn compile<'a>(graph: &Graph, groups: impl Iterator<Item = &'a Group>) -> Result<(Code, Vec<Loop>), CompileError> {
    // From here on the module's memory is freed whatever happens.
    let mut code = Code(ManuallyDrop::new(module()?));
    let unsupported = |error: &dyn std::fmt::Display| CompileError::Unsupported(error.to_string());
    let callees = declare_callees(&mut code.0).map_err(|error| unsupported(&error))?;
    let mut functions = Vec::new();
    for (index, group) in groups.enumerate() {
        match define(&mut code.0, graph, group, index, &callees) {
            Ok(function) => functions.push(function),
            Err(error) => {
                // Only finished segments can be freed, so what was defined is finished first.
                let _ = code.0.finalize_definitions();
                return Err(unsupported(&error));
            }
        }
    }
    code.0.finalize_definitions().map_err(|error| unsupported(&error))?;
    let loops = functions.into_iter().map(|function| {
        let address = code.0.get_finalized_function(function);
        // SAFETY: `define` gave the function the signature of `Loop`, in the calling convention of `extern "C"`.
        unsafe { std::mem::transmute::<*const u8, Loop>(address) }
    });
    let loops = loops.collect();
    Ok((code, loops))
}

fn module() -> Result<JITModule, CompileError> {
    let host = |error: &dyn std::fmt::Display| CompileError::Host(error.to_string());
    let mut flags = settings::builder();
    for (name, value) in [("opt_level", "speed"), ("is_pic", "false"), ("use_colocated_libcalls", "false")] {
        flags.set(name, value).map_err(|error| host(&error))?;
    }
    let isa = cranelift_native::builder().map_err(|error| host(&error))?;
    let isa = isa.finish(settings::Flags::new(flags)).map_err(|error| host(&error))?;
    let mut builder = JITBuilder::with_isa(isa, default_libcall_names());
    builder.symbols(CALLED.into_iter().filter_map(callee));
    Ok(JITModule::new(builder))
}

type Callees = HashMap<Function, FuncId>;

fn declare_callees(module: &mut JITModule) -> Result<Callees, Box<cranelift_module::ModuleError>> {
    let mut callees = HashMap::new();
    for function in CALLED {
        let Some((name, _)) = callee(function) else { continue };
        let mut signature = module.make_signature();
        signature.params.extend((0..function.operands()).map(|_| AbiParam::new(types::F32)));
        signature.returns.push(AbiParam::new(types::F32));
        callees.insert(function, module.declare_function(name, Linkage::Import, &signature)?);
    }
    Ok(callees)
}

fn define(
    module: &mut JITModule,
    graph: &Graph,
    group: &Group,
    index: usize,
    callees: &Callees,
) -> Result<FuncId, Box<cranelift_module::ModuleError>> {
    let pointer = module.target_config().pointer_type();
    let mut context = module.make_context();
    context.func.signature = module.make_signature();
    context.func.signature.params.extend((0..4).map(|_| AbiParam::new(pointer)));
    let function = module.declare_function(&format!("group{index}"), Linkage::Local, &context.func.signature)?;
    context.func.name = UserFuncName::user(0, function.as_u32());
    let mut builder_context = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
    let mut emitter = Emitter {
        references: HashMap::new(),
        graph,
        group,
        module,
        callees,
        pointer,
        builder: &mut builder,
        values: HashMap::new(),
    };
    emitter.function();
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    module.define_function(function, &mut context)?;
    Ok(function)
}

struct Emitter<'a, 'b> {
    graph: &'a Graph,
    group: &'a Group,
    module: &'a mut JITModule,
    callees: &'a Callees,
    /// Called functions that this function uses.
    references: HashMap<Function, FuncRef>,
    pointer: Type,
    builder: &'a mut FunctionBuilder<'b>,
    /// Nodes of the group, and its inputs of the same axis, for the current element.
    values: HashMap<NodeId, Value>,
}

/// Where an input is read.
enum Source {
    /// A single number, read before the loop.
    Once(Value),
    /// An array of the group's own axis.
    Here(Value),
    /// An array of a coarser axis, and the array of indices into it.
    Through(Value, Value),
}

impl Emitter<'_, '_> {
    /// `for index in 0..count { load inputs; compute nodes; store results }`
    fn function(&mut self) {
        let (entry, head, body, exit) =
            (self.builder.create_block(), self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        self.builder.append_block_params_for_function_params(entry);
        self.builder.switch_to_block(entry);
        let parameters = self.builder.block_params(entry).to_vec();
        let [inputs, parents, outputs, count] = parameters[..] else { unreachable!("a loop has four parameters") };
        let size = self.pointer.bytes() as i32;

        let sources: Vec<(NodeId, Source)> = (self.group.inputs.iter().enumerate())
            .map(|(position, id)| {
                let base = self.load(self.pointer, inputs, position as i32 * size);
                let source = match self.graph.axis(*id) {
                    axis if axis == self.group.axis => Source::Here(base),
                    Axis::Run | Axis::Batch => Source::Once(self.load(types::F32, base, 0)),
                    axis => Source::Through(base, self.load(self.pointer, parents, axis as i32 * size)),
                };
                (*id, source)
            })
            .collect();
        let targets: Vec<Value> =
            (0..self.group.stored.len()).map(|position| self.load(self.pointer, outputs, position as i32 * size)).collect();
        let zero = self.builder.ins().iconst(self.pointer, 0);
        self.builder.ins().jump(head, &[zero.into()]);

        let index = self.builder.append_block_param(head, self.pointer);
        self.builder.switch_to_block(head);
        let more = self.builder.ins().icmp(IntCC::UnsignedLessThan, index, count);
        self.builder.ins().brif(more, body, &[], exit, &[]);

        self.builder.switch_to_block(body);
        for (id, source) in sources {
            let value = match source {
                Source::Once(value) => value,
                Source::Here(base) => {
                    let address = self.element(base, index);
                    self.load(types::F32, address, 0)
                }
                Source::Through(base, parents) => {
                    let address = self.element(parents, index);
                    let parent = self.load(types::I32, address, 0);
                    let parent =
                        if self.pointer == types::I32 { parent } else { self.builder.ins().uextend(self.pointer, parent) };
                    let address = self.element(base, parent);
                    self.load(types::F32, address, 0)
                }
            };
            self.values.insert(id, value);
        }
        for id in &self.group.nodes {
            let value = self.node(*id);
            self.values.insert(*id, value);
        }
        for (id, target) in self.group.stored.iter().zip(targets) {
            let address = self.element(target, index);
            self.builder.ins().store(MemFlagsData::trusted(), self.values[id], address, 0);
        }
        let next = self.builder.ins().iadd_imm_u(index, 1);
        self.builder.ins().jump(head, &[next.into()]);

        self.builder.switch_to_block(exit);
        self.builder.ins().return_(&[]);
    }

    fn load(&mut self, kind: Type, address: Value, offset: i32) -> Value {
        self.builder.ins().load(kind, MemFlagsData::trusted(), address, offset)
    }

    /// The address of a 4-byte element.
    fn element(&mut self, base: Value, index: Value) -> Value {
        let offset = self.builder.ins().ishl_imm_u(index, 2);
        self.builder.ins().iadd(base, offset)
    }

    fn node(&mut self, id: NodeId) -> Value {
        match &self.graph.node(id).operation {
            Operation::Apply { function, operands } => {
                let operands: Vec<Value> = operands.iter().map(|operand| self.operand(*operand)).collect();
                self.apply(*function, &operands)
            }
            Operation::Broadcast { operand } => self.operand(*operand),
            _ => unreachable!("only elementwise nodes are in a group"),
        }
    }

    fn operand(&mut self, id: NodeId) -> Value {
        match self.graph.constant_value(id) {
            Some(value) => self.builder.ins().f32const(value as f32),
            None => self.values[&id],
        }
    }

    /// As [`scalar::apply`] defines it.
    fn apply(&mut self, function: Function, operands: &[Value]) -> Value {
        use Function::*;
        match (function, operands) {
            (Negate, &[x]) => self.builder.ins().fneg(x),
            (Abs, &[x]) => self.builder.ins().fabs(x),
            (Sqrt, &[x]) => self.builder.ins().sqrt(x),
            (Relu, &[x]) => {
                let zero = self.number(0.0);
                let below = self.builder.ins().fcmp(FloatCC::LessThan, x, zero);
                self.builder.ins().select(below, zero, x)
            }
            (Add, &[a, b]) => self.builder.ins().fadd(a, b),
            (Subtract, &[a, b]) => self.builder.ins().fsub(a, b),
            (Multiply, &[a, b]) => self.builder.ins().fmul(a, b),
            (Divide, &[a, b]) => self.builder.ins().fdiv(a, b),
            (Minimum, &[a, b]) => self.extreme(FloatCC::LessThan, a, b),
            (Maximum, &[a, b]) => self.extreme(FloatCC::GreaterThan, a, b),
            (Clip, &[x, low, high]) => {
                let raised = self.extreme(FloatCC::GreaterThan, x, low);
                self.extreme(FloatCC::LessThan, raised, high)
            }
            (Equal, &[a, b]) => self.compare(FloatCC::Equal, a, b),
            (NotEqual, &[a, b]) => self.compare(FloatCC::NotEqual, a, b),
            (Less, &[a, b]) => self.compare(FloatCC::LessThan, a, b),
            (LessEqual, &[a, b]) => self.compare(FloatCC::LessThanOrEqual, a, b),
            (Greater, &[a, b]) => self.compare(FloatCC::GreaterThan, a, b),
            (GreaterEqual, &[a, b]) => self.compare(FloatCC::GreaterThanOrEqual, a, b),
            (Not, &[x]) => {
                let zero = self.number(0.0);
                self.compare(FloatCC::Equal, x, zero)
            }
            (And, &[a, b]) => {
                let (a, b) = (self.holds(a), self.holds(b));
                let both = self.builder.ins().band(a, b);
                self.truth(both)
            }
            (Or, &[a, b]) => {
                let (a, b) = (self.holds(a), self.holds(b));
                let either = self.builder.ins().bor(a, b);
                self.truth(either)
            }
            (Where, &[condition, then, otherwise]) => {
                let holds = self.holds(condition);
                self.builder.ins().select(holds, then, otherwise)
            }
            _ => self.call(function, operands),
        }
    }

    fn number(&mut self, value: f32) -> Value {
        self.builder.ins().f32const(value)
    }

    /// The second operand where it compares so to the first or is NaN, else the first: so NaN stays NaN on either side.
    /// Cranelift's `fmin` and `fmax` order the zeros too, at several times the cost.
    fn extreme(&mut self, beats: FloatCC, a: Value, b: Value) -> Value {
        let second = self.builder.ins().fcmp(beats, b, a);
        let not_a_number = self.builder.ins().fcmp(FloatCC::Unordered, b, b);
        let take = self.builder.ins().bor(second, not_a_number);
        self.builder.ins().select(take, b, a)
    }

    fn compare(&mut self, comparison: FloatCC, a: Value, b: Value) -> Value {
        let holds = self.builder.ins().fcmp(comparison, a, b);
        self.truth(holds)
    }

    fn holds(&mut self, x: Value) -> Value {
        let zero = self.number(0.0);
        self.builder.ins().fcmp(FloatCC::NotEqual, x, zero)
    }

    fn truth(&mut self, holds: Value) -> Value {
        let (one, zero) = (self.number(1.0), self.number(0.0));
        self.builder.ins().select(holds, one, zero)
    }

    fn call(&mut self, function: Function, operands: &[Value]) -> Value {
        let reference = *self.references.entry(function).or_insert_with(|| {
            let callee = self.callees[&function];
            self.module.declare_func_in_func(callee, self.builder.func)
        });
        let call = self.builder.ins().call(reference, operands);
        self.builder.inst_results(call)[0]
    }
}
