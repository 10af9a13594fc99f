//! ELF kernels: the segments that go into guest memory and the entry that the notes or the header name.
//!
//! Every field is checked before it is used: the bytes of a program header's segment must be in the file, and its
//! addresses in guest memory above 1 MiB.

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PF_W,
    PT_INTERP, PT_LOAD, PT_NOTE,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::error::{Problem, memory_size};
use super::image::Source;
use super::{OTHER_FILE, OTHER_PROCESSOR, Protocol};
use crate::x86::layout;

/// Kernels have about five. A file with more than this is no kernel.
const PROGRAM_HEADER_MAX: u16 = 64;
/// Kernels have a few hundred bytes of notes.
const NOTES_MAX: u64 = 0x1_0000;
/// Position-independent executables. The crate's constants lack it.
const ET_DYN: u16 = 3;
/// From here up are the virtual addresses that kernels keep for themselves (canonical form, Intel SDM volume 1, 3.3.7.1).
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
/// Xen public interface, elfnote.h: the 32-bit physical entry point of a PVH guest.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN_NOTE_NAME: &[u8] = b"Xen\0";

/// A kernel whose segments are in guest memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) protocol: Protocol,
    pub(super) entry: GuestAddress,
    /// Start of the lowest segment.
    pub(super) start: GuestAddress,
    /// End of the highest segment, with the memory that the kernel expects zeroed.
    pub(super) end: GuestAddress,
    /// The entry of the 64-bit Linux boot protocol, if there is one.
    pub(super) linux64_entry: Option<GuestAddress>,
    /// Where the ELF file ends in what it was loaded from.
    pub(super) file_end: u64,
}

/// A checked PT_LOAD program header.
struct Segment {
    /// Where its bytes are in the file, and how many.
    offset: u64,
    file_size: u64,
    /// The guest memory that it takes.
    start: u64,
    end: u64,
    writable: bool,
}

/// Puts an ELF kernel into guest memory, which must still be zero where nothing was written.
pub(super) fn load(source: &mut impl Source, memory: &GuestMemoryMmap) -> Result<Loaded, Problem> {
    let length = source.length()?;
    let header = read_header(source, length)?;
    let program_headers = read_program_headers(source, &header, length)?;
    let segments = check_segments(&program_headers, memory, length)?;
    for segment in segments.iter().filter(|segment| segment.file_size > 0) {
        let &Segment {
            offset,
            file_size,
            start,
            ..
        } = segment;
        match segment.writable {
            true => source.load(offset, file_size, memory, GuestAddress(start))?,
            false => source.share(offset, file_size, memory, GuestAddress(start))?,
        }
    }

    let (protocol, entry) = match find_pvh_entry(source, &program_headers, &segments, memory, length)? {
        Some(entry) => (Protocol::Pvh, entry),
        None => (Protocol::Linux64, header.e_entry),
    };
    let is_loaded = |entry: u64| {
        segments
            .iter()
            .any(|segment| (segment.start..segment.end).contains(&entry))
    };
    if !is_loaded(entry) {
        return Err(stray_entry(protocol, entry, &program_headers));
    }
    let section_headers = u64::from(header.e_shnum) * u64::from(header.e_shentsize);
    let ends = program_headers
        .iter()
        .map(|header| header.p_offset.saturating_add(header.p_filesz));
    let file_end = ends.chain([header.e_shoff.saturating_add(section_headers)]).max();
    let start = segments.iter().map(|segment| segment.start).min();
    let end = segments.iter().map(|segment| segment.end).max();
    Ok(Loaded {
        protocol,
        entry: GuestAddress(entry),
        start: GuestAddress(start.unwrap_or(layout::HIGH_MEMORY)),
        end: GuestAddress(end.unwrap_or(layout::HIGH_MEMORY)),
        linux64_entry: is_loaded(header.e_entry).then_some(GuestAddress(header.e_entry)),
        file_end: file_end.unwrap_or(length),
    })
}

/// Says what an entry is that is in none of the segments as they are loaded.
fn stray_entry(protocol: Protocol, entry: u64, headers: &[Elf64_Phdr]) -> Problem {
    // A PVH entry is a guest address by definition.
    let loaded = headers
        .iter()
        .filter(|header| protocol == Protocol::Linux64 && header.p_type == PT_LOAD);
    let holder = loaded
        .filter(|header| header.p_vaddr != header.p_paddr)
        .find_map(|header| {
            let offset = entry.checked_sub(header.p_vaddr)?;
            (offset < header.p_memsz).then(|| header.p_paddr.wrapping_add(offset))
        });
    match holder {
        Some(address) => Problem::VirtualAddress {
            what: format!("its {protocol} is at {entry:#x} (guest address {address:#x})"),
        },
        None => Problem::Header(format!("its {protocol} {entry:#x} is in none of its segments")),
    }
}

