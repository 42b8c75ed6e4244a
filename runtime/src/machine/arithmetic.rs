//! A description of this machine's arithmetic: everything that decides the bits of a result besides the plan,
//! its inputs and its seed. It is part of the key of every computed result, so that no run reads a result
//! that this machine would not have computed.

use std::collections::BTreeMap;
use std::fs;

use mopd_expr::jit;
use mopd_kernels::cuda::EntryKernels;
use mopd_kernels::{CpuFeatures, symbols};
use mopd_plan::GpuArithmetic;
use mopd_plan::keys;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::machine::place::Place;

/// Increased whenever the bits of any result of an unchanged plan may differ from before: another order of a
/// sum, another rounding, another use of random numbers, another meaning of a setting.
pub const NUMERIC_VERSION: u32 = 20;

/// The same for changes that affect GPUs only: their kernels, and which rows they compute together.
const GPU_VERSION: u32 = 3;

/// The version of keys in stores written before it was recorded.
fn unrecorded_keys_version() -> u32 {
    2
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// [`NUMERIC_VERSION`].
    pub version: u32,
    /// [`keys::VERSION`].
    #[serde(default = "unrecorded_keys_version")]
    pub keys: u32,
    pub architecture: String,
    /// The CPU's instruction sets by which libraries choose their loops, as the system names them.
    pub instructions: Vec<String>,
    /// The instruction set that this program's own loops use.
    pub kernels: String,
    /// Whether compiled objectives use fused multiply-add.
    pub fused: bool,
    pub libtorch: LibtorchBuild,
    /// Environment variables that make libraries choose other loops.
    pub variables: BTreeMap<String, String>,
}

/// Identifies a build of libtorch; a version has several builds, which bundle different libraries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibtorchBuild {
    pub version: String,
    /// Size of the loaded library file; `None` where the system does not report it.
    pub bytes: Option<u64>,
}

const INSTRUCTIONS: [&str; 27] = [
    "sse4_1",
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "asimdfhm",
    "bf16",
    "i8mm",
    "sve",
    "sve2",
    "svebf16",
];

/// Variables of libtorch, MKL, oneDNN, cuBLAS and the C library, which also has variants of functions.
const VARIABLES: [&str; 14] = [
    symbols::SWITCH,
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "GLIBC_TUNABLES",
];

impl Arithmetic {
    /// `libtorch` is libtorch's version.
    pub fn of_this_machine(libtorch: &str) -> Arithmetic {
        let variable = |name: &&str| {
            Some(((*name).to_owned(), std::env::var(name).ok().filter(|value| !value.is_empty())?))
        };
        Arithmetic {
            version: NUMERIC_VERSION,
            keys: keys::VERSION,
            architecture: std::env::consts::ARCH.to_owned(),
            instructions: instructions(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            kernels: CpuFeatures::detect().name().to_owned(),
            fused: jit::fuses(),
            libtorch: LibtorchBuild { version: libtorch.to_owned(), bytes: loaded("libtorch_cpu.so") },
            variables: VARIABLES.iter().filter_map(variable).collect(),
        }
    }

    /// Describes the differences of another machine's arithmetic from this one.
    pub fn difference(&self, other: &Arithmetic) -> String {
        let mut parts = Vec::new();
        let mut part = |what: &str, theirs: String, ours: String| {
            if theirs != ours {
                parts.push(format!("{what} {theirs}, here {ours}"));
            }
        };
        let list = |names: &[String], others: &[String]| {
            let more: Vec<&str> =
                names.iter().filter(|name| !others.contains(name)).map(String::as_str).collect();
            if more.is_empty() { "none more".to_owned() } else { more.join(" ") }
        };
        part("numeric version", other.version.to_string(), self.version.to_string());
        part("version of keys", other.keys.to_string(), self.keys.to_string());
        part("libtorch", other.libtorch.version.clone(), self.libtorch.version.clone());
        part("builds of libtorch of", bytes(other.libtorch.bytes), bytes(self.libtorch.bytes));
        part("processor", other.architecture.clone(), self.architecture.clone());
        part(
            "instructions",
            list(&other.instructions, &self.instructions),
            list(&self.instructions, &other.instructions),
        );
        part("loops with", other.kernels.clone(), self.kernels.clone());
        part("fused multiplication", other.fused.to_string(), self.fused.to_string());
        for name in VARIABLES {
            let value = |of: &Arithmetic| {
                of.variables.get(name).map_or("unset".to_owned(), |value| format!("`{value}`"))
            };
            part(name, value(other), value(self));
        }
        parts.join("; ")
    }
}

fn bytes(count: Option<u64>) -> String {
    count.map_or("unknown size".to_owned(), |count| format!("{count} bytes"))
}

/// Everything numeric that a result depends on: arithmetic, compute dtype and device.
#[derive(Serialize)]
pub struct Numeric<'a> {
    pub arithmetic: &'a Arithmetic,
    pub dtype: &'a str,
    pub device: String,
}

