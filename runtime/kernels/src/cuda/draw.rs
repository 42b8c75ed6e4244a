//! The kernel of `draw.cu` for tensors.

use std::ffi::{c_int, c_longlong};
use std::sync::OnceLock;

use tch::{Kind, Tensor};

use super::driver::{Function, compile, launch};
use super::nvrtc::KernelSource;
use super::{Gpu, argument};

/// Draws tokens on the device of their logits.
#[derive(Clone, Copy, Debug)]
pub struct DrawKernel {
    gpu: Gpu,
    /// Entries per piece of the two-level sum of weights.
    piece: usize,
    draw: Function,
}

/// Threads per row.
const THREADS: u32 = 1024;

fn source(piece: usize) -> KernelSource {
    let defines = vec![("PIECE", piece as i64), ("THREADS", THREADS.into())];
    KernelSource { text: include_str!("draw.cu"), defines }
}

impl DrawKernel {
    /// Compiles the kernel once per process, for pieces of `piece` entries, a multiple of 32.
    ///
    /// # Errors
    /// If CUDA's compiler is missing or fails.
    pub fn compile(gpu: Gpu, piece: usize) -> Result<DrawKernel, String> {
        static COMPILED: OnceLock<Result<DrawKernel, String>> = OnceLock::new();
        assert_eq!(piece % 32, 0, "each lane of a warp has as many");
        let compiled = COMPILED.get_or_init(|| {
            let [draw] = compile(gpu, &source(piece), [c"draw"])?;
            Ok(DrawKernel { gpu, piece, draw })
        });
        let kernel = compiled.clone()?;
        assert_eq!(kernel.piece, piece, "a process has one size of pieces");
        Ok(kernel)
    }

    /// Draws a token per row from the first `count` of its logits, f32, `[.., entries]`; `places`, i64, index
    /// them, and the kernel traps at one outside. Returns the token, its log-probability and whether logits
    /// are finite, f64, `[rows, 3]`.
    pub fn draw(
        &self,
        logits: &Tensor,
        count: usize,
        temperature: f64,
        places: &Tensor,
        uniforms: &Tensor,
    ) -> Tensor {
        let [most, entries] = logits.size()[..] else { panic!("logits have rows and entries") };
        let rows = places.size()[0];
        assert!((1..=entries).contains(&(count as i64)), "{count} of {entries} entries");
        let numbers = |columns: i64| Tensor::empty([rows, columns], (Kind::Double, logits.device()));
        let (sums, drawn) = (numbers(count.div_ceil(self.piece) as i64), numbers(3));
        let mut logits = self.gpu.pointer(logits, Kind::Float, &[most, entries]);
        let mut places = self.gpu.pointer(places, Kind::Int64, &[rows]);
        let mut uniforms = self.gpu.pointer(uniforms, Kind::Double, &[rows]);
        let [mut sums_at, mut drawn_at] = [&sums, &drawn].map(Tensor::data_ptr);
        let (mut most, mut entries, mut count) = (most as c_longlong, entries as c_int, count as c_int);
        let mut temperature = temperature;
        let mut arguments = [
            argument(&mut logits),
            argument(&mut most),
            argument(&mut entries),
            argument(&mut count),
            argument(&mut places),
            argument(&mut uniforms),
            argument(&mut temperature),
            argument(&mut sums_at),
            argument(&mut drawn_at),
        ];
        // SAFETY: types and order are those of `draw.cu`, kinds and sizes were checked here, places are
        // checked by the kernel. libtorch does not reuse memory before its stream has passed the kernel.
        unsafe { launch(self.draw, [rows as u32, 1], THREADS, self.gpu.stream(), &mut arguments) };
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::tests::assert_compiles;
    use super::*;

    #[test]
    fn the_source_compiles() {
        assert_compiles("draw.cu", &source(4096));
    }
}
