//! Loads what a guest boots from into guest memory: recognises, unpacks and loads the kernel, and puts the initrd and the
//! command line beside it.

/// bzImage kernels.
mod bzimage;
/// Builds and checks the kernel command line.
pub mod command_line;
/// ELF kernels.
mod elf;
/// What can be wrong with a file.
mod error;
/// Files, and built-in images that read like files.
mod image;
/// Places the initrd.
mod initrd;
/// Moves a kernel to a random virtual address.
mod kaslr;
/// The LZ4 frame that kernels are packed with.
mod lz4;
/// Maps a file's pages as guest memory.
mod map;
/// A command line as the kernel reads it.
pub mod parameters;
/// Kernel parameters with which a guest would not work.
mod refused;
/// Unpacks what a bzImage carries.
mod unpack;

use std::fmt;

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3};
use vm_memory::{GuestAddress, GuestMemoryMmap};

pub use command_line::CommandLine;
pub use error::{Error, Problem};
pub use image::Image;
pub use initrd::{Initrd, load_initrd};
pub use map::StableFile;
pub use unpack::Compression;

use image::Source;

/// `COMMAND_LINE_SIZE` of x86 Linux is 2048 with the NUL; an ELF file does not say otherwise.
const ELF_COMMAND_LINE_LIMIT: usize = 2047;

/// What a kernel file was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Elf,
    /// A bzImage whose kernel Coracle unpacked: it boots like [`Format::Elf`].
    BzImageUnpacked {
        compression: Compression,
    },
    /// A bzImage that unpacks itself in the guest.
    BzImage,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Elf => f.write_str("ELF"),
            Format::BzImageUnpacked { compression } => {
                write!(f, "bzImage, unpacked by Coracle ({compression})")
            }
            Format::BzImage => f.write_str("bzImage, unpacks itself in the guest"),
        }
    }
}

/// How a kernel wants to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen PVH: 32-bit protected mode without paging, `hvm_start_info` in EBX.
    Pvh,
    /// Linux x86 boot protocol, 64-bit: long mode with paging, zero page in RSI.
    Linux64,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Pvh => "PVH entry",
            Protocol::Linux64 => "64-bit Linux entry",
        })
    }
}

/// A kernel in guest memory.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub format: Format,
    pub protocol: Protocol,
    pub entry: GuestAddress,
    /// First byte of the kernel.
    pub start: GuestAddress,
    /// First byte after all that the kernel needs until it knows its memory.
    pub end: GuestAddress,
    /// How far its virtual addresses were moved up, if it was built for that and was to be.
    pub moved: Option<u64>,
    /// For every kernel that came out of a bzImage.
    pub setup_header: Option<setup_header>,
    /// Bytes of command line that the kernel takes, without the NUL.
    pub command_line_limit: usize,
}

/// Puts a kernel into guest memory, which must still be zero everywhere: the parts that the kernel expects to be zero are
/// not written.
///
/// The format is recognised by content. Nothing below 1 MiB is touched. After an error guest memory may hold
/// a part of the kernel. A kernel that was built for it is moved by a distance that `random` decides, if there is such a number.
pub fn load_kernel(image: &Image, memory: &GuestMemoryMmap, random: Option<u64>) -> Result<Kernel, Error> {
    load(image, memory, random).map_err(|problem| image.error(problem))
}

fn load(mut image: &Image, memory: &GuestMemoryMmap, random: Option<u64>) -> Result<Kernel, Problem> {
    let length = image.length()?.min(bzimage::HEADER_END as u64);
    let mut head = [0; bzimage::HEADER_END];
    let head = &mut head[..length as usize];
    image.read(0, head)?;

    if head.starts_with(&[ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3]) {
        let loaded = elf::load(&mut image, memory)?;
        return Ok(Kernel {
            format: Format::Elf,
            protocol: loaded.protocol,
            entry: loaded.entry,
            start: loaded.start,
            end: loaded.end,
            moved: None,
            setup_header: None,
            command_line_limit: ELF_COMMAND_LINE_LIMIT,
        });
    }
    match bzimage::recognise(head) {
        Some(header) => bzimage::load(image, header, memory, random),
        None => Err(describe_foreign(head)),
    }
}

/// The next step after a file that is a kernel for another kind of processor.
const OTHER_PROCESSOR: &str = " (take one that is built for x86-64)";
/// The next step after a file that has nothing to do with kernels.
const OTHER_FILE: &str = " (check the path; a distribution keeps its kernel in /boot/vmlinuz-VERSION)";

/// Describes a file that is no kernel for this machine, by its first bytes.
fn describe_foreign(head: &[u8]) -> Problem {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let (found, hint) = if let Some(compression) = Compression::recognise(head) {
        return Problem::NotAKernel {
            found: format!("a file compressed with {compression}"),
            hint: " (unpack it first; if it is an initrd, give it with --initrd)",
        };
    } else if at(56, b"ARM\x64") {
        ("a Linux kernel for 64-bit ARM (aarch64)", OTHER_PROCESSOR)
    } else if at(56, b"RSC\x05") {
        ("a Linux kernel for RISC-V", OTHER_PROCESSOR)
    } else if at(0, b"MZ") && at(4, b"zimg") {
        (
            "a compressed EFI kernel (zboot), which x86-64 does not use",
            OTHER_PROCESSOR,
        )
    } else if at(0, b"MZ") {
        (
            "an EFI program",
            " (out of a unified kernel image: objcopy -O binary -j .linux)",
        )
    } else if at(0, b"\x27\x05\x19\x56") {
        (
            "a U-Boot image",
            " (take the vmlinux or the bzImage that is packed in it)",
        )
    } else if at(0, b"07070") {
        ("a cpio archive", " (give an initrd with --initrd)")
    } else if at(0, b"QFI\xfb") || at(0x1fe, &[0x55, 0xaa]) {
        ("a disk image", " (give a disk with --disk)")
    } else if at(0, b"#!") {
        ("a script", OTHER_FILE)
    } else {
        let first = &head[..head.len().min(8)];
        return Problem::NotAKernel {
            found: format!("data starting with bytes {first:02x?}"),
            hint: OTHER_FILE,
        };
    };
    Problem::NotAKernel {
        found: found.to_string(),
        hint,
    }
}

#[cfg(test)]
mod test_images;
#[cfg(test)]
#[path = "mod_test.rs"]
mod tests;
