//! Builds the guest into the program if guest-images/ has been built, and compiles the tables of the filters for system calls.

#[path = "build/kernel_layout.rs"]
mod kernel_layout;
#[path = "build/programs.rs"]
mod programs;
#[path = "src/confine/filter/tables/mod.rs"]
mod tables;
#[path = "build/writable_layer.rs"]
mod writable_layer;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use kernel_layout::KernelLayout;
use writable_layer::WritableLayer;

fn main() {
    build_guest_in();
    compile_filters();
}

/// Writes the programs for src/confine/filter/mod.rs.
fn compile_filters() {
    let mut source = format!(
        "pub const OWN_PROCESS: u32 = {};\npub const CHILD: u32 = {};\n",
        programs::OWN_PROCESS,
        programs::CHILD
    );
    let start = || tables::START.calls();
    // A machine without disks, sockets and a name makes few calls beside ioctl, whose arguments are always looked at.
    let inherited = [
        (&tables::START, Some(tables::OFTEN)),
        (&tables::START_PLAIN, None),
        (&tables::KEEPER, Some(tables::OFTEN)),
        (&tables::CONNECTOR, Some(tables::OFTEN)),
        (&tables::UNPACKER, Some(tables::OFTEN)),
    ]
    .map(|(kind, often)| (kind.name, programs::inherited(kind.calls(), often)));
    let narrowed = tables::KINDS
        .iter()
        .map(|kind| (kind.name, programs::narrowed(kind.calls(), start())));
    for (name, program) in narrowed.chain(inherited) {
        writeln!(source, "pub static {name}: [sock_filter; {}] = [", program.len()).expect("a string grows");
        for (code, jt, jf, k) in program {
            writeln!(
                source,
                "    sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},"
            )
            .expect("a string grows");
        }
        source.push_str("];\n");
    }
    let out = env::var("OUT_DIR").expect("cargo tells build scripts where to write");
    fs::write(Path::new(&out).join("filters.rs"), source).expect("cargo made the directory");
}

fn build_guest_in() {
    println!("cargo::rustc-check-cfg=cfg(built_in_guest)");
    println!("cargo::rerun-if-env-changed=CORACLE_NO_BUILT_IN_GUEST");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo tells build scripts where the package is");
    let images = Path::new(&root).join("guest-images");
    let out = images.join("out");
    let built = CARRIED.iter().all(|(_, file)| out.join(file).is_file());
    if built && env::var_os("CORACLE_NO_BUILT_IN_GUEST").is_none() {
        println!("cargo::rustc-cfg=built_in_guest");
        for (name, file) in CARRIED {
            let path = out.join(file);
            println!("cargo::rerun-if-changed={}", path.display());
            println!("cargo::rustc-env={name}={}", path.display());
        }
        write_kernel_layout(&images);
        write_writable_layer(&out.join("writable-layer"));
        let patches = images.join("kernel/patches");
        println!("cargo::rerun-if-changed={}", patches.display());
        println!("cargo::rustc-env=CORACLE_KERNEL_PATCHES={}", names_in(&patches));
    } else {
        println!("cargo::rerun-if-changed=guest-images/out");
    }
}

/// Writes what src/built_in.rs includes.
fn write_kernel_layout(images: &Path) {
    let map = images.join("out/System.map");
    let order = images.join("kernel/text-order");
    for file in [&map, &order] {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let vmlinux = fs::read(images.join("out/vmlinux")).expect("the kernel was found before");
    let layout = KernelLayout::of(&vmlinux, &text(&map), &text(&order));
    let source = format!(
        "const DATA: u64 = {:#x};\nconst WRITTEN_BEFORE_DATA: &[Range<u64>] = &{:#x?};\n",
        layout.data, layout.written
    );
    let out = env::var("OUT_DIR").expect("cargo tells build scripts where to write");
    fs::write(Path::new(&out).join("kernel_layout.rs"), source).expect("cargo made the directory");
}

/// Writes what src/writable_layer.rs includes.
fn write_writable_layer(path: &Path) {
    let file = fs::read(path).expect("the file was found before");
    let layer = WritableLayer::of(&file);
    let source = format!(
        "const LENGTH: u64 = {:#x};\nconst RUNS: &[(u64, Range<usize>)] = &{:#x?};\n",
        layer.length, layer.runs
    );
    let out = env::var("OUT_DIR").expect("cargo tells build scripts where to write");
    fs::write(Path::new(&out).join("writable_layer.rs"), source).expect("cargo made the directory");
}

/// What guest-images/build made, and the variables that tell the program's sources where it is.
const CARRIED: [(&str, &str); 5] = [
    ("CORACLE_KERNEL", "vmlinux"),
    ("CORACLE_KERNEL_PACKAGES", "kernel.packages"),
    ("CORACLE_INITRD", "initrd"),
    ("CORACLE_INITRD_PACKAGES", "initrd.packages"),
    ("CORACLE_WRITABLE_LAYER", "writable-layer"),
];

/// The names of a directory's files, in order and separated by blanks.
fn names_in(directory: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names.join(" ")
}
