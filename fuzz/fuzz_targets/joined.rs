//! A disk's driver that writes anything to registers, rings and descriptors, where the disk is joined from files of any length: a
//! reset brings the disk back, which reads as its files one behind the other, and no file changes.
#![no_main]

use std::sync::{Arc, LazyLock};

use coracle::config::{Disk, Engine};
use coracle::virtio::block::{Backend, Block};
use coracle_fuzz::MemoryFile;
use coracle_fuzz::hostile_driver::{Driver, MOST_QUEUES, Step};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const PAGE: usize = 4096;
const MOST_FILES: usize = 6;
/// Of one file, in bytes.
const LONGEST: usize = 3 * PAGE;
/// What the driver's buffer has room for.
const READ: usize = 8 * PAGE;

static FILES: LazyLock<[MemoryFile; MOST_FILES]> = LazyLock::new(Default::default);

#[derive(Arbitrary, Debug)]
struct Input {
    uring: bool,
    queues: u8,
    /// Feature bits, of which only those count that the device offers.
    features: u64,
    lengths: [u16; MOST_FILES],
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let files: Vec<_> = FILES.iter().zip(&input.lengths).enumerate().collect();
    let contents: Vec<Vec<u8>> = files
        .iter()
        .map(|(index, (_, length))| {
            let bytes = 0..usize::from(**length) % (LONGEST + 1);
            bytes.map(|offset| (index * 41 + offset % 251) as u8).collect()
        })
        .collect();
    let mut disk = Vec::new();
    for ((_, (file, _)), bytes) in files.iter().zip(&contents) {
        file.replace(bytes);
        disk.extend(bytes);
        disk.resize(disk.len().next_multiple_of(PAGE), 0);
    }
    let options = Disk {
        engine: if input.uring { Engine::Uring } else { Engine::Sync },
        queues: Some(u16::from(input.queues % MOST_QUEUES) + 1),
        ..Disk::handed_over("joined".into(), true)
    };
    let opened = files.iter().map(|(_, (file, _))| file.file().try_clone());
    let opened = opened.collect::<Result<_, _>>().expect("there are descriptors");
    let backend = match Backend::handed_over(&options, opened, 1) {
        Ok(backend) => backend,
        Err(error) => return assert!(disk.is_empty(), "{error}"),
    };

    let driver = Driver::new(Box::new(Block::new(Arc::new(backend))));
    driver.start_in_order(input.features);
    for step in &input.steps {
        driver.take(step);
    }
    let length = disk.len().min(READ);
    let first = driver.read_after_a_reset(length as u32);
    driver.stop();

    assert!(
        first.status == 0 && first.data == disk[..length],
        "the disk does not read as its files"
    );
    for ((_, (file, _)), bytes) in files.iter().zip(&contents) {
        assert!(file.contents() == *bytes, "a file that is only read was written");
    }
});
