//! Choice of the device. The worker links libtorch's CPU library only; the CUDA library is loaded at run
//! time, so that one program runs on machines with and without a GPU.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Once;

use mopd_kernels::{accelerator, os};
use mopd_plan::events::FailureKind;
use mopd_plan::{self as plan, GpuArithmetic};
use tch::{Device, Kind};

use super::place::Place;
use crate::failure::{Error, Result};

/// Whether CUDA can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cuda {
    /// This libtorch has no CUDA library: the usual case on a machine without a GPU.
    Absent,
    /// The library exists but could not be loaded, with the reason.
    Unusable(String),
    /// The library was loaded, but there is no device.
    NoDevice,
    Ready,
}

const LIBRARY: &CStr = c"libtorch_cuda.so";

/// Loads libtorch's CUDA library. To be called before the first tensor is made, because the library registers
/// its kernels when it is loaded.
pub fn open_cuda() -> Cuda {
    if let Err(reason) = os::load_library(LIBRARY) {
        return failed(&reason);
    }
    if !tch::Cuda::is_available() || tch::Cuda::device_count() == 0 {
        return Cuda::NoDevice;
    }
    arithmetic(GpuArithmetic::default());
    Cuda::Ready
}

/// For a missing library, the loader says `NAME: cannot open shared object file: ...`; if NAME is another
/// one, the CUDA library exists but lacks a dependency.
fn failed(reason: &str) -> Cuda {
    if reason.starts_with("libtorch_cuda.so: cannot open shared object file") {
        Cuda::Absent
    } else {
        Cuda::Unusable(reason.to_owned())
    }
}

impl Cuda {
    /// The default place.
    pub fn place(&self) -> Place {
        if *self == Cuda::Ready { gpu() } else { on_cpu() }
    }

    /// The place of an experiment with this `device` setting, or the default one. Also applies the
    /// experiment's settings to the GPU.
    ///
    /// # Errors
    /// If it asks for a GPU and there is none: there is no silent fallback.
    pub fn wanted(&self, device: Option<plan::Device>, gpu: GpuArithmetic) -> Result<Place> {
        let place = self.place_of(device)?;
        if matches!(place.device, Device::Cuda(_)) {
            arithmetic(gpu);
        }
        Ok(place)
    }

    fn place_of(&self, device: Option<plan::Device>) -> Result<Place> {
        match (device, self) {
            (Some(plan::Device::Cpu), _) => Ok(on_cpu()),
            (None, _) | (Some(plan::Device::Cuda), Cuda::Ready) => Ok(self.place()),
            (Some(plan::Device::Cuda), missing) => {
                let why = match missing {
                    Cuda::Absent => "this libtorch is built without CUDA".to_owned(),
                    Cuda::Unusable(reason) => format!("libtorch's CUDA library cannot be opened: {reason}"),
                    Cuda::NoDevice | Cuda::Ready => "libtorch finds no GPU".to_owned(),
                };
                let message = format!("the experiment has `device = cuda`, but no GPU can be used: {why}");
                Err(Error::new(FailureKind::Runtime, message).help(
                    "remove `device` to run on the available device, or set LIBTORCH to a libtorch \
                        with CUDA",
                ))
            }
        }
    }

    /// A warning for the author, if there is a problem.
    pub fn warning(&self) -> Option<String> {
        match self {
            Cuda::Absent if Path::new("/dev/nvidia0").exists() => Some(
                "the CPU is used: there is an NVIDIA GPU, but this libtorch is built without CUDA; `mopd setup --cuda` \
                 fetches one that has it"
                    .to_owned(),
            ),
            Cuda::Absent | Cuda::Ready => None,
            Cuda::Unusable(reason) => {
                Some(format!("the CPU is used: libtorch's CUDA library cannot be opened: {reason}"))
            }
            Cuda::NoDevice => {
                Some("the CPU is used: libtorch has its CUDA library, but finds no GPU".to_owned())
            }
        }
    }
}

/// The environment variable that makes the CPU take the GPU's path, with value `operators`. For tests.
pub const PLACE: &str = "MOPD_PLACE";

fn on_cpu() -> Place {
    match std::env::var(PLACE) {
        Ok(name) if name == "operators" => Place::operators(),
        _ => Place::cpu(),
    }
}

fn arithmetic(GpuArithmetic { deterministic, tf32 }: GpuArithmetic) {
    accelerator::set_arithmetic(deterministic, tf32);
}

/// The first GPU. Where libtorch does not report its memory, [`LEAST`] bytes are assumed.
fn gpu() -> Place {
    Place::gpu(0, accelerator::memory(0).map_or(LEAST, |memory| memory.total))
}

const LEAST: u64 = 8 << 30;

/// This program's CUDA kernels; `None` where they can't be compiled, and libtorch's operators are used
/// instead. Then prints a warning, once per process.
pub fn compiled<T>(kernels: std::result::Result<T, String>) -> Option<T> {
    static SAID: Once = Once::new();
    kernels
        .map_err(|why| {
            SAID.call_once(|| eprintln!("libtorch's operators are used in place of mopd's kernels: {why}"))
        })
        .ok()
}

/// libtorch's kind of a compute dtype.
pub fn kind(dtype: plan::Dtype) -> Kind {
    match dtype {
        plan::Dtype::Float32 => Kind::Float,
        plan::Dtype::Bfloat16 => Kind::BFloat16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_cuda_is_told_apart_from_broken_cuda() {
        assert_eq!(
            failed("libtorch_cuda.so: cannot open shared object file: No such file or directory"),
            Cuda::Absent
        );
        let broken = failed("libcudnn.so.9: cannot open shared object file: No such file or directory");
        assert!(broken.warning().unwrap().contains("libcudnn.so.9"));
        assert_eq!(broken.place().device, Device::Cpu);
        assert_eq!(Cuda::Ready.place().device, Device::Cuda(0));
        assert_eq!(Cuda::Ready.place_of(Some(plan::Device::Cpu)).unwrap().device, Device::Cpu);
        assert_eq!(Cuda::Ready.place_of(Some(plan::Device::Cuda)).unwrap().device, Device::Cuda(0));
        assert_eq!(Cuda::Absent.place_of(None).unwrap().device, Device::Cpu);
        for missing in [Cuda::Absent, Cuda::NoDevice, Cuda::Unusable("libcudnn.so.9".into())] {
            assert!(
                missing
                    .place_of(Some(plan::Device::Cuda))
                    .unwrap_err()
                    .to_string()
                    .contains("`device = cuda`")
            );
        }
        assert!(Cuda::NoDevice.warning().unwrap().contains("no GPU"));
    }
}
