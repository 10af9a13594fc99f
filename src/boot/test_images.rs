//! Small kernels for tests: ELF files and bzImages, built field by field.

use std::io::{Read, Write};

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::elf::{ELFDATA2LSB, EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::unpack::Compression;
use super::{Image, Kernel, Problem, load_kernel};

pub const MIB: u64 = 1 << 20;
/// Where the test kernel's code, and the data after it, belong in guest memory.
pub const CODE: u64 = 16 * MIB;
pub const DATA: u64 = 17 * MIB;
pub const DATA_MEMORY: u64 = 0x5000;
pub const PVH_ENTRY: u32 = CODE as u32 + 0x80;
/// Where the test kernel has its program header table, its code, its note and its data in the file.
pub const PROGRAM_HEADERS: usize = 64;
pub const CODE_OFFSET: usize = 0x1000;
pub const NOTE_OFFSET: usize = 0x1100;
pub const DATA_OFFSET: usize = 0x4000;

pub fn memory(size: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size as usize)]).unwrap()
}

pub fn built_in(bytes: &[u8]) -> Image {
    Image::BuiltIn {
        name: "test kernel",
        bytes: Box::leak(bytes.to_vec().into_boxed_slice()),
        file: None,
    }
}

/// An image in a real file, unlinked at once.
pub fn in_a_file(bytes: &[u8]) -> Image {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Image::File {
        path: "kernel-in-a-file".into(),
        file,
    }
}

pub fn load_bytes(bytes: &[u8], memory: &GuestMemoryMmap) -> Result<Kernel, Problem> {
    load_kernel(&in_a_file(bytes), memory, None).map_err(|error| error.problem)
}

/// What loading `bytes` says into a guest of 32 MiB.
pub fn refusal(bytes: &[u8]) -> String {
    load_bytes(bytes, &memory(32 * MIB)).unwrap_err().to_string()
}

/// Bytes that compress, to about half.
pub fn noise(length: u64) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = |_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 60) as u8
    };
    (0..length).map(&mut next).collect()
}

