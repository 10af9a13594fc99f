//! An ephemeral disk over a qcow2 file that anybody made: refused in words, or used. No file changes, and each sector is
//! what the guest made of it or what the image has.
//!
//! An input is steps and the file, as for the target `qcow2`.
#![no_main]

mod image_place;

use std::collections::HashMap;
use std::fs;
use std::sync::LazyLock;

use coracle::config::{Backing, Disk, Engine, Format};
use coracle::virtio::VirtioDevice;
use coracle::virtio::block::Block;
use coracle_fuzz::Guest;
use image_place::Place;
use libfuzzer_sys::fuzz_target;
use virtio_bindings::virtio_blk::*;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

const STEP: usize = 4;
const STEPS: usize = 16;
const SECTOR: usize = 512;
/// Of a request.
const SECTORS_MAX: u64 = 24;
const QUEUE_SIZE: u16 = 8;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x4800;
const DATA: u64 = 0x5000;
const MEMORY_SIZE: usize = 0x1_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

static PLACE: LazyLock<Place> = LazyLock::new(Place::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, MEMORY_SIZE)]));

fn open(ephemeral: bool) -> Option<Block> {
    let options = Disk {
        ro: !ephemeral,
        ephemeral,
        format: Some(Format::Qcow2),
        engine: Engine::Sync,
        backing: Backing::Named(vec![PLACE.base.clone()]),
        ..Disk::new(PLACE.image.clone())
    };
    let block = Block::open(&options, 1);
    block
        .inspect_err(|error| assert!(error.to_string().ends_with(')'), "no next step: {error}"))
        .ok()
}

/// Has `block` carry out a request. Its data is at `DATA`. Says whether that succeeded.
fn request(block: &Block, kind: u32, sector: u64, length: usize) -> bool {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    let put = |bytes: &[u8], address| {
        let written = GUEST.memory.write_slice(bytes, GuestAddress(address));
        written.expect("the address is in guest memory");
    };
    let direction = if kind == VIRTIO_BLK_T_IN { WRITE } else { 0 };
    let descriptors = [
        (HEADER, header.len(), NEXT),
        (DATA, length, NEXT | direction),
        (STATUS, 1, WRITE),
    ];
    put(&header, HEADER);
    put(&[0xff], STATUS);
    for (index, (address, length, flags)) in descriptors.into_iter().enumerate() {
        let raw = [
            &address.to_le_bytes()[..],
            &(length as u32).to_le_bytes(),
            &flags.to_le_bytes(),
            &(index as u16 + 1).to_le_bytes(),
        ];
        put(&raw.concat(), DESCRIPTORS + 16 * index as u64);
    }
    put(&[0, 0, 1, 0, 0, 0], AVAILABLE);
    put(&[0; 4], USED);
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
    GUEST.bytes(STATUS, 1) == [VIRTIO_BLK_S_OK as u8]
}

fn read(block: &Block, sector: u64) -> Option<Vec<u8>> {
    request(block, VIRTIO_BLK_T_IN, sector, SECTOR).then(|| GUEST.bytes(DATA, SECTOR))
}

/// What the guest made of sectors: nothing where the specification leaves it open.
type Model = HashMap<u64, Option<Vec<u8>>>;

fn take(disk: &Block, size: u64, step: &[u8; STEP], model: &mut Model) {
    let [kind, place, length, data] = step.map(u64::from);
    // From both ends of the disk.
    let sector = match place & 1 {
        0 => (place >> 1).min(size - 1),
        _ => size.saturating_sub(1 + (place >> 1)),
    };
    let sectors = (length % SECTORS_MAX).min(size - sector).max(1);
    let all = sector..sector + sectors;
    let bytes = vec![data as u8; sectors as usize * SECTOR];
    let range = [&sector.to_le_bytes()[..], &(sectors as u32).to_le_bytes(), &[0; 4]].concat();
    let (kind, payload, made) = match kind % 8 {
        0 | 1 => return,
        2..5 => (VIRTIO_BLK_T_OUT, &bytes, Some(bytes[..SECTOR].to_vec())),
        5 => (VIRTIO_BLK_T_WRITE_ZEROES, &range, Some(vec![0; SECTOR])),
        6 => (VIRTIO_BLK_T_DISCARD, &range, None),
        _ => {
            // What an ephemeral disk keeps needs no flush.
            assert!(request(disk, VIRTIO_BLK_T_FLUSH, 0, 0));
            return;
        }
    };
    let written = GUEST.memory.write_slice(payload, GuestAddress(DATA));
    written.expect("the data fits guest memory");
    // A block of which only a part is written is copied first, which fails where the image does.
    let succeeded = request(disk, kind, sector, payload.len());
    model.extend(all.map(|sector| (sector, made.clone().filter(|_| succeeded))));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((steps, file)) = bytes.split_at_checked(STEP * STEPS) else {
        return;
    };
    fs::write(&PLACE.image, file).expect("a file in memory is written");
    let (Some(disk), Some(image)) = (open(true), open(false)) else { return };
    GUEST.discard();
    let mut capacity = [0; 8];
    disk.read_config(0, &mut capacity);
    let size = u64::from_le_bytes(capacity);
    let mut model = Model::default();
    for step in steps.as_chunks::<STEP>().0 {
        take(&disk, size, step, &mut model);
    }
    for sector in (0..size.min(160)).chain(size.saturating_sub(160)..size) {
        let now = read(&disk, sector);
        match model.get(&sector) {
            Some(Some(made)) => assert!(now.as_ref() == Some(made), "sector {sector} is not what was written"),
            Some(None) => {}
            None => assert!(now == read(&image, sector), "sector {sector} is not the image's"),
        }
    }
    drop((disk, image));
    PLACE.assert_base_is_as_it_was();
    assert!(
        fs::read(&PLACE.image).expect("the image is there") == file,
        "the image under an ephemeral disk was written"
    );
});
