//! Float operations as vector instructions; each operation is emitted for four elements at a time.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{BlockArg, Endianness, FuncRef, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use mopd_ops::f32_ops::{CompareOp, FloatOps};

use crate::graph::signals::Function;

/// Elements per vector: as many f32 as fit into 128 bits, the widest vector that Cranelift has.
pub(super) const LANES: u8 = 4;
/// Vectors per iteration of the loop.
pub(super) const PARTS: usize = 2;
/// Elements per iteration of the loop.
pub(super) const WIDTH: usize = PARTS * LANES as usize;
pub(super) const NUMBERS: Type = types::F32X4;
pub(super) const INTEGERS: Type = types::I32X4;

pub(super) struct VectorOps<'a> {
    pub builder: FunctionBuilder<'a>,
    /// Whether `multiply_add` rounds once. Without such an instruction, it is a call per element.
    pub fused: bool,
    /// Whether there is an instruction that rounds down.
    pub rounds: bool,
    /// The constants used so far, by their bits.
    pub constants: Vec<u32>,
    /// The address of the table of constants at run time, each repeated four times.
    pub table: Value,
    /// The functions that [`FloatOps::call`] calls.
    pub callees: HashMap<Function, FuncRef>,
}

/// The elements of one iteration of the loop.
pub(super) type Lanes = [Value; PARTS];

impl VectorOps<'_> {
    /// A constant, loaded from memory at each use, because there are more constants than registers.
    fn constant(&mut self, kind: Type, bits: u32) -> Lanes {
        let place = self.constants.iter().position(|constant| *constant == bits).unwrap_or_else(|| {
            self.constants.push(bits);
            self.constants.len() - 1
        });
        let offset = place as i32 * i32::from(LANES) * 4;
        [self.builder.ins().load(kind, MemFlagsData::trusted(), self.table, offset); PARTS]
    }

    fn one(&mut self, x: Lanes, compute: impl Fn(&mut FunctionBuilder, Value) -> Value) -> Lanes {
        x.map(|x| compute(&mut self.builder, x))
    }

    fn two(
        &mut self,
        a: Lanes,
        b: Lanes,
        compute: impl Fn(&mut FunctionBuilder, Value, Value) -> Value,
    ) -> Lanes {
        std::array::from_fn(|part| compute(&mut self.builder, a[part], b[part]))
    }

    /// A bitcast to elements of another type.
    pub fn reinterpret(&mut self, kind: Type, x: Lanes) -> Lanes {
        // In the byte order of this machine.
        let order = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
        let flags = MemFlagsData::new().with_endianness(order);
        self.one(x, |builder, x| builder.ins().bitcast(kind, flags, x))
    }

    /// Whether all lanes contain the integer `first`.
    pub fn uniform(&mut self, x: Lanes, first: Value) -> Value {
        let first = self.builder.ins().splat(INTEGERS, first);
        let same = x.map(|x| self.builder.ins().icmp(IntCC::Equal, x, first));
        let all = same.into_iter().reduce(|a, b| self.builder.ins().band(a, b)).expect("a vector has parts");
        self.builder.ins().vall_true(all)
    }

    /// Four numbers as one vector.
    pub fn gather(&mut self, lanes: [Value; LANES as usize]) -> Value {
        let mut vector = self.builder.ins().scalar_to_vector(NUMBERS, lanes[0]);
        for (lane, value) in (0..).zip(lanes).skip(1) {
            vector = self.builder.ins().insertlane(vector, value, lane);
        }
        vector
    }
}

