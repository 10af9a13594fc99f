//! A guest's transfers and a machine's start: runs them in the nested machine, and prints what they took.

use std::error::Error;

use super::device;
use super::inside::{self, Measured, PATTERNS, Place, Results, Start};
use super::nested;

pub fn run() -> Result<(), Box<dyn Error>> {
    let results = measure_in_nested_machine()?;
    print_transfers(&results.transfers);
    print_starts(&results.starts);
    device::print(
        "in the nested machine, an instruction a nanosecond",
        &results.device,
    );
    Ok(())
}

fn measure_in_nested_machine() -> Result<Results, Box<dyn Error>> {
    need(&["qemu-system-x86", "e2fsprogs"])?;
    nested::call("guest-images/build", &["load"])?;
    let mut files = vec![
        (nested::root().join("guest-images/out/load"), inside::LOAD),
        (
            "/usr/bin/qemu-system-x86_64".into(),
            "/usr/bin/qemu-system-x86_64",
        ),
        ("/sbin/mke2fs".into(), "/sbin/mke2fs"),
    ];
    // What the machine type microvm loads at its start.
    for firmware in ["/usr/share/qemu/qboot.rom", "/usr/share/qemu/bios-microvm.bin"] {
        files.push((firmware.into(), firmware));
    }
    nested::run(nested::AMD, &files, inside::FLAG)
}

/// Installs packages that are missing.
pub fn need(packages: &[&str]) -> Result<(), Box<dyn Error>> {
    nested::call("guest-images/need", packages)
}

fn print_transfers(transfers: &[Measured]) {
    println!(
        "a transfer of a guest with one vCPU, in virtual ns; exits to the program, and all by KVM's count"
    );
    for place in [Place::Cached, Place::Device, Place::Direct] {
        let image = match place {
            Place::Cached => "image in memory (tmpfs)",
            Place::Device => "image on ext4 on a device in memory, through the page cache",
            Place::Direct => "the same image, O_DIRECT",
        };
        println!("\n{image}");
        println!(
            "{:<24}{:>12}{:>8}{:>8}{:>12}{:>8}{:>8}{:>12}{:>8}{:>8}  {:<32}{:>7}",
            "",
            "sync",
            "exits",
            "KVM's",
            "uring",
            "exits",
            "KVM's",
            "QEMU's best",
            "exits",
            "KVM's",
            "with",
            "ratio"
        );
        for pattern in PATTERNS {
            let of_pattern = || {
                transfers
                    .iter()
                    .filter(|row| row.place == place && row.pattern == pattern)
            };
            let engine = |name: &str| of_pattern().find(|row| row.is_coracle && row.settings == name);
            let qemu = of_pattern()
                .filter(|row| !row.is_coracle)
                .min_by(|one, other| one.time.total_cmp(&other.time));
            let (Some(sync), Some(uring), Some(qemu)) = (engine("sync"), engine("uring"), qemu) else {
                continue;
            };
            print!("{:<24}", words(pattern));
            for row in [sync, uring, qemu] {
                print!("{:>12.0}{:>8.3}{:>8.3}", row.time, row.exits, row.kvm_exits);
            }
            println!("  {:<32}{:>7.2}", qemu.settings, qemu.time / uring.time);
        }
    }
    println!("\nratio: QEMU's best to uring, which engine=auto takes");
}

fn words(pattern: &str) -> String {
    let parts: Vec<&str> = pattern.split(':').collect();
    match parts[..] {
        [kind, "4096", depth, _] => format!("{kind} 4 KiB, depth {depth}"),
        [kind, "1048576", depth, _] => format!("{kind} 1 MiB, depth {depth}"),
        _ => pattern.to_owned(),
    }
}

fn print_starts(starts: &[Start]) {
    let Some(none) = starts.first() else { return };
    println!("\na start, in virtual ms: to the first KVM_RUN, and to init's first line; what the disk added");
    for start in starts {
        let disk = if start.disk.is_empty() {
            "no disk"
        } else {
            &start.disk
        };
        println!(
            "{disk:<24}{:>10.3}{:>+10.3}{:>10.3}{:>+10.3}",
            start.first_kvm_run,
            start.first_kvm_run - none.first_kvm_run,
            start.init,
            start.init - none.init
        );
    }
}
