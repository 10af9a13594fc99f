//! What a tree says of each file, for the fuzz target `layers`.

use super::{Content, ROOT, Tree};
use crate::layer::Piece;

/// A file under one of its names. All types but that of a regular file are `None` in `data`.
pub struct Seen {
    pub path: Vec<u8>,
    pub mode: u16,
    pub owner: (u32, u32),
    pub modified: (i64, u32),
    /// Of what is no directory.
    pub links: u32,
    /// Names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub target: Vec<u8>,
    pub data: Option<SeenData>,
}

pub struct SeenData {
    /// From zero.
    pub layer: usize,
    pub offset: u64,
    pub size: u64,
    pub pieces: Vec<Piece>,
}

impl Tree {
    pub fn seen(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        let mut left = vec![(ROOT, Vec::new())];
        while let Some((node, path)) = left.pop() {
            let inode = self.inode(self.inode_of(node));
            if let Content::Directory(directory) = inode.content {
                assert!(directory == node, "a directory has one name");
                for child in self.children(node) {
                    let slash: &[u8] = if node == ROOT { b"" } else { b"/" };
                    left.push((child, [&path, slash, self.name(child)].concat()));
                }
            }
            let pairs = self
                .xattrs
                .pairs_of(inode.xattrs)
                .iter()
                .map(|pair| self.xattrs.get(*pair));
            all.push(Seen {
                path,
                mode: inode.mode,
                owner: (inode.uid, inode.gid),
                modified: (inode.modified.seconds, inode.modified.nanoseconds),
                links: inode.links,
                xattrs: pairs
                    .map(|(name, value)| (name.to_vec(), value.to_vec()))
                    .collect(),
                target: match inode.content {
                    Content::Symlink(target) => self.text(target).to_vec(),
                    _ => Vec::new(),
                },
                data: match &inode.content {
                    Content::File(file) => Some(SeenData {
                        layer: file.layer.into(),
                        offset: file.offset,
                        size: file.size,
                        pieces: match self.pieces(file) {
                            Some(pieces) => pieces.to_vec(),
                            None => vec![Piece {
                                offset: 0,
                                length: file.size,
                            }],
                        },
                    }),
                    _ => None,
                },
            });
        }
        all
    }
}
