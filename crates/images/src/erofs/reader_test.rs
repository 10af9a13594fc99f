//! Reads an EROFS disk as Linux does, and panics on all that Linux would not take. It knows nothing of the writer. The fuzz target
//! `layers` has it, too.

use std::collections::BTreeMap;

const BLOCK: u64 = 512;
/// Of the parts of data that are compared.
pub const PART: u64 = 4096;
/// So much of the data of a file is compared. A file can have much more, most of it in holes of the disk.
pub const DATA_MAX: u64 = 4 << 20;

/// A file as it is seen under a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// With the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    pub links: u32,
    pub device: (u32, u32),
    /// Zero for a directory.
    pub size: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub target: Vec<u8>,
    /// Parts that are not all zeros, by their number.
    pub data: BTreeMap<u64, Vec<u8>>,
    /// The first path of the same file.
    pub first: Vec<u8>,
}

/// All files by their paths. That of the root is empty.
pub type Files = BTreeMap<Vec<u8>, Found>;

/// Adds bytes at an offset to the data of a file.
pub fn add_data(data: &mut BTreeMap<u64, Vec<u8>>, offset: u64, bytes: &[u8]) {
    for (number, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        let at = offset + number as u64;
        let part = data.entry(at / PART).or_insert_with(|| vec![0; PART as usize]);
        part[(at % PART) as usize] = *byte;
    }
}

/// Reads all files of a disk. `read` fills a buffer from a position of the disk.
pub fn read_all(read: &dyn Fn(u64, &mut [u8])) -> Files {
    let disk = Disk { read };
    let superblock = disk.bytes(1024, 512);
    assert_eq!(number(&superblock, 0, 4), 0xe0f5_e1e2, "the magic number");
    assert_eq!(superblock[12], 9, "blocks of 512 bytes");
    assert_eq!(number(&superblock, 80, 4) & !4, 0, "unknown features");
    let mut zeroed = superblock.clone();
    zeroed[4..8].fill(0);
    assert_eq!(
        number(&superblock, 4, 4),
        u64::from(crc32c(&zeroed)),
        "the checksum"
    );
    assert_eq!(number(&superblock, 40, 4), 0, "where inodes are counted from");
    let shared = number(&superblock, 44, 4) * BLOCK;
    let root = number(&superblock, 14, 2);
    let mut files = Files::new();
    let mut first = BTreeMap::new();
    let mut names: BTreeMap<u64, u32> = BTreeMap::new();
    let mut left = vec![(Vec::new(), root, root)];
    while let Some((path, slot, parent)) = left.pop() {
        let inode = disk.inode(slot, shared);
        let same = first.entry(slot).or_insert_with(|| path.clone());
        if path < *same {
            same.clone_from(&path);
        }
        *names.entry(slot).or_default() += 1;
        let mut found = inode.found.clone();
        match found.mode & 0o170000 {
            0o040000 => {
                let mut directories = 0;
                for (name, child, kind) in disk.directory(&inode) {
                    match &name[..] {
                        b"." => assert_eq!(child, slot, "'.' of {path:?}"),
                        b".." => assert_eq!(child, parent, "'..' of {path:?}"),
                        _ => {
                            directories += u32::from(kind == 2);
                            let mut path = path.clone();
                            if !path.is_empty() {
                                path.push(b'/');
                            }
                            path.extend(&name);
                            left.push((path, child, slot));
                        }
                    }
                    let mode = number(&disk.bytes(child * 32, 64), 4, 2);
                    let expected = match kind {
                        1 => 0o100000,
                        2 => 0o040000,
                        3 => 0o020000,
                        4 => 0o060000,
                        5 => 0o010000,
                        7 => 0o120000,
                        other => panic!("a name of type {other}"),
                    };
                    assert_eq!(mode & 0o170000, expected, "the type of a name in {path:?}");
                }
                assert_eq!(found.links, 2 + directories, "links of {path:?}");
                found.size = 0;
            }
            0o120000 => {
                let mut data = vec![0; found.size as usize];
                disk.read_file(&inode, 0, &mut data);
                found.target = data;
            }
            0o100000 => found.data = disk.data(&inode),
            _ => {}
        }
        assert!(
            files.insert(path, found).is_none(),
            "a name is twice in a directory"
        );
    }
    assert_eq!(
        number(&superblock, 16, 8),
        names.len() as u64,
        "the number of inodes"
    );
    // Once more, now that the first path of each file is known.
    let mut left = vec![(Vec::new(), root)];
    while let Some((path, slot)) = left.pop() {
        let found = files.get_mut(&path).unwrap();
        found.first.clone_from(&first[&slot]);
        if found.mode & 0o170000 != 0o040000 {
            assert_eq!(found.links, names[&slot], "links of {path:?}");
            continue;
        }
        let inode = disk.inode(slot, shared);
        let entries = disk.directory(&inode);
        for (name, child, _) in &entries {
            assert_eq!(disk.look_up(&inode, name), Some(*child), "{name:?} in {path:?}");
            let mut missing = name.clone();
            missing.push(1);
            let is_there = entries.iter().any(|(name, ..)| *name == missing);
            assert_eq!(disk.look_up(&inode, &missing).is_some(), is_there);
            if name != b"." && name != b".." {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                left.push(([&path, slash, name].concat(), *child));
            }
        }
    }
    files
}

