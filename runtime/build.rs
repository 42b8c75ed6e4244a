//! Lets mopd-worker find libtorch where `./x` put it, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(folder) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}/lib");
        // libtorch_cpu.so names symbols of CUDA libraries that a machine without a GPU never calls.
        println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    }
}
