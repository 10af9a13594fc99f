//! Random layers, and a slow model of what they make together: files by their whole paths.

use std::collections::{BTreeMap, VecDeque};

use crate::erofs_reader::{Files, Found, PART, add_data};
use crate::layers_test::*;

/// An entry of a layer, and what file it is.
#[derive(Debug, Clone)]
pub struct Change {
    pub entry: Entry,
    /// Of a regular file, with its holes.
    size: u64,
    data: BTreeMap<u64, Vec<u8>>,
    is_gnu: bool,
}

impl Change {
    /// An entry of each directory on the way.
    pub fn parents(&self) -> Vec<Self> {
        let path = path_of(self);
        let slashes = (0..path.len()).filter(|at| path[*at] == b'/');
        let directories = slashes.map(|slash| Self {
            entry: directory(&path[..slash]),
            size: 0,
            data: BTreeMap::new(),
            is_gnu: false,
        });
        directories.collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self.is_gnu {
            true => self.entry.gnu(),
            false => self.entry.pax(),
        }
    }
}

/// Numbers that follow from a seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }

    fn path(&mut self) -> Vec<u8> {
        let long = "long".repeat(63);
        let names: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"-", b"\xffodd\n", long.as_bytes()];
        let depth = 1 + self.roll(3);
        let parts: Vec<&[u8]> = (0..depth).map(|_| self.one_of(&names)).collect();
        parts.join(&b'/')
    }
}

/// The entry of the root.
pub fn root() -> Entry {
    directory("./").mode(0o751).owner(3, 4).modified(1_000_000_000, 5)
}

/// Makes an entry of a number. Most hard links are of files that are there.
pub fn change(seed: u64, model: &Model) -> Change {
    let mut dice = Dice(seed | 1);
    dice.roll(2);
    let path = dice.path();
    let (mut size, mut data) = (0, BTreeMap::new());
    let mut is_gnu = dice.roll(3) == 0;
    let mut entry = match dice.roll(20) {
        0..5 => {
            size = dice.one_of(&[0, 1, 40, 511, 512, 513, 5000, 20_000]);
            let bytes: Vec<u8> = (0..size).map(|_| dice.roll(256) as u8).collect();
            add_data(&mut data, 0, &bytes);
            file(&path, bytes)
        }
        5..7 => {
            is_gnu = false;
            let (sparse, bytes) = sparse(&mut dice, &path);
            size = bytes.len() as u64;
            add_data(&mut data, 0, &bytes);
            sparse
        }
        7..12 => directory([&path, &b"/"[..]].concat()),
        12..14 => {
            let target = dice.path();
            let prefix: &[u8] = dice.one_of(&[b"", b"/", b"../", b"./a/../../"]);
            symlink(&path, [prefix, &target].concat())
        }
        14..16 => {
            let files: Vec<_> = model
                .names
                .iter()
                .filter(|(_, (inode, _))| !model.is_directory(*inode))
                .collect();
            match dice.roll(4) {
                1.. if !files.is_empty() => hard_link(&path, files[dice.roll(files.len() as u64) as usize].0),
                _ => hard_link(&path, dice.path()),
            }
        }
        16 => entry(b"346"[dice.roll(3) as usize], &path)
            .device(dice.roll(4095) as u32 + 1, dice.roll(1 << 20) as u32),
        17..19 => {
            let (directory, name) = split(&path);
            file([directory, b".wh.", name].concat(), "")
        }
        _ => file([&path, &b"/.wh..wh..opq"[..]].concat(), ""),
    };
    entry.uid = dice.one_of(&[0, 1, 1000, 70_000, 3_000_000, 4_000_000_000]);
    entry.gid = dice.one_of(&[0, 5, 65_534, 4_000_000_000]);
    entry.mode = dice.one_of(&[0, 0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o7777, 0o400]);
    entry.modified = (dice.roll(2_000_000_000) as i64 - 500_000_000, 0);
    if !is_gnu {
        entry.modified.1 = dice.roll(1_000_000_000) as u32;
        add_xattrs(&mut dice, &mut entry);
    }
    Change {
        entry,
        size,
        data,
        is_gnu,
    }
}

