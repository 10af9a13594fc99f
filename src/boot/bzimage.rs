//! bzImage: a setup header of the Linux x86 boot protocol, and a packed kernel that unpacks itself unless
//! Coracle does it first. Field names and section titles are those of the kernel's
//! Documentation/arch/x86/boot.rst.

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::error::{Problem, memory_size};
use super::image::{Image, Source};
use super::kaslr::KASLR_FLAG;
use super::unpack::{Compression, Unpacked};
use super::{Format, Kernel, Protocol, elf, kaslr};
use crate::x86::layout;

/// Where the setup header is in the file, and where the jump in it leads if its distance is zero. Where it leads, the
/// header's fields end.
const SETUP_HEADER: usize = 0x1f1;
const SETUP_HEADER_JUMP: usize = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS"
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Enough of the file for the largest possible setup header: the jump's distance is one byte.
pub(super) const HEADER_END: usize = SETUP_HEADER_JUMP + u8::MAX as usize;
const SECTOR: u64 = 512;
/// `payload_offset` and `payload_length` came with this version (Linux 2.6.26).
const VERSION_PAYLOAD: u16 = 0x0208;
/// `xloadflags` came with this version (Linux 3.8).
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// "64-bit boot protocol": the entry is at this offset from where the kernel is loaded.
const ENTRY_64: u64 = 0x200;

/// The setup header in a file's first bytes, if there is one. Fields that are newer than the kernel are zero.
pub(super) fn recognise(head: &[u8]) -> Option<setup_header> {
    let jump = usize::from(*head.get(SETUP_HEADER_JUMP - 1)?);
    let end = head
        .len()
        .min(SETUP_HEADER_JUMP + jump)
        .max(SETUP_HEADER_JUMP + 6);
    let fields = head.get(SETUP_HEADER..end)?;
    let mut header = setup_header::default();
    let size = fields.len().min(size_of::<setup_header>());
    header.as_mut_slice()[..size].copy_from_slice(&fields[..size]);
    (header.boot_flag == BOOT_FLAG && header.header == HEADER_MAGIC).then_some(header)
}

/// Puts the kernel into guest memory: unpacked when its packing is known, else as it is.
pub(super) fn load(
    image: &Image,
    mut header: setup_header,
    memory: &GuestMemoryMmap,
    random: Option<u64>,
) -> Result<Kernel, Problem> {
    let mut moved = None;
    header.loadflags &= !KASLR_FLAG;
    let file = File::check(image, &header)?;
    let payload = file.payload(image, &header)?;
    let (format, loaded) = match payload {
        Some((compression, start, end)) => {
            let mut kernel = Unpacked::new(image, compression, start, end, memory_size(memory))?;
            let mut loaded = elf::load(&mut kernel, memory)?;
            if let Some(random) = random {
                moved = kaslr::randomise(random, &mut kernel, memory, &mut loaded, &mut header)?;
            }
            kernel.finish()?;
            (Format::BzImageUnpacked { compression }, loaded)
        }
        None => (Format::BzImage, load_packed(image, &file, &header, memory)?),
    };
    Ok(Kernel {
        format,
        protocol: loaded.protocol,
        entry: loaded.entry,
        start: loaded.start,
        end: loaded.end,
        moved,
        setup_header: Some(header),
        command_line_limit: header.cmdline_size as usize,
    })
}

/// The protected-mode code's place in the file: "Loading The Rest of The Kernel".
struct File {
    code: u64,
    code_end: u64,
    length: u64,
}

impl File {
    fn check(image: &Image, header: &setup_header) -> Result<File, Problem> {
        let length = image.length()?;
        // The high byte of the short jump over the header is its distance.
        let header_end = SETUP_HEADER_JUMP as u64 + u64::from(header.jump >> 8);
        if header_end > length {
            let part = "its setup header";
            return Err(Problem::Truncated {
                part,
                end: header_end,
                length,
            });
        }
        let version = header.version;
        if version < VERSION_PAYLOAD || header.loadflags & LOADED_HIGH == 0 {
            return Err(Problem::NotAKernel {
                found: format!(
                    "a Linux kernel of boot protocol {}.{:02}",
                    version >> 8,
                    version & 0xff
                ),
                hint: " of Linux 3.8 or later",
            });
        }
        let sectors = match header.setup_sects {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let code = (sectors + 1) * SECTOR;
        // `syssize` is in paragraphs of 16 bytes, rounded up.
        let code_end = code + u64::from(header.syssize) * 16;
        if code_end > length + 15 {
            let part = "its protected-mode code";
            return Err(Problem::Truncated {
                part,
                end: code_end,
                length,
            });
        }
        Ok(File {
            code,
            code_end: code_end.min(length),
            length,
        })
    }

    /// The packed kernel's compression and place in the file, when it is one that Coracle knows.
    fn payload(
        &self,
        mut image: &Image,
        header: &setup_header,
    ) -> Result<Option<(Compression, u64, u64)>, Problem> {
        let start = self.code + u64::from(header.payload_offset);
        let end = start + u64::from(header.payload_length);
        if end > self.length {
            let part = "its packed kernel";
            return Err(Problem::Truncated {
                part,
                end,
                length: self.length,
            });
        }
        let mut magic = [0; 8];
        if end - start < magic.len() as u64 {
            return Ok(None);
        }
        image.read(start, &mut magic)?;
        Ok(Compression::recognise(&magic).map(|compression| (compression, start, end)))
    }
}

/// Loads the protected-mode code, which unpacks the kernel itself from its 64-bit entry.
///
/// It goes to its preferred address and nowhere else: a 64-bit kernel that is loaded lower moves itself up to
/// there before it unpacks, so a guest in which it does not fit there cannot boot it at all.
fn load_packed(
    mut image: &Image,
    file: &File,
    header: &setup_header,
    memory: &GuestMemoryMmap,
) -> Result<elf::Loaded, Problem> {
    if header.version < VERSION_XLOADFLAGS || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Problem::NotAKernel {
            found: "a Linux kernel without a 64-bit entry, packed in a way that Coracle cannot unpack"
                .to_string(),
            hint: " (build it for x86-64, packed with zstd, xz, LZ4 or gzip)",
        });
    }
    let start = header.pref_address;
    let size = file.code_end - file.code;
    if start < layout::HIGH_MEMORY || size <= ENTRY_64 {
        return Err(Problem::Header(format!(
            "{size:#x} bytes of code to be loaded at {start:#x}"
        )));
    }
    let needed = size.max(u64::from(header.init_size));
    match start.checked_add(needed) {
        Some(end) if memory.check_range(GuestAddress(start), needed as usize) => {
            image.load(file.code, size, memory, GuestAddress(start))?;
            let entry = GuestAddress(start + ENTRY_64);
            Ok(elf::Loaded {
                protocol: Protocol::Linux64,
                entry,
                start: GuestAddress(start),
                end: GuestAddress(end),
                linux64_entry: Some(entry),
                file_end: file.code_end,
            })
        }
        Some(needs) if needs <= layout::MMIO_HOLE => Err(Problem::NoRoomForKernel {
            needs,
            has: memory_size(memory),
        }),
        _ => Err(Problem::Header(format!(
            "it asks for {needed:#x} bytes at {start:#x}, where a guest has no memory"
        ))),
    }
}

#[cfg(test)]
#[path = "bzimage_test.rs"]
mod tests;
