//! Writes the metadata.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::directory::{self, Dirent};
use super::format::{self, DataLayout, SUPER_OFFSET, Superblock};
use super::layout::{Directory, Layout, Name};
use super::shape::{Body, Shape};
use super::sink::Sink;
use super::xattrs::Shared;
use crate::layer::{ALIGNMENT, BLOCK, refused};
use crate::tree::{Content, File, Inode, InodeId, ROOT, Tree};

const COPY_BUFFER: usize = 64 << 10;

/// What the disk of a root file system is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes of metadata, after which the tars follow. A multiple of [`ALIGNMENT`].
    pub metadata: u64,
    /// Of all together.
    pub size: u64,
}

/// Writes the metadata of a tree to an empty file. The tars are those of its layers, in the same order. Two file systems
/// should not have the same `uuid`.
pub fn write<R: Read + Seek>(
    tree: &Tree,
    tars: &mut [R],
    uuid: [u8; 16],
    out: impl Write + Seek,
) -> io::Result<Disk> {
    if tars.len() != tree.layers() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not each layer of an image has its tar",
        ));
    }
    let shared = Shared::of(tree);
    let layout = Layout::of(tree, &shared)?;
    let data = layout.behind(shared.size);
    let end = data.saturating_add(layout.blocks.saturating_mul(BLOCK));
    let too_large = || refused("the metadata and the layers of an image have at most 2 TiB together");
    let metadata = end.checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large)?;
    let mut starts = Vec::new();
    let mut size = metadata;
    for tar in &mut *tars {
        starts.push(size);
        let length = tar.seek(SeekFrom::End(0))?.checked_next_multiple_of(ALIGNMENT);
        size = length
            .and_then(|length| size.checked_add(length))
            .ok_or_else(too_large)?;
    }
    let superblock = Superblock {
        root: layout.slot(tree.inode_of(ROOT)) as u16,
        inodes: layout.order.len() as u64,
        blocks: u32::try_from(size / BLOCK).map_err(|_| too_large())?,
        xattr_block: (layout.behind(0) / BLOCK) as u32,
        has_chunks: layout.has_chunks,
        uuid,
    };
    let mut writer = Writer {
        tree,
        shared: &shared,
        layout: &layout,
        tars,
        starts,
        next_block: data / BLOCK,
        sink: Sink::new(out),
    };
    writer.sink.pad_to(SUPER_OFFSET)?;
    writer.sink.put(&superblock.bytes())?;
    writer.each(Writer::inode)?;
    writer.sink.pad_to(layout.behind(0))?;
    writer.sink.put(&shared.bytes())?;
    writer.sink.pad_to(data)?;
    writer.each(Writer::data)?;
    writer.sink.pad_to(metadata)?;
    writer.sink.finish()?;
    Ok(Disk { metadata, size })
}

struct Writer<'a, R, W: Write> {
    tree: &'a Tree,
    shared: &'a Shared<'a>,
    layout: &'a Layout,
    tars: &'a mut [R],
    /// Where the tars begin on the disk.
    starts: Vec<u64>,
    /// The next block of data of the metadata.
    next_block: u64,
    sink: Sink<W>,
}

/// An inode that is to be written.
struct Item<'a> {
    id: InodeId,
    inode: &'a Inode,
    /// If it is one.
    directory: Option<&'a Directory>,
    shape: Shape,
}

