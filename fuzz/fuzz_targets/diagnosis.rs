//! Any end of a run after any console output: the explanation is short, and nothing in it acts on a terminal.
#![no_main]

use std::io;

use coracle::diagnosis::{Facts, InitrdWatch, exit_code, explain};
use coracle::machine::Outcome;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Lines of an explanation: what happened, the console's lines, the cause, the next step, a note.
const LINES: usize = 10;
/// Characters of a line, with what stands before the console's own.
const LINE: usize = 190;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    end: End,
    memory_mib: u64,
    has_initrd: bool,
    has_disk: bool,
    built_in: bool,
    command_line: String,
    /// Printed before the part of the output that is kept.
    early: Vec<Piece<'a>>,
    kept: Vec<Piece<'a>>,
}

#[derive(Arbitrary, Debug)]
enum End {
    PoweredOff,
    Reset,
    Halted,
    TripleFault(Option<u64>),
    InternalError(u32, Option<u64>, Vec<u8>),
    EntryFailed(u64),
    UnexpectedExit(u32),
    RunFailed(i32),
    Quit,
    Signal(u8),
    ConsoleLost(i32),
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        match end {
            End::PoweredOff => Self::PoweredOff,
            End::Reset => Self::Reset,
            End::Halted => Self::Halted,
            End::TripleFault(instruction_pointer) => Self::TripleFault { instruction_pointer },
            End::InternalError(suberror, instruction_pointer, instruction) => Self::InternalError {
                suberror,
                instruction_pointer,
                instruction,
            },
            End::EntryFailed(reason) => Self::EntryFailed { reason },
            End::UnexpectedExit(reason) => Self::UnexpectedExit { reason },
            End::RunFailed(number) => Self::RunFailed(io::Error::from_raw_os_error(number)),
            End::Quit => Self::Quit,
            End::Signal(number) => Self::Signal(i32::from(number % 64) + 1),
            End::ConsoleLost(number) => Self::ConsoleLost(io::Error::from_raw_os_error(number)),
        }
    }
}

/// Of the console's output: what Linux prints when it fails, or anything.
#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Known(u8),
    Bytes(&'a [u8]),
}

const KNOWN: &[&str] = &[
    "\r\n",
    "[    0.100000] ",
    "\x1b[2J\x1b]0;title\x07\u{9b}31m",
    "Kernel panic - not syncing: ",
    "VFS: Unable to mount root fs on unknown-block(0,0)",
    "VFS: Cannot open root device \"vda\" or unknown-block(254,0): error -30",
    "No filesystem could mount root, tried: ",
    "Attempted to kill init! exitcode=0x00000009",
    "No working init found.",
    "Out of memory and no killable processes...",
    "---[ end Kernel panic - not syncing: ",
    " ]---",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "general protection fault, probably for non-canonical address",
    "RIP: 0010:start_kernel+0x10/0x20",
    "CPU: 0 PID: 1 Comm: swapper/0",
    "Initramfs unpacking failed: ",
    "rootfs image is not initramfs (",
    "write error",
    "); looks like an initrd",
    "coracle-init: there is no root device /dev/vda; there is no disk at all",
    "List of all partitions:",
    "fe00 65536 vda driver: virtio_blk",
    "reboot: System halted",
    "reboot: Restarting system",
];

fn printed(pieces: &[Piece]) -> Vec<u8> {
    let bytes = pieces.iter().map(|piece| match piece {
        Piece::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()].as_bytes(),
        Piece::Bytes(bytes) => bytes,
    });
    bytes.flatten().copied().collect()
}

fuzz_target!(|input: Input| {
    let console = printed(&input.kept);
    let watch = InitrdWatch::default();
    for byte in printed(&input.early).iter().chain(&console) {
        watch.look(*byte);
    }
    let facts = Facts {
        memory_mib: input.memory_mib,
        has_initrd: input.has_initrd,
        has_disk: input.has_disk,
        built_in: input.built_in,
        command_line: input.command_line,
        kernel_moved: input.memory_mib << 20,
        initrd_failure: watch.reason(),
    };
    let diagnosis = explain(&input.end.into(), &console, &facts);
    let code = diagnosis.exit_code;
    assert!(
        code > 128 || exit_code::TABLE.iter().any(|(listed, _)| *listed == code),
        "{code}"
    );
    let text = diagnosis
        .explanation
        .map(|explanation| explanation.to_string())
        .unwrap_or_default();
    assert!(text.lines().count() <= LINES, "{text}");
    for line in text.split('\n') {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.chars().count() < LINE, "{line:?}");
    }
});
