//! Ways through the tree.

use std::borrow::Cow;
use std::io;

use super::{Content, NodeId, ROOT, Tree};
use crate::layer::{NAME_MAX, refused};

/// Symbolic links on one way (Linux: `MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// Names on the ways that symbolic links lead, over all entries. It keeps layers that consist of detours from taking hours.
pub const DETOURS_MAX: u64 = 100_000_000;

/// Where a way leads.
pub enum Place {
    Directory(NodeId),
    /// From this directory on, these directories are missing. There is at least one.
    Missing(NodeId, Vec<Vec<u8>>),
}

impl Tree {
    /// The directory at a path. A symbolic link on the way is followed as it would be inside of the root, and never leads out of it:
    /// what umoci does. Something else in the way counts as missing, because a layer that has an entry below has a directory there.
    pub(super) fn directory(&mut self, path: &[u8]) -> io::Result<Place> {
        let mut rest = Cow::Borrowed(path);
        let mut from = 0;
        let mut at = ROOT;
        let mut missing: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while from < rest.len() {
            let length = rest[from..].iter().position(|byte| *byte == b'/');
            let to = length.map_or(rest.len(), |length| from + length);
            let name = &rest[from..to];
            from = to + 1;
            if links > 0 {
                self.detours += 1;
            }
            match name {
                b"" | b"." => continue,
                b".." => {
                    if missing.pop().is_none() {
                        at = self.parent(at);
                    }
                    continue;
                }
                name if name.len() > NAME_MAX => {
                    return Err(refused(
                        "a symbolic link on the way to it leads to a name that is too long",
                    ));
                }
                _ if !missing.is_empty() => {
                    missing.push(name.to_vec());
                    continue;
                }
                _ => {}
            }
            let Some(found) = self.child(at, name) else {
                missing.push(name.to_vec());
                continue;
            };
            match self.inode(self.inode_of(found)).content {
                Content::Directory(node) => at = node,
                Content::Symlink(target) => {
                    links += 1;
                    if links > LINKS_MAX || self.detours > DETOURS_MAX {
                        return Err(refused("too many symbolic links are on the way to it"));
                    }
                    let target = self.text(target);
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    let behind = rest.get(from..).unwrap_or_default();
                    rest = Cow::Owned([target, b"/", behind].concat());
                    from = 0;
                }
                Content::File(_) | Content::Device { .. } | Content::Fifo => missing.push(name.to_vec()),
            }
        }
        Ok(match missing.is_empty() {
            true => Place::Directory(at),
            false => Place::Missing(at, missing),
        })
    }

    pub(super) fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.names.find(directory, name, |node| {
            self.parent(node) == directory && self.name(node) == name
        })
    }
}

/// The directory and the name of a path that is not the root's.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