impl<R: Read + Seek, W: Write + Seek> Writer<'_, R, W> {
    fn each(&mut self, mut write: impl FnMut(&mut Self, &Item<'_>) -> io::Result<()>) -> io::Result<()> {
        let (tree, layout) = (self.tree, self.layout);
        let mut directories = layout.directories.iter();
        for id in &layout.order {
            let inode = tree.inode(*id);
            let directory = match inode.content {
                Content::Directory(_) => directories.next(),
                _ => None,
            };
            let size = directory.map_or(0, |directory| directory.size);
            let shape = Shape::of(tree, inode, self.shared.size_of(inode.xattrs), size);
            let item = Item {
                id: *id,
                inode,
                directory,
                shape,
            };
            write(self, &item)?;
        }
        Ok(())
    }

    /// Writes an inode and what is behind it.
    fn inode(&mut self, item: &Item<'_>) -> io::Result<()> {
        let Item { inode, shape, .. } = item;
        let position = self.layout.position(item.id);
        let slot = self.layout.slot(item.id);
        let own = self.next_block;
        self.next_block += shape.blocks();
        let in_tar = match &inode.content {
            Content::File(file) => self.in_tar(file),
            _ => 0,
        };
        self.sink.pad_to(position)?;
        let layout = match (shape.body, &inode.content) {
            (Body::None, content) => DataLayout::Device(device(content)),
            (Body::InTar, _) => DataLayout::FlatPlain(block(in_tar)),
            (Body::TailInline(_), _) => DataLayout::FlatInline(block(in_tar)),
            (Body::Own { tail: 0, .. }, _) => DataLayout::FlatPlain(own as u32),
            (Body::Own { .. }, _) => DataLayout::FlatInline(own as u32),
            (Body::Chunks(chunks), _) => DataLayout::ChunkBased(chunks.bits),
        };
        let inode_bytes = format::Inode {
            layout,
            xattr_size: shape.xattr_size,
            mode: inode.mode | kind(&inode.content).1,
            size: self.size(item),
            number: slot,
            uid: inode.uid,
            gid: inode.gid,
            modified: inode.modified,
            links: item.directory.map_or(inode.links, |directory| directory.links),
        };
        self.sink.put(&inode_bytes.bytes())?;
        self.sink.put(&self.shared.bytes_of(inode.xattrs))?;
        match (shape.body, &inode.content) {
            (Body::TailInline(tail), Content::File(file)) => self.copy(file, file.size - tail, tail),
            (Body::Own { tail: 1.., blocks }, Content::Symlink(target)) => {
                let target = self.tree.text(*target);
                self.sink.put(&target[(blocks * BLOCK) as usize..])
            }
            (Body::Own { tail: 1.., .. }, Content::Directory(_)) => self.names(item, true),
            (Body::Chunks(chunks), Content::File(file)) => {
                let first = match chunks.is_copied() {
                    true => own,
                    false => in_tar / BLOCK,
                };
                let pieces = self.tree.pieces(file).unwrap_or_default();
                chunks.addresses(pieces, first, |address| self.sink.put(&address.to_le_bytes()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the blocks that an inode has in the metadata.
    fn data(&mut self, item: &Item<'_>) -> io::Result<()> {
        if item.shape.blocks() == 0 {
            return Ok(());
        }
        let start = self.sink.position;
        match (item.shape.body, &item.inode.content) {
            (Body::Own { blocks, .. }, Content::Symlink(target)) => {
                let target = self.tree.text(*target);
                self.sink
                    .put(&target[..target.len().min((blocks * BLOCK) as usize)])?;
            }
            (Body::Own { .. }, Content::Directory(_)) => self.names(item, false)?,
            (Body::Own { .. }, Content::File(file)) => self.copy(file, 0, file.size)?,
            (Body::Chunks(chunks), Content::File(file)) => {
                let pieces = self.tree.pieces(file).unwrap_or_default();
                let mut from = 0;
                for (piece, place) in pieces.iter().zip(chunks.places(pieces)) {
                    self.sink.pad_to(start + place)?;
                    self.copy(file, from, piece.length)?;
                    from += piece.length;
                }
            }
            _ => {}
        }
        self.sink.pad_to(start + item.shape.blocks() * BLOCK)
    }

    /// Writes the last block of a directory, or those before it and also the last one if it is not inline.
    fn names(&mut self, item: &Item<'_>, is_last: bool) -> io::Result<()> {
        let Some(directory) = item.directory else {
            return Ok(());
        };
        let all = directory.names.clone();
        let is_inline = matches!(item.shape.body, Body::Own { tail: 1.., .. });
        let range = match (is_last, is_inline) {
            (true, _) => directory.last..all.end,
            (false, true) => all.start..directory.last,
            (false, false) => all,
        };
        let (tree, layout) = (self.tree, self.layout);
        let entries = layout.names[range].iter().map(|name| {
            let node = match name {
                Name::Itself => directory.node,
                Name::Parent => tree.parent(directory.node),
                Name::Child(node) => *node,
            };
            let inode = tree.inode_of(node);
            Dirent {
                name: name.text(tree),
                number: layout.slot(inode).into(),
                kind: kind(&tree.inode(inode).content).0,
            }
        });
        let start = self.sink.position;
        let mut count = 0;
        directory::blocks(entries, |block| {
            self.sink.pad_to(start + count * BLOCK)?;
            count += 1;
            self.sink.put(block)
        })
    }

    /// Copies data out of a tar.
    fn copy(&mut self, file: &File, from: u64, mut length: u64) -> io::Result<()> {
        let tar = &mut self.tars[usize::from(file.layer)];
        tar.seek(SeekFrom::Start(file.offset + from))?;
        let mut buffer = vec![0; COPY_BUFFER.min(length as usize)];
        while length > 0 {
            let count = length.min(buffer.len() as u64) as usize;
            tar.read_exact(&mut buffer[..count])?;
            self.sink.put(&buffer[..count])?;
            length -= count as u64;
        }
        Ok(())
    }

    fn in_tar(&self, file: &File) -> u64 {
        self.starts[usize::from(file.layer)] + file.offset
    }

    fn size(&self, item: &Item<'_>) -> u64 {
        match (&item.inode.content, item.directory) {
            (Content::File(file), _) => file.size,
            (Content::Symlink(target), _) => self.tree.text(*target).len() as u64,
            (_, directory) => directory.map_or(0, |directory| directory.size),
        }
    }
}

/// The whole disk has fewer than 2^32 blocks.
fn block(position: u64) -> u32 {
    (position / BLOCK) as u32
}

/// The number of a device, as Linux has it in 32 bits (`new_encode_dev`).
fn device(content: &Content) -> u32 {
    match content {
        Content::Device { major, minor, .. } => minor & 0xff | u32::from(*major) << 8 | (minor & !0xff) << 12,
        _ => 0,
    }
}

/// The type in a directory (`include/linux/fs_types.h`) and in a mode.
fn kind(content: &Content) -> (u8, u16) {
    match content {
        Content::File(_) => (1, 0o100000),
        Content::Directory(_) => (2, 0o040000),
        Content::Device { is_block: false, .. } => (3, 0o020000),
        Content::Device { is_block: true, .. } => (4, 0o060000),
        Content::Fifo => (5, 0o010000),
        Content::Symlink(_) => (7, 0o120000),
    }
}
