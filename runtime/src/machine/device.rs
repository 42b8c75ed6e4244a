//! Where tensors live. The worker links only the CPU half of libtorch; the CUDA half is opened while running,
//! so that one program serves machines with and without a GPU.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Once;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{self, GpuArithmetic};
use mopd_kernels::{accelerator, os};
use tch::{Device, Kind};

use super::place::Place;
use crate::failure::{Error, Result};

/// What was found out about CUDA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cuda {
    /// This libtorch has no CUDA half: the usual case on a machine without a GPU.
    Absent,
    /// It is there but could not be opened; why.
    Unusable(String),
    /// It was opened, but no device answers.
    NoDevice,
    Ready,
}

const LIBRARY: &CStr = c"libtorch_cuda.so";

/// Opens libtorch's CUDA half. To be called before the first tensor is made: the library registers its
/// kernels as it loads.
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

/// The loader says `NAME: cannot open shared object file: ...` of a library that is missing; if NAME is
/// another one, the CUDA half is there but lacks something.
fn failed(reason: &str) -> Cuda {
    if reason.starts_with("libtorch_cuda.so: cannot open shared object file") {
        Cuda::Absent
    } else {
        Cuda::Unusable(reason.to_owned())
    }
}

impl Cuda {
    /// Where tensors are if nothing else is asked for.
    pub fn place(&self) -> Place {
        if *self == Cuda::Ready { gpu() } else { on_cpu() }
    }

    /// Where an experiment runs that asks for `device`, or does not say. A GPU computes from here on as the
    /// experiment says.
    ///
    /// # Errors
    /// If it asks for a GPU and there is none: it is not run elsewhere in silence.
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
                let message =
                    format!("the experiment asks for `device = cuda`, and there is none here: {why}");
                Err(Error::new(FailureKind::Runtime, message)
                    .help("remove `device` to run on what there is, or set LIBTORCH to a libtorch with CUDA"))
            }
        }
    }

    /// What the author should know, if anything.
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

/// The environment variable that has the CPU follow the rules of a GPU: `operators`. For tests.
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

/// The first one. Libraries that do not tell how much memory it has leave the least that one of these has.
fn gpu() -> Place {
    Place::gpu(0, accelerator::memory(0).map_or(LEAST, |memory| memory.total))
}

const LEAST: u64 = 8 << 30;

/// Kernels of our own, or none where they can't be compiled here: libtorch's operators do the same then, and
/// whoever runs it is told once.
pub fn compiled<T>(kernels: std::result::Result<T, String>) -> Option<T> {
    static SAID: Once = Once::new();
    kernels
        .map_err(|why| {
            SAID.call_once(|| eprintln!("libtorch's operators do what kernels of mopd would: {why}"))
        })
        .ok()
}

/// What models compute in.
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
    fn reasons_are_told_apart() {
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
