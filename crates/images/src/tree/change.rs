//! How an entry of a layer changes the tree.

use std::io;
use std::num::NonZeroU32;

use super::walk::{Place, split};
use super::{Content, File, Inode, InodeId, Map, NONE, Node, NodeId, ROOT, Tree, XattrSet};
use crate::layer::{Data, ENTRIES_MAX, Entry, Kind, Time, WHITEOUT, refused};

/// Pieces of all sparse files. They take 128 MiB of memory.
const PIECES_MAX: usize = 8 << 20;
/// Removes what is in the directory (OCI image specification, "Opaque Whiteout").
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Whatever else begins like this is aufs's own.
const AUFS: &[u8] = b".wh..wh.";
/// Of the root, and of a directory that no layer has an entry of.
const DIRECTORY_MODE: u16 = 0o755;

impl Tree {
    pub(super) fn apply(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if entry.path.is_empty() {
            let Kind::Directory = entry.kind else {
                return Err(refused("the root of an image is a directory"));
            };
            return self.dress(ROOT, entry);
        }
        let (directory, name) = split(entry.path);
        if name == OPAQUE {
            return self.hide(directory, None);
        }
        if entry
            .path
            .split(|byte| *byte == b'/')
            .any(|name| name.starts_with(AUFS))
        {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(refused("it removes nothing that could be there")),
                _ => self.hide(directory, Some(hidden)),
            };
        }
        // Before anything that it may be below of is removed.
        let linked = match entry.kind {
            Kind::HardLink(target) => Some(self.linked(target)?),
            _ => None,
        };
        let directory = self.make_directories(directory, entry.modified)?;
        self.put(directory, name, entry, linked)
    }

    fn put(
        &mut self,
        directory: NodeId,
        name: &[u8],
        entry: &Entry<'_>,
        linked: Option<InodeId>,
    ) -> io::Result<()> {
        let found = self.child(directory, name);
        if let Some(inode) = linked {
            if let Some(found) = found
                && self.inode_of(found) == inode
            {
                self.touch(found);
                self.unlink(inode);
                return Ok(());
            }
            return self.place(directory, name, found, inode);
        }
        if let Some(found) = found
            && matches!(entry.kind, Kind::Directory)
            && self.is_directory(found)
        {
            self.touch(found);
            return self.dress(found, entry);
        }
        let content = match entry.kind {
            Kind::File(data) => Content::File(self.file(&data)?),
            Kind::Symlink(target) => Content::Symlink(self.texts.add(target)?),
            // Linux has 12 and 20 bits for them, which the index has checked.
            Kind::Device {
                is_block,
                major,
                minor,
            } => Content::Device {
                is_block,
                major: major as u16,
                minor,
            },
            Kind::Fifo => Content::Fifo,
            // A link was put above; a directory knows its node below.
            Kind::Directory | Kind::HardLink(_) => Content::Directory(NONE),
        };
        let inode = self.add_inode(content, entry.modified);
        self.set_attributes(inode, entry)?;
        self.place(directory, name, found, inode)
    }

    /// Gives the name to an inode, whatever has it now.
    fn place(
        &mut self,
        directory: NodeId,
        name: &[u8],
        found: Option<NodeId>,
        inode: InodeId,
    ) -> io::Result<()> {
        let node = match found {
            Some(node) => {
                self.empty(node);
                self.unlink(self.inode_of(node));
                self.node_mut(node).inode = inode;
                node
            }
            None => self.add_node(directory, name, inode)?,
        };
        let layer = self.layer;
        self.node_mut(node).layer = layer;
        if let Content::Directory(of) = &mut self.inodes[inode.index()].content {
            *of = node;
        }
        Ok(())
    }

    /// The inode that a hard link is of, with one link more.
    fn linked(&mut self, target: &[u8]) -> io::Result<InodeId> {
        let missing = || {
            let target = String::from_utf8_lossy(target);
            refused(format!("it is a hard link to '{target}', and no file is there"))
        };
        if target.is_empty() {
            return Err(missing());
        }
        let (directory, name) = split(target);
        let Place::Directory(directory) = self.directory(directory)? else {
            return Err(missing());
        };
        let node = self.child(directory, name).ok_or_else(missing)?;
        if self.is_directory(node) {
            return Err(missing());
        }
        let inode = self.inode_of(node);
        self.inodes[inode.index()].links += 1;
        Ok(inode)
    }

    /// The directory at a path, which then has an entry of this layer below it. It is made if it is missing.
    fn make_directories(&mut self, path: &[u8], modified: Time) -> io::Result<NodeId> {
        let (mut at, missing) = match self.directory(path)? {
            Place::Directory(at) => (at, Vec::new()),
            Place::Missing(at, names) => (at, names),
        };
        self.touch(at);
        for name in missing {
            let found = self.child(at, &name);
            let inode = self.add_inode(Content::Directory(NONE), modified);
            self.place(at, &name, found, inode)?;
            let Content::Directory(node) = self.inode(inode).content else {
                break;
            };
            at = node;
        }
        Ok(at)
    }

    /// Removes what older layers have under a name in a directory, or all that they have in it.
    fn hide(&mut self, directory: &[u8], name: Option<&[u8]>) -> io::Result<()> {
        let Place::Directory(directory) = self.directory(directory)? else {
            return Ok(());
        };
        match name.map(|name| self.child(directory, name)) {
            None => self.sweep(directory),
            Some(None) => {}
            Some(Some(node)) if self.node(node).layer == self.layer => self.sweep(node),
            Some(Some(node)) => self.remove(node),
        }
        Ok(())
    }

    /// Removes all that only older layers have below a node. Each node is looked at once in a layer.
    fn sweep(&mut self, node: NodeId) {
        let mut left = vec![node];
        while let Some(node) = left.pop() {
            if self.node(node).swept == self.layer {
                continue;
            }
            let layer = self.layer;
            self.node_mut(node).swept = layer;
            let mut next = self.node(node).first_child;
            while next != NONE {
                let child = next;
                next = self.node(child).next;
                match self.node(child).layer == layer {
                    true => left.push(child),
                    false => self.remove(child),
                }
            }
        }
    }

    /// Removes a name and all that is below.
    fn remove(&mut self, node: NodeId) {
        self.empty(node);
        let Node {
            previous,
            next,
            parent,
            ..
        } = *self.node(node);
        match previous {
            NONE => self.node_mut(parent).first_child = next,
            _ => self.node_mut(previous).next = next,
        }
        if next != NONE {
            self.node_mut(next).previous = previous;
        }
        self.free(node);
    }

    /// Removes all that is below a node.
    fn empty(&mut self, node: NodeId) {
        let mut left = vec![std::mem::replace(&mut self.node_mut(node).first_child, NONE)];
        while let Some(node) = left.pop() {
            if node == NONE {
                continue;
            }
            left.push(self.node(node).next);
            left.push(self.node(node).first_child);
            self.free(node);
        }
    }

    fn free(&mut self, node: NodeId) {
        let Node {
            parent, inode, name, ..
        } = *self.node(node);
        self.names.remove(parent, self.texts.get(name), node);
        self.unlink(inode);
        self.free_nodes.push(node);
    }

    fn unlink(&mut self, inode: InodeId) {
        let links = &mut self.inodes[inode.index()].links;
        *links -= 1;
        if *links == 0 {
            self.free_inodes.push(inode);
        }
    }

    /// Notes that this layer has an entry below the directory.
    fn touch(&mut self, mut node: NodeId) {
        while self.node(node).layer != self.layer {
            let layer = self.layer;
            self.node_mut(node).layer = layer;
            node = self.parent(node);
        }
    }

    fn dress(&mut self, node: NodeId, entry: &Entry<'_>) -> io::Result<()> {
        self.set_attributes(self.inode_of(node), entry)
    }

    fn set_attributes(&mut self, inode: InodeId, entry: &Entry<'_>) -> io::Result<()> {
        let xattrs = self.xattrs.set(entry.xattrs)?;
        let inode = &mut self.inodes[inode.index()];
        // Linux has no mode of a symbolic link.
        inode.mode = match inode.content {
            Content::Symlink(_) => 0o777,
            _ => entry.mode,
        };
        (inode.uid, inode.gid) = (entry.uid, entry.gid);
        inode.modified = entry.modified;
        inode.xattrs = xattrs;
        Ok(())
    }

    fn file(&mut self, data: &Data<'_>) -> io::Result<File> {
        let map = match data.pieces {
            None => None,
            Some(pieces) => {
                if self.pieces.len() + pieces.len() > PIECES_MAX {
                    return Err(refused(format!(
                        "the sparse files of an image have at most {PIECES_MAX} pieces"
                    )));
                }
                // There are fewer than 2^32, and each layer has fewer sparse files.
                let start = self.pieces.len() as u32;
                self.pieces.extend(pieces);
                self.maps.push(start..self.pieces.len() as u32);
                NonZeroU32::new(self.maps.len() as u32).map(Map)
            }
        };
        Ok(File {
            layer: self.layer - 1,
            has_clean_tail: data.has_clean_tail,
            map,
            offset: data.offset,
            size: data.size,
        })
    }

    pub(super) fn add_root(&mut self) {
        let inode = self.add_inode(Content::Directory(ROOT), Time::default());
        self.nodes.push(Node {
            parent: ROOT,
            name: super::Text::EMPTY,
            inode,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            layer: 0,
            swept: 0,
        });
    }

    /// A name that is not in the directory yet.
    fn add_node(&mut self, directory: NodeId, name: &[u8], inode: InodeId) -> io::Result<NodeId> {
        let next = self.node(directory).first_child;
        let node = Node {
            parent: directory,
            name: self.texts.add(name)?,
            inode,
            first_child: NONE,
            next,
            previous: NONE,
            layer: self.layer,
            swept: 0,
        };
        let id = match self.free_nodes.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None if self.nodes.len() > ENTRIES_MAX => {
                return Err(refused(format!("an image has at most {ENTRIES_MAX} files")));
            }
            None => {
                self.nodes.push(node);
                NodeId(self.nodes.len() as u32 - 1)
            }
        };
        self.names.insert(directory, name, id);
        if next != NONE {
            self.node_mut(next).previous = id;
        }
        self.node_mut(directory).first_child = id;
        Ok(id)
    }

    /// With one name, which the caller makes. There is at most one more than nodes.
    fn add_inode(&mut self, content: Content, modified: Time) -> InodeId {
        let inode = Inode {
            mode: DIRECTORY_MODE,
            uid: 0,
            gid: 0,
            links: 1,
            modified,
            xattrs: XattrSet::EMPTY,
            content,
        };
        match self.free_inodes.pop() {
            Some(id) => {
                self.inodes[id.index()] = inode;
                id
            }
            None => {
                self.inodes.push(inode);
                InodeId(self.inodes.len() as u32 - 1)
            }
        }
    }
}
