//! Runs in a guest as its first program, in init's place, and takes as much of the memory as the command line says before
//! anything else happens.
//!
//! `memory.percent=N` is how many percent of MemTotal. It writes a number of its own to each page, reads them all again,
//! prints `memory: N KiB of M KiB kept what was written`, and goes on as init.

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount, umount};

const PAGE: usize = 4096;
const PARAMETER: &str = "memory.percent=";

fn main() -> ExitCode {
    match take() {
        Ok(text) => println!("{text}"),
        Err(why) => println!("memory: {why}"),
    }
    let why = Command::new("/init").args(env::args_os().skip(1)).exec();
    println!("memory: /init cannot be executed: {why}");
    ExitCode::FAILURE
}

fn take() -> Result<String, Box<dyn Error>> {
    // The initrd has no such directory yet.
    fs::create_dir("/proc")?;
    mount(
        None::<&str>,
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let [command_line, sizes] = ["/proc/cmdline", "/proc/meminfo"].map(fs::read_to_string);
    umount("/proc")?;
    let command_line = command_line?;
    let percent = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(PARAMETER));
    let percent: usize = percent.ok_or("no memory.percent=")?.parse()?;
    let sizes = sizes?;
    let total = sizes
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    let total: usize = total.ok_or("no MemTotal")?.trim().parse()?;

    let kib = total * percent / 100;
    let mut memory = vec![0_u8; kib * 1024];
    for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&number.to_le_bytes());
    }
    let memory = black_box(memory);
    for (number, page) in memory.chunks_exact(PAGE).enumerate() {
        if page[..8] != number.to_le_bytes() {
            return Err(format!("page {number} has {:x?}", &page[..8]).into());
        }
    }
    Ok(format!("memory: {kib} KiB of {total} KiB kept what was written"))
}
