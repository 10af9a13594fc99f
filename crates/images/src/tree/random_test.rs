//! Random entries of layers.

use std::collections::BTreeMap;

use super::model::{Model, split};
use crate::erofs_reader::add_data;
use crate::layers_test::*;

/// An entry of a layer, and what file it is.
#[derive(Debug, Clone)]
pub struct Change {
    pub entry: Entry,
    /// Of a regular file, with its holes.
    pub size: u64,
    pub data: BTreeMap<u64, Vec<u8>>,
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
            let files = model.linkable();
            match dice.roll(4) {
                1.. if !files.is_empty() => hard_link(&path, files[dice.roll(files.len() as u64) as usize]),
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
pub fn path_of(change: &Change) -> Vec<u8> {
    let name = change
        .entry
        .records
        .iter()
        .find(|(keyword, _)| keyword == b"GNU.sparse.name");
    let path = name.map_or(&change.entry.path, |(_, name)| name);
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    trimmed.strip_prefix(b"./").unwrap_or(trimmed).to_vec()
}
