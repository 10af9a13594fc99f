//! What a socket between guest and host costs: `make bench-vsock`.
//!
//! Bytes from host to guest and from guest to host, and a round trip of one byte, through the Unix socket of `--vsock` and through
//! QEMU microvm with vhost-vsock, which is in the host's kernel: with the same guest, whose program reads and writes as the host's
//! does. In the nested machine with its clock counting instructions, a virtual nanosecond each: those of the host's program, of its
//! kernel, of the virtual machine monitor and of the guest together.

use std::env;
use std::error::Error;

mod inside;
#[path = "../disk/nested.rs"]
mod nested;

use inside::{Results, TRANSFERS, Transfer};

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == inside::FLAG) {
        return inside::run();
    }
    nested::call("guest-images/need", &["qemu-system-x86"])?;
    nested::call("guest-images/build", &["load"])?;
    let mut files = vec![
        (nested::root().join("guest-images/out/load"), inside::LOAD),
        (
            "/usr/bin/qemu-system-x86_64".into(),
            "/usr/bin/qemu-system-x86_64",
        ),
    ];
    // What the machine type microvm loads at its start.
    for firmware in ["/usr/share/qemu/qboot.rom", "/usr/share/qemu/bios-microvm.bin"] {
        files.push((firmware.into(), firmware));
    }
    print(&nested::run(nested::AMD, &files, inside::FLAG)?);
    Ok(())
}

fn print(results: &Results) {
    println!(
        "virtual ns, which are instructions: all, those of the device's thread, those of the guest's processor with KVM; exits to the \
         program, all exits, and switches between threads of the host"
    );
    println!(
        "{:<37}{:<9}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}{:>8}",
        "", "", "all", "device", "guest", "exits", "KVM's", "switches", "ratio"
    );
    for transfer in TRANSFERS {
        let of = |is_coracle| {
            let mut rows = results.measured.iter();
            rows.find(|row| row.transfer == transfer && row.is_coracle == is_coracle)
        };
        let (Some(coracle), Some(vhost)) = (of(true), of(false)) else {
            continue;
        };
        for (row, what, name) in [
            (coracle, words(transfer), "coracle"),
            (vhost, String::new(), "vhost"),
        ] {
            print!("{what:<37}{name:<9}");
            print!("{:>10.0}{:>10.0}{:>10.0}", row.time, row.device, row.guest);
            print!("{:>9.2}{:>9.2}{:>9.2}", row.exits, row.kvm_exits, row.switches);
            match row.is_coracle {
                true => println!("{:>8.2}", coracle.time / vhost.time),
                false => println!(),
            }
        }
    }
    let alone = "a MiB between two programs of the host, through a Unix socket";
    println!("{alone}: {:.0}", results.host_alone);
}

fn words(transfer: Transfer) -> String {
    match transfer {
        Transfer::ToGuest(piece) => format!("a MiB to the guest, {} at a time", size(piece)),
        Transfer::ToHost => "a MiB to the host, 64 KiB at a time".into(),
        Transfer::RoundTrip => "a byte there and back".into(),
    }
}

fn size(bytes: usize) -> String {
    match bytes >> 10 {
        0 => format!("{bytes} bytes"),
        kib => format!("{kib} KiB"),
    }
}
