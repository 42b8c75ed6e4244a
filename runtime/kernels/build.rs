//! Lets the tests find libtorch, and libtorch's matrix library what it looks up in whoever runs it. Compiles
//! the few functions of libtorch about GPUs that its bindings for Rust leave out: they are inline in its
//! headers, so that no name can be looked up for them.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(accelerator)");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=src/accelerator.cpp");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true");
    }
    let Ok(folder) = std::env::var("LIBTORCH") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}/lib");
    println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    if std::env::var_os("CARGO_FEATURE_TCH").is_none() {
        return;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(format!("{folder}/include"))
        .file("src/accelerator.cpp")
        .compile("mopd_accelerator");
    println!("cargo:rustc-cfg=accelerator");
}
