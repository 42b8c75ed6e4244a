//! Rough speeds of this machine: enough to tell a trial that takes seconds from one that takes minutes.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use tch::{Kind, Tensor, no_grad_guard};

use crate::machine::memory;
use crate::machine::place::Place;

pub struct MachineSpeed {
    /// Multiplications and additions a second, of matrices in the compute dtype.
    pub products: f64,
    /// Bytes a second read from memory.
    pub bytes: f64,
    /// Bytes a second that are hashed, written to the disk and synced.
    pub written: f64,
    /// Free bytes of memory on the device, or `None` if unknown.
    pub free: Option<f64>,
}

/// Sizes of the measurement: the side of the matrices to multiply, and the bytes to read.
struct Measured {
    side: i64,
    read: usize,
}

/// Takes some milliseconds on a core.
const ON_CPU: Measured = Measured { side: 1024, read: 32 << 20 };
/// Takes longer on a GPU than launching it.
const ON_GPU: Measured = Measured { side: 4096, read: 256 << 20 };
/// Bytes to write.
const BLOCK: usize = 32 << 20;

impl MachineSpeed {
    /// Takes about a tenth of a second. `kind` is the compute dtype; `folder` is where stages are stored, and
    /// need not exist yet.
    pub fn measure(place: Place, kind: Kind, folder: &Path) -> MachineSpeed {
        let _guard = no_grad_guard();
        let options = (kind, place.device);
        let Measured { side, read } = if place.kernels().is_some() { ON_GPU } else { ON_CPU };
        let (one, other) = (Tensor::ones([side, side], options), Tensor::ones([side, side], options));
        let block = Tensor::ones([read as i64 / 4], (Kind::Float, place.device));
        let products = seconds(|| place.multiply(&one, &other).double_value(&[0, 0]));
        let bytes = seconds(|| block.sum(Kind::Float).double_value(&[]));
        MachineSpeed {
            products: side.pow(3) as f64 / products,
            bytes: read as f64 / bytes,
            written: written(folder).map_or(f64::INFINITY, |seconds| BLOCK as f64 / seconds),
            free: memory::available_at(place).map(|bytes| bytes as f64),
        }
    }
}

/// Seconds of the second call; the first one warms up code and memory.
fn seconds(f: impl Fn() -> f64) -> f64 {
    f();
    let started = Instant::now();
    f();
    started.elapsed().as_secs_f64().max(1e-9)
}

/// Seconds to write a block, the faster of two: a system busy with other writes delays some.
fn written(folder: &Path) -> Option<f64> {
    Some(write(folder)?.min(write(folder)?))
}

/// None if nothing can be written; the stage will report that itself.
fn write(folder: &Path) -> Option<f64> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let block = vec![1u8; BLOCK];
    let started = Instant::now();
    let mut file = tempfile::tempfile_in(there).ok()?;
    blake3::hash(&block);
    file.write_all(&block).and_then(|()| file.sync_all()).ok()?;
    Some(started.elapsed().as_secs_f64())
}