fn add_xattrs(dice: &mut Dice, entry: &mut Entry) {
    if !matches!(entry.kind, b'0' | b'5') || dice.roll(3) > 0 {
        return;
    }
    for _ in 0..dice.roll(4) {
        let name = dice.one_of(&["user.a", "user.b", "trusted.c", "user.é", "security.d"]);
        let length = dice.one_of(&[1, 3, 20, 700]);
        let value: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
        entry.xattrs.retain(|(known, _)| known != name.as_bytes());
        entry.xattrs.push((
            name.into(),
            if dice.roll(2) == 0 {
                b"same".to_vec()
            } else {
                value
            },
        ));
    }
    if dice.roll(3) == 0 {
        // The mode is that of the list: its owner, its mask and all others.
        entry.mode = 0o754;
        entry.xattrs.push((
            "system.posix_acl_access".into(),
            acl(&[(1, 7, !0), (2, 4, 1000), (4, 5, !0), (0x10, 5, !0), (0x20, 4, !0)]),
        ));
    } else if entry.kind == b'0' && dice.roll(3) == 0 {
        entry
            .xattrs
            .push(("security.capability".into(), CAPABILITY.to_vec()));
    }
}

/// cap_net_raw, as `vfs_cap_data` of revision 2.
pub const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// An access control list (`include/uapi/linux/posix_acl_xattr.h`) of tags, permissions and ids.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// A sparse file in one of the formats, and its bytes.
fn sparse(dice: &mut Dice, path: &[u8]) -> (Entry, Vec<u8>) {
    let unit = dice.one_of(&[1, 512, 512, 4096]);
    let (mut pieces, mut stored, mut end) = (Vec::new(), Vec::new(), 0);
    for _ in 0..dice.roll(4) {
        let offset = end + dice.roll(5) * unit;
        let length = (1 + dice.roll(5)) * unit;
        pieces.push((offset, length));
        stored.extend((0..length).map(|_| 1 + dice.roll(255) as u8));
        end = offset + length;
    }
    let size = end + dice.roll(3) * unit + dice.roll(2) * dice.roll(700);
    let mut bytes = vec![0; size as usize];
    let mut from = 0;
    for (offset, length) in &pieces {
        let to = from + *length as usize;
        bytes[*offset as usize..(offset + length) as usize].copy_from_slice(&stored[from..to]);
        from = to;
    }
    let numbers = pieces.iter().map(|(offset, length)| format!("{offset},{length}"));
    let sparse = match dice.roll(2) {
        0 if !pieces.is_empty() => file("made up", stored)
            .record("GNU.sparse.size", size.to_string())
            .record("GNU.sparse.numblocks", pieces.len().to_string())
            .record("GNU.sparse.name", path)
            .record("GNU.sparse.map", numbers.collect::<Vec<_>>().join(",")),
        _ => {
            let mut map = format!("{}\n", pieces.len());
            for (offset, length) in &pieces {
                map += &format!("{offset}\n{length}\n");
            }
            file("made up", [padded(map.as_bytes()), stored].concat())
                .record("GNU.sparse.major", "1")
                .record("GNU.sparse.minor", "0")
                .record("GNU.sparse.name", path)
                .record("GNU.sparse.realsize", size.to_string())
        }
    };
    (sparse, bytes)
}

/// The path that an entry is about, cleaned.
fn path_of(change: &Change) -> Vec<u8> {
    let name = change
        .entry
        .records
        .iter()
        .find(|(keyword, _)| keyword == b"GNU.sparse.name");
    let path = name.map_or(&change.entry.path, |(_, name)| name);
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    trimmed.strip_prefix(b"./").unwrap_or(trimmed).to_vec()
}

/// The directory with a slash at its end, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
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
