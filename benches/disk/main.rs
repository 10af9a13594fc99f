//! What a disk costs: `make bench-disk`, or `cargo bench --bench disk -- [guest] [device] [host]` for parts of it.
//!
//! - `guest`: a transfer of a guest's, beside QEMU microvm with the same guest and image, and what attaching a disk adds
//!   to the start of a machine. In the nested machine with its clock counting instructions, a virtual nanosecond each.
//! - `device`: a request from its notification to its completion, without the system calls that move the data.
//! - `host`: the engines without a guest, beside fio on the same file.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process;

mod device;
mod driver;
mod guest;
mod host;
mod inside;
mod nested;
mod offsets;

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == inside::FLAG) {
        return inside::run();
    }
    // Cargo passes --bench.
    let named: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if wanted("guest") {
        guest::run()?;
    }
    let image = Image(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{}", process::id())));
    if wanted("device") || wanted("host") {
        host::make_image(&image.0)?;
    }
    if wanted("device") {
        device::print("on this host", &device::measure(&image.0)?);
    }
    if wanted("host") {
        guest::need(&["fio"])?;
        host::run(&image.0)?;
    }
    Ok(())
}

/// A file that is removed when this is dropped.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        // The file may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}
