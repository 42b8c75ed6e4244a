//! The kernels of `decode.cu` for tensors.

use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use tch::{Kind, Tensor};

use super::driver::{Function, compile, launch};
use super::nvrtc::KernelSource;
use super::{Gpu, argument};
use crate::functions::Activation;

/// The sizes that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    /// Heads of queries; `groups` is that of keys and values, and divides it.
    pub heads: i64,
    pub groups: i64,
    /// Numbers per head.
    pub width: i64,
    /// Kind of keys and values: f32 or bf16.
    pub kind: Kind,
}

/// Kernels compiled for a shape and a GPU.
#[derive(Clone, Copy, Debug)]
pub struct DecodeKernels {
    gpu: Gpu,
    shape: DecodeShape,
    /// Warps per block of attention, and heads per block.
    warps: i64,
    together: i64,
    attend: Function,
    add_and_normalise: Function,
    gate: Function,
}

/// Keys and values of a layer, `[rows, groups, capacity, width]` each, and the position of the new token.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    pub keys: &'a Tensor,
    pub values: &'a Tensor,
    /// i64, `[1]`.
    pub place: &'a Tensor,
}

/// The inputs of a layer's attention besides projections and cache.
#[derive(Clone, Copy)]
pub struct DecodeAttention<'a> {
    /// RMSNorm's scales of queries and keys, f32, `[2, width]`, and its epsilon.
    pub norm: Option<(&'a Tensor, f64)>,
    /// Cosines and sines, `[rotated positions, width]`, indexed by the rows' `positions`, i64, `[rows]`.
    pub rotary: Option<[&'a Tensor; 2]>,
    pub positions: &'a Tensor,
    pub query_scale: f64,
    /// `[rows, 1, 1, capacity]`; positions where it is not 0 are masked.
    pub bias: &'a Tensor,
    /// Number of last positions that are seen; `None` for all.
    pub window: Option<usize>,
    pub softcap: Option<f64>,
}

/// Numbers per load of a thread.
const LOADED: u64 = 8;
/// Most numbers of queries that a thread of attention holds: more would not fit in its registers.
const NUMBERS: i64 = 64;
/// Most warps per block of attention, and bytes of its shared memory: as much as every GPU has per block.
const WARPS: i64 = 8;
const SHARED_BYTES: i64 = 40 << 10;
const GATE_THREADS: u32 = 128;

/// How the work of attention is divided, for a shape.
struct AttentionBlocks {
    /// Lanes that share a head.
    lanes: i64,
    /// Numbers per lane.
    per: i64,
    /// Heads per block.
    together: i64,
    /// Warps per block.
    warps: i64,
}

impl AttentionBlocks {
    fn of(DecodeShape { heads, groups, width, .. }: DecodeShape) -> AttentionBlocks {
        let lanes = (width as u64).div_ceil(LOADED).next_power_of_two().min(32) as i64;
        let per = (width as u64).div_ceil(LOADED * lanes as u64) as i64 * LOADED as i64;
        let shared = heads / groups;
        let together = (1..=shared).rev().find(|heads| shared % heads == 0 && heads * per <= NUMBERS);
        let together = together.unwrap_or(1);
        let warps = (SHARED_BYTES / (4 * together * (width + 2))).clamp(1, WARPS);
        AttentionBlocks { lanes, per, together, warps }
    }
}

fn source(shape: DecodeShape) -> KernelSource {
    let DecodeShape { heads, groups, width, kind } = shape;
    let AttentionBlocks { lanes, per, together, warps } = AttentionBlocks::of(shape);
    let defines = vec![
        ("HEADS", heads),
        ("GROUPS", groups),
        ("WIDTH", width),
        ("HALF", i64::from(kind == Kind::BFloat16)),
        ("LANES", lanes),
        ("PER", per),
        ("TOGETHER", together),
        ("WARPS", warps),
    ];
    KernelSource { text: include_str!("decode.cu"), defines }
}

impl DecodeKernels {
    /// Compiles the kernels once per shape. `None` for a shape or kind that is not supported.
    ///
    /// # Errors
    /// If CUDA's compiler is missing or fails.
    pub fn of(gpu: Gpu, shape: DecodeShape) -> Result<Option<DecodeKernels>, String> {
        type Compiled = HashMap<DecodeShape, Result<DecodeKernels, String>>;
        static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);
        if !matches!(shape.kind, Kind::Float | Kind::BFloat16) || shape.heads % shape.groups != 0 {
            return Ok(None);
        }
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = compiled.get_or_insert_with(HashMap::new);
        known.entry(shape).or_insert_with(|| DecodeKernels::compile(gpu, shape)).clone().map(Some)
    }

    pub fn gpu(&self) -> Gpu {
        self.gpu
    }

    fn compile(gpu: Gpu, shape: DecodeShape) -> Result<DecodeKernels, String> {
        let AttentionBlocks { together, warps, .. } = AttentionBlocks::of(shape);
        let names = [c"attend", c"add_and_normalise", c"gate"];
        let [attend, add_and_normalise, gate] = compile(gpu, &source(shape), names)?;
        Ok(DecodeKernels { gpu, shape, warps, together, attend, add_and_normalise, gate })
    }

    /// Attention of the new token over the cache up to its position, `[rows, heads * width]`. `projected` are
    /// its queries, key and value, `[rows, heads + 2 groups, width]`; key and value are added to the cache.
    ///
    /// The kernel traps at a place outside the cache and at a position outside the tables: both numbers are
    /// in the GPU's memory, so that nothing here can check them without waiting for it.
    pub fn attend(&self, projected: &Tensor, attention: &DecodeAttention, cache: Cache) -> Tensor {
        let DecodeShape { heads, groups, width, kind } = self.shape;
        let [rows, groups_there, capacity, width_there] = cache.keys.size()[..] else {
            panic!("a cache has rows, groups, places and widths")
        };
        assert_eq!((groups_there, width_there), (groups, width));
        let attended = Tensor::empty([rows, heads * width], (kind, projected.device()));
        let mut projected = self.gpu.pointer(projected, kind, &[rows, heads + 2 * groups, width]);
        let mut scales = attention
            .norm
            .map_or(null_mut(), |(scales, _)| self.gpu.pointer(scales, Kind::Float, &[2, width]));
        let mut epsilon = attention.norm.map_or(0.0, |(_, epsilon)| epsilon as f32);
        let [mut cosine, mut sine] = attention.rotary.map_or([null_mut(); 2], |tables| {
            tables.map(|table| self.gpu.pointer(table, kind, &[table.size()[0], width]))
        });
        let mut rotated = match attention.rotary {
            Some([cosine, sine]) => {
                assert_eq!(cosine.size(), sine.size(), "both tables have the same positions");
                c_int::try_from(cosine.size()[0]).expect("a table has fewer positions than that")
            }
            None => 0,
        };
        let mut positions = self.gpu.pointer(attention.positions, Kind::Int64, &[rows]);
        let mut query_scale = attention.query_scale as f32;
        let [mut keys, mut values] = [cache.keys, cache.values]
            .map(|tensor| self.gpu.pointer(tensor, kind, &[rows, groups, capacity, width]));
        let mut bias = self.gpu.pointer(attention.bias, kind, &[rows, 1, 1, capacity]);
        let mut place = self.gpu.pointer(cache.place, Kind::Int64, &[1]);
        let mut attended_at = attended.data_ptr();
        let mut capacity = c_int::try_from(capacity).expect("a cache has fewer places than that");
        let mut window = attention.window.map_or(0, |window| c_int::try_from(window).unwrap_or(0));
        let mut softcap = attention.softcap.map_or(0.0, |cap| cap as f32);
        let mut arguments = [
            argument(&mut projected),
            argument(&mut scales),
            argument(&mut epsilon),
            argument(&mut cosine),
            argument(&mut sine),
            argument(&mut positions),
            argument(&mut query_scale),
            argument(&mut keys),
            argument(&mut values),
            argument(&mut bias),
            argument(&mut place),
            argument(&mut attended_at),
            argument(&mut capacity),
            argument(&mut rotated),
            argument(&mut window),
            argument(&mut softcap),
        ];
        let blocks = [rows as u32, (heads / self.together) as u32];
        // SAFETY: types and order are those of `decode.cu`, kinds and sizes were checked here, positions and
        // the place are checked by the kernel. libtorch does not reuse memory before its stream has passed
        // the kernel.
        unsafe { launch(self.attend, blocks, self.warps as u32 * 32, self.gpu.stream(), &mut arguments) };
        attended
    }

    /// Adds `added`, if any, to the stream, `[rows, width]`. Returns the sum, and its RMSNorm with `scales`,
    /// f32, `[width]`, and `epsilon`.
    pub fn add_and_normalise(
        &self,
        stream: &Tensor,
        added: Option<&Tensor>,
        scales: &Tensor,
        epsilon: f64,
    ) -> (Tensor, Tensor) {
        let kind = self.shape.kind;
        let [rows, width] = stream.size()[..] else { panic!("a stream has rows and a width") };
        let empty = || Tensor::empty([rows, width], (kind, stream.device()));
        let (sum, normed) = (added.map_or_else(|| stream.shallow_clone(), |_| empty()), empty());
        let mut stream = self.gpu.pointer(stream, kind, &[rows, width]);
        let mut added = added.map_or(null_mut(), |added| self.gpu.pointer(added, kind, &[rows, width]));
        let mut scales = self.gpu.pointer(scales, Kind::Float, &[width]);
        let [mut sum_at, mut normed_at] = [&sum, &normed].map(Tensor::data_ptr);
        let (mut epsilon, mut numbers) = (epsilon as f32, width as c_int);
        let mut arguments = [
            argument(&mut stream),
            argument(&mut added),
            argument(&mut scales),
            argument(&mut epsilon),
            argument(&mut sum_at),
            argument(&mut normed_at),
            argument(&mut numbers),
        ];
        let threads = whole_warps(width / loaded(width)).min(1024) as u32;
        // SAFETY: as above.
        unsafe {
            launch(self.add_and_normalise, [rows as u32, 1], threads, self.gpu.stream(), &mut arguments);
        }
        (sum, normed)
    }

    /// activation(gate) * up, `[rows, inner]`, of gate and up concatenated, `[rows, 2 inner]`.
    pub fn gate(&self, gate_up: &Tensor, activation: Activation) -> Tensor {
        let [rows, both] = gate_up.size()[..] else { panic!("gates have rows and a width") };
        let inner = both / 2;
        let gated = Tensor::empty([rows, inner], (self.shape.kind, gate_up.device()));
        let mut gate_up = self.gpu.pointer(gate_up, self.shape.kind, &[rows, 2 * inner]);
        let (mut gated_at, mut numbers) = (gated.data_ptr(), inner as c_int);
        let mut gelu = c_int::from(activation == Activation::Gelu);
        let mut arguments =
            [argument(&mut gate_up), argument(&mut gated_at), argument(&mut numbers), argument(&mut gelu)];
        let blocks = (inner / loaded(inner)).unsigned_abs().div_ceil(GATE_THREADS.into());
        // SAFETY: as above.
        unsafe {
            launch(self.gate, [rows as u32, blocks as u32], GATE_THREADS, self.gpu.stream(), &mut arguments);
        }
        gated
    }
}

/// Numbers per load of a thread in [`DecodeKernels::add_and_normalise`] or [`DecodeKernels::gate`]: a load
/// must be aligned to its size.
fn loaded(numbers: i64) -> i64 {
    if numbers % LOADED as i64 == 0 { LOADED as i64 } else { 1 }
}

/// Number of threads, rounded up to whole warps.
fn whole_warps(numbers: i64) -> i64 {
    (numbers + 31) / 32 * 32
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::tests::assert_compiles;
    use super::*;

    /// The shapes of SmolLM2, Qwen3, Gemma 3 and of a model whose heads are narrower than a warp's loads.
    #[test]
    fn the_source_compiles() {
        for [heads, groups, width] in [[9, 3, 64], [16, 8, 128], [4, 1, 256], [2, 2, 16]] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let shape = DecodeShape { heads, groups, width, kind };
                assert_compiles(&format!("decode.cu of {shape:?}"), &source(shape));
            }
        }
    }
}
