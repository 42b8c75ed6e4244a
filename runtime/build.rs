//! Lets mopd-worker find libtorch where `./x` put it, without LD_LIBRARY_PATH, and tells it which version
//! that is. A worker for other machines (`./x wheel`) gets no path of this one: `mopd` says where to look.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=MOPD_RELOCATABLE");
    // The version that `tch` binds, where the headers do not say.
    // Functions that libtorch looks up in whoever runs it (see `mopd-kernels`): kept, and visible to it.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!(
            "cargo:rustc-link-arg=-Wl,-u,mkl_serv_intel_cpu_true,\
             --export-dynamic-symbol=mkl_serv_intel_cpu_true"
        );
    }
    let mut version = "2.11".to_owned();
    if let Ok(folder) = std::env::var("LIBTORCH") {
        if std::env::var_os("MOPD_RELOCATABLE").is_none() {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}/lib");
        }
        // libtorch_cpu.so names symbols of CUDA libraries that a machine without a GPU never calls.
        println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
        let header = format!("{folder}/include/torch/headeronly/version.h");
        println!("cargo:rerun-if-changed={header}");
        let text = std::fs::read_to_string(header).unwrap_or_default();
        let part = |name: &str| {
            text.lines().find_map(|line| {
                line.strip_prefix(&format!("#define TORCH_VERSION_{name} "))?.trim().parse::<u32>().ok()
            })
        };
        if let (Some(major), Some(minor), Some(patch)) = (part("MAJOR"), part("MINOR"), part("PATCH")) {
            version = format!("{major}.{minor}.{patch}");
        }
    }
    println!("cargo:rustc-env=MOPD_LIBTORCH_VERSION={version}");
}