pub fn note(name: &[u8], note_type: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((descriptor.len() as u32).to_le_bytes());
    note.extend(note_type.to_le_bytes());
    for part in [name, descriptor] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

pub fn pvh_note() -> Vec<u8> {
    note(b"Xen\0", 18, &u64::from(PVH_ENTRY).to_le_bytes())
}

/// Code at 16 MiB with `notes` linked into it as Linux does, and data with a zeroed tail at 17 MiB.
pub fn elf_with_notes(notes: &[u8]) -> Vec<u8> {
    let header = Elf64_Ehdr {
        e_ident: [
            0x7f,
            b'E',
            b'L',
            b'F',
            2,
            ELFDATA2LSB,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ],
        e_type: ET_EXEC,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: CODE,
        e_phoff: PROGRAM_HEADERS as u64,
        e_ehsize: 64,
        e_phentsize: 56,
        e_phnum: 3,
        ..Default::default()
    };
    let segment = |p_type, p_offset: usize, p_paddr, p_filesz, p_memsz| Elf64_Phdr {
        p_type,
        p_offset: p_offset as u64,
        p_paddr,
        p_filesz,
        p_memsz,
        ..Default::default()
    };
    let notes_size = notes.len() as u64;
    let headers = [
        segment(PT_LOAD, CODE_OFFSET, CODE, 0x3000, 0x3000),
        segment(PT_LOAD, DATA_OFFSET, DATA, 0x2000, DATA_MEMORY),
        segment(PT_NOTE, NOTE_OFFSET, CODE + 0x100, notes_size, notes_size),
    ];
    let mut file = noise(0x6000);
    file[..64].copy_from_slice(header.as_slice());
    for (index, header) in headers.iter().enumerate() {
        let offset = PROGRAM_HEADERS + 56 * index;
        file[offset..offset + 56].copy_from_slice(header.as_slice());
    }
    file[NOTE_OFFSET..NOTE_OFFSET + notes.len()].copy_from_slice(notes);
    file
}

pub fn elf_pvh() -> Vec<u8> {
    elf_with_notes(&pvh_note())
}

pub fn elf_without_pvh() -> Vec<u8> {
    elf_with_notes(&note(b"GNU\0", 3, &[0xab; 20]))
}

/// Writes `value` over a field of an ELF or setup header.
pub fn patched<const N: usize>(mut file: Vec<u8>, offset: usize, value: [u8; N]) -> Vec<u8> {
    file[offset..offset + N].copy_from_slice(&value);
    file
}

/// Offset of program header field `field` of segment `index`.
pub fn program_header(index: usize, field: usize) -> usize {
    PROGRAM_HEADERS + 56 * index + field
}

pub fn assert_loaded(elf: &[u8], memory: &GuestMemoryMmap) {
    let read = |address, size: usize| {
        let mut bytes = vec![0; size];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };
    assert!(
        read(CODE, 0x3000) == elf[CODE_OFFSET..CODE_OFFSET + 0x3000],
        "code"
    );
    assert!(
        read(DATA, 0x2000) == elf[DATA_OFFSET..DATA_OFFSET + 0x2000],
        "data"
    );
    assert!(
        read(DATA + 0x2000, 0x3000).iter().all(|&byte| byte == 0),
        "zeroed tail"
    );
    assert!(
        read(0, MIB as usize).iter().all(|&byte| byte == 0),
        "memory below 1 MiB"
    );
}

/// Compresses as the kernel's build does, without the size at the end.
pub fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    match compression {
        Compression::Gzip => {
            flate2::read::GzEncoder::new(data, flate2::Compression::best())
                .read_to_end(&mut packed)
                .unwrap();
        }
        Compression::Bzip2 => {
            bzip2::read::BzEncoder::new(data, bzip2::Compression::best())
                .read_to_end(&mut packed)
                .unwrap();
        }
        Compression::Lzma => {
            let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(6).unwrap()).unwrap();
            liblzma::read::XzEncoder::new_stream(data, stream)
                .read_to_end(&mut packed)
                .unwrap();
        }
        Compression::Xz => {
            let mut filters = Filters::new();
            filters
                .x86()
                .lzma2(LzmaOptions::new_preset(6).unwrap().dict_size(32 << 20));
            let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
            liblzma::read::XzEncoder::new_stream(data, stream)
                .read_to_end(&mut packed)
                .unwrap();
        }
        Compression::Lz4 => {
            packed.extend(0x184c_2102u32.to_le_bytes());
            for block in data.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
        }
        Compression::Zstd => {
            packed = ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest);
        }
    }
    packed
}

pub const COMPRESSIONS: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];

/// Offset of the packed kernel in [`bzimage`], after four setup sectors and a little unpacking code.
pub const PAYLOAD: usize = 5 * 512 + 0x400;

/// The payload that the kernel's build makes of an ELF file: gzip has the size at its end already.
pub fn payload(compression: Compression, elf: &[u8]) -> Vec<u8> {
    let mut payload = compress(compression, elf);
    if compression != Compression::Gzip {
        payload.extend((elf.len() as u32).to_le_bytes());
    }
    payload
}

/// A bzImage of boot protocol 2.15 around a payload.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0x90; PAYLOAD];
    file.extend(payload);
    file.resize(file.len().next_multiple_of(16) + 0x200, 0xcc);
    let header = setup_header {
        setup_sects: 4,
        syssize: ((file.len() - 5 * 512) / 16) as u32,
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: LOADED_HIGH,
        root_flags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 1023,
        payload_offset: 0x400,
        payload_length: payload.len() as u32,
        pref_address: CODE,
        init_size: 0x80_0000,
        ..Default::default()
    };
    let bytes = header.as_slice();
    file[0x1f1..0x1f1 + bytes.len()].copy_from_slice(bytes);
    file
}
