//! Where everything is in the metadata.

use std::io;
use std::ops::Range;

use super::directory;
use super::format::{SLOT, SUPER_END};
use super::shape::{Body, Shape};
use super::xattrs::Shared;
use crate::layer::{BLOCK, refused};
use crate::tree::{Content, Inode, InodeId, NodeId, ROOT, Tree};

pub struct Layout {
    /// Inodes in the order in which they are on the disk: those of a directory together, in the order of their names.
    pub order: Vec<InodeId>,
    /// In the order of their inodes.
    pub directories: Vec<Directory>,
    /// Of all directories, one after the other.
    pub names: Vec<Name>,
    /// The numbers of inodes on the disk, by those in the tree. Zero for one that is nowhere.
    slots: Vec<u32>,
    /// Where the inodes end.
    pub end: u64,
    /// Of directories, long symbolic links and copied data.
    pub blocks: u64,
    pub has_chunks: bool,
}

pub struct Directory {
    pub node: NodeId,
    /// In the names of the layout.
    pub names: Range<usize>,
    /// The first one in the last block.
    pub last: usize,
    pub size: u64,
    pub links: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub enum Name {
    Itself,
    Parent,
    Child(NodeId),
}

impl Layout {
    pub fn of(tree: &Tree, shared: &Shared<'_>) -> io::Result<Self> {
        let mut layout = Self {
            order: Vec::new(),
            directories: Vec::new(),
            names: Vec::new(),
            slots: vec![0; tree.inode_count()],
            end: SUPER_END,
            blocks: 0,
            has_chunks: false,
        };
        // The number of the root has 16 bits, so it is the first one.
        layout.place(tree, shared, tree.inode_of(ROOT))?;
        let mut left = vec![0];
        while let Some(directory) = left.pop() {
            let inside = layout.directories.len();
            for name in layout.directories[directory].names.clone() {
                if let Name::Child(node) = layout.names[name] {
                    let inode = tree.inode_of(node);
                    // A file with several names has one place.
                    if layout.slots[inode.index()] == 0 {
                        layout.place(tree, shared, inode)?;
                    }
                }
            }
            left.extend((inside..layout.directories.len()).rev());
        }
        Ok(layout)
    }

    /// The number of an inode on the disk.
    pub fn slot(&self, inode: InodeId) -> u32 {
        self.slots[inode.index()]
    }

    pub fn position(&self, inode: InodeId) -> u64 {
        u64::from(self.slot(inode)) * SLOT
    }

    fn place(&mut self, tree: &Tree, shared: &Shared<'_>, id: InodeId) -> io::Result<()> {
        let inode: &Inode = tree.inode(id);
        let size = match inode.content {
            Content::Directory(node) => self.add_directory(tree, node),
            _ => 0,
        };
        let shape = Shape::of(tree, inode, shared.size_of(inode.xattrs), size);
        let position = shape.place(self.end);
        let too_large = |_| refused("the metadata of an image have at most 128 GiB");
        self.slots[id.index()] = u32::try_from(position / SLOT).map_err(too_large)?;
        self.order.push(id);
        self.end = position + shape.length();
        self.blocks = self.blocks.saturating_add(shape.blocks());
        self.has_chunks |= matches!(shape.body, Body::Chunks(_));
        Ok(())
    }

    /// Sorts the names of a directory. Gives its size.
    fn add_directory(&mut self, tree: &Tree, node: NodeId) -> u64 {
        let start = self.names.len();
        self.names.extend([Name::Itself, Name::Parent]);
        self.names.extend(tree.children(node).map(Name::Child));
        let names = &mut self.names[start..];
        names.sort_unstable_by(|one, other| one.text(tree).cmp(other.text(tree)));
        let (size, last) = directory::measure(names.iter().map(|name| name.text(tree).len()));
        // Its own `.`, its name in its parent, and the `..` of each directory in it.
        let links = 2 + tree
            .children(node)
            .filter(|child| tree.is_directory(*child))
            .count();
        self.directories.push(Directory {
            node,
            names: start..self.names.len(),
            last: start + last,
            size,
            links: links as u32,
        });
        size
    }

    /// Where blocks begin that are behind the inodes and so many bytes.
    pub fn behind(&self, bytes: u64) -> u64 {
        self.end.next_multiple_of(BLOCK) + bytes.next_multiple_of(BLOCK)
    }
}

impl Name {
    pub fn text(self, tree: &Tree) -> &[u8] {
        match self {
            Self::Itself => b".",
            Self::Parent => b"..",
            Self::Child(node) => tree.name(node),
        }
    }
}
