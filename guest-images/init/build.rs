//! Names the program's entry, which is not the C library's (src/start.rs), and leaves out what only unwinding needs.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=coracle_start");
    // Nothing unwinds: a panic aborts.
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,--icf=all");
    let script = "no-unwinding.ld";
    println!("cargo::rerun-if-changed={script}");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo tells build scripts where the package is");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{root}/{script}");
}
