//! Parses a request of a disk's driver, and refuses requests that a driver must not make (virtio 1.2 section 5.2.6).

use std::fmt;

use virtio_bindings::virtio_blk::*;

use super::chain::Chain;
use crate::virtio::traffic::Traffic;

/// The size of a sector in bytes. It does not depend on the disk's block size (section 5.2).
pub const SECTOR_SIZE: u64 = 512;

/// The most bytes of data that one request may have. Without this limit a request could have more data than guest memory,
/// because a driver can name the same page in many descriptors.
pub const DATA_MAX: u64 = 64 << 20;
/// How many bytes of data are read or written before the engine checks whether the device is being reset.
pub const PIECE: u64 = 2 << 20;
/// The most sectors that one DISCARD may have. It is one system call, however long the range is.
pub const DISCARD_SECTORS_MAX: u32 = 1 << 22;
/// The most sectors that one WRITE_ZEROES may have. If the host has no call for it, zeroes are written buffer by buffer.
pub const WRITE_ZEROES_SECTORS_MAX: u32 = 1 << 17;
/// How many ranges a DISCARD or WRITE_ZEROES request may have.
pub const SEGMENTS_MAX: u32 = 1;

/// The limits that the requests of a disk must keep.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The disk's size in bytes.
    pub size: u64,
    /// Offsets and lengths of data must be multiples of this, in bytes. It is a power of two and at least [`SECTOR_SIZE`].
    pub block_size: u64,
    pub read_only: bool,
    /// The most sectors that a DISCARD may have.
    pub discard_sectors: u32,
    /// The most sectors that a WRITE_ZEROES may have.
    pub write_zeroes_sectors: u32,
}

/// A request that has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    /// Offset on the disk in bytes.
    pub offset: u64,
    /// Number of bytes from there. All of them are on the disk.
    pub length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reads into the chain's writable stream, which has `length` bytes.
    Read,
    /// Writes the chain's readable stream, which has `length` bytes.
    Write,
    Flush,
    /// Copies the disk's serial number into the chain's writable stream.
    Identify,
    Discard,
    WriteZeroes {
        may_unmap: bool,
    },
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A driver must not make such a request. Its status becomes VIRTIO_BLK_S_IOERR.
    Invalid(&'static str),
    /// This device does not know the type of the request. Its status becomes VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

impl Request {
    /// Adds the data that it will move. A refused request is none.
    #[inline]
    pub fn count_in(&self, traffic: &Traffic) {
        match self.operation {
            Operation::Read => traffic.count_read(self.length),
            Operation::Write => traffic.count_written(self.length),
            Operation::Flush | Operation::Identify | Operation::Discard | Operation::WriteZeroes { .. } => {}
        }
    }

    /// Takes the request's header from `chain`, and the range of a DISCARD or WRITE_ZEROES. Data stays in the chain.
    #[inline]
    pub fn parse(chain: &mut Chain, limits: &Limits) -> Result<Self, Refusal> {
        if chain.has_holes {
            return Err(Refusal::Invalid("its buffers leave guest memory"));
        }
        // `struct virtio_blk_req` up to its data.
        let header = chain.readable.take::<16>();
        let [a, b, c, d, _, _, _, _, sector @ ..] =
            header.ok_or(Refusal::Invalid("its header is cut short"))?;
        let sector = u64::from_le_bytes(sector);
        let kind = u32::from_le_bytes([a, b, c, d]);
        let writes = matches!(
            kind,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if writes && limits.read_only {
            return Err(Refusal::Invalid("a write, and the disk is read-only"));
        }
        let plain = |operation| {
            Ok(Self {
                operation,
                offset: 0,
                length: 0,
            })
        };
        match kind {
            VIRTIO_BLK_T_IN => limits.locate_data(Operation::Read, sector, chain.writable.length()),
            VIRTIO_BLK_T_OUT => limits.locate_data(Operation::Write, sector, chain.readable.length()),
            VIRTIO_BLK_T_FLUSH => plain(Operation::Flush),
            VIRTIO_BLK_T_GET_ID => plain(Operation::Identify),
            VIRTIO_BLK_T_DISCARD => Segment::take(chain)?.discard(limits),
            VIRTIO_BLK_T_WRITE_ZEROES => Segment::take(chain)?.write_zeroes(limits),
            _ => Err(Refusal::Unsupported),
        }
    }
}

impl Limits {
    /// Like [`Limits::locate`], and also refuses more data than a request may have.
    #[inline]
    fn locate_data(&self, operation: Operation, sector: u64, length: u64) -> Result<Request, Refusal> {
        match length > DATA_MAX {
            true => Err(Refusal::Invalid("it has more data than a request takes")),
            false => self.locate(operation, sector, length),
        }
    }

    /// The request for `operation` on `length` bytes from `sector` on, if these are whole blocks of the disk.
    #[inline]
    fn locate(&self, operation: Operation, sector: u64, length: u64) -> Result<Request, Refusal> {
        let inside = |offset: &u64| offset.checked_add(length).is_some_and(|end| end <= self.size);
        let offset = sector.checked_mul(SECTOR_SIZE).filter(inside);
        let offset = offset.ok_or(Refusal::Invalid("it leaves the disk"))?;
        if (offset | length) & (self.block_size - 1) != 0 {
            return Err(Refusal::Invalid("it is not whole blocks"));
        }
        Ok(Request {
            operation,
            offset,
            length,
        })
    }
}

/// `struct virtio_blk_discard_write_zeroes`.
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Segment {
    /// Takes the one segment that a request may have.
    fn take(chain: &mut Chain) -> Result<Self, Refusal> {
        if chain.readable.length() != 16 {
            return Err(Refusal::Invalid("it is not one range"));
        }
        let raw = chain
            .readable
            .take::<16>()
            .ok_or(Refusal::Invalid("its range is cut short"))?;
        let [a, b, c, d, e, f, g, h, flags @ ..] = raw;
        let [i, j, k, l, flags @ ..] = flags;
        Ok(Self {
            sector: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sectors: u32::from_le_bytes([i, j, k, l]),
            flags: u32::from_le_bytes(flags),
        })
    }

    fn discard(&self, limits: &Limits) -> Result<Request, Refusal> {
        // Section 5.2.6.2: a discard cannot have any flag, not even the flag unmap.
        if self.flags != 0 {
            return Err(Refusal::Unsupported);
        }
        self.locate(Operation::Discard, limits.discard_sectors, limits)
    }

    fn write_zeroes(&self, limits: &Limits) -> Result<Request, Refusal> {
        let may_unmap = match self.flags {
            0 => false,
            VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => true,
            _ => return Err(Refusal::Unsupported),
        };
        let operation = Operation::WriteZeroes { may_unmap };
        self.locate(operation, limits.write_zeroes_sectors, limits)
    }

    #[inline]
    fn locate(&self, operation: Operation, most: u32, limits: &Limits) -> Result<Request, Refusal> {
        if self.sectors > most {
            return Err(Refusal::Invalid("its range is longer than the disk takes"));
        }
        limits.locate(operation, self.sector, u64::from(self.sectors) * SECTOR_SIZE)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => return write!(f, "flush"),
            Operation::Identify => return write!(f, "request for the serial number"),
            Operation::Discard => "discard",
            Operation::WriteZeroes { .. } => "write of zeroes",
        };
        let (sector, length) = (self.offset / SECTOR_SIZE, self.length);
        write!(f, "{name} at sector {sector}, {length} bytes")
    }
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