fn read_header(source: &mut impl Source, length: u64) -> Result<Elf64_Ehdr, Problem> {
    let mut header = Elf64_Ehdr::default();
    let size = size_of::<Elf64_Ehdr>() as u64;
    if length < size {
        return Err(Problem::Truncated {
            part: "its ELF header",
            end: size,
            length,
        });
    }
    source.read(0, header.as_mut_slice())?;

    let refused = |found: String, hint| Err(Problem::NotAKernel { found, hint });
    let foreign = |found| refused(found, OTHER_PROCESSOR);
    // The machine's field is at the same place in 32-bit and 64-bit files.
    match (header.e_ident[EI_DATA], header.e_machine) {
        (ELFDATA2LSB, EM_X86_64) => (),
        (ELFDATA2LSB, machine) => return foreign(format!("an ELF file for {}", machine_name(machine))),
        (_, machine) => {
            return foreign(format!(
                "a big-endian ELF file for {}",
                machine_name(machine.swap_bytes())
            ));
        }
    }
    if header.e_ident[EI_CLASS] != ELFCLASS64 {
        return foreign("a 32-bit ELF file".to_string());
    }
    match header.e_type {
        ET_EXEC | ET_DYN => Ok(header),
        1 => refused("an ELF object file or kernel module".to_string(), OTHER_FILE),
        4 => refused("an ELF core dump".to_string(), OTHER_FILE),
        other => refused(format!("an ELF file of unknown type {other}"), OTHER_FILE),
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "32-bit x86",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        183 => "64-bit ARM (aarch64)",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("machine type {other}"),
    };
    name.to_string()
}

fn read_program_headers(
    source: &mut impl Source,
    header: &Elf64_Ehdr,
    length: u64,
) -> Result<Vec<Elf64_Phdr>, Problem> {
    if header.e_phentsize as usize != size_of::<Elf64_Phdr>() || header.e_phnum == 0 {
        return Err(Problem::Header("it has no program headers".to_string()));
    }
    if header.e_phnum > PROGRAM_HEADER_MAX {
        return Err(Problem::Header(format!(
            "{} program headers, a kernel has a few",
            header.e_phnum
        )));
    }
    let mut headers = vec![Elf64_Phdr::default(); header.e_phnum as usize];
    let size = size_of_val(headers.as_slice()) as u64;
    check_range(length, "its program header table", header.e_phoff, size)?;
    let mut offset = header.e_phoff;
    for header in &mut headers {
        source.read(offset, header.as_mut_slice())?;
        offset += size_of::<Elf64_Phdr>() as u64;
    }
    Ok(headers)
}

/// The segments to load, in the order that they have in the file.
fn check_segments(
    headers: &[Elf64_Phdr],
    memory: &GuestMemoryMmap,
    length: u64,
) -> Result<Vec<Segment>, Problem> {
    if headers.iter().any(|header| header.p_type == PT_INTERP) {
        let found = "a program (it asks for a dynamic loader)".to_string();
        return Err(Problem::NotAKernel {
            found,
            hint: OTHER_FILE,
        });
    }
    let loaded = || {
        headers
            .iter()
            .filter(|header| header.p_type == PT_LOAD && header.p_memsz > 0)
    };
    // Told to a person whose guest is too small for one of them: the memory that all of them need.
    let needs = loaded()
        .filter_map(|header| header.p_paddr.checked_add(header.p_memsz))
        .filter(|end| *end <= layout::MMIO_HOLE)
        .max()
        .unwrap_or(layout::HIGH_MEMORY);
    let mut segments = loaded()
        .map(|header| check_segment(header, memory, length, needs))
        .collect::<Result<Vec<_>, _>>()?;
    segments.sort_by_key(|segment| segment.offset);
    if segments.is_empty() {
        return Err(Problem::Header("it has no segment to load".to_string()));
    }
    Ok(segments)
}

