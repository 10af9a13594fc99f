//! Disks that are joined from several files, as their driver sees them.

use std::fs::File;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

with_each_engine!(
    the_driver_is_told_that_it_can_only_read,
    reads_at_once_come_from_their_own_files,
    a_file_that_was_cut_is_an_io_error_and_the_others_are_read,
);

const PAGE: usize = 4096;

fn files(parts: &[Vec<u8>]) -> Vec<File> {
    let file = |bytes: &Vec<u8>| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    parts.iter().map(file).collect()
}

fn whole(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    for part in parts {
        whole.extend(part);
        whole.resize(whole.len().next_multiple_of(PAGE), 0);
    }
    whole
}

fn disk_of(files: Vec<File>, engine: Engine) -> Block {
    let options = config::Disk {
        engine,
        ..config::Disk::handed_over("joined".into(), true)
    };
    Block::new(Arc::new(Backend::handed_over(&options, files, 1).unwrap()))
}

fn some_parts() -> Vec<Vec<u8>> {
    let lengths = [5000, 3 * PAGE, 0, 700, 2 * PAGE + 1];
    let part = |(index, length): (usize, &usize)| vec![index as u8 + 1; *length];
    lengths.iter().enumerate().map(part).collect()
}

fn the_driver_is_told_that_it_can_only_read(engine: Engine) {
    let parts = some_parts();
    let block = disk_of(files(&parts), engine);
    assert_ne!(block.features() & 1 << VIRTIO_BLK_F_RO, 0);
    let mut driver = driver(block, FEATURES);
    let sectors = (whole(&parts).len() / 512) as u64;
    assert_eq!(driver.config(0, 8), sectors.to_le_bytes());
    // The size of a block.
    assert_eq!(driver.config(20, 4), 512_u32.to_le_bytes());
    assert_eq!(write(&mut driver, 0, &[7; 512]), IOERR);
    let range = [&0_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &[0; 4]].concat();
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(request(&mut driver, kind, 0, &range, 0).status, IOERR);
    }
    assert_eq!(flush(&mut driver), OK);
    assert_eq!(read(&mut driver, sectors, 512).status, IOERR);
    assert!(read(&mut driver, 0, whole(&parts).len()).data == whole(&parts));
}

/// One read of a page for each sector of the disk, all of them offered before the device is told.
fn reads_at_once_come_from_their_own_files(engine: Engine) {
    let parts = some_parts();
    let whole = whole(&parts);
    let mut driver = driver(disk_of(files(&parts), engine), FEATURES);
    let count = QUEUE / 3;
    let address = |number: u16| DATA + 0x2000 * u64::from(number);
    for number in 0..count {
        driver.put(&header(VIRTIO_BLK_T_IN, number.into()), address(number));
        let data = address(number) + 16;
        let head = 3 * number;
        driver.describe(DESCRIPTORS, head, (address(number), 16, NEXT, head + 1));
        driver.describe(DESCRIPTORS, head + 1, (data, PAGE as u32, WRITE | NEXT, head + 2));
        driver.describe(DESCRIPTORS, head + 2, (data + PAGE as u64, 1, WRITE, 0));
        driver.offer(head);
    }
    driver.notify();
    let mut used = 0;
    while used < count {
        driver.wait();
        while driver.take_used().is_some() {
            used += 1;
        }
    }
    for number in 0..count {
        let start = usize::from(number) * 512;
        let data = driver.bytes(address(number) + 16, PAGE + 1);
        assert_eq!(data[PAGE], OK, "sector {number}");
        assert!(data[..PAGE] == whole[start..start + PAGE], "sector {number}");
    }
}

fn a_file_that_was_cut_is_an_io_error_and_the_others_are_read(engine: Engine) {
    let parts = [vec![1; 2 * PAGE], vec![2; 2 * PAGE]];
    let files = files(&parts);
    let cut = files[0].try_clone().unwrap();
    let mut driver = driver(disk_of(files, engine), FEATURES);
    cut.set_len(PAGE as u64).unwrap();
    assert_eq!(read(&mut driver, 0, PAGE).data, vec![1; PAGE]);
    for (sector, length) in [(8, 512), (7, 1024), (8, 2 * PAGE)] {
        assert_eq!(read(&mut driver, sector, length).status, IOERR);
    }
    assert_eq!(read(&mut driver, 16, PAGE).data, vec![2; PAGE]);
}

fn any_parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![
        0..3 * PAGE,
        (0..3_usize, 0..3_usize).prop_map(|(pages, more)| pages * PAGE + more)
    ];
    let part = (length, any::<u8>())
        .prop_map(|(length, seed)| (0..length).map(|index| (index % 251) as u8 ^ seed).collect());
    prop::collection::vec(part, 0..7).prop_map(|mut parts: Vec<Vec<u8>>| {
        // A disk has at least a page.
        parts.push(vec![0x77; 100]);
        parts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_joined_disk_reads_as_its_files_one_behind_the_other(
        parts in any_parts(),
        reads in prop::collection::vec((0..200_u64, 0..24_usize, prop::collection::vec(0..8192_usize, 0..12)), 1..30),
        engine in any_engine(),
    ) {
        let whole = whole(&parts);
        let mut driver = driver(disk_of(files(&parts), engine), FEATURES);
        for (sector, sectors, cuts) in reads {
            let length = sectors * 512;
            let framing = Framing { readable: vec![], writable: cuts, indirect: true };
            let pending = offer(&mut driver, &header(VIRTIO_BLK_T_IN, sector), length + 1, &framing);
            let reply = finish(&mut driver, pending);
            let start = sector as usize * 512;
            match whole.get(start..start + length) {
                Some(bytes) => {
                    prop_assert_eq!((reply.status, reply.used as usize), (OK, length + 1));
                    prop_assert!(reply.data == bytes, "sector {sector}, {sectors} sectors");
                }
                None => prop_assert_eq!(reply.status, IOERR),
            }
        }
    }
}
