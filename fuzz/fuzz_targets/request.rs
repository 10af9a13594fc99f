//! One request of any bytes, cut into any descriptors, compared with what section 5.2.6 requires.
#![no_main]

use std::sync::LazyLock;

use coracle::config::{Disk, Engine};
use coracle::virtio::block::Block;
use coracle_fuzz::hostile_driver::Kind;
use coracle_fuzz::{Guest, MemoryFile};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use virtio_bindings::virtio_blk::*;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

const SECTOR: usize = 512;
const SECTORS: usize = 16;
const QUEUE_SIZE: u16 = 64;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x4000;
const MEMORY_SIZE: usize = 0x2_0000;
/// The byte of all buffers before the request.
const NOT_WRITTEN: u8 = 0xdd;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, MEMORY_SIZE)]));

#[derive(Arbitrary, Debug)]
struct Input {
    kind: Kind,
    sector: u8,
    /// Sectors of data, or in a range.
    sectors: u8,
    flags: u8,
    /// Bytes that are added to the data, or taken off it.
    odd: i8,
    /// Lengths of descriptors.
    readable_cuts: Vec<u8>,
    writable_cuts: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let mut disk: Vec<u8> = (0..SECTORS * SECTOR)
        .map(|offset| (offset / SECTOR * 16 + offset % 7) as u8)
        .collect();
    FILE.replace(&disk);
    let options = Disk {
        engine: Engine::Sync,
        id: Some("fuzz".into()),
        ..Disk::new(FILE.path())
    };
    let block = Block::open(&options, 1).expect("the image is whole");
    GUEST.discard();

    let kind = u32::from(input.kind);
    let (sector, sectors) = (usize::from(input.sector % 20), usize::from(input.sectors % 20));
    let length = (sectors * SECTOR).saturating_add_signed(input.odd.into());
    let header = [&kind.to_le_bytes()[..], &[0; 4], &(sector as u64).to_le_bytes()].concat();
    let (data_out, data_in) = match kind {
        VIRTIO_BLK_T_OUT => (vec![0xee; length], 0),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            let flags = u32::from(input.flags);
            let range = [
                &(sector as u64).to_le_bytes()[..],
                &(sectors as u32).to_le_bytes(),
                &flags.to_le_bytes(),
            ];
            let mut range = range.concat();
            range.resize(16usize.saturating_add_signed(input.odd.into()), 0);
            (range, 0)
        }
        _ => (vec![], length),
    };
    let readable = [header, data_out.clone()].concat();
    let Some(places) = lay_out(&readable, data_in + 1, &input) else {
        return;
    };
    let state = QueueState {
        max_size: QUEUE_SIZE,
        size: QUEUE_SIZE,
        ready: true,
        desc_table: DESCRIPTORS,
        avail_ring: AVAILABLE,
        used_ring: USED,
        ..Default::default()
    };
    let queue = Queue::try_from(state).expect("a queue as a driver makes it");
    assert!(block.serve_once(queue, &GUEST.memory), "a whole chain broke the queue");

    let mut written: Vec<u8> = places
        .iter()
        .flat_map(|&(address, length)| GUEST.bytes(address, length))
        .collect();
    let status = written.pop().expect("a status");
    let start = sector * SECTOR;
    let expected = match kind {
        VIRTIO_BLK_T_IN => match disk.get(start..start + length) {
            Some(bytes) if length % SECTOR == 0 => (VIRTIO_BLK_S_OK, bytes.to_vec()),
            _ => (VIRTIO_BLK_S_IOERR, vec![NOT_WRITTEN; data_in]),
        },
        VIRTIO_BLK_T_OUT => match disk.get_mut(start..start + length) {
            Some(bytes) if length % SECTOR == 0 => {
                bytes.copy_from_slice(&data_out);
                (VIRTIO_BLK_S_OK, vec![])
            }
            _ => (VIRTIO_BLK_S_IOERR, vec![]),
        },
        VIRTIO_BLK_T_FLUSH => (VIRTIO_BLK_S_OK, vec![NOT_WRITTEN; data_in]),
        VIRTIO_BLK_T_GET_ID => {
            let mut bytes = vec![NOT_WRITTEN; data_in];
            let id = [&b"fuzz"[..], &[0; 16]].concat();
            let count = id.len().min(data_in);
            bytes[..count].copy_from_slice(&id[..count]);
            (VIRTIO_BLK_S_OK, bytes)
        }
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            let flags = if kind == VIRTIO_BLK_T_DISCARD { 0 } else { 1 };
            match disk.get_mut(start..start + sectors * SECTOR) {
                _ if data_out.len() != 16 => (VIRTIO_BLK_S_IOERR, vec![]),
                _ if input.flags > flags => (VIRTIO_BLK_S_UNSUPP, vec![]),
                Some(bytes) => {
                    bytes.fill(0);
                    (VIRTIO_BLK_S_OK, vec![])
                }
                None => (VIRTIO_BLK_S_IOERR, vec![]),
            }
        }
        _ => (VIRTIO_BLK_S_UNSUPP, vec![NOT_WRITTEN; data_in]),
    };
    assert_eq!((status, written), (expected.0 as u8, expected.1));
    assert!(FILE.contents() == disk, "the image is not what the requests made of it");
});

/// Writes the request into guest memory and offers it. Returns the writable pieces, or nothing if it does not fit.
fn lay_out(readable: &[u8], writable: usize, input: &Input) -> Option<Vec<(u64, usize)>> {
    let mut address = BUFFERS;
    let mut descriptors = Vec::new();
    let put = |bytes: &[u8], address: u64| GUEST.memory.write_slice(bytes, GuestAddress(address)).ok();
    for piece in pieces(readable.len(), &input.readable_cuts) {
        put(&readable[piece.clone()], address)?;
        descriptors.push((address, piece.len(), 0u16));
        address += piece.len() as u64 + 1;
    }
    let mut places = Vec::new();
    for piece in pieces(writable, &input.writable_cuts) {
        put(&vec![NOT_WRITTEN; piece.len()], address)?;
        descriptors.push((address, piece.len(), 2));
        places.push((address, piece.len()));
        address += piece.len() as u64 + 1;
    }
    let last = descriptors.len() - 1;
    if last >= usize::from(QUEUE_SIZE) {
        return None;
    }
    for (index, (address, length, flags)) in descriptors.into_iter().enumerate() {
        let flags = if index == last { flags } else { flags | 1 };
        let raw = [
            &address.to_le_bytes()[..],
            &(length as u32).to_le_bytes(),
            &flags.to_le_bytes(),
            &(index as u16 + 1).to_le_bytes(),
        ];
        put(&raw.concat(), DESCRIPTORS + 16 * index as u64)?;
    }
    put(&[0, 0, 1, 0, 0, 0], AVAILABLE)?;
    Some(places)
}

/// `length` bytes cut into as many pieces as there are cuts, and one.
fn pieces(length: usize, cuts: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    let mut pieces: Vec<_> = cuts
        .iter()
        .map(|cut| {
            let end = (start + usize::from(*cut)).min(length);
            let piece = start..end;
            start = end;
            piece
        })
        .collect();
    pieces.push(start..length);
    pieces
}