impl FloatOps for VectorOps<'_> {
    type Number = Lanes;
    type Integer = Lanes;
    /// All ones or all zeros in each lane, as integers.
    type Truth = Lanes;

    fn number(&mut self, value: f32) -> Lanes {
        self.constant(NUMBERS, value.to_bits())
    }

    fn add(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().fadd(a, b))
    }

    fn subtract(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().fsub(a, b))
    }

    fn multiply(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().fmul(a, b))
    }

    fn divide(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().fdiv(a, b))
    }

    fn square_root(&mut self, x: Lanes) -> Lanes {
        self.one(x, |builder, x| builder.ins().sqrt(x))
    }

    /// Cranelift's own `fneg` and `fabs` would build their constant at each use.
    fn negate(&mut self, x: Lanes) -> Lanes {
        let sign = self.number(-0.0);
        self.two(x, sign, |builder, x, sign| builder.ins().bxor(x, sign))
    }

    fn absolute(&mut self, x: Lanes) -> Lanes {
        let rest = self.number(f32::from_bits(i32::MAX.cast_unsigned()));
        self.two(x, rest, |builder, x, rest| builder.ins().band(x, rest))
    }

    fn floor(&mut self, x: Lanes) -> Lanes {
        if self.rounds {
            return self.one(x, |builder, x| builder.ins().floor(x));
        }
        // Below 2^23, adding 2^23 rounds to an integer; subtract 1 where that rounded up. From there on all
        // numbers are integers, and NaN stays NaN.
        let size = self.absolute(x);
        let limit = self.number(8_388_608.0);
        let rounded = self.add(size, limit);
        let rounded = self.subtract(rounded, limit);
        let (sign, bits) = (self.integer(i32::MIN), self.bits(x));
        let sign = self.integer_and(bits, sign);
        let rounded = self.bits(rounded);
        let rounded = self.integer_or(rounded, sign);
        let rounded = self.number_of_bits(rounded);
        let one = self.number(1.0);
        let less = self.subtract(rounded, one);
        let above = self.compare(CompareOp::Greater, rounded, x);
        let down = self.select(above, less, rounded);
        let small = self.compare(CompareOp::Less, size, limit);
        self.select(small, down, x)
    }

    fn fused(&self) -> bool {
        self.fused
    }

    fn multiply_add(&mut self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        if self.fused {
            return std::array::from_fn(|part| self.builder.ins().fma(a[part], b[part], c[part]));
        }
        let product = self.multiply(a, b);
        self.add(product, c)
    }

    /// Compiles to one instruction. Cranelift's own `fmin` also orders the zeros, at several times the cost.
    fn smaller(&mut self, a: Lanes, b: Lanes) -> Lanes {
        let less = self.compare(CompareOp::Less, a, b);
        self.select(less, a, b)
    }

    fn larger(&mut self, a: Lanes, b: Lanes) -> Lanes {
        let greater = self.compare(CompareOp::Less, b, a);
        self.select(greater, a, b)
    }

    fn compare(&mut self, comparison: CompareOp, a: Lanes, b: Lanes) -> Lanes {
        let condition = match comparison {
            CompareOp::Equal => FloatCC::Equal,
            CompareOp::NotEqual => FloatCC::NotEqual,
            CompareOp::Less => FloatCC::LessThan,
            CompareOp::LessEqual => FloatCC::LessThanOrEqual,
            CompareOp::Greater => FloatCC::GreaterThan,
            CompareOp::GreaterEqual => FloatCC::GreaterThanOrEqual,
        };
        self.two(a, b, |builder, a, b| builder.ins().fcmp(condition, a, b))
    }

    fn not(&mut self, a: Lanes) -> Lanes {
        self.one(a, |builder, a| builder.ins().bnot(a))
    }

    fn and(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().band(a, b))
    }

    fn or(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().bor(a, b))
    }

    fn select(&mut self, truth: Lanes, then: Lanes, otherwise: Lanes) -> Lanes {
        let mask = self.number_of_bits(truth);
        std::array::from_fn(|part| self.builder.ins().bitselect(mask[part], then[part], otherwise[part]))
    }

    fn except(&mut self, special: Lanes, usual: Lanes, compute: impl FnOnce(&mut Self) -> Lanes) -> Lanes {
        let (rare, join) = (self.builder.create_block(), self.builder.create_block());
        let results = usual.map(|_| self.builder.append_block_param(join, NUMBERS));
        let any =
            special.into_iter().reduce(|a, b| self.builder.ins().bor(a, b)).expect("a vector has parts");
        let anywhere = self.builder.ins().vany_true(any);
        self.builder.ins().brif(anywhere, rare, &[], join, &usual.map(BlockArg::Value));

        self.builder.set_cold_block(rare);
        self.builder.switch_to_block(rare);
        let computed = compute(self);
        let chosen = self.select(special, computed, usual);
        self.builder.ins().jump(join, &chosen.map(BlockArg::Value));

        self.builder.switch_to_block(join);
        results
    }

    fn call(&mut self, function: Function, x: Lanes) -> Lanes {
        let callee = self.callees[&function];
        x.map(|x| {
            let lanes = std::array::from_fn(|lane| {
                let element = self.builder.ins().extractlane(x, lane as u8);
                let call = self.builder.ins().call(callee, &[element]);
                self.builder.inst_results(call)[0]
            });
            self.gather(lanes)
        })
    }

    fn bits(&mut self, x: Lanes) -> Lanes {
        self.reinterpret(INTEGERS, x)
    }

    fn number_of_bits(&mut self, x: Lanes) -> Lanes {
        self.reinterpret(NUMBERS, x)
    }

    fn integer(&mut self, value: i32) -> Lanes {
        self.constant(INTEGERS, value.cast_unsigned())
    }

    fn integer_greater(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().icmp(IntCC::SignedGreaterThan, a, b))
    }

    fn integer_add(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().iadd(a, b))
    }

    fn integer_subtract(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().isub(a, b))
    }

    fn integer_and(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().band(a, b))
    }

    fn integer_or(&mut self, a: Lanes, b: Lanes) -> Lanes {
        self.two(a, b, |builder, a, b| builder.ins().bor(a, b))
    }

    fn shift_left(&mut self, a: Lanes, by: u8) -> Lanes {
        let by = self.builder.ins().iconst(types::I32, i64::from(by));
        self.one(a, |builder, a| builder.ins().ishl(a, by))
    }

    fn shift_right(&mut self, a: Lanes, by: u8) -> Lanes {
        let by = self.builder.ins().iconst(types::I32, i64::from(by));
        self.one(a, |builder, a| builder.ins().ushr(a, by))
    }

    fn number_of(&mut self, a: Lanes) -> Lanes {
        self.one(a, |builder, a| builder.ins().fcvt_from_sint(NUMBERS, a))
    }
}
