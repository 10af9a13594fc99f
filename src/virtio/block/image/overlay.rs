//! An ephemeral disk: what the guest writes goes to a temporary file without a name, and the base below it is only
//! read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::block_set::BlockSet;
use super::space::{Claim, Space};
use super::{Data, Raw};
use crate::config::Size;
use crate::virtio::buffers::Buffers;

/// The size in bytes of the blocks that are either in the temporary file or in the base. It is the page size of a
/// guest: most writes are whole pages, so their first write need not copy the rest of a block from the base.
pub const BLOCK: u64 = 4096;

pub struct Overlay {
    base: Box<Data>,
    /// In bytes.
    size: u64,
    /// Holds what was written, at the same offsets as on the disk.
    temporary: Raw,
    /// The blocks that are in `temporary`. No block is ever removed from the set.
    written: BlockSet,
    /// Held while blocks are added to `written`. The first write to a part of a block copies the rest of it, and
    /// another thread might be writing that rest.
    first_writes: Mutex<()>,
    /// Limits how much of the host's space `temporary` takes up.
    space: Space,
    /// Whether the file system of `temporary` tells where holes are. On one that does not, a file looks as if it had none.
    tells_holes: bool,
}

impl Overlay {
    /// Makes an overlay over `base`, which has `size` bytes. The temporary file is made in `directory`, and takes up no
    /// more space than `limit`.
    pub fn new(base: Data, size: u64, Size(limit): Size, directory: &Path) -> io::Result<Self> {
        let file = temporary_file(directory)?;
        file.set_len(size)?;
        let temporary = Raw::new(file, None, false);
        Ok(Self {
            base: Box::new(base),
            size,
            // The whole file is a hole now.
            tells_holes: !temporary.has_no_hole(&(0..size)),
            temporary,
            written: BlockSet::new(size.div_ceil(BLOCK))?,
            first_writes: Mutex::default(),
            space: Space::new(limit),
        })
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &mut Buffers, mut offset: u64) -> io::Result<()> {
        while buffers.length() > 0 {
            let (is_written, length) = self.same_from(offset, buffers.length());
            let read = |part: &mut Buffers| match is_written {
                true => self.temporary.read(part, offset),
                false => self.base.read(part, offset),
            };
            if length == buffers.length() {
                return read(buffers);
            }
            read(&mut buffers.split_to(length))?;
            offset += length;
        }
        Ok(())
    }

    /// Writes all of `buffers` from `offset` on.
    pub fn write(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buffers.length());
        self.change(offset..end, || {
            let _space = self.claim(offset..end)?;
            self.temporary.write(buffers, offset, false)
        })
    }

    /// Frees the host's space behind a range, if the file system can. What is read from the range afterwards is
    /// unspecified.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length);
        self.change(offset..end, || self.temporary.discard(offset, length))
    }

    /// Zeroes a range and frees the host's space behind it, even if the guest asks to keep it: nothing of an ephemeral
    /// disk has space reserved.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length);
        self.change(offset..end, || {
            match self.temporary.punch_hole(offset, length)? {
                true => Ok(()),
                false => {
                    let _space = self.claim(offset..end)?;
                    self.temporary.write_zero_bytes(offset, length)
                }
            }
        })
    }

    /// Claims space for a write to `range`, which may make the temporary file take up more.
    fn claim(&self, range: Range<u64>) -> io::Result<Option<Claim<'_>>> {
        let blocks = blocks(&range);
        let length = (blocks.end - blocks.start) * BLOCK;
        match self.space.claim(length, || self.temporary.space())? {
            // At the limit, a range that is there already can still be overwritten, since that takes no more space.
            None if !self.tells_holes || !self.temporary.has_no_hole(&range) => {
                Err(io::Error::other(format!(
                    "what is written to this ephemeral disk may take up {}, and does (give it more: limit=SIZE)",
                    Size(self.space.limit())
                )))
            }
            claim => Ok(claim),
        }
    }

    /// Whether the byte at `offset` is in the temporary file, and for how many of the following bytes, `length` at
    /// most, the answer is the same.
    fn same_from(&self, offset: u64, length: u64) -> (bool, u64) {
        let blocks = blocks(&(offset..offset.saturating_add(length)));
        let is_written = self.written.contains(blocks.start);
        let other = blocks
            .clone()
            .find(|block| self.written.contains(*block) != is_written);
        let end = other.map_or(u64::MAX, |block| block * BLOCK);
        (is_written, length.min(end - offset))
    }

    /// Calls `change`, which changes a range of the temporary file, and makes sure that all blocks of the range are in
    /// that file then.
    fn change(&self, range: Range<u64>, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if range.end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let blocks = blocks(&range);
        // An empty range inside of a block has that block in `blocks`, but changes nothing.
        if range.is_empty() || self.written.contains_all(blocks.clone()) {
            return change();
        }
        let _first = self.first_writes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_inside = |edge: u64| !edge.is_multiple_of(BLOCK) && edge != self.size;
        if is_inside(range.start) {
            self.copy_block(blocks.start)?;
        }
        if is_inside(range.end) {
            self.copy_block(blocks.end - 1)?;
        }
        change()?;
        self.written.add(blocks);
        Ok(())
    }

    /// Copies a block from the base to the temporary file, unless it is there already.
    fn copy_block(&self, block: u64) -> io::Result<()> {
        if self.written.contains(block) {
            return Ok(());
        }
        let offset = block * BLOCK;
        let mut bytes = [0; BLOCK as usize];
        let bytes = &mut bytes[..BLOCK.min(self.size - offset) as usize];
        self.base.read(&mut Buffers::of(bytes), offset)?;
        let _space = self.claim(offset..offset + BLOCK)?;
        self.temporary.write(&mut Buffers::of(bytes), offset, false)?;
        self.written.add(block..block + 1);
        Ok(())
    }
}

/// The blocks that `range` touches.
fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// Makes a file without a name: no other process can open it, and it vanishes when this process ends in any way.
fn temporary_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options
        .clone()
        .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
        .open(directory);
    match unnamed.as_ref().map_err(io::Error::raw_os_error) {
        // Some file systems cannot make files without names. There the file has a name for a moment.
        Err(Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = directory.join(format!("coracle-overlay-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        _ => unnamed,
    }
}

#[cfg(test)]
#[path = "overlay_test.rs"]
mod tests;
