//! What a disk offers beyond reading and writing.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::config::Cache;
use crate::virtio::block::image::Raw;

with_each_engine!(
    the_configuration_says_what_the_disk_is,
    a_discarded_range_gives_its_space_back,
    zeroes_are_written_and_the_space_is_kept_unless_it_may_go,
    a_driver_that_cannot_flush_begins_with_writeback_off,
    a_disk_with_queues_serves_each,
);

fn the_configuration_says_what_the_disk_is(engine: Engine) {
    let file = image();
    let options = config::Disk {
        queues: Some(3),
        ..options(file.path(), engine)
    };
    let driver = Driver::new(Box::new(Block::open(&options, 1).unwrap()));
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 2);
    for feature in [
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_CONFIG_WCE,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
    ] {
        assert!(driver.features() & 1 << feature != 0, "feature {feature}");
    }
    let physical = file.as_file().metadata().unwrap().blksize().min(4096);
    let blocks = (physical / 512) as u8;
    let mut expected = Vec::new();
    expected.extend((SECTORS as u64).to_le_bytes());
    // size_max, seg_max, geometry, blk_size
    expected.extend([256 << 10, 254, 0, 512u32].map(u32::to_le_bytes).concat());
    expected.extend([blocks.ilog2() as u8, 0, blocks, 0, 0, 0, 0, 0]);
    // writeback, unused0, num_queues
    expected.extend([1, 0, 3, 0]);
    // max_discard_sectors and _seg, discard_sector_alignment; max_write_zeroes_sectors and _seg
    expected.extend(
        [1 << 22, 1, u32::from(blocks), 1 << 17, 1]
            .map(u32::to_le_bytes)
            .concat(),
    );
    // write_zeroes_may_unmap, unused1, and nothing behind the end
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.config(0, expected.len()), expected);
    driver.write_config(0, &[9; 64]);
    assert_eq!(driver.config(0, expected.len()), expected);
}