struct Disk<'a> {
    read: &'a dyn Fn(u64, &mut [u8]),
}

struct Inode {
    found: Found,
    size: u64,
    layout: u64,
    union: u64,
    /// Behind the inode and its extended attributes.
    behind: u64,
}

impl Disk<'_> {
    fn bytes(&self, position: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        (self.read)(position, &mut bytes);
        bytes
    }

    fn inode(&self, slot: u64, shared: u64) -> Inode {
        let position = slot * 32;
        let bytes = self.bytes(position, 64);
        let format = number(&bytes, 0, 2);
        assert_eq!(format & 1, 1, "an extended inode");
        assert_eq!(format >> 4, 0);
        let xattr_count = number(&bytes, 2, 2);
        let xattr_size = if xattr_count > 0 {
            12 + 4 * (xattr_count - 1)
        } else {
            0
        };
        let mode = number(&bytes, 4, 2) as u32;
        let union = number(&bytes, 16, 4);
        let device = match mode & 0o170000 {
            0o020000 | 0o060000 => (
                (union >> 8 & 0xfff) as u32,
                (union & 0xff | union >> 12 & 0xfff00) as u32,
            ),
            _ => (0, 0),
        };
        let nanoseconds = number(&bytes, 40, 4) as u32;
        assert!(nanoseconds < 1_000_000_000);
        let size = number(&bytes, 8, 8);
        let found = Found {
            mode,
            uid: number(&bytes, 24, 4) as u32,
            gid: number(&bytes, 28, 4) as u32,
            modified: (number(&bytes, 32, 8) as i64, nanoseconds),
            links: number(&bytes, 44, 4) as u32,
            device,
            size,
            xattrs: self.xattrs(position + 64, xattr_size, shared),
            ..Found::default()
        };
        Inode {
            found,
            size,
            layout: format >> 1 & 7,
            union,
            behind: position + 64 + xattr_size,
        }
    }

    fn xattrs(&self, position: u64, size: u64, shared: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        if size == 0 {
            return xattrs;
        }
        assert!(size > 12, "attributes without any");
        let bytes = self.bytes(position, size);
        let count = usize::from(bytes[4]);
        let mut add = |entry: &[u8]| {
            let (length, prefix) = (usize::from(entry[0]), entry[1]);
            let value = number(entry, 2, 2) as usize;
            let prefix: &[u8] = match prefix {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                other => panic!("a name that begins with number {other}"),
            };
            let name = [prefix, &entry[4..4 + length]].concat();
            let old = xattrs.insert(name, entry[4 + length..4 + length + value].to_vec());
            assert!(old.is_none(), "an attribute is there twice");
            (4 + length + value).next_multiple_of(4)
        };
        for id in bytes[12..12 + 4 * count].chunks_exact(4) {
            let at = shared + 4 * number(id, 0, 4);
            let head = self.bytes(at, 4);
            let length = 4 + u64::from(head[0]) + number(&head, 2, 2);
            add(&self.bytes(at, length));
        }
        let mut rest = &bytes[12 + 4 * count..];
        while !rest.is_empty() {
            rest = &rest[add(rest)..];
        }
        xattrs
    }

    /// Where data at an offset are and how many follow. None for a hole.
    fn map(&self, inode: &Inode, offset: u64) -> (Option<u64>, u64) {
        let Inode {
            size,
            layout,
            union,
            behind,
            ..
        } = *inode;
        assert!(offset < size);
        let blocks = size.div_ceil(BLOCK);
        match layout {
            0 => (Some(union * BLOCK + offset), size - offset),
            2 => {
                let inline = (blocks - 1) * BLOCK;
                if offset < inline {
                    return (Some(union * BLOCK + offset), inline - offset);
                }
                let at = behind + offset % BLOCK;
                assert!(
                    at % BLOCK + (size - offset) <= BLOCK,
                    "inline data are in one block"
                );
                (Some(at), size - offset)
            }
            4 => {
                assert_eq!(union & !0x1f, 0, "the format of chunks");
                let chunk = BLOCK << union;
                let address = number(&self.bytes(behind + offset / chunk * 4, 4), 0, 4);
                let length = (chunk - offset % chunk).min(size - offset);
                let at = (address != u64::from(u32::MAX)).then(|| address * BLOCK + offset % chunk);
                (at, length)
            }
            other => panic!("data in layout {other}"),
        }
    }

    fn read_file(&self, inode: &Inode, mut offset: u64, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let (at, length) = self.map(inode, offset);
            let (part, rest) = buffer.split_at_mut(buffer.len().min(length as usize));
            if let Some(at) = at {
                (self.read)(at, part);
            }
            offset += part.len() as u64;
            buffer = rest;
        }
    }

    /// What is not zeros, of the first bytes that are no holes.
    fn data(&self, inode: &Inode) -> BTreeMap<u64, Vec<u8>> {
        let mut data = BTreeMap::new();
        let mut left = DATA_MAX;
        let mut offset = 0;
        while offset < inode.size {
            let (at, length) = self.map(inode, offset);
            let end = offset + length;
            if let Some(at) = at {
                let count = length.min(left);
                left -= count;
                add_data(&mut data, offset, &self.bytes(at, count));
                if end == inode.size && end % BLOCK > 0 && inode.layout != 2 {
                    let behind = self.bytes(at + length, BLOCK - end % BLOCK);
                    assert!(
                        behind.iter().all(|byte| *byte == 0),
                        "what a mapping shows behind the end"
                    );
                }
            }
            offset = end;
        }
        data
    }

    /// The entries of a block: name, inode, type.
    fn block(&self, inode: &Inode, number_of: u64) -> Vec<(Vec<u8>, u64, u8)> {
        let mut block = vec![0; BLOCK.min(inode.size - number_of * BLOCK) as usize];
        self.read_file(inode, number_of * BLOCK, &mut block);
        let first = number(&block, 8, 2) as usize;
        assert!(
            first > 0 && first.is_multiple_of(12) && first < block.len(),
            "where the names of a block begin"
        );
        let starts: Vec<usize> = (0..first)
            .step_by(12)
            .map(|at| number(&block, at + 8, 2) as usize)
            .collect();
        let mut entries = Vec::new();
        for (index, start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied();
            let end = end.unwrap_or_else(|| {
                let length = block[*start..].iter().position(|byte| *byte == 0);
                length.map_or(block.len(), |length| start + length)
            });
            let name = block[*start..end].to_vec();
            assert!((1..=255).contains(&name.len()) && !name.contains(&0) && !name.contains(&b'/'));
            entries.push((name, number(&block, index * 12, 8), block[index * 12 + 10]));
        }
        entries
    }

    fn directory(&self, inode: &Inode) -> Vec<(Vec<u8>, u64, u8)> {
        let entries: Vec<_> = (0..inode.size.div_ceil(BLOCK))
            .flat_map(|number| self.block(inode, number))
            .collect();
        assert!(
            entries.is_sorted_by(|one, other| one.0 < other.0),
            "names are in order"
        );
        for name in [&b"."[..], b".."] {
            assert!(entries.iter().any(|entry| entry.0 == name));
        }
        entries
    }

    /// Finds a name by halves, first the block and then the entry in it.
    fn look_up(&self, inode: &Inode, name: &[u8]) -> Option<u64> {
        let (mut low, mut high) = (0, inode.size.div_ceil(BLOCK));
        while high - low > 1 {
            let middle = (low + high) / 2;
            match self.block(inode, middle)[0].0.as_slice() <= name {
                true => low = middle,
                false => high = middle,
            }
        }
        let entries = self.block(inode, low);
        let found = entries
            .binary_search_by(|entry| entry.0.as_slice().cmp(name))
            .ok()?;
        Some(entries[found].1)
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    crc
}
