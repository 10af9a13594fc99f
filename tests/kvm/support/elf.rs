//! A guest as a kernel file: an ELF executable of a segment or two.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use tempfile::NamedTempFile;

/// Where a guest's code is.
pub const CODE: u64 = 0x10_0000;
/// Where its data is.
pub const DATA: u64 = 0x30_0000;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Offset of the first segment in the file.
const CONTENTS: usize = 0x1000;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Xen public interface, elfnote.h.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// A guest: code, and data that the host prepared.
pub struct Guest {
    code: &'static [u8],
    data: Vec<u8>,
}

/// A kernel file, removed when nobody holds it any more.
#[derive(Clone)]
pub struct Kernel(Arc<NamedTempFile>);

impl Guest {
    pub fn new(code: &'static [u8]) -> Self {
        Self {
            code,
            data: Vec::new(),
        }
    }

    /// Puts `data` at [`DATA`].
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    /// A kernel without a note: entered in long mode, as the 64-bit Linux boot protocol says.
    pub fn linux64(&self) -> Kernel {
        Kernel::new(&self.elf(&[]))
    }

    /// A kernel with a PVH note: entered in 32-bit protected mode.
    pub fn pvh(&self) -> Kernel {
        let mut note = Vec::new();
        for word in [
            4,
            4,
            XEN_ELFNOTE_PHYS32_ENTRY,
            u32::from_le_bytes(*b"Xen\0"),
            CODE as u32,
        ] {
            note.extend(word.to_le_bytes());
        }
        Kernel::new(&self.elf(&note))
    }

    fn elf(&self, note: &[u8]) -> Vec<u8> {
        let segments: Vec<_> = [
            (PT_LOAD, CODE, self.code),
            (PT_LOAD, DATA, &self.data),
            (PT_NOTE, 0, note),
        ]
        .into_iter()
        .filter(|(_, _, bytes)| !bytes.is_empty())
        .collect();

        let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // Executable, x86-64, version 1.
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for address in [CODE, HEADER_SIZE as u64, 0] {
            file.extend(address.to_le_bytes());
        }
        file.extend([0; 4]);
        for half in [HEADER_SIZE, PROGRAM_HEADER_SIZE, segments.len(), 0, 0, 0] {
            file.extend((half as u16).to_le_bytes());
        }
        let mut offset = CONTENTS as u64;
        for (kind, address, bytes) in &segments {
            let (size, flags) = (bytes.len() as u64, 7);
            file.extend(kind.to_le_bytes());
            file.extend(u32::to_le_bytes(flags));
            for field in [offset, *address, *address, size, size, 0x1000] {
                file.extend(field.to_le_bytes());
            }
            offset += size;
        }
        file.resize(CONTENTS, 0);
        for (_, _, bytes) in segments {
            file.extend(bytes);
        }
        file
    }
}

impl Kernel {
    /// Any bytes as a file.
    pub fn new(bytes: &[u8]) -> Self {
        let mut file = NamedTempFile::new().expect("a temporary file can be made");
        file.write_all(bytes).expect("a temporary file can be written");
        Self(Arc::new(file))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("the file can be read")
    }
}
