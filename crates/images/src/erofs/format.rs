//! Structures on the disk, by the names of Linux's `fs/erofs/erofs_fs.h`. All numbers are little endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::layer::{BLOCK, Time};

pub const BLOCK_BITS: u8 = 9;
pub const SUPER_OFFSET: u64 = 1024;
/// The checksum is of a block, and what follows may be used.
pub const SUPER_END: u64 = SUPER_OFFSET + BLOCK;
const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
const FEATURE_COMPAT_SB_CHKSUM: u32 = 1;
const FEATURE_COMPAT_MTIME: u32 = 2;
const FEATURE_INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Whether a file has a superblock where a file system has it. A file that is empty or was exchanged has none.
pub fn begins(file: &File) -> bool {
    let mut magic = [0; size_of::<u32>()];
    file.read_exact_at(&mut magic, SUPER_OFFSET).is_ok() && magic == SUPER_MAGIC.to_le_bytes()
}

/// Inodes are at multiples of that, by which they are numbered.
pub const SLOT: u64 = 32;
pub const INODE_SIZE: u64 = 64;
const INODE_LAYOUT_EXTENDED: u16 = 1;
const DATALAYOUT_BIT: u32 = 1;

pub const XATTR_HEADER_SIZE: u64 = 12;

pub const DIRENT_SIZE: usize = 12;

/// A chunk that is a hole.
pub const NULL_ADDR: u32 = u32::MAX;
/// Blocks of a chunk, as a power of two, that the format has room for.
pub const CHUNK_BITS_MAX: u32 = 31;

/// Where the data of an inode are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLayout {
    /// From this block on.
    FlatPlain(u32),
    /// From this block on, but the last one is behind the inode.
    FlatInline(u32),
    /// The addresses of chunks are behind the inode. Each has so many blocks, as a power of two.
    ChunkBased(u32),
    /// None: the number of a device.
    Device(u32),
}

pub struct Inode {
    pub layout: DataLayout,
    /// Of the extended attributes behind it.
    pub xattr_size: u64,
    /// With the type.
    pub mode: u16,
    pub size: u64,
    /// Only for programs with numbers of 32 bits.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub links: u32,
}

impl Inode {
    /// `erofs_inode_extended`: the compact form has no time of its own.
    pub fn bytes(&self) -> [u8; INODE_SIZE as usize] {
        let (layout, union) = match self.layout {
            DataLayout::FlatPlain(block) => (0, block),
            DataLayout::FlatInline(block) => (2, block),
            DataLayout::ChunkBased(bits) => (4, bits),
            DataLayout::Device(number) => (0, number),
        };
        let format: u16 = INODE_LAYOUT_EXTENDED | layout << DATALAYOUT_BIT;
        // The header counts as one, and all else in units of four bytes. An index has no more of them than fit.
        let xattr_count = match self.xattr_size {
            0 => 0,
            size => ((size - XATTR_HEADER_SIZE) / 4 + 1) as u16,
        };
        let mut bytes = [0; INODE_SIZE as usize];
        let mut put = Fields(&mut bytes);
        put.at(0, &format.to_le_bytes());
        put.at(2, &xattr_count.to_le_bytes());
        put.at(4, &self.mode.to_le_bytes());
        put.at(8, &self.size.to_le_bytes());
        put.at(16, &union.to_le_bytes());
        put.at(20, &self.number.to_le_bytes());
        put.at(24, &self.uid.to_le_bytes());
        put.at(28, &self.gid.to_le_bytes());
        put.at(32, &self.modified.seconds.to_le_bytes());
        put.at(40, &self.modified.nanoseconds.to_le_bytes());
        put.at(44, &self.links.to_le_bytes());
        bytes
    }
}

pub struct Superblock {
    pub root: u16,
    pub inodes: u64,
    /// Of the whole disk.
    pub blocks: u32,
    /// Where the shared extended attributes begin.
    pub xattr_block: u32,
    pub has_chunks: bool,
    pub uuid: [u8; 16],
}

impl Superblock {
    /// `erofs_super_block`, and zeros up to the end of its block.
    pub fn bytes(&self) -> [u8; BLOCK as usize] {
        let features = match self.has_chunks {
            true => FEATURE_INCOMPAT_CHUNKED_FILE,
            false => 0,
        };
        let mut bytes = [0; BLOCK as usize];
        let mut put = Fields(&mut bytes);
        put.at(0, &SUPER_MAGIC.to_le_bytes());
        put.at(
            8,
            &(FEATURE_COMPAT_SB_CHKSUM | FEATURE_COMPAT_MTIME).to_le_bytes(),
        );
        put.at(12, &[BLOCK_BITS]);
        put.at(14, &self.root.to_le_bytes());
        put.at(16, &self.inodes.to_le_bytes());
        put.at(36, &self.blocks.to_le_bytes());
        put.at(44, &self.xattr_block.to_le_bytes());
        put.at(48, &self.uuid);
        put.at(80, &features.to_le_bytes());
        let checksum = crc32c(&bytes);
        Fields(&mut bytes).at(4, &checksum.to_le_bytes());
        bytes
    }
}

struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn at(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// CRC-32C (RFC 3720, B.4), without the complement at the end, as Linux has it. One block in an image needs it.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let mask = 0u32.wrapping_sub(crc & 1);
            crc >> 1 ^ POLYNOMIAL & mask
        })
    })
}
