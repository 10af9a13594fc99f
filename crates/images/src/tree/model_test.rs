//! A slow model of what layers make together: files by their whole paths.

use std::collections::{BTreeMap, VecDeque};

use super::random::{Change, path_of};
use crate::erofs_reader::{Files, Found, PART};
use crate::layers_test::Entry;

/// The directory with a slash at its end, and the name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    path.split_at(slash.map_or(0, |slash| slash + 1))
}

fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// Why a change cannot be made.
#[derive(Debug)]
pub struct Impossible;

/// The files that layers make together.
pub struct Model {
    /// What is at a path, and the last layer that had something there or below.
    names: BTreeMap<Vec<u8>, (usize, u32)>,
    inodes: Vec<Found>,
    layer: u32,
    /// Whether what umoci refuses, or does not do the same way always, is impossible.
    is_strict: bool,
    /// Inodes whose time umoci makes up.
    pub untimed: Vec<usize>,
}

impl Model {
    pub fn new(is_strict: bool) -> Self {
        let root = Found {
            mode: 0o040755,
            ..Found::default()
        };
        Self {
            names: BTreeMap::from([(Vec::new(), (0, 0))]),
            inodes: vec![root],
            layer: 0,
            is_strict,
            untimed: Vec::new(),
        }
    }

    pub fn set_root(&mut self, root: &Entry) {
        let Entry {
            mode,
            uid,
            gid,
            modified,
            ..
        } = *root;
        self.inodes[0] = Found {
            mode: mode | 0o040000,
            uid,
            gid,
            modified,
            ..Found::default()
        };
    }

    /// All paths of what a hard link can be of.
    pub fn linkable(&self) -> Vec<&Vec<u8>> {
        let files = self
            .names
            .iter()
            .filter(|(_, (inode, _))| !self.is_directory(*inode));
        files.map(|(path, _)| path).collect()
    }

    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Makes a change, or leaves everything as it is.
    pub fn apply(&mut self, change: &Change) -> Result<(), Impossible> {
        let path = path_of(change);
        let (directory, name) = split(&path);
        let directory = self.resolve(directory)?;
        if name == b".wh..wh..opq" {
            self.sweep(&directory, &directory);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            let path = below(&directory, hidden);
            match self.names.get(&path) {
                Some((_, layer)) if *layer == self.layer => self.sweep(&path, b"?"),
                Some(_) => self.remove(&path),
                None => {}
            }
            return Ok(());
        }
        let path = below(&directory, name);
        let linked = match change.entry.kind {
            b'1' => Some(self.linked(&change.entry.link, &path)?),
            _ => None,
        };
        self.make(&directory, change)?;
        let is_directory = change.entry.kind == b'5';
        let old = self.names.get(&path).copied();
        match (old, linked) {
            (Some((inode, _)), Some(linked)) if inode == linked => {}
            (Some((inode, _)), None) if is_directory && self.is_directory(inode) => {
                let xattrs = change.entry.xattrs.iter().cloned().collect();
                let new = Found {
                    xattrs,
                    ..attributes(change, 0o040000)
                };
                self.inodes[inode] = new;
                self.untimed.retain(|untimed| *untimed != inode);
            }
            (_, linked) => {
                self.remove(&path);
                let inode = linked.unwrap_or_else(|| {
                    self.inodes.push(found(change));
                    self.inodes.len() - 1
                });
                self.names.insert(path.clone(), (inode, self.layer));
            }
        }
        self.touch(&path);
        Ok(())
    }

    pub fn files(&self) -> Files {
        let mut files = Files::new();
        for (path, (inode, _)) in &self.names {
            let mut found = self.inodes[*inode].clone();
            let others = || self.names.iter().filter(|(_, (other, _))| other == inode);
            found.links = match self.is_directory(*inode) {
                true => {
                    2 + self
                        .names
                        .iter()
                        .filter(|(other, (inode, _))| {
                            !other.is_empty() && parent(other) == path && self.is_directory(*inode)
                        })
                        .count() as u32
                }
                false => others().count() as u32,
            };
            found.first = others().next().unwrap().0.clone();
            files.insert(path.clone(), found);
        }
        files
    }

    /// Whether the time of what is at a path is made up by umoci.
    pub fn is_untimed(&self, path: &[u8]) -> bool {
        self.names
            .get(path)
            .is_some_and(|(inode, _)| self.untimed.contains(inode))
    }

