//! The data of a directory: blocks, in each of them first the entries and then their names (`erofs_dirent`). Names are in the order of
//! their bytes within a block and over the blocks, with `.` and `..` among them, because Linux searches by halves.

use super::format::DIRENT_SIZE;
use crate::layer::BLOCK;

/// How many bytes entries take, by the lengths of their names, and which one is the first in the last block.
pub fn measure(lengths: impl Iterator<Item = usize>) -> (u64, usize) {
    let (mut blocks, mut used, mut first) = (0, 0, 0);
    for (number, length) in lengths.enumerate() {
        let need = DIRENT_SIZE + length;
        if used + need > BLOCK as usize {
            (blocks, used, first) = (blocks + 1, 0, number);
        }
        used += need;
    }
    (blocks * BLOCK + used as u64, first)
}

pub struct Dirent<'a> {
    pub name: &'a [u8],
    /// Of its inode.
    pub number: u64,
    /// As in `include/linux/fs_types.h`.
    pub kind: u8,
}

/// Gives the blocks of a directory, the last of which is shorter.
pub fn blocks<'a>(
    entries: impl Iterator<Item = Dirent<'a>>,
    mut put: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut inside: Vec<Dirent<'a>> = Vec::new();
    let mut used = 0;
    let mut block = Vec::new();
    for entry in entries {
        let need = DIRENT_SIZE + entry.name.len();
        if used + need > BLOCK as usize {
            put(fill(&mut block, &inside))?;
            inside.clear();
            used = 0;
        }
        used += need;
        inside.push(entry);
    }
    put(fill(&mut block, &inside))
}

fn fill<'a>(block: &'a mut Vec<u8>, entries: &[Dirent<'_>]) -> &'a [u8] {
    block.clear();
    let mut name_at = entries.len() * DIRENT_SIZE;
    for Dirent { name, number, kind } in entries {
        block.extend(number.to_le_bytes());
        // It is less than a block.
        block.extend((name_at as u16).to_le_bytes());
        block.extend([*kind, 0]);
        name_at += name.len();
    }
    for entry in entries {
        block.extend(entry.name);
    }
    block
}