#[test]
fn a_read_only_disk_offers_nothing_that_writes() {
    let file = image();
    let options = config::Disk {
        ro: true,
        ..options(file.path(), Engine::Auto)
    };
    let driver = Driver::new(Box::new(Block::open(&options, 1).unwrap()));
    for feature in [
        VIRTIO_BLK_F_CONFIG_WCE,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
        VIRTIO_BLK_F_MQ,
    ] {
        assert_eq!(driver.features() & 1 << feature, 0, "feature {feature}");
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// A MiB of ones as a disk.
fn full(engine: Engine) -> (Driver, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![1; 1 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    (driver(open(file.path(), engine), FEATURES), file)
}

/// Bytes that the file takes up.
fn taken(file: &NamedTempFile) -> u64 {
    file.as_file().metadata().unwrap().blocks() * 512
}

fn a_discarded_range_gives_its_space_back(engine: Engine) {
    let (mut driver, file) = full(engine);
    let before = taken(&file);
    let reply = request(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &range(1024, 1024, 0), 0);
    assert_eq!(reply.status, OK);
    assert_eq!(before - taken(&file), 512 << 10);
    let now = contents(&file);
    assert_eq!(now.len(), 1 << 20);
    assert!(now[..512 << 10].iter().all(|byte| *byte == 1));
    for (range, status) in [
        (range(0, 8, 1), UNSUPP),
        (range(2048, 1, 0), IOERR),
        (range(u64::MAX, 1, 0), IOERR),
        (range(0, 0, 0), OK),
        (range(0, 8, 0)[..15].to_vec(), IOERR),
        ([range(0, 8, 0), range(8, 8, 0)].concat(), IOERR),
        (vec![], IOERR),
    ] {
        let reply = request(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &range, 0);
        assert_eq!(reply.status, status, "{range:?}");
    }
    assert_eq!(contents(&file), now);
}

fn zeroes_are_written_and_the_space_is_kept_unless_it_may_go(engine: Engine) {
    for (flags, freed) in [(0, 0), (1, 64 << 10)] {
        let (mut driver, file) = full(engine);
        let before = taken(&file);
        let reply = request(
            &mut driver,
            VIRTIO_BLK_T_WRITE_ZEROES,
            0,
            &range(128, 128, flags),
            0,
        );
        assert_eq!(reply.status, OK);
        let mut expected = vec![1; 1 << 20];
        expected[64 << 10..128 << 10].fill(0);
        assert!(contents(&file) == expected);
        assert_eq!(before - taken(&file), freed, "flags {flags}");
    }
}

#[test]
fn zeroes_that_the_file_system_cannot_make_are_written() {
    let (_, file) = full(Engine::Sync);
    let raw = Raw::new(file.reopen().unwrap(), None, false);
    raw.write_zero_bytes(100, 700_001).unwrap();
    let mut expected = vec![1; 1 << 20];
    expected[100..700_101].fill(0);
    assert!(contents(&file) == expected);
}

fn a_driver_that_cannot_flush_begins_with_writeback_off(engine: Engine) {
    let file = image();
    let mut driver = Driver::new(Box::new(open(file.path(), engine)));
    let wce = 1 << VIRTIO_BLK_F_CONFIG_WCE;
    assert!(driver.negotiate(VERSION_1 | wce));
    assert_eq!(driver.config(configuration::WRITEBACK, 1), [0]);
    driver.reset();
    assert!(driver.negotiate(FEATURES | wce));
    assert_eq!(driver.config(configuration::WRITEBACK, 1), [1]);
    driver.write_config(configuration::WRITEBACK, &[0]);
    assert_eq!(driver.config(configuration::WRITEBACK, 1), [0]);
    driver.reset();
    assert_eq!(driver.config(configuration::WRITEBACK, 1), [1]);
    // What was not agreed on is not there to be written.
    assert!(driver.negotiate(FEATURES));
    driver.write_config(configuration::WRITEBACK, &[0]);
    assert_eq!(driver.config(configuration::WRITEBACK, 1), [1]);
}

#[test]
fn writes_are_durable_for_as_long_as_the_person_or_the_driver_says() {
    let file = image();
    let block = |cache| {
        let options = config::Disk {
            cache,
            ..options(file.path(), Engine::Sync)
        };
        let mut block = Block::open(&options, 1).unwrap();
        block.features_accepted(FEATURES | 1 << VIRTIO_BLK_F_CONFIG_WCE);
        block
    };
    let mut sometimes = block(Cache::Writeback);
    assert!(!sometimes.disk().writes_through());
    sometimes.write_config(configuration::WRITEBACK, &[0]);
    assert!(sometimes.disk().writes_through());
    sometimes.write_config(configuration::WRITEBACK, &[1]);
    assert!(!sometimes.disk().writes_through());
    drop(sometimes);
    let mut always = block(Cache::Writethrough);
    always.write_config(configuration::WRITEBACK, &[1]);
    assert!(always.disk().writes_through());
}

#[test]
fn a_disk_has_a_queue_for_each_vcpu_up_to_a_limit_or_as_many_as_asked_for() {
    let file = image();
    for (cpus, asked, queues) in [
        (1, None, 1),
        (3, None, 3),
        (32, None, 4),
        (1, Some(8), 8),
        (4, Some(1), 1),
    ] {
        let options = config::Disk {
            queues: asked,
            ..options(file.path(), Engine::Auto)
        };
        assert_eq!(Disk::open(&options, cpus).unwrap().queues, queues);
    }
}

fn a_disk_with_queues_serves_each(engine: Engine) {
    let file = image();
    let options = config::Disk {
        queues: Some(2),
        ..options(file.path(), engine)
    };
    let mut driver = Driver::new(Box::new(Block::open(&options, 1).unwrap()));
    assert!(driver.negotiate(FEATURES | 1 << VIRTIO_BLK_F_MQ));
    driver.set_up_queue(QUEUE);
    // The other queue has its rings behind those of the first, and one flush waiting in it.
    let rings = [0x4000, 0x5000, 0x6000];
    driver.describe_queue(1, QUEUE.into(), rings);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
    driver.put(&header(VIRTIO_BLK_T_FLUSH, 0), DATA + 0x4000);
    driver.describe(rings[0], 0, (DATA + 0x4000, 16, NEXT, 1));
    driver.describe(rings[0], 1, (DATA + 0x4010, 1, WRITE, 0));
    driver.put(&[0, 0, 1, 0, 0, 0], rings[1]);
    driver.put(&[NOT_WRITTEN], DATA + 0x4010);
    driver.driver_ok();
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    driver.wait();
    assert_eq!(driver.bytes(DATA + 0x4010, 1), [OK]);
    assert_eq!(driver.bytes(rings[2] + 2, 2), [1, 0]);
    assert_eq!(read(&mut driver, 3, 512).data, pattern()[3 * 512..4 * 512]);
    driver.reset();
    // A driver may leave queues alone.
    driver.start(FEATURES, QUEUE);
    assert_eq!(read(&mut driver, 0, 512).status, OK);
}
