//! One request of a disk's driver: read it, do it, say what came of it (virtio 1.2 section 5.2.6).

use std::fmt;
use std::io;

use log::Level;
use virtio_bindings::virtio_blk::*;

use super::chain::{self, Chain};
use super::image::Image;
use crate::virtio::log_limit::LogLimit;

/// A serial number, padded with NUL.
pub type Id = [u8; VIRTIO_BLK_ID_BYTES as usize];

/// Serves the requests of one driver.
pub struct Server<'a> {
    image: &'a Image,
    id: &'a Id,
    log: &'a LogLimit,
    /// The driver never flushes, so every write is to be durable when it completes (section 5.2.6.2).
    write_through: bool,
}

enum RequestError {
    /// The driver asked for what no request may ask for.
    Invalid(&'static str),
    /// No request type of this device.
    Unsupported,
    /// The image failed, and the log says how.
    Failed,
}

impl<'a> Server<'a> {
    pub fn new(image: &'a Image, id: &'a Id, log: &'a LogLimit, write_through: bool) -> Self {
        Self {
            image,
            id,
            log,
            write_through,
        }
    }

    /// Carries out `chain`'s request and writes its status. Returns the length for the used ring: the bytes
    /// written from the start of the writable stream up to the first gap (section 2.7.8.2).
    pub fn serve(&mut self, mut chain: Chain) -> u32 {
        let room = chain::length(&chain.writable);
        let (status, written) = match self.execute(&mut chain) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(RequestError::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(RequestError::Failed) => (VIRTIO_BLK_S_IOERR, 0),
            Err(RequestError::Invalid(reason)) => {
                log::debug!("disk {:?}: invalid request: {reason}", self.image.path());
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        chain.set_status(status as u8);
        let status_follows = written == room;
        // A chain is shorter than 4 GiB.
        written as u32 + u32::from(status_follows)
    }

    /// Returns how many bytes it wrote to the start of the writable stream.
    fn execute(&mut self, chain: &mut Chain) -> Result<u64, RequestError> {
        if chain.has_holes {
            return Err(RequestError::Invalid("its buffers leave guest memory"));
        }
        let header = Header::take(chain).ok_or(RequestError::Invalid("its header is cut short"))?;
        match header.kind {
            VIRTIO_BLK_T_IN => {
                let length = chain::length(&chain.writable);
                let offset = self.locate(header, length)?;
                let result = self.image.read(&chain.writable, offset);
                self.report(header, length, result).map(|()| length)
            }
            VIRTIO_BLK_T_OUT if self.image.read_only() => {
                Err(RequestError::Invalid("a write, and the disk is read-only"))
            }
            VIRTIO_BLK_T_OUT => {
                let length = chain::length(&chain.readable);
                let offset = self.locate(header, length)?;
                let mut result = self.image.write(&chain.readable, offset);
                if self.write_through {
                    result = result.and_then(|()| self.image.flush());
                }
                self.report(header, length, result).map(|()| 0)
            }
            VIRTIO_BLK_T_FLUSH => {
                let result = self.image.flush();
                self.report(header, 0, result).map(|()| 0)
            }
            VIRTIO_BLK_T_GET_ID => Ok(chain::put(&chain.writable, self.id)),
            _ => Err(RequestError::Unsupported),
        }
    }

    fn locate(&self, header: Header, length: u64) -> Result<u64, RequestError> {
        let outside = "it is not whole sectors, or it leaves the disk";
        self.image
            .locate(header.sector, length)
            .ok_or(RequestError::Invalid(outside))
    }

    fn report(&mut self, header: Header, length: u64, result: io::Result<()>) -> Result<(), RequestError> {
        let Err(error) = result else { return Ok(()) };
        let path = self.image.path();
        self.log.log(
            Level::Error,
            format_args!("disk {path:?}: {header}, {length} bytes: {error}; the guest sees an I/O error"),
        );
        Err(RequestError::Failed)
    }
}

/// `struct virtio_blk_req` up to its data.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn take(chain: &mut Chain) -> Option<Self> {
        let [a, b, c, d, _, _, _, _, sector @ ..] = chain::take::<16>(&mut chain.readable)?;
        Some(Self {
            kind: u32::from_le_bytes([a, b, c, d]),
            sector: u64::from_le_bytes(sector),
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { kind, sector } = self;
        match *kind {
            VIRTIO_BLK_T_IN => write!(f, "read at sector {sector}"),
            VIRTIO_BLK_T_OUT => write!(f, "write at sector {sector}"),
            VIRTIO_BLK_T_FLUSH => write!(f, "flush"),
            _ => write!(f, "request of type {kind}"),
        }
    }
}
