//! A disk's driver that writes anything to registers, rings and descriptors: neither the process nor the image
//! may suffer, and a reset brings the disk back.
#![no_main]

use std::sync::LazyLock;

use coracle::config::{Cache, Disk, Engine};
use coracle::virtio::block::Block;
use coracle_fuzz::MemoryFile;
use coracle_fuzz::hostile_driver::{DISK_SECTORS, Driver, MOST_QUEUES, Step};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const SECTOR: usize = 512;
const DIRECT_SECTORS: usize = 24;
/// Bytes in the file behind the image, which do not belong to the disk.
const BEYOND: [u8; SECTOR] = [0x99; SECTOR];

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);

#[derive(Arbitrary, Debug)]
struct Input {
    access: u8,
    uring: bool,
    direct: bool,
    queues: u8,
    /// Feature bits, of which only those count that the device offers.
    features: u64,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    // Past the page cache an image has whole pages.
    let sectors = if input.direct {
        DIRECT_SECTORS
    } else {
        DISK_SECTORS as usize
    };
    let before: Vec<u8> = (0..sectors * SECTOR)
        .map(|offset| (offset / SECTOR * 16 + offset % 7) as u8)
        .collect();
    FILE.replace(&before);
    let (ro, ephemeral) = (input.access % 3 == 1, input.access % 3 == 2);
    let options = Disk {
        ro,
        ephemeral,
        engine: if input.uring { Engine::Uring } else { Engine::Sync },
        cache: if input.direct {
            Cache::Direct
        } else {
            Cache::Writeback
        },
        queues: Some(u16::from(input.queues % MOST_QUEUES) + 1),
        ..Disk::new(FILE.path())
    };
    let block = Block::open(&options, 1).expect("the image is whole");
    FILE.write_at(&BEYOND, before.len() as u64);

    let driver = Driver::new(Box::new(block));
    driver.start_in_order(input.features);
    for step in &input.steps {
        driver.take(step);
    }
    // A device that is read past the page cache may have blocks of a page.
    let length = if input.direct { 4096 } else { SECTOR };
    let first = driver.read_after_a_reset(length as u32);
    driver.stop();

    let after = FILE.contents();
    let (disk, beyond) = after.split_at(before.len());
    assert!(*beyond == BEYOND, "the file changed behind the image");
    assert!(
        !(ro || ephemeral) || disk == before,
        "an image that is only read was written"
    );
    assert!(
        first.status == 0 && (ephemeral || first.data == disk[..length]),
        "the disk does not read what is in its image"
    );
});
