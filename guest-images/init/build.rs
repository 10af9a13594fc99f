//! Names the program's entry, which is not the C library's (src/start.rs).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=coracle_start");
    // Nothing unwinds: a panic aborts.
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,--icf=all");
}