/// The device as a part of keys. For a GPU: its model, `GPU_VERSION`, the experiment's settings, the bytes
/// of gradients by logits that are kept (the rest is recomputed, with other roundings), and whether kernels
/// of this program can't be compiled.
pub fn device_of_key(place: Place, gpu: GpuArithmetic) -> String {
    let name = place.name();
    if place.device == Device::Cpu {
        return name;
    }
    let folders = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let texts = folders.filter_map(|folder| fs::read_to_string(folder.path().join("information")).ok());
    let mut models: Vec<String> = texts.filter_map(|text| model(&text)).collect();
    models.sort();
    models.dedup();
    let kernels = place.kernels().is_some_and(|gpu| EntryKernels::compile(gpu).is_ok());
    let allowed =
        [(!kernels, "operators alone"), (!gpu.deterministic, "nondeterministic"), (gpu.tf32, "tf32")];
    let kept = format!("{} bytes kept", place.sizes.kept);
    let version = format!("version {GPU_VERSION}");
    let allowed = allowed.into_iter().filter(|(allowed, _)| *allowed).map(|(_, what)| what.to_owned());
    [name, version, kept].into_iter().chain(models).chain(allowed).collect::<Vec<_>>().join(", ")
}

/// `Model: NVIDIA H100 80GB HBM3`
fn model(information: &str) -> Option<String> {
    let line = information.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_owned())
}

/// The instruction sets of the first CPU: all CPUs of a machine are of one kind.
fn instructions(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .unwrap_or_default();
    let flags: Vec<&str> = line.split_once(':').map_or("", |(_, flags)| flags).split_whitespace().collect();
    INSTRUCTIONS.iter().filter(|name| flags.contains(name)).map(|name| (*name).to_owned()).collect()
}

/// Size in bytes of a library file that this process has loaded.
fn loaded(name: &str) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        line.split_once('/').map(|(_, path)| format!("/{path}")).filter(|path| path.ends_with(name))
    })?;
    Some(fs::metadata(path).ok()?.len())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An example.
    pub fn some() -> Arithmetic {
        Arithmetic {
            version: 2,
            keys: 3,
            architecture: "x86_64".to_owned(),
            instructions: vec!["fma".to_owned(), "avx2".to_owned()],
            kernels: "avx2".to_owned(),
            fused: true,
            libtorch: LibtorchBuild { version: "2.11.0".to_owned(), bytes: Some(1234) },
            variables: BTreeMap::from([("MKL_CBWR".to_owned(), "COMPATIBLE".to_owned())]),
        }
    }

    /// Keys are made from this text: a change of it empties every store, so it must be deliberate.
    #[test]
    fn the_text_in_a_key_is_pinned() {
        let numeric = Numeric { arithmetic: &some(), dtype: "float32", device: "cpu".to_owned() };
        assert_eq!(
            serde_json::to_string(&numeric).unwrap(),
            concat!(
                r#"{"arithmetic":{"version":2,"keys":3,"architecture":"x86_64","#,
                r#""instructions":["fma","avx2"],"kernels":"avx2","fused":true,"#,
                r#""libtorch":{"version":"2.11.0","bytes":1234},"#,
                r#""variables":{"MKL_CBWR":"COMPATIBLE"}},"dtype":"float32","device":"cpu"}"#,
            )
        );
    }

    /// The experiment's settings for GPUs are in the keys of a GPU's results, and not in those of the CPU.
    #[test]
    fn a_gpu_is_keyed_with_what_it_may_do() {
        let usual = GpuArithmetic::default();
        let fast = GpuArithmetic { deterministic: false, tf32: true };
        let gpu = Place::gpu(0, 80 << 30);
        assert_eq!(device_of_key(Place::cpu(), fast), "cpu");
        assert!(!device_of_key(gpu, usual).contains("tf32"));
        assert!(device_of_key(gpu, usual).contains(&format!("version {GPU_VERSION}")));
        assert_ne!(device_of_key(gpu, usual), device_of_key(Place::gpu(0, 40 << 30), usual));
        assert_eq!(
            device_of_key(gpu, fast),
            format!("{}, nondeterministic, tf32", device_of_key(gpu, usual))
        );
    }

    #[test]
    fn arithmetic_of_this_machine_is_complete() {
        let here = Arithmetic::of_this_machine("2.11.0");
        assert_eq!(here, Arithmetic::of_this_machine("2.11.0"));
        assert_eq!(here.version, NUMERIC_VERSION);
        // On systems that report it.
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            assert!(here.libtorch.bytes.is_some_and(|bytes| bytes > 1 << 20), "{here:?}");
            assert!(here.instructions.contains(&"sse4_1".to_owned()), "{here:?}");
        }
    }

    #[test]
    fn arithmetic_difference_names_each_field() {
        let (here, mut other) = (some(), some());
        assert_eq!(here.difference(&other), "");
        other.version = 1;
        other.keys = 2;
        other.instructions.pop();
        other.variables.clear();
        assert_eq!(
            here.difference(&other),
            "numeric version 1, here 2; version of keys 2, here 3; instructions none more, here avx2; \
             MKL_CBWR unset, here `COMPATIBLE`"
        );
    }

    #[test]
    fn cpu_flags_and_gpu_model_are_parsed_from_proc() {
        assert_eq!(
            instructions("processor\t: 0\nflags\t\t: fpu avx2 sse4_1 avx\nflags\t\t: fma\n"),
            ["sse4_1", "avx", "avx2"]
        );
        assert_eq!(instructions("Features\t: fp asimd bf16\n"), ["asimd", "bf16"]);
        assert_eq!(model("Model: \t\t NVIDIA H100\nIRQ: 1\n").as_deref(), Some("NVIDIA H100"));
    }
}