    fn is_directory(&self, inode: usize) -> bool {
        self.inodes[inode].mode & 0o170000 == 0o040000
    }

    /// The path of a directory without symbolic links. It may be missing.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Impossible> {
        let parts = |path: &[u8]| {
            path.split(|byte| *byte == b'/')
                .map(<[u8]>::to_vec)
                .collect::<VecDeque<_>>()
        };
        let mut left = parts(path);
        let mut at = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = parent(&at).to_vec();
                    continue;
                }
                _ => {}
            }
            let path = below(&at, &name);
            let target = self
                .names
                .get(&path)
                .map(|(inode, _)| &self.inodes[*inode].target);
            let Some(target) = target.filter(|target| !target.is_empty()) else {
                at = path;
                continue;
            };
            links += 1;
            if links > 40 {
                return Err(Impossible);
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            let mut rest = parts(target);
            rest.append(&mut left);
            left = rest;
        }
        Ok(at)
    }

    fn linked(&self, target: &[u8], path: &[u8]) -> Result<usize, Impossible> {
        let (directory, name) = split(target);
        let target = below(&self.resolve(directory)?, name);
        let (inode, _) = self.names.get(&target).ok_or(Impossible)?;
        let is_in_the_way = target.starts_with(path) && matches!(target.get(path.len()), None | Some(b'/'));
        match self.is_directory(*inode) || self.is_strict && is_in_the_way {
            true => Err(Impossible),
            false => Ok(*inode),
        }
    }

    /// Makes a directory and those above it where there are none.
    fn make(&mut self, path: &[u8], change: &Change) -> Result<(), Impossible> {
        let there = self.names.get(path).copied();
        if there.is_some_and(|(inode, _)| self.is_directory(inode)) {
            return Ok(());
        }
        if self.is_strict {
            return Err(Impossible);
        }
        self.make(parent(path), change)?;
        self.remove(path);
        self.inodes.push(Found {
            mode: 0o040755,
            modified: change.entry.modified,
            ..Found::default()
        });
        self.names
            .insert(path.to_vec(), (self.inodes.len() - 1, self.layer));
        Ok(())
    }

    fn touch(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() {
            self.names.get_mut(path).unwrap().1 = self.layer;
            path = parent(path);
        }
    }

    fn remove(&mut self, path: &[u8]) {
        self.names.retain(|other, _| !is_at_or_below(other, path));
    }

    /// Removes what older layers have below a path. umoci gives the directory `timed` its time back.
    fn sweep(&mut self, path: &[u8], timed: &[u8]) {
        let gone: Vec<Vec<u8>> = self
            .names
            .iter()
            .filter(|(other, (_, layer))| {
                is_at_or_below(other, path) && *other != path && *layer != self.layer
            })
            .map(|(other, _)| other.clone())
            .collect();
        for path in gone {
            self.names.remove(&path);
            let parent = parent(&path);
            if parent != timed
                && let Some((inode, _)) = self.names.get(parent)
            {
                self.untimed.push(*inode);
            }
        }
    }
}

fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path.starts_with(directory) && matches!(path.get(directory.len()), None | Some(b'/'))
}

fn parent(path: &[u8]) -> &[u8] {
    let (directory, _) = split(path);
    directory.strip_suffix(b"/").unwrap_or(directory)
}

fn attributes(change: &Change, kind: u32) -> Found {
    let Entry {
        mode,
        uid,
        gid,
        modified,
        ..
    } = change.entry;
    Found {
        mode: mode | kind,
        uid,
        gid,
        modified,
        ..Found::default()
    }
}

fn found(change: &Change) -> Found {
    let kind = match change.entry.kind {
        b'2' => 0o120000,
        b'3' => 0o020000,
        b'4' => 0o060000,
        b'5' => 0o040000,
        b'6' => 0o010000,
        _ => 0o100000,
    };
    let mut found = Found {
        xattrs: change.entry.xattrs.iter().cloned().collect(),
        size: change.size,
        data: change.data.clone(),
        ..attributes(change, kind)
    };
    match kind {
        0o120000 => {
            found.mode = 0o120777;
            found.target.clone_from(&change.entry.link);
            found.size = found.target.len() as u64;
        }
        0o020000 | 0o060000 => found.device = change.entry.device,
        _ => {}
    }
    assert!(found.data.keys().all(|part| part * PART < found.size.max(1)));
    found
}
