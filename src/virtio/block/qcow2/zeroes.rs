//! Discards, and writes of zeroes.
//!
//! Where a whole cluster is meant, only the tables change. A part of a cluster is written like other data, and so is
//! everything in a raw data file, which must be right without the tables.

use std::io;
use std::sync::{PoisonError, RwLockWriteGuard};

use imago::{Mapping, ShallowMapping};

use super::range::Range;
use super::{PIECE, Qcow2};

impl Qcow2 {
    /// Frees the host's space of the whole clusters in a range. What is read from the range afterwards is unspecified.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = self.writable_range(offset, length)?;
        if self.has_raw_data_file {
            return self.discard_in_place(range);
        }
        // If the tables cannot say that a cluster is zero, a freed cluster would read as that of the backing file.
        match self.has_zero_clusters || !self.has_backing {
            true => self.free(self.whole_clusters(&range), false),
            false => Ok(()),
        }
    }

    /// Zeroes a range. Unless `may_unmap`, the host's space for it stays reserved.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        let range = self.writable_range(offset, length)?;
        if self.has_raw_data_file {
            return self.zero_in_place(range, may_unmap);
        }
        let whole = match self.has_zero_clusters {
            true => self.whole_clusters(&range),
            false => Range::new(range.end, 0),
        };
        self.write_plain_zeroes(Range {
            start: range.start,
            end: whole.start.min(range.end),
        })?;
        self.write_plain_zeroes(Range {
            start: whole.end.max(range.start),
            end: range.end,
        })?;
        match may_unmap {
            true => self.free(whole, true),
            false => self.zero(whole),
        }
    }

    /// Writes zeroes like other data, except where the image already reads as zeroes.
    fn write_plain_zeroes(&self, mut range: Range) -> io::Result<()> {
        let zeroes = vec![0_u8; range.length().min(PIECE) as usize];
        while !range.is_empty() {
            let (is_zero, length) = self.reads_as_zero(&range)?;
            let length = length.min(PIECE);
            if !is_zero {
                let buffer = libc::iovec {
                    iov_base: zeroes.as_ptr().cast_mut().cast(),
                    iov_len: length as usize,
                };
                // SAFETY: the buffer is a part of `zeroes`, which is only read.
                unsafe { self.write(&[buffer], range.start)? };
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Frees the host's space of a range, without a change of tables.
    fn discard_in_place(&self, mut range: Range) -> io::Result<()> {
        while !range.is_empty() {
            let (_, length) = self.punch_in_place(&range)?;
            range.advance(length)?;
        }
        Ok(())
    }

    /// Zeroes a range also for those who read the data file without the tables.
    fn zero_in_place(&self, mut range: Range, may_unmap: bool) -> io::Result<()> {
        while !range.is_empty() {
            let (is_zero, length) = match may_unmap {
                true => self.punch_in_place(&range)?,
                false => (false, range.length()),
            };
            if !is_zero {
                self.write_plain_zeroes(Range::new(range.start, length))?;
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Frees the host's space of data at the beginning of `range`. Returns for how many bytes the answer holds, and whether they
    /// are zeroes now.
    fn punch_in_place(&self, range: &Range) -> io::Result<(bool, u64)> {
        let _shared = self.use_clusters();
        let (mapping, length) = self.image.get_shallow_mapping(range.start, range.length())?;
        let ShallowMapping::Raw {
            storage,
            offset,
            writable: true,
            ..
        } = mapping
        else {
            return Ok((false, length));
        };
        storage.check_data(offset, length, range.start)?;
        Ok((storage.punch_hole(offset, length).is_ok(), length))
    }

    /// Makes whole clusters read as zeroes. They keep their place in the file.
    fn zero(&self, mut range: Range) -> io::Result<()> {
        while !range.is_empty() {
            let (is_zero, length) = self.reads_as_zero(&range)?;
            // A mapping may end in the middle of a cluster of this image: a backing file can have smaller clusters, and end
            // anywhere.
            let (is_zero, length) = match length - length % self.cluster_size {
                _ if length == range.length() => (is_zero, length),
                0 => (false, self.cluster_size.min(range.length())),
                whole => (is_zero, whole),
            };
            if !is_zero {
                let _changes = self.change_tables()?;
                self.image.write_zeroes(range.start, length)?;
                self.settle_freed_clusters()?;
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Whether `range` begins with bytes that read as zeroes, and for how many bytes the answer is the same.
    fn reads_as_zero(&self, range: &Range) -> io::Result<(bool, u64)> {
        let _shared = self.use_clusters();
        let (mapping, length) = self.image.get_mapping(range.start, range.length())?;
        Ok((matches!(mapping, Mapping::Zero { .. }), length))
    }

    /// Takes whole clusters out of the image. With `hide_backing` they read as zeroes also where the backing file has data.
    fn free(&self, mut range: Range, hide_backing: bool) -> io::Result<()> {
        let _changes = self.change_tables()?;
        let mut holes = Vec::new();
        // How many bytes of the disk an L2 table maps, with entries of 8 bytes. Each round stays in one table, because the next
        // table may be new and in a cluster that this round frees.
        let table_span = self.cluster_size * (self.cluster_size / 8);
        while !range.is_empty() {
            if range.start.is_multiple_of(table_span) {
                self.settle_freed_clusters()?;
            }
            let (mapping, length) = self.image.get_shallow_mapping(range.start, range.length())?;
            let length = length.next_multiple_of(self.cluster_size).min(range.length());
            let is_there = match mapping {
                ShallowMapping::Zero { explicit, .. } => explicit,
                ShallowMapping::Indirect { .. } => hide_backing && !self.is_zero(&range, length)?,
                _ => true,
            };
            if let ShallowMapping::Raw {
                storage,
                offset,
                writable,
                ..
            } = mapping
            {
                storage.check_data(offset, length, range.start)?;
                if writable {
                    holes.push((storage, offset, length.next_multiple_of(self.cluster_size)));
                }
            }
            if is_there {
                let _alone: RwLockWriteGuard<()> =
                    self.clusters.write().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: with `clusters` held alone nobody uses a mapping that this undoes.
                unsafe {
                    match self.has_zero_clusters {
                        true => self.image.discard_to_zero_unsafe(range.start, length)?,
                        false => self.image.discard_to_backing_unsafe(range.start, length)?,
                    }
                }
            }
            range.advance(length)?;
        }
        self.settle_freed_clusters()?;
        for (storage, offset, length) in holes {
            // The error is only logged: not every host can do this, and the cluster may be a table by now. The image can use the
            // clusters again in any case.
            if let Err(error) = storage.punch_hole(offset, length) {
                log::debug!("cannot give space of {storage} back: {error}");
            }
        }
        Ok(())
    }

    fn is_zero(&self, range: &Range, length: u64) -> io::Result<bool> {
        let mut rest = Range::new(range.start, length);
        while !rest.is_empty() {
            match self.reads_as_zero(&rest)? {
                (true, length) => rest.advance(length)?,
                (false, _) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The clusters that are wholly in a range. A last cluster that the end of the image cuts short counts as whole.
    fn whole_clusters(&self, range: &Range) -> Range {
        let start = range.start.next_multiple_of(self.cluster_size);
        let end = match range.end {
            end if end == self.size() => end,
            end => end - end % self.cluster_size,
        };
        Range {
            start,
            end: end.max(start),
        }
    }
}
