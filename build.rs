//! Builds the guest into the program if guest-images/ has been built.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(built_in_guest)");
    println!("cargo::rerun-if-env-changed=CORACLE_NO_BUILT_IN_GUEST");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo tells build scripts where the package is");
    let out = Path::new(&root).join("guest-images/out");
    let built = ["vmlinux", "initrd"]
        .iter()
        .all(|image| out.join(image).is_file());
    if built && env::var_os("CORACLE_NO_BUILT_IN_GUEST").is_none() {
        println!("cargo::rustc-cfg=built_in_guest");
        for (name, image) in [("CORACLE_KERNEL", "vmlinux"), ("CORACLE_INITRD", "initrd")] {
            let path = out.join(image);
            println!("cargo::rerun-if-changed={}", path.display());
            println!("cargo::rustc-env={name}={}", path.display());
        }
    } else {
        println!("cargo::rerun-if-changed=guest-images/out");
    }
}
