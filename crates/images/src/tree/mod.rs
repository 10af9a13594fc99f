//! The file system that layers make together (OCI image specification, "Applying Changesets").
//!
//! A character device with the numbers 0:0 is an entry like all others, but it is not shown: to overlayfs, on which Docker and podman keep
//! their layers, it is a whiteout. So it hides there, as it does here, what older layers have under its name, and no container sees it.
//! A guest has an overlayfs over all of this, whose directories would list a name that cannot be opened.
//!
//! Everything is small and refers to others by number: a million files take 100 to 200 MB.

mod change;
mod names;
#[cfg(fuzzing)]
mod seen;
mod texts;
mod walk;
mod xattrs;

#[cfg(fuzzing)]
pub use seen::{Seen, SeenData};

use std::io::{self, Read, Seek};
use std::ops::Range;

use crate::layer::{ENTRIES_MAX, Index, Piece, Time, about, refused};
use names::Names;
use texts::{Text, Texts};
pub(crate) use xattrs::{Pair, XattrSet, Xattrs};

/// Layers of one tree. Engines have 127.
const LAYERS_MAX: u16 = 1000;

pub(crate) const ROOT: NodeId = NodeId(0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// For a link between nodes that leads nowhere.
const NONE: NodeId = NodeId(u32::MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InodeId(u32);

impl InodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A name in a directory.
struct Node {
    parent: NodeId,
    name: Text,
    inode: InodeId,
    first_child: NodeId,
    next: NodeId,
    previous: NodeId,
    /// The last layer that had an entry here or below.
    layer: u16,
    /// The layer in whose course everything below that only older ones had was removed.
    swept: u16,
}

/// What one or more names are of.
pub(crate) struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Names of it. None are left of one that is free.
    pub links: u32,
    pub modified: Time,
    pub xattrs: XattrSet,
    pub content: Content,
}

#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// With the only name that it has.
    Directory(NodeId),
    File(File),
    Symlink(Text),
    Device {
        is_block: bool,
        major: u16,
        minor: u32,
    },
    Fifo,
}

impl Content {
    /// Whether overlayfs takes it for a name that is removed.
    fn is_whiteout(&self) -> bool {
        matches!(
            self,
            Self::Device {
                is_block: false,
                major: 0,
                minor: 0
            }
        )
    }
}

/// A file whose data are in a layer's tar.
#[derive(Clone, Copy)]
pub(crate) struct File {
    /// From zero.
    pub layer: u16,
    pub has_clean_tail: bool,
    /// The number of its map, if it is sparse.
    map: Option<Map>,
    pub offset: u64,
    pub size: u64,
}

/// The number of a map, plus one.
#[derive(Clone, Copy)]
struct Map(std::num::NonZeroU32);

/// The tree of the layers so far.
pub struct Tree {
    nodes: Vec<Node>,
    free_nodes: Vec<NodeId>,
    inodes: Vec<Inode>,
    free_inodes: Vec<InodeId>,
    names: Names,
    texts: Texts,
    pub(crate) xattrs: Xattrs,
    pieces: Vec<Piece>,
    maps: Vec<Range<u32>>,
    /// The layer that is being applied, from one. The root as such is of layer zero.
    layer: u16,
    /// What walks through symbolic links have cost so far.
    detours: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// Only the root, a directory with mode 0755.
    pub fn new() -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            inodes: Vec::new(),
            free_inodes: Vec::new(),
            names: Names::default(),
            texts: Texts::default(),
            xattrs: Xattrs::default(),
            pieces: Vec::new(),
            maps: Vec::new(),
            layer: 0,
            detours: 0,
        };
        tree.add_root();
        tree
    }

    /// Applies the next layer: its tar, filled up to a block. After an error the tree means nothing.
    pub fn add_layer(&mut self, tar: impl Read + Seek) -> io::Result<()> {
        if self.layer == LAYERS_MAX {
            return Err(refused(format!("an image has at most {LAYERS_MAX} layers")));
        }
        self.layer += 1;
        let mut index = Index::new(tar)?;
        let mut count = 0;
        while let Some(entry) = index.next_entry()? {
            count += 1;
            if count > ENTRIES_MAX {
                return Err(refused(format!("a layer has at most {ENTRIES_MAX} entries")));
            }
            self.apply(&entry).map_err(|why| about(entry.path, why))?;
        }
        Ok(())
    }

    pub(crate) fn layers(&self) -> usize {
        self.layer.into()
    }

    /// The number of inodes, with those that are free.
    pub(crate) fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// All that have a name and are shown.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = &Inode> {
        let is_shown = |inode: &&Inode| inode.links > 0 && !inode.content.is_whiteout();
        self.inodes.iter().filter(is_shown)
    }

    pub(crate) fn inode_of(&self, node: NodeId) -> InodeId {
        self.node(node).inode
    }

    /// Of the root it is the root.
    pub(crate) fn parent(&self, node: NodeId) -> NodeId {
        self.node(node).parent
    }

    pub(crate) fn name(&self, node: NodeId) -> &[u8] {
        self.texts.get(self.node(node).name)
    }

    pub(crate) fn text(&self, text: Text) -> &[u8] {
        self.texts.get(text)
    }

    /// What is in a directory and shown, in no order.
    pub(crate) fn children(&self, directory: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let following = |node: NodeId| (node != NONE).then_some(node);
        let first = following(self.node(directory).first_child);
        std::iter::successors(first, move |node| following(self.node(*node).next))
            .filter(|node| !self.inode(self.inode_of(*node)).content.is_whiteout())
    }

    pub(crate) fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.inode(self.inode_of(node)).content, Content::Directory(_))
    }

    /// The pieces of a file that is sparse.
    pub(crate) fn pieces(&self, file: &File) -> Option<&[Piece]> {
        let range = &self.maps[file.map?.0.get() as usize - 1];
        Some(&self.pieces[range.start as usize..range.end as usize])
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

#[cfg(test)]
#[path = "tree_test.rs"]
pub(crate) mod tests;
