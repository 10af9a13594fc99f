//! A disk for tests, and requests to it as a driver lays them out in guest memory.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;

use super::Block;
use crate::config::{self, Cache, Engine};
use crate::virtio::test_driver::*;

pub const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
pub const FEATURES: u64 = VERSION_1 | FLUSH;
/// No whole number of pages.
pub const SECTORS: usize = 65;
pub const LAST: u64 = SECTORS as u64 - 1;
pub const QUEUE: u16 = 128;

pub fn pattern() -> Vec<u8> {
    (0..SECTORS * 512)
        .map(|offset| (offset / 512 * 7 + offset % 251) as u8)
        .collect()
}

pub fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&pattern()).unwrap();
    file
}

pub fn contents(file: &NamedTempFile) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()
}

pub fn driver(block: Block, features: u64) -> Driver {
    let mut driver = Driver::new(Box::new(block));
    driver.start(features, QUEUE);
    driver
}

/// `file` as a disk of one queue.
pub fn options(file: &Path, engine: Engine) -> config::Disk {
    config::Disk {
        engine,
        ..config::Disk::new(file.into())
    }
}

pub fn open(file: &Path, engine: Engine) -> Block {
    Block::open(&options(file, engine), 1).unwrap()
}

pub fn disk(engine: Engine) -> (Driver, NamedTempFile) {
    let file = image();
    (driver(open(file.path(), engine), FEATURES), file)
}

/// Functions of an engine as tests of each engine.
macro_rules! with_each_engine {
    ($($name:ident),+ $(,)?) => {
        mod with_sync {
            $(#[test] fn $name() { super::$name(crate::config::Engine::Sync) })+
        }
        mod with_uring {
            $(#[test] fn $name() { super::$name(crate::config::Engine::Uring) })+
        }
    };
}
pub(super) use with_each_engine;

/// What the writable buffers of a request hold before the device has them.
pub const NOT_WRITTEN: u8 = 0xdd;

/// Where indirect tables of requests lie, and their buffers.
pub const TABLES: u64 = BUFFERS;
pub const DATA: u64 = BUFFERS + 0x8000;

/// How a request is cut into descriptors: positions in its readable and in its writable stream.
#[derive(Clone, Debug)]
pub struct Framing {
    pub readable: Vec<usize>,
    pub writable: Vec<usize>,
    pub indirect: bool,
}

/// A descriptor each for header, data and status.
pub fn plain(data_in: usize) -> Framing {
    Framing {
        readable: vec![16],
        writable: vec![data_in],
        indirect: false,
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u8,
    pub data: Vec<u8>,
    pub used: u32,
}

pub struct Pending {
    pub head: u16,
    pub writable: Vec<(u64, usize)>,
}

pub fn pieces(length: usize, cuts: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| *cut.min(&length))
        .chain([0, length])
        .collect();
    cuts.sort();
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Lays a request out in descriptors from 0 on, buffers apart from each other, and offers it.
pub fn offer(driver: &mut Driver, readable: &[u8], writable: usize, framing: &Framing) -> Pending {
    let mut descriptors = Vec::new();
    let mut address = DATA;
    for piece in pieces(readable.len(), &framing.readable) {
        driver.put(&readable[piece.clone()], address);
        descriptors.push((address, piece.len() as u32, 0));
        address += piece.len() as u64 + 3;
    }
    let mut written = Vec::new();
    for piece in pieces(writable, &framing.writable) {
        driver.put(&vec![NOT_WRITTEN; piece.len()], address);
        descriptors.push((address, piece.len() as u32, WRITE));
        written.push((address, piece.len()));
        address += piece.len() as u64 + 3;
    }
    let table = if framing.indirect { TABLES } else { DESCRIPTORS };
    let last = descriptors.len() - 1;
    for (index, (address, length, flags)) in descriptors.into_iter().enumerate() {
        let flags = if index == last { flags } else { flags | NEXT };
        driver.describe(table, index as u16, (address, length, flags, index as u16 + 1));
    }
    if framing.indirect {
        driver.describe(DESCRIPTORS, 0, (TABLES, (last as u32 + 1) * 16, INDIRECT, 0));
    }
    driver.offer(0);
    Pending {
        head: 0,
        writable: written,
    }
}

pub fn finish(driver: &mut Driver, pending: Pending) -> Reply {
    driver.notify();
    assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
    let (head, used) = driver.take_used().expect("nothing was used");
    assert_eq!(head, u32::from(pending.head));
    let mut data: Vec<u8> = pending
        .writable
        .into_iter()
        .flat_map(|(address, length)| driver.bytes(address, length))
        .collect();
    let status = data.pop().unwrap();
    Reply { status, data, used }
}

pub fn request(driver: &mut Driver, kind: u32, sector: u64, data_out: &[u8], data_in: usize) -> Reply {
    let readable = [header(kind, sector), data_out.to_vec()].concat();
    let pending = offer(driver, &readable, data_in + 1, &plain(data_in));
    finish(driver, pending)
}

pub fn read(driver: &mut Driver, sector: u64, length: usize) -> Reply {
    request(driver, VIRTIO_BLK_T_IN, sector, &[], length)
}

pub fn write(driver: &mut Driver, sector: u64, data: &[u8]) -> u8 {
    request(driver, VIRTIO_BLK_T_OUT, sector, data, 0).status
}

pub fn flush(driver: &mut Driver) -> u8 {
    request(driver, VIRTIO_BLK_T_FLUSH, 0, &[], 0).status
}

pub const OK: u8 = VIRTIO_BLK_S_OK as u8;
pub const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
pub const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

pub fn any_engine() -> impl proptest::strategy::Strategy<Value = Engine> {
    proptest::sample::select(vec![Engine::Sync, Engine::Uring])
}

/// Each that every file system can.
pub fn any_cache() -> impl proptest::strategy::Strategy<Value = Cache> {
    proptest::sample::select(vec![Cache::Writeback, Cache::Writethrough])
}
