//! What of an inode is where.

use super::chunks::Chunks;
use super::format::{INODE_SIZE, SLOT};
use crate::layer::BLOCK;
use crate::tree::{Content, File, Inode, Tree};

pub struct Shape {
    /// Bytes of extended attributes behind the inode.
    pub xattr_size: u64,
    pub body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It has no data.
    None,
    /// All data are in the tar.
    InTar,
    /// All but the last bytes are in the tar. These are behind the inode.
    TailInline(u64),
    /// The data are in so many blocks of the metadata, and the last bytes behind the inode, if any.
    Own {
        blocks: u64,
        tail: u64,
    },
    Chunks(Chunks),
}

impl Shape {
    /// `size` is that of a directory.
    pub fn of(tree: &Tree, inode: &Inode, xattr_size: u64, size: u64) -> Self {
        // Behind the inode, the last bytes are in one block. Where it can be is a matter of multiples of a slot.
        let tail = |size: u64| {
            let tail = size % BLOCK;
            let is_free = (INODE_SIZE + xattr_size) % SLOT + tail <= BLOCK;
            (tail > 0 && is_free).then_some(tail)
        };
        let own = |size: u64| match tail(size) {
            Some(tail) => Body::Own {
                blocks: size / BLOCK,
                tail,
            },
            None => Body::Own {
                blocks: size.div_ceil(BLOCK),
                tail: 0,
            },
        };
        let body = match &inode.content {
            Content::Directory(_) => own(size),
            Content::Symlink(target) => own(tree.text(*target).len() as u64),
            Content::Device { .. } | Content::Fifo => Body::None,
            Content::File(File { size: 0, .. }) => Body::InTar,
            Content::File(file) => match tree.pieces(file) {
                Some(pieces) => Body::Chunks(Chunks::of(file, pieces)),
                None if file.has_clean_tail => Body::InTar,
                // Linux reads whole blocks, so a mapping of the last page would show what follows in the tar.
                None => match tail(file.size) {
                    Some(tail) => Body::TailInline(tail),
                    None => Body::Own {
                        blocks: file.size.div_ceil(BLOCK),
                        tail: 0,
                    },
                },
            },
        };
        Self { xattr_size, body }
    }

    /// Where the inode is, at the position or behind it.
    pub fn place(&self, position: u64) -> u64 {
        let position = position.next_multiple_of(SLOT);
        let tail = match self.body {
            Body::TailInline(tail) | Body::Own { tail, .. } => tail,
            _ => 0,
        };
        let left = BLOCK - (position + self.head()) % BLOCK;
        match tail <= left {
            true => position,
            false => position + left.next_multiple_of(SLOT),
        }
    }

    /// Bytes of the inode, its extended attributes, and what is inline.
    pub fn length(&self) -> u64 {
        let behind = match self.body {
            Body::TailInline(tail) | Body::Own { tail, .. } => tail,
            Body::Chunks(chunks) => chunks.count * size_of::<u32>() as u64,
            Body::None | Body::InTar => 0,
        };
        self.head() + behind
    }

    /// Blocks of the metadata with its data.
    pub fn blocks(&self) -> u64 {
        match self.body {
            Body::Own { blocks, .. } => blocks,
            Body::Chunks(chunks) => chunks.copied,
            Body::None | Body::InTar | Body::TailInline(_) => 0,
        }
    }

    fn head(&self) -> u64 {
        INODE_SIZE + self.xattr_size
    }
}