fn check_segment(
    header: &Elf64_Phdr,
    memory: &GuestMemoryMmap,
    length: u64,
    needs: u64,
) -> Result<Segment, Problem> {
    let Elf64_Phdr {
        p_offset,
        p_filesz,
        p_memsz,
        p_paddr,
        p_flags,
        ..
    } = *header;
    if p_filesz > p_memsz {
        return Err(Problem::Header(format!(
            "a segment of {p_filesz:#x} bytes in the file and {p_memsz:#x} in memory"
        )));
    }
    if p_filesz > 0 {
        check_range(length, "one of its segments", p_offset, p_filesz)?;
    }
    if p_paddr < layout::HIGH_MEMORY {
        return Err(Problem::Header(format!(
            "a segment at {p_paddr:#x}, below 1 MiB where no kernel may be"
        )));
    }
    let end = p_paddr.checked_add(p_memsz);
    match end {
        Some(end) if memory.check_range(GuestAddress(p_paddr), p_memsz as usize) => Ok(Segment {
            offset: p_offset,
            file_size: p_filesz,
            start: p_paddr,
            end,
            writable: p_flags & PF_W != 0,
        }),
        Some(end) if end <= layout::MMIO_HOLE => Err(Problem::NoRoomForKernel {
            needs,
            has: memory_size(memory),
        }),
        Some(_) if p_paddr >= UPPER_HALF => Err(Problem::VirtualAddress {
            what: format!("a segment is to be loaded at {p_paddr:#x}"),
        }),
        _ => Err(Problem::Header(format!(
            "a segment of {p_memsz:#x} bytes at {p_paddr:#x}, where a guest has no memory"
        ))),
    }
}

fn check_range(length: u64, part: &'static str, offset: u64, size: u64) -> Result<(), Problem> {
    match offset.checked_add(size) {
        Some(end) if end <= length => Ok(()),
        Some(end) => Err(Problem::Truncated { part, end, length }),
        None => Err(Problem::Header(format!(
            "{part} of {size:#x} bytes at offset {offset:#x}"
        ))),
    }
}

/// The PVH entry, from the first note that names one. A kernel may have several note segments.
fn find_pvh_entry(
    source: &mut impl Source,
    headers: &[Elf64_Phdr],
    segments: &[Segment],
    memory: &GuestMemoryMmap,
    length: u64,
) -> Result<Option<u64>, Problem> {
    for header in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        let Elf64_Phdr {
            p_offset, p_filesz, ..
        } = *header;
        check_range(length, "its notes", p_offset, p_filesz)?;
        if p_filesz > NOTES_MAX {
            return Err(Problem::Header(format!(
                "{p_filesz:#x} bytes of notes, a kernel has a few hundred"
            )));
        }
        let mut notes = vec![0; p_filesz as usize];
        // Linux links its notes into a segment that is loaded. A packed kernel can be read only once, so such notes are
        // read from guest memory.
        let loaded = segments.iter().find(|segment| {
            segment.offset <= p_offset && p_offset + p_filesz <= segment.offset + segment.file_size
        });
        match loaded {
            Some(segment) => {
                let address = GuestAddress(segment.start + (p_offset - segment.offset));
                memory
                    .read_slice(&mut notes, address)
                    .map_err(Problem::GuestMemory)?;
            }
            None => source.read(p_offset, &mut notes)?,
        }
        if let Some(entry) = pvh_entry(&notes, header.p_align) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes: header, name and descriptor, each on a multiple of 4 bytes, or of 8 where the segment says so.
fn pvh_entry(mut notes: &[u8], alignment: u64) -> Option<u64> {
    let alignment = if alignment == 8 { 8 } else { 4 };
    loop {
        let (header, rest) = notes.split_at_checked(size_of::<Elf64_Nhdr>())?;
        let mut note = Elf64_Nhdr::default();
        note.as_mut_slice().copy_from_slice(header);
        let name_size = note.n_namesz as usize;
        let (name, rest) =
            rest.split_at_checked((header.len() + name_size).next_multiple_of(alignment) - header.len())?;
        let descriptor = rest.get(..note.n_descsz as usize)?;
        if note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && name.get(..name_size) == Some(XEN_NOTE_NAME) {
            // The ABI asks for 4 bytes and Linux writes 8, of which the upper 4 are zero.
            return descriptor
                .first_chunk()
                .map(|bytes| u32::from_le_bytes(*bytes).into());
        }
        notes = rest.get((note.n_descsz as usize).next_multiple_of(alignment)..)?;
    }
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod tests;
